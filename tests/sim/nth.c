/* Three hosts and their clients, nothing goes wrong, but for one thing: the n-th allocation, log disk call
 * or file call of one host, which leads or follows when they begin to count. It may go on or end by itself,
 * with a word; the others go on, and it comes back. All that the simulation holds against a run holds here:
 * what was acknowledged is there, on all three, once.
 *
 * The run is simulate's own plot without faults. On the way the host is killed, and stopped cleanly, so that
 * its start is among what fails; a start that fails is tried again, as its service manager would.
 *
 *      nth-cluster memory|disk|file leader|follower [--samples N | --from A --to B | --one N]
 *
 * Only what the host's own agent calls is counted: its doors to the simulation are wrapped when this is
 * linked, and the simulation allocates by calm_malloc() and its kin. */
#include "sim.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include "tests/agent/failing.h"

typedef struct Nth {
        FailKind kind;
        uint64_t n; /* UINT64_MAX: none, they are counted */
        bool leads;
        SimHost *host;
        unsigned depth; /* of calls into its agent */
        bool aside;     /* a checker looks */
        bool told;      /* what failed */
        unsigned n_errors;
        uint64_t *calls; /* shared with who asked for the count */
} Nth;

/* Linked with --wrap: the name means what stands here, __real_… what it meant. */
#define WRAPPED(type, name, arguments) \
        type __real_##name arguments;  \
        type __wrap_##name arguments;  \
        type __wrap_##name arguments

static Nth nth;
static Outside outside; /* the simulation's */

/* ---- The simulation's own allocations ---- */

#undef malloc
#undef calloc
#undef realloc
#undef reallocarray
void *malloc(size_t size); /* under their own names again: stdlib.h declared those of the simulation */
void *calloc(size_t n, size_t size);
void *realloc(void *p, size_t size);
void *reallocarray(void *p, size_t n, size_t size);

static void again(void) {
        if (nth.depth > 0 && !nth.aside)
                failing_on();
        else
                failing_off();
}

#define CALM(type, call)        \
        ({                      \
                failing_off();  \
                type r_ = call; \
                again();        \
                r_;             \
        })

void *calm_malloc(size_t size) {
        return CALM(void *, malloc(size));
}

void *calm_calloc(size_t n, size_t size) {
        return CALM(void *, calloc(n, size));
}

void *calm_realloc(void *p, size_t size) {
        return CALM(void *, realloc(p, size));
}

void *calm_reallocarray(void *p, size_t n, size_t size) {
        return CALM(void *, reallocarray(p, n, size));
}

static int calm_call(void *userdata, uint64_t id, const char *method, Bytes request, uint64_t timeout_usec,
                     const PeersCallEvents *events, PeersCall **ret) {
        return CALM(int, outside.call(userdata, id, method, request, timeout_usec, events, ret));
}

static int calm_call_address(void *userdata, const char *address, const uint8_t (*keys)[KEY_HASH_BYTES],
                             size_t n_keys, const char *method, Bytes request, uint64_t timeout_usec,
                             const PeersCallEvents *events, PeersCall **ret) {
        return CALM(int, outside.call_address(userdata, address, keys, n_keys, method, request, timeout_usec,
                                              events, ret));
}

WRAPPED(void, net_table, (Outside * to)) {
        __real_net_table(to);
        outside = *to;
        to->call = calm_call;
        to->call_address = calm_call_address;
}

/* ---- Doors of the agent ---- */

static void enter(const Agent *agent) {
        if (nth.host && agent == nth.host->agent && nth.depth++ == 0)
                failing_on();
}

static void tell_what_failed(void) {
        if (!nth.told && failing_hit())
                note("%s: %s failed", nth.host->name, failing_what());
        nth.told = failing_hit();
}

static void leave(const Agent *agent) {
        if (!nth.host || agent != nth.host->agent || --nth.depth > 0)
                return;
        failing_off();
        tell_what_failed();
}

/* Who ends by itself says why. */
static int ends(const Agent *agent, int r) {
        if (r < 0 && nth.host && agent == nth.host->agent) {
                if (!failing_hit())
                        broken("%s ended, and nothing had failed", nth.host->name);
                if (nth.n_errors == 0)
                        broken("%s ended after %s failed, and said nothing", nth.host->name, failing_what());
        }
        return r;
}

WRAPPED(int, agent_turn, (Agent * agent)) {
        enter(agent);
        int r = __real_agent_turn(agent);
        leave(agent);
        return ends(agent, r);
}

WRAPPED(int, agent_step, (Agent * agent)) {
        enter(agent);
        int r = __real_agent_step(agent);
        leave(agent);
        return ends(agent, r);
}

WRAPPED(void, agent_letter, (Agent * agent, uint64_t host, uint64_t connection, Bytes bytes)) {
        enter(agent);
        __real_agent_letter(agent, host, connection, bytes);
        leave(agent);
}

WRAPPED(void, agent_called,
        (Agent * agent, PeersCall *call, uint64_t host, const uint8_t *key, const char *method,
         Bytes request)) {
        enter(agent);
        __real_agent_called(agent, call, host, key, method, request);
        leave(agent);
}

