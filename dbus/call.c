/* See call.h. */
#include "call.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <utlist.h>

#include "agent/journal.h"
#include "policy/polkit.h"
#include "error.h"
#include "quick.h"

#define CALL_OVERHEAD 512 /* bytes charged for a call by itself */
#define WEIGHT_DEPTH  8   /* containers within containers; our signatures have five at most */

Bus *call_bus(Call *call) {
        return call->client->link->bus;
}

Agent *call_agent(Call *call) {
        return call_bus(call)->agent;
}

/* ---- weight: what the arguments keep in memory while the call waits ---- */

static int weigh(sd_bus_message *m, unsigned depth, size_t *weight);

static int weigh_one(sd_bus_message *m, char type, const char *contents, unsigned depth, size_t *weight) {
        const char *text;
        const void *data;
        size_t size;

        if (strchr("sog", type)) {
                int r = sd_bus_message_read_basic(m, type, &text);
                if (r < 0)
                        return r;
                *weight += strlen(text) + 8;
                return 1;
        }
        if (type == 'a' && strcmp(contents, "y") == 0) {
                int r = sd_bus_message_read_array(m, 'y', &data, &size);
                if (r < 0)
                        return r;
                *weight += size + 8;
                return 1;
        }
        if (strchr("avre", type)) {
                if (depth >= WEIGHT_DEPTH)
                        return -EBADMSG;
                int r = sd_bus_message_enter_container(m, type, contents);
                if (r < 0)
                        return r;
                r = weigh(m, depth + 1, weight);
                if (r < 0)
                        return r;
                *weight += 8;
                return sd_bus_message_exit_container(m) < 0 ? -EBADMSG : 1;
        }
        *weight += 8;
        return sd_bus_message_skip(m, (char[]){type, 0}) < 0 ? -EBADMSG : 1;
}

static int weigh(sd_bus_message *m, unsigned depth, size_t *weight) {
        for (;;) {
                const char *contents;
                char type;
                int r = sd_bus_message_peek_type(m, &type, &contents);
                if (r <= 0)
                        return r;
                r = weigh_one(m, type, contents, depth, weight);
                if (r < 0)
                        return r;
        }
}

static int message_weight(sd_bus_message *m, size_t *ret) {
        size_t weight = CALL_OVERHEAD;

        int r = weigh(m, 0, &weight);
        if (r < 0)
                return r;
        r = sd_bus_message_rewind(m, true);
        if (r < 0)
                return r;
        *ret = weight;
        return 0;
}

/* ---- bounds ---- */

/* Has the other side fallen asleep over its replies? Then more of them would only fill our memory. */
static bool replies_pile_up(Link *link) {
        size_t limit = link->private ? LIMIT_REPLY_BYTES : LIMIT_REPLY_BYTES_BUS;
        uint64_t n = 0;

        if (sd_bus_get_n_queued_write(link->sd, &n) < 0)
                return false;
        if (n == 0)
                link->reply_bytes = 0;
        return n > LIMIT_REPLIES || link->reply_bytes > limit;
}

/* On the bus any caller can send fds along, which a message that waits keeps open unseen (private.c takes
 * none). Half of them are the agent's. */
static bool fds_run_short(Bus *bus) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return false;
        int lowest = fcntl(sd_event_get_fd(bus->event), F_DUPFD_CLOEXEC, 0);
        if (lowest < 0)
                return true;
        close(lowest);
        return (rlim_t)lowest >= limit.rlim_cur / 2;
}

static const char *over_limit(Client *client, size_t weight) {
        Bus *bus = client->link->bus;
        bool root = client->caller.known && client->caller.uid == 0;

        if (replies_pile_up(client->link))
                return "Too many replies have not been read. Read them and call again.";
        if (client->n_calls >= LIMIT_CALLS_PER_CLIENT ||
            client->bytes + weight > LIMIT_CALL_BYTES_PER_CLIENT)
                return "Too many calls of this client wait for their answer. Await some and call again.";
        if (client->user && !root && client->user->n_calls >= LIMIT_CALLS_PER_UID)
                return "Too many calls of this user wait for their answer. Await some and call again.";
        if (bus->n_calls >= (root ? LIMIT_CALLS : LIMIT_OF_STRANGERS(LIMIT_CALLS)) ||
            bus->call_bytes + weight > (root ? LIMIT_CALL_BYTES : LIMIT_OF_STRANGERS(LIMIT_CALL_BYTES)))
                return "Too many calls on this host wait for their answer. Call again in a moment.";
        return NULL;
}

