/* Sessions end neither early nor late, by true time. What a leader's clock says is its own affair: here the
 * run's own time counts, and clocks may be as wrong as is promised (a 20th between two of them).
 *
 *      early   a leader proposes the end of a session although it heard from its host less than the
 * session's timeout ago, or leads, or is awake again, for less late    a host is dead, somebody leads,
 * nothing else happens, and its session still stands */
#include "sim.h"

#define DRIFT_PARTS 20u

static uint64_t heard_usec[HOSTS_MAX][HOSTS_MAX]; /* by the leader, from the host */
static uint64_t heard_generation[HOSTS_MAX][HOSTS_MAX];
static uint64_t led_term[HOSTS_MAX], led_usec[HOSTS_MAX];
static uint64_t n_ends;

void __real_sessions_heard(Agent *agent, uint64_t host, const LetterKeepalive *keepalive);
void __wrap_sessions_heard(Agent *agent, uint64_t host, const LetterKeepalive *keepalive);
int __real_hall_propose_own(Agent *agent, const Command *command);
int __wrap_hall_propose_own(Agent *agent, const Command *command);

static SimHost *host_of_agent(const Agent *agent) {
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (world.hosts[i]->agent == agent)
                        return world.hosts[i];
        return NULL;
}

/* Clocks go on while machines sleep. */
static uint64_t true_usec(void) {
        return world.now + world.slept_usec;
}

void __wrap_sessions_heard(Agent *agent, uint64_t host, const LetterKeepalive *keepalive) {
        const SimHost *leader = host_of_agent(agent), *from = host_of(host);
        __real_sessions_heard(agent, host, keepalive);
        if (!leader || !from)
                return;
        heard_usec[leader->i][from->i] = true_usec();
        heard_generation[leader->i][from->i] = keepalive->generation;
}

static void judge_end(const SimHost *leader, const SimHost *of, const Command *command) {
        const Agent *agent = leader->agent;
        TreeSession session;
        if (tree_session(agent->tree, of->id, &session) != 0)
                return;
        uint64_t lasts = session.lasts_usec - session.lasts_usec / DRIFT_PARTS, since = led_usec[leader->i];
        if (heard_generation[leader->i][of->i] == command->generation)
                since = MAX(since, heard_usec[leader->i][of->i]);
        since = MAX(since, leader->long_pause_until);
        n_ends++;
        if (true_usec() - since < lasts)
                broken("%s ends the session of %s after %.3f s; it lasts %.3f s", leader->name, of->name,
                       (double)(true_usec() - since) / SEC, (double)session.lasts_usec / SEC);
}

int __wrap_hall_propose_own(Agent *agent, const Command *command) {
        const SimHost *leader = host_of_agent(agent);
        const SimHost *of = command->kind == COMMAND_END_SESSION ? host_of(command->subject) : NULL;
        if (leader && of && !leader->touched && led_term[leader->i] == agent->raft_status.term)
                judge_end(leader, of, command);
        return __real_hall_propose_own(agent, command);
}

void lease_look(const SimHost *host) {
        const RaftStatus *status = &host->agent->raft_status;
        if (status->role != RAFT_LEADER || led_term[host->i] == status->term)
                return;
        led_term[host->i] = status->term;
        led_usec[host->i] = true_usec();
}

/* ---- Late ---- */

/* Those of `dead` died at once; wait as long as is promised, and what they owned is gone. */
void lease_dead(const bool dead[static HOSTS_MAX], uint64_t died_usec) {
        unsigned n_dead = 0;
        for (unsigned i = 0; i < world.n_hosts; i++)
                n_dead += dead[i];
        uint64_t slice = world.session_usec * (1 + (n_dead - 1) / 3), clocks = slice / DRIFT_PARTS;
        uint64_t bound = slice + slice / 10 + clocks + 2 * SEC + 500 * MSEC + 4 * world.election_usec;
        while (world.now < MAX(died_usec, world.led_usec) + bound || !host_leader()) {
                if (world.now > died_usec + 120 * SEC)
                        stuck("no lasting leader within two minutes after the last death");
                if (!happen_next(world.now + 100 * MSEC))
                        continue;
        }
        for (unsigned i = 0; i < world.n_hosts; i++)
                for (unsigned k = 0; dead[i] && k < world.n_hosts; k++) {
                        TreeSession session;
                        SimHost *host = world.hosts[k];
                        if (!host->agent || !host_is_in(host) || host->touched || host->no_tree ||
                            tree_session(host->agent->tree, world.hosts[i]->id, &session) != 0)
                                continue;
                        if (session.attached)
                                broken("%s: the session of %s still stands, %.1f s after its death",
                                       host->name, world.hosts[i]->name,
                                       (double)(world.now - died_usec) / SEC);
                }
        note("%llu sessions ended by leaders", (unsigned long long)n_ends);
}
