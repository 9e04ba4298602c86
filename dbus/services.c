/* org.treaty1.Services: instances of services are ephemeral entries below /services; what is offered here is
 * their life (as long as an fd, or as long as a unit runs) and their JSON. */
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <utlist.h>

#include "call.h"
#include "error.h"
#include "instance.h"
#include "options.h"
#include "register.h"

#define UNIT_TAG       "unit:"
#define INVOCATION_HEX 32
#define UNIT_BYTES     (OWNER_TAG_BYTES - 40) /* what "unit:", ':' and an invocation leave */
#define RESOLVE_MAX    4096                   /* instances of one service */

/* ---- what is to be registered ---- */

typedef struct Wanted {
        Instance instance;
        uint64_t timeout_usec;
        char path[LIMIT_PATH_BYTES + 1];
        char *json;
} Wanted;

static void wanted_deinit(Wanted *wanted) {
        free(wanted->json);
}

static int find_self(const AgentMember *member, void *userdata) {
        Instance *instance = userdata;

        if (member->self && member->member->n_addresses > 0)
                address_without_port(member->member->addresses[0], instance->address,
                                     sizeof(instance->address));
        return 0;
}

/* Where clients find this host: its first peer address; its name where it has none (a cluster of one). */
static void default_address(Agent *agent, Instance *instance) {
        (void)agent_members(agent, find_self, instance);
        if (!instance->address[0])
                snprintf(instance->address, sizeof(instance->address), "%s", instance->host);
}

static bool name_fine(Call *call, const char *name) {
        if (name_is_valid(name))
                return true;
        call_fail(call, ERROR_INVALID_NAME,
                  "\"%.80s\" is not a service's name: 1 to %d letters, digits, '-', '_' and '.' within.",
                  name, LIMIT_NAME_BYTES);
        return false;
}

static bool address_fine(Call *call, const char *address, Instance *instance) {
        if (!address)
                return true;
        if (address[0] && strlen(address) < sizeof(instance->address)) {
                strcpy(instance->address, address);
                return true;
        }
        call_fail(call, SD_BUS_ERROR_INVALID_ARGS, "The option \"address\" must have 1 to %zu bytes.",
                  sizeof(instance->address) - 1);
        return false;
}

/* Reads the options that follow in the message. False after having answered. */
static bool read_wanted(Call *call, const char *name, uint16_t port, Wanted *wanted) {
        Instance *instance = &wanted->instance;
        _cleanup_(strv_freep) char **text = NULL, **properties = NULL;
        const char *address = NULL;
        char why[256];
        AgentStatus status;
        const Option options[] = {
                {"address", 's', &address},
                {"priority", 'q', &instance->priority},
                {"weight", 'q', &instance->weight},
                {"ttl", 'u', &instance->ttl},
                {"text", 'S', &text},
                {"properties", 'D', &properties},
                {"timeout-usec", 't', &wanted->timeout_usec},
        };

        wanted->timeout_usec = REQUEST_TIMEOUT_USEC;
        int r = options_read(call->message, options, ELEMENTSOF(options), why, sizeof(why));
        if (r > 0)
                call_fail(call, SD_BUS_ERROR_INVALID_ARGS, "%s", why);
        if (r < 0)
                call_fail_errno(call, r);
        if (r != 0 || !name_fine(call, name))
                return false;
        if (wanted->timeout_usec == 0 || wanted->timeout_usec > LIMIT_TIMEOUT_USEC) {
                call_fail(call, SD_BUS_ERROR_INVALID_ARGS,
                          "The option \"timeout-usec\" must be between 1 and 600000000 (10 minutes).");
                return false;
        }
        if (!address_fine(call, address, instance))
                return false;

        agent_status(call_agent(call), &status);
        if (!name_is_valid(status.host_name)) {
                call_fail(call, ERROR_NOT_MEMBER,
                          "This host has no name in a cluster yet; see \"treatyctl status\".");
                return false;
        }
        strcpy(instance->name, name);
        strcpy(instance->host, status.host_name);
        instance->port = port;
        if (!instance->address[0])
                default_address(call_agent(call), instance);
        if (!instance_path(name, instance->host, port, wanted->path, sizeof(wanted->path))) {
                call_fail(call, ERROR_INVALID_NAME, "The path of \"%.64s\" is too long.", name);
                return false;
        }
        r = instance_json(instance, text, properties, &wanted->json);
        if (r == -E2BIG)
                call_fail(call, ERROR_TOO_LARGE,
                          "The text and properties of \"%.64s\" make more than %d bytes.", name,
                          LIMIT_SERVICE_BYTES);
        else if (r < 0)
                call_fail_errno(call, r);
        return r == 0;
}

