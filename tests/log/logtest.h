/* What the log's tests share: a log on a simulated disk, and entries whose bytes follow from index and term,
 * so that whatever comes back can be judged by itself. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "agent/log/log.h"
#include "simdisk.h"

typedef struct LogTest {
        SimDisk *sim;
        Log *log;
        uint64_t seq; /* last given */
        uint64_t completed;
        bool full;
        size_t segment_bytes;
        uint8_t n_opened;
        bool loud;
} LogTest;

static inline void logtest_say(void *userdata, int level, const char *text) {
        const LogTest *t = userdata;
        if (t->loud)
                print_message("<%d>%s\n", level, text);
}

static inline int logtest_open(LogTest *t) {
        uint8_t nonce[16] = {++t->n_opened, 2, 3, 4, 5, 6, 7, 8};
        LogOptions options = {
                .disk = simdisk_disk(t->sim),
                .report = {.say = logtest_say, .userdata = t},
                .segment_bytes = t->segment_bytes ?: 64 * 1024,
                .mark_delay_usec = 100000,
        };
        t->seq = t->completed = 0;
        t->log = NULL;
        return log_open(&t->log, &options, nonce);
}

static inline int logtest_completed(LogTest *t) {
        return log_completed(t->log, &t->completed, &t->full);
}

/* Does all that waits; the fatal error or 0. */
static inline int logtest_settle(LogTest *t) {
        int r;
        while ((r = log_step(t->log)) > 0)
                ;
        int c = logtest_completed(t);
        return r < 0 ? r : c;
}

static inline void logtest_fill(uint64_t index, uint64_t term, uint8_t *data, size_t size) {
        Random random = {.state = index * 1000003 + term};
        for (size_t i = 0; i < size; i++)
                data[i] = (uint8_t)random_next(&random);
}

static inline Conf logtest_conf(uint64_t index) {
        Conf conf = {.n_voters = 1 + (uint32_t)(index % 3)};
        for (uint32_t i = 0; i < conf.n_voters; i++)
                conf.voters[i] = (ConfVoter){.id = i + 1, .since = index};
        return conf;
}

static inline Entry *logtest_entry(uint64_t index, uint64_t term, EntryType type, size_t size) {
        uint8_t conf_bytes[CONF_BYTES_MAX];
        if (type == ENTRY_CONF) {
                Conf conf = logtest_conf(index);
                return entry_new(type, index, term, conf_bytes, (uint32_t)conf_encode(&conf, conf_bytes));
        }
        Entry *entry = entry_new(type, index, term, NULL, (uint32_t)size);
        assert_non_null(entry);
        logtest_fill(index, term, entry->data, size);
        return entry;
}

static inline bool logtest_entry_is_right(const Entry *entry) {
        uint8_t *expect = malloc(entry->size + 1u);
        bool right = false;
        if (entry->type == ENTRY_CONF) {
                Conf conf = logtest_conf(entry->index);
                uint8_t bytes[CONF_BYTES_MAX];
                right = conf_encode(&conf, bytes) == entry->size &&
                        memcmp(bytes, entry->data, entry->size) == 0;
        } else {
                logtest_fill(entry->index, entry->term, expect, entry->size);
                right = memcmp(expect, entry->data, entry->size) == 0;
        }
        free(expect);
        return right;
}

/* Entries from..to of one size. */
static inline int logtest_append(LogTest *t, uint64_t from, uint64_t to, uint64_t term, size_t size) {
        size_t n = (size_t)(to - from + 1);
        Entry **entries = malloc(n * sizeof(Entry *));
        for (size_t i = 0; i < n; i++)
                entries[i] = logtest_entry(from + i, term, ENTRY_COMMAND, size);
        int r = log_submit(t->log, &(LogBatch){.seq = ++t->seq, .entries = entries, .n_entries = n});
        for (size_t i = 0; i < n; i++)
                entry_unref(entries[i]);
        free(entries);
        return r;
}

static inline int logtest_hard(LogTest *t, uint64_t term, uint64_t vote) {
        return log_submit(t->log,
                          &(LogBatch){.seq = ++t->seq, .hard_state = true, .term = term, .vote = vote});
}

/* All entries behind the base come back in order and right; *terms gets their terms when not NULL. Returns
 * how many, or the error. */
static inline int64_t logtest_read_all(LogTest *t, uint64_t *terms, size_t max) {
        const LogState *state = log_state(t->log);
        int64_t count = 0;
        for (uint64_t at = state->base_index + 1; at <= state->last_index;) {
                Entry *entries[16];
                int n = log_load(t->log, at, 16, 64 * 1024, entries);
                if (n <= 0)
                        return n < 0 ? n : -ENOENT;
                for (int i = 0; i < n; i++) {
                        assert_int_equal(entries[i]->index, at + (uint64_t)i);
                        assert_true(logtest_entry_is_right(entries[i]));
                        if (terms && at + (uint64_t)i < max)
                                terms[at + (uint64_t)i] = entries[i]->term;
                        entry_unref(entries[i]);
                }
                at += (uint64_t)n;
                count += n;
        }
        return count;
}
