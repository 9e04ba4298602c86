/* Exactly once: one row per (host, incarnation) says which serial was the highest, and what became of the
 * requests from the lowest unresolved on. An entry that does not fit the row is a no-op, so a request that
 * was offered to two leaders applies once, and "unknown" becomes definite by any later serial.
 *
 * The newest row of an active host changes with each of his requests. It is kept in memory, in a slot by
 * host, and written once per COMMIT; the digest looks at the memory where it is ahead. */
#include "internal.h"

#include <string.h>

/* nonce 16 | u64 start | start nonce 16 | u8 twice | u64 highest | u64 floor | u64 ended | u32 n | n times:
 * u64 serial, u64 revision, u64 number, u8 status */
#define REQUEST_HEAD_BYTES   69
#define REQUEST_RESULT_BYTES 25

RequestRow *request_row_free(RequestRow *row) {
        if (!row)
                return NULL;
        free(row->results);
        free(row);
        return NULL;
}

/* ---- Bytes ---- */

static void request_key(uint8_t to[static 16], uint64_t host, uint64_t incarnation) {
        key_write(to, host);
        key_write(to + 8, incarnation);
}

static void request_head(const RequestRow *row, uint8_t to[static REQUEST_HEAD_BYTES]) {
        memcpy(to, row->nonce, 16);
        bytes_put_u64(to + 16, row->start);
        memcpy(to + 24, row->start_nonce, 16);
        to[40] = row->twice;
        bytes_put_u64(to + 41, row->highest);
        bytes_put_u64(to + 49, row->floor);
        bytes_put_u64(to + 57, row->ended);
        bytes_put_u32(to + 65, (uint32_t)row->n_results);
}

static void request_result(const RequestResult *result, uint8_t to[static REQUEST_RESULT_BYTES]) {
        bytes_put_u64(to, result->serial);
        bytes_put_u64(to + 8, result->result.revision);
        bytes_put_u64(to + 16, result->result.number);
        to[24] = (uint8_t)result->result.status;
}

/* Equal to record_hash() over request_encode(), without the bytes in between. */
Sum request_hash(const RequestRow *row) {
        uint8_t bytes[2 + 16 + REQUEST_HEAD_BYTES + 32 * REQUEST_RESULT_BYTES];
        size_t size = 2 + 16 + REQUEST_HEAD_BYTES, i = 0;
        bytes[0] = RECORD_REQUESTS;
        bytes[1] = 16;
        request_key(bytes + 2, row->host, row->incarnation);
        request_head(row, bytes + 18);
        for (; i < row->n_results && size + REQUEST_RESULT_BYTES <= sizeof(bytes); i++) {
                request_result(row->results + row->first + i, bytes + size);
                size += REQUEST_RESULT_BYTES;
        }
        if (i == row->n_results) /* the usual case: one pass without a state */
                return sum_of(XXH3_128bits(bytes, size));

        XXH3_state_t state;
        XXH3_INITSTATE(&state);
        XXH3_128bits_reset(&state);
        XXH3_128bits_update(&state, bytes, size);
        for (; i < row->n_results; i++) {
                request_result(row->results + row->first + i, bytes);
                XXH3_128bits_update(&state, bytes, REQUEST_RESULT_BYTES);
        }
        return sum_of(XXH3_128bits_digest(&state));
}

static int request_encode(const RequestRow *row, Buffer *to) {
        to->size = 0;
        int r = buffer_reserve(to, REQUEST_HEAD_BYTES + row->n_results * REQUEST_RESULT_BYTES);
        if (r < 0)
                return r;
        request_head(row, to->data);
        to->size = REQUEST_HEAD_BYTES;
        for (size_t i = 0; i < row->n_results; i++) {
                request_result(row->results + row->first + i, to->data + to->size);
                to->size += REQUEST_RESULT_BYTES;
        }
        return 0;
}

