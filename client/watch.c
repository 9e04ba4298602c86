/* A watch is a stream of records that survives its stream.
 *
 *      streaming --the stream ends, or OVERFLOW--> away --timer, the agent answers--> streaming
 *          |                                        |
 *          +---- not RESUME, or a broken stream ----+----> over
 *
 * The position is (next, n_given): the next revision wanted, and how many of its records the caller already
 * has, if the stream ended in the middle of it. A new stream begins at `next` again and those records, which
 * come in the same order, are passed over: nothing is given twice and nothing is left out.
 *
 * The caller polls an epoll fd that holds the stream and the timer, so it stays the same whatever happens
 * behind it. */
#include "connection.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "agent/base/limits.h"
#include "record.h"

#define BUFFER_BYTES_FIRST (64u * 1024u)
#define TRY_TIMEOUT_USEC   (2 * USEC_PER_SEC)
#define BACKOFF_MIN_USEC   (100 * USEC_PER_MSEC)
#define BACKOFF_MAX_USEC   (5 * USEC_PER_SEC)

#define FLAGS_BUS (TREATY_WATCH_SUBTREE | TREATY_WATCH_PREVIOUS | TREATY_WATCH_MARKS)
_Static_assert(TREATY_WATCH_SUBTREE == 1 && TREATY_WATCH_PREVIOUS == 2 && TREATY_WATCH_MARKS == 4,
               "the flags of a watch are the bus's");

struct treaty_watch {
        treaty *t;
        char *path;
        unsigned flags;

        int epoll_fd, timer_fd;
        int stream_fd; /* -1: away or over */
        int over;      /* 0, or what treaty_watch_next() answers from now on */

        uint64_t revision;     /* of the tree, when the watch was opened */
        uint64_t next;         /* first revision not wholly given */
        uint64_t n_given;      /* records of `next` that were given */
        uint64_t n_skip;       /* of those, how many the new stream still repeats */
        uint64_t backoff_usec; /* the next wait while away */
        uint64_t begun_usec;   /* when this stream began */
        char cluster[64];      /* the cluster the revisions are of; "" when not known */

        uint8_t *buffer; /* bytes begin..end are read and not given */
        size_t begin, end, capacity;
        size_t given_size; /* of the record the caller looks at now */

        treaty_event event;
        char event_path[LIMIT_PATH_BYTES + 1];
};

DEFINE_CLEANUP(treaty_watch *, treaty_watch_close)

static void close_stream(treaty_watch *watch) {
        if (watch->stream_fd >= 0)
                close(watch->stream_fd); /* leaves the epoll set by itself */
        watch->stream_fd = -1;
        watch->begin = watch->end = watch->given_size = 0;
}

_public_ treaty_watch *treaty_watch_close(treaty_watch *watch) {
        if (!watch)
                return NULL;
        close_stream(watch);
        if (watch->timer_fd >= 0)
                close(watch->timer_fd);
        if (watch->epoll_fd >= 0)
                close(watch->epoll_fd);
        free(watch->buffer);
        free(watch->path);
        free(watch);
        return NULL;
}

/* ---- Asking for a stream ---- */

