/* See simdisk.h. An image is made of pages that images share until one of them writes; a page that is not
 * there is all zeros, as most of a file is that was made ready to be written. A name points at an inode;
 * inodes are counted by names (in both directories, and in the operations between them) and by open files.
 */
#include "simdisk.h"

#include <stdio.h>
#include <string.h>
#include "agent/base/bytes.h"

#define MAX_NAMES 4096
#define PAGE      1024u

typedef struct Page {
        size_t n_refs;
        uint8_t bytes[PAGE];
} Page;

/* Invariant: behind `size` all is zero. */
typedef struct Image {
        Page **pages;
        size_t n_pages; /* of the array */
        uint64_t size;
} Image;

typedef struct Inode {
        size_t n_refs;
        Image cache, durable;
        uint64_t *bad; /* offsets of sectors that cannot be read */
        size_t n_bad;
} Inode;

typedef enum PendingKind {
        PENDING_WRITE,
        PENDING_TRUNCATE,
        PENDING_NAME, /* `name` points at `inode` now; NULL: at nothing */
        PENDING_RENAME,
} PendingKind;

typedef struct Pending Pending;
struct Pending {
        Pending *next;
        PendingKind kind;
        Inode *inode;
        uint64_t offset;
        size_t size;
        uint8_t *data; /* NULL: zeros */
        char name[64], from[64];
};

typedef struct Name {
        char name[64];
        Inode *inode;
} Name;

typedef struct Directory {
        Name *names;
        size_t n_names;
} Directory;

struct SimDisk {
        Disk disk;
        Random random;
        Directory cache, durable;
        Pending *first, **last;
        uint64_t life; /* of the process; files of earlier ones are dead */
        uint64_t calls, syncs, die_at, fail_at, room;
        int fail_with;
        bool locked;
};

struct DiskFile {
        SimDisk *sim;
        Inode *inode;
        uint64_t life;
};

static SimDisk *sim_of(Disk *disk) {
        return CONTAINER_OF(disk, SimDisk, disk);
}

/* -- Images ------------------------------------------------------------------------------------------- */

static void page_unref(Page *page) {
        if (page && --page->n_refs == 0)
                free(page);
}

/* To be written to from `at` on: ours alone, and all of it known. */
static uint8_t *page_own(Page **page, bool whole) {
        if (*page && (*page)->n_refs == 1)
                return (*page)->bytes;
        Page *own = malloc(sizeof(Page));
        assert(own);
        own->n_refs = 1;
        if (*page && !whole)
                memcpy(own->bytes, (*page)->bytes, PAGE);
        else if (!whole)
                memset(own->bytes, 0, PAGE);
        page_unref(*page);
        *page = own;
        return own->bytes;
}

static void image_reserve(Image *image, uint64_t size) {
        size_t n = (size_t)((size + PAGE - 1) / PAGE);
        if (n <= image->n_pages)
                return;
        n = MAX(n, 2 * image->n_pages);
        image->pages = reallocarray(image->pages, n, sizeof(Page *));
        assert(image->pages);
        memset(image->pages + image->n_pages, 0, (n - image->n_pages) * sizeof(Page *));
        image->n_pages = n;
}

static void image_deinit(Image *image) {
        for (size_t i = 0; i < image->n_pages; i++)
                page_unref(image->pages[i]);
        free(image->pages);
        *image = (Image){};
}

static void image_resize(Image *image, uint64_t size) {
        size_t i = (size_t)(size / PAGE);
        if (size < image->size && i < image->n_pages && image->pages[i])
                memset(page_own(&image->pages[i], false) + size % PAGE, 0, PAGE - size % PAGE);
        for (i++; size < image->size && i < image->n_pages; i++) {
                page_unref(image->pages[i]);
                image->pages[i] = NULL;
        }
        image_reserve(image, size);
        image->size = size;
}

/* Without data: zeros. */
static void image_write(Image *image, const uint8_t *data, size_t size, uint64_t offset) {
        image_reserve(image, offset + size);
        image->size = MAX(image->size, offset + size);
        for (size_t done = 0; done < size;) {
                Page **page = &image->pages[(offset + done) / PAGE];
                size_t at = (size_t)((offset + done) % PAGE), n = MIN(PAGE - at, size - done);
                if (data)
                        memcpy(page_own(page, n == PAGE) + at, data + done, n);
                else if (*page)
                        memset(page_own(page, n == PAGE) + at, 0, n);
                done += n;
        }
}

