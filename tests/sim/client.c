/* Who wants something. Each client does one thing at a time on some host: writes a value nobody else writes,
 * deletes, reads, and remembers what he was told and what anybody had been told before he asked. Watchers
 * stand beside them, hold back, go away and come again, also on another host. Owners keep ephemeral entries.
 * What they were told is compared with what the ghost knows as soon as it knows. */
#include "sim.h"
#include "linear.h"

#include <stdio.h>
#include <string.h>

typedef enum OpKind {
        OP_SET,
        OP_CREATE,
        OP_DELETE,
        OP_DELETE_TREE,
        OP_SET_IF,
        OP_READ,
        OP_READ_LINEAR
} OpKind;

typedef enum OpState {
        OP_WAITING,
        OP_DONE,      /* told so, at .revision */
        OP_REFUSED,   /* the tree said no */
        OP_NEVER,     /* told that it was never offered */
        OP_UNKNOWN,   /* to be asked for */
        OP_APPLIED,   /* asked: it applied, at .revision */
        OP_NOT,       /* asked: it never will */
        OP_FORGOTTEN, /* asked more than a thousand requests later: nobody knows any more */
} OpState;

typedef struct Op {
        OpKind kind;
        OpState state;
        SimHost *host;
        char path[32], text[24];
        uint64_t seen;                   /* newest revision anybody had been told of when it began */
        uint64_t begun_usec, ended_usec; /* told; USEC_INFINITY: never */
        uint64_t slept_usec;
        uint64_t expected; /* SET_IF: number of the value that has to be there */
        bool guessed;      /* … which a damaged host said */
        uint64_t revision, incarnation, serial;
        ResultStatus status;
        /* reads */
        bool found, checked, unsure;
        uint64_t value, mod_revision;
} Op;

typedef struct Client {
        unsigned n;
        Op *op;        /* NULL: thinks */
        uint64_t turn; /* counts thoughts: a hurry overtakes the one at hand */
        Request *request;
        Read *read;
} Client;

typedef struct Seen {
        WatchKind kind;
        bool last;
        uint64_t revision, path, value;
} Seen;

typedef struct Watcher {
        unsigned n;
        SimHost *host;
        Watch *watch;
        char subtree[16];
        bool whole; /* WATCH_SUBTREE */
        uint64_t next;
        size_t position;
        Seen *seen; /* not compared yet */
        size_t n_seen, room;
        bool held;
        bool anew; /* what it missed is gone: it looks at what there is, and goes on from there */
} Watcher;

#define OPS_MAX      200000
#define CLIENTS_MAX  200
#define WATCHERS_MAX 12

static Op *ops;
static size_t n_ops;
static size_t *unknown, n_unknown; /* to be asked for */
static size_t n_told_unknown;
static Client clients[CLIENTS_MAX];
static Watcher watchers[WATCHERS_MAX];
static unsigned n_clients, n_watchers, n_keys;
static uint64_t seen_revision, think_usec, calm_usec, burst_until, together_usec, big_values;
static SimHost *favourite; /* whom many ask */
static size_t *checks;     /* reads whose revision the ghost does not know yet */
static size_t n_checks, checks_room;

uint64_t clients_seen(void) {
        return seen_revision;
}

uint64_t clients_count(void) {
        return n_ops;
}

/* ---- Comparing ---- */

static bool is_below(const char *path, const char *subtree, bool whole) {
        size_t n = strlen(subtree);
        if (strcmp(path, subtree) == 0)
                return true;
        return whole && (n == 1 || (strncmp(path, subtree, n) == 0 && path[n] == '/'));
}

static void compare_read(Op *op) {
        const Change *change = ghost_at(op->path, op->revision);
        op->checked = true;
        if (op->found != (change != NULL) ||
            (change && (change->value != op->value || change->revision != op->mod_revision)))
                broken("%s: a read of %s at revision %llu saw revision %llu; it was %llu", op->host->name,
                       op->path, (unsigned long long)op->revision,
                       (unsigned long long)(op->found ? op->mod_revision : 0),
                       (unsigned long long)(change ? change->revision : 0));
}

static void compare_reads(void) {
        size_t kept = 0;
        for (size_t i = 0; i < n_checks; i++) {
                Op *op = &ops[checks[i]];
                if (op->revision <= ghost_revision())
                        compare_read(op);
                else
                        checks[kept++] = checks[i];
        }
        n_checks = kept;
}

