/* A record of a watch's stream, as drawn in dbus/org.treaty1.Tree.xml. Pure: bytes in, a view of them out.
 * The stream comes from the agent, but it is bytes from outside all the same: every size is checked against
 * its limit and against the others before anything is looked at. */
#pragma once

#include "agent/base/bytes.h"

#define RECORD_HEADER_BYTES 40u
#define RECORD_BYTES_MAX    (3u * 1024u * 1024u)

typedef enum RecordVerdict {
        RECORD_OK,
        RECORD_SHORT, /* more bytes are needed: *ret_size says how many in all */
        RECORD_BAD_SIZE,
        RECORD_BAD_KIND,
        RECORD_BAD_PATH,
        RECORD_BAD_REVISION,
} RecordVerdict;

typedef enum RecordKind {
        RECORD_PUT = 1,
        RECORD_DELETE = 2,
        RECORD_MARK = 3,
        RECORD_COMPACTED = 4,
        RECORD_OVERFLOW = 5,
} RecordKind;

/* Flags from a newer agent are ignored; kinds are not, they could be changes. */
enum { RECORD_LAST = 1u << 0, RECORD_HAD_PREVIOUS = 1u << 1 };

typedef struct Record {
        RecordKind kind;
        bool last, had_previous;
        Bytes path, value, previous; /* point into the parsed bytes */
        uint64_t revision, create_revision, version;
} Record;

/* Judges the record that begins at bytes. *ret_size: its size (OK), or how many bytes the next try needs
 * (SHORT; at most RECORD_BYTES_MAX). */
RecordVerdict record_parse(Bytes bytes, Record *ret, size_t *ret_size);
const char *record_verdict_text(RecordVerdict verdict);
