/* Life of a core, the dispatch of events to the files that know them, and what can be seen from outside.
 * Each event ends with check(): what must always hold is asserted where it would first be broken. */
#include "internal.h"
#include "../base/seen.h"

/* Room for one more item; NULL marks the core as failed, and the event reports -ENOMEM. */
void *raft_reserve(Raft *raft, void *array, size_t *capacity, size_t n, size_t size) {
        if (n < *capacity)
                return array;
        size_t more = MAX(*capacity * 2, (size_t)8);
        void *p = realloc(array, more * size);
        if (!p) {
                raft->failed = true;
                return NULL;
        }
        *capacity = more;
        return p;
}

static void check(const Raft *raft) {
        const LogView *log = &raft->log;
        assert(log->base_index <= raft->commit && raft->commit <= log->last);
        assert(log->released <= raft->commit);
        assert(raft->durable <= log->last && raft->next_store <= log->last + 1);
        assert(raft->durable < raft->next_store);
        assert(log->cache_first <= raft->durable + 1); /* what the disk has not, memory has */
        assert(logview_last_term(log) <= raft->term || !raft->keeps_log);
        assert(log->n_confs > 0 && log->confs[0].index <= raft->commit);
        assert(log->n_confs == 1 || log->confs[1].index > raft->commit);
        assert((raft->role == RAFT_LEADER) == (raft->leader == raft->options.id));
        assert(raft->role != RAFT_LEADER || (raft->vote == raft->options.id && raft->commit <= log->last));
        assert(raft->role == RAFT_CANDIDATE || !raft->requests_held);
        assert(!raft->damaged || raft->role == RAFT_FOLLOWER || raft->role == RAFT_PASSIVE);
        assert((raft->role == RAFT_PASSIVE) == !raft_is_eligible(raft));
        assert(raft->role == RAFT_LEADER || raft->n_peers == 0);
        assert(raft->role == RAFT_LEADER || raft->n_reads == 0);
        for (size_t i = 0; i < raft->n_peers; i++)
                assert(raft->peers[i].match < raft->peers[i].next && raft->peers[i].match <= log->last);
}

int raft_done(Raft *raft, int r) {
        if (raft->failed)
                return -ENOMEM;
        check(raft);
        return r;
}

int raft_new(Raft **ret, const RaftOptions *options) {
        assert(options->id != 0 && options->election_usec > 0 && options->heartbeat_usec > 0);

        _cleanup_(raft_freep) Raft *raft = calloc(1, sizeof(Raft));
        if (!raft)
                return -ENOMEM;
        raft->options = *options;
        raft->random.state = options->seed;
        raft->damaged = options->damaged;
        raft->loads = calloc(PEERS_MAX, sizeof(RaftLoad));
        raft->snapshots = calloc(PEERS_MAX, sizeof(uint64_t));
        raft->progress = calloc(PEERS_MAX, sizeof(RaftProgress));
        if (!raft->loads || !raft->snapshots || !raft->progress)
                return -ENOMEM;
        if (logview_reset(&raft->log, 0, 0, &(Conf){}, 0) < 0)
                return -ENOMEM;
        *ret = TAKE(raft);
        return 0;
}

Raft *raft_free(Raft *raft) {
        if (!raft)
                return NULL;
        peers_clear(raft);
        logview_deinit(&raft->log);
        for (size_t i = 0; i < raft->n_pool; i++)
                entry_unref(raft->pool[i]);
        free(raft->peers);
        free(raft->batches);
        free(raft->reads);
        free(raft->done);
        free(raft->done_out);
        free(raft->queue);
        free(raft->messages);
        free(raft->pool);
        free(raft->store_entries);
        free(raft->loads);
        free(raft->snapshots);
        free(raft->progress);
        free(raft);
        return NULL;
}

/* A log that holds entries of a term, or begins behind one, knows that this term exists; its vote is spent,
 * so that nobody is chosen a second time in it (counter-example 1). Our own id says "spent": we never
 * campaign in a term we are in already. */
static void base_term_spent(Raft *raft, uint64_t term) {
        set_term(raft, MAX(raft->term, term));
        if (raft->term == term && term > 0 && raft->vote == 0)
                set_vote(raft, raft->options.id);
}

