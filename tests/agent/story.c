/* Stories of the hall: text files in which each line that begins with "> " is a command to a few whole
 * hosts, and the lines below it are what came of it, word for word. A story shows one rule at work; reading
 * it is reading the rule. The hosts are real (hall, core, log, tree); network, disks, machines and clocks
 * are those of the simulation (tests/sim), and its ghost looks on: a promise broken ends the story.
 *
 *      story [-v] FILE…        compare
 *      story --rewrite FILE…   write down what happens now, to be reviewed as a diff
 *
 * Hosts are h1, h2 …; `leader` is whoever leads, `other` the first voter that does not, `all` is all of
 * them. A command waits for its answer; with `&` at the end it does not, and the answer is told when it
 * comes. Times are like 2s or 300ms.
 *
 *      hosts N [VOTERS]                    N machines, nothing runs; at most so many voters
 *      cluster N [VOTERS]                  … and all are in one cluster, founded by h1
 *      found H                             its agent starts, in a cluster of one
 *      token H [leaf] [uses N] [for TIME]  the story's token from here on
 *      join H [discard] [wrong]            starts it if need be
 *      run TIME | start H… | stop H…       a planned stop
 *      kill H… | powercut H…               kill -9; the machine, too
 *      image H                             its disk is copied, as it is now
 *      restore H                           of a host that is down: that copy comes back
 *      wipe H                              of a host that is down: its state directory is moved away
 *      rot H                               of a host that is down: bytes in the middle of its log flip
 *      rot-log H                           … and all of its log
 *      rot-tree H | lose-tree H            of a host that is down: its tree file's head flips, is gone
 *      diverge H PATH                      its tree goes back to what PATH held before, and nothing shows
 *      accept H                            starts it, and its log is taken as it is, damaged or not
 *      cut H | cut A -> B | heal           the network
 *      pause H TIME | stall-disk H TIME    nothing of it moves; its log does not
 *      full H | room H                     no space left for its log, space again
 *      set|create H PATH VALUE [within TIME] | delete H PATH [within TIME]
 *      flood H PATH N BYTES [KEYS]         N writes in all, over so many entries (default 1)
 *      get H PATH | linearizable H PATH | list H [SUBTREE]
 *      watch H SUBTREE [from REVISION] | unwatch H
 *      own H PATH VALUE tag TAG | disown H TAG | owned H
 *      remove H MEMBER | transfer H [TO]
 *      presume H TERM                      it campaigns by force, and says that it leads, though it may not:
 *                                          it promotes, lets sessions live for an hour, refuses
 *                                          the oldest write for good, and knows a newer start of everybody
 *      outcome H VALUE                     what became of the write of VALUE? (of the last one)
 *      history PATH                        all that ever held there, as the ghost saw it
 *      sessions-last TIME                  of hosts that are started from now on
 *      session H                           is it certain to live?
 *      log H                               the first index its log still has, coarsely: whole or trimmed
 *      show [H…]
 *      quiet COMMAND                       without what happens meanwhile */
#include "tests/sim/sim.h"
#include "agent/tree/internal.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS_MAX  16
#define WISHES_MAX 512
#define WAIT_USEC  (30 * SEC)

typedef enum WishKind { WISH_WRITE, WISH_OWN, WISH_READ, WISH_JOIN, WISH_ADMIN, WISH_TOKEN } WishKind;

/* What somebody asked of a host. */
typedef struct Wish {
        WishKind kind;
        SimHost *host;
        char what[100], path[64], value[32];
        bool answered;
        uint64_t incarnation, serial;
} Wish;

/* What was last told of a host; the next look tells what is new. */
typedef struct Seen {
        bool in, leads, observer, full, damaged, out, fetching, ready;
        uint64_t term, generation;
        Conf conf;
} Seen;

typedef struct Story {
        FILE *out;
        bool quiet;
        unsigned life[HOSTS_MAX];
        Seen seen[HOSTS_MAX];
        Watch *watch[HOSTS_MAX];
        SimDisk *images[HOSTS_MAX];
        Wish wishes[WISHES_MAX];
        size_t n_wishes;
        uint64_t flood_left, flood_waiting, flood_failed;
} Story;

static Story story;

/* ---- Telling ---- */

static void _printf_(1, 2) tell(const char *format, ...) {
        if (story.quiet)
                return;
        va_list ap;
        va_start(ap, format);
        fputs("  ", story.out);
        vfprintf(story.out, format, ap);
        fputc('\n', story.out);
        va_end(ap);
}

static const char *name_of(uint64_t id) {
        SimHost *host = id ? host_of(id) : NULL;
        return host ? host->name : "nobody";
}

/* Names in place of ids, which are random. */
static void said(SimHost *host, int level, const char *text) {
        char line[600] = "";
        size_t n = 0;
        if (level > 4) /* warning */
                return;
        while (*text && n < sizeof(line) - 40) {
                size_t skip = strlen(world.directory);
                if (strncmp(text, world.directory, skip) == 0) { /* another with each run */
                        text += skip + 1;
                        continue;
                }
                if (strncmp(text, "/tree-", 6) == 0 && strspn(text + 6, "0123456789abcdef") == 16) {
                        n += (size_t)snprintf(line + n, sizeof(line) - n, "/tree-….db");
                        text += strlen("/tree-0000000000000000-00000000.db");
                        continue;
                }
                uint64_t id =
                        strspn(text, "0123456789abcdef") >= 16
                                ? strtoull((char[17]){text[0], text[1], text[2], text[3], text[4], text[5],
                                                      text[6], text[7], text[8], text[9], text[10], text[11],
                                                      text[12], text[13], text[14], text[15]},
                                           NULL, 16)
                                : 0;
                if (id && host_of(id)) {
                        n += (size_t)snprintf(line + n, sizeof(line) - n, "%s", name_of(id));
                        text += 16;
                } else
                        line[n++] = *text++;
        }
        line[n] = 0;
        tell("%s says: %s", host->name, line);
}

