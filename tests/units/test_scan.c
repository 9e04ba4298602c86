/* Which units are asked about: those whose files have the word, wherever systemd would look for a drop-in,
 * and no others. Real directories. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "units/scan.h"

static char directory[64];
static Words directories;

static int begin(void **state) {
        snprintf(directory, sizeof(directory), "/tmp/treaty-scan-XXXXXX");
        assert_non_null(mkdtemp(directory));
        assert_int_equal(words_add(&directories, "/nonexistent"), 0);
        return words_add(&directories, directory);
}

static int end(void **state) {
        char command[128];
        words_clear(&directories);
        snprintf(command, sizeof(command), "rm -r %s", directory);
        return system(command);
}

static void put(const char *name, const char *content) {
        char path[256];
        snprintf(path, sizeof(path), "%s/%s", directory, name);
        char *slash = strrchr(path, '/');
        *slash = 0;
        (void)mkdir(path, 0755);
        *slash = '/';
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fputs(content, file);
        fclose(file);
}

static const char ours[] = "[Unit]\n[X-Treaty]\nService=x\n", other[] = "[Unit]\nDescription=treaty\n";

static bool covers(const char *unit) {
        Marks marks = {}, single = {};
        assert_int_equal(scan_directories(&marks, &directories), 0);
        assert_int_equal(scan_unit(&single, &directories, unit), 0);
        bool covered = marks_cover(&marks, unit);
        /* A look at one unit finds whatever names it. */
        if (marks_cover(&single, unit))
                assert_true(covered);
        marks_deinit(&marks);
        marks_deinit(&single);
        return covered;
}

static void test_fragments_and_drop_ins(void **state) {
        put("a.service", ours);
        put("b.service", other);
        put("b2.service", other);
        put("b2.service.d/x.conf", other);
        put("b2.service.d/x.conf.bak", ours);
        put("c.service.d/10-treaty.conf", ours);
        put("d@.service", ours);
        put("e@.timer.d/x.conf", ours);
        put("f@one.service.d/x.conf", ours);
        assert_true(covers("a.service"));
        assert_false(covers("b.service"));
        assert_false(covers("b2.service"));
        assert_true(covers("c.service"));
        assert_false(covers("c.socket"));
        assert_true(covers("d@anything.service"));
        assert_false(covers("d.service"));
        assert_true(covers("e@1.timer"));
        assert_true(covers("f@one.service"));
        assert_false(covers("f@two.service"));
}

static void test_wide_drop_ins(void **state) {
        put("web-.service.d/x.conf", ours);
        assert_true(covers("web-front.service"));
        assert_true(covers("web-front-a@1.service"));
        assert_false(covers("web.service"));
        assert_false(covers("webfront.service"));
        assert_false(covers("web-front.socket"));
        put("timer.d/x.conf", ours);
        assert_true(covers("anything.timer"));
        assert_false(covers("anything.path"));
}

static void test_one_unit(void **state) {
        static const char *const names[] = {"a.service", "c.service", "d@x.service", "f@one.service"};
        put("a.service", ours);
        put("c.service.d/1.conf", ours);
        put("d@.service", ours);
        put("f@.service.d/1.conf", ours);
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                Marks marks = {};
                assert_int_equal(scan_unit(&marks, &directories, names[i]), 0);
                assert_true(marks_cover(&marks, names[i]));
                marks_deinit(&marks);
        }
}

static void test_odd_files(void **state) {
        char path[256];
        snprintf(path, sizeof(path), "%s/masked.service", directory);
        assert_int_equal(symlink("/dev/null", path), 0);
        snprintf(path, sizeof(path), "%s/dangling.service", directory);
        assert_int_equal(symlink("nowhere", path), 0);
        snprintf(path, sizeof(path), "%s/loop.service", directory);
        assert_int_equal(symlink("loop.service", path), 0);
        snprintf(path, sizeof(path), "%s/fifo.service", directory);
        assert_int_equal(mkfifo(path, 0600), 0);
        snprintf(path, sizeof(path), "%s/dir.service", directory);
        assert_int_equal(mkdir(path, 0700), 0);
        put(".service", ours);
        put("notes.txt", ours);
        put("x.wants/y.service", ours);

        Marks marks = {};
        assert_int_equal(scan_directories(&marks, &directories), 0);
        assert_int_equal(marks.prefixes.n, 0);
        for (size_t i = 0; i < marks.units.n; i++)
                assert_false(unit_name_is_usable(marks.units.items[i]));
        marks_deinit(&marks);
}

static void test_names(void **state) {
        assert_true(unit_name_is_usable("a.service"));
        assert_true(unit_name_is_usable("a@b.socket"));
        assert_true(unit_name_is_usable("-.mount"));
        assert_false(unit_name_is_usable("a@.service"));
        assert_false(unit_name_is_usable(".service"));
        assert_false(unit_name_is_usable("a.device"));
        assert_false(unit_name_is_usable("../a.service"));
        assert_false(unit_name_is_usable("service"));
        assert_false(unit_name_is_usable(""));
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void) {
        const struct CMUnitTest tests[] = {CASE(test_fragments_and_drop_ins), CASE(test_wide_drop_ins),
                                           CASE(test_one_unit), CASE(test_odd_files), CASE(test_names)};
        return cmocka_run_group_tests(tests, NULL, NULL);
}
