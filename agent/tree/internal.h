/* What the files of this room share. The layers, each speaking only downwards:
 *
 *      apply.c                                   one entry at a time; exactly once
 *      members.c sessions.c tokens.c requests.c kept.c  what commands mean
 *      entries.c history.c                       changes, reading, pruning
 *      rows.c keys.c                             the two tables below them
 *      records.c                                 the small tables
 *      digest.c                                  hashes; whoever writes a row keeps the sum
 *      file.c maintain.c                         the file, transactions, checkpoints
 *      sql.c                                     statements and SQLite's errors
 *
 * snapshot.c and build.c stand beside them: they carry rows from one tree to another; scrub.c reads
 * all of it again.
 *
 * Functions answer like the door (tree.h): 0, TREE_ROTTEN, TREE_NONE, TREE_FULL, or -errno. */
#pragma once

#include <limits.h>
#include <pthread.h>
#include <sqlite3.h>
#define XXH_STATIC_LINKING_ONLY /* states on the stack */
#include <xxhash.h>
#include "../base/path.h"
#include "tree.h"

typedef unsigned __int128 Sum;

#define TREE_FORMAT         1          /* PRAGMA user_version: newer ones are refused */
#define TREE_APPLICATION_ID 0x74726561 /* "trea": PRAGMA application_id */
#define TREE_PAGE_BYTES     4096

#define TREE_URGENT_PAGES 1000  /* of the open transaction: commit now */
#define TREE_BLOCK_PAGES  8000  /* … and wait for a running checkpoint, else memory has no bound */
#define TREE_SESSION_KEYS 16384 /* entries one session may own: they end in one revision */
#define TREE_KEEP_USEC    (3600 * USEC_PER_SEC) /* ended request rows, in cluster time */
#define TREE_EXPIRE_ROWS  64                    /* of them dropped by one apply */
#define TREE_PRUNE_ROWS   500                   /* in one slice */
#define TREE_SCAN_ROWS    4096                  /* of history in one call */
#define TREE_AT_ONCE      16                    /* rows in one INSERT */
#define TREE_WAITING_ROWS 1024                  /* while a BEGIN would wait for a checkpoint */
#define TREE_KNOWN_KEYS   16384                 /* paths of which memory knows what a write has to know */
#define TREE_WAITING_KEYS 4096                  /* of them: their pointers in the table are old */
#define TREE_NAME_BYTES   40                    /* "tree-<16 hex>-<8 hex>.db" and NUL */

/* ---- Statements ---- */

typedef enum Statement {
        STMT_BEGIN,
        STMT_COMMIT,
        STMT_ROLLBACK,
        STMT_LOOK,
        STMT_LOOK_END,
        STMT_META_LOAD,
        STMT_META_SAVE,
        STMT_KEY_FIND,
        STMT_KEY_INSERT,
        STMT_KEY_DELETE,
        STMT_KEY_RANGE,
        STMT_KEY_NEWEST,
        STMT_NEWEST_PUT,
        STMT_NEWEST_PUT_MANY,
        STMT_NEWEST_DELETE,
        STMT_ROW_GET,
        STMT_ROW_INSERT,
        STMT_ROW_INSERT_MANY,
        STMT_ROW_DELETE,
        STMT_ROW_SCAN,
        STMT_RECORD_GET,
        STMT_RECORD_PUT,
        STMT_RECORD_DELETE,
        STMT_RECORD_RANGE,
        STMT_RECORD_LAST,
        STMT_RECORD_COUNT,
        STMT_INDEX_GET,
        STMT_INDEX_PUT,
        STMT_INDEX_DELETE,
        STMT_INDEX_RANGE,
        STMT_INDEX_NEWEST,
        _STMT_MAX,
} Statement;

/* ---- State ---- */

/* The one row of table `meta`: kept in memory, written with each COMMIT, read again after a rollback. */
typedef struct Meta {
        uint64_t applied, applied_term;
        uint64_t revision, floor;
        uint64_t cluster_usec;
        uint64_t n_entries;
        Conf conf;
        uint64_t conf_index;
        uint8_t cluster[16];
        uint64_t epoch;
        uint32_t min_version; /* the highest of all entries applied, be it by those whose tree was taken */
        Sum digest;           /* of rows and records; tree_digest() adds what is above */
        uint64_t pruned;      /* local: rows before this id have had their predecessors removed */
} Meta;

