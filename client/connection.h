/* A connection to an agent: where it leads, how it is made anew, what its last call had to say. All calls of
 * the library are made here: call_begin(), append arguments, call_finish(). */
#pragma once

#include <systemd/sd-bus.h>
#include "agent/base/macros.h"
#include "treaty.h"

#define _public_ __attribute__((__visibility__("default")))

#define TREATY_BUS_NAME       "org.treaty1"
#define TREATY_OBJECT         "/org/treaty1"
#define TREATY_TREE           "org.treaty1.Tree"
#define TREATY_SERVICES       "org.treaty1.Services"
#define TREATY_CLUSTER        "org.treaty1.Cluster"
#define TREATY_PRIVATE_SOCKET "/run/treaty/private"

/* The agent keeps the deadline itself; its own answer says more than ours could, so it gets this much
 * longer. */
#define CALL_GRACE_USEC (2 * USEC_PER_SEC)

typedef enum Target {
        TARGET_LOCAL,
        TARGET_REMOTE,  /* ssh */
        TARGET_MACHINE, /* a container */
        TARGET_GIVEN,   /* the caller's bus */
} Target;

struct treaty {
        sd_bus *bus; /* NULL: ended */
        Target target;
        char *name; /* of the host or machine */
        unsigned flags;
        uint64_t timeout_usec;

        /* What the last call said. */
        char *error, *error_name, *request;
};

uint64_t now_usec(void);

/* Keeps what failed for treaty_error() and returns `error`. name: of the D-Bus error, or NULL. */
int fail(treaty *t, int error, const char *name, const char *format, ...) _printf_(4, 5);
/* A failure on this side that needs no words of its own. */
int fail_errno(treaty *t, int error, const char *doing);
/* Arguments that the bus does not take: texts that are not UTF-8, mostly. */
int fail_append(treaty *t, int error);
/* Is this a path for an entry (for a subtree: "/" too)? Else -EINVAL, with words. */
int check_path(treaty *t, const char *path, bool subtree);
int check_flags(treaty *t, unsigned flags, unsigned known);

/* Begins a call; connects anew where that is allowed. */
int call_begin(treaty *t, const char *interface, const char *member, sd_bus_message **ret);
/* Sends it and waits. wait_usec: all in all. *ret_reply may be NULL. */
int call_finish(treaty *t, sd_bus_message *call, uint64_t wait_usec, sd_bus_message **ret_reply);
/* The usual wait. */
int call_finish_default(treaty *t, sd_bus_message *call, sd_bus_message **ret_reply);
/* What the agent answered cannot be read. */
int fail_reply(treaty *t, int error);
/* Appends the entry `name` of an open a{sv}. */
int append_option_u64(sd_bus_message *call, const char *name, uint64_t value);
/* Connects (anew) within the time; 0 when it is connected already. */
int connection_ensure(treaty *t, uint64_t timeout_usec);
/* May this connection be made anew? */
bool connection_may_reconnect(const treaty *t);
