/* A directory of the target's own, in memory where there is one; gone when the process ends. */
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "fuzz.h"

static char place_path[64];

static inline void place_clear(void) {
        DIR *directory = opendir(place_path);
        struct dirent *entry;
        while (directory && (entry = readdir(directory)))
                if (entry->d_name[0] != '.')
                        unlinkat(dirfd(directory), entry->d_name, 0);
        if (directory)
                closedir(directory);
}

static inline void place_remove(void) {
        place_clear();
        rmdir(place_path);
}

static inline const char *place(void) {
        if (!place_path[0]) {
                snprintf(place_path, sizeof(place_path), "%s/treaty-fuzz.XXXXXX",
                         access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
                must(mkdtemp(place_path));
                atexit(place_remove);
        }
        return place_path;
}

static inline void place_write(const char *name, const void *data, size_t size) {
        char path[320];
        snprintf(path, sizeof(path), "%s/%s", place(), name);
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        must(fd >= 0 && write(fd, data, size) == (ssize_t)size);
        close(fd);
}
