/* Records of a watch, byte for byte as org.treaty1.Tree.xml draws them, and the ids of requests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include "dbus/error.h"
#include "dbus/record.h"

static size_t flatten(const WatchEvent *event, uint8_t *to) {
        uint8_t header[RECORD_HEADER_BYTES];
        struct iovec iov[4];
        size_t n = 0;

        size_t size = record_write(event, header, iov);
        for (int i = 0; i < 4; i++) {
                memcpy(to + n, iov[i].iov_base ? iov[i].iov_base : "", iov[i].iov_len);
                n += iov[i].iov_len;
        }
        assert_int_equal(n, size);
        return size;
}

static void a_put_is_framed_as_drawn(void **state) {
        const WatchEvent event = {
                .kind = WATCH_PUT,
                .last = true,
                .had_previous = true,
                .path = "/a/b",
                .value = BYTES("new", 3),
                .previous = BYTES("old!", 4),
                .revision = 0x1122334455667788,
                .create_revision = 2,
                .version = 3,
        };
        static const uint8_t expected[] = {
                51,   0,    0,    0,    1,    3,    4,    0,    /* size kind flags path_size */
                0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, /* revision */
                2,    0,    0,    0,    0,    0,    0,    0,    3,   0,   0,
                0,    0,    0,    0,    0,                   /* created, version */
                3,    0,    0,    0,    4,    0,    0,    0, /* value, previous */
                '/',  'a',  '/',  'b',  'n',  'e',  'w',  'o',  'l', 'd', '!',
        };
        uint8_t bytes[128];

        assert_int_equal(flatten(&event, bytes), sizeof(expected));
        assert_memory_equal(bytes, expected, sizeof(expected));
}

static void ends_have_no_path(void **state) {
        const WatchEvent event = {.kind = WATCH_COMPACTED, .revision = 9, .last = true};
        uint8_t bytes[RECORD_HEADER_BYTES];

        assert_int_equal(flatten(&event, bytes), RECORD_HEADER_BYTES);
        assert_int_equal(bytes[4], 4);
        assert_int_equal(bytes_get_u64(bytes + 8), 9);
        assert_int_equal(bytes_get_u32(bytes + 32), 0);
}

static void the_largest_record_stays_below_3_mib(void **state) {
        assert_true(RECORD_BYTES_MAX <= 3 * 1024 * 1024);
}

static void request_ids_come_back(void **state) {
        char id[REQUEST_ID_BYTES];
        uint64_t incarnation, serial;

        assert_string_equal(request_id_write(id, 0x12, 7), "0000000000000012.7");
        assert_int_equal(request_id_parse(id, &incarnation, &serial), 0);
        assert_int_equal(incarnation, 0x12);
        assert_int_equal(serial, 7);
        request_id_write(id, UINT64_MAX, UINT64_MAX);
        assert_int_equal(request_id_parse(id, &incarnation, &serial), 0);
        assert_int_equal(serial, UINT64_MAX);
}

static void malformed_request_ids_are_refused(void **state) {
        static const char *const bad[] = {
                "",
                "7",
                "0000000000000012",
                "0000000000000012.",
                "0000000000000012.0",
                "0000000000000012.07",
                "0000000000000012.7 ",
                "0000000000000012.-7",
                "000000000000001G.7",
                "000000000000001A.7",
                "00000000000000012.7",
                "0000000000000000.7",
                "0000000000000012.18446744073709551616",
        };
        uint64_t incarnation, serial;

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_int_equal(request_id_parse(bad[i], &incarnation, &serial), -EINVAL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_put_is_framed_as_drawn),
                cmocka_unit_test(ends_have_no_path),
                cmocka_unit_test(the_largest_record_stays_below_3_mib),
                cmocka_unit_test(request_ids_come_back),
                cmocka_unit_test(malformed_request_ids_are_refused),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
