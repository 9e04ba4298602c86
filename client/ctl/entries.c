/* get, set, create, delete, list, tree, outcome. */
#include "ctl.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

/* ---- Entries as JSON ---- */

static int set_u64(json_t *object, const char *key, uint64_t n) {
        return json_object_set_new(object, key, json_u64(n)) < 0 ? -ENOMEM : 0;
}

json_t *entry_json(const treaty_entry *entry, bool values) {
        _cleanup_(json_decrefp) json_t *row = json_object();

        if (!row || json_object_set_new(row, "path", json_string(entry->path)) < 0 ||
            (values && json_set_bytes(row, "value", entry->value, entry->value_size) < 0) ||
            set_u64(row, "create_revision", entry->create_revision) < 0 ||
            set_u64(row, "mod_revision", entry->mod_revision) < 0 ||
            set_u64(row, "version", entry->version) < 0)
                return NULL;
        return TAKE(row);
}

/* ---- get ---- */

static int print_entry(const Output *output, const treaty_entry *entry) {
        _cleanup_(json_decrefp) json_t *row = entry_json(entry, true);

        if (!row || set_u64(row, "revision", entry->revision) < 0 ||
            set_u64(row, "age_usec", entry->age_usec) < 0 ||
            (entry->owner && json_object_set_new(row, "owner", json_string(entry->owner)) < 0))
                return -ENOMEM;
        return output_json(output, row);
}

static int print_value(const Output *output, const treaty_entry *entry) {
        if (fwrite(entry->value, 1, entry->value_size, stdout) != entry->value_size)
                return -EIO;
        if (output->tty)
                putchar('\n');
        return fflush(stdout) == 0 ? 0 : -EIO;
}

ExitCode verb_get(Ctl *ctl) {
        _cleanup_(treaty_entry_freep) treaty_entry *entry = NULL;
        const CommandLine *cl = ctl->cl;
        unsigned flags = cmdline_given(cl, OPTION_LINEARIZABLE) ? TREATY_LINEARIZABLE : 0;
        int r = ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT);

        if (r >= 0)
                r = treaty_get(ctl->agent, cl->args[0], flags, cl->number[OPTION_MIN_REVISION], &entry);
        if (r == -ENOENT && ctl->output.quiet)
                return EXIT_NOT_SO;
        if (r < 0)
                return ctl_fail(ctl, r, "get", cl->args[0]);
        return ctl_printed(ctl->output.json != JSON_OFF ? print_entry(&ctl->output, entry)
                                                        : print_value(&ctl->output, entry));
}

/* ---- set, create, delete ---- */

static ExitCode print_revision(const Ctl *ctl, uint64_t revision) {
        if (ctl->output.json != JSON_OFF) {
                _cleanup_(json_decrefp) json_t *answer = json_object();
                if (!answer || set_u64(answer, "revision", revision) < 0)
                        return ctl_printed(-ENOMEM);
                return ctl_printed(output_json(&ctl->output, answer));
        }
        if (!ctl->output.quiet)
                printf("%" PRIu64 "\n", revision);
        return EXIT_OK;
}

/* All of standard input, if it fits into a value. */
static int read_stdin(char **ret, size_t *ret_size) {
        _cleanup_(freep) char *value = malloc(TREATY_VALUE_MAX + 1);
        size_t size = 0;

        if (!value)
                return -ENOMEM;
        while (size <= TREATY_VALUE_MAX) {
                ssize_t n = read(STDIN_FILENO, value + size, TREATY_VALUE_MAX + 1 - size);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0) {
                        *ret = TAKE(value);
                        *ret_size = size;
                        return 0;
                }
                size += (size_t)n;
        }
        return -EMSGSIZE;
}

typedef int (*WriteValue)(const Ctl *ctl, const char *path, const void *value, size_t size,
                          uint64_t *ret_revision);

