/* How often each rare place was reached (agent/base/seen.h), over all seeds of a run: each run is a process
 * of its own, and adds its counts to a table that all share. */
#include "sim.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "agent/base/seen.h"

extern Seen __start_treaty_seen[] __attribute__((__weak__, __visibility__("hidden")));
extern Seen __stop_treaty_seen[] __attribute__((__weak__, __visibility__("hidden")));

static uint64_t *totals; /* how often */
static uint64_t *runs; /* and by how many runs: what one seed alone reaches is gone when that seed changes */

static size_t count(void) {
        return (size_t)(__stop_treaty_seen - __start_treaty_seen);
}

static bool same(size_t i, size_t j) {
        return strcmp(__start_treaty_seen[i].name, __start_treaty_seen[j].name) == 0;
}

static bool is_first(size_t i) {
        for (size_t j = 0; j < i; j++)
                if (same(i, j))
                        return false;
        return true;
}

void seen_share(void) {
        size_t size = 2 * MAX(count(), (size_t)1) * sizeof(*totals);
        totals = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert(totals != MAP_FAILED);
        runs = totals + count();
}

/* One mark may stand in several places with the same words: they count together, where the first of them
 * stands. */
void seen_add(void) {
        for (size_t i = 0; totals && i < count(); i++) {
                uint64_t hits = 0;
                if (!is_first(i))
                        continue;
                for (size_t j = i; j < count(); j++)
                        hits += same(i, j) ? __start_treaty_seen[j].hits : 0;
                __atomic_fetch_add(&totals[i], hits, __ATOMIC_RELAXED);
                __atomic_fetch_add(&runs[i], (uint64_t)(hits > 0), __ATOMIC_RELAXED);
        }
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
                        totals[i] += is_first(i) && strcmp(__start_treaty_seen[i].name, line) == 0;
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
                if (!is_first(i))
                        continue;
                n++;
                n_never += totals[i] == 0;
                if (all || totals[i] == 0)
                        printf("%10llu in %4llu  %s  (%s:%llu)\n", (unsigned long long)totals[i],
                               (unsigned long long)runs[i], seen->name, seen->file,
                               (unsigned long long)seen->line);
        }
        printf("%u rare places, %u never seen\n", n, n_never);
        return n_never;
}
