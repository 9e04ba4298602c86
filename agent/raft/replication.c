/* Appends, beats and commit, seen from both sides. The follower's half decides by comparing, never by
 * trusting where a message ends: a log is cut only at an entry whose term really differs (R22), and never at
 * or below what is committed. The leader's half counts a majority over what is on disk, its own disk
 * included, and only entries of its own term (section 5.4.2, R5). */
#include "internal.h"
#include "../base/seen.h"

/* ── Follower ────────────────────────────────────────────────────────────────────────────────────────────
 */

typedef enum Word {
        WORD_TAKEN,
        WORD_STALE,  /* of a term that is over */
        WORD_STRANGE /* of a second leader in one term, which cannot be */
} Word;

static Word hear_leader(Raft *raft, const RaftMessage *m) {
        if (m->term < raft->term) {
                SIM_SEEN("raft: a leader of a term that is over speaks");
                return WORD_STALE;
        }
        if (m->term == raft->term) {
                if (raft->role == RAFT_LEADER || (raft->leader != 0 && raft->leader != m->from))
                        return WORD_STRANGE;
        }
        bool known = m->term == raft->term && raft->leader == m->from &&
                     (raft->role == RAFT_FOLLOWER || raft->role == RAFT_PASSIVE);
        if (!known)
                become_follower(raft, m->term, m->from);
        raft->heard = true;
        raft->heard_usec = raft->now;
        raft->quick = 0;
        election_draw(raft);
        return WORD_TAKEN;
}

static int refuse_append(Raft *raft, const RaftMessage *m, uint64_t hint_index, uint64_t hint_term) {
        message_send(raft, (RaftMessage){
                                   .type = RAFT_APPEND_REPLY,
                                   .to = m->from,
                                   .refused = true,
                                   .since = m->since,
                                   .log_index = m->log_index,
                                   .hint_index = hint_index,
                                   .hint_term = hint_term,
                           });
        return 0;
}

/* Where the leader should try next: nothing at or below our commit can differ from its log. */
static int refuse_with_hint(Raft *raft, const RaftMessage *m) {
        if (m->log_index > raft->log.last) {
                SIM_SEEN("raft: an append begins beyond the log");
                return refuse_append(raft, m, raft->log.last + 1, 0);
        }
        SIM_SEEN("raft: an append meets another term");
        uint64_t first = logview_run_first(&raft->log, m->log_index);
        return refuse_append(raft, m, MAX(first, raft->commit + 1), logview_term(&raft->log, m->log_index));
}

/* The first entry that we lack or that differs; n_entries when there is none. */
static uint32_t first_news(const Raft *raft, const RaftMessage *m) {
        for (uint32_t i = 0; i < m->n_entries; i++) {
                uint64_t index = m->entries[i]->index;
                if (index < raft->log.base_index)
                        continue;
                if (index > raft->log.last || logview_term(&raft->log, index) != m->entries[i]->term)
                        return i;
        }
        return m->n_entries;
}

static void take_entries(Raft *raft, const RaftMessage *m, uint32_t first) {
        if (first < m->n_entries && m->entries[first]->index <= raft->log.last) {
                SIM_SEEN("raft: a conflicting tail gives way");
                store_truncate(raft, m->entries[first]->index);
        }
        for (uint32_t i = first; i < m->n_entries; i++)
                if (logview_append(&raft->log, m->entries[i], true) < 0) {
                        raft->failed = true;
                        return;
                }
}

static void owe_ack(Raft *raft, const RaftMessage *m, uint64_t match) {
        Ack *ack = &raft->ack;
        if (ack->to != m->from || ack->since != m->since)
                *ack = (Ack){.to = m->from, .since = m->since};
        ack->log_index = m->log_index;
        ack->match = MAX(ack->match, match);
        ack->sent = MIN(ack->sent, match); /* a repeated append may mean a lost answer */
        if (ack->match > raft->durable)    /* nothing new to say before the disk has more */
                ack->sent = MAX(ack->sent, raft->durable);
        ack->owed = true;
}

