/* org.treaty1.Cluster: the cluster as this host sees it, and its administration. What is public here (who is
 * a member, who leads) any local user may see; everything that changes something asks the guard, and polkit
 * for those who are not root. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "call.h"
#include "error.h"
#include "options.h"

#define TOKEN_LIFETIME_USEC     (3600 * USEC_PER_SEC)
#define TOKEN_LIFETIME_MAX_USEC (30 * 24 * 3600 * USEC_PER_SEC)
#define TOKEN_USES_MAX          10000
#define ADMIN_TIMEOUT_USEC      (30 * USEC_PER_SEC)

/* ---- words ---- */

static const char *role_name(AgentRole role) {
        switch (role) {
        case AGENT_OBSERVER:
                return "observer";
        case AGENT_FOLLOWER:
                return "follower";
        case AGENT_CANDIDATE:
                return "candidate";
        case AGENT_LEADER:
                return "leader";
        case AGENT_REMOVED:
                return "removed";
        }
        assert(!"unreachable");
        return NULL;
}

static const char *state_name(AgentState state) {
        switch (state) {
        case AGENT_RUNNING:
                return "running";
        case AGENT_NO_QUORUM:
                return "no-quorum";
        case AGENT_FULL_DISK:
                return "disk-full";
        case AGENT_DAMAGED:
                return "damaged";
        case AGENT_HALTED:
                return "halted";
        case AGENT_JOINING:
                return "joining";
        case AGENT_OUT:
                return "removed";
        case AGENT_QUARANTINED:
                return "quarantined";
        case AGENT_NO_TREE:
                return "no-tree";
        case AGENT_DIVERGED:
                return "diverged";
        }
        assert(!"unreachable");
        return NULL;
}

static const char *class_name(MemberClass class) {
        switch (class) {
        case MEMBER_FULL:
                return "member";
        case MEMBER_LEAF:
                return "leaf";
        }
        return "";
}

static char *id_write(char to[static 17], uint64_t id) {
        snprintf(to, 17, "%016" PRIx64, id);
        return to;
}

/* ---- properties ---- */

/* What has changed between two looks? The order is that of the XML. */
size_t cluster_changes(const AgentStatus *a, const AgentStatus *b,
                       char *names[static CLUSTER_PROPERTIES + 1]) {
        size_t n = 0;

        if (memcmp(a->cluster, b->cluster, sizeof(a->cluster)) != 0)
                names[n++] = (char *)"ClusterId";
        if (a->host != b->host)
                names[n++] = (char *)"HostId";
        if (strcmp(a->host_name, b->host_name) != 0)
                names[n++] = (char *)"HostName";
        if (a->role != b->role)
                names[n++] = (char *)"Role";
        if (strcmp(a->leader_name, b->leader_name) != 0)
                names[n++] = (char *)"Leader";
        if (a->term != b->term)
                names[n++] = (char *)"Term";
        if (a->quorate != b->quorate)
                names[n++] = (char *)"Quorate";
        if (a->n_members != b->n_members)
                names[n++] = (char *)"MemberCount";
        if (a->n_voters != b->n_voters)
                names[n++] = (char *)"VoterCount";
        if (a->state != b->state)
                names[n++] = (char *)"State";
        names[n] = NULL;
        return n;
}

