/* How much code one write and one read take on each host: three halls in virtual time, one question at a
 * time or 64, in phases that never vary. Run under callgrind, the functions PHASE_ROLE below tell how many
 * instructions each host's agent spent in each phase (count.py reads them): real log and tree files, no
 * network, no bus. What a host did is told by which function gave it its turn.
 *
 *      count [--questions=N] [DIRECTORY]        prints how many questions each phase asked */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "halls.h"

#define HOSTS       3
#define KEYS        1000u
#define VALUE_BYTES 256
#define PIECE_USEC                                                                              \
        10 /* of virtual time for each piece of work: so commits and heartbeats come as they do \
            */

typedef enum Question { QUESTION_WRITE, QUESTION_GET, QUESTION_LINEARIZABLE } Question;
typedef enum Role { ROLE_LEADER, ROLE_ASKED, ROLE_OTHER, _ROLE_MAX } Role;

typedef void (*Piece)(Hall *hall, HallDuty duty);

typedef struct Phase {
        const char *name;
        Question question;
        bool at_leader;
        unsigned clients;
        Piece pieces[_ROLE_MAX];
} Phase;

/* Each is a function of its own, that the profile may tell them apart: neither inlined nor merged. */
#define PIECE(phase, role)                                                             \
        static __attribute__((noipa)) void phase##_##role(Hall *hall, HallDuty duty) { \
                hall_work(hall, duty);                                                 \
        }
#define PIECES(phase) PIECE(phase, leader) PIECE(phase, asked) PIECE(phase, other)
#define PHASE(phase, q, leader, n)                                   \
        {                                                            \
#phase, q, leader, n, {                              \
                        phase##_leader, phase##_asked, phase##_other \
                }                                                    \
        }

PIECES(write_at_leader)
PIECES(write_at_follower)
PIECES(write64_at_leader)
PIECES(write64_at_follower)
PIECES(get_at_follower)
PIECES(linearizable_at_leader)
PIECES(linearizable_at_follower)
PIECES(linearizable64_at_follower)

static const Phase phases[] = {
        PHASE(write_at_leader, QUESTION_WRITE, true, 1),
        PHASE(write_at_follower, QUESTION_WRITE, false, 1),
        PHASE(write64_at_leader, QUESTION_WRITE, true, 64),
        PHASE(write64_at_follower, QUESTION_WRITE, false, 64),
        PHASE(get_at_follower, QUESTION_GET, false, 1),
        PHASE(linearizable_at_leader, QUESTION_LINEARIZABLE, true, 1),
        PHASE(linearizable_at_follower, QUESTION_LINEARIZABLE, false, 1),
        PHASE(linearizable64_at_follower, QUESTION_LINEARIZABLE, false, 64),
};

static const Phase *phase; /* NULL: between two */
static Hall *leader, *asked;
static unsigned n_questions = 512, n_asked, n_answered;
static Random keys = {.state = 1};

static void work(Hall *hall, HallDuty duty) {
        if (!phase) {
                hall_work(hall, duty);
                return;
        }
        Role role = hall == leader ? ROLE_LEADER : hall == asked ? ROLE_ASKED : ROLE_OTHER;
        phase->pieces[role](hall, duty);
}

static void ask(void);

static void path_of_any(char to[static 32]) {
        snprintf(to, 32, "/bench/%05u", (unsigned)(random_next(&keys) % KEYS));
}

static void get(void) {
        AgentEntry entry;
        char path[32];
        path_of_any(path);
        int r = agent_get(asked->agent, path, &entry);
        if (r < 0)
                halls_die("a read", r);
        n_answered++;
}

static void written(const RequestAnswer *answer, void *userdata) {
        if (answer->answer != ANSWER_DONE)
                halls_die("a write failed", 0);
        n_answered++;
        ask();
}

static void readable(Answer answer, void *userdata) {
        if (answer != ANSWER_DONE)
                halls_die("a read failed", 0);
        get();
        ask();
}

static void write_any(void) {
        static uint8_t value[VALUE_BYTES];
        char path[32];
        Request *request;

        path_of_any(path);
        Command command = {.kind = COMMAND_SET, .path = path, .value = BYTES(value, sizeof(value))};
        int r = agent_request(asked->agent, &command, REQUEST_TIMEOUT_USEC, written, NULL, &request);
        if (r < 0)
                halls_die("a write", r);
}

static void ask(void) {
        Read *read;
        if (n_asked == n_questions)
                return;
        n_asked++;
        if (phase->question == QUESTION_WRITE) {
                write_any();
                return;
        }
        uint32_t flags = phase->question == QUESTION_LINEARIZABLE ? READ_LINEARIZABLE : 0;
        int r = agent_read(asked->agent, flags, 0, REQUEST_TIMEOUT_USEC, readable, NULL, &read);
        if (r < 0)
                halls_die("a read", r);
        if (r > 0)
                get();
}

static bool all_answered(void) {
        return n_answered == n_questions;
}

/* Reads of what the host knows are answered within the call; it counts as a piece of that host's work. */
static __attribute__((noipa)) void get_at_follower_calls(void) {
        while (n_asked < n_questions)
                ask();
}

static void run(const Phase *next) {
        leader = halls_leader();
        asked = next->at_leader ? leader : halls.list[(leader->i + 1) % HOSTS];
        n_asked = n_answered = 0;
        phase = next;
        if (next->question == QUESTION_GET)
                get_at_follower_calls();
        else
                for (unsigned i = 0; i < next->clients; i++)
                        ask();
        if (!halls_run_until(halls_now() + 600 * USEC_PER_SEC, all_answered))
                halls_die("questions without an answer", 0);
        phase = NULL;
        printf("%s %u\n", next->name, n_answered);
        (void)halls_run_until(halls_now() + 2 * USEC_PER_SEC, NULL);
}

/* Every key is there before anything counts. */
static void fill(void) {
        static const Phase before = {.question = QUESTION_WRITE,
                                     .pieces = {hall_work, hall_work, hall_work}};
        unsigned n = n_questions;
        leader = halls_leader();
        asked = leader;
        phase = &before;
        n_questions = 4 * KEYS;
        n_asked = n_answered = 0;
        for (unsigned i = 0; i < 64; i++)
                ask();
        if (!halls_run_until(halls_now() + 600 * USEC_PER_SEC, all_answered))
                halls_die("the first writes", 0);
        phase = NULL;
        n_questions = n;
        (void)halls_run_until(halls_now() + 2 * USEC_PER_SEC, NULL);
}

int main(int argc, char **argv) {
        static const struct option options[] = {{"questions", required_argument, NULL, 'q'}, {}};

        for (int option; (option = getopt_long(argc, argv, "", options, NULL)) >= 0;)
                if (option == 'q')
                        n_questions = (unsigned)strtoul(optarg, NULL, 10);
                else
                        return 2;
        if (argc - optind > 1 || n_questions == 0) {
                fputs("count [--questions=N] [DIRECTORY]\n", stderr);
                return 2;
        }
        halls_begin(argv[optind]);
        halls.piece_usec = PIECE_USEC;
        halls.now = USEC_PER_SEC;
        halls.work = work;
        if (!halls_form(HOSTS, 60 * USEC_PER_SEC))
                halls_die("the cluster did not form", 0);
        fill();
        for (size_t i = 0; i < ELEMENTSOF(phases); i++)
                run(&phases[i]);
        halls_end();
        return EXIT_SUCCESS;
}