int follower_receive_append(Raft *raft, const RaftMessage *m) {
        if (!raft->keeps_log)
                return RAFT_IGNORED;
        switch (hear_leader(raft, m)) {
        case WORD_STALE:
                return refuse_append(raft, m, 0, 0);
        case WORD_STRANGE:
                return RAFT_IGNORED;
        case WORD_TAKEN:
                break;
        }
        follower_hears_damage(raft, m);

        const LogView *log = &raft->log;
        if (m->log_index > log->last)
                return refuse_with_hint(raft, m);
        if (m->log_index >= log->base_index && logview_term(log, m->log_index) != m->log_term)
                return m->log_index <= raft->commit ? RAFT_IGNORED : refuse_with_hint(raft, m);
        uint32_t first = first_news(raft, m);
        if (m->n_entries > 0 && first == m->n_entries)
                SIM_SEEN("raft: an append brings what is there already");
        if (first < m->n_entries && m->entries[first]->index <= raft->commit)
                return RAFT_IGNORED; /* what is committed cannot differ: no leader says so */

        take_entries(raft, m, first);
        if (raft->failed)
                return -ENOMEM;
        /* What is committed here, every leader of a later term has too (5.4.3). */
        uint64_t matched = m->log_index + m->n_entries;
        owe_ack(raft, m, MAX(matched, raft->commit));
        raft_refresh_role(raft);
        if (m->commit > matched && matched < log->last)
                SIM_SEEN("raft: commit is capped by what was compared");
        if (MIN(m->commit, matched) > raft->commit) /* R25 */
                raft_advance_commit(raft, MIN(m->commit, matched));
        return 0;
}

int follower_receive_beat(Raft *raft, const RaftMessage *m) {
        Word word = hear_leader(raft, m);
        if (word == WORD_STRANGE)
                return RAFT_IGNORED;
        if (word == WORD_TAKEN)
                follower_hears_damage(raft, m);
        /* The leader names no more than we acknowledged to it (R26), so it is in our log and equal. */
        if (word == WORD_TAKEN && raft->keeps_log && m->commit > raft->commit && m->commit <= raft->log.last)
                raft_advance_commit(raft, m->commit);
        if (m->beat != 0 || word == WORD_STALE)
                message_send(raft, (RaftMessage){
                                           .type = RAFT_BEAT_REPLY,
                                           .to = m->from,
                                           .beat = m->beat,
                                           .match = raft->log.last,
                                           .refused = word == WORD_STALE,
                                   });
        return 0;
}

/* ── Leader ──────────────────────────────────────────────────────────────────────────────────────────────
 */

static uint64_t value_match(const Raft *raft, uint64_t id) {
        if (id == raft->options.id)
                return raft->durable; /* our own disk is a follower like any other (R24) */
        const Peer *peer = peer_find(raft, id);
        return peer && peer_counts(peer) ? peer->match : 0;
}

static uint64_t value_contact(const Raft *raft, uint64_t id) {
        const Peer *peer = peer_find(raft, id);
        return id == raft->options.id ? raft->now : peer && peer_counts(peer) ? peer->contact_usec : 0;
}

static uint64_t value_follow(const Raft *raft, uint64_t id) {
        const Peer *peer = peer_find(raft, id);
        return id == raft->options.id ? raft->now : peer && peer_counts(peer) ? peer->follow_usec : 0;
}

uint64_t leader_quorum_contact(const Raft *raft) {
        if (raft->role == RAFT_LEADER)
                return raft_quorum(raft, value_follow);
        return raft->heard ? raft->heard_usec : 0;
}

/* Index and term are given here, so nobody else may hold this entry for immutable yet. */
int leader_append(Raft *raft, Entry *entry) {
        assert(raft->role == RAFT_LEADER && entry->index == 0);
        entry->index = raft->log.last + 1;
        entry->term = raft->term;
        int r = logview_append(&raft->log, entry, true);
        if (r < 0) {
                entry->index = entry->term = 0;
                raft->failed = true;
                return -ENOMEM;
        }
        raft->uncommitted_bytes += entry->size;
        if (entry->type == ENTRY_CONF)
                peers_sync(raft);
        return 0;
}

