/* Permission to look. A local read may look at once. A linearizable one waits for a ReadIndex: the leader
 * learns, by a beat sent after the question arrived, that it still leads, and names the index it had
 * committed by then; when that is applied here, the read may look (thesis, section 6.4). All reads that wait
 * in one turn share one question. A question gets an id that is never used again; when leader or connection
 * change it is asked anew under another. Only who was asked can answer.
 *
 * After an unclean stop a gate keeps all reads back until such an index is applied, at most 2 s: the mark of
 * the newest commit may have been one behind, and what was read before the stop must not be unread. */
#include "hall.h"
#include "base/seen.h"

#define READ_AGAIN_USEC (500 * USEC_PER_MSEC)
#define ASK_AGAIN_USEC  (20 * USEC_PER_MSEC) /* when the leader could not be asked */

typedef enum ReadStage {
        READ_NEW,     /* no question asked yet */
        READ_ASKED,   /* question .id is with the leader */
        READ_INDEXED, /* waits for .index */
        READ_DENIED,  /* over before it began */
} ReadStage;

struct Read {
        Agent *agent;
        ReadStage stage;
        uint64_t min_revision;
        uint64_t index;
        uint64_t id;
        uint64_t asked; /* that host */
        uint64_t asked_usec;
        uint64_t deadline_usec;
        bool gate; /* the hall's own, for the gate */
        ReadReady ready;
        void *userdata;
        Read *prev, *next;
};

/* Asked by another host, being answered by our core under an id of ours. */
typedef struct ReadQuestion {
        uint64_t id;   /* key */
        uint64_t host; /* 0: this host itself */
        uint64_t incarnation, their_id;
        UT_hash_handle hh;
} ReadQuestion;

#define QUESTIONS_MAX LIMIT_PENDING_READS

static void read_end(Read *read, Answer answer) {
        Agent *agent = read->agent;
        ReadReady ready = read->ready;
        void *userdata = read->userdata;

        DL_DELETE(agent->reads.head, read);
        agent->reads.n--;
        free(read);
        if (ready)
                ready(answer, userdata);
}

Read *read_forget(Read *read) {
        if (read)
                read->ready = NULL;
        return NULL;
}

static int read_add(Agent *agent, ReadStage stage, uint64_t min_revision, uint64_t timeout_usec,
                    ReadReady ready, void *userdata, Read **ret) {
        Reads *reads = &agent->reads;
        if (reads->n >= LIMIT_PENDING_READS)
                return -EBUSY;

        Read *read = calloc(1, sizeof(Read));
        if (!read)
                return -ENOMEM;
        *read = (Read){
                .agent = agent,
                .stage = stage,
                .min_revision = min_revision,
                .deadline_usec = hall_now(agent) + MIN(timeout_usec, 3600 * USEC_PER_SEC),
                .ready = ready,
                .userdata = userdata,
        };
        DL_APPEND(reads->head, read);
        reads->n++;
        hall_wake(agent);
        if (ret)
                *ret = read;
        return 0;
}

int agent_read(Agent *agent, uint32_t flags, uint64_t min_revision, uint64_t timeout_usec, ReadReady ready,
               void *userdata, Read **ret) {
        bool linearizable = flags & READ_LINEARIZABLE;

        if (!linearizable && !agent->reads.gate && !agent->heal.bad && !agent->heal.suspect &&
            agent->tree_status.revision >= min_revision && agent->tree_status.applied >= agent->applied_high)
                return 1;
        return read_add(agent, linearizable ? READ_NEW : READ_INDEXED, min_revision, timeout_usec, ready,
                        userdata, ret);
}

/* ---- The question ---- */

static void question_free(Agent *agent, ReadQuestion *question) {
        HASH_DEL(agent->reads.questions, question);
        agent->reads.n_questions--;
        if (question->host != 0)
                share_answered(agent, question->host);
        free(question);
}

