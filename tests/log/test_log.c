/* The log by its door, each order once and then again after a restart: what was completed is there, what was
 * not asked for is not. */
#include "logtest.h"

static int setup(void **state) {
        LogTest *t = calloc(1, sizeof(LogTest));
        t->sim = simdisk_new(1);
        *state = t;
        return logtest_open(t);
}

static int teardown(void **state) {
        LogTest *t = *state;
        log_abandon(t->log);
        simdisk_free(t->sim);
        free(t);
        return 0;
}

/* The machine loses power; only what was synced is left. */
static void cut_and_reopen(LogTest *t) {
        t->log = log_abandon(t->log);
        simdisk_cut(t->sim, SIM_LOSE_ALL);
        assert_int_equal(logtest_open(t), 0);
}

static void test_fresh(void **state) {
        LogTest *t = *state;
        const LogState *s = log_state(t->log);
        assert_int_equal(s->start, 1);
        assert_int_equal(s->start_nonce[0], 1);
        assert_int_equal(s->term, 0);
        assert_int_equal(s->last_index, 0);
        assert_false(s->clean);
        assert_string_equal(s->tree_name, "");

        cut_and_reopen(t);
        assert_int_equal(log_state(t->log)->start, 2);
        assert_int_equal(log_state(t->log)->start_nonce[0], 2);
}

static void test_append_and_reopen(void **state) {
        LogTest *t = *state;
        assert_int_equal(logtest_append(t, 1, 500, 3, 100), 0);
        assert_int_equal(log_state(t->log)->last_index, 0); /* not before it is durable */
        assert_int_equal(logtest_settle(t), 0);
        assert_int_equal(t->completed, 1);
        assert_int_equal(logtest_read_all(t, NULL, 0), 500);

        cut_and_reopen(t);
        assert_int_equal(log_state(t->log)->last_index, 500);
        assert_int_equal(log_state(t->log)->last_term, 3);
        assert_int_equal(logtest_read_all(t, NULL, 0), 500);

        /* Any part, with either limit; at least one. */
        Entry *entries[10];
        assert_int_equal(log_load(t->log, 491, 10, 1 << 20, entries), 10);
        for (int i = 0; i < 10; i++) {
                assert_int_equal(entries[i]->index, 491 + i);
                entry_unref(entries[i]);
        }
        assert_int_equal(log_load(t->log, 77, 10, 250, entries), 2);
        entry_unref(entries[0]);
        entry_unref(entries[1]);
        assert_int_equal(log_load(t->log, 78, 10, 1, entries), 1);
        entry_unref(entries[0]);
        assert_int_equal(log_load(t->log, 501, 10, 1000, entries), 0);
        assert_int_equal(log_load(t->log, 0, 10, 1000, entries), 0);
}

static int stop_at_7(Entry *entry, void *userdata) {
        uint64_t *last = userdata;
        assert_int_equal(entry->index, *last + 1);
        assert_true(logtest_entry_is_right(entry));
        *last = entry->index;
        return entry->index == 7 ? 42 : 0;
}

static void test_replay(void **state) {
        LogTest *t = *state;
        logtest_append(t, 1, 300, 1, 10);
        assert_int_equal(logtest_settle(t), 0);
        cut_and_reopen(t);
        uint64_t last = 2;
        assert_int_equal(log_replay(t->log, 3, stop_at_7, &last), 42);
        last = 9;
        assert_int_equal(log_replay(t->log, 10, stop_at_7, &last), 0);
        assert_int_equal(last, 300);
}

static void test_truncate(void **state) {
        LogTest *t = *state;
        logtest_append(t, 1, 120, 1, 50);
        assert_int_equal(logtest_settle(t), 0);

        Entry *entries[3];
        for (int i = 0; i < 3; i++)
                entries[i] = logtest_entry(91 + (uint64_t)i, 2, ENTRY_COMMAND, 70);
        assert_int_equal(log_submit(t->log,
                                    &(LogBatch){
                                            .seq = ++t->seq,
                                            .truncate_from = 91,
                                            .entries = entries,
                                            .n_entries = 3,
                                            .commit = 93,
                                    }),
                         0);
        for (int i = 0; i < 3; i++)
                entry_unref(entries[i]);
        assert_int_equal(logtest_settle(t), 0);

        /* The header before the batch must not bless 91'–93'. */
        assert_int_equal(log_state(t->log)->commit, 90);
        for (int round = 0; round < 2; round++) {
                uint64_t terms[121] = {};
                assert_int_equal(log_state(t->log)->last_index, 93);
                assert_int_equal(log_state(t->log)->last_term, 2);
                assert_int_equal(logtest_read_all(t, terms, 121), 93);
                assert_int_equal(terms[90], 1);
                assert_int_equal(terms[91], 2);
                cut_and_reopen(t);
        }
        logtest_append(t, 94, 200, 3, 5);
        assert_int_equal(logtest_settle(t), 0);
        assert_int_equal(logtest_read_all(t, NULL, 0), 200);
}

