/* One stream at either end. Talk is a call too, whose messages are letters and which never ends while the
 * connection lives. The other calls have a handle outside: it is good until `end` was told, or until its
 * owner ended or freed it; after that the stream may still be draining, and `gone` says who frees the rest.
 */
#include "inside.h"

#include <stdio.h>

PeersCall *call_new(Peers *peers, CallKind kind) {
        if (peers->n_calls >= CALLS_MAX + LIMIT_CONNECTIONS)
                return NULL;
        PeersCall *call = calloc(1, sizeof(*call));
        if (!call)
                return NULL;
        call->peers = peers;
        call->kind = kind;
        TAILQ_INSERT_TAIL(&peers->calls, call, entry);
        peers->n_calls++;
        return call;
}

static void call_detach(PeersCall *call) {
        Connection *c = call->connection;
        if (!c)
                return;
        assert(c->n_calls > 0);
        c->n_calls--;
        if (call->full) {
                c->n_full--;
                call->full = false;
        }
        if (c->talk == call)
                c->talk = NULL;
        c->idle_since_usec = peers_now(c->peers);
        call->connection = NULL;
}

PeersCall *call_destroy(PeersCall *call) {
        assert(call->gone && !call->connection);
        TAILQ_REMOVE(&call->peers->calls, call, entry);
        call->peers->n_calls--;
        if (call->dial) {
                dial_deinit(call->dial);
                free(call->dial);
        }
        sd_event_source_disable_unref(call->timer);
        frame_reader_deinit(&call->in);
        queue_deinit(&call->out);
        buffer_deinit(&call->request);
        free(call->keys);
        free(call);
        return NULL;
}

void call_attach(PeersCall *call, Connection *c) {
        assert(!call->connection);
        call->connection = c;
        c->n_calls++;
        c->n_served++;
        call->in.limit = c->server && c->verdict != PEERS_MEMBER ? REQUEST_STRANGER
                         : c->server                             ? REQUEST_BYTES
                                                                 : LIMIT_LETTER_BYTES;
}

/* Nobody outside knows it any more; the work frees it. */
static void call_bury(PeersCall *call) {
        call->gone = true;
        call->events = (PeersCallEvents){};
        if (call->timer)
                call->timer = sd_event_source_disable_unref(call->timer);
        if (call->dial)
                dial_stop(call->dial);
        call->peers->has_ended = true;
        peers_arm(call->peers);
}

void call_lost(PeersCall *call, PeersStatus status, const char *text) {
        if (call->gone) {
                call_detach(call);
                return;
        }
        PeersCallEvents events = call->events;
        /* An answering call without events is still known to the hall, which will end it. */
        bool known = call->kind == CALL_ANSWERING && call->called && !events.end;

        call_detach(call);
        if (known)
                return;
        call_bury(call);
        if (events.end && !call->peers->freed)
                events.end(call, status, text, events.userdata);
}

/* An asking call comes to its end while its stream may go on. */
static void call_give_up(PeersCall *call, PeersStatus status, const char *text) {
        if (call->connection)
                http2_forget(call, NGHTTP2_CANCEL);
        call_lost(call, status, text);
}

int call_queue(PeersCall *call, Bytes message, size_t limit) {
        uint8_t head[FRAME_HEAD_BYTES];
        if (message.size > LIMIT_LETTER_BYTES)
                return -EMSGSIZE;
        if (queue_size(&call->out) + FRAME_HEAD_BYTES + message.size > limit)
                return -ENOBUFS;
        int r = queue_reserve(&call->out, FRAME_HEAD_BYTES + message.size);
        if (r < 0)
                return r;
        bool was_empty = queue_size(&call->out) == 0;
        frame_head_write(head, (uint32_t)message.size);
        buffer_append(&call->out.buffer, head, sizeof(head)); /* reserved above */
        buffer_append(&call->out.buffer, message.data, message.size);
        if (was_empty && call->connection)
                http2_resume(call);
        return 0;
}

/* ---- answering ---- */

static void call_refuse(PeersCall *call, PeersStatus status, const char *text) {
        call->status = status;
        snprintf(call->text, sizeof(call->text), "%s", text);
        call->gone = true;
        if (http2_refuse(call) < 0)
                connection_kill(call->connection, PEERS_DOWN_RESET);
        else if (call->connection->verdict != PEERS_MEMBER)
                connection_close(call->connection); /* a stranger has one try per connection */
}

static bool talk_begin(PeersCall *call) {
        Connection *c = call->connection;
        Host *host = peers_host_get(c->peers, c->host);
        if (!host || http2_respond(call) < 0) {
                connection_kill(c, PEERS_DOWN_RESET);
                return false;
        }
        call->kind = CALL_TALK;
        call->in.limit = LIMIT_LETTER_BYTES;
        c->talk = call;
        return true;
}

