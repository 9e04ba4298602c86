/* treaty-load: what the agent can do when it is asked by many at once.
 *
 * N clients, each with a connection of its own to a private socket and one request in flight: when the
 * answer comes, the next question leaves (a closed loop, so nothing queues up here and a slow agent is asked
 * more slowly). All of them live in one thread, because on a small machine the clients' own wake-ups would
 * be most of what is measured. Latencies go into a histogram whose buckets are about 1.5 % wide, so an hour
 * costs the memory of a second. What is said on stdout is one line of JSON. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <systemd/sd-bus.h>

#define NSEC_PER_SEC    UINT64_C(1000000000)
#define SUB_BITS        6 /* 64 buckets per power of two of nanoseconds */
#define BUCKETS         ((64 - SUB_BITS + 1) << SUB_BITS)
#define CLIENTS_MAX     4096
#define VALUE_MAX       (1024 * 1024)
#define EVENTS_PER_WAIT 64
#define DRAIN_SECONDS   15 /* the agent answers everything within ten */

typedef enum Verb { VERB_SET, VERB_GET, VERB_LINEARIZABLE, VERB_FILL } Verb;

typedef struct Load Load;

typedef struct Client {
        Load *load;
        sd_bus *bus;
        uint64_t sent_nsec;
        bool waiting;
        int events; /* what epoll watches for */
} Client;

struct Load {
        Verb verb;
        unsigned n_clients, n_keys, value_size;
        double seconds, warm_up;
        Client *clients;
        uint8_t *value;
        int epoll_fd;
        unsigned n_waiting, next_key;
        uint64_t random;
        uint64_t measure_nsec, end_nsec; /* answers in between count; no question leaves after the end */
        uint64_t buckets[BUCKETS], n, n_all, max_nsec, last_nsec;
        uint64_t n_errors;
        char error[256]; /* the first one */
};

static uint64_t now_nsec(void) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static void die(const char *what, int r) {
        fprintf(stderr, "treaty-load: %s: %s\n", what, strerror(-r));
        exit(EXIT_FAILURE);
}

/* ---- The histogram ---- */

static unsigned bucket_of(uint64_t value) {
        if (value < (UINT64_C(1) << SUB_BITS))
                return (unsigned)value;
        unsigned exponent = 63 - (unsigned)__builtin_clzll(value) - SUB_BITS;
        return ((exponent + 1) << SUB_BITS) + (unsigned)((value >> exponent) - (UINT64_C(1) << SUB_BITS));
}

static uint64_t bucket_middle(unsigned bucket) {
        unsigned octave = bucket >> SUB_BITS, sub = bucket & ((1u << SUB_BITS) - 1);
        if (octave == 0)
                return sub;
        uint64_t low = ((UINT64_C(1) << SUB_BITS) + sub) << (octave - 1);
        return low + (UINT64_C(1) << (octave - 1)) / 2;
}

static double quantile_usec(const Load *load, double q) {
        uint64_t wanted = (uint64_t)(q * (double)load->n), seen = 0;

        for (unsigned i = 0; i < BUCKETS; i++) {
                seen += load->buckets[i];
                if (seen > wanted)
                        return (double)bucket_middle(i) / 1000;
        }
        return (double)load->max_nsec / 1000;
}

static void note(Load *load, uint64_t sent_nsec, uint64_t now) {
        load->n_all++;
        if (load->verb != VERB_FILL && (now < load->measure_nsec || now >= load->end_nsec))
                return;
        uint64_t took = now - sent_nsec;
        load->buckets[bucket_of(took)]++;
        load->n++;
        load->last_nsec = now;
        if (took > load->max_nsec)
                load->max_nsec = took;
}

/* ---- Questions and answers ---- */

static unsigned choose_key(Load *load) {
        if (load->verb == VERB_FILL)
                return load->next_key++;
        load->random ^= load->random << 13;
        load->random ^= load->random >> 7;
        load->random ^= load->random << 17;
        return (unsigned)(load->random % load->n_keys);
}

static int fill_message(Load *load, sd_bus_message *m) {
        char path[32];

        snprintf(path, sizeof(path), "/bench/%05u", choose_key(load));
        int r = sd_bus_message_append(m, "s", path);
        if (r >= 0 && (load->verb == VERB_SET || load->verb == VERB_FILL))
                r = sd_bus_message_append_array(m, 'y', load->value, load->value_size);
        return r < 0 ? r
                     : sd_bus_message_append(m, "ta{sv}", (uint64_t)(load->verb == VERB_LINEARIZABLE), 0);
}

