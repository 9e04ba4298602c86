/* The inside of the core, shared by its files and by nobody else.
 *
 *      message.c       which messages are well-formed; the outbox
 *      logview.c       what the own log holds
 *      store.c         disk before word: batches, and the promises that wait for them
 *      election.c      pre-vote, vote, stickiness, transfer
 *      progress.c      what the leader knows of one peer
 *      replication.c   appends, beats, commit, on both sides
 *      read.c          ReadIndex
 *      change.c        joint consensus
 *      damage.c        voters that may have lost what they promised
 *      update.c        the drain
 *      raft.c          life, events, time, status
 *
 * Moves between the roles:
 *
 *      passive ──named in a configuration of the own log──▶ follower
 *      follower ──silence──▶ pre-candidate ──majority──▶ candidate ──majority, own vote on disk──▶ leader
 *      any of them ──higher term, or the term's leader──▶ follower
 *      leader ──no majority heard, disk stuck──▶ follower
 *      any ──committed configuration without it──▶ passive */
#pragma once

#include "../base/limits.h"
#include "../base/random.h"
#include "logview.h"
#include "raft.h"

/* Half of the numbers is room enough, and sums of two never wrap. */
#define INDEX_MAX (UINT64_MAX / 4)
#define TERM_MAX  (UINT64_MAX / 4)

/* The voters in force, those of the change before, and hosts that leave. */
#define PEERS_MAX (3 * LIMIT_VOTERS)

/* Moments of the latest beats, so that an answer tells when its question was asked. */
#define BEAT_MARKS 64

/* A campaign after a broken connection comes within this time instead of a whole timeout. */
#define SILENCE_USEC    (150 * USEC_PER_MSEC)
#define SILENCE_RETRIES 3

typedef struct Inflight {
        uint64_t last;
        size_t bytes;
} Inflight;

typedef enum PeerState {
        PEER_PROBE,     /* where the logs part is not known: one append at a time */
        PEER_REPLICATE, /* appends follow each other without waiting, up to the window */
        PEER_SNAPSHOT,  /* what it needs is no longer in the log */
} PeerState;

/* Invariants: match < next; inflight is empty unless the state is REPLICATE. */
typedef struct Peer {
        uint64_t id;
        uint64_t since; /* of the configuration: answers with another one are of an earlier life */
        PeerState state;
        uint64_t match;
        uint64_t next;
        bool paused;         /* PROBE: one is on its way */
        bool empty_probe;    /* the next append carries nothing: the one before may only wait for a disk */
        bool verify;         /* REPLICATE: ask where the peer is, by an empty append */
        uint64_t probe_beat; /* the newest beat when the probe left: answers to later ones overtook it */
        uint64_t ack_usec;   /* when something last moved, or the window was last empty */
        uint64_t verify_usec;
        uint64_t watch_beat; /* beat whose answer tells if appends up to watch_last arrived; 0: none */
        uint64_t watch_last;
        Inflight inflight[LIMIT_INFLIGHT_APPENDS];
        size_t inflight_first;
        size_t n_inflight;
        size_t inflight_bytes;
        uint64_t told;         /* commit index the peer was last told */
        uint64_t contact_usec; /* when an answer last came */
        uint64_t follow_usec;  /* when the newest answered beat was sent */
        uint64_t beat_acked;
        uint64_t load_from; /* a load is under way; 0: none */
        bool load_wanted;   /* … and was not yet handed out */
        bool snapshot_wanted;
        Entry **loaded; /* from load_from's answer, until sent */
        size_t n_loaded;
        uint64_t loaded_from;
        uint64_t life;          /* of the newest answer; older ones are of an earlier process */
        bool damaged;           /* it says so itself: counts for nothing */
        bool lost;              /* its log is shorter than what it acknowledged, and it does not know */
        uint64_t heal;          /* DAMAGED: appended after it said so */
        uint64_t match_beat;    /* the newest beat when match rose */
        uint64_t leaving_usec;  /* not a voter (any more): told the end until then; 0: stays */
        uint64_t leaving_index; /* a stranger: its log has to be ours up to here */
} Peer;

typedef struct Batch {
        uint64_t seq;
        uint64_t last; /* the log is durable up to here once this is stored */
        uint64_t usec;
} Batch;

