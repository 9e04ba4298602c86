/* Voters that may have lost what they promised (rot in the log, a disk that forgot). Raft counts on it that
 * what a voter acknowledged is still there when it votes, so a damaged voter is no voter for a while:
 *
 *      damaged   takes appends and stores them; does not vote, pre-vote or campaign; does not count for
 *         │      commit, check-quorum or reads; is nobody's heir
 *         │  a leader hears of it, forgets what it knew of this peer, appends an empty entry H, tells H
 *         │  H is on the own disk and committed, by a majority of voters that are not damaged
 *         ▼
 *      whole     one record: damage cleared, the term at least H's, the vote of that term spent
 *
 * Why H: all that this host ever acknowledged lies in the leader's log before H (a leader is elected without
 * the damaged, so by hosts that still have it), and to hold H is to hold what lies before. "Up to where
 * the damage was" is not enough: what was acknowledged behind it would be missing (counter-example 6). Nor
 * is an H from before the leader heard: it was perhaps counted on a disk that had forgotten already.
 *
 * Why a lost vote does no harm: a candidate that got it, in a term above H's, had left H's term before
 * H was appended, so it lacks H, and every majority holds somebody who has H and refuses it.
 *
 * A life is one process of a host. Damage is found at start, so within one life a host is damaged first,
 * then whole, never the other way round; an answer of an earlier life changes nothing. A change of leader
 * starts all over. With a majority damaged nobody is elected, and nothing goes on but reads: only an
 * operator can know which copy to believe.
 *
 * Lost: a follower whose log ends before what it acknowledged to this very leader lost it without
 * noticing. It does not count from then on, and is told; it stores "damaged" and starts anew. */
#include "internal.h"

/* ── Leader ──────────────────────────────────────────────────────────────────────────────────────────────
 */

static void begin_healing(Raft *raft, Peer *peer) {
        peer_damaged(raft, peer);
        leader_append_noop(raft);
        peer->heal = raft->log.last;
}

/* False: this answer is to be ignored. */
bool leader_hears_life(Raft *raft, Peer *peer, const RaftMessage *m) {
        if (m->life < peer->life)
                return false;
        bool again = m->life == peer->life;
        peer->life = m->life;
        if (m->damaged) {
                if (!peer->damaged || !again)
                        begin_healing(raft, peer);
                return !raft->failed;
        }
        if (peer->lost)
                return false;
        if (peer->damaged) {
                peer->damaged = false;
                peer->heal = 0;
                peer->beat_acked = 0; /* answers to beats count from now on */
        }
        return true;
}

/* Its log ended there when it answered a beat which was sent after it had acknowledged more. */
void leader_notices_loss(Raft *raft, Peer *peer, const RaftMessage *m) {
        bool votes = conf_is_voter(raft_conf(raft), peer->id) && peer->leaving_usec == 0;
        if (votes && peer_counts(peer) && m->beat > peer->match_beat && m->match < peer->match)
                peer->lost = true;
}

void leader_tells_damage(const Peer *peer, RaftMessage *m) {
        if (peer_counts(peer))
                return;
        m->life = peer->life;
        m->heal = peer->heal;
        m->damaged = peer->lost;
}

/* ── Follower ────────────────────────────────────────────────────────────────────────────────────────────
 */

void follower_hears_damage(Raft *raft, const RaftMessage *m) {
        if (m->life != raft->options.life)
                return;
        if (m->damaged && !raft->damaged) {
                raft->damaged = raft->lost = true; /* whole again in another life only */
                raft->owe_vote = false;
        } else if (raft->damaged && !raft->lost && m->heal != 0)
                raft->heal = m->heal;
}

bool damage_is_over(const Raft *raft) {
        if (!raft->damaged || raft->lost || raft->heal == 0 || raft->heal_seq != 0)
                return false;
        if (raft->durable < raft->heal || raft->commit < raft->heal)
                return false;
        /* In this term only its leader could have put anything there. */
        uint64_t at = MAX(raft->heal, raft->log.base_index);
        return logview_term(&raft->log, at) == raft->term;
}

int raft_mark(Raft *raft, uint64_t *ret_index, uint64_t now_usec) {
        raft->now = MAX(raft->now, now_usec);
        leader_time(raft);
        if (raft->role != RAFT_LEADER)
                return RAFT_NOT_LEADER;
        if (raft->transfer != 0 || raft->log.last - raft->commit >= LIMIT_UNCOMMITTED_ENTRIES)
                return RAFT_BUSY;
        leader_append_noop(raft);
        *ret_index = raft->log.last;
        return raft_done(raft, 0);
}

int raft_distrust(Raft *raft, uint64_t now_usec) {
        raft->now = MAX(raft->now, now_usec);
        if (raft->role != RAFT_FOLLOWER && raft->role != RAFT_PASSIVE)
                become_follower(raft, raft->term, 0);
        raft->damaged = raft->lost = true;
        raft->heal = raft->heal_seq = 0; /* also when the batch that heals is on its way */
        raft->owe_vote = false;
        return raft_done(raft, 0);
}

/* An observer promised votes, nothing else; its log is its tree, and with it the rule is the same. */
int raft_heal(Raft *raft, uint64_t index, uint64_t term, uint64_t now_usec) {
        raft->now = MAX(raft->now, now_usec);
        if (!raft->damaged || raft->lost || raft->keeps_log || index == 0 || index > INDEX_MAX ||
            term < raft->term || term > TERM_MAX)
                return raft_done(raft, RAFT_IGNORED);
        if (term > raft->term)
                become_follower(raft, term, 0);
        raft->heal = index;
        return raft_done(raft, 0);
}

/* ── Who is left ─────────────────────────────────────────────────────────────────────────────────────────
 */

/* A refusal by a damaged voter: only told, it decides nothing. */
void sick_note(Raft *raft, uint64_t id) {
        for (size_t i = 0; i < raft->n_sick; i++)
                if (raft->sick[i] == id)
                        return;
        if (raft->n_sick < ELEMENTSOF(raft->sick))
                raft->sick[raft->n_sick++] = id;
}

static uint64_t value_whole(const Raft *raft, uint64_t id) {
        if (id == raft->options.id)
                return !raft->damaged;
        const Peer *peer = peer_find(raft, id);
        if (peer)
                return peer_counts(peer);
        for (size_t i = 0; i < raft->n_sick; i++)
                if (raft->sick[i] == id)
                        return 0;
        return 1;
}

/* Nobody that is known of; asked in each turn. */
static bool all_are_whole(const Raft *raft) {
        if (raft->damaged || raft->n_sick > 0)
                return false;
        for (size_t i = 0; i < raft->n_peers; i++)
                if (!peer_counts(&raft->peers[i]))
                        return false;
        return true;
}

bool damage_halts(const Raft *raft) {
        return !all_are_whole(raft) && raft_is_eligible(raft) && raft_quorum(raft, value_whole) == 0;
}