static int get_property(sd_bus *sd, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        Link *link = userdata;
        char hex[33];
        AgentStatus s;

        agent_status(link->bus->agent, &s);
        if (strcmp(property, "ClusterId") == 0)
                return sd_bus_message_append(reply, "s", hex_write(hex, s.cluster, sizeof(s.cluster)));
        if (strcmp(property, "HostId") == 0)
                return sd_bus_message_append(reply, "s", id_write(hex, s.host));
        if (strcmp(property, "HostName") == 0)
                return sd_bus_message_append(reply, "s", s.host_name);
        if (strcmp(property, "Role") == 0)
                return sd_bus_message_append(reply, "s", role_name(s.role));
        if (strcmp(property, "Leader") == 0)
                return sd_bus_message_append(reply, "s", s.leader_name);
        if (strcmp(property, "Term") == 0)
                return sd_bus_message_append(reply, "t", s.term);
        if (strcmp(property, "Quorate") == 0)
                return sd_bus_message_append(reply, "b", s.quorate);
        if (strcmp(property, "MemberCount") == 0)
                return sd_bus_message_append(reply, "u", s.n_members);
        if (strcmp(property, "VoterCount") == 0)
                return sd_bus_message_append(reply, "u", s.n_voters);
        if (strcmp(property, "State") == 0)
                return sd_bus_message_append(reply, "s", state_name(s.state));
        if (strcmp(property, "AppliedIndex") == 0)
                return sd_bus_message_append(reply, "t", s.applied);
        if (strcmp(property, "CommitIndex") == 0)
                return sd_bus_message_append(reply, "t", s.commit);
        if (strcmp(property, "ComparedIndex") == 0)
                return sd_bus_message_append(reply, "t", s.compared);
        if (strcmp(property, "SessionCertainUSec") == 0)
                return sd_bus_message_append(reply, "t", s.certain_usec);
        if (strcmp(property, "ScrubbedUSec") == 0)
                return sd_bus_message_append(reply, "t", s.scrubbed_wall_usec);
        assert(strcmp(property, "Version") == 0);
        return sd_bus_message_append(reply, "s", TREATY_VERSION);
}

/* ---- Token, RevokeToken ---- */

static void on_token(const RequestAnswer *answer, const char *token, void *userdata) {
        Call *call = detached_take(userdata);

        if (!call)
                return;
        if (answer->answer == ANSWER_DONE)
                call_return(call, "s", token);
        else
                call_fail_request(call, answer);
}

static bool address_is_fine(const char *address) {
        size_t n = strlen(address);

        return n > 0 && n <= LIMIT_ADDRESS_BYTES && !strpbrk(address, " \t\n,");
}

/* Arguments first, then the guard: an impossible wish need not bother an administrator. */
static bool token_request_fine(Call *call, TokenRequest *request, const char *class, char **addresses) {
        size_t n = 0;

        if (request->lifetime_usec == 0 || request->lifetime_usec > TOKEN_LIFETIME_MAX_USEC) {
                call_fail(call, SD_BUS_ERROR_INVALID_ARGS,
                          "A token lives longer than 0 and at most 30 days.");
                return false;
        }
        if (request->uses == 0 || request->uses > TOKEN_USES_MAX) {
                call_fail(call, SD_BUS_ERROR_INVALID_ARGS, "A token can be used 1 to %d times.",
                          TOKEN_USES_MAX);
                return false;
        }
        if (strcmp(class, "member") != 0 && strcmp(class, "leaf") != 0) {
                call_fail(call, SD_BUS_ERROR_INVALID_ARGS,
                          "The class is \"member\" or \"leaf\", not \"%.32s\".", class);
                return false;
        }
        request->class = strcmp(class, "leaf") == 0 ? MEMBER_LEAF : MEMBER_FULL;
        for (char **a = addresses; a && *a; a++, n++)
                if (n >= LIMIT_ADDRESSES || !address_is_fine(*a)) {
                        call_fail(call, SD_BUS_ERROR_INVALID_ARGS,
                                  "At most %d addresses, each \"HOST:PORT\" of at most %d bytes.",
                                  LIMIT_ADDRESSES, LIMIT_ADDRESS_BYTES);
                        return false;
                }
        request->addresses = n > 0 ? (const char *const *)addresses : NULL;
        return true;
}

static int token_allowed(Call *call);

