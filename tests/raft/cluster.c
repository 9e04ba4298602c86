/* See cluster.h. A broken promise ends the process by an assertion, with the seed already printed. */
#include "cluster.h"

#include <inttypes.h>
#include <string.h>

static Entry *disk_entry(const Disk *disk, uint64_t index) {
        if (index <= disk->base_index || index > disk->base_index + disk->n_entries)
                return NULL;
        return disk->entries[index - disk->base_index - 1];
}

static uint64_t disk_last(const Disk *disk) {
        return disk->base_index + disk->n_entries;
}

static uint64_t disk_term(const Disk *disk, uint64_t index) {
        if (index == disk->base_index)
                return disk->base_term;
        const Entry *entry = disk_entry(disk, index);
        return entry ? entry->term : 0;
}

static void disk_cut(Disk *disk, uint64_t from) {
        while (disk_last(disk) >= from && disk->n_entries > 0)
                entry_unref(disk->entries[--disk->n_entries]);
}

static void disk_push(Disk *disk, Entry *entry) {
        assert(entry->index == disk_last(disk) + 1);
        disk->entries = realloc(disk->entries, (disk->n_entries + 1) * sizeof(Entry *));
        disk->entries[disk->n_entries++] = entry_ref(entry);
}

/* The log begins behind `index`; what is behind it stays if `keep`. */
static void disk_rebase(Disk *disk, uint64_t index, uint64_t term, bool keep) {
        if (!keep)
                disk_cut(disk, disk->base_index + 1);
        size_t gone = keep ? index - disk->base_index : 0;
        for (size_t i = 0; i < gone; i++)
                entry_unref(disk->entries[i]);
        disk->n_entries -= gone;
        if (gone > 0)
                memmove(disk->entries, disk->entries + gone, disk->n_entries * sizeof(Entry *));
        disk->base_index = index;
        disk->base_term = term;
}

static void pending_deinit(Pending *pending) {
        for (size_t i = 0; i < pending->n_entries; i++)
                entry_unref(pending->entries[i]);
        free(pending->entries);
}

static void disk_write(Disk *disk, Pending *pending) {
        if (pending->hard_state) {
                assert(pending->term >= disk->term);
                assert(pending->term > disk->term || disk->vote == 0 || disk->vote == pending->vote);
                disk->term = pending->term;
                disk->vote = pending->vote;
        }
        if (pending->healed) {
                assert(disk->damaged && pending->hard_state && pending->vote != 0);
                disk->damaged = false;
        }
        if (pending->truncate_from != 0)
                disk_cut(disk, pending->truncate_from);
        for (size_t i = 0; i < pending->n_entries; i++)
                disk_push(disk, pending->entries[i]);
}

void table_init(Table *table, size_t n_nodes, size_t n_voters) {
        assert(n_nodes <= NODES_MAX);
        table->n_nodes = n_nodes;
        table->first_conf.n_voters = (uint32_t)n_voters;
        for (size_t i = 0; i < n_nodes; i++) {
                table->nodes[i] = (Node){.id = i + 1, .disk.has_log = i < n_voters};
                if (i < n_voters)
                        table->first_conf.voters[i].id = i + 1;
        }
        for (size_t i = 0; i < n_nodes; i++)
                node_start(table, table->nodes + i);
}

void table_deinit(Table *table) {
        for (size_t i = 0; i < table->n_nodes; i++) {
                Node *node = table->nodes + i;
                if (node->raft)
                        node_crash(table, node, 0);
                disk_cut(&node->disk, node->disk.base_index + 1);
                free(node->disk.entries);
                free(node->pending);
                free(node->lost);
        }
        while (table->n_letters > 0)
                letter_drop(table, 0);
        for (size_t i = 0; i < INDEX_END; i++)
                entry_unref(table->committed[i]);
        free(table->letters);
        free(table->reads);
}

Node *table_node(Table *table, uint64_t id) {
        return id >= 1 && id <= table->n_nodes ? table->nodes + id - 1 : NULL;
}

