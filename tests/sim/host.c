/* Machines. A turn is taken when the agent is woken or its deadline comes; the disk works at instants of its
 * own, a piece at a time; a process can be killed between any two of these, and a disk can die in the middle
 * of a piece. */
#include "sim.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- What the agent may ask ---- */

uint64_t host_now(const SimHost *host) {
        uint64_t usec = world.now - host->booted_usec;
        return usec + (uint64_t)((int64_t)usec * host->drift_ppm / 1000000) + host->boot_offset_usec;
}

static uint64_t out_now(void *userdata) {
        return host_now(userdata);
}

static uint64_t out_wall(void *userdata) {
        return UINT64_C(1700000000) * SEC + world.now + (uint64_t)((SimHost *)userdata)->wall_usec;
}

static void out_random(void *userdata, void *data, size_t size) {
        SimHost *host = userdata;
        for (size_t i = 0; i < size; i++)
                ((uint8_t *)data)[i] = (uint8_t)random_next(&host->random);
}

static void out_wake(void *userdata) {
        host_wake(userdata);
}

static void say(void *userdata, int level, const char *text) {
        SimHost *host = userdata;
        note("%s: <%d> %s", host->name, level, text);
        if (world.said)
                world.said(host, level, text);
        else if (!world.tampered && strstr(text, "is a copy or was set back"))
                broken("%s takes a state for a copy, and nobody touched any", host->name);
        if (strncmp(text, "No quorum after an unclean stop", 31) == 0)
                host->unsure = true, host->revision_before = 0;
}

/* ---- The turn ---- */

bool host_runs(const SimHost *host) {
        return host->agent && host->paused_until <= world.now;
}

bool host_is_in(const SimHost *host) {
        return host->agent && world.founded && !host->agent->removed &&
               memcmp(host->agent->tree_status.cluster, world.cluster, sizeof(world.cluster)) == 0;
}

static void disk_step(void *p, uint64_t token);

static void disk_kick(SimHost *host) {
        if (host->disk_pending || !host->agent || agent_idle(host->agent))
                return;
        host->disk_pending = true;
        uint64_t usec = world.now + between(30, chance(300) ? 20000 : world.disk_usec);
        at(MAX(usec, MAX(host->stalled_until, host->paused_until)), disk_step, host, host->disk_token);
}

static void turn_before(SimHost *host, uint64_t usec) {
        if (usec < alarm_at(host, ALARM_TURN))
                alarm_set(host, ALARM_TURN, usec);
}

static void failed(SimHost *host, int r) {
        note("%s: ended by itself: %s", host->name, strerror(-r));
        if (!host->disk_fails && !operator_helps(host))
                broken("%s ended by itself: %s", host->name, strerror(-r));
        host_kill(host, host->disk_cut);
        host_restart_at(host, world.now + between(10 * MSEC, 3 * SEC));
}

static void log_is_quiet(SimHost *host) {
        int r = log_quiet(host->agent->log);
        if (r < 0)
                failed(host, r);
        else if (r > 0)
                host_wake(host);
}

static void disk_step(void *p, uint64_t token) {
        SimHost *host = p;
        if (token != host->disk_token || !host->agent)
                return;
        host->disk_pending = false;
        if (MAX(host->stalled_until, host->paused_until) > world.now) {
                disk_kick(host);
                return;
        }
        int r = agent_step(host->agent);
        store_look(host);
        mix((uint64_t)r << 8 | host->i);
        if (r < 0) {
                failed(host, r);
                return;
        }
        if (r == 0)
                return;
        host_wake(host);
        disk_kick(host);
        alarm_set(host, ALARM_QUIET, world.now + 100 * MSEC);
}

static void take_turn(SimHost *host) {
        if (host->paused_until > world.now) {
                turn_before(host, host->paused_until);
                return;
        }
        if (host->paused_since != 0) { /* as long as it was, not as it was meant to be */
                uint64_t awake = world.now + world.slept_usec;
                if (awake - host->paused_since > 2 * SEC)
                        host->long_pause_until = awake;
                host->paused_since = 0;
        }
        int r = agent_turn(host->agent);
        if (r < 0) {
                failed(host, r);
                return;
        }
        Agent *agent = host->agent;
        mix(world.now << 4 | host->i);
        mix(agent->raft_status.term << 32 | agent->raft_status.commit << 8 | agent->raft_status.role);
        mix(agent->tree_status.applied << 32 | agent->tree_status.revision);

        store_look(host);
        ghost_look(host);
        if (world.moment)
                world.moment(host);
        if (!host->agent)
                return;
        uint64_t deadline = agent_deadline(agent), now = host_now(host);
        turn_before(host,
                    world.now + (deadline > now ? MIN(deadline - now, 3600 * SEC) : 0) + between(1, 30));
        disk_kick(host);
}