static void compare_watcher(Watcher *watcher) {
        const Change *changes;
        size_t n = ghost_changes(&changes), i = 0;

        for (; i < watcher->n_seen; i++) {
                const Seen *seen = &watcher->seen[i];
                while (watcher->position < n &&
                       !is_below(changes[watcher->position].path, watcher->subtree, watcher->whole))
                        watcher->position++;
                if (watcher->position == n)
                        break;
                const Change *change = &changes[watcher->position];
                uint64_t path = hash_bytes(BYTES(change->path, strlen(change->path)));
                if (change->revision != seen->revision || change->kind != seen->kind || path != seen->path ||
                    change->value != seen->value)
                        broken("%s: a watch on %s was told of revision %llu where %llu (%s) comes next",
                               watcher->host->name, watcher->subtree, (unsigned long long)seen->revision,
                               (unsigned long long)change->revision, change->path);
                watcher->position++;
        }
        watcher->n_seen -= i;
        if (watcher->n_seen > 0)
                memmove(watcher->seen, watcher->seen + i, watcher->n_seen * sizeof(Seen));
}

void clients_look(SimHost *host) {
        compare_reads();
        for (unsigned i = 0; i < n_watchers; i++)
                if (watchers[i].host == host && watchers[i].n_seen > 0)
                        compare_watcher(&watchers[i]);
}

/* ---- Writing ---- */

static void client_thinks(Client *client);

static void op_ends(Client *client, OpState state) {
        client->op->state = state;
        client->op->ended_usec = state == OP_UNKNOWN ? USEC_INFINITY : world.now;
        mix((uint64_t)state << 32 ^ client->op->revision);
        client->op = NULL;
        client->request = NULL;
        client->read = NULL;
        client_thinks(client);
}

static void check_written(Op *op) {
        bool done = op->state == OP_DONE;
        if (done ? op->revision <= op->seen : op->revision < op->seen)
                broken("%s: %s of %s was answered with revision %llu, but %llu had been told of before it began",
                       op->host->name, op->text, op->path, (unsigned long long)op->revision,
                       (unsigned long long)op->seen);
        seen_revision = MAX(seen_revision, op->revision);
}

static void written(const RequestAnswer *answer, void *userdata) {
        Client *client = userdata;
        Op *op = client->op;

        op->incarnation = answer->incarnation;
        op->serial = answer->serial;
        op->status = answer->result.status;
        op->revision = answer->result.revision;
        note("%s: %s %s -> %d, status %d, revision %llu", op->host->name, op->text, op->path, answer->answer,
             answer->result.status, (unsigned long long)op->revision);
        bool decided = answer->answer == ANSWER_DONE || answer->answer == ANSWER_REFUSED;
        if (decided && op->host->touched_tree) { /* it rots, and counts wrongly: nobody else was asked */
                op_ends(client, OP_FORGOTTEN);
                op->ended_usec = USEC_INFINITY;
                return;
        }
        switch (answer->answer) {
        case ANSWER_DONE:
                op->state = OP_DONE;
                check_written(op);
                break;
        case ANSWER_REFUSED:
                op->state = OP_REFUSED;
                check_written(op);
                break;
        case ANSWER_UNKNOWN:
                if (op->serial == 0 || op->incarnation == 0)
                        broken("%s: an Unknown without an id", op->host->name);
                op->state = OP_UNKNOWN;
                unknown[n_unknown++] = (size_t)(op - ops);
                n_told_unknown++;
                break;
        case ANSWER_NO_QUORUM:
        case ANSWER_BUSY:
        case ANSWER_DISK_FULL:
        case ANSWER_NOT_MEMBER:
        case ANSWER_STOPPING:
        case ANSWER_TIMEOUT:
        case ANSWER_HALTED:
        case ANSWER_NO_TREE:
                op->state = OP_NEVER;
                break;
        }
        op_ends(client, op->state);
}

static uint64_t number_of(Bytes value) { /* of the wish that wrote it */
        char text[24] = "";
        memcpy(text, value.data, MIN(value.size, sizeof(text) - 1));
        return strtoull(text + 1, NULL, 10);
}

static size_t value_of(const Op *op, char *to, size_t room) {
        size_t size = 24 + below(200);
        if (big_values > 0 && chance((unsigned)big_values))
                size = between(1000, room - 1);
        memset(to, ' ', size);
        memcpy(to, op->text, strlen(op->text));
        return size;
}

static void client_writes(Client *client, Op *op) {
        static char value[200 * 1024];
        Command command = {.path = op->path};
        AgentEntry entry;

        switch (op->kind) {
        case OP_SET_IF:
                command.flags = COMMAND_IF_MOD_REVISION;
                op->guessed = op->host->touched || op->host->leaving;
                if (agent_get(op->host->agent, op->path, &entry) == 0)
                        command.revision = entry.mod_revision, op->expected = number_of(entry.value);
                /* fall through */
        case OP_SET:
                command.kind = COMMAND_SET;
                break;
        case OP_CREATE:
                command.kind = COMMAND_CREATE;
                break;
        case OP_DELETE_TREE:
                command.flags = COMMAND_SUBTREE;
                /* fall through */
        case OP_DELETE:
                command.kind = COMMAND_DELETE;
                break;
        case OP_READ:
        case OP_READ_LINEAR:
                return;
        }
        if (command.kind != COMMAND_DELETE)
                command.value = BYTES(value, value_of(op, value, sizeof(value)));
        int r = agent_request(op->host->agent, &command, between(500, 10000) * MSEC, written, client,
                              &client->request);
        assert(r == 0);
}

