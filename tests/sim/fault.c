/* What goes wrong. Each seed draws a subset of the kinds and how often each happens (a swarm): a run with
 * power cuts only finds other things than a run with everything. */
#include "agent/tree/internal.h"
#include "sim.h"

#include <stdio.h>
#include <string.h>

typedef enum Fault {
        FAULT_RESET,
        FAULT_SLOW,
        FAULT_CUT,
        FAULT_ONE_WAY,
        FAULT_ISOLATE_LEADER,
        FAULT_KILL,
        FAULT_KILL_LEADER,
        FAULT_POWER,
        FAULT_POWER_ALL,
        FAULT_TORN,
        FAULT_PAUSE,
        FAULT_STALL,
        FAULT_FULL,
        FAULT_SYNC,
        FAULT_STOP,
        FAULT_TRANSFER,
        FAULT_RING,
        FAULT_BRIDGE,
        FAULT_FLAP,
        FAULT_BREAK,
        FAULT_EFFECT,
        FAULT_STALL_KILL,
        FAULT_WALL,
        FAULT_VOTERS,
        FAULT_REPLACE,
        FAULT_ROT,
        FAULT_ROLLBACK,
        FAULT_SUSPEND,
        FAULT_DIVERGE,
        _FAULT_MAX,
} Fault;

static const char *const names[_FAULT_MAX] = {
        "reset",       "slow",  "cut",       "one-way",    "isolate-leader", "kill",
        "kill-leader", "power", "power-all", "torn",       "pause",          "stall",
        "full",        "sync",  "stop",      "transfer",   "ring",           "bridge",
        "flap",        "break", "effect",    "stall-kill", "wall",           "voters",
        "replace",     "rot",   "rollback",  "suspend",    "diverge",
};

static_assert(_FAULT_MAX <= FAULT_KINDS, "each has a bit and a sum");

static uint64_t every[_FAULT_MAX]; /* µs on average; 0: never */

const char *fault_name(unsigned kind) {
        return kind < _FAULT_MAX ? names[kind] : NULL;
}

/* Is now in the window that the run was narrowed to? */
bool fault_in_window(void) {
        uint64_t tick = (world.now - world.began_usec) / (100 * MSEC);
        return world.narrow.to == 0 || (tick >= world.narrow.from && tick < world.narrow.to);
}

static SimHost *any(void) {
        return world.hosts[below(world.n_hosts)];
}

static SimHost *any_running(void) {
        for (unsigned n = 0; n < 8; n++) {
                SimHost *host = any();
                if (host->agent)
                        return host;
        }
        return NULL;
}

static uint64_t a_while(uint64_t least, uint64_t most) { /* log-uniform: short ones are common */
        uint64_t usec = least;
        while (usec < most && chance(7000))
                usec *= 2;
        return MIN(usec + below(usec), most);
}

static void heal_pair(void *p, uint64_t what) {
        net_cut(what & 0xff, what >> 8 & 0xff, false);
}

void fault_cut(unsigned from, unsigned to, uint64_t usec) {
        net_cut(from, to, true);
        at(world.now + usec, heal_pair, NULL, (uint64_t)to << 8 | from);
}

static void cut_groups(uint64_t usec) {
        unsigned group = (unsigned)between(1, (1u << world.n_hosts) - 2);
        note("cut: %x against the rest for %.1f s", group, (double)usec / SEC);
        for (unsigned a = 0; a < world.n_hosts; a++)
                for (unsigned b = 0; b < world.n_hosts; b++)
                        if ((group >> a & 1) != (group >> b & 1))
                                fault_cut(a, b, usec);
}

static void slow_ends(void *p, uint64_t what) {
        net_slow(what & 0xff, what >> 8 & 0xff, 0);
}

static void full_ends(void *p, uint64_t life) {
        SimHost *host = p;
        if (host->life != life)
                return;
        simdisk_set_room(host->disk, UINT64_MAX), store_full(host, false);
}

static void power_later(void *p, uint64_t life) {
        SimHost *host = p;
        if (host->life != life || !host->agent)
                return;
        host_kill(host, true);
        host_restart_at(host, world.now + a_while(10 * MSEC, 10 * SEC));
}

/* ---- Partitions that are not two halves ---- */