static void image_read(const Image *image, uint8_t *data, size_t size, uint64_t offset) {
        for (size_t done = 0; done < size;) {
                const Page *page = image->pages[(offset + done) / PAGE];
                size_t at = (size_t)((offset + done) % PAGE), n = MIN(PAGE - at, size - done);
                if (page)
                        memcpy(data + done, page->bytes + at, n);
                else
                        memset(data + done, 0, n);
                done += n;
        }
}

static void image_copy(Image *to, const Image *from) {
        image_deinit(to);
        image_reserve(to, from->size);
        to->size = from->size;
        for (size_t i = 0; i < MIN(from->n_pages, to->n_pages); i++) {
                to->pages[i] = from->pages[i];
                if (to->pages[i])
                        to->pages[i]->n_refs++;
        }
}

static void image_flip(Image *image, uint64_t offset, uint8_t mask) {
        page_own(&image->pages[offset / PAGE], false)[offset % PAGE] ^= mask;
}

static bool is_zeros(const uint8_t *data, size_t size) {
        return size > 0 && data[0] == 0 && memcmp(data, data + 1, size - 1) == 0;
}

/* -- Names -------------------------------------------------------------------------------------------- */

static void inode_unref(Inode *inode) {
        if (!inode || --inode->n_refs > 0)
                return;
        image_deinit(&inode->cache);
        image_deinit(&inode->durable);
        free(inode->bad);
        free(inode);
}

static Inode *inode_ref(Inode *inode) {
        if (inode)
                inode->n_refs++;
        return inode;
}

static Name *directory_find(Directory *directory, const char *name) {
        for (size_t i = 0; i < directory->n_names; i++)
                if (strcmp(directory->names[i].name, name) == 0)
                        return directory->names + i;
        return NULL;
}

static void directory_set(Directory *directory, const char *name, Inode *inode) {
        Name *found = directory_find(directory, name);
        inode_ref(inode);
        if (found) {
                inode_unref(found->inode);
                found->inode = inode;
                if (!inode)
                        *found = directory->names[--directory->n_names];
                return;
        }
        if (!inode)
                return;
        assert(directory->n_names < MAX_NAMES);
        directory->names = reallocarray(directory->names, directory->n_names + 1, sizeof(Name));
        assert(directory->names);
        Name *added = directory->names + directory->n_names++;
        *added = (Name){.inode = inode};
        strncpy(added->name, name, sizeof(added->name) - 1);
}

static void directory_deinit(Directory *directory) {
        for (size_t i = 0; i < directory->n_names; i++)
                inode_unref(directory->names[i].inode);
        free(directory->names);
        *directory = (Directory){};
}

/* -- What waits for a sync ---------------------------------------------------------------------------- */

static Pending *pending_add(SimDisk *sim, PendingKind kind, Inode *inode) {
        Pending *pending = calloc(1, sizeof(Pending));
        assert(pending);
        *pending = (Pending){.kind = kind, .inode = inode_ref(inode)};
        *sim->last = pending;
        sim->last = &pending->next;
        return pending;
}

static void pending_free(Pending *pending) {
        inode_unref(pending->inode);
        free(pending->data);
        free(pending);
}

static void pending_apply(SimDisk *sim, const Pending *pending) {
        switch (pending->kind) {
        case PENDING_WRITE:
                image_write(&pending->inode->durable, pending->data, pending->size, pending->offset);
                return;
        case PENDING_TRUNCATE:
                image_resize(&pending->inode->durable, pending->offset);
                return;
        case PENDING_NAME:
                directory_set(&sim->durable, pending->name, pending->inode);
                return;
        case PENDING_RENAME: {
                Name *from = directory_find(&sim->durable, pending->from);
                if (from && from->inode == pending->inode)
                        directory_set(&sim->durable, pending->from, NULL);
                directory_set(&sim->durable, pending->name, pending->inode);
                return;
        }
        }
}

