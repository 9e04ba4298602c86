/* A tree out of a peer's stream. Its bytes are hostile until the end: each length is bounded before it is
 * used, each record parsed by who would read it later, rows and records come strictly in order (so none
 * comes twice), and what was built has to have the digest that the stream began with. Then all of it is read
 * back from the disk: what was counted in memory says nothing of bytes that rotted behind it. The file bears
 * a building name until it is whole, synced and read; nothing points to it before the log says so. */
#include "internal.h"

#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

struct TreeBuild {
        Tree tree; /* without maintenance; one transaction, no journal */
        Meta head;
        TreeDigest digest;
        StreamKind phase; /* kind of the last record; 0 before the first */
        uint32_t number;
        uint64_t n_smalls, n_rows;
        uint64_t last_id;
        uint8_t last_small[1 + UINT8_MAX];
        size_t last_small_size;
        XXH3_state_t *hash;
        int failed;
        /* The end, on a thread of its own: all below is its until `finished`. */
        pthread_t thread;
        bool has_thread;
        _Atomic bool finished;
        int result;
        char name[TREE_NAME_BYTES];
};

static int path_random(TreeBuild *build) {
        uint8_t random[4];
        char hex[9];
        if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
                return -EIO;
        int n = snprintf(build->tree.path, sizeof(build->tree.path) - 8, "%s/build-%s.db",
                         build->tree.options.directory, hex_write(hex, random, sizeof(random)));
        return n < 0 || (size_t)n >= sizeof(build->tree.path) - 8 ? -ENAMETOOLONG : 0;
}

static int build_file(TreeBuild *build) {
        Tree *tree = &build->tree;
        int r = path_random(build);
        if (r == 0)
                r = file_make(&tree->options, tree->path);
        if (r != 0) {
                tree->path[0] = 0;
                return r;
        }
        r = file_connect(tree, tree->path, true, &tree->db);
        if (r == 0)
                r = sql_exec(tree, tree->db, "BEGIN IMMEDIATE");
        return r != 0 ? r : file_schema(tree);
}

int tree_build_begin(const TreeOptions *options, TreeBuild **ret) {
        TreeBuild *build = calloc(1, sizeof(TreeBuild));
        if (!build)
                return -ENOMEM;
        build->tree.options = *options;
        if (build->tree.options.cache_bytes < 64 * 1024)
                build->tree.options.cache_bytes = 4 * 1024 * 1024;
        build->hash = XXH3_createState();
        int r = build->hash ? build_file(build) : -ENOMEM;
        if (r != 0) {
                tree_build_free(build);
                return r;
        }
        XXH3_128bits_reset(build->hash);
        *ret = build;
        return 0;
}

TreeBuild *tree_build_free(TreeBuild *build) {
        if (!build)
                return NULL;
        if (build->has_thread)
                pthread_join(build->thread, NULL);
        sql_finalize(&build->tree);
        sqlite3_close(build->tree.db);
        if (build->tree.path[0])
                unlink(build->tree.path);
        tree_deinit(&build->tree);
        XXH3_freeState(build->hash);
        free(build);
        return NULL;
}

/* ---- Records ---- */

static int build_head(TreeBuild *build, Bytes body) {
        if (build->phase != 0)
                return TREE_ROTTEN;
        int r = stream_head_read(body, &build->head, &build->digest);
        if (r != 0)
                return r;
        /* Who took it would have jumped past entries at which it has to stop. */
        return file_is_newer(&build->tree.options, &build->head) ? TREE_NEWER : 0;
}

static int build_member(Tree *tree, Bytes key, Bytes body) {
        Member member;
        uint64_t id;
        int r = member_decode(key, body, &member);
        if (r == 0)
                r = index_get(tree, INDEX_NAME, BYTES(member.name, strlen(member.name)), &id);
        for (uint32_t i = 0; r == TREE_NONE && i < member.n_keys; i++)
                r = index_get(tree, INDEX_KEY, BYTES(member.keys[i], KEY_HASH_BYTES), &id);
        if (r != TREE_NONE)
                return r == 0 ? TREE_ROTTEN : r; /* a name or key of two members */
        return member_index(tree, &member);
}