/* Everybody hears two neighbours only: each is in a majority, none sees the same. */
static void cut_ring(uint64_t usec) {
        unsigned n = world.n_hosts, shift = (unsigned)below(n);
        for (unsigned a = 0; a < n; a++)
                for (unsigned b = 0; b < n; b++) {
                        unsigned apart = (a + n - b) % n;
                        if (a != b && apart != 1 && apart != n - 1)
                                fault_cut((a + shift) % n, (b + shift) % n, usec);
                }
}

/* Two groups that see one host, but not each other. */
static void cut_bridge(uint64_t usec) {
        unsigned bridge = any()->i, group = (unsigned)below(1u << world.n_hosts);
        for (unsigned a = 0; a < world.n_hosts; a++)
                for (unsigned b = 0; b < world.n_hosts; b++)
                        if (a != bridge && b != bridge && (group >> a & 1) != (group >> b & 1))
                                fault_cut(a, b, usec);
}

static void flaps(void *p, uint64_t what) {
        unsigned a = what & 0xff, b = what >> 8 & 0xff, left = what >> 16 & 0xff;
        fault_cut(a, b, between(5, 400) * MSEC);
        if (chance(5000))
                fault_cut(b, a, between(5, 400) * MSEC);
        if (left > 0 && world.faults)
                at(world.now + between(100, 900) * MSEC, flaps, NULL,
                   (uint64_t)(left - 1) << 16 | b << 8 | a);
}

/* ---- Disks that somebody touched: on one host at most, so that a majority is well ---- */

static SimHost *victim;

static void set_back_later(void *p, uint64_t a);

static int choose_file(const char *name, void *userdata) {
        char *chosen = userdata;
        bool ours = strncmp(name, "log-", 4) == 0 || strncmp(name, "tree-", 5) == 0 ||
                    strncmp(name, "build-", 6) == 0;
        if (ours && (!chosen[0] || chance(5000)))
                snprintf(chosen, 64, "%s", name);
        return 0;
}

static void touch(SimHost *host, bool in_tree) {
        world.tampered = true;
        host->touched = true;
        host->touched_tree = host->touched_tree || in_tree;
        host->touched_usec = world.now;
}

static bool rot_on_disk(SimHost *host, bool *ret_tree) {
        char name[64] = "";
        Disk *disk = simdisk_disk(host->disk);
        if (disk->ops->list(disk, choose_file, name) < 0 || !name[0])
                return false;
        uint64_t size = simdisk_size_of(host->disk, name);
        if (size == 0)
                return false;
        uint64_t offset = below(size);
        note("%s: a byte rots: %s at %llu", host->name, name, (unsigned long long)offset);
        (void)simdisk_flip(host->disk, name, offset, (uint8_t)between(1, 255));
        *ret_tree = strncmp(name, "log-", 4) != 0;
        return true;
}

static void rot(SimHost *host) {
        bool in_tree = chance(5000) && store_rot(host);
        if (!in_tree && !rot_on_disk(host, &in_tree))
                return;
        touch(host, in_tree);
        promise_forgive(host);
        if (host->agent && chance(5000)) { /* found at the next start */
                host_kill(host, chance(5000));
                host_restart_at(host, world.now + below(SEC));
        }
}

/* A bit of its memory turns where no sum is kept: its tree says something else from now on, and nobody
 * notices before digests are compared. */
static void diverge(SimHost *host) {
        Tree *tree = host->agent->tree;
        note("%s: its tree's digest is another", host->name);
        tree->meta.digest ^= (Sum)1 << below(128);
        tree->saved.digest = tree->meta.digest;
        touch(host, true);
}

/* Once or twice more it starts after the image was made: the others know a start that the image does not, or
 * one of the same number. */
static void starts_again(void *p, uint64_t left) {
        SimHost *host = p;
        if (!world.faults || !host->image || !host->agent || left == 0)
                return;
        host_kill(host, chance(5000));
        host_restart_at(host, world.now + below(SEC));
        at(world.now + between(3, 10) * SEC, starts_again, host, left - 1);
}

/* A majority has what this voter's disk holds, and its term, without it. Else what was agreed would rest on
 * a disk that has forgotten it, and nobody would miss it if those who heard of it began anew before it met
 * one of them: no cluster can promise more (docs/CONSENSUS.md). That who did hear takes no word of it is
 * compared in any case (heard.c). */
