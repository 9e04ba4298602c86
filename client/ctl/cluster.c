/* status, wait-online, members, token, join, remove, transfer, scrub. */
#include "ctl.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int set_value(json_t *object, const char *key, json_t *value) {
        return json_object_set_new(object, key, value) < 0 ? -ENOMEM : 0;
}

/* ---- status ---- */

static bool is_well(const treaty_status *status) {
        return status->quorate && strcmp(status->state, "running") == 0;
}

static int print_status_json(const Output *output, const treaty_status *status) {
        _cleanup_(json_decrefp) json_t *o = json_object();

        if (!o || set_value(o, "ClusterId", json_string(status->cluster_id)) < 0 ||
            set_value(o, "HostId", json_string(status->host_id)) < 0 ||
            set_value(o, "HostName", json_string(status->host_name)) < 0 ||
            set_value(o, "Role", json_string(status->role)) < 0 ||
            set_value(o, "Leader", json_string(status->leader)) < 0 ||
            set_value(o, "Term", json_u64(status->term)) < 0 ||
            set_value(o, "Quorate", json_boolean(status->quorate)) < 0 ||
            set_value(o, "MemberCount", json_integer(status->member_count)) < 0 ||
            set_value(o, "VoterCount", json_integer(status->voter_count)) < 0 ||
            set_value(o, "State", json_string(status->state)) < 0 ||
            set_value(o, "AppliedIndex", json_u64(status->applied_index)) < 0 ||
            set_value(o, "CommitIndex", json_u64(status->commit_index)) < 0 ||
            set_value(o, "Revision", json_u64(status->revision)) < 0 ||
            set_value(o, "Version", json_string(status->version)) < 0)
                return -ENOMEM;
        return output_json(output, o);
}

static int print_status(const Output *output, const treaty_status *s) {
        const char *color = !output->color ? NULL : is_well(s) ? "\033[32m" : color_state(s->state);
        const char *end = color ? "\033[0m" : "";

        if (!color)
                color = "";
        printf("%s%s%s %s%s%s\n", color, output->utf8 ? "●" : "*", end, s->host_name,
               *s->cluster_id ? " in cluster " : "", s->cluster_id);
        printf("     State: %s%s%s\n", color, s->state, end);
        printf("    Quorum: %s\n", s->quorate ? "yes" : "no: reads and units go on, writes wait");
        printf("      Role: %s (term %" PRIu64 ")\n", s->role, s->term);
        printf("    Leader: %s\n", *s->leader ? s->leader : "unknown");
        printf("   Members: %" PRIu32 " (%" PRIu32 " of them vote)\n", s->member_count, s->voter_count);
        printf("  Revision: %" PRIu64 "\n", s->revision);
        printf("   Applied: %" PRIu64 " of %" PRIu64 "\n", s->applied_index, s->commit_index);
        printf("   Host id: %s\n", s->host_id);
        printf("   Version: %s\n", s->version);
        return fflush(stdout) == 0 ? 0 : -EIO;
}

ExitCode verb_status(Ctl *ctl) {
        _cleanup_(treaty_status_freep) treaty_status *status = NULL;
        int r = ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT);

        if (r >= 0)
                r = treaty_get_status(ctl->agent, &status);
        if (r < 0)
                return ctl_fail(ctl, r, "show the status", "");
        if (!ctl->output.quiet || ctl->output.json != JSON_OFF) {
                r = ctl->output.json != JSON_OFF ? print_status_json(&ctl->output, status)
                                                 : print_status(&ctl->output, status);
                if (r < 0)
                        return ctl_printed(r);
        }
        return is_well(status) ? EXIT_OK : EXIT_NOT_SO;
}

/* ---- wait-online ---- */

#define ONLINE_TIMEOUT_USEC (120 * USEC_PER_SEC)
#define LOOK_MIN_USEC       (100 * USEC_PER_MSEC)
#define LOOK_MAX_USEC       USEC_PER_SEC

static uint64_t now_usec(void) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

/* Looks again and again: one short call to the own host costs less than being told of every change would. */
ExitCode verb_wait_online(Ctl *ctl) {
        const CommandLine *cl = ctl->cl;
        uint64_t timeout =
                cmdline_given(cl, OPTION_TIMEOUT) ? cl->number[OPTION_TIMEOUT] : ONLINE_TIMEOUT_USEC;
        uint64_t began = now_usec(), wait_usec = LOOK_MIN_USEC;
        char seen[64] = "";
        int r = ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT);

        if (!ctl->agent)
                return ctl_fail(ctl, r, "wait for quorum", "");
        (void)treaty_set_timeout(ctl->agent, 2 * USEC_PER_SEC);
        for (;;) {
                _cleanup_(treaty_status_freep) treaty_status *status = NULL;
                uint64_t passed;

                r = treaty_get_status(ctl->agent, &status);
                if (r >= 0 && is_well(status))
                        return EXIT_OK;
                if (r == -EACCES || r == -EINVAL || r == -ENOMEM)
                        return ctl_fail(ctl, r, "wait for quorum", "");
                snprintf(seen, sizeof(seen), "%s", r < 0 ? "it does not answer" : status->state);
                passed = now_usec() - began;
                if (passed >= timeout)
                        break;
                usleep((useconds_t)MIN(wait_usec, timeout - passed));
                wait_usec = MIN(wait_usec * 2, LOOK_MAX_USEC);
        }
        return ctl_complain(EXIT_TIMEOUT,
                            "There is no quorum in time (this host's agent: %s): see \"treatyctl status\"",
                            seen);
}

