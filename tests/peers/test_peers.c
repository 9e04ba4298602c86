/* Shows what hosts that behave get from the network: letters in order, calls, refusals that say why, and
 * that every callback may call anything back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <unistd.h>
#include "world.h"

static World w;
static Node *const n1 = w.nodes, *const n2 = w.nodes + 1, *const n3 = w.nodes + 2;

static int setup(void **state) {
        world_open(&w);
        return 0;
}

static int teardown(void **state) {
        world_close(&w);
        return 0;
}

static void connect_pair(void) {
        world_connect(&w, 2);
        RUN_UNTIL(&w, 3000, n1->n_up == 1 && n2->n_up == 1);
        assert_true(peers_connected(n1->peers, 2) && peers_connected(n2->peers, 1));
}

static int send_number(Node *from, uint64_t to, uint32_t number, size_t size) {
        uint8_t *bytes = calloc(1, size);
        if (size >= 4)
                bytes_put_u32(bytes, number);
        int r = peers_send(from->peers, to, BYTES(bytes, size));
        free(bytes);
        return r;
}

static void test_letters_both_ways_in_order(void **state) {
        static const size_t sizes[] = {4, 5, 100, 16383, 16384, 16385, 100000, LIMIT_LETTER_BYTES, 4};
        assert_int_equal(send_number(n1, 2, 1, 4), -ENOTCONN);
        connect_pair();
        uint64_t bytes = 0;
        for (uint32_t i = 0; i < 1000; i++) {
                assert_int_equal(send_number(n1, 2, i + 1, 4 + i % 300), 0);
                assert_int_equal(send_number(n2, 1, i + 1, 4 + i % 300), 0);
                bytes += 4 + i % 300;
        }
        for (uint32_t i = 0; i < ELEMENTSOF(sizes); i++) {
                assert_int_equal(send_number(n1, 2, 1001 + i, sizes[i]), 0);
                bytes += sizes[i];
        }
        assert_int_equal(peers_send(n1->peers, 2, BYTES("", 0)), 0);
        peers_flush(n1->peers); /* and node 2 by itself */
        RUN_UNTIL(&w, 5000, n2->n_letters == 1010 && n1->n_letters == 1000);
        assert_int_equal(n2->bytes, bytes);
        assert_int_equal(n1->n_disorder + n2->n_disorder, 0);
        assert_int_equal(send_number(n1, 2, 1, LIMIT_LETTER_BYTES + 1), -EMSGSIZE);
        PeersStats stats;
        peers_stats(n1->peers, &stats);
        assert_int_equal(stats.letters_in, 1000);
        assert_int_equal(stats.letters_out, 1010);
        assert_true(stats.bytes_out > bytes);
}

static void test_three_hosts(void **state) {
        world_connect(&w, 3);
        RUN_UNTIL(&w, 3000, n1->n_up == 2 && n2->n_up == 2 && n3->n_up == 2);
        assert_int_equal(send_number(n3, 1, 1, 4), 0);
        assert_int_equal(send_number(n3, 2, 1, 4), 0);
        RUN_UNTIL(&w, 2000, n1->n_letters == 1 && n2->n_letters == 1);
}

static void test_reconnects_after_restart(void **state) {
        connect_pair();
        node_stop(n2);
        RUN_UNTIL(&w, 2000, n1->n_down == 1);
        assert_int_equal(n1->why_down, PEERS_DOWN_RESET);
        assert_false(peers_connected(n1->peers, 2));
        RUN_UNTIL(&w, 2000, n1->n_unreachable >= 2);
        assert_int_equal(n1->why_unreachable, PEERS_DOWN_RESET);
        node_start(n2);
        node_name(n2, 1);
        RUN_UNTIL(&w, 5000, n1->n_up == 2 && n2->n_up == 2);
        assert_string_equal(n1->events, "+-+");
}

/* Who comes back dials by itself, and does not wait for the other one's next attempt. */
static void test_returns_by_itself(void **state) {
        connect_pair();
        node_stop(n1);
        RUN_UNTIL(&w, 2000, n2->n_down == 1);
        node_target(n2, 0);
        node_start(n1);
        world_know(&w, 2);
        node_target(n1, 2);
        RUN_UNTIL(&w, 2000, peers_connected(n1->peers, 2) && peers_connected(n2->peers, 1));
        /* The larger id does it, too. */
        node_stop(n2);
        RUN_UNTIL(&w, 2000, n1->n_down == 1);
        node_target(n1, 0);
        node_start(n2);
        node_target(n2, 1);
        RUN_UNTIL(&w, 2000, peers_connected(n1->peers, 2) && peers_connected(n2->peers, 1));
}

