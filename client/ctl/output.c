/* See output.h. */
#include "output.h"

#include <langinfo.h>
#include <libsmartcols.h>
#include <locale.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agent/base/path.h"

#define CELL_BYTES_MAX 1024u

#define GREEN  "\033[32m"
#define YELLOW "\033[33m"
#define RED    "\033[31m"
#define GREY   "\033[90m"

/* ---- The terminal ---- */

static bool wants_color(bool tty) {
        const char *colors = getenv("SYSTEMD_COLORS"), *no = getenv("NO_COLOR"), *term = getenv("TERM");

        if (colors && *colors)
                return strcmp(colors, "0") != 0 && strcasecmp(colors, "no") != 0 &&
                       strcasecmp(colors, "false") != 0;
        if (no && *no)
                return false;
        return tty && !(term && strcmp(term, "dumb") == 0);
}

Output output_new(const CommandLine *cl) {
        bool tty = isatty(STDOUT_FILENO) > 0;

        (void)setlocale(LC_ALL, "");
        return (Output){
                .json = cl->json_auto ? (tty ? JSON_LONG : JSON_SHORT) : cl->json,
                .tty = tty,
                .color = wants_color(tty),
                .utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0,
                .legend = !cmdline_given(cl, OPTION_NO_LEGEND),
                .full = cmdline_given(cl, OPTION_FULL),
                .quiet = cmdline_given(cl, OPTION_QUIET),
        };
}

const char *color_state(const char *text) {
        static const struct {
                const char *word, *color;
        } words[] = {
                {"running", GREEN},      {"idle", GREEN},         {"registered", GREEN}, {"done", GREEN},
                {"leader", GREEN},       {"settling", YELLOW},    {"waiting", YELLOW},   {"joining", YELLOW},
                {"candidate", YELLOW},   {"no-quorum", YELLOW},   {"failed", RED},       {"broken", RED},
                {"damaged", RED},        {"halted", RED},         {"no-tree", RED},      {"diverged", RED},
                {"disk-full", RED},      {"removed", RED},        {"quarantined", RED},  {"inactive", GREY},
                {"registering", YELLOW}, {"withdrawing", YELLOW},
        };
        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (strcmp(text, words[i].word) == 0)
                        return words[i].color;
        return NULL;
}

const char *color_flag(const char *text) {
        return strcmp(text, "yes") == 0 ? GREEN : GREY;
}

/* ---- Bytes ---- */

/* Is byte i of one of U+0080 to U+009F (0xc2, 0x80…0x9f)? They steer terminals, too. */
static bool in_c1(const uint8_t *p, size_t i, size_t size) {
        if (p[i] == 0xc2)
                return i + 1 < size && p[i + 1] < 0xa0;
        return i > 0 && p[i - 1] == 0xc2 && p[i] >= 0x80 && p[i] < 0xa0;
}

char *escape_bytes(const void *data, size_t size, size_t max_bytes) {
        const uint8_t *p = data;
        bool text = utf8_is_valid(data, size), cut = max_bytes > 0 && size > max_bytes;
        char *escaped, *q;

        if (cut)
                for (size = max_bytes; text && size > 0 && (p[size] & 0xc0) == 0x80;)
                        size--; /* not within a character */
        escaped = q = malloc(4 * size + sizeof("…"));
        if (!escaped)
                return NULL;
        for (size_t i = 0; i < size; i++)
                if (p[i] == '\n')
                        q = stpcpy(q, "\\n");
                else if (p[i] == '\t')
                        q = stpcpy(q, "\\t");
                else if (p[i] == '\\')
                        q = stpcpy(q, "\\\\");
                else if (p[i] < 0x20 || p[i] == 0x7f || (p[i] >= 0x80 && !text) || in_c1(p, i, size))
                        q += sprintf(q, "\\x%02x", p[i]);
                else
                        *q++ = (char)p[i];
        q = stpcpy(q, cut ? "…" : "");
        return escaped;
}

static char *base64(const uint8_t *p, size_t size) {
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        char *text = malloc(4 * (size / 3 + 1) + 1), *q = text;

        if (!text)
                return NULL;
        for (size_t i = 0; i < size; i += 3) {
                size_t left = size - i;
                uint32_t v = (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) |
                             (left > 2 ? p[i + 2] : 0);
                *q++ = digits[v >> 18];
                *q++ = digits[v >> 12 & 63];
                *q++ = left > 1 ? digits[v >> 6 & 63] : '=';
                *q++ = left > 2 ? digits[v & 63] : '=';
        }
        *q = 0;
        return text;
}

