/* Lists in pages, against a plain model that sorts strings; the edges where "/" sorts between other bytes;
 * tree_changed() against a model that remembers every change. */
#include "help.h"

typedef struct Listed {
        char paths[256][64];
        uint64_t revisions[256];
        size_t n, stop_at;
} Listed;

static int listed_note(const TreeEntry *entry, void *userdata) {
        Listed *listed = userdata;
        assert_true(listed->n < ELEMENTSOF(listed->paths));
        snprintf(listed->paths[listed->n], sizeof(listed->paths[0]), "%s", entry->path);
        listed->revisions[listed->n++] = entry->mod_revision;
        return listed->n == listed->stop_at;
}

static const char *listed_text(Bench *bench, const char *subtree, const char *after, uint32_t flags,
                               uint32_t limit, bool *more) {
        static char text[4096];
        Listed listed = {};
        assert_int_equal(
                tree_list(bench->tree, subtree, after, flags, limit, 1 << 20, listed_note, &listed, more),
                0);
        text[0] = 0;
        for (size_t i = 0; i < listed.n; i++) {
                strcat(text, listed.paths[i]);
                strcat(text, listed.revisions[i] == 0 ? "/ " : " ");
        }
        return text;
}

static void test_edges(void **state) {
        Bench *bench = *state;
        const char *paths[] = {"/a",   "/ab", "/a/b", "/a-b",  "/a/x/y", "/a0",    "/a/x-1", "/a/x.d/z",
                               "/a/y", "/b",  "/a!",  "/a/x-", "/c/d/e", "/c-d/e", "/c.d/e"};
        for (size_t i = 0; i < ELEMENTSOF(paths); i++)
                set(bench, paths[i], "v");
        bool more;
        assert_string_equal(listed_text(bench, "/a", "", 0, 100, &more),
                            "/a /a/b /a/x- /a/x-1 /a/x.d/z /a/x/y /a/y ");
        assert_false(more);
        assert_string_equal(listed_text(bench, "/a", "", TREE_LIST_CHILDREN, 100, &more),
                            "/a/b /a/x/ /a/x- /a/x-1 /a/x.d/ /a/y ");
        assert_string_equal(listed_text(bench, "/", "", TREE_LIST_CHILDREN, 100, &more),
                            "/a /a! /a-b /a0 /ab /b /c/ /c-d/ /c.d/ ");
        assert_string_equal(listed_text(bench, "/a", "/a/x", TREE_LIST_CHILDREN, 2, &more), "/a/x- /a/x-1 ");
        assert_true(more);
        assert_string_equal(listed_text(bench, "/a", "/a/x.d", TREE_LIST_CHILDREN, 2, &more), "/a/y ");
        assert_false(more);
        assert_string_equal(listed_text(bench, "/a", "/a/x/y", 0, 9, &more), "/a/y ");
        assert_string_equal(listed_text(bench, "/a", "/a", TREE_LIST_NAMES, 2, &more), "/a/b /a/x- ");
        assert_true(more);
        assert_string_equal(listed_text(bench, "/a", "/0", 0, 1, &more), "/a ");
        assert_string_equal(listed_text(bench, "/a", "/zzz", 0, 1, &more), "");
        assert_false(more);
        assert_string_equal(listed_text(bench, "/a", "/zzz", TREE_LIST_CHILDREN, 1, &more), "");
        assert_string_equal(listed_text(bench, "/none", "", 0, 1, &more), "");
        assert_string_equal(listed_text(bench, "/none", "", TREE_LIST_CHILDREN, 1, &more), "");
        assert_string_equal(listed_text(bench, "/b", "", TREE_LIST_CHILDREN, 1, &more), "");

        /* Bytes end a page too, but never before its first entry; each() ends it where it likes. */
        Listed listed = {.stop_at = 3};
        assert_int_equal(tree_list(bench->tree, "/", "", 0, 100, 1, listed_note, &listed, &more), 0);
        assert_int_equal(listed.n, 1);
        assert_true(more);
        listed.n = 0;
        assert_int_equal(tree_list(bench->tree, "/", "", 0, 100, 1 << 20, listed_note, &listed, &more), 0);
        assert_int_equal(listed.n, 3);
        assert_true(more);
}

