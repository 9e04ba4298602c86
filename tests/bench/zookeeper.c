/* ZooKeeper: its own C client in its single-threaded form, one session per connection. A linearizable read
 * is sync and get behind each other, as its manual says. Watches of this client hear once, so each watcher
 * sets its watch anew with the read that fetches what changed; a write waits until all stand again, and that
 * is not counted. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zookeeper/zookeeper.h>
#include "load.h"

#define SESSION_MSEC 40000 /* the longest that a server grants: a thousand connections take their time */
#define INSTANCE     "{\"host\":\"h1\",\"address\":\"192.0.2.1\",\"port\":1,\"priority\":0,\"weight\":0}"

struct Link {
        Load *load;
        zhandle_t *zk;
        LoadPoll poll;
        unsigned watched, instance;
        int n_instances;
        bool standing, ready;
};

static void expect(int r, const char *what) {
        if (r != ZOK)
                load_die(what, zerror(r));
}

static void on_stat(int r, const struct Stat *stat, const void *p) {
        load_answered((Client *)p, r == ZOK ? NULL : zerror(r));
}

static void on_value(int r, const char *value, int size, const struct Stat *stat, const void *p) {
        load_answered((Client *)p, r == ZOK ? NULL : zerror(r));
}

static void on_created(int r, const char *path, const void *p) {
        load_answered((Client *)p, r == ZOK || r == ZNODEEXISTS ? NULL : zerror(r));
}

static void on_synced(int r, const char *path, const void *p) {
}

static void zookeeper_ask(Link *link, Client *client, Verb verb, unsigned key) {
        char path[32];
        size_t size;

        load_path(key, path);
        const char *value = (const char *)load_value(link->load, &size);
        switch (verb) {
        case VERB_FILL:
                expect(zoo_acreate(link->zk, path, value, (int)size, &ZOO_OPEN_ACL_UNSAFE, 0, on_created,
                                   client),
                       "create");
                break;
        case VERB_SET:
        case VERB_WATCH:
                expect(zoo_aset(link->zk, path, value, (int)size, -1, on_stat, client), "set");
                break;
        case VERB_LINEARIZABLE:
                expect(zoo_async(link->zk, path, on_synced, NULL), "sync");
                /* fall through */
        case VERB_GET:
                expect(zoo_aget(link->zk, path, 0, on_value, client), "get");
                break;
        case VERB_REGISTER: /* zookeeper_enlist() */
                break;
        }
}

/* ---- Watching ---- */

static void on_change(zhandle_t *zk, int type, int state, const char *path, void *p);

static void on_watched(int r, const char *value, int size, const struct Stat *stat, const void *p) {
        Link *link = (Link *)p;

        if (r == ZCLOSING) /* the measurement is over */
                return;
        if (r != ZOK)
                load_die("a watch", zerror(r));
        if (!link->standing) {
                link->standing = true;
                load_watching(link->load);
        } else
                load_heard(link->load);
}

static void zookeeper_watch(Link *link, unsigned key) {
        char path[32];

        load_path(key, path);
        link->watched = key;
        expect(zoo_awget(link->zk, path, on_change, link, on_watched, link), "watch");
}

/* The value is heard with the answer to the read that watches again, as any program that wants to know it.
 */
static void on_change(zhandle_t *zk, int type, int state, const char *path, void *p) {
        Link *link = p;

        if (type == ZOO_CHANGED_EVENT)
                zookeeper_watch(link, link->watched);
}

/* ---- A service: ephemeral nodes of this session ---- */

static void instance_path(unsigned n, char to[static 40]) {
        snprintf(to, 40, "/bench/services/h1:%05u", n);
}

static void zookeeper_enlist(Link *link, Client *client, unsigned n) {
        char path[40];

        link->instance = n;
        instance_path(n, path);
        expect(zoo_acreate(link->zk, path, INSTANCE, sizeof(INSTANCE) - 1, &ZOO_OPEN_ACL_UNSAFE,
                           ZOO_EPHEMERAL, on_created, client),
               "create");
}

static void on_deleted(int r, const void *p) {
        expect(r, "delete");
        load_withdrawn(((const Link *)p)->load);
}

static void zookeeper_flush(Link *link);

static void zookeeper_withdraw(Link *link, Client *client) {
        char path[40];

        instance_path(link->instance, path);
        expect(zoo_adelete(link->zk, path, -1, on_deleted, link), "delete");
        zookeeper_flush(link);
}

static void on_change_of_instances(zhandle_t *zk, int type, int state, const char *path, void *p);

/* What is there now tells what happened: one at a time comes or goes. */
static void on_instances(int r, const struct String_vector *names, const void *p) {
        Link *link = (Link *)p;

        if (r == ZCLOSING)
                return;
        expect(r, "the instances");
        int before = link->n_instances;
        link->n_instances = names->count;
        if (!link->standing) {
                link->standing = true;
                load_watching(link->load);
        } else if (names->count > before)
                load_heard(link->load);
        else if (names->count < before)
                load_gone(link->load);
}

