/* Services: an fd that is a registration, and lists of who is there. */
#include "connection.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "agent/base/path.h"

#define OPTIONS_MAX 256u
#define PAGES_MAX   1000000u

static int check_name(treaty *t, const char *name) {
        if (name_is_valid(name))
                return 0;
        return fail(t, -EINVAL, "org.treaty1.Error.InvalidName",
                    "A service's name has 1 to 64 letters, digits, '-', '_' or '.', not \"%s\"", name);
}

/* ---- Options: "name=value" texts to a{sv} ---- */

/* The text behind "name=", or NULL. */
static const char *option_value(const char *option, const char *name) {
        size_t size = strlen(name);
        return strncmp(option, name, size) == 0 && option[size] == '=' ? option + size + 1 : NULL;
}

static int parse_number(const char *text, unsigned long max, unsigned long *ret) {
        char *end;

        if (*text < '0' || *text > '9')
                return -EINVAL;
        errno = 0;
        *ret = strtoul(text, &end, 10);
        return errno != 0 || *end || *ret > max ? -EINVAL : 0;
}

static int append_texts(sd_bus_message *call, const char *const *options) {
        int r = sd_bus_message_open_container(call, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(call, "s", "text");
        if (r >= 0)
                r = sd_bus_message_open_container(call, 'v', "as");
        if (r >= 0)
                r = sd_bus_message_open_container(call, 'a', "s");
        for (size_t i = 0; r >= 0 && options[i]; i++) {
                const char *text = option_value(options[i], "text");
                if (text)
                        r = sd_bus_message_append(call, "s", text);
        }
        for (int i = 0; i < 3 && r >= 0; i++)
                r = sd_bus_message_close_container(call);
        return r;
}

static int append_property(sd_bus_message *call, const char *property) {
        _cleanup_(freep) char *key = NULL;
        const char *equals = strchr(property, '=');

        if (!equals || equals == property)
                return -EINVAL;
        key = strndup(property, (size_t)(equals - property));
        return key ? sd_bus_message_append(call, "{ss}", key, equals + 1) : -ENOMEM;
}

static int append_properties(sd_bus_message *call, const char *const *options) {
        int r = sd_bus_message_open_container(call, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(call, "s", "properties");
        if (r >= 0)
                r = sd_bus_message_open_container(call, 'v', "a{ss}");
        if (r >= 0)
                r = sd_bus_message_open_container(call, 'a', "{ss}");
        for (size_t i = 0; r >= 0 && options[i]; i++) {
                const char *property = option_value(options[i], "property");
                if (property)
                        r = append_property(call, property);
        }
        for (int i = 0; i < 3 && r >= 0; i++)
                r = sd_bus_message_close_container(call);
        return r;
}

static int append_u16(sd_bus_message *call, const char *name, const char *text) {
        unsigned long number;
        if (parse_number(text, UINT16_MAX, &number) < 0)
                return -EINVAL;
        return sd_bus_message_append(call, "{sv}", name, "q", (uint16_t)number);
}

/* One that stands for itself, or -EINVAL. */
static int append_scalar(sd_bus_message *call, const char *option) {
        unsigned long number;
        const char *text;

        if ((text = option_value(option, "address")))
                return sd_bus_message_append(call, "{sv}", "address", "s", text);
        if ((text = option_value(option, "priority")))
                return append_u16(call, "priority", text);
        if ((text = option_value(option, "weight")))
                return append_u16(call, "weight", text);
        text = option_value(option, "ttl");
        if (!text || parse_number(text, UINT32_MAX, &number) < 0)
                return -EINVAL;
        return sd_bus_message_append(call, "{sv}", "ttl", "u", (uint32_t)number);
}

static int fail_option(treaty *t, const char *option) {
        return fail(t, -EINVAL, NULL,
                    "\"%s\" is not an option of a service: address=, priority=0…65535, weight=0…65535, "
                    "ttl=SECONDS, text=, property=KEY=VALUE",
                    option);
}

static int append_options(treaty *t, sd_bus_message *call, const char *const *options) {
        static const char *const none[] = {NULL};
        bool texts = false, properties = false;
        int r;

        if (!options)
                options = none;
        r = sd_bus_message_open_container(call, 'a', "{sv}");
        if (r >= 0)
                r = append_option_u64(call, "timeout-usec", t->timeout_usec);
        for (size_t i = 0; r >= 0 && options[i]; i++) {
                const char *property = option_value(options[i], "property");
                bool text = option_value(options[i], "text");

                texts = texts || text;
                properties = properties || property;
                if (i >= OPTIONS_MAX || (property && (!strchr(property, '=') || property[0] == '=')))
                        return fail_option(t, options[i]);
                if (!text && !property)
                        r = append_scalar(call, options[i]);
                if (r == -EINVAL)
                        return fail_option(t, options[i]);
        }
        if (r >= 0 && texts)
                r = append_texts(call, options);
        if (r >= 0 && properties)
                r = append_properties(call, options);
        if (r >= 0)
                r = sd_bus_message_close_container(call);
        return r < 0 ? fail_append(t, r) : 0;
}

_public_ int treaty_register(treaty *t, const char *name, uint16_t port, const char *const *options,
                             int *ret_fd, uint64_t *ret_revision) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        uint64_t revision;
        int r, fd;

        if ((r = check_name(t, name)) < 0 || (r = call_begin(t, TREATY_SERVICES, "Register", &call)) < 0)
                return r;
        r = sd_bus_message_append(call, "sq", name, port);
        if (r < 0)
                return fail_append(t, r);
        r = append_options(t, call, options);
        if (r < 0)
                return r;
        r = call_finish_default(t, call, &reply);
        if (r < 0)
                return r;
        r = sd_bus_message_read(reply, "ht", &fd, &revision);
        if (r < 0)
                return fail_reply(t, r);
        fd = fcntl(fd, F_DUPFD_CLOEXEC, 3); /* the message keeps its own */
        if (fd < 0)
                return fail_errno(t, -errno, "Cannot hold the registration");
        *ret_fd = fd;
        if (ret_revision)
                *ret_revision = revision;
        return 0;
}

/* ---- Lists ---- */

typedef int (*EachInstance)(const treaty_instance *instance, void *userdata);

static int each_listed(sd_bus_message *reply, EachInstance each, void *userdata, int *ret_stopped) {
        int r = sd_bus_message_enter_container(reply, 'a', "(sssqqqts)");
        while (r >= 0) {
                treaty_instance i = {0};
                r = sd_bus_message_read(reply, "(sssqqqts)", &i.name, &i.host, &i.address, &i.port,
                                        &i.priority, &i.weight, &i.revision, &i.json);
                if (r <= 0)
                        break;
                *ret_stopped = each(&i, userdata);
                if (*ret_stopped != 0)
                        return 0;
        }
        return r < 0 ? r : sd_bus_message_exit_container(reply);
}

static int list_page(treaty *t, const char *name, const char *after, sd_bus_message **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        int r = call_begin(t, TREATY_SERVICES, "List", &call);
        if (r < 0)
                return r;
        r = sd_bus_message_append(call, "sts", name, (uint64_t)0, after);
        if (r < 0)
                return fail_append(t, r);
        return call_finish_default(t, call, ret);
}

_public_ int treaty_services(treaty *t, const char *name, EachInstance each, void *userdata) {
        _cleanup_(freep) char *after = NULL;
        int r, stopped = 0;

        if (!name)
                name = "";
        if (*name && (r = check_name(t, name)) < 0)
                return r;
        for (unsigned page = 0; page < PAGES_MAX; page++) {
                _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
                const char *next;

                r = list_page(t, name, after ? after : "", &reply);
                if (r < 0)
                        return r;
                r = each_listed(reply, each, userdata, &stopped);
                if (r >= 0 && stopped != 0)
                        return stopped;
                if (r < 0 || (r = sd_bus_message_read(reply, "s", &next)) < 0)
                        return fail_reply(t, r);
                if (!*next)
                        return 0;
                if (after && strcmp(next, after) <= 0)
                        break;
                free(after);
                after = strdup(next);
                if (!after)
                        return fail_errno(t, -ENOMEM, "Cannot list services");
        }
        return fail_reply(t, -EBADMSG);
}

_public_ int treaty_resolve(treaty *t, const char *name, EachInstance each, void *userdata) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        int r;

        if ((r = check_name(t, name)) < 0 || (r = call_begin(t, TREATY_SERVICES, "Resolve", &call)) < 0)
                return r;
        r = sd_bus_message_append(call, "st", name, (uint64_t)0);
        if (r < 0)
                return fail_append(t, r);
        r = call_finish_default(t, call, &reply);
        if (r < 0)
                return r;

        r = sd_bus_message_enter_container(reply, 'a', "(ssqqq)");
        while (r >= 0) {
                treaty_instance i = {.name = name};
                r = sd_bus_message_read(reply, "(ssqqq)", &i.host, &i.address, &i.port, &i.priority,
                                        &i.weight);
                if (r <= 0)
                        break;
                int stopped = each(&i, userdata);
                if (stopped != 0)
                        return stopped;
        }
        return r < 0 ? fail_reply(t, r) : 0;
}
