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

#define WINDOW (16 * 1024 * 1024)

typedef struct Call {
        Link *link;
        Client *client; /* NULL: a watch */
        uint8_t *body;
        size_t size, sent;
        bool ok, watching;
        uint8_t frame[4096]; /* a watch: bytes that wait for the rest of their message */
        size_t framed;
} Call;

struct Link {
        Load *load;
        nghttp2_session *session;
        LoadPoll poll;
        char authority[64];
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

/* Counts `field` among the fields of a message. */
static unsigned count_field(const uint8_t *at, size_t size, unsigned field) {
        unsigned n = 0;
        uint64_t tag, value;
        size_t used;

        while (size > 0 && (used = get_varint(at, size, &tag)) > 0) {
                at += used, size -= used;
                n += tag >> 3 == field;
                if ((used = get_varint(at, size, &value)) == 0)
                        break;
                if ((tag & 7) == 2)
                        used += value;
                if (used > size)
                        break;
                at += used, size -= used;
        }
        return n;
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
                if (!call->client) /* a watch stays open */
                        *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
        }
        return (ssize_t)n;
}

#define HEADER(n, v) \
        { (uint8_t *)(n), (uint8_t *)(v), strlen(n), strlen(v), NGHTTP2_NV_FLAG_NONE }

static void submit(Link *link, Client *client, const char *path, const uint8_t *message, size_t size) {
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

/* ---- Answers ---- */

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_size, const uint8_t *value, size_t value_size, uint8_t flags,
                     void *userdata) {
        Call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

        if (call && name_size == 11 && memcmp(name, "grpc-status", 11) == 0)
                call->ok = value_size == 1 && value[0] == '0';
        return 0;
}

static void watch_message(Call *call, const uint8_t *message, size_t size) {
        unsigned events = count_field(message, size, 11);

        if (!call->watching) {
                call->watching = true;
                load_watching(call->link->load);
        }
        while (events-- > 0)
                load_heard(call->link->load);
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
                watch_message(call, call->frame + 5, n);
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
        bool ok = call->ok;
        free(call->body);
        free(call);
        if (!client)
                load_die("a watch", "ended");
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
                .close = etcd_close,
        };
        return load_main(&driver, argc, argv);
}
