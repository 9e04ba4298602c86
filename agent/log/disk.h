/* The few things the log asks of a disk, as a table: the real one is the file system below a directory, the
 * simulation's forgets unsynced writes, tears them, fills up and stalls. All names are plain file names
 * inside one directory. Functions return 0 (or a number) or -errno. Each is safe to call from one thread at
 * a time per file. */
#pragma once

#include "../base/macros.h"

typedef struct Disk Disk;
typedef struct DiskFile DiskFile;

typedef struct DiskOps {
        /* Existing files only unless create; a created file's name is durable after sync_directory(). */
        int (*open)(Disk *disk, const char *name, bool create, DiskFile **ret);
        void (*close)(DiskFile *file);
        int64_t (*size)(DiskFile *file);
        int64_t (*read)(DiskFile *file, void *data, size_t size, uint64_t offset); /* short at end of file */
        int (*write)(DiskFile *file, const void *data, size_t size, uint64_t offset); /* all or -errno */
        int (*truncate)(DiskFile *file, uint64_t size);
        int (*sync)(DiskFile *file); /* fdatasync: data and size */
        int (*rename)(Disk *disk, const char *from, const char *to);
        int (*unlink)(Disk *disk, const char *name);
        int (*sync_directory)(Disk *disk);
        /* Calls each(name) for every file; stops and returns its value when it is not 0. */
        int (*list)(Disk *disk, int (*each)(const char *name, void *userdata), void *userdata);
        /* The directory is this process's alone from here on: 0, or -EWOULDBLOCK. NULL: no locking. */
        int (*lock)(Disk *disk);
        void (*unlock)(Disk *disk);
} DiskOps;

struct Disk {
        const DiskOps *ops;
};

/* The real one. The directory must exist. */
int disk_open_directory(Disk **ret, const char *path);
Disk *disk_free(Disk *disk); /* of disk_open_directory(); accepts NULL */
