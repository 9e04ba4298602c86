/* No promise outruns the disk. Beside each host stands a shadow of its log: what was ordered (the view) and
 * what the log has called durable. Between hall and rooms (the linker's --wrap) each order, each completion
 * and each letter passes by here, and is compared at that moment, without any crash:
 *
 *      a vote, an acknowledgement, a request for votes leaves     what it says is durable there
 *      votes as sent                                              one candidate per host and term, over all
 * lives an order                                                   (index, term) names one entry with one
 * predecessor a start                                                    finds all that was called durable
 *      a leader's commit                                          is its own term's, and durable on a
 * majority a new leader                                               has all that was committed before a
 * read                                                     answered at or behind all that was committed an
 * own request applies                                     none before it still waits: it could never apply
 *
 * Now and then the shadow itself is compared: the disk's durable image is opened by the real log's code. */
#include "agent/base/seen.h"
#include "bounds.h"
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Image {
        uint64_t term, vote, base_index, base_term, last;
        uint64_t *terms, room; /* by index */
} Image;

typedef struct Order {
        uint64_t seq;
        bool base, hard;
        uint64_t truncate_from, first, n, *terms;
        uint64_t term, vote;
        uint64_t base_index, base_term;
        struct Order *prev, *next;
} Order;

typedef struct Asked { /* a ReadIndex under way */
        uint64_t id;   /* key */
        uint64_t committed;
        unsigned life;
        UT_hash_handle hh;
} Asked;

typedef struct Shadow {
        Log *log;
        uint64_t id;
        Image view, durable;
        Order *orders;
        uint64_t *votes, n_votes; /* as sent, by term */
        Asked *asked;
        unsigned life;
        uint64_t commit, term, led_term, led_commit;
        uint64_t confs[4]; /* the newest configurations in the view */
} Shadow;

typedef struct Known { /* an entry that somebody wrote down */
        uint64_t index, term, previous_term, hash;
} Known;

typedef struct Agreed {
        uint64_t term, in_term;
} Agreed;

static Shadow shadows[HOSTS_MAX];
static Known *known;
static size_t n_known, known_room;
static Agreed *agreed;
static uint64_t agreed_room, agreed_max;
static uint64_t n_promises, next_sample, n_samples;
static uint64_t forgiven_usec[HOSTS_MAX]; /* somebody touched its disk: less may be there */
static bool forgiven[HOSTS_MAX];

int __real_log_open(Log **ret, const LogOptions *options, const uint8_t nonce[static 16]);
int __wrap_log_open(Log **ret, const LogOptions *options, const uint8_t nonce[static 16]);
int __real_log_submit(Log *log, const LogBatch *batch);
int __wrap_log_submit(Log *log, const LogBatch *batch);
int __real_log_submit_base(Log *log, uint64_t seq, uint64_t index, uint64_t term, const Conf *conf,
                           uint64_t conf_index, uint64_t hard_term, uint64_t hard_vote);
int __wrap_log_submit_base(Log *log, uint64_t seq, uint64_t index, uint64_t term, const Conf *conf,
                           uint64_t conf_index, uint64_t hard_term, uint64_t hard_vote);
int __real_log_completed(Log *log, uint64_t *ret_seq, bool *ret_full);
int __wrap_log_completed(Log *log, uint64_t *ret_seq, bool *ret_full);
int __real_hall_send(Agent *agent, uint64_t to, const Letter *letter);
int __wrap_hall_send(Agent *agent, uint64_t to, const Letter *letter);
int __real_raft_read(Raft *raft, uint64_t id, uint64_t now_usec);
int __wrap_raft_read(Raft *raft, uint64_t id, uint64_t now_usec);
void __real_reads_done(Agent *agent, const RaftReadDone *done);
void __wrap_reads_done(Agent *agent, const RaftReadDone *done);
void __real_requests_applied(Agent *agent, uint64_t serial, const Result *result);
void __wrap_requests_applied(Agent *agent, uint64_t serial, const Result *result);

#define LLU(x) ((unsigned long long)(x))

/* ---- Images ---- */

