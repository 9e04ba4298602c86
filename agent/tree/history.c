/* Rows lie in the order of revisions, so history is a walk along them: watches that catch up read it, and
 * the events of one entry with many changes are read back from it too, so that live and replayed events are
 * the same by construction.
 *
 * The floor is replicated and logical; rows go locally, in slices, whenever there is time. The walk of
 * pruning looks at each row once, in order, up to the floor: a row below the floor makes its predecessor
 * superfluous, and a tombstone itself too. So what the oldest readable revision still needs stays: of each
 * entry the newest row below the floor, and the previous value of each event at or above it. */
#include "internal.h"
#include "../base/seen.h"

#include <string.h>

static int history_give(Tree *tree, uint64_t id, bool last, TreeListener listener, void *userdata,
                        size_t *bytes) {
        Row row, before = {.value = BYTES("", 0)};
        int r = row_load(tree, id, &tree->seen, &row);
        if (r == 0 && row.previous != 0)
                r = row_load(tree, row.previous, &tree->before, &before);
        if (r != 0)
                return r == TREE_NONE ? TREE_ROTTEN : r;

        *bytes += row.key_size + row.value.size + before.value.size;
        TreeChange change = {
                .kind = row.kind,
                .path = row.key,
                .value = row.value,
                .previous = before.value,
                .had_previous = row.previous != 0,
                .revision = row_revision(id),
                .create_revision = row.create_revision,
                .version = row.version,
                .owner_host = row.owner_host,
                .last = last,
        };
        listener(&change, userdata);
        return 0;
}

static bool key_is_below(Bytes key, const char *subtree) {
        size_t n = strlen(subtree);
        if (n == 1)
                return true;
        return key.size >= n && memcmp(key.data, subtree, n) == 0 && (key.size == n || key.data[n] == '/');
}

/* Gives each match when the next one is known, so that the last of a revision can be named; stops between
 * revisions when enough rows or bytes have passed. */
int history_replay(Tree *tree, const char *subtree, uint64_t from, uint64_t to, size_t max_rows,
                   size_t max_bytes, TreeListener listener, void *userdata, uint64_t *ret_next) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_ROW_SCAN, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, row_first(from));
        bind_u64(s, 2, row_first(to + 1));

        uint64_t waiting = 0, revision = 0;
        size_t rows = 0, bytes = 0;
        *ret_next = to + 1;
        while ((r = sql_step(tree, s)) == 0) {
                uint64_t id = column_u64(s, 0);
                if (row_revision(id) != revision) {
                        if (waiting != 0)
                                r = history_give(tree, waiting, true, listener, userdata, &bytes);
                        waiting = 0;
                        if (r != 0)
                                break;
                        if (revision != 0 && (rows >= max_rows || bytes >= max_bytes)) {
                                *ret_next = row_revision(id);
                                break;
                        }
                        revision = row_revision(id);
                }
                rows++;
                Row row;
                Bytes tag;
                if (!row_head_read(id, column_bytes(s, 1), &row, &tag)) {
                        r = row_rot(tree, id);
                        break;
                }
                if (!key_is_below(BYTES(row.key, row.key_size), subtree))
                        continue;
                if (waiting != 0)
                        r = history_give(tree, waiting, false, listener, userdata, &bytes);
                if (r != 0)
                        break;
                waiting = id;
        }
        sql_release(tree, STMT_ROW_SCAN, s);
        if (r != TREE_NONE)
                return r;
        return waiting != 0 ? history_give(tree, waiting, true, listener, userdata, &bytes) : 0;
}

int tree_history(Tree *tree, const char *subtree, uint64_t from, uint64_t to, size_t max_bytes,
                 TreeListener listener, void *userdata, uint64_t *ret_next) {
        if (path_check(subtree) != PATH_OK)
                return -EINVAL;
        if (from < tree->meta.floor) {
                SIM_SEEN("tree: history is asked for below the floor");
                *ret_next = tree->meta.floor;
                return TREE_COMPACTED;
        }
        to = MIN(to, tree->meta.revision);
        if (from > to) {
                *ret_next = from;
                return 0;
        }
        return history_replay(tree, subtree, from, to, TREE_SCAN_ROWS, max_bytes, listener, userdata,
                              ret_next);
}

/* ---- Pruning ---- */

bool history_wants_pruning(const Tree *tree) {
        return !tree->snapshots && tree->meta.pruned < row_first(tree->meta.floor);
}

static int row_drop(Tree *tree, uint64_t id) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_ROW_DELETE, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, id);
        tree->pages++;
        return sql_run(tree, STMT_ROW_DELETE, s);
}

typedef struct Link {
        uint64_t id, previous;
        bool tomb;
        uint16_t key_size;
        char key[LIMIT_PATH_BYTES]; /* of a tombstone */
} Link;

static int links_read(Tree *tree, uint64_t from, uint64_t to, size_t n, Link *links, size_t *ret_n) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_ROW_SCAN, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, from);
        bind_u64(s, 2, to);
        size_t i = 0;
        while (i < n && (r = sql_step(tree, s)) == 0) {
                Link *link = links + i++;
                uint64_t id = column_u64(s, 0);
                Row row;
                Bytes tag;
                if (!row_head_read(id, column_bytes(s, 1), &row, &tag)) {
                        r = row_rot(tree, id);
                        break;
                }
                *link = (Link){.id = id, .previous = row.previous, .tomb = row.kind == TREE_DELETE};
                if (link->tomb) {
                        link->key_size = (uint16_t)row.key_size;
                        memcpy(link->key, row.key, row.key_size);
                }
        }
        sql_release(tree, STMT_ROW_SCAN, s);
        *ret_n = i;
        return r == TREE_NONE ? 0 : r;
}

static int link_prune(Tree *tree, const Link *link) {
        SIM_SEEN("tree: a row of history goes");
        int r = link->previous != 0 ? row_drop(tree, link->previous) : 0;
        if (r != 0 || !link->tomb)
                return r;
        uint64_t newest;
        Bytes key = BYTES(link->key, link->key_size);
        r = index_get(tree, INDEX_TOMB, key, &newest);
        if (r == 0 && newest == link->id)
                r = index_delete(tree, INDEX_TOMB, key);
        if (r != 0 && r != TREE_NONE)
                return r;
        return row_drop(tree, link->id);
}

/* Looks at the next n rows. Inside the open transaction. */
int history_prune(Tree *tree, size_t n) {
        uint64_t to = row_first(tree->meta.floor);
        Link links[64];
        while (n > 0 && tree->meta.pruned < to) {
                size_t got, want = MIN(n, ELEMENTSOF(links));
                int r = links_read(tree, tree->meta.pruned, to, want, links, &got);
                for (size_t i = 0; r == 0 && i < got; i++)
                        r = link_prune(tree, links + i);
                if (r != 0)
                        return r;
                tree->meta.pruned = got < want ? to : links[got - 1].id + 1;
                n -= want;
        }
        return 0;
}

int apply_prune(Apply *apply) {
        Meta *meta = &apply->tree->meta;
        meta->floor = MAX(meta->floor, MIN(apply->command->revision, meta->revision));
        return 0;
}
