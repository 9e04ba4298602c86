/* See logview.h. */
#include "logview.h"

#include <string.h>

static size_t entry_cost(const Entry *entry) {
        return sizeof(Entry) + entry->size;
}

static Entry **slot(const LogView *log, uint64_t index) {
        return log->ring + (index & (log->ring_capacity - 1));
}

/* Room for one more in an array of items of `size` bytes. */
static int array_reserve(void **array, size_t *capacity, size_t n, size_t size) {
        if (n < *capacity)
                return 0;
        size_t more = MAX(*capacity * 2, (size_t)4);
        void *p = realloc(*array, more * size);
        if (!p)
                return -ENOMEM;
        *array = p;
        *capacity = more;
        return 0;
}

static int ring_reserve(LogView *log) {
        size_t n = log->last + 1 - log->cache_first;
        if (n < log->ring_capacity)
                return 0;

        size_t capacity = MAX(log->ring_capacity * 2, (size_t)64);
        Entry **ring = calloc(capacity, sizeof(Entry *));
        if (!ring)
                return -ENOMEM;
        for (uint64_t i = log->cache_first; i <= log->last; i++)
                ring[i & (capacity - 1)] = *slot(log, i);
        free(log->ring);
        log->ring = ring;
        log->ring_capacity = capacity;
        return 0;
}

/* Forget the entries in memory before `first`. */
static void cache_drop(LogView *log, uint64_t first) {
        for (; log->ring && log->cache_first < first && log->cache_first <= log->last; log->cache_first++) {
                Entry **p = slot(log, log->cache_first);
                if (log->cache_first <= log->released)
                        log->released_bytes -= entry_cost(*p);
                *p = entry_unref(*p);
        }
        log->cache_first = MAX(log->cache_first, first);
}

void logview_deinit(LogView *log) {
        cache_drop(log, log->last + 1);
        free(log->runs);
        free(log->ring);
        free(log->confs);
        *log = (LogView){};
}

int logview_reset(LogView *log, uint64_t index, uint64_t term, const Conf *conf, uint64_t conf_index) {
        int r = array_reserve((void **)&log->confs, &log->confs_capacity, 0, sizeof(ConfRecord));
        if (r < 0)
                return r;

        cache_drop(log, log->last + 1);
        assert(log->released_bytes == 0);
        log->confs[0] = (ConfRecord){.index = conf_index, .conf = *conf};
        log->n_confs = 1;
        log->n_runs = 0;
        log->base_index = log->last = log->released = index;
        log->base_term = term;
        log->cache_first = index + 1;
        return 0;
}

/* The run that holds an index behind the base. */
static size_t run_find(const LogView *log, uint64_t index) {
        assert(log->n_runs > 0 && index > log->base_index && index <= log->last);
        size_t low = 0, high = log->n_runs;
        while (high - low > 1) {
                size_t middle = low + (high - low) / 2;
                if (log->runs[middle].first <= index)
                        low = middle;
                else
                        high = middle;
        }
        return low;
}

uint64_t logview_term(const LogView *log, uint64_t index) {
        if (index == log->base_index)
                return log->base_term;
        if (!logview_has(log, index))
                return 0;
        return log->runs[run_find(log, index)].term;
}

uint64_t logview_last_term(const LogView *log) {
        return log->n_runs > 0 ? log->runs[log->n_runs - 1].term : log->base_term;
}

uint64_t logview_run_first(const LogView *log, uint64_t index) {
        return log->runs[run_find(log, index)].first;
}

bool logview_term_last(const LogView *log, uint64_t term, uint64_t *ret_index) {
        uint64_t end = log->last;
        for (size_t i = log->n_runs; i > 0 && log->runs[i - 1].term >= term; i--) {
                if (log->runs[i - 1].term == term) {
                        *ret_index = end;
                        return true;
                }
                end = log->runs[i - 1].first - 1;
        }
        *ret_index = log->base_index;
        return log->base_term == term;
}

