/* Members: who may speak to a peer at all, by the hash of its key. An id that was removed never comes back:
 * its last requests may still be in flight, and entries of the log name hosts by id. */
#include "internal.h"

#include <string.h>

/* ---- Bytes ----
 *
 *      u8 class | u32 version | u8 n, name | u8 n addresses, each u16 n, text | u8 n keys, 32 bytes each */

#define MEMBER_BYTES_MAX \
        (8 + LIMIT_NAME_BYTES + LIMIT_ADDRESSES * (2 + LIMIT_ADDRESS_BYTES) + LIMIT_KEYS * KEY_HASH_BYTES)

static size_t member_encode(const Member *member, uint8_t to[static MEMBER_BYTES_MAX]) {
        uint8_t *p = to;
        *p++ = (uint8_t)member->class;
        bytes_put_u32(p, member->version);
        p += 4;
        size_t n = strlen(member->name);
        *p++ = (uint8_t)n;
        memcpy(p, member->name, n);
        p += n;
        *p++ = (uint8_t)member->n_addresses;
        for (uint32_t i = 0; i < member->n_addresses; i++) {
                n = strlen(member->addresses[i]);
                *p++ = (uint8_t)n;
                *p++ = (uint8_t)(n >> 8);
                memcpy(p, member->addresses[i], n);
                p += n;
        }
        *p++ = (uint8_t)member->n_keys;
        memcpy(p, member->keys, member->n_keys * KEY_HASH_BYTES);
        p += member->n_keys * KEY_HASH_BYTES;
        return (size_t)(p - to);
}

static bool take(Bytes *from, void *to, size_t n) {
        if (from->size < n)
                return false;
        memcpy(to, from->data, n);
        *from = BYTES(from->data + n, from->size - n);
        return true;
}

static bool take_text(Bytes *from, char *to, size_t n, size_t max) {
        if (n > max || !take(from, to, n))
                return false;
        to[n] = 0;
        return strlen(to) == n;
}

static bool member_parse(Bytes body, Member *member) {
        uint8_t class, name_size, n_addresses, n_keys, number[4];
        if (!take(&body, &class, 1) || !take(&body, number, 4) || !take(&body, &name_size, 1))
                return false;
        member->class = class;
        member->version = bytes_get_u32(number);
        if (!take_text(&body, member->name, name_size, LIMIT_NAME_BYTES) || !take(&body, &n_addresses, 1) ||
            n_addresses > LIMIT_ADDRESSES)
                return false;
        member->n_addresses = n_addresses;
        for (uint32_t i = 0; i < n_addresses; i++)
                if (!take(&body, number, 2) ||
                    !take_text(&body, member->addresses[i], number[0] | (size_t)number[1] << 8,
                               LIMIT_ADDRESS_BYTES))
                        return false;
        if (!take(&body, &n_keys, 1) || n_keys > LIMIT_KEYS)
                return false;
        member->n_keys = n_keys;
        return take(&body, member->keys, (size_t)n_keys * KEY_HASH_BYTES) && body.size == 0;
}

static bool text_ends(const char *text, size_t max) {
        return strnlen(text, max + 1) <= max;
}

bool member_is_valid(const Member *member) {
        if (member->id == 0 || (member->class != MEMBER_FULL && member->class != MEMBER_LEAF))
                return false;
        if (!text_ends(member->name, LIMIT_NAME_BYTES) || !name_is_valid(member->name))
                return false;
        if (member->n_addresses > LIMIT_ADDRESSES || member->n_keys == 0 || member->n_keys > LIMIT_KEYS)
                return false;
        for (uint32_t i = 0; i < member->n_addresses; i++) {
                const char *a = member->addresses[i];
                if (!text_ends(a, LIMIT_ADDRESS_BYTES) || !*a || !utf8_is_valid(a, strlen(a)))
                        return false;
        }
        return true;
}

int member_decode(Bytes key, Bytes body, Member *ret) {
        *ret = (Member){};
        if (key.size != 8 || !member_parse(body, ret))
                return TREE_ROTTEN;
        ret->id = key_read(key.data);
        return member_is_valid(ret) ? 0 : TREE_ROTTEN;
}

