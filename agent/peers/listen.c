/* Listening. Whoever knocks costs us a socket and a handshake, so those whose key is not (yet) known to be a
 * member's are counted, in all and per address. When they are too many the oldest has to go, not the newest:
 * an honest handshake takes milliseconds, and who only holds a place is by then the oldest. */
#include "inside.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <unistd.h>

#define PAUSE_USEC (200 * USEC_PER_MSEC)

static int port_parse(const char *text, uint16_t *ret) {
        unsigned port = 0;
        if (!*text || strlen(text) > 5)
                return -EINVAL;
        for (; *text; text++) {
                if (*text < '0' || *text > '9')
                        return -EINVAL;
                port = port * 10 + (unsigned)(*text - '0');
        }
        if (port > UINT16_MAX)
                return -EINVAL;
        *ret = htons((uint16_t)port);
        return 0;
}

int address_parse(const char *text, bool wildcard, Address *ret) {
        char host[INET6_ADDRSTRLEN + 1];
        const char *begin = text, *colon = strrchr(text, ':');
        if (!colon)
                return -EINVAL;
        size_t size = (size_t)(colon - text);
        bool v6 = text[0] == '[' && size >= 2 && colon[-1] == ']';
        if (v6) {
                begin++;
                size -= 2;
        }
        if (size >= sizeof(host))
                return -EINVAL;
        memcpy(host, begin, size);
        host[size] = 0;

        *ret = (Address){};
        uint16_t port;
        if (port_parse(colon + 1, &port) < 0 || (port == 0 && !wildcard))
                return -EINVAL;
        if (v6 || (size == 0 && wildcard)) {
                ret->size = sizeof(ret->v6);
                ret->v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = port};
                return size == 0                                            ? (wildcard && !v6 ? 0 : -EINVAL)
                       : inet_pton(AF_INET6, host, &ret->v6.sin6_addr) == 1 ? 0
                                                                            : -EINVAL;
        }
        ret->size = sizeof(ret->v4);
        ret->v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port};
        return inet_pton(AF_INET, host, &ret->v4.sin_addr) == 1 ? 0 : -EINVAL;
}

void listener_deinit(Listener *listener) {
        listener->io = sd_event_source_disable_unref(listener->io);
        listener->pause = sd_event_source_disable_unref(listener->pause);
        if (listener->fd >= 0)
                close(listener->fd);
        listener->fd = -1;
}

static int on_pause_over(sd_event_source *source, uint64_t usec, void *userdata) {
        Listener *listener = userdata;
        listener->pause = sd_event_source_disable_unref(listener->pause);
        sd_event_source_set_enabled(listener->io, SD_EVENT_ON);
        return 0;
}

/* Without file descriptors the knock stays pending, and the loop would spin. */
static void listener_pause(Listener *listener) {
        report_say(&listener->peers->report, LOG_WARNING,
                   "Out of file descriptors: peers that connect have to wait.");
        if (sd_event_add_time_relative(listener->peers->event, &listener->pause, CLOCK_BOOTTIME, PAUSE_USEC,
                                       0, on_pause_over, listener) >= 0)
                sd_event_source_set_enabled(listener->io, SD_EVENT_OFF);
}

static int on_knock(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Listener *listener = userdata;
        Peers *peers = listener->peers;
        peers_enter(peers);
        for (int i = 0; i < ACCEPTS_PER_WAKE && !peers->freed; i++) {
                Address from = {.size = sizeof(from.v6)};
                int accepted = accept4(fd, &from.sa, &from.size, SOCK_CLOEXEC | SOCK_NONBLOCK);
                if (accepted < 0 &&
                    (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM))
                        listener_pause(listener);
                if (accepted < 0)
                        break;
                connection_accept(peers, accepted, &from);
        }
        peers_leave(peers);
        return 0;
}

static int listener_open(const Address *address) {
        int one = 1, zero = 0;
        int fd = socket(address->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &one, sizeof(one));
        if (address->sa.sa_family == AF_INET6) {
                setsockopt(fd, IPPROTO_IPV6, IPV6_FREEBIND, &one, sizeof(one));
                setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
        }
        if (bind(fd, &address->sa, address->size) < 0 || listen(fd, 128) < 0) {
                int r = -errno;
                close(fd);
                return r;
        }
        return fd;
}

static int listener_add(Peers *peers, const Address *address) {
        if (peers->n_listeners == LISTENERS_MAX)
                return -EBUSY;
        int fd = listener_open(address);
        if (fd < 0)
                return fd;
        Listener *listener = peers->listeners + peers->n_listeners;
        *listener = (Listener){.peers = peers, .fd = fd};
        int r = sd_event_add_io(peers->event, &listener->io, fd, EPOLLIN, on_knock, listener);
        if (r < 0) {
                listener_deinit(listener);
                return r;
        }
        peers->n_listeners++;
        return 0;
}

int peers_listen(Peers *peers, const char *text) {
        Address address;
        int r = address_parse(text, true, &address);
        if (r < 0)
                return r;
        r = listener_add(peers, &address);
        if (r != -EAFNOSUPPORT || text[0] != ':')
                return r;
        /* No IPv6 on this host: the wildcard is IPv4's. */
        Address v4 = {.size = sizeof(v4.v4),
                      .v4 = {.sin_family = AF_INET, .sin_port = address.v6.sin6_port}};
        return listener_add(peers, &v4);
}

void peers_unlisten(Peers *peers) {
        while (peers->n_listeners > 0)
                listener_deinit(peers->listeners + --peers->n_listeners);
}
