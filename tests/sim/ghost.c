/* The ghost: stands outside all hosts and remembers. What the first host tells of a revision (through an
 * ordinary watch on "/") is what every host has to tell, in the same order, for ever; what one commits at an
 * index, nobody commits differently; where trees stand at one index, their digests are equal; nobody leads
 * in a term in which another led. */
#include "sim.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

typedef struct PathHistory {
        size_t *positions, n, room;
        UT_hash_handle hh;
        char path[];
} PathHistory;

typedef struct Committed {
        uint64_t term, hash;
        bool has_digest, no_session; /* it is known to leave all sessions as they are */
        TreeDigest digest;
        unsigned digest_by;
} Committed;

static Change *changes;
static size_t n_changes, changes_room;
static size_t *firsts; /* by revision */
static uint64_t n_revisions, revisions_room;
static PathHistory *paths;
static Committed *committed;
static uint64_t n_committed;
static uint64_t
        needs[VERSIONS_MAX + 1]; /* the first committed entry that needs so much newer a host; 0: none */
static uint64_t *leaders;        /* by term */
static uint64_t n_leaders;

uint64_t hash_bytes(Bytes bytes) {
        return XXH3_64bits(bytes.data, bytes.size);
}

static void *grown(void *array, uint64_t *n, uint64_t wanted, size_t size) {
        if (wanted < *n)
                return array;
        uint64_t room = MAX(wanted + 1, *n * 2);
        array = reallocarray(array, room, size);
        assert(array);
        memset((char *)array + *n * size, 0, (room - *n) * size);
        *n = room;
        return array;
}

/* ---- What changed ---- */

uint64_t ghost_revision(void) {
        return n_changes > 0 && changes[n_changes - 1].last ? changes[n_changes - 1].revision
               : n_changes > 0                              ? changes[n_changes - 1].revision - 1
                                                            : 0;
}

size_t ghost_changes(const Change **ret) {
        *ret = changes;
        return n_changes;
}

size_t ghost_first(uint64_t revision) {
        if (revision < n_revisions)
                return firsts[revision];
        return n_changes;
}

static PathHistory *history_of(const char *path, bool make) {
        PathHistory *history = NULL;
        HASH_FIND_STR(paths, path, history);
        if (history || !make)
                return history;
        history = calloc(1, sizeof(PathHistory) + strlen(path) + 1);
        assert(history);
        strcpy(history->path, path);
        HASH_ADD_STR(paths, path, history);
        return history;
}

const Change *ghost_at(const char *path, uint64_t revision) {
        PathHistory *history = history_of(path, false);
        for (size_t i = history ? history->n : 0; i-- > 0;) {
                const Change *change = &changes[history->positions[i]];
                if (change->revision <= revision)
                        return change->kind == WATCH_PUT ? change : NULL;
        }
        return NULL;
}

static bool lies_below(const char *path, const char *subtree, bool whole) {
        size_t n = strlen(subtree);
        if (strcmp(path, subtree) == 0)
                return true;
        return whole && (n == 1 || (strncmp(path, subtree, n) == 0 && path[n] == '/'));
}

size_t ghost_count(const char *subtree, bool whole, uint64_t revision) {
        size_t n = 0;
        for (PathHistory *history = paths; history; history = history->hh.next)
                n += lies_below(history->path, subtree, whole) && ghost_at(history->path, revision);
        return n;
}

const Change *ghost_of_value(const char *text) {
        for (size_t i = 0; i < n_changes; i++)
                if (changes[i].kind == WATCH_PUT && strcmp(changes[i].text, text) == 0)
                        return &changes[i];
        return NULL;
}

