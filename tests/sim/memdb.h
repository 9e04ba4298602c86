/* The database of the fast simulation: what the tree asks of SQLite, in memory, linked in SQLite's place.
 * All of agent/tree runs above it unchanged, so both modes apply, prune, scrub and send the same rows, and
 * their digests can be compared.
 *
 * A file has versions: what is committed survives the process, what a checkpoint moved survives a power cut,
 * and of the commits between these a power cut keeps a beginning, as it does of a WAL. */
#pragma once

#include "agent/base/macros.h"

/* The machine of this file loses power: `keep` (0 … 1000) says how much of the commits since the last
 * checkpoint survives. No connection may be open. */
void memdb_cut(const char *path, unsigned keep);
/* A byte of some row in this directory is another from now on, in all versions. False: there is none. */
bool memdb_rot(const char *directory, uint64_t random);
/* The next time that a transaction reads several rows again, it cannot read the third. */
void memdb_unreadable(const char *directory);
/* Or it can again, if none has tried. */
void memdb_readable(const char *directory);
/* From now on writes find no room, in this directory. */
void memdb_set_full(const char *directory, bool full);
