/* The core alone against chance: 1 to 7 hosts, letters lost, doubled and overtaken, hosts crashing with what
 * their disks had not stored, links cut in every shape that has a name, disks that stall, logs trimmed,
 * voters changed (in some runs all the time), leadership moved (in some every hundred ticks); and after all
 * that peace, in which everything must come right, with few elections. In some runs a partial partition
 * stays as it is for a while before, with nothing else going wrong: then, too, elections are few (R37). Each
 * seed is one run, the same on every machine.
 *
 *      test_random [seed [count]] */
#include "cluster.h"

#include "agent/base/random.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Elections: in the first 10 s of a partition that stays, in the 20 s after them, in the 10 s after healing.
 */
#define LIMIT_SETTLING 4
#define LIMIT_STANDING 2
#define LIMIT_HEALING  4

typedef struct Weather {
        unsigned loss, doubles, crash, cut, flap, stall, change, transfer, silent, trim, reorder,
                damage; /* per 10,000 */
        unsigned down;  /* about so many looks at a host that is down */
} Weather;

/* Shapes of what hosts can hear of each other, on a circle of all hosts turned by chance. */
typedef enum Shape {
        SHAPE_WHOLE,
        SHAPE_ONE_WAY, /* one link, one direction */
        SHAPE_DEAF,    /* one host hears nobody, and is heard */
        SHAPE_DUMB,    /* one host hears all, and nobody hears it */
        SHAPE_ALONE,   /* one host by itself */
        SHAPE_SIDES,   /* two sides */
        SHAPE_BRIDGE,  /* two sides, and one host that reaches both */
        SHAPE_CHAIN,   /* each host reaches its neighbours; the ends have one */
        SHAPE_RING,    /* each host reaches its two neighbours */
        SHAPE_STAR,    /* all reach one host only ("quorum loss", "constrained election") */
        SHAPE_END,
} Shape;

static const char *const shape_names[SHAPE_END] = {"whole", "one way", "deaf",  "dumb", "alone",
                                                   "sides", "bridge",  "chain", "ring", "star"};

typedef struct Counts {
        uint64_t committed, elections, reads, lost, damages;
        uint64_t most_after_healing, most_in_shape[SHAPE_END], n_in_shape[SHAPE_END];
} Counts;

typedef struct Run {
        Table table;
        Random random;
        Weather weather;
        Shape shape; /* put last */
        bool cut[NODES_MAX + 1][NODES_MAX + 1];
        uint64_t transfer_every, transfer_next;
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
                             &run->weather.reorder,  &run->weather.flap,    &run->weather.damage};
        run->weather.down = 100;
        static const unsigned most[] = {3000, 3000, 100, 150, 60, 150, 100, 100, 200, 3000, 300, 150};
        for (size_t i = 0; i < ELEMENTSOF(kinds); i++)
                *kinds[i] = below(run, 3) == 0 ? 0 : (unsigned)below(run, most[i]);
        if (below(run, 8) == 0)
                run->weather.change = 3000; /* as soon as one is through, the next */
        if (below(run, 8) == 0)
                run->transfer_every = 100 * run->table.heartbeat_usec;
}

static void deliver_due(Run *run) {
        Table *table = &run->table;
        bool touched[NODES_MAX + 1] = {};
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
                touched[m->to] = true;
                node_deliver(table, i);
        }
        for (size_t i = 0; i < table->n_nodes && table->bundles; i++)
                if (touched[table->nodes[i].id] && table->nodes[i].raft)
                        node_turn(table, table->nodes + i);
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
                if (node->disk.damaged)
                        return;
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

static bool shape_hears(Shape shape, uint64_t n, uint64_t middle, uint64_t a, uint64_t b) {
        uint64_t apart = a < b ? b - a : a - b;
        switch (shape) {
        case SHAPE_WHOLE:
        case SHAPE_END:
                return true;
        case SHAPE_ONE_WAY:
                return a != 0 || b != middle;
        case SHAPE_DEAF:
                return b != 0;
        case SHAPE_DUMB:
                return a != 0;
        case SHAPE_ALONE:
                return a != 0 && b != 0;
        case SHAPE_SIDES:
                return (a <= middle) == (b <= middle);
        case SHAPE_BRIDGE:
                return a == middle || b == middle || (a < middle) == (b < middle);
        case SHAPE_CHAIN:
                return apart == 1;
        case SHAPE_RING:
                return apart == 1 || apart == n - 1;
        case SHAPE_STAR:
                return a == 0 || b == 0;
        }
        return true;
}