static ExitCode write_value(Ctl *ctl, const char *doing, WriteValue write_it) {
        _cleanup_(freep) char *input = NULL;
        const char *path = ctl->cl->args[0], *value = ctl->cl->args[1];
        size_t size = strlen(value);
        uint64_t revision;
        int r;

        if (strcmp(value, "-") == 0) {
                r = read_stdin(&input, &size);
                if (r == -EMSGSIZE)
                        return ctl_complain(
                                EXIT_ERROR,
                                "Cannot %s %s: standard input has more than 1 MiB: store it elsewhere and "
                                "its place here",
                                doing, path);
                if (r < 0)
                        return ctl_complain(EXIT_ERROR, "Cannot read standard input: %s", strerror(-r));
                value = input;
        }
        r = ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT);
        if (r >= 0)
                r = write_it(ctl, path, value, size, &revision);
        return r < 0 ? ctl_fail(ctl, r, doing, path) : print_revision(ctl, revision);
}

static int set_value(const Ctl *ctl, const char *path, const void *value, size_t size,
                     uint64_t *ret_revision) {
        if (cmdline_given(ctl->cl, OPTION_IF_REVISION))
                return treaty_set_if(ctl->agent, path, value, size, ctl->cl->number[OPTION_IF_REVISION],
                                     ret_revision);
        return treaty_set(ctl->agent, path, value, size, ret_revision);
}

static int create_value(const Ctl *ctl, const char *path, const void *value, size_t size,
                        uint64_t *ret_revision) {
        return treaty_create(ctl->agent, path, value, size, ret_revision);
}

ExitCode verb_set(Ctl *ctl) {
        return write_value(ctl, "set", set_value);
}

ExitCode verb_create(Ctl *ctl) {
        return write_value(ctl, "create", create_value);
}

ExitCode verb_delete(Ctl *ctl) {
        const char *path = ctl->cl->args[0];
        unsigned flags = cmdline_given(ctl->cl, OPTION_RECURSIVE) ? TREATY_RECURSIVE : 0;
        uint64_t revision;
        int r = ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT);

        if (r >= 0)
                r = treaty_delete(ctl->agent, path, flags, &revision);
        return r < 0 ? ctl_fail(ctl, r, "delete", path) : print_revision(ctl, revision);
}

/* ---- list, tree ---- */

typedef struct Listing {
        json_t *rows;
        bool values, names; /* names: printed at once, one a line */
        bool only_values;
} Listing;

static int print_line(const void *data, size_t size, const char *end) {
        _cleanup_(freep) char *text = escape_bytes(data, size, 0);
        if (!text)
                return -ENOMEM;
        return printf("%s%s\n", text, end) < 0 ? -EIO : 0;
}

static int each_entry(const treaty_entry *entry, void *userdata) {
        Listing *listing = userdata;
        bool directory = entry->mod_revision == 0;
        json_t *row;

        if (listing->names)
                return print_line(entry->path, strlen(entry->path), directory ? "/" : "");
        if (listing->only_values)
                return directory ? 0 : print_line(entry->value, entry->value_size, "");
        row = entry_json(entry, listing->values && !directory);
        return !row || json_array_append_new(listing->rows, row) < 0 ? -ENOMEM : 0;
}

/* A table shows what is only a directory with a slash, and bytes that are not text as such. */
static void prepare_table(json_t *rows) {
        json_t *row;
        size_t i;

        json_array_foreach(rows, i, row) {
                char path[TREATY_PATH_MAX + 2];
                if (json_integer_value(json_object_get(row, "mod_revision")) == 0) {
                        snprintf(path, sizeof(path), "%s/", json_string_value(json_object_get(row, "path")));
                        json_object_set_new(row, "path", json_string(path));
                        json_object_set_new(row, "mod_revision", json_null());
                        json_object_set_new(row, "version", json_null());
                } else if (json_object_get(row, "value_base64"))
                        json_object_set_new(row, "value", json_string("(binary)"));
        }
}

