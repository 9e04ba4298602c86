/* What this host owns, when owners come and go faster than the log. */
#include "lone.h"

static void own(Lone *lone, const char *tag, Told *told) {
        Request *request;
        assert_int_equal(agent_own(lone->agent, "/services/web/lone", BYTES("{}", 2), tag,
                                   REQUEST_TIMEOUT_USEC, lone_told, told, &request),
                         0);
}

static void assert_there(Lone *lone, const char *tag) {
        AgentEntry entry;
        assert_int_equal(agent_get(lone->agent, "/services/web/lone", &entry), 0);
        assert_string_equal(entry.owner_tag, tag);
}

/* Let go and owned again by the same owner in one wake: the entry that is about to go is not taken for the
 * new one. */
static void owned_again_at_once(void **state) {
        Lone *lone = lone_new();
        Told told = {};
        own(lone, "unit:web.service:1", &told);
        lone_run(lone, USEC_PER_SEC);
        assert_int_equal(told.last.answer, ANSWER_DONE);

        assert_int_equal(agent_disown(lone->agent, "unit:web.service"), 1);
        own(lone, "unit:web.service:1", &told);
        lone_run(lone, 2 * USEC_PER_SEC);
        assert_int_equal(told.n, 2);
        assert_int_equal(told.last.answer, ANSWER_DONE);
        assert_there(lone, "unit:web.service:1");
        lone_free(lone);
}

/* Let go while it is being written: nothing stays behind. */
static void let_go_while_written(void **state) {
        Lone *lone = lone_new();
        Told told = {};
        AgentEntry entry;
        own(lone, "fd:1", &told);
        assert_int_equal(agent_turn(lone->agent), 0);
        assert_int_equal(agent_disown(lone->agent, "fd:1"), 1);
        lone_run(lone, 2 * USEC_PER_SEC);
        assert_int_equal(agent_get(lone->agent, "/services/web/lone", &entry), 1);
        assert_null(lone->agent->sessions.owned);
        lone_free(lone);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(owned_again_at_once),
                cmocka_unit_test(let_go_while_written),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
