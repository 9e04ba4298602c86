/* This host's writes, from the caller's wish to the replicated answer.
 *
 *      QUEUED ──offered──▶ OFFERED ──our entry applies──▶ answered
 *        │ too late          │ deadline
 *        ▼                   ▼
 *      NoQuorum            Unknown: told so; its place is held until a later serial decides it
 *
 * A request gets its serial when it is first offered, so "never offered" is certain before and possible
 * never after. A stream of offers belongs to one connection and one term; each offer names the one before
 * it, so the leader can take no offer behind a hole. A new stream begins with the oldest undecided one: what
 * was taken before applies as a no-op then. An Unknown is not offered again (nobody waits for it); an empty
 * request behind it decides it. */
#include "hall.h"

#include <string.h>
#include "base/seen.h"

#define REQUEST_MARGIN_USEC USEC_PER_SEC /* no offer with less than this left */
#define ANNOUNCE_USEC       (500 * USEC_PER_MSEC)
#define BUSY_USEC           (20 * USEC_PER_MSEC)
#define FAR_AHEAD           1000000 /* no host is that far behind: a made-up number */
#define QUEUE_MAX           (4 * LIMIT_SERIALS)

static Request *request_unlink(Request *request) {
        Requests *requests = &request->agent->requests;

        if (request->state == REQUEST_QUEUED)
                DL_DELETE(requests->queued, request);
        else
                DL_DELETE(requests->offered, request);
        requests->n--;
        requests->bytes -= request->command_size;
        return request;
}

static void request_free(Request *request) {
        free(request->command);
        buffer_deinit(&request->encoded);
        free(request);
}

static void request_answer(Request *request, Answer answer, const Result *result) {
        RequestDone done = request->done;
        if (!done)
                return;
        RequestAnswer reply = {
                .answer = answer,
                .result = result ? *result : (Result){},
                .incarnation = request->serial ? request->agent->requests.incarnation : 0,
                .serial = request->serial,
        };
        request->done = NULL;
        done(&reply, request->userdata);
}

static void request_end(Request *request, Answer answer, const Result *result) {
        request_unlink(request);
        request_answer(request, answer, result);
        request_free(request);
}

Request *request_forget(Request *request) {
        if (request)
                request->done = NULL;
        return NULL;
}

/* ---- Taking a caller's wish ---- */

typedef struct Kept { /* a command and all it points at, in one piece of memory */
        Command command;
        Member member;
        Token token;
        char bytes[];
} Kept;

static bool kind_is_for_callers(CommandKind kind) {
        switch (kind) {
        case COMMAND_SET:
        case COMMAND_CREATE:
        case COMMAND_DELETE:
        case COMMAND_ADD_TOKEN:
        case COMMAND_REMOVE_TOKEN:
        case COMMAND_UPDATE_MEMBER:
        case COMMAND_ADD_MEMBER:
        case COMMAND_REMOVE_MEMBER:
        case COMMAND_ATTACH:
        case COMMAND_EMPTY:
                return true;
        case COMMAND_ANNOUNCE:
        case COMMAND_END_SESSION:
        case COMMAND_PRUNE:
        case COMMAND_CHECK:
                return false;
        }
        return false;
}

static void *keep_bytes(char **to, const void *data, size_t size) {
        void *at = *to;
        memcpy(at, data, size);
        *to += size;
        return at;
}

static Kept *command_keep(const Command *command, size_t *ret_size) {
        size_t path = command->path ? strlen(command->path) + 1 : 0;
        size_t tag = command->owner_tag ? strlen(command->owner_tag) + 1 : 0;
        size_t size = sizeof(Kept) + path + tag + command->value.size + command->signature.size;

        Kept *kept = malloc(size);
        if (!kept)
                return NULL;
        kept->command = *command;
        char *to = kept->bytes;
        if (command->path)
                kept->command.path = keep_bytes(&to, command->path, path);
        if (command->owner_tag)
                kept->command.owner_tag = keep_bytes(&to, command->owner_tag, tag);
        if (command->value.size > 0)
                kept->command.value.data = keep_bytes(&to, command->value.data, command->value.size);
        if (command->signature.size > 0)
                kept->command.signature.data =
                        keep_bytes(&to, command->signature.data, command->signature.size);
        if (command->member) {
                kept->member = *command->member;
                kept->command.member = &kept->member;
        }
        if (command->token) {
                kept->token = *command->token;
                kept->command.token = &kept->token;
        }
        *ret_size = size;
        return kept;
}

