/* The address book: whom to ask for a tree when this host's own is gone. Members, their keys and the
 * cluster's id live in the tree, and a host whose tree file is lost or rotten would otherwise know nobody.
 * So a few of them, the voters first, stand in a small file beside it: text with a sum at its end, replaced
 * as a whole whenever they change. It is read only when there is no tree; it grants nothing that the tree
 * did not. */
#include "hall.h"
#include "base/seen.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define BOOK_FILE     "book"
#define BOOK_FILE_NEW "book.new"
#define BOOK_BYTES    (128 * 1024)

static uint64_t sum_of(const char *text, size_t size) { /* FNV-1a: against rot, not against malice */
        uint64_t sum = UINT64_C(0xcbf29ce484222325);
        for (size_t i = 0; i < size; i++)
                sum = (sum ^ (uint8_t)text[i]) * UINT64_C(0x100000001b3);
        return sum;
}

/* ---- Writing ---- */

typedef struct Writer {
        Agent *agent;
        char *text;
        size_t size;
        unsigned n;
        bool voters;
} Writer;

static void _printf_(2, 3) put(Writer *writer, const char *format, ...) {
        va_list ap;
        va_start(ap, format);
        int n = vsnprintf(writer->text + writer->size, BOOK_BYTES - writer->size, format, ap);
        va_end(ap);
        writer->size = MIN(writer->size + (size_t)MAX(n, 0), (size_t)BOOK_BYTES - 1);
}

static int put_member(const Member *member, void *userdata) {
        Writer *writer = userdata;
        bool voter = conf_is_voter(&writer->agent->tree_status.conf, member->id);

        if (voter != writer->voters || writer->n == BOOK_MEMBERS ||
            BOOK_BYTES - writer->size < 2 * sizeof(Member))
                return 0;
        writer->n++;
        put(writer, "Member=%016" PRIx64 " %d %s ", member->id, (int)member->class,
            member->name[0] ? member->name : "-");
        for (uint32_t i = 0; i < member->n_keys; i++) {
                char hex[2 * KEY_HASH_BYTES + 1];
                put(writer, "%s%s", i > 0 ? "," : "", hex_write(hex, member->keys[i], KEY_HASH_BYTES));
        }
        for (uint32_t i = 0; i < member->n_addresses; i++)
                put(writer, " %s", member->addresses[i]);
        put(writer, "\n");
        return 0;
}

static int book_text(Writer *writer) {
        const TreeStatus *tree = &writer->agent->tree_status;
        char cluster[33];

        put(writer, "Version=1\nCluster=%s\nEpoch=%" PRIu64 "\nConfIndex=%" PRIu64 "\n",
            hex_write(cluster, tree->cluster, sizeof(tree->cluster)), tree->restore_epoch, tree->conf_index);
        for (uint32_t i = 0; i < tree->conf.n_voters; i++)
                put(writer, "Voter=%016" PRIx64 " %" PRIu64 "\n", tree->conf.voters[i].id,
                    tree->conf.voters[i].since);
        for (uint32_t i = 0; i < tree->conf.n_old; i++)
                put(writer, "OldVoter=%016" PRIx64 " %" PRIu64 "\n", tree->conf.old[i].id,
                    tree->conf.old[i].since);
        for (int pass = 0; pass < 2; pass++) {
                writer->voters = pass == 0;
                int r = tree_members(writer->agent->tree, put_member, writer);
                if (r != 0)
                        return r < 0 ? r : -EBADMSG;
        }
        put(writer, "Sum=%016" PRIx64 "\n", sum_of(writer->text, writer->size));
        return 0;
}

void book_note(Agent *agent) {
        if (agent->heal.bad || agent->heal.suspect || agent->tree_status.conf.n_voters == 0 ||
            agent->removed)
                return;
        _cleanup_(freep) char *text = malloc(BOOK_BYTES);
        if (!text)
                return; /* the next change of the members writes it */
        Writer writer = {.agent = agent, .text = text};
        if (book_text(&writer) < 0)
                return;
        uint64_t sum = sum_of(text, writer.size);
        if (sum == agent->heal.book_sum)
                return;
        SIM_SEEN("book: the members changed, and it is written");
        int r = state_file_replace(agent->options.disk, BOOK_FILE, BOOK_FILE_NEW, text, writer.size);
        if (r >= 0)
                agent->heal.book_sum = sum;
        else
                report_say(
                        &agent->report, LOG_WARNING,
                        "The file \"%s\" cannot be written (%s): should this host lose its tree, it may not know "
                        "whom to ask for it.",
                        BOOK_FILE, strerror(-r));
}

/* ---- Reading ---- */

