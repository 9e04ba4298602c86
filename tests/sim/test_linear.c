/* The search for an order: histories that have one and that have none, and many small random ones, about
 * which a search through all orders has to say the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/base/macros.h"
#include "agent/base/random.h"
#include "linear.h"

#define WRITE(from, to, v) \
        { .begun = from, .ended = to, .changes = true, .given = v }
#define DELETE(from, to) \
        { .begun = from, .ended = to, .need = LINEAR_SOMETHING, .changes = true }
#define READ(from, to, v) \
        { .begun = from, .ended = to, .need = LINEAR_VALUE, .needed = v }
#define SWAP(from, to, a, b) \
        { .begun = from, .ended = to, .need = LINEAR_VALUE, .needed = a, .changes = true, .given = b }
#define REFUSED(from, to, a) \
        { .begun = from, .ended = to, .need = LINEAR_NOT, .needed = a }

#define VERDICT(...)                                       \
        ({                                                 \
                LinearOp ops[] = {__VA_ARGS__};            \
                LinearTold told;                           \
                linear_check(ops, ELEMENTSOF(ops), &told); \
        })

static void test_one_after_the_other(void **state) {
        assert_int_equal(VERDICT(READ(1, 2, 0), WRITE(3, 4, 7), READ(5, 6, 7)), LINEAR_HOLDS);
        assert_int_equal(VERDICT(WRITE(3, 4, 7), READ(5, 6, 0)), LINEAR_BROKEN);
        assert_int_equal(VERDICT(WRITE(1, 2, 7), WRITE(3, 4, 8), READ(5, 6, 7)), LINEAR_BROKEN);
        assert_int_equal(VERDICT(DELETE(1, 2)), LINEAR_BROKEN);
        assert_int_equal(VERDICT(WRITE(1, 2, 7), DELETE(3, 4), READ(5, 6, 0)), LINEAR_HOLDS);
}

static void test_at_once(void **state) {
        assert_int_equal(VERDICT(WRITE(1, 9, 7), READ(2, 3, 0), READ(4, 5, 7)), LINEAR_HOLDS);
        assert_int_equal(VERDICT(WRITE(1, 9, 7), READ(2, 3, 7), READ(4, 5, 0)), LINEAR_BROKEN);
        assert_int_equal(VERDICT(WRITE(1, 9, 7), WRITE(1, 9, 8), READ(2, 3, 7), READ(4, 5, 8)),
                         LINEAR_HOLDS);
        assert_int_equal(
                VERDICT(WRITE(1, 9, 7), WRITE(1, 9, 8), READ(2, 3, 7), READ(4, 5, 8), READ(6, 7, 7)),
                LINEAR_BROKEN);
        /* What touches is at once. */
        assert_int_equal(VERDICT(WRITE(1, 2, 7), READ(2, 3, 0)), LINEAR_HOLDS);
}

static void test_conditions(void **state) {
        assert_int_equal(VERDICT(WRITE(1, 2, 7), SWAP(3, 8, 7, 8), SWAP(3, 8, 7, 9)), LINEAR_BROKEN);
        assert_int_equal(VERDICT(WRITE(1, 2, 7), SWAP(3, 8, 7, 8), REFUSED(3, 8, 7)), LINEAR_HOLDS);
        assert_int_equal(VERDICT(WRITE(1, 2, 7), REFUSED(3, 8, 7)), LINEAR_BROKEN);
        assert_int_equal(VERDICT(SWAP(3, 8, 0, 8), SWAP(3, 8, 8, 9), READ(9, 10, 9)), LINEAR_HOLDS);
}

