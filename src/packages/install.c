/* One installation. Steps, each in a sandbox of its own that is gone before the next begins:
 *
 *   trust    the operator's certificates are written there, if there are any
 *   install  pip or npm, in the same sandbox, which has the volume writable
 *   look     another sandbox, without a network and with the volume read-only, tells what is there;
 *            whatever ran in the first one cannot have changed the programs of this one
 *   seal     the row is told, and from now on runs may use the volume
 *
 * Commands are followed on STREAM, sandboxes are made and removed on WORKERs (work()). The object
 * goes back and forth between the two; who waits is STREAM's all the time. */
#include "packages_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/id.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <stdio.h>

#define STEP_DEADLINE_MS 180000
#define RETRY_MS         100 /* until the lane has room again */
#define TOLD_BYTES       (4 * SBX_MAX_PACKAGE_LIST)

install *install_new(sbx_packages *p, const sbx_package_want *w, const char *image_id)
{
    install *i = sbx_alloc(sizeof(*i));

    i->p = p;
    i->with = installer_of(sbx_packages_kind(w->runtime));
    i->from_ms = sbx_now_ms();
    i->pinned = true;
    sbx_copy(i->owner, sizeof(i->owner), w->owner);
    sbx_copy(i->set_id, sizeof(i->set_id), w->set_id);
    packages_set_volume(i->volume, w->set_id);
    memcpy(i->request, w->request, sizeof(i->request));
    i->image = sbx_strdup(w->image);
    i->image_id = sbx_strdup(image_id);
    for (size_t n = 0; n < w->specs->count; n++) {
        const char *why;
        bool pinned = false;

        if (!sbx_package_spec_valid(i->with->kind, w->specs->items[n], &pinned, &why))
            pinned = false;
        i->pinned = i->pinned && pinned;
        sbx_strs_add(&i->specs, w->specs->items[n]);
    }
    i->step = p->ca_text ? STEP_TRUST : STEP_INSTALL;
    sbx_buf_init(&i->line, SBX_INSTALL_LINE_BYTES);
    sbx_buf_init(&i->tail, 2 * SBX_INSTALL_TAIL_BYTES);
    sbx_buf_init(&i->told, TOLD_BYTES);
    return i;
}

void install_free(install *i)
{
    free(i->image);
    free(i->image_id);
    free(i->installed);
    sbx_strs_done(&i->specs);
    sbx_buf_done(&i->line);
    sbx_buf_done(&i->tail);
    sbx_buf_done(&i->told);
    free(i);
}

/* The first failure is the one that counts. */
static void fail(install *i, const sbx_err *err)
{
    if (!i->failure.code)
        i->failure = *err;
}

/* --- the end, on STREAM --- */

const char *sbx_package_last_lines(const sbx_buf *output)
{
    const char *text = output->data ? output->data : "";
    size_t cut =
        output->len > SBX_INSTALL_OUTPUT_BYTES ? output->len - SBX_INSTALL_OUTPUT_BYTES : 0;
    const char *line = cut ? strchr(text + cut, '\n') : NULL;

    return line ? line + 1 : text + cut;
}

static void tell_all(install *i)
{
    while (i->wants) {
        sbx_package_want *w = i->wants;
        package_answer a = {.state = SBX_PACKAGES_SEALED};

        i->wants = w->next;
        w->install = NULL;
        if (i->failure.code) {
            a.state = SBX_PACKAGES_FAILED;
            a.err = i->failure;
            a.output = sbx_strdup(sbx_package_last_lines(&i->tail));
        } else {
            packages_fill_set(w, i->set_id, i->installed, false, &a.set);
        }
        packages_tell(w, &a);
    }
}

static void finished(void *arg)
{
    install *i = arg;
    sbx_packages *p = i->p;
    install **at = &p->installs;

    while (*at != i)
        at = &(*at)->next;
    *at = i->next;
    packages_leave_place(p, i->owner);
    if (i->failure.code) {
        sbx_log_err(SBX_INFO, "packages were not installed", &i->failure, "installer",
                    i->with->name, "set", i->set_id, NULL);
        sbx_keeper_kick(p->keeper, "packages");
    } else {
        sbx_metrics_observe_us(p->c.metrics, SBX_M_PACKAGE_SECONDS, i->with->name,
                               (sbx_now_ms() - i->from_ms) * 1000);
    }
    tell_all(i);
    install_free(i);
}