/* Both dial in the same moment, as nearly as can be: the larger id waits 300 ms, and so does the test.
 * Whether they cross or not, in the end there is one connection, which stays, and both mean the same one. */
static void test_both_dial(void **state) {
        world_know(&w, 2);
        node_target(n2, 1);
        RUN_FOR(&w, 299);
        node_target(n1, 2);
        RUN_UNTIL(&w, 3000, peers_connected(n1->peers, 2) && peers_connected(n2->peers, 1));
        unsigned n_up = 0;
        for (int i = 0; n_up != n1->n_up + n2->n_up; i++) {
                assert_true(i < 5); /* they replace each other for ever */
                n_up = n1->n_up + n2->n_up;
                RUN_FOR(&w, 1500);
        }
        assert_true(peers_connected(n1->peers, 2) && peers_connected(n2->peers, 1));
        assert_int_equal(send_number(n1, 2, 1, 4), 0);
        assert_int_equal(send_number(n2, 1, 1, 4), 0);
        RUN_UNTIL(&w, 3000, n1->n_letters == 1 && n2->n_letters == 1);
}

static void test_disconnect(void **state) {
        connect_pair();
        peers_disconnect(n2->peers, 1);
        assert_false(peers_connected(n2->peers, 1));
        assert_int_equal(n2->n_down, 0); /* told from the loop, never from within */
        RUN_UNTIL(&w, 3000, n1->n_up == 2 && n2->n_up == 2);
        assert_string_equal(n2->events, "+-+");
}

/* The dialler came back before its old connection was seen to break. */
static void test_newer_replaces_older(void **state) {
        connect_pair();
        Peers *older = n1->peers;
        node_target(n1, 2);
        peers_unlisten(older);
        node_start(n1);
        node_target(n1, 2);
        RUN_UNTIL(&w, 3000, n2->n_up == 2);
        assert_string_equal(n2->events, "+-+");
        assert_int_equal(n2->why_down, PEERS_DOWN_REPLACED);
        peers_free(older);
        RUN_FOR(&w, 100);
        assert_true(peers_connected(n2->peers, 1));
        assert_int_equal(n2->n_down, 1);
}

static void test_wrong_keys_are_refused(void **state) {
        /* The dialler does not know who answers. */
        n2->verdicts[0] = PEERS_MEMBER;
        node_target(n1, 2);
        RUN_UNTIL(&w, 3000, n1->n_unreachable > 0);
        assert_int_equal(n1->why_unreachable, PEERS_DOWN_REFUSED);
        /* The one who answers does not know the dialler. */
        n1->verdicts[1] = PEERS_MEMBER;
        n2->verdicts[0] = PEERS_STRANGER;
        n1->n_unreachable = 0;
        RUN_UNTIL(&w, 6000, n1->n_unreachable > 1);
        assert_int_equal(n1->why_unreachable, PEERS_DOWN_REFUSED);
        assert_int_equal(n1->n_up + n2->n_up, 0);
        /* At the address of host 2 answers host 3. */
        n1->verdicts[2] = PEERS_MEMBER;
        PeersTarget target = {.host = 2, .n_addresses = 1, .addresses = &n3->address, .control = true};
        assert_int_equal(peers_set_targets(n1->peers, &target, 1), 0);
        n1->n_unreachable = 0;
        RUN_UNTIL(&w, 6000, n1->n_unreachable > 1);
        assert_int_equal(n1->why_unreachable, PEERS_DOWN_REFUSED);
}

static void test_removed_host_is_told(void **state) {
        n1->verdicts[1] = PEERS_MEMBER;
        n2->verdicts[0] = PEERS_REMOVED;
        node_target(n1, 2);
        RUN_UNTIL(&w, 3000, n1->n_unreachable > 0);
        assert_int_equal(n1->why_unreachable, PEERS_DOWN_REFUSED);
        assert_int_equal(n2->n_up, 0);
}

static void test_live_connection_is_cut(void **state) {
        connect_pair();
        n2->verdicts[0] = PEERS_REMOVED;
        node_target(n2, 0);
        assert_false(peers_connected(n2->peers, 1));
        assert_int_equal(send_number(n2, 1, 1, 4), -ENOTCONN);
        send_number(n1, 2, 1, 4);
        RUN_UNTIL(&w, 1000, n2->n_down == 1 && n1->n_down == 1);
        assert_int_equal(n2->why_down, PEERS_DOWN_REFUSED);
        assert_int_equal(n1->why_down, PEERS_DOWN_REFUSED);
        assert_int_equal(n2->n_letters, 0);
}

