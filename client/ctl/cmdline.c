/* See cmdline.h. */
#include "cmdline.h"

#include <getopt.h>
#include <string.h>
#include "parse.h"

/* ---- Options ---- */

typedef enum Kind {
        KIND_FLAG,
        KIND_TEXT,
        KIND_MAYBE_TEXT, /* --value, --value=V */
        KIND_NUMBER,
        KIND_SPAN,
        KIND_JSON,
        KIND_REPEATED,
} Kind;

typedef struct Option {
        const char *name;
        char letter;
        Kind kind;
        uint64_t max; /* KIND_NUMBER */
        const char *argument;
        const char *help;
} Option;

static const Option options[N_OPTIONS] = {
        [OPTION_HELP] = {"help", 'h', KIND_FLAG, 0, NULL, "Show this help"},
        [OPTION_VERSION] = {"version", 0, KIND_FLAG, 0, NULL, "Show the version"},
        [OPTION_HOST] = {"host", 'H', KIND_TEXT, 0, "[USER@]HOST", "Ask the agent of another host, by ssh"},
        [OPTION_MACHINE] = {"machine", 'M', KIND_TEXT, 0, "CONTAINER", "Ask the agent of a local container"},
        [OPTION_TIMEOUT] = {"timeout", 0, KIND_SPAN, 0, "TIME",
                            "Give up after this time (\"5s\", \"2min\")"},
        [OPTION_JSON] = {"json", 0, KIND_JSON, 0, "MODE", "Print JSON: short, pretty or off"},
        [OPTION_JSON_AUTO] = {"", 'j', KIND_FLAG, 0, NULL,
                              "As --json=pretty on a terminal, else --json=short"},
        [OPTION_QUIET] = {"quiet", 'q', KIND_FLAG, 0, NULL, "Print nothing but what was asked for"},
        [OPTION_NO_PAGER] = {"no-pager", 0, KIND_FLAG, 0, NULL,
                             "No pager (there is none; for habit's sake)"},
        [OPTION_NO_LEGEND] = {"no-legend", 0, KIND_FLAG, 0, NULL, "No headings above tables"},
        [OPTION_FULL] = {"full", 'l', KIND_FLAG, 0, NULL, "Do not shorten what is long"},
        [OPTION_NO_ASK_PASSWORD] = {"no-ask-password", 0, KIND_FLAG, 0, NULL,
                                    "Do not let polkit ask for a password"},
        [OPTION_LINEARIZABLE] = {"linearizable", 0, KIND_FLAG, 0, NULL,
                                 "Ask the leader first: see every write acknowledged anywhere"},
        [OPTION_MIN_REVISION] = {"min-revision", 0, KIND_NUMBER, UINT64_MAX, "REVISION",
                                 "Wait until this host has applied that revision"},
        [OPTION_RECURSIVE] = {"recursive", 'r', KIND_FLAG, 0, NULL, "With everything below PATH"},
        [OPTION_VALUE] = {"value", 0, KIND_MAYBE_TEXT, 0, "VALUE",
                          "Values only; wait: until the value is VALUE"},
        [OPTION_NAMES] = {"names", 0, KIND_FLAG, 0, NULL, "Paths only, one a line"},
        [OPTION_IF_REVISION] = {"if-revision", 0, KIND_NUMBER, UINT64_MAX, "REVISION",
                                "Only if the entry's last change is of this revision (0: only if absent)"},
        [OPTION_FROM] = {"from", 0, KIND_NUMBER, UINT64_MAX - 1, "REVISION",
                         "Begin with the changes of this revision"},
        [OPTION_PREVIOUS] = {"previous", 0, KIND_FLAG, 0, NULL, "Print what was there before, too"},
        [OPTION_COUNT] = {"count", 'n', KIND_NUMBER, UINT64_MAX, "N", "End after N changes"},
        [OPTION_EXISTS] = {"exists", 0, KIND_FLAG, 0, NULL, "Until there is an entry at PATH"},
        [OPTION_ABSENT] = {"absent", 0, KIND_FLAG, 0, NULL, "Until there is no entry at PATH"},
        [OPTION_REVISION] = {"revision", 0, KIND_NUMBER, UINT64_MAX - 2, "REVISION",
                             "Until something changed after this revision (default: now)"},
        [OPTION_PORT] = {"port", 'p', KIND_NUMBER, UINT16_MAX, "PORT", "Port of the instance"},
        [OPTION_ADDRESS] =
                {"address", 0, KIND_REPEATED, 0, "ADDRESS",
                 "register: where it is reached; token: where joiners find this host (repeatable)"},
        [OPTION_PRIORITY] = {"priority", 0, KIND_NUMBER, UINT16_MAX, "N", "Lower is tried first"},
        [OPTION_WEIGHT] = {"weight", 0, KIND_NUMBER, UINT16_MAX, "N", "Share among equal priorities"},
        [OPTION_TTL] = {"ttl", 0, KIND_NUMBER, UINT32_MAX, "SECONDS",
                        "For how long clients may remember it"},
        [OPTION_TEXT] = {"text", 0, KIND_REPEATED, 0, "TEXT", "A line of text (repeatable)"},
        [OPTION_PROPERTY] = {"property", 0, KIND_REPEATED, 0, "KEY=VALUE", "A property (repeatable)"},
        [OPTION_SERVICES] = {"services", 0, KIND_FLAG, 0, NULL,
                             "Units that are registered services, instead"},
        [OPTION_EXPIRES] = {"expires", 0, KIND_SPAN, 0, "TIME", "How long it is good for (1h; at most 30d)"},
        [OPTION_USES] = {"uses", 0, KIND_NUMBER, 10000, "N", "How many hosts may join with it (1)"},
        [OPTION_CLASS] = {"class", 0, KIND_TEXT, 0, "CLASS", "What joins with it: member, or leaf"},
        [OPTION_REVOKE] = {"revoke", 0, KIND_FLAG, 0, NULL, "Withdraw TOKEN (or its id) instead"},
        [OPTION_DISCARD] = {"discard", 0, KIND_FLAG, 0, NULL, "Give up what the tree of this host holds"},
};