static void charge(Call *call) {
        Client *client = call->client;

        DL_APPEND(client->calls, call);
        client->n_calls++;
        client->bytes += call->weight;
        if (client->user)
                client->user->n_calls++;
        call_bus(call)->n_calls++;
        call_bus(call)->call_bytes += call->weight;
}

static void discharge(Call *call) {
        Client *client = call->client;

        assert(client->n_calls > 0 && client->bytes >= call->weight);
        DL_DELETE(client->calls, call);
        client->n_calls--;
        client->bytes -= call->weight;
        if (client->user)
                client->user->n_calls--;
        call_bus(call)->n_calls--;
        call_bus(call)->call_bytes -= call->weight;
}

/* ---- life ---- */

static int client_error(int r, sd_bus_error *error) {
        if (r == -ENOBUFS)
                return sd_bus_error_set(error, SD_BUS_ERROR_LIMITS_EXCEEDED,
                                        "Too many clients wait on this host. Call again in a moment.");
        return sd_bus_error_set_errnof(error, -r, "Who is calling cannot be found out: %s", strerror(-r));
}

int call_begin(Link *link, sd_bus_message *m, CallHandler handler, sd_bus_error *error) {
        Client *client;
        size_t weight;

        if (link->doomed)
                return 1;
        int r = message_weight(m, &weight);
        if (r < 0)
                return r;
        if (weight > LIMIT_CALL_BYTES_PER_CLIENT)
                return sd_bus_error_setf(error, ERROR_TOO_LARGE,
                                         "A call with %zu bytes of arguments; none needs more than %d.",
                                         weight, LIMIT_CALL_BYTES_PER_CLIENT);
        r = client_of(link, m, &client);
        if (r < 0)
                return client_error(r, error);
        const char *full = over_limit(client, weight);
        if (!full && !link->private && (!client->caller.known || client->caller.uid != 0) &&
            fds_run_short(link->bus))
                full = "This host is short of file descriptors. Call again in a moment.";
        if (full)
                return sd_bus_error_set(error, SD_BUS_ERROR_LIMITS_EXCEEDED, full);

        Call *call = calloc(1, sizeof(Call));
        if (!call)
                return -ENOMEM;
        call->client = client;
        call->message = sd_bus_message_ref(m);
        call->weight = weight;
        charge(call);
        if (client->caller.known)
                call_run(call, handler);
        else
                call->handler = handler;
        return 1;
}

Call *call_new_quick(Client *client, uint32_t serial, const char *path, size_t weight) {
        size_t size = strlen(path) + 1;

        weight += CALL_OVERHEAD + size;
        if (client->link->doomed || over_limit(client, weight))
                return NULL;
        Call *call = calloc(1, sizeof(Call) + size);
        if (!call)
                return NULL;
        call->client = client;
        call->serial = serial;
        call->weight = weight;
        memcpy(call + 1, path, size);
        call->path = (const char *)(call + 1);
        charge(call);
        return call;
}

/* For answers that sd-bus has to give: it answers messages only. */
sd_bus_message *call_message(Call *call) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *message = NULL;

        if (call->message)
                return call->message;
        if (sd_bus_message_new_method_call(call->client->link->sd, &message, NULL, BUS_PATH,
                                           BUS_NAME ".Tree", "Get") < 0 ||
            sd_bus_message_seal(message, call->serial, 0) < 0)
                return NULL;
        return call->message = TAKE(message);
}

void call_run(Call *call, CallHandler handler) {
        int r = handler(call);
        if (r < 0)
                call_fail_errno(call, r);
}

static void forget_polkit(Call *call) {
        if (!call->polkit)
                return;
        call->polkit = sd_bus_slot_unref(call->polkit);
        call->client->asks_polkit = false;
        call_bus(call)->n_polkit--;
}