static int request_parse(Bytes body, RequestRow *row) {
        if (body.size < REQUEST_HEAD_BYTES)
                return TREE_ROTTEN;
        const uint8_t *p = body.data;
        memcpy(row->nonce, p, 16);
        row->start = bytes_get_u64(p + 16);
        memcpy(row->start_nonce, p + 24, 16);
        row->twice = p[40];
        row->highest = bytes_get_u64(p + 41);
        row->floor = bytes_get_u64(p + 49);
        row->ended = bytes_get_u64(p + 57);
        row->n_results = bytes_get_u32(p + 65);
        if (p[40] > 1 || row->n_results > LIMIT_SERIALS ||
            body.size != REQUEST_HEAD_BYTES + row->n_results * REQUEST_RESULT_BYTES)
                return TREE_ROTTEN;

        row->capacity = MAX(row->n_results, (size_t)16);
        row->results = calloc(row->capacity, sizeof(RequestResult));
        if (!row->results)
                return -ENOMEM;
        uint64_t before = 0;
        for (size_t i = 0; i < row->n_results; i++) {
                p = body.data + REQUEST_HEAD_BYTES + i * REQUEST_RESULT_BYTES;
                RequestResult *result = row->results + i;
                *result = (RequestResult){
                        .serial = bytes_get_u64(p),
                        .result = {.revision = bytes_get_u64(p + 8),
                                   .number = bytes_get_u64(p + 16),
                                   .status = p[24]},
                };
                if (result->serial <= before || result->serial < row->floor ||
                    result->serial > row->highest || p[24] > RESULT_HIGHEST)
                        return TREE_ROTTEN;
                before = result->serial;
        }
        return 0;
}

int request_decode(Bytes key, Bytes body, RequestRow **ret) {
        if (key.size != 16)
                return TREE_ROTTEN;
        _cleanup_(request_row_freep) RequestRow *row = calloc(1, sizeof(RequestRow));
        if (!row)
                return -ENOMEM;
        row->host = key_read(key.data);
        row->incarnation = key_read(key.data + 8);
        int r = request_parse(body, row);
        if (r != 0)
                return r;
        *ret = TAKE(row);
        return 0;
}

/* ---- Slots ---- */

static size_t request_number(uint64_t host) {
        return XXH3_64bits(&host, sizeof(host)) % REQUEST_SLOTS;
}

static RequestRow **request_slot(Tree *tree, uint64_t host) {
        return &tree->requests[request_number(host)];
}

/* Noted, so that nobody has to look at all slots after each entry. */
static void request_touch(Tree *tree, RequestRow *row) {
        size_t i = request_number(row->host);
        row->dirty = true;
        tree->requests_dirty[i / 64] |= UINT64_C(1) << i % 64;
}

RequestRow *request_next_dirty(const Tree *tree, size_t *at) {
        while (*at < REQUEST_SLOTS) {
                uint64_t rest = tree->requests_dirty[*at / 64] >> *at % 64;
                if (rest == 0) {
                        *at = (*at / 64 + 1) * 64;
                        continue;
                }
                *at += (size_t)__builtin_ctzll(rest);
                RequestRow *row = tree->requests[(*at)++];
                if (row && row->dirty)
                        return row;
        }
        return NULL;
}

static int request_store(Tree *tree, RequestRow *row) {
        if (!row->dirty)
                return 0;
        uint8_t key[16];
        request_key(key, row->host, row->incarnation);
        int r = request_encode(row, &tree->record);
        if (r < 0)
                return r;
        r = record_put(tree, RECORD_REQUESTS, BYTES(key, 16), BYTES(tree->record.data, tree->record.size));
        if (r != 0)
                return r;
        row->stored = request_hash(row);
        row->dirty = false;
        return 0;
}

/* The slot takes the row; who was there before goes to the disk. */
static int request_seat(Tree *tree, RequestRow *row) {
        RequestRow **slot = request_slot(tree, row->host);
        int r = *slot ? request_store(tree, *slot) : 0;
        if (r != 0) {
                request_row_free(row);
                return r;
        }
        request_row_free(*slot);
        *slot = row;
        if (row->dirty)
                request_touch(tree, row);
        return 0;
}

