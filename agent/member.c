/* Who belongs. The replicated member list is the only authority: which key is whose, who may speak, where
 * they live. From it the network learns whom to keep a connection with (voters with everybody, others with
 * voters) and whom to cut off. On each connection both sides first say who they are: cluster, epoch, start
 * number, and what is known of the other's (quarantine.c). */
#include "hall.h"
#include "base/seen.h"

#include <string.h>

#define OWN_USEC (60 * USEC_PER_SEC)

/* ---- Judgement ---- */

static const Member *known_by_key(const Members *members, const uint8_t *key) {
        for (uint32_t i = 0; i < members->n_known; i++)
                for (uint32_t k = 0; k < members->known[i].n_keys; k++)
                        if (memcmp(members->known[i].keys[k], key, KEY_HASH_BYTES) == 0)
                                return &members->known[i];
        return NULL;
}

PeersVerdict members_judge(Agent *agent, const uint8_t key[static KEY_HASH_BYTES], uint64_t *ret_host) {
        Member member;

        if (memcmp(key, agent->options.key, KEY_HASH_BYTES) == 0)
                return PEERS_STRANGER; /* our own key from outside: a copy */
        const Member *known = known_by_key(&agent->members, key);
        if (known) {
                *ret_host = known->id;
                return PEERS_MEMBER;
        }
        if (members_by_key(agent, key, &member) != 0)
                return PEERS_STRANGER;
        *ret_host = member.id;
        return PEERS_MEMBER;
}

/* ---- Connections ---- */

static Connection *connection_of(const Agent *agent, uint64_t host) {
        Connection *connection = NULL;
        HASH_FIND(hh, agent->members.connections, &host, sizeof(host), connection);
        return connection;
}

Connection *members_connection(const Agent *agent, uint64_t host) {
        Connection *connection = connection_of(agent, host);
        return connection && connection->hello && connection->connection != 0 ? connection : NULL;
}

void members_greet(Agent *agent, const Connection *connection) {
        const LogState *log = log_state(agent->log);
        Letter letter = {
                .kind = LETTER_HELLO,
                .hello =
                        {
                                .restore_epoch = agent->tree_status.restore_epoch,
                                .host = agent->host.id,
                                .start = log->start,
                                .version = hall_version(agent),
                        },
        };
        memcpy(letter.hello.cluster, agent->tree_status.cluster, sizeof(letter.hello.cluster));
        memcpy(letter.hello.start_nonce, log->start_nonce, sizeof(letter.hello.start_nonce));
        quarantine_tell(agent, connection, &letter.hello);
        words_tell(agent, &letter.hello);
        letter.hello.lost_start = connection->lost_start;
        (void)hall_send(agent, connection->host, &letter);
}

void members_up(Agent *agent, uint64_t host, uint64_t connection) {
        Connection *known = connection_of(agent, host);
        if (!known) {
                known = calloc(1, sizeof(Connection));
                if (known) {
                        known->host = host;
                        HASH_ADD(hh, agent->members.connections, host, sizeof(known->host), known);
                }
                if (!known || !HASH_ADDED(known)) {
                        free(known);
                        agent->outside.disconnect(agent->outside.userdata, host);
                        return;
                }
        }
        known->connection = connection;
        known->hello = false;
        agent->members.refused_usec = 0;

        members_greet(agent, known);
}

void members_down(Agent *agent, uint64_t host, uint64_t connection, PeersDown why) {
        Connection *known = connection_of(agent, host);
        if (why == PEERS_DOWN_REFUSED)
                agent->members.refused_usec = agent->now_usec;
        if (!known || known->connection != connection)
                return;
        known->connection = 0;
        known->hello = false;
        agent->status_dirty = true;
}

/* It hears what is known of it, stores "damaged" and comes back; until then nothing of it is heeded. */
static void refuse_lost(Agent *agent, Connection *connection, const LetterHello *hello) {
        if (connection->lost_start != hello->start)
                report_say(
                        &agent->report, LOG_ERR,
                        "Host %016llx is not heard: its log has less than it had acknowledged. It is told so, and has to "
                        "get it again.",
                        (unsigned long long)connection->host);
        connection->lost_start = hello->start;
        connection->start = hello->start;
        memcpy(connection->start_nonce, hello->start_nonce, sizeof(connection->start_nonce));
        connection->hello = false;
        members_greet(agent, connection);
}

