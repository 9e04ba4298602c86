/* Any bytes to the decoders of join.c: see poke.h for what must hold. */
#include "poke.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        poke_join_request(BYTES(data, size));
        poke_join_reply(BYTES(data, size));
        return 0;
}
