/* What programs say on the bus beyond what sd-bus checks: options of a call, ids of requests; and what other
 * hosts left in the tree: the JSON of an instance; and what an earlier process left in the fd store: names
 * and packets of kept fds. The first byte chooses. */
#include "fuzz.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "dbus/error.h"
#include "dbus/fdrecord.h"
#include "dbus/instance.h"
#include "dbus/options.h"

static sd_bus *bus;

static void open_bus(void) {
        int fds[2];
        must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0 && sd_bus_new(&bus) >= 0);
        must(sd_bus_set_fd(bus, fds[0], fds[0]) >= 0 && sd_bus_start(bus) >= 0);
}

static void text_of(FuzzReader in, char *to, size_t size) {
        snprintf(to, size, "%.*s", (int)(in.size < size ? in.size : size - 1), (const char *)in.data);
}

static void poke_instance(FuzzReader in) {
        static const char *const paths[] = {"/services/web/h1", "/services/web/h1:80",
                                            "/services/web/h1:99999", "/services//h1", "/services/web/h1:"};
        Instance instance;
        const char *path = paths[fuzz_u8(&in) % 5];
        if (instance_parse(path, BYTES(in.data, in.size), &instance) != 0)
                return;
        must(strnlen(instance.address, sizeof(instance.address)) < sizeof(instance.address));
        must(strcmp(instance.name, "web") == 0 && strcmp(instance.host, "h1") == 0);
        char *json = NULL;
        int r = instance_json(&instance, NULL, NULL, &json);
        must(r == 0 || r == -E2BIG);
        free(json);
}

static void poke_request_id(FuzzReader in) {
        char text[300], again[REQUEST_ID_BYTES];
        uint64_t incarnation, serial;
        text_of(in, text, sizeof(text));
        if (request_id_parse(text, &incarnation, &serial) == 0)
                must(strcmp(request_id_write(again, incarnation, serial), text) == 0);
}

static void append_value(FuzzReader *in, sd_bus_message *m, uint8_t how) {
        const char *word = how & 16 ? "" : "words";
        switch (how % 7) {
        case 0:
                must(sd_bus_message_append(m, "v", "t", fuzz_near(in, 0)) >= 0);
                return;
        case 1:
                must(sd_bus_message_append(m, "v", "u", (uint32_t)fuzz_near(in, 0)) >= 0);
                return;
        case 2:
                must(sd_bus_message_append(m, "v", "q", fuzz_u16(in)) >= 0);
                return;
        case 3:
                must(sd_bus_message_append(m, "v", "s", word) >= 0);
                return;
        case 4:
                must(sd_bus_message_append(m, "v", "as", 2, word, "b") >= 0);
                return;
        case 5:
                must(sd_bus_message_append(m, "v", "a{ss}", 2, word, "b", how & 32 ? word : "c", "d") >= 0);
                return;
        default:
                must(sd_bus_message_append(m, "v", "(iv)", 1, "a{sv}", 0) >= 0);
                return;
        }
}

static void poke_options(FuzzReader in) {
        static const char *const names[] = {"T", "U", "Q", "S", "Strings", "Pairs", "", "Unknown"};
        uint64_t t = 0;
        uint32_t u = 0;
        uint16_t q = 0;
        const char *s = NULL;
        char **strings = NULL, **pairs = NULL, why[256] = "";
        const Option options[] = {{"T", 't', &t, NULL},
                                  {"U", 'u', &u, NULL},
                                  {"Q", 'q', &q, NULL},
                                  {"S", 's', &s, NULL},
                                  {"Strings", 'S', &strings, NULL},
                                  {"Pairs", 'D', &pairs, NULL}};
        sd_bus_message *m;
        if (!bus)
                open_bus();
        must(sd_bus_message_new_method_call(bus, &m, NULL, "/", "a.b", "C") >= 0);
        must(sd_bus_message_open_container(m, 'a', "{sv}") >= 0);
        for (unsigned n = 0; n < 100 && in.size > 0; n++) {
                uint8_t how = fuzz_u8(&in);
                must(sd_bus_message_open_container(m, 'e', "sv") >= 0);
                must(sd_bus_message_append(m, "s", names[(how >> 3) & 7]) >= 0);
                append_value(&in, m, how & 128 ? how : (how >> 3) & 7);
                must(sd_bus_message_close_container(m) >= 0);
        }
        must(sd_bus_message_close_container(m) >= 0 && sd_bus_message_seal(m, 1, 0) >= 0);
        int r = options_read(m, options, 6, why, sizeof(why));
        must(r == 0 || (r == 1 && why[0]) || r < 0);
        for (char **p = strings; p && *p; p++)
                fuzz_touch(*p, strlen(*p));
        strv_free(strings);
        strv_free(pairs);
        sd_bus_message_unref(m);
}

static void poke_fd_name(FuzzReader in) {
        char name[100];
        text_of(in, name, sizeof(name));
        const char *hex = fd_name_read(name);
        if (hex)
                must(strlen(hex) == FD_HEX && strlen(name) == FD_HEX + strlen(FD_NAME_PREFIX));
}

static void poke_fd_record(FuzzReader in) {
        /* Exactly as large as it is, so that a sanitizer sees what lies behind it. */
        char *packet = malloc(in.size + !in.size);
        const char *path;
        Bytes value;
        must(packet);
        memcpy(packet, in.size > 0 ? (const char *)in.data : "", in.size);
        if (fd_record_read(BYTES(packet, in.size), &path, &value) == 0) {
                must(path == packet && path[0] == '/' && strlen(path) <= LIMIT_PATH_BYTES);
                must(strlen(path) + 1 + value.size == in.size);
                fuzz_touch(value.data, value.size);
        }
        free(packet);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FuzzReader in = {data, size};
        uint8_t which = fuzz_u8(&in);
        if (which == 'N') {
                poke_fd_name(in);
                return 0;
        }
        if (which == 'R') {
                poke_fd_record(in);
                return 0;
        }
        switch (which % 3) {
        case 0:
                poke_instance(in);
                break;
        case 1:
                poke_request_id(in);
                break;
        default:
                poke_options(in);
        }
        return 0;
}

void fuzz_seeds(FuzzSeed seed) {
        char *json = NULL, text[4096];
        Instance instance = {.name = "web",
                             .host = "h1",
                             .address = "fd00::1",
                             .port = 80,
                             .priority = 3,
                             .weight = 7,
                             .ttl = 5};
        char *words[] = {"version", "2", NULL};
        must(instance_json(&instance, words, words, &json) == 0);
        int n = snprintf(text, sizeof(text), "%c%c%s", 3, 5, json);
        seed("instance", text, (size_t)n);
        free(json);
        seed("request",
             "\1"
             "00000000000000ff.18446744073709551615",
             38);
        seed("fd-name", "Nown-0123456789abcdef0123456789abcdef", 37);
        seed("fd-record",
             "R/services/web/h1\0"
             "value",
             23);
        static const uint8_t options[] = {2, 0, 1, 8, 2, 16, 3, 24, 32, 40, 128, 200, 250, 56, 0, 0};
        seed("options", options, sizeof(options));
        static const uint8_t pairs[] = {2, 40, 24, 16, 9, 9, 0, 4};
        seed("pairs", pairs, sizeof(pairs));
}
