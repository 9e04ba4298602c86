/* Reading back, in the caller's thread: from the nearest mark at or before the entry, the chain is followed
 * and checked record by record. The files are opened anew for reading, as a DiskFile belongs to one thread;
 * the place behind the last entry is remembered, for peers read on where they were. */
#include "internal.h"

#include <string.h>

/* Where to begin reading for `index`: the mark, or the place behind the entry read last when that is nearer.
 * False: not there. */
static bool find_place(Log *log, uint64_t index, Place *ret) {
        pthread_mutex_lock(&log->lock);
        const Mark *mark = shape_find(&log->shape, index);
        if (mark)
                *ret = mark->place;
        pthread_mutex_unlock(&log->lock);
        if (!mark)
                return false;

        bool nearer = log->loader.valid && log->loader.index == index &&
                      log->loader.place.segment == ret->segment && log->loader.place.offset >= ret->offset;
        if (nearer)
                *ret = log->loader.place;
        return true;
}

static int open_segment(Log *log, uint64_t segment) {
        if (log->loader.window.file && log->loader.segment == segment)
                return 0;
        log->loader.segment = segment;
        return window_open(&log->loader.window, log->disk, segment);
}

/* The entry's record; it stays in the window until the next read. */
static int read_record(Log *log, uint64_t index, Place *place, Record *ret) {
        for (;;) {
                int r = window_record(&log->loader.window, place->offset, place->chain, ret);
                if (r == RECORD_BROKEN)
                        return -EBADMSG;
                if (r < 0)
                        return r;
                place->offset += ret->size;
                place->chain = ret->crc;
                if (ret->type == RECORD_ENTRY && ret->index >= index)
                        return ret->index == index ? 0 : -EBADMSG;
        }
}

/* 1: read; 0: not there. A window that was filled before the writer wrote here knows nothing of it: what
 * does not fit is read once more from the disk before it is called rot. */
static int load_record(Log *log, uint64_t index, Record *ret) {
        Place start;
        if (!find_place(log, index, &start))
                return 0;
        int r = open_segment(log, start.segment);
        if (r < 0)
                return r == -ENOENT ? 0 : r;

        Place place = start;
        r = read_record(log, index, &place, ret);
        if (r == -EBADMSG) {
                window_forget(&log->loader.window);
                place = start;
                r = read_record(log, index, &place, ret);
        }
        if (r < 0) {
                log->loader.valid = false;
                if (r == -EBADMSG)
                        report_say(&log->report, LOG_CRIT,
                                   "log-%016llx.seg, offset %llu: entry %llu cannot be read back",
                                   (unsigned long long)start.segment, (unsigned long long)place.offset,
                                   (unsigned long long)index);
                return r;
        }
        log->loader.valid = true;
        log->loader.index = index + 1;
        log->loader.place = place;
        return 1;
}

int log_load(Log *log, uint64_t from, uint32_t n, size_t max_bytes, Entry **ret_entries) {
        uint32_t count = 0;
        size_t bytes = 0;
        int r = 0;
        while (count < n && from + count <= log->state.last_index) {
                Record record;
                r = load_record(log, from + count, &record);
                if (r <= 0)
                        break;
                bytes += record.payload.size;
                if (count > 0 && bytes > max_bytes) {
                        log->loader.valid = false;
                        break;
                }
                Entry *entry = entry_new((EntryType)record.kind, record.index, record.term,
                                         record.payload.data, (uint32_t)record.payload.size);
                if (!entry) {
                        r = -ENOMEM;
                        break;
                }
                ret_entries[count++] = entry;
        }
        if (r >= 0 || count > 0)
                return (int)count; /* an error comes back when it is asked for first */
        return r;
}

int log_replay(Log *log, uint64_t from, int (*each)(Entry *entry, void *userdata), void *userdata) {
        for (;;) {
                Entry *entries[64];
                int n = log_load(log, from, ELEMENTSOF(entries), 1024 * 1024, entries);
                if (n <= 0)
                        return n;
                int r = 0;
                for (int i = 0; i < n; i++) {
                        if (r == 0)
                                r = each(entries[i], userdata);
                        entry_unref(entries[i]);
                }
                if (r != 0)
                        return r;
                from += (uint64_t)n;
        }
}
