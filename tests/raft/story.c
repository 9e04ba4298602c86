/* Stories: text files in which each line that begins with "> " is a command to a table of cores, and the
 * lines below it are what came of it, word for word. A story shows one rule at work; reading it is reading
 * the rule.
 *
 *      story FILE…             compare
 *      story --rewrite FILE…   write down what happens now, to be reviewed as a diff
 *
 * Commands (hosts are numbers; letters wait until they are delivered, batches until they are stored):
 *
 *      cluster N [VOTERS]          N hosts, the first VOTERS (default all) vote
 *      disk ID TERM T…             a host that is down: its log has entries of these terms
 *      timeout ID                  time goes on to the host's deadline, and only this host notices
 *      wait ID MS                  time goes on, and only this host notices
 *      deliver [A->B]              letters that wait now (0 stands for any host)
 *      drop A->B | copy A->B       lose or double them
 *      store ID [N]                the host's disk finishes its oldest N batches (default all)
 *      settle                      deliver and store until nothing is left
 *      elect ID                    timeout, settle
 *      propose ID TEXT | flood ID N BYTES (one turn) | stream ID N BYTES (N turns)
 *      read ID | change ID VOTER… | transfer ID TARGET | silent ID PEER
 *      promote ID [TREE] | demote ID | observe ID INDEX | trim ID INDEX | load ID | snapshot ID
 *      crash ID [KEPT-BATCHES] | start ID
 *      rot ID INDEX | forget ID INDEX  of a host that is down: its log ends there; it knows, or does not
 *      forge TYPE FROM TO KEY=N…   a letter that nobody wrote
 *      cut A-B… | cut A>B… | heal  links that lose what is sent while time runs; one way with >
 *      run MS                      time runs for all, letters and disks take a millisecond;
 *                                  told is who comes to office and who leaves it
 *      show [ID] | log ID
 *      quiet COMMAND               without its output */
#include "cluster.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef struct Story {
        Table *table;
        FILE *out;
        bool quiet;
        bool running; /* only changes of leaders are told */
        bool cut[NODES_MAX + 1][NODES_MAX + 1];
        RaftStatus seen[NODES_MAX + 1];
} Story;

static Story story;

static const char *type_name(RaftMessageType type) {
        static const char *names[] = {"?",          "prevote",    "prevote-reply", "vote",
                                      "vote-reply", "append",     "append-reply",  "beat",
                                      "beat-reply", "timeout-now"};
        return names[type <= RAFT_TIMEOUT_NOW ? type : 0];
}

static void say_nonzero(const char *name, uint64_t value) {
        if (value != 0)
                fprintf(story.out, " %s %" PRIu64, name, value);
}

static void on_sent(Table *table, Node *node, const RaftMessage *m) {
        if (story.quiet || story.running)
                return;
        fprintf(story.out, "  %" PRIu64 "->%" PRIu64 " %s term %" PRIu64, m->from, m->to, type_name(m->type),
                m->term);
        if (m->type == RAFT_APPEND || m->type == RAFT_PREVOTE || m->type == RAFT_VOTE)
                fprintf(story.out, " at %" PRIu64 "/%" PRIu64, m->log_index, m->log_term);
        if (m->n_entries > 0)
                fprintf(story.out, " entries %" PRIu64 "..%" PRIu64, m->entries[0]->index,
                        m->entries[m->n_entries - 1]->index);
        say_nonzero("commit", m->commit);
        say_nonzero("beat", m->beat);
        if (m->type == RAFT_APPEND_REPLY && !m->refused)
                fprintf(story.out, " match %" PRIu64, m->match);
        if (m->refused)
                fputs(" refused", story.out);
        if (m->refused && m->type == RAFT_APPEND_REPLY)
                fprintf(story.out, " hint %" PRIu64 "/%" PRIu64, m->hint_index, m->hint_term);
        say_nonzero("since", m->since);
        say_nonzero("whole at", m->heal);
        fputs(m->damaged ? " damaged" : "", story.out);
        fprintf(story.out, "%s\n", m->force ? " force" : "");
}