WRAPPED(int, agent_new, (Agent * *ret, const AgentOptions *options)) {
        SimHost *host = options->outside.userdata;
        AgentOptions mine = *options;
        if (!host->door) /* counts, and keeps from counting what lies below it */
                host->door = failing_disk_new(options->disk);
        mine.disk = host->door;
        if (host != nth.host)
                return __real_agent_new(ret, &mine);
        host->disk_fails = true;
        nth.depth++;
        failing_on();
        int r = __real_agent_new(ret, &mine);
        failing_off();
        tell_what_failed();
        nth.depth--;
        if (r >= 0 || !failing_hit())
                return r;
        note("%s: does not start: %s", host->name, strerror(-r));
        simdisk_kill(host->disk);
        return __real_agent_new(ret, &mine);
}

/* ---- The plot ---- */

static void said(SimHost *host, int level, const char *text) {
        if (host == nth.host && level <= LOG_ERR)
                nth.n_errors++;
}

static void aside(bool begins) {
        nth.aside = begins;
        again();
}

static void killed(void *p, uint64_t a) {
        host_kill(p, false);
        host_restart_at(p, world.now + 300 * MSEC);
}

static void stopped(void *p, uint64_t a) {
        host_stop(p);
        host_restart_at(p, world.now + 300 * MSEC);
}

WRAPPED(void, clients_begin, (void)) {
        SimHost *leader = host_leader();
        for (unsigned i = 0; i < world.n_hosts; i++)
                if ((world.hosts[i] == leader) == nth.leads)
                        nth.host = world.hosts[i];
        assert(nth.host && world.n_hosts == 3 && leader->agent->raft_status.conf->n_voters == 3);
        nth.host->disk_fails = true;
        world.may_rot = nth.kind == FAIL_DISK; /* what cannot be read back is damage, and heals */
        world.said = said;
        world.aside = aside;
        failing_arm(nth.kind, nth.n, nth.n % 4 == 3 ? 5 : 0, nth.n % 2 == 1);
        at(world.now + 2 * SEC, killed, nth.host, 0);
        at(world.now + 4 * SEC, stopped, nth.host, 0);
        __real_clients_begin();
}

WRAPPED(void, ghost_final, (void)) {
        *nth.calls = failing_calls();
        if (nth.n != UINT64_MAX && !failing_hit())
                broken("nothing failed");
        __real_ghost_final();
}

#define SEED 5

static bool holds(FailKind kind, bool leads, uint64_t n, bool verbose) {
        char text[1024] = "";
        nth.kind = kind;
        nth.leads = leads;
        nth.n = n;
        Run run = {.seed = SEED,
                   .ticks = 60,
                   .verbose = verbose,
                   .silent = !verbose,
                   .vote = 3,
                   .narrow = {.without = UINT64_MAX, .hosts = 3, .clients = 8}};
        if (verbose) /* to be read, not to be counted */
                plot(&run);
        if (run_apart(&run, text, sizeof(text)) == SIM_HELD)
                return true;
        printf("%s", text);
        return false;
}

static int usage(void) {
        fprintf(stderr,
                "nth-cluster memory|disk|file leader|follower [--samples N | --from A --to B | --one N]\n");
        return SIM_USAGE;
}

int __wrap_main(int argc, char **argv);
int __wrap_main(int argc, char **argv) {
        static const char *const names[] = {
                [FAIL_MEMORY] = "memory", [FAIL_DISK] = "disk", [FAIL_FILE] = "file"};
        uint64_t samples = UINT64_MAX, from = 0, to = UINT64_MAX, one = UINT64_MAX;
        FailKind kind = FAIL_NOTHING;
        for (unsigned k = FAIL_MEMORY; argc > 2 && k < ELEMENTSOF(names); k++)
                if (strcmp(argv[1], names[k]) == 0)
                        kind = k;
        if (kind == FAIL_NOTHING || (strcmp(argv[2], "leader") != 0 && strcmp(argv[2], "follower") != 0))
                return usage();
        bool leads = strcmp(argv[2], "leader") == 0;
        for (int i = 3; i < argc; i++) {
                uint64_t *number = strcmp(argv[i], "--samples") == 0 ? &samples
                                   : strcmp(argv[i], "--from") == 0  ? &from
                                   : strcmp(argv[i], "--to") == 0    ? &to
                                   : strcmp(argv[i], "--one") == 0   ? &one
                                                                     : NULL;
                if (number && i + 1 < argc)
                        *number = strtoull(argv[++i], NULL, 10);
                else
                        return usage();
        }
        if (samples == 0)
                return usage();

        nth.calls = mmap(NULL, sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert(nth.calls != MAP_FAILED);
        if (!holds(kind, leads, UINT64_MAX, false) || *nth.calls == 0) {
                fprintf(stderr, "the run does not even hold without a failure\n");
                return SIM_BROKEN;
        }
        if (one != UINT64_MAX)
                return holds(kind, leads, one, true);
        uint64_t calls = *nth.calls;
        to = MIN(to, calls);
        uint64_t stride = samples >= to - from ? 1 : (to - from) / samples | 1;
        unsigned n_tried = 0, n_failed = 0;
        for (uint64_t n = from; n < to; n += stride, n_tried++)
                if (!holds(kind, leads, n, false)) {
                        n_failed++;
                        printf("nth-cluster %s %s --one %llu\n", argv[1], argv[2], (unsigned long long)n);
                }
        printf("%s %s: %llu calls, %u of them failed, %u runs went wrong\n", argv[1], argv[2],
               (unsigned long long)calls, n_tried, n_failed);
        return n_failed ? SIM_BROKEN : SIM_HELD;
}
