/* Start: what the log promises and what the tree holds are brought together before the core may speak.
 *
 *  - The tree's (index, term) is in the log: the tail behind it is kept; what is known to be committed is
 * applied at once.
 *  - It is not: the tree is a base. It is checkpointed and synced first, then one log record makes it so
 * (the term raised, its vote spent); only then the core starts.
 *  - There is neither log nor tree: a cluster of one is founded, unless this host is to join another.
 *
 * docs/DISK.md tells why each order is the only one (a volatile base, a base beside a conflicting tail). */
#include "hall.h"
#include "base/seen.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <poll.h>
#include <sys/eventfd.h>

TreeOptions hall_tree_options(Agent *agent) {
        if (agent->options.threads && agent->tree_event_fd == 0)
                agent->tree_event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        return (TreeOptions){
                .event_fd = MAX(agent->tree_event_fd, 0),
                .directory = agent->options.state_directory,
                .report = agent->report,
                .version = hall_version(agent),
                .thread = agent->options.threads,
                .wal_bytes = 4 * 1024 * 1024, /* what one checkpoint syncs is what the log waits behind */
                .cache_bytes = 4 * 1024 * 1024,
        };
}

uint64_t hall_seq(Agent *agent) {
        return ++agent->seq;
}

/* At start there is nothing else to do than to wait for the disk. */
int hall_log_wait(Agent *agent, uint64_t seq) {
        for (;;) {
                uint64_t done = 0;
                bool full = false;
                int r = log_completed(agent->log, &done, &full);
                if (r < 0)
                        return r;
                if (done >= seq)
                        return 0;
                if (full)
                        return -ENOSPC;
                if (!agent->options.threads) {
                        r = log_step(agent->log);
                        if (r < 0)
                                return r;
                        continue;
                }
                struct pollfd fd = {.fd = log_fd(agent->log), .events = POLLIN};
                (void)poll(&fd, 1, 1000);
        }
}

static int tree_make_durable(Agent *agent) {
        int r = tree_commit(agent->tree);
        if (r != 0)
                return r < 0 ? r : -ENOSPC;
        for (unsigned i = 0;; i++) {
                TreeStatus status;
                tree_status(agent->tree, &status);
                if (status.durable >= status.applied)
                        return 0;
                if (i > 30000)
                        return -ETIMEDOUT;
                tree_checkpoint(agent->tree);
                r = tree_maintain(agent->tree);
                if (r < 0)
                        return r;
                if (agent->options.threads) {
                        struct pollfd fd = {.fd = tree_fd(agent->tree), .events = POLLIN};
                        (void)poll(&fd, 1, 10);
                }
        }
}

int hall_open_tree(Agent *agent, const char *name) {
        TreeOptions options = hall_tree_options(agent);
        int r = tree_open(&agent->tree, &options, name);
        if (r != 0)
                return r;
        snprintf(agent->tree_name, sizeof(agent->tree_name), "%s", name);
        hall_look_at_tree(agent);
        return 0;
}

void members_self(Agent *agent, Member *ret) {
        *ret = (Member){
                .id = agent->host.id,
                .class = MEMBER_FULL,
                .n_addresses = agent->options.n_addresses,
                .n_keys = 1,
                .version = hall_version(agent),
        };
        snprintf(ret->name, sizeof(ret->name), "%s", agent->options.host_name);
        memcpy(ret->addresses, agent->options.addresses, sizeof(ret->addresses));
        memcpy(ret->keys[0], agent->options.key, KEY_HASH_BYTES);
}

/* A fresh tree: founded as a cluster of one, or empty for the cluster that will be joined. The name's random
 * part keeps it apart from every file that was here before. */
int hall_new_tree(Agent *agent, bool found) {
        uint64_t random;
        char name[LOG_TREE_NAME_BYTES];
        agent->outside.random(agent->outside.userdata, &random, sizeof(random));
        snprintf(name, sizeof(name), "tree-%016x-%08x.db", 0, (unsigned)random);

        TreeOptions options = hall_tree_options(agent);
        int r = tree_create(&options, name);
        if (r != 0)
                return r < 0 ? r : -EIO;
        r = hall_open_tree(agent, name);
        if (r != 0)
                return r < 0 ? r : -EIO;

        if (found) {
                uint8_t cluster[16];
                Member self;
                agent->outside.random(agent->outside.userdata, cluster, sizeof(cluster));
                members_self(agent, &self);
                r = tree_found(agent->tree, cluster, &self);
                if (r != 0)
                        return r < 0 ? r : -EIO;
        }
        hall_look_at_tree(agent);

        /* The configuration first: a log that names a tree and knows no voters would wait for others for
         * ever. */
        uint64_t seq = hall_seq(agent);
        r = log_submit_base(agent->log, seq, 0, 0, &agent->tree_status.conf, 0, 0, 0);
        if (r < 0)
                return r;
        seq = hall_seq(agent);
        r = log_submit_tree(agent->log, seq, name);
        if (r < 0)
                return r;
        return hall_log_wait(agent, seq);
}

