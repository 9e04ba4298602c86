/* Committed entries become rows, events and answers, in this order: the tree first, then watches, then
 * whoever waits. An entry that this host cannot understand stops it; it is never skipped. */
#include "hall.h"

#include <string.h>
#include "base/seen.h"

#define APPLY_ENTRIES 1024 /* in one go; then letters and callers have their turn */
#define APPLY_BYTES   (4 * 1024 * 1024)

static Entry *next_entry(Agent *agent) {
        uint64_t index = agent->tree_status.applied + 1;

        Entry *entry = agent->follow.active ? follow_next(agent, index) : NULL;
        /* Who votes no more and still has its log's tail needs nobody for what it knows to be committed:
         * perhaps only there stands who the others are. */
        if (entry || (agent->follow.active && !agent->raft_status.keeps_log))
                return entry;
        if (index > agent->raft_status.commit)
                return NULL;
        entry = raft_entry(agent->raft, index);
        if (!entry)
                entry = heal_entry(agent, index);
        if (!entry && agent->failed == 0)
                hall_fail(agent, -ENODATA, "A committed entry is neither in memory nor in the log");
        return entry;
}

static void note_change(const TreeChange *change, void *userdata) {
        Agent *agent = userdata;
        /* After a full disk entries are applied again: what was told is not told twice. */
        if (change->revision > agent->told_revision)
                watches_note(agent, change);
}

static bool join_signature_valid(Agent *agent, const Command *command) {
        Token token;
        if (command->kind != COMMAND_ADD_MEMBER || !command->token || !command->member)
                return false;
        if (tree_token(agent->tree, command->token->id, &token) != 0)
                return false;
        return token_signature_valid(token.public_key, agent->tree_status.cluster, token.id,
                                     command->member->keys[0], command->signature);
}

static void after_command(Agent *agent, const Command *command, const Result *result) {
        switch (command->kind) {
        case COMMAND_ANNOUNCE:
                quarantine_announced(agent, command->host);
                if (command->host != agent->host.id || result->status != RESULT_DONE)
                        return;
                if (command->nonce.size == sizeof(agent->requests.nonce) &&
                    memcmp(command->nonce.data, agent->requests.nonce, command->nonce.size) == 0)
                        requests_announced(agent, result->number);
                else if (agent->requests.incarnation != 0 &&
                         result->number > agent->requests.incarnation) /* not one before, replayed */
                        requests_replaced(agent);
                return;
        case COMMAND_ADD_MEMBER:
        case COMMAND_REMOVE_MEMBER:
        case COMMAND_UPDATE_MEMBER:
                agent->members.dirty = agent->status_dirty = true;
                roles_members_changed(agent);
                if (command->kind == COMMAND_REMOVE_MEMBER)
                        sessions_changed(agent, command->subject);
                if (command->kind == COMMAND_REMOVE_MEMBER && command->subject == agent->host.id &&
                    result->status == RESULT_DONE)
                        agent->removed = true;
                break;
        case COMMAND_ATTACH:
        case COMMAND_END_SESSION:
                sessions_changed(agent, command->kind == COMMAND_ATTACH ? command->host : command->subject);
                sessions_applied(agent, command, result);
                break;
        case COMMAND_CHECK:
                checks_applied(agent, agent->tree_status.applied);
                break;
        case COMMAND_EMPTY:
        case COMMAND_SET:
        case COMMAND_CREATE:
        case COMMAND_DELETE:
        case COMMAND_ADD_TOKEN:
        case COMMAND_REMOVE_TOKEN:
        case COMMAND_PRUNE:
                break;
        }
        if (command->host == agent->host.id && command->incarnation != 0 &&
            command->incarnation == agent->requests.incarnation)
                requests_applied(agent, command->serial, result);
}

/* As tree_apply(). TREE_ROTTEN: it is the tree that is wrong, not the entry. */
static int apply_to_tree(Agent *agent, const Entry *entry, const EntryStamp *stamp, const Command *command,
                         const Conf *conf, Result *ret) {
        bool valid = command && join_signature_valid(agent, command);
        tree_want_previous(agent->tree, agent->watches.n_previous > 0);
        int r = tree_apply(agent->tree, entry, stamp, command, conf, valid, hall_version(agent),
                           command ? note_change : NULL, agent, ret);
        return r == -EBADMSG ? TREE_ROTTEN : r;
}