static uint64_t *room_for(uint64_t *array, uint64_t *room, uint64_t wanted) {
        if (wanted < *room)
                return array;
        uint64_t more = MAX(wanted + 1, MAX(*room * 2, UINT64_C(256)));
        array = reallocarray(array, more, sizeof(uint64_t));
        assert(array);
        memset(array + *room, 0, (more - *room) * sizeof(uint64_t));
        *room = more;
        return array;
}

static uint64_t image_term(const Image *image, uint64_t index) {
        if (index == image->base_index)
                return image->base_term;
        return index > image->base_index && index <= image->last ? image->terms[index] : 0;
}

static bool image_has(const Image *image, uint64_t index, uint64_t term) {
        return index < image->base_index || image_term(image, index) == term;
}

static void image_put(Image *image, uint64_t index, uint64_t term) {
        image->terms = room_for(image->terms, &image->room, index);
        image->terms[index] = term;
        image->last = index;
}

static void image_take(Image *image, const Order *order) {
        if (order->base) {
                if (order->base_index < image->base_index ||
                    image_term(image, order->base_index) != order->base_term)
                        image->last = order->base_index;
                image->base_index = order->base_index;
                image->base_term = order->base_term;
        }
        if (order->truncate_from != 0)
                image->last = MIN(image->last, order->truncate_from - 1);
        for (uint64_t i = 0; i < order->n; i++)
                image_put(image, order->first + i, order->terms[i]);
        if (order->hard) {
                image->term = order->term;
                image->vote = order->vote;
        }
}

static int image_entry(Entry *entry, void *userdata) {
        image_put(userdata, entry->index, entry->term);
        return 0;
}

static int image_load(Image *image, Log *log) {
        const LogState *state = log_state(log);
        image->term = state->term;
        image->vote = state->vote;
        image->base_index = image->last = state->base_index;
        image->base_term = state->base_term;
        return log_replay(log, state->base_index + 1, image_entry, image);
}

static void image_copy(Image *to, const Image *from) {
        uint64_t *terms = room_for(to->terms, &to->room, from->last), room = to->room;
        if (from->last > from->base_index)
                memcpy(terms + from->base_index + 1, from->terms + from->base_index + 1,
                       (from->last - from->base_index) * sizeof(uint64_t));
        *to = *from;
        to->terms = terms;
        to->room = room;
}

/* ---- Whose is it ---- */

static SimHost *host_of_agent(const Agent *agent) {
        return agent->outside.userdata;
}

static Shadow *shadow_of_log(const Log *log) {
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (shadows[i].log == log)
                        return &shadows[i];
        return NULL;
}

static const char *name_of(const Shadow *shadow) {
        return world.hosts[shadow - shadows]->name;
}

void promise_forgive(SimHost *host) {
        forgiven[host->i] = true;
        forgiven_usec[host->i] = world.now;
}

static bool anybody_forgiven(void) {
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (forgiven_usec[i] != 0 && world.now - forgiven_usec[i] < 30 * SEC)
                        return true;
        return false;
}

/* ---- Log matching: by induction over all that anybody ever wrote down ---- */

static uint64_t hash_entry(const Entry *entry) {
        uint64_t hash = entry->size * UINT64_C(0x9e3779b97f4a7c15) + entry->type;
        uint32_t i = 0;
        for (; i + 8 <= entry->size; i += 8) {
                uint64_t word;
                memcpy(&word, entry->data + i, 8);
                hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
                hash ^= hash >> 31;
        }
        for (; i < entry->size; i++)
                hash = (hash ^ entry->data[i]) * UINT64_C(0x100000001b3);
        return hash;
}

static Known *known_find(uint64_t index, uint64_t term) {
        uint64_t i = (index * UINT64_C(0x9e3779b97f4a7c15) ^ term * UINT64_C(0xc2b2ae3d27d4eb4f)) >> 16;
        while (known[i & (known_room - 1)].index != 0 &&
               (known[i & (known_room - 1)].index != index || known[i & (known_room - 1)].term != term))
                i++;
        return &known[i & (known_room - 1)];
}

