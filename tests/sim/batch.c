/* Many seeds, each in a process of its own, several at a time. What they did adds up in memory that all
 * share; what a process said lies in a file of its own until it ends. A failing seed is shrunk at once,
 * within a time. */
#include "sim.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define JOBS_MAX    64
#define CPU_SECONDS 900 /* no run needs them: it hangs */

static Sums *sums;
static volatile sig_atomic_t interrupted;

static uint64_t real_usec(void) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * SEC + (uint64_t)ts.tv_nsec / 1000;
}

static void add(uint64_t *to, uint64_t n) {
        __atomic_fetch_add(to, n, __ATOMIC_RELAXED);
}

void batch_add(void) {
        if (!sums)
                return;
        add(&sums->ticks, world.now / (100 * MSEC));
        add(&sums->events, world.n_events);
        add(&sums->wishes, clients_count());
        add(&sums->elections, world.sums.elections);
        add(&sums->lives, world.sums.lives);
        for (unsigned i = 0; i < FAULT_KINDS; i++)
                add(&sums->faults[i], world.sums.faults[i]);
}

/* ---- One process ---- */

static pid_t spawn(const Run *plan, int out) {
        fflush(stdout);
        fflush(stderr);
        if (ftruncate(out, 0) < 0)
                return -1;
        pid_t pid = fork();
        if (pid != 0)
                return pid;
        signal(SIGINT, SIG_IGN);
        signal(SIGTERM, SIG_DFL);
        struct rlimit cpu = {.rlim_cur = CPU_SECONDS, .rlim_max = CPU_SECONDS + 5};
        (void)setrlimit(RLIMIT_CPU, &cpu);
        (void)lseek(out, 0, SEEK_SET);
        (void)dup2(out, STDOUT_FILENO);
        if (!freopen("/dev/null", "w", stderr))
                _exit(SIM_USAGE);
        Run quiet = *plan;
        quiet.silent = true;
        plot(&quiet);
}

static int status_of(int status) {
        return WIFEXITED(status) ? WEXITSTATUS(status) : SIM_ASSERTION;
}

static void said(int out, char *text, size_t room) {
        ssize_t n = pread(out, text, room - 1, 0);
        text[MAX(n, 0)] = 0;
}

int run_apart(const Run *plan, char *text, size_t room) {
        int out = memfd_create("said", MFD_CLOEXEC), status = -1;
        pid_t pid = out < 0 ? -1 : spawn(plan, out);
        if (pid < 0)
                return SIM_USAGE;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        said(out, text, room);
        close(out);
        return status_of(status);
}

/* ---- Many ---- */

typedef struct Job {
        pid_t pid; /* 0: free */
        Run run;
        int out;
        bool again; /* the second of two, which has to say the same */
        char first[1024];
} Job;

typedef struct Work {
        const Batch *batch;
        Job jobs[JOBS_MAX];
        uint64_t began_usec, told_usec;
        uint64_t next; /* seed, or position in the list */
        uint64_t n_done, n_failed;
        int worst;
} Work;

static bool next_run(Work *work, Run *ret) {
        const Batch *batch = work->batch;
        if (interrupted || (batch->usec > 0 && real_usec() - work->began_usec >= batch->usec))
                return false;
        *ret = batch->run;
        if (batch->n_seeds > 0) {
                if (work->next >= batch->n_seeds)
                        return false;
                ret->seed = batch->seeds[work->next++];
                return true;
        }
        if (batch->from + work->next > batch->to)
                return false;
        ret->seed = batch->from + work->next++;
        return true;
}

static void job_start(Job *job, const Run *plan) {
        job->run = *plan;
        job->pid = spawn(plan, job->out);
        if (job->pid < 0) {
                perror("fork");
                job->pid = 0;
        }
}

static void tell_failure(Work *work, const Run *plan, int status, const char *text) {
        const Batch *batch = work->batch;
        char command[600];
        work->n_failed++;
        work->worst = work->worst == SIM_HELD ? status : work->worst;
        printf("%s", text);
        Run smaller = *plan;
        if (batch->shrink_usec > 0 && work->n_failed <= 5 && !interrupted)
                smaller = shrink(plan, status, text, batch->shrink_usec);
        run_command(&smaller, command, sizeof(command));
        printf("shrunk: %s\n", command);
        fflush(stdout);
        FILE *file = batch->failures ? fopen(batch->failures, "ae") : NULL;
        if (file) {
                fprintf(file, "%s%s\n", text, command);
                fclose(file);
        }
}

