/* services, resolve, register. */
#include "ctl.h"

#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

/* ---- services, resolve ---- */

static int set_value(json_t *object, const char *key, json_t *value) {
        return json_object_set_new(object, key, value) < 0 ? -ENOMEM : 0;
}

static int append_instance(json_t *rows, const treaty_instance *instance, bool listed) {
        _cleanup_(json_decrefp) json_t *row = json_object();
        json_t *value = NULL;

        if (!row || (listed && set_value(row, "name", json_string(instance->name)) < 0) ||
            set_value(row, "host", json_string(instance->host)) < 0 ||
            set_value(row, "address", json_string(instance->address)) < 0 ||
            set_value(row, "port", json_integer(instance->port)) < 0 ||
            set_value(row, "priority", json_integer(instance->priority)) < 0 ||
            set_value(row, "weight", json_integer(instance->weight)) < 0)
                return -ENOMEM;
        if (listed) {
                /* Anybody who may write below /services writes it; what is not JSON is shown as text. */
                value = json_loads(instance->json, JSON_REJECT_DUPLICATES, NULL);
                if (set_value(row, "revision", json_u64(instance->revision)) < 0 ||
                    set_value(row, "json", value ? value : json_string(instance->json)) < 0)
                        return -ENOMEM;
        }
        return json_array_append_new(rows, TAKE(row)) < 0 ? -ENOMEM : 0;
}

static int each_listed(const treaty_instance *instance, void *userdata) {
        return append_instance(userdata, instance, true);
}

static int each_resolved(const treaty_instance *instance, void *userdata) {
        return append_instance(userdata, instance, false);
}

static const Column columns[] = {
        {"name", "NAME"},
        {"host", "HOST"},
        {"address", "ADDRESS"},
        {"port", "PORT", .right = true},
        {"priority", "PRIORITY", .right = true},
        {"weight", "WEIGHT", .right = true},
};

ExitCode verb_services(Ctl *ctl) {
        _cleanup_(json_decrefp) json_t *rows = json_array();
        const char *name = ctl->cl->n_args > 0 ? ctl->cl->args[0] : "";
        int r = rows ? ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT) : -ENOMEM;

        if (r >= 0)
                r = treaty_services(ctl->agent, name, each_listed, rows);
        if (r < 0)
                return ctl_fail(ctl, r, *name ? "list service" : "list services", name);
        return ctl_printed(output_rows(&ctl->output, rows, columns, ELEMENTSOF(columns)));
}

ExitCode verb_resolve(Ctl *ctl) {
        _cleanup_(json_decrefp) json_t *rows = json_array();
        int r = rows ? ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT) : -ENOMEM;

        if (r >= 0)
                r = treaty_resolve(ctl->agent, ctl->cl->args[0], each_resolved, rows);
        if (r < 0)
                return ctl_fail(ctl, r, "resolve service", ctl->cl->args[0]);
        return ctl_printed(output_rows(&ctl->output, rows, columns + 1, ELEMENTSOF(columns) - 1));
}

/* ---- register ----
 *
 * Three things are waited for: the agent hanging up the registration (then it is made anew), a signal, and
 * the end of the command. The command does not inherit the registration: it ends with us, whatever the
 * command leaves behind. */

#define OPTIONS_MAX    (GIVEN_MAX + 8u)
#define AGAIN_MIN_USEC (100 * USEC_PER_MSEC)
#define AGAIN_MAX_USEC (5 * USEC_PER_SEC)

typedef struct Registration {
        Ctl *ctl;
        size_t n_options;
        char *options[OPTIONS_MAX + 1]; /* owned; NULL-terminated */
        int fd;                         /* -1: lost */
        uint64_t again_usec;            /* the next wait while lost */
        int signal_fd;
        pid_t child; /* 0: none */
} Registration;

static void registration_deinit(Registration *reg) {
        for (size_t i = 0; i < reg->n_options; i++)
                free(reg->options[i]);
        if (reg->fd >= 0)
                close(reg->fd);
        if (reg->signal_fd >= 0)
                close(reg->signal_fd);
}

static int add_option(Registration *reg, const char *name, const char *value) {
        if (reg->n_options >= OPTIONS_MAX)
                return -E2BIG;
        if (asprintf(&reg->options[reg->n_options], "%s=%s", name, value) < 0) {
                reg->options[reg->n_options] = NULL;
                return -ENOMEM;
        }
        reg->n_options++;
        return 0;
}

static int collect_options(Registration *reg, const CommandLine *cl) {
        static const struct {
                OptionId id;
                const char *name;
        } once[] = {{OPTION_PRIORITY, "priority"}, {OPTION_WEIGHT, "weight"}, {OPTION_TTL, "ttl"}},
          often[] = {{OPTION_ADDRESS, "address"}, {OPTION_TEXT, "text"}, {OPTION_PROPERTY, "property"}};
        int r = 0;

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(once); i++)
                if (cmdline_given(cl, once[i].id))
                        r = add_option(reg, once[i].name, cl->text[once[i].id]);
        for (unsigned i = 0; r >= 0 && i < cl->n_repeated; i++)
                for (size_t k = 0; r >= 0 && k < ELEMENTSOF(often); k++)
                        if (cl->repeated_id[i] == often[k].id)
                                r = add_option(reg, often[k].name, cl->repeated[i]);
        return r;
}

