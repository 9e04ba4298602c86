/* Commands. One judge, command_is_sound(), stands at both doors: what would be refused on arrival is never
 * encoded. It judges by the bytes alone, so that every host that applies an entry comes to the same verdict;
 * making it stricter later needs a new entry version. */
#include "wire.h"

#include <string.h>
#include "../base/path.h"
#include "message.h"

static uint32_t kind_flags(CommandKind kind) {
        switch (kind) {
        case COMMAND_SET:
                return COMMAND_EPHEMERAL | COMMAND_IF_OWNED | COMMAND_IF_MOD_REVISION;
        case COMMAND_CREATE:
                return COMMAND_EPHEMERAL;
        case COMMAND_DELETE:
                return COMMAND_SUBTREE | COMMAND_IF_OWNED | COMMAND_IF_MOD_REVISION;
        case COMMAND_EMPTY:
        case COMMAND_ANNOUNCE:
        case COMMAND_ATTACH:
        case COMMAND_END_SESSION:
        case COMMAND_ADD_TOKEN:
        case COMMAND_REMOVE_TOKEN:
        case COMMAND_ADD_MEMBER:
        case COMMAND_REMOVE_MEMBER:
        case COMMAND_UPDATE_MEMBER:
        case COMMAND_PRUNE:
        case COMMAND_CHECK:
                return 0;
        }
        return 0;
}

static bool command_identity_is_sound(const Command *c) {
        if (c->host == 0)
                return false;
        return c->incarnation == 0 ? c->keep.size == 0 : c->serial > 0 && c->lowest_unresolved <= c->serial;
}

static bool command_keep_is_sound(const Command *c) {
        if (c->keep.size % 2 != 0 || c->keep.size / 2 > LIMIT_KEPT)
                return false;
        for (size_t i = 0; i < c->keep.size; i += 2) {
                unsigned back = c->keep.data[i] | (unsigned)c->keep.data[i + 1] << 8;
                if (back == 0 || back >= c->serial)
                        return false;
        }
        return true;
}

/* Bounds that hold whether the kind looks at the field or not. */
static bool command_fits(const Command *c) {
        if (c->path && path_check(c->path) != PATH_OK)
                return false;
        if (c->value.size > LIMIT_VALUE_BYTES || c->nonce.size > INVOCATION_BYTES ||
            c->start_nonce.size > INVOCATION_BYTES)
                return false;
        if (c->signature.size != 0 && c->signature.size != SIGNATURE_BYTES)
                return false;
        if (c->member && !member_is_sound(c->member, false))
                return false;
        if (!c->owner_tag)
                return true;
        size_t size = strnlen(c->owner_tag, OWNER_TAG_BYTES + 1);
        return size <= OWNER_TAG_BYTES && utf8_is_valid(c->owner_tag, size);
}

static bool command_entry_is_sound(const Command *c) {
        bool whole_tree = c->path && c->kind == COMMAND_DELETE && (c->flags & COMMAND_SUBTREE);
        if (!c->path || (!whole_tree && path_check_entry(c->path) != PATH_OK))
                return false;
        if (c->flags & (COMMAND_EPHEMERAL | COMMAND_IF_OWNED))
                return c->generation > 0 && c->owner_tag;
        return true;
}

static bool command_kind_is_sound(const Command *c) {
        switch (c->kind) {
        case COMMAND_EMPTY:
        case COMMAND_CHECK:
                return true;
        case COMMAND_ATTACH:
                return c->lasts_usec > 0 && c->lasts_usec <= LIMIT_SESSION_USEC;
        case COMMAND_ANNOUNCE:
                return c->nonce.size == INVOCATION_BYTES && c->start > 0 &&
                       c->start_nonce.size == INVOCATION_BYTES;
        case COMMAND_SET:
        case COMMAND_CREATE:
        case COMMAND_DELETE:
                return command_entry_is_sound(c);
        case COMMAND_END_SESSION:
                return c->subject > 0 && c->generation > 0;
        case COMMAND_ADD_TOKEN:
                return c->token && token_class_is_sound(c->token->class);
        case COMMAND_REMOVE_TOKEN:
                return c->token;
        case COMMAND_ADD_MEMBER:
                /* Only the founder comes without a token; whether he is one, the tree knows. */
                return c->member && member_is_sound(c->member, c->signature.size == 0) &&
                       c->member->n_keys > 0 && (c->token || c->signature.size == 0);
        case COMMAND_REMOVE_MEMBER:
                return c->subject > 0;
        case COMMAND_UPDATE_MEMBER:
                return c->member;
        case COMMAND_PRUNE:
                return c->revision > 0;
        }
        return false;
}

static bool command_is_sound(const Command *c) {
        return command_kind_is_sound(c) && (c->flags & ~kind_flags(c->kind)) == 0 &&
               command_identity_is_sound(c) && command_keep_is_sound(c) && command_fits(c);
}

