/* What the leader knows of a peer: how far it jumps back, what it takes for lost, and what is too late to
 * count. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "agent/raft/internal.h"

static void fill(LogView *log, const uint64_t *terms, size_t n) {
        assert_int_equal(logview_reset(log, 0, 0, &(Conf){.n_voters = 1, .voters = {{.id = 1}}}, 0), 0);
        for (size_t i = 0; i < n; i++) {
                _cleanup_(entry_unrefp) Entry *entry = entry_new(ENTRY_COMMAND, i + 1, terms[i], NULL, 0);
                assert_int_equal(logview_append(log, entry, true), 0);
        }
}

static uint64_t hinted(const LogView *log, uint64_t next, uint64_t match, uint64_t hint, uint64_t term) {
        Peer peer = {.state = PEER_PROBE, .next = next, .match = match, .paused = true};
        RaftMessage m = {.log_index = next - 1, .hint_index = hint, .hint_term = term, .refused = true};
        peer_refused(&peer, log, &m);
        return peer.next;
}

static void test_hints(void **state) {
        LogView log = {};
        fill(&log, (uint64_t[]){1, 1, 1, 4, 4, 5, 5, 6, 6, 6}, 10);
        assert_int_equal(hinted(&log, 11, 0, 5, 0), 5);   /* the peer's log is short */
        assert_int_equal(hinted(&log, 11, 0, 4, 4), 6);   /* behind our last entry of that term */
        assert_int_equal(hinted(&log, 11, 0, 7, 3), 7);   /* a term we do not have */
        assert_int_equal(hinted(&log, 6, 0, 4, 6), 4);    /* one that is newer than ours there */
        assert_int_equal(hinted(&log, 11, 8, 2, 0), 9);   /* never at or below what it acknowledged */
        assert_int_equal(hinted(&log, 11, 0, 99, 0), 10); /* always back */
        logview_deinit(&log);
}

static void test_late_refusals(void **state) {
        LogView log = {};
        fill(&log, (uint64_t[]){1, 1, 1, 1}, 4);
        Peer peer = {.state = PEER_REPLICATE, .next = 5, .match = 3};
        RaftMessage m = {.log_index = 2, .hint_index = 1, .refused = true};
        peer_refused(&peer, &log, &m);
        assert_int_equal(peer.state, PEER_REPLICATE);
        assert_int_equal(peer.match, 3);
        assert_int_equal(peer.next, 5);
        logview_deinit(&log);
}

static void test_window(void **state) {
        Peer peer = {.state = PEER_REPLICATE, .next = 1};
        uint64_t index = 0;
        while (!peer_window_is_full(&peer))
                peer_sent(&peer, ++index, 10, 0);
        assert_int_equal(index, LIMIT_INFLIGHT_APPENDS);
        assert_true(peer_acknowledged(&peer, 2, 0, 0));
        assert_int_equal(peer.n_inflight, LIMIT_INFLIGHT_APPENDS - 2);
        assert_false(peer_acknowledged(&peer, 1, 0, 0)); /* never back */
        assert_int_equal(peer.match, 2);
        assert_true(peer_acknowledged(&peer, index, 0, 0));
        peer_sent(&peer, ++index, LIMIT_INFLIGHT_BYTES, 0);
        assert_true(peer_window_is_full(&peer));
}

static void test_beats_tell_of_loss(void **state) {
        Peer peer = {.state = PEER_REPLICATE, .next = 1};
        peer_sent(&peer, 9, 1, 0);
        peer.watch_beat = 5;
        peer.watch_last = 9;
        peer_answered_beat(&peer, &(RaftMessage){.beat = 4, .match = 3}, 0, 100);
        assert_int_equal(peer.state, PEER_REPLICATE); /* an answer from before */
        peer_answered_beat(&peer, &(RaftMessage){.beat = 5, .match = 3}, 0, 100);
        assert_int_equal(peer.state, PEER_PROBE);
        assert_int_equal(peer.next, 4);

        peer.paused = true;
        peer.probe_beat = 6;
        peer_answered_beat(&peer, &(RaftMessage){.beat = 6, .match = 3}, 0, 100);
        assert_true(peer.paused);
        peer_answered_beat(&peer, &(RaftMessage){.beat = 7, .match = 3}, 0, 100);
        assert_false(peer.paused);
        assert_true(peer.empty_probe);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_hints),
                cmocka_unit_test(test_late_refusals),
                cmocka_unit_test(test_window),
                cmocka_unit_test(test_beats_tell_of_loss),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
