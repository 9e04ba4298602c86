/* From the agent's error names over errno to the numbers that scripts rely on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include "agent/base/macros.h"
#include "client/ctl/exitcode.h"
#include "client/errors.h"

static void test_names_to_exit_codes(void **state) {
        static const struct {
                const char *name;
                int number;
                ExitCode code;
        } rows[] = {
                {"org.treaty1.Error.NoSuchEntry", ENOENT, EXIT_NO_SUCH},
                {"org.treaty1.Error.NoSuchService", ENOENT, EXIT_NO_SUCH},
                {"org.treaty1.Error.NoSuchMember", ESRCH, EXIT_NO_SUCH},
                {"org.treaty1.Error.InvalidRequest", ENOENT, EXIT_NO_SUCH},
                {"org.freedesktop.DBus.Error.AccessDenied", EACCES, EXIT_DENIED},
                {"org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", EACCES, EXIT_DENIED},
                {"org.treaty1.Error.NoQuorum", ENETDOWN, EXIT_NO_QUORUM},
                {"org.treaty1.Error.Timeout", ETIMEDOUT, EXIT_TIMEOUT},
                {"org.treaty1.Error.Conflict", ESTALE, EXIT_CONFLICT},
                {"org.treaty1.Error.Exists", EEXIST, EXIT_CONFLICT},
                {"org.treaty1.Error.Unknown", EINPROGRESS, EXIT_UNKNOWN},
                {"org.freedesktop.DBus.Error.NoReply", ECONNRESET, EXIT_UNKNOWN},
                {"org.treaty1.Error.InvalidPath", EINVAL, EXIT_ERROR},
                {"org.treaty1.Error.TooLarge", EMSGSIZE, EXIT_ERROR},
                {"org.treaty1.Error.NotEmpty", ENOTEMPTY, EXIT_ERROR},
                {"org.treaty1.Error.Busy", EBUSY, EXIT_ERROR},
                {"org.treaty1.Error.Damaged", EUCLEAN, EXIT_ERROR},
                {"org.treaty1.Error.SessionLost", EAGAIN, EXIT_ERROR},
                {"org.freedesktop.DBus.Error.ServiceUnknown", ECONNREFUSED, EXIT_ERROR},
                {"org.freedesktop.DBus.Error.Spawn.ChildExited", ECONNREFUSED, EXIT_ERROR},
                {"org.example.Error.Other", EIO, EXIT_ERROR},
                {"org.treaty1.Error.NoSuchEntryAtAll", EIO, EXIT_ERROR},
                {"", EIO, EXIT_ERROR},
                {NULL, EIO, EXIT_ERROR},
        };
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                assert_int_equal(error_errno(rows[i].name), -rows[i].number);
                assert_int_equal(exit_code(error_errno(rows[i].name)), rows[i].code);
        }
}

static void test_success_is_zero(void **state) {
        assert_int_equal(exit_code(0), 0);
        assert_int_equal(exit_code(1), 0);
}

/* The numbers are in the man page and in people's scripts. */
static void test_numbers_stay(void **state) {
        assert_int_equal(EXIT_ERROR, 1);
        assert_int_equal(EXIT_USAGE, 2);
        assert_int_equal(EXIT_NOT_SO, 3);
        assert_int_equal(EXIT_NO_SUCH, 4);
        assert_int_equal(EXIT_DENIED, 5);
        assert_int_equal(EXIT_NO_QUORUM, 6);
        assert_int_equal(EXIT_TIMEOUT, 7);
        assert_int_equal(EXIT_CONFLICT, 8);
        assert_int_equal(EXIT_UNKNOWN, 9);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_names_to_exit_codes),
                cmocka_unit_test(test_success_is_zero),
                cmocka_unit_test(test_numbers_stay),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
