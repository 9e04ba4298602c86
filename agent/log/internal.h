/* How the log is made, for its own files only.
 *
 *      log.c      the door: open, close, orders in, completions out, the thread
 *      writer.c   one piece of work at a time: a batch, a new segment, a trim, a slice of the next file
 *      load.c     reading back
 *      recover.c  what a start finds
 *      shape.c    what the log holds, in memory
 *      record.c   the bytes; window.c reads them from a file; disk.c is the real disk
 *
 * Who owns what: the fields under "shared" are guarded by the lock. `writer` belongs to whoever does the
 * work: the thread, or the caller where there is none. The rest is the caller's. Orders travel from
 * `incoming` (shared) to `active` (writer) to `finishing` (writer, in the batch being written) to `done`
 * (shared), and are freed by the caller, because references to entries are not counted atomically. */
#pragma once

#include <pthread.h>

#include "recover.h"

#define NEXT_NAME   "log-next.seg"
#define BATCH_BYTES (4 * 1024 * 1024) /* about the most that is gathered before a sync */
#define SLICE_BYTES (512 * 1024)      /* of the next file, written between two batches */
#define FIRST_BYTES (1024 * 1024)     /* a segment made while the host waits for the start */
#define RETRY_USEC  (200 * USEC_PER_MSEC)
#define KEEP_BUFFER (256 * 1024)

typedef enum OrderKind {
        ORDER_BATCH,
        ORDER_BASE,
        ORDER_TREE,
        ORDER_DAMAGE,
} OrderKind;

typedef struct Order Order;
struct Order {
        Order *next;
        OrderKind kind;
        uint64_t seq;

        /* BATCH; what is written is set back, so that an order can be spread over segments */
        bool hard_state, healed;
        uint64_t term, vote; /* BASE too */
        uint64_t truncate_from;
        uint64_t commit;
        size_t n_entries, n_written;
        Entry **entries;

        uint64_t index, index_term; /* BASE */
        uint64_t conf_index;
        Conf conf;
        char tree_name[LOG_TREE_NAME_BYTES]; /* TREE */
        bool damaged;                        /* DAMAGE */
};

typedef struct Orders {
        Order *first, *last;
} Orders;

typedef struct Writer {
        Shape tip; /* what is on disk and in the batch being made; without marks */
        uint64_t log_id;
        uint32_t chain;  /* of the last record */
        uint64_t number; /* of the last record */

        Segment *segments; /* the last one is written to */
        size_t n_segments;
        DiskFile *file;  /* of the last segment */
        uint64_t offset; /* where the next batch goes in it */

        DiskFile *next; /* the segment to come */
        uint64_t next_size;
        bool next_ready;

        Orders active, finishing;
        uint64_t commit_known; /* as of the orders in active and before; may lie above what is durable */
        uint64_t trim_index;
        Buffer batch;          /* not yet durable */
        bool batch_covers;     /* it is a header alone */
        size_t need;           /* bytes that found no room in the segment; 0: nothing waits for a new one */
        bool uncovered;        /* records since the last anchor */
        bool mark, mark_clean; /* wanted: a header, a clean mark */
        bool others_next;      /* the next piece of work is not a batch alone */
        bool blocked;          /* no room on the disk for what is wanted */
} Writer;

struct Log {
        Disk *disk;
        Report report;
        bool threaded;
        size_t segment_bytes;
        uint64_t above;
        uint64_t mark_delay_usec;
        int fd;

        pthread_t thread;
        pthread_mutex_t lock;
        pthread_cond_t cond;

        /* shared */
        Orders incoming, done;
        uint64_t noted_commit, noted_trim;
        uint64_t last_change_usec;
        bool stop, full;
        int error;
        Shape shape; /* as durable, with marks */
        uint64_t bytes;
        bool patient; /* the caller need not be woken for what is done */
        bool told;    /* the caller was woken and has not come since */
        bool stepped; /* without a thread: the last step found nothing to do */
        bool idle;    /* the thread sleeps without a deadline */

        Writer writer;

        /* the caller's */
        bool running;
        bool locked;
        bool clean_found;
        LogState state;
        uint64_t submitted_seq, completed_seq;
        struct {
                Window window;
                uint64_t segment;
                bool valid; /* the place below is where the entry `index` begins or what leads to it */
                uint64_t index;
                Place place;
        } loader;
};

/* One piece of work. 1: did something, 0: nothing to do, -ENOSPC: waits for room, else fatal. */
int writer_work(Log *log);
/* Would a header tell anything that is not told yet? */
bool writer_mark_wanted(const Log *log);
/* First segment of this run of the log, its header holding `state`. 0, -errno. */
int writer_begin(Log *log, uint64_t number, const LogState *state);
void writer_deinit(Log *log);

void orders_push(Orders *orders, Order *order);
Order *orders_pop(Orders *orders);
Order *order_free(Order *order);
