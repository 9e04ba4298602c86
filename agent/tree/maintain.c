/* Checkpoints: the only thing that moves frames from the WAL into the file, and what makes the tree durable.
 * They are one thread's work, on a connection that does nothing else, and never run while frames are
 * written: SQLite up to 3.51.2 can damage a file when a checkpoint meets a writer that starts the WAL anew.
 *
 *      REST ── asked ──> WANTED ──> LONG ── nothing open ──────────────> REST
 *                                    └── a transaction is open ──> BETWEEN
 *                                                                     │ its COMMIT
 *                                                                   SHORT ──────> REST
 *
 * The long pass moves nearly all; meanwhile entries are applied into the open transaction, whose COMMIT
 * waits (frames stay in memory: cache_spill=off). That COMMIT then leaves a few frames behind, and the WAL
 * starts anew only if a BEGIN finds all of it moved: so a short pass follows, and the next BEGIN waits for
 * it. Rows stay in memory meanwhile (rows.c); when there are too many of them, or another statement writes,
 * it waits in earnest, for 20 ms at most unless the WAL is above its cap. Above it a BEGIN waits for any
 * pass that is asked for: the WAL holds at most its cap and one transaction, however late the thread is. */
#include "internal.h"

#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define MAINTAIN_WAIT_NSEC (20 * 1000 * 1000)

static size_t wal_bytes(const Tree *tree) {
        return tree->wal_pages * (TREE_PAGE_BYTES + 24);
}

void maintain_wake(Tree *tree) {
        uint64_t one = 1;
        if (tree->maintain.event_fd >= 0) {
                ssize_t n = write(tree->maintain.event_fd, &one, sizeof(one));
                (void)n; /* full means: it is readable already */
        }
        tree->maintain.news = true; /* behind it: who sees this can read that */
}

/* One pass over all frames there are. Without the mutex, in state LONG or SHORT. */
static int checkpoint_pass(Tree *tree, bool *ret_complete, int *ret_code) {
        int n_log = -1, n_moved = -1;
        int rc = sqlite3_wal_checkpoint_v2(tree->maintain.db, "main", SQLITE_CHECKPOINT_PASSIVE, &n_log,
                                           &n_moved);
        *ret_complete = rc == SQLITE_OK && n_log == n_moved && n_log >= 0;
        if (rc == SQLITE_OK || (rc & 0xff) == SQLITE_BUSY)
                return 0;
        *ret_code = rc;
        return sql_outcome(tree->maintain.db, rc);
}

/* With the mutex held; gives it back during the pass. */
static bool maintain_pass(Tree *tree) {
        Maintain *m = &tree->maintain;
        uint64_t committed = m->committed;
        bool complete;
        int code = SQLITE_OK;

        pthread_mutex_unlock(&m->mutex);
        int r = checkpoint_pass(tree, &complete, &code);
        pthread_mutex_lock(&m->mutex);

        m->full = r == TREE_FULL;
        if (r != 0 && r != TREE_FULL && m->error == 0) {
                m->error = r > 0 ? -EBADMSG : r;
                m->error_code = code;
        }
        if (complete)
                m->durable = MAX(m->durable, committed);
        return complete;
}

static void maintain_turn(Tree *tree) {
        Maintain *m = &tree->maintain;
        bool is_short = m->state == CHECKPOINT_SHORT;
        if (!is_short)
                m->state = CHECKPOINT_LONG;
        bool complete = maintain_pass(tree);
        m->state = complete && !is_short && m->open ? CHECKPOINT_BETWEEN : CHECKPOINT_REST;
        pthread_cond_broadcast(&m->changed);
        maintain_wake(tree);
}

static void *maintain_thread(void *userdata) {
        Tree *tree = userdata;
        Maintain *m = &tree->maintain;

        pthread_mutex_lock(&m->mutex);
        while (!m->stop) {
                if (m->state == CHECKPOINT_WANTED || m->state == CHECKPOINT_SHORT)
                        maintain_turn(tree);
                else
                        pthread_cond_wait(&m->changed, &m->mutex);
        }
        pthread_mutex_unlock(&m->mutex);
        return NULL;
}

