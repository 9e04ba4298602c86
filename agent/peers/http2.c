/* The one place that knows nghttp2. It is a value machine: bytes in, callbacks; callbacks noted, bytes out.
 *
 * Against floods it has limits of its own, those of nghttp2 where this version has them, and a bucket of
 * tokens for frames that carry nothing (SETTINGS, PING, RST_STREAM, WINDOW_UPDATE, empty DATA, HEADERS): a
 * peer that empties it is cut off. Bytes that we send earn tokens too, because they bring window updates
 * back.
 *
 * After a GOAWAY of ours no byte is fed any more: some versions assert when frames follow (CVE-2026-27135).
 */
#include "inside.h"

#include <stdio.h>

#define TOKENS_MOST       1000
#define TOKENS_PER_SECOND 500
#define BYTES_PER_TOKEN   4096
#define HEADERS_MOST      32
#define HEADER_BYTES_MOST 4096
#define WINDOW_STREAM     (1024 * 1024)
#define WINDOW_CONNECTION (4 * 1024 * 1024)

/* From 1.60 on the functions that return ssize_t have successors, and are deprecated later. */
#if NGHTTP2_VERSION_NUM >= 0x013c00
typedef nghttp2_ssize Http2Size;
typedef nghttp2_data_provider2 Http2Provider;
#define session_mem_recv nghttp2_session_mem_recv2
#define session_mem_send nghttp2_session_mem_send2
#define submit_request   nghttp2_submit_request2
#define submit_response  nghttp2_submit_response2
#else
typedef ssize_t Http2Size;
typedef nghttp2_data_provider Http2Provider;
#define session_mem_recv nghttp2_session_mem_recv
#define session_mem_send nghttp2_session_mem_send
#define submit_request   nghttp2_submit_request
#define submit_response  nghttp2_submit_response
#endif

static nghttp2_nv nv(const char *name, const char *value) {
        return (nghttp2_nv){
                .name = (uint8_t *)name,
                .value = (uint8_t *)value,
                .namelen = strlen(name),
                .valuelen = strlen(value),
        };
}

/* False: the bucket is empty, the connection is gone. */
static bool tokens_take(Connection *c, uint64_t n) {
        uint64_t now = peers_now(c->peers);
        uint64_t earned = MIN(now - c->tokens_usec, USEC_PER_SEC * 10) * TOKENS_PER_SECOND / USEC_PER_SEC;
        if (earned > 0) {
                c->tokens = MIN(c->tokens + earned, TOKENS_MOST);
                c->tokens_usec = now;
        }
        if (c->tokens < n) {
                report_say(&c->peers->report, LOG_NOTICE,
                           "Peer floods with empty frames, connection closed.");
                connection_kill(c, PEERS_DOWN_RESET);
                return false;
        }
        c->tokens -= n;
        return true;
}

static PeersCall *stream_call(Connection *c, int32_t stream) {
        return nghttp2_session_get_stream_user_data(c->session, stream);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *userdata) {
        Connection *c = userdata;
        if (!connection_lives(c))
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
                return 0;
        if (c->n_calls >= CALLS_PER_CONNECTION || c->closing)
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;

        PeersCall *call = call_new(c->peers, CALL_ANSWERING);
        if (!call)
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        call->stream = frame->hd.stream_id;
        call->host = c->host;
        call_attach(call, c);
        nghttp2_session_set_stream_user_data(session, call->stream, call);
        return 0;
}

static void text_take(char *to, size_t capacity, const uint8_t *value, size_t size) {
        size = MIN(size, capacity - 1);
        memcpy(to, value, size);
        to[size] = 0;
}

static bool is(const char *word, const uint8_t *text, size_t size) {
        return strlen(word) == size && memcmp(word, text, size) == 0;
}

static void header_path(PeersCall *call, const uint8_t *value, size_t size) {
        static const char prefix[] = "/treaty.v1.Peer/";
        size_t n = strlen(prefix);
        if (size <= n || memcmp(value, prefix, n) != 0 || size - n >= sizeof(call->method))
                return;
        text_take(call->method, sizeof(call->method), value + n, size - n);
}

