/* Measures letters between two processes over loopback: how long one takes there and back, how many pass
 * when many are on their way, and what one costs of CPU on either side. Letters are as small as a heartbeat
 * (60 bytes) or as large as an append of some entries (4 KiB). Run by hand: build/tests/peers/bench_letters
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "world.h"

#define PINGS 20000
#define FLOOD 400000

static World w;
static unsigned window, n_sent, n_total;
static size_t size;

static double cpu_usec(int who) {
        struct rusage usage;
        getrusage(who, &usage);
        return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
               (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void send_one(Node *node, uint64_t to) {
        static uint8_t bytes[LIMIT_APPEND_BYTES];
        bytes_put_u32(bytes, ++n_sent);
        int r = peers_send(node->peers, to, BYTES(bytes, size));
        assert(r == 0);
}

/* The echo: answers each letter with a short one, at the end of the turn. */
static void on_echo(Node *node, uint64_t host, Bytes letter) {
        int r = peers_send(node->peers, host, BYTES(letter.data, 60));
        assert(r == 0);
}

static void on_answer(Node *node, uint64_t host, Bytes letter) {
        if (n_sent < n_total)
                send_one(node, host);
}

static void run(const char *what, size_t letter_size, unsigned n_window, unsigned n) {
        Node *node = w.nodes;
        size = letter_size;
        window = n_window;
        n_total = n;
        n_sent = 0;
        node->n_letters = 0;
        node->last_number = 0;
        double cpu = cpu_usec(RUSAGE_SELF);
        uint64_t begin = msec_now();
        for (unsigned i = 0; i < window; i++)
                send_one(node, 2);
        while (node->n_letters < n)
                sd_event_run(w.event, UINT64_MAX);
        double msec = (double)(msec_now() - begin);
        printf("%-28s %7.0f letters/s each way, %6.1f us per round, CPU %5.2f us per letter sent and answered\n",
               what, n / msec * 1e3, msec * 1e3 / n * window, (cpu_usec(RUSAGE_SELF) - cpu) / n);
        fflush(stdout);
}

int main(void) {
        world_open(&w);
        world_connect(&w, 2);
        node_stop(w.nodes + 1);
        pid_t child = fork();
        if (child == 0) {
                /* An epoll set is shared over fork: the child makes its own world from the same keys. */
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                sd_event_new(&w.event);
                w.nodes[1].on_letter = on_echo;
                for (unsigned i = 0; i < NODES; i++)
                        w.nodes[i].peers = NULL;
                node_start(w.nodes + 1);
                node_target(w.nodes + 1, 1);
                while (sd_event_run(w.event, UINT64_MAX) >= 0)
                        ;
                _exit(1);
        }
        w.nodes[0].on_letter = on_answer;
        while (!peers_connected(w.nodes[0].peers, 2))
                sd_event_run(w.event, UINT64_MAX);
        run("60 B, one at a time", 60, 1, PINGS);
        run("60 B, 16 on their way", 60, 16, FLOOD);
        run("60 B, 256 on their way", 60, 256, FLOOD);
        run("4 KiB, 64 on their way", 4096, 64, FLOOD / 4);
        run("64 KiB, 64 on their way", 65536, 64, FLOOD / 40);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        world_close(&w);
        return 0;
}