Node *table_leader(Table *table) {
        Node *leader = NULL;
        uint64_t term = 0;
        for (size_t i = 0; i < table->n_nodes; i++) {
                RaftStatus status;
                if (!table->nodes[i].raft)
                        continue;
                raft_status(table->nodes[i].raft, &status);
                if (status.role == RAFT_LEADER && status.term > term) {
                        leader = table->nodes + i;
                        term = status.term;
                }
        }
        return leader;
}

const Conf *table_conf_at(Table *table, uint64_t index, uint64_t *ret_index) {
        static Conf conf;
        for (uint64_t i = index; i > 0; i--) {
                const Entry *entry = table->committed[i];
                if (entry && entry->type == ENTRY_CONF) {
                        int r = conf_decode(BYTES(entry->data, entry->size), &conf);
                        assert(r == 0);
                        *ret_index = i;
                        return &conf;
                }
        }
        *ret_index = 0;
        return &table->first_conf;
}

static void voters_show(const ConfVoter *voters, uint32_t n, FILE *to) {
        fputc('{', to);
        for (uint32_t i = 0; i < n; i++) {
                fprintf(to, "%s%" PRIu64, i > 0 ? "," : "", voters[i].id);
                if (voters[i].since > 0)
                        fprintf(to, "@%" PRIu64, voters[i].since);
        }
        fputc('}', to);
}

void node_show(const Node *node, FILE *to) {
        fprintf(to, "%" PRIu64 ": ", node->id);
        if (!node->raft) {
                fprintf(to, "down\n");
                return;
        }
        RaftStatus s;
        raft_status(node->raft, &s);
        fprintf(to, "%s term %" PRIu64, raft_role_name(s.role), s.term);
        if (s.leader != 0)
                fprintf(to, " leader %" PRIu64, s.leader);
        if (s.vote != 0)
                fprintf(to, " vote %" PRIu64, s.vote);
        fprintf(to, " log %" PRIu64 "..%" PRIu64 " durable %" PRIu64 " commit %" PRIu64 " voters ",
                s.base_index, s.last_index, s.durable, s.commit);
        voters_show(s.conf->voters, s.conf->n_voters, to);
        if (s.conf->n_old > 0) {
                fputc('+', to);
                voters_show(s.conf->old, s.conf->n_old, to);
        }
        fputs(s.conf_committed ? "" : " uncommitted", to);
        fputs(s.transferring ? " transferring" : "", to);
        fputs(s.damaged ? " damaged" : "", to);
        if (s.heal != 0)
                fprintf(to, " whole at %" PRIu64, s.heal);
        fputs(s.lost ? " lost" : "", to);
        fputs(s.halted ? " halted" : "", to);
        fputc('\n', to);
}

/* ── What a host does around its core ────────────────────────────────────────────────────────────────────
 */

static uint64_t true_term(const Table *table, uint64_t index) {
        assert(index == 0 || table->committed[index]);
        return index == 0 ? 0 : table->committed[index]->term;
}

void node_start(Table *table, Node *node) {
        Disk *disk = &node->disk;
        RaftOptions options = {
                .id = node->id,
                .seed = table->seed * 1000003 + node->id * 1009 + node->lives,
                .life = ++node->lives,
                .damaged = disk->damaged,
                .heartbeat_usec = table->heartbeat_usec,
                .election_usec = table->election_usec,
                .cache_bytes = table->cache_bytes,
                .uncommitted_bytes = table->uncommitted_bytes,
        };
        int r = raft_new(&node->raft, &options);
        assert(r == 0);

        /* A tree that the log does not know becomes the base (counter-example 3). */
        if (!disk->has_log || disk_last(disk) < disk->tree ||
            disk_term(disk, disk->tree) != true_term(table, disk->tree))
                disk_rebase(disk, disk->tree, true_term(table, disk->tree), false);
        uint64_t conf_index;
        const Conf *conf = table_conf_at(table, disk->base_index, &conf_index);
        raft_restore(node->raft, disk->term, disk->vote, disk->base_index, disk->base_term, conf,
                     conf_index);
        for (size_t i = 0; i < disk->n_entries; i++) {
                r = raft_restore_entry(node->raft, disk->entries[i], disk->entries[i]->index > disk->tree);
                assert(r == 0);
        }
        r = raft_start(node->raft, disk->tree, table->now);
        assert(r == 0);
        if (disk->has_log)
                raft_base(node->raft, disk->base_index, disk->base_term, conf, conf_index, table->now);
        node->commit = node->applied = disk->tree;
        node->n_loads = node->n_snapshots = 0;
        node->stalled_until = 0;
        node_turn(table, node);
}

