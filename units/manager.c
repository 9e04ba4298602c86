/* PID 1 as the helper sees it. A scan goes: UnitPath, look through the files, ListUnits, and for each
 * candidate LoadUnit, its properties, its files. It is done when the connection is made, after each
 * daemon-reload, and for single units when they appear; between scans PropertiesChanged tells how units are.
 */
#include <fcntl.h>
#include <stdio.h>
#include "agent/journal.h"
#include "file.h"
#include "helper.h"
#include "scan.h"

#define MANAGER_PATH      "/org/freedesktop/systemd1"
#define MANAGER_INTERFACE "org.freedesktop.systemd1.Manager"
#define UNIT_INTERFACE    "org.freedesktop.systemd1.Unit"
#define UNIT_PATH         "/org/freedesktop/systemd1/unit"
#define PROPERTIES        "org.freedesktop.DBus.Properties"
#define MAX_FILES         256 /* fragment and drop-ins of one unit */
#define ASK_AT_ONCE       32

typedef struct Ask Ask;

struct Manager {
        Helper *helper;
        sd_bus_slot *match_job, *match_new, *match_removed, *match_reloading, *match_properties;
        sd_bus_slot *call, *call_subscribe;
        sd_event_source *again_timer;

        Words directories; /* PID 1's search path */
        Marks marks;
        Words candidates; /* still to be asked about, from the end */
        Ask *asks;        /* under way */
        unsigned n_asks;
        unsigned generation;
        bool scanning;
        bool asking; /* the scan's candidates are known: it ends with the last of them */
        bool again;  /* scan once more when this one is done */
};

/* One unit being asked about. */
struct Ask {
        Manager *manager;
        Ask *next, **link;
        sd_bus_slot *call;
        char name[UNIT_NAME_BYTES + 1];
};

/* What PID 1 says of a unit. */
typedef struct Facts {
        char id[UNIT_NAME_BYTES + 1];
        bool loaded; /* or at least there, with a mistake that PID 1 complains of */
        UnitState state;
        char invocation[INVOCATION_CHARS + 1];
        bool has_state, has_invocation;
        Words files; /* fragment first, then drop-ins as they apply */
} Facts;

static void facts_deinit(Facts *facts) {
        words_clear(&facts->files);
}

/* ---- Reading properties ---- */

static UnitState state_from(const char *text) {
        static const struct {
                const char *text;
                UnitState state;
        } table[] = {
                {"inactive", UNIT_INACTIVE},    {"activating", UNIT_ACTIVATING},
                {"active", UNIT_ACTIVE},        {"reloading", UNIT_RELOADING},
                {"refreshing", UNIT_RELOADING}, {"deactivating", UNIT_DEACTIVATING},
                {"failed", UNIT_FAILED},
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (strcmp(text, table[i].text) == 0)
                        return table[i].state;
        return UNIT_OTHER;
}

static int read_text(sd_bus_message *message, const char **ret) {
        return sd_bus_message_read(message, "v", "s", ret);
}

static int read_invocation(sd_bus_message *message, Facts *facts) {
        const void *id;
        size_t size;
        int r = sd_bus_message_enter_container(message, 'v', "ay");
        if (r >= 0)
                r = sd_bus_message_read_array(message, 'y', &id, &size);
        if (r < 0)
                return r;
        facts->has_invocation = true;
        facts->invocation[0] = 0;
        if (size == INVOCATION_CHARS / 2)
                hex_write(facts->invocation, id, size);
        return sd_bus_message_exit_container(message);
}

static int read_drop_ins(sd_bus_message *message, Facts *facts) {
        const char *path;
        int r = sd_bus_message_enter_container(message, 'v', "as");
        if (r >= 0)
                r = sd_bus_message_enter_container(message, 'a', "s");
        while (r >= 0 && (r = sd_bus_message_read(message, "s", &path)) > 0)
                if (facts->files.n < MAX_FILES)
                        r = words_add(&facts->files, path);
        if (r >= 0)
                r = sd_bus_message_exit_container(message);
        return r < 0 ? r : sd_bus_message_exit_container(message);
}

/* The fragment comes before the drop-ins, whatever order the properties have. */
static int read_fragment(sd_bus_message *message, Facts *facts) {
        const char *path;
        int r = read_text(message, &path);
        if (r < 0 || path[0] != '/')
                return r;
        r = words_add(&facts->files, path);
        if (r < 0)
                return r;
        char *fragment = facts->files.items[facts->files.n - 1];
        memmove(facts->files.items + 1, facts->files.items, (facts->files.n - 1) * sizeof(char *));
        facts->files.items[0] = fragment;
        return 0;
}

static int read_property(sd_bus_message *message, const char *name, Facts *facts) {
        const char *text;
        int r;

        if (strcmp(name, "InvocationID") == 0)
                return read_invocation(message, facts);
        if (strcmp(name, "DropInPaths") == 0)
                return read_drop_ins(message, facts);
        if (strcmp(name, "FragmentPath") == 0)
                return read_fragment(message, facts);
        if (strcmp(name, "Id") != 0 && strcmp(name, "LoadState") != 0 && strcmp(name, "ActiveState") != 0)
                return sd_bus_message_skip(message, "v");

        r = read_text(message, &text);
        if (r < 0)
                return r;
        if (name[0] == 'I')
                snprintf(facts->id, sizeof(facts->id), "%s", text);
        else if (name[0] == 'L')
                facts->loaded = strcmp(text, "not-found") != 0 && strcmp(text, "masked") != 0;
        else {
                facts->state = state_from(text);
                facts->has_state = true;
        }
        return 0;
}

static int read_properties(sd_bus_message *message, Facts *facts) {
        const char *name;
        int r = sd_bus_message_enter_container(message, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(message, 'e', "sv")) > 0) {
                r = sd_bus_message_read(message, "s", &name);
                if (r >= 0)
                        r = read_property(message, name, facts);
                if (r >= 0)
                        r = sd_bus_message_exit_container(message);
        }
        return r < 0 ? r : sd_bus_message_exit_container(message);
}

