/* etcd: its gRPC calls by hand on nghttp2, over plain TCP. The messages are four fields long, so their
 * protobuf is written here; of the answers only the status counts, and of a watch how many answers carry
 * events. Cheaper for the client than any gRPC library, so what is measured is the server. */
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "load.h"

#define WINDOW        (16 * 1024 * 1024)
#define LEASE_SECONDS 600
#define INSTANCE      "{\"host\":\"h1\",\"address\":\"192.0.2.1\",\"port\":1,\"priority\":0,\"weight\":0}"

typedef struct Call {
        Link *link;
        Client *client; /* NULL: a watch */
        uint8_t *body;
        size_t size, sent;
        bool ok, watching, withdraw, lease;
        uint8_t frame[4096]; /* a watch: bytes that wait for the rest of their message */
        size_t framed;
} Call;

struct Link {
        Load *load;
        nghttp2_session *session;
        LoadPoll poll;
        char authority[64];
        uint64_t lease; /* 0: none yet */
        unsigned instance;
};

/* ---- Protobuf, as much as is needed ---- */

static size_t put_varint(uint8_t *to, uint64_t value) {
        size_t n = 0;
        while (value >= 0x80) {
                to[n++] = (uint8_t)(value | 0x80);
                value >>= 7;
        }
        to[n++] = (uint8_t)value;
        return n;
}

static size_t put_bytes(uint8_t *to, unsigned field, const void *data, size_t size) {
        size_t n = put_varint(to, field << 3 | 2);
        n += put_varint(to + n, size);
        memcpy(to + n, data, size);
        return n + size;
}

static size_t get_varint(const uint8_t *from, size_t size, uint64_t *ret) {
        *ret = 0;
        for (size_t i = 0; i < size && i < 10; i++) {
                *ret |= (uint64_t)(from[i] & 0x7f) << (7 * i);
                if (!(from[i] & 0x80))
                        return i + 1;
        }
        return 0;
}

/* Finds the next field with that number in a message, and goes on behind it. `ret`: its number, or its size
 * when it has bytes, which begin at *ret_bytes. */
static bool next_field(const uint8_t **at, size_t *size, unsigned field, uint64_t *ret,
                       const uint8_t **ret_bytes) {
        uint64_t tag;
        size_t used;

        while (*size > 0 && (used = get_varint(*at, *size, &tag)) > 0) {
                *at += used, *size -= used;
                if ((used = get_varint(*at, *size, ret)) == 0)
                        return false;
                *ret_bytes = *at + used;
                if ((tag & 7) == 2)
                        used += *ret;
                if (used > *size)
                        return false;
                *at += used, *size -= used;
                if (tag >> 3 == field)
                        return true;
        }
        return false;
}

static uint64_t number_of(const uint8_t *at, size_t size, unsigned field) {
        const uint8_t *bytes;
        uint64_t value;

        return next_field(&at, &size, field, &value, &bytes) ? value : 0;
}

/* ---- Calls ---- */

static ssize_t on_read(nghttp2_session *session, int32_t stream, uint8_t *buffer, size_t size,
                       uint32_t *flags, nghttp2_data_source *source, void *userdata) {
        Call *call = source->ptr;
        size_t n = call->size - call->sent;

        if (n > size)
                n = size;
        memcpy(buffer, call->body + call->sent, n);
        call->sent += n;
        if (call->sent == call->size) {
                *flags |= NGHTTP2_DATA_FLAG_EOF;
                if (!call->client && !call->lease) /* a watch stays open */
                        *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
        }
        return (ssize_t)n;
}

#define HEADER(n, v) \
        { (uint8_t *)(n), (uint8_t *)(v), strlen(n), strlen(v), NGHTTP2_NV_FLAG_NONE }

static Call *submit(Link *link, Client *client, const char *path, const uint8_t *message, size_t size) {
        Call *call = calloc(1, sizeof(Call));

        if (!call || !(call->body = malloc(size + 5)))
                load_die("a call", strerror(ENOMEM));
        call->link = link;
        call->client = client;
        call->size = size + 5;
        call->body[0] = 0;
        for (unsigned i = 0; i < 4; i++)
                call->body[1 + i] = (uint8_t)(size >> (24 - 8 * i));
        memcpy(call->body + 5, message, size);
        nghttp2_nv headers[] = {
                HEADER(":method", "POST"),
                HEADER(":scheme", "http"),
                HEADER(":path", path),
                HEADER(":authority", link->authority),
                HEADER("content-type", "application/grpc"),
                HEADER("te", "trailers"),
        };
        nghttp2_data_provider provider = {.source.ptr = call, .read_callback = on_read};
        int r = nghttp2_submit_request(link->session, NULL, headers, sizeof(headers) / sizeof(headers[0]),
                                       &provider, call);
        if (r < 0)
                load_die("a call", nghttp2_strerror(r));
        return call;
}