static int on_answer(sd_bus_message *answer, void *userdata, sd_bus_error *ret);

static bool is_over(const Load *load) {
        return load->verb == VERB_FILL ? load->next_key >= load->n_keys : now_nsec() >= load->end_nsec;
}

static int ask(Client *client) {
        Load *load = client->load;
        sd_bus_message *m = NULL;
        const char *method = load->verb == VERB_SET || load->verb == VERB_FILL ? "Set" : "Get";

        if (is_over(load))
                return 0;
        int r = sd_bus_message_new_method_call(client->bus, &m, "org.treaty1", "/org/treaty1",
                                               "org.treaty1.Tree", method);
        if (r >= 0)
                r = fill_message(load, m);
        client->sent_nsec = now_nsec();
        if (r >= 0)
                r = sd_bus_call_async(client->bus, NULL, m, on_answer, client, 0);
        sd_bus_message_unref(m);
        if (r >= 0) {
                client->waiting = true;
                load->n_waiting++;
        }
        return r;
}

static void note_error(Load *load, const sd_bus_error *error) {
        if (load->n_errors++ == 0)
                snprintf(load->error, sizeof(load->error), "%s", error->name);
}

static int on_answer(sd_bus_message *answer, void *userdata, sd_bus_error *ret) {
        Client *client = userdata;
        Load *load = client->load;

        client->waiting = false;
        load->n_waiting--;
        if (sd_bus_message_is_method_error(answer, NULL))
                note_error(load, sd_bus_message_get_error(answer));
        else
                note(load, client->sent_nsec, now_nsec());
        int r = ask(client);
        if (r < 0)
                die("a question cannot be asked", r);
        return 1;
}

/* ---- Connections ---- */

static void client_open(Load *load, Client *client, const char *socket) {
        char address[256];

        client->load = load;
        snprintf(address, sizeof(address), "unix:path=%s", socket);
        int r = sd_bus_new(&client->bus);
        if (r >= 0)
                r = sd_bus_set_address(client->bus, address);
        if (r >= 0)
                r = sd_bus_start(client->bus);
        while (r >= 0 && (r = sd_bus_is_ready(client->bus)) == 0) {
                r = sd_bus_process(client->bus, NULL);
                if (r == 0)
                        r = sd_bus_wait(client->bus, 10 * 1000 * 1000);
        }
        if (r < 0)
                die(socket, r);
}

/* One process call after the other until the connection has nothing more; then wait for what it waits for.
 */
static void client_work(Client *client) {
        int r;

        while ((r = sd_bus_process(client->bus, NULL)) > 0)
                ;
        if (r < 0)
                die("a connection ended", r);
        int events = sd_bus_get_events(client->bus);
        if (events == client->events)
                return;
        struct epoll_event event = {.events = (uint32_t)events, .data.ptr = client};
        if (epoll_ctl(client->load->epoll_fd, client->events < 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD,
                      sd_bus_get_fd(client->bus), &event) < 0)
                die("epoll", -errno);
        client->events = events;
}

static void run(Load *load) {
        struct epoll_event events[EVENTS_PER_WAIT];
        uint64_t begin = now_nsec();

        load->measure_nsec = begin + (uint64_t)(load->warm_up * 1e9);
        load->end_nsec = load->measure_nsec + (uint64_t)(load->seconds * 1e9);
        if (load->verb == VERB_FILL)
                load->measure_nsec = begin;
        for (unsigned i = 0; i < load->n_clients; i++) {
                int r = ask(&load->clients[i]);
                if (r < 0)
                        die("a question cannot be asked", r);
                client_work(&load->clients[i]);
        }
        while (load->n_waiting > 0) {
                int n = epoll_wait(load->epoll_fd, events, EVENTS_PER_WAIT, 1000);
                if (n < 0 && errno != EINTR)
                        die("epoll", -errno);
                for (int i = 0; i < n; i++)
                        client_work(events[i].data.ptr);
                if (load->verb != VERB_FILL && now_nsec() > load->end_nsec + DRAIN_SECONDS * NSEC_PER_SEC)
                        die("an answer never came", -ETIMEDOUT);
        }
}