int member_store(Tree *tree, const Member *member) {
        uint8_t key[8], body[MEMBER_BYTES_MAX];
        assert(member_is_valid(member));
        key_write(key, member->id);
        members_forget(tree);
        return record_put(tree, RECORD_MEMBER, BYTES(key, 8), BYTES(body, member_encode(member, body)));
}

int member_index(Tree *tree, const Member *member) {
        int r = index_put(tree, INDEX_NAME, BYTES(member->name, strlen(member->name)), member->id);
        for (uint32_t i = 0; r == 0 && i < member->n_keys; i++)
                r = index_put(tree, INDEX_KEY, BYTES(member->keys[i], KEY_HASH_BYTES), member->id);
        return r;
}

static int member_unindex(Tree *tree, const Member *member) {
        int r = index_delete(tree, INDEX_NAME, BYTES(member->name, strlen(member->name)));
        for (uint32_t i = 0; r == 0 && i < member->n_keys; i++)
                r = index_delete(tree, INDEX_KEY, BYTES(member->keys[i], KEY_HASH_BYTES));
        return r;
}

/* ---- Reading ---- */

int tree_member(Tree *tree, uint64_t id, Member *ret) {
        uint8_t key[8];
        Bytes body;
        key_write(key, id);
        int r = record_get(tree, RECORD_MEMBER, BYTES(key, 8), &body);
        return r != 0 ? r : member_decode(BYTES(key, 8), body, ret);
}

/* The question of every entry: is its host a member, and of which class? */
int member_class(Tree *tree, uint64_t id, MemberClass *ret) {
        size_t slot = (size_t)(id % MEMBER_SLOTS);
        if (id != 0 && tree->members[slot].id == id) {
                *ret = tree->members[slot].class;
                return 0;
        }
        Member member;
        int r = tree_member(tree, id, &member);
        if (r != 0)
                return r;
        tree->members[slot].id = id;
        tree->members[slot].class = *ret = member.class;
        return 0;
}

void members_forget(Tree *tree) {
        memset(tree->members, 0, sizeof(tree->members));
}

static bool member_has_key(const Member *member, const uint8_t *key) {
        for (uint32_t i = 0; i < member->n_keys; i++)
                if (memcmp(member->keys[i], key, KEY_HASH_BYTES) == 0)
                        return true;
        return false;
}

/* The index only says where to look: the member itself has to bear the key. */
int tree_member_by_key(Tree *tree, const uint8_t key[static KEY_HASH_BYTES], Member *ret) {
        uint64_t id;
        int r = index_get(tree, INDEX_KEY, BYTES(key, KEY_HASH_BYTES), &id);
        if (r != 0)
                return r;
        r = tree_member(tree, id, ret);
        if (r != 0)
                return r == TREE_NONE ? TREE_ROTTEN : r;
        return member_has_key(ret, key) ? 0 : TREE_ROTTEN;
}

int tree_member_by_name(Tree *tree, const char *name, Member *ret) {
        uint64_t id;
        int r = index_get(tree, INDEX_NAME, BYTES(name, strlen(name)), &id);
        if (r != 0)
                return r;
        r = tree_member(tree, id, ret);
        if (r != 0)
                return r == TREE_NONE ? TREE_ROTTEN : r;
        return strcmp(ret->name, name) == 0 ? 0 : TREE_ROTTEN;
}

/* For the scrub: do the indexes know this member? */
int member_check_index(Tree *tree, const Member *member) {
        Member found;
        int r = tree_member_by_name(tree, member->name, &found);
        if (r == 0 && found.id != member->id)
                r = TREE_ROTTEN;
        for (uint32_t i = 0; r == 0 && i < member->n_keys; i++) {
                r = tree_member_by_key(tree, member->keys[i], &found);
                if (r == 0 && found.id != member->id)
                        r = TREE_ROTTEN;
        }
        return r == TREE_NONE ? TREE_ROTTEN : r;
}

