/* Any bytes to the decoders of follow.c: see poke.h for what must hold. */
#include "poke.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        poke_follow_request(BYTES(data, size));
        poke_follow_batch(BYTES(data, size));
        poke_snapshot_head(BYTES(data, size));
        return 0;
}
