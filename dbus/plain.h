/* A call of org.treaty1.Tree.Get or .Set in its plain form, read straight from the bytes of a message:
 * little-endian, an answer expected, no options, no fds, text in ASCII. What is not in every respect so is
 * no failure: it is somebody else's to read and to judge (quick.h). */
#pragma once

#include "agent/base/bytes.h"

#define PLAIN_BYTES (16 * 1024) /* larger ones are not plain */

typedef struct Plain {
        size_t size; /* of the message */
        uint32_t serial;
        bool set; /* else a Get */
        const char *path;
        Bytes value;
        uint64_t flags;
} Plain;

/* False: not a whole message, or not plain. What is returned points into `data`. */
bool plain_read(const uint8_t *data, size_t size, Plain *ret);
