/* Reading the files of cgroups. */
#include "cgroup.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define NO_LIMIT ((uint64_t)1 << 60) /* v1 writes a number like this */

bool agent_file_read(const char *path, char *text, size_t cap)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t len = 0;
    ssize_t n;

    if (fd < 0)
        return false;
    while (len < cap - 1 && (n = read(fd, text + len, cap - 1 - len)) > 0)
        len += (size_t)n;
    close(fd);
    text[len] = '\0';
    return len > 0;
}

bool agent_cgroup_parse(const char *text, const char *key, uint64_t *ret)
{
    size_t len = key ? strlen(key) : 0;
    const char *at = text;

    while (at && key && (strncmp(at, key, len) != 0 || at[len] != ' ')) {
        at = strchr(at, '\n');
        if (at)
            at++;
    }
    if (!at)
        return false;
    at += key ? len + 1 : 0;
    if (*at < '0' || *at > '9')
        return false;
    for (*ret = 0; *at >= '0' && *at <= '9'; at++)
        *ret = *ret * 10 + (uint64_t)(*at - '0');
    return true;
}

static bool read_one(const agent_cgroup_file *f, uint64_t *ret)
{
    char text[8192];

    return f->path && agent_file_read(f->path, text, sizeof text) &&
           agent_cgroup_parse(text, f->key, ret);
}

bool agent_cgroup_read(const agent_cgroup_value *value, uint64_t *ret)
{
    return read_one(&value->v2, ret) || read_one(&value->v1, ret);
}

bool agent_cgroup_memory_limit(uint64_t *ret)
{
    static const agent_cgroup_value limit = {{"/sys/fs/cgroup/memory.max", NULL},
                                             {"/sys/fs/cgroup/memory/memory.limit_in_bytes", NULL}};

    return agent_cgroup_read(&limit, ret) && *ret < NO_LIMIT;
}
