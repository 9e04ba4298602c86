/* Reading everything again. A tree is mostly read where it is written; rot in what nobody reads would be
 * found on the day on which it is needed. So all of it is read in slices, beside the day's work: a few rows
 * at a time, about once a second, at most a millisecond of it, and a pass ends within half a day. A pass
 * begins a minute after the process, or a new tree. */
#include "hall.h"

#define PASS_USEC  (12 * 3600 * USEC_PER_SEC)
#define FIRST_USEC (60 * USEC_PER_SEC) /* a start has other things to read */
#define SLICE_USEC USEC_PER_SEC
#define HURRY_USEC (100 * USEC_PER_MSEC) /* when the pass would be late */
#define SLICE_ROWS 256u
#define PIECE_ROWS 16u /* between two looks at the clock: rows may lie on a slow disk */
#define BUSY_USEC  USEC_PER_MSEC

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

void scrub_work(Agent *agent) {
        ScrubWork *scrub = &agent->scrub;
        bool done = false;

        if (scrub->due_usec == 0)
                scrub->due_usec = agent->now_usec + FIRST_USEC;
        if (agent->now_usec < scrub->due_usec || !heal_may_touch(agent) || agent->heal.alone ||
            agent->tree_status.conf.n_voters == 0)
                return;
        if (scrub->n_read == 0)
                scrub->begun_usec = agent->now_usec;
        for (unsigned n = 0; n < SLICE_ROWS && !done; n += PIECE_ROWS) {
                int r = tree_scrub_slice(agent->tree, PIECE_ROWS, &scrub->n_read, &done);
                if (r == TREE_ROTTEN) {
                        heal_suspect(agent, false,
                                     "reading all of it again found something else than was written");
                        return;
                }
                if (r != 0) {
                        (void)hall_tree_failed(agent, r, "it cannot be read");
                        return;
                }
                if (hall_now(agent) - agent->now_usec > BUSY_USEC)
                        break;
        }
        if (done)
                pass_ends(agent);
        else
                scrub->due_usec = agent->now_usec + (is_late(agent) ? HURRY_USEC : SLICE_USEC);
}

/* Another tree: its own pass begins. */
void scrub_rebase(Agent *agent) {
        agent->scrub.n_read = 0;
        agent->scrub.due_usec = 0;
}
