/* See unitfile.h. The rules, down to comments inside continued lines, are those of systemd's conf-parser;
 * where it gives up the file (a broken header) we give up the section. */
#include "unitfile.h"

#include <stdio.h>
#include <string.h>
#include "path.h"

static bool is_space(char c) {
        return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static char *strip(char *text) {
        while (is_space(*text))
                text++;
        size_t n = strlen(text);
        while (n > 0 && is_space(text[n - 1]))
                n--;
        text[n] = 0;
        return text;
}

/* ---- Lines ---- */

void unitfile_init(UnitFile *file, Bytes content) {
        *file = (UnitFile){.left = content, .line = 1, .too_large = content.size > UNITFILE_MAX_BYTES};
        if (content.size >= 3 && memcmp(content.data, "\xef\xbb\xbf", 3) == 0)
                file->left = BYTES(content.data + 3, content.size - 3);
}

void unitfile_deinit(UnitFile *file) {
        buffer_deinit(&file->text);
        *file = (UnitFile){};
}

/* The next line as it stands in the file, without its end. */
static Bytes take_line(UnitFile *file) {
        const uint8_t *end = memchr(file->left.data, '\n', file->left.size);
        size_t size = end ? (size_t)(end - file->left.data) : file->left.size;
        Bytes line = {file->left.data, size};

        size_t taken = size + (end ? 1 : 0);
        file->left = BYTES(file->left.data + taken, file->left.size - taken);
        file->line++;
        return line;
}

static bool is_comment(Bytes line) {
        size_t i = 0;
        while (i < line.size && is_space((char)line.data[i]))
                i++;
        return i < line.size && (line.data[i] == '#' || line.data[i] == ';');
}

static bool is_continued(Bytes line) {
        size_t n = 0;
        while (n < line.size && line.data[line.size - 1 - n] == '\\')
                n++;
        return n % 2 == 1;
}

/* Gathers one line with its continuations into `text`, at most one byte more than is allowed. */
static int gather(UnitFile *file, unsigned *ret_line) {
        bool continued = false;

        file->text.size = 0;
        *ret_line = file->line;
        while (file->left.size > 0) {
                Bytes line = take_line(file);
                if (is_comment(line)) {
                        if (continued)
                                continue;
                        break;
                }
                if (line.size > 0 && line.data[line.size - 1] == '\r')
                        line.size--;
                continued = is_continued(line);

                size_t room =
                        UNITFILE_LINE_BYTES + 1 - MIN(file->text.size, (size_t)UNITFILE_LINE_BYTES + 1);
                int r = buffer_append(&file->text, line.data, MIN(line.size, room));
                if (r < 0)
                        return r;
                if (!continued)
                        break;
                if (line.size <= room)
                        file->text.data[file->text.size - 1] = ' ';
        }
        return buffer_append(&file->text, "", 1);
}

/* ---- What a line says ---- */

static UnitFileKind problem(UnitFile *file, UnitFileItem *item, const char *text) {
        snprintf(file->problem, sizeof(file->problem), "%s", text);
        item->problem = file->problem;
        return UNITFILE_PROBLEM;
}

/* UNITFILE_END here means: nothing to tell, go on. */
static UnitFileKind header(UnitFile *file, char *text, UnitFileItem *item) {
        size_t n = strlen(text);

        file->section[0] = 0;
        file->broken_section = true;
        if (text[n - 1] != ']')
                return problem(file, item, "section header does not end with \"]\"; the section is skipped");
        if (n == 2)
                return problem(file, item, "section without a name; the section is skipped");
        if (n - 2 > UNITFILE_NAME_BYTES)
                return problem(file, item, "name of the section is too long; the section is skipped");

        memcpy(file->section, text + 1, n - 2);
        file->section[n - 2] = 0;
        file->broken_section = false;
        return UNITFILE_END;
}

static UnitFileKind assignment(UnitFile *file, char *text, UnitFileItem *item) {
        char *equal = strchr(text, '=');
        if (!equal)
                return problem(file, item, "no \"=\" in this line; the line is skipped");

        *equal = 0;
        item->key = strip(text);
        item->value = strip(equal + 1);
        if (item->key[0] == 0)
                return problem(file, item, "no key before \"=\"; the line is skipped");
        if (strlen(item->key) > UNITFILE_NAME_BYTES)
                return problem(file, item, "name of the key is too long; the line is skipped");
        if (file->section[0] == 0)
                return problem(file, item, "assignment outside of any section; the line is skipped");
        return UNITFILE_ASSIGNMENT;
}

static UnitFileKind judge(UnitFile *file, UnitFileItem *item) {
        size_t size = file->text.size - 1; /* without the NUL behind it */
        char *text = (char *)file->text.data;

        if (size > UNITFILE_LINE_BYTES)
                return file->broken_section
                               ? UNITFILE_END
                               : problem(file, item, "line is longer than 64 KiB; the line is skipped");
        if (!utf8_is_valid(text, size))
                return file->broken_section
                               ? UNITFILE_END
                               : problem(file, item, "line is not valid UTF-8; the line is skipped");

        text = strip(text);
        if (text[0] == 0)
                return UNITFILE_END;
        if (text[0] == '[')
                return header(file, text, item);
        if (file->broken_section)
                return UNITFILE_END;
        return assignment(file, text, item);
}

int unitfile_next(UnitFile *file, UnitFileItem *ret) {
        if (file->too_large) {
                file->too_large = false;
                file->left.size = 0;
                *ret = (UnitFileItem){.line = 1, .section = ""};
                return problem(file, ret, "file is larger than 1 MiB; it is skipped");
        }

        while (file->left.size > 0) {
                UnitFileItem item = {.section = file->section};
                int r = gather(file, &item.line);
                if (r < 0)
                        return r;
                UnitFileKind kind = judge(file, &item);
                if (kind != UNITFILE_END) {
                        *ret = item;
                        return kind;
                }
        }
        return UNITFILE_END;
}

/* ---- Words ---- */

static int hex_value(char c) {
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        if (c >= 'A' && c <= 'F')
                return c - 'A' + 10;
        return -1;
}

/* \xHH at p (behind the x): the byte, or -1. NUL is no byte of a text. */
static int hex_byte(const char *p) {
        int high = hex_value(p[0]);
        int low = high < 0 ? -1 : hex_value(p[1]);
        return low < 0 || (high == 0 && low == 0) ? -1 : high << 4 | low;
}

/* The character behind a backslash at *p; moves *p to its last byte. -1: no such escape. */
static int unescape(const char **p) {
        static const char from[] = "abfnrtvs\\\"'", to[] = "\a\b\f\n\r\t\v \\\"'";

        if (**p == 'x') {
                int c = hex_byte(*p + 1);
                *p += c < 0 ? 0 : 2;
                return c;
        }
        const char *found = **p ? strchr(from, **p) : NULL;
        return found ? to[found - from] : -1;
}

int unitfile_word(const char **text, char *to, size_t size) {
        const char *p = *text;
        char quote = 0;
        size_t n = 0;

        while (is_space(*p))
                p++;
        if (*p == 0) {
                *text = p;
                return 0;
        }
        for (; *p && (quote || !is_space(*p)); p++) {
                int c = (uint8_t)*p;
                if (quote && c == quote) {
                        quote = 0;
                        continue;
                }
                if (!quote && (c == '"' || c == '\'')) {
                        quote = (char)c;
                        continue;
                }
                if (c == '\\') {
                        p++;
                        c = unescape(&p);
                        if (c < 0)
                                return -EINVAL;
                }
                if (n + 1 >= size)
                        return -E2BIG;
                to[n++] = (char)c;
        }
        if (quote)
                return -EINVAL;
        to[n] = 0;
        *text = p;
        return utf8_is_valid(to, n) ? 1 : -EINVAL;
}

/* ---- Numbers and times ---- */

int unitfile_unsigned(const char *text, uint64_t max, uint64_t *ret) {
        uint64_t v = 0;

        if (*text == 0)
                return -EINVAL;
        for (; *text; text++) {
                if (*text < '0' || *text > '9')
                        return -EINVAL;
                if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *text - '0', &v))
                        return -ERANGE;
        }
        if (v > max)
                return -ERANGE;
        *ret = v;
        return 0;
}

