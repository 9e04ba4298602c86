/* See log.h. Here: opening and closing, orders in, completions out, and the thread.
 *
 * An open leaves nothing to chance. What was read may exist in the page cache only (after a failed fsync the
 * kernel calls pages clean that never reached the disk), so the last segment, the only one that can hold
 * such pages, is written again where it lies, cut behind its last good record and synced. Then a new segment
 * begins: its header carries the new start number, and whatever was broken or torn lies behind. A segment
 * that holds no entries is replaced by the new one instead, so that a host that restarts for ever keeps one
 * file. After rot the header says "damaged" before any of the evidence is removed. */
#include "internal.h"

#include <string.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_usec(void) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

/* -- Orders ------------------------------------------------------------------------------------------- */

void orders_push(Orders *orders, Order *order) {
        order->next = NULL;
        if (orders->last)
                orders->last->next = order;
        else
                orders->first = order;
        orders->last = order;
}

Order *orders_pop(Orders *orders) {
        Order *order = orders->first;
        if (!order)
                return NULL;
        orders->first = order->next;
        if (!orders->first)
                orders->last = NULL;
        order->next = NULL;
        return order;
}

Order *order_free(Order *order) {
        if (!order)
                return NULL;
        for (size_t i = 0; i < order->n_entries; i++)
                entry_unref(order->entries[i]);
        free(order->entries);
        free(order);
        return NULL;
}

static void orders_clear(Orders *orders) {
        for (Order *order; (order = orders_pop(orders));)
                order_free(order);
}

/* -- The thread --------------------------------------------------------------------------------------- */

static void signal_caller(Log *log) {
        uint64_t one = 1;
        while (log->fd >= 0 && write(log->fd, &one, sizeof(one)) < 0 && errno == EINTR)
                ;
}

/* One piece of work, and what the caller should hear of it. */
static int work(Log *log) {
        uint64_t base = log->shape.state.base_index;
        int r = writer_work(log);

        pthread_mutex_lock(&log->lock);
        bool tell = (log->done.first && !log->told && !log->patient) || log->full != log->writer.blocked ||
                    log->shape.state.base_index != base;
        log->full = log->writer.blocked;
        if (r < 0 && r != -ENOSPC) {
                log->error = r;
                tell = true;
        }
        if (tell) { /* under the lock: what is not told, is not readable */
                log->told = true;
                signal_caller(log);
        }
        pthread_mutex_unlock(&log->lock);
        return r;
}

static void wait_until(Log *log, uint64_t usec) {
        if (usec == USEC_INFINITY) {
                log->idle = true;
                pthread_cond_wait(&log->cond, &log->lock);
                log->idle = false;
                return;
        }
        struct timespec ts = {
                .tv_sec = (time_t)(usec / USEC_PER_SEC),
                .tv_nsec = (long)(usec % USEC_PER_SEC * 1000),
        };
        pthread_cond_timedwait(&log->cond, &log->lock, &ts);
}

/* Nothing to do now: sleep until there is, until the mark is due, or until room is to be tried again. The
 * lock is held. */
static void rest(Log *log, bool blocked) {
        uint64_t until = USEC_INFINITY;
        if (writer_mark_wanted(log) || log->noted_commit > log->writer.tip.state.commit)
                until = log->last_change_usec + log->mark_delay_usec;
        if (until != USEC_INFINITY && now_usec() >= until && !blocked) {
                log->writer.mark = true;
                return;
        }
        if (blocked)
                until = now_usec() + RETRY_USEC;
        wait_until(log, until);
}

static void *thread_main(void *userdata) {
        Log *log = userdata;
        for (;;) {
                int r = work(log);
                if (r < 0 && r != -ENOSPC)
                        return NULL;

                pthread_mutex_lock(&log->lock);
                bool stop = log->stop;
                if (!stop && (r < 0 || (r == 0 && !log->incoming.first && log->noted_trim == 0)))
                        rest(log, r < 0);
                pthread_mutex_unlock(&log->lock);
                if (stop)
                        return NULL;
        }
}

static int start_thread(Log *log) {
        /* Signals are the loop's. */
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        int r = pthread_create(&log->thread, NULL, thread_main, log);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (r != 0)
                return -r;
        pthread_setname_np(log->thread, "treaty-log");
        log->running = true;
        return 0;
}

static void stop_thread(Log *log) {
        if (!log->running)
                return;
        pthread_mutex_lock(&log->lock);
        log->stop = true;
        pthread_cond_signal(&log->cond);
        pthread_mutex_unlock(&log->lock);
        pthread_join(log->thread, NULL);
        log->running = false;
}