void leader_append_noop(Raft *raft) {
        _cleanup_(entry_unrefp) Entry *entry = entry_new(ENTRY_NOOP, 0, 0, NULL, 0);
        if (!entry)
                raft->failed = true;
        else
                leader_append(raft, entry);
}

/* Thesis 6.4: an empty entry at once, for only with an entry of its own term can a leader know what is
 * committed. */
void become_leader(Raft *raft) {
        assert(raft->role == RAFT_CANDIDATE && !raft->requests_held);
        assert(store_hard_is_durable(raft) && raft->vote == raft->options.id);

        raft->role = RAFT_LEADER;
        raft->leader = raft->options.id;
        raft->quick = 0;
        raft->transfer = 0;
        raft->ack = (Ack){};
        raft->n_sick = 0;
        peers_clear(raft);
        peers_sync(raft);
        raft->beat_due_usec = raft->now;
        raft->uncommitted_bytes = 0;
        for (uint64_t i = raft->commit + 1; i <= raft->log.last; i++) {
                const Entry *entry = logview_entry(&raft->log, i);
                raft->uncommitted_bytes += entry ? entry->size : 0;
        }
        if (conf_is_joint(raft_conf(raft)))
                SIM_SEEN("raft: a leader begins in the middle of a change");
        raft->term_start = raft->log.last + 1;
        if (raft->log.last > raft->commit)
                SIM_SEEN("raft: a new leader holds uncommitted entries");
        leader_append_noop(raft);
}

int raft_propose(Raft *raft, Entry *entry, uint64_t now_usec) {
        assert(entry->type == ENTRY_COMMAND && entry->index == 0);

        raft->now = MAX(raft->now, now_usec);
        leader_time(raft);
        if (raft->role != RAFT_LEADER)
                return RAFT_NOT_LEADER;
        uint64_t tail = raft->log.last - raft->commit;
        if (raft->transfer != 0)
                SIM_SEEN("raft: a proposal while leadership is handed over");
        if (raft->transfer != 0 || tail >= LIMIT_UNCOMMITTED_ENTRIES || raft->log.last >= INDEX_MAX)
                return RAFT_BUSY;
        /* One entry always fits, or a small limit would refuse it for ever. */
        if (tail > 0 && raft->uncommitted_bytes + entry->size > raft->options.uncommitted_bytes) {
                SIM_SEEN("raft: the uncommitted tail is full");
                return RAFT_BUSY;
        }
        return raft_done(raft, leader_append(raft, entry));
}

void leader_commit(Raft *raft) {
        if (raft->role != RAFT_LEADER)
                return;
        uint64_t index = raft_quorum(raft, value_match);
        if (index > raft->commit && logview_term(&raft->log, index) != raft->term)
                SIM_SEEN("raft: a majority has an entry of an earlier term (fig. 8)");
        if (index > raft->commit && logview_term(&raft->log, index) == raft->term)
                raft_advance_commit(raft, index);
}

/* A leader's time: may it still lead? Asked before anything that came in is looked at, so that answers which
 * waited while this host was paused do not prove that a majority follows now. */
void leader_time(Raft *raft) {
        if (raft->role != RAFT_LEADER)
                return;
        if (store_is_stuck(raft)) {
                SIM_SEEN("raft: the leader's own disk hangs");
                /* Whoever can write should lead, and need not wait for a timeout of his own (R19). */
                transfer_hand_over(raft);
                become_follower(raft, raft->term, 0);
                return;
        }
        if (raft->now - raft_quorum(raft, value_contact) > 2 * raft->options.election_usec) {
                SIM_SEEN("raft: check-quorum ends a leader");
                become_follower(raft, raft->term, 0);
                return;
        }
        if (raft->transfer != 0 && raft->now >= raft->transfer_deadline) {
                SIM_SEEN("raft: a transfer is given up");
                raft->transfer = 0; /* R17 */
        }
}

