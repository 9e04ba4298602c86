/* See failing.h. */
#include "failing.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OURS __attribute__((visibility("default")))

static struct {
        FailKind kind;
        uint64_t n, n_more, calls;
        bool on, full, hit;
        const char *what;
} state;

void failing_arm(FailKind kind, uint64_t n, uint64_t n_more, bool full) {
        state.kind = kind;
        state.n = n;
        state.n_more = n_more;
        state.full = full;
        state.calls = 0;
        state.hit = false;
        state.what = NULL;
}

void failing_on(void) {
        state.on = true;
}

void failing_off(void) {
        state.on = false;
}

uint64_t failing_calls(void) {
        return state.calls;
}

bool failing_hit(void) {
        return state.hit;
}

const char *failing_what(void) {
        return state.what ?: "nothing";
}

bool failing_fails(FailKind kind, const char *what) {
        if (!state.on || state.kind != kind)
                return false;
        uint64_t n = state.calls++;
        if (n < state.n || n - state.n > state.n_more)
                return false;
        if (!state.hit)
                state.what = what;
        state.hit = true;
        return true;
}

/* -- Memory ------------------------------------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__)
#define BELOW(name) __interceptor_##name
#else
#define BELOW(name) __libc_##name
#endif

void *BELOW(malloc)(size_t size);
void *BELOW(calloc)(size_t n, size_t size);
void *BELOW(realloc)(void *p, size_t size);

OURS void *malloc(size_t size) {
        if (failing_fails(FAIL_MEMORY, "malloc")) {
                errno = ENOMEM;
                return NULL;
        }
        return BELOW(malloc)(size);
}

OURS void *calloc(size_t n, size_t size) {
        if (failing_fails(FAIL_MEMORY, "calloc")) {
                errno = ENOMEM;
                return NULL;
        }
        return BELOW(calloc)(n, size);
}

OURS void *realloc(void *p, size_t size) {
        if (failing_fails(FAIL_MEMORY, "realloc")) {
                errno = ENOMEM;
                return NULL;
        }
        return BELOW(realloc)(p, size);
}

OURS void *reallocarray(void *p, size_t n, size_t size) {
        size_t bytes;
        if (__builtin_mul_overflow(n, size, &bytes)) {
                errno = ENOMEM;
                return NULL;
        }
        return realloc(p, bytes);
}

/* -- Files -------------------------------------------------------------------------------------------- */

static bool fails_file(const char *what, bool writes) {
        if (!failing_fails(FAIL_FILE, what))
                return false;
        errno = writes && state.full ? ENOSPC : EIO;
        return true;
}

OURS int open64(const char *path, int flags, ...) {
        mode_t mode = 0;
        if (flags & O_CREAT) {
                va_list ap;
                va_start(ap, flags);
                mode = va_arg(ap, mode_t);
                va_end(ap);
        }
        if (fails_file("open", flags & O_CREAT))
                return -1;
        return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

OURS int openat64(int fd, const char *path, int flags, ...) {
        mode_t mode = 0;
        if (flags & O_CREAT) {
                va_list ap;
                va_start(ap, flags);
                mode = va_arg(ap, mode_t);
                va_end(ap);
        }
        if (fails_file("openat", flags & O_CREAT))
                return -1;
        return (int)syscall(SYS_openat, fd, path, flags, mode);
}

OURS int renameat(int from_fd, const char *from, int to_fd, const char *to) {
        return fails_file("renameat", true) ? -1 : (int)syscall(SYS_renameat, from_fd, from, to_fd, to);
}

OURS ssize_t pread64(int fd, void *data, size_t size, off64_t offset) {
        return fails_file("pread", false) ? -1 : syscall(SYS_pread64, fd, data, size, offset);
}

OURS ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
        return fails_file("pwrite", true) ? -1 : syscall(SYS_pwrite64, fd, data, size, offset);
}

OURS int ftruncate64(int fd, off64_t size) {
        return fails_file("ftruncate", true) ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}

OURS int fsync(int fd) {
        return fails_file("fsync", false) ? -1 : (int)syscall(SYS_fsync, fd);
}

OURS int fdatasync(int fd) {
        return fails_file("fdatasync", false) ? -1 : (int)syscall(SYS_fdatasync, fd);
}

OURS int unlink(const char *path) {
        return fails_file("unlink", false) ? -1 : (int)syscall(SYS_unlink, path);
}

OURS int unlinkat(int fd, const char *path, int flags) {
        return fails_file("unlinkat", false) ? -1 : (int)syscall(SYS_unlinkat, fd, path, flags);
}

OURS int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
        return fails_file("renameat2", true) ? -1
                                             : (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

OURS void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset) {
        if (fd >= 0 && fails_file("mmap", false))
                return MAP_FAILED;
        return (void *)syscall(SYS_mmap, at, size, protection, flags, fd, offset);
}