/* ---- Files ---- */

static int read_section(Helper *helper, const Facts *facts, Section *ret) {
        UnitFileNames names = {
                .unit = facts->id, .host_name = helper->host_name, .machine_id = helper->machine_id};

        section_init(ret);
        for (size_t i = 0; i < facts->files.n; i++) {
                _cleanup_(buffer_deinit) Buffer content = {};
                const char *path = facts->files.items[i];
                int r = file_read(AT_FDCWD, path, UNITFILE_MAX_BYTES, &content);
                if (r == -ENOENT) /* removed; PID 1 learns of it at the next daemon-reload */
                        continue;
                r = r < 0 ? section_feed_unreadable(ret, path, r)
                          : section_feed(ret, &names, path, BYTES(content.data, content.size));
                if (r < 0)
                        return r;
        }
        return section_finish(ret);
}

static int take_facts(Helper *helper, Facts *facts) {
        Section section;

        if (!facts->loaded || !unit_name_is_usable(facts->id))
                return 0;
        int r = read_section(helper, facts, &section);
        if (r >= 0)
                r = unit_update(helper, facts->id, facts->state, facts->invocation, &section);
        section_deinit(&section);
        if (r < 0)
                return r;
        Unit *unit = unit_find(helper, facts->id);
        if (unit)
                unit->generation = helper->manager->generation;
        return 0;
}

/* ---- A scan ---- */

static void scan(Manager *manager);
static void ask_next(Manager *manager);

static void ask_free(Ask *ask) {
        *ask->link = ask->next;
        if (ask->next)
                ask->next->link = ask->link;
        ask->manager->n_asks--;
        sd_bus_slot_unref(ask->call);
        free(ask);
}

/* Whatever failed, a scan that could not be finished is done again: a unit that was not seen is not gone. */
static void scan_failed(Manager *manager, int error, const char *what) {
        log_warning_errno(error, "%s: cannot look through the units, trying again", what);
        while (manager->asks)
                ask_free(manager->asks);
        words_clear(&manager->candidates);
        manager->scanning = manager->asking = false;
        manager->again = false;
        (void)sd_event_source_set_time(manager->again_timer, now_usec() + 2 * USEC_PER_SEC);
        (void)sd_event_source_set_enabled(manager->again_timer, SD_EVENT_ONESHOT);
}

/* Units whose files ask for nothing any more give back what they have. */
static void sweep(Manager *manager) {
        Unit *unit, *next;
        HASH_ITER (hh, manager->helper->units, unit, next) {
                if (unit->generation == manager->generation)
                        continue;
                Section none;
                section_init(&none);
                (void)unit_update(manager->helper, unit->name, unit->state, unit->invocation, &none);
        }
}

