/* One loop for all hosts: who has a turn, who is due when, whose disk has work; how they start and become
 * one cluster. */
#include "halls.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define QUIET_USEC (100 * USEC_PER_MSEC)
#define LOOK_USEC  (5 * USEC_PER_MSEC)

Halls halls;

static Hall *by_id;

void halls_die(const char *what, int r) {
        fprintf(stderr, "%s%s%s\n", what, r < 0 ? ": " : "", r < 0 ? strerror(-r) : "");
        exit(EXIT_FAILURE);
}

void halls_begin(const char *directory) {
        static char own[] = "/tmp/halls-XXXXXX";
        if (directory ? mkdir(directory, 0700) < 0 : !mkdtemp(own))
                halls_die(directory ?: own, -errno);
        halls.directory = directory ?: own;
}

static uint64_t real_usec(void) {
        struct timespec ts;
        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t halls_now(void) {
        return halls.piece_usec > 0 ? halls.now : real_usec() - halls.real_since_usec;
}

void halls_go_real(void) {
        halls.real_since_usec = real_usec() - halls.now;
        halls.piece_usec = 0;
}

Hall *hall_of(uint64_t id) {
        Hall *hall = NULL;
        HASH_FIND(hh, by_id, &id, sizeof(id), hall);
        return hall;
}

/* ---- Who is due when: a heap ---- */

static Hall *heap[HALLS_MAX];
static size_t n_heap;

static uint64_t due(const Hall *hall) {
        return MIN(hall->turn_usec, MIN(hall->quiet_usec, hall->dial_usec));
}

static void heap_put(Hall *hall, size_t at) {
        heap[at] = hall;
        hall->place = at;
}

static void heap_move(Hall *hall) {
        size_t at = hall->place;
        while (at > 0 && due(heap[(at - 1) / 2]) > due(hall)) {
                heap_put(heap[(at - 1) / 2], at);
                at = (at - 1) / 2;
        }
        for (;;) {
                size_t child = 2 * at + 1;
                if (child + 1 < n_heap && due(heap[child + 1]) < due(heap[child]))
                        child++;
                if (child >= n_heap || due(heap[child]) >= due(hall))
                        break;
                heap_put(heap[child], at);
                at = child;
        }
        heap_put(hall, at);
}

void hall_dial_at(Hall *hall, uint64_t usec) {
        hall->dial_usec = usec;
        heap_move(hall);
}

/* ---- Who has something to do ---- */

typedef struct Queue {
        Hall *list[HALLS_MAX]; /* a ring; each host is in it once at most */
        size_t head, n;
} Queue;

static Queue ready, working;

static void queue_put(Queue *queue, Hall *hall) {
        assert(queue->n < HALLS_MAX);
        queue->list[(queue->head + queue->n++) % HALLS_MAX] = hall;
}

static Hall *queue_take(Queue *queue) {
        if (queue->n == 0)
                return NULL;
        Hall *hall = queue->list[queue->head];
        queue->head = (queue->head + 1) % HALLS_MAX;
        queue->n--;
        return hall;
}

void hall_make_ready(Hall *hall) {
        if (!hall->ready)
                queue_put(&ready, hall);
        hall->ready = true;
}

static void make_working(Hall *hall) {
        if (hall->working || !hall->agent || agent_idle(hall->agent))
                return;
        queue_put(&working, hall);
        hall->working = true;
}

/* ---- One host ---- */

static void know_by_id(Hall *hall) {
        if (hall->id == hall->agent->host.id)
                return;
        if (hall->id != 0)
                HASH_DEL(by_id, hall);
        hall->id = hall->agent->host.id;
        HASH_ADD(hh, by_id, id, sizeof(hall->id), hall);
}

static void take_turn(Hall *hall) {
        hall_open_inbox(hall);
        int r = agent_turn(hall->agent);
        if (r < 0)
                halls_die(hall->name, r);
        know_by_id(hall);
        hall->turn_usec = agent_deadline(hall->agent);
        heap_move(hall);
        make_working(hall);
        if (halls.turned)
                halls.turned(hall);
}

static void step_disk(Hall *hall) {
        int r = agent_step(hall->agent);
        if (r < 0)
                halls_die(hall->name, r);
        if (r > 0) {
                hall->quiet_usec = halls_now() + QUIET_USEC;
                heap_move(hall);
                hall_make_ready(hall);
        }
        make_working(hall);
}

/* The log's own moment: nothing was written for a while. */
static void be_quiet(Hall *hall) {
        hall->quiet_usec = USEC_INFINITY;
        heap_move(hall);
        int r = log_quiet(hall->agent->log);
        if (r < 0)
                halls_die(hall->name, r);
        if (r > 0)
                hall_make_ready(hall);
}

static void wake_due(Hall *hall, uint64_t now) {
        if (hall->dial_usec <= now) {
                hall->dial_usec = USEC_INFINITY;
                heap_move(hall);
                hall_dial(hall);
        }
        if (hall->quiet_usec <= now)
                be_quiet(hall);
        if (hall->turn_usec <= now) {
                hall->turn_usec = USEC_INFINITY;
                heap_move(hall);
                hall_make_ready(hall);
        }
}

void hall_work(Hall *hall, HallDuty duty) {
        switch (duty) {
        case HALL_TURN:
                hall->ready = false;
                take_turn(hall);
                break;
        case HALL_DISK:
                hall->working = false;
                step_disk(hall);
                break;
        }
}

/* ---- All ---- */

static bool work(Queue *queue, HallDuty duty) {
        Hall *hall = queue_take(queue);
        if (!hall)
                return false;
        (halls.work ?: hall_work)(hall, duty);
        halls.now += halls.piece_usec;
        return true;
}

/* A round: whoever is ready at its beginning, then whoever's disk has work. Two hosts that have much to say
 * to each other do not hold up the disk of a third. */
static bool work_next(void) {
        static size_t left;
        if (left == 0) {
                left = ready.n;
                if (work(&working, HALL_DISK))
                        return true;
        }
        if (left > 0)
                left--;
        return work(&ready, HALL_TURN);
}

static bool step(uint64_t until) {
        uint64_t now = halls_now();
        for (unsigned n = 0; n_heap > 0 && due(heap[0]) <= now && n < n_heap; n++)
                wake_due(heap[0], now);
        if (work_next())
                return true;
        uint64_t next = MIN(until, n_heap > 0 ? due(heap[0]) : until);
        if (next <= now)
                return false;
        if (halls.piece_usec > 0)
                halls.now = next;
        else
                (void)usleep((useconds_t)MIN(next - now, (uint64_t)100000));
        return true;
}

bool halls_run_until(uint64_t usec, bool (*is)(void)) {
        uint64_t now, look = 0;
        while ((now = halls_now()) < usec) {
                if (is && now >= look) { /* not at every step: it may be a look at every host */
                        if (is())
                                return true;
                        look = now + LOOK_USEC;
                }
                (void)step(usec);
        }
        return is ? is() : true;
}

static uint64_t out_now(void *userdata) {
        return halls_now();
}

static uint64_t out_wall(void *userdata) {
        return UINT64_C(1700000000) * USEC_PER_SEC + halls_now();
}

static void out_random(void *userdata, void *data, size_t size) {
        Hall *hall = userdata;
        for (size_t i = 0; i < size; i++)
                ((uint8_t *)data)[i] = (uint8_t)random_next(&hall->random);
}

static void out_wake(void *userdata) {
        hall_make_ready(userdata);
}

static void say(void *userdata, int level, const char *text) {
        const Hall *hall = userdata;
        if (halls.verbose)
                fprintf(stderr, "%s: %s\n", hall->name, text);
}

static void start(Hall *hall) {
        AgentOptions options = {
                .state_directory = hall->directory,
                .report = {.say = say, .userdata = hall},
                .n_addresses = 1,
                .heartbeat_usec = 100 * USEC_PER_MSEC,
                .election_usec = 600 * USEC_PER_MSEC,
                .session_usec = 5 * USEC_PER_SEC,
                .max_voters = 5,
                .seed = random_next(&hall->random),
                .join = halls.token[0] ? halls.token : NULL,
                .segment_bytes = halls.segment_bytes,
                .outside = {.userdata = hall,
                            .now = out_now,
                            .wall = out_wall,
                            .random = out_random,
                            .wake = out_wake},
        };
        hall_net_table(&options.outside);
        memcpy(options.machine, hall->machine, sizeof(options.machine));
        memcpy(options.key, hall->key, sizeof(options.key));
        snprintf(options.host_name, sizeof(options.host_name), "%s", hall->name);
        snprintf(options.addresses[0], sizeof(options.addresses[0]), "%s", hall->address);
        int r = mkdir(hall->directory, 0700) < 0 ? -errno
                                                 : disk_open_directory(&hall->disk, hall->directory);
        if (r < 0)
                halls_die(hall->directory, r);
        options.disk = hall->disk;
        r = agent_new(&hall->agent, &options);
        if (r < 0)
                halls_die(hall->name, r);
        know_by_id(hall);
        hall_make_ready(hall);
}

static Hall *add(void) {
        Hall *hall = calloc(1, sizeof(Hall));
        if (!hall)
                halls_die("a host", -ENOMEM);
        *hall = (Hall){.i = halls.n,
                       .turn_usec = USEC_INFINITY,
                       .quiet_usec = USEC_INFINITY,
                       .dial_usec = USEC_INFINITY,
                       .place = n_heap};
        hall->random.state = UINT64_C(0xd1342543de82ef95) * (hall->i + 1); /* streams far from each other */
        snprintf(hall->name, sizeof(hall->name), "h%u", hall->i + 1);
        snprintf(hall->address, sizeof(hall->address), "h%u:7707", hall->i + 1);
        snprintf(hall->directory, sizeof(hall->directory), "%s/%s", halls.directory, hall->name);
        out_random(hall, hall->key, sizeof(hall->key));
        out_random(hall, hall->machine, sizeof(hall->machine));
        heap[n_heap++] = hall;
        halls.list[halls.n++] = hall;
        start(hall);
        return hall;
}

/* ---- Forming ---- */

static bool is_in(const Hall *hall) {
        return memcmp(hall->agent->tree_status.cluster, halls.list[0]->agent->tree_status.cluster, 16) == 0;
}

static void token_made(const RequestAnswer *answer, const char *token, void *userdata) {
        if (answer->answer == ANSWER_DONE)
                snprintf(halls.token, sizeof(halls.token), "%s", token);
}

static bool first_leads(void) {
        return halls.list[0]->agent->requests.incarnation != 0;
}

static bool token_there(void) {
        return halls.token[0];
}

bool halls_equal(void) {
        uint64_t applied = halls.list[0]->agent->tree_status.applied;
        for (unsigned i = 0; i < halls.n; i++) {
                const Agent *agent = halls.list[i]->agent;
                if (!is_in(halls.list[i]) || agent->tree_status.applied != applied ||
                    agent->requests.incarnation == 0 || agent->sessions.generation == 0)
                        return false;
        }
        return true;
}

static bool formed(void) {
        AgentStatus status;
        if (!halls_equal())
                return false;
        agent_status(halls.list[0]->agent, &status);
        return status.n_members == halls.n && status.n_voters == roles_voters_wanted(halls.n, 5);
}

static void allow_files(void) {
        struct rlimit limit = {1 << 20, 1 << 20};
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0) {
                limit.rlim_cur = limit.rlim_max;
                (void)setrlimit(RLIMIT_NOFILE, &limit);
        }
}

