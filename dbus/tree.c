/* org.treaty1.Tree: reads, writes, watches and long polls of the agreed tree, as its XML says. */
#include <stdio.h>
#include <string.h>

#include "call.h"
#include "error.h"
#include "options.h"
#include "quick.h"
#include "watchfd.h"

enum { GET_LINEARIZABLE = 1 };
enum { LIST_FLAG_LINEARIZABLE = 1, LIST_FLAG_CHILDREN = 2, LIST_FLAG_NO_VALUES = 4 };
enum { DELETE_SUBTREE = 1 };

/* The bus's numbers are the agent's own. */
static_assert(WATCH_SUBTREE == 1 && WATCH_PREVIOUS == 2 && WATCH_MARKS == 4, "flags as in the XML");

/* ---- options ---- */

static bool read_options(Call *call, const Option *options, size_t n) {
        char text[256];

        int r = options_read(call->message, options, n, text, sizeof(text));
        if (r == 0)
                return true;
        if (r > 0)
                call_fail(call, SD_BUS_ERROR_INVALID_ARGS, "%s", text);
        else
                call_fail_errno(call, r);
        return false;
}

static bool timeout_fine(Call *call, uint64_t timeout_usec) {
        if (timeout_usec > 0 && timeout_usec <= LIMIT_TIMEOUT_USEC)
                return true;
        call_fail(call, SD_BUS_ERROR_INVALID_ARGS,
                  "The option \"timeout-usec\" must be between 1 and %llu (10 minutes).",
                  (unsigned long long)LIMIT_TIMEOUT_USEC);
        return false;
}

static bool value_fine(Call *call, size_t size) {
        if (size <= LIMIT_VALUE_BYTES)
                return true;
        call_fail(call, ERROR_TOO_LARGE, "%s: a value of %zu bytes; at most %d (1 MiB) fit into an entry.",
                  call->path, size, LIMIT_VALUE_BYTES);
        return false;
}

/* ---- Get, GetText ---- */

/* Name of a host, or its id where no member has it any more. */
void tree_host_name(Agent *agent, uint64_t id, char *to, size_t size) {
        char hex[17];
        Member member;

        snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)id);
        snprintf(to, size, "%s", agent_member_by_name(agent, hex, &member) == 0 ? member.name : hex);
}

static int append_info(sd_bus_message *reply, Agent *agent, uint64_t create_revision, uint64_t version,
                       uint64_t owner) {
        char name[LIMIT_NAME_BYTES + 1];

        int r = sd_bus_message_open_container(reply, 'a', "{sv}");
        if (r < 0)
                return r;
        if ((r = sd_bus_message_append(reply, "{sv}", "create-revision", "t", create_revision)) < 0 ||
            (r = sd_bus_message_append(reply, "{sv}", "version", "t", version)) < 0 ||
            (r = sd_bus_message_append(reply, "{sv}", "revision", "t", agent_revision(agent))) < 0 ||
            (r = sd_bus_message_append(reply, "{sv}", "age-usec", "t", agent_age_usec(agent))) < 0)
                return r;
        if (owner != 0) {
                tree_host_name(agent, owner, name, sizeof(name));
                r = sd_bus_message_append(reply, "{sv}", "owner", "s", name);
                if (r < 0)
                        return r;
        }
        return sd_bus_message_close_container(reply);
}

static int no_such_entry(Call *call) {
        return call_fail(call, ERROR_NO_SUCH_ENTRY, "%s: there is no such entry.", call->path);
}

static int look_get(Call *call) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        AgentEntry entry;

        int r = agent_get(call_agent(call), call->path, &entry);
        if (r < 0)
                return r;
        if (r > 0)
                return no_such_entry(call);
        if (quick_return_entry(call, &entry))
                return 0;
        sd_bus_message *message = call_message(call);
        if (!message)
                return -ENOMEM;
        /* The entry is valid until the next call on the agent: all of it is taken before append_info(). */
        size_t size = entry.value.size;
        uint64_t create_revision = entry.create_revision, version = entry.version, owner = entry.owner_host;
        if ((r = sd_bus_message_new_method_return(message, &reply)) < 0 ||
            (r = sd_bus_message_append_array(reply, 'y', entry.value.data, size)) < 0 ||
            (r = sd_bus_message_append(reply, "t", entry.mod_revision)) < 0 ||
            (r = append_info(reply, call_agent(call), create_revision, version, owner)) < 0)
                return r;
        return call_send(call, reply, size);
}

