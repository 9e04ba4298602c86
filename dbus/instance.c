/* See instance.h. */
#include "instance.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include "agent/base/path.h"

#define SUBTREE "/services/"

bool instance_path(const char *name, const char *host, uint16_t port, char *to, size_t size) {
        int n = port == 0 ? snprintf(to, size, SUBTREE "%s/%s", name, host)
                          : snprintf(to, size, SUBTREE "%s/%s:%u", name, host, port);
        return n > 0 && (size_t)n < size;
}

static json_t *strings(char *const *strv) {
        json_t *array = json_array();

        for (; array && strv && *strv; strv++)
                if (json_array_append_new(array, json_string(*strv)) < 0) {
                        json_decref(array);
                        return NULL;
                }
        return array;
}

static json_t *pairs(char *const *strv) {
        json_t *object = json_object();

        for (; object && strv && *strv; strv += 2)
                if (json_object_set_new(object, strv[0], json_string(strv[1])) < 0) {
                        json_decref(object);
                        return NULL;
                }
        return object;
}

int instance_json(const Instance *instance, char *const *text, char *const *properties, char **ret) {
        json_t *root =
                json_pack("{s:s, s:s, s:i, s:i, s:i, s:I, s:o, s:o}", "host", instance->host, "address",
                          instance->address, "port", (int)instance->port, "priority",
                          (int)instance->priority, "weight", (int)instance->weight, "ttl",
                          (json_int_t)instance->ttl, "text", strings(text), "properties", pairs(properties));
        if (!root)
                return -ENOMEM;
        char *json = json_dumps(root, JSON_COMPACT);
        json_decref(root);
        if (!json)
                return -ENOMEM;
        if (strlen(json) > LIMIT_SERVICE_BYTES) {
                free(json);
                return -E2BIG;
        }
        *ret = json;
        return 0;
}

static bool segment(const char *from, size_t n, char to[static LIMIT_NAME_BYTES + 1]) {
        if (n == 0 || n > LIMIT_NAME_BYTES)
                return false;
        memcpy(to, from, n);
        to[n] = 0;
        return true;
}

static bool parse_port(const char *text, uint16_t *ret) {
        unsigned port = 0;

        if (text[0] < '1' || text[0] > '9')
                return false;
        for (; *text; text++) {
                if (*text < '0' || *text > '9')
                        return false;
                port = port * 10 + (unsigned)(*text - '0');
                if (port > UINT16_MAX)
                        return false;
        }
        *ret = (uint16_t)port;
        return true;
}

static int parse_path(const char *path, Instance *ret) {
        size_t prefix = strlen(SUBTREE);

        if (strncmp(path, SUBTREE, prefix) != 0)
                return 1;
        const char *name = path + prefix, *slash = strchr(name, '/');
        if (!slash || strchr(slash + 1, '/') || !segment(name, (size_t)(slash - name), ret->name))
                return 1;
        const char *host = slash + 1, *colon = strchr(host, ':');
        if (!segment(host, colon ? (size_t)(colon - host) : strlen(host), ret->host))
                return 1;
        return !colon || parse_port(colon + 1, &ret->port) ? 0 : 1;
}

static json_int_t number(json_t *root, const char *key, json_int_t max) {
        json_t *value = json_object_get(root, key);
        json_int_t n = json_is_integer(value) ? json_integer_value(value) : 0;

        return n >= 0 && n <= max ? n : 0;
}

int instance_parse(const char *path, Bytes value, Instance *ret) {
        Instance instance = {};

        if (parse_path(path, &instance) != 0)
                return 1;
        json_t *root = value.size <= LIMIT_VALUE_BYTES
                               ? json_loadb((const char *)value.data, value.size, 0, NULL)
                               : NULL;
        const char *address = json_string_value(json_object_get(root, "address"));
        if (address)
                snprintf(instance.address, sizeof(instance.address), "%s", address);
        if (!utf8_is_valid(instance.address, strlen(instance.address)))
                instance.address[0] = 0;
        instance.priority = (uint16_t)number(root, "priority", UINT16_MAX);
        instance.weight = (uint16_t)number(root, "weight", UINT16_MAX);
        instance.ttl = (uint32_t)number(root, "ttl", UINT32_MAX);
        json_decref(root);
        *ret = instance;
        return 0;
}

void address_without_port(const char *address, char *to, size_t size) {
        size_t n = strlen(address);
        const char *colon = strrchr(address, ':');

        if (address[0] == '[') {
                const char *end = strchr(address, ']');
                address++;
                n = end ? (size_t)(end - address) : n - 1;
        } else if (colon && strchr(address, ':') == colon)
                n = (size_t)(colon - address);
        snprintf(to, size, "%.*s", (int)n, address);
}

static int by_priority(const void *a, const void *b) {
        const Instance *x = a, *y = b;

        if (x->priority != y->priority)
                return x->priority < y->priority ? -1 : 1;
        /* RFC 2782: those of weight 0 first, so that they have a small chance too. */
        if ((x->weight == 0) != (y->weight == 0))
                return x->weight == 0 ? -1 : 1;
        return 0;
}

/* Draws the next one of a group of equal priority to its front. */
static void draw(Instance *group, size_t n, uint64_t (*below)(uint64_t, void *), void *userdata) {
        uint64_t total = 0, sum = 0;
        size_t i;

        for (i = 0; i < n; i++)
                total += group[i].weight;
        /* With nothing but zeros every one is as likely as the other. */
        if (total == 0)
                i = (size_t)below(n, userdata);
        else {
                uint64_t point = below(total + 1, userdata);
                for (i = 0; i < n - 1; i++) {
                        sum += group[i].weight;
                        if (sum >= point)
                                break;
                }
        }
        Instance chosen = group[i];
        memmove(group + 1, group, i * sizeof(Instance));
        group[0] = chosen;
}

void instances_order(Instance *instances, size_t n, uint64_t (*below)(uint64_t bound, void *userdata),
                     void *userdata) {
        if (n == 0)
                return;
        qsort(instances, n, sizeof(Instance), by_priority);
        for (size_t begin = 0; begin < n;) {
                size_t end = begin + 1;
                while (end < n && instances[end].priority == instances[begin].priority)
                        end++;
                for (; begin < end; begin++)
                        draw(instances + begin, end - begin, below, userdata);
        }
}
