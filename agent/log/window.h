/* A Window reads a file piece by piece, so that files of any size are walked with little memory. */
#pragma once

#include "disk.h"
#include "record.h"

typedef struct Window {
        Disk *disk;
        DiskFile *file;
        uint64_t start; /* of buffer in the file */
        Buffer buffer;
        unsigned
                patience; /* so many unreadable sectors are taken for zeros; then, and at 0, reading fails */
} Window;

enum {
        WINDOW_SHORT = 1, /* the file ends before */
};

int window_open(Window *window, Disk *disk, uint64_t segment); /* 0, -ENOENT, … */
void window_deinit(Window *window);                            /* closes the file */
void window_forget(Window *window);                            /* what was read ahead */
/* Is there a sector in this range that the disk does not give back? 1, 0, -errno. */
int window_unreadable(Window *window, uint64_t offset, size_t size);
/* *ret stays valid until the next call. */
int window_get(Window *window, uint64_t offset, size_t size, const uint8_t **ret); /* 0, WINDOW_SHORT */
/* The record at offset, if it is whole and follows `chain`: 0, RECORD_BROKEN, -errno. */
int window_record(Window *window, uint64_t offset, uint32_t chain, Record *ret);
/* An anchor at offset that knows its own place, whatever lies before it: 0, RECORD_BROKEN, RECORD_NEWER. */
int window_anchor(Window *window, uint64_t segment, uint64_t offset, Record *ret, Anchor *ret_anchor);
/* Where the next one could begin, in steps of eight from offset: what is in memory and cannot be one is
 * passed over. */
uint64_t window_likely(const Window *window, uint64_t offset);

#define SEGMENT_NAME_BYTES 32
void segment_name(char to[static SEGMENT_NAME_BYTES], uint64_t number); /* log-0123456789abcdef.seg */
bool segment_number(const char *name, uint64_t *ret);
