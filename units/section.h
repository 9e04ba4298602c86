/* What a unit's own files ask for: the [X-Treaty] sections of its fragment and drop-ins, in the order in
 * which systemd applies them; treaty.unit(5). Nothing else, and nothing in the tree, ever chooses a unit, a
 * command or a path.
 *
 * A value that cannot be used breaks this unit's section as a whole: half of what somebody asked for may be
 * worse than nothing. Unknown keys only warn, they may belong to a newer treaty. Pure: bytes go in. */
#pragma once

#include "agent/base/unitfile.h"
#include "words.h"

#define SECTION_NAME           "X-Treaty"
#define SECTION_MAX_PATHS      16
#define SECTION_MAX_TEXTS      64
#define SECTION_MAX_PROPERTIES 64
#define SECTION_MAX_WARNINGS   16

typedef enum Action {
        ACTION_NONE,
        ACTION_START,             /* StartUnit */
        ACTION_RELOAD,            /* ReloadUnit, when active */
        ACTION_RESTART,           /* TryRestartUnit: when active */
        ACTION_RELOAD_OR_RESTART, /* ReloadOrTryRestartUnit: when active */
} Action;

const char *action_name(Action action); /* as in OnChange=; "" for none */

typedef struct Section {
        bool present;   /* some file has the section with a key in it */
        char *where;    /* FILE:LINE of the first key; broken: of the mistake */
        char *mistake;  /* not NULL: broken */
        Words warnings; /* "FILE:LINE: …" */

        Words watch; /* paths, no two equal */
        Action on_change;
        uint64_t settle_usec;

        char *service; /* NULL: not to be registered */
        uint16_t port, priority, weight;
        bool has_priority, has_weight;
        char *address;
        Words texts;
        Words properties; /* "key=value" */
} Section;

void section_init(Section *section);
void section_deinit(Section *section);
/* One file after another. 0, -ENOMEM; what is wrong with the file stands in the section. */
int section_feed(Section *section, const UnitFileNames *names, const char *path, Bytes content);
/* A file that could not be read. */
int section_feed_unreadable(Section *section, const char *path, int error);
/* Does all of it fit together? To be called once, last. */
int section_finish(Section *section);

bool section_has_trigger(const Section *section);
bool section_has_service(const Section *section);
/* Do both ask for the same? (warnings and places aside) */
bool section_equal(const Section *a, const Section *b);
