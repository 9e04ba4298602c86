/* treaty.conf: what no file says is the default, drop-ins win in systemd's order, unknown keys warn, and one
 * wrong value refuses the whole with file, line and reason. Real files in a directory of their own. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "agent/config.h"
#include "agent/journal.h"

static char root[64];
static char said[8192];

static void listen_in(int level, const char *text, void *userdata) {
        size_t n = strlen(said);
        snprintf(said + n, sizeof(said) - n, "%d %s\n", level, text);
}

static void make_directories(char *path) {
        for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
                *p = 0;
                (void)mkdir(path, 0755);
                *p = '/';
        }
}

static void put(const char *name, const char *content) {
        char path[256];
        snprintf(path, sizeof(path), "%s%s", root, name);
        make_directories(path);
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fputs(content, file);
        fclose(file);
}

static int begin(void **state) {
        snprintf(root, sizeof(root), "/tmp/treaty-config-XXXXXX");
        assert_non_null(mkdtemp(root));
        said[0] = 0;
        unsetenv("STATE_DIRECTORY");
        unsetenv("RUNTIME_DIRECTORY");
        unsetenv("CREDENTIALS_DIRECTORY");
        journal_set_sink(listen_in, NULL);
        return 0;
}

static int end(void **state) {
        char command[128];
        snprintf(command, sizeof(command), "rm -r %s", root);
        return system(command);
}

static void assert_said(const char *expected) {
        if (!strstr(said, expected))
                fail_msg("expected \"%s\", heard \"%s\"", expected, said);
}

static void test_defaults(void **state) {
        Config config;
        assert_int_equal(config_load(&config, root), 0);
        assert_int_equal(config.n_listen, 1);
        assert_string_equal(config.listen[0], ":7707");
        assert_int_equal(config.n_addresses, 0);
        assert_null(config.join);
        assert_int_equal(config.heartbeat_usec, 200000);
        assert_int_equal(config.election_usec, 600000);
        assert_int_equal(config.session_timeout_usec, 5000000);
        assert_int_equal(config.max_voters, 0);
        assert_int_equal(config.log_level, LOG_INFO);
        assert_string_equal(config.state_dir, "/var/lib/treaty");
        assert_string_equal(config.runtime_dir, "/run/treaty");
        assert_true(strlen(config.host_name) > 0);
        assert_null(strchr(config.host_name, '.'));
        assert_string_equal(said, "");
        config_deinit(&config);
        config_deinit(&config);
}

static void test_all_keys(void **state) {
        Config config;
        put("/etc/treaty/treaty.conf", "[Treaty]\n"
                                       "Listen=10.0.0.1 [fd00::1]:9\n"
                                       "Listen=:8000\n"
                                       "Address=h1.example h1.example:7708\n"
                                       "HostName=h1\n"
                                       "Join=abc\n"
                                       "HeartbeatSec=50ms\n"
                                       "ElectionSec=0.5\n"
                                       "SessionTimeoutSec=1min 30s\n"
                                       "Voters=3\n"
                                       "LogLevel=debug\n");
        setenv("STATE_DIRECTORY", "/srv/a:/srv/b", 1);
        setenv("RUNTIME_DIRECTORY", "/run/x", 1);
        assert_int_equal(config_load(&config, root), 0);
        assert_string_equal(said, "");
        assert_int_equal(config.n_listen, 3);
        assert_string_equal(config.listen[0], "10.0.0.1:7707");
        assert_string_equal(config.listen[1], "[fd00::1]:9");
        assert_string_equal(config.listen[2], ":8000");
        assert_int_equal(config.n_addresses, 2);
        assert_string_equal(config.addresses[0], "h1.example:7707");
        assert_string_equal(config.addresses[1], "h1.example:7708");
        assert_string_equal(config.host_name, "h1");
        assert_string_equal(config.join, "abc");
        assert_int_equal(config.heartbeat_usec, 50000);
        assert_int_equal(config.election_usec, 500000);
        assert_int_equal(config.session_timeout_usec, 90000000);
        assert_int_equal(config.max_voters, 3);
        assert_int_equal(config.log_level, LOG_DEBUG);
        assert_string_equal(config.state_dir, "/srv/a");
        assert_string_equal(config.runtime_dir, "/run/x");
        config_deinit(&config);
}

/* Heartbeats keep their place within a shorter election timeout when nobody set them. */
static void test_heartbeats_follow_the_election(void **state) {
        Config config;
        put("/etc/treaty/treaty.conf", "[Treaty]\nElectionSec=300ms\n");
        assert_int_equal(config_load(&config, root), 0);
        assert_string_equal(said, "");
        assert_int_equal(config.heartbeat_usec, 100000);
        assert_int_equal(config.election_usec, 300000);
        config_deinit(&config);
        put("/etc/treaty/treaty.conf", "[Treaty]\nElectionSec=2\n");
        assert_int_equal(config_load(&config, root), 0);
        assert_int_equal(config.heartbeat_usec, 200000);
        config_deinit(&config);
}

