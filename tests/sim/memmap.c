#include "memmap.h"

#include <string.h>

typedef MapPrefix Prefix;

#define FAN 24

/* Invariant: in a leaf lie items, in the order of their keys; elsewhere nodes, none of them empty. The
 * prefix of a child is at most that of its first item, and above those of all that lie left of it. */
struct MapNode {
        uint64_t birth; /* first, as in an item */
        uint32_t n;
        bool leaf;
        Prefix prefix[FAN];
        void *slot[FAN];
};

/* ---- Items ---- */

MapItem *map_item_new(Bytes key, const Column *columns, const Bytes *bytes, size_t n) {
        size_t size = key.size;
        for (size_t i = 0; i < n; i++)
                size += columns[i].is_bytes ? bytes[i].size : 0;
        MapItem *item = malloc(sizeof(MapItem) + n * sizeof(Column) + size);
        assert(item);
        item->key_size = (uint32_t)key.size;
        item->n_columns = (uint32_t)n;
        item->bytes = (uint8_t *)(item->columns + n);
        memcpy(item->bytes, key.data, key.size);
        uint32_t at = (uint32_t)key.size;
        for (size_t i = 0; i < n; i++) {
                item->columns[i] = columns[i];
                if (!columns[i].is_bytes)
                        continue;
                item->columns[i].offset = at;
                item->columns[i].size = (uint32_t)bytes[i].size;
                if (bytes[i].size > 0)
                        memcpy(item->bytes + at, bytes[i].data, bytes[i].size);
                at += (uint32_t)bytes[i].size;
        }
        return item;
}

/* ---- Order ---- */

static int compare(Bytes a, Bytes b) {
        size_t n = MIN(a.size, b.size);
        int c = n > 0 ? memcmp(a.data, b.data, n) : 0;
        return c != 0 ? c : (a.size > b.size) - (a.size < b.size);
}

static Prefix prefix_of(Bytes key) {
        uint64_t first[2] = {};
        if (key.size >= sizeof(first))
                memcpy(first, key.data, sizeof(first));
        else
                memcpy(first, key.data, key.size);
        return (Prefix)__builtin_bswap64(first[0]) << 64 | __builtin_bswap64(first[1]);
}

MapKey map_key(Bytes bytes) {
        return (MapKey){.bytes = bytes, .prefix = prefix_of(bytes)};
}

/* All of a node's prefixes at once: a search would wait for one after the other. */
static inline void node_fetch(const MapNode *node) {
        for (size_t at = 0; at < offsetof(MapNode, slot); at += 64)
                __builtin_prefetch((const char *)node + at);
}

static const MapItem *first_item(const MapNode *node, unsigned i) {
        for (; !node->leaf; i = 0)
                node = node->slot[i];
        return node->slot[i];
}

/* How many of the node's prefixes are smaller. No branch depends on what is compared: nobody could guess it.
 */
static inline unsigned count_smaller(const MapNode *node, Prefix prefix) {
        const Prefix *from = node->prefix;
        size_t n = node->n;
        if (n == 0)
                return 0;
        while (n > 1) {
                size_t half = n / 2;
                from += -(size_t)(from[half - 1] < prefix) & half;
                n -= half;
        }
        return (unsigned)(from - node->prefix) + (*from < prefix);
}

/* How many of the node's begin before the key (inclusive: or with it). */
static unsigned count_before(const MapNode *node, Bytes key, Prefix prefix, bool inclusive) {
        unsigned i = count_smaller(node, prefix);
        for (; i < node->n && node->prefix[i] == prefix; i++) {
                int c = compare(map_item_key(first_item(node, i)), key);
                if (c > 0 || (c == 0 && !inclusive))
                        break;
        }
        return i;
}

/* Where the key is, or would be. */
static unsigned child_of(const MapNode *node, Bytes key, Prefix prefix) {
        unsigned i = count_before(node, key, prefix, true);
        return i > 0 ? i - 1 : 0;
}

/* ---- Birth and death ---- */

