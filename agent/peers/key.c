/* See key.h. The key is made durable before the certificate, and the certificate can be made from the key:
 * whenever power goes, the next start finds nothing, the key alone, or both. The identity is the key; the
 * certificate is only the envelope that TLS wants. */
#include "key.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_FILE  "host.key"
#define CERT_FILE "host.crt"

#define KEY_FILE_BYTES (16 * 1024) /* more is not a key */

struct Key {
        EVP_PKEY *pkey;
        X509 *certificate;
        uint8_t hash[KEY_HASH_BYTES];
};

static void closep(int *fd) {
        if (*fd >= 0)
                close(*fd);
}

static void bio_freep(BIO **bio) {
        BIO_free(*bio);
}

Key *key_free(Key *key) {
        if (!key)
                return NULL;
        EVP_PKEY_free(key->pkey);
        X509_free(key->certificate);
        free(key);
        return NULL;
}

const uint8_t *key_hash(const Key *key) {
        return key->hash;
}

EVP_PKEY *key_pkey(const Key *key) {
        return key->pkey;
}

X509 *key_certificate(const Key *key) {
        return key->certificate;
}

int key_hash_of(const X509 *certificate, uint8_t ret[static KEY_HASH_BYTES]) {
        unsigned char *der = NULL;
        int size = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &der);
        if (size <= 0)
                return -EBADMSG;
        SHA256(der, (size_t)size, ret);
        OPENSSL_free(der);
        return 0;
}

/* 0 and no BIO when there is no such file. */
static int file_read(int directory, const char *name, BIO **ret) {
        _cleanup_(closep) int fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return errno == ENOENT ? 0 : -errno;
        uint8_t bytes[KEY_FILE_BYTES];
        ssize_t n = read(fd, bytes, sizeof(bytes));
        if (n < 0)
                return -errno;
        if (n == 0 || n == sizeof(bytes))
                return -EBADMSG;
        _cleanup_(bio_freep) BIO *bio = BIO_new(BIO_s_mem());
        bool whole = bio && BIO_write(bio, bytes, (int)n) == n;
        OPENSSL_cleanse(bytes, sizeof(bytes));
        if (!whole)
                return -ENOMEM;
        *ret = TAKE(bio);
        return 0;
}

static int write_all(int fd, const char *data, size_t size) {
        while (size > 0) {
                ssize_t n = write(fd, data, size);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                data += n;
                size -= (size_t)n;
        }
        return 0;
}

/* The name appears only with all its bytes on disk. */
static int file_write(int directory, const char *name, BIO *content) {
        char *data;
        long size = BIO_get_mem_data(content, &data);
        char temporary[64];
        snprintf(temporary, sizeof(temporary), "%s.new", name);

        _cleanup_(closep) int fd =
                openat(directory, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return -errno;
        int r = fchmod(fd, 0600) < 0 ? -errno : write_all(fd, data, (size_t)size);
        if (r < 0)
                return r;
        if (fsync(fd) < 0 || renameat(directory, temporary, directory, name) < 0 || fsync(directory) < 0)
                return -errno;
        return 0;
}

static int certificate_make(EVP_PKEY *pkey, X509 **ret) {
        X509 *x = X509_new();
        X509_NAME *name = X509_NAME_new();
        bool good = x && name && X509_set_version(x, 2) && ASN1_INTEGER_set(X509_get_serialNumber(x), 1) &&
                    ASN1_TIME_set_string_X509(X509_getm_notBefore(x), "19700101000000Z") &&
                    ASN1_TIME_set_string_X509(X509_getm_notAfter(x), "99991231235959Z") &&
                    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"treaty", -1,
                                               -1, 0) &&
                    X509_set_subject_name(x, name) && X509_set_issuer_name(x, name) &&
                    X509_set_pubkey(x, pkey) && X509_sign(x, pkey, NULL) > 0;
        X509_NAME_free(name);
        if (!good) {
                X509_free(x);
                return -ENOMEM;
        }
        *ret = x;
        return 0;
}

static int pkey_create(int directory, EVP_PKEY **ret) {
        EVP_PKEY *pkey = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
        _cleanup_(bio_freep) BIO *bio = BIO_new(BIO_s_secmem());
        if (!bio)
                bio = BIO_new(BIO_s_mem());
        int r = pkey && bio && PEM_write_bio_PrivateKey(bio, pkey, NULL, NULL, 0, NULL, NULL) ? 0 : -ENOMEM;
        if (r == 0)
                r = file_write(directory, KEY_FILE, bio);
        if (r < 0) {
                EVP_PKEY_free(pkey);
                return r;
        }
        *ret = pkey;
        return 0;
}

static int certificate_create(int directory, EVP_PKEY *pkey, X509 **ret) {
        X509 *certificate;
        int r = certificate_make(pkey, &certificate);
        if (r < 0)
                return r;
        _cleanup_(bio_freep) BIO *bio = BIO_new(BIO_s_mem());
        r = bio && PEM_write_bio_X509(bio, certificate) ? file_write(directory, CERT_FILE, bio) : -ENOMEM;
        if (r < 0) {
                X509_free(certificate);
                return r;
        }
        *ret = certificate;
        return 0;
}

static int key_load(Key *key, int directory) {
        _cleanup_(bio_freep) BIO *pkey = NULL, *certificate = NULL;
        int r = file_read(directory, KEY_FILE, &pkey);
        if (r < 0)
                return r;
        r = file_read(directory, CERT_FILE, &certificate);
        if (r < 0)
                return r;

        if (!pkey && certificate)
                return -EBADMSG; /* a certificate whose key is lost: not ours to replace silently */
        if (pkey && !(key->pkey = PEM_read_bio_PrivateKey(pkey, NULL, NULL, NULL)))
                return -EBADMSG;
        if (certificate && !(key->certificate = PEM_read_bio_X509(certificate, NULL, NULL, NULL)))
                return -EBADMSG;
        if (key->certificate && X509_check_private_key(key->certificate, key->pkey) != 1)
                return -EBADMSG;
        return 0;
}

/* Before OpenSSL is asked for anything: without texts of errors that nobody reads, and without openssl.cnf,
 * for all that it may choose is chosen here (tls.c). Some 400 KiB less. */
static void crypto_begin(void) {
        (void)OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_SSL_STRINGS | OPENSSL_INIT_NO_LOAD_CRYPTO_STRINGS |
                                       OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ADD_ALL_CIPHERS |
                                       OPENSSL_INIT_NO_ADD_ALL_DIGESTS,
                               NULL);
}

int key_load_or_create(Key **ret, const char *path) {
        crypto_begin();
        _cleanup_(closep) int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (directory < 0)
                return -errno;
        _cleanup_(key_freep) Key *key = calloc(1, sizeof(*key));
        if (!key)
                return -ENOMEM;

        int r = key_load(key, directory);
        if (r == 0 && !key->pkey)
                r = pkey_create(directory, &key->pkey);
        if (r == 0 && !key->certificate)
                r = certificate_create(directory, key->pkey, &key->certificate);
        if (r == 0)
                r = key_hash_of(key->certificate, key->hash);
        if (r < 0)
                return r;
        *ret = TAKE(key);
        return 0;
}
