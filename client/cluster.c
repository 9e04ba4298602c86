/* The cluster as this host sees it, and its administration. */
#include "connection.h"

#include <stdio.h>
#include <string.h>

#define ADDRESSES_MAX 64u

/* ---- Status ---- */

typedef struct OwnedStatus {
        treaty_status status;  /* first: what the caller holds */
        sd_bus_message *reply; /* holds its texts */
} OwnedStatus;

_public_ treaty_status *treaty_status_free(treaty_status *status) {
        OwnedStatus *owned = (OwnedStatus *)status;
        if (!owned)
                return NULL;
        sd_bus_message_unref(owned->reply);
        free(owned);
        return NULL;
}
DEFINE_CLEANUP(treaty_status *, treaty_status_free)

static int get_all(treaty *t, const char *interface, sd_bus_message **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        int r = call_begin(t, "org.freedesktop.DBus.Properties", "GetAll", &call);
        if (r < 0)
                return r;
        r = sd_bus_message_append(call, "s", interface);
        if (r < 0)
                return fail_append(t, r);
        return call_finish_default(t, call, ret);
}

static int read_property(sd_bus_message *reply, const char *key, treaty_status *status) {
        const struct {
                const char *key, *type;
                void *to;
        } table[] = {
                {"ClusterId", "s", &status->cluster_id},
                {"HostId", "s", &status->host_id},
                {"HostName", "s", &status->host_name},
                {"Role", "s", &status->role},
                {"Leader", "s", &status->leader},
                {"State", "s", &status->state},
                {"Version", "s", &status->version},
                {"Term", "t", &status->term},
                {"AppliedIndex", "t", &status->applied_index},
                {"CommitIndex", "t", &status->commit_index},
                {"MemberCount", "u", &status->member_count},
                {"VoterCount", "u", &status->voter_count},
        };
        int quorate, r;

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (strcmp(key, table[i].key) == 0)
                        return sd_bus_message_read(reply, "v", table[i].type, table[i].to);
        if (strcmp(key, "Quorate") != 0)
                return sd_bus_message_skip(reply, "v");
        r = sd_bus_message_read(reply, "v", "b", &quorate);
        if (r >= 0)
                status->quorate = quorate;
        return r;
}

static int read_status(sd_bus_message *reply, treaty_status *status) {
        int r = sd_bus_message_enter_container(reply, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(reply, 'e', "sv")) > 0) {
                const char *key;
                r = sd_bus_message_read(reply, "s", &key);
                if (r >= 0)
                        r = read_property(reply, key, status);
                if (r >= 0)
                        r = sd_bus_message_exit_container(reply);
        }
        return r < 0 ? r : sd_bus_message_exit_container(reply);
}

/* The tree's revision is a property of another interface, which is not for everybody. */
static uint64_t tree_revision(treaty *t) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        uint64_t revision;

        if (call_begin(t, "org.freedesktop.DBus.Properties", "Get", &call) < 0 ||
            sd_bus_message_append(call, "ss", TREATY_TREE, "Revision") < 0 ||
            call_finish_default(t, call, &reply) < 0 || sd_bus_message_read(reply, "v", "t", &revision) < 0)
                return 0;
        return revision;
}

_public_ int treaty_get_status(treaty *t, treaty_status **ret) {
        _cleanup_(treaty_status_freep) treaty_status *status = NULL;
        OwnedStatus *owned;
        int r;

        *ret = NULL;
        owned = calloc(1, sizeof(*owned));
        if (!owned)
                return fail_errno(t, -ENOMEM, "Cannot ask for the status");
        status = &owned->status;
        *status = (treaty_status){.cluster_id = "",
                                  .host_id = "",
                                  .host_name = "",
                                  .role = "",
                                  .leader = "",
                                  .state = "",
                                  .version = ""};
        r = get_all(t, TREATY_CLUSTER, &owned->reply);
        if (r < 0)
                return r;
        r = read_status(owned->reply, status);
        if (r < 0)
                return fail_reply(t, r);
        status->revision = tree_revision(t);
        *ret = TAKE(status);
        return 0;
}

/* ---- Members ---- */

static int read_addresses(sd_bus_message *reply, const char *to[static ADDRESSES_MAX + 1]) {
        size_t n = 0;
        const char *address;
        int r = sd_bus_message_enter_container(reply, 'a', "s");

        while (r >= 0 && (r = sd_bus_message_read(reply, "s", &address)) > 0)
                if (n < ADDRESSES_MAX)
                        to[n++] = address;
        to[n] = NULL;
        return r < 0 ? r : sd_bus_message_exit_container(reply);
}

/* 1: a member; 0: that was all. */
static int read_member(sd_bus_message *reply, treaty_member *member,
                       const char *addresses[static ADDRESSES_MAX + 1]) {
        int leader, connected;
        int r = sd_bus_message_enter_container(reply, 'r', "ssssbbtas");
        if (r <= 0)
                return r;
        r = sd_bus_message_read(reply, "ssssbbt", &member->id, &member->name, &member->member_class,
                                &member->role, &leader, &connected, &member->applied);
        if (r >= 0)
                r = read_addresses(reply, addresses);
        if (r >= 0)
                r = sd_bus_message_exit_container(reply);
        if (r < 0)
                return r;
        member->leader = leader;
        member->connected = connected;
        member->addresses = addresses;
        return 1;
}

