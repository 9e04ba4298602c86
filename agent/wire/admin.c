/* Admin: what the leader is asked to do for another member. */
#include "wire.h"

#include "message.h"

#define ADMIN_BYTES 1024

static bool admin_request_is_sound(const AdminRequest *request) {
        switch (request->action) {
        case ADMIN_REMOVE:
                return request->host > 0;
        case ADMIN_TRANSFER:
                return true;
        }
        return false;
}

int wire_admin_request_encode(const AdminRequest *request, Buffer *to) {
        if (!admin_request_is_sound(request))
                return -EINVAL;
        Treaty__V1__AdminRequest message = TREATY__V1__ADMIN_REQUEST__INIT;
        PB_SET(&message, action, request->action);
        PB_SET(&message, host, request->host);
        return message_pack(&message.base, ADMIN_BYTES, to);
}

int wire_admin_request_decode(Bytes bytes, AdminRequest *ret) {
        _cleanup_(arena_freep) Arena *arena = NULL;
        ProtobufCMessage *base;

        int r = message_unpack(&treaty__v1__admin_request__descriptor, bytes, ADMIN_BYTES, &arena, &base);
        if (r < 0)
                return r;
        const Treaty__V1__AdminRequest *message = (Treaty__V1__AdminRequest *)base;
        *ret = (AdminRequest){.action = (AdminAction)message->action, .host = message->host};
        return admin_request_is_sound(ret) ? 0 : -EBADMSG;
}

int wire_admin_reply_encode(const AdminReply *reply, Buffer *to) {
        Treaty__V1__AdminReply message = TREATY__V1__ADMIN_REPLY__INIT;
        PB_SET(&message, leader, reply->leader);
        PB_SET(&message, answer, reply->answer);
        PB_SET(&message, status, reply->status);
        PB_SET(&message, revision, reply->revision);
        return message_pack(&message.base, ADMIN_BYTES, to);
}

int wire_admin_reply_decode(Bytes bytes, AdminReply *ret) {
        _cleanup_(arena_freep) Arena *arena = NULL;
        ProtobufCMessage *base;

        int r = message_unpack(&treaty__v1__admin_reply__descriptor, bytes, ADMIN_BYTES, &arena, &base);
        if (r < 0)
                return r;
        const Treaty__V1__AdminReply *message = (Treaty__V1__AdminReply *)base;
        if (message->status > RESULT_HIGHEST)
                return -EBADMSG;
        *ret = (AdminReply){
                .leader = message->leader,
                .answer = message->answer,
                .status = (ResultStatus)message->status,
                .revision = message->revision,
        };
        return 0;
}
