/* A tree travels. The server pins its tree and sends it in short chunks on a bulk connection while it goes
 * on applying; the receiver builds a new file beside its own, verifies and syncs it, and then one log record
 * names it: that is the switch. Behind it the log is empty and begins at the snapshot (a base). A break in
 * between costs nothing but time.
 *
 * A host that joins takes the cluster's tree the same way; then terms and votes begin anew, for they belong
 * to the cluster that gave them. */
#include "hall.h"

#include <stdio.h>
#include <string.h>
#include "base/seen.h"

#define MAX_SENDS   4
#define FETCH_USEC  (10 * 60 * USEC_PER_SEC)
#define RETRY_USEC  (500 * USEC_PER_MSEC)
#define FINISH_USEC (10 * USEC_PER_MSEC) /* a fetched tree that is being synced is asked for this often */
#define TOLD_USEC   (2 * USEC_PER_SEC)
#define NEWER_USEC  (10 * USEC_PER_SEC) /* what this host is too old for is asked for this seldom */
#define OPEN_USEC                                                                                         \
        (200 * USEC_PER_MSEC) /* a peer that has one in whole is asked this often whether it stands on it \
                               */
#define SENT_USEC (30 * USEC_PER_SEC) /* … for so long; then it gets another */

/* ---- Sending ---- */

static void send_free(SnapshotSend *send) {
        Snapshots *snapshots = &send->agent->snapshots;
        DL_DELETE(snapshots->sends, send);
        snapshots->n_sends--;
        tree_snapshot_free(send->snapshot);
        free(send);
}

static void send_end(SnapshotSend *send, PeersStatus status, const char *text) {
        Agent *agent = send->agent;
        PeersCall *call = send->call;
        uint64_t host = send->host, index = tree_snapshot_index(send->snapshot);

        send_free(send);
        PeersCallEvents none = {};
        agent->outside.call_set_events(agent->outside.userdata, call, &none);
        agent->outside.call_end(agent->outside.userdata, call, status, text);
        if (status == PEERS_OK) {
                RoleView *view = roles_view(agent, host);
                view->sent_usec = agent->now_usec;
                view->sent_index = index;
        }
        (void)raft_snapshot_done(agent->raft, host, index, status == PEERS_OK, agent->now_usec);
}

/* Between the last byte and the moment in which the peer stands on its new tree lie a check of it and some
 * syncs. Until then it refuses what follows: no reason to send everything once more, which under load would
 * never end. */
bool snapshot_sent(Agent *agent, uint64_t host) {
        const RoleView *view = roles_view(agent, host);
        return view->sent_usec != 0 && agent->now_usec - view->sent_usec < SENT_USEC &&
               view->sent_index >= agent->raft_status.base_index;
}

static void receiver_gone(PeersCall *call, PeersStatus status, const char *text, void *userdata) {
        SnapshotSend *send = userdata;
        Agent *agent = send->agent;
        uint64_t host = send->host;

        SIM_SEEN("snapshot: the receiver went");
        send_free(send);
        if (agent->failed == 0)
                (void)raft_snapshot_done(agent->raft, host, 0, false, hall_now(agent));
}

static void receiver_writable(PeersCall *call, void *userdata) {
        SnapshotSend *send = userdata;
        send->full = false;
        hall_wake(send->agent);
}

/* A host takes one at a time: who asks again has given up the earlier one. So no host holds all places. */
static void end_earlier(Agent *agent, uint64_t host) {
        SnapshotSend *send, *next;
        DL_FOREACH_SAFE (agent->snapshots.sends, send, next)
                if (send->host == host)
                        send_end(send, PEERS_UNAVAILABLE, "asked for anew");
}

