/* Entries: each value lies once, in revision order, in `rows`; `keys` points from a path to the newest row
 * of an entry that lives. A change appends a row and turns the pointer; a deletion appends a tombstone and
 * takes the pointer away.
 *
 * A SET without EPHEMERAL makes an ephemeral entry permanent, as in etcd a put without lease detaches the
 * key; a SET with EPHEMERAL gives the entry to its new owner, whoever had it. IF_OWNED guards both ways.
 * Each live ephemeral entry belongs to the attached generation of its host: ATTACH and END_SESSION remove
 * all others in the very revision that ends them. */
#include "internal.h"

#include <string.h>

size_t owned_key(uint8_t to[static 16 + LIMIT_PATH_BYTES], uint64_t host, uint64_t generation, Bytes path) {
        assert(path.size <= LIMIT_PATH_BYTES);
        key_write(to, host);
        key_write(to + 8, generation);
        memcpy(to + 16, path.data, path.size);
        return 16 + path.size;
}

/* ---- Changes ---- */

/* The id of the next change: all changes of one entry of the log are one revision. */
static uint64_t change_begin(Apply *apply) {
        if (apply->n == 0) {
                apply->revision = apply->tree->meta.revision + 1;
                apply->tree->meta.revision = apply->revision;
        }
        assert(apply->n < (1u << ROW_SHIFT));
        assert(apply->revision < (UINT64_C(1) << (63 - ROW_SHIFT)));
        return row_first(apply->revision) + apply->n++;
}

static void change_note(Apply *apply, const Row *row, const Row *before) {
        apply->change = (TreeChange){
                .kind = row->kind,
                .path = row->key,
                .value = row->value,
                .previous = before ? before->value : BYTES("", 0),
                .had_previous = before != NULL,
                .revision = apply->revision,
                .create_revision = row->create_revision,
                .version = row->version,
                .owner_host = row->owner_host,
        };
}

/* The row as it is known, without its value. */
static int before_of(Tree *tree, Bytes path, const KeyState *state, Row *ret) {
        tree->before.size = 0;
        int r = buffer_append(&tree->before, path.data, path.size);
        if (r == 0)
                r = buffer_append(&tree->before, "", 1);
        if (r < 0)
                return r;
        *ret = (Row){
                .id = state->id,
                .kind = TREE_PUT,
                .create_revision = state->create_revision,
                .version = state->version,
                .owner_tag = "",
                .key = (const char *)tree->before.data,
                .key_size = path.size,
                .value = BYTES("", 0),
                .sum = state->sum,
        };
        return 0;
}

int entry_before(Apply *apply, Bytes path, Row *ret) {
        Tree *tree = apply->tree;
        KeyState state;
        int r = key_look(tree, path, &state);
        if (r != 0)
                return r;
        if (state.create_revision != 0 && tree->no_previous)
                return before_of(tree, path, &state, ret);
        r = row_live(tree, path, state.id, &tree->before, ret);
        if (r == 0)
                key_learn(tree, ret);
        return r;
}

static int owner_change(Apply *apply, Bytes path, const Row *before, const Row *after, bool count) {
        Tree *tree = apply->tree;
        uint8_t key[16 + LIMIT_PATH_BYTES];
        int r;

        if (before && after && before->owner_host == after->owner_host &&
            before->owner_generation == after->owner_generation)
                return 0;
        if (before && before->owner_host != 0) {
                size_t n = owned_key(key, before->owner_host, before->owner_generation, path);
                r = index_delete(tree, INDEX_OWNED, BYTES(key, n));
                if (r == 0 && count)
                        r = session_count(tree, before->owner_host, -1);
                if (r != 0)
                        return r;
        }
        if (after && after->owner_host != 0) {
                size_t n = owned_key(key, after->owner_host, after->owner_generation, path);
                r = index_put(tree, INDEX_OWNED, BYTES(key, n), 0);
                if (r == 0)
                        r = session_count(tree, after->owner_host, 1);
                if (r != 0)
                        return r;
        }
        return 0;
}

