/* Shows that what foreign or broken programs do on the peer port stays theirs: in each test two hosts go on
 * exchanging letters without a break while a thread attacks one of them with blocking sockets and OpenSSL.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <malloc.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>
#include "agent/peers/frame.h"
#include "world.h"

static World w;
static Node *const n1 = w.nodes, *const n2 = w.nodes + 1, *const n4 = w.nodes + 3;

static int setup(void **state) {
        world_open(&w);
        world_connect(&w, 2);
        RUN_UNTIL(&w, 3000, n1->n_up == 1 && n2->n_up == 1);
        return 0;
}

static int teardown(void **state) {
        world_close(&w);
        return 0;
}

/* ---- the attacker's side ---- */

typedef struct Raw {
        int fd;
        SSL_CTX *ctx;
        SSL *ssl;
} Raw;

static int raw_socket(void) {
        struct sockaddr_in to = {.sin_family = AF_INET,
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                 .sin_port = htons(n2->port)};
        struct timeval patience = {.tv_sec = 10};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
        if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
                abort();
        return fd;
}

/* True: the handshake went through, as far as this side can tell. */
static bool raw_open(Raw *raw, const Key *key, int version, const char *protocol) {
        *raw = (Raw){.fd = raw_socket(), .ctx = SSL_CTX_new(TLS_client_method())};
        SSL_CTX_set_max_proto_version(raw->ctx, version);
        if (key) {
                SSL_CTX_use_certificate(raw->ctx, (X509 *)key_certificate(key));
                SSL_CTX_use_PrivateKey(raw->ctx, (EVP_PKEY *)key_pkey(key));
        }
        if (protocol)
                SSL_CTX_set_alpn_protos(raw->ctx, (const unsigned char *)protocol,
                                        (unsigned)strlen(protocol));
        raw->ssl = SSL_new(raw->ctx);
        SSL_set_fd(raw->ssl, raw->fd);
        return SSL_connect(raw->ssl) == 1;
}

static void raw_close(Raw *raw) {
        SSL_free(raw->ssl);
        SSL_CTX_free(raw->ctx);
        close(raw->fd);
}

/* True: the other side closed, or broke off, within the patience. */
static bool raw_is_closed(Raw *raw) {
        char bytes[4096];
        int r;
        while ((r = SSL_read(raw->ssl, bytes, sizeof(bytes))) > 0)
                ;
        int error = SSL_get_error(raw->ssl, r);
        return error != SSL_ERROR_WANT_READ && !(error == SSL_ERROR_SYSCALL && errno == EAGAIN);
}

static bool fd_is_closed(int fd) {
        char bytes[4096];
        ssize_t n;
        while ((n = recv(fd, bytes, sizeof(bytes), 0)) > 0)
                ;
        return n == 0 || errno != EAGAIN;
}

