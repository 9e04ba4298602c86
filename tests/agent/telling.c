/* What a story tells: what the hosts say, and what is seen of them after each step of the world: who leads,
 * who votes, who is well. Names stand in place of ids, which are random. */
#include "story.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

Story story;

/* ---- Telling ---- */

void _printf_(1, 2) tell(const char *format, ...) {
        if (story.quiet)
                return;
        va_list ap;
        va_start(ap, format);
        fputs("  ", story.out);
        vfprintf(story.out, format, ap);
        fputc('\n', story.out);
        va_end(ap);
}

const char *name_of(uint64_t id) {
        SimHost *host = id ? host_of(id) : NULL;
        return host ? host->name : "nobody";
}

/* Names in place of ids, which are random. */
void said(SimHost *host, int level, const char *text) {
        char line[600] = "";
        size_t n = 0;
        if (level > 4) /* warning */
                return;
        while (*text && n < sizeof(line) - 40) {
                size_t skip = strlen(world.directory);
                if (strncmp(text, world.directory, skip) == 0) { /* another with each run */
                        text += skip + 1;
                        continue;
                }
                if (strncmp(text, "/tree-", 6) == 0 && strspn(text + 6, "0123456789abcdef") == 16) {
                        n += (size_t)snprintf(line + n, sizeof(line) - n, "/tree-….db");
                        text += strlen("/tree-0000000000000000-00000000.db");
                        continue;
                }
                uint64_t id =
                        strspn(text, "0123456789abcdef") >= 16
                                ? strtoull((char[17]){text[0], text[1], text[2], text[3], text[4], text[5],
                                                      text[6], text[7], text[8], text[9], text[10], text[11],
                                                      text[12], text[13], text[14], text[15]},
                                           NULL, 16)
                                : 0;
                if (id && host_of(id)) {
                        n += (size_t)snprintf(line + n, sizeof(line) - n, "%s", name_of(id));
                        text += 16;
                } else
                        line[n++] = *text++;
        }
        line[n] = 0;
        tell("%s says: %s", host->name, line);
}

static int compare_voters(const void *a, const void *b) {
        return strcmp(name_of(((const ConfVoter *)a)->id), name_of(((const ConfVoter *)b)->id));
}

static size_t print_voters(char *to, size_t room, const ConfVoter *voters, uint32_t n) {
        ConfVoter sorted[LIMIT_VOTERS];
        memcpy(sorted, voters, n * sizeof(ConfVoter));
        qsort(sorted, n, sizeof(ConfVoter), compare_voters);
        size_t at = (size_t)snprintf(to, room, "{");
        for (uint32_t i = 0; i < n; i++)
                at += (size_t)snprintf(to + at, room - at, "%s%s", i > 0 ? "," : "", name_of(sorted[i].id));
        return at + (size_t)snprintf(to + at, room - at, "}");
}

const char *conf_text(const Conf *conf) {
        static char text[200];
        size_t n = print_voters(text, sizeof(text), conf->voters, conf->n_voters);
        if (conf_is_joint(conf)) {
                n += (size_t)snprintf(text + n, sizeof(text) - n, " jointly with ");
                print_voters(text + n, sizeof(text) - n, conf->old, conf->n_old);
        }
        return text;
}

static bool conf_differs(const Conf *a, const Conf *b) {
        bool differs = a->n_voters != b->n_voters || a->n_old != b->n_old;
        for (uint32_t i = 0; i < a->n_voters && !differs; i++)
                differs = a->voters[i].id != b->voters[i].id;
        return differs;
}

/* ---- Looking ---- */

static void look_at_role(SimHost *host, const Agent *agent, Seen *seen) {
        const RaftStatus *status = &agent->raft_status;
        bool leads = status->role == RAFT_LEADER;

        if (leads && (!seen->leads || status->term != seen->term))
                tell("%s leads", host->name);
        if (!leads && seen->leads)
                tell("%s leads no more", host->name);
        if (leads && status->conf_committed && conf_differs(status->conf, &seen->conf))
                tell("%s: voters are %s", host->name, conf_text(status->conf));
        if (leads && !status->conf_committed && conf_differs(status->conf, &seen->conf))
                tell("%s: voters become %s", host->name, conf_text(status->conf));
        bool observer = agent->follow.active && !seen->out;
        if (observer != seen->observer)
                tell("%s %s", host->name, observer ? "follows as an observer" : "follows no more");
        seen->leads = leads;
        seen->observer = observer;
        seen->term = status->term;
        seen->conf = *status->conf;
}

static void look_at_health(SimHost *host, const Agent *agent, Seen *seen) {
        AgentStatus status;
        agent_status(host->agent, &status);
        bool out = status.role == AGENT_REMOVED, fetching = snapshot_fetching(agent);

        if (agent_ready(agent) != seen->ready)
                tell("%s %s", host->name, seen->ready ? "lets nobody read" : "lets its tree be read");
        if (fetching != seen->fetching && fetching)
                tell("%s fetches a snapshot", host->name);
        if (fetching != seen->fetching && !fetching)
                tell("%s has done with the snapshot", host->name);
        if (agent->disk_full != seen->full)
                tell("%s: %s", host->name, agent->disk_full ? "disk full" : "there is room again");
        if (agent->damaged != seen->damaged)
                tell("%s: its log is %s", host->name, agent->damaged ? "damaged" : "whole again");
        if (out != seen->out)
                tell("%s is %s", host->name, out ? "out of the cluster" : "in a cluster again");
        if (agent->sessions.generation > seen->generation)
                tell("%s: session generation %" PRIu64, host->name, agent->sessions.generation);
        seen->ready = agent_ready(agent);
        seen->fetching = fetching;
        seen->full = agent->disk_full;
        seen->damaged = agent->damaged;
        seen->out = out;
        seen->generation = MAX(seen->generation, agent->sessions.generation);
}

static void look(SimHost *host) {
        Seen *seen = &story.seen[host->i];
        if (!host->agent || host->life != story.life[host->i]) {
                *seen = (Seen){.in = seen->in, .generation = seen->generation, .observer = seen->observer};
                story.life[host->i] = host->life;
        }
        if (!host->agent || !(host_is_in(host) || seen->in))
                return;
        seen->in = true;
        look_at_role(host, host->agent, seen);
        look_at_health(host, host->agent, seen);
}

bool step(uint64_t until) {
        bool more = happen_next(until);
        for (unsigned i = 0; i < world.n_hosts; i++)
                look(world.hosts[i]);
        return more;
}

void run_for(uint64_t usec) {
        for (uint64_t until = world.now + usec; step(until);)
                ;
}

bool run_until(const bool *is) {
        for (uint64_t until = world.now + WAIT_USEC; !*is && world.now < until;)
                (void)step(until);
        return *is;
}

/* ---- What the simulation's clients would do ---- */

void tell_watch_end(SimHost *host) {
        if (story.watch[host->i])
                story.watch[host->i] = watch_free(story.watch[host->i]);
}

void clients_wiped(SimHost *host) {
}

void clients_killed(SimHost *host) {
        tell_watch_end(host);
}

void clients_own(SimHost *host) {
}

void clients_changed(const Change *change) {
}

void clients_look(SimHost *host) {
}

/* A story is repeated by its name, and adds up to nothing. */
int run_command(const Run *run, char *to, size_t room) {
        return snprintf(to, room, "hall-story STORY");
}

void batch_add(void) {
}
