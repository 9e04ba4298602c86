/* A trigger converges: after the last change of what a unit watches, the action its files name has run at
 * least once on this host. It remembers, per path, the revision up to which everything led to an action, and
 * never acts on older data of the same cluster. What it knows outlives it in state files, so changes made
 * while the host was down are caught up; the first sight of a path, and of another cluster, is no change.
 *
 *      Watch ──records──▶ pace ──due──▶ SystemState? ──▶ job ──JobRemoved──▶ handled, saved
 *
 * The tree's content is skipped unread: only that something changed, and at which revision, counts. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <time.h>
#include "agent/base/bytes.h"
#include "agent/journal.h"
#include "helper.h"

#define TREE_PATH         "/org/treaty1"
#define TREE_INTERFACE    "org.treaty1.Tree"
#define MANAGER_PATH      "/org/freedesktop/systemd1"
#define MANAGER_INTERFACE "org.freedesktop.systemd1.Manager"
#define JOB_INTERFACE     "org.freedesktop.systemd1.Job"
#define PROPERTIES        "org.freedesktop.DBus.Properties"

#define MESSAGE_ACTING "2a4d6c3e0f5b4b7c9d1e8f7a6b5c4d02"
#define MESSAGE_FAILED "c8e07a5d9f3144b2a6d4e1b0f2937c03"

enum { WATCH_SUBTREE = 1, WATCH_MARKS = 4 };

#define RECORD_MAX_BYTES   (3 * 1024 * 1024)
#define RECORD_LAST        1
#define READS_PER_WAKE     16
#define SAVE_INTERVAL_USEC (600 * USEC_PER_SEC)
#define JOB_CHECK_USEC     (60 * USEC_PER_SEC)

enum { RECORD_PUT = 1, RECORD_DELETE, RECORD_MARK, RECORD_COMPACTED, RECORD_OVERFLOW };

static void act(Trigger *trigger);

/* ---- What is remembered ---- */

