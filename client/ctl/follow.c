/* watch and wait: both read a watch that survives its agent. */
#include "ctl.h"

#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <time.h>

static uint64_t now_usec(void) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

static uint64_t deadline_after(uint64_t usec) {
        uint64_t now = now_usec();
        return usec > USEC_INFINITY - now ? USEC_INFINITY : now + usec;
}

/* The next event before the deadline. 1; 0: the time is over; negative. */
static int next_event(treaty_watch *watch, uint64_t deadline, const treaty_event **ret) {
        for (;;) {
                struct pollfd pollfd = {.fd = treaty_watch_fd(watch), .events = POLLIN};
                uint64_t now, left;
                int r = treaty_watch_next(watch, ret);

                if (r != 0)
                        return r;
                now = now_usec();
                if (now >= deadline)
                        return 0;
                left = (deadline - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC;
                r = poll(&pollfd, 1, deadline == USEC_INFINITY ? -1 : (int)MIN(left, UINT64_C(3600000)));
                if (r < 0 && errno != EINTR)
                        return -errno;
        }
}

/* ---- watch ---- */

static const char *kind_text(treaty_kind kind) {
        switch (kind) {
        case TREATY_PUT:
                return "put";
        case TREATY_DELETE:
                return "delete";
        case TREATY_MARK:
                return "mark";
        case TREATY_COMPACTED:
                return "compacted";
        case TREATY_OVERFLOW:
                return "overflow";
        }
        return "unknown";
}

static int print_event_json(const Output *output, const treaty_event *event) {
        _cleanup_(json_decrefp) json_t *row = json_object();

        if (!row || json_object_set_new(row, "revision", json_u64(event->revision)) < 0 ||
            json_object_set_new(row, "kind", json_string(kind_text(event->kind))) < 0)
                return -ENOMEM;
        if (*event->path && (json_object_set_new(row, "path", json_string(event->path)) < 0 ||
                             json_object_set_new(row, "last", json_boolean(event->last)) < 0))
                return -ENOMEM;
        if (event->kind == TREATY_PUT &&
            (json_set_bytes(row, "value", event->value, event->value_size) < 0 ||
             json_object_set_new(row, "create_revision", json_u64(event->create_revision)) < 0 ||
             json_object_set_new(row, "version", json_u64(event->version)) < 0))
                return -ENOMEM;
        if (event->existed && event->previous_size > 0 &&
            json_set_bytes(row, "previous", event->previous, event->previous_size) < 0)
                return -ENOMEM;
        return output_json(output, row);
}

static int print_event_line(const treaty_event *event, bool with_previous) {
        _cleanup_(freep) char *value = escape_bytes(event->value, event->value_size, 0);
        _cleanup_(freep) char *previous = escape_bytes(event->previous, event->previous_size, 0);

        if (!value || !previous)
                return -ENOMEM;
        printf("%" PRIu64 " %s", event->revision, kind_text(event->kind));
        if (*event->path)
                printf(" %s", event->path);
        if (event->kind == TREATY_PUT)
                printf(" %s", value);
        if (with_previous && event->existed)
                printf(" (was %s)", previous);
        putchar('\n');
        return fflush(stdout) == 0 ? 0 : -EIO;
}

static ExitCode follow(Ctl *ctl, treaty_watch *watch, const char *path) {
        const CommandLine *cl = ctl->cl;
        uint64_t left = cmdline_given(cl, OPTION_COUNT) ? cl->number[OPTION_COUNT] : UINT64_MAX;
        uint64_t deadline = cmdline_given(cl, OPTION_TIMEOUT) ? deadline_after(cl->number[OPTION_TIMEOUT])
                                                              : USEC_INFINITY;

        while (left > 0) {
                const treaty_event *event;
                int r = next_event(watch, deadline, &event);
                if (r < 0)
                        return ctl_fail(ctl, r, "watch", path);
                if (r == 0)
                        return EXIT_TIMEOUT;
                r = ctl->output.json != JSON_OFF
                            ? print_event_json(&ctl->output, event)
                            : print_event_line(event, cmdline_given(cl, OPTION_PREVIOUS));
                if (r < 0)
                        return ctl_printed(r);
                if (event->kind == TREATY_COMPACTED && !ctl->output.quiet)
                        fprintf(stderr,
                                "treatyctl: changes before revision %" PRIu64
                                " are no longer known: list %s again\n",
                                event->revision, path);
                left -= event->kind == TREATY_PUT || event->kind == TREATY_DELETE;
        }
        return EXIT_OK;
}

static int connect_without_deadline(Ctl *ctl) {
        int r = ctl_connect(ctl, TREATY_TIMEOUT_DEFAULT);
        /* --timeout= bounds the following, not each call. */
        return r < 0 ? r : treaty_set_timeout(ctl->agent, TREATY_TIMEOUT_DEFAULT);
}

ExitCode verb_watch(Ctl *ctl) {
        _cleanup_(treaty_watch_closep) treaty_watch *watch = NULL;
        const CommandLine *cl = ctl->cl;
        const char *path = cl->n_args > 0 ? cl->args[0] : "/";
        unsigned flags = TREATY_WATCH_SUBTREE | TREATY_WATCH_RESUME |
                         (cmdline_given(cl, OPTION_PREVIOUS) ? TREATY_WATCH_PREVIOUS : 0);
        int r = connect_without_deadline(ctl);

        if (r >= 0)
                r = treaty_watch_open(ctl->agent, path, flags, cl->number[OPTION_FROM], &watch);
        if (r < 0)
                return ctl_fail(ctl, r, "watch", path);
        return follow(ctl, watch, path);
}

/* ---- wait ---- */

static bool is_conditional(const CommandLine *cl) {
        return cmdline_given(cl, OPTION_VALUE) || cmdline_given(cl, OPTION_EXISTS) ||
               cmdline_given(cl, OPTION_ABSENT);
}

/* Is the entry as asked? 1: yes, at *ret_revision; 0: no; negative. */
static int is_met(Ctl *ctl, const char *path, uint64_t *ret_revision) {
        _cleanup_(treaty_entry_freep) treaty_entry *entry = NULL;
        const CommandLine *cl = ctl->cl;
        const char *value = cl->text[OPTION_VALUE];
        int r = treaty_get(ctl->agent, path, 0, 0, &entry);

        if (r == -ENOENT)
                return cmdline_given(cl, OPTION_ABSENT);
        if (r < 0)
                return r;
        *ret_revision = entry->mod_revision;
        if (cmdline_given(cl, OPTION_ABSENT))
                return 0;
        if (value &&
            (entry->value_size != strlen(value) || memcmp(entry->value, value, entry->value_size) != 0))
                return 0;
        return 1;
}

/* The watch says when to look; a look that fails because the agent is away is tried again. */
static int wait_until_met(Ctl *ctl, treaty_watch *watch, const char *path, uint64_t deadline,
                          uint64_t *ret_revision) {
        *ret_revision = treaty_watch_revision(watch);
        for (;;) {
                const treaty_event *event;
                uint64_t retry = USEC_INFINITY;
                int r = is_met(ctl, path, ret_revision);

                if (r > 0)
                        return r;
                if (r == -ECONNREFUSED || r == -ECONNRESET || r == -ETIMEDOUT || r == -ESHUTDOWN)
                        retry = deadline_after(USEC_PER_SEC / 2);
                else if (r < 0)
                        return r;
                r = next_event(watch, MIN(deadline, retry), &event);
                if (r < 0)
                        return r;
                if (r == 0 && now_usec() >= deadline)
                        return 0;
                if (r > 0)
                        *ret_revision = event->revision;
        }
}

static int wait_for_change(treaty_watch *watch, uint64_t deadline, uint64_t *ret_revision) {
        const treaty_event *event;
        int r = next_event(watch, deadline, &event);
        if (r > 0)
                *ret_revision = event->revision;
        return r;
}

ExitCode verb_wait(Ctl *ctl) {
        _cleanup_(treaty_watch_closep) treaty_watch *watch = NULL;
        const CommandLine *cl = ctl->cl;
        const char *path = cl->args[0];
        bool conditional = is_conditional(cl);
        uint64_t from = cmdline_given(cl, OPTION_REVISION) ? cl->number[OPTION_REVISION] + 1 : 0,
                 revision = 0;
        uint64_t deadline = cmdline_given(cl, OPTION_TIMEOUT) ? deadline_after(cl->number[OPTION_TIMEOUT])
                                                              : USEC_INFINITY;
        int r;

        if ((conditional && from > 0) || (cmdline_given(cl, OPTION_VALUE) && !cl->text[OPTION_VALUE]) ||
            (cmdline_given(cl, OPTION_ABSENT) &&
             (cmdline_given(cl, OPTION_VALUE) || cmdline_given(cl, OPTION_EXISTS))))
                return ctl_complain(
                        EXIT_USAGE,
                        "wait takes one of --value=VALUE, --exists, --absent and --revision=REVISION");
        r = connect_without_deadline(ctl);
        if (r >= 0)
                r = treaty_watch_open(ctl->agent, path,
                                      TREATY_WATCH_RESUME | (conditional ? 0 : TREATY_WATCH_SUBTREE), from,
                                      &watch);
        if (r >= 0)
                r = conditional ? wait_until_met(ctl, watch, path, deadline, &revision)
                                : wait_for_change(watch, deadline, &revision);
        if (r < 0)
                return ctl_fail(ctl, r, "wait for", path);
        if (r == 0) {
                if (!ctl->output.quiet)
                        ctl_complain(EXIT_TIMEOUT, "%s is not as asked yet: the time is over", path);
                return EXIT_TIMEOUT;
        }
        if (ctl->output.json != JSON_OFF) {
                _cleanup_(json_decrefp) json_t *answer = json_object();
                if (!answer || json_object_set_new(answer, "revision", json_u64(revision)) < 0)
                        return ctl_printed(-ENOMEM);
                return ctl_printed(output_json(&ctl->output, answer));
        }
        if (!ctl->output.quiet)
                printf("%" PRIu64 "\n", revision);
        return EXIT_OK;
}
