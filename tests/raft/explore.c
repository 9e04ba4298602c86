/* The core in every situation of a small world: breadth first, until nothing new is found. Where the random
 * test goes far on few roads, this one goes everywhere nearby, and the first bad state it meets is one of
 * the nearest: its path is printed.
 *
 * Two ideas make it fast enough:
 *  - Hosts touch each other by letters only. So a state of the world is a tuple of numbers (which state each
 *    host is in, which letters were ever sent), and the core itself runs only once per (state of a host,
 *    choice), from the host's last start, by repeating its choices; the core needs no copying.
 *  - Letters stay on the table after they were taken. That one rule is loss (never taken), doubling (taken
 *    twice) and overtaking (taken late) together, and worlds that differ only in the order of what happened
 *    become the same. With --once a letter is taken at most once, which reaches deeper.
 *
 * Choices: take a letter, store the oldest batch, crash with any part of the batches on disk and start
 * again, rot (a crash, and the end of the log on disk is gone, the vote too), silence (a follower's timeout;
 * a leader that hears nobody), propose, change the voters, hand over, read, beat. Clocks are the hosts' own
 * and unrelated. Beats that ask for an answer are lost unless --beats allows some, or --reads needs them.
 *
 * What keeps the world small, each only by leaving out what promises nothing or by losing letters:
 *  - pre-votes are granted out of the air (safety must not rest on them) unless --prevote;
 *  - a vote is asked for when the leader was not heard for a while, so stickiness never refuses;
 *  - letters of terms that the receiver has left, and requests for a vote that is given, are lost unless
 *    --stale.
 *
 * What the checks remember of the past (who led a term, what was committed) is part of the state. Elapsed
 * times count only as far as the core can tell them apart: the election timeout is one microsecond. */
#include "agent/raft/internal.h"

#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
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

static Bounds bounds = {
        .voters = 3, .terms = 2, .entries = 3, .proposals = 1, .depth = 1000, .states = 100000000};
static Conf first_conf;
static size_t n_hosts;

/* ── Tables ──────────────────────────────────────────────────────────────────────────────────────────────
 */

/* From 128 bits to a number; grows, never forgets. */
typedef struct Slot {
        XXH128_hash_t key;
        uint32_t value; /* + 1; 0: free */
} Slot;

typedef struct Map {
        Slot *slots;
        size_t capacity, n;
} Map;

static void *must(void *p) {
        if (!p) {
                fprintf(stderr, "out of memory\n");
                _exit(2);
        }
        return p;
}

/* Room for item `n` of an array that doubles. */
#define GROW(array, n)                                                                              \
        do {                                                                                        \
                if ((n) == 0 || (((n) & ((n)-1)) == 0))                                             \
                        (array) = must(realloc((array), ((n) ? 2 * (n) : 1) * sizeof((array)[0]))); \
        } while (false)

static Slot *map_slot(const Map *map, XXH128_hash_t key) {
        size_t i = (key.low64 ^ key.high64) & (map->capacity - 1);
        while (map->slots[i].value != 0 && !XXH128_isEqual(map->slots[i].key, key))
                i = (i + 1) & (map->capacity - 1);
        return map->slots + i;
}

/* The value of the key, `*ret_new` when it was put there now. */
static uint32_t map_put(Map *map, XXH128_hash_t key, uint32_t value, bool *ret_new) {
        if (map->n * 3 >= map->capacity * 2) {
                Map more = {.capacity = MAX(map->capacity * 2, (size_t)1024), .n = map->n};
                more.slots = must(calloc(more.capacity, sizeof(Slot)));
                for (size_t i = 0; i < map->capacity; i++)
                        if (map->slots[i].value != 0)
                                *map_slot(&more, map->slots[i].key) = map->slots[i];
                free(map->slots);
                *map = more;
        }
        Slot *slot = map_slot(map, key);
        *ret_new = slot->value == 0;
        if (*ret_new) {
                *slot = (Slot){.key = key, .value = value + 1};
                map->n++;
        }
        return slot->value - 1;
}

static Entry *entries[256]; /* number 0 is none */
static size_t n_entries = 1;
static RaftMessage *letters;
static size_t n_letters;
static Map letter_map;
static Local *locals;
static size_t n_locals;
static Map local_map;
static Transition *transitions;
static size_t n_transitions;
static Map transition_map;
static uint16_t *outs;
static size_t n_outs;
static Step *steps; /* how each state was first reached */
static size_t n_steps;
static Map world_map;
static Step current; /* what is tried now */

static uint8_t entry_number(Entry *entry) {
        for (size_t i = 1; i < n_entries; i++) {
                const Entry *e = entries[i];
                if (e == entry ||
                    (e->index == entry->index && e->term == entry->term && e->type == entry->type &&
                     e->size == entry->size && memcmp(e->data, entry->data, e->size) == 0))
                        return (uint8_t)i;
        }
        assert(n_entries < ELEMENTSOF(entries));
        entries[n_entries] = entry_ref(entry);
        return (uint8_t)n_entries++;
}

/* Canonical bytes of something. */
typedef struct Canon {
        uint8_t bytes[2048];
        size_t n;
} Canon;

static void put(Canon *canon, uint64_t value) {
        assert(value < 255 && canon->n < sizeof(canon->bytes));
        canon->bytes[canon->n++] = (uint8_t)value;
}