static void etcd_ask(Link *link, Client *client, Verb verb, unsigned key) {
        size_t size, n;
        char path[32];

        load_path(key, path);
        const uint8_t *value = load_value(link->load, &size);
        uint8_t *message = malloc(size + 64);
        if (!message)
                load_die("a call", strerror(ENOMEM));
        n = put_bytes(message, 1, path, strlen(path));
        if (verb == VERB_SET || verb == VERB_FILL) {
                n += put_bytes(message + n, 2, value, size);
                submit(link, client, "/etcdserverpb.KV/Put", message, n);
        } else {
                if (verb == VERB_GET) { /* serializable: what this member knows */
                        n += put_varint(message + n, 7 << 3);
                        n += put_varint(message + n, 1);
                }
                submit(link, client, "/etcdserverpb.KV/Range", message, n);
        }
        free(message);
}

static void etcd_watch(Link *link, unsigned key) {
        uint8_t create[64], message[80];
        char path[32];

        load_path(key, path);
        size_t n = put_bytes(create, 1, path, strlen(path));
        n = put_bytes(message, 1, create, n);
        submit(link, NULL, "/etcdserverpb.Watch/Watch", message, n);
}

/* ---- A service: keys of a lease, which is granted once and outlives the measurement ---- */

static void instance_path(unsigned n, char to[static 32]) {
        snprintf(to, 32, "/services/bench/h1:%05u", n);
}

static void etcd_enlist(Link *link, Client *client, unsigned n) {
        uint8_t *message = malloc(1024);
        char path[32];

        if (!message)
                load_die("a call", strerror(ENOMEM));
        instance_path(n, path);
        size_t size = put_bytes(message, 1, path, strlen(path));
        size += put_bytes(message + size, 2, INSTANCE, strlen(INSTANCE));
        size += put_varint(message + size, 3 << 3);
        size += put_varint(message + size, link->lease);
        submit(link, client, "/etcdserverpb.KV/Put", message, size);
        free(message);
        link->instance = n;
}

static void etcd_flush(Link *link);

static void etcd_withdraw(Link *link, Client *client) {
        uint8_t message[64];
        char path[32];

        instance_path(link->instance, path);
        size_t size = put_bytes(message, 1, path, strlen(path));
        submit(link, client, "/etcdserverpb.KV/DeleteRange", message, size)->withdraw = true;
        etcd_flush(link);
}

static void etcd_watch_instances(Link *link) {
        static const char first[] = "/services/bench/", end[] = "/services/bench0";
        uint8_t create[64], message[80];

        size_t n = put_bytes(create, 1, first, strlen(first));
        n += put_bytes(create + n, 2, end, strlen(end));
        n = put_bytes(message, 1, create, n);
        submit(link, NULL, "/etcdserverpb.Watch/Watch", message, n);
}

static void grant_lease(Link *link) {
        uint8_t message[8];
        size_t size = put_varint(message, 1 << 3);

        size += put_varint(message + size, LEASE_SECONDS);
        submit(link, NULL, "/etcdserverpb.Lease/LeaseGrant", message, size)->lease = true;
}

/* ---- Answers ---- */

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_size, const uint8_t *value, size_t value_size, uint8_t flags,
                     void *userdata) {
        Call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

        if (call && name_size == 11 && memcmp(name, "grpc-status", 11) == 0)
                call->ok = value_size == 1 && value[0] == '0';
        return 0;
}

/* Field 11 of the answer are its events; field 1 of an event is its type, and 1 means deleted. */
static void watch_message(Call *call, const uint8_t *message, size_t size) {
        const uint8_t *event;
        uint64_t event_size;

        if (!call->watching) {
                call->watching = true;
                load_watching(call->link->load);
        }
        while (next_field(&message, &size, 11, &event_size, &event))
                if (number_of(event, event_size, 1) == 1)
                        load_gone(call->link->load);
                else
                        load_heard(call->link->load);
}

static void answer_message(Call *call, const uint8_t *message, size_t size) {
        if (call->lease)
                call->link->lease = number_of(message, size, 2);
        else
                watch_message(call, message, size);
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data, size_t size,
                   void *userdata) {
        Call *call = nghttp2_session_get_stream_user_data(session, stream);

        if (!call || call->client)
                return 0;
        if (size > sizeof(call->frame) - call->framed)
                load_die("a watch", "an answer is too long");
        memcpy(call->frame + call->framed, data, size);
        call->framed += size;
        while (call->framed >= 5) {
                size_t n = (size_t)call->frame[1] << 24 | (size_t)call->frame[2] << 16 |
                           (size_t)call->frame[3] << 8 | call->frame[4];
                if (call->framed < n + 5)
                        break;
                answer_message(call, call->frame + 5, n);
                memmove(call->frame, call->frame + n + 5, call->framed - n - 5);
                call->framed -= n + 5;
        }
        return 0;
}