static void print(const Load *load) {
        double seconds = load->verb == VERB_FILL ? (double)(load->last_nsec - load->measure_nsec) / 1e9
                                                 : load->seconds;
        printf("{\"clients\": %u, \"seconds\": %.3f, \"answers\": %" PRIu64 ", \"all_answers\": %" PRIu64
               ", \"errors\": %" PRIu64 ", \"error\": \"%s\", \"per_second\": %.1f, \"p50_usec\": %.1f, "
               "\"p99_usec\": %.1f, \"max_usec\": %.1f}\n",
               load->n_clients, seconds, load->n, load->n_all, load->n_errors, load->error,
               (double)load->n / seconds, quantile_usec(load, 0.5), quantile_usec(load, 0.99),
               (double)load->max_nsec / 1000);
}

/* ---- The command line ---- */

static void usage(FILE *to) {
        fputs("treaty-load [OPTIONS] set|get|linearizable|fill SOCKET...\n"
              "Asks the agents behind these private sockets as fast as they answer.\n"
              "  fill              write every key once; the other verbs choose keys at random\n"
              "  --clients=N       connections, spread over the sockets (1)\n"
              "  --seconds=S       length of the measurement (5)\n"
              "  --warm-up=S       time before it that does not count (1)\n"
              "  --keys=N          /bench/00000 and following (10000)\n"
              "  --size=BYTES      of a value (256)\n",
              to);
}

static bool parse_verb(const char *word, Verb *ret) {
        static const char *const words[] = {[VERB_SET] = "set",
                                            [VERB_GET] = "get",
                                            [VERB_LINEARIZABLE] = "linearizable",
                                            [VERB_FILL] = "fill"};

        for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
                if (strcmp(word, words[i]) == 0) {
                        *ret = (Verb)i;
                        return true;
                }
        return false;
}

static void parse(Load *load, int argc, char **argv) {
        static const struct option options[] = {
                {"clients", required_argument, NULL, 'c'},
                {"seconds", required_argument, NULL, 's'},
                {"warm-up", required_argument, NULL, 'w'},
                {"keys", required_argument, NULL, 'k'},
                {"size", required_argument, NULL, 'z'},
                {"help", no_argument, NULL, 'h'},
                {},
        };
        int option;

        while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0)
                switch (option) {
                case 'c':
                        load->n_clients = (unsigned)strtoul(optarg, NULL, 10);
                        break;
                case 's':
                        load->seconds = strtod(optarg, NULL);
                        break;
                case 'w':
                        load->warm_up = strtod(optarg, NULL);
                        break;
                case 'k':
                        load->n_keys = (unsigned)strtoul(optarg, NULL, 10);
                        break;
                case 'z':
                        load->value_size = (unsigned)strtoul(optarg, NULL, 10);
                        break;
                case 'h':
                        usage(stdout);
                        exit(EXIT_SUCCESS);
                default:
                        usage(stderr);
                        exit(2);
                }
        if (argc - optind < 2 || !parse_verb(argv[optind], &load->verb) || load->n_clients < 1 ||
            load->n_clients > CLIENTS_MAX || load->n_keys < 1 || load->value_size > VALUE_MAX ||
            load->seconds <= 0 || load->warm_up < 0) {
                usage(stderr);
                exit(2);
        }
}

int main(int argc, char **argv) {
        static Load load = {.n_clients = 1, .n_keys = 10000, .value_size = 256, .seconds = 5, .warm_up = 1};

        parse(&load, argc, argv);
        load.random = now_nsec() | 1;
        load.clients = calloc(load.n_clients, sizeof(Client));
        load.value = malloc(load.value_size + 1);
        load.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (!load.clients || !load.value || load.epoll_fd < 0)
                die("no memory", -ENOMEM);
        memset(load.value, 'v', load.value_size);
        for (unsigned i = 0; i < load.n_clients; i++) {
                load.clients[i].events = -1;
                client_open(&load, &load.clients[i],
                            argv[optind + 1 + (int)(i % (unsigned)(argc - optind - 1))]);
        }
        run(&load);
        print(&load);
        for (unsigned i = 0; i < load.n_clients; i++)
                sd_bus_flush_close_unref(load.clients[i].bus);
        free(load.clients);
        free(load.value);
        return EXIT_SUCCESS;
}