static int build_requests(Tree *tree, Bytes key, Bytes body) {
        _cleanup_(request_row_freep) RequestRow *row = NULL;
        int r = request_decode(key, body, &row);
        return r != 0 ? r : request_index(tree, row);
}

static int build_record(Tree *tree, RecordKind kind, Bytes key, Bytes body) {
        Session session;
        Token token;
        switch (kind) {
        case RECORD_MEMBER:
                return build_member(tree, key, body);
        case RECORD_GONE:
                return key.size == 8 && body.size == 8 ? 0 : TREE_ROTTEN;
        case RECORD_SESSION:
                return session_decode(key, body, &session);
        case RECORD_REQUESTS:
                return build_requests(tree, key, body);
        case RECORD_TOKEN:
                return token_decode(key, body, &token);
        case RECORD_KEPT:
                return kept_check(key, body) ?: kept_index(tree, key, body);
        case _RECORD_MAX:
                break;
        }
        return TREE_ROTTEN;
}

static bool small_follows(TreeBuild *build, const uint8_t *kind_and_key, size_t size) {
        size_t n = MIN(size, build->last_small_size);
        int c = memcmp(build->last_small, kind_and_key, n);
        return c < 0 || (c == 0 && build->last_small_size < size);
}

static int build_small(TreeBuild *build, Bytes body) {
        if (build->phase != STREAM_HEAD && build->phase != STREAM_SMALL)
                return TREE_ROTTEN;
        if (body.size < 2 || body.size < 2 + (size_t)body.data[1])
                return TREE_ROTTEN;

        RecordKind kind = body.data[0];
        Bytes key = BYTES(body.data + 2, body.data[1]);
        Bytes rest = BYTES(key.data + key.size, body.size - 2 - key.size);
        uint8_t name[1 + UINT8_MAX] = {body.data[0]};
        memcpy(name + 1, key.data, key.size);
        if (!small_follows(build, name, 1 + key.size))
                return TREE_ROTTEN;
        memcpy(build->last_small, name, 1 + key.size);
        build->last_small_size = 1 + key.size;
        build->n_smalls++;

        int r = build_record(&build->tree, kind, key, rest);
        return r != 0 ? r : record_put(&build->tree, kind, key, rest);
}

/* The row before it, if it lives, no longer does. */
static int build_replace(TreeBuild *build, const Row *row, bool *ret_lived) {
        Tree *tree = &build->tree;
        Bytes key = BYTES(row->key, row->key_size);
        uint64_t id;
        int r = key_find(tree, key, &id);
        *ret_lived = r == 0;
        if (r == TREE_NONE) /* its predecessor may be pruned; but what is deleted was there */
                return row->kind == TREE_DELETE && row->previous == 0 ? TREE_ROTTEN : 0;
        if (r != 0)
                return r;
        if (row->previous != id)
                return TREE_ROTTEN;

        Row before;
        r = row_load(tree, id, &tree->before, &before);
        if (r != 0)
                return r == TREE_NONE ? TREE_ROTTEN : r;
        if (before.owner_host != 0) {
                uint8_t owned[16 + LIMIT_PATH_BYTES];
                size_t n = owned_key(owned, before.owner_host, before.owner_generation, key);
                r = index_delete(tree, INDEX_OWNED, BYTES(owned, n));
                if (r != 0)
                        return r;
        }
        tree->meta.digest -= before.sum;
        tree->meta.n_entries--;
        return 0;
}

static int build_put(Tree *tree, const Row *row, bool lived) {
        Bytes key = BYTES(row->key, row->key_size);
        int r = key_point(tree, row, !lived);
        if (r == 0 && !lived)
                r = index_delete(tree, INDEX_TOMB, key);
        if (r == 0 && row->owner_host != 0) {
                uint8_t owned[16 + LIMIT_PATH_BYTES];
                size_t n = owned_key(owned, row->owner_host, row->owner_generation, key);
                r = index_put(tree, INDEX_OWNED, BYTES(owned, n), 0);
        }
        tree->meta.digest += row->sum;
        tree->meta.n_entries++;
        return r;
}

