/* The input is a life of one core among three voters: letters of all kinds with fields near what is true and
 * far from it, contradictory ones among them, mixed with what a hall may tell. Peers may lie as they like:
 * nothing is asserted on, terms and commit only rise, what was committed stays, a vote is given once, and a
 * word from an earlier term changes nothing. */
#include "fuzz.h"

#include <string.h>
#include "agent/raft/raft.h"

#define COMMITS 4096
#define SEQS    64

typedef struct Life {
        FuzzReader in;
        Raft *raft;
        uint64_t now;
        RaftStatus status;
        uint64_t terms[COMMITS]; /* of what is committed, by index */
        uint64_t seqs[SEQS];
        size_t n_seqs;
        uint64_t reads;
} Life;

static void look(Life *life) {
        RaftStatus before = life->status, *after = &life->status;
        raft_status(life->raft, after);
        must(after->term >= before.term && after->commit >= before.commit);
        must(after->term > before.term || before.vote == 0 || after->vote == before.vote);
        must(after->commit <= after->last_index && after->base_index <= after->last_index);
        for (uint64_t i = after->base_index + 1; i <= after->commit && i < COMMITS; i++) {
                uint64_t term = raft_term_of(life->raft, i);
                must(term != 0 && (life->terms[i] == 0 || life->terms[i] == term));
                life->terms[i] = term;
        }
}

static void drain(Life *life) {
        RaftUpdate update;
        for (int i = 0; i < 4; i++) {
                must(raft_update(life->raft, life->now, &update) >= 0);
                look(life);
                must(update.commit <= life->status.commit);
                for (size_t m = 0; m < update.n_messages; m++)
                        must(update.messages[m].to != 1 && update.messages[m].from == 1);
                if (update.store.seq != 0 && life->n_seqs < SEQS)
                        life->seqs[life->n_seqs++] = update.store.seq;
                if (update.store.seq == 0)
                        break;
        }
}

static Entry **entries_read(Life *life, RaftMessage *message) {
        static Entry *entries[8];
        uint32_t n = fuzz_u8(&life->in) & 7;
        uint64_t term = fuzz_near(&life->in, message->log_term ?: 1);
        for (uint32_t i = 0; i < n; i++) {
                uint8_t how = fuzz_u8(&life->in);
                uint8_t bytes[CONF_BYTES_MAX];
                size_t size = how & 7;
                EntryType type = how & 64 ? ENTRY_CONF : how & 32 ? ENTRY_NOOP : ENTRY_COMMAND;
                memset(bytes, how, sizeof(bytes));
                if (type == ENTRY_CONF) {
                        Conf conf = {.n_voters = 1 + how % 4, .n_old = how & 128 ? 3 : 0};
                        for (uint32_t v = 0; v < 4; v++)
                                conf.voters[v].id = conf.old[v].id = v + 1 + (how >> 4 & 1);
                        size = conf_encode(&conf, bytes);
                        size -= how == 0xff;
                }
                entries[i] = entry_new(type, message->log_index + 1 + i, term, bytes, (uint32_t)size);
                must(entries[i]);
                if (how & 16)
                        term = fuzz_near(&life->in, term);
        }
        /* What wire lets through: rising indexes and no term of zero. */
        for (uint32_t i = 0; i < n; i++)
                if (entries[i]->term == 0)
                        entries[i]->term = 1;
        message->n_entries = n;
        return entries;
}

static void letter(Life *life, uint8_t type) {
        const RaftStatus before = life->status;
        RaftMessage message = {
                .type = (RaftMessageType)(type % 9 + 1),
                .from = 2 + fuzz_u8(&life->in) % 3,
                .to = 1,
                .term = fuzz_near(&life->in, before.term),
                .log_index = fuzz_near(&life->in, before.last_index),
                .log_term = fuzz_near(&life->in, before.last_term),
                .commit = fuzz_near(&life->in, before.commit),
                .beat = fuzz_near(&life->in, 1),
                .match = fuzz_near(&life->in, before.last_index),
                .hint_index = fuzz_near(&life->in, before.last_index),
                .hint_term = fuzz_near(&life->in, before.last_term),
                .since = fuzz_u8(&life->in) & 1 ? fuzz_near(&life->in, before.conf_index) : 0,
                .life = fuzz_near(&life->in, 1),
                .heal = fuzz_u8(&life->in) & 1 ? fuzz_near(&life->in, before.last_index) : 0,
                .damaged = fuzz_u8(&life->in) & 1,
        };
        uint8_t flags = fuzz_u8(&life->in);
        message.refused = flags & 1;
        message.force = flags & 2;
        if (message.type == RAFT_APPEND)
                message.entries = entries_read(life, &message);
        int r = raft_receive(life->raft, &message, life->now);
        must(r >= 0);
        look(life);
        if (message.term < before.term)
                must(life->status.term == before.term && life->status.vote == before.vote &&
                     life->status.last_index == before.last_index &&
                     life->status.last_term == before.last_term && life->status.commit == before.commit &&
                     life->status.role == before.role && life->status.leader == before.leader);
        for (uint32_t i = 0; i < message.n_entries; i++)
                entry_unref(message.entries[i]);
}