/* grpc-message is percent-encoded; what does not decode stays as it is. */
static void header_message(PeersCall *call, const uint8_t *value, size_t size) {
        size_t n = 0;
        for (size_t i = 0; i < size && n + 1 < sizeof(call->text); i++) {
                uint8_t byte = value[i];
                char digits[3] = {0};
                if (byte == '%' && i + 2 < size) {
                        memcpy(digits, value + i + 1, 2);
                        if (hex_read(digits, &byte, 1) == 0)
                                i += 2;
                }
                call->text[n++] = byte >= 0x20 && byte != 0x7f ? (char)byte : '?';
        }
        call->text[n] = 0;
}

static void header_status(PeersCall *call, const uint8_t *value, size_t size) {
        unsigned status = 0;
        for (size_t i = 0; i < MIN(size, (size_t)3); i++)
                status = status * 10 + (unsigned)(value[i] - '0');
        call->status = size > 0 && size <= 2 && status <= 16 ? (PeersStatus)status : PEERS_INTERNAL;
        call->status_seen = true;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t n_name, const uint8_t *value, size_t n_value, uint8_t flags, void *userdata) {
        Connection *c = userdata;
        if (!connection_lives(c))
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        PeersCall *call = stream_call(c, frame->hd.stream_id);
        if (!call)
                return 0;
        call->n_header_bytes += (uint32_t)(n_name + n_value);
        if (++call->n_headers > HEADERS_MOST || call->n_header_bytes > HEADER_BYTES_MOST)
                return tokens_take(c, 50) ? NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
                                          : NGHTTP2_ERR_CALLBACK_FAILURE;

        if (c->server && is(":path", name, n_name))
                header_path(call, value, n_value);
        else if (c->server && is(":method", name, n_name))
                call->foreign |= !is("POST", value, n_value);
        else if (is("content-type", name, n_name))
                call->foreign |= n_value < 16 || memcmp(value, "application/grpc", 16) != 0;
        else if (!c->server && is(":status", name, n_name))
                text_take(call->http_status, sizeof(call->http_status), value, n_value);
        else if (!c->server && is("grpc-status", name, n_name))
                header_status(call, value, n_value);
        else if (!c->server && is("grpc-message", name, n_name))
                header_message(call, value, n_value);
        return 0;
}

static void on_headers(Connection *c, const nghttp2_frame *frame) {
        PeersCall *call = stream_call(c, frame->hd.stream_id);
        if (!call)
                return;
        if (frame->headers.cat == NGHTTP2_HCAT_REQUEST)
                call_on_request(call);
        else if (frame->headers.cat == NGHTTP2_HCAT_RESPONSE)
                call_on_response(call, frame->hd.flags & NGHTTP2_FLAG_END_STREAM);
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *userdata) {
        Connection *c = userdata;
        bool carries = frame->hd.type == NGHTTP2_DATA && frame->hd.length > 0;
        if (!connection_lives(c) || (!carries && !tokens_take(c, 1)))
                return NGHTTP2_ERR_CALLBACK_FAILURE;

        if (frame->hd.type == NGHTTP2_HEADERS)
                on_headers(c, frame);
        bool ends = (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
                    (frame->hd.flags & NGHTTP2_FLAG_END_STREAM);
        if (ends && connection_lives(c)) {
                PeersCall *call = stream_call(c, frame->hd.stream_id);
                if (call && c->server)
                        call_on_request_end(call);
                else if (call)
                        call_on_answer_end(call);
        }
        return connection_lives(c) ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data,
                         size_t size, void *userdata) {
        Connection *c = userdata;
        if (!connection_lives(c))
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        PeersCall *call = stream_call(c, stream);
        if (call)
                call_on_data(call, BYTES(data, size));
        if (!connection_lives(c))
                return NGHTTP2_ERR_CALLBACK_FAILURE;
        /* Only what was handed on opens the window again: who is slow here slows the sender. */
        return nghttp2_session_consume(session, stream, size) == NGHTTP2_ERR_NOMEM
                       ? NGHTTP2_ERR_CALLBACK_FAILURE
                       : 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream, uint32_t error, void *userdata) {
        Connection *c = userdata;
        PeersCall *call = stream_call(c, stream);
        if (call && c->state != CONNECTION_DEAD)
                call_on_stream_closed(call, error);
        return 0;
}

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *userdata) {
        Connection *c = userdata;
        if (frame->hd.type == NGHTTP2_GOAWAY) {
                c->said_goaway = true;
                c->closing = true;
        }
        return 0;
}

