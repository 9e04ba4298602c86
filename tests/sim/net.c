/* The network, as the hall sees it through peers/peers.h: one control connection per pair (the smaller id
 * dials; when it does not, the larger one a moment later), on which letters arrive in order or not at all,
 * and calls on connections of their own. Links are cut one way at a time. What is under way on a cut link
 * waits, as TCP makes it wait; after five seconds (peers' TCP_USER_TIMEOUT) both ends give up. A killed
 * process resets its connections; a machine without power says nothing. */
#include "sim.h"

#include <stdio.h>
#include <string.h>

#define SILENT_USEC  (5 * SEC)
#define CONNECT_USEC (1 * SEC)
#define TALK_BYTES   (2 * LIMIT_INFLIGHT_BYTES)
#define FULL_BYTES   (1024 * 1024)
#define QUEUE_BYTES  (FULL_BYTES + 2 * LIMIT_LETTER_BYTES)

typedef struct Message {
        struct Message *next;
        size_t size;
        uint8_t data[];
} Message;

typedef struct Flow { /* one direction */
        Message *head, *tail;
        size_t bytes;
        uint64_t last_usec;
        unsigned held; /* deliveries that a cut swallowed */
} Flow;

struct SimConnection {
        SimHost *side[2];
        uint64_t number[2];
        bool alive[2];
        bool fin_held[2]; /* the other side's end is known only when the link heals */
        Flow flow[2];     /* [0]: from side[0] */
        SimConnection *next;
};

struct PeersCall {
        uint64_t id; /* key */
        SimHost *host;
        bool asking;
        uint64_t other;    /* id; 0: gone */
        SimHost *far;      /* the other end's host */
        const char *error; /* asking: what will be said at the end */
        char method[16];
        Buffer request;
        PeersCallEvents events;
        Flow flow; /* asking: what is on its way here */
        bool flow_ends;
        PeersStatus status;
        char text[100];
        size_t queued; /* answering: not taken by the other yet */
        bool full, lost, foreign;
        UT_hash_handle hh;
};

static SimConnection *connections;
static PeersCall *calls;
static uint64_t n_numbers;
static bool cuts[HOSTS_MAX + 1][HOSTS_MAX + 1]; /* the last is where strangers come from */
static uint64_t cut_epoch[HOSTS_MAX + 1][HOSTS_MAX + 1];
static uint64_t slow[HOSTS_MAX + 1][HOSTS_MAX + 1];
static uint64_t delay_least, delay_more;

static void dial(void *p, uint64_t j);

static uint64_t delay(const SimHost *from, const SimHost *to) {
        uint64_t usec = delay_least + below(delay_more);
        if (chance(20))
                usec += below(20 * delay_more + 1);
        if (slow[from->i][to->i] > 0)
                usec += below(slow[from->i][to->i]);
        return usec;
}

bool net_is_cut(unsigned from, unsigned to) {
        return cuts[from][to];
}

static bool path_broken(const SimHost *a, const SimHost *b) {
        return cuts[a->i][b->i] || cuts[b->i][a->i];
}

/* ---- Flows ---- */

static void flow_push(Flow *flow, Bytes bytes) {
        Message *message = malloc(sizeof(Message) + bytes.size);
        assert(message);
        message->next = NULL;
        message->size = bytes.size;
        if (bytes.size > 0)
                memcpy(message->data, bytes.data, bytes.size);
        if (flow->tail)
                flow->tail->next = message;
        else
                flow->head = message;
        flow->tail = message;
        flow->bytes += bytes.size;
}

static Message *flow_pop(Flow *flow) {
        Message *message = flow->head;
        if (!message)
                return NULL;
        flow->head = message->next;
        if (!flow->head)
                flow->tail = NULL;
        flow->bytes -= message->size;
        return message;
}

static void flow_clear(Flow *flow) {
        for (Message *message; (message = flow_pop(flow));)
                free(message);
        flow->held = 0;
}

/* ---- Control connections ---- */

/* Both sides dial; the larger id gives the other a moment. */
static uint64_t courtesy(const SimHost *host, unsigned j) {
        return host->id < world.hosts[j]->id ? 0 : 300 * MSEC;
}

