/* Many halls in one process and one thread: the agents' own hall, core, log and tree, each with its real
 * files below one directory, joined by links in memory in place of sockets. What a thousand hosts do to one
 * core can be measured so, and what one write costs each of three, counted.
 *
 * Every host has an inbox. Whoever has something in it, or is due, is given a turn, in the order in which
 * they became so; between two rounds of turns one of the disks does a piece of its work. Nothing fails here,
 * nothing is late: tests/sim is for that. */
#pragma once

#include "agent/hall.h"

#define HALLS_MAX 2000u

typedef struct Hall Hall;
typedef struct HallLink HallLink;
typedef struct HallMessage HallMessage;

typedef enum HallDuty { HALL_TURN, HALL_DISK } HallDuty; /* one turn; one piece of what its disk has to do */

struct Hall {
        unsigned i;
        uint64_t id; /* key */
        char name[16], address[32], directory[200];
        uint8_t key[KEY_HASH_BYTES], machine[16];
        Random random;
        Disk *disk;
        Agent *agent;
        bool listening;

        HallMessage *inbox, *inbox_tail;
        HallLink *links;
        uint64_t *wanted; /* hosts to be linked with */
        size_t n_wanted;
        uint64_t epoch; /* of `wanted` */

        uint64_t turn_usec, quiet_usec, dial_usec; /* USEC_INFINITY: never */
        size_t place;                              /* in the heap of those */
        bool ready, working;                       /* in one of the queues */
        UT_hash_handle hh;
};

typedef struct Halls {
        Hall *list[HALLS_MAX];
        unsigned n;
        const char *directory;
        char token[TOKEN_TEXT_BYTES];
        bool verbose;
        /* Virtual time: every piece of work takes this long, and who waits, waits for nothing. 0: the real
         * clock. */
        uint64_t piece_usec;
        uint64_t now, real_since_usec;
        void (*work)(Hall *hall, HallDuty duty); /* NULL: hall_work() itself */
        void (*turned)(Hall *hall);              /* it had one; may be NULL */
        size_t segment_bytes;
} Halls;

extern Halls halls;

void halls_begin(const char *directory); /* which is made; NULL: one below /tmp */
uint64_t halls_now(void);
void halls_go_real(void); /* from virtual time: the clock goes on from where it stands, by itself */
/* Starts so many, forms one cluster of them; false: not within that time. */
bool halls_form(unsigned n, uint64_t usec);
/* `is` is looked at every 5 ms; NULL: just goes on until then. */
bool halls_run_until(uint64_t usec, bool (*is)(void));
bool halls_equal(void); /* all are members and have applied the same */
Hall *halls_leader(void);
void hall_work(Hall *hall, HallDuty duty);
void halls_end(void);
_Noreturn void halls_die(const char *what, int r);

/* ---- Between halls.c and hallnet.c ---- */

Hall *hall_of(uint64_t id); /* NULL: nobody has it */
void hall_make_ready(Hall *hall);
void hall_dial_at(Hall *hall, uint64_t usec);
void hall_net_table(Outside *outside);
void hall_open_inbox(Hall *hall);
void hall_dial(Hall *hall); /* whom it wants to be linked with and is not */
