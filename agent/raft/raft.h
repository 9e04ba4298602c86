/* The consensus core: a value machine. Events go in (time reached, a letter, "batch n is on disk", a
 * proposal), one RaftUpdate comes out (what to store, what to send, what is committed). It knows no clock,
 * random source, fd or disk: now is an argument, randomness a stream seeded at init.
 *
 * The contract with the hall:
 *  - Every message in an update may leave at once. What promises durability (votes, acknowledgements) is
 * kept inside until raft_stored() of the batch it depends on; so "disk before word" is the core's own
 * invariant.
 *  - update.store, when it has a seq, must be handed to the log in order. The log answers raft_stored(seq),
 * which covers all batches up to seq. A seq is never used twice, so a stale completion of a truncated write
 * cannot count for what replaced it.
 *  - Entries up to update.commit may be applied, in order, by raft_entry(). The core keeps them until
 *    raft_release() says that the hall no longer needs them, and somewhat longer for slow peers
 * (LIMIT_CACHE_BYTES).
 *  - Entries before the cache are asked for by update.loads and given by raft_loaded(); entries before the
 * log by update.snapshots.
 *
 * A host that is not in the configuration is passive: it never campaigns, and its log is its tree, of which
 * the hall tells by raft_observe(). It answers vote requests of members whose configuration names it (else
 * the first growth could hang for ever) and becomes a voter by raft_base() and the appends that follow.
 *
 * A host that may have lost what it promised (rot) is *damaged*: options.damaged. It takes appends and keeps
 * nobody waiting, but it neither votes nor campaigns nor counts, until it is whole again (damage.c tells
 * when); then a batch with `healed` says so.
 *
 * Sources: Raft (Ongaro and Ousterhout, 2014) and Ongaro's thesis, by section at the branches that implement
 * them. */
#pragma once

#include "../base/conf.h"
#include "../base/letter.h"

typedef struct Raft Raft;

typedef enum RaftRole {
        RAFT_PASSIVE,
        RAFT_FOLLOWER,
        RAFT_PRECANDIDATE,
        RAFT_CANDIDATE,
        RAFT_LEADER,
} RaftRole;

/* Outcomes of events, all positive; 0 is done, negative only -ENOMEM. */
enum {
        RAFT_NOT_LEADER = 1,
        RAFT_BUSY,      /* uncommitted tail full, transfer going on, or a configuration change is pending */
        RAFT_NOT_READY, /* the leader's no-op is not committed yet (thesis 6.4): ask again */
        RAFT_IGNORED,   /* a message that changes nothing: stale, malformed, not for us */
        RAFT_INVALID, /* an impossible argument: a configuration that is not one step away, unknown target */
};

typedef struct RaftOptions {
        uint64_t id; /* own host id, not 0 */
        uint64_t seed;
        uint64_t heartbeat_usec;
        uint64_t election_usec; /* timeouts are drawn from [election, 2 * election) */
        size_t cache_bytes;     /* LIMIT_CACHE_BYTES; smaller in tests */
        size_t uncommitted_bytes;
        uint64_t life; /* rises with each start of this host: its answers say which life they are of */
        bool damaged;  /* the log says that what it promised may be lost */
} RaftOptions;

typedef struct RaftStore {
        uint64_t seq;           /* 0: nothing to store */
        uint64_t truncate_from; /* drop this index and all behind it before appending; 0: nothing */
        Entry **entries;        /* borrowed: valid until the next event; the log takes its own references */
        size_t n_entries;
        bool hard_state; /* term and vote below are new */
        bool healed;     /* the damage is over: in one record with term and vote (hard_state is set, too) */
        uint64_t term;
        uint64_t vote;
} RaftStore;

typedef struct RaftReadDone {
        uint64_t id;
        bool lost; /* leadership ended before it was confirmed: ask again elsewhere */
        uint64_t index;
} RaftReadDone;

typedef struct RaftLoad {
        uint64_t peer;
        uint64_t from;
        uint32_t max_entries;
        size_t max_bytes;
} RaftLoad;

/* All arrays belong to the core and are valid until the next call of any raft_…() that is not const. */
typedef struct RaftUpdate {
        RaftStore store;
        RaftMessage *messages;
        size_t n_messages;
        uint64_t commit;
        RaftReadDone *reads;
        size_t n_reads;
        RaftLoad *loads; /* one outstanding per peer; after a new election a new one replaces the old */
        size_t n_loads;
        uint64_t *snapshots; /* peers that need one; one outstanding per peer, as above */
        size_t n_snapshots;
        bool role_changed;      /* role, term, leader or configuration */
        uint64_t deadline_usec; /* when raft_tick() is due next */
} RaftUpdate;

typedef struct RaftProgress {
        uint64_t id;
        uint64_t match;
        uint64_t next;
        bool active; /* answered within the last election timeout */
        bool in_snapshot;
        bool damaged; /* says so itself; does not count */
        bool lost;    /* its log ends before what it had acknowledged, and it does not know: neither */
        bool leaves;  /* no voter (any more): told the end of its time, or taken there by a snapshot */
} RaftProgress;