/* ---- members ---- */

static int each_member(const treaty_member *member, void *userdata) {
        json_t *rows = userdata, *addresses;
        _cleanup_(json_decrefp) json_t *row = json_object();

        if (!row || set_value(row, "id", json_string(member->id)) < 0 ||
            set_value(row, "name", json_string(member->name)) < 0 ||
            set_value(row, "class", json_string(member->member_class)) < 0 ||
            set_value(row, "role", json_string(member->role)) < 0 ||
            set_value(row, "leader", json_boolean(member->leader)) < 0 ||
            set_value(row, "connected", json_boolean(member->connected)) < 0 ||
            set_value(row, "applied", member->applied ? json_u64(member->applied) : json_null()) < 0)
                return -ENOMEM;
        addresses = json_array();
        if (set_value(row, "addresses", addresses) < 0)
                return -ENOMEM;
        for (size_t i = 0; member->addresses[i]; i++)
                if (json_array_append_new(addresses, json_string(member->addresses[i])) < 0)
                        return -ENOMEM;
        return json_array_append_new(rows, TAKE(row)) < 0 ? -ENOMEM : 0;
}

ExitCode verb_members(Ctl *ctl) {
        static const Column columns[] = {
                {"id", "ID"},
                {"name", "NAME"},
                {"class", "CLASS"},
                {"role", "ROLE"},
                {"leader", "LEADER", .color = color_flag},
                {"connected", "CONNECTED", .color = color_flag},
                {"applied", "APPLIED", .right = true},
                {"addresses", "ADDRESSES"},
        };
        _cleanup_(json_decrefp) json_t *rows = json_array();
        int r = rows ? ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT) : -ENOMEM;

        if (r >= 0)
                r = treaty_members(ctl->agent, each_member, rows);
        if (r < 0)
                return ctl_fail(ctl, r, "list members", "");
        return ctl_printed(output_rows(&ctl->output, rows, columns, ELEMENTSOF(columns)));
}

/* ---- token ---- */

static ExitCode revoke_token(Ctl *ctl) {
        int r = ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT);
        if (r >= 0)
                r = treaty_revoke_token(ctl->agent, ctl->cl->args[0]);
        return r < 0 ? ctl_fail(ctl, r, "revoke the token", "") : EXIT_OK;
}

static ExitCode print_token(const Ctl *ctl, const char *token) {
        const Output *output = &ctl->output;

        if (output->json != JSON_OFF) {
                _cleanup_(json_decrefp) json_t *answer = json_object();
                if (!answer || set_value(answer, "token", json_string(token)) < 0)
                        return ctl_printed(-ENOMEM);
                return ctl_printed(output_json(output, answer));
        }
        printf("%s\n", token);
        if (!output->quiet && isatty(STDERR_FILENO) > 0)
                fprintf(stderr,
                        "\nOn the host that shall join: treatyctl join TOKEN\n"
                        "Whoever has the token can add a host; withdraw it with: treatyctl token --revoke "
                        "TOKEN\n");
        return EXIT_OK;
}

ExitCode verb_token(Ctl *ctl) {
        const char *addresses[GIVEN_MAX + 1] = {NULL};
        const CommandLine *cl = ctl->cl;
        _cleanup_(freep) char *token = NULL;
        size_t n = 0;
        int r;

        if (cmdline_given(cl, OPTION_REVOKE) != (cl->n_args == 1))
                return ctl_complain(EXIT_USAGE,
                                    "It is: treatyctl token, or: treatyctl token --revoke TOKEN");
        if (cmdline_given(cl, OPTION_REVOKE))
                return revoke_token(ctl);
        if ((cmdline_given(cl, OPTION_USES) && cl->number[OPTION_USES] == 0) ||
            (cmdline_given(cl, OPTION_EXPIRES) && cl->number[OPTION_EXPIRES] == 0))
                return ctl_complain(EXIT_USAGE, "A token that is good for nothing is not made");
        for (unsigned i = 0; i < cl->n_repeated; i++)
                addresses[n++] = cl->repeated[i];

        r = ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT);
        if (r >= 0)
                r = treaty_token(ctl->agent, cl->number[OPTION_EXPIRES], (unsigned)cl->number[OPTION_USES],
                                 cl->text[OPTION_CLASS], n > 0 ? addresses : NULL, &token);
        return r < 0 ? ctl_fail(ctl, r, "make a token", "") : print_token(ctl, token);
}

/* ---- join ---- */

