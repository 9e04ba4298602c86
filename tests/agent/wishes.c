/* What is asked of the agents in a story, and what comes of it. A wish is told when it is answered, whenever
 * that is. */
#include "story.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

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

uint64_t time_of(const char *text) {
        char *end;
        double n = strtod(text, &end);
        return (uint64_t)(n * (strcmp(end, "ms") == 0 ? MSEC : SEC));
}

Wish *wish_write(SimHost *host, const char *verb, const char *path, const char *value, uint64_t usec) {
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

Wish *wish_read(SimHost *host, const char *verb, const char *path) {
        Wish *wish = wish_new(WISH_READ, host, verb, path, "");
        int r = agent_read(host->agent, *verb == 'l' ? READ_LINEARIZABLE : 0, 0, 5 * SEC, may_look, wish,
                           NULL);
        assert(r >= 0);
        if (r == 1)
                look_up(wish);
        return wish;
}

Wish *wish_join(SimHost *host, char **words, size_t n) {
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

Wish *wish_token(SimHost *host, char **words, size_t n) {
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
void wish_presume(SimHost *host, uint64_t term) {
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

Wish *wish_own(SimHost *host, const char *path, const char *value, const char *tag) {
        Wish *wish = wish_new(WISH_OWN, host, "own", path, value);
        int r = agent_own(host->agent, path, BYTES(value, strlen(value)), tag, 5 * SEC, answered, wish,
                          NULL);
        if (r == 1) {
                wish->answered = true;
                tell("%s %s: it does already", host->name, wish->what);
        }
        return wish;
}

Wish *wish_admin(SimHost *host, const char *verb, uint64_t subject) {
        Wish *wish = wish_new(WISH_ADMIN, host, verb, subject ? name_of(subject) : "", "");
        int r = *verb == 'r' ? agent_remove(host->agent, subject, 20 * SEC, answered, wish)
                             : agent_transfer(host->agent, subject, answered, wish);
        if (r < 0) {
                wish->answered = true;
                tell("%s %s: %s", host->name, wish->what, strerror(-r));
        }
        return wish;
}

static int print_standing(const AgentMember *member, void *userdata) {
        FILE *to = userdata;
        fprintf(to, "%s%s ", ftell(to) > 0 ? ", " : "", member->member->name);
        if (member->applied > 0)
                fprintf(to, "at %" PRIu64, member->applied);
        else
                fputs("unknown", to);
        return 0;
}

static void members_known(void *userdata) {
        Wish *wish = userdata;
        char text[400] = "";
        FILE *to = fmemopen(text, sizeof(text), "w");
        assert(to);
        wish->answered = true;
        int r = wish->host->dying ? 0 : agent_members(wish->host->agent, print_standing, to);
        assert(r == 0);
        fclose(to);
        tell("%s: %s", wish->host->name, text);
}

Wish *wish_members(SimHost *host) {
        Wish *wish = wish_new(WISH_MEMBERS, host, "members", "", "");
        int r = agent_ask_members(host->agent, members_known, wish);
        assert(r == 0);
        return wish;
}

/* ---- Flood ---- */

static void flooded(const RequestAnswer *answer, void *userdata) {
        story.flood_waiting--;
        story.flood_failed += answer->answer != ANSWER_DONE;
}

void wish_flood(SimHost *host, const char *path, uint64_t n, size_t bytes, unsigned keys) {
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

void tell_watch(SimHost *host, const char *subtree, uint64_t from) {
        uint64_t now;
        tell_watch_end(host);
        int r = agent_watch(host->agent, subtree, WATCH_SUBTREE, from, watched, host, &story.watch[host->i],
                            &now);
        assert(r == 0);
}

int tell_entry(const AgentEntry *entry, void *userdata) {
        say_entry(userdata, entry->path, entry);
        return 0;
}

int tell_owned(const char *path, const char *tag, void *userdata) {
        tell("%s owns %s for %s", ((SimHost *)userdata)->name, path, tag);
        return 0;
}

void tell_outcome(SimHost *host, const char *value) {
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

void tell_history(const char *path) {
        const Change *changes;
        size_t n = ghost_changes(&changes);
        for (size_t i = 0; i < n; i++)
                if (strcmp(changes[i].path, path) == 0)
                        tell("%" PRIu64 ": %s", changes[i].revision,
                             changes[i].kind == WATCH_PUT ? changes[i].text : "(ends)");
}

void tell_show(SimHost *host) {
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
