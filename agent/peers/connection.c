/* A socket with TLS and HTTP/2 on it.
 *
 *      dialled: CONNECTING ─┐                                 ┌─ LINGER ─┐
 *      accepted ────────────┴─ HANDSHAKE ── (judge) ── OPEN ──┴──────────┴─ DEAD
 *
 * What goes out is pulled from nghttp2 only while the socket takes it (BACKLOG_BYTES), encrypted in pieces
 * that fill TLS records, and written with one call. What waits stays in the queues of the calls, which have
 * bounds. */
#include "inside.h"

#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

#define READS_PER_WAKE 8
#define WRITE_PER_WAKE (2 * 1024 * 1024)

bool connection_lives(const Connection *c) {
        return c->state == CONNECTION_OPEN && !c->peers->freed;
}

static PeersDown why_of(int error) {
        switch (error) {
        case ETIMEDOUT:
        case EHOSTUNREACH:
        case ENETUNREACH:
        case EHOSTDOWN:
        case ENETDOWN:
                return PEERS_DOWN_SILENT;
        default:
                return PEERS_DOWN_RESET;
        }
}

static bool is_unknown(const Connection *c) {
        return c->server && c->state != CONNECTION_DEAD &&
               (c->state == CONNECTION_HANDSHAKE || c->verdict != PEERS_MEMBER);
}

static void connection_leave(Connection *c) {
        if (c->io_events != 0)
                (void)epoll_ctl(c->peers->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
        c->io_events = 0;
}

/* 0, -errno. */
static int connection_wait(Connection *c, uint32_t events) {
        struct epoll_event event = {.events = events, .data.ptr = &c->io};
        if (epoll_ctl(c->peers->epoll_fd, c->io_events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, c->fd, &event) <
            0)
                return -errno;
        c->io_events = events;
        return 0;
}

void connection_kill(Connection *c, PeersDown why) {
        if (c->state == CONNECTION_DEAD)
                return;
        if (is_unknown(c))
                c->peers->n_unknown--;
        c->state = CONNECTION_DEAD;
        c->why = why;
        connection_leave(c);
        c->timer = sd_event_source_disable_unref(c->timer);
        close(c->fd);
        c->fd = -1;
        c->peers->has_ended = true;
        peers_arm(c->peers);
}

void connection_tell_down(Connection *c, PeersDown why) {
        if (!c->up)
                return;
        c->up = false;
        Peers *peers = c->peers;
        Host *host = peers_host(peers, c->host);
        if (host && host->connection == c)
                host->connection = NULL;
        if (peers->events.down && !peers->freed)
                peers->events.down(peers->events.userdata, c->host, c->number, why);
}

/* By the work only: nothing of it is on the stack. */
void connection_bury(Connection *c) {
        Peers *peers = c->peers;
        assert(c->state == CONNECTION_DEAD && !c->in_session);
        assert(!c->timer && c->io_events == 0);

        TAILQ_REMOVE(&peers->connections, c, entry);
        peers->n_connections--;
        connection_tell_down(c, c->why);
        for (PeersCall *call = TAILQ_FIRST(&peers->calls); call;) {
                PeersCall *next = TAILQ_NEXT(call, entry);
                if (call->connection == c) {
                        if (call->kind == CALL_TALK)
                                call->gone = true;
                        call_lost(call, c->why == PEERS_DOWN_REFUSED ? PEERS_DENIED : PEERS_UNAVAILABLE,
                                  "the connection broke");
                }
                call = next;
        }
        if (c->dial)
                dial_lost(c->dial, c->why, c->opened);
        http2_close(c);
        tls_deinit(&c->tls);
        free(c);
}

/* ---- time ---- */

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Connection *c = userdata;
        Peers *peers = c->peers;
        peers_enter(peers);
        if (c->state != CONNECTION_OPEN)
                connection_kill(c, c->state == CONNECTION_LINGER ? PEERS_DOWN_RESET : PEERS_DOWN_SILENT);
        else if (c->verdict != PEERS_MEMBER || (c->talk && !c->up))
                connection_kill(c, PEERS_DOWN_SILENT);
        else if (c->n_calls == 0 && peers_now(peers) - c->idle_since_usec >= IDLE_USEC * (c->server ? 2 : 1))
                connection_kill(c, PEERS_DOWN_RESET);
        else if (!c->up)
                connection_timer(c, IDLE_USEC / 4);
        peers_leave(peers);
        return 0;
}

