/* A snapshot of a tree that goes on changing becomes a tree that equals the source as it was at the pin; and
 * bytes that were changed on the way never become a tree. */
#include "help.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>
#include "agent/tree/internal.h"

typedef struct Chunks {
        Buffer chunks[4096];
        size_t n;
} Chunks;

static void chunks_deinit(Chunks *chunks) {
        for (size_t i = 0; i < chunks->n; i++)
                buffer_deinit(&chunks->chunks[i]);
}

static void grow(Bench *bench, uint64_t seed, int n) {
        Random random = {seed};
        add_host(bench, 2, "h2", MEMBER_FULL);
        add_host(bench, 3, "h3", MEMBER_LEAF);
        for (int i = 0; i < n; i++)
                apply_random(bench, &random);
        Token token = token_of(77, MEMBER_LEAF, 3, 3600 * USEC_PER_SEC);
        apply(bench, (Command){.kind = COMMAND_ADD_TOKEN, .token = &token});
        char path[32];
        for (int i = 0; i < 700; i++) {
                snprintf(path, sizeof(path), "/many/%d", i);
                set(bench, path, path);
        }
        add_host(bench, 5, "h5", MEMBER_FULL);
        apply(bench, (Command){.kind = COMMAND_SET, .host = 5, .path = "/e/5", .flags = COMMAND_EPHEMERAL});
        apply(bench, (Command){.kind = COMMAND_REMOVE_MEMBER, .subject = 5});
        apply(bench, (Command){.kind = COMMAND_SET, .host = 2, .path = "/e/2", .flags = COMMAND_EPHEMERAL});
}

static void test_while_applying(void **state) {
        Bench *bench = *state;
        static Chunks chunks;
        grow(bench, 11, 1500);
        TreeSnapshot *snapshot;
        assert_int_equal(tree_snapshot_begin(bench->tree, &snapshot), 0);
        TreeDigest pinned = digest_of(bench);
        TreeStatus status = status_of(bench);
        assert_int_equal(tree_snapshot_index(snapshot), status.applied);
        assert_int_equal(tree_snapshot_term(snapshot), status.applied_term);

        /* Applying and pruning go on between the pages. */
        Random random = {12};
        bool done = false;
        chunks.n = 0;
        while (!done) {
                assert_true(chunks.n < ELEMENTSOF(chunks.chunks));
                Buffer *chunk = &chunks.chunks[chunks.n++];
                assert_int_equal(tree_snapshot_next(snapshot, chunk, &done), 0);
                assert_true(chunk->size <= STREAM_CHUNK_MAX);
                for (int i = 0; i < 200; i++)
                        apply_random(bench, &random);
                apply(bench, (Command){.kind = COMMAND_PRUNE, .revision = UINT64_MAX});
                assert_int_equal(tree_commit(bench->tree), 0);
        }
        assert_true(chunks.n > 3);
        tree_snapshot_free(snapshot);
        assert_memory_not_equal(pinned.sum, digest_of(bench).sum, 16);

        TreeBuild *build;
        char name[80];
        uint64_t index, term;
        assert_int_equal(tree_build_begin(&bench->options, &build), 0);
        for (size_t i = 0; i < chunks.n; i++)
                assert_int_equal(tree_build_feed(build, BYTES(chunks.chunks[i].data, chunks.chunks[i].size)),
                                 0);
        assert_int_equal(tree_build_finish(build, name, &index, &term), 0);
        tree_build_free(build);
        assert_int_equal(index, status.applied);
        assert_int_equal(term, status.applied_term);
        assert_true(tree_name_is_valid(name));

        Bench other = *bench;
        assert_int_equal(tree_open(&other.tree, &bench->options, name), 0);
        assert_memory_equal(digest_of(&other).sum, pinned.sum, 16);
        assert_int_equal(tree_scrub(other.tree), 0);
        TreeStatus built = status_of(&other);
        assert_int_equal(built.revision, status.revision);
        assert_int_equal(built.floor, status.floor);
        assert_int_equal(built.n_entries, status.n_entries);
        assert_int_equal(built.durable, status.applied);
        assert_memory_equal(built.cluster, status.cluster, 16);

        /* It answers for requests of before, knows members by name and who is gone, and takes entries. */
        Member member;
        assert_int_equal(tree_member_by_name(other.tree, "h2", &member), 0);
        assert_true(tree_member_removed(other.tree, 5));
        Result told;
        assert_int_equal(tree_outcome(other.tree, 5, bench->incarnation[5], 2, &told), TREE_OUTCOME_APPLIED);
        chunks_deinit(&chunks);
        memset(&chunks, 0, sizeof(chunks));
        noop(&other);
        apply_raw(&other,
                  &(Command){.kind = COMMAND_END_SESSION, .subject = 2, .generation = bench->generation[2]},
                  &told);
        assert_int_equal(tree_commit(other.tree), 0);
        assert_int_equal(tree_scrub(other.tree), 0);
        other.tree = tree_close(other.tree);
        assert_int_equal(tree_sweep(&bench->options, bench->name), 0);
        bench->live = other.live;
        assert_int_equal(tree_scrub(bench->tree), 0);
}

