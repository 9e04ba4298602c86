/* See world.h. */
#include "world.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "agent/base/random.h"

uint64_t msec_now(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

bool world_run_to(World *world, uint64_t end) {
        uint64_t now = msec_now();
        if (now >= end)
                return false;
        /* What is waited for may be another thread's word, which wakes nobody. */
        sd_event_run(world->event, MIN(end - now, (uint64_t)20) * 1000);
        return true;
}

static PeersVerdict on_judge(void *userdata, const uint8_t *key, uint64_t *ret_host) {
        Node *node = userdata;
        for (unsigned i = 0; i < NODES; i++)
                if (memcmp(key_hash(node->world->nodes[i].key), key, KEY_HASH_BYTES) == 0) {
                        *ret_host = node->world->nodes[i].host;
                        return node->verdicts[i];
                }
        return PEERS_STRANGER;
}

static void note(Node *node, char what) {
        size_t n = strlen(node->events);
        if (n + 1 < sizeof(node->events))
                node->events[n] = what;
}

static void on_up(void *userdata, uint64_t host, uint64_t connection) {
        Node *node = userdata;
        assert(connection != node->connection);
        node->n_up++;
        node->connection = connection;
        node->up_host = host;
        node->last_number = 0;
        note(node, '+');
        if (node->on_up)
                node->on_up(node, host);
}

static void on_down(void *userdata, uint64_t host, uint64_t connection, PeersDown why) {
        Node *node = userdata;
        node->n_down++;
        node->why_down = why;
        note(node, '-');
        if (node->on_down)
                node->on_down(node, host);
}

static void on_unreachable(void *userdata, uint64_t host, PeersDown why) {
        Node *node = userdata;
        node->n_unreachable++;
        node->why_unreachable = why;
}

/* Letters of tests begin with a number that rises. */
static void on_letter(void *userdata, uint64_t host, uint64_t connection, Bytes letter) {
        Node *node = userdata;
        node->n_letters++;
        node->bytes += letter.size;
        if (letter.size >= 4) {
                uint32_t number = bytes_get_u32(letter.data);
                if (number <= node->last_number)
                        node->n_disorder++;
                node->last_number = number;
        }
        if (node->on_letter)
                node->on_letter(node, host, letter);
}

static void on_called(void *userdata, PeersCall *call, uint64_t host, const uint8_t *key, const char *method,
                      Bytes request) {
        Node *node = userdata;
        node->n_called++;
        node->caller = host;
        memcpy(node->caller_key, key, KEY_HASH_BYTES);
        if (node->on_called)
                node->on_called(node, call, method, request);
        else
                peers_call_end(call, PEERS_UNIMPLEMENTED, "no such call");
}

static void say(void *userdata, int level, const char *text) {
        if (getenv("SAY"))
                fprintf(stderr, "host %d: %s\n", (int)((Node *)userdata)->host, text);
}

void node_start(Node *node) {
        PeersOptions options = {
                .event = node->world->event,
                .key = node->key,
                .host = node->host,
                .events = {on_judge, on_up, on_down, on_unreachable, on_letter, on_called, node},
                .report = {say, node},
        };
        node->connection = 0;
        int r = peers_new(&node->peers, &options);
        assert(r == 0);
        r = peers_listen(node->peers, node->address);
        assert(r == 0);
}

void node_stop(Node *node) {
        node->peers = peers_free(node->peers);
}

static void target(Node *node, unsigned others, bool both_dial) {
        PeersTarget targets[NODES];
        size_t n = 0;
        for (unsigned i = 0; i < NODES; i++)
                if (others & (1u << i)) {
                        Node *other = node->world->nodes + i;
                        targets[n++] = (PeersTarget){.host = other->host,
                                                     .n_addresses = 1,
                                                     .addresses = &other->address,
                                                     .control = both_dial || other->host > node->host};
                }
        int r = peers_set_targets(node->peers, targets, n);
        assert(r == 0);
}

void node_target(Node *node, unsigned others) {
        target(node, others, true);
}

void node_name(Node *node, unsigned others) {
        target(node, others, false);
}

void world_know(World *world, unsigned n) {
        for (unsigned i = 0; i < n; i++)
                for (unsigned k = 0; k < n; k++)
                        world->nodes[i].verdicts[k] = PEERS_MEMBER;
}

void world_connect(World *world, unsigned n) {
        world_know(world, n);
        for (unsigned i = 0; i < n; i++)
                node_name(world->nodes + i, ((1u << n) - 1) & ~(1u << i));
}

/* Below the range from which the kernel gives ports to whoever dials, and bound for as long as the world
 * lasts: no other node and no other test finds it, also while its node is down. Only the first socket asks
 * for the port alone; then it lets listeners in, which all allow others. */
static int port_hold(uint16_t *ret) {
        static Random random;
        if (random.state == 0)
                random.state = (uint64_t)getpid() << 20 ^ (uint64_t)time(NULL);

        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
        assert(fd >= 0);
        for (unsigned try = 0; try < 1000; try++) {
                uint16_t port = (uint16_t)(20000 + random_below(&random, 10000));
                struct sockaddr_in address = {
                        .sin_family = AF_INET,
                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                        .sin_port = htons(port),
                };
                if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                        continue;
                int r = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
                assert(r == 0);
                *ret = port;
                return fd;
        }
        assert(!"no free port");
        return -1;
}

void world_open(World *world) {
        memset(world, 0, sizeof(*world));
        int r = sd_event_new(&world->event);
        assert(r >= 0);
        for (unsigned i = 0; i < NODES; i++) {
                Node *node = world->nodes + i;
                node->world = world;
                node->host = i + 1;
                node->port_fd = port_hold(&node->port);
                snprintf(node->address, sizeof(node->address), "127.0.0.1:%u", node->port);
                strcpy(node->directory, "/tmp/treaty-peers-XXXXXX");
                if (!mkdtemp(node->directory))
                        abort();
                r = key_load_or_create(&node->key, node->directory);
                assert(r == 0);
        }
        for (unsigned i = 0; i < NODES; i++)
                node_start(world->nodes + i);
}

void world_close(World *world) {
        for (unsigned i = 0; i < NODES; i++) {
                Node *node = world->nodes + i;
                char path[128];
                node_stop(node);
                close(node->port_fd);
                key_free(node->key);
                snprintf(path, sizeof(path), "%s/host.key", node->directory);
                unlink(path);
                snprintf(path, sizeof(path), "%s/host.crt", node->directory);
                unlink(path);
                rmdir(node->directory);
        }
        sd_event_unref(world->event);
}