/* One file after another, as they are to be read; Voters= tells who came last. */
static void test_order(void **state) {
        Config config;
        put("/usr/lib/treaty/treaty.conf", "[Treaty]\nHostName=never-read\nLogLevel=7\n");
        put("/run/treaty/treaty.conf", "[Treaty]\nHostName=main\nListen=:1\n");
        put("/usr/lib/treaty/treaty.conf.d/50-b.conf", "[Treaty]\nHostName=fifty\nListen=:2\n");
        put("/usr/local/lib/treaty/treaty.conf.d/40-a.conf", "[Treaty]\nHostName=forty\nListen=:3\n");
        put("/usr/lib/treaty/treaty.conf.d/60-c.conf", "[Treaty]\nHostName=masked\n");
        put("/run/treaty/treaty.conf.d/70-d.conf", "[Treaty]\nHostName=hidden\n");
        put("/etc/treaty/treaty.conf.d/70-d.conf", "[Treaty]\nVoters=5\n");
        put("/etc/treaty/treaty.conf.d/80-e.conf.bak", "[Treaty]\nHostName=backup\n");
        char path[256];
        snprintf(path, sizeof(path), "%s/etc/treaty/treaty.conf.d/60-c.conf", root);
        assert_int_equal(symlink("/dev/null", path), 0);

        assert_int_equal(config_load(&config, root), 0);
        assert_string_equal(config.host_name, "fifty");
        assert_int_equal(config.n_listen, 3);
        assert_string_equal(config.listen[0], ":1");
        assert_string_equal(config.listen[1], ":3");
        assert_string_equal(config.listen[2], ":2");
        assert_int_equal(config.max_voters, 5);
        assert_int_equal(config.log_level, LOG_INFO);
        config_deinit(&config);

        put("/etc/treaty/treaty.conf.d/90-f.conf", "[Treaty]\nListen=\nHostName=\nVoters=\n");
        assert_int_equal(config_load(&config, root), 0);
        assert_int_equal(config.n_listen, 1);
        assert_string_equal(config.listen[0], ":7707");
        assert_string_not_equal(config.host_name, "fifty");
        assert_int_equal(config.max_voters, 0);
        config_deinit(&config);
}

static void test_unknown_warns(void **state) {
        Config config;
        put("/etc/treaty/treaty.conf", "[Treaty]\nColour=blue\nVoters=1\n[Other]\nA=1\n[X-Mine]\nB=2\n");
        assert_int_equal(config_load(&config, root), 0);
        assert_int_equal(config.max_voters, 1);
        assert_said("4 ");
        assert_said("/etc/treaty/treaty.conf:2: unknown key Colour= in [Treaty] is ignored\n");
        assert_said("/etc/treaty/treaty.conf:5: unknown section [Other], A= is ignored\n");
        assert_null(strstr(said, "X-Mine"));
        config_deinit(&config);
}

