/* The tree's file: made, opened, swept, and the one open transaction that everything happens in.
 *
 * A tree file is never replaced: a new one gets a name of its own, and a record in the log says which one
 * counts. (Renaming over a database whose -wal still lies there destroys it.) What is not committed is lost
 * with the process and replayed from the log, because the applied index lies in the same transaction; what
 * SQLite rolls back by itself, on a full disk, ends the same way. */
#include "internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* `value` stands last in rows: heads are read without touching a large value's pages. A key that is text is
 * compared twice as fast as one that is a blob. */
static const char file_schema_text[] =
        "CREATE TABLE meta(id INTEGER PRIMARY KEY, applied INTEGER, applied_term INTEGER, revision INTEGER, "
        "floor INTEGER, cluster_usec INTEGER, n_entries INTEGER, conf BLOB, conf_index INTEGER, "
        "cluster BLOB, epoch INTEGER, min_version INTEGER, digest BLOB, pruned INTEGER, sum BLOB);"
        "CREATE TABLE rows(id INTEGER PRIMARY KEY, head BLOB, value BLOB);"
        "CREATE TABLE keys(key TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;"
        "CREATE TABLE newest(n INTEGER PRIMARY KEY, id INTEGER);"
        "CREATE TABLE records(kind INTEGER, key BLOB, sum BLOB, body BLOB, PRIMARY KEY(kind, key)) "
        "WITHOUT ROWID;"
        "CREATE TABLE indexes(kind INTEGER, key BLOB, value INTEGER, PRIMARY KEY(kind, key)) WITHOUT ROWID;"
        /* for people with sqlite3 and a backup */
        "CREATE VIEW entries AS SELECT k.key AS path, CAST(r.value AS TEXT) AS value, "
        "r.id >> 20 AS mod_revision FROM keys k JOIN newest USING(n) JOIN rows r USING(id);";

/* ---- Names ---- */

static bool is_hex(const char *text, size_t n) {
        return strspn(text, "0123456789abcdef") >= n;
}

bool tree_name_is_valid(const char *name) {
        return strlen(name) == 33 && memcmp(name, "tree-", 5) == 0 && is_hex(name + 5, 16) &&
               name[21] == '-' && is_hex(name + 22, 8) && strcmp(name + 30, ".db") == 0;
}

/* "tree-…" and "build-…", with what SQLite lays beside them. */
static bool name_is_ours(const char *name) {
        if (memcmp(name, "build-", 6) == 0)
                return is_hex(name + 6, 8) && memcmp(name + 14, ".db", 3) == 0;
        char stem[34];
        if (strlen(name) < 33)
                return false;
        memcpy(stem, name, 33);
        stem[33] = 0;
        return tree_name_is_valid(stem) && (name[33] == 0 || name[33] == '-');
}

int tree_sweep(const TreeOptions *options, const char *keep) {
        DIR *directory = opendir(options->directory);
        if (!directory)
                return -errno;

        int r = 0;
        size_t n = keep ? strlen(keep) : 0;
        for (struct dirent *e; (e = readdir(directory));) {
                if (strlen(e->d_name) < 14 || !name_is_ours(e->d_name))
                        continue;
                if (!keep && memcmp(e->d_name, "build-", 6) != 0)
                        continue;
                if (n > 0 && strncmp(e->d_name, keep, n) == 0 && (e->d_name[n] == 0 || e->d_name[n] == '-'))
                        continue;
                if (unlinkat(dirfd(directory), e->d_name, 0) < 0 && errno != ENOENT)
                        r = -errno;
        }
        closedir(directory);
        return r;
}

/* ---- Connections ---- */

typedef struct Pragma {
        const char *set;
        const char *get;
        const char *want;
} Pragma;

