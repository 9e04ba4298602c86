/* Sessions. A host's session owns its ephemeral entries (owned.c); it lives while the leader hears from the
 * host, and survives restarts of agents and leaders. Three sides stand here:
 *
 *  - this host's own session: attached by a committed entry, kept alive by letters that never enter the log;
 * who hears of no leader tells all voters;
 *  - what the host knows of it: a keep-alive is acknowledged when a majority has answered a beat sent after
 * it came, so by a leader that was still one; from the sending of the last acknowledged one on the session
 * is certain for the timeout, whoever leads then;
 *  - the leader's watch over all: a host silent for the session timeout is proposed to end, conditionally
 * (host, generation), in slices of max(3, 10 %) per timeout of its own; each session's timeout stands in the
 * tree; after a gap in the leader's own loop or a change of leader everybody is granted a full timeout
 * first. */
#include "hall.h"
#include "base/seen.h"

#include <stdio.h>
#include <string.h>

#define CONFIRM_USEC (500 * USEC_PER_MSEC)
#define HEARD_USEC   USEC_PER_SEC       /* who followed hears of its leader twice as often */
#define LOST_USEC    (2 * USEC_PER_SEC) /* a question to the core that was never answered */
#define DRIFT_PARTS  20u                /* clocks of two hosts may differ by a 20th in speed */

/* ---- The leader's watch ---- */

static void watch_clear(Agent *agent) {
        SessionWatch *watch, *next;
        HASH_ITER (hh, agent->sessions.watched, watch, next) {
                HASH_DEL(agent->sessions.watched, watch);
                free(watch);
        }
        agent->sessions.watching = false;
        agent->sessions.due_usec = 0;
}

/* Everybody gets a full timeout. Ends that were proposed in this term stay noted: they may yet be committed,
 * so such a session is not told to live. */
static void watch_forgive(Agent *agent) {
        SessionWatch *watch, *next;
        HASH_ITER (hh, agent->sessions.watched, watch, next)
                watch->heard_usec = agent->now_usec;
}

static SessionWatch *watch_of(Agent *agent, uint64_t host) {
        SessionWatch *watch = NULL;
        HASH_FIND(hh, agent->sessions.watched, &host, sizeof(host), watch);
        if (watch)
                return watch;
        watch = calloc(1, sizeof(SessionWatch));
        if (!watch)
                return NULL;
        watch->host = host;
        watch->heard_usec = agent->now_usec;
        HASH_ADD(hh, agent->sessions.watched, host, sizeof(watch->host), watch);
        if (!HASH_ADDED(watch)) {
                free(watch);
                return NULL;
        }
        return watch;
}

/* ---- The leader's list, as the applied tree has it ---- */

static void watch_set(Agent *agent, SessionWatch *watch, const TreeSession *session) {
        watch->generation = session->attached ? session->generation : 0;
        watch->lasts_usec = session->lasts_usec;
        if (session->attached)
                agent->sessions.shortest_usec = MIN(agent->sessions.shortest_usec, session->lasts_usec);
}

static int load_session(const TreeSession *session, void *userdata) {
        Agent *agent = userdata;
        SessionWatch *watch = watch_of(agent, session->host);
        if (!watch)
                return -ENOMEM;
        watch_set(agent, watch, session);
        return 0;
}

/* Once when it begins to lead, or after another tree came; then each change is noted as it applies. */
static bool load_sessions(Agent *agent) {
        Sessions *sessions = &agent->sessions;
        SessionWatch *watch, *next;

        if (sessions->watching)
                return true;
        HASH_ITER (hh, sessions->watched, watch, next)
                watch->generation = 0;
        sessions->due_usec = 0;
        sessions->shortest_usec = agent->options.session_usec;
        sessions->watching = heal_may_touch(agent) && tree_sessions(agent->tree, load_session, agent) == 0;
        return sessions->watching;
}

void sessions_changed(Agent *agent, uint64_t host) {
        TreeSession session = {};
        if (!agent->sessions.watching)
                return;
        int r = tree_session(agent->tree, host, &session);
        SessionWatch *watch = r == 0 || r == TREE_NONE ? watch_of(agent, host) : NULL;
        agent->sessions.due_usec = 0;
        if (watch)
                watch_set(agent, watch, &session);
        else
                agent->sessions.watching = false; /* read anew */
}

/* ---- The leader hears and acknowledges ---- */

void sessions_heard(Agent *agent, uint64_t host, const LetterKeepalive *keepalive) {
        if (!hall_is_leader(agent))
                return;
        SessionWatch *watch = watch_of(agent, host);
        if (!watch || watch->ending_generation == keepalive->generation)
                return;
        watch->heard_usec = agent->now_usec;
        watch->pending_generation = keepalive->generation;
        watch->pending_sent = keepalive->sent;
        agent->sessions.pending = true;
}