static int fetch_list(Ctl *ctl, unsigned flags, Listing *listing, const char *path) {
        int r = ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT);
        if (r < 0)
                return r;
        if (cmdline_given(ctl->cl, OPTION_LINEARIZABLE))
                flags |= TREATY_LINEARIZABLE;
        return treaty_list(ctl->agent, path, flags, each_entry, listing, NULL);
}

/* The path to list; a slash at its end is a habit, not a mistake. */
static char *list_path(const CommandLine *cl) {
        char *path = strdup(cl->n_args > 0 ? cl->args[0] : "/");
        size_t size = path ? strlen(path) : 0;

        if (size > 1 && path[size - 1] == '/')
                path[size - 1] = 0;
        return path;
}

ExitCode verb_list(Ctl *ctl) {
        static const Column columns[] = {
                {"path", "PATH"},
                {"mod_revision", "REVISION", .right = true},
                {"version", "VERSION", .right = true},
                {"value", "VALUE", .shorten = true},
        };
        _cleanup_(json_decrefp) json_t *rows = json_array();
        _cleanup_(freep) char *path = list_path(ctl->cl);
        Listing listing = {
                .rows = rows,
                .names = cmdline_given(ctl->cl, OPTION_NAMES) && ctl->output.json == JSON_OFF,
                .only_values = cmdline_given(ctl->cl, OPTION_VALUE) && ctl->output.json == JSON_OFF,
                .values = !cmdline_given(ctl->cl, OPTION_NAMES),
        };
        unsigned flags = (cmdline_given(ctl->cl, OPTION_RECURSIVE) ? 0 : TREATY_CHILDREN) |
                         (listing.values ? 0 : TREATY_NO_VALUES);
        int r;

        if (!rows || !path)
                return ctl_printed(-ENOMEM);
        r = fetch_list(ctl, flags, &listing, path);
        if (r < 0)
                return ctl_fail(ctl, r, "list", path);
        if (listing.names || listing.only_values)
                return EXIT_OK;
        if (ctl->output.json == JSON_OFF)
                prepare_table(rows);
        return ctl_printed(output_rows(&ctl->output, rows, columns, ELEMENTSOF(columns)));
}

ExitCode verb_tree(Ctl *ctl) {
        _cleanup_(json_decrefp) json_t *rows = json_array();
        _cleanup_(freep) char *path = list_path(ctl->cl);
        Listing listing = {.rows = rows, .values = true};
        int r;

        if (!rows || !path)
                return ctl_printed(-ENOMEM);
        r = fetch_list(ctl, 0, &listing, path);
        if (r < 0)
                return ctl_fail(ctl, r, "list", path);
        return ctl_printed(output_tree(&ctl->output, path, rows));
}

/* ---- outcome ---- */

ExitCode verb_outcome(Ctl *ctl) {
        static const char *const words[] = {
                [TREATY_APPLIED] = "applied",
                [TREATY_NEVER] = "never",
                [TREATY_UNDECIDED] = "undecided",
                [TREATY_TOO_OLD] = "too-old",
        };
        treaty_fate fate;
        uint64_t revision;
        int r = ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT);

        if (r >= 0)
                r = treaty_outcome(ctl->agent, ctl->cl->args[0], &fate, &revision);
        if (r < 0)
                return ctl_fail(ctl, r, "ask for request", ctl->cl->args[0]);
        if (ctl->output.json != JSON_OFF) {
                _cleanup_(json_decrefp) json_t *answer = json_object();
                if (!answer || json_object_set_new(answer, "state", json_string(words[fate])) < 0 ||
                    set_u64(answer, "revision", revision) < 0)
                        return ctl_printed(-ENOMEM);
                r = output_json(&ctl->output, answer);
                if (r < 0)
                        return ctl_printed(r);
        } else if (fate == TREATY_APPLIED)
                printf("applied %" PRIu64 "\n", revision);
        else
                printf("%s\n", words[fate]);
        return fate == TREATY_APPLIED ? EXIT_OK : EXIT_NOT_SO;
}