/* SQLite ignores what it cannot do: each is read back. */
static int pragma_apply(const Tree *tree, sqlite3 *db, const Pragma *pragma) {
        int r = sql_exec(tree, db, pragma->set);
        if (r != 0)
                return r;

        sqlite3_stmt *s;
        int rc = sqlite3_prepare_v2(db, pragma->get, -1, &s, NULL);
        if (rc != SQLITE_OK)
                return sql_fail(tree, db, rc, pragma->get);
        rc = sqlite3_step(s);
        const char *text = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(s, 0) : NULL;
        bool good = text && strcmp(text, pragma->want) == 0;
        if (rc != SQLITE_ROW && rc != SQLITE_DONE)
                r = sql_fail(tree, db, rc, pragma->get);
        else if (!good) {
                report_say(&tree->options.report, LOG_ERR, "%s: %s was refused: it is %s", tree->path,
                           pragma->set, text ?: "nothing");
                r = -ENOTSUP;
        }
        sqlite3_finalize(s);
        return r;
}

/* A file that is being built is thrown away when anything goes wrong, so it needs no journal, and pages may
 * be written early. A served file must never spill: frames written inside the open transaction would race
 * with a checkpoint. */
static int pragmas_apply(const Tree *tree, sqlite3 *db, bool building) {
        char cache_set[64], cache_want[32], limit_set[64], limit_want[32];
        snprintf(cache_want, sizeof(cache_want), "-%zu", tree->options.cache_bytes / 1024);
        snprintf(cache_set, sizeof(cache_set), "PRAGMA cache_size=%s", cache_want);
        snprintf(limit_want, sizeof(limit_want), "%zu", tree->options.wal_bytes);
        snprintf(limit_set, sizeof(limit_set), "PRAGMA journal_size_limit=%s", limit_want);

        const Pragma both[] = {
                {"PRAGMA page_size=4096", "PRAGMA page_size", "4096"},
                {"PRAGMA mmap_size=0", "PRAGMA mmap_size", "0"},
                {cache_set, "PRAGMA cache_size", cache_want},
                {"PRAGMA trusted_schema=0", "PRAGMA trusted_schema", "0"},
                {"PRAGMA secure_delete=0", "PRAGMA secure_delete", "0"},
                {"PRAGMA temp_store=2", "PRAGMA temp_store", "2"},
                {"PRAGMA cell_size_check=1", "PRAGMA cell_size_check", "1"},
        };
        const Pragma served[] = {
                {"PRAGMA journal_mode=wal", "PRAGMA journal_mode", "wal"},
                {"PRAGMA synchronous=1", "PRAGMA synchronous", "1"},
                {"PRAGMA cache_spill=0", "PRAGMA cache_spill", "0"},
                {"PRAGMA wal_autocheckpoint=0", "PRAGMA wal_autocheckpoint", "0"},
                {limit_set, "PRAGMA journal_size_limit", limit_want},
        };
        const Pragma built[] = {
                {"PRAGMA journal_mode=off", "PRAGMA journal_mode", "off"},
                {"PRAGMA synchronous=0", "PRAGMA synchronous", "0"},
        };

        for (size_t i = 0; i < ELEMENTSOF(both); i++) {
                int r = pragma_apply(tree, db, &both[i]);
                if (r != 0)
                        return r;
        }
        const Pragma *more = building ? built : served;
        for (size_t i = 0; i < (building ? ELEMENTSOF(built) : ELEMENTSOF(served)); i++) {
                int r = pragma_apply(tree, db, &more[i]);
                if (r != 0)
                        return r;
        }
        return 0;
}

int file_connect(const Tree *tree, const char *path, bool building, sqlite3 **ret) {
        sqlite3 *db = NULL;
        int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
        if (rc != SQLITE_OK) {
                int r = sql_fail(tree, db, rc, "open");
                sqlite3_close(db);
                return r;
        }
        sqlite3_extended_result_codes(db, 1);
        sqlite3_busy_timeout(db, 1000); /* an operator's own sqlite3 may hold a lock for a moment */
        sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);

        int r = pragmas_apply(tree, db, building);
        if (r != 0) {
                sqlite3_close(db);
                return r;
        }
        *ret = db;
        return 0;
}

