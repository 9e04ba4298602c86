/* A member that lies. A guest is a leaf: it belongs to the cluster, so its letters are heard, and it is
 * trusted with its own place in the tree and nothing else. This one claims higher terms, votes, leadership,
 * what it never acknowledged; and it offers commands that are not its to offer. What it says moves no term,
 * no vote, no commit index, nobody's role and nobody's session, and what it offers changes nothing.
 *
 * And letters of real members that contradict what was: a leader of a term that is over with more than
 * anybody has, a snapshot older than the tree. They are refused without a trace, too. */
#include "agent/tree/internal.h"
#include "sim.h"

#include <string.h>

static uint64_t n_connections = UINT64_C(1) << 60; /* numbers that no real one has */
static uint64_t n_lies, n_offers;

/* ---- What must not move ---- */

typedef struct Still {
        RaftStatus raft;
        uint64_t certain_usec, follow_term, fetch_from, promote_index;
        bool follows, damaged, quarantined, removed;
} Still;

static Still look_at(const SimHost *host) {
        const Agent *agent = host->agent;
        Still still = {
                .certain_usec = agent->sessions.certain_usec,
                .follow_term = agent->follow.term,
                .fetch_from = snapshot_fetching(agent) ? agent->snapshots.fetch.from : 0,
                .promote_index = agent->roles.promote_index,
                .follows = agent->follow.active,
                .damaged = agent->damaged,
                .quarantined = agent->quarantined,
                .removed = agent->removed,
        };
        raft_status(agent->raft, &still.raft);
        return still;
}

static void compare(const SimHost *host, const char *who, const Letter *letter, const Still *before) {
        Still after = look_at(host);
        const RaftStatus *a = &before->raft, *b = &after.raft;
        bool moved = a->term != b->term || a->vote != b->vote || a->role != b->role ||
                     a->leader != b->leader || a->commit != b->commit || a->last_index != b->last_index ||
                     a->last_term != b->last_term || a->base_index != b->base_index ||
                     a->transferring != b->transferring || a->damaged != b->damaged || a->lost != b->lost ||
                     a->keeps_log != b->keeps_log || a->conf_index != b->conf_index;
        bool hall = before->certain_usec != after.certain_usec || before->follow_term != after.follow_term ||
                    before->fetch_from != after.fetch_from || before->promote_index != after.promote_index ||
                    before->follows != after.follows || before->damaged != after.damaged ||
                    before->quarantined != after.quarantined || before->removed != after.removed;
        if (moved || hall)
                broken("%s: a letter of kind %d (%d) from %s changed something: term %llu to %llu, role %d to %d, "
                       "commit %llu to %llu, last %llu to %llu%s",
                       host->name, letter->kind, letter->kind == LETTER_RAFT ? (int)letter->raft.type : 0,
                       who, (unsigned long long)a->term, (unsigned long long)b->term, a->role, b->role,
                       (unsigned long long)a->commit, (unsigned long long)b->commit,
                       (unsigned long long)a->last_index, (unsigned long long)b->last_index,
                       hall ? "; and the hall's own" : "");
}

static void send(SimHost *host, uint64_t from, uint64_t connection, const Letter *letter) {
        _cleanup_(buffer_deinit) Buffer bytes = {};
        int r = wire_letter_encode(letter, &bytes);
        assert(r == 0);
        agent_letter(host->agent, from, connection, BYTES(bytes.data, bytes.size));
}

/* Each letter also tells the core the time, and it may be time for a leader to go: a turn that is some µs
 * late would be taken for the letter's doing. */
static bool time_is_up(const Agent *agent) {
        return hall_now(agent) >= agent->raft_deadline_usec;
}

static void lie(SimHost *host, const char *who, uint64_t from, uint64_t connection, const Letter *letter) {
        if (time_is_up(host->agent))
                return;
        Still before = look_at(host);
        n_lies++;
        send(host, from, connection, letter);
        compare(host, who, letter, &before);
}

/* ---- The guest ---- */

static bool greet(SimHost *host, const Guest *guest, uint64_t connection) {
        Member member;
        if (tree_member(host->agent->tree, guest->id, &member) != 0)
                return false; /* this host has not heard of it yet */
        Letter hello = {.kind = LETTER_HELLO,
                        .hello = {.host = guest->id, .start = 1, .version = 1, .restore_epoch = 1}};
        memcpy(hello.hello.cluster, world.cluster, sizeof(world.cluster));
        memcpy(hello.hello.start_nonce, guest->key, sizeof(hello.hello.start_nonce));
        hello.hello.restore_epoch = host->agent->tree_status.restore_epoch;
        agent_up(host->agent, guest->id, connection);
        send(host, guest->id, connection, &hello);
        return members_connection(host->agent, guest->id);
}