static void put_image(Canon *canon, const Image *image) {
        put(canon, image->term);
        put(canon, image->vote);
        put(canon, image->n_entries);
        for (size_t i = 0; i < image->n_entries; i++)
                put(canon, image->entries[i]);
        put(canon, image->life);
        put(canon, image->damaged);
        for (size_t i = 0; i < INDEXES; i++)
                put(canon, image->had[i]);
}

static uint16_t letter_number(const RaftMessage *m) {
        Canon canon = {};
        const uint64_t fields[] = {m->type,      m->from,   m->to,      m->term,  m->log_index,
                                   m->log_term,  m->commit, m->beat,    m->match, m->hint_index,
                                   m->hint_term, m->since,  m->refused, m->force, m->n_entries,
                                   m->life,      m->heal,   m->damaged};
        for (size_t i = 0; i < ELEMENTSOF(fields); i++)
                put(&canon, fields[i]);
        for (size_t i = 0; i < m->n_entries; i++)
                put(&canon, entry_number(m->entries[i]));

        bool new;
        uint32_t n = map_put(&letter_map, XXH3_128bits(canon.bytes, canon.n), (uint32_t)n_letters, &new);
        if (new) {
                assert(n_letters < UINT16_MAX);
                GROW(letters, n_letters);
                RaftMessage *letter = letters + n_letters++;
                *letter = *m;
                letter->entries = must(calloc(m->n_entries + 1, sizeof(Entry *)));
                for (size_t i = 0; i < m->n_entries; i++)
                        letter->entries[i] = entries[entry_number(m->entries[i])];
        }
        return (uint16_t)n;
}

/* ── One host ────────────────────────────────────────────────────────────────────────────────────────────
 */

static void host_bad(Host *host, const char *what) {
        if (!host->bad)
                host->bad = what;
}

static void image_write(Host *host, const Pending *pending) {
        Image *disk = &host->disk;
        if (pending->hard_state) {
                if (pending->term < disk->term ||
                    (pending->term == disk->term && disk->vote != 0 && disk->vote != pending->vote))
                        host_bad(host, "the vote on disk changes within its term");
                disk->term = (uint8_t)pending->term;
                disk->vote = (uint8_t)pending->vote;
        }
        if (pending->healed) {
                if (!disk->damaged || pending->vote == 0)
                        host_bad(host, "whole again without damage, or with a vote left");
                disk->damaged = false;
        }
        if (pending->truncate_from != 0 && disk->n_entries >= pending->truncate_from)
                disk->n_entries = (uint8_t)(pending->truncate_from - 1);
        for (size_t i = 0; i < pending->n_entries; i++) {
                if (entries[pending->entries[i]]->index != disk->n_entries + 1U)
                        host_bad(host, "the log on disk has a hole");
                disk->entries[disk->n_entries++] = pending->entries[i];
        }
}

/* No promise outruns the disk. */
static void check_promise(Host *host, const RaftMessage *m) {
        const Image *disk = &host->disk;
        if (m->type == RAFT_VOTE_REPLY && !m->refused && (disk->term != m->term || disk->vote != m->to))
                host_bad(host, "a vote is told before it is on disk");
        if (m->type == RAFT_VOTE &&
            (disk->term != m->term || disk->vote != host->id || disk->n_entries < m->log_index))
                host_bad(host, "a vote is asked for before the own one is on disk");
        if (disk->damaged && (m->type == RAFT_VOTE || (m->type == RAFT_VOTE_REPLY && !m->refused)))
                host_bad(host, "a damaged host votes");
        if (m->type == RAFT_APPEND_REPLY && !m->refused) {
                if (disk->n_entries < m->match || disk->term < m->term)
                        host_bad(host, "entries are acknowledged before they are on disk");
                else if (m->match > 0 &&
                         entries[disk->entries[m->match - 1]]->term != raft_term_of(host->raft, m->match))
                        host_bad(host, "other entries are acknowledged than those on disk");
        }
}

static void note_store(Host *host, const RaftStore *store) {
        if (store->seq == 0)
                return;
        assert(host->n_pending < PENDING && store->n_entries <= INDEXES);
        Pending *pending = host->pending + host->n_pending++;
        *pending = (Pending){
                .seq = store->seq,
                .truncate_from = store->truncate_from,
                .term = store->term,
                .vote = store->vote,
                .hard_state = store->hard_state,
                .healed = store->healed,
                .n_entries = store->n_entries,
        };
        for (size_t i = 0; i < store->n_entries; i++)
                pending->entries[i] = entry_number(store->entries[i]);
}

static bool beats_matter(void) {
        return bounds.beats > 0 || bounds.reads > 0;
}

/* Drain; letters are kept when `listen`. */
static void host_turn(Host *host, bool listen) {
        RaftUpdate update;
        int r = raft_update(host->raft, host->now, &update);
        assert(r == 0 && update.n_loads == 0 && update.n_snapshots == 0);
        host->deadline = update.deadline_usec;
        note_store(host, &update.store);
        for (size_t i = 0; i < update.n_messages && listen; i++) {
                const RaftMessage *m = update.messages + i;
                check_promise(host, m);
                if (m->to > n_hosts || (m->beat != 0 && !beats_matter()) ||
                    (m->type == RAFT_PREVOTE && !bounds.prevote))
                        continue;
                GROW(outs, n_outs);
                outs[n_outs] = letter_number(m);
                n_outs++;
        }
        if (update.n_reads > 0)
                host->read = update.reads[0].lost ? 1 : (uint8_t)(update.reads[0].index + 2);
        raft_release(host->raft, update.commit);
}