/* The two live on from the same point: the same entries, the same digests. */
static void test_twins(void **state) {
        Bench *bench = *state;
        grow(bench, 21, 800);
        TreeSnapshot *snapshot;
        TreeBuild *build;
        bool done = false;
        assert_int_equal(tree_snapshot_begin(bench->tree, &snapshot), 0);
        assert_int_equal(tree_build_begin(&bench->options, &build), 0);
        while (!done) {
                _cleanup_(buffer_deinit) Buffer chunk = {};
                assert_int_equal(tree_snapshot_next(snapshot, &chunk, &done), 0);
                assert_int_equal(tree_build_feed(build, BYTES(chunk.data, chunk.size)), 0);
        }
        tree_snapshot_free(snapshot);
        Bench twin = *bench;
        uint64_t index, term;
        assert_int_equal(tree_build_finish(build, twin.name, &index, &term), 0);
        tree_build_free(build);
        twin.live = (Buffer){};
        bench->live.size = 0;
        assert_int_equal(tree_open(&twin.tree, &twin.options, twin.name), 0);
        Random a = {22}, b = {22};
        for (int i = 0; i < 1500; i++) {
                apply_random(bench, &a);
                apply_random(&twin, &b);
                if (i % 100 == 0) {
                        assert_int_equal(tree_commit(twin.tree), 0);
                        assert_memory_equal(digest_of(bench).sum, digest_of(&twin).sum, 16);
                }
        }
        assert_memory_equal(digest_of(bench).sum, digest_of(&twin).sum, 16);
        assert_int_equal(bench->live.size, twin.live.size);
        assert_memory_equal(bench->live.data, twin.live.data, twin.live.size);
        assert_int_equal(tree_scrub(twin.tree), 0);
        buffer_deinit(&twin.live);
        tree_close(twin.tree);
}

/* As a peer would who also knows how to make checksums fit: chunk sums are mended after the change. */
static void mutate(Buffer *chunk, Random *random) {
        for (uint64_t n = 1 + random_below(random, 3); n > 0; n--) {
                size_t at = random_below(random, chunk->size - 8);
                switch (random_below(random, 4)) {
                case 0:
                        chunk->data[at] ^= (uint8_t)(1u << random_below(random, 8));
                        break;
                case 1:
                        chunk->data[at] = (uint8_t)random_next(random);
                        break;
                case 2:
                        if (chunk->size > 64 && at < chunk->size - 40) /* a piece is missing */
                                memmove(chunk->data + at, chunk->data + at + 16, chunk->size - at - 16);
                        break;
                default:
                        bytes_put_u32(chunk->data + MIN(at, chunk->size - 12), UINT32_MAX);
                }
        }
        if (random_below(random, 4) != 0)
                bytes_put_u64(chunk->data + chunk->size - 8, XXH3_64bits(chunk->data, chunk->size - 8));
}