static void scan_done(Manager *manager) {
        Unit *unit, *next;

        manager->scanning = manager->asking = false;
        if (manager->again) {
                scan(manager);
                return;
        }
        sweep(manager);
        manager->helper->scanned = true;
        log_debug("looked through the units: %u follow the tree or are services",
                  HASH_COUNT(manager->helper->units));
        agent_look(manager->helper);
        HASH_ITER (hh, manager->helper->units, unit, next) {
                trigger_look(&unit->trigger);
                registration_look(&unit->registration);
        }
}

/* Not to be answered is not to be gone. */
static void ask_failed(Ask *ask) {
        Unit *unit = unit_find(ask->manager->helper, ask->name);
        if (unit)
                unit->generation = ask->manager->generation;
}

static void ask_done(Ask *ask) {
        Manager *manager = ask->manager;
        ask_free(ask);
        ask_next(manager);
}

static int on_facts(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Ask *ask = userdata;
        Manager *manager = ask->manager;
        _cleanup_(facts_deinit) Facts facts = {};

        int r = sd_bus_message_is_method_error(message, NULL) ? -sd_bus_message_get_errno(message)
                                                              : read_properties(message, &facts);
        if (r >= 0)
                r = take_facts(manager->helper, &facts);
        if (r < 0) {
                log_warning_errno(r, "%s: cannot be looked at", ask->name);
                ask_failed(ask);
        }
        ask_done(ask);
        return 0;
}

static int on_loaded(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Ask *ask = userdata;
        const char *path;

        int r = sd_bus_message_is_method_error(message, NULL) ? -ENOENT
                                                              : sd_bus_message_read(message, "o", &path);
        if (r >= 0)
                r = link_call(&ask->manager->helper->manager_link, &ask->call, on_facts, ask, path,
                              PROPERTIES, "GetAll", "s", UNIT_INTERFACE);
        if (r < 0) {
                Unit *unit = unit_find(ask->manager->helper, ask->name);
                if (unit && sd_bus_message_is_method_error(message, "org.freedesktop.systemd1.NoSuchUnit"))
                        unit_set_state(unit, UNIT_INACTIVE, "");
                ask_failed(ask);
                ask_done(ask);
        }
        return 0;
}

/* `member` is LoadUnit, or GetUnit, which does not load what is not there any more. */
static int ask(Manager *manager, const char *name, const char *member) {
        Ask *new = calloc(1, sizeof(Ask));
        if (!new)
                return -ENOMEM;
        *new = (Ask){.manager = manager, .next = manager->asks, .link = &manager->asks};
        snprintf(new->name, sizeof(new->name), "%s", name);
        if (new->next)
                new->next->link = &new->next;
        manager->asks = new;
        manager->n_asks++;

        int r = link_call(&manager->helper->manager_link, &new->call, on_loaded, new, MANAGER_PATH,
                          MANAGER_INTERFACE, member, "s", name);
        if (r < 0)
                ask_free(new);
        return r;
}

static bool is_asked(Manager *manager, const char *name) {
        for (Ask *a = manager->asks; a; a = a->next)
                if (strcmp(a->name, name) == 0)
                        return true;
        return false;
}

static void ask_next(Manager *manager) {
        while (manager->candidates.n > 0 && manager->n_asks < ASK_AT_ONCE) {
                _cleanup_(freep) char *name = manager->candidates.items[--manager->candidates.n];
                int r = ask(manager, name, "LoadUnit");
                if (r < 0) {
                        scan_failed(manager, r, name);
                        return;
                }
        }
        if (manager->asking && manager->n_asks == 0 && manager->candidates.n == 0)
                scan_done(manager);
}

static int add_candidate(Manager *manager, const char *name) {
        if (!unit_name_is_usable(name) || !marks_cover(&manager->marks, name) ||
            words_has(&manager->candidates, name))
                return 0;
        if (manager->candidates.n >= MAX_UNITS) {
                log_warning("%s is ignored: more than %d units may ask for treaty", name, MAX_UNITS);
                return 0;
        }
        return words_add(&manager->candidates, name);
}

