/* Becoming a member, and letting others become one.
 *
 *      joiner                                     a member named by the token
 *        │  TLS: talks only to a key in the token       │
 *        ├─ Join(token id, signature, own key) ────────▶│  checks, proposes AddMember
 *        │◀──────────── member now; whom to ask ────────┤  (checked again at apply, on every host)
 *        ├─ Snapshot ──────────────────────────────────▶│
 *        │  builds the tree, switches to it in one log record, follows
 *
 * The signature is by a key pair derived from the token's secret; the tree holds the public half only, so
 * whoever reads the tree or a backup of it cannot join. Doing it again is harmless: a key that is a member
 * already is told yes. */
#include "hall.h"
#include "base/seen.h"

#include <stdio.h>
#include <string.h>

#define JOIN_USEC  (30 * USEC_PER_SEC)
#define CALL_USEC  (12 * USEC_PER_SEC)
#define RETRY_USEC (500 * USEC_PER_MSEC)
#define AUTO_USEC  (5 * USEC_PER_SEC)
#define MAX_JOINS  32

/* ---- Tokens ---- */

typedef struct TokenWork {
        Agent *agent;
        TokenText text;
        TokenDone done;
        void *userdata;
} TokenWork;

static int remember_listening(Agent *agent) {
        if (agent->host.listen)
                return 0;
        HostFile host = agent->host;
        host.listen = true;
        int r = host_file_save(agent->options.disk, &host);
        if (r < 0)
                return r;
        agent->host = host;
        agent->duty_usec = 0;
        return 0;
}

static bool has_key(const TokenText *text, const uint8_t *key) {
        for (uint32_t i = 0; i < text->n_keys; i++)
                if (memcmp(text->keys[i], key, KEY_HASH_BYTES) == 0)
                        return true;
        return false;
}

static int collect_keys(const Member *member, void *userdata) {
        TokenText *text = userdata;
        for (uint32_t i = 0; i < member->n_keys && text->n_keys < ELEMENTSOF(text->keys); i++)
                if (!has_key(text, member->keys[i]))
                        memcpy(text->keys[text->n_keys++], member->keys[i], KEY_HASH_BYTES);
        return 0;
}

static int collect_addresses(const Member *member, void *userdata) {
        TokenText *text = userdata;
        for (uint32_t i = 0; i < member->n_addresses && text->n_addresses < LIMIT_ADDRESSES; i++) {
                bool there = false;
                for (uint32_t k = 0; k < text->n_addresses; k++)
                        there = there || strcmp(text->addresses[k], member->addresses[i]) == 0;
                if (!there)
                        snprintf(text->addresses[text->n_addresses++], sizeof(text->addresses[0]), "%s",
                                 member->addresses[i]);
        }
        return 0;
}

static void token_added(const RequestAnswer *answer, void *userdata) {
        TokenWork *work = userdata;
        Agent *agent = work->agent;
        RequestAnswer reply = *answer;
        char text[TOKEN_TEXT_BYTES] = "";

        if (answer->answer == ANSWER_DONE) {
                int r = remember_listening(agent);
                if (r < 0)
                        reply.answer = ANSWER_DISK_FULL;
                else if (token_text_write(&work->text, text) < 0)
                        reply.answer = ANSWER_HALTED;
        }
        if (work->done)
                work->done(&reply, text, work->userdata);
        free(work);
}