static MapNode *node_new(const MapStore *store, bool leaf) {
        MapNode *node = malloc(sizeof(MapNode));
        assert(node);
        node->birth = store->now;
        node->n = 0;
        node->leaf = leaf;
        return node;
}

static void bury(MapStore *store, void *what, bool item, uint64_t death) {
        if (store->n_dead == store->dead_room) {
                store->dead_room = MAX((size_t)256, store->dead_room * 2);
                store->dead = reallocarray(store->dead, store->dead_room, sizeof(MapDead));
                assert(store->dead);
        }
        store->dead[store->n_dead++] = (MapDead){.what = what, .item = item, .death = death};
}

static void slots_copy(MapNode *to, unsigned at, const MapNode *from, unsigned first, unsigned n) {
        memmove(to->prefix + at, from->prefix + first, n * sizeof(Prefix));
        memmove(to->slot + at, from->slot + first, n * sizeof(void *));
}

/* The same node, but of our own time: others keep the old one. */
static MapNode *node_own(MapStore *store, MapNode *node) {
        if (node->birth == store->now)
                return node;
        MapNode *copy = node_new(store, node->leaf);
        copy->n = node->n;
        slots_copy(copy, 0, node, 0, node->n);
        bury(store, node, false, store->now);
        return copy;
}

/* ---- Changes ---- */

/* The node is ours. When it was full, its second half, which the caller has to put behind it. */
static MapNode *insert(MapStore *store, MapNode *node, unsigned at, Prefix prefix, void *what) {
        MapNode *more = NULL;
        if (node->n == FAN) {
                unsigned half = at == FAN ? FAN : FAN / 2; /* what comes in order fills its leaves */
                more = node_new(store, node->leaf);
                more->n = FAN - half;
                slots_copy(more, 0, node, half, FAN - half);
                node->n = half;
                if (at >= half) {
                        at -= half;
                        slots_copy(more, at + 1, more, at, more->n - at);
                        more->prefix[at] = prefix;
                        more->slot[at] = what;
                        more->n++;
                        return more;
                }
        }
        slots_copy(node, at + 1, node, at, node->n - at);
        node->prefix[at] = prefix;
        node->slot[at] = what;
        node->n++;
        return more;
}

/* Puts it below *node, which becomes ours; as insert(). */
static MapNode *put(MapStore *store, MapNode **node, MapItem *item, Prefix prefix, bool *ret_replaced) {
        MapNode *own = *node = node_own(store, *node);
        Bytes key = map_item_key(item);
        unsigned i = count_before(own, key, prefix, true);
        if (!own->leaf) {
                i = i > 0 ? i - 1 : 0;
                MapNode *child = own->slot[i];
                node_fetch(child);
                MapNode *more = put(store, &child, item, prefix, ret_replaced);
                own->slot[i] = child;
                if (prefix < own->prefix[i])
                        own->prefix[i] = prefix;
                return more ? insert(store, own, i + 1, more->prefix[0], more) : NULL;
        }
        if (i > 0 && own->prefix[i - 1] == prefix && compare(map_item_key(own->slot[i - 1]), key) == 0) {
                bury(store, own->slot[i - 1], true, store->now);
                own->slot[i - 1] = item;
                *ret_replaced = true;
                return NULL;
        }
        return insert(store, own, i, prefix, item);
}

MapNode *map_put(MapStore *store, MapNode *root, MapItem *item, MapPrefix prefix, bool *ret_replaced) {
        store->n_changes++;
        *ret_replaced = false;
        if (!root)
                root = node_new(store, true);
        item->birth = store->now;
        MapNode *more = put(store, &root, item, prefix, ret_replaced);
        if (!more)
                return root;
        MapNode *above = node_new(store, false);
        (void)insert(store, above, 0, root->prefix[0], root);
        (void)insert(store, above, 1, more->prefix[0], more);
        return above;
}

/* The way to where a key is. */
typedef struct Way {
        uint8_t at[MAP_DEPTH];
} Way;