/* One beat for all that came until now. */
static void confirm(Agent *agent) {
        Sessions *sessions = &agent->sessions;
        SessionWatch *watch, *next;

        if (sessions->confirm_id != 0 && agent->now_usec - sessions->confirm_usec > LOST_USEC)
                sessions->confirm_id = 0;
        if (!sessions->pending || sessions->confirm_id != 0 || !hall_is_ready_leader(agent) ||
            agent->now_usec - sessions->confirm_usec < CONFIRM_USEC)
                return;
        uint64_t id = ++agent->reads.next_id;
        int r = raft_read(agent->raft, id, agent->now_usec);
        if (r < 0)
                hall_fail(agent, r, "The core ran out of memory");
        if (r != 0)
                return;
        sessions->pending = sessions->confirmed = false;
        sessions->confirm_id = id;
        sessions->confirm_usec = agent->now_usec;
        HASH_ITER (hh, sessions->watched, watch, next) {
                watch->asked_generation = watch->pending_generation;
                watch->asked_sent = watch->pending_sent;
                watch->pending_generation = 0;
        }
        agent->again = true;
}

bool sessions_confirmed(Agent *agent, const RaftReadDone *done) {
        Sessions *sessions = &agent->sessions;
        if (sessions->confirm_id == 0 || done->id != sessions->confirm_id)
                return false;
        sessions->confirmed = !done->lost;
        sessions->confirm_index = done->index;
        if (done->lost)
                sessions->confirm_id = 0;
        return true;
}

/* Only what the applied tree, at or behind the index of that beat, says to live, and nobody proposed to end.
 */
static void acknowledge(Agent *agent, SessionWatch *watch) {
        Letter letter = {
                .kind = LETTER_KEEPALIVE_ACK,
                .keepalive = {.host = watch->host,
                              .generation = watch->asked_generation,
                              .sent = watch->asked_sent,
                              .lasts_usec = watch->lasts_usec},
        };
        watch->asked_generation = 0;
        if (letter.keepalive.generation == 0 || watch->ending_generation == letter.keepalive.generation ||
            watch->generation != letter.keepalive.generation)
                return;
        if (watch->host == agent->host.id)
                sessions_acknowledged(agent, watch->host, &letter.keepalive);
        else
                (void)hall_send(agent, watch->host, &letter);
}

void sessions_tell_alive(Agent *agent) {
        Sessions *sessions = &agent->sessions;
        SessionWatch *watch, *next;

        if (!sessions->confirmed || agent->tree_status.applied < sessions->confirm_index ||
            !heal_may_touch(agent) || !load_sessions(agent))
                return;
        sessions->confirmed = false;
        sessions->confirm_id = 0;
        HASH_ITER (hh, sessions->watched, watch, next)
                acknowledge(agent, watch);
}

/* The holder counts from the sending, so however long the answer took is no matter; a generation that is
 * over does not come back. The shortest of all timeouts that may be in force counts: the leader's tree may
 * be older than ours; and this process may have asked for another one, an earlier process too until ours has
 * announced itself. */
void sessions_acknowledged(Agent *agent, uint64_t host, const LetterKeepalive *ack) {
        Sessions *sessions = &agent->sessions;
        if (host != hall_leader(agent) || ack->host != agent->host.id ||
            ack->generation != sessions->generation || ack->generation == 0 || ack->sent > agent->now_usec ||
            agent->requests.incarnation == 0)
                return;
        uint64_t lasts = MIN(MIN(ack->lasts_usec, sessions->lasts_usec), agent->options.session_usec);
        lasts -= lasts / DRIFT_PARTS;
        sessions->certain_usec = MAX(sessions->certain_usec, ack->sent + lasts);
}

uint64_t sessions_certain(const Agent *agent, uint64_t *ret_until) {
        const Sessions *sessions = &agent->sessions;
        *ret_until = sessions->certain_usec;
        return hall_now(agent) < sessions->certain_usec ? sessions->generation : 0;
}

/* ---- The leader ends who is silent ---- */

static bool is_silent(const Agent *agent, const SessionWatch *watch) {
        return agent->now_usec - watch->heard_usec >= watch->lasts_usec;
}

static void end_silent(Agent *agent, SessionWatch *watch) {
        Command command = {
                .kind = COMMAND_END_SESSION,
                .host = agent->host.id,
                .subject = watch->host,
                .generation = watch->generation,
        };
        if (hall_propose_own(agent, &command) != 0)
                return;
        watch->ending_generation = watch->generation;
        agent->sessions.slice_ended++;
        report_say(&agent->report, LOG_NOTICE, "Host %016llx was silent for %.1f s: its session ends.",
                   (unsigned long long)watch->host,
                   (double)(agent->now_usec - watch->heard_usec) / USEC_PER_SEC);
}

