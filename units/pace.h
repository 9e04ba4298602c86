/* When a trigger acts. Level-triggered: a change makes it dirty, an action that succeeds makes it clean, and
 * whatever happens in between, after the last change an action begins. Pure: time is an argument.
 *
 *      change ──▶ dirty ──quiet for `settle`, at most 5 s after the first──▶ due
 *      due    ──at most 4 actions in any 10 s (systemd's start limit is 5)──▶ running
 *      running ─ok─▶ clean, or dirty again when changes came meanwhile
 *      running ─failed─▶ dirty, due again after 1, 2, 4 … 60 s; a new change tries at once */
#pragma once

#include "agent/base/macros.h"

#define PACE_SETTLE_MAX_USEC  (5 * USEC_PER_SEC)
#define PACE_BURST            4
#define PACE_INTERVAL_USEC    (10 * USEC_PER_SEC)
#define PACE_RETRY_FIRST_USEC (1 * USEC_PER_SEC)
#define PACE_RETRY_LAST_USEC  (60 * USEC_PER_SEC)

/* All zero but settle_usec: clean. */
typedef struct Pace {
        uint64_t settle_usec;
        bool dirty;
        bool running;
        uint64_t first_usec, last_usec; /* changes since the last action began */
        uint64_t retry_usec;            /* not before */
        unsigned failures;              /* in a row */
        unsigned n_recent;
        uint64_t recent[PACE_BURST]; /* when the last actions began, oldest first */
} Pace;

void pace_change(Pace *pace, uint64_t now);
uint64_t pace_due(const Pace *pace); /* when to act; USEC_INFINITY: not */
void pace_begin(Pace *pace, uint64_t now);
void pace_end(Pace *pace, uint64_t now, bool ok);
/* Nothing needs to be done for the changes so far. */
void pace_clean(Pace *pace);

uint64_t backoff_usec(unsigned failures); /* of the nth failure in a row, from 1 */
