/* simulate SEED: one run of a whole cluster, decided by its seed. It grows from one host, lives through what
 * the seed has in store, is healed, and then has to be whole: writable on every host, equal everywhere,
 * nothing acknowledged lost, nothing applied twice, nothing told wrong.
 *
 * Exit status: 0 held, 1 a promise was broken, 2 usage, 3 liveness was lost, 4 a rare place was not seen,
 * 134 an assertion failed. The last line is the command that does it again. */
#include "sim.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TICK_USEC (100 * MSEC)

static void run_until(uint64_t usec) {
        while (happen_next(usec))
                ;
}

static bool run_until_true(uint64_t usec, bool (*is)(void)) {
        while (world.now < usec) {
                if (is())
                        return true;
                run_until(MIN(usec, world.now + 50 * MSEC));
        }
        return is();
}

/* ---- Growth ---- */

static void token_made(const RequestAnswer *answer, const char *token, void *userdata) {
        if (answer->answer == ANSWER_DONE)
                snprintf(world.token, sizeof(world.token), "%s", token);
}

/* Whoever is not in yet is sent there again. */
static void join_all(void *p, uint64_t a) {
        for (unsigned i = 0; i < world.n_hosts; i++) {
                SimHost *host = world.hosts[i];
                if (!host_runs(host) || host->joining || host->automatic || host->leaving ||
                    !world.token[0] || host_is_in(host))
                        continue;
                if (agent_join(host->agent, world.token, true, operator_joined, host) == 0)
                        host->joining = true;
        }
        at(world.now + SEC, join_all, NULL, 0);
}

static bool token_there(void) {
        return world.token[0];
}

static bool first_leads(void) {
        return world.hosts[0]->agent->requests.incarnation != 0;
}

static bool all_in(void) {
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (!host_is_in(world.hosts[i]))
                        return false;
        return true;
}

static void start_host(void *p, uint64_t a) {
        host_start(p);
}

static void found(void) {
        SimHost *first = world.hosts[0];
        host_start(first);
        if (!run_until_true(world.now + 10 * SEC, first_leads))
                stuck("the founder does not lead its cluster of one");
        memcpy(world.cluster, first->agent->tree_status.cluster, sizeof(world.cluster));
        world.founded = true;
        ghost_watch(first);

        TokenRequest request = {.lifetime_usec = 100 * 3600 * SEC, .uses = 1000, .class = MEMBER_FULL};
        int r = agent_token(first->agent, &request, token_made, NULL);
        assert(r == 0);
        if (!run_until_true(world.now + 10 * SEC, token_there))
                stuck("the founder makes no token");

        bool together = chance(5000);
        for (unsigned i = 1; i < world.n_hosts; i++) {
                world.hosts[i]->automatic = chance(3000);
                at(world.now + (together ? 0 : below(4 * SEC)), start_host, world.hosts[i], 0);
        }
        at(world.now + 10 * MSEC, join_all, NULL, 0);
}

/* ---- Healing ---- */

static bool stays_dead[HOSTS_MAX]; /* until this liveness phase is over */

static bool all_wrote(void) {
        static uint64_t next;
        bool all = true;
        for (unsigned i = 0; i < world.n_hosts; i++) {
                if (world.now >= next)
                        clients_finally(world.hosts[i]);
                all = all && (world.hosts[i]->finally_wrote || stays_dead[i]);
        }
        if (world.now >= next)
                next = world.now + SEC;
        return all;
}

static bool equal_everywhere(void) {
        const TreeStatus *first = NULL;
        for (unsigned i = 0; i < world.n_hosts; i++) {
                if (!host_is_in(world.hosts[i]))
                        return false;
                const TreeStatus *tree = &world.hosts[i]->agent->tree_status;
                if (first && (first->applied != tree->applied || first->revision != tree->revision))
                        return false;
                first = tree;
        }
        const Change *changes;
        size_t n = ghost_changes(&changes);
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (world.hosts[i]->oracle_position != n)
                        return false;
        return true;
}

static bool enough_vote(void) {
        SimHost *leader = host_leader();
        if (!leader)
                return false;
        const RaftStatus *status = &leader->agent->raft_status;
        return status->conf_committed && !conf_is_joint(status->conf) &&
               status->conf->n_voters == roles_voters_wanted(world.n_hosts, world.max_voters);
}

static bool whole(void) {
        return enough_vote() && clients_quiet() && clients_decided() && equal_everywhere();
}

