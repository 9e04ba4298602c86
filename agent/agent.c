/* The hall's own life: it is born with its rooms recovered, looks after nothing but them, and ends by
 * handing over. What it does while it lives is in turn.c; what each part does is in the part's file (hall.h
 * lists them). */
#include "hall.h"
#include "base/seen.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

const char *answer_text(Answer answer) {
        switch (answer) {
        case ANSWER_DONE:
                return "Done";
        case ANSWER_REFUSED:
                return "The tree refused the change";
        case ANSWER_NO_QUORUM:
                return "No quorum: the change was not offered to any leader and will never apply. Look at \"treatyctl "
                       "members\" and at the links between the voters, then try again";
        case ANSWER_UNKNOWN:
                return "The change was offered, but its fate was not known in time. Ask for it with Outcome before trying "
                       "again";
        case ANSWER_BUSY:
                return "Too many changes are in flight on this host. Wait for some of them and try again";
        case ANSWER_DISK_FULL:
                return "The disk that holds the agent's state is full. Free some space; the agent goes on by itself";
        case ANSWER_NOT_MEMBER:
                return "This host is not a member of a cluster (any more), or its state is a copy or was set back. See \"treatyctl status\"";
        case ANSWER_TIMEOUT:
                return "No answer in time";
        case ANSWER_STOPPING:
                return "The agent is stopping. Try again when it is back";
        case ANSWER_HALTED:
                return "This host cannot apply changes (its agent is too old, or its state is damaged). See \"treatyctl "
                       "status\"";
        case ANSWER_NO_TREE:
                return "This host's own tree was found bad and is being fetched again from another voter. It goes on by "
                       "itself; ask another host meanwhile";
        }
        assert(!"unreachable");
        return NULL;
}

int hall_fail(Agent *agent, int error, const char *what) {
        if (agent->failed == 0) {
                agent->failed = error < 0 ? error : -EIO;
                report_say(&agent->report, LOG_ERR, "%s: %s. The agent ends; what it acknowledged is safe.",
                           what, strerror(-agent->failed));
        }
        return agent->failed;
}

uint64_t hall_leader(const Agent *agent) {
        if (agent->raft_status.leader != 0 && !agent->follow.active)
                return agent->raft_status.leader;
        return agent->follow.active ? agent->follow.leader : 0;
}

uint64_t hall_term(const Agent *agent) {
        /* Of the leader that is followed: a higher one, heard from somebody who asked for votes, leads
         * nobody yet. */
        return agent->follow.active ? agent->follow.term : agent->raft_status.term;
}

bool hall_is_leader(const Agent *agent) {
        return agent->raft_status.role == RAFT_LEADER;
}

bool hall_is_ready_leader(const Agent *agent) {
        return hall_is_leader(agent) && agent->raft_status.ready && heal_may_touch(agent) &&
               agent->now_usec - agent->raft_status.quorum_contact_usec < 2 * agent->options.election_usec;
}

int agent_new(Agent **ret, const AgentOptions *options) {
        Agent *agent = calloc(1, sizeof(Agent));
        if (!agent)
                return -ENOMEM;
        agent->options = *options;
        agent->outside = options->outside;
        agent->report = options->report;
        agent->now_usec = agent->last_turn_usec = hall_now(agent);

        int r = hall_recover(agent);
        if (r < 0) {
                agent_free(agent, false);
                return r;
        }

        agent->outside.random(agent->outside.userdata, agent->requests.nonce, sizeof(agent->requests.nonce));
        agent->outside.random(agent->outside.userdata, &agent->reads.incarnation,
                              sizeof(agent->reads.incarnation));
        agent->requests.next_serial = 1;
        agent->members.dirty = agent->members.own_dirty = true;
        agent->status_dirty = true;
        agent->follow.active =
                !conf_is_voter(agent->raft_status.conf, agent->host.id) && agent->raft_status.conf_committed;
        agent->demote = agent->follow.active && agent->raft_status.keeps_log;
        agent->told_revision = agent->tree_status.revision;
        agent->applied_high = agent->tree_status.applied;
        agent->checks.compared_usec = agent->now_usec;
        agent->removed = tree_member_removed(agent->tree, agent->host.id);
        agent->follow.heard_usec = agent->now_usec;
        agent->quarantined = agent->host.quarantined;
        words_begin(agent);
        sessions_load(agent);
        if (agent->follow.active && !agent->heal.bad)
                raft_observe(agent->raft, agent->tree_status.applied, agent->tree_status.applied_term,
                             &agent->tree_status.conf, agent->tree_status.conf_index);
        if (agent->damaged)
                report_say(
                        &agent->report, LOG_ERR,
                        "The log is damaged: this host does not vote until it has got again what it may have lost; reads "
                        "go on.");
        if (agent->quarantined)
                quarantine_enter(agent);
        else
                quarantine_look(agent);
        hall_wake(agent);
        *ret = agent;
        return 0;
}

