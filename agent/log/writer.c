/* The writer does one piece of work at a time, in this order: a batch of all orders that wait, an unlink, a
 * new segment when an order found no room, a slice of the file that will be the next segment. Each can be
 * tried again: until a batch is durable its bytes stay in memory, at the same place in the same file, and
 * nobody was told. So -ENOSPC of a write loses nothing; of a sync it is as fatal as any other error of a
 * sync.
 *
 *      the next file    zeros, slice by slice, synced; then its header, synced; then its name; then the
 *                       directory. So a named segment always has a durable header.
 *      a batch          one write, one sync: header | record | record … */
#include "internal.h"
#include "../base/seen.h"

#include <string.h>

static const uint8_t zeros[64 * 1024];

static bool is_full(int r) {
        return r == -ENOSPC || r == -EDQUOT;
}

static int sync_file(Log *log, DiskFile *file) {
        int r = log->disk->ops->sync(file);
        return is_full(r) ? -EIO : r; /* nobody knows what of it is on disk */
}

static int sync_directory(Log *log) {
        int r = log->disk->ops->sync_directory(log->disk);
        return is_full(r) ? -EIO : r;
}

static Segment *current(Writer *writer) {
        assert(writer->n_segments > 0);
        return writer->segments + writer->n_segments - 1;
}

static void count_bytes(Log *log) {
        Writer *writer = &log->writer;
        uint64_t bytes = writer->next_size;
        for (size_t i = 0; i < writer->n_segments; i++)
                bytes += writer->segments[i].bytes;
        pthread_mutex_lock(&log->lock);
        log->bytes = bytes;
        pthread_mutex_unlock(&log->lock);
}

/* What the next header may say is committed. Entries that are durable now may be replaced by orders that
 * wait: a mark must never bless those (the mark could survive the batch that replaces them). */
static uint64_t commit_to_tell(const Writer *writer) {
        const LogState *tip = &writer->tip.state;
        uint64_t commit = MIN(writer->commit_known, tip->last_index);
        for (const Order *order = writer->active.first; order; order = order->next) {
                if (order->truncate_from > 0)
                        commit = MIN(commit, order->truncate_from - 1);
                if (order->kind == ORDER_BASE)
                        return tip->commit;
        }
        return MAX(commit, tip->commit);
}

static Anchor make_anchor(const Writer *writer, uint64_t segment, uint64_t offset) {
        const LogState *tip = &writer->tip.state;
        return (Anchor){
                .chain = writer->chain,
                .log_id = writer->log_id,
                .segment = segment,
                .offset = offset,
                .number = writer->number + 1,
                .term = tip->term,
                .vote = tip->vote,
                .commit = commit_to_tell(writer),
                .start = tip->start,
        };
}

/* -- A batch ------------------------------------------------------------------------------------------ */

enum {
        PUT_NO_ROOM = 1,
};

/* The end of a segment is kept for what must always fit: votes, truncation, the clean mark. */
static uint64_t room(Log *log, bool entry) {
        Writer *writer = &log->writer;
        uint64_t size = current(writer)->bytes, reserve = entry ? size / 16 : 0;
        uint64_t used = writer->offset + writer->batch.size + reserve;
        return used < size ? size - used : 0;
}

/* What was just encoded is applied to the tip by reading it, as a restart would. */
static int put_applied(Log *log, size_t at) {
        Writer *writer = &log->writer;
        Record record = record_view(writer->batch.data + at);
        int r = shape_apply(&writer->tip, &record, &(Place){});
        if (r > 0) {
                report_say(&log->report, LOG_ERR,
                           "the log was ordered to store what does not follow: record type %d, index %llu, "
                           "term %llu, behind index %llu, term %llu, base %llu",
                           (int)record.type, (unsigned long long)record.index,
                           (unsigned long long)record.term, (unsigned long long)writer->tip.state.last_index,
                           (unsigned long long)writer->tip.state.last_term,
                           (unsigned long long)writer->tip.state.base_index);
                return -EINVAL;
        }
        if (r == 0)
                writer->number++;
        return r;
}

