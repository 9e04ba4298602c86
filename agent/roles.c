/* Who votes. The leader keeps an odd number of voters (1, 3 from the third host on, 5 from the seventh) and
 * replaces one that has been dead for a while; each change of the set is one joint change. A set grows only
 * by hosts whose disk answered just now: the leader asks an observer to make its tree a base (PROMOTE), it
 * does so, durably, and says so (PROMOTED); only then is the change proposed. That base lies behind the
 * entries by which all who are to vote became members: two voters that refuse each other as strangers are no
 * majority. Removing a member that votes demotes it first.
 *
 * Administration is the leader's to do, whoever is asked: tasks that begin on another host travel there as
 * Admin. */
#include "hall.h"
#include "base/seen.h"

#include <string.h>

#define WORK_USEC    (200 * USEC_PER_MSEC)
#define STATUS_USEC  USEC_PER_SEC
#define FRESH_USEC   (3 * USEC_PER_SEC)  /* a status is believed this long */
#define PROMOTE_USEC (5 * USEC_PER_SEC)  /* a promotion that came to nothing is given up */
#define GRACE_USEC   (30 * USEC_PER_SEC) /* a voter is dead after this */
#define CAUGHT_UP    1000                /* entries behind at most */
#define ADMIN_USEC   (200 * USEC_PER_MSEC)
#define MAX_TASKS    64

unsigned roles_voters_wanted(unsigned n_members, unsigned max_voters) {
        unsigned wanted = n_members >= 9 ? 7 : n_members >= 7 ? 5 : n_members >= 3 ? 3 : 1;
        while (wanted > 1 && wanted > max_voters)
                wanted -= 2;
        return wanted;
}

RoleView *roles_view(Agent *agent, uint64_t host) {
        RoleView *view = NULL;
        HASH_FIND(hh, agent->roles.views, &host, sizeof(host), view);
        if (view)
                return view;
        view = calloc(1, sizeof(RoleView));
        if (view) {
                view->host = host;
                view->connected_usec = agent->now_usec;
                HASH_ADD(hh, agent->roles.views, host, sizeof(view->host), view);
                if (HASH_ADDED(view))
                        return view;
                free(view);
        }
        hall_fail(agent, -ENOMEM, "No memory to look after the members"); /* a few bytes: past help */
        agent->roles.nobody = (RoleView){.host = host, .connected_usec = agent->now_usec};
        return &agent->roles.nobody;
}

/* A damaged observer is whole again when its tree holds an entry that was appended after it told. */
static void mark_for(Agent *agent, uint64_t host, RoleView *view) {
        const Connection *connection = members_connection(agent, host);
        uint64_t term = agent->raft_status.term;

        if (!connection)
                return;
        if (view->heal_start != connection->start || view->heal_term != term) {
                uint64_t index;
                int r = raft_mark(agent->raft, &index, agent->now_usec);
                if (r < 0)
                        hall_fail(agent, r, "The core ran out of memory");
                if (r != 0)
                        return;
                view->heal_start = connection->start;
                view->heal_term = term;
                view->heal_index = index;
                agent->again = true;
        }
        Letter letter = {
                .kind = LETTER_HEAL,
                .heal = {.term = term, .index = view->heal_index, .start = view->heal_start},
        };
        (void)hall_send(agent, host, &letter);
}

/* See look_whether_stranded(). */
static void help_stranded(Agent *agent, uint64_t host, const LetterStatus *status) {
        const TreeStatus *tree = &agent->tree_status;

        if (tree->applied <= status->applied || !heal_may_touch(agent) || tree->conf.n_voters == 0)
                return;
        bool votes_no_more = hall_leader(agent) != 0 && !conf_is_voter(&tree->conf, host);
        bool missed_a_change = tree->conf_index > status->applied;
        if (!votes_no_more && !missed_a_change)
                return;
        Letter letter = {
                .kind = LETTER_FETCH,
                .promote = {.term = hall_term(agent), .index = tree->applied},
        };
        (void)hall_send(agent, host, &letter);
}

void roles_status(Agent *agent, uint64_t host, const LetterStatus *status) {
        RoleView *view = roles_view(agent, host);
        view->applied = status->applied;
        view->status_usec = agent->now_usec;
        view->damaged = status->damaged;
        if (status->stranded)
                help_stranded(agent, host, status);
        if (view->damaged && hall_is_leader(agent) && !conf_is_voter(agent->raft_status.conf, host))
                mark_for(agent, host, view);
}