static void host_start(Host *host, bool listen) {
        RaftOptions options = {
                .id = host->id,
                .seed = host->id,
                .life = host->disk.life,
                .damaged = host->disk.damaged,
                .heartbeat_usec = 1,
                .election_usec = 1,
                .cache_bytes = LIMIT_CACHE_BYTES,
                .uncommitted_bytes = LIMIT_UNCOMMITTED_BYTES,
        };
        int r = raft_new(&host->raft, &options);
        assert(r == 0);
        raft_restore(host->raft, host->disk.term, host->disk.vote, 0, 0, &first_conf, 0);
        for (size_t i = 0; i < host->disk.n_entries; i++) {
                r = raft_restore_entry(host->raft, entries[host->disk.entries[i]], true);
                assert(r == 0);
        }
        host->now = 10;
        r = raft_start(host->raft, 0, host->now);
        assert(r == 0);
        /* Who joins has a base as well: it was asked to vote before the change begins. */
        r = raft_base(host->raft, 0, 0, &first_conf, 0, host->now);
        assert(r >= 0);
        host_turn(host, listen);
}

static void host_crash(Host *host, size_t keep) {
        for (size_t i = 0; i < keep; i++)
                image_write(host, host->pending + i);
        host->n_pending = 0;
        host->raft = raft_free(host->raft);
}

/* The vote is forgotten with the entries, the term is not: it is in each header of the log. */
static void host_rot(Host *host, size_t lose) {
        Image *disk = &host->disk;
        host_crash(host, 0);
        for (; lose > 0; lose--) {
                disk->n_entries--;
                disk->had[disk->n_entries] = disk->entries[disk->n_entries];
        }
        disk->vote = 0;
        disk->damaged = true;
        disk->life++;
}

static bool is_dead(const RaftMessage *m, uint64_t term, uint64_t vote) {
        bool is_reply =
                m->type == RAFT_VOTE_REPLY || m->type == RAFT_APPEND_REPLY || m->type == RAFT_BEAT_REPLY;
        if (m->term < term && is_reply)
                return true;
        if (bounds.stale)
                return false;
        return m->term < term || (m->type == RAFT_VOTE && m->term == term && vote != 0 && vote != m->from);
}

/* A timeout, and all would grant the pre-vote. */
static void host_silence(Host *host) {
        bool leads = host->raft->role == RAFT_LEADER;
        host->now = leads ? host->now + ELAPSED_CAP : MAX(host->now, host->deadline);
        raft_tick(host->raft, host->now);
        for (uint64_t id = 1; id <= n_hosts && !bounds.prevote; id++) {
                RaftMessage reply = {
                        .type = RAFT_PREVOTE_REPLY,
                        .from = id,
                        .to = host->id,
                        .term = host->raft->term + 1,
                };
                if (id != host->id && host->raft->role == RAFT_PRECANDIDATE)
                        raft_receive(host->raft, &reply, host->now);
        }
}

static void host_take(Host *host, const RaftMessage *m) {
        if (m->type == RAFT_VOTE && host->raft->role != RAFT_LEADER && host->raft->heard &&
            host->now == host->raft->heard_usec)
                host->now++;
        raft_receive(host->raft, m, host->now);
}

static void host_store(Host *host) {
        uint64_t seq = host->pending[0].seq;
        image_write(host, host->pending);
        host->n_pending--;
        memmove(host->pending, host->pending + 1, host->n_pending * sizeof(Pending));
        raft_stored(host->raft, seq, host->now);
}

static void host_choose(Host *host, uint32_t choice, bool listen) {
        if (choice >= CHOICE_TAKE)
                host_take(host, letters + (choice - CHOICE_TAKE));
        else if (choice >= CHOICE_CRASH) {
                if (choice >= CHOICE_ROT)
                        host_rot(host, choice - CHOICE_ROT);
                else
                        host_crash(host, choice - CHOICE_CRASH);
                host_start(host, listen);
                return;
        } else if (choice == CHOICE_SILENCE)
                host_silence(host);
        else if (choice == CHOICE_BEAT) {
                host->now = MAX(host->now, host->deadline);
                raft_tick(host->raft, host->now);
        } else if (choice == CHOICE_STORE)
                host_store(host);
        else if (choice == CHOICE_CHANGE)
                raft_change(host->raft, bounds.change, bounds.n_change, host->now);
        else if (choice == CHOICE_READ)
                raft_read(host->raft, 1, host->now);
        else if (choice == CHOICE_TRANSFER)
                raft_transfer(host->raft, 0, host->now);
        else if (choice == CHOICE_PROPOSE) {
                uint8_t data = (uint8_t)host->id;
                _cleanup_(entry_unrefp) Entry *entry =
                        must(entry_new(ENTRY_COMMAND, 0, 0, &data, sizeof(data)));
                raft_propose(host->raft, entry, host->now);
        }
        host_turn(host, listen);
}

