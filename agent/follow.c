/* Following. A host without a vote keeps no entries: it takes the committed ones from a voter (not the
 * leader while another serves), in a stream whose batches repeat the leader's stamp (term, beat). It takes
 * from a stream only while the stamp passes its own, and leaves one that stands still for 3 s. The server
 * reads from memory, else from its log's files; a follower behind the log is told to fetch a snapshot first.
 */
#include "hall.h"
#include "base/seen.h"

#define STAMP_USEC      (500 * USEC_PER_MSEC)
#define SILENT_USEC     (3 * USEC_PER_SEC)
#define RETRY_USEC      (200 * USEC_PER_MSEC)
#define BATCH_ENTRIES   256
#define BATCH_BYTES     (512 * 1024)
#define MAX_FOLLOWERS   LIMIT_MEMBERS
#define CALL_NEVER_ENDS USEC_INFINITY

/* ---- Following ---- */

Entry *follow_next(Agent *agent, uint64_t index) {
        Follow *follow = &agent->follow;
        Entry *entry = follow->n_queue > 0 ? follow->queue[follow->queue_head] : NULL;
        return entry && entry->index == index ? entry : NULL;
}

void follow_drop(Agent *agent) {
        Follow *follow = &agent->follow;
        if (follow->n_queue == 0)
                return;
        follow->n_bytes -= follow->queue[follow->queue_head]->size;
        entry_unref(follow->queue[follow->queue_head]);
        follow->queue_head = (follow->queue_head + 1) % FOLLOW_QUEUE;
        follow->n_queue--;
}

void follow_end(Agent *agent) {
        Follow *follow = &agent->follow;

        if (follow->call)
                agent->outside.call_free(agent->outside.userdata, TAKE(follow->call));
        while (follow->n_queue > 0)
                follow_drop(agent);
        follow->retry_usec = agent->now_usec + RETRY_USEC;
}

/* A full queue means that apply is slower than the network (or that the disk is full): the rest is asked for
 * again. */
static bool queue_entries(Agent *agent, FollowBatch *batch) {
        Follow *follow = &agent->follow;

        for (uint32_t i = 0; i < batch->n_entries; i++) {
                uint64_t expected = agent->tree_status.applied + follow->n_queue + 1;
                if (batch->entries[i]->index < expected)
                        continue;
                if (batch->entries[i]->index > expected || follow->n_queue == FOLLOW_QUEUE ||
                    follow->n_bytes >= FOLLOW_BYTES)
                        return false;
                follow->n_bytes += batch->entries[i]->size;
                follow->queue[(follow->queue_head + follow->n_queue++) % FOLLOW_QUEUE] =
                        entry_ref(batch->entries[i]);
        }
        return true;
}

static void batch_arrived(PeersCall *call, Bytes bytes, void *userdata) {
        Agent *agent = userdata;
        Follow *follow = &agent->follow;
        FollowBatch batch;

        agent->now_usec = hall_now(agent);
        if (wire_follow_batch_decode(bytes, &batch) < 0) {
                follow_end(agent);
                return;
        }
        /* Who has not heard the leader lately gives entries, and no word of it. */
        bool passes = batch.leader != 0 && (batch.term > follow->term ||
                                            (batch.term == follow->term && batch.beat > follow->beat));
        bool older = batch.term < follow->term;
        if (passes) {
                if (batch.leader != follow->leader)
                        agent->status_dirty = true;
                follow->leader = batch.leader;
                follow->term = batch.term;
                follow->beat = batch.beat;
                follow->heard_usec = agent->now_usec;
        }
        follow->commit = MAX(follow->commit, batch.commit);
        follow->n_vain = 0;
        if (older)
                ; /* a server that does not know the newest leader yet: nothing is taken from it */
        else if (batch.need_snapshot) {
                SIM_SEEN("follow: too far behind, a snapshot is needed");
                uint64_t server = follow->server;
                follow_end(agent);
                (void)snapshot_fetch(agent, server, false);
        } else if (!queue_entries(agent, &batch))
                follow_end(agent);
        wire_follow_batch_done(&batch);
        hall_wake(agent);
}

static void follow_ended(PeersCall *call, PeersStatus status, const char *text, void *userdata) {
        Agent *agent = userdata;
        agent->follow.call = NULL;
        agent->follow.retry_usec = hall_now(agent) + RETRY_USEC;
        hall_wake(agent);
}

static uint64_t any_connected(Agent *agent) {
        unsigned n = HASH_COUNT(agent->members.connections), i = 0;
        for (Connection *c = agent->members.connections; c; c = c->hh.next)
                if (i++ == agent->follow.turn % n)
                        return members_connection(agent, c->host) ? c->host : 0;
        return 0;
}