/* One row of `rows`. Pointers look into the Buffer it was loaded to, or into the command. */
typedef struct Row {
        uint64_t id; /* revision << 20 | number within the revision */
        TreeChangeKind kind;
        uint64_t create_revision, version;
        uint64_t previous; /* id of the row it replaces, 0: none */
        uint64_t owner_host, owner_generation;
        const char *owner_tag;
        const char *key;
        size_t key_size;
        Bytes value;
        Sum sum; /* checksum, and its part of the digest while it lives */
} Row;

#define ROW_SHIFT 20
static inline uint64_t row_revision(uint64_t id) {
        return id >> ROW_SHIFT;
}
static inline uint64_t row_first(uint64_t revision) {
        return revision << ROW_SHIFT;
}
#define ROW_HEAD_BYTES 60 /* see row_head_write() */

/* Kinds of records. Numbers are stored and hashed: never renumber. */
typedef enum RecordKind {
        RECORD_MEMBER = 1,   /* id → Member */
        RECORD_GONE = 2,     /* id of a removed member → when, in cluster time */
        RECORD_SESSION = 3,  /* host → generation, attached, number of entries */
        RECORD_REQUESTS = 4, /* host, incarnation → RequestRow */
        RECORD_TOKEN = 5,    /* id → Token */
        RECORD_KEPT = 6,     /* host → outcomes that a caller may still ask for */
        _RECORD_MAX,
} RecordKind;

/* Kinds of index rows: derived from rows and records, in no digest and no snapshot. */
typedef enum IndexKind {
        INDEX_NAME = 1,  /* member's name → id */
        INDEX_KEY = 2,   /* member's key hash → id */
        INDEX_OWNED = 3, /* host, generation, path → 0 */
        INDEX_EXPIRY =
                4, /* usec, host, incarnation of an ended request row → 0; incarnation 0: of RECORD_KEPT */
        INDEX_TOMB = 5, /* path → row of its deletion, until it is pruned or the path lives again */
} IndexKind;

typedef struct RequestResult {
        uint64_t serial;
        Result result;
} RequestResult;

/* What a host's agent has asked for. The newest row of each active host is kept in memory between commits:
 * it changes with each of his requests, and is written once per COMMIT. */
typedef struct RequestRow {
        uint64_t host, incarnation;
        uint8_t nonce[16];
        uint64_t start; /* of the process that announced itself */
        uint8_t start_nonce[16];
        bool twice;       /* another nonce of that start announced itself, too: a copy is about */
        uint64_t highest; /* serial */
        uint64_t floor;   /* results below are forgotten */
        uint64_t ended;   /* cluster time at which a later incarnation or removal ended it; 0: current */
        RequestResult *results; /* n_results from `first`, serials rising */
        size_t first, n_results, capacity;
        Sum stored; /* its part of meta.digest now */
        bool dirty;
} RequestRow;

#define REQUEST_SLOTS 1024
#define MEMBER_SLOTS  256

typedef struct Session {
        uint64_t generation;
        bool attached;
        uint64_t n_owned;
        uint64_t lasts_usec; /* its timeout */
} Session;

/* ---- Scrub ---- */

typedef enum ScrubPhase {
        SCRUB_REST,
        SCRUB_KEYS,
        SCRUB_RECORDS,
        SCRUB_ROWS,
        SCRUB_OWNED,
        SCRUB_TOMBS,
} ScrubPhase;

typedef struct Scrub {
        ScrubPhase phase;
        RecordKind kind;                       /* RECORDS */
        uint8_t cursor[16 + LIMIT_PATH_BYTES]; /* the last key that was passed in this phase and kind */
        size_t cursor_size;
        uint64_t row; /* ROWS: the next id */
        Sum sum;      /* of what was passed in KEYS and RECORDS, as it is now */
        uint64_t n_entries;
        uint64_t n_read;
} Scrub;

/* ---- Checkpoints ---- */

typedef enum CheckpointState {
        CHECKPOINT_REST,
        CHECKPOINT_WANTED,
        CHECKPOINT_LONG,    /* most frames move; applying goes on, commits wait */
        CHECKPOINT_BETWEEN, /* the next COMMIT asks for the short pass */
        CHECKPOINT_SHORT, /* that commit's frames move; the next BEGIN waits, so that the WAL starts anew */
} CheckpointState;

