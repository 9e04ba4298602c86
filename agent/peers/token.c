/* Join tokens. As text, a token is "treaty1-" and base64url (RFC 4648, no padding) of
 *
 *      id 16 | secret 16 | cluster 16 | class u8 | n_addresses u8 | n_keys u8 |
 *      n_addresses times: length u16, bytes | n_keys times: 32 | CRC32C of all before, u32
 *
 * all little endian. Who reads the tree finds the public key only: the private one is derived from the
 * secret, which no host stores. */
#include "key.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <string.h>

#define TOKEN_PREFIX "treaty1-"
#define TOKEN_LABEL  "treaty join token v1" /* HKDF info */
#define JOIN_LABEL   "treaty join v1"       /* begins what is signed */
#define TOKEN_KEYS   ELEMENTSOF(((TokenText *)NULL)->keys)
#define TOKEN_FIXED  (TOKEN_ID_BYTES + TOKEN_SECRET_BYTES + 16 + 3)
#define TOKEN_BYTES \
        (TOKEN_FIXED + LIMIT_ADDRESSES * (2 + LIMIT_ADDRESS_BYTES) + TOKEN_KEYS * KEY_HASH_BYTES + 4)
#define SIGNED_BYTES (sizeof(JOIN_LABEL) - 1 + 16 + TOKEN_ID_BYTES + KEY_HASH_BYTES)

static_assert(sizeof(TOKEN_PREFIX) + (TOKEN_BYTES + 2) / 3 * 4 <= TOKEN_TEXT_BYTES, "a token fits its text");

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void base64url_write(char *to, const uint8_t *from, size_t size) {
        uint32_t bits = 0;
        unsigned n_bits = 0;
        for (size_t i = 0; i < size; i++) {
                bits = bits << 8 | from[i];
                for (n_bits += 8; n_bits >= 6; n_bits -= 6)
                        *to++ = alphabet[bits >> (n_bits - 6) & 63];
        }
        if (n_bits > 0)
                *to++ = alphabet[bits << (6 - n_bits) & 63];
        *to = 0;
}

/* Exactly one text means the same bytes: left-over bits have to be zero. */
static int base64url_read(const char *text, uint8_t *ret, size_t capacity, size_t *ret_size) {
        uint32_t bits = 0;
        unsigned n_bits = 0;
        size_t size = 0;
        for (; *text; text++) {
                const char *digit = strchr(alphabet, *text);
                if (!digit)
                        return -EBADMSG;
                bits = bits << 6 | (uint32_t)(digit - alphabet);
                n_bits += 6;
                if (n_bits < 8)
                        continue;
                if (size == capacity)
                        return -EBADMSG;
                n_bits -= 8;
                ret[size++] = (uint8_t)(bits >> n_bits);
        }
        if (n_bits >= 6 || (bits & ((1u << n_bits) - 1)) != 0)
                return -EBADMSG;
        *ret_size = size;
        return 0;
}

static bool token_is_sound(const TokenText *token) {
        if (token->class != MEMBER_FULL && token->class != MEMBER_LEAF)
                return false;
        if (token->n_addresses > LIMIT_ADDRESSES || token->n_keys > TOKEN_KEYS)
                return false;
        for (uint32_t i = 0; i < token->n_addresses; i++) {
                size_t size = strnlen(token->addresses[i], LIMIT_ADDRESS_BYTES + 1);
                if (size == 0 || size > LIMIT_ADDRESS_BYTES)
                        return false;
        }
        return true;
}

static uint8_t *put(uint8_t *to, const void *data, size_t size) {
        memcpy(to, data, size);
        return to + size;
}

int token_text_write(const TokenText *token, char to[static TOKEN_TEXT_BYTES]) {
        if (!token_is_sound(token))
                return -EINVAL;

        uint8_t bytes[TOKEN_BYTES], *p = bytes;
        p = put(p, token->id, TOKEN_ID_BYTES);
        p = put(p, token->secret, TOKEN_SECRET_BYTES);
        p = put(p, token->cluster, 16);
        *p++ = (uint8_t)token->class;
        *p++ = (uint8_t)token->n_addresses;
        *p++ = (uint8_t)token->n_keys;
        for (uint32_t i = 0; i < token->n_addresses; i++) {
                size_t size = strlen(token->addresses[i]);
                *p++ = (uint8_t)size;
                *p++ = (uint8_t)(size >> 8);
                p = put(p, token->addresses[i], size);
        }
        p = put(p, token->keys, token->n_keys * (size_t)KEY_HASH_BYTES);
        bytes_put_u32(p, crc32c(0, bytes, (size_t)(p - bytes)));
        p += 4;
        base64url_write(to + strlen(TOKEN_PREFIX), bytes, (size_t)(p - bytes));
        memcpy(to, TOKEN_PREFIX, strlen(TOKEN_PREFIX));
        explicit_bzero(bytes, sizeof(bytes));
        return 0;
}

/* Takes `size` bytes off the front, false when there are fewer. */
static bool get(Bytes *from, void *ret, size_t size) {
        if (from->size < size)
                return false;
        if (size > 0)
                memcpy(ret, from->data, size);
        *from = BYTES(from->data + size, from->size - size);
        return true;
}

