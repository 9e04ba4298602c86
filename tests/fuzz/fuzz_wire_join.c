/* Any bytes to the decoders of join.c: see tests/wire/poke.h for what must hold. */
#include "fuzz.h"
#include "tests/wire/poke.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        poke_join_request(BYTES(data, size));
        poke_join_reply(BYTES(data, size));
        return 0;
}