static int compare_voters(const void *a, const void *b) {
        return strcmp(name_of(((const ConfVoter *)a)->id), name_of(((const ConfVoter *)b)->id));
}

static size_t print_voters(char *to, size_t room, const ConfVoter *voters, uint32_t n) {
        ConfVoter sorted[LIMIT_VOTERS];
        memcpy(sorted, voters, n * sizeof(ConfVoter));
        qsort(sorted, n, sizeof(ConfVoter), compare_voters);
        size_t at = (size_t)snprintf(to, room, "{");
        for (uint32_t i = 0; i < n; i++)
                at += (size_t)snprintf(to + at, room - at, "%s%s", i > 0 ? "," : "", name_of(sorted[i].id));
        return at + (size_t)snprintf(to + at, room - at, "}");
}

static const char *conf_text(const Conf *conf) {
        static char text[200];
        size_t n = print_voters(text, sizeof(text), conf->voters, conf->n_voters);
        if (conf_is_joint(conf)) {
                n += (size_t)snprintf(text + n, sizeof(text) - n, " jointly with ");
                print_voters(text + n, sizeof(text) - n, conf->old, conf->n_old);
        }
        return text;
}

static bool conf_differs(const Conf *a, const Conf *b) {
        bool differs = a->n_voters != b->n_voters || a->n_old != b->n_old;
        for (uint32_t i = 0; i < a->n_voters && !differs; i++)
                differs = a->voters[i].id != b->voters[i].id;
        return differs;
}

/* ---- Looking ---- */

static void look_at_role(SimHost *host, const Agent *agent, Seen *seen) {
        const RaftStatus *status = &agent->raft_status;
        bool leads = status->role == RAFT_LEADER;

        if (leads && (!seen->leads || status->term != seen->term))
                tell("%s leads", host->name);
        if (!leads && seen->leads)
                tell("%s leads no more", host->name);
        if (leads && status->conf_committed && conf_differs(status->conf, &seen->conf))
                tell("%s: voters are %s", host->name, conf_text(status->conf));
        if (leads && !status->conf_committed && conf_differs(status->conf, &seen->conf))
                tell("%s: voters become %s", host->name, conf_text(status->conf));
        bool observer = agent->follow.active && !seen->out;
        if (observer != seen->observer)
                tell("%s %s", host->name, observer ? "follows as an observer" : "follows no more");
        seen->leads = leads;
        seen->observer = observer;
        seen->term = status->term;
        seen->conf = *status->conf;
}

static void look_at_health(SimHost *host, const Agent *agent, Seen *seen) {
        AgentStatus status;
        agent_status(host->agent, &status);
        bool out = status.role == AGENT_REMOVED, fetching = snapshot_fetching(agent);

        if (agent_ready(agent) != seen->ready)
                tell("%s %s", host->name, seen->ready ? "lets nobody read" : "lets its tree be read");
        if (fetching != seen->fetching && fetching)
                tell("%s fetches a snapshot", host->name);
        if (fetching != seen->fetching && !fetching)
                tell("%s has done with the snapshot", host->name);
        if (agent->disk_full != seen->full)
                tell("%s: %s", host->name, agent->disk_full ? "disk full" : "there is room again");
        if (agent->damaged != seen->damaged)
                tell("%s: its log is %s", host->name, agent->damaged ? "damaged" : "whole again");
        if (out != seen->out)
                tell("%s is %s", host->name, out ? "out of the cluster" : "in a cluster again");
        if (agent->sessions.generation > seen->generation)
                tell("%s: session generation %" PRIu64, host->name, agent->sessions.generation);
        seen->ready = agent_ready(agent);
        seen->fetching = fetching;
        seen->full = agent->disk_full;
        seen->damaged = agent->damaged;
        seen->out = out;
        seen->generation = MAX(seen->generation, agent->sessions.generation);
}

static void look(SimHost *host) {
        Seen *seen = &story.seen[host->i];
        if (!host->agent || host->life != story.life[host->i]) {
                *seen = (Seen){.in = seen->in, .generation = seen->generation, .observer = seen->observer};
                story.life[host->i] = host->life;
        }
        if (!host->agent || !(host_is_in(host) || seen->in))
                return;
        seen->in = true;
        look_at_role(host, host->agent, seen);
        look_at_health(host, host->agent, seen);
}

static bool step(uint64_t until) {
        bool more = happen_next(until);
        for (unsigned i = 0; i < world.n_hosts; i++)
                look(world.hosts[i]);
        return more;
}

static void run_for(uint64_t usec) {
        for (uint64_t until = world.now + usec; step(until);)
                ;
}

static bool run_until(const bool *is) {
        for (uint64_t until = world.now + WAIT_USEC; !*is && world.now < until;)
                (void)step(until);
        return *is;
}

/* ---- What the simulation's clients would do ---- */

static void watch_end(SimHost *host) {
        if (story.watch[host->i])
                story.watch[host->i] = watch_free(story.watch[host->i]);
}

void clients_wiped(SimHost *host) {
}

void clients_killed(SimHost *host) {
        watch_end(host);
}

void clients_own(SimHost *host) {
}

void clients_changed(const Change *change) {
}

void clients_look(SimHost *host) {
}

/* A story is repeated by its name, and adds up to nothing. */
int run_command(const Run *run, char *to, size_t room) {
        return snprintf(to, room, "hall-story STORY");
}

void batch_add(void) {
}

/* ---- Wishes ---- */

static Wish *wish_new(WishKind kind, SimHost *host, const char *verb, const char *path, const char *value) {
        assert(story.n_wishes < WISHES_MAX);
        Wish *wish = &story.wishes[story.n_wishes++];
        *wish = (Wish){.kind = kind, .host = host};
        snprintf(wish->what, sizeof(wish->what), "%s%s%s%s%s", verb, *path ? " " : "", path,
                 *value ? " " : "", value);
        snprintf(wish->path, sizeof(wish->path), "%s", path);
        snprintf(wish->value, sizeof(wish->value), "%s", value);
        return wish;
}