static int by_bytes(const void *a, const void *b) {
        return strcmp(a, b);
}

static void model_path(Random *random, char *to, size_t size) {
        static const char *const parts[] = {"a", "b", "a-", "a.b", "ab", "a0", "!", "z", "a-b"};
        to[0] = 0;
        for (uint64_t n = 1 + random_below(random, 4); n > 0; n--) {
                strncat(to, "/", size - strlen(to) - 1);
                strncat(to, parts[random_below(random, ELEMENTSOF(parts))], size - strlen(to) - 1);
        }
}

/* All pages of a list, as one. */
static void list_all_pages(Bench *bench, const char *subtree, uint32_t flags, uint32_t limit, Listed *all) {
        char after[64] = "";
        bool more = true;
        all->n = 0;
        while (more) {
                size_t before = all->n;
                assert_int_equal(tree_list(bench->tree, subtree, after, flags, limit, 1 << 20, listed_note,
                                           all, &more),
                                 0);
                assert_true(all->n - before <= limit && (!more || all->n > before));
                if (all->n > 0)
                        strcpy(after, all->paths[all->n - 1]);
        }
}

static bool is_below(const char *path, const char *subtree) {
        size_t n = strcmp(subtree, "/") == 0 ? 0 : strlen(subtree);
        return strncmp(path, subtree, n) == 0 && (path[n] == 0 || path[n] == '/');
}

static void test_pages_against_a_model(void **state) {
        Bench *bench = *state;
        Random random = {42};
        char model[64][64];
        size_t n = 0;
        for (size_t i = 0; i < 60; i++) {
                model_path(&random, model[n], sizeof(model[n]));
                set(bench, model[n], "v");
                bool twice = false;
                for (size_t k = 0; k < n; k++)
                        twice = twice || strcmp(model[k], model[n]) == 0;
                n += !twice;
        }
        qsort(model, n, sizeof(model[0]), by_bytes);

        for (size_t i = 0; i < 200; i++) {
                char subtree[64];
                model_path(&random, subtree, sizeof(subtree));
                if (random_below(&random, 4) == 0)
                        strcpy(subtree, "/");
                char want[256][64];
                size_t n_want = 0, prefix = strcmp(subtree, "/") == 0 ? 0 : strlen(subtree);
                for (size_t k = 0; k < n; k++)
                        if (is_below(model[k], subtree))
                                strcpy(want[n_want++], model[k]);
                Listed all = {};
                uint32_t limit = 1 + (uint32_t)random_below(&random, 5);
                list_all_pages(bench, subtree, random_below(&random, 2) ? TREE_LIST_NAMES : 0, limit, &all);
                /* the subtree's own entry, then the rest: by bytes either way */
                assert_int_equal(all.n, n_want);
                for (size_t k = 0; k < n_want; k++)
                        assert_string_equal(all.paths[k], want[k]);

                n_want = 0;
                for (size_t k = 0; k < n; k++) {
                        if (!is_below(model[k], subtree) || strlen(model[k]) <= prefix + 1)
                                continue;
                        size_t end = prefix + 1 + strcspn(model[k] + prefix + 1, "/");
                        char child[64];
                        snprintf(child, sizeof(child), "%.*s", (int)end, model[k]);
                        bool there = false;
                        for (size_t j = 0; j < n_want; j++)
                                there = there || strcmp(want[j], child) == 0;
                        if (!there)
                                strcpy(want[n_want++], child);
                }
                qsort(want, n_want, sizeof(want[0]), by_bytes);
                list_all_pages(bench, subtree, TREE_LIST_CHILDREN, limit, &all);
                assert_int_equal(all.n, n_want);
                for (size_t k = 0; k < n_want; k++)
                        assert_string_equal(all.paths[k], want[k]);
        }
}