static void tell_where_all_are(void) {
        for (unsigned i = 0; i < world.n_hosts; i++) {
                SimHost *host = world.hosts[i];
                if (!host->agent) {
                        note("%s: down", host->name);
                        continue;
                }
                Agent *agent = host->agent;
                const Conf *conf = agent->raft_status.conf;
                note("%s %016llx: in %d, listens %d, %s%s, term %llu, leader %016llx, voters %u+%u%s",
                     host->name, (unsigned long long)host->id, host_is_in(host), host->listening,
                     raft_role_name(agent->raft_status.role), agent->follow.active ? " (follows)" : "",
                     (unsigned long long)agent->raft_status.term, (unsigned long long)hall_leader(agent),
                     conf->n_voters, conf->n_old, agent->raft_status.conf_committed ? "" : " (open)");
                note("    commit %llu, last %llu, durable %llu, applied %llu, revision %llu",
                     (unsigned long long)agent->raft_status.commit,
                     (unsigned long long)agent->raft_status.last_index,
                     (unsigned long long)agent->raft_status.durable,
                     (unsigned long long)agent->tree_status.applied,
                     (unsigned long long)agent->tree_status.revision);
                note("    incarnation %llu, queued %d offered %d, generation %llu, fetching %d, call %d, promote %llu/%llu, seq %llu "
                     "stored %llu, oracle %zu",
                     (unsigned long long)agent->requests.incarnation, agent->requests.queued != NULL,
                     agent->requests.offered != NULL, (unsigned long long)agent->sessions.generation,
                     snapshot_fetching(agent), agent->follow.call != NULL,
                     (unsigned long long)agent->roles.promote_index,
                     (unsigned long long)agent->roles.promoted_usec, (unsigned long long)agent->seq,
                     (unsigned long long)agent->stored_seq, host->oracle_position);
                for (size_t k = 0; k < agent->raft_status.n_progress; k++) {
                        const RaftProgress *progress = &agent->raft_status.progress[k];
                        note("    %016llx: match %llu, next %llu%s%s", (unsigned long long)progress->id,
                             (unsigned long long)progress->match, (unsigned long long)progress->next,
                             progress->active ? ", active" : "",
                             progress->in_snapshot ? ", in snapshot" : "");
                }
                for (unsigned j = 0; j < world.n_hosts; j++)
                        if (j != i)
                                note("    %s: target %d%d, connected %d, greeted %d", world.hosts[j]->name,
                                     host->targets[j].named, host->targets[j].control,
                                     host->control[j] != NULL,
                                     members_connection(agent, world.hosts[j]->id) != NULL);
        }
}

/* One host goes for good: what its session owned has to go in time. */
static void session_ends(void) {
        if (world.n_hosts < 3)
                return;
        SimHost *host = world.hosts[below(world.n_hosts)];
        const Conf *conf = host_leader() ? host_leader()->agent->raft_status.conf : NULL;
        if (!conf || (conf->n_voters < 3 && conf_is_voter(conf, host->id)))
                return; /* without it there is no quorum */
        char prefix[32];
        snprintf(prefix, sizeof(prefix), "/eph/%s", host->name);
        uint64_t died_usec = world.now;
        host_kill(host, chance(5000));
        bool dead[HOSTS_MAX] = {};
        dead[host->i] = true;
        lease_dead(dead, died_usec);
        for (unsigned i = 0; i < world.n_hosts; i++)
                for (unsigned slot = 0; slot < OWN_SLOTS && host_is_in(world.hosts[i]); slot++) {
                        AgentEntry entry;
                        char path[48];
                        snprintf(path, sizeof(path), "%s/%u", prefix, slot);
                        if (agent_get(world.hosts[i]->agent, path, &entry) == 0)
                                broken("%s outlives its host on %s", path, world.hosts[i]->name);
                }
}

static void check_owned(void) {
        for (unsigned i = 0; i < world.n_hosts; i++)
                for (unsigned slot = 0; slot < OWN_SLOTS; slot++) {
                        SimHost *host = world.hosts[i];
                        AgentEntry entry;
                        char path[48];
                        snprintf(path, sizeof(path), "/eph/%s/%u", host->name, slot);
                        bool there = agent_get(host->agent, path, &entry) == 0;
                        if (there != host->own[slot].wanted)
                                broken("%s is %s (%s, generation %llu), but its owner %s it", path,
                                       there ? "there" : "not there", there ? entry.owner_tag : "",
                                       (unsigned long long)(there ? entry.owner_generation : 0),
                                       host->own[slot].wanted ? "wants" : "does not want");
                }
}

/* ---- A run ---- */

