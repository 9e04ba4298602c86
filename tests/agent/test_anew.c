/* A host that begins anew, killed or without power at every call of its disk: at the next start it is the
 * old host, with all that it had, or the new one, with nothing but the token; never something between. */
#include "agent/hall.h"
#include "agent/roof.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "tests/log/simdisk.h"

#define TOKEN "a token, as text"

static const char *const old_files[] = {"host", "key", "log-0000000000000001.seg",
                                        "tree-0000000000000001-00000001.db", "members"};

static void put(Disk *disk, const char *name, const char *text) {
        DiskFile *file;
        assert_int_equal(disk->ops->open(disk, name, true, &file), 0);
        assert_int_equal(disk->ops->write(file, text, strlen(text), 0), 0);
        assert_int_equal(disk->ops->sync(file), 0);
        disk->ops->close(file);
}

static SimDisk *old_host(uint64_t seed) {
        SimDisk *sim = simdisk_new(seed);
        Disk *disk = simdisk_disk(sim);
        for (size_t i = 0; i < ELEMENTSOF(old_files); i++)
                put(disk, old_files[i], old_files[i]);
        put(disk, "lock", "");
        assert_int_equal(disk->ops->sync_directory(disk), 0);
        return sim;
}

static int ask(Disk *disk) {
        return state_file_replace(disk, "anew", "anew.new", TOKEN, strlen(TOKEN));
}

static int count(const char *name, void *userdata) {
        *(unsigned *)userdata += strcmp(name, "lock") != 0;
        return 0;
}

static bool is_old(Disk *disk) {
        for (size_t i = 0; i < ELEMENTSOF(old_files); i++) {
                char text[64] = "";
                if (state_file_read(disk, old_files[i], text, sizeof(text)) < 0 ||
                    strcmp(text, old_files[i]) != 0)
                        return false;
        }
        return true;
}

static bool is_new(Disk *disk) {
        char token[TOKEN_TEXT_BYTES];
        unsigned n = 0;
        return anew_token(disk, token) == 0 && strcmp(token, TOKEN) == 0 &&
               disk->ops->list(disk, count, &n) == 0 && n == 1;
}

/* Dies at its n-th call, and starts again: killed only, or after a power cut. */
static bool died(SimDisk *sim, uint64_t n, unsigned how, int (*work)(Disk *)) {
        simdisk_die_at(sim, n);
        bool ended = work(simdisk_disk(sim)) < 0;
        simdisk_die_at(sim, UINT64_MAX);
        simdisk_kill(sim);
        if (how < _SIM_CUT_MAX)
                simdisk_cut(sim, (SimCut)how);
        return ended;
}

/* While it notes the operator's wish: it was noted, or it was not. */
static void asking_is_all_or_nothing(void **state) {
        unsigned n_old = 0, n_new = 0;
        bool ended = true;
        for (uint64_t n = 0; ended; n++)
                for (unsigned how = 0; how <= _SIM_CUT_MAX; how++)
                        for (uint64_t seed = 1; seed <= 8; seed++) {
                                _cleanup_(simdisk_freep) SimDisk *sim = old_host(seed);
                                Disk *disk = simdisk_disk(sim);
                                ended = died(sim, n, how, ask);
                                int r = anew_begin(disk);
                                assert_true(r == 0 ? is_old(disk) && !is_new(disk) : r == 1 && is_new(disk));
                                assert_true(ended || r == 1);
                                n_old += r == 0;
                                n_new += r == 1;
                        }
        assert_true(n_old > 0 && n_new > 0);
}

/* While it drops all it had: the next start, which may die, too, does the rest. */
static void beginning_is_done_at_last(void **state) {
        bool ended = true;
        for (uint64_t n = 0; ended; n++)
                for (unsigned how = 0; how <= _SIM_CUT_MAX; how++)
                        for (uint64_t seed = 1; seed <= 8; seed++) {
                                _cleanup_(simdisk_freep) SimDisk *sim = old_host(seed);
                                Disk *disk = simdisk_disk(sim);
                                assert_int_equal(ask(disk), 0);
                                ended = died(sim, n, how, anew_begin);
                                (void)died(sim, seed % 5, (how + 1) % (_SIM_CUT_MAX + 1), anew_begin);
                                assert_true(anew_begin(disk) >= 0);
                                assert_true(is_new(disk));
                                assert_int_equal(anew_begin(disk), 0); /* and no start does it once more */
                        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(asking_is_all_or_nothing),
                cmocka_unit_test(beginning_is_done_at_last),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