void node_crash(Table *table, Node *node, size_t keep) {
        for (size_t i = 0; i < node->n_pending; i++) {
                if (i < keep)
                        disk_write(&node->disk, node->pending + i);
                pending_deinit(node->pending + i);
        }
        node->n_pending = 0;
        node->raft = raft_free(node->raft);
}

static void node_note_store(Table *table, Node *node, const RaftStore *store) {
        if (store->seq == 0)
                return;
        node->pending = realloc(node->pending, (node->n_pending + 1) * sizeof(Pending));
        Pending *pending = node->pending + node->n_pending++;
        *pending = (Pending){
                .seq = store->seq,
                .truncate_from = store->truncate_from,
                .hard_state = store->hard_state,
                .healed = store->healed,
                .term = store->term,
                .vote = store->vote,
                .usec = table->now,
                .entries = calloc(store->n_entries + 1, sizeof(Entry *)),
                .n_entries = store->n_entries,
        };
        for (size_t i = 0; i < store->n_entries; i++)
                pending->entries[i] = entry_ref(store->entries[i]);
}

void table_put(Table *table, const RaftMessage *message, uint64_t usec) {
        if (table->n_letters == table->letters_capacity) {
                table->letters_capacity = MAX(table->letters_capacity * 2, (size_t)256);
                table->letters = realloc(table->letters, table->letters_capacity * sizeof(Letterbox));
        }
        Letterbox *letter = table->letters + table->n_letters++;
        *letter = (Letterbox){.message = *message, .usec = usec};
        letter->message.entries = calloc(message->n_entries + 1, sizeof(Entry *));
        for (uint32_t i = 0; i < message->n_entries; i++)
                letter->message.entries[i] = entry_ref(message->entries[i]);
}

void letter_drop(Table *table, size_t i) {
        RaftMessage *message = &table->letters[i].message;
        for (uint32_t k = 0; k < message->n_entries; k++)
                entry_unref(message->entries[k]);
        free(message->entries);
        memmove(table->letters + i, table->letters + i + 1, (table->n_letters - i - 1) * sizeof(Letterbox));
        table->n_letters--;
}

void letter_copy(Table *table, size_t i, uint64_t usec) {
        RaftMessage message = table->letters[i].message;
        table_put(table, &message, usec);
}

/* ── What must never happen ──────────────────────────────────────────────────────────────────────────────
 */

/* No promise outruns the disk (R1): what a message promises is looked up in the durable image. */
static void check_promise(Table *table, const Node *node, const RaftMessage *m) {
        const Disk *disk = &node->disk;
        assert(m->term < TERMS_MAX);
        if (m->type == RAFT_VOTE_REPLY && !m->refused) {
                assert(disk->term == m->term && disk->vote == m->to);
                uint64_t *vote = &table->vote_of[node->id][m->term];
                assert(*vote == 0 || *vote == m->to); /* over restarts too (R2) */
                *vote = m->to;
        }
        if (m->type == RAFT_VOTE || (m->type == RAFT_VOTE_REPLY && !m->refused))
                assert(!disk->damaged);
        if (m->type == RAFT_VOTE)
                assert(disk->term == m->term && disk->vote == node->id && disk_last(disk) >= m->log_index);
        if (m->type == RAFT_APPEND_REPLY && !m->refused)
                assert(disk_last(disk) >= m->match && disk->term >= m->term);
        if (m->type == RAFT_APPEND || m->type == RAFT_BEAT) {
                uint64_t *leader = &table->leader_of[m->term];
                assert(*leader == 0 || *leader == node->id); /* election safety */
                *leader = node->id;
        }
}

