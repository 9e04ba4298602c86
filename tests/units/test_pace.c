/* When a trigger acts, told with time as an argument: bursts become one action, no more than four actions in
 * any ten seconds, failures back off, and nothing that happens during an action is lost. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include "units/pace.h"

#define MS USEC_PER_MSEC
#define S  USEC_PER_SEC

static void test_burst_is_one_action(void **state) {
        Pace pace = {.settle_usec = 200 * MS};
        assert_int_equal(pace_due(&pace), USEC_INFINITY);

        pace_change(&pace, 100 * S);
        assert_int_equal(pace_due(&pace), 100 * S + 200 * MS);
        pace_change(&pace, 100 * S + 150 * MS);
        assert_int_equal(pace_due(&pace), 100 * S + 350 * MS);

        pace_begin(&pace, 100 * S + 350 * MS);
        assert_int_equal(pace_due(&pace), USEC_INFINITY);
        pace_end(&pace, 101 * S, true);
        assert_int_equal(pace_due(&pace), USEC_INFINITY);
        assert_false(pace.dirty);
}

/* A source that never falls silent must not hold the action back for ever. */
static void test_endless_changes(void **state) {
        Pace pace = {.settle_usec = 200 * MS};
        for (uint64_t now = 100 * S; now < 110 * S; now += 100 * MS)
                pace_change(&pace, now);
        assert_int_equal(pace_due(&pace), 105 * S);

        /* A longer wish for silence is respected. */
        Pace slow = {.settle_usec = 30 * S};
        pace_change(&slow, 100 * S);
        assert_int_equal(pace_due(&slow), 130 * S);
        pace_change(&slow, 120 * S);
        assert_int_equal(pace_due(&slow), 130 * S);
}

static void test_change_during_action(void **state) {
        Pace pace = {.settle_usec = 200 * MS};
        pace_change(&pace, 100 * S);
        pace_begin(&pace, 100 * S + 200 * MS);
        pace_change(&pace, 100 * S + 300 * MS);
        assert_int_equal(pace_due(&pace), USEC_INFINITY); /* one at a time */
        pace_end(&pace, 103 * S, true);
        assert_int_equal(pace_due(&pace), 100 * S + 500 * MS); /* long due */
        assert_int_equal(pace.failures, 0);
}

static void test_rate(void **state) {
        Pace pace = {.settle_usec = 0};
        uint64_t began[12], now = 100 * S;
        for (size_t i = 0; i < ELEMENTSOF(began); i++) {
                pace_change(&pace, now);
                now = MAX(now, pace_due(&pace));
                began[i] = now;
                pace_begin(&pace, now);
                now += 10 * MS;
                pace_end(&pace, now, true);
        }
        for (size_t i = 4; i < ELEMENTSOF(began); i++)
                assert_true(began[i] - began[i - 4] >= 10 * S);
        /* … and no slower than that. */
        assert_int_equal(began[3], 100 * S + 30 * MS);
        assert_int_equal(began[4], 110 * S);
}

static void test_back_off(void **state) {
        Pace pace = {.settle_usec = 200 * MS};
        static const uint64_t waits[] = {1, 2, 4, 8, 16, 32, 60, 60, 60};
        uint64_t now = 100 * S;

        pace_change(&pace, now);
        for (size_t i = 0; i < ELEMENTSOF(waits); i++) {
                now = pace_due(&pace);
                pace_begin(&pace, now);
                now += 5 * MS;
                pace_end(&pace, now, false);
                assert_true(pace.dirty);
                assert_true(pace_due(&pace) >= now + waits[i] * S);
                if (i > 4) /* else the rate limit may hold it back further */
                        assert_int_equal(pace_due(&pace), now + waits[i] * S);
        }

        /* A new change may be the repair: tried as soon as it settled, but failures go on counting. */
        pace_change(&pace, now + 20 * S);
        assert_int_equal(pace_due(&pace), now + 20 * S + 200 * MS);
        pace_begin(&pace, now + 21 * S);
        pace_end(&pace, now + 22 * S, false);
        assert_int_equal(pace_due(&pace), now + 82 * S);

        pace_begin(&pace, now + 82 * S);
        pace_end(&pace, now + 83 * S, true);
        assert_int_equal(pace_due(&pace), USEC_INFINITY);
        assert_int_equal(pace.failures, 0);
}

static void test_change_during_failing_action(void **state) {
        Pace pace = {.settle_usec = 200 * MS};
        pace_change(&pace, 100 * S);
        pace_begin(&pace, 101 * S);
        pace_change(&pace, 102 * S);
        pace_end(&pace, 103 * S, false);
        assert_int_equal(pace_due(&pace), 102 * S + 200 * MS);
        assert_int_equal(pace.failures, 1);
}

static void test_clean(void **state) {
        Pace pace = {.settle_usec = 200 * MS};
        pace_change(&pace, 100 * S);
        pace_begin(&pace, 101 * S);
        pace_end(&pace, 102 * S, false);
        pace_clean(&pace);
        assert_int_equal(pace_due(&pace), USEC_INFINITY);
        pace_change(&pace, 200 * S);
        assert_int_equal(pace_due(&pace), 200 * S + 200 * MS);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_burst_is_one_action),
                cmocka_unit_test(test_endless_changes),
                cmocka_unit_test(test_change_during_action),
                cmocka_unit_test(test_rate),
                cmocka_unit_test(test_back_off),
                cmocka_unit_test(test_change_during_failing_action),
                cmocka_unit_test(test_clean),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
