/* A record is a fixed header that says all sizes, then the bytes it announced: sizes are judged while only
 * the header is there, so that nobody allocates for a lie. */
#include "record.h"
#include "agent/base/limits.h"
#include "agent/base/path.h"

static bool kind_is_known(uint8_t kind) {
        return kind >= RECORD_PUT && kind <= RECORD_OVERFLOW;
}

static bool kind_is_change(RecordKind kind) {
        return kind == RECORD_PUT || kind == RECORD_DELETE;
}

static bool sizes_agree(uint32_t size, size_t path, size_t value, size_t previous) {
        return path <= LIMIT_PATH_BYTES && value <= LIMIT_VALUE_BYTES && previous <= LIMIT_VALUE_BYTES &&
               size == RECORD_HEADER_BYTES + path + value + previous;
}

RecordVerdict record_parse(Bytes bytes, Record *ret, size_t *ret_size) {
        const uint8_t *at = bytes.data;
        size_t path_size, value_size, previous_size;
        uint32_t size;

        *ret_size = RECORD_HEADER_BYTES;
        if (bytes.size < RECORD_HEADER_BYTES)
                return RECORD_SHORT;

        size = bytes_get_u32(at);
        path_size = (size_t)at[6] | (size_t)at[7] << 8;
        value_size = bytes_get_u32(at + 32);
        previous_size = bytes_get_u32(at + 36);
        if (!sizes_agree(size, path_size, value_size, previous_size))
                return RECORD_BAD_SIZE;
        if (!kind_is_known(at[4]))
                return RECORD_BAD_KIND;

        *ret_size = size;
        if (bytes.size < size)
                return RECORD_SHORT;

        *ret = (Record){
                .kind = (RecordKind)at[4],
                .last = at[5] & RECORD_LAST,
                .had_previous = at[5] & RECORD_HAD_PREVIOUS,
                .revision = bytes_get_u64(at + 8),
                .create_revision = bytes_get_u64(at + 16),
                .version = bytes_get_u64(at + 24),
                .path = BYTES(at + RECORD_HEADER_BYTES, path_size),
                .value = BYTES(at + RECORD_HEADER_BYTES + path_size, value_size),
                .previous = BYTES(at + RECORD_HEADER_BYTES + path_size + value_size, previous_size),
        };
        if (kind_is_change(ret->kind) && path_check_bytes(ret->path.data, path_size) != PATH_OK)
                return RECORD_BAD_PATH;
        /* Whoever resumes counts on from here: a revision at the end of the numbers has no next one. */
        if ((kind_is_change(ret->kind) && ret->revision == 0) || ret->revision == UINT64_MAX)
                return RECORD_BAD_REVISION;
        return RECORD_OK;
}

const char *record_verdict_text(RecordVerdict verdict) {
        switch (verdict) {
        case RECORD_OK:
                return "is fine";
        case RECORD_SHORT:
                return "is not complete";
        case RECORD_BAD_SIZE:
                return "has sizes that do not agree or are too large";
        case RECORD_BAD_KIND:
                return "is of a kind that this version of libtreaty does not know";
        case RECORD_BAD_PATH:
                return "has a path that is not valid";
        case RECORD_BAD_REVISION:
                return "has a revision that cannot be";
        }
        return "is not valid";
}