int requests_flush(Tree *tree) {
        RequestRow *row;
        for (size_t at = 0; (row = request_next_dirty(tree, &at));) {
                int r = request_store(tree, row);
                if (r != 0)
                        return r;
        }
        memset(tree->requests_dirty, 0, sizeof(tree->requests_dirty));
        return 0;
}

void requests_forget(Tree *tree) {
        for (size_t i = 0; i < REQUEST_SLOTS; i++)
                tree->requests[i] = request_row_free(tree->requests[i]);
        memset(tree->requests_dirty, 0, sizeof(tree->requests_dirty));
}

static int request_load_last(Tree *tree, uint64_t host, RequestRow **ret) {
        uint8_t low[16], high[16];
        request_key(low, host, 0);
        request_key(high, host, UINT64_MAX);
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_RECORD_LAST, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, RECORD_REQUESTS);
        bind_bytes(s, 2, low, 16);
        bind_bytes(s, 3, high, 16);
        r = sql_step(tree, s);
        if (r == 0) {
                Bytes key = column_bytes(s, 0), body = column_bytes(s, 1), sum = column_bytes(s, 2);
                if (key.size != 16 || sum.size != 16 ||
                    sum_read(sum.data) != record_hash(RECORD_REQUESTS, key, body))
                        r = TREE_ROTTEN;
                else
                        r = request_decode(key, body, ret);
                if (r == 0)
                        (*ret)->stored = sum_read(sum.data);
        }
        sql_release(tree, STMT_RECORD_LAST, s);
        return r;
}

int requests_current(Tree *tree, uint64_t host, RequestRow **ret) {
        RequestRow **slot = request_slot(tree, host);
        if (!*slot || (*slot)->host != host) {
                RequestRow *row;
                int r = request_load_last(tree, host, &row);
                if (r == 0)
                        r = request_seat(tree, row);
                if (r != 0)
                        return r;
        }
        *ret = *slot;
        return 0;
}

/* ---- Apply ---- */

/* Invariant afterwards: floor <= each result's serial <= highest, and highest - floor < LIMIT_SERIALS. */
static void request_forget_below(RequestRow *row, uint64_t floor) {
        row->floor = MAX(row->floor, floor);
        while (row->n_results > 0 && row->results[row->first].serial < row->floor) {
                row->first++;
                row->n_results--;
        }
}

static int request_append(RequestRow *row, const RequestResult *result) {
        if (row->first + row->n_results == row->capacity) {
                if (row->first >= row->capacity / 2 && row->capacity > 0) /* make room in front */
                        memmove(row->results, row->results + row->first,
                                row->n_results * sizeof(RequestResult));
                else {
                        size_t capacity = MAX(row->capacity * 2, (size_t)16);
                        RequestResult *results = malloc(capacity * sizeof(RequestResult));
                        if (!results)
                                return -ENOMEM;
                        if (row->n_results > 0)
                                memcpy(results, row->results + row->first,
                                       row->n_results * sizeof(RequestResult));
                        free(row->results);
                        row->results = results;
                        row->capacity = capacity;
                }
                row->first = 0;
        }
        row->results[row->first + row->n_results++] = *result;
        return 0;
}

int requests_note(Tree *tree, const Command *command, const Result *result) {
        RequestRow *row;
        int r = requests_current(tree, command->host, &row);
        if (r != 0)
                return r == TREE_NONE ? TREE_ROTTEN : r;
        assert(row->incarnation == command->incarnation && command->serial > row->highest);

        r = kept_note(tree, row, command); /* while its results are still there */
        if (r != 0)
                return r;
        request_touch(tree, row);
        row->highest = command->serial;
        request_forget_below(row, MIN(command->lowest_unresolved, command->serial));
        if (command->serial >= LIMIT_SERIALS)
                request_forget_below(row, command->serial - LIMIT_SERIALS + 1);
        tree->pages += row->n_results == 0;
        return request_append(row, &(RequestResult){.serial = command->serial, .result = *result});
}

static void expiry_key(uint8_t to[static 24], const RequestRow *row) {
        key_write(to,
                  row->ended > USEC_INFINITY - TREE_KEEP_USEC ? USEC_INFINITY : row->ended + TREE_KEEP_USEC);
        request_key(to + 8, row->host, row->incarnation);
}

