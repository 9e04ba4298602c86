/* One real agent, alone, does 500 operations, and the n-th allocation, log file call or tree file call of it
 * fails: for every n, or for some. Whatever n is:
 *
 *   - the agent goes on, or it ends by itself with a message: no crash, no assertion, no silence;
 *   - who was told "done" or "never" was told the truth, and everybody is told once;
 *   - started again (after a kill, a clean stop, or a power cut of the log), it comes up undamaged, has all
 * that was acknowledged, and takes a write.
 *
 *      nth KIND [--samples N | --from A --to B] [--verbose]         KIND: memory, disk, file
 *
 * Each n runs in a process of its own. Without options every n is tried. Exit status 0 when all held; a
 * failure prints the command that repeats it. */
#include "lone.h"

#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sys/wait.h>
#include "failing.h"
#include "tests/coverage.h"

#define OPERATIONS 500
#define KEYS       37

/* ---- What was asked, and what was told ---- */

typedef struct Operation {
        unsigned key;
        bool is_delete, asked;
        char value[24];
        unsigned n_told;
        RequestAnswer told;
} Operation;

typedef struct Run {
        Lone lone;
        Disk *disk;
        bool verbose;
        unsigned n_errors; /* said with LOG_ERR or worse */
        Operation operations[OPERATIONS + 1];
        unsigned n;
        Watch *watch;
        uint64_t watched;
        uint64_t told_at[KEYS]; /* the revision of the key that was told last */
        unsigned n_waiting;     /* tokens, own, reads: callbacks still to come */
} Run;

static Run run;

static _Noreturn void wrong(const char *format, ...) {
        failing_off();
        va_list ap;
        va_start(ap, format);
        vfprintf(stderr, format, ap);
        va_end(ap);
        fprintf(stderr, " (after %s failed)\n", failing_what());
        coverage_dump();
        _exit(1);
}

static void say(void *userdata, int level, const char *text) {
        if (level <= LOG_ERR)
                run.n_errors++;
        if (run.verbose)
                fprintf(stderr, "%8.3f <%d> %s\n", (double)run.lone.now / 1e6, level, text);
}

static void told(const RequestAnswer *answer, void *userdata) {
        Operation *operation = userdata;
        operation->n_told++;
        operation->told = *answer;
        if (answer->answer == ANSWER_DONE)
                run.told_at[operation->key] = MAX(run.told_at[operation->key], answer->result.revision);
}

static void told_other(const RequestAnswer *answer, void *userdata) {
        run.n_waiting--;
}

static void told_token(const RequestAnswer *answer, const char *token, void *userdata) {
        if ((answer->answer == ANSWER_DONE) != (token != NULL))
                wrong("a token without an answer, or an answer without a token");
        run.n_waiting--;
}

/* Who may read, reads nothing older than what was told: also in the turn in which something failed. */
static void read_ready(Answer answer, void *userdata) {
        run.n_waiting--;
        for (unsigned key = 0; answer == ANSWER_DONE && key < KEYS; key++) {
                char path[32];
                AgentEntry entry;
                snprintf(path, sizeof(path), "/keys/%u", key);
                if (agent_get(run.lone.agent, path, &entry) == 0 && entry.mod_revision < run.told_at[key])
                        wrong("%s of revision %llu is read, and %llu was told", path,
                              (unsigned long long)entry.mod_revision, (unsigned long long)run.told_at[key]);
        }
}

static int delivered(const WatchEvent *event, void *userdata) {
        if (event->kind == WATCH_COMPACTED || event->kind == WATCH_OVERFLOW) {
                run.watch = NULL; /* over; what came is checked by revision */
                return 2;
        }
        if (event->revision < run.watched)
                wrong("a watch went back from %llu to %llu", (unsigned long long)run.watched,
                      (unsigned long long)event->revision);
        run.watched = event->revision;
        return 0;
}

/* ---- The agent's life ---- */