int json_set_bytes(json_t *object, const char *key, const void *data, size_t size) {
        _cleanup_(freep) char *encoded = NULL;
        char name[64];

        if (utf8_is_valid(data, size))
                return json_object_set_new(object, key, json_stringn(data, size)) < 0 ? -ENOMEM : 0;
        encoded = base64(data, size);
        snprintf(name, sizeof(name), "%s_base64", key);
        return !encoded || json_object_set_new(object, name, json_string(encoded)) < 0 ? -ENOMEM : 0;
}

json_t *json_u64(uint64_t n) {
        return n > INT64_MAX ? json_null() : json_integer((json_int_t)n);
}

int output_json(const Output *output, const json_t *value) {
        size_t flags = JSON_ENCODE_ANY | (output->json == JSON_LONG ? JSON_INDENT(4) : JSON_COMPACT);

        if (json_dumpf(value, stdout, flags) < 0 || putchar('\n') < 0 || fflush(stdout) != 0)
                return -EIO;
        return 0;
}

/* ---- Tables ---- */

static char *array_text(const json_t *array) {
        char *text = NULL;
        size_t size = 0, i;
        const json_t *item;
        FILE *f = open_memstream(&text, &size);

        if (!f)
                return NULL;
        json_array_foreach((json_t *)array, i, item) if (json_is_string(item))
                fprintf(f, "%s%s", i > 0 ? " " : "", json_string_value(item));
        return fclose(f) == 0 ? text : NULL;
}

/* What a cell shows. malloc()ed. */
static char *cell_text(const json_t *value, size_t max_bytes) {
        char *text = NULL;

        switch (value ? json_typeof(value) : JSON_NULL) {
        case JSON_STRING:
                return escape_bytes(json_string_value(value), json_string_length(value), max_bytes);
        case JSON_INTEGER:
                return asprintf(&text, "%" JSON_INTEGER_FORMAT, json_integer_value(value)) < 0 ? NULL : text;
        case JSON_TRUE:
                return strdup("yes");
        case JSON_FALSE:
                return strdup("no");
        case JSON_ARRAY:
                return array_text(value);
        case JSON_NULL:
        case JSON_REAL:
        case JSON_OBJECT:
                break;
        }
        return strdup("-");
}

static struct libscols_table *table_new(const Output *output, const Column *columns, size_t n) {
        struct libscols_table *table = scols_new_table();

        if (!table)
                return NULL;
        scols_table_enable_noheadings(table, !output->legend);
        scols_table_enable_colors(table, output->color);
        for (size_t i = 0; i < n; i++) {
                bool shorten = columns[i].shorten && output->tty && !output->full;
                int flags = (columns[i].right ? SCOLS_FL_RIGHT : 0) | (shorten ? SCOLS_FL_TRUNC : 0);
                if (!scols_table_new_column(table, columns[i].title, shorten ? 0.2 : 0, flags)) {
                        scols_unref_table(table);
                        return NULL;
                }
        }
        return table;
}

static int fill_cell(const Output *output, struct libscols_line *line, size_t i, const Column *column,
                     const json_t *row) {
        _cleanup_(freep) char *text = NULL;
        const char *color;

        text = cell_text(json_object_get(row, column->key), output->full ? 0 : CELL_BYTES_MAX);
        if (!text)
                return -ENOMEM;
        color = column->color && output->color ? column->color(text) : NULL;
        if (color && scols_cell_set_color(scols_line_get_cell(line, i), color) < 0)
                return -ENOMEM;
        return scols_line_refer_data(line, i, TAKE(text)) < 0 ? -ENOMEM : 0;
}

static int print_table(struct libscols_table *table) {
        int r = scols_table_is_empty(table) ? 0 : scols_print_table(table);
        return r < 0 || fflush(stdout) != 0 ? -EIO : 0;
}