static int on_close(nghttp2_session *session, int32_t stream, uint32_t code, void *userdata) {
        Call *call = nghttp2_session_get_stream_user_data(session, stream);

        if (!call)
                return 0;
        Client *client = call->client;
        bool ok = call->ok, withdraw = call->withdraw, lease = call->lease;
        Load *load = call->link->load;
        free(call->body);
        free(call);
        if (lease)
                return 0;
        if (!client)
                load_die("a watch", "ended");
        if (withdraw)
                load_withdrawn(load);
        else
                load_answered(client, ok ? NULL : "grpc-status");
        return 0;
}

/* ---- Connections ---- */

static void etcd_flush(Link *link) {
        uint8_t together[65536];
        size_t n = 0;
        const uint8_t *data;
        ssize_t r;

        /* One packet per round: frames are gathered, and the socket takes them all, since each client has
         * but one question in flight. */
        while ((r = nghttp2_session_mem_send(link->session, &data)) > 0) {
                if (n + (size_t)r > sizeof(together)) {
                        if (send(link->poll.fd, together, n, MSG_NOSIGNAL) != (ssize_t)n)
                                load_die("send", strerror(errno));
                        n = 0;
                }
                memcpy(together + n, data, (size_t)r);
                n += (size_t)r;
        }
        if (n > 0 && send(link->poll.fd, together, n, MSG_NOSIGNAL) != (ssize_t)n)
                load_die("send", strerror(errno));
        load_poll(link->load, &link->poll, EPOLLIN);
}

static void on_link(void *p, uint32_t events) {
        Link *link = p;
        uint8_t buffer[65536];

        ssize_t n = recv(link->poll.fd, buffer, sizeof(buffer), MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
                return;
        if (n <= 0)
                load_die("a connection ended", n < 0 ? strerror(errno) : "by the server");
        ssize_t r = nghttp2_session_mem_recv(link->session, buffer, (size_t)n);
        if (r < 0)
                load_die("http/2", nghttp2_strerror((int)r));
        etcd_flush(link);
}

static int dial(const char *address) {
        char host[64];
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
        const char *colon = strrchr(address, ':');

        if (!colon || (size_t)(colon - address) >= sizeof(host))
                load_die(address, "not HOST:PORT");
        snprintf(host, sizeof(host), "%.*s", (int)(colon - address), address);
        int r = getaddrinfo(host, colon + 1, &hints, &found);
        if (r != 0)
                load_die(address, gai_strerror(r));
        int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
        if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) < 0)
                load_die(address, strerror(errno));
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        freeaddrinfo(found);
        return fd;
}

static Link *etcd_open(Load *load, const char *address) {
        static nghttp2_session_callbacks *callbacks;
        static const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW}};
        Link *link = calloc(1, sizeof(Link));

        if (!link || (!callbacks && nghttp2_session_callbacks_new(&callbacks) < 0))
                load_die(address, strerror(ENOMEM));
        nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
        link->load = load;
        snprintf(link->authority, sizeof(link->authority), "%s", address);
        link->poll = (LoadPoll){.fd = dial(address), .ready = on_link, .p = link};
        if (nghttp2_session_client_new(&link->session, callbacks, link) < 0 ||
            nghttp2_submit_settings(link->session, NGHTTP2_FLAG_NONE, settings, 1) < 0 ||
            nghttp2_session_set_local_window_size(link->session, NGHTTP2_FLAG_NONE, 0, WINDOW) < 0)
                load_die(address, "http/2");
        if (load_verb(load) == VERB_REGISTER) {
                grant_lease(link);
                etcd_flush(link);
                while (link->lease == 0)
                        on_link(link, EPOLLIN);
        }
        etcd_flush(link);
        return link;
}

static void etcd_close(Link *link) {
        close(link->poll.fd);
        free(link); /* the process ends; its streams end with it */
}

int main(int argc, char **argv) {
        static const Driver driver = {
                .name = "etcd",
                .address = "HOST:PORT of a member's client port",
                .open = etcd_open,
                .ask = etcd_ask,
                .flush = etcd_flush,
                .watch = etcd_watch,
                .enlist = etcd_enlist,
                .withdraw = etcd_withdraw,
                .watch_instances = etcd_watch_instances,
                .close = etcd_close,
        };
        return load_main(&driver, argc, argv);
}
