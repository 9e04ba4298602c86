/* The real disk and the thread: the same log in a real directory. */
#include "logtest.h"

#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct RealTest {
        char path[64];
        Disk *disk;
        LogOptions options;
} RealTest;

static int setup(void **state) {
        RealTest *t = calloc(1, sizeof(RealTest));
        snprintf(t->path, sizeof(t->path), "%s/treaty-log-XXXXXX", "/tmp");
        assert_non_null(mkdtemp(t->path));
        assert_int_equal(disk_open_directory(&t->disk, t->path), 0);
        t->options = (LogOptions){
                .disk = t->disk,
                .thread = true,
                .segment_bytes = 256 * 1024,
                .mark_delay_usec = 20000,
        };
        *state = t;
        return 0;
}

static int remove_file(const char *name, void *userdata) {
        RealTest *t = userdata;
        return t->disk->ops->unlink(t->disk, name);
}

static int teardown(void **state) {
        RealTest *t = *state;
        assert_int_equal(t->disk->ops->list(t->disk, remove_file, t), 0);
        disk_free(t->disk);
        assert_int_equal(rmdir(t->path), 0);
        free(t);
        return 0;
}

static const uint8_t nonce[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9};

static void wait_for(Log *log, uint64_t seq) {
        uint64_t done = 0;
        bool full;
        while (done < seq) {
                struct pollfd p = {.fd = log_fd(log), .events = POLLIN};
                assert_int_equal(poll(&p, 1, 60000), 1);
                assert_int_equal(log_completed(log, &done, &full), 0);
                assert_false(full);
        }
        assert_int_equal(done, seq);
}

static void submit(Log *log, uint64_t seq, uint64_t index, size_t size) {
        Entry *entry = logtest_entry(index, 1, ENTRY_COMMAND, size);
        assert_int_equal(log_submit(log, &(LogBatch){.seq = seq, .entries = &entry, .n_entries = 1}), 0);
        entry_unref(entry);
}

static int right(Entry *entry, void *userdata) {
        uint64_t *count = userdata;
        assert_int_equal(entry->index, ++*count);
        return logtest_entry_is_right(entry) ? 0 : -EBADMSG;
}

static void test_thread(void **state) {
        RealTest *t = *state;
        Log *log;
        assert_int_equal(log_open(&log, &t->options, nonce), 0);
        for (uint64_t i = 1; i <= 4000; i++) {
                submit(log, i, i, 300);
                log_note_commit(log, i);
                if (i % 500 == 0) {
                        wait_for(log, i);
                        Entry *entries[10];
                        assert_int_equal(log_load(log, i - 9, 10, 1 << 20, entries), 10);
                        for (int k = 0; k < 10; k++) {
                                assert_true(logtest_entry_is_right(entries[k]));
                                entry_unref(entries[k]);
                        }
                }
        }
        assert_int_equal(log_state(log)->last_index, 4000);
        assert_true(log_bytes(log) > 4000 * 300);
        log_trim(log, 3000);
        for (int i = 0; i < 6000 && log_state(log)->base_index < 1000; i++) {
                struct pollfd p = {.fd = log_fd(log), .events = POLLIN};
                poll(&p, 1, 10);
                assert_int_equal(log_completed(log, NULL, NULL), 0);
        }
        uint64_t base = log_state(log)->base_index;
        assert_in_range(base, 1000, 3000);

        /* The mark comes by itself. */
        for (int i = 0; i < 6000 && log_state(log)->commit < 4000; i++) {
                usleep(10000);
                assert_int_equal(log_completed(log, NULL, NULL), 0);
        }
        assert_int_equal(log_state(log)->commit, 4000);

        log_abandon(log);
        assert_int_equal(log_open(&log, &t->options, nonce), 0);
        assert_int_equal(log_state(log)->commit, 4000);
        assert_false(log_state(log)->clean);
        uint64_t count = log_state(log)->base_index;
        assert_true(count >= base);
        assert_int_equal(log_replay(log, count + 1, right, &count), 0);
        assert_int_equal(count, 4000);
        submit(log, 1, 4001, 10); /* not waited for: the close does */
        log_close(log);

        assert_int_equal(log_open(&log, &t->options, nonce), 0);
        assert_true(log_state(log)->clean);
        assert_int_equal(log_state(log)->last_index, 4001);
        assert_int_equal(log_state(log)->start, 3);
        log_close(log);
}

