/* Time, chance, the trace, and how a run ends. Events lie in a heap by (time, order of asking); the trace is
 * a ring of lines that is shown only when something went wrong, and a hash over all that happened, by which
 * two runs of one seed are compared. */
#include "sim.h"

#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "tests/coverage.h"

#define LINES      4000
#define LINE_BYTES 200

World world;

typedef struct Event {
        uint64_t usec, order;
        Happen happen;
        void *p;
        uint64_t a;
} Event;

static Event *heap;
static size_t n_heap, heap_size;
static uint64_t n_orders;

static bool before(const Event *a, const Event *b) {
        return a->usec != b->usec ? a->usec < b->usec : a->order < b->order;
}

void at(uint64_t usec, Happen happen, void *p, uint64_t a) {
        if (n_heap == heap_size) {
                heap_size = MAX((size_t)1024, heap_size * 2);
                heap = reallocarray(heap, heap_size, sizeof(Event));
                assert(heap);
        }
        Event event = {.usec = MAX(usec, world.now), .order = n_orders++, .happen = happen, .p = p, .a = a};
        size_t i = n_heap++;
        while (i > 0 && before(&event, &heap[(i - 1) / 2])) {
                heap[i] = heap[(i - 1) / 2];
                i = (i - 1) / 2;
        }
        heap[i] = event;
}

static Event heap_pop(void) {
        Event top = heap[0], last = heap[--n_heap];
        size_t i = 0;
        for (;;) {
                size_t child = 2 * i + 1;
                if (child >= n_heap)
                        break;
                if (child + 1 < n_heap && before(&heap[child + 1], &heap[child]))
                        child++;
                if (!before(&heap[child], &last))
                        break;
                heap[i] = heap[child];
                i = child;
        }
        heap[i] = last;
        return top;
}

/* ---- Alarms: few, so that the next one is found by looking at all of them ---- */

static uint64_t alarms[HOSTS_MAX * _ALARM_MAX];
static unsigned next_alarm;

static unsigned alarm_of(const SimHost *host, AlarmKind kind) {
        return host->i * _ALARM_MAX + kind;
}

static void alarms_look(void) {
        next_alarm = 0;
        for (unsigned i = 1; i < world.n_hosts * _ALARM_MAX; i++)
                if (alarms[i] < alarms[next_alarm])
                        next_alarm = i;
}

void alarm_set(SimHost *host, AlarmKind kind, uint64_t usec) {
        unsigned i = alarm_of(host, kind);
        uint64_t was = alarms[i];
        alarms[i] = usec == USEC_INFINITY ? usec : MAX(usec, world.now);
        if (alarms[i] < alarms[next_alarm] || (alarms[i] == alarms[next_alarm] && i < next_alarm))
                next_alarm = i;
        else if (i == next_alarm && alarms[i] > was)
                alarms_look();
}

uint64_t alarm_at(const SimHost *host, AlarmKind kind) {
        return alarms[alarm_of(host, kind)];
}

static void alarm_rings(void) {
        SimHost *host = world.hosts[next_alarm / _ALARM_MAX];
        AlarmKind kind = next_alarm % _ALARM_MAX;
        world.now = alarms[next_alarm];
        alarm_set(host, kind, USEC_INFINITY);
        host_alarm(host, kind);
}

bool happen_next(uint64_t until) {
        uint64_t alarm = alarms[next_alarm];
        if (alarm <= until && (n_heap == 0 || alarm < heap[0].usec)) {
                world.n_events++;
                alarm_rings();
                return true;
        }
        if (n_heap == 0 || heap[0].usec > until) {
                world.now = until;
                return false;
        }
        Event event = heap_pop();
        world.now = event.usec;
        world.n_events++;
        event.happen(event.p, event.a);
        return true;
}

uint64_t below(uint64_t n) {
        return random_below(&world.random, n);
}

uint64_t between(uint64_t from, uint64_t to) {
        return from + below(to - from + 1);
}