static void test_nobody_was_told(void **state) {
        assert_int_equal(VERDICT(WRITE(1, LINEAR_NEVER, 7), READ(2, 3, 0), READ(400, 500, 7)), LINEAR_HOLDS);
        assert_int_equal(VERDICT(WRITE(1, LINEAR_NEVER, 7), READ(2, 3, 0), READ(400, 500, 0)), LINEAR_HOLDS);
        assert_int_equal(VERDICT(WRITE(1, LINEAR_NEVER, 7), READ(2, 3, 7), READ(400, 500, 0)),
                         LINEAR_BROKEN);
        assert_int_equal(VERDICT(READ(1, 2, 7), WRITE(3, LINEAR_NEVER, 7)), LINEAR_BROKEN);
}

/* More than can be looked through is skipped, and behind it the walk goes on. */
static void test_too_much(void **state) {
        LinearOp ops[103];
        LinearTold told;
        for (unsigned i = 0; i < 100; i++)
                ops[i] = (LinearOp)WRITE(1 + i % 10, 100 + i % 7, i + 1);
        ops[100] = (LinearOp)READ(200, 201, 5);
        ops[101] = (LinearOp)READ(202, 203, 5);
        ops[102] = (LinearOp)READ(204, 205, 5);
        assert_int_equal(linear_check(ops, 103, &told), LINEAR_HOLDS);
        assert_int_equal(told.n_skipped, 100);
        assert_int_equal(told.n_checked, 3);
        ops[102].needed = 6;
        assert_int_equal(linear_check(ops, 103, &told), LINEAR_BROKEN);
        assert_int_equal(told.culprit, 102);
}

/* ---- All orders ---- */

static bool holds(const LinearOp *op, uint64_t value) {
        return op->need == LINEAR_ANYTHING || (op->need == LINEAR_VALUE && value == op->needed) ||
               (op->need == LINEAR_NOT && value != op->needed) ||
               (op->need == LINEAR_SOMETHING && value != 0);
}

static bool some_order(const LinearOp *ops, unsigned n, unsigned done, uint64_t value) {
        bool all = true;
        for (unsigned i = 0; i < n; i++)
                all = all && (done >> i & 1 || ops[i].ended == LINEAR_NEVER);
        if (all)
                return true;
        for (unsigned i = 0; i < n; i++) {
                bool first = !(done >> i & 1) && holds(&ops[i], value);
                for (unsigned k = 0; first && k < n; k++)
                        first = done >> k & 1 || ops[k].ended >= ops[i].begun;
                if (first && some_order(ops, n, done | 1u << i, ops[i].changes ? ops[i].given : value))
                        return true;
        }
        return false;
}

static void test_as_all_orders_say(void **state) {
        Random random = {.state = 1};
        unsigned counts[2] = {};
        for (unsigned round = 0; round < 20000; round++) {
                LinearOp ops[8];
                unsigned n = 2 + (unsigned)(random_next(&random) % 6);
                for (unsigned i = 0; i < n; i++) {
                        uint64_t begun = random_next(&random) % 12;
                        ops[i] = (LinearOp){
                                .begun = begun,
                                .ended = begun + random_next(&random) % 8,
                                .changes = random_next(&random) % 2,
                                .given = random_next(&random) % 5 == 0 ? 0 : i + 1,
                                .need = (LinearNeed)(random_next(&random) % 4),
                                .needed = random_next(&random) % (n + 1),
                        };
                        if (ops[i].changes && random_next(&random) % 8 == 0)
                                ops[i].ended = LINEAR_NEVER;
                        if (ops[i].changes && random_next(&random) % 2)
                                ops[i].need = LINEAR_ANYTHING;
                }
                bool expected = some_order(ops, n, 0, 0);
                LinearTold told;
                LinearVerdict verdict = linear_check(ops, n, &told);
                assert_int_equal(verdict, expected ? LINEAR_HOLDS : LINEAR_BROKEN);
                counts[expected]++;
        }
        assert_true(counts[0] > 2000 && counts[1] > 2000);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_one_after_the_other),
                cmocka_unit_test(test_at_once),
                cmocka_unit_test(test_conditions),
                cmocka_unit_test(test_nobody_was_told),
                cmocka_unit_test(test_too_much),
                cmocka_unit_test(test_as_all_orders_say),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
