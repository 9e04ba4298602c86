/* Shows that every kind survives the way out and back bit by bit, that what must be refused is, and that no
 * truncation and no mutation of valid bytes gets through in a shape that others may not rely on (poke.h).
 * With
 * --corpus DIR it writes its samples as seeds for the fuzz targets instead. */
#include "poke.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "agent/base/random.h"
#include "agent/wire/arena.h"

/* A copy that ends where the heap block ends, so that a sanitizer sees any step beyond. */
static int poke_copy(Poke poke, const uint8_t *data, size_t size) {
        uint8_t *copy = malloc(size);
        if (size > 0)
                memcpy(copy, data, size);
        int r = poke(BYTES(copy, size));
        free(copy);
        return r;
}

static void test_samples_are_valid(void **state) {
        Sample *samples;
        size_t n = samples_make(&samples);
        for (size_t i = 0; i < n; i++)
                if (samples[i].poke(BYTES(samples[i].bytes.data, samples[i].bytes.size)) != 0)
                        fail_msg("%s refused", samples[i].name);
        samples_free(samples, n);
}

static void test_command_round_trip(void **state) {
        Member member = {
                .id = 7, .class = MEMBER_FULL, .name = "h1", .n_addresses = 2, .n_keys = 2, .version = 3};
        Token token = {.class = MEMBER_LEAF, .uses_left = 2, .expires_cluster_usec = 5};
        uint8_t signature[SIGNATURE_BYTES];
        Buffer buffer = {}, twice = {};
        WireCommand got;

        strcpy(member.addresses[0], "10.0.0.1:7707");
        strcpy(member.addresses[1], "[::1]:7707");
        memset(member.keys, 0xab, sizeof(member.keys[0]) * 2);
        memset(token.id, 1, sizeof(token.id));
        memset(signature, 0x77, sizeof(signature));
        Command command = {.kind = COMMAND_ADD_MEMBER,
                           .host = 1,
                           .incarnation = 2,
                           .serial = 4,
                           .lowest_unresolved = 3,
                           .keep = BYTES("\1\0\3\0", 4),
                           .member = &member,
                           .token = &token,
                           .signature = BYTES(signature, sizeof(signature))};
        assert_int_equal(wire_command_encode(&command, &buffer), 0);
        assert_int_equal(wire_command_decode(BYTES(buffer.data, buffer.size), &got), 0);
        assert_memory_equal(&got.member, &member, sizeof(member));
        assert_memory_equal(&got.token, &token, sizeof(token));
        assert_ptr_equal(got.command.member, &got.member);
        assert_int_equal(got.command.host, 1);
        assert_int_equal(got.command.incarnation, 2);
        assert_int_equal(got.command.serial, 4);
        assert_int_equal(got.command.lowest_unresolved, 3);
        assert_int_equal(got.command.keep.size, 4);
        assert_memory_equal(got.command.keep.data, "\1\0\3\0", 4);
        assert_memory_equal(got.command.signature.data, signature, sizeof(signature));
        assert_null(got.command.path);
        assert_int_equal(wire_command_encode(&got.command, &twice), 0);
        assert_int_equal(twice.size, buffer.size);
        assert_memory_equal(twice.data, buffer.data, buffer.size);
        wire_command_done(&got);
        buffer_deinit(&buffer);
        buffer_deinit(&twice);
}

