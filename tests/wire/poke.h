/* Pokes a decoder with any bytes: whatever it lets through is read to the last byte, held against limits.h,
 * encoded again and decoded again. Used by the unit test, the fuzz targets and the replay of their corpora.
 */
#pragma once

#include "agent/wire/wire.h"

typedef int (*Poke)(Bytes bytes); /* as the decoder: 0, -EBADMSG */

int poke_command(Bytes bytes);
int poke_letter(Bytes bytes);
int poke_join_request(Bytes bytes);
int poke_join_reply(Bytes bytes);
int poke_follow_request(Bytes bytes);
int poke_follow_batch(Bytes bytes);
int poke_snapshot_head(Bytes bytes);
int poke_admin_request(Bytes bytes);
int poke_admin_reply(Bytes bytes);

/* Valid bytes of every kind, edge values included. */
typedef struct Sample {
        char name[48];
        Poke poke;
        Buffer bytes;
} Sample;

size_t samples_make(Sample **ret);
void samples_free(Sample *samples, size_t n);
