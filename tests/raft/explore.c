/* The core in every situation of a small world: breadth first, until nothing new is found. Where the random
 * test goes far on few roads, this one goes everywhere nearby, and the first bad state it meets is one of
 * the nearest: its path is printed.
 *
 * Two ideas make it fast enough:
 *  - Hosts touch each other by letters only. So a state of the world is a tuple of numbers (which state each
 *    host is in, which letters were ever sent), and the core itself runs only once per (state of a host,
 *    choice), from the host's last start, by repeating its choices; the core needs no copying.
 *  - Letters stay on the table after they were taken. That one rule is loss (never taken), doubling (taken
 *    twice) and overtaking (taken late) together, and worlds that differ only in the order of what happened
 *    become the same. With --once a letter is taken at most once, which reaches deeper.
 *
 * Choices: take a letter, store the oldest batch, crash with any part of the batches on disk and start
 * again, rot (a crash, and the end of the log on disk is gone, the vote too), silence (a follower's timeout;
 * a leader that hears nobody), propose, change the voters, hand over, read, beat. Clocks are the hosts' own
 * and unrelated. Beats that ask for an answer are lost unless --beats allows some, or --reads needs them.
 *
 * What keeps the world small, each only by leaving out what promises nothing or by losing letters:
 *  - pre-votes are granted out of the air (safety must not rest on them) unless --prevote;
 *  - a vote is asked for when the leader was not heard for a while, so stickiness never refuses;
 *  - letters of terms that the receiver has left, and requests for a vote that is given, are lost unless
 *    --stale.
 *
 * What the checks remember of the past (who led a term, what was committed) is part of the state. Elapsed
 * times count only as far as the core can tell them apart: the election timeout is one microsecond. */
#include "explore.h"

#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ── What must never happen ──────────────────────────────────────────────────────────────────────────────
 */

static bool is_durable(const World *world, uint64_t id, uint64_t index) {
        const Image *disk = &locals[world->locals[id - 1]].disk;
        uint8_t committed = world->committed[index - 1];
        return (disk->n_entries >= index && disk->entries[index - 1] == committed) ||
               disk->had[index - 1] == committed; /* counted when it had it */
}

static bool is_quorum_durable(const World *world, const ConfVoter *voters, uint32_t n, uint64_t index) {
        uint32_t count = 0;
        for (uint32_t i = 0; i < n; i++)
                count += is_durable(world, voters[i].id, index);
        return count > n / 2;
}

/* By the configuration that was counted with, where that is certain: it is committed with this step, or the
 * newest. */
static const char *check_commit_durable(const World *world, const Local *local) {
        Conf conf = first_conf;
        const Entry *newest = NULL;
        for (size_t i = 0; i < local->commit; i++)
                if (entries[local->log[i]]->type == ENTRY_CONF)
                        newest = entries[local->log[i]];
        if (!local->conf_committed && (!newest || newest->index != local->commit))
                return NULL;
        if (newest)
                conf_decode(BYTES(newest->data, newest->size), &conf);
        if (!is_quorum_durable(world, conf.voters, conf.n_voters, local->commit) ||
            (conf_is_joint(&conf) && !is_quorum_durable(world, conf.old, conf.n_old, local->commit)))
                return "committed, but not on the disks of a majority";
        return NULL;
}

static uint8_t highest_commit(const World *world) {
        uint8_t index = INDEXES;
        while (index > 0 && world->committed[index - 1] == 0)
                index--;
        return index;
}

static const char *check_leader(World *world, uint64_t id, uint64_t term) {
        uint8_t *leader = world->leader_of + term - 1;
        if (*leader != 0 && *leader != id)
                return "two leaders in one term";
        *leader = (uint8_t)id;
        return NULL;
}

/* Leader completeness speaks of later terms only: a leader of an earlier one may still come to office. */
static bool has_committed(const World *world, const Local *local) {
        for (size_t i = 0; i < INDEXES; i++)
                if (world->committed[i] != 0 && world->committed_in[i] < local->term &&
                    local->log[i] != world->committed[i])
                        return false;
        return true;
}

