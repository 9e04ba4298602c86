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

Sum sum_of(XXH128_hash_t hash) {
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

Sum record_hash(RecordKind kind, Bytes key, Bytes body) {
        assert(key.size <= UINT8_MAX);
        uint8_t bytes[2 + UINT8_MAX + 1024];
        size_t size = 2 + key.size;
        bytes[0] = (uint8_t)kind;
        bytes[1] = (uint8_t)key.size;
        if (key.size > 0)
                memcpy(bytes + 2, key.data, key.size);

        if (body.size <= sizeof(bytes) - size) {
                if (body.size > 0)
                        memcpy(bytes + size, body.data, body.size);
                return sum_of(XXH3_128bits(bytes, size + body.size));
        }
        XXH3_state_t state;
        XXH3_INITSTATE(&state);
        XXH3_128bits_reset(&state);
        XXH3_128bits_update(&state, bytes, size);
        XXH3_128bits_update(&state, body.data, body.size);
        return sum_of(XXH3_128bits_digest(&state));
}

/* What apply reads of meta. Not its local part (pruned), and the digest comes by itself. */
Sum meta_hash(const Meta *meta) {
        uint8_t bytes[8 * 8 + 16 + 4 + CONF_BYTES_MAX];
        const uint64_t numbers[] = {meta->applied,      meta->applied_term, meta->revision,   meta->floor,
                                    meta->cluster_usec, meta->n_entries,    meta->conf_index, meta->epoch};
        for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
                bytes_put_u64(bytes + 8 * i, numbers[i]);
        memcpy(bytes + 64, meta->cluster, 16);
        bytes_put_u32(bytes + 80, meta->min_version);
        return sum_of(XXH3_128bits(bytes, 84 + conf_encode(&meta->conf, bytes + 84)));
}

void tree_digest(const Tree *tree, TreeDigest *ret) {
        Sum sum = tree->meta.digest + meta_hash(&tree->meta);
        const RequestRow *row;
        for (size_t at = 0; (row = request_next_dirty(tree, &at));)
                sum += request_hash(row) - row->stored;
        sum_write(ret->sum, sum);
}
