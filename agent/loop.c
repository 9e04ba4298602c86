/* The loop wakes, the hall turns. Whatever is ready only notes; when all that was ready at once has been
 * heard, and something was noted or the hall's deadline has come, the turn follows. Never inside an event,
 * and an endless flood only makes batches larger.
 *
 * Two loops are one here. What happens thousands of times a second (peers, private clients, the log's
 * thread) waits in an epoll set of our own: one epoll_wait() brings all of it, its timeout is the hall's
 * deadline. Everything else is sd-event's, whose fd is one more in that set: it looks at each source before
 * each event, and needs two to four system calls for one. */
#include "loop.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <malloc.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-id128.h>
#include "base/ready.h"
#include "dbus/bus.h"
#include "journal.h"
#include "network.h"
#include "roof.h"

#define ADDRESSES_USEC (30 * USEC_PER_SEC)

/* systemd-id128(1) new: treaty's own, so that the machine id itself never leaves the host. */
#define MACHINE_APP SD_ID128_MAKE(6f, 1d, 6c, 0e, 52, 8a, 4b, d6, 9e, 1b, 3f, 7a, 22, c4, 90, 5d)

struct Loop {
        sd_event *event;
        sd_event_source *addresses;
        int epoll_fd;
        Ready quiet; /* nothing is to be done for it by itself: sd-event is asked anyway */
        struct News {
                Ready ready;
                struct Loop *loop;
        } log, tree;
        bool noted;
        Agent *agent;
        Bus *bus;
        Disk *disk;
        Key *key;
        Network network;
        Config config; /* a copy; strings are the caller's */
        char *join;    /* the token of a join that began before this start */
        bool ready, stopping;
        int exit_status;
        char status[256];
};

Network *network_of(void *userdata) {
        return &((Loop *)userdata)->network;
}

/* ---- What the hall asks of the world ---- */