_public_ int treaty_members(treaty *t, int (*each)(const treaty_member *member, void *userdata),
                            void *userdata) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        const char *addresses[ADDRESSES_MAX + 1];
        treaty_member member = {0};
        int r;

        r = call_begin(t, TREATY_CLUSTER, "ListMembers", &call);
        if (r < 0)
                return r;
        r = call_finish_default(t, call, &reply);
        if (r < 0)
                return r;
        r = sd_bus_message_enter_container(reply, 'a', "(ssssbbtas)");
        while (r >= 0 && (r = read_member(reply, &member, addresses)) > 0) {
                int stopped = each(&member, userdata);
                if (stopped != 0)
                        return stopped;
        }
        return r < 0 ? fail_reply(t, r) : 0;
}

/* ---- Administration ---- */

/* Sends what was appended (r: how that went); *ret (may be NULL): the text it answers. */
static int finish_text(treaty *t, sd_bus_message *call, int r, char **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        const char *text;

        if (r < 0)
                return fail_append(t, r);
        r = call_finish_default(t, call, &reply);
        if (r < 0 || !ret)
                return r;
        r = sd_bus_message_read(reply, "s", &text);
        if (r < 0)
                return fail_reply(t, r);
        *ret = strdup(text);
        return *ret ? 0 : fail_errno(t, -ENOMEM, "Cannot keep the answer");
}

static int append_addresses(sd_bus_message *call, const char *const *addresses) {
        int r = sd_bus_message_open_container(call, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(call, "s", "addresses");
        if (r >= 0)
                r = sd_bus_message_open_container(call, 'v', "as");
        if (r >= 0)
                r = sd_bus_message_append_strv(call, (char **)addresses);
        if (r >= 0)
                r = sd_bus_message_close_container(call);
        return r >= 0 ? sd_bus_message_close_container(call) : r;
}

_public_ int treaty_token(treaty *t, uint64_t lifetime_usec, unsigned uses, const char *member_class,
                          const char *const *addresses, char **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        int r = call_begin(t, TREATY_CLUSTER, "Token", &call);
        if (r < 0)
                return r;
        r = sd_bus_message_append(call, "t", (uint64_t)0);
        if (r >= 0)
                r = sd_bus_message_open_container(call, 'a', "{sv}");
        if (r >= 0 && lifetime_usec > 0)
                r = append_option_u64(call, "expires-usec", lifetime_usec);
        if (r >= 0 && uses > 0)
                r = sd_bus_message_append(call, "{sv}", "uses", "u", (uint32_t)uses);
        if (r >= 0 && member_class)
                r = sd_bus_message_append(call, "{sv}", "class", "s", member_class);
        if (r >= 0 && addresses)
                r = append_addresses(call, addresses);
        if (r >= 0)
                r = sd_bus_message_close_container(call);
        return finish_text(t, call, r, ret);
}

_public_ int treaty_revoke_token(treaty *t, const char *token_or_id) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        int r = call_begin(t, TREATY_CLUSTER, "RevokeToken", &call);
        if (r < 0)
                return r;
        return finish_text(t, call, sd_bus_message_append(call, "s", token_or_id), NULL);
}

_public_ int treaty_join(treaty *t, const char *token, bool discard, char **ret_cluster_id) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        int r = call_begin(t, TREATY_CLUSTER, "Join", &call);
        if (r < 0)
                return r;
        return finish_text(t, call, sd_bus_message_append(call, "st", token, (uint64_t)discard),
                           ret_cluster_id);
}

_public_ int treaty_remove(treaty *t, const char *host) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        int r = call_begin(t, TREATY_CLUSTER, "Remove", &call);
        if (r < 0)
                return r;
        return finish_text(t, call, sd_bus_message_append(call, "st", host, (uint64_t)0), NULL);
}

_public_ int treaty_scrub(treaty *t, uint64_t *ret_rows) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        uint64_t rows;
        int r = call_begin(t, TREATY_CLUSTER, "Scrub", &call);
        if (r < 0)
                return r;
        r = sd_bus_message_append(call, "t", (uint64_t)0);
        if (r < 0)
                return fail_append(t, r);
        r = call_finish_default(t, call, &reply);
        if (r < 0)
                return r;
        r = sd_bus_message_read(reply, "t", &rows);
        if (r < 0)
                return fail_reply(t, r);
        if (ret_rows)
                *ret_rows = rows;
        return 0;
}

_public_ int treaty_transfer(treaty *t, const char *host) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        int r = call_begin(t, TREATY_CLUSTER, "TransferLeadership", &call);
        if (r < 0)
                return r;
        return finish_text(t, call, sd_bus_message_append(call, "s", host ? host : ""), NULL);
}