int maintain_init(Tree *tree) {
        Maintain *m = &tree->maintain;
        m->committed = tree->committed;
        m->durable = tree->durable;
        m->event_fd = tree->options.event_fd
                              ?: tree->options.thread ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
                                                      : -1;
        if (m->event_fd < 0 && tree->options.thread)
                return -errno;
        m->news = tree->options.event_fd != 0; /* perhaps of the tree before */
        int r = file_connect(tree, tree->path, false, &m->db);
        if (r != 0)
                return r;

        pthread_mutex_init(&m->mutex, NULL);
        pthread_condattr_t attributes;
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_cond_init(&m->changed, &attributes);
        pthread_condattr_destroy(&attributes);
        if (!tree->options.thread)
                return 0;
        r = pthread_create(&m->thread, NULL, maintain_thread, tree);
        if (r != 0)
                return -r;
        m->has_thread = true;
        return 0;
}

void maintain_deinit(Tree *tree) {
        Maintain *m = &tree->maintain;
        if (m->has_thread) {
                pthread_mutex_lock(&m->mutex);
                m->stop = true;
                pthread_cond_broadcast(&m->changed);
                pthread_mutex_unlock(&m->mutex);
                pthread_join(m->thread, NULL);
                m->has_thread = false;
        }
        if (m->db) {
                pthread_cond_destroy(&m->changed);
                pthread_mutex_destroy(&m->mutex);
                sqlite3_close(m->db);
                m->db = NULL;
        }
        if (m->event_fd >= 0 && tree->options.event_fd == 0)
                close(m->event_fd);
        m->event_fd = -1;
}

/* ---- From the loop ---- */

bool maintain_may_commit(Tree *tree, bool wait) {
        Maintain *m = &tree->maintain;
        pthread_mutex_lock(&m->mutex);
        while (m->state == CHECKPOINT_LONG || m->state == CHECKPOINT_SHORT) {
                if (!wait) {
                        pthread_mutex_unlock(&m->mutex);
                        return false;
                }
                pthread_cond_wait(&m->changed, &m->mutex);
        }
        return true;
}

/* Called with the mutex held, before frames are written. */
bool maintain_is_full(const Tree *tree) {
        return tree->maintain.full && wal_bytes(tree) > 4 * tree->options.wal_bytes;
}

void maintain_committed(Tree *tree, bool ok) {
        Maintain *m = &tree->maintain;
        m->open = tree->begun;
        m->committed = tree->committed;
        if (ok && m->state == CHECKPOINT_BETWEEN) {
                m->state = CHECKPOINT_SHORT;
                pthread_cond_broadcast(&m->changed);
        } else if (m->state == CHECKPOINT_REST && wal_bytes(tree) > tree->options.wal_bytes / 2) {
                m->state = CHECKPOINT_WANTED;
                pthread_cond_broadcast(&m->changed);
                if (!m->has_thread)
                        maintain_wake(tree);
        }
        pthread_mutex_unlock(&m->mutex);
        if (history_wants_pruning(tree))
                maintain_wake(tree);
}

bool maintain_holds_begin(const Tree *tree) {
        const Maintain *m = &tree->maintain;
        return m->has_thread && m->state == CHECKPOINT_SHORT;
}

void maintain_before_begin(Tree *tree) {
        Maintain *m = &tree->maintain;
        if (!m->has_thread)
                return;
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += MAINTAIN_WAIT_NSEC;
        if (until.tv_nsec >= 1000000000) {
                until.tv_sec++;
                until.tv_nsec -= 1000000000;
        }

        /* Above the cap also for a pass that the thread did not begin yet: it may wait for a CPU longer than
         * the loop takes to write the cap ten times. */
        bool capped = wal_bytes(tree) > tree->options.wal_bytes;
        pthread_mutex_lock(&m->mutex);
        while (m->state == CHECKPOINT_SHORT ||
               (capped && (m->state == CHECKPOINT_WANTED || m->state == CHECKPOINT_LONG)))
                if (capped)
                        pthread_cond_wait(&m->changed, &m->mutex);
                else if (pthread_cond_timedwait(&m->changed, &m->mutex, &until) != 0)
                        break;
        pthread_mutex_unlock(&m->mutex);
}

void maintain_begun(Tree *tree) {
        pthread_mutex_lock(&tree->maintain.mutex);
        tree->maintain.open = true;
        pthread_mutex_unlock(&tree->maintain.mutex);
}

