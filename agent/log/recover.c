/* Recovery walks the chain from the first record of the first segment. Where the chain breaks it asks
 * whether the record there had been durable: a later anchor, found without the chain, numbers the records,
 * and all before it were durable when it was written. If one says so the log is rotten; if none does, the
 * break is the torn tail of a write that nobody was told of, and is cut with all behind it.
 *
 * Two things need no such question. A segment gets its name only when its header is durable, so a named file
 * without a header is rot; and nothing is written to a segment before the one before it is synced, so a
 * break in any but the last is rot.
 *
 * From a rotten log's rest only small facts are salvaged, from every anchor on as far as the chain holds:
 * the highest term with its vote, the start number, the newest tree file. Entries behind a hole are not: the
 * host is damaged and gets them again from its peers. */
#include "recover.h"

#include <inttypes.h>
#include <string.h>
#include "../base/seen.h"

/* A start bears so many unreadable sectors (64 KiB). A disk with more is failing as a whole: to take that
 * for rot would be to throw away a log that another cable might bring back. */
#define UNREADABLE_MAX 128

typedef struct Walk {
        Recovery *recovery;
        Disk *disk;
        const Report *report;
        Window window;
        size_t at; /* position in recovery->segments */
} Walk;

void recovery_deinit(Recovery *recovery) {
        shape_deinit(&recovery->shape);
        free(recovery->segments);
        *recovery = (Recovery){};
}

static int found_name(const char *name, void *userdata) {
        Recovery *recovery = userdata;
        uint64_t number;
        if (!segment_number(name, &number))
                return 0;
        Segment *more = reallocarray(recovery->segments, recovery->n_segments + 1, sizeof(Segment));
        if (!more)
                return -ENOMEM;
        recovery->segments = more;
        recovery->segments[recovery->n_segments++] = (Segment){.number = number};
        return 0;
}

static int compare_numbers(const void *a, const void *b) {
        uint64_t x = ((const Segment *)a)->number, y = ((const Segment *)b)->number;
        return x < y ? -1 : x > y;
}

static void rot(Walk *walk, size_t at, uint64_t offset, const char *what) {
        Recovery *recovery = walk->recovery;
        recovery->rotten = true;
        report_say(walk->report, LOG_CRIT,
                   "log-%016" PRIx64 ".seg, offset %" PRIu64 ": %s; record %" PRIu64
                   " had been durable and cannot be read. The log is good up to index %" PRIu64 ".",
                   recovery->segments[at].number, offset, what, recovery->number + 1,
                   recovery->shape.state.last_index);
}

static int walk_open(Walk *walk, size_t at) {
        walk->at = at;
        int r = window_open(&walk->window, walk->disk, walk->recovery->segments[at].number);
        if (r < 0)
                return r;
        int64_t size = walk->disk->ops->size(walk->window.file);
        if (size < 0)
                return (int)size;
        walk->recovery->segments[at].bytes = (uint64_t)size;
        return 0;
}

static int take(Walk *walk, const Record *record, uint64_t offset) {
        Recovery *recovery = walk->recovery;
        Place place = {
                .segment = recovery->segments[walk->at].number,
                .offset = offset,
                .chain = recovery->chain,
        };
        int r = shape_apply(&recovery->shape, record, &place);
        if (r != 0)
                return r < 0 ? r : RECORD_BROKEN;
        recovery->chain = record->crc;
        recovery->number++;
        recovery->clean = record->type == RECORD_CLEAN;
        recovery->end = offset + record->size;
        if (record->type == RECORD_ENTRY || record->type == RECORD_TRUNCATE || record->type == RECORD_BASE)
                recovery->replaceable = false;
        return 0;
}

