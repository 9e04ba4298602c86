/* The loop. Latencies go into a histogram whose buckets are about 1.5 % wide, so an hour costs the memory of
 * a second. What is said on stdout is one line of JSON. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include "load.h"

#define NSEC_PER_SEC    UINT64_C(1000000000)
#define SUB_BITS        6 /* 64 buckets per power of two of nanoseconds */
#define BUCKETS         ((64 - SUB_BITS + 1) << SUB_BITS)
#define CLIENTS_MAX     4096
#define VALUE_MAX       (1024 * 1024)
#define EVENTS_PER_WAIT 64
#define DRAIN_SECONDS   15 /* what was asked is answered within ten, or never */

struct Load {
        const Driver *driver;
        Verb verb;
        unsigned n_clients, n_links, n_keys, n_watchers, value_size;
        double seconds, warm_up;
        Client **clients;
        uint64_t patience_nsec; /* after so long another question is asked in its place; 0: never */
        Link **links, **watchers;
        uint8_t *value;
        int epoll_fd;
        unsigned n_waiting, next_key, n_watching, n_heard;
        bool withdrawing, withdrawn, gone; /* register: the instance before the next one */
        uint64_t random;
        uint64_t measure_nsec, end_nsec; /* answers in between count; no question leaves after the end */
        uint64_t buckets[BUCKETS], n, n_all, max_nsec, first_nsec, last_nsec, gap_nsec;
        uint64_t n_errors;
        char error[256]; /* the first one */
};

static Load the_load = {.n_clients = 1, .n_keys = 10000, .value_size = 256, .seconds = 5, .warm_up = 1};

static uint64_t now_nsec(void) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

void load_die(const char *what, const char *why) {
        fprintf(stderr, "%s-load: %s: %s\n", the_load.driver->name, what, why);
        exit(EXIT_FAILURE);
}

const uint8_t *load_value(const Load *load, size_t *ret_size) {
        *ret_size = load->value_size;
        return load->value;
}

void load_path(unsigned key, char ret[static 32]) {
        snprintf(ret, 32, "/bench/%05u", key);
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
        if (load->last_nsec != 0 && now - load->last_nsec > load->gap_nsec)
                load->gap_nsec = now - load->last_nsec;
        load->last_nsec = now;
        if (took > load->max_nsec)
                load->max_nsec = took;
}

/* ---- Questions and answers ---- */

static unsigned choose_key(Load *load) {
        if (load->verb == VERB_FILL || load->verb == VERB_REGISTER)
                return load->next_key++;
        if (load->verb == VERB_WATCH)
                return 0;
        load->random ^= load->random << 13;
        load->random ^= load->random >> 7;
        load->random ^= load->random << 17;
        return (unsigned)(load->random % load->n_keys);
}

static bool is_over(const Load *load) {
        return load->verb == VERB_FILL ? load->next_key >= load->n_keys : now_nsec() >= load->end_nsec;
}

static void ask(Load *load, Client *client) {
        if (is_over(load))
                return;
        client->waiting = true;
        client->sent_nsec = now_nsec();
        load->n_waiting++;
        load->n_heard = 0;
        unsigned key = choose_key(load);
        if (load->verb == VERB_REGISTER)
                load->driver->enlist(client->link, client, key);
        else
                load->driver->ask(client->link, client, load->verb == VERB_WATCH ? VERB_SET : load->verb,
                                  key);
}

static bool is_watched(const Load *load) {
        return load->verb == VERB_WATCH || load->verb == VERB_REGISTER;
}

/* One write of a measurement of watchers is over when it was answered and all have heard. An instance is
 * withdrawn then, which is not counted, and the next one comes when nobody sees it any more. */
static bool watch_next(Load *load) {
        Client *client = load->clients[0];

        if (client->waiting || load->withdrawing || load->n_heard < load->n_watchers)
                return false;
        note(load, client->sent_nsec, now_nsec());
        if (load->verb == VERB_REGISTER) {
                load->withdrawing = true;
                load->withdrawn = load->gone = false;
                load->driver->withdraw(client->link, client);
        } else
                ask(load, client);
        return true;
}

