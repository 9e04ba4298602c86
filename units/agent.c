/* The agent as the helper sees it: first which cluster this is, then the watches, then what it holds on
 * behalf of units. Everything is asked for again when the connection was lost, when a watch ended, and when
 * the host joined another cluster. */
#include <stdio.h>
#include "agent/journal.h"
#include "helper.h"

#define AGENT_PATH         "/org/treaty1"
#define CLUSTER_INTERFACE  "org.treaty1.Cluster"
#define SERVICES_INTERFACE "org.treaty1.Services"
#define PROPERTIES         "org.freedesktop.DBus.Properties"

static void ask_cluster(Helper *helper);

void agent_retry(Helper *helper) {
        if (sd_event_source_get_enabled(helper->agent_retry, NULL) > 0)
                return;
        helper->agent_failures = MIN(helper->agent_failures + 1, 6u);
        (void)sd_event_source_set_time(helper->agent_retry,
                                       now_usec() + backoff_usec(helper->agent_failures) / 2);
        (void)sd_event_source_set_enabled(helper->agent_retry, SD_EVENT_ONESHOT);
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata) {
        Helper *helper = userdata;
        if (link_is_up(&helper->agent_link))
                ask_cluster(helper);
        return 0;
}

/* ---- Registrations ---- */

static int read_registrations(Helper *helper, sd_bus_message *message) {
        const char *service, *unit, *invocation, *path;
        int r = sd_bus_message_enter_container(message, 'a', "(ssss)");
        while (r >= 0 &&
               (r = sd_bus_message_read(message, "(ssss)", &service, &unit, &invocation, &path)) > 0)
                unit_found_registered(helper, unit, service, invocation, path);
        return r;
}

static int on_registrations(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Helper *helper = userdata;
        Unit *unit, *next;
        helper->agent_call = sd_bus_slot_unref(helper->agent_call);

        HASH_ITER (hh, helper->units, unit, next)
                if (!unit->registration.call)
                        registration_forget(&unit->registration);
        int r = sd_bus_message_is_method_error(message, NULL) ? -sd_bus_message_get_errno(message)
                                                              : read_registrations(helper, message);
        if (r < 0) {
                log_debug("cannot list the agent's registrations: %s", strerror(-r));
                agent_retry(helper);
                return 0;
        }
        helper->listed = true;
        helper->agent_failures = 0;
        HASH_ITER (hh, helper->units, unit, next)
                registration_look(&unit->registration);
        return 0;
}

void agent_look(Helper *helper) {
        if (!helper->cluster[0] || !helper->scanned || helper->listed || helper->agent_call)
                return;
        int r = link_call(&helper->agent_link, &helper->agent_call, on_registrations, helper, AGENT_PATH,
                          SERVICES_INTERFACE, "ListUnits", NULL);
        if (r < 0)
                agent_retry(helper);
}

/* ---- The cluster ---- */

static void forget(Helper *helper) {
        Unit *unit, *next;
        helper->agent_call = sd_bus_slot_unref(helper->agent_call);
        helper->cluster[0] = 0;
        helper->listed = false;
        HASH_ITER (hh, helper->units, unit, next) {
                trigger_agent_down(&unit->trigger);
                registration_agent_down(&unit->registration);
        }
}

static int on_cluster(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Helper *helper = userdata;
        const char *cluster = "";
        Unit *unit, *next;
        helper->agent_call = sd_bus_slot_unref(helper->agent_call);

        if (sd_bus_message_is_method_error(message, NULL) ||
            sd_bus_message_read(message, "v", "s", &cluster) < 0 || cluster[0] == 0 ||
            strlen(cluster) > CLUSTER_TEXT_BYTES || strpbrk(cluster, " \n")) {
                agent_retry(helper);
                return 0;
        }
        if (helper->cluster[0] && strcmp(helper->cluster, cluster) != 0) {
                log_notice("this host is in another cluster now: %s", cluster);
                forget(helper);
        }
        snprintf(helper->cluster, sizeof(helper->cluster), "%s", cluster);
        HASH_ITER (hh, helper->units, unit, next)
                trigger_agent_up(&unit->trigger);
        agent_look(helper);
        return 0;
}

/* An answer under way is as good as a new one, unless it may be of the former cluster. */
static void ask_cluster(Helper *helper) {
        int r = link_call(&helper->agent_link, &helper->agent_call, on_cluster, helper, AGENT_PATH,
                          PROPERTIES, "Get", "ss", CLUSTER_INTERFACE, "ClusterId");
        if (r < 0)
                agent_retry(helper);
}

static bool names_cluster(sd_bus_message *message) {
        const char *interface, *name;
        if (sd_bus_message_read(message, "s", &interface) < 0 || strcmp(interface, CLUSTER_INTERFACE) != 0 ||
            sd_bus_message_enter_container(message, 'a', "{sv}") < 0)
                return false;
        while (sd_bus_message_enter_container(message, 'e', "sv") > 0) {
                if (sd_bus_message_read(message, "s", &name) < 0)
                        return false;
                if (strcmp(name, "ClusterId") == 0)
                        return true;
                if (sd_bus_message_skip(message, "v") < 0 || sd_bus_message_exit_container(message) < 0)
                        return false;
        }
        return false;
}

static int on_properties_changed(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        if (names_cluster(message))
                ask_cluster(userdata);
        return 0;
}

/* ---- The connection ---- */

static void on_up(void *userdata) {
        Helper *helper = userdata;
        int r = link_match(&helper->agent_link, &helper->agent_match, AGENT_PATH, PROPERTIES,
                           "PropertiesChanged", on_properties_changed, helper);
        if (r < 0) {
                link_drop(&helper->agent_link);
                return;
        }
        ask_cluster(helper);
}

static void on_down(void *userdata) {
        Helper *helper = userdata;
        helper->agent_match = sd_bus_slot_unref(helper->agent_match);
        (void)sd_event_source_set_enabled(helper->agent_retry, SD_EVENT_OFF);
        helper->agent_failures = 0;
        forget(helper);
}

int agent_init(Helper *helper) {
        helper->agent_link = (Link){
                .what = "the agent",
                .private_path = "/run/treaty/private",
                .destination = "org.treaty1",
                .up = on_up,
                .down = on_down,
                .userdata = helper,
        };
        int r = sd_event_add_time(helper->event, &helper->agent_retry, CLOCK_BOOTTIME, 0, 0, on_retry,
                                  helper);
        if (r >= 0)
                r = sd_event_source_set_enabled(helper->agent_retry, SD_EVENT_OFF);
        return r < 0 ? r : link_start(&helper->agent_link, helper->event);
}

void agent_deinit(Helper *helper) {
        if (!helper->agent_retry)
                return;
        link_deinit(&helper->agent_link);
        helper->agent_retry = sd_event_source_disable_unref(helper->agent_retry);
}