/* ListUnits: a(ssssssouso), the name comes first. */
static int read_units(Manager *manager, sd_bus_message *message) {
        const char *name;
        int r = sd_bus_message_enter_container(message, 'a', "(ssssssouso)");
        while (r >= 0 && (r = sd_bus_message_enter_container(message, 'r', "ssssssouso")) > 0) {
                r = sd_bus_message_read(message, "s", &name);
                if (r >= 0)
                        r = sd_bus_message_skip(message, "sssssouso");
                if (r >= 0)
                        r = add_candidate(manager, name);
                if (r >= 0)
                        r = sd_bus_message_exit_container(message);
        }
        for (size_t i = 0; r >= 0 && i < manager->marks.names.n; i++)
                r = add_candidate(manager, manager->marks.names.items[i]);
        for (size_t i = 0; r >= 0 && i < manager->marks.units.n; i++)
                r = add_candidate(manager, manager->marks.units.items[i]);
        return r;
}

static int on_units(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Manager *manager = userdata;
        int r = sd_bus_message_is_method_error(message, NULL) ? -sd_bus_message_get_errno(message)
                                                              : read_units(manager, message);
        if (r < 0)
                scan_failed(manager, r, "ListUnits");
        else {
                manager->asking = true;
                ask_next(manager);
        }
        return 0;
}

static int read_directories(Manager *manager, sd_bus_message *message) {
        const char *path;
        words_clear(&manager->directories);
        int r = sd_bus_message_enter_container(message, 'v', "as");
        if (r >= 0)
                r = sd_bus_message_enter_container(message, 'a', "s");
        while (r >= 0 && (r = sd_bus_message_read(message, "s", &path)) > 0)
                r = words_add(&manager->directories, path);
        return r;
}

static int on_directories(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Manager *manager = userdata;
        int r = sd_bus_message_is_method_error(message, NULL) ? -sd_bus_message_get_errno(message)
                                                              : read_directories(manager, message);
        if (r >= 0)
                r = scan_directories(&manager->marks, &manager->directories);
        if (r >= 0)
                r = link_call(&manager->helper->manager_link, &manager->call, on_units, manager,
                              MANAGER_PATH, MANAGER_INTERFACE, "ListUnits", NULL);
        if (r < 0)
                scan_failed(manager, r, "UnitPath");
        return 0;
}

static void scan(Manager *manager) {
        if (manager->scanning) {
                manager->again = true;
                return;
        }
        manager->scanning = true;
        manager->again = false;
        manager->generation++;
        marks_deinit(&manager->marks);
        words_clear(&manager->candidates);
        int r = link_call(&manager->helper->manager_link, &manager->call, on_directories, manager,
                          MANAGER_PATH, PROPERTIES, "Get", "ss", MANAGER_INTERFACE, "UnitPath");
        if (r < 0)
                scan_failed(manager, r, "UnitPath");
}

static int on_again(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *manager = userdata;
        if (link_is_up(&manager->helper->manager_link))
                scan(manager);
        return 0;
}

/* ---- Signals ---- */

static int on_job_removed(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Manager *manager = userdata;
        const char *job, *name, *result;
        uint32_t id;

        int r = sd_bus_message_read(message, "uoss", &id, &job, &name, &result);
        Unit *unit = r < 0 ? NULL : unit_find(manager->helper, name);
        if (unit)
                trigger_job_removed(&unit->trigger, job, result);
        return 0;
}

/* A unit was loaded. If it was started in the same moment this is the only signal, so even a unit that is
 * known is asked how it is; but never in a way that loads it, which would make it appear again. */
static int on_unit_new(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Manager *manager = userdata;
        const char *name;
        Marks marks = {};

        if (sd_bus_message_read(message, "s", &name) < 0 || !unit_name_is_usable(name) ||
            manager->n_asks >= MAX_UNITS)
                return 0;
        int r = 0;
        if (is_asked(manager, name))
                return 0;
        if (unit_find(manager->helper, name))
                r = ask(manager, name, "GetUnit");
        else if (marks_cover(&manager->marks, name) ||
                 (scan_unit(&marks, &manager->directories, name) >= 0 && marks_cover(&marks, name)))
                r = ask(manager, name, "LoadUnit");
        if (r < 0)
                log_warning_errno(r, "%s: cannot be looked at", name);
        marks_deinit(&marks);
        return 0;
}

/* A daemon-reload removes all units and makes them anew, with no harm to any: only one that is not there
 * when it is asked for was really unloaded. */
static int on_unit_removed(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Manager *manager = userdata;
        const char *name;
        int r = sd_bus_message_read(message, "s", &name);
        if (r >= 0 && unit_find(manager->helper, name) && !is_asked(manager, name))
                r = ask(manager, name, "GetUnit");
        if (r < 0)
                log_warning_errno(r, "a unit that was unloaded cannot be looked at");
        return 0;
}

