/* Bytes that one looks at (Bytes), bytes that grow (Buffer), and numbers in little endian. */
#pragma once

#include <endian.h>
#include <string.h>
#include "macros.h"

typedef struct Bytes {
        const uint8_t *data;
        size_t size;
} Bytes;

#define BYTES(d, s) ((Bytes){.data = (const uint8_t *)(d), .size = (s)})

static inline void bytes_put_u32(uint8_t *to, uint32_t v) {
        v = htole32(v);
        memcpy(to, &v, sizeof(v));
}

static inline void bytes_put_u64(uint8_t *to, uint64_t v) {
        v = htole64(v);
        memcpy(to, &v, sizeof(v));
}

static inline uint32_t bytes_get_u32(const uint8_t *from) {
        uint32_t v;
        memcpy(&v, from, sizeof(v));
        return le32toh(v);
}

static inline uint64_t bytes_get_u64(const uint8_t *from) {
        uint64_t v;
        memcpy(&v, from, sizeof(v));
        return le64toh(v);
}

/* Invariant: size <= capacity; all zero is an empty buffer. */
typedef struct Buffer {
        uint8_t *data;
        size_t size;
        size_t capacity;
} Buffer;

void buffer_deinit(Buffer *buffer);
int buffer_reserve(Buffer *buffer, size_t more); /* 0, -ENOMEM */
int buffer_append(Buffer *buffer, const void *data, size_t size);
int buffer_append_u32(Buffer *buffer, uint32_t v);
int buffer_append_u64(Buffer *buffer, uint64_t v);
void buffer_consume(Buffer *buffer, size_t size); /* drop from the front */

/* Lower-case hex; `to` has room for 2 * size + 1. The reverse takes exactly 2 * size digits: 0 or -EINVAL.
 */
char *hex_write(char *to, const void *data, size_t size);
int hex_read(const char *text, void *ret, size_t size);

/* CRC32C (Castagnoli), chained: pass the previous value, 0 to begin. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);
