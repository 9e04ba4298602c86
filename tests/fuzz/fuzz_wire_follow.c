/* Any bytes to the decoders of follow.c: see tests/wire/poke.h for what must hold. */
#include "fuzz.h"
#include "tests/wire/poke.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        poke_follow_request(BYTES(data, size));
        poke_follow_batch(BYTES(data, size));
        poke_snapshot_head(BYTES(data, size));
        return 0;
}
