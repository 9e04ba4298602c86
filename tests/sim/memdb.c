#include "memdb.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memmap.h"

#define COLUMNS_MAX    14
#define PARAMETERS_MAX 48
#define KEY_MAX        1200
#define VERSIONS       32
#define PRAGMAS        24
#define READERS        64   /* statements that walk over a range at one time */
#define DEAD           2000 /* nodes and rows that nobody sees any more, before they are swept out */
#define SPILLS         8192 /* bytes changed: some go to the file before the commit */

typedef struct Version { /* all of a file's content */
        MapNode *root;
        uint64_t number; /* by which the store knows it */
        int64_t application_id, user_version;
        size_t n_items;
} Version;

typedef struct MemFile {
        int fd; /* of the empty file that stands for it: while it is open its number is not given to another
                 */
        dev_t device;
        ino_t inode;
        unsigned n_open;
        MapStore store;
        uint64_t readers[READERS]; /* the versions they look at */
        unsigned n_readers, n_getters;
        size_t sweep_at;
        Version durable, committed;
        Version between[VERSIONS]; /* commits since the checkpoint, thinned out */
        unsigned n_between;
        size_t pages; /* as if a WAL had grown */
        bool full, writing, unreadable;
        struct MemFile *next;
} MemFile;

struct sqlite3 {
        MemFile *file;
        Version work; /* while a transaction is open */
        bool open;
        size_t changed; /* bytes and items, by this transaction */
        struct {
                char name[32], value[32];
        } pragmas[PRAGMAS];
        unsigned n_pragmas;
        int (*hook)(void *, sqlite3 *, const char *, int);
        void *hook_userdata;
};

/* ---- Statements: what the tree's texts mean ---- */

typedef enum Action {
        DO_BEGIN,
        DO_COMMIT,
        DO_ROLLBACK,
        DO_GET,    /* one row by its whole key */
        DO_PUT,    /* insert or replace */
        DO_INSERT, /* must not be there */
        DO_DELETE,
        DO_RANGE, /* in order */
        DO_LAST,  /* the last of a range */
        DO_MAX,   /* of the first column, over a range */
        DO_COUNT,
        DO_PRAGMA,
} Action;

typedef enum Low { LOW_BEHIND, LOW_AT } Low;
typedef enum High { HIGH_NONE, HIGH_BELOW, HIGH_AT } High;

/* A key is the table's letter, for some tables a kind, and the key itself. Which parameters are its parts,
 * and which columns a row gives back: -1 is the key, n ≥ 0 the n-th column as it was bound behind the key,
 * JOINED the first column of the row of another table whose key is this row's first column. */
#define JOINED (-2)

typedef struct Meaning {
        const char *text;
        Action action;
        char table;
        bool kind;   /* the first parameter is one */
        bool number; /* the key is a number */
        char join;   /* the other table; a row without its like there is none */
        Low low;
        High high;
        uint8_t n_bound; /* parameters of one row, where a statement may have many */
        uint8_t n_columns;
        int8_t columns[COLUMNS_MAX];
} Meaning;

