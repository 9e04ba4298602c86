/* The loop: sd-event around the hall. See loop.c. */
#pragma once

#include <systemd/sd-event.h>
#include "config.h"

typedef struct Loop Loop;

int loop_new(Loop **ret, const Config *config);
/* Runs until a signal or a fatal error: the process's exit status. */
int loop_run(Loop *loop);
Loop *loop_free(Loop *loop);
DEFINE_CLEANUP(Loop *, loop_free);
