/* A row is hashed once, when it is written: XXH3-128 over all of its columns is its checksum, verified by
 * each read, and at the same time its part of the tree's digest. The digest is the sum of the parts modulo
 * 2^128: a row that comes adds, one that goes subtracts, and order does not matter. History has checksums
 * but no part in the digest, because hosts prune at their own pace. */
#include "internal.h"

#include <string.h>

void sum_write(uint8_t to[static 16], Sum sum) {
        bytes_put_u64(to, (uint64_t)sum);
        bytes_put_u64(to + 8, (uint64_t)(sum >> 64));
}

Sum sum_read(const uint8_t from[static 16]) {
        return (Sum)bytes_get_u64(from + 8) << 64 | bytes_get_u64(from);
}

static Sum sum_of(XXH128_hash_t hash) {
        return (Sum)hash.high64 << 64 | hash.low64;
}

/*  0 id | 8 create | 16 version | 24 previous | 32 host | 40 generation
 * 48 u8 kind | 49 u8 zero | 50 u16 size of tag | 52 u32 size of key | 56 u32 size of value */
void row_head_write(uint8_t to[static ROW_HEAD_BYTES], const Row *row) {
        size_t tag_size = strlen(row->owner_tag);
        assert(tag_size <= OWNER_TAG_BYTES && row->key_size <= LIMIT_PATH_BYTES);

        bytes_put_u64(to, row->id);
        bytes_put_u64(to + 8, row->create_revision);
        bytes_put_u64(to + 16, row->version);
        bytes_put_u64(to + 24, row->previous);
        bytes_put_u64(to + 32, row->owner_host);
        bytes_put_u64(to + 40, row->owner_generation);
        to[48] = (uint8_t)row->kind;
        to[49] = 0;
        to[50] = (uint8_t)tag_size;
        to[51] = (uint8_t)(tag_size >> 8);
        bytes_put_u32(to + 52, (uint32_t)row->key_size);
        bytes_put_u32(to + 56, (uint32_t)row->value.size);
}

Sum row_hash(const Row *row) {
        uint8_t bytes[ROW_HEAD_BYTES + OWNER_TAG_BYTES + LIMIT_PATH_BYTES + 1024];
        row_head_write(bytes, row);
        size_t size = ROW_HEAD_BYTES, tag_size = strlen(row->owner_tag);
        memcpy(bytes + size, row->owner_tag, tag_size);
        size += tag_size;
        memcpy(bytes + size, row->key, row->key_size);
        size += row->key_size;

        if (row->value.size <= sizeof(bytes) - size) { /* the usual case: one pass without a state */
                if (row->value.size > 0)
                        memcpy(bytes + size, row->value.data, row->value.size);
                return sum_of(XXH3_128bits(bytes, size + row->value.size));
        }
        XXH3_state_t state;
        XXH3_INITSTATE(&state);
        XXH3_128bits_reset(&state);
        XXH3_128bits_update(&state, bytes, size);
        XXH3_128bits_update(&state, row->value.data, row->value.size);
        return sum_of(XXH3_128bits_digest(&state));
}

static void record_hash_begin(XXH3_state_t *state, RecordKind kind, Bytes key) {
        assert(key.size <= UINT8_MAX);
        uint8_t head[2] = {(uint8_t)kind, (uint8_t)key.size};
        XXH3_INITSTATE(state);
        XXH3_128bits_reset(state);
        XXH3_128bits_update(state, head, sizeof(head));
        XXH3_128bits_update(state, key.data, key.size);
}

Sum record_hash(RecordKind kind, Bytes key, Bytes body) {
        XXH3_state_t state;
        record_hash_begin(&state, kind, key);
        if (body.size > 0)
                XXH3_128bits_update(&state, body.data, body.size);
        return sum_of(XXH3_128bits_digest(&state));
}

/* What apply reads of meta. Not its local part (pruned), and the digest comes by itself. */
Sum meta_hash(const Meta *meta) {
        uint8_t bytes[8 * 8 + 16 + CONF_BYTES_MAX];
        const uint64_t numbers[] = {meta->applied,      meta->applied_term, meta->revision,   meta->floor,
                                    meta->cluster_usec, meta->n_entries,    meta->conf_index, meta->epoch};
        for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
                bytes_put_u64(bytes + 8 * i, numbers[i]);
        memcpy(bytes + 64, meta->cluster, 16);
        return sum_of(XXH3_128bits(bytes, 80 + conf_encode(&meta->conf, bytes + 80)));
}

void tree_digest(const Tree *tree, TreeDigest *ret) {
        Sum sum = tree->meta.digest + meta_hash(&tree->meta);
        for (size_t i = 0; i < REQUEST_SLOTS; i++)
                if (tree->requests[i] && tree->requests[i]->dirty)
                        sum += request_hash(tree->requests[i]) - tree->requests[i]->stored;
        sum_write(ret->sum, sum);
}

/* ---- Scrub ---- */

static int scrub_rot(Tree *tree, const char *what) {
        report_say(&tree->options.report, LOG_ERR, "%s: %s", tree->path, what);
        return TREE_ROTTEN;
}

typedef struct Scrub {
        Tree *tree;
        Sum sum;
        uint64_t n_entries, n_owned;
} Scrub;