static int put_header(Log *log) {
        Writer *writer = &log->writer;
        assert(writer->batch.size == 0);
        const LogState *tip = &writer->tip.state;
        Anchor anchor = make_anchor(writer, current(writer)->number, writer->offset);
        int r = header_put(&writer->batch, &writer->chain, &anchor, tip->last_index, tip->last_term);
        if (r < 0)
                return r;
        writer->batch_covers = true;
        return put_applied(log, 0);
}

static int put(Log *log, const Record *record) {
        Writer *writer = &log->writer;
        size_t size = record_size(record->payload.size);
        size_t header = writer->batch.size == 0 ? HEADER_BYTES : 0;
        if (room(log, record->type == RECORD_ENTRY) < header + size) {
                if (header > 0)
                        writer->need = SEGMENT_BYTES + HEADER_BYTES + size;
                return PUT_NO_ROOM;
        }
        if (header > 0) {
                int r = put_header(log);
                if (r < 0)
                        return r;
        }
        size_t at = writer->batch.size;
        int r = record_encode(&writer->batch, &writer->chain, record);
        if (r < 0)
                return r;
        writer->batch_covers = false;
        return put_applied(log, at);
}

static int put_damage(Log *log, bool damaged, uint64_t term, uint64_t vote) {
        uint8_t payload[DAMAGE_BYTES];
        bytes_put_u64(payload, damaged);
        bytes_put_u64(payload + 8, term);
        bytes_put_u64(payload + 16, vote);
        return put(log, &(Record){.type = RECORD_DAMAGE, .payload = BYTES(payload, sizeof(payload))});
}

/* The end of damage is one record with the vote: without it, what was forgotten could be promised again. */
static int put_hard_state(Log *log, Order *order) {
        if (order->healed) {
                int r = put_damage(log, false, order->term, order->vote);
                if (r == 0)
                        order->hard_state = false;
                return r;
        }
        uint8_t vote[8];
        bytes_put_u64(vote, order->vote);
        int r = put(log, &(Record){.type = RECORD_HARD, .term = order->term, .payload = BYTES(vote, 8)});
        if (r == 0)
                order->hard_state = false;
        return r;
}

static int put_truncate(Log *log, Order *order) {
        const Shape *tip = &log->writer.tip;
        uint64_t last = order->truncate_from - 1;
        if (last == tip->state.last_index) {
                order->truncate_from = 0;
                return 0;
        }
        if (last > tip->state.last_index || last < tip->state.commit) {
                report_say(
                        &log->report, LOG_ERR,
                        "the log was ordered to truncate from index %llu; it ends at %llu and is committed "
                        "up to %llu",
                        (unsigned long long)order->truncate_from, (unsigned long long)tip->state.last_index,
                        (unsigned long long)tip->state.commit);
                return -EINVAL;
        }
        uint8_t payload[TRUNCATE_BYTES_MAX];
        uint64_t conf_index;
        const Conf *conf = shape_conf_at(tip, last, &conf_index);
        size_t size = truncate_write(payload, conf_index, conf);
        int r = put(log, &(Record){
                                 .type = RECORD_TRUNCATE,
                                 .index = order->truncate_from,
                                 .term = shape_term_of(tip, last),
                                 .payload = BYTES(payload, size),
                         });
        if (r == 0)
                order->truncate_from = 0;
        return r;
}

static int put_batch(Log *log, Order *order) {
        if (order->hard_state) {
                int r = put_hard_state(log, order);
                if (r != 0)
                        return r;
        }
        if (order->truncate_from > 0) {
                int r = put_truncate(log, order);
                if (r != 0)
                        return r;
        }
        for (; order->n_written < order->n_entries; order->n_written++) {
                const Entry *entry = order->entries[order->n_written];
                if (log->writer.batch.size >= BATCH_BYTES)
                        return PUT_NO_ROOM;
                int r = put(log, &(Record){
                                         .type = RECORD_ENTRY,
                                         .kind = (uint8_t)entry->type,
                                         .index = entry->index,
                                         .term = entry->term,
                                         .payload = BYTES(entry->data, entry->size),
                                 });
                if (r != 0)
                        return r;
        }
        return 0;
}