static void dial_later(SimHost *host, unsigned j) {
        Target *target = &host->targets[j];
        if (target->dialling || !host->agent)
                return;
        target->dialling = true;
        target->backoff_usec = MIN(MAX(target->backoff_usec * 2, 100 * MSEC), 2 * SEC);
        at(world.now + courtesy(host, j) + target->backoff_usec / 2 + below(target->backoff_usec / 2 + 1),
           dial, host, (uint64_t)host->life << 8 | j);
}

static void fin_arrives(void *p, uint64_t side);

/* One end is over. `tell_other`: the kernel there hears of it, if the link lets it. */
static void side_ends(SimConnection *c, unsigned s, PeersDown why, bool tell_other) {
        SimHost *host = c->side[s], *peer = c->side[!s];
        if (!c->alive[s])
                return;
        c->alive[s] = false;
        flow_clear(&c->flow[!s]);
        bool current = host->control[peer->i] == c;
        if (current)
                host->control[peer->i] = NULL;
        if (tell_other)
                at(MAX(c->flow[s].last_usec, world.now + delay(host, peer)), fin_arrives, c, !s);
        if (!host->agent)
                return;
        mix((uint64_t)why << 16 | host->i << 8 | peer->i);
        agent_down(host->agent, peer->id, c->number[s], why);
        if (current && host->targets[peer->i].control)
                dial_later(host, peer->i);
}

static void fin_arrives(void *p, uint64_t side) {
        SimConnection *c = p;
        if (!c->alive[side])
                return;
        SimHost *host = c->side[side], *peer = c->side[!side];
        if (cuts[peer->i][host->i])
                c->fin_held[side] = true;
        else if (host->paused_until > world.now)
                at(host->paused_until, fin_arrives, c, side);
        else
                side_ends(c, (unsigned)side, PEERS_DOWN_RESET, false);
}

static void side_silent(void *p, uint64_t side) {
        SimConnection *c = p;
        if (c->alive[side] && c->side[side]->paused_until > world.now)
                at(c->side[side]->paused_until + 1, side_silent, c, side);
        else
                side_ends(c, (unsigned)side, PEERS_DOWN_SILENT, false);
}

/* ---- Letters that come twice ---- */

/* In every fourth run, with chances of its own: appends, offers and requests for votes come once more on the
 * same connection, much later. A connection does not do that; a member that lost count may. Answers do not:
 * they are promises. */
static Random again_random;
static bool again;

typedef struct Again {
        SimConnection *c;
        unsigned to;
        size_t size;
        uint8_t data[];
} Again;

static void letter_comes_again(void *p, uint64_t a) {
        Again *letter = p;
        SimConnection *c = letter->c;
        SimHost *host = c->side[letter->to], *source = c->side[!letter->to];
        if (c->alive[letter->to] && host_runs(host) && !cuts[source->i][host->i])
                agent_letter(host->agent, source->id, c->number[letter->to],
                             BYTES(letter->data, letter->size));
        free(letter);
}

static bool may_come_again(Bytes bytes) {
        WireLetter decoded;
        if (wire_letter_decode(bytes, &decoded) < 0)
                return false;
        const Letter *letter = &decoded.letter;
        bool may = letter->kind == LETTER_OFFER ||
                   (letter->kind == LETTER_RAFT &&
                    (letter->raft.type == RAFT_APPEND || letter->raft.type == RAFT_VOTE ||
                     letter->raft.type == RAFT_PREVOTE));
        wire_letter_done(&decoded);
        return may;
}

static void perhaps_again(SimConnection *c, unsigned to, Bytes bytes) {
        if (!again || random_below(&again_random, 50) > 0 || !may_come_again(bytes))
                return;
        Again *letter = malloc(sizeof(Again) + bytes.size);
        assert(letter);
        *letter = (Again){.c = c, .to = to, .size = bytes.size};
        memcpy(letter->data, bytes.data, bytes.size);
        at(world.now + MSEC + random_below(&again_random, 8 * SEC), letter_comes_again, letter, 0);
}

