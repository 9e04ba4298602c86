/* One instance of a service: the entry /services/NAME/HOST[:PORT] and its JSON. */
#pragma once

#include "agent/base/bytes.h"
#include "agent/base/limits.h"

#define INSTANCE_ADDRESS_BYTES 256

typedef struct Instance {
        char name[LIMIT_NAME_BYTES + 1];
        char host[LIMIT_NAME_BYTES + 1];
        char address[INSTANCE_ADDRESS_BYTES];
        uint16_t port; /* 0: none */
        uint16_t priority, weight;
        uint32_t ttl; /* seconds; 0: none said */
} Instance;

/* The path of an instance; false when it does not fit. */
bool instance_path(const char *name, const char *host, uint16_t port, char *to, size_t size);
/* text and properties (key, value, …) may be NULL. *ret: to be freed. 0, -ENOMEM, -E2BIG. */
int instance_json(const Instance *instance, char *const *text, char *const *properties, char **ret);

/* What path and value tell. The path is the truth for name, host and port; a value that is not such JSON
 * leaves the rest empty. 0; 1: the path is not that of an instance. */
int instance_parse(const char *path, Bytes value, Instance *ret);

/* "10.0.0.1:7707" → "10.0.0.1", "[fd00::1]:7707" → "fd00::1", "h1" → "h1". */
void address_without_port(const char *address, char *to, size_t size);

/* RFC 2782: lowest priority first, within it by chance with the weight. `random` below(n) gives 0 … n-1. */
void instances_order(Instance *instances, size_t n, uint64_t (*below)(uint64_t bound, void *userdata),
                     void *userdata);