int agent_request(Agent *agent, const Command *command, uint64_t timeout_usec, RequestDone done,
                  void *userdata, Request **ret) {
        Requests *requests = &agent->requests;

        if (!kind_is_for_callers(command->kind) || command->value.size > LIMIT_VALUE_BYTES ||
            command->signature.size > SIGNATURE_BYTES ||
            (command->owner_tag && strlen(command->owner_tag) > OWNER_TAG_BYTES))
                return -EINVAL;
        if (command->path && path_check_entry(command->path) != PATH_OK)
                return -EINVAL;

        Request *request = calloc(1, sizeof(Request));
        if (!request)
                return -ENOMEM;
        size_t size = 0;
        Kept *kept = command_keep(command, &size);
        if (!kept) {
                free(request);
                return -ENOMEM;
        }

        *request = (Request){
                .agent = agent,
                .kind = command->kind,
                .command = (uint8_t *)kept,
                .command_size = size,
                .deadline_usec = hall_now(agent) + MIN(timeout_usec, 3600 * USEC_PER_SEC),
                .margin_usec = MIN(REQUEST_MARGIN_USEC, timeout_usec / 4),
                .refusal = requests->n >= QUEUE_MAX || requests->bytes + size > LIMIT_REQUEST_BYTES
                                   ? ANSWER_BUSY
                           : agent->removed || agent->quarantined || agent->join.accepted
                                   ? ANSWER_NOT_MEMBER /* what is written now would go with the old tree */
                           : agent->stopping  ? ANSWER_STOPPING
                           : agent->disk_full ? ANSWER_DISK_FULL
                           : agent->halted    ? ANSWER_HALTED
                                              : ANSWER_DONE,
                .done = done,
                .userdata = userdata,
        };
        DL_APPEND(requests->queued, request);
        requests->n++;
        requests->bytes += size;
        if (request->refusal != ANSWER_DONE)
                requests->n_refusals++;
        hall_wake(agent);
        if (ret)
                *ret = request;
        return 0;
}

/* ---- Offering ---- */

static uint64_t lowest_unresolved(const Requests *requests) {
        return requests->offered ? requests->offered->serial : requests->next_serial;
}

/* What was decided stays in the row until the tree is known to keep it elsewhere. */
static uint64_t lowest_to_keep(const Requests *requests) {
        uint64_t lowest = lowest_unresolved(requests);
        return requests->n_decided > 0 ? MIN(lowest, requests->decided[0].serial) : lowest;
}

/* An Unknown that was decided: asked for later by its id, perhaps on another host. */
static void decided_add(Requests *requests, uint64_t serial) {
        if (requests->n_decided == LIMIT_KEPT) { /* the tree would let the oldest go, too */
                memmove(requests->decided, requests->decided + 1,
                        (LIMIT_KEPT - 1) * sizeof(requests->decided[0]));
                requests->n_decided--;
        }
        requests->decided[requests->n_decided++] = (Decided){.serial = serial};
}

/* Request `serial` is decided: when it applied, the tree keeps what it named; else another one has to. */
static void decided_named(Requests *requests, uint64_t serial, bool applied) {
        unsigned n = 0;
        for (unsigned i = 0; i < requests->n_decided; i++) {
                Decided decided = requests->decided[i];
                if (decided.named_by == serial && applied)
                        continue;
                if (decided.named_by == serial)
                        decided.named_by = 0;
                requests->decided[n++] = decided;
        }
        requests->n_decided = n;
}

static bool is_unknown(const Requests *requests, uint64_t serial) {
        for (const Request *request = requests->offered; request && request->serial <= serial;
             request = request->next)
                if (request->serial == serial)
                        return request->state == REQUEST_UNKNOWN;
        return false;
}

/* What the request that gets its serial now asks the tree to keep: what none names that is still offered. */
static Bytes name_decided(Requests *requests, uint8_t to[static 2 * LIMIT_KEPT]) {
        uint64_t last = 0;
        bool again = false;
        size_t size = 0;

        for (unsigned i = 0; i < requests->n_decided; i++) {
                Decided *decided = requests->decided + i;
                if (decided->named_by != 0 && decided->named_by != last) {
                        last = decided->named_by;
                        again = is_unknown(requests, last);
                }
                if (decided->named_by != 0 && !again)
                        continue;
                uint64_t back = requests->next_serial - decided->serial;
                assert(back > 0 && back <= UINT16_MAX);
                to[size++] = (uint8_t)back;
                to[size++] = (uint8_t)(back >> 8);
                decided->named_by = requests->next_serial;
        }
        return BYTES(to, size);
}

