/* What the tool prints: rows are JSON objects, shown as a table or as JSON. One description serves both, so
 * that they cannot drift apart. Field names are those of the bus. */
#pragma once

#include <jansson.h>
#include "cmdline.h"

typedef struct Output {
        JsonMode json;
        bool tty, color, utf8;
        bool legend, full, quiet;
} Output;

/* Looks at the terminal, the locale, NO_COLOR and SYSTEMD_COLORS. */
Output output_new(const CommandLine *cl);

typedef struct Column {
        const char *key, *title;
        bool right, shorten;
        /* The escape sequence for a cell, or NULL. */
        const char *(*color)(const char *text);
} Column;

/* Prints an array of objects. */
int output_rows(const Output *output, const json_t *rows, const Column *columns, size_t n_columns);
/* The same for entries at and below path, by their "path" and "value". */
int output_tree(const Output *output, const char *path, const json_t *rows);
/* Prints one JSON value in one go, flushed: short or pretty. */
int output_json(const Output *output, const json_t *value);

/* "value": text, or "value_base64" when the bytes are not text. */
int json_set_bytes(json_t *object, const char *key, const void *data, size_t size);
json_t *json_u64(uint64_t n);
/* Bytes for a person's eyes, on one line: what is not printable as \n, \t, \\, \xNN; at most max_bytes of
 * them (0: all). malloc()ed. */
char *escape_bytes(const void *data, size_t size, size_t max_bytes);

const char *color_state(const char *text);
const char *color_flag(const char *text);
