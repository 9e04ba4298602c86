/* What a client of the private socket sends: the reader that looks at it before sd-bus does. What it takes
 * for a plain call, sd-bus has to understand in the same way. */
#include "fuzz.h"

#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-bus.h>
#include <unistd.h>
#include "dbus/plain.h"

typedef struct Heard {
        const Plain *plain;
        bool heard;
} Heard;

static int on_message(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Heard *heard = userdata;
        const Plain *plain = heard->plain;
        const char *path, *member = sd_bus_message_get_member(m);
        uint64_t flags, cookie;

        if (!member || sd_bus_message_is_signal(m, NULL, NULL))
                return 0; /* sd-bus's own */
        must(strcmp(member, plain->set ? "Set" : "Get") == 0);
        must(strcmp(sd_bus_message_get_interface(m), "org.treaty1.Tree") == 0);
        must(strcmp(sd_bus_message_get_path(m), "/org/treaty1") == 0);
        must(sd_bus_message_get_cookie(m, &cookie) >= 0 && cookie == plain->serial);
        must(sd_bus_message_get_expect_reply(m) > 0);
        must(sd_bus_message_read(m, "s", &path) > 0 && strcmp(path, plain->path) == 0);
        if (plain->set) {
                const void *value;
                size_t size;
                must(sd_bus_message_read_array(m, 'y', &value, &size) >= 0 && size == plain->value.size);
                must(size == 0 || memcmp(value, plain->value.data, size) == 0);
        }
        must(sd_bus_message_read(m, "t", &flags) > 0 && flags == plain->flags);
        must(sd_bus_message_enter_container(m, 'a', "{sv}") >= 0 && sd_bus_message_at_end(m, false) > 0);
        heard->heard = true;
        return 1;
}

/* A client's side of the authentication, ours, and then the message. */
static void ask_sd_bus(const uint8_t *data, const Plain *plain) {
        static const char hello[] = "\0AUTH ANONYMOUS\r\nBEGIN\r\n";
        Heard heard = {.plain = plain};
        sd_bus *bus;
        int fds[2];

        must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
        must(sd_bus_new(&bus) >= 0 && sd_bus_set_fd(bus, fds[0], fds[0]) >= 0);
        must(sd_bus_set_anonymous(bus, true) >= 0 && sd_bus_set_trusted(bus, true) >= 0);
        must(sd_bus_set_server(
                     bus, true,
                     SD_ID128_MAKE(6f, 1d, 6c, 0e, 52, 8a, 4b, d6, 9e, 1b, 3f, 7a, 22, c4, 90, 5d)) >= 0);
        must(sd_bus_start(bus) >= 0 && sd_bus_add_filter(bus, NULL, on_message, &heard) >= 0);
        must(write(fds[1], hello, sizeof(hello) - 1) == sizeof(hello) - 1);
        must(write(fds[1], data, plain->size) == (ssize_t)plain->size);
        for (int i = 0; i < 20 && !heard.heard; i++)
                must(sd_bus_process(bus, NULL) >= 0);
        must(heard.heard);
        sd_bus_close_unref(bus);
        close(fds[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        Plain plain;
        /* Exactly as large as it is, so that a sanitizer sees what lies behind it. */
        uint8_t *exact = malloc(size + !size);

        must(exact);
        if (size > 0)
                memcpy(exact, data, size);
        if (plain_read(exact, size, &plain)) {
                must(plain.size <= size && plain.serial != 0);
                fuzz_touch(plain.path, strlen(plain.path));
                fuzz_touch(plain.value.data, plain.value.size);
                ask_sd_bus(exact, &plain);
        }
        free(exact);
        return 0;
}

/* As libtreaty sends them. */
static size_t message(uint8_t *to, const char *member, const char *signature, const void *body,
                      size_t size) {
        static const uint8_t path[] = "\1\1o\0\14\0\0\0/org/treaty1\0\0\0";
        uint8_t *at = to + 16;

        memset(to, 0, 512);
        memcpy(to, "l\1\0\1", 4);
        bytes_put_u32(to + 4, (uint32_t)size);
        bytes_put_u32(to + 8, 7);
        memcpy(at, path, 24);
        memcpy(at + 24, "\3\1s\0\3\0\0\0", 8);
        memcpy(at + 32, member, 3);
        memcpy(at + 40, "\2\1s\0\20\0\0\0org.treaty1.Tree", 24);
        memcpy(at + 72, "\10\1g", 3);
        at[76] = (uint8_t)strlen(signature);
        memcpy(at + 77, signature, strlen(signature));
        size_t fields = 77 + strlen(signature) + 1;
        bytes_put_u32(to + 12, (uint32_t)fields);
        fields = (fields + 7) & ~(size_t)7;
        memcpy(at + fields, body, size);
        return 16 + fields + size;
}

void fuzz_seeds(FuzzSeed seed) {
        static const uint8_t get[] = "\4\0\0\0/key\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        static const uint8_t set[] = "\4\0\0\0/key\0\0\0\0\5\0\0\0value\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        uint8_t to[512];
        Plain plain;

        size_t size = message(to, "Get", "sta{sv}", get, 32);
        must(plain_read(to, size, &plain) && !plain.set && plain.flags == 1 && plain.size == size);
        seed("get", to, size);
        size = message(to, "Set", "sayta{sv}", set, 40);
        must(plain_read(to, size, &plain) && plain.set && plain.value.size == 5 &&
             !plain_read(to, size - 1, &plain));
        seed("set", to, size);
}
