/* How often each rare place was reached (agent/base/seen.h), over all seeds of a run: each run is a process
 * of its own, and adds its counts to a table that all share. */
#include "sim.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "agent/base/seen.h"

extern Seen __start_treaty_seen[] __attribute__((__weak__, __visibility__("hidden")));
extern Seen __stop_treaty_seen[] __attribute__((__weak__, __visibility__("hidden")));

static uint64_t *totals;

static size_t count(void) {
        return (size_t)(__stop_treaty_seen - __start_treaty_seen);
}

void seen_share(void) {
        totals = mmap(NULL, MAX(count(), (size_t)1) * sizeof(*totals), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert(totals != MAP_FAILED);
}

void seen_add(void) {
        for (size_t i = 0; totals && i < count(); i++)
                if (__start_treaty_seen[i].hits > 0)
                        __atomic_fetch_add(&totals[i], __start_treaty_seen[i].hits, __ATOMIC_RELAXED);
}

/* One mark may stand in several places with the same words: they count together. */
static uint64_t hits_of(size_t i) {
        uint64_t n = 0;
        for (size_t j = 0; j < count(); j++)
                if (strcmp(__start_treaty_seen[j].name, __start_treaty_seen[i].name) == 0)
                        n += totals[j];
        return n;
}

static bool is_first(size_t i) {
        for (size_t j = 0; j < i; j++)
                if (strcmp(__start_treaty_seen[j].name, __start_treaty_seen[i].name) == 0)
                        return false;
        return true;
}

/* Batches of several programs count together: what those before saw stands in this file, by name, and what
 * this one saw is added. */
bool seen_keep(const char *path) {
        char line[200];
        FILE *file = fopen(path, "a+e");
        if (!file)
                return false;
        rewind(file);
        while (fgets(line, sizeof(line), file)) {
                line[strcspn(line, "\n")] = 0;
                for (size_t i = 0; i < count(); i++)
                        totals[i] += strcmp(__start_treaty_seen[i].name, line) == 0;
        }
        for (size_t i = 0; i < count(); i++)
                if (totals[i] > 0)
                        fprintf(file, "%s\n", __start_treaty_seen[i].name);
        return fclose(file) == 0;
}

/* The table, and the places where nobody was. Returns how many these are. */
unsigned seen_tell(bool all) {
        unsigned n = 0, n_never = 0;
        for (size_t i = 0; i < count(); i++) {
                const Seen *seen = &__start_treaty_seen[i];
                uint64_t hits = hits_of(i);
                if (!is_first(i))
                        continue;
                n++;
                n_never += hits == 0;
                if (all || hits == 0)
                        printf("%10llu  %s  (%s:%llu)\n", (unsigned long long)hits, seen->name, seen->file,
                               (unsigned long long)seen->line);
        }
        printf("%u rare places, %u never seen\n", n, n_never);
        return n_never;
}