static Letter raft_lie(const SimHost *host, uint64_t from) {
        const RaftStatus *status = &host->agent->raft_status;
        static Entry *entries[1];
        Letter letter = {.kind = LETTER_RAFT};
        letter.raft = (RaftMessage){
                .type = (RaftMessageType)between(RAFT_PREVOTE, RAFT_TIMEOUT_NOW),
                .from = from,
                .to = host->id,
                .term = status->term + below(4),
                .log_index = status->last_index + below(3),
                .log_term = status->last_term,
                .commit = status->commit + below(100),
                .beat = below(1000),
                .match = status->last_index + below(2),
                .refused = chance(3000),
                .force = chance(5000),
        };
        if (letter.raft.type == RAFT_APPEND && chance(7000)) {
                if (!entries[0])
                        entries[0] = entry_new(ENTRY_NOOP, 1, 1, NULL, 0);
                assert(entries[0]);
                entries[0]->index = letter.raft.log_index + 1;
                entries[0]->term = letter.raft.term;
                letter.raft.entries = entries;
                letter.raft.n_entries = 1;
        }
        return letter;
}

static Letter hall_lie(const SimHost *host, const Guest *guest) {
        const Agent *agent = host->agent;
        static const LetterKind kinds[] = {LETTER_OFFER_REFUSED, LETTER_READ_REPLY, LETTER_KEEPALIVE,
                                           LETTER_KEEPALIVE_ACK, LETTER_PROMOTE,    LETTER_PROMOTED,
                                           LETTER_FETCH,         LETTER_HEAL,       LETTER_STATUS,
                                           LETTER_REPORT};
        const SimHost *other = world.hosts[below(world.n_hosts)];
        Letter letter = {.kind = kinds[below(ELEMENTSOF(kinds))]};
        uint64_t term = agent->raft_status.term + below(2), index = agent->tree_status.applied + below(50);
        switch (letter.kind) {
        case LETTER_OFFER_REFUSED:
                letter.refused =
                        (LetterOfferRefused){.term = term, .stream = 1, .serial = 1, .reason = OFFER_BUSY};
                break;
        case LETTER_READ_REPLY:
                letter.read = (LetterRead){
                        .incarnation = agent->reads.incarnation, .id = agent->reads.next_id, .index = 1};
                break;
        case LETTER_KEEPALIVE:
        case LETTER_KEEPALIVE_ACK:
                letter.keepalive = (LetterKeepalive){.host = other->id ?: 1,
                                                     .generation = agent->sessions.generation,
                                                     .sent = agent->now_usec,
                                                     .lasts_usec = 60 * SEC};
                break;
        case LETTER_PROMOTE:
        case LETTER_PROMOTED:
        case LETTER_FETCH:
                letter.promote = (LetterPromote){.term = term, .index = index};
                break;
        case LETTER_HEAL:
                letter.heal = (LetterHeal){.term = term, .index = index, .start = 1};
                break;
        case LETTER_STATUS:
                letter.status = (LetterStatus){.applied = index, .durable = index};
                break;
        case LETTER_REPORT:
                letter.report.index = agent->checks.applied_index ?: 1;
                memcpy(letter.report.digest, guest->key, sizeof(letter.report.digest));
                break;
        case LETTER_HELLO:
        case LETTER_RAFT:
        case LETTER_OFFER:
        case LETTER_READ:
                break;
        }
        return letter;
}

/* ---- What it offers ---- */

static void write_command(const Guest *guest, uint64_t incarnation, uint64_t serial, Command *to,
                          Member *member, Token *token) {
        SimHost *other = world.hosts[below(world.n_hosts)];
        *to = (Command){.host = guest->id, .incarnation = incarnation, .serial = serial};
        switch (below(7)) {
        case 0:
                to->kind = COMMAND_SET;
                to->path = "/k/0";
                to->value = BYTES("evil", 4);
                break;
        case 1:
                to->kind = COMMAND_DELETE;
                to->flags = COMMAND_SUBTREE;
                to->path = chance(5000) ? "/k" : "/";
                break;
        case 2:
                to->kind = COMMAND_REMOVE_MEMBER;
                to->subject = other->id;
                break;
        case 3:
                *token = (Token){.class = MEMBER_FULL, .uses_left = 10, .expires_cluster_usec = 3600 * SEC};
                token->id[0] = 1;
                to->kind = COMMAND_ADD_TOKEN;
                to->token = token;
                break;
        case 4:
                *member = (Member){.id = other->id, .class = MEMBER_FULL, .n_keys = 1, .version = 1};
                strcpy(member->name, "guest");
                memcpy(member->keys[0], guest->key, KEY_HASH_BYTES);
                to->kind = COMMAND_UPDATE_MEMBER;
                to->member = member;
                break;
        case 5:
                to->kind = chance(5000) ? COMMAND_PRUNE : COMMAND_END_SESSION;
                to->subject = other->id;
                to->generation = other->agent ? other->agent->sessions.generation : 1;
                to->revision = ghost_revision();
                if (chance(5000))
                        to->incarnation = to->serial = 0; /* as if by the leader */
                break;
        default: /* its own place */
                to->kind = COMMAND_SET;
                to->path = "/hosts/guest";
                to->value = BYTES("here", 4);
                break;
        }
}