void connection_timer(Connection *c, uint64_t usec) {
        int r = 0;
        if (c->state == CONNECTION_DEAD)
                return; /* it died under its caller's hands: a timer would outlive it */
        if (usec == USEC_INFINITY) {
                sd_event_source_set_enabled(c->timer, SD_EVENT_OFF);
                return;
        }
        if (!c->timer)
                r = sd_event_add_time_relative(c->peers->event, &c->timer, CLOCK_BOOTTIME, usec,
                                               50 * USEC_PER_MSEC, on_timer, c);
        else {
                r = sd_event_source_set_time_relative(c->timer, usec);
                if (r >= 0)
                        r = sd_event_source_set_enabled(c->timer, SD_EVENT_ONESHOT);
        }
        if (r < 0)
                connection_kill(c, PEERS_DOWN_RESET); /* nothing waits without a deadline */
}

/* ---- out ---- */

void connection_dirty(Connection *c) {
        if (c->dirty || c->state == CONNECTION_DEAD)
                return;
        c->dirty = true;
        c->next_dirty = c->peers->dirty;
        c->peers->dirty = c;
        peers_arm(c->peers);
}

static void connection_watch(Connection *c) {
        uint32_t events = EPOLLIN | (queue_size(&c->tls.out) > 0 ? EPOLLOUT : 0);
        if (c->state == CONNECTION_DEAD || events == c->io_events)
                return;
        if (connection_wait(c, events) < 0)
                connection_kill(c, PEERS_DOWN_RESET);
}

/* Writes what the socket takes now. */
static void connection_write(Connection *c) {
        while (c->state != CONNECTION_DEAD && queue_size(&c->tls.out) > 0) {
                ssize_t n = send(c->fd, queue_data(&c->tls.out), queue_size(&c->tls.out), MSG_NOSIGNAL);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        break;
                if (n < 0) {
                        connection_kill(c, why_of(errno));
                        return;
                }
                queue_take(&c->tls.out, (size_t)n);
                c->peers->stats.bytes_out += (uint64_t)n;
        }
        connection_watch(c);
}

/* Fills the stage from nghttp2; what does not fit any more was at most one frame. */
static ssize_t stage_fill(Connection *c) {
        uint8_t *stage = c->peers->stage;
        size_t n = 0;
        while (n < STAGE_BYTES - (16 * 1024 + 1024)) {
                const uint8_t *data;
                ssize_t size = http2_pull(c, &data);
                if (size < 0)
                        return size;
                if (size == 0)
                        break;
                if (n + (size_t)size > STAGE_BYTES)
                        return -EPROTO;
                memcpy(stage + n, data, (size_t)size);
                n += (size_t)size;
        }
        return (ssize_t)n;
}

static void connection_linger(Connection *c) {
        if (queue_size(&c->tls.out) > 0)
                return; /* comes back when the socket takes more */
        tls_close(&c->tls);
        connection_write(c);
        if (c->state == CONNECTION_DEAD)
                return;
        if (is_unknown(c))
                c->peers->n_unknown--;
        c->verdict = PEERS_MEMBER; /* is counted no more */
        c->state = CONNECTION_LINGER;
        shutdown(c->fd, SHUT_WR);
        connection_timer(c, LINGER_USEC);
}