static int start(void) {
        AgentOptions options = lone_options(&run.lone, run.disk);
        options.report = (Report){.say = say};
        options.segment_bytes = 64 * 1024;
        failing_on();
        int r = agent_new(&run.lone.agent, &options);
        failing_off();
        return r;
}

static void end(bool clean) {
        failing_on();
        run.lone.agent = agent_free(run.lone.agent, clean);
        failing_off();
        run.watch = NULL;
        run.n_waiting = 0;
        simdisk_kill(run.lone.disk);
}

static int pass(uint64_t usec) {
        Lone *lone = &run.lone;
        int r = 0;
        for (uint64_t until = lone->now + usec; r >= 0 && lone->now < until;
             lone->now += 5 * USEC_PER_MSEC) {
                failing_on();
                r = agent_turn(lone->agent);
                for (int m = 1; r >= 0 && m > 0;) {
                        m = agent_step(lone->agent);
                        r = MIN(r, m);
                }
                failing_off();
        }
        return MIN(r, 0);
}

static int list_one(const AgentEntry *entry, void *userdata) {
        return 0;
}

/* A little of everything that a program may ask. */
static void operate(unsigned i) {
        Agent *agent = run.lone.agent;
        char path[32];
        failing_on();
        if (i % 16 == 5) {
                Read *read;
                run.n_waiting++;
                if (agent_read(agent, READ_LINEARIZABLE, 0, USEC_PER_SEC, read_ready, NULL, &read) != 0)
                        run.n_waiting--;
                bool more;
                (void)agent_list(agent, "/", NULL, 0, 100, 65536, list_one, NULL, &more);
        } else if (i % 16 == 9) {
                snprintf(path, sizeof(path), "/own/%u", i % 3);
                run.n_waiting++;
                if (agent_own(agent, path, BYTES("x", 1), "fd:1", USEC_PER_SEC, told_other, NULL, NULL) < 0)
                        run.n_waiting--;
        } else if (i % 64 == 13) {
                TokenRequest request = {.lifetime_usec = USEC_PER_SEC, .uses = 1, .class = MEMBER_FULL};
                run.n_waiting++;
                if (agent_token(agent, &request, told_token, NULL) < 0)
                        run.n_waiting--;
        } else if (i % 64 == 40 || !run.watch) {
                run.watch = watch_free(run.watch);
                uint64_t revision = 0;
                if (agent_watch(agent, "/", WATCH_SUBTREE, 0, delivered, NULL, &run.watch, &revision) < 0)
                        run.watch = NULL;
                run.watched = 0;
        }

        Operation *operation = run.operations + run.n++;
        static uint8_t large[9000];
        *operation = (Operation){.key = i * 7 % KEYS, .is_delete = i % 11 == 3};
        snprintf(operation->value, sizeof(operation->value), "value %u", i);
        snprintf(path, sizeof(path), "/keys/%u", operation->key);
        memset(large, ' ', sizeof(large));
        memcpy(large, operation->value, strlen(operation->value));
        Command command = {
                .kind = operation->is_delete ? COMMAND_DELETE : COMMAND_SET,
                .path = path,
                .value = operation->is_delete ? BYTES(NULL, 0) : BYTES(large, i % 7 == 0 ? 9000 : 60),
        };
        operation->asked = agent_request(agent, &command, 2 * USEC_PER_SEC, told, operation, NULL) == 0;
        failing_off();
}

/* ---- What must be true ---- */

static bool is_value(const AgentEntry *entry, const char *value) {
        size_t n = strlen(value);
        return entry->value.size > n && memcmp(entry->value.data, value, n) == 0 &&
               entry->value.data[n] == ' ';
}