/* Both sides dialled in the same moment: the one that the smaller id dialled stays. An older one of ours may
 * be dead without our knowing it; then the other side is right to come again. */
static bool talk_crosses(const Connection *c) {
        const Host *host = peers_host(c->peers, c->host);
        const Connection *ours = host ? host->connection : NULL;
        return ours && ours->up && !ours->server && c->server && c->peers->host < c->host &&
               peers_now(c->peers) - ours->up_usec < YOUNG_USEC;
}

/* The newer one wins: the other side dials anew only when it thinks the older one dead. */
static void talk_up(PeersCall *call) {
        Connection *c = call->connection;
        Host *host = peers_host_get(c->peers, c->host);
        if (!host) {
                connection_kill(c, PEERS_DOWN_RESET);
                return;
        }
        Connection *older = host->connection;
        host->connection = c;
        if (older) {
                connection_tell_down(older, PEERS_DOWN_REPLACED);
                connection_kill(older, PEERS_DOWN_REPLACED);
        }
        host = peers_host(c->peers, c->host);
        if (!connection_lives(c) || c->peers->freed || !host)
                return;
        host->connection = c;
        c->up = c->opened = true;
        c->up_usec = peers_now(c->peers);
        host->dial_control.backoff_usec = 0;
        /* Nothing has to happen on it by a certain time any more. */
        connection_timer(c, USEC_INFINITY);
        if (c->peers->events.up)
                c->peers->events.up(c->peers->events.userdata, c->host, c->number);
}

void call_on_request(PeersCall *call) {
        Connection *c = call->connection;
        if (c->verdict == PEERS_REMOVED) {
                call_refuse(call, PEERS_DENIED, "removed");
                return;
        }
        if (call->foreign || !call->method[0]) {
                call_refuse(call, PEERS_UNIMPLEMENTED, "no such call");
                return;
        }
        if (c->verdict == PEERS_STRANGER && (strcmp(call->method, "Join") != 0 || c->n_served > 1)) {
                call_refuse(call, PEERS_DENIED, "not a member: only one Join");
                return;
        }
        if (strcmp(call->method, "Talk") != 0)
                return;
        if (c->talk || c->n_calls > 1)
                call_refuse(call, PEERS_FAILED_PRECONDITION,
                            "one Talk per connection, and nothing beside it");
        else if (talk_crosses(c))
                call_refuse(call, PEERS_FAILED_PRECONDITION, "this host has dialled you already");
        else if (talk_begin(call))
                talk_up(call);
}

void call_on_request_end(PeersCall *call) {
        Connection *c = call->connection;
        if (!c || call->called || call->out_ended)
                return;
        if (call->kind == CALL_TALK) {
                connection_kill(c, PEERS_DOWN_RESET);
                return;
        }
        if (!call->has_request || !frame_reader_is_between(&call->in)) {
                call_refuse(call, PEERS_INVALID, "one whole message was expected");
                return;
        }
        if (!c->peers->events.called) {
                call_refuse(call, PEERS_UNIMPLEMENTED, "no such call");
                return;
        }
        call->called = true;
        c->peers->events.called(c->peers->events.userdata, call, c->host, c->key, call->method,
                                BYTES(call->request.data, call->request.size));
}

static bool call_take_request(PeersCall *call, Bytes message) {
        if (call->has_request || call->called)
                return false;
        call->has_request = true;
        return buffer_append(&call->request, message.data, message.size) == 0;
}

static void call_take(PeersCall *call, Bytes message) {
        Connection *c = call->connection;
        Peers *peers = call->peers;
        switch (call->kind) {
        case CALL_TALK:
                if (!c->up || c->dismissed)
                        return;
                peers->stats.letters_in++;
                if (peers->events.letter && !peers->freed)
                        peers->events.letter(peers->events.userdata, c->host, c->number, message);
                return;
        case CALL_ASKING:
                if (call->events.message && !peers->freed)
                        call->events.message(call, message, call->events.userdata);
                return;
        case CALL_ANSWERING:
                if (!call_take_request(call, message))
                        call_refuse(call, PEERS_INVALID, "one message was expected");
                return;
        }
}

void call_on_data(PeersCall *call, Bytes data) {
        if (call->gone)
                return;
        Connection *c = call->connection;
        for (;;) {
                Bytes message;
                int r = frame_read(&call->in, &data, &message);
                if (r == 0)
                        return;
                if (r < 0 && call->kind == CALL_TALK)
                        connection_kill(c, PEERS_DOWN_RESET);
                else if (r < 0 && call->kind == CALL_ASKING)
                        call_give_up(call, PEERS_INTERNAL, "answer too large, or not gRPC");
                else if (r < 0)
                        call_refuse(call, PEERS_EXHAUSTED, "request too large, or not gRPC");
                if (r < 0)
                        return;
                call_take(call, message);
                if (!connection_lives(c) || call->gone || call->connection != c)
                        return;
        }
}

