/* What fits its checksum and yet is not true: records that say nonsense, hints that point astray. A decoder
 * refuses each; a scrub finds each and says what it found; and the same tree without the lie is good. */
#include "help.h"

#include "agent/tree/internal.h"

static char said[256];

static void say(void *userdata, int level, const char *text) {
        snprintf(said, sizeof(said), "%s", text);
}

/* h1; h2 owns /own/a; /gone was deleted, /plain lives. */
static Bench *begin(void **state) {
        Bench *bench = *state;
        add_host(bench, 2, "h2", MEMBER_FULL);
        Token token = token_of(9, MEMBER_FULL, 3, USEC_PER_SEC);
        assert_status(apply(bench, (Command){.kind = COMMAND_ADD_TOKEN, .token = &token}), RESULT_DONE);
        assert_status(apply(bench, (Command){.kind = COMMAND_SET,
                                             .host = 2,
                                             .path = "/own/a",
                                             .value = BYTES("x", 1),
                                             .flags = COMMAND_EPHEMERAL}),
                      RESULT_DONE);
        set(bench, "/gone", "1");
        delete (bench, "/gone", 0);
        set(bench, "/plain", "1");
        assert_int_equal(tree_commit(bench->tree), 0);
        bench->tree->options.report = (Report){.say = say};
        return bench;
}

static void exec(Bench *bench, const char *sql) {
        assert_int_equal(sqlite3_exec(bench->tree->db, sql, NULL, NULL, NULL), SQLITE_OK);
}

/* ---- Decoders ---- */

typedef struct Body {
        uint8_t key[16], body[4096];
        size_t key_size, size;
} Body;

static int first(RecordKind kind, Bytes key, Bytes body, void *userdata) {
        Body *to = userdata;
        assert_true(key.size <= sizeof(to->key) && body.size <= sizeof(to->body) - 1);
        memcpy(to->key, key.data, key.size);
        memcpy(to->body, body.data, body.size);
        to->key_size = key.size;
        to->size = body.size;
        return 1;
}

static int decode(RecordKind kind, Bytes key, Bytes body) {
        Member member;
        Session session;
        Token token;
        RequestRow *row = NULL;
        int r = kind == RECORD_MEMBER     ? member_decode(key, body, &member)
                : kind == RECORD_SESSION  ? session_decode(key, body, &session)
                : kind == RECORD_REQUESTS ? request_decode(key, body, &row)
                                          : token_decode(key, body, &token);
        request_row_free(row);
        return r;
}

/* Too short by any number of bytes, too long by one, under a key that is no key. */
static void test_sizes(void **state) {
        Bench *bench = begin(state);
        static const RecordKind kinds[] = {RECORD_MEMBER, RECORD_SESSION, RECORD_REQUESTS, RECORD_TOKEN};
        for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
                Body b = {};
                assert_int_equal(record_each(bench->tree, kinds[i], BYTES("", 0), first, &b), 1);
                Bytes key = BYTES(b.key, b.key_size);
                assert_int_equal(decode(kinds[i], key, BYTES(b.body, b.size)), 0);
                for (size_t n = 0; n < b.size; n++)
                        assert_int_equal(decode(kinds[i], key, BYTES(b.body, n)), TREE_ROTTEN);
                assert_int_equal(decode(kinds[i], key, BYTES(b.body, b.size + 1)), TREE_ROTTEN);
                assert_int_equal(decode(kinds[i], BYTES(b.key, b.key_size - 1), BYTES(b.body, b.size)),
                                 TREE_ROTTEN);
        }
}

static void test_members(void **state) {
        static const struct {
                size_t at;
                uint8_t value;
        } lies[] = {
                {0, 7},      /* a class that there is not */
                {5, 255},    /* a name that is too long */
                {6, 0},      /* … that ends early */
                {6, '/'},    /* … with a character that names have not */
                {8, 255},    /* too many addresses */
                {9, 0},      /* an address of no length, and what follows is shifted */
                {10, 255},   /* one of 65,000 bytes */
                {11, 0},     /* … that ends early */
                {11, 0xff},  /* … that is no text */
                {8 + 10, 9}, /* too many keys */
                {8 + 10, 0}, /* none */
        };
        Bench *bench = begin(state);
        Body b = {};
        uint8_t key[8];
        key_write(key, 1);
        assert_int_equal(record_each(bench->tree, RECORD_MEMBER, BYTES(key, 8), first, &b), 1);
        assert_memory_equal(b.body + 6, "h1", 2);
        assert_memory_equal(b.body + 11, "h1:7707", 7);
        assert_int_equal(b.body[18], 1);
        for (size_t i = 0; i < ELEMENTSOF(lies); i++) {
                uint8_t was = b.body[lies[i].at];
                b.body[lies[i].at] = lies[i].value;
                assert_int_equal(decode(RECORD_MEMBER, BYTES(key, 8), BYTES(b.body, b.size)), TREE_ROTTEN);
                b.body[lies[i].at] = was;
        }
        key_write(key, 0);
        assert_int_equal(decode(RECORD_MEMBER, BYTES(key, 8), BYTES(b.body, b.size)), TREE_ROTTEN);
        assert_int_equal(decode(RECORD_MEMBER, BYTES(b.key, 8), BYTES(b.body, b.size)), 0);
}

