/* Any bytes as a unit file, and its values as whatever values can be: words, times, numbers, specifiers,
 * paths. Any bytes as a configuration of voters. */
#include "fuzz.h"

#include <errno.h>
#include <string.h>
#include "agent/base/conf.h"
#include "agent/base/entry.h"
#include "agent/base/path.h"
#include "agent/base/unitfile.h"

static void poke_value(const char *value) {
        static const UnitFileNames names = {
                .unit = "web@a-b\\x2dc.service", .host_name = "h1", .machine_id = "0123"};
        char to[UNITFILE_WORDS_BYTES + 1];
        const char *text = value;
        for (int r = 1; r == 1;) {
                r = unitfile_word(&text, to, sizeof(to));
                must(r == 1 || r == 0 || r == -EINVAL || r == -E2BIG);
                if (r == 1)
                        must(strlen(to) < sizeof(to));
        }
        uint64_t number;
        (void)unitfile_usec(value, 1000000, &number);
        if (unitfile_unsigned(value, 77, &number) == 0)
                must(number <= 77);
        if (unitfile_expand(value, &names, to, sizeof(to)) == 0)
                must(strlen(to) < sizeof(to));
        if (path_check(value) == PATH_OK)
                must(value[0] == '/' && strlen(value) <= LIMIT_PATH_BYTES);
}

static void poke_conf(const uint8_t *data, size_t size) {
        Conf conf, again;
        uint8_t bytes[CONF_BYTES_MAX];
        if (conf_decode(BYTES(data, size), &conf) < 0)
                return;
        must(conf.n_voters <= LIMIT_VOTERS && conf.n_old <= LIMIT_VOTERS);
        size_t n = conf_encode(&conf, bytes);
        must(n == size && conf_decode(BYTES(bytes, n), &again) == 0 && memcmp(bytes, data, n) == 0);
        for (uint32_t i = 0; i < conf.n_voters; i++)
                must(conf.voters[i].id != 0 && conf_is_voter(&conf, conf.voters[i].id));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        poke_conf(data, size);
        UnitFile file;
        UnitFileItem item;
        unsigned line = 0;
        unitfile_init(&file, BYTES(data, size));
        for (int r; (r = unitfile_next(&file, &item)) != UNITFILE_END;) {
                must(r == UNITFILE_ASSIGNMENT || r == UNITFILE_PROBLEM);
                must(item.line >= line);
                line = item.line;
                if (r == UNITFILE_PROBLEM) {
                        must(item.problem);
                        continue;
                }
                must(utf8_is_valid(item.value, strlen(item.value)) && !strchr(item.value, '\n'));
                poke_value(item.value);
        }
        unitfile_deinit(&file);
        return 0;
}

void fuzz_seeds(FuzzSeed seed) {
        static const char text[] =
                "# all there is\n[X-Treaty]\nWatch=/config/%i \"/a b\" '\\x41'\nOnChange=restart\n"
                "SettleSec=1.5s 2min\nLong=a \\\n# comment\n  b\n[Broken\nKey=1\n[Unit]\n=x\nN=77\n"
                "Name=%n %N %p %H %m %%\nTime=infinity\n";
        seed("unit", text, sizeof(text) - 1);
        Conf conf = {
                .n_voters = 3, .voters = {{.id = 1}, {.id = 2, .since = 9}, {.id = UINT64_MAX}}, .n_old = 1};
        conf.old[0].id = 1;
        uint8_t bytes[CONF_BYTES_MAX];
        seed("conf", bytes, conf_encode(&conf, bytes));
}