/* --- sandboxes, on a WORKER --- */

static void submit_work(void *arg);
static void created(void *arg, const sbx_sandbox_row *row, const sbx_err *err);

static void fill_spec(const install *i, sbx_spec *spec)
{
    bool look = i->step == STEP_LOOK;

    spec->image = sbx_strdup(i->image);
    spec->name = sbx_strdup("packages");
    spec->size = "medium";
    sbx_pairs_add(&spec->metadata, "sandboxd.packages", i->set_id);
    sbx_pairs_add(&spec->metadata, "sandboxd.user", i->owner);
    spec->limits.cpu_milli = SBX_INSTALL_CPU_MILLI;
    spec->limits.memory_mb = SBX_INSTALL_MEMORY_MB;
    spec->limits.pids = SBX_INSTALL_PIDS;
    spec->timeout_s = (look ? SBX_INSTALL_LOOK_S : i->p->c.timeout_s) + 60;
    spec->idle_timeout_s = spec->timeout_s;
    spec->on_timeout = spec->on_idle = "delete";
    spec->network.mode = look ? "none" : "open";
    sbx_copy(spec->mount.volume, sizeof(spec->mount.volume), i->volume);
    sbx_copy(spec->mount.path, sizeof(spec->mount.path), look ? i->with->path : i->with->made);
    spec->mount.writable = !look;
}

/* @return 0: created() is or was called. */
static int make_sandbox(install *i, sbx_err *err)
{
    sbx_packages *p = i->p;
    sbx_create_waiter waiter = {.cancelled = &i->given_up, .over = created, .arg = i};
    sbx_id id = sbx_id_new();
    sbx_spec spec = {0};
    sbx_create *c;

    if (i->step != STEP_LOOK &&
        p->c.engine->ops->volume_make(p->c.engine, i->volume, p->c.cluster, PACKAGES_ROLE, err))
        return -1;
    if (sbx_store_packages_stage(p->c.store, i->set_id, p->c.worker, id.s, err))
        return -1;
    fill_spec(i, &spec);
    int rc = sbx_create_begin(p->c.sandboxes, SBX_POOL_OWNER, id.s, &spec, &c, err);

    sbx_spec_done(&spec);
    if (rc)
        return -1;
    sbx_copy(i->sandbox, sizeof(i->sandbox), id.s);
    sbx_create_run(c, &waiter);
    return 0;
}

static int remove_sandbox(install *i, sbx_err *err)
{
    char id[sizeof(i->sandbox)];

    memcpy(id, i->sandbox, sizeof(id));
    i->sandbox[0] = '\0';
    return id[0] ? sbx_sandbox_delete(i->p->c.sandboxes, SBX_POOL_OWNER, id, err) : 0;
}

static int seal(install *i, sbx_err *err)
{
    sbx_packages *p = i->p;
    int64_t ttl_s = p->c.ttl_s * (i->pinned ? SBX_PACKAGES_PINNED_TTL : 1);
    sbx_package_seal s = {.id = i->set_id,
                          .worker = p->c.worker,
                          .installed = i->installed,
                          .size_bytes = i->size_bytes,
                          .ttl_s = SBX_MIN(ttl_s, (int64_t)INT32_MAX)};
    char id[SBX_ID_LEN + 1];

    memcpy(s.key, i->key, sizeof(s.key));
    if (sbx_store_packages_seal(p->c.store, &s, id, err))
        return -1;
    if (strcmp(id, i->set_id) != 0)
        sbx_keeper_kick(p->keeper, "packages"); /* the same is there already: ours may go */
    sbx_copy(i->set_id, sizeof(i->set_id), id);
    return 0;
}

/* What the row is told; not of what is the caller's doing alone. */
static void give_back(install *i)
{
    bool remember = i->failure.code == SBX_E_PACKAGE;
    sbx_packages *p = i->p;
    sbx_err later;

    if (sbx_store_packages_fail(p->c.store, i->set_id, p->c.worker, &i->failure,
                                sbx_package_last_lines(&i->tail),
                                remember ? SBX_PACKAGES_FAILED_S : 0, &later))
        sbx_log_err(SBX_WARN, "a request for packages stays until its deadline", &later, "set",
                    i->set_id, NULL);
}

