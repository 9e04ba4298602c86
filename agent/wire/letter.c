/* Letters: the body's field number is the letter's kind, so that a kind nobody knows is no body at all and
 * is refused. */
#include "wire.h"

#include "message.h"
#include "raft.h"

/* A decoded letter holds entries beside its arena; without either it holds nothing. */
typedef struct LetterMemory {
        Arena *arena; /* in which this lies, too; NULL: there is none */
        Entry **entries;
        uint32_t n_entries;
} LetterMemory;

static void hello_message_init(Treaty__V1__Hello *to, const LetterHello *hello) {
        treaty__v1__hello__init(to);
        PB_SET_BYTES(to, cluster, hello->cluster, sizeof(hello->cluster));
        PB_SET(to, restore_epoch, hello->restore_epoch);
        PB_SET(to, host, hello->host);
        PB_SET(to, start, hello->start);
        PB_SET_BYTES(to, start_nonce, hello->start_nonce, sizeof(hello->start_nonce));
        PB_SET(to, version, hello->version);
        PB_SET(to, known_start, hello->known_start);
        if (hello->known_start > 0)
                PB_SET_BYTES(to, known_nonce, hello->known_nonce, sizeof(hello->known_nonce));
        PB_SET(to, known_twice, hello->known_twice);
        PB_SET(to, log_term, hello->log_term);
        PB_SET(to, log_index, hello->log_index);
        PB_SET(to, keeps_log, hello->keeps_log);
        PB_SET(to, damaged, hello->damaged);
        PB_SET(to, lost_start, hello->lost_start);
}

static void offer_message_init(Treaty__V1__Offer *to, const LetterOffer *offer) {
        treaty__v1__offer__init(to);
        PB_SET(to, term, offer->term);
        PB_SET(to, stream, offer->stream);
        PB_SET(to, previous, offer->previous);
        PB_SET(to, serial, offer->serial);
        PB_SET(to, lowest_unresolved, offer->lowest_unresolved);
        PB_SET_BYTES(to, command, offer->command.data, offer->command.size);
}

static void refused_message_init(Treaty__V1__OfferRefused *to, const LetterOfferRefused *refused) {
        treaty__v1__offer_refused__init(to);
        PB_SET(to, term, refused->term);
        PB_SET(to, stream, refused->stream);
        PB_SET(to, serial, refused->serial);
        PB_SET(to, reason, refused->reason);
        PB_SET(to, leader, refused->leader);
}

static void read_message_init(Treaty__V1__Read *to, const LetterRead *read) {
        treaty__v1__read__init(to);
        PB_SET(to, incarnation, read->incarnation);
        PB_SET(to, id, read->id);
        PB_SET(to, refused, read->refused);
        PB_SET(to, index, read->index);
}

int wire_letter_encode(const Letter *letter, Buffer *to) {
        Treaty__V1__Letter message = TREATY__V1__LETTER__INIT;
        union {
                Treaty__V1__Hello hello;
                Treaty__V1__Offer offer;
                Treaty__V1__OfferRefused refused;
                Treaty__V1__Read read;
                Treaty__V1__Keepalive keepalive;
                Treaty__V1__Promote promote;
                Treaty__V1__Status status;
                Treaty__V1__Report report;
                Treaty__V1__Heal heal;
        } body;

        message.body_case = (Treaty__V1__Letter__BodyCase)letter->kind;
        switch (letter->kind) {
        case LETTER_RAFT:
                return raft_letter_encode(&letter->raft, to);
        case LETTER_HELLO:
                hello_message_init(&body.hello, &letter->hello);
                message.hello = &body.hello;
                break;
        case LETTER_OFFER:
                offer_message_init(&body.offer, &letter->offer);
                message.offer = &body.offer;
                break;
        case LETTER_OFFER_REFUSED:
                refused_message_init(&body.refused, &letter->refused);
                message.offer_refused = &body.refused;
                break;
        case LETTER_READ:
        case LETTER_READ_REPLY:
                read_message_init(&body.read, &letter->read);
                message.read = &body.read;
                break;
        case LETTER_KEEPALIVE:
        case LETTER_KEEPALIVE_ACK:
                treaty__v1__keepalive__init(&body.keepalive);
                PB_SET(&body.keepalive, host, letter->keepalive.host);
                PB_SET(&body.keepalive, generation, letter->keepalive.generation);
                PB_SET(&body.keepalive, sent, letter->keepalive.sent);
                PB_SET(&body.keepalive, lasts_usec, letter->keepalive.lasts_usec);
                message.keepalive = &body.keepalive;
                break;
        case LETTER_PROMOTE:
        case LETTER_PROMOTED:
        case LETTER_FETCH:
                treaty__v1__promote__init(&body.promote);
                PB_SET(&body.promote, term, letter->promote.term);
                PB_SET(&body.promote, index, letter->promote.index);
                message.promote = &body.promote;
                break;
        case LETTER_STATUS:
                treaty__v1__status__init(&body.status);
                PB_SET(&body.status, applied, letter->status.applied);
                PB_SET(&body.status, durable, letter->status.durable);
                PB_SET(&body.status, damaged, letter->status.damaged);
                PB_SET(&body.status, stranded, letter->status.stranded);
                message.status = &body.status;
                break;
        case LETTER_REPORT:
                treaty__v1__report__init(&body.report);
                PB_SET(&body.report, index, letter->report.index);
                PB_SET_BYTES(&body.report, digest, letter->report.digest, sizeof(letter->report.digest));
                message.report = &body.report;
                break;
        case LETTER_HEAL:
                treaty__v1__heal__init(&body.heal);
                PB_SET(&body.heal, term, letter->heal.term);
                PB_SET(&body.heal, index, letter->heal.index);
                PB_SET(&body.heal, start, letter->heal.start);
                message.heal = &body.heal;
                break;
        }
        assert(message.hello);
        return message_pack(&message.base, LIMIT_LETTER_BYTES, to);
}

