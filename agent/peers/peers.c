/* The registry of hosts, and the work: what was marked while callbacks were on the stack is told and freed
 * here, dials take their steps, and what waits is written. */
#include "inside.h"

#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

void peers_arm(Peers *peers) {
        if (!peers->freed)
                sd_event_source_set_enabled(peers->work, SD_EVENT_ONESHOT);
}

uint64_t peers_now(Peers *peers) {
        struct timespec now;
        clock_gettime(CLOCK_BOOTTIME, &now);
        return (uint64_t)now.tv_sec * USEC_PER_SEC + (uint64_t)now.tv_nsec / 1000;
}

PeersVerdict peers_judge(Peers *peers, const uint8_t *key, uint64_t *ret_host) {
        *ret_host = 0;
        if (peers->freed || memcmp(key, key_hash(peers->key), KEY_HASH_BYTES) == 0)
                return PEERS_STRANGER;
        return peers->events.judge(peers->events.userdata, key, ret_host);
}

/* ---- hosts ---- */

static size_t host_place(const Peers *peers, uint64_t id) {
        size_t low = 0, high = peers->n_hosts;
        while (low < high) {
                size_t middle = low + (high - low) / 2;
                if (peers->hosts[middle]->id < id)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

Host *peers_host(const Peers *peers, uint64_t id) {
        size_t at = host_place(peers, id);
        return at < peers->n_hosts && peers->hosts[at]->id == id ? peers->hosts[at] : NULL;
}

Host *peers_host_get(Peers *peers, uint64_t id) {
        size_t at = host_place(peers, id);
        if (at < peers->n_hosts && peers->hosts[at]->id == id)
                return peers->hosts[at];
        if (peers->n_hosts == peers->n_hosts_allocated) {
                size_t n = MAX(peers->n_hosts_allocated * 2, (size_t)8);
                Host **hosts = realloc(peers->hosts, n * sizeof(*hosts));
                if (!hosts)
                        return NULL;
                peers->hosts = hosts;
                peers->n_hosts_allocated = n;
        }
        Host *host = calloc(1, sizeof(*host));
        if (!host)
                return NULL;
        host->id = id;
        dial_init(&host->dial_control, peers, DIAL_CONTROL, host, NULL);
        dial_init(&host->dial_bulk, peers, DIAL_BULK, host, NULL);
        memmove(peers->hosts + at + 1, peers->hosts + at, (peers->n_hosts - at) * sizeof(*peers->hosts));
        peers->hosts[at] = host;
        peers->n_hosts++;
        return host;
}

static void host_free(Host *host) {
        dial_deinit(&host->dial_control);
        dial_deinit(&host->dial_bulk);
        free(host);
}

static bool host_is_to_be_dialled(const Host *host) {
        return host->named && host->control && host->dial_control.peers->host != 0;
}

/* Both sides dial, so that a host that comes back need not wait for the other's next attempt; the larger id
 * does it a moment later, so that they seldom cross. */
static void host_dial(Host *host) {
        if (host->dial_control.peers->host < host->id)
                dial_kick(&host->dial_control);
        else
                dial_kick_later(&host->dial_control, SECOND_USEC);
}

/* ---- the work ---- */

/* Each burial tells, and what is told may change the list: begin anew after each. */
static bool work_bury_one(Peers *peers) {
        Connection *c;
        TAILQ_FOREACH(c, &peers->connections, entry) {
                if (c->dismissed && c->up) {
                        connection_tell_down(c, PEERS_DOWN_REFUSED);
                        return true;
                }
                if (c->state == CONNECTION_DEAD) {
                        connection_bury(c);
                        return true;
                }
        }
        return false;
}

static void work_step_dials(Peers *peers) {
        for (size_t i = 0; i < peers->n_hosts; i++) {
                Host *host = peers->hosts[i];
                Dial *control = &host->dial_control;
                if (!host->connection && host_is_to_be_dialled(host))
                        host_dial(host);
                if (control->wants_step)
                        dial_step(control);
                if (peers->n_hosts > i && peers->hosts[i] == host && host->dial_bulk.wants_step)
                        dial_step(&host->dial_bulk);
        }
        for (PeersCall *call = TAILQ_FIRST(&peers->calls); call;) {
                PeersCall *next = TAILQ_NEXT(call, entry);
                if (call->dial && call->dial->wants_step)
                        dial_step(call->dial);
                call = next;
        }
}

static void work_free(Peers *peers) {
        for (PeersCall *call = TAILQ_FIRST(&peers->calls); call;) {
                PeersCall *next = TAILQ_NEXT(call, entry);
                if (call->gone && !call->connection)
                        call_destroy(call);
                call = next;
        }
        size_t n = 0;
        for (size_t i = 0; i < peers->n_hosts; i++) {
                Host *host = peers->hosts[i];
                if (!host->named && !host->connection)
                        host_free(host);
                else
                        peers->hosts[n++] = host;
        }
        peers->n_hosts = n;
}

/* A dead connection is taken off the list of dirty ones before it is buried. */
static void work_write(Peers *peers) {
        Connection *c = TAKE(peers->dirty);
        while (c) {
                Connection *next = c->next_dirty;
                c->dirty = false;
                c->next_dirty = NULL;
                if (c->state != CONNECTION_DEAD)
                        connection_pump(c);
                c = next;
        }
}

static int on_work(sd_event_source *source, void *userdata) {
        Peers *peers = userdata;
        peers_enter(peers);
        work_write(peers);
        while (peers->has_ended && !peers->freed) {
                peers->has_ended = false;
                /* Those that died meanwhile may be on the list of dirty ones. */
                for (Connection **at = &peers->dirty; *at;)
                        if ((*at)->state == CONNECTION_DEAD) {
                                (*at)->dirty = false;
                                *at = (*at)->next_dirty;
                        } else
                                at = &(*at)->next_dirty;
                while (!peers->freed && work_bury_one(peers))
                        ;
                if (!peers->freed)
                        work_step_dials(peers);
                work_free(peers);
        }
        if (!peers->freed && (peers->dirty || peers->has_ended))
                peers_arm(peers);
        peers_leave(peers);
        return 0;
}

void peers_flush(Peers *peers) {
        peers_enter(peers);
        work_write(peers);
        if (!peers->freed && !peers->dirty && !peers->has_ended)
                sd_event_source_set_enabled(peers->work, SD_EVENT_OFF); /* it would find nothing to do */
        peers_leave(peers);
}

/* ---- the crowd ---- */

#define CROWD_PER_LOOK 32

/* Only when the loop lent us no set of its own. */
static int on_crowd(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        struct epoll_event events[CROWD_PER_LOOK];
        Peers *peers = userdata;

        int n = epoll_wait(fd, events, CROWD_PER_LOOK, 0);
        peers_enter(peers);
        for (int i = 0; i < n; i++) {
                Ready *ready = events[i].data.ptr;
                ready->ready(ready, events[i].events);
        }
        peers_leave(peers);
        return 0;
}

static int crowd_open(Peers *peers) {
        peers->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (peers->epoll_fd < 0)
                return -errno;
        return sd_event_add_io(peers->event, &peers->crowd, peers->epoll_fd, EPOLLIN, on_crowd, peers);
}

static void crowd_close(Peers *peers) {
        if (!peers->crowd)
                return;
        peers->crowd = sd_event_source_disable_unref(peers->crowd);
        close(peers->epoll_fd);
}

/* ---- life ---- */

static void peers_destroy(Peers *peers) {
        peers->dirty = NULL;
        Connection *c;
        while ((c = TAILQ_FIRST(&peers->connections))) {
                connection_kill(c, PEERS_DOWN_RESET);
                if (c->dial)
                        c->dial->connection = NULL;
                c->dial = NULL;
                connection_bury(c);
        }
        for (size_t i = 0; i < peers->n_hosts; i++)
                host_free(peers->hosts[i]);
        PeersCall *call;
        while ((call = TAILQ_FIRST(&peers->calls))) {
                call->gone = true;
                call_destroy(call);
        }
        peers_unlisten(peers);
        free(peers->hosts);
        tls_context_deinit(&peers->tls);
        sd_event_source_disable_unref(peers->work);
        crowd_close(peers);
        sd_event_unref(peers->event);
        free(peers);
}

void peers_enter(Peers *peers) {
        peers->depth++;
}

void peers_leave(Peers *peers) {
        assert(peers->depth > 0);
        if (--peers->depth == 0 && peers->freed)
                peers_destroy(peers);
}

int peers_new(Peers **ret, const PeersOptions *options) {
        assert(options->event && options->key && options->events.judge);

        Peers *peers = calloc(1, sizeof(*peers));
        if (!peers)
                return -ENOMEM;
        TAILQ_INIT(&peers->connections);
        TAILQ_INIT(&peers->calls);
        peers->event = sd_event_ref(options->event);
        peers->key = options->key;
        peers->host = options->host;
        peers->events = options->events;
        peers->report = options->report;
        peers->epoll_fd = options->epoll_fd;
        int r = options->epoll_fd > 0 ? 0 : crowd_open(peers);
        if (r >= 0)
                r = tls_context_init(&peers->tls, options->key);
        if (r >= 0)
                r = sd_event_add_defer(peers->event, &peers->work, on_work, peers);
        if (r >= 0)
                r = sd_event_source_set_enabled(peers->work, SD_EVENT_OFF);
        if (r < 0) {
                peers_destroy(peers);
                return r;
        }
        *ret = peers;
        return 0;
}

static void calls_end_all(Peers *peers) {
        PeersCall *call;
again:
        TAILQ_FOREACH(call, &peers->calls, entry) {
                if (call->gone || call->kind != CALL_ASKING || !call->events.end)
                        continue;
                PeersCallEvents events = call->events;
                call->events = (PeersCallEvents){};
                call->gone = true;
                events.end(call, PEERS_UNAVAILABLE, "closing", events.userdata);
                goto again;
        }
}

Peers *peers_free(Peers *peers) {
        if (!peers || peers->freed)
                return NULL;
        peers_enter(peers);
        calls_end_all(peers);
        peers->freed = true;
        sd_event_source_set_enabled(peers->work, SD_EVENT_OFF);
        peers_unlisten(peers);
        Connection *c;
        TAILQ_FOREACH(c, &peers->connections, entry)
        connection_kill(c, PEERS_DOWN_RESET);
        peers_leave(peers);
        return NULL;
}

void peers_set_host(Peers *peers, uint64_t host) {
        peers->host = host;
        for (size_t i = 0; i < peers->n_hosts; i++)
                if (!host_is_to_be_dialled(peers->hosts[i]))
                        dial_stop(&peers->hosts[i]->dial_control);
        peers->has_ended = true;
        peers_arm(peers);
}

/* ---- targets ---- */

static void host_kill_connections(Peers *peers, uint64_t id) {
        Connection *c;
        TAILQ_FOREACH(c, &peers->connections, entry)
        if (c->host == id && c->state == CONNECTION_OPEN && !c->dismissed)
                connection_kill(c, PEERS_DOWN_REFUSED);
}

/* Their keys may belong to nobody by now, or to somebody else. */
static void connections_judge_anew(Peers *peers) {
        Connection *c;
        TAILQ_FOREACH(c, &peers->connections, entry) {
                if (c->state != CONNECTION_OPEN || c->verdict != PEERS_MEMBER || c->dismissed)
                        continue;
                if (c->dial && c->dial->role == DIAL_ADDRESS)
                        continue;
                uint64_t host;
                PeersVerdict verdict = peers_judge(peers, c->key, &host);
                if (verdict == PEERS_REMOVED)
                        connection_dismiss(c, "removed");
                else if (verdict != PEERS_MEMBER || host != c->host)
                        connection_kill(c, PEERS_DOWN_REFUSED);
        }
}

static int target_take(Peers *peers, const PeersTarget *target) {
        if (target->n_addresses > LIMIT_ADDRESSES)
                return -EINVAL;
        Host *host = peers_host_get(peers, target->host);
        if (!host)
                return -ENOMEM;
        host->named = true;
        host->control = target->control;
        int r = dial_set_names(&host->dial_control, (const void *)target->addresses, target->n_addresses);
        if (r < 0)
                return r;
        return dial_set_names(&host->dial_bulk, (const void *)target->addresses, target->n_addresses);
}

/* Marks those that stay. */
static void targets_mark(Peers *peers, const PeersTarget *targets, size_t n) {
        for (size_t i = 0; i < peers->n_hosts; i++)
                peers->hosts[i]->stays = false;
        for (size_t i = 0; i < n; i++) {
                Host *host = peers_host(peers, targets[i].host);
                if (host)
                        host->stays = true;
        }
}

static void host_drop(Peers *peers, Host *host) {
        host->named = host->control = false;
        dial_stop(&host->dial_control);
        dial_stop(&host->dial_bulk);
        host_kill_connections(peers, host->id);
        calls_fail_waiting(peers, host->id, PEERS_UNAVAILABLE, "no longer a target");
}

int peers_set_targets(Peers *peers, const PeersTarget *targets, size_t n) {
        peers_enter(peers);
        int r = 0;
        connections_judge_anew(peers);
        targets_mark(peers, targets, n);
        for (size_t i = 0; i < peers->n_hosts && !peers->freed; i++)
                if (peers->hosts[i]->named && !peers->hosts[i]->stays)
                        host_drop(peers, peers->hosts[i]);
        for (size_t i = 0; i < n && r >= 0; i++)
                if (targets[i].host != peers->host)
                        r = target_take(peers, targets + i);
        for (size_t i = 0; i < peers->n_hosts; i++) {
                Host *host = peers->hosts[i];
                if (!host_is_to_be_dialled(host))
                        dial_stop(&host->dial_control);
                if (host->named && !host->control && host->connection && !host->connection->dismissed)
                        connection_kill(host->connection, PEERS_DOWN_REFUSED);
        }
        peers->has_ended = true;
        peers_arm(peers);
        peers_leave(peers);
        return r;
}

/* ---- letters ---- */

static Connection *control_of(const Peers *peers, uint64_t id) {
        Host *host = peers_host(peers, id);
        Connection *c = host ? host->connection : NULL;
        return c && c->state == CONNECTION_OPEN && c->talk && !c->dismissed && !c->closing ? c : NULL;
}

int peers_send(Peers *peers, uint64_t id, Bytes letter) {
        Connection *c = control_of(peers, id);
        if (!c)
                return -ENOTCONN;
        int r = call_queue(c->talk, letter, TALK_QUEUE_BYTES);
        if (r == 0)
                peers->stats.letters_out++;
        return r;
}

bool peers_connected(const Peers *peers, uint64_t host) {
        return control_of(peers, host);
}

void peers_disconnect(Peers *peers, uint64_t id) {
        Connection *c = control_of(peers, id);
        if (c)
                connection_kill(c, PEERS_DOWN_RESET);
}

void peers_stats(const Peers *peers, PeersStats *ret) {
        *ret = peers->stats;
        ret->connections = peers->n_connections;
        ret->strangers = peers->n_unknown;
}
