/* The whole house in one seed. N agents, each with its real hall, core, log and tree, in one process and one
 * thread on virtual time; around them a network, disks and machines that behave as badly as real ones may;
 * clients that want things; and a ghost that remembers what was promised and compares.
 *
 *      world.c     time, chance, the trace, how a run ends
 *      net.c       connections, letters, calls; delays, cuts, resets
 *      host.c      machines: start, turn, disk, kill, power cut
 *      ghost.c     what must be true
 *      promise.c   what was promised is on disk
 *      heard.c     … and what was heard is not forgotten by who said it
 *      lease.c     sessions end neither early nor late
 *      client.c    who wants something, and what he was told
 *      fault.c     what goes wrong
 *      operator.c  who replaces a host
 *      stranger.c  who wants to get in and may not
 *      guest.c     a member that lies
 *      store_…     what lies below the tree: SQLite, or memory (memdb.c) in its place
 *      seen.c      which rare places were reached
 *      simulate.c  the plot of a run
 *
 * Nothing here may look at a real clock, at an address, or at anything else that differs between two runs.
 */
#pragma once

#include "agent/hall.h"
#include "tests/log/simdisk.h"

#define HOSTS_MAX    13
#define VERSIONS_MAX 100
#define MSEC         USEC_PER_MSEC
#define SEC          USEC_PER_SEC

/* What a run may be narrowed to; shrinking does it step by step. All zero: nothing is. */
typedef struct Narrow {
        uint64_t without;        /* kinds of faults that do not happen, as bits */
        unsigned hosts, clients; /* at most */
        uint64_t from, to;       /* faults happen in these ticks */
} Narrow;

/* One run, as its command line says. */
typedef struct Run {
        uint64_t seed, ticks;
        bool verbose;
        bool silent;   /* nobody would read the trace */
        unsigned vote; /* so many vote before anything begins; 0: as the seed has it */
        Narrow narrow;
} Run;

/* What all runs of a batch add up to: shared by their processes. */
#define FAULT_KINDS 64
typedef struct Sums {
        uint64_t ticks, events, wishes, elections, lives;
        uint64_t faults[FAULT_KINDS];
} Sums;

/* How a run ends: the process's exit status. */
enum { SIM_HELD = 0, SIM_BROKEN = 1, SIM_USAGE = 2, SIM_STUCK = 3, SIM_UNSEEN = 4, SIM_ASSERTION = 134 };

typedef struct SimHost SimHost;
typedef struct SimConnection SimConnection;

/* ---- world.c ---- */

typedef void (*Happen)(void *p, uint64_t a);

typedef struct World {
        uint64_t seed, ticks;
        bool verbose, silent;
        Narrow narrow;
        Sums sums;
        uint64_t began_usec; /* the first tick */
        uint64_t now; /* µs of virtual time, the same for all; hosts see it through their own clocks */
        uint64_t hash;
        uint64_t n_events;
        char directory[64];
        Random random; /* for everything that is not a host's own */

        SimHost *hosts[HOSTS_MAX];
        unsigned n_hosts;
        bool founded;
        uint8_t cluster[16];
        char token[TOKEN_TEXT_BYTES];
        unsigned max_voters;
        uint64_t heartbeat_usec, election_usec, session_usec;
        uint64_t session_least_usec; /* each start draws its own between these two; 0: all have session_usec
                                      */
        size_t segment_bytes;        /* of the log */

        size_t uncommitted_bytes, cache_bytes;  /* 0: as in production */
        uint64_t history_usec, history_changes; /* 0: as in production */
        uint64_t slept_usec;                    /* all machines together: nobody did anything meanwhile */
        uint64_t drift_ppm;                     /* of clocks, at most */
        uint64_t disk_usec;                     /* a piece of work takes up to this */

        bool faults, clients;
        uint64_t disturbed_usec; /* something was wrong somewhere, last */
        uint64_t led_usec;       /* somebody began to lead, last */

        uint32_t newer; /* the newest version that a host has, counted from the first */
        bool tampered;  /* a disk or a tree was changed behind its host's back, once */
        bool may_rot;   /* a damaged log is no surprise */
        void (*said)(SimHost *host, int level,
                     const char *text); /* an agent told its operator; may be NULL */
        void (*moment)(SimHost *host);  /* somebody looks at each after its turn; may be NULL */
        void (*aside)(bool begins);     /* a checker looks into a host's disk by itself; may be NULL */
} World;

