/* What units' files ask for: fragment and drop-ins in order, specifiers, and one clear word about each
 * mistake, which breaks that unit's section and nothing else. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <cmocka.h>
#include "agent/base/path.h"
#include "units/section.h"

static const UnitFileNames names = {.unit = "web@a-b.service", .host_name = "h1", .machine_id = "0123"};

static void feed(Section *section, const char *path, const char *content) {
        assert_int_equal(section_feed(section, &names, path, BYTES(content, strlen(content))), 0);
}

static void assert_words(const Words *words, const char *expected) {
        char told[1024] = "";
        for (size_t i = 0; i < words->n; i++) {
                strcat(told, words->items[i]);
                strcat(told, "|");
        }
        assert_string_equal(told, expected);
}

static void test_all_keys(void **state) {
        Section section;
        section_init(&section);
        feed(&section, "/u/web.service", "[Unit]\nDescription=[X-Treaty]\n[Service]\nExecStart=/bin/true\n");
        assert_false(section.present);
        feed(&section, "/u/web.service.d/1.conf",
             "[X-Treaty]\n"
             "Watch=/config/%p /config/%i \\\n  '/with space'\n"
             "OnChange=reload-or-restart\n"
             "SettleSec=1.5\n"
             "Service=%p\n"
             "Port=8080\n"
             "Address=%H.example\n"
             "Priority=0\n"
             "Weight=65535\n"
             "Text=one 'two three' one\n"
             "Property=path=/healthz \"a=b c\" empty=\n"
             "X-Mine=ignored\n");
        assert_int_equal(section_finish(&section), 0);
        assert_true(section.present);
        assert_null(section.mistake);
        assert_int_equal(section.warnings.n, 0);
        assert_string_equal(section.where, "/u/web.service.d/1.conf:2");
        assert_words(&section.watch, "/config/web|/config/a-b|/with space|");
        assert_int_equal(section.on_change, ACTION_RELOAD_OR_RESTART);
        assert_int_equal(section.settle_usec, 1500000);
        assert_string_equal(section.service, "web");
        assert_int_equal(section.port, 8080);
        assert_string_equal(section.address, "h1.example");
        assert_true(section.has_priority);
        assert_int_equal(section.priority, 0);
        assert_int_equal(section.weight, 65535);
        assert_words(&section.texts, "one|two three|");
        assert_words(&section.properties, "path=/healthz|a=b c|empty=|");
        assert_true(section_has_trigger(&section));
        assert_true(section_has_service(&section));
        section_deinit(&section);
}

static void test_drop_ins_append_and_reset(void **state) {
        Section section;
        section_init(&section);
        feed(&section, "/1", "[X-Treaty]\nWatch=/a\nOnChange=start\nService=x\nPort=1\nWeight=3\n");
        feed(&section, "/2", "[X-Treaty]\nWatch=/b\nOnChange=restart\nPort=2\n");
        feed(&section, "/3", "[Install]\nWantedBy=x\n[X-Treaty]\nService=\nWeight=\n");
        assert_words(&section.watch, "/a|/b|");
        assert_int_equal(section.on_change, ACTION_RESTART);
        assert_int_equal(section.port, 2);
        assert_false(section.has_weight);
        feed(&section, "/4", "[X-Treaty]\nWatch=\n");
        assert_int_equal(section_finish(&section), 0);
        assert_null(section.mistake);
        assert_true(section.present);
        assert_false(section_has_trigger(&section));
        assert_false(section_has_service(&section));
        assert_int_equal(section.settle_usec, 200000);
        section_deinit(&section);
}

static void test_mistakes(void **state) {
        static const struct {
                const char *line, *why;
        } table[] = {
                {"Watch=config", "is relative"},
                {"Watch=/a/../b", "segment"},
                {"Watch='/a", "quotes"},
                {"Watch=/%q", "specifiers"},
                {"Watch=/1 /2 /3 /4 /5 /6 /7 /8 /9 /10 /11 /12 /13 /14 /15 /16 /17", "too many"},
                {"Watch=/a", "needs OnChange="},
                {"OnChange=stop", "neither"},
                {"OnChange=Reload", "neither"},
                {"SettleSec=2min", "at most 1min"},
                {"SettleSec=soon", "not a time span"},
                {"Service=a/b", "not a service name"},
                {"Service=..", "not a service name"},
                {"Port=0", "1 to 65535"},
                {"Port=65536", "1 to 65535"},
                {"Port=http", "1 to 65535"},
                {"Priority=-1", "0 to 65535"},
                {"Weight=1.5", "0 to 65535"},
                {"Address=a b", "not an address"},
                {"Property=novalue", "KEY=VALUE"},
                {"Property==x", "KEY=VALUE"},
                {"Service=\xff", "UTF-8"},
                {"Watch", "no \"=\""},
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                Section section;
                char content[256];
                section_init(&section);
                /* What stands before and behind does not heal it. */
                snprintf(content, sizeof(content), "[X-Treaty]\nPort=7\n%s\n", table[i].line);
                feed(&section, "/etc/x.conf", content);
                feed(&section, "/etc/y.conf", "[X-Treaty]\nText=fine\n");
                assert_int_equal(section_finish(&section), 0);
                if (!section.mistake || !strstr(section.mistake, table[i].why))
                        fail_msg("%s: %s", table[i].line, section.mistake ? section.mistake : "accepted");
                assert_string_equal(section.where, i == 5 ? "/etc/x.conf:2" : "/etc/x.conf:3");
                assert_false(section_has_trigger(&section));
                assert_false(section_has_service(&section));
                section_deinit(&section);
        }
}

