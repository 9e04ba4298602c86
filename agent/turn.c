/* The turn. Callbacks only note; everything that leaves, leaves from here, in one order:
 *
 *      what the disk finished · the clock · this wake's wishes, offered · the core's update: letters that
 * may leave at once, entries to the log, what was waiting for the disk · committed entries applied, watches
 * fired, callers answered · slow duties · one flush of the network
 *
 * So twenty calls in one wake cost one append per peer and one sync per host. The core keeps promises back
 * until the disk has them, and a caller is answered by his own host's apply: no line here can send a word
 * too early. */
#include "hall.h"

#include <string.h>
#include "base/seen.h"

#define ROUNDS           32 /* of one turn: news made by news; then the network has its turn */
#define COMMIT_USEC      (100 * USEC_PER_MSEC)
#define CHECKPOINT_QUIET (2 * USEC_PER_SEC)
#define CHECKPOINT_MAX   (30 * USEC_PER_SEC)
#define DUTY_USEC        HALL_TICK_USEC

/* ---- What the disk says ---- */

static int core_order_push(Agent *agent, uint64_t seq, uint64_t core_seq) {
        if (agent->n_core_orders == agent->core_orders_size) {
                size_t size = MAX((size_t)64, agent->core_orders_size * 2);
                struct CoreOrder *orders = calloc(size, sizeof(*orders));
                if (!orders)
                        return -ENOMEM;
                for (size_t i = 0; i < agent->n_core_orders; i++)
                        orders[i] =
                                agent->core_orders[(agent->core_orders_head + i) % agent->core_orders_size];
                free(agent->core_orders);
                agent->core_orders = orders;
                agent->core_orders_size = size;
                agent->core_orders_head = 0;
        }
        agent->core_orders[(agent->core_orders_head + agent->n_core_orders++) % agent->core_orders_size] =
                (struct CoreOrder){.seq = seq, .core_seq = core_seq};
        return 0;
}

/* The newest order of the core that is covered by `seq`; 0 when none is. */
static uint64_t core_orders_done(Agent *agent, uint64_t seq) {
        uint64_t core_seq = 0;
        while (agent->n_core_orders > 0 && agent->core_orders[agent->core_orders_head].seq <= seq) {
                core_seq = agent->core_orders[agent->core_orders_head].core_seq;
                agent->core_orders_head = (agent->core_orders_head + 1) % agent->core_orders_size;
                agent->n_core_orders--;
        }
        return core_seq;
}

static void hear_log(Agent *agent) {
        uint64_t seq = 0;
        bool full = false;

        int r = log_completed(agent->log, &seq, &full);
        if (r < 0) {
                hall_fail(agent, r, "The log cannot be written");
                return;
        }
        if (full != agent->log_full) {
                agent->log_full = full;
                SIM_SEEN("turn: the log runs out of room, or finds some");
                agent->status_dirty = true;
                report_say(
                        &agent->report, full ? LOG_ERR : LOG_NOTICE,
                        full ? "The disk is full: writes are refused, reads go on. Free some space; nothing is lost."
                             : "There is room on the disk again.");
        }
        if (seq > agent->stored_seq) {
                agent->stored_seq = seq;
                uint64_t core_seq = core_orders_done(agent, seq);
                r = core_seq != 0 ? raft_stored(agent->raft, core_seq, agent->now_usec) : 0;
                if (r < 0)
                        hall_fail(agent, r, "The core ran out of memory");
                heal_stored(agent, seq);
                if (agent->lost_seq != 0 && seq >= agent->lost_seq)
                        hall_fail(agent, -EUCLEAN, "The log has lost writes");
                snapshot_stored(agent, seq);
                roles_stored(agent, seq);
        }
}

static void hear_tree(Agent *agent) {
        if (agent->heal.suspect || agent->heal.dead) {
                /* It is not asked for anything any more; but its thread was at work, and what stays unread
                 * would wake the loop again and again. */
                tree_take_news(agent->tree);
                return;
        }
        int r = tree_maintain(agent->tree);
        if (r < 0 && hall_tree_failed(agent, r, "it cannot be maintained") < 0)
                return;
        if (r == TREE_FULL)
                hall_taken_back(agent);
        hall_look_at_tree(agent);
        bool full = agent->log_full || agent->full_usec != 0;
        if (full != agent->disk_full)
                agent->disk_full = full, agent->status_dirty = true;
}