static void test_set_round_trip(void **state) {
        Buffer buffer = {};
        WireCommand got;
        Command command = {.kind = COMMAND_SET,
                           .flags = COMMAND_EPHEMERAL | COMMAND_IF_MOD_REVISION,
                           .host = UINT64_MAX,
                           .path = "/config/web/port",
                           .value = BYTES("80\0 80", 6),
                           .revision = 12,
                           .generation = 3,
                           .owner_tag = "unit:web"};
        assert_int_equal(wire_command_encode(&command, &buffer), 0);
        assert_int_equal(wire_command_decode(BYTES(buffer.data, buffer.size), &got), 0);
        assert_string_equal(got.command.path, "/config/web/port");
        assert_int_equal(got.command.value.size, 6);
        assert_memory_equal(got.command.value.data, "80\0 80", 6);
        assert_int_equal(got.command.flags, command.flags);
        assert_int_equal(got.command.revision, 12);
        assert_int_equal(got.command.generation, 3);
        assert_string_equal(got.command.owner_tag, "unit:web");
        assert_null(got.command.member);
        wire_command_done(&got);
        buffer_deinit(&buffer);
}

static void test_append_round_trip(void **state) {
        Entry *entries[] = {entry_new(ENTRY_NOOP, 8, 4, NULL, 0), entry_new(ENTRY_COMMAND, 9, 5, "abc", 3)};
        Letter letter = {.kind = LETTER_RAFT,
                         .raft = {.type = RAFT_APPEND,
                                  .from = 1,
                                  .to = 2,
                                  .term = 6,
                                  .log_index = 7,
                                  .log_term = 4,
                                  .commit = 5,
                                  .since = 3,
                                  .n_entries = 2,
                                  .entries = entries}};
        Buffer buffer = {};
        WireLetter got;
        assert_int_equal(wire_letter_encode(&letter, &buffer), 0);
        assert_int_equal(wire_letter_decode(BYTES(buffer.data, buffer.size), &got), 0);
        const RaftMessage *raft = &got.letter.raft;
        assert_int_equal(got.letter.kind, LETTER_RAFT);
        assert_int_equal(raft->type, RAFT_APPEND);
        assert_true(raft->from == 1 && raft->to == 2 && raft->term == 6 && raft->log_index == 7);
        assert_true(raft->log_term == 4 && raft->commit == 5 && raft->since == 3 && raft->n_entries == 2);
        assert_int_equal(raft->entries[0]->index, 8);
        assert_int_equal(raft->entries[1]->index, 9);
        assert_int_equal(raft->entries[1]->term, 5);
        assert_int_equal(raft->entries[1]->type, ENTRY_COMMAND);
        assert_memory_equal(raft->entries[1]->data, "abc", 3);
        assert_int_equal(raft->entries[1]->n_refs, 1);
        Entry *kept = entry_ref(raft->entries[1]);
        wire_letter_done(&got);
        assert_int_equal(kept->n_refs, 1);
        entry_unref(kept);
        entry_unref(entries[0]);
        entry_unref(entries[1]);
        buffer_deinit(&buffer);
}

static void test_raft_fields_round_trip(void **state) {
        Letter letter = {.kind = LETTER_RAFT,
                         .raft = {.type = RAFT_APPEND_REPLY,
                                  .from = 1,
                                  .to = 2,
                                  .term = 3,
                                  .beat = UINT64_MAX,
                                  .match = 4,
                                  .hint_index = 5,
                                  .hint_term = 6,
                                  .refused = true,
                                  .force = true}};
        Buffer buffer = {};
        WireLetter got;
        assert_int_equal(wire_letter_encode(&letter, &buffer), 0);
        assert_int_equal(wire_letter_decode(BYTES(buffer.data, buffer.size), &got), 0);
        const RaftMessage *raft = &got.letter.raft;
        assert_true(raft->type == RAFT_APPEND_REPLY && raft->from == 1 && raft->to == 2 && raft->term == 3);
        assert_true(raft->beat == UINT64_MAX && raft->match == 4 && raft->hint_index == 5);
        assert_true(raft->hint_term == 6 && raft->refused && raft->force && !raft->damaged);
        assert_true(raft->log_index == 0 && raft->log_term == 0 && raft->commit == 0 && raft->since == 0);
        assert_true(raft->life == 0 && raft->heal == 0 && raft->n_entries == 0);
        wire_letter_done(&got);
        buffer_deinit(&buffer);
}

