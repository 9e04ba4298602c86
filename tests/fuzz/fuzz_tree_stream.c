/* Any bytes as a tree from a peer: built, or refused, and nothing is left behind. Built means that it opens,
 * is what its digest says, and can be sent on. The input: u8 flags, then per chunk u16 size and bytes. Flag
 * 1: the checksum of each chunk is made right first. */
#include "place.h"

#include <xxhash.h>
#include "agent/base/bytes.h"
#include "agent/tree/tree.h"

static TreeOptions options(void) {
        return (TreeOptions){.directory = place(), .cache_bytes = 65536};
}

static void look(const char *name) {
        TreeOptions o = options();
        Tree *tree;
        must(tree_open(&tree, &o, name) == 0);
        must(tree_scrub(tree) == 0);
        tree_abandon(tree);
}

static void build(FuzzReader in) {
        TreeOptions o = options();
        TreeBuild *to;
        uint8_t flags = fuzz_u8(&in);
        int r = tree_build_begin(&o, &to);
        must(r == 0);
        while (r == 0 && in.size > 0) {
                size_t n = fuzz_u16(&in);
                n = n < in.size ? n : in.size;
                uint8_t *copy = malloc(n + 1);
                must(copy);
                memcpy(copy, in.data, n);
                if ((flags & 1) && n >= 8)
                        bytes_put_u64(copy + n - 8, XXH3_64bits(copy, n - 8));
                r = tree_build_feed(to, BYTES(copy, n));
                free(copy);
                in = (FuzzReader){in.data + n, in.size - n};
        }
        char name[80];
        uint64_t index, term;
        r = tree_build_finish(to, name, &index, &term);
        tree_build_free(to);
        if (r == 0)
                look(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        build((FuzzReader){data, size});
        place_clear();
        return 0;
}

/* ---- Seeds: a tree with a little of everything ---- */

static uint64_t apply(Tree *tree, uint64_t index, Command command) {
        Entry *entry = entry_new(ENTRY_COMMAND, index, 1, NULL, 0);
        EntryStamp stamp = {.cluster_usec = index * 1000};
        Result result;
        must(entry && tree_apply(tree, entry, &stamp, &command, NULL, true, 1, NULL, NULL, &result) == 0);
        must(result.status == RESULT_DONE);
        entry_unref(entry);
        return index;
}

static Tree *make(void) {
        static const char name[] = "tree-0000000000000000-00000001.db";
        static const uint8_t cluster[16] = "cluster-of-tests";
        TreeOptions o = options();
        Tree *tree;
        Member founder = {.id = 1, .class = MEMBER_FULL, .name = "h1", .n_keys = 1, .version = 1};
        must(tree_create(&o, name) == 0 && tree_open(&tree, &o, name) == 0);
        must(tree_found(tree, cluster, &founder) == 0);
        uint64_t i = 0, serial = 0;
        uint64_t own = apply(tree, i + 1,
                             (Command){.kind = COMMAND_ANNOUNCE,
                                       .host = 1,
                                       .nonce = BYTES("nonce-of-host-01", 16),
                                       .start = 1,
                                       .start_nonce = BYTES("one-start-of-all", 16)});
        i = own;
        static const Token token = {
                .id = {7}, .class = MEMBER_FULL, .uses_left = 2, .expires_cluster_usec = 1000};
        const Command commands[] = {
                {.kind = COMMAND_ATTACH, .lasts_usec = USEC_PER_SEC},
                {.kind = COMMAND_SET, .path = "/a", .value = BYTES("one", 3)},
                {.kind = COMMAND_SET, .path = "/a", .value = BYTES("two", 3)},
                {.kind = COMMAND_CREATE,
                 .flags = COMMAND_EPHEMERAL,
                 .path = "/services/x/h1",
                 .generation = 1,
                 .owner_tag = "fd:1"},
                {.kind = COMMAND_SET, .path = "/b/c", .value = BYTES("", 0)},
                {.kind = COMMAND_DELETE, .path = "/b/c"},
                {.kind = COMMAND_ADD_TOKEN, .token = &token},
        };
        for (size_t k = 0; k < ELEMENTSOF(commands); k++) {
                Command command = commands[k];
                command.host = 1;
                command.incarnation = own;
                command.serial = ++serial;
                i = apply(tree, i + 1, command);
        }
        return tree;
}

void fuzz_seeds(FuzzSeed seed) {
        Tree *tree = make();
        TreeSnapshot *snapshot;
        Buffer out = {};
        uint8_t flags = 1;
        must(buffer_append(&out, &flags, 1) == 0 && tree_snapshot_begin(tree, &snapshot) == 0);
        for (bool done = false; !done;) {
                Buffer chunk = {};
                must(tree_snapshot_next(snapshot, &chunk, &done) == 0 && chunk.size <= UINT16_MAX);
                uint8_t head[2] = {(uint8_t)chunk.size, (uint8_t)(chunk.size >> 8)};
                must(buffer_append(&out, head, 2) == 0 && buffer_append(&out, chunk.data, chunk.size) == 0);
                buffer_deinit(&chunk);
        }
        tree_snapshot_free(snapshot);
        seed("whole", out.data, out.size);
        out.data[0] = 0;
        seed("unsealed", out.data, out.size);
        tree_abandon(tree);
        buffer_deinit(&out);
        place_clear();
}