/* Does another owner on this host hold the path? Another invocation of the same unit is no other: it takes
 * over without a moment in which the instance is gone. */
typedef struct Holder {
        const char *path;
        const char *unit; /* NULL: an fd */
        bool other;
} Holder;

static int is_other(const char *path, const char *tag, void *userdata) {
        Holder *holder = userdata;
        size_t n = holder->unit ? strlen(holder->unit) : 0;

        if (strcmp(path, holder->path) != 0)
                return 0;
        bool same = n > 0 && strncmp(tag, UNIT_TAG, strlen(UNIT_TAG)) == 0 &&
                    strncmp(tag + strlen(UNIT_TAG), holder->unit, n) == 0 &&
                    tag[strlen(UNIT_TAG) + n] == ':';
        holder->other = !same;
        return 0;
}

static bool place_is_free(Call *call, const char *path, const char *unit) {
        Holder holder = {.path = path, .unit = unit};

        (void)agent_owned(call_agent(call), is_other, &holder);
        if (holder.other)
                call_fail(call, ERROR_EXISTS, "%s: another owner on this host holds it.", path);
        return !holder.other;
}

/* ---- Register ---- */

static int register_fd(Call *call) {
        _cleanup_(wanted_deinit) Wanted wanted = {};
        const char *name;
        uint16_t port;

        int r = sd_bus_message_read(call->message, "sq", &name, &port);
        if (r < 0)
                return r;
        if (!read_wanted(call, name, port, &wanted) || !call_may(call, GUARD_WRITE, wanted.path) ||
            !place_is_free(call, wanted.path, NULL))
                return 0;
        return registration_begin(call, wanted.path, BYTES(wanted.json, strlen(wanted.json)),
                                  wanted.timeout_usec);
}

/* ---- units ---- */

/* As PID 1 judges names of units, and short enough for an owner's tag. */
static bool unit_is_valid(const char *unit) {
        size_t n = strlen(unit);
        const char *dot = strrchr(unit, '.');

        if (n == 0 || n > UNIT_BYTES || !dot || dot == unit || !dot[1])
                return false;
        for (const char *p = unit; *p; p++)
                if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@", *p))
                        return false;
        return true;
}

static bool unit_fine(Call *call, const char *unit, const char *invocation, bool any) {
        if (!unit_is_valid(unit)) {
                call_fail(call, SD_BUS_ERROR_INVALID_ARGS,
                          "\"%.80s\" is not the name of a unit (at most %d bytes).", unit, UNIT_BYTES);
                return false;
        }
        if (any && !invocation[0])
                return true;
        if (strlen(invocation) != INVOCATION_HEX ||
            strspn(invocation, "0123456789abcdef") != INVOCATION_HEX) {
                call_fail(call, SD_BUS_ERROR_INVALID_ARGS,
                          "\"%.40s\" is not the invocation of a unit: 32 hexadecimal digits.", invocation);
                return false;
        }
        return true;
}

/* A registration on its way. The agent does not answer it any more when it is withdrawn meanwhile: then
 * that is the answer. */
struct Registering {
        Bus *bus; /* NULL: closed */
        Detached *detached;
        char tag[OWNER_TAG_BYTES + 1];
        Registering *prev, *next;
};

