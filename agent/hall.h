/* Inside the hall: the Agent and its parts, one per file. A part is a struct inside the Agent and the
 * functions that the turn, the letters or the door call on it. Parts speak to rooms; rooms never speak to
 * each other.
 *
 *      recover.c    start: log and tree are brought together, the core is restored
 *      turn.c       the turn: the only place from which anything leaves
 *      apply.c      committed entries become rows, events and answers
 *      request.c    this host's writes: serials, streams of offers, answers
 *      offer.c      the leader's side: taking offers
 *      read.c       permission to look
 *      watch.c      changes, once each, in order
 *      session.c    this host's session; the leader's watch over all sessions
 *      owned.c      what this host's session owns
 *      follow.c     an observer follows; a voter serves followers
 *      snapshot.c   a tree travels
 *      roles.c      who votes
 *      member.c     who belongs: targets, judgement, hello, own row
 *      join.c       becoming a member, making others members
 *      letter.c     what arrives on control connections
 *      host.c       who this host is: the host file
 *      check.c      are the trees still the same: digests compared
 *      heal.c       a bad tree is taken out of service and fetched again
 *      book.c       whom to ask for it
 *      scrub.c      all of the tree is read again
 *      quarantine.c a state that is a copy, or was set back, by start numbers
 *      word.c       a log that is shorter than what its host gave its word for
 *      anew.c       all state is dropped, and the host begins anew as another
 *      share.c      what one member may ask of this host
 *      standing.c   how far every member has applied, as the leader knows
 */
#pragma once

#include <uthash.h>
#include <utlist.h>
#include "agent.h"
#include "base/call.h"
#include "base/path.h"
#include "base/random.h"
#include "roof.h"
#include "log/log.h"
#include "outside.h"
#include "raft/raft.h"
#include "tree/tree.h"
#include "wire/wire.h"

/* The hall's own duties look at the clock this often at most. */
#define HALL_TICK_USEC (100 * USEC_PER_MSEC)

/* ---- host.c ---- */

/* Invariant: id is not 0; what is here is what the file says. */
typedef struct HostFile {
        uint64_t id;
        uint8_t machine[16]; /* app-specific machine id: state copied to another machine is refused */
        bool listen;         /* a token was made or a join was done: listen for peers */
        char switching[LOG_TREE_NAME_BYTES]; /* the tree of a cluster that is being joined: when the log
                                                names it, the entries there are of another cluster; "" none
                                              */
        uint64_t start;   /* after rot its start numbers went on from here, a multiple of 2^32; 0: never */
        bool quarantined; /* the state is a copy or was set back (quarantine.c) */
} HostFile;

int host_file_load(Disk *disk, HostFile *ret); /* 0; 1 = none; -EBADMSG */
int host_file_save(Disk *disk, const HostFile *host);
/* A small file of text as a whole; `room` counts the NUL behind it. Its size, -ENOENT, -errno. */
int state_file_read(Disk *disk, const char *name, char *to, size_t room);
int state_file_replace(Disk *disk, const char *name, const char *aside, const char *text, size_t size);

/* ---- request.c ---- */

typedef enum RequestState {
        REQUEST_QUEUED,  /* no serial yet: never offered */
        REQUEST_OFFERED, /* has a serial: may be in some leader's log */
        REQUEST_UNKNOWN, /* the caller was told so; not offered any more, its place is held */
} RequestState;

struct Request {
        Agent *agent;
        RequestState state;
        CommandKind kind;
        uint64_t serial;
        uint64_t deadline_usec;
        uint64_t margin_usec; /* not offered any more with less than this left */
        uint64_t sent_on;     /* stream on which it was last offered */
        uint64_t sent_behind; /* the serial before it there */
        Answer refusal;       /* != DONE: refused at once, told in the next turn */
        uint8_t *command;     /* kept as struct until it has a serial: the identity is part of the bytes */
        size_t command_size;
        Buffer encoded;
        RequestDone done; /* NULL: forgotten or answered */
        void *userdata;
        Request *prev, *next; /* in Requests.queued or .offered, by serial there */
};

typedef struct Decided { /* an Unknown whose fate is known now; the tree is not known to keep it */
        uint64_t serial;
        uint64_t named_by; /* the serial of the request that asks the tree to keep it; 0: none yet */
} Decided;

