/* A real agent, leader of a cluster of one, hears from a host that says to belong to it: any bytes as
 * letters, and letters of all kinds with fields near what is true. It must not fall over, and must not
 * believe: what it told its callers stays so, and it still takes a write. A start costs more than many
 * letters, so one agent hears some inputs in a row, each on connections of its own.
 *
 * The input: records of u8 how, then: u16 size and bytes of a letter (how & 1), or fields of one. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "place.h"
#include "tests/agent/lone.h"

#define INPUTS_MAX 512 /* of one agent */

static Lone lone;
static unsigned n_inputs;
static uint64_t connection; /* each is new */

static void down(void *userdata, uint64_t host) {
}

static int pass(uint64_t usec) {
        int r = 0;
        for (uint64_t end = lone.now + usec; r == 0 && lone.now < end; lone.now += 10 * USEC_PER_MSEC) {
                r = agent_turn(lone.agent);
                while (r == 0 && agent_step(lone.agent) > 0)
                        ;
        }
        return r;
}

static void end(void) {
        lone.agent = agent_free(lone.agent, false);
        simdisk_kill(lone.disk);
        simdisk_free(lone.disk);
        place_clear();
        n_inputs = 0;
}

static void begin(void) {
        if (lone.agent && ++n_inputs >= INPUTS_MAX)
                end();
        if (lone.agent)
                return;
        place();
        lone = (Lone){.now = USEC_PER_SEC, .disk = simdisk_new(1), .random.state = 7};
        snprintf(lone.directory, sizeof(lone.directory), "%s", place_path);
        AgentOptions options = lone_options(&lone, simdisk_disk(lone.disk));
        options.outside.disconnect = down;
        must(agent_new(&lone.agent, &options) == 0);
        must(pass(100 * USEC_PER_MSEC) == 0 && hall_is_leader(lone.agent));
}

static void hello(void) {
        Agent *agent = lone.agent;
        Letter letter = {.kind = LETTER_HELLO,
                         .hello = {.restore_epoch = agent->tree_status.restore_epoch,
                                   .host = 2,
                                   .start = connection,
                                   .version = WIRE_VERSION}};
        memcpy(letter.hello.cluster, agent->tree_status.cluster, 16);
        Buffer bytes = {};
        agent_up(agent, 2, connection);
        must(wire_letter_encode(&letter, &bytes) == 0);
        agent_letter(agent, 2, connection, BYTES(bytes.data, bytes.size));
        buffer_deinit(&bytes);
}

/* Any fields will do, so long as wire would let them through. */
static void made_up(FuzzReader *in) {
        Agent *agent = lone.agent;
        RaftStatus *raft = &agent->raft_status;
        Letter letter = {.kind = (LetterKind)(2 + fuzz_u8(in) % (LETTER_HEAL - 1))};
        uint64_t a = fuzz_near(in, raft->term), b = fuzz_near(in, raft->last_index), c = fuzz_near(in, 1);
        switch (letter.kind) {
        case LETTER_HELLO:
                return;
        case LETTER_RAFT:
                letter.raft = (RaftMessage){.type = (RaftMessageType)(1 + fuzz_u8(in) % 9),
                                            .from = 2,
                                            .to = agent->host.id,
                                            .term = a,
                                            .log_index = b,
                                            .log_term = fuzz_near(in, raft->last_term),
                                            .commit = fuzz_near(in, raft->commit),
                                            .match = c,
                                            .since = fuzz_near(in, 0),
                                            .life = fuzz_near(in, 1),
                                            .heal = fuzz_near(in, 0),
                                            .refused = a & 1,
                                            .damaged = b & 1};
                break;
        case LETTER_OFFER:
                letter.offer = (LetterOffer){.term = a,
                                             .stream = c,
                                             .previous = fuzz_near(in, 0),
                                             .serial = fuzz_near(in, 1),
                                             .lowest_unresolved = fuzz_near(in, 1),
                                             .command = BYTES(in->data, MIN(in->size, 40u))};
                break;
        case LETTER_OFFER_REFUSED:
                letter.refused = (LetterOfferRefused){.term = a,
                                                      .stream = c,
                                                      .serial = fuzz_near(in, 1),
                                                      .reason = (OfferRefusal)(1 + (b & 3)),
                                                      .leader = fuzz_near(in, 2)};
                break;
        case LETTER_READ:
        case LETTER_READ_REPLY:
                letter.read = (LetterRead){.incarnation = a & 1 ? agent->reads.incarnation : c,
                                           .id = fuzz_near(in, 1),
                                           .refused = a & 2,
                                           .index = b};
                break;
        case LETTER_KEEPALIVE:
        case LETTER_KEEPALIVE_ACK:
                letter.keepalive = (LetterKeepalive){.host = c, .generation = b};
                break;
        case LETTER_PROMOTE:
        case LETTER_PROMOTED:
        case LETTER_FETCH:
                letter.promote = (LetterPromote){.term = a, .index = b};
                break;
        case LETTER_REPORT:
                letter.report = (LetterReport){.index = b, .digest = {(uint8_t)c}};
                break;
        case LETTER_STATUS:
                letter.status =
                        (LetterStatus){.applied = b, .durable = c, .damaged = a & 1, .stranded = a & 2};
                break;
        case LETTER_HEAL:
                letter.heal = (LetterHeal){.term = a, .index = b, .start = c};
                break;
        }
        Buffer bytes = {};
        must(wire_letter_encode(&letter, &bytes) == 0);
        agent_letter(agent, 2, connection, BYTES(bytes.data, bytes.size));
        buffer_deinit(&bytes);
}

