/* The inside of the room: who holds what.
 *
 *      Peers ── Listener* ── accepts ──┐
 *        ├─ Host* ── Dial (control)    ├── Connection ── Tls, nghttp2 session
 *        │        └─ Dial (bulk)  ─────┘        │
 *        └─ PeersCall* (some with a Dial) ──── stream
 *
 * Nothing is freed where it ends. What ends is marked, loses its fd and its timers at once, and is buried by
 * the *work* (peers.c), a source that runs once per turn of the loop when there is something to do. So any
 * callback may call anything of this room, peers_free() included, and whoever is up the stack finds his
 * objects where he left them; he only asks whether they still live. For the same reason the ends of calls
 * and connections are told from the work, never from within a function that the hall called. */
#pragma once

#include <netinet/in.h>
#include <nghttp2/nghttp2.h>
#include <sys/queue.h>
#include "../base/ready.h"
#include "frame.h"
#include "peers.h"
#include "tls.h"

typedef struct Connection Connection;
typedef struct Dial Dial;
typedef struct Host Host;
typedef struct Listener Listener;
typedef struct Resolve Resolve;

/* Limits of this room that face nobody else. */
#define ADDRESSES_FOUND      8 /* per name */
#define CALLS_MAX            1024
#define CALLS_PER_CONNECTION 16 /* at a time */
#define CALL_FULL_BYTES      (1024 * 1024)
#define CALL_QUEUE_BYTES     (CALL_FULL_BYTES + 2 * LIMIT_LETTER_BYTES)
#define REQUEST_BYTES        (1024 * 1024)
#define REQUEST_STRANGER     (64 * 1024)
#define TALK_QUEUE_BYTES     (2 * LIMIT_INFLIGHT_BYTES)
#define BACKLOG_BYTES        (256 * 1024) /* encrypted and not taken by the socket */
#define STAGE_BYTES          (64 * 1024)  /* what is encrypted at once: four full records */
#define UNKNOWN_MAX          64           /* connections whose key is not a member's (yet) */
#define UNKNOWN_PER_ADDRESS  16
#define ACCEPTS_PER_WAKE     16

#define CONNECT_USEC       (1 * USEC_PER_SEC)
#define HANDSHAKE_USEC     (3 * USEC_PER_SEC)
#define STRANGER_USEC      (15 * USEC_PER_SEC)
#define LINGER_USEC        (1 * USEC_PER_SEC)
#define IDLE_USEC          (60 * USEC_PER_SEC)
#define USER_TIMEOUT_MSEC  5000
#define SECOND_USEC        (300 * USEC_PER_MSEC) /* the larger id dials this much later */
#define YOUNG_USEC         (1 * USEC_PER_SEC) /* a connection dialled at the same moment from both sides */
#define BACKOFF_LEAST_USEC (100 * USEC_PER_MSEC)
#define BACKOFF_MOST_USEC  (2 * USEC_PER_SEC)

typedef struct Address {
        socklen_t size;
        union {
                struct sockaddr sa;
                struct sockaddr_in v4;
                struct sockaddr_in6 v6;
        };
} Address;

int address_parse(const char *text, bool wildcard, Address *ret); /* numeric only; -EINVAL: not one */

/* ---- resolve.c: names become addresses in a thread ---- */
typedef void (*ResolveDone)(void *userdata, const Address *found, size_t n_found);
int resolve_start(Resolve **ret, sd_event *event, const char *name, ResolveDone done, void *userdata);
Resolve *resolve_free(Resolve *resolve); /* cancels */

/* ---- dial.c: from the addresses of a host to an open connection ---- */
typedef enum DialRole {
        DIAL_CONTROL, /* repeats until it is no longer wanted */
        DIAL_BULK,    /* when there are calls */
        DIAL_ADDRESS, /* one call's own */
} DialRole;

/* Tries each name, and of each name each address, until a connection opens. Invariant: at most one of
 * connection, resolve, timer and wants_step is set. */