typedef struct Requests {
        Request *queued;  /* in order of arrival */
        Request *offered; /* by serial, UNKNOWN ones among them */
        unsigned n;       /* all */
        unsigned n_refusals;
        size_t bytes;
        Decided decided[LIMIT_KEPT]; /* by serial */
        unsigned n_decided;
        uint8_t nonce[16];
        uint64_t incarnation; /* 0: not announced yet */
        uint64_t announce_sent_usec;
        uint64_t next_serial; /* the one to give next, from 1 */
        /* The stream of offers: one connection, one term. */
        uint64_t stream; /* 0: none */
        uint64_t stream_leader, stream_term, stream_connection;
        uint64_t previous; /* last serial offered on it */
        uint64_t busy_until_usec;
        uint64_t look_usec;   /* when those that are offered are looked at for their deadlines next */
        uint64_t queued_usec; /* … and those that are not */
        uint64_t retry_usec;  /* something could not be sent: again then */
        uint64_t n_streams;
} Requests;

void requests_offer(Agent *agent);    /* turn: number, offer, announce */
void requests_time_out(Agent *agent); /* turn: deadlines */
uint64_t requests_deadline(const Agent *agent);
void requests_refused(Agent *agent, uint64_t host, const LetterOfferRefused *refused);
void requests_applied(Agent *agent, uint64_t serial, const Result *result); /* our own entry */
void requests_announced(Agent *agent, uint64_t incarnation);
void requests_replaced(Agent *agent);            /* our row is another process's now */
void requests_rebase(Agent *agent);              /* the tree was replaced: look up what became of ours */
void requests_fail(Agent *agent, Answer answer); /* everything, on stop or change of cluster */
void requests_reset(Agent *agent);               /* a new life in another cluster */

/* ---- offer.c ---- */

typedef struct OfferStream {
        uint64_t host; /* key */
        uint64_t stream, connection, last;
        UT_hash_handle hh;
} OfferStream;

typedef struct Offers {
        OfferStream *streams; /* of this term; emptied with it */
        uint64_t term;
} Offers;

void offers_take(Agent *agent, uint64_t host, uint64_t connection, const LetterOffer *offer);
void offers_reset(Agent *agent);
/* Proposes a command as the leader. 0, RAFT_… outcome, -errno. */
int hall_propose(Agent *agent, Bytes command);
int hall_propose_own(Agent *agent, const Command *command); /* incarnation 0: conditional ones */

/* ---- read.c ---- */

typedef struct Reads {
        Read *head;
        uint64_t incarnation; /* random part of ids given to the leader */
        uint64_t next_id;
        /* For others: questions that this leader's core is answering. */
        struct ReadQuestion *questions;
        bool gate; /* after an unclean stop: reads wait for a first ReadIndex */
        uint64_t gate_until_usec;
        Read *gate_read;
        uint64_t again_usec; /* the leader could not be asked: again then */
        uint64_t due_usec;   /* of those that wait, the first is over or asked again */
        bool unasked;        /* one of them has no question under way */
        unsigned n, n_questions;
} Reads;

void reads_start(Agent *agent);                          /* turn: ask for what waits */
void reads_done(Agent *agent, const RaftReadDone *done); /* our core answered */
void reads_asked(Agent *agent, uint64_t host, const LetterRead *question);
void reads_answered(Agent *agent, uint64_t host, const LetterRead *answer);
void reads_fire(Agent *agent); /* turn: after apply */
uint64_t reads_deadline(const Agent *agent);
void reads_fail(Agent *agent, Answer answer);

/* ---- watch.c ---- */

typedef struct Watches {
        struct WatchPath *paths; /* by subtree */
        Watch *behind;           /* those that catch up from history */
        unsigned n;
        unsigned n_previous; /* of them: who want the value before, too */
        uint64_t mark_usec;  /* when marks are due next */
        unsigned n_marks;
        struct WatchPending *pending; /* changes noted while an entry is applied */
        struct WatchPending *pending_tail;
        Watch *graveyard;
        unsigned delivering; /* depth of deliveries: nothing is freed under them */
} Watches;

void watches_note(Agent *agent, const TreeChange *change); /* TreeListener */
void watches_fire(Agent *agent);                           /* after each apply */
void watches_unnote(Agent *agent);                         /* … that failed: it is applied again */
void watches_catch_up(Agent *agent);                       /* turn */
void watches_rebase(Agent *agent);                         /* tree replaced */
void watches_end(Agent *agent);
void watches_abandon(Agent *agent); /* another cluster, other revisions: all end with COMPACTED */
uint64_t watches_deadline(const Agent *agent);

/* ---- owned.c ---- */

typedef enum OwnedState { OWNED_WANTED, OWNED_WRITING, OWNED_LIVE, OWNED_ENDING, OWNED_DELETING } OwnedState;