/* -- Open --------------------------------------------------------------------------------------------- */

static int create_log(Log **ret, const LogOptions *options) {
        Log *log = calloc(1, sizeof(Log));
        if (!log)
                return -ENOMEM;
        *log = (Log){
                .disk = options->disk,
                .report = options->report,
                .threaded = options->thread,
                .segment_bytes = MAX(options->segment_bytes, (size_t)4096),
                .above = options->above,
                .mark_delay_usec = options->mark_delay_usec,
                .fd = -1,
        };
        pthread_condattr_t attr;
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_cond_init(&log->cond, &attr);
        pthread_condattr_destroy(&attr);
        pthread_mutex_init(&log->lock, NULL);

        if (log->threaded)
                log->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (log->threaded && log->fd < 0) {
                int r = -errno;
                log_abandon(log);
                return r;
        }
        *ret = log;
        return 0;
}

/* Writes the good part of a segment again, so that a sync syncs it. */
static int rewrite(Log *log, uint64_t number, uint64_t end, bool cut) {
        Window window = {};
        int r = window_open(&window, log->disk, number);
        for (uint64_t at = 0; r == 0 && at < end;) {
                size_t n = (size_t)MIN(end - at, UINT64_C(64) * 1024);
                const uint8_t *bytes;
                r = window_get(&window, at, n, &bytes);
                if (r == 0)
                        r = log->disk->ops->write(window.file, bytes, n, at);
                at += n;
        }
        if (r == 0 && cut)
                r = log->disk->ops->truncate(window.file, end);
        if (r == 0)
                r = log->disk->ops->sync(window.file);
        window_deinit(&window);
        return r > 0 ? -EIO : r;
}

static int copy_tip(Shape *to, const Shape *from) {
        *to = (Shape){.begun = from->begun, .state = from->state};
        if (from->n_terms > 0) {
                to->terms = malloc(from->n_terms * sizeof(*to->terms));
                if (!to->terms)
                        return -ENOMEM;
                memcpy(to->terms, from->terms, from->n_terms * sizeof(*to->terms));
                to->n_terms = to->capacity_terms = from->n_terms;
        }
        if (from->n_confs > 0) {
                to->confs = malloc(from->n_confs * sizeof(*to->confs));
                if (!to->confs)
                        return -ENOMEM;
                memcpy(to->confs, from->confs, from->n_confs * sizeof(*to->confs));
                to->n_confs = to->capacity_confs = from->n_confs;
        }
        return 0;
}

/* What was found becomes what the writer goes on from. */
static int take_over(Log *log, Recovery *recovery, bool replace, const uint8_t nonce[static 16]) {
        Writer *writer = &log->writer;
        writer->log_id = recovery->log_id != 0 ? recovery->log_id : bytes_get_u64(nonce);
        writer->chain = replace ? recovery->replace_chain : recovery->chain;
        writer->number = replace ? recovery->replace_number : recovery->number;
        if (recovery->n_good > 0) {
                writer->segments = calloc(recovery->n_good, sizeof(Segment));
                if (!writer->segments)
                        return -ENOMEM;
                memcpy(writer->segments, recovery->segments, recovery->n_good * sizeof(Segment));
                writer->n_segments = recovery->n_good;
                if (!replace)
                        writer->segments[recovery->n_good - 1].bytes = recovery->end;
        }

        log->clean_found = recovery->clean;
        log->shape = recovery->shape;
        recovery->shape = (Shape){};
        return copy_tip(&writer->tip, &log->shape);
}

/* The evidence of rot goes only when a durable header says "damaged". */
static int remove_rotten(Log *log, const Recovery *recovery) {
        for (size_t i = recovery->n_good; i < recovery->n_segments; i++) {
                char name[SEGMENT_NAME_BYTES];
                segment_name(name, recovery->segments[i].number);
                int r = log->disk->ops->unlink(log->disk, name);
                if (r < 0)
                        return r;
        }
        if (recovery->n_good > 0) {
                int r = rewrite(log, recovery->segments[recovery->n_good - 1].number, recovery->end, true);
                if (r < 0)
                        return r;
        }
        return log->disk->ops->sync_directory(log->disk);
}