void raft_restore(Raft *raft, uint64_t term, uint64_t vote, uint64_t base_index, uint64_t base_term,
                  const Conf *conf, uint64_t conf_index) {
        assert(!raft->started && raft->log.last == 0);
        assert(term <= TERM_MAX && base_term <= TERM_MAX && base_index <= INDEX_MAX);

        raft->term = term;
        raft->vote = vote;
        int r = logview_reset(&raft->log, base_index, base_term, conf, MIN(conf_index, base_index));
        assert(r >= 0); /* room for one configuration was made by raft_new() */
}

int raft_restore_entry(Raft *raft, Entry *entry, bool keep) {
        assert(!raft->started);
        if (entry->index != raft->log.last + 1 || entry->term < logview_last_term(&raft->log) ||
            entry->term == 0 || entry->term > TERM_MAX)
                return -EBADMSG;
        return logview_append(&raft->log, entry, keep);
}

int raft_start(Raft *raft, uint64_t commit, uint64_t now_usec) {
        assert(!raft->started);

        raft->started = true;
        raft->now = now_usec;
        raft->role = RAFT_PASSIVE;
        raft->commit = MIN(MAX(commit, raft->log.base_index), raft->log.last);
        raft->durable = raft->log.last;
        raft->next_store = raft->log.last + 1;
        logview_prune_confs(&raft->log, raft->commit);
        /* A log without entries whose configuration does not name us may be an observer's, which has none.
         */
        raft->keeps_log = raft->log.last > raft->log.base_index;
        for (size_t i = 0; i < raft->log.n_confs; i++)
                raft->keeps_log |= conf_is_voter(&raft->log.confs[i].conf, raft->options.id);
        if (raft->keeps_log) {
                if (raft->log.last == raft->log.base_index || raft->term < logview_last_term(&raft->log))
                        base_term_spent(raft, logview_last_term(&raft->log));
        }
        raft_refresh_role(raft);

        /* Nobody to wait for: a host that is alone elects itself at once. */
        const Conf *conf = raft_conf(raft);
        if (raft->role == RAFT_FOLLOWER && !raft->damaged && conf->n_voters == 1 && !conf_is_joint(conf) &&
            conf_is_voter(conf, raft->options.id))
                election_campaign(raft, false);
        return raft_done(raft, 0);
}

/* ── Roles ───────────────────────────────────────────────────────────────────────────────────────────────
 */

/* May this host campaign? It may while any configuration that could still come into force again names it:
 * one that was appended but is not committed can vanish, and a voter that is left out by one may be the only
 * host that holds it. */
bool raft_is_eligible(const Raft *raft) {
        for (size_t i = 0; raft->keeps_log && i < raft->log.n_confs; i++)
                if (conf_is_voter(&raft->log.confs[i].conf, raft->options.id))
                        return true;
        return false;
}

void raft_refresh_role(Raft *raft) {
        bool eligible = raft_is_eligible(raft);
        if (eligible && raft->role == RAFT_PASSIVE) {
                raft->role = RAFT_FOLLOWER;
                election_draw(raft);
        } else if (!eligible && raft->role != RAFT_PASSIVE && raft->role != RAFT_LEADER) {
                SIM_SEEN("raft: a voter becomes passive");
                raft->role = RAFT_PASSIVE;
                raft->requests_held = false;
        }
}

void become_follower(Raft *raft, uint64_t term, uint64_t leader) {
        if (raft->role == RAFT_LEADER) {
                SIM_SEEN("raft: a leader goes");
                reads_lose(raft);
                peers_clear(raft);
                raft->transfer = 0;
        }
        set_term(raft, term);
        raft->n_sick = leader != 0 ? 0 : raft->n_sick;
        raft->leader = leader;
        raft->heard = false;
        raft->requests_held = false;
        raft->role = raft_is_eligible(raft) ? RAFT_FOLLOWER : RAFT_PASSIVE;
        election_draw(raft);
}

uint64_t raft_quorum(const Raft *raft, uint64_t (*value)(const Raft *raft, uint64_t id)) {
        const Conf *conf = raft_conf(raft);
        uint64_t result = UINT64_MAX;
        for (int list = 0; list < (conf_is_joint(conf) ? 2 : 1); list++) {
                const ConfVoter *voters = list == 0 ? conf->voters : conf->old;
                uint32_t n = list == 0 ? conf->n_voters : conf->n_old;
                uint64_t sorted[LIMIT_VOTERS]; /* falling */
                for (uint32_t i = 0; i < n; i++) {
                        uint64_t v = value(raft, voters[i].id);
                        uint32_t k = i;
                        for (; k > 0 && sorted[k - 1] < v; k--)
                                sorted[k] = sorted[k - 1];
                        sorted[k] = v;
                }
                result = MIN(result, n > 0 ? sorted[n / 2] : 0);
        }
        return result;
}

