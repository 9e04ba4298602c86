/* The front door: the agreed tree, the services and the cluster on D-Bus, as the XML files beside this page
 * say; on the system bus (which may be absent, restarted or slow: nothing here waits for it) and on a
 * private socket (peer to peer, as PID 1 has one), which works before and without a bus.
 *
 * The roof calls bus_new() when the agent exists, bus_adopt_fds() once after it, and bus_free() before
 * agent_free(). */
#pragma once

#include <systemd/sd-event.h>
#include "agent/agent.h"

typedef struct Bus Bus;

#define BUS_NAME         "org.treaty1"
#define BUS_PATH         "/org/treaty1"
#define BUS_PRIVATE_PATH "/run/treaty/private"

typedef struct BusOptions {
        int epoll_fd; /* the set that private clients join (base/ready.h); at most 0: one of our own */
        bool no_system_bus;
        const char *system_address; /* NULL: $DBUS_SYSTEM_BUS_ADDRESS, else the usual place */
        const char *private_path;   /* NULL: no private socket, unless private_fd is one */
        int private_fd;             /* a listening socket of the caller, who goes on to own it; < 0: none */
        /* The bus listens to the agent; who else wants to hear of changes says so here. */
        void (*changed)(void *userdata);
        void *userdata;
} BusOptions;

/* 0, -errno: the private socket could not be had (the system bus is never a reason to fail). */
int bus_new(Bus **ret, Agent *agent, sd_event *event, const BusOptions *options);
Bus *bus_free(Bus *bus); /* accepts NULL; callers who still wait hear Stopping */

/* Takes back from systemd's fd store what lives as long as a caller's fd ("own-…" in $LISTEN_FDNAMES), and
 * ends what this host owns on behalf of fds that are gone. Fds of other names are left alone. How many were
 * taken, or -errno. */
int bus_adopt_fds(Bus *bus);

DEFINE_CLEANUP(Bus *, bus_free);
