/* Which units may have an [X-Treaty] section? PID 1 does not tell, and asking it about every unit on disk
 * makes it load them all. So the files are looked through for the word, and only those units that have it,
 * in their fragment or in a drop-in directory that applies to them, are asked about. A mark that is too
 * broad costs a question; the answer (FragmentPath, DropInPaths) is always PID 1's. */
#pragma once

#include "words.h"

typedef struct Marks {
        Words units;    /* "web.service", "web@.service": fragment or drop-ins have the word */
        Words prefixes; /* "web-" + ".service": from web-.service.d; "" + ".service": from service.d */
        Words names;    /* all unit files seen, marked or not, some twice; templates left out */
} Marks;

void marks_deinit(Marks *marks);
int scan_directories(Marks *marks, const Words *directories);
/* Only what concerns one unit, for units that appear between scans. */
int scan_unit(Marks *marks, const Words *directories, const char *unit);
bool marks_cover(const Marks *marks, const char *unit);
bool unit_name_is_usable(const char *unit); /* of a type that can have a section; no template */