/* NULL: the call is gone. */
static Call *registering_take(Registering *registering) {
        Call *call = detached_take(registering->detached);

        if (registering->bus)
                DL_DELETE(registering->bus->registering, registering);
        free(registering);
        return call;
}

static Registering *registering_new(Call *call, const char *tag) {
        Registering *registering = calloc(1, sizeof(Registering));
        if (!registering)
                return NULL;
        registering->detached = call_detach(call);
        if (!registering->detached) {
                free(registering);
                return NULL;
        }
        registering->bus = call_bus(call);
        snprintf(registering->tag, sizeof(registering->tag), "%s", tag);
        DL_APPEND(registering->bus->registering, registering);
        return registering;
}

void registering_forget(Bus *bus) {
        Registering *registering, *next;

        DL_FOREACH_SAFE (bus->registering, registering, next)
                registering->bus = NULL;
        bus->registering = NULL;
}

/* `tag` as agent_disown() takes it. */
static void registering_withdrawn(Bus *bus, const char *tag) {
        Registering *registering, *next;
        size_t n = strlen(tag);

        DL_FOREACH_SAFE (bus->registering, registering, next) {
                if (strncmp(registering->tag, tag, n) != 0 ||
                    (registering->tag[n] != 0 && registering->tag[n] != ':'))
                        continue;
                Call *call = registering_take(registering);
                if (call)
                        call_fail(call, ERROR_CONFLICT,
                                  "The unit was withdrawn before its registration was there.");
        }
}

static void on_owned(const RequestAnswer *answer, void *userdata) {
        Call *call = registering_take(userdata);

        if (call)
                call_done(answer, call);
}

static int register_unit(Call *call) {
        _cleanup_(wanted_deinit) Wanted wanted = {};
        const char *name, *unit, *invocation;
        char tag[OWNER_TAG_BYTES + 1];
        Request *request = NULL;
        uint16_t port;

        int r = sd_bus_message_read(call->message, "sssq", &name, &unit, &invocation, &port);
        if (r < 0)
                return r;
        if (!call_may(call, GUARD_REGISTER_UNIT, NULL) || !unit_fine(call, unit, invocation, false) ||
            !read_wanted(call, name, port, &wanted) || !place_is_free(call, wanted.path, unit))
                return 0;
        snprintf(tag, sizeof(tag), UNIT_TAG "%s:%s", unit, invocation);
        Registering *registering = registering_new(call, tag);
        if (!registering)
                return -ENOMEM;
        r = agent_own(call_agent(call), wanted.path, BYTES(wanted.json, strlen(wanted.json)), tag,
                      wanted.timeout_usec, on_owned, registering, &request);
        if (r < 0)
                registering_take(registering);
        return r;
}

static int unregister_unit(Call *call) {
        const char *unit, *invocation;
        char tag[OWNER_TAG_BYTES + 1];

        int r = sd_bus_message_read(call->message, "ss", &unit, &invocation);
        if (r < 0)
                return r;
        if (!call_may(call, GUARD_REGISTER_UNIT, NULL) || !unit_fine(call, unit, invocation, true))
                return 0;
        snprintf(tag, sizeof(tag), UNIT_TAG "%s%s%s", unit, invocation[0] ? ":" : "", invocation);
        unsigned n = agent_disown(call_agent(call), tag);
        registering_withdrawn(call_bus(call), tag);
        return call_return(call, "u", (uint32_t)n);
}

/* "unit:NAME:INVOCATION"; the name itself may hold colons. */
static int append_unit(const char *path, const char *tag, void *userdata) {
        sd_bus_message *reply = userdata;
        char unit[OWNER_TAG_BYTES + 1];
        Instance instance;

        const char *colon = strrchr(tag, ':');
        if (strncmp(tag, UNIT_TAG, strlen(UNIT_TAG)) != 0 || colon < tag + strlen(UNIT_TAG) ||
            instance_parse(path, BYTES(NULL, 0), &instance) != 0)
                return 0;
        const char *begin = tag + strlen(UNIT_TAG);
        snprintf(unit, sizeof(unit), "%.*s", (int)(colon - begin), begin);
        int r = sd_bus_message_append(reply, "(ssss)", instance.name, unit, colon + 1, path);
        return r < 0 ? r : 0; /* positive would end the walk */
}