static int begin(Log *log, Recovery *recovery, const uint8_t nonce[static 16]) {
        bool replace = recovery->replaceable && !recovery->rotten && recovery->n_good > 0;
        uint64_t last = recovery->n_segments > 0 ? recovery->segments[recovery->n_segments - 1].number : 0;

        if (recovery->n_good > 0 && !replace) {
                uint64_t tail = recovery->segments[recovery->n_good - 1].number;
                int r = rewrite(log, tail, recovery->end, !recovery->rotten);
                if (r < 0)
                        return r;
        }

        int r = take_over(log, recovery, replace, nonce);
        if (r < 0)
                return r;
        LogState state = log->shape.state;
        /* After rot the newest number may be one that was lost: go on far above it. */
        state.start = recovery->rotten ? ((MAX(state.start, log->above) >> 32) + 1) << 32 : state.start + 1;
        memcpy(state.start_nonce, nonce, sizeof(state.start_nonce));
        r = writer_begin(log, replace ? last : last + 1, &state);
        if (r == 0 && recovery->rotten)
                r = remove_rotten(log, recovery);
        return r;
}

static void refresh(Log *log) {
        log->state = log->shape.state;
        log->state.clean = log->clean_found;
}

static int open_locked(Log *log, const uint8_t nonce[static 16]) {
        /* Names that were never synced are either found now or were never promised. */
        int r = log->disk->ops->sync_directory(log->disk);
        if (r < 0)
                return r;

        Recovery recovery = {};
        r = recovery_run(&recovery, log->disk, &log->report);
        if (r == 0)
                r = begin(log, &recovery, nonce);
        if (r == 0 && recovery.rotten)
                r = LOG_ROTTEN;
        recovery_deinit(&recovery);
        return r;
}

int log_open(Log **ret, const LogOptions *options, const uint8_t nonce[static 16]) {
        Log *log = NULL;
        int r = create_log(&log, options);
        if (r < 0)
                return r;

        if (options->disk->ops->lock) {
                r = options->disk->ops->lock(options->disk);
                log->locked = r == 0;
        }
        if (r == -EWOULDBLOCK)
                r = LOG_LOCKED;
        if (r == 0)
                r = open_locked(log, nonce);
        if (r < 0 || r == LOG_NEWER || r == LOG_LOCKED) {
                log_abandon(log);
                return r;
        }

        refresh(log);
        int t = log->threaded ? start_thread(log) : 0;
        if (t < 0) {
                log_abandon(log);
                return t;
        }
        *ret = log;
        return r;
}

Log *log_abandon(Log *log) {
        if (!log)
                return NULL;
        stop_thread(log);
        writer_deinit(log);
        orders_clear(&log->incoming);
        orders_clear(&log->done);
        shape_deinit(&log->shape);
        window_deinit(&log->loader.window);
        if (log->locked)
                log->disk->ops->unlock(log->disk);
        if (log->fd >= 0)
                close(log->fd);
        pthread_cond_destroy(&log->cond);
        pthread_mutex_destroy(&log->lock);
        free(log);
        return NULL;
}

Log *log_close(Log *log) {
        if (!log)
                return NULL;
        stop_thread(log);
        if (log->error == 0) {
                log->writer.mark_clean = true;
                while (work(log) > 0)
                        ;
        }
        return log_abandon(log);
}

/* -- The door ----------------------------------------------------------------------------------------- */

const LogState *log_state(const Log *log) {
        return &log->state;
}

static Order *order_new(OrderKind kind, uint64_t seq) {
        Order *order = calloc(1, sizeof(Order));
        if (order)
                *order = (Order){.kind = kind, .seq = seq};
        return order;
}

/* Takes the order, also when it fails. */
static int submit(Log *log, Order *order) {
        if (order->seq <= log->submitted_seq) {
                order_free(order);
                return -EINVAL;
        }
        uint64_t now = log->threaded ? now_usec() : 0;
        pthread_mutex_lock(&log->lock);
        int r = log->error;
        if (r == 0) {
                log->patient = log->patient && order->kind == ORDER_BATCH;
                log->submitted_seq = order->seq;
                log->last_change_usec = now;
                orders_push(&log->incoming, order);
        }
        pthread_mutex_unlock(&log->lock);
        /* Behind the lock: who is woken takes it first of all, and would only fall asleep over it again. */
        if (r == 0)
                pthread_cond_signal(&log->cond);
        else
                order_free(order);
        return r;
}

static bool entries_follow(const LogBatch *batch) {
        for (size_t i = 0; i < batch->n_entries; i++) {
                const Entry *entry = batch->entries[i];
                if (entry->index == 0 || entry->size > LIMIT_ENTRY_BYTES || entry->type < ENTRY_NOOP ||
                    entry->type > ENTRY_COMMAND)
                        return false;
                if (i > 0 && entry->index != batch->entries[i - 1]->index + 1)
                        return false;
        }
        return true;
}