/* Reads the arguments; runs twice: before polkit is asked, and for good. */
static int token_read(Call *call, bool for_good) {
        TokenRequest request = {.lifetime_usec = TOKEN_LIFETIME_USEC, .uses = 1};
        _cleanup_(strv_freep) char **addresses = NULL;
        const char *class = "member";
        uint64_t flags;
        char why[256];
        const Option options[] = {
                {"expires-usec", 't', &request.lifetime_usec},
                {"uses", 'u', &request.uses},
                {"class", 's', &class},
                {"addresses", 'S', &addresses},
        };

        int r = sd_bus_message_rewind(call->message, true);
        if (r < 0)
                return r;
        r = sd_bus_message_read(call->message, "t", &flags);
        if (r < 0)
                return r;
        if (!call_flags(call, flags, 0))
                return 0;
        r = options_read(call->message, options, ELEMENTSOF(options), why, sizeof(why));
        if (r > 0)
                return call_fail(call, SD_BUS_ERROR_INVALID_ARGS, "%s", why);
        if (r < 0)
                return r;
        if (!token_request_fine(call, &request, class, addresses))
                return 0;
        if (!for_good)
                return call_authorized(call, GUARD_CLUSTER_MANAGE, token_allowed);

        Detached *detached = call_detach(call);
        if (!detached)
                return -ENOMEM;
        r = agent_token(call_agent(call), &request, on_token, detached);
        if (r < 0)
                detached_take(detached);
        return r;
}

static int token_allowed(Call *call) {
        return token_read(call, true);
}

static int token_call(Call *call) {
        return token_read(call, false);
}

/* Answers without a result. */
static void on_done(const RequestAnswer *answer, void *userdata) {
        Call *call = detached_take(userdata);

        if (!call)
                return;
        if (answer->answer == ANSWER_DONE)
                call_return(call, NULL);
        else
                call_fail_request(call, answer);
}

static int revoke_allowed(Call *call) {
        Detached *detached = call_detach(call);

        if (!detached)
                return -ENOMEM;
        int r = agent_revoke(call_agent(call), call->after, on_done, detached);
        if (r >= 0)
                return 0;
        detached_take(detached);
        if (r == -EINVAL)
                return call_fail(call, ERROR_INVALID_TOKEN,
                                 "This is neither a token nor the id of one (32 hexadecimal digits).");
        return r;
}

static int revoke_token(Call *call) {
        int r = sd_bus_message_read(call->message, "s", &call->after);
        return r < 0 ? r : call_authorized(call, GUARD_CLUSTER_MANAGE, revoke_allowed);
}

/* ---- Join ---- */

static const char *join_text(JoinAnswer answer) {
        switch (answer) {
        case JOIN_DONE:
                return "This host has joined.";
        case JOIN_INVALID_TOKEN:
                return "The token is not valid; copy all of it, or make a new one with \"treatyctl token\".";
        case JOIN_TOKEN_EXPIRED:
                return "The token has expired; make a new one with \"treatyctl token\".";
        case JOIN_TOKEN_USED:
                return "The token is used up or revoked; make a new one with \"treatyctl token\".";
        case JOIN_NOT_EMPTY:
                return "The tree of this host holds entries, which joining would discard; allow it with \"treatyctl join "
                       "--discard\".";
        case JOIN_ALREADY:
                return "This host is a member of a cluster with others already; to leave it, remove it there first (\"treatyctl remove\").";
        case JOIN_NAME_TAKEN:
                return "Another member has this host's name; rename one of them.";
        case JOIN_UNREACHABLE:
                return "No member named in the token can be reached; look at the links to them and at their port.";
        case JOIN_TIMEOUT:
                return "The cluster did not make this host a member in time; see \"treatyctl status\".";
        case JOIN_REFUSED:
                return "The cluster refused this host.";
        case JOIN_BUSY:
                return "This host is joining already.";
        case JOIN_RESTARTS:
                return "The agent drops its old state, restarts, and joins by this token; see \"treatyctl status\".";
        }
        assert(!"unreachable");
        return NULL;
}

static void on_join(JoinAnswer answer, const char *why, void *userdata) {
        Call *call = detached_take(userdata);
        AgentStatus status;
        char hex[33];

        if (!call)
                return;
        if (answer != JOIN_DONE) {
                bool more = why && why[0];
                call_fail(call, error_of_join(answer), "%s%s%s%s", join_text(answer), more ? " (" : "",
                          more ? why : "", more ? ")" : "");
                return;
        }
        agent_status(call_agent(call), &status);
        call_return(call, "s", hex_write(hex, status.cluster, sizeof(status.cluster)));
}

