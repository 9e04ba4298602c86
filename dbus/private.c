/* The private socket: peer to peer, without a bus between. Any local user may connect (mode 0666): the guard
 * decides by the uid that the kernel names. So what a stranger can hold is bounded: connections in all and
 * per user, calls and unread replies per connection.
 *
 * sd-event looks at every attached connection before each single event, and asks the kernel for all ready
 * ones again after each: n callers at once cost n squared. So a connection is sd-event's only while it
 * authenticates (that has a deadline); then it joins the crowd, the loop's own epoll set or one of ours
 * behind one source, and all who have something to say are heard in one go. */
#include "internal.h"
#include "quick.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include <utlist.h>

#include <systemd/sd-id128.h>
#include "agent/journal.h"
#include "policy/credentials.h"

#define ACCEPTS_PER_WAKE  32
#define ACCEPT_AGAIN_USEC (1 * USEC_PER_SEC)
#define CROWD_PER_LOOK    64
#define CROWD_LOOKS       4                 /* of one wake: then the turn and others have theirs */
#define MESSAGE_BYTES     (2 * 1024 * 1024) /* one of a client who is not root */

static void closep(int *fd) {
        if (*fd >= 0)
                close(*fd);
}

/* ---- what is read ---- */

static bool is_from_stranger(int fd) {
        struct ucred who;
        socklen_t size = sizeof(who);

        return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0 || who.uid != 0;
}

static bool is_private(int fd) {
        struct sockaddr_un name = {};
        socklen_t size = sizeof(name);

        return getsockname(fd, (struct sockaddr *)&name, &size) == 0 && name.sun_family == AF_UNIX &&
               name.sun_path[0] != 0; /* of the one to the bus it is empty */
}

/* Whatever reads from a private client's socket by this name is sd-bus, which trusts him in two things too
 * far; it calls us in place of libc's.
 *
 * No method takes an fd, but sd-bus takes those that come along, and of a message that it then finds to be
 * malformed (it has fewer than its header says, or more) it drops them without closing them (252): any local
 * user could use up all of the agent's. So there is no room for them here; the kernel lets go of them by
 * itself, and sd-bus, which is told that some were, ends the connection.
 *
 * And it makes room for what a message says to be long, 128 MiB of it, before anybody asks what it is. */
__attribute__((visibility("default"))) ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
        if (message->msg_control && is_private(fd)) {
                message->msg_control = NULL;
                message->msg_controllen = 0;
                if (message->msg_iovlen > 0 && message->msg_iov[0].iov_len > MESSAGE_BYTES &&
                    is_from_stranger(fd)) {
                        errno = EMSGSIZE;
                        return -1;
                }
        }
        return syscall(SYS_recvmsg, fd, message, flags);
}

/* ---- the crowd ---- */

/* Waits for what sd-bus waits for now: room for its replies, too, when some were not taken. */
void private_watch(Link *link) {
        if (!link->in_crowd || link->doomed)
                return;
        int events = sd_bus_get_events(link->sd);
        if (events < 0) {
                link_doom(link);
                return;
        }
        if (events == link->events)
                return;
        struct epoll_event event = {.events = (uint32_t)events, .data.ptr = &link->ready};
        if (epoll_ctl(link->bus->crowd_fd, EPOLL_CTL_MOD, sd_bus_get_fd(link->sd), &event) < 0)
                link_doom(link);
        link->events = events;
}

/* One step of sd-bus is one message at most; who has sent more is seen at the next look. sd-bus reads no
 * further than one message, but part of one it keeps: until it has told what it made of that, what follows
 * in the socket is not the begin of a message. */
static void hear(Link *link) {
        if (link->doomed)
                return;
        if (!link->sd_reads && quick_hear(link) > 0)
                return;
        link->sd_reads = true;
        if (sd_bus_process(link->sd, NULL) < 0)
                link_doom(link);
        private_watch(link);
}

static void on_ready(Ready *ready, uint32_t events) {
        static_assert(offsetof(Link, ready) == 0, "who is ready is the link");
        hear((Link *)ready);
}

static int on_crowd(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        struct epoll_event events[CROWD_PER_LOOK];

        for (int i = 0; i < CROWD_LOOKS; i++) {
                int n = epoll_wait(fd, events, CROWD_PER_LOOK, 0);
                if (n <= 0)
                        return 0;
                /* Nothing is freed meanwhile: the reaper has a source of its own. */
                for (int j = 0; j < n; j++)
                        on_ready(events[j].data.ptr, events[j].events);
        }
        return 0;
}