/* ---- The core ---- */

static void send_messages(Agent *agent, const RaftUpdate *update) {
        for (size_t i = 0; i < update->n_messages; i++) {
                Letter letter = {.kind = LETTER_RAFT, .raft = update->messages[i]};
                words_give(agent, &letter.raft);
                (void)hall_send(agent, letter.raft.to, &letter);
        }
}

/* Others work on what we send while we do what is left of the turn: so it leaves before the log's thread is
 * woken and before anything is applied. Beats are in no hurry unless they tell that something is committed;
 * a leader whose own callers wait for that answers them first. */
static void flush_early(Agent *agent, const RaftUpdate *update) {
        bool leads = agent->raft_status.role == RAFT_LEADER;
        bool urgent = update->commit > agent->noted_commit && (!leads || !agent->requests.offered);
        for (size_t i = 0; i < update->n_messages && !urgent; i++)
                urgent =
                        update->messages[i].type != RAFT_BEAT && update->messages[i].type != RAFT_BEAT_REPLY;
        if (urgent && update->n_messages > 0)
                agent->outside.flush(agent->outside.userdata);
}

static void store(Agent *agent, const RaftUpdate *update) {
        const RaftStore *order = &update->store;
        if (order->seq == 0)
                return;

        LogBatch batch = {
                .seq = hall_seq(agent),
                .truncate_from = order->truncate_from,
                .entries = order->entries,
                .n_entries = order->n_entries,
                .hard_state = order->hard_state,
                .healed = order->healed,
                .term = order->term,
                .vote = order->vote,
                .commit = update->commit,
        };
        /* A leader's own disk alone decides nothing: the first answer of a peer wakes it anyway. */
        bool patient = agent->raft_status.role == RAFT_LEADER && agent->raft_status.conf->n_voters > 1 &&
                       batch.seq == agent->stored_seq + 1;
        if (patient != agent->patient)
                log_be_patient(agent->log, agent->patient = patient);
        int r = core_order_push(agent, batch.seq, order->seq);
        if (r >= 0)
                r = log_submit(agent->log, &batch);
        if (r < 0)
                hall_fail(agent, r, "The log takes nothing");
}

uint32_t core_forgot(const Agent *agent, uint64_t from, uint32_t max) {
        uint32_t n = 1;
        while (n < max && from + n <= agent->raft_status.commit && !raft_entry(agent->raft, from + n))
                n++;
        return n;
}

/* A slow peer needs entries that are no longer in memory: read back from the log's files. */
static void load(Agent *agent, const RaftLoad *wanted) {
        Entry *entries[LIMIT_APPEND_ENTRIES];
        uint32_t n = MIN(wanted->max_entries, (uint32_t)ELEMENTSOF(entries));

        int r = log_load(agent->log, wanted->from, n, wanted->max_bytes, entries);
        if (r < 0) {
                hall_fail(agent, r, "The log cannot be read back");
                return;
        }
        int l = raft_loaded(agent->raft, wanted->peer, entries, (size_t)r, agent->now_usec);
        for (int i = 0; i < r; i++)
                entry_unref(entries[i]);
        if (l < 0)
                hall_fail(agent, l, "The core ran out of memory");
        agent->again = true;
}

/* Raft pushes snapshots; here the leader says "fetch", and the peer fetches on a connection of its own. */
static void offer_snapshot(Agent *agent, uint64_t peer) {
        if (snapshot_sent(agent, peer)) {
                roles_view(agent, peer)->fetch_usec = agent->now_usec;
                return; /* snapshot_watch() asks again */
        }
        Letter letter = {
                .kind = LETTER_FETCH,
                .promote = {.term = agent->raft_status.term, .index = agent->tree_status.applied},
        };
        if (hall_send(agent, peer, &letter) < 0)
                (void)raft_snapshot_done(agent->raft, peer, 0, false, agent->now_usec);
        else
                roles_view(agent, peer)->fetch_usec = agent->now_usec;
}