typedef struct Owned {
        Agent *agent;
        OwnedState state;
        char path[LIMIT_PATH_BYTES + 1];
        char tag[OWNER_TAG_BYTES + 1];
        uint8_t *value;
        size_t value_size;
        uint64_t retry_usec;
        RequestDone done; /* the first writer's caller */
        void *userdata;
        uint64_t deadline_usec;
        Request *request;
        bool loaded; /* found in the tree: nobody asked this process for it */
        struct Owned *prev, *next;
} Owned;

void owned_work(Agent *agent);                      /* turn */
void owned_load(Agent *agent, uint64_t generation); /* what the tree says this host owns */
void owned_anew(Agent *agent);                      /* another session began */
void owned_leave(Agent *agent);                     /* another cluster: it is made anew there */
void owned_reset(Agent *agent);
uint64_t owned_deadline(const Agent *agent);

/* ---- session.c ---- */

typedef struct SessionWatch { /* leader: one per host */
        uint64_t host;        /* key */
        uint64_t heard_usec;
        uint64_t ending_generation; /* proposed */
        uint64_t generation;        /* of the session in the tree; 0: there is none, or it ended */
        uint64_t lasts_usec;        /* its timeout there */
        /* Keep-alives that wait for the next beat, and those that wait for its answers; 0: none. */
        uint64_t pending_generation, pending_sent;
        uint64_t asked_generation, asked_sent;
        UT_hash_handle hh;
} SessionWatch;

typedef struct Sessions {
        uint64_t generation; /* own; 0: detached */
        uint64_t lasts_usec; /* its timeout in the tree */
        bool attaching;
        bool work;               /* somebody wants something now */
        bool told_voters;        /* the last keep-alive went to all who may lead */
        uint64_t keepalive_usec; /* when the next is due */
        uint64_t certain_usec;   /* own: nobody ends it before this time of the own clock */
        /* Leader: one ReadIndex for all keep-alives of half a second. */
        bool pending, confirmed;
        uint64_t confirm_id, confirm_index, confirm_usec; /* id 0: none under way; asked then */
        Owned *owned;
        unsigned n_owned;
        SessionWatch *watched;
        bool watching;          /* `watched` holds every session of the applied tree */
        uint64_t due_usec;      /* nobody can have been silent for too long before */
        uint64_t watch_term;    /* the term in which everybody got a full timeout */
        uint64_t watch_from;    /* what earlier leaders had committed ends here: below it nobody is judged */
        uint64_t shortest_usec; /* of the timeouts of those watched */
        uint64_t last_look_usec;
        uint64_t slice_usec; /* begin of the current slice of ends */
        unsigned slice_ended;
} Sessions;

void sessions_work(Agent *agent);  /* turn, every tick */
void sessions_hurry(Agent *agent); /* turn, what is new in this wake */
void sessions_heard(Agent *agent, uint64_t host, const LetterKeepalive *keepalive);
void sessions_acknowledged(Agent *agent, uint64_t host, const LetterKeepalive *ack);
bool sessions_confirmed(Agent *agent, const RaftReadDone *done); /* true: it was ours */
void sessions_changed(Agent *agent, uint64_t host);              /* its session in the tree may have */
void sessions_tell_alive(Agent *agent);                          /* turn, after apply */
/* The generation of the own session as long as it certainly lives: no leader has ended it, or will before
 * *ret_until by this host's clock. 0: not certain. */
uint64_t sessions_certain(const Agent *agent, uint64_t *ret_until);
void sessions_applied(Agent *agent, const Command *command, const Result *result);
void sessions_load(Agent *agent);   /* after announcing or a new tree: what the tree says we own */
void sessions_rebase(Agent *agent); /* after a new tree of the same cluster */
void sessions_reset(Agent *agent);
void sessions_leave(Agent *agent); /* another cluster: what is owned is made anew there */
uint64_t sessions_deadline(const Agent *agent);

/* ---- follow.c ---- */

#define FOLLOW_QUEUE 4096u
#define FOLLOW_BYTES (32u * 1024 * 1024) /* in that queue: no more is taken above it */

typedef struct Follower { /* one whom we serve */
        Agent *agent;
        PeersCall *call;
        uint64_t host, next;
        uint64_t stamped_usec;
        bool full;
        struct Follower *prev, *next_follower;
} Follower;

