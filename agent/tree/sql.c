/* Every statement of the room in one table, prepared once; and the one place where SQLite's errors become
 * ours. A statement is reset before its function returns: one that stays open would hold a read mark, and
 * the WAL could never start anew. */
#include "internal.h"

#include <string.h>

/* A statement that may stop halfway has SQLite copy each page that it touches, to take it back alone. These
 * never do: OR ROLLBACK takes back all, OR REPLACE of a number is never refused. */
#define FOUR(row)    row ", " row ", " row ", " row
#define SIXTEEN(row) FOUR(FOUR(row))
static_assert(TREE_AT_ONCE == 16, "SIXTEEN");

static const char *const sql_text[_STMT_MAX] = {
        [STMT_BEGIN] = "BEGIN IMMEDIATE",
        [STMT_COMMIT] = "COMMIT",
        [STMT_ROLLBACK] = "ROLLBACK",
        [STMT_LOOK] = "BEGIN",
        [STMT_LOOK_END] = "COMMIT",
        [STMT_META_LOAD] =
                "SELECT applied, applied_term, revision, floor, cluster_usec, n_entries, conf, "
                "conf_index, cluster, epoch, min_version, digest, pruned, sum FROM meta WHERE id = 1",
        [STMT_META_SAVE] = "INSERT OR REPLACE INTO meta(id, applied, applied_term, revision, floor, "
                           "cluster_usec, n_entries, conf, conf_index, cluster, epoch, min_version, digest, "
                           "pruned, sum) VALUES(1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, "
                           "?14)",
        [STMT_KEY_FIND] = "SELECT keys.n, newest.id FROM keys CROSS JOIN newest ON newest.n = keys.n "
                          "WHERE keys.key = ?1",
        [STMT_KEY_INSERT] = "INSERT INTO keys(key, n) VALUES(?1, ?2)",
        [STMT_KEY_DELETE] = "DELETE FROM keys WHERE key = ?1",
        [STMT_KEY_RANGE] = "SELECT keys.key, newest.id FROM keys CROSS JOIN newest ON newest.n = keys.n "
                           "WHERE keys.key > ?1 AND keys.key < ?2 ORDER BY keys.key",
        [STMT_KEY_NEWEST] = "SELECT max(newest.id) FROM keys CROSS JOIN newest ON newest.n = keys.n "
                            "WHERE keys.key > ?1 AND keys.key < ?2",
        [STMT_NEWEST_PUT] = "INSERT OR REPLACE INTO newest(n, id) VALUES(?, ?)",
        [STMT_NEWEST_PUT_MANY] = "INSERT OR REPLACE INTO newest(n, id) VALUES" SIXTEEN("(?, ?)"),
        [STMT_NEWEST_DELETE] = "DELETE FROM newest WHERE n = ?1",
        [STMT_ROW_GET] = "SELECT head, value FROM rows WHERE id = ?1",
        [STMT_ROW_INSERT] = "INSERT OR ROLLBACK INTO rows(id, head, value) VALUES(?, ?, ?)",
        [STMT_ROW_INSERT_MANY] = "INSERT OR ROLLBACK INTO rows(id, head, value) VALUES" SIXTEEN("(?, ?, ?)"),
        [STMT_ROW_DELETE] = "DELETE FROM rows WHERE id = ?1",
        [STMT_ROW_SCAN] = "SELECT id, head FROM rows WHERE id >= ?1 AND id < ?2 ORDER BY id",
        [STMT_RECORD_GET] = "SELECT body, sum FROM records WHERE kind = ?1 AND key = ?2",
        [STMT_RECORD_PUT] = "INSERT INTO records(kind, key, sum, body) VALUES(?1, ?2, ?3, ?4) "
                            "ON CONFLICT(kind, key) DO UPDATE SET sum = excluded.sum, body = excluded.body",
        [STMT_RECORD_DELETE] = "DELETE FROM records WHERE kind = ?1 AND key = ?2",
        [STMT_RECORD_RANGE] =
                "SELECT key, body, sum FROM records WHERE kind = ?1 AND key >= ?2 ORDER BY key",
        [STMT_RECORD_LAST] =
                "SELECT key, body, sum FROM records WHERE kind = ?1 AND key >= ?2 AND key <= ?3 "
                "ORDER BY key DESC LIMIT 1",
        [STMT_RECORD_COUNT] = "SELECT count(*) FROM records WHERE kind = ?1",
        [STMT_INDEX_GET] = "SELECT value FROM indexes WHERE kind = ?1 AND key = ?2",
        [STMT_INDEX_PUT] = "INSERT OR REPLACE INTO indexes(kind, key, value) VALUES(?1, ?2, ?3)",
        [STMT_INDEX_DELETE] = "DELETE FROM indexes WHERE kind = ?1 AND key = ?2",
        [STMT_INDEX_RANGE] = "SELECT key, value FROM indexes WHERE kind = ?1 AND key > ?2 AND key < ?3 "
                             "ORDER BY key",
        [STMT_INDEX_NEWEST] = "SELECT max(value) FROM indexes WHERE kind = ?1 AND key > ?2 AND key < ?3",
};

