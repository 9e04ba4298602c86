/* What the hall may ask of the world, as one table: time, randomness, being called again, the network. The
 * roof fills it with the real things (loop.c), the simulation with its own; the hall is the same in both. */
#pragma once

#include "log/disk.h"
#include "peers/peers.h"

typedef struct Outside {
        void *userdata;

        uint64_t (*now)(void *userdata);  /* boottime, µs: monotone, also counts suspend */
        uint64_t (*wall)(void *userdata); /* real time, µs: information only */
        void (*random)(void *userdata, void *data, size_t size); /* fit for secrets */
        void (*wake)(void *userdata); /* something is noted: call agent_turn() once, soon */

        /* As in peers/peers.h, without the Peers. */
        int (*listen)(void *userdata);
        int (*set_targets)(void *userdata, const PeersTarget *targets, size_t n);
        int (*send)(void *userdata, uint64_t host, Bytes letter);
        bool (*connected)(void *userdata, uint64_t host);
        void (*disconnect)(void *userdata, uint64_t host);
        int (*call)(void *userdata, uint64_t host, const char *method, Bytes request, uint64_t timeout_usec,
                    const PeersCallEvents *events, PeersCall **ret);
        int (*call_address)(void *userdata, const char *address, const uint8_t (*keys)[KEY_HASH_BYTES],
                            size_t n_keys, const char *method, Bytes request, uint64_t timeout_usec,
                            const PeersCallEvents *events, PeersCall **ret);
        void (*call_set_events)(void *userdata, PeersCall *call, const PeersCallEvents *events);
        int (*call_send)(void *userdata, PeersCall *call, Bytes message);
        void (*call_end)(void *userdata, PeersCall *call, PeersStatus status, const char *text);
        void (*call_free)(void *userdata, PeersCall *call);
        void (*flush)(void *userdata);
} Outside;
