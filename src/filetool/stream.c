/* The kernel moves pages where it can (splice, copy_file_range); read and write do where it cannot,
 * as on other kinds of descriptors and under other kernels. */
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define PIPE_BYTES (1 << 20) /* what an unprivileged user may have */

static int guard_fd = -1; /* readable once a signal has come; -1 without a guard */

char *ft_chunk(void)
{
    static char chunk[FT_CHUNK_BYTES];

    return chunk;
}

int ft_guard_begin(ft_err *err)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    guard_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return guard_fd < 0 ? ft_fail_errno(err, NULL, "cannot listen for signals") : 0;
}

static int ended(ft_err *err)
{
    return ft_fail(err, FT_E_IO, NULL, "ended by a signal; what was begun has been taken back");
}

int ft_guard_check(ft_err *err)
{
    struct pollfd p = {.fd = guard_fd, .events = POLLIN};

    return guard_fd >= 0 && poll(&p, 1, 0) > 0 ? ended(err) : 0;
}

/* Waits until standard input or output is ready, or a signal has come. */
static int wait_for(int fd, short events, ft_err *err)
{
    struct pollfd p[2] = {{.fd = guard_fd, .events = POLLIN}, {.fd = fd, .events = events}};

    while (poll(p, 2, -1) < 0)
        if (errno != EINTR)
            return ft_fail_errno(err, NULL, "cannot wait");
    return p[0].revents ? ended(err) : 0;
}

ssize_t ft_in_read(void *data, size_t len, ft_err *err)
{
    for (;;) {
        if (wait_for(STDIN_FILENO, POLLIN, err) < 0)
            return -1;
        ssize_t n = read(STDIN_FILENO, data, len);

        if (n >= 0)
            return n;
        if (errno != EINTR && errno != EAGAIN)
            return ft_fail_errno(err, NULL, "cannot read standard input");
    }
}

/* @return bytes, 0 at the end of input, -1; -2: not possible with these descriptors */
static ssize_t splice_in(int fd, size_t len, const char *path, ft_err *err)
{
    for (;;) {
        if (wait_for(STDIN_FILENO, POLLIN, err) < 0)
            return -1;
        ssize_t n = splice(STDIN_FILENO, NULL, fd, NULL, len, SPLICE_F_MOVE | SPLICE_F_MORE);

        if (n >= 0)
            return n;
        if (errno == EINVAL || errno == ENOSYS || errno == EBADF)
            return -2;
        if (errno != EINTR && errno != EAGAIN)
            return ft_fail_errno(err, path, "cannot write");
    }
}

static ssize_t copy_in(int fd, size_t len, const char *path, ft_err *err)
{
    ssize_t n = ft_in_read(ft_chunk(), SBX_MIN(len, (size_t)FT_CHUNK_BYTES), err);

    for (ssize_t at = 0, put; at < n; at += put) {
        put = write(fd, ft_chunk() + at, (size_t)(n - at));
        if (put < 0 && errno != EINTR)
            return ft_fail_errno(err, path, "cannot write");
        put = SBX_MAX(put, 0);
    }
    return n;
}

int ft_in_to(int fd, int64_t want, const char *path, ft_err *err)
{
    bool splices =
        fcntl(STDIN_FILENO, F_SETPIPE_SZ, PIPE_BYTES) > 0 || fcntl(STDIN_FILENO, F_GETPIPE_SZ) > 0;
    int64_t got = 0;

    while (want < 0 || got < want) {
        size_t len = want < 0 ? PIPE_BYTES : (size_t)SBX_MIN(want - got, (int64_t)PIPE_BYTES);
        ssize_t n = splices ? splice_in(fd, len, path, err) : copy_in(fd, len, path, err);

        if (n == -2) {
            splices = false;
            continue;
        }
        if (n < 0)
            return -1;
        if (n == 0 && want < 0)
            return 0;
        if (n == 0)
            return ft_fail(err, FT_E_INVALID, path, "the input ended after %lld of %lld bytes",
                           (long long)got, (long long)want);
        got += n;
    }
    return 0;
}