static void put_elapsed(Canon *canon, uint64_t now, uint64_t then) {
        put(canon, MIN(now - then, (uint64_t)ELAPSED_CAP));
}

static void put_left(Canon *canon, uint64_t now, uint64_t due, uint64_t cap) {
        put(canon, due > now ? MIN(due - now, cap) : 0);
}

static void put_peer(Canon *canon, const Raft *raft, const Peer *peer) {
        const uint64_t fields[] = {peer->id,       peer->since,         peer->state,       peer->match,
                                   peer->next,     peer->paused,        peer->empty_probe, peer->verify,
                                   peer->told,     peer->n_inflight,    peer->load_from,   peer->load_wanted,
                                   peer->n_loaded, peer->leaving_index, peer->life,        peer->damaged,
                                   peer->heal};
        for (size_t i = 0; i < ELEMENTSOF(fields); i++)
                put(canon, fields[i]);
        for (size_t i = 0; i < peer->n_inflight; i++)
                put(canon, peer->inflight[(peer->inflight_first + i) % LIMIT_INFLIGHT_APPENDS].last);
        put_elapsed(canon, raft->now, peer->ack_usec);
        put_elapsed(canon, raft->now, peer->verify_usec);
        put_elapsed(canon, raft->now, peer->contact_usec);
        put_left(canon, raft->now, peer->leaving_usec, 12);
        if (beats_matter()) { /* else no answer to a beat ever comes */
                put(canon, peer->probe_beat);
                put(canon, peer->watch_beat);
                put(canon, peer->watch_last);
                put(canon, peer->beat_acked);
        }
}

static void put_leader(Canon *canon, const Raft *raft) {
        put(canon, raft->term_start);
        put(canon, raft->transfer);
        put(canon, raft->transfer_sent);
        put_left(canon, raft->now, raft->transfer ? raft->transfer_deadline : 0, 2);
        put_left(canon, raft->now, raft->beat_due_usec, 2);
        put(canon, raft->n_reads);
        for (size_t i = 0; i < raft->n_reads; i++) {
                put(canon, raft->reads[i].index);
                put(canon, raft->reads[i].beat);
        }
        put(canon, raft->n_peers);
        for (size_t i = 0; i < raft->n_peers; i++)
                put_peer(canon, raft, raft->peers + i);
}

static void put_core(Canon *canon, const Raft *raft) {
        bool leads = raft->role == RAFT_LEADER;
        const uint64_t fields[] = {
                raft->role,       raft->term,          raft->vote,       raft->leader,
                raft->heard,      raft->quick,         raft->force,      raft->requests_held,
                raft->owe_vote,   raft->keeps_log,     raft->commit,     raft->durable,
                raft->next_store, raft->truncate_from, raft->hard_dirty, raft->ack.owed,
                raft->ack.to,     raft->ack.since,     raft->ack.match,  raft->ack.log_index,
                raft->ack.sent,   raft->n_batches,     raft->log.last,   raft->damaged,
                raft->heal};
        for (size_t i = 0; i < ELEMENTSOF(fields); i++)
                put(canon, fields[i]);
        put_elapsed(canon, raft->now, raft->heard ? raft->heard_usec : 0);
        put(canon, raft->hard_seq > raft->stored_seq ? raft->hard_seq - raft->stored_seq : 0);
        put(canon, raft->heal_seq > raft->stored_seq ? raft->heal_seq - raft->stored_seq : 0);
        for (size_t i = 0; i < raft->n_batches; i++) {
                put(canon, raft->batches[i].seq - raft->stored_seq);
                put(canon, raft->batches[i].last);
                put_elapsed(canon, raft->now, raft->batches[i].usec);
        }
        for (uint64_t i = 1; i <= raft->log.last; i++)
                put(canon, entry_number(raft_entry(raft, i)));
        for (uint64_t id = 1; id <= n_hosts; id++) { /* ballots count only while a campaign goes on */
                uint64_t ballot = 0;
                for (size_t i = 0; i < raft->n_ballots; i++)
                        if (raft->ballots[i].id == id)
                                ballot = raft->ballots[i].granted ? 2 : 1;
                put(canon, raft->role == RAFT_PRECANDIDATE || raft->role == RAFT_CANDIDATE ? ballot : 0);
        }
        if (leads)
                put_leader(canon, raft);
        else
                put_left(canon, raft->now, raft->election_deadline, 2);
        if (beats_matter())
                put(canon, raft->beat);
}

