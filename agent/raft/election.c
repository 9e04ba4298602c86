/* Elections. Four rules keep them rare and safe:
 *  - ask first (pre-vote, thesis 9.6): a host that could not win raises nobody's term;
 *  - stickiness (thesis 4.2.3): who hears a leader refuses everybody else, whatever their term, except a
 *    campaign that the leader itself asked for;
 *  - the own vote is a vote like any other: it counts, and requests leave, when it is on disk. Were requests
 * to leave before, a candidate could crash, forget the entries it boasted of, campaign again in the same
 * term and win by the answers to its first campaign;
 *  - every timeout is drawn anew. */
#include "internal.h"
#include "../base/seen.h"

void election_draw(Raft *raft) {
        uint64_t window = MIN(SILENCE_USEC, raft->options.election_usec / 4) + 1;
        uint64_t timeout =
                raft->options.election_usec + random_below(&raft->random, raft->options.election_usec);
        if (raft->quick > 0) {
                raft->quick--;
                timeout = window + random_below(&raft->random, window);
        }
        raft->election_deadline = raft->now + timeout;
}

/* Does a leader other than `candidate` live, as far as is known here? It is the candidate's identity that
 * counts: the leader itself may have restarted (R14). */
static bool is_sticky(const Raft *raft, uint64_t candidate) {
        if (raft->role == RAFT_LEADER)
                return true;
        return raft->leader != 0 && raft->leader != candidate && raft->heard &&
               raft->now - raft->heard_usec < raft->options.election_usec;
}

/* Section 5.4.1. What is not yet on disk counts too: it may be acknowledged before the vote is. */
static bool is_up_to_date(const Raft *raft, const RaftMessage *m) {
        uint64_t term = logview_last_term(&raft->log);
        return m->log_term > term || (m->log_term == term && m->log_index >= raft->log.last);
}

static void ballot_cast(Raft *raft, uint64_t id, bool granted) {
        for (size_t i = 0; i < raft->n_ballots; i++)
                if (raft->ballots[i].id == id)
                        return;
        if (conf_is_voter(raft_conf(raft), id) && raft->n_ballots < ELEMENTSOF(raft->ballots))
                raft->ballots[raft->n_ballots++] = (Ballot){.id = id, .granted = granted};
}

static uint64_t value_granted(const Raft *raft, uint64_t id) {
        for (size_t i = 0; i < raft->n_ballots; i++)
                if (raft->ballots[i].id == id)
                        return raft->ballots[i].granted;
        return 0;
}

static uint64_t value_not_refused(const Raft *raft, uint64_t id) {
        for (size_t i = 0; i < raft->n_ballots; i++)
                if (raft->ballots[i].id == id)
                        return raft->ballots[i].granted;
        return 1;
}

static void ballots_count(Raft *raft) {
        if (raft_quorum(raft, value_granted) > 0) {
                if (raft->role == RAFT_PRECANDIDATE)
                        election_campaign(raft, false);
                else
                        become_leader(raft);
        } else if (raft_quorum(raft, value_not_refused) == 0)
                become_follower(raft, raft->term, 0);
}

static bool is_in_new_list(const Conf *conf, uint64_t id) {
        for (uint32_t i = 0; i < conf->n_voters; i++)
                if (conf->voters[i].id == id)
                        return true;
        return false;
}

static void ask_for_votes(Raft *raft, RaftMessageType type, uint64_t term) {
        const Conf *conf = raft_conf(raft);
        for (uint32_t i = 0; i < conf->n_voters + conf->n_old; i++) {
                bool is_new = i < conf->n_voters;
                uint64_t id = is_new ? conf->voters[i].id : conf->old[i - conf->n_voters].id;
                if (id == raft->options.id || (!is_new && is_in_new_list(conf, id)))
                        continue; /* voters of both lists were asked already */
                message_send(raft, (RaftMessage){
                                           .type = type,
                                           .to = id,
                                           .term = term,
                                           .log_index = raft->log.last,
                                           .log_term = logview_last_term(&raft->log),
                                           .force = raft->force,
                                   });
        }
}

void election_precampaign(Raft *raft) {
        assert(raft->role == RAFT_FOLLOWER || raft->role == RAFT_PRECANDIDATE ||
               raft->role == RAFT_CANDIDATE);

        if (raft->damaged) {
                raft->leader = 0;
                raft->heard = false;
                election_draw(raft);
                return;
        }
        if (raft->term >= TERM_MAX || store_is_stuck(raft)) {
                election_draw(raft);
                return;
        }
        raft->role = RAFT_PRECANDIDATE;
        raft->leader = 0;
        raft->heard = false;
        raft->force = false;
        raft->requests_held = false;
        raft->n_ballots = 0;
        election_draw(raft);
        ask_for_votes(raft, RAFT_PREVOTE, raft->term + 1);
        ballot_cast(raft, raft->options.id, true);
        ballots_count(raft);
}