static void test_bad_value_refuses(void **state) {
        static const char *const bad[] = {
                "Voters=2",
                "Voters=9",
                "Voters=many",
                "Listen=1:2:3",
                "Listen=:0",
                "Listen=:65536",
                "Listen=[::1",
                "Listen=[::1]7",
                "Listen=:1 :2 :3 :4 :5 :6 :7 :8 :9",
                "Listen='x",
                "Address=:7707",
                "HostName=a b",
                "HostName=-?",
                "HeartbeatSec=soon",
                "HeartbeatSec=1ms",
                "HeartbeatSec=1h",
                "ElectionSec=infinity",
                "SessionTimeoutSec=5ms",
                "LogLevel=loud",
                "LogLevel=8",
                "Join=two words",
                "no assignment",
        };
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                char content[256];
                Config config = {.max_voters = 77};
                said[0] = 0;
                snprintf(content, sizeof(content), "# one\n[Treaty]\n%s\n", bad[i]);
                put("/etc/treaty/treaty.conf.d/1.conf", content);
                if (config_load(&config, root) != -EINVAL)
                        fail_msg("\"%s\" was accepted", bad[i]);
                assert_said("3 "); /* LOG_ERR */
                assert_said("/etc/treaty/treaty.conf.d/1.conf:3: ");
                assert_int_equal(config.max_voters, 77);
        }
}

/* Each alone is possible, together they are not. */
static void test_times_fit_together(void **state) {
        Config config;
        put("/etc/treaty/treaty.conf", "[Treaty]\nHeartbeatSec=300ms\n");
        assert_int_equal(config_load(&config, root), -EINVAL);
        assert_said("/etc/treaty/treaty.conf:2: ElectionSec= must be at least three times HeartbeatSec=");

        put("/etc/treaty/treaty.conf", "[Treaty]\nElectionSec=4s\n");
        assert_int_equal(config_load(&config, root), -EINVAL);
        assert_said("/etc/treaty/treaty.conf:2: SessionTimeoutSec= must be at least twice ElectionSec=");

        put("/etc/treaty/treaty.conf", "[Treaty]\nElectionSec=4s\nHeartbeatSec=1s\nSessionTimeoutSec=8s\n");
        assert_int_equal(config_load(&config, root), 0);
        config_deinit(&config);
}

static void test_credential(void **state) {
        Config config;
        char directory[128];
        snprintf(directory, sizeof(directory), "%s/credentials", root);
        setenv("CREDENTIALS_DIRECTORY", directory, 1);
        assert_int_equal(config_load(&config, root), 0);
        assert_null(config.join);
        config_deinit(&config);

        put("/credentials/treaty.join", "secret-token\n");
        assert_int_equal(config_load(&config, root), 0);
        assert_string_equal(config.join, "secret-token");
        config_deinit(&config);

        put("/etc/treaty/treaty.conf", "[Treaty]\nJoin=from-file\n");
        assert_int_equal(config_load(&config, root), 0);
        assert_string_equal(config.join, "from-file");
        config_deinit(&config);

        put("/etc/treaty/treaty.conf", "");
        put("/credentials/treaty.join", "two\nlines\n");
        assert_int_equal(config_load(&config, root), -EINVAL);
        assert_said("credentials/treaty.join: not a token");
        assert_null(strstr(said, "lines"));
}

static void test_unreadable(void **state) {
        Config config;
        char path[128];
        put("/etc/treaty/treaty.conf.d/1.conf", "");
        snprintf(path, sizeof(path), "%s/etc/treaty/treaty.conf", root);
        assert_int_equal(mkfifo(path, 0600), 0);
        assert_int_equal(config_load(&config, root), -EINVAL);
        assert_said("/etc/treaty/treaty.conf: cannot be read");
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void) {
        const struct CMUnitTest tests[] = {
                CASE(test_defaults),
                CASE(test_all_keys),
                CASE(test_heartbeats_follow_the_election),
                CASE(test_order),
                CASE(test_unknown_warns),
                CASE(test_bad_value_refuses),
                CASE(test_times_fit_together),
                CASE(test_credential),
                CASE(test_unreadable),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
