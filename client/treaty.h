/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libtreaty: the agreed tree of treaty for C programs.
 *
 * A program talks to the agent of its own host, never to another host. Calls are synchronous and bounded in
 * time; changes arrive through a file descriptor that any event loop can poll. Whoever wants asynchronous
 * calls takes the sd_bus of the connection (treaty_get_bus) and the interfaces documented in org.treaty1(5).
 *
 *      treaty *t = NULL;
 *      uint64_t revision;
 *
 *      if (treaty_open(TREATY_RECONNECT, &t) < 0 || treaty_set(t, "/config/web/port", "8080", 4, &revision)
 * < 0) fprintf(stderr, "%s\n", treaty_error(t)); treaty_close(t);
 *
 * Errors: every function that can fail returns 0 (or a documented positive answer) or a negative errno, and
 * leaves a sentence for a person in treaty_error(). What the errno values mean is said once, below.
 *
 * Limits: paths are absolute, UTF-8, at most 1024 bytes, without empty, "." or ".." segments; values are any
 * bytes, at most 1 MiB (TREATY_VALUE_MAX). Times are microseconds. Revisions begin at 1 and only rise; 0
 * never names one.
 *
 * Threads: a connection and its watches belong to one thread at a time. Forks: close them, do not use them.
 *
 * Growth: structs are made by the library only and grow at their end; unknown flags are refused with
 * -EINVAL. "Since" is 0.1 where nothing else is said. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sd_bus;

#define TREATY_PATH_MAX        1024u
#define TREATY_VALUE_MAX       (1024u * 1024u)
#define TREATY_TIMEOUT_DEFAULT UINT64_C(10000000)
#define TREATY_UNKNOWN         UINT64_MAX /* an age that nobody knows */

/* clang-format off */
/* ---- What went wrong ----
 *
 *  -EACCES          the access rules do not grant this
 *  -EAGAIN          this host's session ended meanwhile; try again
 *  -EALREADY        join: this host is a member already
 *  -EBADMSG         join: not a token; watch: the stream is broken
 *  -EBUSY           too many requests in flight; try again
 *  -ECONNREFUSED    the agent is not running
 *  -ECONNRESET      the connection ended during the call: a write may or may not have been applied
 *  -EEXIST          there is an entry (or another owner) already
 *  -EHOSTUNREACH    join: no address of the token answers
 *  -EILSEQ          not text
 *  -EINPROGRESS     offered, its fate is not known yet: treaty_request() names it, treaty_outcome() asks
 *  -EINVAL          a path, name, option or flag is not valid
 *  -EKEYEXPIRED     join: the token has expired
 *  -EKEYREJECTED    join: the token is used up
 *  -EMSGSIZE        the value is larger than 1 MiB
 *  -ENETDOWN        no quorum: it was never offered and will never be applied
 *  -ENOBUFS         a limit (watches, registrations)
 *  -ENOENT          no such entry, service or request
 *  -ENOLINK         this host is no member (any more)
 *  -ENOMEM          memory
 *  -ENOSPC          the host's disk is full
 *  -ENOTEMPTY       join: the local tree holds something
 *  -ENOTUNIQ        join: the host name is taken
 *  -EOPNOTSUPP      the agent is too old for this call
 *  -EPERM           remove: it is the last voter
 *  -EPIPE           the watch is over
 *  -EROFS           this host cannot apply writes
 *  -ESHUTDOWN       the agent is about to stop
 *  -ESRCH           no such member
 *  -ESTALE          the entry is not at the revision asked for
 *  -ETIMEDOUT       no answer in time (of a read, or of the agent itself)
 *  -EUCLEAN         what is stored on this host is damaged
 *  -EIO             anything else: see treaty_error() */
/* clang-format on */

/* ---- Connection ---- */

typedef struct treaty treaty;

enum {
        /* A call that finds the connection ended before it was sent connects anew, once. A call whose
         * connection ends *after* it was sent is never repeated (-ECONNRESET). Without this flag an ended
         * connection stays ended. */
        TREATY_RECONNECT = 1 << 0,
        /* Polkit may ask the user for a password where a call needs it. */
        TREATY_INTERACTIVE = 1 << 1,
        /* Only the system bus, or only the private socket /run/treaty/private; the default is the private
         * socket and, where it is absent or closed to the caller, the system bus. */
        TREATY_SYSTEM_BUS = 1 << 2,
        TREATY_PRIVATE = 1 << 3,
        /* Connect with the first call, within its timeout, not now. Needs TREATY_RECONNECT. */
        TREATY_LAZY = 1 << 4,
};

