/* The key index: path → number of an entry that lives → id of its newest row. The paths are in order and
 * change only with what begins and ends; the pointers are numbers that point to numbers, some 200 to a page,
 * and are what each write turns. An entry's number is the id of the row it began with.
 *
 * The tables are what counts. Of the paths touched last, memory knows what they say, and all that a write
 * has to know of the row it replaces: a write over such a path reads nothing, and turns its pointer in
 * memory.
 *
 * Turned pointers wait. They are written many at once, by COMMIT or before anybody walks the table in order
 * (sql.c sees to both), so they are never waiting when no transaction is open. What is known and does not
 * wait is a copy: it goes when there is no room, and when a scrub wants to see the disk. */
#include "internal.h"

#include <string.h>

#define KEYS_BUCKETS 64 /* at first */

/* There are many: 83 bytes and the path with malloc's own. */
struct KnownKey {
        KnownKey *next; /* in its bucket */
        KeyState state;
        uint32_t hash;
        uint32_t place; /* in known.all */
        uint32_t waits; /* its place among those that wait, and 1; 0: it does not */
        uint16_t size;
        bool used; /* since the hand passed */
        uint8_t key[];
};

/* "/a" holds "/a/…": behind "/a/", before "/a0" ('0' follows '/'). "/" holds all. */
void range_below(Range *range, const char *subtree) {
        size_t n = strlen(subtree);
        assert(n > 0 && n <= LIMIT_PATH_BYTES);
        n = n == 1 ? 0 : n;
        memcpy(range->low, subtree, n);
        memcpy(range->high, subtree, n);
        range->low[n] = '/';
        range->high[n] = '/' + 1;
        range->low_size = range->high_size = n + 1;
}

/* ---- What is known ---- */

static uint32_t key_hash(Bytes key) {
        return (uint32_t)XXH3_64bits(key.data, key.size);
}

static KnownKey **bucket_of(const KnownKeys *known, uint32_t hash) {
        return &known->buckets[hash & (known->n_buckets - 1)];
}

static KnownKey *known_find(const KnownKeys *known, Bytes key, uint32_t hash) {
        if (known->n == 0)
                return NULL;
        for (KnownKey *k = *bucket_of(known, hash); k; k = k->next)
                if (k->hash == hash && k->size == key.size && memcmp(k->key, key.data, key.size) == 0)
                        return k;
        return NULL;
}

static void known_unlink(KnownKeys *known, const KnownKey *key) {
        KnownKey **at = bucket_of(known, key->hash);
        while (*at != key)
                at = &(*at)->next;
        *at = key->next;
}

/* It no longer waits: the table has it, or it is gone. */
static void known_rest(KnownKeys *known, KnownKey *key) {
        if (key->waits == 0)
                return;
        KnownKey *last = known->waiting[--known->n_waiting];
        known->waiting[key->waits - 1] = last;
        last->waits = key->waits;
        key->waits = 0;
}

static void known_remove(KnownKeys *known, KnownKey *key) {
        known_rest(known, key);
        known_unlink(known, key);
        known->all[key->place] = known->all[--known->n];
        known->all[key->place]->place = key->place;
        free(key);
}

static int known_grow(KnownKeys *known) {
        size_t n = known->n_buckets ? 4 * known->n_buckets : KEYS_BUCKETS;
        KnownKey **all = reallocarray(known->all, n, sizeof(KnownKey *));
        if (!all)
                return -ENOMEM;
        known->all = all;
        KnownKey **buckets = calloc(n, sizeof(KnownKey *));
        if (!buckets)
                return -ENOMEM;
        free(known->buckets);
        known->buckets = buckets;
        known->n_buckets = n;
        for (size_t i = 0; i < known->n; i++) {
                KnownKey **bucket = bucket_of(known, all[i]->hash);
                all[i]->next = *bucket;
                *bucket = all[i];
        }
        return 0;
}

/* One that was not used for a round of the hand; those that wait stay. */
static void known_evict(KnownKeys *known) {
        static_assert(TREE_KNOWN_KEYS > TREE_WAITING_KEYS, "the hand finds one");
        for (;;) {
                known->hand = (known->hand + 1) % known->n;
                KnownKey *key = known->all[known->hand];
                if (key->waits == 0 && !key->used) {
                        known_remove(known, key);
                        return;
                }
                key->used = false;
        }
}

/* NULL: no memory, so it is not known. */
static KnownKey *known_add(KnownKeys *known, Bytes key, uint32_t hash) {
        assert(key.size <= LIMIT_PATH_BYTES);
        if (known->n == TREE_KNOWN_KEYS)
                known_evict(known);
        if (known->n == known->n_buckets && known_grow(known) < 0)
                return NULL;
        KnownKey *k = calloc(1, offsetof(KnownKey, key) + key.size);
        if (!k)
                return NULL;
        k->hash = hash;
        k->size = (uint16_t)key.size;
        memcpy(k->key, key.data, key.size);
        KnownKey **bucket = bucket_of(known, hash);
        k->next = *bucket;
        *bucket = k;
        k->place = (uint32_t)known->n;
        known->all[known->n++] = k;
        return k;
}

/* With the transaction that the waiting ones belong to, or when none wait. */
void keys_forget(Tree *tree) {
        KnownKeys *known = &tree->known;
        for (size_t i = 0; i < known->n; i++)
                free(known->all[i]);
        free(known->all);
        free(known->buckets);
        known->all = known->buckets = NULL;
        known->n = known->n_buckets = known->n_waiting = known->hand = 0;
}

/* ---- The table ---- */

static int newest_put(Tree *tree, uint64_t n, uint64_t id) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_NEWEST_PUT, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, n);
        bind_u64(s, 2, id);
        return sql_run(tree, STMT_NEWEST_PUT, s);
}