static uint32_t local_number(const Host *host, uint32_t parent, uint32_t choice) {
        const Raft *raft = host->raft;
        Canon canon = {};
        put(&canon, host->id);
        put_core(&canon, raft);
        put_image(&canon, &host->disk);
        for (size_t i = 0; i < host->n_pending; i++) {
                const Pending *pending = host->pending + i;
                put(&canon, pending->truncate_from);
                put(&canon, pending->hard_state);
                put(&canon, pending->healed);
                put(&canon, pending->term);
                put(&canon, pending->vote);
                put(&canon, pending->n_entries);
                for (size_t k = 0; k < pending->n_entries; k++)
                        put(&canon, pending->entries[k]);
        }
        bool new;
        uint32_t n = map_put(&local_map, XXH3_128bits(canon.bytes, canon.n), (uint32_t)n_locals, &new);
        if (!new)
                return n;

        uint64_t conf_index = raft_conf_index(raft);
        Local local = {
                .parent = parent,
                .choice = choice,
                .id = (uint8_t)host->id,
                .role = (uint8_t)raft->role,
                .term = (uint8_t)raft->term,
                .vote = (uint8_t)raft->vote,
                .commit = (uint8_t)raft->commit,
                .last = (uint8_t)raft->log.last,
                .n_pending = (uint8_t)host->n_pending,
                .conf_committed = conf_index <= raft->commit,
                .disk = host->disk,
        };
        for (uint64_t i = 1; i <= raft->log.last; i++)
                local.log[i - 1] = entry_number(raft_entry(raft, i));
        GROW(locals, n_locals);
        locals[n_locals++] = local;
        return n;
}

/* A host in this state, by the way it first came there, from its last start. */
static void host_replay(Host *host, uint32_t local) {
        static uint32_t chain[CHAIN];
        size_t n = 0;
        uint32_t at = local;
        for (; locals[at].choice != CHOICE_START &&
               (locals[at].choice < CHOICE_CRASH || locals[at].choice >= CHOICE_TAKE);
             at = locals[at].parent) {
                assert(n < CHAIN);
                chain[n++] = locals[at].choice;
        }
        *host = (Host){.id = locals[at].id, .disk = locals[at].disk};
        host_start(host, false);
        while (n > 0)
                host_choose(host, chain[--n], false);
}

static bool is_outside(const Raft *raft) {
        return raft->term > bounds.terms || raft->log.last > bounds.entries;
}

static const Transition *transition(uint32_t local, uint32_t choice) {
        bool new;
        uint64_t both[2] = {local, choice};
        uint32_t n =
                map_put(&transition_map, XXH3_128bits(both, sizeof(both)), (uint32_t)n_transitions, &new);
        if (!new)
                return transitions + n;

        Host host;
        host_replay(&host, local);
        host.read = 0;
        Transition t = {.first_out = (uint32_t)n_outs};
        host_choose(&host, choice, true);
        t.bad = host.bad;
        t.read = host.read;
        t.outside = is_outside(host.raft);
        if (t.outside)
                n_outs = t.first_out;
        else
                t.local = local_number(&host, local, choice);
        t.n_out = (uint32_t)(n_outs - t.first_out);
        host_crash(&host, 0);
        GROW(transitions, n_transitions);
        transitions[n_transitions++] = t;
        return transitions + n_transitions - 1;
}

/* ── What must never happen ──────────────────────────────────────────────────────────────────────────────
 */

static bool is_durable(const World *world, uint64_t id, uint64_t index) {
        const Image *disk = &locals[world->locals[id - 1]].disk;
        uint8_t committed = world->committed[index - 1];
        return (disk->n_entries >= index && disk->entries[index - 1] == committed) ||
               disk->had[index - 1] == committed; /* counted when it had it */
}

static bool is_quorum_durable(const World *world, const ConfVoter *voters, uint32_t n, uint64_t index) {
        uint32_t count = 0;
        for (uint32_t i = 0; i < n; i++)
                count += is_durable(world, voters[i].id, index);
        return count > n / 2;
}

/* By the configuration that was counted with, where that is certain: it is committed with this step, or the
 * newest. */
static const char *check_commit_durable(const World *world, const Local *local) {
        Conf conf = first_conf;
        const Entry *newest = NULL;
        for (size_t i = 0; i < local->commit; i++)
                if (entries[local->log[i]]->type == ENTRY_CONF)
                        newest = entries[local->log[i]];
        if (!local->conf_committed && (!newest || newest->index != local->commit))
                return NULL;
        if (newest)
                conf_decode(BYTES(newest->data, newest->size), &conf);
        if (!is_quorum_durable(world, conf.voters, conf.n_voters, local->commit) ||
            (conf_is_joint(&conf) && !is_quorum_durable(world, conf.old, conf.n_old, local->commit)))
                return "committed, but not on the disks of a majority";
        return NULL;
}

static uint8_t highest_commit(const World *world) {
        uint8_t index = INDEXES;
        while (index > 0 && world->committed[index - 1] == 0)
                index--;
        return index;
}

static const char *check_leader(World *world, uint64_t id, uint64_t term) {
        uint8_t *leader = world->leader_of + term - 1;
        if (*leader != 0 && *leader != id)
                return "two leaders in one term";
        *leader = (uint8_t)id;
        return NULL;
}

/* Leader completeness speaks of later terms only: a leader of an earlier one may still come to office. */
static bool has_committed(const World *world, const Local *local) {
        for (size_t i = 0; i < INDEXES; i++)
                if (world->committed[i] != 0 && world->committed_in[i] < local->term &&
                    local->log[i] != world->committed[i])
                        return false;
        return true;
}

static const char *check_commit(World *world, const Local *local, const Local *before) {
        for (size_t i = 0; i < local->commit; i++) {
                uint8_t *truth = world->committed + i;
                if (*truth != 0 && *truth != local->log[i])
                        return "two truths at one index";
                if (*truth == 0)
                        world->committed_in[i] = local->term;
                *truth = local->log[i];
        }
        for (size_t i = 0; i < n_hosts; i++) {
                const Local *other = locals + world->locals[i];
                if (other->role == RAFT_LEADER && !has_committed(world, other))
                        return "a later leader lacks what is committed now";
        }
        if (local->role == RAFT_LEADER && local->commit > before->commit)
                return check_commit_durable(world, local);
        return NULL;
}

