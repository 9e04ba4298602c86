/* The door for treatyctl: a socket of root's on which the helper answers what it does. Peer to peer, as PID
 * 1 does on /run/systemd/private; the interface is org.treaty1.Units.xml. */
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-id128.h>
#include <unistd.h>
#include "agent/journal.h"
#include "helper.h"

#define OBJECT_PATH "/org/treaty1/units"
#define INTERFACE   "org.treaty1.Units"
#define MAX_CLIENTS 16

typedef struct Client Client;

struct Client {
        Door *door;
        Client *next, **link;
        sd_bus *bus;
        bool gone;
};

struct Door {
        Helper *helper;
        int fd;
        sd_event_source *io;
        sd_event_source *sweep; /* frees clients outside of their own dispatching */
        Client *clients;
        unsigned n_clients;
};

/* ---- Answers ---- */

static int compare_units(Unit *a, Unit *b) {
        return strcmp(a->name, b->name);
}

static int append_paths(sd_bus_message *reply, const Words *paths) {
        int r = sd_bus_message_open_container(reply, 'a', "s");
        for (size_t i = 0; r >= 0 && i < paths->n; i++)
                r = sd_bus_message_append(reply, "s", paths->items[i]);
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

static int append_trigger(sd_bus_message *reply, const Unit *unit) {
        const Section *section = &unit->section;
        const Trigger *trigger = &unit->trigger;
        const char *where = section->where ? section->where : "";

        int r = sd_bus_message_open_container(reply, 'r', "sassssttss");
        if (r >= 0)
                r = sd_bus_message_append(reply, "s", unit->name);
        if (r >= 0)
                r = append_paths(reply, &section->watch);
        if (r >= 0 && section->mistake)
                r = sd_bus_message_append(reply, "sssttss", "", "broken", "", UINT64_C(0), UINT64_C(0),
                                          section->mistake, where);
        else if (r >= 0)
                r = sd_bus_message_append(reply, "sssttss", action_name(section->on_change),
                                          trigger_state(trigger), trigger->result, trigger_revision(trigger),
                                          trigger->acted_usec, trigger->message, where);
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

static int on_list_triggers(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Helper *helper = userdata;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        Unit *unit, *next;

        int r = sd_bus_message_new_method_return(message, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "(sassssttss)");
        HASH_SORT(helper->units, compare_units);
        HASH_ITER (hh, helper->units, unit, next)
                if (r >= 0 && (unit->section.mistake || section_has_trigger(&unit->section)))
                        r = append_trigger(reply, unit);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int on_list_services(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Helper *helper = userdata;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        Unit *unit, *next;

        int r = sd_bus_message_new_method_return(message, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "(ssqss)");
        HASH_SORT(helper->units, compare_units);
        HASH_ITER (hh, helper->units, unit, next)
                if (r >= 0 && section_has_service(&unit->section))
                        r = sd_bus_message_append(
                                reply, "(ssqss)", unit->name, unit->section.service, unit->section.port,
                                registration_state(&unit->registration), unit->registration.message);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("ListTriggers", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(sassssttss)", triggers),
                                on_list_triggers, 0),
        SD_BUS_METHOD_WITH_ARGS("ListServices", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(ssqss)", services),
                                on_list_services, 0),
        SD_BUS_VTABLE_END,
};

/* ---- Clients ---- */

static Client *client_free(Client *client) {
        if (!client)
                return NULL;
        *client->link = client->next;
        if (client->next)
                client->next->link = client->link;
        client->door->n_clients--;
        sd_bus_close_unref(client->bus);
        free(client);
        return NULL;
}
DEFINE_CLEANUP(Client *, client_free);

static int on_sweep(sd_event_source *source, void *userdata) {
        Door *door = userdata;
        for (Client *client = door->clients, *next; client; client = next) {
                next = client->next;
                if (client->gone)
                        client_free(client);
        }
        return 0;
}

static int on_message(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Client *client = userdata;
        if (!sd_bus_message_is_signal(message, "org.freedesktop.DBus.Local", "Disconnected"))
                return 0;
        client->gone = true;
        (void)sd_event_source_set_enabled(client->door->sweep, SD_EVENT_ONESHOT);
        return 0;
}

/* Takes the fd. */
static int client_new(Door *door, int fd) {
        sd_id128_t id;
        Client *new = calloc(1, sizeof(Client));
        if (!new) {
                close(fd);
                return -ENOMEM;
        }
        *new = (Client){.door = door, .next = door->clients, .link = &door->clients};
        if (new->next)
                new->next->link = &new->next;
        door->clients = new;
        door->n_clients++;

        _cleanup_(client_freep) Client *client = new;
        int r = sd_bus_new(&client->bus);
        if (r >= 0)
                r = sd_bus_set_fd(client->bus, fd, fd);
        if (r < 0) {
                close(fd);
                return r;
        }
        r = sd_id128_randomize(&id);
        if (r >= 0)
                r = sd_bus_set_server(client->bus, 1, id);
        if (r >= 0)
                r = sd_bus_set_sender(client->bus, INTERFACE);
        if (r >= 0)
                r = sd_bus_add_filter(client->bus, NULL, on_message, client);
        if (r >= 0)
                r = sd_bus_add_object_vtable(client->bus, NULL, OBJECT_PATH, INTERFACE, vtable,
                                             door->helper);
        if (r >= 0)
                r = sd_bus_start(client->bus);
        if (r >= 0)
                r = sd_bus_attach_event(client->bus, door->helper->event, SD_EVENT_PRIORITY_NORMAL);
        if (r < 0)
                return r;
        TAKE(client);
        return 0;
}

static bool is_root(int fd) {
        struct ucred peer;
        socklen_t size = sizeof(peer);
        return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) >= 0 &&
               (peer.uid == 0 || peer.uid == geteuid());
}

static int on_knock(sd_event_source *source, int listening, uint32_t events, void *userdata) {
        Door *door = userdata;
        int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
                return 0;
        if (door->n_clients >= MAX_CLIENTS || !is_root(fd)) {
                close(fd);
                return 0;
        }
        int r = client_new(door, fd);
        if (r < 0)
                log_warning_errno(r, "cannot answer a client");
        return 0;
}

/* ---- Life ---- */

static int listen_at(const char *path) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        strcpy(address.sun_path, path);

        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        (void)unlink(path); /* of an earlier life */
        mode_t mask = umask(0177);
        int r = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
        (void)umask(mask);
        if (r >= 0 && listen(fd, MAX_CLIENTS) < 0)
                r = -errno;
        if (r < 0) {
                close(fd);
                return r;
        }
        return fd;
}

int door_new(Door **ret, Helper *helper, const char *path) {
        _cleanup_(door_freep) Door *door = calloc(1, sizeof(Door));
        if (!door)
                return -ENOMEM;
        *door = (Door){.helper = helper, .fd = listen_at(path)};
        if (door->fd < 0)
                return door->fd;
        int r = sd_event_add_io(helper->event, &door->io, door->fd, EPOLLIN, on_knock, door);
        if (r >= 0)
                r = sd_event_add_defer(helper->event, &door->sweep, on_sweep, door);
        if (r >= 0)
                r = sd_event_source_set_enabled(door->sweep, SD_EVENT_OFF);
        if (r < 0)
                return r;
        *ret = TAKE(door);
        return 0;
}

Door *door_free(Door *door) {
        if (!door)
                return NULL;
        while (door->clients)
                client_free(door->clients);
        sd_event_source_disable_unref(door->io);
        sd_event_source_disable_unref(door->sweep);
        if (door->fd >= 0)
                close(door->fd);
        free(door);
        return NULL;
}
