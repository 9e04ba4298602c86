/* SQLite's files on the host's simulated disk, beside its log: one room that both fill, one list of writes
 * that no sync has covered, one power cut that loses, tears and reorders them, one call at which the machine
 * dies (inside a checkpoint, too). What the tree asks of the file system without SQLite (making, syncing,
 * sweeping, renaming) is led here by the linker's --wrap. The shared memory of the WAL index lies on the
 * heap and goes with the process. Nothing above knows of it. */
#include "sim.h"

#include <dirent.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define LOCKS   SQLITE_SHM_NLOCK
#define REGIONS 64
#define FD_BASE 1000000 /* no real descriptor is that high */
#define FDS     16

/* One database file of one host, as long as anybody has it open: locks and the WAL index. */
typedef struct Node {
        char path[200];
        unsigned n_open, n_shared, n_shm;
        bool reserved, pending, exclusive;
        unsigned shm_shared[LOCKS];
        bool shm_exclusive[LOCKS];
        void *regions[REGIONS];
        struct Node *prev, *next;
} Node;

typedef struct File {
        sqlite3_file base;
        DiskFile *file;
        SimHost *host;
        Node *node; /* NULL: not a database */
        char name[64];
        int level;
        unsigned shm_shared, shm_exclusive; /* masks */
        bool shm, delete_on_close, fresh;
} File;

static Node *nodes;

static Disk *disk_of(const SimHost *host) {
        return simdisk_disk(host->disk);
}

/* Whose disk, and under which name there; NULL: a real path. */
static SimHost *place_of(const char *path, const char **ret_name) {
        size_t n = strlen(world.directory);
        unsigned i = 0;
        int end = 0;
        if (n == 0 || strncmp(path, world.directory, n) != 0 || sscanf(path + n, "/h%u%n", &i, &end) != 1 ||
            i == 0 || i > world.n_hosts)
                return NULL;
        const char *rest = path + n + end;
        *ret_name = *rest == '/' ? rest + 1 : rest;
        return world.hosts[i - 1];
}

static bool is_there(SimHost *host, const char *name) {
        DiskFile *file;
        if (disk_of(host)->ops->open(disk_of(host), name, false, &file) < 0)
                return false;
        disk_of(host)->ops->close(file);
        return true;
}

/* ---- Nodes ---- */

static Node *node_open(const char *path) {
        Node *node;
        DL_FOREACH (nodes, node)
                if (strcmp(node->path, path) == 0)
                        break;
        if (!node) {
                node = calloc(1, sizeof(Node));
                assert(node);
                snprintf(node->path, sizeof(node->path), "%s", path);
                DL_APPEND(nodes, node);
        }
        node->n_open++;
        return node;
}

static void regions_free(Node *node) {
        for (unsigned i = 0; i < REGIONS; i++) {
                free(node->regions[i]);
                node->regions[i] = NULL;
        }
}

static void node_close(Node *node) {
        if (--node->n_open > 0)
                return;
        regions_free(node);
        DL_DELETE(nodes, node);
        free(node);
}

/* ---- Files ---- */

static int outcome(int r, int rc) {
        return r >= 0 ? SQLITE_OK : r == -ENOSPC ? SQLITE_FULL : r == -ENOMEM ? SQLITE_IOERR_NOMEM : rc;
}

static int vfs_unlock(sqlite3_file *f, int level);
static int vfs_shm_unmap(sqlite3_file *f, int delete);

static int vfs_close(sqlite3_file *f) {
        File *file = (File *)f;
        if (file->node) {
                (void)vfs_shm_unmap(f, 0);
                (void)vfs_unlock(f, SQLITE_LOCK_NONE);
                node_close(file->node);
        }
        Disk *disk = disk_of(file->host);
        disk->ops->close(file->file);
        if (file->delete_on_close)
                (void)disk->ops->unlink(disk, file->name);
        return SQLITE_OK;
}

static int vfs_read(sqlite3_file *f, void *data, int size, sqlite3_int64 offset) {
        File *file = (File *)f;
        int64_t n = disk_of(file->host)->ops->read(file->file, data, (size_t)size, (uint64_t)offset);
        if (n < 0)
                return SQLITE_IOERR_READ;
        if (n == size)
                return SQLITE_OK;
        memset((char *)data + n, 0, (size_t)(size - n));
        return SQLITE_IOERR_SHORT_READ;
}

static int vfs_write(sqlite3_file *f, const void *data, int size, sqlite3_int64 offset) {
        File *file = (File *)f;
        return outcome(disk_of(file->host)->ops->write(file->file, data, (size_t)size, (uint64_t)offset),
                       SQLITE_IOERR_WRITE);
}