/* A host that is no voter campaigns: it missed the end of its time (or holds it, and not the word that it is
 * committed), or it holds the beginning of a time that never came (a change that its leader lost with its
 * disk's last moments). Tell it, for a while, until its log is ours up to where this term began. */
void leader_meet_stranger(Raft *raft, const RaftMessage *m) {
        bool settled = raft_is_ready(raft) && raft_conf_index(raft) <= raft->commit;
        if (!settled || peer_find(raft, m->from))
                return;
        Peer *peer = peer_add(raft, m->from, 0);
        if (peer) {
                SIM_SEEN("raft: a stranger campaigns and is told of the end");
                peer->leaving_usec = raft->now + 10 * raft->options.election_usec;
                peer->leaving_index = raft->term_start;
        }
}

/* An answer: from a peer, in our term? A later term ends ours only by the word of a voter (R13). */
static Peer *answering_peer(Raft *raft, const RaftMessage *m) {
        if (m->term > raft->term && conf_is_voter(raft_conf(raft), m->from)) {
                become_follower(raft, m->term, 0);
                return NULL;
        }
        if (m->term != raft->term || raft->role != RAFT_LEADER)
                return NULL;
        return peer_find(raft, m->from);
}

int leader_receive_append_reply(Raft *raft, const RaftMessage *m) {
        Peer *peer = answering_peer(raft, m);
        if (!peer || m->since != peer->since || m->match > raft->log.last) {
                SIM_SEEN("raft: an acknowledgement that counts no more");
                return RAFT_IGNORED;
        }
        bool counted = peer_counts(peer);
        if (!leader_hears_life(raft, peer, m))
                return 0;
        peer->contact_usec = raft->now;
        bool rose = false;
        if (m->refused) {
                SIM_SEEN("raft: an append was refused");
                peer_refused(peer, &raft->log, m);
        } else
                rose = peer_acknowledged(peer, m->match, raft->log.base_index, raft->now);
        if (rose)
                peer->match_beat = raft->beat;
        if (rose || !counted)
                leader_commit(raft);
        if (raft->role == RAFT_LEADER)
                transfer_continue(raft);
        return 0;
}

int leader_receive_beat_reply(Raft *raft, const RaftMessage *m) {
        Peer *peer = answering_peer(raft, m);
        if (!peer || m->refused || m->beat == 0 || m->beat > raft->beat)
                return RAFT_IGNORED;
        bool counted = peer_counts(peer);
        if (!leader_hears_life(raft, peer, m))
                return 0;
        leader_notices_loss(raft, peer, m);
        peer->contact_usec = raft->now;
        if (m->beat > peer->beat_acked) {
                peer->beat_acked = m->beat;
                if (raft->beat - m->beat < BEAT_MARKS)
                        peer->follow_usec = MAX(peer->follow_usec, raft->beat_marks[m->beat % BEAT_MARKS]);
        }
        peer_answered_beat(peer, m, raft->now, raft->options.heartbeat_usec);
        reads_confirm(raft);
        if (!counted)
                leader_commit(raft);
        return 0;
}

static void send_beat(Raft *raft, Peer *peer, uint64_t beat) {
        uint64_t commit = MIN(raft->commit, peer->match); /* R26 */
        RaftMessage message = {.type = RAFT_BEAT, .to = peer->id, .commit = commit, .beat = beat};
        leader_tells_damage(peer, &message);
        message_send(raft, message);
        peer->told = MAX(peer->told, commit);
}

/* One beat for all peers, when its time has come or when reads wait for one. */
void leader_beats(Raft *raft) {
        if (raft->role != RAFT_LEADER)
                return;
        if (!reads_are_unsent(raft) && (raft->n_peers == 0 || raft->now < raft->beat_due_usec))
                return;

        uint64_t beat = ++raft->beat;
        raft->beat_marks[beat % BEAT_MARKS] = raft->now;
        raft->beat_due_usec = raft->now + raft->options.heartbeat_usec;
        for (size_t i = 0; i < raft->n_peers; i++) {
                Peer *peer = raft->peers + i;
                if (peer->state == PEER_REPLICATE && peer->n_inflight > 0 && peer->watch_beat == 0) {
                        peer->watch_beat = beat;
                        peer->watch_last = peer->next - 1;
                }
                send_beat(raft, peer, beat);
        }
        reads_sent(raft, beat);
        reads_confirm(raft);
}

