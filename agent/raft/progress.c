/* What the leader knows of one peer, as in etcd's tracker:
 *
 *      PROBE ──an append was taken──▶ REPLICATE
 *        ▲   ◀──refused, lost, silent──┘
 *        │ done or failed
 *      SNAPSHOT ◀──what it needs is no longer in the log── (either)
 *
 * One append at a time to who is probed, many in flight, in hope, to who takes them.
 *
 * `match` only rises within one life of the peer as a voter; hints move nothing but `next` (R21). */
#include "internal.h"

#include <string.h>

Peer *peer_find(const Raft *raft, uint64_t id) {
        for (size_t i = 0; i < raft->n_peers; i++)
                if (raft->peers[i].id == id)
                        return raft->peers + i;
        return NULL;
}

void peer_forget_loaded(Peer *peer) {
        for (size_t i = 0; i < peer->n_loaded; i++)
                entry_unref(peer->loaded[i]);
        free(peer->loaded);
        peer->loaded = NULL;
        peer->n_loaded = 0;
}

/* Everything from zero: nothing of an earlier life of this host as a voter counts (R31). */
static void peer_begin(Raft *raft, Peer *peer, uint64_t id, uint64_t since) {
        *peer = (Peer){
                .id = id,
                .since = since,
                .state = PEER_PROBE,
                .next = raft->log.last + 1,
                .contact_usec = raft->now,
                .follow_usec = raft->now,
                .ack_usec = raft->now,
        };
}

/* What it acknowledged may be gone: its progress begins at nothing, as that of a new voter. */
void peer_damaged(Raft *raft, Peer *peer) {
        Peer before = *peer;
        peer_forget_loaded(peer);
        peer_begin(raft, peer, before.id, before.since);
        peer->life = before.life;
        peer->damaged = true;
        peer->leaving_usec = before.leaving_usec;
        peer->leaving_index = before.leaving_index;
}

Peer *peer_add(Raft *raft, uint64_t id, uint64_t since) {
        if (!raft->peers)
                raft->peers = calloc(PEERS_MAX, sizeof(Peer));
        if (!raft->peers) {
                raft->failed = true;
                return NULL;
        }
        for (size_t i = 0; raft->n_peers >= PEERS_MAX && i < raft->n_peers; i++)
                if (raft->peers[i].leaving_usec != 0)
                        peer_remove(raft, raft->peers + i);
        if (raft->n_peers >= PEERS_MAX)
                return NULL;
        Peer *peer = raft->peers + raft->n_peers++;
        peer_begin(raft, peer, id, since);
        return peer;
}

void peer_remove(Raft *raft, Peer *peer) {
        peer_forget_loaded(peer);
        size_t i = (size_t)(peer - raft->peers);
        memmove(peer, peer + 1, (raft->n_peers - i - 1) * sizeof(Peer));
        raft->n_peers--;
}

static void inflight_clear(Peer *peer) {
        peer->inflight_first = 0;
        peer->n_inflight = 0;
        peer->inflight_bytes = 0;
}

void peer_probe(Peer *peer, uint64_t next) {
        assert(next > peer->match);
        peer->state = PEER_PROBE;
        peer->next = next;
        peer->paused = false;
        peer->empty_probe = false;
        peer->verify = false;
        peer->watch_beat = 0;
        peer->told = 0;
        inflight_clear(peer);
}

void peer_replicate(Peer *peer) {
        peer_probe(peer, peer->match + 1);
        peer->state = PEER_REPLICATE;
}

bool peer_window_is_full(const Peer *peer) {
        return peer->n_inflight >= LIMIT_INFLIGHT_APPENDS || peer->inflight_bytes >= LIMIT_INFLIGHT_BYTES;
}

void peer_sent(Peer *peer, uint64_t last, size_t bytes, uint64_t now) {
        assert(peer->state == PEER_REPLICATE && !peer_window_is_full(peer));
        if (peer->n_inflight == 0)
                peer->ack_usec = now;
        size_t at = (peer->inflight_first + peer->n_inflight++) % LIMIT_INFLIGHT_APPENDS;
        peer->inflight[at] = (Inflight){.last = last, .bytes = bytes};
        peer->inflight_bytes += bytes;
        peer->next = last + 1;
}

static void inflight_free(Peer *peer, uint64_t match) {
        while (peer->n_inflight > 0 && peer->inflight[peer->inflight_first].last <= match) {
                peer->inflight_bytes -= peer->inflight[peer->inflight_first].bytes;
                peer->inflight_first = (peer->inflight_first + 1) % LIMIT_INFLIGHT_APPENDS;
                peer->n_inflight--;
        }
}