static const struct {
        const char *name;
        uint64_t usec;
} time_units[] = {
        {"us", 1},
        {"usec", 1},
        {"µs", 1},
        {"ms", USEC_PER_MSEC},
        {"msec", USEC_PER_MSEC},
        {"s", USEC_PER_SEC},
        {"sec", USEC_PER_SEC},
        {"second", USEC_PER_SEC},
        {"seconds", USEC_PER_SEC},
        {"m", 60 * USEC_PER_SEC},
        {"min", 60 * USEC_PER_SEC},
        {"minute", 60 * USEC_PER_SEC},
        {"minutes", 60 * USEC_PER_SEC},
        {"h", 3600 * USEC_PER_SEC},
        {"hr", 3600 * USEC_PER_SEC},
        {"hour", 3600 * USEC_PER_SEC},
        {"hours", 3600 * USEC_PER_SEC},
        {"d", 86400 * USEC_PER_SEC},
        {"day", 86400 * USEC_PER_SEC},
        {"days", 86400 * USEC_PER_SEC},
        {"w", 7 * 86400 * USEC_PER_SEC},
        {"week", 7 * 86400 * USEC_PER_SEC},
        {"weeks", 7 * 86400 * USEC_PER_SEC},
};

static int time_unit(const char **text, uint64_t default_unit, uint64_t *ret) {
        const char *p = *text;
        size_t n = strcspn(p, " \t0123456789.");

        *text = p + n;
        if (n == 0) {
                *ret = default_unit;
                return *p == 0 || is_space(*p) ? 0 : -EINVAL;
        }
        for (size_t i = 0; i < ELEMENTSOF(time_units); i++)
                if (strlen(time_units[i].name) == n && memcmp(time_units[i].name, p, n) == 0) {
                        *ret = time_units[i].usec;
                        return 0;
                }
        return -EINVAL;
}