static const char *check_logs(const World *world, const Local *local) {
        for (size_t i = 0; i < n_hosts; i++) {
                const Local *other = locals + world->locals[i];
                bool equal = false;
                for (size_t k = MIN(local->last, other->last); k > 0; k--) {
                        const Entry *a = entries[local->log[k - 1]], *b = entries[other->log[k - 1]];
                        equal |= a->term == b->term;
                        if (equal && a != b)
                                return "logs do not match";
                }
        }
        return NULL;
}

/* After `host` took a step from `before`. */
static const char *check_world(World *world, size_t host, uint32_t before, const Transition *t) {
        const Local *local = locals + world->locals[host];
        const char *bad = t->bad;
        if (!bad && local->role == RAFT_LEADER) {
                bad = check_leader(world, local->id, local->term);
                if (!bad && (locals[before].role != RAFT_LEADER || locals[before].term != local->term) &&
                    !has_committed(world, local))
                        bad = "a new leader lacks what is committed";
        }
        for (size_t i = 0; i < t->n_out && !bad; i++) {
                const RaftMessage *m = letters + outs[t->first_out + i];
                if (m->type == RAFT_APPEND || m->type == RAFT_BEAT)
                        bad = check_leader(world, m->from, m->term);
        }
        if (!bad)
                bad = check_commit(world, local, locals + before);
        if (!bad && t->read >= 2 && t->read - 2 < world->read_floor)
                bad = "a read lacks what was committed before it was asked";
        return bad ?: check_logs(world, local);
}

/* ── Telling ─────────────────────────────────────────────────────────────────────────────────────────────
 */

static void show_letter(const RaftMessage *m) {
        static const char *const names[] = {"?",          "prevote",    "prevote reply", "vote",
                                            "vote reply", "append",     "append reply",  "beat",
                                            "beat reply", "timeout now"};
        printf("takes %s of %" PRIu64 ", term %" PRIu64, names[m->type], m->from, m->term);
        if (m->refused)
                printf(", no");
        if (m->type == RAFT_APPEND || m->type == RAFT_VOTE || m->type == RAFT_PREVOTE)
                printf(", log %" PRIu64 " of term %" PRIu64, m->log_index, m->log_term);
        for (size_t i = 0; i < m->n_entries; i++)
                printf(" +%" PRIu64, m->entries[i]->term);
        if (m->type == RAFT_APPEND || m->type == RAFT_BEAT)
                printf(", commit %" PRIu64, m->commit);
        if (m->type == RAFT_APPEND_REPLY && !m->refused)
                printf(", match %" PRIu64, m->match);
        putchar('\n');
}

static void show_step(const Step *step) {
        printf("  %u: ", step->host + 1);
        if (step->choice >= CHOICE_TAKE)
                show_letter(letters + (step->choice - CHOICE_TAKE));
        else if (step->choice >= CHOICE_ROT)
                printf("rots, %u entries are gone\n", step->choice - CHOICE_ROT);
        else if (step->choice >= CHOICE_CRASH)
                printf("crashes, %u batches reached the disk\n", step->choice - CHOICE_CRASH);
        else {
                static const char *const names[] = {"starts",     "hears nobody",    "beats",
                                                    "stores",     "proposes",        "changes the voters",
                                                    "hands over", "is asked to read"};
                printf("%s\n", names[step->choice]);
        }
}

static void show_path(const char *what) {
        static uint32_t path[CHAIN];
        size_t n = 0;
        for (uint32_t at = current.parent; at != 0 && n < CHAIN; at = steps[at].parent)
                path[n++] = at;
        printf("bad state after %zu steps: %s\n", n + 1, what);
        while (n > 0)
                show_step(steps + path[--n]);
        show_step(&current);
        fflush(stdout);
}

/* The core's own assertions are checks too; its message is on stderr already. */
static void on_abort(int signal) {
        (void)signal;
        show_path("an assertion failed");
        _exit(1);
}

/* ── The world ───────────────────────────────────────────────────────────────────────────────────────────
 */

/* One layer of states, each as long as its letters need. */
typedef struct Layer {
        uint8_t *bytes;
        size_t size, capacity, n;
        uint32_t first; /* number of its first state */
} Layer;

static size_t world_size(const World *world) {
        return offsetof(World, letters) + world->n_letters * sizeof(world->letters[0]);
}

static void layer_push(Layer *layer, const World *world) {
        size_t size = (world_size(world) + 7) & ~(size_t)7;
        if (layer->size + size > layer->capacity) {
                layer->capacity = MAX(layer->capacity * 2, (size_t)1 << 16);
                layer->bytes = must(realloc(layer->bytes, layer->capacity));
        }
        memcpy(layer->bytes + layer->size, world, world_size(world));
        layer->size += size;
        layer->n++;
}

static bool world_has(const World *world, uint16_t letter, uint32_t *ret_at) {
        uint32_t low = 0, high = world->n_letters;
        while (low < high) {
                uint32_t middle = (low + high) / 2;
                if (world->letters[middle] < letter)
                        low = middle + 1;
                else
                        high = middle;
        }
        *ret_at = low;
        return low < world->n_letters && world->letters[low] == letter;
}