/* ---- Reading ---- */

static void look(Client *client) {
        Op *op = client->op;
        SimHost *host = op->host;
        AgentEntry entry;

        op->revision = agent_revision(host->agent);
        int r = agent_get(host->agent, op->path, &entry);
        if (r < 0 && (host->disk_fails || host->touched ||
                      host->full_until > world.now)) { /* it is told so: no answer is wrong */
                op_ends(client, OP_NEVER);
                return;
        }
        if (r < 0)
                broken("%s: %s cannot be read: %d", host->name, op->path, r);
        if (host->touched ||
            host->leaving) { /* a row that rotted away cannot be told from one that never was */
                op_ends(client, OP_NEVER);
                return;
        }
        op->found = r == 0;
        if (op->found) {
                op->value = hash_bytes(entry.value);
                op->expected = number_of(entry.value);
                op->mod_revision = entry.mod_revision;
        }
        if (op->kind == OP_READ_LINEAR) {
                if (op->revision < op->seen)
                        broken("%s: a linearizable read saw revision %llu, but %llu had been told of before it began",
                               host->name, (unsigned long long)op->revision, (unsigned long long)op->seen);
                seen_revision = MAX(seen_revision, op->revision);
        }
        if (op->revision < host->revision_before && !host->unsure && !host->touched)
                broken("%s: a read at revision %llu after one at %llu", host->name,
                       (unsigned long long)op->revision, (unsigned long long)host->revision_before);
        host->revision_before = op->revision;
        if (n_checks == checks_room) {
                checks_room = MAX((size_t)64, checks_room * 2);
                checks = reallocarray(checks, checks_room, sizeof(size_t));
                assert(checks);
        }
        checks[n_checks++] = (size_t)(op - ops);
        op_ends(client, OP_DONE);
}

static void may_look(Answer answer, void *userdata) {
        Client *client = userdata;
        client->read = NULL;
        if (answer == ANSWER_DONE)
                look(client);
        else
                op_ends(client, OP_NEVER);
}

static void client_reads(Client *client, Op *op) {
        uint32_t flags = op->kind == OP_READ_LINEAR ? READ_LINEARIZABLE : 0;
        int r = agent_read(op->host->agent, flags, 0, between(500, 5000) * MSEC, may_look, client,
                           &client->read);
        if (r == 1)
                look(client);
        else
                assert(r == 0);
}

/* ---- Clients ---- */

static SimHost *choose_host(void) {
        if (favourite && world.now / (5 * SEC) % 2 == 0 && host_runs(favourite) && host_is_in(favourite))
                return favourite;
        for (unsigned n = 0; n < 6; n++) {
                SimHost *host = world.hosts[below(world.n_hosts)];
                if (host_runs(host) && host_is_in(host))
                        return host;
        }
        return NULL;
}

static void key_path(unsigned key, bool directory, char to[static 32]) {
        if (directory)
                snprintf(to, 32, "/k/%u", key % 5);
        else
                snprintf(to, 32, "/k/%u/%u", key % 5, key);
}

static void client_acts(void *p, uint64_t a) {
        Client *client = p;
        if (!world.clients || a != client->turn)
                return;
        SimHost *host = choose_host();
        if (!host || n_ops == OPS_MAX) {
                client_thinks(client);
                return;
        }
        Op *op = &ops[n_ops++];
        *op = (Op){.host = host,
                   .seen = seen_revision,
                   .begun_usec = world.now,
                   .slept_usec = world.slept_usec};
        unsigned kind = (unsigned)below(100);
        op->kind = kind < 40   ? OP_SET
                   : kind < 48 ? OP_CREATE
                   : kind < 56 ? OP_DELETE
                   : kind < 58 ? OP_DELETE_TREE
                   : kind < 66 ? OP_SET_IF
                   : kind < 83 ? OP_READ
                               : OP_READ_LINEAR;
        unsigned key = (unsigned)below(n_keys);
        key_path(key, key % 3 == 0 || op->kind == OP_DELETE_TREE, op->path);
        snprintf(op->text, sizeof(op->text), "v%zu", n_ops);
        client->op = op;
        if (op->kind == OP_READ || op->kind == OP_READ_LINEAR)
                client_reads(client, op);
        else
                client_writes(client, op);
}