static uint64_t now_boottime(void *userdata) {
        struct timespec ts;
        (void)clock_gettime(CLOCK_BOOTTIME, &ts);
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

static uint64_t now_wall(void *userdata) {
        struct timespec ts;
        (void)clock_gettime(CLOCK_REALTIME, &ts);
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

static void random_bytes(void *userdata, void *data, size_t size) {
        uint8_t *to = data;
        while (size > 0) {
                ssize_t n = getrandom(to, size, 0);
                if (n < 0 && errno != EINTR)
                        abort(); /* no secrets without randomness */
                if (n > 0) {
                        to += n;
                        size -= (size_t)n;
                }
        }
}

static void wake(void *userdata) {
        ((Loop *)userdata)->noted = true;
}

static void say(void *userdata, int level, const char *text) {
        journal_write(level, 0, NULL, NULL, "%s", text);
}

static void alarm_person(void *userdata, const char *message_id, const char *text) {
        journal_write(LOG_ALERT, 0, message_id, NULL, "%s", text);
}

/* ---- The turn ---- */

static const char *role_text(AgentRole role) {
        switch (role) {
        case AGENT_OBSERVER:
                return "Observer";
        case AGENT_FOLLOWER:
                return "Follower";
        case AGENT_CANDIDATE:
                return "Candidate";
        case AGENT_LEADER:
                return "Leader";
        case AGENT_REMOVED:
                return "Removed";
        }
        return "?";
}

static const char *state_text(AgentState state) {
        switch (state) {
        case AGENT_RUNNING:
                return "";
        case AGENT_NO_QUORUM:
                return ", no quorum: reads go on, writes wait";
        case AGENT_FULL_DISK:
                return ", disk full: writes are refused";
        case AGENT_DAMAGED:
                return ", damaged logs: see the journal";
        case AGENT_HALTED:
                return ", halted: too old for its cluster";
        case AGENT_JOINING:
                return ", joining";
        case AGENT_OUT:
                return ", not a member any more: see \"treatyctl status\"";
        case AGENT_QUARANTINED:
                return ", quarantined: its state is a copy or was set back, see the journal";
        case AGENT_NO_TREE:
                return ", its tree was bad and is fetched again: reads wait";
        case AGENT_DIVERGED:
                return ", trees differ: see the journal";
        }
        return "";
}

/* The line in `systemctl status`. */
static void tell_status(void *userdata) {
        Loop *loop = userdata;
        AgentStatus status;
        char text[sizeof(loop->status)];

        agent_status(loop->agent, &status);
        snprintf(text, sizeof(text), "%s of %u voters, %u members, term %llu%s%s%s", role_text(status.role),
                 status.n_voters, status.n_members, (unsigned long long)status.term,
                 status.leader_name[0] && status.role != AGENT_LEADER ? ", led by " : "",
                 status.role != AGENT_LEADER ? status.leader_name : "", state_text(status.state));
        if (strcmp(text, loop->status) == 0)
                return;
        snprintf(loop->status, sizeof(loop->status), "%s", text);
        (void)sd_notifyf(false, "STATUS=%s", text);
}

static void end(Loop *loop, int exit_status) {
        loop->exit_status = exit_status;
        (void)sd_event_exit(loop->event, exit_status);
}

static void turn(Loop *loop) {
        loop->noted = false;
        if (agent_turn(loop->agent) < 0) {
                (void)sd_notify(false, "STATUS=Fatal error, see the journal");
                end(loop, EXIT_FAILURE);
                return;
        }
        if (!loop->ready && agent_ready(loop->agent)) {
                loop->ready = true;
                tell_status(loop);
                (void)sd_notify(false, "READY=1");
        }
        if (agent_begins_anew(loop->agent))
                end(loop, EXIT_SUCCESS);
        if (loop->stopping && agent_stopped(loop->agent))
                end(loop, EXIT_SUCCESS);
}

/* Only the turn takes the news; it follows at once. */
static void on_news(Ready *ready, uint32_t events) {
        static_assert(offsetof(struct News, ready) == 0, "who is ready is the news");
        wake(((struct News *)ready)->loop);
}

static void on_nothing(Ready *ready, uint32_t events) {
}

/* ---- Waiting ---- */

static int wait_for(Loop *loop, int fd, Ready *ready) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = ready};
        return epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* Until something is ready, at most until the hall's deadline. */
static int look(Loop *loop, struct epoll_event *events, bool at_once) {
        struct timespec timeout = {};
        uint64_t now = now_boottime(NULL), deadline = agent_deadline(loop->agent);

        if (!at_once && !loop->noted && deadline > now) {
                uint64_t usec = MIN(deadline - now,
                                    USEC_PER_SEC); /* a deadline does not pass while we sleep in suspend */
                timeout.tv_sec = (time_t)(usec / USEC_PER_SEC);
                timeout.tv_nsec = (long)(usec % USEC_PER_SEC * 1000);
        }
        int n = epoll_pwait2(loop->epoll_fd, events, LIMIT_TURN_EVENTS, &timeout, NULL);
        return n < 0 ? errno == EINTR ? 0 : -errno : n;
}

/* Nobody is heard any more: the agent may have failed with its tree closed. */
static bool is_ending(const Loop *loop) {
        int status;
        return sd_event_get_exit_code(loop->event, &status) >= 0;
}

/* One wake. sd-event is told to prepare before it is slept, so that its timers are armed, and to look behind
 * it, so that its clock is right for whoever sets a timer now. What it has ready is dispatched one at a
 * time, and all else in between. */
static int wake_once(Loop *loop) {
        struct epoll_event events[LIMIT_TURN_EVENTS];

        int pending = sd_event_prepare(loop->event);
        if (pending < 0)
                return pending;
        int n = is_ending(loop) ? 0 : look(loop, events, pending > 0);
        if (n < 0)
                return n;
        if (pending == 0)
                pending = sd_event_wait(loop->event, 0);
        if (pending < 0)
                return pending;
        for (int i = 0; i < n; i++) {
                Ready *ready = events[i].data.ptr;
                ready->ready(ready, events[i].events);
        }
        if (pending > 0) {
                int r = sd_event_dispatch(loop->event);
                if (r < 0)
                        return r;
        }
        agent_rest(loop->agent);
        if (is_ending(loop))
                return 0;
        if (loop->noted || now_boottime(NULL) >= agent_deadline(loop->agent)) {
                turn(loop);
                agent_rest(loop->agent);
        }
        return 0;
}

/* ---- Signals ---- */

static int on_stop(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata) {
        Loop *loop = userdata;
        if (!loop->stopping) {
                loop->stopping = true;
                (void)sd_notify(false, "STOPPING=1");
                agent_stop(loop->agent);
        }
        wake(loop);
        return 0;
}

static int on_reload(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata) {
        Loop *loop = userdata;
        Config config;

        (void)sd_notifyf(false, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)now_boottime(NULL));
        if (config_load(&config, NULL) >= 0) {
                journal_set_level(config.log_level);
                log_info(
                        "Configuration read again: the log level is in force; other settings wait for a restart.");
                config_deinit(&config);
        }
        (void)sd_notify(false, "READY=1");
        tell_status(loop);
        return 0;
}

