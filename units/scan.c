/* See scan.h. */
#include "scan.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include "agent/base/unitfile.h"
#include "file.h"

#define MAX_NAMES  16384
#define NAME_BYTES 255

static const char *const types[] = {".service", ".socket", ".target", ".timer",    ".path",
                                    ".mount",   ".swap",   ".slice",  ".automount"};

static const char *type_of(const char *name, size_t size) {
        for (size_t i = 0; i < ELEMENTSOF(types); i++) {
                size_t n = strlen(types[i]);
                if (size >= n && strncmp(name + size - n, types[i], n) == 0)
                        return types[i];
        }
        return NULL;
}

bool unit_name_is_usable(const char *unit) {
        size_t n = strnlen(unit, NAME_BYTES + 1);
        const char *type = n <= NAME_BYTES ? type_of(unit, n) : NULL;
        if (!type || strchr(unit, '/') || n == strlen(type))
                return false;
        const char *at = strchr(unit, '@');
        return !at || at + 1 < unit + n - strlen(type);
}

void marks_deinit(Marks *marks) {
        words_clear(&marks->units);
        words_clear(&marks->prefixes);
        words_clear(&marks->names);
}

static int note(Words *words, const char *text, size_t size) {
        char name[NAME_BYTES + 1];
        if (size > NAME_BYTES || words->n >= MAX_NAMES)
                return 0;
        memcpy(name, text, size);
        name[size] = 0;
        return words_has(words, name) ? 0 : words_add(words, name);
}

/* Unreadable counts as marked: PID 1 may read it, and then the person shall hear that we cannot. */
static bool file_is_marked(int directory_fd, const char *name) {
        _cleanup_(buffer_deinit) Buffer content = {};
        int r = file_read(directory_fd, name, UNITFILE_MAX_BYTES, &content);
        if (r < 0)
                return r != -ENOENT && r != -EINVAL && r != -ELOOP && r != -ENXIO;
        return content.size > 0 && memmem(content.data, content.size, "[X-Treaty", strlen("[X-Treaty"));
}

static void close_directory(DIR **directory) {
        if (*directory)
                closedir(*directory);
}

static DIR *open_directory(int directory_fd, const char *name) {
        int fd = openat(directory_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *directory = fd < 0 ? NULL : fdopendir(fd);
        if (fd >= 0 && !directory)
                close(fd);
        return directory;
}

static bool drop_ins_are_marked(int directory_fd, const char *name) {
        _cleanup_(close_directory) DIR *directory = open_directory(directory_fd, name);
        for (struct dirent *entry; directory && (entry = readdir(directory));) {
                size_t n = strlen(entry->d_name);
                if (n > 5 && strcmp(entry->d_name + n - 5, ".conf") == 0 &&
                    file_is_marked(dirfd(directory), entry->d_name))
                        return true;
        }
        return false;
}

/* "web.service.d" marks web.service, "web-.service.d" and "service.d" whatever begins so. */
static int note_drop_ins(Marks *marks, const char *name, size_t size) {
        size_t n = size - strlen(".d");
        const char *type = type_of(name, n);
        bool of_type = !type && n < 32; /* "service.d" */

        if (of_type) {
                char dotted[64];
                int k = snprintf(dotted, sizeof(dotted), ".%.*s", (int)n, name);
                return type_of(dotted, (size_t)k) ? note(&marks->prefixes, dotted, (size_t)k) : 0;
        }
        if (!type)
                return 0;
        size_t stem = n - strlen(type);
        if (stem > 0 && name[stem - 1] == '@')
                stem--;
        bool prefix = stem > 0 && name[stem - 1] == '-';
        return note(prefix ? &marks->prefixes : &marks->units, name, n);
}

static int look_at(Marks *marks, int directory_fd, const char *name) {
        size_t n = strlen(name);

        if (n > 2 && strcmp(name + n - 2, ".d") == 0)
                return drop_ins_are_marked(directory_fd, name) ? note_drop_ins(marks, name, n) : 0;
        if (!type_of(name, n))
                return 0;
        int r = unit_name_is_usable(name) && marks->names.n < MAX_NAMES ? words_add(&marks->names, name) : 0;
        if (r < 0)
                return r;
        return file_is_marked(directory_fd, name) ? note(&marks->units, name, n) : 0;
}

int scan_directories(Marks *marks, const Words *directories) {
        for (size_t i = 0; i < directories->n; i++) {
                _cleanup_(close_directory) DIR *directory = open_directory(AT_FDCWD, directories->items[i]);
                for (struct dirent *entry; directory && (entry = readdir(directory));) {
                        int r = look_at(marks, dirfd(directory), entry->d_name);
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

/* "web@.service" for "web@a.service"; false when it is no instance. */
static bool template_of(const char *unit, char to[static NAME_BYTES + 1]) {
        const char *at = strchr(unit, '@'), *type = type_of(unit, strlen(unit));
        if (!at || !type)
                return false;
        snprintf(to, NAME_BYTES + 1, "%.*s%s", (int)(at + 1 - unit), unit, type);
        return true;
}

static int look_at_name(Marks *marks, int directory_fd, const char *name) {
        char drop_ins[NAME_BYTES + 3];
        int r = look_at(marks, directory_fd, name);
        if (r < 0)
                return r;
        snprintf(drop_ins, sizeof(drop_ins), "%s.d", name);
        return look_at(marks, directory_fd, drop_ins);
}

int scan_unit(Marks *marks, const Words *directories, const char *unit) {
        char template[NAME_BYTES + 1];
        bool instance = template_of(unit, template);

        for (size_t i = 0; i < directories->n; i++) {
                _cleanup_(fd_close) int fd = open(directories->items[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (fd < 0)
                        continue;
                int r = look_at_name(marks, fd, unit);
                if (r >= 0 && instance)
                        r = look_at_name(marks, fd, template);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* A prefix mark is "PREFIX.TYPE": what stands before the type begins the unit's name. */
static bool prefix_covers(const char *mark, const char *unit) {
        const char *type = type_of(mark, strlen(mark)), *own = type_of(unit, strlen(unit));
        size_t n = strlen(mark) - strlen(type);
        if (n > 0 && mark[n - 1] == '@')
                n--;
        return type == own && strncmp(mark, unit, n) == 0;
}

bool marks_cover(const Marks *marks, const char *unit) {
        char template[NAME_BYTES + 1];

        if (words_has(&marks->units, unit))
                return true;
        if (template_of(unit, template) && words_has(&marks->units, template))
                return true;
        for (size_t i = 0; i < marks->prefixes.n; i++)
                if (prefix_covers(marks->prefixes.items[i], unit))
                        return true;
        return false;
}
