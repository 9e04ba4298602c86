/* Who calls. On the bus a caller is a unique name whose credentials are asked for once, asynchronously; what
 * he asks meanwhile waits, in order, in his own list. He is remembered until NameOwnerChanged says that he
 * is gone; then all he waited for is let go. Behind the private socket the kernel names him at once. */
#include "internal.h"

#include <string.h>
#include "agent/journal.h"
#include "policy/credentials.h"
#include "call.h"

User *user_get(Bus *bus, uid_t uid) {
        User *user;

        HASH_FIND(hh, bus->users, &uid, sizeof(uid), user);
        if (!user) {
                user = calloc(1, sizeof(User));
                if (!user)
                        return NULL;
                user->uid = uid;
                HASH_ADD(hh, bus->users, uid, sizeof(uid), user);
                if (!HASH_ADDED(user)) {
                        free(user);
                        return NULL;
                }
        }
        user->n_refs++;
        return user;
}

User *user_put(Bus *bus, User *user) {
        if (!user)
                return NULL;
        assert(user->n_refs > 0);
        if (--user->n_refs > 0)
                return NULL;
        assert(user->n_calls == 0 && user->n_links == 0 && user->n_watches == 0 && user->n_owned == 0);
        assert(user->watch_bytes == 0);
        HASH_DEL(bus->users, user);
        free(user);
        return NULL;
}

Client *client_free(Client *client) {
        if (!client)
                return NULL;

        Link *link = client->link;
        while (client->calls)
                call_free(client->calls);
        assert(client->n_calls == 0 && client->bytes == 0 && !client->asks_polkit);
        if (client->name && client->hh.tbl)
                HASH_DEL(link->clients, client);
        if (link->peer == client)
                link->peer = NULL;
        sd_bus_slot_unref(client->asking);
        user_put(link->bus, client->user);
        caller_deinit(&client->caller);
        free(client->name);
        free(client);
        return NULL;
}

/* The cache is full: whoever was seen first and waits for nothing can be asked about again. */
static bool make_room(Link *link) {
        Client *client, *next;

        if (HASH_COUNT(link->clients) < LIMIT_CLIENTS)
                return true;
        HASH_ITER (hh, link->clients, client, next) {
                if (client->n_calls == 0 && !client->asking) {
                        client_free(client);
                        return true;
                }
        }
        return false;
}

static int client_known(Client *client, Caller *caller) {
        User *user = user_get(client->link->bus, caller->uid);
        if (!user)
                return -ENOMEM;
        client->caller = *caller;
        *caller = (Caller){};
        client->user = user;
        user->n_calls += client->n_calls;
        return 0;
}

/* The bus has told who it is: what waited goes on in the order in which it came. */
static int on_credentials(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        Client *client = userdata;
        _cleanup_(caller_deinit) Caller caller = {};

        client->asking = sd_bus_slot_unref(client->asking);
        int r = credentials_read(reply, &caller);
        if (r >= 0)
                r = client_known(client, &caller);
        if (r < 0) {
                log_debug("Who %s is cannot be known (%s); its calls are dropped.", client->name,
                          strerror(-r));
                while (client->calls)
                        call_fail(client->calls, SD_BUS_ERROR_ACCESS_DENIED,
                                  "The bus does not tell who is calling, so nothing can be granted.");
                client_free(client);
                return 0;
        }

        for (size_t n = client->n_calls; n > 0 && client->calls; n--) {
                Call *call = client->calls;
                while (call && !call->handler)
                        call = call->next;
                if (!call)
                        break;
                call_run(call, TAKE(call->handler));
        }
        return 0;
}

static int client_new_on_bus(Link *link, const char *name, Client **ret) {
        if (!make_room(link))
                return -ENOBUFS;

        Client *client = calloc(1, sizeof(Client));
        if (!client)
                return -ENOMEM;
        client->link = link;
        client->name = strdup(name);
        if (!client->name) {
                free(client);
                return -ENOMEM;
        }
        HASH_ADD_KEYPTR(hh, link->clients, client->name, strlen(client->name), client);
        if (!HASH_ADDED(client)) {
                free(client->name);
                free(client);
                return -ENOMEM;
        }
        int r = credentials_ask(link->sd, name, on_credentials, client, &client->asking);
        if (r < 0) {
                client_free(client);
                return r;
        }
        *ret = client;
        return 0;
}

int client_new_private(Link *link, Caller *caller, Client **ret) {
        Client *client = calloc(1, sizeof(Client));
        if (!client)
                return -ENOMEM;
        client->link = link;
        int r = client_known(client, caller);
        if (r < 0) {
                free(client);
                return r;
        }
        link->peer = client;
        *ret = client;
        return 0;
}

int client_of(Link *link, sd_bus_message *m, Client **ret) {
        Client *client;

        if (link->private) {
                *ret = link->peer;
                return link->peer ? 0 : -ENOTCONN;
        }
        const char *name = sd_bus_message_get_sender(m);
        if (!name)
                return -EACCES;
        HASH_FIND_STR(link->clients, name, client);
        if (!client)
                return client_new_on_bus(link, name, ret);
        *ret = client;
        return 0;
}

int client_gone(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Link *link = userdata;
        const char *name, *before, *after;
        Client *client;

        if (sd_bus_message_read(m, "sss", &name, &before, &after) < 0 || after[0] != 0)
                return 0;
        HASH_FIND_STR(link->clients, name, client);
        client_free(client);
        return 0;
}