/* Mistakes elsewhere are systemd's business. */
static void test_foreign_mistakes(void **state) {
        Section section;
        section_init(&section);
        feed(&section, "/a", "[Service]\nnonsense\nb=\xff\n[X-Treaty]\nService=x\nColour=blue\n");
        assert_int_equal(section_finish(&section), 0);
        assert_null(section.mistake);
        assert_true(section_has_service(&section));
        assert_words(&section.warnings, "/a:6: unknown key in [X-Treaty] is ignored: Colour|");
        section_deinit(&section);

        /* A broken header may have been ours. */
        section_init(&section);
        feed(&section, "/a", "[X-Treaty\nService=x\n");
        assert_false(section.present);
        assert_int_equal(section.warnings.n, 1);
        section_deinit(&section);

        section_init(&section);
        assert_int_equal(section_feed_unreadable(&section, "/etc/z.conf", -EACCES), 0);
        assert_string_equal(section.mistake, "the file cannot be read: Permission denied");
        assert_string_equal(section.where, "/etc/z.conf");
        section_deinit(&section);
}

static void test_equal(void **state) {
        static const char *const different[] = {
                "Watch=/b",   "OnChange=start", "SettleSec=3", "Service=y",        "Port=2",
                "Priority=0", "Weight=0",       "Address=a",   "Text=t",           "Property=a=b",
                "Watch=",     "Service=",       "Port=http",   "Watch=\nWatch=/c",
        };
        const char *base = "[X-Treaty]\nWatch=/a\nOnChange=reload\nService=x\nPort=1\n";
        Section a, b;

        section_init(&a);
        section_init(&b);
        feed(&a, "/a", base);
        feed(&b, "/elsewhere", base);
        feed(&b, "/elsewhere", "[X-Treaty]\nNew=key\n");
        assert_true(section_equal(&a, &b));
        section_deinit(&b);
        for (size_t i = 0; i < ELEMENTSOF(different); i++) {
                char more[128];
                section_init(&b);
                feed(&b, "/a", base);
                snprintf(more, sizeof(more), "[X-Treaty]\n%s\n", different[i]);
                feed(&b, "/b", more);
                if (section_equal(&a, &b))
                        fail_msg("%s makes no difference", different[i]);
                section_deinit(&b);
        }
        section_deinit(&a);
}

/* What is said goes over D-Bus, which takes whole characters only. */
static void test_a_long_mistake_is_cut_well(void **state) {
        char content[512] = "[X-Treaty]\nOnChange=x";
        Section section;

        for (int i = 0; i < 120; i++)
                strcat(content, "ü");
        section_init(&section);
        feed(&section, "/u/web.service", strcat(content, "\n"));
        assert_non_null(section.mistake);
        assert_true(utf8_is_valid(section.mistake, strlen(section.mistake)));
        section_deinit(&section);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_all_keys), cmocka_unit_test(test_drop_ins_append_and_reset),
                cmocka_unit_test(test_mistakes), cmocka_unit_test(test_foreign_mistakes),
                cmocka_unit_test(test_equal),    cmocka_unit_test(test_a_long_mistake_is_cut_well),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