static int open_host_file(Agent *agent) {
        const AgentOptions *options = &agent->options;
        int r = host_file_load(options->disk, &agent->host);
        if (r < 0) {
                report_say(
                        &agent->report, LOG_ERR,
                        "The file \"host\" in the state directory cannot be understood (%s). Restore it, or move the "
                        "whole state directory away and join the cluster anew.",
                        strerror(-r));
                return r;
        }
        if (r == 0) {
                if (memcmp(agent->host.machine, options->machine, sizeof(options->machine)) == 0)
                        return 0;
                report_say(
                        &agent->report, LOG_ERR,
                        "The state directory was made on another machine (its machine-id differs): refusing to start "
                        "as its double. Empty the state directory, start the agent and join: \"treatyctl join -\".");
                return -ESTALE;
        }

        while (agent->host.id == 0)
                agent->outside.random(agent->outside.userdata, &agent->host.id, sizeof(agent->host.id));
        memcpy(agent->host.machine, options->machine, sizeof(options->machine));
        return host_file_save(options->disk, &agent->host);
}

/* A second rot may leave nothing of the log that tells to where the first one raised the numbers. When this
 * cannot be written (disk full), the next start tries again. */
static void note_start(Agent *agent) {
        HostFile host = agent->host;
        uint64_t start = log_state(agent->log)->start >> 32 << 32;
        if (start <= host.start)
                return;
        host.start = start;
        if (host_file_save(agent->options.disk, &host) >= 0)
                agent->host = host;
}

static int open_log(Agent *agent) {
        uint8_t nonce[16];
        agent->outside.random(agent->outside.userdata, nonce, sizeof(nonce));

        LogOptions options = {
                .disk = agent->options.disk,
                .report = agent->report,
                .thread = agent->options.threads,
                .segment_bytes = agent->options.segment_bytes ?: 16 * 1024 * 1024,
                .above = agent->host.start,
                .mark_delay_usec = 100 * USEC_PER_MSEC,
        };
        int r = log_open(&agent->log, &options, nonce);
        if (r == 0 || r == LOG_ROTTEN)
                note_start(agent);
        switch (r) {
        case LOG_LOCKED:
                report_say(&agent->report, LOG_ERR, "Another agent runs on this state directory.");
                return -EBUSY;
        case LOG_NEWER:
                report_say(&agent->report, LOG_ERR,
                           "The log was written by a newer version of treaty. Install that version again.");
                return -EPROTONOSUPPORT;
        case LOG_ROTTEN:
                agent->damaged = true;
                return 0;
        default:
                return r;
        }
}

static int keep_tail(Entry *entry, void *userdata) {
        Agent *agent = userdata;
        /* Without a tree they are applied from the log's files, when there is one again. */
        return raft_restore_entry(agent->raft, entry,
                                  !agent->heal.bad && entry->index > agent->tree_status.applied);
}

/* Is the tree's (index, term) a place in the log? */
typedef struct FindTerm {
        uint64_t term;
} FindTerm;

static int note_term(Entry *entry, void *userdata) {
        FindTerm *find = userdata;
        find->term = entry->term;
        return 1;
}

static bool tree_is_in_log(Agent *agent) {
        const LogState *state = log_state(agent->log);
        uint64_t index = agent->tree_status.applied, term = agent->tree_status.applied_term;

        if (index == state->base_index)
                return term == state->base_term;
        if (index < state->base_index || index > state->last_index)
                return false;
        FindTerm find = {};
        (void)log_replay(agent->log, index, note_term, &find);
        return find.term == term;
}