static uint64_t lost_term(const Node *node, uint64_t index) {
        return node->lost ? node->lost[index] : 0;
}

static size_t count_durable(Table *table, const ConfVoter *voters, uint32_t n, uint64_t index) {
        size_t count = 0;
        for (uint32_t i = 0; i < n; i++) {
                const Disk *disk = &table_node(table, voters[i].id)->disk;
                /* A voter that lost something counted as long as it had it. */
                if (disk->base_index >= index ||
                    lost_term(table_node(table, voters[i].id), index) == true_term(table, index) ||
                    disk_term(disk, index) == true_term(table, index))
                        count++;
        }
        return count;
}

static void check_quorum_durable(Table *table, const RaftStatus *status) {
        const Conf *conf = status->conf;
        if (status->conf_index > status->commit)
                return; /* its own entry is being counted */
        assert(count_durable(table, conf->voters, conf->n_voters, status->commit) > conf->n_voters / 2);
        if (conf_is_joint(conf))
                assert(count_durable(table, conf->old, conf->n_old, status->commit) > conf->n_old / 2);
}

/* State machine safety: one truth for each index. */
static void node_apply(Table *table, Node *node, const RaftStatus *status) {
        assert(status->commit >= node->commit && status->commit < INDEX_END);
        node->commit = status->commit;
        while (node->applied < node->commit) {
                uint64_t index = ++node->applied;
                Entry *entry = raft_entry(node->raft, index);
                assert(entry && entry->index == index);
                if (!table->committed[index]) {
                        table->committed[index] = entry_ref(entry);
                        table->committed_in[index] = status->term;
                }
                const Entry *truth = table->committed[index];
                assert(truth->term == entry->term && truth->type == entry->type);
                assert(truth->size == entry->size && memcmp(truth->data, entry->data, entry->size) == 0);
        }
        table->max_commit = MAX(table->max_commit, node->commit);
        raft_release(node->raft, node->applied);
}

/* Leader completeness (5.4.3) speaks of later terms only: a leader of an earlier term may come to office, or
 * hear of its majority, when a later one has committed already. */
static void check_complete(Table *table, const Node *node, const RaftStatus *status, uint64_t from) {
        for (uint64_t i = MAX(status->base_index, from); i <= table->max_commit; i++)
                assert(table->committed[i] == NULL || table->committed_in[i] >= status->term ||
                       raft_term_of(node->raft, i) == table->committed[i]->term);
}

/* When something is first committed, leaders of later terms that are in office already must have it too. */
static void check_later_leaders(Table *table, uint64_t from) {
        for (size_t i = 0; i < table->n_nodes; i++) {
                RaftStatus status;
                if (!table->nodes[i].raft)
                        continue;
                raft_status(table->nodes[i].raft, &status);
                if (status.role == RAFT_LEADER)
                        check_complete(table, table->nodes + i, &status, from);
        }
}

static void check_leader(Table *table, const Node *node, const RaftStatus *status) {
        if (status->role != RAFT_LEADER || table->leader_of[status->term] == node->id)
                return;
        assert(table->leader_of[status->term] == 0);
        table->leader_of[status->term] = node->id;
        table->n_elections++;
        check_complete(table, node, status, 1);
}

void table_check_logs(Table *table) {
        for (size_t a = 0; a < table->n_nodes; a++)
                for (size_t b = 0; b < a; b++) {
                        const Raft *x = table->nodes[a].raft, *y = table->nodes[b].raft;
                        if (!x || !y)
                                continue;
                        RaftStatus sx, sy;
                        raft_status(x, &sx);
                        raft_status(y, &sy);
                        bool equal = false;
                        uint64_t low = MAX(sx.base_index, sy.base_index) + 1;
                        for (uint64_t i = MIN(sx.last_index, sy.last_index); i >= low && i > 0; i--) {
                                bool same = raft_term_of(x, i) == raft_term_of(y, i);
                                assert(same || !equal); /* log matching */
                                equal |= same;
                        }
                }
}