void election_campaign(Raft *raft, bool force) {
        assert(!raft->damaged);
        if (raft->term >= TERM_MAX) {
                election_draw(raft);
                return;
        }
        raft->role = RAFT_CANDIDATE;
        SIM_SEEN("raft: campaign");
        raft->leader = 0;
        raft->heard = false;
        raft->force = force;
        raft->n_ballots = 0;
        set_term(raft, raft->term + 1);
        set_vote(raft, raft->options.id);
        raft->requests_held = true;
        election_draw(raft);
}

/* What was promised about votes may be said now, if its batch is on disk. */
void election_promises(Raft *raft) {
        if (!store_hard_is_durable(raft))
                return;

        if (raft->requests_held && raft->force)
                SIM_SEEN("raft: a campaign by order of the leader");
        if (raft->owe_vote) {
                raft->owe_vote = false;
                message_send(raft, (RaftMessage){.type = RAFT_VOTE_REPLY, .to = raft->vote});
        }
        if (raft->requests_held) {
                assert(raft->role == RAFT_CANDIDATE);
                raft->requests_held = false;
                ask_for_votes(raft, RAFT_VOTE, raft->term);
                ballot_cast(raft, raft->options.id, true);
                ballots_count(raft);
        }
}

static int refuse(Raft *raft, const RaftMessage *m, RaftMessageType type) {
        message_send(raft, (RaftMessage){.type = type, .to = m->from, .refused = true});
        return 0;
}

int election_receive_prevote(Raft *raft, const RaftMessage *m) {
        if (raft->role == RAFT_LEADER)
                leader_meet_stranger(raft, m);
        if (raft->damaged) { /* no word on the candidate; but who counts may know why */
                if (raft->term == 0)
                        return RAFT_IGNORED;
                message_send(raft, (RaftMessage){.type = RAFT_PREVOTE_REPLY,
                                                 .to = m->from,
                                                 .refused = true,
                                                 .damaged = true});
                return 0;
        }
        /* A refusal carries our term, so that a candidate that lags behind catches up (R14). Granting
         * promises nothing, stores nothing, and does not put off our own timeout (R15). */
        if (m->term <= raft->term || is_sticky(raft, m->from) || !is_up_to_date(raft, m)) {
                if (raft->term == 0)
                        return RAFT_IGNORED; /* no term to speak of: silence is refusal enough */
                return refuse(raft, m, RAFT_PREVOTE_REPLY);
        }
        message_send(raft, (RaftMessage){.type = RAFT_PREVOTE_REPLY, .to = m->from, .term = m->term});
        return 0;
}

/* Asked by need of the candidate, not by our own view of who votes: a host that is about to become a voter,
 * and does not know it yet, may be needed (R32). */
int election_receive_vote(Raft *raft, const RaftMessage *m) {
        if (raft->damaged)
                return RAFT_IGNORED;
        if (m->term < raft->term)
                return refuse(raft, m, RAFT_VOTE_REPLY);
        if (m->term > raft->term) {
                if (!m->force && is_sticky(raft, m->from)) {
                        SIM_SEEN("raft: a vote is not even answered, a leader lives");
                        return RAFT_IGNORED;
                }
                become_follower(raft, m->term, 0);
        }
        bool free = raft->vote == m->from || (raft->vote == 0 && raft->leader == 0);
        if (raft->vote != 0 && raft->vote != m->from)
                SIM_SEEN("raft: a second candidate in one term");
        if (free && !is_up_to_date(raft, m))
                SIM_SEEN("raft: a candidate lacks entries");
        if (!free || !is_up_to_date(raft, m))
                return refuse(raft, m, RAFT_VOTE_REPLY);

        if (raft->role == RAFT_PRECANDIDATE)
                SIM_SEEN("raft: votes while asking itself");
        if (raft->role == RAFT_PRECANDIDATE)
                become_follower(raft, raft->term, 0);
        set_vote(raft, m->from);
        raft->owe_vote = true;
        raft->quick = 0;
        election_draw(raft);
        election_promises(raft);
        return 0;
}

int election_receive_reply(Raft *raft, const RaftMessage *m) {
        bool pre = m->type == RAFT_PREVOTE_REPLY;
        if (m->damaged && raft->role != RAFT_LEADER)
                sick_note(raft, m->from);
        if (m->refused && m->term > raft->term) {
                if (!conf_is_voter(raft_conf(raft), m->from))
                        return RAFT_IGNORED;
                SIM_SEEN("raft: a candidate learns a newer term from a refusal");
                bool again = pre && raft->role == RAFT_PRECANDIDATE;
                become_follower(raft, m->term, 0);
                /* Only our term was old: ask again soon. It rose, so this cannot go on for ever. */
                if (again && raft->role == RAFT_FOLLOWER)
                        raft->election_deadline = raft->now + random_below(&raft->random, SILENCE_USEC);
                return 0;
        }

        uint64_t term = pre && !m->refused ? raft->term + 1 : raft->term;
        RaftRole role = pre ? RAFT_PRECANDIDATE : RAFT_CANDIDATE;
        if (!pre && !m->refused && (m->term != term || raft->role != role))
                SIM_SEEN("raft: a vote comes too late");
        if (m->term != term || raft->role != role || raft->requests_held)
                return RAFT_IGNORED;
        ballot_cast(raft, m->from, !m->refused);
        ballots_count(raft);
        return 0;
}

