/* Strangers at the door. Whoever is no member may call Join and nothing else, and gets in by a good token
 * only: once, in time, with his own key, as nobody who is there already. Here come those who have something
 * else: a forged signature, one that was made for another key, a token that was taken back, has expired or
 * is used up, a name or an id that is somebody's. None of them may be told yes, and none may be found among
 * the members.
 *
 * One comes as a guest: a leaf, with a token of its own that lets one in. It stays, and lies (guest.c). */
#include "agent/peers/key.h"
#include "sim.h"

#include <stdio.h>
#include <string.h>

typedef enum Ruse {
        RUSE_FORGED,   /* a signature of nobody */
        RUSE_BORROWED, /* a signature for another key */
        RUSE_REVOKED,
        RUSE_EXPIRED,
        RUSE_USED_UP,
        RUSE_OTHERS_ID,
        RUSE_OTHERS_NAME,
        RUSE_NOISE, /* no request at all */
        _RUSE_MAX,
} Ruse;

typedef struct Spent { /* a token that is of no use any more; or will be */
        char text[TOKEN_TEXT_BYTES];
        bool asked, made, ready;
        uint64_t over_usec; /* cluster time at which it has expired */
        SimHost *maker;
} Spent;

static Spent revoked, expired, single;
static Guest guest;
static unsigned n_calls;

Guest *strangers_guest(void) {
        return guest.in ? &guest : NULL;
}

static SimHost *any_door(void) {
        for (unsigned n = 0; n < 6; n++) {
                SimHost *host = world.hosts[below(world.n_hosts)];
                if (host_runs(host) && host_is_in(host) && !host->touched && !host->leaving)
                        return host;
        }
        return NULL;
}

static void draw_bytes(uint8_t *to, size_t n) {
        for (size_t i = 0; i < n; i++)
                to[i] = (uint8_t)below(256);
}

/* ---- Tokens ---- */

static void token_revoked(const RequestAnswer *answer, void *userdata) {
        revoked.ready = answer->answer == ANSWER_DONE;
        revoked.asked = revoked.ready;
}

static void token_made(const RequestAnswer *answer, const char *token, void *userdata) {
        Spent *spent = userdata;
        spent->asked = spent->made = answer->answer == ANSWER_DONE;
        if (!spent->made)
                return;
        snprintf(spent->text, sizeof(spent->text), "%s", token);
        spent->over_usec = spent->maker->agent->tree_status.cluster_usec + SEC;
        if (spent == &revoked && agent_revoke(spent->maker->agent, spent->text, token_revoked, NULL) < 0)
                spent->asked = false;
}

static void make_token(Spent *spent, uint64_t lifetime_usec, MemberClass class) {
        TokenRequest request = {.lifetime_usec = lifetime_usec, .uses = 1, .class = class};
        SimHost *host = any_door();
        if (spent->asked || !host)
                return;
        *spent = (Spent){.maker = host};
        spent->asked = agent_token(host->agent, &request, token_made, spent) == 0;
}

/* ---- Calls ---- */

typedef struct Attempt {
        Ruse ruse;
        bool legitimate; /* the guest's own */
        SimHost *door;
        uint8_t key[KEY_HASH_BYTES];
} Attempt;

static void answered(PeersCall *call, Bytes bytes, void *userdata) {
        Attempt *attempt = userdata;
        JoinReply reply;
        if (wire_join_reply_decode(bytes, &reply) < 0)
                broken("%s: a stranger is answered with noise", attempt->door->name);
        note("%s: a stranger (%d) is told %d: %s", attempt->door->name, attempt->ruse, reply.status,
             reply.message);
        if (reply.status == RESULT_DONE && !attempt->legitimate && !attempt->door->touched)
                broken("%s: a stranger who comes with ruse %d is told that he is a member",
                       attempt->door->name, attempt->ruse);
        if (reply.status == RESULT_DONE && attempt->legitimate)
                guest.in = true, guest.id = reply.host;
        wire_join_reply_done(&reply);
}

static void call(Attempt attempt, Bytes bytes) {
        Attempt *kept = calloc(1, sizeof(Attempt)); /* as long as the run: who is not answered stays away */
        assert(kept);
        *kept = attempt;
        n_calls++;
        net_stranger(kept->door, kept->key, bytes, answered, kept);
}

static void knock(Attempt attempt, const JoinRequest *request) {
        _cleanup_(buffer_deinit) Buffer bytes = {};
        int r = wire_join_request_encode(request, &bytes);
        assert(r == 0);
        call(attempt, BYTES(bytes.data, bytes.size));
}