static void test_tokens(void **state) {
        Bench *bench = begin(state);
        Body b = {};
        Token token, good = token_of(9, MEMBER_FULL, 3, USEC_PER_SEC);
        assert_int_equal(record_each(bench->tree, RECORD_TOKEN, BYTES("", 0), first, &b), 1);
        Body no_class = b, none_left = b;
        no_class.body[TOKEN_PUBLIC_BYTES] = 9;
        memset(none_left.body + TOKEN_PUBLIC_BYTES + 1, 0, 4);
        assert_int_equal(decode(RECORD_TOKEN, BYTES(b.key, b.key_size), BYTES(no_class.body, b.size)),
                         TREE_ROTTEN);
        assert_int_equal(decode(RECORD_TOKEN, BYTES(b.key, b.key_size), BYTES(none_left.body, b.size)),
                         TREE_ROTTEN);

        /* Read as what it is, wherever one comes by; nothing is applied over it. */
        assert_int_equal(transaction_begin(bench->tree), 0);
        assert_int_equal(record_put(bench->tree, RECORD_TOKEN, BYTES(b.key, b.key_size),
                                    BYTES(no_class.body, b.size)),
                         0);
        assert_int_equal(tree_token(bench->tree, good.id, &token), TREE_ROTTEN);
        Command command = {.kind = COMMAND_ADD_TOKEN,
                           .host = 1,
                           .incarnation = bench->incarnation[1],
                           .serial = bench->serial[1] + 1,
                           .token = &good};
        assert_int_equal(apply_raw(bench, &command, NULL), -EBADMSG);
}

/* ---- What the scrub finds ---- */

static void hint(Bench *bench, IndexKind kind, const void *key, size_t size, uint64_t value) {
        assert_int_equal(index_put(bench->tree, kind, BYTES(key, size), value), 0);
}

static void no_hint(Bench *bench, IndexKind kind, const void *key, size_t size) {
        assert_int_equal(index_delete(bench->tree, kind, BYTES(key, size)), 0);
}

static void lie(Bench *bench, unsigned which) {
        Tree *tree = bench->tree;
        uint8_t owned[16 + LIMIT_PATH_BYTES], key[KEY_HASH_BYTES];
        uint64_t plain;
        Bytes a = BYTES("/own/a", 6), b = BYTES("/plain", 6);
        size_t n = owned_key(owned, 2, bench->generation[2], a);
        memset(key, 2, sizeof(key));
        assert_int_equal(key_find(tree, b, &plain), 0);
        switch (which) {
        case 0:
                no_hint(bench, INDEX_OWNED, owned, n);
                return;
        case 1: /* of another's entry */
                hint(bench, INDEX_OWNED, owned, owned_key(owned, 2, bench->generation[2], b), 0);
                return;
        case 2: /* of another generation */
                hint(bench, INDEX_OWNED, owned, owned_key(owned, 2, 99, a), 0);
                return;
        case 3: /* of what is not there */
                hint(bench, INDEX_OWNED, owned, owned_key(owned, 2, 1, BYTES("/none", 5)), 0);
                return;
        case 4:
                hint(bench, INDEX_OWNED, "short", 5, 0);
                return;
        case 5: /* a living row */
                hint(bench, INDEX_TOMB, "/plain", 6, plain);
                return;
        case 6: /* no row */
                hint(bench, INDEX_TOMB, "/gone", 5, row_first(1) + 77);
                return;
        case 7: { /* another's deletion */
                uint64_t gone;
                assert_int_equal(index_get(tree, INDEX_TOMB, BYTES("/gone", 5), &gone), 0);
                hint(bench, INDEX_TOMB, "/moon", 5, gone);
                return;
        }
        case 8:
                no_hint(bench, INDEX_NAME, "h2", 2);
                return;
        case 9:
                hint(bench, INDEX_NAME, "h2", 2, 1);
                return;
        case 10:
                no_hint(bench, INDEX_KEY, key, sizeof(key));
                return;
        case 11:
                hint(bench, INDEX_KEY, key, sizeof(key), 1);
                return;
        case 12:
                exec(bench,
                     "DELETE FROM rows WHERE id = (SELECT id FROM newest JOIN keys USING(n) WHERE key = '/plain')");
                return;
        case 13:
                exec(bench, "UPDATE keys SET n = (SELECT n FROM keys WHERE key = '/own/a') "
                            "WHERE key = '/plain'");
                return;
        case 14: {
                char path[] = "/plain";
                Row row;
                _cleanup_(buffer_deinit) Buffer seen = {};
                assert_int_equal(row_load(tree, plain, &seen, &row), 0);
                row.id = row_first(tree->meta.revision + 5);
                row.key = path;
                row.sum = row_hash(&row);
                assert_int_equal(row_insert(tree, &row), 0);
                return;
        }
        case 15:
                tree->meta.n_entries++;
                return;
        case 16:
                tree->meta.digest++;
                return;
        case 17: /* a member's record under another's name */
                exec(bench,
                     "DELETE FROM records WHERE kind = 1 AND key = (SELECT max(key) FROM records WHERE kind = 1)");
                return;
        }
        fail();
}