static void test_hard_state(void **state) {
        LogTest *t = *state;
        logtest_hard(t, 7, 3);
        assert_int_equal(log_state(t->log)->term, 0);
        assert_int_equal(logtest_settle(t), 0);
        assert_int_equal(log_state(t->log)->term, 7);
        for (int i = 0; i < 5; i++) {
                cut_and_reopen(t);
                assert_int_equal(log_state(t->log)->term, 7);
                assert_int_equal(log_state(t->log)->vote, 3);
        }
        /* A host that only restarts keeps one file, and what is ready for the next. */
        assert_int_equal(simdisk_used(t->sim), log_bytes(t->log));
        assert_in_range(log_bytes(t->log), 64 * 1024, 2 * 64 * 1024);
}

static void test_base(void **state) {
        LogTest *t = *state;
        logtest_append(t, 1, 100, 2, 50);
        Conf conf = logtest_conf(40);

        /* Follows exactly: the tail stays. */
        assert_int_equal(log_submit_base(t->log, ++t->seq, 60, 2, &conf, 40, 5, 9), 0);
        assert_int_equal(logtest_settle(t), 0);
        for (int i = 0; i < 2; i++) {
                const LogState *s = log_state(t->log);
                assert_int_equal(s->base_index, 60);
                assert_int_equal(s->base_term, 2);
                assert_int_equal(s->base_conf_index, 40);
                assert_memory_equal(&s->base_conf, &conf, sizeof(conf));
                assert_int_equal(s->last_index, 100);
                assert_int_equal(s->commit, 60);
                assert_int_equal(s->term, 5);
                assert_int_equal(s->vote, 9);
                assert_int_equal(logtest_read_all(t, NULL, 0), 40);
                cut_and_reopen(t);
        }

        /* Another term at that index: all goes, however long the tail. */
        assert_int_equal(log_submit_base(t->log, ++t->seq, 70, 4, &conf, 65, 6, 0), 0);
        logtest_append(t, 71, 72, 6, 50);
        assert_int_equal(logtest_settle(t), 0);
        for (int i = 0; i < 2; i++) {
                const LogState *s = log_state(t->log);
                assert_int_equal(s->base_index, 70);
                assert_int_equal(s->base_term, 4);
                assert_int_equal(s->last_index, 72);
                assert_int_equal(s->term, 6);
                assert_int_equal(s->vote, 0);
                assert_int_equal(logtest_read_all(t, NULL, 0), 2);
                cut_and_reopen(t);
        }
}

static void test_small_facts(void **state) {
        LogTest *t = *state;
        assert_int_equal(log_submit_tree(t->log, ++t->seq, "tree-1-aa.db"), 0);
        assert_int_equal(log_submit_tree(t->log, ++t->seq, "tree-22-b.db"), 0);
        assert_int_equal(log_submit_damage(t->log, ++t->seq, true), 0);
        assert_int_equal(logtest_settle(t), 0);
        assert_int_equal(t->completed, 3);
        for (int i = 0; i < 3; i++) {
                assert_string_equal(log_state(t->log)->tree_name, "tree-22-b.db");
                assert_true(log_state(t->log)->damaged);
                cut_and_reopen(t);
        }
        log_submit_damage(t->log, ++t->seq, false);
        assert_int_equal(logtest_settle(t), 0);
        cut_and_reopen(t);
        assert_false(log_state(t->log)->damaged);

        char name[LOG_TREE_NAME_BYTES + 1];
        memset(name, 'x', LOG_TREE_NAME_BYTES);
        name[LOG_TREE_NAME_BYTES] = 0;
        assert_int_equal(log_submit_tree(t->log, ++t->seq, name), -EINVAL);
}

static void test_clean_stop(void **state) {
        LogTest *t = *state;
        logtest_append(t, 1, 5, 1, 10); /* not stepped: the close does it */
        t->log = log_close(t->log);
        simdisk_cut(t->sim, SIM_LOSE_ALL);
        assert_int_equal(logtest_open(t), 0);
        assert_true(log_state(t->log)->clean);
        assert_int_equal(log_state(t->log)->last_index, 5);
        cut_and_reopen(t);
        assert_false(log_state(t->log)->clean);
}