static void say_store(const Node *node, const RaftStore *store) {
        fprintf(story.out, "  %" PRIu64 " stores #%" PRIu64, node->id, store->seq);
        if (store->hard_state)
                fprintf(story.out, " term %" PRIu64 " vote %" PRIu64, store->term, store->vote);
        fputs(store->healed ? " whole again" : "", story.out);
        say_nonzero("cut from", store->truncate_from);
        if (store->n_entries > 0)
                fprintf(story.out, " entries %" PRIu64 "..%" PRIu64, store->entries[0]->index,
                        store->entries[store->n_entries - 1]->index);
        fputc('\n', story.out);
}

static void say_office(const Node *node, const RaftStatus *before, const RaftStatus *now) {
        if (now->role == RAFT_LEADER && before->role != RAFT_LEADER)
                fprintf(story.out, "  %" PRIu64 " leads in term %" PRIu64 "\n", node->id, now->term);
        if (now->role != RAFT_LEADER && before->role == RAFT_LEADER)
                fprintf(story.out, "  %" PRIu64 " leads no more\n", node->id);
}

static void on_told(Table *table, Node *node, const RaftUpdate *update) {
        RaftStatus now, *seen = story.seen + node->id;
        raft_status(node->raft, &now);
        RaftStatus before = *seen;
        *seen = now;
        if (story.quiet)
                return;
        if (story.running) {
                say_office(node, &before, &now);
                return;
        }
        if (update->store.seq != 0)
                say_store(node, &update->store);
        if (now.role != before.role || now.term != before.term)
                fprintf(story.out, "  %" PRIu64 " is %s in term %" PRIu64 "\n", node->id,
                        raft_role_name(now.role), now.term);
        if (now.commit != before.commit)
                fprintf(story.out, "  %" PRIu64 " commits %" PRIu64 "\n", node->id, now.commit);
        for (size_t i = 0; i < update->n_reads; i++) {
                const RaftReadDone *read = update->reads + i;
                if (read->lost)
                        fprintf(story.out, "  %" PRIu64 " read %" PRIu64 " is lost\n", node->id, read->id);
                else
                        fprintf(story.out, "  %" PRIu64 " read %" PRIu64 " at %" PRIu64 "\n", node->id,
                                read->id, read->index);
        }
        for (size_t i = 0; i < update->n_loads; i++)
                fprintf(story.out, "  %" PRIu64 " loads from %" PRIu64 " for %" PRIu64 "\n", node->id,
                        update->loads[i].from, update->loads[i].peer);
        for (size_t i = 0; i < update->n_snapshots; i++)
                fprintf(story.out, "  %" PRIu64 " wants a snapshot for %" PRIu64 "\n", node->id,
                        update->snapshots[i]);
}

static void say_outcome(int r) {
        static const char *names[] = {NULL, "not leader", "busy", "not ready", "ignored", "invalid"};
        if (r > 0 && !story.quiet)
                fprintf(story.out, "  %s\n", names[r]);
}

static void table_close(void) {
        if (!story.table)
                return;
        table_deinit(story.table);
        free(story.table);
        story.table = NULL;
}

static void table_open(size_t n_nodes, size_t n_voters) {
        table_close();
        memset(story.seen, 0, sizeof(story.seen));
        memset(story.cut, 0, sizeof(story.cut));
        for (size_t i = 0; i < ELEMENTSOF(story.seen); i++)
                story.seen[i].role = RAFT_FOLLOWER;
        story.table = calloc(1, sizeof(Table));
        assert(story.table);
        story.table->seed = 7;
        story.table->heartbeat_usec = 100 * USEC_PER_MSEC;
        story.table->election_usec = 600 * USEC_PER_MSEC;
        story.table->uncommitted_bytes = 64 * 1024;
        story.table->cache_bytes = 4096;
        story.table->sent = on_sent;
        story.table->told = on_told;
        table_init(story.table, n_nodes, n_voters);
}