static bool others_have(const SimHost *host) {
        RaftStatus mine, its;
        raft_status(host->agent->raft, &mine);
        const Conf *conf = mine.conf;
        uint32_t n = 0;
        for (uint32_t i = 0; i < conf->n_voters; i++) {
                const SimHost *other = host_of(conf->voters[i].id);
                if (!other || other == host || !other->agent)
                        continue;
                raft_status(other->agent->raft, &its);
                n += its.term >= mine.term && its.durable >= mine.last_index &&
                     (its.base_index > mine.last_index ||
                      raft_term_of(other->agent->raft, mine.last_index) == mine.last_term);
        }
        return conf->n_voters == 0 || 2 * n > conf->n_voters;
}

static void set_back(SimHost *host) {
        if (!host->image) {
                host->image = simdisk_copy(host->disk);
                at(world.now + between(1, 10) * SEC, starts_again, host, below(4));
                at(world.now + between(15, 60) * SEC, set_back_later, host, 0);
                return;
        }
        if (!others_have(host)) {
                at(world.now + SEC, set_back_later, host, 0);
                return;
        }
        note("%s: starts from an older image of its disk", host->name);
        host_kill(host, true);
        simdisk_free(host->disk);
        host->disk = TAKE(host->image);
        host->set_back = true;
        touch(host, true);
        promise_forgive(host);
        host_restart_at(host, world.now + below(SEC));
}

static bool may_touch(SimHost *host) {
        const SimHost *leader = host_leader();
        if (!leader || !host_is_in(host))
                return false;
        const RaftStatus *status = &leader->agent->raft_status;
        if (status->conf->n_voters < 3 || status->conf->n_old > 0 || !status->conf_committed)
                return false;
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (world.hosts[i]->leaving || !world.hosts[i]->agent)
                        return false;
        if (!victim)
                victim = host;
        return host == victim && !host->touched;
}

/* All machines sleep at once, as guests of one that does: their clocks go on, nothing else does. */
static void suspend(uint64_t usec) {
        note("all sleep for %.0f s", (double)usec / SEC);
        world.slept_usec += usec;
        world.disturbed_usec = world.now;
        for (unsigned i = 0; i < world.n_hosts; i++) {
                world.hosts[i]->boot_offset_usec += usec;
                host_wake(world.hosts[i]);
        }
}

static void set_back_later(void *p, uint64_t a) {
        SimHost *host = p;
        if (world.faults && host->image && may_touch(host))
                set_back(host);
}

static void stall_and_kill(SimHost *host, SimHost *leader);

static void killed_later(void *p, uint64_t life) {
        SimHost *host = p;
        if (host->life != life || !host->agent || !world.faults)
                return;
        host_kill(host, false);
        host_restart_at(host, world.now + a_while(10 * MSEC, 5 * SEC));
}

static void transferred(const RequestAnswer *answer, void *userdata) {
}