static void work(void *arg)
{
    install *i = arg;
    sbx_err err = {0};

    sbx_job_scope(sbx_now_ms() + STEP_DEADLINE_MS, NULL);
    if (remove_sandbox(i, &err))
        fail(i, &err);
    if (atomic_load(&i->given_up)) {
        sbx_err_set(&err, SBX_E_CANCELLED, "nobody waits for these packages any more");
        fail(i, &err);
    }
    if (!i->failure.code && i->step != STEP_SEAL) {
        if (make_sandbox(i, &err) == 0)
            return; /* it may be gone by now */
        fail(i, &err);
    } else if (!i->failure.code && seal(i, &err)) {
        fail(i, &err);
    }
    if (i->failure.code)
        give_back(i);
    sbx_stream_post(i->p->c.stream, finished, i);
}

/* On STREAM. When the lanes take no more the server is ending: the next one finds the rows. */
static void submit_work(void *arg)
{
    install *i = arg;
    sbx_job job = {.run = work, .arg = i};
    sbx_err err;

    if (sbx_lanes_submit(i->p->c.lanes, SBX_LANE_SLOW, &job, &err) == 0 ||
        atomic_load(&i->p->stopped))
        return;
    (void)sbx_timer_new(i->p->c.stream, RETRY_MS, submit_work, i);
}

/* --- commands, on STREAM --- */

static void add_tail(install *i, const char *line, size_t len)
{
    sbx_buf_add(&i->tail, line, len);
    sbx_buf_addc(&i->tail, '\n');
    if (i->tail.len > SBX_INSTALL_TAIL_BYTES)
        sbx_buf_consume(&i->tail, i->tail.len - SBX_INSTALL_TAIL_BYTES);
}

static void take_line(install *i)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf clean = SBX_BUF_INIT(4 * SBX_INSTALL_LINE_BYTES);

    if (i->line.len)
        installer_clean(i->p, i->line.data, i->line.len, &clean);
    sbx_buf_reset(&i->line);
    if (!clean.len || sbx_buf_failed(&clean))
        return;
    add_tail(i, clean.data, clean.len);
    for (sbx_package_want *w = i->wants; w; w = w->next)
        if (w->progress)
            w->progress(w->arg, clean.data, clean.len);
}

/* Lines that are too long are split; a carriage return ends one as well. */
static void take_output(install *i, const char *data, size_t len)
{
    for (size_t at = 0; at < len; at++) {
        bool end = data[at] == '\n' || data[at] == '\r';

        if (!end)
            sbx_buf_addc(&i->line, data[at]);
        if (end || i->line.len == SBX_INSTALL_LINE_BYTES - 1)
            take_line(i);
    }
}

static void command_started(void *arg, sbx_command *c, int64_t pid)
{
    install *i = arg;

    (void)pid;
    i->command = c;
    if (atomic_load(&i->given_up))
        sbx_command_kill(c);
}

static void command_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    install *i = arg;

    if (i->step == STEP_INSTALL)
        take_output(i, data, len);
    else if (i->step == STEP_LOOK && !is_stderr)
        sbx_buf_add(&i->told, data, len);
    sbx_command_grant(c, (int64_t)len);
}

static void explain(const install *i, const sbx_command_exit *e, sbx_err *err)
{
    sbx_packages_explain(i->with->kind == SBX_PACKAGES_PIP ? "python" : "node", &i->specs, e,
                         i->tail.data ? i->tail.data : "", err);
}

static void run_command(install *i);

/* What was told, made the key of the set: of the same image, from the same index, for the same
 * user; the owner is a column of its own. */
static int take_told(install *i, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MIB);

    sbx_buf_addf(&b, "%s\n%s\n", i->with->name, i->image_id);
    sbx_buf_add(&b, i->p->config_hash, SBX_HASH_BYTES);
    if (installer_read(i, &i->installed, &i->size_bytes, &b, err))
        return -1;
    sbx_sha256(b.data, b.len, i->key);
    return 0;
}