/* What the encoder refuses the decoder would: both ask the same judge. */
static void test_unsound_commands_are_not_encoded(void **state) {
        static char long_path[LIMIT_PATH_BYTES + 2] = "/", long_tag[OWNER_TAG_BYTES + 2];
        static uint8_t value[LIMIT_VALUE_BYTES + 1];
        Member nameless = {.id = 1, .class = MEMBER_FULL, .n_keys = 1}, keyless = {.id = 1, .name = "h"};
        Token classless = {};
        memset(long_path + 1, 'p', LIMIT_PATH_BYTES);
        memset(long_tag, 't', OWNER_TAG_BYTES + 1);
        const Command bad[] = {
                {.kind = 0, .host = 1},
                {.kind = COMMAND_CHECK + 1, .host = 1},
                {.kind = COMMAND_EMPTY},
                {.kind = COMMAND_EMPTY, .host = 1, .flags = COMMAND_SUBTREE},
                {.kind = COMMAND_EMPTY, .host = 1, .incarnation = 1},
                {.kind = COMMAND_EMPTY, .host = 1, .incarnation = 1, .serial = 1, .lowest_unresolved = 2},
                {.kind = COMMAND_EMPTY, .host = 1, .incarnation = 1, .serial = 2, .keep = BYTES("\0\0", 2)},
                {.kind = COMMAND_EMPTY, .host = 1, .incarnation = 1, .serial = 2, .keep = BYTES("\2\0", 2)},
                {.kind = COMMAND_EMPTY,
                 .host = 1,
                 .incarnation = 1,
                 .serial = 2,
                 .keep = BYTES("\1\0\1", 3)},
                {.kind = COMMAND_EMPTY, .host = 1, .serial = 2, .keep = BYTES("\1\0", 2)},
                {.kind = COMMAND_ANNOUNCE, .host = 1, .nonce = BYTES(value, 15)},
                {.kind = COMMAND_ANNOUNCE, .host = 1, .nonce = BYTES(value, 16), .start = 1},
                {.kind = COMMAND_ANNOUNCE,
                 .host = 1,
                 .nonce = BYTES(value, 16),
                 .start_nonce = BYTES(value, 16)},
                {.kind = COMMAND_SET, .host = 1},
                {.kind = COMMAND_SET, .host = 1, .path = "/"},
                {.kind = COMMAND_SET, .host = 1, .path = "a"},
                {.kind = COMMAND_SET, .host = 1, .path = "/a/../b"},
                {.kind = COMMAND_SET, .host = 1, .path = "/\xff"},
                {.kind = COMMAND_SET, .host = 1, .path = long_path},
                {.kind = COMMAND_SET, .host = 1, .path = "/a", .value = BYTES(value, sizeof(value))},
                {.kind = COMMAND_SET, .host = 1, .path = "/a", .flags = 1u << 31},
                {.kind = COMMAND_SET, .host = 1, .path = "/a", .flags = COMMAND_EPHEMERAL, .owner_tag = ""},
                {.kind = COMMAND_SET,
                 .host = 1,
                 .path = "/a",
                 .flags = COMMAND_EPHEMERAL,
                 .generation = 1,
                 .owner_tag = long_tag},
                {.kind = COMMAND_DELETE, .host = 1, .path = "/"},
                {.kind = COMMAND_END_SESSION, .host = 1, .subject = 1},
                {.kind = COMMAND_ATTACH, .host = 1},
                {.kind = COMMAND_ATTACH, .host = 1, .lasts_usec = LIMIT_SESSION_USEC + 1},
                {.kind = COMMAND_ADD_TOKEN, .host = 1, .token = &classless},
                {.kind = COMMAND_REMOVE_TOKEN, .host = 1},
                {.kind = COMMAND_ADD_MEMBER, .host = 1, .member = &nameless},
                {.kind = COMMAND_ADD_MEMBER, .host = 1, .member = &keyless},
                {.kind = COMMAND_REMOVE_MEMBER, .host = 1},
                {.kind = COMMAND_PRUNE, .host = 1},
        };
        Buffer buffer = {};
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                if (wire_command_encode(bad + i, &buffer) != -EINVAL)
                        fail_msg("command %zu was encoded", i);
                assert_int_equal(buffer.size, 0);
        }
        buffer_deinit(&buffer);
}