bool tree_dirty(const Tree *tree, bool *ret_urgent) {
        if (ret_urgent) {
                Maintain *m = (Maintain *)&tree->maintain;
                pthread_mutex_lock(&m->mutex);
                bool boundary = m->state == CHECKPOINT_BETWEEN; /* the WAL can start anew after a COMMIT */
                bool busy = m->state == CHECKPOINT_LONG || m->state == CHECKPOINT_SHORT;
                pthread_mutex_unlock(&m->mutex);
                size_t limit = busy ? TREE_BLOCK_PAGES : TREE_URGENT_PAGES;
                *ret_urgent = tree->lost != 0 || tree->fatal != 0 ||
                              (tree->dirty && (boundary || transaction_pages(tree) >= limit));
        }
        return tree->dirty || tree->lost != 0 || tree->fatal != 0;
}

void tree_checkpoint(Tree *tree) {
        Maintain *m = &tree->maintain;
        pthread_mutex_lock(&m->mutex);
        if (m->state == CHECKPOINT_REST) {
                m->state = CHECKPOINT_WANTED;
                pthread_cond_broadcast(&m->changed);
        }
        pthread_mutex_unlock(&m->mutex);
        if (!m->has_thread)
                maintain_wake(tree);
}

int tree_fd(const Tree *tree) {
        return tree->maintain.event_fd;
}

bool tree_has_news(const Tree *tree) {
        return tree->maintain.news;
}

/* Without a thread there is no LONG beside an open transaction: it is committed first, and one pass does.
 * TREE_FULL: the pass was made, and the open transaction is gone. */
static int maintain_here(Tree *tree) {
        Maintain *m = &tree->maintain;
        if (m->state != CHECKPOINT_WANTED)
                return 0;
        int r = transaction_commit(tree, true);
        if (r < 0)
                return r;
        pthread_mutex_lock(&m->mutex);
        maintain_turn(tree);
        if (m->state == CHECKPOINT_BETWEEN) /* of a transaction that was taken back: nobody would do SHORT */
                m->state = CHECKPOINT_REST;
        pthread_mutex_unlock(&m->mutex);
        return r;
}

int maintain_sync(Tree *tree) {
        Maintain *m = &tree->maintain;
        tree_checkpoint(tree);
        if (!m->has_thread) {
                int r = maintain_here(tree);
                if (r < 0)
                        return r;
        }
        pthread_mutex_lock(&m->mutex);
        while (m->state != CHECKPOINT_REST && m->state != CHECKPOINT_BETWEEN)
                pthread_cond_wait(&m->changed, &m->mutex);
        tree->durable = m->durable;
        int error = m->error;
        bool full = m->full;
        pthread_mutex_unlock(&m->mutex);
        return error ?: full ? TREE_FULL : 0;
}

static int maintain_prune(Tree *tree) {
        if (!history_wants_pruning(tree) || tree->fatal != 0 || tree->lost != 0)
                return 0;
        int r = transaction_begin(tree);
        if (r == 0)
                r = history_prune(tree, TREE_PRUNE_ROWS);
        if (r != 0)
                return transaction_failed(tree, r);
        tree->dirty = true;
        return 0;
}

void tree_take_news(Tree *tree) {
        Maintain *m = &tree->maintain;
        if (m->news) {
                uint64_t n;
                m->news = false;
                ssize_t got = m->event_fd >= 0 ? read(m->event_fd, &n, sizeof(n)) : 0;
                (void)got; /* EAGAIN: taken with the news before */
        }
}

int tree_maintain(Tree *tree) {
        Maintain *m = &tree->maintain;
        tree_take_news(tree);

        int r = m->has_thread ? 0 : maintain_here(tree);
        if (r < 0)
                return r;
        pthread_mutex_lock(&m->mutex);
        tree->durable = m->durable;
        int error = m->error;
        pthread_mutex_unlock(&m->mutex);
        if (error != 0) {
                report_say(&tree->options.report, LOG_ERR, "%s: checkpoint: %s (%d)", tree->path,
                           sqlite3_errstr(m->error_code), m->error_code);
                if (tree->fatal == 0)
                        tree->fatal = error;
                return error;
        }
        int pruned = maintain_prune(tree);
        return pruned != 0 ? pruned : r;
}
