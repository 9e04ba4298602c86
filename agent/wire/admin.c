/* Admin: what the leader is asked to do for another member. */
#include "wire.h"

#include <stdlib.h>
#include <string.h>
#include "message.h"

#define ADMIN_BYTES   1024
#define APPLIED_BYTES 16 /* u64 host | u64 index */
#define REPLY_BYTES   (ADMIN_BYTES + LIMIT_MEMBERS * APPLIED_BYTES)

static bool admin_request_is_sound(const AdminRequest *request) {
        switch (request->action) {
        case ADMIN_REMOVE:
                return request->host > 0;
        case ADMIN_TRANSFER:
        case ADMIN_APPLIED:
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
        PB_SET_BYTES(&message, applied, reply->applied.data, reply->applied.size);
        return message_pack(&message.base, REPLY_BYTES, to);
}

int wire_admin_reply_decode(Bytes bytes, AdminReply *ret) {
        _cleanup_(arena_freep) Arena *arena = NULL;
        ProtobufCMessage *base;

        int r = message_unpack(&treaty__v1__admin_reply__descriptor, bytes, REPLY_BYTES, &arena, &base);
        if (r < 0)
                return r;
        const Treaty__V1__AdminReply *message = (Treaty__V1__AdminReply *)base;
        if (message->status > RESULT_HIGHEST || message->applied.len % APPLIED_BYTES != 0)
                return -EBADMSG;
        uint8_t *applied = message->applied.len > 0 ? malloc(message->applied.len) : NULL;
        if (applied)
                memcpy(applied, message->applied.data, message->applied.len);
        else if (message->applied.len > 0)
                return -ENOMEM;
        *ret = (AdminReply){
                .leader = message->leader,
                .answer = message->answer,
                .status = (ResultStatus)message->status,
                .revision = message->revision,
                .applied = BYTES(applied, message->applied.len),
        };
        return 0;
}

void wire_admin_reply_done(AdminReply *reply) {
        free((void *)reply->applied.data);
        reply->applied = BYTES(NULL, 0);
}