Call *call_free(Call *call) {
        if (!call)
                return NULL;
        request_forget(call->request);
        read_forget(call->read);
        watch_free(call->watch);
        sd_event_source_disable_unref(call->timer);
        forget_polkit(call);
        if (call->detached)
                call->detached->call = NULL;
        if (call->registration)
                registration_abandon(call->registration);
        discharge(call);
        sd_bus_message_unref(call->message);
        free(call);
        return NULL;
}

/* ---- answers ---- */

int call_send(Call *call, sd_bus_message *reply, size_t bytes) {
        Link *link = call->client->link;

        int r = sd_bus_message_get_expect_reply(call_message(call)) ? sd_bus_send(NULL, reply, NULL) : 0;
        if (r < 0 && r != -ENOTCONN && r != -ECONNRESET)
                log_debug("A reply was lost: %s", strerror(-r));
        link->reply_bytes += bytes + CALL_OVERHEAD;
        private_watch(link);
        call_free(call);
        return 0;
}

int call_return(Call *call, const char *types, ...) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        va_list ap;

        sd_bus_message *message = call_message(call);
        int r = message ? sd_bus_message_new_method_return(message, &reply) : -ENOMEM;
        if (r < 0)
                return call_fail_errno(call, r);
        if (types && types[0]) {
                va_start(ap, types);
                r = sd_bus_message_appendv(reply, types, ap);
                va_end(ap);
                if (r < 0)
                        return call_fail_errno(call, r);
        }
        return call_send(call, reply, 0);
}

int call_fail(Call *call, const char *name, const char *format, ...) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        char text[LIMIT_PATH_BYTES + 1024];
        va_list ap;

        va_start(ap, format);
        vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        if (!utf8_is_valid(text, strlen(text))) /* cut within a character: D-Bus would refuse it */
                for (char *p = text; *p; p++)
                        if ((unsigned char)*p >= 0x80)
                                *p = '?';
        sd_bus_error_set(&error, name, text);
        sd_bus_message *message = call_message(call);
        if (!message || sd_bus_message_new_method_error(message, &reply, &error) < 0) {
                call_free(call);
                return 0;
        }
        return call_send(call, reply, sizeof(text));
}

int call_fail_errno(Call *call, int r) {
        if (r == -ENOMEM)
                return call_fail(call, SD_BUS_ERROR_NO_MEMORY, "This host is out of memory.");
        if (r == -EBADMSG)
                return call_fail(call, ERROR_DAMAGED,
                                 "What this host has stored here is damaged; other hosts can answer.");
        if (r == -EBUSY)
                return call_fail(call, ERROR_BUSY,
                                 "This host is as busy with this as it may be. Call again later.");
        if (r == -EOPNOTSUPP)
                return call_fail(call, SD_BUS_ERROR_NOT_SUPPORTED,
                                 "This connection cannot carry file descriptors.");
        return call_fail(call, SD_BUS_ERROR_FAILED, "The agent could not do it: %s.", strerror(-r));
}

/* ---- checks ---- */

static bool path_fine(Call *call, const char *path, PathVerdict verdict) {
        if (verdict == PATH_OK) {
                call->path = path;
                return true;
        }
        call_fail(call, ERROR_INVALID_PATH, "The path \"%.*s\"%s %s.", 200, path,
                  strnlen(path, 201) > 200 ? "…" : "", path_verdict_text(verdict));
        return false;
}

bool call_path(Call *call, const char *path) {
        return path_fine(call, path, path_check(path));
}

bool call_entry(Call *call, const char *path) {
        return path_fine(call, path, path_check_entry(path));
}

bool call_flags(Call *call, uint64_t flags, uint64_t known) {
        if ((flags & ~known) == 0) {
                call->flags = flags;
                return true;
        }
        call_fail(call, SD_BUS_ERROR_INVALID_ARGS, "Unknown flags 0x%llx; this method knows 0x%llx.",
                  (unsigned long long)(flags & ~known), (unsigned long long)known);
        return false;
}

bool call_may_watch(Call *call) {
        size_t most = call->client->caller.uid == 0 ? LIMIT_WATCHES : LIMIT_OF_STRANGERS(LIMIT_WATCHES);

        if (agent_watches(call_agent(call)) < most)
                return true;
        call_fail(call, SD_BUS_ERROR_LIMITS_EXCEEDED,
                  "Too many watches are open on this host (at most %zu). Close some.", most);
        return false;
}