static void known_grow(void) {
        if (known_room > 0 && n_known * 2 < known_room)
                return;
        Known *old = known;
        size_t room = known_room;
        known_room = MAX((size_t)4096, room * 2);
        known = calloc(known_room, sizeof(Known));
        assert(known);
        for (size_t i = 0; i < room; i++)
                if (old[i].index != 0)
                        *known_find(old[i].index, old[i].term) = old[i];
        free(old);
}

static void learn(const Shadow *shadow, const Entry *entry, uint64_t previous_term) {
        known_grow();
        Known *slot = known_find(entry->index, entry->term);
        Known now = {.index = entry->index,
                     .term = entry->term,
                     .previous_term = previous_term,
                     .hash = hash_entry(entry)};
        if (slot->index == 0) {
                n_known++;
                *slot = now;
        } else if (slot->hash != now.hash || slot->previous_term != previous_term)
                broken("%s writes another entry (%llu, term %llu), behind term %llu, than was known behind "
                       "term %llu",
                       name_of(shadow), LLU(entry->index), LLU(entry->term), LLU(previous_term),
                       LLU(slot->previous_term));
}

/* ---- Orders ---- */

static void order_keep(Shadow *shadow, Order order) {
        Order *kept = malloc(sizeof(Order));
        assert(kept);
        *kept = order;
        DL_APPEND(shadow->orders, kept);
        image_take(&shadow->view, kept);
}

static void orders_forget(Shadow *shadow) {
        Order *order, *next;
        DL_FOREACH_SAFE (shadow->orders, order, next) {
                DL_DELETE(shadow->orders, order);
                free(order->terms);
                free(order);
        }
}

static void conf_written(Shadow *shadow, uint64_t index) {
        memmove(shadow->confs + 1, shadow->confs, sizeof(shadow->confs) - sizeof(uint64_t));
        shadow->confs[0] = index;
}

static void is_gone(void *p, uint64_t life) {
        SimHost *host = p;
        if (host->life != life || !host->agent)
                return;
        host_kill(host, false);
        host_restart_at(host, world.now + between(10, 3000) * MSEC);
}

/* The process may end between any two of its effects: nothing that comes after one leaves it. */
static void effect(SimHost *host) {
        if (host->die_in == 0 || host->dying || --host->die_in > 0)
                return;
        host->dying = host->disk_fails = true;
        simdisk_die_at(host->disk, 0);
        at(world.now, is_gone, host, host->life);
}

int __wrap_log_submit(Log *log, const LogBatch *batch) {
        Shadow *shadow = shadow_of_log(log);
        if (shadow)
                effect(world.hosts[shadow - shadows]);
        int r = __real_log_submit(log, batch);
        if (r < 0 || !shadow)
                return r;

        Order order = {
                .seq = batch->seq,
                .truncate_from = batch->truncate_from,
                .n = batch->n_entries,
                .hard = batch->hard_state,
                .term = batch->term,
                .vote = batch->vote,
        };
        if (batch->hard_state && (batch->term < shadow->view.term ||
                                  (batch->term == shadow->view.term && shadow->view.vote != 0 &&
                                   batch->vote != shadow->view.vote)))
                broken("%s stores term %llu, vote %016llx behind term %llu, vote %016llx", name_of(shadow),
                       LLU(batch->term), LLU(batch->vote), LLU(shadow->view.term), LLU(shadow->view.vote));
        if (batch->truncate_from != 0) {
                shadow->view.last = MIN(shadow->view.last, batch->truncate_from - 1);
                while (shadow->confs[0] >= batch->truncate_from) {
                        SIM_SEEN("configuration cut off");
                        memmove(shadow->confs, shadow->confs + 1, sizeof(shadow->confs) - sizeof(uint64_t));
                        shadow->confs[ELEMENTSOF(shadow->confs) - 1] = 0;
                }
        }
        if (batch->n_entries > 0) {
                order.first = batch->entries[0]->index;
                order.terms = calloc(batch->n_entries, sizeof(uint64_t));
                assert(order.terms);
                if (order.first != shadow->view.last + 1)
                        broken("%s stores entries from %llu behind %llu", name_of(shadow), LLU(order.first),
                               LLU(shadow->view.last));
        }
        const SimHost *host = world.hosts[shadow - shadows];
        bool in = host_is_in(host) && !host->agent->host.switching[0];
        uint64_t previous = image_term(&shadow->view, order.first - 1);
        for (size_t i = 0; i < batch->n_entries; i++) {
                const Entry *entry = batch->entries[i];
                if (in)
                        learn(shadow, entry, previous);
                if (entry->type == ENTRY_CONF)
                        conf_written(shadow, entry->index);
                previous = order.terms[i] = entry->term;
        }
        order_keep(shadow, order);
        return r;
}

