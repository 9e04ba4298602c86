/* A log directory of any bytes is opened, read and written to: recovery never trusts what it reads, and what
 * it accepts can be read back twice the same. The input: u8 flags, then per segment file u16 size and bytes.
 * Flag 1: the checksums are made right first, or no mutation would get past them. */
#include "fuzz.h"

#include <string.h>
#include "agent/log/record.h"
#include "tests/log/simdisk.h"

#define SEGMENTS 4

static void reseal(uint8_t *data, size_t size) {
        uint32_t chain = 0;
        bool first = true;
        for (size_t at = 0; at + RECORD_FRAME <= size;) {
                size_t claim = record_claim(data + at);
                if (claim == 0 || at + claim > size)
                        return;
                Record record = record_view(data + at);
                bool anchor = record.type == RECORD_SEGMENT || record.type == RECORD_HEADER;
                if (anchor && record.payload.size >= 12) {
                        if (first)
                                chain = bytes_get_u32(data + at + RECORD_FRAME + 8);
                        else
                                bytes_put_u32(data + at + RECORD_FRAME + 8, chain);
                }
                first = false;
                chain = crc32c(chain, data + at + 4, claim - 4);
                bytes_put_u32(data + at, chain);
                at += claim;
        }
}

static void put_file(Disk *disk, unsigned number, const uint8_t *data, size_t size) {
        char name[40];
        DiskFile *file;
        snprintf(name, sizeof(name), "log-%016x.seg", number);
        must(disk->ops->open(disk, name, true, &file) == 0);
        must(disk->ops->write(file, data, size, 0) == 0 && disk->ops->sync(file) == 0);
        disk->ops->close(file);
        must(disk->ops->sync_directory(disk) == 0);
}

static int open_log(Log **ret, SimDisk *sim) {
        static const uint8_t nonce[16] = {1};
        LogOptions options = {.disk = simdisk_disk(sim), .segment_bytes = 65536};
        return log_open(ret, &options, nonce);
}

static int each(Entry *entry, void *userdata) {
        uint64_t *next = userdata;
        must(entry->index == *next && entry->size <= LIMIT_ENTRY_BYTES);
        fuzz_touch(entry->data, entry->size);
        ++*next;
        return 0;
}

static void look(Log *log) {
        const LogState *state = log_state(log);
        must(state->base_index <= state->commit && state->commit <= state->last_index);
        must(state->last_term >= state->base_term && memchr(state->tree_name, 0, sizeof(state->tree_name)));
        uint64_t next = state->base_index + 1;
        int r = log_replay(log, next, each, &next);
        must(r == -EBADMSG || next == state->last_index + 1);
}

/* One more entry, a vote and a clean end; then all of it is there. */
static void go_on(SimDisk *sim, Log *log) {
        const LogState before = *log_state(log);
        if (before.last_index > UINT64_MAX - 2 || before.term > UINT64_MAX - 2) {
                log_abandon(log);
                return;
        }
        uint64_t term = before.term > before.last_term ? before.term : before.last_term;
        Entry *entry = entry_new(ENTRY_NOOP, before.last_index + 1, term ?: 1, NULL, 0);
        must(entry);
        LogBatch batch = {.seq = 1,
                          .entries = &entry,
                          .n_entries = 1,
                          .hard_state = true,
                          .term = term ?: 1,
                          .vote = 3};
        must(log_submit(log, &batch) == 0);
        int r;
        while ((r = log_step(log)) > 0)
                ;
        must(r == 0 && log_completed(log, NULL, NULL) == 0);
        must(log_state(log)->last_index == entry->index);
        entry_unref(entry);
        log_close(log);
        must(open_log(&log, sim) >= 0);
        must(log_state(log)->last_index == before.last_index + 1 && log_state(log)->vote == 3);
        look(log);
        log_abandon(log);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FuzzReader in = {data, size};
        SimDisk *sim = simdisk_new(1);
        Log *log = NULL;
        uint8_t flags = fuzz_u8(&in);
        for (unsigned i = 1; i <= SEGMENTS && in.size > 2; i++) {
                size_t n = fuzz_u16(&in);
                n = n < in.size ? n : in.size;
                uint8_t *copy = malloc(n + 1);
                must(copy);
                memcpy(copy, in.data, n);
                if (flags & 1)
                        reseal(copy, n);
                put_file(simdisk_disk(sim), i, copy, n);
                free(copy);
                in = (FuzzReader){in.data + n, in.size - n};
        }
        int r = open_log(&log, sim);
        must(r <= 0 || r == LOG_ROTTEN || r == LOG_NEWER);
        if (log) {
                must(r >= 0);
                look(log);
                if (r == 0)
                        go_on(sim, log);
                else
                        log_abandon(log);
        }
        simdisk_kill(sim);
        simdisk_free(sim);
        return 0;
}

