/* The packages of a run. A one-shot run gets a set of them, which is mounted in the sandbox that is
 * made for it then; in a sandbox that is there they are installed in place, by its user, and stay
 * there. */
#include "runs_priv.h"

#define LINE_BYTES KIB

/* --- a set, for a sandbox of its own --- */

/* What the run is given beside what its request says. Paths of the request come first. */
static void add_env(run *x, const sbx_pairs *set)
{
    for (size_t i = 0; i < set->count; i++) {
        sbx_pairs *env = &x->spec.env;
        size_t at = 0;

        while (at < env->count && strcmp(env->names[at], set->names[i]) != 0)
            at++;
        if (at == env->count) {
            sbx_pairs_add(env, set->names[i], set->values[i]);
            continue;
        }
        char *both = sbx_asprintf("%s:%s", env->values[at], set->values[i]);

        free(env->values[at]);
        env->values[at] = both;
    }
}

typedef struct got {
    run *x;
    sbx_package_set set;
    sbx_err err;
    char *output;
} got;

static void take_set(run *x, got *g)
{
    x->own.mount = g->set.mount;
    add_env(x, &g->set.env);
    x->installed = sbx_steal(g->set.installed);
    free(x->record.packages);
    x->record.packages = sbx_strdup(x->installed);
}

static void got_on_stream(void *arg)
{
    got *g = arg;
    run *x = g->x;
    sbx_err err = g->err;

    x->wanted = true;
    if (!err.code) {
        take_set(x, g);
    } else if (err.code == SBX_E_PACKAGE) {
        x->complaint = sbx_steal(g->output);
    }
    sbx_package_set_done(&g->set);
    free(g->output);
    free(g);
    if (!err.code && !x->left) {
        run_make_later(x);
        return;
    }
    if (!err.code)
        sbx_err_set(&err, SBX_E_CANCELLED, "the client went away");
    run_failed(x, &err);
}

static void set_done(void *arg, sbx_package_set *set, const sbx_err *err, const char *output)
{
    run *x = arg;
    got *g = sbx_alloc(sizeof(*g));

    g->x = x;
    if (err)
        g->err = *err;
    else
        g->set = *set;
    g->output = sbx_strdup(output);
    sbx_stream_post(x->r->c.stream, got_on_stream, g);
}

static void progress(void *arg, const char *line, size_t len)
{
    answer_progress(arg, line, len);
    run_flush(arg);
}

static void wanting_on_stream(void *arg)
{
    run *x = arg;

    x->wanting = true;
    if (x->left && !x->wanted)
        sbx_packages_leave(&x->want);
    run_unref(x);
}

/* The reference is for wanting_on_stream(): until it has run, nobody may leave. */
void packages_get(run *x)
{
    x->want = (sbx_package_want){
        .owner = x->owner,
        .runtime = x->how->template_name,
        .image = sbx_sandboxes_template(x->r->c.sandboxes, x->how->template_name),
        .specs = &x->packages,
        .progress = progress,
        .done = set_done,
        .arg = x};
    sbx_packages_want(x->r->c.packages, &x->want);
    sbx_stream_post(x->r->c.stream, wanting_on_stream, x);
}

/* --- in place --- */

struct installer { /* STREAM */
    run *x;
    sbx_command *command;
    sbx_buf line, tail;
};

static void installer_free(struct installer *i)
{
    i->x->installer = NULL;
    sbx_buf_done(&i->line);
    sbx_buf_done(&i->tail);
    free(i);
}

static void take_line(struct installer *i)
{
    if (!i->line.len)
        return;
    if (sbx_utf8_valid(i->line.data, i->line.len)) {
        sbx_buf_add(&i->tail, i->line.data, i->line.len);
        sbx_buf_addc(&i->tail, '\n');
        answer_progress(i->x, i->line.data, i->line.len);
    }
    sbx_buf_reset(&i->line);
    if (i->tail.len > SBX_INSTALL_TAIL_BYTES)
        sbx_buf_consume(&i->tail, i->tail.len - SBX_INSTALL_TAIL_BYTES);
}