extern World world;

void at(uint64_t usec, Happen happen, void *p, uint64_t a); /* at this time; in order of calls when equal */
bool happen_next(uint64_t until);                           /* false: nothing more before `until` */
/* What happens again and again, and is moved more often than it happens: one of a host's alarms. */
typedef enum AlarmKind { ALARM_TURN, ALARM_QUIET, _ALARM_MAX } AlarmKind;
void alarm_set(SimHost *host, AlarmKind kind, uint64_t usec); /* USEC_INFINITY: not any more */
uint64_t alarm_at(const SimHost *host, AlarmKind kind);
uint64_t below(uint64_t n); /* 0 <= x < n */
uint64_t between(uint64_t from, uint64_t to);
bool chance(unsigned per_10000);
void note(const char *format, ...) _printf_(1, 2); /* a line of the trace */
void mix(uint64_t value);                          /* into the trace's hash */
_Noreturn void broken(const char *format, ...) _printf_(1, 2);
_Noreturn void stuck(const char *format, ...) _printf_(1, 2);
_Noreturn void finish(int status);
void directory_clear(const char *path); /* it is there afterwards, and empty */
void world_begin(uint64_t seed, uint64_t ticks, bool verbose);

/* ---- host.c ---- */

typedef struct Target {
        bool named, control;
        uint64_t backoff_usec;
        bool dialling;
} Target;

#define OWN_SLOTS 2

struct SimHost {
        unsigned i;
        uint64_t id;
        char name[16], address[32], directory[80];
        uint8_t key[KEY_HASH_BYTES], machine[16];
        SimDisk *disk;
        Disk *door;     /* the agent sees its disk through this; NULL: as it is */
        Agent *agent;   /* NULL: the process does not run */
        uint32_t newer; /* its version, counted from the first */
        bool powered, listening, dying, joining, automatic, accept_damage;
        unsigned n_removals; /* asked and not answered */
        bool stays;          /* one of those was answered: it alone votes */
        bool set_back;       /* its disk is not the one it had */
        unsigned life;
        Random random;
        uint64_t booted_usec, boot_offset_usec;
        uint64_t paused_until, stalled_until;
        uint64_t paused_since;     /* by true time; 0: it is not */
        uint64_t long_pause_until; /* … of one that its own clock shows it, by true time */
        uint64_t disk_token;
        bool disk_pending;
        bool disk_fails; /* a failure was injected: the process may end by itself */
        bool disk_cut;   /* … and then the machine loses power */
        uint64_t restart_token;

        Target targets[HOSTS_MAX];
        SimConnection *control[HOSTS_MAX];

        /* The ghost's view of this host. */
        uint64_t applied, revision, revision_before, checked, oracle_next;
        size_t oracle_position;
        Watch *oracle;
        uint64_t oracle_rests_until;
        bool unsure;            /* its gate was opened without quorum */
        bool diverged, no_tree; /* its tree was made wrong; was found bad and taken out of service */
        uint64_t sessions_at, sessions[HOSTS_MAX]; /* index, and what the others believed of theirs then */
        uint64_t checkpoint_wal;
        uint8_t checkpoint_salt[32];
        uint64_t durable;
        uint64_t born_usec;

