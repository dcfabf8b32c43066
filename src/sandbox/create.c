/* Creating a sandbox: the row first, then the container under a name derived from the row's id,
 * then the channel, then `running`. Whatever fails, the container is removed and the row says why.
 *
 * An image that the engine does not have is waited for without a thread: the create is then an
 * object that waits on STREAM, and goes on as a job of its own. */
#include "create_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/crypt.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <stdio.h>

#define RETRY_MS 100  /* until the lane has room again */
#define UNDO_MS  1000 /* until a failure is written, if it could not be */

const char *sbx_sandboxes_template(const sbx_sandboxes *s, const char *name)
{
    for (size_t i = 0; i < s->template_count; i++)
        if (strcmp(s->templates[i].name, name) == 0)
            return s->templates[i].image;
    return NULL;
}

static int resolve_image(const sbx_sandboxes *s, const sbx_spec *spec, const char **ret_template,
                         const char **ret_image, sbx_err *err)
{
    const char *wanted = spec->template_name ? spec->template_name
                         : spec->image       ? NULL
                                             : SANDBOX_DEFAULT_TEMPLATE;

    *ret_template = wanted;
    *ret_image = spec->image;
    if (spec->image && sandbox_registry_check(s->c.registries, spec->image, err))
        return -1;
    if (!wanted)
        return 0;
    const char *image = sbx_sandboxes_template(s, wanted);
    if (image && !spec->image)
        *ret_image = image;
    if (image)
        return 0;
    return sbx_fail_field(err, "template", "template: there is no template \"%s\"", wanted);
}

static void pairs_json(const sbx_pairs *p, sbx_buf *out)
{
    sbx_jw w = SBX_JW(out);

    sbx_jw_obj(&w, NULL);
    for (size_t i = 0; i < p->count; i++)
        sbx_jw_str(&w, p->names[i], p->values[i]);
    sbx_jw_obj_end(&w);
}

static void strings_json(char *const *items, size_t count, sbx_buf *out)
{
    sbx_jw w = SBX_JW(out);

    sbx_jw_arr(&w, NULL);
    for (size_t i = 0; i < count; i++)
        sbx_jw_str(&w, NULL, items[i]);
    sbx_jw_arr_end(&w);
}

static char *check_text(const sbx_check *check, bool given, bool health)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(8 * SBX_MAX_CHECK_BYTES);

    if (!given)
        return NULL;
    sbx_check_json(check, health, &b);
    return sbx_buf_steal(&b);
}

int sandbox_fill_row(sbx_sandboxes *s, const char *owner, const char *id, const sbx_spec *spec,
                     sbx_sandbox_row *r, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(16 * MIB);
    const char *template_name, *image;

    if (resolve_image(s, spec, &template_name, &image, err))
        return -1;
    sbx_copy(r->id, sizeof(r->id), id ? id : sbx_id_new().s);
    sbx_copy(r->owner, sizeof(r->owner), owner);
    sbx_copy(r->worker, sizeof(r->worker), s->c.worker);
    sbx_copy(r->state, sizeof(r->state), sbx_state_wire(SBX_S_CREATING));
    r->name = sbx_strdup(spec->name);
    r->template_name = sbx_strdup(template_name);
    r->image = sbx_strdup(image);
    sbx_copy(r->size, sizeof(r->size), spec->size);
    r->cpu_milli = spec->limits.cpu_milli;
    r->memory_mb = spec->limits.memory_mb;
    r->pids = spec->limits.pids;
    r->disk_mb = spec->limits.disk_mb;
    sbx_copy(r->network, sizeof(r->network),
             spec->network.mode ? spec->network.mode : s->c.network);
    pairs_json(&spec->metadata, &b);
    r->metadata = sbx_buf_steal(&b);
    strings_json(spec->env.names, spec->env.count, &b);
    r->env_names = sbx_buf_steal(&b);
    if (spec->command.count) {
        strings_json(spec->command.items, spec->command.count, &b);
        r->command = sbx_buf_steal(&b);
    }
    r->readiness = check_text(&spec->readiness, spec->has_readiness, false);
    r->health = check_text(&spec->health, spec->has_health, true);
    r->timeout_s = spec->timeout_s;
    r->idle_timeout_s = spec->idle_timeout_s;
    sbx_copy(r->on_timeout, sizeof(r->on_timeout), spec->on_timeout);
    sbx_copy(r->on_idle, sizeof(r->on_idle), spec->on_idle);
    sbx_random(r->token, sizeof(r->token));
    r->epoch = 1;
    sbx_copy(r->runtime, sizeof(r->runtime), s->c.runtime);
    sbx_copy(r->host, sizeof(r->host), "local");
    memcpy(r->run, spec->run, sizeof(r->run));
    return 0;
}