/* ---- The observer's side of damage, and of a promotion ---- */

void roles_heal(Agent *agent, uint64_t from, const LetterHeal *heal) {
        if (agent->damaged && from == hall_leader(agent) && heal->term == hall_term(agent) &&
            heal->start == log_state(agent->log)->start)
                agent->roles.heal = *heal;
}

static void heal_observer(Agent *agent) {
        const LetterHeal *heal = &agent->roles.heal;

        if (heal->index == 0 || !agent->follow.active || !agent->damaged)
                return;
        if (agent->tree_status.applied >= heal->index && agent->tree_status.durable < heal->index)
                tree_checkpoint(agent->tree);
        if (agent->tree_status.durable < heal->index || hall_term(agent) != heal->term)
                return;
        int r = raft_heal(agent->raft, heal->index, heal->term, agent->now_usec);
        if (r < 0)
                hall_fail(agent, r, "The core ran out of memory");
        agent->roles.heal = (LetterHeal){};
        agent->again = true;
}

/* What is applied is made durable first, then the log begins behind it. */
static void begin_base(Agent *agent, uint64_t from, uint64_t term) {
        Roles *roles = &agent->roles;

        roles->promote_from = from;
        roles->promote_term = term;
        roles->promote_index = agent->tree_status.applied;
        roles->promote_seq = 0;
        roles->promoted_usec = agent->now_usec;
        follow_end(agent);
        int r = tree_commit(agent->tree);
        if (r != 0) {
                roles->promote_index = 0;
                if (r == TREE_FULL)
                        hall_taken_back(agent);
                else
                        (void)hall_tree_failed(agent, r, "it cannot be written");
                return;
        }
        tree_checkpoint(agent->tree);
        agent->again = true;
}

/* Several are promoted by one change, and each waits for it only for a while: whoever is asked again while
 * it waits is still there. */
static bool is_promoted(const Agent *agent) {
        const RaftStatus *status = &agent->raft_status;
        return agent->roles.promoted_usec != 0 && agent->roles.promote_index == 0 && !agent->follow.active &&
               status->keeps_log && status->role == RAFT_PASSIVE &&
               !conf_is_voter(status->conf, agent->host.id);
}

void roles_promote(Agent *agent, uint64_t from, const LetterPromote *promote) {
        Roles *roles = &agent->roles;

        if (is_promoted(agent)) {
                SIM_SEEN("roles: asked again while it waits to vote");
                Letter letter = {
                        .kind = LETTER_PROMOTED,
                        .promote = {.term = promote->term, .index = agent->tree_status.applied},
                };
                (void)hall_send(agent, from, &letter);
                return;
        }
        if (agent->follow.active && promote->term < agent->follow.term) {
                SIM_SEEN("roles: asked by one whose term is over");
                return; /* somebody led after it: it would wait for nothing, and follow nobody meanwhile */
        }
        /* A leader of a term below the core's may ask: its appends will be refused, and it comes to office
         * above ours. */
        if (!agent->follow.active || agent->removed || agent->quarantined || snapshot_fetching(agent) ||
            !heal_may_touch(agent) || agent->tree_status.conf.n_voters == 0)
                return;
        if (agent->tree_status.applied < promote->index) {
                SIM_SEEN("roles: does not know yet whom it would vote with");
                return;
        }
        if (roles->promote_index != 0 && roles->promote_from == from)
                return; /* on the way already */
        if (roles->promote_seq != 0) {
                /* The disk has the order: who asks now is answered when it is done, and the core is held
                 * until then, for its vote in that term is spent there. */
                SIM_SEEN("roles: asked while the base is written for another reason");
                roles->promote_from = from;
                roles->promote_term = promote->term;
                return;
        }
        begin_base(agent, from, promote->term);
}

/* The configuration that names this host came as a tree or by Follow (it was down when it was appended): so
 * nobody will ask, and what it applied has to become a base before it can vote. */
static void promote_self(Agent *agent) {
        if (agent->follow.active && !agent->raft_status.keeps_log && agent->roles.promote_index == 0 &&
            !agent->removed && !agent->quarantined && !snapshot_fetching(agent) && heal_may_touch(agent) &&
            conf_is_voter(agent->raft_status.conf, agent->host.id))
                begin_base(agent, 0, agent->raft_status.term);
}