Agent *agent_free(Agent *agent, bool clean) {
        if (!agent)
                return NULL;

        bool back = agent->reads.gate || agent->tree_status.applied < agent->applied_high;
        agent->in_turn = true; /* nobody is woken any more */
        requests_fail(agent, ANSWER_STOPPING);
        reads_fail(agent, ANSWER_STOPPING);
        join_close(agent);
        follow_end(agent);
        follow_close(agent);
        snapshot_close(agent);
        watches_end(agent);
        sessions_reset(agent);
        roles_reset(agent);
        standing_reset(agent);
        shares_reset(agent);
        scrub_close(agent);
        members_reset(agent);
        offers_reset(agent);
        raft_free(agent->raft);
        if (clean && agent->failed == 0) {
                back |= tree_finish(agent->tree) != 0;
                tree_close(agent->tree);
                /* Set back by an unclean stop or a full disk and not caught up since: the next start has to
                 * wait, too. */
                if (back)
                        log_abandon(agent->log);
                else
                        log_close(agent->log);
        } else {
                tree_abandon(agent->tree);
                log_abandon(agent->log);
        }
        heal_close(agent);
        if (agent->tree_event_fd > 0)
                close(agent->tree_event_fd);
        free(agent->core_orders);
        free(agent);
        return NULL;
}

void agent_rest(Agent *agent) {
        if (agent->tree && !agent->heal.suspect && !agent->heal.dead)
                tree_rest(agent->tree);
}

bool agent_ready(const Agent *agent) {
        /* Without a tree there is nothing that reads could be kept back from, and no telling how long. */
        return !agent->reads.gate || agent->heal.bad;
}

int agent_log_fd(const Agent *agent) {
        return log_fd(agent->log);
}

int agent_tree_fd(const Agent *agent) {
        return tree_fd(agent->tree);
}

/* Also where the tree looks after itself a full disk takes the open transaction back, and the hall has to
 * know: who follows asks for the same entries again. */
static int maintain_tree(Agent *agent) {
        TreeStatus tree;
        if (agent->heal.suspect || agent->heal.dead)
                return 0;
        int m = tree_maintain(agent->tree);
        tree_status(agent->tree, &tree);
        if (tree.applied < agent->tree_status.applied) {
                SIM_SEEN("agent: a full disk takes the open transaction back beside the turn");
                agent->now_usec = hall_now(agent);
                hall_taken_back(agent);
                hall_wake(agent);
        }
        return m;
}

int agent_step(Agent *agent) {
        int r = log_step(agent->log);
        if (r < 0)
                return hall_fail(agent, r, "The log cannot be written");
        int m = maintain_tree(agent);
        if (m < 0 && hall_tree_failed(agent, m, "it cannot be maintained") < 0)
                return agent->failed;
        return r;
}

bool agent_idle(const Agent *agent) {
        return log_idle(agent->log) && !tree_has_news(agent->tree);
}

void agent_stop(Agent *agent) {
        if (agent->stopping)
                return;
        agent->stopping = true;
        agent->stop_deadline_usec = hall_now(agent) + USEC_PER_SEC;
        if (agent->raft_status.role == RAFT_LEADER && agent->raft_status.conf->n_voters > 1)
                (void)raft_transfer(agent->raft, 0, hall_now(agent));
        hall_wake(agent);
}

bool agent_stopped(const Agent *agent) {
        if (!agent->stopping)
                return false;
        if (agent->raft_status.role == RAFT_LEADER && agent->raft_status.conf->n_voters > 1 &&
            hall_now(agent) < agent->stop_deadline_usec)
                return false;
        return true;
}

