/* Sending the tree, while it goes on changing. At the pin, which is a COMMIT, what is not kept by revision
 * (meta, members, sessions, requests, tokens) is copied aside in one go, at one applied index. Rows up to
 * the pin's revision never change: they follow in pages, history included. Nothing is pruned as long as a
 * pin stands, because a page that is read after its rows were pruned would make dead entries live; so a pin
 * that lets the file grow too much is given up. What is sent is looked at as by a scrub. */
#include "internal.h"

#include <string.h>

#define SNAPSHOT_GROWTH_PAGES (256u * 1024 * 1024 / TREE_PAGE_BYTES)

struct TreeSnapshot {
        TreeSnapshot *next;
        Tree *tree; /* NULL: given up */
        uint64_t index, term;
        uint64_t at, end; /* rows not sent yet */
        Buffer aside;     /* records, framed */
        size_t sent;      /* of it */
        uint32_t number;
        uint64_t n_smalls, n_rows;
        XXH3_state_t *hash;
        bool done;
        int64_t pages; /* of the file at the pin */
};

size_t stream_head_write(uint8_t to[static STREAM_HEAD_BYTES + CONF_BYTES_MAX], const Meta *meta,
                         const TreeDigest *digest) {
        const uint64_t numbers[] = {meta->applied,      meta->applied_term, meta->revision,  meta->floor,
                                    meta->cluster_usec, meta->n_entries,    meta->conf_index};
        uint8_t *p = to;
        bytes_put_u32(p, STREAM_VERSION);
        p += 4;
        for (size_t i = 0; i < ELEMENTSOF(numbers); i++, p += 8)
                bytes_put_u64(p, numbers[i]);
        memcpy(p, meta->cluster, 16);
        bytes_put_u64(p + 16, meta->epoch);
        memcpy(p + 24, digest->sum, 16);
        bytes_put_u32(p + 40, meta->min_version);
        return STREAM_HEAD_BYTES + conf_encode(&meta->conf, to + STREAM_HEAD_BYTES);
}

int stream_head_read(Bytes from, Meta *ret, TreeDigest *ret_digest) {
        if (from.size < STREAM_HEAD_BYTES)
                return TREE_ROTTEN;
        const uint8_t *p = from.data;
        if (bytes_get_u32(p) != STREAM_VERSION)
                return bytes_get_u32(p) > STREAM_VERSION ? TREE_NEWER : TREE_ROTTEN;
        Meta meta = {
                .applied = bytes_get_u64(p + 4),
                .applied_term = bytes_get_u64(p + 12),
                .revision = bytes_get_u64(p + 20),
                .floor = bytes_get_u64(p + 28),
                .cluster_usec = bytes_get_u64(p + 36),
                .n_entries = bytes_get_u64(p + 44),
                .conf_index = bytes_get_u64(p + 52),
                .epoch = bytes_get_u64(p + 76),
                .min_version = bytes_get_u32(p + 100),
        };
        memcpy(meta.cluster, p + 60, 16);
        memcpy(ret_digest->sum, p + 84, 16);
        Bytes conf = BYTES(from.data + STREAM_HEAD_BYTES, from.size - STREAM_HEAD_BYTES);
        if (conf_decode(conf, &meta.conf) < 0 || meta.floor > meta.revision ||
            meta.revision >= UINT64_C(1) << (63 - ROW_SHIFT))
                return TREE_ROTTEN;
        *ret = meta;
        return 0;
}

/* ---- Framing ---- */

static int frame(Buffer *to, StreamKind kind, size_t size) {
        assert(size <= STREAM_BODY_MAX);
        uint8_t head[5] = {(uint8_t)kind};
        bytes_put_u32(head + 1, (uint32_t)size);
        int r = buffer_reserve(to, sizeof(head) + size);
        return r < 0 ? r : buffer_append(to, head, sizeof(head));
}

static int aside_small(RecordKind kind, Bytes key, Bytes body, void *userdata) {
        TreeSnapshot *snapshot = userdata;
        uint8_t head[2] = {(uint8_t)kind, (uint8_t)key.size};
        int r = frame(&snapshot->aside, STREAM_SMALL, 2 + key.size + body.size);
        if (r == 0)
                r = buffer_append(&snapshot->aside, head, 2);
        if (r == 0)
                r = buffer_append(&snapshot->aside, key.data, key.size);
        if (r == 0)
                r = buffer_append(&snapshot->aside, body.data, body.size);
        snapshot->n_smalls++;
        return r;
}