typedef struct MemberVisit {
        int (*each)(const Member *member, void *userdata);
        void *userdata;
        int stopped;
} MemberVisit;

static int member_visit(RecordKind kind, Bytes key, Bytes body, void *userdata) {
        MemberVisit *visit = userdata;
        Member member;
        int r = member_decode(key, body, &member);
        if (r != 0)
                return r;
        visit->stopped = visit->each(&member, visit->userdata);
        return visit->stopped != 0 ? TREE_NONE : 0;
}

int tree_members(Tree *tree, int (*each)(const Member *member, void *userdata), void *userdata) {
        MemberVisit visit = {.each = each, .userdata = userdata};
        int r = record_each(tree, RECORD_MEMBER, BYTES("", 0), member_visit, &visit);
        return r != 0 ? r : MIN(visit.stopped, 0);
}

static int member_gone(Tree *tree, uint64_t id) { /* 0, TREE_NONE */
        uint8_t key[8];
        Bytes body;
        key_write(key, id);
        return record_get(tree, RECORD_GONE, BYTES(key, 8), &body);
}

bool tree_member_removed(Tree *tree, uint64_t id) {
        return member_gone(tree, id) == 0;
}

/* A leaf's place: /hosts/NAME, /services/X/NAME and /services/X/NAME:PORT, and all below them. */
bool leaf_may_write(const char *name, const char *path) {
        static const char hosts[] = "/hosts/", services[] = "/services/";
        size_t n = strlen(name);
        const char *rest;
        bool port = false;

        if (strncmp(path, hosts, sizeof(hosts) - 1) == 0)
                rest = path + sizeof(hosts) - 1;
        else if (strncmp(path, services, sizeof(services) - 1) == 0) {
                rest = strchr(path + sizeof(services) - 1, '/');
                if (!rest)
                        return false;
                rest++;
                port = true;
        } else
                return false;

        if (strncmp(rest, name, n) != 0)
                return false;
        rest += n;
        if (port && *rest == ':') {
                size_t digits = strspn(rest + 1, "0123456789");
                if (digits == 0)
                        return false;
                rest += 1 + digits;
        }
        return *rest == 0 || *rest == '/';
}

/* ---- Commands ---- */

/* Does the name, or one of the keys, belong to another member? RESULT_DONE: no. Whoever the index names is
 * asked himself: a rotten one would refuse here what all others apply. */
static int member_clashes(Tree *tree, const Member *member, ResultStatus *ret) {
        Member other;
        int r = tree_member_by_name(tree, member->name, &other);
        if (r == 0 && other.id != member->id) {
                *ret = RESULT_NAME_TAKEN;
                return 0;
        }
        for (uint32_t i = 0; (r == 0 || r == TREE_NONE) && i < member->n_keys; i++) {
                r = tree_member_by_key(tree, member->keys[i], &other);
                if (r == 0 && other.id != member->id) {
                        *ret = RESULT_INVALID;
                        return 0;
                }
        }
        *ret = RESULT_DONE;
        return r == TREE_NONE ? 0 : r;
}

static int token_use(Tree *tree, Token *token) {
        token->uses_left--;
        if (token->uses_left == 0)
                return record_delete(tree, RECORD_TOKEN, BYTES(token->id, TOKEN_ID_BYTES));
        return token_store(tree, token);
}

/* The order of the questions matters: a joiner that asks again after an answer was lost hears "yes",
 * whatever became of the token. */
static int add_judge(Apply *apply, Token *token, ResultStatus *ret) {
        Tree *tree = apply->tree;
        const Member *member = apply->command->member;
        uint64_t n;

        *ret = RESULT_INVALID;
        int r = member_gone(tree, member->id);
        if (r != TREE_NONE)
                return r;
        Member there;
        r = tree_member(tree, member->id, &there);
        if (r != TREE_NONE)
                return r;

        r = tree_token(tree, apply->command->token->id, token);
        if (r == TREE_NONE) {
                *ret = RESULT_TOKEN_UNKNOWN;
                return 0;
        }
        if (r != 0)
                return r;
        if (token->expires_cluster_usec <= tree->meta.cluster_usec) {
                *ret = RESULT_TOKEN_EXPIRED;
                return 0;
        }
        if (!apply->signature_valid) {
                *ret = RESULT_SIGNATURE_WRONG;
                return 0;
        }
        r = member_clashes(tree, member, ret);
        if (r != 0 || *ret != RESULT_DONE)
                return r;
        r = record_count(tree, RECORD_MEMBER, &n);
        if (r == 0 && n >= LIMIT_MEMBERS)
                *ret = RESULT_LIMIT;
        return r;
}

