/* A unit whose files ask for something: what they ask for, how the unit is, and who follows. */
#include <stdio.h>
#include "agent/journal.h"
#include "helper.h"

#define MESSAGE_BROKEN "6f1c1d5bb7e14c0f8a3f1f0c5d2b9a01"

Unit *unit_find(Helper *helper, const char *name) {
        Unit *unit = NULL;
        HASH_FIND_STR(helper->units, name, unit);
        return unit;
}

static Unit *unit_new(Helper *helper, const char *name) {
        Unit *unit = calloc(1, sizeof(Unit));
        if (!unit)
                return NULL;
        unit->helper = helper;
        snprintf(unit->name, sizeof(unit->name), "%s", name);
        section_init(&unit->section);
        registration_init(&unit->registration, unit);
        HASH_ADD_STR(helper->units, name, unit);
        if (!HASH_ADDED(unit)) {
                registration_deinit(&unit->registration);
                section_deinit(&unit->section);
                free(unit);
                return NULL;
        }
        return unit;
}

Unit *unit_free(Unit *unit) {
        if (!unit)
                return NULL;
        HASH_DEL(unit->helper->units, unit);
        trigger_deinit(&unit->trigger);
        registration_deinit(&unit->registration);
        section_deinit(&unit->section);
        free(unit);
        return NULL;
}

bool unit_is_registered_state(const Unit *unit) {
        return unit->state == UNIT_ACTIVE || unit->state == UNIT_RELOADING;
}

void unit_drop_when_done(Unit *unit) {
        if (!unit->section.present && !unit->registration.invocation[0] && !unit->registration.call)
                unit_free(unit);
}

/* Said in the unit's own journal, once per change of the files. */
static void say_what_is_wrong(Unit *unit, const Section *before) {
        const Section *now = &unit->section;

        if (now->mistake && (!before->mistake || strcmp(now->mistake, before->mistake) != 0 ||
                             strcmp(now->where, before->where) != 0))
                journal_write(LOG_ERR, 0, MESSAGE_BROKEN, unit->name,
                              "%s: the [" SECTION_NAME "] section is not used: %s: %s", unit->name,
                              now->where, now->mistake);
        for (size_t i = 0; i < now->warnings.n; i++)
                if (!words_has(&before->warnings, now->warnings.items[i]))
                        log_unit(LOG_WARNING, unit->name, "%s: %s", unit->name, now->warnings.items[i]);
}

int unit_update(Helper *helper, const char *name, UnitState state, const char *invocation,
                Section *section) {
        Unit *unit = unit_find(helper, name);
        if (!unit && !section->present)
                return 0;
        if (!unit && HASH_COUNT(helper->units) >= MAX_UNITS) {
                log_warning("%s is ignored: more than %d units ask for treaty", name, MAX_UNITS);
                return 0;
        }
        bool new = !unit;
        if (new)
                unit = unit_new(helper, name);
        if (!unit)
                return -ENOMEM;

        Section before = unit->section;
        bool changed = new || !section_equal(&before, section);
        unit->section = *section;
        section_init(section);
        unit->state = state;
        snprintf(unit->invocation, sizeof(unit->invocation), "%s", invocation);
        say_what_is_wrong(unit, &before);
        section_deinit(&before);

        int r = changed ? trigger_apply(&unit->trigger, unit) : 0;
        if (r < 0)
                return r;
        if (changed)
                unit->registration.confirmed = false;
        trigger_look(&unit->trigger);
        registration_look(&unit->registration);
        return 0;
}

void unit_found_registered(Helper *helper, const char *name, const char *service, const char *invocation,
                           const char *path) {
        if (strlen(name) > UNIT_NAME_BYTES)
                return;
        Unit *unit = unit_find(helper, name);
        if (!unit)
                unit = unit_new(helper, name); /* asks for nothing: will give it back */
        if (unit)
                registration_found(&unit->registration, service, invocation, path);
}

void unit_set_state(Unit *unit, UnitState state, const char *invocation) {
        unit->state = state;
        if (invocation)
                snprintf(unit->invocation, sizeof(unit->invocation), "%s", invocation);
        trigger_look(&unit->trigger);
        registration_look(&unit->registration); /* may end the unit */
}