int agent_token(Agent *agent, const TokenRequest *request, TokenDone done, void *userdata) {
        Member self;
        Token token = {
                .class = request->class,
                .uses_left = request->uses,
                .expires_cluster_usec = request->lifetime_usec,
        };

        TokenWork *work = calloc(1, sizeof(TokenWork));
        if (!work)
                return -ENOMEM;
        *work = (TokenWork){
                .agent = agent, .done = done, .userdata = userdata, .text.class = request->class};
        TokenText *text = &work->text;
        agent->outside.random(agent->outside.userdata, text->id, sizeof(text->id));
        agent->outside.random(agent->outside.userdata, text->secret, sizeof(text->secret));
        memcpy(text->cluster, agent->tree_status.cluster, sizeof(text->cluster));
        members_self(agent, &self);
        collect_keys(&self, text);
        if (request->addresses)
                for (size_t i = 0; request->addresses[i] && text->n_addresses < LIMIT_ADDRESSES; i++)
                        snprintf(text->addresses[text->n_addresses++], sizeof(text->addresses[0]), "%s",
                                 request->addresses[i]);
        else
                collect_addresses(&self, text);
        (void)members_each(agent, collect_keys, text);
        (void)members_each(agent, collect_addresses, text);

        memcpy(token.id, text->id, sizeof(token.id));
        int r = text->n_addresses == 0 ? -EADDRNOTAVAIL : token_public_key(text, token.public_key);
        if (r >= 0) {
                Command command = {.kind = COMMAND_ADD_TOKEN, .token = &token};
                r = agent_request(agent, &command, REQUEST_TIMEOUT_USEC, token_added, work, NULL);
        }
        if (r < 0)
                free(work);
        return r;
}

int agent_revoke(Agent *agent, const char *name, RequestDone done, void *userdata) {
        Token token = {.class = MEMBER_FULL};
        TokenText text;

        if (token_text_read(name, &text) == 0)
                memcpy(token.id, text.id, sizeof(token.id));
        else if (hex_read(name, token.id, sizeof(token.id)) < 0)
                return -EINVAL;
        Command command = {.kind = COMMAND_REMOVE_TOKEN, .token = &token};
        return agent_request(agent, &command, REQUEST_TIMEOUT_USEC, done, userdata, NULL);
}

/* ---- Letting others in ---- */

typedef struct JoinServed {
        Agent *agent;
        PeersCall *call; /* NULL: the joiner is gone */
        uint64_t host;
} JoinServed;

static void joiner_gone(PeersCall *call, PeersStatus status, const char *text, void *userdata) {
        ((JoinServed *)userdata)->call = NULL;
}

typedef struct Introduce {
        Agent *agent;
        Member list[JOIN_MEMBERS];
        uint32_t n;
        bool voters;
} Introduce;

static int introduce(const Member *member, void *userdata) {
        Introduce *introduction = userdata;
        bool voter = conf_is_voter(&introduction->agent->tree_status.conf, member->id);
        if (introduction->n < JOIN_MEMBERS && voter == introduction->voters)
                introduction->list[introduction->n++] = *member;
        return 0;
}

static void join_reply(Agent *agent, PeersCall *call, uint64_t host, ResultStatus status,
                       const char *message) {
        _cleanup_(freep) Introduce *introduction = calloc(1, sizeof(Introduce));
        _cleanup_(buffer_deinit) Buffer bytes = {};
        JoinReply reply = {
                .status = status, .host = host, .restore_epoch = agent->tree_status.restore_epoch};

        if (introduction && status == RESULT_DONE) {
                introduction->agent = agent;
                introduction->voters = true;
                (void)tree_members(agent->tree, introduce, introduction);
                introduction->voters = false;
                (void)tree_members(agent->tree, introduce, introduction);
                reply.members = introduction->list;
                reply.n_members = introduction->n;
        }
        memcpy(reply.cluster, agent->tree_status.cluster, sizeof(reply.cluster));
        snprintf(reply.message, sizeof(reply.message), "%s", message);

        PeersCallEvents none = {};
        agent->outside.call_set_events(agent->outside.userdata, call, &none);
        if (wire_join_reply_encode(&reply, &bytes) < 0) {
                agent->outside.call_end(agent->outside.userdata, call, PEERS_INTERNAL,
                                        "the answer cannot be written");
                return;
        }
        (void)agent->outside.call_send(agent->outside.userdata, call, BYTES(bytes.data, bytes.size));
        agent->outside.call_end(agent->outside.userdata, call, PEERS_OK, "");
}