/* A base never forgets term or vote, rests on a durable tree, and spends the vote of its own term: its
 * entries prove that somebody leads there (but for a tree of another cluster, whose terms are others). */
int __wrap_log_submit_base(Log *log, uint64_t seq, uint64_t index, uint64_t term, const Conf *conf,
                           uint64_t conf_index, uint64_t hard_term, uint64_t hard_vote) {
        Shadow *shadow = shadow_of_log(log);
        if (shadow) {
                const Image *view = &shadow->view;
                const SimHost *host = world.hosts[shadow - shadows];
                bool other = !host->agent || !host_is_in(host) || host->agent->host.switching[0];
                if (hard_term < term || (hard_term == term && hard_term > view->term && hard_vote == 0))
                        broken("%s makes a base at (%llu, term %llu), but its term is %llu, its vote %016llx",
                               name_of(shadow), LLU(index), LLU(term), LLU(hard_term), LLU(hard_vote));
                if (!other && (hard_term < view->term ||
                               (hard_term == view->term && view->vote != 0 && hard_vote != view->vote)))
                        broken("%s makes a base and forgets term %llu, vote %016llx for term %llu, vote "
                               "%016llx",
                               name_of(shadow), LLU(view->term), LLU(view->vote), LLU(hard_term),
                               LLU(hard_vote));
                /* With 0 a checkpoint at the start found no room; the file was synced before it had its
                 * name. */
                TreeStatus tree = {};
                if (host->agent && host->agent->tree)
                        tree_status(host->agent->tree, &tree);
                if (tree.durable != 0 && index > tree.durable)
                        broken("%s makes a base at %llu of a tree that is durable up to %llu",
                               name_of(shadow), LLU(index), LLU(tree.durable));
                if (term > view->term && !other)
                        SIM_SEEN("base raises the term");
                if (image_term(view, index) != term && view->last > index)
                        SIM_SEEN("base beside a longer tail");
                if (index > view->base_index && index < view->last && image_term(view, index) == term)
                        SIM_SEEN("base keeps a tail");
        }
        int r = __real_log_submit_base(log, seq, index, term, conf, conf_index, hard_term, hard_vote);
        if (r >= 0 && shadow)
                order_keep(shadow, (Order){.seq = seq,
                                           .base = true,
                                           .base_index = index,
                                           .base_term = term,
                                           .hard = true,
                                           .term = hard_term,
                                           .vote = hard_vote});
        return r;
}

int __wrap_log_completed(Log *log, uint64_t *ret_seq, bool *ret_full) {
        int r = __real_log_completed(log, ret_seq, ret_full);
        Shadow *shadow = shadow_of_log(log);
        if (r < 0 || !shadow)
                return r;
        while (shadow->orders && shadow->orders->seq <= *ret_seq) {
                Order *order = shadow->orders;
                image_take(&shadow->durable, order);
                DL_DELETE(shadow->orders, order);
                free(order->terms);
                free(order);
        }
        return r;
}

/* ---- A start ---- */