static const Meaning meanings[] = {
        {"BEGIN IMMEDIATE", DO_BEGIN},
        {"COMMIT", DO_COMMIT},
        {"ROLLBACK", DO_ROLLBACK},
        {"SELECT applied, applied_term, revision, floor, cluster_usec, n_entries, conf, conf_index, cluster, "
         "epoch, min_version, digest, pruned, sum FROM meta WHERE id = 1",
         DO_GET, 'm', .n_columns = 14, .columns = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}},
        {"INSERT OR REPLACE INTO meta(id, applied, applied_term, revision, floor, cluster_usec, n_entries, "
         "conf, conf_index, cluster, epoch, min_version, digest, pruned, sum) "
         "VALUES(1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
         DO_PUT, 'm'},
        {"SELECT keys.n, newest.id FROM keys CROSS JOIN newest ON newest.n = keys.n WHERE keys.key = ?1",
         DO_GET, 'k', .join = 'n', .n_columns = 2, .columns = {0, JOINED}},
        {"INSERT INTO keys(key, n) VALUES(?1, ?2)", DO_INSERT, 'k'},
        {"DELETE FROM keys WHERE key = ?1", DO_DELETE, 'k'},
        {"SELECT keys.key, newest.id FROM keys CROSS JOIN newest ON newest.n = keys.n "
         "WHERE keys.key > ?1 AND keys.key < ?2 ORDER BY keys.key",
         DO_RANGE, 'k', .join = 'n', .high = HIGH_BELOW, .n_columns = 2, .columns = {-1, JOINED}},
        {"SELECT max(newest.id) FROM keys CROSS JOIN newest ON newest.n = keys.n "
         "WHERE keys.key > ?1 AND keys.key < ?2",
         DO_MAX, 'k', .join = 'n', .high = HIGH_BELOW},
        {"INSERT OR REPLACE INTO newest(n, id) VALUES(?, ?)", DO_PUT, 'n', .number = true, .n_bound = 2},
        {"DELETE FROM newest WHERE n = ?1", DO_DELETE, 'n', .number = true},
        {"SELECT head, value FROM rows WHERE id = ?1", DO_GET, 'r', .number = true, .n_columns = 2,
         .columns = {0, 1}},
        {"INSERT OR ROLLBACK INTO rows(id, head, value) VALUES(?, ?, ?)", DO_INSERT, 'r', .number = true,
         .n_bound = 3},
        {"DELETE FROM rows WHERE id = ?1", DO_DELETE, 'r', .number = true},
        {"SELECT id, head FROM rows WHERE id >= ?1 AND id < ?2 ORDER BY id", DO_RANGE, 'r', .number = true,
         .low = LOW_AT, .high = HIGH_BELOW, .n_columns = 2, .columns = {-1, 0}},
        {"SELECT body, sum FROM records WHERE kind = ?1 AND key = ?2", DO_GET, 's', .kind = true,
         .n_columns = 2, .columns = {1, 0}},
        {"INSERT INTO records(kind, key, sum, body) VALUES(?1, ?2, ?3, ?4) "
         "ON CONFLICT(kind, key) DO UPDATE SET sum = excluded.sum, body = excluded.body",
         DO_PUT, 's', .kind = true},
        {"DELETE FROM records WHERE kind = ?1 AND key = ?2", DO_DELETE, 's', .kind = true},
        {"SELECT key, body, sum FROM records WHERE kind = ?1 AND key >= ?2 ORDER BY key", DO_RANGE, 's',
         .kind = true, .low = LOW_AT, .n_columns = 3, .columns = {-1, 1, 0}},
        {"SELECT key, body, sum FROM records WHERE kind = ?1 AND key >= ?2 AND key <= ?3 "
         "ORDER BY key DESC LIMIT 1",
         DO_LAST, 's', .kind = true, .low = LOW_AT, .high = HIGH_AT, .n_columns = 3, .columns = {-1, 1, 0}},
        {"SELECT count(*) FROM records WHERE kind = ?1", DO_COUNT, 's', .kind = true},
        {"SELECT value FROM indexes WHERE kind = ?1 AND key = ?2", DO_GET, 'i', .kind = true, .n_columns = 1,
         .columns = {0}},
        {"INSERT OR REPLACE INTO indexes(kind, key, value) VALUES(?1, ?2, ?3)", DO_PUT, 'i', .kind = true},
        {"DELETE FROM indexes WHERE kind = ?1 AND key = ?2", DO_DELETE, 'i', .kind = true},
        {"SELECT key, value FROM indexes WHERE kind = ?1 AND key > ?2 AND key < ?3 ORDER BY key", DO_RANGE,
         'i', .kind = true, .high = HIGH_BELOW, .n_columns = 2, .columns = {-1, 0}},
        {"SELECT max(value) FROM indexes WHERE kind = ?1 AND key > ?2 AND key < ?3", DO_MAX, 'i',
         .kind = true, .high = HIGH_BELOW},
};

static const Meaning pragma_meaning = {"PRAGMA", DO_PRAGMA};

typedef struct Key {
        uint8_t bytes[KEY_MAX];
        size_t size;
} Key;

struct sqlite3_stmt {
        sqlite3 *db;
        const Meaning *meaning;
        unsigned n_rows; /* of an INSERT */
        /* While it is stepped: */
        bool busy;
        bool walks; /* over this version: later changes do not disturb it */
        uint64_t version;
        bool holds; /* a row that no sweep may take */
        MapItem *item;
        uint64_t joined;
        size_t head; /* of a key: table and kind */
        uint64_t n_steps;
        uint64_t answer; /* of those that are about all of a range */
        MapHint hint;
        Column bound[PARAMETERS_MAX];
        Bytes bytes[PARAMETERS_MAX];
        char pragma[64];
        MapWalk walk; /* these two are large, and begun anew with each range */
        Key high;
};

static Bytes key_bytes(const Key *key) {
        return BYTES(key->bytes, key->size);
}

static void key_begin(Key *key, const sqlite3_stmt *s) {
        key->size = 0;
        key->bytes[key->size++] = (uint8_t)s->meaning->table;
        if (s->meaning->kind)
                key->bytes[key->size++] = (uint8_t)s->bound[0].number;
}