typedef struct Follow {
        bool active; /* this host keeps no log: it follows */
        PeersCall *call;
        uint64_t server;
        uint64_t heard_usec; /* stamp passed ours */
        uint64_t begun_usec; /* the stream */
        uint64_t retry_usec;
        uint64_t leader, term, beat, commit; /* the stamp */
        Entry *queue[FOLLOW_QUEUE];          /* a ring: taken, not applied yet */
        unsigned queue_head, n_queue;
        size_t n_bytes; /* in the queue */
        Follower *followers;
        unsigned n_followers;
        unsigned turn;   /* round robin over voters */
        unsigned n_vain; /* tries since anybody gave anything */
} Follow;

void follow_work(Agent *agent); /* turn: begin, restart, leave a silent server */
void follow_end(Agent *agent);
Entry *follow_next(Agent *agent, uint64_t index); /* the queued entry with this index, or NULL */
void follow_drop(Agent *agent);                   /* it was applied */
void follow_called(Agent *agent, PeersCall *call, uint64_t host, Bytes request);
void follow_serve(Agent *agent); /* turn: give followers what was committed */
void follow_close(Agent *agent); /* stop serving */
uint64_t follow_deadline(const Agent *agent);

/* ---- snapshot.c ---- */

typedef struct SnapshotSend {
        Agent *agent;
        PeersCall *call;
        uint64_t host;
        TreeSnapshot *snapshot;
        bool full;
        struct SnapshotSend *prev, *next;
} SnapshotSend;

typedef struct SnapshotFetch {
        PeersCall *call;
        uint64_t asked; /* who said that a tree is needed; from: whose it is */
        uint64_t from;
        TreeBuild *build;
        bool head_seen;
        bool finishing; /* all has come; it is checked and synced beside the loop */
        bool foreign;   /* the tree of a cluster that we join: terms begin anew */
        bool healed;    /* it came in the place of a bad one */
        char name[80];
        uint64_t index, term;
        uint64_t switch_seq; /* != 0: built, the switch is on its way to the disk */
        uint64_t base_seq;   /* != 0: switched, the base that the core will begin at is on its way */
        uint64_t retry_usec;
        bool again; /* given up here: who sent it may believe that we have it */
} SnapshotFetch;

typedef struct Snapshots {
        SnapshotSend *sends;
        unsigned n_sends;
        SnapshotFetch fetch;
        unsigned n_failures;        /* in a row: each waits twice as long */
        uint64_t bad[LIMIT_VOTERS]; /* whose trees were of no use when they were built here */
        unsigned n_bad;
        unsigned turn;
} Snapshots;

void snapshot_called(Agent *agent, PeersCall *call, uint64_t host);
void snapshot_work(Agent *agent); /* turn: what was fetched, when it is whole */
uint64_t snapshot_deadline(const Agent *agent);
void snapshot_serve(Agent *agent); /* turn */
void snapshot_watch(Agent *agent); /* turn: a peer that was told to fetch and does not */
int snapshot_fetch(Agent *agent, uint64_t from, bool foreign);
bool snapshot_fetching(const Agent *agent);
bool snapshot_sent(Agent *agent, uint64_t host); /* just now: it may still be opening it */
void snapshot_cancel(Agent *agent);              /* the join that wanted another cluster's tree is over */
void snapshot_stored(Agent *agent, uint64_t seq);
void snapshot_close(Agent *agent);

/* ---- roles.c ---- */

typedef struct RoleView { /* leader: what is known of a member */
        uint64_t host;    /* key */
        uint64_t applied;
        uint64_t status_usec;    /* when it last told */
        uint64_t connected_usec; /* last seen connected */
        uint64_t member_index;   /* here it is known to belong: whoever applied that lets it in */
        uint64_t promoted_usec, promoted_index;
        uint64_t fetch_usec;                        /* told to fetch a snapshot */
        uint64_t sent_usec, sent_index;             /* took one to its end */
        bool damaged;                               /* says so itself */
        uint64_t heal_start, heal_term, heal_index; /* an observer: what was marked for it */
        UT_hash_handle hh;
} RoleView;

typedef struct Removal { /* a task of administration: removal or transfer */
        Agent *agent;
        AdminAction action;
        uint64_t host;
        uint64_t deadline_usec, retry_usec;
        bool here;        /* this host leads, or led: the task is ours */
        Request *request; /* REMOVE_MEMBER on its way */
        PeersCall *call;  /* asked of the leader */
        AdminReply reply;
        RequestDone done;
        void *userdata;
        struct Removal *prev, *next;
} Removal;