static bool find_way(const MapNode *node, MapKey key, Way *ret) {
        for (unsigned depth = 0;; depth++) {
                assert(depth < MAP_DEPTH);
                unsigned i = child_of(node, key.bytes, key.prefix);
                ret->at[depth] = (uint8_t)i;
                if (node->leaf)
                        return node->prefix[i] == key.prefix &&
                               compare(map_item_key(node->slot[i]), key.bytes) == 0;
                node = node->slot[i];
                node_fetch(node);
        }
}

/* What is left of the node; NULL when that is nothing. */
static MapNode *delete (MapStore *store, MapNode *node, const uint8_t *way) {
        node = node_own(store, node);
        unsigned i = *way;
        if (node->leaf)
                bury(store, node->slot[i], true, store->now);
        else if ((node->slot[i] = delete (store, node->slot[i], way + 1)))
                return node;
        slots_copy(node, i, node, i + 1, node->n - i - 1);
        if (--node->n > 0)
                return node;
        bury(store, node, false, store->now);
        return NULL;
}

MapNode *map_delete(MapStore *store, MapNode *root, MapKey key, bool *ret_there) {
        Way way;
        *ret_there = root && find_way(root, key, &way);
        if (!*ret_there)
                return root;
        store->n_changes++;
        root = delete (store, root, way.at);
        while (root && !root->leaf && root->n == 1) {
                MapNode *below = root->slot[0];
                bury(store, root, false, store->now);
                root = below;
        }
        return root;
}

/* ---- Time ---- */

void map_begin(MapStore *store) {
        store->begun = ++store->now;
        store->dead_before = store->n_dead;
}

uint64_t map_freeze(MapStore *store) {
        return store->now++;
}

/* All below the node that was born then or later dies now. Invariant: nothing is older than what lies below
 * it. */
static void bury_young(MapStore *store, MapNode *node, uint64_t birth) {
        if (!node || node->birth < birth)
                return;
        for (unsigned i = 0; i < node->n; i++)
                if (!node->leaf)
                        bury_young(store, node->slot[i], birth);
                else if (((MapItem *)node->slot[i])->birth >= birth)
                        bury(store, node->slot[i], true, store->now);
        bury(store, node, false, store->now);
}

static uint64_t birth_of(const MapDead *dead) {
        return *(const uint64_t *)dead->what;
}

/* Whoever died of what is taken back lives again. */
static void raise_dead(MapStore *store, size_t from, uint64_t begun) {
        size_t n = from;
        for (size_t i = from; i < store->n_dead; i++)
                if (birth_of(&store->dead[i]) >= begun || store->dead[i].death < begun)
                        store->dead[n++] = store->dead[i];
        store->n_dead = n;
}

void map_rollback(MapStore *store, MapNode *root) {
        store->n_changes++;
        raise_dead(store, store->dead_before, store->begun);
        store->now++;
        bury_young(store, root, store->begun);
}

void map_back(MapStore *store, MapNode *root, uint64_t version) {
        raise_dead(store, 0, version + 1);
        store->now++;
        bury_young(store, root, version + 1);
        map_sweep(store, &version, 1);
}

static bool is_seen(const MapDead *dead, const uint64_t *versions, size_t n) {
        uint64_t birth = birth_of(dead);
        size_t i = 0;
        while (n > 0) { /* the first version that is not too old */
                size_t half = n / 2;
                if (versions[i + half] < birth)
                        i += half + 1, n -= half + 1;
                else
                        n = half;
        }
        return versions[i] >= birth && versions[i] < dead->death;
}

void map_sweep(MapStore *store, const uint64_t *versions, size_t n) {
        size_t left = 0;
        assert(n > 0);
        store->n_changes++;
        for (size_t i = 0; i < store->n_dead; i++)
                if (versions[n - 1] >= birth_of(&store->dead[i]) && is_seen(&store->dead[i], versions, n))
                        store->dead[left++] = store->dead[i];
                else
                        free(store->dead[i].what);
        store->n_dead = left;
}