typedef struct Maintain {
        sqlite3 *db; /* does nothing but checkpoints */
        int event_fd;
        _Atomic bool news; /* event_fd was written to since it was read */
        bool has_thread;
        pthread_t thread;
        /* All below is guarded by the mutex. COMMIT runs under it; passes run without it, in state LONG or
         * SHORT, in which nobody commits. */
        pthread_mutex_t mutex;
        pthread_cond_t changed;
        _Atomic CheckpointState state; /* read without it, too */
        bool stop;
        bool open; /* the writer has a transaction in SQLite */
        bool full; /* the last pass found the disk full */
        uint64_t committed;
        uint64_t durable;
        int error;
        int error_code; /* SQLite's, for the report */
} Maintain;

/* ---- The key index in memory: keys.c ---- */

typedef struct KnownKey KnownKey;

/* What a write has to know of the entry it replaces. */
typedef struct KeyState {
        uint64_t n;  /* its number in the table of pointers */
        uint64_t id; /* of its newest row */
        /* Of an entry without an owner; 0 when it has one, or its row was not looked at. */
        uint64_t create_revision, version;
        Sum sum __attribute__((packed, aligned(8)));
} KeyState;

typedef struct KnownKeys {
        KnownKey **buckets, **all;
        size_t n_buckets; /* a power of two, and the capacity of all */
        size_t n, hand;
        KnownKey *waiting[TREE_WAITING_KEYS];
        size_t n_waiting;
} KnownKeys;

/* Rows that are not in the table yet, ids rising: rows.c. */
typedef struct RowsWaiting {
        Buffer bytes; /* head and value of each */
        unsigned n;
        struct {
                uint64_t id;
                uint32_t at, head_size, value_size;
        } rows[TREE_WAITING_ROWS];
} RowsWaiting;

struct Tree {
        TreeOptions options;
        char path[PATH_MAX];
        sqlite3 *db;
        sqlite3_stmt *statements[_STMT_MAX];

        Meta meta;
        Meta saved; /* as of the last COMMIT: what counts after a rollback, also when nothing can be read */
        uint64_t committed;
        uint64_t durable;
        bool open;        /* the transaction that entries are applied in */
        bool begun;       /* SQLite has heard of it: with the first statement that writes */
        bool may_look;    /* reads of one wake may share a transaction: tree_rest() will end it */
        bool looking;     /* they do */
        unsigned n_looks; /* reads since the last rest */
        bool dirty;       /* something is applied that is not committed */
        size_t pages;     /* estimate of what the transaction made dirty, without rows and keys: */
        size_t row_bytes; /* rows lie one after the other */
        size_t turned;    /* pointers in keys */
        size_t rows;      /* written by it */
        size_t wal_pages; /* after the last COMMIT */
        int fatal;        /* first -errno of apply or commit: nothing is written after it */
        int lost; /* why SQLite rolled back the open transaction by itself, until transaction_failed() */
        Maintain maintain;

        struct {
                uint64_t id;
                MemberClass class;
        } members[MEMBER_SLOTS];
        KnownKeys known;
        RowsWaiting rows_waiting;
        bool no_previous; /* whoever hears of changes does not want the value before */
        RequestRow *requests[REQUEST_SLOTS];
        uint64_t requests_dirty[REQUEST_SLOTS /
                                64]; /* slots, as bits: all whose row is dirty, perhaps others */
        uint64_t next_expiry;        /* of the oldest ended request row; USEC_INFINITY: none */

        Scrub scrub;
        TreeSnapshot *snapshots; /* while there is one nothing is pruned */

        Buffer seen;   /* what tree_get() and others give out */
        Buffer before; /* the row that the change at hand replaces */
        Buffer record; /* body of the record at hand */
};

/* The entry being applied. */
typedef struct Apply {
        Tree *tree;
        const Entry *entry;
        const Command *command;
        bool signature_valid;
        MemberClass class; /* of command->host */
        uint64_t revision; /* of its changes */
        uint32_t n;        /* changes so far */
        TreeChange change; /* the last one */
        Result result;
} Apply;

/* ---- sql.c ---- */

