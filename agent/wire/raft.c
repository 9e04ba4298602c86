/* Nine letters of ten are Raft's, and most of these are beats and their answers: they are written and read
 * here, field by field, as protobuf says (WIRE.md) but without its machinery, which took ten times as long
 * as all that a follower does with a beat. What is written is what protobuf-c would write. What is read has
 * to look like that: anything else (unknown fields, long-winded numbers) is left to protobuf-c, and what
 * both can read means the same. */
#include "raft.h"

#include <string.h>

#define VARINT         0
#define FIXED64        1
#define BYTES_OF       2
#define TAG(n, type)   ((n) << 3 | (type))
#define LETTER_TAG     TAG(2, BYTES_OF)
#define ENTRY_TAG      TAG(15, BYTES_OF)
#define HEAD_BYTES     (17 * 12) /* all that is no entry */
#define ENTRY_HEAD_MAX (11 + 6 + 6)

/* ---- Writing ---- */

static uint8_t *put_varint(uint8_t *to, uint64_t value) {
        for (; value >= 0x80; value >>= 7)
                *to++ = (uint8_t)(value | 0x80);
        *to++ = (uint8_t)value;
        return to;
}

/* Zero is not sent. */
static uint8_t *put_number(uint8_t *to, unsigned n, uint64_t value) {
        return value == 0 ? to : put_varint(put_varint(to, TAG(n, VARINT)), value);
}

static uint8_t *put_fixed(uint8_t *to, unsigned n, uint64_t value) {
        if (value == 0)
                return to;
        to = put_varint(to, TAG(n, FIXED64));
        bytes_put_u64(to, value);
        return to + 8;
}

/* Up to the data, which follows. */
static size_t entry_head(const Entry *entry, uint8_t to[static ENTRY_HEAD_MAX]) {
        uint8_t *p = put_number(to, 1, entry->term);
        p = put_number(p, 2, entry->type);
        if (entry->size > 0)
                p = put_varint(put_varint(p, TAG(3, BYTES_OF)), entry->size);
        return (size_t)(p - to);
}

static size_t varint_size(uint64_t value) {
        return value == 0 ? 1 : (size_t)(70 - __builtin_clzll(value)) / 7;
}

static size_t entries_size(const RaftMessage *raft) {
        uint8_t head[ENTRY_HEAD_MAX];
        size_t size = 0;
        for (uint32_t i = 0; i < raft->n_entries; i++) {
                size_t one = entry_head(raft->entries[i], head) + raft->entries[i]->size;
                size += 1 + varint_size(one) + one;
        }
        return size;
}

static uint8_t *put_entries(uint8_t *to, const RaftMessage *raft) {
        uint8_t head[ENTRY_HEAD_MAX];
        for (uint32_t i = 0; i < raft->n_entries; i++) {
                const Entry *entry = raft->entries[i];
                size_t size = entry_head(entry, head);
                to = put_varint(put_varint(to, ENTRY_TAG), size + entry->size);
                memcpy(to, head, size);
                if (entry->size > 0)
                        memcpy(to + size, entry->data, entry->size);
                to += size + entry->size;
        }
        return to;
}

static size_t put_first(uint8_t to[static HEAD_BYTES], const RaftMessage *raft) {
        uint8_t *p = put_number(to, 1, raft->type);
        p = put_fixed(p, 2, raft->from);
        p = put_fixed(p, 3, raft->to);
        p = put_number(p, 4, raft->term);
        p = put_number(p, 5, raft->log_index);
        p = put_number(p, 6, raft->log_term);
        p = put_number(p, 7, raft->commit);
        p = put_number(p, 8, raft->beat);
        p = put_number(p, 9, raft->match);
        p = put_number(p, 10, raft->hint_index);
        p = put_number(p, 11, raft->hint_term);
        p = put_number(p, 12, raft->since);
        p = put_number(p, 13, raft->refused);
        p = put_number(p, 14, raft->force);
        return (size_t)(p - to);
}

static size_t put_last(uint8_t to[static HEAD_BYTES], const RaftMessage *raft) {
        uint8_t *p = put_number(to, 16, raft->life);
        p = put_number(p, 17, raft->heal);
        p = put_number(p, 18, raft->damaged);
        return (size_t)(p - to);
}

