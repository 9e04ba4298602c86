/* See fdrecord.c. */
#pragma once

#include "agent/base/limits.h"
#include "agent/base/macros.h"
#include "agent/base/bytes.h"

#define FD_NAME_PREFIX  "own-"
#define FD_HEX          32
#define FD_RECORD_BYTES (LIMIT_PATH_BYTES + 1 + LIMIT_SERVICE_BYTES)

bool fd_hex_is_valid(const char *hex);
const char *fd_name_read(const char *name); /* its hex; NULL: not one of ours */
/* Both lie in the packet. 0, -EBADMSG. */
int fd_record_read(Bytes packet, const char **ret_path, Bytes *ret_value);