static const char *answer_name(Answer answer) {
        static const char *const names[] = {
                [ANSWER_DONE] = "done",
                [ANSWER_REFUSED] = "refused",
                [ANSWER_NO_QUORUM] = "NoQuorum",
                [ANSWER_UNKNOWN] = "Unknown",
                [ANSWER_BUSY] = "Busy",
                [ANSWER_DISK_FULL] = "DiskFull",
                [ANSWER_NOT_MEMBER] = "NotMember",
                [ANSWER_TIMEOUT] = "Timeout",
                [ANSWER_STOPPING] = "Stopping",
                [ANSWER_HALTED] = "Halted",
                [ANSWER_NO_TREE] = "NoTree",
        };
        return names[answer];
}

static void answered(const RequestAnswer *answer, void *userdata) {
        Wish *wish = userdata;
        wish->answered = true;
        wish->incarnation = answer->incarnation;
        wish->serial = answer->serial;
        if (wish->host->dying)
                tell("%s %s: the process is gone", wish->host->name, wish->what);
        else if (answer->answer == ANSWER_REFUSED)
                tell("%s %s: refused, %s", wish->host->name, wish->what,
                     result_status_name(answer->result.status));
        else if (answer->answer == ANSWER_DONE && wish->kind == WISH_WRITE)
                tell("%s %s: done at revision %" PRIu64, wish->host->name, wish->what,
                     answer->result.revision);
        else
                tell("%s %s: %s", wish->host->name, wish->what, answer_name(answer->answer));
}

static void tokened(const RequestAnswer *answer, const char *token, void *userdata) {
        if (answer->answer == ANSWER_DONE)
                snprintf(world.token, sizeof(world.token), "%s", token);
        answered(answer, userdata);
}

static void joined(JoinAnswer answer, const char *why, void *userdata) {
        static const char *const names[] = {
                [JOIN_DONE] = "done",
                [JOIN_INVALID_TOKEN] = "InvalidToken",
                [JOIN_TOKEN_EXPIRED] = "TokenExpired",
                [JOIN_TOKEN_USED] = "TokenUsed",
                [JOIN_NOT_EMPTY] = "NotEmpty",
                [JOIN_ALREADY] = "Already",
                [JOIN_RESTARTS] = "Restarts",
                [JOIN_NAME_TAKEN] = "NameTaken",
                [JOIN_UNREACHABLE] = "Unreachable",
                [JOIN_TIMEOUT] = "Timeout",
                [JOIN_REFUSED] = "Refused",
                [JOIN_BUSY] = "Busy",
        };
        Wish *wish = userdata;
        wish->answered = true;
        tell("%s %s: %s%s%s%s", wish->host->name, wish->what, names[answer], why && *why ? " (" : "",
             why ?: "", why && *why ? ")" : "");
}

static void say_entry(const SimHost *host, const char *path, const AgentEntry *entry) {
        char owner[OWNER_TAG_BYTES + 60] = "";
        int size = (int)MIN(entry->value.size, (size_t)20);
        if (entry->owner_host)
                snprintf(owner, sizeof(owner), ", owned by %s (generation %" PRIu64 ", %s)",
                         name_of(entry->owner_host), entry->owner_generation, entry->owner_tag);
        tell("%s: %s = %.*s, revision %" PRIu64 ", version %" PRIu64 "%s", host->name, path, size,
             (const char *)entry->value.data, entry->mod_revision, entry->version, owner);
}

static void look_up(Wish *wish) {
        AgentEntry entry;
        wish->answered = true;
        int r = agent_get(wish->host->agent, wish->path, &entry);
        if (r == 0)
                say_entry(wish->host, wish->path, &entry);
        else
                tell("%s: %s %s", wish->host->name, wish->path, r == 1 ? "is not there" : "cannot be read");
}

static void may_look(Answer answer, void *userdata) {
        Wish *wish = userdata;
        wish->answered = true;
        if (wish->host->dying)
                tell("%s %s: the process is gone", wish->host->name, wish->what);
        else if (answer == ANSWER_DONE)
                look_up(wish);
        else
                tell("%s %s: %s", wish->host->name, wish->what, answer_name(answer));
}

/* ---- Commands that wish for something ---- */

static uint64_t time_of(const char *text) {
        char *end;
        double n = strtod(text, &end);
        return (uint64_t)(n * (strcmp(end, "ms") == 0 ? MSEC : SEC));
}

static Wish *write_one(SimHost *host, const char *verb, const char *path, const char *value, uint64_t usec) {
        Wish *wish = wish_new(WISH_WRITE, host, verb, path, value);
        Command command = {
                .kind = *verb == 's'   ? COMMAND_SET
                        : *verb == 'c' ? COMMAND_CREATE
                                       : COMMAND_DELETE,
                .path = wish->path,
                .value = BYTES(wish->value, strlen(wish->value)),
        };
        if (command.kind == COMMAND_DELETE)
                command.value = (Bytes){};
        int r = agent_request(host->agent, &command, usec, answered, wish, NULL);
        assert(r == 0);
        return wish;
}

static Wish *read_one(SimHost *host, const char *verb, const char *path) {
        Wish *wish = wish_new(WISH_READ, host, verb, path, "");
        int r = agent_read(host->agent, *verb == 'l' ? READ_LINEARIZABLE : 0, 0, 5 * SEC, may_look, wish,
                           NULL);
        assert(r >= 0);
        if (r == 1)
                look_up(wish);
        return wish;
}

