/* One entry of the log, applied: exactly once, the same on every host. What decides here is the entry and
 * the tree, nothing else. Either all of it is in the open transaction and in memory when tree_apply()
 * returns, or the transaction is gone.
 *
 * The rule of exactly once: an entry whose incarnation is not exactly the row's, whose member is gone, or
 * whose serial is not above the highest, is a no-op. What the leader makes by itself carries no incarnation:
 * it is conditional, so that twice does nothing. */
#include "internal.h"
#include "../base/seen.h"

#include <string.h>

static int apply_kind(Apply *apply) {
        switch (apply->command->kind) {
        case COMMAND_EMPTY:
        case COMMAND_CHECK:
                return 0;
        case COMMAND_ANNOUNCE:
                return apply_announce(apply);
        case COMMAND_SET:
        case COMMAND_CREATE:
                return apply_set(apply);
        case COMMAND_DELETE:
                return apply_delete(apply);
        case COMMAND_ATTACH:
                return apply_attach(apply);
        case COMMAND_END_SESSION:
                return apply_end_session(apply);
        case COMMAND_ADD_TOKEN:
                return apply_add_token(apply);
        case COMMAND_REMOVE_TOKEN:
                return apply_remove_token(apply);
        case COMMAND_ADD_MEMBER:
                return apply_add_member(apply);
        case COMMAND_REMOVE_MEMBER:
                return apply_remove_member(apply);
        case COMMAND_UPDATE_MEMBER:
                return apply_update_member(apply);
        case COMMAND_PRUNE:
                if (apply->class == MEMBER_LEAF) {
                        apply->result.status = RESULT_DENIED;
                        return 0;
                }
                return apply_prune(apply);
        }
        return -EINVAL; /* a kind from the future has a min_version from the future */
}

/* The leader's own: only what is conditional. */
static int apply_unnumbered(Apply *apply) {
        const Command *command = apply->command;
        if (command->kind == COMMAND_ANNOUNCE) {
                int r = member_class(apply->tree, command->host, &apply->class);
                if (r == TREE_NONE) {
                        apply->result.status = RESULT_NO_MEMBER;
                        return 0;
                }
                return r != 0 ? r : apply_kind(apply);
        }
        if (command->kind != COMMAND_END_SESSION && command->kind != COMMAND_PRUNE &&
            command->kind != COMMAND_CHECK) {
                apply->result.status = RESULT_STALE;
                return 0;
        }
        apply->class = MEMBER_FULL;
        return apply_kind(apply);
}

static int apply_numbered(Apply *apply) {
        Tree *tree = apply->tree;
        const Command *command = apply->command;
        RequestRow *row;

        apply->result.status = RESULT_STALE;
        int r = requests_current(tree, command->host, &row);
        if (r != 0)
                return r == TREE_NONE ? 0 : r;
        if (row->incarnation != command->incarnation || row->ended != 0 || command->serial <= row->highest) {
                SIM_SEEN("tree: an entry came twice, or its process is over");
                return 0;
        }
        r = member_class(tree, command->host, &apply->class);
        if (r != 0)
                return r == TREE_NONE ? 0 : r;

        apply->result.status = RESULT_DONE;
        r = apply_kind(apply);
        if (r != 0)
                return r;
        apply->result.revision = tree->meta.revision;
        return requests_note(tree, command, &apply->result);
}

static int apply_command(Apply *apply, const EntryStamp *stamp) {
        Meta *meta = &apply->tree->meta;
        meta->cluster_usec = MAX(meta->cluster_usec, stamp->cluster_usec);
        meta->min_version = MAX(meta->min_version, stamp->min_version);
        int r = requests_expire(apply->tree);
        if (r != 0)
                return r;
        /* ANNOUNCE has no incarnation yet, whatever stands there. */
        bool numbered = apply->command->incarnation != 0 && apply->command->kind != COMMAND_ANNOUNCE;
        return numbered ? apply_numbered(apply) : apply_unnumbered(apply);
}

static int apply_entry(Apply *apply, const EntryStamp *stamp, const Conf *conf) {
        Tree *tree = apply->tree;
        int r = transaction_begin(tree);
        if (r != 0)
                return r;
        switch (apply->entry->type) {
        case ENTRY_NOOP:
                break;
        case ENTRY_CONF:
                tree->meta.conf = *conf;
                tree->meta.conf_index = apply->entry->index;
                break;
        case ENTRY_COMMAND:
                r = apply_command(apply, stamp);
                if (r != 0)
                        return r;
                break;
        }
        tree->meta.applied = apply->entry->index;
        tree->meta.applied_term = apply->entry->term;
        tree->dirty = true;
        apply->result.revision = tree->meta.revision;
        return 0;
}

/* Only now, when nothing can fail any more. One change is at hand; many are read back. */
static int apply_tell(Apply *apply, TreeListener listener, void *userdata) {
        if (apply->n == 0 || !listener)
                return 0;
        if (apply->n == 1) {
                apply->change.last = true;
                listener(&apply->change, userdata);
                return 0;
        }
        uint64_t next;
        return history_replay(apply->tree, "/", apply->revision, apply->revision, SIZE_MAX, SIZE_MAX,
                              listener, userdata, &next);
}

void tree_want_previous(Tree *tree, bool wanted) {
        tree->no_previous = !wanted;
}

int tree_apply(Tree *tree, const Entry *entry, const EntryStamp *stamp, const Command *command,
               const Conf *conf, bool signature_valid, uint32_t version, TreeListener listener,
               void *userdata, Result *ret) {
        if (tree->fatal != 0)
                return tree->fatal;
        if (tree->lost != 0)
                return transaction_failed(tree, tree->lost);
        if (entry->index != tree->meta.applied + 1 || entry->term < tree->meta.applied_term)
                return -EINVAL;
        if (entry->type == ENTRY_COMMAND) {
                if (!stamp || !command)
                        return -EINVAL;
                if (stamp->min_version > version)
                        return TREE_HALTED;
        } else if (entry->type == ENTRY_CONF ? !conf : entry->type != ENTRY_NOOP)
                return -EINVAL;

        Apply apply = {
                .tree = tree,
                .entry = entry,
                .command = command,
                .signature_valid = signature_valid,
        };
        int r = apply_entry(&apply, stamp, conf);
        if (r == 0)
                r = apply_tell(&apply, listener, userdata);
        if (r != 0)
                return transaction_failed(tree, r);
        if (ret)
                *ret = apply.result;
        return 0;
}
