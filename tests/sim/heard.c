/* An older disk is missed by whoever heard more of it. Beside each pair of hosts stands what the one, while
 * it lives, has heard the other promise: its term, and in that term how far its log is on its disk. Where
 * the core takes a message (the linker's --wrap) the sender must have started with at least what its earlier
 * lives had said, or know that it is damaged. Independent of what the hall remembers (agent/word.c): only
 * what arrived counts, and what the sender's process found on its disk when it started. */
#include "sim.h"

#include <string.h>

typedef struct Promised {
        uint64_t term, index, seat;
} Promised;

typedef struct Heard { /* by one life of the hearer, about all lives of one host */
        unsigned hearer_life;
        uint64_t host, start;
        Promised now, before;
} Heard;

static Heard heard[HOSTS_MAX][HOSTS_MAX];

int __real_raft_receive(Raft *raft, const RaftMessage *message, uint64_t now_usec);
int __wrap_raft_receive(Raft *raft, const RaftMessage *message, uint64_t now_usec);

static SimHost *host_of_raft(const Raft *raft) {
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (world.hosts[i]->agent && world.hosts[i]->agent->raft == raft)
                        return world.hosts[i];
        return NULL;
}

static uint64_t seat_of(const SimHost *hearer, uint64_t id) {
        const Conf *conf = hearer->agent->raft_status.conf;
        for (unsigned i = 0; conf && i < conf->n_voters; i++)
                if (conf->voters[i].id == id)
                        return conf->voters[i].since + 1;
        return 0;
}

static bool less(const Promised *a, const Promised *b) {
        return a->term < b->term || (a->term == b->term && a->index < b->index);
}

/* The process at the other end of the hearer's connection, as far as it still runs. */
static bool speaks(const SimHost *hearer, const SimHost *host) {
        const Connection *c = members_connection(hearer->agent, host->id);
        const LogState *log = host->agent ? log_state(host->agent->log) : NULL;
        return c && log && c->start == log->start &&
               memcmp(c->start_nonce, log->start_nonce, sizeof(c->start_nonce)) == 0;
}

static void compare(SimHost *hearer, SimHost *host, Heard *h) {
        const struct Began *began = &host->agent->began;
        if (began->damaged) { /* it knows, and counts only when it has got all again */
                h->before = (Promised){};
                return;
        }
        bool same_seat = h->before.seat != 0 && h->before.seat == seat_of(hearer, host->id);
        bool lacks = began->term < h->before.term || (began->term == h->before.term && same_seat &&
                                                      began->keeps_log && began->index < h->before.index);
        if (lacks)
                broken("%s heeds %s, which has promised it term %llu, index %llu, and started with %llu, %llu",
                       hearer->name, host->name, (unsigned long long)h->before.term,
                       (unsigned long long)h->before.index, (unsigned long long)began->term,
                       (unsigned long long)began->index);
}

static void note_promise(SimHost *hearer, Heard *h, const RaftMessage *m) {
        bool leads = m->type == RAFT_APPEND || m->type == RAFT_BEAT;
        bool acks = m->type == RAFT_APPEND_REPLY && !m->refused;
        bool votes = m->type == RAFT_VOTE || (m->type == RAFT_VOTE_REPLY && !m->refused);
        Promised said = {.term = m->term, .index = leads || acks ? m->match : 0};
        if (!(leads || acks || votes) || !less(&h->now, &said))
                return;
        said.seat = seat_of(hearer, m->from);
        h->now = said;
}

int __wrap_raft_receive(Raft *raft, const RaftMessage *message, uint64_t now_usec) {
        SimHost *hearer = host_of_raft(raft), *host = host_of(message->from);
        Heard *now = NULL;
        if (hearer && host && host != hearer && speaks(hearer, host)) {
                Heard *h = &heard[hearer->i][host->i];
                uint64_t start = log_state(host->agent->log)->start;
                if (h->hearer_life != hearer->life || h->host != host->id)
                        *h = (Heard){.hearer_life = hearer->life, .host = host->id, .start = start};
                if (h->start != start) {
                        if (less(&h->before, &h->now))
                                h->before = h->now;
                        h->now = (Promised){};
                        h->start = start;
                }
                compare(hearer, host, h);
                now = h;
        }
        bool timely = now && message->term >= hearer->agent->raft_status.term;
        int r = __real_raft_receive(raft, message, now_usec);
        if (r == 0 && timely) /* what is refused, or said in a term that is over, counts for nothing */
                note_promise(hearer, now, message);
        return r;
}
