/* See quick.h. An answer of at most REPLY_BYTES becomes one buffer of the kernel, so that the socket takes
 * all of it or nothing, and sd-bus, which writes on the same socket, finds it between two messages. */
#include "quick.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/base/path.h"
#include "agent/journal.h"
#include "call.h"
#include "plain.h"

#define REPLY_BYTES    (16 * 1024)
#define CALLS_PER_LOOK 16 /* of one client; then others have theirs */

enum { TYPE_RETURN = 2, FLAG_NO_REPLY = 1 };
enum { FIELD_REPLY_SERIAL = 5, FIELD_SENDER = 7, FIELD_SIGNATURE = 8 };
enum { GET_LINEARIZABLE = 1 };

/* ---- taking ---- */

static bool is_allowed(Client *client, const Plain *plain) {
        return (plain->flags & ~(uint64_t)(plain->set ? 0 : GET_LINEARIZABLE)) == 0 &&
               path_check_entry(plain->path) == PATH_OK &&
               guard_check(&client->caller, plain->set ? GUARD_WRITE : GUARD_READ, plain->path) ==
                       GUARD_ALLOW;
}

static bool quick_take(Link *link, const Plain *plain) {
        if (!is_allowed(link->peer, plain))
                return false;
        Call *call = call_new_quick(link->peer, plain->serial, plain->path, plain->value.size);
        if (!call)
                return false;
        int r = plain->set ? tree_quick_set(call, plain->value)
                           : tree_quick_get(call, plain->flags & GET_LINEARIZABLE);
        if (r < 0)
                call_fail_errno(call, r);
        return true;
}

/* sd-bus has nothing to send: it is between two messages. */
static bool is_free(const Link *link) {
        return link->in_crowd && !link->doomed && (link->events & POLLOUT) == 0;
}

int quick_hear(Link *link) {
        uint8_t looked[PLAIN_BYTES];
        size_t used = 0;
        Plain plain;

        if (!is_free(link))
                return 0;
        ssize_t size = recv(link->fd, looked, sizeof(looked), MSG_PEEK | MSG_DONTWAIT);
        for (int i = 0; size > 0 && i < CALLS_PER_LOOK && !link->doomed; i++) {
                if (!plain_read(looked + used, (size_t)size - used, &plain) || !quick_take(link, &plain))
                        break;
                used += plain.size;
        }
        if (used == 0)
                return 0;
        if (recv(link->fd, looked, used, MSG_DONTWAIT) != (ssize_t)used)
                link_doom(link); /* what was answered would be heard again */
        return 1;
}

/* ---- answering ---- */

typedef struct Reply {
        uint8_t data[REPLY_BYTES];
        size_t size;
        size_t body; /* where it begins */
        bool full;
} Reply;

static void put(Reply *reply, const void *data, size_t size) {
        if (reply->full || size > sizeof(reply->data) - reply->size) {
                reply->full = true;
                return;
        }
        if (size > 0)
                memcpy(reply->data + reply->size, data, size);
        reply->size += size;
}

static void put_padding(Reply *reply, size_t n) {
        static const uint8_t zeros[8];
        put(reply, zeros, (n - reply->size % n) % n);
}

static void put_u32(Reply *reply, uint32_t number) {
        uint8_t bytes[4];
        bytes_put_u32(bytes, number);
        put_padding(reply, 4);
        put(reply, bytes, sizeof(bytes));
}

static void put_u64(Reply *reply, uint64_t number) {
        uint8_t bytes[8];
        bytes_put_u64(bytes, number);
        put_padding(reply, 8);
        put(reply, bytes, sizeof(bytes));
}

static void put_text(Reply *reply, const char *text) {
        size_t n = strlen(text);
        put_u32(reply, (uint32_t)n);
        put(reply, text, n + 1);
}