/* A new one: it has to follow from what was before. */
static void append(const SimHost *host, const WatchEvent *event) {
        const Change *newest = n_changes > 0 ? &changes[n_changes - 1] : NULL;
        uint64_t wanted = !newest ? 1 : newest->last ? newest->revision + 1 : newest->revision;
        if (event->revision != wanted)
                broken("%s tells of revision %llu where %llu comes next", host->name,
                       (unsigned long long)event->revision, (unsigned long long)wanted);

        PathHistory *history = history_of(event->path, true);
        const Change *previous = history->n > 0 ? &changes[history->positions[history->n - 1]] : NULL;
        bool lives = previous && previous->kind == WATCH_PUT;
        if (event->had_previous != lives || (event->kind == WATCH_DELETE && !lives))
                broken("%s: revision %llu, %s: had_previous is %d, but it %s", host->name,
                       (unsigned long long)event->revision, event->path, event->had_previous,
                       lives ? "lived" : "did not live");
        if (event->kind == WATCH_PUT &&
            (event->version != (lives ? previous->version + 1 : 1) ||
             event->create_revision != (lives ? previous->create_revision : event->revision)))
                broken("%s: revision %llu, %s: version %llu, created %llu does not follow", host->name,
                       (unsigned long long)event->revision, event->path, (unsigned long long)event->version,
                       (unsigned long long)event->create_revision);

        if (n_changes == changes_room) {
                changes_room = MAX((size_t)1024, changes_room * 2);
                changes = reallocarray(changes, changes_room, sizeof(Change));
                assert(changes);
        }
        Change *change = &changes[n_changes];
        *change = (Change){
                .kind = event->kind,
                .path = history->path,
                .value = hash_bytes(event->value),
                .revision = event->revision,
                .create_revision = event->create_revision,
                .version = event->version,
                .last = event->last,
        };
        if (event->value.size > 0)
                memcpy(change->text, event->value.data, MIN(event->value.size, sizeof(change->text) - 1));
        change->text[strcspn(change->text, " ")] = 0;
        if (event->revision >= n_revisions) {
                if (event->revision >= revisions_room) {
                        revisions_room = MAX((uint64_t)1024, revisions_room * 2);
                        firsts = reallocarray(firsts, revisions_room, sizeof(size_t));
                        assert(firsts);
                }
                for (; n_revisions <= event->revision; n_revisions++)
                        firsts[n_revisions] = n_changes;
        }
        if (history->n == history->room) {
                history->room = MAX((size_t)16, history->room * 2);
                history->positions = reallocarray(history->positions, history->room, sizeof(size_t));
                assert(history->positions);
        }
        history->positions[history->n++] = n_changes++;
        clients_changed(change);
}

void ghost_compacted(const SimHost *host, uint64_t next, const WatchEvent *event) {
        uint64_t floor = host->agent->tree_status.floor;
        if (event->revision != floor || next >= floor)
                broken("%s: a watch ended as compacted at %llu; it was at %llu, and history begins at %llu",
                       host->name, (unsigned long long)event->revision, (unsigned long long)next,
                       (unsigned long long)floor);
        if (world.history_usec == 0 && world.slept_usec == 0)
                broken("%s: history of less than an hour is gone", host->name);
        if (floor > ghost_revision() + 1)
                broken("%s: history below %llu is gone, of which nobody has told yet", host->name,
                       (unsigned long long)floor);
}

static int deliver(const WatchEvent *event, void *userdata) {
        SimHost *host = userdata;
        if (host->diverged || host->no_tree || host->touched_tree) {
                /* What it tells is wrong, or its watches end with its tree. When it is well again it tells
                 * from where it was. */
                if (event->kind == WATCH_COMPACTED) {
                        host->oracle = watch_free(host->oracle);
                        host->oracle_rests_until =
                                world.now + 100 * MSEC; /* else it would end in each turn */
                }
                return 0;
        }
        switch (event->kind) {
        case WATCH_MARK:
                return 0;
        case WATCH_COMPACTED:
        case WATCH_OVERFLOW:
                if (host->touched ||
                    host->leaving) { /* what a bad tree told may have been wrong: it looks anew */
                        host->oracle = watch_free(host->oracle);
                        if (event->revision <= ghost_revision() + 1)
                                host->oracle_next = MAX(host->oracle_next, event->revision);
                        return 0;
                }
                if (!host_is_in(host))
                        return 0;
                if (event->kind == WATCH_OVERFLOW)
                        broken("%s: the watch on / ended at %llu", host->name,
                               (unsigned long long)event->revision);
                ghost_compacted(host, host->oracle_next, event);
                host->oracle = watch_free(host->oracle); /* and begins anew there */
                host->oracle_next = event->revision;
                return 0;
        case WATCH_PUT:
        case WATCH_DELETE:
                break;
        }
        if (host->oracle_position == n_changes)
                append(host, event);
        const Change *change = &changes[host->oracle_position];
        if (change->revision != event->revision || change->kind != event->kind ||
            strcmp(change->path, event->path) != 0 || change->value != hash_bytes(event->value) ||
            change->version != event->version || change->last != event->last ||
            change->create_revision != event->create_revision)
                broken("%s tells of revision %llu: %s %s version %llu%s; others told of %llu: %s %s version "
                       "%llu%s",
                       host->name, (unsigned long long)event->revision,
                       event->kind == WATCH_PUT ? "put" : "delete", event->path,
                       (unsigned long long)event->version, event->last ? ", last" : "",
                       (unsigned long long)change->revision, change->kind == WATCH_PUT ? "put" : "delete",
                       change->path, (unsigned long long)change->version, change->last ? ", last" : "");
        host->oracle_position++;
        host->oracle_next = change->last ? change->revision + 1 : change->revision;
        return 0;
}

