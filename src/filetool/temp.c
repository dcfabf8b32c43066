/* Where it can be, the file has no name until it is complete, so that nothing is left even of a
 * process that was killed. Linking it needs /proc; without that, or on a file system that has no
 * such files, it has a hidden name. */
#include "temp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sbx/core/clock.h"

#define PREFIX      ".sbx-"
#define PROC_FD_LEN 32

void ft_hidden_name(char ret[FT_HIDDEN_BYTES])
{
    uint64_t random = 0;

    /* Only in the first moments of a machine is there none; the caller tries another name then. */
    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
        random = (uint64_t)sbx_now_us() ^ (uint64_t)getpid() << 40;
    (void)snprintf(ret, FT_HIDDEN_BYTES, PREFIX "%016llx", (unsigned long long)random);
}

bool ft_hidden(const char *name)
{
    return strncmp(name, PREFIX, sizeof(PREFIX) - 1) == 0 && strlen(name) == FT_HIDDEN_BYTES - 1 &&
           strspn(name + sizeof(PREFIX) - 1, "0123456789abcdef") == 16;
}

static void proc_name(int fd, char ret[PROC_FD_LEN])
{
    (void)snprintf(ret, PROC_FD_LEN, "/proc/self/fd/%d", fd);
}

int ft_temp_open_named(int dirfd, const char *path, ft_temp *ret, ft_err *err)
{
    *ret = (ft_temp){.dirfd = dirfd};
    do {
        ft_hidden_name(ret->name);
        ret->fd =
            openat(dirfd, ret->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    } while (ret->fd < 0 && errno == EEXIST);
    if (ret->fd >= 0)
        return 0;
    ret->name[0] = '\0';
    return ft_fail_errno(err, path, "cannot make a file in the directory");
}

int ft_temp_open(int dirfd, const char *path, ft_temp *ret, ft_err *err)
{
    int fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    char proc[PROC_FD_LEN];
    struct stat st;

    if (fd >= 0) {
        proc_name(fd, proc);
        if (stat(proc, &st) == 0 && S_ISREG(st.st_mode)) {
            *ret = (ft_temp){.dirfd = dirfd, .fd = fd};
            return 0;
        }
        close(fd);
    }
    return ft_temp_open_named(dirfd, path, ret, err);
}

/* Gives the file without a name the name; false leaves errno. */
static bool give_name(const ft_temp *t, const char *name)
{
    char proc[PROC_FD_LEN];

    proc_name(t->fd, proc);
    return linkat(AT_FDCWD, proc, t->dirfd, name, AT_SYMLINK_FOLLOW) == 0;
}

int ft_rename(int from_fd, const char *from, int to_fd, const char *to, bool fresh,
              const char *path, ft_err *err)
{
    struct stat st;

    if (fresh) {
        if (renameat2(from_fd, from, to_fd, to, RENAME_NOREPLACE) == 0)
            return 0;
        if (errno == EEXIST)
            return ft_fail(err, FT_E_EXISTS, path, "it exists already");
        if (errno != EINVAL && errno != ENOSYS)
            return ft_fail_errno(err, path, "cannot rename");
        /* This kernel or file system cannot do both in one step. */
        if (fstatat(to_fd, to, &st, AT_SYMLINK_NOFOLLOW) == 0)
            return ft_fail(err, FT_E_EXISTS, path, "it exists already");
    }
    if (renameat(from_fd, from, to_fd, to) == 0)
        return 0;
    if (errno == EEXIST)
        errno = ENOTEMPTY;
    return ft_fail_errno(err, path, "cannot rename");
}

int ft_temp_place(ft_temp *t, const char *name, bool fresh, const char *path, ft_err *err)
{
    if (!t->name[0]) {
        if (give_name(t, name)) {
            t->dirfd = -1;
            return 0;
        }
        if (errno == EEXIST && fresh)
            return ft_fail(err, FT_E_EXISTS, path, "it exists already");
        if (errno != EEXIST)
            return ft_fail_errno(err, path, "cannot put the file into its place");
        do {
            ft_hidden_name(t->name);
        } while (!give_name(t, t->name) && errno == EEXIST);
    }
    if (ft_rename(t->dirfd, t->name, t->dirfd, name, fresh, path, err) < 0)
        return -1;
    t->name[0] = '\0';
    return 0;
}

void ft_temp_drop(ft_temp *t)
{
    if (t->name[0])
        (void)unlinkat(t->dirfd, t->name, 0);
    if (t->fd >= 0)
        close(t->fd);
    *t = (ft_temp)FT_TEMP_NONE;
}
