/* What the roof (or the simulation) tells the hall at birth, and the calls that only the two of them make.
 */
#pragma once

#include "agent.h"
#include "outside.h"

typedef struct AgentOptions {
        const char *state_directory; /* where tree files live; log and host file go through `disk` */
        Disk *disk;
        Outside outside;
        Report report;
        bool threads; /* log and tree threads; else their work is done by agent_step() */

        uint8_t machine[16]; /* app-specific machine id */
        uint8_t key[KEY_HASH_BYTES];
        char host_name[LIMIT_NAME_BYTES + 1];
        uint32_t n_addresses;
        char addresses[LIMIT_ADDRESSES][LIMIT_ADDRESS_BYTES + 1];
        const char
                *join; /* token to join with by itself, or NULL: NULL and no state means a cluster of one */

        uint64_t heartbeat_usec, election_usec, session_usec;
        unsigned max_voters;
        uint64_t seed;
        size_t segment_bytes;     /* 0: the log's default */
        size_t uncommitted_bytes; /* 0: LIMIT_UNCOMMITTED_BYTES */
        size_t cache_bytes;       /* 0: LIMIT_CACHE_BYTES */
        uint32_t newer;        /* so many versions ahead of this build, and so is what it writes (tests) */
        uint64_t history_usec; /* history is kept so long; 0: an hour */
        uint64_t history_changes; /* … and at least so many revisions; 0: 10,000 */
        bool accept_damage;       /* the operator says: go on with what is left of a damaged log */
} AgentOptions;

/* 0; -ESTALE: state of another machine; -EBUSY: another agent runs on it; -EPROTONOSUPPORT: written by a
 * newer treaty; other -errno. Every cause is said through the report. */
/* At start, before anything else is read: 1, all state was dropped as a join wished; 0. */
int anew_begin(Disk *disk);
int anew_token(Disk *disk, char to[static 4096]); /* by which to join then; -ENOENT */
int agent_new(Agent **ret, const AgentOptions *options);
/* As it ends: clean = what is open is stored and marked; else as kill -9. Callbacks: ANSWER_STOPPING to all.
 */
Agent *agent_free(Agent *agent, bool clean);

/* The turn. Returns 0, or the fatal -errno after which only agent_free(…, false) is left. */
int agent_turn(Agent *agent);
uint64_t agent_deadline(const Agent *agent); /* of the next turn, on the clock of outside.now() */
/* Readable when the log's or the tree's thread has news. */
int agent_log_fd(const Agent *agent);
int agent_tree_fd(const Agent *agent);
int agent_step(Agent *agent);        /* without threads: one piece of disk work; 1 = did something */
bool agent_idle(const Agent *agent); /* … and whether there is none */
/* All that was ready is heard, or the turn is over: nobody reads for now. Reads are cheaper between two of
 * these. */
void agent_rest(Agent *agent);
/* Local reads work (the gate after an unclean stop is open): READY=1. */
bool agent_ready(const Agent *agent);
/* Planned stop: hand over leadership, refuse new requests. *ret_done when agent_free() may follow. */
void agent_stop(Agent *agent);
bool agent_stopped(const Agent *agent);
void agent_set_addresses(Agent *agent, uint32_t n, char (*addresses)[LIMIT_ADDRESS_BYTES + 1]);

/* News from the network. */
PeersVerdict agent_judge(Agent *agent, const uint8_t key[static KEY_HASH_BYTES], uint64_t *ret_host);
void agent_up(Agent *agent, uint64_t host, uint64_t connection);
void agent_down(Agent *agent, uint64_t host, uint64_t connection, PeersDown why);
void agent_unreachable(Agent *agent, uint64_t host, PeersDown why);
void agent_letter(Agent *agent, uint64_t host, uint64_t connection, Bytes bytes);
void agent_called(Agent *agent, PeersCall *call, uint64_t host, const uint8_t key[static KEY_HASH_BYTES],
                  const char *method, Bytes request);

/* Counters for benchmarks and the simulation. */
typedef struct AgentCounters {
        uint64_t applied_entries, offered, turns;
} AgentCounters;