/* ---- Where peers find this host ---- */

static void address_text(const struct sockaddr *sa, unsigned port, char *to, size_t room) {
        char text[INET6_ADDRSTRLEN] = "";
        if (sa->sa_family == AF_INET) {
                inet_ntop(AF_INET, &((const struct sockaddr_in *)sa)->sin_addr, text, sizeof(text));
                snprintf(to, room, "%s:%u", text, port);
        } else {
                inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)sa)->sin6_addr, text, sizeof(text));
                snprintf(to, room, "[%s]:%u", text, port);
        }
}

static bool address_is_useful(const struct ifaddrs *ifa) {
        if (!ifa->ifa_addr || ifa->ifa_flags & IFF_LOOPBACK || !(ifa->ifa_flags & IFF_UP))
                return false;
        if (ifa->ifa_addr->sa_family == AF_INET)
                return true;
        return ifa->ifa_addr->sa_family == AF_INET6 &&
               !IN6_IS_ADDR_LINKLOCAL(&((struct sockaddr_in6 *)ifa->ifa_addr)->sin6_addr);
}

static unsigned listen_port(const Config *config) {
        const char *colon = config->n_listen > 0 ? strrchr(config->listen[0], ':') : NULL;
        return colon ? (unsigned)strtoul(colon + 1, NULL, 10) : CONFIG_PEER_PORT;
}

static uint32_t own_addresses(const Config *config, char (*ret)[LIMIT_ADDRESS_BYTES + 1]) {
        if (config->n_addresses > 0) {
                memcpy(ret, config->addresses, sizeof(config->addresses));
                return config->n_addresses;
        }
        struct ifaddrs *list = NULL;
        if (getifaddrs(&list) < 0)
                return 0;
        uint32_t n = 0;
        for (int family = AF_INET; family; family = family == AF_INET ? AF_INET6 : 0)
                for (struct ifaddrs *ifa = list; ifa && n < LIMIT_ADDRESSES; ifa = ifa->ifa_next)
                        if (address_is_useful(ifa) && ifa->ifa_addr->sa_family == family)
                                address_text(ifa->ifa_addr, listen_port(config), ret[n++],
                                             LIMIT_ADDRESS_BYTES + 1);
        freeifaddrs(list);
        return n;
}

