/* See state.h. */
#include "state.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include "agent/base/path.h"
#include "file.h"

#define STATE_HEAD "treaty-units 1"
#define STATE_MAX  (64 * 1024)

int state_set(State *state, const char *path, uint64_t revision) {
        assert(strlen(path) <= LIMIT_PATH_BYTES);
        for (size_t i = 0; i < state->n; i++)
                if (strcmp(state->handled[i].path, path) == 0) {
                        state->handled[i].revision = revision;
                        return 0;
                }
        if (state->n >= ELEMENTSOF(state->handled))
                return -E2BIG;
        strcpy(state->handled[state->n].path, path);
        state->handled[state->n++].revision = revision;
        return 0;
}

bool state_find(const State *state, const char *cluster, const char *path, uint64_t *ret_revision) {
        if (strcmp(state->cluster, cluster) != 0)
                return false;
        for (size_t i = 0; i < state->n; i++)
                if (strcmp(state->handled[i].path, path) == 0) {
                        *ret_revision = state->handled[i].revision;
                        return true;
                }
        return false;
}

/* ---- Text ---- */

static bool parse_cluster(State *state, const char *text) {
        size_t n = strlen(text);
        if (n == 0 || n > CLUSTER_TEXT_BYTES)
                return false;
        memcpy(state->cluster, text, n + 1);
        return true;
}

static bool parse_handled(State *state, char *text) {
        char *space = strchr(text, ' ');
        uint64_t revision;
        if (!space)
                return false;
        *space = 0;
        return unitfile_unsigned(text, UINT64_MAX - 1, &revision) == 0 && path_check(space + 1) == PATH_OK &&
               state_set(state, space + 1, revision) == 0;
}

/* The last line says that nothing is missing. */
static bool parse(State *state, char *text) {
        char *rest = text, *line = strsep(&rest, "\n");
        bool ended = false;

        if (strcmp(line, STATE_HEAD) != 0)
                return false;
        while (!ended && (line = strsep(&rest, "\n"))) {
                bool good = true;
                if (strcmp(line, "end") == 0)
                        ended = true;
                else if (strncmp(line, "cluster ", 8) == 0)
                        good = parse_cluster(state, line + 8);
                else if (strncmp(line, "handled ", 8) == 0)
                        good = parse_handled(state, line + 8);
                else
                        good = false;
                if (!good)
                        return false;
        }
        return ended && rest && *rest == 0 && state->cluster[0];
}

int state_load(State *ret, int directory_fd, const char *unit) {
        _cleanup_(buffer_deinit) Buffer text = {};

        *ret = (State){};
        int r = file_read(directory_fd, unit, STATE_MAX, &text);
        if (r == -ENOENT || r == -EFBIG)
                return 1;
        if (r < 0)
                return r;
        r = buffer_append(&text, "", 1);
        if (r < 0)
                return r;
        if (memchr(text.data, 0, text.size) != text.data + text.size - 1 || !parse(ret, (char *)text.data)) {
                *ret = (State){};
                return 1;
        }
        return 0;
}

static int write_all(int fd, const char *text, size_t size) {
        while (size > 0) {
                ssize_t n = write(fd, text, size);
                if (n < 0)
                        return -errno;
                text += n;
                size -= (size_t)n;
        }
        return fdatasync(fd) < 0 ? -errno : 0;
}

static char *print(const State *state, size_t *ret_size) {
        char *text = NULL;
        FILE *out = open_memstream(&text, ret_size);
        if (!out)
                return NULL;
        fprintf(out, STATE_HEAD "\ncluster %s\n", state->cluster);
        for (size_t i = 0; i < state->n; i++)
                fprintf(out, "handled %llu %s\n", (unsigned long long)state->handled[i].revision,
                        state->handled[i].path);
        fputs("end\n", out);
        if (fclose(out) != 0) {
                free(text);
                return NULL;
        }
        return text;
}

int state_save(const State *state, int directory_fd, const char *unit) {
        char temporary[16 + 256];
        size_t size;
        assert(state->cluster[0]);

        _cleanup_(freep) char *text = print(state, &size);
        if (!text)
                return -ENOMEM;
        /* A unit's name never begins with ".#". */
        if ((size_t)snprintf(temporary, sizeof(temporary), ".#%s", unit) >= sizeof(temporary))
                return -ENAMETOOLONG;

        _cleanup_(fd_close) int fd =
                openat(directory_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return -errno;
        int r = write_all(fd, text, size);
        if (r >= 0 && renameat(directory_fd, temporary, directory_fd, unit) < 0)
                r = -errno;
        if (r < 0)
                (void)unlinkat(directory_fd, temporary, 0);
        return r;
}

int state_remove(int directory_fd, const char *unit) {
        return unlinkat(directory_fd, unit, 0) < 0 && errno != ENOENT ? -errno : 0;
}