static void job_ended(Work *work, Job *job, int status) {
        const Batch *batch = work->batch;
        char text[1024];
        said(job->out, text, sizeof(text));
        job->pid = 0;
        if (interrupted && status != SIM_HELD)
                return; /* it was us who ended it */
        if (status == SIM_HELD && job->again && strcmp(text, job->first) != 0) {
                printf("seed %llu differs from itself:\n%s", (unsigned long long)job->run.seed, job->first);
                tell_failure(work, &job->run, SIM_BROKEN, text);
        } else if (status != SIM_HELD)
                tell_failure(work, &job->run, status, text);
        else if (batch->twice && !job->again) {
                memcpy(job->first, text, sizeof(text));
                job->again = true;
                job_start(job, &job->run);
                return;
        } else if (!batch->quiet)
                printf("%s", text);
        job->again = false;
        work->n_done++;
}

static void tell_sums(const Work *work) {
        double seconds = (double)(real_usec() - work->began_usec) / SEC;
        printf("%7.0f s: %llu seeds, %llu ticks (%.0f a second), %llu events, %llu operations, %llu elections, "
               "%llu starts, %llu failed\n",
               seconds, (unsigned long long)work->n_done, (unsigned long long)sums->ticks,
               (double)sums->ticks / MAX(seconds, 0.001), (unsigned long long)sums->events,
               (unsigned long long)sums->wishes, (unsigned long long)sums->elections,
               (unsigned long long)sums->lives, (unsigned long long)work->n_failed);
        fflush(stdout);
}

static void tell_faults(void) {
        printf("faults:");
        for (unsigned i = 0; fault_name(i); i++)
                printf("%s %s %llu", i > 0 ? "," : "", fault_name(i), (unsigned long long)sums->faults[i]);
        printf("\n");
}

static void on_interrupt(int signal) {
        interrupted = 1;
}

static unsigned start_jobs(Work *work) {
        unsigned n_running = 0;
        for (unsigned i = 0; i < work->batch->jobs; i++) {
                Run plan;
                if (work->jobs[i].pid == 0 && next_run(work, &plan))
                        job_start(&work->jobs[i], &plan);
                n_running += work->jobs[i].pid != 0;
        }
        return n_running;
}

static void stop_jobs(Work *work) {
        for (unsigned i = 0; i < work->batch->jobs; i++)
                if (work->jobs[i].pid > 0)
                        (void)kill(work->jobs[i].pid, SIGTERM);
}

static void wait_for_one(Work *work) {
        int status;
        pid_t pid = waitpid(-1, &status, 0);
        if (pid < 0 && errno == EINTR)
                stop_jobs(work);
        for (unsigned i = 0; pid > 0 && i < work->batch->jobs; i++)
                if (work->jobs[i].pid == pid)
                        job_ended(work, &work->jobs[i], status_of(status));
}

int batch_run(const Batch *batch) {
        Work *work = calloc(1, sizeof(Work));
        sums = mmap(NULL, sizeof(Sums), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert(work && sums != MAP_FAILED);
        work->batch = batch;
        work->began_usec = work->told_usec = real_usec();
        for (unsigned i = 0; i < batch->jobs; i++) {
                work->jobs[i].out = memfd_create("said", MFD_CLOEXEC);
                assert(work->jobs[i].out >= 0);
        }
        struct sigaction action = {.sa_handler = on_interrupt};
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);

        while (start_jobs(work) > 0) {
                wait_for_one(work);
                if (batch->progress && real_usec() - work->told_usec >= 60 * SEC) {
                        tell_sums(work);
                        work->told_usec += 60 * SEC;
                }
        }
        tell_sums(work);
        if (batch->progress)
                tell_faults();
        int r = work->worst;
        printf("%llu seeds, %llu failed%s\n", (unsigned long long)work->n_done,
               (unsigned long long)work->n_failed, interrupted ? ", interrupted" : "");
        free(work);
        return r;
}