/* ---- Making ---- */

int file_make(const TreeOptions *options, const char *path) {
        int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600); /* SQLite's others take its mode */
        if (fd < 0)
                return errno == ENOSPC ? TREE_FULL : -errno;
        close(fd);
        return 0;
}

/* Only before SQLite opens or after it closed: closing any descriptor of a file drops its POSIX locks. */
int file_sync(const char *path) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        int r = fsync(fd) < 0 ? -errno : 0;
        close(fd);
        return r;
}

int file_schema(Tree *tree) {
        char head[128];
        snprintf(head, sizeof(head), "PRAGMA application_id=%d; PRAGMA user_version=%d;",
                 TREE_APPLICATION_ID, TREE_FORMAT);
        int r = sql_exec(tree, tree->db, head);
        if (r != 0)
                return r;
        return sql_exec(tree, tree->db, file_schema_text);
}

int file_finish(Tree *tree) {
        sql_finalize(tree);
        int r = sql_exec(tree, tree->db, "PRAGMA journal_mode=wal");
        sqlite3_db_config(tree->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL); /* leaves no WAL behind */
        sqlite3_close(tree->db);
        tree->db = NULL;
        return r != 0 ? r : file_sync(tree->path);
}

static int path_of(const TreeOptions *options, const char *name, char *ret) {
        int n = snprintf(ret, PATH_MAX - 8, "%s/%s", options->directory, name);
        return n < 0 || n >= PATH_MAX - 8 ? -ENAMETOOLONG : 0;
}

static void options_complete(TreeOptions *options) {
        if (options->wal_bytes == 0)
                options->wal_bytes = 16 * 1024 * 1024;
        if (options->cache_bytes < 64 * 1024)
                options->cache_bytes = 4 * 1024 * 1024;
}

static int create_contents(Tree *tree) {
        int r = file_connect(tree, tree->path, true, &tree->db);
        if (r != 0)
                return r;
        r = sql_exec(tree, tree->db, "BEGIN IMMEDIATE");
        if (r == 0)
                r = file_schema(tree);
        if (r == 0)
                r = meta_save(tree);
        if (r == 0)
                r = sql_exec(tree, tree->db, "COMMIT");
        return r;
}

int tree_create(const TreeOptions *options, const char *name) {
        if (!tree_name_is_valid(name))
                return -EINVAL;

        Tree *tree = calloc(1, sizeof(Tree));
        if (!tree)
                return -ENOMEM;
        tree->options = *options;
        options_complete(&tree->options);
        int r = path_of(options, name, tree->path);
        if (r == 0)
                r = file_make(options, tree->path);
        if (r == 0) {
                r = create_contents(tree);
                if (r == 0)
                        r = file_finish(tree);
                sql_finalize(tree);
                sqlite3_close(tree->db);
                if (r == 0)
                        r = file_sync(options->directory);
                if (r != 0)
                        unlink(tree->path);
        }
        tree_deinit(tree);
        free(tree);
        return r;
}

/* ---- Meta ---- */

/* The row's own checksum covers the local and the digest columns too, which meta_hash() leaves out. */
static void meta_sum(const Meta *meta, uint8_t to[static 16]) {
        uint8_t bytes[40];
        sum_write(bytes, meta_hash(meta));
        sum_write(bytes + 16, meta->digest);
        bytes_put_u64(bytes + 32, meta->pruned);
        sum_write(to, record_hash(0, BYTES("meta", 4), BYTES(bytes, sizeof(bytes))));
}