/* ---- Seeds: a log that was really written ---- */

static void settle(Log *log) {
        while (log_step(log) > 0)
                ;
        must(log_completed(log, NULL, NULL) == 0);
}

static void put_entries(Log *log, uint64_t seq, uint64_t from, uint64_t to, uint64_t term, uint64_t cut) {
        Entry *entries[8];
        size_t n = 0;
        for (uint64_t i = from; i <= to; i++) {
                uint8_t bytes[CONF_BYTES_MAX];
                Conf conf = {.n_voters = 3, .voters = {{.id = 1}, {.id = 2}, {.id = 3, .since = i}}};
                bool is_conf = i % 4 == 3;
                memset(bytes, (int)i, sizeof(bytes));
                entries[n++] =
                        entry_new(is_conf ? ENTRY_CONF : ENTRY_COMMAND, i, term, bytes,
                                  is_conf ? (uint32_t)conf_encode(&conf, bytes) : (uint32_t)(i * 3 % 40));
        }
        LogBatch batch = {.seq = seq,
                          .truncate_from = cut,
                          .entries = entries,
                          .n_entries = n,
                          .hard_state = true,
                          .term = term,
                          .vote = 2,
                          .commit = from - 1};
        must(log_submit(log, &batch) == 0);
        while (n > 0)
                entry_unref(entries[--n]);
        settle(log);
}

static void write_down(SimDisk *sim, const char *name, uint8_t flags, FuzzSeed seed) {
        Buffer out = {};
        must(buffer_append(&out, &flags, 1) == 0);
        Disk *disk = simdisk_disk(sim);
        for (unsigned i = 1; i <= SEGMENTS; i++) {
                char file_name[40];
                DiskFile *file;
                static uint8_t bytes[UINT16_MAX];
                snprintf(file_name, sizeof(file_name), "log-%016x.seg", i);
                if (disk->ops->open(disk, file_name, false, &file) < 0)
                        break;
                int64_t n = disk->ops->read(file, bytes, sizeof(bytes), 0);
                disk->ops->close(file);
                while (n > 0 && bytes[n - 1] == 0)
                        n--;
                n = (n + 7) / 8 * 8;
                uint8_t head[2] = {(uint8_t)n, (uint8_t)(n >> 8)};
                must(buffer_append(&out, head, 2) == 0 && buffer_append(&out, bytes, (size_t)n) == 0);
        }
        seed(name, out.data, out.size);
        buffer_deinit(&out);
}

void fuzz_seeds(FuzzSeed seed) {
        SimDisk *sim = simdisk_new(1);
        Log *log;
        must(open_log(&log, sim) == 0);
        must(log_submit_tree(log, 1, "tree-0000000000000000-00000001.db") == 0);
        put_entries(log, 2, 1, 6, 1, 0);
        write_down(sim, "entries", 1, seed);
        put_entries(log, 3, 5, 8, 2, 5);
        must(log_submit_damage(log, 4, true) == 0);
        settle(log);
        write_down(sim, "truncated", 1, seed);
        Conf conf = {.n_voters = 1, .voters = {{.id = 1}}};
        must(log_submit_base(log, 5, 7, 2, &conf, 3, 2, 2) == 0);
        settle(log);
        log_close(log);
        write_down(sim, "base", 1, seed);
        must(open_log(&log, sim) == 0);
        put_entries(log, 1, 9, 10, 3, 0);
        log_abandon(log);
        write_down(sim, "reopened", 0, seed);
        simdisk_kill(sim);
        simdisk_free(sim);
}
