/* A map in memory whose versions cost nothing to keep: changes copy the path from the root to what they
 * touch and share the rest, so "what was committed" and "what survives a power cut" are just older roots.
 *
 * A B-tree. Nobody counts who looks at a node: each remembers when it was born (the store's time, which goes
 * on with each transaction), and what is replaced goes on a list, with the time of its death. Version v sees
 * what was born by then and died later; what no living version sees is freed by a sweep. */
#pragma once

#include "agent/base/bytes.h"

typedef struct Column { /* a number, or bytes inside the item */
        uint64_t number;
        uint32_t offset, size : 31;
        bool is_bytes : 1;
} Column;

typedef struct MapItem {
        uint64_t birth;
        uint32_t key_size, n_columns;
        uint8_t *bytes; /* behind the columns: key, then the columns' bytes */
        Column columns[];
} MapItem;

/* A key, and its first 16 bytes as a number that compares as they do: most comparisons end with it, without
 * a look at an item. */
typedef unsigned __int128 MapPrefix;
typedef struct MapKey {
        Bytes bytes;
        MapPrefix prefix;
} MapKey;
MapKey map_key(Bytes bytes);

typedef struct MapNode MapNode; /* NULL is the empty map */

typedef struct MapDead {
        void *what;
        uint64_t death;
        bool item;
} MapDead;

typedef struct MapStore {
        uint64_t now; /* invariant: nothing alive is younger */
        MapDead *dead;
        size_t n_dead, dead_room;
        uint64_t begun; /* the open transaction: its first time, and who was dead before */
        size_t dead_before;
        uint64_t n_changes; /* while it stays the same, all nodes are where and what they were */
} MapStore;

/* Where the last search ended: the next one often ends there, too. */
typedef struct MapHint {
        const MapNode *root, *leaf;
        uint64_t n_changes;
} MapHint;

MapItem *map_item_new(Bytes key, const Column *columns, const Bytes *bytes, size_t n);
static inline Bytes map_item_key(const MapItem *item) {
        return BYTES(item->bytes, item->key_size);
}
static inline Bytes map_item_bytes(const MapItem *item, size_t column) {
        const Column *c = &item->columns[column];
        return BYTES(item->bytes + c->offset, c->size);
}

void map_begin(MapStore *store); /* a transaction; its version is the store's time when it ends */
/* The transaction is taken back: `root` is what it had made. */
void map_rollback(MapStore *store, MapNode *root);
uint64_t map_freeze(MapStore *store); /* what is there now stays as it is: the version to look at it by */
/* Takes the item; the new root. */
MapNode *map_put(MapStore *store, MapNode *root, MapItem *item, MapPrefix prefix, bool *ret_replaced);
MapNode *map_delete(MapStore *store, MapNode *root, MapKey key, bool *ret_there);
/* Frees what none of these versions sees; they are in ascending order. */
void map_sweep(MapStore *store, const uint64_t *versions, size_t n);
/* All that is younger than this version is forgotten; `root` was the newest. */
void map_back(MapStore *store, MapNode *root, uint64_t version);
void map_deinit(MapStore *store, MapNode *root); /* the newest */

MapItem *map_find(const MapNode *root, MapKey key); /* NULL: not there */
MapItem *map_find_near(const MapStore *store, const MapNode *root, MapKey key, MapHint *hint);
MapItem *map_last(const MapNode *root, MapKey to, bool inclusive); /* the largest before `to` */

MapItem *map_some(const MapNode *root, uint64_t random); /* any; NULL: the map is empty */

/* A walk in order, over one version. */
#define MAP_DEPTH 12
typedef struct MapWalk {
        const MapNode *path[MAP_DEPTH];
        unsigned next[MAP_DEPTH], n;
} MapWalk;
void map_walk(MapWalk *walk, const MapNode *root, MapKey from, bool inclusive);
MapItem *map_walk_next(MapWalk *walk); /* NULL: the end */