static void test_scrub(void **state) {
        static const char *const wants[] = {
                "an owner does not know its entry",
                "an owner claims entries that are not its own",
                "an owner claims entries that are not its own",
                "an owner claims entries that are not its own",
                "an owner's hint is malformed",
                "a deletion points to a row that is none",
                "a deletion points to a row that is none",
                "a deletion points to a row that is none",
                "a member is not known by its name and keys",
                "a member is not known by its name and keys",
                "a member is not known by its name and keys",
                "a member is not known by its name and keys",
                "a key points to a row that is gone",
                "a key points to the row of another",
                "a row lies in the future",
                "the number of entries is wrong",
                "rows and digest differ",
                "rows and digest differ",
        };
        Bench *bench = begin(state);
        assert_int_equal(tree_scrub(bench->tree), 0);
        for (unsigned i = 0; i < ELEMENTSOF(wants); i++) {
                Meta meta = bench->tree->meta;
                said[0] = 0;
                exec(bench, "SAVEPOINT lie");
                lie(bench, i);
                assert_int_equal(tree_scrub(bench->tree), TREE_ROTTEN);
                if (!strstr(said, wants[i]))
                        fail_msg("lie %u: it says \"%s\" and not \"%s\"", i, said, wants[i]);
                exec(bench, "ROLLBACK TO lie; RELEASE lie");
                bench->tree->meta = meta;
                assert_int_equal(tree_scrub(bench->tree), 0);
        }
}

static int sent(Bench *bench) {
        TreeSnapshot *snapshot;
        Buffer chunk = {};
        bool done = false;
        keys_forget(bench->tree);
        assert_int_equal(tree_snapshot_begin(bench->tree, &snapshot), 0);
        int r = 0;
        while (r == 0 && !done) {
                r = tree_snapshot_next(snapshot, &chunk, &done);
                buffer_deinit(&chunk);
                chunk = (Buffer){};
        }
        tree_snapshot_free(snapshot);
        return r;
}

/* No digest holds an index: what one lost would make another tree out of each later entry, and that tree
 * would look well to whoever fetches it. So it is not sent. */
static void test_not_sent(void **state) {
        Bench *bench = begin(state);
        uint8_t owned[16 + LIMIT_PATH_BYTES];
        size_t n = owned_key(owned, 2, bench->generation[2], BYTES("/own/a", 6));
        uint64_t gone;
        assert_int_equal(sent(bench), 0);

        exec(bench, "UPDATE keys SET n = n + 1 WHERE key = '/plain'");
        assert_int_equal(sent(bench), TREE_ROTTEN);
        assert_non_null(strstr(said, "a path does not know its row"));
        exec(bench, "UPDATE keys SET n = n - 1 WHERE key = '/plain'");
        assert_int_equal(sent(bench), 0);

        assert_int_equal(index_get(bench->tree, INDEX_TOMB, BYTES("/gone", 5), &gone), 0);
        hint(bench, INDEX_TOMB, "/gone", 5, gone - 1);
        assert_int_equal(sent(bench), TREE_ROTTEN);
        hint(bench, INDEX_TOMB, "/gone", 5, gone);
        assert_int_equal(sent(bench), 0);

        no_hint(bench, INDEX_OWNED, owned, n);
        assert_int_equal(sent(bench), TREE_ROTTEN);
        assert_non_null(strstr(said, "an owner does not know its entry"));
        hint(bench, INDEX_OWNED, owned, n, 0);
        assert_int_equal(sent(bench), 0);
}