static int make_base(Agent *agent) {
        int r = tree_make_durable(agent);
        if (r < 0)
                return r;
        hall_look_at_tree(agent);

        const LogState *state = log_state(agent->log);
        uint64_t term = state->term, vote = state->vote;
        if (agent->tree_status.applied_term > term) {
                SIM_SEEN("start: the tree is ahead of the log's term");
                term = agent->tree_status.applied_term;
                vote = agent->host.id; /* spent: nobody else can get it any more */
        }
        uint64_t seq = hall_seq(agent);
        r = log_submit_base(agent->log, seq, agent->tree_status.applied, agent->tree_status.applied_term,
                            &agent->tree_status.conf, agent->tree_status.conf_index, term, vote);
        if (r < 0)
                return r;
        return hall_log_wait(agent, seq);
}

int hall_start_raft(Agent *agent, uint64_t term, uint64_t vote) {
        const LogState *state = log_state(agent->log);
        agent->raft = raft_free(agent->raft);
        agent->noted_commit = 0;
        agent->n_core_orders = 0; /* an earlier core's orders are nobody's any more */

        RaftOptions options = {
                .id = agent->host.id,
                .seed = agent->options.seed,
                .heartbeat_usec = agent->options.heartbeat_usec,
                .election_usec = agent->options.election_usec,
                .cache_bytes = agent->options.cache_bytes ?: LIMIT_CACHE_BYTES,
                .uncommitted_bytes = agent->options.uncommitted_bytes ?: LIMIT_UNCOMMITTED_BYTES,
                .life = state->start,
                .damaged = agent->damaged,
        };
        uint64_t seed;
        agent->outside.random(agent->outside.userdata, &seed, sizeof(seed));
        options.seed ^= seed;

        int r = raft_new(&agent->raft, &options);
        if (r < 0)
                return r;
        raft_restore(agent->raft, term, vote, state->base_index, state->base_term, &state->base_conf,
                     state->base_conf_index);
        r = log_replay(agent->log, state->base_index + 1, keep_tail, agent);
        if (r < 0)
                return r;
        r = raft_start(agent->raft, MAX(state->commit, agent->tree_status.applied), hall_now(agent));
        if (r < 0)
                return r;
        raft_status(agent->raft, &agent->raft_status);
        return 0;
}

static int open_existing_tree(Agent *agent) {
        const char *name = log_state(agent->log)->tree_name;
        TreeOptions options = hall_tree_options(agent);
        (void)tree_sweep(&options, NULL);

        int r = hall_open_tree(agent, name);
        if (r == TREE_NEWER) {
                report_say(&agent->report, LOG_ERR,
                           "%s/%s was written by a newer version of treaty, or has applied entries of one. "
                           "Install that version again.",
                           agent->options.state_directory, name);
                return -EPROTONOSUPPORT;
        }
        if (r == TREE_NONE)
                return heal_recover(agent, "is missing");
        if (r == TREE_ROTTEN || r == -EIO)
                return heal_recover(agent, "is damaged");
        if (r == 0 && !agent->host.switching[0] &&
            heal_is_stand_in(&agent->tree_status, log_state(agent->log)))
                return heal_recover(agent, "holds the place of a tree that was bad");
        if (r == 0)
                (void)tree_sweep(&options, name);
        return r > 0 ? -ENOSPC : r;
}

/* There is a tree, but one that nothing leads on from. */
static int give_up_tree(Agent *agent, const char *why) {
        Tree *old = TAKE(agent->tree);
        int r = heal_recover(agent, why);
        tree_abandon(old);
        return r;
}

/* The tree was set back by a crash, and what the log had behind it is rotten: it may know nobody, and then
 * nobody would be let in to help. The book knows what the members were later. */
static bool book_is_ahead(Agent *agent) {
        const LogState *state = log_state(agent->log);

        if ((!agent->damaged && !state->damaged) || agent->host.switching[0])
                return false;
        if (!agent->heal.book && book_load(agent, &agent->heal.book) < 0)
                return false;
        return heal_others_vote(&agent->heal.book->conf, agent->host.id) &&
               agent->heal.book->conf_index > MAX(agent->tree_status.applied, state->last_index);
}

static int bring_together(Agent *agent) {
        const LogState *state = log_state(agent->log);

        if (agent->heal.bad)
                return 0;
        if (book_is_ahead(agent))
                return give_up_tree(agent, "is older than the members that this host knew");
        if (tree_is_in_log(agent))
                return 0;
        if (agent->tree_status.applied < state->base_index) {
                /* Trimming never passes the durable tree, so a disk has lied or was set back. */
                char why[128];
                snprintf(why, sizeof(why), "ends at %llu, before the log begins at %llu",
                         (unsigned long long)agent->tree_status.applied,
                         (unsigned long long)state->base_index);
                return give_up_tree(agent, why);
        }
        return make_base(agent);
}

