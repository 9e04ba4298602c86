/* See file.h. */
#include "file.h"

#include <fcntl.h>
#include <sys/stat.h>

int file_read(int directory_fd, const char *path, size_t max, Buffer *ret) {
        _cleanup_(fd_close) int fd =
                openat(directory_fd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        struct stat st;
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (S_ISCHR(st.st_mode))
                return 0;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;

        for (;;) {
                int r = buffer_reserve(ret, 4096);
                if (r < 0)
                        return r;
                ssize_t n = read(fd, ret->data + ret->size, ret->capacity - ret->size);
                if (n < 0)
                        return -errno;
                if (n == 0)
                        return 0;
                ret->size += (size_t)n;
                if (ret->size > max)
                        return -EFBIG;
        }
}
