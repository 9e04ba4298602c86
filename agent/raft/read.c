/* ReadIndex (thesis 6.4): a read at the commit index of the moment it came is linearizable, once a majority
 * has answered a beat that was sent *after* it came (R7). All reads of one turn share a beat. A leader does
 * not know what is committed before its no-op is (R6); a leader no more tells all that wait to ask elsewhere
 * (R8). */
#include "internal.h"
#include "../base/seen.h"

static uint64_t value_beat(const Raft *raft, uint64_t id) {
        if (id == raft->options.id)
                return UINT64_MAX;
        const Peer *peer = peer_find(raft, id);
        return peer && peer_counts(peer) ? peer->beat_acked : 0;
}

int raft_read(Raft *raft, uint64_t id, uint64_t now_usec) {
        raft->now = MAX(raft->now, now_usec);
        leader_time(raft);
        if (raft->role != RAFT_LEADER)
                return RAFT_NOT_LEADER;
        if (!raft_is_ready(raft)) {
                SIM_SEEN("raft: a read before the no-op is committed");
                return RAFT_NOT_READY;
        }
        if (raft->n_reads >= LIMIT_PENDING_READS)
                return RAFT_BUSY;

        Read *reads = raft_reserve(raft, raft->reads, &raft->reads_capacity, raft->n_reads, sizeof(Read));
        if (!reads)
                return -ENOMEM;
        raft->reads = reads;
        reads[raft->n_reads++] = (Read){.id = id, .index = raft->commit};
        return 0;
}

bool reads_are_unsent(const Raft *raft) {
        return raft->n_reads > 0 && raft->reads[raft->n_reads - 1].beat == 0;
}

void reads_sent(Raft *raft, uint64_t beat) {
        for (size_t i = raft->n_reads; i > 0 && raft->reads[i - 1].beat == 0; i--)
                raft->reads[i - 1].beat = beat;
}

/* The first `n` are decided. */
static void reads_finish(Raft *raft, size_t n, bool lost) {
        for (size_t i = 0; i < n; i++) {
                RaftReadDone *done = raft_reserve(raft, raft->done, &raft->done_capacity, raft->n_done,
                                                  sizeof(RaftReadDone));
                if (!done)
                        return;
                raft->done = done;
                done[raft->n_done++] = (RaftReadDone){
                        .id = raft->reads[i].id,
                        .lost = lost,
                        .index = lost ? 0 : raft->reads[i].index,
                };
        }
        raft->n_reads -= n;
        for (size_t i = 0; n > 0 && i < raft->n_reads; i++)
                raft->reads[i] = raft->reads[i + n];
}

void reads_confirm(Raft *raft) {
        if (raft->n_reads == 0)
                return;
        uint64_t beat = raft_quorum(raft, value_beat);
        size_t n = 0;
        while (n < raft->n_reads && raft->reads[n].beat != 0 && raft->reads[n].beat <= beat)
                n++;
        reads_finish(raft, n, false);
}

void reads_lose(Raft *raft) {
        reads_finish(raft, raft->n_reads, true);
}
