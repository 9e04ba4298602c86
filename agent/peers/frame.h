/* gRPC's framing: one flag byte (0: not compressed, nothing else is understood), the length in four bytes,
 * big endian, then the message. A message that arrives in one piece is handed on where it lies; only those
 * cut by DATA frames are put together. The length is judged before a byte is kept. */
#pragma once

#include "../base/bytes.h"

#define FRAME_HEAD_BYTES 5

typedef struct FrameReader {
        uint8_t head[FRAME_HEAD_BYTES];
        uint32_t n_head;
        uint32_t limit; /* largest message taken */
        uint32_t size;  /* of the message under way, once the head is whole */
        Buffer body;
} FrameReader;

void frame_head_write(uint8_t to[static FRAME_HEAD_BYTES], uint32_t size);
void frame_reader_deinit(FrameReader *reader);
bool frame_reader_is_between(const FrameReader *reader); /* nothing half-read */
/* Takes from `input`. 1: *ret is the next message, valid until the next call; 0: needs more; -EBADMSG
 * (compressed), -EMSGSIZE (above the limit), -ENOMEM. */
int frame_read(FrameReader *reader, Bytes *input, Bytes *ret);
