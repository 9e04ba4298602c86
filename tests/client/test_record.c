/* Records of a watch: what is whole is read as it was written, what is cut is waited for, and what lies
 * about itself is refused before anybody believes it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "agent/base/limits.h"
#include "client/record.h"

typedef struct Sample {
        uint8_t bytes[4096];
        size_t size;
} Sample;

/* A record as the agent draws it. */
static Sample sample(uint8_t kind, uint8_t flags, uint64_t revision, const char *path, const char *value,
                     const char *previous) {
        Sample s = {.size = RECORD_HEADER_BYTES + strlen(path) + strlen(value) + strlen(previous)};
        uint8_t *p = s.bytes;

        bytes_put_u32(p, (uint32_t)s.size);
        p[4] = kind;
        p[5] = flags;
        p[6] = (uint8_t)strlen(path);
        p[7] = (uint8_t)(strlen(path) >> 8);
        bytes_put_u64(p + 8, revision);
        bytes_put_u64(p + 16, 7);
        bytes_put_u64(p + 24, 3);
        bytes_put_u32(p + 32, (uint32_t)strlen(value));
        bytes_put_u32(p + 36, (uint32_t)strlen(previous));
        p += RECORD_HEADER_BYTES;
        memcpy(p, path, strlen(path));
        memcpy(p + strlen(path), value, strlen(value));
        memcpy(p + strlen(path) + strlen(value), previous, strlen(previous));
        return s;
}

static RecordVerdict parse(const Sample *s, Record *ret, size_t *ret_size) {
        return record_parse(BYTES(s->bytes, s->size), ret, ret_size);
}

static void test_whole(void **state) {
        Sample s = sample(RECORD_PUT, RECORD_LAST | RECORD_HAD_PREVIOUS, 42, "/config/web", "new", "older");
        Record record;
        size_t size;

        assert_int_equal(parse(&s, &record, &size), RECORD_OK);
        assert_int_equal(size, s.size);
        assert_int_equal(record.kind, RECORD_PUT);
        assert_true(record.last);
        assert_true(record.had_previous);
        assert_int_equal(record.revision, 42);
        assert_int_equal(record.create_revision, 7);
        assert_int_equal(record.version, 3);
        assert_int_equal(record.path.size, strlen("/config/web"));
        assert_memory_equal(record.path.data, "/config/web", record.path.size);
        assert_int_equal(record.value.size, 3);
        assert_memory_equal(record.value.data, "new", 3);
        assert_int_equal(record.previous.size, 5);
        assert_memory_equal(record.previous.data, "older", 5);
}

/* Every prefix asks for more, never for more than the whole, and never looks behind its end (valgrind and
 * the sanitizers see that: each prefix is in a block of its own). */
static void test_every_prefix_waits(void **state) {
        Sample s = sample(RECORD_DELETE, 0, 9, "/a", "", "was");
        Record record;

        for (size_t n = 0; n < s.size; n++) {
                uint8_t *copy = malloc(n > 0 ? n : 1);
                size_t wanted;
                assert_non_null(copy);
                memcpy(copy, s.bytes, n);
                assert_int_equal(record_parse(BYTES(copy, n), &record, &wanted), RECORD_SHORT);
                assert_true(wanted > n);
                assert_true(wanted <= s.size);
                assert_int_equal(wanted, n < RECORD_HEADER_BYTES ? RECORD_HEADER_BYTES : s.size);
                free(copy);
        }
}

static void test_what_follows_is_left(void **state) {
        Sample s = sample(RECORD_MARK, 0, 5, "", "", "");
        Record record;
        size_t size;

        s.size += 100;
        assert_int_equal(parse(&s, &record, &size), RECORD_OK);
        assert_int_equal(size, RECORD_HEADER_BYTES);
}

static void test_sizes_that_disagree(void **state) {
        static const uint32_t sizes[] = {0,
                                         1,
                                         RECORD_HEADER_BYTES - 1,
                                         43,
                                         45,
                                         RECORD_BYTES_MAX,
                                         RECORD_BYTES_MAX + 1,
                                         INT32_MAX,
                                         UINT32_MAX};
        Record record;
        size_t size;

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                Sample s = sample(RECORD_PUT, 0, 5, "/a", "bb", "");
                bytes_put_u32(s.bytes, sizes[i]);
                assert_int_equal(parse(&s, &record, &size), RECORD_BAD_SIZE);
        }
}

