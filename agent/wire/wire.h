/* Bytes between hosts: protobuf (treaty.proto, proto2) to and from the nouns of base. Pure: bytes in,
 * structs out.
 *
 * Encoding appends to a Buffer. Decoding takes foreign bytes: every length, number and enum is checked here,
 * and what is wrong is refused with -EBADMSG, so that whoever gets a decoded struct may rely on the limits
 * in limits.h. Decoded structs own their memory through an opaque `arena`, freed by …_done(); strings and
 * Bytes look into it or into the input, which has to outlive them. An entry's bytes are never encoded anew:
 * they are copied as they are. */
#pragma once

#include "../base/call.h"
#include "../base/letter.h"

#define WIRE_VERSION 1 /* highest entry version that this build can apply */

int wire_command_encode(const Command *command, Buffer *to);

typedef struct WireCommand {
        Command command; /* .member and .token point to the fields below */
        Member member;
        Token token;
        void *arena;
} WireCommand;
int wire_command_decode(Bytes bytes, WireCommand *ret); /* 0, -EBADMSG, -ENOMEM */
void wire_command_done(WireCommand *command);

int wire_letter_encode(const Letter *letter, Buffer *to);

typedef struct WireLetter {
        Letter letter; /* raft.entries: freshly made, one reference each */
        void *arena;
} WireLetter;
int wire_letter_decode(Bytes bytes, WireLetter *ret);
void wire_letter_done(WireLetter *letter);

int wire_join_request_encode(const JoinRequest *request, Buffer *to);
int wire_join_request_decode(Bytes bytes, JoinRequest *ret);
int wire_join_reply_encode(const JoinReply *reply, Buffer *to);
int wire_join_reply_decode(Bytes bytes, JoinReply *ret); /* members: allocated */
void wire_join_reply_done(JoinReply *reply);

int wire_follow_request_encode(const FollowRequest *request, Buffer *to);
int wire_follow_request_decode(Bytes bytes, FollowRequest *ret);
int wire_follow_batch_encode(const FollowBatch *batch, Buffer *to);
int wire_follow_batch_decode(Bytes bytes, FollowBatch *ret); /* entries: allocated, one reference each */
void wire_follow_batch_done(FollowBatch *batch);

int wire_snapshot_head_encode(const SnapshotHead *head, Buffer *to);
int wire_snapshot_head_decode(Bytes bytes, SnapshotHead *ret);

int wire_admin_request_encode(const AdminRequest *request, Buffer *to);
int wire_admin_request_decode(Bytes bytes, AdminRequest *ret);
int wire_admin_reply_encode(const AdminReply *reply, Buffer *to);
int wire_admin_reply_decode(Bytes bytes, AdminReply *ret); /* then wire_admin_reply_done() */
void wire_admin_reply_done(AdminReply *reply);