void connection_pump(Connection *c) {
        if (c->in_session) {
                connection_dirty(c);
                return;
        }
        if (c->state != CONNECTION_OPEN) {
                connection_write(c);
                return;
        }
        connection_write(c);
        size_t written = 0;
        bool more = true;
        while (more && c->state == CONNECTION_OPEN && queue_size(&c->tls.out) < BACKLOG_BYTES) {
                ssize_t n = stage_fill(c);
                if (n < 0 || (n > 0 && tls_write(&c->tls, c->peers->stage, (size_t)n) < 0)) {
                        connection_kill(c, PEERS_DOWN_RESET);
                        return;
                }
                more = n > 0;
                written += (size_t)n;
                connection_write(c);
                if (written > WRITE_PER_WAKE && more) {
                        connection_dirty(c); /* others too */
                        break;
                }
        }
        if (c->state == CONNECTION_OPEN && c->n_full > 0)
                calls_tell_writable(c);
        if (c->state == CONNECTION_OPEN && c->closing && !http2_wants_write(c))
                connection_linger(c);
}

void connection_close(Connection *c) {
        c->closing = true;
        connection_dirty(c);
}

/* gRPC has a status for an answer only; who asked hears it as the reset's code. */
void connection_dismiss(Connection *c, const char *because) {
        if (c->state != CONNECTION_OPEN || c->closing) {
                connection_kill(c, PEERS_DOWN_REFUSED);
                return;
        }
        c->dismissed = true;
        c->why = PEERS_DOWN_REFUSED;
        c->peers->has_ended = true;
        peers_arm(c->peers);
        PeersCall *call;
        TAILQ_FOREACH(call, &c->peers->calls, entry) {
                if (call->connection != c || call->out_ended)
                        continue;
                queue_deinit(&call->out);
                if (call->kind == CALL_TALK && c->server) {
                        call->status = PEERS_DENIED;
                        snprintf(call->text, sizeof(call->text), "%s", because);
                        call->out_ended = true;
                        http2_resume(call);
                } else if (call->kind != CALL_ASKING)
                        http2_forget(call, NGHTTP2_INADEQUATE_SECURITY);
        }
        connection_close(c);
}

/* ---- in ---- */

static bool key_is_named(const PeersCall *call, const uint8_t *key) {
        for (uint32_t i = 0; i < call->n_keys; i++)
                if (memcmp(call->keys[i], key, KEY_HASH_BYTES) == 0)
                        return true;
        return false;
}

/* Is the one who answered our dial the one we wanted? */
static bool judge_dialled(Connection *c) {
        if (c->dial->role == DIAL_ADDRESS) {
                c->verdict = PEERS_MEMBER;
                return key_is_named(c->dial->call, c->key);
        }
        c->verdict = peers_judge(c->peers, c->key, &c->host);
        return c->dial && c->verdict == PEERS_MEMBER && c->host == c->dial->host->id;
}

static bool judge_accepted(Connection *c) {
        c->verdict = peers_judge(c->peers, c->key, &c->host);
        if (c->verdict == PEERS_MEMBER)
                return c->host != 0 && c->host != c->peers->host;
        c->host = 0;
        return true;
}

static void talk_dial(Connection *c) {
        const Host *host = peers_host(c->peers, c->host);
        if (host && host->connection) { /* they were faster */
                connection_kill(c, PEERS_DOWN_REPLACED);
                return;
        }
        PeersCall *call = call_new(c->peers, CALL_TALK);
        if (!call) {
                connection_kill(c, PEERS_DOWN_RESET);
                return;
        }
        strcpy(call->method, "Talk");
        c->talk = call;
        if (http2_request(c, call) < 0) {
                call->gone = true;
                c->talk = NULL;
                connection_kill(c, PEERS_DOWN_RESET);
        }
}