void host_alarm(SimHost *host, AlarmKind kind) {
        if (!host->agent)
                return;
        if (kind == ALARM_TURN)
                take_turn(host);
        else
                log_is_quiet(host);
}

void host_wake(SimHost *host) {
        if (host->agent || host->dying)
                turn_before(host, world.now + between(10, 60));
}

void host_pause(SimHost *host, uint64_t usec) {
        host->paused_until = MAX(host->paused_until, world.now + usec);
        if (host->paused_since == 0)
                host->paused_since = world.now + world.slept_usec;
}

/* ---- Life ---- */

SimHost *host_add(void) {
        SimHost *host = calloc(1, sizeof(SimHost));
        assert(host && world.n_hosts < HOSTS_MAX);
        *host = (SimHost){.i = world.n_hosts, .powered = true, .oracle_next = 1};
        host->random.state = random_next(&world.random);
        snprintf(host->name, sizeof(host->name), "h%u", host->i + 1);
        snprintf(host->address, sizeof(host->address), "h%u:7707", host->i + 1);
        snprintf(host->directory, sizeof(host->directory), "%s/%s", world.directory, host->name);
        if (mkdir(host->directory, 0700) < 0)
                stuck("no directory");
        out_random(host, host->key, sizeof(host->key));
        out_random(host, host->machine, sizeof(host->machine));
        host->disk = simdisk_new(random_next(&host->random));
        host->boot_offset_usec = between(1, 100 * SEC);
        if (world.drift_ppm > 0)
                host->drift_ppm = (int64_t)below(2 * world.drift_ppm + 1) - (int64_t)world.drift_ppm;
        world.hosts[world.n_hosts++] = host;
        return host;
}

SimHost *host_of(uint64_t id) {
        for (unsigned i = 0; i < world.n_hosts; i++)
                if (world.hosts[i]->id == id)
                        return world.hosts[i];
        return NULL;
}

SimHost *host_leader(void) {
        SimHost *leader = NULL;
        for (unsigned i = 0; i < world.n_hosts; i++) {
                SimHost *host = world.hosts[i];
                if (host_is_in(host) && host->agent->raft_status.role == RAFT_LEADER &&
                    (!leader || host->agent->raft_status.term > leader->agent->raft_status.term))
                        leader = host;
        }
        return leader;
}

/* Each host has its own, and another one after each start. */
static uint64_t session_lasts(SimHost *host) {
        if (world.session_least_usec == 0)
                return world.session_usec;
        uint64_t room = world.session_usec - world.session_least_usec + 1;
        return world.session_least_usec + random_next(&host->random) % room;
}

/* "join --discard" on a host that was removed: nothing of its old state is there any more. */
static const char *begin_anew(SimHost *host) {
        static char token[TOKEN_TEXT_BYTES];
        Disk *disk = simdisk_disk(host->disk);
        if (anew_begin(disk) == 1) {
                note("%s: begins anew", host->name);
                operator_forgets(host);
        }
        return anew_token(disk, token) == 0 ? token : NULL;
}

