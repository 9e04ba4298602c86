/* Messages at the door. What a peer sends is foreign: it is looked at as a whole before anything is changed,
 * and refused politely. Inside, a message that passed may be trusted to be well-formed, though not to be
 * timely. */
#include "internal.h"

static bool position_is_sane(uint64_t index, uint64_t term, uint64_t max_term) {
        return index <= INDEX_MAX && term <= max_term && (index > 0 || term == 0);
}

static bool entry_is_sane(const Entry *entry, uint64_t index, uint64_t min_term, uint64_t max_term) {
        if (!entry || entry->index != index || entry->size > LIMIT_ENTRY_BYTES)
                return false;
        if (entry->term == 0 || entry->term < min_term || entry->term > max_term)
                return false;
        if (entry->type == ENTRY_CONF) {
                Conf conf;
                return conf_decode(BYTES(entry->data, entry->size), &conf) >= 0 && conf.n_voters > 0;
        }
        return entry->type == ENTRY_NOOP || entry->type == ENTRY_COMMAND;
}

static bool append_is_sane(const RaftMessage *m) {
        if (!position_is_sane(m->log_index, m->log_term, m->term) || m->commit > INDEX_MAX ||
            m->heal > INDEX_MAX)
                return false;
        if (m->n_entries > LIMIT_APPEND_ENTRIES || (m->n_entries > 0 && !m->entries))
                return false;

        uint64_t term = m->log_term;
        for (uint32_t i = 0; i < m->n_entries; i++) {
                if (!entry_is_sane(m->entries[i], m->log_index + 1 + i, term, m->term))
                        return false;
                term = m->entries[i]->term;
        }
        return true;
}

static bool reply_is_sane(const RaftMessage *m) {
        return m->log_index <= INDEX_MAX && m->match <= INDEX_MAX && m->hint_index <= INDEX_MAX &&
               m->hint_term <= m->term && m->heal == 0;
}

bool message_is_sane(const Raft *raft, const RaftMessage *m) {
        if (m->from == 0 || m->from == raft->options.id || m->to != raft->options.id)
                return false;
        if (m->term == 0 || m->term > TERM_MAX)
                return false;
        if (m->type != RAFT_APPEND && m->n_entries > 0)
                return false;

        switch (m->type) {
        case RAFT_PREVOTE:
        case RAFT_VOTE:
                /* Nobody holds entries of the term it wants to begin. */
                return position_is_sane(m->log_index, m->log_term, m->term - 1);
        case RAFT_APPEND:
                return append_is_sane(m);
        case RAFT_BEAT:
                return m->commit <= INDEX_MAX && m->heal <= INDEX_MAX;
        case RAFT_APPEND_REPLY:
        case RAFT_BEAT_REPLY:
                return reply_is_sane(m);
        case RAFT_PREVOTE_REPLY:
        case RAFT_VOTE_REPLY:
        case RAFT_TIMEOUT_NOW:
                return true;
        }
        return false;
}

void message_send(Raft *raft, RaftMessage message) {
        RaftMessage *queue =
                raft_reserve(raft, raft->queue, &raft->queue_capacity, raft->n_queue, sizeof(RaftMessage));
        if (!queue)
                return;
        raft->queue = queue;

        message.from = raft->options.id;
        if (message.type == RAFT_APPEND_REPLY || message.type == RAFT_BEAT_REPLY) {
                message.life = raft->options.life;
                message.damaged = raft->damaged && !raft->lost;
        }
        if (message.term == 0)
                message.term = raft->term;
        queue[raft->n_queue++] = message;
}