void snapshot_called(Agent *agent, PeersCall *call, uint64_t host) {
        Outside *outside = &agent->outside;
        Snapshots *snapshots = &agent->snapshots;

        end_earlier(agent, host);

        if (snapshots->n_sends >= MAX_SENDS || agent->removed || agent->quarantined ||
            agent->tree_status.conf.n_voters == 0 || !heal_may_touch(agent)) {
                SIM_SEEN("snapshot: none to give now");
                outside->call_end(outside->userdata, call, PEERS_EXHAUSTED,
                                  "busy with other snapshots, or none to give");
                return;
        }
        SnapshotSend *send = calloc(1, sizeof(SnapshotSend));
        int r = send ? tree_snapshot_begin(agent->tree, &send->snapshot) : -ENOMEM;
        if (r != 0) {
                free(send);
                outside->call_end(outside->userdata, call, PEERS_INTERNAL, "a snapshot cannot be begun");
                if (r == TREE_FULL) {
                        SIM_SEEN("snapshot: no room to end the open transaction first");
                        agent->now_usec = hall_now(agent);
                        hall_taken_back(agent);
                } else if (r == TREE_ROTTEN)
                        heal_suspect(agent, false, "it cannot be read, to be sent to another host");
                return;
        }
        send->agent = agent;
        send->call = call;
        send->host = host;
        DL_APPEND(snapshots->sends, send);
        snapshots->n_sends++;
        PeersCallEvents events = {.end = receiver_gone, .writable = receiver_writable, .userdata = send};
        outside->call_set_events(outside->userdata, call, &events);

        SnapshotHead head = {
                .index = tree_snapshot_index(send->snapshot),
                .term = tree_snapshot_term(send->snapshot),
        };
        memcpy(head.cluster, agent->tree_status.cluster, sizeof(head.cluster));
        _cleanup_(buffer_deinit) Buffer bytes = {};
        if (wire_snapshot_head_encode(&head, &bytes) < 0 ||
            outside->call_send(outside->userdata, call, BYTES(bytes.data, bytes.size)) < 0)
                send_end(send, PEERS_INTERNAL, "a snapshot cannot be sent");
        hall_wake(agent);
}

static void send_chunk(SnapshotSend *send) {
        Agent *agent = send->agent;
        _cleanup_(buffer_deinit) Buffer chunk = {};
        bool done = false;

        int r = tree_snapshot_next(send->snapshot, &chunk, &done);
        if (r != 0) {
                SIM_SEEN("snapshot: given up under way");
                send_end(send, PEERS_UNAVAILABLE, "the snapshot was given up; begin again");
                if (r == TREE_ROTTEN) /* and no later one would come to its end */
                        heal_suspect(agent, false,
                                     "it cannot be read as a whole, to be sent to another host");
                return;
        }
        r = agent->outside.call_send(agent->outside.userdata, send->call, BYTES(chunk.data, chunk.size));
        if (r < 0)
                send_end(send, PEERS_UNAVAILABLE, "the snapshot cannot be sent");
        else if (done)
                send_end(send, PEERS_OK, "");
        else
                send->full = r == 1;
}

void snapshot_serve(Agent *agent) {
        SnapshotSend *send, *next;
        DL_FOREACH_SAFE (agent->snapshots.sends, send, next)
                if (!send->full)
                        send_chunk(send);
        for (send = agent->snapshots.sends; send; send = send->next)
                if (!send->full)
                        agent->again = true;
}

/* The word "fetch" can be lost, or come while the peer is about to switch to an earlier one: probed again.
 */
void snapshot_watch(Agent *agent) {
        for (size_t i = 0; i < agent->raft_status.n_progress; i++) {
                const RaftProgress *progress = &agent->raft_status.progress[i];
                RoleView *view = roles_view(agent, progress->id);
                bool sent = snapshot_sent(agent, progress->id);
                if (!progress->in_snapshot ||
                    agent->now_usec - view->fetch_usec < (sent ? OPEN_USEC : TOLD_USEC))
                        continue;
                SnapshotSend *send = agent->snapshots.sends;
                while (send && send->host != progress->id)
                        send = send->next;
                if (!send) {
                        view->fetch_usec = agent->now_usec;
                        (void)raft_snapshot_done(agent->raft, progress->id, sent ? view->sent_index : 0,
                                                 sent, agent->now_usec);
                        agent->again = true;
                        return; /* the list is of before */
                }
        }
}

/* ---- Fetching ---- */

bool snapshot_fetching(const Agent *agent) {
        const SnapshotFetch *fetch = &agent->snapshots.fetch;
        return fetch->call || fetch->finishing || fetch->switch_seq != 0 || fetch->base_seq != 0;
}

static void fetch_give_up(Agent *agent, const char *why) {
        SnapshotFetch *fetch = &agent->snapshots.fetch;

        fetch->finishing = false;
        if (fetch->call)
                agent->outside.call_free(agent->outside.userdata, TAKE(fetch->call));
        fetch->build = tree_build_free(fetch->build);
        fetch->retry_usec = agent->now_usec + RETRY_USEC;
        if (!fetch->foreign) {
                fetch->again = true;
                fetch->retry_usec = agent->now_usec + (RETRY_USEC << MIN(agent->snapshots.n_failures++, 4u));
        }
        if (why)
                report_say(&agent->report, LOG_WARNING,
                           "The snapshot from %016llx is of no use: %s. It is fetched again.",
                           (unsigned long long)fetch->from, why);
}