/* All sizes agree, but are larger than anything may be: refused when only the header is there. */
static void test_sizes_above_the_limits(void **state) {
        Record record;
        size_t size;
        Sample s;

        s = sample(RECORD_PUT, 0, 5, "/a", "", "");
        s.size = RECORD_HEADER_BYTES;
        bytes_put_u32(s.bytes, RECORD_HEADER_BYTES + 2 + LIMIT_VALUE_BYTES + 1);
        bytes_put_u32(s.bytes + 32, LIMIT_VALUE_BYTES + 1);
        assert_int_equal(parse(&s, &record, &size), RECORD_BAD_SIZE);

        bytes_put_u32(s.bytes, RECORD_HEADER_BYTES + 2 + LIMIT_VALUE_BYTES);
        bytes_put_u32(s.bytes + 32, LIMIT_VALUE_BYTES);
        assert_int_equal(parse(&s, &record, &size), RECORD_SHORT);
        assert_int_equal(size, RECORD_HEADER_BYTES + 2 + LIMIT_VALUE_BYTES);

        /* Sums that wrap around in 32 bits. */
        s = sample(RECORD_PUT, 0, 5, "", "", "");
        bytes_put_u32(s.bytes + 32, 0x80000000u);
        bytes_put_u32(s.bytes + 36, 0x80000000u);
        assert_int_equal(parse(&s, &record, &size), RECORD_BAD_SIZE);

        s = sample(RECORD_PUT, 0, 5, "", "", "");
        s.bytes[6] = 0x01;
        s.bytes[7] = 0x04; /* a path of 1025 bytes */
        bytes_put_u32(s.bytes, RECORD_HEADER_BYTES + 1025);
        assert_int_equal(parse(&s, &record, &size), RECORD_BAD_SIZE);
}

static void test_kinds(void **state) {
        Record record;
        size_t size;

        for (unsigned kind = 0; kind < 256; kind++) {
                Sample s = sample((uint8_t)kind, 0, 5, "/a", "", "");
                RecordVerdict expected = kind >= 1 && kind <= 5 ? RECORD_OK : RECORD_BAD_KIND;
                assert_int_equal(parse(&s, &record, &size), expected);
        }
}

/* A newer agent may say more with flags; that is no reason to stop. */
static void test_unknown_flags_are_ignored(void **state) {
        Sample s = sample(RECORD_PUT, 0xfc, 5, "/a", "", "");
        Record record;
        size_t size;

        assert_int_equal(parse(&s, &record, &size), RECORD_OK);
        assert_false(record.last);
        assert_false(record.had_previous);
}

static void test_paths(void **state) {
        static const char *const bad[] = {"", "a", "/a/", "//", "/a/../b", "/a\nb", "/\xff"};
        Record record;
        size_t size;

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                Sample s = sample(RECORD_PUT, 0, 5, bad[i], "v", "");
                assert_int_equal(parse(&s, &record, &size), RECORD_BAD_PATH);
        }
        Sample nul = sample(RECORD_PUT, 0, 5, "/ab", "v", "");
        nul.bytes[RECORD_HEADER_BYTES + 1] = 0;
        assert_int_equal(parse(&nul, &record, &size), RECORD_BAD_PATH);
}

static void test_revisions(void **state) {
        Record record;
        size_t size;
        Sample s;

        s = sample(RECORD_PUT, 0, 0, "/a", "", "");
        assert_int_equal(parse(&s, &record, &size), RECORD_BAD_REVISION);
        s = sample(RECORD_PUT, 0, UINT64_MAX, "/a", "", "");
        assert_int_equal(parse(&s, &record, &size), RECORD_BAD_REVISION);
        s = sample(RECORD_COMPACTED, 0, UINT64_MAX, "", "", "");
        assert_int_equal(parse(&s, &record, &size), RECORD_BAD_REVISION);
        s = sample(RECORD_MARK, 0, 0, "", "", "");
        assert_int_equal(parse(&s, &record, &size), RECORD_OK);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_whole),
                cmocka_unit_test(test_every_prefix_waits),
                cmocka_unit_test(test_what_follows_is_left),
                cmocka_unit_test(test_sizes_that_disagree),
                cmocka_unit_test(test_sizes_above_the_limits),
                cmocka_unit_test(test_kinds),
                cmocka_unit_test(test_unknown_flags_are_ignored),
                cmocka_unit_test(test_paths),
                cmocka_unit_test(test_revisions),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
