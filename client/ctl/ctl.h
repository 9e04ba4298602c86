/* The verbs, each a function from the command line to an exit status. */
#pragma once

#include "client/treaty.h"
#include "cmdline.h"
#include "exitcode.h"
#include "output.h"

typedef struct Ctl {
        const CommandLine *cl;
        Output output;
        treaty *agent; /* NULL until ctl_connect() */
} Ctl;

DEFINE_CLEANUP(treaty_entry *, treaty_entry_free)
DEFINE_CLEANUP(treaty_status *, treaty_status_free)
DEFINE_CLEANUP(treaty_watch *, treaty_watch_close)

/* Connects as -H, -M and --timeout say. 0, or negative: say why with ctl_fail(). */
int ctl_connect(Ctl *ctl, uint64_t default_timeout_usec);
/* "treatyctl: Cannot DOING: why", and the exit status that goes with it. DOING ends in what it was done to.
 */
ExitCode ctl_fail(const Ctl *ctl, int error, const char *doing, const char *subject);
/* The same where the words are ours. */
ExitCode ctl_complain(ExitCode code, const char *format, ...) _printf_(2, 3);
/* What printing answered. */
ExitCode ctl_printed(int error);

/* One JSON object of an entry. NULL: no memory. */
json_t *entry_json(const treaty_entry *entry, bool values);

ExitCode verb_status(Ctl *ctl);
ExitCode verb_wait_online(Ctl *ctl);
ExitCode verb_get(Ctl *ctl);
ExitCode verb_set(Ctl *ctl);
ExitCode verb_create(Ctl *ctl);
ExitCode verb_delete(Ctl *ctl);
ExitCode verb_list(Ctl *ctl);
ExitCode verb_tree(Ctl *ctl);
ExitCode verb_watch(Ctl *ctl);
ExitCode verb_wait(Ctl *ctl);
ExitCode verb_outcome(Ctl *ctl);
ExitCode verb_services(Ctl *ctl);
ExitCode verb_resolve(Ctl *ctl);
ExitCode verb_register(Ctl *ctl);
ExitCode verb_triggers(Ctl *ctl);
ExitCode verb_token(Ctl *ctl);
ExitCode verb_join(Ctl *ctl);
ExitCode verb_members(Ctl *ctl);
ExitCode verb_remove(Ctl *ctl);
ExitCode verb_transfer(Ctl *ctl);
ExitCode verb_scrub(Ctl *ctl);
