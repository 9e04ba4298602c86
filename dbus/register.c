/* What lives as long as an fd. The caller gets one end of a socket pair; when the last copy of it is closed,
 * in whatever process, our end hangs up and the entry ends. Our end is also kept by systemd (fd store), so
 * that nothing ends because this process does: the one after it gets the end back.
 *
 * **The fd remembers what it stands for.** Path and value are written into the pair before it is handed out,
 * and lie in our end's receive queue, where only MSG_PEEK ever looks. So the next process knows both without
 * a file, even when this host's session has ended meanwhile and the tree has forgotten.
 *
 *      record: path NUL value          (one packet, SOCK_SEQPACKET)
 *      names:  FDNAME own-<32 hex>  ↔  owner tag fd:<32 hex>
 *
 * The order at birth: entry committed, fd stored, reply sent. Dying in between leaves an entry without an
 * fd, which registrations_reconcile() ends, or an fd nobody got, which hangs up. */
#include "register.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>
#include <systemd/sd-id128.h>
#include "agent/journal.h"
#include "error.h"
#include "fdrecord.h"
#include "store.h"

#define TAG_PREFIX     "fd:"
#define OWN_AGAIN_USEC (5 * USEC_PER_SEC)
#define RECONCILE_USEC (10 * USEC_PER_SEC)
#define ADOPT_TIMEOUT  (60 * USEC_PER_SEC)

/* agent_own() cannot be told to forget: its answer comes here, whether the registration still is or not.
 * After agent_disown() none comes. */
typedef struct Owning {
        Registration *reg;
} Owning;

struct Registration {
        Bus *bus;
        User *user;
        char hex[FD_HEX + 1];
        char *path;
        Buffer value;
        int fd;         /* ours */
        int theirs;     /* until it is handed out */
        Call *call;     /* waits for it */
        Owning *owning; /* an answer of agent_own() that is still to come */
        bool stored;
        sd_event_source *hangup;
        sd_event_source *again; /* adopted: owning is tried again */
        UT_hash_handle hh;      /* by hex, in Bus.registrations */
};

static const char *with_prefix(const char *prefix, const char *hex, char to[static 48]) {
        snprintf(to, 48, "%s%s", prefix, hex);
        return to;
}

/* Lets go of everything but the entry: for the end of this process. */
static Registration *registration_free(Registration *reg) {
        if (!reg)
                return NULL;

        Bus *bus = reg->bus;
        if (reg->owning)
                reg->owning->reg = NULL;
        sd_event_source_disable_unref(reg->hangup);
        sd_event_source_disable_unref(reg->again);
        if (reg->fd >= 0)
                close(reg->fd);
        if (reg->theirs >= 0)
                close(reg->theirs);
        if (reg->call)
                reg->call->registration = NULL;
        if (HASH_ADDED(reg))
                HASH_DEL(bus->registrations, reg);
        bus->n_registrations--;
        reg->user->n_owned--;
        user_put(bus, reg->user);
        buffer_deinit(&reg->value);
        free(reg->path);
        free(reg);
        return NULL;
}

/* Its owner is gone: so is the entry. */
static void registration_end(Registration *reg) {
        Agent *agent = reg->bus->agent;
        char text[48];

        if (reg->stored) {
                int r = store_remove(with_prefix(FD_NAME_PREFIX, reg->hex, text));
                if (r < 0)
                        log_debug("The fd store keeps %s: %s", text, strerror(-r));
        }
        with_prefix(TAG_PREFIX, reg->hex, text);
        Owning *owning = reg->owning;
        registration_free(reg);
        agent_disown(agent, text);
        free(owning);
}

void registration_abandon(Registration *reg) {
        reg->call->registration = NULL;
        reg->call = NULL;
        registration_end(reg);
}

void registrations_free(Bus *bus) {
        bus->reconcile = sd_event_source_disable_unref(bus->reconcile);
        while (bus->registrations)
                registration_free(bus->registrations);
}

static int on_hangup(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Registration *reg = userdata;

        log_debug("The owner of %s is gone.", reg->path);
        registration_end(reg);
        return 0;
}