#define BIT OPTION_BIT
#define EVERYWHERE                                                                            \
        (BIT(OPTION_HELP) | BIT(OPTION_VERSION) | BIT(OPTION_HOST) | BIT(OPTION_MACHINE) |    \
         BIT(OPTION_TIMEOUT) | BIT(OPTION_JSON) | BIT(OPTION_JSON_AUTO) | BIT(OPTION_QUIET) | \
         BIT(OPTION_NO_PAGER) | BIT(OPTION_NO_LEGEND) | BIT(OPTION_FULL) | BIT(OPTION_NO_ASK_PASSWORD))

/* ---- Verbs ---- */

typedef struct Verb {
        const char *name;
        const char *args; /* for help */
        int min, max;     /* arguments */
        uint64_t options;
        const char *heading; /* of the group that begins here */
        const char *summary;
        const char *more;
} Verb;

static const Verb verbs[N_VERBS] = {
        [VERB_STATUS] = {"status", "", 0, 0, 0, "This host", "How this host and its cluster are (default)",
                         "Exit status 3 when there is no quorum or something is wrong."},
        [VERB_WAIT_ONLINE] = {"wait-online", "", 0, 0, 0, NULL, "Wait until there is quorum",
                              "--timeout= says for how long: 2min, or infinity."},
        [VERB_GET] =
                {"get", "PATH", 1, 1,
                 BIT(OPTION_LINEARIZABLE) | BIT(OPTION_MIN_REVISION) | BIT(OPTION_VALUE), "Entries",
                 "Print a value",
                 "The bytes as they are; a newline follows only on a terminal. Exit status 4 when there is "
                 "no\nentry (with -q: 3, and no words)."},
        [VERB_SET] = {"set", "PATH VALUE|-", 2, 2, BIT(OPTION_IF_REVISION), NULL, "Write a value",
                      "\"-\" reads it from standard input, at most 1 MiB. Prints the revision it made."},
        [VERB_CREATE] = {"create", "PATH VALUE|-", 2, 2, 0, NULL, "Write a value where there is none",
                         "Exit status 8 when there is an entry already."},
        [VERB_DELETE] = {"delete", "PATH", 1, 1, BIT(OPTION_RECURSIVE), NULL, "Remove an entry",
                         "Prints the revision it made."},
        [VERB_LIST] = {"list", "[PATH]", 0, 1,
                       BIT(OPTION_LINEARIZABLE) | BIT(OPTION_RECURSIVE) | BIT(OPTION_VALUE) |
                               BIT(OPTION_NAMES),
                       NULL, "List what is directly below PATH",
                       "What only has entries below it ends in \"/\"."},
        [VERB_TREE] = {"tree", "[PATH]", 0, 1, BIT(OPTION_LINEARIZABLE), NULL,
                       "Show all entries below as a tree", NULL},
        [VERB_WATCH] =
                {"watch", "[PATH]", 0, 1, BIT(OPTION_FROM) | BIT(OPTION_PREVIOUS) | BIT(OPTION_COUNT), NULL,
                 "Follow changes at and below PATH",
                 "One line per change: REVISION put|delete PATH VALUE. Goes on when the agent restarts. "
                 "When\nhistory does not reach back far enough, says so (REVISION compacted) and goes on "
                 "from there."},
        [VERB_WAIT] = {"wait", "PATH", 1, 1,
                       BIT(OPTION_VALUE) | BIT(OPTION_EXISTS) | BIT(OPTION_ABSENT) | BIT(OPTION_REVISION),
                       NULL, "Wait until an entry is as asked, or changes",
                       "Without a condition: until something changes at or below PATH. Prints the revision. "
                       "Waits for\never unless --timeout= is given; then exit status 7."},
        [VERB_OUTCOME] =
                {"outcome", "REQUEST", 1, 1, 0, NULL, "What became of a write whose fate was unknown",
                 "Prints applied REVISION, never, undecided or too-old; exit status 3 unless applied."},
        [VERB_SERVICES] = {"services", "[NAME]", 0, 1, 0, "Services and units", "List registered instances",
                           NULL},
        [VERB_RESOLVE] = {"resolve", "NAME", 1, 1, 0, NULL, "Where to connect to for a service",
                          "In the order in which to try them. Exit status 4 when there is none."},
        [VERB_REGISTER] = {"register", "NAME [-- COMMAND [ARG…]]", 1, 1000000,
                           BIT(OPTION_PORT) | BIT(OPTION_ADDRESS) | BIT(OPTION_PRIORITY) |
                                   BIT(OPTION_WEIGHT) | BIT(OPTION_TTL) | BIT(OPTION_TEXT) |
                                   BIT(OPTION_PROPERTY),
                           NULL, "Be an instance of a service until stopped, or while COMMAND runs",
                           "With COMMAND its exit status is ours (128 + N when signal N ended it)."},
        [VERB_TRIGGERS] = {"triggers", "", 0, 0, BIT(OPTION_SERVICES), NULL,
                           "Units of this host that follow the tree, and how that went", NULL},
        [VERB_TOKEN] = {"token", "| token --revoke TOKEN", 0, 1,
                        BIT(OPTION_EXPIRES) | BIT(OPTION_USES) | BIT(OPTION_CLASS) | BIT(OPTION_ADDRESS) |
                                BIT(OPTION_REVOKE),
                        "Cluster", "Make a token with which another host can join",
                        "It is a secret: whoever has it can add a host."},
        [VERB_JOIN] = {"join", "TOKEN|-", 1, 1, BIT(OPTION_DISCARD), NULL, "Make this host a member", NULL},
        [VERB_MEMBERS] = {"members", "", 0, 0, 0, NULL, "List the hosts of the cluster", NULL},
        [VERB_REMOVE] = {"remove", "HOST", 1, 1, 0, NULL, "Remove a host from the cluster",
                         "HOST: name or id. Its connections and ephemeral entries end at once."},
        [VERB_TRANSFER] = {"transfer", "[HOST]", 0, 1, 0, NULL, "Hand leadership to another host", NULL},
        [VERB_SCRUB] = {"scrub", "", 0, 0, 0, NULL, "Read all of this host's tree again, from the disk",
                        "Exit status 0 when every row is as it was written. Else the host fetches its tree "
                        "again from\nanother voter by itself."},
};