static int send_offer(Agent *agent, Bytes command, uint64_t serial) {
        Requests *requests = &agent->requests;
        Letter letter = {
                .kind = LETTER_OFFER,
                .offer =
                        {
                                .term = requests->stream_term,
                                .stream = requests->stream,
                                .previous = requests->previous,
                                .serial = serial,
                                .lowest_unresolved = lowest_to_keep(requests),
                                .command = command,
                        },
        };
        if (requests->stream_leader == agent->host.id) {
                offers_take(agent, agent->host.id, 0, &letter.offer);
                return 0;
        }
        return hall_send(agent, requests->stream_leader, &letter);
}

static void announce(Agent *agent) {
        Requests *requests = &agent->requests;
        if (requests->announce_sent_usec != 0 &&
            agent->now_usec - requests->announce_sent_usec < ANNOUNCE_USEC)
                return;
        requests->retry_usec = agent->now_usec + HALL_TICK_USEC;

        Command command = {
                .kind = COMMAND_ANNOUNCE,
                .host = agent->host.id,
                .nonce = BYTES(requests->nonce, sizeof(requests->nonce)),
                .start = log_state(agent->log)->start,
                .start_nonce = BYTES(log_state(agent->log)->start_nonce, 16),
        };
        _cleanup_(buffer_deinit) Buffer bytes = {};
        if (wire_command_encode(&command, &bytes) < 0)
                return;
        if (send_offer(agent, BYTES(bytes.data, bytes.size), 0) >= 0) {
                requests->announce_sent_usec = agent->now_usec;
                requests->retry_usec = agent->now_usec + ANNOUNCE_USEC;
        }
}

/* Is there a leader to whom offers can go, and does our stream lead there? */
static bool stream_ready(Agent *agent) {
        Requests *requests = &agent->requests;
        uint64_t leader = hall_leader(agent), term = hall_term(agent), connection = 0;

        if (leader == 0 || agent->removed || agent->quarantined)
                return false;
        if (leader == agent->host.id) {
                if (!hall_is_leader(agent))
                        return false;
        } else {
                const Connection *to = members_connection(agent, leader);
                if (!to)
                        return false;
                connection = to->connection;
        }

        if (requests->stream == 0 || requests->stream_leader != leader || requests->stream_term != term ||
            requests->stream_connection != connection) {
                if (requests->offered != NULL)
                        SIM_SEEN("request: a new stream with undecided ones");
                requests->stream = ++requests->n_streams;
                requests->stream_leader = leader;
                requests->stream_term = term;
                requests->stream_connection = connection;
                requests->previous = 0;
                requests->announce_sent_usec = 0;
        }
        return true;
}

static int request_offer(Request *request) {
        Agent *agent = request->agent;
        Requests *requests = &agent->requests;
        uint64_t stream = requests->stream, previous = requests->previous;

        /* Noted before it leaves: a refusal by ourselves comes from inside. */
        request->sent_on = stream;
        request->sent_behind = previous;
        int r = send_offer(agent, BYTES(request->encoded.data, request->encoded.size), request->serial);
        if (r < 0) {
                request->sent_on = 0;
                requests->retry_usec = agent->now_usec + HALL_TICK_USEC;
                return r;
        }
        if (requests->stream == stream && request->sent_on == stream)
                requests->previous = request->serial;
        return 0;
}

static int request_number(Request *request) {
        Agent *agent = request->agent;
        Requests *requests = &agent->requests;
        Kept *kept = (Kept *)request->command;

        kept->command.host = agent->host.id;
        kept->command.incarnation = requests->incarnation;
        kept->command.serial = requests->next_serial;
        kept->command.lowest_unresolved = lowest_to_keep(requests);
        if (kept->command.flags & (COMMAND_EPHEMERAL | COMMAND_IF_OWNED))
                kept->command.generation = agent->sessions.generation;
        uint8_t keep[2 * LIMIT_KEPT];
        kept->command.keep = name_decided(requests, keep);
        int r = wire_command_encode(&kept->command, &request->encoded);
        if (r < 0) {
                decided_named(requests, requests->next_serial, false);
                return r;
        }
        request->serial = requests->next_serial++;
        request->state = REQUEST_OFFERED;
        DL_DELETE(requests->queued, request);
        DL_APPEND(requests->offered, request);
        requests->look_usec =
                MIN(requests->look_usec, MAX(request->deadline_usec, agent->now_usec + HALL_TICK_USEC));
        free(TAKE(request->command));
        return 0;
}

