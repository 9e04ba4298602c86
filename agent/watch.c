/* Watches: every change behind a revision, once each, in order, one revision never split, or an explicit
 * end.
 *
 *      LIVE ──held back by its reader──▶ BEHIND ──caught up──▶ LIVE
 *
 * A live watch is told while entries are applied. One that is behind reads history in slices, in the turn;
 * where it stands is (next revision, changes of it already told), so that a revision interrupted by a slow
 * reader goes on exactly where it stopped. When history no longer reaches back to it, it ends with
 * COMPACTED.
 *
 * Changes are copied once per entry, and only when somebody watches their path; watches hang by their
 * subtree in a hash, so a change asks once per segment of its path, however many watches there are. */
#include "hall.h"
#include "base/seen.h"

#include <string.h>

#define CATCH_UP_BYTES (256 * 1024) /* per slice */
#define MARK_USEC      (10 * USEC_PER_SEC)

typedef struct WatchPath {
        Watch *watches;
        UT_hash_handle hh;
        char path[];
} WatchPath;

typedef enum WatchStage { WATCH_LIVE, WATCH_BEHIND } WatchStage;

struct Watch {
        Agent *agent;
        WatchPath *at;
        WatchStage stage;
        uint32_t flags;
        uint64_t next; /* first revision not told completely */
        unsigned told; /* changes of it that were told */
        bool held;     /* the reader wants nothing now */
        bool ended;    /* nothing more is told; its owner frees it */
        WatchDeliver deliver;
        void *userdata;
        Watch *prev, *next_at;            /* in at->watches */
        Watch *prev_behind, *next_behind; /* in Watches.behind */
        Watch *next_grave;
};

typedef struct WatchPending {
        struct WatchPending *next;
        TreeChange change;
        char bytes[];
} WatchPending;

/* ---- Subtrees ---- */

static WatchPath *path_find(Agent *agent, const char *path, size_t size) {
        WatchPath *at = NULL;
        HASH_FIND(hh, agent->watches.paths, path, size, at);
        return at;
}

/* Calls each() for the change's own path and every directory above it, down to "/". */
static bool each_above(Agent *agent, const char *path,
                       bool (*each)(WatchPath *at, bool exact, void *userdata), void *userdata) {
        size_t size = strlen(path);
        bool any = false;

        for (size_t n = size; n > 0; n--) {
                if (n != size && path[n] != '/')
                        continue;
                WatchPath *at = path_find(agent, path, n);
                if (at)
                        any |= each(at, n == size, userdata);
        }
        if (size > 1) {
                WatchPath *root = path_find(agent, "/", 1);
                if (root)
                        any |= each(root, false, userdata);
        }
        return any;
}

/* ---- Telling ---- */

/* Lists shrink only here, while nobody walks them: in between, an ended watch stays where it is and is
 * passed over. */
static void watch_bury(Watch *watch) {
        Watches *watches = &watch->agent->watches;

        if (watch->stage == WATCH_BEHIND)
                DL_DELETE2(watches->behind, watch, prev_behind, next_behind);
        DL_DELETE2(watch->at->watches, watch, prev, next_at);
        if (!watch->at->watches) {
                HASH_DEL(watches->paths, watch->at);
                free(watch->at);
        }
        watches->n--;
        if (watch->flags & WATCH_PREVIOUS)
                watches->n_previous--;
        if (watch->flags & WATCH_MARKS)
                watches->n_marks--;
        free(watch);
}

static void bury(Agent *agent) {
        Watches *watches = &agent->watches;
        while (watches->delivering == 0 && watches->graveyard) {
                Watch *watch = watches->graveyard;
                watches->graveyard = watch->next_grave;
                watch_bury(watch);
        }
}

Watch *watch_free(Watch *watch) {
        if (!watch)
                return NULL;
        Agent *agent = watch->agent;
        watch->ended = true;
        watch->next_grave = agent->watches.graveyard;
        agent->watches.graveyard = watch;
        bury(agent);
        return NULL;
}

static void watch_stage(Watch *watch, WatchStage stage) {
        Watches *watches = &watch->agent->watches;
        if (watch->stage == stage)
                return;
        watch->stage = stage;
        if (stage == WATCH_BEHIND)
                DL_APPEND2(watches->behind, watch, prev_behind, next_behind);
        else
                DL_DELETE2(watches->behind, watch, prev_behind, next_behind);
}

