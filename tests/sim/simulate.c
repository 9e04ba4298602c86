/* simulate SEED: one run of a whole cluster, decided by its seed. It grows from one host, lives through what
 * the seed has in store, is healed, and then has to be whole: writable on every host, equal everywhere,
 * nothing acknowledged lost, nothing applied twice, nothing told wrong.
 *
 *      simulate [-v] [--ticks N] SEED              a tick is 100 ms of virtual time
 *      simulate [--ticks N] [--twice] --seeds A-B  each in a process of its own
 *      … --seen, --require-seen                    which rare places were reached; fails when one never was
 *
 * Exit status: 0 held, 1 a promise was broken, 2 usage, 3 liveness was lost, 4 a rare place was not seen,
 * 134 an assertion failed. The last line is the command that does it again. */
#include "sim.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
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

static void joined(JoinAnswer answer, const char *why, void *userdata) {
        SimHost *host = userdata;
        host->joining = false;
        note("%s: join: %d %s", host->name, answer, why);
}

/* Whoever is not in yet is sent there again. */
static void join_all(void *p, uint64_t a) {
        for (unsigned i = 0; i < world.n_hosts; i++) {
                SimHost *host = world.hosts[i];
                if (!host_runs(host) || host->joining || host->automatic || host_is_in(host))
                        continue;
                if (agent_join(host->agent, world.token, true, joined, host) == 0)
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

static bool all_wrote(void) {
        static uint64_t next;
        bool all = true;
        for (unsigned i = 0; i < world.n_hosts; i++) {
                if (world.now >= next)
                        clients_finally(world.hosts[i]);
                all = all && world.hosts[i]->finally_wrote;
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

static bool whole(void) {
        SimHost *leader = host_leader();
        if (!leader || !clients_quiet() || !clients_decided() || !equal_everywhere())
                return false;
        const RaftStatus *status = &leader->agent->raft_status;
        return status->conf_committed && !conf_is_joint(status->conf) &&
               status->conf->n_voters == roles_voters_wanted(world.n_hosts, world.max_voters);
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
        char prefix[32];
        snprintf(prefix, sizeof(prefix), "/eph/%s", host->name);
        uint64_t died_usec = world.now, bound = world.session_usec + 2 * SEC + 500 * MSEC;
        if (host == host_leader())
                bound += 4 * world.election_usec;
        host_kill(host, chance(5000));
        while ((world.now < MAX(died_usec, world.led_usec) + bound || !host_leader()) &&
               world.now < died_usec + 120 * SEC)
                run_until(world.now + 100 * MSEC);
        if (world.now >= died_usec + 120 * SEC)
                stuck("no lasting leader within two minutes after the last death");
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
        static const unsigned sizes[] = {1, 2, 3, 3, 3, 4, 5, 5};
        static const uint64_t elections[] = {300 * MSEC, 600 * MSEC, 600 * MSEC, 1500 * MSEC};
        unsigned n = sizes[below(ELEMENTSOF(sizes))];
        world.max_voters = chance(7000) ? 3 : 5;
        world.election_usec = elections[below(ELEMENTSOF(elections))];
        world.heartbeat_usec = world.election_usec / 6;
        world.segment_bytes = (size_t)(8 * 1024) << below(4);
        world.session_usec = between(2, 8) * SEC;
        net_begin();
        limits_draw();
        for (unsigned i = 0; i < n; i++)
                (void)host_add();
}

static void run(uint64_t seed, uint64_t ticks, bool verbose) {
        world_begin(seed, ticks, verbose);
        draw_world();
        found();

        bool early = chance(3000); /* faults from the first joins on */
        if (!early && !run_until_true(world.now + 60 * SEC, all_in))
                tell_where_all_are(), stuck("not all hosts could join");
        clients_begin();
        faults_begin();
        run_until(world.now + ticks * TICK_USEC);

        note("healing");
        faults_end();
        if (!run_until_true(world.now + 30 * SEC, all_wrote))
                tell_where_all_are(), stuck("30 s after healing not every host could write");
        run_until(world.now + below(10 * SEC));
        world.clients = false;
        if (!run_until_true(world.now + 40 * SEC, whole))
                tell_where_all_are(),
                        stuck("40 s later the cluster is not whole: quiet %d, decided %d, equal %d",
                              clients_quiet(), clients_decided(), equal_everywhere());
        run_until(world.now + 7 * SEC);
        if (!run_until_true(world.now + 10 * SEC, whole))
                tell_where_all_are(), stuck("the cluster does not stay whole");
        note("whole");
        ghost_final();
        clients_final();
        check_owned();
        session_ends();
        printf("seed %llu: held; %u hosts, %.1f s, %llu events, %llu wishes, revision %llu, hash %016llx\n",
               (unsigned long long)seed, world.n_hosts, (double)world.now / SEC,
               (unsigned long long)world.n_events, (unsigned long long)clients_count(),
               (unsigned long long)ghost_revision(), (unsigned long long)world.hash);
        finish(SIM_HELD);
}

/* ---- Many ---- */

static int run_in_child(uint64_t seed, uint64_t ticks, char line[static 256]) {
        int fds[2];
        if (pipe(fds) < 0)
                return SIM_USAGE;
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
                (void)dup2(fds[1], STDOUT_FILENO);
                close(fds[0]);
                close(fds[1]);
                if (!freopen("/dev/null", "w", stderr))
                        _exit(SIM_USAGE);
                run(seed, ticks, false);
        }
        close(fds[1]);
        size_t size = 0;
        for (ssize_t n; size < 255 && (n = read(fds[0], line + size, 255 - size)) > 0;)
                size += (size_t)n;
        line[size] = 0;
        close(fds[0]);
        int status = SIM_USAGE;
        (void)waitpid(pid, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : SIM_ASSERTION;
}

static int run_many(uint64_t from, uint64_t to, uint64_t ticks, bool twice, bool quiet) {
        int worst = SIM_HELD;
        uint64_t n_failed = 0;
        for (uint64_t seed = from; seed <= to; seed++) {
                char line[256], again[256];
                int r = run_in_child(seed, ticks, line);
                if (r == SIM_HELD && twice && run_in_child(seed, ticks, again) == SIM_HELD &&
                    strcmp(line, again) != 0) {
                        printf("seed %llu differs from itself:\n%s%s", (unsigned long long)seed, line,
                               again);
                        r = SIM_BROKEN;
                }
                if (r != SIM_HELD || !quiet)
                        printf("%s", line);
                if (r == SIM_HELD)
                        continue;
                n_failed++;
                worst = worst == SIM_HELD ? r : worst;
        }
        printf("%llu seeds, %llu failed\n", (unsigned long long)(to - from + 1),
               (unsigned long long)n_failed);
        return worst;
}

static int usage(void) {
        fprintf(stderr,
                "simulate [-v] [--ticks N] SEED | [-q] [--ticks N] [--twice] [--seen] [--require-seen] --seeds A-B\n");
        return SIM_USAGE;
}

int main(int argc, char **argv) {
        static const struct option options[] = {
                {"seeds", required_argument, NULL, 's'},  {"ticks", required_argument, NULL, 't'},
                {"twice", no_argument, NULL, '2'},        {"seen", no_argument, NULL, 'e'},
                {"require-seen", no_argument, NULL, 'E'}, {},
        };
        unsigned long long ticks = 600, from = 0, to = 0;
        bool verbose = false, many = false, twice = false, quiet = false, seen = false, require_seen = false;
        for (int c; (c = getopt_long(argc, argv, "vq", options, NULL)) >= 0;)
                switch (c) {
                case 's':
                        if (sscanf(optarg, "%llu-%llu", &from, &to) != 2 || from > to)
                                return usage();
                        many = true;
                        break;
                case 't':
                        ticks = strtoull(optarg, NULL, 10);
                        break;
                case '2':
                        twice = true;
                        break;
                case 'E':
                        require_seen = true;
                        break;
                case 'e':
                        seen = true;
                        break;
                case 'q':
                        quiet = true;
                        break;
                case 'v':
                        verbose = true;
                        break;
                default:
                        return usage();
                }
        if (many) {
                seen_share();
                int r = run_many(from, to, ticks, twice, quiet);
                unsigned n_never = seen || require_seen ? seen_tell(seen) : 0;
                return r != SIM_HELD ? r : require_seen && n_never > 0 ? SIM_UNSEEN : SIM_HELD;
        }
        if (optind + 1 != argc)
                return usage();
        run(strtoull(argv[optind], NULL, 10), ticks, verbose);
        return 0;
}
