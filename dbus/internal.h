/* What the files of this room share: who calls (Client, charged to a User), by which connection (Link), and
 * what he waits for (Call).
 *
 *      Bus ── Link (the system bus) ── Client per unique name ── Call, Call, …
 *          └─ Link (a private socket's client) ── Client ── Call, …
 *
 * A Call sits in its Client's list, so that it ends with the caller; ending it lets go of everything it
 * waits for. Watches and registrations are no Calls: they live as long as their fd. */
#pragma once

#include <sys/types.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>
#include <uthash.h>

#include "agent/agent.h"
#include "agent/base/ready.h"
#include "policy/guard.h"
#include "bus.h"

typedef struct Call Call;
typedef struct Client Client;
typedef struct Detached Detached;
typedef struct Link Link;
typedef struct Registering Registering;
typedef struct Registration Registration;
typedef struct User User;
typedef struct WatchFd WatchFd;

/* What one uid has open; exists as long as it counts something. */
struct User {
        uid_t uid;
        size_t n_refs;
        size_t n_calls, n_links, n_watches, n_owned;
        size_t watch_bytes;
        UT_hash_handle hh;
};

struct Client {
        Link *link;
        char *name;          /* unique name; NULL behind the private socket */
        Caller caller;       /* .known: false while the bus is being asked */
        User *user;          /* NULL while not known */
        sd_bus_slot *asking; /* GetConnectionCredentials under way */
        Call *calls;         /* in order of arrival */
        size_t n_calls, bytes;
        bool asks_polkit;
        UT_hash_handle hh; /* by name, in Link.clients, oldest first */
};

struct Link {
        Ready ready;
        Bus *bus;
        sd_bus *sd;
        bool private;
        bool doomed;      /* to be closed by the reaper, out of every callback */
        bool sd_reads;    /* sd-bus may hold the begin of a message: nothing is taken in front of it */
        uint32_t n_quick; /* answers of quick.c */
        int fd;           /* in the crowd: sd-bus's, which closes it only when the link is doomed */
        bool in_crowd;    /* private and authenticated: sd-event knows it no more, private.c does */
        int events; /* what the crowd waits for on its behalf: POLLOUT while sd-bus has something to send */
        size_t reply_bytes; /* sent since the write queue was last seen empty */
        Client *clients;    /* hash; behind the private socket exactly one without a name: */
        Client *peer;
        sd_event_source *first_calls;
        Link *prev, *next; /* in Bus.links */
};

struct Bus {
        Agent *agent;
        sd_event *event;
        BusOptions options;
        char *system_address;
        char *private_path;

        Link *system; /* NULL while there is no bus */
        bool system_ready;
        bool said_absent; /* the journal was told once */
        sd_event_source *reconnect;
        uint64_t backoff_usec;
        sd_bus_slot *naming; /* RequestName under way */
        sd_event_source *rename;

        int listen_fd;
        sd_event_source *listening;
        sd_event_source *listen_again; /* after we ran out of fds */
        Link *links;                   /* private clients */
        size_t n_links;
        int crowd_fd; /* epoll: their connections */
        sd_event_source *crowd;

        User *users;
        size_t n_calls, call_bytes, n_polkit;

        WatchFd *watches;
        size_t n_watches, watch_bytes;

        Registration *registrations;
        size_t n_registrations;
        Registering *registering; /* units whose registration is not answered yet */
        sd_event_source *reconcile;

        sd_event_source *reaper;
        AgentStatus status; /* as last told to the world */
};

/* bus.c */
void link_doom(Link *link);
Link *link_free(Link *link);
int link_add_objects(Link *link);
void bus_system_lost(Bus *bus);
void bus_status_changed(Bus *bus);

/* private.c */
int private_open(Bus *bus);
void private_close(Bus *bus);
void private_watch(Link *link); /* after anything was sent on it */
void private_leave(Link *link); /* before it is freed */

/* client.c */
User *user_get(Bus *bus, uid_t uid); /* takes a reference; NULL: out of memory */
User *user_put(Bus *bus, User *user);
/* The client behind a message, made when new. */
int client_of(Link *link, sd_bus_message *m, Client **ret);
int client_new_private(Link *link, Caller *caller, Client **ret); /* takes the caller's groups */
Client *client_free(Client *client);
int client_gone(sd_bus_message *m, void *userdata, sd_bus_error *error); /* NameOwnerChanged; Link */
DEFINE_CLEANUP(Client *, client_free);

/* services.c: what the agent still answers is answered to nobody */
void registering_forget(Bus *bus);

/* tree.c, services.c, cluster.c, logcontrol.c: the objects */
extern const sd_bus_vtable tree_vtable[], services_vtable[], cluster_vtable[], log_vtable[];
/* tree.c, for quick.c: as the methods of these names, without options; the arguments are checked. */
int tree_quick_get(Call *call, bool linearizable);
int tree_quick_set(Call *call, Bytes value);
void tree_host_name(Agent *agent, uint64_t id, char *to, size_t size);
int log_intercept(sd_bus_message *m, void *userdata, sd_bus_error *error);

/* cluster.c: which properties differ? Fills names (NULL-terminated, room for all). */
#define CLUSTER_PROPERTIES 13
size_t cluster_changes(const AgentStatus *before, const AgentStatus *after,
                       char *names[static CLUSTER_PROPERTIES + 1]);
