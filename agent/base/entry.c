/* See entry.h. The stamp is written byte by byte so that it is the same on every machine. */
#include "entry.h"

#include <string.h>
#include "bytes.h"
#include "limits.h"

Entry *entry_new(EntryType type, uint64_t index, uint64_t term, const void *data, uint32_t size) {
        assert(size <= LIMIT_ENTRY_BYTES);

        Entry *entry = malloc(sizeof(Entry) + size);
        if (!entry)
                return NULL;

        *entry = (Entry){
                .n_refs = 1,
                .index = index,
                .term = term,
                .type = type,
                .size = size,
        };
        if (data && size > 0)
                memcpy(entry->data, data, size);
        return entry;
}

Entry *entry_ref(Entry *entry) {
        assert(entry && entry->n_refs > 0);
        entry->n_refs++;
        return entry;
}

Entry *entry_unref(Entry *entry) {
        if (!entry)
                return NULL;
        assert(entry->n_refs > 0);
        if (--entry->n_refs == 0)
                free(entry);
        return NULL;
}

void entry_stamp_write(uint8_t to[static ENTRY_STAMP_BYTES], const EntryStamp *stamp) {
        bytes_put_u32(to, stamp->min_version);
        bytes_put_u32(to + 4, 0);
        bytes_put_u64(to + 8, stamp->cluster_usec);
        bytes_put_u64(to + 16, stamp->wall_usec);
}

int entry_stamp_read(const Entry *entry, EntryStamp *ret) {
        if (entry->size < ENTRY_STAMP_BYTES)
                return -EBADMSG;
        *ret = (EntryStamp){
                .min_version = bytes_get_u32(entry->data),
                .reserved = bytes_get_u32(entry->data + 4),
                .cluster_usec = bytes_get_u64(entry->data + 8),
                .wall_usec = bytes_get_u64(entry->data + 16),
        };
        return ret->reserved == 0 ? 0 : -EBADMSG;
}
