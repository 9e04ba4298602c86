/* Watches at the edges: held back by a mark, and on a tree that a full disk has set back. */
#include "lone.h"

typedef struct Seen {
        unsigned n, n_marks, n_compacted;
        uint64_t revisions[16];
        int answer; /* to the next event */
} Seen;

static int deliver(const WatchEvent *event, void *userdata) {
        Seen *seen = userdata;
        if (event->kind == WATCH_MARK)
                seen->n_marks++;
        else if (event->kind == WATCH_COMPACTED)
                seen->n_compacted++;
        else if (seen->n < ELEMENTSOF(seen->revisions))
                seen->revisions[seen->n++] = event->revision;
        return seen->answer;
}

static void set(Lone *lone, const char *path) {
        Told told = {};
        lone_set(lone, path, "x", &told);
        lone_run(lone, 50 * USEC_PER_MSEC);
        assert_int_equal(told.last.answer, ANSWER_DONE);
}

/* SQLite took two revisions back (as far as the hall sees: told is ahead of the tree). Who was not told of
 * them hears of them when they are there again; who was is not told twice. */
static void what_a_full_disk_took_back_is_told_once(void **state) {
        Lone *lone = lone_new();
        Seen live = {}, late = {};
        Watch *watch_live, *watch_late;
        uint64_t revision;

        set(lone, "/k/0");
        assert_int_equal(
                agent_watch(lone->agent, "/k", WATCH_SUBTREE, 0, deliver, &live, &watch_live, &revision), 0);
        lone->agent->told_revision = revision + 2;
        assert_int_equal(agent_watch(lone->agent, "/k", WATCH_SUBTREE, revision + 1, deliver, &late,
                                     &watch_late, &revision),
                         0);
        lone_run(lone, 50 * USEC_PER_MSEC);
        for (unsigned i = 1; i <= 3; i++)
                set(lone, "/k/1");
        assert_int_equal(live.n, 1);
        assert_int_equal(late.n, 3);
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(late.revisions[i], revision - 1 + i);
        watch_free(watch_live);
        watch_free(watch_late);
        lone_free(lone);
}

/* A quiet watch that is held back by a mark goes on behind the mark, not where it began: history may not
 * reach back to there any more. */
static void a_mark_is_a_place(void **state) {
        Lone *lone = lone_new();
        Seen seen = {.answer = 1};
        Watch *watch;
        uint64_t revision;

        set(lone, "/k/0");
        assert_int_equal(agent_watch(lone->agent, "/quiet", WATCH_SUBTREE | WATCH_MARKS, 0, deliver, &seen,
                                     &watch, &revision),
                         0);
        for (unsigned i = 0; i < 5; i++)
                set(lone, "/k/0");
        lone_run(lone, 11 * USEC_PER_SEC);
        assert_int_equal(seen.n_marks, 1);
        Command prune = {.kind = COMMAND_PRUNE, .host = lone->agent->host.id, .revision = revision + 4};
        assert_int_equal(hall_propose_own(lone->agent, &prune), 0);
        lone_run(lone, USEC_PER_SEC);
        seen.answer = 0;
        watch_resume(watch);
        set(lone, "/quiet/1");
        assert_int_equal(seen.n_compacted, 0);
        assert_int_equal(seen.n, 1);
        watch_free(watch);
        lone_free(lone);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(what_a_full_disk_took_back_is_told_once),
                cmocka_unit_test(a_mark_is_a_place),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