const char *cmdline_verb_name(VerbId verb) {
        return verbs[verb].name;
}

/* ---- Parsing ---- */

#define LONG_BASE 1000 /* above every letter */

static void fill_getopt(struct option longs[static N_OPTIONS + 1], char letters[static 3 * N_OPTIONS + 2]) {
        size_t n_longs = 0, n = 0;

        letters[n++] = ':';
        for (int i = 0; i < N_OPTIONS; i++) {
                const Option *o = &options[i];
                int has = o->kind == KIND_FLAG         ? no_argument
                          : o->kind == KIND_MAYBE_TEXT ? optional_argument
                                                       : required_argument;
                if (*o->name)
                        longs[n_longs++] = (struct option){o->name, has, NULL, LONG_BASE + i};
                if (o->letter) {
                        letters[n++] = o->letter;
                        if (has == required_argument)
                                letters[n++] = ':';
                }
        }
        longs[n_longs] = (struct option){0};
        letters[n] = 0;
}

static int find_option(int c) {
        if (c >= LONG_BASE)
                return c - LONG_BASE;
        for (int i = 0; i < N_OPTIONS; i++)
                if (options[i].letter == c)
                        return i;
        return -1;
}

static int take_json(CommandLine *cl, const char *text) {
        static const struct {
                const char *word;
                JsonMode mode;
        } words[] = {{"off", JSON_OFF}, {"short", JSON_SHORT}, {"pretty", JSON_LONG}};

        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (strcmp(text, words[i].word) == 0) {
                        cl->json = words[i].mode;
                        cl->json_auto = false;
                        return 0;
                }
        return -EINVAL;
}