typedef struct Ballot {
        uint64_t id;
        bool granted;
} Ballot;

/* One acknowledgement at a time: they are cumulative. */
typedef struct Ack {
        bool owed;
        uint64_t to;
        uint64_t since;
        uint64_t log_index;
        uint64_t match; /* equal to the leader's log up to here, on disk or not yet */
        uint64_t sent;
} Ack;

typedef struct Read {
        uint64_t id;
        uint64_t index;
        uint64_t beat; /* 0: no beat was sent since it came */
} Read;

struct Raft {
        RaftOptions options;
        Random random;
        uint64_t now;
        bool started;
        bool failed; /* memory ran out: every event says so from now on */

        RaftRole role;
        uint64_t term;
        uint64_t vote; /* cleared in one place only: set_term() */
        uint64_t leader;
        bool heard; /* from the leader, at heard_usec, and it did not fall silent since */
        uint64_t heard_usec;
        uint64_t election_deadline;
        unsigned quick; /* short timeouts left after a broken connection */

        /* election.c */
        Ballot ballots[2 * LIMIT_VOTERS];
        size_t n_ballots;
        bool force;         /* this campaign was asked for by the leader */
        bool requests_held; /* candidate: vote requests leave when the own vote is on disk */
        bool owe_vote;      /* granted `vote`; told when on disk */

        /* store.c */
        LogView log;
        bool keeps_log; /* not so on an observer, whose log is its tree */
        uint64_t commit;
        uint64_t durable;
        uint64_t next_store;    /* first entry not yet handed to the log */
        uint64_t truncate_from; /* for the next batch */
        Batch *batches;         /* in flight, oldest first */
        size_t n_batches;
        size_t batches_capacity;
        uint64_t store_seq;
        uint64_t stored_seq;
        uint64_t hard_seq; /* the batch that holds term and vote as they are */
        bool hard_dirty;
        Ack ack;

        /* damage.c */
        bool damaged;
        bool lost;                       /* the leader told us */
        uint64_t heal;                   /* what the leader of this term told; 0: nothing yet */
        uint64_t heal_seq;               /* the batch that says "healed"; 0: none */
        uint64_t sick[2 * LIMIT_VOTERS]; /* voters that refused because they are damaged, since a leader was
                                            known */
        size_t n_sick;

        /* Leader */
        uint64_t term_start; /* index of the no-op */
        size_t uncommitted_bytes;
        Peer *peers;
        size_t n_peers;
        uint64_t beat; /* newest; never goes back while the process lives */
        uint64_t beat_due_usec;
        uint64_t beat_marks[BEAT_MARKS];
        uint64_t transfer; /* target; 0: none */
        uint64_t transfer_deadline;
        bool transfer_sent;

        /* read.c */
        Read *reads; /* in order of arrival, so of index and beat */
        size_t n_reads;
        size_t reads_capacity;
        RaftReadDone *done;
        size_t n_done;
        size_t done_capacity;

        /* message.c and update.c: what is collected, and what was handed out last */
        RaftMessage *queue;
        size_t n_queue;
        size_t queue_capacity;
        RaftMessage *messages;
        size_t n_messages;
        size_t messages_capacity;
        Entry **pool; /* references of the messages' entries */
        size_t n_pool;
        size_t pool_capacity;
        Entry **store_entries;
        size_t store_entries_capacity;
        RaftReadDone *done_out;
        size_t done_out_capacity;
        RaftLoad *loads;
        uint64_t *snapshots;
        RaftProgress *progress;
        struct {
                RaftRole role;
                uint64_t term, leader, conf_index;
                bool conf_committed, damaged, lost, halted;
        } seen; /* as of the last update */
};

/* raft.c */
int raft_done(Raft *raft, int r); /* the end of every event */
void *raft_reserve(Raft *raft, void *array, size_t *capacity, size_t n, size_t size);
bool raft_is_eligible(const Raft *raft);
void raft_refresh_role(Raft *raft);
void become_follower(Raft *raft, uint64_t term, uint64_t leader);
void raft_advance_commit(Raft *raft, uint64_t index);
static inline const Conf *raft_conf(const Raft *raft) {
        return &logview_conf(&raft->log)->conf;
}
static inline uint64_t raft_conf_index(const Raft *raft) {
        return logview_conf(&raft->log)->index;
}
static inline bool raft_is_ready(const Raft *raft) {
        return raft->role == RAFT_LEADER && raft->commit >= raft->term_start;
}
/* The highest value that a majority (of each list, while joint) has reached. */
uint64_t raft_quorum(const Raft *raft, uint64_t (*value)(const Raft *raft, uint64_t id));

