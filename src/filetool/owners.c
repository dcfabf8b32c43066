/* passwd and group are small; each is read once, and the last answer kept, as most files of a
 * sandbox have the same owner. */
#include "owners.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sbx/core/json.h"

#define MAX_TABLE_BYTES (256 * KIB)

typedef struct table {
    const char *file;
    char *text; /* NULL until it is asked for */
    bool kept;
    unsigned last;
    char name[FT_OWNER_BYTES];
} table;

static table users = {.file = "/etc/passwd"}, groups = {.file = "/etc/group"};

/* A file that cannot be read is an empty one. */
static void load(table *t)
{
    int fd = open(t->file, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct stat st;
    size_t len = 0;
    ssize_t n = 0;

    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        size_t cap = (size_t)SBX_MIN(st.st_size, (off_t)MAX_TABLE_BYTES);

        t->text = sbx_alloc(cap + 1);
        while (len < cap && (n = read(fd, t->text + len, cap - len)) > 0)
            len += (size_t)n;
    }
    if (!t->text)
        t->text = sbx_alloc(1);
    if (fd >= 0)
        close(fd);
}

/* Column `at` (from 0) of a line that ends before `end`; NULL if it has fewer. */
static const char *column(const char *line, const char *end, int at, size_t *len)
{
    for (; at > 0; at--) {
        line = memchr(line, ':', (size_t)(end - line));
        if (!line)
            return NULL;
        line++;
    }
    const char *stop = memchr(line, ':', (size_t)(end - line));

    *len = (size_t)((stop ? stop : end) - line);
    return line;
}

/* The wanted column of the first line whose third is `id`. */
static const char *find(table *t, unsigned id, int want, size_t *len)
{
    char number[16];

    if (!t->text)
        load(t);
    (void)snprintf(number, sizeof(number), "%u", id);
    for (const char *line = t->text, *end; *line; line = *end ? end + 1 : end) {
        size_t n = 0;

        end = line + strcspn(line, "\n");
        const char *got = column(line, end, 2, &n);

        if (got && n == strlen(number) && memcmp(got, number, n) == 0)
            return column(line, end, want, len);
    }
    return NULL;
}

static void name_of(table *t, unsigned id, char ret[FT_OWNER_BYTES])
{
    if (!t->kept || t->last != id) {
        size_t len = 0;
        const char *name = find(t, id, 0, &len);

        if (name && len > 0 && len < FT_OWNER_BYTES && sbx_utf8_valid(name, len))
            (void)snprintf(t->name, sizeof(t->name), "%.*s", (int)len, name);
        else
            (void)snprintf(t->name, sizeof(t->name), "%u", id);
        t->last = id;
        t->kept = true;
    }
    memcpy(ret, t->name, FT_OWNER_BYTES);
}

void ft_owner_user(uid_t uid, char ret[FT_OWNER_BYTES])
{
    name_of(&users, uid, ret);
}

void ft_owner_group(gid_t gid, char ret[FT_OWNER_BYTES])
{
    name_of(&groups, gid, ret);
}

bool ft_owner_home(uid_t uid, char *ret, size_t cap)
{
    size_t len = 0;
    const char *home = find(&users, uid, 5, &len);

    if (!home || len == 0 || home[0] != '/' || len >= cap)
        return false;
    memcpy(ret, home, len);
    ret[len] = '\0';
    return true;
}