static void register_next(Load *load) {
        Client *client = load->clients[0];

        if (!load->withdrawing || !load->withdrawn || !load->gone)
                return;
        load->withdrawing = false;
        ask(load, client);
        load->driver->flush(client->link);
}

void load_withdrawn(Load *load) {
        load->withdrawn = true;
        register_next(load);
}

void load_gone(Load *load) {
        load->gone = true;
        register_next(load);
}

Verb load_verb(const Load *load) {
        return load->verb;
}

void load_answered(Client *client, const char *error) {
        Load *load = &the_load;

        if (client->given_up) { /* late, but an answer */
                if (!error)
                        note(load, client->sent_nsec, now_nsec());
                free(client);
                return;
        }
        client->waiting = false;
        load->n_waiting--;
        if (error && load->n_errors++ == 0)
                snprintf(load->error, sizeof(load->error), "%s", error);
        if (is_watched(load)) {
                if (error)
                        load_die("a write that is watched failed", error);
                watch_next(load);
                return;
        }
        if (!error)
                note(load, client->sent_nsec, now_nsec());
        ask(load, client);
}

static Client *new_client(Link *link) {
        Client *client = calloc(1, sizeof(Client));
        if (!client)
                load_die("a client", strerror(ENOMEM));
        client->link = link;
        return client;
}

static void lose_patience(Load *load) {
        uint64_t now = now_nsec();

        for (unsigned i = 0; i < load->n_clients; i++) {
                Client *client = load->clients[i];
                if (!client->waiting || now - client->sent_nsec < load->patience_nsec)
                        continue;
                client->given_up = true;
                load->n_waiting--;
                load->clients[i] = new_client(client->link);
                ask(load, load->clients[i]);
                load->driver->flush(client->link);
        }
}

void load_watching(Load *load) {
        load->n_watching++;
}

void load_heard(Load *load) {
        load->n_heard++;
        if (load->n_watching == load->n_watchers && watch_next(load))
                load->driver->flush(
                        load->clients[0]->link); /* another connection was read; this one waits */
}

/* ---- The loop ---- */

void load_poll(Load *load, LoadPoll *poll, uint32_t events) {
        struct epoll_event event = {.events = events, .data.ptr = poll};

        if (events == poll->events)
                return;
        int operation = poll->events == 0 ? EPOLL_CTL_ADD : events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
        if (epoll_ctl(load->epoll_fd, operation, poll->fd, &event) < 0)
                load_die("epoll", strerror(errno));
        poll->events = events;
}

static void wait_once(Load *load) {
        struct epoll_event events[EVENTS_PER_WAIT];

        int n = epoll_wait(load->epoll_fd, events, EVENTS_PER_WAIT,
                           load->patience_nsec > 0 ? (int)(load->patience_nsec / 2000000) + 1 : 1000);
        if (n < 0 && errno != EINTR)
                load_die("epoll", strerror(errno));
        for (int i = 0; i < n; i++) {
                LoadPoll *poll = events[i].data.ptr;
                poll->ready(poll->p, events[i].events);
        }
        if (load->patience_nsec > 0)
                lose_patience(load);
}

static void begin_watching(Load *load) {
        uint64_t until = now_nsec() + DRAIN_SECONDS * NSEC_PER_SEC;

        for (unsigned i = 0; i < load->n_watchers; i++) {
                Link *link = load->watchers[i];
                if (load->verb == VERB_REGISTER)
                        load->driver->watch_instances(link);
                else
                        load->driver->watch(link, 0);
                load->driver->flush(link);
        }
        while (load->n_watching < load->n_watchers) {
                wait_once(load);
                if (now_nsec() > until)
                        load_die("watchers", "not all of them stand");
        }
}

