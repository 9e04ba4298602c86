/* See path.h. */
#include "path.h"

#include <string.h>
#include "limits.h"

/* The length of the UTF-8 sequence at p, 0 when it is not well-formed (Unicode 15, table 3-7). */
static size_t utf8_sequence(const uint8_t *p, size_t left) {
        if (p[0] < 0x80)
                return p[0] != 0;

        size_t n = p[0] >= 0xc2 && p[0] <= 0xdf   ? 2
                   : p[0] >= 0xe0 && p[0] <= 0xef ? 3
                   : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4
                                                  : 0;
        if (n == 0 || n > left)
                return 0;
        for (size_t i = 1; i < n; i++)
                if ((p[i] & 0xc0) != 0x80)
                        return 0;
        if (p[0] == 0xe0 && p[1] < 0xa0) /* overlong */
                return 0;
        if (p[0] == 0xed && p[1] > 0x9f) /* surrogates */
                return 0;
        if (p[0] == 0xf0 && p[1] < 0x90) /* overlong */
                return 0;
        if (p[0] == 0xf4 && p[1] > 0x8f) /* above U+10FFFF */
                return 0;
        return n;
}

bool utf8_is_valid(const void *text, size_t size) {
        const uint8_t *p = text;
        for (size_t i = 0; i < size;) {
                size_t n = utf8_sequence(p + i, size - i);
                if (n == 0)
                        return false;
                i += n;
        }
        return true;
}

static PathVerdict segment_check(const char *segment, size_t size) {
        if (size == 0)
                return PATH_EMPTY_SEGMENT;
        if ((size == 1 && segment[0] == '.') || (size == 2 && segment[0] == '.' && segment[1] == '.'))
                return PATH_DOT_SEGMENT;
        for (size_t i = 0; i < size; i++)
                if ((uint8_t)segment[i] < 0x20 || segment[i] == 0x7f)
                        return PATH_CONTROL_CHARACTER;
        return PATH_OK;
}

PathVerdict path_check_bytes(const void *data, size_t size) {
        const char *path = data;

        if (size == 0)
                return PATH_EMPTY;
        if (path[0] != '/')
                return PATH_RELATIVE;
        if (size > LIMIT_PATH_BYTES)
                return PATH_TOO_LONG;
        if (memchr(path, 0, size))
                return PATH_CONTROL_CHARACTER;
        if (!utf8_is_valid(path, size))
                return PATH_NOT_UTF8;
        if (size == 1)
                return PATH_OK;

        for (size_t begin = 1; begin <= size;) {
                const char *slash = memchr(path + begin, '/', size - begin);
                size_t end = slash ? (size_t)(slash - path) : size;
                PathVerdict verdict = segment_check(path + begin, end - begin);
                if (verdict != PATH_OK)
                        return verdict;
                begin = end + 1;
                if (slash && begin == size)
                        return PATH_EMPTY_SEGMENT;
        }
        return PATH_OK;
}

PathVerdict path_check(const char *path) {
        return path_check_bytes(path, strnlen(path, LIMIT_PATH_BYTES + 1));
}

PathVerdict path_check_entry(const char *path) {
        PathVerdict verdict = path_check(path);
        if (verdict == PATH_OK && path[1] == 0)
                return PATH_IS_ROOT;
        return verdict;
}

const char *path_verdict_text(PathVerdict verdict) {
        switch (verdict) {
        case PATH_OK:
                return "is fine";
        case PATH_EMPTY:
                return "is empty; a path begins with \"/\"";
        case PATH_RELATIVE:
                return "is relative; a path begins with \"/\"";
        case PATH_TOO_LONG:
                return "is longer than 1024 bytes";
        case PATH_EMPTY_SEGMENT:
                return "has an empty segment (\"//\" or a slash at the end)";
        case PATH_DOT_SEGMENT:
                return "has a \".\" or \"..\" segment";
        case PATH_NOT_UTF8:
                return "is not valid UTF-8";
        case PATH_CONTROL_CHARACTER:
                return "has a control character";
        case PATH_IS_ROOT:
                return "is the root, which holds no value";
        }
        assert(!"unreachable");
        return NULL;
}

bool path_is_below(const char *path, const char *subtree) {
        size_t n = strlen(subtree);
        if (n == 1)
                return true;
        return strncmp(path, subtree, n) == 0 && (path[n] == 0 || path[n] == '/');
}

bool name_is_valid(const char *name) {
        size_t n = strnlen(name, LIMIT_NAME_BYTES + 1);
        if (n == 0 || n > LIMIT_NAME_BYTES || name[0] == '.' || name[n - 1] == '.')
                return false;
        for (size_t i = 0; i < n; i++) {
                char c = name[i];
                bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                            c == '-' || c == '_' || c == '.';
                if (!good)
                        return false;
        }
        return true;
}