/* The image's USER. @return 0, 1 if the engine does not have the image, or -1. */
int sandbox_look_at_image(sbx_sandboxes *s, const char *image, char **ret_user, sbx_err *err)
{
    sbx_engine *e = s->c.engine;
    sbx_image_info info = {0};

    if (e->ops->image_inspect(e, image, &info, err))
        return err->code == SBX_E_NOT_FOUND ? 1 : -1;
    free(*ret_user);
    *ret_user = sbx_strdup(info.user ? info.user : "");
    sbx_image_info_done(&info);
    return 0;
}

/* The sandbox's own for as long as its record lives; it tells nothing of the secret behind it. */
static void machine_id(const sbx_sandbox_row *r, char out[2 * SBX_PROTO_TOKEN_BYTES + 1])
{
    static const char what[] = "machine-id";
    unsigned char text[sizeof(what) + sizeof(r->token)], hash[SBX_HASH_BYTES];

    memcpy(text, what, sizeof(what));
    memcpy(text + sizeof(what), r->token, sizeof(r->token));
    sbx_sha256(text, sizeof(text), hash);
    sbx_wipe(text, sizeof(text));
    sbx_hex(hash, SBX_PROTO_TOKEN_BYTES, out);
}

static int create_container(sbx_sandboxes *s, const sbx_sandbox_row *r, const sbx_mount *mount,
                            const sbx_network_access *access, char ret_id[65], sbx_err *err)
{
    static const char *const entrypoint[] = {SBX_AGENT_PROGRAM, NULL};
    static const char *const caps[] = {"SETUID",       "SETGID", "KILL", "CHOWN",
                                       "DAC_OVERRIDE", "FOWNER", NULL};
    char name[SBX_ID_LEN + 8], hex[2 * SBX_PROTO_TOKEN_BYTES + 1];
    char token[sizeof(SBX_PROTO_TOKEN_ENV) + sizeof(hex)];
    char machine[sizeof(SBX_PROTO_MACHINE_ENV) + sizeof(hex)];
    const char *env[] = {token, machine, NULL}, *dns[SBX_MAX_RESOLVERS + 1] = {NULL};
    char *names[] = {(char *)"sandboxd.id", (char *)"sandboxd.cluster"};
    char *values[] = {(char *)r->id, (char *)s->c.cluster};
    sbx_pairs labels = {.names = names, .values = values, .count = 2};
    bool enforced = false;
    sbx_container_spec spec = {.name = name,
                               .image = r->image,
                               .hostname = r->id,
                               .entrypoint = entrypoint,
                               .env = env,
                               .labels = &labels,
                               .cpu_milli = r->cpu_milli,
                               .memory_bytes = r->memory_mb * (int64_t)MIB,
                               .pids = r->pids + SBX_PIDS_RESERVE,
                               .nofile = SBX_DEFAULT_NOFILE,
                               .network = access->network,
                               .dns = access->dns_count ? dns : NULL,
                               .volume = s->volume,
                               .volume_target = SBX_AGENT_DIR,
                               .mount = mount,
                               .runtime = r->runtime,
                               .disk_bytes = r->disk_mb * (int64_t)MIB,
                               .ret_disk_enforced = &enforced,
                               .cap_add = caps};

    for (size_t i = 0; i < access->dns_count; i++)
        dns[i] = access->dns[i];
    sbx_sandbox_container(r->id, name);
    sbx_hex(r->token, sizeof(r->token), hex);
    snprintf(token, sizeof(token), "%s=%s", SBX_PROTO_TOKEN_ENV, hex);
    machine_id(r, hex);
    snprintf(machine, sizeof(machine), "%s=%s", SBX_PROTO_MACHINE_ENV, hex);
    int rc = s->c.engine->ops->create(s->c.engine, &spec, ret_id, err);

    /* Nobody else uses the name: a call whose answer was lost was made twice. */
    if (rc && err->code == SBX_E_CONFLICT)
        sbx_err_set(err, SBX_E_ENGINE_UNAVAILABLE,
                    "the connection to the engine broke while it made the container; try again");
    sbx_wipe(token, sizeof(token));
    sbx_wipe(hex, sizeof(hex));
    if (!rc && r->disk_mb)
        rc = sbx_store_sandbox_disk(s->c.store, r->id, enforced ? "enforced" : "watched", err);
    return rc;
}