void agent_set_addresses(Agent *agent, uint32_t n, char (*addresses)[LIMIT_ADDRESS_BYTES + 1]) {
        agent->options.n_addresses = MIN(n, (uint32_t)LIMIT_ADDRESSES);
        memset(agent->options.addresses, 0, sizeof(agent->options.addresses));
        for (uint32_t i = 0; i < agent->options.n_addresses; i++)
                snprintf(agent->options.addresses[i], sizeof(agent->options.addresses[i]), "%s",
                         addresses[i]);
        agent->members.own_dirty = true;
        hall_wake(agent);
}

void agent_set_listener(Agent *agent, void (*changed)(void *), void *userdata) {
        agent->changed = changed;
        agent->changed_userdata = userdata;
}

/* ---- Looking ---- */

static AgentRole role_now(const Agent *agent) {
        if (agent->removed || agent->members.out)
                return AGENT_REMOVED;
        switch (agent->raft_status.role) {
        case RAFT_LEADER:
                return AGENT_LEADER;
        case RAFT_CANDIDATE:
        case RAFT_PRECANDIDATE:
                return AGENT_CANDIDATE;
        case RAFT_FOLLOWER:
                return AGENT_FOLLOWER;
        case RAFT_PASSIVE:
                return AGENT_OBSERVER;
        }
        assert(!"unreachable");
        return AGENT_OBSERVER;
}

static bool is_quorate(const Agent *agent) {
        if (hall_is_leader(agent))
                return hall_is_ready_leader(agent);
        if (hall_leader(agent) == 0)
                return false;
        return !agent->follow.active || agent->now_usec - agent->follow.heard_usec < 3 * USEC_PER_SEC;
}

static AgentState state_now(const Agent *agent) {
        if (agent->removed || agent->members.out)
                return AGENT_OUT;
        if (agent->quarantined)
                return AGENT_QUARANTINED;
        if (agent->heal.bad || agent->heal.suspect)
                return AGENT_NO_TREE;
        if (agent->halted)
                return AGENT_HALTED;
        if (agent->heal.alone || agent->checks.alarm)
                return AGENT_DIVERGED;
        if (agent->damaged || agent->damage_halts)
                return AGENT_DAMAGED;
        if (agent->join.active || agent->tree_status.conf.n_voters == 0)
                return AGENT_JOINING;
        if (agent->disk_full)
                return AGENT_FULL_DISK;
        return is_quorate(agent) ? AGENT_RUNNING : AGENT_NO_QUORUM;
}

static int count_member(const Member *member, void *userdata) {
        (*(uint32_t *)userdata)++;
        return 0;
}

void agent_status(Agent *agent, AgentStatus *ret) {
        *ret = (AgentStatus){
                .role = role_now(agent),
                .state = state_now(agent),
                .quorate = is_quorate(agent),
                .host = agent->host.id,
                .leader = hall_leader(agent),
                .term = hall_term(agent),
                .commit = agent->follow.active ? agent->follow.commit : agent->raft_status.commit,
                .applied = agent->tree_status.applied,
                .durable = agent->tree_status.durable,
                .revision = agent->tree_status.revision,
                .floor = agent->tree_status.floor,
                .n_entries = agent->tree_status.n_entries,
                .n_voters = agent->tree_status.conf.n_voters,
                .compared = agent->checks.compared_index,
                .scrubbed_wall_usec = agent->scrub.finished_wall_usec,
        };
        if (sessions_certain(agent, &ret->certain_usec) == 0)
                ret->certain_usec = 0;
        memcpy(ret->cluster, agent->tree_status.cluster, sizeof(ret->cluster));
        (void)members_each(agent, count_member, &ret->n_members);

        Member member;
        snprintf(ret->host_name, sizeof(ret->host_name), "%s", agent->options.host_name);
        if (members_by_id(agent, agent->host.id, &member) == 0)
                snprintf(ret->host_name, sizeof(ret->host_name), "%s", member.name);
        if (ret->leader != 0 && members_by_id(agent, ret->leader, &member) == 0)
                snprintf(ret->leader_name, sizeof(ret->leader_name), "%s", member.name);
}

typedef struct MembersEach {
        Agent *agent;
        int (*each)(const AgentMember *, void *);
        void *userdata;
} MembersEach;

static int each_member(const Member *member, void *userdata) {
        MembersEach *each = userdata;
        Agent *agent = each->agent;
        bool self = member->id == agent->host.id;

        AgentMember view_member = {
                .member = member,
                .voter = conf_is_voter(&agent->tree_status.conf, member->id),
                .leader = member->id == hall_leader(agent),
                .self = self,
                .connected = self || members_connection(agent, member->id),
                .applied = standing_of(agent, member->id),
        };
        return each->each(&view_member, each->userdata);
}

