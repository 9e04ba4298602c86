/* Are the trees still the same? Now and then the leader has a *check* entry committed. It changes nothing;
 * each host takes its tree's digest as of it, and each voter tells everybody what it got. What a majority of
 * the voters says is right, whoever leads: a host that got something else, the leader too, has a bad tree
 * and fetches another (heal.c). When no digest can have a majority any more, nobody can be believed: that is
 * an alarm and nothing else, for to fetch would be to choose blindly.
 *
 * A check is proposed after so many entries, or some time after the last change; an idle cluster writes
 * nothing. Whoever takes its tree over a check in a snapshot has nothing to compare; the next will do. */
#include "hall.h"
#include "base/seen.h"

#include <string.h>

#define DIVERGED_ID   "5e0d6c1f7a924d3b8c4e9b2f61a7d804" /* units/treaty.catalog */
#define CHECK_ENTRIES 10000u
#define CHECK_USEC    (60 * USEC_PER_SEC)
#define AGAIN_USEC    (10 * USEC_PER_SEC)  /* a proposal that came to nothing */
#define LATE_USEC     (600 * USEC_PER_SEC) /* so long without a comparison is said */

/* ---- The verdict: pure ---- */

typedef struct Count {
        unsigned mine, best_other, missing, best;
        uint8_t other[16];
} Count;

static const CheckReport *report_of(const CheckReport *reports, size_t n, uint64_t host, uint64_t index) {
        for (size_t i = 0; i < n; i++)
                if (reports[i].host == host && reports[i].index == index)
                        return &reports[i];
        return NULL;
}

static Count count_voters(const ConfVoter *voters, uint32_t n_voters, const CheckReport *reports, size_t n,
                          uint64_t index, const uint8_t mine[static 16]) {
        Count count = {};
        for (uint32_t i = 0; i < n_voters; i++) {
                const CheckReport *report = report_of(reports, n, voters[i].id, index);
                unsigned same = 0;
                if (!report) {
                        count.missing++;
                        continue;
                }
                for (uint32_t k = 0; k < n_voters; k++) {
                        const CheckReport *also = report_of(reports, n, voters[k].id, index);
                        same += also && memcmp(also->digest, report->digest, 16) == 0;
                }
                count.best = MAX(count.best, same);
                if (memcmp(report->digest, mine, 16) == 0)
                        count.mine = same;
                else if (same > count.best_other) {
                        count.best_other = same;
                        memcpy(count.other, report->digest, 16);
                }
        }
        return count;
}

/* `reports` holds the own one too, when this host votes. While the voters change it waits: two majorities
 * could say two things. */
CheckVerdict check_verdict(const Conf *conf, const CheckReport *reports, size_t n, uint64_t index,
                           const uint8_t mine[static 16], uint8_t ret_right[static 16]) {
        if (conf_is_joint(conf) || conf->n_voters == 0)
                return CHECK_WAITS;
        unsigned majority = conf->n_voters / 2 + 1;
        Count count = count_voters(conf->voters, conf->n_voters, reports, n, index, mine);

        memcpy(ret_right, mine, 16);
        if (count.mine >= majority)
                return CHECK_AGREES;
        if (count.best_other >= majority) {
                memcpy(ret_right, count.other, 16);
                return CHECK_DIVERGES;
        }
        return count.best + count.missing < majority ? CHECK_UNDECIDABLE : CHECK_WAITS;
}

/* ---- What was heard ---- */

static void keep_report(Checks *checks, uint64_t host, uint64_t index, const uint8_t digest[static 16]) {
        size_t oldest = 0, oldest_own = 0, n_own = 0;
        for (size_t i = 0; i < ELEMENTSOF(checks->reports); i++) {
                CheckReport *report = &checks->reports[i];
                if (report->host == host && report->index == index)
                        return; /* a second word about the same is not heard */
                if (report->index < checks->reports[oldest].index)
                        oldest = i;
                if (report->host == host &&
                    (n_own++ == 0 || report->index < checks->reports[oldest_own].index))
                        oldest_own = i;
        }
        if (n_own >= CHECK_SHARE) /* nobody takes the places of others, whatever he makes up */
                oldest = oldest_own;
        if (index < checks->reports[oldest].index)
                return;
        checks->reports[oldest] = (CheckReport){.host = host, .index = index};
        memcpy(checks->reports[oldest].digest, digest, 16);
}

static bool is_own_check(const Checks *checks, uint64_t index) {
        return checks->own[0].index == index || checks->own[1].index == index;
}

static void compared(Agent *agent, const CheckReport *own, const uint8_t right[static 16]) {
        Checks *checks = &agent->checks;
        checks->compared_index = own->index;
        checks->compared_usec = agent->now_usec;
        memcpy(checks->right, right, sizeof(checks->right));
        if (TAKE_FLAG(checks->alarm)) {
                agent->status_dirty = true;
                report_say(&agent->report, LOG_NOTICE,
                           "A majority of the voters has equal trees again (index %llu).",
                           (unsigned long long)own->index);
        }
        checks->late_said = false;
}