/* "12" or "1.5" at *text: whole part and millionths. */
static int decimal(const char **text, uint64_t *ret_whole, uint64_t *ret_millionths) {
        const char *p = *text;
        uint64_t whole = 0, fraction = 0, weight = 100000;
        size_t digits = 0;

        for (; *p >= '0' && *p <= '9'; p++, digits++)
                if (__builtin_mul_overflow(whole, 10, &whole) ||
                    __builtin_add_overflow(whole, *p - '0', &whole))
                        return -ERANGE;
        if (*p == '.')
                for (p++; *p >= '0' && *p <= '9'; p++, digits++, weight /= 10)
                        fraction += weight * (uint64_t)(*p - '0');
        if (digits == 0)
                return -EINVAL;
        *text = p;
        *ret_whole = whole;
        *ret_millionths = fraction;
        return 0;
}

int unitfile_usec(const char *text, uint64_t default_unit_usec, uint64_t *ret) {
        const char *p = text + strspn(text, " \t");
        uint64_t sum = 0;

        if (strcmp(p, "infinity") == 0) {
                *ret = USEC_INFINITY;
                return 0;
        }
        if (*p == 0)
                return -EINVAL;
        for (; *p; p += strspn(p, " \t")) {
                uint64_t whole, millionths, unit, part;
                int r = decimal(&p, &whole, &millionths);
                if (r < 0)
                        return r;
                p += strspn(p, " \t");
                r = time_unit(&p, default_unit_usec, &unit);
                if (r < 0)
                        return r;
                uint64_t small = unit / 1000000 * millionths + unit % 1000000 * millionths / 1000000;
                if (__builtin_mul_overflow(whole, unit, &part) ||
                    __builtin_add_overflow(part, small, &part) || __builtin_add_overflow(sum, part, &sum) ||
                    sum == USEC_INFINITY)
                        return -ERANGE;
        }
        *ret = sum;
        return 0;
}