static void pending_apply_torn(SimDisk *sim, const Pending *pending) {
        for (size_t at = 0; at < pending->size;) {
                size_t n =
                        MIN(SIM_SECTOR - (size_t)((pending->offset + at) % SIM_SECTOR), pending->size - at);
                if (random_below(&sim->random, 2) == 0)
                        image_write(&pending->inode->durable, pending->data ? pending->data + at : NULL, n,
                                    pending->offset + at);
                at += n;
        }
}

/* Takes those of the inode (NULL: of the directory) off the list; `keep`: they become durable. */
static void pending_settle(SimDisk *sim, const Inode *inode, bool keep) {
        Pending **at = &sim->first;
        while (*at) {
                Pending *pending = *at;
                bool name = pending->kind == PENDING_NAME || pending->kind == PENDING_RENAME;
                if (inode ? name || pending->inode != inode : !name) {
                        at = &pending->next;
                        continue;
                }
                if (keep)
                        pending_apply(sim, pending);
                *at = pending->next;
                pending_free(pending);
        }
        sim->last = at;
}

static void pending_clear(SimDisk *sim) {
        while (sim->first) {
                Pending *pending = sim->first;
                sim->first = pending->next;
                pending_free(pending);
        }
        sim->last = &sim->first;
}

/* -- The table ---------------------------------------------------------------------------------------- */

/* Counts a call that could change something; says whether it fails. */
static int call(SimDisk *sim) {
        uint64_t n = sim->calls++;
        if (n >= sim->die_at)
                return -EIO;
        if (n == sim->fail_at) {
                sim->fail_at = UINT64_MAX;
                return sim->fail_with;
        }
        return 0;
}

static int call_file(DiskFile *file) {
        return file->life == file->sim->life ? call(file->sim) : -EIO;
}

static int sim_open(Disk *disk, const char *name, bool create, DiskFile **ret) {
        SimDisk *sim = sim_of(disk);
        if (sim->calls >= sim->die_at)
                return -EIO;
        Name *found = directory_find(&sim->cache, name);
        if (!found && !create)
                return -ENOENT;
        if (!found) {
                int r = call(sim);
                if (r < 0)
                        return r;
                Inode *inode = calloc(1, sizeof(Inode));
                assert(inode);
                directory_set(&sim->cache, name, inode);
                strncpy(pending_add(sim, PENDING_NAME, inode)->name, name, 63);
                found = directory_find(&sim->cache, name);
        }
        DiskFile *file = calloc(1, sizeof(DiskFile));
        assert(file);
        *file = (DiskFile){.sim = sim, .inode = inode_ref(found->inode), .life = sim->life};
        *ret = file;
        return 0;
}

static void sim_close(DiskFile *file) {
        if (!file)
                return;
        inode_unref(file->inode);
        free(file);
}

static int64_t sim_size(DiskFile *file) {
        return file->life == file->sim->life ? (int64_t)file->inode->cache.size : -EIO;
}

static int64_t sim_read(DiskFile *file, void *data, size_t size, uint64_t offset) {
        if (file->life != file->sim->life || file->sim->calls >= file->sim->die_at)
                return -EIO;
        const Image *image = &file->inode->cache;
        if (offset >= image->size)
                return 0;
        size_t n = (size_t)MIN((uint64_t)size, image->size - offset);
        for (size_t i = 0; i < file->inode->n_bad; i++)
                if (file->inode->bad[i] < offset + n && file->inode->bad[i] + 512 > offset)
                        return -EIO;
        image_read(image, data, n, offset);
        return (int64_t)n;
}

static void inode_mend(Inode *inode, uint64_t offset, uint64_t size) {
        size_t n = 0;
        for (size_t i = 0; i < inode->n_bad; i++)
                if (inode->bad[i] >= offset + size || inode->bad[i] + 512 <= offset)
                        inode->bad[n++] = inode->bad[i];
        inode->n_bad = n;
}

static int sim_write(DiskFile *file, const void *data, size_t size, uint64_t offset) {
        int r = call_file(file);
        if (r < 0)
                return r;
        SimDisk *sim = file->sim;
        uint64_t end = offset + size, have = file->inode->cache.size;
        if (end > have && simdisk_used(sim) + (end - have) > sim->room)
                return -ENOSPC;
        inode_mend(file->inode, offset, size);
        if (is_zeros(data, size))
                data = NULL;
        image_write(&file->inode->cache, data, size, offset);
        Pending *pending = pending_add(sim, PENDING_WRITE, file->inode);
        pending->offset = offset;
        pending->size = size;
        if (!data)
                return 0;
        pending->data = malloc(MAX(size, (size_t)1));
        assert(pending->data);
        memcpy(pending->data, data, size);
        return 0;
}

