/* Two trees fed the same 5,000 random commands have the same digest at each step, whatever their rhythm of
 * commits, kills, checkpoints and pruning; and what one SET costs is printed. */
#include "help.h"

#include <sqlite3.h>
#include <time.h>

static void prepare(Bench *bench) {
        add_host(bench, 2, "h2", MEMBER_FULL);
        add_host(bench, 3, "h3", MEMBER_FULL);
}

static void test_two_trees(void **state) {
        Bench *bench = *state, *other;
        assert_int_equal(bench_setup((void **)&other), 0);
        prepare(bench);
        prepare(other);
        Random a = {99}, b = {99}, rhythm = {1};
        for (int i = 0; i < 5000; i++) {
                apply_random(bench, &a);
                apply_random(other, &b);
                if (random_below(&rhythm, 30) == 0)
                        assert_int_equal(tree_commit(bench->tree), 0);
                if (random_below(&rhythm, 200) == 0)
                        bench_reopen(bench, true);
                if (random_below(&rhythm, 300) == 0) {
                        tree_checkpoint(bench->tree);
                        assert_int_equal(tree_maintain(bench->tree), 0);
                }
                assert_memory_equal(digest_of(bench).sum, digest_of(other).sum, 16);
        }
        TreeStatus status = status_of(bench);
        assert_true(status.revision > 1500 && status.floor > 100);
        assert_int_equal(bench->live.size, other->live.size);
        assert_memory_equal(bench->live.data, other->live.data, other->live.size);
        assert_int_equal(tree_scrub(bench->tree), 0);
        assert_int_equal(tree_scrub(other->tree), 0);
        bench_free(other);
}

/* Value 0: there is none. */
static void set_numbered(Bench *bench, unsigned key, unsigned value) {
        char path[24], text[16];
        snprintf(path, sizeof(path), "/n/%u", key);
        snprintf(text, sizeof(text), "%u", value);
        assert_status(value != 0 ? set(bench, path, text) : delete (bench, path, 0), RESULT_DONE);
}

static void check_numbered(Bench *bench, unsigned key, unsigned value) {
        char path[24], text[16];
        snprintf(path, sizeof(path), "/n/%u", key);
        snprintf(text, sizeof(text), "%u", value);
        assert_string_equal(value_of(bench, path) ?: "0", text);
}

/* More paths than memory knows, written and deleted at random; more pointers and rows than may wait. One
 * tree commits often and has checkpoints beside it, the other nearly never and reads much: they agree with
 * each other, with what was written, and with their own files. */
static void test_more_than_is_known(void **state) {
        enum { KEYS = 20000, CHANGES = 50000 };
        Bench *bench = *state, *other;
        assert_int_equal(bench_setup((void **)&other), 0);
        bench->options.thread = true;
        bench_reopen(bench, true);
        tree_want_previous(other->tree, false);
        unsigned *values = calloc(KEYS, sizeof(*values));
        assert_non_null(values);
        Random random = {7};
        for (unsigned i = 1; i <= CHANGES; i++) {
                unsigned key = i <= KEYS ? i - 1 : (unsigned)random_below(&random, KEYS);
                check_numbered(i % 2 ? other : bench, key, values[key]);
                values[key] = i % 11 == 0 && values[key] != 0 ? 0 : i;
                set_numbered(bench, key, values[key]);
                set_numbered(other, key, values[key]);
                if (i % 100 == 0)
                        assert_int_equal(tree_commit(bench->tree), 0);
                if (i % 10000 == 7000) /* what waits outlives what is only known */
                        for (unsigned k = 0; k < 2 * KEYS; k++)
                                check_numbered(other, k % KEYS, values[k % KEYS]);
                if (i % 1000 == 0) {
                        tree_checkpoint(bench->tree);
                        assert_memory_equal(digest_of(bench).sum, digest_of(other).sum, 16);
                }
        }
        free(values);
        assert_int_equal(tree_scrub(bench->tree), 0);
        assert_int_equal(tree_scrub(other->tree), 0);
        bench_reopen(bench, true);
        bench_reopen(other, true);
        assert_int_equal(tree_scrub(bench->tree), 0);
        assert_memory_equal(digest_of(bench).sum, digest_of(other).sum, 16);
        bench_free(other);
}

/* Slices of a scrub between 20,000 random commands, with rollbacks and pruning: pass after pass comes to its
 * end, and none calls what changed meanwhile rot. */
static void test_scrub_beside_changes(void **state) {
        Bench *bench = *state;
        prepare(bench);
        Random a = {5}, rhythm = {6};
        unsigned passes = 0;
        uint64_t n_read;
        for (int i = 0; i < 20000; i++) {
                bool done = false;
                apply_random(bench, &a);
                if (random_below(&rhythm, 30) == 0)
                        assert_int_equal(tree_commit(bench->tree), 0);
                if (random_below(&rhythm, 3000) == 0)
                        bench_reopen(bench, true);
                if (random_below(&rhythm, 2) == 0)
                        assert_int_equal(
                                tree_scrub_slice(bench->tree, 1 + random_below(&rhythm, 20), &n_read, &done),
                                0);
                passes += done;
        }
        print_message("%u passes\n", passes);
        assert_true(passes > 10);
}

/* Entry `i` of 300 goes back to what it held before, every checksum fits, a pass is at entry 150: found in
 * this pass or in the next, wherever it is. */