static void shape_put(Run *run, Shape shape) {
        uint64_t n = run->table.n_nodes, turn = below(run, n), middle = below(run, n);
        for (uint64_t i = 1; i <= n; i++)
                for (uint64_t k = 1; k <= n; k++)
                        run->cut[i][k] =
                                i != k && !shape_hears(shape, n, middle, (i + turn) % n, (k + turn) % n);
}

static bool list_survives(Run *run, const ConfVoter *voters, uint32_t n, uint64_t also) {
        uint32_t whole = 0;
        for (uint32_t i = 0; i < n; i++) {
                const Node *node = table_node(&run->table, voters[i].id);
                whole += !node->disk.damaged && node->id != also;
        }
        return n == 0 || whole > n / 2;
}

static bool conf_survives(Run *run, const Conf *conf, uint64_t also) {
        return list_survives(run, conf->voters, conf->n_voters, also) &&
               list_survives(run, conf->old, conf->n_old, also);
}

static bool entries_survive(Run *run, Entry **entries, size_t n, uint64_t from, uint64_t also) {
        for (size_t i = 0; i < n; i++) {
                Conf conf;
                if (entries[i]->type != ENTRY_CONF || entries[i]->index < from)
                        continue;
                int r = conf_decode(BYTES(entries[i]->data, entries[i]->size), &conf);
                assert(r == 0);
                if (!conf_survives(run, &conf, also))
                        return false;
        }
        return true;
}

/* Whatever configuration is in force or on its way, a majority is left that lost nothing. */
static bool all_survive(Run *run, uint64_t also) {
        Table *table = &run->table;
        uint64_t index;
        Conf conf = *table_conf_at(table, table->max_commit, &index);
        bool survive = conf_survives(run, &conf, also);
        for (size_t i = 0; i < table->n_nodes && survive; i++) {
                const Node *node = table->nodes + i;
                survive = entries_survive(run, node->disk.entries, node->disk.n_entries, index, also);
                for (size_t k = 0; k < node->n_pending && survive; k++)
                        survive = entries_survive(run, node->pending[k].entries, node->pending[k].n_entries,
                                                  index, also);
        }
        for (size_t i = 0; i < table->n_letters && survive; i++) {
                const RaftMessage *m = &table->letters[i].message;
                survive = entries_survive(run, m->entries, m->n_entries, index, also);
        }
        return survive;
}

/* A host crashes and comes back without the end of its log, and knows it. */
static void damage(Run *run, Node *node) {
        Disk *disk = &node->disk;
        if (!disk->has_log || disk->damaged || !all_survive(run, node->id))
                return;
        node_crash(&run->table, node, below(run, node->n_pending + 1));
        uint64_t keep = disk->n_entries - below(run, MIN(disk->n_entries, (size_t)5) + 1);
        uint64_t term = disk->term - below(run, MIN(disk->term, (uint64_t)3) + 1);
        node_damage(&run->table, node, disk->base_index + keep, term, true);
        if (below(run, 2))
                node_start(&run->table, node);
}

static void trouble(Run *run) {
        Table *table = &run->table;
        Node *node = table->nodes + below(run, table->n_nodes);
        if (chance(run, run->weather.damage) && node->raft)
                damage(run, node);
        else if (chance(run, run->weather.crash) && node->raft)
                node_crash(table, node, below(run, node->n_pending + 1));
        else if (!node->raft && below(run, run->weather.down) == 0)
                node_start(table, node);
        if (chance(run, run->weather.stall))
                node->stalled_until = table->now + below(run, 4 * USEC_PER_SEC);
        if (chance(run, run->weather.cut)) {
                run->shape = (Shape)below(run, SHAPE_END);
                shape_put(run, run->shape);
        }
        if (chance(run, run->weather.flap))
                shape_put(run, below(run, 2) ? run->shape : SHAPE_WHOLE);
        Node *leader = table_leader(table);
        if (leader && chance(run, run->weather.change))
                change_voters(run, leader);
        bool due = run->transfer_every != 0 && table->now >= run->transfer_next;
        if (due)
                run->transfer_next = table->now + run->transfer_every;
        if (leader && (due || chance(run, run->weather.transfer))) {
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
                if (other.leader != leader->id || other.commit + 50 < status.commit || other.damaged)
                        return false;
        }
        return true;
}

/* All hosts run, and nothing goes wrong any more, except that links stay cut. */
static void calm(Run *run, Shape shape) {
        Table *table = &run->table;
        run->weather = (Weather){};
        run->transfer_every = 0;
        shape_put(run, shape);
        for (size_t i = 0; i < table->n_nodes; i++) {
                table->nodes[i].stalled_until = 0;
                if (!table->nodes[i].raft)
                        node_start(table, table->nodes + i);
        }
}