static int join_crowd(Link *link) {
        int fd = sd_bus_get_fd(link->sd);
        if (fd < 0)
                return fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &link->ready};
        int r = sd_bus_detach_event(link->sd);
        if (r < 0)
                return r;
        if (epoll_ctl(link->bus->crowd_fd, EPOLL_CTL_ADD, fd, &event) < 0)
                return -errno;
        link->ready.ready = on_ready;
        link->fd = fd;
        link->in_crowd = true;
        link->events = POLLIN;
        return 0;
}

void private_leave(Link *link) {
        int fd = link->in_crowd ? sd_bus_get_fd(link->sd) : -1;
        if (fd >= 0)
                (void)epoll_ctl(link->bus->crowd_fd, EPOLL_CTL_DEL, fd, NULL);
        link->in_crowd = false;
}

static int crowd_open(Bus *bus) {
        bus->crowd_fd = bus->options.epoll_fd;
        if (bus->crowd_fd > 0)
                return 0;
        bus->crowd_fd = epoll_create1(EPOLL_CLOEXEC);
        if (bus->crowd_fd < 0)
                return -errno;
        return sd_event_add_io(bus->event, &bus->crowd, bus->crowd_fd, EPOLLIN, on_crowd, bus);
}

/* ---- one connection ---- */

static int on_disconnected(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        link_doom(userdata);
        return 0;
}

/* Some libraries send their first call in one piece with the end of their authentication. sd-bus (252) then
 * holds the call already, but waits for the socket to become readable before it looks: so it is made to
 * look. */
#define FIRST_CALLS 64 /* more than fit behind a BEGIN in one read */

static int on_first_calls(sd_event_source *source, void *userdata) {
        Link *link = userdata;

        if (link->doomed)
                return 0;
        if (join_crowd(link) < 0) {
                link_doom(link);
                return 0;
        }
        int r = 1;
        for (int i = 0; i < FIRST_CALLS && r > 0 && !link->doomed; i++)
                r = sd_bus_process(link->sd, NULL);
        if (r < 0)
                link_doom(link);
        link->sd_reads = true; /* behind the authentication it may have read too far */
        private_watch(link);
        return 0;
}

static int on_connected(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Link *link = userdata;

        return sd_event_source_set_enabled(link->first_calls, SD_EVENT_ONESHOT);
}

static int follow(Link *link) {
        int r = sd_event_add_defer(link->bus->event, &link->first_calls, on_first_calls, link);
        if (r < 0)
                return r;
        r = sd_event_source_set_enabled(link->first_calls, SD_EVENT_OFF);
        if (r < 0)
                return r;
        r = sd_bus_match_signal(link->sd, NULL, "org.freedesktop.DBus.Local", "/org/freedesktop/DBus/Local",
                                "org.freedesktop.DBus.Local", "Connected", on_connected, link);
        if (r < 0)
                return r;
        return sd_bus_match_signal(link->sd, NULL, "org.freedesktop.DBus.Local",
                                   "/org/freedesktop/DBus/Local", "org.freedesktop.DBus.Local",
                                   "Disconnected", on_disconnected, link);
}

/* As PID 1 serves /run/systemd/private. The fd is sd-bus's from sd_bus_set_fd() on. */
static int serve(Link *link, int *fd) {
        sd_id128_t id;
        sd_bus *sd;

        int r = sd_id128_randomize(&id);
        if (r < 0)
                return r;
        r = sd_bus_new(&link->sd);
        if (r < 0)
                return r;
        sd = link->sd;
        r = sd_bus_set_fd(sd, *fd, *fd);
        if (r < 0)
                return r;
        *fd = -1;
        /* Who calls was asked of the kernel in welcome(). sd-bus would ask again, and turn away whoever has
         * no pid here: a client in another pid namespace. */
        if ((r = sd_bus_set_anonymous(sd, true)) < 0 || (r = sd_bus_set_description(sd, "private")) < 0 ||
            (r = sd_bus_set_server(sd, true, id)) < 0 || (r = sd_bus_set_sender(sd, BUS_NAME)) < 0 ||
            (r = sd_bus_set_connected_signal(sd, true)) < 0 || (r = sd_bus_start(sd)) < 0 ||
            (r = sd_bus_attach_event(sd, link->bus->event, SD_EVENT_PRIORITY_NORMAL)) < 0)
                return r;
        r = follow(link);
        if (r < 0)
                return r;
        return link_add_objects(link);
}