static int meta_read(sqlite3_stmt *s, Meta *ret) {
        Bytes conf = column_bytes(s, 6);
        Bytes cluster = column_bytes(s, 8);
        Bytes digest = column_bytes(s, 11);
        Bytes sum = column_bytes(s, 13);
        Meta meta = {
                .applied = column_u64(s, 0),
                .applied_term = column_u64(s, 1),
                .revision = column_u64(s, 2),
                .floor = column_u64(s, 3),
                .cluster_usec = column_u64(s, 4),
                .n_entries = column_u64(s, 5),
                .conf_index = column_u64(s, 7),
                .epoch = column_u64(s, 9),
                .min_version = (uint32_t)column_u64(s, 10),
                .pruned = column_u64(s, 12),
        };
        if (cluster.size != 16 || digest.size != 16 || sum.size != 16 || conf_decode(conf, &meta.conf) < 0)
                return TREE_ROTTEN;
        memcpy(meta.cluster, cluster.data, 16);
        meta.digest = sum_read(digest.data);

        uint8_t want[16];
        meta_sum(&meta, want);
        if (memcmp(want, sum.data, 16) != 0)
                return TREE_ROTTEN;
        *ret = meta;
        return 0;
}

static int meta_get(Tree *tree, Meta *ret) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_META_LOAD, &s);
        if (r != 0)
                return r;
        r = sql_step(tree, s);
        if (r == 0)
                r = meta_read(s, ret);
        sql_release(tree, STMT_META_LOAD, s);
        return r == TREE_NONE ? TREE_ROTTEN : r;
}

int meta_load(Tree *tree) {
        return meta_get(tree, &tree->meta);
}

int meta_check(Tree *tree) {
        Meta meta;
        int r = meta_get(tree, &meta);
        return r == 0 && meta.applied > tree->meta.applied ? TREE_ROTTEN : r;
}

int meta_save(Tree *tree) {
        const Meta *meta = &tree->meta;
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_META_SAVE, &s);
        if (r != 0)
                return r;
        uint8_t conf[CONF_BYTES_MAX], digest[16], sum[16];
        size_t conf_size = conf_encode(&meta->conf, conf);
        sum_write(digest, meta->digest);
        meta_sum(meta, sum);
        bind_u64(s, 1, meta->applied);
        bind_u64(s, 2, meta->applied_term);
        bind_u64(s, 3, meta->revision);
        bind_u64(s, 4, meta->floor);
        bind_u64(s, 5, meta->cluster_usec);
        bind_u64(s, 6, meta->n_entries);
        bind_bytes(s, 7, conf, conf_size);
        bind_u64(s, 8, meta->conf_index);
        bind_bytes(s, 9, meta->cluster, 16);
        bind_u64(s, 10, meta->epoch);
        bind_u64(s, 11, meta->min_version);
        bind_bytes(s, 12, digest, 16);
        bind_u64(s, 13, meta->pruned);
        bind_bytes(s, 14, sum, 16);
        return sql_run(tree, STMT_META_SAVE, s);
}

/* ---- Opening ---- */

static int pragma_number(const Tree *tree, const char *text, int64_t *ret) {
        sqlite3_stmt *s;
        int rc = sqlite3_prepare_v2(tree->db, text, -1, &s, NULL);
        if (rc != SQLITE_OK)
                return sql_fail(tree, tree->db, rc, text);
        rc = sqlite3_step(s);
        if (rc == SQLITE_ROW)
                *ret = sqlite3_column_int64(s, 0);
        int r = rc == SQLITE_ROW ? 0 : rc == SQLITE_DONE ? TREE_ROTTEN : sql_fail(tree, tree->db, rc, text);
        sqlite3_finalize(s);
        return r;
}

static int format_check(const Tree *tree) {
        int64_t application, version;
        int r = pragma_number(tree, "PRAGMA application_id", &application);
        if (r == 0)
                r = pragma_number(tree, "PRAGMA user_version", &version);
        if (r != 0)
                return r;
        if (application != TREE_APPLICATION_ID || version < 1)
                return TREE_ROTTEN;
        return version > TREE_FORMAT ? TREE_NEWER : 0;
}