static int get(Call *call) {
        uint64_t flags, min_revision = 0, timeout_usec = REQUEST_TIMEOUT_USEC;
        const Option options[] = {
                {"min-revision", 't', &min_revision},
                {"timeout-usec", 't', &timeout_usec},
        };
        const char *path;

        int r = sd_bus_message_read(call->message, "st", &path, &flags);
        if (r < 0)
                return r;
        if (!call_entry(call, path) || !call_flags(call, flags, GET_LINEARIZABLE) ||
            !read_options(call, options, ELEMENTSOF(options)) || !timeout_fine(call, timeout_usec) ||
            !call_may(call, GUARD_READ, path))
                return 0;
        return call_read(call, flags & GET_LINEARIZABLE ? READ_LINEARIZABLE : 0, min_revision, timeout_usec,
                         look_get);
}

int tree_quick_get(Call *call, bool linearizable) {
        return call_read(call, linearizable ? READ_LINEARIZABLE : 0, 0, REQUEST_TIMEOUT_USEC, look_get);
}

static int look_get_text(Call *call) {
        _cleanup_(freep) char *text = NULL;
        AgentEntry entry;

        int r = agent_get(call_agent(call), call->path, &entry);
        if (r < 0)
                return r;
        if (r > 0)
                return no_such_entry(call);
        if (!utf8_is_valid(entry.value.data, entry.value.size))
                return call_fail(call, ERROR_NOT_TEXT,
                                 "%s: the value is not text (UTF-8 without NUL). Read it with Get.",
                                 call->path);
        text = strndup((const char *)entry.value.data, entry.value.size);
        if (!text)
                return -ENOMEM;
        return call_return(call, "st", text, entry.mod_revision);
}

static int get_text(Call *call) {
        const char *path;

        int r = sd_bus_message_read(call->message, "s", &path);
        if (r < 0)
                return r;
        if (!call_entry(call, path) || !call_may(call, GUARD_READ, path))
                return 0;
        return call_read(call, 0, 0, REQUEST_TIMEOUT_USEC, look_get_text);
}

/* ---- Set, SetText, Create, Delete ---- */

static int write_value(Call *call, CommandKind kind) {
        uint64_t flags, revision = 0, timeout_usec = REQUEST_TIMEOUT_USEC;
        bool conditional = false;
        const Option options[] = {
                {"timeout-usec", 't', &timeout_usec},
                {"if-mod-revision", 't', &revision, &conditional},
        };
        const char *path;
        const void *value;
        size_t size;
        int r;

        if ((r = sd_bus_message_read(call->message, "s", &path)) < 0 ||
            (r = sd_bus_message_read_array(call->message, 'y', &value, &size)) < 0 ||
            (r = sd_bus_message_read(call->message, "t", &flags)) < 0)
                return r;
        if (!call_entry(call, path) || !call_flags(call, flags, 0) ||
            !read_options(call, options, kind == COMMAND_SET ? 2 : 1) || !timeout_fine(call, timeout_usec) ||
            !value_fine(call, size) || !call_may(call, GUARD_WRITE, path))
                return 0;

        Command command = {
                .kind = kind,
                .flags = conditional ? COMMAND_IF_MOD_REVISION : 0,
                .path = path,
                .value = BYTES(value, size),
                .revision = revision,
        };
        return call_request(call, &command, timeout_usec);
}

int tree_quick_set(Call *call, Bytes value) {
        Command command = {.kind = COMMAND_SET, .path = call->path, .value = value};
        return call_request(call, &command, REQUEST_TIMEOUT_USEC);
}

static int set(Call *call) {
        return write_value(call, COMMAND_SET);
}