static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int error,
                            void *userdata) {
        Connection *c = userdata;
        return connection_lives(c) && tokens_take(c, 50) ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static nghttp2_session_callbacks *callbacks_new(void) {
        nghttp2_session_callbacks *callbacks;
        if (nghttp2_session_callbacks_new(&callbacks) != 0)
                return NULL;
        nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
        nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
        nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
        nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid_frame);
        return callbacks;
}

static nghttp2_option *options_new(void) {
        nghttp2_option *option;
        if (nghttp2_option_new(&option) != 0)
                return NULL;
        nghttp2_option_set_no_auto_window_update(option, 1);
        nghttp2_option_set_peer_max_concurrent_streams(option, CALLS_PER_CONNECTION);
        nghttp2_option_set_max_reserved_remote_streams(option, 0);
        nghttp2_option_set_max_send_header_block_length(option, 2 * HEADER_BYTES_MOST);
        nghttp2_option_set_max_deflate_dynamic_table_size(option, 4096);
        nghttp2_option_set_no_closed_streams(option, 1);
        nghttp2_option_set_max_outbound_ack(option, 64);
        nghttp2_option_set_max_settings(option, 16);
#ifdef HAVE_NGHTTP2_RESET_LIMIT
        nghttp2_option_set_stream_reset_rate_limit(option, 100, 10);
#endif
#ifdef HAVE_NGHTTP2_CONTINUATION_LIMIT
        nghttp2_option_set_max_continuations(option, 2);
#endif
        return option;
}

static int session_new(Connection *c) {
        nghttp2_session_callbacks *callbacks = callbacks_new();
        nghttp2_option *option = options_new();
        int r = -1;
        if (callbacks && option && c->server)
                r = nghttp2_session_server_new2(&c->session, callbacks, c, option);
        else if (callbacks && option)
                r = nghttp2_session_client_new2(&c->session, callbacks, c, option);
        nghttp2_session_callbacks_del(callbacks);
        nghttp2_option_del(option);
        return r == 0 ? 0 : -ENOMEM;
}

int http2_open(Connection *c) {
        bool stranger = c->verdict != PEERS_MEMBER;
        const nghttp2_settings_entry settings[] = {
                {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, !c->server ? 0
                                                          : stranger ? 1
                                                                     : CALLS_PER_CONNECTION},
                {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, stranger ? REQUEST_STRANGER + 1024 : WINDOW_STREAM},
                {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEADER_BYTES_MOST},
                {NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, 4096},
                {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        };
        int r = session_new(c);
        if (r < 0)
                return r;
        c->tokens = TOKENS_MOST;
        c->tokens_usec = peers_now(c->peers);
        /* ENABLE_PUSH is the client's to say. */
        if (nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings,
                                    ELEMENTSOF(settings) - (c->server ? 1 : 0)) != 0)
                return -ENOMEM;
        if (!stranger &&
            nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, WINDOW_CONNECTION) != 0)
                return -ENOMEM;
        return 0;
}

void http2_close(Connection *c) {
        nghttp2_session_del(c->session);
        c->session = NULL;
}

int http2_feed(Connection *c, const uint8_t *data, size_t size) {
        if (c->said_goaway || c->closing)
                return 0;
        assert(!c->in_session);
        c->in_session = true;
        Http2Size n = session_mem_recv(c->session, data, size);
        c->in_session = false;
        if (n < 0)
                return -EPROTO;
        return nghttp2_session_want_read(c->session) || nghttp2_session_want_write(c->session) ? 0 : -EPROTO;
}

ssize_t http2_pull(Connection *c, const uint8_t **ret) {
        assert(!c->in_session);
        c->in_session = true;
        Http2Size n = session_mem_send(c->session, ret);
        c->in_session = false;
        if (n < 0)
                return -EPROTO;
        c->tokens = MIN(c->tokens + ((size_t)n + BYTES_PER_TOKEN - 1) / BYTES_PER_TOKEN / 2, TOKENS_MOST);
        return n;
}