static int hello_message_read(const Treaty__V1__Hello *message, LetterHello *ret) {
        *ret = (LetterHello){
                .restore_epoch = message->restore_epoch,
                .host = message->host,
                .start = message->start,
                .version = message->version,
                .known_start = message->known_start,
                .known_twice = message->known_twice,
                .log_term = message->log_term,
                .log_index = message->log_index,
                .keeps_log = message->keeps_log,
                .damaged = message->damaged,
                .lost_start = message->lost_start,
        };
        bool sound =
                message->host > 0 &&
                (message->known_start == 0 ||
                 message_take_fixed(&message->known_nonce, ret->known_nonce, sizeof(ret->known_nonce))) &&
                message_take_fixed(&message->cluster, ret->cluster, sizeof(ret->cluster)) &&
                message_take_fixed(&message->start_nonce, ret->start_nonce, sizeof(ret->start_nonce));
        return sound ? 0 : -EBADMSG;
}

static int offer_message_read(const Treaty__V1__Offer *message, LetterOffer *ret) {
        *ret = (LetterOffer){
                .term = message->term,
                .stream = message->stream,
                .previous = message->previous,
                .serial = message->serial,
                .lowest_unresolved = message->lowest_unresolved,
                .command = message_bytes(&message->command),
        };
        /* An announcement has no serial yet, and so nothing before it. */
        bool ordered = ret->serial == 0
                               ? ret->previous == 0
                               : ret->serial > ret->previous && ret->lowest_unresolved <= ret->serial;
        bool sound = ordered && ret->command.size > 0 && ret->command.size <= LIMIT_COMMAND_BYTES;
        return sound ? 0 : -EBADMSG;
}

static int refused_message_read(const Treaty__V1__OfferRefused *message, LetterOfferRefused *ret) {
        if (message->reason < OFFER_NOT_LEADER || message->reason > OFFER_INVALID)
                return -EBADMSG;
        *ret = (LetterOfferRefused){
                .term = message->term,
                .stream = message->stream,
                .serial = message->serial,
                .reason = (OfferRefusal)message->reason,
                .leader = message->leader,
        };
        return 0;
}

static int keepalive_message_read(const Treaty__V1__Keepalive *message, LetterKeepalive *ret) {
        *ret = (LetterKeepalive){
                .host = message->host,
                .generation = message->generation,
                .sent = message->sent,
                .lasts_usec = message->lasts_usec,
        };
        return message->host > 0 ? 0 : -EBADMSG;
}

static int report_message_read(const Treaty__V1__Report *message, LetterReport *ret) {
        *ret = (LetterReport){.index = message->index};
        bool sound =
                message->index > 0 && message_take_fixed(&message->digest, ret->digest, sizeof(ret->digest));
        return sound ? 0 : -EBADMSG;
}