static void send_append(Raft *raft, Peer *peer, Entry **entries, size_t n) {
        uint64_t last = peer->next - 1 + n;
        size_t bytes = 0;
        for (size_t i = 0; i < n; i++)
                bytes += entries[i]->size;
        RaftMessage message = {
                .type = RAFT_APPEND,
                .to = peer->id,
                .log_index = peer->next - 1,
                .log_term = logview_term(&raft->log, peer->next - 1),
                .commit = raft->commit,
                .since = peer->since,
        };
        leader_tells_damage(peer, &message);
        append_build(raft, message, entries, n);
        if (peer->state == PEER_PROBE) {
                peer->paused = true;
                peer->empty_probe = false;
                peer->probe_beat = raft->beat;
                return;
        }
        peer->told = MAX(peer->told, MIN(raft->commit, last));
        if (n > 0)
                peer_sent(peer, last, bytes, raft->now);
}

/* What the peer needs next and is at hand, up to one append's limits. */
static size_t gather(const Raft *raft, const Peer *peer, Entry *to[static LIMIT_APPEND_ENTRIES]) {
        bool loaded = peer->n_loaded > 0 && peer->loaded_from == peer->next;
        size_t n = 0, bytes = 0;
        for (; n < LIMIT_APPEND_ENTRIES; n++) {
                Entry *entry = logview_entry(&raft->log, peer->next + n);
                if (!entry && loaded && n < peer->n_loaded)
                        entry = peer->loaded[n];
                if (!entry || (n > 0 && bytes + entry->size > LIMIT_APPEND_BYTES))
                        break;
                bytes += entry->size;
                to[n] = entry;
        }
        return n;
}

/* The log no longer begins before what the peer needs. Asked for only while the peer answers. A host that
 * leaves gets one when its end is committed: while it hears us and no end, it stays a voter in its own eyes.
 */
static void want_snapshot(Raft *raft, Peer *peer) {
        bool leaves = peer->leaving_usec != 0 && raft_conf_index(raft) > raft->commit;
        if (leaves || raft->now - peer->contact_usec > raft->options.election_usec)
                return;
        peer_probe(peer, peer->next);
        peer->state = PEER_SNAPSHOT;
        SIM_SEEN("raft: a peer needs a snapshot");
        peer->snapshot_wanted = true;
}

/* One append to one peer; false when none may or need leave now. */
static bool append_next(Raft *raft, Peer *peer) {
        if (peer->state == PEER_SNAPSHOT || (peer->state == PEER_PROBE && peer->paused))
                return false;
        if (peer->next - 1 < raft->log.base_index) {
                want_snapshot(raft, peer);
                return false;
        }
        if (peer->empty_probe || peer->verify) {
                SIM_SEEN("raft: an empty append asks how far the peer is");
                peer->verify = false;
                peer->verify_usec = raft->now;
                send_append(raft, peer, NULL, 0);
                return true;
        }
        if (peer->state == PEER_REPLICATE && (peer->next > raft->log.last || peer_window_is_full(peer)))
                return false;

        Entry *entries[LIMIT_APPEND_ENTRIES];
        size_t n = gather(raft, peer, entries);
        if (n == 0 && peer->next <= raft->log.last && peer->load_from == 0) {
                SIM_SEEN("raft: entries left memory and are loaded");
                peer->load_from = peer->next;
                peer->load_wanted = true;
        }
        if (n == 0 && peer->state == PEER_REPLICATE)
                return false;
        send_append(raft, peer, entries, n);
        return true;
}