static int register_once(Registration *reg, uint64_t *ret_revision) {
        const CommandLine *cl = reg->ctl->cl;
        return treaty_register(reg->ctl->agent, cl->args[0], (uint16_t)cl->number[OPTION_PORT],
                               (const char *const *)reg->options, &reg->fd, ret_revision);
}

static int block_signals(Registration *reg) {
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, SIGCHLD);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGHUP);
        sigaddset(&set, SIGQUIT);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return -errno;
        reg->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        return reg->signal_fd < 0 ? -errno : 0;
}

static int start_command(Registration *reg, char **argv) {
        sigset_t none;
        pid_t pid = fork();

        if (pid < 0)
                return -errno;
        if (pid == 0) {
                sigemptyset(&none);
                (void)sigprocmask(SIG_SETMASK, &none, NULL);
                (void)execvp(argv[0], argv);
                ctl_complain(EXIT_ERROR, "Cannot run %s: %s", argv[0], strerror(errno));
                _exit(errno == ENOENT ? 127 : 126); /* as shells do */
        }
        reg->child = pid;
        return 0;
}

/* The agent hung up: it was restarted without keeping our fd, or this host's session ended. */
static bool register_again(Registration *reg, ExitCode *ret) {
        int r = register_once(reg, NULL);

        if (r >= 0) {
                if (!reg->ctl->output.quiet)
                        fprintf(stderr, "treatyctl: Registered %s again\n", reg->ctl->cl->args[0]);
                reg->again_usec = AGAIN_MIN_USEC;
                return false;
        }
        if (reg->again_usec == AGAIN_MIN_USEC)
                *ret = ctl_fail(reg->ctl, r, "register service", reg->ctl->cl->args[0]);
        reg->again_usec = MIN(reg->again_usec * 2, AGAIN_MAX_USEC);
        /* What was refused once will be refused again; a command that runs is not to suffer from it. */
        return (r == -EACCES || r == -EINVAL) && reg->child == 0;
}

/* Is it over? A command hears what we hear, but for what the terminal tells both. */
static bool take_signal(Registration *reg, ExitCode *ret) {
        struct signalfd_siginfo info;
        int status;

        while (read(reg->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
                if (info.ssi_signo != SIGCHLD) {
                        if (reg->child == 0) {
                                *ret = EXIT_OK;
                                return true;
                        }
                        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGHUP)
                                (void)kill(reg->child, (int)info.ssi_signo);
                        continue;
                }
                if (reg->child > 0 && waitpid(reg->child, &status, WNOHANG) == reg->child) {
                        reg->child = 0;
                        *ret = (ExitCode)(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
                        return true;
                }
        }
        return false;
}

static ExitCode hold(Registration *reg) {
        ExitCode code = EXIT_OK;

        for (;;) {
                struct pollfd pollfds[] = {{.fd = reg->signal_fd, .events = POLLIN},
                                           {.fd = reg->fd, .events = POLLIN}};
                int timeout = reg->fd >= 0 ? -1 : (int)(reg->again_usec / USEC_PER_MSEC);
                int n = poll(pollfds, 2, timeout);

                if (n < 0 && errno != EINTR)
                        return ctl_complain(EXIT_ERROR, "Cannot wait: %s", strerror(errno));
                if (take_signal(reg, &code))
                        return code;
                if (reg->fd < 0 && n == 0 && register_again(reg, &code))
                        return code;
                if (n > 0 && reg->fd >= 0 && pollfds[1].fd == reg->fd && pollfds[1].revents != 0) {
                        close(reg->fd);
                        reg->fd = -1;
                }
        }
}

ExitCode verb_register(Ctl *ctl) {
        _cleanup_(registration_deinit)
                Registration reg = {.ctl = ctl, .fd = -1, .signal_fd = -1, .again_usec = AGAIN_MIN_USEC};
        const CommandLine *cl = ctl->cl;
        const char *name = cl->args[0];
        uint64_t revision;
        int r = collect_options(&reg, cl);

        if (r < 0)
                return ctl_complain(EXIT_ERROR, "Cannot register %s: %s", name, strerror(-r));
        r = ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT);
        if (r >= 0)
                r = register_once(&reg, &revision);
        if (r < 0)
                return ctl_fail(ctl, r, "register service", name);
        r = block_signals(&reg);
        if (r >= 0 && cl->n_args > 1)
                r = start_command(&reg, cl->args + 1);
        if (r < 0)
                return ctl_complain(EXIT_ERROR, "Cannot run %s: %s", cl->args[1] ? cl->args[1] : name,
                                    strerror(-r));

        if (cl->n_args == 1) {
                if (!ctl->output.quiet)
                        fprintf(stderr,
                                "treatyctl: Registered %s at revision %" PRIu64 "; ends with this command\n",
                                name, revision);
                (void)sd_notifyf(0, "READY=1\nSTATUS=Registered %s", name);
        }
        return hold(&reg);
}
