/* triggers: what treaty-units does on this host. It is asked on its own socket, which is root's. */
#include "ctl.h"

#include <inttypes.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <time.h>

#define UNITS_SOCKET    "/run/treaty-units/private"
#define UNITS_OBJECT    "/org/treaty1/units"
#define UNITS_INTERFACE "org.treaty1.Units"

static int open_units(sd_bus **ret) {
        _cleanup_(sd_bus_close_unrefp) sd_bus *bus = NULL;
        const char *socket = secure_getenv("TREATY_UNITS_SOCKET");
        char address[256];
        int r;

        if (!socket)
                socket = UNITS_SOCKET;
        if (socket[0] != '/' || strpbrk(socket, ",;:=%") ||
            snprintf(address, sizeof(address), "unix:path=%s", socket) >= (int)sizeof(address))
                return -EINVAL;
        if ((r = sd_bus_new(&bus)) < 0 || (r = sd_bus_set_address(bus, address)) < 0 ||
            (r = sd_bus_start(bus)) < 0)
                return r;
        *ret = TAKE(bus);
        return 0;
}

static int set_value(json_t *object, const char *key, json_t *value) {
        return json_object_set_new(object, key, value) < 0 ? -ENOMEM : 0;
}

static json_t *time_json(uint64_t usec) {
        return usec == 0 ? json_null() : json_u64(usec);
}

static json_t *read_texts(sd_bus_message *reply) {
        _cleanup_(json_decrefp) json_t *texts = json_array();
        const char *text;
        int r = texts ? sd_bus_message_enter_container(reply, 'a', "s") : -ENOMEM;

        while (r >= 0 && (r = sd_bus_message_read(reply, "s", &text)) > 0)
                if (json_array_append_new(texts, json_string(text)) < 0)
                        return NULL;
        if (r < 0 || sd_bus_message_exit_container(reply) < 0)
                return NULL;
        return TAKE(texts);
}

/* 1: a row; 0: that was all. */
static int read_trigger(sd_bus_message *reply, json_t *row) {
        const char *unit, *action, *state, *result, *message, *source;
        uint64_t revision, begun;
        json_t *paths;
        int r = sd_bus_message_enter_container(reply, 'r', "sassssttss");

        if (r <= 0)
                return r;
        r = sd_bus_message_read(reply, "s", &unit);
        if (r < 0)
                return r;
        paths = read_texts(reply);
        if (!paths)
                return -EBADMSG;
        if (set_value(row, "unit", json_string(unit)) < 0 || set_value(row, "paths", paths) < 0)
                return -ENOMEM;
        r = sd_bus_message_read(reply, "sssttss", &action, &state, &result, &revision, &begun, &message,
                                &source);
        if (r < 0)
                return r;
        if (set_value(row, "action", json_string(action)) < 0 ||
            set_value(row, "state", json_string(state)) < 0 ||
            set_value(row, "result", json_string(result)) < 0 ||
            set_value(row, "revision", json_u64(revision)) < 0 ||
            set_value(row, "begun_usec", time_json(begun)) < 0 ||
            set_value(row, "message", json_string(message)) < 0 ||
            set_value(row, "source", json_string(source)) < 0)
                return -ENOMEM;
        r = sd_bus_message_exit_container(reply);
        return r < 0 ? r : 1;
}

static int read_service(sd_bus_message *reply, json_t *row) {
        const char *unit, *service, *state, *message;
        uint16_t port;
        int r = sd_bus_message_read(reply, "(ssqss)", &unit, &service, &port, &state, &message);

        if (r <= 0)
                return r;
        if (set_value(row, "unit", json_string(unit)) < 0 ||
            set_value(row, "service", json_string(service)) < 0 ||
            set_value(row, "port", json_integer(port)) < 0 ||
            set_value(row, "state", json_string(state)) < 0 ||
            set_value(row, "message", json_string(message)) < 0)
                return -ENOMEM;
        return 1;
}

