/* A fuzz target: any bytes go into a decoder, and whatever comes out has to be sane. libFuzzer drives it in
 * a build with clang (-Dfuzzers=true), replay.c in every test run.
 *
 * A target also knows how to make its seeds: real samples of what the decoder is for. `replay_X --write
 * DIRECTORY` writes them down; what a fuzzer found is put beside them. */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef void (*FuzzSeed)(const char *name, const void *data, size_t size);
void fuzz_seeds(FuzzSeed seed);

#define must(expression)                                                                         \
        do {                                                                                     \
                if (!(expression)) {                                                             \
                        fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #expression); \
                        abort();                                                                 \
                }                                                                                \
        } while (0)

/* Reads every byte, so that a sanitizer sees one that is not there. */
static inline void fuzz_touch(const void *data, size_t size) {
        static volatile uint8_t sink;
        for (size_t i = 0; i < size; i++)
                sink ^= ((const uint8_t *)data)[i];
}

/* Numbers out of the input; zeros when it is used up. */
typedef struct FuzzReader {
        const uint8_t *data;
        size_t size;
} FuzzReader;

static inline uint8_t fuzz_u8(FuzzReader *reader) {
        if (reader->size == 0)
                return 0;
        reader->size--;
        return *reader->data++;
}

static inline uint16_t fuzz_u16(FuzzReader *reader) {
        return (uint16_t)(fuzz_u8(reader) | fuzz_u8(reader) << 8);
}

/* A number near `base`, or one at the edge of what there is. */
static inline uint64_t fuzz_near(FuzzReader *reader, uint64_t base) {
        uint8_t how = fuzz_u8(reader);
        switch (how >> 5) {
        case 0:
        case 1:
        case 2:
        case 3:
                return base + (how & 15) - 4;
        case 4:
                return how & 31;
        case 5:
                return UINT64_MAX - (how & 31);
        case 6:
                return UINT64_C(1) << (how & 31) << (how & 31);
        default:
                return (uint64_t)fuzz_u16(reader);
        }
}