static const char *check_commit(World *world, const Local *local, const Local *before) {
        for (size_t i = 0; i < local->commit; i++) {
                uint8_t *truth = world->committed + i;
                if (*truth != 0 && *truth != local->log[i])
                        return "two truths at one index";
                if (*truth == 0)
                        world->committed_in[i] = local->term;
                *truth = local->log[i];
        }
        for (size_t i = 0; i < n_hosts; i++) {
                const Local *other = locals + world->locals[i];
                if (other->role == RAFT_LEADER && !has_committed(world, other))
                        return "a later leader lacks what is committed now";
        }
        if (local->role == RAFT_LEADER && local->commit > before->commit)
                return check_commit_durable(world, local);
        return NULL;
}

static const char *check_logs(const World *world, const Local *local) {
        for (size_t i = 0; i < n_hosts; i++) {
                const Local *other = locals + world->locals[i];
                bool equal = false;
                for (size_t k = MIN(local->last, other->last); k > 0; k--) {
                        const Entry *a = entries[local->log[k - 1]], *b = entries[other->log[k - 1]];
                        equal |= a->term == b->term;
                        if (equal && a != b)
                                return "logs do not match";
                }
        }
        return NULL;
}

/* After `host` took a step from `before`. */
static const char *check_world(World *world, size_t host, uint32_t before, const Transition *t) {
        const Local *local = locals + world->locals[host];
        const char *bad = t->bad;
        if (!bad && local->role == RAFT_LEADER) {
                bad = check_leader(world, local->id, local->term);
                if (!bad && (locals[before].role != RAFT_LEADER || locals[before].term != local->term) &&
                    !has_committed(world, local))
                        bad = "a new leader lacks what is committed";
        }
        for (size_t i = 0; i < t->n_out && !bad; i++) {
                const RaftMessage *m = letters + outs[t->first_out + i];
                if (m->type == RAFT_APPEND || m->type == RAFT_BEAT)
                        bad = check_leader(world, m->from, m->term);
        }
        if (!bad)
                bad = check_commit(world, local, locals + before);
        if (!bad && t->read >= 2 && t->read - 2 < world->read_floor)
                bad = "a read lacks what was committed before it was asked";
        return bad ?: check_logs(world, local);
}

/* ── Telling ─────────────────────────────────────────────────────────────────────────────────────────────
 */

static void show_letter(const RaftMessage *m) {
        static const char *const names[] = {"?",          "prevote",    "prevote reply", "vote",
                                            "vote reply", "append",     "append reply",  "beat",
                                            "beat reply", "timeout now"};
        printf("takes %s of %" PRIu64 ", term %" PRIu64, names[m->type], m->from, m->term);
        if (m->refused)
                printf(", no");
        if (m->type == RAFT_APPEND || m->type == RAFT_VOTE || m->type == RAFT_PREVOTE)
                printf(", log %" PRIu64 " of term %" PRIu64, m->log_index, m->log_term);
        for (size_t i = 0; i < m->n_entries; i++)
                printf(" +%" PRIu64, m->entries[i]->term);
        if (m->type == RAFT_APPEND || m->type == RAFT_BEAT)
                printf(", commit %" PRIu64, m->commit);
        if (m->type == RAFT_APPEND_REPLY && !m->refused)
                printf(", match %" PRIu64, m->match);
        putchar('\n');
}

static void show_step(const Step *step) {
        printf("  %u: ", step->host + 1);
        if (step->choice >= CHOICE_TAKE)
                show_letter(letters + (step->choice - CHOICE_TAKE));
        else if (step->choice >= CHOICE_ROT)
                printf("rots, %u entries are gone\n", step->choice - CHOICE_ROT);
        else if (step->choice >= CHOICE_CRASH)
                printf("crashes, %u batches reached the disk\n", step->choice - CHOICE_CRASH);
        else {
                static const char *const names[] = {"starts",     "hears nobody",    "beats",
                                                    "stores",     "proposes",        "changes the voters",
                                                    "hands over", "is asked to read"};
                printf("%s\n", names[step->choice]);
        }
}

