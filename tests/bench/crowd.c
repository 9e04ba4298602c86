/* A thousand hosts on one core: how long after the first host has a change does the last one have it.
 *
 *      crowd [--hosts=N] [--seconds=S] [--every=MSEC] [--verbose] [DIRECTORY]
 *
 * Every host is a whole hall with its real log and tree.db below DIRECTORY (which is made, and removed; not
 * given, one in /tmp). One host after the other sets a value; the time counts from the turn in which any
 * host applied it to the turn in which the last one did. The syncs of all those disks happen in the same
 * thread, so this is the most that one core can be asked for. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "halls.h"

#define CHANGES_MAX  65536u
#define VALUE_BYTES  256
#define IDLE_SECONDS 5

typedef struct Change {
        uint64_t asked_usec, first_usec, last_usec;
        uint64_t first_cpu_usec, last_cpu_usec;
        uint64_t revision; /* 0: not known yet */
        unsigned n_applied;
} Change;

static Change changes[CHANGES_MAX];
static unsigned n_changes, n_done, n_failed;
static uint64_t seen[HALLS_MAX]; /* revision of each host */

/* Of this one thread: what a core of its own would have taken, without waiting for disks. */
static uint64_t cpu_usec(void) {
        struct timespec ts;
        (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

/* A host's revision moved from one number to another: all changes between are there now. */
static void turned(Hall *hall) {
        uint64_t revision = hall->agent->tree_status.revision, before = seen[hall->i];
        seen[hall->i] = revision;
        if (revision == before || n_changes == 0)
                return;
        uint64_t now = halls_now();
        uint64_t from = changes[0].revision;
        for (uint64_t r = MAX(before + 1, from); r <= revision; r++) {
                if (r - from >= n_changes)
                        break;
                Change *change = &changes[r - from];
                if (change->n_applied++ == 0) {
                        change->first_usec = now;
                        change->first_cpu_usec = cpu_usec();
                }
                if (change->n_applied == halls.n) {
                        change->last_usec = now;
                        change->last_cpu_usec = cpu_usec();
                        n_done++;
                }
        }
}

static void written(const RequestAnswer *answer, void *userdata) {
        if (answer->answer != ANSWER_DONE)
                n_failed++;
}

/* Nobody else writes meanwhile, so the next change has the next revision. */
static void change(unsigned n) {
        Hall *hall = halls.list[(n * 7919u) % halls.n];
        uint8_t value[VALUE_BYTES];
        char path[40];
        Request *request;

        memset(value, 'v', sizeof(value));
        snprintf(path, sizeof(path), "/crowd/%u", n % 1000);
        Command command = {.kind = COMMAND_SET, .path = path, .value = BYTES(value, sizeof(value))};
        uint64_t revision = 0;
        for (unsigned i = 0; i < halls.n; i++)
                revision = MAX(revision, seen[i]);
        Change *next = &changes[n_changes];
        next->revision = n_changes > 0 ? changes[n_changes - 1].revision + 1 : revision + 1;
        next->asked_usec = halls_now();
        n_changes++;
        int r = agent_request(hall->agent, &command, REQUEST_TIMEOUT_USEC, written, NULL, &request);
        if (r < 0)
                halls_die("a write", r);
}

static bool all_done(void) {
        return n_done == n_changes;
}

static int compare(const void *a, const void *b) {
        const uint64_t *x = a, *y = b;
        return *x < *y ? -1 : *x > *y;
}

static uint64_t quantile(uint64_t *sorted, double q) {
        size_t i = (size_t)(q * (double)n_changes);
        return sorted[MIN(i, (size_t)n_changes - 1)];
}

static double rss_mib(void) {
        unsigned long size = 0, resident = 0;
        FILE *f = fopen("/proc/self/statm", "re");
        if (f && fscanf(f, "%lu %lu", &size, &resident) != 2)
                resident = 0;
        if (f)
                (void)fclose(f);
        return (double)resident * (double)sysconf(_SC_PAGESIZE) / 1048576;
}

typedef uint64_t (*Span)(const Change *change);

static uint64_t spread(const Change *change) {
        return change->last_usec - change->first_usec;
}

static uint64_t spread_cpu(const Change *change) {
        return change->last_cpu_usec - change->first_cpu_usec;
}

static uint64_t whole(const Change *change) {
        return change->last_usec - change->asked_usec;
}

static void print_quantiles(const char *name, Span span) {
        static uint64_t sorted[CHANGES_MAX];
        for (unsigned i = 0; i < n_changes; i++)
                sorted[i] = span(&changes[i]);
        qsort(sorted, n_changes, sizeof(uint64_t), compare);
        printf("\"%s_p50_usec\": %" PRIu64 ", \"%s_p99_usec\": %" PRIu64 ", \"%s_max_usec\": %" PRIu64 ", ",
               name, quantile(sorted, 0.5), name, quantile(sorted, 0.99), name, sorted[n_changes - 1]);
}

static void print(double formed, double idle, double busy_usec) {
        printf("{\"hosts\": %u, \"forming_cpu_seconds\": %.1f, \"changes\": %u, \"failed\": %u, ", halls.n,
               formed, n_changes, n_failed);
        print_quantiles("spread", spread);
        print_quantiles("spread_cpu", spread_cpu);
        print_quantiles("whole", whole);
        printf("\"cpu_usec_per_change\": %.1f, \"idle_cpu_percent\": %.2f, \"mib_per_host\": %.2f}\n",
               busy_usec / n_changes, idle * 100, rss_mib() / halls.n);
}

static void usage(FILE *to) {
        fputs("crowd [--hosts=N] [--seconds=S] [--every=MSEC] [--wait=S] [--verbose] [DIRECTORY]\n"
              "  --hosts=N     so many halls in this process (1000)\n"
              "  --seconds=S   one change after the other for so long (20)\n"
              "  --every=MSEC  between them, at least (100)\n"
              "  --wait=S      of virtual time for the cluster to form (600)\n",
              to);
}

int main(int argc, char **argv) {
        static const struct option options[] = {
                {"hosts", required_argument, NULL, 'n'},
                {"seconds", required_argument, NULL, 's'},
                {"every", required_argument, NULL, 'e'},
                {"wait", required_argument, NULL, 'w'},
                {"verbose", no_argument, NULL, 'v'},
                {"help", no_argument, NULL, 'h'},
                {},
        };
        unsigned n = 1000;
        double seconds = 20, wait = 600;
        uint64_t every = 100 * USEC_PER_MSEC;

        for (int option; (option = getopt_long(argc, argv, "", options, NULL)) >= 0;)
                switch (option) {
                case 'n':
                        n = (unsigned)strtoul(optarg, NULL, 10);
                        break;
                case 's':
                        seconds = strtod(optarg, NULL);
                        break;
                case 'e':
                        every = strtoul(optarg, NULL, 10) * USEC_PER_MSEC;
                        break;
                case 'w':
                        wait = strtod(optarg, NULL);
                        break;
                case 'v':
                        halls.verbose = true;
                        break;
                case 'h':
                        usage(stdout);
                        return EXIT_SUCCESS;
                default:
                        usage(stderr);
                        return 2;
                }
        if (argc - optind > 1 || n < 1 || n > HALLS_MAX || seconds <= 0) {
                usage(stderr);
                return 2;
        }
        halls_begin(argv[optind]);
        halls.segment_bytes = 256 * 1024;
        halls.turned = turned;

        /* A thousand hosts that come at once keep one core busy for longer than any timeout; so they come in
         * virtual time. */
        halls.piece_usec = 1;
        halls.now = USEC_PER_SEC;
        if (!halls_form(n, (uint64_t)(wait * 1e6)))
                halls_die("the cluster did not form in time", 0);
        double formed = (double)cpu_usec() / 1e6;
        halls_go_real();
        (void)halls_run_until(halls_now() + 3 * USEC_PER_SEC, NULL);

        uint64_t cpu = cpu_usec();
        (void)halls_run_until(halls_now() + IDLE_SECONDS * USEC_PER_SEC, NULL);
        double idle = (double)(cpu_usec() - cpu) / 1e6 / IDLE_SECONDS;

        cpu = cpu_usec();
        uint64_t begin = halls_now(), end = begin + (uint64_t)(seconds * 1e6);
        for (unsigned i = 0; i < CHANGES_MAX && halls_now() < end; i++) {
                uint64_t next = halls_now() + every;
                change(i);
                if (!halls_run_until(halls_now() + 60 * USEC_PER_SEC, all_done))
                        halls_die("a change did not reach all hosts within a minute", 0);
                if (next > halls_now())
                        (void)halls_run_until(next, NULL);
        }
        double spent = (double)(cpu_usec() - cpu), meanwhile = idle * (double)(halls_now() - begin);
        print(formed, idle, spent > meanwhile ? spent - meanwhile : 0);
        halls_end();
        return n_failed > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