static void place_started(void *arg, sbx_command *c, int64_t pid)
{
    struct installer *i = arg;

    (void)pid;
    i->command = c;
    if (i->x->left)
        sbx_command_kill(c);
}

static void place_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    struct installer *i = arg;

    (void)is_stderr;
    for (size_t at = 0; at < len; at++) {
        if (data[at] == '\n' || data[at] == '\r' || i->line.len == LINE_BYTES - 1)
            take_line(i);
        if (data[at] != '\n' && data[at] != '\r' && data[at])
            sbx_buf_addc(&i->line, data[at]);
    }
    run_flush(i->x);
    sbx_command_grant(c, (int64_t)len);
}

static void place_failed(void *arg, const sbx_err *err)
{
    struct installer *i = arg;
    run *x = i->x;

    installer_free(i);
    run_fail(x, err);
}

static char *list_json(const sbx_strs *packages)
{
    sbx_buf b = SBX_BUF_INIT(SBX_MAX_PACKAGE_LIST);
    sbx_jw w = SBX_JW(&b);

    sbx_jw_arr(&w, NULL);
    for (size_t n = 0; n < packages->count; n++)
        sbx_jw_str(&w, NULL, packages->items[n]);
    sbx_jw_arr_end(&w);
    return sbx_buf_steal(&b);
}

static void place_exit(void *arg, const sbx_command_exit *e)
{
    struct installer *i = arg;
    run *x = i->x;
    sbx_err err;

    take_line(i);
    if (!e->exit_code && !e->signal && !x->left) {
        x->installed = list_json(&x->packages);
        free(x->record.packages);
        x->record.packages = sbx_strdup(x->installed);
        installer_free(i);
        run_start_code(x);
        return;
    }
    sbx_packages_explain(x->how->template_name, &x->packages, e, i->tail.data ? i->tail.data : "",
                         &err);
    if (x->left)
        sbx_err_set(&err, SBX_E_CANCELLED, "the client went away");
    x->complaint = sbx_strdup(sbx_package_last_lines(&i->tail));
    installer_free(i);
    run_fail(x, &err);
}

static const sbx_command_events place_events = {
    .started = place_started,
    .output = place_output,
    .exit = place_exit,
    .failed = place_failed,
};

void packages_install(run *x)
{
    sbx_command_spec spec = {.window = SBX_EXEC_WINDOW_BYTES, .flags = SBX_EXEC_CHECK};
    struct installer *i = sbx_alloc(sizeof(*i));
    sbx_package_command c;

    i->x = x;
    x->installer = i;
    sbx_buf_init(&i->line, LINE_BYTES);
    sbx_buf_init(&i->tail, 2 * SBX_INSTALL_TAIL_BYTES);
    sbx_packages_in_place(x->r->c.packages, x->how->template_name, &x->packages, &c);
    sbx_copy(spec.exec_id, sizeof(spec.exec_id), sbx_id_new().s);
    spec.argv = c.argv;
    spec.env = c.env;
    spec.timeout_ms = c.timeout_ms;
    c.argv = (sbx_strs){0};
    c.env = (sbx_pairs){0};
    sbx_package_command_done(&c);
    sbx_channels_exec(x->r->c.channels, x->sandbox, &spec, &place_events, i);
}

void packages_add_files(run *x)
{
    sbx_package_command c;

    if (x->one_shot || !x->packages.count)
        return;
    sbx_packages_in_place(x->r->c.packages, x->how->template_name, &x->packages, &c);
    if (c.ca_path)
        sbx_batch_add(&x->batch, c.ca_path, 0644, c.ca_text, strlen(c.ca_text));
    sbx_package_command_done(&c);
}

void packages_give_up(run *x)
{
    if (x->wanting && !x->wanted)
        sbx_packages_leave(&x->want);
    if (x->installer && x->installer->command)
        sbx_command_kill(x->installer->command);
}
