/* What this machine allows a service made with sd-bus: the least that a call, and a wake-up of another
 * process, cost here.
 *
 *      floor private SOCKET      answers org.treaty1.Tree.Get, with the same 256 bytes always
 *      floor bus SOCKET NAME     the same, under a name on a bus
 *      floor wake [SECONDS]      two processes on two cores wake each other in turn
 *
 * The first two are asked by treaty-load, as agents are. They do nothing, so what is left is sd-bus, the bus
 * and the kernel. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <systemd/sd-bus.h>

#define VALUE_BYTES 256
#define SOCKETS_MAX 1024
#define SAMPLES_MAX 1000000u

static void die(const char *what, int r) {
        fprintf(stderr, "floor: %s: %s\n", what, strerror(-r));
        exit(EXIT_FAILURE);
}

/* ---- The service ---- */

static int on_get(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        static const uint8_t value[VALUE_BYTES];
        sd_bus_message *reply = NULL;

        int r = sd_bus_message_new_method_return(m, &reply);
        if (r >= 0)
                r = sd_bus_message_append_array(reply, 'y', value, sizeof(value));
        if (r >= 0)
                r = sd_bus_message_append(reply, "ttt", UINT64_C(1), UINT64_C(1), UINT64_C(1));
        if (r >= 0)
                r = sd_bus_send(NULL, reply, NULL);
        sd_bus_message_unref(reply);
        return r;
}

static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("Get", "sta{sv}", "ayttt", on_get, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END,
};

static int epoll_fd;

/* Its answers are small and its callers wait for them: what cannot be sent at once does not happen. */
static void serve(sd_bus *bus) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = bus};

        int r = sd_bus_add_object_vtable(bus, NULL, "/org/treaty1", "org.treaty1.Tree", vtable, NULL);
        if (r < 0)
                die("the method", r);
        while (sd_bus_process(bus, NULL) > 0)
                ;
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, sd_bus_get_fd(bus), &event) < 0)
                die("epoll", -errno);
}

static void accept_one(int listener) {
        sd_bus *bus = NULL;
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        int r = fd < 0 ? -errno : sd_bus_new(&bus);
        if (r >= 0)
                r = sd_bus_set_fd(bus, fd, fd);
        if (r >= 0)
                r = sd_bus_set_server(
                        bus, true,
                        SD_ID128_MAKE(5a, 11, 5e, 1c, 30, 0d, 4c, 2e, 9a, 6a, 41, 6d, 21, 0b, 6e, 77));
        if (r >= 0)
                r = sd_bus_negotiate_fds(bus, true);
        if (r >= 0)
                r = sd_bus_start(bus);
        if (r < 0)
                die("a connection", r);
        serve(bus);
}

static void work(int listener) {
        struct epoll_event events[64];

        for (;;) {
                int n = epoll_wait(epoll_fd, events, 64, -1);
                for (int i = 0; i < n; i++) {
                        sd_bus *bus = events[i].data.ptr;
                        int r = 0;
                        if (!bus)
                                accept_one(listener);
                        else
                                while ((r = sd_bus_process(bus, NULL)) > 0)
                                        ;
                        if (r < 0) /* it hung up */
                                sd_bus_close_unref(bus);
                }
        }
}

static void serve_private(const char *path) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        struct epoll_event event = {.events = EPOLLIN};

        (void)unlink(path);
        snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
            listen(fd, SOCKETS_MAX) < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
                die(path, -errno);
        work(fd);
}

static void serve_bus(const char *path, const char *name) {
        char address[256];
        sd_bus *bus = NULL;

        snprintf(address, sizeof(address), "unix:path=%s", path);
        int r = sd_bus_new(&bus);
        if (r >= 0)
                r = sd_bus_set_address(bus, address);
        if (r >= 0)
                r = sd_bus_set_bus_client(bus, true);
        if (r >= 0)
                r = sd_bus_start(bus);
        if (r >= 0)
                r = sd_bus_request_name(bus, name, 0);
        if (r < 0)
                die(name, r);
        serve(bus);
        work(-1);
}

/* ---- Waking each other ---- */

static uint64_t now_nsec(void) {
        struct timespec ts;
        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static bool wait_for(int fd) {
        uint64_t value;
        return read(fd, &value, sizeof(value)) == sizeof(value);
}

static void wake(int fd) {
        uint64_t one = 1;
        if (write(fd, &one, sizeof(one)) != sizeof(one))
                exit(EXIT_FAILURE);
}

static int compare(const void *a, const void *b) {
        const uint32_t *x = a, *y = b;
        return *x < *y ? -1 : *x > *y;
}

/* Across cores, where there are two. */
static void stay_on(int core) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(core, &set);
        (void)sched_setaffinity(0, sizeof(set), &set);
}

static void measure_wakes(double seconds) {
        static uint32_t samples[SAMPLES_MAX];
        int here = eventfd(0, EFD_CLOEXEC), there = eventfd(0, EFD_CLOEXEC);
        size_t n = 0;

        if (here < 0 || there < 0)
                die("eventfd", -errno);
        pid_t child = fork();
        if (child < 0)
                die("fork", -errno);
        if (child == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                stay_on(1);
                while (wait_for(there))
                        wake(here);
                _exit(0);
        }
        stay_on(0);
        uint64_t begin = now_nsec(), end = begin + (uint64_t)(seconds * 1e9), at = begin;
        while (at < end && n < SAMPLES_MAX) {
                wake(there);
                (void)wait_for(here);
                uint64_t now = now_nsec();
                samples[n++] = (uint32_t)((now - at) / 2);
                at = now;
        }
        (void)kill(child, SIGKILL);
        qsort(samples, n, sizeof(samples[0]), compare);
        printf("{\"wakes\": %zu, \"p50_usec\": %.2f, \"p99_usec\": %.2f}\n", 2 * n, samples[n / 2] / 1e3,
               samples[n * 99 / 100] / 1e3);
}

int main(int argc, char **argv) {
        epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (argc == 3 && strcmp(argv[1], "private") == 0)
                serve_private(argv[2]);
        else if (argc == 4 && strcmp(argv[1], "bus") == 0)
                serve_bus(argv[2], argv[3]);
        else if (argc >= 2 && strcmp(argv[1], "wake") == 0) {
                measure_wakes(argc > 2 ? strtod(argv[2], NULL) : 1);
                return EXIT_SUCCESS;
        }
        fputs("floor private SOCKET | bus SOCKET NAME | wake [SECONDS]\n", stderr);
        return 2;
}
