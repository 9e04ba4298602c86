/* Bytes that wait in order: written behind, taken in front, without moving the rest each time. Its owner
 * bounds it. */
#pragma once

#include <string.h>
#include "../base/bytes.h"

/* Invariant: head <= buffer.size. All zero is an empty queue. */
typedef struct Queue {
        Buffer buffer;
        size_t head;
} Queue;

#define QUEUE_KEEP_BYTES (256 * 1024) /* an empty queue gives back what exceeds this */

static inline size_t queue_size(const Queue *queue) {
        return queue->buffer.size - queue->head;
}

static inline const uint8_t *queue_data(const Queue *queue) {
        return queue->buffer.data + queue->head;
}

static inline void queue_deinit(Queue *queue) {
        buffer_deinit(&queue->buffer);
        queue->head = 0;
}

static inline void queue_take(Queue *queue, size_t size) {
        assert(size <= queue_size(queue));
        queue->head += size;
        if (queue->head < queue->buffer.size)
                return;
        queue->head = queue->buffer.size = 0;
        if (queue->buffer.capacity > QUEUE_KEEP_BYTES)
                buffer_deinit(&queue->buffer);
}

/* Room for `more`, after which buffer_append() cannot fail. Moves only when what was taken is the larger
 * part, so that each byte is moved at most once on average. */
static inline int queue_reserve(Queue *queue, size_t more) {
        if (queue->buffer.capacity - queue->buffer.size < more && queue->head > queue_size(queue)) {
                buffer_consume(&queue->buffer, queue->head);
                queue->head = 0;
        }
        return buffer_reserve(&queue->buffer, more);
}

static inline int queue_append(Queue *queue, const void *data, size_t size) {
        int r = queue_reserve(queue, size);
        return r < 0 ? r : buffer_append(&queue->buffer, data, size);
}