static int put_base(Log *log, Order *order) {
        Writer *writer = &log->writer;
        uint8_t payload[BASE_BYTES_MAX];
        bool kept = shape_has(&writer->tip, order->index, order->index_term);
        size_t size = base_write(payload, kept, order->term, order->vote, order->conf_index, &order->conf);
        int r = put(log, &(Record){
                                 .type = RECORD_BASE,
                                 .index = order->index,
                                 .term = order->index_term,
                                 .payload = BYTES(payload, size),
                         });
        if (r == 0 && !kept) {
                writer->trim_index = 0;
                writer->commit_known = MIN(writer->commit_known, order->index);
        }
        return r;
}

static int put_order(Log *log, Order *order) {
        switch (order->kind) {
        case ORDER_BATCH:
                return put_batch(log, order);
        case ORDER_BASE:
                return put_base(log, order);
        case ORDER_TREE:
                return put(log, &(Record){
                                        .type = RECORD_TREE,
                                        .payload = BYTES(order->tree_name, strlen(order->tree_name)),
                                });
        case ORDER_DAMAGE:
                return put_damage(log, order->damaged, log->writer.tip.state.term,
                                  log->writer.tip.state.vote);
        }
        assert(false);
        return -EINVAL;
}

/* The mark of a clean stop, or a header alone that tells how far all before it is durable. */
static int put_mark(Log *log) {
        Writer *writer = &log->writer;
        int r = 0;
        if (writer->mark_clean)
                r = put(log, &(Record){.type = RECORD_CLEAN});
        else if (!writer_mark_wanted(log))
                ;
        else if (room(log, false) < HEADER_BYTES)
                writer->need = SEGMENT_BYTES + HEADER_BYTES; /* whose own header is the mark */
        else
                r = put_header(log);
        if (r == 0 && writer->need == 0)
                writer->mark = writer->mark_clean = false;
        return r;
}

static int fill(Log *log) {
        Writer *writer = &log->writer;
        assert(writer->batch.size == 0 && !writer->finishing.first);

        while (writer->active.first && writer->batch.size < BATCH_BYTES) {
                int r = put_order(log, writer->active.first);
                if (r == PUT_NO_ROOM)
                        return 0;
                if (r < 0)
                        return r;
                orders_push(&writer->finishing, orders_pop(&writer->active));
        }
        if (!writer->active.first && writer->batch.size == 0 && (writer->mark || writer->mark_clean)) {
                int r = put_mark(log);
                return r < 0 ? r : 0;
        }
        return 0;
}

static int write_batch(Log *log) {
        Writer *writer = &log->writer;
        if (writer->batch.size == 0)
                return 0;
        assert(writer->offset + writer->batch.size <= current(writer)->bytes);
        int r = log->disk->ops->write(writer->file, writer->batch.data, writer->batch.size, writer->offset);
        if (r < 0)
                return r;
        return sync_file(log, writer->file);
}

/* What was written is read once more, into the shape that readers use. */
static int publish_records(Log *log) {
        Writer *writer = &log->writer;
        Place place = {.segment = current(writer)->number, .offset = writer->offset};
        for (size_t at = 0; at < writer->batch.size;) {
                Record record = record_view(writer->batch.data + at);
                /* A batch begins with its header, which knows the chain before it. */
                if (at == 0) {
                        Anchor anchor;
                        int r = anchor_read(writer->batch.data, &record, &anchor);
                        assert(r == 0);
                        place.chain = anchor.chain;
                }
                int r = shape_apply(&log->shape, &record, &place);
                if (r < 0)
                        return r;
                assert(r == 0);
                at += record.size;
                place.offset += record.size;
                place.chain = record.crc;
        }
        return 0;
}

