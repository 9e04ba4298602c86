/* What is done to the machines of a story: founded, stopped, copied, wiped, rotten, cut off. */
#include "story.h"
#include "agent/tree/internal.h"

#include <dirent.h>
#include <sqlite3.h>
#include <string.h>
#include <unistd.h>

/* ---- Machines ---- */

void machine_found(SimHost *host) {
        if (!host->agent)
                host_start(host);
        bool first = !world.founded;
        for (uint64_t until = world.now + WAIT_USEC;
             host->agent->requests.incarnation == 0 && world.now < until;)
                (void)step(until);
        if (!first)
                return;
        memcpy(world.cluster, host->agent->tree_status.cluster, sizeof(world.cluster));
        world.founded = true;
        ghost_watch(host);
}

void machine_stop(SimHost *host) {
        agent_stop(host->agent);
        host_wake(host);
        for (uint64_t until = world.now + WAIT_USEC; !agent_stopped(host->agent) && world.now < until;)
                (void)step(until);
        host_stop(host);
        tell("%s has stopped", host->name);
}

static void copy_files(const char *from, const char *to) {
        char command[400];
        snprintf(command, sizeof(command), "rm -rf '%s' && cp -a '%s' '%s'", to, from, to);
        if (system(command) != 0)
                stuck("the state cannot be copied");
}

void machine_copy(SimHost *host) {
        char copy[100];
        snprintf(copy, sizeof(copy), "%s.image", host->directory);
        copy_files(host->directory, copy);
        story.images[host->i] = simdisk_copy(host->disk);
}

void machine_restore(SimHost *host) {
        host->set_back = host->touched = true;
        promise_forgive(host);
        char copy[100];
        snprintf(copy, sizeof(copy), "%s.image", host->directory);
        copy_files(copy, host->directory);
        simdisk_free(host->disk);
        host->disk = TAKE(story.images[host->i]);
}

void machine_wipe(SimHost *host) {
        promise_forgive(host);
        char command[200];
        snprintf(command, sizeof(command), "rm -rf '%s' && mkdir '%s'", host->directory, host->directory);
        if (system(command) != 0)
                stuck("the state cannot be moved away");
        simdisk_free(host->disk);
        host->disk = simdisk_new(random_next(&world.random));
        story.seen[host->i] = (Seen){};
}

static int newest_segment(const char *name, void *userdata) {
        char *newest = userdata;
        if (strncmp(name, "log-", 4) == 0 && strcmp(name, newest) > 0)
                snprintf(newest, 64, "%s", name);
        return 0;
}

/* In the newest segment, in front of the last few records: those prove that it had been durable. */
void machine_rot(SimHost *host) {
        char name[64] = "";
        uint8_t byte = 0;
        DiskFile *file;
        Disk *disk = simdisk_disk(host->disk);
        (void)disk->ops->list(disk, newest_segment, name);
        if (disk->ops->open(disk, name, false, &file) < 0)
                stuck("there is no log");
        uint64_t end = simdisk_size_of(host->disk, name); /* zeros lie ahead of use */
        while (end > 0 && byte == 0)
                if (disk->ops->read(file, &byte, 1, --end) != 1)
                        stuck("the log cannot be read");
        disk->ops->close(file);
        for (uint64_t at = end - 700; at < end - 660; at++)
                (void)simdisk_flip(host->disk, name, at, 0x5a);
        promise_forgive(host);
        world.may_rot = true;
}

/* Nothing in the log can be read any more. */
static int rot_segment(const char *name, void *userdata) {
        SimHost *host = userdata;
        if (strncmp(name, "log-", 4) == 0)
                for (uint64_t at = 0, end = simdisk_size_of(host->disk, name); at < end; at += 8)
                        (void)simdisk_flip(host->disk, name, at, 0x5a);
        return 0;
}

void machine_rot_log(SimHost *host) {
        Disk *disk = simdisk_disk(host->disk);
        (void)disk->ops->list(disk, rot_segment, host);
        promise_forgive(host);
        world.may_rot = true;
}

/* The tree file of a host: a real one, also in a story. */
void machine_rot_tree(SimHost *host, bool lose) {
        DIR *directory = opendir(host->directory);
        bool done = false;
        for (struct dirent *e; directory && (e = readdir(directory));) {
                char path[400];
                snprintf(path, sizeof(path), "%s/%s", host->directory, e->d_name);
                if (strncmp(e->d_name, "tree-", 5) != 0)
                        continue;
                if (lose)
                        done = unlink(path) == 0 || done;
                else if (strlen(e->d_name) == 33) {
                        FILE *file = fopen(path, "r+");
                        done = file && fwrite("\132\132\132\132", 4, 1, file) == 1;
                        if (file)
                                fclose(file);
                }
        }
        if (directory)
                closedir(directory);
        if (!done)
                stuck("there is no tree");
}

/* Every checksum still fits: only the others know better. */
bool machine_diverge(SimHost *host, const char *path) {
        char file[400], sql[400];
        sqlite3 *db = NULL;
        snprintf(file, sizeof(file), "%s/%s", host->directory, host->agent->tree_name);
        snprintf(
                sql, sizeof(sql),
                "UPDATE newest SET id = (SELECT max(rows.id) FROM rows WHERE rows.id < newest.id AND "
                "CAST(substr(head, -length('%s')) AS TEXT) = '%s') WHERE n = (SELECT n FROM keys WHERE key = '%s')",
                path, path, path);
        bool good = sqlite3_open(file, &db) == SQLITE_OK &&
                    sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK && sqlite3_changes(db) == 1;
        sqlite3_close(db);
        host->diverged = good = good && host->agent->tree->known.n_waiting == 0;
        if (good)
                keys_forget(host->agent->tree); /* memory knows better */
        return good;
}

/* Where no checksum is kept: nobody notices before digests are compared, or a tree is built from it. */
void machine_spoil(SimHost *host) {
        Tree *tree = host->agent->tree;
        tree->meta.digest ^= 1;
        tree->saved.digest = tree->meta.digest;
        host->diverged = true;
}

void machine_cut(unsigned a, unsigned b) {
        if (a != b)
                net_cut(a, b, true);
}

void machines_heal(void) {
        for (unsigned a = 0; a < world.n_hosts; a++)
                for (unsigned b = 0; b < world.n_hosts; b++)
                        net_cut(a, b, false);
}

void machine_cut_off(const SimHost *host) {
        for (unsigned i = 0; i < world.n_hosts; i++) {
                machine_cut(host->i, i);
                machine_cut(i, host->i);
        }
}

void machines_bare(unsigned n, unsigned voters) {
        world.max_voters = voters ?: 3;
        world.heartbeat_usec = 100 * MSEC;
        world.election_usec = 600 * MSEC;
        world.session_usec = 5 * SEC;
        world.said = said;
        net_begin();
        for (unsigned i = 0; i < n; i++)
                (void)host_add();
}

/* Quietly: what it shows is told by other stories. */
void machines_cluster(unsigned n, unsigned voters) {
        char uses[] = "uses", many[] = "100", *words[] = {uses, many};
        bool quiet = story.quiet;
        story.quiet = true;
        machines_bare(n, voters);
        machine_found(world.hosts[0]);
        run_until(&wish_token(world.hosts[0], words, 2)->answered);
        for (unsigned i = 1; i < n; i++)
                run_until(&wish_join(world.hosts[i], NULL, 0)->answered);
        run_for(6 * SEC);
        story.quiet = quiet;
}
