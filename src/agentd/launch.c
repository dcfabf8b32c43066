/* EXEC frames, and the merge of environments. */
#include "launch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "pages.h"

#define KEPT_BYTES   (16u * 1024)
#define DEFAULT_TERM "TERM=xterm-256color"
#define DEFAULT_COLS 80
#define DEFAULT_ROWS 24
#define DEFAULT_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* The text being built. */
typedef struct blob {
    char *data;
    size_t len, cap;
    bool full;
} blob;

static void add(blob *b, const char *data, size_t len)
{
    if (b->cap - b->len < len + 1) {
        b->full = true;
        return;
    }
    memcpy(b->data + b->len, data, len);
    b->data[b->len + len] = '\0';
    b->len += len + 1;
}

static bool has_nul(const sbx_field *f)
{
    return memchr(f->data, '\0', f->len) != NULL;
}

static const char *take_env(agent_request *r, const sbx_field *f)
{
    const char *eq = memchr(f->data, '=', f->len);

    if (!eq || eq == f->data)
        return "ENV must be NAME=VALUE";
    if (++r->envc > AGENT_MAX_ENV)
        return "too many environment variables";
    return NULL;
}

/* Takes one field. @return NULL, or why the request is refused. */
static const char *take_field(agent_request *r, const sbx_field *f)
{
    switch (f->tag) {
    case SBX_T_EXEC_ID:
        r->exec_id = *f;
        return f->len > SBX_LOG_ID_BYTES ? "EXEC_ID is too long" : NULL;
    case SBX_T_ARG:
        return ++r->argc > AGENT_MAX_ARGS ? "too many arguments" : NULL;
    case SBX_T_ENV:
        return take_env(r, f);
    case SBX_T_CWD:
        r->cwd = *f;
        return f->len >= AGENT_CWD_BYTES ? "CWD is too long" : NULL;
    case SBX_T_USER:
        r->user = *f;
        return f->len >= AGENT_SPEC_BYTES ? "USER is too long" : NULL;
    case SBX_T_TIMEOUT_MS:
        r->timeout_ms = f->num;
        return NULL;
    case SBX_T_MAX_OUTPUT:
        r->max_output = f->num;
        return NULL;
    case SBX_T_WINDOW:
        r->window = f->num;
        return NULL;
    case SBX_T_FLAGS:
        r->flags = f->num;
        return NULL;
    case SBX_T_CPU_MS:
        r->cpu_ms = f->num;
        return NULL;
    case SBX_T_COLS:
        r->cols = f->num;
        return NULL;
    case SBX_T_ROWS:
        r->rows = f->num;
        return NULL;
    default:
        return NULL;
    }
}

static bool is_text(uint16_t tag)
{
    return tag == SBX_T_EXEC_ID || tag == SBX_T_ARG || tag == SBX_T_ENV || tag == SBX_T_CWD ||
           tag == SBX_T_USER;
}

static bool is_number(uint16_t tag)
{
    return tag == SBX_T_TIMEOUT_MS || tag == SBX_T_MAX_OUTPUT || tag == SBX_T_WINDOW ||
           tag == SBX_T_FLAGS || tag == SBX_T_CPU_MS || tag == SBX_T_COLS || tag == SBX_T_ROWS;
}

/* @return NULL, or why the request as a whole is refused. */
static const char *complete(agent_request *r)
{
    if (r->argc == 0)
        return "no ARG";
    r->cols = r->cols ? r->cols : DEFAULT_COLS;
    r->rows = r->rows ? r->rows : DEFAULT_ROWS;
    if (r->cols > AGENT_TERMINAL_MAX_SIDE || r->rows > AGENT_TERMINAL_MAX_SIDE)
        return "COLS and ROWS must be 1 to 1000";
    return NULL;
}

int agent_request_parse(const sbx_frame *f, agent_request *ret, const char **ret_why)
{
    agent_request r = {0};
    const char *why = NULL;
    sbx_fields fields;
    sbx_field at;
    int more;

    sbx_fields_init(&fields, f->payload, f->len);
    while ((more = sbx_fields_next(&fields, &at)) > 0) {
        const char *refused = NULL;

        if (is_number(at.tag) && at.len != 8)
            return -1;
        if (is_text(at.tag) && has_nul(&at))
            refused = "a field holds a zero byte";
        if (!refused)
            refused = take_field(&r, &at);
        if (!why)
            why = refused;
    }
    if (more < 0)
        return -1;
    if (!why)
        why = complete(&r);
    *ret = r;
    *ret_why = why;
    return why ? 0 : 1;
}

/* Does the request set the variable that `entry` ("NAME=...") sets? */
static bool overridden(const sbx_frame *f, const char *entry, size_t name_len)
{
    sbx_fields fields;
    sbx_field at;

    sbx_fields_init(&fields, f->payload, f->len);
    while (sbx_fields_next(&fields, &at) > 0)
        if (at.tag == SBX_T_ENV && at.len > name_len && memcmp(at.data, entry, name_len + 1) == 0)
            return true;
    return false;
}