static int list_units(Call *call) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        int r;

        if (!call_may(call, GUARD_REGISTER_UNIT, NULL))
                return 0;
        if ((r = sd_bus_message_new_method_return(call->message, &reply)) < 0 ||
            (r = sd_bus_message_open_container(reply, 'a', "(ssss)")) < 0 ||
            (r = agent_owned(call_agent(call), append_unit, reply)) < 0 ||
            (r = sd_bus_message_close_container(reply)) < 0)
                return r;
        return call_send(call, reply, 0);
}

/* ---- List ---- */

typedef struct Page {
        sd_bus_message *reply;
        size_t bytes;
        char last[LIMIT_PATH_BYTES + 1];
} Page;

static int append_instance(const AgentEntry *entry, void *userdata) {
        Page *page = userdata;
        _cleanup_(freep) char *json = NULL;
        Instance i;

        snprintf(page->last, sizeof(page->last), "%s", entry->path);
        if (instance_parse(entry->path, entry->value, &i) != 0)
                return 0;
        bool is_text = utf8_is_valid(entry->value.data, entry->value.size);
        json = strndup(is_text ? (const char *)entry->value.data : "", is_text ? entry->value.size : 0);
        if (!json)
                return -ENOMEM;
        page->bytes += strlen(json) + 512;
        int r = sd_bus_message_append(page->reply, "(sssqqqts)", i.name, i.host, i.address, i.port,
                                      i.priority, i.weight, entry->mod_revision, json);
        return r < 0 ? r : 0; /* positive would end the page */
}

static int look_list(Call *call) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        char subtree[LIMIT_PATH_BYTES + 1];
        bool more = false;
        int r;

        snprintf(subtree, sizeof(subtree), "/services%s%s", call->path[0] ? "/" : "", call->path);
        if ((r = sd_bus_message_new_method_return(call->message, &reply)) < 0 ||
            (r = sd_bus_message_open_container(reply, 'a', "(sssqqqts)")) < 0)
                return r;
        Page page = {.reply = reply};
        r = agent_list(call_agent(call), subtree, call->after, 0, LIMIT_LIST_ENTRIES, LIMIT_LIST_BYTES,
                       append_instance, &page, &more);
        if (r < 0)
                return r;
        if ((r = sd_bus_message_close_container(reply)) < 0 ||
            (r = sd_bus_message_append(reply, "s", more ? page.last : "")) < 0)
                return r;
        return call_send(call, reply, page.bytes);
}

static int list(Call *call) {
        const char *name, *after;
        uint64_t flags;

        int r = sd_bus_message_read(call->message, "sts", &name, &flags, &after);
        if (r < 0)
                return r;
        if (!call_flags(call, flags, 1) || (name[0] && !name_fine(call, name)))
                return 0;
        if (after[0] && path_check(after) != PATH_OK)
                return call_fail(call, ERROR_INVALID_PATH,
                                 "\"after\" %s; pass what the page before called \"next\".",
                                 path_verdict_text(path_check(after)));
        if (!call_may(call, GUARD_READ, "/services"))
                return 0;
        call->path = name;
        call->after = after[0] ? after : NULL;
        return call_read(call, flags & 1 ? READ_LINEARIZABLE : 0, 0, REQUEST_TIMEOUT_USEC, look_list);
}

/* ---- Resolve ---- */

typedef struct Found {
        Instance *instances;
        size_t n;
        char last[LIMIT_PATH_BYTES + 1];
} Found;

static int collect(const AgentEntry *entry, void *userdata) {
        Found *found = userdata;

        snprintf(found->last, sizeof(found->last), "%s", entry->path);
        if (found->n >= RESOLVE_MAX)
                return 0;
        Instance *more = realloc(found->instances, (found->n + 1) * sizeof(Instance));
        if (!more)
                return -ENOMEM;
        found->instances = more;
        if (instance_parse(entry->path, entry->value, &found->instances[found->n]) == 0)
                found->n++;
        return 0;
}

