/* Telling of changes beneath a directory, by inotify.
 *
 * A directory is watched before it is listed, so what appears in it is either found or told of by
 * the kernel, and if both, the two are merged. The kernel's queue takes what comes while nobody
 * reads; if it is full, everything is watched anew and the viewer is told that something is
 * missing. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "changes.h"
#include "path.h"
#include "sbx/core/clock.h"
#include "stream.h"
#include "temp.h"
#include "walk.h"

#define MASK                                                                                       \
    (IN_CREATE | IN_DELETE | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_MOVED_FROM |              \
     IN_MOVED_TO | IN_ONLYDIR | IN_EXCL_UNLINK)
#define ROOT_MASK    (MASK | IN_DELETE_SELF | IN_MOVE_SELF)
#define EVENT_BYTES  (64 * KIB)
#define MAX_MOVES    64 /* of which only one end was seen */
#define DEEPEST_PATH (64 * KIB)

/* A watched directory. */
typedef struct node {
    int wd;
    struct node *parent; /* NULL: the root */
    char *name;
    UT_hash_handle hh;
} node;

/* Something left a name and may come back under another one. */
typedef struct move {
    uint32_t cookie;
    size_t number; /* of the change; SIZE_MAX if the name was a hidden one */
    node *moved;   /* the directory that it is, if that is watched */
} move;

typedef struct watcher {
    const char *path;
    bool recursive, gone, lost;
    int fd;
    node *nodes, *root;
    ft_changes changes;
    move moves[MAX_MOVES];
    size_t n_moves;
    int64_t due_ms; /* when changes are told; 0: none wait */
    sbx_buf name, out;
    ft_err *err;
} watcher;

static void add_path(sbx_buf *b, const watcher *w, const node *n)
{
    if (n->parent) {
        add_path(b, w, n->parent);
        if (b->len > 1)
            sbx_buf_addc(b, '/');
        sbx_buf_adds(b, n->name);
    } else {
        sbx_buf_adds(b, w->path);
    }
}

/* The path of what is called `name` in a watched directory; NULL if it is beyond all bounds.
 * Good until the next call. */
static const char *path_of(watcher *w, const node *n, const char *name)
{
    sbx_buf_reset(&w->name);
    add_path(&w->name, w, n);
    if (name && w->name.len > 1)
        sbx_buf_addc(&w->name, '/');
    sbx_buf_adds(&w->name, name ? name : "");
    if (sbx_buf_failed(&w->name)) {
        w->lost = true;
        return NULL;
    }
    return w->name.data;
}

static size_t change(watcher *w, ft_kind kind, const node *n, const char *name)
{
    const char *path = path_of(w, n, name);

    return path ? ft_changes_add(&w->changes, kind, path) : SIZE_MAX;
}

static void node_free(watcher *w, node *n)
{
    HASH_DEL(w->nodes, n);
    for (size_t i = 0; i < w->n_moves; i++)
        if (w->moves[i].moved == n)
            w->moves[i].moved = NULL;
    free(n->name);
    free(n);
}

static bool is_beneath(const node *n, const node *top)
{
    while (n && n != top)
        n = n->parent;
    return n == top;
}

/* Stops watching a directory and all beneath it. */
static void drop(watcher *w, node *top)
{
    node *n, *next;
    size_t count = 0;
    node **found = sbx_alloc((HASH_COUNT(w->nodes) + 1) * sizeof(node *));

    HASH_ITER (hh, w->nodes, n, next)
        if (is_beneath(n, top))
            found[count++] = n;
    for (size_t i = 0; i < count; i++) {
        (void)inotify_rm_watch(w->fd, found[i]->wd);
        node_free(w, found[i]);
    }
    free(found);
}

static node *child_of(watcher *w, const node *parent, const char *name)
{
    for (node *n = w->nodes; n; n = n->hh.next)
        if (n->parent == parent && n->name && strcmp(n->name, name) == 0)
            return n;
    return NULL;
}

