/* See register.c. */
#pragma once

#include "call.h"

/* Owns `path` with `value` on behalf of a new fd; answers the call with it and the revision. 0, -errno. */
int registration_begin(Call *call, const char *path, Bytes value, uint64_t timeout_usec);
void registrations_free(Bus *bus); /* our ends are closed; what is in systemd's store lives on */
/* Ends what is owned on behalf of fds that are gone. Harmless at any time. */
void registrations_reconcile(Bus *bus);