static void draw_world(void) {
        static const unsigned sizes[] = {1, 2, 3, 3, 3, 3, 3, 3, 3, 4, 4, 5, 5, 5, 7, 7, 9, 13};
        static const unsigned voters[] = {1, 3, 3, 5, 5, 5, 7, 7};
        static const uint64_t elections[] = {300 * MSEC,  600 * MSEC, 600 * MSEC,
                                             1500 * MSEC, 3 * SEC,    5 * SEC};
        unsigned n = sizes[below(ELEMENTSOF(sizes))];
        if (world.narrow.hosts > 0)
                n = MIN(n, world.narrow.hosts);
        world.max_voters = voters[below(ELEMENTSOF(voters))];
        world.election_usec = elections[below(ELEMENTSOF(elections))];
        world.heartbeat_usec = world.election_usec / 6;
        world.segment_bytes = (size_t)(8 * 1024) << below(4);
        uint64_t session_usec = between(2, 8) * SEC; /* MAX() looks twice */
        world.session_usec = MAX(session_usec, 3 * world.election_usec);
        if (chance(5000))
                world.session_least_usec = MAX(2 * SEC, 2 * world.election_usec);
        net_begin();
        limits_draw();
        for (unsigned i = 0; i < n; i++)
                (void)host_add();
}

#define ROUND_TICKS 2500 /* of faults at most; then all heals and has to work, and it begins anew */

static bool somebody_leads(void) {
        SimHost *leader = host_leader();
        return leader && leader->agent->raft_status.ready;
}

/* Connections need a moment (a silent one is given up after five seconds, a dead one dialled again within
 * two); then twenty election timeouts are plenty, and so is a handful of leaders. */
static void has_a_leader(const char *when) {
        uint64_t bound = 12 * SEC + 20 * world.election_usec;
        if (!run_until_true(world.now + bound, somebody_leads))
                tell_where_all_are(), stuck("%s nobody leads for 20 election timeouts", when);
}

static void has_to_work(const char *when) {
        for (unsigned i = 0; i < world.n_hosts; i++)
                world.hosts[i]->finally_wrote = false;
        has_a_leader(when);
        uint64_t before = world.sums.elections;
        if (!run_until_true(world.now + 30 * SEC, all_wrote))
                tell_where_all_are(), stuck("30 s after %s not every host could write", when);
        if (world.sums.elections > before + 10)
                stuck("after %s %llu leaders came and went", when,
                      (unsigned long long)(world.sums.elections - before));
}

/* The operator replaces a host only when no power cut can make another forget who is there: a checkpoint may
 * be half a minute off. */
static bool nobody_leaves(void) {
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (world.hosts[i]->leaving)
                        return false;
        return true;
}

static void live_through(uint64_t ticks) {
        faults_begin();
        run_until(world.now + ticks * TICK_USEC);
        note("healing");
        faults_end();
        if (!nobody_leaves()) {
                has_a_leader("healing");
                if (!run_until_true(world.now + 60 * SEC, nobody_leaves))
                        tell_where_all_are(), stuck("a host could not be replaced within a minute");
        }
        has_to_work("healing");
}

/* A minority of the voters dies at once, and whoever else; the others have to work without them. */
static void without_a_minority(void) {
        run_until(world.now +
                  10 * SEC); /* a change of voters that was begun with them could not end without */
        SimHost *leader = host_leader();
        const Conf *conf = leader ? leader->agent->raft_status.conf : NULL;
        if (!conf || conf_is_joint(conf) || !leader->agent->raft_status.conf_committed || conf->n_voters < 3)
                return;
        unsigned may_die = (conf->n_voters - 1) / 2;
        for (unsigned n = 0; n < 4 * world.n_hosts; n++) {
                unsigned i = (unsigned)below(world.n_hosts);
                bool voter = conf_is_voter(conf, world.hosts[i]->id);
                if (stays_dead[i] || (voter ? may_die == 0 : !chance(1000)))
                        continue;
                stays_dead[i] = true;
                may_die -= voter;
        }
        note("a minority dies");
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (stays_dead[i])
                        host_kill(world.hosts[i], chance(5000));
        uint64_t died_usec = world.now;
        has_to_work("the death of a minority");
        if (chance(3000))
                lease_dead(stays_dead, died_usec);
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (TAKE_FLAG(stays_dead[i]))
                        host_restart_at(world.hosts[i], world.now + below(3 * SEC));
}

static void has_to_be_whole(void) {
        world.clients = false;
        if (!run_until_true(world.now + 40 * SEC, whole))
                tell_where_all_are(),
                        stuck("40 s later the cluster is not whole: quiet %d, decided %d, equal %d",
                              clients_quiet(), clients_decided(), equal_everywhere());
}

