/* Memory of one decoded message: taken in blocks, given back at once, and bounded before it is taken.
 * protobuf-c makes a struct per element and notes 32 bytes per field that it sees, so that two bytes from
 * outside may ask for two hundred here; the budget, a small multiple of the input, ends that. Whoever goes
 * over it sent nonsense; that is told apart from a host without memory. */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include "../base/bytes.h"

typedef struct Arena Arena;

Arena *arena_new(size_t n_input); /* NULL: no memory */
Arena *arena_free(Arena *arena);  /* accepts NULL */
DEFINE_CLEANUP(Arena *, arena_free);

void *arena_alloc(Arena *arena, size_t size); /* aligned to 8, not cleared; NULL: see arena_error() */
ProtobufCAllocator *arena_allocator(Arena *arena);
int arena_error(const Arena *arena); /* why arena_alloc() or the decoder failed: -EBADMSG or -ENOMEM */

/* A string as protobuf-c left it in an arena. False when a NUL inside made it look shorter than it is. */
bool arena_text_is_whole(const char *text);