/* The join is through: log and tree are of one cluster. */
int hall_switched(Agent *agent) {
        HostFile host = agent->host;
        host.switching[0] = 0;
        int r = host_file_save(agent->options.disk, &host);
        if (r < 0)
                return r;
        agent->host = host;
        return 0;
}

/* The process ended in the middle of a join: the tree is the cluster's already, while log, term and vote are
 * of the one that was left. What stands in the log under the same index and term means nothing here. */
static int finish_switch(Agent *agent) {
        if (strcmp(agent->host.switching, log_state(agent->log)->tree_name) == 0) {
                SIM_SEEN("start: killed in the middle of a switch of clusters");
                int r = tree_make_durable(agent);
                if (r < 0)
                        return r;
                hall_look_at_tree(agent);
                const TreeStatus *tree = &agent->tree_status;
                uint64_t seq = hall_seq(agent);
                r = log_submit_base(agent->log, seq, tree->applied, tree->applied_term, &tree->conf,
                                    tree->conf_index, tree->applied_term, agent->host.id);
                if (r >= 0)
                        r = hall_log_wait(agent, seq);
                if (r < 0)
                        return r;
        }
        return hall_switched(agent);
}

/* A log that was in use names its tree. One that does not lost its beginning: founding a cluster on top of
 * it would be a second life beside the first. What others have is fetched, as when the file is lost. */
static int replace_lost_tree(Agent *agent) {
        SIM_SEEN("start: the log names no tree");
        return heal_recover(agent, "is damaged and does not say which tree file is in force");
}

/* The operator gives up what only this log had. A vote may be among it, so the term that is known is spent.
 */
static int accept_damage(Agent *agent) {
        const LogState *state = log_state(agent->log);

        if (!agent->damaged) {
                report_say(&agent->report, LOG_NOTICE, "The log is not damaged: nothing was changed.");
                return 0;
        }
        LogBatch batch = {
                .seq = hall_seq(agent),
                .hard_state = true,
                .healed = true,
                .term = state->term + 1,
                .vote = agent->host.id,
                .commit = state->commit,
        };
        int r = log_submit(agent->log, &batch);
        if (r >= 0)
                r = hall_log_wait(agent, batch.seq);
        if (r < 0)
                return r;
        agent->damaged = false;
        report_say(
                &agent->report, LOG_WARNING,
                "The log is taken as it is, up to index %llu: what stood behind it here, and on no other host, is lost.",
                (unsigned long long)MAX(state->last_index, agent->tree_status.applied));
        return 0;
}

int hall_recover(Agent *agent) {
        int r = open_host_file(agent);
        if (r < 0)
                return r;
        r = open_log(agent);
        if (r < 0)
                return r;

        if (log_state(agent->log)->tree_name[0])
                r = open_existing_tree(agent);
        else if (agent->damaged || log_state(agent->log)->last_index > 0)
                r = replace_lost_tree(agent);
        else
                r = hall_new_tree(agent, !agent->options.join);
        if (r < 0)
                return r;

        bool clean = log_state(agent->log)->clean;
        if (agent->host.switching[0])
                r = finish_switch(agent);
        if (r >= 0)
                r = bring_together(agent);
        if (r < 0)
                return r;

        const LogState *state = log_state(agent->log);
        if (state->damaged)
                agent->damaged = true;
        if (agent->damaged && !state->damaged) {
                uint64_t seq = hall_seq(agent);
                r = log_submit_damage(agent->log, seq, true);
                if (r >= 0)
                        r = hall_log_wait(agent, seq);
                if (r < 0)
                        return r;
        }
        if (agent->options.accept_damage) {
                r = accept_damage(agent);
                if (r < 0)
                        return r;
        }
        r = hall_start_raft(agent, state->term, state->vote);
        if (r < 0)
                return r;

        bool alone = !conf_is_voter(&agent->tree_status.conf, agent->host.id) &&
                     agent->tree_status.conf.n_voters == 0;
        agent->reads.gate = !clean && !alone;
        agent->reads.gate_until_usec = hall_now(agent) + 2 * USEC_PER_SEC;
        return 0;
}