static void compare_start(Shadow *shadow, const Image *found) {
        const Image *durable = &shadow->durable;
        uint64_t need = durable->last, term = durable->term, vote = durable->vote;
        for (const Order *order = shadow->orders; order; order = order->next) {
                if (order->base) {
                        need = 0;
                        if (order->term <= term)
                                term = order->term, vote = 0;
                }
                if (order->truncate_from != 0)
                        need = MIN(need, order->truncate_from - 1);
        }
        if (found->term < term || (found->term == term && vote != 0 && found->vote != vote))
                broken("%s starts with term %llu, vote %016llx; durable were term %llu, vote %016llx",
                       name_of(shadow), LLU(found->term), LLU(found->vote), LLU(term), LLU(vote));
        for (uint64_t i = MAX(durable->base_index, found->base_index) + 1; i <= need; i++)
                if (image_term(found, i) != image_term(durable, i))
                        broken("%s starts with term %llu at %llu (log ends at %llu); durable was term %llu",
                               name_of(shadow), LLU(image_term(found, i)), LLU(i), LLU(found->last),
                               LLU(image_term(durable, i)));
}

int __wrap_log_open(Log **ret, const LogOptions *options, const uint8_t nonce[static 16]) {
        int r = __real_log_open(ret, options, nonce);
        if (r != 0 && r != LOG_ROTTEN)
                return r;

        Shadow *shadow = NULL;
        for (unsigned i = 0; i < world.n_hosts; i++)
                if ((world.hosts[i]->door ?: simdisk_disk(world.hosts[i]->disk)) == options->disk)
                        shadow = &shadows[i];
        if (!shadow)
                return r;
        Image found = {};
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (shadows[i].log == *ret)
                        shadows[i].log = NULL; /* of a process that is gone */
        if (world.aside)
                world.aside(true);
        bool whole = image_load(&found, *ret) >= 0 && r == 0;
        if (world.aside)
                world.aside(false);
        if (whole && !forgiven[shadow - shadows] && !world.hosts[shadow - shadows]->touched)
                compare_start(shadow, &found);
        forgiven[shadow - shadows] = false;
        shadow->log = *ret;
        orders_forget(shadow);
        free(shadow->durable.terms);
        shadow->durable = found;
        image_copy(&shadow->view, &found);
        memset(shadow->confs, 0, sizeof(shadow->confs));
        return r;
}

/* The shadow's word against the disk's: what would be there if the power went now. */
static void compare_disk(SimHost *host, Shadow *shadow) {
        static const uint8_t nonce[16];
        static const uint64_t sparse = 64;
        if (++n_promises < next_sample || host->disk_fails || host->touched || forgiven[host->i])
                return;
        next_sample = n_promises + sparse + simdisk_used(host->disk) / 512;
        n_samples++;

        SimDisk *copy = simdisk_copy(host->disk);
        LogOptions options = {
                .disk = simdisk_disk(copy), .segment_bytes = 256 * 1024, .mark_delay_usec = 100 * MSEC};
        Log *log = NULL;
        Image found = {};
        int r = __real_log_open(&log, &options, nonce);
        if (r != 0 || image_load(&found, log) < 0)
                broken("%s: what is durable of its log does not open (%d)", host->name, r);
        compare_start(shadow, &found);
        free(found.terms);
        log_abandon(log);
        simdisk_free(copy);
}

/* ---- Letters ---- */

static void check_vote(SimHost *host, Shadow *shadow, const RaftMessage *m, uint64_t candidate) {
        const Image *durable = &shadow->durable;
        if (durable->term != m->term || durable->vote != candidate)
                broken("%s %s in term %llu, but durable are term %llu and vote %016llx", host->name,
                       m->type == RAFT_VOTE ? "asks for votes" : "votes", LLU(m->term), LLU(durable->term),
                       LLU(durable->vote));
        if (m->type == RAFT_VOTE && !image_has(durable, m->log_index, m->log_term))
                broken("%s boasts of (%llu, term %llu), which is not durable", host->name, LLU(m->log_index),
                       LLU(m->log_term));

        shadow->votes = room_for(shadow->votes, &shadow->n_votes, m->term);
        uint64_t *vote = &shadow->votes[m->term];
        if (*vote != 0 && *vote != candidate)
                broken("%s votes twice in term %llu: for %016llx and for %016llx", host->name, LLU(m->term),
                       LLU(*vote), LLU(candidate));
        *vote = candidate;
}