static int publish(Log *log) {
        Writer *writer = &log->writer;
        pthread_mutex_lock(&log->lock);
        int r = publish_records(log);
        for (Order *order; r == 0 && (order = orders_pop(&writer->finishing));)
                orders_push(&log->done, order);
        pthread_mutex_unlock(&log->lock);
        if (r < 0)
                return r;

        if (writer->batch.size > 0)
                writer->uncovered = !writer->batch_covers;
        writer->offset += writer->batch.size;
        writer->batch.size = 0;
        if (writer->batch.capacity > KEEP_BUFFER)
                buffer_deinit(&writer->batch);
        return 1;
}

static int work_batch(Log *log) {
        Writer *writer = &log->writer;
        if (writer->batch.size == 0) {
                int r = fill(log);
                if (r < 0)
                        return r;
                if (writer->batch.size == 0 && !writer->finishing.first)
                        return 0;
        }
        int r = write_batch(log);
        if (r < 0)
                return r;
        return publish(log);
}

/* -- The next segment --------------------------------------------------------------------------------- */

static int next_open(Log *log) {
        Writer *writer = &log->writer;
        if (writer->next)
                return 0;
        int r = log->disk->ops->open(log->disk, NEXT_NAME, true, &writer->next);
        if (r < 0)
                return r;
        writer->next_size = 0;
        writer->next_ready = false;
        return 0;
}

/* One slice of zeros, synced by itself, so that no batch waits for 16 MiB. A write that found no room goes
 * on from where it stopped: a full disk is not written again and again. */
static int next_slice(Log *log, uint64_t target) {
        Writer *writer = &log->writer;
        int r = next_open(log);
        if (r < 0)
                return r;

        target = (target + 511) & ~UINT64_C(511);
        uint64_t end = MIN(target, writer->next_size + SLICE_BYTES);
        while (writer->next_size < end) {
                size_t n = (size_t)MIN(end - writer->next_size, (uint64_t)sizeof(zeros));
                r = log->disk->ops->write(writer->next, zeros, n, writer->next_size);
                if (r < 0)
                        return r;
                writer->next_size += n;
        }
        r = sync_file(log, writer->next);
        if (r < 0)
                return r;
        writer->next_ready = writer->next_size >= target;
        count_bytes(log);
        return 1;
}

static bool next_wanted(Log *log) {
        Writer *writer = &log->writer;
        if (writer->next_ready || writer->mark_clean)
                return false;
        uint64_t used = writer->offset + writer->batch.size;
        return used + log->segment_bytes / 2 >= current(writer)->bytes;
}

static int write_segment_header(Log *log, uint64_t number, Record *ret, Buffer *buffer) {
        Writer *writer = &log->writer;
        const LogState *tip = &writer->tip.state;
        Summary summary = {.damaged = tip->damaged};
        summary.conf = *shape_conf_at(&writer->tip, tip->last_index, &summary.conf_index);
        memcpy(summary.start_nonce, tip->start_nonce, sizeof(summary.start_nonce));
        memcpy(summary.tree_name, tip->tree_name, sizeof(summary.tree_name));

        Anchor anchor = make_anchor(writer, number, 0);
        uint32_t chain;
        int r = segment_put(buffer, &anchor, &summary, tip->last_index, tip->last_term, &chain);
        if (r < 0)
                return r;
        *ret = record_view(buffer->data);
        r = log->disk->ops->write(writer->next, buffer->data, buffer->size, 0);
        if (r < 0)
                return r;
        return sync_file(log, writer->next);
}

static int name_segment(Log *log, uint64_t number) {
        char name[SEGMENT_NAME_BYTES];
        segment_name(name, number);
        int r = log->disk->ops->rename(log->disk, NEXT_NAME, name);
        if (r < 0)
                return r;
        return sync_directory(log);
}