static int join_allowed(Call *call) {
        Detached *detached = call_detach(call);

        if (!detached)
                return -ENOMEM;
        int r = agent_join(call_agent(call), call->after, call->flags & 1, on_join, detached);
        if (r < 0)
                detached_take(detached);
        return r;
}

static int join_call(Call *call) {
        uint64_t flags;

        int r = sd_bus_message_read(call->message, "st", &call->after, &flags);
        if (r < 0)
                return r;
        if (!call_flags(call, flags, 1))
                return 0;
        return call_authorized(call, GUARD_CLUSTER_MANAGE, join_allowed);
}

/* ---- Remove, TransferLeadership, Scrub ---- */

static int find_member(Call *call, const char *name, uint64_t *ret) {
        Member member;

        int r = agent_member_by_name(call_agent(call), name, &member);
        if (r == 0)
                *ret = member.id;
        return r;
}

static int no_such_member(Call *call, const char *name) {
        return call_fail(call, ERROR_NO_SUCH_MEMBER,
                         "\"%.80s\" is neither name nor id of a member; see \"treatyctl members\".", name);
}

static int remove_allowed(Call *call) {
        uint64_t host;

        int r = find_member(call, call->after, &host);
        if (r < 0)
                return r;
        if (r > 0)
                return no_such_member(call, call->after);
        Detached *detached = call_detach(call);
        if (!detached)
                return -ENOMEM;
        r = agent_remove(call_agent(call), host, ADMIN_TIMEOUT_USEC, on_done, detached);
        if (r < 0)
                detached_take(detached);
        return r;
}

static int remove_member(Call *call) {
        uint64_t flags;

        int r = sd_bus_message_read(call->message, "st", &call->after, &flags);
        if (r < 0)
                return r;
        if (!call_flags(call, flags, 0))
                return 0;
        return call_authorized(call, GUARD_CLUSTER_MANAGE, remove_allowed);
}

static int transfer_allowed(Call *call) {
        uint64_t host = 0;

        int r = call->after[0] ? find_member(call, call->after, &host) : 0;
        if (r < 0)
                return r;
        if (r > 0)
                return no_such_member(call, call->after);
        Detached *detached = call_detach(call);
        if (!detached)
                return -ENOMEM;
        r = agent_transfer(call_agent(call), host, on_done, detached);
        if (r < 0)
                detached_take(detached);
        return r;
}

static int transfer_leadership(Call *call) {
        int r = sd_bus_message_read(call->message, "s", &call->after);
        return r < 0 ? r : call_authorized(call, GUARD_CLUSTER_MANAGE, transfer_allowed);
}

static void on_scrub(Answer answer, uint64_t n_rows, void *userdata) {
        Call *call = detached_take(userdata);

        if (!call)
                return;
        if (answer == ANSWER_DONE)
                call_return(call, "t", n_rows);
        else if (answer == ANSWER_NO_TREE)
                call_fail(call, ERROR_NO_TREE,
                          "The tree of this host is not as it was written. It is fetched again from another "
                          "voter; scrub again when \"treatyctl status\" is well.");
        else if (answer == ANSWER_HALTED)
                call_fail(call, ERROR_DAMAGED,
                          "The tree of this host is not as it was written, and there is nobody to fetch it "
                          "from; see the journal of treatyd.service.");
        else
                call_fail_request(call, &(RequestAnswer){.answer = answer});
}

static int scrub_allowed(Call *call) {
        Detached *detached = call_detach(call);

        if (!detached)
                return -ENOMEM;
        int r = agent_scrub(call_agent(call), on_scrub, detached);
        if (r < 0)
                detached_take(detached);
        return r;
}

static int scrub_call(Call *call) {
        uint64_t flags;

        int r = sd_bus_message_read(call->message, "t", &flags);
        if (r < 0)
                return r;
        if (!call_flags(call, flags, 0))
                return 0;
        return call_authorized(call, GUARD_CLUSTER_MANAGE, scrub_allowed);
}

/* ---- ListMembers ---- */

