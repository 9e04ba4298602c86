/* What lies below the tree: SQLite's real files. Without its thread a checkpoint is one step that nothing
 * interrupts, so the database file beside its WAL always is exactly what a sync has covered: a power cut
 * takes the WAL away, all of it or a piece from its end. */
#include "sim.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char store_program[] = "simulate-sqlite";
const bool store_is_on_disk = false;

/* Not here: only the log's disk fills up. */
void store_full(SimHost *host, bool full) {
}

/* What a checkpoint synced cannot be taken away by a power cut. */
bool store_rot(SimHost *host) {
        return false;
}

void store_well(SimHost *host) {
}

void store_look(SimHost *host) {
        TreeStatus status;
        tree_status(host->agent->tree, &status);
        if (status.durable == host->durable)
                return;
        host->durable = status.durable;
        char path[200];
        struct stat st;
        snprintf(path, sizeof(path), "%s/%s-wal", host->directory, host->agent->tree_name);
        memset(host->checkpoint_salt, 0, sizeof(host->checkpoint_salt));
        host->checkpoint_wal = stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
                ssize_t n = read(fd, host->checkpoint_salt, sizeof(host->checkpoint_salt));
                (void)n;
                close(fd);
        }
}

/* What of the WAL no sync has covered may be lost, from its end. */
void store_cut(SimHost *host, const char *name) {
        char path[400];
        struct stat st;
        uint8_t salt[32] = {};

        snprintf(path, sizeof(path), "%s/%s-shm", host->directory, name);
        (void)unlink(path);
        snprintf(path, sizeof(path), "%s/%s-wal", host->directory, name);
        if (stat(path, &st) < 0)
                return;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd >= 0 ? read(fd, salt, sizeof(salt)) : 0;
        (void)n;
        if (fd >= 0)
                close(fd);
        uint64_t size = (uint64_t)st.st_size, least = host->checkpoint_wal;
        if (memcmp(salt, host->checkpoint_salt, sizeof(salt)) != 0 || least > size)
                least = 0;
        if (chance(5000) || truncate(path, (off_t)between(least, size)) < 0)
                (void)unlink(path);
}
