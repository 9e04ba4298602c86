/* A bad tree is fetched again. The tree is derived: whatever is wrong with it here (a checksum, SQLite's own
 * complaint, a lost file, a digest that the majority of the voters does not share), the others have it. So a
 * host with a bad tree does not end and start over with the same file. It takes its tree out of service:
 *
 *      good ── suspected ──> the next turn: a stand-in, an empty file, takes its place; a record in the log
 *        ^                   names it, so that a restart knows, too
 *        │                     v
 *        └── the switch <── a snapshot, from a voter that is not known to be wrong
 *
 * The bad file stays until then: should all hosts find theirs bad at once (an entry that none can apply), it
 * is all that is left.
 *
 * Meanwhile reads wait (and fail with words), nothing is applied or served to others; but the log is good,
 * and the core does not need the tree: this host votes and stores entries as ever. Should it lead, it hands
 * over. Whom to ask, it knows from its address book (book.c). The snapshot's (index, term) is in the log, so
 * its tail is kept, and what was committed meanwhile is applied from there.
 *
 * Who votes alone has nobody to ask: such a host says so and goes on with what can still be read. */
#include "hall.h"
#include "base/seen.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define RETRY_USEC (500 * USEC_PER_MSEC)
#define SAY_USEC   (3600 * USEC_PER_SEC)
#define WAIT_USEC  (60 * USEC_PER_SEC) /* without success so long is said */

void hall_look_at_tree(Agent *agent) {
        TreeStatus *status = &agent->tree_status;
        const Heal *heal = &agent->heal;

        tree_status(agent->tree, status);
        if (!heal->bad)
                return;
        /* The stand-in knows nothing. What is not the tree's alone is known from elsewhere. */
        status->conf = heal->book->conf;
        status->conf_index = heal->book->conf_index;
        memcpy(status->cluster, heal->book->cluster, sizeof(status->cluster));
        status->restore_epoch = heal->book->epoch;
        status->cluster_usec = heal->cluster_usec;
        status->revision = agent->told_revision;
}

/* ---- Members, from the tree or from the book ---- */

int members_each(Agent *agent, int (*each)(const Member *, void *), void *userdata) {
        if (!agent->heal.bad)
                return tree_members(agent->tree, each, userdata);
        for (uint32_t i = 0; i < agent->heal.book->n_members; i++) {
                int r = each(&agent->heal.book->members[i], userdata);
                if (r != 0)
                        return r;
        }
        return 0;
}

typedef struct Wanted {
        uint64_t id;
        const uint8_t *key;
        const char *name;
        Member *ret;
} Wanted;

static int is_wanted(const Member *member, void *userdata) {
        const Wanted *wanted = userdata;
        bool found = wanted->id != 0 && member->id == wanted->id;
        found = found || (wanted->name && strcmp(member->name, wanted->name) == 0);
        for (uint32_t i = 0; wanted->key && i < member->n_keys; i++)
                found = found || memcmp(member->keys[i], wanted->key, KEY_HASH_BYTES) == 0;
        if (found)
                *wanted->ret = *member;
        return found;
}

static int find_in_book(Agent *agent, Wanted wanted) {
        return members_each(agent, is_wanted, &wanted) == 1 ? 0 : TREE_NONE;
}

int members_by_id(Agent *agent, uint64_t id, Member *ret) {
        return agent->heal.bad ? find_in_book(agent, (Wanted){.id = id, .ret = ret})
                               : tree_member(agent->tree, id, ret);
}

int members_by_key(Agent *agent, const uint8_t key[static KEY_HASH_BYTES], Member *ret) {
        return agent->heal.bad ? find_in_book(agent, (Wanted){.key = key, .ret = ret})
                               : tree_member_by_key(agent->tree, key, ret);
}

int members_by_name(Agent *agent, const char *name, Member *ret) {
        return agent->heal.bad ? find_in_book(agent, (Wanted){.name = name, .ret = ret})
                               : tree_member_by_name(agent->tree, name, ret);
}