static void strike(Fault fault) {
        SimHost *host = any_running(), *leader = host_leader();
        if (!host)
                return;
        switch (fault) {
        case FAULT_RESET:
                net_reset(host->i, any()->i);
                return;
        case FAULT_SLOW: {
                unsigned other = any()->i;
                net_slow(host->i, other, between(5, 400) * MSEC);
                world.disturbed_usec = world.now;
                at(world.now + a_while(200 * MSEC, 8 * SEC), slow_ends, NULL,
                   (uint64_t)other << 8 | host->i);
                return;
        }
        case FAULT_CUT:
                if (world.n_hosts > 1)
                        cut_groups(a_while(100 * MSEC, 20 * SEC));
                return;
        case FAULT_ONE_WAY: {
                unsigned other = any()->i;
                note("cut: %u to %u", host->i + 1, other + 1);
                fault_cut(host->i, other, a_while(100 * MSEC, 20 * SEC));
                return;
        }
        case FAULT_ISOLATE_LEADER:
                for (unsigned j = 0; leader && j < world.n_hosts; j++) {
                        uint64_t usec = a_while(500 * MSEC, 8 * SEC);
                        fault_cut(leader->i, j, usec);
                        fault_cut(j, leader->i, usec);
                }
                return;
        case FAULT_KILL_LEADER:
                host = leader ?: host;
                /* fall through */
        case FAULT_KILL:
                host_kill(host, false);
                host_restart_at(host, world.now + a_while(10 * MSEC, 15 * SEC));
                return;
        case FAULT_POWER:
                host_kill(host, true);
                host_restart_at(host, world.now + a_while(10 * MSEC, 15 * SEC));
                return;
        case FAULT_POWER_ALL:
                for (unsigned j = 0; j < world.n_hosts; j++)
                        if (world.hosts[j]->agent)
                                power_later(world.hosts[j], world.hosts[j]->life);
                return;
        case FAULT_TORN: /* the machine is gone in the middle of a write */
                host->disk_fails = host->disk_cut = true;
                simdisk_die_at(host->disk, below(4));
                at(world.now + between(1, 300) * MSEC, power_later, host, host->life);
                return;
        case FAULT_PAUSE:
                note("%s: paused", host->name);
                host_pause(host, a_while(20 * MSEC, 20 * SEC));
                world.disturbed_usec = MAX(world.disturbed_usec, host->paused_until);
                return;
        case FAULT_STALL:
                note("%s: disk stalls", host->name);
                host->stalled_until = world.now + a_while(20 * MSEC, 10 * SEC);
                world.disturbed_usec = MAX(world.disturbed_usec, host->stalled_until);
                return;
        case FAULT_FULL: {
                note("%s: disk full", host->name);
                uint64_t usec = a_while(500 * MSEC, 15 * SEC);
                host->full_until = MAX(host->full_until, world.now + usec + SEC);
                simdisk_set_room(host->disk, simdisk_used(host->disk) + below(300 * 1024));
                store_full(host, chance(5000));
                world.disturbed_usec = world.now;
                at(world.now + usec, full_ends, host, host->life);
                return;
        }
        case FAULT_SYNC: /* a write or sync fails: the process has to end */
                host->disk_fails = true;
                simdisk_fail_at(host->disk, below(6), -EIO);
                return;
        case FAULT_STOP:
                host_stop(host);
                host_restart_at(host, world.now + a_while(10 * MSEC, 5 * SEC));
                return;
        case FAULT_TRANSFER: {
                uint64_t heir = any()->id;
                if (host_is_in(host) && host_runs(host) && heir != 0)
                        (void)agent_transfer(host->agent, heir, transferred, NULL);
                return;
        }
        case FAULT_RING:
                cut_ring(a_while(500 * MSEC, 20 * SEC));
                return;
        case FAULT_BRIDGE:
                cut_bridge(a_while(500 * MSEC, 20 * SEC));
                return;
        case FAULT_FLAP: {
                unsigned other = any()->i;
                flaps(NULL, between(3, 30) << 16 | (uint64_t)other << 8 | host->i);
                return;
        }
        case FAULT_BREAK:
                net_break_calls(host);
                return;
        case FAULT_EFFECT:
                host->die_in = (unsigned)between(1, 200);
                return;
        case FAULT_STALL_KILL:
                stall_and_kill(host, leader);
                return;
        case FAULT_WALL:
                host->wall_usec = (int64_t)below(20 * 365 * 86400 * SEC) - (int64_t)(10 * 365 * 86400 * SEC);
                return;
        case FAULT_VOTERS:
                world.max_voters = 3 + 2 * (unsigned)below(2);
                for (unsigned j = 0; j < world.n_hosts; j++)
                        if (world.hosts[j]->agent)
                                world.hosts[j]->agent->options.max_voters = world.max_voters;
                return;
        case FAULT_REPLACE:
                if (world.n_hosts > 1 && host_is_in(host) && operator_may_replace(host))
                        operator_replace(host);
                return;
        case FAULT_ROT:
                host = victim ?: host;
                if (may_touch(host))
                        rot(host);
                return;
        case FAULT_SUSPEND:
                suspend(a_while(SEC, 4 * 3600 * SEC));
                return;
        case FAULT_DIVERGE:
                host = victim ?: host;
                if (may_touch(host))
                        diverge(host);
                return;
        case FAULT_ROLLBACK:
                host = victim ?: host;
                if (store_is_on_disk && may_touch(host))
                        set_back(host);
                return;
        case _FAULT_MAX:
                return;
        }
}

/* A term begins and goes on while one host's disk hangs; what it heard meanwhile reaches its tree and not
 * its log, and then its process is gone. */
static void stall_and_kill(SimHost *host, SimHost *leader) {
        host->stalled_until = world.now + between(300, 4000) * MSEC;
        world.disturbed_usec = MAX(world.disturbed_usec, host->stalled_until);
        SimHost *heir = any();
        if (leader && leader != host && heir != host && heir->id != 0 && host_runs(leader))
                (void)agent_transfer(leader->agent, heir->id, transferred, NULL);
        at(world.now + between(200, 2500) * MSEC, killed_later, host, host->life);
}

static unsigned n_rounds; /* of faults; those of an earlier one strike no more */