static int on_reloading(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        int active;
        if (sd_bus_message_read(message, "b", &active) >= 0 && !active)
                scan(userdata);
        return 0;
}

static int on_properties_changed(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Manager *manager = userdata;
        _cleanup_(freep) char *name = NULL;
        _cleanup_(facts_deinit) Facts facts = {};
        const char *interface;

        if (sd_bus_path_decode(sd_bus_message_get_path(message), UNIT_PATH, &name) <= 0)
                return 0;
        Unit *unit = unit_find(manager->helper, name);
        if (!unit || sd_bus_message_read(message, "s", &interface) < 0 ||
            strcmp(interface, UNIT_INTERFACE) != 0 || read_properties(message, &facts) < 0)
                return 0;
        if (facts.has_state || facts.has_invocation)
                unit_set_state(unit, facts.has_state ? facts.state : unit->state,
                               facts.has_invocation ? facts.invocation : NULL);
        return 0;
}

static int on_subscribed(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        return 0; /* "already subscribed" is as good */
}

/* ---- The connection ---- */

static void on_up(void *userdata) {
        Helper *helper = userdata;
        Manager *m = helper->manager;
        Link *link = &helper->manager_link;

        int r = link_match(link, &m->match_job, MANAGER_PATH, MANAGER_INTERFACE, "JobRemoved",
                           on_job_removed, m);
        if (r >= 0)
                r = link_match(link, &m->match_new, MANAGER_PATH, MANAGER_INTERFACE, "UnitNew", on_unit_new,
                               m);
        if (r >= 0)
                r = link_match(link, &m->match_removed, MANAGER_PATH, MANAGER_INTERFACE, "UnitRemoved",
                               on_unit_removed, m);
        if (r >= 0)
                r = link_match(link, &m->match_reloading, MANAGER_PATH, MANAGER_INTERFACE, "Reloading",
                               on_reloading, m);
        if (r >= 0)
                r = link_match(link, &m->match_properties, NULL, PROPERTIES, "PropertiesChanged",
                               on_properties_changed, m);
        if (r >= 0)
                r = link_call(link, &m->call_subscribe, on_subscribed, m, MANAGER_PATH, MANAGER_INTERFACE,
                              "Subscribe", NULL);
        if (r < 0) {
                log_warning_errno(r, "cannot follow PID 1, trying again");
                link_drop(link);
                return;
        }
        scan(m);
}

static void on_down(void *userdata) {
        Helper *helper = userdata;
        Manager *m = helper->manager;
        Unit *unit, *next;

        while (m->asks)
                ask_free(m->asks);
        m->call = sd_bus_slot_unref(m->call);
        m->call_subscribe = sd_bus_slot_unref(m->call_subscribe);
        m->match_job = sd_bus_slot_unref(m->match_job);
        m->match_new = sd_bus_slot_unref(m->match_new);
        m->match_removed = sd_bus_slot_unref(m->match_removed);
        m->match_reloading = sd_bus_slot_unref(m->match_reloading);
        m->match_properties = sd_bus_slot_unref(m->match_properties);
        m->scanning = m->asking = m->again = false;
        words_clear(&m->candidates);
        HASH_ITER (hh, helper->units, unit, next)
                trigger_manager_down(&unit->trigger);
}

int manager_init(Helper *helper) {
        Manager *manager = calloc(1, sizeof(Manager));
        if (!manager)
                return -ENOMEM;
        manager->helper = helper;
        helper->manager = manager;
        helper->manager_link = (Link){
                .what = "PID 1",
                .private_path = "/run/systemd/private",
                .destination = "org.freedesktop.systemd1",
                .up = on_up,
                .down = on_down,
                .userdata = helper,
        };
        int r = sd_event_add_time(helper->event, &manager->again_timer, CLOCK_BOOTTIME, 0, 0, on_again,
                                  manager);
        if (r >= 0)
                r = sd_event_source_set_enabled(manager->again_timer, SD_EVENT_OFF);
        return r < 0 ? r : link_start(&helper->manager_link, helper->event);
}

void manager_deinit(Helper *helper) {
        Manager *manager = helper->manager;
        if (!manager)
                return;
        link_deinit(&helper->manager_link); /* its down() needs the manager */
        helper->manager = NULL;
        manager->again_timer = sd_event_source_disable_unref(manager->again_timer);
        words_clear(&manager->directories);
        words_clear(&manager->candidates);
        marks_deinit(&manager->marks);
        free(manager);
}