/* A term of our own begins: cluster time goes on from the newest stamp that any entry here bears. Before the
 * first proposal of the term, which may come in the very round in which the vote was won. */
static void leadership_begins(Agent *agent) {
        const RaftStatus *status = &agent->raft_status;
        if (status->role != RAFT_LEADER || agent->led_term == status->term)
                return;

        uint64_t origin = agent->tree_status.cluster_usec;
        for (uint64_t i = MAX(agent->tree_status.applied, status->base_index) + 1; i <= status->last_index;
             i++) {
                Entry *entry = raft_entry(agent->raft, i);
                EntryStamp stamp;
                if (entry && entry->type == ENTRY_COMMAND && entry_stamp_read(entry, &stamp) == 0)
                        origin = MAX(origin, stamp.cluster_usec);
        }
        agent->led_term = status->term;
        agent->leader_since_usec = agent->now_usec;
        agent->cluster_origin_usec = origin;
        offers_reset(agent);
}

/* What the core knows of damage, said once. */
static void look_at_damage(Agent *agent) {
        const RaftStatus *status = &agent->raft_status;

        if (agent->damaged && !status->damaged) {
                agent->damaged = false;
                agent->status_dirty = true;
                report_say(&agent->report, LOG_NOTICE,
                           "The log is whole again, up to index %llu: this host votes.",
                           (unsigned long long)status->durable);
        }
        if (status->lost && agent->lost_seq == 0 && !agent->quarantined) {
                report_say(
                        &agent->report, LOG_CRIT,
                        "The others know that this host acknowledged more than its log has: the disk has lost writes, or is "
                        "an older one. Starting anew as damaged.");
                agent->lost_seq = hall_seq(agent);
                int r = log_submit_damage(agent->log, agent->lost_seq, true);
                if (r < 0)
                        hall_fail(agent, r, "The log takes nothing");
        }
        if (status->halted != agent->damage_halts) {
                agent->damage_halts = status->halted;
                agent->status_dirty = true;
                if (status->halted)
                        report_say(
                                &agent->report, LOG_CRIT,
                                "So many voters have a damaged log that no majority is left: nothing is decided any "
                                "more, reads go on. Bring back voters that are down; when there is none, "
                                "\"treatyd --accept-damage\" on a damaged one (see treatyd(8)) gives up what only it "
                                "had.");
        }
}

static void look_at_core(Agent *agent) {
        raft_status(agent->raft, &agent->raft_status);
        look_at_damage(agent);
        leadership_begins(agent);
}

static void role_changed(Agent *agent) {
        const RaftStatus *status = &agent->raft_status;
        struct RoleTold *told = &agent->role_told;

        agent->status_dirty = true;
        agent->members.redial = true;
        if (status->role != told->role || status->term != told->term || status->leader != told->leader)
                report_say(&agent->report, LOG_INFO, "Term %llu: %s, leader %016llx.",
                           (unsigned long long)status->term, raft_role_name(status->role),
                           (unsigned long long)status->leader);
        *told = (struct RoleTold){.role = status->role, .term = status->term, .leader = status->leader};

        /* Once in a configuration (it is enough that it was appended), this host keeps a log and no longer
         * follows. */
        bool voter = conf_is_voter(status->conf, agent->host.id);
        if (voter && agent->follow.active && status->keeps_log) {
                follow_end(agent);
                agent->follow.active = false;
        } else if (!voter && !agent->follow.active && status->conf_committed &&
                   status->role == RAFT_PASSIVE && agent->roles.promoted_usec == 0) {
                agent->follow.active = true;
                agent->follow.heard_usec = agent->now_usec;
                agent->demote = true;
        }
}

/* The log was ordered to begin behind the tree, and the core does not know yet: what it would order now
 * follows the old log, and its vote is from before the base spent it. */
static bool core_is_held(const Agent *agent) {
        return agent->snapshots.fetch.base_seq != 0 || agent->roles.promote_seq != 0;
}

