/* Words for the journal. One call, one line; who listens is decided once: the journal when stderr is
 * connected to it, else stderr, or a function of the caller (the simulation). Values of entries never appear
 * in it. */
#pragma once

#include <syslog.h>
#include "base/macros.h"

void journal_open(const char *identifier); /* chooses the target */
void journal_set_level(int level);         /* LOG_ERR … LOG_DEBUG */
int journal_level(void);
/* Redirect all lines (NULL: back to the default). */
void journal_set_sink(void (*sink)(int level, const char *text, void *userdata), void *userdata);

/* message_id: 32 hex digits of a catalog entry, or NULL. Returns -error so that `return journal_errno(…)`
 * works. */
int journal_write(int level, int error, const char *message_id, const char *unit, const char *format, ...)
        _printf_(5, 6);

#define log_debug(...)            journal_write(LOG_DEBUG, 0, NULL, NULL, __VA_ARGS__)
#define log_info(...)             journal_write(LOG_INFO, 0, NULL, NULL, __VA_ARGS__)
#define log_notice(...)           journal_write(LOG_NOTICE, 0, NULL, NULL, __VA_ARGS__)
#define log_warning(...)          journal_write(LOG_WARNING, 0, NULL, NULL, __VA_ARGS__)
#define log_error(...)            journal_write(LOG_ERR, 0, NULL, NULL, __VA_ARGS__)
#define log_error_errno(e, ...)   journal_write(LOG_ERR, (e), NULL, NULL, __VA_ARGS__)
#define log_warning_errno(e, ...) journal_write(LOG_WARNING, (e), NULL, NULL, __VA_ARGS__)
/* A line about a unit that shall appear in that unit's journal too (root only). */
#define log_unit(level, unit, ...) journal_write((level), 0, NULL, (unit), __VA_ARGS__)