        struct {
                bool wanted, asked, done;
                uint64_t since_usec;
                unsigned generation; /* of wishes */
        } own[OWN_SLOTS];
        /* What the operator and the faults know of it. */
        bool touched, leaving; /* its disk was tampered with; it is being replaced */
        uint64_t full_until;   /* no room, or a moment ago there was none */
        bool touched_tree;     /* … where its tree lies */
        uint64_t touched_usec, scrubbed_usec,
                scrub_began_usec; /* last; a whole pass that found nothing began then */
        bool by_join;             /* replaced by "join --discard", not by moving its state away */
        uint64_t leaving_usec;
        bool asked_to_go;       /* of those who know it: that may come to be at any time, and late */
        uint64_t borrowed_usec; /* a stranger came with its name */
        unsigned ends;          /* times it ended or did not start since it was touched */
        unsigned die_in;        /* effects, then the process is gone; 0: lives */
        int64_t drift_ppm, wall_usec;
        SimDisk *image; /* yesterday's disk */

        bool finally_wrote;
        unsigned finally_tries;
};

SimHost *host_add(void);
void host_start(SimHost *host);
void host_kill(SimHost *host, bool power);
void host_restart_at(SimHost *host, uint64_t usec);
void host_stop(SimHost *host); /* cleanly */
void host_pause(SimHost *host, uint64_t usec);
void host_wake(SimHost *host);
bool host_runs(const SimHost *host);  /* process there and not paused */
bool host_is_in(const SimHost *host); /* … and its tree is the cluster's */
SimHost *host_of(uint64_t id);
SimHost *host_leader(void); /* the one with the highest term, or NULL */
uint64_t host_now(const SimHost *host);

void host_alarm(SimHost *host, AlarmKind kind);

/* ---- net.c ---- */

void net_table(Outside *outside);
void net_begin(void);
void net_gone(SimHost *host, bool power); /* its process ended */
void net_back(SimHost *host);
void net_cut(unsigned from, unsigned to, bool cut); /* one way */
bool net_is_cut(unsigned from, unsigned to);
void net_reset(unsigned a, unsigned b);
void net_break_calls(SimHost *host);
void net_slow(unsigned from, unsigned to, uint64_t usec); /* added to each delay */

/* Calls Join with this key, as nobody; `told` comes with each answer, if one comes. */
void net_stranger(SimHost *far, const uint8_t key[static KEY_HASH_BYTES], Bytes request,
                  void (*told)(PeersCall *call, Bytes bytes, void *userdata), void *userdata);
uint64_t net_connection(const SimHost *host, const SimHost *peer); /* number of the control connection; 0 */

/* ---- stranger.c, guest.c: who is not trusted, or with little ---- */

typedef struct Guest { /* a leaf */
        uint64_t id;
        uint8_t key[KEY_HASH_BYTES];
        bool asked, in;
} Guest;

void strangers_begin(void);
void strangers_final(void);
Guest *strangers_guest(void); /* NULL: it was not let in yet */
void guest_begin(void);
bool guest_asks_too(SimHost *host, const SimHost *other); /* a letter to who makes its base */

/* ---- ghost.c ---- */

void ghost_watch(SimHost *host);   /* begin or resume the oracle of a host that is in */
void ghost_unwatch(SimHost *host); /* … from where it was, with the next turn */
void ghost_look(SimHost *host);    /* after each turn */
void ghost_killed(SimHost *host);  /* its process is about to end */
uint64_t ghost_revision(void);
/* "Compacted" is true: what comes next for this watch is below the host's floor, which is where it may go
 * on. */
void ghost_compacted(const SimHost *host, uint64_t next, const WatchEvent *event);
typedef struct Change {
        WatchKind kind;
        char *path;
        uint64_t value; /* hash */
        char text[24];  /* the value's beginning */
        uint64_t revision, create_revision, version;
        bool last;
} Change;
size_t ghost_changes(const Change **ret);
size_t ghost_first(uint64_t revision); /* position of its first change; the end when not known yet */
const Change *ghost_at(const char *path, uint64_t revision); /* what the path held then; NULL: nothing */
size_t ghost_count(const char *subtree, bool whole, uint64_t revision); /* entries there then */
const Change *ghost_of_value(const char *text);
void ghost_final(void); /* every host's tree is the ghost's */
uint64_t hash_bytes(Bytes bytes);

/* ---- promise.c ---- */

