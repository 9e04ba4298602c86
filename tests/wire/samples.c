/* Valid bytes of every kind: the seeds of truncation, mutation and fuzzing. */
#include "poke.h"

#include <stdio.h>
#include <string.h>
#include "agent/base/conf.h"

typedef struct Samples {
        Sample *items;
        size_t n;
} Samples;

static Buffer *add(Samples *samples, Poke poke, const char *name) {
        samples->items = realloc(samples->items, (samples->n + 1) * sizeof(Sample));
        assert(samples->items);
        Sample *sample = samples->items + samples->n++;
        *sample = (Sample){.poke = poke};
        snprintf(sample->name, sizeof(sample->name), "%s", name);
        return &sample->bytes;
}

static void add_command(Samples *samples, Command command) {
        char name[48];
        snprintf(name, sizeof(name), "command-%s-%zu", command_kind_name(command.kind), samples->n);
        command.host = command.host ?: UINT64_MAX;
        int r = wire_command_encode(&command, add(samples, poke_command, name));
        assert(r == 0);
}

static void add_letter(Samples *samples, const Letter *letter) {
        char name[48];
        snprintf(name, sizeof(name), "letter-%d-%zu", (int)letter->kind, samples->n);
        int r = wire_letter_encode(letter, add(samples, poke_letter, name));
        assert(r == 0);
}

static Member member_make(uint32_t n_addresses, uint32_t n_keys) {
        Member member = {
                .id = UINT64_C(0x8000000000000001),
                .class = MEMBER_LEAF,
                .n_addresses = n_addresses,
                .n_keys = n_keys,
                .version = 1,
        };
        memset(member.name, 'h', LIMIT_NAME_BYTES);
        for (uint32_t i = 0; i < n_addresses; i++)
                snprintf(member.addresses[i], sizeof(member.addresses[i]), "[2001:db8::%u]:7707", i);
        for (uint32_t i = 0; i < n_keys; i++)
                memset(member.keys[i], (int)(0xa0 + i), KEY_HASH_BYTES);
        return member;
}

static void commands_make(Samples *samples) {
        static uint8_t value[LIMIT_VALUE_BYTES];
        static char path[LIMIT_PATH_BYTES + 1], tag[OWNER_TAG_BYTES + 1];
        uint8_t blob[64] = {1, 2, 3};
        Member member = member_make(LIMIT_ADDRESSES, LIMIT_KEYS), small = member_make(0, 1);
        Token token = {.class = MEMBER_FULL, .uses_left = UINT32_MAX, .expires_cluster_usec = UINT64_MAX};

        memset(path, 'p', LIMIT_PATH_BYTES);
        path[0] = '/';
        memset(tag, 't', OWNER_TAG_BYTES);
        member.addresses[1][0] = 'x';
        memset(member.addresses[0], 'a', LIMIT_ADDRESS_BYTES);

        add_command(samples, (Command){.kind = COMMAND_EMPTY, .incarnation = 1, .serial = 1});
        add_command(samples, (Command){.kind = COMMAND_EMPTY,
                                       .incarnation = UINT64_MAX,
                                       .serial = UINT64_MAX,
                                       .lowest_unresolved = UINT64_MAX});
        add_command(samples, (Command){.kind = COMMAND_ANNOUNCE,
                                       .nonce = BYTES(blob, 16),
                                       .start = 1,
                                       .start_nonce = BYTES(blob, 16)});
        add_command(samples, (Command){.kind = COMMAND_SET, .path = "/a"});
        add_command(samples,
                    (Command){.kind = COMMAND_SET,
                              .flags = COMMAND_EPHEMERAL | COMMAND_IF_OWNED | COMMAND_IF_MOD_REVISION,
                              .path = path,
                              .value = BYTES(blob, 64),
                              .generation = UINT64_MAX,
                              .revision = UINT64_MAX,
                              .owner_tag = tag});
        add_command(samples,
                    (Command){.kind = COMMAND_SET, .path = path, .value = BYTES(value, sizeof(value))});
        add_command(samples, (Command){.kind = COMMAND_CREATE,
                                       .flags = COMMAND_EPHEMERAL,
                                       .path = "/services/web/\xc3\xa4",
                                       .generation = 1,
                                       .owner_tag = ""});
        add_command(samples, (Command){.kind = COMMAND_DELETE, .path = "/a/b"});
        add_command(samples, (Command){.kind = COMMAND_DELETE, .path = "/", .flags = COMMAND_SUBTREE});
        add_command(samples, (Command){.kind = COMMAND_ATTACH, .lasts_usec = USEC_PER_SEC});
        add_command(samples,
                    (Command){.kind = COMMAND_ATTACH, .generation = 1, .lasts_usec = LIMIT_SESSION_USEC});
        add_command(samples, (Command){.kind = COMMAND_END_SESSION, .subject = 1, .generation = 1});
        add_command(samples, (Command){.kind = COMMAND_ADD_TOKEN, .token = &token});
        add_command(samples, (Command){.kind = COMMAND_REMOVE_TOKEN, .token = &token});
        add_command(samples, (Command){.kind = COMMAND_ADD_MEMBER, .member = &small});
        add_command(samples, (Command){.kind = COMMAND_ADD_MEMBER,
                                       .member = &member,
                                       .token = &token,
                                       .signature = BYTES(blob, SIGNATURE_BYTES)});
        add_command(samples, (Command){.kind = COMMAND_REMOVE_MEMBER, .subject = UINT64_MAX});
        add_command(samples, (Command){.kind = COMMAND_UPDATE_MEMBER, .member = &member});
        add_command(samples, (Command){.kind = COMMAND_PRUNE, .revision = 1});
        add_command(samples, (Command){.kind = COMMAND_CHECK});
}