/* Orders that wait together cost one sync. */
static void test_group(void **state) {
        LogTest *t = *state;
        assert_int_equal(logtest_settle(t), 0);
        uint64_t before = simdisk_syncs(t->sim);
        for (uint64_t i = 1; i <= 50; i++)
                logtest_append(t, i, i, 1, 40);
        logtest_hard(t, 2, 1);
        log_submit_tree(t->log, ++t->seq, "tree-1-x.db");
        assert_int_equal(logtest_settle(t), 0);
        assert_int_equal(t->completed, 52);
        assert_int_equal(simdisk_syncs(t->sim) - before, 1);
}

/* After the last change the header is written once more; then nothing. */
static void test_quiet(void **state) {
        LogTest *t = *state;
        logtest_append(t, 1, 10, 1, 40);
        assert_int_equal(logtest_settle(t), 0);
        log_note_commit(t->log, 9);
        uint64_t before = simdisk_syncs(t->sim);
        assert_int_equal(log_quiet(t->log), 1);
        assert_int_equal(simdisk_syncs(t->sim) - before, 1);
        uint64_t calls = simdisk_calls(t->sim);
        assert_int_equal(log_quiet(t->log), 0);
        assert_int_equal(log_step(t->log), 0);
        assert_int_equal(simdisk_calls(t->sim), calls);
        cut_and_reopen(t);
        assert_int_equal(log_state(t->log)->commit, 9);

        log_note_commit(t->log, 1000); /* never above the entries */
        log_quiet(t->log);
        logtest_completed(t);
        assert_int_equal(log_state(t->log)->commit, 10);
}

static void test_roll_and_trim(void **state) {
        LogTest *t = *state;
        for (uint64_t i = 1; i <= 2000; i += 10) {
                logtest_append(t, i, i + 9, 1 + i / 700, 150);
                assert_int_equal(logtest_settle(t), 0);
        }
        assert_true(log_bytes(t->log) > 5 * 64 * 1024);
        assert_int_equal(logtest_read_all(t, NULL, 0), 2000);
        cut_and_reopen(t);
        assert_int_equal(logtest_read_all(t, NULL, 0), 2000);
        assert_int_equal(logtest_settle(t), 0);

        uint64_t before = log_bytes(t->log);
        log_trim(t->log, 1000);
        assert_int_equal(logtest_settle(t), 0);
        assert_true(log_bytes(t->log) < before);
        uint64_t base = log_state(t->log)->base_index;
        assert_in_range(base, 500, 1000);
        assert_int_equal(log_state(t->log)->base_term, base > 700 ? 2 : 1);
        Entry *entries[1];
        assert_int_equal(log_load(t->log, base, 1, 100, entries), 0);
        for (int i = 0; i < 2; i++) {
                assert_int_equal(log_state(t->log)->base_index, base);
                assert_int_equal(log_state(t->log)->base_term, base > 700 ? 2 : 1);
                assert_int_equal(logtest_read_all(t, NULL, 0), 2000 - base);
                cut_and_reopen(t);
        }
        log_trim(t->log, 5000); /* the segment in use stays */
        assert_int_equal(logtest_settle(t), 0);
        cut_and_reopen(t);
        assert_int_equal(log_state(t->log)->last_index, 2000);
        logtest_append(t, 2001, 2001, 9, 10);
        assert_int_equal(logtest_settle(t), 0);
}

/* The configuration at the base follows the CONF entries that are trimmed away. */
static void test_trim_conf(void **state) {
        LogTest *t = *state;
        for (uint64_t i = 1; i <= 1500; i++) {
                Entry *entry = logtest_entry(i, 1, i % 100 == 50 ? ENTRY_CONF : ENTRY_COMMAND, 150);
                log_submit(t->log, &(LogBatch){.seq = ++t->seq, .entries = &entry, .n_entries = 1});
                entry_unref(entry);
                if (i % 10 == 0)
                        assert_int_equal(logtest_settle(t), 0);
        }
        log_trim(t->log, 1000);
        assert_int_equal(logtest_settle(t), 0);
        for (int i = 0; i < 2; i++) {
                const LogState *s = log_state(t->log);
                uint64_t expect = (s->base_index - 50) / 100 * 100 + 50;
                Conf conf = logtest_conf(expect);
                assert_true(s->base_index > 300);
                assert_int_equal(s->base_conf_index, expect);
                assert_memory_equal(&s->base_conf, &conf, sizeof(conf));
                cut_and_reopen(t);
        }
}

static void test_large(void **state) {
        LogTest *t = *state;
        logtest_append(t, 1, 3, 1, 1024 * 1024);
        logtest_append(t, 4, 4, 1, LIMIT_ENTRY_BYTES);
        logtest_append(t, 5, 5, 1, 0);
        assert_int_equal(logtest_settle(t), 0);
        assert_int_equal(t->completed, 3);
        assert_int_equal(logtest_read_all(t, NULL, 0), 5);
        cut_and_reopen(t);
        assert_int_equal(logtest_read_all(t, NULL, 0), 5);
}

