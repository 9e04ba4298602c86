/* What one member may ask of this host. Members are trusted with the tree, not with all of this host's time:
 * one that is broken, or broken into, must not keep the others from it.
 *
 *  - calls: so many at once, then so many a second, of Follow and Snapshot (each may begin a stream or pin a
 * snapshot), and as many of Admin;
 *  - questions (ReadIndex): so many under way; a host asks once per wake for all its readers.
 *
 * Who wants more is refused, and asks again later by himself. */
#include "hall.h"

#define CALL_USEC (USEC_PER_SEC / LIMIT_CALLS_PER_SECOND)

typedef struct Share {
        uint64_t host;         /* key */
        uint64_t paid_usec[2]; /* its calls are paid for until then, one CALL_USEC each; [1]: Admin */
        unsigned questions;
        UT_hash_handle hh;
} Share;

/* One per member that ever asked; NULL: out of memory. */
static Share *share_of(Agent *agent, uint64_t host) {
        Share *share = NULL;
        HASH_FIND(hh, agent->shares, &host, sizeof(host), share);
        if (share)
                return share;
        share = calloc(1, sizeof(Share));
        if (!share)
                return NULL;
        share->host = host;
        HASH_ADD(hh, agent->shares, host, sizeof(share->host), share);
        if (HASH_ADDED(share))
                return share;
        free(share);
        return NULL;
}

bool share_call(Agent *agent, uint64_t host, bool admin) {
        Share *share = share_of(agent, host);
        if (!share)
                return false;
        uint64_t paid = MAX(share->paid_usec[admin], agent->now_usec);
        if (paid - agent->now_usec > LIMIT_CALLS_AT_ONCE * CALL_USEC)
                return false;
        share->paid_usec[admin] = paid + CALL_USEC;
        return true;
}

bool share_question(Agent *agent, uint64_t host) {
        Share *share = share_of(agent, host);
        if (!share || share->questions >= LIMIT_QUESTIONS_PER_HOST)
                return false;
        share->questions++;
        return true;
}

void share_answered(Agent *agent, uint64_t host) {
        Share *share = NULL;
        HASH_FIND(hh, agent->shares, &host, sizeof(host), share);
        if (share) {
                assert(share->questions > 0);
                share->questions--;
        }
}

void shares_reset(Agent *agent) {
        Share *share, *next;
        HASH_ITER (hh, agent->shares, share, next) {
                HASH_DEL(agent->shares, share);
                free(share);
        }
}