int sandbox_connect(sbx_sandboxes *s, const sbx_sandbox_row *row, const sbx_pairs *env,
                    bool adopted, sbx_greeting **ret, sbx_err *err)
{
    sbx_channel_hello hello = {.epoch = row->epoch,
                               .image_user = row->image_user ? row->image_user : "",
                               .lifetime_s = row->timeout_s + 600,
                               .pids = row->pids,
                               .log_from = row->log_seq ? row->log_seq + 1 : 0,
                               .env_version = row->env_version,
                               .adopted = adopted};
    sbx_engine_conn *conn;

    memcpy(hello.sandbox, row->id, sizeof(hello.sandbox));
    memcpy(hello.token, row->token, sizeof(hello.token));
    if (s->c.engine->ops->attach(s->c.engine, row->container_id, &conn, err))
        return -1;
    *ret = sbx_channels_open(s->c.channels, &hello, env, conn);
    return 0;
}

/* Why a container that should answer does not; the engine knows more than the broken channel. */
static void explain_dead(sbx_sandboxes *s, const sbx_sandbox_row *row, sbx_err *err)
{
    sbx_container_info info;
    sbx_err ignored;
    char text[300];

    if (s->c.engine->ops->inspect(s->c.engine, row->container_id, &info, &ignored) ||
        strcmp(info.state, "exited") != 0)
        return;
    sbx_copy(text, sizeof(text), err->msg);
    sbx_fail(err, SBX_E_ENGINE, "the container ended with exit code %d%s: %s", info.exit_code,
             info.oom_killed ? " (out of memory)" : "", text);
}

/* @return 0, 1 if the engine refused the container as it is, or -1; err is set unless 0. */
static int try_start(sbx_sandboxes *s, sbx_sandbox_row *row, const sbx_pairs *env,
                     const sbx_mount *mount, sbx_err *err)
{
    sandbox_network net;
    sbx_greeting *g;

    if (sandbox_network_begin(s, row, &net, err) ||
        create_container(s, row, mount, &net.access, row->container_id, err) ||
        sandbox_connect(s, row, env, false, &g, err))
        return -1;
    if (s->c.engine->ops->start(s->c.engine, row->container_id, err)) {
        sbx_channels_close(s->c.channels, row->id, SBX_E_ENGINE);
        sbx_err ignored;
        (void)!sbx_greeting_wait(g, 1000, &ignored);
        if (err->code != SBX_E_INVALID && err->code != SBX_E_NOT_FOUND)
            return -1;
        err->code = SBX_E_ENGINE;
        return 1;
    }
    if (sbx_greeting_wait(g, SBX_MIN(sbx_job_left_ms(SBX_GREETING_MS), SBX_GREETING_MS), err)) {
        explain_dead(s, row, err);
        return -1;
    }
    return sandbox_network_confirm(s, row, &net, err);
}

/* Whoever prunes the engine's volumes takes the agent's with them, and the engine then mounts an
 * empty one: so a refused start is tried once more with the volume filled again. */
static int start_container(sbx_sandboxes *s, sbx_sandbox_row *row, const sbx_pairs *env,
                           const sbx_mount *mount, sbx_err *err)
{
    sbx_err again;
    int rc = try_start(s, row, env, mount, err);

    if (rc != 1)
        return rc;
    s->c.engine->ops->volume_forget(s->c.engine, s->volume);
    if (sandbox_remove_container(s, row->id, &again) || sbx_sandboxes_prepare(s, &again))
        return -1;
    return try_start(s, row, env, mount, err) ? -1 : 0;
}

/* --- the main process --- */

typedef struct main_process {
    sbx_sandboxes *s;
    sbx_exec_record record;
} main_process;

/* @param told  its agent tells of it as news, from which the record is made. */
static void main_over(main_process *m, const char *text, bool told)
{
    sbx_channels_note(m->s->c.channels, m->record.sandbox, text);
    if (!told)
        sbx_ledger_record(m->s->c.ledger, &m->record);
    sbx_exec_record_done(&m->record);
    free(m);
}