static int poll_fd(treaty_watch *watch, int fd) {
        struct epoll_event event = {.events = EPOLLIN};
        return epoll_ctl(watch->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int take_stream(treaty_watch *watch, int fd) {
        int r, flags;

        fd = fcntl(fd, F_DUPFD_CLOEXEC, 3); /* the message keeps its own */
        if (fd < 0)
                return -errno;
        flags = fcntl(fd, F_GETFL);
        r = flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : poll_fd(watch, fd);
        if (r < 0) {
                close(fd);
                return r;
        }
        close_stream(watch);
        watch->stream_fd = fd;
        watch->begun_usec = now_usec();
        return 0;
}

static int ask_watch(treaty_watch *watch, uint64_t from, bool again, uint64_t *ret_revision) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        treaty *t = watch->t;
        int r, fd;

        r = call_begin(t, TREATY_TREE, "Watch", &call);
        if (r < 0)
                return r;
        /* An agent that somebody stopped on purpose is not to be started by those who wait for it. */
        if (again)
                r = sd_bus_message_set_auto_start(call, false);
        if (r >= 0)
                r = sd_bus_message_append(call, "stt", watch->path, (uint64_t)(watch->flags & FLAGS_BUS),
                                          from);
        if (r < 0)
                return fail_append(t, r);
        r = again ? call_finish(t, call, t->timeout_usec, &reply) : call_finish_default(t, call, &reply);
        if (r < 0)
                return r;
        r = sd_bus_message_read(reply, "ht", &fd, ret_revision);
        if (r < 0)
                return fail_reply(t, r);
        r = take_stream(watch, fd);
        return r < 0 ? fail_errno(t, r, "Cannot hold the watch") : 0;
}

/* Which cluster are these revisions of? A host that joins another one gives up its tree, and with it the
 * meaning of the numbers. Not everybody may ask; who may not, watches without this check. */
static void ask_cluster(treaty_watch *watch, char to[static sizeof(watch->cluster)]) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        const char *id;

        to[0] = 0;
        if (call_begin(watch->t, "org.freedesktop.DBus.Properties", "Get", &call) < 0 ||
            sd_bus_message_append(call, "ss", TREATY_CLUSTER, "ClusterId") < 0 ||
            call_finish(watch->t, call, TRY_TIMEOUT_USEC, &reply) < 0 ||
            sd_bus_message_read(reply, "v", "s", &id) < 0 || strlen(id) >= sizeof(watch->cluster))
                return;
        strcpy(to, id);
}

_public_ int treaty_watch_open(treaty *t, const char *path, unsigned flags, uint64_t from_revision,
                               treaty_watch **ret) {
        _cleanup_(treaty_watch_closep) treaty_watch *watch = NULL;
        int r;

        *ret = NULL;
        if ((r = check_path(t, path, true)) < 0 ||
            (r = check_flags(t, flags, FLAGS_BUS | TREATY_WATCH_RESUME)) < 0)
                return r;
        if ((flags & TREATY_WATCH_RESUME) && !connection_may_reconnect(t))
                return fail(t, -EINVAL, NULL,
                            "A resuming watch needs a connection opened with TREATY_RECONNECT");

        watch = calloc(1, sizeof(*watch));
        if (!watch)
                return fail_errno(t, -ENOMEM, "Cannot watch");
        watch->t = t;
        watch->flags = flags;
        watch->stream_fd = -1;
        watch->backoff_usec = BACKOFF_MIN_USEC;
        watch->path = strdup(path);
        watch->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        watch->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (!watch->path || watch->epoll_fd < 0 || watch->timer_fd < 0 ||
            poll_fd(watch, watch->timer_fd) < 0)
                return fail_errno(t, errno > 0 ? -errno : -ENOMEM, "Cannot watch");

        r = ask_watch(watch, from_revision, false, &watch->revision);
        if (r < 0)
                return r;
        watch->next = from_revision > 0 ? from_revision : watch->revision + 1;
        if (flags & TREATY_WATCH_RESUME)
                ask_cluster(watch, watch->cluster);
        *ret = TAKE(watch);
        return 0;
}

_public_ uint64_t treaty_watch_revision(const treaty_watch *watch) {
        return watch->revision;
}

_public_ int treaty_watch_fd(const treaty_watch *watch) {
        return watch->epoll_fd;
}

/* ---- Away and back ---- */

static int over(treaty_watch *watch, int error) {
        close_stream(watch);
        watch->over = error;
        return error;
}

static void try_later(treaty_watch *watch, uint64_t usec) {
        struct itimerspec spec = {
                .it_value.tv_sec = (time_t)(usec / USEC_PER_SEC),
                .it_value.tv_nsec = (long)(usec % USEC_PER_SEC) * 1000 + 1,
        };
        (void)timerfd_settime(watch->timer_fd, 0, &spec, NULL);
}

/* A stream that ends as soon as it began must not make us spin: the waits grow until one lives or brings
 * something. */
static void back_off(treaty_watch *watch) {
        try_later(watch, watch->backoff_usec);
        watch->backoff_usec = MIN(watch->backoff_usec * 2, BACKOFF_MAX_USEC);
}

