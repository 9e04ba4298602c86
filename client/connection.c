/* The private socket first: it works without a broker and is faster. Where it is absent or closed to us, the
 * system bus. A call that was sent is never sent twice; a connection that turns out to have ended before a
 * call is made anew once, if the caller wants that. */
#include "connection.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "agent/base/path.h"
#include "errors.h"

#define FLAGS_LOCAL \
        (TREATY_RECONNECT | TREATY_INTERACTIVE | TREATY_SYSTEM_BUS | TREATY_PRIVATE | TREATY_LAZY)
#define FLAGS_REMOTE (TREATY_RECONNECT | TREATY_INTERACTIVE | TREATY_LAZY)
#define FLAGS_GIVEN  TREATY_INTERACTIVE

#define TIMEOUT_MIN_USEC USEC_PER_MSEC
#define TIMEOUT_MAX_USEC (UINT64_C(365) * 24 * 3600 * USEC_PER_SEC)
/* ssh may ask for a password. */
#define REMOTE_TIMEOUT_USEC (90 * USEC_PER_SEC)
/* Messages taken from an idle connection before a call; more than this only a mad broker has for us. */
#define DRAIN_MAX 1024

uint64_t now_usec(void) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

/* ---- What went wrong ---- */

static void forget_error(treaty *t) {
        free(TAKE(t->error));
        free(TAKE(t->error_name));
        free(TAKE(t->request));
}

int fail(treaty *t, int error, const char *name, const char *format, ...) {
        va_list ap;
        char *text = NULL;

        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        va_end(ap);
        /* The format may have used the old texts. */
        forget_error(t);
        t->error = text;
        t->error_name = name ? strdup(name) : NULL;
        return error;
}

int fail_errno(treaty *t, int error, const char *doing) {
        return fail(t, error, NULL, "%s: %s", doing, strerror(-error));
}

int fail_append(treaty *t, int error) {
        if (error == -EINVAL)
                return fail(t, error, NULL, "An argument is not text (UTF-8)");
        return fail_errno(t, error, "Cannot make a call");
}

int fail_reply(treaty *t, int error) {
        return fail(t, error, NULL,
                    "The agent's answer cannot be read (%s): it may be of another version; restart it with "
                    "\"systemctl restart treatyd.service\"",
                    strerror(-error));
}

static int fail_not_running(treaty *t, const char *why) {
        switch (t->target) {
        case TARGET_LOCAL:
                return fail(
                        t, -ECONNREFUSED, NULL,
                        "The agent does not answer (%s): start it with \"systemctl start treatyd.service\", "
                        "see \"journalctl -u treatyd.service\"",
                        why);
        case TARGET_REMOTE:
        case TARGET_MACHINE:
                return fail(t, -ECONNREFUSED, NULL,
                            "The agent on %s does not answer (%s): start it there with \"systemctl start "
                            "treatyd.service\"",
                            t->name, why);
        case TARGET_GIVEN:
                break;
        }
        return fail(t, -ECONNREFUSED, NULL, "The agent does not answer (%s): is treatyd.service running?",
                    why);
}

/* "…; request ID": the agent ends the text of Unknown with what to ask for. */
static void keep_request(treaty *t, const char *text) {
        static const char word[] = "request ";
        const char *last = NULL;

        for (const char *p = text; (p = strstr(p, word)); p += strlen(word))
                last = p;
        if (!last)
                return;
        last += strlen(word);
        t->request = strndup(last, strcspn(last, " \t\n,;:)\""));
}

static int fail_bus(treaty *t, int r, const sd_bus_error *error) {
        const char *text = error->message && *error->message ? error->message : error->name;
        int number = error_errno(error->name);

        if (!error->name || strncmp(error->name, "System.Error.", strlen("System.Error.")) == 0)
                number = r;
        if (number == -ENOTCONN || number == -EPIPE)
                number = -ECONNRESET;
        if (number == -ECONNREFUSED)
                return fail_not_running(t, text);
        if (number == -ECONNRESET)
                return fail(
                        t, number, error->name,
                        "The connection to the agent ended before it answered; a write may or may not have "
                        "been applied");
        if (number == -ETIMEDOUT && sd_bus_error_has_name(error, "org.freedesktop.DBus.Error.Timeout"))
                return fail(
                        t, number, error->name,
                        "The agent did not answer in time (a write may or may not have been applied): see "
                        "\"systemctl status treatyd.service\"");
        fail(t, number, error->name, "%s", text ? text : strerror(-r));
        if (number == -EINPROGRESS && t->error)
                keep_request(t, t->error);
        return number;
}

_public_ const char *treaty_error(const treaty *t) {
        if (!t)
                return "Out of memory, or flags that libtreaty does not know";
        return t->error ? t->error : "";
}

_public_ const char *treaty_error_name(const treaty *t) {
        return t ? t->error_name : NULL;
}

_public_ const char *treaty_request(const treaty *t) {
        return t ? t->request : NULL;
}

_public_ const char *treaty_version(void) {
        return TREATY_VERSION;
}