static void tick(Node *node) {
        int r = raft_tick(node->raft, story.table->now);
        assert(r == 0);
        node_turn(story.table, node);
}

static bool letter_matches(size_t i, uint64_t from, uint64_t to) {
        const RaftMessage *m = &story.table->letters[i].message;
        return (from == 0 || m->from == from) && (to == 0 || m->to == to);
}

/* Only those that wait now: marked by their time. */
static void letters_mark(void) {
        for (size_t i = 0; i < story.table->n_letters; i++)
                story.table->letters[i].usec = 1;
}

static void deliver(uint64_t from, uint64_t to) {
        letters_mark();
        for (size_t i = 0; i < story.table->n_letters;) {
                if (story.table->letters[i].usec == 1 && letter_matches(i, from, to))
                        say_outcome(node_deliver(story.table, i));
                else
                        i++;
        }
}

static void drop(uint64_t from, uint64_t to) {
        for (size_t i = 0; i < story.table->n_letters;) {
                if (letter_matches(i, from, to))
                        letter_drop(story.table, i);
                else
                        i++;
        }
}

static void settle(void) {
        for (int round = 0; round < 1000; round++) {
                bool busy = story.table->n_letters > 0;
                deliver(0, 0);
                for (size_t i = 0; i < story.table->n_nodes; i++) {
                        busy |= story.table->nodes[i].n_pending > 0;
                        node_store(story.table, story.table->nodes + i, SIZE_MAX);
                }
                if (!busy)
                        return;
        }
        fputs("  never settles\n", story.out);
}