static void letter_arrives(void *p, uint64_t from) {
        SimConnection *c = p;
        Flow *flow = &c->flow[from];
        SimHost *source = c->side[from], *host = c->side[!from];

        if (!c->alive[!from] || !flow->head)
                return;
        if (cuts[source->i][host->i]) {
                flow->held++;
                return;
        }
        if (host->paused_until > world.now) {
                at(host->paused_until + 1, letter_arrives, c, from);
                return;
        }
        Message *message = flow_pop(flow);
        mix(world.now ^ message->size << 20 ^ (uint64_t)host->i << 8 ^ source->i);
        agent_letter(host->agent, source->id, c->number[!from], BYTES(message->data, message->size));
        perhaps_again(c, !from, BYTES(message->data, message->size));
        free(message);
}

static int out_send(void *userdata, uint64_t id, Bytes letter) {
        SimHost *host = userdata, *peer = host_of(id);
        SimConnection *c = peer ? host->control[peer->i] : NULL;
        if (!c || host->dying)
                return -ENOTCONN;
        unsigned s = c->side[0] != host;
        Flow *flow = &c->flow[s];
        if (flow->bytes + letter.size > TALK_BYTES)
                return -ENOBUFS;
        if (!c->alive[!s]) {
                /* Nobody takes it: the kernel there will say so. */
                if (peer->powered)
                        at(world.now + delay(host, peer), fin_arrives, c, s);
                return 0;
        }
        flow_push(flow, letter);
        flow->last_usec = MAX(flow->last_usec, world.now + delay(host, peer) + letter.size / 100);
        at(flow->last_usec, letter_arrives, c, s);
        return 0;
}

static bool out_connected(void *userdata, uint64_t id) {
        SimHost *host = userdata, *peer = host_of(id);
        return peer && host->control[peer->i];
}

typedef struct Later {
        SimConnection *c;
        PeersDown why;
} Later;

static void end_refused(void *p, uint64_t side) {
        side_ends(p, (unsigned)side, PEERS_DOWN_REFUSED, true);
}

static void end_reset(void *p, uint64_t side) {
        side_ends(p, (unsigned)side, PEERS_DOWN_RESET, true);
}

static void out_disconnect(void *userdata, uint64_t id) {
        SimHost *host = userdata, *peer = host_of(id);
        SimConnection *c = peer ? host->control[peer->i] : NULL;
        if (c && !host->dying)
                at(world.now, end_reset, c, c->side[0] != host);
}

/* ---- Dialling ---- */

/* What is over at both ends need not be looked at again; an event on its way may still point there. */
static void connections_forget(void) {
        for (SimConnection **at_c = &connections; *at_c;)
                if (!(*at_c)->alive[0] && !(*at_c)->alive[1])
                        *at_c = (*at_c)->next;
                else
                        at_c = &(*at_c)->next;
}

static void connect_pair(SimHost *host, SimHost *peer) {
        SimConnection *older = peer->control[host->i];
        if (older)
                side_ends(older, older->side[0] != peer, PEERS_DOWN_REPLACED, true);

        connections_forget();
        SimConnection *c = calloc(1, sizeof(SimConnection));
        assert(c);
        *c = (SimConnection){
                .side = {host, peer},
                .number = {n_numbers + 1, n_numbers + 2},
                .alive = {true, true},
                .next = connections,
        };
        n_numbers += 2;
        connections = c;
        host->control[peer->i] = peer->control[host->i] = c;
        host->targets[peer->i].backoff_usec = 0;
        mix((uint64_t)host->i << 8 | peer->i);
        agent_up(peer->agent, host->id, c->number[1]);
        agent_up(host->agent, peer->id, c->number[0]);
}

static void unreachable(void *p, uint64_t what) {
        SimHost *host = p;
        unsigned j = what & 0xff, why = what >> 8 & 0xff;
        if (host->agent && (what >> 16) == host->life && host->targets[j].control)
                agent_unreachable(host->agent, world.hosts[j]->id, (PeersDown)why);
}

static void dial_failed(SimHost *host, unsigned j, PeersDown why, uint64_t after) {
        dial_later(host, j);
        at(world.now + after, unreachable, host, (uint64_t)host->life << 16 | (uint64_t)why << 8 | j);
}

