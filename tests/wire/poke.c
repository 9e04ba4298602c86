/* See poke.h. */
#include "poke.h"

#include <stdio.h>
#include <string.h>
#include "agent/base/path.h"

#define must(expression)                                                    \
        do {                                                                \
                if (!(expression)) {                                        \
                        fprintf(stderr, "poke: not so: %s\n", #expression); \
                        abort();                                            \
                }                                                           \
        } while (0)

static volatile uint8_t sink;

static void touch(const void *data, size_t size) {
        const uint8_t *p = data;
        for (size_t i = 0; i < size; i++)
                sink ^= p[i];
}

static void touch_member(const Member *member) {
        must(member->n_addresses <= LIMIT_ADDRESSES && member->n_keys <= LIMIT_KEYS);
        must(strnlen(member->name, sizeof(member->name)) <= LIMIT_NAME_BYTES && name_is_valid(member->name));
        must(member->id != 0);
        for (uint32_t i = 0; i < member->n_addresses; i++)
                must(strnlen(member->addresses[i], sizeof(member->addresses[i])) <= LIMIT_ADDRESS_BYTES);
}

static void touch_command(const Command *c) {
        must(c->host != 0 && strcmp(command_kind_name(c->kind), "unknown") != 0);
        if (c->path)
                must(path_check(c->path) == PATH_OK);
        must(c->value.size <= LIMIT_VALUE_BYTES);
        touch(c->value.data, c->value.size);
        touch(c->nonce.data, c->nonce.size);
        touch(c->signature.data, c->signature.size);
        if (c->owner_tag)
                must(strlen(c->owner_tag) <= OWNER_TAG_BYTES);
        if (c->member)
                touch_member(c->member);
}

static void touch_entries(Entry **entries, uint32_t n) {
        must(n <= LIMIT_APPEND_ENTRIES);
        for (uint32_t i = 0; i < n; i++) {
                must(entries[i]->n_refs == 1 && entries[i]->size <= LIMIT_ENTRY_BYTES &&
                     entries[i]->term > 0);
                must(entries[i]->index == entries[0]->index + i);
                touch(entries[i]->data, entries[i]->size);
        }
}

int poke_command(Bytes bytes) {
        WireCommand command, again;
        int r = wire_command_decode(bytes, &command);
        if (r < 0)
                return r;
        touch_command(&command.command);

        Buffer buffer = {};
        must(wire_command_encode(&command.command, &buffer) == 0);
        must(wire_command_decode(BYTES(buffer.data, buffer.size), &again) == 0);
        must(again.command.kind == command.command.kind && again.command.flags == command.command.flags);
        must(again.command.serial == command.command.serial);
        must(again.command.value.size == command.command.value.size);
        wire_command_done(&again);
        wire_command_done(&command);
        buffer_deinit(&buffer);
        return 0;
}

/* The same letter, with a field that nobody knows before Raft's: protobuf-c reads it. False: it is none that
 * is read by hand. */
static bool letter_lengthen(Bytes bytes, Buffer *to) {
        const uint8_t raft = 2 << 3 | 2, unknown[] = {0xf8, 0x06, 0};
        size_t at = 1, size = 0;
        if (bytes.size < 2 || bytes.data[0] != raft)
                return false;
        for (unsigned shift = 0; at < bytes.size && shift < 28; shift += 7) {
                size |= (size_t)(bytes.data[at] & 0x7f) << shift;
                if (!(bytes.data[at++] & 0x80))
                        break;
        }
        if (bytes.size - at != size)
                return false;
        must(buffer_append(to, &raft, 1) == 0);
        for (size_t rest = size + sizeof(unknown); rest > 0; rest >>= 7) {
                uint8_t byte = (uint8_t)((rest & 0x7f) | (rest >= 0x80 ? 0x80 : 0));
                must(buffer_append(to, &byte, 1) == 0);
        }
        must(buffer_append(to, unknown, sizeof(unknown)) == 0);
        must(buffer_append(to, bytes.data + at, size) == 0);
        return to->size <= LIMIT_LETTER_BYTES;
}

static void must_be_equal(const Letter *a, const Letter *b) {
        Buffer one = {}, other = {};
        must(wire_letter_encode(a, &one) == 0);
        must(wire_letter_encode(b, &other) == 0);
        must(one.size == other.size && memcmp(one.data, other.data, one.size) == 0);
        buffer_deinit(&one);
        buffer_deinit(&other);
}

/* Read by hand and read by protobuf-c: refused by both, or the same. */
static void poke_both_ways(Bytes bytes) {
        Buffer longer = {};
        WireLetter one, other;
        if (letter_lengthen(bytes, &longer)) {
                int r = wire_letter_decode(bytes, &one);
                must(wire_letter_decode(BYTES(longer.data, longer.size), &other) == r);
                if (r == 0) {
                        must_be_equal(&one.letter, &other.letter);
                        wire_letter_done(&one);
                        wire_letter_done(&other);
                }
        }
        buffer_deinit(&longer);
}

int poke_letter(Bytes bytes) {
        WireLetter letter, again;
        poke_both_ways(bytes);
        int r = wire_letter_decode(bytes, &letter);
        if (r < 0)
                return r;
        if (letter.letter.kind == LETTER_RAFT)
                touch_entries(letter.letter.raft.entries, letter.letter.raft.n_entries);
        if (letter.letter.kind == LETTER_OFFER)
                touch(letter.letter.offer.command.data, letter.letter.offer.command.size);

        Buffer buffer = {};
        must(wire_letter_encode(&letter.letter, &buffer) == 0);
        must(wire_letter_decode(BYTES(buffer.data, buffer.size), &again) == 0);
        must(again.letter.kind == letter.letter.kind);
        if (letter.letter.kind == LETTER_RAFT)
                must(again.letter.raft.n_entries == letter.letter.raft.n_entries);
        else if (letter.letter.kind != LETTER_OFFER)
                must(memcmp(&again.letter, &letter.letter, sizeof(Letter)) == 0);
        wire_letter_done(&again);
        wire_letter_done(&letter);
        buffer_deinit(&buffer);
        return 0;
}

int poke_join_request(Bytes bytes) {
        JoinRequest request;
        int r = wire_join_request_decode(bytes, &request);
        if (r < 0)
                return r;
        touch_member(&request.member);
        Buffer buffer = {};
        must(wire_join_request_encode(&request, &buffer) == 0);
        buffer_deinit(&buffer);
        return 0;
}

int poke_join_reply(Bytes bytes) {
        JoinReply reply;
        int r = wire_join_reply_decode(bytes, &reply);
        if (r < 0)
                return r;
        must(reply.n_members <= JOIN_MEMBERS);
        for (uint32_t i = 0; i < reply.n_members; i++)
                touch_member(reply.members + i);
        must(utf8_is_valid(reply.message, strnlen(reply.message, sizeof(reply.message))));
        Buffer buffer = {};
        must(wire_join_reply_encode(&reply, &buffer) == 0);
        buffer_deinit(&buffer);
        wire_join_reply_done(&reply);
        return 0;
}

int poke_follow_request(Bytes bytes) {
        FollowRequest request;
        int r = wire_follow_request_decode(bytes, &request);
        must(r < 0 || request.from > 0);
        return r;
}

int poke_follow_batch(Bytes bytes) {
        FollowBatch batch, again;
        int r = wire_follow_batch_decode(bytes, &batch);
        if (r < 0)
                return r;
        touch_entries(batch.entries, batch.n_entries);
        Buffer buffer = {};
        must(wire_follow_batch_encode(&batch, &buffer) == 0);
        must(wire_follow_batch_decode(BYTES(buffer.data, buffer.size), &again) == 0);
        must(again.n_entries == batch.n_entries && again.commit == batch.commit);
        wire_follow_batch_done(&again);
        wire_follow_batch_done(&batch);
        buffer_deinit(&buffer);
        return 0;
}

int poke_snapshot_head(Bytes bytes) {
        SnapshotHead head;
        int r = wire_snapshot_head_decode(bytes, &head);
        must(r < 0 || head.index > 0);
        return r;
}

int poke_admin_request(Bytes bytes) {
        AdminRequest request;
        int r = wire_admin_request_decode(bytes, &request);
        must(r < 0 || (request.action >= ADMIN_REMOVE && request.action <= ADMIN_APPLIED));
        return r;
}

int poke_admin_reply(Bytes bytes) {
        AdminReply reply;
        int r = wire_admin_reply_decode(bytes, &reply);
        must(r < 0 || (reply.status <= RESULT_HIGHEST && reply.applied.size % 16 == 0));
        if (r == 0)
                wire_admin_reply_done(&reply);
        return r;
}