static void key_add_number(Key *key, uint64_t number) {
        uint64_t falling = __builtin_bswap64(number);
        memcpy(key->bytes + key->size, &falling, sizeof(falling));
        key->size += sizeof(falling);
}

/* Behind the table's letter and the kind: parameter i. */
static void key_add(Key *key, const sqlite3_stmt *s, unsigned i) {
        if (s->meaning->number)
                key_add_number(key, s->bound[i].number);
        else {
                assert(key->size + s->bytes[i].size <= KEY_MAX);
                if (s->bytes[i].size > 0)
                        memcpy(key->bytes + key->size, s->bytes[i].data, s->bytes[i].size);
                key->size += s->bytes[i].size;
        }
}

/* As the map wants it. Of numbers without reading back what was written a moment ago in pieces. */
static MapKey map_key_of(const Key *key, const sqlite3_stmt *s, unsigned i) {
        if (!s->meaning->number || s->meaning->kind)
                return map_key(key_bytes(key));
        return (MapKey){.bytes = key_bytes(key),
                        .prefix = (MapPrefix)(uint8_t)s->meaning->table << 120 |
                                  (MapPrefix)s->bound[i].number << 56};
}

static size_t head_size(const Meaning *meaning) {
        return 1u + meaning->kind;
}

static const Version *seen_by(const sqlite3 *db) {
        return db->open ? &db->work : &db->file->committed;
}

/* ---- Files ---- */

static MemFile *files;

static void between_add(MemFile *file, const Version *version) {
        if (file->n_between == VERSIONS) { /* every second one goes */
                for (unsigned i = 0; i < VERSIONS; i += 2)
                        file->between[i / 2] = file->between[i + 1];
                file->n_between = VERSIONS / 2;
        }
        file->between[file->n_between++] = *version;
}

static int compare_numbers(const void *a, const void *b) {
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
        return (x > y) - (x < y);
}

/* What no version sees any more is freed: not while a statement holds a row, and not each time. */
static void file_sweep(MemFile *file) {
        uint64_t versions[VERSIONS + READERS + 2];
        size_t n = 0;
        if (file->n_getters > 0 || file->store.n_dead < file->sweep_at)
                return;
        versions[n++] = file->durable.number;
        for (unsigned i = 0; i < file->n_between; i++)
                versions[n++] = file->between[i].number;
        for (unsigned i = 0; i < file->n_readers; i++)
                versions[n++] = file->readers[i];
        versions[n++] = file->committed.number;
        qsort(versions, n, sizeof(uint64_t), compare_numbers);
        map_sweep(&file->store, versions, n);
        file->sweep_at = DEAD + 2 * file->store.n_dead;
}

static MemFile *file_free(MemFile *file) {
        map_deinit(&file->store, file->committed.root);
        close(file->fd);
        free(file);
        return NULL;
}

/* Those that were unlinked are gone. */
static void files_sweep(void) {
        for (MemFile **at = &files; *at;) {
                MemFile *file = *at;
                struct stat st;
                if (file->n_open == 0 && fstat(file->fd, &st) == 0 && st.st_nlink == 0) {
                        *at = file->next;
                        file_free(file);
                } else
                        at = &file->next;
        }
}

static MemFile *file_of(const char *path) {
        struct stat st;
        if (stat(path, &st) < 0)
                return NULL;
        for (MemFile *file = files; file; file = file->next)
                if (file->inode == st.st_ino && file->device == st.st_dev)
                        return file;
        return NULL;
}

static MemFile *file_new(const char *path) {
        files_sweep();
        struct stat st;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return NULL;
        MemFile *file = calloc(1, sizeof(MemFile));
        assert(file && fstat(fd, &st) == 0);
        *file = (MemFile){.fd = fd, .device = st.st_dev, .inode = st.st_ino, .next = files};
        return files = file;
}

void memdb_cut(const char *path, unsigned keep) {
        MemFile *file = file_of(path);
        if (!file)
                return;
        assert(file->n_open == 0 && file->n_readers == 0 && file->n_getters == 0);
        size_t n = (size_t)file->n_between * keep / 1000;
        Version survives = n == 0 ? file->durable : file->between[MIN(n, file->n_between) - 1];
        map_back(&file->store, file->committed.root, survives.number);
        file->committed = file->durable = survives;
        file->n_between = 0;
        file->pages = 0;
}

static bool is_below(const MemFile *file, const char *directory) {
        char link[64], path[512] = "";
        snprintf(link, sizeof(link), "/proc/self/fd/%d", file->fd);
        ssize_t n = readlink(link, path, sizeof(path) - 1);
        size_t length = strlen(directory);
        return n > 0 && strncmp(path, directory, length) == 0 && path[length] == '/';
}