static void world_add(World *world, uint16_t letter) {
        uint32_t at;
        if (world_has(world, letter, &at))
                return;
        assert(world->n_letters < LETTERS);
        memmove(world->letters + at + 1, world->letters + at, (world->n_letters - at) * sizeof(letter));
        world->letters[at] = letter;
        world->n_letters++;
}

static void world_remove(World *world, uint16_t letter) {
        uint32_t at;
        if (!world_has(world, letter, &at))
                return;
        world->n_letters--;
        memmove(world->letters + at, world->letters + at + 1, (world->n_letters - at) * sizeof(letter));
}

/* Letters that would be for nothing now. */
static void world_forget(World *world) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < world->n_letters; i++) {
                const RaftMessage *m = letters + world->letters[i];
                const Local *to = locals + world->locals[m->to - 1];
                if (!is_dead(m, to->term, to->vote))
                        world->letters[n++] = world->letters[i];
        }
        world->n_letters = n;
}

static bool brings_nothing(const World *world, size_t host, const Transition *t) {
        uint32_t at;
        if (t->local != world->locals[host])
                return false;
        for (size_t i = 0; i < t->n_out; i++)
                if (!world_has(world, outs[t->first_out + i], &at))
                        return false;
        return true;
}

/* Try one choice; false when the new state is bad. */
static bool try(const World *from, uint32_t number, size_t host, uint32_t choice, Layer *next) {
        static World world;
        current = (Step){.parent = number, .host = (uint32_t)host, .choice = choice};
        Transition t = *transition(from->locals[host], choice);
        if (t.bad) {
                show_path(t.bad);
                return false;
        }
        if (t.outside || brings_nothing(from, host, &t))
                return true;

        memcpy(&world, from, world_size(from));
        world.locals[host] = t.local;
        world.crashes += choice >= CHOICE_CRASH && choice < CHOICE_ROT;
        world.rots += choice >= CHOICE_ROT && choice < CHOICE_TAKE;
        world.proposals += choice == CHOICE_PROPOSE;
        world.changes += choice == CHOICE_CHANGE;
        world.beats += choice == CHOICE_BEAT;
        world.transfers += choice == CHOICE_TRANSFER;
        if (choice == CHOICE_READ) {
                world.reads++;
                world.read_floor = highest_commit(from);
        }
        if (bounds.once && choice >= CHOICE_TAKE)
                world_remove(&world, (uint16_t)(choice - CHOICE_TAKE));
        for (size_t i = 0; i < t.n_out; i++)
                world_add(&world, outs[t.first_out + i]);
        world_forget(&world);
        const char *bad = check_world(&world, host, from->locals[host], &t);
        if (bad) {
                show_path(bad);
                return false;
        }

        bool new;
        map_put(&world_map, XXH3_128bits(&world, world_size(&world)), 0, &new);
        if (!new)
                return true;
        GROW(steps, n_steps);
        steps[n_steps++] = current;
        layer_push(next, &world);
        return true;
}

static bool try_host(const World *world, uint32_t number, size_t host, Layer *next) {
        const Local local = locals[world->locals[host]];
        bool leads = local.role == RAFT_LEADER, ok = true;
        /* In the last term nobody's silence leads anywhere. */
        if (local.role != RAFT_PASSIVE && local.term < bounds.terms)
                ok = try(world, number, host, CHOICE_SILENCE, next);
        if (ok && local.n_pending > 0)
                ok = try(world, number, host, CHOICE_STORE, next);
        if (ok && leads && world->proposals < bounds.proposals)
                ok = try(world, number, host, CHOICE_PROPOSE, next);
        if (ok && leads && world->changes < 1 && bounds.n_change > 0)
                ok = try(world, number, host, CHOICE_CHANGE, next);
        if (ok && leads && world->beats < bounds.beats)
                ok = try(world, number, host, CHOICE_BEAT, next);
        if (ok && leads && world->transfers < bounds.transfers)
                ok = try(world, number, host, CHOICE_TRANSFER, next);
        if (ok && leads && world->reads < bounds.reads)
                ok = try(world, number, host, CHOICE_READ, next);
        for (uint32_t keep = 0; ok && world->crashes < bounds.crashes && keep <= local.n_pending; keep++)
                ok = try(world, number, host, CHOICE_CRASH + keep, next);
        for (uint32_t lose = 0; ok && world->rots < bounds.rots && lose <= local.disk.n_entries; lose++)
                ok = try(world, number, host, CHOICE_ROT + lose, next);
        for (size_t i = 0; ok && i < world->n_letters; i++)
                if (letters[world->letters[i]].to == host + 1)
                        ok = try(world, number, host, CHOICE_TAKE + world->letters[i], next);
        return ok;
}

static void world_begin(Layer *layer) {
        static World world;
        for (size_t i = 0; i < n_hosts; i++) {
                Host host = {.id = i + 1};
                host_start(&host, true);
                world.locals[i] = local_number(&host, 0, CHOICE_START);
                host_crash(&host, 0);
        }
        assert(n_outs == 0);
        GROW(steps, n_steps);
        steps[n_steps++] = (Step){};
        layer_push(layer, &world);
}

