/* One flipped bit, anywhere: what comes back is right, or the log says that it is rotten. Nothing that is
 * known to be durable may be missing without a word, and no wrong byte may ever be returned. */
#include "logtest.h"

#include <stdio.h>

#define SEGMENT(n) "log-000000000000000" #n ".seg"

static SimDisk *make_log(bool sealed, size_t segment_bytes, size_t entry_size) {
        LogTest t = {.sim = simdisk_new(5), .segment_bytes = segment_bytes};
        assert_int_equal(logtest_open(&t), 0);
        logtest_hard(&t, 3, 2);
        assert_int_equal(logtest_settle(&t), 0);
        for (uint64_t i = 1; i <= 20; i += 4) {
                logtest_append(&t, i, i + 3, 3, entry_size);
                assert_int_equal(logtest_settle(&t), 0);
        }
        log_submit_tree(t.log, ++t.seq, "tree-9-f.db");
        assert_int_equal(logtest_settle(&t), 0);
        logtest_hard(&t, 4, 1);
        assert_int_equal(logtest_settle(&t), 0);
        if (sealed)
                log_quiet(t.log);
        log_abandon(t.log);
        simdisk_cut(t.sim, SIM_LOSE_ALL);
        return t.sim;
}

static void names_and_ends(SimDisk *sim, uint64_t ret_ends[static 10]) {
        for (int i = 1; i < 10; i++) {
                char name[64];
                snprintf(name, sizeof(name), "log-%016x.seg", (unsigned)i);
                ret_ends[i] = simdisk_size_of(sim, name);
        }
}

/* Opens a copy with one flip. True when it was called rotten. */
static bool flip_and_open(SimDisk *sim, const char *name, uint64_t offset, uint8_t mask, bool sealed) {
        LogTest t = {.sim = simdisk_copy(sim), .segment_bytes = 4096, .n_opened = 1};
        assert_true(simdisk_flip(t.sim, name, offset, mask));
        int r = logtest_open(&t);
        assert_true(r == 0 || r == LOG_ROTTEN);

        const LogState *s = log_state(t.log);
        assert_true(logtest_read_all(&t, NULL, 0) >= 0); /* each entry is compared in there */
        if (r == 0 && sealed) {
                assert_int_equal(s->last_index, 20);
                assert_int_equal(s->term, 4);
                assert_int_equal(s->vote, 1);
                assert_string_equal(s->tree_name, "tree-9-f.db");
        }
        if (r == 0 && !sealed) {
                /* The last batch has no witness: it may go, as if it had never been acknowledged. */
                assert_int_equal(s->last_index, 20);
                assert_true(s->term == 4 || (s->term == 3 && s->vote == 2));
                assert_string_equal(s->tree_name, "tree-9-f.db");
        }
        if (r == LOG_ROTTEN) {
                assert_true(s->damaged);
                if (sealed) { /* whatever broke, the vote is not forgotten */
                        assert_int_equal(s->term, 4);
                        assert_int_equal(s->vote, 1);
                }
        }

        /* Damage is durable before the log says so, and goes on being usable. */
        logtest_append(&t, s->last_index + 1, s->last_index + 3, 9, 30);
        assert_int_equal(logtest_settle(&t), 0);
        uint64_t last = s->last_index;
        log_abandon(t.log);
        simdisk_cut(t.sim, SIM_LOSE_ALL);
        assert_int_equal(logtest_open(&t), 0);
        assert_int_equal(log_state(t.log)->damaged, r == LOG_ROTTEN);
        assert_int_equal(log_state(t.log)->last_index, last);
        log_abandon(t.log);
        simdisk_free(t.sim);
        return r == LOG_ROTTEN;
}