static void show_path(const char *what) {
        static uint32_t path[CHAIN];
        size_t n = 0;
        for (uint32_t at = current.parent; at != 0 && n < CHAIN; at = steps[at].parent)
                path[n++] = at;
        printf("bad state after %zu steps: %s\n", n + 1, what);
        while (n > 0)
                show_step(steps + path[--n]);
        show_step(&current);
        fflush(stdout);
}

/* The core's own assertions are checks too; its message is on stderr already. */
static void on_abort(int signal) {
        (void)signal;
        show_path("an assertion failed");
        _exit(1);
}

/* ── The world ───────────────────────────────────────────────────────────────────────────────────────────
 */

/* One layer of states, each as long as its letters need. */
typedef struct Layer {
        uint8_t *bytes;
        size_t size, capacity, n;
        uint32_t first; /* number of its first state */
} Layer;

static size_t world_size(const World *world) {
        return offsetof(World, letters) + world->n_letters * sizeof(world->letters[0]);
}

static void layer_push(Layer *layer, const World *world) {
        size_t size = (world_size(world) + 7) & ~(size_t)7;
        if (layer->size + size > layer->capacity) {
                layer->capacity = MAX(layer->capacity * 2, (size_t)1 << 16);
                layer->bytes = must(realloc(layer->bytes, layer->capacity));
        }
        memcpy(layer->bytes + layer->size, world, world_size(world));
        layer->size += size;
        layer->n++;
}

static bool world_has(const World *world, uint16_t letter, uint32_t *ret_at) {
        uint32_t low = 0, high = world->n_letters;
        while (low < high) {
                uint32_t middle = (low + high) / 2;
                if (world->letters[middle] < letter)
                        low = middle + 1;
                else
                        high = middle;
        }
        *ret_at = low;
        return low < world->n_letters && world->letters[low] == letter;
}

static void world_add(World *world, uint16_t letter) {
        uint32_t at;
        if (world_has(world, letter, &at))
                return;
        assert(world->n_letters < LETTERS);
        memmove(world->letters + at + 1, world->letters + at, (world->n_letters - at) * sizeof(letter));
        world->letters[at] = letter;
        world->n_letters++;
}

static void world_remove(World *world, uint16_t letter) {
        uint32_t at;
        if (!world_has(world, letter, &at))
                return;
        world->n_letters--;
        memmove(world->letters + at, world->letters + at + 1, (world->n_letters - at) * sizeof(letter));
}

/* Letters that would be for nothing now. */
static void world_forget(World *world) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < world->n_letters; i++) {
                const RaftMessage *m = letters + world->letters[i];
                const Local *to = locals + world->locals[m->to - 1];
                if (!is_dead(m, to->term, to->vote))
                        world->letters[n++] = world->letters[i];
        }
        world->n_letters = n;
}

static bool brings_nothing(const World *world, size_t host, const Transition *t) {
        uint32_t at;
        if (t->local != world->locals[host])
                return false;
        for (size_t i = 0; i < t->n_out; i++)
                if (!world_has(world, outs[t->first_out + i], &at))
                        return false;
        return true;
}

/* Try one choice; false when the new state is bad. */
static bool try(const World *from, uint32_t number, size_t host, uint32_t choice, Layer *next) {
        static World world;
        current = (Step){.parent = number, .host = (uint32_t)host, .choice = choice};
        Transition t = *transition(from->locals[host], choice);
        if (t.bad) {
                show_path(t.bad);
                return false;
        }
        if (t.outside || brings_nothing(from, host, &t))
                return true;

        memcpy(&world, from, world_size(from));
        world.locals[host] = t.local;
        world.crashes += choice >= CHOICE_CRASH && choice < CHOICE_ROT;
        world.rots += choice >= CHOICE_ROT && choice < CHOICE_TAKE;
        world.proposals += choice == CHOICE_PROPOSE;
        world.changes += choice == CHOICE_CHANGE;
        world.beats += choice == CHOICE_BEAT;
        world.transfers += choice == CHOICE_TRANSFER;
        if (choice == CHOICE_READ) {
                world.reads++;
                world.read_floor = highest_commit(from);
        }
        if (bounds.once && choice >= CHOICE_TAKE)
                world_remove(&world, (uint16_t)(choice - CHOICE_TAKE));
        for (size_t i = 0; i < t.n_out; i++)
                world_add(&world, outs[t.first_out + i]);
        world_forget(&world);
        const char *bad = check_world(&world, host, from->locals[host], &t);
        if (bad) {
                show_path(bad);
                return false;
        }

        bool new;
        map_put(&world_map, XXH3_128bits(&world, world_size(&world)), 0, &new);
        if (!new)
                return true;
        GROW(steps, n_steps);
        steps[n_steps++] = current;
        layer_push(next, &world);
        return true;
}

