/* Who replaces a host: asks for its removal until it is done, moves its state away, starts it anew under its
 * old name; it joins as a new member. Whoever was touched (rot, an old image) and cannot start, ends again
 * and again, or is still not known to be well when the faults end, is replaced: whatever happened to one
 * host, the others have everything. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>

static bool acting, token_asked;
static uint64_t
        known_index; /* since the newest replacement: whose tree holds this knows all who are there */

static void new_token(void *p, uint64_t a);
static void goes_on(SimHost *host);

static void token_made(const RequestAnswer *answer, const char *token, void *userdata) {
        token_asked = false;
        if (answer->answer == ANSWER_DONE && token)
                snprintf(world.token, sizeof(world.token), "%s", token);
        else
                at(world.now + SEC, new_token, NULL, 0);
}

/* A token names the host that made it: when that one goes, nobody finds the cluster by it. */
static void new_token(void *p, uint64_t a) {
        TokenRequest request = {.lifetime_usec = 100 * 3600 * SEC, .uses = 1000, .class = MEMBER_FULL};
        SimHost *host = host_leader();
        if (token_asked)
                return;
        token_asked = host && host_runs(host) && agent_token(host->agent, &request, token_made, NULL) == 0;
        if (!token_asked)
                at(world.now + SEC, new_token, NULL, 0);
}

static void removed(const RequestAnswer *answer, void *userdata) {
        SimHost *host = userdata;
        note("%s: removal -> %d", host->name, answer->answer);
        host->n_removals--;
        if (answer->answer == ANSWER_REFUSED && answer->result.status == RESULT_LAST_VOTER)
                host->stays = true;
        else if (answer->answer == ANSWER_DONE && host->asked_to_go) {
                host->stays = false;
                goes_on(host);
        }
        if (host->n_removals > 0 || !host->stays)
                return;                      /* another asked the same: that may come to be */
        host->stays = host->leaving = false; /* the only one that votes stays */
}

/* Somebody of the cluster who is well. */
static SimHost *somebody_else(const SimHost *host) {
        for (unsigned n = 0; n < 8; n++) {
                SimHost *other = world.hosts[below(world.n_hosts)];
                if (other != host && !other->touched && !other->leaving && host_runs(other) &&
                    host_is_in(other))
                        return other;
        }
        return NULL;
}

void operator_forgets(SimHost *host) {
        known_index = 0;
        clients_wiped(host);
        directory_clear(host->directory);
        if (host->image)
                host->image = simdisk_free(host->image);
        promise_forgive(host);
        host->touched = host->touched_tree = host->set_back = host->leaving = host->by_join = false;
        host->asked_to_go = false;
        host->ends = 0;
        host->automatic = false;
        host->id = 0;
        host->revision_before = 0;
        world.disturbed_usec = world.now;
        world.token[0] = 0; /* perhaps it names this host */
        at(world.now, new_token, NULL, 0);
}

static void wipe(SimHost *host) {
        note("%s: wiped", host->name);
        host_kill(host, false);
        simdisk_free(host->disk);
        host->disk = simdisk_new(random_next(&world.random));
        operator_forgets(host);
        host_restart_at(host, world.now + below(SEC));
}

/* ---- "join --discard" ---- */

static void ends_for_anew(void *p, uint64_t life) {
        SimHost *host = p;
        if (host->life != life || !host->agent)
                return;
        if (!agent_begins_anew(host->agent)) {
                at(world.now + 50 * MSEC, ends_for_anew, host, life);
                return;
        }
        host_kill(host, false);
        host_restart_at(host, world.now + below(SEC));
}

void operator_joined(JoinAnswer answer, const char *why, void *userdata) {
        SimHost *host = userdata;
        host->joining = false;
        note("%s: join: %d %s", host->name, answer, why);
        if (answer == JOIN_RESTARTS)
                at(world.now + 50 * MSEC, ends_for_anew, host, host->life);
}

/* True: it knows that it is out, or may hear of it yet, and begins anew by itself. */
static bool begins_anew(SimHost *host) {
        if (!host->by_join || world.now > host->leaving_usec + 20 * SEC)
                return false;
        if (host_runs(host) && !host->joining && world.token[0] &&
            agent_join(host->agent, world.token, true, operator_joined, host) == 0)
                host->joining = true;
        return true;
}

/* ---- Looking after them ---- */

/* Who leads knows nobody of this name. */
static bool is_gone(const SimHost *host) {
        const SimHost *leader = host_leader();
        Member member;
        return leader && leader != host && hall_is_ready_leader(leader->agent) &&
               agent_member_by_name(leader->agent, host->name, &member) == 1;
}

static void scrubbed(Answer answer, uint64_t n_rows, void *userdata) {
        SimHost *host = userdata;
        note("%s: all of its tree read again: %d, %llu rows", host->name, answer,
             (unsigned long long)n_rows);
        if (answer == ANSWER_DONE)
                host->scrubbed_usec = host->scrub_began_usec;
        host->scrub_began_usec = 0;
        if ((answer == ANSWER_NO_TREE || answer == ANSWER_HALTED) && !host->touched && !host->disk_fails)
                broken("%s: its tree is called bad, and nobody touched it", host->name);
}

/* All of its log was read since, by a start that found nothing or got everything again; and so was all of
 * its tree. (Not so with SQLite: a page may be bad that holds nothing yet.) */
