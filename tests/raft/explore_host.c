/* One host of the explorer: the real core, run once per (state, choice) from its last start, and told apart
 * from others by a hash of all that steers it. What was found is kept in tables and named by numbers. */
#include "explore.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

Bounds bounds = {.voters = 3, .terms = 2, .entries = 3, .proposals = 1, .depth = 1000, .states = 100000000};
Conf first_conf;
size_t n_hosts;
/* ── Tables ──────────────────────────────────────────────────────────────────────────────────────────────
 */

void *must(void *p) {
        if (!p) {
                fprintf(stderr, "out of memory\n");
                _exit(2);
        }
        return p;
}

static Slot *map_slot(const Map *map, XXH128_hash_t key) {
        size_t i = (key.low64 ^ key.high64) & (map->capacity - 1);
        while (map->slots[i].value != 0 && !XXH128_isEqual(map->slots[i].key, key))
                i = (i + 1) & (map->capacity - 1);
        return map->slots + i;
}

/* The value of the key, `*ret_new` when it was put there now. */
uint32_t map_put(Map *map, XXH128_hash_t key, uint32_t value, bool *ret_new) {
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

Entry *entries[256]; /* number 0 is none */
size_t n_entries = 1;
RaftMessage *letters;
size_t n_letters;
static Map letter_map;
Local *locals;
size_t n_locals;
static Map local_map;
static Transition *transitions;
size_t n_transitions;
static Map transition_map;
uint16_t *outs;
size_t n_outs;
Step *steps; /* how each state was first reached */
size_t n_steps;
Map world_map;
Step current; /* what is tried now */

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

void host_start(Host *host, bool listen) {
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

void host_crash(Host *host, size_t keep) {
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

bool is_dead(const RaftMessage *m, uint64_t term, uint64_t vote) {
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

uint32_t local_number(const Host *host, uint32_t parent, uint32_t choice) {
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

const Transition *transition(uint32_t local, uint32_t choice) {
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