static bool try_host(const World *world, uint32_t number, size_t host, Layer *next) {
        const Local local = locals[world->locals[host]];
        bool leads = local.role == RAFT_LEADER, ok = true;
        /* In the last term nobody's silence leads anywhere. */
        if (local.role != RAFT_PASSIVE && local.term < bounds.terms)
                ok = try(world, number, host, CHOICE_SILENCE, next);
        if (ok && local.n_pending > 0)
                ok = try(world, number, host, CHOICE_STORE, next);
        if (ok && leads && world->proposals < bounds.proposals)
                ok = try(world, number, host, CHOICE_PROPOSE, next);
        if (ok && leads && world->changes < 1 && bounds.n_change > 0)
                ok = try(world, number, host, CHOICE_CHANGE, next);
        if (ok && leads && world->beats < bounds.beats)
                ok = try(world, number, host, CHOICE_BEAT, next);
        if (ok && leads && world->transfers < bounds.transfers)
                ok = try(world, number, host, CHOICE_TRANSFER, next);
        if (ok && leads && world->reads < bounds.reads)
                ok = try(world, number, host, CHOICE_READ, next);
        for (uint32_t keep = 0; ok && world->crashes < bounds.crashes && keep <= local.n_pending; keep++)
                ok = try(world, number, host, CHOICE_CRASH + keep, next);
        for (uint32_t lose = 0; ok && world->rots < bounds.rots && lose <= local.disk.n_entries; lose++)
                ok = try(world, number, host, CHOICE_ROT + lose, next);
        for (size_t i = 0; ok && i < world->n_letters; i++)
                if (letters[world->letters[i]].to == host + 1)
                        ok = try(world, number, host, CHOICE_TAKE + world->letters[i], next);
        return ok;
}

static void world_begin(Layer *layer) {
        static World world;
        for (size_t i = 0; i < n_hosts; i++) {
                Host host = {.id = i + 1};
                host_start(&host, true);
                world.locals[i] = local_number(&host, 0, CHOICE_START);
                host_crash(&host, 0);
        }
        assert(n_outs == 0);
        GROW(steps, n_steps);
        steps[n_steps++] = (Step){};
        layer_push(layer, &world);
}

