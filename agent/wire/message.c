/* See message.h. */
#include "message.h"

#include <string.h>
#include "../base/conf.h"
#include "../base/entry.h"
#include "../base/path.h"

int message_pack(const ProtobufCMessage *message, size_t limit, Buffer *to) {
        size_t size = protobuf_c_message_get_packed_size(message);
        if (size > limit)
                return -EMSGSIZE;
        int r = buffer_reserve(to, size);
        if (r < 0)
                return r;
        if (size > 0)
                protobuf_c_message_pack(message, to->data + to->size);
        to->size += size;
        return 0;
}

int message_unpack(const ProtobufCMessageDescriptor *descriptor, Bytes bytes, size_t limit,
                   Arena **ret_arena, ProtobufCMessage **ret) {
        if (bytes.size > limit)
                return -EBADMSG;
        _cleanup_(arena_freep) Arena *arena = arena_new(bytes.size);
        if (!arena)
                return -ENOMEM;
        ProtobufCMessage *message = protobuf_c_message_unpack(descriptor, arena_allocator(arena), bytes.size,
                                                              bytes.data ?: (const uint8_t *)"");
        if (!message)
                return arena_error(arena);
        *ret_arena = TAKE(arena);
        *ret = message;
        return 0;
}

bool message_take_fixed(const ProtobufCBinaryData *data, uint8_t *ret, size_t size) {
        if (data->len != size)
                return false;
        memcpy(ret, data->data, size);
        return true;
}

bool message_take_text(const char *from, char *ret, size_t capacity) {
        if (!from) {
                ret[0] = 0;
                return true;
        }
        size_t size = strnlen(from, capacity);
        if (size == capacity || !arena_text_is_whole(from) || !utf8_is_valid(from, size))
                return false;
        memcpy(ret, from, size + 1);
        return true;
}

void member_message_init(MemberMessage *to, const Member *member) {
        assert(member->n_addresses <= LIMIT_ADDRESSES && member->n_keys <= LIMIT_KEYS);

        treaty__v1__member__init(&to->message);
        PB_SET(&to->message, id, member->id);
        PB_SET(&to->message, class_, member->class);
        PB_SET(&to->message, version, member->version);
        to->message.name = (char *)member->name;
        for (uint32_t i = 0; i < member->n_addresses; i++)
                to->addresses[i] = (char *)member->addresses[i];
        to->message.address = to->addresses;
        to->message.n_address = member->n_addresses;
        for (uint32_t i = 0; i < member->n_keys; i++)
                to->keys[i] =
                        (ProtobufCBinaryData){.data = (uint8_t *)member->keys[i], .len = KEY_HASH_BYTES};
        to->message.key = to->keys;
        to->message.n_key = member->n_keys;
}

int member_message_read(const Treaty__V1__Member *message, Member *ret) {
        if (message->n_address > LIMIT_ADDRESSES || message->n_key > LIMIT_KEYS)
                return -EBADMSG;

        *ret = (Member){
                .id = message->id,
                .class = (MemberClass)message->class_,
                .version = message->version,
                .n_addresses = (uint32_t)message->n_address,
                .n_keys = (uint32_t)message->n_key,
        };
        if (!message_take_text(message->name, ret->name, sizeof(ret->name)))
                return -EBADMSG;
        for (size_t i = 0; i < message->n_address; i++)
                if (!message_take_text(message->address[i], ret->addresses[i], sizeof(ret->addresses[i])))
                        return -EBADMSG;
        for (size_t i = 0; i < message->n_key; i++)
                if (!message_take_fixed(message->key + i, ret->keys[i], KEY_HASH_BYTES))
                        return -EBADMSG;
        return 0;
}

static bool address_is_sound(const char *address) {
        for (const char *p = address; *p; p++)
                if ((uint8_t)*p <= 0x20 || *p == 0x7f)
                        return false;
        return address[0] != 0 && utf8_is_valid(address, strlen(address));
}

bool token_class_is_sound(MemberClass class) {
        return class == MEMBER_FULL || class == MEMBER_LEAF;
}

bool member_is_sound(const Member *member, bool class_needed) {
        if (member->id == 0 || !name_is_valid(member->name))
                return false;
        if (member->n_addresses > LIMIT_ADDRESSES || member->n_keys > LIMIT_KEYS)
                return false;
        if (!token_class_is_sound(member->class) && (class_needed || member->class != 0))
                return false;
        for (uint32_t i = 0; i < member->n_addresses; i++)
                if (!address_is_sound(member->addresses[i]))
                        return false;
        return true;
}

int entries_message_init(Entry *const *entries, uint32_t n_entries, Treaty__V1__Entry ***ret) {
        /* One piece: the pointers that protobuf-c wants, then what they point to. */
        Treaty__V1__Entry **pointers = malloc(n_entries * (sizeof(*pointers) + sizeof(**pointers)) + 1);
        if (!pointers)
                return -ENOMEM;
        Treaty__V1__Entry *messages = (Treaty__V1__Entry *)(pointers + n_entries);

        for (uint32_t i = 0; i < n_entries; i++) {
                assert(entries[i]->index == entries[0]->index + i);
                pointers[i] = messages + i;
                treaty__v1__entry__init(messages + i);
                PB_SET(messages + i, term, entries[i]->term);
                PB_SET(messages + i, type, entries[i]->type);
                PB_SET_BYTES(messages + i, data, entries[i]->data, entries[i]->size);
        }
        *ret = pointers;
        return 0;
}

static bool entry_is_sound(const Treaty__V1__Entry *message, uint64_t least_term, uint64_t most_term) {
        if (message->term == 0 || message->term < least_term || message->term > most_term)
                return false;
        if (message->data.len > LIMIT_ENTRY_BYTES)
                return false;
        if (message->type == ENTRY_CONF) {
                Conf conf;
                return conf_decode(message_bytes(&message->data), &conf) == 0;
        }
        return message->type == ENTRY_NOOP || message->type == ENTRY_COMMAND;
}

static bool entries_are_sound(Treaty__V1__Entry *const *messages, size_t n, uint64_t first, uint64_t term) {
        if (n > LIMIT_APPEND_ENTRIES || (n > 0 && (first == 0 || first > UINT64_MAX - n)))
                return false;
        size_t size = 0;
        uint64_t least_term = 0;
        for (size_t i = 0; i < n; i++) {
                if (!entry_is_sound(messages[i], least_term, term))
                        return false;
                size += messages[i]->data.len;
                least_term = messages[i]->term;
        }
        return n <= 1 || size <= LIMIT_APPEND_BYTES;
}

int entries_message_read(Treaty__V1__Entry *const *messages, size_t n, uint64_t first, uint64_t term,
                         Entry ***ret_entries) {
        *ret_entries = NULL;
        if (!entries_are_sound(messages, n, first, term))
                return -EBADMSG;
        if (n == 0)
                return 0;

        Entry **entries = calloc(n, sizeof(*entries));
        if (!entries)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                entries[i] = entry_new((EntryType)messages[i]->type, first + i, messages[i]->term,
                                       messages[i]->data.data, (uint32_t)messages[i]->data.len);
                if (!entries[i]) {
                        entries_free(entries, (uint32_t)n);
                        return -ENOMEM;
                }
        }
        *ret_entries = entries;
        return 0;
}

void entries_free(Entry **entries, uint32_t n_entries) {
        for (uint32_t i = 0; entries && i < n_entries; i++)
                entry_unref(entries[i]);
        free(entries);
}
