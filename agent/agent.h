/* The hall. Whoever stands at a door (the bus, the roof, the simulation) sees this page and nothing behind
 * it.
 *
 * An Agent owns the rooms: raft decides, log makes durable, tree holds, peers (behind a table) carry
 * letters. What arrives is noted; what leaves, leaves in agent_turn(): take the core's update, send what may
 * leave at once, hand entries to the log, step STORED, apply what is committed, fire watches, answer
 * requests. Twenty calls in one wake cost one sync. All is one thread; every callback comes out of the turn
 * (never out of the call that asked).
 *
 * Three things can be asked for:
 *      Request    a write, answered when its entry is applied on this host (or by its deadline)
 *      Read       permission to look at the tree: now, at a revision, or linearizable
 *      Watch      changes from a revision on, once each, in order
 * and Status, Members and Owned registrations looked at. */
#pragma once

#include "base/command.h"
#include "base/report.h"

typedef struct Agent Agent;
typedef struct Request Request;
typedef struct Read Read;
typedef struct Watch Watch;

/* ---- Answers ---- */

/* The replicated results (command.h) and what only this host knows. */
typedef enum Answer {
        ANSWER_DONE,
        ANSWER_REFUSED,    /* the tree said no: see .result.status */
        ANSWER_NO_QUORUM,  /* never offered: will never apply */
        ANSWER_UNKNOWN,    /* offered, not decided within the deadline: ask for its outcome later */
        ANSWER_BUSY,       /* too many requests in flight on this host */
        ANSWER_DISK_FULL,  /* this host refuses writes until there is room */
        ANSWER_NOT_MEMBER, /* this host was removed from its cluster, or has not joined yet */
        ANSWER_TIMEOUT,    /* reads: the revision did not come, the leader did not answer */
        ANSWER_STOPPING,   /* the agent is about to end; nothing was offered */
        ANSWER_HALTED,     /* this host cannot apply (too old, damaged): reads go on */
        ANSWER_NO_TREE,    /* reads: its tree was bad and is fetched again */
} Answer;

const char *answer_text(Answer answer); /* for people: what happened and what to do */

/* ---- Request ---- */

typedef struct RequestAnswer {
        Answer answer;
        Result result;        /* DONE, REFUSED */
        uint64_t incarnation; /* identity of the request, for agent_outcome() */
        uint64_t serial;      /* 0: never offered */
} RequestAnswer;

typedef void (*RequestDone)(const RequestAnswer *answer, void *userdata);

#define REQUEST_TIMEOUT_USEC (10 * USEC_PER_SEC)

/* Offers a command to the cluster. Kinds SET, CREATE, DELETE, ADD_TOKEN, REMOVE_TOKEN and UPDATE_MEMBER;
 * identity and session fields are filled in here; EPHEMERAL needs `owner_tag`. Everything pointed at is
 * copied. done() comes exactly once unless the request is forgotten. 0, -EINVAL (a kind or size that is not
 * for callers), -ENOMEM. */
int agent_request(Agent *agent, const Command *command, uint64_t timeout_usec, RequestDone done,
                  void *userdata, Request **ret);
/* The caller is gone: the request goes on, nobody is told. Accepts NULL, returns NULL. */
Request *request_forget(Request *request);

typedef enum OutcomeState {
        OUTCOME_APPLIED,
        OUTCOME_NEVER,
        OUTCOME_UNDECIDED,
        OUTCOME_TOO_OLD
} OutcomeState;
OutcomeState agent_outcome(Agent *agent, uint64_t incarnation, uint64_t serial, Result *ret);

/* ---- Read ---- */

enum { READ_LINEARIZABLE = 1u << 0 };

typedef void (*ReadReady)(Answer answer, void *userdata); /* DONE: look now, inside the callback */

/* May the tree be looked at? When it may at once (the usual case) returns 1 and there is no callback; else 0
 * and ready() follows within the deadline. */
int agent_read(Agent *agent, uint32_t flags, uint64_t min_revision, uint64_t timeout_usec, ReadReady ready,
               void *userdata, Read **ret);