static void main_exit(void *arg, const sbx_command_exit *e)
{
    main_process *m = arg;
    char text[128];

    m->record.duration_ms = e->duration_ms;
    m->record.exit_code = e->exit_code;
    m->record.signal = e->signal;
    m->record.timed_out = e->timed_out;
    m->record.oom_killed = e->oom_killed;
    if (e->signal)
        snprintf(text, sizeof(text), "main process ended by signal %d%s", e->signal,
                 e->oom_killed ? ": out of memory" : "");
    else
        snprintf(text, sizeof(text), "main process ended with exit code %d", e->exit_code);
    main_over(m, text, e->told);
}

/* It did not start; or it did and was lost sight of, and then nobody hears the note. */
static void main_failed(void *arg, const sbx_err *err)
{
    main_process *m = arg;
    char text[480];

    m->record.exit_code = -1;
    m->record.duration_ms = SBX_MAX(sbx_wall_ms() - m->record.started_ms, 0);
    sbx_copy(m->record.error, sizeof(m->record.error), sbx_code_wire(err->code));
    snprintf(text, sizeof(text), "main process did not start: %s", err->msg);
    main_over(m, text, false);
}

static void main_started(void *arg, sbx_command *c, int64_t pid)
{
    (void)arg, (void)c, (void)pid;
}

static void main_output(void *arg, sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    (void)arg, (void)c, (void)is_stderr, (void)data, (void)len;
}

static const sbx_command_events main_events = {main_started, main_output, main_exit, main_failed};

void sandbox_start_main(sbx_sandboxes *s, const sbx_sandbox_row *row)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *argv = NULL;
    sbx_err err;

    if (!row->command)
        return;
    if (sbx_json_parse(row->command, strlen(row->command), &argv, &err)) {
        sbx_log_err(SBX_ERROR, "a main process is not readable", &err, "sandbox", row->id, NULL);
        return;
    }
    main_process *m = sbx_alloc(sizeof(*m));
    sbx_command_spec exec = {.flags = SBX_EXEC_MAIN | SBX_EXEC_DETACHED};
    sbx_id id = sbx_id_new();

    m->s = s;
    /* as with other commands, one that is too long is not kept */
    bool kept = strlen(row->command) <= SBX_MAX_COMMAND_TEXT;
    m->record.command = sbx_strdup(kept ? row->command : "[]");
    m->record.started_ms = sbx_wall_ms();
    memcpy(m->record.sandbox, row->id, sizeof(m->record.sandbox));
    sbx_copy(m->record.kind, sizeof(m->record.kind), "main");
    sbx_copy(m->record.id, sizeof(m->record.id), id.s);
    sbx_copy(exec.exec_id, sizeof(exec.exec_id), id.s);
    exec.argv.items = sbx_alloc((SBX_MAX_ARGS + 1) * sizeof(char *));
    for (const sbx_json *a = sbx_json_first(argv); a && exec.argv.count < SBX_MAX_ARGS;
         a = sbx_json_next(a))
        exec.argv.items[exec.argv.count++] = sbx_strdup(sbx_json_str(a));
    sbx_channels_exec(s->c.channels, row->id, &exec, &main_events, m);
}

/* --- the whole --- */

void sbx_create_unref(sbx_create *c)
{
    if (!c || atomic_fetch_sub(&c->refs, 1) != 1)
        return;
    sbx_spec_done(&c->spec);
    sbx_sandbox_row_done(&c->row);
    free(c);
}

sbx_create *sbx_create_ref(sbx_create *c)
{
    atomic_fetch_add(&c->refs, 1);
    return c;
}

const sbx_sandbox_row *sbx_create_row(const sbx_create *c)
{
    return &c->row;
}

int sandbox_create_deadline_s(const sbx_sandboxes *s, const sbx_spec *spec)
{
    int deadline_s = CREATE_DEADLINE_S + (int)s->c.pull_timeout_s;

    return spec->has_readiness ? deadline_s + (int)(sbx_check_budget_ms(&spec->readiness) / 1000)
                               : deadline_s;
}