static bool room_for(Bus *bus, uid_t uid) {
        User *user;

        if (bus->n_links >= (uid == 0 ? LIMIT_PRIVATE_CLIENTS : LIMIT_OF_STRANGERS(LIMIT_PRIVATE_CLIENTS)))
                return false;
        HASH_FIND(hh, bus->users, &uid, sizeof(uid), user);
        return uid == 0 || !user || user->n_links < LIMIT_PRIVATE_CLIENTS_PER_UID;
}

static int welcome(Bus *bus, int *fd) {
        _cleanup_(caller_deinit) Caller caller = {};
        Client *client;

        int r = credentials_of_socket(*fd, &caller);
        if (r < 0)
                return r;
        if (!room_for(bus, caller.uid))
                return -EUSERS;

        Link *link = calloc(1, sizeof(Link));
        if (!link)
                return -ENOMEM;
        link->bus = bus;
        link->private = true;
        r = client_new_private(link, &caller, &client);
        if (r < 0) {
                link_free(link);
                return r;
        }
        r = serve(link, fd);
        if (r < 0) {
                link_free(link);
                return r;
        }
        client->user->n_links++;
        bus->n_links++;
        DL_APPEND(bus->links, link);
        return 0;
}

static int on_accept_again(sd_event_source *source, uint64_t now, void *userdata) {
        Bus *bus = userdata;

        bus->listen_again = sd_event_source_disable_unref(bus->listen_again);
        return sd_event_source_set_enabled(bus->listening, SD_EVENT_ON);
}

/* Out of fds or memory: the socket stays readable, so a pause keeps the loop from spinning. */
static int pause_listening(Bus *bus, int r) {
        log_warning_errno(r, "New clients of the private socket have to wait");
        (void)sd_event_source_set_enabled(bus->listening, SD_EVENT_OFF);
        return sd_event_add_time_relative(bus->event, &bus->listen_again, CLOCK_BOOTTIME, ACCEPT_AGAIN_USEC,
                                          0, on_accept_again, bus);
}

static int on_listen(sd_event_source *source, int listen_fd, uint32_t events, void *userdata) {
        Bus *bus = userdata;

        for (int i = 0; i < ACCEPTS_PER_WAKE; i++) {
                _cleanup_(closep) int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
                        return 0;
                if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS))
                        return pause_listening(bus, -errno);
                if (fd < 0)
                        continue;
                int r = welcome(bus, &fd);
                if (r < 0)
                        log_debug("A client of the private socket was turned away: %s", strerror(-r));
        }
        return 0;
}

static int remove_stale(const char *path) {
        struct stat st;

        if (lstat(path, &st) < 0)
                return errno == ENOENT ? 0 : -errno;
        if (!S_ISSOCK(st.st_mode))
                return -EEXIST;
        return unlink(path) < 0 ? -errno : 0;
}

static int listen_at(const char *path) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        strcpy(address.sun_path, path);
        int r = remove_stale(path);
        if (r < 0)
                return r;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || chmod(path, 0666) < 0 ||
            listen(fd, SOMAXCONN) < 0) {
                r = -errno;
                close(fd);
                return r;
        }
        return fd;
}

int private_open(Bus *bus) {
        if (bus->listen_fd < 0) {
                int fd = listen_at(bus->private_path);
                if (fd < 0)
                        return log_error_errno(fd, "The private socket %s cannot be made",
                                               bus->private_path);
                bus->listen_fd = fd;
        } else {
                /* Its path is not ours to remove. */
                free(TAKE(bus->private_path));
        }
        int r = crowd_open(bus);
        if (r < 0)
                return r;
        return sd_event_add_io(bus->event, &bus->listening, bus->listen_fd, EPOLLIN, on_listen, bus);
}

void private_close(Bus *bus) {
        sd_event_source_disable_unref(bus->listening);
        sd_event_source_disable_unref(bus->listen_again);
        bus->listening = bus->listen_again = NULL;
        if (bus->listen_fd >= 0 && bus->private_path)
                (void)unlink(bus->private_path);
        closep(&bus->listen_fd);
        bus->listen_fd = -1;
        bool own = bus->crowd;
        bus->crowd = sd_event_source_disable_unref(bus->crowd);
        if (own)
                closep(&bus->crowd_fd);
        bus->crowd_fd = -1;
}