/* ---- asking ---- */

void call_on_response(PeersCall *call, bool last) {
        Connection *c = call->connection;
        if (call->kind == CALL_TALK && !last && strcmp(call->http_status, "200") == 0 && !call->foreign)
                talk_up(call);
        else if (call->kind == CALL_TALK)
                connection_kill(c, call->status_seen && call->status == PEERS_DENIED ? PEERS_DOWN_REFUSED
                                                                                     : PEERS_DOWN_RESET);
}

static void talk_closed(PeersCall *call, uint32_t error) {
        bool denied = (call->status_seen && call->status == PEERS_DENIED) ||
                      error == NGHTTP2_INADEQUATE_SECURITY; /* gRPC's mapping of PERMISSION_DENIED */
        connection_kill(call->connection, denied ? PEERS_DOWN_REFUSED : PEERS_DOWN_RESET);
}

/* The answer may end before all of the request is sent: the stream would stay half open. */
void call_on_answer_end(PeersCall *call) {
        if (call->kind == CALL_TALK)
                talk_closed(call, NGHTTP2_NO_ERROR);
        else if (queue_size(&call->out) > 0)
                call_give_up(call, call->status_seen ? call->status : PEERS_UNAVAILABLE, call->text);
}

void call_on_stream_closed(PeersCall *call, uint32_t error) {
        Connection *c = call->connection;
        http2_forget(call, NGHTTP2_NO_ERROR);
        if (call->kind == CALL_TALK)
                talk_closed(call, error);
        else if (call->kind == CALL_ASKING && call->status_seen)
                call_lost(call, call->status, call->text);
        else if (call->kind == CALL_ASKING)
                call_lost(call, PEERS_UNAVAILABLE, "the other side broke off");
        else if (call->called)
                call_lost(call, PEERS_CANCELLED, "the caller went away");
        else {
                call->gone = true;
                call_detach(call);
        }
        call->peers->has_ended = true;
        peers_arm(call->peers);
        if (connection_lives(c) && c->server && c->verdict != PEERS_MEMBER)
                connection_close(c);
        else if (connection_lives(c))
                calls_submit_waiting(c);
}

/* ---- room to write ---- */

void calls_tell_writable(Connection *c) {
        Peers *peers = c->peers;
        PeersCall *call = TAILQ_FIRST(&peers->calls);
        while (call && c->n_full > 0) {
                /* Calls are freed by the work only, so that the next one stays where it is. */
                PeersCall *next = TAILQ_NEXT(call, entry);
                if (call->connection == c && call->full && queue_size(&call->out) < CALL_FULL_BYTES / 2) {
                        call->full = false;
                        c->n_full--;
                        if (call->events.writable && !peers->freed)
                                call->events.writable(call, call->events.userdata);
                }
                call = next;
        }
}

/* ---- waiting for a connection ---- */

static bool call_waits(const PeersCall *call) {
        return call->kind == CALL_ASKING && !call->gone && !call->connection;
}

static void call_submit(PeersCall *call, Connection *c) {
        if (http2_request(c, call) < 0) {
                connection_kill(c, PEERS_DOWN_RESET);
                return;
        }
}

void calls_submit_waiting(Connection *c) {
        if (!c->dial || c->state != CONNECTION_OPEN || c->closing || c->dial->role == DIAL_CONTROL)
                return;
        PeersCall *call;
        TAILQ_FOREACH(call, &c->peers->calls, entry) {
                if (c->n_calls >= CALLS_PER_CONNECTION || c->state != CONNECTION_OPEN)
                        return;
                bool ours = c->dial->role == DIAL_ADDRESS ? call == c->dial->call
                                                          : !call->dial && call->host == c->dial->host->id;
                if (ours && call_waits(call))
                        call_submit(call, c);
        }
}

bool calls_wait(const Peers *peers, uint64_t host) {
        PeersCall *call;
        TAILQ_FOREACH(call, &peers->calls, entry)
        if (call_waits(call) && !call->dial && call->host == host)
                return true;
        return false;
}

void calls_fail_waiting(Peers *peers, uint64_t host, PeersStatus status, const char *text) {
        PeersCall *call = TAILQ_FIRST(&peers->calls);
        while (call) {
                PeersCall *next = TAILQ_NEXT(call, entry);
                if (call_waits(call) && !call->dial && call->host == host)
                        call_lost(call, status, text);
                call = next;
        }
}

static int call_on_timeout(sd_event_source *source, uint64_t usec, void *userdata) {
        PeersCall *call = userdata;
        Peers *peers = call->peers;
        peers_enter(peers);
        call_give_up(call, PEERS_DEADLINE, "no answer in time");
        peers_leave(peers);
        return 0;
}