static void test_scrub_finds_what_fits(void **state) {
        Bench *bench = *state;
        char path[20], sql[200], file[300];
        for (int round = 0; round < 2; round++)
                for (int i = 0; i < 300; i++) {
                        snprintf(path, sizeof(path), "/e/%03d", i);
                        set(bench, path, round ? "new" : "old");
                }
        for (int i = 0; i < 300; i += 37) {
                bool done = false;
                uint64_t n_read;
                int r = 0;
                assert_int_equal(tree_commit(bench->tree), 0);
                assert_int_equal(tree_scrub(bench->tree), 0);
                assert_int_equal(tree_scrub_slice(bench->tree, 150, &n_read, &done), 0);
                assert_int_equal(n_read, 150);

                snprintf(file, sizeof(file), "%s/%s", bench->options.directory, bench->name);
                sqlite3 *db;
                assert_int_equal(sqlite3_open(file, &db), SQLITE_OK);
                for (int back = 0; back < 2; back++) {
                        snprintf(sql, sizeof(sql),
                                 "UPDATE newest SET id = (SELECT %s(rows.id) FROM rows "
                                 "WHERE CAST(substr(head, -6) AS TEXT) = '/e/%03d') "
                                 "WHERE n = (SELECT n FROM keys WHERE key = '/e/%03d')",
                                 back ? "max" : "min", i, i);
                        assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
                        assert_int_equal(sqlite3_changes(db), 1);
                        int n = 0;
                        for (int passes = 0; r == 0 && passes < 2 && !back; n++) {
                                r = tree_scrub_slice(bench->tree, 40, &n_read, &done);
                                passes += done;
                        }
                        if (!back)
                                assert_int_equal(r, TREE_ROTTEN);
                }
                sqlite3_close(db);
                assert_int_equal(tree_scrub(bench->tree), 0);
        }
}

/* A digest that did not see a difference would prove nothing. */
static void test_digest_sees_differences(void **state) {
        Bench *bench = *state, *other;
        assert_int_equal(bench_setup((void **)&other), 0);
        assert_memory_equal(digest_of(bench).sum, digest_of(other).sum, 16);
        set(bench, "/a", "1");
        set(other, "/a", "2");
        assert_memory_not_equal(digest_of(bench).sum, digest_of(other).sum, 16);
        set(bench, "/a", "3");
        set(other, "/a", "3");
        assert_memory_equal(digest_of(bench).sum, digest_of(other).sum, 16); /* history is left out */
        apply(bench, (Command){.kind = COMMAND_EMPTY});
        noop(other);
        assert_memory_not_equal(digest_of(bench).sum, digest_of(other).sum, 16); /* a request row */
        bench_free(other);
}

static double cpu_usec(void) {
        struct timespec t;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
        return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void heard(const TreeChange *change, void *userdata) {
}

/* As in the agent: 64 requests in flight, 64 per turn, committed when urgent, checkpoints beside it. */
static void cost(Bench *bench, bool thread, int n) {
        tree_close(bench->tree);
        bench->options.thread = thread;
        assert_int_equal(tree_open(&bench->tree, &bench->options, bench->name), 0);
        uint8_t value[256];
        memset(value, 7, sizeof(value));
        Random random = {1};
        TreeStatus status = status_of(bench);
        uint64_t index = status.applied;
        double begin = 0;
        for (int i = 0; i < n + 10000; i++) {
                char path[48];
                if (i == 10000)
                        begin = cpu_usec();
                snprintf(path, sizeof(path), "/bench/keys/%05d",
                         i < 10000 ? i : (int)random_below(&random, 10000));
                uint64_t serial = ++bench->serial[1];
                Command command = {.kind = COMMAND_SET,
                                   .host = 1,
                                   .incarnation = bench->incarnation[1],
                                   .serial = serial,
                                   .lowest_unresolved = serial > 64 ? serial - 64 : 1,
                                   .path = path,
                                   .value = BYTES(value, sizeof(value))};
                Entry entry = {.index = ++index, .term = 1, .type = ENTRY_COMMAND};
                EntryStamp stamp = {.min_version = 1};
                Result result;
                assert_int_equal(tree_apply(bench->tree, &entry, &stamp, &command, NULL, false, 1, heard,
                                            NULL, &result),
                                 0);
                bool urgent;
                if (i % 64 == 0 && tree_dirty(bench->tree, &urgent) && urgent) {
                        assert_int_equal(tree_commit(bench->tree), 0);
                        assert_int_equal(tree_maintain(bench->tree), 0);
                }
        }
        assert_int_equal(tree_commit(bench->tree), 0);
        print_message("SET of 256 bytes over 10,000 random keys%s: %.1f µs of CPU each\n",
                      thread ? ", checkpoints beside it" : "", (cpu_usec() - begin) / n);
}

static void test_cost(void **state) {
        Bench *bench = *state;
        cost(bench, false, 50000);
        cost(bench, true, 100000);

        double begin = cpu_usec();
        TreeEntry entry;
        Random random = {2};
        for (int i = 0; i < 100000; i++) {
                char path[48];
                snprintf(path, sizeof(path), "/bench/keys/%05d", (int)random_below(&random, 10000));
                assert_int_equal(tree_get(bench->tree, path, &entry), 0);
        }
        print_message("get: %.1f µs of CPU each\n", (cpu_usec() - begin) / 100000);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, bench_setup, bench_teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_two_trees),
                TEST(test_more_than_is_known),
                TEST(test_scrub_beside_changes),
                TEST(test_scrub_finds_what_fits),
                TEST(test_digest_sees_differences),
                TEST(test_cost),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
