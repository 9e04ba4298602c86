/* The small words every room speaks: ownership that is visible (TAKE, _cleanup_), sizes, and assertions that
 * stay on in production. Nothing here touches the outside. */
#pragma once

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define _cleanup_(f)   __attribute__((__cleanup__(f)))
#define _unused_       __attribute__((__unused__))
#define _must_use_     __attribute__((__warn_unused_result__))
#define _printf_(a, b) __attribute__((__format__(__printf__, a, b)))

#define ELEMENTSOF(a)                   (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)                       ((a) < (b) ? (a) : (b))
#define MAX(a, b)                       ((a) > (b) ? (a) : (b))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* Ownership moves here: the source forgets, the receiver holds. */
#define TAKE(p)                                   \
        ({                                        \
                __typeof__(p) *_take_p = &(p);    \
                __typeof__(p) _take_v = *_take_p; \
                *_take_p = NULL;                  \
                _take_v;                          \
        })

/* uthash: did HASH_ADD…() have the memory to take it? */
#define HASH_ADDED(element) ((element)->hh.tbl != NULL)

/* Reads a flag and lowers it. */
#define TAKE_FLAG(f)                \
        ({                          \
                bool _take_f = (f); \
                (f) = false;        \
                _take_f;            \
        })

/* Defines `void FUNCp(TYPE *p)` for _cleanup_(FUNCp), for destructors that accept NULL. */
#define DEFINE_CLEANUP(type, func)            \
        static inline void func##p(type *p) { \
                if (*p)                       \
                        func(*p);             \
        }

static inline void freep(void *p) {
        free(*(void **)p);
}

#define USEC_PER_MSEC UINT64_C(1000)
#define USEC_PER_SEC  UINT64_C(1000000)
#define USEC_INFINITY UINT64_MAX
