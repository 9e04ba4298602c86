/* Any bytes as a watch's stream: read record by record as watch.c does, and every byte of what is believed
 * is touched. */
#include <stdlib.h>
#include "client/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

unsigned fuzz_sink; /* seen from outside, so that the reads stay */

static unsigned touch(Bytes bytes) {
        unsigned sum = 0;
        for (size_t i = 0; i < bytes.size; i++)
                sum += bytes.data[i];
        return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        for (size_t at = 0;;) {
                Record record;
                size_t needed = 0;
                RecordVerdict verdict = record_parse(BYTES(data + at, size - at), &record, &needed);

                if (verdict == RECORD_SHORT && (needed <= size - at || needed > RECORD_BYTES_MAX))
                        abort();
                if (verdict != RECORD_OK)
                        return 0;
                if (needed < RECORD_HEADER_BYTES || needed > size - at)
                        abort();
                fuzz_sink += touch(record.path) + touch(record.value) + touch(record.previous);
                at += needed;
        }
}
