/* Random runs, cut off at every call that could change something, under every policy of what a power cut
 * leaves; then the same with each call failing once.
 *
 * A model beside the log applies the same orders, record by record. After a restart the log must equal the
 * model at some point between "all that was completed" and "all that was asked for": so nothing acknowledged
 * is missing and nothing is invented, votes included; and the commit found must name only entries that were
 * committed. A torn tail is never called rot.
 *
 * TREATY_LOG_SEEDS=n runs more seeds. */
#include "logtest.h"

#include <stdio.h>

#define MAX_INDEX 4096
#define N_ORDERS  300

typedef struct Facts {
        uint64_t term, vote, base, base_term, base_conf, last;
        uint64_t terms[MAX_INDEX];
        bool confs[MAX_INDEX];
        char tree[LOG_TREE_NAME_BYTES];
        bool damaged;
} Facts;

typedef enum FactKind {
        FACT_HARD,
        FACT_TRUNCATE,
        FACT_ENTRY,
        FACT_BASE,
        FACT_TREE,
        FACT_DAMAGE,
} FactKind;

typedef struct Fact {
        uint64_t seq;
        FactKind kind;
        uint64_t index, term, vote, hard_term, conf_index;
        EntryType type;
        bool damaged;
} Fact;

typedef struct Run {
        LogTest t;
        Random random;
        Facts sure;  /* what was completed */
        Facts tip;   /* what was asked for */
        Fact *facts; /* between the two */
        size_t n_facts, capacity;
        uint64_t committed[MAX_INDEX]; /* the term of each index that was ever committed */
        uint64_t commit;
        uint64_t max_trim;
        int error; /* the log's end */
} Run;

static uint64_t newest_conf(const Facts *facts, uint64_t index) {
        for (; index > facts->base; index--)
                if (facts->confs[index])
                        return index;
        return facts->base_conf;
}

static void facts_raise_base(Facts *facts, uint64_t index) {
        facts->base_conf = newest_conf(facts, index);
        facts->base_term = index == facts->base ? facts->base_term : facts->terms[index];
        facts->base = index;
}

static uint64_t facts_term_of(const Facts *facts, uint64_t index) {
        return index == facts->base ? facts->base_term : facts->terms[index];
}

static void facts_apply(Facts *facts, const Fact *fact) {
        switch (fact->kind) {
        case FACT_HARD:
                facts->term = fact->term;
                facts->vote = fact->vote;
                return;
        case FACT_TRUNCATE:
                facts->last = fact->index - 1;
                return;
        case FACT_ENTRY:
                assert_int_equal(fact->index, facts->last + 1);
                facts->last = fact->index;
                facts->terms[fact->index] = fact->term;
                facts->confs[fact->index] = fact->type == ENTRY_CONF;
                return;
        case FACT_BASE:
                if (fact->index >= facts->base && fact->index <= facts->last &&
                    facts_term_of(facts, fact->index) == fact->term)
                        facts_raise_base(facts, fact->index);
                else
                        facts->last = facts->base = fact->index;
                facts->base_term = fact->term;
                facts->base_conf = fact->conf_index;
                facts->term = fact->hard_term;
                facts->vote = fact->vote;
                return;
        case FACT_TREE:
                snprintf(facts->tree, sizeof(facts->tree), "tree-%d.db", (int)fact->index);
                return;
        case FACT_DAMAGE:
                facts->damaged = fact->damaged;
                return;
        }
}

static void remember(Run *run, Fact fact) {
        fact.seq = run->t.seq;
        if (run->n_facts == run->capacity) {
                run->capacity = MAX(run->capacity * 2, (size_t)64);
                run->facts = reallocarray(run->facts, run->capacity, sizeof(Fact));
                assert_non_null(run->facts);
        }
        run->facts[run->n_facts++] = fact;
        facts_apply(&run->tip, &fact);
}

static void completed(Run *run) {
        int r = logtest_completed(&run->t);
        if (r < 0)
                run->error = r;
        size_t n = 0;
        while (n < run->n_facts && run->facts[n].seq <= run->t.completed)
                facts_apply(&run->sure, run->facts + n++);
        run->n_facts -= n;
        memmove(run->facts, run->facts + n, run->n_facts * sizeof(Fact));
}

/* -- Orders ------------------------------------------------------------------------------------------- */

