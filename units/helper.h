/* The helper's parts and how they hang together.
 *
 *      manager ── PID 1: which units are there, what their files say, how they are, jobs
 *         │ unit appeared, changed its files, changed its state
 *         ▼
 *      Unit ─┬─ Trigger       follows the tree, acts through jobs
 *            └─ Registration  follows the unit's state, registers through the agent
 *         ▲
 *         │ cluster known, connection back
 *      agent ── the agent, of which we are an ordinary client
 *
 * One thread, one loop, nothing blocks but reading unit files. */
#pragma once

#include <uthash.h>
#include "link.h"
#include "pace.h"
#include "section.h"
#include "state.h"

#define MAX_UNITS        4096 /* units with a section */
#define UNIT_NAME_BYTES  255
#define INVOCATION_CHARS 32

typedef struct Helper Helper;
typedef struct Unit Unit;

typedef enum UnitState {
        UNIT_INACTIVE,
        UNIT_ACTIVATING,
        UNIT_ACTIVE,
        UNIT_RELOADING,
        UNIT_DEACTIVATING,
        UNIT_FAILED,
        UNIT_OTHER,
} UnitState;

/* ---- Trigger ---- */

/* One watched path. Invariant: fd >= 0 exactly while io. */
typedef struct Follow {
        Unit *unit;
        char *path;
        bool known;        /* `position` and `handled` are of the present cluster */
        uint64_t position; /* all changes up to this revision were seen */
        uint64_t acting;   /* position when the action under way began */
        uint64_t handled;  /* all changes up to this revision led to an action */
        sd_bus_slot *call;
        int fd;
        sd_event_source *io;
        uint8_t head[40]; /* of the record being read */
        size_t n_head;
        size_t skip; /* bytes of its rest that are still to come */
} Follow;

typedef struct Trigger {
        Unit *unit;
        size_t n_follows;
        Follow *follows;
        Pace pace;
        char cluster[CLUSTER_TEXT_BYTES + 1]; /* of which `handled` speaks */
        uint64_t saved_usec;
        bool unsaved;

        sd_event_source *timer;
        sd_bus_slot *call;
        char *job;                 /* object path; NULL: none */
        uint64_t changed_revision; /* newest change seen */
        char changed_path[256];    /* for the journal */
        uint64_t acted_usec;       /* realtime */
        char result[32];           /* of the last action */
        char message[512];
} Trigger;

int trigger_apply(Trigger *trigger, Unit *unit); /* the section is new or was changed */
void trigger_deinit(Trigger *trigger);           /* accepts zeros */
void trigger_agent_up(Trigger *trigger);         /* the cluster's id is known */
void trigger_agent_down(Trigger *trigger);
void trigger_manager_down(Trigger *trigger);
void trigger_look(Trigger *trigger); /* the unit's state, or a connection, changed */
void trigger_job_removed(Trigger *trigger, const char *job, const char *result);
void trigger_save(Trigger *trigger); /* what is not on disk yet */
const char *trigger_state(const Trigger *trigger);
uint64_t trigger_revision(const Trigger *trigger);

/* ---- Registration ---- */

typedef struct Registration {
        Unit *unit;
        /* What the agent holds on this unit's behalf, as far as known. */
        char invocation[INVOCATION_CHARS + 1]; /* "": nothing */
        char *service;
        uint16_t port;
        bool confirmed; /* said by us, with the present section, over the present connection */

        bool told; /* it stands in the journal already */

        sd_bus_slot *call;
        sd_event_source *retry;
        unsigned failures;
        char message[256];
} Registration;

void registration_init(Registration *registration, Unit *unit);
void registration_deinit(Registration *registration);
void registration_look(Registration *registration); /* anything changed: do the next step, if any */
void registration_agent_down(Registration *registration);
void registration_forget(Registration *registration); /* before what the agent holds is told anew */
/* What ListUnits said: one row of this unit. */
void registration_found(Registration *registration, const char *service, const char *invocation,
                        const char *path);
const char *registration_state(const Registration *registration);

/* ---- Unit ---- */

struct Unit {
        Helper *helper;
        UT_hash_handle hh;
        char name[UNIT_NAME_BYTES + 1];
        UnitState state;
        char invocation[INVOCATION_CHARS + 1];
        Section section;
        unsigned generation; /* of the scan that saw it last */
        Trigger trigger;
        Registration registration;
};

Unit *unit_find(Helper *helper, const char *name);
/* The files of a unit were read: makes, changes or drops it. Takes the section. */
int unit_update(Helper *helper, const char *name, UnitState state, const char *invocation, Section *section);
/* The agent holds a registration on behalf of this unit, known here or not. */
void unit_found_registered(Helper *helper, const char *name, const char *service, const char *invocation,
                           const char *path);
void unit_set_state(Unit *unit, UnitState state, const char *invocation); /* invocation NULL: as it was */
Unit *unit_free(Unit *unit);
/* Asks for nothing any more and owes nothing: goes. */
void unit_drop_when_done(Unit *unit);
bool unit_is_registered_state(const Unit *unit);

/* ---- The two sides ---- */

int manager_init(Helper *helper);
void manager_deinit(Helper *helper);
typedef struct Manager Manager;

int agent_init(Helper *helper);
void agent_deinit(Helper *helper);
void agent_look(Helper *helper);  /* asks for what is not known yet, if it can be asked for now */
void agent_retry(Helper *helper); /* something did not work: look again after a while */

struct Helper {
        sd_event *event;
        char host_name[65];
        char machine_id[33];
        int state_fd; /* /var/lib/treaty-units */

        Link manager_link;
        Manager *manager;
        bool scanned; /* the units of this boot are known */

        Link agent_link;
        sd_bus_slot *agent_call, *agent_match;
        sd_event_source *agent_retry;
        unsigned agent_failures;
        char cluster[CLUSTER_TEXT_BYTES + 1]; /* "": not known now */
        bool listed;                          /* the agent's registrations are known: ours may be compared */

        Unit *units;
};

/* ---- The door for treatyctl ---- */

typedef struct Door Door;
int door_new(Door **ret, Helper *helper, const char *path);
Door *door_free(Door *door);
DEFINE_CLEANUP(Door *, door_free);