/* An ended row waits for its hour in the index. */
int request_index(Tree *tree, const RequestRow *row) {
        if (row->ended == 0)
                return 0;
        uint8_t key[24];
        expiry_key(key, row);
        tree->next_expiry = MIN(tree->next_expiry, key_read(key));
        return index_put(tree, INDEX_EXPIRY, BYTES(key, 24), 0);
}

int requests_end(Tree *tree, uint64_t host) {
        RequestRow *row;
        int r = requests_current(tree, host, &row);
        if (r == TREE_NONE)
                return 0;
        if (r != 0 || row->ended != 0)
                return r;
        row->ended = MAX(tree->meta.cluster_usec, UINT64_C(1)); /* 0 means: current */
        request_touch(tree, row);
        return request_index(tree, row);
}

/* A lower start than the known one: an old image, or an announcement that travelled longer than its process
 * lived. The same start with another nonce: a copy, and nobody can tell which of the two is the right one.
 */
static bool start_is_refused(Tree *tree, RequestRow *row, const Command *command) {
        if (command->start == row->start && memcmp(command->start_nonce.data, row->start_nonce, 16) != 0 &&
            !row->twice) {
                row->twice = true;
                request_touch(tree, row);
        }
        return command->start < row->start || row->twice;
}

/* The announcement of an agent process. Its index is the incarnation; when the same nonce comes again (the
 * first leader died, the agent announced once more) the first one holds. */
int apply_announce(Apply *apply) {
        Tree *tree = apply->tree;
        const Command *command = apply->command;
        if (command->nonce.size != 16 || command->start_nonce.size != 16) {
                apply->result.status = RESULT_INVALID;
                return 0;
        }
        RequestRow *current;
        int r = requests_current(tree, command->host, &current);
        if (r != 0 && r != TREE_NONE)
                return r;
        if (r == 0 && current->ended == 0 && memcmp(current->nonce, command->nonce.data, 16) == 0) {
                apply->result.number = current->incarnation;
                return 0;
        }
        if (r == 0 && start_is_refused(tree, current, command)) {
                apply->result.status = RESULT_STALE;
                return 0;
        }
        r = requests_end(tree, command->host);
        if (r != 0)
                return r;

        RequestRow *row = calloc(1, sizeof(RequestRow));
        if (!row)
                return -ENOMEM;
        row->host = command->host;
        row->incarnation = apply->entry->index;
        row->dirty = true;
        memcpy(row->nonce, command->nonce.data, 16);
        row->start = command->start;
        memcpy(row->start_nonce, command->start_nonce.data, 16);
        apply->result.number = row->incarnation;
        tree->pages++;
        return request_seat(tree, row);
}

/* ---- The hour ---- */

static int expiry_first(Tree *tree, uint8_t ret_key[static 24]) {
        static const uint8_t highest[25] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                            255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
        sqlite3_stmt *s;
        int r = sql_acquire(tree, STMT_INDEX_RANGE, &s);
        if (r != 0)
                return r;
        bind_u64(s, 1, INDEX_EXPIRY);
        bind_bytes(s, 2, "", 0);
        bind_bytes(s, 3, highest, sizeof(highest));
        r = sql_step(tree, s);
        if (r == 0) {
                Bytes key = column_bytes(s, 0);
                if (key.size == 24)
                        memcpy(ret_key, key.data, 24);
                else
                        r = TREE_ROTTEN;
        }
        sql_release(tree, STMT_INDEX_RANGE, s);
        return r;
}

int requests_load_expiry(Tree *tree) {
        uint8_t key[24];
        int r = expiry_first(tree, key);
        if (r != 0 && r != TREE_NONE)
                return r;
        tree->next_expiry = r == 0 ? key_read(key) : USEC_INFINITY;
        return 0;
}

