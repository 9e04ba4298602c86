/* The connection to the system bus is a guest here, not a host: it may be absent at boot, be restarted at
 * any time, refuse us the name, or not answer. Nothing is called synchronously; when the connection is lost
 * all its callers are let go and another attempt is made with a growing pause. See bus.h. */
#include "internal.h"

#include <string.h>
#include <utlist.h>

#include "agent/journal.h"
#include "call.h"
#include "error.h"
#include "register.h"
#include "watchfd.h"

#define DEFAULT_ADDRESS    "unix:path=/run/dbus/system_bus_socket"
#define LOG_PATH           "/org/freedesktop/LogControl1"
#define BACKOFF_MIN_USEC   (100 * USEC_PER_MSEC)
#define BACKOFF_MAX_USEC   (5 * USEC_PER_SEC)
#define RENAME_USEC        (5 * USEC_PER_SEC)
#define SIGNALS_QUEUED_MAX 1024 /* beyond it a private client is not worth signals */
#define ANSWERS_QUEUED_MAX 64   /* introspection is some 16 KiB long */

/* ---- links ---- */

Link *link_free(Link *link) {
        if (!link)
                return NULL;

        Client *client, *next;
        HASH_ITER (hh, link->clients, client, next)
                client_free(client);
        client_free(link->peer);
        sd_event_source_disable_unref(link->first_calls);
        private_leave(link);
        sd_bus_close_unref(link->sd);
        free(link);
        return NULL;
}

/* Closing a connection inside one of its own callbacks would pull the ground away from under it. */
void link_doom(Link *link) {
        if (link->doomed)
                return;
        link->doomed = true;
        (void)sd_event_source_set_enabled(link->bus->reaper, SD_EVENT_ONESHOT);
}

static int on_reap(sd_event_source *source, void *userdata) {
        Bus *bus = userdata;
        Link *link, *next;

        DL_FOREACH_SAFE (bus->links, link, next) {
                if (!link->doomed)
                        continue;
                DL_DELETE(bus->links, link);
                bus->n_links--;
                link->peer->user->n_links--;
                link_free(link);
        }
        if (bus->system && bus->system->doomed)
                bus_system_lost(bus);
        return 0;
}

/* What sd-bus answers by itself (introspection, properties, "unknown method") never comes to call_begin(),
 * so its bounds are here: who does not read those answers gets short ones, and in the end none. */
static int on_any_message(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Link *link = userdata;
        uint64_t n = 0;
        uint8_t type;

        link->sd_reads = false;
        if (sd_bus_message_get_type(m, &type) < 0 || type != SD_BUS_MESSAGE_METHOD_CALL)
                return 0;
        if (link->doomed)
                return 1;
        if (sd_bus_get_n_queued_write(link->sd, &n) < 0)
                return 0;
        bool stranger = link->private && link->peer->caller.uid != 0;
        if (n > (stranger ? 2 : 4) * LIMIT_REPLIES) {
                log_warning("%s does not read its replies; the connection is closed.",
                            link->private ? "A private client" : "The bus");
                link_doom(link);
                return 1;
        }
        const char *interface = sd_bus_message_get_interface(m);
        if (n > (link->private ? ANSWERS_QUEUED_MAX : SIGNALS_QUEUED_MAX) &&
            !(interface && strncmp(interface, BUS_NAME ".", strlen(BUS_NAME ".")) == 0))
                return sd_bus_error_set(error, SD_BUS_ERROR_LIMITS_EXCEEDED,
                                        "Too many replies have not been read. Read them and call again.");
        return 0;
}

int link_add_objects(Link *link) {
        static const struct {
                const char *path, *interface;
                const sd_bus_vtable *vtable;
        } objects[] = {
                {BUS_PATH, "org.treaty1.Tree", tree_vtable},
                {BUS_PATH, "org.treaty1.Services", services_vtable},
                {BUS_PATH, "org.treaty1.Cluster", cluster_vtable},
                {LOG_PATH, "org.freedesktop.LogControl1", log_vtable},
        };

        for (size_t i = 0; i < ELEMENTSOF(objects); i++) {
                int r = sd_bus_add_object_vtable(link->sd, NULL, objects[i].path, objects[i].interface,
                                                 objects[i].vtable, link);
                if (r < 0)
                        return r;
        }
        int r = sd_bus_add_object(link->sd, NULL, LOG_PATH, log_intercept, link);
        if (r >= 0)
                r = sd_bus_add_filter(link->sd, NULL, on_any_message, link);
        return r < 0 ? r : 0;
}

/* ---- the system bus ---- */

static void request_name(Bus *bus);

static int on_rename(sd_event_source *source, uint64_t now, void *userdata) {
        Bus *bus = userdata;

        bus->rename = sd_event_source_disable_unref(bus->rename);
        request_name(bus);
        return 0;
}