int hall_submit_base(Agent *agent, uint64_t seq) {
        const TreeStatus *tree = &agent->tree_status;
        RaftStatus status;

        raft_status(agent->raft, &status);
        uint64_t term = MAX(status.term, tree->applied_term);
        uint64_t vote = term > status.term ? agent->host.id : status.vote; /* raised: its vote is spent */
        return log_submit_base(agent->log, seq, tree->applied, tree->applied_term, &tree->conf,
                               tree->conf_index, term, vote);
}

static void promotion_durable(Agent *agent) {
        Roles *roles = &agent->roles;

        if (roles->promote_index == 0 || roles->promote_seq != 0 || !heal_may_touch(agent))
                return;
        if (agent->tree_status.durable < roles->promote_index) {
                tree_checkpoint(agent->tree);
                return;
        }
        roles->promote_seq = hall_seq(agent);
        int r = hall_submit_base(agent, roles->promote_seq);
        if (r < 0)
                hall_fail(agent, r, "The log takes nothing");
}

void roles_stored(Agent *agent, uint64_t seq) {
        Roles *roles = &agent->roles;
        const TreeStatus *tree = &agent->tree_status;

        if (roles->promote_seq == 0 || seq < roles->promote_seq)
                return;
        int r = raft_base(agent->raft, tree->applied, tree->applied_term, &tree->conf, tree->conf_index,
                          agent->now_usec);
        if (r < 0) {
                hall_fail(agent, r, "The core cannot take its base");
                return;
        }
        raft_status(agent->raft, &agent->raft_status);
        agent->follow.active = false;
        roles->promoted_usec = agent->now_usec;
        Letter letter = {
                .kind = LETTER_PROMOTED,
                .promote = {.term = roles->promote_term, .index = tree->applied},
        };
        if (roles->promote_from != 0)
                (void)hall_send(agent, roles->promote_from, &letter);
        roles->promote_index = roles->promote_seq = 0;
}

/* Nobody took us up on it: follow again. */
static void promotion_lapses(Agent *agent) {
        Roles *roles = &agent->roles;
        if (roles->promoted_usec == 0 ||
            roles->promote_seq != 0 || /* the base comes, and the core must hear */
            agent->now_usec - roles->promoted_usec < PROMOTE_USEC)
                return;
        SIM_SEEN("roles: a promotion lapses");
        roles->promoted_usec = 0;
        roles->promote_index = roles->promote_seq = 0;
        /* Somebody did, and a later list leaves it out: while that may yet be cut off it has a vote. */
        if (agent->raft_status.role != RAFT_PASSIVE)
                return;
        if (!agent->follow.active && !conf_is_voter(agent->raft_status.conf, agent->host.id)) {
                agent->follow.active = true;
                agent->follow.heard_usec = agent->now_usec;
                agent->demote = true;
        }
}

/* Voted out, but the word that this is committed never came (this host was down for longer than the leader
 * tells those who left): the tree will have it, from those who serve. */
static void end_of_time_missed(Agent *agent) {
        Roles *roles = &agent->roles;
        const RaftStatus *status = &agent->raft_status;

        if (agent->follow.active || status->role != RAFT_PASSIVE || roles->promoted_usec != 0 ||
            conf_is_voter(status->conf, agent->host.id)) {
                roles->passive_usec = agent->now_usec;
                return;
        }
        if (agent->now_usec - MAX(roles->passive_usec, agent->leader_heard_usec) < PROMOTE_USEC)
                return;
        SIM_SEEN("roles: the end of its time was missed");
        agent->follow.active = true;
        agent->follow.heard_usec = agent->now_usec;
        agent->demote = agent->status_dirty = true;
}

/* A voter by its own word, and nobody leads it for long: it may be that the configuration that names it
 * never came to be (the leader that began it lost it), that another followed while it was away, or that it
 * has the one that leaves it out, and never heard that this is committed. Who leads now then sends it
 * nothing, and its campaigns reach only those whom it knows as voters. Or it has a vote, with others who
 * joined while it was away: those it refuses as strangers, be it the one who leads. So it asks around, one
 * after the other; whoever hears a leader and knows from its tree that this host has no vote, or that the
 * voters changed behind what it has applied, tells it to fetch that tree. A minority that is merely cut off
 * gets no such answer, and fetches nothing.
 *
 * (Where the tree's index is in the log with the same term the tail stays, so nothing that was acknowledged
 * goes.) */
