/* What arrives on control connections. A letter counts only behind a right hello on the same connection, and
 * only as a word of the host whose key opened it; everything else is dropped, and a sender that is plainly
 * wrong is hung up on. */
#include "hall.h"

#include <string.h>

int hall_send(Agent *agent, uint64_t to, const Letter *letter) {
        _cleanup_(buffer_deinit) Buffer bytes = {};

        if (agent->quarantined || (letter->kind != LETTER_HELLO && !members_connection(agent, to)))
                return -ENOTCONN;
        int r = wire_letter_encode(letter, &bytes);
        if (r < 0)
                return r;
        return agent->outside.send(agent->outside.userdata, to, BYTES(bytes.data, bytes.size));
}

/* A leaf votes for nobody and leads nobody, so its word moves no term: else a single host that is trusted
 * with little could stop them all. Looked up only for words that could: the leader's own are the many. */
static bool is_presumption(Agent *agent, uint64_t host, const RaftMessage *message) {
        const RaftStatus *status = &agent->raft_status;
        bool lead = message->type == RAFT_APPEND || message->type == RAFT_BEAT;
        bool ask = message->type == RAFT_PREVOTE || message->type == RAFT_VOTE;

        if (!ask && (!lead || (host == status->leader && message->term == status->term)))
                return false;
        return members_is_leaf(agent, host);
}

static void raft_letter(Agent *agent, uint64_t host, const RaftMessage *message) {
        if (message->from != host || message->to != agent->host.id) {
                agent->outside.disconnect(agent->outside.userdata, host);
                return;
        }
        if (agent->removed || agent->quarantined || is_presumption(agent, host, message))
                return;
        if (message->type == RAFT_APPEND && agent->follow.active && !agent->raft_status.keeps_log) {
                /* The leader counts on a log here that a restart has lost: begin it (again) where the tree
                 * is, wherever that may be: the change that names this host was made, and may wait for it.
                 */
                LetterPromote promote = {.term = message->term};
                roles_promote(agent, host, &promote);
                return;
        }
        /* With a full disk no entries are taken: one that cannot be stored would hold back every later vote.
         */
        if (agent->log_full && message->type == RAFT_APPEND && message->n_entries > 0)
                return;
        int r = raft_receive(agent->raft, message, agent->now_usec);
        if (r == 0)
                words_heard(agent, members_connection(agent, host), message);
        if (r < 0)
                hall_fail(agent, r, "The core ran out of memory");
        if (r == 0 && (message->type == RAFT_APPEND || message->type == RAFT_BEAT))
                agent->leader_heard_usec = agent->now_usec;
}

static void letter_arrived(Agent *agent, uint64_t host, uint64_t connection, const Letter *letter) {
        switch (letter->kind) {
        case LETTER_HELLO:
                members_hello(agent, host, connection, &letter->hello);
                return;
        case LETTER_RAFT:
                raft_letter(agent, host, &letter->raft);
                return;
        case LETTER_OFFER:
                offers_take(agent, host, connection, &letter->offer);
                return;
        case LETTER_OFFER_REFUSED:
                requests_refused(agent, host, &letter->refused);
                return;
        case LETTER_READ:
                reads_asked(agent, host, &letter->read);
                return;
        case LETTER_READ_REPLY:
                reads_answered(agent, host, &letter->read);
                return;
        case LETTER_KEEPALIVE:
                if (letter->keepalive.host == host)
                        sessions_heard(agent, host, &letter->keepalive);
                return;
        case LETTER_PROMOTE:
                if (!members_is_leaf(agent, host))
                        roles_promote(agent, host, &letter->promote);
                return;
        case LETTER_PROMOTED:
                roles_promoted(agent, host, &letter->promote);
                return;
        case LETTER_FETCH:
                if (roles_may_fetch(agent, host, &letter->promote))
                        (void)snapshot_fetch(agent, host, false);
                return;
        case LETTER_HEAL:
                roles_heal(agent, host, &letter->heal);
                return;
        case LETTER_STATUS:
                roles_status(agent, host, &letter->status);
                return;
        case LETTER_REPORT:
                checks_reported(agent, host, &letter->report);
                return;
        case LETTER_KEEPALIVE_ACK:
                sessions_acknowledged(agent, host, &letter->keepalive);
                return;
        }
}

void agent_letter(Agent *agent, uint64_t host, uint64_t connection, Bytes bytes) {
        WireLetter decoded;

        if (agent->failed != 0)
                return;
        agent->now_usec = hall_now(agent);
        if (wire_letter_decode(bytes, &decoded) < 0) {
                report_say(&agent->report, LOG_WARNING,
                           "Host %016llx sent a letter that cannot be understood: hung up.",
                           (unsigned long long)host);
                agent->outside.disconnect(agent->outside.userdata, host);
                return;
        }
        const Connection *known = members_connection(agent, host);
        if (decoded.letter.kind == LETTER_HELLO || (known && known->connection == connection))
                letter_arrived(agent, host, connection, &decoded.letter);
        wire_letter_done(&decoded);
        hall_wake(agent);
}

void agent_up(Agent *agent, uint64_t host, uint64_t connection) {
        agent->now_usec = hall_now(agent);
        members_up(agent, host, connection);
        hall_wake(agent);
}

void agent_down(Agent *agent, uint64_t host, uint64_t connection, PeersDown why) {
        agent->now_usec = hall_now(agent);
        members_down(agent, host, connection, why);
        if (why == PEERS_DOWN_RESET && agent->failed == 0)
                (void)raft_silent(agent->raft, host, agent->now_usec);
        hall_wake(agent);
}

void agent_unreachable(Agent *agent, uint64_t host, PeersDown why) {
        agent->now_usec = hall_now(agent);
        if (why == PEERS_DOWN_REFUSED)
                agent->members.refused_usec =
                        agent->now_usec; /* who was away learns so that it was removed */
        if (why == PEERS_DOWN_RESET && agent->failed == 0)
                (void)raft_silent(agent->raft, host, agent->now_usec);
        hall_wake(agent);
}

PeersVerdict agent_judge(Agent *agent, const uint8_t key[static KEY_HASH_BYTES], uint64_t *ret_host) {
        return members_judge(agent, key, ret_host);
}

void agent_called(Agent *agent, PeersCall *call, uint64_t host, const uint8_t key[static KEY_HASH_BYTES],
                  const char *method, Bytes request) {
        Outside *outside = &agent->outside;

        agent->now_usec = hall_now(agent);
        if (strcmp(method, CALL_JOIN) == 0)
                join_called(agent, call, key, request);
        else if (host == 0)
                outside->call_end(outside->userdata, call, PEERS_DENIED, "not a member");
        else if (!share_call(agent, host, strcmp(method, CALL_ADMIN) == 0))
                outside->call_end(outside->userdata, call, PEERS_EXHAUSTED,
                                  "this member calls too often; wait a second");
        else if (strcmp(method, CALL_FOLLOW) == 0)
                follow_called(agent, call, host, request);
        else if (strcmp(method, CALL_SNAPSHOT) == 0)
                snapshot_called(agent, call, host);
        else if (strcmp(method, CALL_ADMIN) == 0)
                roles_called(agent, call, host, request);
        else
                outside->call_end(outside->userdata, call, PEERS_UNIMPLEMENTED, "no such call");
        hall_wake(agent);
}