static void test_refused_letters(void **state) {
        static const struct {
                const char *what;
                const char *bytes;
                size_t size;
        } bad[] = {
                {"nothing", "", 0},
                {"unknown kind", "\xf2\x01\x00", 3},
                {"hello without anything", "\x0a\x00", 2},
                {"raft without type", "\x12\x00", 2},
                {"raft to itself", "\x12\x14\x08\x01\x11\1\0\0\0\0\0\0\0\x19\1\0\0\0\0\0\0\0", 22},
                {"beat with entries",
                 "\x12\x1a\x08\x07\x11\1\0\0\0\0\0\0\0\x19\2\0\0\0\0\0\0\0\x7a\4\x08\1\x10\1", 28},
                {"entry of a later term",
                 "\x12\x1c\x08\x05\x11\1\0\0\0\0\0\0\0\x19\2\0\0\0\0\0\0\0\x20\1\x7a\4\x08\2\x10\1", 30},
                {"entry of unknown type",
                 "\x12\x1c\x08\x05\x11\1\0\0\0\0\0\0\0\x19\2\0\0\0\0\0\0\0\x20\1\x7a\4\x08\1\x10\4", 30},
                {"configuration that is none",
                 "\x12\x1c\x08\x05\x11\1\0\0\0\0\0\0\0\x19\2\0\0\0\0\0\0\0\x20\1\x7a\4\x08\1\x10\2", 30},
                {"offer without command", "\x1a\x02\x20\x01", 4},
                {"refusal without reason", "\x22\x00", 2},
                {"keepalive of nobody", "\x3a\x00", 2},
        };
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                if (poke_copy(poke_letter, (const uint8_t *)bad[i].bytes, bad[i].size) != -EBADMSG)
                        fail_msg("got through: %s", bad[i].what);
        /* The same shape with everything in place is taken, so the above were refused for their reason. */
        static const char good[] =
                "\x12\x1c\x08\x05\x11\1\0\0\0\0\0\0\0\x19\2\0\0\0\0\0\0\0\x20\1\x7a\4\x08\1\x10\1";
        assert_int_equal(poke_copy(poke_letter, (const uint8_t *)good, 30), 0);
}

static void test_nul_inside_text_is_refused(void **state) {
        static const uint8_t bytes[] = {8, 3, 0x19, 1, 0, 0, 0, 0, 0, 0, 0, 0x3a, 4, '/', 'a', 0, 'b'};
        assert_int_equal(poke_copy(poke_command, bytes, sizeof(bytes)), -EBADMSG);
}

/* Two bytes on the wire ask for a struct of two hundred: the budget ends that, not the kernel. */
static void test_amplification_is_refused(void **state) {
        static const uint8_t head[] = {0x12, 0xfa, 0xff, 0xff, 0x01}; /* Letter.raft of all the rest */
        size_t size = LIMIT_LETTER_BYTES - 1;
        uint8_t *bytes = malloc(size);
        memcpy(bytes, head, sizeof(head));
        for (size_t i = sizeof(head); i < size; i += 2) {
                bytes[i] = 0x7a; /* Raft.entry, empty */
                bytes[i + 1] = 0;
        }
        assert_int_equal(poke_letter(BYTES(bytes, size)), -EBADMSG);
        for (size_t i = 0; i + 1 < size; i += 2) {
                bytes[i] = 0x12; /* Letter.raft, empty, two million times */
                bytes[i + 1] = 0;
        }
        assert_int_equal(poke_letter(BYTES(bytes, size)), -EBADMSG);
        free(bytes);

        /* The budget itself. */
        Arena *arena = arena_new(1000);
        size_t got = 0;
        while (arena_alloc(arena, 100))
                got += 100;
        assert_int_equal(arena_error(arena), -EBADMSG);
        assert_in_range(got, 200 * 1024, 256 * 1024 + 4000);
        assert_null(arena_alloc(arena, SIZE_MAX - 3));
        arena_free(arena);
}

