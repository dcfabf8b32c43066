/* An archive of a directory or a file, as a stream. libarchive writes the formats. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "entry.h"
#include "owners.h"
#include "path.h"
#include "stream.h"
#include "walk.h"

#define MAX_HOLES       512 /* of one file; more of them are written as zeros */
#define ZEROS_BYTES     (16 * MIB)
#define MAX_ATTRS_BYTES (64 * KIB)
#define BLOCK_BYTES     10240 /* of a tar file, as everybody else makes them */

typedef struct packer {
    struct archive *a;
    struct archive_entry_linkresolver *links; /* tar only */
    struct archive_entry *entry;
    const char *zeros; /* a mapping that is never written, so it costs nothing */
    bool out_failed;
    ft_err *err;
} packer;

static la_ssize_t on_write(struct archive *a, void *ctx, const void *data, size_t len)
{
    packer *p = ctx;

    if (ft_out_write(data, len, p->err) == 0)
        return (la_ssize_t)len;
    p->out_failed = true;
    archive_set_error(a, EIO, "the output could not be written");
    return -1;
}

static int failed(packer *p, const char *path, const char *what)
{
    const char *text = archive_error_string(p->a);

    if (p->out_failed)
        return -1;
    return ft_fail(p->err, FT_E_IO, path, "%s: %s", what, text ? text : "no reason is known");
}

static void add_attributes(packer *p, int fd)
{
    char names[4 * KIB];
    ssize_t len = flistxattr(fd, names, sizeof(names));

    for (char *n = names; len > 0 && n < names + len; n += strlen(n) + 1) {
        ssize_t size = strncmp(n, "user.", 5) ? -1 : fgetxattr(fd, n, ft_chunk(), MAX_ATTRS_BYTES);

        if (size >= 0)
            archive_entry_xattr_add_entry(p->entry, n, ft_chunk(), (size_t)size);
    }
}

/* Tells the holes of a file, which tar leaves out. */
static void add_holes(packer *p, int fd, int64_t size)
{
    int64_t from, to = 0;
    int n = 0;

    while (to < size && (from = lseek(fd, to, SEEK_DATA)) >= 0 && from < size) {
        to = lseek(fd, from, SEEK_HOLE);
        if (to <= from || ++n > MAX_HOLES) {
            archive_entry_sparse_clear(p->entry);
            return;
        }
        to = SBX_MIN(to, size);
        if (from == 0 && to == size)
            return;
        archive_entry_sparse_add_entry(p->entry, from, to - from);
    }
    if (n == 0 && size > 0 && lseek(fd, 0, SEEK_HOLE) == 0)
        archive_entry_sparse_add_entry(p->entry, size, 0);
}

static int put(packer *p, const void *data, int64_t len, const char *path)
{
    const char *at = data;

    while (len > 0) {
        la_ssize_t n = archive_write_data(p->a, at, (size_t)len);

        if (n <= 0)
            return failed(p, path, "cannot write the archive");
        at += n;
        len -= n;
    }
    return 0;
}

/* Exactly `size` bytes, as the head of the file has said: cut, or filled with zeros. Holes are
 * passed over without being read. */
static int put_content(packer *p, int fd, int64_t size, const char *path)
{
    int64_t at = 0;

    while (at < size) {
        int64_t data = lseek(fd, at, SEEK_DATA);
        int64_t hole = data < 0 && errno == ENXIO ? size : data < 0 ? at : SBX_MIN(data, size);
        ssize_t n = 0;

        if (hole > at) {
            n = (ssize_t)SBX_MIN(hole - at, (int64_t)ZEROS_BYTES);
            if (put(p, p->zeros, n, path) < 0)
                return -1;
        } else {
            n = pread(fd, ft_chunk(), (size_t)SBX_MIN(size - at, (int64_t)FT_CHUNK_BYTES), at);
            if (n < 0 && errno != EINTR)
                return ft_fail_errno(p->err, path, "cannot read");
            if (n == 0) { /* shorter by now, though no hole is told of */
                n = (ssize_t)SBX_MIN(size - at, (int64_t)ZEROS_BYTES);
                if (put(p, p->zeros, n, path) < 0)
                    return -1;
            } else if (n > 0 && put(p, ft_chunk(), n, path) < 0) {
                return -1;
            }
        }
        at += SBX_MAX(n, (ssize_t)0);
    }
    return 0;
}

static int put_head(packer *p, const char *path)
{
    const char *name = archive_entry_pathname(p->entry), *target = archive_entry_symlink(p->entry);

    /* zip says that its names are UTF-8, and readers give up where they are not. */
    if (!p->links && (!sbx_utf8_valid(name, strlen(name)) ||
                      (target && !sbx_utf8_valid(target, strlen(target)))))
        return ft_fail(p->err, FT_E_UNSUPPORTED, path,
                       "zip cannot hold a name that is not UTF-8: take tar.gz");
    int rc = archive_write_header(p->a, p->entry);

    /* For tar such a name is a warning; it is written as it is. */
    return rc == ARCHIVE_OK || rc == ARCHIVE_WARN ? 0 : failed(p, path, "cannot write the archive");
}

static void describe(packer *p, const char *name, const struct stat *st)
{
    char owner[FT_OWNER_BYTES], group[FT_OWNER_BYTES];

    archive_entry_clear(p->entry);
    archive_entry_copy_stat(p->entry, st);
    archive_entry_copy_pathname(p->entry, name);
    ft_owner_user(st->st_uid, owner);
    ft_owner_group(st->st_gid, group);
    archive_entry_copy_uname(p->entry, owner);
    archive_entry_copy_gname(p->entry, group);
    if (!S_ISREG(st->st_mode))
        archive_entry_set_size(p->entry, 0);
}