_Noreturn void plot(const Run *plan) {
        world_begin(plan->seed, plan->ticks, plan->verbose);
        world.silent = plan->silent;
        world.narrow = plan->narrow;
        draw_world();
        if (plan->vote != 0)
                world.max_voters = plan->vote;
        moments_begin();
        found();

        bool early = chance(3000) && plan->vote == 0; /* faults from the first joins on */
        if (!early && !run_until_true(world.now + 60 * SEC, all_in))
                tell_where_all_are(), stuck("not all hosts could join");
        if (plan->vote != 0 && !run_until_true(world.now + 60 * SEC, enough_vote))
                tell_where_all_are(), stuck("not %u of the hosts vote", plan->vote);
        world.began_usec = world.now;
        clients_begin();
        operator_begin();
        strangers_begin();
        guest_begin();
        versions_begin();
        for (uint64_t left = plan->ticks; left > 0;) {
                uint64_t ticks = MIN(left, (uint64_t)ROUND_TICKS);
                live_through(ticks);
                left -= ticks;
                if (left > 0)
                        without_a_minority();
        }
        has_to_work("everything");
        run_until(world.now + below(10 * SEC));
        has_to_be_whole();
        run_until(world.now + 7 * SEC);
        if (!run_until_true(world.now + 10 * SEC, whole))
                tell_where_all_are(), stuck("the cluster does not stay whole");
        note("whole");
        ghost_final();
        clients_final();
        strangers_final();
        check_owned();
        session_ends();
        printf("seed %llu: held; %u hosts, %.1f s, %llu events, %llu wishes, revision %llu, hash %016llx\n",
               (unsigned long long)world.seed, world.n_hosts, (double)world.now / SEC,
               (unsigned long long)world.n_events, (unsigned long long)clients_count(),
               (unsigned long long)ghost_revision(), (unsigned long long)world.hash);
        finish(SIM_HELD);
}

/* ---- The command line ---- */

static int add(char *to, size_t room, int n, const char *format, ...) _printf_(4, 5);
static int add(char *to, size_t room, int n, const char *format, ...) {
        va_list ap;
        va_start(ap, format);
        int more = vsnprintf(to + MIN((size_t)n, room), room - MIN((size_t)n, room), format, ap);
        va_end(ap);
        return n + more;
}

int run_command(const Run *plan, char *to, size_t room) {
        const Narrow *narrow = &plan->narrow;
        int n = add(to, room, 0, "%s --ticks %llu", store_program, (unsigned long long)plan->ticks);
        const char *before = " --without ";
        for (unsigned i = 0; fault_name(i); i++)
                if (narrow->without >> i & 1) {
                        n = add(to, room, n, "%s%s", before, fault_name(i));
                        before = ",";
                }
        if (narrow->hosts > 0)
                n = add(to, room, n, " --hosts %u", narrow->hosts);
        if (narrow->clients > 0)
                n = add(to, room, n, " --clients %u", narrow->clients);
        if (narrow->to > 0)
                n = add(to, room, n, " --window %llu-%llu", (unsigned long long)narrow->from,
                        (unsigned long long)narrow->to);
        return add(to, room, n, " %llu", (unsigned long long)plan->seed);
}

static bool parse_without(const char *text, uint64_t *ret) {
        char copy[400];
        snprintf(copy, sizeof(copy), "%s", text);
        for (char *rest = copy, *name; (name = strsep(&rest, ","));) {
                unsigned i = 0;
                while (fault_name(i) && strcmp(fault_name(i), name) != 0)
                        i++;
                if (!fault_name(i)) {
                        fprintf(stderr, "there is no fault '%s'\n", name);
                        return false;
                }
                *ret |= UINT64_C(1) << i;
        }
        return true;
}

/* One seed per line; what stands behind it, or behind a '#', is for people. */
static bool read_list(const char *path, Batch *batch) {
        FILE *file = fopen(path, "re");
        if (!file) {
                perror(path);
                return false;
        }
        char line[200];
        while (fgets(line, sizeof(line), file)) {
                unsigned long long seed, last;
                int n = sscanf(line, "%llu-%llu", &seed, &last);
                if (n < 1)
                        continue;
                if (n < 2)
                        last = seed;
                batch->seeds =
                        reallocarray(batch->seeds, batch->n_seeds + (last - seed) + 1, sizeof(uint64_t));
                assert(batch->seeds && last >= seed);
                for (; seed <= last; seed++)
                        batch->seeds[batch->n_seeds++] = seed;
        }
        fclose(file);
        return true;
}