/* The stream is gone. 0: away; negative: over. */
static int stream_ended(treaty_watch *watch) {
        if (!(watch->flags & TREATY_WATCH_RESUME)) {
                fail(watch->t, -EPIPE, NULL, "The agent ended the watch; watch again from revision %llu",
                     (unsigned long long)watch->next);
                return over(watch, -EPIPE);
        }
        close_stream(watch);
        watch->n_skip = watch->n_given;
        if (now_usec() - watch->begun_usec > BACKOFF_MAX_USEC)
                watch->backoff_usec = BACKOFF_MIN_USEC;
        back_off(watch);
        return 0;
}

static bool error_is_final(int error) {
        return error == -EACCES || error == -EINVAL || error == -ENOMEM || error == -EOPNOTSUPP;
}

static int give_compacted(treaty_watch *watch, uint64_t revision, const treaty_event **ret) {
        watch->next = revision;
        watch->n_given = watch->n_skip = 0;
        watch->event =
                (treaty_event){.kind = TREATY_COMPACTED, .last = true, .path = "", .revision = revision};
        *ret = &watch->event;
        return 1;
}

/* The tree that answers is another one: its revisions begin anew. */
static int adopt_cluster(treaty_watch *watch, const char *cluster, uint64_t revision,
                         const treaty_event **ret) {
        uint64_t answered;
        int r = ask_watch(watch, revision + 1, true, &answered);
        if (r < 0)
                return r;
        strcpy(watch->cluster, cluster);
        return give_compacted(watch, revision + 1, ret);
}

static int resume_now(treaty_watch *watch, const treaty_event **ret) {
        char cluster[sizeof(watch->cluster)];
        uint64_t revision;
        int r;

        r = ask_watch(watch, watch->next, true, &revision);
        if (r < 0)
                return r;
        ask_cluster(watch, cluster);
        if (cluster[0] && watch->cluster[0] && strcmp(cluster, watch->cluster) != 0)
                return adopt_cluster(watch, cluster, revision, ret);
        if (cluster[0])
                strcpy(watch->cluster, cluster);
        return 0;
}

/* 1: *ret is an event; 0: go on; -EAGAIN: not now. */
static int resume(treaty_watch *watch, const treaty_event **ret) {
        uint64_t ticks, timeout_usec = watch->t->timeout_usec;
        int r;

        if (read(watch->timer_fd, &ticks, sizeof(ticks)) < 0)
                return -EAGAIN;
        watch->t->timeout_usec = MIN(timeout_usec, TRY_TIMEOUT_USEC);
        r = resume_now(watch, ret);
        watch->t->timeout_usec = timeout_usec;
        if (r >= 0)
                return r;
        if (error_is_final(r))
                return over(watch, r);
        close_stream(watch);
        back_off(watch);
        return -EAGAIN;
}

/* ---- Reading ---- */

static int reserve(treaty_watch *watch, size_t size) {
        size_t capacity = MAX(watch->capacity, BUFFER_BYTES_FIRST);
        uint8_t *larger;

        assert(size <= RECORD_BYTES_MAX);
        if (watch->begin > 0) {
                memmove(watch->buffer, watch->buffer + watch->begin, watch->end - watch->begin);
                watch->end -= watch->begin;
                watch->begin = 0;
        }
        while (capacity < size)
                capacity *= 2;
        if (capacity == watch->capacity)
                return 0;
        larger = realloc(watch->buffer, capacity);
        if (!larger)
                return -ENOMEM;
        watch->buffer = larger;
        watch->capacity = capacity;
        return 0;
}

/* Reads towards a record of `size` bytes. 1: something came; 0: nothing now; -EPIPE: the stream ended. */
static int fill(treaty_watch *watch, size_t size) {
        ssize_t n;
        int r = reserve(watch, size);
        if (r < 0)
                return r;
        do
                n = read(watch->stream_fd, watch->buffer + watch->end, watch->capacity - watch->end);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == EAGAIN ? 0 : -EPIPE;
        if (n == 0)
                return -EPIPE;
        watch->end += (size_t)n;
        return 1;
}

