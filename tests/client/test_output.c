/* What the tool shows of bytes that anybody may have written: nothing that steers a terminal, nothing lost.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "client/ctl/output.h"

static void check_escape(const char *bytes, size_t size, size_t max, const char *expected) {
        char *text = escape_bytes(bytes, size, max);
        assert_non_null(text);
        assert_string_equal(text, expected);
        free(text);
}

static void test_escape(void **state) {
        check_escape("", 0, 0, "");
        check_escape(NULL, 0, 0, "");
        check_escape("plain text", 10, 0, "plain text");
        check_escape("a\nb\tc\\d", 7, 0, "a\\nb\\tc\\\\d");
        check_escape("\033[31m", 5, 0, "\\x1b[31m");
        check_escape("\0x", 2, 0, "\\x00x");
        check_escape("größe", 7, 0, "größe");
        check_escape("\xff\xfe", 2, 0, "\\xff\\xfe");
        check_escape("gr\xc3", 3, 0, "gr\\xc3"); /* not text: every high byte is shown as such */
        /* Control Sequence Introducer as one character. */
        check_escape("\xc2\x9b", 2, 0, "\\xc2\\x9b");
}

static void test_escape_shortens_between_characters(void **state) {
        check_escape("abcdef", 6, 6, "abcdef");
        check_escape("abcdef", 6, 3, "abc…");
        check_escape("aöö", 5, 2, "a…");
        check_escape("aöö", 5, 3, "aö…");
        check_escape("a\xff\xff\xff", 4, 2, "a\\xff…");
}

static void check_json(const void *bytes, size_t size, const char *expected) {
        json_t *object = json_object();
        char *text;

        assert_int_equal(json_set_bytes(object, "value", bytes, size), 0);
        text = json_dumps(object, JSON_COMPACT);
        assert_string_equal(text, expected);
        free(text);
        json_decref(object);
}

static void test_bytes_in_json(void **state) {
        check_json("8080", 4, "{\"value\":\"8080\"}");
        check_json("", 0, "{\"value\":\"\"}");
        check_json("\xff", 1, "{\"value_base64\":\"/w==\"}");
        check_json("\xff\xfe", 2, "{\"value_base64\":\"//4=\"}");
        check_json("\xff\xfe\xfd", 3, "{\"value_base64\":\"//79\"}");
        check_json("a\0b", 3, "{\"value_base64\":\"YQBi\"}");
}

static void test_large_numbers_are_null(void **state) {
        json_t *n = json_u64(UINT64_MAX);
        assert_true(json_is_null(n));
        json_decref(n);
        n = json_u64(INT64_MAX);
        assert_int_equal(json_integer_value(n), INT64_MAX);
        json_decref(n);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_escape),
                cmocka_unit_test(test_escape_shortens_between_characters),
                cmocka_unit_test(test_bytes_in_json),
                cmocka_unit_test(test_large_numbers_are_null),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
