/* process_*: processor time, memory, descriptors and threads of this process. The heap is what was
 * allocated and not freed, with what the allocator holds back for each thread; resident memory also
 * has what it keeps for reuse.
 *
 * Source: proc(5), /proc/self/stat: after the last ')' stand the fields from the third (state) on.
 * What cannot be read is left out of the page, as a wrong number is worse than none. */
#include "process.h"
#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define STAT_FIRST   3
#define STAT_THREADS 20
#define STAT_START   22 /* clock ticks after the boot */
#define STAT_VSIZE   23 /* bytes */
#define STAT_RSS     24 /* pages */
#define STAT_FIELDS  24

static bool read_file(const char *path, char *out, size_t cap)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return false;
    n = read(fd, out, cap - 1);
    close(fd);
    if (n <= 0)
        return false;
    out[n] = '\0';
    return true;
}

static uint64_t digits(const char *s)
{
    uint64_t n = 0;

    for (; *s >= '0' && *s <= '9'; s++)
        n = n * 10 + (uint64_t)(*s - '0');
    return n;
}

/* Fields of /proc/self/stat, by their number; the program's name may contain anything. */
static bool read_stat(uint64_t field[STAT_FIELDS + 1])
{
    char text[2048];
    const char *p;

    if (!read_file("/proc/self/stat", text, sizeof text))
        return false;
    p = strrchr(text, ')');
    for (int i = STAT_FIRST; i <= STAT_FIELDS; i++) {
        p = p ? strchr(p, ' ') : NULL;
        if (!p)
            return false;
        field[i] = digits(++p);
    }
    return true;
}

static int64_t count_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    int64_t n = 0;

    if (!d)
        return -1;
    for (const struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n - 1; /* without the one of this directory */
}

static void add(sbx_buf *out, const char *name, const char *type, const char *help, double value)
{
    sbx_buf_addf(out, "# HELP %s %s\n# TYPE %s %s\n%s %.15g\n", name, help, name, type, name,
                 value);
}

/* The start in seconds since 1970: now, less the age that the boot clock gives. */
static double start_time(uint64_t start_ticks)
{
    struct timespec wall, boot;
    double age;

    clock_gettime(CLOCK_REALTIME, &wall);
    clock_gettime(CLOCK_BOOTTIME, &boot);
    age = (double)boot.tv_sec + (double)boot.tv_nsec / 1e9 -
          (double)start_ticks / (double)sysconf(_SC_CLK_TCK);
    /* Hundredths, as the ticks are: or each page would show another start. */
    return (double)(int64_t)(((double)wall.tv_sec + (double)wall.tv_nsec / 1e9 - age) * 100 + 0.5) /
           100;
}

void metrics_process_text(sbx_buf *out)
{
    uint64_t field[STAT_FIELDS + 1];
    struct timespec cpu;
    struct rlimit files;
    int64_t fds = count_fds();
    struct mallinfo2 heap = mallinfo2();

    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu) == 0)
        add(out, "process_cpu_seconds_total", "counter", "User and system processor time",
            (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9);
    if (read_stat(field)) {
        add(out, "process_resident_memory_bytes", "gauge", "Resident memory",
            (double)field[STAT_RSS] * (double)sysconf(_SC_PAGESIZE));
        add(out, "process_virtual_memory_bytes", "gauge", "Virtual memory",
            (double)field[STAT_VSIZE]);
        add(out, "process_threads", "gauge", "Threads", (double)field[STAT_THREADS]);
        add(out, "process_start_time_seconds", "gauge", "Start, in seconds since 1970",
            start_time(field[STAT_START]));
    }
    add(out, "process_heap_bytes", "gauge", "Allocated memory in use",
        (double)heap.uordblks + (double)heap.hblkhd);
    if (fds >= 0)
        add(out, "process_open_fds", "gauge", "Open descriptors", (double)fds);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0)
        add(out, "process_max_fds", "gauge", "Limit of open descriptors",
            files.rlim_cur == RLIM_INFINITY ? -1 : (double)files.rlim_cur);
}