bool file_is_newer(const TreeOptions *options, const Meta *meta) {
        return options->version != 0 && meta->min_version > options->version;
}

static int wal_hook(void *userdata, sqlite3 *db, const char *name, int pages) {
        ((Tree *)userdata)->wal_pages = (size_t)pages;
        return SQLITE_OK;
}

/* The page cache may hold what a failed sync never wrote: all of it is synced before anything is promised.
 */
static int open_sync(const Tree *tree) {
        char wal[PATH_MAX];
        snprintf(wal, sizeof(wal), "%.*s-wal", PATH_MAX - 8, tree->path);
        int r = file_sync(tree->path);
        if (r == -ENOENT)
                return TREE_NONE;
        if (r < 0)
                return r;
        r = file_sync(wal);
        return r == -ENOENT ? 0 : r;
}

static int open_checkpoint(Tree *tree) {
        int rc = sqlite3_wal_checkpoint_v2(tree->db, "main", SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
        if (rc == SQLITE_OK)
                return 0;
        int r = sql_fail(tree, tree->db, rc, "checkpoint");
        return r == TREE_FULL || r == -EBUSY ? TREE_NONE : r; /* later, then */
}

static int open_contents(Tree *tree) {
        int r = open_sync(tree);
        if (r != 0)
                return r;
        r = file_connect(tree, tree->path, false, &tree->db);
        if (r != 0)
                return r;
        r = format_check(tree);
        if (r != 0)
                return r;
        int late = open_checkpoint(tree);
        if (late != 0 && late != TREE_NONE)
                return late;
        sqlite3_wal_hook(tree->db, wal_hook, tree);
        r = meta_load(tree);
        if (r == 0 && file_is_newer(&tree->options, &tree->meta))
                r = TREE_NEWER;
        if (r != 0)
                return r;
        r = requests_load_expiry(tree);
        if (r != 0)
                return r;
        tree->saved = tree->meta;
        tree->committed = tree->meta.applied;
        tree->durable = late == 0 ? tree->committed : 0;
        return maintain_init(tree);
}

int tree_open(Tree **ret, const TreeOptions *options, const char *name) {
        if (!tree_name_is_valid(name))
                return -EINVAL;

        Tree *tree = calloc(1, sizeof(Tree));
        if (!tree)
                return -ENOMEM;
        tree->maintain.event_fd = -1;
        tree->options = *options;
        options_complete(&tree->options);
        int r = path_of(options, name, tree->path);
        if (r == 0)
                r = open_contents(tree);
        if (r != 0) {
                tree_abandon(tree);
                return r;
        }
        *ret = tree;
        return 0;
}

/* What the disk holds, not what memory still has of it. Advice only: some file systems do not take it. Only
 * before SQLite opens, as any close of the file. */
static void file_forget(const char *path) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return;
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
}

int file_reopen(Tree *tree) {
        file_forget(tree->path);
        int r = file_connect(tree, tree->path, false, &tree->db);
        if (r != 0)
                return r;
        sqlite3_db_config(tree->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL); /* leaves no WAL behind */
        r = format_check(tree);
        if (r == 0)
                r = meta_load(tree);
        return r != 0 ? r : requests_load_expiry(tree);
}

/* ---- Closing ---- */

void tree_deinit(Tree *tree) {
        requests_forget(tree);
        keys_forget(tree);
        buffer_deinit(&tree->rows_waiting.bytes);
        buffer_deinit(&tree->seen);
        buffer_deinit(&tree->before);
        buffer_deinit(&tree->record);
}

Tree *tree_abandon(Tree *tree) {
        if (!tree)
                return NULL;
        snapshots_orphan(tree);
        maintain_deinit(tree);
        sql_finalize(tree);
        /* The open transaction was never written; NO_CKPT_ON_CLOSE leaves the WAL as it is. */
        int rc = sqlite3_close(tree->db);
        assert(rc == SQLITE_OK);
        tree_deinit(tree);
        free(tree);
        return NULL;
}