static int create(Call *call) {
        return write_value(call, COMMAND_CREATE);
}

static int set_text(Call *call) {
        const char *path, *text;

        int r = sd_bus_message_read(call->message, "ss", &path, &text);
        if (r < 0)
                return r;
        size_t size = strlen(text);
        if (!call_entry(call, path) || !value_fine(call, size) || !call_may(call, GUARD_WRITE, path))
                return 0;
        Command command = {.kind = COMMAND_SET, .path = path, .value = BYTES(text, size)};
        return call_request(call, &command, REQUEST_TIMEOUT_USEC);
}

static int delete (Call *call) {
        uint64_t flags, revision = 0, timeout_usec = REQUEST_TIMEOUT_USEC;
        bool conditional = false;
        const Option options[] = {
                {"timeout-usec", 't', &timeout_usec},
                {"if-mod-revision", 't', &revision, &conditional},
        };
        const char *path;

        int r = sd_bus_message_read(call->message, "st", &path, &flags);
        if (r < 0)
                return r;
        if (!call_entry(call, path) || !call_flags(call, flags, DELETE_SUBTREE) ||
            !read_options(call, options, flags & DELETE_SUBTREE ? 1 : 2) ||
            !timeout_fine(call, timeout_usec) || !call_may(call, GUARD_WRITE, path))
                return 0;
        Command command = {
                .kind = COMMAND_DELETE,
                .flags = (flags & DELETE_SUBTREE ? COMMAND_SUBTREE : 0) |
                         (conditional ? COMMAND_IF_MOD_REVISION : 0),
                .path = path,
                .revision = revision,
        };
        return call_request(call, &command, timeout_usec);
}

/* ---- List ---- */

typedef struct Page {
        sd_bus_message *reply;
        bool without_values;
        size_t bytes;
        char last[LIMIT_PATH_BYTES + 1];
} Page;

static int append_entry(const AgentEntry *entry, void *userdata) {
        Page *page = userdata;
        Bytes value = page->without_values ? BYTES(NULL, 0) : entry->value;
        int r;

        if ((r = sd_bus_message_open_container(page->reply, 'r', "sayttt")) < 0 ||
            (r = sd_bus_message_append(page->reply, "s", entry->path)) < 0 ||
            (r = sd_bus_message_append_array(page->reply, 'y', value.data, value.size)) < 0 ||
            (r = sd_bus_message_append(page->reply, "ttt", entry->create_revision, entry->mod_revision,
                                       entry->version)) < 0 ||
            (r = sd_bus_message_close_container(page->reply)) < 0)
                return r;
        page->bytes += strlen(entry->path) + value.size + 48;
        snprintf(page->last, sizeof(page->last), "%s", entry->path);
        return 0;
}

static int look_list(Call *call) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        Agent *agent = call_agent(call);
        bool more = false;
        int r;

        if ((r = sd_bus_message_new_method_return(call->message, &reply)) < 0 ||
            (r = sd_bus_message_open_container(reply, 'a', "(sayttt)")) < 0)
                return r;
        Page page = {.reply = reply, .without_values = call->flags & LIST_FLAG_NO_VALUES};
        uint32_t flags = (call->flags & LIST_FLAG_CHILDREN ? LIST_CHILDREN : 0) |
                         (call->flags & LIST_FLAG_NO_VALUES ? LIST_NAMES : 0);
        r = agent_list(agent, call->path, call->after, flags, call->limit, LIMIT_LIST_BYTES, append_entry,
                       &page, &more);
        if (r < 0)
                return r;
        if ((r = sd_bus_message_close_container(reply)) < 0 ||
            (r = sd_bus_message_append(reply, "st", more ? page.last : "", agent_revision(agent))) < 0)
                return r;
        return call_send(call, reply, page.bytes);
}

static bool list_arguments_fine(Call *call, const char *after, uint32_t limit) {
        if (limit > LIMIT_LIST_ENTRIES) {
                call_fail(call, SD_BUS_ERROR_INVALID_ARGS,
                          "A limit of %u entries; at most %d come in one page.", limit, LIMIT_LIST_ENTRIES);
                return false;
        }
        if (after[0] && path_check(after) != PATH_OK) {
                call_fail(call, ERROR_INVALID_PATH,
                          "\"after\" %s; pass what the page before called \"next\".",
                          path_verdict_text(path_check(after)));
                return false;
        }
        return true;
}

