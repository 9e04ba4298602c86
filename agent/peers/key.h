/* A host's key and certificate (made once, Ed25519, self-signed, dates from 1970 to 9999 because nothing
 * looks at them), and join tokens. Files host.key and host.crt, 0600, in the state directory; durable before
 * first use. */
#pragma once

#include "../base/command.h"

typedef struct Key Key;

int key_load_or_create(Key **ret,
                       const char *directory); /* 0, -EBADMSG (files do not fit each other), -errno */
Key *key_free(Key *key);
DEFINE_CLEANUP(Key *, key_free);
const uint8_t *key_hash(const Key *key); /* KEY_HASH_BYTES */

/* For TLS (EVP_PKEY, X509 of OpenSSL); they stay the key's. */
struct evp_pkey_st *key_pkey(const Key *key);
struct x509_st *key_certificate(const Key *key);
int key_hash_of(const struct x509_st *certificate, uint8_t ret[static KEY_HASH_BYTES]); /* 0, -EBADMSG */

/* A token as text: "treaty1-<base64url of all below>". Whoever has it may join until it expires or is used
 * up. */
#define TOKEN_SECRET_BYTES 16
#define TOKEN_TEXT_BYTES   4096

typedef struct TokenText {
        uint8_t id[TOKEN_ID_BYTES];
        uint8_t secret[TOKEN_SECRET_BYTES];
        uint8_t cluster[16];
        MemberClass class;
        uint32_t n_addresses;
        char addresses[LIMIT_ADDRESSES][LIMIT_ADDRESS_BYTES + 1];
        uint32_t n_keys; /* of the members there */
        uint8_t keys[16][KEY_HASH_BYTES];
} TokenText;

int token_text_write(const TokenText *token, char to[static TOKEN_TEXT_BYTES]);
int token_text_read(const char *text, TokenText *ret); /* 0, -EBADMSG (not a token, cut short, checksum) */
/* The Ed25519 key pair derived from the secret (HKDF-SHA256); the tree holds the public half. */
int token_public_key(const TokenText *token, uint8_t ret[static TOKEN_PUBLIC_BYTES]);
int token_sign(const TokenText *token, const uint8_t key_hash[static KEY_HASH_BYTES],
               uint8_t ret[static SIGNATURE_BYTES]);
/* Pure: at apply. Signature over ("treaty join v1", cluster, token id, key hash). */
bool token_signature_valid(const uint8_t public_key[static TOKEN_PUBLIC_BYTES],
                           const uint8_t cluster[static 16], const uint8_t token_id[static TOKEN_ID_BYTES],
                           const uint8_t key_hash[static KEY_HASH_BYTES], Bytes signature);
