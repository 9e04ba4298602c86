/* See help.h. */
#include "help.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

static void bench_say(void *userdata, int level, const char *text) {
        ((Bench *)userdata)->said = true;
        if (getenv("VERBOSE"))
                fprintf(stderr, "<%d> %s\n", level, text);
}

Bench *bench_new(const char *name) {
        Bench *bench = calloc(1, sizeof(Bench));
        assert_non_null(bench);
        strcpy(bench->directory, "/tmp/treaty-tree-XXXXXX");
        assert_non_null(mkdtemp(bench->directory));
        strcpy(bench->name, name);
        bench->options = (TreeOptions){.directory = bench->directory, .report = {bench_say, bench}};
        bench->signature_valid = true;
        assert_int_equal(tree_create(&bench->options, name), 0);
        assert_int_equal(tree_open(&bench->tree, &bench->options, name), 0);
        return bench;
}

Bench *bench_free(Bench *bench) {
        tree_close(bench->tree);
        DIR *d = opendir(bench->directory);
        for (struct dirent *e; d && (e = readdir(d));)
                unlinkat(dirfd(d), e->d_name, 0);
        closedir(d);
        assert_int_equal(rmdir(bench->directory), 0);
        buffer_deinit(&bench->live);
        free(bench);
        return NULL;
}

static void bench_found(Bench *bench) {
        static const uint8_t cluster[16] = "cluster-of-tests";
        Member founder = member_of(1, "h1");
        assert_int_equal(tree_found(bench->tree, cluster, &founder), 0);
        announce(bench, 1, "nonce-of-host-01");
        attach(bench, 1);
}

int bench_setup(void **state) {
        Bench *bench = bench_new("tree-0000000000000000-00000001.db");
        bench_found(bench);
        *state = bench;
        return 0;
}

int bench_teardown(void **state) {
        bench_free(*state);
        return 0;
}

void bench_reopen(Bench *bench, bool clean) {
        bench->tree = clean ? tree_close(bench->tree) : tree_abandon(bench->tree);
        assert_int_equal(tree_open(&bench->tree, &bench->options, bench->name), 0);
}

void event_write(const TreeChange *change, void *userdata) {
        Buffer *to = userdata;
        char line[LIMIT_PATH_BYTES + 256];
        int n = snprintf(line, sizeof(line), "%llu %s %s %d create %llu version %llu owner %llu%s value ",
                         (unsigned long long)change->revision, change->kind == TREE_PUT ? "put" : "delete",
                         change->path, change->had_previous, (unsigned long long)change->create_revision,
                         (unsigned long long)change->version, (unsigned long long)change->owner_host,
                         change->last ? " last" : "");
        assert_int_equal(buffer_append(to, line, (size_t)n), 0);
        assert_int_equal(buffer_append(to, change->value.data, change->value.size), 0);
        assert_int_equal(buffer_append(to, " before ", 8), 0);
        assert_int_equal(buffer_append(to, change->previous.data, change->previous.size), 0);
        assert_int_equal(buffer_append(to, "\n", 1), 0);
}

int apply_raw(Bench *bench, const Command *command, Result *ret) {
        TreeStatus status = status_of(bench);
        Entry entry = {
                .index = status.applied + 1,
                .term = 1,
                .type = command ? ENTRY_COMMAND : ENTRY_NOOP,
        };
        EntryStamp stamp = {.min_version = 1, .cluster_usec = bench->cluster_usec};
        return tree_apply(bench->tree, &entry, command ? &stamp : NULL, command, NULL,
                          bench->signature_valid, 1, event_write, &bench->live, ret);
}

Result apply(Bench *bench, Command command) {
        Result result;
        if (command.host == 0)
                command.host = 1;
        if (command.incarnation == 0)
                command.incarnation = bench->incarnation[command.host];
        if (command.serial == 0)
                command.serial = ++bench->serial[command.host];
        if (command.flags & (COMMAND_EPHEMERAL | COMMAND_IF_OWNED)) {
                command.generation = command.generation ?: bench->generation[command.host];
                command.owner_tag = command.owner_tag ?: "tag";
        }
        int r = apply_raw(bench, &command, &result);
        assert_int_equal(r, 0);
        return result;
}

Result set(Bench *bench, const char *path, const char *value) {
        return apply(bench,
                     (Command){.kind = COMMAND_SET, .path = path, .value = BYTES(value, strlen(value))});
}

Result delete (Bench *bench, const char *path, uint32_t flags) {
        return apply(bench, (Command){.kind = COMMAND_DELETE, .path = path, .flags = flags});
}

Result announce(Bench *bench, uint64_t host, const char *nonce) {
        Result result;
        Command command = {.kind = COMMAND_ANNOUNCE,
                           .host = host,
                           .nonce = BYTES(nonce, 16),
                           .start = 1,
                           .start_nonce = BYTES("one-start-of-all", 16)};
        assert_int_equal(apply_raw(bench, &command, &result), 0);
        if (result.status == RESULT_DONE && bench->incarnation[host] != result.number) {
                bench->incarnation[host] = result.number;
                bench->serial[host] = 0;
        }
        return result;
}

Result attach(Bench *bench, uint64_t host) {
        Result result =
                apply(bench, (Command){.kind = COMMAND_ATTACH, .host = host, .lasts_usec = USEC_PER_SEC});
        if (result.status == RESULT_DONE)
                bench->generation[host] = result.number;
        return result;
}

void noop(Bench *bench) {
        Result result;
        assert_int_equal(apply_raw(bench, NULL, &result), 0);
}