/* @param pool  what it is to wait as; NULL: it is a user's. */
static int insert(sbx_sandboxes *s, const char *owner, const char *id, const char *pool,
                  sbx_spec *spec, sbx_create **ret, sbx_err *err)
{
    SBX_CLEANUP(sbx_create_unref) sbx_create *c = sbx_alloc(sizeof(*c));

    c->s = s;
    atomic_init(&c->refs, 1);
    c->from_us = sbx_now_us();
    if (sandbox_fill_row(s, owner, id, spec, &c->row, err))
        return -1;
    c->row.pool = sbx_strdup(pool);
    if (sbx_store_sandbox_insert(s->c.store, &c->row, &spec->env,
                                 sandbox_create_deadline_s(s, spec), err)) {
        sandbox_count_refusal(s, err);
        return -1;
    }
    sandbox_publish(s, &c->row);
    c->spec = *spec;
    *spec = (sbx_spec){0};
    *ret = sbx_steal(c);
    return 0;
}

int sbx_create_begin(sbx_sandboxes *s, const char *owner, const char *id, sbx_spec *spec,
                     sbx_create **ret, sbx_err *err)
{
    if (!id && sbx_create_claim(s, owner, NULL, spec, ret, err))
        return -1;
    if (!id && *ret)
        return 0;
    sandbox_count_miss(s, spec);
    return insert(s, owner, id, NULL, spec, ret, err);
}

int sandbox_create_for_pool(sbx_sandboxes *s, const char *pool, sbx_spec *spec, sbx_create **ret,
                            sbx_err *err)
{
    return insert(s, SBX_POOL_OWNER, NULL, pool, spec, ret, err);
}

/* What a record may tell its owner: addresses and statements of the store are for the log. */
const char *sandbox_public_reason(const sbx_err *err, const char *id)
{
    if (err->code != SBX_E_STORE_UNAVAILABLE && err->code != SBX_E_INTERNAL)
        return err->msg;
    sbx_log_err(SBX_WARN, "a sandbox could not start", err, "sandbox", id, NULL);
    return err->code == SBX_E_INTERNAL ? "internal error; the server's log tells more"
                                       : "the database could not be reached";
}

const char *sandbox_failure_code(const sbx_err *err)
{
    bool image = err->code == SBX_E_INVALID && strcmp(err->field, "image") == 0;

    return image ? "image_missing" : sbx_code_wire(err->code);
}

/* Undoing must not be stopped by what stopped the create. The state first: when somebody else has
 * settled the row, another container may have the name by now. @return false if it must be tried
 * again: the row still says `creating`. */
static bool undo(sbx_create *c, sbx_err *err)
{
    sbx_sandboxes *s = c->s;
    sbx_sandbox_row *row = &c->row;
    sbx_err later;
    const char *code = c->interrupted ? "interrupted" : sandbox_failure_code(err);
    move failed = {.to = SBX_S_FAILED,
                   .worker = "",
                   .why = {code, sandbox_public_reason(err, row->id), -1, false}};
    char container[sizeof(row->container_id)];

    sbx_job_scope(0, NULL);
    sbx_copy(err->sandbox_id, sizeof(err->sandbox_id), row->id);
    memcpy(container, row->container_id, sizeof(container));
    if (sandbox_set_state(s, row, &failed, &later) == 0) {
        memcpy(row->container_id, container, sizeof(container));
        sbx_channels_close(s->c.channels, row->id, SBX_E_ENGINE);
        if (sandbox_remove_own(s, row, &later))
            sbx_log_err(SBX_WARN, "container of a failed create stays until the next sweep", &later,
                        "sandbox", row->id, NULL);
        return true;
    }
    if (later.code == SBX_E_CONFLICT) { /* which is why the container or the agent failed */
        sbx_fail(err, SBX_E_CONFLICT, "the sandbox was deleted while it was created");
        sbx_copy(err->sandbox_id, sizeof(err->sandbox_id), row->id);
        sandbox_too_late(s, row);
        return true;
    }
    sbx_log_err(SBX_WARN, "state of a failed create will be written later", &later, "sandbox",
                row->id, NULL);
    return false;
}

int sandbox_bring_up(sbx_sandboxes *s, sbx_sandbox_row *row, const sbx_pairs *env,
                     const sbx_mount *mount, sbx_err *err)
{
    return sbx_sandboxes_prepare(s, err) || start_container(s, row, env, mount, err) ? -1 : 0;
}

/* The main process comes before `running`: what waits to be ready is mostly the main process. */
static int start_all(sbx_create *c, sbx_err *err)
{
    if (sandbox_bring_up(c->s, &c->row, &c->spec.env, &c->spec.mount, err))
        return -1;
    sandbox_start_main(c->s, &c->row);
    return 0;
}