/* 0: all seen, or the bound on depth or states was met; 1: a bad state. */
static int explore(void) {
        struct timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        Layer layer = {}, next = {};
        world_begin(&layer);
        /* All hosts are alike until one moves: let it be the first. Not so when a change tells them apart.
         */
        size_t n_first = bounds.n_change > 0 ? n_hosts : 1;
        uint64_t depth = 0;
        for (; layer.n > 0 && depth < bounds.depth && n_steps < bounds.states; depth++) {
                static World world;
                next.first = (uint32_t)n_steps;
                next.size = next.n = 0;
                for (size_t i = 0, at = 0; i < layer.n; i++, at += (world_size(&world) + 7) & ~(size_t)7) {
                        memcpy(&world, layer.bytes + at, offsetof(World, letters));
                        memcpy(&world, layer.bytes + at, world_size(&world));
                        for (size_t host = 0; host < (depth == 0 ? n_first : n_hosts); host++)
                                if (!try_host(&world, layer.first + (uint32_t)i, host, &next))
                                        return 1;
                        if (n_steps >= bounds.states)
                                break;
                }
                Layer swap = layer;
                layer = next;
                next = swap;
                if (bounds.loud)
                        fprintf(stderr,
                                "depth %" PRIu64 ": %zu new, %zu states, %zu of hosts, %zu letters\n",
                                depth + 1, layer.n, n_steps, n_locals, n_letters);
        }
        clock_gettime(CLOCK_MONOTONIC, &end);
        double seconds = (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
        size_t committed = 0;
        for (size_t i = 0; i < n_locals; i++)
                committed = MAX(committed, (size_t)locals[i].commit);
        printf("%zu states to depth %" PRIu64
               " (%s), %zu states of hosts, %zu runs of the core, %zu letters, "
               "commit up to %zu, %.1f s\n",
               n_steps, depth, layer.n == 0 ? "all there are" : "more behind the bound", n_locals,
               n_transitions, n_letters, committed, seconds);
        free(layer.bytes);
        free(next.bytes);
        return 0;
}

static void change_parse(const char *list) {
        char *end;
        for (const char *p = list; *p != 0 && bounds.n_change < LIMIT_VOTERS;
             p = *end == ',' ? end + 1 : end) {
                bounds.change[bounds.n_change] = strtoull(p, &end, 10);
                if (end == p || (*end != ',' && *end != 0))
                        exit(2);
                bounds.n_change++;
        }
}

static void options_parse(int argc, char **argv) {
        static const struct option options[] = {
                {"voters", required_argument, NULL, 'v'},
                {"terms", required_argument, NULL, 't'},
                {"entries", required_argument, NULL, 'e'},
                {"proposals", required_argument, NULL, 'p'},
                {"crashes", required_argument, NULL, 'c'},
                {"rots", required_argument, NULL, 'y'},
                {"beats", required_argument, NULL, 'b'},
                {"depth", required_argument, NULL, 'd'},
                {"states", required_argument, NULL, 's'},
                {"change", required_argument, NULL, 'n'},
                {"once", no_argument, NULL, 'o'},
                {"transfers", required_argument, NULL, 'r'},
                {"reads", required_argument, NULL, 'x'},
                {"loud", no_argument, NULL, 'l'},
                {"prevote", no_argument, NULL, 'q'},
                {"stale", no_argument, NULL, 'z'},
                {},
        };
        int c;
        while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                uint64_t *numbers[] = {
                        ['v'] = &bounds.voters,    ['t'] = &bounds.terms,   ['e'] = &bounds.entries,
                        ['p'] = &bounds.proposals, ['c'] = &bounds.crashes, ['b'] = &bounds.beats,
                        ['d'] = &bounds.depth,     ['s'] = &bounds.states,  ['r'] = &bounds.transfers,
                        ['x'] = &bounds.reads,     ['y'] = &bounds.rots};
                if (c == 'n')
                        change_parse(optarg);
                else if (c == 'o')
                        bounds.once = true;
                else if (c == 'q')
                        bounds.prevote = true;
                else if (c == 'z')
                        bounds.stale = true;
                else if (c == 'l')
                        bounds.loud = true;
                else if ((size_t)c < ELEMENTSOF(numbers) && numbers[c])
                        *numbers[c] = strtoull(optarg, NULL, 10);
                else
                        exit(2);
        }
}

int main(int argc, char **argv) {
        options_parse(argc, argv);
        n_hosts = bounds.voters;
        for (size_t i = 0; i < bounds.n_change; i++)
                n_hosts = MAX(n_hosts, bounds.change[i]);
        if (bounds.voters == 0 || n_hosts > HOSTS || bounds.terms >= TERMS || bounds.entries >= INDEXES ||
            bounds.states >= UINT32_MAX / 2 || bounds.reads > 1) {
                fprintf(stderr, "at most %d hosts, %d terms, %d entries\n", HOSTS, TERMS - 1, INDEXES - 1);
                return 2;
        }
        first_conf.n_voters = (uint32_t)bounds.voters;
        for (size_t i = 0; i < bounds.voters; i++)
                first_conf.voters[i].id = i + 1;
        signal(SIGABRT, on_abort);
        return explore();
}
