/* See shape.h. */
#include "shape.h"

#include <string.h>

void shape_deinit(Shape *shape) {
        free(shape->terms);
        free(shape->confs);
        free(shape->marks);
        *shape = (Shape){};
}

static int grow(void **array, size_t *capacity, size_t n, size_t size) {
        if (n < *capacity)
                return 0;
        size_t more = MAX(*capacity * 2, (size_t)16);
        void *p = reallocarray(*array, more, size);
        if (!p)
                return -ENOMEM;
        *array = p;
        *capacity = more;
        return 0;
}

/* Position of the last element whose index is at most `index`, plus one; 0 when there is none. All three
 * kinds of elements begin with their index. */
static size_t count_up_to(const void *array, size_t n, size_t size, uint64_t index) {
        size_t low = 0, high = n;
        while (low < high) {
                size_t middle = low + (high - low) / 2;
                uint64_t at;
                memcpy(&at, (const uint8_t *)array + middle * size, sizeof(at));
                if (at <= index)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

static_assert(offsetof(Mark, index) == 0 && offsetof(ShapeTerm, index) == 0 &&
                      offsetof(ShapeConf, index) == 0,
              "elements begin with their index");

#define UP_TO(shape, what, i) count_up_to((shape)->what, (shape)->n_##what, sizeof(*(shape)->what), (i))

static void drop_front(void *array, size_t *n, size_t size, size_t drop) {
        if (drop == 0)
                return;
        *n -= drop;
        memmove(array, (uint8_t *)array + drop * size, *n * size);
}

uint64_t shape_term_of(const Shape *shape, uint64_t index) {
        assert(index >= shape->state.base_index && index <= shape->state.last_index);
        size_t n = UP_TO(shape, terms, index);
        return n > 0 ? shape->terms[n - 1].term : shape->state.base_term;
}

const Conf *shape_conf_at(const Shape *shape, uint64_t index, uint64_t *ret_index) {
        size_t n = UP_TO(shape, confs, index);
        *ret_index = n > 0 ? shape->confs[n - 1].index : shape->state.base_conf_index;
        return n > 0 ? &shape->confs[n - 1].conf : &shape->state.base_conf;
}

bool shape_has(const Shape *shape, uint64_t index, uint64_t term) {
        return index >= shape->state.base_index && index <= shape->state.last_index &&
               shape_term_of(shape, index) == term;
}

const Mark *shape_find(const Shape *shape, uint64_t index) {
        if (index <= shape->state.base_index || index > shape->state.last_index)
                return NULL;
        size_t n = UP_TO(shape, marks, index);
        return n > 0 ? shape->marks + n - 1 : NULL;
}

void shape_trim(Shape *shape, uint64_t index) {
        LogState *state = &shape->state;
        assert(index >= state->base_index && index <= state->last_index);

        uint64_t conf_index;
        Conf conf = *shape_conf_at(shape, index, &conf_index);
        state->base_term = shape_term_of(shape, index);
        state->base_conf = conf;
        state->base_conf_index = conf_index;
        state->base_index = index;
        state->commit = MAX(state->commit, index);

        /* A term that reaches over the new base goes on behind it. */
        size_t n_terms = UP_TO(shape, terms, index);
        drop_front(shape->terms, &shape->n_terms, sizeof(*shape->terms), n_terms);
        drop_front(shape->confs, &shape->n_confs, sizeof(*shape->confs), UP_TO(shape, confs, index));
        size_t n_marks = UP_TO(shape, marks, index + 1);
        drop_front(shape->marks, &shape->n_marks, sizeof(*shape->marks), n_marks > 0 ? n_marks - 1 : 0);
        if (index == state->last_index)
                shape->n_marks = 0, shape->mark_next = true;
}

static void clear(Shape *shape, uint64_t index, uint64_t term, const Conf *conf, uint64_t conf_index) {
        LogState *state = &shape->state;
        shape->n_terms = shape->n_confs = shape->n_marks = 0;
        shape->mark_next = true;
        state->base_index = state->last_index = state->commit = index;
        state->base_term = state->last_term = term;
        state->base_conf = *conf;
        state->base_conf_index = conf_index;
}

static int apply_segment(Shape *shape, const Record *record) {
        LogState *state = &shape->state;
        Anchor anchor;
        Summary summary;
        /* The crc was checked by who read the record; here only the fields are wanted. */
        if (anchor_read(record->payload.data - RECORD_FRAME, record, &anchor) != 0 ||
            summary_read(record, &summary) != 0)
                return SHAPE_CONTRADICTS;
        if (anchor.commit > record->index)
                return SHAPE_CONTRADICTS;
        if (!shape->begun)
                clear(shape, record->index, record->term, &summary.conf, summary.conf_index);
        else if (record->index != state->last_index || record->term != state->last_term)
                return SHAPE_CONTRADICTS;

        shape->begun = true;
        shape->mark_next = true;
        state->term = anchor.term;
        state->vote = anchor.vote;
        state->commit = MAX(state->commit, anchor.commit);
        state->start = anchor.start;
        memcpy(state->start_nonce, summary.start_nonce, sizeof(state->start_nonce));
        state->damaged = summary.damaged;
        memcpy(state->tree_name, summary.tree_name, sizeof(state->tree_name));
        return 0;
}

static int apply_header(Shape *shape, const Record *record) {
        Anchor anchor;
        if (anchor_read(record->payload.data - RECORD_FRAME, record, &anchor) != 0 ||
            anchor.commit > shape->state.last_index)
                return SHAPE_CONTRADICTS;
        shape->state.commit = MAX(shape->state.commit, anchor.commit);
        return 0;
}

static int mark_entry(Shape *shape, const Record *record, const Place *place) {
        if (!shape->marked)
                return 0;
        if (shape->n_marks == 0 || shape->mark_next || shape->mark_entries >= MARK_ENTRIES ||
            shape->mark_bytes >= MARK_BYTES) {
                int r = grow((void **)&shape->marks, &shape->capacity_marks, shape->n_marks, sizeof(Mark));
                if (r < 0)
                        return r;
                shape->marks[shape->n_marks++] = (Mark){.index = record->index, .place = *place};
                shape->mark_next = false;
                shape->mark_bytes = shape->mark_entries = 0;
        }
        shape->mark_bytes += record->size;
        shape->mark_entries++;
        return 0;
}

static int apply_entry(Shape *shape, const Record *record, const Place *place) {
        LogState *state = &shape->state;
        if (record->index != state->last_index + 1 || record->term < state->last_term)
                return SHAPE_CONTRADICTS;
        if (record->kind < ENTRY_NOOP || record->kind > ENTRY_COMMAND)
                return SHAPE_CONTRADICTS;

        Conf conf;
        if (record->kind == ENTRY_CONF && conf_decode(record->payload, &conf) < 0)
                return SHAPE_CONTRADICTS;

        int r = grow((void **)&shape->terms, &shape->capacity_terms, shape->n_terms, sizeof(ShapeTerm));
        if (r < 0)
                return r;
        r = grow((void **)&shape->confs, &shape->capacity_confs, shape->n_confs, sizeof(ShapeConf));
        if (r < 0)
                return r;
        r = mark_entry(shape, record, place);
        if (r < 0)
                return r;

        if (record->term != state->last_term)
                shape->terms[shape->n_terms++] = (ShapeTerm){.index = record->index, .term = record->term};
        if (record->kind == ENTRY_CONF)
                shape->confs[shape->n_confs++] = (ShapeConf){.index = record->index, .conf = conf};
        state->last_index = record->index;
        state->last_term = record->term;
        return 0;
}

static int apply_truncate(Shape *shape, const Record *record) {
        LogState *state = &shape->state;
        Conf conf;
        if (record->index == 0 || record->index > state->last_index || record->payload.size < 8 ||
            conf_decode(BYTES(record->payload.data + 8, record->payload.size - 8), &conf) < 0)
                return SHAPE_CONTRADICTS;

        uint64_t last = record->index - 1;
        if (last < state->base_index) {
                /* What the first segment's header calls its base was truncated later, and then the segments
                 * before it were trimmed: the record tells the true base. */
                clear(shape, last, record->term, &conf, bytes_get_u64(record->payload.data));
                return 0;
        }
        if (shape_term_of(shape, last) != record->term)
                return SHAPE_CONTRADICTS;

        shape->n_terms = UP_TO(shape, terms, last);
        shape->n_confs = UP_TO(shape, confs, last);
        shape->n_marks = last > state->base_index ? UP_TO(shape, marks, last) : 0;
        shape->mark_next = true;
        state->last_index = last;
        state->last_term = record->term;
        state->commit = MIN(state->commit, last);
        return 0;
}

static int apply_base(Shape *shape, const Record *record) {
        LogState *state = &shape->state;
        const uint8_t *from = record->payload.data;
        Conf conf;
        if (record->payload.size < 32 || conf_decode(BYTES(from + 32, record->payload.size - 32), &conf) < 0)
                return SHAPE_CONTRADICTS;

        bool kept = bytes_get_u64(from) != 0;
        if (!kept)
                clear(shape, record->index, record->term, &conf, bytes_get_u64(from + 24));
        else if (record->index >= state->base_index) {
                if (!shape_has(shape, record->index, record->term))
                        return SHAPE_CONTRADICTS;
                shape_trim(shape, record->index);
                state->base_conf = conf;
                state->base_conf_index = bytes_get_u64(from + 24);
        } /* else the log was trimmed beyond it since */
        state->term = bytes_get_u64(from + 8);
        state->vote = bytes_get_u64(from + 16);
        return 0;
}

static int apply_small(Shape *shape, const Record *record) {
        LogState *state = &shape->state;
        switch (record->type) {
        case RECORD_HARD:
                if (record->payload.size != 8)
                        return SHAPE_CONTRADICTS;
                state->term = record->term;
                state->vote = bytes_get_u64(record->payload.data);
                return 0;
        case RECORD_TREE:
                if (record->payload.size >= LOG_TREE_NAME_BYTES)
                        return SHAPE_CONTRADICTS;
                memset(state->tree_name, 0, sizeof(state->tree_name));
                memcpy(state->tree_name, record->payload.data, record->payload.size);
                return 0;
        case RECORD_DAMAGE:
                if (record->payload.size != DAMAGE_BYTES)
                        return SHAPE_CONTRADICTS;
                state->damaged = bytes_get_u64(record->payload.data) != 0;
                state->term = bytes_get_u64(record->payload.data + 8);
                state->vote = bytes_get_u64(record->payload.data + 16);
                return 0;
        case RECORD_CLEAN:
                return 0;
        case RECORD_SEGMENT:
        case RECORD_HEADER:
        case RECORD_ENTRY:
        case RECORD_BASE:
        case RECORD_TRUNCATE:
                break;
        }
        return SHAPE_CONTRADICTS;
}

static int apply(Shape *shape, const Record *record, const Place *place) {
        switch (record->type) {
        case RECORD_SEGMENT:
                return apply_segment(shape, record);
        case RECORD_HEADER:
                return apply_header(shape, record);
        case RECORD_ENTRY:
                return apply_entry(shape, record, place);
        case RECORD_TRUNCATE:
                return apply_truncate(shape, record);
        case RECORD_BASE:
                return apply_base(shape, record);
        case RECORD_HARD:
        case RECORD_TREE:
        case RECORD_DAMAGE:
        case RECORD_CLEAN:
                break;
        }
        return apply_small(shape, record);
}

int shape_apply(Shape *shape, const Record *record, const Place *place) {
        if (!shape->begun && record->type != RECORD_SEGMENT)
                return SHAPE_CONTRADICTS;
        int r = apply(shape, record, place);
        if (r != 0)
                return r;
        assert(shape->state.base_index <= shape->state.commit);
        assert(shape->state.commit <= shape->state.last_index);
        return 0;
}

size_t base_write(uint8_t to[static BASE_BYTES_MAX], bool kept, uint64_t hard_term, uint64_t hard_vote,
                  uint64_t conf_index, const Conf *conf) {
        bytes_put_u64(to, kept);
        bytes_put_u64(to + 8, hard_term);
        bytes_put_u64(to + 16, hard_vote);
        bytes_put_u64(to + 24, conf_index);
        return 32 + conf_encode(conf, to + 32);
}

size_t truncate_write(uint8_t to[static TRUNCATE_BYTES_MAX], uint64_t conf_index, const Conf *conf) {
        bytes_put_u64(to, conf_index);
        return 8 + conf_encode(conf, to + 8);
}
