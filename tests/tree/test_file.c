/* What the file survives: kill -9 (abandon and reopen), a full disk, flipped bits, files of a newer treaty;
 * and what checkpoints promise. */
#include "help.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agent/tree/internal.h"

static void path_of(const Bench *bench, const char *suffix, char *to, size_t size) {
        snprintf(to, size, "%s/%s%s", bench->directory, bench->name, suffix);
}

static off_t size_of(const Bench *bench, const char *suffix) {
        char path[256];
        struct stat st;
        path_of(bench, suffix, path, sizeof(path));
        return stat(path, &st) < 0 ? -1 : st.st_size;
}

/* Killed at some point, replayed from the log: the same digest as the one that was never killed. */
static void test_kill_and_replay(void **state) {
        Bench *bench = *state;
        Bench *other = bench_new("tree-0000000000000000-00000002.db");
        static const uint8_t cluster[16] = "cluster-of-tests";
        Member founder = member_of(1, "h1");
        assert_int_equal(tree_found(other->tree, cluster, &founder), 0);
        announce(other, 1, "nonce-of-host-01");
        attach(other, 1);
        add_host(bench, 2, "h2", MEMBER_FULL);
        add_host(other, 2, "h2", MEMBER_FULL);
        add_host(bench, 3, "h3", MEMBER_FULL);
        add_host(other, 3, "h3", MEMBER_FULL);

        Random rbench = {3}, rother = {3};
        for (int round = 0; round < 10; round++) {
                for (int i = 0; i < 60; i++) {
                        apply_random(bench, &rbench);
                        apply_random(other, &rother);
                }
                assert_int_equal(tree_commit(bench->tree), 0);
                Bench saved = *bench;
                Random saved_random = rbench;
                TreeDigest digest = digest_of(bench);

                for (int i = 0; i < 40; i++)
                        apply_random(bench, &rbench);
                bench_reopen(bench, false); /* killed: the last forty are gone */
                TreeStatus status = status_of(bench);
                assert_int_equal(status.applied, status.committed);
                assert_memory_equal(digest.sum, digest_of(bench).sum, 16);
                assert_int_equal(tree_scrub(bench->tree), 0);

                saved.tree = bench->tree;
                saved.live = bench->live;
                *bench = saved;
                rbench = saved_random;
                for (int i = 0; i < 40; i++) {
                        apply_random(bench, &rbench);
                        apply_random(other, &rother);
                }
                assert_memory_equal(digest_of(other).sum, digest_of(bench).sum, 16);
        }
        bench_free(other);
}

static void test_committed_and_durable(void **state) {
        Bench *bench = *state;
        TreeStatus status = status_of(bench);
        assert_int_equal(status.committed, 0);
        assert_true(tree_dirty(bench->tree, NULL));
        assert_int_equal(tree_commit(bench->tree), 0);
        assert_false(tree_dirty(bench->tree, NULL));
        status = status_of(bench);
        assert_int_equal(status.committed, status.applied);
        assert_int_equal(status.durable, 0);
        uint64_t committed = status.committed;

        set(bench, "/a", "1"); /* open again: not in the checkpoint without thread, which commits first */
        tree_checkpoint(bench->tree);
        assert_int_equal(tree_fd(bench->tree), -1);
        assert_true(tree_has_news(bench->tree));
        assert_int_equal(tree_maintain(bench->tree), 0);
        status = status_of(bench);
        assert_int_equal(status.durable, committed + 1);

        bench_reopen(bench, false);
        status = status_of(bench);
        assert_int_equal(status.durable, status.committed); /* opening syncs all there is */
}

/* Waits until what is applied is committed: until a checkpoint that runs has made room for its frames. A
 * minute is no measure of the thread's speed; it says that the thread is stuck. */
static void commit_for_sure(Bench *bench) {
        for (int i = 0; i < 6000 && tree_dirty(bench->tree, NULL); i++) {
                assert_int_equal(tree_commit(bench->tree), 0);
                struct pollfd fd = {.fd = tree_fd(bench->tree), .events = POLLIN};
                if (tree_dirty(bench->tree, NULL))
                        poll(&fd, 1, 10);
                assert_int_equal(tree_maintain(bench->tree), 0);
        }
        assert_false(tree_dirty(bench->tree, NULL));
}

/* How fast the thread gets on is the machine's affair; what holds at any speed is this: a transaction that
 * begins finds the WAL below its cap, or begins it anew. So the WAL never holds more than its cap and one
 * transaction, here of 1,500 writes at most (some 170 pages), and what it does not hold is durable. */
