/* Instances of services: path and JSON there and back, values that others wrote, and the order of RFC 2782.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include "agent/base/random.h"
#include "dbus/instance.h"

static void json_comes_back(void **state) {
        const Instance instance = {.name = "web",
                                   .host = "h1",
                                   .address = "10.0.0.1",
                                   .port = 8080,
                                   .priority = 1,
                                   .weight = 2,
                                   .ttl = UINT32_MAX};
        char *text[] = {(char *)"a=b", (char *)"ü\"", NULL};
        char *properties[] = {(char *)"path", (char *)"/healthz", NULL};
        _cleanup_(freep) char *json = NULL;
        char path[128];
        Instance back;

        assert_int_equal(instance_json(&instance, text, properties, &json), 0);
        assert_string_equal(json, "{\"host\":\"h1\",\"address\":\"10.0.0.1\",\"port\":8080,\"priority\":1,"
                                  "\"weight\":2,\"ttl\":4294967295,\"text\":[\"a=b\",\"ü\\\"\"],"
                                  "\"properties\":{\"path\":\"/healthz\"}}");
        assert_true(instance_path("web", "h1", 8080, path, sizeof(path)));
        assert_string_equal(path, "/services/web/h1:8080");
        assert_int_equal(instance_parse(path, BYTES(json, strlen(json)), &back), 0);
        assert_memory_equal(&back, &instance, sizeof(back));
        assert_true(instance_path("web", "h1", 0, path, sizeof(path)));
        assert_string_equal(path, "/services/web/h1");
        assert_false(instance_path("web", "h1", 0, path, 16));
}

static void too_much_json_is_refused(void **state) {
        const Instance instance = {.name = "web", .host = "h1"};
        static char large[LIMIT_SERVICE_BYTES + 1];
        char *text[] = {large, NULL};
        char *json = NULL;

        memset(large, 'x', sizeof(large) - 1);
        assert_int_equal(instance_json(&instance, text, NULL, &json), -E2BIG);
        assert_null(json);
}

static void foreign_values_tell_what_the_path_tells(void **state) {
        static const char *const values[] = {
                "",
                "not json",
                "[]",
                "{",
                "{\"address\":7,\"priority\":-1,\"weight\":70000,\"ttl\":\"x\"}",
                "{\"host\":\"evil\",\"port\":1}",
                "\xff\xfe",
        };
        Instance i;

        for (size_t n = 0; n < ELEMENTSOF(values); n++) {
                assert_int_equal(
                        instance_parse("/services/web/h2:81", BYTES(values[n], strlen(values[n])), &i), 0);
                assert_string_equal(i.host, "h2");
                assert_int_equal(i.port, 81);
                assert_int_equal(i.priority, 0);
                assert_int_equal(i.weight, 0);
                assert_string_equal(i.address, "");
        }
}

static void other_paths_are_no_instances(void **state) {
        static const char *const paths[] = {
                "/services",
                "/services/web",
                "/config/web/h1",
                "/services/web/h1/x",
                "/services/web/h1:0",
                "/services/web/h1:",
                "/services/web/h1:80x",
                "/services/web/h1:65536",
                "/services/web/:80",
                "/services/web/h1:080",
        };
        Instance i;

        for (size_t n = 0; n < ELEMENTSOF(paths); n++)
                assert_int_equal(instance_parse(paths[n], BYTES(NULL, 0), &i), 1);
}

static void ports_are_cut_from_addresses(void **state) {
        static const char *const pairs[][2] = {
                {"10.0.0.1:7707", "10.0.0.1"},
                {"[fd00::1]:7707", "fd00::1"},
                {"[fd00::1]", "fd00::1"},
                {"h1.example:7707", "h1.example"},
                {"h1", "h1"},
                {"fd00::1", "fd00::1"},
                {"", ""},
                {"[", ""},
        };
        char host[64];

        for (size_t n = 0; n < ELEMENTSOF(pairs); n++) {
                address_without_port(pairs[n][0], host, sizeof(host));
                assert_string_equal(host, pairs[n][1]);
        }
}

static uint64_t below(uint64_t bound, void *userdata) {
        return random_below(userdata, bound);
}

/* 1,000 draws: lower priority always first, and three quarters of the time the one of triple weight. */
static void the_order_is_that_of_rfc_2782(void **state) {
        Random random = {.state = 7};
        unsigned heavy_first = 0;

        for (int n = 0; n < 1000; n++) {
                Instance i[] = {
                        {.host = "late", .priority = 2, .weight = 100},
                        {.host = "light", .priority = 1, .weight = 25},
                        {.host = "heavy", .priority = 1, .weight = 75},
                };
                instances_order(i, 3, below, &random);
                assert_string_equal(i[2].host, "late");
                assert_string_not_equal(i[0].host, i[1].host);
                heavy_first += strcmp(i[0].host, "heavy") == 0;
        }
        assert_in_range(heavy_first, 690, 810);
        instances_order(NULL, 0, below, &random);
}

static void equal_instances_take_turns(void **state) {
        Random random = {.state = 7};
        unsigned first[3] = {};

        for (int n = 0; n < 900; n++) {
                Instance i[] = {{.host = "0"}, {.host = "1"}, {.host = "2"}};
                instances_order(i, 3, below, &random);
                first[i[0].host[0] - '0']++;
        }
        for (int n = 0; n < 3; n++)
                assert_in_range(first[n], 230, 370);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(json_comes_back),
                cmocka_unit_test(too_much_json_is_refused),
                cmocka_unit_test(foreign_values_tell_what_the_path_tells),
                cmocka_unit_test(other_paths_are_no_instances),
                cmocka_unit_test(ports_are_cut_from_addresses),
                cmocka_unit_test(the_order_is_that_of_rfc_2782),
                cmocka_unit_test(equal_instances_take_turns),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