int tree_finish(Tree *tree) {
        if (tree->looking)
                tree_rest(tree);
        int r = tree->fatal ?: transaction_commit(tree, true);
        for (unsigned i = 0; r == 0 && tree->durable < tree->meta.applied; i++)
                r = i < 4 ? maintain_sync(tree) : -EBUSY;
        return r;
}

Tree *tree_close(Tree *tree) {
        if (!tree)
                return NULL;
        if (tree->looking)
                tree_rest(tree);
        int r = tree->fatal ?: transaction_commit(tree, true);
        maintain_deinit(tree);
        if (r == 0) /* the last connection checkpoints, syncs and removes the WAL */
                sqlite3_db_config(tree->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
        return tree_abandon(tree);
}

void tree_status(const Tree *tree, TreeStatus *ret) {
        const Meta *meta = &tree->meta;
        *ret = (TreeStatus){
                .applied = meta->applied,
                .applied_term = meta->applied_term,
                .committed = tree->committed,
                .durable = tree->durable,
                .revision = meta->revision,
                .floor = meta->floor,
                .cluster_usec = meta->cluster_usec,
                .n_entries = meta->n_entries,
                .conf = meta->conf,
                .conf_index = meta->conf_index,
                .restore_epoch = meta->epoch,
        };
        memcpy(ret->cluster, meta->cluster, 16);
}

/* ---- The transaction ---- */

int transaction_flush(Tree *tree) {
        int r = rows_flush(tree);
        return r != 0 ? r : keys_flush(tree);
}

/* What the transaction made dirty: rows lie one after the other, pointers some 150 in a page. */
size_t transaction_pages(const Tree *tree) {
        return tree->pages + tree->row_bytes / TREE_PAGE_BYTES +
               MIN(tree->turned, (size_t)tree->meta.n_entries / 150);
}

static void transaction_over(Tree *tree) {
        tree->open = tree->begun = tree->dirty = false;
        tree->pages = tree->row_bytes = tree->turned = tree->rows = 0;
}

static int run(Tree *tree, Statement which) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, which, &s);
        return r == 0 ? sql_run(tree, which, s) : r;
}

/* Each read by itself is a transaction of SQLite's, and costs three locks of the file. From the second one
 * in a wake on they share one; it must be over before a write begins, and soon: a checkpoint does not pass
 * it. */
void look_begin(Tree *tree) {
        if (!tree->may_look || tree->begun || tree->looking || tree->fatal != 0 || ++tree->n_looks < 2)
                return;
        tree->looking = run(tree, STMT_LOOK) == 0;
}

static void look_end(Tree *tree) {
        tree->n_looks = 0;
        if (!tree->looking)
                return;
        tree->looking = false;
        if (!sqlite3_get_autocommit(tree->db)) /* an error may have ended it */
                (void)run(tree, STMT_LOOK_END);
}

void tree_rest(Tree *tree) {
        tree->may_look = true;
        look_end(tree);
}

/* SQLite hears of it later: until something is written, no checkpoint is in the way. */
int transaction_begin(Tree *tree) {
        tree->open = true;
        return 0;
}

int transaction_begin_now(Tree *tree) {
        look_end(tree);
        maintain_before_begin(tree);
        int r = run(tree, STMT_BEGIN);
        if (r != 0)
                return r;
        tree->begun = true;
        maintain_begun(tree);
        return 0;
}

/* What the entries taken back, perhaps half of one, made of `meta` goes with them, whatever else fails: who
 * is told that its tree cannot be written still reads what is in it. */