static int letter_message_read(const Treaty__V1__Letter *message, LetterMemory *memory, Letter *ret) {
        *ret = (Letter){.kind = (LetterKind)message->body_case};

        switch (message->body_case) {
        case TREATY__V1__LETTER__BODY_HELLO:
                return hello_message_read(message->hello, &ret->hello);
        case TREATY__V1__LETTER__BODY_RAFT:
                return raft_message_read(message->raft, &ret->raft, &memory->entries);
        case TREATY__V1__LETTER__BODY_OFFER:
                return offer_message_read(message->offer, &ret->offer);
        case TREATY__V1__LETTER__BODY_OFFER_REFUSED:
                return refused_message_read(message->offer_refused, &ret->refused);
        case TREATY__V1__LETTER__BODY_READ:
        case TREATY__V1__LETTER__BODY_READ_REPLY:
                ret->read = (LetterRead){
                        .incarnation = message->read->incarnation,
                        .id = message->read->id,
                        .refused = message->read->refused,
                        .index = message->read->index,
                };
                return 0;
        case TREATY__V1__LETTER__BODY_KEEPALIVE:
        case TREATY__V1__LETTER__BODY_KEEPALIVE_ACK:
                return keepalive_message_read(message->keepalive, &ret->keepalive);
        case TREATY__V1__LETTER__BODY_PROMOTE:
        case TREATY__V1__LETTER__BODY_PROMOTED:
        case TREATY__V1__LETTER__BODY_FETCH:
                ret->promote = (LetterPromote){
                        .term = message->promote->term,
                        .index = message->promote->index,
                };
                return 0;
        case TREATY__V1__LETTER__BODY_STATUS:
                ret->status = (LetterStatus){
                        .applied = message->status->applied,
                        .durable = message->status->durable,
                        .damaged = message->status->damaged,
                        .stranded = message->status->stranded,
                };
                return 0;
        case TREATY__V1__LETTER__BODY_HEAL:
                ret->heal = (LetterHeal){
                        .term = message->heal->term,
                        .index = message->heal->index,
                        .start = message->heal->start,
                };
                return 0;
        case TREATY__V1__LETTER__BODY_REPORT:
                return report_message_read(message->report, &ret->report);
        case TREATY__V1__LETTER__BODY__NOT_SET:
        case _TREATY__V1__LETTER__BODY__CASE_IS_INT_SIZE:
                break;
        }
        return -EBADMSG;
}

static int letter_decode_raft(Bytes bytes, WireLetter *ret) {
        Entry **entries = NULL;
        ret->letter.kind = LETTER_RAFT;
        int r = raft_letter_decode(bytes, &ret->letter.raft, &entries);
        if (r != 0 || !entries)
                return r;
        LetterMemory *memory = malloc(sizeof(*memory));
        if (!memory) {
                entries_free(entries, ret->letter.raft.n_entries);
                return -ENOMEM;
        }
        *memory = (LetterMemory){.entries = entries, .n_entries = ret->letter.raft.n_entries};
        ret->arena = memory;
        return 0;
}

int wire_letter_decode(Bytes bytes, WireLetter *ret) {
        _cleanup_(arena_freep) Arena *arena = NULL;
        ProtobufCMessage *message;

        ret->arena = NULL;
        int r = letter_decode_raft(bytes, ret);
        if (r != RAFT_UNUSUAL)
                return r;
        r = message_unpack(&treaty__v1__letter__descriptor, bytes, LIMIT_LETTER_BYTES, &arena, &message);
        if (r < 0)
                return r;
        LetterMemory *memory = arena_alloc(arena, sizeof(*memory));
        if (!memory)
                return arena_error(arena);
        *memory = (LetterMemory){};
        r = letter_message_read((Treaty__V1__Letter *)message, memory, &ret->letter);
        if (r < 0)
                return r; /* whoever refuses made no entries, or freed them */
        if (memory->entries)
                memory->n_entries = ret->letter.raft.n_entries;
        memory->arena = TAKE(arena);
        ret->arena = memory;
        return 0;
}

void wire_letter_done(WireLetter *letter) {
        LetterMemory *memory = letter->arena;
        if (!memory)
                return;
        entries_free(memory->entries, memory->n_entries);
        if (memory->arena)
                arena_free(memory->arena); /* memory too */
        else
                free(memory);
        letter->arena = NULL;
}