static void check_ack(SimHost *host, Shadow *shadow, const RaftMessage *m) {
        const Image *durable = &shadow->durable;
        if (durable->term != m->term)
                broken("%s acknowledges in term %llu, but durable is term %llu", host->name, LLU(m->term),
                       LLU(durable->term));
        if (durable->last < m->match)
                broken("%s acknowledges %llu, but durable is %llu", host->name, LLU(m->match),
                       LLU(durable->last));
        SimHost *leader = host_of(m->to);
        if (!leader || !leader->agent || leader->agent->raft_status.role != RAFT_LEADER ||
            leader->agent->raft_status.term != m->term)
                return;
        const Image *view = &shadows[leader->i].view;
        if (m->match > view->base_index && m->match > durable->base_index && m->match <= view->last &&
            image_term(view, m->match) != image_term(durable, m->match))
                broken("%s acknowledges %llu of term %llu; %s leads and has term %llu there", host->name,
                       LLU(m->match), LLU(image_term(durable, m->match)), leader->name,
                       LLU(image_term(view, m->match)));
}

static void check_lead(SimHost *host, Shadow *shadow, const RaftMessage *m) {
        const Image *durable = &shadow->durable;
        if (durable->term != m->term || durable->last < m->match)
                broken("%s leads term %llu and says that %llu is on its disk; it holds term %llu, up to %llu",
                       host->name, LLU(m->term), LLU(m->match), LLU(durable->term), LLU(durable->last));
}

#define STORM 200 /* a second */

/* Letters that nobody's wish made: one that makes an answer that makes one has no end. */
static void check_storm(const SimHost *host, const SimHost *to, LetterKind kind) {
        static struct {
                uint64_t second;
                unsigned n;
        } sent[HOSTS_MAX][HOSTS_MAX][LETTER_HEAL + 1];
        if (!to || kind == LETTER_RAFT || kind == LETTER_OFFER || kind == LETTER_OFFER_REFUSED ||
            kind == LETTER_READ || kind == LETTER_READ_REPLY || (size_t)kind >= ELEMENTSOF(sent[0][0]))
                return;
        typeof(sent[0][0][0]) *these = &sent[host->i][to->i][kind];
        if (these->second != world.now / SEC) {
                these->second = world.now / SEC;
                these->n = 0;
        }
        if (++these->n > STORM)
                broken("%s sends %s more than %d letters of kind %d in a second", host->name, to->name,
                       STORM, kind);
}

int __wrap_hall_send(Agent *agent, uint64_t to, const Letter *letter) {
        SimHost *host = host_of_agent(agent);
        check_storm(host, host_of(to), letter->kind);
        Shadow *shadow = &shadows[host->i];
        const RaftMessage *m = &letter->raft;

        effect(host);
        if (letter->kind == LETTER_RAFT && !host->dying && host_is_in(host)) {
                bool vote = m->type == RAFT_VOTE || (m->type == RAFT_VOTE_REPLY && !m->refused);
                bool ack = m->type == RAFT_APPEND_REPLY && !m->refused;
                if (vote && agent->damaged)
                        broken("%s is damaged and votes", host->name);
                if (vote)
                        check_vote(host, shadow, m, m->type == RAFT_VOTE ? host->id : m->to);
                if (ack)
                        check_ack(host, shadow, m);
                if (m->type == RAFT_BEAT || m->type == RAFT_APPEND)
                        check_lead(host, shadow, m);
                if (vote || ack)
                        compare_disk(host, shadow);
        }
        return __real_hall_send(agent, to, letter);
}

/* ---- Reads ---- */

int __wrap_raft_read(Raft *raft, uint64_t id, uint64_t now_usec) {
        int r = __real_raft_read(raft, id, now_usec);
        for (unsigned i = 0; r == 0 && i < world.n_hosts; i++) {
                SimHost *host = world.hosts[i];
                if (!host->agent || host->agent->raft != raft || !host_is_in(host))
                        continue;
                Asked *asked = NULL;
                HASH_FIND(hh, shadows[i].asked, &id, sizeof(id), asked);
                if (!asked) {
                        asked = calloc(1, sizeof(Asked));
                        assert(asked);
                        asked->id = id;
                        HASH_ADD(hh, shadows[i].asked, id, sizeof(asked->id), asked);
                }
                asked->committed = agreed_max;
                asked->life = host->life;
        }
        return r;
}