static void command_exit(void *arg, const sbx_command_exit *e)
{
    install *i = arg;
    bool ok = !e->exit_code && !e->signal;
    sbx_err err = {0};

    i->command = NULL;
    take_line(i);
    if (ok && i->step == STEP_TRUST) {
        i->step = STEP_INSTALL;
        run_command(i);
        return;
    }
    if (ok && i->step == STEP_INSTALL)
        i->step = STEP_LOOK;
    else if (ok && take_told(i, &err) == 0)
        i->step = STEP_SEAL;
    else if (!ok && i->step == STEP_INSTALL)
        explain(i, e, &err);
    else if (!ok)
        sbx_err_set(&err, SBX_E_PACKAGE,
                    "the sandbox in which packages are installed could not "
                    "be prepared, or looked at, with this image");
    if (err.code)
        fail(i, &err);
    submit_work(i);
}

static void command_failed(void *arg, const sbx_err *err)
{
    install *i = arg;

    i->command = NULL;
    fail(i, err);
    submit_work(i);
}

static const sbx_command_events events = {
    .started = command_started,
    .output = command_output,
    .exit = command_exit,
    .failed = command_failed,
};

static void add_all(sbx_strs *argv, const char *const *items)
{
    for (; *items; items++)
        sbx_strs_add(argv, *items);
}

/* As root, who owns the volume; without capabilities, as all commands. */
static void run_command(install *i)
{
    sbx_command_spec spec = {.user = sbx_strdup("root"),
                             .window = SBX_EXEC_WINDOW_BYTES,
                             .timeout_ms = SBX_INSTALL_LOOK_S * 1000,
                             .flags = SBX_EXEC_CHECK};
    const char *const trust[] = {
        SBX_FILES_PROGRAM, "write", PACKAGES_CA_PATH, "0644", "0", "-", NULL};

    sbx_copy(spec.exec_id, sizeof(spec.exec_id), sbx_id_new().s);
    if (i->step == STEP_TRUST) {
        add_all(&spec.argv, trust);
        spec.stdin_text = sbx_strdup(i->p->ca_text);
        spec.stdin_len = strlen(i->p->ca_text);
    } else if (i->step == STEP_INSTALL) {
        add_all(&spec.argv, i->with->install);
        for (size_t n = 0; n < i->specs.count; n++)
            sbx_strs_add(&spec.argv, i->specs.items[n]);
        spec.cwd = sbx_strdup(i->with->cwd);
        installer_env(i->p, i->with, true, false, &spec.env);
        spec.timeout_ms = i->p->c.timeout_s * 1000;
    } else {
        add_all(&spec.argv, i->with->look);
    }
    sbx_channels_exec(i->p->c.channels, i->sandbox, &spec, &events, i);
}

typedef struct made {
    install *i;
    sbx_err err;
} made;

static void created_on_stream(void *arg)
{
    made *m = arg;
    install *i = m->i;

    if (m->err.code)
        fail(i, &m->err);
    free(m);
    if (i->failure.code || atomic_load(&i->given_up))
        submit_work(i);
    else
        run_command(i);
}

static void created(void *arg, const sbx_sandbox_row *row, const sbx_err *err)
{
    install *i = arg;
    made *m = sbx_alloc(sizeof(*m));

    (void)row;
    m->i = i;
    if (err)
        m->err = *err;
    sbx_stream_post(i->p->c.stream, created_on_stream, m);
}

/* --- who waits, on STREAM --- */

void install_join(install *i, sbx_package_want *w)
{
    w->install = i;
    w->next = i->wants;
    i->wants = w;
}

void install_begin(install *i, sbx_package_want *w)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    i->next = i->p->installs;
    i->p->installs = i;
    install_join(i, w);
    submit_work(i);
}

void install_give_up(install *i)
{
    if (atomic_exchange(&i->given_up, true))
        return;
    if (i->command)
        sbx_command_kill(i->command);
}

void install_leave(install *i, sbx_package_want *w)
{
    sbx_package_want **at = &i->wants;
    package_answer a = {.state = SBX_PACKAGES_FAILED};

    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    w->install = NULL;
    if (!i->wants)
        install_give_up(i);
    sbx_err_set(&a.err, SBX_E_CANCELLED, "the client left while packages were installed");
    packages_tell(w, &a);
}