static bool token_get_addresses(Bytes *from, TokenText *token) {
        for (uint32_t i = 0; i < token->n_addresses; i++) {
                uint8_t head[2];
                if (!get(from, head, 2))
                        return false;
                size_t size = head[0] | (size_t)head[1] << 8;
                if (size > LIMIT_ADDRESS_BYTES || !get(from, token->addresses[i], size))
                        return false;
                if (strlen(token->addresses[i]) != size)
                        return false;
        }
        return true;
}

int token_text_read(const char *text, TokenText *ret) {
        if (strncmp(text, TOKEN_PREFIX, strlen(TOKEN_PREFIX)) != 0)
                return -EBADMSG;

        uint8_t bytes[TOKEN_BYTES], head[3];
        size_t size;
        int r = base64url_read(text + strlen(TOKEN_PREFIX), bytes, sizeof(bytes), &size);
        if (r < 0)
                return r;
        if (size < TOKEN_FIXED + 4 || bytes_get_u32(bytes + size - 4) != crc32c(0, bytes, size - 4))
                return -EBADMSG;

        TokenText token = {};
        Bytes left = BYTES(bytes, size - 4);
        bool good = get(&left, token.id, sizeof(token.id)) &&
                    get(&left, token.secret, sizeof(token.secret)) &&
                    get(&left, token.cluster, sizeof(token.cluster)) && get(&left, head, sizeof(head));
        if (!good)
                return -EBADMSG;
        token.class = (MemberClass)head[0];
        token.n_addresses = head[1];
        token.n_keys = head[2];
        if (token.n_addresses > LIMIT_ADDRESSES || token.n_keys > TOKEN_KEYS ||
            !token_get_addresses(&left, &token) ||
            !get(&left, token.keys, token.n_keys * (size_t)KEY_HASH_BYTES) || left.size > 0 ||
            !token_is_sound(&token))
                return -EBADMSG;
        *ret = token;
        return 0;
}

static EVP_PKEY *token_private_key(const TokenText *token) {
        EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
        EVP_KDF_CTX *context = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
        uint8_t seed[32];
        OSSL_PARAM params[] = {
                OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 0),
                OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)token->secret,
                                                  TOKEN_SECRET_BYTES),
                OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)token->id, TOKEN_ID_BYTES),
                OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)TOKEN_LABEL,
                                                  strlen(TOKEN_LABEL)),
                OSSL_PARAM_construct_end(),
        };
        EVP_PKEY *pkey = NULL;
        if (context && EVP_KDF_derive(context, seed, sizeof(seed), params) == 1)
                pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, sizeof(seed));
        OPENSSL_cleanse(seed, sizeof(seed));
        EVP_KDF_CTX_free(context);
        EVP_KDF_free(kdf);
        return pkey;
}

int token_public_key(const TokenText *token, uint8_t ret[static TOKEN_PUBLIC_BYTES]) {
        EVP_PKEY *pkey = token_private_key(token);
        size_t size = TOKEN_PUBLIC_BYTES;
        bool good = pkey && EVP_PKEY_get_raw_public_key(pkey, ret, &size) == 1 && size == TOKEN_PUBLIC_BYTES;
        EVP_PKEY_free(pkey);
        return good ? 0 : -ENOMEM;
}

static void join_statement(uint8_t to[static SIGNED_BYTES], const uint8_t *cluster, const uint8_t *token_id,
                           const uint8_t *key_hash) {
        to = put(to, JOIN_LABEL, strlen(JOIN_LABEL));
        to = put(to, cluster, 16);
        to = put(to, token_id, TOKEN_ID_BYTES);
        put(to, key_hash, KEY_HASH_BYTES);
}

int token_sign(const TokenText *token, const uint8_t key_hash[static KEY_HASH_BYTES],
               uint8_t ret[static SIGNATURE_BYTES]) {
        uint8_t statement[SIGNED_BYTES];
        size_t size = SIGNATURE_BYTES;
        EVP_PKEY *pkey = token_private_key(token);
        EVP_MD_CTX *context = EVP_MD_CTX_new();

        join_statement(statement, token->cluster, token->id, key_hash);
        bool good = pkey && context && EVP_DigestSignInit(context, NULL, NULL, NULL, pkey) == 1 &&
                    EVP_DigestSign(context, ret, &size, statement, sizeof(statement)) == 1 &&
                    size == SIGNATURE_BYTES;
        EVP_MD_CTX_free(context);
        EVP_PKEY_free(pkey);
        return good ? 0 : -ENOMEM;
}

bool token_signature_valid(const uint8_t public_key[static TOKEN_PUBLIC_BYTES],
                           const uint8_t cluster[static 16], const uint8_t token_id[static TOKEN_ID_BYTES],
                           const uint8_t key_hash[static KEY_HASH_BYTES], Bytes signature) {
        if (signature.size != SIGNATURE_BYTES)
                return false;

        uint8_t statement[SIGNED_BYTES];
        EVP_PKEY *pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, TOKEN_PUBLIC_BYTES);
        EVP_MD_CTX *context = EVP_MD_CTX_new();

        join_statement(statement, cluster, token_id, key_hash);
        bool good =
                pkey && context && EVP_DigestVerifyInit(context, NULL, NULL, NULL, pkey) == 1 &&
                EVP_DigestVerify(context, signature.data, signature.size, statement, sizeof(statement)) == 1;
        EVP_MD_CTX_free(context);
        EVP_PKEY_free(pkey);
        return good;
}