/* Who meets a lie while applying does not go on: the host leaves, and nothing of the entry stays. */
static void test_apply(void **state) {
        Bench *bench = begin(state);
        for (unsigned i = 0; i < 9; i++) {
                uint8_t owned[16 + LIMIT_PATH_BYTES], key[8];
                Command command = {.host = 2,
                                   .incarnation = bench->incarnation[2],
                                   .serial = bench->serial[2] + 1,
                                   .kind = COMMAND_DELETE,
                                   .path = "/own/a"};
                Member self = member_of(2, "h2-new");
                Token token = token_of(9, MEMBER_FULL, 3, USEC_PER_SEC);
                TreeDigest before = digest_of(bench);
                TreeSession session;
                assert_int_equal(transaction_begin(bench->tree), 0);
                key_write(key, 2);
                switch (i) {
                case 0: /* it owns one, its session says none */
                        assert_int_equal(session_put(bench->tree, 2,
                                                     &(Session){.generation = bench->generation[2],
                                                                .attached = true}),
                                         0);
                        break;
                case 1: /* the session is gone */
                        assert_int_equal(record_delete(bench->tree, RECORD_SESSION, BYTES(key, 8)), 0);
                        break;
                case 2: /* … or reads as nonsense */
                        assert_int_equal(
                                record_put(bench->tree, RECORD_SESSION, BYTES(key, 8), BYTES("x", 1)), 0);
                        assert_int_equal(tree_session(bench->tree, 2, &session), TREE_ROTTEN);
                        command = (Command){
                                .kind = COMMAND_END_SESSION, .host = 1, .subject = 2, .generation = 1};
                        break;
                case 3:
                        assert_int_equal(
                                record_put(bench->tree, RECORD_SESSION, BYTES(key, 8), BYTES("x", 1)), 0);
                        command.kind = COMMAND_ATTACH;
                        command.lasts_usec = USEC_PER_SEC;
                        break;
                case 4: /* an owner's hint leads to nothing */
                        hint(bench, INDEX_OWNED, owned,
                             owned_key(owned, 2, bench->generation[2], BYTES("/none", 5)), 0);
                        command.kind = COMMAND_ATTACH;
                        command.lasts_usec = USEC_PER_SEC;
                        break;
                case 5: /* the member's record is nonsense */
                        assert_int_equal(
                                record_put(bench->tree, RECORD_MEMBER, BYTES(key, 8), BYTES("x", 1)), 0);
                        members_forget(bench->tree);
                        command.kind = COMMAND_UPDATE_MEMBER;
                        command.member = &self;
                        break;
                case 6: /* a name's hint leads to nobody, another's to one who bears it not */
                case 7:
                        hint(bench, INDEX_NAME, "h2-new", 6, i == 6 ? 77 : 1);
                        command.kind = COMMAND_UPDATE_MEMBER;
                        command.member = &self;
                        break;
                case 8: /* so does that of a key: nobody is told that he is a member already */
                        self = member_of(8, "h8");
                        hint(bench, INDEX_KEY, self.keys[0], KEY_HASH_BYTES, 1);
                        command.kind = COMMAND_ADD_MEMBER;
                        command.member = &self;
                        command.token = &token;
                        break;
                }
                assert_int_equal(apply_raw(bench, &command, NULL), -EBADMSG);
                assert_int_equal(apply_raw(bench, NULL, NULL), -EBADMSG); /* nor anything after it */
                bench_reopen(bench, false);
                bench->tree->options.report = (Report){.say = say};
                TreeDigest after = digest_of(bench);
                assert_memory_equal(&after, &before, sizeof(after));
                assert_int_equal(tree_scrub(bench->tree), 0);
        }
}

/* ---- What a command may not say ---- */

