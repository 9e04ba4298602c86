/* See random.h. */
#include "random.h"

uint64_t random_next(Random *random) {
        uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);
        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        return z ^ (z >> 31);
}

uint64_t random_below(Random *random, uint64_t bound) {
        assert(bound > 0);
        /* The bias of one 64-bit product is below 2^-40 for every bound used here. */
        return (uint64_t)(((unsigned __int128)random_next(random) * bound) >> 64);
}
