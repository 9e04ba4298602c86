/* What a host owns: entries that live as long as who wanted them, each with its owner's tag ("fd:…",
 * "unit:…"). They belong to the host's session: when that begins anew, so do they; whose owner is gone is
 * deleted at once.
 *
 *      WANTED ──▶ WRITING ──▶ LIVE       the tree is made to hold it; a wish that fails is tried again
 *         └──────────┴──────────┴──▶ ENDING ──▶ DELETING ──▶ gone */
#include "hall.h"
#include "base/seen.h"

#include <stdio.h>
#include <string.h>

#define RETRY_USEC (500 * USEC_PER_MSEC)

static Owned *owned_find(Agent *agent, const char *path) {
        Owned *owned;
        DL_FOREACH (agent->sessions.owned, owned)
                if (strcmp(owned->path, path) == 0 && owned->state != OWNED_ENDING &&
                    owned->state != OWNED_DELETING)
                        return owned;
        return NULL;
}

static void owned_answer(Owned *owned, Answer answer, const Result *result) {
        RequestDone done = TAKE(owned->done);
        RequestAnswer reply = {.answer = answer, .result = *result};
        if (done)
                done(&reply, owned->userdata);
}

static void owned_free(Owned *owned) {
        Sessions *sessions = &owned->agent->sessions;
        DL_DELETE(sessions->owned, owned);
        sessions->n_owned--;
        request_forget(owned->request);
        free(owned->value);
        free(owned);
}

static void owned_written(const RequestAnswer *answer, void *userdata) {
        Owned *owned = userdata;
        Agent *agent = owned->agent;

        owned->request = NULL;
        if (owned->state == OWNED_ENDING) /* its owner went while it was being written */
                return;
        if (answer->answer == ANSWER_DONE) {
                owned->state = OWNED_LIVE;
                owned_answer(owned, ANSWER_DONE, &answer->result);
                return;
        }
        bool final = answer->answer == ANSWER_REFUSED &&
                     (answer->result.status == RESULT_DENIED || answer->result.status == RESULT_LIMIT ||
                      answer->result.status == RESULT_INVALID);
        if ((final || agent->now_usec >= owned->deadline_usec) && owned->done) {
                SIM_SEEN("session: owning was refused");
                owned->state = OWNED_ENDING; /* the caller is told no: it must not come to be later */
                owned->retry_usec = 0;
                owned_answer(owned, answer->answer, &answer->result);
                return;
        }
        owned->state = OWNED_WANTED;
        owned->retry_usec = agent->now_usec + 100 * USEC_PER_MSEC;
}

/* It ended before it could replace what an earlier process of this host had left at its path, and nobody
 * else knows of that: it goes with it. */
static bool owned_left_behind(Owned *owned) {
        Agent *agent = owned->agent;
        TreeEntry entry;

        if (owned_find(agent, owned->path) || tree_get(agent->tree, owned->path, &entry) != 0 ||
            entry.owner_host != agent->host.id || entry.owner_generation != agent->sessions.generation)
                return false;
        snprintf(owned->tag, sizeof(owned->tag), "%s", entry.owner_tag ?: "");
        return true;
}

static void owned_deleted(const RequestAnswer *answer, void *userdata) {
        Owned *owned = userdata;
        Agent *agent = owned->agent;

        owned->request = NULL;
        if (answer->answer == ANSWER_REFUSED && answer->result.status == RESULT_CONFLICT &&
            owned_left_behind(owned)) {
                owned->state = OWNED_ENDING;
                owned->retry_usec = 0;
                return;
        }
        if (answer->answer == ANSWER_DONE || answer->answer == ANSWER_REFUSED) {
                owned_free(owned);
                agent->sessions.work = true; /* somebody may wait for the path */
                hall_wake(agent);
                return;
        }
        owned->state = OWNED_ENDING;
        owned->retry_usec = agent->now_usec + RETRY_USEC;
}

/* The same path is on its way out on behalf of an owner that went: what stands there now is about to go. */
static bool path_is_ending(const Owned *owned) {
        const Owned *other;
        DL_FOREACH (owned->agent->sessions.owned, other)
                if ((other->state == OWNED_ENDING || other->state == OWNED_DELETING) &&
                    strcmp(other->path, owned->path) == 0)
                        return true;
        return false;
}

/* Makes the entry true: nothing to do, create it, or take over what an earlier owner on this host left
 * there. */