/* 0: all seen, or the bound on depth or states was met; 1: a bad state. */
static int explore(void) {
        struct timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        Layer layer = {}, next = {};
        world_begin(&layer);
        /* All hosts are alike until one moves: let it be the first. Not so when a change tells them apart.
         */
        size_t n_first = bounds.n_change > 0 ? n_hosts : 1;
        uint64_t depth = 0;
        for (; layer.n > 0 && depth < bounds.depth && n_steps < bounds.states; depth++) {
                static World world;
                next.first = (uint32_t)n_steps;
                next.size = next.n = 0;
                for (size_t i = 0, at = 0; i < layer.n; i++, at += (world_size(&world) + 7) & ~(size_t)7) {
                        memcpy(&world, layer.bytes + at, offsetof(World, letters));
                        memcpy(&world, layer.bytes + at, world_size(&world));
                        for (size_t host = 0; host < (depth == 0 ? n_first : n_hosts); host++)
                                if (!try_host(&world, layer.first + (uint32_t)i, host, &next))
                                        return 1;
                        if (n_steps >= bounds.states)
                                break;
                }
                Layer swap = layer;
                layer = next;
                next = swap;
                if (bounds.loud)
                        fprintf(stderr,
                                "depth %" PRIu64 ": %zu new, %zu states, %zu of hosts, %zu letters\n",
                                depth + 1, layer.n, n_steps, n_locals, n_letters);
        }
        clock_gettime(CLOCK_MONOTONIC, &end);
        double seconds = (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
        size_t committed = 0;
        for (size_t i = 0; i < n_locals; i++)
                committed = MAX(committed, (size_t)locals[i].commit);
        printf("%zu states to depth %" PRIu64
               " (%s), %zu states of hosts, %zu runs of the core, %zu letters, "
               "commit up to %zu, %.1f s\n",
               n_steps, depth, layer.n == 0 ? "all there are" : "more behind the bound", n_locals,
               n_transitions, n_letters, committed, seconds);
        free(layer.bytes);
        free(next.bytes);
        return 0;
}

static void change_parse(const char *list) {
        char *end;
        for (const char *p = list; *p != 0 && bounds.n_change < LIMIT_VOTERS;
             p = *end == ',' ? end + 1 : end) {
                bounds.change[bounds.n_change] = strtoull(p, &end, 10);
                if (end == p || (*end != ',' && *end != 0))
                        exit(2);
                bounds.n_change++;
        }
}

static void options_parse(int argc, char **argv) {
        static const struct option options[] = {
                {"voters", required_argument, NULL, 'v'},
                {"terms", required_argument, NULL, 't'},
                {"entries", required_argument, NULL, 'e'},
                {"proposals", required_argument, NULL, 'p'},
                {"crashes", required_argument, NULL, 'c'},
                {"rots", required_argument, NULL, 'y'},
                {"beats", required_argument, NULL, 'b'},
                {"depth", required_argument, NULL, 'd'},
                {"states", required_argument, NULL, 's'},
                {"change", required_argument, NULL, 'n'},
                {"once", no_argument, NULL, 'o'},
                {"transfers", required_argument, NULL, 'r'},
                {"reads", required_argument, NULL, 'x'},
                {"loud", no_argument, NULL, 'l'},
                {"prevote", no_argument, NULL, 'q'},
                {"stale", no_argument, NULL, 'z'},
                {},
        };
        int c;
        while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                uint64_t *numbers[] = {
                        ['v'] = &bounds.voters,    ['t'] = &bounds.terms,   ['e'] = &bounds.entries,
                        ['p'] = &bounds.proposals, ['c'] = &bounds.crashes, ['b'] = &bounds.beats,
                        ['d'] = &bounds.depth,     ['s'] = &bounds.states,  ['r'] = &bounds.transfers,
                        ['x'] = &bounds.reads,     ['y'] = &bounds.rots};
                if (c == 'n')
                        change_parse(optarg);
                else if (c == 'o')
                        bounds.once = true;
                else if (c == 'q')
                        bounds.prevote = true;
                else if (c == 'z')
                        bounds.stale = true;
                else if (c == 'l')
                        bounds.loud = true;
                else if ((size_t)c < ELEMENTSOF(numbers) && numbers[c])
                        *numbers[c] = strtoull(optarg, NULL, 10);
                else
                        exit(2);
        }
}

int main(int argc, char **argv) {
        options_parse(argc, argv);
        n_hosts = bounds.voters;
        for (size_t i = 0; i < bounds.n_change; i++)
                n_hosts = MAX(n_hosts, bounds.change[i]);
        if (bounds.voters == 0 || n_hosts > HOSTS || bounds.terms >= TERMS || bounds.entries >= INDEXES ||
            bounds.states >= UINT32_MAX / 2 || bounds.reads > 1) {
                fprintf(stderr, "at most %d hosts, %d terms, %d entries\n", HOSTS, TERMS - 1, INDEXES - 1);
                return 2;
        }
        first_conf.n_voters = (uint32_t)bounds.voters;
        for (size_t i = 0; i < bounds.voters; i++)
                first_conf.voters[i].id = i + 1;
        signal(SIGABRT, on_abort);
        return explore();
}
