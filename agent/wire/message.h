/* What all codecs of this room share: bytes to and from protobuf-c's structs, and the Member, which several
 * messages carry. Internal to the room. */
#pragma once

#include "../base/command.h"
#include "../base/entry.h"
#include "arena.h"
#include "treaty.pb-c.h"

/* Zero is not sent: absent and zero are one. */
#define PB_SET(message, field, value) ((message)->has_##field = ((message)->field = (value)) != 0)
#define PB_SET_BYTES(message, field, d, s)                                             \
        ((message)->field = (ProtobufCBinaryData){.data = (uint8_t *)(d), .len = (s)}, \
         (message)->has_##field = (s) > 0)

int message_pack(const ProtobufCMessage *message, size_t limit, Buffer *to); /* 0, -EMSGSIZE, -ENOMEM */
int message_unpack(const ProtobufCMessageDescriptor *descriptor, Bytes bytes, size_t limit,
                   Arena **ret_arena, ProtobufCMessage **ret); /* 0, -EBADMSG, -ENOMEM */

static inline Bytes message_bytes(const ProtobufCBinaryData *data) {
        return BYTES(data->data, data->len);
}
bool message_take_fixed(const ProtobufCBinaryData *data, uint8_t *ret, size_t size); /* exactly that size? */
bool message_take_text(const char *from, char *ret, size_t capacity); /* valid UTF-8 that fits? NULL is "" */

/* A Member on its way out; `message` points into the rest. */
typedef struct MemberMessage {
        Treaty__V1__Member message;
        char *addresses[LIMIT_ADDRESSES];
        ProtobufCBinaryData keys[LIMIT_KEYS];
} MemberMessage;
void member_message_init(MemberMessage *to, const Member *member);
int member_message_read(const Treaty__V1__Member *message, Member *ret);
/* What holds for every Member, wherever it comes from. A joiner has no class yet: `class_needed` false. */
bool member_is_sound(const Member *member, bool class_needed);
bool token_class_is_sound(MemberClass class);

/* Entries follow each other from `first` on. */
int entries_message_init(Entry *const *entries, uint32_t n_entries,
                         Treaty__V1__Entry ***ret); /* free(*ret) */
int entries_message_read(Treaty__V1__Entry *const *messages, size_t n, uint64_t first, uint64_t term,
                         Entry ***ret_entries); /* into ret_entries: free() it, after unref of each */
void entries_free(Entry **entries, uint32_t n_entries);
