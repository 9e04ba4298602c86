/* What a peer may send below the letters: a token's text, gRPC's frames in pieces, a certificate, a TLS
 * handshake, and HTTP/2 behind one. The first byte chooses. */
#include "place.h"

#include <errno.h>
#include <openssl/x509.h>
#include <sys/eventfd.h>
#include "agent/peers/inside.h"

static Key *key;
static TlsContext context;
static sd_event *event;
static Peers *peers;

static PeersVerdict judge(void *userdata, const uint8_t *their_key, uint64_t *ret_host) {
        *ret_host = 2;
        return PEERS_MEMBER;
}

static void up(void *userdata, uint64_t host, uint64_t connection) {
}

static void down(void *userdata, uint64_t host, uint64_t connection, PeersDown why) {
}

static void unreachable(void *userdata, uint64_t host, PeersDown why) {
}

static void letter(void *userdata, uint64_t host, uint64_t connection, Bytes bytes) {
        must(bytes.size <= LIMIT_LETTER_BYTES);
        fuzz_touch(bytes.data, bytes.size);
}

static void called(void *userdata, PeersCall *call, uint64_t host, const uint8_t *their_key,
                   const char *method, Bytes request) {
        fuzz_touch(method, strlen(method));
        fuzz_touch(request.data, request.size);
        peers_call_end(call, PEERS_UNIMPLEMENTED, "no");
}

static void begin(void) {
        must(key_load_or_create(&key, place()) == 0);
        must(tls_context_init(&context, key) == 0 && sd_event_new(&event) >= 0);
        PeersOptions options = {.event = event,
                                .key = key,
                                .host = 1,
                                .events = {.judge = judge,
                                           .up = up,
                                           .down = down,
                                           .unreachable = unreachable,
                                           .letter = letter,
                                           .called = called}};
        must(peers_new(&peers, &options) == 0);
}

static void poke_token(FuzzReader in) {
        char text[2 * TOKEN_TEXT_BYTES], again[TOKEN_TEXT_BYTES];
        TokenText token;
        snprintf(text, sizeof(text), "%.*s", (int)(in.size < sizeof(text) ? in.size : sizeof(text) - 1),
                 (const char *)in.data);
        int r = token_text_read(text, &token);
        must(r == 0 || r == -EBADMSG);
        if (r == 0)
                must(token_text_write(&token, again) == 0 && strcmp(text, again) == 0);
}

/* In pieces of the sizes that the input says. */
static void poke_frames(FuzzReader in) {
        FrameReader reader = {.limit = 1000};
        int r = 0;
        while (r >= 0 && in.size > 0) {
                size_t n = fuzz_u8(&in) & 63;
                n = n < in.size ? n : in.size;
                Bytes input = BYTES(in.data, n), message;
                in = (FuzzReader){in.data + n, in.size - n};
                while ((r = frame_read(&reader, &input, &message)) == 1) {
                        must(message.size <= reader.limit);
                        fuzz_touch(message.data, message.size);
                }
        }
        must(r == 0 || r == -EBADMSG || r == -EMSGSIZE);
        frame_reader_deinit(&reader);
}

static void poke_certificate(FuzzReader in) {
        const uint8_t *at = in.data;
        uint8_t hash[KEY_HASH_BYTES];
        X509 *x = d2i_X509(NULL, &at, (long)in.size);
        if (x) {
                must(key_hash_of(x, hash) <= 0);
                X509_free(x);
        }
}

static void poke_tls(FuzzReader in, bool server) {
        Tls tls;
        uint8_t hash[KEY_HASH_BYTES];
        must(tls_init(&tls, &context, server) == 0);
        tls.in = BYTES(in.data, in.size);
        int r = tls_handshake(&tls);
        must(r == 0 || r == -EPROTO); /* nobody guesses a handshake */
        must(tls_peer_key(&tls, hash) <= 0);
        tls_deinit(&tls);
}