static int aside_head(TreeSnapshot *snapshot, const Tree *tree) {
        uint8_t head[STREAM_HEAD_BYTES + CONF_BYTES_MAX];
        TreeDigest digest;
        tree_digest(tree, &digest);
        size_t size = stream_head_write(head, &tree->meta, &digest);
        int r = frame(&snapshot->aside, STREAM_HEAD, size);
        return r < 0 ? r : buffer_append(&snapshot->aside, head, size);
}

/* ---- The pin ---- */

static int64_t file_pages(Tree *tree) {
        sqlite3_stmt *s;
        int64_t n = 0;
        if (sqlite3_prepare_v2(tree->db, "PRAGMA page_count", -1, &s, NULL) != SQLITE_OK)
                return 0;
        if (sqlite3_step(s) == SQLITE_ROW)
                n = sqlite3_column_int64(s, 0);
        sqlite3_finalize(s);
        return n;
}

int tree_snapshot_begin(Tree *tree, TreeSnapshot **ret) {
        int r = transaction_commit(tree, true);
        if (r != 0)
                return r;

        TreeSnapshot *snapshot = calloc(1, sizeof(TreeSnapshot));
        if (!snapshot)
                return -ENOMEM;
        *snapshot = (TreeSnapshot){
                .next = tree->snapshots,
                .tree = tree,
                .index = tree->meta.applied,
                .term = tree->meta.applied_term,
                .end = row_first(tree->meta.revision + 1),
                .hash = XXH3_createState(),
                .pages = file_pages(tree),
        };
        tree->snapshots = snapshot;
        r = snapshot->hash ? 0 : -ENOMEM;
        if (r == 0) {
                XXH3_128bits_reset(snapshot->hash);
                r = aside_head(snapshot, tree);
        }
        for (RecordKind kind = RECORD_MEMBER; r == 0 && kind < _RECORD_MAX; kind++)
                r = record_each(tree, kind, BYTES("", 0), aside_small, snapshot);
        if (r != 0) {
                tree_snapshot_free(snapshot);
                return r;
        }
        *ret = snapshot;
        return 0;
}

uint64_t tree_snapshot_index(const TreeSnapshot *snapshot) {
        return snapshot->index;
}

uint64_t tree_snapshot_term(const TreeSnapshot *snapshot) {
        return snapshot->term;
}

static void snapshot_unlink(TreeSnapshot *snapshot) {
        if (!snapshot->tree)
                return;
        for (TreeSnapshot **p = &snapshot->tree->snapshots; *p; p = &(*p)->next)
                if (*p == snapshot) {
                        *p = snapshot->next;
                        break;
                }
        snapshot->tree = NULL;
}

TreeSnapshot *tree_snapshot_free(TreeSnapshot *snapshot) {
        if (!snapshot)
                return NULL;
        snapshot_unlink(snapshot);
        buffer_deinit(&snapshot->aside);
        XXH3_freeState(snapshot->hash);
        free(snapshot);
        return NULL;
}

void snapshots_check(Tree *tree) {
        if (!tree->snapshots)
                return;
        int64_t pages = file_pages(tree);
        for (TreeSnapshot *s = tree->snapshots, *next; s; s = next) {
                next = s->next;
                if (pages > 2 * s->pages + SNAPSHOT_GROWTH_PAGES)
                        snapshot_unlink(s);
        }
}

void snapshots_orphan(Tree *tree) {
        while (tree->snapshots)
                snapshot_unlink(tree->snapshots);
}

/* ---- Pages ---- */

static int page_aside(TreeSnapshot *snapshot, Buffer *chunk) {
        const Buffer *aside = &snapshot->aside;
        size_t from = snapshot->sent, to = from;
        while (to < aside->size && to - from < STREAM_PAGE_BYTES)
                to += 5 + bytes_get_u32(aside->data + to + 1);
        snapshot->sent = to;
        return buffer_append(chunk, aside->data + from, to - from);
}

static int page_row(const Row *row, Buffer *chunk) {
        uint8_t head[ROW_HEAD_BYTES];
        size_t tag_size = strlen(row->owner_tag);
        row_head_write(head, row);
        int r = frame(chunk, STREAM_ROW, sizeof(head) + tag_size + row->key_size + row->value.size);
        if (r == 0)
                r = buffer_append(chunk, head, sizeof(head));
        if (r == 0)
                r = buffer_append(chunk, row->owner_tag, tag_size);
        if (r == 0)
                r = buffer_append(chunk, row->key, row->key_size);
        if (r == 0)
                r = buffer_append(chunk, row->value.data, row->value.size);
        return r;
}