static void dial(void *p, uint64_t what) {
        SimHost *host = p;
        unsigned j = what & 0xff;
        SimHost *peer = world.hosts[j];
        uint64_t id = 0;

        if (!host->agent || (what >> 8) != host->life)
                return;
        host->targets[j].dialling = false;
        if (!host->targets[j].control || host->control[j])
                return;
        if (host->paused_until > world.now) {
                host->targets[j].dialling = true;
                at(host->paused_until + 1, dial, host, what);
                return;
        }
        if (path_broken(host, peer) || !peer->powered)
                dial_failed(host, j, PEERS_DOWN_SILENT, CONNECT_USEC);
        else if (peer->agent && peer->paused_until > world.now)
                dial_failed(host, j, PEERS_DOWN_SILENT, 3 * SEC);
        else if (!peer->agent || !peer->listening)
                dial_failed(host, j, PEERS_DOWN_RESET, delay(host, peer));
        else if (agent_judge(peer->agent, host->key, &id) != PEERS_MEMBER || id != host->id ||
                 agent_judge(host->agent, peer->key, &id) != PEERS_MEMBER || id != peer->id)
                dial_failed(host, j, PEERS_DOWN_REFUSED, delay(host, peer));
        else
                connect_pair(host, peer);
}

static int out_listen(void *userdata) {
        ((SimHost *)userdata)->listening = true;
        return 0;
}

static int out_set_targets(void *userdata, const PeersTarget *targets, size_t n) {
        SimHost *host = userdata;
        for (unsigned j = 0; j < world.n_hosts; j++) {
                SimHost *peer = world.hosts[j];
                Target *target = &host->targets[j];
                bool named = false, control = false;
                for (size_t i = 0; i < n; i++)
                        if (targets[i].host == peer->id && peer != host)
                                named = true, control = targets[i].control;
                target->named = named;
                target->control = control;

                SimConnection *c = host->control[j];
                uint64_t id;
                if (c && (!control || agent_judge(host->agent, peer->key, &id) != PEERS_MEMBER))
                        at(world.now, end_refused, c, c->side[0] != host);
                else if (!c && control && !target->dialling) {
                        target->dialling = true;
                        at(world.now + courtesy(host, j) + delay(host, peer), dial, host,
                           (uint64_t)host->life << 8 | j);
                }
        }
        return 0;
}

/* ---- Calls ---- */

static PeersCall *call_of(uint64_t id) {
        PeersCall *call = NULL;
        HASH_FIND(hh, calls, &id, sizeof(id), call);
        return call;
}

static PeersCall *call_new(SimHost *host, SimHost *far, bool asking, const char *method) {
        PeersCall *call = calloc(1, sizeof(PeersCall));
        assert(call);
        call->id = ++n_numbers;
        call->host = host;
        call->far = far;
        call->asking = asking;
        snprintf(call->method, sizeof(call->method), "%s", method);
        HASH_ADD(hh, calls, id, sizeof(call->id), call);
        return call;
}

static void call_destroy(PeersCall *call) {
        HASH_DEL(calls, call);
        flow_clear(&call->flow);
        buffer_deinit(&call->request);
        free(call);
}

/* This end is told that it is over, and is gone. */
static void call_over(PeersCall *call, PeersStatus status, const char *text) {
        PeersCallEvents events = call->events;
        if (!call->asking && !events.end) {
                call->lost = true; /* the hall knows it still and will end it */
                call->other = 0;
                return;
        }
        mix(call->id << 8 | status);
        HASH_DEL(calls, call);
        if (events.end && call->host->agent)
                events.end(call, status, text, events.userdata);
        flow_clear(&call->flow);
        buffer_deinit(&call->request);
        free(call);
}

static void call_breaks(void *p, uint64_t id) {
        PeersCall *call = call_of(id);
        if (!call || call->lost)
                return;
        if (call->host->paused_until > world.now) {
                at(call->host->paused_until + 1, call_breaks, NULL, id);
                return;
        }
        call_over(call, call->asking ? PEERS_UNAVAILABLE : PEERS_CANCELLED, "the connection broke");
}