static int registration_new(Bus *bus, uid_t uid, const char *hex, const char *path, Bytes value,
                            Registration **ret) {
        User *user = user_get(bus, uid);
        if (!user)
                return -ENOMEM;
        Registration *reg = calloc(1, sizeof(Registration));
        if (!reg) {
                user_put(bus, user);
                return -ENOMEM;
        }
        reg->bus = bus;
        reg->user = user;
        reg->fd = reg->theirs = -1;
        user->n_owned++;
        bus->n_registrations++;
        strcpy(reg->hex, hex);
        HASH_ADD_STR(bus->registrations, hex, reg);
        reg->path = strdup(path);
        if (!HASH_ADDED(reg) || !reg->path || buffer_append(&reg->value, value.data, value.size) < 0) {
                registration_free(reg);
                return -ENOMEM;
        }
        *ret = reg;
        return 0;
}

/* ---- birth ---- */

static int make_pair(Registration *reg) {
        struct iovec iov[2] = {{reg->path, strlen(reg->path) + 1}, {reg->value.data, reg->value.size}};
        struct msghdr message = {.msg_iov = iov, .msg_iovlen = 2};
        int fds[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
                return -errno;
        reg->fd = fds[0];
        reg->theirs = fds[1];
        if (sendmsg(reg->theirs, &message, MSG_NOSIGNAL) < 0 || shutdown(reg->fd, SHUT_RD) < 0)
                return -errno;
        return sd_event_add_io(reg->bus->event, &reg->hangup, reg->fd, 0, on_hangup, reg);
}

static void keep_over_restart(Registration *reg) {
        char name[48];

        int r = store_put(with_prefix(FD_NAME_PREFIX, reg->hex, name), reg->fd);
        if (r < 0)
                log_warning_errno(
                        r, "%s will not outlive a restart of this agent: the fd store does not take it",
                        reg->path);
        reg->stored = r > 0;
}

static Registration *owning_take(Owning *owning) {
        Registration *reg = owning->reg;

        if (reg)
                reg->owning = NULL;
        free(owning);
        return reg;
}

static int own(Registration *reg, uint64_t timeout_usec, RequestDone done) {
        Request *request = NULL;
        char tag[48];

        assert(!reg->owning);
        reg->owning = calloc(1, sizeof(Owning));
        if (!reg->owning)
                return -ENOMEM;
        reg->owning->reg = reg;
        int r = agent_own(reg->bus->agent, reg->path, BYTES(reg->value.data, reg->value.size),
                          with_prefix(TAG_PREFIX, reg->hex, tag), timeout_usec, done, reg->owning, &request);
        if (r < 0)
                owning_take(reg->owning);
        return r;
}

static void on_owned(const RequestAnswer *answer, void *userdata) {
        Registration *reg = owning_take(userdata);
        if (!reg)
                return;
        Call *call = TAKE(reg->call);

        assert(call);
        call->registration = NULL;
        if (answer->answer != ANSWER_DONE) {
                call_fail_request(call, answer);
                registration_end(reg);
                return;
        }
        keep_over_restart(reg);
        call_return(call, "ht", reg->theirs, answer->result.revision);
        close(reg->theirs);
        reg->theirs = -1;
}

int registration_begin(Call *call, const char *path, Bytes value, uint64_t timeout_usec) {
        Bus *bus = call_bus(call);
        User *user = call->client->user;
        char hex[SD_ID128_STRING_MAX];
        Registration *reg;
        sd_id128_t id;

        if (bus->n_registrations >= LIMIT_OWNED || (user->uid != 0 && user->n_owned >= LIMIT_OWNED_PER_UID))
                return call_fail(call, SD_BUS_ERROR_LIMITS_EXCEEDED,
                                 "Too many registrations live on this host (at most %d). Close some.",
                                 LIMIT_OWNED);
        int r = sd_id128_randomize(&id);
        if (r < 0)
                return r;
        r = registration_new(bus, user->uid, sd_id128_to_string(id, hex), path, value, &reg);
        if (r < 0)
                return r;
        r = make_pair(reg);
        if (r >= 0)
                r = own(reg, timeout_usec, on_owned);
        if (r < 0) {
                registration_free(reg);
                return r;
        }
        reg->call = call;
        call->registration = reg;
        return 0;
}

/* ---- after a restart ---- */

static void own_again(Registration *reg);

static int on_own_again(sd_event_source *source, uint64_t now, void *userdata) {
        Registration *reg = userdata;

        reg->again = sd_event_source_disable_unref(reg->again);
        own_again(reg);
        return 0;
}

static void own_later(Registration *reg) {
        (void)sd_event_add_time_relative(reg->bus->event, &reg->again, CLOCK_BOOTTIME, OWN_AGAIN_USEC,
                                         USEC_PER_SEC, on_own_again, reg);
}

static void on_owned_again(const RequestAnswer *answer, void *userdata) {
        Registration *reg = owning_take(userdata);

        if (!reg)
                return;
        if (answer->answer == ANSWER_DONE || answer->answer == ANSWER_STOPPING)
                return;
        if (answer->answer == ANSWER_REFUSED && answer->result.status == RESULT_EXISTS) {
                /* Somebody else took the place while this host was away: the owner learns it from his fd. */
                log_warning("%s belongs to another owner now; the fd that held it is hung up.", reg->path);
                registration_end(reg);
                return;
        }
        own_later(reg);
}

static void own_again(Registration *reg) {
        if (own(reg, ADOPT_TIMEOUT, on_owned_again) < 0)
                own_later(reg);
}

/* Path and value, as make_pair() left them. */
static bool has_registration(Bus *bus, const char *hex) {
        Registration *reg;

        HASH_FIND_STR(bus->registrations, hex, reg);
        return reg != NULL;
}

static int adopt(Bus *bus, const char *name, int fd) {
        char record[FD_RECORD_BYTES];
        Registration *reg;
        const char *path;
        Bytes value;

        const char *hex = fd_name_read(name);
        if (!hex || has_registration(bus, hex) || bus->n_registrations >= LIMIT_OWNED)
                return -EINVAL;
        ssize_t n = recv(fd, record, sizeof(record), MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0)
                return -errno;
        if ((size_t)n > sizeof(record))
                return -EBADMSG;
        int r = fd_record_read(BYTES(record, (size_t)n), &path, &value);
        if (r < 0)
                return r;
        r = registration_new(bus, 0, hex, path, value, &reg);
        if (r < 0)
                return r;
        reg->stored = true;
        r = sd_event_add_io(bus->event, &reg->hangup, fd, 0, on_hangup, reg);
        if (r < 0) {
                registration_free(reg);
                return r;
        }
        reg->fd = fd;
        own_again(reg);
        return 0;
}

static int on_reconcile(sd_event_source *source, uint64_t now, void *userdata) {
        Bus *bus = userdata;

        bus->reconcile = sd_event_source_disable_unref(bus->reconcile);
        registrations_reconcile(bus);
        return 0;
}

static void strv_freep_n(char ***strv) {
        for (char **s = *strv; s && *s; s++)
                free(*s);
        free(*strv);
}

int bus_adopt_fds(Bus *bus) {
        _cleanup_(strv_freep_n) char **names = NULL;
        int adopted = 0;

        int n = sd_listen_fds_with_names(false, &names);
        if (n < 0)
                return n;
        for (int i = 0; i < n; i++) {
                if (strncmp(names[i], FD_NAME_PREFIX, strlen(FD_NAME_PREFIX)) != 0)
                        continue;
                int r = adopt(bus, names[i], SD_LISTEN_FDS_START + i);
                if (r < 0) {
                        log_warning_errno(r, "The fd %s from the fd store is of no use", names[i]);
                        (void)store_remove(names[i]);
                        close(SD_LISTEN_FDS_START + i);
                } else
                        adopted++;
        }
        registrations_reconcile(bus);
        /* What the log still holds at start appears in the tree only a moment later. */
        (void)sd_event_add_time_relative(bus->event, &bus->reconcile, CLOCK_BOOTTIME, RECONCILE_USEC,
                                         USEC_PER_SEC, on_reconcile, bus);
        return adopted;
}

typedef struct Orphans {
        Bus *bus;
        size_t n;
        char (*tags)[48];
} Orphans;

static int find_orphan(const char *path, const char *tag, void *userdata) {
        Orphans *orphans = userdata;
        size_t prefix = strlen(TAG_PREFIX);

        if (strncmp(tag, TAG_PREFIX, prefix) != 0 || !fd_hex_is_valid(tag + prefix) ||
            orphans->n >= LIMIT_OWNED || has_registration(orphans->bus, tag + prefix))
                return 0;
        void *more = realloc(orphans->tags, (orphans->n + 1) * sizeof(orphans->tags[0]));
        if (!more)
                return -ENOMEM;
        orphans->tags = more;
        snprintf(orphans->tags[orphans->n++], 48, "%s", tag);
        return 0;
}

void registrations_reconcile(Bus *bus) {
        Orphans orphans = {.bus = bus};

        (void)agent_owned(bus->agent, find_orphan, &orphans);
        for (size_t i = 0; i < orphans.n; i++)
                agent_disown(bus->agent, orphans.tags[i]);
        free(orphans.tags);
}
