/* When is a tree bad, whom does this host ask then, and what does it do when there is nobody. How it is
 * fetched again is told in stories/rottree.txt and stories/diverged.txt. */
#include "lone.h"

#include <glob.h>
#include <poll.h>

/* ---- The verdict ---- */

static Conf voters(unsigned n) {
        Conf conf = {.n_voters = n};
        for (unsigned i = 0; i < n; i++)
                conf.voters[i].id = i + 1;
        return conf;
}

/* Host i + 1 says digests[i]; ' ' says nothing. We are host 1, or an observer with `mine`. */
static CheckVerdict verdict(const Conf *conf, const char *digests, char mine, char *ret_right) {
        CheckReport reports[LIMIT_VOTERS + 2] = {
                {.host = 1, .index = 6, .digest = {'z'}}}; /* of another check */
        size_t n = 1;
        for (; digests[n - 1]; n++)
                reports[n] = (CheckReport){
                        .host = n,
                        .index = digests[n - 1] == ' ' ? 0 : 7,
                        .digest = {(uint8_t)digests[n - 1]},
                };
        uint8_t right[16], own[16] = {(uint8_t)mine};
        CheckVerdict v = check_verdict(conf, reports, n, 7, own, right);
        if (ret_right)
                *ret_right = (char)right[0];
        return v;
}

static void majority_is_right(void **state) {
        Conf three = voters(3), five = voters(5), one = voters(1);
        char right;

        assert_int_equal(verdict(&three, "aa ", 'a', &right), CHECK_AGREES);
        assert_int_equal(right, 'a');
        assert_int_equal(verdict(&three, "abb", 'a', &right), CHECK_DIVERGES);
        assert_int_equal(right, 'b');
        assert_int_equal(verdict(&three, "baa", 'b', &right), CHECK_DIVERGES); /* whoever leads */
        assert_int_equal(verdict(&three, "aab", 'a', &right), CHECK_AGREES);
        assert_int_equal(verdict(&five, "aab b", 'a', NULL), CHECK_WAITS);
        assert_int_equal(verdict(&five, "aabba", 'a', NULL), CHECK_AGREES);
        assert_int_equal(verdict(&one, "a", 'b', &right), CHECK_DIVERGES); /* an observer's */
        assert_int_equal(right, 'a');
}

static void nobody_is_right(void **state) {
        Conf two = voters(2), three = voters(3), five = voters(5);

        assert_int_equal(verdict(&three, "abc", 'a', NULL), CHECK_UNDECIDABLE);
        assert_int_equal(verdict(&three, "ab ", 'a', NULL), CHECK_WAITS); /* the third may still tell */
        assert_int_equal(verdict(&two, "ab", 'a', NULL), CHECK_UNDECIDABLE);
        assert_int_equal(verdict(&five, "aabb ", 'a', NULL), CHECK_WAITS);
        assert_int_equal(verdict(&five, "aabbc", 'a', NULL), CHECK_UNDECIDABLE);
        assert_int_equal(verdict(&three, "   ", 'a', NULL), CHECK_WAITS);
}

static void not_while_voters_change(void **state) {
        Conf joint = voters(3);
        joint.n_old = 1;
        joint.old[0].id = 1;
        assert_int_equal(verdict(&joint, "abb", 'a', NULL), CHECK_WAITS);
}

/* ---- The book ---- */

static size_t book_of(Lone *lone, char *text, size_t room) {
        int n = state_file_read(simdisk_disk(lone->disk), "book", text, room);
        assert_true(n > 0);
        return (size_t)n;
}

static void book_is_read_back(void **state) {
        Lone *lone = lone_new();
        char text[4096];
        Book book;
        size_t n = book_of(lone, text, sizeof(text));
        assert_int_equal(book_parse(text, n, &book), 0);
        assert_int_equal(book.n_members, 1);
        assert_int_equal(book.members[0].id, lone->agent->host.id);
        assert_int_equal(book.conf.n_voters, 1);
        assert_int_equal(book.conf.voters[0].id, lone->agent->host.id);
        assert_memory_equal(book.cluster, lone->agent->tree_status.cluster, 16);
        lone_free(lone);
}

/* Each byte flipped, each cut: refused. */
static void rotten_book_is_refused(void **state) {
        Lone *lone = lone_new();
        char text[4096], copy[4096];
        Book book;
        size_t n = book_of(lone, text, sizeof(text));
        for (size_t i = 0; i < n; i++) {
                memcpy(copy, text, n + 1);
                copy[i] ^= 0x21;
                assert_true(book_parse(copy, n, &book) < 0);
                memcpy(copy, text, n + 1);
                copy[i] = 0;
                assert_true(book_parse(copy, i, &book) < 0);
        }
        lone_free(lone);
}

/* ---- Alone ---- */

static void with_tree_file(Lone *lone, const char *how) {
        char pattern[100];
        glob_t found;
        snprintf(pattern, sizeof(pattern), "%s/tree-*.db", lone->directory);
        assert_int_equal(glob(pattern, 0, NULL, &found), 0);
        FILE *file = fopen(found.gl_pathv[0], how);
        assert_non_null(file);
        assert_int_equal(fwrite("ZZZZ", 4, 1, file), 1);
        fclose(file);
        globfree(&found);
}

/* Nobody else votes: a tree file that cannot be read ends the start, with words, and nothing is removed. */
static void alone_with_a_rotten_file(void **state) {
        Lone *lone = lone_new();
        Told told = {};
        lone_set(lone, "/a", "1", &told);
        lone_run(lone, 5 * USEC_PER_SEC);
        assert_int_equal(told.last.answer, ANSWER_DONE);
        lone_kill(lone);
        with_tree_file(lone, "r+");
        assert_int_equal(lone_try(lone), -EBADMSG);
        assert_non_null(strstr(lone->said, "nobody to fetch it from"));
        assert_non_null(strstr(lone->said, lone->directory));
        with_tree_file(lone, "r+"); /* still there */
        lone->agent = NULL;
        lone_free(lone);
}

/* The thread of a tree that is given up may still have a checkpoint to tell of: that is read, or the loop
 * would turn for ever. */
static void news_of_a_bad_tree_are_read(void **state) {
        Lone *lone = lone_new();
        Agent *agent = lone->agent;
        char name[LOG_TREE_NAME_BYTES];
        snprintf(name, sizeof(name), "%s", agent->tree_name);
        agent->tree = tree_close(agent->tree);
        agent->options.threads = true;
        assert_int_equal(hall_open_tree(agent, name), 0);

        heal_suspect(agent, true, "so it is told");
        assert_true(agent->heal.dead);
        lone_run(lone, 10 * USEC_PER_MSEC);
        tree_checkpoint(agent->tree);
        struct pollfd fd = {.fd = agent_tree_fd(agent), .events = POLLIN};
        assert_int_equal(poll(&fd, 1, 10000), 1);
        while (!tree_has_news(agent->tree)) /* set behind what makes it readable */
                ;
        lone_run(lone, 10 * USEC_PER_MSEC);
        assert_int_equal(poll(&fd, 1, 0), 0);
        lone_free(lone);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(majority_is_right),           cmocka_unit_test(nobody_is_right),
                cmocka_unit_test(not_while_voters_change),     cmocka_unit_test(book_is_read_back),
                cmocka_unit_test(rotten_book_is_refused),      cmocka_unit_test(alone_with_a_rotten_file),
                cmocka_unit_test(news_of_a_bad_tree_are_read),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