static void client_thinks(Client *client) {
        uint64_t mean = world.now < burst_until ? think_usec : calm_usec;
        uint64_t usec = world.now + between(mean / 10, mean * 2);
        if (together_usec > 0) /* all at once */
                usec = usec / together_usec * together_usec + together_usec;
        at(usec, client_acts, client, ++client->turn);
}

/* A few operations a second, so that virtual time flies; now and then all at once, so that queues fill. */
static void burst(void *p, uint64_t a) {
        if (!world.clients)
                return;
        burst_until = world.now + between(100 * MSEC, 2 * SEC);
        for (unsigned i = 0; i < n_clients; i++)
                if (!clients[i].op)
                        client_thinks(&clients[i]);
        at(world.now + between(5 * SEC, 90 * SEC), burst, NULL, 0);
}

/* ---- Watchers ---- */

static void watcher_resumes(void *p, uint64_t life) {
        Watcher *watcher = p;
        if (watcher->watch && watcher->host->life == life && watcher->held) {
                watcher->held = false;
                watch_resume(watcher->watch);
        }
}

static void watcher_closes(Watcher *watcher) {
        if (watcher->watch)
                watcher->watch = watch_free(watcher->watch);
        /* What the ghost does not know yet is told again to whoever resumes before it. */
        if (watcher->n_seen > 0)
                watcher->next = watcher->seen[0].revision;
        watcher->n_seen = 0;
}

static int watcher_told(const WatchEvent *event, void *userdata) {
        Watcher *watcher = userdata;
        if (watcher->host->touched_tree && event->kind != WATCH_COMPACTED) {
                watcher_closes(watcher); /* whatever it says may be wrong: asked elsewhere */
                return 0;
        }
        switch (event->kind) {
        case WATCH_MARK:
                if (event->revision + 1 < watcher->next)
                        broken("%s: a mark went back", watcher->host->name);
                watcher->next = event->revision + 1;
                return 0;
        case WATCH_COMPACTED:
        case WATCH_OVERFLOW:
                if (watcher->host->touched || watcher->host->leaving || watcher->host->disk_fails) {
                        watcher->watch = watch_free(watcher->watch); /* opened again where it ended */
                        if (watcher->n_seen > 0)
                                watcher->next = watcher->seen[0].revision;
                        watcher->n_seen = 0;
                        return 0;
                }
                if (event->kind == WATCH_OVERFLOW)
                        broken("%s: a watch on %s ended at %llu", watcher->host->name, watcher->subtree,
                               (unsigned long long)event->revision);
                ghost_compacted(watcher->host, watcher->next, event);
                watcher->watch = watch_free(watcher->watch);
                watcher->anew = true;
                return 0;
        case WATCH_PUT:
        case WATCH_DELETE:
                break;
        }
        if (watcher->n_seen == watcher->room) {
                watcher->room = MAX((size_t)64, watcher->room * 2);
                watcher->seen = reallocarray(watcher->seen, watcher->room, sizeof(Seen));
                assert(watcher->seen);
        }
        watcher->seen[watcher->n_seen++] = (Seen){
                .kind = event->kind,
                .last = event->last,
                .revision = event->revision,
                .path = hash_bytes(BYTES(event->path, strlen(event->path))),
                .value = hash_bytes(event->value),
        };
        watcher->next = event->last ? event->revision + 1 : event->revision;
        if (!world.clients || !chance(1000))
                return 0;
        watcher->held = true;
        at(world.now + between(1, 3000) * MSEC, watcher_resumes, watcher, watcher->host->life);
        return 1;
}

static void watcher_opens(Watcher *watcher, SimHost *host) {
        uint64_t revision;
        watcher->host = host;
        watcher->held = false;
        watcher->n_seen = 0;
        watcher->position = ghost_first(watcher->next);
        int r = agent_watch(host->agent, watcher->subtree,
                            (watcher->whole ? WATCH_SUBTREE : 0) | (chance(5000) ? WATCH_MARKS : 0),
                            watcher->next, watcher_told, watcher, &watcher->watch, &revision);
        assert(r == 0);
}

/* What is there now takes the place of what was not told. */
typedef struct Look {
        Watcher *watcher;
        SimHost *host;
        uint64_t revision;
        size_t n;
} Look;

static int watcher_looks_at(const AgentEntry *entry, void *userdata) {
        Look *look = userdata;
        const Change *change = ghost_at(entry->path, look->revision);
        if (!change || change->value != hash_bytes(entry->value) || change->revision != entry->mod_revision)
                broken("%s: %s at revision %llu is not what was told of it", look->host->name, entry->path,
                       (unsigned long long)look->revision);
        look->n += is_below(entry->path, look->watcher->subtree, look->watcher->whole);
        return 0;
}

