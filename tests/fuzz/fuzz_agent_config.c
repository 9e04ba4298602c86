/* Any bytes as treaty.conf: refused as a whole, or all that it says is within its limits. */
#include "place.h"

#include <errno.h>
#include <sys/stat.h>
#include "agent/config.h"
#include "agent/journal.h"

static void not_heard(int level, const char *text, void *userdata) {
}

static void remove_tree(void) {
        char path[128];
        static const char *const parts[] = {"etc/treaty/treaty.conf", "etc/treaty", "etc"};
        for (unsigned i = 0; i < 3; i++) {
                snprintf(path, sizeof(path), "%s/%s", place_path, parts[i]);
                remove(path);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static char etc[128], directory[160];
        if (!etc[0]) {
                snprintf(etc, sizeof(etc), "%s/etc", place());
                snprintf(directory, sizeof(directory), "%s/treaty", etc);
                must(mkdir(etc, 0700) == 0 && mkdir(directory, 0700) == 0);
                atexit(remove_tree);
                journal_set_sink(not_heard, NULL);
        }
        place_write("etc/treaty/treaty.conf", data, size);
        Config config = {};
        int r = config_load(&config, place());
        must(r == 0 || r == -EINVAL);
        if (r == 0) {
                must(config.n_listen <= LIMIT_ADDRESSES && config.n_addresses <= LIMIT_ADDRESSES);
                must(config.heartbeat_usec > 0 && config.election_usec >= 3 * config.heartbeat_usec);
                must(config.max_voters <= LIMIT_VOTERS && config.session_timeout_usec > 0);
                config_deinit(&config);
        }
        return 0;
}

void fuzz_seeds(FuzzSeed seed) {
        static const char text[] =
                "[Treaty]\nListen=:7707 10.0.0.1:7\nListen=[fd00::1]:7707\nAddress=h1:7707\nHostName=h1\n"
                "HeartbeatSec=100ms\nElectionSec=600ms\nSessionTimeoutSec=5s\nVoters=auto\n"
                "LogLevel=debug\nNew=1\nListen=\n";
        seed("all", text, sizeof(text) - 1);
}
