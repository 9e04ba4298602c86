/* Entries: what is read is copied out of the message into one allocation (get) or lent for the length of a
 * call (list). Paths and sizes are judged here too, so that the words come without a round trip. */
#include "connection.h"

#include <stdio.h>
#include <string.h>

/* An answer that never ends is not one: pages of at most 1000 entries. */
#define LIST_PAGES_MAX 10000000u

enum { GET_LINEARIZABLE = 1, DELETE_SUBTREE = 1 };
_Static_assert(TREATY_LINEARIZABLE == 1 && TREATY_CHILDREN == 2 && TREATY_NO_VALUES == 4,
               "the flags of a list are the bus's");

typedef struct OwnedEntry {
        treaty_entry entry; /* first: what the caller holds */
        char *path, *value, *owner;
} OwnedEntry;

_public_ treaty_entry *treaty_entry_free(treaty_entry *entry) {
        OwnedEntry *owned = (OwnedEntry *)entry;
        if (!owned)
                return NULL;
        free(owned->path);
        free(owned->value);
        free(owned->owner);
        free(owned);
        return NULL;
}
DEFINE_CLEANUP(treaty_entry *, treaty_entry_free)

static int check_value(treaty *t, const void *value, size_t size) {
        if (size > TREATY_VALUE_MAX)
                return fail(
                        t, -EMSGSIZE, "org.treaty1.Error.TooLarge",
                        "The value has %zu bytes, more than 1 MiB: store it elsewhere and its place here",
                        size);
        if (!value && size > 0)
                return fail(t, -EINVAL, NULL, "There is no value");
        return 0;
}

/* ---- Reading ---- */

static int read_info(sd_bus_message *reply, OwnedEntry *owned) {
        treaty_entry *entry = &owned->entry;
        const char *key, *owner;
        int r;

        entry->age_usec = TREATY_UNKNOWN;
        r = sd_bus_message_enter_container(reply, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(reply, 'e', "sv")) > 0) {
                r = sd_bus_message_read(reply, "s", &key);
                if (r < 0)
                        return r;
                if (strcmp(key, "create-revision") == 0)
                        r = sd_bus_message_read(reply, "v", "t", &entry->create_revision);
                else if (strcmp(key, "version") == 0)
                        r = sd_bus_message_read(reply, "v", "t", &entry->version);
                else if (strcmp(key, "revision") == 0)
                        r = sd_bus_message_read(reply, "v", "t", &entry->revision);
                else if (strcmp(key, "age-usec") == 0)
                        r = sd_bus_message_read(reply, "v", "t", &entry->age_usec);
                else if (strcmp(key, "owner") == 0 && !owned->owner) {
                        r = sd_bus_message_read(reply, "v", "s", &owner);
                        if (r >= 0 && *owner && !(entry->owner = owned->owner = strdup(owner)))
                                return -ENOMEM;
                } else
                        r = sd_bus_message_skip(reply, "v");
                if (r >= 0)
                        r = sd_bus_message_exit_container(reply);
        }
        return r < 0 ? r : sd_bus_message_exit_container(reply);
}

static int read_entry(sd_bus_message *reply, const char *path, treaty_entry **ret) {
        _cleanup_(treaty_entry_freep) treaty_entry *entry = NULL;
        OwnedEntry *owned = calloc(1, sizeof(*owned));
        const void *value;
        size_t size;
        int r;

        if (!owned)
                return -ENOMEM;
        entry = &owned->entry;
        r = sd_bus_message_read_array(reply, 'y', &value, &size);
        if (r < 0)
                return r;
        r = sd_bus_message_read(reply, "t", &entry->mod_revision);
        if (r < 0)
                return r;

        owned->path = strdup(path);
        owned->value = malloc(size + 1);
        if (!owned->path || !owned->value)
                return -ENOMEM;
        if (size > 0)
                memcpy(owned->value, value, size);
        owned->value[size] = 0;
        entry->path = owned->path;
        entry->value = owned->value;
        entry->value_size = size;

        r = read_info(reply, owned);
        if (r < 0)
                return r;
        *ret = TAKE(entry);
        return 0;
}