static void token_message_init(Treaty__V1__Token *to, const Token *token) {
        treaty__v1__token__init(to);
        PB_SET_BYTES(to, id, token->id, sizeof(token->id));
        PB_SET_BYTES(to, public_key, token->public_key, sizeof(token->public_key));
        PB_SET(to, class_, token->class);
        PB_SET(to, uses_left, token->uses_left);
        PB_SET(to, expires_usec, token->expires_cluster_usec);
}

static int token_message_read(const Treaty__V1__Token *message, Token *ret) {
        *ret = (Token){
                .class = (MemberClass)message->class_,
                .uses_left = message->uses_left,
                .expires_cluster_usec = message->expires_usec,
        };
        if (!message_take_fixed(&message->id, ret->id, sizeof(ret->id)) ||
            !message_take_fixed(&message->public_key, ret->public_key, sizeof(ret->public_key)))
                return -EBADMSG;
        return ret->class == 0 || token_class_is_sound(ret->class) ? 0 : -EBADMSG;
}

int wire_command_encode(const Command *command, Buffer *to) {
        if (!command_is_sound(command))
                return -EINVAL;

        Treaty__V1__Command message = TREATY__V1__COMMAND__INIT;
        MemberMessage member;
        Treaty__V1__Token token;

        PB_SET(&message, kind, command->kind);
        PB_SET(&message, flags, command->flags);
        PB_SET(&message, host, command->host);
        PB_SET(&message, incarnation, command->incarnation);
        PB_SET(&message, serial, command->serial);
        PB_SET(&message, lowest_unresolved, command->lowest_unresolved);
        message.path = (char *)command->path;
        PB_SET_BYTES(&message, value, command->value.data, command->value.size);
        PB_SET(&message, revision, command->revision);
        PB_SET(&message, generation, command->generation);
        PB_SET(&message, lasts_usec, command->lasts_usec);
        message.owner_tag = (char *)command->owner_tag;
        PB_SET(&message, subject, command->subject);
        PB_SET_BYTES(&message, nonce, command->nonce.data, command->nonce.size);
        PB_SET(&message, start, command->start);
        PB_SET_BYTES(&message, start_nonce, command->start_nonce.data, command->start_nonce.size);
        if (command->member) {
                member_message_init(&member, command->member);
                message.member = &member.message;
        }
        if (command->token) {
                token_message_init(&token, command->token);
                message.token = &token;
        }
        PB_SET_BYTES(&message, signature, command->signature.data, command->signature.size);
        PB_SET_BYTES(&message, keep, command->keep.data, command->keep.size);
        return message_pack(&message.base, LIMIT_COMMAND_BYTES, to);
}

static int command_message_read(const Treaty__V1__Command *message, WireCommand *ret) {
        if ((message->path && !arena_text_is_whole(message->path)) ||
            (message->owner_tag && !arena_text_is_whole(message->owner_tag)))
                return -EBADMSG;

        ret->command = (Command){
                .kind = (CommandKind)message->kind,
                .flags = message->flags,
                .host = message->host,
                .incarnation = message->incarnation,
                .serial = message->serial,
                .lowest_unresolved = message->lowest_unresolved,
                .path = message->path,
                .value = message_bytes(&message->value),
                .revision = message->revision,
                .generation = message->generation,
                .lasts_usec = message->lasts_usec,
                .owner_tag = message->owner_tag,
                .subject = message->subject,
                .nonce = message_bytes(&message->nonce),
                .start = message->start,
                .start_nonce = message_bytes(&message->start_nonce),
                .member = message->member ? &ret->member : NULL,
                .token = message->token ? &ret->token : NULL,
                .signature = message_bytes(&message->signature),
                .keep = message_bytes(&message->keep),
        };
        int r = message->member ? member_message_read(message->member, &ret->member) : 0;
        if (r < 0)
                return r;
        r = message->token ? token_message_read(message->token, &ret->token) : 0;
        if (r < 0)
                return r;
        return command_is_sound(&ret->command) ? 0 : -EBADMSG;
}

int wire_command_decode(Bytes bytes, WireCommand *ret) {
        _cleanup_(arena_freep) Arena *arena = NULL;
        ProtobufCMessage *message;

        ret->arena = NULL;
        int r = message_unpack(&treaty__v1__command__descriptor, bytes, LIMIT_COMMAND_BYTES, &arena,
                               &message);
        if (r < 0)
                return r;
        r = command_message_read((Treaty__V1__Command *)message, ret);
        if (r < 0)
                return r;
        ret->arena = TAKE(arena);
        return 0;
}

void wire_command_done(WireCommand *command) {
        command->arena = arena_free(command->arena);
}
