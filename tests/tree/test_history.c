/* What a watch that catches up reads is what a watch that was there heard, byte for byte: over random runs,
 * from each side of the floor, in pages, below subtrees, while rows are pruned. */
#include "help.h"

#include "agent/tree/internal.h"

static void test_replay_equals_live(void **state) {
        Bench *bench = *state;
        add_host(bench, 2, "h2", MEMBER_FULL);
        add_host(bench, 3, "h3", MEMBER_FULL);
        Random random = {1};
        bench->live.size = 0;
        uint64_t first = revision_of(bench) + 1;
        for (size_t i = 0; i < 3000; i++) {
                uint64_t floor = status_of(bench).floor;
                apply_random(bench, &random);
                if (i % 100 == 0)
                        assert_int_equal(tree_commit(bench->tree), 0);
                if (status_of(bench).floor != floor && floor < first)
                        first = 0; /* the whole is no longer there */
        }
        TreeStatus status = status_of(bench);
        assert_true(status.floor > 100);

        /* The live events from the floor on. */
        assert_int_equal(buffer_append(&bench->live, "", 1), 0);
        const char *want = (char *)bench->live.data;
        while (strtoull(want, NULL, 10) < status.floor)
                want = strchr(want, '\n') + 1;

        for (size_t max_bytes = 1; max_bytes < 1000000; max_bytes *= 30) {
                _cleanup_(buffer_deinit) Buffer got = {};
                uint64_t next = status.floor;
                while (next <= status.revision) {
                        uint64_t from = next;
                        assert_int_equal(tree_history(bench->tree, "/", from, UINT64_MAX - 1, max_bytes,
                                                      event_write, &got, &next),
                                         0);
                        assert_true(next > from);
                }
                assert_int_equal(next, status.revision + 1);
                assert_int_equal(buffer_append(&got, "", 1), 0);
                assert_string_equal((char *)got.data, want);
        }
        assert_int_equal(tree_scrub(bench->tree), 0);
}

static void test_floor(void **state) {
        Bench *bench = *state;
        char value[16];
        for (int i = 1; i <= 100; i++) {
                snprintf(value, sizeof(value), "%d", i);
                set(bench, i % 10 == 0 ? "/tens" : "/a", value);
        }
        delete (bench, "/tens", 0);
        assert_status(apply(bench, (Command){.kind = COMMAND_PRUNE, .revision = 50}), RESULT_DONE);
        assert_int_equal(status_of(bench).floor, 50);
        apply(bench, (Command){.kind = COMMAND_PRUNE, .revision = 20}); /* never falls */
        assert_int_equal(status_of(bench).floor, 50);
        assert_int_equal(tree_commit(bench->tree), 0); /* rows go */
        assert_int_equal(tree_scrub(bench->tree), 0);

        _cleanup_(buffer_deinit) Buffer got = {};
        uint64_t next;
        assert_int_equal(tree_history(bench->tree, "/", 49, 100, 1 << 20, event_write, &got, &next),
                         TREE_COMPACTED);
        assert_int_equal(next, 50);
        assert_int_equal(got.size, 0);
        assert_int_equal(tree_history(bench->tree, "/", 50, 51, 1 << 20, event_write, &got, &next), 0);
        assert_int_equal(next, 52);
        assert_int_equal(buffer_append(&got, "", 1), 0);
        assert_string_equal((char *)got.data,
                            "50 put /tens 1 create 10 version 5 owner 0 last value 50 before 40\n"
                            "51 put /a 1 create 1 version 46 owner 0 last value 51 before 49\n");
        got.size = 0;
        assert_int_equal(tree_history(bench->tree, "/tens", 91, 200, 1 << 20, event_write, &got, &next), 0);
        assert_int_equal(next, 102);
        assert_int_equal(buffer_append(&got, "", 1), 0);
        assert_string_equal((char *)got.data,
                            "100 put /tens 1 create 10 version 10 owner 0 last value 100 before 90\n"
                            "101 delete /tens 1 create 10 version 0 owner 0 last value  before 100\n");
        got.size = 0;
        assert_int_equal(tree_history(bench->tree, "/", 102, 200, 1 << 20, event_write, &got, &next), 0);
        assert_int_equal(next, 102);
        assert_int_equal(got.size, 0);

        /* A floor wished beyond the newest revision stops there; the live row stays. */
        apply(bench, (Command){.kind = COMMAND_PRUNE, .revision = 5000});
        assert_int_equal(status_of(bench).floor, 101);
        assert_int_equal(tree_commit(bench->tree), 0);
        assert_string_equal(value_of(bench, "/a"), "99");
        assert_int_equal(tree_scrub(bench->tree), 0);
}

static uint64_t count_rows(Bench *bench) {
        sqlite3_stmt *s;
        assert_int_equal(sqlite3_prepare_v2(bench->tree->db, "SELECT count(*) FROM rows", -1, &s, NULL), 0);
        assert_int_equal(sqlite3_step(s), SQLITE_ROW);
        uint64_t n = (uint64_t)sqlite3_column_int64(s, 0);
        sqlite3_finalize(s);
        return n;
}

/* Rows go in slices, as fast as they come, and with no more entries tree_maintain() finishes the work. */
static void test_pruning_is_paced_and_ends(void **state) {
        Bench *bench = *state;
        char path[32];
        for (int i = 0; i < 6000; i++) {
                snprintf(path, sizeof(path), "/p/%d", i % 1000);
                if (i % 7 == 0)
                        delete (bench, path, 0);
                else
                        set(bench, path, "v");
        }
        assert_int_equal(tree_commit(bench->tree), 0);
        uint64_t rows = count_rows(bench);
        apply(bench, (Command){.kind = COMMAND_PRUNE, .revision = UINT64_MAX});
        assert_int_equal(tree_commit(bench->tree), 0);
        uint64_t after_one = count_rows(bench);
        assert_true(after_one <= rows && after_one > rows - 3 * TREE_PRUNE_ROWS);
        for (int i = 0; i < 30; i++) {
                assert_int_equal(tree_maintain(bench->tree), 0);
                assert_int_equal(tree_commit(bench->tree), 0);
        }
        /* What the event at the floor itself needs stays: its row, and the one before. */
        assert_in_range(count_rows(bench), status_of(bench).n_entries, status_of(bench).n_entries + 2);
        assert_false(tree_dirty(bench->tree, NULL));
        assert_int_equal(tree_maintain(bench->tree), 0);
        assert_false(tree_dirty(bench->tree, NULL)); /* an idle tree writes nothing */
        assert_int_equal(tree_scrub(bench->tree), 0);
}

/* One call looks at a bounded number of rows, also when none of them matches. */
static void test_scan_is_bounded(void **state) {
        Bench *bench = *state;
        for (int i = 0; i < TREE_SCAN_ROWS + 500; i++)
                set(bench, "/busy", "v");
        set(bench, "/rare", "v");
        _cleanup_(buffer_deinit) Buffer got = {};
        uint64_t next = 1;
        assert_int_equal(
                tree_history(bench->tree, "/rare", 1, UINT64_MAX - 1, 1 << 20, event_write, &got, &next), 0);
        assert_int_equal(next, TREE_SCAN_ROWS + 1);
        assert_int_equal(got.size, 0);
        assert_int_equal(
                tree_history(bench->tree, "/rare", next, UINT64_MAX - 1, 1 << 20, event_write, &got, &next),
                0);
        assert_true(got.size > 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, bench_setup, bench_teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_replay_equals_live),
                TEST(test_floor),
                TEST(test_pruning_is_paced_and_ends),
                TEST(test_scan_is_bounded),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
