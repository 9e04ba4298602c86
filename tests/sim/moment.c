/* What goes wrong at its moment. Most faults strike whenever they like, and some places of the code lie
 * between two events a few milliseconds apart: no number of blind strikes comes by there often. So in every
 * second run somebody looks at the hosts after each turn, with dice of his own, and strikes when such a
 * moment is there:
 *  - a host writes the base from which it will vote: its disk hangs, and the next leader comes to office;
 *  - a voter holds the end of its time and not the word that it is committed: it is alone;
 *  - a tree for a joiner is about to be taken over: somebody tells it once more to join;
 *  - a process was gone almost as long as its session lasts: it is back just then;
 *  - a dead host's session is nearly over: it is taken out, and nobody stores that before its session's end.
 */
#include "sim.h"

#include <string.h>

static Random dice;
static uint64_t struck_base[HOSTS_MAX], struck_end[HOSTS_MAX], struck_join[HOSTS_MAX];

static uint64_t from_to(uint64_t from, uint64_t to) {
        return from + random_below(&dice, to - from + 1);
}

/* Once for each such moment, in every second of them. */
static bool strikes(uint64_t *struck, uint64_t moment) {
        if (*struck == moment || !fault_in_window())
                return false;
        *struck = moment;
        return random_below(&dice, 2) == 0;
}

static void alone_for(const SimHost *host, uint64_t usec) {
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (i != host->i) {
                        fault_cut(host->i, i, usec);
                        fault_cut(i, host->i, usec);
                }
}

/* Whatever else ends a cut meanwhile. */
static void stays_alone(void *p, uint64_t until) {
        const SimHost *host = p;
        bool over = !world.faults || world.now >= until;
        for (unsigned i = 0; i < world.n_hosts; i++) {
                net_cut(host->i, i, !over);
                net_cut(i, host->i, !over);
        }
        if (!over)
                at(world.now + 20 * MSEC, stays_alone, p, until);
}

static void handed_over(const RequestAnswer *answer, void *userdata) {
}

static void base_is_written(SimHost *host) {
        const Roles *roles = &host->agent->roles;
        const SimHost *leader = host_leader();
        unsigned first = (unsigned)random_below(&dice, world.n_hosts);
        if (roles->promote_seq == 0 || !leader || leader == host ||
            !strikes(&struck_base[host->i], roles->promote_seq))
                return;
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (guest_asks_too(host, world.hosts[(first + i) % world.n_hosts]))
                        break;
        note("%s: disk stalls while it writes its base, and another leads", host->name);
        host->stalled_until = MAX(host->stalled_until, world.now + from_to(SEC, 8 * SEC));
        world.disturbed_usec = MAX(world.disturbed_usec, host->stalled_until);
        const Conf *conf = leader->agent->raft_status.conf;
        uint64_t heir = conf->voters[random_below(&dice, conf->n_voters)].id;
        if (heir == leader->id || agent_transfer(leader->agent, heir, handed_over, NULL) < 0)
                alone_for(leader, from_to(SEC, 5 * SEC));
}

static void end_is_not_told(SimHost *host) {
        const Agent *agent = host->agent;
        const RaftStatus *status = &agent->raft_status;
        if (agent->follow.active || !status->keeps_log || status->role == RAFT_LEADER ||
            status->conf_committed || conf_is_joint(status->conf) || conf_is_voter(status->conf, host->id) ||
            !strikes(&struck_end[host->i], status->conf_index + 1))
                return;
        note("%s: alone while the end of its time is not committed", host->name);
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (i != host->i)
                        net_reset(host->i, i); /* what is under way is not heard either */
        stays_alone(host, world.now + from_to(6 * SEC, 15 * SEC));
}

static void tree_is_taken_over(SimHost *host) {
        Agent *agent = host->agent;
        uint64_t order = agent->snapshots.fetch.switch_seq;
        if (order == 0 || !agent->join.active || !agent->join.automatic || host->joining ||
            !world.token[0] || !strikes(&struck_join[host->i], order))
                return;
        note("%s: told once more to join", host->name);
        host->joining = agent_join(agent, world.token, true, operator_joined, host) == 0;
}

/* When the session of a host that falls silent now is over, by true time and nearly; the leader looks a 20th
 * later at most. */
static uint64_t ends_at(const SimHost *leader, const SimHost *host) {
        SessionWatch *watch = NULL;
        HASH_FIND(hh, leader->agent->sessions.watched, &host->id, sizeof(host->id), watch);
        if (!watch || watch->generation == 0)
                return 0;
        uint64_t due = watch->heard_usec + watch->lasts_usec;
        return due > leader->agent->now_usec ? world.now + due - leader->agent->now_usec : 0;
}

static void look(SimHost *host) {
        if (!host->agent)
                return;
        tree_is_taken_over(host);
        if (!world.faults || !host_is_in(host))
                return;
        base_is_written(host);
        end_is_not_told(host);
}

static void is_taken_out(void *p, uint64_t ends) {
        SimHost *host = p;
        if (!world.faults || host->agent || !operator_may_replace(host))
                return;
        note("%s: to be taken out while no disk stores it and its session ends", host->name);
        for (unsigned i = 0; i < world.n_hosts; i++)
                world.hosts[i]->stalled_until = MAX(world.hosts[i]->stalled_until, ends);
        world.disturbed_usec = MAX(world.disturbed_usec, ends);
        operator_replace(host);
}

static void session_is_nearly_over(SimHost *host, const SimHost *leader) {
        uint64_t ends = ends_at(leader, host);
        if (ends == 0)
                return;
        bool out = !conf_is_voter(leader->agent->raft_status.conf, host->id) &&
                   random_below(&dice, 2) == 0 && operator_may_replace(host);
        note("%s: its process ends until its session is nearly over", host->name);
        host_kill(host, false);
        if (out) {
                at(ends - MIN(ends, from_to(5 * MSEC, 150 * MSEC)), is_taken_out, host, ends + 500 * MSEC);
                host_restart_at(host, ends + SEC);
        } else
                host_restart_at(host, MAX(ends - MIN(ends, from_to(0, 400 * MSEC)), world.now + MSEC));
}

static void now_and_then(void *p, uint64_t a) {
        const SimHost *leader = host_leader();
        SimHost *host = world.hosts[random_below(&dice, world.n_hosts)];
        at(world.now + from_to(3 * SEC, 20 * SEC), now_and_then, NULL, 0);
        if (world.faults && fault_in_window() && leader && leader != host && host_runs(host) &&
            host_is_in(host) && !host->leaving)
                session_is_nearly_over(host, leader);
}

void moments_begin(void) {
        unsigned kind = 0;
        while (fault_name(kind) && world.narrow.without >> kind & 1)
                kind++;
        if (!fault_name(kind))
                return; /* nothing is to go wrong at all */
        dice.state = world.seed * UINT64_C(0xda942042e4dd58b5) + 11;
        if (random_next(&dice) % 2 != 0)
                return;
        world.moment = look;
        at(world.now + 5 * SEC, now_and_then, NULL, 0);
}