static void call_times_out(void *p, uint64_t id) {
        PeersCall *call = call_of(id);
        if (!call)
                return;
        if (call->host->paused_until > world.now) {
                at(call->host->paused_until + 1, call_times_out, NULL, id);
                return;
        }
        if (call->other)
                at(world.now + delay(call->host, call->far), call_breaks, NULL, call->other);
        call_over(call, PEERS_DEADLINE, "no answer in time");
}

static void call_refused(void *p, uint64_t id) {
        PeersCall *call = call_of(id);
        if (call)
                call_over(call, PEERS_DENIED, "not a member");
}

static void call_arrives(void *p, uint64_t id) {
        PeersCall *call = call_of(id);
        if (!call)
                return;
        SimHost *host = call->host, *far = call->far;
        uint64_t who = 0;

        if (path_broken(host, far) || !far->powered || (far->agent && far->paused_until > world.now)) {
                at(world.now + CONNECT_USEC, call_breaks, NULL, id);
                return;
        }
        if (!far->agent || !far->listening) {
                at(world.now + delay(far, host), call_breaks, NULL, id);
                return;
        }
        PeersVerdict verdict = agent_judge(far->agent, host->key, &who);
        if (verdict != PEERS_MEMBER)
                who = 0;
        if (verdict == PEERS_REMOVED || (who == 0 && strcmp(call->method, CALL_JOIN) != 0)) {
                at(world.now + delay(far, host), call_refused, NULL, id);
                return;
        }
        PeersCall *answering = call_new(far, host, false, call->method);
        answering->other = id;
        call->other = answering->id;
        mix(call->id ^ call->request.size << 20);
        note("%s: called by %s: %s", far->name, host->name, call->method);
        agent_called(far->agent, answering, who, host->key, call->method,
                     BYTES(call->request.data, call->request.size));
}

static int call_begin(SimHost *host, SimHost *far, const char *method, Bytes request, uint64_t timeout_usec,
                      const PeersCallEvents *events, PeersCall **ret) {
        if (host->dying)
                return -ENOTCONN;
        PeersCall *call = call_new(host, far, true, method);
        call->events = *events;
        int r = buffer_append(&call->request, request.data, request.size);
        assert(r == 0);
        at(world.now + 3 * delay(host, far), call_arrives, NULL, call->id);
        if (timeout_usec != USEC_INFINITY)
                at(world.now + timeout_usec, call_times_out, NULL, call->id);
        *ret = call;
        return 0;
}

/* A stranger is nobody's agent: he hears what he is answered, and that is all there is of him. */
void net_stranger(SimHost *far, const uint8_t key[static KEY_HASH_BYTES], Bytes request,
                  void (*told)(PeersCall *call, Bytes bytes, void *userdata), void *userdata) {
        SimHost *stranger = calloc(1, sizeof(SimHost)); /* as long as the run */
        assert(stranger);
        *stranger = (SimHost){.i = HOSTS_MAX, .name = "stranger", .powered = true};
        memcpy(stranger->key, key, KEY_HASH_BYTES);
        PeersCallEvents events = {.message = told, .userdata = userdata};
        PeersCall *call;
        (void)call_begin(stranger, far, CALL_JOIN, request, 15 * SEC, &events, &call);
}

uint64_t net_connection(const SimHost *host, const SimHost *peer) {
        const SimConnection *c = host->control[peer->i];
        return c ? c->number[c->side[0] != host] : 0;
}

static int out_call(void *userdata, uint64_t id, const char *method, Bytes request, uint64_t timeout_usec,
                    const PeersCallEvents *events, PeersCall **ret) {
        SimHost *host = userdata, *far = host_of(id);
        if (!far || !host->targets[far->i].named)
                return -ENOENT;
        return call_begin(host, far, method, request, timeout_usec, events, ret);
}