/* Versions share what did not change, and so they share the rot, as pages of one file do. */
bool memdb_rot(const char *directory, uint64_t random) {
        for (MemFile *file = files; file; file = file->next) {
                MapItem *item = is_below(file, directory) ? map_some(file->committed.root, random) : NULL;
                if (!item || item->n_columns == 0)
                        continue;
                Column *column = &item->columns[random % item->n_columns];
                if (!column->is_bytes)
                        column->number ^= UINT64_C(1) << random % 63;
                else if (column->size > 0)
                        item->bytes[column->offset + random % column->size] ^= 1u << random % 8;
                else
                        continue;
                return true;
        }
        return false;
}

void memdb_unreadable(const char *directory) {
        for (MemFile *file = files; file; file = file->next)
                file->unreadable = file->unreadable || is_below(file, directory);
}

void memdb_readable(const char *directory) {
        for (MemFile *file = files; file; file = file->next)
                file->unreadable = file->unreadable && !is_below(file, directory);
}

static char full_directory[16][96];

void memdb_set_full(const char *directory, bool full) {
        bool was = false;
        size_t free_slot = ELEMENTSOF(full_directory);
        for (size_t i = 0; i < ELEMENTSOF(full_directory); i++) {
                if (strcmp(full_directory[i], directory) == 0) {
                        full_directory[i][0] = 0;
                        was = true;
                }
                if (!full_directory[i][0])
                        free_slot = MIN(free_slot, i);
        }
        if (!full && !was)
                return;
        assert(free_slot < ELEMENTSOF(full_directory));
        if (full)
                snprintf(full_directory[free_slot], sizeof(full_directory[0]), "%s", directory);
        for (MemFile *file = files; file; file = file->next)
                if (is_below(file, directory))
                        file->full = full;
}

static bool is_full_there(const char *path) {
        for (size_t i = 0; i < ELEMENTSOF(full_directory); i++) {
                size_t n = strlen(full_directory[i]);
                if (n > 0 && strncmp(path, full_directory[i], n) == 0 && path[n] == '/')
                        return true;
        }
        return false;
}

/* ---- Transactions ---- */

static int do_begin(sqlite3 *db) {
        if (db->open)
                return SQLITE_ERROR;
        assert(!db->file->writing); /* only one connection of the tree's ever writes */
        map_begin(&db->file->store);
        db->work = db->file->committed;
        db->open = db->file->writing = true;
        db->changed = 0;
        return SQLITE_DONE;
}

static int do_rollback(sqlite3 *db) {
        if (!db->open)
                return SQLITE_ERROR;
        map_rollback(&db->file->store, db->work.root);
        db->open = db->file->writing = false;
        return SQLITE_DONE;
}

static int do_commit(sqlite3 *db) {
        MemFile *file = db->file;
        if (!db->open)
                return SQLITE_ERROR;
        if (file->full) {
                (void)do_rollback(db);
                return SQLITE_FULL;
        }
        file->committed = db->work;
        file->committed.number = file->store.now;
        db->open = file->writing = false;
        between_add(file, &file->committed);
        file_sweep(file);
        file->pages += 2 + db->changed / 1024;
        if (db->hook)
                db->hook(db->hook_userdata, db, "main", (int)file->pages);
        return SQLITE_DONE;
}

/* ---- Rows ---- */

/* The row whose parameters begin at `first`. */
static int put_row(sqlite3_stmt *s, unsigned first) {
        sqlite3 *db = s->db;
        const Meaning *meaning = s->meaning;
        Key key;
        MapKey wanted;
        key_begin(&key, s);
        unsigned end = meaning->n_bound > 0 ? first + meaning->n_bound : COLUMNS_MAX;
        first += meaning->kind;
        if (meaning->table != 'm')
                key_add(&key, s, first);
        wanted = map_key_of(&key, s, first);
        first += meaning->table != 'm';

        assert(db->open);
        if (db->file->full && db->changed > SPILLS) {
                (void)do_rollback(db);
                return SQLITE_FULL;
        }
        unsigned n = 0;
        size_t size = 64;
        while (first + n < end && (s->bound[first + n].is_bytes || s->bound[first + n].size == 1)) {
                size += s->bytes[first + n].size;
                n++;
        }
        MapItem *item = map_item_new(key_bytes(&key), s->bound + first, s->bytes + first, n);
        bool there;
        db->work.root = map_put(&db->file->store, db->work.root, item, wanted.prefix, &there);
        if (meaning->action == DO_INSERT && there)
                return SQLITE_CONSTRAINT; /* and all of it is taken back */
        db->work.n_items += !there;
        db->changed += size;
        return SQLITE_DONE;
}

