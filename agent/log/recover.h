/* What a start finds on disk. Nothing is changed here: recovery only reads and judges; log.c acts on it. */
#pragma once

#include "shape.h"
#include "window.h"

typedef struct Segment {
        uint64_t number;
        uint64_t bytes; /* the file's size */
} Segment;

typedef struct Recovery {
        Shape shape;       /* after the last good record; when rotten: with what was salvaged behind it */
        uint32_t chain;    /* of the last good record */
        uint64_t number;   /* of the last good record; 0: none */
        uint64_t log_id;   /* 0: not known */
        Segment *segments; /* all files, numbers rising */
        size_t n_segments;
        size_t n_good; /* the first n_good of them hold good records, the last of these up to `end` */
        uint64_t end;  /* a multiple of 8; what lies behind is torn, rotten or zeros */
        bool rotten;
        bool clean;
        /* The last good segment holds nothing but small state: it can be replaced by one with this place. */
        bool replaceable;
        uint32_t replace_chain;
        uint64_t replace_number;
} Recovery;

int recovery_run(Recovery *recovery, Disk *disk, const Report *report); /* 0, LOG_NEWER, -errno */
void recovery_deinit(Recovery *recovery);
