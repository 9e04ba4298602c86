/* See watchfd.c. */
#pragma once

#include "call.h"

/* Answers the call with the fd and the revision. 0, -errno. */
int watchfd_begin(Call *call);
void watchfds_free(Bus *bus);
