/* See config.h. Reading goes on behind a mistake, so that a person hears of all of them in one start. */
#include "config.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>
#include "base/path.h"
#include "base/unitfile.h"
#include "journal.h"

#define WHERE_BYTES   (PATH_BYTES + 16)
#define PATH_BYTES    4096
#define MAX_DROPINS   1024
#define MAX_JOIN_TEXT 8192

/* Lowest rank first: of files of one name the first counts. */
static const char *const directories[] = {"/etc/treaty", "/run/treaty", "/usr/local/lib/treaty",
                                          "/usr/lib/treaty"};

typedef struct Loader {
        Config config;
        bool refused;
        char where[WHERE_BYTES];       /* FILE:LINE being read */
        char times_where[WHERE_BYTES]; /* the last time set: times are judged together at the end */
} Loader;

/* One key: says why not, or NULL. An empty value never gets here. */
typedef struct Key {
        const char *name;
        const char *(*set)(Loader *loader, const char *value);
        void (*reset)(Config *config);
} Key;

/* ---- Values ---- */

static const char *check_port(const char *text) {
        uint64_t port;
        if (unitfile_unsigned(text, 65535, &port) < 0 || port == 0)
                return "the port is no number from 1 to 65535";
        return NULL;
}

/* "HOST:PORT", "[V6]:PORT", ":PORT"; without a port the usual one is added. */
static const char *address_parse(const char *text, bool need_host, char *to, size_t size) {
        const char *host_end = text[0] == '[' ? strchr(text, ']') : strrchr(text, ':');
        if (text[0] == '[' && !host_end)
                return "\"[\" without \"]\"";
        if (text[0] == '[')
                host_end++;
        else if (!host_end)
                host_end = text + strlen(text);

        if (text[0] != '[' && memchr(text, ':', (size_t)(host_end - text)))
                return "an IPv6 address stands in brackets, as in [fd00::1]:7707";
        if (*host_end != 0 && *host_end != ':')
                return "only \":PORT\" may stand behind \"]\"";
        if (need_host && host_end == text)
                return "the host is missing: other hosts cannot connect to \":PORT\"";

        const char *why = *host_end == ':' ? check_port(host_end + 1) : NULL;
        if (why)
                return why;
        int n = *host_end == ':' ? snprintf(to, size, "%s", text)
                                 : snprintf(to, size, "%s:%d", text, CONFIG_PEER_PORT);
        return n < 0 || (size_t)n >= size ? "the address is too long (256 bytes at most)" : NULL;
}

static const char *set_addresses(const char *value, bool need_host, unsigned *n,
                                 char list[][LIMIT_ADDRESS_BYTES + 1]) {
        char word[LIMIT_ADDRESS_BYTES + 1];
        int r;

        while ((r = unitfile_word(&value, word, sizeof(word))) > 0) {
                if (*n >= LIMIT_ADDRESSES)
                        return "more than 8 addresses";
                const char *why = address_parse(word, need_host, list[*n], sizeof(list[*n]));
                if (why)
                        return why;
                (*n)++;
        }
        return r == -E2BIG ? "the address is too long (256 bytes at most)"
               : r < 0     ? "quotes or backslashes are wrong"
                           : NULL;
}

static const char *set_listen(Loader *loader, const char *value) {
        return set_addresses(value, false, &loader->config.n_listen, loader->config.listen);
}

static void reset_listen(Config *config) {
        config->n_listen = 0; /* completed at the end */
}

static const char *set_address(Loader *loader, const char *value) {
        return set_addresses(value, true, &loader->config.n_addresses, loader->config.addresses);
}

static void reset_address(Config *config) {
        config->n_addresses = 0;
}

static const char *set_host_name(Loader *loader, const char *value) {
        if (!name_is_valid(value))
                return "not a host name: letters, digits, \"-\", \"_\" and inner \".\", at most 64";
        snprintf(loader->config.host_name, sizeof(loader->config.host_name), "%s", value);
        return NULL;
}

static void reset_host_name(Config *config) {
        config->host_name[0] = 0; /* completed at the end */
}

static const char *set_join(Loader *loader, const char *value) {
        if (strlen(value) > MAX_JOIN_TEXT || strpbrk(value, " \t"))
                return "not a token: it is one word, as \"treatyctl token\" prints it";
        free(loader->config.join);
        loader->config.join = strdup(value);
        return loader->config.join ? NULL : "out of memory";
}

static void reset_join(Config *config) {
        free(TAKE(config->join));
}

