/* The tree: the agreed state, in SQLite, on every host. Apply is a pure function of (entry, tree): no local
 * clock, no randomness, the same rows, events and results everywhere. docs/DISK.md draws the tables.
 *
 * Values are stored once, in revision order, in an append-mostly table; a small index points at the newest
 * revision of each key. Everything happens in one open transaction on the writer connection, which local
 * reads share (so they see all that is applied) and which is committed by tree_commit() every 100 ms or
 * 1,000 dirty pages. What is not committed is lost with the process, and replayed from the log: the applied
 * index lies in the same transaction.
 *
 * Threads: all calls come from the loop's thread. The maintenance thread inside owns the checkpointing
 * connection; its news is heard through tree_fd(). */
#pragma once

#include "../base/command.h"
#include "../base/conf.h"
#include "../base/entry.h"
#include "../base/report.h"

typedef struct Tree Tree;

typedef struct TreeOptions {
        const char *directory;
        Report report;
        uint32_t version; /* trees into which entries of a higher one were applied are refused; 0: none is */
        bool thread;      /* maintenance thread; without it tree_maintain() does the work in the caller's */
        size_t wal_bytes; /* cap; the default is 16 MiB, an agent has 4 */
        size_t cache_bytes; /* SQLite's page cache, 4 MiB */
        int event_fd; /* for its news, borrowed (an eventfd): one tree after the other uses it. 0: its own */
} TreeOptions;

/* Outcomes, positive. */
enum {
        TREE_ROTTEN = 1, /* a checksum is wrong: stop serving, fetch again */
        TREE_NEWER,      /* written by a newer treaty, or with entries applied that need one */
        TREE_NONE,       /* no such file, entry, row */
        TREE_COMPACTED,  /* below the history floor; see tree_status() */
        TREE_HALTED,     /* the entry needs a newer host: apply stops here, reads go on */
        TREE_FULL,       /* disk full: the open transaction was rolled back, see tree_apply() */
};

/* ---- Life ---- */

/* Creates a new, empty tree file with a name of its own, tree-<index>-<random>.db, synced. */
int tree_create(const TreeOptions *options, const char *name);
int tree_open(Tree **ret, const TreeOptions *options, const char *name);
/* Before a stop that calls itself clean: 0 = all that was applied is committed and durable. */
int tree_finish(Tree *tree);
Tree *tree_close(Tree *tree);   /* commits and checkpoints; accepts NULL */
Tree *tree_abandon(Tree *tree); /* as kill -9: nothing more is written */
/* Removes tree files (and their -wal, -shm, half-built ones) in the directory other than `keep`; NULL: only
 * half-built ones. */
int tree_sweep(const TreeOptions *options, const char *keep);
DEFINE_CLEANUP(Tree *, tree_close);

typedef struct TreeStatus {
        uint64_t applied, applied_term; /* newest applied entry */
        uint64_t committed;             /* applied index of the last SQLite COMMIT (survives kill -9) */
        uint64_t durable;               /* … that is checkpointed and synced (survives power loss) */
        uint64_t revision;              /* newest */
        uint64_t floor;                 /* oldest revision that watches and reads may ask for */
        uint64_t cluster_usec;
        uint64_t n_entries; /* live keys */
        Conf conf;          /* newest committed configuration applied */
        uint64_t conf_index;
        uint8_t cluster[16]; /* cluster id; zero before the founder's entry */
        uint64_t restore_epoch;
} TreeStatus;

void tree_status(const Tree *tree, TreeStatus *ret);

/* ---- Apply ---- */

typedef enum TreeChangeKind { TREE_PUT = 1, TREE_DELETE = 2 } TreeChangeKind;

/* One changed entry; pointers are valid during the callback. */
typedef struct TreeChange {
        TreeChangeKind kind;
        const char *path;
        Bytes value;    /* PUT */
        Bytes previous; /* value before, empty if none, or if nobody wants it: tree_want_previous() */
        bool had_previous;
        uint64_t revision, create_revision, version;
        uint64_t owner_host; /* 0: not ephemeral */
        bool last;           /* of its revision */
} TreeChange;

typedef void (*TreeListener)(const TreeChange *change, void *userdata);

/* Applies the next entry: index must be applied + 1 (else -EINVAL). NOOP and CONF entries come here too
 * (command NULL; `conf` for CONF). `signature_valid`: for ADD_MEMBER, whether the signature is by the
 * token's public key (see tree_token(); the hall checks it, the tree knows no keys). Fills *ret with the
 * replicated result and calls the listener for each change, in order. 0, TREE_HALTED (stamp.min_version
 * above `version`), TREE_FULL (the whole open transaction is gone: tree_status().applied is back at
 * .committed; apply again from there when there is room), or -errno: the host has to stop, never to skip. */
