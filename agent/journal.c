/* See journal.h. Lines go to the journal by its native protocol when stderr is connected to it
 * (systemd.exec(5), $JOURNAL_STREAM), so that they carry fields; else to stderr with a level, for a person
 * at a terminal. */
#define SD_JOURNAL_SUPPRESS_LOCATION
#include "journal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <systemd/sd-journal.h>

static int max_level = LOG_INFO;
static bool to_journal;
static const char *identifier = "treaty";
static void (*sink)(int level, const char *text, void *userdata);
static void *sink_userdata;

static bool stderr_is_journal(void) {
        const char *stream = getenv("JOURNAL_STREAM");
        unsigned long long device, inode;
        struct stat st;

        return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
               fstat(STDERR_FILENO, &st) >= 0 && st.st_dev == device && st.st_ino == inode;
}

void journal_open(const char *name) {
        identifier = name;
        to_journal = stderr_is_journal();
}

void journal_set_level(int level) {
        max_level = level;
}

int journal_level(void) {
        return max_level;
}

void journal_set_sink(void (*function)(int, const char *, void *), void *userdata) {
        sink = function;
        sink_userdata = userdata;
}

static void send_to_journal(int level, int error, const char *message_id, const char *unit,
                            const char *text) {
        char fields[5][320];
        int n = 0;

        snprintf(fields[n++], sizeof(fields[0]), "PRIORITY=%d", level);
        snprintf(fields[n++], sizeof(fields[0]), "SYSLOG_IDENTIFIER=%s", identifier);
        if (error != 0)
                snprintf(fields[n++], sizeof(fields[0]), "ERRNO=%d", abs(error));
        if (message_id)
                snprintf(fields[n++], sizeof(fields[0]), "MESSAGE_ID=%s", message_id);
        if (unit)
                snprintf(fields[n++], sizeof(fields[0]), "OBJECT_SYSTEMD_UNIT=%s", unit);

        char message[2080];
        snprintf(message, sizeof(message), "MESSAGE=%s", text);

        struct iovec iov[ELEMENTSOF(fields) + 1];
        for (int i = 0; i < n; i++)
                iov[i] = (struct iovec){.iov_base = fields[i], .iov_len = strlen(fields[i])};
        iov[n] = (struct iovec){.iov_base = message, .iov_len = strlen(message)};
        (void)sd_journal_sendv(iov, n + 1);
}

int journal_write(int level, int error, const char *message_id, const char *unit, const char *format, ...) {
        if (level > max_level && !sink)
                return -abs(error);

        char text[2048];
        va_list ap;
        va_start(ap, format);
        int n = vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        if (error != 0 && n >= 0 && (size_t)n < sizeof(text))
                snprintf(text + n, sizeof(text) - (size_t)n, ": %s", strerror(abs(error)));

        if (sink)
                sink(level, text, sink_userdata);
        else if (to_journal)
                send_to_journal(level, error, message_id, unit, text);
        else
                fprintf(stderr, "%s: %s\n", identifier, text);
        return -abs(error);
}
