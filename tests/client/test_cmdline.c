/* What people type: verbs and options in any order, times as systemd writes them; what is wrong is refused
 * with words that name it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "client/ctl/cmdline.h"
#include "client/ctl/parse.h"

static char why[512];

/* Splits at blanks; the words are cl's until the next call. */
static int parse(CommandLine *cl, const char *line) {
        static char text[1024], *argv[300];
        int argc = 0;

        strncpy(text, line, sizeof(text) - 1);
        argv[argc++] = (char *)"treatyctl";
        for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
                argv[argc++] = word;
        argv[argc] = NULL;
        why[0] = 0;
        return cmdline_parse(cl, argc, argv, why, sizeof(why));
}

static void test_nothing_is_status(void **state) {
        CommandLine cl;
        assert_int_equal(parse(&cl, ""), 0);
        assert_int_equal(cl.verb, VERB_STATUS);
        assert_false(cl.named);
        assert_int_equal(parse(&cl, "-q"), 0);
        assert_int_equal(cl.verb, VERB_STATUS);
}

static void test_every_verb_is_found_and_has_help(void **state) {
        for (int i = 0; i < N_VERBS; i++) {
                char line[64], *text = NULL;
                size_t size = 0;
                CommandLine cl;
                FILE *f;

                snprintf(line, sizeof(line), "%s --help", cmdline_verb_name((VerbId)i));
                assert_int_equal(parse(&cl, line), 0);
                assert_int_equal(cl.verb, i);
                assert_true(cl.help);
                f = open_memstream(&text, &size);
                assert_non_null(f);
                cmdline_help_verb(f, (VerbId)i, false);
                fclose(f);
                assert_non_null(strstr(text, cmdline_verb_name((VerbId)i)));
                assert_null(strchr(text, '\033'));
                free(text);
        }
}

static void test_options_before_and_behind(void **state) {
        CommandLine cl;

        assert_int_equal(parse(&cl, "--json=short get --linearizable /a --timeout=5s"), 0);
        assert_int_equal(cl.verb, VERB_GET);
        assert_int_equal(cl.json, JSON_SHORT);
        assert_true(cmdline_given(&cl, OPTION_LINEARIZABLE));
        assert_int_equal(cl.number[OPTION_TIMEOUT], 5 * USEC_PER_SEC);
        assert_int_equal(cl.n_args, 1);
        assert_string_equal(cl.args[0], "/a");

        assert_int_equal(parse(&cl, "join --discard TOKEN"), 0);
        assert_true(cmdline_given(&cl, OPTION_DISCARD));
        assert_string_equal(cl.args[0], "TOKEN");
        assert_int_equal(parse(&cl, "delete /a -r"), 0);
        assert_true(cmdline_given(&cl, OPTION_RECURSIVE));
}

static void test_dash_is_an_argument(void **state) {
        CommandLine cl;
        assert_int_equal(parse(&cl, "set /a -"), 0);
        assert_string_equal(cl.args[1], "-");
        assert_int_equal(parse(&cl, "set -- /a -5"), 0);
        assert_string_equal(cl.args[1], "-5");
        assert_int_equal(parse(&cl, "set /a -5"), -EINVAL);
        assert_non_null(strstr(why, "-5"));
}

static void test_a_command_keeps_its_options(void **state) {
        CommandLine cl;
        assert_int_equal(parse(&cl, "register web --port=80 --property=a=b --property=c=d -- sleep -x 10"),
                         0);
        assert_int_equal(cl.n_args, 4);
        assert_string_equal(cl.args[1], "sleep");
        assert_string_equal(cl.args[2], "-x");
        assert_int_equal(cl.number[OPTION_PORT], 80);
        assert_int_equal(cl.n_repeated, 2);
        assert_string_equal(cl.repeated[1], "c=d");
}

static void test_value_with_and_without(void **state) {
        CommandLine cl;
        assert_int_equal(parse(&cl, "list --value /a"), 0);
        assert_null(cl.text[OPTION_VALUE]);
        assert_string_equal(cl.args[0], "/a");
        assert_int_equal(parse(&cl, "wait --value=up /a"), 0);
        assert_string_equal(cl.text[OPTION_VALUE], "up");
}

static void test_json_words(void **state) {
        CommandLine cl;
        assert_int_equal(parse(&cl, "-j members"), 0);
        assert_true(cl.json_auto);
        assert_int_equal(parse(&cl, "-j --json=off members"), 0);
        assert_false(cl.json_auto);
        assert_int_equal(cl.json, JSON_OFF);
        assert_int_equal(parse(&cl, "--json=pretty"), 0);
        assert_int_equal(cl.json, JSON_LONG);
}

