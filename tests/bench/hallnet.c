/* Links in memory: a letter is a copy in an inbox; a call is a pair of ends that know each other by number,
 * so that none is used when it is over. Who is not known yet at the other end dials again, as peers do. */
#include "halls.h"

#include <stdio.h>
#include <string.h>

#define REDIAL_USEC (100 * USEC_PER_MSEC)
#define FULL_BYTES  (1024 * 1024)
#define QUEUE_BYTES (FULL_BYTES + 2 * LIMIT_LETTER_BYTES)

/* ---- The inbox ---- */

typedef enum MessageKind {
        MESSAGE_LETTER,
        MESSAGE_UP,
        MESSAGE_DOWN,
        MESSAGE_CALLED,
        MESSAGE_ANSWER,
        MESSAGE_END,
        MESSAGE_WRITABLE,
} MessageKind;

struct HallMessage {
        HallMessage *next;
        MessageKind kind;
        uint64_t from;   /* host */
        uint64_t number; /* of the connection, or the call */
        int why;         /* DOWN, END */
        size_t size;
        uint8_t data[];
};

static void post(Hall *to, MessageKind kind, uint64_t from, uint64_t number, int why, Bytes bytes) {
        HallMessage *message = malloc(sizeof(HallMessage) + bytes.size);
        if (!message)
                halls_die("a message", -ENOMEM);
        *message =
                (HallMessage){.kind = kind, .from = from, .number = number, .why = why, .size = bytes.size};
        if (bytes.size > 0)
                memcpy(message->data, bytes.data, bytes.size);
        *(to->inbox ? &to->inbox_tail->next : &to->inbox) = message;
        to->inbox_tail = message;
        hall_make_ready(to);
}

/* ---- Links ---- */

struct HallLink {
        uint64_t peer; /* key */
        Hall *hall;    /* there */
        uint64_t number, far_number;
        uint64_t epoch;
        UT_hash_handle hh;
};

static uint64_t n_numbers;

static HallLink *link_of(Hall *hall, uint64_t peer) {
        HallLink *link = NULL;
        HASH_FIND(hh, hall->links, &peer, sizeof(peer), link);
        return link;
}

static void link_half(Hall *hall, Hall *peer, uint64_t number, uint64_t far_number) {
        HallLink *link = calloc(1, sizeof(HallLink));
        if (!link)
                halls_die("a link", -ENOMEM);
        *link = (HallLink){.peer = peer->id, .hall = peer, .number = number, .far_number = far_number};
        link->epoch = hall->epoch;
        HASH_ADD(hh, hall->links, peer, sizeof(link->peer), link);
        post(hall, MESSAGE_UP, peer->id, number, 0, BYTES(NULL, 0));
}

static void dial_again(Hall *hall) {
        if (hall->dial_usec == USEC_INFINITY)
                hall_dial_at(hall, halls_now() + REDIAL_USEC);
}

static void unlink_half(Hall *hall, HallLink *link, PeersDown why) {
        if (!link)
                return;
        post(hall, MESSAGE_DOWN, link->peer, link->number, (int)why, BYTES(NULL, 0));
        HASH_DEL(hall->links, link);
        free(link);
        dial_again(hall);
}

static void unlink_pair(Hall *hall, HallLink *link, PeersDown why) {
        Hall *peer = link->hall;
        HallLink *far = NULL, *next;
        /* By number: the host's id may be another since. */
        for (far = peer->links; far; far = next) {
                next = far->hh.next;
                if (far->number == link->far_number)
                        break;
        }
        unlink_half(hall, link, why);
        unlink_half(peer, far, why);
}

static bool knows(const Hall *hall, const Hall *peer) {
        uint64_t id;
        return agent_judge(hall->agent, peer->key, &id) == PEERS_MEMBER && id == peer->id;
}

static bool dial(Hall *hall, uint64_t id) {
        Hall *peer = hall_of(id);
        if (!peer || peer == hall || link_of(hall, id))
                return true;
        if (!peer->agent || (!peer->listening && !hall->listening) || !knows(hall, peer) ||
            !knows(peer, hall))
                return false;
        uint64_t number = ++n_numbers, far_number = ++n_numbers;
        link_half(hall, peer, number, far_number);
        link_half(peer, hall, far_number, number);
        return true;
}

void hall_dial(Hall *hall) {
        bool all = true;
        for (size_t i = 0; i < hall->n_wanted; i++)
                all = dial(hall, hall->wanted[i]) && all;
        if (!all)
                dial_again(hall);
}

