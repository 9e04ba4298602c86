/* A Command is what the log carries and the tree applies: an intention, never SQL and never pages. The bus
 * makes it, wire turns it into bytes once, every host applies those same bytes. The Result is replicated
 * truth: equal on all hosts, kept in the proposer's row, told to the caller by his own host when the entry
 * applies there.
 *
 * A request's identity is (host, incarnation, serial), see DESIGN in docs/ARCHITECTURE.md, "Exactly once".
 * Commands that the leader makes by itself (end of a session, configuration of history) carry incarnation 0
 * and are conditional, so that doing them twice does nothing. */
#pragma once

#include "bytes.h"
#include "limits.h"

#define KEY_HASH_BYTES     32 /* SHA-256 of a host's public key (SubjectPublicKeyInfo, DER) */
#define TOKEN_ID_BYTES     16
#define TOKEN_PUBLIC_BYTES 32 /* Ed25519 public key derived from the token's secret */
#define SIGNATURE_BYTES    64
#define INVOCATION_BYTES   16
#define OWNER_TAG_BYTES    256

typedef enum CommandKind {
        COMMAND_EMPTY = 1,    /* only its serial counts: decides an unknown one before it */
        COMMAND_ANNOUNCE = 2, /* an agent process begins: its entry's index becomes its incarnation */
        COMMAND_SET = 3,
        COMMAND_CREATE = 4, /* only if absent */
        COMMAND_DELETE = 5, /* an entry, or with COMMAND_SUBTREE all below it too */
        COMMAND_ATTACH =
                6, /* the host's session begins anew: generation + 1; or goes on with another timeout */
        COMMAND_END_SESSION = 7, /* conditional on (host, generation); removes what the session owns */
        COMMAND_ADD_TOKEN = 8,
        COMMAND_REMOVE_TOKEN = 9,
        COMMAND_ADD_MEMBER = 10,
        COMMAND_REMOVE_MEMBER = 11,
        COMMAND_UPDATE_MEMBER = 12, /* a member's own name, addresses, version */
        COMMAND_PRUNE = 13,         /* history floor rises to `revision` */
        COMMAND_CHECK = 14,         /* changes nothing: every host takes its digest as of this entry */
} CommandKind;

enum {
        COMMAND_SUBTREE = 1u << 0,   /* DELETE */
        COMMAND_EPHEMERAL = 1u << 1, /* SET, CREATE: owned by (host, generation, tag) */
        COMMAND_IF_OWNED =
                1u << 2, /* DELETE, SET: only when the entry is owned by (host, generation, tag) */
        COMMAND_IF_MOD_REVISION =
                1u << 3, /* SET, DELETE: only when mod_revision equals `revision` (0 = absent) */
};

typedef enum MemberClass {
        MEMBER_FULL = 1, /* may vote, relay, write anywhere */
        MEMBER_LEAF = 2, /* never votes; writes only below /services/X/HOST and /hosts/HOST */
} MemberClass;

/* A host of the cluster, as commands and the tree speak of it. Strings are NUL-terminated copies. */
typedef struct Member {
        uint64_t id;
        MemberClass class;
        char name[LIMIT_NAME_BYTES + 1];
        uint32_t n_addresses;
        char addresses[LIMIT_ADDRESSES][LIMIT_ADDRESS_BYTES + 1]; /* "host:port", "[v6]:port" */
        uint32_t n_keys;
        uint8_t keys[LIMIT_KEYS][KEY_HASH_BYTES];
        uint32_t version; /* highest entry version the host can apply */
} Member;

typedef struct Token {
        uint8_t id[TOKEN_ID_BYTES];
        uint8_t public_key[TOKEN_PUBLIC_BYTES];
        MemberClass class;
        uint32_t uses_left;
        uint64_t expires_cluster_usec; /* in cluster time; at apply of ADD_TOKEN: lifetime is added to the
                                          stamp */
} Token;

/* Pointers look into memory of the maker (or of the decoded bytes): valid as long as that is. */
typedef struct Command {
        CommandKind kind;
        uint32_t flags;
        uint64_t host;        /* who asks: host id */
        uint64_t incarnation; /* 0: from the leader itself */
        uint64_t serial;
        uint64_t lowest_unresolved; /* results below it may be forgotten */
        Bytes keep; /* … but not these, for an hour: u16 (low byte first) each, counted back from serial */

        /* SET, CREATE, DELETE */
        const char *path; /* NUL-terminated */
        Bytes value;
        uint64_t revision;   /* IF_MOD_REVISION; PRUNE: the floor */
        uint64_t generation; /* EPHEMERAL, IF_OWNED, END_SESSION: of the host's session; ATTACH: the one that
                                goes on, 0: none */
        uint64_t lasts_usec; /* ATTACH: the session's timeout */
        const char *owner_tag; /* EPHEMERAL, IF_OWNED: which owner on that host, at most OWNER_TAG_BYTES */

        uint64_t subject; /* END_SESSION, REMOVE_MEMBER: host id */
        Bytes nonce;      /* ANNOUNCE: 16 random bytes */
        uint64_t start;   /* ANNOUNCE: the process's durable start number, and the nonce of that start */
        Bytes start_nonce;
        const Member *member; /* ADD_MEMBER, UPDATE_MEMBER */
        const Token *token;   /* ADD_TOKEN (expires = lifetime in µs), REMOVE_TOKEN and ADD_MEMBER (id) */
        Bytes signature;      /* ADD_MEMBER: by the token's key; empty only for the founder of a cluster */
} Command;

/* Outcomes of apply: the same on every host. Numbers are stored: never renumber. */
typedef enum ResultStatus {
        RESULT_DONE = 0,
        RESULT_EXISTS = 1,        /* CREATE: the path has an entry */
        RESULT_ABSENT = 2,        /* DELETE: nothing there */
        RESULT_CONFLICT = 3,      /* IF_OWNED, IF_MOD_REVISION does not hold */
        RESULT_NO_SESSION = 4,    /* the session's generation is over */
        RESULT_DENIED = 5,        /* a leaf outside its place */
        RESULT_TOKEN_UNKNOWN = 6, /* never made, revoked, or used up */
        RESULT_TOKEN_EXPIRED = 7,
        RESULT_SIGNATURE_WRONG = 8,
        RESULT_NO_MEMBER = 9,
        RESULT_NAME_TAKEN = 10, /* another member has that name */
        RESULT_LIMIT = 11,      /* too many members, tokens */
        RESULT_INVALID = 12,    /* malformed: a host that passes such a command is broken */
        RESULT_STALE = 13,      /* a no-op: incarnation is not the row's, or serial not above the highest */
        RESULT_LAST_VOTER = 14, /* a voter must be demoted before it is removed */
        RESULT_TOO_MANY = 15,   /* DELETE of a subtree: more than LIMIT_DELETE_ENTRIES would end */
        RESULT_HIGHEST = RESULT_TOO_MANY,
} ResultStatus;

typedef struct Result {
        ResultStatus status;
        uint64_t revision; /* of the change; where nothing changed, the tree's revision then */
        uint64_t number;   /* ANNOUNCE: incarnation; ATTACH: generation; else 0 */
} Result;

const char *command_kind_name(CommandKind kind);
const char *result_status_name(ResultStatus status);