/* In it are entries applied that this host does not know: to stand on it would be to skip them. */
static void fetch_is_newer(Agent *agent) {
        SnapshotFetch *fetch = &agent->snapshots.fetch;
        SIM_SEEN("snapshot: a tree that this host is too old for");
        if (fetch->foreign || !agent->halted)
                report_say(
                        &agent->report, LOG_ERR,
                        "The tree of %016llx is not taken in the place of %s/%s: it holds what only a newer version of "
                        "treaty understands. %s. Upgrade it.",
                        (unsigned long long)fetch->from, agent->options.state_directory, agent->tree_name,
                        fetch->foreign ? "This host cannot join before"
                                       : "This host stops applying, reads go on");
        if (!fetch->foreign)
                agent->halted = agent->status_dirty = true;
        fetch_give_up(agent, NULL);
        fetch->retry_usec = agent->now_usec + NEWER_USEC;
}

static bool source_was_bad(const Snapshots *snapshots, uint64_t host) {
        for (unsigned i = 0; i < snapshots->n_bad; i++)
                if (snapshots->bad[i] == host)
                        return true;
        return false;
}

static void fetch_was_bad(Agent *agent, const char *why) {
        Snapshots *snapshots = &agent->snapshots;
        if (!source_was_bad(snapshots, snapshots->fetch.from)) {
                if (snapshots->n_bad == ELEMENTSOF(snapshots->bad))
                        snapshots->n_bad = 0; /* of voters that went, perhaps */
                snapshots->bad[snapshots->n_bad++] = snapshots->fetch.from;
        }
        fetch_give_up(agent, why);
}

/* Whose tree was of no use, be it the leader's, is not asked while another voter can be: until the trees are
 * compared, which needs those that lag behind, nobody else knows that it is bad. When all who can be asked
 * were bad it begins anew. */
static uint64_t better_source(Agent *agent, uint64_t from) {
        const Conf *conf = agent->raft_status.conf;

        if (!source_was_bad(&agent->snapshots, from))
                return from;
        for (uint32_t i = 0; i < conf->n_voters; i++) {
                uint64_t id = conf->voters[(agent->snapshots.turn + i) % conf->n_voters].id;
                if (id == agent->host.id || source_was_bad(&agent->snapshots, id) ||
                    !members_connection(agent, id) || checks_host_is_bad(agent, id))
                        continue;
                SIM_SEEN("snapshot: another is asked than the one whose tree was bad");
                agent->snapshots.turn += i + 1;
                return id;
        }
        agent->snapshots.n_bad = 0;
        return from;
}

/* The leader may have sent all of it, and waits for us to stand on it: nobody else would ask again,
 * whoever's tree was tried meanwhile. Others ask again themselves. */
static bool fetch_is_owed(const Agent *agent) {
        const SnapshotFetch *fetch = &agent->snapshots.fetch;
        return fetch->again && !snapshot_fetching(agent) && agent->raft_status.leader == fetch->asked;
}

uint64_t snapshot_deadline(const Agent *agent) {
        const SnapshotFetch *fetch = &agent->snapshots.fetch;
        if (fetch->finishing)
                return agent->now_usec + FINISH_USEC;
        return fetch_is_owed(agent) ? fetch->retry_usec : USEC_INFINITY;
}

void snapshot_cancel(Agent *agent) {
        SnapshotFetch *fetch = &agent->snapshots.fetch;
        if (fetch->foreign && (fetch->call || fetch->finishing))
                fetch_give_up(agent, NULL);
}

/* Noted before the log names the file: whoever finds both knows that the log's entries are of another
 * cluster. */
static int note_switch(Agent *agent, const char *name) {
        HostFile host = agent->host;
        snprintf(host.switching, sizeof(host.switching), "%s", name);
        int r = host_file_save(agent->options.disk, &host);
        if (r >= 0)
                agent->host = host;
        return r;
}

