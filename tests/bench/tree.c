/* What the tree alone costs, without a host around it: one agent's requests applied to a real file, as a
 * turn of the hall hands them over (64 at a time), committed when the tree calls it urgent.
 *
 *      tree-cost set N KEYS     N random SETs of 256 bytes over KEYS paths; the first KEYS fill it,
 * uncounted tree-cost get N KEYS     N random reads, of a tree that SETs filled tree-cost open N KEYS opens
 * such a tree N times; says how long until the first read
 *
 * With a word more, checkpoints are a thread's. What is asked happens in tree_cost_run(), so that callgrind
 * can count just that; the numbers repeat to one in a hundred, whatever else the machine does:
 *
 *      valgrind --tool=callgrind --toggle-collect=tree_cost_run tree-cost set 20000 10000 */
#include "agent/base/random.h"
#include "agent/tree/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define VALUE_BYTES 256
#define BATCH       64

typedef struct Cost {
        TreeOptions options;
        Tree *tree;
        uint64_t index, incarnation, serial;
        unsigned n, keys;
        Random random;
        unsigned n_commits;
        uint64_t bytes_written; /* before the run */
} Cost;

static void must(int r, const char *what) {
        if (r != 0) {
                fprintf(stderr, "%s: %d\n", what, r);
                exit(1);
        }
}

static void say(void *userdata, int level, const char *text) {
        fprintf(stderr, "%s\n", text);
}

static void heard(const TreeChange *change, void *userdata) {
}

static void apply(Cost *cost, const Command *command, Result *ret) {
        Entry entry = {.index = ++cost->index, .term = 1, .type = ENTRY_COMMAND};
        EntryStamp stamp = {.min_version = 1, .cluster_usec = cost->index};
        must(tree_apply(cost->tree, &entry, &stamp, command, NULL, false, 1, heard, NULL, ret), "apply");
}

static void found(Cost *cost) {
        Member founder = {.id = 1, .class = MEMBER_FULL, .name = "h1", .n_keys = 1, .version = 1};
        static const uint8_t cluster[16] = "cluster-of-costs";
        must(tree_found(cost->tree, cluster, &founder), "found");
        Result result;
        apply(cost,
              &(Command){.kind = COMMAND_ANNOUNCE,
                         .host = 1,
                         .nonce = BYTES("0123456789abcdef", 16),
                         .start = 1,
                         .start_nonce = BYTES("fedcba9876543210", 16)},
              &result);
        cost->incarnation = result.number;
}

static void path_of(char to[static 40], unsigned key) {
        snprintf(to, 40, "/bench/keys/%08u", key);
}

static void set(Cost *cost, unsigned key) {
        char path[40];
        uint8_t value[VALUE_BYTES];
        memset(value, (int)key, sizeof(value));
        path_of(path, key);
        cost->serial++;
        Result result;
        apply(cost,
              &(Command){.kind = COMMAND_SET,
                         .host = 1,
                         .incarnation = cost->incarnation,
                         .serial = cost->serial,
                         .lowest_unresolved = cost->serial > BATCH ? cost->serial - BATCH : 1,
                         .path = path,
                         .value = BYTES(value, sizeof(value))},
              &result);
        if (result.status != RESULT_DONE)
                must(-1, "set");
}

static void commit_if_urgent(Cost *cost) {
        bool urgent;
        if (tree_dirty(cost->tree, &urgent) && urgent) {
                must(tree_commit(cost->tree), "commit");
                must(tree_maintain(cost->tree), "maintain");
                cost->n_commits++;
        }
}

static void fill(Cost *cost) {
        for (unsigned i = 0; i < cost->keys; i++) {
                set(cost, i);
                if (i % BATCH == 0)
                        commit_if_urgent(cost);
        }
        must(tree_commit(cost->tree), "commit");
}