static int sim_truncate(DiskFile *file, uint64_t size) {
        int r = call_file(file);
        if (r < 0)
                return r;
        inode_mend(file->inode, size, UINT64_MAX / 4);
        image_resize(&file->inode->cache, size);
        pending_add(file->sim, PENDING_TRUNCATE, file->inode)->offset = size;
        return 0;
}

static int sim_sync(DiskFile *file) {
        file->sim->syncs++;
        int r = call_file(file);
        if (file->life == file->sim->life && file->sim->calls <= file->sim->die_at)
                pending_settle(file->sim, file->inode, r == 0);
        return r;
}

static int sim_rename(Disk *disk, const char *from, const char *to) {
        SimDisk *sim = sim_of(disk);
        int r = call(sim);
        if (r < 0)
                return r;
        Name *found = directory_find(&sim->cache, from);
        if (!found)
                return -ENOENT;
        Inode *inode = found->inode;
        Pending *pending = pending_add(sim, PENDING_RENAME, inode);
        strncpy(pending->name, to, sizeof(pending->name) - 1);
        strncpy(pending->from, from, sizeof(pending->from) - 1);
        directory_set(&sim->cache, to, inode);
        directory_set(&sim->cache, from, NULL);
        return 0;
}

static int sim_unlink(Disk *disk, const char *name) {
        SimDisk *sim = sim_of(disk);
        int r = call(sim);
        if (r < 0)
                return r;
        if (!directory_find(&sim->cache, name))
                return -ENOENT;
        directory_set(&sim->cache, name, NULL);
        strncpy(pending_add(sim, PENDING_NAME, NULL)->name, name, 63);
        return 0;
}

static int sim_sync_directory(Disk *disk) {
        SimDisk *sim = sim_of(disk);
        int r = call(sim);
        if (r == 0)
                pending_settle(sim, NULL, true);
        return r;
}

static int sim_list(Disk *disk, int (*each)(const char *name, void *userdata), void *userdata) {
        SimDisk *sim = sim_of(disk);
        if (sim->calls >= sim->die_at)
                return -EIO;
        /* A copy: who is told a name may take it away, and misses none of the others (as with readdir()). */
        size_t n = sim->cache.n_names;
        char(*names)[64] = calloc(n + 1, sizeof(*names));
        int r = names ? 0 : -ENOMEM;
        for (size_t i = 0; names && i < n; i++)
                snprintf(names[i], sizeof(names[i]), "%s", sim->cache.names[i].name);
        for (size_t i = 0; i < n && r == 0; i++)
                r = each(names[i], userdata);
        free(names);
        return r;
}

static int sim_lock(Disk *disk) {
        SimDisk *sim = sim_of(disk);
        if (sim->locked)
                return -EWOULDBLOCK;
        sim->locked = true;
        return 0;
}

static void sim_unlock(Disk *disk) {
        sim_of(disk)->locked = false;
}

static const DiskOps sim_ops = {
        .open = sim_open,
        .close = sim_close,
        .size = sim_size,
        .read = sim_read,
        .write = sim_write,
        .truncate = sim_truncate,
        .sync = sim_sync,
        .rename = sim_rename,
        .unlink = sim_unlink,
        .sync_directory = sim_sync_directory,
        .list = sim_list,
        .lock = sim_lock,
        .unlock = sim_unlock,
};

/* -- The world ---------------------------------------------------------------------------------------- */

SimDisk *simdisk_new(uint64_t seed) {
        SimDisk *sim = calloc(1, sizeof(SimDisk));
        assert(sim);
        *sim = (SimDisk){
                .disk.ops = &sim_ops,
                .random.state = seed,
                .die_at = UINT64_MAX,
                .fail_at = UINT64_MAX,
                .room = UINT64_MAX,
        };
        sim->last = &sim->first;
        return sim;
}

SimDisk *simdisk_free(SimDisk *sim) {
        if (!sim)
                return NULL;
        pending_clear(sim);
        directory_deinit(&sim->cache);
        directory_deinit(&sim->durable);
        free(sim);
        return NULL;
}