struct Dial {
        Peers *peers;
        DialRole role;
        Host *host;      /* CONTROL, BULK */
        PeersCall *call; /* ADDRESS */
        uint32_t n_names, next_name;
        char (*names)[LIMIT_ADDRESS_BYTES + 1];
        uint32_t n_found, next_found;
        Address found[ADDRESSES_FOUND];
        Connection *connection;
        Resolve *resolve;
        sd_event_source *timer;
        bool wants_step;
        bool silent, refused; /* of the addresses tried in this round */
        uint64_t backoff_usec;
};

void dial_init(Dial *dial, Peers *peers, DialRole role, Host *host, PeersCall *call);
void dial_deinit(Dial *dial); /* its connection is killed */
int dial_set_names(Dial *dial, const char (*names)[LIMIT_ADDRESS_BYTES + 1], uint32_t n_names);
bool dial_is_busy(const Dial *dial);
void dial_kick_later(Dial *dial, uint64_t usec);
void dial_kick(Dial *dial); /* begins a round in the next work, unless busy */
void dial_stop(Dial *dial);
void dial_step(Dial *dial);
void dial_lost(Dial *dial, PeersDown why, bool opened); /* its connection ended */

/* ---- connection.c: a socket with TLS and HTTP/2 on it ---- */
typedef enum ConnectionState {
        CONNECTION_CONNECTING,
        CONNECTION_HANDSHAKE,
        CONNECTION_OPEN,
        CONNECTION_LINGER, /* all is said: reads to the end, so that no reset overtakes our last words */
        CONNECTION_DEAD,
} ConnectionState;

struct Connection {
        Ready io;
        TAILQ_ENTRY(Connection) entry;
        Connection *next_dirty;
        Peers *peers;
        uint64_t number;
        ConnectionState state;
        bool server;
        bool dirty;     /* on the list of those that have something to write */
        bool closing;   /* lingers when all is written */
        bool dismissed; /* nothing of it is listened to any more */
        bool opened;
        int fd;
        sd_event_source *timer;
        uint32_t io_events; /* 0: in no set */
        uint8_t from[16];   /* the other side's address */
        Tls tls;
        nghttp2_session *session;
        bool in_session; /* nghttp2 is on the stack: must not be entered again */
        bool said_goaway;
        uint64_t tokens, tokens_usec;
        Dial *dial; /* ours; NULL when they dialled */
        PeersVerdict verdict;
        uint64_t host;
        uint8_t key[KEY_HASH_BYTES];
        uint32_t n_calls, n_served, n_full;
        PeersCall *talk;
        bool up; /* told so to the hall, and not yet `down` */
        uint64_t up_usec;
        PeersDown why;
        uint64_t idle_since_usec;
};

int connection_dial(Connection **ret, Dial *dial, const Address *to);
void connection_accept(Peers *peers, int fd, const Address *from);
void connection_kill(Connection *connection, PeersDown why);
void connection_close(Connection *connection);                        /* after all is written */
void connection_dismiss(Connection *connection, const char *because); /* told DENIED, then closed */
void connection_dirty(Connection *connection);
void connection_pump(Connection *connection);
void connection_bury(Connection *connection); /* by the work only: tells and frees */
void connection_tell_down(Connection *connection, PeersDown why);
bool connection_lives(const Connection *connection);
void connection_timer(Connection *connection, uint64_t usec);

/* ---- http2.c: the one place that knows nghttp2 ---- */
int http2_open(Connection *connection);
void http2_close(Connection *connection);
int http2_feed(Connection *connection, const uint8_t *data, size_t size);
ssize_t http2_pull(Connection *connection, const uint8_t **ret);
bool http2_wants_write(Connection *connection);
int http2_request(Connection *connection, PeersCall *call);
int http2_respond(PeersCall *call); /* headers, then what the call queues, then its status */
int http2_refuse(PeersCall *call);  /* headers and status in one */
void http2_resume(PeersCall *call);
void http2_forget(PeersCall *call, uint32_t reset); /* 0: the stream goes on without the call */