static int usage(void) {
        fprintf(stderr,
                "simulate [-v] [--ticks N] [--shrink] [NARROWED] SEED\n"
                "simulate [-q] [--ticks N] [--jobs N] [--twice] [--seen] [--seen-file FILE] [--require-seen] --seeds A-B | --list FILE\n"
                "simulate [--ticks N] [--jobs N] [--failures FILE] --minutes N [--first SEED]\n"
                "NARROWED: [--without FAULT,…] [--hosts N] [--clients N] [--window TICK-TICK]\n");
        return SIM_USAGE;
}

static int shrink_one(const Run *plan) {
        char text[1024], command[600];
        int status = run_apart(plan, text, sizeof(text));
        printf("%s", text);
        if (status == SIM_HELD)
                return status;
        Run smaller = shrink(plan, status, text, 300 * SEC);
        run_command(&smaller, command, sizeof(command));
        printf("%s\n", command);
        return status;
}

int main(int argc, char **argv) {
        static const struct option options[] = {
                {"seeds", required_argument, NULL, 's'},
                {"list", required_argument, NULL, 'l'},
                {"minutes", required_argument, NULL, 'm'},
                {"first", required_argument, NULL, 'f'},
                {"jobs", required_argument, NULL, 'j'},
                {"failures", required_argument, NULL, 'F'},
                {"ticks", required_argument, NULL, 't'},
                {"twice", no_argument, NULL, '2'},
                {"seen", no_argument, NULL, 'e'},
                {"require-seen", no_argument, NULL, 'E'},
                {"seen-file", required_argument, NULL, 'N'},
                {"shrink", no_argument, NULL, 'S'},
                {"without", required_argument, NULL, 'w'},
                {"hosts", required_argument, NULL, 'h'},
                {"clients", required_argument, NULL, 'c'},
                {"window", required_argument, NULL, 'W'},
                {},
        };
        static Batch batch = {.jobs = 1, .run.ticks = 600, .shrink_usec = 60 * SEC};
        unsigned long long from = 0, to = 0;
        const char *seen_file = NULL;
        bool many = false, seen = false, require_seen = false, shrinks = false;
        for (int c; (c = getopt_long(argc, argv, "vq", options, NULL)) >= 0;)
                switch (c) {
                case 's':
                        if (sscanf(optarg, "%llu-%llu", &from, &to) != 2 || from > to)
                                return usage();
                        batch.from = from, batch.to = to;
                        many = true;
                        break;
                case 'l':
                        if (!read_list(optarg, &batch))
                                return SIM_USAGE;
                        many = true;
                        break;
                case 'm':
                        batch.usec = (uint64_t)(atof(optarg) * 60 * SEC);
                        batch.to = UINT64_MAX;
                        batch.progress = batch.quiet = many = true;
                        break;
                case 'f':
                        batch.from = strtoull(optarg, NULL, 10);
                        break;
                case 'j':
                        batch.jobs = (unsigned)MAX(1, MIN(atoi(optarg), 64));
                        break;
                case 'F':
                        batch.failures = optarg;
                        break;
                case 't':
                        batch.run.ticks = strtoull(optarg, NULL, 10);
                        break;
                case '2':
                        batch.twice = true;
                        break;
                case 'E':
                        require_seen = true;
                        break;
                case 'e':
                        seen = true;
                        break;
                case 'N':
                        seen_file = optarg;
                        break;
                case 'S':
                        shrinks = true;
                        break;
                case 'w':
                        if (!parse_without(optarg, &batch.run.narrow.without))
                                return SIM_USAGE;
                        break;
                case 'h':
                        batch.run.narrow.hosts = (unsigned)atoi(optarg);
                        break;
                case 'c':
                        batch.run.narrow.clients = (unsigned)atoi(optarg);
                        break;
                case 'W':
                        if (sscanf(optarg, "%llu-%llu", &from, &to) != 2 || from >= to)
                                return usage();
                        batch.run.narrow.from = from, batch.run.narrow.to = to;
                        break;
                case 'q':
                        batch.quiet = true;
                        break;
                case 'v':
                        batch.run.verbose = true;
                        break;
                default:
                        return usage();
                }
        if (many) {
                seen_share();
                int r = batch_run(&batch);
                if (seen_file && !seen_keep(seen_file)) {
                        perror(seen_file);
                        return SIM_USAGE;
                }
                unsigned n_never = seen || require_seen ? seen_tell(seen) : 0;
                return r != SIM_HELD ? r : require_seen && n_never > 0 ? SIM_UNSEEN : SIM_HELD;
        }
        if (optind + 1 != argc)
                return usage();
        batch.run.seed = strtoull(argv[optind], NULL, 10);
        if (shrinks)
                return shrink_one(&batch.run);
        plot(&batch.run);
}
