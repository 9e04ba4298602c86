/* Joining at the edges: what counts as "holds something", and a process that ended between the record that
 * names the other cluster's tree and the one that makes it the beginning of the log. */
#include "lone.h"

typedef struct Joined {
        unsigned n;
        JoinAnswer answer;
} Joined;

static void joined(JoinAnswer answer, const char *why, void *userdata) {
        Joined *join = userdata;
        join->n++;
        join->answer = answer;
}

static void make_token(char text[static TOKEN_TEXT_BYTES]) {
        TokenText token = {.class = MEMBER_FULL, .n_addresses = 1, .n_keys = 1, .cluster = {1}, .id = {2}};
        snprintf(token.addresses[0], sizeof(token.addresses[0]), "192.0.2.1:7707");
        assert_true(token_text_write(&token, text) >= 0);
}

static JoinAnswer try_to_join(Lone *lone) {
        char text[TOKEN_TEXT_BYTES];
        Joined join = {};
        make_token(text);
        assert_int_equal(agent_join(lone->agent, text, false, joined, &join), 0);
        lone_run(lone, 32 * USEC_PER_SEC);
        assert_int_equal(join.n, 1);
        return join.answer;
}

static void registrations_do_not_count(void **state) {
        Lone *lone = lone_new();
        Told told = {};
        Request *request;
        assert_int_equal(agent_own(lone->agent, "/services/web/lone", BYTES("{}", 2), "fd:1",
                                   REQUEST_TIMEOUT_USEC, lone_told, &told, &request),
                         0);
        lone_run(lone, USEC_PER_SEC);
        assert_int_equal(told.last.answer, ANSWER_DONE);
        assert_int_equal(try_to_join(lone), JOIN_UNREACHABLE);
        lone_free(lone);
}

static void what_users_wrote_counts(void **state) {
        Lone *lone = lone_new();
        Told told = {};
        lone_set(lone, "/a", "1", &told);
        lone_run(lone, 100 * USEC_PER_MSEC);
        assert_int_equal(try_to_join(lone), JOIN_NOT_EMPTY);
        lone_free(lone);
}

static void restart_switching(Lone *lone, const char *name) {
        HostFile host = lone->agent->host;
        snprintf(host.switching, sizeof(host.switching), "%s", name);
        assert_int_equal(host_file_save(simdisk_disk(lone->disk), &host), 0);
        lone_kill(lone);
        lone_start(lone);
        assert_int_equal(lone->agent->host.switching[0], 0);
        assert_int_equal(host_file_load(simdisk_disk(lone->disk), &host), 0);
        assert_int_equal(host.switching[0], 0);
}

/* Both logs may hold an entry of that index and term: the old cluster's tail is never applied to the new
 * tree. */
static void a_foreign_log_is_dropped(void **state) {
        Lone *lone = lone_new();
        Told told = {};
        lone_set(lone, "/a", "1", &told);
        lone_run(lone, USEC_PER_SEC);

        restart_switching(lone, lone->agent->tree_name);
        const LogState *log = log_state(lone->agent->log);
        assert_int_equal(log->base_index, lone->agent->tree_status.applied);
        assert_int_equal(log->last_index, log->base_index);
        assert_int_equal(log->vote, lone->agent->host.id);
        lone_free(lone);
}

static void a_switch_that_did_not_come_changes_nothing(void **state) {
        Lone *lone = lone_new();
        Told told = {};
        lone_set(lone, "/a", "1", &told);
        lone_run(lone, USEC_PER_SEC);

        restart_switching(lone, "tree-0000000000000007-00000000.db");
        assert_int_equal(log_state(lone->agent->log)->base_index, 0);
        lone_set(lone, "/a", "2", &told);
        lone_run(lone, 2 * USEC_PER_SEC);
        assert_int_equal(told.n, 2);
        assert_int_equal(told.last.answer, ANSWER_DONE);
        lone_free(lone);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(registrations_do_not_count),
                cmocka_unit_test(what_users_wrote_counts),
                cmocka_unit_test(a_foreign_log_is_dropped),
                cmocka_unit_test(a_switch_that_did_not_come_changes_nothing),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