static void update_core(Agent *agent) {
        RaftUpdate update;

        if (core_is_held(agent))
                return;
        int r = raft_update(agent->raft, agent->now_usec, &update);
        if (r < 0) {
                hall_fail(agent, r, "The core ran out of memory");
                return;
        }
        look_at_core(agent);
        send_messages(agent, &update);
        flush_early(agent, &update);
        store(agent, &update);
        if (update.commit > agent->noted_commit) {
                /* Behind the batch that holds those entries: after 100 ms of quiet the log writes it down.
                 */
                log_note_commit(agent->log, update.commit);
                agent->noted_commit = update.commit;
        }
        agent->raft_deadline_usec = update.deadline_usec;
        for (size_t i = 0; i < update.n_reads; i++)
                reads_done(agent, &update.reads[i]);

        /* The arrays above live until the next event; what makes events comes last, from copies. */
        RaftLoad loads[LIMIT_VOTERS * 3];
        uint64_t snapshots[LIMIT_VOTERS * 3];
        size_t n_loads = MIN(update.n_loads, ELEMENTSOF(loads)),
               n_snapshots = MIN(update.n_snapshots, ELEMENTSOF(snapshots));
        memcpy(loads, update.loads, n_loads * sizeof(RaftLoad));
        memcpy(snapshots, update.snapshots, n_snapshots * sizeof(uint64_t));
        bool changed = update.role_changed;
        for (size_t i = 0; i < n_loads; i++)
                load(agent, &loads[i]);
        for (size_t i = 0; i < n_snapshots; i++)
                offer_snapshot(agent, snapshots[i]);
        if (changed)
                role_changed(agent);
}

static void tick_core(Agent *agent) {
        if (agent->now_usec < agent->raft_deadline_usec || core_is_held(agent))
                return;
        int r = raft_tick(agent->raft, agent->now_usec);
        if (r < 0)
                hall_fail(agent, r, "The core ran out of memory");
}

/* ---- The open transaction ---- */

static void commit_tree(Agent *agent) {
        bool urgent = false;
        if (!heal_may_touch(agent))
                return;
        if (!tree_dirty(agent->tree, &urgent)) {
                agent->commit_usec = 0;
                /* Nothing was taken back that could be tried again: it is over when nobody complains. */
                if (agent->full_usec != 0 && agent->now_usec - agent->full_usec > USEC_PER_SEC &&
                    agent->tree_status.applied >= agent->applied_high)
                        agent->full_usec = 0;
                return;
        }
        if (agent->commit_usec == 0)
                agent->commit_usec = agent->now_usec + COMMIT_USEC;
        if (!urgent && agent->now_usec < agent->commit_usec)
                return;

        int r = tree_commit(agent->tree);
        hall_look_at_tree(agent);
        agent->commit_usec = 0;
        if (r == TREE_FULL) {
                SIM_SEEN("turn: a full disk takes the open transaction back");
                hall_taken_back(agent);
                return;
        }
        if (r != 0) {
                (void)hall_tree_failed(agent, r, "it cannot be written");
                return;
        }
        agent->full_usec = 0;
        raft_release(agent->raft, agent->tree_status.committed);
        if (agent->checkpoint_usec == 0)
                agent->checkpoint_usec = agent->now_usec + CHECKPOINT_MAX;
}

static void checkpoint_tree(Agent *agent) {
        if (!heal_may_touch(agent) || agent->checkpoint_usec == 0 ||
            agent->tree_status.durable >= agent->tree_status.applied)
                return;
        bool quiet = agent->now_usec - agent->changed_usec >= CHECKPOINT_QUIET;
        if (!quiet && agent->now_usec < agent->checkpoint_usec)
                return;
        tree_checkpoint(agent->tree);
        agent->checkpoint_usec = agent->now_usec + CHECKPOINT_MAX;
}