static int pack_file(packer *p, int dirfd, const char *file, const char *name, const char *path)
{
    int fd = openat(dirfd, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct archive_entry *spare = NULL;
    struct stat st;
    int rc = -1;

    if (fd < 0)
        return errno == ENOENT ? 0 : ft_fail_errno(p->err, path, "cannot open");
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        (void)ft_fail(p->err, FT_E_BUSY, path, "it was replaced while it was packed");
    } else {
        describe(p, name, &st);
        add_attributes(p, fd);
        if (p->links) {
            archive_entry_linkify(p->links, &p->entry, &spare);
            if (!archive_entry_hardlink(p->entry))
                add_holes(p, fd, st.st_size);
        }
        rc = put_head(p, path);
        if (rc == 0 && !archive_entry_hardlink(p->entry))
            rc = put_content(p, fd, st.st_size, path);
    }
    close(fd);
    return rc;
}

static int pack_one(packer *p, int dirfd, const char *file, const struct stat *st, const char *name,
                    const char *path)
{
    char target[FT_PATH_BYTES];

    if (S_ISSOCK(st->st_mode))
        return 0;
    if (S_ISREG(st->st_mode))
        return pack_file(p, dirfd, file, name, path);
    describe(p, name, st);
    if (S_ISLNK(st->st_mode)) {
        if (!ft_entry_target(dirfd, file, target))
            return errno == ENOENT ? 0 : ft_fail_errno(p->err, path, "cannot read the link");
        archive_entry_copy_symlink(p->entry, target);
    } else if (!S_ISDIR(st->st_mode) && !S_ISFIFO(st->st_mode)) {
        return ft_fail(p->err, FT_E_UNSUPPORTED, path, "a device cannot be packed");
    } else if (!S_ISDIR(st->st_mode) && !p->links) {
        return 0; /* zip has no FIFOs */
    }
    return put_head(p, path);
}

static ft_next enter(void *ctx, const ft_step *step, ft_err *err)
{
    packer *p = ctx;

    (void)err; /* it is p->err */
    if (pack_one(p, step->dirfd, step->name, &step->st, step->rel, step->path) < 0)
        return FT_FAILED;
    if (!S_ISDIR(step->st.st_mode))
        return FT_SKIP;
    return ft_walk_is_kernels(step) ? FT_SKIP : FT_DESCEND;
}

/* @return 0, or -1 and the reason in the archive */
static int set_format(packer *p, const char *format)
{
    if (strcmp(format, "tar") != 0)
        archive_write_set_bytes_in_last_block(p->a, 1); /* nothing behind the end */
    if (strcmp(format, "zip") == 0)
        return archive_write_set_format_zip(p->a);
    p->links = archive_entry_linkresolver_new();
    archive_entry_linkresolver_set_strategy(p->links, ARCHIVE_FORMAT_TAR_PAX_RESTRICTED);
    archive_write_set_bytes_per_block(p->a, BLOCK_BYTES);
    if (strcmp(format, "tar.gz") == 0) {
        archive_write_add_filter_gzip(p->a);
        /* What is sent once over a network is not worth the slow levels. */
        archive_write_set_filter_option(p->a, "gzip", "compression-level", "3");
    }
    return archive_write_set_format_pax_restricted(p->a);
}

static int pack_all(packer *p, const char *path)
{
    ft_visitor visitor = {.enter = enter, .ctx = p};
    struct stat st;
    int rc, fd = open(path, O_PATH | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) < 0)
        rc = ft_fail_errno(p->err, path, "cannot open");
    else if (S_ISDIR(st.st_mode))
        rc = ft_walk(fd, path, &visitor, p->err);
    else if (!S_ISREG(st.st_mode))
        rc = ft_fail(p->err, FT_E_UNSUPPORTED, path, "it is a device, a FIFO or a socket");
    else
        rc = pack_file(p, AT_FDCWD, path, ft_path_name(path), path);
    if (fd >= 0)
        close(fd);
    return rc;
}

int ft_pack(char **argv, ft_err *err)
{
    packer p = {.err = err};
    char path[FT_PATH_BYTES];
    int rc = -1;

    if (strcmp(argv[1], "tar") != 0 && strcmp(argv[1], "tar.gz") != 0 &&
        strcmp(argv[1], "zip") != 0)
        return ft_fail(err, FT_E_INVALID, NULL, "the format must be tar, tar.gz or zip");
    if (ft_path_resolve(argv[0], path, err) < 0 || ft_path_follow(path, err) < 0)
        return -1;
    p.zeros = mmap(NULL, ZEROS_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    p.a = archive_write_new();
    p.entry = archive_entry_new();
    if (p.zeros == MAP_FAILED || !p.a || !p.entry)
        return ft_fail(err, FT_E_TOO_LARGE, NULL, "memory is out");
    if (set_format(&p, argv[1]) != ARCHIVE_OK ||
        archive_write_open(p.a, &p, NULL, on_write, NULL) != ARCHIVE_OK)
        rc = failed(&p, path, "cannot begin the archive");
    else
        rc = pack_all(&p, path);
    if (rc == 0 && archive_write_close(p.a) != ARCHIVE_OK)
        rc = failed(&p, path, "cannot end the archive");
    if (rc < 0)
        archive_write_fail(p.a); /* not even an end */
    archive_entry_linkresolver_free(p.links);
    archive_entry_free(p.entry);
    archive_write_free(p.a);
    return rc;
}
