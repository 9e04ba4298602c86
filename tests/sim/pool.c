/* Memory for a process with one thread that soon ends. In a run without SQLite malloc() was a seventh of all
 * time. Here a freed block goes on the list of its size and is the next one of that size; new ones are cut
 * from a large piece that the kernel made ready at once; nothing is given back before the end but what is
 * large. Sanitizers have an allocator of their own and keep it: what is used after its end is theirs to
 * find.
 */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

#include <errno.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "agent/base/macros.h"

/* Invariant: before each block lies a Head; blocks are 16 bytes aligned, so heads are 8 bytes off. */
typedef struct Head {
        uint64_t bytes; /* with the head; with STRAY: without, and the block is never used again */
} Head;

typedef struct Free {
        struct Free *next;
} Free;

#define STEP      16u
#define FINE      1024u /* up to here a list for each step, above four for each doubling */
#define COARSE    10u   /* doublings above */
#define LARGE     ((uint64_t)FINE << COARSE)
#define HUGE      ((uint64_t)2 << 20)
#define PAGE      4096u
#define STRAY     (UINT64_C(1) << 63)
#define N_CLASSES (FINE / STEP + 4 * COARSE + 1)

static Free *lists[N_CLASSES];
static uint8_t *piece, *piece_end;

/* The class of a block of so many bytes, which grow to what the class has. */
static unsigned class_of(uint64_t *bytes) {
        if (*bytes <= FINE) {
                *bytes = (*bytes + STEP - 1) & ~(uint64_t)(STEP - 1);
                return (unsigned)(*bytes / STEP);
        }
        unsigned doubling = 63 - (unsigned)__builtin_clzll(*bytes - 1);
        uint64_t step = (UINT64_C(1) << doubling) / 4;
        unsigned quarter = (unsigned)((*bytes - 1 - (UINT64_C(1) << doubling)) / step);
        *bytes = (UINT64_C(1) << doubling) + (quarter + 1) * step;
        return FINE / STEP + 4 * (doubling - 10) + quarter + 1;
}

static void *from_kernel(uint64_t bytes, int flags) {
        void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
        return p == MAP_FAILED ? NULL : p;
}

/* Large pages, where the kernel has some: it is a walk through all of the memory. */
static void *piece_new(uint64_t bytes) {
        bytes = (bytes + HUGE - 1) & ~(HUGE - 1);
        uint8_t *p = from_kernel(bytes + HUGE, 0);
        if (!p)
                return NULL;
        uint8_t *aligned = (uint8_t *)(((uintptr_t)p + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
        (void)madvise(aligned, bytes, MADV_HUGEPAGE);
        return aligned;
}

static void *nothing(void) {
        errno = ENOMEM;
        return NULL;
}

static void *large_new(size_t size) {
        uint64_t bytes = (size + 2 * sizeof(Head) + PAGE - 1) & ~(uint64_t)(PAGE - 1);
        uint8_t *p = bytes < size ? NULL : from_kernel(bytes, 0);
        if (!p)
                return nothing();
        Head *head = (Head *)p + 1;
        head->bytes = bytes;
        return head + 1;
}

/* Nobody wrote there yet: it is all zeros. */
static void *cut_new(uint64_t bytes) {
        if ((uint64_t)(piece_end - piece) < bytes) {
                uint64_t all = (bytes + STEP + HUGE - 1) & ~(HUGE - 1);
                piece = piece_new(all);
                if (!piece)
                        return piece_end = NULL, nothing();
                piece_end = piece + all;
                piece += sizeof(Head);
        }
        Head *head = (Head *)piece;
        piece += bytes;
        head->bytes = bytes;
        return head + 1;
}

static inline void *block_new(size_t size, bool *ret_zero) {
        uint64_t bytes = size + sizeof(Head);
        *ret_zero = true;
        if (size >= LARGE - sizeof(Head))
                return large_new(size);
        unsigned class = class_of(&bytes);
        Free *block = lists[class];
        if (!block)
                return cut_new(bytes);
        /* What lay idle is in no cache: the next one is on its way while this one is filled. */
        lists[class] = block->next;
        __builtin_prefetch(block->next, 1);
        *ret_zero = false;
        return block;
}

void *malloc(size_t size) {
        bool zero;
        return block_new(size, &zero);
}

void *calloc(size_t n, size_t size) {
        size_t all;
        bool zero;
        if (__builtin_mul_overflow(n, size, &all))
                return nothing();
        void *p = block_new(all, &zero);
        return p && !zero ? memset(p, 0, all) : p;
}

void free(void *p) {
        if (!p)
                return;
        Head *head = (Head *)p - 1;
        uint64_t bytes = head->bytes;
        if (bytes & STRAY)
                return;
        if (bytes > LARGE) {
                int error = errno;
                (void)munmap(head - 1, bytes);
                errno = error;
                return;
        }
        Free *block = p;
        unsigned class = class_of(&bytes);
        block->next = lists[class];
        lists[class] = block;
}

size_t malloc_usable_size(void *p) {
        if (!p)
                return 0;
        const Head *head = (const Head *)p - 1;
        return head->bytes & STRAY   ? head->bytes & ~STRAY
               : head->bytes > LARGE ? head->bytes - 2 * sizeof(Head)
                                     : head->bytes - sizeof(Head);
}

void *realloc(void *p, size_t size) {
        size_t room = malloc_usable_size(p);
        if (p && size <= room && size + 64 >= room / 2)
                return p;
        void *more = malloc(size);
        if (!more || !p)
                return more;
        memcpy(more, p, MIN(size, room));
        free(p);
        return more;
}

void *reallocarray(void *p, size_t n, size_t size) {
        size_t all;
        return __builtin_mul_overflow(n, size, &all) ? nothing() : realloc(p, all);
}

void *aligned_alloc(size_t alignment, size_t size) {
        if (alignment <= STEP)
                return malloc(size);
        uint8_t *p = malloc(size + alignment + sizeof(Head));
        if (!p)
                return NULL;
        uint8_t *aligned = (uint8_t *)(((uintptr_t)p + sizeof(Head) + alignment - 1) & ~(alignment - 1));
        ((Head *)aligned - 1)->bytes = STRAY | size;
        return aligned;
}

void *memalign(size_t alignment, size_t size) {
        return aligned_alloc(alignment, size);
}

int posix_memalign(void **ret, size_t alignment, size_t size) {
        void *p = aligned_alloc(alignment, size);
        if (!p)
                return ENOMEM;
        *ret = p;
        return 0;
}

#endif
