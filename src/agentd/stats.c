/* From the kernel's files to a SAMPLE. Without cgroup files (gVisor) the processes are summed up.
 */
#include "stats.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cgroup.h"
#include "tree.h"

static const agent_cgroup_value cpu_us = {{"/sys/fs/cgroup/cpu.stat", "usage_usec"}, {NULL, NULL}};
static const agent_cgroup_value cpu_ns = {{NULL, NULL},
                                          {"/sys/fs/cgroup/cpuacct/cpuacct.usage", NULL}};
static const agent_cgroup_value memory = {{"/sys/fs/cgroup/memory.current", NULL},
                                          {"/sys/fs/cgroup/memory/memory.usage_in_bytes", NULL}};
static const agent_cgroup_value cache = {
    {"/sys/fs/cgroup/memory.stat", "inactive_file"},
    {"/sys/fs/cgroup/memory/memory.stat", "total_inactive_file"}};
static const agent_cgroup_value peak = {{"/sys/fs/cgroup/memory.peak", NULL},
                                        {"/sys/fs/cgroup/memory/memory.max_usage_in_bytes", NULL}};
static const agent_cgroup_value processes = {{"/sys/fs/cgroup/pids.current", NULL},
                                             {"/sys/fs/cgroup/pids/pids.current", NULL}};

typedef struct sample {
    unsigned char *out;
    size_t len;
} sample;

static void add(sample *s, uint16_t tag, uint64_t value)
{
    s->len += sbx_field_put_num(s->out + s->len, AGENT_SAMPLE_BYTES - s->len, tag, value);
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static uint64_t used_us(int who)
{
    struct rusage ru;

    (void)getrusage(who, &ru);
    return (uint64_t)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000 +
           (uint64_t)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec);
}

/* What the cgroup does not say is summed up over the processes, which are looked at once. */
typedef struct summed {
    agent_tree_use use;
    bool known;
} summed;

static const agent_tree_use *sum(summed *s)
{
    if (!s->known)
        agent_tree_sum(getpid(), &s->use);
    s->known = true;
    return &s->use;
}

static void add_cpu(sample *s, summed *all)
{
    uint64_t value;

    if (agent_cgroup_read(&cpu_us, &value))
        add(s, SBX_T_CPU_US, value);
    else if (agent_cgroup_read(&cpu_ns, &value))
        add(s, SBX_T_CPU_US, value / 1000);
    else
        add(s, SBX_T_CPU_US,
            used_us(RUSAGE_SELF) + used_us(RUSAGE_CHILDREN) + sum(all)->cpu_ms * 1000);
}

static void add_memory(sample *s, summed *all)
{
    uint64_t value, idle = 0;

    if (agent_cgroup_read(&memory, &value)) {
        (void)agent_cgroup_read(&cache, &idle);
        add(s, SBX_T_MEMORY, less(value, idle));
    } else {
        add(s, SBX_T_MEMORY, sum(all)->resident_bytes);
    }
    if (agent_cgroup_read(&peak, &value))
        add(s, SBX_T_MEMORY_PEAK, value);
    if (agent_cgroup_memory_limit(&value))
        add(s, SBX_T_MEMORY_LIMIT, value);
}

static void add_processes(sample *s, summed *all, uint64_t own)
{
    uint64_t value;

    if (!agent_cgroup_read(&processes, &value))
        value = sum(all)->threads + 1;
    add(s, SBX_T_PROCESSES, less(value, own));
}

static void add_disk(sample *s)
{
    struct statvfs root;

    if (statvfs("/", &root) == 0)
        add(s, SBX_T_DISK_FREE, (uint64_t)root.f_bavail * root.f_frsize);
}

/* Skips numbers. @return where the next one begins, NULL at the end. */
static const char *skip_numbers(const char *at, int count)
{
    for (int i = 0; i <= count; i++) {
        at += strspn(at, " ");
        if (i < count)
            at += strcspn(at, " \n");
    }
    return *at >= '0' && *at <= '9' ? at : NULL;
}

void agent_stats_parse_net(const char *text, uint64_t *ret_received, uint64_t *ret_sent)
{
    *ret_received = *ret_sent = 0;
    for (const char *line = text; line; line = strchr(line, '\n')) {
        const char *name, *numbers, *sent;
        uint64_t value;

        line += *line == '\n';
        name = line + strspn(line, " ");
        numbers = name + strcspn(name, ":\n");
        if (*numbers != ':' || strncmp(name, "lo:", 3) == 0)
            continue;
        numbers = skip_numbers(numbers + 1, 0);
        sent = numbers ? skip_numbers(numbers, 8) : NULL;
        if (numbers && agent_cgroup_parse(numbers, NULL, &value))
            *ret_received += value;
        if (sent && agent_cgroup_parse(sent, NULL, &value))
            *ret_sent += value;
    }
}

static void add_net(sample *s)
{
    char text[8192];
    uint64_t received, sent;

    if (!agent_file_read("/proc/net/dev", text, sizeof text))
        return;
    agent_stats_parse_net(text, &received, &sent);
    add(s, SBX_T_NET_RX, received);
    add(s, SBX_T_NET_TX, sent);
}

size_t agent_stats_write(unsigned char out[AGENT_SAMPLE_BYTES], const agent_stats_known *known)
{
    sample s = {.out = out};
    summed all = {.known = false};

    add_cpu(&s, &all);
    add_memory(&s, &all);
    add_processes(&s, &all, known->own);
    if (known->knows_oom)
        add(&s, SBX_T_OOM_KILLS, known->oom_kills);
    add_disk(&s);
    add_net(&s);
    add(&s, SBX_T_STARTED_MS, (uint64_t)known->started_ms);
    return s.len;
}
