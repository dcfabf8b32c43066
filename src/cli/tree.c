/* cp -r: a folder with what is in it, as an archive that is made and unpacked while it moves.
 *
 * What comes out of a sandbox is hostile: names that are absolute or hold "..", what would be
 * written through a link, hard links to such names, and devices are refused; owners and set-id bits
 * are not taken over. Both directions are pulled: the library asks for bytes, and the request goes
 * on until there are some. */
#include "cli/files.h"

#include "cli/records.h"
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_AHEAD (4 * MIB)

/* --- out --- */

typedef struct unpacking {
    cli *c;
    cli_call call;
    sbx_buf come, given; /* bytes that have come; those that the library reads now */
    cli_progress progress;
    int refused;
} unpacking;

static bool keep_bytes(void *arg, const char *data, size_t len)
{
    unpacking *u = arg;

    sbx_buf_add(&u->come, data, len);
    cli_progress_add(&u->progress, len);
    if (u->come.len >= CLI_CHUNK)
        u->call.hold = true;
    return !sbx_buf_failed(&u->come);
}

static la_ssize_t next_bytes(struct archive *a, void *arg, const void **ret)
{
    unpacking *u = arg;

    while (!u->come.len && !u->call.done) {
        cli_go_on(&u->call);
        cli_drive(u->c);
        if (!u->come.len && !u->call.done)
            cli_wait(u->c, NULL, 0, 1000);
    }
    if (!u->come.len && !cli_ok(&u->call)) {
        archive_set_error(a, EIO, "the transfer failed");
        return ARCHIVE_FATAL;
    }
    sbx_buf_reset(&u->given);
    sbx_buf_add(&u->given, u->come.data, u->come.len);
    sbx_buf_reset(&u->come);
    *ret = u->given.data;
    return (la_ssize_t)u->given.len;
}

static bool is_safe_name(const char *name)
{
    if (!name || !*name || *name == '/')
        return false;
    for (const char *p = name; *p; p += strcspn(p, "/"), p += strspn(p, "/"))
        if (strncmp(p, "..", 2) == 0 && (!p[2] || p[2] == '/'))
            return false;
    return true;
}

static bool is_wanted(struct archive_entry *e)
{
    mode_t type = archive_entry_filetype(e);
    const char *link = archive_entry_hardlink(e);

    if (!is_safe_name(archive_entry_pathname(e)) || (link && !is_safe_name(link)))
        return false;
    return link || type == AE_IFREG || type == AE_IFDIR || type == AE_IFLNK;
}

static int write_entry(struct archive *in, struct archive *disk, struct archive_entry *e)
{
    const void *data;
    size_t len;
    la_int64_t at;
    int rc;

    archive_entry_set_perm(e, archive_entry_perm(e) & 0777);
    if (archive_write_header(disk, e) < ARCHIVE_WARN)
        return -1;
    if (archive_entry_size(e) > 0 && !archive_entry_hardlink(e)) {
        while ((rc = archive_read_data_block(in, &data, &len, &at)) == ARCHIVE_OK)
            if (archive_write_data_block(disk, data, len, at) < ARCHIVE_WARN)
                return -1;
        if (rc != ARCHIVE_EOF)
            return -2;
    }
    return archive_write_finish_entry(disk) < ARCHIVE_WARN ? -1 : 0;
}

static int unpack_all(unpacking *u, struct archive *in, struct archive *disk)
{
    struct archive_entry *e;
    int rc, done;

    while ((rc = archive_read_next_header(in, &e)) == ARCHIVE_OK || rc == ARCHIVE_WARN) {
        if (!is_wanted(e)) {
            u->refused++;
            continue;
        }
        done = write_entry(in, disk, e);
        if (done == -1)
            return cli_fail(u->c, "it cannot be written: %s", archive_error_string(disk));
        if (done)
            break;
    }
    if (u->call.done && !cli_ok(&u->call))
        return cli_complain(u->c, &u->call);
    if (rc != ARCHIVE_EOF)
        return cli_fail(u->c, "the archive that came is damaged: %s", archive_error_string(in));
    if (archive_write_close(disk) != ARCHIVE_OK)
        return cli_fail(u->c, "it cannot be written: %s", archive_error_string(disk));
    if (u->refused)
        return cli_fail(u->c, "%d entries were left out: not files, or outside of the folder",
                        u->refused);
    return CLI_OK;
}