static int out_call_address(void *userdata, const char *address, const uint8_t (*keys)[KEY_HASH_BYTES],
                            size_t n_keys, const char *method, Bytes request, uint64_t timeout_usec,
                            const PeersCallEvents *events, PeersCall **ret) {
        SimHost *host = userdata;
        for (unsigned i = 0; i < world.n_hosts; i++)
                for (size_t k = 0; k < n_keys; k++)
                        if (strcmp(world.hosts[i]->address, address) == 0 &&
                            memcmp(world.hosts[i]->key, keys[k], KEY_HASH_BYTES) == 0)
                                return call_begin(host, world.hosts[i], method, request, timeout_usec,
                                                  events, ret);
        return -ENOENT;
}

static void out_call_set_events(void *userdata, PeersCall *call, const PeersCallEvents *events) {
        call->events = events ? *events : (PeersCallEvents){};
}

static void answer_arrives(void *p, uint64_t id) {
        PeersCall *call = call_of(id);
        if (!call)
                return;
        SimHost *host = call->host, *far = call->far;
        if (cuts[far->i][host->i]) {
                call->flow.held++;
                return;
        }
        if (host->paused_until > world.now) {
                at(host->paused_until + 1, answer_arrives, NULL, id);
                return;
        }
        Message *message = flow_pop(&call->flow);
        if (!message) {
                if (call->flow_ends)
                        call_over(call, call->status, call->text);
                return;
        }
        PeersCall *answering = call->other ? call_of(call->other) : NULL;
        if (answering) {
                answering->queued -= message->size;
                if (answering->full && answering->queued < FULL_BYTES / 2) {
                        answering->full = false;
                        if (answering->events.writable && answering->host->agent)
                                answering->events.writable(answering, answering->events.userdata);
                }
        }
        call = call_of(id);
        if (call) {
                mix(world.now ^ message->size << 24 ^ call->id);
                if (call->events.message)
                        call->events.message(call, BYTES(message->data, message->size),
                                             call->events.userdata);
        }
        free(message);
}

static int out_call_send(void *userdata, PeersCall *answering, Bytes bytes) {
        PeersCall *call = answering->other ? call_of(answering->other) : NULL;
        if (!call || answering->host->dying)
                return -ENOTCONN;
        if (answering->queued + bytes.size > QUEUE_BYTES)
                return -ENOBUFS;
        flow_push(&call->flow, bytes);
        answering->queued += bytes.size;
        call->flow.last_usec = MAX(call->flow.last_usec + bytes.size / 50,
                                   world.now + delay(answering->host, call->host) + bytes.size / 50);
        at(call->flow.last_usec, answer_arrives, NULL, call->id);
        if (answering->queued <= FULL_BYTES)
                return 0;
        answering->full = true;
        return 1;
}

static void out_call_end(void *userdata, PeersCall *answering, PeersStatus status, const char *text) {
        SimHost *host = userdata;
        if (host->dying)
                return; /* net_gone() ends all at once */
        PeersCall *call = answering->other ? call_of(answering->other) : NULL;
        if (call) {
                call->other = 0;
                call->flow_ends = true;
                call->status = status;
                snprintf(call->text, sizeof(call->text), "%s", text ?: "");
                call->flow.last_usec = MAX(call->flow.last_usec, world.now + delay(host, call->host));
                at(call->flow.last_usec, answer_arrives, NULL, call->id);
        }
        call_destroy(answering);
}

static void out_call_free(void *userdata, PeersCall *call) {
        SimHost *host = userdata;
        if (!call || host->dying)
                return;
        if (call->other)
                at(world.now + delay(host, call->far), call_breaks, NULL, call->other);
        call_destroy(call);
}

static void out_flush(void *userdata) {
}

void net_table(Outside *outside) {
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
        outside->flush = out_flush;
}

/* ---- What goes wrong ---- */

void net_begin(void) {
        again_random.state = world.seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
        again = random_next(&again_random) % 4 == 0;
        static const uint64_t least[] = {30, 150, 1000, 8000};
        delay_least = least[below(ELEMENTSOF(least))];
        delay_more = 1 + delay_least * between(1, 4);
        if (chance(2000))
                delay_more += 40 * MSEC;
}

