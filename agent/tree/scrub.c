/* Everything is read again: each live row by its key, each record, each row of history, each index row,
 * against its own checksum and against what points to it; and the sum of the live ones has to be the digest.
 *
 * It is done in slices, between which the tree goes on changing. So the sum is that of a prefix: what has
 * been passed already. A change behind the cursor is added to it when it happens, one before it will be met.
 * When keys and records are all passed, the prefix is the whole, and the two sums are of the same moment. */
#include "internal.h"

#include <string.h>

#define SLICE_BYTES (512 * 1024)

typedef struct Slice {
        Tree *tree;
        size_t rows, bytes; /* that may still be read */
} Slice;

static int scrub_rot(Tree *tree, const char *what) {
        report_say(&tree->options.report, LOG_ERR, "%s: %s", tree->path, what);
        return TREE_ROTTEN;
}

/* 0, or -EAGAIN: enough for now. What was read counts, also when it was the last. */
static int slice_took(Slice *slice, size_t bytes) {
        slice->tree->scrub.n_read++;
        slice->rows--;
        slice->bytes -= MIN(bytes, slice->bytes);
        return slice->rows == 0 || slice->bytes == 0 ? -EAGAIN : 0;
}

static void cursor_set(Scrub *scrub, Bytes key) {
        scrub->cursor_size = MIN(key.size, sizeof(scrub->cursor));
        if (scrub->cursor_size > 0)
                memcpy(scrub->cursor, key.data, scrub->cursor_size);
}

static bool cursor_passed(const Scrub *scrub, Bytes key) {
        size_t n = MIN(key.size, scrub->cursor_size);
        int c = n > 0 ? memcmp(key.data, scrub->cursor, n) : 0;
        return c < 0 || (c == 0 && key.size <= scrub->cursor_size);
}

/* ---- Changes between the slices ---- */

void scrub_key_changed(Tree *tree, Bytes key, Sum added, int n) {
        Scrub *scrub = &tree->scrub;
        if (scrub->phase != SCRUB_REST && (scrub->phase > SCRUB_KEYS || cursor_passed(scrub, key))) {
                scrub->sum += added;
                scrub->n_entries += (uint64_t)(int64_t)n;
        }
}

void scrub_record_changed(Tree *tree, RecordKind kind, Bytes key, Sum added) {
        Scrub *scrub = &tree->scrub;
        if (scrub->phase > SCRUB_RECORDS ||
            (scrub->phase == SCRUB_RECORDS &&
             (kind < scrub->kind || (kind == scrub->kind && cursor_passed(scrub, key)))))
                scrub->sum += added;
}

void scrub_restart(Tree *tree) {
        tree->scrub = (Scrub){};
}

/* ---- Live rows ---- */

static int scrub_live(Slice *slice, Bytes key, uint64_t id) {
        Tree *tree = slice->tree;
        Row row;
        int r = row_load(tree, id, &tree->seen, &row);
        if (r != 0)
                return r == TREE_NONE ? scrub_rot(tree, "a key points to a row that is gone") : r;
        if (row.kind != TREE_PUT || row.key_size != key.size || memcmp(row.key, key.data, key.size) != 0)
                return scrub_rot(tree, "a key points to the row of another");
        if (row.owner_host != 0) {
                uint8_t owned[16 + LIMIT_PATH_BYTES];
                uint64_t there;
                size_t n = owned_key(owned, row.owner_host, row.owner_generation, key);
                r = index_get(tree, INDEX_OWNED, BYTES(owned, n), &there);
                if (r != 0)
                        return r == TREE_NONE ? scrub_rot(tree, "an owner does not know its entry") : r;
        }
        tree->scrub.sum += row.sum;
        tree->scrub.n_entries++;
        cursor_set(&tree->scrub, key);
        return slice_took(slice, row.value.size);
}

/* Steps a statement that is bound, until visit() returns non-0 or the end, which is 0. */
static int scrub_each(Slice *slice, Statement which, sqlite3_stmt *s,
                      int (*visit)(Slice *slice, sqlite3_stmt *s)) {
        int r;
        while ((r = sql_step(slice->tree, s)) == 0) {
                r = visit(slice, s);
                if (r != 0)
                        break;
        }
        sql_release(slice->tree, which, s);
        return r == TREE_NONE ? 0 : r;
}

