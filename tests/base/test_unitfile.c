/* The parser of unit syntax tells what systemd would read, names the line of each mistake, and reads on
 * behind it. Each test gives it a file and compares the whole story it tells. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "agent/base/unitfile.h"

/* One line per item: "LINE SECTION KEY=VALUE" or "LINE !PROBLEM". */
static void tell(const void *content, size_t size, char *to, size_t room) {
        UnitFile file;
        UnitFileItem item;
        size_t n = 0;
        int r;

        to[0] = 0;
        unitfile_init(&file, BYTES(content, size));
        while ((r = unitfile_next(&file, &item)) != UNITFILE_END) {
                assert_true(r == UNITFILE_ASSIGNMENT || r == UNITFILE_PROBLEM);
                if (r == UNITFILE_ASSIGNMENT)
                        n += (size_t)snprintf(to + n, room - n, "%u %s %s=%s\n", item.line, item.section,
                                              item.key, item.value);
                else
                        n += (size_t)snprintf(to + n, room - n, "%u !%s\n", item.line, item.problem);
                assert_true(n < room);
        }
        unitfile_deinit(&file);
}

static void assert_tells(const char *content, const char *story) {
        char told[4096];
        tell(content, strlen(content), told, sizeof(told));
        assert_string_equal(told, story);
}

static void test_plain(void **state) {
        assert_tells("", "");
        assert_tells("[A]", "");
        assert_tells("\xef\xbb\xbf[A]\n  b = c d \nb=\n[X-Treaty]\r\nWatch=/config\r\n",
                     "2 A b=c d\n3 A b=\n5 X-Treaty Watch=/config\n");
        assert_tells("# a\n ; b\n[A]\nb=1 # no comment ; none either\n\n\nc=x=y",
                     "4 A b=1 # no comment ; none either\n7 A c=x=y\n");
}

static void test_continuation(void **state) {
        assert_tells("[A]\nb=one \\\n  two\\\n# inside\n ; inside\nthree\nc=4\n",
                     "2 A b=one    two three\n7 A c=4\n");
        /* An even number of backslashes is text; at the end of the file there is nothing to continue. */
        assert_tells("[A]\nb=one\\\\\nc=2 \\", "2 A b=one\\\\\n3 A c=2\n");
        /* A comment is not continued. */
        assert_tells("[A]\n# b=1 \\\nc=2\n", "3 A c=2\n");
}

static void test_problems_do_not_spread(void **state) {
        assert_tells("a=1\n[A]\nnonsense\n=x\nb=2\n",
                     "1 !assignment outside of any section; the line is skipped\n"
                     "3 !no \"=\" in this line; the line is skipped\n"
                     "4 !no key before \"=\"; the line is skipped\n"
                     "5 A b=2\n");
        assert_tells("[A\nb=1\nnonsense\n[B]\nc=2\n[]\nd=3\n[C]\ne=4\n",
                     "1 !section header does not end with \"]\"; the section is skipped\n"
                     "5 B c=2\n"
                     "6 !section without a name; the section is skipped\n"
                     "9 C e=4\n");
        assert_tells("[A]\nb=\xff\nc=\xc3\xa4\n",
                     "2 !line is not valid UTF-8; the line is skipped\n3 A c=\xc3\xa4\n");

        char told[256];
        tell("[A]\nb=x\0y\nc=2", 13, told, sizeof(told));
        assert_string_equal(told, "2 !line is not valid UTF-8; the line is skipped\n3 A c=2\n");
}

static void test_bounds(void **state) {
        static char content[UNITFILE_MAX_BYTES + 8];
        char told[256];

        /* One long line is skipped, with what continues it. */
        memset(content, 'x', sizeof(content));
        memcpy(content, "[A]\nb=", 6);
        memcpy(content + 70000, "\\\n", 2);
        memcpy(content + 140000, "\nc=1\n", 5);
        tell(content, 140005, told, sizeof(told));
        assert_string_equal(told, "2 !line is longer than 64 KiB; the line is skipped\n4 A c=1\n");

        /* The longest allowed line is told whole. */
        memcpy(content + 4 + UNITFILE_LINE_BYTES, "\nc=1\n", 5);
        UnitFile file;
        UnitFileItem item;
        unitfile_init(&file, BYTES(content, 4 + UNITFILE_LINE_BYTES + 5));
        assert_int_equal(unitfile_next(&file, &item), UNITFILE_ASSIGNMENT);
        assert_int_equal(strlen(item.value), UNITFILE_LINE_BYTES - 2);
        assert_int_equal(unitfile_next(&file, &item), UNITFILE_ASSIGNMENT);
        assert_string_equal(item.key, "c");
        unitfile_deinit(&file);

        tell(content, UNITFILE_MAX_BYTES + 1, told, sizeof(told));
        assert_string_equal(told, "1 !file is larger than 1 MiB; it is skipped\n");

        memset(content, 'k', 300);
        memcpy(content + 300, "=v\n[A]\n", 7);
        memset(content + 307, 'k', 300);
        memcpy(content + 607, "=v\n", 3);
        tell(content, 610, told, sizeof(told));
        assert_string_equal(told, "1 !name of the key is too long; the line is skipped\n"
                                  "3 !name of the key is too long; the line is skipped\n");
}

