/* The core alone against chance: 1 to 7 hosts, letters lost, doubled and overtaken, hosts crashing with what
 * their disks had not stored, links cut, disks that stall, logs trimmed, voters changed, leadership moved;
 * and after all that peace, in which everything must come right. Each seed is one run, the same on every
 * machine.
 *
 *      test_random [seed [count]] */
#include "cluster.h"

#include "agent/base/random.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef struct Weather {
        unsigned loss, doubles, crash, cut, stall, change, transfer, silent, trim, reorder; /* per 10,000 */
} Weather;

typedef struct Run {
        Table table;
        Random random;
        Weather weather;
        bool cut[NODES_MAX + 1][NODES_MAX + 1];
        uint64_t last_usec[NODES_MAX + 1][NODES_MAX + 1];
        uint64_t payload;
} Run;

static uint64_t below(Run *run, uint64_t n) {
        return random_below(&run->random, n);
}

static bool chance(Run *run, unsigned per_10000) {
        return below(run, 10000) < per_10000;
}

static uint64_t draw_delay(Table *table, const RaftMessage *m) {
        Run *run = CONTAINER_OF(table, Run, table);
        uint64_t usec = table->now + 200 + below(run, 3000);
        if (chance(run, run->weather.reorder))
                return usec + below(run, 400 * USEC_PER_MSEC);
        uint64_t *last = &run->last_usec[m->from][m->to];
        *last = MAX(*last + 1, usec);
        return *last;
}

static void weather_draw(Run *run) {
        /* Each run has its own mix, and many a run lacks a kind altogether. */
        unsigned *kinds[] = {&run->weather.loss,     &run->weather.doubles, &run->weather.crash,
                             &run->weather.cut,      &run->weather.stall,   &run->weather.change,
                             &run->weather.transfer, &run->weather.silent,  &run->weather.trim,
                             &run->weather.reorder};
        static const unsigned most[] = {3000, 3000, 100, 150, 60, 150, 100, 100, 200, 3000};
        for (size_t i = 0; i < ELEMENTSOF(kinds); i++)
                *kinds[i] = below(run, 3) == 0 ? 0 : (unsigned)below(run, most[i]);
}

static void deliver_due(Run *run) {
        Table *table = &run->table;
        for (size_t i = 0; i < table->n_letters;) {
                const RaftMessage *m = &table->letters[i].message;
                if (table->letters[i].usec > table->now) {
                        i++;
                        continue;
                }
                if (run->cut[m->from][m->to] || chance(run, run->weather.loss)) {
                        letter_drop(table, i);
                        continue;
                }
                if (chance(run, run->weather.doubles))
                        letter_copy(table, i, table->now + below(run, 300 * USEC_PER_MSEC));
                node_deliver(table, i);
        }
}

static void disks_work(Run *run) {
        Table *table = &run->table;
        for (size_t i = 0; i < table->n_nodes; i++) {
                Node *node = table->nodes + i;
                if (node->raft && node->n_pending > 0 && node->stalled_until <= table->now && below(run, 3))
                        node_store(table, node, 1 + below(run, node->n_pending));
        }
}

static void halls_work(Run *run) {
        Table *table = &run->table;
        for (size_t i = 0; i < table->n_nodes; i++) {
                Node *node = table->nodes + i;
                if (!node->raft)
                        continue;
                if (node->deadline_usec <= table->now) {
                        int r = raft_tick(node->raft, table->now);
                        assert(r == 0);
                        node_turn(table, node);
                        assert(node->deadline_usec > table->now);
                }
                if (node->n_loads > 0 && below(run, 4) == 0)
                        node_serve_load(table, node);
                if (node->n_snapshots > 0 && below(run, 20) == 0)
                        node_serve_snapshot(table, node, below(run, 4) > 0);

                RaftStatus status;
                raft_status(node->raft, &status);
                bool member = table->max_commit > node->applied && !status.keeps_log;
                if (member && below(run, 30) == 0)
                        node_observe(table, node,
                                     node->applied + below(run, table->max_commit - node->applied));
                if (status.role == RAFT_PASSIVE && status.keeps_log && !node->promoted &&
                    status.conf_committed && below(run, 50) == 0)
                        node_demote(table, node);
                if (chance(run, run->weather.trim)) {
                        if (node->applied > node->disk.tree)
                                node->disk.tree += below(run, node->applied - node->disk.tree + 1);
                        if (below(run, 2))
                                node_trim(node);
                }
        }
}

static void clients_work(Run *run) {
        Table *table = &run->table;
        Node *node = table->nodes + below(run, table->n_nodes);
        if (!node->raft || table->max_commit > INDEX_END / 2)
                return;
        for (uint64_t n = below(run, 3); n > 0; n--) {
                uint64_t payload = ++run->payload;
                (void)node_propose(table, node, &payload, sizeof(payload));
        }
        if (below(run, 4) == 0)
                (void)node_read(table, node);
        node_turn(table, node);
}

/* As the hall does: only hosts that answered and made their tree a base are asked to vote. */
static void change_voters(Run *run, Node *leader) {
        Table *table = &run->table;
        uint64_t voters[LIMIT_VOTERS], n = 0;
        for (size_t i = 0; i < table->n_nodes && n < LIMIT_VOTERS; i++)
                if (table->nodes[i].raft && below(run, 2))
                        voters[n++] = table->nodes[i].id;
        RaftStatus status;
        raft_status(leader->raft, &status);
        if (n == 0)
                return;
        for (size_t i = 0; i < n; i++) {
                Node *node = table_node(table, voters[i]);
                if (conf_is_voter(status.conf, node->id))
                        continue;
                /* One that does not know yet that it left would take its promotion for its old seat, and
                 * give it up as soon as it hears. */
                if (node->applied < status.conf_index)
                        return;
                node_base(table, node, node->applied);
                node->promoted = true;
        }
        raft_status(leader->raft, &status);
        (void)raft_change(leader->raft, voters, n, table->now);
        node_turn(table, leader);
}

