/* Rare places. SIM_SEEN("words") marks a place in the code that a test run must have reached to mean
 * something: the simulation counts how often it did, and fails when one of them never happened. What is
 * compiled for production has nothing there. */
#pragma once

#include <stdint.h>

typedef struct Seen {
        const char *name, *file;
        uint64_t line, hits;
} Seen;

#ifdef TREATY_SIM
/* The linker lays all of them into one table; the simulation reads it from __start_treaty_seen on. */
#define SIM_SEEN(words)                                                                                 \
        do {                                                                                            \
                static Seen sim_seen __attribute__((__section__("treaty_seen"), __used__,               \
                                                    __aligned__(32))) = {words, __FILE__, __LINE__, 0}; \
                sim_seen.hits++;                                                                        \
        } while (0)
#else
#define SIM_SEEN(words) \
        do {            \
        } while (0)
#endif
