/* Reading a whole file, bounded, without ever waiting for what is no regular file. */
#pragma once

#include <unistd.h>
#include "agent/base/bytes.h"

/* 0; -ENOENT; -EFBIG: more than max; -EINVAL: no regular file (a device counts as empty: /dev/null masks).
 */
int file_read(int directory_fd, const char *path, size_t max, Buffer *ret);

static inline void fd_close(int *fd) {
        if (*fd >= 0)
                close(*fd);
        *fd = -1;
}
