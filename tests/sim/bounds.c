/* Nothing grows without an end: each queue of the core against its limit. (Those of the hall: promise.c.)
 * The core's inside and the hall's do not fit into one file: both have a Read. */
#include "agent/raft/internal.h"
#include "bounds.h"

#include <stddef.h>

/* What is appended to an empty tail is let in however large it is; clients here write up to 200 kB. */
#define SLACK_BYTES (256 * 1024)

static const char *bounds_of_peer(const Peer *peer) {
        if (peer->n_inflight > LIMIT_INFLIGHT_APPENDS)
                return "appends in flight to a peer";
        if (peer->inflight_bytes > LIMIT_INFLIGHT_BYTES + LIMIT_ENTRY_BYTES)
                return "bytes in flight to a peer";
        if (peer->n_loaded > LIMIT_APPEND_ENTRIES)
                return "entries loaded for a peer";
        return NULL;
}

const char *bounds_of_core(const Raft *raft) {
        if (raft->role == RAFT_LEADER &&
            raft->uncommitted_bytes > raft->options.uncommitted_bytes + SLACK_BYTES)
                return "bytes that are not committed";
        if (raft->role == RAFT_LEADER && raft->log.last - raft->commit > LIMIT_UNCOMMITTED_ENTRIES + 64)
                return "entries that are not committed";
        if (raft->n_reads > LIMIT_PENDING_READS || raft->n_done > LIMIT_PENDING_READS)
                return "reads";
        if (raft->n_peers > 4 * LIMIT_VOTERS)
                return "peers";
        if (raft->n_sick > 2 * LIMIT_VOTERS || raft->n_ballots > 2 * LIMIT_VOTERS)
                return "votes";
        if (raft->n_queue > 64 * LIMIT_VOTERS || raft->n_pool > 4 * LIMIT_VOTERS * LIMIT_APPEND_ENTRIES)
                return "messages that nobody took";
        if (raft->n_batches > LIMIT_UNCOMMITTED_ENTRIES)
                return "batches on their way to the disk";
        for (size_t i = 0; i < raft->n_peers; i++) {
                const char *what = bounds_of_peer(raft->peers + i);
                if (what)
                        return what;
        }
        return NULL;
}