int ft_out_write(const void *data, size_t len, ft_err *err)
{
    const char *p = data;

    while (len > 0) {
        ssize_t n = write(STDOUT_FILENO, p, len);

        if (n < 0 && errno == EAGAIN) {
            if (wait_for(STDOUT_FILENO, POLLOUT, err) < 0)
                return -1;
        } else if (n < 0 && errno != EINTR) {
            return ft_fail_errno(err, NULL, "cannot write to standard output");
        }
        n = SBX_MAX(n, 0);
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int ft_out_flush(sbx_buf *b, size_t above, ft_err *err)
{
    if (sbx_buf_failed(b))
        return ft_fail(err, FT_E_TOO_LARGE, NULL, "the answer is too large");
    if (b->len <= above)
        return 0;
    if (ft_out_write(b->data, b->len, err) < 0)
        return -1;
    sbx_buf_reset(b);
    return 0;
}

int ft_out_from(int fd, int64_t from, int64_t to, const char *path, ft_err *err)
{
    bool splices = fcntl(STDOUT_FILENO, F_SETPIPE_SZ, PIPE_BYTES) > 0 ||
                   fcntl(STDOUT_FILENO, F_GETPIPE_SZ) > 0;

    while (from < to) {
        off_t at = from;
        size_t len = (size_t)SBX_MIN(to - from, (int64_t)(splices ? PIPE_BYTES : FT_CHUNK_BYTES));
        ssize_t n = splices ? splice(fd, &at, STDOUT_FILENO, NULL, len, SPLICE_F_MOVE)
                            : pread(fd, ft_chunk(), len, from);

        if (n < 0 && splices && (errno == EINVAL || errno == ENOSYS || errno == EBADF)) {
            splices = false;
            continue;
        }
        if (n < 0 && errno == EAGAIN && wait_for(STDOUT_FILENO, POLLOUT, err) < 0)
            return -1;
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return ft_fail_errno(err, path, "cannot read");
        if (n == 0)
            return ft_fail(err, FT_E_IO, path, "the file has become shorter while it was read");
        if (n > 0 && !splices && ft_out_write(ft_chunk(), (size_t)n, err) < 0)
            return -1;
        from += SBX_MAX(n, 0);
    }
    return 0;
}

int ft_file_write(int fd, const void *data, size_t len, int64_t at, const char *path, ft_err *err)
{
    const char *p = data;

    while (len > 0) {
        ssize_t n = pwrite(fd, p, len, at);

        if (n < 0 && errno != EINTR)
            return ft_fail_errno(err, path, "cannot write");
        n = SBX_MAX(n, 0);
        p += n;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Copies from..to; less if the file has become shorter. */
static int copy_extent(int in, int out, int64_t from, int64_t to, const char *path, ft_err *err)
{
    bool ranges = true;

    while (from < to) {
        off_t at = from, there = from;
        size_t len = (size_t)SBX_MIN(to - from, (int64_t)(ranges ? 64 * MIB : FT_CHUNK_BYTES));
        ssize_t n = ranges ? copy_file_range(in, &at, out, &there, len, 0)
                           : pread(in, ft_chunk(), len, from);

        if (ft_guard_check(err) < 0)
            return -1;
        /* Some file systems answer 0 though there are bytes. */
        if (ranges && (n == 0 || (n < 0 && errno != EINTR && errno != ENOSPC && errno != EDQUOT))) {
            ranges = false;
            continue;
        }
        if (n < 0 && errno != EINTR)
            return ft_fail_errno(err, path, "cannot copy");
        if (n == 0)
            return 0;
        n = SBX_MAX(n, 0);
        if (!ranges && n > 0 && ft_file_write(out, ft_chunk(), (size_t)n, from, path, err) < 0)
            return -1;
        from += n;
    }
    return 0;
}

int ft_file_copy(int in, int out, int64_t size, const char *path, ft_err *err)
{
    int64_t at = 0;

    if (ftruncate(out, size) < 0)
        return ft_fail_errno(err, path, "cannot set the size of the copy");
    while (at < size) {
        int64_t from = lseek(in, at, SEEK_DATA);
        int64_t to = from < 0 ? -1 : lseek(in, from, SEEK_HOLE);

        if (from < 0 && errno == ENXIO)
            return 0;
        if (from < 0 || to <= from) { /* a file system without holes */
            from = at;
            to = size;
        }
        to = SBX_MIN(to, size);
        if (copy_extent(in, out, from, to, path, err) < 0)
            return -1;
        at = SBX_MAX(to, at + 1);
    }
    return 0;
}