static int row_is_unknown(const Tree *tree, const Row *row, const char *what) {
        report_say(&tree->options.report, LOG_ERR, "%s: %s: revision %llu", tree->path, what,
                   (unsigned long long)row_revision(row->id));
        return TREE_ROTTEN;
}

/* Is the row known by its path, it or one that came later, and by its owner? Indexes have no part in the
 * digest: where one lost something, apply went on without it and made a tree that is another and whole in
 * itself. Whoever fetched it could not tell. */
static int row_is_known(Tree *tree, const Row *row) {
        Bytes key = BYTES(row->key, row->key_size);
        uint64_t id, there;
        int r = key_peek(tree, key, &id);
        bool lives = r == 0;
        if (r == TREE_NONE)
                r = index_get(tree, INDEX_TOMB, key, &id);
        if (r == TREE_NONE || (r == 0 && id < row->id))
                return row_is_unknown(tree, row, "a path does not know its row");
        if (r != 0 || !lives || id != row->id || row->owner_host == 0)
                return r;
        uint8_t owned[16 + LIMIT_PATH_BYTES];
        size_t n = owned_key(owned, row->owner_host, row->owner_generation, key);
        r = index_get(tree, INDEX_OWNED, BYTES(owned, n), &there);
        return r == TREE_NONE ? row_is_unknown(tree, row, "an owner does not know its entry") : r;
}

static int page_rows(TreeSnapshot *snapshot, Buffer *chunk) {
        Tree *tree = snapshot->tree;
        size_t before = chunk->size;
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_ROW_SCAN, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, snapshot->at);
        bind_u64(s, 2, snapshot->end);
        for (size_t n = 0; n < STREAM_PAGE_ROWS && chunk->size - before < STREAM_PAGE_BYTES; n++) {
                Row row;
                r = sql_step(tree, s);
                if (r == 0)
                        r = row_load(tree, column_u64(s, 0), &tree->seen, &row);
                if (r == 0)
                        r = row_is_known(tree, &row);
                if (r == 0)
                        r = page_row(&row, chunk);
                if (r != 0)
                        break;
                snapshot->at = row.id + 1;
                snapshot->n_rows++;
        }
        sql_release(tree, STMT_ROW_SCAN, s);
        if (r != TREE_NONE)
                return r;
        snapshot->at = snapshot->end;
        return 0;
}

static int page_end(TreeSnapshot *snapshot, Buffer *chunk) {
        uint8_t end[32];
        XXH128_hash_t hash = XXH3_128bits_digest(snapshot->hash);
        bytes_put_u64(end, snapshot->n_smalls);
        bytes_put_u64(end + 8, snapshot->n_rows);
        sum_write(end + 16, (Sum)hash.high64 << 64 | hash.low64);
        int r = frame(chunk, STREAM_END, sizeof(end));
        if (r == 0)
                r = buffer_append(chunk, end, sizeof(end));
        snapshot->done = true;
        return r;
}

static int snapshot_page(TreeSnapshot *snapshot, Buffer *chunk) {
        size_t begin = chunk->size;
        int r = buffer_append_u32(chunk, STREAM_MAGIC);
        if (r == 0)
                r = buffer_append_u32(chunk, snapshot->number++);
        if (r < 0)
                return r;
        if (snapshot->sent < snapshot->aside.size)
                r = page_aside(snapshot, chunk);
        else if (snapshot->at < snapshot->end)
                r = page_rows(snapshot, chunk);
        if (r != 0)
                return r;
        XXH3_128bits_update(snapshot->hash, chunk->data + begin + 8, chunk->size - begin - 8);
        if (snapshot->sent == snapshot->aside.size && snapshot->at >= snapshot->end)
                r = page_end(snapshot, chunk);
        if (r == 0)
                r = buffer_append_u64(chunk, XXH3_64bits(chunk->data + begin, chunk->size - begin));
        return r;
}

int tree_snapshot_next(TreeSnapshot *snapshot, Buffer *chunk, bool *ret_done) {
        if (!snapshot->tree)
                return -ESTALE;
        if (snapshot->done)
                return -EINVAL;
        size_t size = chunk->size;
        int r = snapshot_page(snapshot, chunk);
        if (r != 0) {
                chunk->size = size;
                snapshot_unlink(snapshot); /* half a page was counted: this stream is over */
                return r;
        }
        *ret_done = snapshot->done;
        if (snapshot->done)
                snapshot_unlink(snapshot); /* pruning may go on */
        return 0;
}