static int on_addresses(sd_event_source *source, uint64_t usec, void *userdata) {
        Loop *loop = userdata;
        char addresses[LIMIT_ADDRESSES][LIMIT_ADDRESS_BYTES + 1];
        uint32_t n = own_addresses(&loop->config, addresses);
        if (n > 0)
                agent_set_addresses(loop->agent, n, addresses);
        (void)malloc_trim(0); /* what a busy hour took goes back */
        (void)sd_event_source_set_time(source, now_boottime(NULL) + ADDRESSES_USEC);
        return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

/* ---- News from the network ---- */

static PeersVerdict on_judge(void *userdata, const uint8_t key[static KEY_HASH_BYTES], uint64_t *ret_host) {
        return agent_judge(((Loop *)userdata)->agent, key, ret_host);
}

static void on_up(void *userdata, uint64_t host, uint64_t connection) {
        agent_up(((Loop *)userdata)->agent, host, connection);
}

static void on_down(void *userdata, uint64_t host, uint64_t connection, PeersDown why) {
        agent_down(((Loop *)userdata)->agent, host, connection, why);
}

static void on_unreachable(void *userdata, uint64_t host, PeersDown why) {
        agent_unreachable(((Loop *)userdata)->agent, host, why);
}

static void on_letter(void *userdata, uint64_t host, uint64_t connection, Bytes bytes) {
        agent_letter(((Loop *)userdata)->agent, host, connection, bytes);
}

static void on_called(void *userdata, PeersCall *call, uint64_t host,
                      const uint8_t key[static KEY_HASH_BYTES], const char *method, Bytes request) {
        agent_called(((Loop *)userdata)->agent, call, host, key, method, request);
}

/* ---- Life ---- */

static int open_agent(Loop *loop) {
        Config *config = &loop->config;
        AgentOptions options = {
                .state_directory = config->state_dir,
                .disk = loop->disk,
                .report = {.say = say, .alarm = alarm_person},
                .threads = true,
                .join = config->join,
                .heartbeat_usec = config->heartbeat_usec,
                .election_usec = config->election_usec,
                .session_usec = config->session_timeout_usec,
                .max_voters = config->max_voters ?: 5,
                .accept_damage = config->accept_damage,
                .outside =
                        {
                                .userdata = loop,
                                .now = now_boottime,
                                .wall = now_wall,
                                .random = random_bytes,
                                .wake = wake,
                        },
        };
        network_table(&options.outside);

        sd_id128_t machine;
        int r = sd_id128_get_machine_app_specific(MACHINE_APP, &machine);
        if (r < 0)
                return log_error_errno(r, "The machine id (/etc/machine-id) cannot be read");
        memcpy(options.machine, &machine, sizeof(options.machine));
        memcpy(options.key, key_hash(loop->key), sizeof(options.key));
        snprintf(options.host_name, sizeof(options.host_name), "%s", config->host_name);
        options.n_addresses = own_addresses(config, options.addresses);
        random_bytes(NULL, &options.seed, sizeof(options.seed));

        r = agent_new(&loop->agent, &options);
        if (r < 0)
                return log_error_errno(r, "The state in %s cannot be opened", config->state_dir);
        return 0;
}

static int open_peers(Loop *loop) {
        AgentStatus status;
        agent_status(loop->agent, &status);
        PeersOptions options = {
                .event = loop->event,
                .epoll_fd = loop->epoll_fd,
                .key = loop->key,
                .host = status.host,
                .report = {.say = say, .alarm = alarm_person},
                .events =
                        {
                                .judge = on_judge,
                                .up = on_up,
                                .down = on_down,
                                .unreachable = on_unreachable,
                                .letter = on_letter,
                                .called = on_called,
                                .userdata = loop,
                        },
        };
        loop->network.n_listen = loop->config.n_listen;
        loop->network.listen = loop->config.listen;
        return peers_new(&loop->network.peers, &options);
}

static int open_door(Loop *loop) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/private", loop->config.runtime_dir);
        BusOptions options = {.epoll_fd = loop->epoll_fd,
                              .private_path = path,
                              .private_fd = -1,
                              .changed = tell_status,
                              .userdata = loop};
        int r = bus_new(&loop->bus, loop->agent, loop->event, &options);
        if (r < 0)
                return log_error_errno(r, "The private socket %s cannot be had", path);
        return bus_adopt_fds(loop->bus);
}

static int add_sources(Loop *loop) {
        loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (loop->epoll_fd < 0)
                return -errno;
        loop->quiet.ready = on_nothing;
        int r = wait_for(loop, sd_event_get_fd(loop->event), &loop->quiet);
        if (r >= 0)
                r = sd_event_add_signal(loop->event, NULL, SIGTERM, on_stop, loop);
        if (r >= 0)
                r = sd_event_add_signal(loop->event, NULL, SIGINT, on_stop, loop);
        if (r >= 0)
                r = sd_event_add_signal(loop->event, NULL, SIGHUP, on_reload, loop);
        if (r >= 0)
                r = sd_event_set_watchdog(loop->event, true);
        return r;
}