static void hall(Life *life, uint8_t what) {
        FuzzReader *in = &life->in;
        switch (what & 7) {
        case 0:
                life->now += UINT64_C(50000) * (1 + fuzz_u8(in) % 40);
                must(raft_tick(life->raft, life->now) >= 0);
                return;
        case 1:
        case 2:
                if (life->n_seqs > 0) {
                        size_t n = 1 + fuzz_u8(in) % life->n_seqs;
                        must(raft_stored(life->raft, life->seqs[n - 1], life->now) >= 0);
                        life->n_seqs -= n;
                        memmove(life->seqs, life->seqs + n, life->n_seqs * sizeof(life->seqs[0]));
                }
                return;
        case 3: {
                Entry *entry = entry_new(ENTRY_COMMAND, 0, 0, "hello", fuzz_u8(in) % 6);
                must(entry && raft_propose(life->raft, entry, life->now) >= 0);
                entry_unref(entry);
                return;
        }
        case 4: {
                uint64_t voters[3] = {1 + fuzz_u8(in) % 3, 2 + fuzz_u8(in) % 3, 4};
                must(raft_change(life->raft, voters, 1 + fuzz_u8(in) % 3, life->now) >= 0);
                return;
        }
        case 5:
                must(raft_read(life->raft, ++life->reads, life->now) >= 0);
                return;
        case 6:
                must(raft_transfer(life->raft, fuzz_u8(in) % 5, life->now) >= 0);
                return;
        case 7:
                if (what & 8)
                        must(raft_silent(life->raft, 2 + fuzz_u8(in) % 3, life->now) >= 0);
                else if (what & 16)
                        must(raft_snapshot_done(life->raft, 2 + fuzz_u8(in) % 2, life->status.commit,
                                                what & 32, life->now) >= 0);
                else if (what & 64)
                        raft_release(life->raft, life->status.commit);
                else
                        must(raft_loaded(life->raft, 2 + fuzz_u8(in) % 2, NULL, 0, life->now) >= 0);
                return;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static Life life;
        life = (Life){.in = {data, size}, .now = 1000000};
        RaftOptions options = {
                .id = 1,
                .seed = fuzz_u8(&life.in),
                .heartbeat_usec = 100000,
                .election_usec = 600000,
                .cache_bytes = 4096,
                .uncommitted_bytes = 4096,
        };
        Conf conf = {.n_voters = 3, .voters = {{.id = 1}, {.id = 2}, {.id = 3}}};
        must(raft_new(&life.raft, &options) == 0);
        raft_restore(life.raft, 1, 0, 0, 0, &conf, 0);
        must(raft_start(life.raft, 0, life.now) == 0);
        raft_status(life.raft, &life.status);
        while (life.in.size > 0) {
                uint8_t what = fuzz_u8(&life.in);
                if (what & 128)
                        letter(&life, what & 127);
                else
                        hall(&life, what);
                drain(&life);
                look(&life);
        }
        raft_free(life.raft);
        return 0;
}

void fuzz_seeds(FuzzSeed seed) {
        /* Ticks until it campaigns, votes for it, its own entry stored, proposals, answers. */
        static const uint8_t leads[] = {7, 0, 39,  0,   39, 129, 0, 5, 4, 4, 4, 4, 4, 4, 4, 0, 0,
                                        1, 0, 131, 0,   4,  4,   4, 4, 4, 4, 4, 4, 0, 0, 1, 0, 3,
                                        5, 1, 0,   133, 0,  4,   4, 4, 4, 4, 5, 4, 4, 0, 0};
        static const uint8_t follows[] = {3, 132, 0, 5,   4, 4, 4, 4, 4, 4, 4, 0, 0, 3,  4, 1,   2,
                                          3, 1,   0, 134, 0, 4, 4, 4, 6, 4, 4, 4, 4, 0,  0, 132, 1,
                                          6, 3,   3, 4,   4, 4, 4, 4, 0, 0, 2, 4, 1, 17, 4, 1,   0};
        static const uint8_t edges[] = {3, 132, 0, 165, 165, 165, 165, 165, 165, 165, 165, 0,   0,
                                        7, 165, 1, 2,   3,   65,  80,  134, 1,   5,   165, 165, 165,
                                        4, 4,   4, 4,   0,   0,   130, 1,   5,   192, 4,   4,   4};
        seed("leads", leads, sizeof(leads));
        seed("follows", follows, sizeof(follows));
        seed("edges", edges, sizeof(edges));
}