/* All that join do so at once: every host that comes makes all others look at all their members again. */
bool halls_form(unsigned n, uint64_t usec) {
        uint64_t until = halls_now() + usec;
        TokenRequest request = {
                .lifetime_usec = 3600 * USEC_PER_SEC, .uses = 2 * HALLS_MAX, .class = MEMBER_FULL};

        allow_files();
        (void)add();
        if (!halls_run_until(until, first_leads) ||
            agent_token(halls.list[0]->agent, &request, token_made, NULL) < 0 ||
            !halls_run_until(until, token_there))
                return false;
        while (halls.n < n)
                (void)add();
        return halls_run_until(until, formed);
}

Hall *halls_leader(void) {
        Hall *leader = NULL;
        for (unsigned i = 0; i < halls.n; i++) {
                Hall *hall = halls.list[i];
                if (hall->agent->raft_status.role == RAFT_LEADER &&
                    (!leader || hall->agent->raft_status.term > leader->agent->raft_status.term))
                        leader = hall;
        }
        return leader;
}

static void remove_files(void) {
        char command[400];
        snprintf(command, sizeof(command), "rm -rf '%s'", halls.directory);
        if (system(command) != 0)
                fprintf(stderr, "%s is left behind\n", halls.directory);
}

/* The process ends with it: what the halls hold in memory is not worth taking apart. */
void halls_end(void) {
        remove_files();
}