/* The width of the row bounds what is in flight. Its last place is the empty request's: or 4,095 Unknown
 * ones would hold all places, and nothing could be offered that decides them. What another request asks to
 * keep holds its place until that one is decided: a later one that overtook it would push it out of the row.
 * The one that does ask comes first, also to the tree, and the empty one asks for all. */
static bool window_is_full(const Requests *requests, CommandKind kind) {
        uint64_t width = requests->next_serial - lowest_unresolved(requests), named = 0;
        for (unsigned i = 0; i < requests->n_decided && named == 0; i++)
                if (requests->decided[i].named_by != 0)
                        named = requests->next_serial - requests->decided[i].serial;
        if (kind == COMMAND_EMPTY)
                return width >= LIMIT_SERIALS || named >= 2 * LIMIT_SERIALS;
        return MAX(width, named) >= LIMIT_SERIALS - 1;
}

/* Nothing is offered any more that would decide the Unknown ones: an empty request does, ahead of whatever
 * waits. Nobody waits for it, so it is neither refused nor late: it is offered until it applies. */
static void decide_unknown(Agent *agent) {
        Requests *requests = &agent->requests;
        Request *request = requests->queued;

        if (!requests->offered ||
            (request && (request->kind == COMMAND_EMPTY || !window_is_full(requests, request->kind))))
                return;
        for (request = requests->offered; request; request = request->next)
                if (request->state == REQUEST_OFFERED)
                        return;
        SIM_SEEN("request: an empty one decides Unknowns");
        Command empty = {.kind = COMMAND_EMPTY};
        if (agent_request(agent, &empty, REQUEST_TIMEOUT_USEC, NULL, NULL, &request) < 0)
                return;
        if (request->refusal != ANSWER_DONE) {
                request->refusal = ANSWER_DONE;
                requests->n_refusals--;
        }
        request->deadline_usec = USEC_INFINITY;
        DL_DELETE(requests->queued, request);
        DL_PREPEND(requests->queued, request);
}

void requests_offer(Agent *agent) {
        Requests *requests = &agent->requests;

        if (agent->now_usec < requests->busy_until_usec || !stream_ready(agent))
                return;
        if (requests->incarnation == 0) {
                announce(agent);
                return;
        }
        decide_unknown(agent);

        uint64_t stream = requests->stream;
        for (Request *request = requests->offered; request; request = request->next)
                if (request->state == REQUEST_OFFERED && request->sent_on != stream)
                        if (request_offer(request) < 0 || requests->stream != stream ||
                            agent->now_usec < requests->busy_until_usec)
                                return;

        Request *request, *next;
        DL_FOREACH_SAFE (requests->queued, request, next) {
                if (request->refusal != ANSWER_DONE)
                        continue;
                if (window_is_full(requests, request->kind))
                        return;
                int r = request_number(request);
                if (r == -ENOMEM)
                        return; /* the next turn tries again */
                if (r < 0) {
                        request_end(request, ANSWER_REFUSED, &(Result){.status = RESULT_INVALID});
                        continue;
                }
                if (request_offer(request) < 0 || requests->stream != stream ||
                    agent->now_usec < requests->busy_until_usec)
                        return;
        }
}

/* Offers that were under way behind a busy one are refused as holes: the stream goes on from the busy one
 * already, and beginning it anew would offer everything twice to a leader that has too much. */
static bool is_rewound(const Requests *requests, uint64_t serial) {
        for (const Request *request = requests->offered; request; request = request->next)
                if (request->serial == serial)
                        return request->sent_on != requests->stream;
        return false;
}

/* Only he refuses to whom it was offered: a caller is told for good. */
void requests_refused(Agent *agent, uint64_t host, const LetterOfferRefused *refused) {
        Requests *requests = &agent->requests;

        if (host != requests->stream_leader || refused->stream != requests->stream ||
            refused->term != requests->stream_term ||
            (refused->reason == OFFER_HOLE && is_rewound(requests, refused->serial)))
                return;
        requests->busy_until_usec = agent->now_usec + BUSY_USEC;

        if (refused->reason != OFFER_BUSY || refused->serial == 0) {
                requests->stream = 0; /* begin anew, behind whoever leads then */
                if (refused->reason != OFFER_INVALID || refused->serial == 0)
                        return;
        }
        Request *request, *next;
        DL_FOREACH_SAFE (requests->offered, request, next) {
                if (request->serial < refused->serial)
                        continue;
                if (request->serial == refused->serial && refused->reason == OFFER_INVALID) {
                        decided_named(requests, request->serial, false);
                        request_end(request, ANSWER_REFUSED, &(Result){.status = RESULT_INVALID});
                        return;
                }
                if (request->serial == refused->serial) {
                        SIM_SEEN("request: busy, and resumed from there");
                        requests->previous = request->sent_behind;
                }
                request->sent_on = 0;
        }
}