/* A peer says that this process began with less than an earlier one had promised. As elsewhere a leaf is not
 * believed. */
static bool hears_of_loss(Agent *agent, uint64_t host, const LetterHello *hello) {
        if (hello->lost_start != log_state(agent->log)->start || agent->began.damaged ||
            agent->raft_status.lost || members_is_leaf(agent, host))
                return false;
        SIM_SEEN("member: told that the own log lacks what was promised");
        int r = raft_distrust(agent->raft, agent->now_usec);
        if (r < 0)
                hall_fail(agent, r, "The core ran out of memory");
        hall_wake(agent);
        return true;
}

void members_hello(Agent *agent, uint64_t host, uint64_t connection, const LetterHello *hello) {
        Connection *known = connection_of(agent, host);
        if (!known || known->connection != connection)
                return;

        const char *why = NULL;
        if (hello->host != host)
                why = "it says to be another host than its key does";
        else if (memcmp(hello->cluster, agent->tree_status.cluster, sizeof(hello->cluster)) != 0 ||
                 hello->restore_epoch != agent->tree_status.restore_epoch)
                why = "it is of another cluster, or of an earlier life of this one";
        if (why) {
                /* It will dial again at once, and so shall we. */
                if (known->refused_said_usec == 0 ||
                    agent->now_usec - known->refused_said_usec > 60 * USEC_PER_SEC) {
                        known->refused_said_usec = agent->now_usec;
                        report_say(&agent->report, LOG_ERR, "Host %016llx is refused: %s.",
                                   (unsigned long long)host, why);
                }
                agent->outside.disconnect(agent->outside.userdata, host);
                return;
        }
        if (agent->quarantined || quarantine_hears(agent, host, hello))
                return quarantine_enter(agent);
        if (hears_of_loss(agent, host, hello))
                return;
        why = quarantine_judge(agent, known, hello);
        if (!why && words_are_broken(agent, known, hello))
                return refuse_lost(agent, known, hello);
        if (why) {
                /* Not hung up on: our hello, which tells it what we know, shall arrive. */
                known->hello = false;
                return quarantine_say(agent, known, why);
        }
        if (hello->start != known->start)
                roles_view(agent, host)->sent_usec =
                        0; /* a tree that it was sent may have gone with its process */
        known->hello = true;
        known->start = hello->start;
        known->version = hello->version;
        memcpy(known->start_nonce, hello->start_nonce, sizeof(known->start_nonce));
        roles_view(agent, host)->connected_usec = agent->now_usec;
        agent->status_dirty = true;
}

/* ---- Targets ---- */

typedef struct Targets {
        Agent *agent;
        PeersTarget *list;
        Member *members; /* the addresses live here while targets are set */
        size_t n, room;
} Targets;

static int add_target(const Member *member, void *userdata) {
        Targets *targets = userdata;
        Agent *agent = targets->agent;

        if (member->id == agent->host.id)
                return 0;
        if (targets->n == targets->room) {
                size_t room = MAX((size_t)16, targets->room * 2);
                Member *members = realloc(targets->members, room * sizeof(Member));
                if (members)
                        targets->members = members;
                PeersTarget *list = members ? realloc(targets->list, room * sizeof(PeersTarget)) : NULL;
                if (!list)
                        return -ENOMEM;
                targets->list = list;
                targets->room = room;
        }
        const Conf *conf = agent->raft_status.conf;
        targets->members[targets->n] = *member;
        targets->list[targets->n] = (PeersTarget){
                .host = member->id,
                .n_addresses = member->n_addresses,
                .control = conf_is_voter(conf, agent->host.id) || conf_is_voter(conf, member->id) ||
                           conf_is_voter(&agent->tree_status.conf, member->id) ||
                           conf_is_voter(&agent->tree_status.conf, agent->host.id),
        };
        targets->n++;
        return 0;
}

static void set_targets(Agent *agent) {
        Members *members = &agent->members;
        Targets targets = {.agent = agent};
        int r = 0;

        if (!agent->removed && !agent->quarantined)
                r = members_each(agent, add_target, &targets);
        for (uint32_t i = 0; r == 0 && i < members->n_known; i++) {
                bool there = false;
                for (size_t k = 0; k < targets.n; k++)
                        there = there || targets.list[k].host == members->known[i].id;
                if (!there)
                        r = add_target(&members->known[i], &targets);
                if (!there && r == 0)
                        targets.list[targets.n - 1].control = false; /* only to fetch the tree from */
        }
        for (size_t i = 0; i < targets.n; i++)
                targets.list[i].addresses = targets.members[i].addresses;
        if (r == 0)
                r = agent->outside.set_targets(agent->outside.userdata, targets.list, targets.n);
        if (r >= 0)
                members->dirty = members->redial = false;
        free(targets.list);
        free(targets.members);
}

