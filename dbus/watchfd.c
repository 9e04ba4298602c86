/* A watch as a stream of records on a socket: what the kernel takes goes there at once, the rest waits in a
 * bounded queue; a full queue holds the watch back, and what happens meanwhile is read from history when the
 * watcher reads again. So an idle watcher costs a fixed amount and nobody waits for him.
 *
 *      deliver ──> kernel (SO_SNDBUF)        queue empty
 *              ──> queue                     until LIMIT_WATCH_QUEUE_BYTES: then "hold"
 *              ──> OVERFLOW, end             when all queues together, or those of one user, are at their
 * limit
 *
 * Our end never reads: it is shut down for reading before the other end is handed out, so EPOLLHUP, which
 * needs no bit set, means that the watcher closed the last copy. */
#include "watchfd.h"

#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include "agent/journal.h"
#include "record.h"

#define IDLE_USEC USEC_PER_SEC

struct WatchFd {
        Bus *bus;
        User *user;
        Watch *watch; /* NULL: ended; only what is queued is still to be sent */
        int fd;
        sd_event_source *io;
        Buffer queue;           /* whole records, but the first may have begun to leave */
        bool held;              /* the agent waits for watch_resume() */
        uint64_t progress_usec; /* the kernel took something, or the queue began */
        WatchFd *prev, *next;
};

/* Memory counts, not what lies in it: buffers grow by doubling. */
static void charge(WatchFd *w, size_t before) {
        w->bus->watch_bytes += w->queue.capacity - before;
        w->user->watch_bytes += w->queue.capacity - before;
}

static WatchFd *watchfd_free(WatchFd *w) {
        if (!w)
                return NULL;

        Bus *bus = w->bus;
        size_t before = w->queue.capacity;
        watch_free(w->watch);
        sd_event_source_disable_unref(w->io);
        if (w->fd >= 0)
                close(w->fd);
        buffer_deinit(&w->queue);
        w->queue = (Buffer){};
        charge(w, before);
        DL_DELETE(bus->watches, w);
        bus->n_watches--;
        w->user->n_watches--;
        user_put(bus, w->user);
        free(w);
        return NULL;
}

void watchfds_free(Bus *bus) {
        while (bus->watches)
                watchfd_free(bus->watches);
}

static bool queues_full(WatchFd *w, size_t more) {
        return w->bus->watch_bytes + more > LIMIT_WATCH_BYTES ||
               (w->user->uid != 0 && w->user->watch_bytes + more > LIMIT_WATCH_BYTES_PER_UID);
}

static uint64_t now_usec(WatchFd *w) {
        uint64_t now = 0;

        (void)sd_event_now(w->bus->event, CLOCK_BOOTTIME, &now);
        return now;
}

/* Who has something queued and has not read for longest, but for IDLE_USEC at least? */
static WatchFd *find_idle(WatchFd *w, bool same_user) {
        uint64_t limit = now_usec(w) - MIN(now_usec(w), IDLE_USEC);
        WatchFd *other, *idle = NULL;

        DL_FOREACH (w->bus->watches, other) {
                if (other == w || other->queue.capacity == 0 || other->progress_usec >= limit ||
                    (same_user && other->user != w->user))
                        continue;
                if (!idle || other->progress_usec < idle->progress_usec)
                        idle = other;
        }
        return idle;
}

static bool make_room(WatchFd *w, size_t more) {
        while (queues_full(w, more)) {
                bool total = w->bus->watch_bytes + more > LIMIT_WATCH_BYTES;
                WatchFd *idle = find_idle(w, !total);
                if (!idle)
                        return false;
                log_info("A watcher of user %lu does not read and is closed, for others need the memory.",
                         (unsigned long)idle->user->uid);
                watchfd_free(idle);
        }
        return true;
}

/* Queues what of a record the kernel did not take. */
static int queue_rest(WatchFd *w, const struct iovec iov[static 4], size_t sent) {
        size_t before = w->queue.capacity;

        for (int i = 0; i < 4; i++) {
                size_t skip = MIN(sent, iov[i].iov_len);
                sent -= skip;
                if (iov[i].iov_len == skip)
                        continue;
                int r = buffer_append(&w->queue, (uint8_t *)iov[i].iov_base + skip, iov[i].iov_len - skip);
                if (r < 0) {
                        charge(w, before);
                        return r;
                }
        }
        charge(w, before);
        return 0;
}

/* 0 = sent or queued; -ENOBUFS = no room, and nothing of it left; else the watcher is lost. */
static int put_record(WatchFd *w, const WatchEvent *event, bool at_any_price) {
        uint8_t header[RECORD_HEADER_BYTES];
        struct iovec iov[4];
        ssize_t sent = 0;

        size_t size = record_write(event, header, iov);
        if (!at_any_price && !make_room(w, size))
                return -ENOBUFS;
        if (w->queue.size == 0) {
                struct msghdr message = {.msg_iov = iov, .msg_iovlen = 4};
                sent = sendmsg(w->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
                if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS &&
                    errno != EINTR)
                        return -errno;
                sent = MAX(sent, 0);
        }
        if ((size_t)sent == size)
                return 0;
        if (w->queue.size == 0)
                w->progress_usec = now_usec(w);
        int r = queue_rest(w, iov, (size_t)sent);
        if (r < 0)
                return r;
        return sd_event_source_set_io_events(w->io, EPOLLOUT);
}