static void connection_open(Connection *c) {
        Peers *peers = c->peers;
        if (tls_peer_key(&c->tls, c->key) < 0) {
                connection_kill(c, PEERS_DOWN_RESET);
                return;
        }
        bool unknown = is_unknown(c);
        bool right = c->server ? judge_accepted(c) : judge_dialled(c);
        if (c->state != CONNECTION_HANDSHAKE || peers->freed)
                return;
        if (!right || http2_open(c) < 0) {
                c->verdict = PEERS_STRANGER;
                connection_kill(c, PEERS_DOWN_REFUSED);
                return;
        }
        c->state = CONNECTION_OPEN;
        if (unknown && !is_unknown(c))
                peers->n_unknown--;
        c->idle_since_usec = peers_now(peers);
        connection_dirty(c);
        if (c->server) {
                connection_timer(c, c->verdict == PEERS_MEMBER ? IDLE_USEC : STRANGER_USEC);
                return;
        }
        c->opened = c->dial->role != DIAL_CONTROL;
        if (c->dial->role == DIAL_CONTROL)
                talk_dial(c);
        connection_timer(c, c->dial->role == DIAL_CONTROL ? HANDSHAKE_USEC : IDLE_USEC / 4);
        calls_submit_waiting(c);
}

static void connection_shake(Connection *c) {
        int r = tls_handshake(&c->tls);
        if (r < 0) {
                connection_write(c); /* the alert */
                connection_kill(c, PEERS_DOWN_REFUSED);
        } else if (r > 0)
                connection_open(c);
        if (c->state == CONNECTION_HANDSHAKE)
                connection_write(c);
}

static void connection_feed(Connection *c) {
        Peers *peers = c->peers;
        while (c->state == CONNECTION_OPEN && !peers->freed) {
                int n = tls_read(&c->tls, peers->plain, sizeof(peers->plain));
                if (n == 0)
                        break;
                if (n < 0 || http2_feed(c, peers->plain, (size_t)n) < 0) {
                        connection_kill(c, PEERS_DOWN_RESET);
                        return;
                }
        }
        /* Records that only ask for answers (KeyUpdate) must not pile them up. */
        if (queue_size(&c->tls.out) > 4 * BACKLOG_BYTES)
                connection_kill(c, PEERS_DOWN_RESET);
        else if (c->state == CONNECTION_OPEN && (http2_wants_write(c) || queue_size(&c->tls.out) > 0))
                connection_dirty(c);
}

static void connection_receive(Connection *c) {
        Peers *peers = c->peers;
        for (int i = 0; i < READS_PER_WAKE && c->state != CONNECTION_DEAD && !peers->freed; i++) {
                ssize_t n = recv(c->fd, peers->received, sizeof(peers->received), 0);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return;
                if (n <= 0) {
                        connection_kill(c, n == 0 ? c->dismissed ? PEERS_DOWN_REFUSED : PEERS_DOWN_RESET
                                                  : why_of(errno));
                        return;
                }
                peers->stats.bytes_in += (uint64_t)n;
                if (c->state == CONNECTION_LINGER)
                        continue;
                c->tls.in = BYTES(peers->received, n);
                if (c->state == CONNECTION_HANDSHAKE)
                        connection_shake(c);
                if (c->state == CONNECTION_OPEN)
                        connection_feed(c);
                c->tls.in = BYTES(NULL, 0);
                if ((size_t)n < sizeof(peers->received))
                        return;
        }
}

static void connection_connected(Connection *c) {
        int error = 0;
        socklen_t size = sizeof(error);
        if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
                error = errno;
        if (error != 0) {
                connection_kill(c, why_of(error));
                return;
        }
        c->state = CONNECTION_HANDSHAKE;
        connection_timer(c, HANDSHAKE_USEC);
        connection_shake(c);
}