/* The next voter in turn; the leader only when nobody else is connected. */
static uint64_t choose_server(Agent *agent) {
        const Conf *conf = &agent->tree_status.conf;
        uint64_t leader = agent->follow.leader, last = 0;

        for (uint32_t i = 0; i < conf->n_voters; i++) {
                uint64_t id = conf->voters[(agent->follow.turn + i) % conf->n_voters].id;
                if (id == agent->host.id || !members_connection(agent, id))
                        continue;
                if (id != leader && agent->follow.n_vain <= 2 * conf->n_voters) {
                        agent->follow.turn += i + 1;
                        return id;
                }
                last = id;
        }
        agent->follow.turn++;
        /* The voters it knows do not serve (any more), and from nobody else will it learn who votes now. */
        if (agent->follow.n_vain > 2 * conf->n_voters)
                return any_connected(agent);
        return last;
}

static void follow_begin(Agent *agent) {
        Follow *follow = &agent->follow;
        uint64_t server = choose_server(agent);
        follow->n_vain++;

        follow->retry_usec = agent->now_usec + RETRY_USEC;
        if (server == 0)
                return;
        FollowRequest request = {
                .from = agent->tree_status.applied + 1,
                .applied_term = agent->tree_status.applied_term,
        };
        _cleanup_(buffer_deinit) Buffer bytes = {};
        if (wire_follow_request_encode(&request, &bytes) < 0)
                return;
        PeersCallEvents events = {.message = batch_arrived, .end = follow_ended, .userdata = agent};
        int r = agent->outside.call(agent->outside.userdata, server, CALL_FOLLOW,
                                    BYTES(bytes.data, bytes.size), CALL_NEVER_ENDS, &events, &follow->call);
        if (r < 0) {
                follow->call = NULL;
                return;
        }
        follow->server = server;
        follow->beat = 0; /* by this server's clock from now on */
        follow->begun_usec = agent->now_usec;
}

static bool follow_rests(const Agent *agent) {
        return !agent->follow.active || agent->removed || agent->quarantined || agent->halted ||
               snapshot_fetching(agent) || !heal_may_touch(agent) || agent->roles.promote_index != 0;
}

void follow_work(Agent *agent) {
        Follow *follow = &agent->follow;

        if (follow_rests(agent)) {
                if (follow->call)
                        follow_end(agent);
                return;
        }
        if (follow->call) {
                uint64_t since = MAX(follow->heard_usec, follow->begun_usec);
                if (agent->now_usec - since > SILENT_USEC)
                        follow_end(agent);
                if (follow->leader != 0 && agent->now_usec - follow->heard_usec > SILENT_USEC) {
                        SIM_SEEN("follow: nobody is known to lead");
                        follow->leader = 0; /* nobody is known to lead */
                        agent->status_dirty = true;
                }
                return;
        }
        if (agent->now_usec >= follow->retry_usec)
                follow_begin(agent);
}

uint64_t follow_deadline(const Agent *agent) {
        const Follow *follow = &agent->follow;
        uint64_t deadline = USEC_INFINITY;

        if (!follow_rests(agent) && !follow->call)
                deadline = MAX(follow->retry_usec, agent->now_usec + 1000);
        if (follow->followers)
                deadline = MIN(deadline, agent->now_usec + STAMP_USEC / 2);
        return deadline;
}

/* ---- Serving ---- */

static void follower_free(Follower *follower) {
        Follow *follow = &follower->agent->follow;
        DL_DELETE2(follow->followers, follower, prev, next_follower);
        follow->n_followers--;
        free(follower);
}

static void follower_gone(PeersCall *call, PeersStatus status, const char *text, void *userdata) {
        follower_free(userdata);
}

static void follower_writable(PeersCall *call, void *userdata) {
        Follower *follower = userdata;
        follower->full = false;
        hall_wake(follower->agent);
}

static void serve_no_more(Follower *follower, PeersStatus status, const char *why) {
        Agent *agent = follower->agent;
        PeersCall *call = follower->call;
        PeersCallEvents none = {};

        follower_free(follower);
        agent->outside.call_set_events(agent->outside.userdata, call, &none);
        agent->outside.call_end(agent->outside.userdata, call, status, why);
}

/* One stream for a host: who asks anew has left the earlier one. */
static void end_earlier(Agent *agent, uint64_t host) {
        Follower *follower, *next;
        DL_FOREACH_SAFE2(agent->follow.followers, follower, next, next_follower)
        if (follower->host == host)
                serve_no_more(follower, PEERS_UNAVAILABLE, "asked for anew");
}