/* Connects to the agent of this host. *ret is set in any case but -ENOMEM and -EINVAL (so that
 * treaty_error() can tell), to be given to treaty_close(). -ECONNREFUSED, -ETIMEDOUT, -EACCES. On the system
 * bus it is only the first call that hears whether the agent runs. */
int treaty_open(unsigned flags, treaty **ret);
/* The agent of another host by ssh ("[user@]host"), as systemctl -H; of a local container, as systemctl -M.
 */
int treaty_open_remote(const char *host, unsigned flags, treaty **ret);
int treaty_open_machine(const char *machine, unsigned flags, treaty **ret);
/* Over a connected bus of the caller; takes a reference. TREATY_RECONNECT is refused. */
int treaty_open_bus(struct sd_bus *bus, unsigned flags, treaty **ret);
/* Watches of the connection must be closed before. Accepts NULL, returns NULL. */
treaty *treaty_close(treaty *t);

/* Deadline of each call that follows: at least 1 ms; default 10 s. The agent keeps it too; the library waits
 * two seconds longer for the agent's own answer. */
int treaty_set_timeout(treaty *t, uint64_t timeout_usec);
/* The bus, for asynchronous calls to "org.treaty1"; borrowed, valid until the next call on t. NULL when
 * ended. */
struct sd_bus *treaty_get_bus(treaty *t);

/* About the last call on t that failed: a sentence; the D-Bus error name or NULL; after -EINPROGRESS the
 * request, else NULL. Owned by t, valid until the next call on it. treaty_error(NULL) says that memory ran
 * out. */
const char *treaty_error(const treaty *t);
const char *treaty_error_name(const treaty *t);
const char *treaty_request(const treaty *t);

/* Version of the library, for instance "0.1.0". */
const char *treaty_version(void);

/* ---- Entries ---- */

typedef struct treaty_entry {
        const char *path;
        const void *value; /* value_size bytes, and a NUL behind them that does not count; never NULL */
        size_t value_size;
        uint64_t create_revision; /* 0 in lists of children: only a directory */
        uint64_t mod_revision;
        uint64_t version; /* changes since its creation */
        /* treaty_get() only: */
        uint64_t revision; /* the tree's, on this host */
        uint64_t age_usec; /* how old this host's knowledge is at most; TREATY_UNKNOWN */
        const char *owner; /* host that owns an ephemeral entry, or NULL */
} treaty_entry;

enum {
        TREATY_LINEARIZABLE = 1 << 0, /* get, list: ask the leader first; -ENETDOWN when there is none */
        TREATY_CHILDREN = 1 << 1,     /* list: direct children only */
        TREATY_NO_VALUES = 1 << 2,    /* list: without values */
        TREATY_RECURSIVE = 1 << 3,    /* delete: with all entries below (at most 16,384), in one revision */
};

/* Reads one entry. flags: TREATY_LINEARIZABLE. min_revision: wait until the host has applied it; 0: do not
 * wait. *ret is the caller's: treaty_entry_free(). -ENOENT, -ENETDOWN, -ETIMEDOUT. */
int treaty_get(treaty *t, const char *path, unsigned flags, uint64_t min_revision, treaty_entry **ret);
treaty_entry *treaty_entry_free(treaty_entry *entry); /* accepts NULL, returns NULL */

/* Writes a value, whatever was there; if_mod_revision: only if the entry's mod_revision is this (0: only if
 * it is absent). create: only if absent. *ret_revision (may be NULL): the revision it made. -ENETDOWN,
 * -EINPROGRESS, -EBUSY, -EMSGSIZE, -ENOSPC; -ESTALE (set_if); -EEXIST (create); -ENOENT (delete). */
int treaty_set(treaty *t, const char *path, const void *value, size_t size, uint64_t *ret_revision);
int treaty_set_if(treaty *t, const char *path, const void *value, size_t size, uint64_t if_mod_revision,
                  uint64_t *ret_revision);
int treaty_create(treaty *t, const char *path, const void *value, size_t size, uint64_t *ret_revision);
/* flags: TREATY_RECURSIVE. */
int treaty_delete(treaty *t, const char *path, unsigned flags, uint64_t *ret_revision);

