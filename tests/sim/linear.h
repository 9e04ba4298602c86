/* Is there an order in which all of this could have happened, one after the other? The question of Wing and
 * Gong, one key at a time (linearizability is local), knowing nothing of revisions or logs: only what was
 * asked, when, and what was answered. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINEAR_NEVER UINT64_MAX /* nobody was told that it happened: it may have, at any time, or not */

typedef enum LinearNeed {
        LINEAR_ANYTHING,
        LINEAR_VALUE,     /* the key holds .needed; 0: nothing */
        LINEAR_NOT,       /* … something else than that */
        LINEAR_SOMETHING, /* there is an entry */
} LinearNeed;

/* A write, if it `changes`: the key holds .given then, 0: nothing. Else a look that found .need to hold. */
typedef struct LinearOp {
        uint64_t begun, ended;
        LinearNeed need;
        bool changes;
        uint64_t needed, given;
} LinearOp;

typedef enum LinearVerdict { LINEAR_HOLDS, LINEAR_BROKEN } LinearVerdict;

typedef struct LinearTold {
        size_t n_checked, n_skipped; /* skipped: more at once than can be looked through */
        size_t culprit;              /* LINEAR_BROKEN: the op for which no place was left */
} LinearTold;

/* Sorts `ops`; the key holds nothing before the first of them. Numbers of values are not given twice. */
LinearVerdict linear_check(LinearOp *ops, size_t n, LinearTold *ret);