static bool tells(Log *log, int msec) {
        struct pollfd p = {.fd = log_fd(log), .events = POLLIN};
        return poll(&p, 1, msec) == 1;
}

static void test_patience(void **state) {
        RealTest *t = *state;
        uint64_t done = 0;
        bool full;
        Log *log;
        assert_int_equal(log_open(&log, &t->options, nonce), 0);
        log_be_patient(log, true);
        submit(log, 1, 1, 10);
        for (int i = 0; i < 600 && done < 1; i++) { /* done, and nobody is woken for it */
                assert_false(tells(log, 100));
                assert_int_equal(log_completed(log, &done, &full), 0);
        }
        assert_int_equal(done, 1);

        /* What was done meanwhile is told when patience ends. */
        submit(log, 2, 2, 10);
        assert_false(tells(log, 300));
        log_be_patient(log, false);
        assert_true(tells(log, 60000)); /* at once, unless the disk took longer */
        wait_for(log, 2);

        /* The order of a tree ends it. */
        log_be_patient(log, true);
        assert_int_equal(log_submit_tree(log, 3, "tree"), 0);
        wait_for(log, 3);
        log_close(log);
}

/* An idle log does not touch its disk. */
static void test_idle(void **state) {
        RealTest *t = *state;
        Log *log;
        assert_int_equal(log_open(&log, &t->options, nonce), 0);
        submit(log, 1, 1, 10);
        wait_for(log, 1);
        char path[128];
        struct stat before = {}, after;
        snprintf(path, sizeof(path), "%s/log-0000000000000001.seg", t->path);
        for (int i = 0, quiet = 0; quiet < 3; i++) { /* half a second of nothing, a minute after the write */
                assert_true(i < 300);
                usleep(200000);
                assert_int_equal(stat(path, &after), 0);
                assert_int_equal(after.st_mode & 0777, 0600);
                bool same = memcmp(&before.st_mtim, &after.st_mtim, sizeof(after.st_mtim)) == 0;
                quiet = same ? quiet + 1 : 0;
                before = after;
        }
        log_close(log);
}