static void look_whether_stranded(Agent *agent) {
        Roles *roles = &agent->roles;
        const RaftStatus *status = &agent->raft_status;
        bool campaigns = status->role != RAFT_PASSIVE; /* any list that may yet be in force names it */

        if (!campaigns || status->leader != 0 || agent->heal.bad || roles->stranded_usec == 0)
                roles->stranded_usec = agent->now_usec;
        roles->stranded = agent->now_usec - roles->stranded_usec >= 2 * PROMOTE_USEC;
}

bool roles_may_fetch(Agent *agent, uint64_t from, const LetterPromote *promote) {
        const RaftStatus *status = &agent->raft_status;

        if (promote->index <= agent->tree_status.applied)
                return false;
        if (from == status->leader)
                return promote->term == status->term;
        if (!agent->roles.stranded || status->leader != 0 || members_is_leaf(agent, from) ||
            checks_host_is_bad(agent, from))
                return false;
        SIM_SEEN("roles: a voter that nobody leads is told that it has no vote");
        return true;
}

static uint64_t next_connected(Agent *agent) {
        unsigned n = HASH_COUNT(agent->members.connections), i = 0, turn = agent->roles.n_stranded++;
        for (Connection *c = agent->members.connections; c; c = c->hh.next)
                if (i++ == turn % n)
                        return members_connection(agent, c->host) ? c->host : 0;
        return 0;
}

/* To the leader; without one, to anybody who might know. */
static void tell_status(Agent *agent) {
        Roles *roles = &agent->roles;

        if (agent->now_usec < roles->status_usec)
                return;
        uint64_t to = roles->stranded ? next_connected(agent) : hall_leader(agent);
        if (to == 0 || to == agent->host.id)
                return;
        roles->status_usec = agent->now_usec + STATUS_USEC;
        Letter letter = {
                .kind = LETTER_STATUS,
                .status = {.applied = agent->tree_status.applied,
                           .durable = agent->tree_status.durable,
                           .damaged = agent->damaged,
                           .stranded = roles->stranded},
        };
        (void)hall_send(agent, to, &letter);
}

/* ---- The leader's plan ---- */

typedef struct Plan {
        Agent *agent;
        unsigned n_members; /* full ones, without those that are to go */
        uint64_t keep[LIMIT_VOTERS], add[LIMIT_VOTERS];
        unsigned n_keep, n_add, n_dead;
} Plan;

static bool is_to_go(Agent *agent, uint64_t host) {
        for (Removal *removal = agent->roles.removals; removal; removal = removal->next)
                if (removal->host == host && removal->here)
                        return true;
        return false;
}

static bool is_active(Agent *agent, uint64_t host) {
        if (host == agent->host.id)
                return true;
        for (size_t i = 0; i < agent->raft_status.n_progress; i++)
                if (agent->raft_status.progress[i].id == host && agent->raft_status.progress[i].active)
                        return true;
        return false;
}

static bool is_dead(Agent *agent, uint64_t host) {
        RoleView *view = roles_view(agent, host);
        if (is_active(agent, host))
                view->connected_usec = agent->now_usec;
        return agent->now_usec - MAX(view->connected_usec, agent->leader_since_usec) > GRACE_USEC;
}

static bool is_candidate(Agent *agent, uint64_t host) {
        RoleView *view = roles_view(agent, host);
        return members_connection(agent, host) && view->status_usec != 0 && !view->damaged &&
               agent->now_usec - view->status_usec < FRESH_USEC &&
               view->applied + CAUGHT_UP >= agent->raft_status.commit;
}

static void plan_member(Plan *plan, uint64_t host) {
        Agent *agent = plan->agent;
        bool voter = conf_is_voter(agent->raft_status.conf, host);

        if (is_to_go(agent, host))
                return;
        plan->n_members++;
        if (voter) {
                if (is_dead(agent, host)) {
                        SIM_SEEN("roles: a voter is gone for long");
                        plan->n_dead++;
                } else if (plan->n_keep < LIMIT_VOTERS)
                        plan->keep[plan->n_keep++] = host;
        } else if (plan->n_add < LIMIT_VOTERS && is_candidate(agent, host))
                plan->add[plan->n_add++] = host;
}

/* Dead voters are kept unless somebody can take their place: a smaller majority would be less safe, not
 * more. */
static void keep_dead(Plan *plan, uint64_t host) {
        Agent *agent = plan->agent;
        unsigned wanted = roles_voters_wanted(plan->n_members, agent->options.max_voters);

        if (conf_is_voter(agent->raft_status.conf, host) && !is_to_go(agent, host) && is_dead(agent, host) &&
            plan->n_keep + plan->n_add < wanted && plan->n_keep < LIMIT_VOTERS)
                plan->keep[plan->n_keep++] = host;
}