/* True when `match` rose. */
bool peer_acknowledged(Peer *peer, uint64_t match, uint64_t base_index, uint64_t now) {
        if (match < peer->match)
                return false;

        bool rose = match > peer->match;
        peer->match = match;
        peer->next = MAX(peer->next, match + 1);
        inflight_free(peer, match);
        if (rose)
                peer->ack_usec = now;
        if (peer->state == PEER_PROBE || (peer->state == PEER_SNAPSHOT && match >= base_index)) {
                peer_replicate(peer);
                peer->ack_usec = now;
        }
        return rose;
}

/* The follower names the first index of the term it has where we expected ours, or the end of its log. If we
 * have that term at all, the logs may be equal up to its end; else they part before it begins. */
void peer_refused(Peer *peer, const LogView *log, const RaftMessage *m) {
        bool timely = m->log_index > peer->match && m->log_index < peer->next;
        if (!timely || peer->state == PEER_SNAPSHOT)
                return;
        if (peer->state == PEER_PROBE && m->log_index != peer->next - 1)
                return;

        uint64_t next = m->hint_index, last;
        if (m->hint_term != 0 && m->hint_term <= logview_term(log, m->log_index) &&
            logview_term_last(log, m->hint_term, &last))
                next = last + 1;
        next = MAX(MIN(next, m->log_index), peer->match + 1);
        peer_probe(peer, next);
}

/* Connections keep the order of letters, so an answer to a beat overtakes nothing: what was sent before the
 * beat and is not in the peer's log was lost. What is in its log but not acknowledged waits for its disk, or
 * the answer was lost: ask by an empty append, never by sending a megabyte again. */
static void notice_lost_appends(Peer *peer, const RaftMessage *m, uint64_t now, uint64_t patience_usec) {
        if (peer->watch_beat != 0 && m->beat >= peer->watch_beat) {
                peer->watch_beat = 0;
                if (m->match < peer->watch_last && peer->watch_last > peer->match) {
                        peer_probe(peer, MAX(peer->match, m->match) + 1);
                        return;
                }
        }
        if (peer->n_inflight > 0 && now - peer->ack_usec > patience_usec &&
            now - peer->verify_usec > patience_usec)
                peer->verify = true;
}

void peer_answered_beat(Peer *peer, const RaftMessage *m, uint64_t now, uint64_t heartbeat_usec) {
        switch (peer->state) {
        case PEER_PROBE:
                /* The probe got no answer though a later beat did (R29). */
                if (peer->paused && m->beat > peer->probe_beat) {
                        peer->paused = false;
                        peer->empty_probe = true;
                }
                return;
        case PEER_REPLICATE:
                notice_lost_appends(peer, m, now, 2 * heartbeat_usec);
                return;
        case PEER_SNAPSHOT:
                return;
        }
}

void peers_clear(Raft *raft) {
        while (raft->n_peers > 0)
                peer_remove(raft, raft->peers + raft->n_peers - 1);
}

/* Hosts that a change leaves out are told of its end as well, for a while; else they would campaign against
 * a configuration they know nothing of. */
static void peers_retire(Raft *raft) {
        for (size_t i = 0; i < raft->n_peers; i++) {
                Peer *peer = raft->peers + i;
                if (conf_is_voter(raft_conf(raft), peer->id))
                        peer->leaving_usec = 0;
                else if (peer->leaving_usec == 0)
                        peer->leaving_usec = raft->now + 10 * raft->options.election_usec;
        }
}

static void peers_take(Raft *raft, const ConfVoter *voters, uint32_t n) {
        for (uint32_t i = 0; i < n; i++) {
                Peer *peer = peer_find(raft, voters[i].id);
                if (voters[i].id == raft->options.id)
                        continue;
                if (!peer)
                        peer_add(raft, voters[i].id, voters[i].since);
                else if (peer->since < voters[i].since) {
                        peer_forget_loaded(peer);
                        peer_begin(raft, peer, voters[i].id, voters[i].since);
                }
        }
}

/* The list follows the configurations of the log; the newest come first, should there be too many. */
void peers_sync(Raft *raft) {
        for (size_t i = raft->log.n_confs; i > 0; i--) {
                const Conf *conf = &raft->log.confs[i - 1].conf;
                peers_take(raft, conf->voters, conf->n_voters);
                peers_take(raft, conf->old, conf->n_old);
        }
        peers_retire(raft);
}