int entry_put(Apply *apply, const Row *before) {
        Tree *tree = apply->tree;
        const Command *command = apply->command;
        bool owned = command->flags & COMMAND_EPHEMERAL;
        Bytes path = BYTES(command->path, strlen(command->path));

        Row row = {
                .id = change_begin(apply),
                .kind = TREE_PUT,
                .create_revision = before ? before->create_revision : apply->revision,
                .version = before ? before->version + 1 : 1,
                .previous = before ? before->id : 0,
                .owner_host = owned ? command->host : 0,
                .owner_generation = owned ? command->generation : 0,
                .owner_tag = owned ? command->owner_tag : "",
                .key = command->path,
                .key_size = path.size,
                .value = command->value,
        };
        row.sum = row_hash(&row);
        int r = row_insert(tree, &row);
        if (r == 0)
                r = key_point(tree, &row, !before);
        if (r == 0 && !before) /* the path may have a tombstone */
                r = index_delete(tree, INDEX_TOMB, path);
        if (r == 0 && (owned || (before && before->owner_host != 0)))
                r = owner_change(apply, path, before, &row, true);
        if (r != 0)
                return r;

        tree->meta.digest += row.sum - (before ? before->sum : 0);
        scrub_key_changed(tree, path, row.sum - (before ? before->sum : 0), !before);
        tree->meta.n_entries += !before;
        change_note(apply, &row, before);
        return 0;
}

/* `count`: the owner's session keeps count; not when the session ends with the entry. */
int entry_delete(Apply *apply, Bytes path, bool count) {
        Tree *tree = apply->tree;
        Row before;
        int r = entry_before(apply, path, &before);
        if (r != 0)
                return r == TREE_NONE ? TREE_ROTTEN : r; /* an index named it */

        Row row = {
                .id = change_begin(apply),
                .kind = TREE_DELETE,
                .create_revision = before.create_revision,
                .previous = before.id,
                .owner_host = before.owner_host,
                .owner_tag = "",
                .key = before.key,
                .key_size = before.key_size,
        };
        path = BYTES(before.key, before.key_size);
        row.sum = row_hash(&row);
        r = row_insert(tree, &row);
        if (r == 0)
                r = key_drop(tree, path);
        if (r == 0)
                r = index_put(tree, INDEX_TOMB, path, row.id);
        if (r == 0)
                r = owner_change(apply, path, &before, NULL, count);
        if (r != 0)
                return r;

        tree->meta.digest -= before.sum;
        scrub_key_changed(tree, path, -before.sum, -1);
        tree->meta.n_entries--;
        change_note(apply, &row, &before);
        return 0;
}

/* ---- Many at once: names first, because a table must not change under its own cursor ---- */

/* Appends (u16 size, path) for each key of a range. TREE_NONE: there are more than `limit`. */
static int names_collect(Tree *tree, sqlite3_stmt *s, size_t skip, size_t limit, Buffer *names,
                         size_t *ret_n) {
        size_t n = 0;
        int r;
        while ((r = sql_step(tree, s)) == 0) {
                Bytes key = column_bytes(s, 0);
                if (key.size <= skip || key.size - skip > LIMIT_PATH_BYTES)
                        return TREE_ROTTEN;
                if (n++ == limit)
                        return TREE_NONE;
                uint8_t size[2] = {(uint8_t)(key.size - skip), (uint8_t)((key.size - skip) >> 8)};
                r = buffer_append(names, size, 2);
                if (r == 0)
                        r = buffer_append(names, key.data + skip, key.size - skip);
                if (r < 0)
                        return r;
        }
        *ret_n = n;
        return r == TREE_NONE ? 0 : r;
}

static int names_below(Tree *tree, const Range *range, size_t limit, Buffer *names, size_t *ret_n) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_KEY_RANGE, &s);
        if (r != 0)
                return r;
        bind_text(s, 1, range->low, range->low_size);
        bind_text(s, 2, range->high, range->high_size);
        r = names_collect(tree, s, 0, limit, names, ret_n);
        sql_release(tree, STMT_KEY_RANGE, s);
        return r;
}

/* All generations of a host, or one. */
static int names_owned(Tree *tree, uint64_t host, uint64_t generation, Buffer *names, size_t *ret_n) {
        uint8_t low[16], high[17];
        key_write(low, host);
        key_write(low + 8, generation);
        key_write(high, host);
        key_write(high + 8, generation ?: UINT64_MAX);
        high[16] = 0xff; /* behind every path */

        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_INDEX_RANGE, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, INDEX_OWNED);
        bind_bytes(s, 2, low, sizeof(low));
        bind_bytes(s, 3, high, sizeof(high));
        r = names_collect(tree, s, 16, TREE_SESSION_KEYS, names, ret_n);
        sql_release(tree, STMT_INDEX_RANGE, s);
        return r == TREE_NONE ? TREE_ROTTEN : r; /* no session owns more */
}