static void listen_if_wanted(Agent *agent) {
        Members *members = &agent->members;
        bool wanted = agent->host.listen && !agent->quarantined;

        if (members->listening || !wanted)
                return;
        int r = agent->outside.listen(agent->outside.userdata);
        if (r >= 0)
                members->listening = true;
        else if (agent->now_usec - members->listen_said_usec > 60 * USEC_PER_SEC ||
                 members->listen_said_usec == 0) {
                members->listen_said_usec = agent->now_usec;
                report_say(&agent->report, LOG_ERR, "Cannot listen for peers: %s. Trying again.",
                           strerror(-r));
        }
}

/* ---- The own row ---- */

static void own_updated(const RequestAnswer *answer, void *userdata) {
        Agent *agent = userdata;
        agent->members.own_request = NULL;
        if (answer->answer != ANSWER_DONE)
                agent->members.own_usec = agent->now_usec + OWN_USEC;
}

static void update_own_row(Agent *agent) {
        Members *members = &agent->members;
        Member row, self;

        if (agent->requests.incarnation == 0 || members->own_request || !heal_may_touch(agent) ||
            (!members->own_dirty && agent->now_usec < members->own_usec))
                return;
        members->own_dirty = false;
        members->own_usec = agent->now_usec + OWN_USEC;
        if (tree_member(agent->tree, agent->host.id, &row) != 0)
                return;
        members_self(agent, &self);
        bool same = row.n_addresses == self.n_addresses && row.version == self.version;
        for (uint32_t i = 0; same && i < row.n_addresses; i++)
                same = strcmp(row.addresses[i], self.addresses[i]) == 0;
        if (same || self.n_addresses == 0)
                return;

        self.class = row.class;
        self.n_keys = row.n_keys;
        memcpy(self.keys, row.keys, sizeof(self.keys));
        memcpy(self.name, row.name, sizeof(self.name));
        Command command = {.kind = COMMAND_UPDATE_MEMBER, .member = &self};
        if (agent_request(agent, &command, REQUEST_TIMEOUT_USEC, own_updated, agent, &members->own_request) <
            0)
                members->own_request = NULL;
}

static int count_one(const Member *member, void *userdata) {
        (*(unsigned *)userdata)++;
        return 0;
}

/* A host alone in its own cluster, on its way into another, is no member that was forgotten: whoever refuses
 * it there has not heard yet that it was let in. */
static bool knows_others(Agent *agent) {
        unsigned n = 0;
        (void)members_each(agent, count_one, &n);
        return n > 1;
}

void members_work(Agent *agent) {
        Members *members = &agent->members;
        bool any = false;

        if (members->dirty)
                book_note(agent);
        if (members->dirty || members->redial)
                set_targets(agent);
        listen_if_wanted(agent);
        quarantine_work(agent);
        update_own_row(agent);

        /* Every voter we reach knows us no more: that is what being removed looks like from outside. */
        for (Connection *c = members->connections; c; c = c->hh.next)
                any = any || c->hello;
        if (any) /* one that was removed itself refuses everybody: that says nothing */
                members->refused_usec = 0;
        bool out = members->refused_usec != 0 && !any && !agent->quarantined && knows_others(agent);
        if (out != members->out) {
                members->out = out;
                agent->status_dirty = true;
                if (out)
                        report_say(
                                &agent->report, LOG_WARNING,
                                "The other members do not know this host (any more). If it was removed: make a token there "
                                "(\"treatyctl token\"), then join anew here (\"treatyctl join --discard TOKEN\").");
        }
}

void members_reset(Agent *agent) {
        Members *members = &agent->members;
        Connection *connection, *next;

        HASH_ITER (hh, members->connections, connection, next) {
                HASH_DEL(members->connections, connection);
                free(connection);
        }
        request_forget(members->own_request);
        free(members->known);
        *members = (Members){.dirty = true, .own_dirty = true, .listening = members->listening};
}
