/* Raft's messages as bytes. Internal to the room. */
#pragma once

#include "../base/letter.h"
#include "message.h"

#define RAFT_UNUSUAL 1

int raft_letter_encode(const RaftMessage *raft, Buffer *to); /* a whole letter: 0, -EMSGSIZE, -ENOMEM */
/* RAFT_UNUSUAL: no letter that raft_letter_encode() makes; it may still be one. With entries: *ret_entries
 * is freed by the caller. */
int raft_letter_decode(Bytes bytes, RaftMessage *ret, Entry ***ret_entries);
/* What holds for all of them, however they were read. */
int raft_message_read(const Treaty__V1__Raft *message, RaftMessage *ret, Entry ***ret_entries);