static void flip_all(bool sealed, size_t segment_bytes, size_t entry_size, size_t expect_files) {
        SimDisk *sim = make_log(sealed, segment_bytes, entry_size);
        uint64_t ends[10];
        names_and_ends(sim, ends);
        size_t files = 0, rotten = 0, fine = 0;
        for (int i = 1; i < 10; i++) {
                char name[64];
                snprintf(name, sizeof(name), "log-%016x.seg", (unsigned)i);
                files += ends[i] > 0;
                for (uint64_t at = 0; at < ends[i]; at++) {
                        bool bad = flip_and_open(sim, name, at, (uint8_t)(1u << (at % 8)), sealed);
                        rotten += bad;
                        fine += !bad;
                }
        }
        simdisk_free(sim);
        print_message("%zu files, %zu flips called rotten, %zu harmless\n", files, rotten, fine);
        assert_true(files >= expect_files);
        assert_true(rotten > 1500 && fine > 500);
}

static void test_flip_sealed(void **state) {
        flip_all(true, 8192, 40, 1);
}

static void test_flip_open_end(void **state) {
        flip_all(false, 8192, 40, 1);
}

static void test_flip_segments(void **state) {
        flip_all(true, 4096, 250, 2);
}

/* Rot under a running log: the read says so. */
static void test_rot_while_running(void **state) {
        LogTest t = {.sim = simdisk_new(5)};
        assert_int_equal(logtest_open(&t), 0);
        logtest_append(&t, 1, 100, 1, 200);
        assert_int_equal(logtest_settle(&t), 0);
        assert_true(simdisk_flip(t.sim, SEGMENT(1), 10000, 4));
        assert_int_equal(logtest_read_all(&t, NULL, 0), -EBADMSG);
        log_abandon(t.log);
        simdisk_free(t.sim);
}

/* A power cut in the middle of handling rot: it is found again, or it is over and damage is stored. */
static void test_cut_in_recovery(void **state) {
        SimDisk *sim = make_log(true, 4096, 250);
        size_t again = 0, over = 0;
        for (SimCut policy = 0; policy < _SIM_CUT_MAX; policy++)
                for (uint64_t n = 0;; n++) {
                        LogTest t = {.sim = simdisk_copy(sim), .segment_bytes = 4096, .n_opened = 1};
                        simdisk_flip(t.sim, SEGMENT(1), 900, 1);
                        simdisk_die_at(t.sim, n);
                        int r = logtest_open(&t);
                        log_abandon(t.log);
                        simdisk_cut(t.sim, policy);
                        int second = logtest_open(&t);
                        assert_true(second == LOG_ROTTEN || second == 0);
                        assert_true(log_state(t.log)->damaged);
                        assert_int_equal(log_state(t.log)->term, 4);
                        assert_int_equal(log_state(t.log)->vote, 1);
                        assert_string_equal(log_state(t.log)->tree_name, "tree-9-f.db");
                        again += second == LOG_ROTTEN;
                        over += second == 0;
                        log_abandon(t.log);
                        simdisk_free(t.sim);
                        if (r == LOG_ROTTEN)
                                break;
                        assert_int_equal(r, -EIO);
                }
        assert_true(again > 0 && over > 0);
        simdisk_free(sim);
}

static uint64_t segments_of(SimDisk *sim) {
        uint64_t ends[10], n = 0;
        names_and_ends(sim, ends);
        for (int i = 1; i < 10; i++)
                n += ends[i] > 0;
        return n;
}

/* A whole segment is gone: from the middle that is rot; at the front nobody can know. */
static void test_lost_segment(void **state) {
        SimDisk *sim = make_log(true, 4096, 250);
        assert_true(segments_of(sim) >= 2);
        LogTest t = {.sim = sim, .segment_bytes = 4096, .n_opened = 1};
        assert_int_equal(logtest_open(&t), 0);
        for (uint64_t i = 21; i < 60; i++) {
                logtest_append(&t, i, i, 5, 150);
                assert_int_equal(logtest_settle(&t), 0);
        }
        log_abandon(t.log);
        simdisk_cut(sim, SIM_LOSE_ALL);
        assert_true(segments_of(sim) >= 3);

        Disk *disk = simdisk_disk(sim);
        assert_int_equal(disk->ops->unlink(disk, SEGMENT(2)), 0);
        assert_int_equal(disk->ops->sync_directory(disk), 0);
        assert_int_equal(logtest_open(&t), LOG_ROTTEN);
        assert_true(log_state(t.log)->last_index <= 20);
        log_abandon(t.log);
        simdisk_free(sim);
}

