/* What the core knows of its own log: which term each entry has (as runs, so a log of millions of entries
 * costs a few words), the newest entries themselves, and every configuration from the committed one on.
 *
 *      base          cache_first                last
 *       |------------------|---------------------|
 *        terms known only    entries in memory too
 *
 * An entry that is dropped takes its configuration with it, so what was in force before is in force again.
 */
#pragma once

#include "../base/conf.h"
#include "../base/entry.h"

typedef struct TermRun {
        uint64_t first;
        uint64_t term;
} TermRun;

typedef struct ConfRecord {
        uint64_t index;
        Conf conf;
} ConfRecord;

/* Invariants: base_index < cache_first <= last + 1; runs rise in index and in term and begin at base_index +
 * 1 when the log is not empty; confs[0] is the newest committed configuration (prune keeps it so). */
typedef struct LogView {
        uint64_t base_index;
        uint64_t base_term;
        uint64_t last;
        TermRun *runs;
        size_t n_runs;
        size_t runs_capacity;
        Entry **ring; /* entry i lives at i modulo the capacity, a power of two */
        size_t ring_capacity;
        uint64_t cache_first;
        uint64_t released;     /* up to here the hall needs none */
        size_t released_bytes; /* of entries in the cache up to `released` */
        ConfRecord *confs;
        size_t n_confs;
        size_t confs_capacity;
} LogView;

void logview_deinit(LogView *log);
/* Empty behind (index, term). 0 or -ENOMEM. */
int logview_reset(LogView *log, uint64_t index, uint64_t term, const Conf *conf, uint64_t conf_index);

static inline bool logview_has(const LogView *log, uint64_t index) {
        return index >= log->base_index && index <= log->last;
}
uint64_t logview_term(const LogView *log, uint64_t index); /* 0 when not in the log */
uint64_t logview_last_term(const LogView *log);
uint64_t logview_run_first(const LogView *log, uint64_t index); /* first index of the same term */
bool logview_term_last(const LogView *log, uint64_t term, uint64_t *ret_index);
Entry *logview_entry(const LogView *log, uint64_t index); /* borrowed, NULL when not in memory */
const ConfRecord *logview_conf(const LogView *log);       /* the newest */

/* Takes a reference when `keep`. 0, -ENOMEM, or -EBADMSG for a configuration that does not decode; nothing
 * is changed then. */
int logview_append(LogView *log, Entry *entry, bool keep);
void logview_truncate(LogView *log, uint64_t from);
void logview_trim(LogView *log, uint64_t index);
void logview_release(LogView *log, uint64_t index);
/* Drop released entries before `keep_from` until at most `bytes` of them are left. */
void logview_evict(LogView *log, size_t bytes, uint64_t keep_from);
void logview_prune_confs(LogView *log, uint64_t commit);