void map_deinit(MapStore *store, MapNode *root) {
        bury_young(store, root, 0);
        for (size_t i = 0; i < store->n_dead; i++)
                free(store->dead[i].what);
        free(store->dead);
        *store = (MapStore){};
}

/* ---- Looking ---- */

static MapItem *find_in(const MapNode *leaf, Bytes key, Prefix prefix) {
        unsigned i = count_before(leaf, key, prefix, true);
        if (i == 0 || leaf->prefix[i - 1] != prefix || compare(map_item_key(leaf->slot[i - 1]), key) != 0)
                return NULL;
        return leaf->slot[i - 1];
}

static const MapNode *leaf_of(const MapNode *node, Bytes key, Prefix prefix) {
        while (!node->leaf) {
                node = node->slot[child_of(node, key, prefix)];
                node_fetch(node);
        }
        return node;
}

MapItem *map_find(const MapNode *root, MapKey key) {
        return root ? find_in(leaf_of(root, key.bytes, key.prefix), key.bytes, key.prefix) : NULL;
}

MapItem *map_find_near(const MapStore *store, const MapNode *root, MapKey key, MapHint *hint) {
        if (!root)
                return NULL;
        const MapNode *leaf = hint->leaf;
        bool there = hint->root == root && hint->n_changes == store->n_changes &&
                     leaf->prefix[0] < key.prefix && key.prefix < leaf->prefix[leaf->n - 1];
        if (!there)
                *hint = (MapHint){.root = root,
                                  .leaf = leaf_of(root, key.bytes, key.prefix),
                                  .n_changes = store->n_changes};
        return find_in(hint->leaf, key.bytes, key.prefix);
}

MapItem *map_last(const MapNode *node, MapKey to, bool inclusive) {
        const MapNode *left = NULL; /* all of it lies before */
        if (!node)
                return NULL;
        for (;;) {
                unsigned i = count_before(node, to.bytes, to.prefix, inclusive);
                if (node->leaf && i > 0)
                        return node->slot[i - 1];
                if (node->leaf || i == 0)
                        break;
                if (i > 1)
                        left = node->slot[i - 2];
                node = node->slot[i - 1];
        }
        if (!left)
                return NULL;
        while (!left->leaf)
                left = left->slot[left->n - 1];
        return left->slot[left->n - 1];
}

void map_walk(MapWalk *walk, const MapNode *node, MapKey from, bool inclusive) {
        walk->n = 0;
        while (node) {
                assert(walk->n < MAP_DEPTH);
                unsigned i = count_before(node, from.bytes, from.prefix, !inclusive);
                if (!node->leaf && i > 0)
                        i--;
                walk->path[walk->n] = node;
                walk->next[walk->n++] = node->leaf ? i : i + 1;
                node = node->leaf ? NULL : node->slot[i];
        }
}

/* A walk waits for memory more than for anything else. */
static void look_ahead(const MapNode *leaf, unsigned i) {
        if (i + 4 >= leaf->n)
                return;
        const char *item = leaf->slot[i + 4];
        __builtin_prefetch(item);
        __builtin_prefetch(item + 64);
}

/* Invariant: `next` is what comes when all below has been told. */
MapItem *map_walk_next(MapWalk *walk) {
        while (walk->n > 0) {
                const MapNode *node = walk->path[walk->n - 1];
                unsigned i = walk->next[walk->n - 1]++;
                if (i >= node->n) {
                        walk->n--;
                        continue;
                }
                if (node->leaf) {
                        look_ahead(node, i);
                        return node->slot[i];
                }
                walk->path[walk->n] = node->slot[i];
                walk->next[walk->n++] = 0;
        }
        return NULL;
}

MapItem *map_some(const MapNode *root, uint64_t random) {
        while (root && root->n > 0) {
                void *slot = root->slot[random % root->n];
                if (root->leaf)
                        return slot;
                random = random / FAN + random * FAN;
                root = slot;
        }
        return NULL;
}