Read *read_forget(Read *read);

typedef struct AgentEntry {
        const char *path; /* pointers are valid until the next call on the agent */
        Bytes value;
        uint64_t create_revision, mod_revision, version;
        uint64_t owner_host, owner_generation; /* 0: not ephemeral */
        const char *owner_tag;
} AgentEntry;

/* 0; 1 = no such entry; -EBADMSG: the row is rotten. */
int agent_get(Agent *agent, const char *path, AgentEntry *ret);

enum { LIST_CHILDREN = 1u << 0, LIST_NAMES = 1u << 1 };
/* after NULL or "": from the beginning. */
int agent_list(Agent *agent, const char *subtree, const char *after, uint32_t flags, uint32_t limit,
               size_t max_bytes, int (*each)(const AgentEntry *entry, void *userdata), void *userdata,
               bool *ret_more);
uint64_t agent_revision(Agent *agent);
/* How old this host's knowledge is at most: 0 on a leader that knows its quorum; USEC_INFINITY unknown. */
uint64_t agent_age_usec(Agent *agent);
/* Newest revision at which something at or below subtree changed. */
int agent_changed(Agent *agent, const char *subtree, uint64_t *ret_revision);

/* ---- Watch ---- */

typedef enum WatchKind {
        WATCH_PUT = 1,
        WATCH_DELETE = 2,
        WATCH_MARK = 3,
        WATCH_COMPACTED = 4,
        WATCH_OVERFLOW = 5
} WatchKind;

typedef struct WatchEvent {
        WatchKind kind;
        bool last; /* of its revision */
        bool had_previous;
        const char *path;
        Bytes value, previous;
        uint64_t revision; /* MARK: delivered up to here; COMPACTED: resume from here, the watch is over */
        uint64_t create_revision, version;
} WatchEvent;

enum { WATCH_SUBTREE = 1u << 0, WATCH_PREVIOUS = 1u << 1, WATCH_MARKS = 1u << 2 };

/* Delivers one event: 0 = taken; 1 = taken, but hold back more until watch_resume() (catch-up then goes
 * through history); 2 = end the watch. Never called from inside agent_watch(). */
typedef int (*WatchDeliver)(const WatchEvent *event, void *userdata);

/* from_revision 0: what comes after now. *ret_revision: the tree's now. */
int agent_watch(Agent *agent, const char *subtree, uint32_t flags, uint64_t from_revision,
                WatchDeliver deliver, void *userdata, Watch **ret, uint64_t *ret_revision);
size_t agent_watches(const Agent *agent); /* how many there are */
void watch_resume(Watch *watch);
Watch *watch_free(Watch *watch); /* accepts NULL; safe inside deliver() */

/* ---- Owned: what lives as long as an owner on this host ---- */

/* Keeps the ephemeral entry `path` alive on behalf of `tag` ("fd:…", "unit:NAME:INVOCATION") until
 * agent_disown(): written now, and again whenever this host's session begins anew. Answered as a Request.
 * Owning the same path with the same tag and value again does nothing. ANSWER_REFUSED with RESULT_EXISTS:
 * another owner holds the path. */
int agent_own(Agent *agent, const char *path, Bytes value, const char *tag, uint64_t timeout_usec,
              RequestDone done, void *userdata, Request **ret);
/* The owner is gone: its entries end (retried until it is so); an agent_own() of it that waits for its
 * answer gets none. Returns how many. `tag_prefix` ends where the tag ends or at a ':'. */
unsigned agent_disown(Agent *agent, const char *tag_prefix);
int agent_owned(Agent *agent, int (*each)(const char *path, const char *tag, void *userdata),
                void *userdata);

/* ---- Cluster ---- */

typedef enum AgentRole {
        AGENT_OBSERVER,
        AGENT_FOLLOWER,
        AGENT_CANDIDATE,
        AGENT_LEADER,
        AGENT_REMOVED
} AgentRole;
typedef enum AgentState {
        AGENT_RUNNING,
        AGENT_NO_QUORUM,
        AGENT_FULL_DISK,
        AGENT_DAMAGED, /* the own log, or those of so many voters that nothing is decided */
        AGENT_HALTED,
        AGENT_JOINING,
        AGENT_OUT,
        AGENT_QUARANTINED, /* the own state is a copy or was set back */
        AGENT_NO_TREE,     /* it was bad, another is on its way */
        AGENT_DIVERGED, /* an alarm: trees differ, or the only one is bad, and there is no right one to fetch
                         */
} AgentState;