/* Ends the watch for the agent; what is queued still goes out, then the fd is closed. */
static int end_watch(WatchFd *w) {
        w->watch = watch_free(w->watch);
        if (w->queue.size == 0)
                watchfd_free(w);
        return 2;
}

static int overflow(WatchFd *w, uint64_t revision) {
        WatchEvent end = {.kind = WATCH_OVERFLOW, .revision = revision, .last = true};

        if (put_record(w, &end, true) < 0) {
                watchfd_free(w);
                return 2;
        }
        return end_watch(w);
}

static int on_event(const WatchEvent *event, void *userdata) {
        WatchFd *w = userdata;
        bool is_end = event->kind == WATCH_COMPACTED || event->kind == WATCH_OVERFLOW;

        int r = put_record(w, event, is_end);
        if (r == -ENOBUFS || r == -ENOMEM)
                return overflow(w, event->revision);
        if (r < 0) {
                watchfd_free(w);
                return 2;
        }
        if (is_end)
                return end_watch(w);
        w->held = w->queue.size >= LIMIT_WATCH_QUEUE_BYTES;
        return w->held ? 1 : 0;
}

static int flush_queue(WatchFd *w) {
        while (w->queue.size > 0) {
                ssize_t n = send(w->fd, w->queue.data, w->queue.size, MSG_DONTWAIT | MSG_NOSIGNAL);
                if (n < 0)
                        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -errno;
                buffer_consume(&w->queue, (size_t)n);
                w->progress_usec = now_usec(w);
        }
        size_t before = w->queue.capacity;
        buffer_deinit(&w->queue);
        w->queue = (Buffer){};
        charge(w, before);
        return 0;
}

static int on_socket(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        WatchFd *w = userdata;

        if ((events & (EPOLLHUP | EPOLLERR)) || flush_queue(w) < 0) {
                watchfd_free(w);
                return 0;
        }
        if (w->queue.size == 0 && !w->watch) {
                watchfd_free(w);
                return 0;
        }
        if (w->queue.size == 0) {
                int r = sd_event_source_set_io_events(w->io, 0);
                if (r < 0)
                        return r;
        }
        if (w->held && w->queue.size <= LIMIT_WATCH_QUEUE_BYTES / 2) {
                w->held = false;
                watch_resume(w->watch);
        }
        return 0;
}

/* ---- the call ---- */

static int watchfd_new(Call *call, int *ret_theirs, WatchFd **ret) {
        Bus *bus = call_bus(call);
        User *user = user_get(bus, call->client->caller.uid);
        int fds[2];

        if (!user)
                return -ENOMEM;
        WatchFd *w = calloc(1, sizeof(WatchFd));
        if (!w) {
                user_put(bus, user);
                return -ENOMEM;
        }
        w->bus = bus;
        w->user = user;
        w->fd = -1;
        user->n_watches++;
        bus->n_watches++;
        DL_APPEND(bus->watches, w);
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0) {
                int r = -errno;
                watchfd_free(w);
                return r;
        }
        w->fd = fds[0];
        *ret_theirs = fds[1];
        *ret = w;
        return 0;
}

static int watchfd_open(WatchFd *w, Call *call, uint64_t *ret_revision) {
        if (shutdown(w->fd, SHUT_RD) < 0)
                return -errno;
        int r = sd_event_add_io(w->bus->event, &w->io, w->fd, 0, on_socket, w);
        if (r < 0)
                return r;
        return agent_watch(w->bus->agent, call->path, (uint32_t)call->flags, call->revision, on_event, w,
                           &w->watch, ret_revision);
}

int watchfd_begin(Call *call) {
        Bus *bus = call_bus(call);
        User *user = call->client->user;
        uint64_t revision;
        WatchFd *w = NULL;
        int theirs = -1;

        if (!call_may_watch(call))
                return 0;
        if (bus->n_watches >= LIMIT_WATCHES || (user->uid != 0 && user->n_watches >= LIMIT_WATCHES_PER_UID))
                return call_fail(
                        call, SD_BUS_ERROR_LIMITS_EXCEEDED,
                        "Too many watches are open on this host (at most %d, %d per user). Close some.",
                        LIMIT_WATCHES, LIMIT_WATCHES_PER_UID);
        int r = watchfd_new(call, &theirs, &w);
        if (r < 0)
                return r;
        r = watchfd_open(w, call, &revision);
        if (r < 0) {
                close(theirs);
                watchfd_free(w);
                return r;
        }
        call_return(call, "ht", theirs, revision); /* the message has its own copy */
        close(theirs);
        return 0;
}