static bool watcher_begins_anew(Watcher *watcher, SimHost *host) {
        Look look = {.watcher = watcher, .host = host, .revision = agent_revision(host->agent)};
        bool more = false;
        if (watcher->n_seen > 0 || host->touched || host->leaving || host->disk_fails ||
            look.revision > ghost_revision())
                return false;
        int r = agent_list(host->agent, watcher->subtree, "", 0, UINT32_MAX, SIZE_MAX, watcher_looks_at,
                           &look, &more);
        if (r != 0 && host->full_until > world.now)
                return false;
        if (r != 0 || more)
                broken("%s: %s cannot be listed: %d", host->name, watcher->subtree, r);
        size_t n = ghost_count(watcher->subtree, watcher->whole, look.revision);
        if (look.n != n)
                broken("%s: %s has %zu entries at revision %llu, %zu should be there", host->name,
                       watcher->subtree, look.n, (unsigned long long)look.revision, n);
        watcher->next = look.revision + 1;
        watcher->anew = false;
        return true;
}

static void watcher_moves(void *p, uint64_t a) {
        Watcher *watcher = p;
        SimHost *host = choose_host();
        if (!world.clients)
                return;
        if (watcher->anew && (!host || !watcher_begins_anew(watcher, host))) {
                at(world.now + between(10, 500) * MSEC, watcher_moves, watcher, 0);
                return;
        }
        if (host && (!watcher->watch || (watcher->host->paused_until <= world.now && chance(3000)))) {
                watcher_closes(watcher);
                if (chance(8000)) /* else it comes back later, perhaps too late */
                        watcher_opens(watcher, host);
        }
        at(world.now + (chance(2000) ? between(200 * MSEC, 4 * SEC) : between(5 * SEC, 60 * SEC)),
           watcher_moves, watcher, 0);
}

/* ---- Owners ---- */

static void own_path(const SimHost *host, unsigned slot, char to[static 32]) {
        snprintf(to, 32, "/eph/%s/%u", host->name, slot);
}

static void owned(const RequestAnswer *answer, void *userdata) {
        bool *done = userdata;
        if (answer->answer == ANSWER_DONE)
                *done = true;
}

static void own_tag(const SimHost *host, unsigned slot, char to[static 32]) {
        snprintf(to, 32, "fd:%u:%u", slot, host->own[slot].generation);
}

static void own_asks(SimHost *host, unsigned slot) {
        char path[32], tag[32], value[32];
        own_path(host, slot, path);
        own_tag(host, slot, tag);
        int n = snprintf(value, sizeof(value), "e%u of %s", host->own[slot].generation, host->name);
        host->own[slot].done = false;
        int r = agent_own(host->agent, path, BYTES(value, (size_t)n), tag, 5 * SEC, owned,
                          &host->own[slot].done, NULL);
        host->own[slot].asked = r == 0;
        note("%s: owns %s (%s): %d", host->name, path, tag, r);
}

void clients_own(SimHost *host) {
        for (unsigned slot = 0; slot < OWN_SLOTS; slot++)
                host->own[slot].asked = false;
}

static int own_is_unwanted(const char *path, const char *tag, void *userdata) {
        SimHost *host = userdata;
        char wanted[32];
        for (unsigned slot = 0; slot < OWN_SLOTS; slot++) {
                own_tag(host, slot, wanted);
                if (host->own[slot].wanted && strcmp(tag, wanted) == 0)
                        return 0;
        }
        note("%s: disowns %s (%s)", host->name, path, tag);
        agent_disown(host->agent, tag);
        return 0;
}

static void owner_acts(void *p, uint64_t slot) {
        SimHost *host = p;
        if (host_runs(host) && host_is_in(host)) {
                if (world.clients && chance(2500)) {
                        host->own[slot].wanted = !host->own[slot].wanted;
                        host->own[slot].since_usec = world.now;
                        host->own[slot].asked = false;
                        if (host->own[slot].wanted)
                                host->own[slot].generation++;
                }
                (void)agent_owned(host->agent, own_is_unwanted, host);
                if (host->own[slot].wanted && (!host->own[slot].asked || !host->own[slot].done))
                        own_asks(host, (unsigned)slot);
        }
        at(world.now + between(300 * MSEC, 3 * SEC), owner_acts, host, slot);
}

/* What its owner gave up may end late: while his disk is full he can take nothing back. */
static bool is_of_generation(const Change *change, unsigned generation) {
        const Change *before = ghost_at(change->path, change->revision - 1);
        char text[24];
        snprintf(text, sizeof(text), "e%u", generation);
        return before && strcmp(before->text, text) == 0;
}