static Wish *join(SimHost *host, char **words, size_t n) {
        bool discard = false, wrong = false;
        char token[TOKEN_TEXT_BYTES];
        for (size_t i = 0; i < n; i++) {
                discard |= strcmp(words[i], "discard") == 0;
                wrong |= strcmp(words[i], "wrong") == 0;
        }
        if (!host->agent)
                host_start(host);
        snprintf(token, sizeof(token), "%s", world.token);
        if (wrong) /* its secret, near the end */
                token[strlen(token) - 5] = token[strlen(token) - 5] == 'A' ? 'B' : 'A';
        Wish *wish = wish_new(WISH_JOIN, host, "join", "", "");
        int r = agent_join(host->agent, token, discard, joined, wish);
        if (r < 0) {
                wish->answered = true;
                tell("%s join: %s", host->name, strerror(-r));
        }
        return wish;
}

static Wish *make_token(SimHost *host, char **words, size_t n) {
        TokenRequest request = {.lifetime_usec = 3600 * SEC, .uses = 100, .class = MEMBER_FULL};
        if (n > 0 && strcmp(words[0], "leaf") == 0) {
                request.class = MEMBER_LEAF;
                words++;
                n--;
        }
        for (size_t i = 0; i + 1 < n; i += 2)
                if (strcmp(words[i], "uses") == 0)
                        request.uses = (uint32_t)strtoul(words[i + 1], NULL, 10);
                else if (strcmp(words[i], "for") == 0)
                        request.lifetime_usec = time_of(words[i + 1]);
        Wish *wish = wish_new(WISH_TOKEN, host, "token", "", "");
        int r = agent_token(host->agent, &request, tokened, wish);
        assert(r == 0);
        return wish;
}

/* What a hostile host could send: a vote asked for in the name of the leader, and the beat of a new one. */
static void presume(SimHost *host, uint64_t term) {
        uint64_t from = host->agent->host.id;
        for (unsigned i = 0; i < world.n_hosts; i++) {
                Agent *to = world.hosts[i]->agent;
                if (!to || to == host->agent)
                        continue;
                Letter letters[] = {
                        {.kind = LETTER_RAFT,
                         .raft = {.type = RAFT_VOTE,
                                  .from = from,
                                  .to = to->host.id,
                                  .term = term,
                                  .log_index = 1000000,
                                  .log_term = term - 1,
                                  .force = true}},
                        {.kind = LETTER_RAFT,
                         .raft = {.type = RAFT_BEAT,
                                  .from = from,
                                  .to = to->host.id,
                                  .term = term,
                                  .beat = 1}},
                        {.kind = LETTER_OFFER_REFUSED,
                         .refused = {.term = to->requests.stream_term,
                                     .stream = to->requests.stream,
                                     .serial = to->requests.offered ? to->requests.offered->serial : 0,
                                     .reason = OFFER_INVALID,
                                     .leader = from}},
                        {.kind = LETTER_PROMOTE, .promote = {.term = term, .index = 1}},
                        {.kind = LETTER_KEEPALIVE_ACK,
                         .keepalive = {.host = to->host.id,
                                       .generation = to->sessions.generation,
                                       .sent = hall_now(to),
                                       .lasts_usec = 3600 * SEC}},
                        {}, /* the hello */
                };
                Letter hello = {
                        .kind = LETTER_HELLO,
                        .hello = {.restore_epoch = to->tree_status.restore_epoch,
                                  .host = from,
                                  .start = log_state(host->agent->log)->start,
                                  .version = WIRE_VERSION,
                                  .known_start = UINT64_MAX},
                };
                memcpy(hello.hello.cluster, to->tree_status.cluster, sizeof(hello.hello.cluster));
                memcpy(hello.hello.start_nonce, log_state(host->agent->log)->start_nonce, 16);
                letters[ELEMENTSOF(letters) - 1] = hello;
                /* Straight to the door: the ghost watches what honest hosts send. */
                const Connection *open = members_connection(to, from);
                for (size_t k = 0; open && k < ELEMENTSOF(letters); k++) {
                        _cleanup_(buffer_deinit) Buffer bytes = {};
                        int r = wire_letter_encode(letters + k, &bytes);
                        assert(r == 0);
                        agent_letter(to, from, open->connection, BYTES(bytes.data, bytes.size));
                }
                tell("%s hears %s", world.hosts[i]->name, open ? "it" : "nothing: no connection");
        }
}

static Wish *own(SimHost *host, const char *path, const char *value, const char *tag) {
        Wish *wish = wish_new(WISH_OWN, host, "own", path, value);
        int r = agent_own(host->agent, path, BYTES(value, strlen(value)), tag, 5 * SEC, answered, wish,
                          NULL);
        if (r == 1) {
                wish->answered = true;
                tell("%s %s: it does already", host->name, wish->what);
        }
        return wish;
}

static Wish *administer(SimHost *host, const char *verb, uint64_t subject) {
        Wish *wish = wish_new(WISH_ADMIN, host, verb, subject ? name_of(subject) : "", "");
        int r = *verb == 'r' ? agent_remove(host->agent, subject, 20 * SEC, answered, wish)
                             : agent_transfer(host->agent, subject, answered, wish);
        if (r < 0) {
                wish->answered = true;
                tell("%s %s: %s", host->name, wish->what, strerror(-r));
        }
        return wish;
}

/* ---- Flood ---- */

static void flooded(const RequestAnswer *answer, void *userdata) {
        story.flood_waiting--;
        story.flood_failed += answer->answer != ANSWER_DONE;
}

static void flood(SimHost *host, const char *path, uint64_t n, size_t bytes, unsigned keys) {
        _cleanup_(freep) char *value = malloc(bytes + 1);
        assert(value);
        memset(value, 'x', bytes);
        story.flood_left = n;
        story.flood_waiting = story.flood_failed = 0;
        uint64_t limit = MAX(UINT64_C(1), MIN(UINT64_C(1000), 4 * 1024 * 1024 / (bytes + 1)));
        for (uint64_t until = world.now + 600 * SEC;
             (story.flood_left > 0 || story.flood_waiting > 0) && world.now < until;) {
                for (; story.flood_left > 0 && story.flood_waiting < limit; story.flood_left--) {
                        char to[100];
                        snprintf(to, sizeof(to), "%s/%u", path, (unsigned)(story.flood_left % keys));
                        Command command = {.kind = COMMAND_SET, .path = to, .value = BYTES(value, bytes)};
                        story.flood_waiting++;
                        int r = agent_request(host->agent, &command, 60 * SEC, flooded, NULL, NULL);
                        assert(r == 0);
                }
                (void)step(until);
        }
        tell("%s: %" PRIu64 " writes, %" PRIu64 " failed", host->name, n, story.flood_failed);
}

