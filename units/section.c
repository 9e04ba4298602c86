/* See section.h. */
#include "section.h"

#include <stdarg.h>
#include <stdio.h>
#include "agent/base/limits.h"
#include "agent/base/path.h"

#define SETTLE_DEFAULT_USEC (200 * USEC_PER_MSEC)
#define SETTLE_MAX_USEC     (60 * USEC_PER_SEC)
#define WORD_BYTES          2048

static const char *const action_names[] = {
        [ACTION_NONE] = "",
        [ACTION_START] = "start",
        [ACTION_RELOAD] = "reload",
        [ACTION_RESTART] = "restart",
        [ACTION_RELOAD_OR_RESTART] = "reload-or-restart",
};

const char *action_name(Action action) {
        return action_names[action];
}

void section_init(Section *section) {
        *section = (Section){.settle_usec = SETTLE_DEFAULT_USEC};
}

void section_deinit(Section *section) {
        free(section->where);
        free(section->mistake);
        free(section->service);
        free(section->address);
        words_clear(&section->warnings);
        words_clear(&section->watch);
        words_clear(&section->texts);
        words_clear(&section->properties);
        *section = (Section){};
}

/* The first mistake counts: a person repairs one after another, and later ones may only follow from it. */
static int mistake(Section *section, const char *where, const char *format, ...) _printf_(3, 4);
static int mistake(Section *section, const char *where, const char *format, ...) {
        if (section->mistake)
                return 0;
        va_list ap;
        va_start(ap, format);
        int n = vasprintf(&section->mistake, format, ap);
        va_end(ap);
        if (n < 0) {
                section->mistake = NULL;
                return -ENOMEM;
        }
        text_mend(section->mistake);
        char *here = strdup(where); /* it may be section->where itself */
        free(section->where);
        section->where = here;
        return here ? 0 : -ENOMEM;
}

/* ---- Values: each setter says why not, or NULL ---- */

static const char out_of_memory[] = "out of memory";

static const char *set_text(char **to, const char *value) {
        free(*to);
        *to = strdup(value);
        return *to ? NULL : out_of_memory;
}

static const char *set_number(const char *value, uint64_t min, uint16_t *to) {
        uint64_t v;
        if (unitfile_unsigned(value, UINT16_MAX, &v) < 0 || v < min)
                return min > 0 ? "not a number from 1 to 65535" : "not a number from 0 to 65535";
        *to = (uint16_t)v;
        return NULL;
}

/* Splits into words first and expands specifiers then, so that no instance name can make two of one. */
static const char *add_words(Words *to, size_t max, const char *value, const UnitFileNames *names,
                             const char *(*check)(const char *word)) {
        char word[WORD_BYTES], expanded[WORD_BYTES];
        int r;

        while ((r = unitfile_word(&value, word, sizeof(word))) > 0) {
                r = unitfile_expand(word, names, expanded, sizeof(expanded));
                if (r == -E2BIG)
                        return "a word is too long (2 KiB at most)";
                if (r < 0)
                        return "only the specifiers %n %N %p %i %I %H %m %% are known";
                const char *why = check ? check(expanded) : NULL;
                if (why)
                        return why;
                if (words_has(to, expanded))
                        continue;
                if (to->n >= max)
                        return "too many";
                if (words_add(to, expanded) < 0)
                        return out_of_memory;
        }
        return r == -E2BIG ? "a word is too long (2 KiB at most)"
               : r < 0     ? "quotes or backslashes are wrong"
                           : NULL;
}

static const char *check_path(const char *word) {
        PathVerdict verdict = path_check(word);
        return verdict == PATH_OK ? NULL : path_verdict_text(verdict);
}

static const char *check_property(const char *word) {
        return word[0] != '=' && strchr(word, '=') ? NULL : "a property is KEY=VALUE";
}

static const char *set_watch(Section *section, const char *value, const UnitFileNames *names) {
        return add_words(&section->watch, SECTION_MAX_PATHS, value, names, check_path);
}
static void reset_watch(Section *section) {
        words_clear(&section->watch);
}