void sandbox_created(const sbx_create *c)
{
    if (!c->row.pool)
        sbx_metrics_observe_us(c->s->c.metrics, SBX_M_CREATE_SECONDS,
                               c->spec.image ? "custom" : c->row.template_name,
                               sbx_now_us() - c->from_us);
}

static int make_running(sbx_create *c, sbx_err *err)
{
    sbx_sandboxes *s = c->s;
    sbx_sandbox_row *row = &c->row;
    move running = {.to = SBX_S_RUNNING, .why.exit_code = -1, .started = true};

    running.container_id = row->container_id;
    running.image_user = row->image_user;
    running.worker = s->c.worker;
    if (sandbox_set_state(s, row, &running, err)) {
        if (err->code == SBX_E_CONFLICT)
            (void)sbx_fail(err, SBX_E_CONFLICT, "the sandbox was deleted while it was created");
        return -1;
    }
    sandbox_created(c);
    return 0;
}

/* The end: whoever waits is told. */
static void tell(sbx_create *c, const sbx_err *err)
{
    if (c->waiter.over)
        c->waiter.over(c->waiter.arg, &c->row, err);
    sbx_create_unref(c);
}

/* What a failed pull says about the request. */
static int refuse_image(const sbx_create *c, sbx_err *err)
{
    const sbx_err *why = &c->wait_err;

    if (why->code == SBX_E_NOT_FOUND || why->code == SBX_E_INVALID)
        return sbx_fail_field(err, "image", "image: %s", why->msg);
    *err = *why;
    return -1;
}

/* Why it was never ready: the engine knows more than the broken channel. */
static int refuse_unready(sbx_create *c, sbx_err *err)
{
    *err = c->wait_err;
    if (err->code == SBX_E_ENGINE) {
        sbx_fail(err, SBX_E_ENGINE, "the sandbox ended before it was ready");
        explain_dead(c->s, &c->row, err);
    } else if (err->code == SBX_E_GONE) {
        sbx_fail(err, SBX_E_CONFLICT, "the sandbox was deleted while it was created");
    }
    return -1;
}

static void wait_on_stream(void *arg);
static void ready_on_stream(void *arg);

/* The container runs, and its main process was begun. @return as run(). */
static int wait_ready(sbx_create *c, sbx_err *err)
{
    c->started = true;
    if (!c->row.readiness)
        return make_running(c, err);
    sbx_stream_post(c->s->c.stream, ready_on_stream, c);
    return 1;
}

static int run(sbx_create *c, sbx_err *err);

static int run_claimed(sbx_create *c, sbx_err *err)
{
    int rc = sandbox_finish_claim(c, err);

    if (rc < 0)
        return -1;
    if (rc) {
        c->claimed = false;
        return run(c, err);
    }
    return strcmp(c->row.state, sbx_state_wire(SBX_S_RUNNING)) == 0 ? 0 : wait_ready(c, err);
}

/* @return 0, 1 if the create waits now, or -1. */
static int run(sbx_create *c, sbx_err *err)
{
    if (c->started)
        return c->wait_err.code ? refuse_unready(c, err) : make_running(c, err);
    if (c->claimed)
        return run_claimed(c, err);
    if (c->wait_err.code)
        return refuse_image(c, err);
    int rc = sandbox_look_at_image(c->s, c->row.image, &c->row.image_user, err);

    if (rc < 0)
        return -1;
    if (rc && c->waited)
        return sbx_fail(err, SBX_E_ENGINE,
                        "image %s is not on the engine though it was just pulled", c->row.image);
    if (rc && sbx_images_stopped(c->s->images)) {
        c->interrupted = true;
        return sbx_fail(err, SBX_E_CAPACITY, "the server is stopping; try again shortly");
    }
    if (rc) {
        sbx_stream_post(c->s->c.stream, wait_on_stream, c);
        return 1;
    }
    return start_all(c, err) ? -1 : wait_ready(c, err);
}

static void undo_later(void *arg);

/* On a WORKER; who waited was told long ago. */
static void undo_job(void *arg)
{
    sbx_create *c = arg;

    if (undo(c, &c->failure))
        sbx_create_unref(c);
    else
        sbx_stream_post(c->s->c.stream, undo_later, c);
}

static void submit_undo(void *arg)
{
    sbx_create *c = arg;
    sbx_job job = {.run = undo_job, .arg = c};
    sbx_err err;

    if (sbx_images_stopped(c->s->images))
        sbx_create_unref(c); /* the next server settles it */
    else if (sbx_lanes_submit(c->s->c.lanes, SBX_LANE_REAP, &job, &err))
        undo_later(c);
}

