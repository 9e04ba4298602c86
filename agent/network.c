/* See network.h. */
#include "network.h"

static int net_listen(void *userdata) {
        Network *network = network_of(userdata);
        for (unsigned i = 0; i < network->n_listen; i++) {
                int r = peers_listen(network->peers, network->listen[i]);
                if (r < 0) {
                        peers_unlisten(network->peers);
                        return r;
                }
        }
        return 0;
}

static int net_set_targets(void *userdata, const PeersTarget *targets, size_t n) {
        return peers_set_targets(network_of(userdata)->peers, targets, n);
}

static int net_send(void *userdata, uint64_t host, Bytes letter) {
        return peers_send(network_of(userdata)->peers, host, letter);
}

static bool net_connected(void *userdata, uint64_t host) {
        return peers_connected(network_of(userdata)->peers, host);
}

static void net_disconnect(void *userdata, uint64_t host) {
        peers_disconnect(network_of(userdata)->peers, host);
}

static int net_call(void *userdata, uint64_t host, const char *method, Bytes request, uint64_t timeout_usec,
                    const PeersCallEvents *events, PeersCall **ret) {
        return peers_call(network_of(userdata)->peers, host, method, request, timeout_usec, events, ret);
}

static int net_call_address(void *userdata, const char *address, const uint8_t (*keys)[KEY_HASH_BYTES],
                            size_t n_keys, const char *method, Bytes request, uint64_t timeout_usec,
                            const PeersCallEvents *events, PeersCall **ret) {
        return peers_call_address(network_of(userdata)->peers, address, keys, n_keys, method, request,
                                  timeout_usec, events, ret);
}

static void net_call_set_events(void *userdata, PeersCall *call, const PeersCallEvents *events) {
        peers_call_set_events(call, events);
}

static int net_call_send(void *userdata, PeersCall *call, Bytes message) {
        return peers_call_send(call, message);
}

static void net_call_end(void *userdata, PeersCall *call, PeersStatus status, const char *text) {
        peers_call_end(call, status, text);
}

static void net_call_free(void *userdata, PeersCall *call) {
        peers_call_free(call);
}

static void net_flush(void *userdata) {
        peers_flush(network_of(userdata)->peers);
}

void network_table(Outside *outside) {
        outside->listen = net_listen;
        outside->set_targets = net_set_targets;
        outside->send = net_send;
        outside->connected = net_connected;
        outside->disconnect = net_disconnect;
        outside->call = net_call;
        outside->call_address = net_call_address;
        outside->call_set_events = net_call_set_events;
        outside->call_send = net_call_send;
        outside->call_end = net_call_end;
        outside->call_free = net_call_free;
        outside->flush = net_flush;
}