/* false: stop telling this watch now */
static bool watch_tell(Watch *watch, const WatchEvent *event) {
        watch->agent->watches.delivering++;
        int r = watch->deliver(event, watch->userdata);
        watch->agent->watches.delivering--;

        if (watch->ended)
                return false;
        if (r == 2) {
                watch->ended = true;
                return false;
        }
        if (r == 1) {
                SIM_SEEN("watch: holds back");
                watch->held = true;
                watch_stage(watch, WATCH_BEHIND);
                return false;
        }
        return true;
}

static WatchEvent event_of(const Watch *watch, const TreeChange *change) {
        bool previous = watch->flags & WATCH_PREVIOUS;
        return (WatchEvent){
                .kind = change->kind == TREE_PUT ? WATCH_PUT : WATCH_DELETE,
                .last = change->last,
                .had_previous = change->had_previous,
                .path = change->path,
                .value = change->value,
                .previous = previous ? change->previous : (Bytes){},
                .revision = change->revision,
                .create_revision = change->create_revision,
                .version = change->version,
        };
}

/* One change of which `seen` matching ones of the same revision came before. */
static bool watch_change(Watch *watch, const TreeChange *change) {
        WatchEvent event = event_of(watch, change);
        if (change->revision == watch->next)
                watch->told++;
        else {
                watch->next = change->revision;
                watch->told = 1;
        }
        if (change->last) { /* should history begin behind it, nothing was missed */
                watch->next = change->revision + 1;
                watch->told = 0;
        }
        return watch_tell(watch, &event);
}

/* ---- Live ---- */

static bool wants_any(WatchPath *at, bool exact, void *userdata) {
        for (Watch *watch = at->watches; watch; watch = watch->next_at)
                if (!watch->ended && (exact || watch->flags & WATCH_SUBTREE) && watch->stage == WATCH_LIVE)
                        return true;
        return false;
}

void watches_note(Agent *agent, const TreeChange *change) {
        Watches *watches = &agent->watches;

        if (watches->n == 0 || !each_above(agent, change->path, wants_any, NULL))
                return;
        size_t path = strlen(change->path) + 1;
        WatchPending *pending =
                malloc(sizeof(WatchPending) + path + change->value.size + change->previous.size);
        if (!pending) {
                hall_fail(agent, -ENOMEM, "A change cannot be told");
                return;
        }
        *pending = (WatchPending){.change = *change};
        char *to = pending->bytes;
        pending->change.path = memcpy(to, change->path, path);
        to += path;
        if (change->value.size > 0)
                pending->change.value.data = memcpy(to, change->value.data, change->value.size);
        to += change->value.size;
        if (change->previous.size > 0)
                pending->change.previous.data = memcpy(to, change->previous.data, change->previous.size);

        if (watches->pending_tail)
                watches->pending_tail->next = pending;
        else
                watches->pending = pending;
        watches->pending_tail = pending;
}

typedef struct Fire {
        const TreeChange *change;
} Fire;

static bool fire_at(WatchPath *at, bool exact, void *userdata) {
        const Fire *fire = userdata;

        for (Watch *watch = at->watches; watch; watch = watch->next_at) {
                if (!exact && !(watch->flags & WATCH_SUBTREE))
                        continue;
                if (watch->ended || watch->stage != WATCH_LIVE || fire->change->revision < watch->next)
                        continue;
                (void)watch_change(watch, fire->change);
        }
        return true;
}

void watches_fire(Agent *agent) {
        Watches *watches = &agent->watches;
        WatchPending *pending = TAKE(watches->pending);

        watches->pending_tail = NULL;
        watches->delivering++;
        while (pending) {
                WatchPending *next = pending->next;
                Fire fire = {.change = &pending->change};
                (void)each_above(agent, pending->change.path, fire_at, &fire);
                free(pending);
                pending = next;
        }
        watches->delivering--;
        bury(agent);
}

/* ---- Behind ---- */

typedef struct CatchUp {
        Watch *watch;
        uint64_t from; /* revision that may be half told */
        unsigned skip; /* its changes that were told */
        bool stopped;
} CatchUp;