static void member_added(const RequestAnswer *answer, void *userdata) {
        JoinServed *served = userdata;
        Agent *agent = served->agent;

        if (agent->join_n_served > 0)
                agent->join_n_served--;
        if (served->call) {
                if (answer->answer == ANSWER_DONE || answer->answer == ANSWER_REFUSED)
                        join_reply(agent, served->call, served->host, answer->result.status,
                                   result_status_name(answer->result.status));
                else {
                        PeersCallEvents none = {};
                        agent->outside.call_set_events(agent->outside.userdata, served->call, &none);
                        agent->outside.call_end(agent->outside.userdata, served->call, PEERS_UNAVAILABLE,
                                                answer_text(answer->answer));
                }
        }
        free(served);
}

/* What the tree will check again: a stranger shall not be able to fill the log. */
static ResultStatus judge_request(Agent *agent, const JoinRequest *request, const uint8_t *key,
                                  Member *ret_member) {
        Member member;
        Token token;

        if (request->member.n_keys < 1 || memcmp(request->member.keys[0], key, KEY_HASH_BYTES) != 0 ||
            memcmp(request->cluster, agent->tree_status.cluster, sizeof(request->cluster)) != 0)
                return RESULT_INVALID;
        if (tree_member_by_key(agent->tree, key, &member) == 0) {
                *ret_member = member;
                return RESULT_EXISTS;
        }
        if (tree_member_removed(agent->tree, request->member.id))
                return RESULT_NO_MEMBER;
        if (tree_token(agent->tree, request->token_id, &token) != 0)
                return RESULT_TOKEN_UNKNOWN;
        if (!token_signature_valid(token.public_key, agent->tree_status.cluster, token.id, key,
                                   BYTES(request->signature, SIGNATURE_BYTES)))
                return RESULT_SIGNATURE_WRONG;
        if (tree_member_by_name(agent->tree, request->member.name, &member) == 0)
                return RESULT_NAME_TAKEN;
        return RESULT_DONE;
}

void join_called(Agent *agent, PeersCall *call, const uint8_t key[static KEY_HASH_BYTES], Bytes bytes) {
        Outside *outside = &agent->outside;
        JoinRequest request;
        Member existing, self;

        if (wire_join_request_decode(bytes, &request) < 0) {
                outside->call_end(outside->userdata, call, PEERS_INVALID, "malformed request");
                return;
        }
        if (agent->heal.bad || agent->heal.suspect) {
                outside->call_end(outside->userdata, call, PEERS_UNAVAILABLE,
                                  "this host fetches its tree; ask another");
                return;
        }
        bool leaf = tree_member(agent->tree, agent->host.id, &self) == 0 && self.class == MEMBER_LEAF;
        if (leaf) {
                outside->call_end(outside->userdata, call, PEERS_DENIED,
                                  "a leaf lets nobody in; ask a full member");
                return;
        }
        if (agent->removed || agent->quarantined || agent->join.active ||
            agent->join_n_served >= MAX_JOINS) {
                outside->call_end(outside->userdata, call, PEERS_UNAVAILABLE, "busy; ask another member");
                return;
        }
        ResultStatus status = judge_request(agent, &request, key, &existing);
        if (status == RESULT_EXISTS)
                return join_reply(agent, call, existing.id, RESULT_DONE, "a member already");
        if (status != RESULT_DONE)
                return join_reply(
                        agent, call, 0, status,
                        status == RESULT_NO_MEMBER
                                ? "this host was removed, and its id never comes back: \"treatyctl join --discard "
                                  "TOKEN\" there begins anew"
                                : result_status_name(status));

        JoinServed *served = calloc(1, sizeof(JoinServed));
        if (!served) {
                outside->call_end(outside->userdata, call, PEERS_EXHAUSTED, "out of memory");
                return;
        }
        *served = (JoinServed){.agent = agent, .call = call, .host = request.member.id};
        PeersCallEvents events = {.end = joiner_gone, .userdata = served};
        outside->call_set_events(outside->userdata, call, &events);

        Token token = {.class = MEMBER_FULL};
        memcpy(token.id, request.token_id, sizeof(token.id));
        request.member.class = MEMBER_FULL; /* what counts is the token's class, at apply */
        Command command = {
                .kind = COMMAND_ADD_MEMBER,
                .member = &request.member,
                .token = &token,
                .signature = BYTES(request.signature, SIGNATURE_BYTES),
        };
        agent->join_n_served++;
        if (agent_request(agent, &command, REQUEST_TIMEOUT_USEC, member_added, served, NULL) < 0) {
                agent->join_n_served--;
                free(served);
                PeersCallEvents none = {};
                outside->call_set_events(outside->userdata, call, &none);
                outside->call_end(outside->userdata, call, PEERS_INVALID, "malformed member");
        }
}