static int by_host(const SessionWatch *a, const SessionWatch *b) {
        return a->host < b->host ? -1 : a->host > b->host;
}

/* In the order of the hosts' ids, whoever was heard first: the slice decides who has to wait. */
static void end_silent_ones(Agent *agent) {
        Sessions *sessions = &agent->sessions;
        SessionWatch *watch, *next;
        unsigned n_sessions = 0, n_silent = 0;
        uint64_t due = USEC_INFINITY;

        HASH_ITER (hh, sessions->watched, watch, next) {
                if (watch->host == agent->host.id)
                        watch->heard_usec = agent->now_usec;
                n_sessions += watch->generation != 0;
                if (watch->generation == 0 || watch->ending_generation == watch->generation)
                        continue;
                n_silent += is_silent(agent, watch);
                due = MIN(due, watch->heard_usec + watch->lasts_usec);
        }
        sessions->due_usec = due;
        if (n_silent == 0)
                return;
        unsigned slice = MAX(3u, n_sessions / 10);
        HASH_SORT(sessions->watched, by_host);
        HASH_ITER (hh, sessions->watched, watch, next)
                if (watch->generation != 0 && watch->ending_generation != watch->generation &&
                    is_silent(agent, watch) && sessions->slice_ended < slice)
                        end_silent(agent, watch);
}

/* How often the leader looks: by the shortest timeout, so that no end comes late by more than a 20th. */
static uint64_t watch_pause(const Agent *agent) {
        uint64_t shortest = agent->options.session_usec;
        if (agent->sessions.watching)
                shortest = MIN(shortest, agent->sessions.shortest_usec);
        return MAX(shortest / 20, HALL_TICK_USEC);
}

static void watch_sessions(Agent *agent) {
        Sessions *sessions = &agent->sessions;
        uint64_t gap = agent->now_usec - sessions->last_look_usec, pause = watch_pause(agent);

        if (gap < pause)
                return;

        sessions->last_look_usec = agent->now_usec;
        if (!hall_is_ready_leader(agent))
                return;
        if (sessions->watch_term != agent->raft_status.term) {
                sessions->watch_term = agent->raft_status.term;
                sessions->watch_from = agent->raft_status.commit;
                watch_clear(agent);
        } else if (gap > 2 * pause + USEC_PER_SEC) /* see sessions_deadline() */
                watch_forgive(agent);
        if (agent->now_usec - sessions->slice_usec >= agent->options.session_usec) {
                sessions->slice_usec = agent->now_usec;
                sessions->slice_ended = 0;
        }
        if (agent->tree_status.applied >= sessions->watch_from && load_sessions(agent) &&
            agent->now_usec >= sessions->due_usec)
                end_silent_ones(agent);
}

/* ---- This host's session ---- */

/* Until it is decided: of two that are under way the later would end the session that the earlier one gave,
 * and that one may be known for certain by then. */
#define ATTACH_USEC (3600 * USEC_PER_SEC)

static void attached(const RequestAnswer *answer, void *userdata) {
        Agent *agent = userdata;
        agent->sessions.attaching = false;
        hall_wake(agent);
}

static void attach(Agent *agent) {
        Sessions *sessions = &agent->sessions;
        bool goes_on = sessions->generation != 0;
        if (sessions->attaching || agent->requests.incarnation == 0 || agent->removed ||
            agent->quarantined || agent->stopping ||
            (goes_on && sessions->lasts_usec == agent->options.session_usec))
                return;
        Command command = {.kind = COMMAND_ATTACH,
                           .generation = sessions->generation,
                           .lasts_usec = agent->options.session_usec};
        if (agent_request(agent, &command, ATTACH_USEC, attached, agent, NULL) == 0)
                sessions->attaching = true;
}

static bool hears_leader(const Agent *agent) {
        const Follow *follow = &agent->follow;
        if (!follow->active)
                return agent->raft_status.leader != 0;
        return follow->leader != 0 && agent->now_usec - follow->heard_usec < HEARD_USEC;
}

/* Is there anybody to be told that this host lives? */
static bool can_speak(const Agent *agent) {
        const Conf *conf = &agent->tree_status.conf;
        if (hall_is_leader(agent) || hears_leader(agent))
                return true;
        for (uint32_t i = 0; i < conf->n_voters; i++)
                if (members_connection(agent, conf->voters[i].id))
                        return true;
        return false;
}

/* Who hears of no leader is not dead for that: it may wait for its promotion, or fetch a tree. If somebody
 * leads, it is one of the voters. */
