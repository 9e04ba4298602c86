/* Options (a{sv}) that a method knows, as a table: name, type, place. Unknown names, names given twice and
 * wrong types are refused, so that a misspelt condition never makes an unconditional write. */
#pragma once

#include <systemd/sd-bus.h>
#include "agent/base/macros.h"

/* Types: 't' → uint64_t, 'u' → uint32_t, 'q' → uint16_t, 's' → const char * (of the message),
 * 'S' (as) and 'D' (a{ss}, flat: key, value, key, …) → char **, NULL-terminated, to be freed by strv_free().
 */
typedef struct Option {
        const char *name;
        char type;
        void *ret;
        bool *ret_given; /* may be NULL */
} Option;

/* 0; 1: refused, text says why; -errno. */
int options_read(sd_bus_message *m, const Option *options, size_t n, char *text, size_t size);

char **strv_free(char **strv); /* accepts NULL, returns NULL */
DEFINE_CLEANUP(char **, strv_free);
