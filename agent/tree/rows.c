/* Rows: every change, in the order of revisions, each value once. They are only ever appended, pruned and
 * read. New ones wait until a handful can be written at once, or until COMMIT or a reader of the table comes
 * (sql.c sees to both); large ones do not wait, because they would be copied.
 *
 * `head` of a row, numbers little endian:
 *
 *       0 sum 16 | 16 u8 kind | 17 u8 owned | 18 u64 create | 26 u64 version | 34 u64 previous
 *      42 when owned: u64 host | u64 generation | u16 n | tag
 *         key */
#include "internal.h"

#include <string.h>

#define HEAD_BYTES      42
#define HEAD_OWNER      18
#define ROW_WAITS_BYTES 4096         /* a larger value is written at once */
#define ROWS_WAIT_BYTES (512 * 1024) /* of all that wait for a checkpoint */

/* ---- Bytes ---- */

int row_rot(const Tree *tree, uint64_t id) {
        report_say(&tree->options.report, LOG_ERR, "%s: the row of revision %llu, number %llu is rotten",
                   tree->path, (unsigned long long)row_revision(id),
                   (unsigned long long)(id & ((1u << ROW_SHIFT) - 1)));
        return TREE_ROTTEN;
}

/* Is it a row that apply could have written? For bytes from a peer, and for bytes from the disk before the
 * hash is computed over them. */
bool row_is_sane(const Row *row, size_t tag_size) {
        if (row->kind != TREE_PUT && row->kind != TREE_DELETE)
                return false;
        if (row->key_size == 0 || row->key_size > LIMIT_PATH_BYTES || tag_size > OWNER_TAG_BYTES)
                return false;
        if (row->value.size > LIMIT_VALUE_BYTES || (row->kind == TREE_DELETE && row->value.size > 0))
                return false;
        if (row_revision(row->id) == 0 || row->id > INT64_MAX || row->previous >= row->id)
                return false;
        return row->create_revision <= row_revision(row->id);
}

Row row_decode(const uint8_t head[static ROW_HEAD_BYTES]) {
        return (Row){
                .id = bytes_get_u64(head),
                .create_revision = bytes_get_u64(head + 8),
                .version = bytes_get_u64(head + 16),
                .previous = bytes_get_u64(head + 24),
                .owner_host = bytes_get_u64(head + 32),
                .owner_generation = bytes_get_u64(head + 40),
                .kind = head[48],
                .key_size = bytes_get_u32(head + 52),
                .value = {.size = bytes_get_u32(head + 56)},
        };
}

static size_t head_write(const Row *row, uint8_t to[static TREE_ROW_HEAD_MAX]) {
        size_t tag_size = strlen(row->owner_tag);
        bool owned = row->owner_host != 0 || row->owner_generation != 0 || tag_size > 0;
        assert(tag_size <= OWNER_TAG_BYTES && row->key_size <= LIMIT_PATH_BYTES);

        sum_write(to, row->sum);
        to[16] = (uint8_t)row->kind;
        to[17] = owned;
        bytes_put_u64(to + 18, row->create_revision);
        bytes_put_u64(to + 26, row->version);
        bytes_put_u64(to + 34, row->previous);
        size_t size = HEAD_BYTES;
        if (owned) {
                bytes_put_u64(to + size, row->owner_host);
                bytes_put_u64(to + size + 8, row->owner_generation);
                to[size + 16] = (uint8_t)tag_size;
                to[size + 17] = (uint8_t)(tag_size >> 8);
                memcpy(to + size + HEAD_OWNER, row->owner_tag, tag_size);
                size += HEAD_OWNER + tag_size;
        }
        memcpy(to + size, row->key, row->key_size);
        return size + row->key_size;
}

/* Key and tag point into `head` and are not terminated; false: malformed. */
bool row_head_read(uint64_t id, Bytes head, Row *ret, Bytes *ret_tag) {
        const uint8_t *p = head.data;
        if (head.size < HEAD_BYTES || p[17] > 1)
                return false;
        *ret = (Row){
                .id = id,
                .kind = (TreeChangeKind)p[16],
                .create_revision = bytes_get_u64(p + 18),
                .version = bytes_get_u64(p + 26),
                .previous = bytes_get_u64(p + 34),
                .sum = sum_read(p),
                .value = BYTES("", 0),
        };
        *ret_tag = BYTES("", 0);
        size_t size = HEAD_BYTES;
        if (p[17]) {
                if (head.size < HEAD_BYTES + HEAD_OWNER)
                        return false;
                ret->owner_host = bytes_get_u64(p + size);
                ret->owner_generation = bytes_get_u64(p + size + 8);
                *ret_tag = BYTES(p + size + HEAD_OWNER, p[size + 16] | (size_t)p[size + 17] << 8);
                size += HEAD_OWNER + ret_tag->size;
                if (head.size < size)
                        return false;
        }
        ret->key = (const char *)p + size;
        ret->key_size = head.size - size;
        return row_is_sane(ret, ret_tag->size);
}

/* ---- Reading ---- */

static int row_read(Tree *tree, sqlite3_stmt *s, uint64_t id, Buffer *into, Row *ret) {
        Bytes head = column_bytes(s, 0), value = column_bytes(s, 1), tag;
        Row row;
        if (!row_head_read(id, head, &row, &tag))
                return row_rot(tree, id);
        row.value = value;
        if (!row_is_sane(&row, tag.size))
                return row_rot(tree, id);

        /* key NUL tag NUL value */
        into->size = 0;
        int r = buffer_reserve(into, row.key_size + tag.size + value.size + 2);
        if (r < 0)
                return r;
        char *p = (char *)into->data;
        memcpy(p, row.key, row.key_size);
        p[row.key_size] = 0;
        if (tag.size > 0)
                memcpy(p + row.key_size + 1, tag.data, tag.size);
        p[row.key_size + 1 + tag.size] = 0;
        if (value.size > 0)
                memcpy(p + row.key_size + tag.size + 2, value.data, value.size);
        into->size = row.key_size + tag.size + value.size + 2;
        row.key = p;
        row.owner_tag = p + row.key_size + 1;
        row.value.data = (uint8_t *)p + row.key_size + tag.size + 2;

        if (strlen(row.key) != row.key_size || strlen(row.owner_tag) != tag.size ||
            row_hash(&row) != row.sum)
                return row_rot(tree, id);
        *ret = row;
        return 0;
}

