/* A Letter is one message on the control connection between two hosts. The core writes the Raft ones, the
 * hall the rest; wire turns them into bytes and back (agent/wire/treaty.proto). Letters may be lost with
 * their connection and arrive in order otherwise. */
#pragma once

#include "command.h"
#include "conf.h"
#include "entry.h"

typedef enum RaftMessageType {
        RAFT_PREVOTE = 1,
        RAFT_PREVOTE_REPLY = 2,
        RAFT_VOTE = 3,
        RAFT_VOTE_REPLY = 4,
        RAFT_APPEND = 5,
        RAFT_APPEND_REPLY = 6,
        RAFT_BEAT = 7, /* heartbeat: says who leads and what is committed; beat != 0 asks for a reply */
        RAFT_BEAT_REPLY = 8,
        RAFT_TIMEOUT_NOW = 9, /* leadership transfer (thesis, section 3.10) */
} RaftMessageType;

/* Fields that a type does not use are zero. */
typedef struct RaftMessage {
        RaftMessageType type;
        uint64_t from;
        uint64_t to;
        uint64_t term;       /* sender's; (PRE)VOTE of pre-vote: the term it would campaign in */
        uint64_t log_index;  /* (PRE)VOTE: candidate's last; APPEND: the entry before `entries`;
                                APPEND_REPLY: echoes the append's log_index; TIMEOUT_NOW: leader's last */
        uint64_t log_term;   /* term of log_index */
        uint64_t commit;     /* APPEND, BEAT: leader's commit index; BEAT caps it by what the peer has */
        uint64_t beat;       /* BEAT, BEAT_REPLY: identity of the beat, never used twice in a term */
        uint64_t match;      /* APPEND_REPLY: durable and equal to the leader's log up to here;
                                BEAT_REPLY: last index in own log; APPEND, BEAT: on the leader's own disk
                                (the hall's to know; the core looks at none) */
        uint64_t hint_index; /* refused APPEND_REPLY: where to try next (first index of hint_term, or last +
                                1) */
        uint64_t hint_term;
        uint64_t
                since; /* APPEND, APPEND_REPLY: the `since` of the follower in the leader's Conf, repeated */
        uint64_t life; /* answers to appends and beats: start number of the sender's process; APPEND, BEAT:
                          that of the process which `heal` and `damaged` are meant for */
        uint64_t heal; /* APPEND, BEAT to a damaged voter: whole again when this index is committed there */
        bool refused;  /* replies: no */
        bool force;    /* (PRE)VOTE: campaign by transfer: overrides stickiness to a live leader */
        bool damaged;  /* answers to appends and beats: the sender may have lost what it promised; APPEND,
                          BEAT: the receiver has lost what it acknowledged, and does not know */
        uint32_t n_entries;
        Entry **entries; /* APPEND */
} RaftMessage;

typedef enum LetterKind {
        LETTER_HELLO = 1, /* the first in each direction of a connection */
        LETTER_RAFT = 2,
        LETTER_OFFER = 3, /* a command offered to the leader */
        LETTER_OFFER_REFUSED = 4,
        LETTER_READ = 5, /* ReadIndex asked of the leader */
        LETTER_READ_REPLY = 6,
        LETTER_KEEPALIVE = 7, /* host sessions that live, to the leader */
        LETTER_PROMOTE = 8,   /* leader to observer: make your tree a base, you are to vote */
        LETTER_PROMOTED = 9,  /* observer to leader: done, my log begins behind this index */
        LETTER_FETCH = 11,  /* leader to voter: your log ends before mine begins, fetch a snapshot from me */
        LETTER_HEAL = 14,   /* leader to a damaged observer */
        LETTER_STATUS = 10, /* a host tells the leader its applied index, about once a second */
        LETTER_REPORT = 12, /* a voter to all: my tree's digest as of a check entry */
        LETTER_KEEPALIVE_ACK = 13, /* the leader's: by a beat sent after it came, a majority followed */
} LetterKind;

typedef struct LetterHello {
        uint8_t cluster[16];
        uint64_t restore_epoch;
        uint64_t host;  /* sender */
        uint64_t start; /* durable start number of the sender's state */
        uint8_t start_nonce[16];
        uint32_t version; /* highest entry version the sender can apply */
        /* What the sender knows of the receiver's newest start; 0: nothing. */
        uint64_t known_start;
        uint8_t known_nonce[16];
        bool known_twice; /* one start with two nonces was seen */
        /* With what the sender's process started, and whether it says itself that this may be too little. */
        uint64_t log_term, log_index;
        bool keeps_log, damaged;
        uint64_t lost_start; /* that process of the receiver began with less than an earlier one had promised
                              */
} LetterHello;

/* Offers of one stream follow each other without holes: `previous` is the serial before this one (0 for the
 * first of a stream). A stream belongs to one connection and one term. */
typedef struct LetterOffer {
        uint64_t term;
        uint64_t stream;
        uint64_t previous;
        uint64_t serial;
        uint64_t lowest_unresolved;
        Bytes command; /* encoded Command, at most LIMIT_COMMAND_BYTES */
} LetterOffer;

typedef enum OfferRefusal {
        OFFER_NOT_LEADER = 1,
        OFFER_BUSY = 2,    /* the uncommitted tail is full: offer this serial again later */
        OFFER_HOLE = 3,    /* does not follow the last one taken */
        OFFER_INVALID = 4, /* not this host's to offer, or malformed */
} OfferRefusal;

typedef struct LetterOfferRefused {
        uint64_t term;
        uint64_t stream;
        uint64_t serial; /* none from this one on was taken */
        OfferRefusal reason;
        uint64_t leader; /* NOT_LEADER: who leads, 0 = unknown */
} LetterOfferRefused;

typedef struct LetterRead {
        uint64_t incarnation; /* of the asking process, so that ids are never used twice */
        uint64_t id;
        bool refused;   /* reply: not the leader (any more) */
        uint64_t index; /* reply: read at or behind this index */
} LetterRead;

typedef struct LetterKeepalive {
        uint64_t host;
        uint64_t generation;
        uint64_t sent;       /* by the sender's clock; comes back as it went */
        uint64_t lasts_usec; /* KEEPALIVE_ACK: the session's timeout in the leader's tree */
} LetterKeepalive;

typedef struct LetterReport {
        uint64_t index;
        uint8_t digest[16];
} LetterReport;

typedef struct LetterPromote {
        uint64_t term;  /* of the leader that asks */
        uint64_t index; /* PROMOTE: what the observer's tree has to hold first; PROMOTED: base index of its
                           log; FETCH: what the sender's tree holds */
} LetterPromote;

typedef struct LetterStatus {
        uint64_t applied;
        uint64_t durable; /* checkpointed tree */
        bool damaged;     /* its log is: what it promised may be lost */
        bool stranded;    /* it votes by its own word, and nobody leads it: asks for a newer tree */
} LetterStatus;

/* To an observer that is damaged: what it promised is over when its tree holds this entry. */
typedef struct LetterHeal {
        uint64_t term;
        uint64_t index;
        uint64_t start; /* the process that said it was damaged */
} LetterHeal;

typedef struct Letter {
        LetterKind kind;
        union {
                LetterHello hello;
                RaftMessage raft;
                LetterOffer offer;
                LetterOfferRefused refused;
                LetterRead read;           /* READ and READ_REPLY */
                LetterKeepalive keepalive; /* KEEPALIVE, KEEPALIVE_ACK */
                LetterReport report;
                LetterPromote promote; /* PROMOTE, PROMOTED, FETCH */
                LetterStatus status;
                LetterHeal heal;
        };
} Letter;