static int do_put(sqlite3_stmt *s) {
        for (unsigned i = 0; i < s->n_rows; i++) {
                int rc = put_row(s, i * s->meaning->n_bound);
                if (rc == SQLITE_CONSTRAINT)
                        (void)do_rollback(s->db);
                if (rc != SQLITE_DONE)
                        return rc;
        }
        return SQLITE_DONE;
}

static int do_delete(sqlite3_stmt *s) {
        sqlite3 *db = s->db;
        Key key;
        key_begin(&key, s);
        key_add(&key, s, s->meaning->kind);
        assert(db->open);
        bool there;
        db->work.root =
                map_delete(&db->file->store, db->work.root, map_key_of(&key, s, s->meaning->kind), &there);
        if (!there)
                return SQLITE_DONE;
        db->work.n_items--;
        db->changed += 64;
        return SQLITE_DONE;
}

static void item_set(sqlite3_stmt *s, MapItem *item) {
        s->item = item;
        if (s->walks || s->holds || !item)
                return;
        s->holds = true;
        s->db->file->n_getters++;
}

static void walk_version(sqlite3_stmt *s) {
        MemFile *file = s->db->file;
        s->walks = true;
        s->version = s->db->open ? map_freeze(&file->store) : file->committed.number;
        assert(file->n_readers < READERS);
        file->readers[file->n_readers++] = s->version;
}

static void walk_over(sqlite3_stmt *s) {
        MemFile *file = s->db->file;
        unsigned i = 0;
        while (file->readers[i] != s->version)
                i++;
        assert(i < file->n_readers);
        file->readers[i] = file->readers[--file->n_readers];
}

/* Finds what a row of one table points to in another. False: nothing. */
static bool join(sqlite3_stmt *s, MapItem *item) {
        if (!s->meaning->join)
                return true;
        uint64_t number = item->columns[0].number;
        Key key;
        key.bytes[0] = (uint8_t)s->meaning->join;
        key.size = 1;
        key_add_number(&key, number);
        MapKey wanted = {.bytes = key_bytes(&key),
                         .prefix = (MapPrefix)key.bytes[0] << 120 | (MapPrefix)number << 56};
        MapItem *other = map_find(seen_by(s->db)->root, wanted);
        if (other)
                s->joined = other->columns[0].number;
        return other;
}

static int do_get(sqlite3_stmt *s) {
        if (s->n_steps > 1)
                return SQLITE_DONE;
        Key key;
        key_begin(&key, s);
        if (s->meaning->table != 'm')
                key_add(&key, s, s->meaning->kind);
        MapItem *item = map_find_near(&s->db->file->store, seen_by(s->db)->root,
                                      map_key_of(&key, s, s->meaning->kind), &s->hint);
        item_set(s, item && join(s, item) ? item : NULL);
        return s->item ? SQLITE_ROW : SQLITE_DONE;
}

static bool same_head(const MapItem *item, const Key *key, size_t n) {
        return item->key_size >= n && memcmp(item->bytes, key->bytes, n) == 0;
}

static int compare_keys(Bytes a, Bytes b) {
        size_t n = MIN(a.size, b.size);
        int c = n > 0 ? memcmp(a.data, b.data, n) : 0;
        return c != 0 ? c : (a.size > b.size) - (a.size < b.size);
}

static void range_begin(sqlite3_stmt *s) {
        key_begin(&s->high, s);
        s->head = s->high.size;
        Key low;
        low.size = s->head;
        memcpy(low.bytes, s->high.bytes, s->head);
        if (s->meaning->action != DO_COUNT)
                key_add(&low, s, s->meaning->kind);
        map_walk(&s->walk, seen_by(s->db)->root, map_key(key_bytes(&low)),
                 s->meaning->action == DO_COUNT || s->meaning->low == LOW_AT);
        if (s->meaning->high != HIGH_NONE)
                key_add(&s->high, s, s->meaning->kind + 1u);
}

/* The next row, if it belongs to the range. */
static MapItem *range_next(sqlite3_stmt *s) {
        MapItem *item = map_walk_next(&s->walk);
        if (!item || !same_head(item, &s->high, s->head))
                return NULL;
        if (s->meaning->high == HIGH_NONE)
                return item;
        int c = compare_keys(map_item_key(item), key_bytes(&s->high));
        return c < 0 || (c == 0 && s->meaning->high == HIGH_AT) ? item : NULL;
}