/* The same, cut by the side that dialled. */
static void test_live_connection_is_cut_by_the_dialler(void **state) {
        connect_pair();
        n1->verdicts[1] = PEERS_REMOVED;
        node_target(n1, 0);
        RUN_UNTIL(&w, 1000, n2->n_down == 1 && n1->n_down == 1);
        assert_int_equal(n1->why_down, PEERS_DOWN_REFUSED);
        assert_int_equal(n2->why_down, PEERS_DOWN_REFUSED);
}

static void test_untargeted_is_closed(void **state) {
        connect_pair();
        node_target(n1, 0);
        RUN_UNTIL(&w, 1000, n2->n_down == 1 && n1->n_down == 1);
        RUN_FOR(&w, 200);
        assert_int_equal(n1->n_up, 1);
}

/* ---- calls ---- */

typedef struct Answer {
        unsigned n_messages, n_ends, n_writable;
        uint64_t bytes, sent, most_waiting;
        PeersStatus status;
        char text[128];
        PeersCall *call; /* server side: the open one */
        bool cancel_at_message, close_at_message, close_at_end;
        Node *node;
} Answer;

static void on_message(PeersCall *call, Bytes bytes, void *userdata) {
        Answer *a = userdata;
        a->n_messages++;
        a->bytes += bytes.size;
        if (a->cancel_at_message)
                peers_call_free(call);
        if (a->close_at_message)
                node_stop(a->node);
}

static void on_end(PeersCall *call, PeersStatus status, const char *text, void *userdata) {
        Answer *a = userdata;
        a->n_ends++;
        a->status = status;
        snprintf(a->text, sizeof(a->text), "%s", text);
        if (a->close_at_end)
                node_stop(a->node);
}

static PeersCallEvents answer_events(Answer *a) {
        return (PeersCallEvents){.message = on_message, .end = on_end, .userdata = a};
}

static int call(Node *from, uint64_t to, const char *method, Bytes request, uint64_t timeout, Answer *a) {
        PeersCallEvents events = answer_events(a);
        return peers_call(from->peers, to, method, request, timeout, &events, &a->call);
}

static int call_address(Node *from, const char *address, Node *whose, const char *method, Answer *a) {
        PeersCallEvents events = answer_events(a);
        uint8_t keys[2][KEY_HASH_BYTES] = {{0}};
        memcpy(keys[1], key_hash(whose->key), KEY_HASH_BYTES);
        return peers_call_address(from->peers, address, (const void *)keys, 2, method, BYTES("req", 3),
                                  5 * USEC_PER_SEC, &events, &a->call);
}

static void echo(Node *node, PeersCall *call, const char *method, Bytes request) {
        peers_call_send(call, request);
        peers_call_end(call, PEERS_OK, NULL);
}

static void test_unary(void **state) {
        connect_pair();
        n2->on_called = n1->on_called = echo;
        Answer a = {}, b = {}, large = {};
        static uint8_t request[900 * 1024];
        assert_int_equal(call(n1, 2, "Admin", BYTES("hello", 5), USEC_PER_SEC, &a), 0);
        assert_int_equal(call(n2, 1, "Admin", BYTES("", 0), USEC_PER_SEC, &b), 0); /* the larger id too */
        assert_int_equal(call(n1, 2, "Admin", BYTES(request, sizeof(request)), USEC_INFINITY, &large), 0);
        RUN_UNTIL(&w, 3000, a.n_ends == 1 && b.n_ends == 1 && large.n_ends == 1);
        assert_true(a.status == PEERS_OK && a.n_messages == 1 && a.bytes == 5);
        assert_true(b.status == PEERS_OK && b.n_messages == 1 && b.bytes == 0);
        assert_true(large.status == PEERS_OK && large.bytes == sizeof(request));
        assert_int_equal(n2->caller, 1);
        assert_memory_equal(n2->caller_key, key_hash(n1->key), KEY_HASH_BYTES);
        assert_int_equal(call(n1, 3, "Admin", BYTES("", 0), 1, &a), -ENOENT);
}