int sql_outcome(sqlite3 *db, int rc); /* says nothing: good on any thread */
int sql_fail(const Tree *tree, sqlite3 *db, int rc, const char *what);
int sql_exec(const Tree *tree, sqlite3 *db, const char *text);
/* A cached statement, or a fresh one while the cached one is being stepped further up the stack. */
int sql_acquire(Tree *tree, Statement which, sqlite3_stmt **ret);
void sql_release(Tree *tree, Statement which, sqlite3_stmt *statement);
int sql_run(Tree *tree, Statement which, sqlite3_stmt *statement); /* steps to the end and releases */
int sql_step(Tree *tree, sqlite3_stmt *statement);                 /* 0: a row, TREE_NONE: the end */
void sql_finalize(Tree *tree);
static inline void bind_u64(sqlite3_stmt *statement, int n, uint64_t v) {
        sqlite3_bind_int64(statement, n, (sqlite3_int64)v);
}
static inline void bind_bytes(sqlite3_stmt *statement, int n, const void *data, size_t size) {
        sqlite3_bind_blob64(statement, n, size > 0 ? data : "", size, SQLITE_STATIC);
}
static inline void bind_text(sqlite3_stmt *statement, int n, const void *text, size_t size) {
        sqlite3_bind_text64(statement, n, text, size, SQLITE_STATIC, SQLITE_UTF8);
}
static inline uint64_t column_u64(sqlite3_stmt *statement, int n) {
        return (uint64_t)sqlite3_column_int64(statement, n);
}
static inline Bytes column_bytes(sqlite3_stmt *statement, int n) {
        const void *data = sqlite3_column_blob(statement, n);
        return BYTES(data, data ? (size_t)sqlite3_column_bytes(statement, n) : 0);
}

/* ---- file.c ---- */

bool tree_name_is_valid(const char *name);
int file_connect(const Tree *tree, const char *path, bool building, sqlite3 **ret);
int file_make(const TreeOptions *options, const char *path); /* empty, mode 0600 */
int file_schema(Tree *tree);
int file_finish(Tree *tree); /* a built file: to WAL mode, closed, synced */
int file_reopen(Tree *tree); /* a finished file, to be read back from the disk; nothing is written */
int file_sync(const char *path);
bool file_is_newer(const TreeOptions *options,
                   const Meta *meta); /* was an entry applied that is not known here? */
int meta_load(Tree *tree);
int meta_check(Tree *tree); /* is the row as it was written? */
int meta_save(Tree *tree);
int transaction_flush(Tree *tree); /* no row and no pointer waits any more */
size_t transaction_pages(const Tree *tree);
int transaction_begin(Tree *tree);
void look_begin(Tree *tree);           /* a read comes: perhaps one of many */
int transaction_begin_now(Tree *tree); /* in SQLite, too */
int transaction_commit(Tree *tree, bool wait);
int transaction_rollback(Tree *tree);
/* What apply or commit answers after r: rolls back, remembers what is fatal. */
int transaction_failed(Tree *tree, int r);
void tree_deinit(Tree *tree);

/* ---- maintain.c ---- */

int maintain_init(Tree *tree);
void maintain_deinit(Tree *tree);
bool maintain_may_commit(Tree *tree, bool wait); /* true: with the mutex held */
bool maintain_is_full(const Tree *tree);         /* frames cannot be moved for want of room: write no more */
void maintain_committed(Tree *tree, bool ok);    /* gives the mutex back */
bool maintain_holds_begin(const Tree *tree);     /* the next BEGIN would wait */
void maintain_before_begin(Tree *tree);
void maintain_begun(Tree *tree);
void maintain_wake(Tree *tree);
int maintain_sync(Tree *tree); /* checkpoints now and waits for it */

/* ---- digest.c ---- */

void row_head_write(uint8_t to[static ROW_HEAD_BYTES], const Row *row);
Sum row_hash(const Row *row);
Sum record_hash(RecordKind kind, Bytes key, Bytes body);
void sum_write(uint8_t to[static 16], Sum sum);
Sum sum_read(const uint8_t from[static 16]);
Sum sum_of(XXH128_hash_t hash);
Sum meta_hash(const Meta *meta);

/* ---- scrub.c ---- */

/* A live key or a record changed: its part of the digest rose by `added`. */
void scrub_key_changed(Tree *tree, Bytes key, Sum added, int n);
void scrub_record_changed(Tree *tree, RecordKind kind, Bytes key, Sum added);
void scrub_restart(Tree *tree); /* what was passed is not what it was: from the beginning */