int check_path(treaty *t, const char *path, bool subtree) {
        PathVerdict verdict = subtree ? path_check(path) : path_check_entry(path);
        if (verdict == PATH_OK)
                return 0;
        return fail(t, -EINVAL, "org.treaty1.Error.InvalidPath", "The path %s", path_verdict_text(verdict));
}

int check_flags(treaty *t, unsigned flags, unsigned known) {
        if ((flags & ~known) == 0)
                return 0;
        return fail(t, -EINVAL, NULL, "The flags 0x%x are not known to this call", flags & ~known);
}

/* ---- Connecting ---- */

static int wait_ready(sd_bus *bus, uint64_t deadline) {
        for (;;) {
                int r = sd_bus_is_ready(bus);
                if (r != 0)
                        return r < 0 ? r : 0;
                r = sd_bus_process(bus, NULL);
                if (r < 0)
                        return r;
                if (r > 0)
                        continue;

                uint64_t now = now_usec();
                if (now >= deadline)
                        return -ETIMEDOUT;
                r = sd_bus_wait(bus, deadline - now);
                if (r < 0 && r != -EINTR)
                        return r;
        }
}

static int open_private(uint64_t deadline, sd_bus **ret) {
        _cleanup_(sd_bus_close_unrefp) sd_bus *bus = NULL;
        const char *socket = secure_getenv("TREATY_SOCKET");
        char address[256];
        int r;

        if (!socket)
                socket = TREATY_PRIVATE_SOCKET;
        /* Commas and the like would be read as more of the address. */
        if (socket[0] != '/' || strpbrk(socket, ",;:=%") ||
            snprintf(address, sizeof(address), "unix:path=%s", socket) >= (int)sizeof(address))
                return -EINVAL;
        r = sd_bus_new(&bus);
        if (r < 0)
                return r;
        if ((r = sd_bus_set_address(bus, address)) < 0 || (r = sd_bus_negotiate_fds(bus, 1)) < 0 ||
            (r = sd_bus_start(bus)) < 0 || (r = wait_ready(bus, deadline)) < 0)
                return r;
        *ret = TAKE(bus);
        return 0;
}

static int open_system(uint64_t deadline, sd_bus **ret) {
        _cleanup_(sd_bus_close_unrefp) sd_bus *bus = NULL;
        int r = sd_bus_open_system(&bus);
        if (r < 0)
                return r;
        r = wait_ready(bus, deadline);
        if (r < 0)
                return r;
        *ret = TAKE(bus);
        return 0;
}

static int connect_local(treaty *t, uint64_t deadline) {
        int private = -ENOENT, system = -ENOENT;
        char why[256];

        if (!(t->flags & TREATY_SYSTEM_BUS)) {
                private = open_private(deadline, &t->bus);
                if (private >= 0)
                        return 0;
                /* It is there and does not answer: it would not do so on the bus either. */
                if (private == -ETIMEDOUT)
                        return fail(t, private, NULL,
                                    "The agent does not answer in time on %s: see \"systemctl status "
                                    "treatyd.service\"",
                                    TREATY_PRIVATE_SOCKET);
        }
        if (!(t->flags & TREATY_PRIVATE)) {
                system = open_system(deadline, &t->bus);
                if (system >= 0)
                        return 0;
        }

        if (t->flags & TREATY_SYSTEM_BUS)
                snprintf(why, sizeof(why), "system bus: %s", strerror(-system));
        else if (t->flags & TREATY_PRIVATE)
                snprintf(why, sizeof(why), "%s: %s", TREATY_PRIVATE_SOCKET, strerror(-private));
        else
                snprintf(why, sizeof(why), "%s: %s; system bus: %s", TREATY_PRIVATE_SOCKET,
                         strerror(-private), strerror(-system));
        return fail_not_running(t, why);
}

static int connect_elsewhere(treaty *t, uint64_t deadline) {
        _cleanup_(sd_bus_close_unrefp) sd_bus *bus = NULL;
        int r = t->target == TARGET_REMOTE ? sd_bus_open_system_remote(&bus, t->name)
                                           : sd_bus_open_system_machine(&bus, t->name);
        if (r >= 0)
                r = wait_ready(bus, deadline);
        if (r < 0)
                return fail(t, r == -ETIMEDOUT ? r : -ECONNREFUSED, NULL,
                            "Cannot reach the system bus of %s: %s", t->name, strerror(-r));
        t->bus = TAKE(bus);
        return 0;
}

static int connection_open(treaty *t, uint64_t timeout_usec) {
        switch (t->target) {
        case TARGET_LOCAL:
                return connect_local(t, now_usec() + timeout_usec);
        case TARGET_REMOTE:
        case TARGET_MACHINE:
                return connect_elsewhere(t, now_usec() + MAX(timeout_usec, REMOTE_TIMEOUT_USEC));
        case TARGET_GIVEN:
                break;
        }
        return fail(t, -ECONNRESET, NULL, "The connection to the agent has ended");
}

bool connection_may_reconnect(const treaty *t) {
        return t->flags & TREATY_RECONNECT;
}