/* Only full members are ever voters. */
static int add_full(const Member *member, void *userdata) {
        Roles *roles = userdata;
        if (member->class != MEMBER_FULL)
                return 0;
        if (roles->n_full == roles->full_room) {
                size_t room = MAX((size_t)16, 2 * roles->full_room);
                uint64_t *full = realloc(roles->full, room * sizeof(uint64_t));
                if (!full)
                        return -ENOMEM;
                roles->full = full;
                roles->full_room = room;
        }
        roles->full[roles->n_full++] = member->id;
        return 0;
}

static bool full_members(Agent *agent) {
        Roles *roles = &agent->roles;
        if (roles->full_known)
                return true;
        roles->n_full = 0;
        roles->full_known = tree_members(agent->tree, add_full, roles) == 0;
        for (size_t i = 0; roles->full_known && i < roles->n_full; i++) {
                RoleView *view = roles_view(agent, roles->full[i]);
                if (view->member_index == 0)
                        view->member_index = agent->tree_status.applied;
        }
        return roles->full_known;
}

void roles_members_changed(Agent *agent) {
        agent->roles.full_known = false;
}

static void drop_surplus(Plan *plan, unsigned wanted) {
        while (plan->n_keep > wanted) {
                unsigned last = plan->n_keep - 1;
                if (plan->keep[last] == plan->agent->host.id && last > 0) {
                        plan->keep[last] = plan->keep[last - 1];
                        plan->keep[last - 1] = plan->agent->host.id;
                }
                plan->n_keep--;
        }
}

static bool same_voters(const Conf *conf, const uint64_t *voters, unsigned n) {
        if (conf->n_voters != n)
                return false;
        for (unsigned i = 0; i < n; i++)
                if (!conf_is_voter(conf, voters[i]))
                        return false;
        return true;
}

/* Whose tree is here lets all of them in. */
static uint64_t members_index(Agent *agent, const uint64_t *hosts, unsigned n) {
        uint64_t index = 0;
        for (unsigned i = 0; i < n; i++)
                index = MAX(index, roles_view(agent, hosts[i])->member_index);
        return index;
}

static void ask_promotions(Agent *agent, const uint64_t *hosts, unsigned n, uint64_t least) {
        Letter letter = {
                .kind = LETTER_PROMOTE,
                .promote = {.term = agent->raft_status.term, .index = least},
        };
        for (unsigned i = 0; i < n; i++)
                (void)hall_send(agent, hosts[i], &letter);
}

/* It said so just now. */
static bool is_fresh(const Agent *agent, const RoleView *view) {
        return view->promoted_usec != 0 &&
               agent->now_usec - view->promoted_usec <= 2 * agent->options.election_usec;
}

void roles_promoted(Agent *agent, uint64_t host, const LetterPromote *promoted) {
        if (!hall_is_leader(agent) || promoted->term != agent->raft_status.term)
                return;
        if (promoted->index < agent->raft_status.conf_index)
                return; /* from before the newest configuration: its log would lack it */
        RoleView *view = roles_view(agent, host);
        bool news = !is_fresh(agent, view) || promoted->index > view->promoted_index;
        view->promoted_usec = agent->now_usec;
        view->promoted_index = promoted->index;
        if (!news)
                return; /* nothing to plan anew: the question would come at once, and so would this answer */
        agent->roles.work_usec = 0;
        agent->again = true;
        agent->duty_usec = 0;
}

static bool all_promoted(Agent *agent, const uint64_t *hosts, unsigned n, uint64_t least) {
        for (unsigned i = 0; i < n; i++) {
                RoleView *view = roles_view(agent, hosts[i]);
                if (!is_fresh(agent, view) || view->promoted_index < least)
                        return false;
        }
        return true;
}

