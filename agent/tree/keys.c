/* The key index: path → id of the newest row of an entry that lives. The table is what counts. Of the paths
 * touched last, memory knows what the table says, and all that a write has to know of the row it replaces:
 * a write over such a path reads nothing, and turns its pointer in memory only.
 *
 * Turned pointers wait. They are written many at once, by COMMIT or before anybody walks the table in order
 * (sql.c sees to both), so they are never waiting when no transaction is open. What is known and does not
 * wait is a copy: it goes when there is no room, and when a scrub wants to see the disk. */
#include "internal.h"

#include <string.h>

#define KEYS_BUCKETS 64 /* at first */

struct KnownKey {
        KnownKey *next; /* in its bucket */
        uint64_t hash;
        KeyState state;
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

static uint64_t key_hash(Bytes key) {
        return XXH3_64bits(key.data, key.size);
}

static KnownKey **bucket_of(const KnownKeys *known, uint64_t hash) {
        return &known->buckets[hash & (known->n_buckets - 1)];
}

static KnownKey *known_find(const KnownKeys *known, Bytes key, uint64_t hash) {
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
static KnownKey *known_add(KnownKeys *known, Bytes key, uint64_t hash) {
        assert(key.size <= LIMIT_PATH_BYTES);
        if (known->n == TREE_KNOWN_KEYS)
                known_evict(known);
        if (known->n == known->n_buckets && known_grow(known) < 0)
                return NULL;
        KnownKey *k = calloc(1, sizeof(KnownKey) + key.size);
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

static int keys_write(Tree *tree, KnownKey *const *keys, size_t n) {
        Statement which = n == TREE_AT_ONCE ? STMT_KEY_PUT_MANY : STMT_KEY_PUT;
        sqlite3_stmt *s;
        int r = sql_acquire(tree, which, &s);
        if (r != 0)
                return r;
        for (int i = 0; i < (int)n; i++) {
                bind_text(s, 2 * i + 1, keys[i]->key, keys[i]->size);
                bind_u64(s, 2 * i + 2, keys[i]->state.id);
        }
        return sql_run(tree, which, s);
}

int keys_flush(Tree *tree) {
        KnownKeys *known = &tree->known;
        size_t done = 0;
        int r = 0;
        while (r == 0 && done < known->n_waiting) {
                size_t n = known->n_waiting - done >= TREE_AT_ONCE ? TREE_AT_ONCE : 1;
                r = keys_write(tree, known->waiting + done, n);
                if (r == 0)
                        done += n;
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

static int key_load(Tree *tree, Bytes key, uint64_t *ret_id) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_KEY_FIND, &s);
        if (r != 0)
                return r;
        bind_text(s, 1, key.data, key.size);
        r = sql_step(tree, s);
        if (r == 0)
                *ret_id = column_u64(s, 0);
        sql_release(tree, STMT_KEY_FIND, s);
        return r;
}

int key_look(Tree *tree, Bytes key, KeyState *ret) {
        uint64_t hash = key_hash(key);
        KnownKey *known = known_find(&tree->known, key, hash);
        if (!known) {
                uint64_t id;
                int r = key_load(tree, key, &id);
                if (r != 0)
                        return r;
                *ret = (KeyState){.id = id};
                known = known_add(&tree->known, key, hash);
                if (known)
                        known->state = *ret;
                return 0;
        }
        known->used = true;
        *ret = known->state;
        return 0;
}

int key_find(Tree *tree, Bytes key, uint64_t *ret_id) {
        KeyState state;
        int r = key_look(tree, key, &state);
        if (r == 0)
                *ret_id = state.id;
        return r;
}

/* What a write has to know: of entries with an owner more than is kept here. */
static KeyState state_of(const Row *row) {
        return (KeyState){
                .id = row->id,
                .create_revision = row->create_revision,
                .version = row->version,
                .sum = row->sum,
                .whole = row->owner_host == 0,
        };
}

void key_learn(Tree *tree, const Row *row) {
        Bytes key = BYTES(row->key, row->key_size);
        KnownKey *known = known_find(&tree->known, key, key_hash(key));
        if (known && known->state.id == row->id)
                known->state = state_of(row);
}

static int key_put(Tree *tree, const Row *row) {
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_KEY_PUT, &s);
        if (r != 0)
                return r;
        bind_text(s, 1, row->key, row->key_size);
        bind_u64(s, 2, row->id);
        return sql_run(tree, STMT_KEY_PUT, s);
}

int key_point(Tree *tree, const Row *row) {
        KnownKeys *known = &tree->known;
        Bytes key = BYTES(row->key, row->key_size);
        uint64_t hash = key_hash(key);
        int r = known->n_waiting == TREE_WAITING_KEYS ? keys_flush(tree) : 0;
        if (r != 0)
                return r;
        KnownKey *k = known_find(known, key, hash) ?: known_add(known, key, hash);
        if (!k)
                return key_put(tree, row);
        k->state = state_of(row);
        k->used = true;
        tree->turned++;
        if (k->waits == 0) {
                known->waiting[known->n_waiting++] = k;
                k->waits = (uint32_t)known->n_waiting;
        }
        return 0;
}

int key_drop(Tree *tree, Bytes key) {
        KnownKey *known = known_find(&tree->known, key, key_hash(key));
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_KEY_DELETE, &s);
        if (r != 0)
                return r;
        bind_text(s, 1, key.data, key.size);
        r = sql_run(tree, STMT_KEY_DELETE, s);
        if (r == 0 && known) /* also when the table never had it */
                known_remove(&tree->known, known);
        tree->turned++;
        return r;
}