static int visit_key(Slice *slice, sqlite3_stmt *s) {
        return scrub_live(slice, column_bytes(s, 0), column_u64(s, 1));
}

static int scrub_keys(Slice *slice) {
        const Scrub *scrub = &slice->tree->scrub;
        uint8_t from[sizeof(scrub->cursor)];
        sqlite3_stmt *s;
        int r = sql_acquire(slice->tree, STMT_KEY_RANGE, &s);
        if (r != 0)
                return r;
        memcpy(from, scrub->cursor, scrub->cursor_size);
        bind_text(s, 1, from, scrub->cursor_size);
        bind_text(s, 2, "\xff", 1);
        return scrub_each(slice, STMT_KEY_RANGE, s, visit_key);
}

/* ---- Records ---- */

static int visit_record(RecordKind kind, Bytes key, Bytes body, void *userdata) {
        Slice *slice = userdata;
        Scrub *scrub = &slice->tree->scrub;

        if (scrub->cursor_size > 0 && cursor_passed(scrub, key))
                return 0; /* the last one of the slice before */
        scrub->sum += record_hash(kind, key, body);
        cursor_set(scrub, key);
        if (kind == RECORD_MEMBER) {
                Member member;
                int r = member_decode(key, body, &member);
                if (r == 0)
                        r = member_check_index(slice->tree, &member);
                if (r != 0)
                        return r == TREE_ROTTEN
                                       ? scrub_rot(slice->tree, "a member is not known by its name and keys")
                                       : r;
        }
        return slice_took(slice, body.size);
}

/* The prefix is the whole. Request rows in memory are ahead of their records: meta.digest counts the
 * records. */
static int scrub_compare(Tree *tree) {
        if (tree->scrub.sum != tree->meta.digest)
                return scrub_rot(tree, "rows and digest differ");
        if (tree->scrub.n_entries != tree->meta.n_entries)
                return scrub_rot(tree, "the number of entries is wrong");
        int r = meta_check(tree);
        return r == TREE_ROTTEN ? scrub_rot(tree, "the row of meta is wrong") : r;
}

static int scrub_records(Slice *slice) {
        Scrub *scrub = &slice->tree->scrub;
        for (; scrub->kind < _RECORD_MAX; scrub->kind++, scrub->cursor_size = 0) {
                uint8_t from[sizeof(scrub->cursor)];
                memcpy(from, scrub->cursor, scrub->cursor_size);
                int r = record_each(slice->tree, scrub->kind, BYTES(from, scrub->cursor_size), visit_record,
                                    slice);
                if (r != 0)
                        return r;
        }
        return scrub_compare(slice->tree);
}

/* ---- History and hints ---- */

static int visit_row(Slice *slice, sqlite3_stmt *s) {
        Tree *tree = slice->tree;
        Row row;
        int r = row_load(tree, column_u64(s, 0), &tree->seen, &row);
        if (r != 0)
                return r == TREE_NONE ? TREE_ROTTEN : r;
        if (row_revision(row.id) > tree->meta.revision)
                return scrub_rot(tree, "a row lies in the future");
        tree->scrub.row = row.id + 1;
        return slice_took(slice, row.value.size);
}

static int scrub_rows(Slice *slice) {
        sqlite3_stmt *s;
        int r = sql_acquire(slice->tree, STMT_ROW_SCAN, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, slice->tree->scrub.row);
        bind_u64(s, 2, INT64_MAX);
        return scrub_each(slice, STMT_ROW_SCAN, s, visit_row);
}

static int visit_tomb(Slice *slice, sqlite3_stmt *s) {
        Tree *tree = slice->tree;
        Bytes key = column_bytes(s, 0);
        Row row;
        int r = row_load(tree, column_u64(s, 1), &tree->seen, &row);
        if (r != 0 && r != TREE_NONE)
                return r;
        if (r == TREE_NONE || row.kind != TREE_DELETE || row.key_size != key.size ||
            memcmp(row.key, key.data, key.size) != 0)
                return scrub_rot(tree, "a deletion points to a row that is none");
        cursor_set(&tree->scrub, key);
        return slice_took(slice, 0);
}

