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
                           .nonce = BYTES(nonce, sizeof(nonce))};
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
                cmocka_unit_test(a_full_disk_does_not_spin),
                cmocka_unit_test(a_replaced_row_is_announced_anew),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