static void owned_write(Owned *owned) {
        Agent *agent = owned->agent;
        TreeEntry entry;
        Command command = {
                .kind = COMMAND_CREATE,
                .flags = COMMAND_EPHEMERAL,
                .path = owned->path,
                .value = BYTES(owned->value, owned->value_size),
                .owner_tag = owned->tag,
        };

        if (path_is_ending(owned)) {
                SIM_SEEN("session: the path is on its way out");
                return; /* looked at again when that is done */
        }
        int r = tree_get(agent->tree, owned->path, &entry);
        if (r == 0) {
                if (entry.owner_host != agent->host.id ||
                    entry.owner_generation != agent->sessions.generation) {
                        Result exists = {.status = RESULT_EXISTS, .revision = entry.mod_revision};
                        if (owned->done && entry.owner_host != agent->host.id) {
                                owned->state = OWNED_ENDING;
                                owned_answer(owned, ANSWER_REFUSED, &exists);
                        } else
                                owned->retry_usec = agent->now_usec + RETRY_USEC;
                        return;
                }
                if (strcmp(entry.owner_tag ?: "", owned->tag) == 0 &&
                    entry.value.size == owned->value_size &&
                    (owned->value_size == 0 ||
                     memcmp(entry.value.data, owned->value, owned->value_size) == 0)) {
                        Result same = {.status = RESULT_DONE, .revision = entry.mod_revision};
                        owned->state = OWNED_LIVE;
                        owned_answer(owned, ANSWER_DONE, &same);
                        return;
                }
                SIM_SEEN("session: takes over what an earlier process left");
                command.kind = COMMAND_SET;
                command.flags |= COMMAND_IF_MOD_REVISION;
                command.revision = entry.mod_revision;
        } else if (r != TREE_NONE) {
                owned->retry_usec = agent->now_usec + RETRY_USEC;
                return;
        }

        uint64_t left = owned->deadline_usec > agent->now_usec ? owned->deadline_usec - agent->now_usec
                                                               : USEC_PER_SEC;
        if (agent_request(agent, &command, owned->done ? left : REQUEST_TIMEOUT_USEC, owned_written, owned,
                          &owned->request) == 0)
                owned->state = OWNED_WRITING;
        else
                owned->retry_usec = agent->now_usec + RETRY_USEC;
}

static void owned_delete(Owned *owned) {
        Agent *agent = owned->agent;
        Command command = {
                .kind = COMMAND_DELETE,
                .flags = COMMAND_IF_OWNED,
                .path = owned->path,
                .owner_tag = owned->tag,
        };
        if (agent_request(agent, &command, REQUEST_TIMEOUT_USEC, owned_deleted, owned, &owned->request) == 0)
                owned->state = OWNED_DELETING;
        else
                owned->retry_usec = agent->now_usec + RETRY_USEC;
}

static void look_after(Owned *owned) {
        Agent *agent = owned->agent;

        if (owned->done && !owned->request && agent->now_usec >= owned->deadline_usec) {
                owned->state = OWNED_ENDING; /* first: he who hears it may own the path anew */
                owned_answer(owned, ANSWER_NO_QUORUM, &(Result){});
        }
        if (agent->now_usec < owned->retry_usec || agent->sessions.generation == 0)
                return;
        switch (owned->state) {
        case OWNED_WANTED:
                owned_write(owned);
                return;
        case OWNED_ENDING:
                if (!owned->request)
                        owned_delete(owned);
                return;
        case OWNED_WRITING:
        case OWNED_LIVE:
        case OWNED_DELETING:
                return;
        }
}

int agent_own(Agent *agent, const char *path, Bytes value, const char *tag, uint64_t timeout_usec,
              RequestDone done, void *userdata, Request **ret) {
        Sessions *sessions = &agent->sessions;

        if (path_check_entry(path) != PATH_OK || strlen(tag) > OWNER_TAG_BYTES ||
            value.size > LIMIT_VALUE_BYTES)
                return -EINVAL;
        if (sessions->n_owned >= LIMIT_OWNED)
                return -EBUSY;

        Owned *owned = owned_find(agent, path);
        if (owned && owned->done)
                return -EBUSY; /* somebody's answer is still on its way */
        uint8_t *copy = malloc(value.size + 1);
        if (!copy)
                return -ENOMEM;
        if (value.size > 0)
                memcpy(copy, value.data, value.size);
        if (!owned) {
                owned = calloc(1, sizeof(Owned));
                if (!owned) {
                        free(copy);
                        return -ENOMEM;
                }
                owned->agent = agent;
                snprintf(owned->path, sizeof(owned->path), "%s", path);
                DL_APPEND(sessions->owned, owned);
                sessions->n_owned++;
        }
        snprintf(owned->tag, sizeof(owned->tag), "%s", tag);
        free(owned->value);
        owned->value = copy;
        owned->value_size = value.size;
        owned->request = request_forget(owned->request);
        owned->state = OWNED_WANTED;
        owned->loaded = false;
        owned->retry_usec = 0;
        owned->done = done;
        owned->userdata = userdata;
        owned->deadline_usec = hall_now(agent) + timeout_usec;
        sessions->work = true;
        hall_wake(agent);
        if (ret)
                *ret = NULL;
        return 0;
}