int raft_letter_encode(const RaftMessage *raft, Buffer *to) {
        uint8_t first[HEAD_BYTES], last[HEAD_BYTES];
        if (raft->n_entries > LIMIT_APPEND_ENTRIES)
                return -EMSGSIZE;
        assert(raft->n_entries == 0 || raft->entries[0]->index == raft->log_index + 1);

        size_t n_first = put_first(first, raft), n_last = put_last(last, raft);
        size_t body = n_first + entries_size(raft) + n_last, size = 1 + varint_size(body) + body;
        if (size > LIMIT_LETTER_BYTES)
                return -EMSGSIZE;
        int r = buffer_reserve(to, size);
        if (r < 0)
                return r;
        uint8_t *begin = to->data + to->size, *p = put_varint(put_varint(begin, LETTER_TAG), body);
        memcpy(p, first, n_first);
        p = put_entries(p + n_first, raft);
        memcpy(p, last, n_last);
        assert(p + n_last == begin + size);
        to->size += size;
        return 0;
}

/* ---- Reading: true when it is as usual ---- */

typedef struct Cursor {
        const uint8_t *at, *end;
} Cursor;

static bool take_varint(Cursor *cursor, uint64_t *ret) {
        uint64_t value = 0;
        for (unsigned shift = 0; shift < 64 && cursor->at < cursor->end; shift += 7) {
                uint8_t byte = *cursor->at++;
                value |= (uint64_t)(byte & 0x7f) << shift;
                if (byte & 0x80)
                        continue;
                *ret = value;
                return shift < 63 || byte <= 1;
        }
        return false;
}

static bool take_fixed(Cursor *cursor, uint64_t *ret) {
        if (cursor->end - cursor->at < 8)
                return false;
        *ret = bytes_get_u64(cursor->at);
        cursor->at += 8;
        return true;
}

static bool take_bytes(Cursor *cursor, Cursor *ret) {
        uint64_t size;
        if (!take_varint(cursor, &size) || size > (uint64_t)(cursor->end - cursor->at))
                return false;
        *ret = (Cursor){.at = cursor->at, .end = cursor->at + size};
        cursor->at += size;
        return true;
}

static bool take_u32(Cursor *cursor, uint32_t *ret) {
        uint64_t value;
        if (!take_varint(cursor, &value) || value > UINT32_MAX)
                return false;
        *ret = (uint32_t)value;
        return true;
}

static bool take_bool(Cursor *cursor, protobuf_c_boolean *ret) {
        uint64_t value;
        if (!take_varint(cursor, &value) || value > 1)
                return false;
        *ret = value == 1;
        return true;
}

static bool take_entry(Cursor cursor, Treaty__V1__Entry *ret) {
        *ret = (Treaty__V1__Entry){};
        while (cursor.at < cursor.end) {
                Cursor data;
                switch (*cursor.at++) {
                case TAG(1, VARINT):
                        if (!take_varint(&cursor, &ret->term))
                                return false;
                        break;
                case TAG(2, VARINT):
                        if (!take_u32(&cursor, &ret->type))
                                return false;
                        break;
                case TAG(3, BYTES_OF):
                        if (!take_bytes(&cursor, &data))
                                return false;
                        ret->data.data = (uint8_t *)data.at;
                        ret->data.len = (size_t)(data.end - data.at);
                        break;
                default:
                        return false;
                }
        }
        return true;
}