/* More calls than one connection takes at a time: all are answered. */
static void test_many_calls(void **state) {
        connect_pair();
        n2->on_called = echo;
        static Answer answers[100];
        memset(answers, 0, sizeof(answers));
        unsigned n = 0;
        for (size_t i = 0; i < ELEMENTSOF(answers); i++)
                assert_int_equal(call(n1, 2, "Follow", BYTES("x", 1), 5 * USEC_PER_SEC, answers + i), 0);
        uint64_t end = msec_now() + 5000;
        do {
                n = 0;
                for (size_t i = 0; i < ELEMENTSOF(answers); i++)
                        n += answers[i].n_ends == 1 && answers[i].status == PEERS_OK;
        } while (n < ELEMENTSOF(answers) && world_run_to(&w, end));
        assert_int_equal(n, ELEMENTSOF(answers));
}

static void refuse(Node *node, PeersCall *call, const char *method, Bytes request) {
        peers_call_end(call, PEERS_NOT_FOUND, "nö: 100% not here");
}

static void test_status_and_text(void **state) {
        connect_pair();
        n2->on_called = refuse;
        Answer a = {};
        assert_int_equal(call(n1, 2, "Snapshot", BYTES("", 0), USEC_PER_SEC, &a), 0);
        RUN_UNTIL(&w, 3000, a.n_ends == 1);
        assert_int_equal(a.status, PEERS_NOT_FOUND);
        assert_string_equal(a.text, "nö: 100% not here");
}

#define STREAM_BYTES (64 * 1024 * 1024)
static Answer stream;

static void stream_send(PeersCall *call, void *userdata) {
        static uint8_t chunk[64 * 1024];
        stream.n_writable++;
        while (stream.sent < STREAM_BYTES) {
                int r = peers_call_send(call, BYTES(chunk, sizeof(chunk)));
                assert_true(r >= 0);
                stream.sent += sizeof(chunk);
                stream.most_waiting = MAX(stream.most_waiting, stream.sent - stream.bytes);
                if (r == 1)
                        return;
        }
        peers_call_end(call, PEERS_OK, "all");
}

static void stream_begin(Node *node, PeersCall *call, const char *method, Bytes request) {
        PeersCallEvents events = {.end = on_end, .writable = stream_send, .userdata = &stream};
        peers_call_set_events(call, &events);
        stream_send(call, NULL);
}

static void test_stream_with_back_pressure(void **state) {
        connect_pair();
        memset(&stream, 0, sizeof(stream));
        n2->on_called = stream_begin;
        PeersCallEvents events = answer_events(&stream);
        assert_int_equal(
                peers_call(n1->peers, 2, "Snapshot", BYTES("", 0), USEC_INFINITY, &events, &stream.call), 0);
        RUN_UNTIL(&w, 20000, stream.n_ends == 1);
        assert_int_equal(stream.status, PEERS_OK);
        assert_int_equal(stream.bytes, STREAM_BYTES);
        /* The queue (1 MiB), the window (1 MiB), what the kernel and the encrypted backlog hold. */
        assert_true(stream.most_waiting < 12 * 1024 * 1024);
        assert_true(stream.n_writable > 10);
}

static Answer held;

static void hold(Node *node, PeersCall *call, const char *method, Bytes request) {
        PeersCallEvents events = {.end = on_end, .userdata = &held};
        held.call = call;
        peers_call_set_events(call, &events);
}

static void hold_without_events(Node *node, PeersCall *call, const char *method, Bytes request) {
        held.call = call;
}

static void test_deadline_cancel_and_break(void **state) {
        connect_pair();
        Answer a = {}, b = {}, c = {};
        memset(&held, 0, sizeof(held));
        n2->on_called = hold;
        assert_int_equal(call(n1, 2, "Admin", BYTES("", 0), 200 * USEC_PER_MSEC, &a), 0);
        RUN_UNTIL(&w, 2000, a.n_ends == 1 && held.n_ends == 1);
        assert_int_equal(a.status, PEERS_DEADLINE);
        assert_int_equal(held.status, PEERS_CANCELLED);

        assert_int_equal(call(n1, 2, "Admin", BYTES("", 0), USEC_INFINITY, &b), 0);
        RUN_UNTIL(&w, 2000, n2->n_called == 2);
        peers_call_free(b.call);
        RUN_UNTIL(&w, 2000, held.n_ends == 2);
        assert_int_equal(b.n_ends, 0);

        n2->on_called = hold_without_events;
        assert_int_equal(call(n1, 2, "Admin", BYTES("", 0), USEC_INFINITY, &c), 0);
        RUN_UNTIL(&w, 2000, n2->n_called == 3);
        node_stop(n1);
        assert_int_equal(c.n_ends, 1);
        RUN_FOR(&w, 100);
        /* Nobody told the holder, so its handle is still good. */
        assert_int_equal(peers_call_send(held.call, BYTES("", 0)), -ENOTCONN);
        peers_call_end(held.call, PEERS_OK, NULL);

        node_start(n1);
        node_target(n1, 2);
        Answer d = {};
        assert_int_equal(call(n1, 2, "Admin", BYTES("", 0), USEC_INFINITY, &d), 0);
        RUN_UNTIL(&w, 2000, n2->n_called == 4);
        node_stop(n2);
        RUN_UNTIL(&w, 2000, d.n_ends == 1);
        assert_int_equal(d.status, PEERS_UNAVAILABLE);
        Answer e = {};
        assert_int_equal(call(n1, 2, "Admin", BYTES("", 0), USEC_INFINITY, &e), 0);
        RUN_UNTIL(&w, 4000, e.n_ends == 1);
        assert_int_equal(e.status, PEERS_UNAVAILABLE);
}

