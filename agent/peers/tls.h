/* TLS 1.3 as a value machine: bytes of the wire go in and out, the socket is somebody else's. Both sides
 * must show a certificate, whatever it says; its key is asked for afterwards (tls_peer_key) and judged by
 * the owner. No tickets, no session cache, no early data: every connection proves anew who it is. */
#pragma once

#include <openssl/ssl.h>
#include "key.h"
#include "queue.h"

typedef struct TlsContext {
        SSL_CTX *contexts[2]; /* client, server */
        BIO_METHOD *method;
} TlsContext;

int tls_context_init(TlsContext *context, const Key *key);
void tls_context_deinit(TlsContext *context);

/* Its address must not change once it is initialized. */
typedef struct Tls {
        SSL *ssl;
        Bytes in;  /* bytes from the wire that are not yet taken */
        Queue out; /* bytes for the wire */
} Tls;

int tls_init(Tls *tls, const TlsContext *context, bool server);
void tls_deinit(Tls *tls);
int tls_handshake(Tls *tls);                            /* 1 done, 0 needs more bytes, -EPROTO */
int tls_read(Tls *tls, void *to, size_t size);          /* > 0; 0 needs more; -ENOTCONN closed, -EPROTO */
int tls_write(Tls *tls, const void *from, size_t size); /* 0, -EPROTO */
void tls_close(Tls *tls);                               /* says goodbye, into `out` */
int tls_peer_key(const Tls *tls, uint8_t ret[static KEY_HASH_BYTES]); /* after the handshake; -EPROTO */