/* A sector that the disk does not give back is rot of what lay there, wherever it is; a rewrite heals it.
 * Where nothing lies yet it is no loss. */
static void test_unreadable(void **state) {
        SimDisk *sim = make_log(false, 8192, 40);
        size_t rotten = 0;
        for (uint64_t at = 0; at < simdisk_size_of(sim, SEGMENT(1)); at += 512) {
                LogTest t = {.sim = simdisk_copy(sim), .segment_bytes = 8192, .n_opened = 1};
                assert_true(simdisk_unreadable(t.sim, SEGMENT(1), at));
                int r = logtest_open(&t);
                assert_true(r == LOG_ROTTEN || r == 0);
                assert_int_equal(log_state(t.log)->damaged, r == LOG_ROTTEN);
                if (r == 0) /* nothing lay there */
                        assert_int_equal(log_state(t.log)->term, 4);
                assert_true(logtest_read_all(&t, NULL, 0) >= 0);
                rotten += r == LOG_ROTTEN;
                log_abandon(t.log);
                assert_int_equal(logtest_open(&t), 0);
                log_abandon(t.log);
                simdisk_free(t.sim);
        }
        assert_true(rotten > 3);

        /* A disk that fails as a whole is not rot: nothing is touched. */
        LogTest large = {.sim = simdisk_new(6), .segment_bytes = 256 * 1024};
        assert_int_equal(logtest_open(&large), 0);
        logtest_append(&large, 1, 400, 1, 400);
        assert_int_equal(logtest_settle(&large), 0);
        log_abandon(large.log);
        for (uint64_t at = 0; at < 128 * 1024; at += 512)
                assert_true(simdisk_unreadable(large.sim, SEGMENT(1), at));
        uint64_t calls = simdisk_calls(large.sim);
        assert_int_equal(logtest_open(&large), -EIO);
        assert_true(simdisk_calls(large.sim) - calls <= 1);
        simdisk_free(large.sim);
        simdisk_free(sim);
}

/* Written by a newer treaty: refused before anything is touched. */
static void test_newer(void **state) {
        SimDisk *sim = make_log(true, 8192, 40);
        Disk *disk = simdisk_disk(sim);
        DiskFile *file;
        uint8_t header[512];
        assert_int_equal(disk->ops->open(disk, SEGMENT(1), false, &file), 0);
        assert_int_equal(disk->ops->read(file, header, sizeof(header), 0), 512);
        header[32 + 12] = 2; /* the version, and the crc that makes it true */
        uint32_t crc = crc32c(bytes_get_u32(header + 32 + 8), header + 4, 508);
        bytes_put_u32(header, crc);
        assert_int_equal(disk->ops->write(file, header, sizeof(header), 0), 0);
        disk->ops->close(file);

        LogTest t = {.sim = sim, .segment_bytes = 8192, .n_opened = 1};
        uint64_t calls = simdisk_calls(sim);
        assert_int_equal(logtest_open(&t), LOG_NEWER);
        assert_true(simdisk_calls(sim) - calls <= 1); /* the directory was synced */
        simdisk_free(sim);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_flip_sealed),     cmocka_unit_test(test_flip_open_end),
                cmocka_unit_test(test_flip_segments),   cmocka_unit_test(test_rot_while_running),
                cmocka_unit_test(test_cut_in_recovery), cmocka_unit_test(test_lost_segment),
                cmocka_unit_test(test_newer),           cmocka_unit_test(test_unreadable),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
