/* The bytes of the log: a segment file is a run of records and nothing else, and behind them zeros.
 *
 *      0  u32 crc      CRC32C over bytes 4..end, chained: it begins with the crc of the record before
 *      4  u32 size     of the payload
 *      8  u8  type     RecordType; never 0, so that zeros are no record
 *      9  u8  kind     EntryType of an entry, else 0
 *     10  u16 zero, u32 zero
 *     16  u64 index
 *     24  u64 term
 *     32  payload, filled up with zeros to a multiple of 8 (covered by the crc)
 *
 * Two types are anchors: the first record of a segment and the header of each batch. An anchor repeats the
 * chain value before it, so that it can be found and checked when what lies before it is broken, and says
 * where it lies (so that no copy of it, anywhere, counts), how many records were durable before it, and the
 * term and vote of that moment. The log's id in it is random and secret: no value that a user stores can
 * look like one. docs/DISK.md tells what follows from this. */
#pragma once

#include "../base/bytes.h"
#include "log.h"

#define RECORD_FRAME       32
#define RECORD_PAYLOAD_MAX LIMIT_ENTRY_BYTES
#define RECORD_VERSION     1
#define HEADER_BYTES       112 /* a batch header, whole */
#define SEGMENT_BYTES      512 /* a segment header, whole: one sector */

typedef enum RecordType {
        RECORD_SEGMENT = 1,  /* index, term: the entry before the segment; all state in force */
        RECORD_HEADER = 2,   /* index, term: the last durable entry */
        RECORD_ENTRY = 3,    /* payload: the entry's bytes */
        RECORD_HARD = 4,     /* term; payload: u64 vote */
        RECORD_BASE = 5,     /* index, term; payload: u64 kept | u64 term | u64 vote | u64 index | Conf */
        RECORD_TREE = 6,     /* payload: the file's name */
        RECORD_DAMAGE = 7,   /* payload: u64 0 or 1 | u64 term | u64 vote */
        RECORD_TRUNCATE = 8, /* index: the first that goes, term: of the one before; u64 index | Conf */
        RECORD_CLEAN = 9,    /* the last record of a clean stop */
} RecordType;

typedef struct Record {
        RecordType type;
        uint8_t kind;
        uint64_t index;
        uint64_t term;
        Bytes payload; /* borrowed */
        uint32_t crc;  /* of a parsed one: the chain value behind it */
        size_t size;   /* of a parsed one: with frame and padding */
} Record;

typedef struct Anchor {
        uint32_t chain; /* before it */
        uint32_t version;
        uint64_t log_id;
        uint64_t segment, offset; /* where it lies */
        uint64_t number;          /* of this record; all before it were durable when it was written */
        uint64_t term, vote, commit, start;
} Anchor;

/* What a segment's header carries beside its anchor. */
typedef struct Summary {
        uint8_t start_nonce[16];
        bool damaged;
        uint64_t conf_index; /* newest configuration at or before the record's index, committed or not */
        Conf conf;
        char tree_name[LOG_TREE_NAME_BYTES];
} Summary;

/* Outcomes, positive. */
enum {
        RECORD_BROKEN = 1,
        RECORD_NEWER, /* whole, but written by a newer treaty */
};

size_t record_size(size_t payload);
int record_encode(Buffer *buffer, uint32_t *chain, const Record *record); /* 0, -ENOMEM */
/* How long the record claims to be; 0 when this is no record. */
size_t record_claim(const uint8_t frame[static RECORD_FRAME]);
/* `bytes` holds at least what record_claim() says. Whether the crc is right is for record_check(). */
Record record_view(const uint8_t *bytes);
bool record_check(const uint8_t *bytes, size_t size, uint32_t chain);

/* 0, RECORD_BROKEN, RECORD_NEWER. The anchor's own check of its crc included, its place not. */
int anchor_read(const uint8_t *bytes, const Record *record, Anchor *ret);
int header_put(Buffer *buffer, uint32_t *chain, const Anchor *anchor, uint64_t index, uint64_t term);
int segment_put(Buffer *buffer, const Anchor *anchor, const Summary *summary, uint64_t index, uint64_t term,
                uint32_t *ret_chain);
int summary_read(const Record *record, Summary *ret); /* 0, RECORD_BROKEN */
