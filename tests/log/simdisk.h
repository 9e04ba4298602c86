/* A disk in memory that behaves as badly as a real one may. Each file has two images: what readers see
 * (cache) and what survives a power cut (durable); between them lies the list of writes that no sync has
 * covered yet, and the same for the names in the directory. A power cut keeps of that list what its policy
 * says and forgets the rest. One thread. */
#pragma once

#include "agent/base/random.h"
#include "agent/log/disk.h"

#define SIM_SECTOR 512

typedef struct SimDisk SimDisk;

typedef enum SimCut {
        SIM_LOSE_ALL,    /* nothing unsynced survives */
        SIM_KEEP_ALL,    /* everything does */
        SIM_KEEP_PREFIX, /* the first few operations, in their order */
        SIM_KEEP_SUBSET, /* a random choice of whole operations */
        SIM_TORN,        /* a random choice of sectors */
        _SIM_CUT_MAX,
} SimCut;

SimDisk *simdisk_new(uint64_t seed);
SimDisk *simdisk_free(SimDisk *sim); /* accepts NULL; all files closed */
DEFINE_CLEANUP(SimDisk *, simdisk_free);
Disk *simdisk_disk(SimDisk *sim);

/* The process ends, the machine goes on: open files answer -EIO from now on (closing them is fine), the
 * cache stays. */
void simdisk_kill(SimDisk *sim);
/* The machine loses power, too. Also ends what was set below. */
void simdisk_cut(SimDisk *sim, SimCut policy);

/* From the n-th call on (0: the next), everything fails with -EIO and changes nothing, as for a process
 * whose machine is gone; then simdisk_cut(). UINT64_MAX: never. */
void simdisk_die_at(SimDisk *sim, uint64_t n);
/* The n-th call from now on fails once with `error` (negative). A sync that fails marks what it was to sync
 * as clean, as Linux does: readers still see it, no later sync writes it. */
void simdisk_fail_at(SimDisk *sim, uint64_t n, int error);
/* All files together: growth beyond it is -ENOSPC. */
void simdisk_set_room(SimDisk *sim, uint64_t bytes);
/* XORs one byte, on the platter and in the cache. False: the file is not that long. */
bool simdisk_flip(SimDisk *sim, const char *name, uint64_t offset, uint8_t mask);
/* From now on this sector cannot be read (-EIO), until it is written. */
bool simdisk_unreadable(SimDisk *sim, const char *name, uint64_t offset);
uint64_t simdisk_size_of(SimDisk *sim, const char *name); /* 0: not there */
/* A disk with the same durable content and no history. */
SimDisk *simdisk_copy(SimDisk *sim);

uint64_t simdisk_calls(const SimDisk *sim); /* that could change something */
uint64_t simdisk_syncs(const SimDisk *sim); /* of files */
uint64_t simdisk_used(const SimDisk *sim);  /* bytes */