OURS int fcntl64(int fd, int what, ...) {
        va_list ap;
        va_start(ap, what);
        void *argument = va_arg(ap, void *);
        va_end(ap);
        if (what == F_SETLK && fails_file("fcntl", false))
                return -1;
        return (int)syscall(SYS_fcntl, fd, what, argument);
}

/* -- The log's table ---------------------------------------------------------------------------------- */

typedef struct FailingDisk {
        Disk disk;
        Disk *below;
} FailingDisk;

struct DiskFile {
        Disk *below;
        DiskFile *file;
};

/* What the disk in memory allocates is not ours to fail. */
#define BELOW_CALL(type, call)       \
        ({                           \
                bool on_ = state.on; \
                state.on = false;    \
                type r_ = call;      \
                state.on = on_;      \
                r_;                  \
        })

static Disk *below(Disk *disk) {
        return CONTAINER_OF(disk, FailingDisk, disk)->below;
}

static int fails_disk(const char *what, bool writes) {
        if (!failing_fails(FAIL_DISK, what))
                return 0;
        return writes && state.full ? -ENOSPC : -EIO;
}

static int f_open(Disk *disk, const char *name, bool create, DiskFile **ret) {
        int r = fails_disk("open", create);
        if (r < 0)
                return r;
        DiskFile *file = malloc(sizeof(DiskFile));
        if (!file)
                return -ENOMEM;
        file->below = below(disk);
        r = BELOW_CALL(int, below(disk)->ops->open(below(disk), name, create, &file->file));
        if (r < 0) {
                free(file);
                return r;
        }
        *ret = file;
        return r;
}

static void f_close(DiskFile *file) {
        if (!file)
                return;
        file->below->ops->close(file->file);
        free(file);
}

static int64_t f_size(DiskFile *file) {
        int r = fails_disk("size", false);
        return r < 0 ? r : BELOW_CALL(int64_t, file->below->ops->size(file->file));
}

static int64_t f_read(DiskFile *file, void *data, size_t size, uint64_t offset) {
        int r = fails_disk("read", false);
        return r < 0 ? r : BELOW_CALL(int64_t, file->below->ops->read(file->file, data, size, offset));
}

static int f_write(DiskFile *file, const void *data, size_t size, uint64_t offset) {
        int r = fails_disk("write", true);
        return r < 0 ? r : BELOW_CALL(int, file->below->ops->write(file->file, data, size, offset));
}

static int f_truncate(DiskFile *file, uint64_t size) {
        int r = fails_disk("truncate", true);
        return r < 0 ? r : BELOW_CALL(int, file->below->ops->truncate(file->file, size));
}

static int f_sync(DiskFile *file) {
        int r = fails_disk("sync", false);
        return r < 0 ? r : BELOW_CALL(int, file->below->ops->sync(file->file));
}

static int f_rename(Disk *disk, const char *from, const char *to) {
        int r = fails_disk("rename", true);
        return r < 0 ? r : BELOW_CALL(int, below(disk)->ops->rename(below(disk), from, to));
}

static int f_unlink(Disk *disk, const char *name) {
        int r = fails_disk("unlink", false);
        return r < 0 ? r : BELOW_CALL(int, below(disk)->ops->unlink(below(disk), name));
}

static int f_sync_directory(Disk *disk) {
        int r = fails_disk("sync_directory", false);
        return r < 0 ? r : BELOW_CALL(int, below(disk)->ops->sync_directory(below(disk)));
}

static int f_list(Disk *disk, int (*each)(const char *, void *), void *userdata) {
        int r = fails_disk("list", false);
        return r < 0 ? r : below(disk)->ops->list(below(disk), each, userdata);
}

static int f_lock(Disk *disk) {
        int r = fails_disk("lock", false);
        return r < 0 ? r : below(disk)->ops->lock(below(disk));
}

static void f_unlock(Disk *disk) {
        below(disk)->ops->unlock(below(disk));
}

static const DiskOps failing_ops = {
        .open = f_open,
        .close = f_close,
        .size = f_size,
        .read = f_read,
        .write = f_write,
        .truncate = f_truncate,
        .sync = f_sync,
        .rename = f_rename,
        .unlink = f_unlink,
        .sync_directory = f_sync_directory,
        .list = f_list,
        .lock = f_lock,
        .unlock = f_unlock,
};

Disk *failing_disk_new(Disk *below_disk) {
        FailingDisk *failing = calloc(1, sizeof(FailingDisk));
        assert(failing);
        *failing = (FailingDisk){.disk.ops = &failing_ops, .below = below_disk};
        return &failing->disk;
}

Disk *failing_disk_free(Disk *disk) {
        if (disk)
                free(CONTAINER_OF(disk, FailingDisk, disk));
        return NULL;
}
