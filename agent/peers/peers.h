/* Peers: the network between hosts. HTTP/2 (nghttp2, as a value machine over memory) in TLS 1.3 (OpenSSL,
 * memory BIOs) on non-blocking sockets in the caller's sd-event loop. Calls are shaped as gRPC: path
 * /treaty.v1.Peer/<Method>, content-type application/grpc, 5-byte framing, grpc-status trailers. What the
 * bytes mean is none of this room's business.
 *
 * Identity: both sides present a self-signed certificate; what counts is the SHA-256 of its public key,
 * which judge() maps to a host (docs/WIRE.md). Dates, names, chains and extensions are ignored: nothing
 * expires. A stranger may only call Join.
 *
 * One control connection per pair: both sides dial, the larger id a moment later; a newer authenticated one
 * replaces the older, and when they cross the smaller id's stays. On it one long-lived bidirectional call
 * "Talk", whose messages are letters. Bulk calls use connections of their own, dialled when needed and
 * closed after a minute without calls, so that a snapshot never delays a heartbeat. */
#pragma once

#include <systemd/sd-event.h>
#include "../base/command.h"
#include "../base/report.h"
#include "key.h"

typedef struct Peers Peers;
typedef struct PeersCall PeersCall;

typedef enum PeersVerdict {
        PEERS_STRANGER,
        PEERS_MEMBER,
        PEERS_REMOVED, /* was a member: told so, then closed */
} PeersVerdict;

typedef enum PeersDown {
        PEERS_DOWN_RESET,    /* connection reset, refused or closed: the process there is gone */
        PEERS_DOWN_SILENT,   /* timed out, unreachable: nothing is known */
        PEERS_DOWN_REPLACED, /* a newer connection of the same host took over */
        PEERS_DOWN_REFUSED,  /* they do not know us (any more), or we them */
} PeersDown;

/* How a call ended: gRPC's numbers (grpc.github.io, "Status codes and their use"). */
typedef enum PeersStatus {
        PEERS_OK = 0,
        PEERS_CANCELLED = 1,
        PEERS_INVALID = 3,
        PEERS_DEADLINE = 4,
        PEERS_NOT_FOUND = 5,
        PEERS_DENIED = 7,
        PEERS_EXHAUSTED = 8,
        PEERS_FAILED_PRECONDITION = 9,
        PEERS_UNIMPLEMENTED = 12,
        PEERS_INTERNAL = 13,
        PEERS_UNAVAILABLE = 14, /* also every break of the connection */
} PeersStatus;

typedef struct PeersEvents {
        /* Who has this key? Asked at each handshake, for both directions. */
        PeersVerdict (*judge)(void *userdata, const uint8_t key[static KEY_HASH_BYTES], uint64_t *ret_host);
        /* A control connection is up; `connection` never repeats in this process. The first letter is ours
         * to send. */
        void (*up)(void *userdata, uint64_t host, uint64_t connection);
        void (*down)(void *userdata, uint64_t host, uint64_t connection, PeersDown why);
        /* Dialling the control connection failed (repeated with back-off, 100 ms to 2 s, jittered). */
        void (*unreachable)(void *userdata, uint64_t host, PeersDown why);
        void (*letter)(void *userdata, uint64_t host, uint64_t connection, Bytes bytes);
        /* Somebody calls us (host 0: a stranger, method is Join then). Answer now or later through the call.
         */
        void (*called)(void *userdata, PeersCall *call, uint64_t host,
                       const uint8_t key[static KEY_HASH_BYTES], const char *method, Bytes request);
        void *userdata;
} PeersEvents;

typedef struct PeersOptions {
        sd_event *event;
        int epoll_fd; /* the set that connections join (base/ready.h); at most 0: one of our own, behind one
                         source */
        const Key *key; /* own; outlives peers */
        uint64_t host;  /* own host id */
        PeersEvents events;
        Report report;
} PeersOptions;

int peers_new(Peers **ret, const PeersOptions *options);
Peers *peers_free(Peers *peers); /* closes all; accepts NULL */
DEFINE_CLEANUP(Peers *, peers_free);
void peers_set_host(Peers *peers, uint64_t host); /* after a join gave us another id */

/* "address:port", "[v6]:port", ":port" (all, v4 and v6). Names are refused here. 0, -errno. */
int peers_listen(Peers *peers, const char *address);
void peers_unlisten(Peers *peers);

/* Whom to keep a control connection with. Connections to hosts no longer named, and
 * any whose key is judged anew to be no member's, are closed at once. */
typedef struct PeersTarget {
        uint64_t host;
        uint32_t n_addresses;
        char (*addresses)[LIMIT_ADDRESS_BYTES + 1];
        bool control; /* false: only for bulk calls */
} PeersTarget;
int peers_set_targets(Peers *peers, const PeersTarget *targets, size_t n);

/* One letter on the control connection. 0; -ENOTCONN; -ENOBUFS when too much waits (the letter is dropped:
 * slow peer). Bytes are copied into the connection's queue; peers_flush() at the end of the turn writes TLS
 * records that fill. */
int peers_send(Peers *peers, uint64_t host, Bytes letter);
void peers_flush(Peers *peers);
bool peers_connected(const Peers *peers, uint64_t host);
void peers_disconnect(Peers *peers, uint64_t host);

/* Calling. `message` comes for each answer, `end` exactly once. Cancel: peers_call_free() before the end. */
typedef struct PeersCallEvents {
        void (*message)(PeersCall *call, Bytes bytes, void *userdata);
        void (*end)(PeersCall *call, PeersStatus status, const char *text, void *userdata);
        void (*writable)(PeersCall *call, void *userdata); /* server side: room again */
        void *userdata;
} PeersCallEvents;

/* To a member, at its target addresses. */
int peers_call(Peers *peers, uint64_t host, const char *method, Bytes request, uint64_t timeout_usec,
               const PeersCallEvents *events, PeersCall **ret);
/* To an address whose key must be one of `keys` (before joining: from the token). Names are resolved
 * (getaddrinfo in a thread; the loop never waits). */
int peers_call_address(Peers *peers, const char *address, const uint8_t (*keys)[KEY_HASH_BYTES],
                       size_t n_keys, const char *method, Bytes request, uint64_t timeout_usec,
                       const PeersCallEvents *events, PeersCall **ret);

/* Answering. Send queues one message: 0, or 1 when queued but the call is full now (above 1 MiB waiting):
 * wait for `writable`. After peers_call_end() the call is gone. If the caller goes away, `end` of the call's
 * events is called. */
void peers_call_set_events(PeersCall *call, const PeersCallEvents *events);
int peers_call_send(PeersCall *call, Bytes message);
void peers_call_end(PeersCall *call, PeersStatus status, const char *text);
PeersCall *peers_call_free(PeersCall *call); /* cancels; accepts NULL */

typedef struct PeersStats {
        uint64_t letters_in, letters_out, bytes_in, bytes_out;
        uint32_t connections, strangers;
} PeersStats;
void peers_stats(const Peers *peers, PeersStats *ret);