static int vfs_truncate(sqlite3_file *f, sqlite3_int64 size) {
        File *file = (File *)f;
        return outcome(disk_of(file->host)->ops->truncate(file->file, (uint64_t)size),
                       SQLITE_IOERR_TRUNCATE);
}

static int vfs_sync(sqlite3_file *f, int flags) {
        File *file = (File *)f;
        Disk *disk = disk_of(file->host);
        int r = disk->ops->sync(file->file);
        if (r >= 0 && file->fresh) { /* as SQLite does for a journal that is new */
                r = disk->ops->sync_directory(disk);
                file->fresh = false;
        }
        return outcome(r, SQLITE_IOERR_FSYNC);
}

static int vfs_size(sqlite3_file *f, sqlite3_int64 *ret) {
        File *file = (File *)f;
        int64_t size = disk_of(file->host)->ops->size(file->file);
        if (size < 0)
                return SQLITE_IOERR_FSTAT;
        *ret = size;
        return SQLITE_OK;
}

static int vfs_lock(sqlite3_file *f, int level) {
        File *file = (File *)f;
        Node *node = file->node;
        if (!node || file->level >= level)
                return SQLITE_OK;
        switch (level) {
        case SQLITE_LOCK_SHARED:
                if (node->pending || node->exclusive)
                        return SQLITE_BUSY;
                node->n_shared++;
                break;
        case SQLITE_LOCK_RESERVED:
                if (node->reserved)
                        return SQLITE_BUSY;
                node->reserved = true;
                break;
        case SQLITE_LOCK_EXCLUSIVE:
                if (file->level < SQLITE_LOCK_RESERVED && node->reserved)
                        return SQLITE_BUSY;
                node->reserved = node->pending = true;
                file->level = SQLITE_LOCK_PENDING;
                if (node->n_shared > 1)
                        return SQLITE_BUSY;
                node->exclusive = true;
                break;
        }
        file->level = level;
        return SQLITE_OK;
}

static int vfs_unlock(sqlite3_file *f, int level) {
        File *file = (File *)f;
        Node *node = file->node;
        if (!node || file->level <= level)
                return SQLITE_OK;
        if (file->level >= SQLITE_LOCK_RESERVED)
                node->reserved = node->pending = node->exclusive = false;
        if (level == SQLITE_LOCK_NONE)
                node->n_shared--;
        file->level = level;
        return SQLITE_OK;
}

static int vfs_check_reserved(sqlite3_file *f, int *ret) {
        const File *file = (File *)f;
        *ret = file->node && file->node->reserved;
        return SQLITE_OK;
}

static int vfs_control(sqlite3_file *f, int op, void *p) {
        if (op != SQLITE_FCNTL_MMAP_SIZE)
                return SQLITE_NOTFOUND;
        *(sqlite3_int64 *)p = 0; /* no file is mapped */
        return SQLITE_OK;
}

static int vfs_sector(sqlite3_file *f) {
        return 4096;
}

