/* Reading everything again. A tree is mostly read where it is written; rot in what nobody reads would be
 * found on the day on which it is needed. So all of it is read in slices, beside the day's work: a few rows
 * at a time, every four seconds, at most a millisecond each, and a pass ends within half a day. A pass
 * begins a minute after the process, or a new tree.
 *
 * Who doubts a disk orders a pass: it begins anew at once, in the same slices, one after the other with a
 * breath in between. Orders that come meanwhile wait for the next pass, for what this one has read already
 * says nothing of now. */
#include "hall.h"
#include "base/seen.h"

#define PASS_USEC   (12 * 3600 * USEC_PER_SEC)
#define FIRST_USEC  (60 * USEC_PER_SEC) /* a start has other things to read */
#define SLICE_USEC  (4 * USEC_PER_SEC)
#define HURRY_USEC  (100 * USEC_PER_MSEC) /* when the pass would be late */
#define SLICE_ROWS  256u
#define PIECE_ROWS  16u /* between two looks at the clock: rows may lie on a slow disk */
#define BUSY_USEC   USEC_PER_MSEC
#define BREATH_USEC USEC_PER_MSEC /* between slices of an ordered pass */
#define MAX_ORDERS  64u

struct ScrubOrder {
        ScrubDone done;
        void *userdata;
        bool served; /* by the pass at hand */
        ScrubOrder *prev, *next;
};

/* What there is to read, roughly: keys with their rows, and history. */
static uint64_t rows_in(const TreeStatus *tree) {
        return 2 * tree->n_entries + (tree->revision - MIN(tree->floor, tree->revision)) + 1;
}

static bool is_late(const Agent *agent) {
        const ScrubWork *scrub = &agent->scrub;
        double part = (double)(agent->now_usec - scrub->begun_usec) / (double)PASS_USEC;
        return part * (double)rows_in(&agent->tree_status) > (double)scrub->n_read;
}

static void pass_ends(Agent *agent) {
        ScrubWork *scrub = &agent->scrub;

        SIM_SEEN("scrub: all of the tree was read again");
        scrub->finished_wall_usec = agent->outside.wall(agent->outside.userdata);
        scrub->due_usec = MAX(scrub->begun_usec + PASS_USEC, agent->now_usec + SLICE_USEC);
        scrub->begun_usec = scrub->due_usec;
        scrub->finished_read = scrub->n_read;
        scrub->n_read = 0;
        agent->status_dirty = true;
        report_say(&agent->report, LOG_INFO,
                   "All of the tree was read again, %llu rows, and is as it was written.",
                   (unsigned long long)scrub->finished_read);
}

/* 0: there is more; 1: that was the last one; -1: this tree will not be read to its end. */
static int pass_slice(Agent *agent) {
        ScrubWork *scrub = &agent->scrub;
        bool done = false;

        for (unsigned n = 0; n < SLICE_ROWS && !done; n += PIECE_ROWS) {
                int r = tree_scrub_slice(agent->tree, PIECE_ROWS, &scrub->n_read, &done);
                if (r == TREE_ROTTEN) {
                        SIM_SEEN("scrub: finds what rotted");
                        heal_suspect(agent, false,
                                     "reading all of it again found something else than was written");
                        return -1;
                }
                if (r == TREE_FULL) /* the open transaction is taken back: COMMIT says so, then it goes on */
                        return 0;
                if (r != 0) {
                        (void)hall_tree_failed(agent, r, "it cannot be read");
                        return -1;
                }
                if (hall_now(agent) - agent->now_usec > BUSY_USEC)
                        break;
        }
        if (done)
                pass_ends(agent);
        return done;
}

/* ---- Beside the day's work ---- */