static void test_every_truncation(void **state) {
        Sample *samples;
        size_t n = samples_make(&samples);
        for (size_t i = 0; i < n; i++) {
                size_t step = samples[i].bytes.size > 64 * 1024 ? 4099
                              : samples[i].bytes.size > 4096    ? 61
                                                                : 1;
                for (size_t size = 0; size < samples[i].bytes.size; size += step)
                        poke_copy(samples[i].poke, samples[i].bytes.data, size);
        }
        samples_free(samples, n);
}

static void mutate(Random *random, uint8_t *data, size_t *size) {
        for (uint64_t n = 1 + random_below(random, 4); n > 0 && *size > 0; n--) {
                size_t at = random_below(random, *size), len = 1 + random_below(random, 8);
                switch (random_below(random, 4)) {
                case 0:
                        data[at] ^= (uint8_t)(1u << random_below(random, 8));
                        break;
                case 1:
                        data[at] = (uint8_t)random_next(random);
                        break;
                case 2: /* cut out */
                        len = MIN(len, *size - at);
                        memmove(data + at, data + at + len, *size - at - len);
                        *size -= len;
                        break;
                default: /* copy over */
                        len = MIN(len, *size - at);
                        memmove(data + at, data + random_below(random, *size - len + 1), len);
                }
        }
}

static void test_mutations(void **state) {
        Sample *samples;
        size_t n = samples_make(&samples), taken = 0, tried = 0;
        Random random = {.state = 1};
        while (tried < 100000) {
                const Sample *sample = samples + random_below(&random, n);
                size_t size = sample->bytes.size;
                if (size > 16 * 1024 && random_below(&random, 100) > 0)
                        continue;
                uint8_t *data = malloc(size);
                memcpy(data, sample->bytes.data, size);
                mutate(&random, data, &size);
                taken += poke_copy(sample->poke, data, size) == 0;
                tried++;
                free(data);
        }
        /* Both must happen, or the test shows nothing. */
        assert_in_range(taken, 1000, 99000);
        samples_free(samples, n);
}

static int corpus_write(const char *directory) {
        Sample *samples;
        size_t n = samples_make(&samples);
        for (size_t i = 0; i < n; i++) {
                if (samples[i].bytes.size > 4096)
                        continue;
                char path[4096];
                snprintf(path, sizeof(path), "%s/%s", directory, samples[i].name);
                FILE *file = fopen(path, "we");
                if (!file ||
                    fwrite(samples[i].bytes.data, 1, samples[i].bytes.size, file) != samples[i].bytes.size)
                        return 1;
                fclose(file);
        }
        samples_free(samples, n);
        return 0;
}

int main(int argc, char **argv) {
        if (argc == 3 && strcmp(argv[1], "--corpus") == 0)
                return corpus_write(argv[2]);
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_samples_are_valid),
                cmocka_unit_test(test_command_round_trip),
                cmocka_unit_test(test_set_round_trip),
                cmocka_unit_test(test_append_round_trip),
                cmocka_unit_test(test_raft_fields_round_trip),
                cmocka_unit_test(test_unsound_commands_are_not_encoded),
                cmocka_unit_test(test_refused_letters),
                cmocka_unit_test(test_nul_inside_text_is_refused),
                cmocka_unit_test(test_amplification_is_refused),
                cmocka_unit_test(test_every_truncation),
                cmocka_unit_test(test_mutations),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