Disk *simdisk_disk(SimDisk *sim) {
        return &sim->disk;
}

void simdisk_kill(SimDisk *sim) {
        sim->life++;
        sim->locked = false;
}

static void choose_and_apply(SimDisk *sim, SimCut policy) {
        uint64_t n = 0, at = 0;
        for (Pending *pending = sim->first; pending; pending = pending->next)
                n++;
        uint64_t prefix = random_below(&sim->random, n + 1);
        for (Pending *pending = sim->first; pending; pending = pending->next, at++) {
                bool keep = false;
                switch (policy) {
                case SIM_LOSE_ALL:
                case _SIM_CUT_MAX:
                        break;
                case SIM_KEEP_ALL:
                        keep = true;
                        break;
                case SIM_KEEP_PREFIX:
                        keep = at < prefix;
                        break;
                case SIM_KEEP_SUBSET:
                        keep = random_below(&sim->random, 2) == 0;
                        break;
                case SIM_TORN:
                        if (pending->kind == PENDING_WRITE)
                                pending_apply_torn(sim, pending);
                        else
                                keep = random_below(&sim->random, 2) == 0;
                        break;
                }
                if (keep)
                        pending_apply(sim, pending);
        }
}

static void cache_from_durable(SimDisk *sim) {
        directory_deinit(&sim->cache);
        for (size_t i = 0; i < sim->durable.n_names; i++) {
                Name *name = sim->durable.names + i;
                image_copy(&name->inode->cache, &name->inode->durable);
                directory_set(&sim->cache, name->name, name->inode);
        }
}

void simdisk_cut(SimDisk *sim, SimCut policy) {
        simdisk_kill(sim);
        choose_and_apply(sim, policy);
        pending_clear(sim);
        cache_from_durable(sim);
        sim->die_at = sim->fail_at = UINT64_MAX;
}

SimDisk *simdisk_copy(SimDisk *sim) {
        SimDisk *copy = simdisk_new(sim->random.state);
        for (size_t i = 0; i < sim->durable.n_names; i++) {
                Inode *inode = calloc(1, sizeof(Inode));
                assert(inode);
                image_copy(&inode->durable, &sim->durable.names[i].inode->durable);
                directory_set(&copy->durable, sim->durable.names[i].name, inode);
        }
        cache_from_durable(copy);
        return copy;
}

void simdisk_die_at(SimDisk *sim, uint64_t n) {
        sim->die_at = n == UINT64_MAX ? n : sim->calls + n;
}

void simdisk_fail_at(SimDisk *sim, uint64_t n, int error) {
        sim->fail_at = n == UINT64_MAX ? n : sim->calls + n;
        sim->fail_with = error;
}

void simdisk_set_room(SimDisk *sim, uint64_t bytes) {
        sim->room = bytes;
}

bool simdisk_flip(SimDisk *sim, const char *name, uint64_t offset, uint8_t mask) {
        Name *found = directory_find(&sim->cache, name);
        if (!found || offset >= found->inode->cache.size)
                return false;
        image_flip(&found->inode->cache, offset, mask);
        if (offset < found->inode->durable.size)
                image_flip(&found->inode->durable, offset, mask);
        return true;
}

bool simdisk_unreadable(SimDisk *sim, const char *name, uint64_t offset) {
        Name *found = directory_find(&sim->cache, name);
        if (!found || offset >= found->inode->cache.size)
                return false;
        Inode *inode = found->inode;
        inode->bad = realloc(inode->bad, (inode->n_bad + 1) * sizeof(uint64_t));
        assert(inode->bad);
        inode->bad[inode->n_bad++] = offset / 512 * 512;
        return true;
}

uint64_t simdisk_size_of(SimDisk *sim, const char *name) {
        Name *found = directory_find(&sim->cache, name);
        return found ? found->inode->cache.size : 0;
}

uint64_t simdisk_calls(const SimDisk *sim) {
        return sim->calls;
}

uint64_t simdisk_syncs(const SimDisk *sim) {
        return sim->syncs;
}

uint64_t simdisk_used(const SimDisk *sim) {
        uint64_t bytes = 0;
        for (size_t i = 0; i < sim->cache.n_names; i++)
                bytes += sim->cache.names[i].inode->cache.size;
        return bytes;
}
