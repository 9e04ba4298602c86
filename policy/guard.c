/* See guard.h. */
#include "guard.h"

#include <stdio.h>
#include "agent/base/path.h"

#define PUBLIC_SUBTREE "/services"

void caller_deinit(Caller *caller) {
        free(caller->gids);
        *caller = (Caller){};
}

int guard_check(const Caller *caller, GuardAction action, const char *path) {
        if (!caller->known)
                return GUARD_DENY;
        if (caller->uid == 0)
                return GUARD_ALLOW;

        switch (action) {
        case GUARD_READ:
                return path && path_is_below(path, PUBLIC_SUBTREE) ? GUARD_ALLOW : GUARD_DENY;
        case GUARD_CLUSTER_READ:
                return GUARD_ALLOW;
        case GUARD_CLUSTER_MANAGE:
                return caller->on_bus ? GUARD_ASK : GUARD_DENY;
        case GUARD_WRITE:
        case GUARD_OUTCOME:
        case GUARD_REGISTER_UNIT:
        case GUARD_LOG_LEVEL:
                return GUARD_DENY;
        }
        return GUARD_DENY;
}

/* The wish, then the rule that decided. */
static const char *wish(GuardAction action) {
        switch (action) {
        case GUARD_READ:
                return "read";
        case GUARD_WRITE:
                return "write";
        case GUARD_OUTCOME:
                return "ask for the outcome of a request";
        case GUARD_REGISTER_UNIT:
                return "speak for units";
        case GUARD_CLUSTER_READ:
                return "read the state of the cluster";
        case GUARD_CLUSTER_MANAGE:
                return "administer the cluster";
        case GUARD_LOG_LEVEL:
                return "change the log level";
        }
        return "do that";
}

static const char *rule(const Caller *caller, GuardAction action) {
        switch (action) {
        case GUARD_READ:
                return "only root may read outside of " PUBLIC_SUBTREE ", which any local user may read";
        case GUARD_WRITE:
                return "only root may write";
        case GUARD_OUTCOME:
                return "only root may write, so only root has requests";
        case GUARD_REGISTER_UNIT:
                return "only root may";
        case GUARD_CLUSTER_READ:
                return "the caller is not known";
        case GUARD_CLUSTER_MANAGE:
                return caller->known && caller->on_bus
                               ? "only root may, and whom polkit allows org.treaty1.manage-cluster"
                               : "only root may on this socket; on the system bus polkit can allow "
                                 "org.treaty1.manage-cluster";
        case GUARD_LOG_LEVEL:
                return "only root may";
        }
        return "nothing allows it";
}

void guard_explain(const Caller *caller, GuardAction action, const char *path, char *to, size_t size) {
        bool names_path = path && (action == GUARD_READ || action == GUARD_WRITE);
        char who[48] = "An unknown caller";

        if (caller->known)
                snprintf(who, sizeof(who), "User %lu", (unsigned long)caller->uid);
        snprintf(to, size, "%s may not %s%s%s: %s.", who, wish(action), names_path ? " " : "",
                 names_path ? path : "", rule(caller, action));
}