/* Counts a record; was it given before the stream ended? */
static bool count_record(treaty_watch *watch, const Record *record) {
        if (record->revision < watch->next)
                return true;
        if (record->revision > watch->next) {
                watch->next = record->revision;
                watch->n_given = watch->n_skip = 0;
        }
        if (watch->n_skip > 0) {
                watch->n_skip--;
                return true;
        }
        watch->n_given++;
        if (record->last) {
                watch->next = record->revision + 1;
                watch->n_given = 0;
        }
        return false;
}

static int give_event(treaty_watch *watch, const Record *record, const treaty_event **ret) {
        memcpy(watch->event_path, record->path.data, record->path.size);
        watch->event_path[record->path.size] = 0;
        watch->event = (treaty_event){
                .kind = (treaty_kind)record->kind,
                .last = record->last,
                .existed = record->had_previous,
                .path = watch->event_path,
                .value = record->value.data,
                .value_size = record->value.size,
                .previous = record->previous.data,
                .previous_size = record->previous.size,
                .revision = record->revision,
                .create_revision = record->create_revision,
                .version = record->version,
        };
        *ret = &watch->event;
        return 1;
}

/* An end record. A resuming watch keeps OVERFLOW to itself: nothing is lost, the rest comes from history. */
static int take_end(treaty_watch *watch, const Record *record, const treaty_event **ret) {
        bool resumes = watch->flags & TREATY_WATCH_RESUME;

        if (record->revision > watch->next) {
                watch->next = record->revision;
                watch->n_given = 0;
        }
        if (resumes) {
                uint64_t revision = record->revision;
                bool compacted = record->kind == RECORD_COMPACTED;
                int r = stream_ended(watch);
                return compacted ? give_compacted(watch, MAX(revision, UINT64_C(1)), ret) : r;
        }
        give_event(watch, record, ret);
        fail(watch->t, -EPIPE, NULL, "The watch is over; watch again from revision %llu",
             (unsigned long long)record->revision);
        watch->over = -EPIPE;
        return 1;
}

static int take_record(treaty_watch *watch, const Record *record, const treaty_event **ret) {
        switch (record->kind) {
        case RECORD_PUT:
        case RECORD_DELETE:
                return count_record(watch, record) ? 0 : give_event(watch, record, ret);
        case RECORD_MARK:
                if (record->revision >= watch->next) {
                        watch->next = record->revision + 1;
                        watch->n_given = watch->n_skip = 0;
                }
                return give_event(watch, record, ret);
        case RECORD_COMPACTED:
        case RECORD_OVERFLOW:
                return take_end(watch, record, ret);
        }
        return 0;
}

/* 1: *ret is an event; 0: go on; -EAGAIN: nothing now; else over. */
static int step(treaty_watch *watch, const treaty_event **ret) {
        Record record;
        size_t size;
        RecordVerdict verdict;
        int r;

        if (watch->stream_fd < 0)
                return resume(watch, ret);

        watch->begin += watch->given_size;
        watch->given_size = 0;
        verdict =
                record_parse(BYTES(watch->buffer + watch->begin, watch->end - watch->begin), &record, &size);
        if (verdict == RECORD_OK) {
                watch->given_size = size;
                watch->backoff_usec = BACKOFF_MIN_USEC; /* it works again */
                return take_record(watch, &record, ret);
        }
        if (verdict != RECORD_SHORT) {
                fail(watch->t, -EBADMSG, NULL,
                     "A record of the watch %s: restart treatyd.service and report it",
                     record_verdict_text(verdict));
                return over(watch, -EBADMSG);
        }
        r = fill(watch, size);
        if (r == 0)
                return -EAGAIN;
        if (r == -EPIPE)
                return stream_ended(watch);
        if (r < 0) {
                fail_errno(watch->t, r, "Cannot watch");
                return over(watch, r);
        }
        return 0;
}

_public_ int treaty_watch_next(treaty_watch *watch, const treaty_event **ret) {
        *ret = NULL;
        for (;;) {
                if (watch->over)
                        return watch->over;
                int r = step(watch, ret);
                if (r == -EAGAIN)
                        return 0;
                if (r != 0)
                        return r;
        }
}