/* An ephemeral entry ended: had anything happened that could explain it? */
void clients_changed(const Change *change) {
        unsigned i, slot;
        if (change->kind != WATCH_DELETE || sscanf(change->path, "/eph/h%u/%u", &i, &slot) != 2)
                return;
        SimHost *host = world.hosts[i - 1];
        uint64_t since = MAX(MAX(world.disturbed_usec, host->born_usec), host->own[slot].since_usec);
        uint64_t calm = world.now > since ? world.now - since : 0;
        if (host->agent && host->own[slot].wanted && calm > 3 * world.session_usec + 5 * SEC &&
            is_of_generation(change, host->own[slot].generation))
                broken("%s ended although its owner lives and nothing had happened for %.1f s", change->path,
                       (double)calm / SEC);
}

static void asks_outcomes(void *p, uint64_t a) {
        (void)clients_decided();
        at(world.now + 700 * MSEC, asks_outcomes, NULL, 0);
}

/* ---- Life ---- */

void clients_begin(void) {
        static const uint64_t thinks[] = {2 * MSEC, 10 * MSEC, 50 * MSEC, 200 * MSEC};
        ops = calloc(OPS_MAX, sizeof(Op));
        unknown = calloc(OPS_MAX, sizeof(size_t));
        assert(ops && unknown);
        at(world.now, asks_outcomes, NULL, 0);
        world.clients = true;
        n_clients = (unsigned)between(1, chance(2000) ? CLIENTS_MAX : 24);
        if (world.narrow.clients > 0)
                n_clients = MIN(n_clients, world.narrow.clients);
        if (chance(2500))
                together_usec = between(20, 1000) * MSEC;
        if (chance(3000))
                favourite = world.hosts[below(world.n_hosts)];
        n_watchers = (unsigned)between(1, WATCHERS_MAX);
        n_keys = (unsigned)between(2, 30);
        think_usec = thinks[below(ELEMENTSOF(thinks))] * MAX(1u, n_clients / 4);
        calm_usec = n_clients * SEC / between(1, 5);
        at(world.now + below(5 * SEC), burst, NULL, 0);
        big_values = chance(3000) ? between(5, 300) : 0;
        for (unsigned i = 0; i < n_clients; i++) {
                clients[i].n = i;
                client_thinks(&clients[i]);
        }
        for (unsigned i = 0; i < n_watchers; i++) {
                static const char *const subtrees[] = {"/", "/k", "/k/1", "/k/2", "/k/3/18", "/eph"};
                watchers[i] = (Watcher){.n = i, .whole = chance(7000), .next = 1};
                strcpy(watchers[i].subtree, subtrees[below(ELEMENTSOF(subtrees))]);
                at(world.now + below(SEC), watcher_moves, &watchers[i], 0);
        }
        for (unsigned i = 0; i < world.n_hosts; i++)
                for (unsigned slot = 0; slot < OWN_SLOTS; slot++)
                        at(world.now + below(3 * SEC), owner_acts, world.hosts[i], slot);
}

void clients_killed(SimHost *host) {
        for (unsigned i = 0; i < n_watchers; i++)
                if (watchers[i].host == host && watchers[i].watch)
                        watcher_closes(&watchers[i]);
}

bool clients_quiet(void) {
        for (unsigned i = 0; i < n_clients; i++)
                if (clients[i].op)
                        return false;
        return true;
}

void clients_wiped(SimHost *host) {
        size_t kept = 0;
        for (size_t i = 0; i < n_unknown; i++) {
                if (ops[unknown[i]].host == host)
                        ops[unknown[i]].state = OP_FORGOTTEN;
                else
                        unknown[kept++] = unknown[i];
        }
        n_unknown = kept;
}

static void finally_written(const RequestAnswer *answer, void *userdata) {
        SimHost *host = userdata;
        note("%s: final write -> %d", host->name, answer->answer);
        if (answer->answer == ANSWER_DONE)
                host->finally_wrote = true;
}

void clients_finally(SimHost *host) {
        if (host->finally_wrote || !host_is_in(host))
                return;
        char path[32], value[32];
        snprintf(path, sizeof(path), "/final/%s", host->name);
        int n = snprintf(value, sizeof(value), "f%u-%u", host->i, host->finally_tries++);
        Command command = {.kind = COMMAND_SET, .path = path, .value = BYTES(value, (size_t)n)};
        int r = agent_request(host->agent, &command, 4 * SEC, finally_written, host, NULL);
        assert(r == 0);
}

