/* The database in memory against the real SQLite: this program is linked with each, and both are fed the
 * same random commands, commits, kills, checkpoints, prunings and snapshots. What they tell (the digest at
 * every step, every event, what a snapshot builds) has to be the same, line by line.
 *
 *      same SEED           tells
 *      same SEED PROGRAM   tells, and compares with what that program tells
 */
#include "tests/tree/help.h"

#include <xxhash.h>

static FILE *other;
static unsigned n_lines;

static void tell(const char *line) {
        char theirs[200] = "";
        n_lines++;
        if (!other)
                printf("%s\n", line);
        else if (!fgets(theirs, sizeof(theirs), other) || strncmp(theirs, line, strlen(line)) != 0) {
                printf("line %u: here %s, there %s\n", n_lines, line, theirs);
                exit(1);
        }
}

static void tell_tree(const char *what, Tree *tree, const Buffer *events) {
        char line[200], hex[33];
        TreeDigest digest;
        TreeStatus status;
        tree_digest(tree, &digest);
        tree_status(tree, &status);
        snprintf(line, sizeof(line), "%s %llu: %s revision %llu floor %llu entries %llu events %016llx",
                 what, (unsigned long long)status.applied, hex_write(hex, digest.sum, 16),
                 (unsigned long long)status.revision, (unsigned long long)status.floor,
                 (unsigned long long)status.n_entries,
                 (unsigned long long)(events ? XXH3_64bits(events->data, events->size) : 0));
        tell(line);
}

static void travel(Bench *bench) {
        TreeSnapshot *snapshot;
        TreeBuild *build;
        Buffer chunk = {};
        char name[80];
        uint64_t index, term;
        bool done = false;
        int r = tree_snapshot_begin(bench->tree, &snapshot);
        assert(r == 0);
        r = tree_build_begin(&bench->options, &build);
        assert(r == 0);
        while (!done) {
                chunk.size = 0;
                r = tree_snapshot_next(snapshot, &chunk, &done);
                assert(r == 0);
                r = tree_build_feed(build, BYTES(chunk.data, chunk.size));
                assert(r == 0);
        }
        r = tree_build_finish(build, name, &index, &term);
        assert(r == 0);
        tree_build_free(build);
        tree_snapshot_free(snapshot);
        buffer_deinit(&chunk);

        Tree *built;
        r = tree_open(&built, &bench->options, name);
        assert(r == 0);
        r = tree_scrub(built);
        assert(r == 0);
        tell_tree("built", built, NULL);
        tree_close(built);
}

static void rhythm_beats(Bench *bench, Random *rhythm) {
        int r = 0;
        if (random_below(rhythm, 20) == 0)
                r = tree_commit(bench->tree);
        assert(r == 0);
        if (random_below(rhythm, 150) == 0) {
                r = tree_commit(bench->tree);
                assert(r == 0);
                bench_reopen(bench, random_below(rhythm, 2) == 0);
        }
        if (random_below(rhythm, 100) == 0) {
                tree_checkpoint(bench->tree);
                r = tree_maintain(bench->tree);
                assert(r == 0);
        }
        if (random_below(rhythm, 400) == 0)
                travel(bench);
}

int main(int argc, char **argv) {
        char command[600];
        if (argc < 2)
                return 2;
        if (argc > 2) {
                snprintf(command, sizeof(command), "'%s' %s", argv[2], argv[1]);
                other = popen(command, "re");
                assert(other);
        }
        Bench *bench;
        int r = bench_setup((void **)&bench);
        assert(r == 0);
        add_host(bench, 2, "h2", MEMBER_FULL);
        add_host(bench, 3, "h3", MEMBER_FULL);
        Random random = {strtoull(argv[1], NULL, 10)}, rhythm = {random.state + 1};
        for (unsigned i = 0; i < 6000; i++) {
                apply_random(bench, &random);
                rhythm_beats(bench, &rhythm);
                tell_tree("at", bench->tree, &bench->live);
        }
        r = tree_scrub(bench->tree);
        assert(r == 0);
        bench_free(bench);
        if (other) {
                printf("%u lines are the same\n", n_lines);
                return pclose(other) == 0 ? 0 : 1;
        }
        return 0;
}
