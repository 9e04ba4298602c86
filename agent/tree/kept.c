/* Outcomes that are kept for somebody. A caller who was told Unknown may ask for an hour what became of his
 * request, also on another host and when the agent that told him is gone. The row of an agent cannot serve
 * him: it forgets what is resolved, or it would grow with every request. So the agent names the serials that
 * it has told Unknown, as soon as they are decided, in the next request that it makes; what the row knows of
 * them is copied into a record of the host, from which each goes after an hour of cluster time. What the
 * agent did not come to name its row still holds, and an ended row stays for an hour by itself.
 *
 * At most LIMIT_KEPT of a host, the newest; all in one record, oldest first. */
#include "internal.h"
#include "../base/seen.h"

#include <string.h>

/* u64 incarnation | u64 serial | u64 end (cluster time) | u64 revision | u64 number | u8 status */
#define KEPT_BYTES 41
#define KEPT_NEVER 255 /* its status: a later serial decided that it never applies */

typedef struct Kept {
        uint64_t incarnation, serial, end;
        bool applied;
        Result result;
} Kept;

static void kept_write(uint8_t to[static KEPT_BYTES], const Kept *kept) {
        bytes_put_u64(to, kept->incarnation);
        bytes_put_u64(to + 8, kept->serial);
        bytes_put_u64(to + 16, kept->end);
        bytes_put_u64(to + 24, kept->result.revision);
        bytes_put_u64(to + 32, kept->result.number);
        to[40] = kept->applied ? (uint8_t)kept->result.status : KEPT_NEVER;
}

static Kept kept_read(const uint8_t from[static KEPT_BYTES]) {
        bool applied = from[40] != KEPT_NEVER;
        return (Kept){
                .incarnation = bytes_get_u64(from),
                .serial = bytes_get_u64(from + 8),
                .end = bytes_get_u64(from + 16),
                .applied = applied,
                .result = {.revision = bytes_get_u64(from + 24),
                           .number = bytes_get_u64(from + 32),
                           .status = applied ? from[40] : RESULT_DONE},
        };
}

static uint64_t kept_end(Bytes body) { /* of the oldest */
        return bytes_get_u64(body.data + 16);
}

int kept_check(Bytes key, Bytes body) {
        if (key.size != 8 || body.size == 0 || body.size % KEPT_BYTES != 0 ||
            body.size / KEPT_BYTES > LIMIT_KEPT)
                return TREE_ROTTEN;
        uint64_t before = 0;
        for (size_t at = 0; at < body.size; at += KEPT_BYTES) {
                Kept kept = kept_read(body.data + at);
                if (kept.incarnation == 0 || kept.serial == 0 || kept.end < before ||
                    kept.result.status > RESULT_HIGHEST)
                        return TREE_ROTTEN;
                before = kept.end;
        }
        return 0;
}

/* Incarnation 0 belongs to no process: in the index it stands for the host's record here. */
static void kept_index_key(uint8_t to[static 24], uint64_t host, uint64_t end) {
        key_write(to, end);
        key_write(to + 8, host);
        key_write(to + 16, 0);
}

int kept_index(Tree *tree, Bytes key, Bytes body) {
        uint8_t index[24];
        kept_index_key(index, key_read(key.data), kept_end(body));
        tree->next_expiry = MIN(tree->next_expiry, kept_end(body));
        return index_put(tree, INDEX_EXPIRY, BYTES(index, 24), 0);
}

static int kept_load(Tree *tree, uint64_t host, Buffer *into) {
        uint8_t key[8];
        Bytes body;
        key_write(key, host);
        into->size = 0;
        int r = record_get(tree, RECORD_KEPT, BYTES(key, 8), &body);
        if (r == 0)
                r = kept_check(BYTES(key, 8), body);
        return r != 0 ? r : buffer_append(into, body.data, body.size);
}

/* The record becomes `body`. `end`: of the oldest one that was in it, 0: there was none. */
static int kept_store(Tree *tree, uint64_t host, uint64_t end, Bytes body) {
        uint8_t key[8], index[24];
        key_write(key, host);
        int r = body.size > 0 ? record_put(tree, RECORD_KEPT, BYTES(key, 8), body)
                              : record_delete(tree, RECORD_KEPT, BYTES(key, 8));
        if (r == 0 && end != 0) {
                kept_index_key(index, host, end);
                r = index_delete(tree, INDEX_EXPIRY, BYTES(index, 24));
        }
        if (r == 0 && body.size > 0)
                r = kept_index(tree, BYTES(key, 8), body);
        return r != 0 ? r : requests_load_expiry(tree);
}

