/* An Entry is one record of the replicated log: immutable once it has an index, shared by reference between
 * core, log, peers and apply, so that its bytes exist once in memory. References are counted without
 * atomics: only the loop's thread takes and drops them; the log thread merely reads what a batch in flight
 * keeps alive. */
#pragma once

#include "macros.h"

typedef enum EntryType {
        ENTRY_NOOP = 1,    /* a new leader's first entry (Raft thesis, section 6.4) */
        ENTRY_CONF = 2,    /* a configuration of voters, see conf.h */
        ENTRY_COMMAND = 3, /* EntryStamp followed by an encoded Command, see command.h */
} EntryType;

typedef struct Entry {
        size_t n_refs;
        uint64_t index;
        uint64_t term;
        EntryType type;
        uint32_t size;
        uint8_t data[];
} Entry;

/* A copy of `size` bytes of data (NULL: left for the caller to fill). NULL when out of memory. */
Entry *entry_new(EntryType type, uint64_t index, uint64_t term, const void *data, uint32_t size);
Entry *entry_ref(Entry *entry);
Entry *entry_unref(Entry *entry); /* accepts NULL, returns NULL */

DEFINE_CLEANUP(Entry *, entry_unref);

/* What the leader stamps on a command when it appends it; 24 bytes, little endian, before the command's
 * bytes. `cluster_usec` is the leaders' elapsed boottime added up: monotone, the only time that apply may
 * look at. `wall_usec` is information for people and may go back. */
typedef struct EntryStamp {
        uint32_t min_version; /* a host whose version is lower stops instead of skipping */
        uint32_t reserved;    /* zero */
        uint64_t cluster_usec;
        uint64_t wall_usec;
} EntryStamp;

#define ENTRY_STAMP_BYTES 24

void entry_stamp_write(uint8_t to[static ENTRY_STAMP_BYTES], const EntryStamp *stamp);
int entry_stamp_read(const Entry *entry, EntryStamp *ret); /* 0, -EBADMSG */