/* ---- Joining ---- */

/* What a join has under way is over with it: nothing of it may come to be later. */
static void join_drop(Agent *agent) {
        if (agent->join.call)
                agent->outside.call_free(agent->outside.userdata, TAKE(agent->join.call));
        snapshot_cancel(agent);
        if (agent->members.known) {
                free(TAKE(agent->members.known));
                agent->members.n_known = 0;
                agent->members.dirty = true; /* who was named by the other cluster is a stranger again */
        }
}

static void join_end(Agent *agent, JoinAnswer answer, const char *why) {
        JoinCall *join = &agent->join;
        JoinDone done = TAKE(join->done);
        void *userdata = join->userdata;
        char text[256];

        snprintf(text, sizeof(text), "%s", why ?: "");
        join_drop(agent);
        *join = (JoinCall){};
        agent->status_dirty = true;
        if (done)
                done(answer, text, userdata);
}

static void join_failed(Agent *agent, JoinAnswer answer, const char *why) {
        JoinCall *join = &agent->join;

        snprintf(join->why, sizeof(join->why), "%s", why);
        join->verdict = answer;
        join->next_address++;
        bool round = join->next_address % join->token.n_addresses == 0;
        if (join->automatic && round && strcmp(join->said, why) != 0) {
                snprintf(join->said, sizeof(join->said), "%s", why);
                report_say(&agent->report, LOG_WARNING, "Cannot join yet: %s. Trying again.", why);
        }
        join->retry_usec = agent->now_usec + (join->automatic && round ? AUTO_USEC : RETRY_USEC);
}

static JoinAnswer join_answer_of(ResultStatus status) {
        switch (status) {
        case RESULT_DONE:
                return JOIN_DONE;
        case RESULT_TOKEN_EXPIRED:
                return JOIN_TOKEN_EXPIRED;
        case RESULT_TOKEN_UNKNOWN:
                return JOIN_TOKEN_USED;
        case RESULT_SIGNATURE_WRONG:
                return JOIN_INVALID_TOKEN;
        case RESULT_NAME_TAKEN:
                return JOIN_NAME_TAKEN;
        case RESULT_EXISTS:
        case RESULT_ABSENT:
        case RESULT_CONFLICT:
        case RESULT_NO_SESSION:
        case RESULT_DENIED:
        case RESULT_NO_MEMBER:
        case RESULT_LIMIT:
        case RESULT_INVALID:
        case RESULT_STALE:
        case RESULT_LAST_VOTER:
        case RESULT_TOO_MANY:
                return JOIN_REFUSED;
        }
        return JOIN_REFUSED;
}

static void accepted(Agent *agent, JoinReply *reply) {
        JoinCall *join = &agent->join;
        Members *members = &agent->members;

        free(members->known);
        members->known = calloc(MAX(reply->n_members, 1u), sizeof(Member));
        members->n_known = 0;
        for (uint32_t i = 0; members->known && i < reply->n_members; i++)
                if (reply->members[i].id != agent->host.id)
                        members->known[members->n_known++] = reply->members[i];
        if (members->n_known == 0)
                return join_failed(agent, JOIN_REFUSED, "the answer names no other member");
        /* Before the switch: a host that is a member and forgot to listen could not be reached any more. */
        if (remember_listening(agent) < 0)
                return join_failed(agent, JOIN_REFUSED, "the host file cannot be written (disk full?)");
        join->accepted = true;
        join->next_address = 0;
        join->retry_usec = 0;
        members->dirty = true;
        agent->duty_usec = 0;
}

