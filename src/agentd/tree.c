/* Walking, stopping and killing a tree. */
#include "tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "loop.h"
#include "pages.h"

#define MAX_PID   (4 * 1024 * 1024) /* the kernel's PID_MAX_LIMIT */
#define MAX_PROCS 65536             /* seen in one scan; more are found by the next ones */

typedef struct proc {
    pid_t pid, ppid;
    char state;
    uint64_t ticks, pages, threads;
} proc;

/* Untouched pages of these cost nothing; numbers inside a container are small. */
static proc procs[MAX_PROCS];
static size_t nprocs;
static uint8_t in_tree[MAX_PID / 8];
static uint8_t signalled[MAX_PID / 8] __attribute__((aligned(65536)));

static bool bit(const uint8_t *set, pid_t pid)
{
    return pid > 0 && pid < MAX_PID && (set[pid / 8] >> (pid % 8) & 1) != 0;
}

static void set_bit(uint8_t *set, pid_t pid, bool on)
{
    uint8_t mask = (uint8_t)(1u << (pid % 8));

    if (pid <= 0 || pid >= MAX_PID)
        return;
    set[pid / 8] = on ? set[pid / 8] | mask : set[pid / 8] & (uint8_t)~mask;
}

static pid_t parse_pid(const char *s)
{
    long value = 0;

    if (*s < '0' || *s > '9')
        return 0;
    for (; *s >= '0' && *s <= '9' && value < MAX_PID; s++)
        value = value * 10 + (*s - '0');
    return *s == '\0' || *s == ' ' ? (pid_t)value : 0;
}

bool agent_tree_parse_stat(const char *text, pid_t *ret_ppid, char *ret_state)
{
    /* "pid (name) state ppid ...", where the name may hold anything */
    const char *at = strrchr(text, ')');

    if (!at || at[1] != ' ' || at[2] == '\0' || at[3] != ' ')
        return false;
    *ret_state = at[2];
    if (at[4] == '0' && at[5] == ' ')
        *ret_ppid = 0;
    else if ((*ret_ppid = parse_pid(at + 4)) == 0)
        return false;
    return true;
}

/* Moves behind `count` more fields. */
static const char *skip_fields(const char *at, int count)
{
    for (int i = 0; at && i < count; i++) {
        at = strchr(at, ' ');
        if (at)
            at++;
    }
    return at;
}