/* 0, RECORD_BROKEN (rot, told), RECORD_NEWER. */
static int walk_head(Walk *walk) {
        Recovery *recovery = walk->recovery;
        Record record;
        Anchor anchor;
        int r = window_anchor(&walk->window, recovery->segments[walk->at].number, 0, &record, &anchor);
        if (r < 0 || r == RECORD_NEWER)
                return r;
        if (r == RECORD_BROKEN || record.type != RECORD_SEGMENT || anchor.number == 0) {
                rot(walk, walk->at, 0, "the segment's header is broken");
                return RECORD_BROKEN;
        }
        if (walk->at == 0) {
                recovery->log_id = anchor.log_id;
                recovery->number = anchor.number - 1;
                recovery->chain = anchor.chain;
        } else if (anchor.log_id != recovery->log_id || anchor.number != recovery->number + 1 ||
                   anchor.chain != recovery->chain) {
                rot(walk, walk->at - 1, recovery->end, "the next segment does not follow");
                return RECORD_BROKEN;
        }

        uint64_t end = recovery->end;
        bool replaceable = recovery->replaceable;
        recovery->replaceable = true;
        recovery->replace_chain = anchor.chain;
        recovery->replace_number = anchor.number - 1;
        r = take(walk, &record, 0);
        if (r == RECORD_BROKEN) {
                recovery->end = end;
                recovery->replaceable = replaceable;
                rot(walk, walk->at, 0, "the segment's header contradicts what lies before it");
        }
        if (r != 0)
                return r;
        recovery->n_good = walk->at + 1;
        return 0;
}

/* A header must agree with the place where the chain found it. */
static bool header_fits(Walk *walk, const Record *record, uint64_t offset) {
        Anchor anchor;
        if (anchor_read(record->payload.data - RECORD_FRAME, record, &anchor) != 0)
                return false;
        return anchor.number == walk->recovery->number + 1 && anchor.offset == offset &&
               anchor.segment == walk->recovery->segments[walk->at].number;
}

/* Reads on until the chain ends. 0, RECORD_BROKEN (rot, told), RECORD_NEWER. */
static int walk_body(Walk *walk) {
        Recovery *recovery = walk->recovery;
        for (;;) {
                Record record;
                uint64_t offset = recovery->end;
                int r = window_record(&walk->window, offset, recovery->chain, &record);
                if (r < 0)
                        return r;
                if (r == RECORD_BROKEN)
                        return 0;
                if (record.type > RECORD_CLEAN)
                        return RECORD_NEWER;
                if (record.type == RECORD_HEADER && !header_fits(walk, &record, offset))
                        r = RECORD_BROKEN;
                else
                        r = take(walk, &record, offset);
                if (r == RECORD_BROKEN)
                        rot(walk, walk->at, offset, "a record contradicts those before it");
                if (r != 0)
                        return r;
        }
}

static uint64_t file_size(const Walk *walk) {
        return walk->recovery->segments[walk->at].bytes;
}

/* Is there, in the open file from `offset` on, an anchor that proves record number + 1 durable? */
static int prove(Walk *walk, uint64_t offset, bool *ret) {
        Recovery *recovery = walk->recovery;
        for (uint64_t at = offset; at + HEADER_BYTES <= file_size(walk);
             at = window_likely(&walk->window, at + 8)) {
                Record record;
                Anchor anchor;
                int r = window_anchor(&walk->window, recovery->segments[walk->at].number, at, &record,
                                      &anchor);
                if (r < 0)
                        return r;
                if (r == 0 && anchor.log_id == recovery->log_id && anchor.number > recovery->number + 1) {
                        *ret = true;
                        return 0;
                }
        }
        *ret = false;
        return 0;
}

static void salvage_hard(LogState *state, uint64_t term, uint64_t vote) {
        if (term > state->term) {
                state->term = term;
                state->vote = vote;
        } else if (term == state->term && vote != 0)
                state->vote = vote;
}

static void salvage_record(Walk *walk, const Record *record) {
        LogState *state = &walk->recovery->shape.state;
        const uint8_t *from = record->payload.data;
        Anchor anchor;
        Summary summary;

        if (record->type == RECORD_HARD && record->payload.size == 8)
                salvage_hard(state, record->term, bytes_get_u64(from));
        if (record->type == RECORD_DAMAGE && record->payload.size == DAMAGE_BYTES)
                salvage_hard(state, bytes_get_u64(from + 8), bytes_get_u64(from + 16));
        if (record->type == RECORD_BASE && record->payload.size >= 32)
                salvage_hard(state, bytes_get_u64(from + 8), bytes_get_u64(from + 16));
        if (record->type == RECORD_TREE && record->payload.size < LOG_TREE_NAME_BYTES) {
                memset(state->tree_name, 0, sizeof(state->tree_name));
                memcpy(state->tree_name, from, record->payload.size);
        }
        if (anchor_read(from - RECORD_FRAME, record, &anchor) == 0) {
                salvage_hard(state, anchor.term, anchor.vote);
                state->start = MAX(state->start, anchor.start);
        }
        if (record->type == RECORD_SEGMENT && summary_read(record, &summary) == 0)
                memcpy(state->tree_name, summary.tree_name, sizeof(state->tree_name));
}

