/* See credentials.h. */
#include "credentials.h"

#include <string.h>
#include <sys/socket.h>

#define GROUPS_MAX         65536 /* NGROUPS_MAX of Linux */
#define CREDENTIALS_FIELDS 64    /* of one reply, more than any bus knows */
#define ASK_TIMEOUT_USEC   (25 * USEC_PER_SEC)

int credentials_ask(sd_bus *bus, const char *name, sd_bus_message_handler_t done, void *userdata,
                    sd_bus_slot **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;

        int r = sd_bus_message_new_method_call(bus, &m, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                               "org.freedesktop.DBus", "GetConnectionCredentials");
        if (r < 0)
                return r;
        r = sd_bus_message_append(m, "s", name);
        if (r < 0)
                return r;
        r = sd_bus_call_async(bus, ret, m, done, userdata, ASK_TIMEOUT_USEC);
        return r < 0 ? r : 0;
}

static int read_groups(sd_bus_message *m, Caller *ret) {
        const void *gids;
        size_t size;

        int r = sd_bus_message_enter_container(m, 'v', "au");
        if (r < 0)
                return r;
        r = sd_bus_message_read_array(m, 'u', &gids, &size);
        if (r < 0)
                return r;
        if (size / sizeof(uint32_t) > GROUPS_MAX)
                return -EBADMSG;
        free(ret->gids);
        ret->gids = malloc(size + 1);
        if (!ret->gids)
                return -ENOMEM;
        memcpy(ret->gids, gids, size);
        ret->n_gids = size / sizeof(uint32_t);
        return sd_bus_message_exit_container(m);
}

static int read_field(sd_bus_message *m, Caller *ret, bool *has_uid) {
        const char *key, *type;
        uint32_t number;

        int r = sd_bus_message_read_basic(m, 's', &key);
        if (r < 0)
                return r;
        r = sd_bus_message_peek_type(m, NULL, &type);
        if (r < 0)
                return r;
        if (strcmp(key, "UnixGroupIDs") == 0 && strcmp(type, "au") == 0)
                return read_groups(m, ret);
        if (strcmp(type, "u") != 0)
                return sd_bus_message_skip(m, "v");
        r = sd_bus_message_read(m, "v", "u", &number);
        if (r < 0)
                return r;
        if (strcmp(key, "UnixUserID") == 0) {
                ret->uid = number;
                *has_uid = true;
        } else if (strcmp(key, "ProcessID") == 0)
                ret->pid = (pid_t)number;
        return 0;
}

static int read_fields(sd_bus_message *m, Caller *ret, bool *has_uid) {
        int r = sd_bus_message_enter_container(m, 'a', "{sv}");
        if (r < 0)
                return r;
        for (unsigned n = 0; n < CREDENTIALS_FIELDS; n++) {
                r = sd_bus_message_enter_container(m, 'e', "sv");
                if (r <= 0)
                        return r;
                r = read_field(m, ret, has_uid);
                if (r < 0)
                        return r;
                r = sd_bus_message_exit_container(m);
                if (r < 0)
                        return r;
        }
        return -EBADMSG;
}

int credentials_read(sd_bus_message *reply, Caller *ret) {
        Caller caller = {.on_bus = true};
        bool has_uid = false;

        if (sd_bus_message_is_method_error(reply, SD_BUS_ERROR_NAME_HAS_NO_OWNER))
                return -ESRCH;
        if (sd_bus_message_is_method_error(reply, NULL))
                return -EPROTO;

        int r = read_fields(reply, &caller, &has_uid);
        if (r < 0 || !has_uid) {
                caller_deinit(&caller);
                return r == -ENOMEM ? r : -EBADMSG;
        }
        caller.known = true;
        *ret = caller;
        return 0;
}

static int groups_of_socket(int fd, Caller *caller) {
        socklen_t size = 64 * sizeof(gid_t);

        for (;;) {
                gid_t *gids = malloc(size);
                if (!gids)
                        return -ENOMEM;
                if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, gids, &size) >= 0) {
                        caller->gids = gids;
                        caller->n_gids = size / sizeof(gid_t);
                        return 0;
                }
                free(gids);
                if (errno != ERANGE || size > GROUPS_MAX * sizeof(gid_t))
                        return -errno;
        }
}

int credentials_of_socket(int fd, Caller *ret) {
        Caller caller = {};
        struct ucred peer;
        socklen_t size = sizeof(peer);

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
                return -errno;
        int r = groups_of_socket(fd, &caller);
        if (r < 0)
                return r;
        caller.uid = peer.uid;
        caller.pid = peer.pid;
        caller.known = true;
        *ret = caller;
        return 0;
}