/* message.c */
bool message_is_sane(const Raft *raft, const RaftMessage *message);
void message_send(Raft *raft, RaftMessage message); /* fills from, and term when 0 */

/* store.c */
void set_term(Raft *raft, uint64_t term);
void set_vote(Raft *raft, uint64_t vote);
bool store_hard_is_durable(const Raft *raft);
bool store_is_stuck(const Raft *raft);
void store_truncate(Raft *raft, uint64_t from);
void store_rebase(Raft *raft);
void store_complete(Raft *raft, uint64_t seq);
void store_release_ack(Raft *raft);
void store_build(Raft *raft, RaftStore *ret);

/* election.c */
void election_draw(Raft *raft);
void election_precampaign(Raft *raft);
void election_campaign(Raft *raft, bool force);
void election_promises(Raft *raft);
int election_receive_prevote(Raft *raft, const RaftMessage *m);
int election_receive_vote(Raft *raft, const RaftMessage *m);
int election_receive_reply(Raft *raft, const RaftMessage *m);
int election_receive_timeout_now(Raft *raft, const RaftMessage *m);
void transfer_continue(Raft *raft);
void transfer_hand_over(Raft *raft);

/* progress.c */
Peer *peer_find(const Raft *raft, uint64_t id);
Peer *peer_add(Raft *raft, uint64_t id, uint64_t since);
void peer_remove(Raft *raft, Peer *peer);
void peer_probe(Peer *peer, uint64_t next);
void peer_replicate(Peer *peer);
bool peer_window_is_full(const Peer *peer);
void peer_sent(Peer *peer, uint64_t last, size_t bytes, uint64_t now);
bool peer_acknowledged(Peer *peer, uint64_t match, uint64_t base_index, uint64_t now);
void peer_refused(Peer *peer, const LogView *log, const RaftMessage *m);
void peer_answered_beat(Peer *peer, const RaftMessage *m, uint64_t now, uint64_t heartbeat_usec);
void peer_forget_loaded(Peer *peer);
void peer_damaged(Raft *raft, Peer *peer);
void peers_sync(Raft *raft);
void peers_clear(Raft *raft);

/* replication.c */
void become_leader(Raft *raft);
void leader_append_noop(Raft *raft);
int leader_append(Raft *raft, Entry *entry);
void leader_commit(Raft *raft);
void leader_time(Raft *raft);
void leader_beats(Raft *raft);
void leader_appends(Raft *raft);
void leader_meet_stranger(Raft *raft, const RaftMessage *m);
uint64_t leader_quorum_contact(const Raft *raft);
uint64_t leader_deadline(const Raft *raft);
int follower_receive_append(Raft *raft, const RaftMessage *m);
int follower_receive_beat(Raft *raft, const RaftMessage *m);
int leader_receive_append_reply(Raft *raft, const RaftMessage *m);
int leader_receive_beat_reply(Raft *raft, const RaftMessage *m);

/* read.c */
bool reads_are_unsent(const Raft *raft);
void reads_sent(Raft *raft, uint64_t beat);
void reads_confirm(Raft *raft);
void reads_lose(Raft *raft);

/* damage.c */
static inline bool peer_counts(const Peer *peer) {
        return !peer->damaged && !peer->lost;
}
bool leader_hears_life(Raft *raft, Peer *peer, const RaftMessage *m);
void leader_notices_loss(Raft *raft, Peer *peer, const RaftMessage *m);
void leader_tells_damage(const Peer *peer, RaftMessage *m);
void follower_hears_damage(Raft *raft, const RaftMessage *m);
bool damage_is_over(const Raft *raft);
void sick_note(Raft *raft, uint64_t id);
bool damage_halts(const Raft *raft);

/* change.c */
void change_continue(Raft *raft);

/* update.c */
void append_build(Raft *raft, RaftMessage message, Entry **entries, size_t n);