bool members_is_leaf(Agent *agent, uint64_t host) {
        Member member;
        return members_by_id(agent, host, &member) == 0 && member.class == MEMBER_LEAF;
}

/* ---- The suspicion ---- */

bool heal_others_vote(const Conf *conf, uint64_t self) {
        for (uint32_t i = 0; i < conf->n_voters; i++)
                if (conf->voters[i].id != self)
                        return true;
        return false;
}

static void say_alone(Agent *agent, const char *why, const char *alone) {
        Heal *heal = &agent->heal;
        if (heal->said_usec != 0 && agent->now_usec - heal->said_usec < SAY_USEC)
                return;
        heal->said_usec = agent->now_usec;
        report_say(
                &agent->report, LOG_ALERT,
                "%s/%s is bad: %s. %s, so there is nobody to fetch it from. What can still be read is "
                "served%s. Save it (\"treatyctl list\", or sqlite3 on a copy), then move the state directory away and "
                "begin anew, or bring back a backup of the whole directory.",
                agent->options.state_directory, agent->tree_name, why, alone,
                heal->dead ? "; nothing is applied any more" : "");
}

/* A tree that was set back by a crash may be of a time when this host was alone; the log knows better. */
static bool is_alone(Agent *agent) {
        return !heal_others_vote(&agent->tree_status.conf, agent->host.id) &&
               !(agent->raft_status.conf && heal_others_vote(agent->raft_status.conf, agent->host.id));
}

void heal_suspect(Agent *agent, bool fatal, const char *why) {
        Heal *heal = &agent->heal;

        if (heal->bad || heal->suspect)
                return;
        agent->status_dirty = true;
        if (is_alone(agent)) {
                heal->alone = true;
                heal->dead = heal->dead || fatal;
                agent->halted = agent->halted || fatal;
                say_alone(agent, why, "No other host votes");
                return;
        }
        report_say(
                &agent->report, LOG_CRIT,
                "%s/%s is bad: %s. It is taken out of service and fetched again from another voter; this host goes "
                "on voting.",
                agent->options.state_directory, agent->tree_name, why);
        SIM_SEEN("heal: a tree is suspected");
        heal->suspect = true;
        hall_wake(agent);
}

int hall_tree_failed(Agent *agent, int r, const char *what) {
        if (r == TREE_ROTTEN || r == -EBADMSG) {
                heal_suspect(agent, true, what);
                return 0;
        }
        return hall_fail(agent, r < 0 ? r : -EIO, what);
}

bool heal_may_touch(const Agent *agent) {
        return !agent->heal.bad && !agent->heal.suspect && !agent->heal.dead;
}

/* ---- The stand-in ---- */

bool heal_is_stand_in(const TreeStatus *tree, const LogState *log) {
        static const uint8_t nobody[16];
        bool used = log->last_index > 0 || log->base_conf.n_voters > 0 || log->damaged;
        return used && tree->applied == 0 && tree->conf.n_voters == 0 &&
               memcmp(tree->cluster, nobody, sizeof(nobody)) == 0;
}

static int make_stand_in(Agent *agent) {
        char name[LOG_TREE_NAME_BYTES];
        uint64_t random;
        agent->outside.random(agent->outside.userdata, &random, sizeof(random));
        snprintf(name, sizeof(name), "tree-%016x-%08x.db", 0, (unsigned)random);

        TreeOptions options = hall_tree_options(agent);
        int r = tree_create(&options, name);
        if (r != 0)
                return r;
        Tree *bad = TAKE(agent->tree);
        r = hall_open_tree(agent, name);
        if (r != 0) {
                agent->tree = bad;
                return r;
        }
        tree_abandon(bad);
        agent->heal.seq = hall_seq(agent);
        return log_submit_tree(agent->log, agent->heal.seq, name);
}

/* 1: the book is of this host's cluster and names somebody else who votes; 0: there is none that does;
 * -errno: the disk did not let it be read. */