/* ---- records.c ---- */

static inline void key_write(uint8_t to[static 8], uint64_t v) { /* big endian: sorts by number */
        for (int i = 0; i < 8; i++)
                to[i] = (uint8_t)(v >> (56 - 8 * i));
}
static inline uint64_t key_read(const uint8_t from[static 8]) {
        uint64_t v = 0;
        for (int i = 0; i < 8; i++)
                v = v << 8 | from[i];
        return v;
}

/* *ret_body lies in tree->record. */
int record_get(Tree *tree, RecordKind kind, Bytes key, Bytes *ret_body);
int record_put(Tree *tree, RecordKind kind, Bytes key, Bytes body);
int record_delete(Tree *tree, RecordKind kind, Bytes key); /* 0 also when there was none */
int record_count(Tree *tree, RecordKind kind, uint64_t *ret);
typedef int (*RecordVisitor)(RecordKind kind, Bytes key, Bytes body, void *userdata);
/* Of one kind, in order, key >= from; stops when visit() returns non-0, and returns that. */
int record_each(Tree *tree, RecordKind kind, Bytes from, RecordVisitor visit, void *userdata);

int index_get(Tree *tree, IndexKind kind, Bytes key, uint64_t *ret);
int index_put(Tree *tree, IndexKind kind, Bytes key, uint64_t value);
int index_delete(Tree *tree, IndexKind kind, Bytes key);

/* ---- keys.c ---- */

typedef struct Range { /* low < key < high */
        uint8_t low[LIMIT_PATH_BYTES + 2], high[LIMIT_PATH_BYTES + 2];
        size_t low_size, high_size;
} Range;
void range_below(Range *range, const char *subtree); /* strictly below */

int key_look(Tree *tree, Bytes key, KeyState *ret);    /* TREE_NONE */
int key_find(Tree *tree, Bytes key, uint64_t *ret_id); /* TREE_NONE */
int key_peek(Tree *tree, Bytes key, uint64_t *ret_id); /* TREE_NONE */
void key_learn(Tree *tree, const Row *row);            /* the newest of its key, read and verified */
int key_point(Tree *tree, const Row *row, bool is_new);
int key_drop(Tree *tree, Bytes key);
int keys_flush(Tree *tree);   /* no pointer waits any more */
void keys_forget(Tree *tree); /* what is known, and what waits */

/* ---- rows.c ---- */

#define TREE_ROW_HEAD_MAX (64 + OWNER_TAG_BYTES + LIMIT_PATH_BYTES)
int row_rot(const Tree *tree, uint64_t id); /* says so: TREE_ROTTEN */
bool row_head_read(uint64_t id, Bytes head, Row *ret, Bytes *ret_tag);
int row_live(Tree *tree, Bytes key, uint64_t id, Buffer *into, Row *ret);
int rows_flush(Tree *tree);
void rows_forget(Tree *tree);
int row_load(Tree *tree, uint64_t id, Buffer *into, Row *ret);
int row_insert(Tree *tree, const Row *row);                /* row->sum is set */
Row row_decode(const uint8_t head[static ROW_HEAD_BYTES]); /* the numbers; sizes in key_size, value.size */
bool row_is_sane(const Row *row, size_t tag_size);

/* ---- entries.c ---- */

int entry_before(Apply *apply, Bytes path, Row *ret); /* TREE_NONE */
size_t owned_key(uint8_t to[static 16 + LIMIT_PATH_BYTES], uint64_t host, uint64_t generation, Bytes path);
int entry_put(Apply *apply, const Row *before); /* as the command says; before NULL: is new */
int entry_delete(Apply *apply, Bytes path, bool count);
int entries_end_owned(Apply *apply, uint64_t host); /* all that the host's session owns */

int apply_set(Apply *apply);
int apply_delete(Apply *apply);

/* ---- history.c ---- */

int history_replay(Tree *tree, const char *subtree, uint64_t from, uint64_t to, size_t max_rows,
                   size_t max_bytes, TreeListener listener, void *userdata, uint64_t *ret_next);
int history_prune(Tree *tree, size_t n);
bool history_wants_pruning(const Tree *tree);
int apply_prune(Apply *apply);

/* ---- members.c, sessions.c, tokens.c, requests.c, kept.c ---- */