bool chance(unsigned per_10000) {
        return below(10000) < per_10000;
}

/* ---- The trace ---- */

static char lines[LINES][LINE_BYTES];
static uint64_t n_lines;

void note(const char *format, ...) {
        if (world.silent)
                return;
        char *line = lines[n_lines++ % LINES];
        int n = snprintf(line, LINE_BYTES, "%10.4f ", (double)world.now / SEC);
        va_list ap;
        va_start(ap, format);
        vsnprintf(line + n, LINE_BYTES - (size_t)n, format, ap);
        va_end(ap);
        if (world.verbose)
                fprintf(stderr, "%s\n", line);
}

void mix(uint64_t value) {
        world.hash = (world.hash ^ value) * UINT64_C(0x9e3779b97f4a7c15);
        world.hash ^= world.hash >> 29;
}

static void show_lines(void) {
        if (world.verbose)
                return;
        for (uint64_t i = n_lines > LINES ? n_lines - LINES : 0; i < n_lines; i++)
                fprintf(stderr, "%s\n", lines[i % LINES]);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        return remove(path);
}

void directory_clear(const char *path) {
        (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        if (mkdir(path, 0700) < 0) {
                perror(path);
                _exit(SIM_USAGE);
        }
}

static void tell_command(void) {
        Run again = {.seed = world.seed, .ticks = world.ticks, .narrow = world.narrow};
        char command[600];
        run_command(&again, command, sizeof(command));
        printf("%s\n", command);
}

_Noreturn void finish(int status) {
        seen_add();
        batch_add();
        if (status != SIM_HELD)
                show_lines();
        if (world.directory[0])
                (void)nftw(world.directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        if (status != SIM_HELD)
                tell_command();
        fflush(stdout);
        fflush(stderr);
        coverage_dump();
        _exit(status);
}

static void end_with(int status, const char *what, const char *format, va_list ap) {
        char text[1024];
        vsnprintf(text, sizeof(text), format, ap);
        show_lines();
        world.verbose = true; /* the lines were shown */
        printf("seed %llu, %.4f s: %s: %s\n", (unsigned long long)world.seed, (double)world.now / SEC, what,
               text);
        finish(status);
}

_Noreturn void broken(const char *format, ...) {
        va_list ap;
        va_start(ap, format);
        end_with(SIM_BROKEN, "BROKEN", format, ap);
        __builtin_unreachable();
}

_Noreturn void stuck(const char *format, ...) {
        va_list ap;
        va_start(ap, format);
        end_with(SIM_STUCK, "STUCK", format, ap);
        __builtin_unreachable();
}

static void on_signal(int signal) {
        printf("seed %llu, %.4f s: %s\n", (unsigned long long)world.seed, (double)world.now / SEC,
               signal == SIGABRT ? "ASSERTION" : strsignal(signal));
        finish(SIM_ASSERTION);
}

/* ---- What the code under test could otherwise draw from the real world ---- */

ssize_t getrandom(void *data, size_t size, unsigned flags) {
        for (size_t i = 0; i < size; i++)
                ((uint8_t *)data)[i] = (uint8_t)below(256);
        return (ssize_t)size;
}

void world_begin(uint64_t seed, uint64_t ticks, bool verbose) {
        world = (World){.seed = seed, .ticks = ticks, .verbose = verbose, .now = 1, .disk_usec = 600};
        for (unsigned i = 0; i < ELEMENTSOF(alarms); i++)
                alarms[i] = USEC_INFINITY;
        world.random.state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
        const char *base = getenv("TMPDIR") ?: access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        snprintf(world.directory, sizeof(world.directory), "%.30s/treaty-sim-%d", base, (int)getpid());
        directory_clear(world.directory);
        const int caught[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGXCPU};
        for (size_t i = 0; i < ELEMENTSOF(caught); i++)
                signal(caught[i], on_signal);
}
