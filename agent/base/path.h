/* Paths of entries look like absolute file paths: "/config/web/port". One parser judges all of them,
 * wherever they come from: UTF-8, absolute, no empty, "." or ".." segments, no trailing slash, no control
 * characters, at most LIMIT_PATH_BYTES. "/" alone names the whole tree: good for watches and lists, never
 * for an entry. */
#pragma once

#include "macros.h"

typedef enum PathVerdict {
        PATH_OK,
        PATH_EMPTY,
        PATH_RELATIVE,
        PATH_TOO_LONG,
        PATH_EMPTY_SEGMENT, /* "//" or a trailing slash */
        PATH_DOT_SEGMENT,   /* "." or ".." */
        PATH_NOT_UTF8,
        PATH_CONTROL_CHARACTER,
        PATH_IS_ROOT, /* only from path_check_entry() */
} PathVerdict;

PathVerdict path_check(const char *path);       /* for subtrees: "/" is fine */
PathVerdict path_check_entry(const char *path); /* for entries: "/" is not */
PathVerdict path_check_bytes(const void *path, size_t size);
const char *path_verdict_text(PathVerdict verdict); /* "is relative: …", for error messages */

/* Is `path` the subtree's own entry or below it? "/a" holds "/a" and "/a/b", not "/ab". */
bool path_is_below(const char *path, const char *subtree);

bool utf8_is_valid(const void *text, size_t size); /* no NUL inside */
bool name_is_valid(const char *name); /* host and service names: letters, digits, '-', '_', '.' inside */
