/* The command line: one table of verbs, one of options, and what a verb takes of them. Whatever is not in
 * the tables is refused with words; help is printed from them. Nothing here talks to the agent. */
#pragma once

#include <stdio.h>
#include "agent/base/macros.h"

typedef enum VerbId {
        VERB_STATUS,
        VERB_WAIT_ONLINE,
        VERB_GET,
        VERB_SET,
        VERB_CREATE,
        VERB_DELETE,
        VERB_LIST,
        VERB_TREE,
        VERB_WATCH,
        VERB_WAIT,
        VERB_OUTCOME,
        VERB_SERVICES,
        VERB_RESOLVE,
        VERB_REGISTER,
        VERB_TRIGGERS,
        VERB_TOKEN,
        VERB_JOIN,
        VERB_MEMBERS,
        VERB_REMOVE,
        VERB_TRANSFER,
        VERB_SCRUB,
        N_VERBS,
} VerbId;

typedef enum OptionId {
        OPTION_HELP,
        OPTION_VERSION,
        OPTION_HOST,
        OPTION_MACHINE,
        OPTION_TIMEOUT,
        OPTION_JSON,
        OPTION_JSON_AUTO,
        OPTION_QUIET,
        OPTION_NO_PAGER,
        OPTION_NO_LEGEND,
        OPTION_FULL,
        OPTION_NO_ASK_PASSWORD,
        OPTION_LINEARIZABLE,
        OPTION_MIN_REVISION,
        OPTION_RECURSIVE,
        OPTION_VALUE,
        OPTION_NAMES,
        OPTION_IF_REVISION,
        OPTION_FROM,
        OPTION_PREVIOUS,
        OPTION_COUNT,
        OPTION_EXISTS,
        OPTION_ABSENT,
        OPTION_REVISION,
        OPTION_PORT,
        OPTION_ADDRESS,
        OPTION_PRIORITY,
        OPTION_WEIGHT,
        OPTION_TTL,
        OPTION_TEXT,
        OPTION_PROPERTY,
        OPTION_SERVICES,
        OPTION_EXPIRES,
        OPTION_USES,
        OPTION_CLASS,
        OPTION_REVOKE,
        OPTION_DISCARD,
        N_OPTIONS,
} OptionId;

#define OPTION_BIT(id) (UINT64_C(1) << (id))

typedef enum JsonMode { JSON_OFF, JSON_SHORT, JSON_LONG } JsonMode;

#define GIVEN_MAX 256u

/* Invariants: verb is set; number[] of a given option is valid; texts live as long as argv. */
typedef struct CommandLine {
        VerbId verb;
        bool named; /* the verb was on the line */
        bool help, version;
        uint64_t given; /* OPTION_BIT()s */
        const char *text[N_OPTIONS];
        uint64_t number[N_OPTIONS]; /* numbers, and times in µs */
        JsonMode json;
        bool json_auto; /* -j: pretty on a terminal */
        int n_args;
        char **args;
        /* Options that may come often, in order: "address=…", "text=…", "property=…" as the library wants
         * them. */
        unsigned n_repeated;
        OptionId repeated_id[GIVEN_MAX];
        const char *repeated[GIVEN_MAX];
} CommandLine;

/* Reads argv (which is permuted). 0; -EINVAL: `why` (of `size` bytes) says what is wrong. */
int cmdline_parse(CommandLine *ret, int argc, char **argv, char *why, size_t size);
static inline bool cmdline_given(const CommandLine *cl, OptionId id) {
        return cl->given & OPTION_BIT(id);
}
/* Help on everything, or on one verb. */
void cmdline_help(FILE *f, bool bold);
void cmdline_help_verb(FILE *f, VerbId verb, bool bold);
const char *cmdline_verb_name(VerbId verb);
