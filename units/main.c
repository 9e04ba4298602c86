/* treaty-units: the root helper that turns changes of the tree into unit jobs, and unit states into
 * registrations. It has no network, owns no name, and does only what units' own files ask for: broken into
 * through the agent it could be made to act too often or too seldom, never on another unit or with another
 * command. treaty-units(8). */
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-id128.h>
#include <unistd.h>
#include "agent/base/bytes.h"
#include "agent/journal.h"
#include "file.h"
#include "helper.h"

static int usage(void) {
        puts("treaty-units [OPTION…]\n\n"
             "Turns changes of treaty's tree into unit jobs and unit states into registrations,\n"
             "for units whose files have an [X-Treaty] section, see treaty.unit(5).\n"
             "Started by systemd as treaty-units.service.\n\n"
             "  -h --help      Show this help\n"
             "     --version   Show the version\n"
             "     --debug     Say more in the journal");
        return 0;
}

/* Returns 1 to go on, 0 to end well, -EINVAL. */
static int parse_arguments(int argc, char **argv) {
        enum { OPTION_VERSION = 256, OPTION_DEBUG };
        static const struct option options[] = {
                {"help", no_argument, NULL, 'h'},
                {"version", no_argument, NULL, OPTION_VERSION},
                {"debug", no_argument, NULL, OPTION_DEBUG},
                {},
        };
        for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) >= 0;)
                switch (c) {
                case 'h':
                        return usage();
                case OPTION_VERSION:
                        puts("treaty " TREATY_VERSION);
                        return 0;
                case OPTION_DEBUG:
                        journal_set_level(LOG_DEBUG);
                        break;
                default:
                        return -EINVAL;
                }
        if (optind < argc) {
                fprintf(stderr, "treaty-units takes no arguments\n");
                return -EINVAL;
        }
        return 1;
}

static int open_state_directory(const char *path) {
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return -errno;
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

/* What specifiers in unit files stand for. */
static int learn_names(Helper *helper) {
        sd_id128_t id;
        int r = sd_id128_get_machine(&id);
        if (r < 0)
                return log_error_errno(r, "cannot read the machine's id");
        hex_write(helper->machine_id, id.bytes, sizeof(id.bytes));
        if (gethostname(helper->host_name, sizeof(helper->host_name) - 1) < 0)
                return log_error_errno(errno, "cannot read the host's name");
        return 0;
}

static int start(Helper *helper, Door **ret_door) {
        const char *state = getenv("STATE_DIRECTORY"), *runtime = getenv("RUNTIME_DIRECTORY");
        char socket[256];

        int r = learn_names(helper);
        if (r < 0)
                return r;
        helper->state_fd = open_state_directory(state ? state : "/var/lib/treaty-units");
        if (helper->state_fd < 0)
                return log_error_errno(helper->state_fd, "cannot open the state directory");

        runtime = runtime ? runtime : "/run/treaty-units";
        if (mkdir(runtime, 0700) < 0 && errno != EEXIST)
                return log_error_errno(errno, "cannot make %s", runtime);
        snprintf(socket, sizeof(socket), "%s/private", runtime);
        r = door_new(ret_door, helper, socket);
        if (r < 0)
                return log_error_errno(r, "cannot listen at %s", socket);

        r = manager_init(helper);
        if (r < 0)
                return log_error_errno(r, "cannot begin to follow PID 1");
        r = agent_init(helper);
        if (r < 0)
                return log_error_errno(r, "cannot begin to follow the agent");
        return 0;
}

static void helper_deinit(Helper *helper) {
        Unit *unit, *next;
        HASH_ITER (hh, helper->units, unit, next)
                trigger_save(&unit->trigger);
        agent_deinit(helper);
        manager_deinit(helper);
        HASH_ITER (hh, helper->units, unit, next)
                unit_free(unit);
        fd_close(&helper->state_fd);
        helper->event = sd_event_unref(helper->event);
}

static int run(void) {
        _cleanup_(helper_deinit) Helper helper = {.state_fd = -1};
        _cleanup_(door_freep) Door *door = NULL;

        int r = sd_event_default(&helper.event);
        if (r >= 0)
                r = sd_event_set_watchdog(helper.event, 1);
        if (r >= 0)
                r = sd_event_set_signal_exit(helper.event, 1);
        if (r < 0)
                return log_error_errno(r, "cannot make the event loop");
        r = start(&helper, &door);
        if (r < 0)
                return r;

        (void)sd_notify(0, "READY=1\nSTATUS=Following units and the tree");
        r = sd_event_loop(helper.event);
        (void)sd_notify(0, "STOPPING=1");
        return r;
}

int main(int argc, char **argv) {
        journal_open("treaty-units");
        int r = parse_arguments(argc, argv);
        if (r <= 0)
                return r < 0 ? 2 : 0;
        return run() < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