static int unpack(unpacking *u)
{
    struct archive *in = archive_read_new(), *disk = archive_write_disk_new();
    int status;

    if (!in || !disk)
        abort();
    archive_read_support_format_tar(in);
    archive_read_support_filter_gzip(in);
    archive_write_disk_set_options(disk, ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_SECURE_SYMLINKS |
                                             ARCHIVE_EXTRACT_SECURE_NODOTDOT |
                                             ARCHIVE_EXTRACT_SECURE_NOABSOLUTEPATHS);
    if (archive_read_open(in, u, NULL, next_bytes, NULL) < ARCHIVE_WARN)
        status =
            u->call.done && !cli_ok(&u->call)
                ? cli_complain(u->c, &u->call)
                : cli_fail(u->c, "the archive that came is damaged: %s", archive_error_string(in));
    else
        status = unpack_all(u, in, disk);
    archive_write_free(disk);
    archive_read_free(in);
    return status;
}

int cli_tree_out(cli *c, const cli_remote *from, const char *to)
{
    SBX_CLEANUP(sbx_free_str) char *base = cli_base_name(from->path), *inside = NULL;
    unpacking u = {.c = c, .come = SBX_BUF_INIT(MAX_AHEAD), .given = SBX_BUF_INIT(MAX_AHEAD)};
    struct stat st;
    bool nameless = !*base || strcmp(base, ".") == 0 || strcmp(base, "..") == 0;

    if (stat(to, &st) == 0 && !nameless)
        to = inside = cli_join_path(to, base);
    if ((mkdir(to, 0777) && errno != EEXIST) || chdir(to))
        return cli_fail(c, "%s: %s", to, strerror(errno));
    cli_call_init(&u.call, "GET", "/sandboxes/%s/files/archive?format=tar.gz", from->id);
    cli_query(&u.call, "path", from->path);
    cli_query(&u.call, "user", cli_opt(c, "user"));
    u.call.accept = "*/*";
    u.call.impatient = true;
    u.call.on_data = keep_bytes;
    u.call.arg = &u;
    cli_progress_begin(&u.progress, c, from->path, -1);
    cli_start(c, &u.call);
    int status = unpack(&u);
    cli_progress_end(&u.progress);
    cli_cancel(c, &u.call);
    cli_call_done(&u.call);
    sbx_buf_done(&u.come);
    sbx_buf_done(&u.given);
    return status;
}

/* --- in --- */

typedef struct packing {
    cli *c;
    struct archive *disk, *out;
    sbx_buf made; /* bytes of the archive that were not asked for yet */
    bool ended, in_data;
    char why[300];
    cli_progress progress;
} packing;

static la_ssize_t keep_made(struct archive *a, void *arg, const void *data, size_t len)
{
    packing *p = arg;

    sbx_buf_add(&p->made, data, len);
    if (!sbx_buf_failed(&p->made))
        return (la_ssize_t)len;
    archive_set_error(a, ENOMEM, "too much at once");
    return -1;
}

static bool pack_failed(packing *p, struct archive *a, const char *name)
{
    snprintf(p->why, sizeof(p->why), "%s: %s", name ? name : "the archive",
             archive_error_string(a));
    return false;
}

/* The contents of a file that was begun, as much as is wanted at once. @return false: failed. */
static bool pack_data(packing *p)
{
    char data[CLI_CHUNK];
    la_ssize_t n = archive_read_data(p->disk, data, sizeof(data));

    if (n < 0)
        return pack_failed(p, p->disk, "what is read");
    if (n > 0)
        return archive_write_data(p->out, data, (size_t)n) == n || pack_failed(p, p->out, NULL);
    p->in_data = false;
    return archive_write_finish_entry(p->out) >= ARCHIVE_WARN || pack_failed(p, p->out, NULL);
}