int row_load(Tree *tree, uint64_t id, Buffer *into, Row *ret) {
        const RowsWaiting *waiting = &tree->rows_waiting;
        int r = waiting->n > 0 && id >= waiting->rows[0].id ? rows_flush(tree) : 0;
        if (r != 0)
                return r;
        sqlite3_stmt *s;
        r = sql_acquire(tree, STMT_ROW_GET, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, id);
        r = sql_step(tree, s);
        if (r == 0)
                r = row_read(tree, s, id, into, ret);
        sql_release(tree, STMT_ROW_GET, s);
        return r;
}

/* The live row of a key, as the pointer says; a pointer to anything else is rot. */
int row_live(Tree *tree, Bytes key, uint64_t id, Buffer *into, Row *ret) {
        int r = row_load(tree, id, into, ret);
        if (r == TREE_NONE)
                return row_rot(tree, id);
        if (r != 0)
                return r;
        if (ret->kind != TREE_PUT || ret->key_size != key.size || memcmp(ret->key, key.data, key.size) != 0)
                return row_rot(tree, id);
        return 0;
}

/* ---- Writing ---- */

static void row_bind(sqlite3_stmt *s, int first, uint64_t id, Bytes head, Bytes value) {
        bind_u64(s, first, id);
        bind_bytes(s, first + 1, head.data, head.size);
        bind_bytes(s, first + 2, value.data, value.size);
}

static int row_put(Tree *tree, uint64_t id, Bytes head, Bytes value) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_ROW_INSERT, &s);
        if (r != 0)
                return r;
        row_bind(s, 1, id, head, value);
        return sql_run(tree, STMT_ROW_INSERT, s);
}

static Bytes waiting_head(const RowsWaiting *waiting, unsigned i) {
        return BYTES(waiting->bytes.data + waiting->rows[i].at, waiting->rows[i].head_size);
}

static Bytes waiting_value(const RowsWaiting *waiting, unsigned i) {
        return BYTES(waiting->bytes.data + waiting->rows[i].at + waiting->rows[i].head_size,
                     waiting->rows[i].value_size);
}

static int rows_put(Tree *tree, unsigned from) {
        const RowsWaiting *waiting = &tree->rows_waiting;
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_ROW_INSERT_MANY, &s);
        if (r != 0)
                return r;
        for (unsigned i = 0; i < TREE_AT_ONCE; i++)
                row_bind(s, 3 * (int)i + 1, waiting->rows[from + i].id, waiting_head(waiting, from + i),
                         waiting_value(waiting, from + i));
        return sql_run(tree, STMT_ROW_INSERT_MANY, s);
}

int rows_flush(Tree *tree) {
        RowsWaiting *waiting = &tree->rows_waiting;
        unsigned done = 0;
        int r = 0;
        while (r == 0 && waiting->n - done >= TREE_AT_ONCE) {
                r = rows_put(tree, done);
                done += r == 0 ? TREE_AT_ONCE : 0;
        }
        while (r == 0 && done < waiting->n) {
                r = row_put(tree, waiting->rows[done].id, waiting_head(waiting, done),
                            waiting_value(waiting, done));
                done += r == 0;
        }
        waiting->n -= done;
        memmove(waiting->rows, waiting->rows + done, waiting->n * sizeof(waiting->rows[0]));
        if (waiting->n == 0)
                waiting->bytes.size = 0;
        return r;
}

void rows_forget(Tree *tree) {
        tree->rows_waiting.n = 0;
        tree->rows_waiting.bytes.size = 0;
}

static int row_wait(Tree *tree, const Row *row, Bytes head) {
        RowsWaiting *waiting = &tree->rows_waiting;
        size_t at = waiting->bytes.size;
        int r = buffer_append(&waiting->bytes, head.data, head.size);
        if (r == 0 && row->value.size > 0)
                r = buffer_append(&waiting->bytes, row->value.data, row->value.size);
        if (r < 0) {
                waiting->bytes.size = at;
                return r;
        }
        waiting->rows[waiting->n].id = row->id;
        waiting->rows[waiting->n].at = (uint32_t)at;
        waiting->rows[waiting->n].head_size = (uint32_t)head.size;
        waiting->rows[waiting->n].value_size = (uint32_t)row->value.size;
        waiting->n++;
        if (waiting->n < TREE_AT_ONCE)
                return 0;
        bool room = waiting->n < TREE_WAITING_ROWS && waiting->bytes.size < ROWS_WAIT_BYTES;
        bool patient = room && !tree->begun && maintain_holds_begin(tree);
        return patient ? 0 : rows_flush(tree);
}

int row_insert(Tree *tree, const Row *row) {
        uint8_t bytes[TREE_ROW_HEAD_MAX];
        Bytes head = BYTES(bytes, head_write(row, bytes));
        tree->row_bytes += head.size + row->value.size + 8;
        tree->rows++;
        if (row->value.size <= ROW_WAITS_BYTES)
                return row_wait(tree, row, head);
        int r = rows_flush(tree);
        return r != 0 ? r : row_put(tree, row->id, head, row->value);
}