static void run(Load *load) {
        if (is_watched(load))
                begin_watching(load);
        uint64_t begin = now_nsec();
        load->measure_nsec = load->verb == VERB_FILL ? begin : begin + (uint64_t)(load->warm_up * 1e9);
        load->end_nsec = load->measure_nsec + (uint64_t)(load->seconds * 1e9);
        for (unsigned i = 0; i < load->n_clients; i++)
                ask(load, load->clients[i]);
        for (unsigned i = 0; i < load->n_links; i++)
                load->driver->flush(load->links[i]);
        while (load->n_waiting > 0 || (is_watched(load) && !is_over(load))) {
                wait_once(load);
                if (load->verb != VERB_FILL && now_nsec() > load->end_nsec + DRAIN_SECONDS * NSEC_PER_SEC)
                        load_die("an answer never came", strerror(ETIMEDOUT));
        }
}

/* The longest time without an answer, the last one of the measurement included. */
static uint64_t gap_nsec(const Load *load) {
        if (load->verb == VERB_FILL || load->last_nsec == 0 || load->last_nsec >= load->end_nsec)
                return load->gap_nsec;
        uint64_t last = load->end_nsec - load->last_nsec;
        return last > load->gap_nsec ? last : load->gap_nsec;
}

static void print(const Load *load) {
        double seconds = load->verb == VERB_FILL ? (double)(load->last_nsec - load->measure_nsec) / 1e9
                                                 : load->seconds;
        printf("{\"system\": \"%s\", \"clients\": %u, \"seconds\": %.3f, \"answers\": %" PRIu64
               ", \"all_answers\": %" PRIu64 ", \"errors\": %" PRIu64
               ", \"error\": \"%s\", \"per_second\": %.1f, \"p50_usec\": %.1f, "
               "\"p99_usec\": %.1f, \"max_usec\": %.1f, \"gap_usec\": %.1f}\n",
               load->driver->name, load->n_clients, seconds, load->n, load->n_all, load->n_errors,
               load->error, (double)load->n / seconds, quantile_usec(load, 0.5), quantile_usec(load, 0.99),
               (double)load->max_nsec / 1000, (double)gap_nsec(load) / 1000);
}

/* ---- The command line ---- */

static void usage(const Driver *driver, FILE *to) {
        fprintf(to,
                "%s-load [OPTIONS] set|get|linearizable|fill|watch|register ADDRESS...\n"
                "Asks servers as fast as they answer. An address is %s.\n"
                "  fill              write every key once; the other verbs choose keys at random\n"
                "  watch             write one key again and again, each time when all watchers have heard\n"
                "  register          one service instance at the first address, each time until it is seen at the last\n"
                "  --clients=N       questions in flight (1)\n"
                "  --links=N         connections for them, spread over the addresses (as many as clients)\n"
                "  --watchers=N      watch: how many, each with a connection of its own, at the last address (100)\n"
                "  --seconds=S       length of the measurement (5)\n"
                "  --warm-up=S       time before it that does not count (1)\n"
                "  --patience=MSEC   who has no answer after so long asks again, and the answer may come still (endless)\n"
                "  --keys=N          /bench/00000 and following (10000)\n"
                "  --size=BYTES      of a value (256)\n",
                driver->name, driver->address);
}

static bool parse_verb(const char *word, Verb *ret) {
        static const char *const words[] = {
                [VERB_SET] = "set",   [VERB_GET] = "get",     [VERB_LINEARIZABLE] = "linearizable",
                [VERB_FILL] = "fill", [VERB_WATCH] = "watch", [VERB_REGISTER] = "register"};

        for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
                if (strcmp(word, words[i]) == 0) {
                        *ret = (Verb)i;
                        return true;
                }
        return false;
}