static const char *set_time(Loader *loader, const char *value, uint64_t min, uint64_t max, uint64_t *to) {
        uint64_t usec;
        if (unitfile_usec(value, USEC_PER_SEC, &usec) < 0)
                return "not a time span: as in 100ms, 5s, 2min";
        if (usec < min || usec > max)
                return "out of range: see treaty.conf(5)";
        *to = usec;
        snprintf(loader->times_where, sizeof(loader->times_where), "%s", loader->where);
        return NULL;
}

static const char *set_heartbeat(Loader *loader, const char *value) {
        return set_time(loader, value, 10 * USEC_PER_MSEC, 10 * USEC_PER_SEC,
                        &loader->config.heartbeat_usec);
}

static void reset_heartbeat(Config *config) {
        config->heartbeat_usec = 0; /* as ElectionSec= has it: complete() */
}

static const char *set_election(Loader *loader, const char *value) {
        return set_time(loader, value, 50 * USEC_PER_MSEC, 100 * USEC_PER_SEC,
                        &loader->config.election_usec);
}

static void reset_election(Config *config) {
        config->election_usec = 600 * USEC_PER_MSEC;
}

static const char *set_session_timeout(Loader *loader, const char *value) {
        return set_time(loader, value, USEC_PER_SEC, 3600 * USEC_PER_SEC,
                        &loader->config.session_timeout_usec);
}

static void reset_session_timeout(Config *config) {
        config->session_timeout_usec = 5 * USEC_PER_SEC;
}

static void reset_voters(Config *config) {
        config->max_voters = 0;
}

static const char *set_voters(Loader *loader, const char *value) {
        uint64_t n;
        if (strcmp(value, "auto") == 0) {
                reset_voters(&loader->config);
                return NULL;
        }
        if (unitfile_unsigned(value, LIMIT_VOTERS, &n) < 0 || n % 2 == 0)
                return "neither \"auto\" nor 1, 3, 5 or 7";
        loader->config.max_voters = (unsigned)n;
        return NULL;
}

static const char *set_log_level(Loader *loader, const char *value) {
        static const char *const names[] = {
                [LOG_EMERG] = "emerg", [LOG_ALERT] = "alert",     [LOG_CRIT] = "crit",
                [LOG_ERR] = "err",     [LOG_WARNING] = "warning", [LOG_NOTICE] = "notice",
                [LOG_INFO] = "info",   [LOG_DEBUG] = "debug",
        };
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (strcmp(value, names[i]) == 0 || (value[0] == (char)('0' + i) && value[1] == 0)) {
                        loader->config.log_level = (int)i;
                        return NULL;
                }
        return "not a log level: emerg, alert, crit, err, warning, notice, info, debug or 0 to 7";
}

static void reset_log_level(Config *config) {
        config->log_level = LOG_INFO;
}

static const Key keys[] = {
        {"Listen", set_listen, reset_listen},
        {"Address", set_address, reset_address},
        {"HostName", set_host_name, reset_host_name},
        {"Join", set_join, reset_join},
        {"HeartbeatSec", set_heartbeat, reset_heartbeat},
        {"ElectionSec", set_election, reset_election},
        {"SessionTimeoutSec", set_session_timeout, reset_session_timeout},
        {"Voters", set_voters, reset_voters},
        {"LogLevel", set_log_level, reset_log_level},
};

/* ---- One file ---- */

static void assign(Loader *loader, const UnitFileItem *item) {
        if (strncmp(item->section, "X-", 2) == 0 || strncmp(item->key, "X-", 2) == 0)
                return;
        if (strcmp(item->section, "Treaty") != 0) {
                log_warning("%s: unknown section [%s], %s= is ignored", loader->where, item->section,
                            item->key);
                return;
        }
        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                if (strcmp(item->key, keys[i].name) != 0)
                        continue;
                if (item->value[0] == 0) {
                        keys[i].reset(&loader->config);
                        return;
                }
                const char *why = keys[i].set(loader, item->value);
                if (why) {
                        log_error("%s: %s= cannot be used: %s", loader->where, item->key, why);
                        loader->refused = true;
                }
                return;
        }
        log_warning("%s: unknown key %s= in [%s] is ignored", loader->where, item->key, item->section);
}

