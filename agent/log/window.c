/* See window.h. */
#include "window.h"

#include <stdio.h>
#include <string.h>

#define AHEAD      (256 * 1024)
#define SECTOR     512
#define TRIES      16
#define ANCHOR_MAX 4096 /* payload of an anchor, in versions to come too */

void segment_name(char to[static SEGMENT_NAME_BYTES], uint64_t number) {
        snprintf(to, SEGMENT_NAME_BYTES, "log-%016llx.seg", (unsigned long long)number);
}

bool segment_number(const char *name, uint64_t *ret) {
        uint8_t bytes[8];
        char digits[17] = {};
        if (strlen(name) != 24 || strncmp(name, "log-", 4) != 0 || strcmp(name + 20, ".seg") != 0)
                return false;
        memcpy(digits, name + 4, 16);
        if (hex_read(digits, bytes, 8) < 0)
                return false;
        uint64_t number = 0;
        for (int i = 0; i < 8; i++)
                number = number << 8 | bytes[i];
        *ret = number;
        return number > 0;
}

int window_open(Window *window, Disk *disk, uint64_t segment) {
        char name[SEGMENT_NAME_BYTES];
        segment_name(name, segment);

        unsigned patience = window->patience;
        window_deinit(window);
        DiskFile *file;
        int r = disk->ops->open(disk, name, false, &file);
        if (r < 0)
                return r;
        *window = (Window){.disk = disk, .file = file, .patience = patience};
        return 0;
}

void window_deinit(Window *window) {
        if (window->file)
                window->disk->ops->close(window->file);
        buffer_deinit(&window->buffer);
        *window = (Window){};
}

void window_forget(Window *window) {
        buffer_deinit(&window->buffer);
}

/* A disk that fails at some sectors gives back the others one by one. What is lost reads as zeros, which are
 * no record: so it is rot, to those who ask what lies there. A disk that fails everywhere is not rot. */
static int64_t read_around(Window *window, uint8_t *to, size_t size, uint64_t offset) {
        size_t at = 0;
        while (at < size) {
                size_t n = MIN(size - at, SECTOR - (size_t)((offset + at) % SECTOR));
                int64_t r = -EIO; /* a disk that only hesitated is not believed to have lost something */
                for (unsigned i = 0; i < TRIES && r == -EIO; i++)
                        r = window->disk->ops->read(window->file, to + at, n, offset + at);
                if (r == -EIO && window->patience > 0) {
                        window->patience--;
                        memset(to + at, 0, n);
                        r = (int64_t)n;
                }
                if (r < 0)
                        return r;
                at += (size_t)r;
                if ((size_t)r < n)
                        break;
        }
        return (int64_t)at;
}

int window_unreadable(Window *window, uint64_t offset, size_t size) {
        uint8_t sector[SECTOR];
        for (uint64_t at = offset - offset % SECTOR; at < offset + size; at += SECTOR) {
                int64_t r = window->disk->ops->read(window->file, sector, SECTOR, at);
                if (r < 0)
                        return r == -EIO ? 1 : (int)r;
                if (r < SECTOR)
                        break;
        }
        return 0;
}

int window_get(Window *window, uint64_t offset, size_t size, const uint8_t **ret) {
        Buffer *buffer = &window->buffer;
        if (offset < window->start || offset + size > window->start + buffer->size) {
                size_t want = MAX(size, (size_t)AHEAD);
                buffer->size = 0;
                int r = buffer_reserve(buffer, want);
                if (r < 0)
                        return r;
                int64_t n = window->disk->ops->read(window->file, buffer->data, want, offset);
                if (n == -EIO && window->patience == 0 && want > size) /* perhaps only what lies ahead */
                        n = window->disk->ops->read(window->file, buffer->data, size, offset);
                if (n == -EIO && window->patience > 0) {
                        want = MAX(size, (size_t)AHEAD / 16);
                        n = read_around(window, buffer->data, want, offset);
                }
                if (n < 0)
                        return (int)n;
                window->start = offset;
                buffer->size = (size_t)n;
                if (buffer->size < size)
                        return WINDOW_SHORT;
        }
        *ret = buffer->data + (offset - window->start);
        return 0;
}

/* The record at offset with all its bytes in the window, unchecked. */
static int window_view(Window *window, uint64_t offset, const uint8_t **ret_bytes, Record *ret) {
        const uint8_t *bytes;
        int r = window_get(window, offset, RECORD_FRAME, &bytes);
        if (r != 0)
                return r < 0 ? r : RECORD_BROKEN;
        size_t size = record_claim(bytes);
        if (size == 0)
                return RECORD_BROKEN;
        r = window_get(window, offset, size, &bytes);
        if (r != 0)
                return r < 0 ? r : RECORD_BROKEN;
        *ret_bytes = bytes;
        *ret = record_view(bytes);
        return 0;
}

int window_record(Window *window, uint64_t offset, uint32_t chain, Record *ret) {
        const uint8_t *bytes;
        int r = window_view(window, offset, &bytes, ret);
        if (r != 0)
                return r;
        return record_check(bytes, ret->size, chain) ? 0 : RECORD_BROKEN;
}

static bool is_anchor(uint8_t kind) {
        return kind == RECORD_HEADER || kind == RECORD_SEGMENT;
}

/* Most of a segment's end are zeros. */
uint64_t window_likely(const Window *window, uint64_t offset) {
        const Buffer *buffer = &window->buffer;
        if (offset < window->start)
                return offset;
        while (offset + RECORD_FRAME <= window->start + buffer->size &&
               !is_anchor(buffer->data[offset - window->start + 8]))
                offset += 8;
        return offset;
}

int window_anchor(Window *window, uint64_t segment, uint64_t offset, Record *ret, Anchor *ret_anchor) {
        /* First what is cheap: this is asked at many places of a segment. */
        const uint8_t *bytes;
        int r = window_get(window, offset, RECORD_FRAME, &bytes);
        if (r != 0)
                return r < 0 ? r : RECORD_BROKEN;
        if (!is_anchor(bytes[8]) || bytes_get_u32(bytes + 4) > ANCHOR_MAX)
                return RECORD_BROKEN;

        r = window_view(window, offset, &bytes, ret);
        if (r != 0)
                return r;
        r = anchor_read(bytes, ret, ret_anchor);
        if (r != 0)
                return r;
        return ret_anchor->segment == segment && ret_anchor->offset == offset ? 0 : RECORD_BROKEN;
}