static void run_sets(Cost *cost) {
        for (unsigned i = 0; i < cost->n; i++) {
                set(cost, (unsigned)random_below(&cost->random, cost->keys));
                if (i % BATCH == 0)
                        commit_if_urgent(cost);
        }
        must(tree_commit(cost->tree), "commit");
}

static void run_gets(Cost *cost) {
        for (unsigned i = 0; i < cost->n; i++) {
                char path[40];
                TreeEntry entry;
                path_of(path, (unsigned)random_below(&cost->random, cost->keys));
                must(tree_get(cost->tree, path, &entry), "get");
        }
}

static void open_again(Cost *cost, const char *name) {
        TreeEntry entry;
        char path[40];
        must(tree_open(&cost->tree, &cost->options, name), "open");
        path_of(path, 0);
        must(tree_get(cost->tree, path, &entry), "get");
}

static void run_opens(Cost *cost, const char *name) {
        for (unsigned i = 0; i < cost->n; i++) {
                tree_abandon(cost->tree);
                open_again(cost, name);
        }
}

/* Of this process, as the kernel counts: to the disk, WAL and file and all. */
static uint64_t io_written(void) {
        FILE *f = fopen("/proc/self/io", "re");
        char line[100];
        unsigned long long n = 0;
        while (f && fgets(line, sizeof(line), f))
                if (sscanf(line, "wchar: %llu", &n) == 1)
                        break;
        if (f)
                fclose(f);
        return n;
}

static unsigned long rss_kib(void) {
        FILE *f = fopen("/proc/self/statm", "re");
        unsigned long size = 0, resident = 0;
        if (f && fscanf(f, "%lu %lu", &size, &resident) != 2)
                resident = 0;
        if (f)
                fclose(f);
        return resident * 4;
}

static double cpu_usec(void) {
        struct timespec t;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
        return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Its own function, not inlined, so that callgrind can be told to count inside it alone. */
__attribute__((noinline)) void tree_cost_run(Cost *cost, const char *what, const char *name);
void tree_cost_run(Cost *cost, const char *what, const char *name) {
        if (strcmp(what, "set") == 0)
                run_sets(cost);
        else if (strcmp(what, "get") == 0)
                run_gets(cost);
        else
                run_opens(cost, name);
}

static void clear(const char *directory) {
        DIR *d = opendir(directory);
        for (struct dirent *e; d && (e = readdir(d));)
                if (e->d_name[0] != '.')
                        unlinkat(dirfd(d), e->d_name, 0);
        if (d)
                closedir(d);
        rmdir(directory);
}

int main(int argc, char **argv) {
        static const char name[] = "tree-0000000000000000-00000001.db";
        if (argc < 4 || argc > 5)
                return fprintf(stderr, "tree-cost set|get|open N KEYS [thread]\n"), 2;
        char directory[] = "/tmp/treaty-cost-XXXXXX";
        if (!mkdtemp(directory))
                return 1;
        Cost cost = {
                .options = {.directory = directory, .report = {say, NULL}, .thread = argc > 4},
                .n = (unsigned)atoi(argv[2]),
                .keys = (unsigned)atoi(argv[3]),
                .random = {1},
        };
        must(tree_create(&cost.options, name), "create");
        must(tree_open(&cost.tree, &cost.options, name), "open");
        tree_want_previous(cost.tree, false);
        unsigned long before = rss_kib();
        found(&cost);
        fill(&cost);

        uint64_t written = io_written();
        double begin = cpu_usec();
        cost.n_commits = 0;
        tree_cost_run(&cost, argv[1], name);
        printf("%s: %u over %u keys: %.2f µs of CPU, %.0f bytes written each; %u commits; RSS %lu KiB, %lu "
               "before any entry\n",
               argv[1], cost.n, cost.keys, (cpu_usec() - begin) / cost.n,
               (double)(io_written() - written) / cost.n, cost.n_commits, rss_kib(), before);
        tree_abandon(cost.tree);
        clear(directory);
        return 0;
}