static void node_note_reads(Table *table, const RaftUpdate *update) {
        for (size_t i = 0; i < update->n_reads; i++) {
                const RaftReadDone *done = update->reads + i;
                assert(done->id >= 1 && done->id <= table->n_reads);
                ReadGhost *ghost = table->reads + done->id - 1;
                assert(!ghost->done);
                ghost->done = true;
                if (done->lost)
                        table->n_reads_lost++;
                else {
                        assert(done->index >= ghost->floor); /* linearizable */
                        table->n_reads_done++;
                }
        }
}

/* One of each per peer; a newer one takes the place of one that an earlier leadership asked for. */
static void node_note_wants(Node *node, const RaftUpdate *update) {
        for (size_t i = 0; i < update->n_loads; i++) {
                size_t k = 0;
                while (k < node->n_loads && node->loads[k].peer != update->loads[i].peer)
                        k++;
                node->loads[k] = update->loads[i];
                node->n_loads = MAX(node->n_loads, k + 1);
        }
        for (size_t i = 0; i < update->n_snapshots; i++) {
                size_t k = 0;
                while (k < node->n_snapshots && node->snapshots[k] != update->snapshots[i])
                        k++;
                node->snapshots[k] = update->snapshots[i];
                node->n_snapshots = MAX(node->n_snapshots, k + 1);
        }
}

/* What was promised in terms that are forgotten was promised by nobody: the rules have to bear it. */
void node_damage(Table *table, Node *node, uint64_t index, uint64_t term, bool known) {
        Disk *disk = &node->disk;
        assert(!node->raft && index >= disk->base_index);

        if (!node->lost)
                node->lost = calloc(INDEX_END, sizeof(uint64_t));
        for (uint64_t i = index + 1; i <= disk_last(disk); i++)
                node->lost[i] = disk_term(disk, i);
        disk_cut(disk, index + 1);
        if (disk->term > term) {
                for (uint64_t t = term + 1; t <= disk->term; t++)
                        table->vote_of[node->id][t] = 0;
                disk->term = term;
                disk->vote = 0;
        }
        disk->damaged = known;
        table->n_damages++;
}

void node_turn(Table *table, Node *node) {
        RaftUpdate update;
        int r = raft_update(node->raft, table->now, &update);
        assert(r == 0);

        RaftStatus status;
        raft_status(node->raft, &status);
        node->deadline_usec = update.deadline_usec;
        assert(update.commit == status.commit);
        node_note_store(table, node, &update.store);
        check_leader(table, node, &status); /* before its letters say so */
        for (size_t i = 0; i < update.n_messages; i++) {
                const RaftMessage *m = update.messages + i;
                check_promise(table, node, m);
                if (table->sent)
                        table->sent(table, node, m);
                if (table_node(table, m->to))
                        table_put(table, m, table->delay ? table->delay(table, m) : 0);
        }
        node_note_reads(table, &update);
        node_note_wants(node, &update);
        if (table->told)
                table->told(table, node, &update);
        if (status.role != RAFT_PASSIVE)
                node->promoted = false;
        uint64_t before = node->commit;
        node_apply(table, node, &status);
        if (node->commit > before && status.role == RAFT_LEADER) {
                check_quorum_durable(table, &status);
                check_later_leaders(table, before + 1);
        }
}

void node_store(Table *table, Node *node, size_t n) {
        n = MIN(n, node->n_pending);
        if (n == 0)
                return;
        uint64_t seq = node->pending[n - 1].seq;
        for (size_t i = 0; i < n; i++) {
                disk_write(&node->disk, node->pending + i);
                pending_deinit(node->pending + i);
        }
        node->n_pending -= n;
        memmove(node->pending, node->pending + n, node->n_pending * sizeof(Pending));
        int r = raft_stored(node->raft, seq, table->now);
        assert(r == 0);
        node_turn(table, node);
}

