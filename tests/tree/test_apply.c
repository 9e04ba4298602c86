/* Each command with each of its outcomes, through the door; and "exactly once" by the stories that shaped
 * the rule: an entry that comes twice, a host that is removed and comes back, an announcement that is made
 * twice. */
#include "help.h"

#include <time.h>

static uint64_t mod_revision(Bench *bench, const char *path) {
        TreeEntry entry;
        assert_int_equal(tree_get(bench->tree, path, &entry), 0);
        return entry.mod_revision;
}

static void test_set_create_delete(void **state) {
        Bench *bench = *state;
        Result one = set(bench, "/a/b", "1");
        assert_status(one, RESULT_DONE);
        assert_int_equal(one.revision, 1);
        assert_int_equal(set(bench, "/a/b", "2").revision, 2);

        TreeEntry entry;
        assert_int_equal(tree_get(bench->tree, "/a/b", &entry), 0);
        assert_int_equal(entry.create_revision, 1);
        assert_int_equal(entry.mod_revision, 2);
        assert_int_equal(entry.version, 2);
        assert_int_equal(entry.owner_host, 0);
        assert_string_equal(entry.path, "/a/b");
        assert_memory_equal(entry.value.data, "2", 1);

        Result exists = apply(bench, (Command){.kind = COMMAND_CREATE, .path = "/a/b"});
        assert_status(exists, RESULT_EXISTS);
        assert_int_equal(exists.revision, 2);
        assert_status(apply(bench, (Command){.kind = COMMAND_CREATE, .path = "/a/c"}), RESULT_DONE);
        assert_string_equal(value_of(bench, "/a/c"), "");

        assert_int_equal(delete (bench, "/a/b", 0).revision, 4);
        assert_null(value_of(bench, "/a/b"));
        Result absent = delete (bench, "/a/b", 0);
        assert_status(absent, RESULT_ABSENT);
        assert_int_equal(absent.revision, 4);
        assert_int_equal(status_of(bench).n_entries, 1);

        /* Born anew. */
        set(bench, "/a/b", "3");
        assert_int_equal(tree_get(bench->tree, "/a/b", &entry), 0);
        assert_int_equal(entry.create_revision, 5);
        assert_int_equal(entry.version, 1);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

static void test_delete_subtree(void **state) {
        Bench *bench = *state;
        const char *paths[] = {"/a", "/a/b", "/a/b/c", "/a-b", "/ab", "/a/z", "/b"};
        for (size_t i = 0; i < ELEMENTSOF(paths); i++)
                set(bench, paths[i], paths[i]);
        bench->live.size = 0;

        Result result = delete (bench, "/a", COMMAND_SUBTREE);
        assert_status(result, RESULT_DONE);
        assert_int_equal(result.revision, 8);
        assert_int_equal(revision_of(bench), 8);
        assert_int_equal(buffer_append(&bench->live, "", 1), 0);
        assert_string_equal((char *)bench->live.data,
                            "8 delete /a 1 create 1 version 0 owner 0 value  before /a\n"
                            "8 delete /a/b 1 create 2 version 0 owner 0 value  before /a/b\n"
                            "8 delete /a/b/c 1 create 3 version 0 owner 0 value  before /a/b/c\n"
                            "8 delete /a/z 1 create 6 version 0 owner 0 last value  before /a/z\n");
        assert_non_null(value_of(bench, "/a-b"));
        assert_non_null(value_of(bench, "/ab"));
        assert_status(delete (bench, "/a", COMMAND_SUBTREE), RESULT_ABSENT);
        assert_status(delete (bench, "/", COMMAND_SUBTREE), RESULT_DONE);
        assert_int_equal(status_of(bench).n_entries, 0);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

/* What one command ends is bounded, for nothing else applies meanwhile; beyond it nothing happens. */
static void test_delete_of_too_many(void **state) {
        Bench *bench = *state;
        char path[32];
        set(bench, "/a", "1");
        for (unsigned i = 0; i < LIMIT_DELETE_ENTRIES; i++) {
                snprintf(path, sizeof(path), "/a/%03u/%03u", i / 200, i % 200);
                set(bench, path, "a value of about thirty bytes.");
        }
        TreeStatus before = status_of(bench), after;
        struct timespec begin, end;
        assert_status(delete (bench, "/", COMMAND_SUBTREE), RESULT_TOO_MANY);
        after = status_of(bench);
        assert_int_equal(after.n_entries, before.n_entries);
        assert_int_equal(after.revision, before.revision);

        assert_status(delete (bench, "/a/000", COMMAND_SUBTREE), RESULT_DONE);
        assert_int_equal(tree_commit(bench->tree), 0);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
        assert_status(delete (bench, "/a", COMMAND_SUBTREE), RESULT_DONE);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
        assert_int_equal(status_of(bench).n_entries, before.n_entries - LIMIT_DELETE_ENTRIES - 1);
        print_message("DELETE of %u entries: %.0f ms of CPU\n", LIMIT_DELETE_ENTRIES - 199,
                      (double)(end.tv_sec - begin.tv_sec) * 1e3 +
                              (double)(end.tv_nsec - begin.tv_nsec) / 1e6);
}

static void test_invalid(void **state) {
        Bench *bench = *state;
        static char big[LIMIT_VALUE_BYTES + 1], longer[OWNER_TAG_BYTES + 2];
        memset(longer, 'x', OWNER_TAG_BYTES + 1);
        const Command commands[] = {
                {.kind = COMMAND_SET, .path = NULL},
                {.kind = COMMAND_SET, .path = "/"},
                {.kind = COMMAND_SET, .path = "a"},
                {.kind = COMMAND_SET, .path = "/a/"},
                {.kind = COMMAND_SET, .path = "/a/../b"},
                {.kind = COMMAND_SET, .path = "/a", .flags = 1u << 9},
                {.kind = COMMAND_SET, .path = "/a", .flags = COMMAND_SUBTREE},
                {.kind = COMMAND_CREATE, .path = "/a", .flags = COMMAND_IF_MOD_REVISION},
                {.kind = COMMAND_SET, .path = "/a", .value = {(uint8_t *)big, sizeof(big)}},
                {.kind = COMMAND_SET, .path = "/a", .flags = COMMAND_EPHEMERAL, .owner_tag = longer},
                {.kind = COMMAND_SET, .path = "/a", .flags = COMMAND_EPHEMERAL, .owner_tag = "\xff"},
                {.kind = COMMAND_DELETE, .path = "/a", .flags = COMMAND_SUBTREE | COMMAND_IF_OWNED},
                {.kind = COMMAND_DELETE, .path = "/a", .flags = COMMAND_SUBTREE | COMMAND_IF_MOD_REVISION},
                {.kind = COMMAND_ADD_TOKEN},
                {.kind = COMMAND_REMOVE_TOKEN},
                {.kind = COMMAND_ADD_MEMBER},
                {.kind = COMMAND_UPDATE_MEMBER},
        };
        for (size_t i = 0; i < ELEMENTSOF(commands); i++)
                assert_status(apply(bench, commands[i]), RESULT_INVALID);
        assert_int_equal(revision_of(bench), 0);
        assert_status(announce(bench, 9, "nobody----------"), RESULT_NO_MEMBER);

        Command odd = {.kind = COMMAND_ANNOUNCE, .host = 1, .nonce = BYTES("short", 5)};
        Result result;
        assert_int_equal(apply_raw(bench, &odd, &result), 0);
        assert_status(result, RESULT_INVALID);
}

static void test_conditions(void **state) {
        Bench *bench = *state;
        Command absent = {.kind = COMMAND_SET, .path = "/a", .flags = COMMAND_IF_MOD_REVISION};
        assert_status(apply(bench, absent), RESULT_DONE);
        assert_status(apply(bench, absent), RESULT_CONFLICT);
        absent.revision = mod_revision(bench, "/a");
        assert_status(apply(bench, absent), RESULT_DONE);
        assert_status(apply(bench, (Command){.kind = COMMAND_DELETE,
                                             .path = "/a",
                                             .flags = COMMAND_IF_MOD_REVISION,
                                             .revision = 1}),
                      RESULT_CONFLICT);

        Command owned = {.kind = COMMAND_DELETE, .path = "/a", .flags = COMMAND_IF_OWNED};
        assert_status(apply(bench, owned), RESULT_CONFLICT);
        Command ephemeral = {.kind = COMMAND_SET, .path = "/a", .flags = COMMAND_EPHEMERAL};
        assert_status(apply(bench, ephemeral), RESULT_DONE);
        owned.owner_tag = "other";
        assert_status(apply(bench, owned), RESULT_CONFLICT);
        owned.owner_tag = "tag";
        owned.generation = 7;
        assert_status(apply(bench, owned), RESULT_CONFLICT);
        owned.generation = 0;
        Command again = {.kind = COMMAND_SET, .path = "/a", .flags = COMMAND_EPHEMERAL | COMMAND_IF_OWNED};
        assert_status(apply(bench, again), RESULT_DONE);
        assert_status(apply(bench, owned), RESULT_DONE);
        assert_status(apply(bench, owned), RESULT_ABSENT);
        again.path = "/none";
        assert_status(apply(bench, again), RESULT_CONFLICT);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

static int count_entry(const TreeEntry *entry, void *userdata) {
        ++*(size_t *)userdata;
        return 0;
}

static size_t owned_by(Bench *bench, uint64_t host, uint64_t generation) {
        size_t n = 0;
        assert_int_equal(tree_owned(bench->tree, host, generation, count_entry, &n), 0);
        return n;
}

static void test_sessions(void **state) {
        Bench *bench = *state;
        add_host(bench, 2, "h2", MEMBER_FULL);
        Command one = {.kind = COMMAND_SET, .host = 2, .path = "/e/1", .flags = COMMAND_EPHEMERAL};
        Command two = {.kind = COMMAND_CREATE, .host = 2, .path = "/e/2", .flags = COMMAND_EPHEMERAL};
        assert_status(apply(bench, one), RESULT_DONE);
        assert_status(apply(bench, two), RESULT_DONE);
        set(bench, "/e/3", "permanent");
        assert_int_equal(owned_by(bench, 2, 0), 2);
        assert_int_equal(owned_by(bench, 2, 1), 2);
        assert_int_equal(owned_by(bench, 2, 2), 0);
        assert_int_equal(owned_by(bench, 1, 0), 0);

        /* A SET without owner detaches; taken over, it is another's. */
        set(bench, "/e/1", "mine");
        assert_int_equal(owned_by(bench, 2, 0), 1);
        assert_status(apply(bench, one), RESULT_DONE);
        assert_int_equal(owned_by(bench, 2, 0), 2);

        /* The conditional end: wrong generation, right one, again. */
        uint64_t before = revision_of(bench);
        Result result;
        Command end = {.kind = COMMAND_END_SESSION, .subject = 2, .generation = 7};
        assert_int_equal(apply_raw(bench, &end, &result), 0);
        assert_status(result, RESULT_NO_SESSION);
        end.generation = 1;
        bench->live.size = 0;
        assert_int_equal(apply_raw(bench, &end, &result), 0);
        assert_status(result, RESULT_DONE);
        assert_int_equal(result.revision, before + 1);
        assert_int_equal(buffer_append(&bench->live, "", 1), 0);
        assert_non_null(strstr((char *)bench->live.data, "delete /e/1"));
        assert_non_null(strstr((char *)bench->live.data, "delete /e/2"));
        bench->live.size = 0;
        assert_int_equal(apply_raw(bench, &end, &result), 0);
        assert_status(result, RESULT_NO_SESSION);
        assert_null(value_of(bench, "/e/1"));
        assert_non_null(value_of(bench, "/e/3"));
        assert_status(apply(bench, one), RESULT_NO_SESSION);

        /* Attached anew: the old generation owns nothing any more. */
        Result attached = attach(bench, 2);
        assert_int_equal(attached.number, 2);
        assert_int_equal(attached.revision, before + 1); /* nothing in the tree changed */
        one.generation = 1;
        assert_status(apply(bench, one), RESULT_NO_SESSION);
        one.generation = 2;
        assert_status(apply(bench, one), RESULT_DONE);
        uint64_t with_entry = revision_of(bench);
        assert_int_equal(attach(bench, 2).revision, with_entry + 1);
        assert_null(value_of(bench, "/e/1"));
        TreeSession session;
        assert_int_equal(tree_session(bench->tree, 2, &session), 0);
        assert_int_equal(session.generation, 3);
        assert_true(session.attached);
        assert_int_equal(tree_session(bench->tree, 99, &session), TREE_NONE);

        /* It goes on with another timeout, and so does what it owns; one that is over does not. */
        one.generation = 3;
        assert_status(apply(bench, one), RESULT_DONE);
        Command longer = {.kind = COMMAND_ATTACH, .host = 2, .generation = 2, .lasts_usec = 9};
        assert_status(apply(bench, longer), RESULT_NO_SESSION);
        longer.generation = 3;
        result = apply(bench, longer);
        assert_status(result, RESULT_DONE);
        assert_int_equal(result.number, 3);
        assert_non_null(value_of(bench, "/e/1"));
        assert_int_equal(tree_session(bench->tree, 2, &session), 0);
        assert_int_equal(session.generation, 3);
        assert_int_equal(session.lasts_usec, 9);
        end.generation = 3;
        assert_int_equal(apply_raw(bench, &end, &result), 0);
        assert_status(result, RESULT_DONE);
        assert_null(value_of(bench, "/e/1"));
        assert_status(apply(bench, longer), RESULT_NO_SESSION);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

static void test_leaf(void **state) {
        Bench *bench = *state;
        add_host(bench, 2, "leafy", MEMBER_LEAF);
        static const struct {
                const char *path;
                ResultStatus want;
        } cases[] = {
                {"/hosts/leafy", RESULT_DONE},
                {"/hosts/leafy/x/y", RESULT_DONE},
                {"/services/web/leafy", RESULT_DONE},
                {"/services/web/leafy:80", RESULT_DONE},
                {"/services/web/leafy:80/x", RESULT_DONE},
                {"/hosts", RESULT_DENIED},
                {"/hosts/leafy2", RESULT_DENIED},
                {"/hosts/leafy:80", RESULT_DENIED},
                {"/hosts/other", RESULT_DENIED},
                {"/services/web", RESULT_DENIED},
                {"/services/leafy", RESULT_DENIED},
                {"/services/web/other", RESULT_DENIED},
                {"/services/web/leafy:", RESULT_DENIED},
                {"/services/web/leafy:8x", RESULT_DENIED},
                {"/services/web/leafyx", RESULT_DENIED},
                {"/services/web/x/leafy", RESULT_DENIED},
                {"/config", RESULT_DENIED},
        };
        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                assert_status(apply(bench, (Command){.kind = COMMAND_SET, .host = 2, .path = cases[i].path}),
                              cases[i].want);
        assert_status(
                apply(bench,
                      (Command){.kind = COMMAND_DELETE, .host = 2, .path = "/", .flags = COMMAND_SUBTREE}),
                RESULT_DENIED);
        Token token = token_of(9, MEMBER_FULL, 1, USEC_PER_SEC);
        Member joiner = member_of(3, "h3"), self = member_of(2, "h1x");
        const Command denied[] = {
                {.kind = COMMAND_ADD_TOKEN, .token = &token},
                {.kind = COMMAND_REMOVE_TOKEN, .token = &token},
                {.kind = COMMAND_ADD_MEMBER, .token = &token, .member = &joiner},
                {.kind = COMMAND_REMOVE_MEMBER, .subject = 1},
                {.kind = COMMAND_END_SESSION, .subject = 1, .generation = 1},
                {.kind = COMMAND_UPDATE_MEMBER, .member = &self}, /* would rename itself elsewhere */
                {.kind = COMMAND_UPDATE_MEMBER, .member = &joiner},
                {.kind = COMMAND_PRUNE, .revision = 1},
        };
        for (size_t i = 0; i < ELEMENTSOF(denied); i++) {
                Command command = denied[i];
                command.host = 2;
                assert_status(apply(bench, command), RESULT_DENIED);
        }
}

static void test_tokens_and_members(void **state) {
        Bench *bench = *state;
        bench->cluster_usec = 1000;
        Token token = token_of(1, MEMBER_FULL, 2, 500);
        Command add_token = {.kind = COMMAND_ADD_TOKEN, .token = &token};
        assert_status(apply(bench, add_token), RESULT_DONE);
        assert_status(apply(bench, add_token), RESULT_EXISTS);
        Token there;
        assert_int_equal(tree_token(bench->tree, token.id, &there), 0);
        assert_int_equal(there.expires_cluster_usec, 1500);
        assert_memory_equal(there.public_key, token.public_key, TOKEN_PUBLIC_BYTES);

        Member h2 = member_of(2, "h2"), h3 = member_of(3, "h3"), h4 = member_of(4, "h4");
        Token unknown = token_of(8, MEMBER_FULL, 1, 1);
        Command join = {.kind = COMMAND_ADD_MEMBER, .token = &unknown, .member = &h2};
        assert_status(apply(bench, join), RESULT_TOKEN_UNKNOWN);
        join.token = &token;
        bench->signature_valid = false;
        assert_status(apply(bench, join), RESULT_SIGNATURE_WRONG);
        bench->signature_valid = true;
        Member same_name = member_of(5, "h1"), same_id = member_of(1, "h9");
        memset(same_id.keys[0], 0x77, KEY_HASH_BYTES);
        join.member = &same_name;
        assert_status(apply(bench, join), RESULT_NAME_TAKEN);
        join.member = &same_id;
        assert_status(apply(bench, join), RESULT_INVALID);
        join.member = &h2;
        uint64_t revision = revision_of(bench);
        assert_status(apply(bench, join), RESULT_DONE);
        assert_int_equal(revision_of(bench), revision);
        assert_int_equal(tree_token(bench->tree, token.id, &there), 0);
        assert_int_equal(there.uses_left, 1);
        assert_status(apply(bench, join), RESULT_DONE); /* asked again: yes, at no cost */
        assert_int_equal(tree_token(bench->tree, token.id, &there), 0);
        assert_int_equal(there.uses_left, 1);

        bench->cluster_usec = 1500;
        join.member = &h3;
        assert_status(apply(bench, join), RESULT_TOKEN_EXPIRED);
        bench->cluster_usec = 1499; /* cluster time never goes back */
        assert_status(apply(bench, join), RESULT_TOKEN_EXPIRED);
        Token other = token_of(2, MEMBER_LEAF, 1, 500);
        assert_status(apply(bench, (Command){.kind = COMMAND_ADD_TOKEN, .token = &other}), RESULT_DONE);
        assert_int_equal(tree_token(bench->tree, token.id, &there), TREE_NONE); /* swept */
        join.token = &other;
        assert_status(apply(bench, join), RESULT_DONE);
        join.member = &h4;
        assert_status(apply(bench, join), RESULT_TOKEN_UNKNOWN); /* used up */

        Member found;
        assert_int_equal(tree_member(bench->tree, 3, &found), 0);
        assert_int_equal(found.class, MEMBER_LEAF); /* as the token says */
        assert_int_equal(tree_member_by_name(bench->tree, "h2", &found), 0);
        assert_int_equal(found.id, 2);
        assert_int_equal(tree_member_by_key(bench->tree, h3.keys[0], &found), 0);
        assert_int_equal(found.id, 3);
        assert_string_equal(found.addresses[0], "h3:7707");

        assert_status(apply(bench, (Command){.kind = COMMAND_REMOVE_TOKEN, .token = &other}),
                      RESULT_TOKEN_UNKNOWN);
        assert_status(apply(bench, (Command){.kind = COMMAND_ADD_TOKEN, .token = &other}), RESULT_DONE);
        assert_status(apply(bench, (Command){.kind = COMMAND_REMOVE_TOKEN, .token = &other}), RESULT_DONE);

        assert_status(apply(bench, (Command){.kind = COMMAND_REMOVE_MEMBER, .subject = 9}),
                      RESULT_NO_MEMBER);
        assert_status(apply(bench, (Command){.kind = COMMAND_REMOVE_MEMBER, .subject = 1}),
                      RESULT_LAST_VOTER);
        assert_false(tree_member_removed(bench->tree, 2));
        assert_status(apply(bench, (Command){.kind = COMMAND_REMOVE_MEMBER, .subject = 2}), RESULT_DONE);
        assert_true(tree_member_removed(bench->tree, 2));
        assert_int_equal(tree_member(bench->tree, 2, &found), TREE_NONE);
        assert_int_equal(tree_member_by_name(bench->tree, "h2", &found), TREE_NONE);
        assert_int_equal(tree_member_by_key(bench->tree, h2.keys[0], &found), TREE_NONE);

        /* The id never comes back; its name and its key may. */
        assert_status(apply(bench, (Command){.kind = COMMAND_ADD_TOKEN, .token = &other}), RESULT_DONE);
        join.member = &h2;
        assert_status(apply(bench, join), RESULT_INVALID);
        h2.id = 22;
        assert_status(apply(bench, join), RESULT_DONE);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

static void test_update_member(void **state) {
        Bench *bench = *state;
        add_host(bench, 2, "h2", MEMBER_FULL);
        Member self = member_of(2, "renamed");
        self.version = 7;
        self.class = MEMBER_LEAF; /* not his to choose */
        self.n_keys = 2;
        memset(self.keys[1], 0x99, KEY_HASH_BYTES);
        Command update = {.kind = COMMAND_UPDATE_MEMBER, .host = 2, .member = &self};
        assert_status(apply(bench, update), RESULT_DONE);
        Member found;
        assert_int_equal(tree_member_by_name(bench->tree, "h2", &found), TREE_NONE);
        assert_int_equal(tree_member_by_key(bench->tree, self.keys[1], &found), 0);
        assert_string_equal(found.name, "renamed");
        assert_int_equal(found.class, MEMBER_FULL);
        assert_int_equal(found.version, 7);
        strcpy(self.name, "h1");
        assert_status(apply(bench, update), RESULT_NAME_TAKEN);
        strcpy(self.name, "h2");
        memset(self.keys[0], 1, KEY_HASH_BYTES); /* h1's */
        assert_status(apply(bench, update), RESULT_INVALID);
        self.id = 1;
        assert_status(apply(bench, update), RESULT_DENIED);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

static TreeOutcome outcome(Bench *bench, uint64_t incarnation, uint64_t serial, Result *result) {
        return tree_outcome(bench->tree, 1, incarnation, serial, result);
}

static void test_exactly_once(void **state) {
        Bench *bench = *state;
        uint64_t incarnation = bench->incarnation[1];
        Command once = {.kind = COMMAND_SET,
                        .host = 1,
                        .incarnation = incarnation,
                        .serial = 10,
                        .lowest_unresolved = 8,
                        .path = "/a"};
        Result result, told;
        assert_int_equal(outcome(bench, incarnation, 10, &told), TREE_OUTCOME_UNDECIDED);
        assert_int_equal(apply_raw(bench, &once, &result), 0);
        assert_status(result, RESULT_DONE);
        TreeDigest before = digest_of(bench);

        /* The same entry, offered to another leader too. */
        assert_int_equal(apply_raw(bench, &once, &result), 0);
        assert_status(result, RESULT_STALE);
        assert_int_equal(revision_of(bench), 1);
        assert_memory_not_equal(before.sum, digest_of(bench).sum, 16); /* the applied index is in it */

        assert_int_equal(outcome(bench, incarnation, 10, &told), TREE_OUTCOME_APPLIED);
        assert_int_equal(told.revision, 1);
        assert_int_equal(outcome(bench, incarnation, 9, &told), TREE_OUTCOME_NEVER);
        assert_int_equal(outcome(bench, incarnation, 8, &told), TREE_OUTCOME_NEVER);
        assert_int_equal(outcome(bench, incarnation, 7, &told), TREE_OUTCOME_TOO_OLD);
        assert_int_equal(outcome(bench, incarnation, 11, &told), TREE_OUTCOME_UNDECIDED);
        assert_int_equal(outcome(bench, 999, 1, &told), TREE_OUTCOME_UNDECIDED);

        /* A serial passed over is decided: never. And its entry, coming late, does nothing. */
        once.serial = 9;
        assert_int_equal(apply_raw(bench, &once, &result), 0);
        assert_status(result, RESULT_STALE);
        once.kind = COMMAND_EMPTY;
        once.serial = 12;
        assert_int_equal(apply_raw(bench, &once, &result), 0);
        assert_status(result, RESULT_DONE);
        assert_int_equal(outcome(bench, incarnation, 11, &told), TREE_OUTCOME_NEVER);

        /* Outcomes that changed nothing are remembered too. */
        once = (Command){.kind = COMMAND_DELETE,
                         .host = 1,
                         .incarnation = incarnation,
                         .serial = 13,
                         .lowest_unresolved = 13,
                         .path = "/none"};
        assert_int_equal(apply_raw(bench, &once, &result), 0);
        assert_status(result, RESULT_ABSENT);
        assert_int_equal(outcome(bench, incarnation, 13, &told), TREE_OUTCOME_APPLIED);
        assert_status(told, RESULT_ABSENT);
        assert_int_equal(outcome(bench, incarnation, 10, &told), TREE_OUTCOME_TOO_OLD); /* resolved */

        /* Without incarnation, or of a stranger. */
        once = (Command){.kind = COMMAND_SET, .host = 1, .serial = 99, .path = "/a"};
        assert_int_equal(apply_raw(bench, &once, &result), 0);
        assert_status(result, RESULT_STALE);
        once.incarnation = incarnation;
        once.host = 5;
        assert_int_equal(apply_raw(bench, &once, &result), 0);
        assert_status(result, RESULT_STALE);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

static Result announce_start(Bench *bench, uint64_t start, const char *start_nonce, const char *nonce) {
        Command command = {.kind = COMMAND_ANNOUNCE,
                           .host = 1,
                           .nonce = BYTES(nonce, 16),
                           .start = start,
                           .start_nonce = BYTES(start_nonce, 16)};
        Result result;
        assert_int_equal(apply_raw(bench, &command, &result), 0);
        return result;
}

/* The newest start of a host is known to every tree, and what is older announces nothing. */
static void test_starts(void **state) {
        Bench *bench = *state;
        TreeStart known;
        assert_int_equal(tree_start(bench->tree, 9, &known), TREE_NONE);

        Result fifth = announce_start(bench, 5, "start-five------", "process-of-five-");
        assert_status(fifth, RESULT_DONE);
        assert_status(announce_start(bench, 4, "start-four------", "process-of-four-"), RESULT_STALE);
        assert_int_equal(tree_start(bench->tree, 1, &known), 0);
        assert_int_equal(known.start, 5);
        assert_memory_equal(known.nonce, "start-five------", 16);
        assert_false(known.twice);

        /* The same process, by another name: its row was ended by nobody else. */
        assert_status(announce_start(bench, 5, "start-five------", "again-of-five---"), RESULT_DONE);
        /* Numbers may be missing: starts without quorum, or after rot. */
        assert_status(announce_start(bench, 1ull << 32, "start-far-above-", "process-of-far--"),
                      RESULT_DONE);
        assert_status(announce_start(bench, 5, "start-five------", "process-of-five-"), RESULT_STALE);

        TreeDigest before = digest_of(bench);
        assert_status(announce_start(bench, 1ull << 32, "start-of-a-copy-", "process-of-copy-"),
                      RESULT_STALE);
        TreeDigest after = digest_of(bench);
        assert_memory_not_equal(&before, &after, sizeof(before));
        assert_int_equal(tree_start(bench->tree, 1, &known), 0);
        assert_true(known.twice);
        assert_memory_equal(known.nonce, "start-far-above-", 16);
        /* Until the operator decides neither of them is believed, whatever its number. */
        assert_status(announce_start(bench, (1ull << 32) + 9, "start-of-a-copy+", "process-of-copy+"),
                      RESULT_STALE);

        bench_reopen(bench, true);
        assert_int_equal(tree_start(bench->tree, 1, &known), 0);
        assert_int_equal(known.start, 1ull << 32);
        assert_true(known.twice);
}

/* Announced at 90, the leader died, announced again at 93: the second is a no-op and says 90. */
static void test_double_announcement(void **state) {
        Bench *bench = *state;
        Result first = announce(bench, 1, "a-new-process---");
        uint64_t incarnation = first.number;
        assert_int_equal(incarnation, status_of(bench).applied);
        set(bench, "/a", "1");
        Result second = announce(bench, 1, "a-new-process---");
        assert_status(second, RESULT_DONE);
        assert_int_equal(second.number, incarnation);
        assert_status(set(bench, "/a", "2"), RESULT_DONE);

        uint64_t there;
        uint8_t nonce[16];
        assert_int_equal(tree_incarnation(bench->tree, 1, &there, nonce), 0);
        assert_int_equal(there, incarnation);
        assert_memory_equal(nonce, "a-new-process---", 16);

        /* The next process: requests of the one before are decided, and remembered for an hour. */
        bench->cluster_usec = 1000;
        assert_true(announce(bench, 1, "another-process-").number > incarnation);
        Result told, result;
        assert_int_equal(outcome(bench, incarnation, 1, &told), TREE_OUTCOME_APPLIED);
        assert_int_equal(outcome(bench, incarnation, 3, &told), TREE_OUTCOME_NEVER);
        Command late = {
                .kind = COMMAND_SET, .host = 1, .incarnation = incarnation, .serial = 3, .path = "/late"};
        assert_int_equal(apply_raw(bench, &late, &result), 0);
        assert_status(result, RESULT_STALE);
        bench->cluster_usec += 3600 * USEC_PER_SEC - 1;
        set(bench, "/a", "3");
        assert_int_equal(outcome(bench, incarnation, 1, &told), TREE_OUTCOME_APPLIED);
        bench->cluster_usec += 1;
        set(bench, "/a", "4");
        assert_int_equal(outcome(bench, incarnation, 1, &told), TREE_OUTCOME_TOO_OLD);
        assert_int_equal(tree_commit(bench->tree), 0);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

/* (incarnation 50, serial 7) applied, a copy still in flight; the member is removed: the copy does nothing,
 * and the id does not come back. */
static void test_removed_with_requests_in_flight(void **state) {
        Bench *bench = *state;
        add_host(bench, 2, "h2", MEMBER_FULL);
        Command own = {.kind = COMMAND_SET, .host = 2, .path = "/e/1", .flags = COMMAND_EPHEMERAL};
        assert_status(apply(bench, own), RESULT_DONE);
        Command copy = {.kind = COMMAND_SET,
                        .host = 2,
                        .incarnation = bench->incarnation[2],
                        .serial = ++bench->serial[2],
                        .path = "/copy"};
        Result result, told;
        assert_int_equal(apply_raw(bench, &copy, &result), 0);
        assert_status(result, RESULT_DONE);
        assert_status(delete (bench, "/copy", 0), RESULT_DONE);

        uint64_t before = revision_of(bench);
        assert_status(apply(bench, (Command){.kind = COMMAND_REMOVE_MEMBER, .subject = 2}), RESULT_DONE);
        assert_int_equal(revision_of(bench), before + 1);
        assert_null(value_of(bench, "/e/1"));
        assert_int_equal(apply_raw(bench, &copy, &result), 0);
        assert_status(result, RESULT_STALE);
        copy.serial++;
        assert_int_equal(apply_raw(bench, &copy, &result), 0);
        assert_status(result, RESULT_STALE);
        assert_null(value_of(bench, "/copy"));
        assert_status(announce(bench, 2, "nonce-of-host-02"), RESULT_NO_MEMBER);
        assert_int_equal(tree_outcome(bench->tree, 2, copy.incarnation, copy.serial - 1, &told),
                         TREE_OUTCOME_APPLIED);
        assert_int_equal(tree_outcome(bench->tree, 2, copy.incarnation, copy.serial, &told),
                         TREE_OUTCOME_NEVER);
        uint8_t nonce[16];
        uint64_t there;
        assert_int_equal(tree_incarnation(bench->tree, 2, &there, nonce), TREE_NONE);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

static Result apply_keeping(Bench *bench, Command command, unsigned n, unsigned back) {
        uint8_t keep[2 * LIMIT_KEPT];
        for (unsigned i = 0; i < n; i++, back--) {
                keep[2 * i] = (uint8_t)back;
                keep[2 * i + 1] = (uint8_t)(back >> 8);
        }
        command.keep = BYTES(keep, 2 * (size_t)n);
        return apply(bench, command);
}

/* What somebody was told Unknown stays to be asked for, whatever the row forgets; for an hour. */
static void test_kept_outcomes(void **state) {
        Bench *bench = *state;
        uint64_t incarnation = bench->incarnation[1], first = bench->serial[1] + 1;
        Result told;
        bench->cluster_usec = 1000;
        set(bench, "/a", "1");
        bench->serial[1]++; /* one that never came */
        apply(bench, (Command){.kind = COMMAND_DELETE, .path = "/none"});
        set(bench, "/a", "2");
        Command next = {.kind = COMMAND_SET, .path = "/b", .lowest_unresolved = first + 4};
        assert_status(apply_keeping(bench, next, 3, 4), RESULT_DONE);
        assert_int_equal(outcome(bench, incarnation, first, &told), TREE_OUTCOME_APPLIED);
        assert_int_equal(told.revision, 1);
        assert_int_equal(outcome(bench, incarnation, first + 1, &told), TREE_OUTCOME_NEVER);
        assert_int_equal(outcome(bench, incarnation, first + 2, &told), TREE_OUTCOME_APPLIED);
        assert_status(told, RESULT_ABSENT);
        assert_int_equal(outcome(bench, incarnation, first + 3, &told), TREE_OUTCOME_TOO_OLD);

        /* Named again, or too late: nothing changes. A second later one more. */
        TreeStatus before = status_of(bench);
        bench->cluster_usec += USEC_PER_SEC;
        apply_keeping(bench, next, 2, 5);
        next.lowest_unresolved += 2;
        apply_keeping(bench, next, 1, 2);
        assert_int_equal(status_of(bench).applied, before.applied + 2);
        assert_int_equal(outcome(bench, incarnation, first + 4, &told), TREE_OUTCOME_APPLIED);
        assert_int_equal(tree_commit(bench->tree), 0);
        assert_int_equal(tree_scrub(bench->tree), 0);

        /* Another process, the file opened anew. */
        bench->cluster_usec = 1000 + 3600 * USEC_PER_SEC - 1;
        announce(bench, 1, "another-process-");
        bench_reopen(bench, true);
        assert_int_equal(outcome(bench, incarnation, first + 1, &told), TREE_OUTCOME_NEVER);
        bench->cluster_usec++;
        noop(bench);
        apply(bench, next);
        assert_int_equal(outcome(bench, incarnation, first, &told), TREE_OUTCOME_TOO_OLD);
        assert_int_equal(outcome(bench, incarnation, first + 4, &told), TREE_OUTCOME_APPLIED);
        bench->cluster_usec += USEC_PER_SEC;
        apply(bench, next);
        assert_int_equal(outcome(bench, incarnation, first + 4, &told), TREE_OUTCOME_TOO_OLD);
        assert_int_equal(tree_commit(bench->tree), 0);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

/* The newest 1,024 of a host: the oldest go. */
static void test_kept_outcomes_have_a_limit(void **state) {
        Bench *bench = *state;
        uint64_t incarnation = bench->incarnation[1], first = bench->serial[1] + 1;
        Result told;
        for (unsigned i = 0; i < LIMIT_KEPT + 2; i++)
                apply(bench, (Command){.kind = COMMAND_EMPTY, .lowest_unresolved = first});
        bench->cluster_usec = 1000;
        Command next = {.kind = COMMAND_EMPTY, .lowest_unresolved = first};
        apply_keeping(bench, next, 2, LIMIT_KEPT + 2);
        bench->cluster_usec++;
        next.lowest_unresolved = bench->serial[1];
        apply_keeping(bench, next, LIMIT_KEPT - 1, LIMIT_KEPT + 1);
        assert_int_equal(outcome(bench, incarnation, first, &told), TREE_OUTCOME_TOO_OLD);
        assert_int_equal(outcome(bench, incarnation, first + 1, &told), TREE_OUTCOME_APPLIED);
        assert_int_equal(outcome(bench, incarnation, first + LIMIT_KEPT, &told), TREE_OUTCOME_APPLIED);
        bench->cluster_usec += 3600 * USEC_PER_SEC - 1;
        apply(bench, next);
        assert_int_equal(outcome(bench, incarnation, first + 1, &told), TREE_OUTCOME_TOO_OLD);
        assert_int_equal(outcome(bench, incarnation, first + 2, &told), TREE_OUTCOME_APPLIED);
        bench->cluster_usec++;
        apply(bench, next);
        assert_int_equal(outcome(bench, incarnation, first + 2, &told), TREE_OUTCOME_TOO_OLD);
        assert_int_equal(tree_commit(bench->tree), 0);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

static void test_a_row_is_4096_serials_wide(void **state) {
        Bench *bench = *state;
        uint64_t incarnation = bench->incarnation[1], begin = bench->serial[1] + 1;
        for (size_t i = 0; i < 5000; i++)
                apply(bench, (Command){.kind = COMMAND_EMPTY, .lowest_unresolved = 1});
        uint64_t highest = begin + 4999;
        Result told;
        assert_int_equal(outcome(bench, incarnation, highest, &told), TREE_OUTCOME_APPLIED);
        assert_int_equal(outcome(bench, incarnation, highest - 4095, &told), TREE_OUTCOME_APPLIED);
        assert_int_equal(outcome(bench, incarnation, highest - 4096, &told), TREE_OUTCOME_TOO_OLD);
        bench_reopen(bench, true);
        assert_int_equal(outcome(bench, incarnation, highest - 4095, &told), TREE_OUTCOME_APPLIED);
        assert_int_equal(outcome(bench, incarnation, highest - 4096, &told), TREE_OUTCOME_TOO_OLD);
        apply(bench, (Command){.kind = COMMAND_EMPTY, .lowest_unresolved = highest});
        assert_int_equal(outcome(bench, incarnation, highest - 1, &told), TREE_OUTCOME_TOO_OLD);
        assert_int_equal(outcome(bench, incarnation, highest, &told), TREE_OUTCOME_APPLIED);
}

static void test_conf_noop_halt_gap(void **state) {
        Bench *bench = *state;
        noop(bench);
        TreeStatus status = status_of(bench);
        Conf conf = {.n_voters = 3, .voters = {{1, 5}, {2, 5}, {3, 5}}};
        Entry entry = {.index = status.applied + 1, .term = 2, .type = ENTRY_CONF};
        assert_int_equal(tree_apply(bench->tree, &entry, NULL, NULL, &conf, false, 1, NULL, NULL, NULL), 0);
        status = status_of(bench);
        assert_int_equal(status.conf.n_voters, 3);
        assert_int_equal(status.conf_index, entry.index);
        assert_int_equal(status.applied_term, 2);

        EntryStamp stamp = {.min_version = 2};
        Command command = {.kind = COMMAND_EMPTY, .host = 1};
        entry = (Entry){.index = status.applied + 1, .term = 2, .type = ENTRY_COMMAND};
        assert_int_equal(tree_apply(bench->tree, &entry, &stamp, &command, NULL, false, 1, NULL, NULL, NULL),
                         TREE_HALTED);
        assert_int_equal(status_of(bench).applied, status.applied);
        assert_int_equal(tree_apply(bench->tree, &entry, &stamp, &command, NULL, false, 2, NULL, NULL, NULL),
                         0);
        assert_int_equal(tree_apply(bench->tree, &entry, &stamp, &command, NULL, false, 2, NULL, NULL, NULL),
                         -EINVAL);
        entry.index += 2;
        assert_int_equal(tree_apply(bench->tree, &entry, &stamp, &command, NULL, false, 2, NULL, NULL, NULL),
                         -EINVAL);

        /* The tree tells from now on what it takes to understand it. */
        bench->options.version = 2;
        bench_reopen(bench, true);
        bench->tree = tree_close(bench->tree);
        bench->options.version = 1;
        assert_int_equal(tree_open(&bench->tree, &bench->options, bench->name), TREE_NEWER);
        assert_null(bench->tree);
        bench->options.version = 0;
        assert_int_equal(tree_open(&bench->tree, &bench->options, bench->name), 0);
}

static void test_found_once(void **state) {
        Bench *bench = *state;
        static const uint8_t cluster[16] = {1};
        Member founder = member_of(1, "h1");
        assert_int_equal(tree_found(bench->tree, cluster, &founder), -EEXIST);
        TreeStatus status = status_of(bench);
        assert_memory_equal(status.cluster, "cluster-of-tests", 16);
        assert_int_equal(status.conf.n_voters, 1);
        assert_int_equal(status.conf.voters[0].id, 1);
        assert_int_equal(status.restore_epoch, 1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, bench_setup, bench_teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_set_create_delete),
                TEST(test_delete_subtree),
                TEST(test_delete_of_too_many),
                TEST(test_invalid),
                TEST(test_conditions),
                TEST(test_sessions),
                TEST(test_leaf),
                TEST(test_tokens_and_members),
                TEST(test_update_member),
                TEST(test_exactly_once),
                TEST(test_double_announcement),
                TEST(test_starts),
                TEST(test_removed_with_requests_in_flight),
                TEST(test_kept_outcomes),
                TEST(test_kept_outcomes_have_a_limit),
                TEST(test_a_row_is_4096_serials_wide),
                TEST(test_conf_noop_halt_gap),
                TEST(test_found_once),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