/* Elections within so much time. */
static uint64_t live(Run *run, uint64_t usec) {
        uint64_t before = run->table.n_elections, end = run->table.now + usec;
        while (run->table.now < end)
                step(run, true);
        return run->table.n_elections - before;
}

/* A partial partition that stays: whoever comes to office keeps it, or nobody does (R37). */
static void stand(Run *run, Counts *counts) {
        Shape shape = SHAPE_ONE_WAY + (Shape)below(run, SHAPE_END - SHAPE_ONE_WAY);
        calm(run, shape);
        uint64_t settling = live(run, 10 * USEC_PER_SEC), after = live(run, 20 * USEC_PER_SEC);
        counts->n_in_shape[shape]++;
        counts->most_in_shape[shape] = MAX(counts->most_in_shape[shape], settling + after);
        if (settling > LIMIT_SETTLING || after > LIMIT_STANDING)
                fprintf(stderr, "%s: %" PRIu64 " elections, then %" PRIu64 "\n", shape_names[shape],
                        settling, after);
        assert(settling <= LIMIT_SETTLING && after <= LIMIT_STANDING);
}

static void run_seed(uint64_t seed, size_t steps, Counts *counts) {
        Run *run = calloc(1, sizeof(Run));
        assert(run);
        run->random.state = seed;
        run->table.seed = seed;
        run->table.heartbeat_usec = 100 * USEC_PER_MSEC;
        run->table.election_usec = 600 * USEC_PER_MSEC;
        run->table.uncommitted_bytes = below(run, 4) == 0 ? 100 : LIMIT_UNCOMMITTED_BYTES;
        run->table.cache_bytes = below(run, 2) ? 0 : 4096;
        run->table.delay = draw_delay;
        run->table.bundles = seed % 4 == 0; /* all letters of a step in one turn, as hosts have it */
        weather_draw(run);
        uint64_t n_nodes = 1 + below(run, 7), n_voters = 1 + below(run, MIN(n_nodes, (uint64_t)5));
        if (seed % 4 == 0) {
                /* Logs that break all the time, where each voter is needed. */
                n_nodes = n_voters = 3;
                run->weather.damage = 300;
                run->weather.crash = 200;
                run->weather.cut = 300;
                run->weather.down = 5;
        }
        table_init(&run->table, n_nodes, n_voters);

        for (size_t i = 0; i < steps; i++) {
                step(run, false);
                if (i % 200 == 0)
                        table_check_logs(&run->table);
        }
        counts->elections += run->table.n_elections;
        if (below(run, 3) == 0)
                stand(run, counts);

        calm(run, SHAPE_WHOLE);
        uint64_t before = run->table.max_commit;
        uint64_t healing = live(run, 10 * USEC_PER_SEC);
        uint64_t quiet = live(run, 10 * USEC_PER_SEC);
        table_check_logs(&run->table);
        for (size_t i = 0; i < n_nodes && !converged(run); i++)
                node_show(run->table.nodes + i, stderr);
        assert(converged(run));
        assert(run->table.max_commit > before || before > INDEX_END / 2);
        assert(healing <= LIMIT_HEALING && quiet == 0); /* nobody disturbs a cluster at peace */
        counts->most_after_healing = MAX(counts->most_after_healing, healing);
        counts->committed += run->table.max_commit;
        counts->reads += run->table.n_reads_done;
        counts->lost += run->table.n_reads_lost;
        counts->damages += run->table.n_damages;
        table_deinit(&run->table);
        free(run);
}

int main(int argc, char **argv) {
        uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
        uint64_t n = argc > 2 ? strtoull(argv[2], NULL, 10) : argc > 1 ? 1 : 1000;
        Counts counts = {};

        /* Said before, since a broken promise ends the process; one line, rewritten. */
        for (uint64_t seed = first; seed < first + n; seed++) {
                fprintf(stderr, "\rseed %" PRIu64 " ", seed);
                run_seed(seed, 5000, &counts);
        }
        printf("\n%" PRIu64 " runs: %" PRIu64 " entries committed, %" PRIu64 " elections, %" PRIu64
               " reads answered, %" PRIu64 " lost, %" PRIu64
               " logs damaged\nmost elections after healing: %" PRIu64 "\n",
               n, counts.committed, counts.elections, counts.reads, counts.lost, counts.damages,
               counts.most_after_healing);
        for (size_t i = SHAPE_ONE_WAY; i < SHAPE_END; i++)
                printf("in 30 s of %s: %" PRIu64 " at most (%" PRIu64 " runs)\n", shape_names[i],
                       counts.most_in_shape[i], counts.n_in_shape[i]);
        return 0;
}