/* ---- Looking around ---- */

static int watched(const WatchEvent *event, void *userdata) {
        SimHost *host = userdata;
        int size = (int)MIN(event->value.size, (size_t)20);
        switch (event->kind) {
        case WATCH_PUT:
                tell("%s sees %" PRIu64 ": %s = %.*s", host->name, event->revision, event->path, size,
                     (const char *)event->value.data);
                break;
        case WATCH_DELETE:
                tell("%s sees %" PRIu64 ": %s ends", host->name, event->revision, event->path);
                break;
        case WATCH_MARK:
                break;
        case WATCH_COMPACTED:
                tell("%s: the watch is over, history begins later (COMPACTED)", host->name);
                break;
        case WATCH_OVERFLOW:
                tell("%s: the watch is over, too slow (OVERFLOW)", host->name);
                break;
        }
        return 0;
}

static void watch(SimHost *host, const char *subtree, uint64_t from) {
        uint64_t now;
        watch_end(host);
        int r = agent_watch(host->agent, subtree, WATCH_SUBTREE, from, watched, host, &story.watch[host->i],
                            &now);
        assert(r == 0);
}

static int listed(const AgentEntry *entry, void *userdata) {
        say_entry(userdata, entry->path, entry);
        return 0;
}

static int say_owned(const char *path, const char *tag, void *userdata) {
        tell("%s owns %s for %s", ((SimHost *)userdata)->name, path, tag);
        return 0;
}

static void outcome(SimHost *host, const char *value) {
        Wish *wish = NULL;
        for (size_t i = 0; i < story.n_wishes; i++)
                if (story.wishes[i].kind == WISH_WRITE && strcmp(story.wishes[i].value, value) == 0)
                        wish = &story.wishes[i];
        Result result = {};
        if (!wish || wish->serial == 0) {
                tell("it never had a number");
                return;
        }
        switch (agent_outcome(host->agent, wish->incarnation, wish->serial, &result)) {
        case OUTCOME_APPLIED:
                tell("%s: applied at revision %" PRIu64 "%s%s", host->name, result.revision,
                     result.status == RESULT_DONE ? "" : ", refused: ",
                     result.status == RESULT_DONE ? "" : result_status_name(result.status));
                break;
        case OUTCOME_NEVER:
                tell("%s: never", host->name);
                break;
        case OUTCOME_UNDECIDED:
                tell("%s: not decided yet", host->name);
                break;
        case OUTCOME_TOO_OLD:
                tell("%s: too old", host->name);
                break;
        }
}

static void history(const char *path) {
        const Change *changes;
        size_t n = ghost_changes(&changes);
        for (size_t i = 0; i < n; i++)
                if (strcmp(changes[i].path, path) == 0)
                        tell("%" PRIu64 ": %s", changes[i].revision,
                             changes[i].kind == WATCH_PUT ? changes[i].text : "(ends)");
}

static void show(SimHost *host) {
        static const char *const roles[] = {
                [AGENT_OBSERVER] = "observer",   [AGENT_FOLLOWER] = "follower",
                [AGENT_CANDIDATE] = "candidate", [AGENT_LEADER] = "leader",
                [AGENT_REMOVED] = "removed",
        };
        static const char *const states[] = {
                [AGENT_RUNNING] = "",
                [AGENT_NO_QUORUM] = ", no quorum",
                [AGENT_FULL_DISK] = ", disk full",
                [AGENT_DAMAGED] = ", damaged",
                [AGENT_HALTED] = ", halted",
                [AGENT_JOINING] = ", joining",
                [AGENT_OUT] = "",
                [AGENT_NO_TREE] = ", no tree",
                [AGENT_DIVERGED] = ", diverged",
                [AGENT_QUARANTINED] = ", quarantined",
        };
        if (!host->agent) {
                tell("%s: down", host->name);
                return;
        }
        AgentStatus status;
        agent_status(host->agent, &status);
        tell("%s: %s%s, term %" PRIu64 ", leader %s, voters %s, applied %" PRIu64 ", revision %" PRIu64,
             host->name, roles[status.role], states[status.state], status.term, name_of(status.leader),
             conf_text(host->agent->follow.active ? &host->agent->tree_status.conf
                                                  : host->agent->raft_status.conf),
             status.applied, status.revision);
}

/* ---- Machines ---- */

static void found(SimHost *host) {
        if (!host->agent)
                host_start(host);
        bool first = !world.founded;
        for (uint64_t until = world.now + WAIT_USEC;
             host->agent->requests.incarnation == 0 && world.now < until;)
                (void)step(until);
        if (!first)
                return;
        memcpy(world.cluster, host->agent->tree_status.cluster, sizeof(world.cluster));
        world.founded = true;
        ghost_watch(host);
}

static void stop(SimHost *host) {
        agent_stop(host->agent);
        host_wake(host);
        for (uint64_t until = world.now + WAIT_USEC; !agent_stopped(host->agent) && world.now < until;)
                (void)step(until);
        host_stop(host);
        tell("%s has stopped", host->name);
}

static void copy_files(const char *from, const char *to) {
        char command[400];
        snprintf(command, sizeof(command), "rm -rf '%s' && cp -a '%s' '%s'", to, from, to);
        if (system(command) != 0)
                stuck("the state cannot be copied");
}

static void image(SimHost *host) {
        char copy[100];
        snprintf(copy, sizeof(copy), "%s.image", host->directory);
        copy_files(host->directory, copy);
        story.images[host->i] = simdisk_copy(host->disk);
}