static void trouble(Run *run) {
        Table *table = &run->table;
        Node *node = table->nodes + below(run, table->n_nodes);
        if (chance(run, run->weather.crash) && node->raft)
                node_crash(table, node, below(run, node->n_pending + 1));
        else if (!node->raft && below(run, 100) == 0)
                node_start(table, node);
        if (chance(run, run->weather.stall))
                node->stalled_until = table->now + below(run, 4 * USEC_PER_SEC);
        if (chance(run, run->weather.cut)) {
                uint64_t a = 1 + below(run, table->n_nodes), b = 1 + below(run, table->n_nodes);
                switch (below(run, 4)) {
                case 0: /* one way */
                        run->cut[a][b] = true;
                        break;
                case 1: /* one host alone */
                        for (size_t i = 1; i <= table->n_nodes; i++)
                                run->cut[a][i] = run->cut[i][a] = true;
                        break;
                case 2: /* two sides */
                        for (size_t i = 1; i <= table->n_nodes; i++)
                                for (size_t k = 1; k <= table->n_nodes; k++)
                                        run->cut[i][k] = (i <= a) != (k <= a);
                        break;
                default:
                        memset(run->cut, 0, sizeof(run->cut));
                }
        }
        Node *leader = table_leader(table);
        if (leader && chance(run, run->weather.change))
                change_voters(run, leader);
        if (leader && chance(run, run->weather.transfer)) {
                (void)raft_transfer(leader->raft, 0, table->now);
                node_turn(table, leader);
        }
        if (node->raft && chance(run, run->weather.silent)) {
                (void)raft_silent(node->raft, 1 + below(run, table->n_nodes), table->now);
                node_turn(table, node);
        }
}

static void step(Run *run, bool peace) {
        run->table.now += 500 + below(run, peace ? 5000 : 20000);
        deliver_due(run);
        disks_work(run);
        halls_work(run);
        clients_work(run);
        if (!peace)
                trouble(run);
}

static bool converged(Run *run) {
        Table *table = &run->table;
        Node *leader = table_leader(table);
        if (!leader)
                return false;
        RaftStatus status;
        raft_status(leader->raft, &status);
        if (!status.ready || conf_is_joint(status.conf) || !status.conf_committed)
                return false;
        for (uint32_t i = 0; i < status.conf->n_voters; i++) {
                RaftStatus other;
                raft_status(table_node(table, status.conf->voters[i].id)->raft, &other);
                if (other.leader != leader->id || other.commit + 50 < status.commit)
                        return false;
        }
        return true;
}

static void heal(Run *run) {
        Table *table = &run->table;
        run->weather = (Weather){};
        memset(run->cut, 0, sizeof(run->cut));
        for (size_t i = 0; i < table->n_nodes; i++) {
                table->nodes[i].stalled_until = 0;
                if (!table->nodes[i].raft)
                        node_start(table, table->nodes + i);
        }
}

static void run_seed(uint64_t seed, size_t steps, uint64_t counts[static 4]) {
        Run *run = calloc(1, sizeof(Run));
        assert(run);
        run->random.state = seed;
        run->table.seed = seed;
        run->table.heartbeat_usec = 100 * USEC_PER_MSEC;
        run->table.election_usec = 600 * USEC_PER_MSEC;
        run->table.uncommitted_bytes = below(run, 4) == 0 ? 100 : LIMIT_UNCOMMITTED_BYTES;
        run->table.cache_bytes = below(run, 2) ? 0 : 4096;
        run->table.delay = draw_delay;
        weather_draw(run);
        uint64_t n_nodes = 1 + below(run, 7);
        table_init(&run->table, n_nodes, 1 + below(run, MIN(n_nodes, (uint64_t)5)));

        for (size_t i = 0; i < steps; i++) {
                step(run, false);
                if (i % 200 == 0)
                        table_check_logs(&run->table);
        }
        heal(run);
        uint64_t before = run->table.max_commit, peace = run->table.now;
        while (run->table.now < peace + 10 * USEC_PER_SEC)
                step(run, true);
        uint64_t quiet = run->table.n_elections;
        while (run->table.now < peace + 20 * USEC_PER_SEC)
                step(run, true);
        table_check_logs(&run->table);
        for (size_t i = 0; i < n_nodes && !converged(run); i++)
                node_show(run->table.nodes + i, stderr);
        assert(converged(run));
        assert(run->table.max_commit > before || before > INDEX_END / 2);
        assert(run->table.n_elections == quiet); /* nobody disturbs a cluster at peace */
        counts[0] += run->table.max_commit;
        counts[1] += run->table.n_elections;
        counts[2] += run->table.n_reads_done;
        counts[3] += run->table.n_reads_lost;
        table_deinit(&run->table);
        free(run);
}

int main(int argc, char **argv) {
        uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
        uint64_t n = argc > 2 ? strtoull(argv[2], NULL, 10) : argc > 1 ? 1 : 1000;
        uint64_t counts[4] = {};

        /* Said before, since a broken promise ends the process; one line, rewritten. */
        for (uint64_t seed = first; seed < first + n; seed++) {
                fprintf(stderr, "\rseed %" PRIu64 " ", seed);
                run_seed(seed, 5000, counts);
        }
        printf("\n%" PRIu64 " runs: %" PRIu64 " entries committed, %" PRIu64 " elections, %" PRIu64
               " reads answered, %" PRIu64 " lost\n",
               n, counts[0], counts[1], counts[2], counts[3]);
        return 0;
}