void promise_look(SimHost *host);    /* after each turn */
void promise_forgive(SimHost *host); /* its disk was touched: less than was promised may be there */
void promise_tell(void);

/* ---- lease.c ---- */

void lease_look(const SimHost *host); /* after each turn */
void lease_dead(const bool dead[static HOSTS_MAX], uint64_t died_usec);

/* ---- client.c ---- */

void clients_begin(void);
void clients_look(SimHost *host); /* after each turn: what was seen is compared */
void clients_killed(SimHost *host);
void clients_wiped(SimHost *host); /* nobody can be asked any more for what it offered */
bool clients_quiet(void);          /* nobody waits for anything */
bool clients_decided(void);        /* asks for Unknown outcomes; true when all are known */
void clients_final(void);
void clients_changed(const Change *change); /* the ghost learned of it */
void clients_own(SimHost *host);            /* after a start: what is wanted is asked for again */
void clients_finally(SimHost *host);        /* one write, to show that it works */
uint64_t clients_seen(void);                /* newest revision that anybody may rely on */
uint64_t clients_count(void);

/* ---- store_memory.c or store_sqlite.c: what lies below the tree, chosen when linking ---- */

extern const char store_program[];
extern const bool store_is_on_disk;              /* the tree's files lie on the simulated disk */
bool store_rot(SimHost *host);                   /* a byte of its tree, where it is not */
void store_look(SimHost *host);                  /* after each step: what is durable now */
void store_well(SimHost *host);                  /* what failed there and was not met is over */
void store_full(SimHost *host, bool full);       /* no room, also for what is open */
void store_cut(SimHost *host, const char *name); /* power is gone, the process is not there any more */

/* ---- simulate.c ---- */

_Noreturn void plot(const Run *run);
int run_command(const Run *run, char *to, size_t room); /* what repeats it; as snprintf() */

/* ---- batch.c: many seeds, each in a process of its own ---- */

typedef struct Batch {
        uint64_t *seeds;
        size_t n_seeds;
        uint64_t from, to; /* without a list */
        uint64_t usec;     /* of real time; 0: until the seeds are through */
        unsigned jobs;
        uint64_t shrink_usec; /* of real time for each that failed; 0: not */
        bool twice, quiet, progress;
        const char *failures; /* file to write commands to; NULL */
        Run run;
} Batch;

int batch_run(const Batch *batch);
void batch_add(void); /* what this run did, to all of them */
/* Runs it in a process of its own: its status, and the last of what it said. */
int run_apart(const Run *run, char *text, size_t room);

/* ---- shrink.c ---- */

/* The smallest run found within that time that fails in the same way. */
Run shrink(const Run *run, int status, const char *text, uint64_t usec);

/* ---- seen.c ---- */

void seen_share(void);            /* before any run */
void seen_add(void);              /* what this run saw */
bool seen_keep(const char *path); /* with what earlier batches saw */
unsigned seen_tell(bool all);     /* returns how many places nobody saw */

/* ---- operator.c ---- */

void operator_replace(SimHost *host); /* removed as a member, wiped, joined anew */
bool operator_may_replace(const SimHost *host);
void operator_joined(JoinAnswer answer, const char *why, void *userdata); /* after agent_join(): SimHost */
void operator_stop(void);             /* whoever was touched and is not well is replaced */
void operator_begin(void);            /* looks after the hosts now and then */
void operator_forgets(SimHost *host); /* all of its state is gone */
bool operator_helps(SimHost *host);   /* it ended or does not start: is that somebody's doing? */

/* ---- fault.c ---- */

void limits_draw(void); /* how narrow, how slow: before the first host */
void faults_begin(void);
void faults_end(void);      /* everything heals */
bool fault_in_window(void); /* of ticks to which the run was narrowed */
void fault_cut(unsigned from, unsigned to, uint64_t usec);
void versions_begin(void);             /* in some runs a host is older for a while */
const char *fault_name(unsigned kind); /* NULL: there is none */

/* ---- moment.c ---- */

void moments_begin(void); /* before the hosts join */
