/* This host's writes at the edges: the window of serials, a row that became another's, a wake full of calls.
 */
#include "lone.h"

#include <string.h>

static void writes_are_answered(void **state) {
        Lone *lone = lone_new();
        Told told = {};
        lone_set(lone, "/a", "1", &told);
        lone_run(lone, 100 * USEC_PER_MSEC);
        assert_int_equal(told.n, 1);
        assert_int_equal(told.last.answer, ANSWER_DONE);
        lone_free(lone);
}

/* Unknown ones that fill the window (lost with a leader) are decided by an empty request in its last place.
 */
static void a_window_full_of_unknown_opens(void **state) {
        Lone *lone = lone_new();
        Requests *requests = &lone->agent->requests;
        Told lost = {}, told = {};

        /* Offered and refused: it has a serial, and no leader has it. */
        uint64_t serial = requests->next_serial;
        lone_set(lone, "/lost", "1", &lost);
        lone->agent->log_full = true;
        requests_offer(lone->agent);
        lone->agent->log_full = false;
        assert_non_null(requests->offered);
        requests->offered->state = REQUEST_UNKNOWN;
        requests->next_serial = serial + LIMIT_SERIALS - 1;

        lone_set(lone, "/a", "1", &told);
        lone_run(lone, USEC_PER_SEC);
        assert_int_equal(told.n, 1);
        assert_int_equal(told.last.answer, ANSWER_DONE);
        Result result;
        assert_int_equal(agent_outcome(lone->agent, requests->incarnation, serial, &result), OUTCOME_NEVER);
        lone_free(lone);
}

/* Thousands of later requests push nothing out that somebody was told Unknown; nor does the next process. */
static void unknown_ones_are_kept(void **state) {
        Lone *lone = lone_new();
        Requests *requests = &lone->agent->requests;
        Told lost = {}, told = {};
        Result result;

        uint64_t first = requests->next_serial, incarnation = requests->incarnation;
        lone_set(lone, "/lost", "1", &lost);
        lone->agent->log_full = true;
        requests_offer(lone->agent);
        lone->agent->log_full = false;
        requests->offered->state = REQUEST_UNKNOWN;
        lone_set(lone, "/late", "1", &lost); /* decides the first */
        lone->agent->now_usec = lone->agent->requests.busy_until_usec;
        requests_offer(lone->agent);
        assert_non_null(requests->offered->next);
        requests->offered->next->state = REQUEST_UNKNOWN; /* applies all the same */
        lone_run(lone, 100 * USEC_PER_MSEC);
        assert_null(requests->offered);
        assert_int_equal(requests->n_decided, 2);

        for (unsigned i = 0; i < 2 * LIMIT_SERIALS; i++) {
                lone_set(lone, "/a", "1", &told);
                if (i % 64 == 63)
                        lone_run(lone, 20 * USEC_PER_MSEC);
        }
        lone_run(lone, USEC_PER_SEC);
        assert_int_equal(told.n, 2 * LIMIT_SERIALS);
        assert_int_equal(requests->n_decided, 0);
        for (int process = 0; process < 2; process++) {
                assert_int_equal(agent_outcome(lone->agent, incarnation, first, &result), OUTCOME_NEVER);
                assert_int_equal(agent_outcome(lone->agent, incarnation, first + 1, &result),
                                 OUTCOME_APPLIED);
                assert_int_equal(agent_outcome(lone->agent, incarnation, first + 2, &result),
                                 OUTCOME_TOO_OLD);
                requests_replaced(lone->agent); /* as the next process would begin */
                lone_run(lone, USEC_PER_SEC);
                lone_set(lone, "/a", "2", &told);
                lone_run(lone, USEC_PER_SEC);
                assert_int_not_equal(requests->incarnation, incarnation);
        }
        lone_free(lone);
}

/* With a full disk nothing of the hall's own may go round and round. */
static void a_full_disk_does_not_spin(void **state) {
        Lone *lone = lone_new();
        Requests *requests = &lone->agent->requests;
        Told lost = {};

        lone_set(lone, "/lost", "1", &lost);
        lone->agent->log_full = true;
        requests_offer(lone->agent);
        requests->offered->state = REQUEST_UNKNOWN;
        simdisk_set_room(lone->disk, simdisk_used(lone->disk));
        lone->agent->full_usec = lone->now;
        lone_run(lone, 50 * USEC_PER_MSEC);
        assert_true(requests->n <= 2);
        assert_int_not_equal(agent_deadline(lone->agent), 0);
        simdisk_set_room(lone->disk, UINT64_MAX);
        lone_free(lone);
}

/* An announcement in our name that is not ours: the old row is over, we begin a new one. */
static void a_replaced_row_is_announced_anew(void **state) {
        Lone *lone = lone_new();
        uint64_t before = lone->agent->requests.incarnation;
        uint8_t nonce[16] = {1};
        Command command = {.kind = COMMAND_ANNOUNCE,
                           .host = lone->agent->host.id,
                           .nonce = BYTES(nonce, sizeof(nonce)),
                           .start = log_state(lone->agent->log)->start,
                           .start_nonce = BYTES(log_state(lone->agent->log)->start_nonce, 16)};
        assert_int_equal(hall_propose_own(lone->agent, &command), 0);
        lone_run(lone, USEC_PER_SEC);
        assert_true(lone->agent->requests.incarnation > before);

        Told told = {};
        lone_set(lone, "/a", "1", &told);
        lone_run(lone, 100 * USEC_PER_MSEC);
        assert_int_equal(told.last.answer, ANSWER_DONE);
        lone_free(lone);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(writes_are_answered),
                cmocka_unit_test(a_window_full_of_unknown_opens),
                cmocka_unit_test(unknown_ones_are_kept),
                cmocka_unit_test(a_full_disk_does_not_spin),
                cmocka_unit_test(a_replaced_row_is_announced_anew),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