/* Calls each() for every entry at and below path ("/": all) in byte order; the entry is valid inside each()
 * only, which must not use t. each() returns 0 to go on; anything else ends the list and is returned. Long
 * lists are fetched in pages: one page is of one revision, the whole need not be. *ret_revision (may be
 * NULL): revision of the *first* page, so that a watch from *ret_revision + 1 misses nothing. flags:
 * TREATY_LINEARIZABLE, TREATY_CHILDREN, TREATY_NO_VALUES. */
int treaty_list(treaty *t, const char *path, unsigned flags,
                int (*each)(const treaty_entry *entry, void *userdata), void *userdata,
                uint64_t *ret_revision);

/* Waits until something at or below path changed after revision `after`. timeout_usec: 0 = 20 s, at most 20
 * s. 1: changed; 0: not within the time. *ret_revision: pass as `after` next time. Watches are the better
 * way for anything that runs for long. */
int treaty_wait(treaty *t, const char *path, uint64_t after, uint64_t timeout_usec, uint64_t *ret_revision);

typedef enum treaty_fate {
        TREATY_APPLIED,
        TREATY_NEVER,     /* it was not applied and never will be */
        TREATY_UNDECIDED, /* ask again */
        TREATY_TOO_OLD,   /* its record was dropped after an hour */
} treaty_fate;

/* What became of a request that ended in -EINPROGRESS. *ret_revision (may be NULL): of TREATY_APPLIED. */
int treaty_outcome(treaty *t, const char *request, treaty_fate *ret, uint64_t *ret_revision);

/* ---- Watches ---- */

typedef struct treaty_watch treaty_watch;

enum {
        TREATY_WATCH_SUBTREE = 1 << 0,  /* the entry and all below, not only the entry */
        TREATY_WATCH_PREVIOUS = 1 << 1, /* events carry the previous value */
        TREATY_WATCH_MARKS = 1 << 2,    /* progress marks about every 10 s */
        /* When the stream ends (the agent restarts, the reader was too slow) watch again from the next
         * revision, as often as needed. The connection must have been opened with TREATY_RECONNECT. */
        TREATY_WATCH_RESUME = 1 << 3,
};

typedef enum treaty_kind {
        TREATY_PUT = 1,
        TREATY_DELETE = 2,
        TREATY_MARK = 3, /* everything up to revision was delivered */
        /* Changes before revision are no longer known (or the host joined another cluster): list again. A
         * resuming watch goes on from revision, any other is over. */
        TREATY_COMPACTED = 4,
        TREATY_OVERFLOW =
                5, /* not read fast enough; over: watch again from revision. Never seen with RESUME. */
} treaty_kind;

typedef struct treaty_event {
        treaty_kind kind;
        bool last;        /* the last event of its revision in this watch */
        bool existed;     /* PUT, DELETE: there was a value before */
        const char *path; /* PUT, DELETE; else "" */
        const void *value;
        size_t value_size;
        const void *previous; /* with TREATY_WATCH_PREVIOUS */
        size_t previous_size;
        uint64_t revision;
        uint64_t create_revision;
        uint64_t version;
} treaty_event;

/* Watches path from revision from_revision on; 0: what comes after now. Every event arrives once, in order,
 * and no revision is split by the end of a stream. path "/": with TREATY_WATCH_SUBTREE, everything. t must
 * stay open until treaty_watch_close(). -ENOBUFS. */
int treaty_watch_open(treaty *t, const char *path, unsigned flags, uint64_t from_revision,
                      treaty_watch **ret);
/* The revision of the tree on this host when the watch was opened. */
uint64_t treaty_watch_revision(const treaty_watch *watch);
/* To be polled for POLLIN; the same for the life of the watch; not to be read or closed by the caller. */
int treaty_watch_fd(const treaty_watch *watch);
/* 1: *ret is the next event, valid until the next call on the watch; 0: none now, poll the fd (and only
 * then: events may wait in memory). -EPIPE: the watch is over (the stream ended, or its last event said so);
 * -EBADMSG: what came is not a stream of treaty. A resuming watch fails only when the agent refuses it for
 * good (-EACCES, -EINVAL) or memory runs out; while the agent is away it tries again after 0.1 s to 5 s, and
 * treaty_watch_next() may take up to 2 s for such a try. The text of errors is in treaty_error() of the
 * connection. */