static int names_delete(Apply *apply, const Buffer *names, bool count) {
        for (size_t i = 0; i < names->size;) {
                size_t n = names->data[i] | (size_t)names->data[i + 1] << 8;
                int r = entry_delete(apply, BYTES(names->data + i + 2, n), count);
                if (r != 0)
                        return r;
                i += 2 + n;
        }
        return 0;
}

int entries_end_owned(Apply *apply, uint64_t host) {
        _cleanup_(buffer_deinit) Buffer names = {};
        size_t n;
        int r = names_owned(apply->tree, host, 0, &names, &n);
        return r != 0 ? r : names_delete(apply, &names, false);
}

/* ---- Commands ---- */

#define SET_FLAGS    (COMMAND_EPHEMERAL | COMMAND_IF_OWNED | COMMAND_IF_MOD_REVISION)
#define DELETE_FLAGS (COMMAND_SUBTREE | COMMAND_IF_OWNED | COMMAND_IF_MOD_REVISION)

static bool owner_is_named(const Command *command) {
        return command->owner_tag && strnlen(command->owner_tag, OWNER_TAG_BYTES + 1) <= OWNER_TAG_BYTES &&
               utf8_is_valid(command->owner_tag, strlen(command->owner_tag));
}

/* What holds for any write of an entry. RESULT_DONE: go on. */
static int write_judge(Apply *apply, uint32_t flags_known, ResultStatus *ret) {
        const Command *command = apply->command;
        bool subtree = command->flags & COMMAND_SUBTREE;

        *ret = RESULT_INVALID;
        if (command->flags & ~flags_known || !command->path)
                return 0;
        if ((subtree ? path_check(command->path) : path_check_entry(command->path)) != PATH_OK)
                return 0;
        if (command->flags & (COMMAND_EPHEMERAL | COMMAND_IF_OWNED) && !owner_is_named(command))
                return 0;
        if (command->value.size > LIMIT_VALUE_BYTES)
                return 0;
        if (subtree && command->flags & (COMMAND_IF_OWNED | COMMAND_IF_MOD_REVISION))
                return 0;

        if (apply->class == MEMBER_LEAF) {
                Member member;
                int r = tree_member(apply->tree, command->host, &member);
                if (r != 0)
                        return r == TREE_NONE ? TREE_ROTTEN : r;
                if (!leaf_may_write(member.name, command->path)) {
                        *ret = RESULT_DENIED;
                        return 0;
                }
        }
        *ret = RESULT_DONE;
        return 0;
}

static bool conditions_hold(const Command *command, const Row *before) {
        if (command->flags & COMMAND_IF_MOD_REVISION &&
            command->revision != (before ? row_revision(before->id) : 0))
                return false;
        if (command->flags & COMMAND_IF_OWNED)
                return before && before->owner_host == command->host && before->owner_host != 0 &&
                       before->owner_generation == command->generation &&
                       strcmp(before->owner_tag, command->owner_tag) == 0;
        return true;
}

/* May the session of the command's host own (one more) entry? */
static int session_judge(Apply *apply, const Row *before, ResultStatus *ret) {
        const Command *command = apply->command;
        Session session;
        int r = session_get(apply->tree, command->host, &session);
        if (r != 0 && r != TREE_NONE)
                return r;
        bool mine = before && before->owner_host == command->host;
        if (r == TREE_NONE || !session.attached || session.generation != command->generation)
                *ret = RESULT_NO_SESSION;
        else if (!mine && session.n_owned >= TREE_SESSION_KEYS)
                *ret = RESULT_LIMIT;
        else
                *ret = RESULT_DONE;
        return 0;
}

/* SET and CREATE. */
int apply_set(Apply *apply) {
        const Command *command = apply->command;
        bool create = command->kind == COMMAND_CREATE;
        ResultStatus *status = &apply->result.status;
        int r = write_judge(apply, create ? COMMAND_EPHEMERAL : SET_FLAGS, status);
        if (r != 0 || *status != RESULT_DONE)
                return r;

        Row before;
        r = entry_before(apply, BYTES(command->path, strlen(command->path)), &before);
        if (r != 0 && r != TREE_NONE)
                return r;
        const Row *old = r == 0 ? &before : NULL;
        if (create && old) {
                *status = RESULT_EXISTS;
                return 0;
        }
        if (!conditions_hold(command, old)) {
                *status = RESULT_CONFLICT;
                return 0;
        }
        if (command->flags & COMMAND_EPHEMERAL) {
                r = session_judge(apply, old, status);
                if (r != 0 || *status != RESULT_DONE)
                        return r;
        }
        return entry_put(apply, old);
}