static int read_rows(sd_bus_message *reply, const char *type, int (*read_row)(sd_bus_message *, json_t *),
                     json_t *rows) {
        int r = sd_bus_message_enter_container(reply, 'a', type);

        while (r >= 0) {
                _cleanup_(json_decrefp) json_t *row = json_object();
                r = row ? read_row(reply, row) : -ENOMEM;
                if (r <= 0)
                        break;
                if (json_array_append_new(rows, TAKE(row)) < 0)
                        return -ENOMEM;
        }
        return r;
}

static ExitCode fail_units(int error, const sd_bus_error *e) {
        if (error == -EACCES)
                return ctl_complain(EXIT_DENIED, "Cannot ask treaty-units: only root may (%s)",
                                    UNITS_SOCKET);
        if (e && e->message)
                return ctl_complain(exit_code(error), "Cannot ask treaty-units: %s", e->message);
        return ctl_complain(
                EXIT_ERROR,
                "Cannot ask treaty-units (%s: %s): start it with \"systemctl start treaty-units.service\", "
                "see \"journalctl -u treaty-units.service\"",
                UNITS_SOCKET, strerror(-error));
}

/* For the table: when, for a person; a broken unit's place; a dash for what is not there. */
static void prepare_table(json_t *rows) {
        json_t *row, *value;
        const char *key;
        size_t i;
        void *n;

        json_array_foreach(rows, i, row) {
                json_t *begun = json_object_get(row, "begun_usec");
                if (json_is_integer(begun)) {
                        time_t seconds = (time_t)(json_integer_value(begun) / (json_int_t)USEC_PER_SEC);
                        char text[64] = "";
                        struct tm tm;
                        if (localtime_r(&seconds, &tm))
                                strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
                        json_object_set_new(row, "begun_usec", json_string(text));
                }
                json_object_foreach_safe(row, n, key,
                                         value) if (json_is_string(value) && json_string_length(value) == 0)
                        json_object_set_new(row, key, json_null());
        }
}

ExitCode verb_triggers(Ctl *ctl) {
        static const Column triggers[] = {
                {"unit", "UNIT"},
                {"paths", "PATHS", .shorten = true},
                {"action", "ACTION"},
                {"state", "STATE", .color = color_state},
                {"result", "RESULT", .color = color_state},
                {"revision", "REVISION", .right = true},
                {"begun_usec", "LAST"},
                {"message", "MESSAGE"},
        };
        static const Column services[] = {
                {"unit", "UNIT"},
                {"service", "SERVICE"},
                {"port", "PORT", .right = true},
                {"state", "STATE", .color = color_state},
                {"message", "MESSAGE"},
        };
        _cleanup_(sd_bus_close_unrefp) sd_bus *bus = NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_(json_decrefp) json_t *rows = json_array();
        bool of_services = cmdline_given(ctl->cl, OPTION_SERVICES);
        int r;

        if (cmdline_given(ctl->cl, OPTION_HOST) || cmdline_given(ctl->cl, OPTION_MACHINE))
                return ctl_complain(EXIT_USAGE, "treaty-units answers only on its own host: run this there");
        r = rows ? open_units(&bus) : -ENOMEM;
        if (r < 0)
                return fail_units(r, NULL);
        r = sd_bus_call_method(bus, NULL, UNITS_OBJECT, UNITS_INTERFACE,
                               of_services ? "ListServices" : "ListTriggers", &error, &reply, NULL);
        if (r < 0)
                return fail_units(r, sd_bus_error_is_set(&error) ? &error : NULL);
        r = of_services ? read_rows(reply, "(ssqss)", read_service, rows)
                        : read_rows(reply, "(sassssttss)", read_trigger, rows);
        if (r < 0)
                return fail_units(r, NULL);
        if (ctl->output.json == JSON_OFF)
                prepare_table(rows);
        return ctl_printed(of_services ? output_rows(&ctl->output, rows, services, ELEMENTSOF(services))
                                       : output_rows(&ctl->output, rows, triggers, ELEMENTSOF(triggers)));
}