static void restore(SimHost *host) {
        host->set_back = host->touched = true;
        promise_forgive(host);
        char copy[100];
        snprintf(copy, sizeof(copy), "%s.image", host->directory);
        copy_files(copy, host->directory);
        simdisk_free(host->disk);
        host->disk = TAKE(story.images[host->i]);
}

static void wipe(SimHost *host) {
        promise_forgive(host);
        char command[200];
        snprintf(command, sizeof(command), "rm -rf '%s' && mkdir '%s'", host->directory, host->directory);
        if (system(command) != 0)
                stuck("the state cannot be moved away");
        simdisk_free(host->disk);
        host->disk = simdisk_new(random_next(&world.random));
        story.seen[host->i] = (Seen){};
}

static int newest_segment(const char *name, void *userdata) {
        char *newest = userdata;
        if (strncmp(name, "log-", 4) == 0 && strcmp(name, newest) > 0)
                snprintf(newest, 64, "%s", name);
        return 0;
}

/* In the newest segment, in front of the last few records: those prove that it had been durable. */
static void rot(SimHost *host) {
        char name[64] = "";
        uint8_t byte = 0;
        DiskFile *file;
        Disk *disk = simdisk_disk(host->disk);
        (void)disk->ops->list(disk, newest_segment, name);
        if (disk->ops->open(disk, name, false, &file) < 0)
                stuck("there is no log");
        uint64_t end = simdisk_size_of(host->disk, name); /* zeros lie ahead of use */
        while (end > 0 && byte == 0)
                if (disk->ops->read(file, &byte, 1, --end) != 1)
                        stuck("the log cannot be read");
        disk->ops->close(file);
        for (uint64_t at = end - 700; at < end - 660; at++)
                (void)simdisk_flip(host->disk, name, at, 0x5a);
        promise_forgive(host);
        world.may_rot = true;
}

/* Nothing in the log can be read any more. */
static int rot_segment(const char *name, void *userdata) {
        SimHost *host = userdata;
        if (strncmp(name, "log-", 4) == 0)
                for (uint64_t at = 0, end = simdisk_size_of(host->disk, name); at < end; at += 8)
                        (void)simdisk_flip(host->disk, name, at, 0x5a);
        return 0;
}

static void rot_log(SimHost *host) {
        Disk *disk = simdisk_disk(host->disk);
        (void)disk->ops->list(disk, rot_segment, host);
        promise_forgive(host);
        world.may_rot = true;
}

/* The tree file of a host: a real one, also in a story. */
static void rot_tree(SimHost *host, bool lose) {
        DIR *directory = opendir(host->directory);
        bool done = false;
        for (struct dirent *e; directory && (e = readdir(directory));) {
                char path[400];
                snprintf(path, sizeof(path), "%s/%s", host->directory, e->d_name);
                if (strncmp(e->d_name, "tree-", 5) != 0)
                        continue;
                if (lose)
                        done = unlink(path) == 0 || done;
                else if (strlen(e->d_name) == 33) {
                        FILE *file = fopen(path, "r+");
                        done = file && fwrite("\132\132\132\132", 4, 1, file) == 1;
                        if (file)
                                fclose(file);
                }
        }
        if (directory)
                closedir(directory);
        if (!done)
                stuck("there is no tree");
}

/* Every checksum still fits: only the others know better. */
static bool diverge(SimHost *host, const char *path) {
        char file[400], sql[400];
        sqlite3 *db = NULL;
        snprintf(file, sizeof(file), "%s/%s", host->directory, host->agent->tree_name);
        snprintf(
                sql, sizeof(sql),
                "UPDATE newest SET id = (SELECT max(rows.id) FROM rows WHERE rows.id < newest.id AND "
                "CAST(substr(head, -length('%s')) AS TEXT) = '%s') WHERE n = (SELECT n FROM keys WHERE key = '%s')",
                path, path, path);
        bool good = sqlite3_open(file, &db) == SQLITE_OK &&
                    sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK && sqlite3_changes(db) == 1;
        sqlite3_close(db);
        host->diverged = good = good && host->agent->tree->known.n_waiting == 0;
        if (good)
                keys_forget(host->agent->tree); /* memory knows better */
        return good;
}

static void cut(unsigned a, unsigned b) {
        if (a != b)
                net_cut(a, b, true);
}

static void heal(void) {
        for (unsigned a = 0; a < world.n_hosts; a++)
                for (unsigned b = 0; b < world.n_hosts; b++)
                        net_cut(a, b, false);
}

static void cut_off(const SimHost *host) {
        for (unsigned i = 0; i < world.n_hosts; i++) {
                cut(host->i, i);
                cut(i, host->i);
        }
}

static void hosts(unsigned n, unsigned voters) {
        world.max_voters = voters ?: 3;
        world.heartbeat_usec = 100 * MSEC;
        world.election_usec = 600 * MSEC;
        world.session_usec = 5 * SEC;
        world.said = said;
        net_begin();
        for (unsigned i = 0; i < n; i++)
                (void)host_add();
}

/* Quietly: what it shows is told by other stories. */
static void cluster(unsigned n, unsigned voters) {
        char uses[] = "uses", many[] = "100", *words[] = {uses, many};
        bool quiet = story.quiet;
        story.quiet = true;
        hosts(n, voters);
        found(world.hosts[0]);
        run_until(&make_token(world.hosts[0], words, 2)->answered);
        for (unsigned i = 1; i < n; i++)
                run_until(&join(world.hosts[i], NULL, 0)->answered);
        run_for(6 * SEC);
        story.quiet = quiet;
}

/* ---- Commands ---- */

static SimHost *host_named(const char *name) {
        SimHost *leader = host_leader();
        if (strcmp(name, "leader") == 0)
                return leader;
        for (unsigned i = 0; i < world.n_hosts; i++) {
                SimHost *host = world.hosts[i];
                if (strcmp(name, host->name) == 0 ||
                    (strcmp(name, "other") == 0 && host->agent && host != leader && leader &&
                     conf_is_voter(leader->agent->raft_status.conf, host->id)))
                        return host;
        }
        return NULL;
}