static void chunk_arrived(PeersCall *call, Bytes bytes, void *userdata) {
        Agent *agent = userdata;
        SnapshotFetch *fetch = &agent->snapshots.fetch;

        if (!fetch->head_seen) {
                SnapshotHead head;
                if (wire_snapshot_head_decode(bytes, &head) < 0)
                        return fetch_give_up(agent, "its head is malformed");
                const uint8_t *cluster =
                        fetch->foreign ? agent->join.token.cluster : agent->tree_status.cluster;
                if (memcmp(head.cluster, cluster, sizeof(head.cluster)) != 0)
                        return fetch_give_up(agent, "it is of another cluster");
                if (!fetch->foreign && head.index < heal_oldest(agent))
                        return fetch_give_up(agent, NULL); /* what is here went on meanwhile */
                fetch->head_seen = true;
                return;
        }
        int r = tree_build_feed(fetch->build, bytes);
        if (r == TREE_ROTTEN)
                fetch_was_bad(agent, "a chunk is malformed");
        else if (r == TREE_NEWER)
                fetch_is_newer(agent);
        else if (r != 0)
                fetch_give_up(agent, "it cannot be written here (disk full?)");
}

static void fetch_ended(PeersCall *call, PeersStatus status, const char *text, void *userdata) {
        Agent *agent = userdata;
        SnapshotFetch *fetch = &agent->snapshots.fetch;

        fetch->call = NULL;
        agent->now_usec = hall_now(agent);
        hall_wake(agent);
        if (status != PEERS_OK)
                return fetch_give_up(agent, fetch->head_seen ? text : NULL);

        /* Checked and synced beside the loop: a large tree takes seconds. */
        if (tree_build_finish_begin(fetch->build) < 0)
                return fetch_give_up(agent, "it cannot be finished (out of memory?)");
        fetch->finishing = true;
}

/* The turn looks whether the tree is whole and on the disk; then the record that names it is next. */
void snapshot_work(Agent *agent) {
        SnapshotFetch *fetch = &agent->snapshots.fetch;

        if (fetch_is_owed(agent) && agent->now_usec >= fetch->retry_usec) {
                SIM_SEEN("snapshot: asked for again after a failure here");
                (void)snapshot_fetch(agent, fetch->asked, false);
        }
        if (!fetch->finishing)
                return;
        int r = tree_build_finish_take(fetch->build, fetch->name, &fetch->index, &fetch->term);
        if (r == -EAGAIN)
                return;
        fetch->finishing = false;
        fetch->build = tree_build_free(fetch->build);
        if (r == TREE_ROTTEN)
                return fetch_was_bad(agent, "its digest is wrong, or the disk gave back something else");
        if (r != 0)
                return fetch_give_up(agent, "it cannot be written here (disk full?)");
        if (!fetch->foreign && fetch->index < heal_oldest(agent))
                return fetch_give_up(agent, "it is older than what this host has");
        if (!fetch->foreign && hall_is_leader(agent) && !agent->heal.bad)
                return fetch_give_up(agent, NULL); /* it was asked for before, and a leader has its own */

        if (fetch->foreign && !join_may_switch(agent))
                return fetch_give_up(agent, "the join is over");
        if (fetch->foreign && note_switch(agent, fetch->name) < 0)
                return fetch_give_up(agent, "the host file cannot be written (disk full?)");

        uint64_t seq = hall_seq(agent);
        r = log_submit_tree(agent->log, seq, fetch->name);
        if (r < 0) {
                hall_fail(agent, r, "The log takes nothing");
                return;
        }
        fetch->switch_seq = seq;
        agent->snapshots.n_failures = 0;
        agent->snapshots.n_bad = 0;
        SIM_SEEN("snapshot: built, and about to be switched in");
}

int snapshot_fetch(Agent *agent, uint64_t from, bool foreign) {
        SnapshotFetch *fetch = &agent->snapshots.fetch;

        if (snapshot_fetching(agent) || agent->now_usec < fetch->retry_usec)
                return -EAGAIN;
        uint64_t asked = from;
        if (!foreign)
                from = better_source(agent, from);
        *fetch = (SnapshotFetch){.asked = asked, .from = from, .foreign = foreign};
        TreeOptions options = hall_tree_options(agent);
        int r = tree_build_begin(&options, &fetch->build);
        if (r != 0) {
                fetch_give_up(agent, "it cannot be written here (disk full?)");
                return r < 0 ? r : -EIO;
        }
        PeersCallEvents events = {.message = chunk_arrived, .end = fetch_ended, .userdata = agent};
        r = agent->outside.call(agent->outside.userdata, from, CALL_SNAPSHOT, (Bytes){}, FETCH_USEC, &events,
                                &fetch->call);
        if (r < 0) {
                fetch->call = NULL;
                fetch_give_up(agent, NULL);
        }
        return r;
}

/* ---- The switch ---- */

/* The record that names the new file is durable: from here on there is no way back, only an end of the
 * process. */
