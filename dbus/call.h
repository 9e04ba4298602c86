/* One call that has not been answered. Every method of ours arrives here: known caller, room in the bounds,
 * then its handler. A call is answered exactly once and is gone with its answer: whatever answers
 * (call_send, call_return, call_fail, …) consumes it. It is gone without an answer when its caller is.
 *
 * Handlers return 0 when the call was answered or waits for something, or a negative errno *before* either,
 * which then becomes the answer. */
#pragma once

#include "internal.h"

typedef int (*CallHandler)(Call *call);

struct Call {
        Client *client;
        sd_bus_message *message; /* NULL while a call that quick.c took needs none */
        uint32_t serial;         /* of such a call, else 0 */
        CallHandler handler;     /* while parked: until the caller is known */
        size_t weight;           /* bytes charged */
        Call *prev, *next;

        /* What it waits for; NULL each when not. */
        Request *request;
        Read *read;
        Watch *watch;
        sd_event_source *timer;
        sd_bus_slot *polkit;
        Detached *detached;
        Registration *registration;
        CallHandler resume; /* what follows the read or polkit */

        /* Arguments that outlive the first handler; strings live in the message,
         * or behind the call. */
        const char *path;
        const char *after;
        uint64_t flags;
        uint64_t revision;
        uint32_t limit;
};

/* A call that quick.c took out of the socket; `path` is copied. NULL: sd-bus has to take and refuse it. */
Call *call_new_quick(Client *client, uint32_t serial, const char *path, size_t weight);
/* The message that it is, or would be; NULL: out of memory. */
sd_bus_message *call_message(Call *call);
int call_begin(Link *link, sd_bus_message *m, CallHandler handler, sd_bus_error *error);
Call *call_free(Call *call); /* without an answer */
void call_run(Call *call, CallHandler handler);
Bus *call_bus(Call *call);
Agent *call_agent(Call *call);

/* The vtable's entry for handler `name`. */
#define CALL_ENTRY(name)                                                               \
        static int on_##name(sd_bus_message *m, void *userdata, sd_bus_error *error) { \
                return call_begin(userdata, m, name, error);                           \
        }

/* ---- answers: all return 0 and consume the call ---- */

int call_send(Call *call, sd_bus_message *reply, size_t bytes); /* bytes: about how large */
int call_return(Call *call, const char *types, ...);
int call_fail(Call *call, const char *error, const char *format, ...) _printf_(3, 4);
int call_fail_errno(Call *call, int r);

/* ---- checks: false after having answered the call ---- */

bool call_path(Call *call, const char *path);  /* of a subtree */
bool call_entry(Call *call, const char *path); /* of an entry */
bool call_flags(Call *call, uint64_t flags, uint64_t known);
bool call_may_watch(Call *call); /* one watch more */
bool call_may(Call *call, GuardAction action, const char *path);
/* For administration: goes on with `handler`, now or when polkit has agreed. */
int call_authorized(Call *call, GuardAction action, CallHandler handler);

/* ---- waiting ---- */

/* Goes on with `look` when the tree may be looked at: now, or when it is so. */
int call_read(Call *call, uint32_t flags, uint64_t min_revision, uint64_t timeout_usec, CallHandler look);
/* Answers with the revision when the command is applied here. */
int call_request(Call *call, const Command *command, uint64_t timeout_usec);
/* Failure of a request, in words for call->path. */
int call_fail_request(Call *call, const RequestAnswer *answer);
/* The RequestDone of call_request(), for others who answer with a revision. */
void call_done(const RequestAnswer *answer, void *userdata);

/* register.c: the caller is gone before his fd was handed out. */
void registration_abandon(Registration *registration);

/* A wait that the agent cannot be told to forget: points at the call as long as there is one. */
struct Detached {
        Call *call;
};
Detached *call_detach(Call *call);       /* NULL: out of memory */
Call *detached_take(Detached *detached); /* frees it; NULL when the call is gone */
