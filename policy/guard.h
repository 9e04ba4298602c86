/* The guard at the front door: who may do what. Closed by default; a pure function of the caller and the
 * wish, so that every rule can be tested without a bus.
 *
 * The first rules, in the order they are asked:
 *      1  root of this host may do everything
 *      2  any local user may read /services, and what Cluster tells in public (members, state)
 *      3  administration of the cluster by others: polkit decides, where the caller can be named to it
 *      4  nothing else
 * The agent's own user gets nothing extra: whoever breaks into a program that runs as `treaty` is a local
 * user. */
#pragma once

#include <sys/types.h>
#include "agent/base/macros.h"

/* Invariant: nothing but `known` may be looked at while known is false. */
typedef struct Caller {
        bool known;  /* an unknown caller may do nothing */
        bool on_bus; /* has a unique name there, so that polkit can be asked about it */
        uid_t uid;
        pid_t pid; /* 0: unknown */
        size_t n_gids;
        gid_t *gids;
} Caller;

void caller_deinit(Caller *caller);

typedef enum GuardAction {
        GUARD_READ,           /* an entry or a subtree, at `path` */
        GUARD_WRITE,          /* at `path` */
        GUARD_OUTCOME,        /* of a request */
        GUARD_REGISTER_UNIT,  /* speak for units: treaty-units */
        GUARD_CLUSTER_READ,   /* members and state */
        GUARD_CLUSTER_MANAGE, /* token, join, remove, hand over, scrub */
        GUARD_LOG_LEVEL,
} GuardAction;

typedef enum GuardVerdict {
        GUARD_ALLOW = 0,
        GUARD_DENY = 1,
        GUARD_ASK = 2, /* polkit decides, action org.treaty1.manage-cluster */
} GuardVerdict;

/* `path` is only looked at for READ and WRITE; it has passed path_check(). */
int guard_check(const Caller *caller, GuardAction action, const char *path);

/* Who was refused what, and the rule that would allow it; for the error message. */
void guard_explain(const Caller *caller, GuardAction action, const char *path, char *to, size_t size);