static bool is_well_again(const SimHost *host) {
        if (!host->touched || host->set_back || host->leaving || !host_runs(host) || !host_is_in(host))
                return false;
        const Agent *agent = host->agent;
        if (host->born_usec <= host->touched_usec || agent->damaged || agent->heal.bad ||
            agent->heal.suspect || agent->quarantined)
                return false;
        return !host->touched_tree || (!store_is_on_disk && host->scrubbed_usec > host->born_usec);
}

static void looks_after(void *p, uint64_t a) {
        SimHost *host = world.hosts[below(world.n_hosts)];
        if (world.faults && host_runs(host) && host_is_in(host) &&
            agent_scrub(host->agent, scrubbed, host) == 0 && host->scrub_began_usec == 0)
                host->scrub_began_usec = world.now;
        for (unsigned i = 0; i < world.n_hosts; i++) {
                if (is_gone(world.hosts[i]) && world.hosts[i]->asked_to_go)
                        goes_on(world.hosts[i]);
                if (is_well_again(world.hosts[i])) {
                        note("%s: is well again", world.hosts[i]->name);
                        if (world.hosts[i]->touched_tree) {
                                store_well(world.hosts[i]); /* all was read: no fault waits there any more */
                                ghost_unwatch(world.hosts[i]);
                        }
                        world.hosts[i]->touched = world.hosts[i]->touched_tree = false;
                        world.hosts[i]->ends = 0;
                }
        }
        at(world.now + between(2, 30) * SEC, looks_after, NULL, 0);
}

void operator_begin(void) {
        at(world.now + between(2, 30) * SEC, looks_after, NULL, 0);
}

/* ---- Replacing ---- */

/* A stranger gave it as his own, and would get it. */
static bool name_is_wanted(const SimHost *host) {
        return world.faults && host->borrowed_usec > 0 && world.now < host->borrowed_usec + 30 * SEC;
}

static void acts(void *p, uint64_t a) {
        bool more = false;
        for (unsigned i = 0; i < world.n_hosts; i++) {
                SimHost *host = world.hosts[i], *other;
                Member member;
                if (!host->leaving)
                        continue;
                more = true;
                if (!(other = somebody_else(host)))
                        continue;
                world.disturbed_usec = world.now;
                int r = agent_member_by_name(other->agent, host->name, &member);
                if (r == 1 && host->n_removals == 0 && is_gone(host)) {
                        if (!begins_anew(host))
                                wipe(host);
                } else if (r == 0 && !host->stays && !name_is_wanted(host) && operator_may_replace(host) &&
                           agent_remove(other->agent, member.id, 3 * SEC, removed, host) == 0) {
                        host->asked_to_go = true;
                        host->n_removals++;
                }
        }
        acting = more;
        if (more)
                at(world.now + SEC, acts, NULL, 0);
}

static void goes_on(SimHost *host) {
        host->leaving = true;
        if (!acting)
                at(world.now, acts, NULL, 0);
        acting = true;
}

/* A host that slept while every member it knows was replaced would find nobody, and nobody it would believe:
 * the next is replaced only when all know all, and no power cut makes them forget. */
static bool all_know_all(const SimHost *but) {
        for (unsigned i = 0; i < world.n_hosts; i++)
                for (unsigned j = 0; j < world.n_hosts; j++) {
                        SimHost *one = world.hosts[i], *other = world.hosts[j];
                        Member member;
                        if (one == but || one->leaving)
                                continue;
                        if (!host_is_in(one) || one->touched ||
                            agent_member_by_name(one->agent, other->name, &member) != 0 ||
                            member.id != other->id)
                                return false;
                }
        return true;
}

bool operator_may_replace(const SimHost *host) {
        if (!all_know_all(host))
                return false;
        uint64_t applied = 0, durable = UINT64_MAX;
        for (unsigned i = 0; i < world.n_hosts; i++) {
                if (world.hosts[i] == host || world.hosts[i]->leaving)
                        continue;
                applied = MAX(applied, world.hosts[i]->agent->tree_status.applied);
                durable = MIN(durable, world.hosts[i]->agent->tree_status.durable);
        }
        if (known_index == 0)
                known_index = applied;
        return durable >= known_index;
}

/* Nobody else could decide on its removal. */
static bool votes_alone(const SimHost *host) {
        const SimHost *leader = host_leader();
        const Conf *conf = leader ? leader->agent->raft_status.conf : NULL;
        return !conf || (conf->n_voters == 1 && conf_is_voter(conf, host->id));
}

void operator_replace(SimHost *host) {
        unsigned n = 0;
        if (votes_alone(host) && !host->touched)
                return;
        for (unsigned i = 0; i < world.n_hosts; i++)
                n += world.hosts[i]->leaving;
        if (host->leaving || (n + 1) * 2 > world.n_hosts)
                return;
        note("%s: is to be replaced", host->name);
        host->leaving_usec = world.now;
        host->by_join = chance(5000);
        goes_on(host);
}

bool operator_helps(SimHost *host) {
        if (!host->touched)
                return host->leaving;
        if (++host->ends >= 3)
                operator_replace(host);
        return true;
}

void operator_stop(void) {
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (world.hosts[i]->touched)
                        operator_replace(world.hosts[i]);
}
