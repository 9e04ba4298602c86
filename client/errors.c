/* Own names have an errno each, so that a program can tell them apart; the rest follows sd-bus. */
#include "errors.h"

#include <string.h>
#include "agent/base/macros.h"

#define OURS "org.treaty1.Error."
#define BUS  "org.freedesktop.DBus.Error."

static const struct {
        const char *name;
        int number;
} errors[] = {
        {OURS "NoSuchEntry", ENOENT},
        {OURS "NoSuchService", ENOENT},
        {OURS "NoSuchToken", ENOENT},
        {OURS "InvalidRequest", ENOENT},
        {OURS "NoSuchMember", ESRCH},
        {OURS "Exists", EEXIST},
        {OURS "Conflict", ESTALE},
        {OURS "InvalidPath", EINVAL},
        {OURS "InvalidName", EINVAL},
        {OURS "TooLarge", EMSGSIZE},
        {OURS "NotText", EILSEQ},
        {OURS "NoQuorum", ENETDOWN},
        {OURS "Unknown", EINPROGRESS},
        {OURS "Timeout", ETIMEDOUT},
        {OURS "Busy", EBUSY},
        {OURS "Damaged", EUCLEAN},
        {OURS "SessionLost", EAGAIN},
        {OURS "DiskFull", ENOSPC},
        {OURS "NotMember", ENOLINK},
        {OURS "Stopping", ESHUTDOWN},
        {OURS "Halted", EROFS},
        {OURS "NoTree", EAGAIN},
        {OURS "LimitsExceeded", ENOBUFS},
        {OURS "InvalidToken", EBADMSG},
        {OURS "TokenExpired", EKEYEXPIRED},
        {OURS "TokenUsedUp", EKEYREJECTED},
        {OURS "NotEmpty", ENOTEMPTY},
        {OURS "AlreadyMember", EALREADY},
        {OURS "NameTaken", ENOTUNIQ},
        {OURS "Restarting", ERESTART},
        {OURS "Unreachable", EHOSTUNREACH},
        {OURS "LastVoter", EPERM},
        {BUS "AccessDenied", EACCES},
        {BUS "AuthFailed", EACCES},
        {BUS "InteractiveAuthorizationRequired", EACCES},
        {BUS "InvalidArgs", EINVAL},
        {BUS "InvalidSignature", EINVAL},
        {BUS "LimitsExceeded", ENOBUFS},
        {BUS "NoMemory", ENOMEM},
        {BUS "Timeout", ETIMEDOUT},
        {BUS "TimedOut", ETIMEDOUT},
        {BUS "NoReply", ECONNRESET},
        {BUS "Disconnected", ECONNRESET},
        {BUS "ServiceUnknown", ECONNREFUSED},
        {BUS "NameHasNoOwner", ECONNREFUSED},
        {BUS "NoServer", ECONNREFUSED},
        {"org.freedesktop.systemd1.NoSuchUnit", ECONNREFUSED},
        {"org.freedesktop.systemd1.UnitMasked", ECONNREFUSED},
        {BUS "UnknownMethod", EOPNOTSUPP},
        {BUS "UnknownInterface", EOPNOTSUPP},
        {BUS "UnknownObject", EOPNOTSUPP},
        {BUS "UnknownProperty", EOPNOTSUPP},
        {BUS "NotSupported", EOPNOTSUPP},
};

int error_errno(const char *name) {
        if (!name)
                return -EIO;
        for (size_t i = 0; i < ELEMENTSOF(errors); i++)
                if (strcmp(errors[i].name, name) == 0)
                        return -errors[i].number;
        /* The broker could not start the agent: "…Error.Spawn.ChildExited" and its siblings. */
        if (strncmp(name, BUS "Spawn.", strlen(BUS "Spawn.")) == 0)
                return -ECONNREFUSED;
        return -EIO;
}