static void letters_make(Samples *samples) {
        uint8_t command[300] = {8, 1};
        LetterHello hello = {.host = 1, .restore_epoch = UINT64_MAX, .start = 7, .version = UINT32_MAX};
        memset(hello.cluster, 0xcc, sizeof(hello.cluster));

        add_letter(samples, &(Letter){.kind = LETTER_HELLO, .hello = hello});
        hello.known_start = UINT64_MAX;
        memset(hello.known_nonce, 0xdd, sizeof(hello.known_nonce));
        hello.known_twice = true;
        add_letter(samples, &(Letter){.kind = LETTER_HELLO, .hello = hello});
        add_letter(samples, &(Letter){.kind = LETTER_OFFER,
                                      .offer = {.term = 1,
                                                .stream = UINT64_MAX,
                                                .serial = 1,
                                                .command = BYTES(command, sizeof(command))}});
        for (int reason = OFFER_NOT_LEADER; reason <= OFFER_INVALID; reason++)
                add_letter(samples, &(Letter){.kind = LETTER_OFFER_REFUSED,
                                              .refused = {.reason = (OfferRefusal)reason, .leader = 9}});
        add_letter(samples, &(Letter){.kind = LETTER_READ, .read = {.incarnation = 1, .id = UINT64_MAX}});
        add_letter(samples, &(Letter){.kind = LETTER_READ_REPLY, .read = {.refused = true, .index = 5}});
        add_letter(samples, &(Letter){.kind = LETTER_KEEPALIVE,
                                      .keepalive = {.host = 1, .generation = 2, .sent = 3}});
        add_letter(samples,
                   &(Letter){.kind = LETTER_KEEPALIVE_ACK,
                             .keepalive = {.host = 1, .generation = 2, .sent = 3, .lasts_usec = 5000000}});
        add_letter(samples, &(Letter){.kind = LETTER_REPORT, .report = {.index = 7, .digest = {1, 2, 3}}});
        add_letter(samples, &(Letter){.kind = LETTER_PROMOTE, .promote = {.term = 1}});
        add_letter(samples, &(Letter){.kind = LETTER_PROMOTED, .promote = {.term = 1, .index = UINT64_MAX}});
        add_letter(samples, &(Letter){.kind = LETTER_FETCH, .promote = {.term = 1, .index = 12}});
        add_letter(samples,
                   &(Letter){.kind = LETTER_HEAL, .heal = {.term = 1, .index = 12, .start = 1ull << 32}});
        add_letter(samples, &(Letter){.kind = LETTER_STATUS, .status = {.applied = 2, .damaged = true}});
        add_letter(samples, &(Letter){.kind = LETTER_STATUS,
                                      .status = {.applied = 2, .durable = 1, .stranded = true}});
        for (int type = RAFT_PREVOTE; type <= RAFT_TIMEOUT_NOW; type++)
                add_letter(samples, &(Letter){.kind = LETTER_RAFT,
                                              .raft = {.type = (RaftMessageType)type,
                                                       .from = 1,
                                                       .to = UINT64_MAX,
                                                       .term = type,
                                                       .log_index = UINT64_MAX,
                                                       .hint_term = 3,
                                                       .refused = type & 1,
                                                       .force = type & 2}});
}

static Entry *conf_entry(uint64_t index) {
        Conf conf = {.n_voters = 1, .n_old = LIMIT_VOTERS, .voters = {{.id = 1, .since = 2}}};
        uint8_t bytes[CONF_BYTES_MAX];
        for (uint32_t i = 0; i < LIMIT_VOTERS; i++)
                conf.old[i].id = i + 1;
        return entry_new(ENTRY_CONF, index, 2, bytes, (uint32_t)conf_encode(&conf, bytes));
}