/* The newest acknowledged operation of the key, or a later one whose fate nobody was told. */
static void check_key(unsigned key) {
        char path[32];
        AgentEntry entry;
        snprintf(path, sizeof(path), "/keys/%u", key);
        int r = agent_get(run.lone.agent, path, &entry);
        if (r < 0)
                wrong("%s cannot be read: %s", path, strerror(-r));

        for (unsigned i = run.n; i-- > 0;) {
                const Operation *operation = run.operations + i;
                if (operation->key != key || !operation->asked)
                        continue;
                bool here = operation->is_delete ? r == 1 : r == 0 && is_value(&entry, operation->value);
                bool acknowledged = operation->n_told > 0 && operation->told.answer == ANSWER_DONE;
                bool absent = operation->n_told > 0 && operation->told.answer == ANSWER_REFUSED &&
                              operation->told.result.status == RESULT_ABSENT;
                bool unsure = operation->n_told == 0 || operation->told.answer == ANSWER_UNKNOWN ||
                              (operation->told.answer == ANSWER_STOPPING && operation->told.serial != 0);
                if (here && (acknowledged || unsure || absent))
                        return;
                if (acknowledged || absent)
                        wrong("%s: operation %u was acknowledged and is lost", path, i);
        }
        if (r == 0)
                wrong("%s holds \"%.*s\", which nobody was told of", path, 16,
                      (const char *)entry.value.data);
}

static void check_told(void) {
        for (unsigned i = 0; i < run.n; i++)
                if (run.operations[i].n_told != run.operations[i].asked)
                        wrong("operation %u was answered %u times", i, run.operations[i].n_told);
        if (run.n_waiting != 0)
                wrong("%u answers never came", run.n_waiting);
}

static void check_start(const char *when) {
        int r = start();
        if (r < 0)
                wrong("no start %s: %s", when, strerror(-r));
        r = pass(3 * USEC_PER_SEC);
        if (r < 0)
                wrong("ended again %s: %s", when, strerror(-r));
        if (run.lone.agent->damaged)
                wrong("calls itself damaged %s", when);
        for (unsigned key = 0; key < KEYS; key++)
                check_key(key);
        Told last = {};
        lone_set(&run.lone, "/last", "1", &last);
        r = pass(USEC_PER_SEC);
        if (r < 0 || last.n != 1 || last.last.answer != ANSWER_DONE)
                wrong("takes no write %s", when);
}

/* ---- The run ---- */

static int work(void) {
        int r = start();
        if (r >= 0)
                r = pass(2 * USEC_PER_SEC);
        for (unsigned i = 0; r >= 0 && i < OPERATIONS; i++) {
                if (i == OPERATIONS / 2 || i == OPERATIONS * 3 / 4) {
                        /* A clean stop, and a kill, on the way. */
                        r = pass(3 * USEC_PER_SEC);
                        if (r < 0)
                                return r;
                        check_told();
                        end(i == OPERATIONS / 2);
                        r = start();
                        if (r < 0)
                                return r;
                }
                operate(i);
                r = pass(i % 50 == 49 ? 2 * USEC_PER_SEC : i % 3 == 0 ? 0 : 5 * USEC_PER_MSEC);
        }
        return r >= 0 ? pass(12 * USEC_PER_SEC) : r;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
        return remove(path);
}

