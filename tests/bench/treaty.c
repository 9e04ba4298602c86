/* treaty: method calls with sd-bus on the private socket of an agent, as any program on that host makes
 * them; or, where the address is bus:SOCKET, through the bus of that host; bus=NAME:SOCKET asks somebody
 * else there. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <unistd.h>
#include "client/record.h"
#include "load.h"

struct Link {
        Load *load;
        sd_bus *bus;
        char service[64];
        LoadPoll poll;
        LoadPoll watch; /* the fd of a watch */
        uint8_t buffer[65536];
        size_t buffered;
        int instance; /* the fd that keeps a registration; 0: none */
};

static int on_answer(sd_bus_message *answer, void *userdata, sd_bus_error *ret) {
        Client *client = userdata;
        const sd_bus_error *error = sd_bus_message_get_error(answer);

        load_answered(client, error ? error->name : NULL);
        return 1;
}

static void treaty_ask(Link *link, Client *client, Verb verb, unsigned key) {
        sd_bus_message *m = NULL;
        bool writes = verb == VERB_SET || verb == VERB_FILL;
        char path[32];
        size_t size;

        load_path(key, path);
        const uint8_t *value = load_value(link->load, &size);
        int r = sd_bus_message_new_method_call(link->bus, &m, link->service, "/org/treaty1",
                                               "org.treaty1.Tree", writes ? "Set" : "Get");
        if (r >= 0)
                r = sd_bus_message_append(m, "s", path);
        if (r >= 0 && writes)
                r = sd_bus_message_append_array(m, 'y', value, size);
        if (r >= 0)
                r = sd_bus_message_append(m, "ta{sv}", (uint64_t)(verb == VERB_LINEARIZABLE), 0);
        if (r >= 0)
                r = sd_bus_call_async(link->bus, NULL, m, on_answer, client, 0);
        sd_bus_message_unref(m);
        if (r < 0)
                load_die("a question cannot be asked", strerror(-r));
}

static void treaty_flush(Link *link) {
        int r;

        while ((r = sd_bus_process(link->bus, NULL)) > 0)
                ;
        if (r < 0)
                load_die("a connection ended", strerror(-r));
        load_poll(link->load, &link->poll, (uint32_t)sd_bus_get_events(link->bus));
}

static void on_bus(void *p, uint32_t events) {
        treaty_flush(p);
}

/* ---- Watching ---- */

static void on_watch(void *p, uint32_t events) {
        Link *link = p;
        size_t at = 0, size;
        Record record;

        ssize_t n =
                read(link->watch.fd, link->buffer + link->buffered, sizeof(link->buffer) - link->buffered);
        if (n < 0 && errno == EAGAIN)
                return;
        if (n <= 0)
                load_die("a watch", n < 0 ? strerror(errno) : "ended");
        link->buffered += (size_t)n;
        while (record_parse(BYTES(link->buffer + at, link->buffered - at), &record, &size) == RECORD_OK) {
                at += size;
                if (record.kind == RECORD_PUT)
                        load_heard(link->load);
                else if (record.kind == RECORD_DELETE)
                        load_gone(link->load);
        }
        memmove(link->buffer, link->buffer + at, link->buffered - at);
        link->buffered -= at;
}

static int on_watch_fd(sd_bus_message *answer, void *userdata, sd_bus_error *ret) {
        Link *link = userdata;
        int fd;

        const sd_bus_error *error = sd_bus_message_get_error(answer);
        if (error || sd_bus_message_read(answer, "h", &fd) < 0)
                load_die("a watch", error ? error->name : "no fd");
        link->watch = (LoadPoll){.fd = dup(fd), .ready = on_watch, .p = link};
        load_poll(link->load, &link->watch, EPOLLIN);
        load_watching(link->load);
        return 1;
}

static void watch(Link *link, const char *path, uint64_t flags) {
        int r = sd_bus_call_method_async(link->bus, NULL, "org.treaty1", "/org/treaty1", "org.treaty1.Tree",
                                         "Watch", on_watch_fd, link, "stt", path, flags, (uint64_t)0);
        if (r < 0)
                load_die("a watch", strerror(-r));
}

static void treaty_watch(Link *link, unsigned key) {
        char path[32];

        load_path(key, path);
        watch(link, path, 0);
}

/* ---- A service ---- */

static int on_instance(sd_bus_message *answer, void *userdata, sd_bus_error *ret) {
        Client *client = userdata;
        const sd_bus_error *error = sd_bus_message_get_error(answer);
        int fd = -1;

        if (!error && sd_bus_message_read(answer, "h", &fd) < 0)
                load_die("a registration", "no fd");
        client->link->instance = error ? 0 : dup(fd);
        load_answered(client, error ? error->name : NULL);
        return 1;
}

static void treaty_enlist(Link *link, Client *client, unsigned n) {
        int r = sd_bus_call_method_async(link->bus, NULL, "org.treaty1", "/org/treaty1",
                                         "org.treaty1.Services", "Register", on_instance, client, "sqa{sv}",
                                         "bench", (unsigned)(1 + n % 60000), 0);
        if (r < 0)
                load_die("a registration", strerror(-r));
}

static void treaty_withdraw(Link *link, Client *client) {
        close(link->instance);
        link->instance = 0;
        load_withdrawn(link->load);
}

static void treaty_watch_instances(Link *link) {
        watch(link, "/services/bench", 1 /* all below */);
}

/* ---- Connections ---- */

static Link *treaty_open(Load *load, const char *socket) {
        Link *link = calloc(1, sizeof(Link));
        char address[256];

        if (!link)
                load_die(socket, strerror(ENOMEM));
        link->load = load;
        bool through_bus = strncmp(socket, "bus", 3) == 0;
        snprintf(link->service, sizeof(link->service), "org.treaty1");
        const char *path = through_bus ? strchr(socket, ':') : socket;
        if (through_bus && path && socket[3] == '=')
                snprintf(link->service, sizeof(link->service), "%.*s", (int)(path - socket - 4), socket + 4);
        snprintf(address, sizeof(address), "unix:path=%s", through_bus && path ? path + 1 : socket);
        int r = sd_bus_new(&link->bus);
        if (r >= 0)
                r = sd_bus_set_address(link->bus, address);
        if (r >= 0)
                r = sd_bus_set_bus_client(link->bus, through_bus);
        if (r >= 0)
                r = sd_bus_negotiate_fds(link->bus, true);
        if (r >= 0)
                r = sd_bus_start(link->bus);
        while (r >= 0 && (r = sd_bus_is_ready(link->bus)) == 0) {
                r = sd_bus_process(link->bus, NULL);
                if (r == 0)
                        r = sd_bus_wait(link->bus, 10 * 1000 * 1000);
        }
        if (r < 0)
                load_die(socket, strerror(-r));
        link->poll = (LoadPoll){.fd = sd_bus_get_fd(link->bus), .ready = on_bus, .p = link};
        treaty_flush(link);
        return link;
}

static void treaty_close(Link *link) {
        if (link->watch.events)
                close(link->watch.fd);
        sd_bus_flush_close_unref(link->bus);
        free(link);
}

int main(int argc, char **argv) {
        static const Driver driver = {
                .name = "treaty",
                .address = "the private socket of an agent, or bus:SOCKET of a bus",
                .open = treaty_open,
                .ask = treaty_ask,
                .flush = treaty_flush,
                .watch = treaty_watch,
                .enlist = treaty_enlist,
                .withdraw = treaty_withdraw,
                .watch_instances = treaty_watch_instances,
                .close = treaty_close,
        };
        return load_main(&driver, argc, argv);
}