void raft_advance_commit(Raft *raft, uint64_t index) {
        assert(index > raft->commit && index <= raft->log.last);

        if (raft->role == RAFT_LEADER)
                for (uint64_t i = raft->commit + 1; i <= index; i++) {
                        const Entry *entry = logview_entry(&raft->log, i);
                        raft->uncommitted_bytes -= entry ? entry->size : 0;
                }
        raft->commit = index;
        logview_prune_confs(&raft->log, index);
        if (raft->role == RAFT_LEADER)
                change_continue(raft);
        raft_refresh_role(raft);
}

/* ── Events ──────────────────────────────────────────────────────────────────────────────────────────────
 */

int raft_tick(Raft *raft, uint64_t now_usec) {
        raft->now = MAX(raft->now, now_usec);
        leader_time(raft);
        switch (raft->role) {
        case RAFT_PASSIVE:
        case RAFT_LEADER:
                break;
        case RAFT_FOLLOWER:
        case RAFT_PRECANDIDATE:
        case RAFT_CANDIDATE:
                if (raft->now >= raft->election_deadline)
                        election_precampaign(raft);
                break;
        }
        return raft_done(raft, 0);
}

static int dispatch(Raft *raft, const RaftMessage *m) {
        switch (m->type) {
        case RAFT_PREVOTE:
                return election_receive_prevote(raft, m);
        case RAFT_VOTE:
                return election_receive_vote(raft, m);
        case RAFT_PREVOTE_REPLY:
        case RAFT_VOTE_REPLY:
                return election_receive_reply(raft, m);
        case RAFT_APPEND:
                return follower_receive_append(raft, m);
        case RAFT_APPEND_REPLY:
                return leader_receive_append_reply(raft, m);
        case RAFT_BEAT:
                return follower_receive_beat(raft, m);
        case RAFT_BEAT_REPLY:
                return leader_receive_beat_reply(raft, m);
        case RAFT_TIMEOUT_NOW:
                return election_receive_timeout_now(raft, m);
        }
        return RAFT_IGNORED;
}

int raft_receive(Raft *raft, const RaftMessage *message, uint64_t now_usec) {
        raft->now = MAX(raft->now, now_usec);
        leader_time(raft);
        if (!message_is_sane(raft, message))
                return raft_done(raft, RAFT_IGNORED);
        return raft_done(raft, dispatch(raft, message));
}

int raft_stored(Raft *raft, uint64_t seq, uint64_t now_usec) {
        raft->now = MAX(raft->now, now_usec);
        leader_time(raft);
        store_complete(raft, seq);
        election_promises(raft);
        leader_commit(raft);
        return raft_done(raft, 0);
}

void raft_observe(Raft *raft, uint64_t index, uint64_t term, const Conf *conf, uint64_t conf_index) {
        if (raft->keeps_log || index < raft->log.last)
                return;
        assert(raft->role == RAFT_PASSIVE);
        int r = logview_reset(&raft->log, index, term, conf, MIN(conf_index, index));
        assert(r >= 0);
        raft->commit = index;
        store_rebase(raft);
}

