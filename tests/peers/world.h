/* A few hosts in one process and one loop, each with its own Peers, real sockets on loopback and real TLS.
 * Who is a member is a table that the tests change. Nodes count what they are told. */
#pragma once

#include "agent/peers/peers.h"

#define NODES 4

typedef struct Node {
        struct World *world;
        Peers *peers;
        Key *key;
        uint64_t host;
        uint16_t port;
        int port_fd; /* holds the port */
        char address[LIMIT_ADDRESS_BYTES + 1];
        char directory[64];
        PeersVerdict verdicts[NODES]; /* what it thinks of the others */
        unsigned n_up, n_down, n_unreachable, n_letters, n_called, n_disorder;
        uint64_t connection, up_host, bytes;
        PeersDown why_down, why_unreachable;
        char events[256]; /* "+" up, "-" down, in order */
        uint32_t last_number;
        uint8_t caller_key[KEY_HASH_BYTES];
        uint64_t caller;
        void (*on_called)(struct Node *node, PeersCall *call, const char *method, Bytes request);
        void (*on_letter)(struct Node *node, uint64_t host, Bytes letter);
        void (*on_up)(struct Node *node, uint64_t host);
        void (*on_down)(struct Node *node, uint64_t host);
} Node;

typedef struct World {
        sd_event *event;
        Node nodes[NODES];
} World;

void world_open(World *world);
void world_close(World *world);
void node_start(Node *node);
void node_stop(Node *node);
void node_target(Node *node, unsigned others); /* bit i: node i */
void node_name(Node *node, unsigned others);   /* … has it, but dials only those with a larger id */
void world_know(World *world, unsigned n);     /* the first n know each other as members */
/* … and have each other. Of each pair only one dials: two that cross replace one connection, which is right,
 * but makes whoever counts wait in vain, on a machine so busy that a handshake takes 300 ms. */
void world_connect(World *world, unsigned n);
bool world_run_to(World *world, uint64_t msec); /* one iteration; false when the time is up */
uint64_t msec_now(void);

/* More patient by a factor, for machines that are busy. */
#define RUN_UNTIL(world, msec, condition)                                                      \
        do {                                                                                   \
                uint64_t _end = msec_now() + 8 * (msec);                                       \
                while (!(condition))                                                           \
                        if (!world_run_to(world, _end)) {                                      \
                                if (!(condition))                                              \
                                        fail_msg("not in %d ms: %s", (int)(msec), #condition); \
                                break;                                                         \
                        }                                                                      \
        } while (0)
#define RUN_FOR(world, msec)                         \
        do {                                         \
                uint64_t _end = msec_now() + (msec); \
                while (world_run_to(world, _end))    \
                        ;                            \
        } while (0)