static int vfs_traits(sqlite3_file *f) {
        return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

/* ---- The WAL's index ---- */

static int vfs_shm_map(sqlite3_file *f, int region, int size, int extend, void volatile **ret) {
        File *file = (File *)f;
        Node *node = file->node;
        *ret = NULL;
        if (region >= REGIONS)
                return SQLITE_IOERR_SHMMAP;
        if (!file->shm)
                file->shm = true, node->n_shm++;
        if (!node->regions[region] && extend)
                node->regions[region] = calloc(1, (size_t)size);
        *ret = node->regions[region];
        return SQLITE_OK;
}

static int vfs_shm_lock(sqlite3_file *f, int offset, int n, int flags) {
        File *file = (File *)f;
        Node *node = file->node;
        unsigned mask = ((1u << n) - 1) << offset;

        for (int i = offset; i < offset + n; i++) {
                unsigned mine = file->shm_shared >> i & 1;
                if (flags & SQLITE_SHM_UNLOCK)
                        continue;
                if (node->shm_exclusive[i] && !(file->shm_exclusive >> i & 1))
                        return SQLITE_BUSY;
                if ((flags & SQLITE_SHM_EXCLUSIVE) && node->shm_shared[i] > mine)
                        return SQLITE_BUSY;
        }
        for (int i = offset; i < offset + n; i++) {
                bool shared = file->shm_shared >> i & 1, exclusive = file->shm_exclusive >> i & 1;
                if (flags & SQLITE_SHM_UNLOCK) {
                        node->shm_shared[i] -= shared;
                        if (exclusive)
                                node->shm_exclusive[i] = false;
                } else if (flags & SQLITE_SHM_SHARED)
                        node->shm_shared[i] += !shared;
                else
                        node->shm_exclusive[i] = true;
        }
        if (flags & SQLITE_SHM_UNLOCK)
                file->shm_shared &= ~mask, file->shm_exclusive &= ~mask;
        else if (flags & SQLITE_SHM_SHARED)
                file->shm_shared |= mask;
        else
                file->shm_exclusive |= mask;
        return SQLITE_OK;
}

static void vfs_shm_barrier(sqlite3_file *f) {
}

static int vfs_shm_unmap(sqlite3_file *f, int delete) {
        File *file = (File *)f;
        if (!file->shm)
                return SQLITE_OK;
        (void)vfs_shm_lock(f, 0, LOCKS, SQLITE_SHM_UNLOCK);
        file->shm = false;
        if (--file->node->n_shm == 0)
                regions_free(file->node);
        return SQLITE_OK;
}

static const sqlite3_io_methods methods = {
        .iVersion = 2,
        .xClose = vfs_close,
        .xRead = vfs_read,
        .xWrite = vfs_write,
        .xTruncate = vfs_truncate,
        .xSync = vfs_sync,
        .xFileSize = vfs_size,
        .xLock = vfs_lock,
        .xUnlock = vfs_unlock,
        .xCheckReservedLock = vfs_check_reserved,
        .xFileControl = vfs_control,
        .xSectorSize = vfs_sector,
        .xDeviceCharacteristics = vfs_traits,
        .xShmMap = vfs_shm_map,
        .xShmLock = vfs_shm_lock,
        .xShmBarrier = vfs_shm_barrier,
        .xShmUnmap = vfs_shm_unmap,
};

/* ---- The file system ---- */

static int vfs_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *f, int flags, int *ret_flags) {
        File *file = (File *)f;
        const char *name = NULL;
        *file = (File){};
        SimHost *host = path ? place_of(path, &name) : NULL;
        if (!host)
                return SQLITE_CANTOPEN;
        bool there = is_there(host, name);
        if (there && (flags & SQLITE_OPEN_EXCLUSIVE))
                return SQLITE_CANTOPEN;
        int r = disk_of(host)->ops->open(disk_of(host), name, flags & SQLITE_OPEN_CREATE, &file->file);
        if (r < 0)
                return outcome(r, SQLITE_CANTOPEN);
        file->base.pMethods = &methods;
        file->host = host;
        file->fresh = !there && !(flags & SQLITE_OPEN_MAIN_DB);
        file->delete_on_close = flags & SQLITE_OPEN_DELETEONCLOSE;
        snprintf(file->name, sizeof(file->name), "%s", name);
        if (flags & SQLITE_OPEN_MAIN_DB)
                file->node = node_open(path);
        if (ret_flags)
                *ret_flags = flags;
        return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *path, int sync) {
        const char *name = NULL;
        SimHost *host = place_of(path, &name);
        if (!host)
                return SQLITE_IOERR_DELETE;
        Disk *disk = disk_of(host);
        int r = disk->ops->unlink(disk, name);
        if (r == -ENOENT)
                return SQLITE_IOERR_DELETE_NOENT;
        if (r >= 0 && sync)
                r = disk->ops->sync_directory(disk);
        return outcome(r, SQLITE_IOERR_DELETE);
}

static int vfs_access(sqlite3_vfs *vfs, const char *path, int flags, int *ret) {
        const char *name = NULL;
        SimHost *host = place_of(path, &name);
        *ret = host && is_there(host, name);
        if (*ret && flags == SQLITE_ACCESS_EXISTS) { /* an empty file counts as none, as on a real one */
                *ret = simdisk_size_of(host->disk, name) > 0;
        }
        return SQLITE_OK;
}

static int vfs_full_path(sqlite3_vfs *vfs, const char *path, int size, char *ret) {
        snprintf(ret, (size_t)size, "%s", path);
        return SQLITE_OK;
}

static int vfs_randomness(sqlite3_vfs *vfs, int size, char *data) {
        for (int i = 0; i < size; i++)
                data[i] = (char)below(256);
        return size;
}

static int vfs_sleep(sqlite3_vfs *vfs, int usec) {
        return usec;
}

static int vfs_time(sqlite3_vfs *vfs, sqlite3_int64 *ret) {
        *ret = INT64_C(210866760000000) + INT64_C(1700000000000) + (sqlite3_int64)(world.now / 1000);
        return SQLITE_OK;
}

static int vfs_last_error(sqlite3_vfs *vfs, int size, char *text) {
        return 0;
}

__attribute__((constructor)) static void vfs_register(void) {
        static sqlite3_vfs vfs = {
                .iVersion = 2,
                .szOsFile = sizeof(File),
                .mxPathname = 512,
                .zName = "simulated",
                .xOpen = vfs_open,
                .xDelete = vfs_delete,
                .xAccess = vfs_access,
                .xFullPathname = vfs_full_path,
                .xRandomness = vfs_randomness,
                .xSleep = vfs_sleep,
                .xGetLastError = vfs_last_error,
                .xCurrentTimeInt64 = vfs_time,
        };
        (void)sqlite3_vfs_register(&vfs, 1);
}

