/* Disk before word. Whatever the core promises (a vote, an acknowledgement) rests on a batch of the log, and
 * leaves only when that batch is stored. Batches are numbered and never twice, and each remembers how far
 * the log is durable once it is stored; a truncation lowers that in those still in flight, so the late
 * completion of a write that was replaced counts for nothing (R23, "ABA"). */
#include "internal.h"
#include "../base/seen.h"

/* The only place where a vote is forgotten, and only because its term is over (R3). */
void set_term(Raft *raft, uint64_t term) {
        assert(term >= raft->term);
        if (term == raft->term)
                return;
        raft->term = term;
        raft->vote = 0;
        raft->hard_dirty = true;
        raft->owe_vote = false;
        raft->requests_held = false;
        raft->ack = (Ack){};
        raft->heal = 0; /* told by the leader of the term that is over */
}

void set_vote(Raft *raft, uint64_t vote) {
        assert(vote != 0 && (raft->vote == 0 || raft->vote == vote));
        if (raft->vote == vote)
                return;
        raft->vote = vote;
        raft->hard_dirty = true;
}

bool store_hard_is_durable(const Raft *raft) {
        return !raft->hard_dirty && raft->hard_seq <= raft->stored_seq;
}

/* A batch has been with the disk for longer than two election timeouts (R19). */
bool store_is_stuck(const Raft *raft) {
        return raft->n_batches > 0 && raft->now - raft->batches[0].usec > 2 * raft->options.election_usec;
}

void store_truncate(Raft *raft, uint64_t from) {
        SIM_SEEN("raft: a tail is cut off");
        assert(from > raft->commit);

        if (from < raft->next_store) {
                raft->truncate_from = raft->truncate_from ? MIN(raft->truncate_from, from) : from;
                raft->next_store = from;
        }
        raft->durable = MIN(raft->durable, from - 1);
        raft->ack.match = MIN(raft->ack.match, from - 1);
        if (raft->n_batches > 0)
                SIM_SEEN("raft: a truncation meets batches in flight");
        for (size_t i = 0; i < raft->n_batches; i++)
                raft->batches[i].last = MIN(raft->batches[i].last, from - 1);
        logview_truncate(&raft->log, from);
}

/* The log was emptied behind a durable base. */
void store_rebase(Raft *raft) {
        raft->next_store = raft->log.last + 1;
        raft->truncate_from = 0;
        raft->durable = raft->log.last;
        raft->ack = (Ack){};
        for (size_t i = 0; i < raft->n_batches; i++)
                raft->batches[i].last = 0;
}

void store_complete(Raft *raft, uint64_t seq) {
        assert(seq <= raft->store_seq);

        size_t n = 0;
        for (; n < raft->n_batches && raft->batches[n].seq <= seq; n++)
                raft->durable = MAX(raft->durable, raft->batches[n].last);
        raft->n_batches -= n;
        for (size_t i = 0; n > 0 && i < raft->n_batches; i++)
                raft->batches[i] = raft->batches[i + n];
        raft->stored_seq = MAX(raft->stored_seq, seq);
        if (raft->heal_seq != 0 && raft->heal_seq <= raft->stored_seq) {
                raft->damaged = false;
                raft->heal = raft->heal_seq = 0;
                election_draw(raft);
        }
}

/* Follower: say how far the log is equal *and* on disk; what is not yet on disk stays owed. */
void store_release_ack(Raft *raft) {
        Ack *ack = &raft->ack;
        if (!ack->owed || !store_hard_is_durable(raft))
                return;

        uint64_t match = MIN(ack->match, raft->durable);
        bool whole = match == ack->match;
        if (!whole && match > ack->sent)
                SIM_SEEN("raft: half an append is durable and acknowledged");
        if (!whole && match <= ack->sent)
                return;
        message_send(raft, (RaftMessage){
                                   .type = RAFT_APPEND_REPLY,
                                   .to = ack->to,
                                   .since = ack->since,
                                   .log_index = ack->log_index,
                                   .match = match,
                           });
        ack->sent = match;
        ack->owed = !whole;
}

static bool batch_push(Raft *raft, uint64_t seq) {
        Batch *batches =
                raft_reserve(raft, raft->batches, &raft->batches_capacity, raft->n_batches, sizeof(Batch));
        if (!batches)
                return false;
        raft->batches = batches;
        batches[raft->n_batches++] = (Batch){.seq = seq, .last = raft->log.last, .usec = raft->now};
        return true;
}

static size_t entries_collect(Raft *raft) {
        size_t n = 0;
        for (uint64_t i = raft->next_store; i <= raft->log.last; i++) {
                Entry **entries = raft_reserve(raft, raft->store_entries, &raft->store_entries_capacity, n,
                                               sizeof(Entry *));
                if (!entries)
                        return 0;
                raft->store_entries = entries;
                entries[n++] = logview_entry(&raft->log, i);
                assert(entries[n - 1]);
        }
        return n;
}

void store_build(Raft *raft, RaftStore *ret) {
        *ret = (RaftStore){};
        bool healed = damage_is_over(raft);
        if (healed) {
                if (raft->vote == 0) /* perhaps it was given, and forgotten */
                        set_vote(raft, raft->options.id);
                raft->hard_dirty = true;
        }
        if (!raft->hard_dirty && raft->truncate_from == 0 && raft->next_store > raft->log.last)
                return;

        size_t n = entries_collect(raft);
        if (raft->failed || !batch_push(raft, raft->store_seq + 1))
                return;
        raft->store_seq++;
        *ret = (RaftStore){
                .seq = raft->store_seq,
                .truncate_from = raft->truncate_from,
                .entries = raft->store_entries,
                .n_entries = n,
                .hard_state = raft->hard_dirty,
                .healed = healed,
                .term = raft->term,
                .vote = raft->vote,
        };
        if (healed)
                raft->heal_seq = raft->store_seq;
        if (raft->hard_dirty)
                raft->hard_seq = raft->store_seq;
        raft->hard_dirty = false;
        raft->truncate_from = 0;
        raft->next_store = raft->log.last + 1;
}
