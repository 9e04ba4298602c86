/* A Conf is the set of voters: one majority, or two while it changes (joint consensus, Raft section 6). It
 * travels as the payload of ENTRY_CONF, in snapshots and in the log's base record, always in the layout
 * below.
 *
 *      u8 version (1) | u8 n_voters | u8 n_old | u8 zero | n_voters + n_old times: u64 id | u64 since
 *
 * `since` is the index of the entry since which the voter votes without a break: acknowledgements repeat it,
 * so that those of an earlier life of the same host never count. All little endian. */
#pragma once

#include "bytes.h"
#include "limits.h"

typedef struct ConfVoter {
        uint64_t id; /* host id, never 0 */
        uint64_t since;
} ConfVoter;

/* Invariants: ids within each list are distinct and not 0; n_voters >= 1 except in the null Conf;
 * n_old > 0 exactly while joint. */
typedef struct Conf {
        uint32_t n_voters;
        uint32_t n_old;
        ConfVoter voters[LIMIT_VOTERS];
        ConfVoter old[LIMIT_VOTERS];
} Conf;

#define CONF_BYTES_MAX (4 + 2 * LIMIT_VOTERS * 16)

size_t conf_encode(const Conf *conf, uint8_t to[static CONF_BYTES_MAX]);
int conf_decode(Bytes bytes, Conf *ret);                   /* 0, -EBADMSG */
bool conf_is_voter(const Conf *conf, uint64_t id);         /* in either list */
const ConfVoter *conf_find(const Conf *conf, uint64_t id); /* the new list first; NULL when in none */
static inline bool conf_is_joint(const Conf *conf) {
        return conf->n_old > 0;
}
