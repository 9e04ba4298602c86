/* One real agent, alone, on a disk in memory, in virtual time and without a network: a cluster of one. */
#pragma once

#include <setjmp.h>
#include <stddef.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <unistd.h>
#include "agent/hall.h"
#include "tests/log/simdisk.h"

typedef struct Lone {
        Agent *agent;
        SimDisk *disk;
        uint64_t now;
        Random random;
        char directory[64];
        char said[1024]; /* the last thing it told its operator */
} Lone;

static inline uint64_t lone_now(void *userdata) {
        return ((Lone *)userdata)->now;
}

static inline void lone_random(void *userdata, void *data, size_t size) {
        for (size_t i = 0; i < size; i++)
                ((uint8_t *)data)[i] = (uint8_t)random_next(&((Lone *)userdata)->random);
}

static inline void lone_say(void *userdata, int level, const char *text) {
        Lone *lone = userdata;
        snprintf(lone->said, sizeof(lone->said), "%s", text);
}

static inline void lone_wake(void *userdata) {
}

static inline int lone_set_targets(void *userdata, const PeersTarget *targets, size_t n) {
        return 0;
}

static inline int lone_send(void *userdata, uint64_t host, Bytes letter) {
        return -ENOTCONN;
}

static inline int lone_call_address(void *userdata, const char *address,
                                    const uint8_t (*keys)[KEY_HASH_BYTES], size_t n_keys, const char *method,
                                    Bytes request, uint64_t timeout_usec, const PeersCallEvents *events,
                                    PeersCall **ret) {
        return -EHOSTUNREACH;
}

static inline AgentOptions lone_options(Lone *lone, Disk *disk) {
        return (AgentOptions){
                .state_directory = lone->directory,
                .disk = disk,
                .host_name = "lone",
                .heartbeat_usec = 100 * USEC_PER_MSEC,
                .election_usec = 600 * USEC_PER_MSEC,
                .session_usec = 5 * USEC_PER_SEC,
                .max_voters = 5,
                .report = {.say = lone_say, .userdata = lone},
                .outside =
                        {
                                .userdata = lone,
                                .now = lone_now,
                                .wall = lone_now,
                                .random = lone_random,
                                .wake = lone_wake,
                                .set_targets = lone_set_targets,
                                .send = lone_send,
                                .call_address = lone_call_address,
                                .flush = lone_wake,
                        },
        };
}

static inline int lone_try(Lone *lone) {
        AgentOptions options = lone_options(lone, simdisk_disk(lone->disk));
        return agent_new(&lone->agent, &options);
}

static inline void lone_start(Lone *lone) {
        assert_int_equal(lone_try(lone), 0);
}

static inline void lone_run(Lone *lone, uint64_t usec) {
        for (uint64_t end = lone->now + usec; lone->now < end; lone->now += 5 * USEC_PER_MSEC) {
                assert_int_equal(agent_turn(lone->agent), 0);
                while (agent_step(lone->agent) > 0)
                        ;
        }
}

static inline Lone *lone_new(void) {
        Lone *lone = calloc(1, sizeof(Lone));
        assert_non_null(lone);
        *lone = (Lone){.now = USEC_PER_SEC, .disk = simdisk_new(1), .random.state = 7};
        snprintf(lone->directory, sizeof(lone->directory), "/tmp/treaty-lone.XXXXXX");
        assert_non_null(mkdtemp(lone->directory));
        lone_start(lone);
        lone_run(lone, 2 * USEC_PER_SEC);
        return lone;
}

static inline void lone_free(Lone *lone) {
        char command[100];
        agent_free(lone->agent, true);
        simdisk_free(lone->disk);
        snprintf(command, sizeof(command), "rm -rf %s", lone->directory);
        assert_int_equal(system(command), 0);
        free(lone);
}

static inline void lone_kill(Lone *lone) {
        lone->agent = agent_free(lone->agent, false);
        simdisk_kill(lone->disk);
}

/* What a caller was told; kept by the test. */
typedef struct Told {
        unsigned n;
        RequestAnswer last;
} Told;

static inline void lone_told(const RequestAnswer *answer, void *userdata) {
        Told *told = userdata;
        told->n++;
        told->last = *answer;
}

static inline void lone_set(Lone *lone, const char *path, const char *value, Told *told) {
        Command command = {.kind = COMMAND_SET, .path = path, .value = BYTES(value, strlen(value))};
        assert_int_equal(agent_request(lone->agent, &command, REQUEST_TIMEOUT_USEC, lone_told, told, NULL),
                         0);
}
