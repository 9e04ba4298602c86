/* What hosts ask of each other beside letters: calls on a bulk connection, shaped as gRPC
 * (/treaty.v1.Peer/<name>). One request, one or many answers. wire turns them into bytes and back. */
#pragma once

#include "command.h"
#include "conf.h"
#include "entry.h"

#define CALL_JOIN     "Join"     /* unary; the only one that a stranger may make */
#define CALL_FOLLOW   "Follow"   /* stream of FollowBatch: committed entries, for observers */
#define CALL_SNAPSHOT "Snapshot" /* stream of chunks for tree_build_feed(), closed by grpc-status */
#define CALL_ADMIN    "Admin" /* unary: administration that only the leader can do, asked by another member */

/* Join: the joiner proves that it knows the token's secret by a signature over (label, cluster id, token id,
 * own key hash); nothing that the tree holds suffices to make one. */
typedef struct JoinRequest {
        uint8_t token_id[TOKEN_ID_BYTES];
        uint8_t cluster[16];
        uint8_t signature[SIGNATURE_BYTES];
        Member member; /* id 0 and class unset: the cluster decides (id: proposed by the joiner, random) */
} JoinRequest;

typedef struct JoinReply {
        ResultStatus status; /* DONE: member now */
        uint8_t cluster[16];
        uint64_t restore_epoch;
        uint64_t host;      /* the id under which the cluster knows the joiner */
        uint32_t n_members; /* enough of them to find the others: at most JOIN_MEMBERS, voters first */
        Member *members;
        char message[256]; /* why not, for a person */
} JoinReply;

#define JOIN_MEMBERS 16

typedef struct FollowRequest {
        uint64_t from;         /* first index wanted */
        uint64_t applied_term; /* term of from - 1 */
} FollowRequest;

/* Batches repeat the leader's stamp (term, beat, who): a host takes from a stream only while it passes its
 * own. */
typedef struct FollowBatch {
        uint64_t leader;
        uint64_t term;
        uint64_t beat;
        uint64_t commit;
        bool need_snapshot; /* `from` lies before the log of the server: call Snapshot, then follow from
                               there */
        uint32_t n_entries;
        Entry **entries;
} FollowBatch;

typedef struct SnapshotHead { /* first message of a Snapshot stream; the rest are chunks */
        uint64_t index;
        uint64_t term;
        uint8_t cluster[16];
} SnapshotHead;

/* Admin: done by the leader, asked by whichever member was asked. */
typedef enum AdminAction {
        ADMIN_REMOVE = 1,   /* demote if need be, then remove `host` */
        ADMIN_TRANSFER = 2, /* hand leadership to `host`; 0 = the best */
        ADMIN_APPLIED = 3,  /* how far has each member applied, as far as they told? */
} AdminAction;

typedef struct AdminRequest {
        AdminAction action;
        uint64_t host;
} AdminRequest;

typedef struct AdminReply {
        bool leader;     /* false: the one asked does not lead (any more) */
        uint32_t answer; /* an Answer of agent.h */
        ResultStatus status;
        uint64_t revision;
        Bytes applied; /* APPLIED: u64 host, u64 index of each member; index 0: unknown */
} AdminReply;