void ghost_watch(SimHost *host) {
        if (host->oracle || !host_is_in(host) || world.now < host->oracle_rests_until)
                return;
        uint64_t revision;
        host->oracle_position = ghost_first(host->oracle_next);
        int r = agent_watch(host->agent, "/", WATCH_SUBTREE, host->oracle_next, deliver, host, &host->oracle,
                            &revision);
        assert(r == 0);
}

void ghost_unwatch(SimHost *host) {
        host->oracle = watch_free(host->oracle);
}

void ghost_killed(SimHost *host) {
        host->oracle = NULL;
        host->checked = host->sessions_at = 0;
}

/* ---- What is committed, who leads ---- */

static void look_at_leader(const SimHost *host, const RaftStatus *status) {
        if (status->role != RAFT_LEADER)
                return;
        leaders = grown(leaders, &n_leaders, status->term, sizeof(uint64_t));
        if (leaders[status->term] == 0)
                world.led_usec = world.now, world.sums.elections++,
                note("%s leads term %llu", host->name, (unsigned long long)status->term);
        else if (leaders[status->term] != host->id)
                broken("two leaders in term %llu: %016llx and %s", (unsigned long long)status->term,
                       (unsigned long long)leaders[status->term], host->name);
        leaders[status->term] = host->id;
}

/* By what the bytes say, without all the decoding: it has to be sure. */
static bool leaves_sessions(const Entry *entry) {
        if (entry->type != ENTRY_COMMAND)
                return true;
        if (entry->size < ENTRY_STAMP_BYTES + 2 || entry->data[ENTRY_STAMP_BYTES] != 1 << 3)
                return false; /* a command begins with its kind */
        uint8_t kind = entry->data[ENTRY_STAMP_BYTES + 1];
        return kind == COMMAND_SET || kind == COMMAND_CREATE || kind == COMMAND_DELETE ||
               kind == COMMAND_CHECK;
}

static void note_version(const Entry *entry) {
        EntryStamp stamp;
        if (entry->type != ENTRY_COMMAND || entry_stamp_read(entry, &stamp) < 0 || stamp.min_version <= 1)
                return;
        assert(stamp.min_version - 1 <= world.newer);
        uint64_t *first = &needs[stamp.min_version - 1];
        if (*first == 0 || entry->index < *first)
                *first = entry->index;
}

/* A host stands before the first entry that it does not know, however its tree came to be. */
static void look_at_version(const SimHost *host) {
        uint64_t applied = host->agent->tree_status.applied;
        for (unsigned v = host->newer + 1; v <= world.newer; v++)
                if (needs[v] != 0 && applied >= needs[v])
                        broken("%s applied what its version does not know: index %llu, first unknown %llu",
                               host->name, (unsigned long long)applied, (unsigned long long)needs[v]);
}

static void look_at_entries(SimHost *host) {
        Agent *agent = host->agent;
        uint64_t end = MIN(agent->tree_status.applied, agent->raft_status.commit);

        if (agent->follow.active)
                return;
        for (uint64_t index = MAX(host->checked, agent->raft_status.base_index) + 1; index <= end; index++) {
                Entry *entry = raft_entry(agent->raft, index);
                if (!entry)
                        continue;
                committed = grown(committed, &n_committed, index, sizeof(Committed));
                uint64_t hash = hash_bytes(BYTES(entry->data, entry->size)) | 1;
                Committed *known = &committed[index];
                if (known->hash != 0 && (known->hash != hash || known->term != entry->term))
                        broken("%s committed another entry at %llu (term %llu, was %llu)", host->name,
                               (unsigned long long)index, (unsigned long long)entry->term,
                               (unsigned long long)known->term);
                known->hash = hash;
                known->term = entry->term;
                known->no_session = leaves_sessions(entry);
                note_version(entry);
        }
        host->checked = MAX(host->checked, end);
}

/* May this host's sessions be others than those that were looked at last? */
static bool may_have_sessions(const SimHost *host) {
        uint64_t applied = host->agent->tree_status.applied;
        if (host->sessions_at == 0 || host->sessions_at > applied)
                return true;
        for (uint64_t i = host->sessions_at + 1; i <= applied; i++)
                if (i >= n_committed || !committed[i].no_session)
                        return true;
        return false;
}

/* Who believes its session to be certain is right: nobody has applied its end. */
static void look_at_sessions(SimHost *host) {
        bool changed = may_have_sessions(host);
        for (unsigned i = 0; i < world.n_hosts; i++) {
                const SimHost *other = world.hosts[i];
                TreeSession session;
                uint64_t until, generation = 0;
                if (other->agent && host_is_in(other) && !other->no_tree)
                        generation = sessions_certain(other->agent, &until);
                if (!changed && host->sessions[i] == generation)
                        continue; /* neither side is other than when both were compared */
                host->sessions[i] = generation;
                if (generation == 0 || tree_session(host->agent->tree, other->id, &session) != 0)
                        continue;
                if (session.generation > generation ||
                    (session.generation == generation && !session.attached))
                        broken("%s believes its session %llu certain, and %s has applied its end",
                               other->name, (unsigned long long)generation, host->name);
        }
        host->sessions_at = host->agent->tree_status.applied;
}