static int add_agent_sources(Loop *loop) {
        loop->log = (struct News){.ready.ready = on_news, .loop = loop};
        loop->tree = (struct News){.ready.ready = on_news, .loop = loop};
        int r = wait_for(loop, agent_log_fd(loop->agent), &loop->log.ready);
        if (r >= 0)
                r = wait_for(loop, agent_tree_fd(loop->agent), &loop->tree.ready);
        if (r >= 0)
                r = sd_event_add_time(loop->event, &loop->addresses, CLOCK_BOOTTIME,
                                      now_boottime(NULL) + USEC_PER_SEC, USEC_PER_SEC, on_addresses, loop);
        return r;
}

/* "treatyctl join --discard" on a host that was removed: its token goes before Join=. */
static int begin_anew(Loop *loop) {
        char token[4096];

        int r = anew_begin(loop->disk);
        if (r < 0)
                return r;
        if (r > 0)
                log_info("The old state was dropped: this host joins as a new one.");
        r = anew_token(loop->disk, token);
        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return r;
        loop->config.join = loop->join = strdup(token);
        explicit_bzero(token, sizeof(token));
        return loop->join ? 0 : -ENOMEM;
}

static int open_state(Loop *loop) {
        const char *directory = loop->config.state_dir;

        int r = disk_open_directory(&loop->disk, directory);
        if (r < 0)
                return log_error_errno(r, "The state directory %s cannot be opened", directory);
        r = begin_anew(loop);
        if (r < 0)
                return log_error_errno(r, "The old state in %s cannot be dropped", directory);
        r = key_load_or_create(&loop->key, directory);
        if (r < 0)
                return log_error_errno(r, "The host's key in %s cannot be loaded", directory);
        return 0;
}

int loop_new(Loop **ret, const Config *config) {
        _cleanup_(loop_freep) Loop *loop = calloc(1, sizeof(Loop));
        if (!loop)
                return -ENOMEM;
        loop->config = *config;

        sigset_t mask;
        sigemptyset(&mask);
        sigaddset(&mask, SIGTERM);
        sigaddset(&mask, SIGINT);
        sigaddset(&mask, SIGHUP);
        (void)sigprocmask(SIG_BLOCK, &mask, NULL); /* before the threads begin */
        (void)signal(SIGPIPE, SIG_IGN);

        int r = sd_event_default(&loop->event);
        if (r >= 0)
                r = add_sources(loop);
        if (r < 0)
                return log_error_errno(r, "The event loop cannot be set up");
        r = open_state(loop);
        if (r >= 0)
                r = open_agent(loop);
        if (r < 0)
                return r;
        if (config->accept_damage) { /* that was all */
                loop->stopping = true;
                *ret = TAKE(loop);
                return 0;
        }
        r = add_agent_sources(loop);
        if (r >= 0)
                r = open_peers(loop);
        if (r < 0)
                return log_error_errno(r, "The network cannot be set up");
        r = open_door(loop);
        if (r < 0)
                return r;
        *ret = TAKE(loop);
        return 0;
}

int loop_run(Loop *loop) {
        int r = 0;

        wake(loop);
        while (r >= 0 && sd_event_get_state(loop->event) != SD_EVENT_FINISHED)
                r = wake_once(loop);
        if (r < 0)
                log_error_errno(r, "The event loop cannot go on");
        return r < 0 ? EXIT_FAILURE : loop->exit_status;
}

Loop *loop_free(Loop *loop) {
        if (!loop)
                return NULL;
        loop->bus = bus_free(loop->bus);
        /* The agent first: it ends calls that live in peers. */
        loop->agent = agent_free(loop->agent, loop->exit_status == EXIT_SUCCESS && loop->stopping);
        loop->network.peers = peers_free(loop->network.peers);
        loop->key = key_free(loop->key);
        loop->disk = disk_free(loop->disk);
        sd_event_source_unref(loop->addresses);
        if (loop->epoll_fd > 0)
                close(loop->epoll_fd);
        sd_event_unref(loop->event);
        free(loop->join);
        free(loop);
        return NULL;
}
