/* From the addresses of a host to an open connection: one after the other, numbers at once, names through
 * resolve.c. A round ends with a connection or with all of them tried; the control connection then begins
 * another after a pause, 100 ms to 2 s, doubled each time and jittered so that hosts that came up together
 * do not knock together for ever. */
#include "inside.h"

#include <openssl/rand.h>

void dial_init(Dial *dial, Peers *peers, DialRole role, Host *host, PeersCall *call) {
        *dial = (Dial){.peers = peers, .role = role, .host = host, .call = call};
}

int dial_set_names(Dial *dial, const char (*names)[LIMIT_ADDRESS_BYTES + 1], uint32_t n_names) {
        assert(n_names <= LIMIT_ADDRESSES);
        void *copy = malloc(n_names * sizeof(*names) + 1);
        if (!copy)
                return -ENOMEM;
        if (n_names > 0)
                memcpy(copy, names, n_names * sizeof(*names));
        free(dial->names);
        dial->names = copy;
        dial->n_names = n_names;
        dial->next_name = MIN(dial->next_name, n_names);
        return 0;
}

bool dial_is_busy(const Dial *dial) {
        return dial->connection || dial->resolve || dial->timer || dial->wants_step;
}

static void dial_begin_round(Dial *dial) {
        dial->next_name = dial->n_found = dial->next_found = 0;
        dial->silent = dial->refused = false;
}

static void dial_want_step(Dial *dial) {
        dial->wants_step = true;
        dial->peers->has_ended = true;
        peers_arm(dial->peers);
}

static bool dial_is_wanted(const Dial *dial) {
        switch (dial->role) {
        case DIAL_CONTROL:
                return !dial->host->connection; /* or they dialled us */
        case DIAL_BULK:
                return calls_wait(dial->peers, dial->host->id);
        case DIAL_ADDRESS:
                return !dial->call->gone;
        }
        return false;
}

void dial_kick(Dial *dial) {
        if (dial_is_busy(dial) || !dial_is_wanted(dial))
                return;
        dial_begin_round(dial);
        dial_want_step(dial);
}

void dial_stop(Dial *dial) {
        dial->wants_step = false;
        dial->timer = sd_event_source_disable_unref(dial->timer);
        dial->resolve = resolve_free(dial->resolve);
        if (dial->connection) {
                Connection *c = TAKE(dial->connection);
                c->dial = NULL;
                if (!c->dismissed) /* that one still has something to say, and goes by itself */
                        connection_kill(c, PEERS_DOWN_RESET);
        }
}

void dial_deinit(Dial *dial) {
        dial_stop(dial);
        free(dial->names);
        dial->names = NULL;
}

static int dial_on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Dial *dial = userdata;
        Peers *peers = dial->peers;
        peers_enter(peers);
        dial->timer = sd_event_source_disable_unref(dial->timer);
        dial_kick(dial);
        peers_leave(peers);
        return 0;
}

static void dial_wait(Dial *dial, uint64_t pause) {
        int r = sd_event_add_time_relative(dial->peers->event, &dial->timer, CLOCK_BOOTTIME, pause,
                                           10 * USEC_PER_MSEC, dial_on_timer, dial);
        if (r < 0)
                report_say(&dial->peers->report, LOG_ERR,
                           "No timer to dial again, host is not dialled any more.");
}

/* Between a half and the whole of the pause. */
static void dial_pause(Dial *dial) {
        uint32_t random = 0;
        RAND_bytes((uint8_t *)&random, sizeof(random));
        dial->backoff_usec = MIN(MAX(dial->backoff_usec * 2, BACKOFF_LEAST_USEC), BACKOFF_MOST_USEC);
        dial_wait(dial, dial->backoff_usec / 2 + random % (dial->backoff_usec / 2 + 1));
}

void dial_kick_later(Dial *dial, uint64_t usec) {
        if (!dial_is_busy(dial) && dial_is_wanted(dial))
                dial_wait(dial, usec);
}

static void dial_exhausted(Dial *dial) {
        Peers *peers = dial->peers;
        PeersDown why = dial->refused  ? PEERS_DOWN_REFUSED
                        : dial->silent ? PEERS_DOWN_SILENT
                                       : PEERS_DOWN_RESET;
        PeersStatus status = dial->refused ? PEERS_DENIED : PEERS_UNAVAILABLE;
        const char *text = dial->refused ? "the host there has another key" : "no address answers";

        switch (dial->role) {
        case DIAL_CONTROL:
                dial_pause(dial);
                if (peers->events.unreachable && !peers->freed)
                        peers->events.unreachable(peers->events.userdata, dial->host->id, why);
                return;
        case DIAL_BULK:
                calls_fail_waiting(peers, dial->host->id, status, text);
                return;
        case DIAL_ADDRESS:
                call_lost(dial->call, status, text);
                return;
        }
}

static void dial_on_resolved(void *userdata, const Address *found, size_t n_found) {
        Dial *dial = userdata;
        assert(n_found <= ADDRESSES_FOUND);
        dial->resolve = resolve_free(dial->resolve);
        memcpy(dial->found, found, n_found * sizeof(*found));
        dial->n_found = (uint32_t)n_found;
        dial->next_found = 0;
        dial->silent |= n_found == 0;
        dial_want_step(dial);
}

/* True: this name is under way, or has addresses now. */
static bool dial_look_up(Dial *dial, const char *name) {
        dial->next_found = 0;
        dial->n_found = address_parse(name, false, dial->found) == 0;
        if (dial->n_found > 0)
                return true;
        return resolve_start(&dial->resolve, dial->peers->event, name, dial_on_resolved, dial) == 0;
}

void dial_step(Dial *dial) {
        dial->wants_step = false;
        for (;;) {
                if (dial->next_found < dial->n_found) {
                        int r = connection_dial(&dial->connection, dial, dial->found + dial->next_found++);
                        if (r == 0)
                                return;
                        dial->silent |= r != -ECONNREFUSED;
                } else if (dial->next_name < dial->n_names) {
                        if (!dial_look_up(dial, dial->names[dial->next_name++]))
                                dial->silent = true;
                        if (dial->resolve)
                                return;
                } else {
                        dial_exhausted(dial);
                        return;
                }
        }
}

void dial_lost(Dial *dial, PeersDown why, bool worked) {
        dial->connection = NULL;
        dial->silent |= why == PEERS_DOWN_SILENT;
        dial->refused |= why == PEERS_DOWN_REFUSED;
        if (!dial_is_wanted(dial))
                return;
        if (!worked)
                dial_want_step(dial);
        else if (dial->role == DIAL_CONTROL)
                dial_pause(dial);
        else
                dial_kick(dial); /* for calls that wait */
}