static void put_signature(Reply *reply, const char *signature) {
        uint8_t n = (uint8_t)strlen(signature);
        put(reply, &n, 1);
        put(reply, signature, (size_t)n + 1);
}

static void put_field(Reply *reply, uint8_t code, const char *signature) {
        put_padding(reply, 8);
        put(reply, &code, 1);
        put_signature(reply, signature);
}

/* The size of the body is filled in when it is known. */
static void put_head(Reply *reply, const Call *call, const char *signature) {
        Link *link = call->client->link;
        const uint8_t head[] = {'l', TYPE_RETURN, FLAG_NO_REPLY, 1, 0, 0, 0, 0};

        put(reply, head, sizeof(head));
        /* Nobody answers an answer, so its number means nothing; sd-bus counts its own from below. */
        put_u32(reply, 0x80000000u | ++link->n_quick);
        put_u32(reply, 0);
        size_t begin = reply->size;
        put_field(reply, FIELD_REPLY_SERIAL, "u");
        put_u32(reply, call->serial);
        put_field(reply, FIELD_SENDER, "s");
        put_text(reply, BUS_NAME);
        put_field(reply, FIELD_SIGNATURE, "g");
        put_signature(reply, signature);
        bytes_put_u32(reply->data + 12, (uint32_t)(reply->size - begin));
        put_padding(reply, 8);
        reply->body = reply->size;
}

static bool reply_send(Reply *reply, Call *call) {
        Link *link = call->client->link;

        if (reply->full || !is_free(link))
                return false;
        bytes_put_u32(reply->data + 4, (uint32_t)(reply->size - reply->body));
        ssize_t n = send(link->fd, reply->data, reply->size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0)
                return false; /* no room, or it is gone: sd-bus waits for the one and tells the other */
        if ((size_t)n != reply->size) {
                log_warning("A private client's socket took half of an answer; the connection is closed.");
                link_doom(link);
        }
        call_free(call);
        return true;
}

bool quick_return_revision(Call *call, uint64_t revision) {
        Reply reply;

        if (call->serial == 0)
                return false;
        reply.size = 0, reply.full = false;
        put_head(&reply, call, "t");
        put_u64(&reply, revision);
        return reply_send(&reply, call);
}

static void put_property(Reply *reply, const char *key, uint64_t number) {
        put_padding(reply, 8);
        put_text(reply, key);
        put_signature(reply, "t");
        put_u64(reply, number);
}

static void put_owner(Reply *reply, Agent *agent, uint64_t owner) {
        char name[LIMIT_NAME_BYTES + 1];

        tree_host_name(agent, owner, name, sizeof(name));
        put_padding(reply, 8);
        put_text(reply, "owner");
        put_signature(reply, "s");
        put_text(reply, name);
}

bool quick_return_entry(Call *call, const AgentEntry *entry) {
        Agent *agent = call_agent(call);
        Reply reply;

        if (call->serial == 0 || entry->value.size > REPLY_BYTES - 1024)
                return false;
        /* The entry is valid until the next call on the agent: all of it is taken before. */
        uint64_t create_revision = entry->create_revision, version = entry->version,
                 owner = entry->owner_host;
        reply.size = 0, reply.full = false;
        put_head(&reply, call, "ayta{sv}");
        put_u32(&reply, (uint32_t)entry->value.size);
        put(&reply, entry->value.data, entry->value.size);
        put_u64(&reply, entry->mod_revision);
        put_u32(&reply, 0);
        size_t at = reply.size - 4;
        put_padding(&reply, 8);
        size_t begin = reply.size;
        put_property(&reply, "create-revision", create_revision);
        put_property(&reply, "version", version);
        put_property(&reply, "revision", agent_revision(agent));
        put_property(&reply, "age-usec", agent_age_usec(agent));
        if (owner != 0)
                put_owner(&reply, agent, owner);
        bytes_put_u32(reply.data + at, (uint32_t)(reply.size - begin));
        return reply_send(&reply, call);
}