static void reply_arrived(PeersCall *call, Bytes bytes, void *userdata) {
        Agent *agent = userdata;
        JoinCall *join = &agent->join;
        JoinReply reply;

        agent->now_usec = hall_now(agent);
        if (wire_join_reply_decode(bytes, &reply) < 0)
                return join_failed(agent, JOIN_REFUSED, "the answer is malformed");
        join->answered = true;
        if (memcmp(reply.cluster, join->token.cluster, sizeof(reply.cluster)) != 0)
                join_failed(agent, JOIN_REFUSED, "the answer is from another cluster");
        else if (reply.status == RESULT_DONE && reply.host != agent->host.id)
                join_failed(agent, JOIN_REFUSED, "the cluster knows this host's key under another id");
        else if (reply.status == RESULT_DONE)
                accepted(agent, &reply);
        else {
                join_failed(agent, join_answer_of(reply.status), reply.message);
                join->final = !join->automatic && (reply.status != RESULT_TOKEN_UNKNOWN ||
                                                   join->next_address >= join->token.n_addresses);
        }
        wire_join_reply_done(&reply);
}

static void call_ended(PeersCall *call, PeersStatus status, const char *text, void *userdata) {
        Agent *agent = userdata;
        JoinCall *join = &agent->join;

        join->call = NULL;
        agent->now_usec = hall_now(agent);
        if (!join->answered) {
                char why[200];
                snprintf(why, sizeof(why), "%.80s: %.100s",
                         join->token.addresses[join->next_address % join->token.n_addresses],
                         text ?: "no answer");
                join_failed(agent, JOIN_UNREACHABLE, why);
        }
        agent->duty_usec = 0;
        hall_wake(agent);
}

static void ask(Agent *agent) {
        JoinCall *join = &agent->join;
        JoinRequest request = {};
        _cleanup_(buffer_deinit) Buffer bytes = {};

        members_self(agent, &request.member);
        memcpy(request.token_id, join->token.id, sizeof(request.token_id));
        memcpy(request.cluster, join->token.cluster, sizeof(request.cluster));
        if (token_sign(&join->token, agent->options.key, request.signature) < 0 ||
            wire_join_request_encode(&request, &bytes) < 0)
                return join_end(agent, JOIN_REFUSED, "the request cannot be written");

        const char *address = join->token.addresses[join->next_address % join->token.n_addresses];
        PeersCallEvents events = {.message = reply_arrived, .end = call_ended, .userdata = agent};
        join->answered = false;
        int r = agent->outside.call_address(agent->outside.userdata, address,
                                            (const uint8_t(*)[KEY_HASH_BYTES])join->token.keys,
                                            join->token.n_keys, CALL_JOIN, BYTES(bytes.data, bytes.size),
                                            CALL_USEC, &events, &join->call);
        if (r < 0) {
                join->call = NULL;
                join_failed(agent, JOIN_UNREACHABLE, strerror(-r));
        }
}

/* Member there, but the tree is still the old one: fetch the cluster's from one of those who were named. */
static void take_tree(Agent *agent) {
        JoinCall *join = &agent->join;
        Members *members = &agent->members;

        if (snapshot_fetching(agent) || agent->now_usec < join->retry_usec)
                return;
        join->retry_usec = agent->now_usec + RETRY_USEC;
        (void)snapshot_fetch(agent, members->known[join->next_address++ % members->n_known].id, true);
}

static void joined_if_known(Agent *agent) {
        Member self;
        if (tree_member(agent->tree, agent->host.id, &self) != 0)
                return;
        report_say(&agent->report, LOG_NOTICE, "Joined the cluster as \"%s\".", self.name);
        anew_done(agent);
        join_end(agent, JOIN_DONE, NULL);
}

static int count_written(const TreeEntry *entry, void *userdata) {
        if (entry->owner_host == 0)
                *(bool *)userdata = true;
        return entry->owner_host == 0;
}

static int count_all(const Member *member, void *userdata) {
        (*(unsigned *)userdata)++;
        return 0;
}