static void test_refused(void **state) {
        LogTest *t = *state;
        logtest_append(t, 1, 5, 4, 10);
        assert_int_equal(logtest_settle(t), 0);
        t->seq = 0; /* numbers must rise */
        assert_int_equal(logtest_append(t, 6, 6, 4, 10), -EINVAL);
        t->seq = 10;
        Entry *entries[2] = {logtest_entry(6, 4, ENTRY_COMMAND, 1), logtest_entry(8, 4, ENTRY_COMMAND, 1)};
        assert_int_equal(log_submit(t->log, &(LogBatch){.seq = 11, .entries = entries, .n_entries = 2}),
                         -EINVAL);
        entry_unref(entries[0]);
        entry_unref(entries[1]);

        /* A hole to what is stored is noticed when it is written: nothing after it counts. */
        assert_int_equal(logtest_append(t, 7, 7, 4, 10), 0);
        assert_int_equal(logtest_settle(t), -EINVAL);
        assert_int_equal(t->completed, 1);
        assert_int_equal(logtest_append(t, 6, 6, 4, 10), -EINVAL);
        cut_and_reopen(t);
        assert_int_equal(log_state(t->log)->last_index, 5);
}

/* The disk fills up: nothing is lost, the log says so while there is still room for votes, and goes on when
 * there is room again. */
static void test_full(void **state) {
        LogTest *t = *state;
        assert_int_equal(logtest_settle(t), 0);
        simdisk_set_room(t->sim, simdisk_used(t->sim) + 8 * 1024);
        uint64_t at = 1;
        while (!t->full) {
                assert_int_equal(logtest_append(t, at, at, 1, 200), 0);
                assert_int_equal(logtest_settle(t), 0);
                assert_int_equal(t->completed, at); /* told before anything had to wait */
                at++;
                assert_true(at < 2000);
        }
        for (uint64_t term = 2; term < 20; term++) {
                logtest_hard(t, term, 1);
                assert_int_equal(logtest_settle(t), 0);
                assert_int_equal(t->completed, t->seq);
        }
        /* Entries that come all the same wait in the end, votes before them have been stored. */
        uint64_t done = t->seq;
        while (t->completed == t->seq) {
                assert_int_equal(logtest_append(t, at, at, 20, 200), 0);
                at++;
                assert_int_equal(logtest_settle(t), 0);
                assert_true(t->full);
        }
        assert_true(t->completed > done);
        assert_int_equal(t->completed, t->seq - 1);

        SimDisk *copy = simdisk_copy(t->sim);
        simdisk_set_room(t->sim, UINT64_MAX);
        assert_int_equal(logtest_settle(t), 0);
        assert_false(t->full);
        assert_int_equal(t->completed, t->seq);
        assert_int_equal(logtest_read_all(t, NULL, 0), at - 1);

        /* The same, had the power been lost while it was full. */
        log_abandon(t->log);
        simdisk_free(t->sim);
        t->sim = copy;
        assert_int_equal(logtest_open(t), 0);
        assert_int_equal(log_state(t->log)->last_index, at - 2);
        assert_int_equal(log_state(t->log)->term, 19);
}

/* Started on a full disk: what the last run made ready is the room. */
static void test_full_at_start(void **state) {
        LogTest *t = *state;
        logtest_append(t, 1, 250, 1, 150);
        assert_int_equal(logtest_settle(t), 0); /* more than half: the next file is ready */
        simdisk_set_room(t->sim, simdisk_used(t->sim));
        cut_and_reopen(t);
        assert_int_equal(log_state(t->log)->last_index, 250);
        logtest_hard(t, 8, 1);
        assert_int_equal(logtest_settle(t), 0);
        assert_int_equal(t->completed, 1);
}

static void test_locked(void **state) {
        LogTest *t = *state;
        LogTest other = {.sim = t->sim};
        assert_int_equal(logtest_open(&other), LOG_LOCKED);
        assert_null(other.log);
}

int main(void) {
#define ONE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        const struct CMUnitTest tests[] = {
                ONE(test_fresh),         ONE(test_append_and_reopen),
                ONE(test_replay),        ONE(test_truncate),
                ONE(test_hard_state),    ONE(test_base),
                ONE(test_small_facts),   ONE(test_clean_stop),
                ONE(test_group),         ONE(test_quiet),
                ONE(test_roll_and_trim), ONE(test_trim_conf),
                ONE(test_large),         ONE(test_refused),
                ONE(test_full),          ONE(test_full_at_start),
                ONE(test_locked),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