static int book_is_useful(Agent *agent) {
        Heal *heal = &agent->heal;
        int r = heal->book ? 0 : book_load(agent, &heal->book);
        if (r == -ENOENT || r == -EBADMSG || r == -EPROTONOSUPPORT)
                return 0;
        if (r < 0)
                return r;
        if (!heal_others_vote(&heal->book->conf, agent->host.id))
                return 0;
        for (uint32_t i = 0; i < heal->book->n_members; i++)
                if (heal->book->members[i].id != agent->host.id)
                        return 1;
        return 0;
}

int heal_recover(Agent *agent, const char *why) {
        Heal *heal = &agent->heal;
        const char *name = log_state(agent->log)->tree_name[0] ? log_state(agent->log)->tree_name : "log";

        if (agent->host.switching[0] || book_is_useful(agent) <= 0) {
                report_say(
                        &agent->report, LOG_ERR,
                        "%s/%s %s, and there is nobody to fetch it from: no other voter is known here. Bring back a "
                        "backup of the whole directory, or move it away and join the cluster anew (or begin anew).",
                        agent->options.state_directory, name, why);
                return -EBADMSG;
        }
        report_say(
                &agent->report, LOG_CRIT,
                "%s/%s %s: this host votes, and fetches the tree again from another voter before it serves.",
                agent->options.state_directory, name, why);
        heal->bad = true;
        heal->since_usec = hall_now(agent);
        if (agent->tree) {
                SIM_SEEN("heal: the stand-in of an earlier start");
                return 0;
        }
        SIM_SEEN("heal: started without a tree");
        int r = make_stand_in(agent);
        if (r == 0)
                r = hall_log_wait(agent, heal->seq);
        heal->seq = 0;
        return r > 0 ? -ENOSPC : r;
}

static void take_out(Agent *agent) {
        Heal *heal = &agent->heal;
        uint64_t cluster_usec = agent->tree_status.cluster_usec;

        /* What is on its way to the disk on behalf of this tree is waited for. */
        if (agent->snapshots.fetch.switch_seq != 0 || agent->snapshots.fetch.base_seq != 0 ||
            agent->roles.promote_seq != 0 || agent->now_usec < heal->retry_usec)
                return;
        int r = book_is_useful(agent);
        if (r < 0) { /* it was perhaps not the tree at all: the next start tells */
                hall_fail(agent, r, "Neither the tree nor the address book can be read");
                return;
        }
        if (r == 0) {
                heal->suspect = false;
                heal->alone = heal->dead = agent->halted = true;
                say_alone(
                        agent, "it is taken out of service",
                        "The address book (the file \"book\"), by which other voters would be found, is gone, too");
                return;
        }
        follow_end(agent);
        follow_close(agent);
        snapshot_close(agent);
        agent->roles.promote_index = 0;

        r = make_stand_in(agent);
        if (r == TREE_FULL || r == -ENOSPC || r == -EDQUOT) {
                heal->retry_usec = agent->now_usec + USEC_PER_SEC;
                return;
        }
        if (r != 0) {
                hall_fail(agent, r < 0 ? r : -EIO, "The bad tree cannot be taken out of service");
                return;
        }
        SIM_SEEN("heal: a bad tree is taken out of service");
        heal->suspect = false;
        heal->bad = heal->served = true;
        heal->cluster_usec = cluster_usec;
        heal->since_usec = agent->now_usec;
        heal->late_said = false;
        agent->commit_usec = agent->checkpoint_usec = 0;
        agent->full_usec = 0;
        agent->members.dirty = agent->status_dirty = true;
        checks_rebase(agent);
        hall_look_at_tree(agent);
        agent->again = true;
}

void heal_stored(Agent *agent, uint64_t seq) {
        if (agent->heal.seq == 0 || seq < agent->heal.seq)
                return;
        agent->heal.seq = 0;
}

/* ---- The way back ---- */

/* The next voter in turn that is connected and not known to be wrong itself. */
static uint64_t choose_source(Agent *agent) {
        Heal *heal = &agent->heal;
        const Conf *conf = &heal->book->conf;

        for (uint32_t i = 0; i < conf->n_voters; i++) {
                uint64_t id = conf->voters[(heal->turn + i) % conf->n_voters].id;
                if (id == agent->host.id || !members_connection(agent, id) || checks_host_is_bad(agent, id))
                        continue;
                heal->turn += i + 1;
                return id;
        }
        return 0;
}

