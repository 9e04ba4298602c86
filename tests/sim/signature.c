/* Whether a signature is good depends on nothing but what is asked; all hosts ask the same, again and again.
 * OpenSSL is asked once. */
#include "sim.h"

#include <string.h>

#include "agent/peers/peers.h"

#define ANSWERS 64

typedef struct Question {
        uint8_t public_key[TOKEN_PUBLIC_BYTES], cluster[16], token_id[TOKEN_ID_BYTES],
                key_hash[KEY_HASH_BYTES];
        uint8_t signature[SIGNATURE_BYTES];
} Question;

static Question asked[ANSWERS];
static bool answers[ANSWERS];
static unsigned n_asked;

bool __real_token_signature_valid(const uint8_t public_key[static TOKEN_PUBLIC_BYTES],
                                  const uint8_t cluster[static 16],
                                  const uint8_t token_id[static TOKEN_ID_BYTES],
                                  const uint8_t key_hash[static KEY_HASH_BYTES], Bytes signature);
bool __wrap_token_signature_valid(const uint8_t public_key[static TOKEN_PUBLIC_BYTES],
                                  const uint8_t cluster[static 16],
                                  const uint8_t token_id[static TOKEN_ID_BYTES],
                                  const uint8_t key_hash[static KEY_HASH_BYTES], Bytes signature);

bool __wrap_token_signature_valid(const uint8_t public_key[static TOKEN_PUBLIC_BYTES],
                                  const uint8_t cluster[static 16],
                                  const uint8_t token_id[static TOKEN_ID_BYTES],
                                  const uint8_t key_hash[static KEY_HASH_BYTES], Bytes signature) {
        if (signature.size != SIGNATURE_BYTES)
                return __real_token_signature_valid(public_key, cluster, token_id, key_hash, signature);
        Question question;
        memcpy(question.public_key, public_key, sizeof(question.public_key));
        memcpy(question.cluster, cluster, sizeof(question.cluster));
        memcpy(question.token_id, token_id, sizeof(question.token_id));
        memcpy(question.key_hash, key_hash, sizeof(question.key_hash));
        memcpy(question.signature, signature.data, sizeof(question.signature));

        for (unsigned i = 0; i < MIN(n_asked, ANSWERS); i++)
                if (memcmp(&asked[i], &question, sizeof(question)) == 0)
                        return answers[i];
        unsigned i = n_asked++ % ANSWERS;
        asked[i] = question;
        return answers[i] = __real_token_signature_valid(public_key, cluster, token_id, key_hash, signature);
}