static void zookeeper_watch_instances(Link *link) {
        expect(zoo_awget_children(link->zk, "/bench/services", on_change_of_instances, link, on_instances,
                                  link),
               "watch");
}

static void on_change_of_instances(zhandle_t *zk, int type, int state, const char *path, void *p) {
        if (type == ZOO_CHILD_EVENT)
                zookeeper_watch_instances(p);
}

/* ---- Connections ---- */

/* Servers hang up when they lose their leader; the library looks for another one by itself, when it is asked
 * what to wait for. */
static bool is_lost(int r) {
        return r == ZCONNECTIONLOSS || r == ZOPERATIONTIMEOUT;
}

static void zookeeper_flush(Link *link) {
        struct timeval timeout;
        int fd = -1, interest = 0;

        int r = zookeeper_interest(link->zk, &fd, &interest, &timeout);
        if (!is_lost(r))
                expect(r, "a connection");
        if (link->poll.events != 0 && fd != link->poll.fd)
                link->poll.events = 0;
        link->poll.fd = fd;
        if (fd >= 0)
                load_poll(link->load, &link->poll,
                          (interest & ZOOKEEPER_READ ? EPOLLIN : 0u) |
                                  (interest & ZOOKEEPER_WRITE ? EPOLLOUT : 0u));
}

static void on_link(void *p, uint32_t events) {
        Link *link = p;
        bool in = events & (EPOLLIN | EPOLLERR | EPOLLHUP);

        int r = zookeeper_process(link->zk,
                                  (in ? ZOOKEEPER_READ : 0) | (events & EPOLLOUT ? ZOOKEEPER_WRITE : 0));
        if (r != ZOK && r != ZNOTHING && !is_lost(r))
                load_die("a connection ended", zerror(r));
        if (is_lost(r))
                link->poll.events = 0; /* closed, and so out of the epoll; the next may have its number */
        zookeeper_flush(link);
}

/* One step of a connection that is not in the loop yet. */
static void pump(Link *link, const char *address) {
        struct timeval timeout;
        struct pollfd poll_fd = {};
        int interest;

        expect(zookeeper_interest(link->zk, &poll_fd.fd, &interest, &timeout), address);
        poll_fd.events = (short)((interest & ZOOKEEPER_READ ? POLLIN : 0) |
                                 (interest & ZOOKEEPER_WRITE ? POLLOUT : 0));
        if (poll(&poll_fd, 1, 5000) <= 0)
                load_die(address, "no answer");
        int r = zookeeper_process(link->zk, (poll_fd.revents & POLLIN ? ZOOKEEPER_READ : 0) |
                                                    (poll_fd.revents & POLLOUT ? ZOOKEEPER_WRITE : 0));
        if (r != ZOK && r != ZNOTHING)
                load_die(address, zerror(r));
}

static void on_parent(int r, const char *path, const void *p) {
        if (r != ZOK && r != ZNODEEXISTS)
                load_die("a parent node", zerror(r));
        ((Link *)p)->ready = true;
}

static void make_parent(Link *link, const char *path, const char *address) {
        link->ready = false;
        expect(zoo_acreate(link->zk, path, NULL, -1, &ZOO_OPEN_ACL_UNSAFE, 0, on_parent, link), path);
        while (!link->ready)
                pump(link, address);
}

static Link *zookeeper_open(Load *load, const char *address) {
        Link *link = calloc(1, sizeof(Link));

        if (!link)
                load_die(address, strerror(ENOMEM));
        zoo_set_debug_level(ZOO_LOG_LEVEL_ERROR);
        zoo_deterministic_conn_order(1); /* the first of several, as long as it takes us */
        link->load = load;
        link->zk = zookeeper_init(address, NULL, SESSION_MSEC, NULL, link, 0);
        if (!link->zk)
                load_die(address, strerror(errno));
        link->poll = (LoadPoll){.fd = -1, .ready = on_link, .p = link};
        while (zoo_state(link->zk) != ZOO_CONNECTED_STATE)
                pump(link, address);
        make_parent(link, "/bench", address);
        if (load_verb(load) == VERB_REGISTER)
                make_parent(link, "/bench/services", address);
        zookeeper_flush(link);
        return link;
}

static void zookeeper_hang_up(Link *link) {
        zookeeper_close(link->zk);
        free(link);
}

int main(int argc, char **argv) {
        static const Driver driver = {
                .name = "zookeeper",
                .address = "HOST:PORT of a server; of several, with commas, whoever is there",
                .open = zookeeper_open,
                .ask = zookeeper_ask,
                .flush = zookeeper_flush,
                .watch = zookeeper_watch,
                .enlist = zookeeper_enlist,
                .withdraw = zookeeper_withdraw,
                .watch_instances = zookeeper_watch_instances,
                .close = zookeeper_hang_up,
        };
        return load_main(&driver, argc, argv);
}