static void hand_over(Agent *agent) {
        if (!hall_is_leader(agent) || agent->raft_status.transferring ||
            agent->now_usec < agent->heal.hand_over_usec)
                return;
        SIM_SEEN("heal: a leader without a tree hands over");
        agent->heal.hand_over_usec = agent->now_usec + RETRY_USEC;
        (void)raft_transfer(agent->raft, 0, agent->now_usec);
        agent->again = true;
}

void heal_work(Agent *agent) {
        Heal *heal = &agent->heal;

        if (heal->suspect)
                take_out(agent);
        if (!heal->bad)
                return;
        hand_over(agent);
        /* Applied from the log's files later: memory is for what the log does not have yet. */
        raft_release(agent->raft, MIN(agent->raft_status.commit, agent->raft_status.durable));
        if (heal->seq != 0 || agent->now_usec < heal->retry_usec || snapshot_fetching(agent))
                return;
        uint64_t source = choose_source(agent);
        heal->retry_usec = agent->now_usec + (source != 0 ? RETRY_USEC : RETRY_USEC / 10);
        if (source != 0)
                (void)snapshot_fetch(agent, source, false);
        if (!heal->late_said && agent->now_usec - heal->since_usec > WAIT_USEC) {
                heal->late_said = true;
                report_say(
                        &agent->report, LOG_ERR,
                        "The tree could not be fetched for a minute: no voter with a good tree is reached. Reads "
                        "fail until then. Look at the links to the voters.");
        }
}

uint64_t heal_deadline(const Agent *agent) {
        const Heal *heal = &agent->heal;
        if (!heal->bad && !heal->suspect)
                return USEC_INFINITY;
        return MAX(heal->retry_usec, agent->now_usec + 20 * USEC_PER_MSEC);
}

/* How old a fetched tree may be: entries behind it must still be in the log, or come by Follow. */
uint64_t heal_oldest(const Agent *agent) {
        if (!agent->heal.bad)
                return agent->tree_status.applied + 1;
        return agent->raft_status.keeps_log ? agent->raft_status.base_index : agent->applied_high;
}

/* A whole tree is about to be opened in the stand-in's place. True: there was none. */
bool heal_done(Agent *agent) {
        Heal *heal = &agent->heal;
        bool was_bad = heal->bad;

        if (was_bad)
                SIM_SEEN("heal: another tree takes its place");
        heal->bad = heal->suspect = heal->alone = heal->dead = false;
        heal->book_sum = 0;
        free(heal->book);
        heal->book = NULL;
        return was_bad;
}

void heal_close(Agent *agent) {
        free(agent->heal.book);
        agent->heal.book = NULL;
        while (agent->heal.n_queue > 0)
                entry_unref(agent->heal.queue[--agent->heal.n_queue]);
}

/* ---- Entries that are no longer in memory ---- */

/* Behind a fetched tree lies a tail that the log kept. Read back in order, a few at a time. NULL: not there
 * yet, or the process has to end. */
Entry *heal_entry(Agent *agent, uint64_t index) {
        Heal *heal = &agent->heal;

        while (heal->n_queue > 0 && heal->queue[heal->n_queue - 1]->index != index)
                entry_unref(heal->queue[--heal->n_queue]);
        if (heal->n_queue == 0) {
                SIM_SEEN("heal: committed entries are read back from the log");
                Entry *entries[HEAL_QUEUE];
                int r = log_load(agent->log, index, core_forgot(agent, index, HEAL_QUEUE), 1024 * 1024,
                                 entries);
                if (r < 0) {
                        hall_fail(agent, r, "The log cannot be read back");
                        return NULL;
                }
                while (r > 0) /* the last one lies in front */
                        heal->queue[heal->n_queue++] = entries[--r];
        }
        return heal->n_queue > 0 ? heal->queue[heal->n_queue - 1] : NULL;
}
