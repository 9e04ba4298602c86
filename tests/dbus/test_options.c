/* Options of a call: read from real messages, and refused when unknown, doubled, of the wrong type or too
 * many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <systemd/sd-id128.h>
#include "agent/base/limits.h"
#include "dbus/options.h"

static sd_bus *bus;
static int other_end;

static int open_bus(void **state) {
        int fds[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        other_end = fds[1];
        assert_true(sd_bus_new(&bus) >= 0);
        assert_true(sd_bus_set_fd(bus, fds[0], fds[0]) >= 0);
        assert_true(sd_bus_start(bus) >= 0);
        return 0;
}

static int close_bus(void **state) {
        sd_bus_close_unref(bus);
        close(other_end);
        return 0;
}

static sd_bus_message *message(const char *types, ...) {
        sd_bus_message *m;
        va_list ap;

        assert_true(sd_bus_message_new_method_call(bus, &m, NULL, "/", "a.b", "C") >= 0);
        va_start(ap, types);
        assert_true(sd_bus_message_appendv(m, types, ap) >= 0);
        va_end(ap);
        assert_true(sd_bus_message_seal(m, 1, 0) >= 0);
        return m;
}

typedef struct Got {
        uint64_t t;
        uint32_t u;
        uint16_t q;
        const char *s;
        char **strings, **pairs;
        bool has_t;
        char text[256];
} Got;

static void got_deinit(Got *got) {
        strv_free(got->strings);
        strv_free(got->pairs);
}

static int read_all(sd_bus_message *m, Got *got) {
        const Option options[] = {
                {"t", 't', &got->t, &got->has_t},
                {"u", 'u', &got->u},
                {"q", 'q', &got->q},
                {"s", 's', &got->s},
                {"S", 'S', &got->strings},
                {"D", 'D', &got->pairs},
        };
        return options_read(m, options, ELEMENTSOF(options), got->text, sizeof(got->text));
}

static void all_types_are_read(void **state) {
        _cleanup_(got_deinit) Got got = {};
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m =
                message("a{sv}", 6, "q", "q", 7, "t", "t", UINT64_C(1) << 40, "S", "as", 2, "x", "y", "s",
                        "s", "text", "D", "a{ss}", 1, "k", "v", "u", "u", 9u);

        assert_int_equal(read_all(m, &got), 0);
        assert_int_equal(got.q, 7);
        assert_int_equal(got.t, UINT64_C(1) << 40);
        assert_true(got.has_t);
        assert_int_equal(got.u, 9);
        assert_string_equal(got.s, "text");
        assert_string_equal(got.strings[1], "y");
        assert_null(got.strings[2]);
        assert_string_equal(got.pairs[0], "k");
        assert_string_equal(got.pairs[1], "v");
        assert_null(got.pairs[2]);
}

static void none_leaves_defaults(void **state) {
        _cleanup_(got_deinit) Got got = {.t = 5};
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = message("a{sv}", 0);

        assert_int_equal(read_all(m, &got), 0);
        assert_int_equal(got.t, 5);
        assert_false(got.has_t);
}

static void misspelt_names_are_refused(void **state) {
        _cleanup_(got_deinit) Got got = {};
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = message("a{sv}", 1, "tt", "t", UINT64_C(1));

        assert_int_equal(read_all(m, &got), 1);
        assert_string_equal(got.text, "The option \"tt\" is not known to this method.");
}

static void doubled_names_are_refused(void **state) {
        _cleanup_(got_deinit) Got got = {};
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m =
                message("a{sv}", 2, "S", "as", 1, "x", "S", "as", 1, "y");

        assert_int_equal(read_all(m, &got), 1);
        assert_string_equal(got.text, "The option \"S\" is given twice.");
}

static void wrong_types_are_refused(void **state) {
        _cleanup_(got_deinit) Got got = {};
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = message("a{sv}", 1, "t", "s", "5");

        assert_int_equal(read_all(m, &got), 1);
        assert_string_equal(got.text, "The option \"t\" is of type s, but must be of type t.");
}

static void endless_lists_are_refused(void **state) {
        _cleanup_(got_deinit) Got got = {};
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;

        assert_true(sd_bus_message_new_method_call(bus, &m, NULL, "/", "a.b", "C") >= 0);
        assert_true(sd_bus_message_open_container(m, 'a', "{sv}") >= 0);
        assert_true(sd_bus_message_open_container(m, 'e', "sv") >= 0);
        assert_true(sd_bus_message_append(m, "s", "S") >= 0);
        assert_true(sd_bus_message_open_container(m, 'v', "as") >= 0);
        assert_true(sd_bus_message_open_container(m, 'a', "s") >= 0);
        for (int i = 0; i <= LIMIT_SERVICE_STRINGS; i++)
                assert_true(sd_bus_message_append(m, "s", "x") >= 0);
        for (int i = 0; i < 4; i++)
                assert_true(sd_bus_message_close_container(m) >= 0);
        assert_true(sd_bus_message_seal(m, 1, 0) >= 0);
        assert_int_equal(read_all(m, &got), 1);
        assert_string_equal(got.text, "The option \"S\" has more than 256 strings.");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(all_types_are_read),         cmocka_unit_test(none_leaves_defaults),
                cmocka_unit_test(misspelt_names_are_refused), cmocka_unit_test(doubled_names_are_refused),
                cmocka_unit_test(wrong_types_are_refused),    cmocka_unit_test(endless_lists_are_refused),
        };
        return cmocka_run_group_tests(tests, open_bus, close_bus);
}