/* A request by this token that would be right. */
static bool write_request(const char *token, const uint8_t key[static KEY_HASH_BYTES], JoinRequest *ret) {
        TokenText text;
        if (!token[0] || token_text_read(token, &text) < 0)
                return false;
        *ret = (JoinRequest){.member = {.id = below(UINT64_MAX - 1) + 1, .n_keys = 1, .version = 1}};
        memcpy(ret->token_id, text.id, sizeof(text.id));
        memcpy(ret->cluster, text.cluster, sizeof(text.cluster));
        memcpy(ret->member.keys[0], key, KEY_HASH_BYTES);
        ret->member.class = MEMBER_FULL;
        snprintf(ret->member.name, sizeof(ret->member.name), "stranger%u", n_calls);
        ret->member.n_addresses = 1;
        snprintf(ret->member.addresses[0], sizeof(ret->member.addresses[0]), "nowhere:7707");
        return token_sign(&text, key, ret->signature) >= 0;
}

static void comes_as(Ruse ruse, SimHost *door) {
        Attempt attempt = {.ruse = ruse, .door = door};
        JoinRequest request;
        SimHost *other = world.hosts[below(world.n_hosts)];
        const char *token = ruse == RUSE_REVOKED   ? (revoked.ready ? revoked.text : "")
                            : ruse == RUSE_USED_UP ? (guest.in ? single.text : "")
                            : ruse == RUSE_EXPIRED ? expired.text
                                                   : world.token;
        draw_bytes(attempt.key, sizeof(attempt.key));
        if (ruse == RUSE_EXPIRED &&
            (!expired.made || door->agent->tree_status.cluster_usec <= expired.over_usec))
                return;
        if (!write_request(token, attempt.key, &request))
                return;
        switch (ruse) {
        case RUSE_FORGED:
                draw_bytes(request.signature, sizeof(request.signature));
                break;
        case RUSE_BORROWED:
                draw_bytes(attempt.key, sizeof(attempt.key));
                if (chance(5000)) /* and says that it is his */
                        memcpy(request.member.keys[0], attempt.key, KEY_HASH_BYTES);
                break;
        case RUSE_OTHERS_ID:
                if (other->id == 0 || !host_is_in(other))
                        return;
                request.member.id = other->id;
                break;
        case RUSE_OTHERS_NAME:
                if (other->leaving || other->asked_to_go || !host_is_in(other))
                        return; /* the name may be free */
                other->borrowed_usec = world.now;
                snprintf(request.member.name, sizeof(request.member.name), "%s", other->name);
                break;
        case RUSE_NOISE: {
                uint8_t noise[200];
                draw_bytes(noise, sizeof(noise));
                call(attempt, BYTES(noise, below(sizeof(noise))));
                return;
        }
        case RUSE_REVOKED:
        case RUSE_EXPIRED:
        case RUSE_USED_UP:
        case _RUSE_MAX:
                break;
        }
        knock(attempt, &request);
}

static void guest_comes(SimHost *door) {
        Attempt attempt = {.legitimate = true, .door = door};
        JoinRequest request;
        if (guest.in || !single.made)
                return;
        if (!guest.asked)
                draw_bytes(guest.key, sizeof(guest.key));
        memcpy(attempt.key, guest.key, sizeof(guest.key));
        if (!write_request(single.text, guest.key, &request))
                return;
        guest.asked = true;
        if (guest.id == 0)
                guest.id = request.member.id;
        request.member.id = guest.id;
        snprintf(request.member.name, sizeof(request.member.name), "guest");
        knock(attempt, &request);
}

static void come(void *p, uint64_t a) {
        SimHost *door = any_door();
        at(world.now + between(1, 20) * SEC, come, NULL, 0);
        if (!world.faults || !door)
                return;
        make_token(&revoked, 3600 * SEC, MEMBER_FULL);
        make_token(&expired, SEC, MEMBER_FULL);
        make_token(&single, 100 * 3600 * SEC, MEMBER_LEAF);
        guest_comes(door);
        comes_as((Ruse)below(_RUSE_MAX), door);
}

void strangers_begin(void) {
        if (chance(5000))
                at(world.now + between(1, 20) * SEC, come, NULL, 0);
}

/* ---- The end ---- */

static int is_known(const Member *member, void *userdata) {
        const SimHost *host = userdata;
        if (memcmp(member->keys[0], guest.key, KEY_HASH_BYTES) == 0) {
                if (member->class != MEMBER_LEAF || strcmp(member->name, "guest") != 0)
                        broken("%s: the guest is %s, of class %d", host->name, member->name, member->class);
                return 0;
        }
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (memcmp(member->keys[0], world.hosts[i]->key, KEY_HASH_BYTES) == 0 &&
                    member->id == world.hosts[i]->id && strcmp(member->name, world.hosts[i]->name) == 0)
                        return 0;
        broken("%s: %s (%016llx) is a member, and nobody let it in", host->name, member->name,
               (unsigned long long)member->id);
}

void strangers_final(void) {
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (host_is_in(world.hosts[i]))
                        (void)tree_members(world.hosts[i]->agent->tree, is_known, world.hosts[i]);
        note("%u calls of strangers", n_calls);
}