static int on_name(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        Bus *bus = userdata;
        uint32_t result = 0;

        bus->naming = sd_bus_slot_unref(bus->naming);
        if (!sd_bus_message_is_method_error(reply, NULL) && sd_bus_message_read(reply, "u", &result) >= 0) {
                if (result == 2) /* DBUS_REQUEST_NAME_REPLY_IN_QUEUE */
                        log_warning("Another process owns " BUS_NAME
                                    " on the system bus; this agent gets the name "
                                    "when it lets go.");
                else
                        log_debug("On the system bus as " BUS_NAME ".");
                return 0;
        }

        /* Usually the bus has not read our policy yet (fresh installation): it may soon. */
        const sd_bus_error *why = sd_bus_message_get_error(reply);
        log_warning("The system bus refuses the name " BUS_NAME
                    " (%s); trying again. The private socket works.",
                    why && why->message ? why->message : "no reason given");
        (void)sd_event_add_time_relative(bus->event, &bus->rename, CLOCK_BOOTTIME, RENAME_USEC, USEC_PER_SEC,
                                         on_rename, bus);
        return 0;
}

static void request_name(Bus *bus) {
        if (!bus->system || bus->naming)
                return;
        int r = sd_bus_request_name_async(bus->system->sd, &bus->naming, BUS_NAME, SD_BUS_NAME_QUEUE,
                                          on_name, bus);
        if (r < 0)
                link_doom(bus->system);
}

static int on_match(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        Link *link = userdata;

        /* Without it we would not hear of callers that are gone: better no connection. */
        if (sd_bus_message_is_method_error(reply, NULL))
                link_doom(link);
        return 0;
}

static int on_connected(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Bus *bus = userdata;

        bus->system_ready = true;
        bus->said_absent = false;
        bus->backoff_usec = BACKOFF_MIN_USEC;
        log_debug("Connected to the system bus.");
        return 0;
}

static int on_disconnected(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        link_doom(userdata);
        return 0;
}

static int system_start(Link *link, const char *address) {
        Bus *bus = link->bus;
        sd_bus *sd;

        int r = sd_bus_new(&link->sd);
        if (r < 0)
                return r;
        sd = link->sd;
        if ((r = sd_bus_set_description(sd, "system")) < 0 || (r = sd_bus_set_address(sd, address)) < 0 ||
            (r = sd_bus_set_bus_client(sd, true)) < 0 || (r = sd_bus_set_watch_bind(sd, true)) < 0 ||
            (r = sd_bus_set_connected_signal(sd, true)) < 0)
                return r;
        r = sd_bus_start(sd);
        if (r < 0)
                return r;
        r = sd_bus_attach_event(sd, bus->event, SD_EVENT_PRIORITY_NORMAL);
        if (r < 0)
                return r;

        /* These two are local: nothing is asked of the bus. */
        if ((r = sd_bus_match_signal(sd, NULL, "org.freedesktop.DBus.Local", "/org/freedesktop/DBus/Local",
                                     "org.freedesktop.DBus.Local", "Connected", on_connected, bus)) < 0 ||
            (r = sd_bus_match_signal(sd, NULL, "org.freedesktop.DBus.Local", "/org/freedesktop/DBus/Local",
                                     "org.freedesktop.DBus.Local", "Disconnected", on_disconnected, link)) <
                    0)
                return r;
        r = sd_bus_add_match_async(
                sd, NULL,
                "type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus',"
                "interface='org.freedesktop.DBus',member='NameOwnerChanged',arg2=''",
                client_gone, on_match, link);
        if (r < 0)
                return r;
        return link_add_objects(link);
}

static int on_reconnect(sd_event_source *source, uint64_t now, void *userdata);

static void reconnect_later(Bus *bus) {
        bus->reconnect = sd_event_source_disable_unref(bus->reconnect);
        (void)sd_event_add_time_relative(bus->event, &bus->reconnect, CLOCK_BOOTTIME, bus->backoff_usec,
                                         bus->backoff_usec / 4, on_reconnect, bus);
        bus->backoff_usec = MIN(bus->backoff_usec * 2, BACKOFF_MAX_USEC);
}

static int system_connect(Bus *bus) {
        assert(!bus->system);
        bus->system = calloc(1, sizeof(Link));
        if (!bus->system)
                return -ENOMEM;
        bus->system->bus = bus;
        int r = system_start(bus->system, bus->system_address);
        if (r < 0)
                return r;
        request_name(bus);
        return 0;
}

static void system_try(Bus *bus) {
        int r = system_connect(bus);
        if (r >= 0)
                return;
        bus->naming = sd_bus_slot_unref(bus->naming);
        bus->system = link_free(bus->system);
        if (!bus->said_absent)
                log_info(
                        "No system bus at %s (%s); trying again until there is one. The private socket works.",
                        bus->system_address, strerror(-r));
        bus->said_absent = true;
        reconnect_later(bus);
}

