/* Follow and Snapshot: what observers and hosts that fell behind ask for. */
#include "wire.h"

#include "message.h"

#define SMALL_BYTES 1024

int wire_follow_request_encode(const FollowRequest *request, Buffer *to) {
        Treaty__V1__FollowRequest message = TREATY__V1__FOLLOW_REQUEST__INIT;
        PB_SET(&message, from, request->from);
        PB_SET(&message, applied_term, request->applied_term);
        return message_pack(&message.base, SMALL_BYTES, to);
}

int wire_follow_request_decode(Bytes bytes, FollowRequest *ret) {
        _cleanup_(arena_freep) Arena *arena = NULL;
        ProtobufCMessage *base;

        int r = message_unpack(&treaty__v1__follow_request__descriptor, bytes, SMALL_BYTES, &arena, &base);
        if (r < 0)
                return r;
        const Treaty__V1__FollowRequest *message = (Treaty__V1__FollowRequest *)base;
        *ret = (FollowRequest){.from = message->from, .applied_term = message->applied_term};
        return ret->from > 0 ? 0 : -EBADMSG;
}

int wire_follow_batch_encode(const FollowBatch *batch, Buffer *to) {
        if (batch->n_entries > LIMIT_APPEND_ENTRIES)
                return -EMSGSIZE;

        Treaty__V1__FollowBatch message = TREATY__V1__FOLLOW_BATCH__INIT;
        _cleanup_(freep) Treaty__V1__Entry **entries = NULL;

        PB_SET(&message, leader, batch->leader);
        PB_SET(&message, term, batch->term);
        PB_SET(&message, beat, batch->beat);
        PB_SET(&message, commit, batch->commit);
        PB_SET(&message, need_snapshot, batch->need_snapshot);
        if (batch->n_entries > 0) {
                int r = entries_message_init(batch->entries, batch->n_entries, &entries);
                if (r < 0)
                        return r;
                PB_SET(&message, first, batch->entries[0]->index);
                message.entry = entries;
                message.n_entry = batch->n_entries;
        }
        return message_pack(&message.base, LIMIT_LETTER_BYTES, to);
}

int wire_follow_batch_decode(Bytes bytes, FollowBatch *ret) {
        _cleanup_(arena_freep) Arena *arena = NULL;
        ProtobufCMessage *base;

        *ret = (FollowBatch){};
        int r = message_unpack(&treaty__v1__follow_batch__descriptor, bytes, LIMIT_LETTER_BYTES, &arena,
                               &base);
        if (r < 0)
                return r;
        const Treaty__V1__FollowBatch *message = (Treaty__V1__FollowBatch *)base;
        Entry **entries;
        /* The stamp's term is the leader's now; entries that it committed are of that term or before. */
        r = entries_message_read(message->entry, message->n_entry, message->first, message->term, &entries);
        if (r < 0)
                return r;
        *ret = (FollowBatch){
                .leader = message->leader,
                .term = message->term,
                .beat = message->beat,
                .commit = message->commit,
                .need_snapshot = message->need_snapshot,
                .n_entries = (uint32_t)message->n_entry,
                .entries = entries,
        };
        return 0;
}

void wire_follow_batch_done(FollowBatch *batch) {
        entries_free(batch->entries, batch->n_entries);
        batch->entries = NULL;
        batch->n_entries = 0;
}

int wire_snapshot_head_encode(const SnapshotHead *head, Buffer *to) {
        Treaty__V1__SnapshotHead message = TREATY__V1__SNAPSHOT_HEAD__INIT;
        PB_SET(&message, index, head->index);
        PB_SET(&message, term, head->term);
        PB_SET_BYTES(&message, cluster, head->cluster, sizeof(head->cluster));
        return message_pack(&message.base, SMALL_BYTES, to);
}

int wire_snapshot_head_decode(Bytes bytes, SnapshotHead *ret) {
        _cleanup_(arena_freep) Arena *arena = NULL;
        ProtobufCMessage *base;

        int r = message_unpack(&treaty__v1__snapshot_head__descriptor, bytes, SMALL_BYTES, &arena, &base);
        if (r < 0)
                return r;
        const Treaty__V1__SnapshotHead *message = (Treaty__V1__SnapshotHead *)base;
        *ret = (SnapshotHead){.index = message->index, .term = message->term};
        bool sound = message->index > 0 &&
                     message_take_fixed(&message->cluster, ret->cluster, sizeof(ret->cluster));
        return sound ? 0 : -EBADMSG;
}
