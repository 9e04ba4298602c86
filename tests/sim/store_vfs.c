/* What lies below the tree: the real SQLite on the simulated disk (simvfs.c), which loses what it loses
 * there. */
#include "sim.h"

const char store_program[] = "simulate-sqlite";
const bool store_is_on_disk = true;

/* Not here: only the log's disk fills up. */
void store_full(SimHost *host, bool full) {
}

bool store_rot(SimHost *host) {
        return false;
}

void store_well(SimHost *host) {
}

void store_look(SimHost *host) {
}

void store_cut(SimHost *host, const char *name) {
}
