/* What the others gave their word for, as this process heard it: a voter's term when it acknowledged, voted
 * or led, and, of that term, how far its log was on its own disk. A host says in its hello with what it
 * started. When that is less than it ever gave its word for in an earlier life, its disk lost something, or
 * is an older one:
 *
 *      A ── beat, term 7, on my disk up to 120 ──▶ B: A's word: (7, 120)
 *      A is killed, an image of its disk from before comes back
 *      A ── hello: start 5, term 7, log up to 90 ──▶ B: less than A's word: not greeted
 *      A ◀── hello: "start 5 has lost" ───────────── B
 *      A: stores "damaged", starts anew, and heals (damage.c)
 *
 * No crash looks like that: a term is never forgotten, and within one term nobody's log is cut below what it
 * acknowledged, or, as the leader, ever. A higher term says nothing about the log, for the tail may have
 * been cut rightly. Neither does a log that was dropped with a seat (demotion), so the seat has to be the
 * same.
 *
 * This is memory, not proof: whoever heard must live on. What nobody alive has heard, nobody can miss; start
 * numbers (quarantine.c) reach further back. A host that calls itself damaged knows already. */
#include "hall.h"
#include "base/seen.h"

/* The seat as known here: nobody's is 0. */
static uint64_t seat_of(const Agent *agent, uint64_t host) {
        const Conf *conf = agent->raft_status.conf;
        for (unsigned i = 0; conf && i < conf->n_voters; i++)
                if (conf->voters[i].id == host)
                        return conf->voters[i].since + 1;
        return 0;
}

static bool is_less(const Word *a, const Word *b) {
        return a->term < b->term || (a->term == b->term && a->index < b->index);
}

/* Only what leaves a host when it is on its disk. */
static bool is_word(const RaftMessage *m) {
        switch (m->type) {
        case RAFT_VOTE:
        case RAFT_APPEND:
        case RAFT_BEAT:
                return true;
        case RAFT_VOTE_REPLY:
        case RAFT_APPEND_REPLY:
                return !m->refused;
        case RAFT_PREVOTE:
        case RAFT_PREVOTE_REPLY:
        case RAFT_BEAT_REPLY:
        case RAFT_TIMEOUT_NOW:
                return false;
        }
        return false;
}

void words_heard(Agent *agent, Connection *connection, const RaftMessage *m) {
        Word word = {.term = m->term, .index = m->match, .seat = connection->word.seat};

        if (!is_word(m) || m->term < agent->raft_status.term)
                return; /* what is said in a term that is over counts for nothing */
        if (m->type == RAFT_VOTE || m->type == RAFT_VOTE_REPLY)
                word.index = 0;
        if (!is_less(&connection->word, &word))
                return;
        word.seat = seat_of(agent, connection->host);
        connection->word = word;
}

/* What an earlier life of it said binds the one that says hello now; true: it lacks some of it. */
bool words_are_broken(Agent *agent, Connection *connection, const LetterHello *hello) {
        Word *bound = &connection->bound;

        if (hello->start != connection->start) {
                if (is_less(bound, &connection->word))
                        *bound = connection->word;
                connection->word = (Word){};
        }
        if (hello->damaged) { /* it knows, and does not count before it has got all again */
                *bound = (Word){};
                return false;
        }
        bool same_seat = bound->seat != 0 && bound->seat == seat_of(agent, connection->host);
        bool lacks = hello->log_term < bound->term;
        if (hello->log_term == bound->term && hello->keeps_log && same_seat)
                lacks = hello->log_index < bound->index;
        if (lacks)
                SIM_SEEN("word: a peer started with less than it gave its word for");
        return lacks;
}

/* A leader tells how far its own disk is: an entry is sent before it is there. */
void words_give(const Agent *agent, RaftMessage *m) {
        if (m->type == RAFT_APPEND || m->type == RAFT_BEAT)
                m->match = agent->raft_status.durable;
}

void words_tell(const Agent *agent, LetterHello *hello) {
        hello->log_term = agent->began.term;
        hello->log_index = agent->began.index;
        hello->keeps_log = agent->began.keeps_log;
        hello->damaged = agent->began.damaged;
}

/* Before the first letter: with what this process started. */
void words_begin(Agent *agent) {
        RaftStatus status;
        raft_status(agent->raft, &status);
        agent->began.term = status.term;
        agent->began.index = status.last_index;
        agent->began.keeps_log = status.keeps_log;
        agent->began.damaged = agent->damaged;
}