static void order_batch(Run *run, bool hard, bool truncate) {
        Facts *tip = &run->tip;
        LogBatch batch = {.seq = ++run->t.seq};
        Entry *entries[8];
        if (hard) {
                bool same = !truncate && tip->vote == 0 && random_below(&run->random, 2) == 0;
                batch.hard_state = true;
                batch.term = same ? tip->term : tip->term + 1;
                batch.vote = same ? 1 + random_below(&run->random, 5) : random_below(&run->random, 6);
                remember(run, (Fact){.kind = FACT_HARD, .term = batch.term, .vote = batch.vote});
        }
        uint64_t low = MAX(run->commit, tip->base) + 1;
        if (truncate && low <= tip->last) {
                batch.truncate_from = low + random_below(&run->random, tip->last - low + 2);
                if (batch.truncate_from <= tip->last)
                        remember(run, (Fact){.kind = FACT_TRUNCATE, .index = batch.truncate_from});
        }
        uint64_t last_term = facts_term_of(tip, tip->last);
        size_t n = random_below(&run->random, 5);
        for (size_t i = 0; i < n && tip->last + 1 < MAX_INDEX; i++) {
                last_term = MAX(last_term, tip->term);
                EntryType type = random_below(&run->random, 10) == 0 ? ENTRY_CONF : ENTRY_COMMAND;
                size_t size = random_below(&run->random, 20) == 0 ? 6000 : random_below(&run->random, 400);
                entries[batch.n_entries++] = logtest_entry(tip->last + 1, last_term, type, size);
                remember(run, (Fact){
                                      .kind = FACT_ENTRY,
                                      .index = tip->last + 1,
                                      .term = last_term,
                                      .type = type,
                              });
        }
        batch.entries = entries;
        batch.commit = run->commit;
        if (log_submit(run->t.log, &batch) < 0)
                run->error = -EIO;
        for (size_t i = 0; i < batch.n_entries; i++)
                entry_unref(entries[i]);
}

static void order_base(Run *run) {
        Facts *tip = &run->tip;
        bool kept = random_below(&run->random, 2) == 0;
        /* Below what is committed, or past the end as after a snapshot. */
        uint64_t low = MAX(tip->base, run->max_trim);
        uint64_t index = kept ? low + random_below(&run->random, MAX(run->commit, low) - low + 1)
                              : tip->last + 1 + random_below(&run->random, 5);
        if (index + 10 >= MAX_INDEX)
                return;
        Fact fact = {.kind = FACT_BASE, .index = index};
        fact.term = kept ? facts_term_of(tip, index) : MAX(tip->term, facts_term_of(tip, tip->last));
        fact.hard_term = MAX(tip->term, fact.term);
        fact.vote = tip->term == fact.hard_term ? tip->vote : 0;
        fact.conf_index = kept ? newest_conf(tip, index) : index;
        Conf conf = fact.conf_index > 0 ? logtest_conf(fact.conf_index) : (Conf){};
        ++run->t.seq;
        if (log_submit_base(run->t.log, run->t.seq, index, fact.term, &conf, fact.conf_index, fact.hard_term,
                            fact.vote) < 0)
                run->error = -EIO;
        remember(run, fact);
        if (!kept) {
                run->commit = index;
                run->committed[index] = fact.term;
        }
}

static void note_commit(Run *run) {
        Facts *tip = &run->tip;
        if (run->commit >= tip->last)
                return;
        uint64_t commit = run->commit + 1 + random_below(&run->random, tip->last - run->commit);
        for (uint64_t i = MAX(run->commit, tip->base) + 1; i <= commit; i++)
                run->committed[i] = tip->terms[i];
        run->commit = commit;
        if (random_below(&run->random, 2) == 0)
                log_note_commit(run->t.log, commit);
}

static void step(Run *run, uint64_t n) {
        while (n-- > 0 && run->error == 0) {
                int r = log_step(run->t.log);
                if (r < 0)
                        run->error = r;
                if (r <= 0)
                        break;
        }
        completed(run);
}

