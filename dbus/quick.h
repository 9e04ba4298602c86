/* The two calls that programs make all day, Get and Set, on the private socket, without sd-bus: it takes 10
 * to 15 µs for a message and its answer, which is more than the agent itself needs.
 *
 * sd-bus stays the owner of the connection. What waits in the socket is looked at first (MSG_PEEK); messages
 * that are in every respect the plain form of such a call are taken out of it in front of sd-bus and
 * answered with one send(). Everything else (other methods, options, any mistake, whoever may not, whatever
 * is full) is left in the socket for sd-bus, so that there is one place only that judges and explains. The
 * same holds for answers: errors, large values, and what the socket does not take at once go through sd-bus.
 */
#pragma once

#include "internal.h"

/* Takes what it can. 1: took something; 0: the next message is sd-bus's. */
int quick_hear(Link *link);

/* Answers a call that was taken here, and consumes it. False: sd-bus has to. */
bool quick_return_revision(Call *call, uint64_t revision);
bool quick_return_entry(Call *call, const AgentEntry *entry);
