/* All limits in one place: whatever comes from outside, whatever waits in a queue, whatever a loop may do in
 * one turn has its maximum here. A number that faces users is repeated in the D-Bus XML and the man pages.
 */
#pragma once

#define LIMIT_PATH_BYTES    1024          /* a path on the bus and in the tree */
#define LIMIT_VALUE_BYTES   (1024 * 1024) /* one value; equals a systemd credential's limit */
#define LIMIT_NAME_BYTES    64            /* host and service names (DNS label, RFC 1035) */
#define LIMIT_ADDRESS_BYTES 256           /* "host:port" of a member */
#define LIMIT_ADDRESSES     8             /* addresses per member */
#define LIMIT_KEYS          4             /* key hashes per member (rotation keeps two) */
#define LIMIT_MEMBERS       10000         /* hosts in a cluster */
#define LIMIT_TOKENS        1024          /* join tokens alive at once */
#define LIMIT_VOTERS        7             /* voters in one configuration */

#define LIMIT_COMMAND_BYTES       (LIMIT_VALUE_BYTES + 64 * 1024) /* one encoded command */
#define LIMIT_ENTRY_BYTES         (LIMIT_COMMAND_BYTES + 64)      /* its entry in the log */
#define LIMIT_LETTER_BYTES        (4 * 1024 * 1024) /* one letter between peers, framing excluded */
#define LIMIT_APPEND_BYTES        (1024 * 1024) /* entry bytes in one append (one larger entry goes alone) */
#define LIMIT_APPEND_ENTRIES      1024          /* entries in one append */
#define LIMIT_INFLIGHT_APPENDS    64            /* appends a peer has not answered */
#define LIMIT_INFLIGHT_BYTES      (8 * 1024 * 1024)
#define LIMIT_UNCOMMITTED_BYTES   (16 * 1024 * 1024) /* leader's uncommitted tail: beyond it "busy" */
#define LIMIT_UNCOMMITTED_ENTRIES 16384
#define LIMIT_CACHE_BYTES \
        (1024 * 1024) /* applied entries kept in memory for slow peers; others are read again */
#define LIMIT_PENDING_READS      16384
#define LIMIT_QUESTIONS_PER_HOST 1024 /* of these, asked by one other host */
#define LIMIT_CALLS_PER_SECOND   10   /* Follow, Snapshot, Admin of one member ... */
#define LIMIT_CALLS_AT_ONCE      30   /* ... after so many without a pause */

#define LIMIT_SERIALS           4096  /* requests of one agent in flight, and width of its row */
#define LIMIT_DELETE_ENTRIES    16384 /* ended by one DELETE of a subtree: nothing else applies meanwhile */
#define LIMIT_KEPT              1024  /* outcomes of one host kept for an hour: of requests told Unknown */
#define LIMIT_REQUEST_BYTES     (32 * 1024 * 1024) /* values of requests in flight in one agent */
#define LIMIT_WATCHES           4096               /* watches on one host */
#define LIMIT_WATCHES_PER_UID   1024
#define LIMIT_WATCH_QUEUE_BYTES (1024 * 1024) /* what a slow watcher may have waiting in the agent */
#define LIMIT_LIST_ENTRIES      1000          /* entries in one page of a list */
#define LIMIT_LIST_BYTES        (4 * 1024 * 1024)
#define LIMIT_OWNED             4096 /* fds held for registrations and ephemerals on one host */
#define LIMIT_CONNECTIONS       1024 /* peers' connections, handshakes included */
#define LIMIT_PRIVATE_CLIENTS   1024 /* clients on the private socket */
#define LIMIT_SESSION_USEC      UINT64_C(86400000000) /* how long a session may outlive its last keep-alive */
#define LIMIT_TURN_EVENTS       256                   /* connections heard before the turn: its batch */

/* The front door. Per client and per user, so that a flood is the flooder's trouble; root counts per client
 * only. Many users together get half of what all share: root, and so the unit helper, is never locked out.
 */
#define LIMIT_OF_STRANGERS(limit)     ((limit) / 2)
#define LIMIT_CALLS                   8192 /* calls that wait for an answer, all clients together */
#define LIMIT_CALLS_PER_UID           2048
#define LIMIT_CALLS_PER_CLIENT        1024
#define LIMIT_CALL_BYTES              (64 * 1024 * 1024) /* their arguments */
#define LIMIT_CALL_BYTES_PER_CLIENT   (16 * 1024 * 1024)
#define LIMIT_CLIENTS                 2048 /* bus clients whose credentials are remembered */
#define LIMIT_PRIVATE_CLIENTS_PER_UID 32
#define LIMIT_REPLY_BYTES             (16 * 1024 * 1024) /* replies a private client has not read */
#define LIMIT_REPLY_BYTES_BUS         (64 * 1024 * 1024) /* replies the bus has not taken */
#define LIMIT_REPLIES                 8192
#define LIMIT_WATCH_BYTES             (64 * 1024 * 1024) /* queues of all watchers together */
#define LIMIT_WATCH_BYTES_PER_UID     (8 * 1024 * 1024)
#define LIMIT_OWNED_PER_UID           1024
#define LIMIT_POLKIT                  16 /* questions to polkit at once; the bus allows us 128 of all kinds */
#define LIMIT_TIMEOUT_USEC            UINT64_C(600000000) /* deadline that a caller may ask for */
#define LIMIT_WAIT_USEC               UINT64_C(20000000)  /* one long poll */
#define LIMIT_OPTIONS                 64                  /* entries of an a{sv} */
#define LIMIT_SERVICE_BYTES           (16 * 1024)         /* JSON of one instance */
#define LIMIT_SERVICE_STRINGS         256                 /* strings in its text and properties */