typedef struct AgentStatus {
        AgentRole role;
        AgentState state;
        bool quorate;
        uint64_t host, leader, term;
        char host_name[LIMIT_NAME_BYTES + 1];
        char leader_name[LIMIT_NAME_BYTES + 1];
        uint8_t cluster[16];
        uint64_t commit, applied, durable, revision, floor, n_entries;
        uint64_t compared;     /* index at which a majority of the voters had the same tree, last */
        uint64_t certain_usec; /* until then (CLOCK_BOOTTIME) this host's session certainly lives; 0: not
                                  certain */
        uint64_t scrubbed_wall_usec; /* when all of the tree had been read again, last; 0: not yet */
        uint32_t n_members, n_voters;
} AgentStatus;

void agent_status(Agent *agent, AgentStatus *ret);

typedef struct AgentMember {
        const Member *member;
        bool voter, leader, connected, self;
        uint64_t applied; /* 0 unknown */
} AgentMember;

/* Asks the leader how far everybody has applied, if need be; then agent_members() knows, or it cannot be
 * known now. */
typedef void (*StandingDone)(void *userdata);
int agent_ask_members(Agent *agent, StandingDone done, void *userdata); /* 0, -EBUSY, -ENOMEM */
int agent_members(Agent *agent, int (*each)(const AgentMember *member, void *userdata), void *userdata);
int agent_member_by_name(Agent *agent, const char *name_or_hex_id, Member *ret); /* 0; 1 = none */

typedef struct TokenRequest {
        uint64_t lifetime_usec;
        uint32_t uses;
        MemberClass class;
        const char *const *addresses; /* NULL-terminated; NULL: this host's own */
} TokenRequest;

typedef void (*TokenDone)(const RequestAnswer *answer, const char *token, void *userdata);
int agent_token(Agent *agent, const TokenRequest *request, TokenDone done, void *userdata);
/* 0, -EINVAL: neither a token nor an id. */
int agent_revoke(Agent *agent, const char *token, RequestDone done, void *userdata);

typedef enum JoinAnswer {
        JOIN_DONE,
        JOIN_INVALID_TOKEN,
        JOIN_TOKEN_EXPIRED,
        JOIN_TOKEN_USED,
        JOIN_NOT_EMPTY,
        JOIN_ALREADY,
        JOIN_NAME_TAKEN,
        JOIN_UNREACHABLE,
        JOIN_TIMEOUT,
        JOIN_REFUSED,
        JOIN_BUSY,
        JOIN_RESTARTS, /* the old state goes with the next start, which begins now, and the join goes on
                          there */
} JoinAnswer;
typedef void (*JoinDone)(JoinAnswer answer, const char *why, void *userdata);
bool agent_begins_anew(const Agent *agent); /* end the process, and start it again */
int agent_join(Agent *agent, const char *token, bool discard, JoinDone done, void *userdata);

/* Remove a member, hand over leadership: done by the leader, asked by whoever is asked. */
int agent_remove(Agent *agent, uint64_t host, uint64_t timeout_usec, RequestDone done, void *userdata);
int agent_transfer(Agent *agent, uint64_t host, RequestDone done, void *userdata);

/* Reads all of this host's tree again, beginning now. DONE: it is as it was written; NO_TREE: it is not, and
 * is fetched again; HALTED: it is not, and there is nobody to fetch it from. */
typedef void (*ScrubDone)(Answer answer, uint64_t n_rows, void *userdata);
int agent_scrub(Agent *agent, ScrubDone done, void *userdata);

/* Something in AgentStatus other than indexes changed: called once per turn at most. */
void agent_set_listener(Agent *agent, void (*changed)(void *userdata), void *userdata);