static bool is_name(const char *entry, size_t len, const char *name)
{
    return len == strlen(name) && memcmp(entry, name, len) == 0;
}

/* Adds a variable of the image or of ours, unless the request has its own. */
static uint32_t add_base(blob *b, const sbx_frame *f, const char *entry)
{
    size_t name_len = strcspn(entry, "=");

    if (entry[name_len] != '=' || overridden(f, entry, name_len))
        return 0;
    add(b, entry, strlen(entry));
    return 1;
}

static uint32_t add_own(blob *b, const sbx_frame *f, const char *name, const char *value)
{
    char entry[AGENT_HOME_BYTES + 16];

    (void)snprintf(entry, sizeof entry, "%s=%s", name, value);
    return add_base(b, f, entry);
}

/* Adds the image's variables, and what every command needs if they lack it. */
static uint32_t add_image_environment(blob *b, const sbx_frame *f, char *const *image_env,
                                      bool terminal)
{
    uint32_t n = 0;
    bool path = false, term = !terminal;

    for (; *image_env; image_env++) {
        size_t len = strcspn(*image_env, "=");

        if (is_name(*image_env, len, SBX_PROTO_TOKEN_ENV) || is_name(*image_env, len, "HOME") ||
            is_name(*image_env, len, "USER") || is_name(*image_env, len, "LOGNAME"))
            continue;
        path |= is_name(*image_env, len, "PATH");
        term |= is_name(*image_env, len, "TERM");
        n += add_base(b, f, *image_env);
    }
    if (!path)
        n += add_base(b, f, DEFAULT_PATH);
    if (!term)
        n += add_base(b, f, DEFAULT_TERM);
    return n;
}

static uint32_t add_environment(blob *b, const sbx_frame *f, const agent_user *u,
                                char *const *image_env, bool terminal)
{
    uint32_t n = add_image_environment(b, f, image_env, terminal);
    sbx_fields fields;
    sbx_field at;

    n += add_own(b, f, "HOME", u->home);
    n += add_own(b, f, "USER", u->name);
    n += add_own(b, f, "LOGNAME", u->name);

    sbx_fields_init(&fields, f->payload, f->len);
    while (sbx_fields_next(&fields, &at) > 0) {
        const char *eq = at.tag == SBX_T_ENV ? memchr(at.data, '=', at.len) : NULL;

        if (!eq || is_name(at.data, (size_t)(eq - at.data), SBX_PROTO_TOKEN_ENV))
            continue;
        add(b, at.data, at.len);
        n++;
    }
    return n;
}

static void add_arguments(blob *b, const sbx_frame *f)
{
    sbx_fields fields;
    sbx_field at;

    sbx_fields_init(&fields, f->payload, f->len);
    while (sbx_fields_next(&fields, &at) > 0)
        if (at.tag == SBX_T_ARG)
            add(b, at.data, at.len);
}

static size_t space_needed(const sbx_frame *f, char *const *image_env)
{
    size_t size = sizeof(agent_launch_header) + f->len + 4 * AGENT_HOME_BYTES + 1024;

    for (; *image_env; image_env++)
        size += strlen(*image_env) + 1;
    return size;
}

static int write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);

        if (n < 0 && errno != EINTR)
            return -1;
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

/* Most descriptions are small: the memory for those is kept, which saves making it anew each time.
 * The agent has one thread. */
static char *borrow_room(size_t size)
{
    static char *kept;

    if (size > KEPT_BYTES)
        return agent_pages_map(size);
    if (!kept)
        kept = agent_pages_map(KEPT_BYTES);
    return kept;
}

/* No value of an environment stays behind. */
static void return_room(char *room, size_t size, size_t used)
{
    if (size > KEPT_BYTES)
        agent_pages_unmap(room, size);
    else
        explicit_bzero(room, used);
}

int agent_launch_write(int fd, const sbx_frame *f, const agent_request *r, const agent_user *u,
                       char *const *image_env, const char *terminal)
{
    agent_launch_header h = {.uid = u->uid,
                             .gid = u->gid,
                             .ngroups = (uint32_t)u->ngroups,
                             .argc = r->argc,
                             .stdin_pipe = (r->flags & SBX_EXEC_STDIN) != 0,
                             .own_cwd = r->cwd.len > 0};
    blob b = {.cap = space_needed(f, image_env)};
    int rc;

    b.data = borrow_room(b.cap);
    if (!b.data)
        return -1;
    memcpy(h.groups, u->groups, sizeof h.groups);
    b.len = sizeof h;
    (void)snprintf(h.terminal, sizeof h.terminal, "%s", terminal);
    add(&b, u->home, strlen(u->home));
    add(&b, r->cwd.data ? r->cwd.data : "", r->cwd.len);
    add_arguments(&b, f);
    h.envc = add_environment(&b, f, u, image_env, terminal[0] != '\0');
    memcpy(b.data, &h, sizeof h);
    if (b.full) {
        errno = E2BIG;
        rc = -1;
    } else {
        rc = write_all(fd, b.data, b.len);
    }
    return_room(b.data, b.cap, b.len);
    return rc;
}
