/* A tree file that somebody damaged: pages with bytes changed, rows and schema changed by SQL, or any bytes
 * at all. It is refused, or it opens; what is then read is sane or refused, what is applied is applied or
 * ends the tree. The input: u8 kind; 0: the file; 1: changes of u16 place (times 8 bytes), u8 byte; 2: SQL,
 * run by SQLite itself. */
#include "place.h"

#include <sqlite3.h>
#include "agent/base/bytes.h"
#include "agent/tree/tree.h"

#define NAME "tree-0000000000000000-00000001.db"
#define ROOM (256 * 1024)

static uint8_t good[ROOM];
static size_t n_good;

static TreeOptions options(void) {
        return (TreeOptions){.directory = place(), .cache_bytes = 65536};
}

static uint64_t apply(Tree *tree, Command command, int *ret) {
        TreeStatus status;
        tree_status(tree, &status);
        Entry *entry = entry_new(ENTRY_COMMAND, status.applied + 1, status.applied_term ?: 1, NULL, 0);
        EntryStamp stamp = {.cluster_usec = 1000};
        Result result = {};
        must(entry);
        *ret = tree_apply(tree, entry, &stamp, &command, NULL, true, 1, NULL, NULL, &result);
        entry_unref(entry);
        return result.number;
}

/* A good file, made once. */
static void make(void) {
        static const uint8_t cluster[16] = "cluster-of-tests";
        TreeOptions o = options();
        Tree *tree;
        Member founder = {.id = 1, .class = MEMBER_FULL, .name = "h1", .n_keys = 1, .version = 1};
        int r;
        must(tree_create(&o, NAME) == 0 && tree_open(&tree, &o, NAME) == 0);
        must(tree_found(tree, cluster, &founder) == 0);
        uint64_t own = apply(tree,
                             (Command){.kind = COMMAND_ANNOUNCE,
                                       .host = 1,
                                       .nonce = BYTES("nonce-of-host-01", 16),
                                       .start = 1,
                                       .start_nonce = BYTES("one-start-of-all", 16)},
                             &r);
        for (uint64_t i = 1; i < 30 && r == 0; i++) {
                char path[16];
                snprintf(path, sizeof(path), "/a/%u", (unsigned)(i % 9));
                (void)apply(tree,
                            (Command){.kind = i == 1       ? COMMAND_ATTACH
                                              : i % 7 == 6 ? COMMAND_DELETE
                                                           : COMMAND_SET,
                                      .host = 1,
                                      .lasts_usec = i == 1 ? USEC_PER_SEC : 0,
                                      .incarnation = own,
                                      .serial = i,
                                      .path = i == 1 ? NULL : path,
                                      .value = i % 7 == 6 ? BYTES(NULL, 0) : BYTES("some value", 10)},
                            &r);
        }
        must(r == 0);
        tree_close(tree);
        char path[128];
        snprintf(path, sizeof(path), "%s/" NAME, place());
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = read(fd, good, sizeof(good));
        must(n > 0 && (size_t)n < sizeof(good));
        n_good = (size_t)n;
        close(fd);
        place_clear();
}

/* What may reach the file is bounded: no other file, no endless statement. */
static int steps(void *userdata) {
        return ++*(unsigned *)userdata > 2000;
}

static int no_attach(void *userdata, int action, const char *a, const char *b, const char *c,
                     const char *d) {
        return action == SQLITE_ATTACH ? SQLITE_DENY : SQLITE_OK;
}

static void run_sql(const char *text) {
        char path[128];
        sqlite3 *db;
        unsigned n = 0;
        snprintf(path, sizeof(path), "%s/" NAME, place());
        must(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK);
        sqlite3_limit(db, SQLITE_LIMIT_LENGTH, 1 << 20);
        sqlite3_progress_handler(db, 100, steps, &n);
        sqlite3_set_authorizer(db, no_attach, NULL);
        sqlite3_exec(db, text, NULL, NULL, NULL);
        sqlite3_close(db);
}

static int each_entry(const TreeEntry *entry, void *userdata) {
        fuzz_touch(entry->path, strlen(entry->path));
        fuzz_touch(entry->value.data, entry->value.size);
        return 0;
}