static bool pack_next(packing *p)
{
    struct archive_entry *e = NULL;
    int rc = archive_read_next_header(p->disk, &e);

    if (rc == ARCHIVE_EOF) {
        p->ended = true;
        return archive_write_close(p->out) == ARCHIVE_OK || pack_failed(p, p->out, NULL);
    }
    if (rc < ARCHIVE_WARN)
        return pack_failed(p, p->disk, "a folder");
    if (archive_read_disk_can_descend(p->disk))
        archive_read_disk_descend(p->disk);
    mode_t type = archive_entry_filetype(e);
    if (type != AE_IFREG && type != AE_IFDIR && type != AE_IFLNK) {
        cli_warn(p->c, "%s is no file, folder or link: left out", archive_entry_pathname(e));
        return true;
    }
    archive_entry_set_uname(e, NULL);
    archive_entry_set_gname(e, NULL);
    archive_entry_set_uid(e, 0);
    archive_entry_set_gid(e, 0);
    if (archive_write_header(p->out, e) < ARCHIVE_WARN)
        return pack_failed(p, p->out, archive_entry_pathname(e));
    p->in_data = type == AE_IFREG && archive_entry_size(e) > 0;
    return true;
}

static size_t give_made(void *arg, char *to, size_t cap)
{
    packing *p = arg;

    while (!p->made.len && !p->ended)
        if (!(p->in_data ? pack_data(p) : pack_next(p)))
            return SIZE_MAX;
    size_t n = SBX_MIN(cap, p->made.len);
    memcpy(to, p->made.data ? p->made.data : "", n);
    sbx_buf_consume(&p->made, n);
    cli_progress_add(&p->progress, n);
    return n;
}

static int send_packed(packing *p, const cli_remote *to, const char *path)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;

    cli_call_init(&k, "PUT", "/sandboxes/%s/files/archive", to->id);
    cli_query(&k, "path", path);
    cli_query(&k, "user", cli_opt(p->c, "user"));
    k.type = "application/x-tar";
    k.on_send = give_made;
    k.arg = p;
    bool ok = cli_try(p->c, &k);
    cli_progress_end(&p->progress);
    if (*p->why)
        return cli_fail(p->c, "%s", p->why);
    if (!ok)
        return cli_complain(p->c, &k);
    return p->c->json ? cli_print_answer(&k) : CLI_OK;
}

int cli_tree_in(cli *c, const char *from, const cli_remote *to)
{
    SBX_CLEANUP(sbx_free_str) char *base = cli_base_name(from), *inside = NULL;
    packing p = {.c = c, .made = SBX_BUF_INIT(MAX_AHEAD)};
    int folder = cli_remote_is_folder(c, to, to->path);
    bool nameless = !*base || strcmp(base, ".") == 0 || strcmp(base, "..") == 0;

    if (folder < 0)
        return CLI_FAILED;
    if (folder && !nameless)
        inside = cli_join_path(to->path, base);
    if (chdir(from))
        return cli_fail(c, "%s: %s", from, strerror(errno));
    p.disk = archive_read_disk_new();
    p.out = archive_write_new();
    if (!p.disk || !p.out)
        abort();
    archive_read_disk_set_symlink_physical(p.disk);
    archive_write_set_format_pax_restricted(p.out);
    archive_write_set_bytes_in_last_block(p.out, 1);
    int status;
    if (archive_read_disk_open(p.disk, ".") < ARCHIVE_WARN ||
        archive_write_open(p.out, &p, NULL, keep_made, NULL) < ARCHIVE_WARN) {
        status = cli_fail(c, "%s: %s", from, archive_error_string(p.disk));
    } else {
        cli_progress_begin(&p.progress, c, from, -1);
        status = send_packed(&p, to, inside ? inside : to->path);
    }
    archive_write_free(p.out);
    archive_read_free(p.disk);
    sbx_buf_done(&p.made);
    return status;
}