static void raw_frame(Raw *raw, uint8_t type, uint8_t flags, uint32_t stream, const void *data,
                      size_t size) {
        uint8_t frame[64 * 1024] = {(uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size, type, flags};
        for (int i = 0; i < 4; i++)
                frame[5 + i] = (uint8_t)(stream >> (24 - 8 * i));
        memcpy(frame + 9, data, size);
        SSL_write(raw->ssl, frame, (int)size + 9);
}

static void raw_begin(Raw *raw) {
        if (!raw_open(raw, n4->key, TLS1_3_VERSION, "\2h2"))
                abort();
        SSL_write(raw->ssl, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
        raw_frame(raw, 4, 0, 0, "", 0);
}

static size_t header(uint8_t *to, const char *name, const char *value) {
        size_t n = 0;
        to[n++] = 0; /* literal, not indexed */
        to[n++] = (uint8_t)strlen(name);
        memcpy(to + n, name, strlen(name));
        n += strlen(name);
        to[n++] = (uint8_t)strlen(value);
        memcpy(to + n, value, strlen(value));
        return n + strlen(value);
}

static void raw_request(Raw *raw, uint32_t stream, const char *path, const char *type) {
        uint8_t block[1024];
        size_t n = header(block, ":method", "POST");
        n += header(block + n, ":scheme", "https");
        n += header(block + n, ":path", path);
        n += header(block + n, ":authority", "x");
        n += header(block + n, "content-type", type);
        raw_frame(raw, 1, 4, stream, block, n);
}

/* ---- the arena ---- */

typedef struct Attack {
        void (*run)(struct Attack *attack);
        pthread_t thread;
        int done, good; /* atomic */
} Attack;

static void *attack_main(void *userdata) {
        Attack *attack = userdata;
        attack->run(attack);
        __atomic_store_n(&attack->done, 1, __ATOMIC_RELEASE);
        return NULL;
}

static int ring(sd_event_source *source, uint64_t usec, void *userdata) {
        uint8_t number[4];
        static uint32_t n;
        bytes_put_u32(number, ++n);
        int r = peers_send(n1->peers, 2, BYTES(number, 4));
        assert(r == 0);
        r = peers_send(n2->peers, 1, BYTES(number, 4));
        assert(r == 0);
        sd_event_source_set_time_relative(source, 5000);
        sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        return 0;
}

static uint64_t cpu_msec(void) {
        struct timespec now;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
        return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Letters are exchanged every 5 ms; for none may the loop work a second longer on what the attacker sends,
 * or wait ten, and the pair never breaks. */
static void withstand(void (*run)(Attack *attack)) {
        Attack attack = {.run = run};
        sd_event_source *bell = NULL;
        sd_event_add_time_relative(w.event, &bell, CLOCK_MONOTONIC, 1000, 1, ring, NULL);
        pthread_create(&attack.thread, NULL, attack_main, &attack);
        uint64_t end = msec_now() + 60000, last = msec_now(), longest = 0, cpu = cpu_msec(), most = 0;
        unsigned seen = 0;
        while (!__atomic_load_n(&attack.done, __ATOMIC_ACQUIRE) && msec_now() < end) {
                sd_event_run(w.event, 10000);
                if (n1->n_letters != seen) {
                        longest = MAX(longest, msec_now() - last);
                        most = MAX(most, cpu_msec() - cpu);
                        last = msec_now();
                        cpu = cpu_msec();
                        seen = n1->n_letters;
                }
        }
        RUN_UNTIL(&w, 1000, n1->n_letters > 0 && n2->n_letters > 0); /* the attack may be over in no time */
        sd_event_source_disable_unref(bell);
        assert_int_equal(attack.done, 1);
        pthread_join(attack.thread, NULL);
        assert_int_equal(attack.good, 1);
        assert_true(most < 1000 && longest < 10000);
        assert_true(n1->n_letters > 0 && n2->n_letters > 0);
        assert_int_equal(n1->n_down + n2->n_down + n1->n_disorder + n2->n_disorder, 0);
        assert_true(peers_connected(n1->peers, 2) && peers_connected(n2->peers, 1));
}

static void random_bytes(Attack *attack) {
        attack->good = 1;
        for (unsigned i = 0; i < 50; i++) {
                uint8_t bytes[3000];
                int fd = raw_socket();
                for (size_t k = 0; k < sizeof(bytes); k++)
                        bytes[k] = (uint8_t)rand();
                if (i % 2)
                        memcpy(bytes, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                               11); /* looks like TLS */
                send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL);
                attack->good &= fd_is_closed(fd);
                close(fd);
        }
}

static void test_random_bytes(void **state) {
        withstand(random_bytes);
}

static void http1_text(Attack *attack) {
        int fd = raw_socket();
        static const char text[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        send(fd, text, sizeof(text), MSG_NOSIGNAL);
        attack->good = fd_is_closed(fd);
        close(fd);
        Raw raw;
        if (!raw_open(&raw, n4->key, TLS1_3_VERSION, "\2h2"))
                abort();
        SSL_write(raw.ssl, text, sizeof(text));
        attack->good &= raw_is_closed(&raw);
        raw_close(&raw);
}

static void test_http1_text(void **state) {
        n2->verdicts[3] = PEERS_MEMBER;
        withstand(http1_text);
}

/* 300 that connect and say nothing, or half of something: they go after 3 s or when more come. */
static void half_handshakes(Attack *attack) {
        int fds[300];
        for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
                fds[i] = raw_socket();
                send(fds[i], "\x16\x03\x01\x02\x00\x01", i % 7, MSG_NOSIGNAL);
        }
        attack->good = 1;
        for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
                attack->good &= fd_is_closed(fds[i]);
                close(fds[i]);
        }
}

static void test_half_handshakes(void **state) {
        PeersStats stats;
        withstand(half_handshakes);
        peers_stats(n2->peers, &stats);
        assert_true(stats.strangers <= 16);
}

static void without_certificate(Attack *attack) {
        Raw raw;
        raw_open(&raw, NULL, TLS1_3_VERSION, "\2h2");
        attack->good = raw_is_closed(&raw);
        raw_close(&raw);
        attack->good &= !raw_open(&raw, n4->key, TLS1_2_VERSION, "\2h2");
        raw_close(&raw);
        raw_open(&raw, n4->key, TLS1_3_VERSION, NULL);
        attack->good &= raw_is_closed(&raw);
        raw_close(&raw);
        attack->good &= !raw_open(&raw, n4->key, TLS1_3_VERSION, "\x08http/1.1");
        raw_close(&raw);
}

static void test_tls_that_is_not_ours(void **state) {
        withstand(without_certificate);
}

static bool flood(uint8_t type, uint8_t flags, const void *data, size_t size, unsigned n) {
        Raw raw;
        raw_begin(&raw);
        for (unsigned i = 0; i < n; i++)
                raw_frame(&raw, type, flags, 0, data, size);
        bool closed = raw_is_closed(&raw);
        raw_close(&raw);
        return closed;
}

static void floods(Attack *attack) {
        signal(SIGPIPE, SIG_IGN);
        attack->good = flood(6, 0, "12345678", 8, 20000);  /* PING */
        attack->good &= flood(6, 1, "12345678", 8, 20000); /* its ACK */
        attack->good &= flood(4, 0, "", 0, 20000);         /* SETTINGS */
        attack->good &= flood(8, 0, "\0\0\0\1", 4, 20000); /* WINDOW_UPDATE */

        Raw raw;
        raw_begin(&raw); /* rapid reset */
        for (uint32_t i = 0; i < 5000; i++) {
                raw_request(&raw, 1 + 2 * i, "/treaty.v1.Peer/Admin", "application/grpc");
                raw_frame(&raw, 3, 0, 1 + 2 * i, "\0\0\0\10", 4);
        }
        attack->good &= raw_is_closed(&raw);
        raw_close(&raw);

        raw_begin(&raw); /* headers without end */
        static uint8_t block[16000];
        size_t n = 0;
        while (n < 15000)
                n += header(block + n, "x-filler", "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy");
        raw_frame(&raw, 1, 0, 1, block, n);
        for (unsigned i = 0; i < 100; i++)
                raw_frame(&raw, 9, 0, 1, block, n);
        attack->good &= raw_is_closed(&raw);
        raw_close(&raw);
}

static void test_floods(void **state) {
        n2->verdicts[3] = PEERS_MEMBER;
        withstand(floods);
}

static void oversize(Attack *attack) {
        Raw raw;
        static uint8_t large[20000];
        raw_begin(&raw); /* a frame above 16 KiB */
        raw_request(&raw, 1, "/treaty.v1.Peer/Talk", "application/grpc");
        raw_frame(&raw, 0, 0, 1, large, sizeof(large));
        attack->good = raw_is_closed(&raw);
        raw_close(&raw);

        raw_begin(&raw); /* a letter that says it is one byte too long */
        raw_request(&raw, 1, "/treaty.v1.Peer/Talk", "application/grpc");
        frame_head_write(large, LIMIT_LETTER_BYTES + 1);
        raw_frame(&raw, 0, 0, 1, large, 5);
        attack->good &= raw_is_closed(&raw);
        raw_close(&raw);

        raw_begin(&raw); /* a compressed letter */
        raw_request(&raw, 1, "/treaty.v1.Peer/Talk", "application/grpc");
        raw_frame(&raw, 0, 0, 1, "\1\0\0\0\0", 5);
        attack->good &= raw_is_closed(&raw);
        raw_close(&raw);

        raw_begin(&raw); /* not gRPC, and a call that is not: refused, the connection stays */
        raw_request(&raw, 1, "/index.html", "text/html");
        raw_request(&raw, 3, "/treaty.v1.Peer/Talk/../../xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
                    "application/grpc");
        raw_close(&raw);
}

static void test_oversize(void **state) {
        n2->verdicts[3] = PEERS_MEMBER;
        unsigned n_up = n2->n_up;
        Attack attack = {.run = oversize};
        pthread_create(&attack.thread, NULL, attack_main, &attack);
        RUN_UNTIL(&w, 20000, __atomic_load_n(&attack.done, __ATOMIC_ACQUIRE));
        pthread_join(attack.thread, NULL);
        assert_int_equal(attack.good, 1);
        assert_int_equal(n2->n_up, n_up + 3); /* they did get as far as Talk */
        RUN_UNTIL(&w, 1000, n2->n_down == 3);
        assert_true(peers_connected(n2->peers, 1));
        assert_int_equal(n1->n_down, 0);
}

/* A member that talks but never reads: letters for it are refused, memory does not grow. */
static int release;

static void never_reads(Attack *attack) {
        Raw raw;
        int small = 4096;
        raw_begin(&raw);
        setsockopt(raw.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
        raw_request(&raw, 1, "/treaty.v1.Peer/Talk", "application/grpc");
        while (!__atomic_load_n(&release, __ATOMIC_ACQUIRE))
                usleep(10000);
        attack->good = 1;
        raw_close(&raw);
}

static void test_slow_reader(void **state) {
        static uint8_t letter[64 * 1024];
        n2->verdicts[3] = PEERS_MEMBER;
        release = 0;
        Attack attack = {.run = never_reads};
        pthread_create(&attack.thread, NULL, attack_main, &attack);
        RUN_UNTIL(&w, 5000, peers_connected(n2->peers, 4));
        struct mallinfo2 before = mallinfo2();
        size_t taken = 0, refused = 0;
        for (unsigned i = 0; i < 2000; i++) {
                int r = peers_send(n2->peers, 4, BYTES(letter, sizeof(letter)));
                assert_true(r == 0 || r == -ENOBUFS);
                taken += r == 0 ? sizeof(letter) : 0;
                refused += r == -ENOBUFS;
                if (i % 100 == 0)
                        RUN_FOR(&w, 5);
        }
        struct mallinfo2 after = mallinfo2();
        assert_true(refused > 1000);
        assert_in_range(taken, 8 * 1024 * 1024, 32 * 1024 * 1024);
        assert_true(after.uordblks + after.hblkhd < before.uordblks + before.hblkhd + 48 * 1024 * 1024);
        assert_true(peers_connected(n2->peers, 4) && peers_connected(n2->peers, 1));
        __atomic_store_n(&release, 1, __ATOMIC_RELEASE);
        RUN_UNTIL(&w, 5000, n2->n_down == 1);
        pthread_join(attack.thread, NULL);
        RUN_FOR(&w, 10);
        after = mallinfo2();
        assert_true(after.uordblks + after.hblkhd < before.uordblks + before.hblkhd + 1024 * 1024);
}

static void second_call(Attack *attack) {
        Raw raw;
        raw_begin(&raw);
        static uint8_t body[16384] = {0, 0, 0, 0xff, 0xff};
        raw_request(&raw, 1, "/treaty.v1.Peer/Join", "application/grpc");
        body[2] = 1; /* a body of 64 KiB + 65535 */
        raw_frame(&raw, 0, 0, 1, body, sizeof(body));
        raw_request(&raw, 3, "/treaty.v1.Peer/Join", "application/grpc");
        attack->good = raw_is_closed(&raw);
        raw_close(&raw);
}

static void test_stranger_bounds(void **state) {
        withstand(second_call);
        assert_int_equal(n2->n_called, 0);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
        signal(SIGPIPE, SIG_IGN);
        const struct CMUnitTest tests[] = {
                test(test_random_bytes), test(test_http1_text),           test(test_half_handshakes),
                test(test_floods),       test(test_tls_that_is_not_ours), test(test_oversize),
                test(test_slow_reader),  test(test_stranger_bounds),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