int member_class(Tree *tree, uint64_t id, MemberClass *ret); /* TREE_NONE */
void members_forget(Tree *tree);
int member_decode(Bytes key, Bytes body, Member *ret); /* 0, TREE_ROTTEN */
int member_store(Tree *tree, const Member *member);
int member_index(Tree *tree, const Member *member);
int member_check_index(Tree *tree, const Member *member);
bool member_is_valid(const Member *member);
bool leaf_may_write(const char *name, const char *path);
int apply_add_member(Apply *apply);
int apply_remove_member(Apply *apply);
int apply_update_member(Apply *apply);

int session_get(Tree *tree, uint64_t host, Session *ret);
int session_put(Tree *tree, uint64_t host, const Session *session);
int session_count(Tree *tree, uint64_t host, int delta);
int session_decode(Bytes key, Bytes body, Session *ret);
int apply_attach(Apply *apply);
int apply_end_session(Apply *apply);

int token_decode(Bytes key, Bytes body, Token *ret);
int token_store(Tree *tree, const Token *token);
int apply_add_token(Apply *apply);
int apply_remove_token(Apply *apply);

RequestRow *request_row_free(RequestRow *row);
DEFINE_CLEANUP(RequestRow *, request_row_free);
int request_decode(Bytes key, Bytes body, RequestRow **ret);
int request_index(Tree *tree, const RequestRow *row);
Sum request_hash(const RequestRow *row);
/* The next row that is not on the disk as it is here; NULL: no more. Begin with *at = 0. */
RequestRow *request_next_dirty(const Tree *tree, size_t *at);
int requests_current(Tree *tree, uint64_t host, RequestRow **ret); /* newest, may be ended; TREE_NONE */
int requests_note(Tree *tree, const Command *command, const Result *result);
int requests_end(Tree *tree, uint64_t host);
int requests_expire(Tree *tree);
int requests_load_expiry(Tree *tree);
int requests_flush(Tree *tree);
void requests_forget(Tree *tree);
/* What the row says of a serial. `over`: none can come any more. */
TreeOutcome request_outcome(const RequestRow *row, bool over, uint64_t serial, Result *ret_result);
int apply_announce(Apply *apply);

int kept_check(Bytes key, Bytes body);
int kept_index(Tree *tree, Bytes key, Bytes body); /* of a record that was checked */
int kept_note(Tree *tree, const RequestRow *row, const Command *command);
int kept_expire(Tree *tree, uint64_t host);
TreeOutcome kept_outcome(Tree *tree, uint64_t host, uint64_t incarnation, uint64_t serial,
                         Result *ret_result);

/* ---- snapshot.c, build.c: the stream ----
 *
 *      chunk:  u32 magic | u32 number from 0 | records | u64 XXH3-64 of all before
 *      record: u8 kind | u32 size | body
 *
 *      head, once:  version, meta, digest      (stream_head_write)
 *      small, any:  u8 record kind | u8 size of key | key | body
 *      row, any:    as hashed: head of ROW_HEAD_BYTES, tag, key, value
 *      end, once:   u64 smalls | u64 rows | 16 bytes XXH3-128 of all records before it
 */
#define STREAM_MAGIC      0x31537254 /* "TrS1" */
#define STREAM_VERSION    1
#define STREAM_PAGE_BYTES (256 * 1024)
#define STREAM_PAGE_ROWS  256
#define STREAM_CHUNK_MAX  (STREAM_PAGE_BYTES + LIMIT_VALUE_BYTES + 64 * 1024)
#define STREAM_BODY_MAX   (LIMIT_VALUE_BYTES + 64 * 1024)
#define STREAM_HEAD_BYTES (4 + 7 * 8 + 16 + 8 + 16 + 4)

typedef enum StreamKind { STREAM_HEAD = 1, STREAM_SMALL = 2, STREAM_ROW = 3, STREAM_END = 4 } StreamKind;

/* Meta, as far as it is sent. */
size_t stream_head_write(uint8_t to[static STREAM_HEAD_BYTES + CONF_BYTES_MAX], const Meta *meta,
                         const TreeDigest *digest);
int stream_head_read(Bytes from, Meta *ret, TreeDigest *ret_digest); /* 0, TREE_ROTTEN, TREE_NEWER */

void snapshots_check(Tree *tree); /* gives up pins that hold too much */
void snapshots_orphan(Tree *tree);