static void plan_voters(Agent *agent) {
        Roles *roles = &agent->roles;
        const RaftStatus *status = &agent->raft_status;
        Plan plan = {.agent = agent};

        if (!hall_is_ready_leader(agent) || agent->now_usec < roles->work_usec)
                return;
        roles->work_usec = agent->now_usec + WORK_USEC;
        if (!status->conf_committed || conf_is_joint(status->conf) || status->transferring)
                return;

        if (!full_members(agent))
                return; /* half a list would look like half a cluster */
        for (size_t i = 0; i < roles->n_full; i++)
                plan_member(&plan, roles->full[i]);
        unsigned wanted = roles_voters_wanted(plan.n_members, agent->options.max_voters);
        for (size_t i = 0; plan.n_dead > 0 && i < roles->n_full; i++)
                keep_dead(&plan, roles->full[i]);
        drop_surplus(&plan, wanted);
        unsigned n_add = MIN(wanted - plan.n_keep, plan.n_add);
        if ((plan.n_keep + n_add) % 2 == 0) {
                /* Even sets are for nobody; but who was asked to go, goes. */
                if (n_add > 0)
                        n_add--;
                else if (plan.n_keep > 1)
                        drop_surplus(&plan, plan.n_keep - 1);
        }

        uint64_t voters[2 * LIMIT_VOTERS];
        memcpy(voters, plan.keep, plan.n_keep * sizeof(uint64_t));
        memcpy(voters + plan.n_keep, plan.add, n_add * sizeof(uint64_t));
        unsigned n = plan.n_keep + n_add;
        if (n == 0 || n > LIMIT_VOTERS)
                return;
        if (same_voters(status->conf, voters, n)) {
                roles->work_usec = agent->now_usec + 5 * WORK_USEC; /* all is as it should be */
                return;
        }
        /* One that leads only just has not heard yet who could take a place. */
        if (n < status->conf->n_voters && agent->now_usec - agent->leader_since_usec < FRESH_USEC)
                return;

        uint64_t least = members_index(agent, voters, n);
        if (!all_promoted(agent, plan.add, n_add, least)) {
                ask_promotions(agent, plan.add, n_add, least);
                return;
        }
        int r = raft_change(agent->raft, voters, n, agent->now_usec);
        if (r < 0)
                hall_fail(agent, r, "The voters cannot be changed");
        else if (r == 0) {
                report_say(&agent->report, LOG_INFO, "The cluster goes from %u to %u voters.",
                           status->conf->n_voters, n);
                agent->again = true;
        }
}

/* ---- Removal and transfer ---- */

static void removal_end(Removal *removal, Answer answer, const Result *result) {
        Agent *agent = removal->agent;
        RequestAnswer reply = {.answer = answer, .result = result ? *result : (Result){}};

        DL_DELETE(agent->roles.removals, removal);
        agent->roles.n_removals--;
        if (removal->call)
                agent->outside.call_free(agent->outside.userdata, removal->call);
        request_forget(removal->request);
        if (removal->done)
                removal->done(&reply, removal->userdata);
        free(removal);
}

static void removal_applied(const RequestAnswer *answer, void *userdata) {
        Removal *removal = userdata;

        removal->request = NULL;
        if (answer->answer == ANSWER_REFUSED && answer->result.status == RESULT_LAST_VOTER)
                return; /* it is a voter again: once more */
        removal_end(removal, answer->answer, &answer->result);
}

static void admin_message(PeersCall *call, Bytes bytes, void *userdata) {
        Removal *removal = userdata;
        if (wire_admin_reply_decode(bytes, &removal->reply) < 0)
                removal->reply = (AdminReply){};
        wire_admin_reply_done(&removal->reply);
}

static void admin_end(PeersCall *call, PeersStatus status, const char *text, void *userdata) {
        Removal *removal = userdata;
        removal->call = NULL;
        removal->retry_usec = removal->agent->now_usec + ADMIN_USEC;
        if (status == PEERS_OK && removal->reply.leader && removal->reply.answer <= ANSWER_HALTED) {
                Result result = {.status = removal->reply.status, .revision = removal->reply.revision};
                removal_end(removal, (Answer)removal->reply.answer, &result);
        }
}

static void removal_ask_leader(Removal *removal) {
        Agent *agent = removal->agent;
        uint64_t leader = hall_leader(agent);
        AdminRequest request = {.action = removal->action, .host = removal->host};
        _cleanup_(buffer_deinit) Buffer bytes = {};

        removal->here = false;
        if (leader == 0 || removal->call || agent->now_usec < removal->retry_usec)
                return;
        removal->retry_usec = agent->now_usec + ADMIN_USEC;
        removal->reply = (AdminReply){};
        if (wire_admin_request_encode(&request, &bytes) < 0)
                return;
        PeersCallEvents events = {.message = admin_message, .end = admin_end, .userdata = removal};
        if (agent->outside.call(agent->outside.userdata, leader, CALL_ADMIN, BYTES(bytes.data, bytes.size),
                                removal->deadline_usec - agent->now_usec, &events, &removal->call) < 0)
                removal->call = NULL;
}

