/* Any bytes as a watch's stream: read record by record as watch.c does, and every byte of what is believed
 * is touched. */
#include "fuzz.h"

#include <string.h>
#include "client/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        for (size_t at = 0;;) {
                Record record;
                size_t needed = 0;
                RecordVerdict verdict = record_parse(BYTES(data + at, size - at), &record, &needed);

                must(verdict != RECORD_SHORT || (needed > size - at && needed <= RECORD_BYTES_MAX));
                if (verdict != RECORD_OK)
                        return 0;
                must(needed >= RECORD_HEADER_BYTES && needed <= size - at);
                fuzz_touch(record.path.data, record.path.size);
                fuzz_touch(record.value.data, record.value.size);
                fuzz_touch(record.previous.data, record.previous.size);
                at += needed;
        }
}

static size_t put(uint8_t *to, RecordKind kind, const char *path, const char *value, uint64_t revision) {
        size_t n_path = strlen(path), n_value = strlen(value);
        memset(to, 0, RECORD_HEADER_BYTES);
        bytes_put_u32(to, (uint32_t)(RECORD_HEADER_BYTES + n_path + n_value));
        to[4] = (uint8_t)kind;
        to[5] = RECORD_LAST;
        to[6] = (uint8_t)n_path;
        bytes_put_u64(to + 8, revision);
        bytes_put_u64(to + 16, revision);
        bytes_put_u64(to + 24, 1);
        bytes_put_u32(to + 32, (uint32_t)n_value);
        memcpy(to + RECORD_HEADER_BYTES, path, n_path);
        memcpy(to + RECORD_HEADER_BYTES + n_path, value, n_value);
        return RECORD_HEADER_BYTES + n_path + n_value;
}

void fuzz_seeds(FuzzSeed seed) {
        uint8_t bytes[1024];
        size_t n = put(bytes, RECORD_PUT, "/config/web", "a value", 7);
        n += put(bytes + n, RECORD_DELETE, "/config/web", "", 8);
        n += put(bytes + n, RECORD_MARK, "", "", 9);
        n += put(bytes + n, RECORD_COMPACTED, "", "", 20);
        seed("stream", bytes, n);
}