static uint64_t realtime_usec(void) {
        struct timespec ts;
        int r = clock_gettime(CLOCK_REALTIME, &ts);
        assert(r == 0);
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

void trigger_save(Trigger *trigger) {
        State state = {};

        if (!trigger->unsaved)
                return;
        strcpy(state.cluster, trigger->cluster);
        for (size_t i = 0; i < trigger->n_follows; i++)
                if (trigger->follows[i].known)
                        (void)state_set(&state, trigger->follows[i].path, trigger->follows[i].handled);
        trigger->saved_usec = now_usec();
        if (!state.cluster[0] || state.n == 0)
                return;
        int r = state_save(&state, trigger->unit->helper->state_fd, trigger->unit->name);
        if (r < 0)
                log_warning_errno(
                        r,
                        "%s: cannot save what was handled; after a restart of the host it may be done again",
                        trigger->unit->name);
        else
                trigger->unsaved = false;
}

/* Everything seen up to `acting` is done with. */
static void handled(Trigger *trigger) {
        for (size_t i = 0; i < trigger->n_follows; i++) {
                Follow *follow = &trigger->follows[i];
                if (follow->known && follow->acting > follow->handled) {
                        follow->handled = follow->acting;
                        trigger->unsaved = true;
                }
        }
        trigger_save(trigger);
}

static void mark_acting(Trigger *trigger) {
        for (size_t i = 0; i < trigger->n_follows; i++)
                trigger->follows[i].acting = trigger->follows[i].position;
}

static void recall(Trigger *trigger) {
        State state;
        Unit *unit = trigger->unit;
        int r = state_load(&state, unit->helper->state_fd, unit->name);
        if (r < 0)
                log_warning_errno(r, "%s: cannot read what was handled; beginning anew", unit->name);
        if (r != 0)
                return;
        strcpy(trigger->cluster, state.cluster);
        for (size_t i = 0; i < trigger->n_follows; i++) {
                Follow *follow = &trigger->follows[i];
                follow->known = state_find(&state, state.cluster, follow->path, &follow->handled);
                follow->position = follow->handled;
        }
}

/* ---- Following ---- */

static void follow_stop(Follow *follow) {
        follow->call = sd_bus_slot_unref(follow->call);
        follow->io = sd_event_source_disable_unref(follow->io);
        if (follow->fd >= 0)
                close(follow->fd);
        follow->fd = -1;
        follow->n_head = follow->skip = 0;
}

static void follow_deinit(Follow *follow) {
        follow_stop(follow);
        free(follow->path);
        *follow = (Follow){.fd = -1};
}

static void note_change(Follow *follow, uint64_t revision) {
        Trigger *trigger = &follow->unit->trigger;
        trigger->changed_revision = MAX(trigger->changed_revision, revision);
        snprintf(trigger->changed_path, sizeof(trigger->changed_path), "%s", follow->path);
        pace_change(&trigger->pace, now_usec());
}

static void note_mark(Follow *follow, uint64_t revision) {
        Trigger *trigger = &follow->unit->trigger;
        if (revision <= follow->position)
                return;
        follow->position = revision;
        if (trigger->pace.dirty || trigger->pace.running)
                return;
        /* Nothing happened here, but old revisions get pruned: stay in sight of what is kept. */
        follow->handled = revision;
        trigger->unsaved = true;
        if (now_usec() - trigger->saved_usec > SAVE_INTERVAL_USEC)
                trigger_save(trigger);
}

/* 0: go on; 1: the watch is over. */
static int note_record(Follow *follow) {
        uint8_t kind = follow->head[4], flags = follow->head[5];
        uint64_t revision = bytes_get_u64(follow->head + 8);

        switch (kind) {
        case RECORD_PUT:
        case RECORD_DELETE:
                if (revision <= follow->position)
                        return 0;
                follow->position = flags & RECORD_LAST ? revision : revision - 1;
                note_change(follow, revision);
                return 0;
        case RECORD_MARK:
                note_mark(follow, revision);
                return 0;
        case RECORD_COMPACTED: /* what happened in between cannot be known: it counts as a change */
                if (revision > follow->position + 1) {
                        follow->position = revision - 1;
                        note_change(follow, revision - 1);
                }
                return 1;
        case RECORD_OVERFLOW:
                if (revision > follow->position + 1)
                        follow->position = revision - 1;
                return 1;
        }
        log_warning("the agent sent a record of unknown kind %u for %s", kind, follow->path);
        return 1;
}

static int take_bytes(Follow *follow, const uint8_t *data, size_t size) {
        while (size > 0) {
                size_t n;
                if (follow->skip > 0) {
                        n = MIN(size, follow->skip);
                        follow->skip -= n;
                } else {
                        n = MIN(size, sizeof(follow->head) - follow->n_head);
                        memcpy(follow->head + follow->n_head, data, n);
                        follow->n_head += n;
                }
                data += n;
                size -= n;
                if (follow->n_head < sizeof(follow->head) || follow->skip > 0)
                        continue;

                uint32_t record = bytes_get_u32(follow->head);
                if (record < sizeof(follow->head) || record > RECORD_MAX_BYTES) {
                        log_warning("the agent sent a record of %u bytes for %s", record, follow->path);
                        return 1;
                }
                follow->n_head = 0;
                follow->skip = record - sizeof(follow->head);
                if (note_record(follow) != 0)
                        return 1;
        }
        return 0;
}

static int on_readable(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Follow *follow = userdata;
        Unit *unit = follow->unit;
        static uint8_t buffer[64 * 1024];

        for (int i = 0; i < READS_PER_WAKE; i++) {
                ssize_t n = read(fd, buffer, sizeof(buffer));
                if (n < 0 && (errno == EAGAIN || errno == EINTR))
                        break;
                if (n <= 0 || take_bytes(follow, buffer, (size_t)n) != 0) {
                        /* Over; the cluster may be another one now, so that is asked for first. */
                        follow_stop(follow);
                        agent_retry(unit->helper);
                        break;
                }
        }
        trigger_look(&unit->trigger);
        return 0;
}

static int take_watch(Follow *follow, sd_bus_message *message) {
        Trigger *trigger = &follow->unit->trigger;
        uint64_t revision;
        int fd;

        int r = sd_bus_message_read(message, "ht", &fd, &revision);
        if (r < 0)
                return r;
        follow->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (follow->fd < 0 || fcntl(follow->fd, F_SETFL, O_NONBLOCK) < 0)
                return -errno;
        r = sd_event_add_io(follow->unit->helper->event, &follow->io, follow->fd, EPOLLIN, on_readable,
                            follow);
        if (r < 0)
                return r;
        if (!follow->known) { /* first sight: what is now is the beginning */
                follow->known = true;
                follow->position = follow->handled = follow->acting = revision;
                trigger->unsaved = true;
                trigger_save(trigger);
        }
        return 0;
}

static int on_watching(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Follow *follow = userdata;
        Unit *unit = follow->unit;
        follow->call = sd_bus_slot_unref(follow->call);

        if (sd_bus_message_is_method_error(message, NULL)) {
                snprintf(unit->trigger.message, sizeof(unit->trigger.message), "cannot watch %.200s: %.200s",
                         follow->path, sd_bus_message_get_error(message)->message);
                text_mend(unit->trigger.message);
                log_debug("%s: %s", unit->name, unit->trigger.message);
                agent_retry(unit->helper);
                return 0;
        }
        int r = take_watch(follow, message);
        if (r < 0) {
                log_warning_errno(r, "%s: cannot watch %s", unit->name, follow->path);
                follow_stop(follow);
                agent_retry(unit->helper);
                return 0;
        }
        if (unit->trigger.pace.failures == 0)
                unit->trigger.message[0] = 0;
        trigger_look(&unit->trigger);
        return 0;
}

static void follow_start(Follow *follow) {
        if (follow->fd >= 0 || follow->call)
                return;
        uint64_t from = follow->known ? follow->position + 1 : 0;
        int r = link_call(&follow->unit->helper->agent_link, &follow->call, on_watching, follow, TREE_PATH,
                          TREE_INTERFACE, "Watch", "stt", follow->path,
                          (uint64_t)(WATCH_SUBTREE | WATCH_MARKS), from);
        if (r < 0)
                agent_retry(follow->unit->helper);
}

void trigger_agent_up(Trigger *trigger) {
        if (trigger->n_follows == 0)
                return;
        Helper *helper = trigger->unit->helper;
        if (strcmp(trigger->cluster, helper->cluster) != 0) {
                strcpy(trigger->cluster, helper->cluster);
                trigger->changed_revision = 0;
                for (size_t i = 0; i < trigger->n_follows; i++)
                        trigger->follows[i].known = false;
        }
        for (size_t i = 0; i < trigger->n_follows; i++)
                follow_start(&trigger->follows[i]);
}

void trigger_agent_down(Trigger *trigger) {
        for (size_t i = 0; i < trigger->n_follows; i++)
                follow_stop(&trigger->follows[i]);
}

/* ---- Acting ---- */

static void succeeded(Trigger *trigger, const char *result) {
        Unit *unit = trigger->unit;
        pace_end(&trigger->pace, now_usec(), true);
        snprintf(trigger->result, sizeof(trigger->result), "%s", result);
        trigger->message[0] = 0;
        handled(trigger);
        log_unit(LOG_INFO, unit->name, "%s: %s after a change of %s: %s", unit->name,
                 action_name(unit->section.on_change), trigger->changed_path, result);
        trigger_look(trigger);
}

static void failed(Trigger *trigger, int level, const char *result, const char *why) {
        Unit *unit = trigger->unit;
        uint64_t now = now_usec();

        pace_end(&trigger->pace, now, false);
        snprintf(trigger->result, sizeof(trigger->result), "%s", result);
        uint64_t due = pace_due(&trigger->pace);
        snprintf(trigger->message, sizeof(trigger->message), "%.300s; next try in %llu s", why,
                 (unsigned long long)((due > now ? due - now : 0) + USEC_PER_SEC - 1) / USEC_PER_SEC);
        text_mend(trigger->message);
        journal_write(level, 0, MESSAGE_FAILED, unit->name, "%s: %s after a change of %s failed: %s",
                      unit->name, action_name(unit->section.on_change), trigger->changed_path,
                      trigger->message);
        trigger_look(trigger);
}

static void forget_job(Trigger *trigger) {
        trigger->call = sd_bus_slot_unref(trigger->call);
        free(TAKE(trigger->job));
}

void trigger_job_removed(Trigger *trigger, const char *job, const char *result) {
        if (!trigger->job || strcmp(trigger->job, job) != 0)
                return;
        forget_job(trigger);
        if (strcmp(result, "done") == 0 || strcmp(result, "skipped") == 0) {
                succeeded(trigger, result);
                return;
        }
        char why[160];
        snprintf(why, sizeof(why), "the job ended as \"%.32s\", see the unit's journal", result);
        failed(trigger, LOG_WARNING, result, why);
}

static int on_job(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Trigger *trigger = userdata;
        const char *job;
        trigger->call = sd_bus_slot_unref(trigger->call);

        const sd_bus_error *e = sd_bus_message_get_error(message);
        if (e) {
                /* At shutdown the manager's own jobs cannot be replaced: expected. */
                bool stopping = strcmp(e->name, "org.freedesktop.systemd1.TransactionIsDestructive") == 0;
                failed(trigger, stopping ? LOG_DEBUG : LOG_WARNING, "error",
                       e->message ? e->message : e->name);
                return 0;
        }
        int r = sd_bus_message_read(message, "o", &job);
        trigger->job = r < 0 ? NULL : strdup(job);
        if (!trigger->job)
                failed(trigger, LOG_WARNING, "error", "out of memory");
        else
                trigger_look(trigger);
        return 0;
}

/* Our own failed restart leaves a unit failed, which "try" would leave alone: what was active before we came
 * is brought back. */
static bool must_bring_back(const Trigger *trigger) {
        return trigger->pace.failures > 0 && trigger->unit->state == UNIT_FAILED;
}

static const char *method(const Trigger *trigger) {
        switch (trigger->unit->section.on_change) {
        case ACTION_START:
                return "StartUnit";
        case ACTION_RELOAD:
                return "ReloadUnit";
        case ACTION_RESTART:
                return must_bring_back(trigger) ? "RestartUnit" : "TryRestartUnit";
        case ACTION_RELOAD_OR_RESTART:
                return must_bring_back(trigger) ? "RestartUnit" : "ReloadOrTryRestartUnit";
        case ACTION_NONE:
                break;
        }
        assert(!"a trigger has an action");
        return NULL;
}

static int on_system_state(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Trigger *trigger = userdata;
        Unit *unit = trigger->unit;
        const char *state;
        trigger->call = sd_bus_slot_unref(trigger->call);

        if (sd_bus_message_is_method_error(message, NULL) ||
            sd_bus_message_read(message, "v", "s", &state) < 0 || strcmp(state, "stopping") == 0) {
                failed(trigger, LOG_DEBUG, "error", "the system is stopping");
                return 0;
        }
        journal_write(LOG_INFO, 0, MESSAGE_ACTING, unit->name, "%s: %s changed (revision %llu): %s",
                      unit->name, trigger->changed_path, (unsigned long long)trigger->changed_revision,
                      action_name(unit->section.on_change));
        int r = link_call(&unit->helper->manager_link, &trigger->call, on_job, trigger, MANAGER_PATH,
                          MANAGER_INTERFACE, method(trigger), "ss", unit->name, "replace");
        if (r < 0)
                failed(trigger, LOG_WARNING, "error", strerror(-r));
        return 0;
}

/* A stopped unit reads its configuration when it starts; only "start" has something to do. */
static bool applies(const Trigger *trigger) {
        return trigger->unit->section.on_change == ACTION_START || trigger->unit->state == UNIT_ACTIVE ||
               (must_bring_back(trigger) && trigger->unit->section.on_change != ACTION_RELOAD);
}

static void act(Trigger *trigger) {
        mark_acting(trigger);
        if (!applies(trigger)) {
                pace_clean(&trigger->pace);
                trigger->message[0] = 0;
                handled(trigger);
                return;
        }
        pace_begin(&trigger->pace, now_usec());
        trigger->acted_usec = realtime_usec();
        int r = link_call(&trigger->unit->helper->manager_link, &trigger->call, on_system_state, trigger,
                          MANAGER_PATH, PROPERTIES, "Get", "ss", MANAGER_INTERFACE, "SystemState");
        if (r < 0)
                failed(trigger, LOG_WARNING, "error", strerror(-r));
}

/* JobRemoved should have come; if the job is not there any more it was missed. */
static int on_job_checked(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Trigger *trigger = userdata;
        trigger->call = sd_bus_slot_unref(trigger->call);
        if (sd_bus_message_is_method_error(message, NULL) && trigger->job) {
                forget_job(trigger);
                failed(trigger, LOG_WARNING, "error", "its end was missed");
        } else
                trigger_look(trigger);
        return 0;
}

/* A unit on its way somewhere is waited for: what it read may be older than the change. */
static bool may_act(const Trigger *trigger) {
        Unit *unit = trigger->unit;
        return unit->helper->scanned && link_is_up(&unit->helper->manager_link) &&
               (unit->state == UNIT_INACTIVE || unit->state == UNIT_ACTIVE || unit->state == UNIT_FAILED);
}

static int on_time(sd_event_source *source, uint64_t usec, void *userdata) {
        Trigger *trigger = userdata;
        if (!trigger->pace.running && may_act(trigger))
                act(trigger);
        else if (trigger->pace.running && trigger->job)
                (void)link_call(&trigger->unit->helper->manager_link, &trigger->call, on_job_checked,
                                trigger, trigger->job, PROPERTIES, "Get", "ss", JOB_INTERFACE, "State");
        return 0;
}

void trigger_look(Trigger *trigger) {
        if (trigger->n_follows == 0)
                return;
        uint64_t due = trigger->pace.running ? now_usec() + JOB_CHECK_USEC : pace_due(&trigger->pace);
        if (due == USEC_INFINITY || (!trigger->pace.running && !may_act(trigger))) {
                (void)sd_event_source_set_enabled(trigger->timer, SD_EVENT_OFF);
                return;
        }
        (void)sd_event_source_set_time(trigger->timer, due);
        (void)sd_event_source_set_enabled(trigger->timer, SD_EVENT_ONESHOT);
}

void trigger_manager_down(Trigger *trigger) {
        if (!trigger->pace.running)
                return;
        forget_job(trigger);
        failed(trigger, LOG_DEBUG, "error", "the connection to PID 1 was lost");
}

/* ---- Life ---- */

void trigger_deinit(Trigger *trigger) {
        if (trigger->unit)
                forget_job(trigger);
        for (size_t i = 0; i < trigger->n_follows; i++)
                follow_deinit(&trigger->follows[i]);
        free(trigger->follows);
        sd_event_source_disable_unref(trigger->timer);
        *trigger = (Trigger){};
}

/* Paths that stay keep what is known of them. */
static int make_follows(Trigger *trigger, const Words *paths) {
        Follow *follows = calloc(paths->n, sizeof(Follow));
        if (!follows)
                return -ENOMEM;
        for (size_t i = 0; i < paths->n; i++) {
                follows[i] = (Follow){.unit = trigger->unit, .fd = -1, .path = strdup(paths->items[i])};
                if (!follows[i].path) {
                        for (size_t k = 0; k < i; k++)
                                free(follows[k].path);
                        free(follows);
                        return -ENOMEM;
                }
                for (size_t k = 0; k < trigger->n_follows; k++)
                        if (strcmp(trigger->follows[k].path, follows[i].path) == 0) {
                                follows[i].known = trigger->follows[k].known;
                                follows[i].handled = trigger->follows[k].handled;
                                follows[i].position = follows[i].acting = trigger->follows[k].handled;
                        }
        }
        for (size_t k = 0; k < trigger->n_follows; k++)
                follow_deinit(&trigger->follows[k]);
        free(trigger->follows);
        trigger->follows = follows;
        trigger->n_follows = paths->n;
        return 0;
}

static int begin(Trigger *trigger, Unit *unit) {
        trigger->unit = unit;
        trigger->saved_usec = now_usec();
        int r = sd_event_add_time(unit->helper->event, &trigger->timer, CLOCK_BOOTTIME, 0,
                                  10 * USEC_PER_MSEC, on_time, trigger);
        return r < 0 ? r : sd_event_source_set_enabled(trigger->timer, SD_EVENT_OFF);
}

int trigger_apply(Trigger *trigger, Unit *unit) {
        const Section *section = &unit->section;

        if (!section_has_trigger(section)) {
                if (!section->mistake) /* a broken section will be repaired, and goes on from there */
                        (void)state_remove(unit->helper->state_fd, unit->name);
                else
                        trigger_save(trigger);
                trigger_deinit(trigger);
                return 0;
        }

        bool new = trigger->n_follows == 0;
        int r = new ? begin(trigger, unit) : 0;
        if (r >= 0)
                r = make_follows(trigger, &section->watch);
        if (r < 0)
                return r;
        trigger->pace.settle_usec = section->settle_usec;
        if (new)
                recall(trigger);
        if (unit->helper->cluster[0])
                trigger_agent_up(trigger);
        trigger_look(trigger);
        return 0;
}

const char *trigger_state(const Trigger *trigger) {
        if (trigger->pace.running)
                return "running";
        if (trigger->pace.dirty)
                return trigger->pace.failures > 0 ? "failed" : "settling";
        for (size_t i = 0; i < trigger->n_follows; i++)
                if (trigger->follows[i].fd < 0)
                        return "waiting";
        return "idle";
}

uint64_t trigger_revision(const Trigger *trigger) {
        uint64_t revision = 0;
        for (size_t i = 0; i < trigger->n_follows; i++)
                if (trigger->follows[i].known)
                        revision = MAX(revision, trigger->follows[i].handled);
        return revision;
}
