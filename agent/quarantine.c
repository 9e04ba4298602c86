/* A disk that went back in time, or a copy, is found out before its word counts. Each start of a host raises
 * a durable number and draws a nonce for it. The newest of each host is known to all: its announcement
 * carries it into the tree, and who was greeted by it remembers it meanwhile. Both ends of a connection
 * compare:
 *
 *      A ── hello: start 4, nonce x ──────────────────────────────▶ B: knows start 5 of A: not greeted
 *      A ◀── hello: "what I know of you: start 5, nonce y" ──────── B
 *      A: mine is lower, or the same with another nonce: quarantined, durably
 *
 * No letter is sent or heeded before both hellos were judged, so neither a vote nor an acknowledgement of A
 * leaves, once a single host that it meets knows better. A lower number is refused alone: it may also be the
 * last word of a process that is long dead, so it taints nobody else. Two nonces of one start are never the
 * same host's: both are refused, until the operator removes it. (counter-example 18)
 *
 * A quarantined host still lets its tree be read, with unknown age. It connects to nobody: what it is a copy
 * of may be alive, under the same key. */
#include "hall.h"
#include "base/seen.h"

#include <string.h>

#define SAY_USEC (60 * USEC_PER_SEC)

static void take_newer(TreeStart *known, uint64_t start, const uint8_t nonce[static 16]) {
        if (start == 0 || start < known->start)
                return;
        if (start == known->start && memcmp(nonce, known->nonce, sizeof(known->nonce)) != 0)
                known->twice = true;
        known->start = start;
        memcpy(known->nonce, nonce, sizeof(known->nonce));
}

/* The newest that is known of a host: from the tree, and from who was greeted. */
static TreeStart known_of(Agent *agent, const Connection *connection) {
        TreeStart known = {};
        if (heal_may_touch(agent) && tree_start(agent->tree, connection->host, &known) != 0)
                known = (TreeStart){};
        take_newer(&known, connection->start, connection->start_nonce);
        known.twice = known.twice || connection->twice;
        return known;
}

void quarantine_tell(Agent *agent, const Connection *connection, LetterHello *hello) {
        TreeStart known = known_of(agent, connection);
        hello->known_start = known.start;
        memcpy(hello->known_nonce, known.nonce, sizeof(hello->known_nonce));
        hello->known_twice = known.twice;
}

/* Why a peer is not greeted; NULL: it is. */
const char *quarantine_judge(Agent *agent, Connection *connection, const LetterHello *hello) {
        TreeStart known = known_of(agent, connection);
        uint64_t newest = known.start;

        if (hello->start < newest) {
                SIM_SEEN("quarantine: a peer's start is lower than known");
                return "its state is a copy or was set back (its start number is lower than one that is known)";
        }
        take_newer(&known, hello->start, hello->start_nonce);
        if (!known.twice)
                return NULL;
        SIM_SEEN("quarantine: one start with two nonces");
        connection->twice = true;
        return "its state is a copy or was set back (one start number came with two nonces)";
}

/* A lower number alone. As a rule that process is dead and its host came back faster than its connection was
 * missed (after a power cut nobody closes it), or than its hello arrived. If it lives it is a copy, hears
 * now what is known, and says so itself. */
static void say_earlier(const Agent *agent, const Connection *connection) {
        report_say(
                &agent->report, LOG_INFO,
                "Host %016llx started anew: nothing is heeded any more that comes on the connection of its earlier "
                "process.",
                (unsigned long long)connection->host);
}

void quarantine_say(Agent *agent, Connection *connection, const char *why) {
        if (connection->refused_said_usec != 0 &&
            agent->now_usec - connection->refused_said_usec <= SAY_USEC)
                return;
        connection->refused_said_usec = agent->now_usec;
        if (!connection->twice)
                return say_earlier(agent, connection);
        Member member;
        bool named = members_by_id(agent, connection->host, &member) == 0;
        report_say(
                &agent->report, LOG_ERR,
                "Host %016llx is refused: %s. Remove it here (\"treatyctl remove %s\"), and let it join anew "
                "there (\"treatyctl join --discard TOKEN\").",
                (unsigned long long)connection->host, why, named ? member.name : "HOST");
}

