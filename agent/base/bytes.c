/* See bytes.h. CRC32C uses the processor's instruction where it has one and a table elsewhere; both give the
 * same. */
#include "bytes.h"

#include <string.h>

void buffer_deinit(Buffer *buffer) {
        free(buffer->data);
        *buffer = (Buffer){};
}

int buffer_reserve(Buffer *buffer, size_t more) {
        if (buffer->capacity - buffer->size >= more)
                return 0;
        if (more > SIZE_MAX / 4 || buffer->size > SIZE_MAX / 4)
                return -ENOMEM;

        size_t capacity = MAX(buffer->capacity * 2, buffer->size + more);
        uint8_t *data = realloc(buffer->data, MAX(capacity, (size_t)64));
        if (!data)
                return -ENOMEM;
        buffer->data = data;
        buffer->capacity = MAX(capacity, (size_t)64);
        return 0;
}

int buffer_append(Buffer *buffer, const void *data, size_t size) {
        int r = buffer_reserve(buffer, size);
        if (r < 0)
                return r;
        if (size > 0)
                memcpy(buffer->data + buffer->size, data, size);
        buffer->size += size;
        return 0;
}

int buffer_append_u32(Buffer *buffer, uint32_t v) {
        uint8_t b[4];
        bytes_put_u32(b, v);
        return buffer_append(buffer, b, sizeof(b));
}

int buffer_append_u64(Buffer *buffer, uint64_t v) {
        uint8_t b[8];
        bytes_put_u64(b, v);
        return buffer_append(buffer, b, sizeof(b));
}

void buffer_consume(Buffer *buffer, size_t size) {
        assert(size <= buffer->size);
        buffer->size -= size;
        if (buffer->size > 0)
                memmove(buffer->data, buffer->data + size, buffer->size);
}

char *hex_write(char *to, const void *data, size_t size) {
        static const char digits[] = "0123456789abcdef";
        const uint8_t *p = data;
        for (size_t i = 0; i < size; i++) {
                to[2 * i] = digits[p[i] >> 4];
                to[2 * i + 1] = digits[p[i] & 15];
        }
        to[2 * size] = 0;
        return to;
}

static int hex_digit(char c) {
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        if (c >= 'A' && c <= 'F')
                return c - 'A' + 10;
        return -1;
}

int hex_read(const char *text, void *ret, size_t size) {
        if (strlen(text) != 2 * size)
                return -EINVAL;
        uint8_t *p = ret;
        for (size_t i = 0; i < size; i++) {
                int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
                if (high < 0 || low < 0)
                        return -EINVAL;
                p[i] = (uint8_t)(high << 4 | low);
        }
        return 0;
}

static uint32_t crc32c_table(uint32_t crc, const uint8_t *p, size_t size) {
        static uint32_t table[256];
        static bool ready;
        if (!ready) {
                for (uint32_t i = 0; i < 256; i++) {
                        uint32_t c = i;
                        for (int k = 0; k < 8; k++)
                                c = c & 1 ? (c >> 1) ^ 0x82f63b78u : c >> 1;
                        table[i] = c;
                }
                __atomic_store_n(&ready, true, __ATOMIC_RELEASE);
        }
        while (size-- > 0)
                crc = (crc >> 8) ^ table[(crc ^ *p++) & 0xff];
        return crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const uint8_t *p, size_t size) {
        uint64_t c = crc;
        for (; size >= 8; size -= 8, p += 8) {
                uint64_t v;
                memcpy(&v, p, 8);
                c = __builtin_ia32_crc32di(c, v);
        }
        for (; size > 0; size--)
                c = __builtin_ia32_crc32qi((uint32_t)c, *p++);
        return (uint32_t)c;
}
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t size) {
        crc = ~crc;
#ifdef __x86_64__
        if (__builtin_cpu_supports("sse4.2"))
                return ~crc32c_sse42(crc, data, size);
#endif
        return ~crc32c_table(crc, data, size);
}