static void compare(Agent *agent, const CheckReport *own) {
        Checks *checks = &agent->checks;
        uint8_t right[16];

        if (own->index <= checks->compared_index || agent->heal.bad || agent->heal.suspect)
                return;
        switch (check_verdict(&agent->tree_status.conf, checks->reports, ELEMENTSOF(checks->reports),
                              own->index, own->digest, right)) {
        case CHECK_WAITS:
                return;
        case CHECK_AGREES:
                compared(agent, own, right);
                return;
        case CHECK_DIVERGES:
                SIM_SEEN("check: a majority has another tree");
                compared(agent, own, right);
                heal_suspect(agent, false, "a majority of the voters has another tree than this host");
                return;
        case CHECK_UNDECIDABLE:
                if (checks->alarm_index == own->index)
                        return;
                checks->alarm_index = own->index;
                checks->alarm = agent->status_dirty = true;
                report_alarm(
                        &agent->report, DIVERGED_ID,
                        "The voters' trees differ at index %llu and no two majorities agree: nobody can tell which is right. "
                        "Nothing is changed. Compare the hosts (\"treatyctl list\" on each), decide on one, and let the "
                        "others join anew.",
                        (unsigned long long)own->index);
                return;
        }
}

static void compare_all(Agent *agent) {
        for (size_t i = 0; i < ELEMENTSOF(agent->checks.own); i++)
                if (agent->checks.own[i].index != 0)
                        compare(agent, &agent->checks.own[i]);
}

/* A voter that is known to have a tree that the majority does not: nothing is fetched from it. */
bool checks_host_is_bad(const Agent *agent, uint64_t host) {
        const Checks *checks = &agent->checks;
        const CheckReport *report =
                report_of(checks->reports, ELEMENTSOF(checks->reports), host, checks->compared_index);
        return report && checks->compared_index != 0 && memcmp(report->digest, checks->right, 16) != 0;
}

void checks_reported(Agent *agent, uint64_t host, const LetterReport *report) {
        if (!conf_is_voter(&agent->tree_status.conf, host))
                return;
        keep_report(&agent->checks, host, report->index, report->digest);
        if (is_own_check(&agent->checks, report->index))
                compare_all(agent);
        else
                SIM_SEEN("check: a report before its check was applied here, or after it was forgotten");
}

/* ---- The entry ---- */

static void tell(Agent *agent, const CheckReport *own) {
        Letter letter = {.kind = LETTER_REPORT, .report = {.index = own->index}};
        memcpy(letter.report.digest, own->digest, 16);
        for (Connection *c = agent->members.connections; c; c = c->hh.next)
                if (c->hello)
                        (void)hall_send(agent, c->host, &letter);
}

void checks_applied(Agent *agent, uint64_t index) {
        Checks *checks = &agent->checks;
        TreeDigest digest;

        tree_digest(agent->tree, &digest);
        CheckReport own = {.host = agent->host.id, .index = index};
        memcpy(own.digest, digest.sum, 16);
        checks->own[0] = checks->own[1];
        checks->own[1] = own;
        checks->applied_index = index;
        checks->due_usec = agent->now_usec + CHECK_USEC;
        checks->again_usec = 0;
        if (conf_is_voter(&agent->tree_status.conf, agent->host.id)) {
                keep_report(checks, own.host, own.index, own.digest);
                tell(agent, &own);
        }
        compare_all(agent);
}

/* Changes only: the last check itself, and what nobody can read, are none. */
static void propose(Agent *agent) {
        Checks *checks = &agent->checks;
        uint64_t applied = agent->tree_status.applied;

        if (!hall_is_ready_leader(agent) || applied <= checks->applied_index) {
                checks->due_usec = agent->now_usec + CHECK_USEC;
                return;
        }
        bool due = agent->now_usec >= checks->due_usec || applied - checks->applied_index >= CHECK_ENTRIES;
        if (!due || agent->now_usec < checks->again_usec)
                return;
        checks->again_usec = agent->now_usec + AGAIN_USEC;
        Command command = {.kind = COMMAND_CHECK, .host = agent->host.id};
        (void)hall_propose_own(agent, &command);
}

static void late(Agent *agent) {
        Checks *checks = &agent->checks;

        if (checks->applied_index <= checks->compared_index || agent->heal.bad)
                checks->compared_usec = agent->now_usec;
        if (agent->now_usec - checks->compared_usec < LATE_USEC || checks->late_said)
                return;
        checks->late_said = true;
        report_say(
                &agent->report, LOG_WARNING,
                "This host's tree could not be compared with those of the voters for %u minutes: too few of them "
                "told theirs. Look at \"treatyctl members\".",
                (unsigned)(LATE_USEC / USEC_PER_SEC / 60));
}

void checks_work(Agent *agent) {
        propose(agent);
        late(agent);
}

/* Another tree: what was noted of the old one is not its word. */
void checks_rebase(Agent *agent) {
        Checks *checks = &agent->checks;
        if (checks->own[1].index != 0)
                SIM_SEEN("check: the tree whose digest was noted is replaced");
        memset(checks->own, 0, sizeof(checks->own));
        for (size_t i = 0; i < ELEMENTSOF(checks->reports); i++)
                if (checks->reports[i].host == agent->host.id)
                        checks->reports[i] = (CheckReport){};
}