static void look_at_digest(SimHost *host) {
        Agent *agent = host->agent;
        TreeDigest digest;

        committed = grown(committed, &n_committed, agent->tree_status.applied, sizeof(Committed));
        Committed *known = &committed[agent->tree_status.applied];
        tree_digest(agent->tree, &digest);
        if (known->has_digest && memcmp(&known->digest, &digest, sizeof(digest)) != 0)
                broken("%s: its tree at index %llu differs from that of h%u", host->name,
                       (unsigned long long)agent->tree_status.applied, known->digest_by + 1);
        known->has_digest = true;
        known->digest = digest;
        known->digest_by = host->i;
}

void ghost_look(SimHost *host) {
        Agent *agent = host->agent;
        const TreeStatus *tree = &agent->tree_status;
        promise_look(host);
        lease_look(host);

        host->no_tree = agent->heal.bad || agent->heal.suspect;
        if (host->no_tree) {
                host->diverged = false;
                host->applied = host->revision = host->sessions_at =
                        0; /* another tree may be older: the log has the rest */
                look_at_leader(host, &agent->raft_status);
        }
        if (host->no_tree || host->diverged)
                return;
        if (!host_is_in(host))
                return;
        if (agent->damaged && !world.may_rot && !host->touched)
                broken("%s calls its log damaged", host->name);
        if (agent->halted && !host->disk_fails && !host->touched && host->newer == world.newer)
                broken("%s halted", host->name);
        look_at_version(host);
        look_at_leader(host, &agent->raft_status);
        /* A full disk takes the open transaction back; what was seen of it is seen again before any read. */
        bool back = tree->applied < host->applied || tree->revision < host->revision;
        if (back && !host->touched && !host->disk_fails &&
            (agent->full_usec == 0 || agent->applied_high < host->applied))
                broken("%s went back: index %llu to %llu, revision %llu to %llu", host->name,
                       (unsigned long long)host->applied, (unsigned long long)tree->applied,
                       (unsigned long long)host->revision, (unsigned long long)tree->revision);
        bool moved = tree->applied != host->applied;
        host->applied = tree->applied;
        host->revision = tree->revision;
        if (agent->requests.n > 4 * LIMIT_SERIALS || agent->follow.n_queue > FOLLOW_QUEUE)
                broken("%s: a queue is longer than its bound", host->name);
        if (moved) {
                look_at_entries(host);
                if (!host->touched) {
                        look_at_digest(host);
                        look_at_sessions(host);
                }
        }
        ghost_watch(host);
        clients_look(host);
}

/* ---- The end ---- */

typedef struct Compare {
        SimHost *host;
        uint64_t n;
} Compare;

static int compare_entry(const AgentEntry *entry, void *userdata) {
        Compare *compare = userdata;
        const Change *change = ghost_at(entry->path, UINT64_MAX);
        compare->n++;
        if (!change || change->value != hash_bytes(entry->value) ||
            change->revision != entry->mod_revision || change->version != entry->version ||
            change->create_revision != entry->create_revision)
                broken("%s holds %s at %llu, which is not what was told of it", compare->host->name,
                       entry->path, (unsigned long long)entry->mod_revision);
        return 0;
}

void ghost_final(void) {
        uint64_t n = 0;
        for (PathHistory *history = paths; history; history = history->hh.next)
                n += ghost_at(history->path, UINT64_MAX) != NULL;
        for (unsigned i = 0; i < world.n_hosts; i++) {
                SimHost *host = world.hosts[i];
                if (!host_is_in(host))
                        continue;
                Compare compare = {.host = host};
                bool more = false;
                int r = agent_list(host->agent, "/", "", 0, UINT32_MAX, SIZE_MAX, compare_entry, &compare,
                                   &more);
                if (r != 0 || more || compare.n != n)
                        broken("%s lists %llu entries, %llu should be there (%d)", host->name,
                               (unsigned long long)compare.n, (unsigned long long)n, r);
                if (host->oracle_position != n_changes)
                        broken("%s: its watch on / missed %zu changes", host->name,
                               n_changes - host->oracle_position);
                r = tree_scrub(host->agent->tree);
                if (r != 0)
                        broken("%s: the scrub finds its tree wrong (%d)", host->name, r);
        }
}
