/* Several cores on one table: each with a disk that forgets what was not stored, between them a heap of
 * letters. The table watches over the promises: whatever a core does is held against what must never happen.
 * Stories move the letters by hand, the random test by dice. */
#pragma once

#include "agent/base/limits.h"
#include "agent/raft/raft.h"

#include <stdio.h>

#define NODES_MAX 9
#define TERMS_MAX 20000
#define INDEX_END 20000

typedef struct Disk {
        uint64_t term, vote;
        bool has_log; /* a base record was written, or the host was a voter from the start */
        uint64_t base_index, base_term;
        Entry **entries;
        size_t n_entries;
        uint64_t tree; /* synced applied index */
        bool damaged;
} Disk;

typedef struct Pending {
        uint64_t seq, truncate_from, term, vote, usec;
        bool hard_state, healed;
        Entry **entries;
        size_t n_entries;
} Pending;

typedef struct Letterbox {
        RaftMessage message;
        uint64_t usec;
} Letterbox;

typedef struct Node {
        uint64_t id;
        Raft *raft;
        Disk disk;
        Pending *pending;
        size_t n_pending;
        uint64_t applied, commit, deadline_usec;
        bool promoted; /* its base was made, no configuration named it yet */
        RaftLoad loads[LIMIT_VOTERS * 3];
        size_t n_loads;
        uint64_t snapshots[LIMIT_VOTERS * 3];
        size_t n_snapshots;
        uint64_t stalled_until; /* disk */
        uint64_t lives;
        uint64_t *lost; /* terms of entries that its disk once held and lost, by index; NULL: none */
} Node;

typedef struct ReadGhost {
        uint64_t floor; /* highest index committed anywhere when it was asked */
        bool done;
} ReadGhost;

typedef struct Table {
        Node nodes[NODES_MAX];
        size_t n_nodes;
        uint64_t now, seed, heartbeat_usec, election_usec;
        size_t uncommitted_bytes, cache_bytes;
        Conf first_conf;
        Letterbox *letters;
        size_t n_letters, letters_capacity;
        Entry *committed[INDEX_END];      /* truth: what was committed at each index … */
        uint64_t committed_in[INDEX_END]; /* … and the term of the leader that first knew */
        uint64_t max_commit;
        uint64_t leader_of[TERMS_MAX];
        uint64_t vote_of[NODES_MAX + 1][TERMS_MAX];
        ReadGhost *reads;
        size_t n_reads;
        uint64_t n_reads_done, n_reads_lost, n_elections, n_damages;
        bool bundles; /* a delivery is not a turn: the turn comes when the owner of the table says so */
        uint64_t (*delay)(struct Table *table, const RaftMessage *message); /* NULL: by hand */
        void (*sent)(struct Table *table, Node *node, const RaftMessage *message);
        void (*told)(struct Table *table, Node *node, const RaftUpdate *update);
} Table;

void table_init(Table *table, size_t n_nodes, size_t n_voters);
void table_deinit(Table *table);
Node *table_node(Table *table, uint64_t id);
Node *table_leader(Table *table); /* the one of the highest term, NULL when none */
const Conf *table_conf_at(Table *table, uint64_t index, uint64_t *ret_index);

void node_start(Table *table, Node *node);
/* `keep` of the batches in flight reached the disk. */
void node_crash(Table *table, Node *node, size_t keep);
/* A host that is down: its disk gives back nothing behind `index`, nor votes of terms above `term`. It
 * notices when `known`. */
void node_damage(Table *table, Node *node, uint64_t index, uint64_t term, bool known);
void node_turn(Table *table, Node *node);
void node_store(Table *table, Node *node, size_t n); /* the oldest n batches */
void node_base(Table *table, Node *node, uint64_t index);
void node_observe(Table *table, Node *node, uint64_t index);
void node_demote(Table *table, Node *node);
void node_trim(Node *node);
bool node_serve_load(Table *table, Node *node);
bool node_serve_snapshot(Table *table, Node *node, bool ok);
int node_propose(Table *table, Node *node, const void *data, uint32_t size);
int node_read(Table *table, Node *node);
int node_deliver(Table *table, size_t letter); /* and take it off the table */
void letter_drop(Table *table, size_t letter);
void letter_copy(Table *table, size_t letter, uint64_t usec);
void table_put(Table *table, const RaftMessage *message, uint64_t usec);
void table_check_logs(Table *table);
void node_show(const Node *node, FILE *to);