static void test_token_limits(void **state) {
        Bench *bench = *state;
        Token token = token_of(1, MEMBER_FULL, 0, 5);
        Command add = {.kind = COMMAND_ADD_TOKEN, .token = &token};
        assert_status(apply(bench, add), RESULT_INVALID); /* for nobody */
        token.uses_left = 1;
        token.class = 9;
        assert_status(apply(bench, add), RESULT_INVALID);
        add.token = NULL;
        assert_status(apply(bench, add), RESULT_INVALID);
        add.kind = COMMAND_REMOVE_TOKEN;
        assert_status(apply(bench, add), RESULT_INVALID);

        /* For ever, however late it is. */
        add = (Command){.kind = COMMAND_ADD_TOKEN, .token = &token};
        bench->cluster_usec = 5;
        token = token_of(2, MEMBER_LEAF, 1, USEC_INFINITY);
        assert_status(apply(bench, add), RESULT_DONE);
        Token there;
        assert_int_equal(tree_token(bench->tree, token.id, &there), 0);
        assert_true(there.expires_cluster_usec == USEC_INFINITY);

        for (unsigned i = 1; i < LIMIT_TOKENS; i++) {
                token = token_of(3, MEMBER_FULL, 1, 1000);
                memcpy(token.id, &i, sizeof(i));
                assert_status(apply(bench, add), RESULT_DONE);
        }
        token = token_of(4, MEMBER_FULL, 1, 1000);
        assert_status(apply(bench, add), RESULT_LIMIT);
        bench->cluster_usec = 5000; /* they expire, and there is room */
        assert_status(apply(bench, add), RESULT_DONE);
        uint64_t n;
        assert_int_equal(record_count(bench->tree, RECORD_TOKEN, &n), 0);
        assert_int_equal(n, 2);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

static void test_member_rules(void **state) {
        Bench *bench = *state;
        add_host(bench, 2, "leafy", MEMBER_LEAF);
        Token token = token_of(5, MEMBER_FULL, 9, USEC_PER_SEC);
        assert_status(apply(bench, (Command){.kind = COMMAND_ADD_TOKEN, .token = &token}), RESULT_DONE);
        Member good = member_of(4, "h4");
        assert_status(apply(bench, (Command){.kind = COMMAND_ADD_MEMBER, .token = &token}), RESULT_INVALID);
        assert_status(apply(bench, (Command){.kind = COMMAND_ADD_MEMBER, .member = &good}), RESULT_INVALID);
        assert_status(apply(bench, (Command){.kind = COMMAND_UPDATE_MEMBER}), RESULT_INVALID);

        Member bad[8];
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                bad[i] = good;
        bad[0].id = 0;
        bad[1].name[0] = '/';
        bad[2].n_addresses = LIMIT_ADDRESSES + 1;
        bad[3].n_keys = 0;
        bad[4].n_keys = LIMIT_KEYS + 1;
        bad[5].addresses[0][0] = 0;
        bad[6].addresses[0][0] = (char)0xff;
        memset(bad[7].name, 'a', sizeof(bad[7].name)); /* no end */
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                assert_status(
                        apply(bench,
                              (Command){.kind = COMMAND_ADD_MEMBER, .token = &token, .member = &bad[i]}),
                        RESULT_INVALID);
                if (i == 0)
                        continue;
                bad[i].id = 1;
                assert_status(apply(bench, (Command){.kind = COMMAND_UPDATE_MEMBER, .member = &bad[i]}),
                              RESULT_INVALID);
        }

        /* A leaf speaks for itself only, and keeps its name: its rights hang on it. */
        Member leaf = member_of(2, "leafy");
        leaf.version = 3;
        Command update = {.kind = COMMAND_UPDATE_MEMBER, .host = 2, .member = &leaf};
        assert_status(apply(bench, update), RESULT_DONE);
        strcpy(leaf.name, "h9");
        assert_status(apply(bench, update), RESULT_DENIED);
        assert_status(apply(bench, (Command){.kind = COMMAND_END_SESSION,
                                             .host = 2,
                                             .subject = 2,
                                             .generation = bench->generation[2]}),
                      RESULT_DONE);
        assert_status(apply(bench, (Command){.kind = COMMAND_REMOVE_MEMBER, .host = 2, .subject = 2}),
                      RESULT_DONE);
        assert_int_equal(tree_scrub(bench->tree), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, bench_setup, bench_teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_sizes),    TEST(test_members), TEST(test_tokens),       TEST(test_scrub),
                TEST(test_not_sent), TEST(test_apply),   TEST(test_token_limits), TEST(test_member_rules),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
