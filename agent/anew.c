/* A host that was removed, or whose state is a copy, was set back or is damaged, begins anew under the same
 * name: as somebody else (a member that is damaged is removed first: join.c). Id, key, log and tree all go,
 * since each of them stood for promises that nobody can keep any more.
 *
 *      join --discard TOKEN ──> "anew" holds the token, durable ──> the process ends, and is started again
 *      start: "anew" is there ──> all else in the state directory goes ──> it is renamed to "join"
 *      "join" is there ──> the host joins by it, as by Join=, until it is a member; then it goes, too
 *
 * Killed anywhere between, the next start does the rest. */
#include "hall.h"
#include "base/seen.h"

#include <stdio.h>
#include <string.h>

#define ANEW_FILE     "anew"
#define ANEW_FILE_NEW "anew.new"
#define JOIN_FILE     "join"
#define LOCK_FILE     "lock"

bool anew_is_due(const Agent *agent) {
        return agent->removed || agent->members.out || agent->quarantined;
}

int anew_ask(Agent *agent, const char *token) {
        int r = state_file_replace(agent->options.disk, ANEW_FILE, ANEW_FILE_NEW, token, strlen(token));
        if (r < 0)
                return r;
        agent->anew_usec = hall_now(agent) + 100 * USEC_PER_MSEC; /* the caller is answered first */
        return 0;
}

bool agent_begins_anew(const Agent *agent) {
        return agent->anew_usec != 0 && hall_now(agent) >= agent->anew_usec;
}

static int drop(const char *name, void *userdata) {
        Disk *disk = userdata;
        if (strcmp(name, ANEW_FILE) == 0 || strcmp(name, LOCK_FILE) == 0)
                return 0;
        int r = disk->ops->unlink(disk, name);
        return r == -EISDIR || r == -EPERM || r == -ENOENT ? 0 : r; /* "lost+found" is nobody's */
}

/* 1: the state was dropped; 0: there was no wish for it. */
int anew_begin(Disk *disk) {
        char token[TOKEN_TEXT_BYTES];
        int r = state_file_read(disk, ANEW_FILE, token, sizeof(token));
        if (r == -ENOENT)
                return 0;
        SIM_SEEN("anew: all state is dropped, as a join wished");
        if (r >= 0)
                r = disk->ops->list(disk, drop, disk);
        if (r >= 0)
                r = disk->ops->sync_directory(disk);
        if (r >= 0)
                r = disk->ops->rename(disk, ANEW_FILE, JOIN_FILE);
        if (r >= 0)
                r = disk->ops->sync_directory(disk);
        return r < 0 ? r : 1;
}

/* The token by which to join: 0, -ENOENT. */
int anew_token(Disk *disk, char to[static TOKEN_TEXT_BYTES]) {
        int r = state_file_read(disk, JOIN_FILE, to, TOKEN_TEXT_BYTES);
        return r < 0 ? r : 0;
}

void anew_done(Agent *agent) {
        Disk *disk = agent->options.disk;
        if (disk->ops->unlink(disk, JOIN_FILE) >= 0)
                (void)disk->ops->sync_directory(disk);
}