static int list(Call *call) {
        const char *path, *after;
        uint64_t flags;
        uint32_t limit;

        int r = sd_bus_message_read(call->message, "stsu", &path, &flags, &after, &limit);
        if (r < 0)
                return r;
        if (!call_path(call, path) ||
            !call_flags(call, flags, LIST_FLAG_LINEARIZABLE | LIST_FLAG_CHILDREN | LIST_FLAG_NO_VALUES) ||
            !list_arguments_fine(call, after, limit) || !call_may(call, GUARD_READ, path))
                return 0;
        call->after = after[0] ? after : NULL;
        call->limit = limit ? limit : LIMIT_LIST_ENTRIES;
        return call_read(call, flags & LIST_FLAG_LINEARIZABLE ? READ_LINEARIZABLE : 0, 0,
                         REQUEST_TIMEOUT_USEC, look_list);
}

/* ---- Watch ---- */

static int watch(Call *call) {
        const char *path;
        uint64_t flags;

        int r = sd_bus_message_read(call->message, "stt", &path, &flags, &call->revision);
        if (r < 0)
                return r;
        if (!call_path(call, path) ||
            !call_flags(call, flags, WATCH_SUBTREE | WATCH_PREVIOUS | WATCH_MARKS) ||
            !call_may(call, GUARD_READ, path))
                return 0;
        return call_read(call, 0, 0, REQUEST_TIMEOUT_USEC, watchfd_begin);
}

/* ---- Wait: a long poll ---- */

/* `revision` is what has been looked at: the next poll goes on behind it. */
static int wait_answer(Call *call, bool changed, uint64_t revision) {
        return call_return(call, "bt", changed, revision);
}

static int on_wait_event(const WatchEvent *event, void *userdata) {
        Call *call = userdata;

        if (event->kind == WATCH_MARK || event->revision <= call->revision)
                return 0;
        call->watch = watch_free(call->watch);
        wait_answer(call, true, event->revision);
        return 2;
}

static int on_wait_timeout(sd_event_source *source, uint64_t now, void *userdata) {
        Call *call = userdata;
        uint64_t revision = agent_revision(call_agent(call)), newest = 0;

        /* What is applied but not yet delivered must not be skipped by the revision of this answer. */
        bool changed = agent_changed(call_agent(call), call->path, &newest) >= 0 && newest > call->revision;
        wait_answer(call, changed, MAX(revision, call->revision));
        return 0;
}

static int look_wait(Call *call) {
        Agent *agent = call_agent(call);
        uint64_t changed, revision;

        int r = agent_changed(agent, call->path, &changed);
        if (r < 0)
                return r;
        if (changed > call->revision)
                return wait_answer(call, true, agent_revision(agent));
        if (!call_may_watch(call))
                return 0;
        r = sd_event_add_time_relative(call_bus(call)->event, &call->timer, CLOCK_BOOTTIME, call->limit,
                                       10 * USEC_PER_MSEC, on_wait_timeout, call);
        if (r < 0)
                return r;
        return agent_watch(agent, call->path, WATCH_SUBTREE, 0, on_wait_event, call, &call->watch,
                           &revision);
}

static int wait_change(Call *call) {
        uint64_t timeout_usec;
        const char *path;

        int r = sd_bus_message_read(call->message, "stt", &path, &call->revision, &timeout_usec);
        if (r < 0)
                return r;
        if (timeout_usec > LIMIT_WAIT_USEC)
                return call_fail(
                        call, SD_BUS_ERROR_INVALID_ARGS,
                        "A timeout of %llu µs; at most %llu (20 s) can be waited. Call again with the "
                        "revision of the answer, or use Watch.",
                        (unsigned long long)timeout_usec, (unsigned long long)LIMIT_WAIT_USEC);
        if (!call_path(call, path) || !call_may(call, GUARD_READ, path))
                return 0;
        call->limit = (uint32_t)(timeout_usec ? timeout_usec : LIMIT_WAIT_USEC);
        return call_read(call, 0, 0, REQUEST_TIMEOUT_USEC, look_wait);
}

