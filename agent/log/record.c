/* See record.h. */
#include "record.h"

#include <string.h>

#define SEGMENT_MAGIC  UINT64_C(0x676573797461e572) /* no text, so that no file of text begins with it */
#define HEADER_MAGIC   UINT64_C(0x746162797461e572)
#define ANCHOR_BYTES   80
#define SUMMARY_BYTES  (SEGMENT_BYTES - RECORD_FRAME - ANCHOR_BYTES)
#define SUMMARY_CONF   (16 + 8 + 8 + LOG_TREE_NAME_BYTES + 8)
#define SEGMENT_DAMAGE 1

static_assert(RECORD_FRAME + ANCHOR_BYTES == HEADER_BYTES, "a header is a frame and an anchor");
static_assert(SUMMARY_CONF + CONF_BYTES_MAX <= SUMMARY_BYTES, "every configuration fits");

size_t record_size(size_t payload) {
        return RECORD_FRAME + ((payload + 7) & ~(size_t)7);
}

int record_encode(Buffer *buffer, uint32_t *chain, const Record *record) {
        assert(record->type > 0 && record->payload.size <= RECORD_PAYLOAD_MAX);

        size_t size = record_size(record->payload.size);
        int r = buffer_reserve(buffer, size);
        if (r < 0)
                return r;

        uint8_t *to = buffer->data + buffer->size;
        memset(to, 0, RECORD_FRAME);
        bytes_put_u32(to + 4, (uint32_t)record->payload.size);
        to[8] = (uint8_t)record->type;
        to[9] = record->kind;
        bytes_put_u64(to + 16, record->index);
        bytes_put_u64(to + 24, record->term);
        if (record->payload.size > 0)
                memcpy(to + RECORD_FRAME, record->payload.data, record->payload.size);
        memset(to + RECORD_FRAME + record->payload.size, 0, size - RECORD_FRAME - record->payload.size);

        *chain = crc32c(*chain, to + 4, size - 4);
        bytes_put_u32(to, *chain);
        buffer->size += size;
        return 0;
}

size_t record_claim(const uint8_t frame[static RECORD_FRAME]) {
        size_t payload = bytes_get_u32(frame + 4);
        if (frame[8] == 0 || payload > RECORD_PAYLOAD_MAX)
                return 0;
        return record_size(payload);
}

Record record_view(const uint8_t *bytes) {
        size_t payload = bytes_get_u32(bytes + 4);
        return (Record){
                .type = (RecordType)bytes[8],
                .kind = bytes[9],
                .index = bytes_get_u64(bytes + 16),
                .term = bytes_get_u64(bytes + 24),
                .payload = BYTES(bytes + RECORD_FRAME, payload),
                .crc = bytes_get_u32(bytes),
                .size = record_size(payload),
        };
}

bool record_check(const uint8_t *bytes, size_t size, uint32_t chain) {
        return crc32c(chain, bytes + 4, size - 4) == bytes_get_u32(bytes);
}

static void anchor_write(uint8_t to[static ANCHOR_BYTES], uint64_t magic, const Anchor *anchor) {
        bytes_put_u64(to, magic);
        bytes_put_u32(to + 8, anchor->chain);
        bytes_put_u32(to + 12, RECORD_VERSION);
        bytes_put_u64(to + 16, anchor->log_id);
        bytes_put_u64(to + 24, anchor->segment);
        bytes_put_u64(to + 32, anchor->offset);
        bytes_put_u64(to + 40, anchor->number);
        bytes_put_u64(to + 48, anchor->term);
        bytes_put_u64(to + 56, anchor->vote);
        bytes_put_u64(to + 64, anchor->commit);
        bytes_put_u64(to + 72, anchor->start);
}

/* Frame, magic, chain and version stay where they are in all versions to come: that is how a newer log is
 * told from a broken one. */
