/* Join: a stranger's request and the answer to it. Requests are the only bytes that are decoded before their
 * sender is known. */
#include "wire.h"

#include <string.h>
#include "../base/path.h"
#include "message.h"

#define JOIN_REQUEST_BYTES (8 * 1024)
#define JOIN_REPLY_BYTES   (64 * 1024)

int wire_join_request_encode(const JoinRequest *request, Buffer *to) {
        if (!member_is_sound(&request->member, false) || request->member.n_keys == 0)
                return -EINVAL;

        Treaty__V1__JoinRequest message = TREATY__V1__JOIN_REQUEST__INIT;
        MemberMessage member;

        PB_SET_BYTES(&message, token_id, request->token_id, sizeof(request->token_id));
        PB_SET_BYTES(&message, cluster, request->cluster, sizeof(request->cluster));
        PB_SET_BYTES(&message, signature, request->signature, sizeof(request->signature));
        member_message_init(&member, &request->member);
        message.member = &member.message;
        return message_pack(&message.base, JOIN_REQUEST_BYTES, to);
}

int wire_join_request_decode(Bytes bytes, JoinRequest *ret) {
        _cleanup_(arena_freep) Arena *arena = NULL;
        ProtobufCMessage *base;

        int r = message_unpack(&treaty__v1__join_request__descriptor, bytes, JOIN_REQUEST_BYTES, &arena,
                               &base);
        if (r < 0)
                return r;
        const Treaty__V1__JoinRequest *message = (Treaty__V1__JoinRequest *)base;
        if (!message->member ||
            !message_take_fixed(&message->token_id, ret->token_id, sizeof(ret->token_id)) ||
            !message_take_fixed(&message->cluster, ret->cluster, sizeof(ret->cluster)) ||
            !message_take_fixed(&message->signature, ret->signature, sizeof(ret->signature)))
                return -EBADMSG;
        r = member_message_read(message->member, &ret->member);
        if (r < 0)
                return r;
        return member_is_sound(&ret->member, false) && ret->member.n_keys > 0 ? 0 : -EBADMSG;
}

int wire_join_reply_encode(const JoinReply *reply, Buffer *to) {
        if (reply->n_members > JOIN_MEMBERS)
                return -EINVAL;

        Treaty__V1__JoinReply message = TREATY__V1__JOIN_REPLY__INIT;
        _cleanup_(freep) MemberMessage *members = calloc(JOIN_MEMBERS, sizeof(*members));
        Treaty__V1__Member *pointers[JOIN_MEMBERS];
        if (!members)
                return -ENOMEM;

        PB_SET(&message, status, reply->status);
        PB_SET_BYTES(&message, cluster, reply->cluster, sizeof(reply->cluster));
        PB_SET(&message, restore_epoch, reply->restore_epoch);
        PB_SET(&message, host, reply->host);
        for (uint32_t i = 0; i < reply->n_members; i++) {
                if (!member_is_sound(reply->members + i, true))
                        return -EINVAL;
                member_message_init(members + i, reply->members + i);
                pointers[i] = &members[i].message;
        }
        message.member = pointers;
        message.n_member = reply->n_members;
        message.message = (char *)reply->message;
        return message_pack(&message.base, JOIN_REPLY_BYTES, to);
}

static int join_reply_members(const Treaty__V1__JoinReply *message, Member **ret) {
        if (message->n_member > JOIN_MEMBERS)
                return -EBADMSG;
        _cleanup_(freep) Member *members = calloc(message->n_member + 1, sizeof(*members));
        if (!members)
                return -ENOMEM;
        for (size_t i = 0; i < message->n_member; i++) {
                int r = member_message_read(message->member[i], members + i);
                if (r < 0)
                        return r;
                if (!member_is_sound(members + i, true))
                        return -EBADMSG;
        }
        *ret = TAKE(members);
        return 0;
}

int wire_join_reply_decode(Bytes bytes, JoinReply *ret) {
        _cleanup_(arena_freep) Arena *arena = NULL;
        ProtobufCMessage *base;

        *ret = (JoinReply){};
        int r = message_unpack(&treaty__v1__join_reply__descriptor, bytes, JOIN_REPLY_BYTES, &arena, &base);
        if (r < 0)
                return r;
        const Treaty__V1__JoinReply *message = (Treaty__V1__JoinReply *)base;
        if (message->status > RESULT_HIGHEST || (message->status == RESULT_DONE && message->host == 0))
                return -EBADMSG;
        ret->status = (ResultStatus)message->status;
        ret->restore_epoch = message->restore_epoch;
        ret->host = message->host;
        if (!message_take_fixed(&message->cluster, ret->cluster, sizeof(ret->cluster)) ||
            !message_take_text(message->message, ret->message, sizeof(ret->message)))
                return -EBADMSG;
        r = join_reply_members(message, &ret->members);
        if (r < 0)
                return r;
        ret->n_members = (uint32_t)message->n_member;
        return 0;
}

void wire_join_reply_done(JoinReply *reply) {
        free(reply->members);
        reply->members = NULL;
        reply->n_members = 0;
}