/* Only behind the tree's durable index, and with room for peers that were away for a while. */
static void trim_log(Agent *agent) {
        const uint64_t room = 50000;
        uint64_t index = agent->tree_status.durable;

        if (agent->follow.active || agent->heal.bad)
                return;
        uint64_t slowest = index;
        for (size_t i = 0; i < agent->raft_status.n_progress; i++)
                if (!agent->raft_status.progress[i].leaves)
                        slowest = MIN(slowest, agent->raft_status.progress[i].match);
        uint64_t kept = agent->raft_status.last_index > room ? agent->raft_status.last_index - room : 0;
        index = MIN(index, MAX(slowest, kept));
        if (index > agent->trimmed) {
                log_trim(agent->log, index);
                agent->trimmed = index;
        }
        const LogState *state = log_state(agent->log);
        if (state->base_index > agent->raft_status.base_index) {
                SIM_SEEN("turn: the log is trimmed");
                raft_trimmed(agent->raft, state->base_index);
        }
}

/* A host that votes no more keeps term and vote for ever, entries only until its own tree has passed them
 * for good. */
static void drop_tail(Agent *agent) {
        if (!agent->demote || !agent->follow.active || !heal_may_touch(agent))
                return;
        const TreeStatus *tree = &agent->tree_status;
        if (tree->durable < tree->applied || tree->applied < tree->conf_index ||
            conf_is_voter(&tree->conf, agent->host.id))
                return;
        /* A base keeps a tail that follows it; the tree has to be past the tail, or log and core would part.
         */
        if (tree->applied < agent->raft_status.last_index)
                return;
        /* So they would if the core still campaigned: it keeps its log until it is passive. */
        if (agent->raft_status.role != RAFT_PASSIVE)
                return;
        if (hall_submit_base(agent, hall_seq(agent)) < 0)
                return;
        agent->demote = false;
        raft_demoted(agent->raft);
        raft_spent(agent->raft, tree->applied_term);
        raft_observe(agent->raft, tree->applied, tree->applied_term, &tree->conf, tree->conf_index);
}

/* ---- History ---- */

#define PRUNE_USEC (60 * USEC_PER_SEC)
#define PRUNE_AGE  (3600 * USEC_PER_SEC)
#define PRUNE_KEEP UINT64_C(10000)

/* The leader remembers which revision was newest when, and proposes a floor an hour behind. Looked at so
 * often that the places for what it remembers reach as far back. */
static void prune_history(Agent *agent) {
        if (!hall_is_ready_leader(agent) || agent->now_usec < agent->prune_usec)
                return;
        uint64_t age = agent->options.history_usec ?: PRUNE_AGE;
        uint64_t keep = agent->options.history_changes ?: PRUNE_KEEP;
        agent->prune_usec = agent->now_usec + MIN(PRUNE_USEC, age / 10);

        uint64_t now = hall_cluster_usec(agent), revision = agent->tree_status.revision, floor = 0;
        for (unsigned i = 0; i < agent->n_prune; i++)
                if (now - agent->prune[i].cluster_usec >= age)
                        floor = MAX(floor, agent->prune[i].revision);
        floor = revision > keep ? MIN(floor, revision - keep) : 0;
        if (floor > agent->tree_status.floor) {
                Command command = {.kind = COMMAND_PRUNE, .host = agent->host.id, .revision = floor};
                (void)hall_propose_own(agent, &command);
        }

        if (agent->n_prune > 0 && agent->prune[agent->n_prune - 1].revision == revision)
                return;
        if (agent->n_prune == ELEMENTSOF(agent->prune))
                memmove(agent->prune, agent->prune + 1, --agent->n_prune * sizeof(agent->prune[0]));
        agent->prune[agent->n_prune++] = (struct PruneSample){.cluster_usec = now, .revision = revision};
}

/* ---- The turn ---- */

/* A leader that can store nothing leads nobody: somebody with room takes over. */
static void leave_full_disk(Agent *agent) {
        if (agent->log_full && hall_is_leader(agent) && agent->raft_status.conf->n_voters > 1 &&
            !agent->raft_status.transferring)
                (void)raft_transfer(agent->raft, 0, agent->now_usec);
}