static void test_changed_bytes(void **state) {
        Bench *bench = *state;
        static Chunks chunks;
        grow(bench, 31, 300);
        EntryStamp stamp = {.min_version = 2};
        Command check = {.kind = COMMAND_CHECK};
        Entry entry = {.index = status_of(bench).applied + 1, .term = 1, .type = ENTRY_COMMAND};
        assert_int_equal(tree_apply(bench->tree, &entry, &stamp, &check, NULL, false, 2, NULL, NULL, NULL),
                         0);
        TreeSnapshot *snapshot;
        bool done = false;
        assert_int_equal(tree_snapshot_begin(bench->tree, &snapshot), 0);
        for (chunks.n = 0; !done; chunks.n++)
                assert_int_equal(tree_snapshot_next(snapshot, &chunks.chunks[chunks.n], &done), 0);
        tree_snapshot_free(snapshot);

        Random random = {32};
        size_t refused = 0, equal = 0;
        for (int round = 0; round < 300; round++) {
                size_t victim = round == 0 ? SIZE_MAX : random_below(&random, chunks.n);
                _cleanup_(buffer_deinit) Buffer changed = {};
                const Buffer *original = &chunks.chunks[round == 0 ? 0 : victim];
                assert_int_equal(buffer_append(&changed, original->data, original->size), 0);
                if (round > 0) /* the first one is good: else nothing is proved */
                        mutate(&changed, &random);
                bool same = memcmp(changed.data, original->data, changed.size) == 0;

                TreeBuild *build;
                int r = 0;
                assert_int_equal(tree_build_begin(&bench->options, &build), 0);
                for (size_t i = 0; i < chunks.n && r == 0; i++) {
                        const Buffer *chunk = i == victim ? &changed : &chunks.chunks[i];
                        r = tree_build_feed(build, BYTES(chunk->data, chunk->size));
                }
                char name[80];
                uint64_t index, term;
                if (r == 0)
                        r = tree_build_finish(build, name, &index, &term);
                tree_build_free(build);
                assert_true(same ? r == 0 : r == TREE_ROTTEN || r == TREE_NEWER);
                refused += r != 0;
                equal += same;
        }
        print_message("300 streams: %zu changed and refused, %zu unchanged\n", refused, equal);
        assert_true(refused > 250);

        /* Whole, and for newer hosts. */
        TreeBuild *build;
        TreeOptions older = bench->options;
        older.version = 1;
        assert_int_equal(tree_build_begin(&older, &build), 0);
        assert_int_equal(tree_build_feed(build, BYTES(chunks.chunks[0].data, chunks.chunks[0].size)),
                         TREE_NEWER);
        assert_int_equal(tree_build_feed(build, BYTES(chunks.chunks[1].data, chunks.chunks[1].size)),
                         TREE_NEWER);
        tree_build_free(build);

        /* Cut short, twice the same, out of order. */
        char name[80];
        uint64_t index, term;
        assert_int_equal(tree_build_begin(&bench->options, &build), 0);
        assert_int_equal(tree_build_finish(build, name, &index, &term), TREE_ROTTEN);
        tree_build_free(build);
        assert_int_equal(tree_build_begin(&bench->options, &build), 0);
        assert_int_equal(tree_build_feed(build, BYTES(chunks.chunks[0].data, chunks.chunks[0].size)), 0);
        assert_int_equal(tree_build_finish(build, name, &index, &term), TREE_ROTTEN);
        assert_int_equal(tree_build_feed(build, BYTES(chunks.chunks[0].data, chunks.chunks[0].size)),
                         TREE_ROTTEN);
        tree_build_free(build);
        chunks_deinit(&chunks);
        memset(&chunks, 0, sizeof(chunks));

        /* Nothing half-built stays. */
        assert_int_equal(tree_sweep(&bench->options, bench->name), 0);
}