static bool has_left(const Raft *raft, const Peer *peer) {
        if (peer->leaving_usec == 0)
                return false;
        uint64_t end = MAX(raft_conf_index(raft), peer->leaving_index);
        return raft->now >= peer->leaving_usec || (end <= raft->commit && peer->told >= end);
}

void leader_appends(Raft *raft) {
        if (raft->role != RAFT_LEADER)
                return;
        for (size_t i = raft->n_peers; i > 0 && !raft->failed; i--) {
                Peer *peer = raft->peers + i - 1;
                bool sent = false;
                while (!raft->failed && append_next(raft, peer))
                        sent = true;
                if (peer->n_loaded > 0 && peer->loaded_from != peer->next)
                        peer_forget_loaded(peer);
                /* Told at once, but only where no append goes out anyway. */
                if (!sent && MIN(raft->commit, peer->match) > peer->told)
                        send_beat(raft, peer, 0);
                if (has_left(raft, peer))
                        SIM_SEEN("raft: a host that left was told");
                if (has_left(raft, peer))
                        peer_remove(raft, peer);
        }
}

uint64_t leader_deadline(const Raft *raft) {
        uint64_t deadline = USEC_INFINITY, patience = 2 * raft->options.election_usec + 1;
        if (raft->n_peers > 0)
                deadline = MIN(raft->beat_due_usec, raft_quorum(raft, value_contact) + patience);
        if (raft->n_batches > 0)
                deadline = MIN(deadline, raft->batches[0].usec + patience);
        if (raft->transfer != 0)
                deadline = MIN(deadline, raft->transfer_deadline);
        return deadline;
}

int raft_loaded(Raft *raft, uint64_t id, Entry **entries, size_t n_entries, uint64_t now_usec) {
        raft->now = MAX(raft->now, now_usec);
        leader_time(raft);
        Peer *peer = raft->role == RAFT_LEADER ? peer_find(raft, id) : NULL;
        if (!peer || peer->load_from == 0)
                return RAFT_IGNORED;

        uint64_t from = peer->load_from;
        peer->load_from = 0;
        peer->load_wanted = false;
        peer_forget_loaded(peer);
        n_entries = MIN(n_entries, (size_t)LIMIT_APPEND_ENTRIES);
        for (size_t i = 0; i < n_entries; i++)
                if (entries[i]->index != from + i || entries[i]->term != logview_term(&raft->log, from + i))
                        n_entries = i;
        if (n_entries == 0) {
                /* Trimmed meanwhile, most likely; then a snapshot is next. Ask again only after an answer.
                 */
                if (peer->state == PEER_REPLICATE && from == peer->next) {
                        peer_probe(peer, peer->match + 1);
                        peer->paused = peer->next - 1 >= raft->log.base_index;
                        peer->probe_beat = raft->beat;
                }
                return 0;
        }
        peer->loaded = calloc(n_entries, sizeof(Entry *));
        if (!peer->loaded)
                return -ENOMEM;
        for (size_t i = 0; i < n_entries; i++)
                peer->loaded[i] = entry_ref(entries[i]);
        peer->n_loaded = n_entries;
        peer->loaded_from = from;
        return raft_done(raft, 0);
}

int raft_snapshot_done(Raft *raft, uint64_t id, uint64_t index, bool ok, uint64_t now_usec) {
        raft->now = MAX(raft->now, now_usec);
        leader_time(raft);
        Peer *peer = raft->role == RAFT_LEADER ? peer_find(raft, id) : NULL;
        if (!peer || peer->state != PEER_SNAPSHOT)
                return RAFT_IGNORED;

        /* What the peer has is known only by its own acknowledgement: probe there. After a failure wait for
         * an answer to a beat before the next try. */
        if (!ok)
                SIM_SEEN("raft: a snapshot did not arrive");
        uint64_t next = ok && index <= raft->log.last ? index + 1 : peer->next;
        peer_probe(peer, MAX(next, peer->match + 1));
        peer->paused = !ok;
        peer->probe_beat = raft->beat;
        peer->snapshot_wanted = false;
        return raft_done(raft, 0);
}