static int on_reconnect(sd_event_source *source, uint64_t now, void *userdata) {
        Bus *bus = userdata;

        bus->reconnect = sd_event_source_disable_unref(bus->reconnect);
        system_try(bus);
        return 0;
}

static void system_close(Bus *bus) {
        bus->naming = sd_bus_slot_unref(bus->naming);
        bus->rename = sd_event_source_disable_unref(bus->rename);
        bus->system = link_free(bus->system);
        bus->system_ready = false;
}

void bus_system_lost(Bus *bus) {
        if (bus->system_ready)
                log_info("The connection to the system bus is lost; trying again until it is back.");
        system_close(bus);
        reconnect_later(bus);
}

/* ---- changes of state ---- */

static void tell(Link *link, char **names) {
        uint64_t n = 0;

        if (link->doomed || (sd_bus_get_n_queued_write(link->sd, &n) >= 0 && n > SIGNALS_QUEUED_MAX))
                return;
        (void)sd_bus_emit_properties_changed_strv(link->sd, BUS_PATH, "org.treaty1.Cluster", names);
        private_watch(link);
}

void bus_status_changed(Bus *bus) {
        char *names[CLUSTER_PROPERTIES + 1];
        AgentStatus now;
        Link *link;

        agent_status(bus->agent, &now);
        size_t n = cluster_changes(&bus->status, &now, names);
        bus->status = now;
        if (n > 0) {
                if (bus->system && bus->system_ready)
                        tell(bus->system, names);
                DL_FOREACH (bus->links, link)
                        tell(link, names);
        }
        registrations_reconcile(bus);
}

static void on_changed(void *userdata) {
        Bus *bus = userdata;

        bus_status_changed(bus);
        if (bus->options.changed)
                bus->options.changed(bus->options.userdata);
}

/* ---- life ---- */

static const char *system_address(const BusOptions *options) {
        const char *address = options->system_address;

        if (!address)
                address = secure_getenv("DBUS_SYSTEM_BUS_ADDRESS");
        return address && address[0] ? address : DEFAULT_ADDRESS;
}

static int add_reaper(Bus *bus) {
        int r = sd_event_add_defer(bus->event, &bus->reaper, on_reap, bus);
        if (r < 0)
                return r;
        return sd_event_source_set_enabled(bus->reaper, SD_EVENT_OFF);
}

int bus_new(Bus **ret, Agent *agent, sd_event *event, const BusOptions *options) {
        _cleanup_(bus_freep) Bus *bus = calloc(1, sizeof(Bus));
        if (!bus)
                return -ENOMEM;

        error_register();
        bus->agent = agent;
        bus->event = sd_event_ref(event);
        bus->options = *options;
        bus->listen_fd = options->private_fd;
        bus->crowd_fd = -1;
        bus->backoff_usec = BACKOFF_MIN_USEC;
        bus->system_address = strdup(system_address(options));
        if (!bus->system_address)
                return -ENOMEM;
        if (options->private_path) {
                bus->private_path = strdup(options->private_path);
                if (!bus->private_path)
                        return -ENOMEM;
        }
        int r = add_reaper(bus);
        if (r < 0)
                return r;
        agent_status(agent, &bus->status);
        agent_set_listener(agent, on_changed, bus);
        if (bus->private_path || bus->listen_fd >= 0) {
                r = private_open(bus);
                if (r < 0)
                        return r;
        }
        if (!options->no_system_bus)
                system_try(bus);
        *ret = TAKE(bus);
        return 0;
}

static void answer_all(Link *link) {
        Client *client, *next;

        HASH_ITER (hh, link->clients, client, next)
                while (client->calls)
                        call_fail(client->calls, ERROR_STOPPING,
                                  "The agent is stopping; ask again when it is back.");
        if (link->peer)
                while (link->peer->calls)
                        call_fail(link->peer->calls, ERROR_STOPPING,
                                  "The agent is stopping; ask again when it is back.");
}

Bus *bus_free(Bus *bus) {
        Link *link, *next;

        if (!bus)
                return NULL;
        agent_set_listener(bus->agent, NULL, NULL);
        if (bus->system)
                answer_all(bus->system);
        DL_FOREACH_SAFE (bus->links, link, next) {
                answer_all(link);
                DL_DELETE(bus->links, link);
                link->peer->user->n_links--;
                link_free(link);
        }
        private_close(bus);
        system_close(bus);
        watchfds_free(bus);
        registrations_free(bus);
        registering_forget(bus);
        sd_event_source_disable_unref(bus->reconnect);
        sd_event_source_disable_unref(bus->reaper);
        sd_event_unref(bus->event);
        assert(!bus->users && bus->n_calls == 0 && bus->call_bytes == 0 && bus->watch_bytes == 0);
        free(bus->system_address);
        free(bus->private_path);
        free(bus);
        return NULL;
}