int tree_apply(Tree *tree, const Entry *entry, const EntryStamp *stamp, const Command *command,
               const Conf *conf, bool signature_valid, uint32_t version, TreeListener listener,
               void *userdata, Result *ret);

/* Do changes bring the value before (as they do at first)? It has to be read, which is most of a write's
 * cost: only for who has somebody to tell it to. */
void tree_want_previous(Tree *tree, bool wanted);

/* Ends the open transaction: call when it is 100 ms old or tree_dirty() says so. 0, TREE_FULL, -errno. While
 * a checkpoint runs it answers 0 and leaves the transaction open: tree_status().committed tells, tree_fd()
 * when to try again. After TREE_FULL the entries behind .committed are applied again, and the listener hears
 * their changes again, the same: who passes them on drops what is not above the revision already told. */
int tree_commit(Tree *tree);
/* For who reads many entries at a time and says each time when that is over (nobody else needs to call it):
 * from the first call on reads share what SQLite locks, until the next call. */
void tree_rest(Tree *tree);
bool tree_dirty(const Tree *tree,
                bool *ret_urgent); /* anything open; urgent: 1,000 pages, or the WAL needs a rest */
/* Ask for a checkpoint of what is committed; tree_status().durable rises when it is done and tree_fd()
 * becomes readable. News without the index one waits for means: somebody else read the file (an operator's
 * sqlite3) or the disk is full; ask again. */
void tree_checkpoint(Tree *tree);
int tree_fd(const Tree *tree);        /* -1 without a thread */
bool tree_has_news(const Tree *tree); /* it is readable, or about to be */
/* Takes news from the thread (without a thread: does its work), and prunes a slice. 0, TREE_FULL (as from
 * tree_apply()), -errno = fatal. */
int tree_maintain(Tree *tree);
void tree_take_news(Tree *tree); /* only that: of a tree that is not asked for anything any more */

/* The founder's first act on an empty tree, before any entry: cluster id, restore epoch, founding member,
 * its configuration {founder}. Part of the file, not of the log; synced. */
int tree_found(Tree *tree, const uint8_t cluster[static 16], const Member *founder);

/* ---- Reading (everything applied, at the newest revision) ---- */

typedef struct TreeEntry {
        const char *path; /* these pointers are valid until the next call on the tree */
        Bytes value;
        uint64_t create_revision, mod_revision, version;
        uint64_t owner_host, owner_generation; /* 0: not ephemeral */
        const char *owner_tag;
} TreeEntry;

int tree_get(Tree *tree, const char *path, TreeEntry *ret); /* 0, TREE_NONE, TREE_ROTTEN */

enum {
        TREE_LIST_CHILDREN = 1u << 0, /* direct children only, in the order of their names */
        TREE_LIST_NAMES = 1u << 1,    /* path and mod_revision only: the rest is not read */
};

/* Entries below (and at) `subtree`, behind path `after` ("" from the beginning), in byte order; at most
 * `limit` and `max_bytes` (at least one). Calls each(); it may stop with a positive value (the answer is 0,
 * *ret_more is set) or a negative one (which is the answer). *ret_more: there are more. CHILDREN also
 * reports directories that have no entry of their own: path of the child, mod_revision 0. */
int tree_list(Tree *tree, const char *subtree, const char *after, uint32_t flags, uint32_t limit,
              size_t max_bytes, int (*each)(const TreeEntry *entry, void *userdata), void *userdata,
              bool *ret_more);

/* Changes below `subtree` of revisions from..to, in order, for watches that catch up: whole revisions only,
 * at least one, until max_bytes or 4,096 rows are passed, so it may deliver nothing and still go on.
 * *ret_next: first revision not looked at; `to` + 1 when all are. `last` is the last match of its revision.
 * 0, TREE_COMPACTED (*ret_next: the floor), TREE_ROTTEN. */
int tree_history(Tree *tree, const char *subtree, uint64_t from, uint64_t to, size_t max_bytes,
                 TreeListener listener, void *userdata, uint64_t *ret_next);
/* Newest revision at which anything at or below `subtree` changed (deletes too); at least the floor, above
 * which it is exact. Costs a walk over the subtree's keys (100,000: some 25 ms). For Wait. */
int tree_changed(Tree *tree, const char *subtree, uint64_t *ret_revision);

/* Entries owned by (host, generation; 0 = any). */
int tree_owned(Tree *tree, uint64_t host, uint64_t generation, int (*each)(const TreeEntry *, void *),
               void *userdata);

/* ---- Members, sessions, requests, tokens ---- */