/* ---- The own state ---- */

static void say_quarantined(Agent *agent) {
        report_say(
                &agent->report, LOG_ALERT,
                "The state in %s is a copy or was set back: the others know a newer start of this host. It "
                "neither votes nor speaks for this host any more; reads go on, of unknown age. On another "
                "member: \"treatyctl remove %s\" and \"treatyctl token\"; then here: \"treatyctl join --discard "
                "TOKEN\".",
                agent->options.state_directory, agent->options.host_name);
}

/* Without this mark the number would rise past the known one by starting often enough. */
static void remember(Agent *agent) {
        SIM_SEEN("quarantine: remembered over starts");
        HostFile host = agent->host;
        host.quarantined = true;
        if (host_file_save(agent->options.disk, &host) >= 0)
                agent->host = host;
}

static void leave(Agent *agent) {
        if (agent->raft_status.lost)
                return;
        (void)raft_distrust(agent->raft, agent->now_usec);
        raft_status(agent->raft, &agent->raft_status);
        if (agent->follow.active) {
                follow_end(agent);
                agent->follow.leader = 0;
        }
        for (Connection *c = agent->members.connections; c; c = c->hh.next)
                c->hello = false;
}

void quarantine_enter(Agent *agent) {
        if (!agent->quarantined) {
                agent->quarantined = true;
                say_quarantined(agent);
                SIM_SEEN("quarantine: told that the own state is old, or a copy");
        }
        agent->members.dirty = agent->status_dirty = true;
        agent->duty_usec = 0;
        hall_wake(agent);
}

/* A peer of our own cluster says what it knows of us. Only a full member is believed: a leaf that made
 * something up could silence all voters for good. */
bool quarantine_hears(Agent *agent, uint64_t from, const LetterHello *hello) {
        const LogState *log = log_state(agent->log);
        TreeStart own = {.start = hello->known_start, .twice = hello->known_twice};
        Member member;

        if (members_by_id(agent, from, &member) != 0 || member.class != MEMBER_FULL)
                return false;
        memcpy(own.nonce, hello->known_nonce, sizeof(own.nonce));
        bool newer = own.start > log->start;
        take_newer(&own, log->start, log->start_nonce);
        return newer || own.twice;
}

/* The own row, as others wrote it: after a start, an announcement in our name, another tree. */
void quarantine_look(Agent *agent) {
        const LogState *log = log_state(agent->log);
        TreeStart own;

        if (agent->quarantined || !heal_may_touch(agent) || agent->removed ||
            tree_start(agent->tree, agent->host.id, &own) != 0)
                return;
        bool newer = own.start > log->start;
        take_newer(&own, log->start, log->start_nonce);
        if (newer || own.twice)
                quarantine_enter(agent);
}

/* A newer start of `host` was announced while an older one, or a copy, is connected. */
void quarantine_announced(Agent *agent, uint64_t host) {
        Connection *connection = NULL;

        if (host == agent->host.id)
                return quarantine_look(agent);
        HASH_FIND(hh, agent->members.connections, &host, sizeof(host), connection);
        if (!connection || !connection->hello)
                return;
        LetterHello hello = {.start = connection->start};
        memcpy(hello.start_nonce, connection->start_nonce, sizeof(hello.start_nonce));
        const char *why = quarantine_judge(agent, connection, &hello);
        if (!why)
                return;
        quarantine_say(agent, connection, why);
        SIM_SEEN("quarantine: a newer start is announced while an older one is connected");
        connection->hello = false;
        members_greet(agent, connection); /* it shall know why */
        agent->status_dirty = true;
}

void quarantine_work(Agent *agent) {
        if (!agent->quarantined)
                return;
        leave(agent);
        if (!agent->host.quarantined)
                remember(agent);
}