typedef struct Roles {
        RoleView *views;
        RoleView nobody; /* handed out when there is no memory for another; the agent ends then */
        uint64_t work_usec;
        /* Leader: the full members, so that to plan costs no walk through the tree. */
        uint64_t *full;
        size_t n_full, full_room;
        bool full_known;
        Removal *removals;
        unsigned n_removals;
        /* Observer: on the way to voting. */
        uint64_t promote_from; /* leader that asked */
        uint64_t promote_term;
        uint64_t promote_index; /* being made durable */
        uint64_t promote_seq;
        uint64_t promoted_usec;
        uint64_t passive_usec;  /* neither voting nor following since */
        uint64_t stranded_usec; /* a voter by its own word, without a leader, since */
        bool stranded;          /* … for so long that it asks around */
        unsigned n_stranded;
        uint64_t status_usec; /* when the next status letter is due */
        LetterHeal heal;      /* observer, damaged: the leader's word; index 0: none */
} Roles;

void roles_work(Agent *agent); /* turn */
void roles_promote(Agent *agent, uint64_t from, const LetterPromote *promote);
void roles_promoted(Agent *agent, uint64_t host, const LetterPromote *promoted);
void roles_status(Agent *agent, uint64_t host, const LetterStatus *status);
void roles_heal(Agent *agent, uint64_t from, const LetterHeal *heal);
void roles_stored(Agent *agent, uint64_t seq);
bool roles_may_fetch(Agent *agent, uint64_t from, const LetterPromote *promote); /* told to: is it of use? */
int roles_remove(Agent *agent, uint64_t host, uint64_t timeout_usec, RequestDone done, void *userdata);
int roles_transfer(Agent *agent, uint64_t host, RequestDone done, void *userdata);
RoleView *roles_view(Agent *agent, uint64_t host);
void roles_called(Agent *agent, PeersCall *call, uint64_t host, Bytes request); /* Admin */
void roles_reset(Agent *agent);
void roles_members_changed(Agent *agent); /* in the tree, or it is another tree */
uint64_t roles_deadline(const Agent *agent);
/* Pure: how many voters for so many full members. */
unsigned roles_voters_wanted(unsigned n_members, unsigned max_voters);

/* ---- share.c ---- */

bool share_call(Agent *agent, uint64_t host, bool admin); /* false: it calls too often */
bool share_question(Agent *agent, uint64_t host); /* false: too many under way; else share_answered() */
void share_answered(Agent *agent, uint64_t host);
void shares_reset(Agent *agent);

/* ---- standing.c ---- */

typedef struct StandingWait StandingWait;

typedef struct Standing {
        Buffer rows; /* as the leader told, last */
        uint64_t told_usec;
        PeersCall *call;
        bool answered; /* well or badly: nobody waits any longer */
        StandingWait *waiting;
        unsigned n_waiting;
} Standing;

int standing_rows(Agent *agent, Buffer *to); /* leader: for others */
uint64_t standing_of(const Agent *agent, uint64_t host);
void standing_work(Agent *agent); /* turn */
uint64_t standing_deadline(const Agent *agent);
void standing_reset(Agent *agent);

/* ---- member.c ---- */

typedef struct Word {
        uint64_t term, index; /* of its log, on its disk; 0: only the term is known */
        uint64_t seat;        /* since when it votes without a break, + 1; 0: it did not */
} Word;

typedef struct Connection {
        uint64_t host; /* key */
        uint64_t connection;
        bool hello; /* theirs has come and is right */
        bool twice; /* two nonces of one start: refused until the operator decides */
        uint64_t refused_said_usec;
        uint64_t start;
        uint8_t start_nonce[16];
        uint32_t version;
        Word word;           /* of this life */
        Word bound;          /* of those before: what it has to have */
        uint64_t lost_start; /* this life has less; 0: none is known to */
        UT_hash_handle hh;
} Connection;

typedef struct Members {
        Connection *connections;
        bool dirty;     /* other members: targets have to be set anew, and the address book */
        bool redial;    /* another role: only the targets */
        bool own_dirty; /* own row may be out of date */
        bool listening;
        uint64_t listen_said_usec;
        uint64_t refused_usec; /* a voter said that it does not know us */
        bool out;              /* … and no other is connected */
        uint64_t own_usec;     /* when to look at the own row next */
        Request *own_request;
        Member *known; /* from a join, until the tree has members */
        uint32_t n_known;
} Members;

