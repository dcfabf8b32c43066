/* Parsing passwd and group, and the default user. */
#include "users.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "pages.h"

#define MAX_COLUMNS 7
#define PATH_BYTES  4096

/* One of the two files, cut into lines and columns in place. */
typedef struct table {
    char *text; /* AGENT_USERS_MAX_BYTES + 1 bytes of pages, or NULL */
    size_t len, at;
    char *col[MAX_COLUMNS];
} table;

static int open_regular(const char *root, const char *path, int flags)
{
    char full[PATH_BYTES];
    struct stat st;
    int n = snprintf(full, sizeof full, "%s%s", root, path);
    int fd;

    if (n < 0 || (size_t)n >= sizeof full)
        return -1;
    fd = open(full, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
        close(fd);
        return -1;
    }
    return fd;
}

/* A file that cannot be read is an empty one. */
static void table_load(table *t, const char *root, const char *path)
{
    int fd = open_regular(root, path, O_RDONLY);

    memset(t, 0, sizeof *t);
    if (fd < 0)
        return;
    t->text = agent_pages_map(AGENT_USERS_MAX_BYTES + 1);
    while (t->text && t->len < AGENT_USERS_MAX_BYTES) {
        ssize_t n = read(fd, t->text + t->len, AGENT_USERS_MAX_BYTES - t->len);

        if (n <= 0)
            break;
        t->len += (size_t)n;
    }
    close(fd);
}

static void table_done(table *t)
{
    agent_pages_unmap(t->text, AGENT_USERS_MAX_BYTES + 1);
    t->text = NULL;
}

/* The next line with at least `want` columns; the others of `col` are NULL. A line that the limit
 * cut off counts as well as one without its newline. */
static bool table_next(table *t, int want)
{
    while (t->at < t->len) {
        char *line = t->text + t->at;
        char *end = memchr(line, '\n', t->len - t->at);
        int n = 0;

        if (!end)
            end = t->text + t->len;
        *end = '\0';
        t->at = (size_t)(end - t->text) + 1;
        memset(t->col, 0, sizeof t->col);
        while (line && n < MAX_COLUMNS) {
            char *colon = strchr(line, ':');

            t->col[n++] = line;
            if (colon)
                *colon++ = '\0';
            line = colon;
        }
        if (n >= want && t->col[0][0] != '\0' && t->col[0][0] != '#')
            return true;
    }
    return false;
}

/* Decimal digits only, below the value that means "unchanged" to the kernel. */
static bool parse_id(const char *s, uint32_t *ret)
{
    uint64_t value = 0;

    if (*s == '\0')
        return false;
    for (; *s; s++) {
        if (*s < '0' || *s > '9')
            return false;
        value = value * 10 + (uint64_t)(*s - '0');
        if (value >= UINT32_MAX)
            return false;
    }
    *ret = (uint32_t)value;
    return true;
}

static bool copy_text(char *to, size_t cap, const char *from)
{
    size_t len = from ? strlen(from) : 0;

    if (len == 0 || len >= cap)
        return false;
    memcpy(to, from, len + 1);
    return true;
}

/* Finds an entry of passwd by name, or by number if `name` is NULL. */
static bool find_user(const char *root, const char *name, uint32_t uid, agent_user *ret)
{
    table t;
    bool found = false;

    table_load(&t, root, "/etc/passwd");
    while (!found && table_next(&t, 4)) {
        uint32_t id, gid;

        if (!parse_id(t.col[2], &id) || !parse_id(t.col[3], &gid))
            continue;
        if (name ? strcmp(name, t.col[0]) != 0 : id != uid)
            continue;
        if (!copy_text(ret->name, sizeof ret->name, t.col[0]))
            continue;
        ret->uid = id;
        ret->gid = gid;
        if (!copy_text(ret->home, sizeof ret->home, t.col[5]) || ret->home[0] != '/')
            (void)copy_text(ret->home, sizeof ret->home, "/");
        found = true;
    }
    table_done(&t);
    return found;
}

static bool find_group(const char *root, const char *name, uint32_t *ret)
{
    table t;
    bool found = false;

    table_load(&t, root, "/etc/group");
    while (!found && table_next(&t, 3))
        found = strcmp(name, t.col[0]) == 0 && parse_id(t.col[2], ret);
    table_done(&t);
    return found;
}

static bool lists_member(char *members, const char *name)
{
    char *save = NULL;

    for (char *m = strtok_r(members, ",", &save); m; m = strtok_r(NULL, ",", &save))
        if (strcmp(m, name) == 0)
            return true;
    return false;
}

static void add_member_groups(const char *root, agent_user *u)
{
    table t;

    table_load(&t, root, "/etc/group");
    while (u->ngroups < AGENT_MAX_GROUPS && table_next(&t, 4)) {
        uint32_t gid;

        if (parse_id(t.col[2], &gid) && gid != u->gid && lists_member(t.col[3], u->name))
            u->groups[u->ngroups++] = gid;
    }
    table_done(&t);
}

/* The part of a spec before the colon. @return whether it exists. */
static bool resolve_name(const char *root, const char *name, agent_user *u)
{
    uint32_t uid;

    if (!parse_id(name, &uid))
        return find_user(root, name, 0, u);
    if (find_user(root, NULL, uid, u))
        return true;
    u->uid = uid;
    u->gid = uid == AGENT_DEFAULT_ID ? uid : 0;
    (void)snprintf(u->name, sizeof u->name, "%u", uid);
    (void)copy_text(u->home, sizeof u->home, "/");
    return true;
}

