/* Names become addresses in a thread of their own, one per lookup and few at a time, because getaddrinfo()
 * waits for minutes when it likes. The job is held by both sides and freed by whoever lets go last:
 * cancelling never waits for the thread. */
#include "inside.h"

#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define LOOKUPS_MAX 8

typedef struct Job {
        int n_refs; /* atomic */
        int fd;
        char host[LIMIT_ADDRESS_BYTES + 1];
        char port[8];
        size_t n_found;
        Address found[ADDRESSES_FOUND];
} Job;

struct Resolve {
        Job *job;
        sd_event_source *io;
        ResolveDone done;
        void *userdata;
};

static int n_lookups; /* atomic: threads under way in this process */

static void job_unref(Job *job) {
        if (__atomic_sub_fetch(&job->n_refs, 1, __ATOMIC_ACQ_REL) > 0)
                return;
        close(job->fd);
        free(job);
}

static void job_run(Job *job) {
        struct addrinfo hints = {
                .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
        struct addrinfo *list = NULL;
        if (getaddrinfo(job->host, job->port, &hints, &list) != 0)
                return;
        for (struct addrinfo *a = list; a && job->n_found < ADDRESSES_FOUND; a = a->ai_next) {
                if (a->ai_addrlen > sizeof(job->found[0].v6))
                        continue;
                Address *to = job->found + job->n_found++;
                to->size = a->ai_addrlen;
                memcpy(&to->sa, a->ai_addr, a->ai_addrlen);
        }
        freeaddrinfo(list);
}

static void *thread_main(void *userdata) {
        Job *job = userdata;
        job_run(job);
        __atomic_sub_fetch(&n_lookups, 1, __ATOMIC_ACQ_REL);
        uint64_t one = 1;
        if (write(job->fd, &one, sizeof(one)) < 0)
                assert(!"an eventfd takes its first number");
        job_unref(job);
        return NULL;
}

/* Signals are for the loop's thread. */
static int thread_start(Job *job) {
        pthread_attr_t attributes;
        pthread_t thread;
        sigset_t all, before;
        sigfillset(&all);
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        pthread_attr_setstacksize(&attributes, 256 * 1024);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        int r = pthread_create(&thread, &attributes, thread_main, job);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
        return -r;
}

static int on_ready(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Resolve *resolve = userdata;
        /* `done` frees us; what it is given must live on. */
        Job *job = resolve->job;
        __atomic_add_fetch(&job->n_refs, 1, __ATOMIC_ACQ_REL);
        resolve->done(resolve->userdata, job->found, job->n_found);
        job_unref(job);
        return 0;
}

static int name_split(const char *name, Job *job) {
        const char *colon = strrchr(name, ':');
        if (!colon || colon == name || (size_t)(colon - name) >= sizeof(job->host))
                return -EINVAL;
        size_t n_port = strlen(colon + 1);
        if (n_port == 0 || n_port >= sizeof(job->port))
                return -EINVAL;
        memcpy(job->host, name, (size_t)(colon - name));
        memcpy(job->port, colon + 1, n_port);
        return 0;
}

static Job *job_new(const char *name) {
        Job *job = calloc(1, sizeof(*job));
        if (!job)
                return NULL;
        job->n_refs = 1;
        job->fd = -1;
        if (name_split(name, job) == 0)
                job->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (job->fd >= 0)
                return job;
        free(job);
        return NULL;
}

int resolve_start(Resolve **ret, sd_event *event, const char *name, ResolveDone done, void *userdata) {
        if (__atomic_load_n(&n_lookups, __ATOMIC_ACQUIRE) >= LOOKUPS_MAX)
                return -EBUSY;
        Resolve *resolve = calloc(1, sizeof(*resolve));
        if (!resolve)
                return -ENOMEM;
        *resolve = (Resolve){.done = done, .userdata = userdata, .job = job_new(name)};
        if (!resolve->job) {
                free(resolve);
                return -EINVAL;
        }
        int r = sd_event_add_io(event, &resolve->io, resolve->job->fd, EPOLLIN, on_ready, resolve);
        if (r >= 0) {
                sd_event_source_set_enabled(resolve->io, SD_EVENT_ONESHOT);
                __atomic_add_fetch(&n_lookups, 1, __ATOMIC_ACQ_REL);
                __atomic_add_fetch(&resolve->job->n_refs, 1, __ATOMIC_ACQ_REL);
                r = thread_start(resolve->job);
                if (r < 0) {
                        __atomic_sub_fetch(&n_lookups, 1, __ATOMIC_ACQ_REL);
                        job_unref(resolve->job);
                }
        }
        if (r < 0) {
                resolve_free(resolve);
                return r;
        }
        *ret = resolve;
        return 0;
}

Resolve *resolve_free(Resolve *resolve) {
        if (!resolve)
                return NULL;
        sd_event_source_disable_unref(resolve->io);
        job_unref(resolve->job);
        free(resolve);
        return NULL;
}
