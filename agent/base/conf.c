/* See conf.h. */
#include "conf.h"

static size_t voters_encode(const ConfVoter *voters, uint32_t n, uint8_t *to) {
        for (uint32_t i = 0; i < n; i++) {
                bytes_put_u64(to + 16 * i, voters[i].id);
                bytes_put_u64(to + 16 * i + 8, voters[i].since);
        }
        return 16 * (size_t)n;
}

size_t conf_encode(const Conf *conf, uint8_t to[static CONF_BYTES_MAX]) {
        assert(conf->n_voters <= LIMIT_VOTERS && conf->n_old <= LIMIT_VOTERS);
        to[0] = 1;
        to[1] = (uint8_t)conf->n_voters;
        to[2] = (uint8_t)conf->n_old;
        to[3] = 0;
        size_t size = 4;
        size += voters_encode(conf->voters, conf->n_voters, to + size);
        size += voters_encode(conf->old, conf->n_old, to + size);
        return size;
}

static const ConfVoter *voters_find(const ConfVoter *voters, uint32_t n, uint64_t id) {
        for (uint32_t i = 0; i < n; i++)
                if (voters[i].id == id)
                        return voters + i;
        return NULL;
}

static int voters_decode(const uint8_t *from, uint32_t n, ConfVoter *ret) {
        for (uint32_t i = 0; i < n; i++) {
                uint64_t id = bytes_get_u64(from + 16 * i);
                if (id == 0 || voters_find(ret, i, id))
                        return -EBADMSG;
                ret[i] = (ConfVoter){.id = id, .since = bytes_get_u64(from + 16 * i + 8)};
        }
        return 0;
}

int conf_decode(Bytes bytes, Conf *ret) {
        if (bytes.size < 4 || bytes.data[0] != 1 || bytes.data[3] != 0)
                return -EBADMSG;

        Conf conf = {.n_voters = bytes.data[1], .n_old = bytes.data[2]};
        if (conf.n_voters > LIMIT_VOTERS || conf.n_old > LIMIT_VOTERS)
                return -EBADMSG;
        if (conf.n_voters == 0 && conf.n_old > 0)
                return -EBADMSG;
        if (bytes.size != 4 + 16 * (size_t)(conf.n_voters + conf.n_old))
                return -EBADMSG;

        int r = voters_decode(bytes.data + 4, conf.n_voters, conf.voters);
        if (r < 0)
                return r;
        r = voters_decode(bytes.data + 4 + 16 * (size_t)conf.n_voters, conf.n_old, conf.old);
        if (r < 0)
                return r;
        *ret = conf;
        return 0;
}

const ConfVoter *conf_find(const Conf *conf, uint64_t id) {
        const ConfVoter *voter = voters_find(conf->voters, conf->n_voters, id);
        return voter ?: voters_find(conf->old, conf->n_old, id);
}

bool conf_is_voter(const Conf *conf, uint64_t id) {
        return conf_find(conf, id) != NULL;
}