static void cut_lasts(void *p, uint64_t what) {
        unsigned from = what & 0xff, to = what >> 8 & 0xff;
        if (!cuts[from][to] || cut_epoch[from][to] != what >> 16)
                return;
        for (SimConnection *c = connections; c; c = c->next)
                if ((c->side[0]->i == from && c->side[1]->i == to) ||
                    (c->side[0]->i == to && c->side[1]->i == from)) {
                        at(world.now + below(SEC), side_silent, c, 0);
                        at(world.now + below(SEC), side_silent, c, 1);
                }
        for (PeersCall *call = calls; call; call = call->hh.next)
                if ((call->host->i == from && call->far->i == to) ||
                    (call->host->i == to && call->far->i == from))
                        at(world.now + below(SEC), call_breaks, NULL, call->id);
}

static void heal(unsigned from, unsigned to) {
        for (SimConnection *c = connections; c; c = c->next)
                for (unsigned s = 0; s < 2; s++) {
                        if (c->side[s]->i != from || c->side[!s]->i != to)
                                continue;
                        uint64_t usec = world.now + delay(c->side[s], c->side[!s]);
                        for (; c->flow[s].held > 0; c->flow[s].held--)
                                at(usec, letter_arrives, c, s);
                        c->flow[s].last_usec = MAX(c->flow[s].last_usec, usec);
                        if (c->fin_held[!s])
                                at(c->flow[s].last_usec, fin_arrives, c, !s);
                        c->fin_held[!s] = false;
                }
        for (PeersCall *call = calls; call; call = call->hh.next) {
                if (!call->asking || call->far->i != from || call->host->i != to)
                        continue;
                uint64_t usec = world.now + delay(call->far, call->host);
                for (; call->flow.held > 0; call->flow.held--)
                        at(usec, answer_arrives, NULL, call->id);
                call->flow.last_usec = MAX(call->flow.last_usec, usec);
        }
}

void net_cut(unsigned from, unsigned to, bool cut) {
        if (cuts[from][to] == cut || from == to)
                return;
        cuts[from][to] = cut;
        world.disturbed_usec = world.now;
        if (cut)
                at(world.now + SILENT_USEC, cut_lasts, NULL,
                   ++cut_epoch[from][to] << 16 | (uint64_t)to << 8 | from);
        else
                heal(from, to);
}

void net_reset(unsigned a, unsigned b) {
        SimConnection *c = world.hosts[a]->control[b];
        if (!c || world.hosts[a]->paused_until > world.now)
                return;
        unsigned s = c->side[0] != world.hosts[a];
        flow_clear(&c->flow[s]); /* what was under way is lost with it */
        side_ends(c, s, PEERS_DOWN_RESET, true);
}

void net_break_calls(SimHost *host) {
        for (PeersCall *call = calls; call; call = call->hh.next)
                if (call->host == host || call->far == host)
                        at(world.now + below(50 * MSEC), call_breaks, NULL, call->id);
}

void net_slow(unsigned from, unsigned to, uint64_t usec) {
        slow[from][to] = usec;
}

void net_gone(SimHost *host, bool power) {
        for (SimConnection *c = connections; c; c = c->next)
                for (unsigned s = 0; s < 2; s++) {
                        if (c->side[s] != host || !c->alive[s])
                                continue;
                        side_ends(c, s, PEERS_DOWN_RESET, !power);
                        if (power)
                                at(world.now + SILENT_USEC + below(SEC), side_silent, c, !s);
                }
        PeersCall *call, *next;
        HASH_ITER (hh, calls, call, next) {
                if (call->host != host)
                        continue;
                PeersCall *other = call->other ? call_of(call->other) : NULL;
                if (other) {
                        other->other = 0;
                        uint64_t usec = world.now + delay(host, other->host);
                        if (power || cuts[host->i][other->host->i])
                                usec = world.now + SILENT_USEC + below(SEC);
                        at(MAX(usec, other->flow.last_usec), call_breaks, NULL, other->id);
                }
                call_destroy(call);
        }
        for (unsigned j = 0; j < HOSTS_MAX; j++)
                host->targets[j] = (Target){};
}

/* It is there again: whoever still believes in an old connection is told otherwise when he next sends. */
void net_back(SimHost *host) {
}
