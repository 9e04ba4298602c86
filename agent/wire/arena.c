/* See arena.h. Each piece is preceded by its size, which costs eight bytes and lets us see NULs in strings.
 */
#include "arena.h"

#include <string.h>

#define ARENA_BUDGET_BASE   (256 * 1024) /* an append of the most, but empty, entries needs 230 KiB */
#define ARENA_BUDGET_FACTOR 4
#define ARENA_BLOCK_MAX     (64 * 1024)

typedef struct Block Block;
struct Block {
        Block *next;
        size_t capacity;
        size_t used;
        uint64_t data[]; /* for the alignment */
};

/* Invariant: taken <= budget. */
struct Arena {
        ProtobufCAllocator allocator;
        Block *blocks; /* the newest first: the only one that is filled */
        size_t taken;
        size_t budget;
        size_t next_block;
        bool out_of_memory;
};

static void *allocator_alloc(void *data, size_t size) {
        return arena_alloc(data, size);
}

/* Nothing goes back before the whole arena does. */
static void allocator_free(void *data, void *pointer) {
}

Arena *arena_new(size_t n_input) {
        Arena *arena = malloc(sizeof(Arena));
        if (!arena)
                return NULL;
        *arena = (Arena){
                .allocator = {.alloc = allocator_alloc, .free = allocator_free, .allocator_data = arena},
                .budget = ARENA_BUDGET_BASE + ARENA_BUDGET_FACTOR * n_input,
                .next_block = MIN(n_input + 1024, (size_t)ARENA_BLOCK_MAX),
        };
        return arena;
}

Arena *arena_free(Arena *arena) {
        if (!arena)
                return NULL;
        while (arena->blocks) {
                Block *block = arena->blocks;
                arena->blocks = block->next;
                free(block);
        }
        free(arena);
        return NULL;
}

static bool arena_grow(Arena *arena, size_t need) {
        size_t left = arena->budget - arena->taken;
        if (need > left)
                return false;

        size_t capacity = MIN(MAX(need, arena->next_block), left);
        Block *block = malloc(sizeof(Block) + capacity);
        if (!block) {
                arena->out_of_memory = true;
                return false;
        }
        *block = (Block){.next = arena->blocks, .capacity = capacity};
        arena->blocks = block;
        arena->taken += capacity;
        arena->next_block = MIN(arena->next_block * 2, (size_t)ARENA_BLOCK_MAX);
        return true;
}

void *arena_alloc(Arena *arena, size_t size) {
        if (size > arena->budget)
                return NULL;
        size_t need = sizeof(uint64_t) + (size + 7) / 8 * 8;

        if (!arena->blocks || arena->blocks->capacity - arena->blocks->used < need)
                if (!arena_grow(arena, need))
                        return NULL;
        Block *block = arena->blocks;
        uint64_t *piece = (uint64_t *)((uint8_t *)block->data + block->used);
        block->used += need;
        assert(block->used <= block->capacity);
        piece[0] = size;
        return piece + 1;
}

ProtobufCAllocator *arena_allocator(Arena *arena) {
        return &arena->allocator;
}

int arena_error(const Arena *arena) {
        return arena->out_of_memory ? -ENOMEM : -EBADMSG;
}

bool arena_text_is_whole(const char *text) {
        return strlen(text) + 1 == ((const uint64_t *)text)[-1];
}