int output_rows(const Output *output, const json_t *rows, const Column *columns, size_t n_columns) {
        struct libscols_table *table;
        const json_t *row;
        size_t i;
        int r = 0;

        if (output->json != JSON_OFF)
                return output_json(output, rows);
        table = table_new(output, columns, n_columns);
        if (!table)
                return -ENOMEM;
        json_array_foreach((json_t *)rows, i, row) {
                struct libscols_line *line = scols_table_new_line(table, NULL);
                r = line ? 0 : -ENOMEM;
                for (size_t c = 0; r == 0 && c < n_columns; c++)
                        r = fill_cell(output, line, c, &columns[c], row);
                if (r < 0)
                        break;
        }
        if (r == 0)
                r = print_table(table);
        scols_unref_table(table);
        return r;
}

/* ---- Trees ---- */

typedef struct Leaf {
        const char *path;
        const json_t *row;
} Leaf;

/* Byte order, but with '/' before everything: what is below an entry follows it at once. */
static int leaf_compare(const void *a, const void *b) {
        const uint8_t *p = (const uint8_t *)((const Leaf *)a)->path,
                      *q = (const uint8_t *)((const Leaf *)b)->path;

        for (; *p && *p == *q; p++, q++)
                ;
        return (*p == '/' ? 1 : *p == 0 ? 0 : *p + 1) - (*q == '/' ? 1 : *q == 0 ? 0 : *q + 1);
}

static int print_leaf(const Output *output, const char *indent, const char *branch, const char *name,
                      size_t size, const json_t *row) {
        _cleanup_(freep) char *text = NULL;
        const json_t *value = row ? json_object_get(row, "value") : NULL;

        if (value) {
                text = cell_text(value, output->full ? 0 : 64);
                if (!text)
                        return -ENOMEM;
        }
        printf("%s%s%.*s%s%s\n", indent, branch, (int)size, name, row ? " = " : "/",
               row ? (text ? text : "(binary)") : "");
        return 0;
}

/* Prints leaves [begin, end), which share the first `at` bytes of their paths; the next component begins
 * there. As deep as a path has components: at most 512. */
static int print_branches(const Output *output, const Leaf *leaves, size_t begin, size_t end, size_t at,
                          const char *indent) {
        while (begin < end) {
                const char *name = leaves[begin].path + at;
                size_t size = strcspn(name, "/"), next = begin + 1;
                bool own = name[size] == 0;
                _cleanup_(freep) char *deeper = NULL;
                int r;

                while (next < end && strncmp(leaves[next].path + at, name, size) == 0 &&
                       (leaves[next].path[at + size] == '/' || leaves[next].path[at + size] == 0))
                        next++;
                const char *branch = output->utf8 ? (next < end ? "├─" : "└─") : (next < end ? "|-" : "`-");
                r = print_leaf(output, indent, branch, name, size, own ? leaves[begin].row : NULL);
                if (r < 0)
                        return r;
                if (asprintf(&deeper, "%s%s ", indent, next == end ? " " : output->utf8 ? "│" : "|") < 0)
                        return -ENOMEM;
                r = print_branches(output, leaves, own ? begin + 1 : begin, next, at + size + 1, deeper);
                if (r < 0)
                        return r;
                begin = next;
        }
        return 0;
}

int output_tree(const Output *output, const char *path, const json_t *rows) {
        _cleanup_(freep) Leaf *leaves = NULL;
        size_t i, n = json_array_size(rows), at = strcmp(path, "/") == 0 ? 1 : strlen(path) + 1;
        bool own;
        int r;

        if (output->json != JSON_OFF)
                return output_json(output, rows);
        leaves = calloc(n + 1, sizeof(*leaves));
        if (!leaves)
                return -ENOMEM;
        for (i = 0; i < n; i++) {
                leaves[i].row = json_array_get(rows, i);
                leaves[i].path = json_string_value(json_object_get(leaves[i].row, "path"));
                if (!leaves[i].path || strlen(leaves[i].path) + 1 < at)
                        return -EBADMSG;
        }
        qsort(leaves, n, sizeof(*leaves), leaf_compare);
        own = n > 0 && strcmp(leaves[0].path, path) == 0;
        r = print_leaf(output, "", "", path, strcmp(path, "/") == 0 ? 0 : strlen(path),
                       own ? leaves[0].row : NULL);
        if (r >= 0)
                r = print_branches(output, leaves, own ? 1 : 0, n, at, "");
        return r < 0 ? r : fflush(stdout) != 0 ? -EIO : 0;
}
