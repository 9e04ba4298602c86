/* See command.h: names for people. */
#include "command.h"

const char *command_kind_name(CommandKind kind) {
        switch (kind) {
        case COMMAND_EMPTY:
                return "empty";
        case COMMAND_ANNOUNCE:
                return "announce";
        case COMMAND_SET:
                return "set";
        case COMMAND_CREATE:
                return "create";
        case COMMAND_DELETE:
                return "delete";
        case COMMAND_ATTACH:
                return "attach";
        case COMMAND_END_SESSION:
                return "end-session";
        case COMMAND_ADD_TOKEN:
                return "add-token";
        case COMMAND_REMOVE_TOKEN:
                return "remove-token";
        case COMMAND_ADD_MEMBER:
                return "add-member";
        case COMMAND_REMOVE_MEMBER:
                return "remove-member";
        case COMMAND_UPDATE_MEMBER:
                return "update-member";
        case COMMAND_PRUNE:
                return "prune";
        case COMMAND_CHECK:
                return "check";
        }
        return "unknown";
}

const char *result_status_name(ResultStatus status) {
        switch (status) {
        case RESULT_DONE:
                return "done";
        case RESULT_EXISTS:
                return "exists";
        case RESULT_ABSENT:
                return "absent";
        case RESULT_CONFLICT:
                return "conflict";
        case RESULT_NO_SESSION:
                return "no-session";
        case RESULT_DENIED:
                return "denied";
        case RESULT_TOKEN_UNKNOWN:
                return "token-unknown";
        case RESULT_TOKEN_EXPIRED:
                return "token-expired";
        case RESULT_SIGNATURE_WRONG:
                return "signature-wrong";
        case RESULT_NO_MEMBER:
                return "no-member";
        case RESULT_NAME_TAKEN:
                return "name-taken";
        case RESULT_LIMIT:
                return "limit";
        case RESULT_INVALID:
                return "invalid";
        case RESULT_STALE:
                return "stale";
        case RESULT_TOO_MANY:
                return "too-many";
        case RESULT_LAST_VOTER:
                return "last-voter";
        }
        return "unknown";
}