/* host, generation, path: nobody claims what is not its own. */
static int visit_owned(Slice *slice, sqlite3_stmt *s) {
        Tree *tree = slice->tree;
        Bytes key = column_bytes(s, 0);
        uint64_t id;
        Row row;

        if (key.size <= 16 || key.size > sizeof(tree->scrub.cursor))
                return scrub_rot(tree, "an owner's hint is malformed");
        int r = key_find(tree, BYTES(key.data + 16, key.size - 16), &id);
        if (r == 0)
                r = row_load(tree, id, &tree->seen, &row);
        if (r != 0 && r != TREE_NONE)
                return r;
        if (r == TREE_NONE || row.owner_host != key_read(key.data) ||
            row.owner_generation != key_read(key.data + 8))
                return scrub_rot(tree, "an owner claims entries that are not its own");
        cursor_set(&tree->scrub, key);
        return slice_took(slice, 0);
}

static int scrub_index(Slice *slice, IndexKind kind, int (*visit)(Slice *, sqlite3_stmt *)) {
        const Scrub *scrub = &slice->tree->scrub;
        uint8_t from[sizeof(scrub->cursor)];
        static const uint8_t highest[17] = {255, 255, 255, 255, 255, 255, 255, 255, 255,
                                            255, 255, 255, 255, 255, 255, 255, 255};
        sqlite3_stmt *s;
        int r = sql_acquire(slice->tree, STMT_INDEX_RANGE, &s);
        if (r != 0)
                return r;
        memcpy(from, scrub->cursor, scrub->cursor_size);
        bind_u64(s, 1, kind);
        bind_bytes(s, 2, from, scrub->cursor_size);
        bind_bytes(s, 3, highest, sizeof(highest));
        return scrub_each(slice, STMT_INDEX_RANGE, s, visit);
}

/* ---- The pass ---- */

/* What SQLite still remembers of pages says nothing of the disk. */
static int scrub_begin(Tree *tree) {
        tree->scrub = (Scrub){.phase = SCRUB_KEYS, .kind = RECORD_MEMBER};
        int r = transaction_flush(tree);
        if (r != 0)
                return r;
        keys_forget(tree);
        sqlite3_db_release_memory(tree->db);
        return 0;
}

static int scrub_phase(Slice *slice) {
        switch (slice->tree->scrub.phase) {
        case SCRUB_REST:
                return 0;
        case SCRUB_KEYS:
                return scrub_keys(slice);
        case SCRUB_RECORDS:
                return scrub_records(slice);
        case SCRUB_ROWS:
                return scrub_rows(slice);
        case SCRUB_OWNED:
                return scrub_index(slice, INDEX_OWNED, visit_owned);
        case SCRUB_TOMBS:
                return scrub_index(slice, INDEX_TOMB, visit_tomb);
        }
        return -EINVAL;
}

int tree_scrub_slice(Tree *tree, size_t max_rows, uint64_t *ret_read, bool *ret_done) {
        Scrub *scrub = &tree->scrub;
        Slice slice = {.tree = tree, .rows = MAX(max_rows, (size_t)1), .bytes = SLICE_BYTES};

        *ret_done = false;
        if (tree->fatal != 0)
                return tree->fatal;
        if (scrub->phase == SCRUB_REST) {
                int r = scrub_begin(tree);
                if (r != 0) {
                        scrub_restart(tree);
                        return r;
                }
        }
        for (;;) {
                int r = scrub_phase(&slice);
                *ret_read = scrub->n_read;
                if (r == -EAGAIN)
                        return 0;
                if (r != 0) {
                        scrub_restart(tree);
                        return r;
                }
                scrub->cursor_size = 0;
                if (scrub->phase == SCRUB_TOMBS) {
                        scrub_restart(tree);
                        *ret_done = true;
                        return 0;
                }
                scrub->phase++;
        }
}

void tree_scrub_anew(Tree *tree) {
        scrub_restart(tree);
}

int tree_scrub(Tree *tree) {
        scrub_restart(tree);
        for (;;) {
                bool done;
                uint64_t n_read;
                int r = tree_scrub_slice(tree, SIZE_MAX, &n_read, &done);
                if (r != 0 || done)
                        return r;
        }
}
