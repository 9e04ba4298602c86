/* What was handled is found again, in the same cluster only; a file that is damaged anywhere counts as none.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "units/state.h"

static char directory[64];
static int fd;

static int begin(void **state) {
        snprintf(directory, sizeof(directory), "/tmp/treaty-state-XXXXXX");
        assert_non_null(mkdtemp(directory));
        fd = open(directory, O_RDONLY | O_DIRECTORY);
        return fd < 0;
}

static int end(void **state) {
        char command[128];
        close(fd);
        snprintf(command, sizeof(command), "rm -r %s", directory);
        return system(command);
}

static void put(const char *name, const char *content, size_t size) {
        int file = openat(fd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        assert_true(file >= 0);
        assert_int_equal(write(file, content, size), (ssize_t)size);
        close(file);
}

static void test_round_trip(void **unused) {
        State state = {.cluster = "abc"}, read;
        uint64_t revision;

        assert_int_equal(state_load(&read, fd, "web.service"), 1);
        assert_int_equal(state_set(&state, "/config/web", 412), 0);
        assert_int_equal(state_set(&state, "/with space", 1), 0);
        assert_int_equal(state_set(&state, "/with space", UINT64_MAX - 1), 0);
        assert_int_equal(state_save(&state, fd, "web.service"), 0);
        assert_int_equal(state_load(&read, fd, "web.service"), 0);
        assert_int_equal(read.n, 2);
        assert_true(state_find(&read, "abc", "/config/web", &revision));
        assert_int_equal(revision, 412);
        assert_true(state_find(&read, "abc", "/with space", &revision));
        assert_int_equal(revision, UINT64_MAX - 1);
        assert_false(state_find(&read, "abc", "/config", &revision));

        /* 500 of one cluster says nothing about 40 of another. */
        assert_false(state_find(&read, "abd", "/config/web", &revision));

        assert_int_equal(faccessat(fd, ".#web.service", F_OK, 0), -1);
        assert_int_equal(state_remove(fd, "web.service"), 0);
        assert_int_equal(state_remove(fd, "web.service"), 0);
        assert_int_equal(state_load(&read, fd, "web.service"), 1);
}

static void test_full(void **unused) {
        State state = {.cluster = "abc"}, read;
        char path[32];
        for (int i = 0; i < SECTION_MAX_PATHS; i++) {
                snprintf(path, sizeof(path), "/p%d", i);
                assert_int_equal(state_set(&state, path, (uint64_t)i), 0);
        }
        assert_int_equal(state_set(&state, "/more", 1), -E2BIG);
        assert_int_equal(state_save(&state, fd, "a"), 0);
        assert_int_equal(state_load(&read, fd, "a"), 0);
        assert_int_equal(read.n, SECTION_MAX_PATHS);
}

/* Every prefix of a good file, and every byte of it changed to one that cannot stand there. */
static void test_damage(void **unused) {
        static const char good[] = "treaty-units 1\ncluster abc\nhandled 412 /config/web\nend\n";
        State read;

        put("x", good, strlen(good));
        assert_int_equal(state_load(&read, fd, "x"), 0);
        for (size_t n = 0; n < strlen(good); n++) {
                put("x", good, n);
                assert_int_equal(state_load(&read, fd, "x"), 1);
                assert_int_equal(read.n, 0);
        }
        for (size_t i = 0; i < strlen(good); i++) {
                char bad[sizeof(good)];
                memcpy(bad, good, sizeof(good));
                bad[i] = 0;
                put("x", bad, strlen(good));
                assert_int_equal(state_load(&read, fd, "x"), 1);
        }

        static const char *const others[] = {
                "treaty-units 2\ncluster abc\nend\n",
                "treaty-units 1\nend\n",
                "treaty-units 1\ncluster \nend\n",
                "treaty-units 1\ncluster abc\nhandled 1 relative\nend\n",
                "treaty-units 1\ncluster abc\nhandled -1 /a\nend\n",
                "treaty-units 1\ncluster abc\nhandled 18446744073709551615 /a\nend\n",
                "treaty-units 1\ncluster abc\nend\nmore\n",
                "treaty-units 1\ncluster abc\nother\nend\n",
                "treaty-units 1\n"
                "cluster aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nend\n",
        };
        for (size_t i = 0; i < ELEMENTSOF(others); i++) {
                put("x", others[i], strlen(others[i]));
                assert_int_equal(state_load(&read, fd, "x"), 1);
        }

        static char huge[100000];
        memset(huge, 'x', sizeof(huge));
        put("x", huge, sizeof(huge));
        assert_int_equal(state_load(&read, fd, "x"), 1);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void) {
        const struct CMUnitTest tests[] = {CASE(test_round_trip), CASE(test_full), CASE(test_damage)};
        return cmocka_run_group_tests(tests, NULL, NULL);
}
