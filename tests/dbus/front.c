/* A whole host of one behind its front door, for test_front.py: the real hall on a real directory and the
 * real bus, only without a network, which a host of one does not use.
 *
 *      front STATE_DIRECTORY PRIVATE_SOCKET        (system bus by $DBUS_SYSTEM_BUS_ADDRESS, "" = none)
 *
 * SIGTERM ends it as planned. A line "ready" on stdout says that it serves. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <systemd/sd-event.h>

#include "agent/journal.h"
#include "agent/roof.h"
#include "dbus/bus.h"

typedef struct Front {
        sd_event *event;
        sd_event_source *turn, *timer;
        Agent *agent;
        Bus *bus;
} Front;

static uint64_t clock_usec(clockid_t id) {
        struct timespec t;

        clock_gettime(id, &t);
        return (uint64_t)t.tv_sec * USEC_PER_SEC + (uint64_t)t.tv_nsec / 1000;
}

static uint64_t out_now(void *userdata) {
        return clock_usec(CLOCK_BOOTTIME);
}

static uint64_t out_wall(void *userdata) {
        return clock_usec(CLOCK_REALTIME);
}

static void out_random(void *userdata, void *data, size_t size) {
        if (getrandom(data, size, 0) != (ssize_t)size)
                abort();
}

static void out_wake(void *userdata) {
        Front *front = userdata;
        sd_event_source_set_enabled(front->turn, SD_EVENT_ONESHOT);
}

/* ---- no network ---- */

static int out_listen(void *userdata) {
        return 0;
}

static int out_set_targets(void *userdata, const PeersTarget *targets, size_t n) {
        return 0;
}

static int out_send(void *userdata, uint64_t host, Bytes letter) {
        return -ENETUNREACH;
}

static bool out_connected(void *userdata, uint64_t host) {
        return false;
}

static void out_disconnect(void *userdata, uint64_t host) {
}

static int out_call(void *userdata, uint64_t host, const char *method, Bytes request, uint64_t timeout_usec,
                    const PeersCallEvents *events, PeersCall **ret) {
        return -ENETUNREACH;
}

static int out_call_address(void *userdata, const char *address, const uint8_t (*keys)[KEY_HASH_BYTES],
                            size_t n_keys, const char *method, Bytes request, uint64_t timeout_usec,
                            const PeersCallEvents *events, PeersCall **ret) {
        return -ENETUNREACH;
}

static void out_call_set_events(void *userdata, PeersCall *call, const PeersCallEvents *events) {
}

static int out_call_send(void *userdata, PeersCall *call, Bytes message) {
        return -ENETUNREACH;
}

static void out_call_end(void *userdata, PeersCall *call, PeersStatus status, const char *text) {
}

static void out_call_free(void *userdata, PeersCall *call) {
}

static void out_flush(void *userdata) {
}

/* ---- the loop ---- */

static void say(void *userdata, int level, const char *text) {
        journal_write(level, 0, NULL, NULL, "%s", text);
}

static int on_turn(sd_event_source *source, void *userdata) {
        Front *front = userdata;

        int r = agent_turn(front->agent);
        if (r < 0)
                return sd_event_exit(front->event, 1);
        uint64_t deadline = agent_deadline(front->agent);
        if (deadline == USEC_INFINITY)
                return sd_event_source_set_enabled(front->timer, SD_EVENT_OFF);
        sd_event_source_set_time(front->timer, deadline);
        return sd_event_source_set_enabled(front->timer, SD_EVENT_ONESHOT);
}

static int on_timer(sd_event_source *source, uint64_t now, void *userdata) {
        out_wake(userdata);
        return 0;
}

/* Only the turn empties the fd: left to an idle source, which a readable fd of higher priority starves, it
 * never would. */
static int on_news(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        return on_turn(NULL, userdata);
}

static int add_loop(Front *front) {
        int r = sd_event_add_defer(front->event, &front->turn, on_turn, front);
        if (r < 0)
                return r;
        sd_event_source_set_priority(front->turn, SD_EVENT_PRIORITY_IDLE);
        return sd_event_add_time(front->event, &front->timer, CLOCK_BOOTTIME, UINT64_MAX, 1, on_timer,
                                 front);
}

static int add_agent(Front *front, const char *state, Disk *disk) {
        AgentOptions options = {
                .state_directory = state,
                .disk = disk,
                .outside = {front, out_now, out_wall, out_random, out_wake, out_listen, out_set_targets,
                            out_send, out_connected, out_disconnect, out_call, out_call_address,
                            out_call_set_events, out_call_send, out_call_end, out_call_free, out_flush},
                .report = {say, NULL},
                .threads = true,
                .host_name = "h1",
                .n_addresses = 1,
                .addresses = {"192.0.2.1:7707"},
                .heartbeat_usec = 100 * USEC_PER_MSEC,
                .election_usec = 600 * USEC_PER_MSEC,
                .session_usec = 5 * USEC_PER_SEC,
                .max_voters = 5,
                .seed = clock_usec(CLOCK_REALTIME),
        };
        int r = agent_new(&front->agent, &options);
        if (r < 0)
                return r;
        if ((r = agent_log_fd(front->agent)) >= 0)
                sd_event_add_io(front->event, NULL, r, EPOLLIN, on_news, front);
        if ((r = agent_tree_fd(front->agent)) >= 0)
                sd_event_add_io(front->event, NULL, r, EPOLLIN, on_news, front);
        return 0;
}

static int run(Front *front, const char *state, Disk *disk, const char *socket) {
        const char *address = getenv("DBUS_SYSTEM_BUS_ADDRESS");
        const BusOptions options = {
                .private_path = socket,
                .private_fd = -1,
                .no_system_bus = !address || !address[0],
        };
        int r;

        if ((r = add_loop(front)) < 0 || (r = add_agent(front, state, disk)) < 0 ||
            (r = bus_new(&front->bus, front->agent, front->event, &options)) < 0 ||
            (r = bus_adopt_fds(front->bus)) < 0)
                return r;
        out_wake(front);
        puts("ready");
        fflush(stdout);
        return sd_event_loop(front->event);
}

int main(int argc, char **argv) {
        Front front = {};
        Disk *disk = NULL;
        sigset_t mask;
        int r;

        if (argc != 3)
                return 2;
        journal_open("front");
        if (getenv("FRONT_DEBUG"))
                journal_set_level(LOG_DEBUG);
        sigemptyset(&mask);
        sigaddset(&mask, SIGTERM);
        sigprocmask(SIG_BLOCK, &mask, NULL);
        if ((r = sd_event_new(&front.event)) < 0 ||
            (r = sd_event_add_signal(front.event, NULL, SIGTERM, NULL, NULL)) < 0 ||
            (r = disk_open_directory(&disk, argv[1])) < 0)
                return 1;
        r = run(&front, argv[1], disk, argv[2]);
        if (r < 0)
                log_error_errno(r, "It does not work");
        bus_free(front.bus);
        if (front.agent)
                agent_free(front.agent, r == 0);
        disk_free(disk);
        sd_event_source_unref(front.turn);
        sd_event_source_unref(front.timer);
        sd_event_unref(front.event);
        return r != 0;
}
