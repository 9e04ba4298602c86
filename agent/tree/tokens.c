/* Join tokens: the public half of a key pair that is derived from the token's secret, how often it may still
 * be used, and until when by the cluster's own time. A token that is used up or expired is gone. */
#include "internal.h"

#include <string.h>

#define TOKEN_BYTES (TOKEN_PUBLIC_BYTES + 13) /* public key | u8 class | u32 uses left | u64 expires */

int token_decode(Bytes key, Bytes body, Token *ret) {
        if (key.size != TOKEN_ID_BYTES || body.size != TOKEN_BYTES)
                return TREE_ROTTEN;
        const uint8_t *p = body.data + TOKEN_PUBLIC_BYTES;
        Token token = {
                .class = p[0],
                .uses_left = bytes_get_u32(p + 1),
                .expires_cluster_usec = bytes_get_u64(p + 5),
        };
        if ((token.class != MEMBER_FULL && token.class != MEMBER_LEAF) || token.uses_left == 0)
                return TREE_ROTTEN;
        memcpy(token.id, key.data, TOKEN_ID_BYTES);
        memcpy(token.public_key, body.data, TOKEN_PUBLIC_BYTES);
        *ret = token;
        return 0;
}

int token_store(Tree *tree, const Token *token) {
        uint8_t body[TOKEN_BYTES];
        memcpy(body, token->public_key, TOKEN_PUBLIC_BYTES);
        body[TOKEN_PUBLIC_BYTES] = (uint8_t)token->class;
        bytes_put_u32(body + TOKEN_PUBLIC_BYTES + 1, token->uses_left);
        bytes_put_u64(body + TOKEN_PUBLIC_BYTES + 5, token->expires_cluster_usec);
        return record_put(tree, RECORD_TOKEN, BYTES(token->id, TOKEN_ID_BYTES), BYTES(body, sizeof(body)));
}

int tree_token(Tree *tree, const uint8_t id[static TOKEN_ID_BYTES], Token *ret) {
        Bytes body;
        int r = record_get(tree, RECORD_TOKEN, BYTES(id, TOKEN_ID_BYTES), &body);
        return r != 0 ? r : token_decode(BYTES(id, TOKEN_ID_BYTES), body, ret);
}

/* ---- Expired ones go when another is added ---- */

typedef struct Expired {
        uint64_t now;
        uint8_t ids[LIMIT_TOKENS][TOKEN_ID_BYTES];
        size_t n;
} Expired;

static int expired_note(RecordKind kind, Bytes key, Bytes body, void *userdata) {
        Expired *expired = userdata;
        Token token;
        int r = token_decode(key, body, &token);
        if (r != 0)
                return r;
        if (token.expires_cluster_usec <= expired->now && expired->n < LIMIT_TOKENS)
                memcpy(expired->ids[expired->n++], token.id, TOKEN_ID_BYTES);
        return 0;
}

static int tokens_expire(Tree *tree) {
        Expired expired = {.now = tree->meta.cluster_usec};
        int r = record_each(tree, RECORD_TOKEN, BYTES("", 0), expired_note, &expired);
        for (size_t i = 0; r == 0 && i < expired.n; i++)
                r = record_delete(tree, RECORD_TOKEN, BYTES(expired.ids[i], TOKEN_ID_BYTES));
        return r;
}

int apply_add_token(Apply *apply) {
        Tree *tree = apply->tree;
        const Token *token = apply->command->token;
        if (apply->class == MEMBER_LEAF) {
                apply->result.status = RESULT_DENIED;
                return 0;
        }
        if (!token || token->uses_left == 0 ||
            (token->class != MEMBER_FULL && token->class != MEMBER_LEAF)) {
                apply->result.status = RESULT_INVALID;
                return 0;
        }
        int r = tokens_expire(tree);
        if (r != 0)
                return r;

        Token there;
        r = tree_token(tree, token->id, &there);
        if (r != TREE_NONE) {
                apply->result.status = RESULT_EXISTS;
                return r;
        }
        uint64_t n;
        r = record_count(tree, RECORD_TOKEN, &n);
        if (r != 0)
                return r;
        if (n >= LIMIT_TOKENS) {
                apply->result.status = RESULT_LIMIT;
                return 0;
        }
        Token added = *token;
        uint64_t now = tree->meta.cluster_usec, lifetime = token->expires_cluster_usec;
        added.expires_cluster_usec = lifetime > USEC_INFINITY - now ? USEC_INFINITY : now + lifetime;
        return token_store(tree, &added);
}

int apply_remove_token(Apply *apply) {
        const Token *token = apply->command->token;
        Token there;
        if (apply->class == MEMBER_LEAF) {
                apply->result.status = RESULT_DENIED;
                return 0;
        }
        if (!token) {
                apply->result.status = RESULT_INVALID;
                return 0;
        }
        int r = tree_token(apply->tree, token->id, &there);
        if (r == TREE_NONE) {
                apply->result.status = RESULT_TOKEN_UNKNOWN;
                return 0;
        }
        return r != 0 ? r : record_delete(apply->tree, RECORD_TOKEN, BYTES(token->id, TOKEN_ID_BYTES));
}