/* From an anchor on, as far as the chain holds. Returns where it ended. */
static int salvage_run(Walk *walk, uint64_t *offset, uint32_t chain) {
        for (;;) {
                Record record;
                int r = window_record(&walk->window, *offset, chain, &record);
                if (r < 0 || r == RECORD_BROKEN)
                        return r < 0 ? r : 0;
                salvage_record(walk, &record);
                chain = record.crc;
                *offset += record.size;
        }
}

static int salvage_file(Walk *walk, uint64_t offset) {
        while (offset + HEADER_BYTES <= file_size(walk)) {
                Record record;
                Anchor anchor;
                int r = window_anchor(&walk->window, walk->recovery->segments[walk->at].number, offset,
                                      &record, &anchor);
                if (r < 0)
                        return r;
                if (r != 0 || (walk->recovery->log_id != 0 && anchor.log_id != walk->recovery->log_id)) {
                        offset = window_likely(&walk->window, offset + 8);
                        continue;
                }
                r = salvage_run(walk, &offset, anchor.chain);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int salvage(Walk *walk) {
        Recovery *recovery = walk->recovery;
        for (size_t i = recovery->n_good > 0 ? recovery->n_good - 1 : 0; i < recovery->n_segments; i++) {
                int r = walk_open(walk, i);
                if (r < 0)
                        return r;
                r = salvage_file(walk, i + 1 == recovery->n_good ? recovery->end : 0);
                if (r < 0)
                        return r;
        }
        SIM_SEEN("log: what is left is salvaged");
        recovery->shape.state.damaged = true;
        recovery->clean = false;
        return 0;
}

/* The torn end of a write can be read. What cannot had been written once, perhaps durably. */
static int judge_unreadable(Walk *walk) {
        Recovery *recovery = walk->recovery;
        const uint8_t *frame;
        if (walk->window.patience == UNREADABLE_MAX || recovery->end + RECORD_FRAME > file_size(walk))
                return 0;
        int r = window_get(&walk->window, recovery->end, RECORD_FRAME, &frame);
        if (r != 0)
                return r < 0 ? r : 0;
        r = window_unreadable(&walk->window, recovery->end, MAX(record_claim(frame), (size_t)RECORD_FRAME));
        if (r > 0)
                rot(walk, walk->at, recovery->end, "the disk does not give back a sector");
        return MIN(r, 0);
}

/* 0, LOG_NEWER. Sets recovery->rotten. */
static int walk_all(Walk *walk) {
        Recovery *recovery = walk->recovery;
        for (size_t i = 0; i < recovery->n_segments && !recovery->rotten; i++) {
                int r = walk_open(walk, i);
                if (r < 0)
                        return r;
                r = walk_head(walk);
                if (r == 0)
                        r = walk_body(walk);
                if (r < 0)
                        return r;
                if (r == RECORD_NEWER)
                        return LOG_NEWER;
        }
        if (recovery->rotten || recovery->n_segments == 0)
                return 0;

        bool proven;
        int r = prove(walk, recovery->end, &proven);
        if (r < 0)
                return r;
        if (proven) {
                SIM_SEEN("log: rot is told from tearing");
                rot(walk, walk->at, recovery->end, "a record is broken");
        }
        return proven ? 0 : judge_unreadable(walk);
}

int recovery_run(Recovery *recovery, Disk *disk, const Report *report) {
        *recovery = (Recovery){.shape.marked = true};
        int r = disk->ops->list(disk, found_name, recovery);
        if (r < 0)
                return r;
        if (recovery->n_segments > 0)
                qsort(recovery->segments, recovery->n_segments, sizeof(Segment), compare_numbers);

        Walk walk = {
                .recovery = recovery, .disk = disk, .report = report, .window.patience = UNREADABLE_MAX};
        r = walk_all(&walk);
        if (r == 0 && recovery->rotten)
                r = salvage(&walk);
        window_deinit(&walk.window);
        if (r == -EIO)
                report_say(
                        report, LOG_CRIT,
                        "The log cannot be read: the disk fails. Nothing was changed. Look at the disk (and the "
                        "kernel's messages); on a new one, join the cluster anew.");
        return r;
}