/* 0; TREE_HALTED, TREE_FULL, TREE_ROTTEN; -errno. */
static int apply_entry(Agent *agent, const Entry *entry) {
        EntryStamp stamp = {};
        Result result = {};
        Conf conf;
        WireCommand decoded;
        int r;

        switch (entry->type) {
        case ENTRY_NOOP:
                return apply_to_tree(agent, entry, &stamp, NULL, NULL, &result);
        case ENTRY_CONF:
                if (conf_decode(BYTES(entry->data, entry->size), &conf) < 0)
                        return -EBADMSG;
                agent->members.dirty = agent->status_dirty = true;
                return apply_to_tree(agent, entry, &stamp, NULL, &conf, &result);
        case ENTRY_COMMAND:
                break;
        }

        if (entry->type != ENTRY_COMMAND)
                return TREE_HALTED;
        if (entry_stamp_read(entry, &stamp) < 0)
                return -EBADMSG;
        if (stamp.min_version > hall_version(agent)) {
                SIM_SEEN("apply: an entry that this host is too old for");
                return TREE_HALTED;
        }
        r = wire_command_decode(BYTES(entry->data + ENTRY_STAMP_BYTES, entry->size - ENTRY_STAMP_BYTES),
                                &decoded);
        if (r < 0)
                return r;
        r = apply_to_tree(agent, entry, &stamp, &decoded.command, NULL, &result);
        if (r == 0 && agent->failed != 0)
                r = agent->failed; /* a change could not be noted: no watch hears of what follows it */
        if (r == 0) {
                hall_look_at_tree(agent);
                watches_fire(agent);
                agent->told_revision = MAX(agent->told_revision, agent->tree_status.revision);
                after_command(agent, &decoded.command, &result);
        } else
                watches_unnote(agent);
        wire_command_done(&decoded);
        return r;
}

/* Wherever the tree answers TREE_FULL: the open transaction is gone. Its entries are still in memory or in
 * the log, or are asked for again. */
void hall_taken_back(Agent *agent) {
        hall_look_at_tree(agent);
        agent->full_usec = agent->now_usec;
        agent->commit_usec = 0;
        agent->status_dirty = true;
        if (agent->follow.active)
                follow_end(agent); /* what waits there is not what follows the tree any more */
}

static void apply_stopped(Agent *agent, int r) {
        if (r == TREE_HALTED) {
                agent->halted = agent->status_dirty = true;
                report_say(
                        &agent->report, LOG_ERR,
                        "Entry %llu needs a newer version of treaty: this host stops applying, reads go on. Upgrade it.",
                        (unsigned long long)agent->tree_status.applied + 1);
                return;
        }
        if (r == TREE_FULL) {
                SIM_SEEN("apply: no room for the tree");
                agent->disk_full = true;
                hall_taken_back(agent);
                return;
        }
        if (r == TREE_ROTTEN) {
                hall_look_at_tree(agent);
                heal_suspect(agent, true, "a committed entry cannot be applied to it");
                return;
        }
        hall_fail(agent, r < 0 ? r : -EBADMSG, "A committed entry cannot be applied");
}

void hall_apply(Agent *agent) {
        size_t bytes = 0;

        /* A tree about to be replaced applies nothing that the new one may not hold yet; and one that
         * becomes the log's base stands still until the core begins there: what it applied meanwhile would
         * pass for durable. */
        const SnapshotFetch *fetch = &agent->snapshots.fetch;
        if (agent->halted || agent->failed != 0 || fetch->switch_seq != 0 || fetch->base_seq != 0 ||
            agent->roles.promote_index != 0 || !heal_may_touch(agent))
                return;
        if (agent->disk_full && agent->now_usec - agent->full_usec < USEC_PER_SEC && agent->full_usec != 0)
                return;

        for (unsigned n = 0; n < APPLY_ENTRIES && bytes < APPLY_BYTES; n++) {
                Entry *entry = next_entry(agent);
                if (!entry)
                        return;
                bytes += entry->size;
                int r = apply_entry(agent, entry);
                if (r != 0)
                        return apply_stopped(agent, r);

                hall_look_at_tree(agent);
                agent->applied_high = MAX(agent->applied_high, agent->tree_status.applied);
                agent->applied_entries++;
                agent->changed_usec = agent->now_usec;
                if (agent->follow.active) {
                        follow_drop(agent);
                        raft_observe(agent->raft, agent->tree_status.applied,
                                     agent->tree_status.applied_term, &agent->tree_status.conf,
                                     agent->tree_status.conf_index);
                }
        }
        agent->again = true; /* there may be more */
}