static void transfer_work(Removal *task) {
        Agent *agent = task->agent;

        if (!hall_is_leader(agent)) {
                if (!task->here)
                        return removal_ask_leader(task);
                /* It was ours to give and is gone: done when somebody has it. */
                if (hall_leader(agent) != 0)
                        removal_end(task, ANSWER_DONE, NULL);
                return;
        }
        if (task->host == agent->host.id)
                return removal_end(task, ANSWER_DONE, NULL);
        task->here = true;
        if (agent->raft_status.transferring)
                return;
        int r = raft_transfer(agent->raft, task->host, agent->now_usec);
        if (r == RAFT_INVALID)
                removal_end(task, ANSWER_REFUSED, &(Result){.status = RESULT_NO_MEMBER});
        else if (r < 0)
                hall_fail(agent, r, "Leadership cannot be handed over");
        agent->again = true;
}

static void removal_work(Removal *removal) {
        Agent *agent = removal->agent;

        if (agent->now_usec >= removal->deadline_usec)
                return removal_end(removal, removal->request ? ANSWER_UNKNOWN : ANSWER_NO_QUORUM, NULL);
        if (removal->action == ADMIN_TRANSFER)
                return transfer_work(removal);
        if (!hall_is_leader(agent))
                return removal_ask_leader(removal);
        removal->here = true;
        if (removal->request || !heal_may_touch(agent))
                return;

        Member member;
        if (tree_member(agent->tree, removal->host, &member) != 0)
                return removal_end(removal, ANSWER_REFUSED, &(Result){.status = RESULT_NO_MEMBER});
        if (conf_is_voter(agent->raft_status.conf, removal->host) || !agent->raft_status.conf_committed) {
                if (conf_is_voter(agent->raft_status.conf, removal->host) &&
                    agent->raft_status.conf->n_voters == 1 && !conf_is_joint(agent->raft_status.conf))
                        return removal_end(removal, ANSWER_REFUSED, &(Result){.status = RESULT_LAST_VOTER});
                if (removal->host == agent->host.id)
                        (void)raft_transfer(agent->raft, 0, agent->now_usec);
                return; /* plan_voters() does the rest */
        }
        Command command = {.kind = COMMAND_REMOVE_MEMBER, .subject = removal->host};
        if (agent_request(agent, &command, removal->deadline_usec - agent->now_usec, removal_applied,
                          removal, &removal->request) < 0)
                removal->request = NULL;
}

static int task_new(Agent *agent, AdminAction action, uint64_t host, uint64_t timeout_usec, RequestDone done,
                    void *userdata) {
        Roles *roles = &agent->roles;
        if (host == 0) /* to the core that means "the best one": nobody would ever be it, and leaders change
                          for ever */
                return -EINVAL;
        if (roles->n_removals >= MAX_TASKS)
                return -EBUSY;
        Removal *removal = calloc(1, sizeof(Removal));
        if (!removal)
                return -ENOMEM;
        *removal = (Removal){
                .agent = agent,
                .action = action,
                .host = host,
                .deadline_usec = hall_now(agent) + MIN(timeout_usec, 600 * USEC_PER_SEC),
                .done = done,
                .userdata = userdata,
        };
        DL_APPEND(roles->removals, removal);
        roles->n_removals++;
        agent->duty_usec = 0;
        hall_wake(agent);
        return 0;
}

int roles_remove(Agent *agent, uint64_t host, uint64_t timeout_usec, RequestDone done, void *userdata) {
        return task_new(agent, ADMIN_REMOVE, host, timeout_usec, done, userdata);
}

int roles_transfer(Agent *agent, uint64_t host, RequestDone done, void *userdata) {
        return task_new(agent, ADMIN_TRANSFER, host, REQUEST_TIMEOUT_USEC, done, userdata);
}

/* ---- Asked by another member ---- */

typedef struct AdminServed {
        Agent *agent;
        PeersCall *call; /* NULL: the asker is gone */
} AdminServed;

static void served_gone(PeersCall *call, PeersStatus status, const char *text, void *userdata) {
        ((AdminServed *)userdata)->call = NULL;
}

static void admin_reply(Agent *agent, PeersCall *call, const AdminReply *reply) {
        _cleanup_(buffer_deinit) Buffer bytes = {};
        PeersCallEvents none = {};

        agent->outside.call_set_events(agent->outside.userdata, call, &none);
        if (wire_admin_reply_encode(reply, &bytes) >= 0)
                (void)agent->outside.call_send(agent->outside.userdata, call, BYTES(bytes.data, bytes.size));
        agent->outside.call_end(agent->outside.userdata, call, PEERS_OK, "");
}

