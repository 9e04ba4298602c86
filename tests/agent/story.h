/* What a story consists of: the machines (machines.c), what is asked of their agents (wishes.c), what is
 * told of both (telling.c), and the language in which it is written down (story.c, which explains it). */
#pragma once

#include "tests/sim/sim.h"

#include <stdio.h>

#define WORDS_MAX  16
#define WISHES_MAX 512
#define WAIT_USEC  (30 * SEC)

typedef enum WishKind {
        WISH_WRITE,
        WISH_OWN,
        WISH_READ,
        WISH_JOIN,
        WISH_ADMIN,
        WISH_TOKEN,
        WISH_MEMBERS
} WishKind;

/* What somebody asked of a host. */
typedef struct Wish {
        WishKind kind;
        SimHost *host;
        char what[100], path[64], value[32];
        bool answered;
        uint64_t incarnation, serial;
} Wish;

/* What was last told of a host; the next look tells what is new. */
typedef struct Seen {
        bool in, leads, observer, full, damaged, out, fetching, ready;
        uint64_t term, generation;
        Conf conf;
} Seen;

typedef struct Story {
        FILE *out;
        bool quiet;
        unsigned life[HOSTS_MAX];
        Seen seen[HOSTS_MAX];
        Watch *watch[HOSTS_MAX];
        SimDisk *images[HOSTS_MAX];
        Wish wishes[WISHES_MAX];
        size_t n_wishes;
        uint64_t flood_left, flood_waiting, flood_failed;
} Story;

extern Story story;

/* ---- telling.c ---- */

void _printf_(1, 2) tell(const char *format, ...);
const char *name_of(uint64_t id);
void said(SimHost *host, int level, const char *text);
const char *conf_text(const Conf *conf);
bool step(uint64_t until); /* one event of the world, and what it changed is told; false: none before then */
void run_for(uint64_t usec);
bool run_until(const bool *is);
void tell_watch_end(SimHost *host);

/* ---- wishes.c ---- */

uint64_t time_of(const char *text);
Wish *wish_write(SimHost *host, const char *verb, const char *path, const char *value, uint64_t usec);
Wish *wish_read(SimHost *host, const char *verb, const char *path);
Wish *wish_join(SimHost *host, char **words, size_t n);
Wish *wish_token(SimHost *host, char **words, size_t n);
void wish_presume(SimHost *host, uint64_t term);
Wish *wish_own(SimHost *host, const char *path, const char *value, const char *tag);
Wish *wish_members(SimHost *host);
Wish *wish_admin(SimHost *host, const char *verb, uint64_t subject);
void wish_flood(SimHost *host, const char *path, uint64_t n, size_t bytes, unsigned keys);
void tell_watch(SimHost *host, const char *subtree, uint64_t from);
int tell_entry(const AgentEntry *entry, void *userdata);
int tell_owned(const char *path, const char *tag, void *userdata);
void tell_outcome(SimHost *host, const char *value);
void tell_history(const char *path);
void tell_show(SimHost *host);

/* ---- machines.c ---- */

void machine_found(SimHost *host);
void machine_stop(SimHost *host);
void machine_copy(SimHost *host);
void machine_restore(SimHost *host);
void machine_wipe(SimHost *host);
void machine_rot(SimHost *host);
void machine_rot_log(SimHost *host);
void machine_rot_tree(SimHost *host, bool lose);
bool machine_diverge(SimHost *host, const char *path);
void machine_spoil(SimHost *host);
void machine_cut(unsigned a, unsigned b);
void machines_heal(void);
void machine_cut_off(const SimHost *host);
void machines_bare(unsigned n, unsigned voters);
void machines_cluster(unsigned n, unsigned voters);
