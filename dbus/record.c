/* See record.h. */
#include "record.h"

#include <string.h>

size_t record_write(const WatchEvent *event, uint8_t header[static RECORD_HEADER_BYTES],
                    struct iovec iov[static 4]) {
        size_t path_size = event->path ? strlen(event->path) : 0;
        size_t size = RECORD_HEADER_BYTES + path_size + event->value.size + event->previous.size;

        assert(size <= RECORD_BYTES_MAX && path_size <= LIMIT_PATH_BYTES);
        bytes_put_u32(header, (uint32_t)size);
        header[4] = (uint8_t)event->kind;
        header[5] = (uint8_t)((event->last ? RECORD_LAST : 0) | (event->had_previous ? RECORD_PREVIOUS : 0));
        header[6] = (uint8_t)path_size;
        header[7] = (uint8_t)(path_size >> 8);
        bytes_put_u64(header + 8, event->revision);
        bytes_put_u64(header + 16, event->create_revision);
        bytes_put_u64(header + 24, event->version);
        bytes_put_u32(header + 32, (uint32_t)event->value.size);
        bytes_put_u32(header + 36, (uint32_t)event->previous.size);
        iov[0] = (struct iovec){header, RECORD_HEADER_BYTES};
        iov[1] = (struct iovec){(void *)event->path, path_size};
        iov[2] = (struct iovec){(void *)event->value.data, event->value.size};
        iov[3] = (struct iovec){(void *)event->previous.data, event->previous.size};
        return size;
}
