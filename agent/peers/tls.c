/* See tls.h. OpenSSL reads from and writes to a BIO of our own that looks into Tls, so that no byte is
 * copied on its way in and only once on its way out. */
#include "tls.h"

#include <openssl/err.h>

#define MAX_CHAIN_BYTES (16 * 1024)

static int bio_read(BIO *bio, char *to, int size) {
        Tls *tls = BIO_get_data(bio);
        BIO_clear_retry_flags(bio);
        if (tls->in.size == 0) {
                BIO_set_retry_read(bio);
                return -1;
        }
        size_t n = MIN((size_t)size, tls->in.size);
        memcpy(to, tls->in.data, n);
        tls->in = BYTES(tls->in.data + n, tls->in.size - n);
        return (int)n;
}

static int bio_write(BIO *bio, const char *from, int size) {
        Tls *tls = BIO_get_data(bio);
        BIO_clear_retry_flags(bio);
        return queue_append(&tls->out, from, (size_t)size) < 0 ? -1 : size;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer) {
        return command == BIO_CTRL_FLUSH;
}

static int bio_create(BIO *bio) {
        BIO_set_init(bio, 1);
        return 1;
}

/* Any certificate will do: not who signed it counts, but its key, which is judged after the handshake. */
static int verify_any(X509_STORE_CTX *store, void *unused) {
        return 1;
}

static int alpn_select(SSL *ssl, const unsigned char **ret, unsigned char *ret_size,
                       const unsigned char *offered, unsigned int n_offered, void *unused) {
        unsigned char *selected;
        if (SSL_select_next_proto(&selected, ret_size, (const unsigned char *)"\2h2", 3, offered,
                                  n_offered) == OPENSSL_NPN_NEGOTIATED) {
                *ret = selected;
                return SSL_TLSEXT_ERR_OK;
        }
        return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static SSL_CTX *context_new(const Key *key, bool server) {
        SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
        if (!ctx)
                return NULL;

        SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
        SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_max_early_data(ctx, 0);
        SSL_CTX_set_max_cert_list(ctx, MAX_CHAIN_BYTES);
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        SSL_CTX_set_cert_verify_callback(ctx, verify_any, NULL);
        SSL_CTX_set_alpn_select_cb(ctx, alpn_select, NULL);
        bool good = SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1 &&
                    SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) == 1 &&
                    SSL_CTX_set_num_tickets(ctx, 0) &&
                    SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:"
                                                  "TLS_AES_256_GCM_SHA384") == 1 &&
                    SSL_CTX_set1_groups_list(ctx, "X25519:P-256") == 1 &&
                    /* Small keys only: nobody makes us check signatures of huge ones. */
                    SSL_CTX_set1_sigalgs_list(ctx, "ed25519:ECDSA+SHA256") == 1 &&
                    SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)"\2h2", 3) == 0 &&
                    SSL_CTX_use_certificate(ctx, key_certificate(key)) == 1 &&
                    SSL_CTX_use_PrivateKey(ctx, key_pkey(key)) == 1;
        if (!good) {
                SSL_CTX_free(ctx);
                return NULL;
        }
        return ctx;
}

int tls_context_init(TlsContext *context, const Key *key) {
        *context = (TlsContext){};
        context->method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "treaty");
        bool good = context->method && BIO_meth_set_read(context->method, bio_read) &&
                    BIO_meth_set_write(context->method, bio_write) &&
                    BIO_meth_set_ctrl(context->method, bio_ctrl) &&
                    BIO_meth_set_create(context->method, bio_create);
        for (int server = 0; good && server < 2; server++)
                good = (context->contexts[server] = context_new(key, server)) != NULL;
        ERR_clear_error();
        if (good)
                return 0;
        tls_context_deinit(context);
        return -ENOMEM;
}

void tls_context_deinit(TlsContext *context) {
        for (int server = 0; server < 2; server++)
                SSL_CTX_free(context->contexts[server]);
        BIO_meth_free(context->method);
        *context = (TlsContext){};
}

int tls_init(Tls *tls, const TlsContext *context, bool server) {
        *tls = (Tls){};
        BIO *bio = BIO_new(context->method);
        if (!bio)
                return -ENOMEM;
        BIO_set_data(bio, tls);
        tls->ssl = SSL_new(context->contexts[server]);
        if (!tls->ssl) {
                BIO_free(bio);
                return -ENOMEM;
        }
        SSL_set_bio(tls->ssl, bio, bio);
        if (server)
                SSL_set_accept_state(tls->ssl);
        else
                SSL_set_connect_state(tls->ssl);
        return 0;
}

void tls_deinit(Tls *tls) {
        SSL_free(tls->ssl);
        tls->ssl = NULL;
        queue_deinit(&tls->out);
}

static int tls_outcome(Tls *tls, int r) {
        int error = SSL_get_error(tls->ssl, r);
        ERR_clear_error();
        switch (error) {
        case SSL_ERROR_WANT_READ:
                return 0;
        case SSL_ERROR_ZERO_RETURN:
                return -ENOTCONN;
        default:
                return -EPROTO;
        }
}

int tls_handshake(Tls *tls) {
        ERR_clear_error();
        int r = SSL_do_handshake(tls->ssl);
        if (r != 1)
                return tls_outcome(tls, r) == 0 ? 0 : -EPROTO;

        const unsigned char *protocol;
        unsigned size;
        SSL_get0_alpn_selected(tls->ssl, &protocol, &size);
        return size == 2 && memcmp(protocol, "h2", 2) == 0 ? 1 : -EPROTO;
}

int tls_read(Tls *tls, void *to, size_t size) {
        ERR_clear_error();
        int r = SSL_read(tls->ssl, to, (int)size);
        return r > 0 ? r : tls_outcome(tls, r);
}

int tls_write(Tls *tls, const void *from, size_t size) {
        ERR_clear_error();
        return SSL_write(tls->ssl, from, (int)size) == (int)size ? 0 : -EPROTO;
}

void tls_close(Tls *tls) {
        ERR_clear_error();
        SSL_shutdown(tls->ssl);
        ERR_clear_error();
}

int tls_peer_key(const Tls *tls, uint8_t ret[static KEY_HASH_BYTES]) {
        X509 *certificate = SSL_get0_peer_certificate(tls->ssl);
        return certificate && key_hash_of(certificate, ret) == 0 ? 0 : -EPROTO;
}