/* File calls fail below the real disk; else the log lies in memory, and can lose its power. */
static void prepare(FailKind kind) {
        run.lone = (Lone){.now = USEC_PER_SEC, .disk = simdisk_new(1), .random.state = 7};
        snprintf(run.lone.directory, sizeof(run.lone.directory), "%s/treaty-nth.XXXXXX",
                 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        if (!mkdtemp(run.lone.directory))
                wrong("no directory");
        if (kind != FAIL_FILE)
                run.disk = failing_disk_new(simdisk_disk(run.lone.disk));
        else if (disk_open_directory(&run.disk, run.lone.directory) < 0)
                wrong("no disk");
}

static void put_away(FailKind kind) {
        nftw(run.lone.directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
        run.disk = kind == FAIL_FILE ? disk_free(run.disk) : failing_disk_free(run.disk);
        simdisk_free(run.lone.disk);
}

static void one(FailKind kind, uint64_t n) {
        failing_arm(kind, n, n % 4 == 3 ? 10 : 0, n % 2 == 1);
        int r = work();
        bool born = run.lone.agent != NULL;
        if (run.verbose)
                fprintf(stderr, "after %s failed: %s\n", failing_what(), r < 0 ? strerror(-r) : "went on");
        failing_arm(FAIL_NOTHING, 0, 0, false);
        if (r < 0 && born && run.n_errors == 0)
                wrong("ended (%s) and said nothing", strerror(-r));
        if (r >= 0)
                check_told();
        bool cut = n % 3 == 1 && kind != FAIL_FILE;
        if (run.lone.agent)
                end(r >= 0 && n % 3 == 2);
        if (cut)
                simdisk_cut(run.lone.disk, SIM_LOSE_ALL);
        check_start("afterwards");
        end(true);
        check_start("after a clean stop");
        end(true);
}

/* How many calls there are to fail. */
static uint64_t count(FailKind kind) {
        int pipes[2];
        uint64_t n = 0;
        if (pipe(pipes) < 0)
                return 0;
        pid_t pid = fork();
        if (pid == 0) {
                prepare(kind);
                failing_arm(kind, UINT64_MAX, 0, false);
                if (work() < 0)
                        wrong("the run does not even work without a failure");
                check_told();
                n = failing_calls();
                put_away(kind);
                coverage_dump();
                _exit(write(pipes[1], &n, sizeof(n)) == sizeof(n) ? 0 : 1);
        }
        close(pipes[1]);
        if (read(pipes[0], &n, sizeof(n)) != sizeof(n))
                n = 0;
        close(pipes[0]);
        waitpid(pid, NULL, 0);
        return n;
}

static bool holds(const char *name, FailKind kind, uint64_t n) {
        prepare(kind);
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
                alarm(120);
                one(kind, n);
                coverage_dump();
                _exit(0);
        }
        int status = 0;
        waitpid(pid, &status, 0);
        put_away(kind);
        if (status == 0)
                return true;
        if (WIFSIGNALED(status))
                fprintf(stderr, "signal %d\n", WTERMSIG(status));
        fprintf(stderr, "failed: nth %s --from %llu --to %llu --verbose\n", name, (unsigned long long)n,
                (unsigned long long)n + 1);
        return false;
}

int main(int argc, char **argv) {
        static const char *const names[] = {
                [FAIL_MEMORY] = "memory", [FAIL_DISK] = "disk", [FAIL_FILE] = "file"};
        uint64_t samples = UINT64_MAX, from = 0, to = UINT64_MAX;
        FailKind kind = FAIL_NOTHING;

        for (unsigned k = FAIL_MEMORY; argc > 1 && k < ELEMENTSOF(names); k++)
                if (strcmp(argv[1], names[k]) == 0)
                        kind = k;
        for (int i = 2; i < argc; i++) {
                uint64_t *number = strcmp(argv[i], "--samples") == 0 ? &samples
                                   : strcmp(argv[i], "--from") == 0  ? &from
                                   : strcmp(argv[i], "--to") == 0    ? &to
                                                                     : NULL;
                if (strcmp(argv[i], "--verbose") == 0)
                        run.verbose = true;
                else if (number && i + 1 < argc)
                        *number = strtoull(argv[++i], NULL, 10);
                else
                        kind = FAIL_NOTHING;
        }
        if (kind == FAIL_NOTHING || samples == 0) {
                fprintf(stderr, "usage: nth memory|disk|file [--samples N | --from A --to B] [--verbose]\n");
                return 2;
        }

        uint64_t calls = count(kind);
        if (calls == 0)
                return 1;
        to = MIN(to, calls);
        /* A stride that shares no small factor with what repeats in the run. */
        uint64_t stride = samples >= to - from ? 1 : (to - from) / samples | 1;
        unsigned n_tried = 0, n_failed = 0;
        for (uint64_t n = from; n < to; n += stride, n_tried++)
                n_failed += !holds(names[kind], kind, n);
        printf("%s: %llu calls, %u of them failed, %u runs went wrong\n", names[kind],
               (unsigned long long)calls, n_tried, n_failed);
        return n_failed ? 1 : 0;
}
