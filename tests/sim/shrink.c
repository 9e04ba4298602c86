/* A failing run is made smaller while it fails in the same way: fewer ticks, fewer kinds of faults, fewer
 * clients and hosts, faults in a part of the time only. Each step changes what comes after it, so a step is
 * taken only when the smaller run was seen to fail. */
#include "sim.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef struct Shrink {
        Run best;
        int status;
        char how[80];
        uint64_t until_usec;
} Shrink;

static uint64_t real_usec(void) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * SEC + (uint64_t)ts.tv_nsec / 1000;
}

/* What broke, without numbers: "seed 7, 12.3 s: BROKEN: h2 went back" and the like. */
static void how_it_failed(const char *text, char to[static 80]) {
        const char *at = strstr(text, " s: ");
        size_t n = 0;
        for (at = at ? at + 4 : text; *at && *at != '\n' && n < 79; at++) {
                bool digit = isxdigit((unsigned char)*at) && strchr("0123456789", *at);
                if (!digit)
                        to[n++] = *at;
                else if (n == 0 || to[n - 1] != '#')
                        to[n++] = '#';
        }
        to[n] = 0;
}

static bool in_time(const Shrink *shrink) {
        return real_usec() < shrink->until_usec;
}

static bool try(Shrink *shrink, const Run *plan) {
        char text[1024], how[80];
        if (!in_time(shrink))
                return false;
        int status = run_apart(plan, text, sizeof(text));
        how_it_failed(text, how);
        if (status != shrink->status || strncmp(how, shrink->how, 48) != 0)
                return false;
        shrink->best = *plan;
        return true;
}

static bool fewer_ticks(Shrink *shrink) {
        bool any = false;
        for (uint64_t step = shrink->best.ticks / 2; step > 0 && in_time(shrink); step /= 2)
                while (shrink->best.ticks > step) {
                        Run plan = shrink->best;
                        plan.ticks -= step;
                        if (!try(shrink, &plan))
                                break;
                        any = true;
                }
        return any;
}

static bool fewer_kinds(Shrink *shrink) {
        bool any = false;
        for (unsigned i = 0; fault_name(i); i++) {
                Run plan = shrink->best;
                if (plan.narrow.without >> i & 1)
                        continue;
                plan.narrow.without |= UINT64_C(1) << i;
                any = try(shrink, &plan) || any;
        }
        return any;
}

static bool fewer_of(Shrink *shrink, unsigned *(*which)(Run *), unsigned most) {
        for (unsigned n = 1; n < most && in_time(shrink); n = n < 4 ? n + 1 : n * 2) {
                Run plan = shrink->best;
                unsigned *of = which(&plan);
                if (*of != 0 && *of <= n)
                        return false;
                *of = n;
                if (try(shrink, &plan))
                        return true;
        }
        return false;
}

static unsigned *hosts_of(Run *plan) {
        return &plan->narrow.hosts;
}

static unsigned *clients_of(Run *plan) {
        return &plan->narrow.clients;
}

static bool smaller_window(Shrink *shrink) {
        bool any = false;
        for (bool more = true; more && in_time(shrink);) {
                Run plan = shrink->best;
                Narrow *narrow = &plan.narrow;
                if (narrow->to == 0)
                        narrow->to = plan.ticks;
                uint64_t half = (narrow->to - narrow->from) / 2;
                if (half == 0)
                        break;
                narrow->from += half;
                more = try(shrink, &plan);
                if (!more) {
                        narrow->from -= half;
                        narrow->to -= half;
                        more = try(shrink, &plan);
                }
                any = any || more;
        }
        return any;
}

Run shrink(const Run *run, int status, const char *text, uint64_t usec) {
        Shrink shrink = {.best = *run, .status = status, .until_usec = real_usec() + usec};
        how_it_failed(text, shrink.how);
        bool smaller = true;
        while (smaller && in_time(&shrink)) {
                smaller = fewer_ticks(&shrink);
                smaller = fewer_kinds(&shrink) || smaller;
                smaller = fewer_of(&shrink, clients_of, 24) || smaller;
                smaller = fewer_of(&shrink, hosts_of, 7) || smaller;
                smaller = smaller_window(&shrink) || smaller;
        }
        return shrink.best;
}