int raft_base(Raft *raft, uint64_t index, uint64_t term, const Conf *conf, uint64_t conf_index,
              uint64_t now_usec) {
        raft->now = MAX(raft->now, now_usec);
        leader_time(raft);
        LogView *log = &raft->log;
        if ((raft->keeps_log && index < log->base_index) || index > INDEX_MAX || term > TERM_MAX)
                return raft_done(raft, RAFT_IGNORED);

        if (logview_has(log, index) && logview_term(log, index) == term) {
                SIM_SEEN("raft: a base in the middle of the log");
                if (index > raft->commit) {
                        /* What a leader commits, its own majority holds: it leads anew, from there. */
                        if (raft->role == RAFT_LEADER)
                                become_follower(raft, raft->term, 0);
                        raft_advance_commit(raft, index);
                }
                raft->durable = MAX(raft->durable, index);
                raft->next_store = MAX(raft->next_store, index + 1);
                /* The log is empty behind its base, or agreed with us there. */
                if (raft->truncate_from <= index)
                        raft->truncate_from = 0;
                logview_trim(log, index);
        } else {
                SIM_SEEN("raft: a base empties the log");
                assert(index > raft->commit || !raft->keeps_log);
                if (raft->role != RAFT_PASSIVE)
                        become_follower(raft, raft->term, raft->role == RAFT_LEADER ? 0 : raft->leader);
                int r = logview_reset(log, index, term, conf, MIN(conf_index, index));
                assert(r >= 0);
                raft->commit = index;
                store_rebase(raft);
        }
        raft->keeps_log = true;
        if (raft->term < term)
                become_follower(raft, term, 0);
        base_term_spent(raft, term);
        raft_refresh_role(raft);
        return raft_done(raft, 0);
}

void raft_demoted(Raft *raft) {
        if (raft->role != RAFT_PASSIVE || !raft->keeps_log)
                return;
        SIM_SEEN("raft: demoted, the tail goes");
        /* The tail went with the log; what is committed is in the tree. */
        Conf conf = raft->log.confs[0].conf;
        uint64_t term = logview_term(&raft->log, raft->commit);
        int r = logview_reset(&raft->log, raft->commit, term, &conf, raft->log.confs[0].index);
        assert(r >= 0);
        store_rebase(raft);
        raft->keeps_log = false;
}

void raft_spent(Raft *raft, uint64_t term) {
        if (raft->term < term)
                become_follower(raft, term, 0);
        base_term_spent(raft, term);
}

void raft_release(Raft *raft, uint64_t index) {
        logview_release(&raft->log, MIN(index, raft->commit));
}

void raft_trimmed(Raft *raft, uint64_t index) {
        if (raft->keeps_log)
                logview_trim(&raft->log, MIN(index, MIN(raft->commit, raft->durable)));
}

/* ── Looking ─────────────────────────────────────────────────────────────────────────────────────────────
 */

Entry *raft_entry(const Raft *raft, uint64_t index) {
        return logview_entry(&raft->log, index);
}

uint64_t raft_term_of(const Raft *raft, uint64_t index) {
        return logview_term(&raft->log, index);
}

static size_t progress_fill(const Raft *raft) {
        size_t n = 0;
        for (size_t i = 0; i < raft->n_peers; i++) {
                const Peer *peer = raft->peers + i;
                raft->progress[n++] = (RaftProgress){
                        .id = peer->id,
                        .match = peer->match,
                        .next = peer->next,
                        .active = raft->now - peer->contact_usec <= raft->options.election_usec,
                        .in_snapshot = peer->state == PEER_SNAPSHOT,
                        .damaged = peer->damaged,
                        .lost = peer->lost,
                        .leaves = peer->leaving_usec != 0,
                };
        }
        return n;
}

void raft_status(const Raft *raft, RaftStatus *ret) {
        *ret = (RaftStatus){
                .role = raft->role,
                .id = raft->options.id,
                .term = raft->term,
                .vote = raft->vote,
                .leader = raft->leader,
                .base_index = raft->log.base_index,
                .base_term = raft->log.base_term,
                .last_index = raft->log.last,
                .last_term = logview_last_term(&raft->log),
                .durable = raft->durable,
                .commit = raft->commit,
                .ready = raft_is_ready(raft),
                .transferring = raft->transfer != 0,
                .damaged = raft->damaged,
                .lost = raft->lost,
                .halted = damage_halts(raft),
                .heal = raft->damaged ? raft->heal : 0,
                .keeps_log = raft->keeps_log,
                .quorum_contact_usec = leader_quorum_contact(raft),
                .conf = raft_conf(raft),
                .conf_index = raft_conf_index(raft),
                .conf_committed = raft_conf_index(raft) <= raft->commit,
                .progress = raft->progress,
                .n_progress = progress_fill(raft),
        };
}

const char *raft_role_name(RaftRole role) {
        switch (role) {
        case RAFT_PASSIVE:
                return "passive";
        case RAFT_FOLLOWER:
                return "follower";
        case RAFT_PRECANDIDATE:
                return "pre-candidate";
        case RAFT_CANDIDATE:
                return "candidate";
        case RAFT_LEADER:
                return "leader";
        }
        return "unknown";
}