void __wrap_reads_done(Agent *agent, const RaftReadDone *done) {
        SimHost *host = host_of_agent(agent);
        Shadow *shadow = &shadows[host->i];
        Asked *asked = NULL;
        HASH_FIND(hh, shadow->asked, &done->id, sizeof(done->id), asked);
        if (asked) {
                /* An id of an earlier process, whose disk was wiped since, asks in another cluster now. */
                if (!done->lost && asked->life == host->life && done->index < asked->committed)
                        broken("%s lets a read pass at %llu; when it was asked, %llu was committed",
                               host->name, LLU(done->index), LLU(asked->committed));
                HASH_DEL(shadow->asked, asked);
                free(asked);
        }
        if (done->lost)
                SIM_SEEN("reads lost with the leadership");
        __real_reads_done(agent, done);
}

static void asked_forget(Shadow *shadow) {
        Asked *asked, *next;
        HASH_ITER (hh, shadow->asked, asked, next) {
                HASH_DEL(shadow->asked, asked);
                free(asked);
        }
}

/* ---- Requests ---- */

void __wrap_requests_applied(Agent *agent, uint64_t serial, const Result *result) {
        const SimHost *host = host_of_agent(agent);
        for (const Request *request = agent->requests.offered;
             result->status != RESULT_STALE && request && request->serial < serial; request = request->next)
                if (request->state == REQUEST_OFFERED)
                        broken("%s: its request %llu applies while %llu waits, which never can any more",
                               host->name, LLU(serial), LLU(request->serial));
        __real_requests_applied(agent, serial, result);
}

/* ---- What is agreed ---- */

static void agree(SimHost *host, const Shadow *shadow, uint64_t from, uint64_t to) {
        const RaftStatus *status = &host->agent->raft_status;
        if (to >= agreed_room) {
                uint64_t room = MAX(to + 1, MAX(agreed_room * 2, UINT64_C(1024)));
                agreed = reallocarray(agreed, room, sizeof(Agreed));
                assert(agreed);
                memset(agreed + agreed_room, 0, (room - agreed_room) * sizeof(Agreed));
                agreed_room = room;
        }
        for (uint64_t i = from; i <= to; i++) {
                uint64_t term = image_term(&shadow->view, i);
                if (term == 0)
                        continue;
                if (agreed[i].term == 0)
                        agreed[i] = (Agreed){.term = term, .in_term = status->term};
                else if (agreed[i].term != term)
                        broken("%s takes (%llu, term %llu) for committed; it was term %llu", host->name,
                               LLU(i), LLU(term), LLU(agreed[i].term));
        }
        agreed_max = MAX(agreed_max, to);
}

static unsigned copies(const ConfVoter *voters, uint32_t n, uint64_t index, uint64_t term) {
        unsigned found = 0;
        for (uint32_t i = 0; i < n; i++) {
                SimHost *host = host_of(voters[i].id);
                found += !host || image_has(&shadows[host->i].durable, index, term);
        }
        return found;
}

static void check_leader(SimHost *host, Shadow *shadow) {
        const RaftStatus *status = &host->agent->raft_status;
        if (status->role != RAFT_LEADER)
                return;
        if (shadow->led_term != status->term) {
                shadow->led_term = status->term;
                shadow->led_commit = status->commit;
                if (anybody_forgiven())
                        return;
                for (uint64_t i = shadow->view.base_index + 1; i <= agreed_max; i++)
                        if (agreed[i].term != 0 && agreed[i].in_term < status->term &&
                            !image_has(&shadow->view, i, agreed[i].term))
                                broken("%s leads term %llu without (%llu, term %llu), committed in term %llu",
                                       host->name, LLU(status->term), LLU(i), LLU(agreed[i].term),
                                       LLU(agreed[i].in_term));
        }
        unsigned open = 0;
        for (unsigned i = 0; i < ELEMENTSOF(shadow->confs); i++)
                open += shadow->confs[i] > status->commit && shadow->confs[i] <= shadow->view.last;
        if (open > 1)
                broken("%s leads with %u uncommitted configurations", host->name, open);
        if (status->commit <= shadow->led_commit)
                return;
        shadow->led_commit = status->commit;
        uint64_t term = image_term(&shadow->view, status->commit);
        if (term != status->term)
                broken("%s, leader of term %llu, commits %llu of term %llu", host->name, LLU(status->term),
                       LLU(status->commit), LLU(term));
        const Conf *conf = status->conf;
        if (anybody_forgiven() || status->conf_index > status->commit)
                return;
        if (copies(conf->voters, conf->n_voters, status->commit, term) * 2 <= conf->n_voters ||
            (conf->n_old > 0 && copies(conf->old, conf->n_old, status->commit, term) * 2 <= conf->n_old))
                broken("%s commits %llu, which is not durable on a majority", host->name,
                       LLU(status->commit));
}