/* Watches the open directory `fd`. @return its node; NULL with w->err */
static node *watch(watcher *w, int fd, node *parent, const char *name)
{
    int wd = fchdir(fd) < 0 ? -1 : inotify_add_watch(w->fd, ".", parent ? MASK : ROOT_MASK);
    int errnum = errno;
    node *n = NULL;

    /* A working directory that is removed would not be told of. */
    (void)!chdir("/");
    errno = errnum;
    if (wd < 0) {
        if (errno == ENOSPC)
            (void)ft_fail(w->err, FT_E_NO_SPACE, parent ? path_of(w, parent, name) : w->path,
                          "this machine allows no more directories to be watched");
        else
            (void)ft_fail_errno(w->err, w->path, "cannot watch the directory");
        return NULL;
    }
    HASH_FIND_INT(w->nodes, &wd, n);
    if (!n && HASH_COUNT(w->nodes) >= FT_MAX_WATCHES) {
        (void)ft_fail(w->err, FT_E_TOO_LARGE, w->path,
                      "there are more than %d directories to watch", FT_MAX_WATCHES);
        return NULL;
    }
    if (!n) {
        n = sbx_alloc(sizeof(*n));
        n->wd = wd;
        HASH_ADD_INT(w->nodes, wd, n);
    }
    free(n->name); /* a directory that is known has come to another place */
    n->name = sbx_strdup(name);
    n->parent = parent;
    return n;
}

typedef struct scan {
    watcher *w;
    node *at[FT_MAX_DEPTH + 1]; /* directories on the way; [0]: where the walk began */
    bool tell;
} scan;

static ft_next found(void *ctx, const ft_step *step, ft_err *err)
{
    scan *s = ctx;
    node *n;
    int fd;

    (void)err; /* it is w->err */
    if (ft_hidden(step->name))
        return FT_SKIP;
    if (s->tell)
        (void)change(s->w, FT_CREATE, s->at[step->depth], step->name);
    if (!S_ISDIR(step->st.st_mode) ||
        faccessat(step->dirfd, step->name, R_OK | X_OK, AT_EACCESS) < 0 || ft_walk_is_kernels(step))
        return FT_SKIP;
    fd = openat(step->dirfd, step->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return FT_SKIP; /* gone already, or not for this user */
    n = watch(s->w, fd, s->at[step->depth], step->name);
    close(fd);
    if (!n)
        return FT_FAILED;
    s->at[step->depth + 1] = n;
    return FT_DESCEND;
}

/* Watches what lies beneath a directory that is watched. @param tell  it is new to the viewer */
static int descend(watcher *w, int fd, node *n, bool tell)
{
    scan s = {.w = w, .at = {n}, .tell = tell};
    ft_visitor visitor = {.enter = found, .ctx = &s};
    const char *path = path_of(w, n, NULL);

    SBX_CLEANUP(sbx_free_str) char *own = sbx_strdup(path ? path : "/");
    if (ft_walk(fd, own, &visitor, w->err) == 0)
        return 0;
    /* Directories come and go, or change, while they are walked. */
    if (w->err->code != FT_E_NOT_FOUND && w->err->code != FT_E_PERMISSION &&
        w->err->code != FT_E_NOT_DIRECTORY)
        return -1;
    w->lost = true;
    return 0;
}

/* A directory has appeared in a watched one. */
static int appeared(watcher *w, node *parent, const char *name)
{
    const char *path = path_of(w, parent, name);
    int fd, rc = 0;
    node *n;

    if (!w->recursive || !path)
        return 0;
    fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        w->lost = w->lost || (errno != ENOENT && errno != EACCES && errno != ENOTDIR);
        return 0;
    }
    n = watch(w, fd, parent, name);
    rc = n ? descend(w, fd, n, true) : -1;
    close(fd);
    return rc;
}