static bool is_kept(const Buffer *body, uint64_t incarnation, uint64_t serial, Kept *ret) {
        for (size_t at = body->size; at > 0; at -= KEPT_BYTES) {
                *ret = kept_read(body->data + at - KEPT_BYTES);
                if (ret->incarnation == incarnation && ret->serial == serial)
                        return true;
        }
        return false;
}

/* Which serials are there already, counted back as the command counts them: looked up one by one, a command
 * of 2 kB would cost every host milliseconds. */
typedef struct Known {
        uint64_t bits[(UINT16_MAX + 1) / 64];
} Known;

static bool known_take(Known *known, uint64_t back) {
        uint64_t bit = UINT64_C(1) << (back % 64), *word = known->bits + back / 64;
        bool first = (*word & bit) == 0;
        *word |= bit;
        return first;
}

static void known_load(Known *known, const Buffer *body, const Command *command) {
        for (size_t at = 0; at < body->size; at += KEPT_BYTES) {
                Kept kept = kept_read(body->data + at);
                if (kept.incarnation == command->incarnation && kept.serial < command->serial &&
                    command->serial - kept.serial <= UINT16_MAX)
                        known_take(known, command->serial - kept.serial);
        }
}

/* What the command names goes from the row, which is about to forget it, into the record. */
int kept_note(Tree *tree, const RequestRow *row, const Command *command) {
        if (command->keep.size == 0)
                return 0;
        _cleanup_(buffer_deinit) Buffer body = {};
        int r = kept_load(tree, command->host, &body);
        if (r != 0 && r != TREE_NONE)
                return r;
        uint64_t end = body.size > 0 ? bytes_get_u64(body.data + 16) : 0;
        size_t before = body.size;
        Known known = {};

        known_load(&known, &body, command);
        for (size_t i = 0; i + 2 <= command->keep.size; i += 2) {
                uint64_t back = command->keep.data[i] | (uint64_t)command->keep.data[i + 1] << 8;
                uint64_t serial = command->serial - back;
                Kept kept = {.incarnation = command->incarnation, .serial = serial};
                if (back == 0 || back >= command->serial || !known_take(&known, back))
                        continue;
                switch (request_outcome(row, true, serial, &kept.result)) {
                case TREE_OUTCOME_APPLIED:
                        kept.applied = true;
                        break;
                case TREE_OUTCOME_NEVER:
                        break;
                case TREE_OUTCOME_UNDECIDED:
                case TREE_OUTCOME_TOO_OLD:
                        continue;
                }
                kept.end = tree->meta.cluster_usec > USEC_INFINITY - TREE_KEEP_USEC
                                   ? USEC_INFINITY
                                   : tree->meta.cluster_usec + TREE_KEEP_USEC;
                uint8_t bytes[KEPT_BYTES];
                kept_write(bytes, &kept);
                r = buffer_append(&body, bytes, sizeof(bytes));
                if (r < 0)
                        return r;
        }
        if (body.size == before)
                return 0;
        SIM_SEEN("kept: an outcome is kept for who was told Unknown");
        size_t drop = body.size > LIMIT_KEPT * KEPT_BYTES ? body.size - LIMIT_KEPT * KEPT_BYTES : 0;
        return kept_store(tree, command->host, end, BYTES(body.data + drop, body.size - drop));
}

/* The hour of the oldest is over. */
int kept_expire(Tree *tree, uint64_t host) {
        _cleanup_(buffer_deinit) Buffer body = {};
        int r = kept_load(tree, host, &body);
        if (r != 0)
                return r;
        SIM_SEEN("kept: the hour is over");
        size_t drop = 0;
        while (drop < body.size && bytes_get_u64(body.data + drop + 16) <= tree->meta.cluster_usec)
                drop += KEPT_BYTES;
        return kept_store(tree, host, bytes_get_u64(body.data + 16),
                          BYTES(body.data + drop, body.size - drop));
}

TreeOutcome kept_outcome(Tree *tree, uint64_t host, uint64_t incarnation, uint64_t serial,
                         Result *ret_result) {
        _cleanup_(buffer_deinit) Buffer body = {};
        Kept kept;
        int r = kept_load(tree, host, &body);
        if (r != 0 && r != TREE_NONE) /* a disk that does not answer says nothing about the request */
                return TREE_OUTCOME_UNDECIDED;
        if (!is_kept(&body, incarnation, serial, &kept))
                return TREE_OUTCOME_TOO_OLD;
        SIM_SEEN("kept: asked for");
        if (kept.applied)
                *ret_result = kept.result;
        return kept.applied ? TREE_OUTCOME_APPLIED : TREE_OUTCOME_NEVER;
}