static void test_stranger_may_only_join(void **state) {
        Answer a = {}, b = {}, c = {}, d = {};
        n2->on_called = echo;
        assert_int_equal(call_address(n1, n2->address, n2, "Join", &a), 0);
        RUN_UNTIL(&w, 3000, a.n_ends == 1);
        assert_true(a.status == PEERS_OK && a.bytes == 3);
        assert_int_equal(n2->caller, 0);
        assert_memory_equal(n2->caller_key, key_hash(n1->key), KEY_HASH_BYTES);

        assert_int_equal(call_address(n1, n2->address, n2, "Snapshot", &b), 0);
        RUN_UNTIL(&w, 3000, b.n_ends == 1);
        assert_int_equal(b.status, PEERS_DENIED);
        assert_int_equal(n2->n_called, 1);

        /* Nothing is said to a host whose key was not named. */
        assert_int_equal(call_address(n1, n2->address, n3, "Join", &c), 0);
        RUN_UNTIL(&w, 3000, c.n_ends == 1);
        assert_int_equal(c.status, PEERS_DENIED);
        assert_int_equal(n2->n_called, 1);

        n2->verdicts[0] = PEERS_REMOVED;
        assert_int_equal(call_address(n1, n2->address, n2, "Join", &d), 0);
        RUN_UNTIL(&w, 3000, d.n_ends == 1);
        assert_int_equal(d.status, PEERS_DENIED);
        assert_string_equal(d.text, "removed");
        RUN_UNTIL(&w, 3000, ({
                PeersStats stats;
                peers_stats(n2->peers, &stats);
                stats.connections == 0 && stats.strangers == 0;
        }));
}

static void test_names_are_resolved(void **state) {
        char name[64];
        Answer a = {}, b = {};
        n2->on_called = echo;
        snprintf(name, sizeof(name), "localhost:%u", n2->port);
        assert_int_equal(call_address(n1, name, n2, "Join", &a), 0);
        RUN_UNTIL(&w, 5000, a.n_ends == 1);
        assert_int_equal(a.status, PEERS_OK);
        assert_int_equal(call_address(n1, "no.such.host.invalid:1", n2, "Join", &b), 0);
        RUN_UNTIL(&w, 15000, b.n_ends == 1);
        assert_int_equal(b.status, PEERS_UNAVAILABLE);
        assert_int_equal(peers_listen(n1->peers, "localhost:7707"), -EINVAL);
        assert_int_equal(peers_listen(n1->peers, "127.0.0.1"), -EINVAL);
        /* Cancelled while the thread still asks. */
        assert_int_equal(call_address(n1, name, n2, "Join", &b), 0);
        RUN_FOR(&w, 1);
        peers_call_free(b.call);
}

static void test_listens_everywhere(void **state) {
        char address[64];
        Answer a = {}, b = {};
        n2->on_called = echo;
        peers_unlisten(n2->peers);
        assert_int_equal(call_address(n1, n2->address, n2, "Join", &a), 0);
        RUN_UNTIL(&w, 3000, a.n_ends == 1);
        assert_int_equal(a.status, PEERS_UNAVAILABLE);
        snprintf(address, sizeof(address), ":%u", n2->port);
        assert_int_equal(peers_listen(n2->peers, address), 0);
        a = (Answer){};
        assert_int_equal(call_address(n1, n2->address, n2, "Join", &a), 0);
        RUN_UNTIL(&w, 3000, a.n_ends == 1);
        assert_int_equal(a.status, PEERS_OK);
        if (access("/proc/net/if_inet6", F_OK) < 0)
                return;
        snprintf(address, sizeof(address), "[::1]:%u", n2->port);
        assert_int_equal(call_address(n1, address, n2, "Join", &b), 0);
        RUN_UNTIL(&w, 3000, b.n_ends == 1);
        assert_int_equal(b.status, PEERS_OK);
}

