/* See pace.h. */
#include "pace.h"

#include <string.h>

void pace_change(Pace *pace, uint64_t now) {
        if (!pace->dirty || pace->retry_usec > 0)
                pace->first_usec = now;
        pace->last_usec = now;
        pace->dirty = true;
        pace->retry_usec = 0;
}

uint64_t pace_due(const Pace *pace) {
        if (!pace->dirty || pace->running)
                return USEC_INFINITY;

        uint64_t quiet = pace->last_usec + pace->settle_usec;
        uint64_t latest = pace->first_usec + MAX(PACE_SETTLE_MAX_USEC, pace->settle_usec);
        uint64_t due = MAX(MIN(quiet, latest), pace->retry_usec);
        if (pace->n_recent == PACE_BURST)
                due = MAX(due, pace->recent[0] + PACE_INTERVAL_USEC);
        return due;
}

void pace_begin(Pace *pace, uint64_t now) {
        assert(!pace->running);
        pace->dirty = false;
        pace->running = true;
        pace->retry_usec = 0;
        if (pace->n_recent == PACE_BURST)
                memmove(pace->recent, pace->recent + 1, --pace->n_recent * sizeof(pace->recent[0]));
        pace->recent[pace->n_recent++] = now;
}

void pace_end(Pace *pace, uint64_t now, bool ok) {
        assert(pace->running);
        pace->running = false;
        if (ok) {
                pace->failures = 0;
                return;
        }
        pace->failures++;
        if (pace->dirty) /* a newer change came meanwhile: it is tried as soon as it has settled */
                return;
        pace->dirty = true;
        pace->first_usec = pace->last_usec = 0;
        pace->retry_usec = now + backoff_usec(pace->failures);
}

void pace_clean(Pace *pace) {
        assert(!pace->running);
        pace->dirty = false;
        pace->retry_usec = 0;
        pace->failures = 0;
}

uint64_t backoff_usec(unsigned failures) {
        assert(failures > 0);
        return failures > 6 ? PACE_RETRY_LAST_USEC
                            : MIN(PACE_RETRY_FIRST_USEC << (failures - 1), PACE_RETRY_LAST_USEC);
}