static int apply_delete_subtree(Apply *apply) {
        const char *subtree = apply->command->path;
        Tree *tree = apply->tree;
        _cleanup_(buffer_deinit) Buffer names = {};
        size_t n;
        Range range;
        uint64_t id;

        range_below(&range, subtree);
        int r = names_below(tree, &range, LIMIT_DELETE_ENTRIES, &names, &n);
        if (r == TREE_NONE) {
                apply->result.status = RESULT_TOO_MANY;
                return 0;
        }
        if (r != 0)
                return r;
        Bytes own = BYTES(subtree, strlen(subtree));
        r = key_find(tree, own, &id);
        if (r == 0)
                r = entry_delete(apply, own, true);
        else if (r == TREE_NONE)
                r = 0;
        if (r == 0)
                r = names_delete(apply, &names, true);
        if (r == 0 && apply->n == 0)
                apply->result.status = RESULT_ABSENT;
        return r;
}

int apply_delete(Apply *apply) {
        const Command *command = apply->command;
        ResultStatus *status = &apply->result.status;
        int r = write_judge(apply, DELETE_FLAGS, status);
        if (r != 0 || *status != RESULT_DONE)
                return r;
        if (command->flags & COMMAND_SUBTREE)
                return apply_delete_subtree(apply);

        Row before;
        Bytes path = BYTES(command->path, strlen(command->path));
        r = entry_before(apply, path, &before);
        if (r == TREE_NONE) {
                *status = RESULT_ABSENT;
                return 0;
        }
        if (r != 0)
                return r;
        if (!conditions_hold(command, &before)) {
                *status = RESULT_CONFLICT;
                return 0;
        }
        return entry_delete(apply, path, true);
}

/* ---- Reading ---- */

static void entry_of(const Row *row, TreeEntry *ret) {
        *ret = (TreeEntry){
                .path = row->key,
                .value = row->value,
                .create_revision = row->create_revision,
                .mod_revision = row_revision(row->id),
                .version = row->version,
                .owner_host = row->owner_host,
                .owner_generation = row->owner_generation,
                .owner_tag = row->owner_tag,
        };
}

int tree_get(Tree *tree, const char *path, TreeEntry *ret) {
        if (path_check_entry(path) != PATH_OK)
                return TREE_NONE;
        uint64_t id;
        Row row;
        Bytes key = BYTES(path, strlen(path));
        look_begin(tree);
        int r = key_find(tree, key, &id);
        if (r == 0)
                r = row_live(tree, key, id, &tree->seen, &row);
        if (r == 0)
                entry_of(&row, ret);
        return r;
}

typedef struct List {
        Tree *tree;
        uint32_t flags, limit;
        size_t max_bytes, bytes;
        uint32_t n;
        int (*each)(const TreeEntry *entry, void *userdata);
        void *userdata;
        bool stopped;
} List;

/* Gives one out. TREE_NONE: no more are wanted, this one was not given. */
static int list_give(List *list, Bytes key, uint64_t id) {
        if (list->n >= list->limit || list->stopped)
                return TREE_NONE;

        TreeEntry entry = {.mod_revision = row_revision(id), .owner_tag = ""};
        int r;
        if (id != 0 && !(list->flags & TREE_LIST_NAMES)) {
                Row row;
                r = row_live(list->tree, key, id, &list->tree->seen, &row);
                if (r != 0)
                        return r;
                entry_of(&row, &entry);
        } else {
                Buffer *seen = &list->tree->seen;
                seen->size = 0;
                r = buffer_append(seen, key.data, key.size);
                if (r == 0)
                        r = buffer_append(seen, "", 1);
                if (r < 0)
                        return r;
                entry.path = (const char *)seen->data;
                entry.value = BYTES("", 0);
        }
        size_t bytes = key.size + entry.value.size;
        if (list->n > 0 && list->bytes + bytes > list->max_bytes)
                return TREE_NONE;
        list->n++;
        list->bytes += bytes;
        r = list->each(&entry, list->userdata);
        list->stopped = r > 0;
        return r < 0 ? r : 0;
}