static int call_ask(Peers *peers, const char *method, Bytes request, uint64_t timeout_usec,
                    const PeersCallEvents *events, PeersCall **ret) {
        if (strlen(method) >= sizeof(((PeersCall *)NULL)->method) || request.size > REQUEST_BYTES)
                return -EMSGSIZE;
        PeersCall *call = call_new(peers, CALL_ASKING);
        if (!call)
                return -ENOBUFS;
        strcpy(call->method, method);
        int r = call_queue(call, request, SIZE_MAX);
        if (r == 0 && timeout_usec != USEC_INFINITY)
                r = sd_event_add_time_relative(peers->event, &call->timer, CLOCK_BOOTTIME, timeout_usec,
                                               10 * USEC_PER_MSEC, call_on_timeout, call);
        if (r < 0) {
                call_bury(call);
                return r;
        }
        call->out_ended = true;
        call->events = *events;
        *ret = call;
        return 0;
}

int peers_call(Peers *peers, uint64_t id, const char *method, Bytes request, uint64_t timeout_usec,
               const PeersCallEvents *events, PeersCall **ret) {
        Host *host = peers_host(peers, id);
        if (!host || !host->named)
                return -ENOENT;
        PeersCall *call;
        int r = call_ask(peers, method, request, timeout_usec, events, &call);
        if (r < 0)
                return r;
        call->host = id;
        Connection *c = host->dial_bulk.connection;
        if (c && c->state == CONNECTION_OPEN && !c->closing && c->n_calls < CALLS_PER_CONNECTION)
                call_submit(call, c);
        else
                dial_kick(&host->dial_bulk);
        *ret = call;
        return 0;
}

int peers_call_address(Peers *peers, const char *address, const uint8_t (*keys)[KEY_HASH_BYTES],
                       size_t n_keys, const char *method, Bytes request, uint64_t timeout_usec,
                       const PeersCallEvents *events, PeersCall **ret) {
        if (strlen(address) > LIMIT_ADDRESS_BYTES || n_keys > LIMIT_MEMBERS)
                return -EINVAL;
        PeersCall *call;
        int r = call_ask(peers, method, request, timeout_usec, events, &call);
        if (r < 0)
                return r;
        char name[1][LIMIT_ADDRESS_BYTES + 1];
        strcpy(name[0], address);
        call->keys = malloc(n_keys * KEY_HASH_BYTES + 1);
        call->dial = malloc(sizeof(Dial));
        if (call->dial)
                dial_init(call->dial, peers, DIAL_ADDRESS, NULL, call);
        if (!call->keys || !call->dial || dial_set_names(call->dial, name, 1) < 0) {
                call_bury(call);
                return -ENOMEM;
        }
        memcpy(call->keys, keys, n_keys * KEY_HASH_BYTES);
        call->n_keys = (uint32_t)n_keys;
        dial_kick(call->dial);
        *ret = call;
        return 0;
}

void peers_call_set_events(PeersCall *call, const PeersCallEvents *events) {
        call->events = events ? *events : (PeersCallEvents){};
}

int peers_call_send(PeersCall *call, Bytes message) {
        assert(call->kind == CALL_ANSWERING && call->called && !call->out_ended);
        Connection *c = call->connection;
        if (!c || c->state != CONNECTION_OPEN)
                return -ENOTCONN;
        int r = call_queue(call, message, CALL_QUEUE_BYTES);
        if (r < 0)
                return r;
        if (!call->responded && http2_respond(call) < 0) {
                connection_kill(c, PEERS_DOWN_RESET);
                return -ENOTCONN;
        }
        if (queue_size(&call->out) <= CALL_FULL_BYTES)
                return 0;
        if (!call->full) {
                call->full = true;
                c->n_full++;
        }
        return 1;
}

void peers_call_end(PeersCall *call, PeersStatus status, const char *text) {
        if (call->gone)
                return;
        assert(call->kind == CALL_ANSWERING && call->called && !call->out_ended);
        Connection *c = call->connection;
        call->status = status;
        snprintf(call->text, sizeof(call->text), "%s", text ?: "");
        call_bury(call);
        if (!c || c->state != CONNECTION_OPEN)
                return;
        call->out_ended = true;
        if (call->full) {
                call->full = false;
                c->n_full--;
        }
        if (call->responded)
                http2_resume(call);
        else if (http2_refuse(call) < 0)
                connection_kill(c, PEERS_DOWN_RESET);
}

PeersCall *peers_call_free(PeersCall *call) {
        if (!call || call->gone)
                return NULL;
        if (call->connection)
                http2_forget(call, NGHTTP2_CANCEL);
        call_detach(call);
        call_bury(call);
        return NULL;
}