/* A peer may be slow to answer, and a tree long to fetch. */
#define JOIN_TIMEOUT_USEC (60 * USEC_PER_SEC)
#define JOIN_LOOK_USEC    (200 * USEC_PER_MSEC)
#define TOKEN_BYTES_MAX   16384

/* The token from the command line, or ("-") the first line of standard input, where other users do not see
 * it. */
static char *read_token(const char *arg) {
        char line[TOKEN_BYTES_MAX];

        if (strcmp(arg, "-") != 0)
                return strdup(arg);
        if (!fgets(line, sizeof(line), stdin))
                line[0] = 0;
        line[strcspn(line, " \t\r\n")] = 0;
        return strdup(line);
}

/* The process list shows arguments to everybody: from here on it shows none. Who looked before has it. */
static void hide_token(const char *arg) {
        if (strcmp(arg, "-") != 0)
                memset((char *)arg, '*', strlen(arg));
}

/* The agent drops what it was, starts again, and joins by itself. */
static int wait_joined(Ctl *ctl, char **ret_cluster) {
        for (unsigned i = 0; i < JOIN_TIMEOUT_USEC / JOIN_LOOK_USEC; i++) {
                _cleanup_(treaty_status_freep) treaty_status *status = NULL;
                (void)usleep(JOIN_LOOK_USEC);
                if (treaty_get_status(ctl->agent, &status) < 0 || strcmp(status->state, "joining") == 0 ||
                    strcmp(status->state, "removed") == 0 || strcmp(status->state, "quarantined") == 0)
                        continue;
                *ret_cluster = strdup(status->cluster_id);
                return *ret_cluster ? 0 : -ENOMEM;
        }
        return -ETIMEDOUT;
}

ExitCode verb_join(Ctl *ctl) {
        _cleanup_(freep) char *token = read_token(ctl->cl->args[0]), *cluster = NULL;
        hide_token(ctl->cl->args[0]);
        int r = token ? ctl_connect(ctl, JOIN_TIMEOUT_USEC) : -ENOMEM;

        if (r >= 0)
                r = treaty_join(ctl->agent, token, cmdline_given(ctl->cl, OPTION_DISCARD), &cluster);
        if (r == -ERESTART) {
                r = wait_joined(ctl, &cluster);
                if (r == -ETIMEDOUT)
                        return ctl_complain(
                                EXIT_ERROR,
                                "The agent dropped its old state, but has not joined within a minute. It "
                                "goes on trying: \"journalctl -u treatyd.service\" says why not. With "
                                "another token: treatyctl join -");
        }
        if (r < 0) {
                ExitCode code = ctl_fail(ctl, r, "join", "");
                if (r == -ENOTEMPTY)
                        fprintf(stderr,
                                "treatyctl: to give up what the tree of this host holds: treatyctl join "
                                "--discard TOKEN\n");
                else if (r == -ENOTUNIQ)
                        fprintf(stderr,
                                "treatyctl: if that is this host as it was before: on a member, treatyctl remove "
                                "NAME; then join again\n");
                return code;
        }
        if (ctl->output.json != JSON_OFF) {
                _cleanup_(json_decrefp) json_t *answer = json_object();
                if (!answer || set_value(answer, "cluster_id", json_string(cluster)) < 0)
                        return ctl_printed(-ENOMEM);
                return ctl_printed(output_json(&ctl->output, answer));
        }
        if (!ctl->output.quiet)
                printf("Joined cluster %s\n", cluster);
        return EXIT_OK;
}

/* ---- remove, transfer, scrub ---- */

ExitCode verb_remove(Ctl *ctl) {
        const char *host = ctl->cl->args[0];
        int r = ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT);

        if (r >= 0)
                r = treaty_remove(ctl->agent, host);
        return r < 0 ? ctl_fail(ctl, r, "remove", host) : EXIT_OK;
}

ExitCode verb_transfer(Ctl *ctl) {
        const char *host = ctl->cl->n_args > 0 ? ctl->cl->args[0] : "";
        int r = ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT);

        if (r >= 0)
                r = treaty_transfer(ctl->agent, host);
        return r < 0 ? ctl_fail(ctl, r, *host ? "transfer leadership to" : "transfer leadership", host)
                     : EXIT_OK;
}

/* A tree of a million entries on a slow disk takes its time. */
#define SCRUB_TIMEOUT_USEC (3600 * USEC_PER_SEC)

ExitCode verb_scrub(Ctl *ctl) {
        uint64_t rows;
        int r = ctl_connect(ctl, SCRUB_TIMEOUT_USEC);

        if (r >= 0)
                r = treaty_scrub(ctl->agent, &rows);
        if (r < 0)
                return ctl_fail(ctl, r, "scrub", "");
        if (ctl->output.json != JSON_OFF) {
                _cleanup_(json_decrefp) json_t *answer = json_object();
                if (!answer || set_value(answer, "rows", json_integer((json_int_t)rows)) < 0)
                        return ctl_printed(-ENOMEM);
                return ctl_printed(output_json(&ctl->output, answer));
        }
        if (!ctl->output.quiet)
                printf("All %" PRIu64 " rows are as they were written\n", rows);
        return EXIT_OK;
}