/* ---- Specifiers ---- */

/* A bounded string that grows to the right. */
typedef struct Out {
        char *to;
        size_t size;
        size_t n;
} Out;

static int out_put(Out *out, const char *text, size_t n) {
        if (n >= out->size - out->n)
                return -E2BIG;
        memcpy(out->to + out->n, text, n);
        out->n += n;
        out->to[out->n] = 0;
        return 0;
}

/* systemd's unescaping of unit names: '-' is a slash, \xHH a byte. */
static int out_put_unescaped(Out *out, const char *text, size_t n) {
        for (size_t i = 0; i < n; i++) {
                char c = text[i] == '-' ? '/' : text[i];
                if (c == '\\') {
                        int byte = n - i >= 4 && text[i + 1] == 'x' ? hex_byte(text + i + 2) : -1;
                        if (byte < 0)
                                return -EINVAL;
                        c = (char)byte;
                        i += 3;
                }
                int r = out_put(out, &c, 1);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int expand_one(char specifier, const UnitFileNames *names, Out *out) {
        const char *unit = names->unit;
        const char *dot = strrchr(unit, '.'), *at = strchr(unit, '@');
        size_t stem = dot ? (size_t)(dot - unit) : strlen(unit);
        if (at && (size_t)(at - unit) > stem)
                at = NULL;
        size_t prefix = at ? (size_t)(at - unit) : stem;
        const char *instance = at ? at + 1 : "";
        size_t n_instance = at ? stem - prefix - 1 : 0;

        switch (specifier) {
        case 'n':
                return out_put(out, unit, strlen(unit));
        case 'N':
                return out_put(out, unit, stem);
        case 'p':
                return out_put(out, unit, prefix);
        case 'i':
                return out_put(out, instance, n_instance);
        case 'I':
                return out_put_unescaped(out, instance, n_instance);
        case 'H':
                return out_put(out, names->host_name, strlen(names->host_name));
        case 'm':
                return out_put(out, names->machine_id, strlen(names->machine_id));
        case '%':
                return out_put(out, "%", 1);
        }
        return -EINVAL;
}

int unitfile_expand(const char *text, const UnitFileNames *names, char *to, size_t size) {
        assert(size > 0);
        Out out = {.to = to, .size = size};

        to[0] = 0;
        for (; *text; text++) {
                int r;
                if (*text == '%')
                        r = expand_one(*++text, names, &out);
                else
                        r = out_put(&out, text, 1);
                if (r < 0)
                        return r;
        }
        return utf8_is_valid(to, out.n) ? 0 : -EINVAL;
}

/* ---- Drop-ins ---- */

static int compare_dropins(const void *a, const void *b) {
        const UnitFileDropIn *x = a, *y = b;
        int r = strcmp(x->name, y->name);
        return r != 0 ? r : (x->rank > y->rank) - (x->rank < y->rank);
}

size_t unitfile_order(UnitFileDropIn *dropins, size_t n) {
        size_t kept = 0;
        const char *last = "";

        if (n > 0)
                qsort(dropins, n, sizeof(*dropins), compare_dropins);
        for (size_t i = 0; i < n; i++) {
                bool hidden = strcmp(dropins[i].name, last) == 0;
                last = dropins[i].name;
                if (hidden || dropins[i].masked)
                        continue;
                UnitFileDropIn taken = dropins[i];
                dropins[i] = dropins[kept];
                dropins[kept++] = taken;
        }
        return kept;
}
