/* See store.h. */
#include "store.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int tell_manager(const char *text, int fd) {
        const char *path = secure_getenv("NOTIFY_SOCKET");
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        union {
                struct cmsghdr header;
                uint8_t bytes[CMSG_SPACE(sizeof(int))];
        } control = {};
        struct iovec iov = {(void *)text, strlen(text)};
        struct msghdr message = {.msg_name = &address, .msg_iov = &iov, .msg_iovlen = 1};

        if (!path || (path[0] != '/' && path[0] != '@'))
                return 0;
        size_t n = strlen(path);
        if (n >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, n);
        if (path[0] == '@')
                address.sun_path[0] = 0;
        message.msg_namelen = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
        if (fd >= 0) {
                message.msg_control = &control;
                message.msg_controllen = sizeof(control);
                control.header.cmsg_level = SOL_SOCKET;
                control.header.cmsg_type = SCM_RIGHTS;
                control.header.cmsg_len = CMSG_LEN(sizeof(int));
                memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
        }

        int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (s < 0)
                return -errno;
        int r = sendmsg(s, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 1;
        close(s);
        return r;
}

int store_put(const char *name, int fd) {
        char text[320];

        /* FDPOLL=0: else systemd drops a hung-up fd before we have seen that it hung up. */
        snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%s\nFDPOLL=0", name);
        return tell_manager(text, fd);
}

int store_remove(const char *name) {
        char text[320];

        snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%s", name);
        return tell_manager(text, -1);
}