static void left(watcher *w, node *dir, const struct inotify_event *e)
{
    move m = {.cookie = e->cookie, .number = SIZE_MAX};

    if (e->mask & IN_ISDIR)
        m.moved = child_of(w, dir, e->name);
    if (!ft_hidden(e->name))
        m.number = change(w, FT_REMOVE, dir, e->name);
    if (w->n_moves < MAX_MOVES)
        w->moves[w->n_moves++] = m;
    else if (m.moved)
        drop(w, m.moved);
}

static int arrived(watcher *w, node *dir, const struct inotify_event *e)
{
    size_t i = 0;

    while (i < w->n_moves && w->moves[i].cookie != e->cookie)
        i++;
    bool known = i < w->n_moves;
    move m = known ? w->moves[i] : (move){.number = SIZE_MAX};

    if (known)
        w->moves[i] = w->moves[--w->n_moves];
    if (ft_hidden(e->name)) {
        if (m.moved)
            drop(w, m.moved);
        return 0;
    }
    const char *to = path_of(w, dir, e->name);

    if (known && m.number != SIZE_MAX && to) {
        ft_changes_renamed(&w->changes, m.number, to);
        if (m.moved) {
            free(m.moved->name);
            m.moved->name = sbx_strdup(e->name);
            m.moved->parent = dir;
        }
        return 0;
    }
    /* A file of ours takes its place: whether there was one before is not known. */
    (void)change(w, known && !(e->mask & IN_ISDIR) ? FT_WRITE : FT_CREATE, dir, e->name);
    return e->mask & IN_ISDIR ? appeared(w, dir, e->name) : 0;
}

/* A file that was opened without a name has one for the kernel's own use. */
static bool is_nameless(watcher *w, const node *dir, const char *name)
{
    struct stat st;
    const char *path;

    if (name[0] != '#' || name[1 + strspn(name + 1, "0123456789")])
        return false;
    path = path_of(w, dir, name);
    return path && lstat(path, &st) < 0 && errno == ENOENT;
}

static void changed(watcher *w, const node *dir, const struct inotify_event *e)
{
    if (is_nameless(w, dir, e->name))
        return;
    if (e->mask & (IN_MODIFY | IN_CLOSE_WRITE))
        (void)change(w, FT_WRITE, dir, e->name);
    if (e->mask & IN_ATTRIB)
        (void)change(w, FT_CHMOD, dir, e->name);
}

static int happened(watcher *w, const struct inotify_event *e)
{
    node *dir = NULL;

    if (e->mask & IN_Q_OVERFLOW) {
        w->lost = true;
        return 0;
    }
    HASH_FIND_INT(w->nodes, &e->wd, dir);
    if (!dir)
        return 0;
    if (dir == w->root && (e->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED)))
        w->gone = true;
    else if (e->mask & IN_IGNORED)
        drop(w, dir);
    if (e->len == 0) {
        if (dir == w->root && (e->mask & IN_ATTRIB) && !w->gone)
            (void)change(w, FT_CHMOD, dir, NULL);
        return 0;
    }
    if (e->mask & IN_MOVED_FROM)
        left(w, dir, e);
    if (e->mask & IN_MOVED_TO)
        return arrived(w, dir, e);
    if (ft_hidden(e->name))
        return 0;
    if (e->mask & IN_CREATE) {
        (void)change(w, FT_CREATE, dir, e->name);
        return e->mask & IN_ISDIR ? appeared(w, dir, e->name) : 0;
    }
    if (e->mask & IN_DELETE)
        (void)change(w, FT_REMOVE, dir, e->name);
    if (e->mask & (IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB))
        changed(w, dir, e);
    return 0;
}

/* @return 0; -1 */
static int take_events(watcher *w)
{
    static char events[EVENT_BYTES] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t n = read(w->fd, events, sizeof(events));

    if (n < 0)
        return errno == EAGAIN || errno == EINTR
                   ? 0
                   : ft_fail_errno(w->err, w->path, "cannot read the changes");
    for (char *p = events; p < events + n;) {
        const struct inotify_event *e = (const void *)p;

        if (happened(w, e) < 0)
            return -1;
        p += sizeof(*e) + e->len;
    }
    if (n > 0 && w->due_ms == 0)
        w->due_ms = sbx_now_ms() + FT_WATCH_MERGE_MS;
    return 0;
}

