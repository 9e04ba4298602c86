/* What this host owns, when owners come and go faster than the log; and what a leader that slept still
 * knows. */
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

/* A leader has proposed the end of a session, and then stands still for so long that it grants everybody a
 * full timeout. The end may yet be committed, so that session is not told to live, however well it is heard.
 */
static void end_outlives_a_pause(void **state) {
        Lone *lone = lone_new();
        Sessions *sessions = &lone->agent->sessions;
        SessionWatch *watch = NULL;
        uint64_t until, later;
        lone_run(lone, USEC_PER_SEC);
        assert_int_not_equal(sessions_certain(lone->agent, &until), 0);
        HASH_FIND(hh, sessions->watched, &lone->agent->host.id, sizeof(uint64_t), watch);
        assert_non_null(watch);
        watch->ending_generation = sessions->generation;

        lone->now += 3 * USEC_PER_SEC; /* see watch_sessions(): more than twice its pause and a second */
        lone_run(lone, 3 * USEC_PER_SEC);
        assert_int_equal(sessions_certain(lone->agent, &later), 0);
        assert_int_equal(later, until);
        lone_free(lone);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(owned_again_at_once),
                cmocka_unit_test(let_go_while_written),
                cmocka_unit_test(end_outlives_a_pause),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