static int scrub_live(Scrub *scrub, Bytes key, uint64_t id) {
        Row row;
        int r = row_load(scrub->tree, id, &scrub->tree->seen, &row);
        if (r != 0)
                return r == TREE_NONE ? scrub_rot(scrub->tree, "a key points to a row that is gone") : r;
        if (row.kind != TREE_PUT || row.key_size != key.size || memcmp(row.key, key.data, key.size) != 0)
                return scrub_rot(scrub->tree, "a key points to the row of another");
        if (row.owner_host != 0) {
                uint8_t owned[16 + LIMIT_PATH_BYTES];
                uint64_t there;
                size_t n = owned_key(owned, row.owner_host, row.owner_generation, key);
                r = index_get(scrub->tree, INDEX_OWNED, BYTES(owned, n), &there);
                if (r != 0)
                        return r == TREE_NONE ? scrub_rot(scrub->tree, "an owner does not know its entry")
                                              : r;
                scrub->n_owned++;
        }
        scrub->sum += row.sum;
        scrub->n_entries++;
        return 0;
}

static int scrub_keys(Scrub *scrub) {
        Tree *tree = scrub->tree;
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_KEY_RANGE, &s);
        if (r != 0)
                return r;
        bind_bytes(s, 1, "", 0);
        bind_bytes(s, 2, "\xff", 1);
        while ((r = sql_step(tree, s)) == 0) {
                r = scrub_live(scrub, column_bytes(s, 0), column_u64(s, 1));
                if (r != 0)
                        break;
        }
        sql_release(tree, STMT_KEY_RANGE, s);
        return r == TREE_NONE ? 0 : r;
}

/* Every row, history too, against its own checksum. */
static int scrub_rows(Scrub *scrub) {
        Tree *tree = scrub->tree;
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_ROW_SCAN, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, 0);
        bind_u64(s, 2, INT64_MAX);
        while ((r = sql_step(tree, s)) == 0) {
                Row row;
                r = row_load(tree, column_u64(s, 0), &tree->seen, &row);
                if (r != 0)
                        break;
                if (row_revision(row.id) > tree->meta.revision) {
                        r = scrub_rot(tree, "a row lies in the future");
                        break;
                }
        }
        sql_release(tree, STMT_ROW_SCAN, s);
        return r == TREE_NONE ? 0 : r;
}

static int scrub_record(RecordKind kind, Bytes key, Bytes body, void *userdata) {
        Scrub *scrub = userdata;
        scrub->sum += record_hash(kind, key, body);
        if (kind != RECORD_MEMBER)
                return 0;
        Member member;
        int r = member_decode(key, body, &member);
        if (r == 0)
                r = member_check_index(scrub->tree, &member);
        return r == TREE_ROTTEN ? scrub_rot(scrub->tree, "a member is not known by its name and keys") : r;
}

static int scrub_tomb(Scrub *scrub, Bytes key, uint64_t id) {
        Row row;
        int r = row_load(scrub->tree, id, &scrub->tree->seen, &row);
        if (r != 0 && r != TREE_NONE)
                return r;
        if (r == TREE_NONE || row.kind != TREE_DELETE || row.key_size != key.size ||
            memcmp(row.key, key.data, key.size) != 0)
                return scrub_rot(scrub->tree, "a deletion points to a row that is none");
        return 0;
}

/* Nobody claims entries that live without owner, and deletions are in history. */
static int scrub_index(Scrub *scrub, IndexKind kind) {
        sqlite3_stmt *s;
        int r = sql_acquire(scrub->tree, STMT_INDEX_RANGE, &s);
        if (r != 0)
                return r;
        uint64_t n = 0;
        static const uint8_t highest[17] = {255, 255, 255, 255, 255, 255, 255, 255, 255,
                                            255, 255, 255, 255, 255, 255, 255, 255};
        bind_u64(s, 1, kind);
        bind_bytes(s, 2, "", 0);
        bind_bytes(s, 3, highest, sizeof(highest));
        while ((r = sql_step(scrub->tree, s)) == 0) {
                n++;
                if (kind == INDEX_TOMB)
                        r = scrub_tomb(scrub, column_bytes(s, 0), column_u64(s, 1));
                if (r != 0)
                        break;
        }
        sql_release(scrub->tree, STMT_INDEX_RANGE, s);
        if (r != TREE_NONE)
                return r;
        if (kind == INDEX_OWNED && n != scrub->n_owned)
                return scrub_rot(scrub->tree, "an owner claims entries that are not its own");
        return 0;
}

int tree_scrub(Tree *tree) {
        Scrub scrub = {.tree = tree};

        int r = scrub_keys(&scrub);
        if (r == 0)
                r = scrub_rows(&scrub);
        if (r == 0)
                r = scrub_index(&scrub, INDEX_OWNED);
        if (r == 0)
                r = scrub_index(&scrub, INDEX_TOMB);
        for (RecordKind kind = RECORD_MEMBER; r == 0 && kind < _RECORD_MAX; kind++)
                r = record_each(tree, kind, BYTES("", 0), scrub_record, &scrub);
        if (r != 0)
                return r;

        /* Request rows in memory are ahead of their records: meta.digest counts the records. */
        if (scrub.sum != tree->meta.digest)
                return scrub_rot(tree, "rows and digest differ");
        if (scrub.n_entries != tree->meta.n_entries)
                return scrub_rot(tree, "the number of entries is wrong");
        return 0;
}
