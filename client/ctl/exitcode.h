/* The numbers scripts rely on; treatyctl(1) EXIT STATUS. Pure. */
#pragma once

typedef enum ExitCode {
        EXIT_OK = 0,
        EXIT_ERROR = 1,
        EXIT_USAGE = 2,
        EXIT_NOT_SO = 3,  /* not quorate, not decided, absent (-q) */
        EXIT_NO_SUCH = 4, /* entry, service, member, request */
        EXIT_DENIED = 5,
        EXIT_NO_QUORUM = 6, /* never offered: will never be applied */
        EXIT_TIMEOUT = 7,
        EXIT_CONFLICT = 8, /* not at that revision, exists already */
        EXIT_UNKNOWN = 9,  /* its fate is not known yet: treatyctl outcome */
} ExitCode;

/* What an errno of libtreaty is for scripts. 0 and positive: EXIT_OK. */
ExitCode exit_code(int error);