static const char *set_on_change(Section *section, const char *value, const UnitFileNames *names) {
        for (Action action = ACTION_START; action < ELEMENTSOF(action_names); action++)
                if (strcmp(value, action_names[action]) == 0) {
                        section->on_change = action;
                        return NULL;
                }
        return "neither start, reload, restart nor reload-or-restart";
}
static void reset_on_change(Section *section) {
        section->on_change = ACTION_NONE;
}

static const char *set_settle(Section *section, const char *value, const UnitFileNames *names) {
        uint64_t usec;
        if (unitfile_usec(value, USEC_PER_SEC, &usec) < 0 || usec > SETTLE_MAX_USEC)
                return "not a time span of at most 1min, as in 200ms or 2s";
        section->settle_usec = usec;
        return NULL;
}
static void reset_settle(Section *section) {
        section->settle_usec = SETTLE_DEFAULT_USEC;
}

static const char *set_service(Section *section, const char *value, const UnitFileNames *names) {
        char expanded[WORD_BYTES];
        if (unitfile_expand(value, names, expanded, sizeof(expanded)) < 0)
                return "only the specifiers %n %N %p %i %I %H %m %% are known";
        if (!name_is_valid(expanded))
                return "not a service name: letters, digits, \"-\", \"_\" and inner \".\", at most 64";
        return set_text(&section->service, expanded);
}
static void reset_service(Section *section) {
        free(TAKE(section->service));
}

static const char *set_address(Section *section, const char *value, const UnitFileNames *names) {
        char expanded[WORD_BYTES];
        if (unitfile_expand(value, names, expanded, sizeof(expanded)) < 0)
                return "only the specifiers %n %N %p %i %I %H %m %% are known";
        if (strlen(expanded) > LIMIT_ADDRESS_BYTES || strpbrk(expanded, " \t\"\\"))
                return "not an address";
        return set_text(&section->address, expanded);
}
static void reset_address(Section *section) {
        free(TAKE(section->address));
}

static const char *set_port(Section *section, const char *value, const UnitFileNames *names) {
        char expanded[WORD_BYTES]; /* Port=%i serves templates */
        if (unitfile_expand(value, names, expanded, sizeof(expanded)) < 0)
                return "not a number from 1 to 65535";
        return set_number(expanded, 1, &section->port);
}
static void reset_port(Section *section) {
        section->port = 0;
}

static const char *set_priority(Section *section, const char *value, const UnitFileNames *names) {
        section->has_priority = true;
        return set_number(value, 0, &section->priority);
}
static void reset_priority(Section *section) {
        section->has_priority = false;
        section->priority = 0;
}

static const char *set_weight(Section *section, const char *value, const UnitFileNames *names) {
        section->has_weight = true;
        return set_number(value, 0, &section->weight);
}
static void reset_weight(Section *section) {
        section->has_weight = false;
        section->weight = 0;
}

static const char *set_texts(Section *section, const char *value, const UnitFileNames *names) {
        return add_words(&section->texts, SECTION_MAX_TEXTS, value, names, NULL);
}
static void reset_texts(Section *section) {
        words_clear(&section->texts);
}

static const char *set_properties(Section *section, const char *value, const UnitFileNames *names) {
        return add_words(&section->properties, SECTION_MAX_PROPERTIES, value, names, check_property);
}
static void reset_properties(Section *section) {
        words_clear(&section->properties);
}

static const struct {
        const char *name;
        const char *(*set)(Section *section, const char *value, const UnitFileNames *names);
        void (*reset)(Section *section);
} keys[] = {
        {"Watch", set_watch, reset_watch},
        {"OnChange", set_on_change, reset_on_change},
        {"SettleSec", set_settle, reset_settle},
        {"Service", set_service, reset_service},
        {"Port", set_port, reset_port},
        {"Address", set_address, reset_address},
        {"Priority", set_priority, reset_priority},
        {"Weight", set_weight, reset_weight},
        {"Text", set_texts, reset_texts},
        {"Property", set_properties, reset_properties},
};

