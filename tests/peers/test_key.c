/* Shows that a host's key is made once, survives, and is refused when its files do not fit; that a token's
 * text comes back as it went, whole or not at all; and what a join signature covers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agent/base/random.h"
#include "agent/peers/key.h"

/* Of id and secret all zero, computed apart (HKDF of RFC 5869, Ed25519 of RFC 8032). */
#define PUBLIC_OF_ZEROS "97ae118da7b78c7cffb2d9d40240fc46e8cd5fdb8e68fd190e1670a8f9c5d4ca"

static char directory[64];

static int setup(void **state) {
        strcpy(directory, "/tmp/treaty-key-XXXXXX");
        return mkdtemp(directory) ? 0 : -1;
}

static char *file(const char *name) {
        static char path[128];
        snprintf(path, sizeof(path), "%s/%s", directory, name);
        return path;
}

static int teardown(void **state) {
        unlink(file("host.key"));
        unlink(file("host.crt"));
        return rmdir(directory);
}

static void test_key_is_made_once(void **state) {
        _cleanup_(key_freep) Key *first = NULL, *again = NULL;
        struct stat st;
        assert_int_equal(key_load_or_create(&first, directory), 0);
        assert_int_equal(key_load_or_create(&again, directory), 0);
        assert_memory_equal(key_hash(first), key_hash(again), KEY_HASH_BYTES);
        assert_int_equal(stat(file("host.key"), &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        assert_int_equal(stat(file("host.crt"), &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
}

/* Power went between the two files: the identity is the key. */
static void test_certificate_is_made_again(void **state) {
        _cleanup_(key_freep) Key *first = NULL, *again = NULL;
        assert_int_equal(key_load_or_create(&first, directory), 0);
        assert_int_equal(unlink(file("host.crt")), 0);
        assert_int_equal(key_load_or_create(&again, directory), 0);
        assert_memory_equal(key_hash(first), key_hash(again), KEY_HASH_BYTES);
}

static void test_files_that_do_not_fit(void **state) {
        _cleanup_(key_freep) Key *first = NULL, *second = NULL, *none = NULL;
        char other[80];
        assert_int_equal(key_load_or_create(&first, directory), 0);
        snprintf(other, sizeof(other), "%s/other.crt", directory);
        assert_int_equal(rename(file("host.crt"), other), 0);
        assert_int_equal(unlink(file("host.key")), 0);
        assert_int_equal(key_load_or_create(&second, directory), 0);
        assert_memory_not_equal(key_hash(first), key_hash(second), KEY_HASH_BYTES);
        assert_int_equal(rename(other, file("host.crt")), 0);
        assert_int_equal(key_load_or_create(&none, directory), -EBADMSG);
        assert_int_equal(unlink(file("host.key")), 0);
        assert_int_equal(key_load_or_create(&none, directory), -EBADMSG);
        FILE *f = fopen(file("host.key"), "we");
        fputs("no key\n", f);
        fclose(f);
        assert_int_equal(key_load_or_create(&none, directory), -EBADMSG);
        assert_int_equal(key_load_or_create(&none, "/nonexistent"), -ENOENT);
}

static TokenText token_make(uint32_t n_addresses, uint32_t n_keys) {
        TokenText token = {.class = MEMBER_FULL, .n_addresses = n_addresses, .n_keys = n_keys};
        Random random = {.state = 7};
        for (size_t i = 0; i < TOKEN_SECRET_BYTES; i++)
                token.secret[i] = (uint8_t)random_next(&random);
        memset(token.id, 1, sizeof(token.id));
        memset(token.cluster, 2, sizeof(token.cluster));
        for (uint32_t i = 0; i < n_addresses; i++)
                memset(token.addresses[i], 'a' + (int)i, LIMIT_ADDRESS_BYTES - i);
        for (uint32_t i = 0; i < n_keys; i++)
                memset(token.keys[i], (int)i, KEY_HASH_BYTES);
        return token;
}

static void test_token_text_round_trip(void **state) {
        static char text[TOKEN_TEXT_BYTES];
        for (uint32_t n = 0; n <= LIMIT_ADDRESSES; n++) {
                TokenText token = token_make(n, 2 * n), got;
                memset(&got, 0xff, sizeof(got));
                assert_int_equal(token_text_write(&token, text), 0);
                assert_true(strncmp(text, "treaty1-", 8) == 0);
                assert_int_equal(token_text_read(text, &got), 0);
                assert_memory_equal(&got, &token, sizeof(token));
        }
}

static void test_token_text_tampered(void **state) {
        static char text[TOKEN_TEXT_BYTES], bad[TOKEN_TEXT_BYTES + 2];
        TokenText token = token_make(2, 1), got;
        assert_int_equal(token_text_write(&token, text), 0);
        for (size_t i = 0; i < strlen(text); i++) {
                strcpy(bad, text);
                bad[i] = bad[i] == 'A' ? 'B' : 'A';
                assert_int_equal(token_text_read(bad, &got), -EBADMSG);
                strcpy(bad, text);
                bad[i] = 0;
                assert_int_equal(token_text_read(bad, &got), -EBADMSG);
                bad[i] = '\n';
                assert_int_equal(token_text_read(bad, &got), -EBADMSG);
        }
        snprintf(bad, sizeof(bad), "%sA", text);
        assert_int_equal(token_text_read(bad, &got), -EBADMSG);
        memset(bad, 'A', sizeof(bad) - 1);
        memcpy(bad, "treaty1-", 8);
        assert_int_equal(token_text_read(bad, &got), -EBADMSG);
        token.class = 0;
        assert_int_equal(token_text_write(&token, text), -EINVAL);
}

static void test_signature(void **state) {
        TokenText token = token_make(1, 1), other = token;
        uint8_t public[TOKEN_PUBLIC_BYTES], other_public[TOKEN_PUBLIC_BYTES], signature[SIGNATURE_BYTES];
        uint8_t hash[KEY_HASH_BYTES] = {5}, wrong[32] = {6};
        Bytes s = BYTES(signature, sizeof(signature));

        other.secret[0] ^= 1;
        assert_int_equal(token_public_key(&token, public), 0);
        assert_int_equal(token_public_key(&other, other_public), 0);
        assert_memory_not_equal(public, other_public, sizeof(public));
        assert_int_equal(token_sign(&token, hash, signature), 0);
        assert_true(token_signature_valid(public, token.cluster, token.id, hash, s));
        assert_false(token_signature_valid(other_public, token.cluster, token.id, hash, s));
        assert_false(token_signature_valid(public, wrong, token.id, hash, s));
        assert_false(token_signature_valid(public, token.cluster, wrong, hash, s));
        assert_false(token_signature_valid(public, token.cluster, token.id, wrong, s));
        assert_false(token_signature_valid(public, token.cluster, token.id, hash, BYTES(signature, 63)));
        signature[10] ^= 1;
        assert_false(token_signature_valid(public, token.cluster, token.id, hash, s));
}

/* Numbers that are stored and signed with must not change between versions. */
static void test_derivation_is_fixed(void **state) {
        TokenText token = {.class = MEMBER_FULL};
        uint8_t public[TOKEN_PUBLIC_BYTES];
        char hex[2 * TOKEN_PUBLIC_BYTES + 1];
        assert_int_equal(token_public_key(&token, public), 0);
        assert_string_equal(hex_write(hex, public, sizeof(public)), PUBLIC_OF_ZEROS);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_key_is_made_once, setup, teardown),
                cmocka_unit_test_setup_teardown(test_certificate_is_made_again, setup, teardown),
                cmocka_unit_test_setup_teardown(test_files_that_do_not_fit, setup, teardown),
                cmocka_unit_test(test_token_text_round_trip),
                cmocka_unit_test(test_token_text_tampered),
                cmocka_unit_test(test_signature),
                cmocka_unit_test(test_derivation_is_fixed),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
