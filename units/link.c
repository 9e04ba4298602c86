/* See link.h. */
#include "link.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "agent/journal.h"

#define RETRY_FIRST_USEC (100 * USEC_PER_MSEC)
#define RETRY_LAST_USEC  (3 * USEC_PER_SEC)
#define STABLE_USEC      (5 * USEC_PER_SEC)

uint64_t now_usec(void) {
        struct timespec ts;
        int r = clock_gettime(CLOCK_BOOTTIME, &ts);
        assert(r == 0);
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

static void connect_later(Link *link) {
        uint64_t delay = RETRY_FIRST_USEC << MIN(link->failures, 10u);
        link->failures++;
        (void)sd_event_source_set_time(link->timer, now_usec() + MIN(delay, RETRY_LAST_USEC));
        (void)sd_event_source_set_enabled(link->timer, SD_EVENT_ONESHOT);
}

/* The bus must not be freed inside its own dispatching: the timer does it. */
static void lost(Link *link) {
        if (!link->bus || sd_event_source_get_enabled(link->timer, NULL) > 0)
                return;
        if (now_usec() - link->since_usec > STABLE_USEC)
                link->failures = 0;
        connect_later(link);
}

void link_drop(Link *link) {
        lost(link);
}

static int on_message(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        if (sd_bus_message_is_signal(message, "org.freedesktop.DBus.Local", "Disconnected"))
                lost(userdata);
        return 0;
}

static int on_owner_changed(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        lost(userdata);
        return 0;
}

/* On the bus the peer can be replaced while the connection stays. */
static int follow_owner(Link *link, sd_bus *bus) {
        char rule[256];
        snprintf(rule, sizeof(rule),
                 "type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus',"
                 "interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='%s'",
                 link->destination);
        /* Where a match cannot be had sd-bus gives up the connection, which is then made anew. */
        return sd_bus_add_match_async(bus, NULL, rule, on_owner_changed, NULL, link);
}

static int open_bus(Link *link, bool direct, sd_bus **ret) {
        char address[256];
        sd_bus *bus = NULL;

        int r = sd_bus_new(&bus);
        if (r < 0)
                return r;
        snprintf(address, sizeof(address), "unix:path=%s",
                 direct ? link->private_path : "/run/dbus/system_bus_socket");
        r = sd_bus_set_address(bus, address);
        if (r >= 0 && !direct)
                r = sd_bus_set_bus_client(bus, 1);
        if (r >= 0)
                r = sd_bus_start(bus);
        if (r >= 0)
                r = sd_bus_attach_event(bus, link->event, SD_EVENT_PRIORITY_NORMAL);
        if (r >= 0)
                r = sd_bus_add_filter(bus, NULL, on_message, link);
        if (r >= 0 && !direct)
                r = follow_owner(link, bus);
        if (r < 0) {
                sd_bus_close_unref(bus);
                return r;
        }
        *ret = bus;
        return 0;
}

static void disconnect(Link *link) {
        if (!link->bus)
                return;
        link->down(link->userdata);
        link->bus = sd_bus_close_unref(link->bus);
}

static void reconnect(Link *link) {
        disconnect(link);
        link->direct = true;
        int r = open_bus(link, true, &link->bus);
        if (r < 0) {
                link->direct = false;
                r = open_bus(link, false, &link->bus);
        }
        if (r < 0) {
                if (!link->told && link->failures > 5)
                        log_notice("%s cannot be reached at %s nor on the system bus (%s); still trying",
                                   link->what, link->private_path, strerror(-r));
                link->told |= link->failures > 5;
                connect_later(link);
                return;
        }
        link->since_usec = now_usec();
        link->told = false;
        log_debug("connected to %s %s", link->what, link->direct ? link->private_path : "on the system bus");
        link->up(link->userdata);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        reconnect(userdata);
        return 0;
}

int link_start(Link *link, sd_event *event) {
        link->event = event;
        return sd_event_add_time(event, &link->timer, CLOCK_BOOTTIME, 0, 1000, on_timer, link);
}

void link_deinit(Link *link) {
        disconnect(link);
        link->timer = sd_event_source_disable_unref(link->timer);
}

/* ---- Calls ---- */

int link_message(Link *link, sd_bus_message **ret, const char *path, const char *interface,
                 const char *member) {
        if (!link->bus)
                return -ENOTCONN;
        int r = sd_bus_message_new_method_call(link->bus, ret, link->destination, path, interface, member);
        return r < 0 ? r : sd_bus_message_set_auto_start(*ret, 0);
}

int link_send(Link *link, sd_bus_message *message, sd_bus_slot **slot, sd_bus_message_handler_t done,
              void *userdata) {
        if (!link->bus)
                return -ENOTCONN;
        if (slot)
                *slot = sd_bus_slot_unref(*slot);
        return sd_bus_call_async(link->bus, slot, message, done, userdata, 0);
}

int link_call(Link *link, sd_bus_slot **slot, sd_bus_message_handler_t done, void *userdata,
              const char *path, const char *interface, const char *member, const char *types, ...) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *message = NULL;
        int r = link_message(link, &message, path, interface, member);
        if (r < 0)
                return r;
        va_list ap;
        va_start(ap, types);
        r = types ? sd_bus_message_appendv(message, types, ap) : 0;
        va_end(ap);
        return r < 0 ? r : link_send(link, message, slot, done, userdata);
}

int link_match(Link *link, sd_bus_slot **slot, const char *path, const char *interface, const char *member,
               sd_bus_message_handler_t handler, void *userdata) {
        if (!link->bus)
                return -ENOTCONN;
        if (link->direct)
                return sd_bus_match_signal(link->bus, slot, NULL, path, interface, member, handler,
                                           userdata);
        return sd_bus_match_signal_async(link->bus, slot, link->destination, path, interface, member,
                                         handler, NULL, userdata);
}
