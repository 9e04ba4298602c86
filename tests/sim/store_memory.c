/* What lies below the tree: a database in memory that knows its versions. */
#include "sim.h"

#include <stdio.h>

#include "memdb.h"

const char store_program[] = "simulate";
const bool store_is_on_disk = false;

bool store_rot(SimHost *host) {
        uint64_t random = below(UINT64_MAX);
        if (random % 3 == 0) { /* found by who reads again what he has just written */
                note("%s: a part of its tree cannot be read", host->name);
                memdb_unreadable(host->directory);
                return true;
        }
        note("%s: a byte of its tree rots", host->name);
        return memdb_rot(host->directory, random);
}

void store_well(SimHost *host) {
        memdb_readable(host->directory);
}

void store_look(SimHost *host) {
}

void store_full(SimHost *host, bool full) {
        memdb_set_full(host->directory, full);
}

void store_cut(SimHost *host, const char *name) {
        char path[400];
        snprintf(path, sizeof(path), "%s/%s", host->directory, name);
        memdb_cut(path, chance(5000) ? 0 : (unsigned)below(1001));
}
