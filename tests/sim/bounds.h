/* What in this core is longer than its limit; NULL: nothing. After a turn, when all it said was taken. */
#pragma once

typedef struct Raft Raft;

const char *bounds_of_core(const Raft *raft);