int tree_member(Tree *tree, uint64_t id, Member *ret); /* 0, TREE_NONE */
int tree_member_by_key(Tree *tree, const uint8_t key[static KEY_HASH_BYTES], Member *ret);
int tree_member_by_name(Tree *tree, const char *name, Member *ret);
int tree_members(Tree *tree, int (*each)(const Member *member, void *userdata), void *userdata); /* by id */
bool tree_member_removed(Tree *tree, uint64_t id); /* was a member once */

typedef struct TreeSession {
        uint64_t host, generation;
        uint64_t lasts_usec; /* after so long a silence it ends */
        bool attached;       /* false: ended */
} TreeSession;
int tree_session(Tree *tree, uint64_t host, TreeSession *ret); /* 0, TREE_NONE */
int tree_sessions(Tree *tree, int (*each)(const TreeSession *session, void *userdata), void *userdata);

int tree_token(Tree *tree, const uint8_t id[static TOKEN_ID_BYTES], Token *ret); /* 0, TREE_NONE */

typedef enum TreeOutcome {
        TREE_OUTCOME_APPLIED = 1,
        TREE_OUTCOME_NEVER, /* a later serial or incarnation decided that it never will */
        TREE_OUTCOME_UNDECIDED,
        TREE_OUTCOME_TOO_OLD, /* its row was dropped */
} TreeOutcome;
/* What became of request (host, incarnation, serial); *ret_result when applied. */
TreeOutcome tree_outcome(Tree *tree, uint64_t host, uint64_t incarnation, uint64_t serial,
                         Result *ret_result);
/* The incarnation in the row of `host` and its nonce; TREE_NONE when it never announced. */
int tree_incarnation(Tree *tree, uint64_t host, uint64_t *ret_incarnation, uint8_t ret_nonce[static 16]);

typedef struct TreeStart {
        uint64_t start;
        uint8_t nonce[16];
        bool twice; /* two nonces of this start announced themselves */
} TreeStart;

/* The newest start of `host` that was announced; TREE_NONE when there was none. */
int tree_start(Tree *tree, uint64_t host, TreeStart *ret);

/* ---- Digest and snapshots ---- */

typedef struct TreeDigest {
        uint8_t sum[16];
} TreeDigest;
/* Over everything that apply may read, kept up to date incrementally; history is left out. */
void tree_digest(const Tree *tree, TreeDigest *ret);
/* Reads everything again and computes the digest anew: 0 equal, TREE_ROTTEN. In one go, for tests and small
 * trees. */
int tree_scrub(Tree *tree);
/* The same in slices of so many rows (or half a MiB), between which the tree goes on changing; after the
 * last one it begins anew. *ret_read: rows of this pass so far. */
int tree_scrub_slice(Tree *tree, size_t max_rows, uint64_t *ret_read, bool *ret_done);
void tree_scrub_anew(Tree *tree); /* the next slice is the first of a pass */

/* Sending. At the pin (now), what is not kept by revision is copied aside; then rows follow in pages while
 * applying goes on. Chunks are bytes for tree_build_feed(), in order. */
typedef struct TreeSnapshot TreeSnapshot;
int tree_snapshot_begin(Tree *tree, TreeSnapshot **ret); /* commits first: 0, TREE_FULL, -errno */
uint64_t tree_snapshot_index(const TreeSnapshot *snapshot);
uint64_t tree_snapshot_term(const TreeSnapshot *snapshot);
/* The next chunk, at most about 256 KiB or 256 rows; *ret_done with the last. -ESTALE: the pin was given up.
 */
int tree_snapshot_next(TreeSnapshot *snapshot, Buffer *chunk, bool *ret_done);
TreeSnapshot *tree_snapshot_free(TreeSnapshot *snapshot);

/* Receiving: builds a new tree file, verifies it against the digest sent, syncs file and directory, and
 * reads all of it back before it is named. Nothing is switched: that is the log's record. Bytes from a peer:
 * refused with TREE_ROTTEN when malformed, never trusted. */
typedef struct TreeBuild TreeBuild;
int tree_build_begin(const TreeOptions *options, TreeBuild **ret);
int tree_build_feed(TreeBuild *build, Bytes chunk); /* 0, TREE_ROTTEN, TREE_NEWER, -errno */
/* After the last chunk; `name` has room for 80 bytes. 0, TREE_ROTTEN. */
int tree_build_finish(TreeBuild *build, char *ret_name, uint64_t *ret_index, uint64_t *ret_term);
/* The same beside the loop, for it syncs and reads all of a tree: begun, and asked for until it is no longer
 * -EAGAIN. Nothing is said of what went wrong but the result. Without `thread` it is done at once. */
int tree_build_finish_begin(TreeBuild *build);
int tree_build_finish_take(TreeBuild *build, char *ret_name, uint64_t *ret_index, uint64_t *ret_term);
TreeBuild *tree_build_free(TreeBuild *build); /* removes what is half-built; accepts NULL */
