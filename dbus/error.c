/* See error.h. */
#include "error.h"

#include <stdio.h>
#include <systemd/sd-bus.h>

static const sd_bus_error_map error_map[] = {
        SD_BUS_ERROR_MAP(ERROR_ALREADY_MEMBER, EISCONN),
        SD_BUS_ERROR_MAP(ERROR_BUSY, EBUSY),
        SD_BUS_ERROR_MAP(ERROR_CONFLICT, ESTALE),
        SD_BUS_ERROR_MAP(ERROR_DAMAGED, EUCLEAN),
        SD_BUS_ERROR_MAP(ERROR_DISK_FULL, ENOSPC),
        SD_BUS_ERROR_MAP(ERROR_EXISTS, EEXIST),
        SD_BUS_ERROR_MAP(ERROR_HALTED, EROFS),
        SD_BUS_ERROR_MAP(ERROR_NO_TREE, EAGAIN),
        SD_BUS_ERROR_MAP(ERROR_INVALID_NAME, EINVAL),
        SD_BUS_ERROR_MAP(ERROR_INVALID_PATH, EINVAL),
        SD_BUS_ERROR_MAP(ERROR_INVALID_REQUEST, EINVAL),
        SD_BUS_ERROR_MAP(ERROR_INVALID_TOKEN, EKEYREJECTED),
        SD_BUS_ERROR_MAP(ERROR_LAST_VOTER, EBUSY),
        SD_BUS_ERROR_MAP(ERROR_NAME_TAKEN, ENOTUNIQ),
        SD_BUS_ERROR_MAP(ERROR_NOT_EMPTY, ENOTEMPTY),
        SD_BUS_ERROR_MAP(ERROR_NOT_MEMBER, ENOTCONN),
        SD_BUS_ERROR_MAP(ERROR_NOT_TEXT, EILSEQ),
        SD_BUS_ERROR_MAP(ERROR_NO_QUORUM, ENOLINK),
        SD_BUS_ERROR_MAP(ERROR_NO_SUCH_ENTRY, ENOENT),
        SD_BUS_ERROR_MAP(ERROR_NO_SUCH_MEMBER, ENXIO),
        SD_BUS_ERROR_MAP(ERROR_NO_SUCH_SERVICE, ENOENT),
        SD_BUS_ERROR_MAP(ERROR_RESTARTING, ERESTART),
        SD_BUS_ERROR_MAP(ERROR_SESSION_LOST, EAGAIN),
        SD_BUS_ERROR_MAP(ERROR_STOPPING, ESHUTDOWN),
        SD_BUS_ERROR_MAP(ERROR_TIMEOUT, ETIMEDOUT),
        SD_BUS_ERROR_MAP(ERROR_TOKEN_EXPIRED, EKEYEXPIRED),
        SD_BUS_ERROR_MAP(ERROR_TOKEN_USED_UP, EKEYREVOKED),
        SD_BUS_ERROR_MAP(ERROR_TOO_LARGE, EFBIG),
        SD_BUS_ERROR_MAP(ERROR_UNKNOWN, EINPROGRESS),
        SD_BUS_ERROR_MAP(ERROR_UNREACHABLE, EHOSTUNREACH),
        SD_BUS_ERROR_MAP_END,
};

void error_register(void) {
        (void)sd_bus_error_add_map(error_map);
}

const char *error_of_answer(Answer answer) {
        switch (answer) {
        case ANSWER_DONE:
        case ANSWER_REFUSED:
                break;
        case ANSWER_NO_QUORUM:
                return ERROR_NO_QUORUM;
        case ANSWER_UNKNOWN:
                return ERROR_UNKNOWN;
        case ANSWER_BUSY:
                return ERROR_BUSY;
        case ANSWER_DISK_FULL:
                return ERROR_DISK_FULL;
        case ANSWER_NOT_MEMBER:
                return ERROR_NOT_MEMBER;
        case ANSWER_TIMEOUT:
                return ERROR_TIMEOUT;
        case ANSWER_STOPPING:
                return ERROR_STOPPING;
        case ANSWER_HALTED:
                return ERROR_HALTED;
        case ANSWER_NO_TREE:
                return ERROR_NO_TREE;
        }
        return SD_BUS_ERROR_FAILED;
}

