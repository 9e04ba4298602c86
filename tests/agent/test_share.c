/* One member asks for more than its share: it is refused, and nobody else is. */
#include "agent/hall.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static Agent *nobody(void) {
        Agent *agent = calloc(1, sizeof(Agent));
        assert_non_null(agent);
        agent->now_usec = 5 * USEC_PER_SEC;
        return agent;
}

static void calls_have_a_rate(void **state) {
        Agent *agent = nobody();
        unsigned n = 0;
        while (share_call(agent, 2, false))
                n++;
        assert_in_range(n, LIMIT_CALLS_AT_ONCE, LIMIT_CALLS_AT_ONCE + 1);
        assert_true(share_call(agent, 3, false) && share_call(agent, 2, true));
        agent->now_usec += USEC_PER_SEC;
        for (n = 0; share_call(agent, 2, false); n++)
                ;
        assert_int_equal(n, LIMIT_CALLS_PER_SECOND);
        /* After a pause all at once again, and no more. */
        agent->now_usec += 3600 * USEC_PER_SEC;
        for (n = 0; share_call(agent, 2, false); n++)
                ;
        assert_in_range(n, LIMIT_CALLS_AT_ONCE, LIMIT_CALLS_AT_ONCE + 1);
        shares_reset(agent);
        free(agent);
}

static void questions_have_a_bound(void **state) {
        Agent *agent = nobody();
        for (unsigned n = 0; n < LIMIT_QUESTIONS_PER_HOST; n++)
                assert_true(share_question(agent, 2));
        assert_false(share_question(agent, 2));
        assert_true(share_question(agent, 3));
        share_answered(agent, 2);
        assert_true(share_question(agent, 2));
        assert_false(share_question(agent, 2));
        shares_reset(agent);
        free(agent);
}

static bool is_kept(const Agent *agent, uint64_t host, uint64_t index) {
        for (size_t i = 0; i < ELEMENTSOF(agent->checks.reports); i++)
                if (agent->checks.reports[i].host == host && agent->checks.reports[i].index == index)
                        return true;
        return false;
}

/* A voter that makes up reports of all indexes there are takes no place but its own. */
static void reports_have_places(void **state) {
        Agent *agent = nobody();
        agent->tree_status.conf = (Conf){.n_voters = 3, .voters = {{.id = 1}, {.id = 2}, {.id = 3}}};
        LetterReport report = {.index = 7};
        checks_reported(agent, 1, &report);
        checks_reported(agent, 3, &report);
        for (uint64_t i = 1; i <= 1000; i++)
                checks_reported(agent, 2, &(LetterReport){.index = 1000 * i});
        assert_true(is_kept(agent, 1, 7) && is_kept(agent, 3, 7) && is_kept(agent, 2, 1000 * 1000));
        report.index = 1; /* an older one still finds room of its own */
        checks_reported(agent, 3, &report);
        assert_true(is_kept(agent, 3, 1) && is_kept(agent, 3, 7));
        checks_reported(agent, 4, &report); /* no voter */
        assert_false(is_kept(agent, 4, 1));
        shares_reset(agent);
        free(agent);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(calls_have_a_rate),
                cmocka_unit_test(questions_have_a_bound),
                cmocka_unit_test(reports_have_places),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
