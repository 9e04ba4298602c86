/* What a kept fd says of itself: its name in the fd store, and the packet in its queue. Both were written by
 * another process of this agent, perhaps of another version, and are looked at like any foreign bytes.
 *
 *      name:   own-<32 hex>
 *      packet: path NUL value */
#include "fdrecord.h"

#include <errno.h>
#include <string.h>
#include "agent/base/path.h"

bool fd_hex_is_valid(const char *hex) {
        return strlen(hex) == FD_HEX && strspn(hex, "0123456789abcdef") == FD_HEX;
}

const char *fd_name_read(const char *name) {
        size_t prefix = strlen(FD_NAME_PREFIX);
        return strncmp(name, FD_NAME_PREFIX, prefix) == 0 && fd_hex_is_valid(name + prefix) ? name + prefix
                                                                                            : NULL;
}

int fd_record_read(Bytes packet, const char **ret_path, Bytes *ret_value) {
        if (packet.size == 0 || packet.size > FD_RECORD_BYTES)
                return -EBADMSG;
        const char *path = (const char *)packet.data;
        const char *end = memchr(path, 0, packet.size);
        if (!end || path_check_entry(path) != PATH_OK)
                return -EBADMSG;
        *ret_path = path;
        *ret_value = BYTES(end + 1, packet.size - (size_t)(end + 1 - path));
        return 0;
}