/* ---- Answers ---- */

void requests_applied(Agent *agent, uint64_t serial, const Result *result) {
        Requests *requests = &agent->requests;

        if (result->status == RESULT_STALE)
                return;
        Request *request, *next;
        DL_FOREACH_SAFE (requests->offered, request, next) {
                if (request->serial > serial)
                        return;
                bool self = request->serial == serial;
                if (request->state == REQUEST_UNKNOWN) {
                        SIM_SEEN("request: an Unknown is decided while its agent lives");
                        decided_add(requests, request->serial);
                }
                decided_named(requests, request->serial, self);
                if (!self)
                        /* Overtaken by a later one: it is a no-op wherever it still travels. */
                        request_end(request, ANSWER_NO_QUORUM, NULL);
                else
                        request_end(request, result->status == RESULT_DONE ? ANSWER_DONE : ANSWER_REFUSED,
                                    result);
        }
}

typedef struct Asked {
        Agent *agent;
        uint64_t incarnation, serial;
        TreeOutcome outcome;
        Result result;
} Asked;

static int ask_row(const Member *member, void *userdata) {
        Asked *asked = userdata;

        if (member->id == asked->agent->host.id)
                return 0;
        asked->outcome = tree_outcome(asked->agent->tree, member->id, asked->incarnation, asked->serial,
                                      &asked->result);
        return asked->outcome != TREE_OUTCOME_TOO_OLD;
}

/* An incarnation is an index of the log and so belongs to one host; the caller of a host that died may ask
 * on another one, which has its row, too. */
static TreeOutcome ask_tree(Agent *agent, uint64_t incarnation, uint64_t serial, Result *ret) {
        Asked asked = {.agent = agent, .incarnation = incarnation, .serial = serial};

        if (agent->heal.bad || agent->heal.suspect)
                return TREE_OUTCOME_UNDECIDED; /* there is no row to ask */
        asked.outcome = tree_outcome(agent->tree, agent->host.id, incarnation, serial, &asked.result);
        if (asked.outcome == TREE_OUTCOME_TOO_OLD)
                (void)tree_members(agent->tree, ask_row, &asked);
        *ret = asked.result;
        return asked.outcome;
}

OutcomeState agent_outcome(Agent *agent, uint64_t incarnation, uint64_t serial, Result *ret) {
        Requests *requests = &agent->requests;

        *ret = (Result){};
        /* An incarnation is an index. One above what is applied here was never given, or this host is behind
         * or was set back by a crash: it cannot know which before it hears from a leader. */
        if (incarnation > agent->tree_status.applied)
                return incarnation > agent->tree_status.applied + FAR_AHEAD ? OUTCOME_TOO_OLD
                                                                            : OUTCOME_UNDECIDED;
        if (incarnation == requests->incarnation && incarnation != 0)
                for (Request *request = requests->offered; request; request = request->next)
                        if (request->serial == serial)
                                return OUTCOME_UNDECIDED;
        switch (ask_tree(agent, incarnation, serial, ret)) {
        case TREE_OUTCOME_APPLIED:
                return OUTCOME_APPLIED;
        case TREE_OUTCOME_NEVER:
                return OUTCOME_NEVER;
        case TREE_OUTCOME_UNDECIDED:
                return OUTCOME_UNDECIDED;
        case TREE_OUTCOME_TOO_OLD:
                return OUTCOME_TOO_OLD;
        }
        assert(!"unreachable");
        return OUTCOME_TOO_OLD;
}

void requests_announced(Agent *agent, uint64_t incarnation) {
        if (agent->requests.incarnation != 0)
                return;
        agent->requests.incarnation = incarnation;
        sessions_load(agent);
        hall_wake(agent);
}