static void strikes(void *p, uint64_t what) {
        uint64_t fault = what & 0xff;
        if (!world.faults || what >> 8 != n_rounds)
                return;
        if (fault_in_window()) {
                world.sums.faults[fault]++;
                strike((Fault)fault);
        }
        at(world.now + between(every[fault] / 4, every[fault] * 7 / 4), strikes, NULL, what);
}

/* Rules about what is full, late or no longer in memory show only where that is common. */
void limits_draw(void) {
        static const uint64_t disks[] = {600, 600, 600, 5 * MSEC, 30 * MSEC};
        world.disk_usec = disks[below(ELEMENTSOF(disks))];
        if (chance(3000))                                     /* clocks that run at their own speeds */
                world.drift_ppm = chance(7000) ? 200 : 24000; /* two of them differ by less than a 20th */
        if (chance(4000))
                world.uncommitted_bytes = 300u << below(6);
        if (chance(3000))
                world.cache_bytes = 1000u << below(6);
        if (chance(4000)) { /* history is soon gone */
                world.history_usec = between(2, 60) * SEC;
                world.history_changes = between(1, 300);
        }
}

void faults_begin(void) {
        world.faults = true;
        n_rounds++;
        unsigned share = (unsigned)between(1000, 7000);
        char text[300] = "";
        for (unsigned i = 0; i < _FAULT_MAX; i++) {
                if (!chance(share))
                        continue;
                every[i] = SEC << below(8);
                strncat(text, names[i], sizeof(text) - strlen(text) - 1);
                strncat(text, " ", sizeof(text) - strlen(text) - 1);
                uint64_t first = world.now + below(every[i]);
                if (!(world.narrow.without >> i & 1))
                        at(first, strikes, NULL, (uint64_t)n_rounds << 8 | i);
        }
        note("faults: %s", text);
}

/* ---- Mixed versions ---- */

/* In every sixth run, with chances of its own: all hosts but one are upgraded, and from then on write what
 * that one does not know. It votes, stores, reads what it has, perhaps leads, and stops where it knows no
 * further: not an entry is skipped, nor is a tree taken in which others applied one (ghost.c). Then it is
 * upgraded, too, and goes on; another one is the last next time. */
static Random version_random;
static SimHost *old_one;

static void upgraded(void) {
        SimHost *host = old_one;
        if (!host)
                return;
        note("%s: upgraded", host->name);
        old_one = NULL;
        host->newer = world.newer;
        if (!host->agent)
                return; /* it starts as such, whenever that is */
        host_kill(host, false);
        host_restart_at(host, world.now + 200 * MSEC);
}

/* Somebody fetches a tree, and will judge it by the version that he was when he began. */
static bool tree_is_fetched(void) {
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (world.hosts[i]->agent && snapshot_fetching(world.hosts[i]->agent))
                        return true;
        return false;
}

static void versions(void *p, uint64_t a) {
        at(world.now + (5 + random_below(&version_random, 36)) * SEC, versions, NULL, 0);
        if (old_one || !world.faults) {
                upgraded();
                return;
        }
        if (world.newer == VERSIONS_MAX || tree_is_fetched())
                return;
        old_one = world.hosts[random_below(&version_random, world.n_hosts)];
        note("%s: older than all others from now on", old_one->name);
        world.newer++;
        for (unsigned i = 0; i < world.n_hosts; i++) {
                SimHost *host = world.hosts[i];
                if (host == old_one)
                        continue;
                host->newer = world.newer;
                if (host->agent)
                        host->agent->options.newer = world.newer;
        }
}

void versions_begin(void) {
        version_random.state = world.seed * UINT64_C(0xd1342543de82ef95) + 7;
        if (world.n_hosts >= 3 && random_next(&version_random) % 6 == 0)
                at(world.now + 5 * SEC, versions, NULL, 0);
}

void faults_end(void) {
        world.faults = false;
        upgraded();
        for (unsigned a = 0; a < world.n_hosts; a++) {
                SimHost *host = world.hosts[a];
                host->paused_until = MIN(host->paused_until, world.now);
                host->stalled_until = 0;
                host->die_in = 0;
                simdisk_set_room(host->disk, UINT64_MAX), store_full(host, false);
                host->full_until = MIN(host->full_until, world.now + SEC);
                for (unsigned b = 0; b < world.n_hosts; b++) {
                        net_cut(a, b, false);
                        net_slow(a, b, 0);
                }
                if (!host->agent)
                        host_restart_at(host, world.now + below(SEC));
                host_wake(host);
        }
        operator_stop();
        world.disturbed_usec = world.now;
}