int agent_user_resolve(const char *root, const char *spec, agent_user *ret)
{
    agent_user u = {0};
    char name[AGENT_SPEC_BYTES];
    char *group;

    if (!copy_text(name, sizeof name, spec))
        return -1;
    group = strchr(name, ':');
    if (group)
        *group++ = '\0';
    if (!resolve_name(root, name, &u))
        return -1;
    if (group && !parse_id(group, &u.gid) && !find_group(root, group, &u.gid))
        return -1;
    u.groups[u.ngroups++] = u.gid;
    if (!group)
        add_member_groups(root, &u);
    *ret = u;
    return 0;
}

/* Does the image name a user other than root? */
static bool names_other_user(const char *root, const char *image)
{
    agent_user u;

    return image[0] != '\0' && (agent_user_resolve(root, image, &u) < 0 || u.uid != 0);
}

int agent_user_default(const char *root, const char *image, agent_user *ret)
{
    if (names_other_user(root, image))
        return agent_user_resolve(root, image, ret);
    if (agent_user_resolve(root, "1000", ret) < 0)
        return -1;
    if (strcmp(ret->name, "1000") == 0) {
        (void)copy_text(ret->name, sizeof ret->name, AGENT_DEFAULT_USER);
        (void)copy_text(ret->home, sizeof ret->home, AGENT_DEFAULT_HOME);
    }
    return 0;
}

/* --- the memo --- */

/* A change within the grain of the clock of the file system shows only in the content: what was
 * changed a moment ago is read again. */
#define SETTLED_S 2

static void look_at_files(const char *root, struct stat ret[2])
{
    static const char *const names[] = {"/etc/passwd", "/etc/group"};
    char path[PATH_BYTES];

    for (size_t i = 0; i < 2; i++) {
        int n = snprintf(path, sizeof path, "%s%s", root, names[i]);

        if (n < 0 || (size_t)n >= sizeof path || stat(path, &ret[i]) < 0)
            memset(&ret[i], 0, sizeof ret[i]);
    }
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static bool has_settled(const struct stat *st)
{
    return time(NULL) - st->st_ctim.tv_sec >= SETTLED_S;
}

int agent_user_recall(agent_user_memo *m, const char *root, const char *image, const char *spec,
                      agent_user *ret)
{
    struct stat files[2];

    look_at_files(root, files);
    if (m->known && strcmp(m->spec, spec) == 0 && strcmp(m->image, image) == 0 &&
        same_file(&m->files[0], &files[0]) && same_file(&m->files[1], &files[1])) {
        *ret = m->user;
        return 0;
    }
    m->known = false;
    if ((spec[0] ? agent_user_resolve(root, spec, ret) : agent_user_default(root, image, ret)) < 0)
        return -1;
    if (!has_settled(&files[0]) || !has_settled(&files[1]))
        return 0;
    (void)snprintf(m->spec, sizeof m->spec, "%s", spec);
    (void)snprintf(m->image, sizeof m->image, "%s", image);
    memcpy(m->files, files, sizeof files);
    m->user = *ret;
    m->known = true;
    return 0;
}

/* --- what is missing --- */

/* Adds a line to a file, after a newline if the last one lacks it. */
static void append_line(const char *root, const char *path, const char *line)
{
    char last = '\n';
    char text[256];
    struct stat st;
    int fd = open_regular(root, path, O_RDWR | O_APPEND | O_NOFOLLOW);
    int n;

    if (fd < 0)
        return;
    if (fstat(fd, &st) == 0 && st.st_size > 0)
        (void)!pread(fd, &last, 1, st.st_size - 1);
    n = snprintf(text, sizeof text, "%s%s\n", last == '\n' ? "" : "\n", line);
    if (n > 0 && (size_t)n < sizeof text)
        (void)!write(fd, text, (size_t)n);
    close(fd);
}

static bool group_taken(const char *root)
{
    table t;
    bool taken = false;

    table_load(&t, root, "/etc/group");
    while (!taken && table_next(&t, 3)) {
        uint32_t gid;

        taken = strcmp(t.col[0], AGENT_DEFAULT_USER) == 0 ||
                (parse_id(t.col[2], &gid) && gid == AGENT_DEFAULT_ID);
    }
    table_done(&t);
    return taken;
}

/* Makes the home directory, if it lies in /home; what exists is left alone. */
static void make_home(const char *root, const agent_user *u)
{
    char path[PATH_BYTES];
    int fd;

    if (strncmp(u->home, "/home/", 6) != 0 || strstr(u->home, ".."))
        return;
    (void)snprintf(path, sizeof path, "%s/home", root);
    (void)mkdir(path, 0755);
    (void)snprintf(path, sizeof path, "%s%s", root, u->home);
    if (mkdir(path, 0755) < 0)
        return;
    fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)!fchown(fd, u->uid, u->gid);
    close(fd);
}

void agent_user_provide(const char *root, const char *image)
{
    agent_user u = {0};

    if (!names_other_user(root, image) && !find_user(root, NULL, AGENT_DEFAULT_ID, &u) &&
        !find_user(root, AGENT_DEFAULT_USER, 0, &u)) {
        append_line(root, "/etc/passwd", "user:x:1000:1000::" AGENT_DEFAULT_HOME ":/bin/sh");
        if (!group_taken(root))
            append_line(root, "/etc/group", "user:x:1000:");
    }
    if (agent_user_default(root, image, &u) == 0)
        make_home(root, &u);
}