static uint64_t parse_number(const char *at)
{
    uint64_t value = 0;

    for (; at && *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    return value;
}

/* Behind the name: state ppid .. utime stime cutime cstime (the 12th to the 15th) .. num_threads
 * (the 18th) .. rss (the 22nd). */
void agent_tree_parse_use(const char *text, uint64_t *ret_ticks, uint64_t *ret_pages,
                          uint64_t *ret_threads)
{
    const char *at = strrchr(text, ')');

    at = skip_fields(at, 12);
    *ret_ticks = 0;
    for (int i = 0; i < 4; i++) {
        *ret_ticks += parse_number(at);
        at = skip_fields(at, 1);
    }
    at = skip_fields(at, 2);
    *ret_threads = parse_number(at);
    *ret_pages = parse_number(skip_fields(at, 4));
}

static bool read_proc(int dir, const char *name, proc *ret)
{
    char path[32], text[512];
    int n = snprintf(path, sizeof path, "%s/stat", name);
    int fd;
    ssize_t len;

    if (n < 0 || (size_t)n >= sizeof path)
        return false;
    fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    len = read(fd, text, sizeof text - 1);
    close(fd);
    if (len <= 0)
        return false;
    text[len] = '\0';
    ret->pid = parse_pid(name);
    agent_tree_parse_use(text, &ret->ticks, &ret->pages, &ret->threads);
    return agent_tree_parse_stat(text, &ret->ppid, &ret->state);
}

pid_t agent_tree_parent(pid_t pid)
{
    char name[32];
    int dir = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    proc p;
    bool ok;

    if (dir < 0)
        return -1;
    (void)snprintf(name, sizeof name, "%d", (int)pid);
    ok = read_proc(dir, name, &p);
    close(dir);
    return ok ? p.ppid : -1;
}

static bool excepted(const agent_tree_except *except, pid_t pid)
{
    for (size_t i = 0; except && i < except->count; i++)
        if (except->pids[i] == pid)
            return true;
    return false;
}

static bool alive(const proc *p)
{
    return p->state != 'Z' && p->state != 'X';
}

typedef struct scan {
    pid_t root;
    const agent_tree_except *except;
    int sig;   /* sent to each member at once; 0: none */
    bool once; /* only to those that have not had it */
    bool left; /* also those that were stopped, and whose parent was killed */
    size_t alive, fresh;
    uint64_t ticks, pages, threads; /* of all members */
} scan;

/* Takes a process into the tree if its parent is in it. Not every kernel gives orphans to the
 * nearest subreaper: in gVisor's they go to the first process of all. */
static bool join(scan *s, const proc *p)
{
    bool kin = p->ppid == s->root || bit(in_tree, p->ppid) ||
               (s->left && p->state == 'T' && bit(signalled, p->pid));

    if (bit(in_tree, p->pid) || !kin)
        return false;
    if (p->pid == s->root || excepted(s->except, p->pid))
        return false;
    set_bit(in_tree, p->pid, true);
    s->ticks += p->ticks;
    if (!alive(p))
        return true;
    s->pages += p->pages;
    s->threads += p->threads;
    s->alive++;
    if (s->once && bit(signalled, p->pid))
        return true;
    s->fresh++;
    if (s->sig > 0) {
        set_bit(signalled, p->pid, true);
        (void)kill(p->pid, s->sig);
    }
    return true;
}

/* Signals each descendant, parents mostly first, as soon as it is seen. */
static void run_scan(scan *s)
{
    DIR *dir = opendir("/proc");
    struct dirent *d;
    bool grew = true;

    s->alive = s->fresh = 0;
    nprocs = 0;
    if (!dir)
        return;
    while ((d = readdir(dir)) && nprocs < MAX_PROCS) {
        proc *p = &procs[nprocs];

        if (parse_pid(d->d_name) == 0 || !read_proc(dirfd(dir), d->d_name, p))
            continue;
        nprocs++;
        (void)join(s, p);
    }
    closedir(dir);
    while (grew) {
        grew = false;
        for (size_t i = 0; i < nprocs; i++)
            grew |= join(s, &procs[i]);
    }
    for (size_t i = 0; i < nprocs; i++)
        set_bit(in_tree, procs[i].pid, false);
}

static void pause_briefly(void)
{
    (void)poll(NULL, 0, 1);
}

void agent_tree_kill(pid_t root, const agent_tree_except *except, int limit_ms,
                     void (*reap)(void *arg), void *arg)
{
    scan stop = {.root = root, .except = except, .sig = SIGSTOP, .once = true};
    scan end = {.root = root, .except = except, .sig = SIGKILL, .left = true};
    uint64_t until = agent_now_ms() + (uint64_t)limit_ms;

    agent_pages_forget(signalled, sizeof signalled);
    for (int clean = 0; clean < 2 && agent_now_ms() < until;) {
        run_scan(&stop);
        clean = stop.fresh > 0 ? 0 : clean + 1;
    }
    do {
        run_scan(&end);
        reap(arg);
        if (end.alive > 0)
            pause_briefly();
    } while (end.alive > 0 && agent_now_ms() < until);
}

void agent_tree_sum(pid_t root, agent_tree_use *ret)
{
    scan s = {.root = root};

    run_scan(&s);
    ret->cpu_ms = s.ticks * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
    ret->resident_bytes = s.pages * (uint64_t)sysconf(_SC_PAGESIZE);
    ret->threads = s.threads;
}

void agent_tree_signal(pid_t root, int sig)
{
    scan s = {.root = root, .sig = sig};

    run_scan(&s);
}
