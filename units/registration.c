/* A registration follows its unit: there while the unit is active or reloading, gone from the moment it
 * begins to stop. What the agent holds and what should be are compared, and one step is made towards it; so
 * a restart of agent or helper changes nothing, and nothing is ever withdrawn only to be added again.
 *
 *      held   wanted   step
 *      -      A        RegisterUnit A           (also when A is held but not yet confirmed: it does nothing
 * then) A      -        UnregisterUnit A A      B        UnregisterUnit A, then RegisterUnit B: the unit was
 * started anew, or its files changed */
#include <stdio.h>
#include "agent/base/unitfile.h"
#include "agent/journal.h"
#include "helper.h"

#define SERVICES_PATH      "/org/treaty1"
#define SERVICES_INTERFACE "org.treaty1.Services"

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata) {
        registration_look(userdata);
        return 0;
}

void registration_init(Registration *registration, Unit *unit) {
        *registration = (Registration){.unit = unit};
}

void registration_deinit(Registration *registration) {
        registration->call = sd_bus_slot_unref(registration->call);
        registration->retry = sd_event_source_disable_unref(registration->retry);
        free(TAKE(registration->service));
}

static bool wanted(const Registration *registration) {
        const Unit *unit = registration->unit;
        return section_has_service(&unit->section) && unit_is_registered_state(unit) && unit->invocation[0];
}

/* Is what the agent holds at the place where it should be? */
static bool fits(const Registration *registration) {
        const Unit *unit = registration->unit;
        return strcmp(registration->invocation, unit->invocation) == 0 && registration->service &&
               strcmp(registration->service, unit->section.service) == 0 &&
               registration->port == unit->section.port;
}

static void hold(Registration *registration, const char *invocation, const char *service, uint16_t port) {
        if (strcmp(registration->invocation, invocation) != 0)
                registration->told = false;
        snprintf(registration->invocation, sizeof(registration->invocation), "%s", invocation);
        free(registration->service);
        registration->service = strdup(service); /* NULL fits nothing: it is withdrawn and made anew */
        registration->port = port;
        registration->confirmed = false;
}

static void hold_nothing(Registration *registration) {
        registration->invocation[0] = 0;
        registration->confirmed = false;
        free(TAKE(registration->service));
}

static void later(Registration *registration, const char *what, const char *why) {
        Unit *unit = registration->unit;

        registration->failures++;
        snprintf(registration->message, sizeof(registration->message), "%s: %.200s", what, why);
        text_mend(registration->message);
        log_unit(registration->failures == 1 ? LOG_WARNING : LOG_DEBUG, unit->name,
                 "%s: cannot %s %s: %s; trying again", unit->name, what,
                 unit->section.service ? unit->section.service : "its service", why);

        uint64_t at = now_usec() + backoff_usec(registration->failures);
        if (!registration->retry)
                (void)sd_event_add_time(unit->helper->event, &registration->retry, CLOCK_BOOTTIME, at, 0,
                                        on_retry, registration);
        else {
                (void)sd_event_source_set_time(registration->retry, at);
                (void)sd_event_source_set_enabled(registration->retry, SD_EVENT_ONESHOT);
        }
}

static bool waits(const Registration *registration) {
        return registration->call ||
               (registration->retry && sd_event_source_get_enabled(registration->retry, NULL) > 0);
}

static void went_well(Registration *registration) {
        registration->failures = 0;
        registration->message[0] = 0;
}

/* ---- Steps ---- */

static int on_registered(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Registration *registration = userdata;
        Unit *unit = registration->unit;
        registration->call = sd_bus_slot_unref(registration->call);

        const sd_bus_error *e = sd_bus_message_get_error(message);
        if (e) {
                /* It may have happened all the same: if the unit stops now it must be withdrawn. */
                later(registration, "register", e->message ? e->message : e->name);
                return 0;
        }
        went_well(registration);
        if (fits(registration)) {
                registration->confirmed = true;
                log_unit(registration->told ? LOG_DEBUG : LOG_INFO, unit->name, "%s: registered as %s",
                         unit->name, registration->service);
                registration->told = true;
        }
        registration_look(registration);
        return 0;
}