bool http2_wants_write(Connection *c) {
        return c->session && nghttp2_session_want_write(c->session);
}

static void message_encode(const char *text, char *to, size_t capacity) {
        size_t n = 0;
        for (; *text && n + 4 < capacity; text++) {
                if (*text >= 0x20 && *text < 0x7f && *text != '%')
                        to[n++] = *text;
                else
                        n += (size_t)snprintf(to + n, capacity - n, "%%%02x", (uint8_t)*text);
        }
        to[n] = 0;
}

/* Feeds nghttp2 from the call's queue; at the end of an answer come the trailers. */
static Http2Size data_read(nghttp2_session *session, int32_t stream, uint8_t *to, size_t size,
                           uint32_t *flags, nghttp2_data_source *source, void *userdata) {
        PeersCall *call = nghttp2_session_get_stream_user_data(session, stream);
        if (!call)
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;

        size_t n = MIN(size, queue_size(&call->out));
        if (n > 0)
                memcpy(to, queue_data(&call->out), n);
        queue_take(&call->out, n);
        if (queue_size(&call->out) > 0)
                return (Http2Size)n;
        if (!call->out_ended)
                return n > 0 ? (Http2Size)n : NGHTTP2_ERR_DEFERRED;

        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (call->kind == CALL_ASKING)
                return (Http2Size)n;
        char status[4], message[400];
        snprintf(status, sizeof(status), "%d", (int)call->status);
        message_encode(call->text, message, sizeof(message));
        const nghttp2_nv trailers[] = {nv("grpc-status", status), nv("grpc-message", message)};
        if (nghttp2_submit_trailer(session, stream, trailers, call->text[0] ? 2 : 1) != 0)
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
        return (Http2Size)n;
}

int http2_request(Connection *c, PeersCall *call) {
        char path[64];
        snprintf(path, sizeof(path), "/treaty.v1.Peer/%s", call->method);
        const nghttp2_nv headers[] = {
                nv(":method", "POST"),
                nv(":scheme", "https"),
                nv(":authority", "treaty"),
                nv(":path", path),
                nv("content-type", "application/grpc"),
                nv("te", "trailers"),
        };
        Http2Provider provider = {.read_callback = data_read};
        int32_t stream = submit_request(c->session, NULL, headers, ELEMENTSOF(headers), &provider, call);
        if (stream < 0)
                return -EPROTO;
        call->stream = stream;
        call_attach(call, c);
        connection_dirty(c);
        return 0;
}

int http2_respond(PeersCall *call) {
        const nghttp2_nv headers[] = {nv(":status", "200"), nv("content-type", "application/grpc")};
        Http2Provider provider = {.read_callback = data_read};
        call->responded = true;
        connection_dirty(call->connection);
        int r = submit_response(call->connection->session, call->stream, headers, ELEMENTSOF(headers),
                                &provider);
        return r == 0 ? 0 : -EPROTO;
}

int http2_refuse(PeersCall *call) {
        char status[4], message[400];
        snprintf(status, sizeof(status), "%d", (int)call->status);
        message_encode(call->text, message, sizeof(message));
        const nghttp2_nv headers[] = {
                nv(":status", call->foreign ? "415" : "200"),
                nv("content-type", "application/grpc"),
                nv("grpc-status", status),
                nv("grpc-message", message),
        };
        call->responded = true;
        call->out_ended = true;
        connection_dirty(call->connection);
        int r = submit_response(call->connection->session, call->stream, headers, call->text[0] ? 4 : 3,
                                NULL);
        return r == 0 ? 0 : -EPROTO;
}

void http2_resume(PeersCall *call) {
        nghttp2_session_resume_data(call->connection->session, call->stream);
        connection_dirty(call->connection);
}

void http2_forget(PeersCall *call, uint32_t reset) {
        Connection *c = call->connection;
        if (c->state != CONNECTION_OPEN || !c->session)
                return;
        nghttp2_session_set_stream_user_data(c->session, call->stream, NULL);
        if (reset != NGHTTP2_NO_ERROR) {
                nghttp2_submit_rst_stream(c->session, NGHTTP2_FLAG_NONE, call->stream, reset);
                connection_dirty(c);
        }
}
