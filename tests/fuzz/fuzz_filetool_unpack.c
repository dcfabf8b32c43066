/* Unpacks bytes beneath a directory that has a neighbour, and looks at both: whatever the archive
 * says, nothing appears outside, no link leads out, nothing has a set-id bit, nothing is a device,
 * and no more than the limits is written. */
#include "path.h"
#include "remove.h"
#include "unpack.h"
#include "walk.h"

#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_BYTES   (1 << 20)
#define MAX_ENTRIES 200

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__asan_default_options(void);

/* The program itself has a limit of its address space, which the sanitizer would not survive. */
const char *__asan_default_options(void)
{
    return "max_allocation_size_mb=64:allocator_may_return_null=1";
}

typedef struct source {
    const uint8_t *data;
    size_t size, at;
} source;

static ssize_t from_memory(void *ctx, void *data, size_t len, ft_err *err)
{
    source *s = ctx;

    (void)err;
    len = SBX_MIN(len, s->size - s->at);
    memcpy(data, s->data + s->at, len);
    s->at += len;
    return (ssize_t)len;
}

static ft_next check(void *ctx, const ft_step *step, ft_err *err)
{
    int64_t *left = ctx;
    char target[FT_PATH_BYTES];
    ssize_t n;

    (void)err;
    if (ft_hidden(step->name) || (step->st.st_mode & (S_ISUID | S_ISGID)) || --left[1] < 0)
        abort();
    if (S_ISDIR(step->st.st_mode)) {
        (void)!fchmodat(step->dirfd, step->name, 0700, 0);
        return FT_DESCEND;
    }
    if (S_ISLNK(step->st.st_mode)) {
        n = readlinkat(step->dirfd, step->name, target, sizeof(target) - 1);
        if (n < 0)
            abort();
        target[n] = '\0';
        if (!ft_extract_stays(target, step->depth))
            abort();
        return FT_SKIP;
    }
    if (!S_ISREG(step->st.st_mode))
        abort();
    left[0] -= step->st.st_nlink > 1 ? 0 : step->st.st_size;
    if (left[0] < 0)
        abort();
    return FT_SKIP;
}

/* A directory of its own, in memory where that is possible. */
static const char *top(void)
{
    static char path[64];

    if (!path[0]) {
        (void)setlocale(LC_CTYPE, "C.UTF-8");
        (void)snprintf(path, sizeof(path), "%s/sbx-fuzz-XXXXXX",
                       access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        if (!mkdtemp(path))
            abort();
    }
    return path;
}

static void unpack(int root, const uint8_t *data, size_t size)
{
    source s = {.data = data, .size = size};
    ft_err err;
    ft_unpack u = {.source = from_memory,
                   .source_ctx = &s,
                   .max_bytes = MAX_BYTES,
                   .err = &err,
                   .zip = FT_TEMP_NONE};

    ft_extract_init(&u.x, root, "/in", MAX_ENTRIES);
    if (ft_unpack_run(&u) == 0 && (u.bytes > MAX_BYTES || u.x.entries > MAX_ENTRIES))
        abort();
    ft_extract_done(&u.x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t left[2] = {MAX_BYTES, MAX_ENTRIES};
    ft_visitor visitor = {.enter = check, .ctx = left}, outside = {.enter = check};
    int64_t nothing[2] = {0, 1};
    ft_err err;
    int fd = open(top(), O_RDONLY | O_DIRECTORY);
    int root = fd < 0 || mkdirat(fd, "in", 0700) < 0 ? -1 : openat(fd, "in", O_RDONLY);

    if (root < 0)
        abort();
    unpack(root, data, size);
    if (ft_walk(root, "/in", &visitor, &err) < 0 && err.code != FT_E_PERMISSION)
        abort();
    close(root);
    if (ft_remove_tree(fd, "in", true, "/in", &err) < 0)
        abort();
    /* Nothing else is there. */
    outside.ctx = nothing;
    nothing[1] = 0;
    if (ft_walk(fd, "/", &outside, &err) < 0)
        abort();
    close(fd);
    return 0;
}

/* The directory goes away with the process. */
static void __attribute__((destructor)) clean(void)
{
    (void)rmdir(top());
}