static int list_all(List *list, const char *subtree, const char *after) {
        Tree *tree = list->tree;
        Bytes own = BYTES(subtree, strlen(subtree));
        int r;
        if (strcmp(after, subtree) < 0 && own.size > 1) {
                uint64_t id;
                r = key_find(tree, own, &id);
                if (r == 0)
                        r = list_give(list, own, id);
                else if (r == TREE_NONE)
                        r = 0;
                if (r != 0)
                        return r;
        }

        Range range;
        range_below(&range, subtree);
        size_t n = strlen(after);
        bool behind = n >= range.low_size && memcmp(after, range.low, range.low_size) >= 0;
        sqlite3_stmt *s;
        r = sql_acquire(tree, STMT_KEY_RANGE, &s);
        if (r != 0)
                return r;
        bind_text(s, 1, behind ? (const uint8_t *)after : range.low, behind ? n : range.low_size);
        bind_text(s, 2, range.high, range.high_size);
        while ((r = sql_step(tree, s)) == 0) {
                r = list_give(list, column_bytes(s, 0), column_u64(s, 1));
                if (r != 0) {
                        sql_release(tree, STMT_KEY_RANGE, s);
                        return r; /* TREE_NONE: there is more */
                }
        }
        sql_release(tree, STMT_KEY_RANGE, s);
        return r == TREE_NONE ? 0 : r;
}

/* The first key in (low, high). `key` has room for LIMIT_PATH_BYTES. */
static int key_next(Tree *tree, Bytes low, Bytes high, uint8_t *key, size_t *ret_size, uint64_t *ret_id) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_KEY_RANGE, &s);
        if (r != 0)
                return r;
        bind_text(s, 1, low.data, low.size);
        bind_text(s, 2, high.data, high.size);
        r = sql_step(tree, s);
        if (r == 0) {
                Bytes found = column_bytes(s, 0);
                if (found.size > LIMIT_PATH_BYTES)
                        r = TREE_ROTTEN;
                else {
                        memcpy(key, found.data, found.size);
                        *ret_size = found.size;
                        *ret_id = column_u64(s, 1);
                }
        }
        sql_release(tree, STMT_KEY_RANGE, s);
        return r;
}

static int bytes_compare(Bytes a, Bytes b) {
        int c = memcmp(a.data, b.data, MIN(a.size, b.size));
        return c != 0 ? c : (a.size > b.size) - (a.size < b.size);
}

/* Is there anything below directory dir? */
static int has_below(Tree *tree, Bytes dir) {
        uint8_t low[LIMIT_PATH_BYTES + 1], high[LIMIT_PATH_BYTES + 1], key[LIMIT_PATH_BYTES];
        size_t size;
        uint64_t id;
        if (dir.size >= LIMIT_PATH_BYTES)
                return TREE_NONE;
        memcpy(low, dir.data, dir.size);
        memcpy(high, dir.data, dir.size);
        low[dir.size] = '/';
        high[dir.size] = '/' + 1;
        return key_next(tree, BYTES(low, dir.size + 1), BYTES(high, dir.size + 1), key, &size, &id);
}

/* The next child behind `after`, by the order of names. Keys are not quite in that order: "/p/a-b" lies
 * before "/p/a/x", though child "a" comes before "a-b". So of each child found, the shorter names that it
 * begins with and that a byte below '/' follows are asked for too; and children found again, because their
 * subtree lies behind such a sibling, are jumped over. */
static int child_next(Tree *tree, const Range *range, Bytes after, uint8_t *child, size_t *ret_size,
                      uint64_t *ret_id) {
        uint8_t at[LIMIT_PATH_BYTES + 2], key[LIMIT_PATH_BYTES];
        size_t at_size = after.size > 0 ? after.size : range->low_size, size;
        memcpy(at, after.size > 0 ? after.data : range->low, at_size);
        uint64_t id;

        for (;;) {
                int r = key_next(tree, BYTES(at, at_size), BYTES(range->high, range->high_size), key, &size,
                                 &id);
                if (r != 0)
                        return r;
                const uint8_t *slash = memchr(key + range->low_size, '/', size - range->low_size);
                size_t end = slash ? (size_t)(slash - key) : size;
                if (after.size > 0 && bytes_compare(BYTES(key, end), after) <= 0) {
                        memcpy(at, key, end);
                        at[end] = '/';
                        at[end + 1] = 0xff; /* in no UTF-8: behind all that is below, before all else */
                        at_size = end + 2;
                        continue;
                }
                for (size_t i = range->low_size + 1; i < end; i++) {
                        Bytes shorter = BYTES(key, i);
                        if (key[i] >= '/' || (after.size > 0 && bytes_compare(shorter, after) <= 0))
                                continue;
                        r = has_below(tree, shorter);
                        if (r != 0 && r != TREE_NONE)
                                return r;
                        if (r == 0) {
                                end = i;
                                break;
                        }
                }
                memcpy(child, key, end);
                *ret_size = end;
                *ret_id = end == size ? id : 0;
                return 0;
        }
}