static int collect_all(Agent *agent, const char *name, Found *found) {
        char subtree[LIMIT_PATH_BYTES + 1], after[LIMIT_PATH_BYTES + 1];
        bool more = true;

        snprintf(subtree, sizeof(subtree), "/services/%s", name);
        for (unsigned page = 0; more && found->n < RESOLVE_MAX && page < RESOLVE_MAX / 256; page++) {
                strcpy(after, found->last);
                int r = agent_list(agent, subtree, after[0] ? after : NULL, 0, LIMIT_LIST_ENTRIES,
                                   LIMIT_LIST_BYTES, collect, found, &more);
                if (r < 0)
                        return r;
        }
        return 0;
}

static uint64_t chance(uint64_t bound, void *userdata) {
        uint64_t number = 0;

        (void)getrandom(&number, sizeof(number), GRND_NONBLOCK);
        return number % bound;
}

static int append_endpoints(sd_bus_message *reply, const Found *found) {
        int r = sd_bus_message_open_container(reply, 'a', "(ssqqq)");
        for (size_t i = 0; r >= 0 && i < found->n; i++) {
                const Instance *e = &found->instances[i];
                r = sd_bus_message_append(reply, "(ssqqq)", e->host, e->address, e->port, e->priority,
                                          e->weight);
        }
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

static int look_resolve(Call *call) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        Found found = {};

        int r = collect_all(call_agent(call), call->path, &found);
        if (r >= 0 && found.n == 0) {
                free(found.instances);
                return call_fail(call, ERROR_NO_SUCH_SERVICE, "No instance of \"%s\" is registered now.",
                                 call->path);
        }
        if (r >= 0) {
                instances_order(found.instances, found.n, chance, NULL);
                r = sd_bus_message_new_method_return(call->message, &reply);
        }
        if (r >= 0)
                r = append_endpoints(reply, &found);
        size_t bytes = found.n * 128;
        free(found.instances);
        return r < 0 ? r : call_send(call, reply, bytes);
}

static int resolve(Call *call) {
        const char *name;
        uint64_t flags;

        int r = sd_bus_message_read(call->message, "st", &name, &flags);
        if (r < 0)
                return r;
        if (!call_flags(call, flags, 1) || !name_fine(call, name) ||
            !call_may(call, GUARD_READ, "/services"))
                return 0;
        call->path = name;
        return call_read(call, flags & 1 ? READ_LINEARIZABLE : 0, 0, REQUEST_TIMEOUT_USEC, look_resolve);
}

/* ---- the interface ---- */

CALL_ENTRY(register_fd)
CALL_ENTRY(register_unit)
CALL_ENTRY(unregister_unit)
CALL_ENTRY(list_units)
CALL_ENTRY(list)
CALL_ENTRY(resolve)

const sd_bus_vtable services_vtable[] = {
        SD_BUS_VTABLE_START(SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Register", SD_BUS_ARGS("s", name, "q", port, "a{sv}", options),
                                SD_BUS_RESULT("h", fd, "t", revision), on_register_fd,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS(
                "RegisterUnit",
                SD_BUS_ARGS("s", name, "s", unit, "s", invocation, "q", port, "a{sv}", options),
                SD_BUS_RESULT("t", revision), on_register_unit, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("UnregisterUnit", SD_BUS_ARGS("s", unit, "s", invocation),
                                SD_BUS_RESULT("u", count), on_unregister_unit, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("ListUnits", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(ssss)", registrations),
                                on_list_units, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("List", SD_BUS_ARGS("s", name, "t", flags, "s", after),
                                SD_BUS_RESULT("a(sssqqqts)", instances, "s", next), on_list,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Resolve", SD_BUS_ARGS("s", name, "t", flags),
                                SD_BUS_RESULT("a(ssqqq)", endpoints), on_resolve,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END,
};