static int take_option(CommandLine *cl, OptionId id, const char *text) {
        cl->given |= OPTION_BIT(id);
        cl->text[id] = text;
        switch (options[id].kind) {
        case KIND_FLAG:
                cl->json_auto = cl->json_auto || id == OPTION_JSON_AUTO;
                return 0;
        case KIND_TEXT:
        case KIND_MAYBE_TEXT:
                return 0;
        case KIND_NUMBER:
                return parse_number(text, options[id].max, &cl->number[id]);
        case KIND_SPAN:
                return parse_span(text, &cl->number[id]);
        case KIND_JSON:
                return take_json(cl, text);
        case KIND_REPEATED:
                if (cl->n_repeated >= GIVEN_MAX)
                        return -E2BIG;
                cl->repeated_id[cl->n_repeated] = id;
                cl->repeated[cl->n_repeated++] = text;
                return 0;
        }
        return -EINVAL;
}

static const char *problem(int error) {
        return error == -ERANGE ? "is too large" : error == -E2BIG ? "is given too often" : "is not valid";
}

static int find_verb(const char *name) {
        for (int i = 0; i < N_VERBS; i++)
                if (strcmp(verbs[i].name, name) == 0)
                        return i;
        return -1;
}

static int take_verb(CommandLine *cl, char *why, size_t size) {
        if (cl->n_args == 0) {
                cl->verb = VERB_STATUS;
                return 0;
        }
        int verb = find_verb(cl->args[0]);
        if (verb < 0) {
                snprintf(why, size, "There is no command \"%s\": see \"treatyctl --help\"", cl->args[0]);
                return -EINVAL;
        }
        cl->verb = (VerbId)verb;
        cl->named = true;
        cl->args++;
        cl->n_args--;
        return 0;
}

static int check_options(const CommandLine *cl, char *why, size_t size) {
        uint64_t strange = cl->given & ~(verbs[cl->verb].options | EVERYWHERE);

        for (int i = 0; i < N_OPTIONS; i++)
                if (strange & OPTION_BIT(i)) {
                        snprintf(why, size, "\"%s\" does not take --%s: see \"treatyctl %s --help\"",
                                 verbs[cl->verb].name, options[i].name, verbs[cl->verb].name);
                        return -EINVAL;
                }
        if (cmdline_given(cl, OPTION_HOST) && cmdline_given(cl, OPTION_MACHINE)) {
                snprintf(why, size, "--host and --machine exclude each other");
                return -EINVAL;
        }
        return 0;
}

static int check_args(const CommandLine *cl, char *why, size_t size) {
        const Verb *verb = &verbs[cl->verb];

        if (cl->n_args >= verb->min && cl->n_args <= verb->max)
                return 0;
        snprintf(why, size, "Too %s arguments; it is: treatyctl %s %s",
                 cl->n_args < verb->min ? "few" : "many", verb->name, verb->args);
        return -EINVAL;
}

