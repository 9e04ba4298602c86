/* A tree lives through 60 entries of all kinds, reads, a scrub in slices beside it, checkpoints, a snapshot
 * that is built into another tree and a new start; and the n-th allocation, file call or step of
 * a statement of that life fails, for every n or for some. Whatever n is: no crash; the file opens again,
 * holds at least what was committed, passes its scrub, and with the entries behind it becomes exactly the
 * tree that it would have been.
 *
 *      nth-tree memory|file|sql [--samples N | --from A --to B]        without options every n */
#include <dlfcn.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "agent/tree/tree.h"
#include "tests/agent/failing.h"
#include "tests/coverage.h"

#define ENTRIES 60
#define NAME    "tree-0000000000000000-00000001.db"

static char directory[64];
static TreeOptions options;
static uint64_t committed; /* as the tree last said */
static TreeDigest wanted;  /* of all entries, without a failure */

static _Noreturn void wrong(const char *what, int r) {
        failing_off();
        fprintf(stderr, "%s: %s (after %s failed)\n", what, r < 0 ? strerror(-r) : "outcome",
                failing_what());
        coverage_dump();
        _exit(1);
}

/* SQLite says that it could not, and did nothing. What it steps within a call is its own affair. */
#define SQL_CALL(name, arguments, ...)                                    \
        __attribute__((visibility("default"))) int name arguments {       \
                static int(*real) arguments;                              \
                if (sql_depth == 0 && failing_fails(FAIL_SQL, #name))     \
                        return SQLITE_IOERR;                              \
                if (!real)                                                \
                        real = (int(*) arguments)dlsym(RTLD_NEXT, #name); \
                sql_depth++;                                              \
                int rc = real(__VA_ARGS__);                               \
                sql_depth--;                                              \
                return rc;                                                \
        }
static unsigned sql_depth;
SQL_CALL(sqlite3_step, (sqlite3_stmt * statement), statement)
SQL_CALL(sqlite3_exec,
         (sqlite3 * db, const char *text, sqlite3_callback each, void *userdata, char **ret_error), db, text,
         each, userdata, ret_error)

/* ---- What happens, by index ---- */

static Command command_at(uint64_t i, Member *member, Token *token, char path[static 32]) {
        *token = (Token){.id = {7}, .class = MEMBER_FULL, .uses_left = 3, .expires_cluster_usec = 1000000};
        *member = (Member){
                .id = 2, .class = MEMBER_FULL, .name = "h2", .n_keys = 1, .keys = {{2}}, .version = 1};
        Command command = {.host = 1, .incarnation = 1, .serial = i, .path = path};
        static const uint8_t signature[SIGNATURE_BYTES];
        snprintf(path, 32, "/a/%u/%u", (unsigned)(i % 3), (unsigned)(i % 5));
        switch (i) {
        case 1:
        case 7:
                return (Command){.kind = COMMAND_ANNOUNCE,
                                 .host = i == 1 ? 1 : 2,
                                 .nonce = BYTES(i == 1 ? "nonce-of-host-01" : "nonce-of-host-02", 16),
                                 .start = 1,
                                 .start_nonce = BYTES("one-start-of-all", 16)};
        case 2:
        case 30:
                command.kind = COMMAND_ATTACH;
                command.lasts_usec = USEC_PER_SEC;
                return command;
        case 5:
                command.kind = COMMAND_ADD_TOKEN;
                command.token = token;
                return command;
        case 6:
        case 40:
                command.kind = COMMAND_ADD_MEMBER;
                command.member = member;
                command.token = token;
                command.signature = BYTES(signature, sizeof(signature));
                if (i == 40) {
                        member->id = 3;
                        member->keys[0][0] = 3;
                        snprintf(member->name, sizeof(member->name), "h3");
                }
                return command;
        case 8:
                return (Command){.kind = COMMAND_ATTACH,
                                 .host = 2,
                                 .incarnation = 7,
                                 .serial = i,
                                 .lasts_usec = USEC_PER_SEC};
        case 20:
                command.kind = COMMAND_UPDATE_MEMBER;
                command.host = 2;
                command.incarnation = 7;
                command.member = member;
                snprintf(member->name, sizeof(member->name), "h2-new");
                return command;
        case 35:
                return (Command){.kind = COMMAND_END_SESSION, .host = 1, .subject = 2, .generation = 1};
        case 45:
                command.kind = COMMAND_REMOVE_MEMBER;
                command.subject = 2;
                return command;
        case 46:
                command.kind = COMMAND_REMOVE_TOKEN;
                command.token = token;
                return command;
        case 50:
                return (Command){.kind = COMMAND_PRUNE, .host = 1, .revision = 20};
        case 15:
        case 51: /* the hall compares digests here; for the tree it is an index like any other */
                return (Command){.kind = COMMAND_CHECK};
        }
        command.kind = i % 4 == 3 ? COMMAND_DELETE : i % 9 == 4 ? COMMAND_CREATE : COMMAND_SET;
        if (i % 4 == 3)
                command.flags = i % 8 == 7 ? COMMAND_SUBTREE : 0;
        else
                command.value = BYTES("a value that is neither long nor short", 38);
        if (i % 5 == 1 && command.kind != COMMAND_DELETE && i > 8 && i < 35) {
                command.flags = COMMAND_EPHEMERAL;
                command.owner_tag = "fd:1";
                command.generation = 1;
                command.host = 2;
                command.incarnation = 7;
        }
        return command;
}

static void heard(const TreeChange *change, void *userdata) {
}

static int apply(Tree *tree, uint64_t i) {
        static Member member;
        static Token token;
        char path[32];
        Command command = command_at(i, &member, &token, path);
        EntryStamp stamp = {.cluster_usec = i * 1000};
        Conf conf = {.n_voters = 1, .voters = {{.id = 1}}};
        bool is_conf = i == 25;
        failing_off();
        Entry *entry = entry_new(is_conf ? ENTRY_CONF : ENTRY_COMMAND, i, 1, NULL, 0);
        failing_on();
        Result result;
        int r = tree_apply(tree, entry, &stamp, is_conf ? NULL : &command, is_conf ? &conf : NULL, true, 1,
                           heard, NULL, &result);
        entry_unref(entry);
        if (r == 0 && command.kind != COMMAND_DELETE && command.kind != COMMAND_CREATE &&
            result.status != RESULT_DONE)
                wrong(command_kind_name(command.kind), -EINVAL); /* the life is not what it is meant to be */
        return r;
}

/* ---- Looking ---- */

static int each_entry(const TreeEntry *entry, void *userdata) {
        return 0;
}

static int each_member(const Member *member, void *userdata) {
        return 0;
}

static int each_session(const TreeSession *session, void *userdata) {
        return 0;
}

static void look(Tree *tree) {
        TreeEntry entry;
        Member member;
        TreeSession session;
        Token token;
        uint8_t id[TOKEN_ID_BYTES] = {7}, key[KEY_HASH_BYTES] = {2}, nonce[16];
        uint64_t n;
        bool more;
        (void)tree_get(tree, "/a/1/1", &entry);
        (void)tree_list(tree, "/", "", 0, 100, 65536, each_entry, NULL, &more);
        (void)tree_list(tree, "/a", "/a/0", TREE_LIST_CHILDREN, 3, 65536, each_entry, NULL, &more);
        (void)tree_history(tree, "/a", 1, UINT64_MAX, 65536, heard, NULL, &n);
        (void)tree_changed(tree, "/a/1", &n);
        (void)tree_owned(tree, 2, 1, each_entry, NULL);
        (void)tree_member(tree, 2, &member);
        (void)tree_member_by_key(tree, key, &member);
        (void)tree_member_by_name(tree, "h1", &member);
        (void)tree_members(tree, each_member, NULL);
        (void)tree_session(tree, 1, &session);
        (void)tree_sessions(tree, each_session, NULL);
        (void)tree_token(tree, id, &token);
        (void)tree_incarnation(tree, 1, &n, nonce);
        Result result;
        if (tree_incarnation(tree, 1, &n, nonce) == 0)
                (void)tree_outcome(tree, 1, n, 9, &result);
        (void)tree_member_removed(tree, 2);
}

/* Want of memory is not rot: the tree would be thrown away for it. What the disk does not give back is. And
 * behind a lock that the kernel did not give up, which no kernel does with a local file, SQLite itself calls
 * the file corrupt. */
static void scrub_some(Tree *tree) {
        uint64_t n;
        bool done;
        if (tree_scrub_slice(tree, 5, &n, &done) == TREE_ROTTEN && strcmp(failing_what(), "pread") != 0 &&
            strcmp(failing_what(), "fcntl") != 0)
                wrong("the scrub calls a good tree rotten", 0);
}

/* Sent and built again; what was built is the same tree. */
static int copy(Tree *tree) {
        TreeSnapshot *snapshot = NULL;
        TreeBuild *build = NULL;
        Buffer chunk = {};
        bool done = false;
        int r = tree_snapshot_begin(tree, &snapshot);
        if (r != 0)
                return r;
        r = tree_build_begin(&options, &build);
        while (r == 0 && !done) {
                chunk.size = 0;
                r = tree_snapshot_next(snapshot, &chunk, &done);
                if (r == 0)
                        r = tree_build_feed(build, BYTES(chunk.data, chunk.size));
        }
        char name[80];
        uint64_t index, term;
        if (r == 0)
                r = tree_build_finish_begin(build);
        do
                r = r == 0 || r == -EAGAIN ? tree_build_finish_take(build, name, &index, &term) : r;
        while (r == -EAGAIN);
        if (r == 0 && index != tree_snapshot_index(snapshot))
                wrong("another index was built", 0);
        buffer_deinit(&chunk);
        tree_build_free(build);
        tree_snapshot_free(snapshot);
        return 0; /* a copy may fail; the tree goes on */
}

/* ---- A life ---- */

static int begin(Tree **ret) {
        static const uint8_t cluster[16] = "cluster-of-tests";
        Member founder = {
                .id = 1, .class = MEMBER_FULL, .name = "h1", .n_keys = 1, .keys = {{1}}, .version = 1};
        int r = tree_create(&options, NAME);
        if (r == 0)
                r = tree_open(ret, &options, NAME);
        return r == 0 ? tree_found(*ret, cluster, &founder) : r;
}

static int settle(Tree *tree) {
        int r = tree_commit(tree);
        if (r == 0) {
                tree_checkpoint(tree);
                r = tree_maintain(tree);
        }
        TreeStatus status;
        tree_status(tree, &status);
        committed = status.committed;
        return r;
}

static int live(Tree **tree) {
        TreeStatus status;
        tree_status(*tree, &status);
        int r = 0;
        for (uint64_t i = status.applied + 1; r == 0 && i <= ENTRIES; i++) {
                r = apply(*tree, i);
                if (r == 0)
                        scrub_some(*tree);
                if (r == 0 && i % 7 == 0)
                        look(*tree);
                if (r == 0 && i % 10 == 0)
                        r = settle(*tree);
                if (r == 0 && i == 48) {
                        (void)tree_scrub(*tree);
                        r = copy(*tree);
                }
                if (r == 0 && i % 25 == 0) {
                        *tree = tree_close(*tree);
                        r = tree_open(tree, &options, NAME);
                        if (r != 0)
                                *tree = NULL;
                }
        }
        return r == 0 ? settle(*tree) : r;
}

static void check(const char *when) {
        TreeStatus status;
        TreeDigest digest;
        Tree *tree = NULL;
        (void)tree_sweep(&options, NAME);
        int r = tree_open(&tree, &options, NAME);
        if (r != 0)
                wrong("the file does not open", r);
        tree_status(tree, &status);
        if (status.applied < committed)
                wrong("what was committed is gone", 0);
        r = tree_scrub(tree);
        if (r != 0)
                wrong("the scrub finds rot", r);
        r = live(&tree);
        if (r != 0)
                wrong("the entries behind it do not apply", r);
        tree_digest(tree, &digest);
        if (memcmp(&digest, &wanted, sizeof(digest)) != 0)
                wrong("it is another tree", 0);
        tree_close(tree);
}

static void one(FailKind kind, uint64_t n) {
        Tree *tree = NULL;
        failing_arm(kind, n, n % 4 == 3 ? 5 : 0, n % 2);
        failing_on();
        int r = begin(&tree);
        bool founded = r == 0;
        if (r == 0)
                r = live(&tree);
        tree = r == 0 && n % 3 == 0 ? tree_close(tree) : tree_abandon(tree);
        failing_off();
        failing_arm(FAIL_NOTHING, 0, 0, false);
        if (!founded) { /* the hall makes another, and points at that one */
                (void)tree_sweep(&options, "");
                r = begin(&tree);
                if (r != 0)
                        wrong("no second try", r);
                tree_abandon(tree);
        }
        check("afterwards");
}

/* ---- Many ---- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
        return remove(path);
}

static void place(void) {
        snprintf(directory, sizeof(directory), "%s/treaty-nth.XXXXXX",
                 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        if (!mkdtemp(directory))
                wrong("no directory", -errno);
        options = (TreeOptions){.directory = directory, .cache_bytes = 65536};
        committed = 0;
}

static uint64_t count(FailKind kind) {
        Tree *tree = NULL;
        place();
        failing_arm(kind, UINT64_MAX, 0, false);
        failing_on();
        int r = begin(&tree);
        if (r == 0)
                r = live(&tree);
        failing_off();
        if (r != 0)
                wrong("it does not even work without a failure", r);
        tree_digest(tree, &wanted);
        tree_close(tree);
        nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
        return failing_calls();
}

static bool holds(const char *name, FailKind kind, uint64_t n) {
        int status = 0;
        place();
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
                alarm(120);
                one(kind, n);
                coverage_dump();
                _exit(0);
        }
        waitpid(pid, &status, 0);
        nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
        if (status != 0)
                fprintf(stderr, "failed (status %d): nth-tree %s --from %llu --to %llu\n", status, name,
                        (unsigned long long)n, (unsigned long long)n + 1);
        return status == 0;
}

int main(int argc, char **argv) {
        uint64_t samples = UINT64_MAX, from = 0, to = UINT64_MAX;
        FailKind kind = argc > 1 && strcmp(argv[1], "memory") == 0 ? FAIL_MEMORY
                        : argc > 1 && strcmp(argv[1], "file") == 0 ? FAIL_FILE
                        : argc > 1 && strcmp(argv[1], "sql") == 0  ? FAIL_SQL
                                                                   : FAIL_NOTHING;
        for (int i = 2; i + 1 < argc; i += 2) {
                uint64_t number = strtoull(argv[i + 1], NULL, 10);
                if (strcmp(argv[i], "--samples") == 0)
                        samples = number ? number : 1;
                else if (strcmp(argv[i], "--from") == 0)
                        from = number;
                else if (strcmp(argv[i], "--to") == 0)
                        to = number;
                else
                        kind = FAIL_NOTHING;
        }
        if (kind == FAIL_NOTHING) {
                fprintf(stderr, "usage: nth-tree memory|file|sql [--samples N | --from A --to B]\n");
                return 2;
        }
        uint64_t calls = count(kind);
        to = MIN(to, calls);
        uint64_t stride = samples >= to - from ? 1 : (to - from) / samples | 1;
        unsigned n_tried = 0, n_failed = 0;
        for (uint64_t n = from; n < to; n += stride, n_tried++)
                n_failed += !holds(argv[1], kind, n);
        printf("%s: %llu calls, %u of them failed, %u runs went wrong\n", argv[1], (unsigned long long)calls,
               n_tried, n_failed);
        return n_failed ? 1 : 0;
}