/* Where the file that is being built holds this text: written early, for its cache is small. */
static off_t find_in_build(const Bench *bench, const char *text, int *ret_fd) {
        char path[PATH_MAX] = "";
        DIR *directory = opendir(bench->directory);
        for (struct dirent *e; (e = readdir(directory));)
                if (strncmp(e->d_name, "build-", 6) == 0)
                        snprintf(path, sizeof(path), "%s/%s", bench->directory, e->d_name);
        closedir(directory);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        assert_true(fd >= 0);
        static char bytes[1 << 20];
        ssize_t size = pread(fd, bytes, sizeof(bytes), 0);
        const char *at = size > 0 ? memmem(bytes, (size_t)size, text, strlen(text)) : NULL;
        assert_non_null(at);
        *ret_fd = fd;
        return at - bytes;
}

/* A bit of a row flips on the disk while rows still come in: the stream is right and so is what was counted,
 * and still this file is never named. */
static void test_rot_in_what_is_built(void **state) {
        Bench *bench = *state;
        char path[32], value[600];
        set(bench, "/first", "needle-in-the-haystack");
        memset(value, 'v', sizeof(value));
        value[sizeof(value) - 1] = 0;
        for (int i = 0; i < 500; i++) {
                snprintf(path, sizeof(path), "/many/%d", i);
                set(bench, path, value);
        }
        for (int rotten = 0; rotten < 2; rotten++) {
                TreeSnapshot *snapshot;
                TreeBuild *build;
                bool done = false;
                TreeOptions options = bench->options;
                options.cache_bytes = 64 * 1024;
                options.report = (Report){};
                assert_int_equal(tree_snapshot_begin(bench->tree, &snapshot), 0);
                assert_int_equal(tree_build_begin(&options, &build), 0);
                while (!done) {
                        _cleanup_(buffer_deinit) Buffer chunk = {};
                        assert_int_equal(tree_snapshot_next(snapshot, &chunk, &done), 0);
                        assert_int_equal(tree_build_feed(build, BYTES(chunk.data, chunk.size)), 0);
                }
                tree_snapshot_free(snapshot);
                int fd;
                off_t at = find_in_build(bench, "needle-in", &fd);
                if (rotten)
                        assert_int_equal(pwrite(fd, "N", 1, at), 1);
                close(fd);

                char name[80];
                uint64_t index, term;
                int r = tree_build_finish(build, name, &index, &term);
                tree_build_free(build);
                assert_int_equal(r, rotten ? TREE_ROTTEN : 0);
                assert_int_equal(tree_sweep(&bench->options, bench->name), 0);
        }
}

static void test_empty_and_given_up(void **state) {
        Bench *bench = *state;
        TreeSnapshot *snapshot;
        TreeBuild *build;
        bool done = false;
        assert_int_equal(tree_snapshot_begin(bench->tree, &snapshot), 0);
        assert_int_equal(tree_build_begin(&bench->options, &build), 0);
        while (!done) {
                _cleanup_(buffer_deinit) Buffer chunk = {};
                assert_int_equal(tree_snapshot_next(snapshot, &chunk, &done), 0);
                assert_int_equal(tree_build_feed(build, BYTES(chunk.data, chunk.size)), 0);
        }
        char name[80];
        uint64_t index, term;
        assert_int_equal(tree_build_finish(build, name, &index, &term), 0);
        tree_build_free(build);
        tree_snapshot_free(snapshot);

        /* A pin does not outlive its tree. */
        assert_int_equal(tree_snapshot_begin(bench->tree, &snapshot), 0);
        bench_reopen(bench, false);
        _cleanup_(buffer_deinit) Buffer chunk = {};
        assert_int_equal(tree_snapshot_next(snapshot, &chunk, &done), -ESTALE);
        tree_snapshot_free(snapshot);
        assert_int_equal(tree_sweep(&bench->options, bench->name), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, bench_setup, bench_teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_while_applying),     TEST(test_twins),
                TEST(test_changed_bytes),      TEST(test_rot_in_what_is_built),
                TEST(test_empty_and_given_up),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