static int out_set_targets(void *userdata, const PeersTarget *targets, size_t n) {
        Hall *hall = userdata;
        HallLink *link, *next;

        hall->epoch++;
        hall->n_wanted = 0;
        free(hall->wanted);
        hall->wanted = malloc(MAX(n, (size_t)1) * sizeof(uint64_t));
        if (!hall->wanted)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                if (!targets[i].control)
                        continue;
                hall->wanted[hall->n_wanted++] = targets[i].host;
                link = link_of(hall, targets[i].host);
                if (link)
                        link->epoch = hall->epoch;
        }
        HASH_ITER (hh, hall->links, link, next)
                if (link->epoch != hall->epoch)
                        unlink_pair(hall, link, PEERS_DOWN_REFUSED);
        hall_dial(hall);
        return 0;
}

static int out_listen(void *userdata) {
        ((Hall *)userdata)->listening = true;
        return 0;
}

static int out_send(void *userdata, uint64_t id, Bytes letter) {
        Hall *hall = userdata;
        HallLink *link = link_of(hall, id);
        if (!link)
                return -ENOTCONN;
        post(link->hall, MESSAGE_LETTER, hall->id, link->far_number, 0, letter);
        return 0;
}

static bool out_connected(void *userdata, uint64_t id) {
        return link_of(userdata, id);
}

static void out_disconnect(void *userdata, uint64_t id) {
        HallLink *link = link_of(userdata, id);
        if (link)
                unlink_pair(userdata, link, PEERS_DOWN_RESET);
}

/* ---- Calls ---- */

struct PeersCall {
        uint64_t id; /* key */
        Hall *host;
        uint64_t other; /* the other end's id; 0: gone */
        bool asking;
        char method[16];
        PeersCallEvents events;
        size_t queued; /* answering: not taken by the other yet */
        bool full;
        UT_hash_handle hh;
};

static PeersCall *calls;

static PeersCall *call_of(uint64_t id) {
        PeersCall *call = NULL;
        HASH_FIND(hh, calls, &id, sizeof(id), call);
        return call;
}

static PeersCall *call_new(Hall *host, bool asking, const char *method) {
        PeersCall *call = calloc(1, sizeof(PeersCall));
        if (!call)
                halls_die("a call", -ENOMEM);
        call->id = ++n_numbers;
        call->host = host;
        call->asking = asking;
        snprintf(call->method, sizeof(call->method), "%s", method);
        HASH_ADD(hh, calls, id, sizeof(call->id), call);
        return call;
}

static void call_destroy(PeersCall *call) {
        HASH_DEL(calls, call);
        free(call);
}

static void call_ends(PeersCall *call, PeersStatus status, const char *text) {
        PeersCallEvents events = call->events;
        if (!call->asking && !events.end) { /* the hall knows it still, and will end it */
                call->other = 0;
                return;
        }
        if (events.end)
                events.end(call, status, text, events.userdata);
        call_destroy(call);
}

/* No deadlines: everybody answers here. */
static int call_begin(Hall *host, Hall *far, const char *method, Bytes request,
                      const PeersCallEvents *events, PeersCall **ret) {
        if (!far || !far->agent)
                return -ENOENT;
        PeersCall *call = call_new(host, true, method);
        call->events = *events;
        post(far, MESSAGE_CALLED, host->id, call->id, 0, request);
        *ret = call;
        return 0;
}

static int out_call(void *userdata, uint64_t id, const char *method, Bytes request, uint64_t timeout_usec,
                    const PeersCallEvents *events, PeersCall **ret) {
        return call_begin(userdata, hall_of(id), method, request, events, ret);
}

static int out_call_address(void *userdata, const char *address, const uint8_t (*keys)[KEY_HASH_BYTES],
                            size_t n_keys, const char *method, Bytes request, uint64_t timeout_usec,
                            const PeersCallEvents *events, PeersCall **ret) {
        unsigned i = 0;
        if (sscanf(address, "h%u:", &i) != 1 || i < 1 || i > halls.n)
                return -ENOENT;
        return call_begin(userdata, halls.list[i - 1], method, request, events, ret);
}

