/* One record of a watch's stream, as org.treaty1.Tree.xml draws it. */
#pragma once

#include <sys/uio.h>
#include "agent/agent.h"

#define RECORD_HEADER_BYTES 40
#define RECORD_BYTES_MAX    (RECORD_HEADER_BYTES + LIMIT_PATH_BYTES + 2 * LIMIT_VALUE_BYTES)

enum { RECORD_LAST = 1u << 0, RECORD_PREVIOUS = 1u << 1 };

/* Writes the header and points at the rest; returns the size of the whole record. */
size_t record_write(const WatchEvent *event, uint8_t header[static RECORD_HEADER_BYTES],
                    struct iovec iov[static 4]);
