/* A bus connection that comes back. It prefers a private socket (peer to peer, works without a bus daemon)
 * and falls back to the system bus; when it is lost it is made again, with back-off, for ever. Nothing here
 * blocks: connecting to a local socket is immediate, all else is asynchronous.
 *
 * What belongs to one life of the connection (slots) must be dropped in down(). */
#pragma once

#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>
#include "agent/base/macros.h"

typedef struct Link {
        const char *what; /* for the journal: "the agent" */
        const char *private_path;
        const char *destination; /* name on the system bus */
        void (*up)(void *userdata);
        void (*down)(void *userdata);
        void *userdata;

        sd_event *event;
        sd_event_source *timer;
        sd_bus *bus; /* NULL: not connected */
        bool direct;
        bool told; /* its absence stands in the journal */
        unsigned failures;
        uint64_t since_usec;
} Link;

/* The first six fields are set by the owner. */
int link_start(Link *link, sd_event *event);
void link_deinit(Link *link);
/* Something is odd (the peer was replaced): connect anew. */
void link_drop(Link *link);

static inline bool link_is_up(const Link *link) {
        return link->bus != NULL;
}

/* A call that is answered later; `types` as in sd_bus_message_append(),
 * NULL for none. Never starts a service that an
 * administrator stopped. *slot is replaced. */
int link_message(Link *link, sd_bus_message **ret, const char *path, const char *interface,
                 const char *member);
int link_send(Link *link, sd_bus_message *message, sd_bus_slot **slot, sd_bus_message_handler_t done,
              void *userdata);
int link_call(Link *link, sd_bus_slot **slot, sd_bus_message_handler_t done, void *userdata,
              const char *path, const char *interface, const char *member, const char *types, ...);
/* Signals of the peer (never of somebody else on the bus); path NULL: of any object. */
int link_match(Link *link, sd_bus_slot **slot, const char *path, const char *interface, const char *member,
               sd_bus_message_handler_t handler, void *userdata);

uint64_t now_usec(void); /* boottime: goes on while the host sleeps, never goes back */