static void test_locked(void **state) {
        RealTest *t = *state;
        Log *log, *other = NULL;
        assert_int_equal(log_open(&log, &t->options, nonce), 0);
        assert_int_equal(log_open(&other, &t->options, nonce), LOG_LOCKED);

        pid_t pid = fork();
        if (pid == 0) {
                Disk *disk;
                LogOptions options = t->options;
                if (disk_open_directory(&disk, t->path) < 0)
                        _exit(2);
                options.disk = disk;
                _exit(log_open(&other, &options, nonce) == LOG_LOCKED ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
        log_close(log);
        assert_int_equal(log_open(&log, &t->options, nonce), 0);
        log_close(log);
}

static void test_names(void **state) {
        RealTest *t = *state;
        DiskFile *file;
        assert_int_equal(t->disk->ops->open(t->disk, "absent", false, &file), -ENOENT);
        assert_int_equal(t->disk->ops->open(t->disk, "../escape", true, &file), -EINVAL);
        assert_int_equal(t->disk->ops->open(t->disk, "", true, &file), -EINVAL);
        assert_int_equal(t->disk->ops->rename(t->disk, "a", "/b"), -EINVAL);

        assert_int_equal(t->disk->ops->open(t->disk, "a", true, &file), 0);
        assert_int_equal(t->disk->ops->write(file, "hello", 5, 3), 0);
        char text[16] = {};
        assert_int_equal(t->disk->ops->read(file, text, sizeof(text), 4), 4);
        assert_string_equal(text, "ello");
        assert_int_equal(t->disk->ops->truncate(file, 5), 0);
        assert_int_equal(t->disk->ops->size(file), 5);
        assert_int_equal(t->disk->ops->sync(file), 0);
        t->disk->ops->close(file);
        assert_int_equal(t->disk->ops->sync_directory(t->disk), 0);
}

/* Every call says what the kernel said, and leaves nothing behind. */
static void test_errors(void **state) {
        RealTest *t = *state;
        const DiskOps *ops = t->disk->ops;
        DiskFile *file;
        char path[96], text[8];
        Disk *none = NULL;
        assert_int_equal(disk_open_directory(&none, "/nowhere/at/all"), -ENOENT);
        snprintf(path, sizeof(path), "%s/a", t->path);
        assert_int_equal(ops->open(t->disk, "a", true, &file), 0);
        assert_int_equal(disk_open_directory(&none, path), -ENOTDIR);
        assert_null(none);

        assert_int_equal(ops->read(file, text, 4, UINT64_MAX - 99), -EINVAL);
        assert_int_equal(ops->write(file, text, 4, UINT64_MAX - 99), -EINVAL);
        assert_int_equal(ops->truncate(file, UINT64_MAX - 99), -EINVAL);
        assert_int_equal(ops->size(file), 0);
        ops->close(file);
        ops->close(NULL);

        assert_int_equal(ops->rename(t->disk, "absent", "b"), -ENOENT);
        assert_int_equal(ops->rename(t->disk, ".hidden", "b"), -EINVAL);
        assert_int_equal(ops->rename(t->disk, "a", "b"), 0);
        assert_int_equal(ops->unlink(t->disk, "a"), -ENOENT);
        assert_int_equal(ops->unlink(t->disk, "../a"), -EINVAL);
        assert_int_equal(ops->unlink(t->disk, "b"), 0);
        assert_null(disk_free(NULL));
}

static int stop_at_once(const char *name, void *userdata) {
        ++*(unsigned *)userdata;
        return 7;
}

static void test_list(void **state) {
        RealTest *t = *state;
        const DiskOps *ops = t->disk->ops;
        unsigned n = 0;
        assert_int_equal(ops->list(t->disk, stop_at_once, &n), 0);
        for (char name[] = "a"; name[0] < 'd'; name[0]++) {
                DiskFile *file;
                assert_int_equal(ops->open(t->disk, name, true, &file), 0);
                ops->close(file);
        }
        assert_int_equal(ops->list(t->disk, stop_at_once, &n), 7);
        assert_int_equal(n, 1);

        /* A directory that somebody removed. */
        char path[] = "/tmp/treaty-log-XXXXXX";
        Disk *disk;
        DiskFile *file;
        assert_non_null(mkdtemp(path));
        assert_int_equal(disk_open_directory(&disk, path), 0);
        assert_int_equal(rmdir(path), 0);
        assert_int_equal(ops->list(disk, stop_at_once, &n), 0);
        assert_int_equal(n, 1);
        assert_int_equal(ops->open(disk, "a", true, &file), -ENOENT);
        assert_int_equal(ops->lock(disk), -ENOENT);
        disk_free(disk);
}

static void test_one_lock(void **state) {
        RealTest *t = *state;
        Disk *other;
        assert_int_equal(disk_open_directory(&other, t->path), 0);
        assert_int_equal(t->disk->ops->lock(t->disk), 0);
        assert_int_equal(t->disk->ops->lock(t->disk), -EWOULDBLOCK);
        assert_int_equal(other->ops->lock(other), -EWOULDBLOCK);
        t->disk->ops->unlock(t->disk);
        t->disk->ops->unlock(t->disk); /* has none */
        assert_int_equal(other->ops->lock(other), 0);
        disk_free(other);
        assert_int_equal(t->disk->ops->lock(t->disk), 0);
}

int main(void) {
#define ONE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        const struct CMUnitTest tests[] = {ONE(test_thread), ONE(test_patience), ONE(test_idle),
                                           ONE(test_locked), ONE(test_names),    ONE(test_errors),
                                           ONE(test_list),   ONE(test_one_lock)};
        return cmocka_run_group_tests(tests, NULL, NULL);
}
