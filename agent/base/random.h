/* A small stream of numbers from a seed (splitmix64): the same seed, the same stream, on every machine. Good
 * for timeouts and simulations; never for keys and secrets. */
#pragma once

#include "macros.h"

typedef struct Random {
        uint64_t state;
} Random;

uint64_t random_next(Random *random);
uint64_t random_below(Random *random, uint64_t bound); /* 0 <= n < bound; bound > 0 */