static void offer(SimHost *host, const Guest *guest, uint64_t connection) {
        _cleanup_(buffer_deinit) Buffer bytes = {};
        static const uint8_t nonce[16] = "a guest's nonce";
        RequestRow *row = NULL;
        Command command = {};
        Member member;
        Token token;
        int r = requests_current(host->agent->tree, guest->id, &row);
        if (r == TREE_NONE)
                command = (Command){.kind = COMMAND_ANNOUNCE,
                                    .host = guest->id,
                                    .nonce = BYTES(nonce, 16),
                                    .start = 1,
                                    .start_nonce = BYTES(guest->key, 16)};
        else if (r == 0)
                write_command(guest, row->incarnation, ++n_offers, &command, &member, &token);
        else
                return;
        r = wire_command_encode(&command, &bytes);
        if (r < 0)
                return;
        Letter letter = {.kind = LETTER_OFFER,
                         .offer = {.term = host->agent->raft_status.term,
                                   .stream = connection,
                                   .serial = command.kind == COMMAND_ANNOUNCE ? 0 : n_offers,
                                   .lowest_unresolved = n_offers,
                                   .command = BYTES(bytes.data, bytes.size)}};
        send(host, guest->id, connection, &letter);
}

static void guest_lies(SimHost *host, const Guest *guest) {
        uint64_t connection = ++n_connections;
        if (greet(host, guest, connection)) {
                for (unsigned n = (unsigned)between(1, 6);
                     n > 0 && members_connection(host->agent, guest->id); n--) {
                        Letter letter = chance(5000) ? raft_lie(host, guest->id) : hall_lie(host, guest);
                        lie(host, "the guest", guest->id, connection, &letter);
                }
                offer(host, guest, connection);
        }
        agent_down(host->agent, guest->id, connection, PEERS_DOWN_RESET);
}

/* ---- Members that contradict themselves ---- */

static void member_contradicts(SimHost *host, const SimHost *other) {
        const RaftStatus *status = &host->agent->raft_status;
        uint64_t connection = net_connection(host, other), term = status->term;
        /* Who asked for votes in a higher one raised the core's term, and may never have led. */
        if (host->agent->follow.active)
                term = MIN(term, host->agent->follow.term);
        if (connection == 0 || !members_connection(host->agent, other->id) || term < 2)
                return;
        Letter letter = raft_lie(host, other->id);
        letter.raft.term = term - 1 - below(term - 1);
        letter.raft.log_index += 1000;
        if (letter.raft.n_entries > 0) {
                letter.raft.entries[0]->index = letter.raft.log_index + 1;
                letter.raft.entries[0]->term = letter.raft.term;
        }
        switch (below(4)) {
        case 0: /* entries, or a beat, of a term that is over */
                letter.raft.type = chance(5000) ? RAFT_APPEND : RAFT_BEAT;
                letter.raft.heal = 0;
                break;
        case 1: /* a candidate of one */
                letter.raft.type = RAFT_VOTE;
                letter.raft.n_entries = 0;
                break;
        case 2: /* what was said in one; but nothing that this host never promised */
                letter.raft.type = chance(5000) ? RAFT_APPEND_REPLY : RAFT_VOTE_REPLY;
                letter.raft.n_entries = 0;
                letter.raft.match = 0;
                letter.raft.refused = true;
                break;
        case 3: /* a tree that is older than this one */
                letter.kind = LETTER_FETCH;
                letter.promote = (LetterPromote){.term = status->term,
                                                 .index = below(host->agent->tree_status.applied + 1)};
                break;
        }
        lie(host, other->name, other->id, connection, &letter);
}

/* Another asks this host to vote than who it makes its base for: who leads next. */
bool guest_asks_too(SimHost *host, const SimHost *other) {
        uint64_t connection = net_connection(host, other);
        const Agent *agent = host->agent;
        if (connection == 0 || !members_connection(agent, other->id) ||
            other->id == agent->roles.promote_from)
                return false;
        Letter letter = {.kind = LETTER_PROMOTE,
                         .promote = {.term = MAX(agent->roles.promote_term, agent->follow.term) + 1,
                                     .index = agent->tree_status.applied}};
        note("%s: %s asks it to vote, too", host->name, other->name);
        lie(host, other->name, other->id, connection, &letter);
        return true;
}

static void lies(void *p, uint64_t a) {
        SimHost *host = world.hosts[below(world.n_hosts)], *other = world.hosts[below(world.n_hosts)];
        const Guest *guest = strangers_guest();
        at(world.now + between(200, 3000) * MSEC, lies, NULL, 0);
        if (!world.faults || !host_runs(host) || !host_is_in(host) || host->agent->failed != 0 ||
            !heal_may_touch(host->agent))
                return;
        if (guest && chance(5000))
                guest_lies(host, guest);
        else if (other != host)
                member_contradicts(host, other);
}

void guest_begin(void) {
        if (chance(5000))
                at(world.now + SEC, lies, NULL, 0);
}