static void one(Run *run) {
        uint64_t what = random_below(&run->random, 100);
        if (what < 45)
                order_batch(run, random_below(&run->random, 5) == 0, false);
        else if (what < 55)
                order_batch(run, true, true); /* as in Raft: what replaces entries is of a newer term */
        else if (what < 60)
                order_base(run);
        else if (what < 65) {
                uint64_t number = random_below(&run->random, 1000);
                char name[32];
                snprintf(name, sizeof(name), "tree-%d.db", (int)number);
                if (log_submit_tree(run->t.log, ++run->t.seq, name) < 0)
                        run->error = -EIO;
                remember(run, (Fact){.kind = FACT_TREE, .index = number});
        } else if (what < 68) {
                bool damaged = !run->tip.damaged;
                if (log_submit_damage(run->t.log, ++run->t.seq, damaged) < 0)
                        run->error = -EIO;
                remember(run, (Fact){.kind = FACT_DAMAGE, .damaged = damaged});
        } else if (what < 80)
                note_commit(run);
        else if (what < 86) {
                uint64_t index = MIN(run->commit, log_state(run->t.log)->last_index);
                run->max_trim = MAX(run->max_trim, index);
                log_trim(run->t.log, index);
        } else if (what < 90) {
                if (log_quiet(run->t.log) < 0)
                        run->error = -EIO;
        }
        if (random_below(&run->random, 100) < 60)
                step(run, 1 + random_below(&run->random, 3));
}

/* -- What a restart finds ----------------------------------------------------------------------------- */

static bool equals(const Facts *model, const LogState *found, const uint64_t *terms, uint64_t max_trim) {
        if (found->term != model->term || found->vote != model->vote || found->damaged != model->damaged ||
            strcmp(found->tree_name, model->tree) != 0 || found->last_index != model->last)
                return false;
        /* Trimming raises the base, but not beyond what was allowed. */
        if (found->base_index < model->base ||
            (found->base_index > model->base && found->base_index > max_trim))
                return false;
        if (found->base_term != facts_term_of(model, found->base_index) ||
            found->base_conf_index != newest_conf(model, found->base_index))
                return false;
        for (uint64_t i = found->base_index + 1; i <= found->last_index; i++)
                if (terms[i] != model->terms[i])
                        return false;
        return true;
}

static void verify(Run *run) {
        const LogState *found = log_state(run->t.log);
        uint64_t terms[MAX_INDEX] = {};
        assert_true(found->last_index < MAX_INDEX);
        assert_int_equal(logtest_read_all(&run->t, terms, MAX_INDEX), found->last_index - found->base_index);

        size_t n = 0;
        while (!equals(&run->sure, found, terms, run->max_trim)) {
                if (n == run->n_facts) {
                        print_message(
                                "found: term %d vote %d base %d last %d tree %s; asked for: term %d vote %d base "
                                "%d last %d tree %s\n",
                                (int)found->term, (int)found->vote, (int)found->base_index,
                                (int)found->last_index, found->tree_name, (int)run->tip.term,
                                (int)run->tip.vote, (int)run->tip.base, (int)run->tip.last, run->tip.tree);
                        fail_msg("the log is neither what was completed nor anything asked for after it");
                }
                facts_apply(&run->sure, run->facts + n++);
        }
        assert_true(found->commit >= found->base_index && found->commit <= found->last_index);
        for (uint64_t i = found->base_index + 1; i <= found->commit; i++)
                assert_int_equal(terms[i], run->committed[i]);
        Conf none = {}, conf = logtest_conf(found->base_conf_index);
        assert_memory_equal(&found->base_conf, found->base_conf_index == 0 ? &none : &conf, sizeof(conf));

        /* From here on the model goes on from what was found. */
        if (found->base_index > run->sure.base)
                facts_raise_base(&run->sure, found->base_index);
        run->tip = run->sure;
        run->n_facts = 0;
        run->error = 0;
        run->commit = found->commit;
        run->max_trim = found->base_index;
}

static void run_deinit(Run *run) {
        log_abandon(run->t.log);
        simdisk_free(run->t.sim);
        free(run->facts);
        free(run);
}

static Run *run_new(uint64_t seed) {
        Run *run = calloc(1, sizeof(Run));
        assert_non_null(run);
        run->random.state = seed;
        run->t.segment_bytes = 16 * 1024;
        run->t.sim = simdisk_new(seed);
        run->t.loud = getenv("TREATY_LOG_LOUD") != NULL;
        return run;
}

static void reopen(Run *run) {
        uint64_t start = run->t.n_opened;
        int r = logtest_open(&run->t);
        assert_int_equal(r, 0);
        assert_true(log_state(run->t.log)->start <= start + 1);
        verify(run);
}