static int newest_put_many(Tree *tree, KnownKey *const *keys) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_NEWEST_PUT_MANY, &s);
        if (r != 0)
                return r;
        for (int i = 0; i < TREE_AT_ONCE; i++) {
                bind_u64(s, 2 * i + 1, keys[i]->state.n);
                bind_u64(s, 2 * i + 2, keys[i]->state.id);
        }
        return sql_run(tree, STMT_NEWEST_PUT_MANY, s);
}

static int newest_delete(Tree *tree, uint64_t n) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_NEWEST_DELETE, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, n);
        return sql_run(tree, STMT_NEWEST_DELETE, s);
}

int keys_flush(Tree *tree) {
        KnownKeys *known = &tree->known;
        size_t done = 0;
        int r = 0;
        while (r == 0 && known->n_waiting - done >= TREE_AT_ONCE) {
                r = newest_put_many(tree, known->waiting + done);
                done += r == 0 ? TREE_AT_ONCE : 0;
        }
        while (r == 0 && done < known->n_waiting) {
                const KeyState *state = &known->waiting[done]->state;
                r = newest_put(tree, state->n, state->id);
                done += r == 0;
        }
        for (size_t i = 0; i < done; i++)
                known->waiting[i]->waits = 0;
        known->n_waiting -= done;
        for (size_t i = 0; i < known->n_waiting; i++) {
                known->waiting[i] = known->waiting[i + done];
                known->waiting[i]->waits = (uint32_t)i + 1;
        }
        return r;
}

static int key_load(Tree *tree, Bytes key, KeyState *ret) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_KEY_FIND, &s);
        if (r != 0)
                return r;
        bind_text(s, 1, key.data, key.size);
        r = sql_step(tree, s);
        if (r == 0)
                *ret = (KeyState){.n = column_u64(s, 0), .id = column_u64(s, 1)};
        sql_release(tree, STMT_KEY_FIND, s);
        return r;
}

int key_look(Tree *tree, Bytes key, KeyState *ret) {
        uint32_t hash = key_hash(key);
        KnownKey *known = known_find(&tree->known, key, hash);
        if (!known) {
                int r = key_load(tree, key, ret);
                if (r != 0)
                        return r;
                known = known_add(&tree->known, key, hash);
                if (known)
                        known->state = *ret;
                return 0;
        }
        known->used = true;
        *ret = known->state;
        return 0;
}

/* … and memory stays as it is: for whoever passes by all paths. */
int key_peek(Tree *tree, Bytes key, uint64_t *ret_id) {
        const KnownKey *known = known_find(&tree->known, key, key_hash(key));
        KeyState state;
        int r = known ? 0 : key_load(tree, key, &state);
        if (r == 0)
                *ret_id = known ? known->state.id : state.id;
        return r;
}

int key_find(Tree *tree, Bytes key, uint64_t *ret_id) {
        KeyState state;
        int r = key_look(tree, key, &state);
        if (r == 0)
                *ret_id = state.id;
        return r;
}

/* What a write has to know: of entries with an owner more than is kept here. */
static KeyState state_of(const Row *row, uint64_t n) {
        if (row->owner_host != 0)
                return (KeyState){.n = n, .id = row->id};
        return (KeyState){
                .n = n,
                .id = row->id,
                .create_revision = row->create_revision,
                .version = row->version,
                .sum = row->sum,
        };
}

void key_learn(Tree *tree, const Row *row) {
        Bytes key = BYTES(row->key, row->key_size);
        KnownKey *known = known_find(&tree->known, key, key_hash(key));
        if (known && known->state.id == row->id)
                known->state = state_of(row, known->state.n);
}

static int key_insert(Tree *tree, const Row *row) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_KEY_INSERT, &s);
        if (r != 0)
                return r;
        bind_text(s, 1, row->key, row->key_size);
        bind_u64(s, 2, row->id);
        tree->pages++;
        return sql_run(tree, STMT_KEY_INSERT, s);
}

/* Of an entry that was looked at, or is new; it is not known when there was no memory for it. */
int key_point(Tree *tree, const Row *row, bool is_new) {
        KnownKeys *known = &tree->known;
        Bytes key = BYTES(row->key, row->key_size);
        uint32_t hash = key_hash(key);
        KeyState state = {.n = row->id};
        int r = known->n_waiting == TREE_WAITING_KEYS ? keys_flush(tree) : 0;
        if (r == 0 && is_new)
                r = key_insert(tree, row);
        if (r != 0)
                return r;

        tree->turned++;
        KnownKey *k = is_new ? known_add(known, key, hash) : known_find(known, key, hash);
        if (!k) {
                r = is_new ? 0 : key_load(tree, key, &state);
                return r != 0 ? r : newest_put(tree, state.n, row->id);
        }
        k->state = state_of(row, is_new ? row->id : k->state.n);
        k->used = true;
        if (k->waits == 0) {
                known->waiting[known->n_waiting++] = k;
                k->waits = (uint32_t)known->n_waiting;
        }
        return 0;
}

int key_drop(Tree *tree, Bytes key) {
        KeyState state;
        int r = key_look(tree, key, &state);
        if (r != 0)
                return r;
        sqlite3_stmt *s;
        r = sql_acquire(tree, STMT_KEY_DELETE, &s);
        if (r != 0)
                return r;
        bind_text(s, 1, key.data, key.size);
        r = sql_run(tree, STMT_KEY_DELETE, s);
        if (r == 0) /* also when the table never had it, because it waits */
                r = newest_delete(tree, state.n);
        KnownKey *known = known_find(&tree->known, key, key_hash(key));
        if (r == 0 && known)
                known_remove(&tree->known, known);
        tree->pages++;
        return r;
}