const char *error_of_result(ResultStatus status) {
        switch (status) {
        case RESULT_EXISTS:
                return ERROR_EXISTS;
        case RESULT_ABSENT:
                return ERROR_NO_SUCH_ENTRY;
        case RESULT_CONFLICT:
                return ERROR_CONFLICT;
        case RESULT_NO_SESSION:
                return ERROR_SESSION_LOST;
        case RESULT_DENIED:
                return SD_BUS_ERROR_ACCESS_DENIED;
        case RESULT_TOKEN_UNKNOWN:
        case RESULT_SIGNATURE_WRONG:
                return ERROR_INVALID_TOKEN;
        case RESULT_TOKEN_EXPIRED:
                return ERROR_TOKEN_EXPIRED;
        case RESULT_NO_MEMBER:
                return ERROR_NO_SUCH_MEMBER;
        case RESULT_NAME_TAKEN:
                return ERROR_NAME_TAKEN;
        case RESULT_LIMIT:
        case RESULT_TOO_MANY:
                return SD_BUS_ERROR_LIMITS_EXCEEDED;
        case RESULT_LAST_VOTER:
                return ERROR_LAST_VOTER;
        case RESULT_DONE:
        case RESULT_INVALID:
        case RESULT_STALE:
                break;
        }
        return SD_BUS_ERROR_FAILED;
}

static const char *result_text(ResultStatus status) {
        switch (status) {
        case RESULT_EXISTS:
                return "an entry is there already";
        case RESULT_ABSENT:
                return "there is no such entry";
        case RESULT_CONFLICT:
                return "the entry is not as the caller expected; read it again and decide anew";
        case RESULT_NO_SESSION:
                return "this host's session ended meanwhile; try again";
        case RESULT_DENIED:
                return "this host joined as a leaf, which may write only below /services/NAME/HOST and /hosts/HOST";
        case RESULT_TOKEN_UNKNOWN:
                return "the token was never made, is revoked or used up";
        case RESULT_TOKEN_EXPIRED:
                return "the token has expired; make a new one with \"treatyctl token\"";
        case RESULT_SIGNATURE_WRONG:
                return "the token is not genuine";
        case RESULT_NO_MEMBER:
                return "there is no such member; see \"treatyctl members\"";
        case RESULT_NAME_TAKEN:
                return "another member has that name";
        case RESULT_LIMIT:
                return "the cluster holds as many of these as it may";
        case RESULT_TOO_MANY:
                return "more than 16,384 entries lie there and below; remove its parts one after the other";
        case RESULT_LAST_VOTER:
                return "it is the last voter; a cluster cannot be without one";
        case RESULT_DONE:
        case RESULT_INVALID:
        case RESULT_STALE:
                break;
        }
        return "the request was refused";
}

const char *error_of_join(JoinAnswer answer) {
        switch (answer) {
        case JOIN_DONE:
                break;
        case JOIN_INVALID_TOKEN:
                return ERROR_INVALID_TOKEN;
        case JOIN_TOKEN_EXPIRED:
                return ERROR_TOKEN_EXPIRED;
        case JOIN_TOKEN_USED:
                return ERROR_TOKEN_USED_UP;
        case JOIN_NOT_EMPTY:
                return ERROR_NOT_EMPTY;
        case JOIN_ALREADY:
                return ERROR_ALREADY_MEMBER;
        case JOIN_NAME_TAKEN:
                return ERROR_NAME_TAKEN;
        case JOIN_UNREACHABLE:
                return ERROR_UNREACHABLE;
        case JOIN_TIMEOUT:
                return ERROR_TIMEOUT;
        case JOIN_REFUSED:
                return SD_BUS_ERROR_ACCESS_DENIED;
        case JOIN_BUSY:
                return ERROR_BUSY;
        case JOIN_RESTARTS:
                return ERROR_RESTARTING;
        }
        return SD_BUS_ERROR_FAILED;
}

const char *error_of_request(const RequestAnswer *answer, const char *path, char *text, size_t size) {
        char id[REQUEST_ID_BYTES];
        const char *subject = path ? path : "The request";

        assert(answer->answer != ANSWER_DONE);
        if (answer->answer == ANSWER_REFUSED) {
                snprintf(text, size, "%s: %s.", subject, result_text(answer->result.status));
                return error_of_result(answer->result.status);
        }
        if (answer->answer == ANSWER_UNKNOWN)
                snprintf(text, size, "%s: %s: request %s", subject, answer_text(answer->answer),
                         request_id_write(id, answer->incarnation, answer->serial));
        else
                snprintf(text, size, "%s: %s.", subject, answer_text(answer->answer));
        return error_of_answer(answer->answer);
}
