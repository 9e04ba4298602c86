/* The log in memory: terms as runs, entries as a window, configurations that come and go with their entries.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "agent/raft/logview.h"

static void append(LogView *log, uint64_t term, EntryType type, const void *data, uint32_t size, bool keep) {
        _cleanup_(entry_unrefp) Entry *entry = entry_new(type, log->last + 1, term, data, size);
        assert_int_equal(logview_append(log, entry, keep), 0);
}

static void fill(LogView *log, const uint64_t *terms, size_t n) {
        assert_int_equal(logview_reset(log, 10, 1, &(Conf){.n_voters = 1, .voters = {{.id = 1}}}, 3), 0);
        for (size_t i = 0; i < n; i++)
                append(log, terms[i], ENTRY_COMMAND, "x", 1, true);
}

static void test_terms(void **state) {
        LogView log = {};
        fill(&log, (uint64_t[]){1, 2, 2, 5, 5, 5, 9}, 7);
        static const uint64_t want[] = {0, 1, 1, 2, 2, 5, 5, 5, 9, 0};
        for (uint64_t i = 0; i < ELEMENTSOF(want); i++)
                assert_int_equal(logview_term(&log, 9 + i), want[i]);
        assert_int_equal(logview_run_first(&log, 15), 14);
        uint64_t last;
        assert_true(logview_term_last(&log, 5, &last));
        assert_int_equal(last, 16);
        assert_true(logview_term_last(&log, 1, &last));
        assert_int_equal(last, 11);
        assert_false(logview_term_last(&log, 7, &last));
        logview_deinit(&log);
}

static void test_truncate_and_trim(void **state) {
        LogView log = {};
        fill(&log, (uint64_t[]){1, 2, 2, 5, 5, 5, 9}, 7);
        logview_truncate(&log, 16);
        assert_int_equal(log.last, 15);
        assert_int_equal(logview_last_term(&log), 5);
        assert_null(logview_entry(&log, 16));
        logview_trim(&log, 13);
        assert_int_equal(logview_term(&log, 13), 2);
        assert_int_equal(logview_term(&log, 12), 0);
        assert_int_equal(logview_run_first(&log, 15), 14);
        assert_null(logview_entry(&log, 13));
        assert_non_null(logview_entry(&log, 14));
        logview_trim(&log, 15);
        assert_int_equal(logview_last_term(&log), 5);
        append(&log, 5, ENTRY_NOOP, NULL, 0, true);
        assert_int_equal(logview_run_first(&log, 16), 16);
        logview_deinit(&log);
}

static void test_cache(void **state) {
        LogView log = {};
        fill(&log, (uint64_t[]){1}, 1);
        for (int i = 0; i < 200; i++) /* the ring grows and wraps */
                append(&log, 1, ENTRY_COMMAND, "yy", 2, true);
        logview_evict(&log, 0, UINT64_MAX);
        assert_non_null(logview_entry(&log, 11)); /* nothing was released */
        logview_release(&log, 100);
        logview_evict(&log, 0, 60);
        assert_null(logview_entry(&log, 59));
        assert_non_null(logview_entry(&log, 60)); /* not stored yet */
        logview_evict(&log, 3 * (sizeof(Entry) + 2), UINT64_MAX);
        assert_null(logview_entry(&log, 97));
        assert_int_equal(logview_entry(&log, 98)->index, 98);
        append(&log, 1, ENTRY_NOOP, NULL, 0, false); /* not kept: the window begins behind it */
        assert_null(logview_entry(&log, 211));
        assert_int_equal(log.released_bytes, 0);
        logview_deinit(&log);
}

static void test_configurations(void **state) {
        LogView log = {};
        fill(&log, (uint64_t[]){1}, 1);
        uint8_t bytes[CONF_BYTES_MAX];
        for (uint64_t id = 2; id <= 3; id++) {
                Conf conf = {.n_voters = 1, .voters = {{.id = id}}};
                append(&log, 1, ENTRY_CONF, bytes, (uint32_t)conf_encode(&conf, bytes), true);
        }
        assert_int_equal(logview_conf(&log)->conf.voters[0].id, 3);
        logview_truncate(&log, 13);
        assert_int_equal(logview_conf(&log)->conf.voters[0].id, 2);
        assert_int_equal(logview_conf(&log)->index, 12);
        logview_truncate(&log, 12);
        assert_int_equal(logview_conf(&log)->conf.voters[0].id, 1);
        assert_int_equal(logview_conf(&log)->index, 3);

        _cleanup_(entry_unrefp) Entry *broken = entry_new(ENTRY_CONF, 12, 1, "\x02", 1);
        assert_int_equal(logview_append(&log, broken, true), -EBADMSG);
        assert_int_equal(log.last, 11);
        logview_deinit(&log);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_terms),
                cmocka_unit_test(test_truncate_and_trim),
                cmocka_unit_test(test_cache),
                cmocka_unit_test(test_configurations),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
