/* A Shape is what the log holds, without the entries' bytes: the state in force, where a term begins, the
 * configurations, and marks that say where an entry lies in which file. Records are applied to it one by
 * one, the same way whether they are read at start or were just written: so what memory says and what a
 * restart will find cannot differ. */
#pragma once

#include "record.h"

#define MARK_ENTRIES 64 /* a mark at least every so many entries … */
#define MARK_BYTES   (64 * 1024)

typedef struct Place {
        uint64_t segment;
        uint64_t offset;
        uint32_t chain; /* before the record there */
} Place;

/* The entries from this one to the next mark lie one behind the other from this place on, perhaps with
 * records of other types between them. */
typedef struct Mark {
        uint64_t index;
        Place place;
} Mark;

typedef struct ShapeTerm {
        uint64_t index; /* the first entry of the term */
        uint64_t term;
} ShapeTerm;

typedef struct ShapeConf {
        uint64_t index;
        Conf conf;
} ShapeConf;

/* Invariants: base_index <= commit <= last_index; the arrays rise by index and hold nothing above
 * last_index; terms and confs hold nothing at or below base_index. */
typedef struct Shape {
        bool begun; /* the first segment's header was seen */
        bool marked;
        LogState state;
        size_t n_terms, n_confs, n_marks;
        size_t capacity_terms, capacity_confs, capacity_marks;
        ShapeTerm *terms;
        ShapeConf *confs;
        Mark *marks;
        bool mark_next;      /* the next entry does not follow where the last one lies */
        size_t mark_bytes;   /* since the last mark */
        size_t mark_entries; /* since the last mark */
} Shape;

enum {
        SHAPE_CONTRADICTS = 1, /* the record does not fit what is there; nothing was changed */
};

void shape_deinit(Shape *shape);
int shape_apply(Shape *shape, const Record *record, const Place *place); /* 0, SHAPE_CONTRADICTS, -ENOMEM */
/* Entries at or before `index` are gone; base_index <= index <= last_index. */
void shape_trim(Shape *shape, uint64_t index);

uint64_t shape_term_of(const Shape *shape, uint64_t index); /* base_index <= index <= last_index */
const Conf *shape_conf_at(const Shape *shape, uint64_t index, uint64_t *ret_index); /* newest there */
bool shape_has(const Shape *shape, uint64_t index, uint64_t term);
const Mark *shape_find(const Shape *shape, uint64_t index); /* NULL: not there */

/* Payloads, in the layout of RecordType's comments. */
#define BASE_BYTES_MAX     (32 + CONF_BYTES_MAX)
#define DAMAGE_BYTES       24
#define TRUNCATE_BYTES_MAX (8 + CONF_BYTES_MAX)
size_t base_write(uint8_t to[static BASE_BYTES_MAX], bool kept, uint64_t hard_term, uint64_t hard_vote,
                  uint64_t conf_index, const Conf *conf);
size_t truncate_write(uint8_t to[static TRUNCATE_BYTES_MAX], uint64_t conf_index, const Conf *conf);