static bool parse_option(Load *load, int option) {
        switch (option) {
        case 'c':
                load->n_clients = (unsigned)strtoul(optarg, NULL, 10);
                return true;
        case 'l':
                load->n_links = (unsigned)strtoul(optarg, NULL, 10);
                return true;
        case 'n':
                load->n_watchers = (unsigned)strtoul(optarg, NULL, 10);
                return true;
        case 's':
                load->seconds = strtod(optarg, NULL);
                return true;
        case 'w':
                load->warm_up = strtod(optarg, NULL);
                return true;
        case 'p':
                load->patience_nsec = strtoul(optarg, NULL, 10) * 1000000;
                return true;
        case 'k':
                load->n_keys = (unsigned)strtoul(optarg, NULL, 10);
                return true;
        case 'z':
                load->value_size = (unsigned)strtoul(optarg, NULL, 10);
                return true;
        default:
                return false;
        }
}

static bool is_sane(const Load *load) {
        return load->n_clients >= 1 && load->n_clients <= CLIENTS_MAX && load->n_links <= load->n_clients &&
               load->n_watchers <= CLIENTS_MAX && load->n_keys >= 1 && load->value_size <= VALUE_MAX &&
               load->seconds > 0 && load->warm_up >= 0;
}

static void parse(Load *load, int argc, char **argv) {
        static const struct option options[] = {
                {"clients", required_argument, NULL, 'c'},  {"links", required_argument, NULL, 'l'},
                {"watchers", required_argument, NULL, 'n'}, {"seconds", required_argument, NULL, 's'},
                {"warm-up", required_argument, NULL, 'w'},  {"patience", required_argument, NULL, 'p'},
                {"keys", required_argument, NULL, 'k'},     {"size", required_argument, NULL, 'z'},
                {"help", no_argument, NULL, 'h'},           {},
        };
        int option;

        while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                if (option == 'h') {
                        usage(load->driver, stdout);
                        exit(EXIT_SUCCESS);
                }
                if (!parse_option(load, option)) {
                        usage(load->driver, stderr);
                        exit(2);
                }
        }
        if (argc - optind < 2 || !parse_verb(argv[optind], &load->verb) || !is_sane(load)) {
                usage(load->driver, stderr);
                exit(2);
        }
        if (is_watched(load)) {
                load->n_clients = 1;
                if (load->verb == VERB_REGISTER)
                        load->n_watchers = 1;
                else if (load->n_watchers == 0)
                        load->n_watchers = 100;
        } else
                load->n_watchers = 0;
        if (load->n_links == 0 || load->n_links > load->n_clients)
                load->n_links = load->n_clients;
}

static void connect_all(Load *load, char **addresses, unsigned n_addresses) {
        for (unsigned i = 0; i < load->n_links; i++)
                load->links[i] = load->driver->open(load, addresses[i % n_addresses]);
        for (unsigned i = 0; i < load->n_clients; i++)
                load->clients[i] = new_client(load->links[i % load->n_links]);
        for (unsigned i = 0; i < load->n_watchers; i++)
                load->watchers[i] = load->driver->open(load, addresses[n_addresses - 1]);
}

/* A watcher is a connection and a pipe. */
static void allow_files(void) {
        struct rlimit limit = {4 * CLIENTS_MAX, 4 * CLIENTS_MAX};
        (void)setrlimit(RLIMIT_NOFILE, &limit);
}

int load_main(const Driver *driver, int argc, char **argv) {
        Load *load = &the_load;

        allow_files();

        load->driver = driver;
        parse(load, argc, argv);
        load->random = now_nsec() | 1;
        load->clients = calloc(load->n_clients, sizeof(Client *));
        load->links = calloc(load->n_links, sizeof(Link *));
        load->watchers = calloc(load->n_watchers + 1, sizeof(Link *));
        load->value = malloc(load->value_size + 1);
        load->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (!load->clients || !load->links || !load->watchers || !load->value || load->epoll_fd < 0)
                load_die("start", strerror(ENOMEM));
        memset(load->value, 'v', load->value_size);
        connect_all(load, argv + optind + 1, (unsigned)(argc - optind - 1));
        run(load);
        print(load);
        for (unsigned i = 0; i < load->n_links; i++)
                driver->close(load->links[i]);
        for (unsigned i = 0; i < load->n_watchers; i++)
                driver->close(load->watchers[i]);
        return EXIT_SUCCESS;
}
