/* Words to the service manager that carry an fd, or take it back: its fd store (sd_notify(3), FDSTORE=1).
 * Like sd_pid_notify_with_fds(), but never waiting: a frozen PID 1 must not freeze a voter. */
#pragma once

#include "agent/base/macros.h"

/* 1 = the manager has it; 0 = there is no manager; -errno. */
int store_put(const char *name, int fd);
int store_remove(const char *name);