Entry *logview_entry(const LogView *log, uint64_t index) {
        if (index < log->cache_first || index > log->last)
                return NULL;
        return *slot(log, index);
}

const ConfRecord *logview_conf(const LogView *log) {
        assert(log->n_confs > 0);
        return log->confs + log->n_confs - 1;
}

int logview_append(LogView *log, Entry *entry, bool keep) {
        assert(entry->index == log->last + 1);
        assert(entry->term >= logview_last_term(log) && entry->term > 0);

        Conf conf = {};
        int r = 0;
        if (entry->type == ENTRY_CONF) {
                r = conf_decode(BYTES(entry->data, entry->size), &conf);
                if (r >= 0 && conf.n_voters == 0)
                        r = -EBADMSG;
                if (r >= 0)
                        r = array_reserve((void **)&log->confs, &log->confs_capacity, log->n_confs,
                                          sizeof(ConfRecord));
        }
        if (r >= 0)
                r = array_reserve((void **)&log->runs, &log->runs_capacity, log->n_runs, sizeof(TermRun));
        if (r >= 0 && keep)
                r = ring_reserve(log);
        if (r < 0)
                return r;

        if (log->n_runs == 0 || log->runs[log->n_runs - 1].term != entry->term)
                log->runs[log->n_runs++] = (TermRun){.first = entry->index, .term = entry->term};
        if (entry->type == ENTRY_CONF)
                log->confs[log->n_confs++] = (ConfRecord){.index = entry->index, .conf = conf};
        if (keep) {
                log->last++;
                *slot(log, log->last) = entry_ref(entry);
        } else {
                cache_drop(log, log->last + 1);
                log->last++;
                log->cache_first = log->last + 1;
        }
        return 0;
}

void logview_truncate(LogView *log, uint64_t from) {
        assert(from > log->base_index && from <= log->last);
        assert(from > log->released);

        for (uint64_t i = MAX(from, log->cache_first); i <= log->last; i++)
                *slot(log, i) = entry_unref(*slot(log, i));
        log->last = from - 1;
        log->cache_first = MIN(log->cache_first, from);
        while (log->n_runs > 0 && log->runs[log->n_runs - 1].first >= from)
                log->n_runs--;
        while (log->n_confs > 1 && log->confs[log->n_confs - 1].index >= from)
                log->n_confs--;
        assert(log->confs[log->n_confs - 1].index < from);
}

void logview_trim(LogView *log, uint64_t index) {
        if (index <= log->base_index)
                return;
        assert(index <= log->last);

        logview_release(log, index);
        cache_drop(log, index + 1);
        log->base_term = logview_term(log, index);
        size_t gone = index == log->last ? log->n_runs : run_find(log, index + 1);
        log->n_runs -= gone;
        if (log->n_runs > 0) {
                memmove(log->runs, log->runs + gone, log->n_runs * sizeof(TermRun));
                log->runs[0].first = MAX(log->runs[0].first, index + 1);
        }
        log->base_index = index;
}

void logview_release(LogView *log, uint64_t index) {
        assert(index <= log->last);
        for (uint64_t i = MAX(log->released + 1, log->cache_first); i <= index; i++)
                log->released_bytes += entry_cost(*slot(log, i));
        log->released = MAX(log->released, index);
}

void logview_evict(LogView *log, size_t bytes, uint64_t keep_from) {
        while (log->released_bytes > bytes && log->cache_first <= log->released &&
               log->cache_first < keep_from)
                cache_drop(log, log->cache_first + 1);
}

void logview_prune_confs(LogView *log, uint64_t commit) {
        size_t gone = 0;
        while (gone + 1 < log->n_confs && log->confs[gone + 1].index <= commit)
                gone++;
        log->n_confs -= gone;
        if (gone > 0)
                memmove(log->confs, log->confs + gone, log->n_confs * sizeof(ConfRecord));
}
