/* The small tables (members, sessions, requests, tokens) are one: (kind, key) → body, with a checksum that
 * is also the record's part of the digest. So there is one way to write, verify, hash and send them. Beside
 * it lies a table of index rows, (kind, key) → number, derived from rows and records: it has no part in the
 * digest and is built anew by who receives a snapshot. */
#include "internal.h"

#include <string.h>

static int record_verify(Tree *tree, RecordKind kind, Bytes key, Bytes body, Bytes sum) {
        if (sum.size == 16 && sum_read(sum.data) == record_hash(kind, key, body))
                return 0;
        report_say(&tree->options.report, LOG_ERR, "%s: a record of kind %d has a wrong checksum",
                   tree->path, (int)kind);
        return TREE_ROTTEN;
}

int record_get(Tree *tree, RecordKind kind, Bytes key, Bytes *ret_body) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_RECORD_GET, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, kind);
        bind_bytes(s, 2, key.data, key.size);
        r = sql_step(tree, s);
        if (r == 0) {
                Bytes body = column_bytes(s, 0);
                r = record_verify(tree, kind, key, body, column_bytes(s, 1));
                if (r == 0) {
                        tree->record.size = 0;
                        r = buffer_append(&tree->record, body.data, body.size);
                }
        }
        sql_release(tree, STMT_RECORD_GET, s);
        if (r == 0)
                *ret_body = BYTES(tree->record.data, tree->record.size);
        return r;
}

/* The record's part in the digest, 0 when there is none. Only the checksum is asked: what is replaced or
 * removed is not read. */
static int record_part(Tree *tree, RecordKind kind, Bytes key, Sum *ret) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_RECORD_GET, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, kind);
        bind_bytes(s, 2, key.data, key.size);
        r = sql_step(tree, s);
        *ret = 0;
        if (r == 0) {
                Bytes sum = column_bytes(s, 1);
                if (sum.size == 16)
                        *ret = sum_read(sum.data);
                else
                        r = TREE_ROTTEN;
        }
        sql_release(tree, STMT_RECORD_GET, s);
        return r == TREE_NONE ? 0 : r;
}

int record_put(Tree *tree, RecordKind kind, Bytes key, Bytes body) {
        Sum before, sum = record_hash(kind, key, body);
        int r = record_part(tree, kind, key, &before);
        if (r != 0)
                return r;

        sqlite3_stmt *s;
        r = sql_acquire(tree, STMT_RECORD_PUT, &s);
        if (r != 0)
                return r;
        uint8_t bytes[16];
        sum_write(bytes, sum);
        bind_u64(s, 1, kind);
        bind_bytes(s, 2, key.data, key.size);
        bind_bytes(s, 3, bytes, sizeof(bytes));
        bind_bytes(s, 4, body.data, body.size);
        r = sql_run(tree, STMT_RECORD_PUT, s);
        if (r != 0)
                return r;
        tree->meta.digest += sum - before;
        scrub_record_changed(tree, kind, key, sum - before);
        tree->pages += 1 + body.size / TREE_PAGE_BYTES;
        return 0;
}

int record_delete(Tree *tree, RecordKind kind, Bytes key) {
        Sum before;
        int r = record_part(tree, kind, key, &before);
        if (r != 0)
                return r;

        sqlite3_stmt *s;
        r = sql_acquire(tree, STMT_RECORD_DELETE, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, kind);
        bind_bytes(s, 2, key.data, key.size);
        r = sql_run(tree, STMT_RECORD_DELETE, s);
        if (r != 0)
                return r;
        tree->meta.digest -= before;
        scrub_record_changed(tree, kind, key, -before);
        tree->pages++;
        return 0;
}

int record_count(Tree *tree, RecordKind kind, uint64_t *ret) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_RECORD_COUNT, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, kind);
        r = sql_step(tree, s);
        if (r == 0)
                *ret = column_u64(s, 0);
        sql_release(tree, STMT_RECORD_COUNT, s);
        return r;
}

int record_each(Tree *tree, RecordKind kind, Bytes from, RecordVisitor visit, void *userdata) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_RECORD_RANGE, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, kind);
        bind_bytes(s, 2, from.data, from.size);
        while ((r = sql_step(tree, s)) == 0) {
                Bytes key = column_bytes(s, 0), body = column_bytes(s, 1);
                r = key.size <= UINT8_MAX ? record_verify(tree, kind, key, body, column_bytes(s, 2))
                                          : TREE_ROTTEN;
                if (r == 0)
                        r = visit(kind, key, body, userdata);
                if (r != 0)
                        break;
        }
        sql_release(tree, STMT_RECORD_RANGE, s);
        return r == TREE_NONE ? 0 : r;
}

int index_get(Tree *tree, IndexKind kind, Bytes key, uint64_t *ret) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_INDEX_GET, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, kind);
        bind_bytes(s, 2, key.data, key.size);
        r = sql_step(tree, s);
        if (r == 0)
                *ret = column_u64(s, 0);
        sql_release(tree, STMT_INDEX_GET, s);
        return r;
}

int index_put(Tree *tree, IndexKind kind, Bytes key, uint64_t value) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_INDEX_PUT, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, kind);
        bind_bytes(s, 2, key.data, key.size);
        bind_u64(s, 3, value);
        tree->pages++;
        return sql_run(tree, STMT_INDEX_PUT, s);
}

int index_delete(Tree *tree, IndexKind kind, Bytes key) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_INDEX_DELETE, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, kind);
        bind_bytes(s, 2, key.data, key.size);
        return sql_run(tree, STMT_INDEX_DELETE, s);
}