static bool tag_matches(const char *tag, const char *prefix) {
        size_t n = strlen(prefix);
        return strncmp(tag, prefix, n) == 0 && (tag[n] == 0 || tag[n] == ':');
}

unsigned agent_disown(Agent *agent, const char *tag_prefix) {
        Sessions *sessions = &agent->sessions;
        Owned *owned;
        unsigned n = 0;

        DL_FOREACH (sessions->owned, owned) {
                if (!tag_matches(owned->tag, tag_prefix) || owned->state == OWNED_ENDING ||
                    owned->state == OWNED_DELETING)
                        continue;
                owned->request = request_forget(owned->request);
                owned->done = NULL;
                owned->state = OWNED_ENDING;
                owned->retry_usec = 0;
                n++;
        }
        if (n > 0) {
                sessions->work = true;
                hall_wake(agent);
        }
        return n;
}

int agent_owned(Agent *agent, int (*each)(const char *, const char *, void *), void *userdata) {
        Owned *owned, *next;
        DL_FOREACH_SAFE (agent->sessions.owned, owned, next) {
                if (owned->state == OWNED_ENDING || owned->state == OWNED_DELETING)
                        continue;
                int r = each(owned->path, owned->tag, userdata);
                if (r != 0)
                        return r;
        }
        return 0;
}

static int load_owned(const TreeEntry *entry, void *userdata) {
        Agent *agent = userdata;
        Sessions *sessions = &agent->sessions;

        if (owned_find(agent, entry->path) || sessions->n_owned >= LIMIT_OWNED)
                return 0;
        Owned *owned = calloc(1, sizeof(Owned));
        uint8_t *value = malloc(entry->value.size + 1);
        if (!owned || !value) {
                free(owned);
                free(value);
                return -ENOMEM;
        }
        owned->agent = agent;
        owned->state = OWNED_LIVE;
        owned->loaded = true;
        snprintf(owned->path, sizeof(owned->path), "%s", entry->path);
        snprintf(owned->tag, sizeof(owned->tag), "%s", entry->owner_tag ?: "");
        if (entry->value.size > 0)
                memcpy(value, entry->value.data, entry->value.size);
        owned->value = value;
        owned->value_size = entry->value.size;
        DL_APPEND(sessions->owned, owned);
        sessions->n_owned++;
        return 0;
}

/* What an earlier process of this host owned is still there, by its session of this generation (0: there is
 * none); who still holds the fds is the door's to know (agent_owned(), agent_disown()). Until this process
 * has announced itself, wishes of the earlier one may still apply: so it is looked at again then. */
void owned_load(Agent *agent, uint64_t generation) {
        Owned *owned, *next;
        DL_FOREACH_SAFE (agent->sessions.owned, owned, next)
                if (owned->state == OWNED_LIVE && owned->loaded)
                        owned_free(owned);
                else if (owned->state == OWNED_LIVE)
                        owned->state = OWNED_WANTED;

        if (generation != 0 && tree_owned(agent->tree, agent->host.id, generation, load_owned, agent) < 0)
                hall_fail(agent, -ENOMEM, "What this host owns cannot be loaded");
        agent->sessions.work = true;
}

void owned_anew(Agent *agent) {
        Owned *owned;
        DL_FOREACH (agent->sessions.owned, owned)
                if (owned->state == OWNED_LIVE)
                        owned->state = OWNED_WANTED;
        agent->sessions.work = true;
}

void owned_work(Agent *agent) {
        Owned *owned, *next;
        DL_FOREACH_SAFE (agent->sessions.owned, owned, next)
                look_after(owned);
}

/* Without a leader nothing is written: all that can happen is that somebody's time is up. */
uint64_t owned_deadline(const Agent *agent) {
        uint64_t deadline = USEC_INFINITY;
        bool waits = false;
        for (const Owned *owned = agent->sessions.owned; owned; owned = owned->next) {
                waits = waits || owned->state != OWNED_LIVE;
                if (owned->done)
                        deadline = MIN(deadline, owned->deadline_usec);
        }
        if (waits && hall_leader(agent) != 0)
                deadline = MIN(deadline, agent->now_usec + HALL_TICK_USEC);
        return deadline;
}

void owned_leave(Agent *agent) {
        Owned *owned, *next;
        DL_FOREACH_SAFE (agent->sessions.owned, owned, next) {
                owned->request = request_forget(owned->request);
                if (owned->state == OWNED_ENDING || owned->state == OWNED_DELETING)
                        owned_free(owned);
                else
                        owned->state = OWNED_WANTED;
        }
        agent->sessions.work = true;
}

void owned_reset(Agent *agent) {
        while (agent->sessions.owned) {
                owned_answer(agent->sessions.owned, ANSWER_STOPPING, &(Result){});
                owned_free(agent->sessions.owned);
        }
}
