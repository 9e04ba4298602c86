/* The leader's side of offers. It takes none that does not follow the last it took on that stream: so what
 * it takes from one host is in the log in the order of serials, without a hole in which a request could be
 * lost for ever. A newer stream ends the older; all end with the term. */
#include "hall.h"
#include "base/seen.h"

#include <string.h>

void offers_reset(Agent *agent) {
        OfferStream *stream, *next;
        HASH_ITER (hh, agent->offers.streams, stream, next) {
                HASH_DEL(agent->offers.streams, stream);
                free(stream);
        }
        agent->offers.term = 0;
}

uint64_t hall_cluster_usec(const Agent *agent) {
        return agent->cluster_origin_usec + (agent->now_usec - agent->leader_since_usec);
}

int hall_propose(Agent *agent, Bytes command) {
        if (command.size > LIMIT_COMMAND_BYTES)
                return RAFT_INVALID;

        _cleanup_(entry_unrefp) Entry *entry =
                entry_new(ENTRY_COMMAND, 0, 0, NULL, (uint32_t)(ENTRY_STAMP_BYTES + command.size));
        if (!entry)
                return -ENOMEM;
        EntryStamp stamp = {
                .min_version = 1 + agent->options.newer, /* what this build writes the first version knows */
                .cluster_usec = hall_cluster_usec(agent),
                .wall_usec = agent->outside.wall(agent->outside.userdata),
        };
        entry_stamp_write(entry->data, &stamp);
        memcpy(entry->data + ENTRY_STAMP_BYTES, command.data, command.size);
        int r = raft_propose(agent->raft, entry, agent->now_usec);
        if (r == 0)
                agent->again = true;
        return r;
}

int hall_propose_own(Agent *agent, const Command *command) {
        _cleanup_(buffer_deinit) Buffer bytes = {};
        int r = wire_command_encode(command, &bytes);
        if (r < 0)
                return r;
        return hall_propose(agent, BYTES(bytes.data, bytes.size));
}

static void refuse(Agent *agent, uint64_t host, const LetterOffer *offer, OfferRefusal reason) {
        Letter letter = {
                .kind = LETTER_OFFER_REFUSED,
                .refused =
                        {
                                .term = offer->term,
                                .stream = offer->stream,
                                .serial = offer->serial,
                                .reason = reason,
                                .leader = hall_leader(agent),
                        },
        };
        if (host == agent->host.id)
                requests_refused(agent, host, &letter.refused);
        else
                (void)hall_send(agent, host, &letter);
}

/* What a host may offer: its own requests, of the kinds that are requests. 0, -EBADMSG; -ENOMEM says nothing
 * about the offer. */
static int offer_check(uint64_t host, const LetterOffer *offer) {
        WireCommand decoded;
        int r = wire_command_decode(offer->command, &decoded);
        if (r < 0)
                return r;
        const Command *command = &decoded.command;
        bool valid = command->host == host;
        switch (command->kind) {
        case COMMAND_ANNOUNCE:
                valid = valid && offer->serial == 0;
                break;
        case COMMAND_EMPTY:
        case COMMAND_SET:
        case COMMAND_CREATE:
        case COMMAND_DELETE:
        case COMMAND_ATTACH:
        case COMMAND_ADD_TOKEN:
        case COMMAND_REMOVE_TOKEN:
        case COMMAND_ADD_MEMBER:
        case COMMAND_REMOVE_MEMBER:
        case COMMAND_UPDATE_MEMBER:
                valid = valid && command->incarnation != 0 && offer->serial != 0 &&
                        command->serial == offer->serial;
                break;
        case COMMAND_END_SESSION:
        case COMMAND_PRUNE:
        case COMMAND_CHECK:
                valid = false;
                break;
        }
        wire_command_done(&decoded);
        return valid ? 0 : -EBADMSG;
}

static OfferStream *stream_of(Agent *agent, uint64_t host) {
        Offers *offers = &agent->offers;
        OfferStream *stream = NULL;

        if (offers->term != agent->raft_status.term) {
                offers_reset(agent);
                offers->term = agent->raft_status.term;
        }
        HASH_FIND(hh, offers->streams, &host, sizeof(host), stream);
        if (stream)
                return stream;
        stream = calloc(1, sizeof(OfferStream));
        if (!stream)
                return NULL;
        stream->host = host;
        HASH_ADD(hh, offers->streams, host, sizeof(stream->host), stream);
        if (!HASH_ADDED(stream)) {
                free(stream);
                return NULL;
        }
        return stream;
}

void offers_take(Agent *agent, uint64_t host, uint64_t connection, const LetterOffer *offer) {
        if (!hall_is_leader(agent) || offer->term != agent->raft_status.term) {
                SIM_SEEN("offer: to one who does not lead");
                return refuse(agent, host, offer, OFFER_NOT_LEADER);
        }

        OfferStream *stream = stream_of(agent, host);
        if (!stream)
                return refuse(agent, host, offer, OFFER_BUSY);
        if (offer->serial != 0) {
                if (connection == stream->connection && offer->stream < stream->stream) {
                        SIM_SEEN("offer: of an older stream");
                        return; /* from before a newer stream: nobody waits for the answer */
                }
                if (connection != stream->connection || offer->stream != stream->stream) {
                        stream->connection = connection;
                        stream->stream = offer->stream;
                        stream->last = 0;
                }
                if (offer->previous != stream->last || offer->serial <= stream->last) {
                        SIM_SEEN("offer: behind a hole");
                        return refuse(agent, host, offer, OFFER_HOLE);
                }
        }
        int r = offer_check(host, offer);
        if (r < 0)
                return refuse(agent, host, offer, r == -ENOMEM ? OFFER_BUSY : OFFER_INVALID);

        r = agent->log_full ? RAFT_BUSY : hall_propose(agent, offer->command);
        if (r < 0)
                hall_fail(agent, r, "An entry cannot be appended");
        else if (r == RAFT_NOT_LEADER)
                refuse(agent, host, offer, OFFER_NOT_LEADER);
        else if (r > 0) {
                SIM_SEEN("offer: refused as busy");
                refuse(agent, host, offer, OFFER_BUSY);
        } else if (offer->serial != 0)
                stream->last = offer->serial;
}