/* Thesis 3.10: obeyed only from the leader we follow, in its term (R16). */
int election_receive_timeout_now(Raft *raft, const RaftMessage *m) {
        if (m->term != raft->term || m->from != raft->leader || raft->role != RAFT_FOLLOWER)
                return RAFT_IGNORED;
        if (!conf_is_voter(raft_conf(raft), raft->options.id) || raft->damaged || store_is_stuck(raft))
                return RAFT_IGNORED;
        SIM_SEEN("raft: told to campaign at once");
        election_campaign(raft, true);
        return 0;
}

/* ── The leader hands over ───────────────────────────────────────────────────────────────────────────────
 */

static Peer *best_heir(const Raft *raft) {
        Peer *best = NULL;
        for (size_t i = 0; i < raft->n_peers; i++) {
                Peer *peer = raft->peers + i;
                if (!conf_is_voter(raft_conf(raft), peer->id) || peer->leaving_usec != 0 ||
                    !peer_counts(peer))
                        continue;
                if (raft->now - peer->contact_usec > raft->options.election_usec)
                        continue;
                if (!best || peer->match > best->match)
                        best = peer;
        }
        return best;
}

int raft_transfer(Raft *raft, uint64_t target, uint64_t now_usec) {
        raft->now = MAX(raft->now, now_usec);
        leader_time(raft);
        if (raft->role != RAFT_LEADER)
                return RAFT_NOT_LEADER;

        Peer *peer = target == 0 ? best_heir(raft) : peer_find(raft, target);
        if (!peer || !conf_is_voter(raft_conf(raft), peer->id) || !peer_counts(peer))
                return RAFT_INVALID;
        if (raft->transfer != 0)
                return raft->transfer == peer->id ? 0 : RAFT_BUSY;
        SIM_SEEN("raft: leadership is handed over");
        raft->transfer = peer->id;
        raft->transfer_sent = false;
        raft->transfer_deadline = raft->now + raft->options.election_usec;
        transfer_continue(raft);
        return raft_done(raft, 0);
}

static void send_timeout_now(Raft *raft, uint64_t to) {
        message_send(raft, (RaftMessage){
                                   .type = RAFT_TIMEOUT_NOW,
                                   .to = to,
                                   .log_index = raft->log.last,
                                   .log_term = logview_last_term(&raft->log),
                           });
}

/* As soon as the target has everything; no proposal is taken meanwhile, so that moment comes. */
void transfer_continue(Raft *raft) {
        if (raft->transfer == 0 || raft->transfer_sent)
                return;
        Peer *peer = peer_find(raft, raft->transfer);
        if (!peer || peer->leaving_usec != 0 || !peer_counts(peer)) {
                raft->transfer = 0;
                return;
        }
        if (peer->match < raft->log.last)
                return;
        send_timeout_now(raft, peer->id);
        raft->transfer_sent = true;
}

/* A leader that goes at once (no longer a voter, or its disk hangs) names its heir so that nobody waits for
 * a timeout: who holds most, be it less than we. Should another hold still more, the heir loses, and it is
 * as if nobody had been named. */
void transfer_hand_over(Raft *raft) {
        Peer *peer = best_heir(raft);
        if (peer)
                send_timeout_now(raft, peer->id);
}

int raft_silent(Raft *raft, uint64_t peer, uint64_t now_usec) {
        raft->now = MAX(raft->now, now_usec);
        leader_time(raft);
        if (raft->role == RAFT_LEADER) {
                /* What was on its way went down with the connection. */
                Peer *p = peer_find(raft, peer);
                if (p && p->state == PEER_REPLICATE)
                        peer_probe(p, p->match + 1);
                return raft_done(raft, 0);
        }
        if (raft->leader != peer || peer == 0)
                return RAFT_IGNORED;

        raft->heard = false;
        if (raft->role == RAFT_FOLLOWER) {
                uint64_t window = MIN(SILENCE_USEC, raft->options.election_usec / 4) + 1;
                SIM_SEEN("raft: the leader's connection broke");
                raft->quick = SILENCE_RETRIES;
                raft->election_deadline =
                        MIN(raft->election_deadline, raft->now + random_below(&raft->random, window));
        }
        return raft_done(raft, 0);
}