/* A connection whose handshake is done; there is no socket behind it. */
static void poke_http2(FuzzReader in, bool server, bool talk) {
        Connection *c = calloc(1, sizeof(Connection));
        must(c);
        *c = (Connection){.peers = peers,
                          .number = ++peers->next_number,
                          .state = CONNECTION_OPEN,
                          .server = server,
                          .opened = true,
                          .verdict = PEERS_MEMBER,
                          .host = 2,
                          .fd = eventfd(0, EFD_CLOEXEC)};
        must(tls_init(&c->tls, &peers->tls, server) == 0);
        TAILQ_INSERT_TAIL(&peers->connections, c, entry);
        peers->n_connections++;
        peers_enter(peers);
        must(http2_open(c) == 0);
        if (talk && !server) {
                PeersCall *call = call_new(peers, CALL_ASKING);
                must(call);
                snprintf(call->method, sizeof(call->method), "Follow");
                call->host = 2;
                must(http2_request(c, call) == 0);
        }
        int r = 0;
        while (r == 0 && in.size > 0 && connection_lives(c)) {
                size_t n = fuzz_u16(&in);
                n = n < in.size ? n : in.size;
                r = http2_feed(c, in.data, n);
                const uint8_t *out;
                for (ssize_t pulled = 1; r == 0 && pulled > 0 && connection_lives(c);)
                        pulled = http2_pull(c, &out);
                in = (FuzzReader){in.data + n, in.size - n};
        }
        connection_kill(c, PEERS_DOWN_RESET);
        peers_leave(peers);
        for (unsigned i = 0; i < 20 && sd_event_run(event, 0) > 0; i++)
                ;
        must(TAILQ_EMPTY(&peers->connections));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FuzzReader in = {data, size};
        if (!key)
                begin();
        uint8_t what = fuzz_u8(&in);
        switch (what % 8) {
        case 0:
                poke_token(in);
                break;
        case 1:
                poke_frames(in);
                break;
        case 2:
                poke_certificate(in);
                break;
        case 3:
        case 4:
                poke_tls(in, what % 8 == 3);
                break;
        default:
                poke_http2(in, what % 8 == 5, what % 8 == 7);
        }
        return 0;
}

/* ---- Seeds ---- */

static void seed_tls(FuzzSeed seed) {
        Tls client, server;
        uint8_t what = 3;
        Buffer out = {};
        must(tls_init(&client, &context, false) == 0 && tls_init(&server, &context, true) == 0);
        must(tls_handshake(&client) == 0);
        must(buffer_append(&out, &what, 1) == 0 &&
             buffer_append(&out, queue_data(&client.out), queue_size(&client.out)) == 0);
        seed("tls-hello", out.data, out.size);
        server.in = BYTES(queue_data(&client.out), queue_size(&client.out));
        must(tls_handshake(&server) == 0);
        out.size = 0;
        what = 4;
        must(buffer_append(&out, &what, 1) == 0 &&
             buffer_append(&out, queue_data(&server.out), queue_size(&server.out)) == 0);
        seed("tls-server", out.data, out.size);
        tls_deinit(&client);
        tls_deinit(&server);
        buffer_deinit(&out);
}

static void seed_certificate(FuzzSeed seed) {
        uint8_t bytes[2048] = {2}, *to = bytes + 1;
        int n = i2d_X509(key_certificate(key), &to);
        must(n > 0 && (size_t)n < sizeof(bytes));
        seed("certificate", bytes, (size_t)n + 1);
}

void fuzz_seeds(FuzzSeed seed) {
        begin();
        TokenText token = {.id = {1},
                           .secret = {2},
                           .cluster = {3},
                           .class = MEMBER_FULL,
                           .n_addresses = 2,
                           .n_keys = 1};
        char text[TOKEN_TEXT_BYTES + 1] = {8};
        snprintf(token.addresses[0], sizeof(token.addresses[0]), "10.0.0.1:7707");
        snprintf(token.addresses[1], sizeof(token.addresses[1]), "[fd00::1]:7707");
        must(token_text_write(&token, text + 1) == 0);
        seed("token", text, strlen(text));
        static const uint8_t frames[] = {1, 9, 0, 0, 0, 0, 3, 'a', 'b', 'c', 0, 3, 0, 0, 0, 4, 0, 2, 1, 2};
        seed("frames", frames, sizeof(frames));
        seed_certificate(seed);
        seed_tls(seed);
        /* The client's preface and SETTINGS, then HEADERS of a POST with literal fields, DATA, PING, GOAWAY.
         */
        static const char http2[] =
                "\x05\x5e\x01PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x10"
                "\x00\x00\x2f\x01\x04\x00\x00\x00\x01\x83\x87\x04\x14/treaty.v1.Peer/Talk"
                "\x5f\x10"
                "application/grpc"
                "\x00\x00\x08\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x03"
                "abc"
                "\x00\x00\x08\x06\x00\x00\x00\x00\x00"
                "12345678"
                "\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08"
                "\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00";
        seed("http2-server", http2, sizeof(http2) - 1);
        static const char answer[] = "\x07\x40\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00"
                                     "\x00\x00\x13\x01\x04\x00\x00\x00\x01\x88\x5f\x10"
                                     "application/grpc"
                                     "\x00\x00\x08\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x03"
                                     "abc"
                                     "\x00\x00\x0f\x01\x05\x00\x00\x00\x01\x40\x0bgrpc-status\x01"
                                     "0";
        seed("http2-client", answer, sizeof(answer) - 1);
}
