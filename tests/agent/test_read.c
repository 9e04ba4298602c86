/* Reads of one host, at the edges. */
#include "lone.h"

#include "agent/tree/internal.h"

typedef struct Look {
        Lone *lone;
        unsigned n_allowed;
        char value[8];
} Look;

static void look(Answer answer, void *userdata) {
        Look *look = userdata;
        AgentEntry entry;
        if (answer != ANSWER_DONE)
                return;
        look->n_allowed++;
        if (agent_get(look->lone->agent, "/a", &entry) == 0)
                snprintf(look->value, sizeof(look->value), "%.*s", (int)entry.value.size,
                         (const char *)entry.value.data);
}

static void told_then_no_memory(const RequestAnswer *answer, void *userdata) {
        Look *look = userdata;
        assert_int_equal(answer->answer, ANSWER_DONE);
        look->lone->agent->tree->lost = -ENOMEM;
}

/* A write is applied and told of, in an open transaction; then SQLite has no memory for the next entry, and
 * takes the transaction back. The agent ends for that; in the turn in which it does, nobody may read the
 * tree of the last COMMIT as if it were today's. */
static void nobody_reads_a_tree_that_was_set_back(void **state) {
        Lone *lone = lone_new();
        Look asked = {.lone = lone};
        Told told = {}, behind = {};
        Read *read;
        lone_set(lone, "/a", "old", &told);
        lone_run(lone, 5 * USEC_PER_SEC);
        assert_int_equal(lone->agent->tree->committed, lone->agent->tree->meta.applied);

        Command command = {.kind = COMMAND_SET, .path = "/a", .value = BYTES("new", 3)};
        assert_int_equal(agent_request(lone->agent, &command, REQUEST_TIMEOUT_USEC, told_then_no_memory,
                                       &asked, NULL),
                         0);
        lone_set(lone, "/b", "1", &behind);
        uint64_t revision = agent_revision(lone->agent) + 1;
        assert_int_equal(agent_read(lone->agent, 0, revision, USEC_PER_SEC, look, &asked, &read), 0);
        int r = 0;
        for (int i = 0; r == 0 && i < 10; i++) {
                r = agent_turn(lone->agent);
                while (r == 0 && agent_step(lone->agent) > 0)
                        ;
        }
        assert_int_equal(r, -ENOMEM);
        assert_int_equal(behind.n, 0);
        assert_int_equal(asked.n_allowed, 0);
        assert_string_equal(asked.value, "");

        lone_kill(lone);
        lone_start(lone);
        assert_int_equal(agent_read(lone->agent, READ_LINEARIZABLE, 0, USEC_PER_SEC, look, &asked, &read),
                         0);
        lone_run(lone, USEC_PER_SEC);
        assert_int_equal(asked.n_allowed, 1);
        assert_string_equal(asked.value, "new");
        lone_free(lone);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(nobody_reads_a_tree_that_was_set_back),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