/* ---- What the tree does without SQLite ---- */

typedef struct Handle { /* a descriptor */
        SimHost *host;
        DiskFile *file; /* NULL: the directory */
} Handle;

typedef struct List { /* a DIR */
        SimHost *host;
        int fd;
        char (*names)[64];
        size_t n, at;
        struct dirent entry;
} List;

static Handle handles[FDS];

static int handle_new(SimHost *host, DiskFile *file) {
        for (int i = 0; i < FDS; i++)
                if (!handles[i].host) {
                        handles[i] = (Handle){.host = host, .file = file};
                        return FD_BASE + i;
                }
        assert(!"too many descriptors");
        return -1;
}

static Handle *handle_of(int fd) {
        return fd >= FD_BASE && fd < FD_BASE + FDS ? &handles[fd - FD_BASE] : NULL;
}

static int told(int r) {
        if (r >= 0)
                return r;
        errno = -r;
        return -1;
}

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...) {
        const char *name = NULL;
        SimHost *host = place_of(path, &name);
        DiskFile *file = NULL;
        if (!host)
                return __real_open64(path, flags, 0600);
        if (!name[0])
                return handle_new(host, NULL);
        if ((flags & O_EXCL) && is_there(host, name))
                return told(-EEXIST);
        int r = disk_of(host)->ops->open(disk_of(host), name, flags & O_CREAT, &file);
        return r < 0 ? told(r) : handle_new(host, file);
}

int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd) {
        Handle *handle = handle_of(fd);
        if (!handle)
                return __real_close(fd);
        if (handle->file)
                disk_of(handle->host)->ops->close(handle->file);
        *handle = (Handle){};
        return 0;
}

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd) {
        Handle *handle = handle_of(fd);
        if (!handle)
                return __real_fsync(fd);
        Disk *disk = disk_of(handle->host);
        return told(handle->file ? disk->ops->sync(handle->file) : disk->ops->sync_directory(disk));
}

int __real_unlink(const char *path);
int __wrap_unlink(const char *path);
int __wrap_unlink(const char *path) {
        const char *name = NULL;
        SimHost *host = place_of(path, &name);
        return host ? told(disk_of(host)->ops->unlink(disk_of(host), name)) : __real_unlink(path);
}

int __real_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
int __wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
int __wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
        const char *old = NULL, *new = NULL;
        SimHost *host = place_of(from, &old);
        if (!host || place_of(to, &new) != host)
                return __real_renameat2(from_fd, from, to_fd, to, flags);
        if (is_there(host, new))
                return told(-EEXIST);
        return told(disk_of(host)->ops->rename(disk_of(host), old, new));
}

DIR *__real_opendir(const char *path);
DIR *__wrap_opendir(const char *path);

static int list_name(const char *name, void *userdata) {
        List *list = userdata;
        list->names = reallocarray(list->names, list->n + 1, sizeof(*list->names));
        assert(list->names);
        snprintf(list->names[list->n++], sizeof(*list->names), "%s", name);
        return 0;
}

DIR *__wrap_opendir(const char *path) {
        const char *name = NULL;
        SimHost *host = place_of(path, &name);
        if (!host)
                return __real_opendir(path);
        List *list = calloc(1, sizeof(List));
        assert(list);
        *list = (List){.host = host, .fd = handle_new(host, NULL)};
        int r = disk_of(host)->ops->list(disk_of(host), list_name, list);
        if (r < 0) {
                (void)__wrap_close(list->fd);
                free(list->names);
                free(list);
                (void)told(r);
                return NULL;
        }
        return (DIR *)list;
}

struct dirent64 *__wrap_readdir64(DIR *directory);
struct dirent64 *__wrap_readdir64(DIR *directory) {
        List *list = (List *)directory;
        if (list->at == list->n)
                return NULL;
        snprintf(list->entry.d_name, sizeof(list->entry.d_name), "%s", list->names[list->at++]);
        return (struct dirent64 *)&list->entry;
}

int __wrap_closedir(DIR *directory);
int __wrap_closedir(DIR *directory) {
        List *list = (List *)directory;
        (void)__wrap_close(list->fd);
        free(list->names);
        free(list);
        return 0;
}

int __wrap_dirfd(DIR *directory);
int __wrap_dirfd(DIR *directory) {
        return ((List *)directory)->fd;
}

int __real_unlinkat(int fd, const char *name, int flags);
int __wrap_unlinkat(int fd, const char *name, int flags);
int __wrap_unlinkat(int fd, const char *name, int flags) {
        Handle *handle = handle_of(fd);
        if (!handle)
                return __real_unlinkat(fd, name, flags);
        return told(disk_of(handle->host)->ops->unlink(disk_of(handle->host), name));
}