int transaction_rollback(Tree *tree) {
        tree->lost = 0;
        look_end(tree);
        tree->meta = tree->saved;
        rows_forget(tree);
        keys_forget(tree);
        if (!sqlite3_get_autocommit(tree->db)) { /* SQLite may have done it already */
                int r = run(tree, STMT_ROLLBACK);
                if (r != 0)
                        return r;
        }
        requests_forget(tree);
        members_forget(tree);
        scrub_restart(tree);
        transaction_over(tree);
        if (tree->fatal != 0)
                return tree->fatal; /* no call will succeed any more, and each may take seconds to say so */
        int r = meta_load(tree);
        if (r == 0)
                r = requests_load_expiry(tree);
        if (r != 0)
                return r;
        if (tree->meta.applied != tree->committed)
                return TREE_ROTTEN; /* somebody else wrote into the file */
        return 0;
}

int transaction_failed(Tree *tree, int r) {
        assert(r != 0);
        int undone = transaction_rollback(tree);
        if (undone != 0 && r == TREE_FULL)
                r = undone;
        if (r == TREE_FULL)
                return TREE_FULL;
        if (r > 0)
                r = -EBADMSG; /* rot under apply's hands: this host has to stop */
        if (tree->fatal == 0)
                tree->fatal = r;
        return r;
}

static int commit_contents(Tree *tree) {
        int r = transaction_begin(tree);
        if (r == 0)
                r = transaction_flush(tree);
        if (r != 0)
                return r;
        r = requests_flush(tree);
        if (r != 0)
                return r;
        if (history_wants_pruning(tree)) { /* at least as fast as rows come in */
                r = history_prune(tree, MAX((size_t)TREE_PRUNE_ROWS, 2 * tree->rows));
                if (r != 0)
                        return r;
        }
        return meta_save(tree);
}

int transaction_commit(Tree *tree, bool wait) {
        if (tree->fatal != 0)
                return tree->fatal;
        if (tree->lost != 0)
                return transaction_failed(tree, tree->lost);
        if (!tree->dirty)
                return 0;
        if (!tree->begun) {
                if (!wait && maintain_holds_begin(tree))
                        return 0;
                int r = transaction_begin_now(tree);
                if (r != 0)
                        return transaction_failed(tree, r);
        }
        if (!maintain_may_commit(tree, wait))
                return 0; /* a checkpoint runs: frames wait for it, applying goes on */

        int r = maintain_is_full(tree) ? TREE_FULL : commit_contents(tree);
        if (r == 0)
                r = run(tree, STMT_COMMIT);
        if (r == 0) {
                transaction_over(tree);
                tree->saved = tree->meta;
                tree->committed = tree->meta.applied;
        } else
                r = transaction_failed(tree, r);
        maintain_committed(tree, r == 0);
        return r;
}

int tree_commit(Tree *tree) {
        int r = transaction_commit(tree, transaction_pages(tree) >= TREE_BLOCK_PAGES);
        if (r == 0)
                snapshots_check(tree);
        return r;
}

/* ---- Founding ---- */

static int found_contents(Tree *tree, const uint8_t cluster[static 16], const Member *founder) {
        int r = transaction_begin(tree);
        if (r != 0)
                return r;
        memcpy(tree->meta.cluster, cluster, 16);
        tree->meta.epoch = 1;
        tree->meta.conf = (Conf){.n_voters = 1, .voters = {{.id = founder->id}}};
        r = member_store(tree, founder);
        if (r == 0)
                r = member_index(tree, founder);
        return r;
}

int tree_found(Tree *tree, const uint8_t cluster[static 16], const Member *founder) {
        uint64_t n;
        int r = record_count(tree, RECORD_MEMBER, &n);
        if (r != 0)
                return r;
        if (tree->meta.applied != 0 || n != 0)
                return -EEXIST;
        if (!member_is_valid(founder) || founder->class != MEMBER_FULL)
                return -EINVAL;

        r = found_contents(tree, cluster, founder);
        if (r != 0)
                return transaction_failed(tree, r);
        tree->dirty = true;
        r = transaction_commit(tree, true);
        return r != 0 ? r : maintain_sync(tree);
}
