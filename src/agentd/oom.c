/* The kernel's counter of out-of-memory kills. */
#include "oom.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cgroup.h"

#define KEY "oom_kill"

static bool read_counter(int fd, uint64_t *ret)
{
    char text[512];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);

    if (n <= 0)
        return false;
    text[n] = '\0';
    return agent_cgroup_parse(text, KEY, ret);
}

void agent_oom_init(agent_oom *o)
{
    static const char *const files[] = {
        "/sys/fs/cgroup/memory.events",
        "/sys/fs/cgroup/memory/memory.oom_control",
    };

    *o = (agent_oom){.fd = -1};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        o->fd = open(files[i], O_RDONLY | O_CLOEXEC);
        if (o->fd >= 0 && read_counter(o->fd, &o->told))
            return;
        if (o->fd >= 0)
            close(o->fd);
    }
    o->fd = -1;
}

uint64_t agent_oom_count(const agent_oom *o)
{
    uint64_t count = 0;

    return o->fd >= 0 && read_counter(o->fd, &count) ? count : 0;
}

bool agent_oom_judge(agent_oom *o, uint64_t at_start, bool killed, const char *id, size_t id_len)
{
    uint64_t now = agent_oom_count(o);

    if (now <= at_start)
        return false;
    if (!killed)
        return now > o->explained;
    o->explained = now;
    if (now > o->told) {
        o->due = true;
        memcpy(o->victim, id, id_len);
        o->victim[id_len] = '\0';
    }
    return true;
}

uint64_t agent_oom_look(agent_oom *o)
{
    if (o->due)
        return 0;
    if (agent_oom_count(o) <= o->told) {
        o->seen = false;
        return AGENT_OOM_LOOK_MS;
    }
    if (o->seen)
        return 0;
    o->seen = true;
    return AGENT_OOM_AGAIN_MS;
}

size_t agent_oom_tell(agent_oom *o, const char *only, char line[AGENT_OOM_LINE])
{
    const char *victim = o->victim[0] != '\0' ? o->victim : only;
    uint64_t now = agent_oom_count(o);
    char limit[40] = "", many[40] = "";
    uint64_t bytes;

    if (agent_cgroup_memory_limit(&bytes))
        (void)snprintf(limit, sizeof limit, " of %llu MB", (unsigned long long)(bytes >> 20));
    if (now - o->told > 1)
        (void)snprintf(many, sizeof many, " (%llu in all)", (unsigned long long)(now - o->told));
    (void)snprintf(line, AGENT_OOM_LINE,
                   "out of memory: the sandbox's limit%s was reached; a process%s%s was killed%s; "
                   "give it more memory (limits.memoryMb)",
                   limit, victim[0] != '\0' ? " of exec " : "", victim, many);
    o->told = now;
    o->victim[0] = '\0';
    o->due = o->seen = false;
    return strlen(line);
}
