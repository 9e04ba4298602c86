/* What the administrator says: treaty.conf and its drop-ins, treaty.conf(5).
 *
 * Built-in defaults come first, then the main file (the first of /etc/treaty, /run/treaty,
 * /usr/local/lib/treaty, /usr/lib/treaty that has treaty.conf), then the drop-ins (SOMETHING.conf in
 * treaty.conf.d) of all four, sorted by name over all directories; of one name only the one in the directory
 * named first here counts, and a symlink to /dev/null masks. Later settings win, lists append, an empty
 * assignment goes back to the default. This is what systemd does for its own files.
 *
 * An unknown key is a warning: it may belong to a newer treaty. A value that cannot be used refuses the
 * whole configuration, because an agent that quietly takes a default instead of what somebody wrote is worse
 * than one that says where and why it does not start. */
#pragma once

#include "base/limits.h"
#include "base/macros.h"

#define CONFIG_PEER_PORT 7707

typedef struct Config {
        unsigned n_listen; /* Listen=: where peers are awaited, "host:port", "[v6]:port", ":port" (all) */
        char listen[LIMIT_ADDRESSES][LIMIT_ADDRESS_BYTES + 1];
        unsigned n_addresses; /* Address=: where peers find this host, "host:port", "[v6]:port"; may be none
                               */
        char addresses[LIMIT_ADDRESSES][LIMIT_ADDRESS_BYTES + 1];
        char host_name[LIMIT_NAME_BYTES + 1]; /* HostName=: default the short host name */
        char *join; /* Join=, or the credential treaty.join: a token; NULL: none. A secret: never logged */
        uint64_t heartbeat_usec;       /* HeartbeatSec= */
        uint64_t election_usec;        /* ElectionSec= */
        uint64_t session_timeout_usec; /* SessionTimeoutSec= */
        unsigned max_voters;           /* Voters=: 1, 3, 5, 7; 0 = auto */
        bool accept_damage;            /* --accept-damage, of the command line */
        int log_level;                 /* LogLevel= */
        char *state_dir;               /* $STATE_DIRECTORY, else /var/lib/treaty */
        char *runtime_dir;             /* $RUNTIME_DIRECTORY, else /run/treaty */
} Config;

/* root_dir: before /etc, /run and /usr (NULL: none). Says in the journal what it finds wrong, all of it. 0;
 * -EINVAL: a value is wrong; -ENOMEM; other errors of reading. On failure *ret is untouched. */
int config_load(Config *ret, const char *root_dir);
void config_deinit(Config *config);