void follow_called(Agent *agent, PeersCall *call, uint64_t host, Bytes request) {
        Outside *outside = &agent->outside;
        Follow *follow = &agent->follow;
        FollowRequest wanted;

        if (wire_follow_request_decode(request, &wanted) < 0 || wanted.from == 0) {
                outside->call_end(outside->userdata, call, PEERS_INVALID, "malformed request");
                return;
        }
        /* A damaged log is no reason: what was applied is committed, and perhaps nobody else can tell of it.
         */
        if (follow->active || agent->removed || agent->quarantined || !heal_may_touch(agent) ||
            follow->n_followers >= MAX_FOLLOWERS) {
                outside->call_end(outside->userdata, call, PEERS_FAILED_PRECONDITION,
                                  "this host does not serve followers");
                return;
        }
        end_earlier(agent, host);
        Follower *follower = calloc(1, sizeof(Follower));
        if (!follower) {
                outside->call_end(outside->userdata, call, PEERS_EXHAUSTED, "out of memory");
                return;
        }
        *follower = (Follower){.agent = agent, .call = call, .host = host, .next = wanted.from};
        DL_APPEND2(follow->followers, follower, prev, next_follower);
        follow->n_followers++;
        PeersCallEvents events = {.end = follower_gone, .writable = follower_writable, .userdata = follower};
        outside->call_set_events(outside->userdata, call, &events);
        hall_wake(agent);
}

static uint64_t stamp_beat(const Agent *agent) {
        /* This server's word of how fresh it is (see follow_fresh()), by its own clock: followers compare it
         * within one stream only. */
        return agent->now_usec;
}

/* May we vouch for the leader now? Only what we heard from it within the election timeout. */
static bool follow_fresh(const Agent *agent) {
        if (hall_is_leader(agent))
                return hall_is_ready_leader(agent);
        return agent->raft_status.leader != 0 &&
               agent->now_usec - agent->leader_heard_usec < 2 * agent->options.election_usec;
}

/* Up to here. After a start the tree may know more than the core, which hears of commits from a leader. */
static uint64_t may_serve(const Agent *agent) {
        return MIN(agent->raft_status.commit, agent->tree_status.applied);
}

/* Collects entries behind follower->next: borrowed from the core's memory, else read back (one reference
 * each). */
static uint32_t collect(Agent *agent, uint64_t from, Entry **entries, bool *ret_gone) {
        uint64_t commit = may_serve(agent);
        uint32_t n = 0;
        size_t bytes = 0;

        while (from + n <= commit && n < BATCH_ENTRIES && bytes < BATCH_BYTES) {
                Entry *entry = raft_entry(agent->raft, from + n);
                if (!entry)
                        break;
                entries[n++] = entry_ref(entry);
                bytes += entry->size;
        }
        if (n > 0 || from > commit)
                return n;
        SIM_SEEN("follow: entries read back from the log");
        int r = log_load(agent->log, from, core_forgot(agent, from, BATCH_ENTRIES), BATCH_BYTES, entries);
        *ret_gone = r <= 0;
        return r > 0 ? (uint32_t)r : 0;
}

static void serve(Follower *follower) {
        Agent *agent = follower->agent;
        Outside *outside = &agent->outside;
        Entry *entries[BATCH_ENTRIES];
        bool gone = false;

        uint32_t n = collect(agent, follower->next, entries, &gone);
        bool stamp = follow_fresh(agent) && agent->now_usec - follower->stamped_usec >= STAMP_USEC;
        if (n == 0 && !gone && !stamp)
                return;

        FollowBatch batch = {
                .leader = follow_fresh(agent) ? agent->raft_status.leader : 0,
                .term = agent->raft_status.term,
                .beat = stamp_beat(agent),
                .commit = agent->raft_status.commit,
                .need_snapshot = gone,
                .n_entries = n,
                .entries = entries,
        };
        _cleanup_(buffer_deinit) Buffer bytes = {};
        int r = wire_follow_batch_encode(&batch, &bytes);
        for (uint32_t i = 0; i < n; i++)
                entry_unref(entries[i]);
        if (r < 0)
                return;
        follower->next += n;
        follower->stamped_usec = agent->now_usec;
        r = outside->call_send(outside->userdata, follower->call, BYTES(bytes.data, bytes.size));
        if (r == 1)
                follower->full = true;
        else if (r < 0 || gone)
                serve_no_more(follower, gone ? PEERS_OK : PEERS_UNAVAILABLE, "fetch a snapshot");
}

void follow_serve(Agent *agent) {
        Follow *follow = &agent->follow;
        Follower *follower, *next;

        if (!follow->followers)
                return;
        if (follow->active) {
                SIM_SEEN("follow: served while voting, and votes no more");
                follow_close(agent); /* this host votes no more */
                return;
        }
        DL_FOREACH_SAFE2(follow->followers, follower, next, next_follower)
        if (!follower->full)
                serve(follower);
        for (follower = follow->followers; follower; follower = follower->next_follower)
                if (!follower->full && follower->next <= may_serve(agent))
                        agent->again = true;
}

void follow_close(Agent *agent) {
        while (agent->follow.followers)
                serve_no_more(agent->follow.followers, PEERS_UNAVAILABLE, "this host stops serving");
}