static bool decide(Op *op) {
        Result result = {};
        OutcomeState outcome = OUTCOME_UNDECIDED;

        /* A tree that rots may count wrongly; it gets well, or is another's. */
        if (host_runs(op->host) && host_is_in(op->host) && !op->host->touched_tree)
                outcome = agent_outcome(op->host->agent, op->incarnation, op->serial, &result);
        switch (outcome) {
        case OUTCOME_APPLIED:
                op->state = result.status == RESULT_DONE ? OP_APPLIED : OP_REFUSED;
                op->status = result.status;
                op->revision = result.revision;
                op->ended_usec = world.now;
                return true;
        case OUTCOME_NEVER:
                op->state = OP_NOT;
                return true;
        case OUTCOME_TOO_OLD:
                if (n_told_unknown <= LIMIT_KEPT &&
                    op->slept_usec == world.slept_usec) /* the newest of each host are kept */
                        broken("%s: the outcome of %s, (%llu, %llu), is forgotten within the hour",
                               op->host->name, op->text, (unsigned long long)op->incarnation,
                               (unsigned long long)op->serial);
                op->state = OP_FORGOTTEN;
                return true;
        case OUTCOME_UNDECIDED:
                break;
        }
        return false;
}

bool clients_decided(void) {
        size_t kept = 0;
        for (size_t i = 0; i < n_unknown; i++)
                if (!decide(&ops[unknown[i]]))
                        unknown[kept++] = unknown[i];
        n_unknown = kept;
        return n_unknown == 0;
}

/* ---- One after the other ---- */

/* What was asked of the key and answered, as the search for an order sees it. */
static bool as_linear(const Op *op, const char *path, LinearOp *ret) {
        bool tree = op->kind == OP_DELETE_TREE;
        if (!is_below(path, op->path, tree))
                return false;
        *ret = (LinearOp){.begun = op->begun_usec, .ended = op->ended_usec};
        if (op->kind == OP_READ_LINEAR) {
                ret->need = LINEAR_VALUE;
                ret->needed = op->expected;
                return op->state == OP_DONE;
        }
        bool applied = op->state == OP_DONE || op->state == OP_APPLIED || op->state == OP_FORGOTTEN ||
                       op->state == OP_UNKNOWN || op->state == OP_WAITING;
        if (op->kind == OP_READ || (!applied && op->state != OP_REFUSED))
                return false;
        if (op->state == OP_REFUSED)
                switch (op->status) {
                case RESULT_EXISTS:
                        ret->need = LINEAR_SOMETHING;
                        return true;
                case RESULT_ABSENT: /* of all that would have gone */
                        ret->need = LINEAR_VALUE;
                        return true;
                case RESULT_CONFLICT:
                        ret->need = LINEAR_NOT;
                        ret->needed = op->expected;
                        return !op->guessed;
                default:
                        return false;
                }
        bool removes = op->kind == OP_DELETE || tree;
        ret->changes = true;
        ret->given = removes ? 0 : (uint64_t)(op - ops) + 1;
        if (op->kind == OP_DELETE)
                ret->need = LINEAR_SOMETHING;
        if (op->kind == OP_CREATE || (op->kind == OP_SET_IF && !op->guessed)) {
                ret->need = LINEAR_VALUE;
                ret->needed = op->expected;
        }
        if (op->state == OP_FORGOTTEN || op->state == OP_UNKNOWN || op->state == OP_WAITING)
                ret->ended = LINEAR_NEVER;
        return true;
}

static void final_order_of(const char *path, LinearOp *to, size_t *numbers) {
        LinearTold told;
        size_t n = 0;
        for (size_t i = 0; i < n_ops; i++)
                if (as_linear(&ops[i], path, &to[n]))
                        numbers[n++] = i;
        if (linear_check(to, n, &told) == LINEAR_BROKEN) {
                const Op *op = &ops[numbers[told.culprit]];
                broken("%s: no order explains what was seen of %s: %s (kind %d, %.6f s to %.6f s, on %s) has no place",
                       path, path, op->text, op->kind, (double)op->begun_usec / SEC,
                       (double)op->ended_usec / SEC, op->host->name);
        }
        if (told.n_skipped > 0)
                note("%s: an order for %zu, %zu too many at once", path, told.n_checked, told.n_skipped);
}

static void final_order(void) {
        LinearOp *to = calloc(n_ops + 1, sizeof(LinearOp));
        size_t *numbers = calloc(n_ops + 1, sizeof(size_t));
        char path[32];
        assert(to && numbers);
        for (unsigned key = 0; key < n_keys; key++) {
                if (key % 3 != 0) {
                        key_path(key, false, path);
                        final_order_of(path, to, numbers);
                }
                if (key < 5) {
                        key_path(key, true, path);
                        final_order_of(path, to, numbers);
                }
        }
        free(to);
        free(numbers);
}

/* ---- The end ---- */