int apply_add_member(Apply *apply) {
        Tree *tree = apply->tree;
        const Command *command = apply->command;
        ResultStatus *status = &apply->result.status;
        if (apply->class == MEMBER_LEAF) {
                *status = RESULT_DENIED;
                return 0;
        }
        *status = RESULT_INVALID;
        if (!command->member || !command->token)
                return 0;
        Member member = *command->member;
        member.class = MEMBER_FULL; /* for the judgement: the token decides it */
        if (!member_is_valid(&member))
                return 0;

        Member there;
        for (uint32_t i = 0; i < member.n_keys; i++) {
                int r = tree_member_by_key(tree, member.keys[i], &there);
                if (r == 0)
                        *status = RESULT_DONE;
                if (r != TREE_NONE)
                        return r;
        }
        Token token;
        int r = add_judge(apply, &token, status);
        if (r != 0 || *status != RESULT_DONE)
                return r;
        member.class = token.class;
        r = token_use(tree, &token);
        if (r == 0)
                r = member_store(tree, &member);
        return r != 0 ? r : member_index(tree, &member);
}

int apply_remove_member(Apply *apply) {
        Tree *tree = apply->tree;
        uint64_t id = apply->command->subject;
        Member member;
        if (apply->class == MEMBER_LEAF && id != apply->command->host) {
                apply->result.status = RESULT_DENIED;
                return 0;
        }
        int r = tree_member(tree, id, &member);
        if (r == TREE_NONE) {
                apply->result.status = RESULT_NO_MEMBER;
                return 0;
        }
        if (r != 0)
                return r;
        if (conf_is_voter(&tree->meta.conf, id)) {
                apply->result.status = RESULT_LAST_VOTER;
                return 0;
        }

        uint8_t key[8], when[8];
        key_write(key, id);
        bytes_put_u64(when, tree->meta.cluster_usec);
        members_forget(tree);
        r = entries_end_owned(apply, id);
        if (r == 0)
                r = record_delete(tree, RECORD_SESSION, BYTES(key, 8));
        if (r == 0)
                r = member_unindex(tree, &member);
        if (r == 0)
                r = record_delete(tree, RECORD_MEMBER, BYTES(key, 8));
        if (r == 0)
                r = record_put(tree, RECORD_GONE, BYTES(key, 8), BYTES(when, 8));
        return r != 0 ? r : requests_end(tree, id);
}

/* A member's own name, addresses, keys and version. Its class is what its token said; and a leaf's name is
 * its place in the tree, so it keeps it. */
int apply_update_member(Apply *apply) {
        Tree *tree = apply->tree;
        const Command *command = apply->command;
        ResultStatus *status = &apply->result.status;
        *status = RESULT_INVALID;
        if (!command->member)
                return 0;
        if (command->member->id != command->host) {
                *status = RESULT_DENIED;
                return 0;
        }
        Member before, after = *command->member;
        int r = tree_member(tree, command->host, &before);
        if (r != 0)
                return r == TREE_NONE ? TREE_ROTTEN : r;
        after.class = before.class;
        if (!member_is_valid(&after))
                return 0;
        if (after.class == MEMBER_LEAF && strcmp(before.name, after.name) != 0) {
                *status = RESULT_DENIED;
                return 0;
        }
        r = member_clashes(tree, &after, status);
        if (r != 0 || *status != RESULT_DONE)
                return r;
        r = member_unindex(tree, &before);
        if (r == 0)
                r = member_store(tree, &after);
        return r != 0 ? r : member_index(tree, &after);
}