static int parse_options(CommandLine *cl, int argc, char **argv, char *why, size_t size) {
        struct option longs[N_OPTIONS + 1];
        char letters[3 * N_OPTIONS + 2];
        int c;

        fill_getopt(longs, letters);
        optind = 0; /* starts anew, for tests too */
        opterr = 0;
        while ((c = getopt_long(argc, argv, letters, longs, NULL)) >= 0) {
                const char *word = optind > 0 && optind <= argc ? argv[optind - 1] : "";
                if (c == '?' || c == ':') {
                        snprintf(why, size, "%s \"%s\": see \"treatyctl --help\"",
                                 c == ':' ? "There is no value for the option"
                                          : "There is no option such as",
                                 word);
                        return -EINVAL;
                }
                int id = find_option(c);
                assert(id >= 0);
                int r = take_option(cl, (OptionId)id, optarg);
                if (r < 0) {
                        snprintf(why, size, "--%s: \"%s\" %s", options[id].name, optarg, problem(r));
                        return -EINVAL;
                }
        }
        cl->args = argv + optind;
        cl->n_args = argc - optind;
        return 0;
}

int cmdline_parse(CommandLine *ret, int argc, char **argv, char *why, size_t size) {
        int r;

        *ret = (CommandLine){0};
        r = parse_options(ret, argc, argv, why, size);
        if (r < 0)
                return r;
        ret->help = cmdline_given(ret, OPTION_HELP);
        ret->version = cmdline_given(ret, OPTION_VERSION);
        r = take_verb(ret, why, size);
        if (r < 0 || ret->help || ret->version)
                return r;
        r = check_options(ret, why, size);
        return r < 0 ? r : check_args(ret, why, size);
}

/* ---- Help ---- */

static void help_option(FILE *f, OptionId id) {
        const Option *o = &options[id];
        char left[64], letter[4] = "  ";

        if (o->letter)
                snprintf(letter, sizeof(letter), "-%c", o->letter);
        snprintf(left, sizeof(left), "%s%s%s%s%s", *o->name ? "--" : "", o->name,
                 o->kind == KIND_MAYBE_TEXT ? "[="
                 : o->argument              ? "="
                                            : "",
                 o->argument ? o->argument : "", o->kind == KIND_MAYBE_TEXT ? "]" : "");
        fprintf(f, "  %s %-26s %s\n", letter, left, o->help);
}

static void help_options(FILE *f, uint64_t mask) {
        for (int i = 0; i < N_OPTIONS; i++)
                if (mask & OPTION_BIT(i))
                        help_option(f, (OptionId)i);
}

static void heading(FILE *f, const char *text, bool bold) {
        fprintf(f, "\n%s%s:%s\n", bold ? "\033[1m" : "", text, bold ? "\033[0m" : "");
}

void cmdline_help(FILE *f, bool bold) {
        fprintf(f,
                "treatyctl [OPTIONS…] COMMAND …\n\nAsk and change what the hosts of a treaty agree on.\n");
        for (int i = 0; i < N_VERBS; i++) {
                char left[64];
                if (verbs[i].heading)
                        heading(f, verbs[i].heading, bold);
                const char *args = i == VERB_REGISTER ? "NAME [-- COMMAND…]"
                                   : i == VERB_TOKEN  ? ""
                                                      : verbs[i].args;
                snprintf(left, sizeof(left), "%s %s", verbs[i].name, args);
                fprintf(f, "  %-29s %s\n", left, verbs[i].summary);
        }
        heading(f, "Options", bold);
        help_options(f, EVERYWHERE);
        fprintf(f, "\nOptions of one command: treatyctl COMMAND --help. All of it: man treatyctl.\n");
}

void cmdline_help_verb(FILE *f, VerbId id, bool bold) {
        const Verb *verb = &verbs[id];

        fprintf(f, "treatyctl %s%s%s %s\n\n%s.\n", verb->name, verb->options ? " [OPTIONS…]" : "", "",
                verb->args, verb->summary);
        if (verb->more)
                fprintf(f, "%s\n", verb->more);
        if (verb->options) {
                heading(f, "Options", bold);
                help_options(f, verb->options);
        }
        heading(f, "Options of all commands", bold);
        help_options(f, EVERYWHERE);
        fprintf(f, "\nSee treatyctl(1).\n");
}
