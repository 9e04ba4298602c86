/* The search of Wing and Gong, as Lowe turned it round: walk along calls and returns, and keep every state
 * in which the key may be (a world: what it holds, and which of the ops under way have happened already). At
 * a call nothing happens yet. At a return the op must have happened: worlds in which it has not go on to all
 * those in which it has, through whatever else is under way; those that cannot are dropped. No world left:
 * no order explains what was seen.
 *
 * Two things keep the worlds few. A look changes nothing, so it happens as soon as it may. And of two worlds
 * that differ only in ops that need not happen at all, the one in which fewer have happened can do whatever
 * the other can.
 *
 * Where there are more worlds than are looked through, the walk waits until nothing is under way and goes on
 * from a key that may hold anything. */
#include "linear.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "agent/base/macros.h"

#define SLOTS  64   /* under way at once */
#define WORLDS 1500 /* at once */
#define CHAINS 256
#define BLOCK  12 /* worlds */
#define ANY    UINT64_MAX

typedef struct Event {
        uint64_t usec;
        size_t op;
        bool returns;
} Event;

typedef struct LinearWorld {
        uint64_t value;
        uint64_t done; /* slots */
} LinearWorld;

/* Worlds that may be compared with each other: they hold the same, and of what must happen the same has
 * happened. Those of one kind fill block after block; what is compared lies side by side. */
typedef struct Block {
        uint64_t value, must;
        uint64_t done[BLOCK];
        uint16_t at[BLOCK]; /* where the world lies */
        uint16_t n, next;   /* block + 1; 0 is the end */
} Block;

typedef struct Worlds {
        LinearWorld at[WORLDS];
        size_t n, n_blocks;
        bool full;
        uint16_t first[CHAINS];
        Block blocks[WORLDS];
} Worlds;

typedef struct Walk {
        const LinearOp *ops;
        size_t slots[SLOTS]; /* op + 1; 0: free */
        uint64_t used, optional, changing;
        unsigned slot; /* of the op that returns */
        LinearWorld now[WORLDS];
        size_t n_now;
        Worlds next, seen;
} Walk;

/* ---- Worlds ---- */

static bool allows(uint64_t value, const LinearOp *op) {
        if (value == ANY)
                return true;
        switch (op->need) {
        case LINEAR_ANYTHING:
                return true;
        case LINEAR_VALUE:
                return value == op->needed;
        case LINEAR_NOT:
                return value != op->needed;
        case LINEAR_SOMETHING:
                return value != 0;
        }
        return false;
}

static void worlds_clear(Worlds *worlds) {
        worlds->n = worlds->n_blocks = 0;
        worlds->full = false;
        memset(worlds->first, 0, sizeof(worlds->first));
}

static uint16_t *chain_of(Worlds *worlds, uint64_t value, uint64_t must) {
        uint64_t hash = (value ^ must * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xc2b2ae3d27d4eb4f);
        return &worlds->first[hash >> 56];
}

/* The first in the block in which less has happened, or more; the block's size when there is none. */
static unsigned block_find(const Block *block, uint64_t done) {
        unsigned i = 0;
        for (; i < block->n; i++) {
                uint64_t both = block->done[i] & done;
                if (both == block->done[i] || both == done)
                        break;
        }
        return i;
}

/* False: it is there already, or one that can do as much. */
static bool worlds_add(Worlds *worlds, LinearWorld world, uint64_t optional) {
        uint64_t must = world.done & ~optional;
        uint16_t *end = chain_of(worlds, world.value, must);
        Block *room = NULL; /* the chain's last has some, if it is of this kind */
        for (; *end != 0; end = &room->next) {
                Block *block = room = &worlds->blocks[*end - 1];
                if (block->value != world.value || block->must != must)
                        continue;
                unsigned i = block_find(block, world.done);
                if (i == block->n)
                        continue;
                if ((block->done[i] & ~world.done) == 0)
                        return false;
                block->done[i] = worlds->at[block->at[i]].done = world.done;
                return true;
        }
        if (worlds->n == WORLDS) {
                worlds->full = true;
                return false;
        }
        if (!room || room->n == BLOCK || room->value != world.value || room->must != must) {
                room = &worlds->blocks[worlds->n_blocks++];
                room->value = world.value, room->must = must;
                room->n = room->next = 0;
                *end = (uint16_t)worlds->n_blocks;
        }
        room->done[room->n] = world.done;
        room->at[room->n++] = (uint16_t)worlds->n;
        worlds->at[worlds->n++] = world;
        return true;
}

/* Looks happen as soon as they may. */
static LinearWorld with_looks(const Walk *walk, LinearWorld world) {
        uint64_t looks = walk->used & ~walk->changing & ~world.done;
        for (; looks != 0; looks &= looks - 1) {
                unsigned slot = (unsigned)__builtin_ctzll(looks);
                if (world.value != ANY && allows(world.value, &walk->ops[walk->slots[slot] - 1]))
                        world.done |= UINT64_C(1) << slot;
        }
        return world;
}

