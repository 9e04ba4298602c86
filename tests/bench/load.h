/* One closed loop for every system that is measured: N clients, each with one question in flight; when the
 * answer comes, the next question leaves (so nothing queues up here, and a slow server is asked more
 * slowly). All clients live in one thread, because on a small machine the clients' own wake-ups would be
 * most of what is measured. What differs between the systems is a Driver: how to connect, to ask and to
 * read.
 *
 *      load.c        the loop, the clock, the histogram, the command line
 *      treaty.c      sd-bus on an agent's private socket, or through a bus
 *      etcd.c        gRPC on HTTP/2 (nghttp2), plain TCP, as etcd's own clients speak it
 *      zookeeper.c   ZooKeeper's own C client, single-threaded
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

typedef enum Verb {
        VERB_SET,          /* replace the value of a key */
        VERB_GET,          /* what the server asked knows by itself */
        VERB_LINEARIZABLE, /* what the cluster agrees on now */
        VERB_FILL,         /* every key once, made where absent */
        VERB_WATCH,        /* one write at a time, and how long until the last of N watchers heard */
        VERB_REGISTER,     /* one service instance at a time, and how long until it is seen elsewhere */
} Verb;

typedef struct Load Load;
typedef struct Link Link;

/* One question in flight. */
typedef struct Client {
        Link *link;
        uint64_t sent_nsec;
        bool waiting;
        bool given_up; /* another asks in its place; it is freed when its answer comes after all */
} Client;

typedef struct Driver {
        const char *name;
        const char *address; /* what an address is, for the usage text */
        /* Connects, or dies with words. Calls load_poll() for its fd. */
        Link *(*open)(Load *load, const char *address);
        /* Asks; load_answered() when the answer is there, never before it returned. May fill a buffer only.
         */
        void (*ask)(Link *link, Client *client, Verb verb, unsigned key);
        /* Sends what ask() left in a buffer, and says what to poll for next; after each round of questions.
         */
        void (*flush)(Link *link);
        /* Watches one key from now on; load_watching() when it stands, load_heard() for each change. */
        void (*watch)(Link *link, unsigned key);
        /* Registers instance number `n` of a service, which lives as long as its session or lease:
         * load_answered(). */
        void (*enlist)(Link *link, Client *client, unsigned n);
        /* Ends it: load_withdrawn(). */
        void (*withdraw)(Link *link, Client *client);
        /* Watches all instances: load_watching(), load_heard() for one that came, load_gone() for one that
         * went. */
        void (*watch_instances)(Link *link);
        void (*close)(Link *link);
} Driver;

/* ---- What a driver may call ---- */

typedef void (*LoadReady)(void *p, uint32_t events);

/* Calls ready(p) when the fd is; the same fd again changes `events`; events 0 forgets it. */
typedef struct LoadPoll {
        int fd;
        uint32_t events;
        LoadReady ready;
        void *p;
} LoadPoll;
void load_poll(Load *load, LoadPoll *poll, uint32_t events);

void load_answered(Client *client, const char *error); /* NULL: done as asked */
void load_watching(Load *load);
void load_heard(Load *load);
void load_gone(Load *load);
void load_withdrawn(Load *load);
Verb load_verb(const Load *load);
const uint8_t *load_value(const Load *load, size_t *ret_size);
void load_path(unsigned key, char ret[static 32]); /* "/bench/00042" */
_Noreturn void load_die(const char *what, const char *why);

int load_main(const Driver *driver, int argc, char **argv);