static int build_delete(Tree *tree, const Row *row, bool lived) {
        Bytes key = BYTES(row->key, row->key_size);
        int r = lived ? key_drop(tree, key) : 0;
        return r != 0 ? r : index_put(tree, INDEX_TOMB, key, row->id);
}

static int build_row(TreeBuild *build, Bytes body) {
        if (build->phase == 0 || build->phase == STREAM_END || body.size < ROW_HEAD_BYTES)
                return TREE_ROTTEN;

        Row row = row_decode(body.data);
        size_t tag_size = body.data[50] | (size_t)body.data[51] << 8;
        if (!row_is_sane(&row, tag_size) || body.data[49] != 0 ||
            body.size != ROW_HEAD_BYTES + tag_size + row.key_size + row.value.size)
                return TREE_ROTTEN;
        if (row.id <= build->last_id || row_revision(row.id) > build->head.revision)
                return TREE_ROTTEN;

        const char *p = (const char *)body.data + ROW_HEAD_BYTES;
        char tag[OWNER_TAG_BYTES + 1];
        memcpy(tag, p, tag_size);
        tag[tag_size] = 0;
        row.owner_tag = tag;
        row.key = p + tag_size;
        row.value.data = (const uint8_t *)row.key + row.key_size;
        if (!utf8_is_valid(tag, tag_size) || row.key_size < 2 ||
            path_check_bytes(row.key, row.key_size) != PATH_OK)
                return TREE_ROTTEN;
        row.sum = row_hash(&row);

        bool lived;
        int r = build_replace(build, &row, &lived);
        if (r == 0)
                r = row_insert(&build->tree, &row);
        if (r == 0)
                r = row.kind == TREE_PUT ? build_put(&build->tree, &row, lived)
                                         : build_delete(&build->tree, &row, lived);
        build->last_id = row.id;
        build->n_rows++;
        return r;
}

static int build_end(TreeBuild *build, Bytes body) {
        if (build->phase == 0 || build->phase == STREAM_END || body.size != 32)
                return TREE_ROTTEN;
        XXH128_hash_t hash = XXH3_128bits_digest(build->hash);
        if (bytes_get_u64(body.data) != build->n_smalls || bytes_get_u64(body.data + 8) != build->n_rows ||
            sum_read(body.data + 16) != ((Sum)hash.high64 << 64 | hash.low64))
                return TREE_ROTTEN;
        return 0;
}

static int build_one(TreeBuild *build, uint8_t kind, Bytes framed) {
        Bytes body = BYTES(framed.data + 5, framed.size - 5);
        int r;
        switch (kind) { /* a byte from outside, not our enum */
        case STREAM_HEAD:
                r = build_head(build, body);
                break;
        case STREAM_SMALL:
                r = build_small(build, body);
                break;
        case STREAM_ROW:
                r = build_row(build, body);
                break;
        case STREAM_END:
                r = build_end(build, body);
                break;
        default:
                return TREE_ROTTEN;
        }
        if (r == 0 && kind != STREAM_END)
                XXH3_128bits_update(build->hash, framed.data, framed.size);
        build->phase = kind;
        return r;
}

static int build_chunk(TreeBuild *build, Bytes chunk) {
        if (chunk.size < 16 || chunk.size > STREAM_CHUNK_MAX)
                return TREE_ROTTEN;
        size_t end = chunk.size - 8;
        if (bytes_get_u32(chunk.data) != STREAM_MAGIC || bytes_get_u32(chunk.data + 4) != build->number ||
            bytes_get_u64(chunk.data + end) != XXH3_64bits(chunk.data, end))
                return TREE_ROTTEN;
        build->number++;

        for (size_t at = 8; at < end;) {
                if (end - at < 5)
                        return TREE_ROTTEN;
                size_t size = bytes_get_u32(chunk.data + at + 1);
                if (size > STREAM_BODY_MAX || size > end - at - 5)
                        return TREE_ROTTEN;
                int r = build_one(build, chunk.data[at], BYTES(chunk.data + at, 5 + size));
                if (r != 0)
                        return r;
                at += 5 + size;
        }
        return 0;
}

int tree_build_feed(TreeBuild *build, Bytes chunk) {
        if (build->failed == 0)
                build->failed = build_chunk(build, chunk);
        return build->failed;
}