static int append_words(sd_bus_message *message, const char *name, const Words *words) {
        int r = sd_bus_message_open_container(message, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(message, "s", name);
        if (r >= 0)
                r = sd_bus_message_open_container(message, 'v', "as");
        if (r >= 0)
                r = sd_bus_message_open_container(message, 'a', "s");
        for (size_t i = 0; r >= 0 && i < words->n; i++)
                r = sd_bus_message_append(message, "s", words->items[i]);
        for (int i = 0; r >= 0 && i < 3; i++)
                r = sd_bus_message_close_container(message);
        return r;
}

static int append_properties(sd_bus_message *message, const Words *properties) {
        int r = sd_bus_message_open_container(message, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(message, "s", "properties");
        if (r >= 0)
                r = sd_bus_message_open_container(message, 'v', "a{ss}");
        if (r >= 0)
                r = sd_bus_message_open_container(message, 'a', "{ss}");
        for (size_t i = 0; r >= 0 && i < properties->n; i++) {
                const char *item = properties->items[i], *equal = strchr(item, '=');
                _cleanup_(freep) char *key = strndup(item, (size_t)(equal - item));
                r = key ? sd_bus_message_append(message, "{ss}", key, equal + 1) : -ENOMEM;
        }
        for (int i = 0; r >= 0 && i < 3; i++)
                r = sd_bus_message_close_container(message);
        return r;
}

static int append_options(sd_bus_message *message, const Section *section) {
        int r = sd_bus_message_open_container(message, 'a', "{sv}");
        if (r >= 0 && section->address)
                r = sd_bus_message_append(message, "{sv}", "address", "s", section->address);
        if (r >= 0 && section->has_priority)
                r = sd_bus_message_append(message, "{sv}", "priority", "q", section->priority);
        if (r >= 0 && section->has_weight)
                r = sd_bus_message_append(message, "{sv}", "weight", "q", section->weight);
        if (r >= 0 && section->texts.n > 0)
                r = append_words(message, "text", &section->texts);
        if (r >= 0 && section->properties.n > 0)
                r = append_properties(message, &section->properties);
        return r < 0 ? r : sd_bus_message_close_container(message);
}

static int do_register(Registration *registration) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *message = NULL;
        Unit *unit = registration->unit;
        const Section *section = &unit->section;
        Link *link = &unit->helper->agent_link;

        int r = link_message(link, &message, SERVICES_PATH, SERVICES_INTERFACE, "RegisterUnit");
        if (r >= 0)
                r = sd_bus_message_append(message, "sssq", section->service, unit->name, unit->invocation,
                                          section->port);
        if (r >= 0)
                r = append_options(message, section);
        if (r < 0)
                return r;
        hold(registration, unit->invocation, section->service, section->port);
        return link_send(link, message, &registration->call, on_registered, registration);
}

static int on_unregistered(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Registration *registration = userdata;
        Unit *unit = registration->unit;
        registration->call = sd_bus_slot_unref(registration->call);

        const sd_bus_error *e = sd_bus_message_get_error(message);
        if (e) {
                later(registration, "withdraw", e->message ? e->message : e->name);
                return 0;
        }
        went_well(registration);
        log_unit(LOG_INFO, unit->name, "%s: withdrawn as %s", unit->name,
                 registration->service ? registration->service : "a service");
        hold_nothing(registration);
        registration_look(registration);
        return 0;
}

static int do_unregister(Registration *registration) {
        Unit *unit = registration->unit;
        return link_call(&unit->helper->agent_link, &registration->call, on_unregistered, registration,
                         SERVICES_PATH, SERVICES_INTERFACE, "UnregisterUnit", "ss", unit->name,
                         registration->invocation);
}

void registration_look(Registration *registration) {
        Unit *unit = registration->unit;
        Helper *helper = unit->helper;
        int r = 0;

        /* Before both sides are known, "should not be there" cannot be told from "not seen yet". */
        if (waits(registration) || !link_is_up(&helper->agent_link) || !helper->listed || !helper->scanned)
                return;
        if (registration->invocation[0] && !(wanted(registration) && fits(registration)))
                r = do_unregister(registration);
        else if (wanted(registration) && !registration->confirmed)
                r = do_register(registration);
        else {
                unit_drop_when_done(unit);
                return;
        }
        if (r < 0)
                later(registration, "call the agent for", strerror(-r));
}

/* ---- The agent's side ---- */

void registration_agent_down(Registration *registration) {
        registration->call = sd_bus_slot_unref(registration->call);
        registration->confirmed = false;
        if (registration->retry)
                (void)sd_event_source_set_enabled(registration->retry, SD_EVENT_OFF);
        registration->failures = 0;
}

/* The port is what stands behind the last ':' of /services/NAME/HOST[:PORT]. */
static uint16_t port_of(const char *path) {
        const char *colon = strrchr(path, ':');
        uint64_t port = 0;
        if (colon && unitfile_unsigned(colon + 1, UINT16_MAX, &port) < 0)
                port = 0;
        return (uint16_t)port;
}

void registration_found(Registration *registration, const char *service, const char *invocation,
                        const char *path) {
        Unit *unit = registration->unit;

        /* Of several the present one stays ours; the others are left-overs. */
        if (registration->invocation[0] && strcmp(registration->invocation, unit->invocation) == 0 &&
            strcmp(registration->invocation, invocation) != 0) {
                (void)link_call(&unit->helper->agent_link, NULL, NULL, NULL, SERVICES_PATH,
                                SERVICES_INTERFACE, "UnregisterUnit", "ss", unit->name, invocation);
                return;
        }
        hold(registration, invocation, service, port_of(path));
        registration->told = true;
}

void registration_forget(Registration *registration) {
        hold_nothing(registration);
}

const char *registration_state(const Registration *registration) {
        bool want = wanted(registration);
        if (registration->failures > 0)
                return "failed";
        if (want)
                return registration->confirmed ? "registered" : "registering";
        return registration->invocation[0] ? "withdrawing" : "inactive";
}