static void test_words(void **state) {
        const char *text = "  a 'b c' \"d\\\"e\"f \\x41\\s\\n  ''";
        const char *expected[] = {"a", "b c", "d\"ef", "A \n", ""};
        char word[16];

        for (size_t i = 0; i < ELEMENTSOF(expected); i++) {
                assert_int_equal(unitfile_word(&text, word, sizeof(word)), 1);
                assert_string_equal(word, expected[i]);
        }
        assert_int_equal(unitfile_word(&text, word, sizeof(word)), 0);

        const char *bad[] = {"'a", "\"a", "a\\", "\\q", "\\x4", "\\x00", "\\xff"};
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_int_equal(unitfile_word(&bad[i], word, sizeof(word)), -EINVAL);
        text = "0123456789abcdef";
        assert_int_equal(unitfile_word(&text, word, sizeof(word)), -E2BIG);
        text = "0123456789abcde";
        assert_int_equal(unitfile_word(&text, word, sizeof(word)), 1);
}

static void test_times(void **state) {
        static const struct {
                const char *text;
                int r;
                uint64_t usec;
        } table[] = {
                {"5s", 0, 5000000},
                {"5", 0, 5000000},
                {"5s 2min 100ms", 0, 125100000},
                {"5s2min100ms", 0, 125100000},
                {"1.5s", 0, 1500000},
                {"0.25", 0, 250000},
                {"1.5us", 0, 1},
                {"1h", 0, UINT64_C(3600000000)},
                {"2w", 0, UINT64_C(1209600000000)},
                {"10 ms", 0, 10000},
                {"0", 0, 0},
                {"infinity", 0, USEC_INFINITY},
                {"", -EINVAL, 0},
                {"s", -EINVAL, 0},
                {"-5s", -EINVAL, 0},
                {"5 parsecs", -EINVAL, 0},
                {"1.2.3", -EINVAL, 0},
                {".", -EINVAL, 0},
                {"18446744073709551615", -ERANGE, 0},
                {"99999999999999999999us", -ERANGE, 0},
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                uint64_t usec = 7;
                assert_int_equal(unitfile_usec(table[i].text, USEC_PER_SEC, &usec), table[i].r);
                if (table[i].r == 0)
                        assert_int_equal(usec, table[i].usec);
        }

        uint64_t v;
        assert_int_equal(unitfile_unsigned("65535", 65535, &v), 0);
        assert_int_equal(v, 65535);
        assert_int_equal(unitfile_unsigned("65536", 65535, &v), -ERANGE);
        assert_int_equal(unitfile_unsigned("18446744073709551616", UINT64_MAX, &v), -ERANGE);
        assert_int_equal(unitfile_unsigned("", 9, &v), -EINVAL);
        assert_int_equal(unitfile_unsigned("+1", 9, &v), -EINVAL);
        assert_int_equal(unitfile_unsigned("1 ", 9, &v), -EINVAL);
}

static void test_specifiers(void **state) {
        UnitFileNames names = {.unit = "we-b@a-b\\x2dc.service", .host_name = "h1", .machine_id = "abc"};
        char to[128];

        assert_int_equal(unitfile_expand("%n|%N|%p|%i|%I|%H|%m|%%", &names, to, sizeof(to)), 0);
        assert_string_equal(to, "we-b@a-b\\x2dc.service|we-b@a-b\\x2dc|we-b|a-b\\x2dc|a/b-c|h1|abc|%");

        names.unit = "web.service";
        assert_int_equal(unitfile_expand("%n|%N|%p|%i|%I", &names, to, sizeof(to)), 0);
        assert_string_equal(to, "web.service|web|web||");

        assert_int_equal(unitfile_expand("%q", &names, to, sizeof(to)), -EINVAL);
        assert_int_equal(unitfile_expand("50%", &names, to, sizeof(to)), -EINVAL);
        assert_int_equal(unitfile_expand("%n", &names, to, 11), -E2BIG);
        assert_int_equal(unitfile_expand("%n", &names, to, 12), 0);

        /* A name that unescapes to what is no text. */
        names.unit = "a@\\xff.service";
        assert_int_equal(unitfile_expand("%I", &names, to, sizeof(to)), -EINVAL);
        names.unit = "a@\\x4.service";
        assert_int_equal(unitfile_expand("%I", &names, to, sizeof(to)), -EINVAL);
}

static void test_order(void **state) {
        UnitFileDropIn files[] = {
                {.rank = 3, .name = (char *)"10-a.conf", .path = (char *)"lib/10-a"},
                {.rank = 3, .name = (char *)"50-b.conf", .path = (char *)"lib/50-b"},
                {.rank = 3, .name = (char *)"60-c.conf", .path = (char *)"lib/60-c"},
                {.rank = 0, .name = (char *)"50-b.conf", .path = (char *)"etc/50-b"},
                {.rank = 1, .name = (char *)"60-c.conf", .path = (char *)"run/60-c", .masked = true},
                {.rank = 0, .name = (char *)"05-d.conf", .path = (char *)"etc/05-d"},
        };
        assert_int_equal(unitfile_order(files, ELEMENTSOF(files)), 3);
        assert_string_equal(files[0].path, "etc/05-d");
        assert_string_equal(files[1].path, "lib/10-a");
        assert_string_equal(files[2].path, "etc/50-b");

        /* Nothing is lost: the hidden ones stand behind. */
        size_t length = 0;
        for (size_t i = 0; i < ELEMENTSOF(files); i++)
                length += strlen(files[i].path);
        assert_int_equal(length, 6 * 8);
        assert_int_equal(unitfile_order(NULL, 0), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_plain),
                cmocka_unit_test(test_continuation),
                cmocka_unit_test(test_problems_do_not_spread),
                cmocka_unit_test(test_bounds),
                cmocka_unit_test(test_words),
                cmocka_unit_test(test_times),
                cmocka_unit_test(test_specifiers),
                cmocka_unit_test(test_order),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