static void add_append(Samples *samples, Entry **entries, uint32_t n) {
        add_letter(samples, &(Letter){.kind = LETTER_RAFT,
                                      .raft = {.type = RAFT_APPEND,
                                               .from = 1,
                                               .to = 2,
                                               .term = 3,
                                               .log_index = entries[0]->index - 1,
                                               .log_term = 1,
                                               .n_entries = n,
                                               .entries = entries}});
        char name[48];
        snprintf(name, sizeof(name), "batch-%u-%zu", n, samples->n);
        FollowBatch batch = {
                .leader = 1, .term = 3, .beat = 4, .commit = 99, .n_entries = n, .entries = entries};
        int r = wire_follow_batch_encode(&batch, add(samples, poke_follow_batch, name));
        assert(r == 0);
}

static void entries_make(Samples *samples) {
        Entry *few[] = {entry_new(ENTRY_NOOP, 10, 1, NULL, 0), conf_entry(11),
                        entry_new(ENTRY_COMMAND, 12, 3, "\1\0\0\0stamp stamp stamp stamp", 28)};
        Entry *large[] = {entry_new(ENTRY_COMMAND, UINT64_MAX - 1, 3, NULL, LIMIT_ENTRY_BYTES)};
        Entry *many[LIMIT_APPEND_ENTRIES];

        memset(large[0]->data, 0x5a, large[0]->size);
        for (uint32_t i = 0; i < ELEMENTSOF(many); i++)
                many[i] = entry_new(ENTRY_NOOP, 1 + i, 1, NULL, 0);
        add_append(samples, few, ELEMENTSOF(few));
        add_append(samples, large, 1);
        add_append(samples, many, ELEMENTSOF(many));
        for (uint32_t i = 0; i < ELEMENTSOF(few); i++)
                entry_unref(few[i]);
        entry_unref(large[0]);
        for (uint32_t i = 0; i < ELEMENTSOF(many); i++)
                entry_unref(many[i]);
}

static void calls_make(Samples *samples) {
        Member members[JOIN_MEMBERS];
        for (uint32_t i = 0; i < JOIN_MEMBERS; i++)
                members[i] = member_make(i % (LIMIT_ADDRESSES + 1), 1 + i % LIMIT_KEYS);
        JoinRequest request = {.member = member_make(2, 1)};
        request.member.class = 0;
        JoinReply reply = {.host = 3, .n_members = JOIN_MEMBERS, .members = members};
        memset(reply.message, 'm', sizeof(reply.message) - 1);

        int r = wire_join_request_encode(&request, add(samples, poke_join_request, "join-request"));
        assert(r == 0);
        r = wire_join_reply_encode(&reply, add(samples, poke_join_reply, "join-reply"));
        assert(r == 0);
        r = wire_follow_request_encode(&(FollowRequest){.from = UINT64_MAX, .applied_term = 1},
                                       add(samples, poke_follow_request, "follow-request"));
        assert(r == 0);
        r = wire_follow_batch_encode(&(FollowBatch){.leader = 1, .term = 1, .need_snapshot = true},
                                     add(samples, poke_follow_batch, "batch-none"));
        assert(r == 0);
        r = wire_snapshot_head_encode(&(SnapshotHead){.index = 1, .term = 1},
                                      add(samples, poke_snapshot_head, "snapshot-head"));
        assert(r == 0);
        r = wire_admin_request_encode(&(AdminRequest){.action = ADMIN_REMOVE, .host = 5},
                                      add(samples, poke_admin_request, "admin-request"));
        assert(r == 0);
        r = wire_admin_request_encode(&(AdminRequest){.action = ADMIN_APPLIED},
                                      add(samples, poke_admin_request, "admin-applied"));
        assert(r == 0);
        r = wire_admin_reply_encode(&(AdminReply){.leader = true, .applied = BYTES("16 bytes, no more", 16)},
                                    add(samples, poke_admin_reply, "admin-applied-reply"));
        assert(r == 0);
        r = wire_admin_reply_encode(&(AdminReply){.leader = true, .status = RESULT_LAST_VOTER, .answer = 3},
                                    add(samples, poke_admin_reply, "admin-reply"));
        assert(r == 0);
}

size_t samples_make(Sample **ret) {
        Samples samples = {};
        commands_make(&samples);
        letters_make(&samples);
        entries_make(&samples);
        calls_make(&samples);
        *ret = samples.items;
        return samples.n;
}

void samples_free(Sample *samples, size_t n) {
        for (size_t i = 0; i < n; i++)
                buffer_deinit(&samples[i].bytes);
        free(samples);
}
