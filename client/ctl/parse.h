/* Words of the command line to numbers, as systemd writes them. Pure. */
#pragma once

#include "agent/base/macros.h"

/* "90", "5s", "2min", "1h 30min", "0.5s", "infinity" (USEC_INFINITY): a number alone is seconds. 0, -EINVAL,
 * -ERANGE. */
int parse_span(const char *text, uint64_t *ret_usec);
/* A decimal number, nothing else. 0, -EINVAL, -ERANGE: more than max. */
int parse_number(const char *text, uint64_t max, uint64_t *ret);