void requests_time_out(Agent *agent) {
        Requests *requests = &agent->requests;
        Request *request, *next;

        requests->queued_usec = USEC_INFINITY;
        DL_FOREACH_SAFE (requests->queued, request, next) {
                if (request->refusal != ANSWER_DONE) {
                        requests->n_refusals--;
                        request_end(request, request->refusal, NULL);
                } else if (agent->now_usec + request->margin_usec >= request->deadline_usec)
                        request_end(request, ANSWER_NO_QUORUM, NULL);
                else
                        requests->queued_usec =
                                MIN(requests->queued_usec, request->deadline_usec - request->margin_usec);
        }
        /* Those may be thousands, and turns thousands a second: expiry is coarse on purpose. */
        if (agent->now_usec < requests->look_usec)
                return;
        requests->look_usec = USEC_INFINITY;
        DL_FOREACH_SAFE (requests->offered, request, next) {
                if (request->state != REQUEST_OFFERED)
                        continue;
                if (agent->now_usec < request->deadline_usec) {
                        requests->look_usec =
                                MIN(requests->look_usec,
                                    MAX(request->deadline_usec, agent->now_usec + HALL_TICK_USEC));
                        continue;
                }
                request->state = REQUEST_UNKNOWN;
                buffer_deinit(&request->encoded);
                SIM_SEEN("request: told that its fate is unknown");
                request_answer(request, ANSWER_UNKNOWN, NULL);
        }
}

/* Whoever waits for a leader or a connection is woken by their coming; what could not be sent though both
 * are there is tried again. */
uint64_t requests_deadline(const Agent *agent) {
        const Requests *requests = &agent->requests;
        uint64_t deadline = USEC_INFINITY;

        if (requests->n_refusals > 0)
                return 0;
        if (requests->queued)
                deadline = requests->queued_usec;
        if (requests->offered)
                deadline = MIN(deadline, requests->look_usec);
        if ((requests->n > 0 || requests->incarnation == 0) && hall_leader(agent) != 0 &&
            requests->retry_usec > agent->now_usec)
                deadline = MIN(deadline, requests->retry_usec);
        if (requests->busy_until_usec > agent->now_usec)
                deadline = MIN(deadline, requests->busy_until_usec);
        return deadline;
}

/* Another process announced itself as this host (an announcement of an earlier one that travelled long, a
 * copy): our row is over, and what was offered and has not applied never will. We announce ourselves anew,
 * else every write would end as Unknown for ever. */
void requests_replaced(Agent *agent) {
        Requests *requests = &agent->requests;
        Request *request, *next;

        report_say(&agent->report, LOG_WARNING,
                   "Another process spoke in this host's name: this one announces itself anew.");
        DL_FOREACH_SAFE (requests->offered, request, next)
                request_end(request, ANSWER_NO_QUORUM, NULL);
        requests->n_decided = 0; /* the row that ended is kept as it is */
        requests->incarnation = requests->announce_sent_usec = requests->stream = 0;
        requests->next_serial = 1;
        agent->outside.random(agent->outside.userdata, requests->nonce, sizeof(requests->nonce));
        hall_wake(agent);
}

/* The tree was replaced by a snapshot: entries of ours may have been applied in between without passing
 * here. */
void requests_rebase(Agent *agent) {
        Requests *requests = &agent->requests;
        uint64_t incarnation;
        uint8_t nonce[16];

        if (tree_incarnation(agent->tree, agent->host.id, &incarnation, nonce) == 0 &&
            memcmp(nonce, requests->nonce, sizeof(nonce)) == 0 && requests->incarnation == 0)
                requests_announced(agent, incarnation);

        Request *request, *next;
        DL_FOREACH_SAFE (requests->offered, request, next) {
                SIM_SEEN("request: the tree was replaced under it");
                Result result = {};
                TreeOutcome outcome = tree_outcome(agent->tree, agent->host.id, requests->incarnation,
                                                   request->serial, &result);
                if (outcome == TREE_OUTCOME_APPLIED)
                        requests_applied(agent, request->serial, &result);
        }
}

void requests_fail(Agent *agent, Answer answer) {
        Request *request, *next;
        DL_FOREACH_SAFE (agent->requests.queued, request, next)
                request_end(request, answer, NULL);
        DL_FOREACH_SAFE (agent->requests.offered, request, next)
                request_end(request, ANSWER_UNKNOWN, NULL);
}

void requests_reset(Agent *agent) {
        requests_fail(agent, ANSWER_NOT_MEMBER);
        uint64_t n_streams = agent->requests.n_streams; /* a connection that stays has heard of them */
        agent->requests = (Requests){.next_serial = 1, .n_streams = n_streams};
        agent->outside.random(agent->outside.userdata, agent->requests.nonce, sizeof(agent->requests.nonce));
}
