/* The seeds of all targets of wire: a valid message of every kind. */
#include "fuzz.h"
#include "tests/wire/poke.h"

void fuzz_seeds(FuzzSeed seed) {
        Sample *samples;
        size_t n = samples_make(&samples);
        for (size_t i = 0; i < n; i++)
                if (samples[i].bytes.size <= 16384) /* the largest of all kinds are the unit test's */
                        seed(samples[i].name, samples[i].bytes.data, samples[i].bytes.size);
        samples_free(samples, n);
}
