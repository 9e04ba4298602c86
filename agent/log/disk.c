/* The real disk: a directory, its files opened relative to it, so that nothing that happens to the path
 * later moves what we hold. Short writes and reads are completed here; EINTR is nobody's business above. */
#include "disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct Directory {
        Disk disk;
        int fd;
        int lock_fd;
} Directory;

struct DiskFile {
        int fd;
};

static Directory *directory_of(Disk *disk) {
        return CONTAINER_OF(disk, Directory, disk);
}

static bool name_is_plain(const char *name) {
        return name[0] != 0 && name[0] != '.' && !strchr(name, '/');
}

static int directory_open_file(Disk *disk, const char *name, bool create, DiskFile **ret) {
        if (!name_is_plain(name))
                return -EINVAL;
        DiskFile *file = malloc(sizeof(DiskFile));
        if (!file)
                return -ENOMEM;
        file->fd = openat(directory_of(disk)->fd, name,
                          O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | (create ? O_CREAT : 0), 0600);
        if (file->fd < 0) {
                int r = -errno;
                free(file);
                return r;
        }
        *ret = file;
        return 0;
}

static void directory_close_file(DiskFile *file) {
        if (!file)
                return;
        close(file->fd);
        free(file);
}

static int64_t directory_size(DiskFile *file) {
        struct stat st;
        return fstat(file->fd, &st) < 0 ? -errno : (int64_t)st.st_size;
}

static int64_t directory_read(DiskFile *file, void *data, size_t size, uint64_t offset) {
        size_t done = 0;
        while (done < size) {
                ssize_t n = pread(file->fd, (uint8_t *)data + done, size - done, (off_t)(offset + done));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        break;
                done += (size_t)n;
        }
        return (int64_t)done;
}

static int directory_write(DiskFile *file, const void *data, size_t size, uint64_t offset) {
        size_t done = 0;
        while (done < size) {
                ssize_t n =
                        pwrite(file->fd, (const uint8_t *)data + done, size - done, (off_t)(offset + done));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        return -EIO;
                done += (size_t)n;
        }
        return 0;
}

static int directory_truncate(DiskFile *file, uint64_t size) {
        return ftruncate(file->fd, (off_t)size) < 0 ? -errno : 0;
}

/* Never again after a failure: see log.h. */
static int directory_sync_file(DiskFile *file) {
        return fdatasync(file->fd) < 0 ? -errno : 0;
}

static int directory_rename(Disk *disk, const char *from, const char *to) {
        int fd = directory_of(disk)->fd;
        if (!name_is_plain(from) || !name_is_plain(to))
                return -EINVAL;
        return renameat(fd, from, fd, to) < 0 ? -errno : 0;
}

static int directory_unlink(Disk *disk, const char *name) {
        if (!name_is_plain(name))
                return -EINVAL;
        return unlinkat(directory_of(disk)->fd, name, 0) < 0 ? -errno : 0;
}

static int directory_sync(Disk *disk) {
        return fsync(directory_of(disk)->fd) < 0 ? -errno : 0;
}

static int directory_list(Disk *disk, int (*each)(const char *name, void *userdata), void *userdata) {
        int fd = openat(directory_of(disk)->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        DIR *dir = fdopendir(fd);
        if (!dir) {
                int r = -errno;
                close(fd);
                return r;
        }

        int r = 0;
        while (r == 0) {
                errno = 0;
                struct dirent *entry = readdir(dir);
                if (!entry) {
                        r = -errno;
                        break;
                }
                if (name_is_plain(entry->d_name))
                        r = each(entry->d_name, userdata);
        }
        closedir(dir);
        return r;
}

static int directory_lock(Disk *disk) {
        Directory *directory = directory_of(disk);
        if (directory->lock_fd >= 0)
                return -EWOULDBLOCK;
        int fd = openat(directory->fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return -errno;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                int r = -errno;
                close(fd);
                return r;
        }
        directory->lock_fd = fd;
        return 0;
}

static void directory_unlock(Disk *disk) {
        Directory *directory = directory_of(disk);
        if (directory->lock_fd >= 0)
                close(directory->lock_fd);
        directory->lock_fd = -1;
}

static const DiskOps directory_ops = {
        .open = directory_open_file,
        .close = directory_close_file,
        .size = directory_size,
        .read = directory_read,
        .write = directory_write,
        .truncate = directory_truncate,
        .sync = directory_sync_file,
        .rename = directory_rename,
        .unlink = directory_unlink,
        .sync_directory = directory_sync,
        .list = directory_list,
        .lock = directory_lock,
        .unlock = directory_unlock,
};

int disk_open_directory(Disk **ret, const char *path) {
        Directory *directory = malloc(sizeof(Directory));
        if (!directory)
                return -ENOMEM;
        *directory = (Directory){
                .disk.ops = &directory_ops,
                .fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                .lock_fd = -1,
        };
        if (directory->fd < 0) {
                int r = -errno;
                free(directory);
                return r;
        }
        *ret = &directory->disk;
        return 0;
}

Disk *disk_free(Disk *disk) {
        if (!disk)
                return NULL;
        directory_unlock(disk);
        close(directory_of(disk)->fd);
        free(directory_of(disk));
        return NULL;
}
