/* The syntax of systemd's unit and configuration files (systemd.syntax(7)), for treaty.conf and for the
 * [X-Treaty] section of units. Pure: bytes go in, assignments come out one by one with the line they stand
 * on. What is wrong comes out the same way, as a problem in its place, and reading goes on behind it: one
 * bad line or section never hides the others.
 *
 *      # comment               ; comment, both only at the beginning of a line
 *      [Section]
 *      Key=value               spaces around key and value are not part of them
 *      List=a b
 *      List=c                  repeated keys append (the receiver does it) ...
 *      List=                   ... and an empty value begins the list anew
 *      Long=one \
 *      # a comment may stand inside
 *        two                   the backslash becomes a space
 *
 * A section with a broken header is skipped as a whole. */
#pragma once

#include "bytes.h"

#define UNITFILE_MAX_BYTES   (1024 * 1024) /* one file */
#define UNITFILE_LINE_BYTES  (64 * 1024)   /* one line, continuations included */
#define UNITFILE_NAME_BYTES  255           /* a section's or key's name */
#define UNITFILE_WORDS_BYTES 4096          /* one word of a list */

typedef enum UnitFileKind {
        UNITFILE_END,
        UNITFILE_ASSIGNMENT,
        UNITFILE_PROBLEM, /* see .problem; what it concerns is skipped */
} UnitFileKind;

/* Strings are valid until the next call of unitfile_next(). */
typedef struct UnitFileItem {
        unsigned line;       /* where the assignment begins, from 1 */
        const char *section; /* "" before the first header and under a broken one */
        const char *key;
        const char *value; /* UTF-8, no NUL, no line breaks */
        const char *problem;
} UnitFileItem;

typedef struct UnitFile {
        Bytes left;
        unsigned line; /* number of the line that begins at `left` */
        bool broken_section;
        bool too_large;
        char section[UNITFILE_NAME_BYTES + 1];
        char problem[128];
        Buffer text; /* the line that is being told */
} UnitFile;

/* `content` stays the caller's and must live as long as the reader. */
void unitfile_init(UnitFile *file, Bytes content);
void unitfile_deinit(UnitFile *file);
int unitfile_next(UnitFile *file, UnitFileItem *ret); /* UnitFileKind, -ENOMEM */

/* ---- Values ---- */

/* Takes the next word off *text: words are parted by spaces, '…' and "…" keep them together, a backslash
 * escapes as in C (\n \t \s \\ \" \' \xHH). 1: a word; 0: no more; -EINVAL: quotes or escapes are wrong;
 * -E2BIG: does not fit. */
int unitfile_word(const char **text, char *to, size_t size);

/* "5s 2min 100ms", "1.5s", "10" (of default_unit_usec), "infinity": systemd.time(7). 0, -EINVAL, -ERANGE. */
int unitfile_usec(const char *text, uint64_t default_unit_usec, uint64_t *ret);
int unitfile_unsigned(const char *text, uint64_t max, uint64_t *ret); /* decimal; 0, -EINVAL, -ERANGE */

/* What %-specifiers of a unit's values stand for. */
typedef struct UnitFileNames {
        const char *unit;       /* "foo@bar.service" */
        const char *host_name;  /* %H */
        const char *machine_id; /* %m */
} UnitFileNames;

/* Replaces %n %N %p %i %I %H %m %%. 0; -EINVAL: another specifier, or a name that cannot be unescaped;
 * -E2BIG: does not fit. */
int unitfile_expand(const char *text, const UnitFileNames *names, char *to, size_t size);

/* ---- Drop-ins ---- */

/* A file found in one of several directories. */
typedef struct UnitFileDropIn {
        unsigned rank; /* of its directory: the lowest wins among files of one name (0 = /etc) */
        bool masked;   /* a symlink to /dev/null: files of this name are not read, wherever they are */
        char *name;    /* "50-site.conf" */
        char *path;
} UnitFileDropIn;

/* Sorts as the files are to be read: by name over all directories; of one name only the lowest rank stays.
 * Returns how many are to be read; the rest follows behind them. */
size_t unitfile_order(UnitFileDropIn *dropins, size_t n);