static int do_range(sqlite3_stmt *s) {
        if (s->n_steps == 1) {
                range_begin(s);
                walk_version(s);
        } else if (!s->item)
                return SQLITE_DONE;
        MemFile *file = s->db->file;
        if (file->unreadable && s->db->open && s->meaning->table == 'r' && s->n_steps == 3) {
                file->unreadable = false;
                item_set(s, NULL);
                return SQLITE_IOERR_READ;
        }
        MapItem *item = range_next(s);
        while (item && !join(s, item))
                item = range_next(s);
        item_set(s, item);
        return s->item ? SQLITE_ROW : SQLITE_DONE;
}

/* One row about all of a range. */
static int do_whole(sqlite3_stmt *s) {
        if (s->n_steps > 1)
                return SQLITE_DONE;
        range_begin(s);
        uint64_t n = 0, most = 0;
        for (MapItem *item; (item = range_next(s));) {
                if (!join(s, item))
                        continue;
                n++;
                most = MAX(most, s->meaning->join ? s->joined : item->columns[0].number);
        }
        s->answer = s->meaning->action == DO_MAX ? most : n; /* max() of nothing is NULL, which reads as 0 */
        return SQLITE_ROW;
}

static int do_last(sqlite3_stmt *s) {
        if (s->n_steps > 1)
                return SQLITE_DONE;
        Key low, high;
        key_begin(&low, s);
        key_begin(&high, s);
        key_add(&low, s, s->meaning->kind);
        key_add(&high, s, s->meaning->kind + 1u);
        MapItem *item =
                map_last(seen_by(s->db)->root, map_key(key_bytes(&high)), s->meaning->high == HIGH_AT);
        if (item && compare_keys(map_item_key(item), key_bytes(&low)) < (s->meaning->low == LOW_AT ? 0 : 1))
                item = NULL;
        item_set(s, item);
        return item ? SQLITE_ROW : SQLITE_DONE;
}

/* ---- PRAGMA ---- */

static int64_t pragma_number(const sqlite3 *db, const char *name) {
        const Version *version = seen_by(db);
        if (strcmp(name, "application_id") == 0)
                return version->application_id;
        if (strcmp(name, "user_version") == 0)
                return version->user_version;
        if (strcmp(name, "page_count") == 0)
                return (int64_t)(4 + version->n_items / 16);
        return 0;
}

static void pragma_set(sqlite3 *db, const char *name, const char *value) {
        Version *version = db->open ? &db->work : &db->file->committed;
        if (strcmp(name, "application_id") == 0)
                version->application_id = atoll(value);
        else if (strcmp(name, "user_version") == 0)
                version->user_version = atoll(value);
        unsigned i = 0;
        while (i < db->n_pragmas && strcmp(db->pragmas[i].name, name) != 0)
                i++;
        assert(i < PRAGMAS);
        db->n_pragmas = MAX(db->n_pragmas, i + 1);
        memcpy(db->pragmas[i].name, name, strlen(name) + 1);
        memcpy(db->pragmas[i].value, value, strlen(value) + 1);
}

static const char *pragma_text(const sqlite3 *db, const char *name) {
        for (unsigned i = 0; i < db->n_pragmas; i++)
                if (strcmp(db->pragmas[i].name, name) == 0)
                        return db->pragmas[i].value;
        return NULL;
}

/* ---- What the tree calls ---- */

int sqlite3_open_v2(const char *path, sqlite3 **ret, int flags, const char *vfs) {
        MemFile *file = file_of(path) ?: file_new(path);
        if (!file)
                return SQLITE_CANTOPEN;
        file->full = is_full_there(path);
        sqlite3 *db = calloc(1, sizeof(sqlite3));
        assert(db);
        db->file = file;
        file->n_open++;
        *ret = db;
        return SQLITE_OK;
}