/* Our core is asked, for ourselves or another. */
static int question_ask(Agent *agent, uint64_t host, uint64_t incarnation, uint64_t their_id) {
        Reads *reads = &agent->reads;
        if (reads->n_questions >= QUESTIONS_MAX)
                return RAFT_BUSY;

        if (host != 0 && !share_question(agent, host))
                return RAFT_BUSY;
        ReadQuestion *question = calloc(1, sizeof(ReadQuestion));
        if (!question) {
                if (host != 0)
                        share_answered(agent, host);
                return -ENOMEM;
        }
        *question = (ReadQuestion){
                .id = ++reads->next_id,
                .host = host,
                .incarnation = incarnation,
                .their_id = their_id,
        };
        HASH_ADD(hh, reads->questions, id, sizeof(question->id), question);
        if (!HASH_ADDED(question)) {
                if (host != 0)
                        share_answered(agent, host);
                free(question);
                return -ENOMEM;
        }
        reads->n_questions++;
        int r = raft_read(agent->raft, question->id, agent->now_usec);
        if (r != 0) {
                question_free(agent, question);
                return r;
        }
        agent->again = true;
        return 0;
}

static bool asked_there(const Read *read, uint64_t host, uint64_t id) {
        return read->stage == READ_ASKED && read->id == id && read->asked == host;
}

static void indexed(Agent *agent, uint64_t host, uint64_t id, bool lost, uint64_t index) {
        for (Read *read = agent->reads.head; read; read = read->next) {
                if (!asked_there(read, host, id))
                        continue;
                if (lost)
                        SIM_SEEN("read: lost, asked again");
                read->stage = lost ? READ_NEW : READ_INDEXED;
                read->index = index;
        }
}

static void send_reply(Agent *agent, uint64_t host, uint64_t incarnation, uint64_t id, bool refused,
                       uint64_t index) {
        Letter letter = {
                .kind = LETTER_READ_REPLY,
                .read = {.incarnation = incarnation, .id = id, .refused = refused, .index = index},
        };
        (void)hall_send(agent, host, &letter);
}

void reads_done(Agent *agent, const RaftReadDone *done) {
        ReadQuestion *question = NULL;
        if (sessions_confirmed(agent, done))
                return;
        HASH_FIND(hh, agent->reads.questions, &done->id, sizeof(done->id), question);
        if (!question)
                return;
        if (question->host == 0)
                indexed(agent, agent->host.id, question->their_id, done->lost, done->index);
        else
                send_reply(agent, question->host, question->incarnation, question->their_id, done->lost,
                           done->index);
        question_free(agent, question);
}

void reads_asked(Agent *agent, uint64_t host, const LetterRead *asked) {
        int r = question_ask(agent, host, asked->incarnation, asked->id);
        if (r < 0)
                hall_fail(agent, r, "A read cannot be answered");
        else if (r > 0)
                send_reply(agent, host, asked->incarnation, asked->id, true, 0);
}

void reads_answered(Agent *agent, uint64_t host, const LetterRead *answer) {
        if (answer->incarnation != agent->reads.incarnation)
                return;
        if (answer->refused) {
                SIM_SEEN("read: the leader could not answer");
                /* Not at once again: a leader that is not ready yet would be asked thousands of times. */
                for (Read *read = agent->reads.head; read; read = read->next)
                        if (asked_there(read, host, answer->id))
                                read->asked_usec = agent->now_usec - READ_AGAIN_USEC + 50 * USEC_PER_MSEC;
                return;
        }
        indexed(agent, host, answer->id, false, answer->index);
}

static bool ask_leader(Agent *agent, uint64_t leader, uint64_t id) {
        if (leader == 0)
                return false;
        if (leader == agent->host.id)
                return question_ask(agent, 0, 0, id) == 0;
        Letter letter = {
                .kind = LETTER_READ,
                .read = {.incarnation = agent->reads.incarnation, .id = id},
        };
        return hall_send(agent, leader, &letter) >= 0;
}

static void gate_begin(Agent *agent) {
        Reads *reads = &agent->reads;
        if (!reads->gate || reads->gate_read)
                return;
        Read *read = NULL;
        if (read_add(agent, READ_NEW, 0, 3600 * USEC_PER_SEC, NULL, NULL, &read) == 0) {
                read->gate = true;
                reads->gate_read = read;
        }
}