static void served_done(const RequestAnswer *answer, void *userdata) {
        AdminServed *served = userdata;
        AdminReply reply = {
                .leader = true,
                .answer = answer->answer,
                .status = answer->result.status,
                .revision = answer->result.revision,
        };
        if (served->call)
                admin_reply(served->agent, served->call, &reply);
        free(served);
}

static void applied_asked(Agent *agent, PeersCall *call) {
        _cleanup_(buffer_deinit) Buffer rows = {};
        AdminReply reply = {.leader = hall_is_leader(agent)};
        if (reply.leader && standing_rows(agent, &rows) == 0)
                reply.applied = BYTES(rows.data, rows.size);
        admin_reply(agent, call, &reply);
}

void roles_called(Agent *agent, PeersCall *call, uint64_t host, Bytes bytes) {
        AdminRequest request;

        if (wire_admin_request_decode(bytes, &request) == 0 && request.action == ADMIN_APPLIED)
                return applied_asked(agent, call);
        if (wire_admin_request_decode(bytes, &request) < 0 || request.host == 0) {
                agent->outside.call_end(agent->outside.userdata, call, PEERS_INVALID, "malformed request");
                return;
        }
        /* What the leader does for it would be applied as the leader's. */
        bool leaves = request.action == ADMIN_REMOVE && request.host == host;
        if (!leaves && members_is_leaf(agent, host))
                return admin_reply(
                        agent, call,
                        &(AdminReply){.leader = true, .answer = ANSWER_REFUSED, .status = RESULT_DENIED});
        bool self = request.action == ADMIN_REMOVE && request.host == agent->host.id;
        const Conf *conf = agent->raft_status.conf;
        /* One that leads until it is voted out is no voter any more, so not the last. */
        if (self && hall_is_leader(agent) && conf->n_voters == 1 && !conf_is_joint(conf) &&
            conf_is_voter(conf, agent->host.id))
                return admin_reply(agent, call,
                                   &(AdminReply){.leader = true,
                                                 .answer = ANSWER_REFUSED,
                                                 .status = RESULT_LAST_VOTER});
        if (self && hall_is_leader(agent))
                (void)raft_transfer(agent->raft, 0,
                                    agent->now_usec); /* who goes cannot do the work: ask the next one */
        if (!hall_is_leader(agent) || self || !heal_may_touch(agent))
                return admin_reply(agent, call, &(AdminReply){.leader = false});

        AdminServed *served = calloc(1, sizeof(AdminServed));
        if (!served ||
            task_new(agent, request.action, request.host, REQUEST_TIMEOUT_USEC, served_done, served) < 0) {
                free(served);
                agent->outside.call_end(agent->outside.userdata, call, PEERS_EXHAUSTED, "too many tasks");
                return;
        }
        *served = (AdminServed){.agent = agent, .call = call};
        PeersCallEvents events = {.end = served_gone, .userdata = served};
        agent->outside.call_set_events(agent->outside.userdata, call, &events);
}

/* ---- The turn's part ---- */

void roles_work(Agent *agent) {
        Removal *removal, *next;

        look_whether_stranded(agent);
        tell_status(agent);
        heal_observer(agent);
        promote_self(agent);
        promotion_durable(agent);
        promotion_lapses(agent);
        end_of_time_missed(agent);
        DL_FOREACH_SAFE (agent->roles.removals, removal, next)
                removal_work(removal);
        plan_voters(agent);
}

uint64_t roles_deadline(const Agent *agent) {
        const Roles *roles = &agent->roles;
        uint64_t deadline = USEC_INFINITY;

        if (roles->stranded || (hall_leader(agent) != 0 && hall_leader(agent) != agent->host.id))
                deadline = MAX(roles->status_usec, agent->now_usec + 1000);
        if (hall_is_leader(agent) || roles->removals || roles->promoted_usec != 0)
                deadline = MIN(deadline, agent->now_usec + WORK_USEC);
        return deadline;
}

void roles_reset(Agent *agent) {
        RoleView *view, *next;

        while (agent->roles.removals)
                removal_end(agent->roles.removals, ANSWER_STOPPING, NULL);
        HASH_ITER (hh, agent->roles.views, view, next) {
                HASH_DEL(agent->roles.views, view);
                free(view);
        }
        free(agent->roles.full);
        agent->roles = (Roles){};
}