/* Exact with deletes and subtree deletes, also across a reopening and pruning. */
static void test_changed(void **state) {
        Bench *bench = *state;
        static const char *const paths[] = {"/a", "/a/b", "/a/b/c", "/a-b", "/ab", "/a/b-c", "/z/1", "/z/2"};
        static const char *const asked[] = {"/", "/a", "/a/b", "/a/b/c", "/z", "/a-b", "/none", "/ab"};
        uint64_t newest[ELEMENTSOF(asked)] = {};
        Random random = {7};

        for (size_t i = 0; i < 600; i++) {
                const char *path = paths[random_below(&random, ELEMENTSOF(paths))];
                uint64_t dice = random_below(&random, 8), before = revision_of(bench);
                bench->live.size = 0;
                if (dice < 4)
                        set(bench, path, "v");
                else
                        delete (bench, path, dice == 4 ? COMMAND_SUBTREE : 0);
                if (random_below(&random, 50) == 0)
                        apply(bench,
                              (Command){.kind = COMMAND_PRUNE, .revision = before > 30 ? before - 30 : 0});
                if (random_below(&random, 40) == 0)
                        bench_reopen(bench, true);

                assert_int_equal(buffer_append(&bench->live, "", 1), 0);
                for (char *line = (char *)bench->live.data; line && *line; line = strchr(line, '\n')) {
                        char kind[16], changed[64];
                        unsigned long long revision;
                        if (sscanf(line, "%llu %15s %63s", &revision, kind, changed) != 3)
                                break;
                        for (size_t k = 0; k < ELEMENTSOF(asked); k++)
                                if (is_below(changed, asked[k]))
                                        newest[k] = revision;
                        line++;
                }
                for (size_t k = 0; k < ELEMENTSOF(asked); k++) {
                        uint64_t revision;
                        assert_int_equal(tree_changed(bench->tree, asked[k], &revision), 0);
                        uint64_t floor = status_of(bench).floor;
                        assert_int_equal(revision, newest[k] > floor ? newest[k] : floor);
                }
        }
        assert_true(status_of(bench).floor > 100);
}

static void test_large_value(void **state) {
        Bench *bench = *state;
        uint8_t *value = malloc(LIMIT_VALUE_BYTES);
        assert_non_null(value);
        for (size_t i = 0; i < LIMIT_VALUE_BYTES; i++)
                value[i] = (uint8_t)(i * 2654435761u >> 13);
        Command command = {.kind = COMMAND_SET, .path = "/big", .value = BYTES(value, LIMIT_VALUE_BYTES)};
        assert_status(apply(bench, command), RESULT_DONE);
        assert_status(apply(bench, command), RESULT_DONE);
        bool urgent;
        assert_true(tree_dirty(bench->tree, &urgent));
        bench_reopen(bench, true);
        TreeEntry entry;
        assert_int_equal(tree_get(bench->tree, "/big", &entry), 0);
        assert_int_equal(entry.value.size, LIMIT_VALUE_BYTES);
        assert_memory_equal(entry.value.data, value, LIMIT_VALUE_BYTES);
        assert_int_equal(tree_scrub(bench->tree), 0);
        free(value);
}

/* The longest path there can be: its children's bounds still fit. */
static void test_longest_path(void **state) {
        Bench *bench = *state;
        char path[LIMIT_PATH_BYTES + 1];
        memset(path, 'x', LIMIT_PATH_BYTES);
        path[0] = path[LIMIT_PATH_BYTES / 2] = '/';
        path[LIMIT_PATH_BYTES] = 0;
        assert_status(set(bench, path, "v"), RESULT_DONE);
        assert_status(apply(bench, (Command){.kind = COMMAND_SET, .path = path, .flags = COMMAND_EPHEMERAL}),
                      RESULT_DONE);
        bool more;
        Listed listed = {};
        assert_int_equal(
                tree_list(bench->tree, path, "", TREE_LIST_CHILDREN, 5, 9999, listed_note, &listed, &more),
                0);
        assert_int_equal(
                tree_list(bench->tree, "/", "", TREE_LIST_CHILDREN, 5, 9999, listed_note, &listed, &more),
                0);
        assert_int_equal(listed.n, 1);
        path[LIMIT_PATH_BYTES / 2] = 0;
        assert_int_equal(
                tree_list(bench->tree, path, "", TREE_LIST_CHILDREN, 5, 9999, listed_note, &listed, &more),
                0);
        assert_int_equal(listed.n, 2);
        path[LIMIT_PATH_BYTES / 2] = '/';
        assert_status(delete (bench, path, COMMAND_SUBTREE), RESULT_DONE);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, bench_setup, bench_teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_edges),       TEST(test_pages_against_a_model), TEST(test_changed),
                TEST(test_large_value), TEST(test_longest_path),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