/* An idle connection does not know that its other side has gone until somebody looks. */
static bool connection_alive(treaty *t) {
        struct pollfd pollfd = {.fd = -1, .events = POLLIN};

        if (!t->bus || sd_bus_is_open(t->bus) <= 0)
                return false;
        if (t->target == TARGET_GIVEN)
                return true; /* its owner dispatches it */

        pollfd.fd = sd_bus_get_fd(t->bus);
        if (pollfd.fd < 0 || poll(&pollfd, 1, 0) <= 0)
                return pollfd.fd >= 0;
        for (int i = 0; i < DRAIN_MAX; i++) {
                int r = sd_bus_process(t->bus, NULL);
                if (r < 0)
                        return false;
                if (r == 0)
                        break;
        }
        return sd_bus_is_open(t->bus) > 0;
}

int connection_ensure(treaty *t, uint64_t timeout_usec) {
        if (connection_alive(t))
                return 0;
        if (!connection_may_reconnect(t))
                return fail(t, -ECONNRESET, NULL, "The connection to the agent has ended");
        t->bus = sd_bus_close_unref(t->bus);
        return connection_open(t, timeout_usec);
}

static int treaty_new(Target target, const char *name, sd_bus *bus, unsigned flags, unsigned known,
                      treaty **ret) {
        treaty *t;
        int r;

        *ret = NULL;
        if ((flags & ~known) || ((flags & TREATY_SYSTEM_BUS) && (flags & TREATY_PRIVATE)) ||
            ((flags & TREATY_LAZY) && !(flags & TREATY_RECONNECT)))
                return -EINVAL;
        t = calloc(1, sizeof(*t));
        if (!t)
                return -ENOMEM;
        t->target = target;
        t->flags = flags;
        t->timeout_usec = TREATY_TIMEOUT_DEFAULT;
        if (name && !(t->name = strdup(name))) {
                treaty_close(t);
                return -ENOMEM;
        }

        if (target == TARGET_GIVEN) {
                t->bus = sd_bus_ref(bus);
                r = 0;
        } else
                r = flags & TREATY_LAZY ? 0 : connection_open(t, t->timeout_usec);
        *ret = t;
        return r;
}

_public_ int treaty_open(unsigned flags, treaty **ret) {
        return treaty_new(TARGET_LOCAL, NULL, NULL, flags, FLAGS_LOCAL, ret);
}

_public_ int treaty_open_remote(const char *host, unsigned flags, treaty **ret) {
        return treaty_new(TARGET_REMOTE, host, NULL, flags, FLAGS_REMOTE, ret);
}

_public_ int treaty_open_machine(const char *machine, unsigned flags, treaty **ret) {
        return treaty_new(TARGET_MACHINE, machine, NULL, flags, FLAGS_REMOTE, ret);
}

_public_ int treaty_open_bus(sd_bus *bus, unsigned flags, treaty **ret) {
        return treaty_new(TARGET_GIVEN, NULL, bus, flags, FLAGS_GIVEN, ret);
}

_public_ treaty *treaty_close(treaty *t) {
        if (!t)
                return NULL;
        t->bus = t->target == TARGET_GIVEN ? sd_bus_unref(t->bus) : sd_bus_close_unref(t->bus);
        forget_error(t);
        free(t->name);
        free(t);
        return NULL;
}

_public_ int treaty_set_timeout(treaty *t, uint64_t timeout_usec) {
        if (timeout_usec < TIMEOUT_MIN_USEC || timeout_usec > TIMEOUT_MAX_USEC)
                return fail(t, -EINVAL, NULL, "A timeout is at least 1 ms and at most a year");
        t->timeout_usec = timeout_usec;
        return 0;
}

_public_ sd_bus *treaty_get_bus(treaty *t) {
        return t->bus;
}

/* ---- Calls ---- */

int call_begin(treaty *t, const char *interface, const char *member, sd_bus_message **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        int r;

        forget_error(t);
        r = connection_ensure(t, t->timeout_usec);
        if (r < 0)
                return r;
        r = sd_bus_message_new_method_call(t->bus, &call, TREATY_BUS_NAME, TREATY_OBJECT, interface, member);
        if (r >= 0 && (t->flags & TREATY_INTERACTIVE))
                r = sd_bus_message_set_allow_interactive_authorization(call, true);
        if (r < 0)
                return fail_errno(t, r, "Cannot make a call");
        *ret = TAKE(call);
        return 0;
}

int call_finish(treaty *t, sd_bus_message *call, uint64_t wait_usec, sd_bus_message **ret_reply) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        int r = sd_bus_call(t->bus, call, wait_usec, &error, ret_reply);
        return r < 0 ? fail_bus(t, r, &error) : 0;
}

int call_finish_default(treaty *t, sd_bus_message *call, sd_bus_message **ret_reply) {
        return call_finish(t, call, t->timeout_usec + CALL_GRACE_USEC, ret_reply);
}

int append_option_u64(sd_bus_message *call, const char *name, uint64_t value) {
        return sd_bus_message_append(call, "{sv}", name, "t", value);
}