static bool is_alone(Agent *agent) {
        unsigned n = 0;
        (void)tree_members(agent->tree, count_all, &n);
        return n <= 1;
}

static bool holds_something(Agent *agent) {
        bool written = false, more = false;
        char after[LIMIT_PATH_BYTES + 1] = "";
        int r = tree_list(agent->tree, "/", after, 0, UINT32_MAX, SIZE_MAX, count_written, &written, &more);
        return written || r != 0; /* what cannot be read is not thrown away either */
}

/* Another cluster's tree is here. What was on its way when the join was accepted may have been written
 * since. */
bool join_may_switch(Agent *agent) {
        JoinCall *join = &agent->join;

        if (!join->active || !join->accepted || join->final)
                return false;
        if (join->discard || !holds_something(agent))
                return true;
        join->final = true;
        join->verdict = JOIN_NOT_EMPTY;
        snprintf(join->why, sizeof(join->why), "something was written here meanwhile");
        return false;
}

static void join_begin(Agent *agent, const TokenText *token, bool discard, bool automatic, JoinDone done,
                       void *userdata) {
        agent->join = (JoinCall){
                .agent = agent,
                .active = true,
                .automatic = automatic,
                .discard = discard,
                .token = *token,
                .deadline_usec = hall_now(agent) + JOIN_USEC,
                .verdict = JOIN_TIMEOUT,
                .done = done,
                .userdata = userdata,
        };
        agent->status_dirty = true;
        agent->duty_usec = 0;
        hall_wake(agent);
}

/* ---- A member whose state is bad leaves first, for its name and its vote ---- */

static bool state_is_bad(const Agent *agent) {
        return agent->damaged || agent->heal.bad || agent->heal.suspect;
}

static void left_cluster(const RequestAnswer *answer, void *userdata) {
        Agent *agent = userdata;
        JoinCall *join = &agent->join;

        if (!join->active || !join->leaving)
                return;
        bool refused = answer->answer == ANSWER_REFUSED;
        join->left = answer->answer == ANSWER_DONE || (refused && answer->result.status == RESULT_NO_MEMBER);
        join->final = !join->left;
        join->verdict = JOIN_REFUSED;
        snprintf(
                join->why, sizeof(join->why),
                refused ? "it is the only voter: nobody could take its place; see \"--accept-damage\" in treatyd(8)"
                        : "the cluster does not take it out first; \"treatyctl remove %s\" on a member, then this once more",
                agent->options.host_name);
        agent->duty_usec = 0;
        hall_wake(agent);
}

static void leave_work(Agent *agent) {
        JoinCall *join = &agent->join;
        if (join->left || anew_is_due(agent)) {
                bool noted = anew_ask(agent, join->text) >= 0;
                join_end(agent, noted ? JOIN_RESTARTS : JOIN_REFUSED,
                         noted ? NULL : "what is to be done cannot be written to the state directory");
        } else if (join->final)
                join_end(agent, join->verdict, join->why);
}

static int leave_begin(Agent *agent, const char *text, JoinDone done, void *userdata) {
        JoinCall *join = &agent->join;
        if (join->active)
                return -EBUSY;
        *join = (JoinCall){
                .agent = agent, .active = true, .leaving = true, .done = done, .userdata = userdata};
        snprintf(join->text, sizeof(join->text), "%s", text);
        int r = roles_remove(agent, agent->host.id, JOIN_USEC, left_cluster, agent);
        if (r < 0)
                *join = (JoinCall){};
        return r;
}