static int append_member(const AgentMember *m, void *userdata) {
        sd_bus_message *reply = userdata;
        char id[17];
        int r;

        if ((r = sd_bus_message_open_container(reply, 'r', "ssssbbtas")) < 0 ||
            (r = sd_bus_message_append(reply, "ssssbbt", id_write(id, m->member->id), m->member->name,
                                       class_name(m->member->class), m->voter ? "voter" : "observer",
                                       m->leader, m->connected, m->applied)) < 0 ||
            (r = sd_bus_message_open_container(reply, 'a', "s")) < 0)
                return r;
        for (uint32_t i = 0; i < m->member->n_addresses; i++)
                if ((r = sd_bus_message_append(reply, "s", m->member->addresses[i])) < 0)
                        return r;
        if ((r = sd_bus_message_close_container(reply)) < 0)
                return r;
        return sd_bus_message_close_container(reply);
}

static int members_known(Call *call) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        int r;

        if ((r = sd_bus_message_new_method_return(call->message, &reply)) < 0 ||
            (r = sd_bus_message_open_container(reply, 'a', "(ssssbbtas)")) < 0 ||
            (r = agent_members(call_agent(call), append_member, reply)) < 0 ||
            (r = sd_bus_message_close_container(reply)) < 0)
                return r;
        return call_send(call, reply, 0);
}

static void on_members_known(void *userdata) {
        Call *call = detached_take(userdata);
        int r = call ? members_known(call) : 0;
        if (r < 0)
                call_fail_errno(call, r);
}

static int list_members(Call *call) {
        if (!call_may(call, GUARD_CLUSTER_READ, NULL))
                return 0;
        Detached *detached = call_detach(call);
        if (!detached)
                return -ENOMEM;
        int r = agent_ask_members(call_agent(call), on_members_known, detached);
        if (r < 0)
                detached_take(detached);
        return r == -EBUSY ? members_known(call) : r;
}

/* ---- the interface ---- */

CALL_ENTRY(token_call)
CALL_ENTRY(revoke_token)
CALL_ENTRY(join_call)
CALL_ENTRY(remove_member)
CALL_ENTRY(transfer_leadership)
CALL_ENTRY(scrub_call)
CALL_ENTRY(list_members)

/* Tokens are secrets: sd-bus wipes the messages that carry them. */
#define SECRET (SD_BUS_VTABLE_UNPRIVILEGED | SD_BUS_VTABLE_SENSITIVE)

const sd_bus_vtable cluster_vtable[] = {
        SD_BUS_VTABLE_START(SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Token", SD_BUS_ARGS("t", flags, "a{sv}", options),
                                SD_BUS_RESULT("s", token), on_token_call, SECRET),
        SD_BUS_METHOD_WITH_ARGS("RevokeToken", SD_BUS_ARGS("s", token), SD_BUS_NO_RESULT, on_revoke_token,
                                SECRET),
        SD_BUS_METHOD_WITH_ARGS("Join", SD_BUS_ARGS("s", token, "t", flags), SD_BUS_RESULT("s", cluster_id),
                                on_join_call, SECRET),
        SD_BUS_METHOD_WITH_ARGS("Remove", SD_BUS_ARGS("s", host, "t", flags), SD_BUS_NO_RESULT,
                                on_remove_member, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("TransferLeadership", SD_BUS_ARGS("s", host), SD_BUS_NO_RESULT,
                                on_transfer_leadership, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Scrub", SD_BUS_ARGS("t", flags), SD_BUS_RESULT("t", rows), on_scrub_call,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("ListMembers", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(ssssbbtas)", members),
                                on_list_members, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_PROPERTY("ClusterId", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("HostId", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("HostName", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Role", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Leader", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Term", "t", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Quorate", "b", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("MemberCount", "u", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("VoterCount", "u", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("State", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("AppliedIndex", "t", get_property, 0, 0),
        SD_BUS_PROPERTY("CommitIndex", "t", get_property, 0, 0),
        SD_BUS_PROPERTY("ComparedIndex", "t", get_property, 0, 0),
        SD_BUS_PROPERTY("SessionCertainUSec", "t", get_property, 0, 0),
        SD_BUS_PROPERTY("ScrubbedUSec", "t", get_property, 0, 0),
        SD_BUS_PROPERTY("Version", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_VTABLE_END,
};
