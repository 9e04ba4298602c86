/* See exitcode.h. */
#include "exitcode.h"

#include <errno.h>

ExitCode exit_code(int error) {
        if (error >= 0)
                return EXIT_OK;
        switch (-error) {
        case ENOENT:
        case ESRCH:
                return EXIT_NO_SUCH;
        case EACCES:
        case EPERM:
                return EXIT_DENIED;
        case ENETDOWN:
                return EXIT_NO_QUORUM;
        case ETIMEDOUT:
                return EXIT_TIMEOUT;
        case ESTALE:
        case EEXIST:
                return EXIT_CONFLICT;
        case EINPROGRESS:
        case ECONNRESET: /* the same for a script: it may or may not have been applied */
                return EXIT_UNKNOWN;
        default:
                return EXIT_ERROR;
        }
}
