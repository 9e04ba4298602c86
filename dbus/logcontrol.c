/* org.freedesktop.LogControl1, so that "systemctl service-log-level treatyd debug" works. Reading is for
 * everybody; a property's setter cannot wait until the bus has told who calls, so a Set at this path is
 * taken out of sd-bus's hands before and goes the way of all other calls. */
#include <string.h>
#include <syslog.h>

#include "agent/journal.h"
#include "call.h"

static const char *const level_names[] = {"emerg",   "alert",  "crit", "err",
                                          "warning", "notice", "info", "debug"};

static int get_level(sd_bus *sd, const char *path, const char *interface, const char *property,
                     sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        return sd_bus_message_append(reply, "s", level_names[journal_level() & LOG_PRIMASK]);
}

static int get_target(sd_bus *sd, const char *path, const char *interface, const char *property,
                      sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        return sd_bus_message_append(reply, "s", "auto");
}

static int get_identifier(sd_bus *sd, const char *path, const char *interface, const char *property,
                          sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        return sd_bus_message_append(reply, "s", "treatyd");
}

static int set_level(Call *call, const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(level_names); i++)
                if (strcmp(level_names[i], name) == 0) {
                        journal_set_level((int)i);
                        return call_return(call, NULL);
                }
        return call_fail(call, SD_BUS_ERROR_INVALID_ARGS,
                         "\"%.32s\" is not a log level; those of syslog(3) are.", name);
}

static int set_property(Call *call) {
        const char *interface, *property, *type, *value;

        int r = sd_bus_message_read(call->message, "ss", &interface, &property);
        if (r < 0)
                return r;
        if (!call_may(call, GUARD_LOG_LEVEL, NULL))
                return 0;
        if (strcmp(interface, "org.freedesktop.LogControl1") != 0)
                return call_fail(call, SD_BUS_ERROR_UNKNOWN_INTERFACE, "There is no such interface here.");
        if (strcmp(property, "LogLevel") != 0)
                return call_fail(call, SD_BUS_ERROR_PROPERTY_READ_ONLY, "Only LogLevel can be set.");
        r = sd_bus_message_peek_type(call->message, NULL, &type);
        if (r < 0)
                return r;
        if (strcmp(type, "s") != 0)
                return call_fail(call, SD_BUS_ERROR_INVALID_ARGS, "LogLevel is a string.");
        r = sd_bus_message_read(call->message, "v", "s", &value);
        if (r < 0)
                return r;
        return set_level(call, value);
}

int log_intercept(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        if (!sd_bus_message_is_method_call(m, "org.freedesktop.DBus.Properties", "Set"))
                return 0;
        if (!sd_bus_message_has_signature(m, "ssv"))
                return sd_bus_error_set(error, SD_BUS_ERROR_INVALID_ARGS, "Set takes (ssv).");
        return call_begin(userdata, m, set_property, error);
}

/* Never called: see above. */
static int refuse(sd_bus *sd, const char *path, const char *interface, const char *property,
                  sd_bus_message *value, void *userdata, sd_bus_error *error) {
        return sd_bus_error_set(error, SD_BUS_ERROR_ACCESS_DENIED, "Not this way.");
}

const sd_bus_vtable log_vtable[] = {
        SD_BUS_VTABLE_START(SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_WRITABLE_PROPERTY("LogLevel", "s", get_level, refuse, 0, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_WRITABLE_PROPERTY("LogTarget", "s", get_target, refuse, 0, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_PROPERTY("SyslogIdentifier", "s", get_identifier, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_VTABLE_END,
};