/* The next file is a durable segment under its name; the writer goes on in it. */
static int adopt(Log *log, uint64_t number, const Record *header) {
        Writer *writer = &log->writer;
        if (writer->n_segments == 0 || current(writer)->number != number) {
                Segment *more = reallocarray(writer->segments, writer->n_segments + 1, sizeof(Segment));
                if (!more)
                        return -ENOMEM;
                writer->segments = more;
                writer->n_segments++;
        }
        *current(writer) = (Segment){.number = number, .bytes = writer->next_size};
        if (writer->file)
                log->disk->ops->close(writer->file);
        writer->file = TAKE(writer->next);
        writer->next_size = 0;
        writer->next_ready = false;
        writer->offset = SEGMENT_BYTES;
        writer->need = 0;
        writer->chain = header->crc;
        writer->number++;
        writer->uncovered = false;

        Place place = {.segment = number};
        int r = shape_apply(&writer->tip, header, &place);
        if (r != 0)
                return r < 0 ? r : -EINVAL;
        pthread_mutex_lock(&log->lock);
        r = shape_apply(&log->shape, header, &place);
        pthread_mutex_unlock(&log->lock);
        count_bytes(log);
        return r > 0 ? -EINVAL : r;
}

static int roll(Log *log, uint64_t number) {
        Buffer buffer = {};
        Record header;
        int r = write_segment_header(log, number, &header, &buffer);
        if (r == 0)
                r = name_segment(log, number);
        if (r == 0)
                r = adopt(log, number, &header);
        buffer_deinit(&buffer);
        return r;
}

static int work_roll(Log *log) {
        Writer *writer = &log->writer;
        if (writer->need == 0)
                return 0;
        /* An entry needs more than its own bytes, see room(). */
        uint64_t target = MAX((uint64_t)log->segment_bytes, writer->need + writer->need / 8 + 512);
        if (!writer->next_ready || writer->next_size < target)
                return next_slice(log, target);
        int r = roll(log, current(writer)->number + 1);
        return r < 0 ? r : 1;
}

static int work_next(Log *log) {
        return next_wanted(log) ? next_slice(log, log->segment_bytes) : 0;
}

/* -- Trim --------------------------------------------------------------------------------------------- */

/* The last entry that lives in the oldest segment; what does not live there any more (truncated, emptied)
 * does not count. base_index when none does. */
static uint64_t oldest_ends(const Log *log) {
        const Shape *shape = &log->shape;
        uint64_t oldest = log->writer.segments[0].number;
        for (size_t i = 0; i < shape->n_marks; i++)
                if (shape->marks[i].place.segment != oldest)
                        return MAX(shape->marks[i].index - 1, shape->state.base_index);
        return shape->n_marks > 0 ? shape->state.last_index : shape->state.base_index;
}

/* Oldest first, and each unlink durable before the next: a hole between segments would be rot. */
static int work_trim(Log *log) {
        Writer *writer = &log->writer;
        if (writer->n_segments < 2 || writer->batch.size > 0)
                return 0;

        uint64_t ends = oldest_ends(log);
        if (ends > MAX(writer->trim_index, log->shape.state.base_index))
                return 0;

        char name[SEGMENT_NAME_BYTES];
        segment_name(name, writer->segments[0].number);
        int r = log->disk->ops->unlink(log->disk, name);
        if (r == 0)
                r = sync_directory(log);
        if (r < 0)
                return r;

        writer->n_segments--;
        memmove(writer->segments, writer->segments + 1, writer->n_segments * sizeof(Segment));
        shape_trim(&writer->tip, ends);
        pthread_mutex_lock(&log->lock);
        shape_trim(&log->shape, ends);
        pthread_mutex_unlock(&log->lock);
        count_bytes(log);
        return 1;
}

/* -- The whole ---------------------------------------------------------------------------------------- */