int anchor_read(const uint8_t *bytes, const Record *record, Anchor *ret) {
        uint64_t magic = record->type == RECORD_SEGMENT ? SEGMENT_MAGIC : HEADER_MAGIC;
        const uint8_t *from = record->payload.data;
        if ((record->type != RECORD_SEGMENT && record->type != RECORD_HEADER) || record->payload.size < 16)
                return RECORD_BROKEN;
        if (bytes_get_u64(from) != magic || !record_check(bytes, record->size, bytes_get_u32(from + 8)))
                return RECORD_BROKEN;
        if (bytes_get_u32(from + 12) > RECORD_VERSION)
                return RECORD_NEWER;
        if (record->size != (record->type == RECORD_SEGMENT ? SEGMENT_BYTES : HEADER_BYTES))
                return RECORD_BROKEN;

        *ret = (Anchor){
                .chain = bytes_get_u32(from + 8),
                .version = bytes_get_u32(from + 12),
                .log_id = bytes_get_u64(from + 16),
                .segment = bytes_get_u64(from + 24),
                .offset = bytes_get_u64(from + 32),
                .number = bytes_get_u64(from + 40),
                .term = bytes_get_u64(from + 48),
                .vote = bytes_get_u64(from + 56),
                .commit = bytes_get_u64(from + 64),
                .start = bytes_get_u64(from + 72),
        };
        return 0;
}

int header_put(Buffer *buffer, uint32_t *chain, const Anchor *anchor, uint64_t index, uint64_t term) {
        assert(anchor->chain == *chain);
        uint8_t payload[ANCHOR_BYTES];
        anchor_write(payload, HEADER_MAGIC, anchor);
        return record_encode(buffer, chain,
                             &(Record){
                                     .type = RECORD_HEADER,
                                     .index = index,
                                     .term = term,
                                     .payload = BYTES(payload, sizeof(payload)),
                             });
}

int segment_put(Buffer *buffer, const Anchor *anchor, const Summary *summary, uint64_t index, uint64_t term,
                uint32_t *ret_chain) {
        uint8_t payload[ANCHOR_BYTES + SUMMARY_BYTES] = {}, *to = payload + ANCHOR_BYTES;
        anchor_write(payload, SEGMENT_MAGIC, anchor);
        memcpy(to, summary->start_nonce, 16);
        bytes_put_u64(to + 16, summary->damaged ? SEGMENT_DAMAGE : 0);
        bytes_put_u64(to + 24, summary->conf_index);
        memcpy(to + 32, summary->tree_name, LOG_TREE_NAME_BYTES);
        bytes_put_u64(to + 32 + LOG_TREE_NAME_BYTES, conf_encode(&summary->conf, to + SUMMARY_CONF));

        uint32_t chain = anchor->chain;
        int r = record_encode(buffer, &chain,
                              &(Record){
                                      .type = RECORD_SEGMENT,
                                      .index = index,
                                      .term = term,
                                      .payload = BYTES(payload, sizeof(payload)),
                              });
        if (r < 0)
                return r;
        *ret_chain = chain;
        return 0;
}

int summary_read(const Record *record, Summary *ret) {
        assert(record->type == RECORD_SEGMENT);
        if (record->size != SEGMENT_BYTES)
                return RECORD_BROKEN;

        const uint8_t *from = record->payload.data + ANCHOR_BYTES;
        uint64_t flags = bytes_get_u64(from + 16);
        uint64_t conf_size = bytes_get_u64(from + 32 + LOG_TREE_NAME_BYTES);
        if (flags > SEGMENT_DAMAGE || conf_size > CONF_BYTES_MAX || from[32 + LOG_TREE_NAME_BYTES - 1] != 0)
                return RECORD_BROKEN;

        Summary summary = {
                .damaged = flags == SEGMENT_DAMAGE,
                .conf_index = bytes_get_u64(from + 24),
        };
        memcpy(summary.start_nonce, from, 16);
        memcpy(summary.tree_name, from + 32, LOG_TREE_NAME_BYTES);
        if (conf_decode(BYTES(from + SUMMARY_CONF, conf_size), &summary.conf) < 0)
                return RECORD_BROKEN;
        *ret = summary;
        return 0;
}