void scrub_work(Agent *agent) {
        ScrubWork *scrub = &agent->scrub;

        if (scrub->due_usec == 0)
                scrub->due_usec = agent->now_usec + FIRST_USEC;
        if (agent->now_usec < scrub->due_usec || scrub->orders || !heal_may_touch(agent) ||
            agent->heal.alone || agent->tree_status.conf.n_voters == 0)
                return;
        if (scrub->n_read == 0)
                scrub->begun_usec = agent->now_usec;
        if (pass_slice(agent) == 0)
                scrub->due_usec = agent->now_usec + (is_late(agent) ? HURRY_USEC : SLICE_USEC);
}

/* ---- Ordered ---- */

int agent_scrub(Agent *agent, ScrubDone done, void *userdata) {
        ScrubWork *scrub = &agent->scrub;

        if (scrub->n_orders >= MAX_ORDERS) {
                done(ANSWER_BUSY, 0, userdata);
                return 0;
        }
        ScrubOrder *order = calloc(1, sizeof(ScrubOrder));
        if (!order)
                return -ENOMEM;
        *order = (ScrubOrder){.done = done, .userdata = userdata};
        DL_APPEND(scrub->orders, order);
        scrub->n_orders++;
        hall_wake(agent);
        return 0;
}

/* Who is told may order again: what comes now is not answered here. */
static void orders_end(Agent *agent, bool served_only, Answer answer) {
        ScrubWork *scrub = &agent->scrub;
        ScrubOrder *order, *next;
        unsigned n = scrub->n_orders;

        for (order = scrub->orders; order && n > 0; order = next, n--) {
                next = order->next;
                if (served_only && !order->served)
                        continue;
                ScrubOrder told = *order;
                DL_DELETE(scrub->orders, order);
                scrub->n_orders--;
                free(order);
                told.done(answer, answer == ANSWER_DONE ? scrub->finished_read : 0, told.userdata);
        }
        scrub->hurried = false;
}

/* DONE: a pass may go on. */
static Answer orders_obstacle(const Agent *agent) {
        if (agent->heal.dead)
                return ANSWER_HALTED;
        if (!heal_may_touch(agent))
                return ANSWER_NO_TREE;
        return agent->removed || agent->tree_status.conf.n_voters == 0 ? ANSWER_NOT_MEMBER : ANSWER_DONE;
}

static void begin_ordered(Agent *agent) {
        ScrubWork *scrub = &agent->scrub;
        ScrubOrder *order;

        DL_FOREACH (scrub->orders, order)
                order->served = true;
        tree_scrub_anew(agent->tree);
        scrub->hurried = true;
        scrub->n_read = 0;
        scrub->begun_usec = scrub->due_usec = agent->now_usec;
}

void scrub_orders(Agent *agent) {
        ScrubWork *scrub = &agent->scrub;

        if (!scrub->orders)
                return;
        Answer obstacle = orders_obstacle(agent);
        if (obstacle != ANSWER_DONE) {
                SIM_SEEN("scrub: ordered where it cannot be");
                orders_end(agent, false, obstacle);
                return;
        }
        if (!scrub->hurried)
                begin_ordered(agent);
        if (agent->now_usec < scrub->due_usec)
                return;
        switch (pass_slice(agent)) {
        case 0:
                scrub->due_usec = agent->now_usec + BREATH_USEC;
                break;
        case 1:
                orders_end(agent, true, ANSWER_DONE);
                break;
        default:
                orders_end(agent, false, agent->heal.alone ? ANSWER_HALTED : ANSWER_NO_TREE);
        }
}

uint64_t scrub_deadline(const Agent *agent) {
        const ScrubWork *scrub = &agent->scrub;
        return !scrub->orders ? USEC_INFINITY : scrub->hurried ? scrub->due_usec : agent->now_usec;
}

/* ---- Another tree: its own pass begins ---- */

void scrub_rebase(Agent *agent) {
        agent->scrub.n_read = 0;
        agent->scrub.due_usec = 0;
        agent->scrub.hurried = false;
}

void scrub_close(Agent *agent) {
        orders_end(agent, false, ANSWER_STOPPING);
}
