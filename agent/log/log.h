/* The log: what this host has promised, in segment files with chained checksums, and the thread that makes
 * promises durable. Every host has one, observers too: term and vote (never forgotten, whatever the role),
 * the damage mark, the start number, the name of the current tree file; voters keep entries in it.
 * docs/DISK.md draws the bytes.
 *
 * Work is handed over by log_submit…() and done in order, as few writes and one fdatasync per wake of the
 * thread: all batches that wait are joined. Completions come back through log_fd() and log_completed(). The
 * first failed write or sync is fatal: nothing is acknowledged after it, log_completed() returns the error,
 * and the process has to end (after a failed fsync nobody knows what the page cache holds; on the next start
 * everything is read and synced again before the first promise). -ENOSPC is the exception where the log can
 * prove that nothing was half-done: see log_completed().
 *
 * The thread is optional: log_step() does the same work in the caller's thread, for tests and the
 * simulation. */
#pragma once

#include "../base/conf.h"
#include "../base/entry.h"
#include "../base/report.h"
#include "disk.h"

typedef struct Log Log;

#define LOG_TREE_NAME_BYTES 80

typedef struct LogOptions {
        Disk *disk; /* outlives the log */
        Report report;
        bool thread;          /* else log_step() */
        size_t segment_bytes; /* 16 MiB; smaller in tests; at least one entry of the largest size is always
                                 taken */
        uint64_t above;       /* after rot the start number goes on above it, whatever can still be read */
        uint64_t mark_delay_usec; /* 100 ms: the header is written once more this long after the last change
                                   */
} LogOptions;

/* What was found (log_open) and what is in force. Durable, except where said. */
typedef struct LogState {
        uint64_t term, vote;
        uint64_t base_index, base_term; /* entries begin behind it */
        Conf base_conf;                 /* newest committed configuration at the base */
        uint64_t base_conf_index;
        uint64_t last_index, last_term;
        uint64_t commit;                     /* newest commit known; never above last_index */
        char tree_name[LOG_TREE_NAME_BYTES]; /* current tree file; "" before the first */
        bool damaged;                        /* mark stored by log_submit_damage() */
        uint64_t start;                      /* raised by each log_open() before it returns */
        uint8_t start_nonce[16];
        bool clean; /* the last stop was clean (log_close), nothing is missing */
} LogState;

/* Outcomes of log_open, positive. */
enum {
        LOG_ROTTEN = 1, /* a record is broken although a later valid header says it was durable: opened up to
                           there */
        LOG_NEWER,      /* written by a newer treaty: not opened */
        LOG_LOCKED,     /* another process has it open: not opened */
};

/* Opens or creates. `nonce`: 16 random bytes for the start number. The torn tail is cut, what is left is
 * synced, the new start number is stored: all before it returns. LOG_ROTTEN opens too: the host has to store
 * damage. */
int log_open(Log **ret, const LogOptions *options, const uint8_t nonce[static 16]);
/* Waits for what was submitted, writes the clean mark, ends the thread. Accepts NULL, returns NULL. */
Log *log_close(Log *log);
/* As kill -9: ends the thread without writing anything more. */
Log *log_abandon(Log *log);
DEFINE_CLEANUP(Log *, log_abandon);

const LogState *log_state(const Log *log); /* as of what completed */

/* Entries from `from` to the last in order, as they were on disk at open or were stored since; stops when
 * each() returns non-0.
 * Result: what each() returned, or -EBADMSG and other errors of reading. The entry is borrowed: each() takes
 * a reference to keep it. */
int log_replay(Log *log, uint64_t from, int (*each)(Entry *entry, void *userdata), void *userdata);
/* Reading back for slow peers, from any completed index, at most n entries and max_bytes (but at least one
 * entry). Returns the number read, 0 when `from` is trimmed away or not there, -EBADMSG when the disk gives
 * back rot. */
int log_load(Log *log, uint64_t from, uint32_t n, size_t max_bytes, Entry **ret_entries);

/* Orders. seq rises with each call, chosen by the caller, across all kinds of orders. */
typedef struct LogBatch {
        uint64_t seq;
        uint64_t truncate_from; /* 0: nothing */
        Entry **entries; /* the log takes its own references, dropped when completed, on the caller's thread
                          */
        size_t n_entries;
        bool hard_state;
        bool healed; /* damage is over: in one record with term and vote */
        uint64_t term, vote;
        uint64_t
                commit; /* as known now; stored in the batch's header, capped by what is durable before it */
} LogBatch;

int log_submit(Log *log, const LogBatch *batch);
/* The log is emptied behind (index, term), except for a tail that follows exactly it; term and vote as
 * given. An index before base_index cannot be compared any more: the log is emptied. */
int log_submit_base(Log *log, uint64_t seq, uint64_t index, uint64_t term, const Conf *conf,
                    uint64_t conf_index, uint64_t hard_term, uint64_t hard_vote);
/* This file is the tree from now on: writing the record is the switch. */
int log_submit_tree(Log *log, uint64_t seq, const char *tree_name);
int log_submit_damage(Log *log, uint64_t seq, bool damaged);
/* Whole segments whose entries all lie at or before `index` may go. Not a promise: no seq. Raises
 * base_index. */
void log_trim(Log *log, uint64_t index);
/* For the header that follows 100 ms of quiet. Speaks of entries in batches submitted before this call. */
void log_note_commit(Log *log, uint64_t commit);

int log_fd(const Log *log); /* readable when there is something to hear; -1: whoever steps it knows */
/* Who is woken by others anyway may wait with patience: log_fd() is then silent about what is done, until
 * patience ends. Failures, a full disk and orders other than batches are told at once in any case. */
void log_be_patient(Log *log, bool patient);
/* The highest seq that is durable; drops references of finished batches. 0, or the fatal -errno. *ret_full:
 * the disk is full. Nothing of the unfinished batches is lost, they are retried until there is room; the
 * first to fail is the file for the next segment, when half a segment is still free: the hall refuses new
 * writes from then on, and votes have room. */
int log_completed(Log *log, uint64_t *ret_seq, bool *ret_full);
/* How long the oldest unfinished order has been waiting is the caller's to measure (raft does). */
int log_step(Log *log); /* without thread: one piece of what waits; 1 = did something, else 0 or the error */
bool log_idle(const Log *log); /* without thread: log_step() would find nothing to do */
int log_quiet(Log *log);       /* without thread: as if mark_delay had passed; result as of log_step() */
uint64_t log_bytes(const Log *log); /* on disk */