/* ---- callbacks that call back ---- */

static void stop_self_at_letter(Node *node, uint64_t host, Bytes letter) {
        node_stop(node);
}

static void stop_self(Node *node, uint64_t host) {
        node_stop(node);
}

static void test_freed_in_callbacks(void **state) {
        connect_pair();
        n2->on_letter = stop_self_at_letter;
        send_number(n1, 2, 1, 100);
        send_number(n1, 2, 2, 100);
        RUN_UNTIL(&w, 2000, !n2->peers && n1->n_down == 1);
        assert_int_equal(n2->n_letters, 1);

        n2->on_letter = NULL;
        n2->on_up = stop_self;
        node_start(n2);
        RUN_UNTIL(&w, 5000, !n2->peers);
        n2->on_up = NULL;
        node_start(n2);
        RUN_UNTIL(&w, 5000, peers_connected(n1->peers, 2) && peers_connected(n2->peers, 1));
        n1->on_down = stop_self;
        peers_disconnect(n2->peers, 1);
        RUN_UNTIL(&w, 2000, !n1->peers);
        node_start(n1);
        n1->on_down = NULL;

        n2->on_called = echo;
        node_target(n1, 2);
        Answer a = {.close_at_message = true, .node = n1}, b = {.cancel_at_message = true};
        assert_int_equal(call(n1, 2, "Admin", BYTES("", 0), USEC_INFINITY, &b), 0);
        RUN_UNTIL(&w, 2000, b.n_messages == 1);
        assert_int_equal(call(n1, 2, "Admin", BYTES("", 0), USEC_INFINITY, &a), 0);
        RUN_UNTIL(&w, 2000, !n1->peers);
        assert_int_equal(b.n_ends, 0);
        node_start(n1);
        node_target(n1, 2);
        Answer c = {.close_at_end = true, .node = n1};
        assert_int_equal(call(n1, 2, "Admin", BYTES("", 0), USEC_INFINITY, &c), 0);
        RUN_UNTIL(&w, 2000, !n1->peers);
}

static void cut_and_answer(Node *node, uint64_t host, Bytes letter) {
        peers_send(node->peers, host, letter);
        peers_flush(node->peers);
        node->verdicts[host - 1] = PEERS_REMOVED;
        node_target(node, 0);
        peers_disconnect(node->peers, host);
}

static void test_targets_changed_in_callbacks(void **state) {
        connect_pair();
        n2->on_letter = cut_and_answer;
        send_number(n1, 2, 1, 100);
        send_number(n1, 2, 2, 100);
        RUN_UNTIL(&w, 2000, n2->n_down == 1 && n1->n_down == 1);
        assert_int_equal(n2->n_letters, 1);
        assert_int_equal(n1->why_down, PEERS_DOWN_REFUSED);
}

static void test_host_id_after_join(void **state) {
        /* Before it has an id, a host dials nobody. */
        peers_set_host(n1->peers, 0);
        world_connect(&w, 2);
        RUN_FOR(&w, 300);
        assert_int_equal(n1->n_up + n1->n_unreachable, 0);
        peers_set_host(n1->peers, 1);
        RUN_UNTIL(&w, 2000, peers_connected(n1->peers, 2) && peers_connected(n2->peers, 1));
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                test(test_letters_both_ways_in_order),
                test(test_three_hosts),
                test(test_reconnects_after_restart),
                test(test_returns_by_itself),
                test(test_both_dial),
                test(test_disconnect),
                test(test_newer_replaces_older),
                test(test_wrong_keys_are_refused),
                test(test_removed_host_is_told),
                test(test_live_connection_is_cut),
                test(test_live_connection_is_cut_by_the_dialler),
                test(test_untargeted_is_closed),
                test(test_unary),
                test(test_many_calls),
                test(test_status_and_text),
                test(test_stream_with_back_pressure),
                test(test_deadline_cancel_and_break),
                test(test_stranger_may_only_join),
                test(test_names_are_resolved),
                test(test_listens_everywhere),
                test(test_freed_in_callbacks),
                test(test_targets_changed_in_callbacks),
                test(test_host_id_after_join),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