void node_base(Table *table, Node *node, uint64_t index) {
        node_store(table, node, node->n_pending); /* the base record comes behind them in the log */
        Disk *disk = &node->disk;
        if (disk->has_log && index <= disk->base_index)
                return;
        uint64_t term = true_term(table, index);
        bool keep = disk->has_log && disk_last(disk) >= index && disk_term(disk, index) == term;
        disk_rebase(disk, index, term, keep);
        disk->has_log = true;
        disk->tree = MAX(disk->tree, index);
        uint64_t conf_index;
        const Conf *conf = table_conf_at(table, index, &conf_index);
        int r = raft_base(node->raft, index, term, conf, conf_index, table->now);
        assert(r == 0);
        node->applied = MAX(node->applied, index);
        node->commit = MAX(node->commit, index);
        node_turn(table, node);
}

void node_observe(Table *table, Node *node, uint64_t index) {
        if (index <= node->applied || node->disk.has_log)
                return;
        uint64_t conf_index;
        const Conf *conf = table_conf_at(table, index, &conf_index);
        raft_observe(node->raft, index, true_term(table, index), conf, conf_index);
        node->applied = node->commit = index;
        node_turn(table, node);
}

void node_demote(Table *table, Node *node) {
        node_store(table, node, node->n_pending);
        Disk *disk = &node->disk;
        disk->tree = node->applied;
        disk->has_log = false;
        disk_rebase(disk, disk->tree, true_term(table, disk->tree), false);
        raft_demoted(node->raft);
        uint64_t conf_index;
        const Conf *conf = table_conf_at(table, disk->tree, &conf_index);
        raft_observe(node->raft, disk->tree, disk->base_term, conf, conf_index);
        node_turn(table, node);
}

/* The tree is synced at some point; the log behind it goes. */
void node_trim(Node *node) {
        Disk *disk = &node->disk;
        uint64_t index = MIN(disk->tree, disk_last(disk));
        if (!disk->has_log || index <= disk->base_index || node->n_pending > 0)
                return;
        disk_rebase(disk, index, disk_term(disk, index), true);
        raft_trimmed(node->raft, index);
}

bool node_serve_load(Table *table, Node *node) {
        if (node->n_loads == 0)
                return false;
        RaftLoad load = node->loads[--node->n_loads];
        Entry *entries[LIMIT_APPEND_ENTRIES];
        size_t n = 0;
        while (n < load.max_entries && disk_entry(&node->disk, load.from + n)) {
                entries[n] = disk_entry(&node->disk, load.from + n);
                n++;
        }
        raft_loaded(node->raft, load.peer, entries, n, table->now);
        node_turn(table, node);
        return true;
}

bool node_serve_snapshot(Table *table, Node *node, bool ok) {
        if (node->n_snapshots == 0)
                return false;
        uint64_t id = node->snapshots[--node->n_snapshots];
        Node *peer = table_node(table, id);
        uint64_t index = node->applied;
        ok = ok && peer->raft;
        if (ok && (index > peer->applied || !peer->disk.has_log))
                node_base(table, peer, index);
        raft_snapshot_done(node->raft, id, index, ok, table->now);
        node_turn(table, node);
        return true;
}

int node_propose(Table *table, Node *node, const void *data, uint32_t size) {
        _cleanup_(entry_unrefp) Entry *entry = entry_new(ENTRY_COMMAND, 0, 0, data, size);
        return raft_propose(node->raft, entry, table->now);
}

int node_read(Table *table, Node *node) {
        table->reads = realloc(table->reads, (table->n_reads + 1) * sizeof(ReadGhost));
        table->reads[table->n_reads] = (ReadGhost){.floor = table->max_commit};
        int r = raft_read(node->raft, ++table->n_reads, table->now);
        assert(r >= 0);
        if (r > 0)
                table->n_reads--;
        return r;
}

int node_deliver(Table *table, size_t i) {
        Node *node = table_node(table, table->letters[i].message.to);
        int r = RAFT_IGNORED;
        if (node->raft) {
                /* Some leader takes this observer for a voter: its promotion was lost, or given up too
                 * early. */
                if (table->letters[i].message.type == RAFT_APPEND && !node->disk.has_log && table->delay)
                        node_base(table, node, node->applied);
                r = raft_receive(node->raft, &table->letters[i].message, table->now);
                assert(r >= 0);
        }
        letter_drop(table, i);
        if (node->raft && !table->bundles)
                node_turn(table, node);
        return r;
}
