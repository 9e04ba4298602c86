/* What this host has handled, per unit: for each watched path the revision up to which all changes led to an
 * action, in the cluster of that id. One small text file per unit, replaced atomically:
 *
 *      treaty-units 1
 *      cluster 5b1f…
 *      handled 412 /config/web
 *      end
 *
 * Revisions of another cluster mean nothing here, so they are never compared. A file that is damaged counts
 * as none: the unit begins anew from what is now, as on its first day. */
#pragma once

#include "agent/base/limits.h"
#include "agent/base/macros.h"
#include "section.h"

#define CLUSTER_TEXT_BYTES 64

typedef struct State {
        char cluster[CLUSTER_TEXT_BYTES + 1]; /* "": nothing known */
        size_t n;
        struct {
                char path[LIMIT_PATH_BYTES + 1];
                uint64_t revision;
        } handled[SECTION_MAX_PATHS];
} State;

/* 0; 1: none (never seen, or damaged); negative: it cannot be read. */
int state_load(State *ret, int directory_fd, const char *unit);
int state_save(const State *state, int directory_fd, const char *unit);
int state_remove(int directory_fd, const char *unit); /* 0 also when there is none */
bool state_find(const State *state, const char *cluster, const char *path, uint64_t *ret_revision);
int state_set(State *state, const char *path, uint64_t revision); /* 0, -E2BIG */