static void on_io(Ready *ready, uint32_t events) {
        Connection *c = (Connection *)ready;
        Peers *peers = c->peers;
        if (c->state == CONNECTION_DEAD || peers->freed)
                return; /* it died of an earlier event of the same batch */
        peers_enter(peers);
        if (c->state == CONNECTION_CONNECTING)
                connection_connected(c);
        else {
                if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                        connection_receive(c);
                if ((events & EPOLLOUT) && c->state != CONNECTION_DEAD && !peers->freed)
                        connection_pump(c);
        }
        peers_leave(peers);
}

/* ---- beginnings ---- */

static void socket_tune(int fd) {
        int one = 1, idle = 10, interval = 5, count = 3;
        unsigned timeout = USER_TIMEOUT_MSEC;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

/* Takes the fd, also when it fails. */
static int connection_new(Connection **ret, Peers *peers, int fd, bool server) {
        Connection *c = calloc(1, sizeof(*c));
        int r = c ? tls_init(&c->tls, &peers->tls, server) : -ENOMEM;
        if (r < 0) {
                close(fd);
                free(c);
                return r;
        }
        static_assert(offsetof(Connection, io) == 0, "who is ready is the connection");
        c->io.ready = on_io;
        c->peers = peers;
        c->fd = fd;
        c->server = server;
        c->number = ++peers->next_number;
        c->state = server ? CONNECTION_HANDSHAKE : CONNECTION_CONNECTING;
        socket_tune(fd);
        TAILQ_INSERT_TAIL(&peers->connections, c, entry);
        peers->n_connections++;
        if (server)
                peers->n_unknown++;
        r = connection_wait(c, server ? EPOLLIN : EPOLLOUT);
        if (r < 0) {
                connection_kill(c, PEERS_DOWN_RESET);
                return r;
        }
        connection_timer(c, server ? HANDSHAKE_USEC : CONNECT_USEC);
        *ret = c;
        return 0;
}

int connection_dial(Connection **ret, Dial *dial, const Address *to) {
        if (dial->peers->n_connections >= LIMIT_CONNECTIONS)
                return -ENOBUFS;
        int fd = socket(to->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, &to->sa, to->size) < 0 && errno != EINPROGRESS) {
                int r = -errno;
                close(fd);
                return r;
        }
        Connection *c;
        int r = connection_new(&c, dial->peers, fd, false);
        if (r < 0)
                return r;
        c->dial = dial;
        *ret = c;
        return 0;
}

static void address_take(uint8_t to[static 16], const Address *from) {
        memset(to, 0, 16);
        if (from->sa.sa_family == AF_INET)
                memcpy(to, &from->v4.sin_addr, 4);
        else if (IN6_IS_ADDR_V4MAPPED(&from->v6.sin6_addr))
                memcpy(to, from->v6.sin6_addr.s6_addr + 12, 4);
        else
                memcpy(to, &from->v6.sin6_addr, 16);
}

/* Makes room for one more whose key we do not know yet. */
static void unknown_make_room(Peers *peers, const uint8_t from[static 16]) {
        Connection *c, *oldest = NULL, *oldest_there = NULL;
        uint32_t n_there = 0;
        TAILQ_FOREACH(c, &peers->connections, entry) {
                if (!is_unknown(c))
                        continue;
                oldest = oldest ?: c;
                if (memcmp(c->from, from, 16) != 0)
                        continue;
                oldest_there = oldest_there ?: c;
                n_there++;
        }
        if (n_there >= UNKNOWN_PER_ADDRESS)
                connection_kill(oldest_there, PEERS_DOWN_RESET);
        else if (peers->n_unknown >= UNKNOWN_MAX && oldest)
                connection_kill(oldest, PEERS_DOWN_RESET);
}

void connection_accept(Peers *peers, int fd, const Address *from) {
        uint8_t address[16];
        if (peers->n_connections >= LIMIT_CONNECTIONS) {
                close(fd);
                return;
        }
        address_take(address, from);
        unknown_make_room(peers, address);
        Connection *c;
        if (connection_new(&c, peers, fd, true) < 0)
                return;
        memcpy(c->from, address, sizeof(address));
}