PeersVerdict members_judge(Agent *agent, const uint8_t key[static KEY_HASH_BYTES], uint64_t *ret_host);
void members_work(Agent *agent); /* turn */
void members_up(Agent *agent, uint64_t host, uint64_t connection);
void members_down(Agent *agent, uint64_t host, uint64_t connection, PeersDown why);
Connection *members_connection(const Agent *agent, uint64_t host); /* NULL: not connected and greeted */
void members_hello(Agent *agent, uint64_t host, uint64_t connection, const LetterHello *hello);
void members_reset(Agent *agent);
void members_self(Agent *agent, Member *ret);
void members_greet(Agent *agent, const Connection *connection); /* hello */

/* ---- word.c ---- */

void words_begin(Agent *agent); /* at start */
void words_tell(const Agent *agent, LetterHello *hello);
void words_give(const Agent *agent, RaftMessage *message); /* on its way out */
void words_heard(Agent *agent, Connection *connection, const RaftMessage *message);
bool words_are_broken(Agent *agent, Connection *connection, const LetterHello *hello);

/* ---- anew.c ---- */

bool anew_is_due(const Agent *agent);          /* nothing of this state is of use any more */
int anew_ask(Agent *agent, const char *token); /* from the next start on */
void anew_done(Agent *agent);                  /* a member again */

/* ---- quarantine.c ---- */

void quarantine_tell(Agent *agent, const Connection *connection, LetterHello *hello);
const char *quarantine_judge(Agent *agent, Connection *connection, const LetterHello *hello);
void quarantine_say(Agent *agent, Connection *connection, const char *why);
bool quarantine_hears(Agent *agent, uint64_t from,
                      const LetterHello *hello); /* true: this host's state is old, or a copy */
void quarantine_enter(Agent *agent);
void quarantine_look(Agent *agent);
void quarantine_announced(Agent *agent, uint64_t host); /* applied */
void quarantine_work(Agent *agent);                     /* turn */

/* ---- join.c ---- */

typedef struct JoinCall {
        Agent *agent;
        bool active;
        bool discard, automatic;
        bool leaving,
                left; /* a bad state: this host is taken out of the cluster first, then it begins anew */
        char text[TOKEN_TEXT_BYTES]; /* the token, then */
        TokenText token;
        unsigned next_address;
        PeersCall *call;
        uint64_t deadline_usec, retry_usec;
        bool answered; /* this call */
        bool accepted; /* member there; the tree is on its way */
        bool final;    /* nothing more will be tried */
        char why[256];
        char said[256]; /* in the journal, last */
        JoinAnswer verdict;
        JoinDone done;
        void *userdata;
} JoinCall;

void join_work(Agent *agent); /* turn */
void join_called(Agent *agent, PeersCall *call, const uint8_t key[static KEY_HASH_BYTES], Bytes request);
bool join_may_switch(Agent *agent); /* false: it failed, or is over */
void join_switched(Agent *agent);   /* the cluster's tree is ours now */
uint64_t join_deadline(const Agent *agent);
void join_close(Agent *agent);

/* ---- book.c ---- */

#define BOOK_MEMBERS 32

typedef struct Book {
        uint8_t cluster[16];
        uint64_t epoch, conf_index;
        Conf conf;
        uint32_t n_members;
        Member members[BOOK_MEMBERS];
} Book;

void book_note(Agent *agent); /* the members may have changed: writes it when they did */
int book_load(Agent *agent, Book **ret);
int book_parse(char *text, size_t size, Book *ret);

/* ---- check.c ---- */

typedef struct CheckReport {
        uint64_t host, index; /* index 0: an empty place */
        uint8_t digest[16];
} CheckReport;

typedef enum CheckVerdict {
        CHECK_WAITS,       /* too few have told theirs */
        CHECK_AGREES,      /* a majority has what this host has */
        CHECK_DIVERGES,    /* a majority has something else: this host's tree is bad */
        CHECK_UNDECIDABLE, /* no majority is possible any more: an alarm */
} CheckVerdict;

#define CHECK_SHARE 4 /* reports of one voter that are kept */

typedef struct Checks {
        CheckReport own[2];                                  /* newest last */
        CheckReport reports[CHECK_SHARE * 2 * LIMIT_VOTERS]; /* of voters, the oldest go */
        uint64_t applied_index;                              /* of the newest check entry */
        uint64_t due_usec, again_usec;
        uint64_t compared_index, compared_usec;
        uint8_t right[16]; /* the majority's digest there */
        uint64_t alarm_index;
        bool alarm, late_said;
} Checks;

CheckVerdict check_verdict(const Conf *conf, const CheckReport *reports, size_t n, uint64_t index,
                           const uint8_t mine[static 16], uint8_t ret_right[static 16]);