static void called(Hall *hall, HallMessage *message) {
        PeersCall *call = call_of(message->number);
        uint64_t who = 0;
        if (!call)
                return;
        PeersVerdict verdict = agent_judge(hall->agent, call->host->key, &who);
        if (verdict != PEERS_MEMBER)
                who = 0;
        if (verdict == PEERS_REMOVED || (who == 0 && strcmp(call->method, CALL_JOIN) != 0)) {
                post(call->host, MESSAGE_END, hall->id, call->id, PEERS_DENIED, BYTES(NULL, 0));
                return;
        }
        PeersCall *answering = call_new(hall, false, call->method);
        answering->other = call->id;
        call->other = answering->id;
        agent_called(hall->agent, answering, who, call->host->key, call->method,
                     BYTES(message->data, message->size));
}

static void answered(HallMessage *message) {
        PeersCall *call = call_of(message->number);
        if (!call)
                return;
        PeersCall *answering = call->other ? call_of(call->other) : NULL;
        if (answering) {
                answering->queued -= message->size;
                if (answering->full && answering->queued < FULL_BYTES / 2) {
                        answering->full = false;
                        post(answering->host, MESSAGE_WRITABLE, 0, answering->id, 0, BYTES(NULL, 0));
                }
        }
        if (call->events.message)
                call->events.message(call, BYTES(message->data, message->size), call->events.userdata);
}

static void out_call_set_events(void *userdata, PeersCall *call, const PeersCallEvents *events) {
        call->events = events ? *events : (PeersCallEvents){};
}

static int out_call_send(void *userdata, PeersCall *answering, Bytes bytes) {
        PeersCall *call = answering->other ? call_of(answering->other) : NULL;
        if (!call)
                return -ENOTCONN;
        if (answering->queued + bytes.size > QUEUE_BYTES)
                return -ENOBUFS;
        answering->queued += bytes.size;
        post(call->host, MESSAGE_ANSWER, 0, call->id, 0, bytes);
        answering->full = answering->queued > FULL_BYTES;
        return answering->full;
}

static void out_call_end(void *userdata, PeersCall *answering, PeersStatus status, const char *text) {
        PeersCall *call = answering->other ? call_of(answering->other) : NULL;
        if (call) {
                call->other = 0;
                post(call->host, MESSAGE_END, 0, call->id, (int)status,
                     BYTES(text, text ? strlen(text) + 1 : 0));
        }
        call_destroy(answering);
}

static void out_call_free(void *userdata, PeersCall *call) {
        if (!call)
                return;
        PeersCall *other = call->other ? call_of(call->other) : NULL;
        if (other) {
                other->other = 0;
                post(other->host, MESSAGE_END, 0, other->id, PEERS_CANCELLED, BYTES(NULL, 0));
        }
        call_destroy(call);
}

static void nothing(void *userdata) {
}

/* ---- Delivery ---- */

static void deliver(Hall *hall, HallMessage *message) {
        HallLink *link;
        PeersCall *call;

        switch (message->kind) {
        case MESSAGE_LETTER:
                link = link_of(hall, message->from);
                if (link && link->number == message->number)
                        agent_letter(hall->agent, message->from, message->number,
                                     BYTES(message->data, message->size));
                break;
        case MESSAGE_UP:
                agent_up(hall->agent, message->from, message->number);
                break;
        case MESSAGE_DOWN:
                agent_down(hall->agent, message->from, message->number, (PeersDown)message->why);
                break;
        case MESSAGE_CALLED:
                called(hall, message);
                break;
        case MESSAGE_ANSWER:
                answered(message);
                break;
        case MESSAGE_END:
                call = call_of(message->number);
                if (call)
                        call_ends(call, (PeersStatus)message->why,
                                  message->size > 0 ? (const char *)message->data : "");
                break;
        case MESSAGE_WRITABLE:
                call = call_of(message->number);
                if (call && call->events.writable)
                        call->events.writable(call, call->events.userdata);
                break;
        }
}

void hall_open_inbox(Hall *hall) {
        for (HallMessage *message; (message = hall->inbox);) {
                hall->inbox = message->next;
                deliver(hall, message);
                free(message);
        }
}

void hall_net_table(Outside *outside) {
        outside->listen = out_listen;
        outside->set_targets = out_set_targets;
        outside->send = out_send;
        outside->connected = out_connected;
        outside->disconnect = out_disconnect;
        outside->call = out_call;
        outside->call_address = out_call_address;
        outside->call_set_events = out_call_set_events;
        outside->call_send = out_call_send;
        outside->call_end = out_call_end;
        outside->call_free = out_call_free;
        outside->flush = nothing;
}