/* Watches everything anew. */
static int begin(watcher *w)
{
    node *n, *next;
    int fd, rc;

    HASH_ITER (hh, w->nodes, n, next)
        node_free(w, n);
    w->n_moves = 0;
    if (w->fd >= 0)
        close(w->fd);
    w->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (w->fd < 0)
        return ft_fail_errno(w->err, w->path, "cannot watch");
    fd = open(w->path, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return ft_fail_errno(w->err, w->path, "cannot open the directory");
    w->root = watch(w, fd, NULL, NULL);
    rc = !w->root ? -1 : w->recursive ? descend(w, fd, w->root, false) : 0;
    close(fd);
    return rc;
}

static int tell(watcher *w)
{
    int rc = 0;

    for (; w->n_moves > 0; w->n_moves--)
        if (w->moves[w->n_moves - 1].moved)
            drop(w, w->moves[w->n_moves - 1].moved);
    if (w->lost && !w->gone) {
        w->lost = false;
        rc = begin(w);
        (void)ft_changes_add(&w->changes, FT_OVERFLOW, NULL);
    }
    w->due_ms = 0;
    if (rc < 0 || ft_changes_tell(&w->changes, &w->out, w->err) < 0)
        return -1;
    return w->gone ? ft_fail(w->err, FT_E_NOT_FOUND, w->path, "the directory was removed or moved")
                   : 0;
}

/* @return 1 to go on, 0 at the end of input, -1 */
static int turn(watcher *w)
{
    struct pollfd p[3] = {{.fd = w->fd, .events = POLLIN},
                          {.fd = STDIN_FILENO, .events = POLLIN},
                          {.fd = STDOUT_FILENO}};
    int64_t left_ms = w->due_ms == 0 ? -1 : SBX_MAX(w->due_ms - sbx_now_ms(), (int64_t)0);
    ssize_t n = 1;

    if (poll(p, 3, (int)left_ms) < 0 && errno != EINTR)
        return ft_fail_errno(w->err, NULL, "cannot wait");
    if (p[1].revents)
        n = read(STDIN_FILENO, ft_chunk(), FT_CHUNK_BYTES);
    if (n != 0 && p[2].revents & (POLLERR | POLLHUP | POLLNVAL))
        return ft_fail(w->err, FT_E_IO, NULL, "standard output was closed");
    /* Also when it is time to tell: the other half of a move may be there. */
    if ((p[0].revents || (w->due_ms && sbx_now_ms() >= w->due_ms)) && take_events(w) < 0)
        return -1;
    if (w->due_ms &&
        (n == 0 || w->gone || w->changes.bytes > FT_MAX_CHANGES_BYTES ||
         sbx_now_ms() >= w->due_ms) &&
        tell(w) < 0)
        return -1;
    return n == 0 ? 0 : 1;
}

int ft_watch(char **argv, ft_err *err)
{
    watcher w = {.fd = -1, .err = err};
    char path[FT_PATH_BYTES];
    node *n, *next;
    int rc;

    if (ft_path_resolve(argv[0], path, err) < 0 ||
        ft_arg_flag(argv[1], "RECURSIVE", &w.recursive, err) < 0)
        return -1;
    w.path = path;
    sbx_buf_init(&w.name, DEEPEST_PATH);
    sbx_buf_init(&w.out, FT_CHANGES_OUT_BYTES);
    rc = begin(&w);
    if (rc == 0)
        rc = ft_out_write("{\"type\":\"ready\"}\n", 17, err);
    if (rc == 0)
        do {
            rc = turn(&w);
        } while (rc == 1);
    HASH_ITER (hh, w.nodes, n, next)
        node_free(&w, n);
    ft_changes_done(&w.changes);
    sbx_buf_done(&w.name);
    sbx_buf_done(&w.out);
    if (w.fd >= 0)
        close(w.fd);
    return rc;
}
