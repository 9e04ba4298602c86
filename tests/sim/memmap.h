/* A map in memory whose versions cost nothing to keep: changes copy the path from the root to what they
 * touch and share the rest, so "what was committed" and "what survives a power cut" are just older roots.
 *
 * A treap: its shape depends on the keys alone, so equal maps are equal trees on every run. */
#pragma once

#include "agent/base/bytes.h"

typedef struct Column { /* a number, or bytes inside the item */
        uint64_t number;
        uint32_t offset, size;
        bool is_bytes;
} Column;

/* Counted: whoever holds one may look at it as long as he likes. */
typedef struct MapItem {
        unsigned refs, priority;
        uint32_t key_size, n_columns;
        Column *columns;
        uint8_t bytes[]; /* key, then the columns' bytes */
} MapItem;

typedef struct MapNode MapNode;

MapItem *map_item_new(Bytes key, const Column *columns, const Bytes *bytes, size_t n);
MapItem *map_item_ref(MapItem *item);
MapItem *map_item_unref(MapItem *item); /* accepts NULL */
Bytes map_item_key(const MapItem *item);
Bytes map_item_bytes(const MapItem *item, size_t column);

MapNode *map_ref(MapNode *root);                                  /* accepts NULL, which is the empty map */
MapNode *map_unref(MapNode *root);                                /* returns NULL */
MapNode *map_put(MapNode *root, MapItem *item);                   /* takes both, returns the new root */
MapNode *map_delete(MapNode *root, Bytes key);                    /* takes the root */
MapItem *map_find(const MapNode *root, Bytes key);                /* NULL: not there; not counted */
MapItem *map_last(const MapNode *root, Bytes to, bool inclusive); /* the largest before `to` */

/* A walk in order, over one version: it does not hold what it walks over. */
#define MAP_DEPTH 96
typedef struct MapWalk {
        const MapNode *path[MAP_DEPTH];
        unsigned n;
} MapWalk;
void map_walk(MapWalk *walk, const MapNode *root, Bytes from, bool inclusive);
MapItem *map_walk_next(MapWalk *walk); /* NULL: the end */