static void test_wrong_lines_are_refused_by_name(void **state) {
        static const struct {
                const char *line, *word;
        } rows[] = {
                {"frobnicate", "frobnicate"},
                {"get", "PATH"},
                {"get /a /b", "many"},
                {"set /a", "few"},
                {"--frob", "--frob"},
                {"-Z", "-Z"},
                {"get /a --port=80", "--port"},
                {"status /a", "many"},
                {"--json=xml", "xml"},
                {"--json", "--json"},
                {"--timeout=soon", "soon"},
                {"--timeout", "--timeout"},
                {"watch --from=x", "\"x\""},
                {"watch --from=18446744073709551615", "too large"},
                {"register web --port=65536", "65536"},
                {"register web --port=-1", "-1"},
                {"token --uses=10001", "10001"},
                {"-H a -M b status", "exclude"},
        };
        CommandLine cl;

        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                assert_int_equal(parse(&cl, rows[i].line), -EINVAL);
                if (!strstr(why, rows[i].word))
                        fail_msg("\"%s\" says: %s", rows[i].line, why);
        }
}

static void test_too_many_repeats(void **state) {
        char *argv[GIVEN_MAX + 5];
        CommandLine cl;
        int argc = 0;

        argv[argc++] = (char *)"treatyctl";
        argv[argc++] = (char *)"register";
        argv[argc++] = (char *)"web";
        for (unsigned i = 0; i < GIVEN_MAX + 1; i++)
                argv[argc++] = (char *)"--text=a";
        argv[argc] = NULL;
        assert_int_equal(cmdline_parse(&cl, argc - 1, argv, why, sizeof(why)), 0);
        assert_int_equal(cmdline_parse(&cl, argc, argv, why, sizeof(why)), -EINVAL);
}

static void test_spans(void **state) {
        static const struct {
                const char *text;
                int r;
                uint64_t usec;
        } rows[] = {
                {"0", 0, 0},
                {"5", 0, 5000000},
                {"5s", 0, 5000000},
                {"5 s", 0, 5000000},
                {"0.5s", 0, 500000},
                {"1.0000001s", 0, 1000000},
                {"250ms", 0, 250000},
                {"7us", 0, 7},
                {"2min", 0, 120000000},
                {"2m", 0, 120000000},
                {"1h 30min", 0, UINT64_C(5400000000)},
                {"1h30min", 0, UINT64_C(5400000000)},
                {"30d", 0, UINT64_C(2592000000000)},
                {"1w", 0, UINT64_C(604800000000)},
                {"infinity", 0, USEC_INFINITY},
                {"", -EINVAL, 0},
                {" ", -EINVAL, 0},
                {"s", -EINVAL, 0},
                {"-5s", -EINVAL, 0},
                {"5.", -EINVAL, 0},
                {"5.s", -EINVAL, 0},
                {"5 parsecs", -EINVAL, 0},
                {"5s soon", -EINVAL, 0},
                {"99999999999999999999s", -ERANGE, 0},
                {"18446744073709551615us", -ERANGE, 0},
                {"18446744073709551614us", 0, USEC_INFINITY - 1},
                {"18446744073709551614us 1us", -ERANGE, 0},
                {"18446744073710s", -ERANGE, 0},
        };
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                uint64_t usec = 0;
                int r = parse_span(rows[i].text, &usec);
                if (r != rows[i].r || (r == 0 && usec != rows[i].usec))
                        fail_msg("\"%s\" is %d, %llu", rows[i].text, r, (unsigned long long)usec);
        }
}

static void test_numbers(void **state) {
        uint64_t n;
        assert_int_equal(parse_number("0", 10, &n), 0);
        assert_int_equal(parse_number("10", 10, &n), 0);
        assert_int_equal(n, 10);
        assert_int_equal(parse_number("11", 10, &n), -ERANGE);
        assert_int_equal(parse_number("18446744073709551615", UINT64_MAX, &n), 0);
        assert_int_equal(parse_number("18446744073709551616", UINT64_MAX, &n), -ERANGE);
        assert_int_equal(parse_number("", 10, &n), -EINVAL);
        assert_int_equal(parse_number("+1", 10, &n), -EINVAL);
        assert_int_equal(parse_number(" 1", 10, &n), -EINVAL);
        assert_int_equal(parse_number("1x", 10, &n), -EINVAL);
        assert_int_equal(parse_number("0x1", 10, &n), -EINVAL);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_nothing_is_status),
                cmocka_unit_test(test_every_verb_is_found_and_has_help),
                cmocka_unit_test(test_options_before_and_behind),
                cmocka_unit_test(test_dash_is_an_argument),
                cmocka_unit_test(test_a_command_keeps_its_options),
                cmocka_unit_test(test_value_with_and_without),
                cmocka_unit_test(test_json_words),
                cmocka_unit_test(test_wrong_lines_are_refused_by_name),
                cmocka_unit_test(test_too_many_repeats),
                cmocka_unit_test(test_spans),
                cmocka_unit_test(test_numbers),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