int log_submit(Log *log, const LogBatch *batch) {
        if (!entries_follow(batch))
                return -EINVAL;

        Order *order = order_new(ORDER_BATCH, batch->seq);
        if (!order)
                return -ENOMEM;
        order->hard_state = batch->hard_state;
        order->healed = batch->healed;
        order->term = batch->term;
        order->vote = batch->vote;
        order->truncate_from = batch->truncate_from;
        order->commit = batch->commit;
        if (batch->n_entries > 0) {
                order->entries = malloc(batch->n_entries * sizeof(Entry *));
                if (!order->entries) {
                        order_free(order);
                        return -ENOMEM;
                }
                for (size_t i = 0; i < batch->n_entries; i++)
                        order->entries[i] = entry_ref(batch->entries[i]);
                order->n_entries = batch->n_entries;
        }
        return submit(log, order);
}

int log_submit_base(Log *log, uint64_t seq, uint64_t index, uint64_t term, const Conf *conf,
                    uint64_t conf_index, uint64_t hard_term, uint64_t hard_vote) {
        Order *order = order_new(ORDER_BASE, seq);
        if (!order)
                return -ENOMEM;
        order->index = index;
        order->index_term = term;
        order->conf = *conf;
        order->conf_index = conf_index;
        order->term = hard_term;
        order->vote = hard_vote;
        return submit(log, order);
}

int log_submit_tree(Log *log, uint64_t seq, const char *tree_name) {
        if (strlen(tree_name) >= LOG_TREE_NAME_BYTES)
                return -EINVAL;
        Order *order = order_new(ORDER_TREE, seq);
        if (!order)
                return -ENOMEM;
        memcpy(order->tree_name, tree_name, strlen(tree_name));
        return submit(log, order);
}

int log_submit_damage(Log *log, uint64_t seq, bool damaged) {
        Order *order = order_new(ORDER_DAMAGE, seq);
        if (!order)
                return -ENOMEM;
        order->damaged = damaged;
        return submit(log, order);
}

void log_trim(Log *log, uint64_t index) {
        pthread_mutex_lock(&log->lock);
        log->noted_trim = MAX(log->noted_trim, index);
        pthread_mutex_unlock(&log->lock);
        pthread_cond_signal(&log->cond);
}

/* The thread is woken only when it sleeps without a deadline: this is called in every turn. */
void log_note_commit(Log *log, uint64_t commit) {
        uint64_t now = log->threaded ? now_usec() : 0;
        pthread_mutex_lock(&log->lock);
        if (commit > log->noted_commit && commit > log->shape.state.commit) {
                log->noted_commit = commit;
                log->last_change_usec = now;
                if (log->idle)
                        pthread_cond_signal(&log->cond);
        }
        pthread_mutex_unlock(&log->lock);
}

int log_fd(const Log *log) {
        return log->fd;
}

void log_be_patient(Log *log, bool patient) {
        pthread_mutex_lock(&log->lock);
        log->patient = patient;
        if (!patient && log->done.first && !log->told) {
                log->told = true;
                signal_caller(log);
        }
        pthread_mutex_unlock(&log->lock);
}

int log_completed(Log *log, uint64_t *ret_seq, bool *ret_full) {
        pthread_mutex_lock(&log->lock);
        uint64_t count;
        while (log->told && log->fd >= 0 && read(log->fd, &count, sizeof(count)) < 0 && errno == EINTR)
                ;
        Orders done = log->done;
        log->done = (Orders){};
        log->told = false;
        int r = log->error;
        bool full = log->full;
        refresh(log);
        pthread_mutex_unlock(&log->lock);

        for (Order *order; (order = orders_pop(&done));) {
                log->completed_seq = order->seq;
                order_free(order);
        }
        if (ret_seq)
                *ret_seq = log->completed_seq;
        if (ret_full)
                *ret_full = full;
        return r;
}

int log_step(Log *log) {
        assert(!log->threaded);
        if (log->error < 0)
                return log->error;
        int r = work(log);
        log->stepped = r == 0;
        return r == -ENOSPC ? 0 : r;
}

bool log_idle(const Log *log) {
        return log->stepped && !log->incoming.first && log->noted_trim == 0 && log->error == 0;
}

int log_quiet(Log *log) {
        assert(!log->threaded);
        if (log->error < 0)
                return log->error;
        log->writer.mark = true;
        int did = 0, r;
        while ((r = work(log)) > 0)
                did = 1;
        return r < 0 && r != -ENOSPC ? r : did;
}

uint64_t log_bytes(const Log *log) {
        Log *mutable = (Log *)log;
        pthread_mutex_lock(&mutable->lock);
        uint64_t bytes = log->bytes;
        pthread_mutex_unlock(&mutable->lock);
        return bytes;
}
