/* What a room wants a person to know and cannot say by an outcome alone ("segment 7, offset 4096: …"). Rooms
 * do not log: they tell their owner, who does. */
#pragma once

#include <stdarg.h>
#include <stdio.h>
#include <syslog.h>
#include "macros.h"

typedef struct Report {
        void (*say)(void *userdata, int level, const char *text); /* level as in syslog(3) */
        void *userdata;
        /* May be NULL: what is in the message catalog, by its id; a person has to act. */
        void (*alarm)(void *userdata, const char *message_id, const char *text);
} Report;

static inline _printf_(3, 4) void report_say(const Report *report, int level, const char *format, ...) {
        if (!report || !report->say)
                return;
        char text[1024];
        va_list ap;
        va_start(ap, format);
        vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        report->say(report->userdata, level, text);
}

static inline _printf_(3, 4) void report_alarm(const Report *report, const char *message_id,
                                               const char *format, ...) {
        if (!report || (!report->say && !report->alarm))
                return;
        char text[1024];
        va_list ap;
        va_start(ap, format);
        vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        if (report->alarm)
                report->alarm(report->userdata, message_id, text);
        else
                report->say(report->userdata, LOG_ALERT, text);
}
