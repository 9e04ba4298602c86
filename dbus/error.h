/* Errors as the world sees them: org.treaty1.Error.*, with a text that says what happened, to which path,
 * and what to do. One place maps the agent's answers to them, so that equal trouble has one name everywhere.
 */
#pragma once

#include "agent/agent.h"
#include "agent/base/path.h"

#define ERROR_PREFIX "org.treaty1.Error."

#define ERROR_ALREADY_MEMBER  ERROR_PREFIX "AlreadyMember"
#define ERROR_BUSY            ERROR_PREFIX "Busy"
#define ERROR_CONFLICT        ERROR_PREFIX "Conflict"
#define ERROR_DAMAGED         ERROR_PREFIX "Damaged"
#define ERROR_DISK_FULL       ERROR_PREFIX "DiskFull"
#define ERROR_EXISTS          ERROR_PREFIX "Exists"
#define ERROR_HALTED          ERROR_PREFIX "Halted"
#define ERROR_NO_TREE         ERROR_PREFIX "NoTree"
#define ERROR_INVALID_NAME    ERROR_PREFIX "InvalidName"
#define ERROR_INVALID_PATH    ERROR_PREFIX "InvalidPath"
#define ERROR_INVALID_REQUEST ERROR_PREFIX "InvalidRequest"
#define ERROR_INVALID_TOKEN   ERROR_PREFIX "InvalidToken"
#define ERROR_LAST_VOTER      ERROR_PREFIX "LastVoter"
#define ERROR_NAME_TAKEN      ERROR_PREFIX "NameTaken"
#define ERROR_NOT_EMPTY       ERROR_PREFIX "NotEmpty"
#define ERROR_NOT_MEMBER      ERROR_PREFIX "NotMember"
#define ERROR_NOT_TEXT        ERROR_PREFIX "NotText"
#define ERROR_NO_QUORUM       ERROR_PREFIX "NoQuorum"
#define ERROR_NO_SUCH_ENTRY   ERROR_PREFIX "NoSuchEntry"
#define ERROR_NO_SUCH_MEMBER  ERROR_PREFIX "NoSuchMember"
#define ERROR_NO_SUCH_SERVICE ERROR_PREFIX "NoSuchService"
#define ERROR_RESTARTING      ERROR_PREFIX "Restarting"
#define ERROR_SESSION_LOST    ERROR_PREFIX "SessionLost"
#define ERROR_STOPPING        ERROR_PREFIX "Stopping"
#define ERROR_TIMEOUT         ERROR_PREFIX "Timeout"
#define ERROR_TOKEN_EXPIRED   ERROR_PREFIX "TokenExpired"
#define ERROR_TOKEN_USED_UP   ERROR_PREFIX "TokenUsedUp"
#define ERROR_TOO_LARGE       ERROR_PREFIX "TooLarge"
#define ERROR_UNKNOWN         ERROR_PREFIX "Unknown"
#define ERROR_UNREACHABLE     ERROR_PREFIX "Unreachable"

/* So that sd_bus_error_get_errno() knows them in this process. Once is enough, more does no harm. */
void error_register(void);

const char *error_of_answer(Answer answer);       /* not for DONE, REFUSED */
const char *error_of_result(ResultStatus status); /* not for DONE */
const char *error_of_join(JoinAnswer answer);     /* not for DONE */

/* What happened to a request that is not DONE, in words; `path` may be NULL. Returns the error's name.
 * Invariant: the text of Unknown ends in "request <16 hex digits>.<serial>". */
const char *error_of_request(const RequestAnswer *answer, const char *path, char *text, size_t size);

/* "<16 hex digits>.<decimal serial>", as in Unknown. */
int request_id_parse(const char *text, uint64_t *ret_incarnation, uint64_t *ret_serial); /* 0, -EINVAL */
#define REQUEST_ID_BYTES 40
char *request_id_write(char to[static REQUEST_ID_BYTES], uint64_t incarnation, uint64_t serial);
