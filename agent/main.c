/* treatyd: the roof. Options, configuration, the loop; everything else is behind agent.h. */
#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include "config.h"
#include "journal.h"
#include "loop.h"

static int help(void) {
        printf("treatyd [OPTIONS...]\n\n"
               "Makes this host agree with the others: the agent of treaty.\n\n"
               "  -h --help            Show this help\n"
               "     --version         Show the version\n"
               "     --accept-damage   Take a damaged log as it is, and exit: what only it had is lost.\n"
               "                       Stop treatyd.service first. See treatyd(8).\n\n"
               "Configured by treaty.conf(5); started by treatyd.service. See treatyd(8), treatyctl(1).\n");
        return EXIT_SUCCESS;
}

static int parse_arguments(int argc, char **argv, bool *ret_accept_damage) {
        static const struct option options[] = {
                {"help", no_argument, NULL, 'h'},
                {"version", no_argument, NULL, 'v'},
                {"accept-damage", no_argument, NULL, 'd'},
                {},
        };
        for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) >= 0;) {
                if (c == 'h')
                        return help();
                if (c == 'v') {
                        printf("treatyd %s\n", TREATY_VERSION);
                        return EXIT_SUCCESS;
                }
                if (c != 'd')
                        return 2;
                *ret_accept_damage = true;
        }
        if (optind < argc) {
                fprintf(stderr, "treatyd: unexpected argument \"%s\"; see treatyd --help\n", argv[optind]);
                return 2;
        }
        return -1;
}

int main(int argc, char **argv) {
        bool accept_damage = false;
        int r = parse_arguments(argc, argv, &accept_damage);
        if (r >= 0)
                return r;

        (void)umask(0077);
        (void)prctl(PR_SET_DUMPABLE, 0); /* keys in memory */
        (void)mallopt(M_ARENA_MAX,
                      1); /* three threads, one of which does nearly all: an arena each is waste */
        journal_open("treatyd");

        _cleanup_(config_deinit) Config config = {};
        if (config_load(&config, NULL) < 0)
                return EXIT_FAILURE; /* said already, with file and line */
        journal_set_level(config.log_level);
        config.accept_damage = accept_damage;

        _cleanup_(loop_freep) Loop *loop = NULL;
        if (loop_new(&loop, &config) < 0)
                return EXIT_FAILURE;
        return accept_damage ? EXIT_SUCCESS : loop_run(loop);
}
