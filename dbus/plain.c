/* See plain.h. A message, as the D-Bus specification draws it; numbers are little-endian here:
 *
 *      'l' type flags 1 | body size | serial | fields size | fields: (code, signature, value), each at a
 * multiple of 8 | padding to 8 | body */
#include "plain.h"

#include <string.h>

#define NAME "org.treaty1"
#define PATH "/org/treaty1"

enum { TYPE_CALL = 1 };
enum { FLAG_NO_AUTO_START = 2, FLAG_INTERACTIVE = 4 };
enum { FIELD_PATH = 1, FIELD_INTERFACE = 2, FIELD_MEMBER = 3, FIELD_DESTINATION = 6, FIELD_SIGNATURE = 8 };

typedef struct Cursor {
        const uint8_t *data;
        size_t size, at; /* at: counted from the message's begin, as alignment is */
        bool bad;
} Cursor;

static const uint8_t *take(Cursor *cursor, size_t n) {
        if (cursor->bad || n > cursor->size - cursor->at) {
                cursor->bad = true;
                return NULL;
        }
        const uint8_t *at = cursor->data + cursor->at;
        cursor->at += n;
        return at;
}

static void align(Cursor *cursor, size_t n) {
        while (!cursor->bad && cursor->at % n != 0) {
                const uint8_t *pad = take(cursor, 1);
                if (pad && *pad != 0)
                        cursor->bad = true;
        }
}

static uint32_t take_u32(Cursor *cursor) {
        align(cursor, 4);
        const uint8_t *at = take(cursor, 4);
        return at ? bytes_get_u32(at) : 0;
}

static uint64_t take_u64(Cursor *cursor) {
        align(cursor, 8);
        const uint8_t *at = take(cursor, 8);
        return at ? bytes_get_u64(at) : 0;
}

/* With its NUL; none inside, and nothing that would have to be looked at as UTF-8. */
static const char *take_text(Cursor *cursor, size_t n) {
        const uint8_t *at = n < cursor->size ? take(cursor, n + 1) : NULL;
        if (!at || at[n] != 0 || memchr(at, 0, n)) {
                cursor->bad = true;
                return "";
        }
        for (size_t i = 0; i < n; i++)
                if (at[i] >= 0x80)
                        cursor->bad = true;
        return (const char *)at;
}

typedef struct Fields {
        const char *path, *interface, *member, *destination, *signature;
} Fields;

static void read_field(Cursor *cursor, Fields *fields) {
        align(cursor, 8);
        const uint8_t *head = take(cursor, 4); /* code, and the signature of a single type */
        if (!head || head[1] != 1 || head[3] != 0) {
                cursor->bad = true;
                return;
        }
        const char **to = head[0] == FIELD_PATH          ? &fields->path
                          : head[0] == FIELD_INTERFACE   ? &fields->interface
                          : head[0] == FIELD_MEMBER      ? &fields->member
                          : head[0] == FIELD_DESTINATION ? &fields->destination
                          : head[0] == FIELD_SIGNATURE   ? &fields->signature
                                                         : NULL;
        char type = head[0] == FIELD_PATH ? 'o' : head[0] == FIELD_SIGNATURE ? 'g' : 's';
        if (!to || *to || head[2] != type) {
                cursor->bad = true;
                return;
        }
        if (type == 'g') {
                const uint8_t *n = take(cursor, 1);
                *to = n ? take_text(cursor, *n) : "";
        } else
                *to = take_text(cursor, take_u32(cursor));
}

static bool is(const char *text, const char *wanted) {
        return text && strcmp(text, wanted) == 0;
}

static bool read_fields(Cursor *cursor, size_t size, Plain *plain) {
        Fields fields = {};
        Cursor inner = {.data = cursor->data, .size = cursor->at + size, .at = cursor->at};

        while (!inner.bad && inner.at < inner.size)
                read_field(&inner, &fields);
        if (inner.bad || !is(fields.path, PATH) || !is(fields.interface, NAME ".Tree") ||
            (fields.destination && !is(fields.destination, NAME)))
                return false;
        plain->set = is(fields.member, "Set");
        cursor->at = inner.at;
        return plain->set ? is(fields.signature, "sayta{sv}")
                          : is(fields.member, "Get") && is(fields.signature, "sta{sv}");
}

static void read_body(Cursor *cursor, Plain *plain) {
        plain->path = take_text(cursor, take_u32(cursor));
        if (plain->set) {
                uint32_t n = take_u32(cursor);
                plain->value = BYTES(take(cursor, n), n);
        }
        plain->flags = take_u64(cursor);
        if (take_u32(cursor) != 0) /* options */
                cursor->bad = true;
        align(cursor, 8);
}

bool plain_read(const uint8_t *data, size_t size, Plain *ret) {
        Cursor cursor = {.data = data, .size = size};
        const uint8_t *head = take(&cursor, 4);
        uint32_t body = take_u32(&cursor), serial = take_u32(&cursor), fields = take_u32(&cursor);

        if (cursor.bad || head[0] != 'l' || head[1] != TYPE_CALL ||
            (head[2] & ~(FLAG_NO_AUTO_START | FLAG_INTERACTIVE)) != 0 || head[3] != 1 || serial == 0 ||
            fields > PLAIN_BYTES || body > PLAIN_BYTES)
                return false;
        size_t begin = 16 + ((fields + 7) & ~(size_t)7);
        if (begin + body > size)
                return false;

        *ret = (Plain){.size = begin + body, .serial = serial};
        cursor.size = begin + body;
        if (!read_fields(&cursor, fields, ret))
                return false;
        align(&cursor, 8);
        read_body(&cursor, ret);
        return !cursor.bad && cursor.at == cursor.size;
}
