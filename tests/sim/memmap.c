#include "memmap.h"

#include <string.h>
#include <xxhash.h>

/* Its first 16 bytes, as a number that compares as they do. */
typedef unsigned __int128 Prefix;

struct MapNode {
        unsigned refs;
        Prefix prefix; /* of the key: most comparisons end here, without a look at the item */
        MapNode *left, *right;
        MapItem *item;
};

/* ---- Items ---- */

MapItem *map_item_new(Bytes key, const Column *columns, const Bytes *bytes, size_t n) {
        size_t size = key.size;
        for (size_t i = 0; i < n; i++)
                size += columns[i].is_bytes ? bytes[i].size : 0;
        size_t room = (sizeof(MapItem) + size + 7) & ~(size_t)7;
        MapItem *item = malloc(room + n * sizeof(Column));
        assert(item);
        *item = (MapItem){.refs = 1,
                          .priority = (unsigned)XXH3_64bits(key.data, key.size),
                          .key_size = (uint32_t)key.size,
                          .n_columns = (uint32_t)n,
                          .columns = (Column *)((char *)item + room)};
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

MapItem *map_item_ref(MapItem *item) {
        item->refs++;
        return item;
}

MapItem *map_item_unref(MapItem *item) {
        if (item && --item->refs == 0)
                free(item);
        return NULL;
}

Bytes map_item_key(const MapItem *item) {
        return BYTES(item->bytes, item->key_size);
}

Bytes map_item_bytes(const MapItem *item, size_t column) {
        const Column *c = &item->columns[column];
        return BYTES(item->bytes + c->offset, c->size);
}

/* ---- Nodes ---- */

static int compare(Bytes a, Bytes b) {
        size_t n = MIN(a.size, b.size);
        int c = n > 0 ? memcmp(a.data, b.data, n) : 0;
        return c != 0 ? c : (a.size > b.size) - (a.size < b.size);
}

static Prefix prefix_of(Bytes key) {
        uint64_t first[2] = {};
        memcpy(first, key.data, MIN(key.size, sizeof(first)));
        return (Prefix)__builtin_bswap64(first[0]) << 64 | __builtin_bswap64(first[1]);
}

/* Of a key, whose prefix is known, with a node's. */
static inline int compare_node(Bytes key, Prefix prefix, const MapNode *node) {
        if (prefix != node->prefix)
                return prefix < node->prefix ? -1 : 1;
        return compare(key, map_item_key(node->item));
}

MapNode *map_ref(MapNode *node) {
        if (node)
                node->refs++;
        return node;
}

MapNode *map_unref(MapNode *node) {
        while (node && --node->refs == 0) {
                MapNode *right = node->right;
                map_unref(node->left);
                map_item_unref(node->item);
                free(node);
                node = right;
        }
        return NULL;
}

static MapNode *node_new(MapItem *item, MapNode *left, MapNode *right) {
        MapNode *node = malloc(sizeof(MapNode));
        assert(node);
        *node = (MapNode){.refs = 1,
                          .prefix = prefix_of(map_item_key(item)),
                          .left = left,
                          .right = right,
                          .item = item};
        return node;
}

/* The same node, but ours alone: others that share it keep the old one. */
static MapNode *node_own(MapNode *node) {
        if (node->refs == 1)
                return node;
        node->refs--;
        return node_new(map_item_ref(node->item), map_ref(node->left), map_ref(node->right));
}

/* Invariant: a parent goes before its children. Equal priorities are told apart by the key. */
static bool goes_before(const MapItem *a, const MapItem *b) {
        return a->priority != b->priority ? a->priority > b->priority
                                          : compare(map_item_key(a), map_item_key(b)) < 0;
}

static MapNode *put(MapNode *node, MapItem *item, Prefix prefix) {
        if (!node)
                return node_new(item, NULL, NULL);
        node = node_own(node);
        int c = compare_node(map_item_key(item), prefix, node);
        if (c == 0) {
                map_item_unref(node->item);
                node->item = item;
                return node;
        }
        MapNode **side = c < 0 ? &node->left : &node->right;
        MapNode *child = *side = put(*side, item, prefix);
        if (!goes_before(child->item, node->item))
                return node;
        if (c < 0) {
                node->left = child->right;
                child->right = node;
        } else {
                node->right = child->left;
                child->left = node;
        }
        return child;
}

MapNode *map_put(MapNode *root, MapItem *item) {
        return put(root, item, prefix_of(map_item_key(item)));
}

static MapNode *merge(MapNode *a, MapNode *b) {
        if (!a || !b)
                return a ?: b;
        if (goes_before(a->item, b->item)) {
                a = node_own(a);
                a->right = merge(a->right, b);
                return a;
        }
        b = node_own(b);
        b->left = merge(a, b->left);
        return b;
}

static MapNode *delete (MapNode *node, Bytes key, Prefix prefix) {
        if (!node)
                return NULL;
        int c = compare_node(key, prefix, node);
        if (c == 0) {
                MapNode *rest = merge(map_ref(node->left), map_ref(node->right));
                map_unref(node);
                return rest;
        }
        node = node_own(node);
        if (c < 0)
                node->left = delete (node->left, key, prefix);
        else
                node->right = delete (node->right, key, prefix);
        return node;
}

MapNode *map_delete(MapNode *root, Bytes key) {
        return delete (root, key, prefix_of(key));
}

MapItem *map_find(const MapNode *node, Bytes key) {
        Prefix prefix = prefix_of(key);
        while (node) {
                int c = compare_node(key, prefix, node);
                if (c == 0)
                        return node->item;
                node = c < 0 ? node->left : node->right;
        }
        return NULL;
}

MapItem *map_last(const MapNode *node, Bytes to, bool inclusive) {
        MapItem *best = NULL;
        Prefix prefix = prefix_of(to);
        while (node) {
                int c = -compare_node(to, prefix, node);
                if (c < 0 || (c == 0 && inclusive)) {
                        best = node->item;
                        node = node->right;
                } else
                        node = node->left;
        }
        return best;
}

static void walk_push(MapWalk *walk, const MapNode *node) {
        assert(walk->n < MAP_DEPTH);
        walk->path[walk->n++] = node;
}

/* Invariant: on the path lie those that come next, the nearest on top. */
void map_walk(MapWalk *walk, const MapNode *node, Bytes from, bool inclusive) {
        Prefix prefix = prefix_of(from);
        walk->n = 0;
        while (node) {
                int c = -compare_node(from, prefix, node);
                if (c > 0 || (c == 0 && inclusive)) {
                        walk_push(walk, node);
                        node = node->left;
                } else
                        node = node->right;
        }
}

MapItem *map_walk_next(MapWalk *walk) {
        if (walk->n == 0)
                return NULL;
        const MapNode *top = walk->path[--walk->n];
        for (const MapNode *node = top->right; node; node = node->left)
                walk_push(walk, node);
        return top->item;
}
