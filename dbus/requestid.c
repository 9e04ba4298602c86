/* The name of a request for the world: its identity (incarnation, serial) within this host. See error.h. */
#include "error.h"

#include <inttypes.h>
#include <stdio.h>

char *request_id_write(char to[static REQUEST_ID_BYTES], uint64_t incarnation, uint64_t serial) {
        snprintf(to, REQUEST_ID_BYTES, "%016" PRIx64 ".%" PRIu64, incarnation, serial);
        return to;
}

static int digit(char c) {
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        return -1;
}

int request_id_parse(const char *text, uint64_t *ret_incarnation, uint64_t *ret_serial) {
        uint64_t incarnation = 0, serial = 0;

        for (int i = 0; i < 16; i++, text++) {
                int d = digit(*text);
                if (d < 0)
                        return -EINVAL;
                incarnation = incarnation << 4 | (uint64_t)d;
        }
        if (*text++ != '.' || *text < '1' || *text > '9')
                return -EINVAL;
        for (; *text; text++) {
                if (*text < '0' || *text > '9' || __builtin_mul_overflow(serial, UINT64_C(10), &serial) ||
                    __builtin_add_overflow(serial, (uint64_t)(*text - '0'), &serial))
                        return -EINVAL;
        }
        if (incarnation == 0)
                return -EINVAL;
        *ret_incarnation = incarnation;
        *ret_serial = serial;
        return 0;
}
