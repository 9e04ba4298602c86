/* The drain: what the events of a turn brought about, in one piece. Appends are built here and not when
 * something is proposed, so that all proposals of a turn travel in one append per peer. */
#include "internal.h"

#include <string.h>

/* Entries are referenced until the next drain; the pool may move while it grows, so `entries` holds an
 * offset until all messages are built. */
void append_build(Raft *raft, RaftMessage message, Entry **entries, size_t n) {
        size_t first = raft->n_pool;
        for (size_t i = 0; i < n; i++) {
                Entry **pool =
                        raft_reserve(raft, raft->pool, &raft->pool_capacity, raft->n_pool, sizeof(Entry *));
                if (!pool)
                        return;
                raft->pool = pool;
                pool[raft->n_pool++] = entry_ref(entries[i]);
        }
        message.n_entries = (uint32_t)n;
        message.entries = (Entry **)(first * sizeof(Entry *));
        message_send(raft, message);
}

static void forget_last_update(Raft *raft) {
        for (size_t i = 0; i < raft->n_pool; i++)
                entry_unref(raft->pool[i]);
        raft->n_pool = 0;
        raft->n_messages = 0;
}

/* While a base is on its way to the disk nothing is handed out; and the term may rise by it. A vote in the
 * term before was true when it was cast and helps nobody now: no vote leaves behind the disk's newer term.
 */
static void old_votes_drop(Raft *raft) {
        size_t n = 0;
        for (size_t i = 0; i < raft->n_queue; i++) {
                const RaftMessage *m = raft->queue + i;
                bool vote = m->type == RAFT_VOTE || (m->type == RAFT_VOTE_REPLY && !m->refused);
                if (!vote || m->term >= raft->term)
                        raft->queue[n++] = *m;
        }
        raft->n_queue = n;
}

static void messages_hand_out(Raft *raft, RaftUpdate *ret) {
        old_votes_drop(raft);
        RaftMessage *messages = raft->queue;
        size_t capacity = raft->queue_capacity;

        raft->n_messages = raft->n_queue;
        raft->queue = raft->messages;
        raft->queue_capacity = raft->messages_capacity;
        raft->n_queue = 0;
        raft->messages = messages;
        raft->messages_capacity = capacity;
        for (size_t i = 0; i < raft->n_messages; i++) {
                RaftMessage *m = messages + i;
                m->entries = m->n_entries > 0 ? raft->pool + (uintptr_t)m->entries / sizeof(Entry *) : NULL;
        }
        ret->messages = messages;
        ret->n_messages = raft->n_messages;
}

static void reads_hand_out(Raft *raft, RaftUpdate *ret) {
        RaftReadDone *done = raft->done;
        size_t capacity = raft->done_capacity;

        ret->reads = done;
        ret->n_reads = raft->n_done;
        raft->done = raft->done_out;
        raft->done_capacity = raft->done_out_capacity;
        raft->n_done = 0;
        raft->done_out = done;
        raft->done_out_capacity = capacity;
}

static void wants_hand_out(Raft *raft, RaftUpdate *ret) {
        ret->loads = raft->loads;
        ret->snapshots = raft->snapshots;
        for (size_t i = 0; i < raft->n_peers; i++) {
                Peer *peer = raft->peers + i;
                if (peer->load_wanted)
                        raft->loads[ret->n_loads++] = (RaftLoad){
                                .peer = peer->id,
                                .from = peer->load_from,
                                .max_entries = LIMIT_APPEND_ENTRIES,
                                .max_bytes = LIMIT_APPEND_BYTES,
                        };
                if (peer->snapshot_wanted)
                        raft->snapshots[ret->n_snapshots++] = peer->id;
                peer->load_wanted = peer->snapshot_wanted = false;
        }
}

static bool role_changed(Raft *raft) {
        bool committed = raft_conf_index(raft) <= raft->commit;
        bool halted = damage_halts(raft);
        bool same = raft->seen.role == raft->role && raft->seen.term == raft->term &&
                    raft->seen.leader == raft->leader && raft->seen.conf_index == raft_conf_index(raft) &&
                    raft->seen.conf_committed == committed && raft->seen.damaged == raft->damaged &&
                    raft->seen.lost == raft->lost && raft->seen.halted == halted;
        raft->seen.role = raft->role;
        raft->seen.term = raft->term;
        raft->seen.leader = raft->leader;
        raft->seen.conf_index = raft_conf_index(raft);
        raft->seen.conf_committed = committed;
        raft->seen.damaged = raft->damaged;
        raft->seen.lost = raft->lost;
        raft->seen.halted = halted;
        return !same;
}

static uint64_t next_deadline(const Raft *raft) {
        switch (raft->role) {
        case RAFT_PASSIVE:
                return USEC_INFINITY;
        case RAFT_FOLLOWER:
        case RAFT_PRECANDIDATE:
        case RAFT_CANDIDATE:
                return raft->election_deadline;
        case RAFT_LEADER:
                return leader_deadline(raft);
        }
        assert(!"unreachable");
        return 0;
}

int raft_update(Raft *raft, uint64_t now_usec, RaftUpdate *ret) {
        assert(raft->started);

        *ret = (RaftUpdate){};
        raft->now = MAX(raft->now, now_usec);
        leader_time(raft);
        forget_last_update(raft);
        logview_evict(&raft->log, raft->options.cache_bytes, raft->durable + 1);
        leader_beats(raft);
        leader_appends(raft);
        store_release_ack(raft);
        store_build(raft, &ret->store);
        if (raft->failed)
                return -ENOMEM;

        messages_hand_out(raft, ret);
        reads_hand_out(raft, ret);
        wants_hand_out(raft, ret);
        ret->commit = raft->commit;
        ret->role_changed = role_changed(raft);
        ret->deadline_usec = next_deadline(raft);
        return 0;
}