_public_ int treaty_get(treaty *t, const char *path, unsigned flags, uint64_t min_revision,
                        treaty_entry **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        int r;

        *ret = NULL;
        if ((r = check_path(t, path, false)) < 0 || (r = check_flags(t, flags, TREATY_LINEARIZABLE)) < 0 ||
            (r = call_begin(t, TREATY_TREE, "Get", &call)) < 0)
                return r;
        r = sd_bus_message_append(call, "st", path,
                                  (uint64_t)(flags & TREATY_LINEARIZABLE ? GET_LINEARIZABLE : 0));
        if (r >= 0)
                r = sd_bus_message_open_container(call, 'a', "{sv}");
        if (r >= 0)
                r = append_option_u64(call, "timeout-usec", t->timeout_usec);
        if (r >= 0 && min_revision > 0)
                r = append_option_u64(call, "min-revision", min_revision);
        if (r >= 0)
                r = sd_bus_message_close_container(call);
        if (r < 0)
                return fail_append(t, r);

        r = call_finish_default(t, call, &reply);
        if (r < 0)
                return r;
        r = read_entry(reply, path, ret);
        return r < 0 ? fail_reply(t, r) : 0;
}

/* One page of a list: entered by its caller, each() is told, container left again. */
static int each_entry(sd_bus_message *reply, int (*each)(const treaty_entry *, void *), void *userdata,
                      int *ret_stopped) {
        char *copy = NULL;
        size_t copy_size = 0;
        int r;

        r = sd_bus_message_enter_container(reply, 'a', "(sayttt)");
        while (r >= 0 && (r = sd_bus_message_enter_container(reply, 'r', "sayttt")) > 0) {
                treaty_entry entry = {.age_usec = TREATY_UNKNOWN};
                r = sd_bus_message_read(reply, "s", &entry.path);
                if (r >= 0)
                        r = sd_bus_message_read_array(reply, 'y', &entry.value, &entry.value_size);
                if (r >= 0)
                        r = sd_bus_message_read(reply, "ttt", &entry.create_revision, &entry.mod_revision,
                                                &entry.version);
                if (r >= 0)
                        r = sd_bus_message_exit_container(reply);
                if (r < 0)
                        break;

                /* The promised NUL behind the value: bytes of the message are not ours to write. */
                if (entry.value_size + 1 > copy_size) {
                        char *larger = realloc(copy, entry.value_size + 1);
                        if (!larger) {
                                r = -ENOMEM;
                                break;
                        }
                        copy = larger;
                        copy_size = entry.value_size + 1;
                }
                if (entry.value_size > 0)
                        memcpy(copy, entry.value, entry.value_size);
                copy[entry.value_size] = 0;
                entry.value = copy;

                *ret_stopped = each(&entry, userdata);
                if (*ret_stopped != 0)
                        break;
        }
        free(copy);
        if (r < 0 || *ret_stopped != 0)
                return r;
        return sd_bus_message_exit_container(reply);
}

static int list_page(treaty *t, const char *path, unsigned flags, const char *after, sd_bus_message **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        int r = call_begin(t, TREATY_TREE, "List", &call);
        if (r < 0)
                return r;
        r = sd_bus_message_append(call, "stsu", path, (uint64_t)flags, after, (uint32_t)0);
        if (r < 0)
                return fail_append(t, r);
        return call_finish_default(t, call, ret);
}

_public_ int treaty_list(treaty *t, const char *path, unsigned flags,
                         int (*each)(const treaty_entry *entry, void *userdata), void *userdata,
                         uint64_t *ret_revision) {
        _cleanup_(freep) char *after = NULL;
        int r, stopped = 0;

        if ((r = check_path(t, path, true)) < 0 ||
            (r = check_flags(t, flags, TREATY_LINEARIZABLE | TREATY_CHILDREN | TREATY_NO_VALUES)) < 0)
                return r;

        for (unsigned page = 0; page < LIST_PAGES_MAX; page++) {
                _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
                uint64_t revision;
                const char *next;

                r = list_page(t, path, flags, after ? after : "", &reply);
                if (r < 0)
                        return r;
                r = each_entry(reply, each, userdata, &stopped);
                if (r < 0)
                        return fail_reply(t, r);
                if (stopped != 0)
                        return stopped;
                r = sd_bus_message_read(reply, "st", &next, &revision);
                if (r < 0)
                        return fail_reply(t, r);

                if (page == 0 && ret_revision)
                        *ret_revision = revision;
                if (!*next)
                        return 0;
                if (after && strcmp(next, after) <= 0)
                        break;
                free(after);
                after = strdup(next);
                if (!after)
                        return fail_errno(t, -ENOMEM, "Cannot list");
                /* What followed the first, linearizable page is at least as new. */
                flags &= ~(unsigned)TREATY_LINEARIZABLE;
        }
        return fail_reply(t, -EBADMSG);
}