/* "1-2 3>4": both ways, one way. */
static void cut(char *words) {
        char *save = NULL;
        for (char *word = strtok_r(words, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
                char *end;
                uint64_t a = strtoull(word, &end, 10), b = strtoull(end + 1, NULL, 10);
                assert(a <= NODES_MAX && b <= NODES_MAX && (*end == '-' || *end == '>'));
                story.cut[a][b] = true;
                story.cut[b][a] |= *end == '-';
        }
}

/* One millisecond for everybody. */
static void step(Table *table) {
        table->now += USEC_PER_MSEC;
        letters_mark();
        for (size_t i = 0; i < table->n_letters;) {
                const RaftMessage *m = &table->letters[i].message;
                if (table->letters[i].usec != 1)
                        i++;
                else if (story.cut[m->from][m->to])
                        letter_drop(table, i);
                else
                        node_deliver(table, i);
        }
        for (size_t i = 0; i < table->n_nodes; i++) {
                Node *node = table->nodes + i;
                if (node->raft && node->n_pending > 0)
                        node_store(table, node, SIZE_MAX);
                if (node->raft && node->deadline_usec <= table->now)
                        tick(node);
        }
}

static uint64_t highest_term(const Table *table) {
        uint64_t term = 0;
        for (size_t i = 0; i < table->n_nodes; i++) {
                RaftStatus status;
                if (!table->nodes[i].raft)
                        continue;
                raft_status(table->nodes[i].raft, &status);
                term = MAX(term, status.term);
        }
        return term;
}

static void run_time(uint64_t ms) {
        Table *table = story.table;
        uint64_t elections = table->n_elections, term = highest_term(table);
        story.running = true;
        for (; ms > 0; ms--)
                step(table);
        story.running = false;
        elections = table->n_elections - elections;
        term = highest_term(table) - term;
        if (!story.quiet && (elections > 0 || term > 0))
                fprintf(story.out, "  %" PRIu64 " came to office, %" PRIu64 " new terms\n", elections, term);
}

static void timeout(Node *node) {
        story.table->now = MAX(story.table->now, node->deadline_usec);
        tick(node);
}

static void disk_forge(Node *node, char *terms) {
        char *save = NULL;
        Disk *disk = &node->disk;
        disk->term = strtoull(strtok_r(terms, " ", &save), NULL, 10);
        for (char *word; (word = strtok_r(NULL, " ", &save));) {
                disk->entries = realloc(disk->entries, (disk->n_entries + 1) * sizeof(Entry *));
                disk->entries[disk->n_entries] =
                        entry_new(ENTRY_COMMAND, disk->n_entries + 1, strtoull(word, NULL, 10), NULL, 0);
                disk->n_entries++;
        }
}

static void flood(Node *node, uint64_t n, uint64_t bytes) {
        uint64_t taken = 0;
        int r = 0;
        for (; taken < n && r == 0; taken += r == 0) {
                _cleanup_(entry_unrefp) Entry *entry = entry_new(ENTRY_COMMAND, 0, 0, NULL, (uint32_t)bytes);
                memset(entry->data, 'x', bytes);
                r = raft_propose(node->raft, entry, story.table->now);
        }
        if (!story.quiet)
                fprintf(story.out, "  took %" PRIu64 "\n", taken);
        say_outcome(r);
        node_turn(story.table, node);
}

static void change(Node *node, char *words) {
        uint64_t voters[16];
        size_t n = 0;
        char *save = NULL;
        for (char *word = strtok_r(words, " ", &save); word && n < 16; word = strtok_r(NULL, " ", &save))
                voters[n++] = strtoull(word, NULL, 10);
        say_outcome(raft_change(node->raft, voters, n, story.table->now));
        node_turn(story.table, node);
}

static void say_log(const Node *node) {
        RaftStatus status;
        raft_status(node->raft, &status);
        fputs(status.last_index > status.base_index ? " " : "  empty", story.out);
        for (uint64_t i = status.base_index + 1; i <= status.last_index; i++)
                fprintf(story.out, " %" PRIu64 "/%" PRIu64, i, raft_term_of(node->raft, i));
        fputc('\n', story.out);
}

static void forge(char *words) {
        char *save = NULL, *type = strtok_r(words, " ", &save);
        RaftMessage m = {};
        Entry *entries[LIMIT_APPEND_ENTRIES + 1];
        m.entries = entries;
        for (int t = RAFT_PREVOTE; t <= RAFT_TIMEOUT_NOW; t++)
                if (strcmp(type, type_name((RaftMessageType)t)) == 0)
                        m.type = (RaftMessageType)t;
        m.from = strtoull(strtok_r(NULL, " ", &save), NULL, 10);
        uint64_t to = m.to = strtoull(strtok_r(NULL, " ", &save), NULL, 10);
        for (char *word; (word = strtok_r(NULL, " ", &save));) {
                char *value = strchr(word, '=');
                assert(value);
                *value++ = 0;
                uint64_t v = strtoull(value, NULL, 10);
                struct {
                        const char *name;
                        uint64_t *at;
                } fields[] = {{"term", &m.term},   {"index", &m.log_index}, {"log_term", &m.log_term},
                              {"beat", &m.beat},   {"match", &m.match},     {"commit", &m.commit},
                              {"since", &m.since}, {"hint", &m.hint_index}, {"hint_term", &m.hint_term},
                              {"to", &m.to}};
                for (size_t i = 0; i < ELEMENTSOF(fields); i++)
                        if (strcmp(word, fields[i].name) == 0)
                                *fields[i].at = v;
                m.refused |= strcmp(word, "refused") == 0;
                m.force |= strcmp(word, "force") == 0;
                if (strcmp(word, "entry") == 0 || strcmp(word, "conf") == 0) { /* INDEX/TERM */
                        uint64_t term = strtoull(strchr(value, '/') + 1, NULL, 10);
                        EntryType kind = *word == 'c' ? ENTRY_CONF : ENTRY_COMMAND;
                        entries[m.n_entries++] = entry_new(kind, v, term, NULL, 0);
                }
                if (strcmp(word, "many") == 0)
                        while (m.n_entries < v) {
                                entries[m.n_entries] = entry_new(
                                        ENTRY_COMMAND, m.log_index + 1 + m.n_entries, m.term, NULL, 0);
                                m.n_entries++;
                        }
        }
        Node *node = table_node(story.table, to);
        say_outcome(raft_receive(node->raft, &m, story.table->now));
        for (uint32_t i = 0; i < m.n_entries; i++)
                entry_unref(entries[i]);
        node_turn(story.table, node);
}

static void show(uint64_t id) {
        for (size_t i = 0; i < story.table->n_nodes; i++)
                if (id == 0 || story.table->nodes[i].id == id) {
                        fputs("  ", story.out);
                        node_show(story.table->nodes + i, story.out);
                }
}

static bool run_on_host(const char *verb, Node *node, char *rest, uint64_t number, bool has_number) {
        Table *table = story.table;
        if (strcmp(verb, "timeout") == 0)
                timeout(node);
        else if (strcmp(verb, "wait") == 0) {
                table->now += number * USEC_PER_MSEC;
                tick(node);
        } else if (strcmp(verb, "store") == 0)
                node_store(table, node, has_number ? number : SIZE_MAX);
        else if (strcmp(verb, "elect") == 0) {
                timeout(node);
                settle();
        } else if (strcmp(verb, "propose") == 0) {
                say_outcome(node_propose(table, node, rest, (uint32_t)strlen(rest)));
                node_turn(table, node);
        } else if (strcmp(verb, "flood") == 0) {
                char *end;
                uint64_t n = strtoull(rest, &end, 10);
                flood(node, n, strtoull(end, NULL, 10));
        } else if (strcmp(verb, "stream") == 0) {
                char *end;
                uint64_t n = strtoull(rest, &end, 10);
                for (uint64_t bytes = strtoull(end, NULL, 10); n > 0; n--)
                        flood(node, 1, bytes);
        } else if (strcmp(verb, "read") == 0) {
                say_outcome(node_read(table, node));
                node_turn(table, node);
        } else if (strcmp(verb, "change") == 0)
                change(node, rest);
        else if (strcmp(verb, "transfer") == 0) {
                say_outcome(raft_transfer(node->raft, number, table->now));
                node_turn(table, node);
        } else if (strcmp(verb, "silent") == 0) {
                say_outcome(raft_silent(node->raft, number, table->now));
                node_turn(table, node);
        } else if (strcmp(verb, "promote") == 0)
                node_base(table, node, has_number ? number : node->applied);
        else if (strcmp(verb, "demote") == 0)
                node_demote(table, node);
        else if (strcmp(verb, "observe") == 0)
                node_observe(table, node, number);
        else if (strcmp(verb, "trim") == 0) {
                node->disk.tree = number;
                node_trim(node);
        } else if (strcmp(verb, "load") == 0)
                node_serve_load(table, node);
        else if (strcmp(verb, "snapshot") == 0)
                node_serve_snapshot(table, node, true);
        else if (strcmp(verb, "crash") == 0)
                node_crash(table, node, has_number ? number : 0);
        else if (strcmp(verb, "start") == 0)
                node_start(table, node);
        else if (strcmp(verb, "rot") == 0)
                node_damage(table, node, number, node->disk.term, true);
        else if (strcmp(verb, "forget") == 0)
                node_damage(table, node, number, node->disk.term, false);
        else if (strcmp(verb, "disk") == 0)
                disk_forge(node, rest);
        else if (strcmp(verb, "log") == 0)
                say_log(node);
        else
                return false;
        return true;
}

static bool run(char *command) {
        unsigned long long from = 0, to = 0;
        story.quiet = strncmp(command, "quiet ", 6) == 0;
        if (story.quiet)
                command += 6;
        char *rest = strchrnul(command, ' ');
        if (*rest)
                *rest++ = 0;

        if (strcmp(command, "cluster") == 0) {
                char *end;
                uint64_t n = strtoull(rest, &end, 10), voters = strtoull(end, NULL, 10);
                table_open(n, voters ? voters : n);
                return true;
        }
        if (!story.table)
                return false;
        if (strcmp(command, "settle") == 0)
                settle();
        else if (strcmp(command, "run") == 0)
                run_time(strtoull(rest, NULL, 10));
        else if (strcmp(command, "cut") == 0)
                cut(rest);
        else if (strcmp(command, "heal") == 0)
                memset(story.cut, 0, sizeof(story.cut));
        else if (strcmp(command, "show") == 0)
                show(strtoull(rest, NULL, 10));
        else if (strcmp(command, "forge") == 0)
                forge(rest);
        else if (strcmp(command, "deliver") == 0 || strcmp(command, "drop") == 0 ||
                 strcmp(command, "copy") == 0) {
                if (*rest && sscanf(rest, "%llu->%llu", &from, &to) != 2)
                        return false;
                if (*command == 'c')
                        for (size_t i = 0, n = story.table->n_letters; i < n; i++) {
                                if (letter_matches(i, from, to))
                                        letter_copy(story.table, i, 0);
                        }
                else if (command[1] == 'r')
                        drop(from, to);
                else
                        deliver(from, to);
        } else {
                char *end;
                Node *node = table_node(story.table, strtoull(rest, &end, 10));
                while (*end == ' ')
                        end++;
                bool up = node &&
                          (node->raft || strcmp(command, "start") == 0 || strcmp(command, "disk") == 0 ||
                           strcmp(command, "rot") == 0 || strcmp(command, "forget") == 0);
                return up && run_on_host(command, node, end, strtoull(end, NULL, 10), *end != 0);
        }
        return true;
}

/* The file with everything below its commands as it is now; NULL when it cannot be read. */
static char *tell(const char *path, char **ret_before) {
        FILE *in = fopen(path, "r");
        if (!in)
                return NULL;
        char *after = NULL, *before = NULL;
        size_t size, before_size;
        FILE *copy = open_memstream(&before, &before_size);
        story.out = open_memstream(&after, &size);

        char line[4096];
        bool in_output = false;
        while (fgets(line, sizeof(line), in)) {
                fputs(line, copy);
                line[strcspn(line, "\n")] = 0;
                if (in_output && strncmp(line, "  ", 2) == 0)
                        continue;
                in_output = false;
                fprintf(story.out, "%s\n", line);
                if (strncmp(line, "> ", 2) != 0)
                        continue;
                in_output = true;
                if (!run(line + 2))
                        fputs("  no such command, or the host is down\n", story.out);
        }
        fclose(in);
        fclose(copy);
        fclose(story.out);
        table_close();
        *ret_before = before;
        return after;
}

static void say_difference(const char *path, const char *before, const char *after) {
        int line = 1;
        const char *b = before, *a = after;
        for (; *b && *b == *a; a++, b++)
                if (*b == '\n') {
                        line++;
                        before = b + 1;
                        after = a + 1;
                }
        fprintf(stderr, "%s:%d: the story goes otherwise\n  written: %.*s\n  happens: %.*s\n", path, line,
                (int)strcspn(before, "\n"), before, (int)strcspn(after, "\n"), after);
}

int main(int argc, char **argv) {
        bool rewrite = argc > 1 && strcmp(argv[1], "--rewrite") == 0;
        int failed = 0;
        for (int i = rewrite ? 2 : 1; i < argc; i++) {
                char *before = NULL, *after = tell(argv[i], &before);
                if (!after) {
                        fprintf(stderr, "%s: cannot be read\n", argv[i]);
                        return 1;
                }
                if (strcmp(before, after) != 0) {
                        FILE *out = rewrite ? fopen(argv[i], "w") : NULL;
                        if (out) {
                                fputs(after, out);
                                fclose(out);
                        } else {
                                say_difference(argv[i], before, after);
                                failed = 1;
                        }
                }
                free(before);
                free(after);
        }
        return failed;
}