static int switch_tree(Agent *agent) {
        SnapshotFetch *fetch = &agent->snapshots.fetch;
        bool was_following = agent->follow.active;

        follow_end(agent);
        while (agent->snapshots.sends)
                send_end(agent->snapshots.sends, PEERS_UNAVAILABLE, "this host changes its own tree");
        fetch->healed = heal_done(agent);
        agent->tree = tree_abandon(agent->tree);
        int r = hall_open_tree(agent, fetch->name);
        if (r != 0)
                return r < 0 ? r : -EBADMSG;
        TreeOptions options = hall_tree_options(agent);
        (void)tree_sweep(&options, fetch->name);

        const TreeStatus *tree = &agent->tree_status;
        uint64_t seq = hall_seq(agent);
        if (fetch->foreign)
                r = log_submit_base(agent->log, seq, tree->applied, tree->applied_term, &tree->conf,
                                    tree->conf_index, tree->applied_term, agent->host.id);
        else
                r = hall_submit_base(agent, seq);
        if (r < 0)
                return r;

        if (fetch->foreign) {
                /* Nobody waits for anything in this life but for the join itself: the disk may be waited
                 * for. */
                r = hall_log_wait(agent, seq);
                if (r >= 0)
                        r = hall_switched(agent);
                if (r < 0)
                        return r;
                r = hall_start_raft(agent, tree->applied_term, agent->host.id);
                if (r < 0)
                        return r;
                agent->follow.active = true;
                agent->follow.term = agent->follow.beat = agent->follow.leader = agent->follow.commit = 0;
                agent->reads.gate = false;
                raft_observe(agent->raft, tree->applied, tree->applied_term, &tree->conf, tree->conf_index);
        } else if (was_following && !agent->raft_status.keeps_log) {
                raft_spent(agent->raft, tree->applied_term);
                raft_observe(agent->raft, tree->applied, tree->applied_term, &tree->conf, tree->conf_index);
        } else {
                SIM_SEEN("snapshot: installed by a voter");
                fetch->base_seq = seq;
        }
        return 0;
}

static int core_base(Agent *agent) {
        const TreeStatus *tree = &agent->tree_status;
        return raft_base(agent->raft, tree->applied, tree->applied_term, &tree->conf, tree->conf_index,
                         agent->now_usec);
}

void snapshot_stored(Agent *agent, uint64_t seq) {
        SnapshotFetch *fetch = &agent->snapshots.fetch;

        if (fetch->switch_seq != 0 && seq >= fetch->switch_seq) {
                bool foreign = fetch->foreign;
                int r = switch_tree(agent);
                fetch->switch_seq = 0;
                if (r < 0) {
                        hall_fail(agent, r, "The fetched tree cannot be opened");
                        return;
                }
                report_say(&agent->report, LOG_INFO, "Took the tree of %016llx as of index %llu.",
                           (unsigned long long)fetch->from, (unsigned long long)fetch->index);
                agent->members.dirty = agent->status_dirty = true;
                roles_members_changed(agent);
                agent->changed_usec = agent->now_usec;
                if (foreign) {
                        agent->applied_high = agent->told_revision = 0; /* of another cluster */
                        join_switched(agent);
                } else
                        sessions_rebase(agent);
                quarantine_look(agent);
                requests_rebase(agent);
                checks_rebase(agent);
                scrub_rebase(agent);
                if (fetch->healed && !foreign) {
                        /* What a process before this one showed is not to be unread. */
                        agent->reads.gate = true;
                        agent->reads.gate_until_usec = agent->now_usec + 2 * USEC_PER_SEC;
                }
                if (fetch->healed && TAKE_FLAG(agent->heal.served) && !foreign) {
                        /* What the bad tree told may have been wrong: who watches has to look anew. */
                        watches_abandon(agent);
                        agent->told_revision = 0;
                } else
                        watches_rebase(agent);
                agent->applied_high = MAX(agent->applied_high, agent->tree_status.applied);
                agent->told_revision = MAX(agent->told_revision, agent->tree_status.revision);
                agent->again = true;
        }
        if (fetch->base_seq != 0 && seq >= fetch->base_seq) {
                fetch->base_seq = 0;
                agent->again = true;
                int r = core_base(agent);
                if (r < 0)
                        hall_fail(agent, r, "The core cannot take its new base");
                raft_status(agent->raft, &agent->raft_status);
        }
}

void snapshot_close(Agent *agent) {
        while (agent->snapshots.sends)
                send_end(agent->snapshots.sends, PEERS_UNAVAILABLE, "this host stops");
        if (snapshot_fetching(agent) || agent->snapshots.fetch.build)
                fetch_give_up(agent, NULL);
}