static int request_drop(Tree *tree, const uint8_t key[static 24]) {
        if (key_read(key + 16) == 0)
                return kept_expire(tree, key_read(key + 8));
        RequestRow **slot = request_slot(tree, key_read(key + 8));
        if (*slot && (*slot)->host == key_read(key + 8) && (*slot)->incarnation == key_read(key + 16))
                *slot = request_row_free(*slot);
        int r = record_delete(tree, RECORD_REQUESTS, BYTES(key + 8, 16));
        return r != 0 ? r : index_delete(tree, INDEX_EXPIRY, BYTES(key, 24));
}

/* Deterministic: cluster time comes with the entries, and the number per entry is fixed. */
int requests_expire(Tree *tree) {
        if (tree->next_expiry > tree->meta.cluster_usec)
                return 0;
        for (size_t i = 0; i < TREE_EXPIRE_ROWS && tree->next_expiry <= tree->meta.cluster_usec; i++) {
                uint8_t key[24];
                int r = expiry_first(tree, key);
                if (r == 0)
                        r = request_drop(tree, key);
                if (r == 0)
                        r = requests_load_expiry(tree);
                if (r != 0)
                        return r == TREE_NONE ? TREE_ROTTEN : r;
        }
        return 0;
}

/* ---- Reading ---- */

TreeOutcome request_outcome(const RequestRow *row, bool over, uint64_t serial, Result *ret_result) {
        if (serial > row->highest)
                return over ? TREE_OUTCOME_NEVER : TREE_OUTCOME_UNDECIDED;
        size_t low = row->first, high = row->first + row->n_results; /* their serials rise */
        while (low < high) {
                size_t middle = low + (high - low) / 2;
                const RequestResult *result = row->results + middle;
                if (result->serial == serial) {
                        *ret_result = result->result;
                        return TREE_OUTCOME_APPLIED;
                }
                if (result->serial < serial)
                        low = middle + 1;
                else
                        high = middle;
        }
        return serial < row->floor ? TREE_OUTCOME_TOO_OLD : TREE_OUTCOME_NEVER;
}

static TreeOutcome row_outcome(Tree *tree, uint64_t host, uint64_t incarnation, uint64_t serial,
                               Result *ret_result) {
        RequestRow *current;
        int r = requests_current(tree, host, &current);
        if (r == 0 && current->incarnation == incarnation)
                return request_outcome(current, current->ended != 0, serial, ret_result);

        uint8_t key[16];
        Bytes body;
        _cleanup_(request_row_freep) RequestRow *row = NULL;
        request_key(key, host, incarnation);
        r = record_get(tree, RECORD_REQUESTS, BYTES(key, 16), &body);
        if (r == 0)
                r = request_decode(BYTES(key, 16), body, &row);
        if (r < 0) /* a disk that does not answer says nothing about the request */
                return TREE_OUTCOME_UNDECIDED;
        return r == 0 ? request_outcome(row, true, serial, ret_result) : TREE_OUTCOME_TOO_OLD;
}

TreeOutcome tree_outcome(Tree *tree, uint64_t host, uint64_t incarnation, uint64_t serial,
                         Result *ret_result) {
        if (incarnation > tree->meta.applied)
                return TREE_OUTCOME_UNDECIDED; /* its announcement did not apply here yet */

        TreeOutcome outcome = row_outcome(tree, host, incarnation, serial, ret_result);
        return outcome != TREE_OUTCOME_TOO_OLD ? outcome
                                               : kept_outcome(tree, host, incarnation, serial, ret_result);
}

int tree_incarnation(Tree *tree, uint64_t host, uint64_t *ret_incarnation, uint8_t ret_nonce[static 16]) {
        RequestRow *row;
        int r = requests_current(tree, host, &row);
        if (r != 0)
                return r;
        if (row->ended != 0)
                return TREE_NONE;
        *ret_incarnation = row->incarnation;
        memcpy(ret_nonce, row->nonce, 16);
        return 0;
}

int tree_start(Tree *tree, uint64_t host, TreeStart *ret) {
        RequestRow *row;
        int r = requests_current(tree, host, &row);
        if (r != 0)
                return r;
        *ret = (TreeStart){.start = row->start, .twice = row->twice};
        memcpy(ret->nonce, row->start_nonce, sizeof(ret->nonce));
        return 0;
}