/* ---- Outcome ---- */

static int outcome(Call *call) {
        uint64_t incarnation, serial;
        const char *text;
        Result result = {};

        int r = sd_bus_message_read(call->message, "s", &text);
        if (r < 0)
                return r;
        if (!call_may(call, GUARD_OUTCOME, NULL))
                return 0;
        if (request_id_parse(text, &incarnation, &serial) < 0)
                return call_fail(
                        call, ERROR_INVALID_REQUEST,
                        "\"%.64s\" does not name a request; pass what follows \"request\" in the message "
                        "of an Unknown error.",
                        text);
        switch (agent_outcome(call_agent(call), incarnation, serial, &result)) {
        case OUTCOME_APPLIED:
                /* Refused by the tree is as good as never offered: it changed nothing and never will. */
                if (result.status != RESULT_DONE)
                        return call_return(call, "st", "never", UINT64_C(0));
                return call_return(call, "st", "applied", result.revision);
        case OUTCOME_NEVER:
                return call_return(call, "st", "never", UINT64_C(0));
        case OUTCOME_UNDECIDED:
                return call_return(call, "st", "undecided", UINT64_C(0));
        case OUTCOME_TOO_OLD:
                return call_return(call, "st", "too-old", UINT64_C(0));
        }
        assert(!"unreachable");
        return 0;
}

/* ---- the interface ---- */

static int get_revision(sd_bus *sd, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        Link *link = userdata;

        return sd_bus_message_append(reply, "t", agent_revision(link->bus->agent));
}

CALL_ENTRY(get)
CALL_ENTRY(get_text)
CALL_ENTRY(set)
CALL_ENTRY(set_text)
CALL_ENTRY(create)
CALL_ENTRY(delete)
CALL_ENTRY(list)
CALL_ENTRY(watch)
CALL_ENTRY(wait_change)
CALL_ENTRY(outcome)

/* UNPRIVILEGED everywhere: without it sd-bus would ask the bus who calls, and block. The guard decides. */
const sd_bus_vtable tree_vtable[] = {
        SD_BUS_VTABLE_START(SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Get", SD_BUS_ARGS("s", path, "t", flags, "a{sv}", options),
                                SD_BUS_RESULT("ay", value, "t", mod_revision, "a{sv}", info), on_get,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("GetText", SD_BUS_ARGS("s", path),
                                SD_BUS_RESULT("s", text, "t", mod_revision), on_get_text,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Set", SD_BUS_ARGS("s", path, "ay", value, "t", flags, "a{sv}", options),
                                SD_BUS_RESULT("t", revision), on_set, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("SetText", SD_BUS_ARGS("s", path, "s", text), SD_BUS_RESULT("t", revision),
                                on_set_text, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Create", SD_BUS_ARGS("s", path, "ay", value, "t", flags, "a{sv}", options),
                                SD_BUS_RESULT("t", revision), on_create, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Delete", SD_BUS_ARGS("s", path, "t", flags, "a{sv}", options),
                                SD_BUS_RESULT("t", revision), on_delete, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("List", SD_BUS_ARGS("s", path, "t", flags, "s", after, "u", limit),
                                SD_BUS_RESULT("a(sayttt)", entries, "s", next, "t", revision), on_list,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Watch", SD_BUS_ARGS("s", path, "t", flags, "t", from_revision),
                                SD_BUS_RESULT("h", fd, "t", revision), on_watch, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Wait", SD_BUS_ARGS("s", path, "t", after, "t", timeout_usec),
                                SD_BUS_RESULT("b", changed, "t", revision), on_wait_change,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Outcome", SD_BUS_ARGS("s", request),
                                SD_BUS_RESULT("s", state, "t", revision), on_outcome,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_PROPERTY("Revision", "t", get_revision, 0, 0),
        SD_BUS_VTABLE_END,
};
