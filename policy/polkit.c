/* See polkit.h. */
#include "polkit.h"

/* A person may have to find a password. */
#define INTERACTIVE_TIMEOUT_USEC (120 * USEC_PER_SEC)
#define TIMEOUT_USEC             (10 * USEC_PER_SEC)

enum { CHECK_ALLOW_USER_INTERACTION = 1 };

int polkit_ask(sd_bus *bus, const char *sender, const char *action, bool interactive,
               sd_bus_message_handler_t done, void *userdata, sd_bus_slot **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;

        int r = sd_bus_message_new_method_call(bus, &m, "org.freedesktop.PolicyKit1",
                                               "/org/freedesktop/PolicyKit1/Authority",
                                               "org.freedesktop.PolicyKit1.Authority", "CheckAuthorization");
        if (r < 0)
                return r;
        r = sd_bus_message_append(m, "(sa{sv})sa{ss}us", "system-bus-name", 1, "name", "s", sender, action,
                                  0, interactive ? CHECK_ALLOW_USER_INTERACTION : 0, "");
        if (r < 0)
                return r;
        r = sd_bus_call_async(bus, ret, m, done, userdata,
                              interactive ? INTERACTIVE_TIMEOUT_USEC : TIMEOUT_USEC);
        return r < 0 ? r : 0;
}

PolkitVerdict polkit_read(sd_bus_message *reply) {
        int yes, challenge;

        if (sd_bus_message_is_method_error(reply, SD_BUS_ERROR_SERVICE_UNKNOWN) ||
            sd_bus_message_is_method_error(reply, SD_BUS_ERROR_NAME_HAS_NO_OWNER))
                return POLKIT_ABSENT;
        if (sd_bus_message_is_method_error(reply, NULL))
                return POLKIT_NO;
        if (sd_bus_message_enter_container(reply, 'r', "bba{ss}") <= 0 ||
            sd_bus_message_read(reply, "bb", &yes, &challenge) < 0)
                return POLKIT_NO;
        return yes ? POLKIT_YES : challenge ? POLKIT_CHALLENGE : POLKIT_NO;
}
