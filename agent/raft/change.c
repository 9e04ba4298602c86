/* Joint consensus (Raft, section 6). A change of the voters is two entries: the joint configuration, under
 * which every decision needs both majorities, and, when that is committed, the final one, which the leader
 * of the day appends by itself. A configuration is in force as soon as it is appended and ceases to be when
 * its entry is cut off (R11). One at a time, and only by a leader that has committed in its own term (R10).
 *
 *      {A,B,C} ──▶ joint {A,B,D}+{A,B,C} ──committed──▶ {A,B,D} ──committed──▶ C is out
 *
 * A voter that is new gets the index of the joint entry as its `since`, and the leader's knowledge of it
 * starts from nothing: what the same host acknowledged in an earlier life does not count. */
#include "internal.h"
#include "../base/seen.h"

static int conf_append(Raft *raft, const Conf *conf) {
        uint8_t bytes[CONF_BYTES_MAX];
        size_t size = conf_encode(conf, bytes);
        _cleanup_(entry_unrefp) Entry *entry = entry_new(ENTRY_CONF, 0, 0, bytes, (uint32_t)size);
        if (!entry) {
                raft->failed = true;
                return -ENOMEM;
        }
        return leader_append(raft, entry);
}

static bool voters_are_sane(const uint64_t *voters, size_t n) {
        if (n == 0 || n > LIMIT_VOTERS)
                return false;
        for (size_t i = 0; i < n; i++) {
                if (voters[i] == 0)
                        return false;
                for (size_t k = 0; k < i; k++)
                        if (voters[k] == voters[i])
                                return false;
        }
        return true;
}

static bool is_same_set(const Conf *conf, const uint64_t *voters, size_t n) {
        if (conf->n_voters != n)
                return false;
        for (size_t i = 0; i < n; i++)
                if (!conf_is_voter(conf, voters[i]))
                        return false;
        return true;
}

/* A set that waits for the damaged among it could neither go on nor back. */
static bool majority_counts(const Raft *raft, const uint64_t *voters, size_t n) {
        size_t count = 0;
        for (size_t i = 0; i < n; i++) {
                const Peer *peer = peer_find(raft, voters[i]);
                count += !peer || peer_counts(peer);
        }
        return count > n / 2;
}

int raft_change(Raft *raft, const uint64_t *voters, size_t n, uint64_t now_usec) {
        raft->now = MAX(raft->now, now_usec);
        leader_time(raft);
        if (raft->role != RAFT_LEADER)
                return RAFT_NOT_LEADER;
        if (!voters_are_sane(voters, n))
                return RAFT_INVALID;
        if (!raft_is_ready(raft))
                return RAFT_NOT_READY;
        const Conf *now = raft_conf(raft);
        if (raft->transfer != 0 || conf_is_joint(now) || raft_conf_index(raft) > raft->commit)
                return RAFT_BUSY;
        if (is_same_set(now, voters, n))
                return RAFT_INVALID;

        if (!majority_counts(raft, voters, n))
                return RAFT_BUSY;

        Conf joint = {.n_voters = (uint32_t)n, .n_old = now->n_voters};
        for (uint32_t i = 0; i < now->n_voters; i++)
                joint.old[i] = now->voters[i];
        for (size_t i = 0; i < n; i++) {
                const ConfVoter *known = conf_find(now, voters[i]);
                joint.voters[i] = (ConfVoter){
                        .id = voters[i],
                        .since = known ? known->since : raft->log.last + 1,
                };
        }
        return raft_done(raft, conf_append(raft, &joint));
}

/* The configuration in force is committed and we are not in it: tell everybody what is committed, name an
 * heir, go.
 */
static void leave(Raft *raft) {
        for (size_t i = 0; i < raft->n_peers; i++)
                message_send(raft, (RaftMessage){
                                           .type = RAFT_BEAT,
                                           .to = raft->peers[i].id,
                                           .commit = MIN(raft->commit, raft->peers[i].match),
                                   });
        SIM_SEEN("raft: a leader votes itself out");
        transfer_hand_over(raft);
        become_follower(raft, raft->term, 0);
}

/* Leader: the commit index moved. */
void change_continue(Raft *raft) {
        const Conf *conf = raft_conf(raft);
        if (!raft_is_ready(raft) || raft_conf_index(raft) > raft->commit)
                return;
        if (!conf_is_voter(conf, raft->options.id)) {
                leave(raft); /* joint too: the heir goes on with the change */
                return;
        }
        if (!conf_is_joint(conf))
                return;
        SIM_SEEN("raft: a joint configuration is committed");
        Conf final = {.n_voters = conf->n_voters};
        for (uint32_t i = 0; i < conf->n_voters; i++)
                final.voters[i] = conf->voters[i];
        conf_append(raft, &final);
}
