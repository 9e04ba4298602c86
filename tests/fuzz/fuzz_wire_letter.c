/* Any bytes to the decoders of letter.c: see tests/wire/poke.h for what must hold. */
#include "fuzz.h"
#include "tests/wire/poke.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        poke_letter(BYTES(data, size));
        return 0;
}