void checks_work(Agent *agent);                    /* turn */
void checks_applied(Agent *agent, uint64_t index); /* the entry at hand is a check */
void checks_reported(Agent *agent, uint64_t host, const LetterReport *report);
bool checks_host_is_bad(const Agent *agent, uint64_t host);
void checks_rebase(Agent *agent);

/* ---- scrub.c ---- */

typedef struct ScrubOrder ScrubOrder;

typedef struct ScrubWork {
        uint64_t due_usec, begun_usec;              /* of the pass */
        uint64_t n_read;                            /* rows of it */
        uint64_t finished_wall_usec, finished_read; /* the last one that came to its end */
        ScrubOrder *orders;                         /* somebody waits for a whole pass */
        unsigned n_orders;
        bool hurried; /* the pass at hand is one that was ordered */
} ScrubWork;

void scrub_work(Agent *agent);   /* turn: duties */
void scrub_orders(Agent *agent); /* turn */
uint64_t scrub_deadline(const Agent *agent);
void scrub_rebase(Agent *agent);
void scrub_close(Agent *agent);

/* ---- heal.c ---- */

#define HEAL_QUEUE 256u

/* Invariant: while `bad`, `book` is there and agent->tree is a stand-in, an empty one. */
typedef struct Heal {
        bool suspect; /* the tree was found bad: the next turn takes it out of service */
        bool bad;     /* there is none */
        bool alone;   /* it is bad and there is nobody to fetch from */
        bool dead;    /* … and nothing can be applied to it */
        bool served;  /* it told something before it was found bad */
        bool late_said;
        uint64_t seq; /* the stand-in's record on its way to the disk */
        uint64_t retry_usec, said_usec, since_usec, hand_over_usec;
        uint64_t cluster_usec;
        unsigned turn;
        Book *book;
        uint64_t book_sum;        /* of the book's file as written last; 0 unknown */
        Entry *queue[HEAL_QUEUE]; /* read back from the log, the next one last */
        unsigned n_queue;
} Heal;

void hall_look_at_tree(Agent *agent); /* agent->tree_status anew */
/* The tree was found bad. `fatal`: nothing more can be applied to it. */
void heal_suspect(Agent *agent, bool fatal, const char *why);
/* What a call on the tree failed with: rot is healed, all else ends the process. 0, or the error. */
int hall_tree_failed(Agent *agent, int r, const char *what);
bool heal_may_touch(const Agent *agent); /* the tree is there and not known to be bad */
bool heal_others_vote(const Conf *conf, uint64_t self);
bool heal_is_stand_in(const TreeStatus *tree, const LogState *log);
int heal_recover(Agent *agent, const char *why); /* at start: there is no tree */
void heal_work(Agent *agent);                    /* turn */
void heal_stored(Agent *agent, uint64_t seq);
uint64_t heal_deadline(const Agent *agent);
uint64_t heal_oldest(const Agent *agent);
bool heal_done(Agent *agent);
void heal_close(Agent *agent);
Entry *heal_entry(Agent *agent, uint64_t index); /* a committed one that is not in memory: from the log */
/* The members, from the tree or, without one, from the book: 0, TREE_NONE. */
int members_each(Agent *agent, int (*each)(const Member *, void *), void *userdata);
int members_by_id(Agent *agent, uint64_t id, Member *ret);
int members_by_key(Agent *agent, const uint8_t key[static KEY_HASH_BYTES], Member *ret);
int members_by_name(Agent *agent, const char *name, Member *ret);
bool members_is_leaf(Agent *agent, uint64_t host); /* trusted with little */

/* ---- letter.c ---- */

int hall_send(Agent *agent, uint64_t to, const Letter *letter); /* 0, -ENOTCONN, … */

/* ---- the Agent ---- */

struct Agent {
        AgentOptions options;
        Outside outside;
        HostFile host;
        Report report;

        Raft *raft;
        Log *log;
        Tree *tree;
        char tree_name[LOG_TREE_NAME_BYTES];

        RaftStatus raft_status; /* as of the turn */
        TreeStatus tree_status;

        Requests requests;
        Offers offers;
        Reads reads;
        Watches watches;
        Sessions sessions;
        Follow follow;
        Snapshots snapshots;
        Roles roles;
        Members members;
        Standing standing;
        struct Share *shares;
        JoinCall join;
        Checks checks;
        Heal heal;
        ScrubWork scrub;
        int tree_event_fd; /* the tree's news, whichever tree it is; 0: each has its own */

        struct Began {
                uint64_t term, index;
                bool keeps_log, damaged;
        } began; /* with what this process started */