/* Closing a file that was being built, or cleanly: the last one out makes all of it durable. */
int sqlite3_db_config(sqlite3 *db, int what, ...) {
        va_list ap;
        va_start(ap, what);
        int on = va_arg(ap, int);
        va_end(ap);
        if (what == SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE && !on && !db->open)
                (void)sqlite3_wal_checkpoint_v2(db, "main", SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
        return SQLITE_OK;
}

int sqlite3_close(sqlite3 *db) {
        if (!db)
                return SQLITE_OK;
        if (db->open)
                (void)do_rollback(db);
        assert(db->file->n_open > 0);
        db->file->n_open--;
        free(db);
        return SQLITE_OK;
}

int sqlite3_wal_checkpoint_v2(sqlite3 *db, const char *name, int mode, int *ret_log, int *ret_moved) {
        MemFile *file = db->file;
        if (file->full)
                return SQLITE_FULL;
        if (ret_log)
                *ret_log = *ret_moved = (int)file->pages;
        file->durable = file->committed;
        file->n_between = 0;
        if (!file->writing)
                file_sweep(file);
        file->pages = 0;
        return SQLITE_OK;
}

void *sqlite3_wal_hook(sqlite3 *db, int (*hook)(void *, sqlite3 *, const char *, int), void *userdata) {
        db->hook = hook;
        db->hook_userdata = userdata;
        return NULL;
}

int sqlite3_extended_result_codes(sqlite3 *db, int on) {
        return SQLITE_OK;
}

int sqlite3_db_release_memory(sqlite3 *db) {
        return SQLITE_OK;
}

int sqlite3_busy_timeout(sqlite3 *db, int msec) {
        return SQLITE_OK;
}

int sqlite3_get_autocommit(sqlite3 *db) {
        return !db->open;
}

int sqlite3_system_errno(sqlite3 *db) {
        return 0;
}

const char *sqlite3_errmsg(sqlite3 *db) {
        return "the database in memory says so";
}

const char *sqlite3_errstr(int code) {
        return "the database in memory says so";
}

/* The same row of parameters once more, and so on; how often in all. 0: something else follows. */
static unsigned rows_of(const char *text, const Meaning *meaning) {
        size_t n = strlen(meaning->text);
        if (strncmp(text, meaning->text, n) != 0)
                return 0;
        unsigned n_rows = 1;
        const char *row = meaning->n_bound > 0 ? strrchr(meaning->text, '(') : "";
        for (text += n; *text; text += 2 + strlen(row), n_rows++)
                if (meaning->n_bound == 0 || strncmp(text, ", ", 2) != 0 ||
                    strncmp(text + 2, row, strlen(row)) != 0)
                        return 0;
        assert(n_rows * meaning->n_bound <= PARAMETERS_MAX);
        return n_rows;
}

static const Meaning *meaning_of(const char *text, unsigned *ret_rows) {
        *ret_rows = 1;
        if (strncmp(text, "PRAGMA ", 7) == 0)
                return &pragma_meaning;
        for (size_t i = 0; i < ELEMENTSOF(meanings); i++)
                if ((*ret_rows = rows_of(text, &meanings[i])) > 0)
                        return &meanings[i];
        fprintf(stderr, "tests/sim/memdb.c has to learn: %s\n", text);
        abort();
}

int sqlite3_prepare_v3(sqlite3 *db, const char *text, int size, unsigned flags, sqlite3_stmt **ret,
                       const char **ret_tail) {
        sqlite3_stmt *s = malloc(sizeof(sqlite3_stmt));
        assert(s);
        memset(s, 0, offsetof(sqlite3_stmt, walk));
        s->db = db;
        s->meaning = meaning_of(text, &s->n_rows);
        if (s->meaning->action == DO_PRAGMA)
                memccpy(s->pragma, text + 7, 0, sizeof(s->pragma) - 1);
        *ret = s;
        return SQLITE_OK;
}

int sqlite3_prepare_v2(sqlite3 *db, const char *text, int size, sqlite3_stmt **ret, const char **ret_tail) {
        return sqlite3_prepare_v3(db, text, size, 0, ret, ret_tail);
}

const char *sqlite3_sql(sqlite3_stmt *s) {
        return s->meaning->text;
}

int sqlite3_stmt_busy(sqlite3_stmt *s) {
        return s->busy;
}

int sqlite3_reset(sqlite3_stmt *s) {
        s->busy = false;
        s->n_steps = s->answer = 0;
        s->item = NULL;
        if (TAKE_FLAG(s->walks))
                walk_over(s);
        if (TAKE_FLAG(s->holds))
                s->db->file->n_getters--;
        return SQLITE_OK;
}

int sqlite3_finalize(sqlite3_stmt *s) {
        if (!s)
                return SQLITE_OK;
        (void)sqlite3_reset(s);
        free(s);
        return SQLITE_OK;
}

int sqlite3_bind_int64(sqlite3_stmt *s, int n, sqlite3_int64 v) {
        assert(n >= 1 && n <= PARAMETERS_MAX);
        s->bound[n - 1] = (Column){.number = (uint64_t)v, .size = 1}; /* size 1: it is bound */
        s->bytes[n - 1] = BYTES(NULL, 0);
        return SQLITE_OK;
}

int sqlite3_bind_blob64(sqlite3_stmt *s, int n, const void *data, sqlite3_uint64 size, void (*del)(void *)) {
        assert(n >= 1 && n <= PARAMETERS_MAX && del == SQLITE_STATIC);
        s->bound[n - 1] = (Column){.is_bytes = true};
        s->bytes[n - 1] = BYTES(data, size);
        return SQLITE_OK;
}

int sqlite3_bind_text64(sqlite3_stmt *s, int n, const char *text, sqlite3_uint64 size, void (*del)(void *),
                        unsigned char encoding) {
        assert(encoding == SQLITE_UTF8);
        return sqlite3_bind_blob64(s, n, text, size, del);
}

static int step(sqlite3_stmt *s) {
        switch (s->meaning->action) {
        case DO_BEGIN:
                return do_begin(s->db);
        case DO_COMMIT:
                return do_commit(s->db);
        case DO_ROLLBACK:
                return do_rollback(s->db);
        case DO_GET:
                return do_get(s);
        case DO_PUT:
        case DO_INSERT:
                return do_put(s);
        case DO_DELETE:
                return do_delete(s);
        case DO_RANGE:
                return do_range(s);
        case DO_LAST:
                return do_last(s);
        case DO_MAX:
        case DO_COUNT:
                return do_whole(s);
        case DO_PRAGMA:
                return s->n_steps > 1 ? SQLITE_DONE : SQLITE_ROW;
        }
        abort();
}

int sqlite3_step(sqlite3_stmt *s) {
        s->n_steps++;
        int rc = step(s);
        s->busy = rc == SQLITE_ROW;
        return rc;
}

/* As far as it goes; its length. */
static size_t word(const char *text, char to[static 32]) {
        size_t n = MIN(strspn(text, "-_abcdefghijklmnopqrstuvwxyz0123456789"), (size_t)31);
        memcpy(to, text, n);
        to[n] = 0;
        return n;
}

int sqlite3_exec(sqlite3 *db, const char *text, int (*each)(void *, int, char **, char **), void *userdata,
                 char **ret_error) {
        if (strncmp(text, "CREATE ", 7) == 0)
                return SQLITE_OK;
        if (strncmp(text, "PRAGMA ", 7) != 0) {
                sqlite3_stmt s;
                memset(&s, 0, offsetof(sqlite3_stmt, bound));
                s.db = db;
                s.meaning = meaning_of(text, &s.n_rows);
                int rc = step(&s);
                return rc == SQLITE_DONE ? SQLITE_OK : rc;
        }
        char name[32], value[32];
        for (const char *at = text; (at = strstr(at, "PRAGMA ")); at += 7)
                if (at[7 + word(at + 7, name)] == '=' && word(strchr(at, '=') + 1, value) > 0)
                        pragma_set(db, name, value);
        return SQLITE_OK;
}

/* ---- Columns ---- */

static const Column *column_of(sqlite3_stmt *s, int n) {
        return &s->item->columns[(int)s->meaning->columns[n]];
}

static bool is_key(const sqlite3_stmt *s, int n) {
        assert(n < s->meaning->n_columns);
        return s->meaning->columns[n] == -1;
}

sqlite3_int64 sqlite3_column_int64(sqlite3_stmt *s, int n) {
        switch (s->meaning->action) {
        case DO_MAX:
        case DO_COUNT:
                return (sqlite3_int64)s->answer;
        case DO_PRAGMA:
                return pragma_number(s->db, s->pragma);
        default:
                break;
        }
        if (s->meaning->columns[n] == JOINED)
                return (sqlite3_int64)s->joined;
        if (!is_key(s, n))
                return (sqlite3_int64)column_of(s, n)->number;
        uint64_t v = 0;
        for (size_t i = head_size(s->meaning); i < s->item->key_size; i++)
                v = v << 8 | s->item->bytes[i];
        return (sqlite3_int64)v;
}

int sqlite3_column_int(sqlite3_stmt *s, int n) {
        return (int)sqlite3_column_int64(s, n);
}

static Bytes column_as_bytes(sqlite3_stmt *s, int n) {
        if (!is_key(s, n))
                return map_item_bytes(s->item, (size_t)s->meaning->columns[n]);
        size_t head = head_size(s->meaning);
        return BYTES(s->item->bytes + head, s->item->key_size - head);
}

const void *sqlite3_column_blob(sqlite3_stmt *s, int n) {
        return column_as_bytes(s, n).data;
}

int sqlite3_column_bytes(sqlite3_stmt *s, int n) {
        return (int)column_as_bytes(s, n).size;
}

const unsigned char *sqlite3_column_text(sqlite3_stmt *s, int n) {
        assert(s->meaning->action == DO_PRAGMA);
        return (const unsigned char *)pragma_text(s->db, s->pragma);
}