static void final_write(const Op *op, uint64_t *owner_of, size_t n) {
        const Change *changes;
        size_t n_changes = ghost_changes(&changes);
        bool applied = op->state == OP_DONE || op->state == OP_APPLIED;
        bool removes = op->kind == OP_DELETE || op->kind == OP_DELETE_TREE;
        bool there = false;

        if (applied) {
                for (size_t i = ghost_first(op->revision);
                     i < n_changes && changes[i].revision == op->revision && !there; i++)
                        there = removes ? changes[i].kind == WATCH_DELETE &&
                                                  is_below(changes[i].path, op->path,
                                                           op->kind == OP_DELETE_TREE)
                                        : strcmp(changes[i].text, op->text) == 0 &&
                                                  strcmp(changes[i].path, op->path) == 0;
                if (!there)
                        broken("%s of %s on %s was acknowledged at revision %llu and is not there", op->text,
                               op->path, op->host->name, (unsigned long long)op->revision);
                if (op->revision < n && owner_of[op->revision] != 0)
                        broken("revision %llu was acknowledged to %s and to v%llu",
                               (unsigned long long)op->revision, op->text,
                               (unsigned long long)owner_of[op->revision]);
                if (op->revision < n)
                        owner_of[op->revision] = (uint64_t)(op - ops) + 1;
        }
        if (op->state == OP_REFUSED) {
                bool held = ghost_at(op->path, op->revision) != NULL;
                if (op->status == RESULT_EXISTS && !held)
                        broken("%s: told that %s existed at %llu; it did not", op->text, op->path,
                               (unsigned long long)op->revision);
                if (op->status == RESULT_ABSENT && op->kind == OP_DELETE && held)
                        broken("%s: told that %s did not exist at %llu; it did", op->text, op->path,
                               (unsigned long long)op->revision);
        }
}

/* Whatever of it is there and nobody else's may be its. */
static void final_forgotten(const Op *op, uint64_t *owner_of) {
        const Change *changes;
        size_t n_changes = ghost_changes(&changes);
        bool removes = op->kind == OP_DELETE || op->kind == OP_DELETE_TREE;

        for (size_t i = 0; i < n_changes; i++)
                if (owner_of[changes[i].revision] == 0 &&
                    (removes ? changes[i].kind == WATCH_DELETE &&
                                       is_below(changes[i].path, op->path, op->kind == OP_DELETE_TREE)
                             : strcmp(changes[i].text, op->text) == 0))
                        owner_of[changes[i].revision] = (uint64_t)(op - ops) + 1;
}

void clients_final(void) {
        const Change *changes;
        size_t n_changes = ghost_changes(&changes), n = ghost_revision() + 2;
        uint64_t *owner_of = calloc(n, sizeof(uint64_t));
        uint64_t *value_at = calloc(n_ops + 2, sizeof(uint64_t));
        assert(owner_of && value_at);

        compare_reads();
        if (n_checks > 0)
                broken("a read saw revision %llu, which nobody tells of",
                       (unsigned long long)ops[checks[0]].revision);
        for (size_t i = 0; i < n_ops; i++)
                if (ops[i].kind != OP_READ && ops[i].kind != OP_READ_LINEAR)
                        final_write(&ops[i], owner_of, n);
        for (size_t i = 0; i < n_ops; i++)
                if (ops[i].state == OP_FORGOTTEN)
                        final_forgotten(&ops[i], owner_of);
        for (size_t i = 0; i < n_changes; i++) {
                const Change *change = &changes[i];
                if (strncmp(change->path, "/k/", 3) != 0)
                        continue;
                if (owner_of[change->revision] == 0)
                        broken("revision %llu (%s %s) was nobody's wish, or of one who was told otherwise",
                               (unsigned long long)change->revision, change->path, change->text);
                if (change->kind != WATCH_PUT)
                        continue;
                size_t number = strtoull(change->text + 1, NULL, 10);
                if (number == 0 || number > n_ops)
                        broken("a value nobody wrote: %s", change->text);
                if (value_at[number] != 0)
                        broken("%s was applied twice: at %llu and %llu", change->text,
                               (unsigned long long)value_at[number], (unsigned long long)change->revision);
                value_at[number] = change->revision;
        }
        for (unsigned i = 0; i < n_watchers; i++) {
                Watcher *watcher = &watchers[i];
                if (!watcher->watch || watcher->held || !host_is_in(watcher->host))
                        continue;
                compare_watcher(watcher);
                for (size_t k = watcher->position; k < n_changes; k++)
                        if (is_below(changes[k].path, watcher->subtree, watcher->whole))
                                broken("%s: a watch on %s never heard of revision %llu", watcher->host->name,
                                       watcher->subtree, (unsigned long long)changes[k].revision);
                if (watcher->n_seen > 0)
                        broken("%s: a watch on %s heard of what never was", watcher->host->name,
                               watcher->subtree);
        }
        free(owner_of);
        free(value_at);
        final_order();
}
