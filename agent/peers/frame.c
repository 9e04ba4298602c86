/* See frame.h. */
#include "frame.h"

#include <string.h>

void frame_head_write(uint8_t to[static FRAME_HEAD_BYTES], uint32_t size) {
        to[0] = 0;
        for (int i = 0; i < 4; i++)
                to[1 + i] = (uint8_t)(size >> (24 - 8 * i));
}

void frame_reader_deinit(FrameReader *reader) {
        buffer_deinit(&reader->body);
        reader->n_head = 0;
}

bool frame_reader_is_between(const FrameReader *reader) {
        return reader->n_head == 0;
}

static size_t take(Bytes *input, size_t size) {
        size = MIN(size, input->size);
        *input = BYTES(input->data + size, input->size - size);
        return size;
}

/* 1 when the head is whole. */
static int head_read(FrameReader *reader, Bytes *input) {
        if (reader->n_head == FRAME_HEAD_BYTES)
                return 1;
        const uint8_t *from = input->data;
        size_t n = take(input, FRAME_HEAD_BYTES - reader->n_head);
        if (n > 0)
                memcpy(reader->head + reader->n_head, from, n);
        reader->n_head += (uint32_t)n;
        if (reader->n_head < FRAME_HEAD_BYTES)
                return 0;
        if (reader->head[0] != 0)
                return -EBADMSG;
        reader->size = (uint32_t)reader->head[1] << 24 | (uint32_t)reader->head[2] << 16 |
                       (uint32_t)reader->head[3] << 8 | reader->head[4];
        reader->body.size = 0;
        return reader->size > reader->limit ? -EMSGSIZE : 1;
}

int frame_read(FrameReader *reader, Bytes *input, Bytes *ret) {
        int r = head_read(reader, input);
        if (r <= 0)
                return r;

        if (reader->body.size == 0 && input->size >= reader->size) {
                *ret = BYTES(input->data, reader->size);
                take(input, reader->size);
        } else {
                const uint8_t *from = input->data;
                size_t n = take(input, reader->size - reader->body.size);
                r = buffer_append(&reader->body, from, n);
                if (r < 0)
                        return r;
                if (reader->body.size < reader->size)
                        return 0;
                *ret = BYTES(reader->body.data, reader->size);
        }
        reader->n_head = 0;
        return 1;
}