int treaty_watch_next(treaty_watch *watch, const treaty_event **ret);
treaty_watch *treaty_watch_close(treaty_watch *watch); /* accepts NULL, returns NULL */

/* ---- Services ---- */

/* Registers an instance of a service on this host for as long as *ret_fd (close-on-exec, the caller's) is
 * open in any process. name: at most 64 letters, digits, '-', '_', '.'. port 0: none. options: NULL, or a
 * NULL-terminated array of "address=A", "priority=N", "weight=N" (0 to 65535), "ttl=SECONDS", "text=T"
 * (repeatable), "property=KEY=VALUE" (repeatable). The agent hangs up the fd (POLLHUP) when it can no longer
 * keep the registration: register again. -EEXIST: somebody else holds this instance. */
int treaty_register(treaty *t, const char *name, uint16_t port, const char *const *options, int *ret_fd,
                    uint64_t *ret_revision);

typedef struct treaty_instance {
        const char *name;
        const char *host;
        const char *address;
        uint16_t port;
        uint16_t priority;
        uint16_t weight;
        uint64_t revision; /* treaty_services() only */
        const char *json;  /* treaty_services() only: the whole value */
} treaty_instance;

/* All instances of all services (name NULL or "") or of one, sorted by name, host, port; each() as in
 * treaty_list(). */
int treaty_services(treaty *t, const char *name,
                    int (*each)(const treaty_instance *instance, void *userdata), void *userdata);
/* Instances of one service in the order in which to try them: lowest priority first, within it random by
 * weight (RFC 2782). -ENOENT: there is none. */
int treaty_resolve(treaty *t, const char *name, int (*each)(const treaty_instance *instance, void *userdata),
                   void *userdata);

/* ---- Cluster ---- */

typedef struct treaty_status {
        const char *cluster_id;
        const char *host_id;
        const char *host_name;
        const char *role;   /* "leader", "follower", "candidate", "observer", "removed" */
        const char *leader; /* "" when unknown */
        const char *state; /* "running", "no-quorum", "disk-full", "damaged", "halted", "joining", "removed",
                               "no-tree", "diverged", "quarantined" */
        const char *version; /* of the agent */
        uint64_t term;
        uint64_t applied_index;
        uint64_t commit_index;
        uint64_t revision; /* of the tree; 0 where the caller may not read it */
        uint32_t member_count;
        uint32_t voter_count;
        bool quorate;
} treaty_status;

int treaty_get_status(treaty *t, treaty_status **ret);
treaty_status *treaty_status_free(treaty_status *status); /* accepts NULL, returns NULL */

typedef struct treaty_member {
        const char *id; /* 16 hex digits */
        const char *name;
        const char *member_class; /* "member", "leaf" */
        const char *role;         /* "voter", "observer" */
        bool leader;
        bool connected;
        uint64_t applied;             /* 0: unknown */
        const char *const *addresses; /* NULL-terminated */
} treaty_member;

int treaty_members(treaty *t, int (*each)(const treaty_member *member, void *userdata), void *userdata);

/* A text with which other hosts join, and, the first time, listening for them. lifetime_usec: 0 = one hour,
 * at most 30 days. uses: 0 = 1, at most 10000. member_class: NULL = "member", or "leaf". addresses: NULL =
 * what the host listens on, or a NULL-terminated array of "host:port" where joiners find it. *ret: free().
 */
int treaty_token(treaty *t, uint64_t lifetime_usec, unsigned uses, const char *member_class,
                 const char *const *addresses, char **ret);
int treaty_revoke_token(treaty *t, const char *token_or_id);
/* Makes this host a member; answers when it has applied its own membership. discard: give up what the local
 * tree holds. *ret_cluster_id (may be NULL): free(). Give it a timeout of a minute: treaty_set_timeout(). */
int treaty_join(treaty *t, const char *token, bool discard, char **ret_cluster_id);
/* By name or id; a voter is demoted first. */
int treaty_remove(treaty *t, const char *host);
/* To this host by name or id, or (NULL or "") the best. */
int treaty_transfer(treaty *t, const char *host);
/* Reads all of this host's tree again: 0 when every row is as it was written; else -EAGAIN, and the host
 * fetches its tree again from another. *ret_rows (may be NULL): how many there are. Give it time:
 * treaty_set_timeout().
 */
int treaty_scrub(treaty *t, uint64_t *ret_rows);

#ifdef __cplusplus
}
#endif
