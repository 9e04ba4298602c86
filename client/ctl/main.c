/* treatyctl: words in, one verb, an exit status out. */
#include "ctl.h"

#include <stdarg.h>
#include <string.h>

static ExitCode (*const run[N_VERBS])(Ctl *) = {
        [VERB_STATUS] = verb_status,     [VERB_WAIT_ONLINE] = verb_wait_online,
        [VERB_GET] = verb_get,           [VERB_SET] = verb_set,
        [VERB_CREATE] = verb_create,     [VERB_DELETE] = verb_delete,
        [VERB_LIST] = verb_list,         [VERB_TREE] = verb_tree,
        [VERB_WATCH] = verb_watch,       [VERB_WAIT] = verb_wait,
        [VERB_OUTCOME] = verb_outcome,   [VERB_SERVICES] = verb_services,
        [VERB_RESOLVE] = verb_resolve,   [VERB_REGISTER] = verb_register,
        [VERB_TRIGGERS] = verb_triggers, [VERB_TOKEN] = verb_token,
        [VERB_JOIN] = verb_join,         [VERB_MEMBERS] = verb_members,
        [VERB_REMOVE] = verb_remove,     [VERB_TRANSFER] = verb_transfer,
        [VERB_SCRUB] = verb_scrub,
};

int ctl_connect(Ctl *ctl, uint64_t default_timeout_usec) {
        const CommandLine *cl = ctl->cl;
        unsigned flags = TREATY_RECONNECT | TREATY_LAZY;
        uint64_t timeout =
                cmdline_given(cl, OPTION_TIMEOUT) ? cl->number[OPTION_TIMEOUT] : default_timeout_usec;
        int r;

        if (!cmdline_given(cl, OPTION_NO_ASK_PASSWORD))
                flags |= TREATY_INTERACTIVE;
        if (cmdline_given(cl, OPTION_HOST))
                r = treaty_open_remote(cl->text[OPTION_HOST], flags, &ctl->agent);
        else if (cmdline_given(cl, OPTION_MACHINE))
                r = treaty_open_machine(cl->text[OPTION_MACHINE], flags, &ctl->agent);
        else
                r = treaty_open(flags, &ctl->agent);
        if (r < 0)
                return r;
        if (timeout < USEC_PER_MSEC)
                timeout = USEC_PER_MSEC;
        if (timeout > UINT64_C(365) * 24 * 3600 * USEC_PER_SEC)
                timeout = UINT64_C(365) * 24 * 3600 * USEC_PER_SEC;
        return treaty_set_timeout(ctl->agent, timeout);
}

ExitCode ctl_fail(const Ctl *ctl, int error, const char *doing, const char *subject) {
        const char *why = treaty_error(ctl->agent);
        size_t size = strlen(subject);

        if (!*why)
                why = strerror(-error);
        /* The agent names the path, too; once is enough. */
        if (size > 0 && strncmp(why, subject, size) == 0 && strncmp(why + size, ": ", 2) == 0)
                why += size + 2;
        fprintf(stderr, "treatyctl: Cannot %s%s%s: %s\n", doing, size > 0 ? " " : "", subject, why);
        if (error == -EINPROGRESS && treaty_request(ctl->agent))
                fprintf(stderr, "treatyctl: ask later: treatyctl outcome %s\n", treaty_request(ctl->agent));
        return exit_code(error);
}

ExitCode ctl_complain(ExitCode code, const char *format, ...) {
        va_list ap;

        fputs("treatyctl: ", stderr);
        va_start(ap, format);
        vfprintf(stderr, format, ap);
        va_end(ap);
        fputc('\n', stderr);
        return code;
}

ExitCode ctl_printed(int error) {
        if (error >= 0)
                return EXIT_OK;
        return ctl_complain(EXIT_ERROR, "Cannot print: %s", strerror(-error));
}

static ExitCode help(const CommandLine *cl) {
        Output output = output_new(cl);

        /* Without a verb on the line it is the whole page. */
        if (cl->named)
                cmdline_help_verb(stdout, cl->verb, output.color);
        else
                cmdline_help(stdout, output.color);
        return fflush(stdout) == 0 ? EXIT_OK : EXIT_ERROR;
}

int main(int argc, char **argv) {
        CommandLine cl;
        char why[512];
        ExitCode code;

        if (cmdline_parse(&cl, argc, argv, why, sizeof(why)) < 0)
                return ctl_complain(EXIT_USAGE, "%s", why);
        if (cl.help)
                return help(&cl);
        if (cl.version) {
                printf("treaty %s\n", treaty_version());
                return EXIT_OK;
        }

        Ctl ctl = {.cl = &cl, .output = output_new(&cl)};
        code = run[cl.verb](&ctl);
        treaty_close(ctl.agent);
        /* What did not reach the disk or the pipe was not printed. */
        if (fflush(stdout) != 0 && code == EXIT_OK)
                return ctl_complain(EXIT_ERROR, "Cannot print: %s", strerror(errno));
        return code;
}
