/* The n-th call fails: of malloc and its kin, of the log's Disk table, or of the C library's file calls (all
 * that SQLite's VFS and the tree itself ask of a file system). The executable's own definitions of these
 * functions come before the C library's, for every library in the process, so nothing has to be built
 * differently.
 *
 * Only calls between failing_on() and failing_off() count: what the test itself needs never fails. */
#pragma once

#include "agent/log/disk.h"

typedef enum FailKind { FAIL_NOTHING, FAIL_MEMORY, FAIL_DISK, FAIL_FILE, FAIL_SQL } FailKind;

/* `n_more` calls after the n-th (from 0) fail, too. Errors of files: EIO, or ENOSPC where something is
 * written and `full` is set. */
void failing_arm(FailKind kind, uint64_t n, uint64_t n_more, bool full);
void failing_on(void);
void failing_off(void);
uint64_t failing_calls(void);   /* counted since failing_arm() */
bool failing_hit(void);         /* something failed since then */
const char *failing_what(void); /* the call that failed first */
bool failing_fails(FailKind kind,
                   const char *what); /* does this call fail? for calls that a test replaces itself */

Disk *failing_disk_new(Disk *below); /* each call of the table counts */
Disk *failing_disk_free(Disk *disk);