int agent_members(Agent *agent, int (*each)(const AgentMember *, void *), void *userdata) {
        MembersEach members = {.agent = agent, .each = each, .userdata = userdata};
        return members_each(agent, each_member, &members);
}

int agent_member_by_name(Agent *agent, const char *name, Member *ret) {
        uint8_t hex[8];
        if (members_by_name(agent, name, ret) == 0)
                return 0;
        if (hex_read(name, hex, sizeof(hex)) < 0)
                return 1;
        uint64_t id = 0;
        for (size_t i = 0; i < sizeof(hex); i++)
                id = id << 8 | hex[i];
        return members_by_id(agent, id, ret) == 0 ? 0 : 1;
}

static void entry_view(const TreeEntry *entry, AgentEntry *ret) {
        *ret = (AgentEntry){
                .path = entry->path,
                .value = entry->value,
                .create_revision = entry->create_revision,
                .mod_revision = entry->mod_revision,
                .version = entry->version,
                .owner_host = entry->owner_host,
                .owner_generation = entry->owner_generation,
                .owner_tag = entry->owner_tag,
        };
}

/* The caller hears of it now, the tree goes with the next turn. */
static int rot_was_read(Agent *agent) {
        heal_suspect(agent, false, "an entry's checksum is wrong");
        return -EBADMSG;
}

int agent_get(Agent *agent, const char *path, AgentEntry *ret) {
        TreeEntry entry;
        if (agent->heal.bad || agent->heal.suspect)
                return -EBADMSG;
        int r = tree_get(agent->tree, path, &entry);
        if (r == TREE_NONE)
                return 1;
        if (r == TREE_ROTTEN)
                return rot_was_read(agent);
        if (r != 0)
                return r < 0 ? r : -EIO;
        entry_view(&entry, ret);
        return 0;
}

typedef struct ListEach {
        int (*each)(const AgentEntry *, void *);
        void *userdata;
} ListEach;

static int each_entry(const TreeEntry *entry, void *userdata) {
        ListEach *each = userdata;
        AgentEntry view;
        entry_view(entry, &view);
        return each->each(&view, each->userdata);
}

int agent_list(Agent *agent, const char *subtree, const char *after, uint32_t flags, uint32_t limit,
               size_t max_bytes, int (*each)(const AgentEntry *, void *), void *userdata, bool *ret_more) {
        static_assert((int)LIST_CHILDREN == (int)TREE_LIST_CHILDREN &&
                              (int)LIST_NAMES == (int)TREE_LIST_NAMES,
                      "one meaning, one number");
        ListEach list = {.each = each, .userdata = userdata};
        if (agent->heal.bad || agent->heal.suspect)
                return -EBADMSG;
        int r = tree_list(agent->tree, subtree, after ?: "", flags, limit, max_bytes, each_entry, &list,
                          ret_more);
        return r == TREE_ROTTEN ? rot_was_read(agent) : r == TREE_FULL ? -EIO : r;
}

uint64_t agent_revision(Agent *agent) {
        return agent->tree_status.revision;
}

int agent_changed(Agent *agent, const char *subtree, uint64_t *ret_revision) {
        if (agent->heal.bad || agent->heal.suspect)
                return -EBADMSG;
        int r = tree_changed(agent->tree, subtree, ret_revision);
        return r == TREE_ROTTEN ? rot_was_read(agent) : r;
}

uint64_t agent_age_usec(Agent *agent) {
        uint64_t now = hall_now(agent), heard;

        if (agent->reads.gate || agent->halted || agent->removed || agent->quarantined)
                return USEC_INFINITY;
        if (hall_is_leader(agent))
                heard = agent->raft_status.quorum_contact_usec;
        else if (agent->follow.active)
                heard = agent->follow.leader != 0 ? agent->follow.heard_usec : 0;
        else
                heard = agent->raft_status.leader != 0 ? agent->leader_heard_usec : 0;
        if (heard == 0)
                return USEC_INFINITY;
        return now > heard ? now - heard : 0;
}

int agent_remove(Agent *agent, uint64_t host, uint64_t timeout_usec, RequestDone done, void *userdata) {
        return roles_remove(agent, host, timeout_usec, done, userdata);
}

int agent_transfer(Agent *agent, uint64_t host, RequestDone done, void *userdata) {
        return roles_transfer(agent, host, done, userdata);
}