/* Orders until the machine dies at its n-th call; false when it lived through all of them. */
static bool run_until(Run *run, uint64_t n, size_t n_orders) {
        simdisk_die_at(run->t.sim, n);
        if (!run->t.log) {
                uint64_t before = simdisk_calls(run->t.sim);
                int r = logtest_open(&run->t);
                uint64_t used = simdisk_calls(run->t.sim) - before;
                if (r < 0) {
                        assert_int_equal(r, -EIO);
                        return true;
                }
                assert_int_equal(r, 0);
                simdisk_die_at(run->t.sim, UINT64_MAX);
                verify(run);
                simdisk_die_at(run->t.sim, n == UINT64_MAX ? n : n - used);
        }
        for (size_t i = 0; i < n_orders && run->error == 0; i++)
                one(run);
        return run->error != 0;
}

static size_t seeds(void) {
        const char *n = getenv("TREATY_LOG_SEEDS");
        return n ? (size_t)atoi(n) : 4;
}

static void cut(Run *run, SimCut policy) {
        run->t.log = log_abandon(run->t.log);
        simdisk_cut(run->t.sim, policy);
}

static void test_power_cut(void **state) {
        size_t cuts = 0;
        for (size_t s = 0; s < seeds(); s++)
                for (SimCut policy = 0; policy < _SIM_CUT_MAX; policy++) {
                        bool died = true;
                        for (uint64_t n = 0; died; n++, cuts++) {
                                Run *run = run_new(1000 * s + 1);
                                died = run_until(run, n, N_ORDERS);
                                cut(run, policy);
                                /* Once more, in the middle of the recovery or soon after it. */
                                run_until(run, random_below(&run->random, 40), 20);
                                cut(run, policy);
                                reopen(run);
                                assert_false(run_until(run, UINT64_MAX, 20));
                                cut(run, SIM_LOSE_ALL);
                                reopen(run);
                                run_deinit(run);
                        }
                }
        print_message("%zu power cuts\n", cuts);
}

/* A call fails once: that is the end of this log, and it says so; the next start finds what was promised,
 * also when power goes right after it (what a failed sync left in the cache must be written again). */
static void test_error(void **state) {
        bool failed = true;
        size_t errors = 0;
        for (uint64_t n = 0; failed; n++, errors++) {
                Run *run = run_new(77);
                assert_int_equal(logtest_open(&run->t), 0);
                simdisk_fail_at(run->t.sim, n, -EIO);
                failed = run_until(run, UINT64_MAX, N_ORDERS);
                if (failed) {
                        completed(run);
                        uint64_t completed_before = run->t.completed;
                        assert_int_equal(log_step(run->t.log), -EIO);
                        assert_int_equal(logtest_completed(&run->t), -EIO);
                        assert_int_equal(run->t.completed, completed_before);
                        assert_int_equal(logtest_hard(&run->t, 10000, 1), -EIO);
                }
                run->t.log = log_abandon(run->t.log);
                simdisk_fail_at(run->t.sim, UINT64_MAX, 0);
                simdisk_kill(run->t.sim);
                reopen(run);
                assert_false(run_until(run, UINT64_MAX, 10));
                cut(run, SIM_LOSE_ALL);
                reopen(run);
                run_deinit(run);
        }
        print_message("%zu errors\n", errors);
}

/* A write that finds no room is no error: tried again, all goes on. */
static void test_no_space(void **state) {
        for (uint64_t n = 0; n < 400; n++) {
                Run *run = run_new(99);
                assert_int_equal(logtest_open(&run->t), 0);
                for (uint64_t k = 0; k < 200; k++) {
                        if (k % 3 == n % 3)
                                simdisk_set_room(run->t.sim, simdisk_used(run->t.sim) + n);
                        else if (k % 3 == (n + 1) % 3)
                                simdisk_set_room(run->t.sim, UINT64_MAX);
                        one(run);
                        assert_int_equal(run->error, 0);
                }
                cut(run, n % _SIM_CUT_MAX);
                simdisk_set_room(run->t.sim, UINT64_MAX);
                reopen(run);
                run_deinit(run);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_power_cut),
                cmocka_unit_test(test_error),
                cmocka_unit_test(test_no_space),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