typedef struct RaftStatus {
        RaftRole role;
        uint64_t id, term, vote, leader; /* leader 0: unknown */
        uint64_t base_index, base_term;  /* what lies before the log */
        uint64_t last_index, last_term;
        uint64_t durable; /* own log on disk up to here */
        uint64_t commit;
        bool ready; /* leader whose no-op is committed */
        bool transferring;
        bool damaged;  /* neither votes nor counts */
        bool lost;     /* the leader says that this log lost what it had acknowledged: store "damaged", start
                          anew */
        bool halted;   /* so many voters are damaged, as far as is known here, that nobody can be elected */
        uint64_t heal; /* damaged: whole again when this is committed and on disk; 0: no leader said yet */
        bool keeps_log;               /* voter, or on its way to be one; else the log is the tree */
        uint64_t quorum_contact_usec; /* leader: a majority is known to have followed at this time (the
                                         sending of the beat it answered); else: leader last heard, 0: never
                                       */
        const Conf *conf;             /* in force: the newest appended (section 6) */
        uint64_t conf_index;
        bool conf_committed;
        const RaftProgress *progress; /* leader: per peer of conf, and who leaves */
        size_t n_progress;
} RaftStatus;

/* Life: new, restore what the log holds, start. */
int raft_new(Raft **ret, const RaftOptions *options);
Raft *raft_free(Raft *raft); /* accepts NULL, returns NULL */
DEFINE_CLEANUP(Raft *, raft_free);

/* The recovered hard state and base; `conf` is the newest committed configuration at the base. */
void raft_restore(Raft *raft, uint64_t term, uint64_t vote, uint64_t base_index, uint64_t base_term,
                  const Conf *conf, uint64_t conf_index);
/* Then each entry of the log, in order. `keep`: hold it in memory (it is to be applied); else only its term.
 */
int raft_restore_entry(Raft *raft, Entry *entry, bool keep);
/* Then start; entries up to `commit` are known to be committed. */
int raft_start(Raft *raft, uint64_t commit, uint64_t now_usec);

/* Events. */
int raft_tick(Raft *raft, uint64_t now_usec);
int raft_receive(Raft *raft, const RaftMessage *message, uint64_t now_usec);
int raft_stored(Raft *raft, uint64_t seq, uint64_t now_usec);
/* Takes an entry without index; sets index and term. The caller keeps its own reference. */
int raft_propose(Raft *raft, Entry *entry, uint64_t now_usec);
/* Begin a change to `n` voters (joint, then final by itself when the joint one is committed). */
int raft_change(Raft *raft, const uint64_t *voters, size_t n, uint64_t now_usec);
int raft_read(Raft *raft, uint64_t id,
              uint64_t now_usec); /* ReadIndex; ids are the caller's, never reused */
int raft_transfer(Raft *raft, uint64_t target, uint64_t now_usec); /* target 0: the best */
/* The control connection to a peer was reset or refused: if it led, campaign soon (0-150 ms). */
int raft_silent(Raft *raft, uint64_t peer, uint64_t now_usec);
int raft_loaded(Raft *raft, uint64_t peer, Entry **entries, size_t n_entries,
                uint64_t now_usec); /* n 0: gone */
int raft_snapshot_done(Raft *raft, uint64_t peer, uint64_t index, bool ok, uint64_t now_usec);
/* Passive host: the tree is at (index, term) with this newest committed configuration. */
void raft_observe(Raft *raft, uint64_t index, uint64_t term, const Conf *conf, uint64_t conf_index);
/* Leader: appends an empty entry, now. For an observer that is damaged: whole again when its tree has it. */
int raft_mark(Raft *raft, uint64_t *ret_index, uint64_t now_usec);
/* Passive host, damaged: its tree holds, synced, what the leader of `term` had marked at `index` for it. */
/* The host found out that its state is a copy or was set back: from now on, and for all of this life, it has
 * no say, as if it were lost. */
int raft_distrust(Raft *raft, uint64_t now_usec);
int raft_heal(Raft *raft, uint64_t index, uint64_t term, uint64_t now_usec);
/* A base record is durable: the log is empty behind (index, term); the term is at least `term`, its vote
 * spent. Used at promotion and after installing a snapshot. Keeps the tail if the log has that (index,
 * term). */
int raft_base(Raft *raft, uint64_t index, uint64_t term, const Conf *conf, uint64_t conf_index,
              uint64_t now_usec);
/* Passive host: the log was dropped behind a synced tree (demotion); raft_observe() tells of it from now on.
 */
void raft_demoted(Raft *raft);
/* Passive host: its log was ordered to begin behind an entry of `term`. That term is known there, and its
 * vote spent: the core must not write down less later. */
void raft_spent(Raft *raft, uint64_t term);
/* The hall needs no entry up to `index` any more (its tree has committed them). */
void raft_release(Raft *raft, uint64_t index);
/* The log begins behind `index` now. */
void raft_trimmed(Raft *raft, uint64_t index);

/* Drain: fills *ret with what the events since the last call brought about. */
int raft_update(Raft *raft, uint64_t now_usec, RaftUpdate *ret);

/* Looking. */
Entry *raft_entry(const Raft *raft, uint64_t index); /* borrowed; NULL when not in memory */
void raft_status(const Raft *raft, RaftStatus *ret);
uint64_t raft_term_of(const Raft *raft, uint64_t index); /* 0: not in the log */
const char *raft_role_name(RaftRole role);