        uint64_t now_usec;
        uint64_t last_turn_usec;
        uint64_t seq;        /* last order given to the log */
        uint64_t stored_seq; /* last one known to be durable */
        bool patient;        /* the log does not wake us for the last one (log_be_patient) */
        /* Which of them came from the core, under which of its own numbers: a ring in order. */
        struct CoreOrder {
                uint64_t seq, core_seq;
        } * core_orders;
        size_t n_core_orders, core_orders_head, core_orders_size;
        uint64_t leader_heard_usec; /* voter: the leader's last append or beat */
        uint64_t trimmed;
        uint64_t noted_commit;  /* the log was told */
        uint64_t deadline_usec; /* when the next turn is due at the latest */
        uint64_t raft_deadline_usec;
        uint64_t commit_usec;                            /* the open transaction began */
        uint64_t checkpoint_usec;                        /* a checkpoint is due */
        uint64_t changed_usec;                           /* last apply */
        uint64_t duty_usec;                              /* when the hall's slow duties are due */
        uint64_t leader_since_usec, cluster_origin_usec; /* leader: cluster time */
        uint64_t led_term;                               /* the term that these two belong to */
        struct RoleTold {
                RaftRole role;
                uint64_t term, leader;
        } role_told;            /* what was last said of the core */
        unsigned join_n_served; /* strangers being let in */
        bool join_auto_failed;
        uint64_t applied_entries; /* counters */
        struct PruneSample {
                uint64_t cluster_usec, revision;
        } prune[64];
        unsigned n_prune;
        uint64_t prune_usec;

        int failed; /* first fatal -errno: the process has to end */
        bool in_turn, again;
        uint64_t full_usec;     /* the tree hit the full disk then: tried again a second later */
        uint64_t told_revision; /* watches have heard of everything up to here */
        uint64_t
                applied_high; /* reads never see less, also when a full disk took an open transaction back */
        bool log_full;        /* the log waits for room */
        bool demote;          /* left the configuration: the log's tail is to go */
        uint64_t lost_seq;    /* the order that stores that this log has lost something */
        bool damage_halts;    /* said: too many voters are damaged */
        bool disk_full, damaged, halted, stopping, removed;
        uint64_t anew_usec; /* the process ends then, to begin anew; 0: it does not */
        bool quarantined;   /* the own state is a copy or was set back: it speaks for nobody */
        bool status_dirty;
        uint64_t stop_deadline_usec;
        void (*changed)(void *userdata);
        void *changed_userdata;
};

static inline uint64_t hall_now(const Agent *agent) {
        return agent->outside.now(agent->outside.userdata);
}

/* The highest version of entries that this host can apply. */
static inline uint32_t hall_version(const Agent *agent) {
        return WIRE_VERSION + agent->options.newer;
}

static inline void hall_wake(Agent *agent) {
        if (!agent->in_turn)
                agent->outside.wake(agent->outside.userdata);
        else
                agent->again = true;
}

/* Remembers the first fatal error; the roof ends the process when it sees it. */
int hall_fail(Agent *agent, int error, const char *what);
/* How many committed entries from `from` on, which the core's memory has not, it has not either (at least
 * that one, at most `max`): so many may be read back from the log. In the place of what memory has, the disk
 * may still hold the tail of a term that is over. */
uint32_t core_forgot(const Agent *agent, uint64_t from, uint32_t max);
uint64_t hall_seq(Agent *agent);
uint64_t hall_leader(const Agent *agent); /* host id, 0 unknown */
uint64_t hall_term(const Agent *agent);
bool hall_is_leader(const Agent *agent);
bool hall_is_ready_leader(const Agent *agent); /* its no-op is committed and a majority follows */
int hall_recover(Agent *agent);                /* recover.c */
int hall_new_tree(Agent *agent, bool found);   /* recover.c: a fresh, empty tree */
int hall_start_raft(Agent *agent, uint64_t term, uint64_t vote);
int hall_open_tree(Agent *agent, const char *name);
int hall_switched(Agent *agent);    /* recover.c: forgets HostFile.switching */
void hall_apply(Agent *agent);      /* apply.c */
void hall_taken_back(Agent *agent); /* apply.c: whoever hears TREE_FULL from the tree tells it here */
int hall_log_wait(Agent *agent, uint64_t seq);  /* recover.c: at start only */
uint64_t hall_cluster_usec(const Agent *agent); /* leader's cluster time now */
TreeOptions hall_tree_options(Agent *agent);
int hall_submit_base(Agent *agent, uint64_t seq); /* the tree becomes the log's base */