/* ---- The end ---- */

static int build_verify(TreeBuild *build) {
        Tree *tree = &build->tree;
        Meta meta = build->head;
        if (build->phase != STREAM_END || meta.n_entries != tree->meta.n_entries)
                return TREE_ROTTEN;
        meta.digest = tree->meta.digest;
        tree->meta = meta;
        TreeDigest digest;
        tree_digest(tree, &digest);
        return memcmp(digest.sum, build->digest.sum, 16) == 0 ? 0 : TREE_ROTTEN;
}

/* A reader of its own, with nothing in its caches: it sees what a start after a power cut would see. */
static int build_read_back(const TreeBuild *build) {
        Tree *tree = calloc(1, sizeof(Tree));
        if (!tree)
                return -ENOMEM;
        tree->options = build->tree.options;
        memcpy(tree->path, build->tree.path, sizeof(tree->path));

        int r = file_reopen(tree);
        if (r == 0) {
                TreeDigest digest;
                tree_digest(tree, &digest);
                r = memcmp(digest.sum, build->digest.sum, 16) == 0 ? tree_scrub(tree) : TREE_ROTTEN;
        }
        sql_finalize(tree);
        sqlite3_close(tree->db);
        tree_deinit(tree);
        free(tree);
        return r == TREE_NONE ? TREE_ROTTEN : r;
}

static int build_name(TreeBuild *build, char *ret_name) {
        Tree *tree = &build->tree;
        char name[TREE_NAME_BYTES], path[PATH_MAX];
        const char *random = strrchr(tree->path, '-') + 1; /* of "build-<8 hex>.db" */
        int n = snprintf(name, sizeof(name), "tree-%016llx-%.8s.db", (unsigned long long)tree->meta.applied,
                         random);
        if (n != TREE_NAME_BYTES - 7)
                return -EINVAL;
        n = snprintf(path, sizeof(path), "%s/%s", tree->options.directory, name);
        if (n < 0 || (size_t)n >= sizeof(path))
                return -ENAMETOOLONG;
        if (renameat2(AT_FDCWD, tree->path, AT_FDCWD, path, RENAME_NOREPLACE) < 0)
                return -errno;
        tree->path[0] = 0; /* no longer ours to remove */
        memcpy(ret_name, name, (size_t)n - strlen(tree->options.directory));
        return file_sync(tree->options.directory);
}

int tree_build_finish(TreeBuild *build, char *ret_name, uint64_t *ret_index, uint64_t *ret_term) {
        Tree *tree = &build->tree;
        if (build->failed != 0)
                return build->failed;
        int r = build_verify(build);
        if (r == 0)
                r = transaction_flush(tree);
        if (r == 0)
                r = meta_save(tree);
        if (r == 0)
                r = sql_exec(tree, tree->db, "COMMIT");
        if (r == 0)
                r = file_finish(tree);
        if (r == 0)
                r = build_read_back(build);
        if (r == 0)
                r = build_name(build, ret_name);
        if (r != 0) {
                build->failed = r;
                return r;
        }
        build->failed = -EINVAL; /* it is finished once */
        *ret_index = tree->meta.applied;
        *ret_term = tree->meta.applied_term;
        return 0;
}

static void *build_thread(void *userdata) {
        TreeBuild *build = userdata;
        uint64_t index, term;
        build->result = tree_build_finish(build, build->name, &index, &term);
        build->finished = true;
        return NULL;
}

int tree_build_finish_begin(TreeBuild *build) {
        if (!build->tree.options.thread) {
                (void)build_thread(build);
                return 0;
        }
        build->tree.options.report = (Report){}; /* it is the loop's */
        int r = pthread_create(&build->thread, NULL, build_thread, build);
        build->has_thread = r == 0;
        return -r;
}

int tree_build_finish_take(TreeBuild *build, char *ret_name, uint64_t *ret_index, uint64_t *ret_term) {
        if (!build->finished)
                return -EAGAIN;
        if (build->result == 0) {
                memcpy(ret_name, build->name, sizeof(build->name));
                *ret_index = build->tree.meta.applied;
                *ret_term = build->tree.meta.applied_term;
        }
        return build->result;
}