static void catch_up_change(const TreeChange *change, void *userdata) {
        CatchUp *catch_up = userdata;
        Watch *watch = catch_up->watch;

        if (catch_up->stopped ||
            (!(watch->flags & WATCH_SUBTREE) && strcmp(change->path, catch_up->watch->at->path) != 0))
                return;
        if (change->revision == catch_up->from && catch_up->skip > 0) {
                SIM_SEEN("watch: resumes within a revision");
                catch_up->skip--;
                return;
        }
        if (!watch_change(watch, change))
                catch_up->stopped = true;
}

static void tell_compacted(Watch *watch, uint64_t floor) {
        WatchEvent event = {.kind = WATCH_COMPACTED, .last = true, .path = "", .revision = floor};
        watch->agent->watches.delivering++;
        (void)watch->deliver(&event, watch->userdata);
        watch->agent->watches.delivering--;
        watch->ended = true;
}

/* A full disk may have taken revisions back that live watches were told of: they are applied again, and not
 * told again. Whoever has not heard of them waits here until history has them again. */
static bool can_catch_up(const Watch *watch) {
        return !watch->held && !watch->ended &&
               (watch->next <= watch->agent->tree_status.revision ||
                watch->next > watch->agent->told_revision);
}

/* Without anybody to fetch from the history stays as it is: the watch cannot go on. */
static void rot_met(Watch *watch) {
        Agent *agent = watch->agent;
        heal_suspect(agent, false, "its history cannot be read");
        if (agent->heal.alone)
                tell_compacted(watch, agent->tree_status.revision + 1);
}

static void catch_up(Watch *watch) {
        Agent *agent = watch->agent;
        uint64_t revision = agent->tree_status.revision, next = 0;

        if (watch->next > revision) {
                if (watch->next > agent->told_revision)
                        watch_stage(watch, WATCH_LIVE);
                return;
        }
        CatchUp state = {.watch = watch, .from = watch->next, .skip = watch->told};
        agent->watches.delivering++;
        int r = tree_history(agent->tree, watch->at->path, watch->next, revision, CATCH_UP_BYTES,
                             catch_up_change, &state, &next);
        agent->watches.delivering--;

        if (r == TREE_COMPACTED) {
                SIM_SEEN("watch: below the floor");
                tell_compacted(watch, agent->tree_status.floor);
        } else if (r == TREE_ROTTEN)
                rot_met(watch);
        else if (r ==
                 TREE_FULL) /* it has taken the open transaction back; COMMIT says so, and it is read then */
                SIM_SEEN("watch: no room, and so history cannot be read now");
        else if (r != 0)
                hall_fail(agent, r < 0 ? r : -EBADMSG, "History cannot be read");
        else if (!state.stopped && !watch->ended) {
                watch->next = next;
                watch->told = 0;
                if (next > MAX(revision, agent->told_revision))
                        watch_stage(watch, WATCH_LIVE);
        }
}

static void tell_marks(Agent *agent) {
        Watches *watches = &agent->watches;
        uint64_t revision = MAX(agent->tree_status.revision, agent->told_revision);

        if (watches->n_marks == 0 || agent->now_usec < watches->mark_usec)
                return;
        watches->mark_usec = agent->now_usec + MARK_USEC;
        for (WatchPath *at = watches->paths; at; at = at->hh.next)
                for (Watch *watch = at->watches; watch; watch = watch->next_at) {
                        if (watch->ended || !(watch->flags & WATCH_MARKS) || watch->stage != WATCH_LIVE ||
                            watch->next > revision + 1)
                                continue;
                        WatchEvent event = {
                                .kind = WATCH_MARK, .last = true, .path = "", .revision = revision};
                        if (watch->next <= revision) {
                                watch->next = revision + 1; /* where it goes on should it be held back now */
                                watch->told = 0;
                        }
                        (void)watch_tell(watch, &event);
                }
}

