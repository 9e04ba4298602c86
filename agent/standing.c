/* How far every member has applied the log. Each tells the leader once a second (roles.c), and nobody else:
 * so whoever is asked on another host asks the leader, once for all who wait, and what he answers is good
 * for a moment. Where nobody leads, or he does not answer at once, it is not known, and nobody waits for it:
 * a list of members has to come without quorum, too. */
#include "hall.h"
#include "base/seen.h"

#include <string.h>

#define ROW_BYTES   16 /* u64 host | u64 index */
#define FRESH_USEC  USEC_PER_SEC
#define WAIT_USEC   USEC_PER_SEC
#define MAX_WAITING 64

struct StandingWait {
        StandingDone done;
        void *userdata;
        uint64_t deadline_usec;
        StandingWait *next;
};

/* ---- The leader answers ---- */

static uint64_t told_by(const Agent *agent, uint64_t host) {
        RoleView *view = NULL;
        if (host == agent->host.id)
                return agent->tree_status.applied;
        HASH_FIND(hh, agent->roles.views, &host, sizeof(host), view);
        return view ? view->applied : 0;
}

typedef struct Rows {
        Agent *agent;
        Buffer bytes;
} Rows;

static int add_row(const Member *member, void *userdata) {
        Rows *rows = userdata;
        uint8_t row[ROW_BYTES];
        bytes_put_u64(row, member->id);
        bytes_put_u64(row + 8, told_by(rows->agent, member->id));
        return buffer_append(&rows->bytes, row, sizeof(row));
}

int standing_rows(Agent *agent, Buffer *to) {
        Rows rows = {.agent = agent};
        int r = members_each(agent, add_row, &rows);
        *to = rows.bytes; /* empty before */
        return r;
}

/* ---- Who is asked elsewhere asks the leader ---- */

static bool is_fresh(const Agent *agent) {
        const Standing *standing = &agent->standing;
        return standing->told_usec != 0 && agent->now_usec - standing->told_usec < FRESH_USEC;
}

uint64_t standing_of(const Agent *agent, uint64_t host) {
        const Standing *standing = &agent->standing;
        if (host == agent->host.id || hall_is_leader(agent))
                return told_by(agent, host);
        for (size_t i = 0; is_fresh(agent) && i + ROW_BYTES <= standing->rows.size; i += ROW_BYTES)
                if (bytes_get_u64(standing->rows.data + i) == host)
                        return bytes_get_u64(standing->rows.data + i + 8);
        return 0;
}

static void answer_all(Agent *agent, uint64_t until_usec) {
        Standing *standing = &agent->standing;
        StandingWait **at = &standing->waiting;
        while (*at) {
                StandingWait *wait = *at;
                if (wait->deadline_usec > until_usec) {
                        at = &wait->next;
                        continue;
                }
                *at = wait->next;
                standing->n_waiting--;
                wait->done(wait->userdata);
                free(wait);
        }
}

static void leader_says(PeersCall *call, Bytes bytes, void *userdata) {
        Agent *agent = userdata;
        Standing *standing = &agent->standing;
        AdminReply reply;

        if (wire_admin_reply_decode(bytes, &reply) < 0)
                return;
        Buffer rows = {};
        if (reply.leader && buffer_append(&rows, reply.applied.data, reply.applied.size) >= 0) {
                buffer_deinit(&standing->rows);
                standing->rows = rows;
                standing->told_usec = agent->now_usec;
        }
        wire_admin_reply_done(&reply);
}

static void leader_said(PeersCall *call, PeersStatus status, const char *text, void *userdata) {
        Agent *agent = userdata;
        agent->standing.call = NULL;
        agent->standing.answered = true;
        hall_wake(agent);
}

static void ask(Agent *agent) {
        Standing *standing = &agent->standing;
        AdminRequest request = {.action = ADMIN_APPLIED};
        PeersCallEvents events = {.message = leader_says, .end = leader_said, .userdata = agent};
        _cleanup_(buffer_deinit) Buffer bytes = {};

        if (wire_admin_request_encode(&request, &bytes) < 0 ||
            agent->outside.call(agent->outside.userdata, hall_leader(agent), CALL_ADMIN,
                                BYTES(bytes.data, bytes.size), WAIT_USEC, &events, &standing->call) < 0) {
                standing->call = NULL;
                standing->answered = true;
        }
}

void standing_work(Agent *agent) {
        Standing *standing = &agent->standing;
        if (!standing->waiting)
                return;
        bool known = hall_is_leader(agent) || is_fresh(agent), nobody = hall_leader(agent) == 0;
        if (!known && !nobody && !standing->call && !standing->answered)
                ask(agent);
        if (known || nobody || standing->answered) {
                standing->answered = false;
                answer_all(agent, USEC_INFINITY);
        } else
                answer_all(agent, agent->now_usec);
}

uint64_t standing_deadline(const Agent *agent) {
        uint64_t deadline = USEC_INFINITY;
        for (const StandingWait *wait = agent->standing.waiting; wait; wait = wait->next)
                deadline = MIN(deadline, wait->deadline_usec);
        return deadline;
}

int agent_ask_members(Agent *agent, StandingDone done, void *userdata) {
        Standing *standing = &agent->standing;
        if (standing->n_waiting >= MAX_WAITING)
                return -EBUSY;
        StandingWait *wait = calloc(1, sizeof(StandingWait));
        if (!wait)
                return -ENOMEM;
        *wait = (StandingWait){.done = done,
                               .userdata = userdata,
                               .deadline_usec = hall_now(agent) + WAIT_USEC,
                               .next = standing->waiting};
        if (!standing->waiting)
                standing->answered = false; /* to those who waited before */
        standing->waiting = wait;
        standing->n_waiting++;
        agent->duty_usec = 0;
        hall_wake(agent);
        return 0;
}

void standing_reset(Agent *agent) {
        Standing *standing = &agent->standing;
        if (standing->call) {
                PeersCallEvents none = {};
                agent->outside.call_set_events(agent->outside.userdata, standing->call, &none);
                agent->outside.call_free(agent->outside.userdata, standing->call);
        }
        answer_all(agent, USEC_INFINITY);
        buffer_deinit(&standing->rows);
        agent->standing = (Standing){};
}