static void told(const RequestAnswer *answer, void *userdata) {
        *(Answer *)userdata = answer->answer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FuzzReader in = {data, size};
        begin();
        connection++;
        hello();
        uint64_t revision = agent_revision(lone.agent);
        int r = 0;
        for (unsigned n = 0; r == 0 && in.size > 0 && n < 200; n++) {
                uint8_t how = fuzz_u8(&in);
                if (how & 1) {
                        size_t n_bytes = fuzz_u16(&in);
                        n_bytes = MIN(n_bytes, in.size);
                        agent_letter(lone.agent, 2, connection, BYTES(in.data, n_bytes));
                        in = (FuzzReader){in.data + n_bytes, in.size - n_bytes};
                } else
                        made_up(&in);
                if (how & 2)
                        r = pass(10 * USEC_PER_MSEC);
                if ((how & 60) == 60) {
                        agent_down(lone.agent, 2, connection, PEERS_DOWN_RESET);
                        connection++;
                        hello();
                }
        }
        if (r == 0)
                r = pass(20 * USEC_PER_MSEC);
        if (lone.agent->raft_status.damaged) {
                /* A leader may tell a voter that its disk forgot something; no other end is allowed. */
                must(r == 0 || r == -EUCLEAN);
                end();
                return 0;
        }
        must(r == 0 && agent_revision(lone.agent) >= revision);
        Answer answer = ANSWER_TIMEOUT;
        Command command = {.kind = COMMAND_SET, .path = "/a", .value = BYTES("1", 1)};
        must(agent_request(lone.agent, &command, 5 * USEC_PER_SEC, told, &answer, NULL) == 0);
        for (unsigned i = 0; r == 0 && answer == ANSWER_TIMEOUT && i < 200; i++)
                r = pass(50 * USEC_PER_MSEC);
        must(r == 0 && answer == ANSWER_DONE);
        agent_down(lone.agent, 2, connection, PEERS_DOWN_RESET);
        return 0;
}

void fuzz_seeds(FuzzSeed seed) {
        for (uint8_t kind = 0; kind <= LETTER_HEAL - 2; kind++) {
                char name[16];
                uint8_t bytes[64] = {2, kind, 5, 4, 5, kind, 4, 4, 4, 4, 0};
                snprintf(name, sizeof(name), "kind-%u", kind + 2u);
                bytes[20] = 2;
                bytes[21] = kind;
                memset(bytes + 22, 165, 12);
                seed(name, bytes, 36);
        }
        static const uint8_t raw[] = {3, 4, 0, 8, 1, 18, 0, 63, 2, 0, 8, 2};
        seed("raw", raw, sizeof(raw));
}