/* A look at a key that may hold anything says what it holds. */
static LinearWorld after(const Walk *walk, LinearWorld world, unsigned slot) {
        const LinearOp *op = &walk->ops[walk->slots[slot] - 1];
        if (op->changes)
                world.value = op->given;
        else if (op->need == LINEAR_VALUE)
                world.value = op->needed;
        world.done |= UINT64_C(1) << slot;
        return with_looks(walk, world);
}

/* From this world to all in which the op that returns has happened. */
static void go_on(Walk *walk, LinearWorld world) {
        uint64_t bit = UINT64_C(1) << walk->slot;
        if (walk->next.full || walk->seen.full)
                return;
        if (world.done & bit) {
                world.done &= ~bit;
                (void)worlds_add(&walk->next, world, walk->optional);
                return;
        }
        if (!worlds_add(&walk->seen, world, walk->optional))
                return;
        uint64_t may = walk->used & ~world.done & (walk->changing | bit);
        if (world.value == ANY)
                may = walk->used & ~world.done;
        for (; may != 0; may &= may - 1) {
                unsigned slot = (unsigned)__builtin_ctzll(may);
                if (allows(world.value, &walk->ops[walk->slots[slot] - 1]))
                        go_on(walk, after(walk, world, slot));
        }
}

/* ---- The walk ---- */

static int compare_events(const void *a, const void *b) {
        const Event *one = a, *other = b;
        if (one->usec != other->usec)
                return one->usec < other->usec ? -1 : 1;
        if (one->returns != other->returns) /* what touches is at once */
                return one->returns ? 1 : -1;
        return one->op < other->op ? -1 : one->op > other->op;
}

static size_t events_of(const LinearOp *ops, size_t n, Event *to) {
        size_t n_events = 0;
        for (size_t i = 0; i < n; i++) {
                to[n_events++] = (Event){.usec = ops[i].begun, .op = i};
                if (ops[i].ended != LINEAR_NEVER)
                        to[n_events++] = (Event){.usec = ops[i].ended, .op = i, .returns = true};
        }
        qsort(to, n_events, sizeof(Event), compare_events);
        return n_events;
}

static bool begins(Walk *walk, size_t op) {
        if (walk->used == UINT64_MAX)
                return false;
        unsigned slot = (unsigned)__builtin_ctzll(~walk->used);
        uint64_t bit = UINT64_C(1) << slot;
        walk->slots[slot] = op + 1;
        walk->used |= bit;
        if (walk->ops[op].changes)
                walk->changing |= bit;
        if (walk->ops[op].ended == LINEAR_NEVER)
                walk->optional |= bit;
        for (size_t i = 0; i < walk->n_now; i++)
                walk->now[i] = with_looks(walk, walk->now[i]);
        return true;
}

static bool returns(Walk *walk, size_t op) {
        unsigned slot = 0;
        while (walk->slots[slot] != op + 1)
                slot++;
        uint64_t bit = UINT64_C(1) << slot;
        walk->slot = slot;
        worlds_clear(&walk->next);
        worlds_clear(&walk->seen);
        for (size_t i = 0; i < walk->n_now; i++)
                go_on(walk, walk->now[i]);
        walk->slots[slot] = 0;
        walk->used &= ~bit;
        walk->changing &= ~bit;
        memcpy(walk->now, walk->next.at, walk->next.n * sizeof(LinearWorld));
        walk->n_now = walk->next.n;
        return !walk->next.full && !walk->seen.full;
}

static void anew(Walk *walk, uint64_t value) {
        memset(walk->slots, 0, sizeof(walk->slots));
        walk->used = walk->optional = walk->changing = 0;
        walk->now[0] = (LinearWorld){.value = value};
        walk->n_now = 1;
}

LinearVerdict linear_check(LinearOp *ops, size_t n, LinearTold *ret) {
        _cleanup_(freep) Event *events = calloc(2 * n + 1, sizeof(Event));
        static Walk all; /* large, and begun anew below */
        Walk *walk = &all;
        assert(events);
        size_t n_events = events_of(ops, n, events), under_way = 0;
        bool lost = false;

        *ret = (LinearTold){};
        walk->ops = ops;
        anew(walk, 0);
        for (size_t i = 0; i < n_events; i++) {
                const Event *event = &events[i];
                if (event->returns)
                        under_way--;
                else
                        under_way++;
                if (lost) {
                        ret->n_skipped += event->returns;
                        if (under_way == 0)
                                lost = false, anew(walk, ANY);
                        continue;
                }
                if (!event->returns) {
                        lost = !begins(walk, event->op);
                        continue;
                }
                lost = !returns(walk, event->op);
                if (!lost && walk->n_now == 0) {
                        ret->culprit = event->op;
                        return LINEAR_BROKEN;
                }
                ret->n_checked += !lost;
                ret->n_skipped += lost;
                if (lost && under_way == 0)
                        lost = false, anew(walk, ANY);
        }
        return LINEAR_HOLDS;
}
