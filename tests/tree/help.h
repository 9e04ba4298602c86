/* A real tree in a directory of its own, and short words to drive it. Every command goes through the same
 * door as in the agent; entries count up from 1, host 1 ("h1") is the founder. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "agent/base/random.h"
#include "agent/tree/tree.h"

#define HOSTS 8

typedef struct Bench {
        char directory[64];
        char name[80];
        TreeOptions options;
        Tree *tree;
        uint64_t cluster_usec;
        uint64_t incarnation[HOSTS], serial[HOSTS], generation[HOSTS];
        Buffer live; /* events as they were heard, as text */
        bool signature_valid;
        bool said; /* something was reported */
} Bench;

int bench_setup(void **state); /* founded, host 1 announced and attached */
int bench_teardown(void **state);
Bench *bench_new(const char *name);
Bench *bench_free(Bench *bench);
void bench_reopen(Bench *bench, bool clean);

void event_write(const TreeChange *change, void *buffer);

/* Applies as the next entry, exactly as it is. */
int apply_raw(Bench *bench, const Command *command, Result *ret);
/* … with the host's incarnation and next serial. */
Result apply(Bench *bench, Command command);
Result set(Bench *bench, const char *path, const char *value);
Result delete (Bench *bench, const char *path, uint32_t flags);
Result announce(Bench *bench, uint64_t host, const char *nonce16);
Result attach(Bench *bench, uint64_t host);
void noop(Bench *bench);
Member member_of(uint64_t id, const char *name);
/* Adds host `id` with a token made for it, announces and attaches it. */
void add_host(Bench *bench, uint64_t id, const char *name, MemberClass class);
Token token_of(uint8_t id, MemberClass class, uint32_t uses, uint64_t lifetime);
TreeStatus status_of(const Bench *bench);
TreeDigest digest_of(const Bench *bench);
uint64_t revision_of(const Bench *bench);
char *value_of(Bench *bench, const char *path); /* static; NULL: none */
/* A random command out of all kinds on few paths, the same from the same numbers. */
void apply_random(Bench *bench, Random *random);

#define assert_status(result, want) \
        assert_string_equal(result_status_name((result).status), result_status_name(want))
