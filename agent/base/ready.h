/* What waits in the loop's own epoll set: the event's data.ptr points at a Ready, which stands first in its
 * owner's struct. Whoever puts one in takes it out again, and lives until the batch of events that is being
 * handed out has come to its end: what dies in it is only marked, and freed by a source of its own. */
#pragma once

#include <stdint.h>

typedef struct Ready Ready;
struct Ready {
        void (*ready)(Ready *ready, uint32_t events);
};