static void tell_voters(Agent *agent, const Letter *letter) {
        const Conf *conf = &agent->tree_status.conf;
        SIM_SEEN("session: hears of no leader, and tells all voters that it lives");
        agent->sessions.told_voters = true;
        for (uint32_t i = 0; i < conf->n_voters; i++)
                (void)hall_send(agent, conf->voters[i].id, letter);
}

static void keep_alive(Agent *agent) {
        Sessions *sessions = &agent->sessions;

        if (sessions->told_voters && hears_leader(agent)) /* who may not have led then */
                sessions->keepalive_usec = 0;
        if (sessions->generation == 0 || agent->now_usec < sessions->keepalive_usec || !can_speak(agent))
                return;
        sessions->told_voters = false;
        sessions->keepalive_usec =
                agent->now_usec + MIN(sessions->lasts_usec, agent->options.session_usec) / 5;
        Letter letter = {
                .kind = LETTER_KEEPALIVE,
                .keepalive = {.host = agent->host.id,
                              .generation = sessions->generation,
                              .sent = agent->now_usec},
        };
        if (hall_is_leader(agent))
                sessions_heard(agent, agent->host.id, &letter.keepalive);
        else if (hears_leader(agent))
                (void)hall_send(agent, hall_leader(agent), &letter);
        else
                tell_voters(agent, &letter);
}

void sessions_load(Agent *agent) {
        TreeSession session = {};
        bool attached = tree_session(agent->tree, agent->host.id, &session) == 0 && session.attached;
        if (attached) {
                agent->sessions.generation = session.generation;
                agent->sessions.lasts_usec = session.lasts_usec;
        }
        owned_load(agent, attached ? session.generation : 0);
}

/* The tree was replaced by a snapshot: what happened to our session in between did not pass here. */
void sessions_rebase(Agent *agent) {
        agent->sessions.watching = false;
        TreeSession session = {};
        bool attached = tree_session(agent->tree, agent->host.id, &session) == 0 && session.attached;
        uint64_t generation = attached ? session.generation : 0;

        if (generation == agent->sessions.generation)
                return sessions_load(agent);
        agent->sessions.generation = generation;
        agent->sessions.lasts_usec = session.lasts_usec;
        agent->sessions.certain_usec = 0;
        owned_anew(agent);
}

void sessions_applied(Agent *agent, const Command *command, const Result *result) {
        Sessions *sessions = &agent->sessions;
        if (result->status != RESULT_DONE)
                return;

        if (command->kind == COMMAND_ATTACH && command->host == agent->host.id)
                sessions->lasts_usec = command->lasts_usec;
        if (command->kind == COMMAND_ATTACH && command->host == agent->host.id && command->generation == 0) {
                sessions->generation = result->number;
                sessions->certain_usec = 0;
                sessions->keepalive_usec = 0;
                owned_anew(agent);
        }
        if (command->kind == COMMAND_END_SESSION && command->subject == agent->host.id &&
            command->generation == sessions->generation) {
                report_say(
                        &agent->report, LOG_WARNING,
                        "This host's session ended: the leader had not heard from it. Its registrations are made anew.");
                sessions->generation = sessions->certain_usec = 0;
                sessions->work = true;
        }
        if (command->kind == COMMAND_ATTACH) {
                SessionWatch *watch = NULL;
                HASH_FIND(hh, sessions->watched, &command->host, sizeof(command->host), watch);
                if (watch)
                        watch->heard_usec = agent->now_usec;
        }
}

void sessions_work(Agent *agent) {
        watch_sessions(agent);
        attach(agent);
        keep_alive(agent);
        confirm(agent);
        owned_work(agent);
}

/* What was asked for in this wake is not left to the next tick of the duties. */
void sessions_hurry(Agent *agent) {
        if (!TAKE_FLAG(agent->sessions.work))
                return;
        attach(agent);
        owned_work(agent);
}

uint64_t sessions_deadline(const Agent *agent) {
        const Sessions *sessions = &agent->sessions;
        uint64_t deadline = USEC_INFINITY;

        if (sessions->generation != 0 && !hall_is_leader(agent) && can_speak(agent))
                deadline = MAX(sessions->keepalive_usec, agent->now_usec + 1000);
        if (hall_is_leader(agent))
                deadline = MIN(deadline, agent->now_usec + 2 * watch_pause(agent));
        return MIN(deadline, owned_deadline(agent));
}

void sessions_leave(Agent *agent) {
        watch_clear(agent);
        agent->sessions.generation = agent->sessions.certain_usec = 0;
        agent->sessions.attaching = false;
        owned_leave(agent);
}

void sessions_reset(Agent *agent) {
        owned_reset(agent);
        watch_clear(agent);
        agent->sessions = (Sessions){};
}