static int list_children(List *list, const char *subtree, const char *after) {
        Range range;
        range_below(&range, subtree);
        uint8_t child[LIMIT_PATH_BYTES];
        size_t size = strnlen(after, LIMIT_PATH_BYTES);
        if (size <= range.low_size || memcmp(after, range.low, range.low_size) != 0) {
                if (bytes_compare(BYTES(after, size), BYTES(range.low, range.low_size)) > 0)
                        return 0; /* behind all of it */
                size = 0;
        }
        memcpy(child, after, size);

        for (;;) {
                uint64_t id;
                int r = child_next(list->tree, &range, BYTES(child, size), child, &size, &id);
                if (r != 0)
                        return r == TREE_NONE ? 0 : r;
                r = list_give(list, BYTES(child, size), id);
                if (r != 0)
                        return r;
        }
}

int tree_list(Tree *tree, const char *subtree, const char *after, uint32_t flags, uint32_t limit,
              size_t max_bytes, int (*each)(const TreeEntry *entry, void *userdata), void *userdata,
              bool *ret_more) {
        *ret_more = false;
        if (path_check(subtree) != PATH_OK || strnlen(after, LIMIT_PATH_BYTES + 1) > LIMIT_PATH_BYTES)
                return 0;
        List list = {
                .tree = tree,
                .flags = flags,
                .limit = MAX(limit, 1u),
                .max_bytes = max_bytes,
                .each = each,
                .userdata = userdata,
        };
        int r = flags & TREE_LIST_CHILDREN ? list_children(&list, subtree, after)
                                           : list_all(&list, subtree, after);
        if (r != TREE_NONE)
                return r;
        *ret_more = true;
        return 0;
}

static int newest(Tree *tree, Statement which, const Range *range, uint64_t *newest_id) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, which, &s);
        if (r != 0)
                return r;
        if (which == STMT_KEY_NEWEST) {
                bind_text(s, 1, range->low, range->low_size);
                bind_text(s, 2, range->high, range->high_size);
        } else {
                bind_u64(s, 1, INDEX_TOMB);
                bind_bytes(s, 2, range->low, range->low_size);
                bind_bytes(s, 3, range->high, range->high_size);
        }
        r = sql_step(tree, s);
        if (r == 0)
                *newest_id = MAX(*newest_id, column_u64(s, 0));
        sql_release(tree, which, s);
        return r;
}

/* Exact: the newest row of each live entry is in its pointer, that of each deleted one in its tombstone's
 * index row, which stays until history is pruned above it. */
int tree_changed(Tree *tree, const char *subtree, uint64_t *ret_revision) {
        if (path_check(subtree) != PATH_OK)
                return -EINVAL;
        if (subtree[1] == 0) {
                *ret_revision = tree->meta.revision;
                return 0;
        }
        Range range;
        range_below(&range, subtree);
        uint64_t id = 0, own;
        Bytes key = BYTES(subtree, strlen(subtree));

        int r = newest(tree, STMT_KEY_NEWEST, &range, &id);
        if (r == 0)
                r = newest(tree, STMT_INDEX_NEWEST, &range, &id);
        if (r != 0)
                return r;
        r = key_find(tree, key, &own);
        if (r == TREE_NONE)
                r = index_get(tree, INDEX_TOMB, key, &own);
        if (r == 0)
                id = MAX(id, own);
        else if (r != TREE_NONE)
                return r;
        *ret_revision = MAX(row_revision(id), tree->meta.floor);
        return 0;
}

int tree_owned(Tree *tree, uint64_t host, uint64_t generation, int (*each)(const TreeEntry *, void *),
               void *userdata) {
        _cleanup_(buffer_deinit) Buffer names = {};
        size_t n;
        int r = names_owned(tree, host, generation, &names, &n);
        if (r != 0)
                return r;
        for (size_t i = 0; i < names.size;) {
                char path[LIMIT_PATH_BYTES + 1];
                size_t size = names.data[i] | (size_t)names.data[i + 1] << 8;
                memcpy(path, names.data + i + 2, size);
                path[size] = 0;
                i += 2 + size;

                TreeEntry entry;
                r = tree_get(tree, path, &entry);
                if (r != 0)
                        return r == TREE_NONE ? TREE_ROTTEN : r;
                r = each(&entry, userdata);
                if (r != 0)
                        return MIN(r, 0);
        }
        return 0;
}