static bool is_one_of(const char *word, const char *const *words) {
        for (; *words; words++)
                if (strcmp(word, *words) == 0)
                        return true;
        return false;
}

/* Commands to one host after the other. */
static bool run_on_each(const char *verb, SimHost *host) {
        bool up = host->agent != NULL;
        if (strcmp(verb, "show") == 0)
                show(host);
        else if (strcmp(verb, "start") == 0 && !up)
                host_start(host);
        else if (strcmp(verb, "stop") == 0 && up)
                stop(host);
        else if (strcmp(verb, "kill") == 0 && up)
                host_kill(host, false);
        else if (strcmp(verb, "powercut") == 0)
                host_kill(host, true);
        else if (strcmp(verb, "image") == 0)
                image(host);
        else if (strcmp(verb, "restore") == 0 && !up && story.images[host->i])
                restore(host);
        else if (strcmp(verb, "wipe") == 0 && !up)
                wipe(host);
        else if (strcmp(verb, "accept") == 0 && !up) {
                host->accept_damage = true;
                host_start(host);
                host->accept_damage = false;
        } else if (strcmp(verb, "rot") == 0 && !up)
                rot(host);
        else if (strcmp(verb, "rot-log") == 0 && !up)
                rot_log(host);
        else if (strcmp(verb, "rot-tree") == 0 && !up)
                rot_tree(host, false);
        else if (strcmp(verb, "lose-tree") == 0 && !up)
                rot_tree(host, true);
        else if (strcmp(verb, "found") == 0)
                found(host);
        else if (strcmp(verb, "full") == 0)
                simdisk_set_room(host->disk, simdisk_used(host->disk));
        else if (strcmp(verb, "room") == 0)
                simdisk_set_room(host->disk, UINT64_MAX);
        else if (strcmp(verb, "unwatch") == 0)
                watch_end(host);
        else
                return false;
        return true;
}

static bool run_on_all(const char *verb, char **names, size_t n) {
        SimHost *chosen[HOSTS_MAX]; /* before any of them changes who leads */
        size_t n_chosen = 0;
        bool all = n == 0 || strcmp(names[0], "all") == 0;
        for (unsigned i = 0; all && i < world.n_hosts; i++)
                chosen[n_chosen++] = world.hosts[i];
        for (size_t i = 0; !all && i < n && n_chosen < HOSTS_MAX; i++)
                if ((chosen[n_chosen] = host_named(names[i])))
                        n_chosen++;
        bool right = n_chosen > 0;
        for (size_t i = 0; i < n_chosen; i++)
                right &= run_on_each(verb, chosen[i]);
        return right;
}

/* Commands to one host with more words behind it. */
static bool run_on_host(const char *verb, SimHost *host, char **w, size_t n, Wish **ret_wish) {
        uint64_t within = n >= 2 && strcmp(w[n - 2], "within") == 0 ? time_of(w[n - 1]) : 0;
        if (within)
                n -= 2;
        else
                within = REQUEST_TIMEOUT_USEC;

        if (n == 2 && (strcmp(verb, "set") == 0 || strcmp(verb, "create") == 0))
                *ret_wish = write_one(host, verb, w[0], w[1], within);
        else if (n == 0 && strcmp(verb, "session") == 0) {
                uint64_t until, generation = sessions_certain(host->agent, &until);
                if (generation != 0)
                        tell("%s: session %" PRIu64 " is certain for another %.1f s", host->name, generation,
                             (double)(until - host_now(host)) / SEC);
                else
                        tell("%s: no session is certain", host->name);
        } else if (n == 1 && strcmp(verb, "diverge") == 0)
                return diverge(host, w[0]);
        else if (n == 1 && strcmp(verb, "delete") == 0)
                *ret_wish = write_one(host, verb, w[0], "", within);
        else if (n == 1 && (strcmp(verb, "get") == 0 || strcmp(verb, "linearizable") == 0))
                *ret_wish = read_one(host, verb, w[0]);
        else if (n >= 3 && strcmp(verb, "flood") == 0)
                flood(host, w[0], strtoull(w[1], NULL, 10), strtoull(w[2], NULL, 10),
                      n > 3 ? (unsigned)strtoul(w[3], NULL, 10) : 1);
        else if (strcmp(verb, "token") == 0)
                *ret_wish = make_token(host, w, n);
        else if (strcmp(verb, "join") == 0)
                *ret_wish = join(host, w, n);
        else if (n == 4 && strcmp(verb, "own") == 0)
                *ret_wish = own(host, w[0], w[1], w[3]);
        else if (n == 1 && strcmp(verb, "disown") == 0)
                tell("%u end", agent_disown(host->agent, w[0]));
        else if (strcmp(verb, "owned") == 0)
                (void)agent_owned(host->agent, say_owned, host);
        else if (n == 1 && strcmp(verb, "remove") == 0 && host_named(w[0]))
                *ret_wish = administer(host, verb, host_named(w[0])->id);
        else if (strcmp(verb, "transfer") == 0)
                *ret_wish = administer(host, verb, n > 0 && host_named(w[0]) ? host_named(w[0])->id : 0);
        else if (n >= 1 && strcmp(verb, "watch") == 0)
                watch(host, w[0], n == 3 ? strtoull(w[2], NULL, 10) : 0);
        else if (n == 1 && strcmp(verb, "outcome") == 0)
                outcome(host, w[0]);
        else if (n == 1 && strcmp(verb, "presume") == 0)
                presume(host, strtoull(w[0], NULL, 10));
        else if (n == 1 && strcmp(verb, "pause") == 0)
                host_pause(host, time_of(w[0]));
        else if (n == 1 && strcmp(verb, "stall-disk") == 0)
                host->stalled_until = world.now + time_of(w[0]);
        else if (strcmp(verb, "list") == 0) {
                bool more;
                (void)agent_list(host->agent, n > 0 ? w[0] : "/", "", 0, 100, SIZE_MAX, listed, host, &more);
        } else if (strcmp(verb, "log") == 0)
                tell("%s: %s", host->name,
                     host->agent->raft_status.base_index > 0 ? "its log begins later" : "its log is whole");
        else if (n == 2 && strcmp(verb, "cut") == 0 && host_named(w[1]))
                cut(host->i, host_named(w[1])->i);
        else if (strcmp(verb, "cut") == 0)
                cut_off(host);
        else
                return false;
        return true;
}