int agent_join(Agent *agent, const char *text, bool discard, JoinDone done, void *userdata) {
        TokenText token;
        JoinAnswer refused = JOIN_DONE;

        if (agent->join.active && !agent->join.automatic)
                refused = JOIN_BUSY;
        else if (token_text_read(text, &token) < 0 || token.n_addresses == 0 || token.n_keys == 0)
                refused = JOIN_INVALID_TOKEN;
        else if (memcmp(token.cluster, agent->tree_status.cluster, sizeof(token.cluster)) == 0 &&
                 !anew_is_due(agent)) {
                if (discard && state_is_bad(agent))
                        return leave_begin(agent, text, done, userdata);
                refused = JOIN_ALREADY;
        } else if (discard && anew_is_due(agent))
                refused = anew_ask(agent, text) < 0 ? JOIN_REFUSED : JOIN_RESTARTS;
        else if (!discard && !is_alone(agent))
                refused = JOIN_ALREADY;
        else if (!discard && holds_something(agent))
                refused = JOIN_NOT_EMPTY;
        if (refused != JOIN_DONE) {
                /* Answered out of the turn like everything else. */
                if (agent->join.active)
                        return refused == JOIN_BUSY ? -EBUSY : -EALREADY;
                agent->join = (JoinCall){.agent = agent,
                                         .active = true,
                                         .final = true,
                                         .verdict = refused,
                                         .done = done,
                                         .userdata = userdata};
                agent->duty_usec = 0;
                hall_wake(agent);
                return 0;
        }
        join_drop(agent);
        join_begin(agent, &token, discard, false, done, userdata);
        return 0;
}

/* Told by treaty.conf or a credential to belong to a cluster: tried for ever. */
static void join_automatically(Agent *agent) {
        TokenText token;

        if (!agent->options.join || agent->tree_status.conf.n_voters != 0 || agent->join_auto_failed)
                return;
        if (token_text_read(agent->options.join, &token) < 0 || token.n_addresses == 0 ||
            token.n_keys == 0) {
                agent->join_auto_failed = true;
                report_say(&agent->report, LOG_ERR,
                           "Join= is not a token. Make one with \"treatyctl token\" on a member.");
                return;
        }
        join_begin(agent, &token, true, true, NULL, NULL);
}

/* The tree may have been fetched for an earlier wish to join, which this one took the place of: what it asks
 * for is there, and is not fetched once more over it. */
static void accept_switched(Agent *agent) {
        JoinCall *join = &agent->join;
        if (!join->active || join->accepted ||
            memcmp(join->token.cluster, agent->tree_status.cluster, sizeof(join->token.cluster)) != 0)
                return;
        SIM_SEEN("join: the tree came by an earlier wish");
        if (join->call)
                agent->outside.call_free(agent->outside.userdata, TAKE(join->call));
        join->accepted = true;
}

void join_switched(Agent *agent) {
        accept_switched(agent);
        requests_reset(agent);
        reads_fail(agent, ANSWER_TIMEOUT); /* they waited for indexes of the cluster that was left */
        sessions_leave(agent);
        offers_reset(agent);
        roles_reset(agent);
        standing_reset(agent);
        watches_abandon(agent);
        agent->trimmed = agent->led_term = 0;
        agent->n_prune = 0;
        agent->demote = false;
        agent->members.own_dirty = agent->members.dirty = true;
        agent->removed = agent->members.out = agent->quarantined = false;
        agent->members.refused_usec = 0;
        free(TAKE(agent->members.known));
        agent->members.n_known = 0;
}

void join_work(Agent *agent) {
        JoinCall *join = &agent->join;

        if (!join->active) {
                join_automatically(agent);
                return;
        }
        if (join->leaving)
                return leave_work(agent);
        if (join->final)
                return join_end(agent, join->verdict, join->why);
        bool switched =
                join->accepted &&
                memcmp(join->token.cluster, agent->tree_status.cluster, sizeof(join->token.cluster)) == 0 &&
                agent->members.n_known == 0;
        if (switched)
                return joined_if_known(agent);
        if (agent->now_usec >= join->deadline_usec && !join->automatic &&
            agent->snapshots.fetch.switch_seq == 0)
                return join_end(agent, join->verdict, join->why);
        if (join->accepted)
                return take_tree(agent);
        if (!join->call && agent->now_usec >= join->retry_usec) {
                ask(agent);
        }
}

uint64_t join_deadline(const Agent *agent) {
        return agent->join.active ? agent->now_usec + HALL_TICK_USEC : USEC_INFINITY;
}

void join_close(Agent *agent) {
        if (agent->join.active)
                join_end(agent, JOIN_TIMEOUT, "the agent stops");
}
