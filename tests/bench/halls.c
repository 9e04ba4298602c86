/* One loop for all: inboxes, who is due when, whose disk has work. A letter is a copy in an inbox; a call is
 * a pair of ends that know each other by number, so that none can be used when it is over. */
#include "halls.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define QUIET_USEC  (100 * USEC_PER_MSEC)
#define REDIAL_USEC (100 * USEC_PER_MSEC)
#define LOOK_USEC   (5 * USEC_PER_MSEC)
#define FULL_BYTES  (1024 * 1024)
#define QUEUE_BYTES (FULL_BYTES + 2 * LIMIT_LETTER_BYTES)

Halls halls;

static Hall *by_id;

void halls_die(const char *what, int r) {
        fprintf(stderr, "%s%s%s\n", what, r < 0 ? ": " : "", r < 0 ? strerror(-r) : "");
        exit(EXIT_FAILURE);
}

static uint64_t real_usec(void) {
        struct timespec ts;
        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t halls_now(void) {
        return halls.piece_usec > 0 ? halls.now : real_usec() - halls.real_since_usec;
}

void halls_go_real(void) {
        halls.real_since_usec = real_usec() - halls.now;
        halls.piece_usec = 0;
}

static Hall *hall_of(uint64_t id) {
        Hall *hall = NULL;
        HASH_FIND(hh, by_id, &id, sizeof(id), hall);
        return hall;
}

/* ---- Who is due when: a heap ---- */

static Hall *heap[HALLS_MAX];
static size_t n_heap;

static uint64_t due(const Hall *hall) {
        return MIN(hall->turn_usec, MIN(hall->quiet_usec, hall->dial_usec));
}

static void heap_put(Hall *hall, size_t at) {
        heap[at] = hall;
        hall->place = at;
}

static void heap_move(Hall *hall) {
        size_t at = hall->place;
        while (at > 0 && due(heap[(at - 1) / 2]) > due(hall)) {
                heap_put(heap[(at - 1) / 2], at);
                at = (at - 1) / 2;
        }
        for (;;) {
                size_t child = 2 * at + 1;
                if (child + 1 < n_heap && due(heap[child + 1]) < due(heap[child]))
                        child++;
                if (child >= n_heap || due(heap[child]) >= due(hall))
                        break;
                heap_put(heap[child], at);
                at = child;
        }
        heap_put(hall, at);
}

/* ---- Who has something to do ---- */

typedef struct Queue {
        Hall *list[HALLS_MAX]; /* a ring; each host is in it once at most */
        size_t head, n;
} Queue;

static Queue ready, working;

static void queue_put(Queue *queue, Hall *hall) {
        assert(queue->n < HALLS_MAX);
        queue->list[(queue->head + queue->n++) % HALLS_MAX] = hall;
}

static Hall *queue_take(Queue *queue) {
        if (queue->n == 0)
                return NULL;
        Hall *hall = queue->list[queue->head];
        queue->head = (queue->head + 1) % HALLS_MAX;
        queue->n--;
        return hall;
}

static void make_ready(Hall *hall) {
        if (!hall->ready)
                queue_put(&ready, hall);
        hall->ready = true;
}

static void make_working(Hall *hall) {
        if (hall->working || !hall->agent || agent_idle(hall->agent))
                return;
        queue_put(&working, hall);
        hall->working = true;
}

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
        make_ready(to);
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
        if (hall->dial_usec != USEC_INFINITY)
                return;
        hall->dial_usec = halls_now() + REDIAL_USEC;
        heap_move(hall);
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

static void dial_all(Hall *hall) {
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
        dial_all(hall);
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

static void open_inbox(Hall *hall) {
        for (HallMessage *message; (message = hall->inbox);) {
                hall->inbox = message->next;
                deliver(hall, message);
                free(message);
        }
}

/* ---- One host ---- */

static void know_by_id(Hall *hall) {
        if (hall->id == hall->agent->host.id)
                return;
        if (hall->id != 0)
                HASH_DEL(by_id, hall);
        hall->id = hall->agent->host.id;
        HASH_ADD(hh, by_id, id, sizeof(hall->id), hall);
}

static void take_turn(Hall *hall) {
        open_inbox(hall);
        int r = agent_turn(hall->agent);
        if (r < 0)
                halls_die(hall->name, r);
        know_by_id(hall);
        hall->turn_usec = agent_deadline(hall->agent);
        heap_move(hall);
        make_working(hall);
        if (halls.turned)
                halls.turned(hall);
}

static void step_disk(Hall *hall) {
        int r = agent_step(hall->agent);
        if (r < 0)
                halls_die(hall->name, r);
        if (r > 0) {
                hall->quiet_usec = halls_now() + QUIET_USEC;
                heap_move(hall);
                make_ready(hall);
        }
        make_working(hall);
}

/* The log's own moment: nothing was written for a while. */
static void be_quiet(Hall *hall) {
        hall->quiet_usec = USEC_INFINITY;
        heap_move(hall);
        int r = log_quiet(hall->agent->log);
        if (r < 0)
                halls_die(hall->name, r);
        if (r > 0)
                make_ready(hall);
}

static void wake_due(Hall *hall, uint64_t now) {
        if (hall->dial_usec <= now) {
                hall->dial_usec = USEC_INFINITY;
                heap_move(hall);
                dial_all(hall);
        }
        if (hall->quiet_usec <= now)
                be_quiet(hall);
        if (hall->turn_usec <= now) {
                hall->turn_usec = USEC_INFINITY;
                heap_move(hall);
                make_ready(hall);
        }
}

void hall_work(Hall *hall, HallDuty duty) {
        switch (duty) {
        case HALL_TURN:
                hall->ready = false;
                take_turn(hall);
                break;
        case HALL_DISK:
                hall->working = false;
                step_disk(hall);
                break;
        }
}

/* ---- All ---- */

static bool work(Queue *queue, HallDuty duty) {
        Hall *hall = queue_take(queue);
        if (!hall)
                return false;
        (halls.work ?: hall_work)(hall, duty);
        halls.now += halls.piece_usec;
        return true;
}

/* A round: whoever is ready at its beginning, then whoever's disk has work. Two hosts that have much to say
 * to each other do not hold up the disk of a third. */
static bool work_next(void) {
        static size_t left;
        if (left == 0) {
                left = ready.n;
                if (work(&working, HALL_DISK))
                        return true;
        }
        if (left > 0)
                left--;
        return work(&ready, HALL_TURN);
}

static bool step(uint64_t until) {
        uint64_t now = halls_now();
        for (unsigned n = 0; n_heap > 0 && due(heap[0]) <= now && n < n_heap; n++)
                wake_due(heap[0], now);
        if (work_next())
                return true;
        uint64_t next = MIN(until, n_heap > 0 ? due(heap[0]) : until);
        if (next <= now)
                return false;
        if (halls.piece_usec > 0)
                halls.now = next;
        else
                (void)usleep((useconds_t)MIN(next - now, (uint64_t)100000));
        return true;
}

bool halls_run_until(uint64_t usec, bool (*is)(void)) {
        uint64_t now, look = 0;
        while ((now = halls_now()) < usec) {
                if (is && now >= look) { /* not at every step: it may be a look at every host */
                        if (is())
                                return true;
                        look = now + LOOK_USEC;
                }
                (void)step(usec);
        }
        return is ? is() : true;
}

static uint64_t out_now(void *userdata) {
        return halls_now();
}

static uint64_t out_wall(void *userdata) {
        return UINT64_C(1700000000) * USEC_PER_SEC + halls_now();
}

static void out_random(void *userdata, void *data, size_t size) {
        Hall *hall = userdata;
        for (size_t i = 0; i < size; i++)
                ((uint8_t *)data)[i] = (uint8_t)random_next(&hall->random);
}

static void out_wake(void *userdata) {
        make_ready(userdata);
}

static void say(void *userdata, int level, const char *text) {
        const Hall *hall = userdata;
        if (halls.verbose)
                fprintf(stderr, "%s: %s\n", hall->name, text);
}

static void start(Hall *hall) {
        AgentOptions options = {
                .state_directory = hall->directory,
                .report = {.say = say, .userdata = hall},
                .n_addresses = 1,
                .heartbeat_usec = 100 * USEC_PER_MSEC,
                .election_usec = 600 * USEC_PER_MSEC,
                .session_usec = 5 * USEC_PER_SEC,
                .max_voters = 5,
                .seed = random_next(&hall->random),
                .join = halls.token[0] ? halls.token : NULL,
                .segment_bytes = halls.segment_bytes,
                .outside = {.userdata = hall,
                            .now = out_now,
                            .wall = out_wall,
                            .random = out_random,
                            .wake = out_wake,
                            .listen = out_listen,
                            .set_targets = out_set_targets,
                            .send = out_send,
                            .connected = out_connected,
                            .disconnect = out_disconnect,
                            .call = out_call,
                            .call_address = out_call_address,
                            .call_set_events = out_call_set_events,
                            .call_send = out_call_send,
                            .call_end = out_call_end,
                            .call_free = out_call_free,
                            .flush = nothing},
        };
        memcpy(options.machine, hall->machine, sizeof(options.machine));
        memcpy(options.key, hall->key, sizeof(options.key));
        snprintf(options.host_name, sizeof(options.host_name), "%s", hall->name);
        snprintf(options.addresses[0], sizeof(options.addresses[0]), "%s", hall->address);
        int r = mkdir(hall->directory, 0700) < 0 ? -errno
                                                 : disk_open_directory(&hall->disk, hall->directory);
        if (r < 0)
                halls_die(hall->directory, r);
        options.disk = hall->disk;
        r = agent_new(&hall->agent, &options);
        if (r < 0)
                halls_die(hall->name, r);
        know_by_id(hall);
        make_ready(hall);
}

static Hall *add(void) {
        Hall *hall = calloc(1, sizeof(Hall));
        if (!hall)
                halls_die("a host", -ENOMEM);
        *hall = (Hall){.i = halls.n,
                       .turn_usec = USEC_INFINITY,
                       .quiet_usec = USEC_INFINITY,
                       .dial_usec = USEC_INFINITY,
                       .place = n_heap};
        hall->random.state = UINT64_C(0xd1342543de82ef95) * (hall->i + 1); /* streams far from each other */
        snprintf(hall->name, sizeof(hall->name), "h%u", hall->i + 1);
        snprintf(hall->address, sizeof(hall->address), "h%u:7707", hall->i + 1);
        snprintf(hall->directory, sizeof(hall->directory), "%s/%s", halls.directory, hall->name);
        out_random(hall, hall->key, sizeof(hall->key));
        out_random(hall, hall->machine, sizeof(hall->machine));
        heap[n_heap++] = hall;
        halls.list[halls.n++] = hall;
        start(hall);
        return hall;
}

/* ---- Forming ---- */

static bool is_in(const Hall *hall) {
        return memcmp(hall->agent->tree_status.cluster, halls.list[0]->agent->tree_status.cluster, 16) == 0;
}

static void token_made(const RequestAnswer *answer, const char *token, void *userdata) {
        if (answer->answer == ANSWER_DONE)
                snprintf(halls.token, sizeof(halls.token), "%s", token);
}

static bool first_leads(void) {
        return halls.list[0]->agent->requests.incarnation != 0;
}

static bool token_there(void) {
        return halls.token[0];
}

bool halls_equal(void) {
        uint64_t applied = halls.list[0]->agent->tree_status.applied;
        for (unsigned i = 0; i < halls.n; i++) {
                const Agent *agent = halls.list[i]->agent;
                if (!is_in(halls.list[i]) || agent->tree_status.applied != applied ||
                    agent->requests.incarnation == 0 || agent->sessions.generation == 0)
                        return false;
        }
        return true;
}

static bool formed(void) {
        AgentStatus status;
        if (!halls_equal())
                return false;
        agent_status(halls.list[0]->agent, &status);
        return status.n_members == halls.n && status.n_voters == roles_voters_wanted(halls.n, 5);
}

static void allow_files(void) {
        struct rlimit limit = {1 << 20, 1 << 20};
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0) {
                limit.rlim_cur = limit.rlim_max;
                (void)setrlimit(RLIMIT_NOFILE, &limit);
        }
}

/* All that join do so at once: every host that comes makes all others look at all their members again. */
bool halls_form(unsigned n, uint64_t usec) {
        uint64_t until = halls_now() + usec;
        TokenRequest request = {
                .lifetime_usec = 3600 * USEC_PER_SEC, .uses = 2 * HALLS_MAX, .class = MEMBER_FULL};

        allow_files();
        (void)add();
        if (!halls_run_until(until, first_leads) ||
            agent_token(halls.list[0]->agent, &request, token_made, NULL) < 0 ||
            !halls_run_until(until, token_there))
                return false;
        while (halls.n < n)
                (void)add();
        return halls_run_until(until, formed);
}

Hall *halls_leader(void) {
        Hall *leader = NULL;
        for (unsigned i = 0; i < halls.n; i++) {
                Hall *hall = halls.list[i];
                if (hall->agent->raft_status.role == RAFT_LEADER &&
                    (!leader || hall->agent->raft_status.term > leader->agent->raft_status.term))
                        leader = hall;
        }
        return leader;
}

static void remove_files(void) {
        char command[400];
        snprintf(command, sizeof(command), "rm -rf '%s'", halls.directory);
        if (system(command) != 0)
                fprintf(stderr, "%s is left behind\n", halls.directory);
}

/* The process ends with it: what the halls hold in memory is not worth taking apart. */
void halls_end(void) {
        remove_files();
}