void host_start(SimHost *host) {
        const char *anew = begin_anew(host);
        AgentOptions options = {
                .state_directory = host->directory,
                .disk = simdisk_disk(host->disk),
                .report = {.say = say, .userdata = host},
                .threads = false,
                .n_addresses = 1,
                .accept_damage = host->accept_damage,
                .newer = host->newer,
                .join = anew                                ? anew
                        : host->automatic && world.token[0] ? world.token
                                                            : NULL,
                .heartbeat_usec = world.heartbeat_usec,
                .election_usec = world.election_usec,
                .session_usec = session_lasts(host),
                .max_voters = world.max_voters,
                .seed = random_next(&host->random),
                .segment_bytes = world.segment_bytes ?: 256 * 1024,
                .uncommitted_bytes = world.uncommitted_bytes,
                .cache_bytes = world.cache_bytes,
                .history_usec = world.history_usec,
                .history_changes = world.history_changes,
        };
        options.outside = (Outside){
                .userdata = host, .now = out_now, .wall = out_wall, .random = out_random, .wake = out_wake};
        net_table(&options.outside);
        memcpy(options.machine, host->machine, sizeof(options.machine));
        memcpy(options.key, host->key, sizeof(options.key));
        snprintf(options.host_name, sizeof(options.host_name), "%s", host->name);
        snprintf(options.addresses[0], sizeof(options.addresses[0]), "%s", host->address);

        host->life++;
        world.sums.lives++;
        host->powered = true;
        host->restart_token++;
        host->born_usec = world.now;
        host->paused_until = host->stalled_until = host->long_pause_until = host->paused_since = 0;
        host->unsure = false;
        host->applied = host->revision = 0;
        host->durable = UINT64_MAX;
        alarm_set(host, ALARM_TURN, USEC_INFINITY);
        host->disk_fails = host->disk_cut = false;
        host->full_until = 0;
        host->die_in = 0;
        note("%s: starts, life %u", host->name, host->life);
        host->dying = true; /* woken before the agent is there */
        Agent *agent = NULL;
        int r = agent_new(&agent, &options);
        host->dying = false;
        if (r < 0 && operator_helps(host)) {
                note("%s: does not start: %s", host->name, strerror(-r));
                simdisk_kill(host->disk);
                if (!host->leaving)
                        host_restart_at(host, world.now + SEC);
                return;
        }
        if (r < 0)
                broken("%s does not start: %s", host->name, strerror(-r));
        host->agent = agent;
        host->id = agent->host.id;
        if (agent->damaged && !world.may_rot && !host->touched)
                broken("%s calls its log damaged", host->name);
        store_look(host);
        net_back(host);
        host_wake(host);
        clients_own(host);
}

static void end_process(SimHost *host, bool clean) {
        char tree[LOG_TREE_NAME_BYTES];
        alarm_set(host, ALARM_TURN, USEC_INFINITY);
        host->disk_token++;
        alarm_set(host, ALARM_QUIET, USEC_INFINITY);
        host->disk_pending = false;
        host->listening = false;
        host->joining = false;
        clients_killed(host);
        ghost_killed(host);
        snprintf(tree, sizeof(tree), "%s", host->agent->tree_name);
        host->dying = true;
        if (!clean) /* nothing reaches the disk any more */
                simdisk_die_at(host->disk, 0);
        host->agent = agent_free(host->agent, clean);
        host->dying = false;
}

void host_kill(SimHost *host, bool power) {
        if (!host->agent)
                return;
        char tree[LOG_TREE_NAME_BYTES];
        snprintf(tree, sizeof(tree), "%s", host->agent->tree_name);
        note("%s: %s", host->name, power ? "power cut" : "killed");
        if (host->agent->failed == 0)
                store_look(host);
        world.disturbed_usec = world.now;
        end_process(host, false);
        net_gone(host, power);
        simdisk_set_room(host->disk, UINT64_MAX);
        store_full(host, false);
        if (!power) {
                simdisk_kill(host->disk);
                simdisk_die_at(host->disk, UINT64_MAX);
                simdisk_fail_at(host->disk, UINT64_MAX, 0);
                return;
        }
        host->powered = false;
        simdisk_cut(host->disk, (SimCut)below(_SIM_CUT_MAX));
        store_cut(host, tree);
        host->booted_usec = world.now;
        host->boot_offset_usec = between(1, 20 * SEC);
}

void host_stop(SimHost *host) {
        if (!host->agent)
                return;
        note("%s: stops", host->name);
        world.disturbed_usec = world.now;
        simdisk_set_room(host->disk, UINT64_MAX);
        store_full(host, false);
        simdisk_die_at(host->disk, UINT64_MAX);
        simdisk_fail_at(host->disk, UINT64_MAX, 0);
        end_process(host, true);
        net_gone(host, false);
        simdisk_kill(host->disk);
}

static void restart(void *p, uint64_t token) {
        SimHost *host = p;
        if (token == host->restart_token && !host->agent)
                host_start(host);
}

void host_restart_at(SimHost *host, uint64_t usec) {
        at(usec, restart, host, ++host->restart_token);
}
