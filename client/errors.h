/* One table says which errno each D-Bus error name is for a C program. A name that is not in it is -EIO: its
 * text still reaches the caller. Pure. */
#pragma once

/* Negative errno, never 0. `name` may be NULL. */
int error_errno(const char *name);