static int parse(Loader *loader, const char *path, Bytes content) {
        UnitFile file;
        UnitFileItem item;
        int r;

        unitfile_init(&file, content);
        while ((r = unitfile_next(&file, &item)) > UNITFILE_END) {
                snprintf(loader->where, sizeof(loader->where), "%s:%u", path, item.line);
                if (r == UNITFILE_ASSIGNMENT) {
                        assign(loader, &item);
                        continue;
                }
                /* A line that cannot be read may be the one that matters. */
                log_error("%s: %s", loader->where, item.problem);
                loader->refused = true;
        }
        unitfile_deinit(&file);
        return r;
}

static void closep(int *fd) {
        if (*fd >= 0)
                close(*fd);
}

/* 0; -ENOENT: no such file; -EINVAL: no regular file. A device is /dev/null, which masks. */
static int read_file(const char *path, size_t max, Buffer *ret) {
        _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        struct stat st;
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (S_ISCHR(st.st_mode))
                return 0;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;

        while (ret->size <= max) {
                int r = buffer_reserve(ret, 4096);
                if (r < 0)
                        return r;
                ssize_t n =
                        read(fd, ret->data + ret->size, MIN(ret->capacity - ret->size, max + 1 - ret->size));
                if (n < 0)
                        return -errno;
                if (n == 0)
                        return 0;
                ret->size += (size_t)n;
        }
        return 0;
}

static int load_file(Loader *loader, const char *path) {
        _cleanup_(buffer_deinit) Buffer content = {};
        int r = read_file(path, UNITFILE_MAX_BYTES, &content);
        if (r == -ENOENT)
                return r;
        if (r < 0)
                return log_error_errno(r, "%s: cannot be read", path);
        return parse(loader, path, BYTES(content.data, content.size));
}

/* ---- All files ---- */

typedef struct DropIns {
        size_t n;
        UnitFileDropIn files[MAX_DROPINS];
} DropIns;

static DropIns *drop_ins_free(DropIns *drop_ins) {
        for (size_t i = 0; drop_ins && i < drop_ins->n; i++) {
                free(drop_ins->files[i].name);
                free(drop_ins->files[i].path);
        }
        free(drop_ins);
        return NULL;
}
DEFINE_CLEANUP(DropIns *, drop_ins_free);

static DIR *closedir_opened(DIR *directory) {
        if (directory)
                closedir(directory);
        return NULL;
}
DEFINE_CLEANUP(DIR *, closedir_opened);

static bool is_drop_in(const char *name) {
        size_t n = strlen(name);
        return n > 5 && name[0] != '.' && strcmp(name + n - 5, ".conf") == 0;
}

static int note_drop_in(DropIns *drop_ins, unsigned rank, const char *directory, const char *name) {
        if (drop_ins->n >= MAX_DROPINS)
                return log_error_errno(E2BIG, "%s: more than %d drop-ins", directory, MAX_DROPINS);

        UnitFileDropIn *file = &drop_ins->files[drop_ins->n];
        *file = (UnitFileDropIn){.rank = rank, .name = strdup(name)};
        if (asprintf(&file->path, "%s/%s", directory, name) < 0)
                file->path = NULL;
        drop_ins->n++;
        if (!file->name || !file->path)
                return -ENOMEM;

        struct stat st;
        file->masked = stat(file->path, &st) >= 0 && S_ISCHR(st.st_mode);
        return 0;
}

static int scan(DropIns *drop_ins, unsigned rank, const char *directory) {
        _cleanup_(closedir_openedp) DIR *opened = opendir(directory);
        if (!opened && (errno == ENOENT || errno == ENOTDIR))
                return 0;
        if (!opened)
                return log_error_errno(errno, "%s: cannot be read", directory);

        for (struct dirent *entry; (entry = readdir(opened));) {
                int r = is_drop_in(entry->d_name) ? note_drop_in(drop_ins, rank, directory, entry->d_name)
                                                  : 0;
                if (r < 0)
                        return r;
        }
        return 0;
}

static int load_main(Loader *loader, const char *root) {
        for (size_t i = 0; i < ELEMENTSOF(directories); i++) {
                char path[PATH_BYTES];
                snprintf(path, sizeof(path), "%s%s/treaty.conf", root, directories[i]);
                int r = load_file(loader, path);
                if (r != -ENOENT)
                        return r;
        }
        return 0;
}