static bool take_field(Cursor *cursor, uint64_t tag, Treaty__V1__Raft *ret) {
        switch (tag) {
        case TAG(1, VARINT):
                return take_u32(cursor, &ret->type);
        case TAG(2, FIXED64):
                return take_fixed(cursor, &ret->from);
        case TAG(3, FIXED64):
                return take_fixed(cursor, &ret->to);
        case TAG(4, VARINT):
                return take_varint(cursor, &ret->term);
        case TAG(5, VARINT):
                return take_varint(cursor, &ret->log_index);
        case TAG(6, VARINT):
                return take_varint(cursor, &ret->log_term);
        case TAG(7, VARINT):
                return take_varint(cursor, &ret->commit);
        case TAG(8, VARINT):
                return take_varint(cursor, &ret->beat);
        case TAG(9, VARINT):
                return take_varint(cursor, &ret->match);
        case TAG(10, VARINT):
                return take_varint(cursor, &ret->hint_index);
        case TAG(11, VARINT):
                return take_varint(cursor, &ret->hint_term);
        case TAG(12, VARINT):
                return take_varint(cursor, &ret->since);
        case TAG(13, VARINT):
                return take_bool(cursor, &ret->refused);
        case TAG(14, VARINT):
                return take_bool(cursor, &ret->force);
        case TAG(16, VARINT):
                return take_varint(cursor, &ret->life);
        case TAG(17, VARINT):
                return take_varint(cursor, &ret->heal);
        case TAG(18, VARINT):
                return take_bool(cursor, &ret->damaged);
        default:
                return false;
        }
}

/* Without room for entries they are counted. */
static bool take_message(Cursor cursor, Treaty__V1__Raft *ret, Treaty__V1__Entry *entries) {
        size_t n = 0;
        while (cursor.at < cursor.end) {
                uint64_t tag;
                Cursor entry;
                if (!take_varint(&cursor, &tag))
                        return false;
                if (tag != ENTRY_TAG) {
                        if (!take_field(&cursor, tag, ret))
                                return false;
                        continue;
                }
                if (!take_bytes(&cursor, &entry) || (entries && !take_entry(entry, entries + n)))
                        return false;
                n++;
        }
        ret->n_entry = n;
        return true;
}

int raft_letter_decode(Bytes bytes, RaftMessage *ret, Entry ***ret_entries) {
        Cursor letter = {.at = bytes.data, .end = bytes.data + bytes.size}, body;
        Treaty__V1__Raft message = {};
        if (bytes.size == 0 || bytes.size > LIMIT_LETTER_BYTES || *letter.at++ != LETTER_TAG ||
            !take_bytes(&letter, &body) || letter.at != letter.end || !take_message(body, &message, NULL) ||
            message.n_entry > LIMIT_APPEND_ENTRIES)
                return RAFT_UNUSUAL;
        if (message.n_entry == 0)
                return raft_message_read(&message, ret, ret_entries);

        size_t n = message.n_entry;
        _cleanup_(freep) Treaty__V1__Entry **pointers =
                malloc(n * (sizeof(Treaty__V1__Entry *) + sizeof(Treaty__V1__Entry)));
        if (!pointers)
                return -ENOMEM;
        Treaty__V1__Entry *entries = (Treaty__V1__Entry *)(pointers + n);
        for (size_t i = 0; i < n; i++)
                pointers[i] = entries + i;
        if (!take_message(body, &message, entries))
                return RAFT_UNUSUAL;
        message.entry = pointers;
        return raft_message_read(&message, ret, ret_entries);
}

int raft_message_read(const Treaty__V1__Raft *message, RaftMessage *ret, Entry ***ret_entries) {
        if (message->type < RAFT_PREVOTE || message->type > RAFT_TIMEOUT_NOW)
                return -EBADMSG;
        if (message->from == 0 || message->to == 0 || message->from == message->to)
                return -EBADMSG;
        if (message->n_entry > 0 && (message->type != RAFT_APPEND || message->log_index == UINT64_MAX ||
                                     message->entry[0]->term < message->log_term))
                return -EBADMSG;
        int r = entries_message_read(message->entry, message->n_entry, message->log_index + 1, message->term,
                                     ret_entries);
        if (r < 0)
                return r;

        *ret = (RaftMessage){
                .type = (RaftMessageType)message->type,
                .from = message->from,
                .to = message->to,
                .term = message->term,
                .log_index = message->log_index,
                .log_term = message->log_term,
                .commit = message->commit,
                .beat = message->beat,
                .match = message->match,
                .hint_index = message->hint_index,
                .hint_term = message->hint_term,
                .since = message->since,
                .refused = message->refused,
                .force = message->force,
                .life = message->life,
                .heal = message->heal,
                .damaged = message->damaged,
                .n_entries = (uint32_t)message->n_entry,
                .entries = *ret_entries,
        };
        return 0;
}