static void collect(Log *log) {
        Writer *writer = &log->writer;
        pthread_mutex_lock(&log->lock);
        for (Order *order; (order = orders_pop(&log->incoming));) {
                writer->commit_known = MAX(writer->commit_known, order->commit);
                orders_push(&writer->active, order);
        }
        writer->commit_known = MAX(writer->commit_known, log->noted_commit);
        log->noted_commit = 0;
        writer->trim_index = MAX(writer->trim_index, log->noted_trim);
        log->noted_trim = 0;
        pthread_mutex_unlock(&log->lock);
}

bool writer_mark_wanted(const Log *log) {
        return log->writer.uncovered || commit_to_tell(&log->writer) > log->writer.tip.state.commit;
}

/* Everything but batches; under load it gets its turn after every other batch. */
static int work_others(Log *log) {
        int (*const works[])(Log *) = {work_trim, work_roll, work_next};
        for (size_t i = 0; i < ELEMENTSOF(works); i++) {
                int r = works[i](log);
                if (r != 0)
                        return r;
        }
        return 0;
}

int writer_work(Log *log) {
        Writer *writer = &log->writer;
        if (writer->batch.size == 0)
                collect(log);
        int did = work_batch(log);
        if (did < 0) {
                writer->blocked = is_full(did);
                return writer->blocked ? -ENOSPC : did;
        }
        writer->others_next = !writer->others_next || did == 0;
        if (did > 0 && writer->others_next)
                return did;

        int r = work_others(log);
        if (r < 0 && !is_full(r))
                return r;
        if (r < 0)
                SIM_SEEN("log: no room for the next segment");
        if (r <= 0)
                writer->blocked = r < 0;
        if (r < 0)
                return did > 0 ? did : -ENOSPC;
        return MAX(did, r);
}

/* A file that an earlier run made ready, or what became of it. */
static int next_reuse(Log *log) {
        Writer *writer = &log->writer;
        Window window = {.disk = log->disk};
        int r = log->disk->ops->open(log->disk, NEXT_NAME, false, &window.file);
        if (r < 0)
                return r == -ENOENT ? 0 : r;

        int64_t size = log->disk->ops->size(window.file);
        uint64_t at = SEGMENT_BYTES; /* a header may have been written; another will be */
        bool fit =
                size >= (int64_t)MIN((uint64_t)log->segment_bytes, (uint64_t)FIRST_BYTES) && size % 512 == 0;
        for (const uint8_t *p; fit && at < (uint64_t)size; at += 512) {
                r = window_get(&window, at, 512, &p);
                fit = r == 0 && memcmp(p, zeros, 512) == 0;
                if (r < 0)
                        break;
        }
        if (r == -EIO) /* nothing in it is missed */
                r = 0, fit = false;
        r = size < 0 ? (int)size : MIN(r, 0);
        if (r == 0 && fit)
                r = sync_file(log, window.file);
        if (r == 0 && fit) {
                writer->next = TAKE(window.file);
                writer->next_size = (uint64_t)size;
                writer->next_ready = true;
        }
        window_deinit(&window);
        if (r < 0 || fit)
                return r;
        r = log->disk->ops->unlink(log->disk, NEXT_NAME);
        return r == -ENOENT ? 0 : r;
}

int writer_begin(Log *log, uint64_t number, const LogState *state) {
        Writer *writer = &log->writer;
        writer->tip.state = *state;
        int r = next_reuse(log);
        while (r >= 0 && !writer->next_ready)
                r = next_slice(log, MIN((uint64_t)log->segment_bytes, (uint64_t)FIRST_BYTES));
        if (r < 0)
                return r;
        return roll(log, number);
}

void writer_deinit(Log *log) {
        Writer *writer = &log->writer;
        if (writer->file)
                log->disk->ops->close(writer->file);
        if (writer->next)
                log->disk->ops->close(writer->next);
        for (Order *order; (order = orders_pop(&writer->active));)
                order_free(order);
        for (Order *order; (order = orders_pop(&writer->finishing));)
                order_free(order);
        buffer_deinit(&writer->batch);
        shape_deinit(&writer->tip);
        free(writer->segments);
        *writer = (Writer){};
}