/* A write that found no room, whichever call of SQLite it came from. */
static bool sql_is_full(sqlite3 *db, int rc) {
        if ((rc & 0xff) == SQLITE_FULL)
                return true;
        int e = db ? sqlite3_system_errno(db) : 0;
        return (rc == SQLITE_IOERR_WRITE || rc == SQLITE_IOERR_SHMSIZE) && (e == ENOSPC || e == EDQUOT);
}

int sql_outcome(sqlite3 *db, int rc) {
        assert(rc != SQLITE_OK && rc != SQLITE_ROW && rc != SQLITE_DONE);

        if (sql_is_full(db, rc))
                return TREE_FULL;
        if (rc == SQLITE_IOERR_READ || rc == SQLITE_IOERR_SHORT_READ || rc == SQLITE_IOERR_CORRUPTFS)
                return TREE_ROTTEN; /* what cannot be read back is as bad as what reads wrong */
        switch (rc & 0xff) {
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB:
        case SQLITE_CONSTRAINT: /* a row that should not be there: an index is wrong */
                return TREE_ROTTEN;
        case SQLITE_NOMEM:
                return -ENOMEM;
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
                return -EBUSY;
        case SQLITE_READONLY:
                return -EROFS;
        case SQLITE_PERM:
        case SQLITE_AUTH:
                return -EACCES;
        default:
                return -EIO;
        }
}

int sql_fail(const Tree *tree, sqlite3 *db, int rc, const char *what) {
        int r = sql_outcome(db, rc);
        if (r != TREE_FULL)
                report_say(&tree->options.report, LOG_ERR, "%s: %s: %s (%d)", tree->path, what,
                           db ? sqlite3_errmsg(db) : sqlite3_errstr(rc), rc);
        return r;
}

int sql_exec(const Tree *tree, sqlite3 *db, const char *text) {
        int rc = sqlite3_exec(db, text, NULL, NULL, NULL);
        return rc == SQLITE_OK ? 0 : sql_fail(tree, db, rc, text);
}

/* Any statement that fails may take the open transaction with it: SQLite rolls back when memory, disk or
 * space run out, also for a SELECT. What is applied is gone then while `meta` still tells of it: nobody
 * reads, nothing is written, until transaction_failed() has brought both together again. */
static int sql_failed(Tree *tree, int rc, const char *what) {
        int r = sql_fail(tree, tree->db, rc, what);
        /* SQLite waited ten seconds for a lock that this very process holds: the kernel refused to give one
         * up (it had no memory), and that is never mended while the file is open. It would be ten seconds
         * for each call. */
        if (rc == SQLITE_PROTOCOL && tree->fatal == 0)
                tree->fatal = r;
        if (tree->begun && tree->lost == 0 && sqlite3_get_autocommit(tree->db))
                tree->lost = r;
        return r;
}

/* Whoever looks at all of a table, or takes rows away, has it whole. What is asked for by its key is looked
 * for in memory first, by who asks (keys.c, rows.c). */
static int sql_complete(Tree *tree, Statement which) {
        switch (which) {
        case STMT_KEY_RANGE:
        case STMT_KEY_NEWEST:
                return keys_flush(tree);
        case STMT_ROW_SCAN:
        case STMT_ROW_DELETE:
                return rows_flush(tree);
        default:
                return 0;
        }
}

static bool sql_writes(Statement which) {
        return which != STMT_BEGIN && which != STMT_ROLLBACK && which != STMT_LOOK &&
               which != STMT_LOOK_END && strncmp(sql_text[which], "SELECT", 6) != 0;
}

int sql_acquire(Tree *tree, Statement which, sqlite3_stmt **ret) {
        if (tree->lost != 0)
                return tree->lost;
        int r = sql_complete(tree, which);
        if (r == 0 && tree->open && !tree->begun && sql_writes(which))
                r = transaction_begin_now(tree);
        if (r != 0)
                return r;
        sqlite3_stmt *cached = tree->statements[which];
        if (cached && !sqlite3_stmt_busy(cached)) {
                *ret = cached;
                return 0;
        }

        sqlite3_stmt *fresh;
        int rc = sqlite3_prepare_v3(tree->db, sql_text[which], -1, cached ? 0 : SQLITE_PREPARE_PERSISTENT,
                                    &fresh, NULL);
        if (rc != SQLITE_OK)
                return sql_failed(tree, rc, sql_text[which]);
        if (!cached)
                tree->statements[which] = fresh;
        *ret = fresh;
        return 0;
}

void sql_release(Tree *tree, Statement which, sqlite3_stmt *statement) {
        if (statement == tree->statements[which])
                sqlite3_reset(statement);
        else
                sqlite3_finalize(statement);
}

int sql_step(Tree *tree, sqlite3_stmt *statement) {
        int rc = sqlite3_step(statement);
        if (rc == SQLITE_ROW)
                return 0;
        if (rc == SQLITE_DONE)
                return TREE_NONE;
        return sql_failed(tree, rc, sqlite3_sql(statement));
}

int sql_run(Tree *tree, Statement which, sqlite3_stmt *statement) {
        int r = sql_step(tree, statement);
        sql_release(tree, which, statement);
        return r == TREE_NONE ? 0 : r;
}

void sql_finalize(Tree *tree) {
        for (size_t i = 0; i < _STMT_MAX; i++) {
                sqlite3_finalize(tree->statements[i]);
                tree->statements[i] = NULL;
        }
}