static bool run(char *line) {
        static const char *const to_each[] = {
                "show",   "start", "stop",    "kill",     "powercut",  "image", "restore", "wipe",    "rot",
                "accept", "found", "rot-log", "rot-tree", "lose-tree", "full",  "room",    "unwatch", NULL};
        static const char *const to_open[] = {"hosts", "cluster", NULL};
        char *words[WORDS_MAX], *save = NULL;
        size_t n = 0;
        story.quiet = strncmp(line, "quiet ", 6) == 0;
        for (char *word = strtok_r(line + (story.quiet ? 6 : 0), " ", &save); word && n < WORDS_MAX;
             word = strtok_r(NULL, " ", &save))
                words[n++] = word;
        bool wait = n > 0 && strcmp(words[n - 1], "&") != 0;
        if (n > 0 && !wait)
                n--;
        if (n == 0)
                return false;
        if (is_one_of(words[0], to_open) && n >= 2 && world.n_hosts == 0) {
                unsigned voters = n > 2 ? (unsigned)strtoul(words[2], NULL, 10) : 0;
                (*words[0] == 'h' ? hosts : cluster)((unsigned)strtoul(words[1], NULL, 10), voters);
                return true;
        }
        if (is_one_of(words[0], to_each))
                return run_on_all(words[0], words + 1, n - 1);
        if (strcmp(words[0], "heal") == 0)
                heal();
        else if (strcmp(words[0], "run") == 0 && n == 2)
                run_for(time_of(words[1]));
        else if (strcmp(words[0], "sessions-last") == 0 && n == 2)
                world.session_usec = time_of(words[1]); /* of those that are started from now on */
        else if (strcmp(words[0], "history") == 0 && n == 2)
                history(words[1]);
        else {
                SimHost *host = n >= 2 ? host_named(words[1]) : NULL;
                Wish *wish = NULL;
                if (!host ||
                    (!host->agent && strcmp(words[0], "join") != 0 && strcmp(words[0], "cut") != 0) ||
                    !run_on_host(words[0], host, words + 2, n - 2, &wish))
                        return false;
                if (wish && wait && !run_until(&wish->answered))
                        tell("no answer");
        }
        return true;
}

/* ---- Files ---- */

/* The file with everything below its commands as it is now; in a process of its own. */
static _Noreturn void tell_story(const char *path, FILE *out, bool verbose) {
        FILE *in = fopen(path, "r");
        if (!in)
                _exit(SIM_USAGE);
        setvbuf(out, NULL, _IOLBF, 0);
        story.out = out;
        world_begin(1, 0, verbose);

        char line[4096];
        bool in_output = false;
        while (fgets(line, sizeof(line), in)) {
                line[strcspn(line, "\n")] = 0;
                if (in_output && strncmp(line, "  ", 2) == 0)
                        continue;
                in_output = strncmp(line, "> ", 2) == 0;
                fprintf(out, "%s\n", line);
                if (!in_output)
                        continue;
                if (verbose)
                        note("%s", line);
                if (!run(line + 2))
                        fputs("  no such command, or the host is down\n", out);
        }
        fclose(in);
        fflush(out);
        finish(SIM_HELD);
}

static char *read_all(FILE *file) {
        char *text = NULL, chunk[4096];
        size_t size, n;
        FILE *copy = open_memstream(&text, &size);
        assert(copy);
        while ((n = fread(chunk, 1, sizeof(chunk), file)) > 0)
                (void)fwrite(chunk, 1, n, copy);
        fclose(copy);
        return text;
}

static int say_difference(const char *path, const char *before, const char *after) {
        int line = 1;
        const char *b = before, *a = after;
        for (; *b && *b == *a; a++, b++)
                if (*b == '\n') {
                        line++;
                        before = b + 1;
                        after = a + 1;
                }
        fprintf(stderr, "%s:%d: the story goes otherwise\n  written: %.*s\n  happens: %.*s\n", path, line,
                (int)strcspn(before, "\n"), before, (int)strcspn(after, "\n"), after);
        return 1;
}

static int compare(const char *path, bool rewrite, bool verbose) {
        FILE *in = fopen(path, "r"), *out = tmpfile();
        if (!in || !out) {
                fprintf(stderr, "%s: cannot be read\n", path);
                return 1;
        }
        _cleanup_(freep) char *before = read_all(in);
        fclose(in);
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0)
                tell_story(path, out, verbose);
        int status = 0;
        (void)waitpid(pid, &status, 0);
        rewind(out);
        _cleanup_(freep) char *after = read_all(out);
        fclose(out);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != SIM_HELD) {
                fprintf(stderr, "%s: ends too early\n%s", path, after);
                return 1;
        }
        if (strcmp(before, after) == 0)
                return 0;
        FILE *new = rewrite ? fopen(path, "w") : NULL;
        if (!new)
                return say_difference(path, before, after);
        fputs(after, new);
        fclose(new);
        return 0;
}

int main(int argc, char **argv) {
        bool rewrite = false, verbose = false;
        int failed = 0;
        for (int i = 1; i < argc; i++)
                if (strcmp(argv[i], "--rewrite") == 0)
                        rewrite = true;
                else if (strcmp(argv[i], "-v") == 0)
                        verbose = true;
                else
                        failed |= compare(argv[i], rewrite, verbose);
        return failed;
}