/* On STREAM. The database could not be told that the create failed. */
static void undo_later(void *arg)
{
    sbx_create *c = arg;

    (void)sbx_timer_new(c->s->c.stream, UNDO_MS, submit_undo, c);
}

/* On a WORKER, which owns `c`. */
static void run_job(void *arg)
{
    sbx_create *c = arg;
    sbx_err err = {0};

    bool of_user = !c->row.pool;
    sbx_pools *pools = c->s->pools;

    sbx_job_scope(sbx_now_ms() + CREATE_DEADLINE_S * 1000, c->waiter.cancelled);
    if (of_user)
        sandbox_pool_busy(pools, 1);
    int rc = run(c, &err); /* that waits now may be with another worker */

    if (of_user)
        sandbox_pool_busy(pools, -1);
    if (rc == 1)
        return;
    if (rc && !undo(c, &err)) {
        c->failure = err;
        sbx_stream_post(c->s->c.stream, undo_later, sbx_create_ref(c));
    }
    sbx_job_scope(0, NULL);
    tell(c, rc ? &err : NULL);
}

/* On STREAM. When the lanes take no more, the server is ending: the next one settles the row. */
static void submit_again(void *arg)
{
    sbx_create *c = arg;
    sbx_job job = {.run = run_job, .arg = c};
    sbx_err err;

    if (sbx_lanes_submit(c->s->c.lanes, SBX_LANE_SLOW, &job, &err) == 0)
        return;
    if (!sbx_images_stopped(c->s->images)) {
        (void)sbx_timer_new(c->s->c.stream, RETRY_MS, submit_again, c);
        return;
    }
    sbx_copy(err.sandbox_id, sizeof(err.sandbox_id), c->row.id);
    tell(c, &err);
}

static void wait_over(sbx_image_wait *w, const sbx_err *err)
{
    sbx_create *c = sbx_container_of(w, sbx_create, wait);

    c->waited = true;
    if (err)
        c->wait_err = *err;
    c->interrupted = err && sbx_images_stopped(c->s->images);
    submit_again(c);
}

static void wait_on_stream(void *arg)
{
    sbx_create *c = arg;
    sbx_err left;

    c->wait = (sbx_image_wait){.image = c->row.image, .sandbox = c->row.id, .done = wait_over};
    if (c->waiter.cancelled && atomic_load(c->waiter.cancelled)) {
        sbx_err_set(&left, SBX_E_CANCELLED, "the client left before image %s was pulled",
                    c->row.image);
        wait_over(&c->wait, &left);
        return;
    }
    sbx_images_want(c->s->images, &c->wait);
    /* it may be gone, or be with a worker, from here on */
}

static void ready_over(void *arg, const sbx_err *err)
{
    sbx_create *c = arg;

    c->wait_err = err ? *err : (sbx_err){0};
    c->interrupted = err && sbx_images_stopped(c->s->images);
    submit_again(c);
}

static void ready_on_stream(void *arg)
{
    sbx_create *c = arg;
    sbx_err left;

    if (c->waiter.cancelled && atomic_load(c->waiter.cancelled)) {
        sbx_err_set(&left, SBX_E_CANCELLED, "the client left before the sandbox was ready");
        ready_over(c, &left);
        return;
    }
    sbx_checks_await(c->s->c.checks, c->row.id, c->row.readiness, ready_over, c);
    /* it may be with a worker from here on */
}

/* A sandbox of a pool does not stand behind those that are made; what the engine has to do for it
 * is no work for the lane that takes it. */
void sbx_create_run(sbx_create *c, const sbx_create_waiter *waiter)
{
    sbx_job job = {.run = run_job, .arg = c};
    sbx_err err;

    if (waiter)
        c->waiter = *waiter;
    if (!c->limits || sbx_lanes_submit(c->s->c.lanes, SBX_LANE_REAP, &job, &err))
        run_job(c);
}

static void abandon_on_stream(void *arg)
{
    sbx_create *c = arg;

    sbx_images_leave(&c->wait);
    sbx_checks_give_up(c->s->c.checks, c->row.id);
    sbx_create_unref(c);
}

void sbx_create_abandon(sbx_create *c)
{
    sbx_stream_post(c->s->c.stream, abandon_on_stream, sbx_create_ref(c));
}
