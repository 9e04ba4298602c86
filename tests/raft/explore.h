/* What the explorer is made of: hosts as numbers (explore_host.c) and the worlds that they make (explore.c,
 * which tells the idea). */
#pragma once

#include "agent/raft/internal.h"

#include <xxhash.h>

#define HOSTS       4
#define TERMS       8
#define INDEXES     8
#define PENDING     16
#define LETTERS     4096
#define CHAIN       4096
#define ELAPSED_CAP 3 /* more than two election timeouts: nothing asks for more */

typedef enum Choice {
        CHOICE_START,
        CHOICE_SILENCE,
        CHOICE_BEAT,
        CHOICE_STORE,
        CHOICE_PROPOSE,
        CHOICE_CHANGE,
        CHOICE_TRANSFER,
        CHOICE_READ,
        CHOICE_CRASH,                            /* + batches that reached the disk */
        CHOICE_ROT = CHOICE_CRASH + PENDING + 1, /* + entries that are gone */
        CHOICE_TAKE = CHOICE_ROT + INDEXES + 1   /* + letter */
} Choice;

typedef struct Bounds {
        uint64_t voters, terms, entries, proposals, crashes, rots, beats, transfers, reads, depth, states;
        uint64_t change[LIMIT_VOTERS];
        size_t n_change;
        bool once, loud, prevote, stale;
} Bounds;

typedef struct Image {
        uint8_t term, vote, n_entries;
        uint8_t entries[INDEXES]; /* numbers of entries */
        uint8_t life;             /* rises with rot: other starts need not be told apart */
        bool damaged;
        uint8_t had[INDEXES]; /* what rot took away */
} Image;

/* A state of one host, as far as the world must know it. Two hosts count as one state when their cores will
 * behave alike, so the hash (put_core() and what it calls) lists every field of the core that steers it;
 * hashed.py fails when one is neither there nor here:
 *
 *      never hashed
 *      Raft: options started failed          the same in every state
 *      Raft: random                          all draws are of one microsecond, or capped
 *      Raft: now heard_usec hard_seq stored_seq store_seq
 *                                            only differences count
 *      Raft: peers batches log ack           by their own fields
 *      Raft: batches_capacity reads_capacity done_capacity queue_capacity messages_capacity pool_capacity
 *      Raft: store_entries_capacity done_out_capacity
 *                                            room
 *      Raft: uncommitted_bytes beat_marks    never near their limit; read by status only
 *      Raft: done n_done                     empty between turns
 *      Read: id                              there is one
 *      Raft: queue n_queue messages n_messages pool n_pool store_entries done_out loads snapshots progress
 *                                            empty between turns, or written before they are read
 *      Raft: seen sick n_sick                tell, steer nothing
 *      Raft: lost                            only who does not know that it lost something is told
 *      Peer: inflight_first inflight_bytes   where the ring begins; never near the limit
 *      Peer: lost match_beat                 set by answers to beats from hosts that do not know
 *      Peer: follow_usec                     read by status only
 *      Peer: snapshot_wanted loaded loaded_from
 *                                            the log begins at 1 and is in memory: nothing is loaded or sent
 *      Inflight: bytes                       never near the limit
 *      LogView: base_index base_term cache_first released released_bytes runs_capacity ring_capacity
 *      LogView: confs_capacity               nothing is trimmed
 *      LogView: runs n_runs ring confs n_confs
 *                                            follow from the entries and the commit index */
typedef struct Local {
        uint32_t parent;
        uint32_t choice;
        uint8_t id, role, term, vote, commit, last, n_pending,
                conf; /* conf: number of its entry, 0 the first */
        bool conf_committed;
        uint8_t log[INDEXES];
        Image disk;
} Local;

typedef struct Transition {
        bool outside; /* leaves the bounds */
        uint32_t local;
        uint32_t first_out;
        uint32_t n_out;
        uint8_t read; /* 0: none is answered; 1: it is lost; else the index, + 2 */
        const char *bad;
} Transition;

typedef struct World {
        uint32_t locals[HOSTS];
        uint8_t committed[INDEXES];
        uint8_t committed_in[INDEXES]; /* term */
        uint8_t leader_of[TERMS];
        uint8_t crashes, rots, proposals, changes, beats, transfers;
        uint8_t reads, read_floor; /* what was committed anywhere when it was asked */
        uint32_t n_letters;
        uint16_t letters[LETTERS]; /* rising */
} World;

typedef struct Pending {
        uint64_t seq, truncate_from, term, vote;
        bool hard_state, healed;
        uint8_t entries[INDEXES];
        size_t n_entries;
} Pending;

/* A host while it runs. */
typedef struct Host {
        uint64_t id, now, deadline;
        Raft *raft;
        Image disk;
        Pending pending[PENDING];
        size_t n_pending;
        uint8_t read;
        const char *bad;
} Host;

typedef struct Step {
        uint32_t parent, host, choice;
} Step;

/* From 128 bits to a number; grows, never forgets. */
typedef struct Slot {
        XXH128_hash_t key;
        uint32_t value; /* + 1; 0: free */
} Slot;

typedef struct Map {
        Slot *slots;
        size_t capacity, n;
} Map;

/* Room for item `n` of an array that doubles. */
#define GROW(array, n)                                                                              \
        do {                                                                                        \
                if ((n) == 0 || (((n) & ((n)-1)) == 0))                                             \
                        (array) = must(realloc((array), ((n) ? 2 * (n) : 1) * sizeof((array)[0]))); \
        } while (false)

extern Entry *entries[256]; /* number 0 is none */
extern size_t n_entries;
extern RaftMessage *letters;
extern size_t n_letters;
extern Local *locals;
extern size_t n_locals;
extern size_t n_transitions;
extern uint16_t *outs;
extern size_t n_outs;
extern Step *steps; /* how each state was first reached */
extern size_t n_steps;
extern Map world_map;
extern Step current; /* what is tried now */
extern Bounds bounds;
extern Conf first_conf;
extern size_t n_hosts;

void *must(void *p);
uint32_t map_put(Map *map, XXH128_hash_t key, uint32_t value, bool *ret_new);
void host_start(Host *host, bool listen);
void host_crash(Host *host, size_t keep);
bool is_dead(const RaftMessage *m, uint64_t term, uint64_t vote);
uint32_t local_number(const Host *host, uint32_t parent, uint32_t choice);
const Transition *transition(uint32_t local, uint32_t choice);