static const char *bounds_of_hall(const Agent *agent) {
        const Requests *requests = &agent->requests;
        uint64_t first = requests->offered ? requests->offered->serial : requests->next_serial;
        if (requests->n > 4 * LIMIT_SERIALS + 64 || requests->next_serial - first > LIMIT_SERIALS)
                return "requests";
        if (requests->bytes > LIMIT_REQUEST_BYTES + LIMIT_COMMAND_BYTES)
                return "bytes of requests";
        if (requests->n_decided > LIMIT_KEPT)
                return "outcomes";
        if (agent->reads.n > LIMIT_PENDING_READS || agent->reads.n_questions > LIMIT_PENDING_READS)
                return "reads";
        if (agent->watches.n > LIMIT_WATCHES || agent->watches.pending)
                return "watches, or changes that they were not told";
        if (agent->sessions.n_owned > 2 * LIMIT_OWNED)
                return "owned entries";
        if (agent->follow.n_queue > FOLLOW_QUEUE ||
            agent->follow.n_bytes > FOLLOW_BYTES + LIMIT_LETTER_BYTES)
                return "entries followed";
        if (agent->follow.n_followers > LIMIT_MEMBERS || agent->snapshots.n_sends > 4)
                return "followers and snapshots";
        if (agent->heal.n_queue > HEAL_QUEUE || agent->scrub.n_orders > 64 || agent->roles.n_removals > 64)
                return "work ordered";
        return bounds_of_core(agent->raft);
}

static void check_bounds(const SimHost *host) {
        const char *what = bounds_of_hall(host->agent);
        if (what)
                broken("%s: more than there may be: %s", host->name, what);
}

void promise_look(SimHost *host) {
        Shadow *shadow = &shadows[host->i];
        const Agent *agent = host->agent;
        const RaftStatus *status = &agent->raft_status;

        check_bounds(host);
        if (!host_is_in(host))
                return;
        if (shadow->id != host->id) { /* wiped and let in anew: a host that never promised anything */
                shadow->id = host->id;
                if (shadow->n_votes > 0)
                        memset(shadow->votes, 0, shadow->n_votes * sizeof(uint64_t));
        }
        if (shadow->life != host->life) {
                shadow->life = host->life;
                shadow->commit = shadow->term = shadow->led_term = 0;
                asked_forget(shadow);
        }
        if (agent->quarantined && !host->set_back)
                broken("%s is taken for a copy, and its disk is its own", host->name);
        if (status->term < shadow->term)
                broken("%s goes from term %llu back to %llu", host->name, LLU(shadow->term),
                       LLU(status->term));
        shadow->term = status->term;
        if (agent->follow.active || !status->keeps_log || agent->damaged || host->touched) {
                shadow->commit = 0;
                return;
        }
        if (status->commit < shadow->commit)
                broken("%s: commit goes from %llu back to %llu", host->name, LLU(shadow->commit),
                       LLU(status->commit));
        if (status->commit > shadow->commit)
                agree(host, shadow, MAX(shadow->commit, shadow->view.base_index) + 1,
                      MIN(status->commit, shadow->view.last));
        shadow->commit = status->commit;
        check_leader(host, shadow);
}

void promise_tell(void) {
        note("%llu promises, %llu compared with the disk, %zu entries", LLU(n_promises), LLU(n_samples),
             n_known);
}