Member member_of(uint64_t id, const char *name) {
        Member member = {.id = id, .class = MEMBER_FULL, .n_addresses = 1, .n_keys = 1, .version = 1};
        snprintf(member.name, sizeof(member.name), "%s", name);
        snprintf(member.addresses[0], sizeof(member.addresses[0]), "%s:7707", name);
        memset(member.keys[0], (int)id, KEY_HASH_BYTES);
        return member;
}

Token token_of(uint8_t id, MemberClass class, uint32_t uses, uint64_t lifetime) {
        Token token = {.class = class, .uses_left = uses, .expires_cluster_usec = lifetime};
        memset(token.id, id, sizeof(token.id));
        memset(token.public_key, id ^ 0x55, sizeof(token.public_key));
        return token;
}

void add_host(Bench *bench, uint64_t id, const char *name, MemberClass class) {
        Token token = token_of((uint8_t)id, class, 1, USEC_PER_SEC);
        Member member = member_of(id, name);
        char nonce[32];
        assert_status(apply(bench, (Command){.kind = COMMAND_ADD_TOKEN, .token = &token}), RESULT_DONE);
        assert_status(
                apply(bench, (Command){.kind = COMMAND_ADD_MEMBER, .token = &token, .member = &member}),
                RESULT_DONE);
        snprintf(nonce, sizeof(nonce), "nonce-of-host-%02u", (unsigned)(id % 100));
        assert_status(announce(bench, id, nonce), RESULT_DONE);
        assert_status(attach(bench, id), RESULT_DONE);
}

TreeStatus status_of(const Bench *bench) {
        TreeStatus status;
        tree_status(bench->tree, &status);
        return status;
}

TreeDigest digest_of(const Bench *bench) {
        TreeDigest digest;
        tree_digest(bench->tree, &digest);
        return digest;
}

uint64_t revision_of(const Bench *bench) {
        return status_of(bench).revision;
}

char *value_of(Bench *bench, const char *path) {
        static char text[4096];
        TreeEntry entry;
        int r = tree_get(bench->tree, path, &entry);
        if (r == TREE_NONE)
                return NULL;
        assert_int_equal(r, 0);
        assert_true(entry.value.size < sizeof(text));
        memcpy(text, entry.value.data, entry.value.size);
        text[entry.value.size] = 0;
        return text;
}

static const char *const random_paths[] = {
        "/a",     "/a/b",   "/a/b/c", "/a-b",  "/a.c/d", "/ab",     "/a/b-c", "/a/c",
        "/hosts", "/e/1",   "/e/2",   "/e/3",  "/e/3/4", "/config", "/x/y/z", "/hosts/h3",
        "/z",     "/z/1/2", "/z/1/3", "/z/10", "/q/1",   "/q/2",    "/q/3",   "/services/web/h2:80",
};

void apply_random(Bench *bench, Random *random) {
        char value[600];
        size_t size = random_below(random, random_below(random, 20) == 0 ? sizeof(value) : 40);
        memset(value, (int)('a' + random_below(random, 26)), size);
        uint64_t host = 1 + random_below(random, 3);
        const char *path = random_paths[random_below(random, ELEMENTSOF(random_paths))];
        Command command = {.host = host, .path = path, .value = BYTES(value, size)};
        command.lowest_unresolved =
                bench->serial[host] > 5 ? bench->serial[host] - random_below(random, 5) : 1;
        bench->cluster_usec += random_below(random, 20 * USEC_PER_SEC);
        uint8_t keep[2 * 4];
        for (unsigned i = 0; i < sizeof(keep); i += 2) {
                keep[i] = (uint8_t)(1 + random_below(random, 8));
                keep[i + 1] = 0;
        }
        if (random_below(random, 8) == 0)
                command.keep = BYTES(keep, 2 * random_below(random, sizeof(keep) / 2 + 1));

        switch (random_below(random, 24)) {
        case 0:
                command.kind = COMMAND_CREATE;
                break;
        case 1:
        case 2:
        case 3:
                command.kind = COMMAND_DELETE;
                break;
        case 4:
                command.kind = COMMAND_DELETE;
                command.flags = COMMAND_SUBTREE;
                break;
        case 5:
        case 6:
        case 7:
                command.kind = COMMAND_SET;
                command.flags = COMMAND_EPHEMERAL;
                break;
        case 8:
                if (random_below(random, 4) == 0)
                        attach(bench, host);
                return;
        case 9:
                if (random_below(random, 4) == 0)
                        apply_raw(bench,
                                  &(Command){.kind = COMMAND_END_SESSION,
                                             .subject = host,
                                             .generation = bench->generation[host]},
                                  NULL);
                return;
        case 10:
                if (random_below(random, 8) == 0) {
                        char nonce[24];
                        snprintf(nonce, sizeof(nonce), "%016llx", (unsigned long long)random_next(random));
                        announce(bench, host, nonce);
                }
                return;
        case 11: {
                Token token = token_of((uint8_t)random_below(random, 9), MEMBER_FULL, 3, 60 * USEC_PER_SEC);
                command.token = &token;
                command.kind = random_below(random, 2) == 0 ? COMMAND_ADD_TOKEN : COMMAND_REMOVE_TOKEN;
                apply(bench, command);
                return;
        }
        case 12:
                command.kind = COMMAND_SET;
                command.flags = COMMAND_IF_MOD_REVISION;
                command.revision = random_below(random, 2) * revision_of(bench);
                break;
        case 13: {
                uint64_t revision = revision_of(bench);
                apply_raw(bench,
                          &(Command){.kind = COMMAND_PRUNE, .revision = revision > 200 ? revision - 200 : 0},
                          NULL);
                return;
        }
        case 14:
                command.serial = bench->serial[host]; /* again: a no-op */
                command.kind = COMMAND_SET;
                break;
        default:
                command.kind = COMMAND_SET;
        }
        apply(bench, command);
}