static int deny(Call *call, GuardAction action, const char *path) {
        char text[LIMIT_PATH_BYTES + 256];

        guard_explain(&call->client->caller, action, path, text, sizeof(text));
        return call_fail(call, SD_BUS_ERROR_ACCESS_DENIED, "%s", text);
}

bool call_may(Call *call, GuardAction action, const char *path) {
        if (guard_check(&call->client->caller, action, path) == GUARD_ALLOW)
                return true;
        deny(call, action, path);
        return false;
}

static int on_polkit(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        Call *call = userdata;
        CallHandler handler = TAKE(call->resume);

        forget_polkit(call);
        switch (polkit_read(reply)) {
        case POLKIT_YES:
                call_run(call, handler);
                return 0;
        case POLKIT_CHALLENGE:
                call_fail(
                        call, SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED,
                        "This needs the consent of an administrator, and the caller did not allow to ask.");
                return 0;
        case POLKIT_NO:
        case POLKIT_ABSENT:
                deny(call, GUARD_CLUSTER_MANAGE, NULL);
                return 0;
        }
        assert(!"unreachable");
        return 0;
}

static int ask_polkit(Call *call, CallHandler handler) {
        Client *client = call->client;
        Bus *bus = call_bus(call);

        if (client->asks_polkit || bus->n_polkit >= LIMIT_POLKIT)
                return call_fail(call, SD_BUS_ERROR_LIMITS_EXCEEDED,
                                 "Another authorization is being asked for. Call again when it is decided.");
        int r = polkit_ask(client->link->sd, client->name, POLKIT_MANAGE_CLUSTER,
                           sd_bus_message_get_allow_interactive_authorization(call->message) > 0, on_polkit,
                           call, &call->polkit);
        if (r < 0)
                return r;
        call->resume = handler;
        client->asks_polkit = true;
        bus->n_polkit++;
        return 0;
}

int call_authorized(Call *call, GuardAction action, CallHandler handler) {
        switch ((GuardVerdict)guard_check(&call->client->caller, action, NULL)) {
        case GUARD_ALLOW:
                return handler(call);
        case GUARD_ASK:
                return ask_polkit(call, handler);
        case GUARD_DENY:
                break;
        }
        return deny(call, action, NULL);
}

/* ---- waiting ---- */

static void on_read_ready(Answer answer, void *userdata) {
        Call *call = userdata;

        call->read = NULL;
        if (answer == ANSWER_DONE)
                call_run(call, TAKE(call->resume));
        else
                call_fail(call, error_of_answer(answer), "%s: %s.", call->path ? call->path : "The call",
                          answer_text(answer));
}

int call_read(Call *call, uint32_t flags, uint64_t min_revision, uint64_t timeout_usec, CallHandler look) {
        int r = agent_read(call_agent(call), flags, min_revision, timeout_usec, on_read_ready, call,
                           &call->read);
        if (r < 0)
                return r;
        if (r > 0)
                return look(call);
        call->resume = look;
        return 0;
}

int call_fail_request(Call *call, const RequestAnswer *answer) {
        char text[LIMIT_PATH_BYTES + 640];

        const char *name = error_of_request(answer, call->path, text, sizeof(text));
        return call_fail(call, name, "%s", text);
}

void call_done(const RequestAnswer *answer, void *userdata) {
        Call *call = userdata;

        call->request = NULL;
        if (answer->answer == ANSWER_DONE && quick_return_revision(call, answer->result.revision))
                return;
        if (answer->answer == ANSWER_DONE)
                call_return(call, "t", answer->result.revision);
        else
                call_fail_request(call, answer);
}

int call_request(Call *call, const Command *command, uint64_t timeout_usec) {
        return agent_request(call_agent(call), command, timeout_usec, call_done, call, &call->request);
}

Detached *call_detach(Call *call) {
        Detached *detached = calloc(1, sizeof(Detached));
        if (!detached)
                return NULL;
        detached->call = call;
        call->detached = detached;
        return detached;
}

Call *detached_take(Detached *detached) {
        Call *call = detached->call;

        if (call)
                call->detached = NULL;
        free(detached);
        return call;
}