static int each_member(const Member *member, void *userdata) {
        must(member->n_addresses <= LIMIT_ADDRESSES && member->n_keys <= LIMIT_KEYS);
        fuzz_touch(member, sizeof(*member));
        return 0;
}

static int each_session(const TreeSession *session, void *userdata) {
        return 0;
}

static void use(Tree *tree) {
        TreeEntry entry;
        Token token;
        bool more;
        uint64_t revision, incarnation;
        uint8_t nonce[16], id[TOKEN_ID_BYTES] = {7};
        (void)tree_scrub(tree);
        if (tree_get(tree, "/a/1", &entry) == 0)
                each_entry(&entry, NULL);
        (void)tree_list(tree, "/", "", 0, 100, 65536, each_entry, NULL, &more);
        (void)tree_members(tree, each_member, NULL);
        (void)tree_sessions(tree, each_session, NULL);
        (void)tree_token(tree, id, &token);
        (void)tree_changed(tree, "/a", &revision);
        (void)tree_incarnation(tree, 1, &incarnation, nonce);
        int r = 0;
        TreeStatus status;
        for (unsigned i = 0; i < 3 && r == 0; i++) {
                tree_status(tree, &status);
                if (status.applied > UINT64_MAX - 4)
                        return;
                (void)apply(tree,
                            (Command){.kind = COMMAND_SET,
                                      .host = 1,
                                      .incarnation = 1,
                                      .serial = 100 + i,
                                      .path = "/a/1",
                                      .value = BYTES("new", 3)},
                            &r);
        }
        if (r == 0)
                (void)tree_commit(tree);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FuzzReader in = {data, size};
        if (n_good == 0)
                make();
        uint8_t kind = fuzz_u8(&in) % 3;
        if (kind == 0)
                place_write(NAME, in.data, in.size);
        else {
                static uint8_t bytes[ROOM];
                memcpy(bytes, good, n_good);
                while (kind == 1 && in.size >= 3) {
                        size_t at = (size_t)fuzz_u16(&in) * 8 % n_good;
                        uint8_t what = fuzz_u8(&in);
                        bytes[at + (what & 7)] ^= what;
                }
                place_write(NAME, bytes, n_good);
                if (kind == 2) {
                        char text[4096];
                        snprintf(text, sizeof(text), "%.*s", (int)(in.size < 4000 ? in.size : 4000),
                                 (const char *)in.data);
                        run_sql(text);
                }
        }
        TreeOptions o = options();
        Tree *tree = NULL;
        if (tree_open(&tree, &o, NAME) == 0) {
                use(tree);
                tree_abandon(tree);
        }
        place_clear();
        return 0;
}

void fuzz_seeds(FuzzSeed seed) {
        static const char *const texts[] = {
                "\2UPDATE meta SET conf=x'0101000001'",
                "\2DELETE FROM meta",
                "\2DROP TABLE rows; CREATE TABLE rows(id TEXT)",
                "\2UPDATE rows SET value=zeroblob(70000)",
                "\2UPDATE keys SET id=id+1",
                "\2UPDATE records SET body=x'00'",
                "\2INSERT INTO keys(key,id) SELECT key||x'00', 'text' FROM keys",
                "\2UPDATE rows SET key=NULL, owner_tag='x', kind=9; PRAGMA user_version=99",
                "\2CREATE TRIGGER t AFTER INSERT ON rows BEGIN DELETE FROM keys; END",
                "\2DROP VIEW entries; PRAGMA application_id=5",
                "\2UPDATE meta SET applied=-1, revision=9223372036854775807",
                "\2DELETE FROM records; DELETE FROM indexes",
        };
        char name[16];
        for (unsigned i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
                snprintf(name, sizeof(name), "sql-%u", i);
                seed(name, texts[i], strlen(texts[i]));
        }
        static const uint8_t change[] = {1, 2, 0, 9, 0, 2, 255, 16, 4, 1, 1, 8, 129};
        seed("change", change, sizeof(change));
        seed("no-file", "\0SQLite format 3", 16);
}