static void test_thread_checkpoints_and_wal_stays_capped(void **state) {
        enum { WRITES = 60000, AT_ONCE = 1500, PAGES = 300 };
        Bench *bench = *state;
        tree_close(bench->tree);
        bench->options.thread = true;
        bench->options.wal_bytes = 1024 * 1024;
        assert_int_equal(tree_open(&bench->tree, &bench->options, bench->name), 0);
        uint64_t durable = status_of(bench).durable, committed = status_of(bench).committed;
        off_t largest = 0;
        char path[32], value[257];
        Random random = {1};
        tree_rest(bench->tree); /* from now on reads share a transaction, which no write may find open */
        for (int i = 0; i < WRITES; i++) {
                snprintf(path, sizeof(path), "/w/%d", (int)random_below(&random, 2000));
                snprintf(value, sizeof(value), "%0255d", i);
                set(bench, path, value);
                for (int k = 0; k < i % 100 - 95; k++) {
                        TreeEntry entry;
                        assert_int_equal(tree_get(bench->tree, path, &entry), 0);
                        assert_memory_equal(entry.value.data, value, 255);
                }
                if (i % 200 == 99)
                        tree_rest(bench->tree);
                bool urgent;
                bool due = status_of(bench).applied - committed >= AT_ONCE;
                if (i % 300 == 0 || due || (tree_dirty(bench->tree, &urgent) && urgent)) {
                        assert_int_equal(tree_commit(bench->tree), 0);
                        assert_int_equal(tree_maintain(bench->tree), 0);
                        if (due)
                                commit_for_sure(bench);
                        TreeStatus status = status_of(bench);
                        committed = status.committed;
                        largest = MAX(largest, size_of(bench, "-wal"));
                        assert_true(status.durable >= durable && status.durable <= status.committed);
                        durable = status.durable;
                }
        }
        print_message("60,000 writes, cap 1 MiB: the WAL was at most %lld KiB\n", (long long)largest / 1024);
        assert_true(durable > WRITES / 2);
        assert_true(largest <= (off_t)bench->options.wal_bytes + PAGES * (4096 + 24));
        tree_rest(bench->tree);
        tree_checkpoint(bench->tree);
        for (int i = 0; i < 6000 && status_of(bench).durable < status_of(bench).committed; i++) {
                struct pollfd fd = {.fd = tree_fd(bench->tree), .events = POLLIN};
                poll(&fd, 1, 10);
                assert_int_equal(tree_maintain(bench->tree), 0);
                assert_int_equal(tree_commit(bench->tree), 0);
                tree_checkpoint(bench->tree);
        }
        assert_int_equal(status_of(bench).durable, status_of(bench).committed);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

static void test_clean_close_leaves_one_file(void **state) {
        Bench *bench = *state;
        set(bench, "/a", "1");
        bench_reopen(bench, true);
        tree_close(bench->tree);
        assert_int_equal(size_of(bench, "-wal"), -1);
        assert_int_equal(size_of(bench, "-shm"), -1);
        char path[256];
        struct stat st;
        path_of(bench, "", path, sizeof(path));
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_int_equal(tree_open(&bench->tree, &bench->options, bench->name), 0);
        assert_string_equal(value_of(bench, "/a"), "1");
}

/* The database finds no room: all of the open transaction is gone, said so, and replayed with room. */
static void test_full(void **state) {
        Bench *bench = *state;
        set(bench, "/a", "kept");
        assert_int_equal(tree_commit(bench->tree), 0);
        TreeStatus before = status_of(bench);
        TreeDigest digest = digest_of(bench);
        Bench saved = *bench;

        sqlite3_exec(bench->tree->db, "PRAGMA max_page_count=40", NULL, NULL, NULL);
        char value[3000];
        memset(value, 'x', sizeof(value));
        int r = 0;
        for (int i = 0; i < 100 && r == 0; i++) {
                Command command = {.kind = COMMAND_SET,
                                   .host = 1,
                                   .incarnation = bench->incarnation[1],
                                   .serial = ++bench->serial[1],
                                   .path = "/big",
                                   .value = BYTES(value, sizeof(value))};
                r = apply_raw(bench, &command, NULL);
        }
        assert_int_equal(r, TREE_FULL);
        TreeStatus status = status_of(bench);
        assert_int_equal(status.applied, before.applied);
        assert_int_equal(status.committed, before.applied);
        assert_memory_equal(digest.sum, digest_of(bench).sum, 16);
        assert_string_equal(value_of(bench, "/a"), "kept");
        assert_null(value_of(bench, "/big"));

        /* Small things fit meanwhile; with room everything goes on. */
        sqlite3_exec(bench->tree->db, "PRAGMA max_page_count=1000000", NULL, NULL, NULL);
        bench->serial[1] = saved.serial[1];
        for (int i = 0; i < 100; i++)
                assert_status(apply(bench, (Command){.kind = COMMAND_SET,
                                                     .path = "/big",
                                                     .value = BYTES(value, sizeof(value))}),
                              RESULT_DONE);
        assert_int_equal(tree_commit(bench->tree), 0);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

/* Every page of the file, one flip each: what is read is right, or said to be rotten; and the scrub finds
 * each flip that hit something alive. */
static void test_rot(void **state) {
        Bench *bench = *state;
        add_host(bench, 2, "h2", MEMBER_FULL);
        char path[256], entry_path[32], value[301];
        for (int i = 0; i < 300; i++) {
                snprintf(entry_path, sizeof(entry_path), "/r/%d", i);
                memset(value, 'a' + i % 26, 300);
                value[300] = 0;
                set(bench, entry_path, value);
        }
        tree_close(bench->tree);
        path_of(bench, "", path, sizeof(path));
        int fd = open(path, O_RDWR | O_CLOEXEC);
        off_t size = size_of(bench, "");
        uint8_t *good = malloc((size_t)size);
        assert_int_equal(pread(fd, good, (size_t)size, 0), size);

        Random random = {5};
        size_t found = 0, harmless = 0;
        for (int i = 0; i < 400; i++) {
                off_t at = (off_t)random_below(&random, (uint64_t)size);
                uint8_t flipped = good[at] ^ (uint8_t)(1u << random_below(&random, 8));
                assert_int_equal(pwrite(fd, &flipped, 1, at), 1);
                bool rotten = false;
                int r = tree_open(&bench->tree, &bench->options, bench->name);
                if (r == 0) {
                        for (int k = 0; k < 300; k++) {
                                TreeEntry entry;
                                snprintf(entry_path, sizeof(entry_path), "/r/%d", k);
                                r = tree_get(bench->tree, entry_path, &entry);
                                rotten = rotten || r != 0;
                                if (r != 0)
                                        continue;
                                assert_int_equal(entry.value.size, 300);
                                assert_int_equal(entry.value.data[0], 'a' + k % 26);
                                assert_int_equal(entry.value.data[299], 'a' + k % 26);
                        }
                        bool scrubbed = tree_scrub(bench->tree) != 0;
                        assert_true(scrubbed || !rotten);
                        rotten = scrubbed;
                        tree_abandon(bench->tree);
                } else
                        rotten = true;
                found += rotten;
                harmless += !rotten;
                assert_int_equal(pwrite(fd, good, (size_t)size, 0), size);
                char wal[256];
                path_of(bench, "-wal", wal, sizeof(wal));
                unlink(wal);
                path_of(bench, "-shm", wal, sizeof(wal));
                unlink(wal);
        }
        print_message("400 flips: %zu found, %zu in bytes that mean nothing\n", found, harmless);
        assert_true(found > 200);
        close(fd);
        free(good);
        assert_int_equal(tree_open(&bench->tree, &bench->options, bench->name), 0);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

/* Each byte of a value: get finds each. */
static void test_rot_in_a_value(void **state) {
        Bench *bench = *state;
        set(bench, "/needle", "needle-in-the-haystack");
        tree_close(bench->tree);
        char path[256];
        path_of(bench, "", path, sizeof(path));
        off_t size = size_of(bench, "");
        uint8_t *bytes = malloc((size_t)size);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        assert_int_equal(pread(fd, bytes, (size_t)size, 0), size);
        uint8_t *at = memmem(bytes, (size_t)size, "needle-in", 9);
        assert_non_null(at);
        for (size_t i = 0; i < 22; i++) {
                uint8_t flipped = at[i] ^ 0x10;
                assert_int_equal(pwrite(fd, &flipped, 1, at - bytes + (off_t)i), 1);
                assert_int_equal(tree_open(&bench->tree, &bench->options, bench->name), 0);
                TreeEntry entry;
                assert_int_equal(tree_get(bench->tree, "/needle", &entry), TREE_ROTTEN);
                assert_int_equal(tree_scrub(bench->tree), TREE_ROTTEN);
                /* apply does not go on over it */
                Command command = {.kind = COMMAND_SET,
                                   .host = 1,
                                   .incarnation = bench->incarnation[1],
                                   .serial = bench->serial[1] + 1,
                                   .path = "/needle"};
                assert_int_equal(apply_raw(bench, &command, NULL), -EBADMSG);
                assert_int_equal(apply_raw(bench, NULL, NULL), -EBADMSG);
                tree_abandon(bench->tree);
                assert_int_equal(pwrite(fd, at + i, 1, at - bytes + (off_t)i), 1);
        }
        close(fd);
        free(bytes);
        assert_int_equal(tree_open(&bench->tree, &bench->options, bench->name), 0);
        assert_string_equal(value_of(bench, "/needle"), "needle-in-the-haystack");
}

static void test_newer_and_foreign(void **state) {
        Bench *bench = *state;
        sqlite3_exec(bench->tree->db, "COMMIT; PRAGMA user_version=2", NULL, NULL, NULL);
        tree_abandon(bench->tree);
        assert_int_equal(tree_open(&bench->tree, &bench->options, bench->name), TREE_NEWER);
        char path[256];
        path_of(bench, "", path, sizeof(path));
        assert_int_equal(truncate(path, 0), 0);
        assert_int_equal(tree_open(&bench->tree, &bench->options, bench->name), TREE_ROTTEN);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(tree_open(&bench->tree, &bench->options, bench->name), TREE_NONE);
        assert_int_equal(tree_open(&bench->tree, &bench->options, "../tree.db"), -EINVAL);
        assert_int_equal(tree_create(&bench->options, "tree-1-1.db"), -EINVAL);
        assert_int_equal(tree_create(&bench->options, bench->name), 0);
        assert_int_equal(tree_create(&bench->options, bench->name), -EEXIST);
        assert_int_equal(tree_open(&bench->tree, &bench->options, bench->name), 0);
}

static void touch(const Bench *bench, const char *name) {
        char path[256];
        snprintf(path, sizeof(path), "%s/%s", bench->directory, name);
        int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        close(fd);
}

static void test_sweep(void **state) {
        Bench *bench = *state;
        static const char *const gone[] = {
                "tree-0000000000000009-0000000a.db", "tree-0000000000000009-0000000a.db-wal",
                "tree-0000000000000009-0000000a.db-shm", "build-12345678.db", "build-12345678.db-journal"};
        static const char *const stays[] = {"tree.db", "log-1", "tree-x.db", "build-me", "other"};
        for (size_t i = 0; i < 5; i++) {
                touch(bench, gone[i]);
                touch(bench, stays[i]);
        }
        char path[256];
        assert_int_equal(tree_sweep(&bench->options, NULL), 0); /* half-built ones only */
        for (size_t i = 0; i < 5; i++) {
                snprintf(path, sizeof(path), "%s/%s", bench->directory, gone[i]);
                assert_int_equal(access(path, F_OK), i < 3 ? 0 : -1);
        }
        assert_int_equal(tree_sweep(&bench->options, bench->name), 0);
        for (size_t i = 0; i < 5; i++) {
                snprintf(path, sizeof(path), "%s/%s", bench->directory, gone[i]);
                assert_int_equal(access(path, F_OK), -1);
                snprintf(path, sizeof(path), "%s/%s", bench->directory, stays[i]);
                assert_int_equal(access(path, F_OK), 0);
        }
        assert_true(size_of(bench, "") > 0);
        assert_true(size_of(bench, "-wal") >= 0);
        set(bench, "/a", "1");
        bench_reopen(bench, true);
        assert_string_equal(value_of(bench, "/a"), "1");
}

/* Frames written inside the open transaction would race with a checkpoint beside it (counter-example 20). By
 * itself SQLite begins to write when a few hundred pages are changed; a served tree has to wait for COMMIT.
 */
static void test_nothing_is_written_before_commit(void **state) {
        Bench *bench = *state;
        char path[32], value[3000];
        memset(value, 'x', sizeof(value));
        assert_int_equal(tree_commit(bench->tree), 0);
        off_t before = size_of(bench, "-wal"), file = size_of(bench, "");

        for (int i = 0; i < 1500; i++) { /* a page each, at least */
                snprintf(path, sizeof(path), "/big/%d", i);
                assert_status(apply(bench, (Command){.kind = COMMAND_SET,
                                                     .path = path,
                                                     .value = BYTES(value, sizeof(value))}),
                              RESULT_DONE);
        }
        assert_int_equal(size_of(bench, "-wal"), before);
        assert_int_equal(size_of(bench, ""), file);
        assert_int_equal(tree_commit(bench->tree), 0);
        assert_true(size_of(bench, "-wal") > before + 1000 * 4096);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, bench_setup, bench_teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_kill_and_replay),
                TEST(test_committed_and_durable),
                TEST(test_thread_checkpoints_and_wal_stays_capped),
                TEST(test_clean_close_leaves_one_file),
                TEST(test_full),
                TEST(test_rot),
                TEST(test_rot_in_a_value),
                TEST(test_newer_and_foreign),
                TEST(test_sweep),
                TEST(test_nothing_is_written_before_commit),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