static void work_duties(Agent *agent) {
        if (agent->now_usec < agent->duty_usec && !agent->members.dirty && !agent->members.redial)
                return;
        agent->duty_usec = agent->now_usec + DUTY_USEC;
        sessions_work(agent);
        members_work(agent);
        roles_work(agent);
        standing_work(agent);
        snapshot_watch(agent);
        join_work(agent);
        follow_work(agent);
        checks_work(agent);
        scrub_work(agent);
        leave_full_disk(agent);
        prune_history(agent);
        checkpoint_tree(agent);
        trim_log(agent);
        drop_tail(agent);
}

static void turn_round(Agent *agent) {
        agent->again = false;
        agent->now_usec = hall_now(agent);

        hear_log(agent);
        if (agent->failed != 0)
                return; /* perhaps without a tree */
        hear_tree(agent);
        snapshot_work(agent);
        heal_work(agent);
        if (agent->failed != 0)
                return;
        tick_core(agent);
        look_at_core(agent);
        sessions_hurry(agent);
        requests_time_out(agent);
        requests_offer(agent);
        reads_start(agent);
        update_core(agent);
        hall_apply(agent);
        if (agent->failed != 0)
                return; /* the tree was set back to its last COMMIT: nobody may read it, here or elsewhere */
        sessions_tell_alive(agent);
        reads_fire(agent);
        watches_catch_up(agent);
        follow_serve(agent);
        snapshot_serve(agent);
        work_duties(agent);
        scrub_orders(agent);
        commit_tree(agent);
}

static uint64_t earliest(const uint64_t *deadlines, size_t n) {
        uint64_t first = deadlines[0];
        for (size_t i = 1; i < n; i++)
                first = MIN(first, deadlines[i]);
        return first;
}

/* What work_duties() will do, it does when they are due: to be called earlier would only be to be called
 * again. */
static uint64_t duties_deadline(const Agent *agent) {
        uint64_t deadline = earliest(
                (const uint64_t[]){
                        sessions_deadline(agent),
                        roles_deadline(agent),
                        follow_deadline(agent),
                        join_deadline(agent),
                        standing_deadline(agent),
                },
                5);
        if (agent->checkpoint_usec != 0 && agent->tree_status.durable < agent->tree_status.applied)
                deadline =
                        MIN(deadline, MIN(agent->checkpoint_usec, agent->changed_usec + CHECKPOINT_QUIET));
        return MAX(deadline, agent->duty_usec);
}

static uint64_t next_deadline(const Agent *agent) {
        return earliest(
                (const uint64_t[]){
                        core_is_held(agent) ? USEC_INFINITY : agent->raft_deadline_usec,
                        requests_deadline(agent),
                        reads_deadline(agent),
                        watches_deadline(agent),
                        duties_deadline(agent),
                        heal_deadline(agent),
                        snapshot_deadline(agent),
                        scrub_deadline(agent),
                        agent->commit_usec != 0 ? agent->commit_usec : USEC_INFINITY,
                        /* Slow duties that nothing announces: membership addresses, pruning,
                         * promotion. */
                        agent->now_usec + USEC_PER_SEC,
                },
                10);
}

int agent_turn(Agent *agent) {
        if (agent->failed != 0)
                return agent->failed;

        agent->in_turn = true;
        agent->now_usec = hall_now(agent);
        uint64_t seq = agent->seq;
        unsigned round = 0;
        do {
                turn_round(agent);
                if (agent->failed != 0)
                        break;
        } while (agent->again && ++round < ROUNDS);

        /* Woken, and the disk was not done yet: perhaps all others wait for it now. */
        if (agent->patient && agent->seq == seq && agent->stored_seq < seq)
                log_be_patient(agent->log, agent->patient = false);
        agent->outside.flush(agent->outside.userdata);
        agent->deadline_usec = agent->again ? 0 : next_deadline(agent);
        agent->last_turn_usec = agent->now_usec;
        if (agent->failed == 0 && TAKE_FLAG(agent->status_dirty) && agent->changed)
                agent->changed(agent->changed_userdata);
        agent->in_turn = false;
        if (agent->failed == 0 && agent->again)
                agent->outside.wake(agent->outside.userdata);
        return agent->failed;
}

uint64_t agent_deadline(const Agent *agent) {
        return agent->deadline_usec;
}