static int read_id(const char *text, uint64_t *ret) {
        uint8_t bytes[8];
        char hex[17];
        if (snprintf(hex, sizeof(hex), "%s", text) < 16 || hex_read(hex, bytes, sizeof(bytes)) < 0)
                return -EBADMSG;
        *ret = 0;
        for (size_t i = 0; i < sizeof(bytes); i++)
                *ret = *ret << 8 | bytes[i];
        return *ret != 0 ? 0 : -EBADMSG;
}

static int read_voter(const char *text, ConfVoter *voters, uint32_t *n) {
        if (*n == LIMIT_VOTERS || strlen(text) < 18 || text[16] != ' ')
                return -EBADMSG;
        voters[*n].since = strtoull(text + 17, NULL, 10);
        return read_id(text, &voters[(*n)++].id);
}

static int read_keys(char *text, Member *member) {
        for (char *save = NULL, *key = strtok_r(text, ",", &save); key; key = strtok_r(NULL, ",", &save)) {
                if (member->n_keys == LIMIT_KEYS ||
                    hex_read(key, member->keys[member->n_keys++], KEY_HASH_BYTES) < 0)
                        return -EBADMSG;
        }
        return member->n_keys > 0 ? 0 : -EBADMSG;
}

static int read_member(char *text, Book *book) {
        if (book->n_members == BOOK_MEMBERS)
                return -EBADMSG;
        Member *member = &book->members[book->n_members];
        *member = (Member){.version = 1};

        char *save = NULL;
        char *id = strtok_r(text, " ", &save), *class = strtok_r(NULL, " ", &save);
        char *name = strtok_r(NULL, " ", &save), *keys = strtok_r(NULL, " ", &save);
        if (!id || !class || !name || !keys || read_id(id, &member->id) < 0 ||
            strlen(name) > LIMIT_NAME_BYTES)
                return -EBADMSG;
        member->class = strcmp(class, "2") == 0 ? MEMBER_LEAF : MEMBER_FULL;
        snprintf(member->name, sizeof(member->name), "%s", name);
        int r = read_keys(keys, member);
        if (r < 0)
                return r;
        for (char *address; (address = strtok_r(NULL, " ", &save));) {
                if (member->n_addresses == LIMIT_ADDRESSES || strlen(address) > LIMIT_ADDRESS_BYTES)
                        return -EBADMSG;
                snprintf(member->addresses[member->n_addresses++], sizeof(member->addresses[0]), "%s",
                         address);
        }
        book->n_members++;
        return 0;
}

static int read_line(char *line, Book *book) {
        char *value = strchr(line, '=');
        if (!value)
                return -EBADMSG;
        *value++ = 0;
        if (strcmp(line, "Version") == 0)
                return strcmp(value, "1") == 0 ? 0 : -EPROTONOSUPPORT;
        if (strcmp(line, "Cluster") == 0)
                return hex_read(value, book->cluster, sizeof(book->cluster)) < 0 ? -EBADMSG : 0;
        if (strcmp(line, "Epoch") == 0)
                return book->epoch = strtoull(value, NULL, 10), 0;
        if (strcmp(line, "ConfIndex") == 0)
                return book->conf_index = strtoull(value, NULL, 10), 0;
        if (strcmp(line, "Voter") == 0)
                return read_voter(value, book->conf.voters, &book->conf.n_voters);
        if (strcmp(line, "OldVoter") == 0)
                return read_voter(value, book->conf.old, &book->conf.n_old);
        if (strcmp(line, "Member") == 0)
                return read_member(value, book);
        return -EBADMSG;
}

/* Pure: the text with a NUL behind it, which is cut up. 0, -EBADMSG. */
int book_parse(char *text, size_t size, Book *ret) {
        char want[32];
        if (size < 22 || strlen(text) != size)
                return -EBADMSG;
        size_t end = size - 21; /* of "Sum=<16 hex>\n" */
        snprintf(want, sizeof(want), "Sum=%016" PRIx64 "\n", sum_of(text, end));
        if (strcmp(text + end, want) != 0)
                return -EBADMSG;
        text[end] = 0;

        *ret = (Book){};
        for (char *save = NULL, *line = strtok_r(text, "\n", &save); line;
             line = strtok_r(NULL, "\n", &save)) {
                int r = read_line(line, ret);
                if (r < 0)
                        return r;
        }
        return ret->conf.n_voters > 0 && ret->n_members > 0 ? 0 : -EBADMSG;
}

int book_load(Agent *agent, Book **ret) {
        _cleanup_(freep) char *text = malloc(BOOK_BYTES);
        _cleanup_(freep) Book *book = calloc(1, sizeof(Book));
        if (!text || !book)
                return -ENOMEM;
        int r = state_file_read(agent->options.disk, BOOK_FILE, text, BOOK_BYTES);
        if (r >= 0)
                r = book_parse(text, (size_t)r, book);
        if (r < 0)
                return r;
        SIM_SEEN("book: read, to find a tree");
        free(*ret);
        *ret = TAKE(book);
        return 0;
}
