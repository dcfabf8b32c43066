/* The machine-id is given by the owner in the environment, so that it stays the same over restarts
 * whatever the file holds; what the image brings is the same for all, and must not stay. */
#include "machine.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sbx/core/agent_proto.h"

#define ID_DIGITS 32
#define PLACE     "/etc/machine-id"

static bool is_id(const char *id)
{
    return id && strlen(id) == ID_DIGITS && strspn(id, "0123456789abcdef") == ID_DIGITS;
}

void agent_machine_id(void)
{
    const char *id = getenv(SBX_PROTO_MACHINE_ENV);
    char line[ID_DIGITS + 1];
    int fd;

    if (is_id(id)) {
        memcpy(line, id, ID_DIGITS);
        line[ID_DIGITS] = '\n';
        (void)unlink(PLACE); /* it may be a link, or read-only */
        fd = open(PLACE, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
        if (fd >= 0) {
            (void)!write(fd, line, sizeof line);
            (void)fchmod(fd, 0444);
            (void)close(fd);
        }
    }
    (void)unsetenv(SBX_PROTO_MACHINE_ENV);
}