_public_ int treaty_wait(treaty *t, const char *path, uint64_t after, uint64_t timeout_usec,
                         uint64_t *ret_revision) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        uint64_t revision;
        int r, changed;

        if (timeout_usec == 0 || timeout_usec > 20 * USEC_PER_SEC)
                timeout_usec = 20 * USEC_PER_SEC;
        if ((r = check_path(t, path, true)) < 0 || (r = call_begin(t, TREATY_TREE, "Wait", &call)) < 0)
                return r;
        r = sd_bus_message_append(call, "stt", path, after, timeout_usec);
        if (r < 0)
                return fail_append(t, r);
        r = call_finish(t, call, timeout_usec + CALL_GRACE_USEC, &reply);
        if (r < 0)
                return r;
        r = sd_bus_message_read(reply, "bt", &changed, &revision);
        if (r < 0)
                return fail_reply(t, r);
        if (ret_revision)
                *ret_revision = revision;
        return changed ? 1 : 0;
}

/* ---- Writing ---- */

static int read_revision(treaty *t, sd_bus_message *reply, uint64_t *ret_revision) {
        uint64_t revision;
        int r = sd_bus_message_read(reply, "t", &revision);
        if (r < 0)
                return fail_reply(t, r);
        if (ret_revision)
                *ret_revision = revision;
        return 0;
}

/* flags, options, send. if_mod_revision: NULL = none. */
static int write_finish(treaty *t, sd_bus_message *call, int r, uint64_t flags,
                        const uint64_t *if_mod_revision, uint64_t *ret_revision) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;

        if (r >= 0)
                r = sd_bus_message_append(call, "t", flags);
        if (r >= 0)
                r = sd_bus_message_open_container(call, 'a', "{sv}");
        if (r >= 0)
                r = append_option_u64(call, "timeout-usec", t->timeout_usec);
        if (r >= 0 && if_mod_revision)
                r = append_option_u64(call, "if-mod-revision", *if_mod_revision);
        if (r >= 0)
                r = sd_bus_message_close_container(call);
        if (r < 0)
                return fail_append(t, r);
        r = call_finish_default(t, call, &reply);
        return r < 0 ? r : read_revision(t, reply, ret_revision);
}

static int write_value(treaty *t, const char *member, const char *path, const void *value, size_t size,
                       const uint64_t *if_mod_revision, uint64_t *ret_revision) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        int r;

        if ((r = check_path(t, path, false)) < 0 || (r = check_value(t, value, size)) < 0 ||
            (r = call_begin(t, TREATY_TREE, member, &call)) < 0)
                return r;
        r = sd_bus_message_append(call, "s", path);
        if (r >= 0)
                r = sd_bus_message_append_array(call, 'y', value, size);
        return write_finish(t, call, r, 0, if_mod_revision, ret_revision);
}

_public_ int treaty_set(treaty *t, const char *path, const void *value, size_t size,
                        uint64_t *ret_revision) {
        return write_value(t, "Set", path, value, size, NULL, ret_revision);
}

_public_ int treaty_set_if(treaty *t, const char *path, const void *value, size_t size,
                           uint64_t if_mod_revision, uint64_t *ret_revision) {
        return write_value(t, "Set", path, value, size, &if_mod_revision, ret_revision);
}

_public_ int treaty_create(treaty *t, const char *path, const void *value, size_t size,
                           uint64_t *ret_revision) {
        return write_value(t, "Create", path, value, size, NULL, ret_revision);
}

_public_ int treaty_delete(treaty *t, const char *path, unsigned flags, uint64_t *ret_revision) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        int r;

        if ((r = check_path(t, path, false)) < 0 || (r = check_flags(t, flags, TREATY_RECURSIVE)) < 0 ||
            (r = call_begin(t, TREATY_TREE, "Delete", &call)) < 0)
                return r;
        r = sd_bus_message_append(call, "s", path);
        return write_finish(t, call, r, flags & TREATY_RECURSIVE ? DELETE_SUBTREE : 0, NULL, ret_revision);
}

/* ---- What became of it ---- */

_public_ int treaty_outcome(treaty *t, const char *request, treaty_fate *ret, uint64_t *ret_revision) {
        static const char *const words[] = {
                [TREATY_APPLIED] = "applied",
                [TREATY_NEVER] = "never",
                [TREATY_UNDECIDED] = "undecided",
                [TREATY_TOO_OLD] = "too-old",
        };
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        const char *state;
        uint64_t revision;
        int r;

        r = call_begin(t, TREATY_TREE, "Outcome", &call);
        if (r < 0)
                return r;
        r = sd_bus_message_append(call, "s", request);
        if (r < 0)
                return fail_append(t, r);
        r = call_finish_default(t, call, &reply);
        if (r < 0)
                return r;
        r = sd_bus_message_read(reply, "st", &state, &revision);
        if (r < 0)
                return fail_reply(t, r);
        if (ret_revision)
                *ret_revision = revision;
        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (strcmp(state, words[i]) == 0) {
                        *ret = (treaty_fate)i;
                        return 0;
                }
        return fail_reply(t, -EBADMSG);
}
