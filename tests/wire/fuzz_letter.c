/* Any bytes to the decoders of letter.c: see poke.h for what must hold. */
#include "poke.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        poke_letter(BYTES(data, size));
        return 0;
}