/* ---- call.c: one stream, at either end ---- */
typedef enum CallKind {
        CALL_TALK,
        CALL_ASKING,
        CALL_ANSWERING,
} CallKind;

struct PeersCall {
        TAILQ_ENTRY(PeersCall) entry;
        Peers *peers;
        CallKind kind;
        Connection *connection; /* NULL: waits for one, or lost it */
        uint64_t host;
        int32_t stream;
        char method[32];
        char http_status[4];
        bool foreign; /* not gRPC, or not for us */
        uint32_t n_headers, n_header_bytes;
        FrameReader in;
        Queue out;
        Buffer request;
        bool has_request;
        bool called;    /* the hall knows of it */
        bool responded; /* headers are out */
        bool out_ended; /* no message will follow */
        bool full;      /* told so: `writable` is due */
        bool status_seen;
        PeersStatus status;
        char text[128];
        bool gone; /* to be freed by the work; nobody outside knows it */
        PeersCallEvents events;
        sd_event_source *timer;
        Dial *dial; /* an address's own */
        uint32_t n_keys;
        uint8_t (*keys)[KEY_HASH_BYTES];
};

PeersCall *call_new(Peers *peers, CallKind kind);
PeersCall *call_destroy(PeersCall *call);
void call_attach(PeersCall *call, Connection *connection);
void call_lost(PeersCall *call, PeersStatus status, const char *text); /* tells whoever is to know */
int call_queue(PeersCall *call, Bytes message, size_t limit);
/* From http2.c. */
void call_on_request(PeersCall *call);
void call_on_response(PeersCall *call, bool last);
void call_on_data(PeersCall *call, Bytes data);
void call_on_request_end(PeersCall *call);
void call_on_answer_end(PeersCall *call);
void call_on_stream_closed(PeersCall *call, uint32_t error);
void calls_submit_waiting(Connection *connection);
bool calls_wait(const Peers *peers, uint64_t host); /* for a connection to that host */
void calls_fail_waiting(Peers *peers, uint64_t host, PeersStatus status, const char *text);
void calls_tell_writable(Connection *connection);

/* ---- listen.c ---- */
#define LISTENERS_MAX 2
struct Listener {
        Peers *peers;
        int fd;
        sd_event_source *io;
        sd_event_source *pause; /* out of file descriptors: listens again a little later */
};
void listener_deinit(Listener *listener);

/* ---- peers.c: the registry and the work ---- */
struct Host {
        uint64_t id;
        bool named;             /* in the targets */
        bool control;           /* and to be connected */
        bool stays;             /* while targets are set */
        Connection *connection; /* control, up */
        Dial dial_control, dial_bulk;
};

TAILQ_HEAD(Connections, Connection);
TAILQ_HEAD(Calls, PeersCall);

struct Peers {
        sd_event *event;
        const Key *key;
        uint64_t host;
        PeersEvents events;
        Report report;
        TlsContext tls;
        sd_event_source *work;
        int epoll_fd;
        sd_event_source *crowd; /* when the set is our own */
        uint32_t depth;         /* of our functions on the stack below callbacks */
        bool freed;
        bool has_ended; /* something awaits burial */
        struct Connections connections;
        struct Calls calls;
        Connection *dirty;
        size_t n_hosts, n_hosts_allocated;
        Host **hosts; /* by id */
        uint32_t n_connections, n_unknown, n_calls;
        Listener listeners[LISTENERS_MAX];
        uint32_t n_listeners;
        uint64_t next_number;
        PeersStats stats;
        uint8_t received[64 * 1024];
        uint8_t plain[16 * 1024];
        uint8_t stage[STAGE_BYTES];
};

void peers_enter(Peers *peers);
void peers_leave(Peers *peers); /* may free peers */
void peers_arm(Peers *peers);   /* the work runs soon */
Host *peers_host(const Peers *peers, uint64_t id);
Host *peers_host_get(Peers *peers, uint64_t id); /* made if need be; NULL: no memory */
uint64_t peers_now(Peers *peers);
PeersVerdict peers_judge(Peers *peers, const uint8_t *key, uint64_t *ret_host);
