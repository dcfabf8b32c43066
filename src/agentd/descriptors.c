/* close_range(2), and a loop where the kernel lacks it. */
#include "descriptors.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

static void close_between(int first, int last)
{
    struct rlimit limit;

    if (first > last || syscall(SYS_close_range, (unsigned)first, (unsigned)last, 0) == 0)
        return;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && (rlim_t)last > limit.rlim_cur)
        last = (int)limit.rlim_cur;
    for (int fd = first; fd <= last; fd++)
        close(fd);
}

void agent_descriptors_close_from(int first)
{
    close_between(first, INT_MAX);
}

static int ascending(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

void agent_descriptors_keep(int *fds, size_t count)
{
    int next = 3;

    qsort(fds, count, sizeof *fds, ascending);
    for (size_t i = 0; i < count; i++) {
        close_between(next, fds[i] - 1);
        next = fds[i] + 1;
    }
    close_between(next, INT_MAX);
}