/* ---- Files ---- */

static int warn(Section *section, const char *where, const char *text, const char *key) {
        char line[8192];
        if (section->warnings.n >= SECTION_MAX_WARNINGS)
                return 0;
        snprintf(line, sizeof(line), "%s: %s%s", where, text, key);
        return words_add(&section->warnings, line);
}

static int assign(Section *section, const UnitFileNames *names, const char *where,
                  const UnitFileItem *item) {
        section->present = true;
        if (!section->where) {
                section->where = strdup(where);
                if (!section->where)
                        return -ENOMEM;
        }

        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                if (strcmp(keys[i].name, item->key) != 0)
                        continue;
                if (item->value[0] == 0) {
                        keys[i].reset(section);
                        return 0;
                }
                const char *why = keys[i].set(section, item->value, names);
                if (why == out_of_memory)
                        return -ENOMEM;
                return why ? mistake(section, where, "%s=%.200s: %s", item->key, item->value, why) : 0;
        }
        return strncmp(item->key, "X-", 2) == 0
                       ? 0
                       : warn(section, where, "unknown key in [" SECTION_NAME "] is ignored: ", item->key);
}

/* Lines that cannot be read matter only in our own section, and where the header itself may have been ours.
 */
static int note_problem(Section *section, const char *where, const UnitFileItem *item) {
        if (strcmp(item->section, SECTION_NAME) == 0) {
                section->present = true;
                return mistake(section, where, "%s", item->problem);
        }
        return item->section[0] == 0 ? warn(section, where, item->problem, "") : 0;
}

int section_feed(Section *section, const UnitFileNames *names, const char *path, Bytes content) {
        UnitFile file;
        UnitFileItem item;
        int r, kind;

        unitfile_init(&file, content);
        while ((kind = unitfile_next(&file, &item)) > UNITFILE_END) {
                char where[4096 + 16];
                snprintf(where, sizeof(where), "%s:%u", path, item.line);
                if (kind == UNITFILE_PROBLEM)
                        r = note_problem(section, where, &item);
                else if (strcmp(item.section, SECTION_NAME) == 0)
                        r = assign(section, names, where, &item);
                else
                        continue;
                if (r < 0) {
                        unitfile_deinit(&file);
                        return r;
                }
        }
        unitfile_deinit(&file);
        return kind;
}

int section_feed_unreadable(Section *section, const char *path, int error) {
        section->present = true;
        return mistake(section, path, "the file cannot be read: %s", strerror(abs(error)));
}

int section_finish(Section *section) {
        if (section->watch.n > 0 && section->on_change == ACTION_NONE)
                return mistake(section, section->where, "Watch= needs OnChange=");
        return 0;
}

bool section_has_trigger(const Section *section) {
        return !section->mistake && section->watch.n > 0;
}

bool section_has_service(const Section *section) {
        return !section->mistake && section->service;
}

static bool text_equal(const char *a, const char *b) {
        return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool words_equal(const Words *a, const Words *b) {
        if (a->n != b->n)
                return false;
        for (size_t i = 0; i < a->n; i++)
                if (strcmp(a->items[i], b->items[i]) != 0)
                        return false;
        return true;
}

bool section_equal(const Section *a, const Section *b) {
        return text_equal(a->mistake, b->mistake) && words_equal(&a->watch, &b->watch) &&
               a->on_change == b->on_change && a->settle_usec == b->settle_usec &&
               text_equal(a->service, b->service) && a->port == b->port && a->priority == b->priority &&
               a->has_priority == b->has_priority && a->weight == b->weight &&
               a->has_weight == b->has_weight && text_equal(a->address, b->address) &&
               words_equal(&a->texts, &b->texts) && words_equal(&a->properties, &b->properties);
}
