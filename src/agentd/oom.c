/* The kernel's counter of out-of-memory kills. */
#include "oom.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define KEY "oom_kill "

uint64_t agent_oom_parse(const char *text)
{
    const char *at = text;
    uint64_t value = 0;

    while (at && strncmp(at, KEY, sizeof KEY - 1) != 0) {
        at = strchr(at, '\n');
        if (at)
            at++;
    }
    if (!at)
        return 0;
    for (at += sizeof KEY - 1; *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    return value;
}

static bool read_file(int fd, char *text, size_t cap)
{
    ssize_t n = pread(fd, text, cap - 1, 0);

    if (n <= 0)
        return false;
    text[n] = '\0';
    return true;
}

void agent_oom_init(agent_oom *o)
{
    static const char *const files[] = {
        "/sys/fs/cgroup/memory.events",
        "/sys/fs/cgroup/memory/memory.oom_control",
    };
    char text[512];

    o->explained = 0;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        o->fd = open(files[i], O_RDONLY | O_CLOEXEC);
        if (o->fd >= 0 && read_file(o->fd, text, sizeof text) && strstr(text, KEY))
            return;
        if (o->fd >= 0)
            close(o->fd);
    }
    o->fd = -1;
}

uint64_t agent_oom_count(const agent_oom *o)
{
    char text[512];

    return o->fd >= 0 && read_file(o->fd, text, sizeof text) ? agent_oom_parse(text) : 0;
}

bool agent_oom_judge(agent_oom *o, uint64_t at_start, bool killed)
{
    uint64_t now = agent_oom_count(o);

    if (now <= at_start)
        return false;
    if (killed) {
        o->explained = now;
        return true;
    }
    return now > o->explained;
}