void watches_catch_up(Agent *agent) {
        Watch *watch, *next;

        if (agent->heal.bad || agent->heal.suspect)
                return; /* there is no history to read */
        agent->watches.delivering++;
        DL_FOREACH_SAFE2(agent->watches.behind, watch, next, next_behind)
        if (can_catch_up(watch))
                catch_up(watch);
        tell_marks(agent);
        agent->watches.delivering--;
        bury(agent);
        for (watch = agent->watches.behind; watch; watch = watch->next_behind)
                if (can_catch_up(watch))
                        agent->again = true;
}

uint64_t watches_deadline(const Agent *agent) {
        return agent->watches.n_marks > 0 ? agent->watches.mark_usec : USEC_INFINITY;
}

/* ---- The door ---- */

size_t agent_watches(const Agent *agent) {
        return agent->watches.n;
}

int agent_watch(Agent *agent, const char *subtree, uint32_t flags, uint64_t from_revision,
                WatchDeliver deliver, void *userdata, Watch **ret, uint64_t *ret_revision) {
        Watches *watches = &agent->watches;
        if (watches->n >= LIMIT_WATCHES)
                return -EBUSY;
        if (path_check(subtree) != PATH_OK)
                return -EINVAL;

        Watch *watch = calloc(1, sizeof(Watch));
        if (!watch)
                return -ENOMEM;
        size_t size = strlen(subtree);
        WatchPath *at = path_find(agent, subtree, size);
        if (!at) {
                at = calloc(1, sizeof(WatchPath) + size + 1);
                if (!at) {
                        free(watch);
                        return -ENOMEM;
                }
                memcpy(at->path, subtree, size + 1);
                HASH_ADD_KEYPTR(hh, watches->paths, at->path, size, at);
                if (!HASH_ADDED(at)) {
                        free(at);
                        free(watch);
                        return -ENOMEM;
                }
        }

        uint64_t revision = MAX(agent->tree_status.revision, agent->told_revision);
        *watch = (Watch){
                .agent = agent,
                .at = at,
                .flags = flags,
                .next = from_revision ?: revision + 1,
                .deliver = deliver,
                .userdata = userdata,
        };
        DL_APPEND2(at->watches, watch, prev, next_at);
        watches->n++;
        if (flags & WATCH_PREVIOUS)
                watches->n_previous++;
        if (flags & WATCH_MARKS) {
                if (watches->n_marks++ == 0)
                        watches->mark_usec = hall_now(agent) + MARK_USEC;
        }
        if (watch->next <= revision)
                watch_stage(watch, WATCH_BEHIND);
        hall_wake(agent);
        *ret = watch;
        *ret_revision = revision;
        return 0;
}

void watch_resume(Watch *watch) {
        if (watch->ended || !watch->held)
                return;
        watch->held = false;
        hall_wake(watch->agent);
}

/* The tree was replaced: everybody goes on through the new one's history, from where live ones were told
 * all. */
void watches_rebase(Agent *agent) {
        WatchPath *at, *next;
        HASH_ITER (hh, agent->watches.paths, at, next)
                for (Watch *watch = at->watches; watch; watch = watch->next_at) {
                        if (watch->ended)
                                continue;
                        if (watch->stage == WATCH_LIVE && watch->next <= agent->told_revision) {
                                watch->next = agent->told_revision + 1;
                                watch->told = 0;
                        }
                        watch_stage(watch, WATCH_BEHIND);
                }
}

void watches_abandon(Agent *agent) {
        Watches *watches = &agent->watches;

        watches->delivering++;
        for (WatchPath *at = watches->paths; at; at = at->hh.next)
                for (Watch *watch = at->watches; watch; watch = watch->next_at)
                        if (!watch->ended)
                                tell_compacted(watch, agent->tree_status.revision + 1);
        watches->delivering--;
        bury(agent);
}

void watches_unnote(Agent *agent) {
        Watches *watches = &agent->watches;

        if (watches->pending)
                SIM_SEEN("watch: half of an entry was noted, and is taken back");
        while (watches->pending) {
                WatchPending *pending = watches->pending;
                watches->pending = pending->next;
                free(pending);
        }
        watches->pending_tail = NULL;
}

/* Whoever watched is gone by now. */
void watches_end(Agent *agent) {
        Watches *watches = &agent->watches;

        watches->delivering = 0;
        bury(agent);
        while (watches->paths)
                watch_bury(watches->paths->watches);
        watches_unnote(agent);
}