void reads_start(Agent *agent) {
        Reads *reads = &agent->reads;
        uint64_t id = 0, leader = hall_leader(agent);
        bool failed = false;

        gate_begin(agent);
        for (Read *read = reads->head; read && !failed; read = read->next) {
                if (read->stage == READ_ASKED && agent->now_usec - read->asked_usec >= READ_AGAIN_USEC)
                        read->stage = READ_NEW;
                if (read->stage != READ_NEW || agent->now_usec < reads->again_usec)
                        continue;
                if (id == 0) {
                        id = ++reads->next_id;
                        if (!ask_leader(agent, leader, id)) {
                                failed = true;
                                reads->again_usec = agent->now_usec + ASK_AGAIN_USEC;
                                break;
                        }
                }
                read->stage = READ_ASKED;
                read->id = id;
                read->asked = leader;
                read->asked_usec = agent->now_usec;
        }
}

/* ---- The permission ---- */

static void gate_open(Agent *agent, bool sure) {
        Reads *reads = &agent->reads;
        if (!reads->gate)
                return;
        reads->gate = false;
        agent->status_dirty = true;
        if (!sure) {
                SIM_SEEN("read: the gate opens without quorum");
                report_say(
                        &agent->report, LOG_NOTICE,
                        "No quorum after an unclean stop: reads are served from this host's own state, which may be set "
                        "back by the last moments before the stop.");
        }
}

static void read_waits(Reads *reads, const Read *read) {
        reads->due_usec = MIN(reads->due_usec, read->deadline_usec);
        if (read->stage == READ_ASKED)
                reads->due_usec = MIN(reads->due_usec, read->asked_usec + READ_AGAIN_USEC);
        else if (read->stage == READ_NEW)
                reads->unasked = true;
}

void reads_fire(Agent *agent) {
        Reads *reads = &agent->reads;
        Read *read, *next;
        bool lost = agent->heal.bad || agent->heal.suspect;

        if (reads->gate && !lost && agent->now_usec >= reads->gate_until_usec)
                gate_open(agent, false);
        reads->due_usec = USEC_INFINITY;
        reads->unasked = false;
        DL_FOREACH_SAFE (reads->head, read, next) {
                bool there = read->stage == READ_INDEXED && !lost &&
                             agent->tree_status.applied >= MAX(read->index, agent->applied_high) &&
                             agent->tree_status.revision >= read->min_revision;
                if (read->gate) {
                        if (there || !reads->gate) {
                                if (there && reads->gate)
                                        SIM_SEEN("read: the gate opens by a ReadIndex");
                                gate_open(agent, there);
                                reads->gate_read = NULL;
                                read_end(read, ANSWER_DONE);
                        } else
                                read_waits(reads, read);
                        continue;
                }
                if (there && !reads->gate)
                        read_end(read, ANSWER_DONE);
                else if (agent->now_usec >= read->deadline_usec)
                        read_end(read, lost                          ? ANSWER_NO_TREE
                                       : read->stage == READ_INDEXED ? ANSWER_TIMEOUT
                                                                     : ANSWER_NO_QUORUM);
                else if (!read->ready)
                        read_end(read, ANSWER_TIMEOUT);
                else
                        read_waits(reads, read);
        }
}

/* Without a leader, or a connection there, nobody can be asked: both come with a turn of their own. */
static bool may_ask(const Agent *agent) {
        uint64_t leader = hall_leader(agent);
        return leader != 0 && (leader == agent->host.id || members_connection(agent, leader));
}

uint64_t reads_deadline(const Agent *agent) {
        const Reads *reads = &agent->reads;
        uint64_t deadline = USEC_INFINITY;
        if (reads->head)
                deadline = reads->due_usec;
        if (reads->head && reads->unasked && may_ask(agent))
                deadline = MIN(deadline, reads->again_usec > agent->now_usec
                                                 ? reads->again_usec
                                                 : agent->now_usec + ASK_AGAIN_USEC);
        if (reads->gate && !agent->heal.bad && !agent->heal.suspect)
                deadline = MIN(deadline, reads->gate_until_usec);
        return deadline;
}

void reads_fail(Agent *agent, Answer answer) {
        Reads *reads = &agent->reads;
        Read *read, *next;
        DL_FOREACH_SAFE (reads->head, read, next)
                read_end(read, answer);
        reads->gate_read = NULL;

        ReadQuestion *question, *next_question;
        HASH_ITER (hh, reads->questions, question, next_question)
                question_free(agent, question);
}