static int load_drop_ins(Loader *loader, const char *root) {
        _cleanup_(drop_ins_freep) DropIns *drop_ins = calloc(1, sizeof(DropIns));
        if (!drop_ins)
                return -ENOMEM;
        for (unsigned i = 0; i < ELEMENTSOF(directories); i++) {
                char directory[PATH_BYTES];
                snprintf(directory, sizeof(directory), "%s%s/treaty.conf.d", root, directories[i]);
                int r = scan(drop_ins, i, directory);
                if (r < 0)
                        return r;
        }

        size_t n = unitfile_order(drop_ins->files, drop_ins->n);
        for (size_t i = 0; i < n; i++) {
                int r = load_file(loader, drop_ins->files[i].path);
                if (r < 0 && r != -ENOENT) /* ENOENT: removed meanwhile, or a symlink to nowhere */
                        return r;
        }
        return 0;
}

/* ---- What no file said ---- */

static int complete_host_name(Config *config) {
        char name[256] = "";

        if (config->host_name[0])
                return 0;
        if (gethostname(name, sizeof(name) - 1) < 0)
                return -errno;
        name[strcspn(name, ".")] = 0;
        if (!name_is_valid(name)) {
                log_error("the host's name \"%s\" cannot be used; set HostName= in /etc/treaty/treaty.conf",
                          name);
                return -EINVAL;
        }
        memcpy(config->host_name, name, strlen(name) + 1);
        return 0;
}

static int complete_join(Config *config) {
        const char *directory = getenv("CREDENTIALS_DIRECTORY");
        if (config->join || !directory)
                return 0;

        char path[PATH_BYTES];
        _cleanup_(buffer_deinit) Buffer text = {};
        snprintf(path, sizeof(path), "%s/treaty.join", directory);
        int r = read_file(path, MAX_JOIN_TEXT, &text);
        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return log_error_errno(r, "%s: cannot be read", path);

        while (text.size > 0 && strchr(" \t\r\n", text.data[text.size - 1]))
                text.size--;
        if (text.size == 0)
                return 0;
        if (text.size > MAX_JOIN_TEXT || memchr(text.data, 0, text.size) ||
            memchr(text.data, '\n', text.size)) {
                log_error("%s: not a token: it is one word, as \"treatyctl token\" prints it", path);
                return -EINVAL;
        }
        config->join = strndup((const char *)text.data, text.size);
        return config->join ? 0 : -ENOMEM;
}

/* systemd names all directories of a kind in one variable; the first is the one the unit asks for first. */
static char *directory_from(const char *variable, const char *otherwise) {
        const char *value = getenv(variable);
        if (!value || value[0] != '/')
                return strdup(otherwise);
        return strndup(value, strcspn(value, ":"));
}

static int complete(Loader *loader) {
        Config *config = &loader->config;

        if (config->n_listen == 0) {
                snprintf(config->listen[0], sizeof(config->listen[0]), ":%d", CONFIG_PEER_PORT);
                config->n_listen = 1;
        }
        if (config->heartbeat_usec == 0)
                config->heartbeat_usec = MIN(200 * USEC_PER_MSEC, config->election_usec / 3);
        if (config->election_usec < 3 * config->heartbeat_usec) {
                log_error("%s: ElectionSec= must be at least three times HeartbeatSec=",
                          loader->times_where);
                loader->refused = true;
        }
        if (config->session_timeout_usec < 2 * config->election_usec) {
                log_error("%s: SessionTimeoutSec= must be at least twice ElectionSec=", loader->times_where);
                loader->refused = true;
        }

        int r = complete_host_name(config);
        if (r < 0)
                return r;
        r = complete_join(config);
        if (r < 0)
                return r;
        config->state_dir = directory_from("STATE_DIRECTORY", "/var/lib/treaty");
        config->runtime_dir = directory_from("RUNTIME_DIRECTORY", "/run/treaty");
        return config->state_dir && config->runtime_dir ? 0 : -ENOMEM;
}

static void loader_deinit(Loader *loader) {
        config_deinit(&loader->config);
}

int config_load(Config *ret, const char *root_dir) {
        _cleanup_(loader_deinit) Loader loader = {};
        const char *root = root_dir ? root_dir : "";

        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                keys[i].reset(&loader.config);
        int r = load_main(&loader, root);
        if (r < 0)
                return r;
        r = load_drop_ins(&loader, root);
        if (r < 0)
                return r;
        r = complete(&loader);
        if (r < 0)
                return r;
        if (loader.refused)
                return -EINVAL;

        *ret = loader.config;
        loader.config = (Config){};
        return 0;
}

void config_deinit(Config *config) {
        if (config->join)
                explicit_bzero(config->join, strlen(config->join));
        free(config->join);
        free(config->state_dir);
        free(config->runtime_dir);
        *config = (Config){};
}
