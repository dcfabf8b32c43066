/* POST of code: its body, and what is made of it. */
#include "runs_priv.h"

#include "sbx/core/log.h"
#include "sbx/sandbox/spec.h"
#include "sbx/store/usage.h"
#include <stdio.h>

typedef struct run_body {
    const char *runtime;
    char *code, *stdin_text;
    const sbx_json *files; /* of the parsed body */
    sbx_pairs env;
    sbx_strs packages;
    char *context;
    int64_t timeout_ms, max_output, cpu_milli, memory_mb;
    bool cpu_given, memory_given, max_output_given, streaming;
} run_body;

#define AT(member) offsetof(run_body, member)

#define FIELDS                                                                                     \
    {"runtime",                                                                                    \
     SBX_JF_ENUM,                                                                                  \
     AT(runtime),                                                                                  \
     .required = true,                                                                             \
     .values = run_runtimes,                                                                       \
     .doc = "what runs the code; `typescript` is Node.js, too"},                                   \
        {"code",                                                                                   \
         SBX_JF_STR,                                                                               \
         AT(code),                                                                                 \
         .required = true,                                                                         \
         .max = SBX_MAX_CODE_BYTES,                                                                \
         .doc = "the program, as text"},                                                           \
        {"files",                                                                                  \
         SBX_JF_JSON,                                                                              \
         AT(files),                                                                                \
         .max = SBX_MAX_BATCH_FILES,                                                               \
         .schema = sbx_batch_schema,                                                               \
         .doc = "files beside the code: contents by path, text, or `content` with `encoding` "     \
                "(base64) and `mode` (octal)"},                                                    \
        {"packages",                                                                               \
         SBX_JF_STRS,                                                                              \
         AT(packages),                                                                             \
         .max = SBX_MAX_PACKAGES,                                                                  \
         .max_each = SBX_MAX_PACKAGE_BYTES,                                                        \
         .example = "[]",                                                                          \
         .doc = "installed before the code, by pip or npm: names, with versions if need be "       \
                "(`requests`, `requests==2.31.0`, `lodash@4.17.21`)"},                             \
        {"env",                                                                                    \
         SBX_JF_PAIRS,                                                                             \
         AT(env),                                                                                  \
         .max = SBX_MAX_ENV,                                                                       \
         .max_each = SBX_MAX_ENV_BYTES,                                                            \
         .doc = "environment variables of the code"},                                              \
        {"stdin",                                                                                  \
         SBX_JF_STR,                                                                               \
         AT(stdin_text),                                                                           \
         .nullable = true,                                                                         \
         .max = SBX_MAX_STDIN_BYTES,                                                               \
         .doc = "text for standard input, which then ends"},                                       \
        {"timeout",                                                                                \
         SBX_JF_I64,                                                                               \
         AT(timeout_ms),                                                                           \
         .min = 1,                                                                                 \
         .max = SBX_MAX_RUN_MS,                                                                    \
         .dflt = SBX_DEFAULT_EXEC_MS,                                                              \
         .doc = "in milliseconds; then the code is killed, with all that it started"},             \
        {"maxOutputBytes",                                                                         \
         SBX_JF_I64,                                                                               \
         AT(max_output),                                                                           \
         AT(max_output_given),                                                                     \
         .min = 1,                                                                                 \
         .max = SBX_MAX_OUTPUT_BYTES,                                                              \
         .dflt = SBX_DEFAULT_OUTPUT_BYTES,                                                         \
         .doc = "stdout and stderr together; more is dropped (streams: no limit by default)"},     \
    {                                                                                              \
        "streaming", SBX_JF_BOOL, AT(streaming),                                                   \
            .doc = "answer as an event stream, as `Accept: text/event-stream` does"                \
    }

const sbx_json_field sbx_run_fields[] = {
    FIELDS,
    {"vcpus", SBX_JF_MILLI, AT(cpu_milli), AT(cpu_given), .min = SBX_MIN_CPU_MILLI,
     .max = SBX_MAX_CPU_MILLI, .doc = "CPU cores"},
    {"memoryMb", SBX_JF_I64, AT(memory_mb), AT(memory_given), .min = SBX_MIN_MEMORY_MB,
     .max = SBX_MAX_MEMORY_MB, .doc = "memory, without swap"},
    {.name = NULL},
};

const sbx_json_field sbx_sandbox_run_fields[] = {
    FIELDS,
    {"contextId", SBX_JF_STR, AT(context), .nullable = true, .min = SBX_ID_LEN, .max = SBX_ID_LEN,
     .doc = "the context to run it in, which keeps what the code defines"},
    {.name = NULL},
};

/* --- the sandbox of its own --- */

/* As a request would ask for it, so that all defaults are those of a create. */
static int spec_of(const run_body *b, const runner *how, sbx_spec *ret, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(4 * KIB);
    sbx_jw w = SBX_JW(&text);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "template", how->template_name);
    sbx_jw_obj(&w, "limits");
    if (b->cpu_given)
        sbx_jw_milli(&w, "cpus", b->cpu_milli);
    if (b->memory_given)
        sbx_jw_int(&w, "memoryMb", b->memory_mb);
    sbx_jw_obj_end(&w);
    sbx_jw_int(&w, "timeoutSeconds", (b->timeout_ms + 999) / 1000 + SBX_RUN_MARGIN_S);
    sbx_jw_str(&w, "onTimeout", "delete");
    sbx_jw_str(&w, "onIdle", "delete");
    sbx_jw_obj(&w, "metadata");
    sbx_jw_str(&w, "run", b->runtime);
    sbx_jw_obj_end(&w);
    sbx_jw_obj_end(&w);
    return sbx_spec_parse(text.data, text.len, ret, err);
}

static void note(run *x)
{
    sbx_copy(x->sandbox, sizeof(x->sandbox), sbx_create_row(x->create)->id);
    sbx_reply_about(x->reply, x->sandbox, x->id);
}

int run_make(run *x, sbx_err *err)
{
    if (sbx_create_begin(x->r->c.sandboxes, x->owner, NULL, &x->own, &x->create, err))
        return -1;
    note(x);
    return 0;
}

/* From a pool, if one has it. */
static int claim(run *x, sbx_err *err)
{
    if (sbx_create_claim(x->r->c.sandboxes, x->owner, NULL, &x->own, &x->create, err))
        return -1;
    if (x->create)
        note(x);
    return 0;
}

/* --- the code --- */

/* In a sandbox that is there, the name is one that nothing else has. */
static int take_files(run *x, const run_body *b, sbx_err *err)
{
    if (x->one_shot)
        snprintf(x->file, sizeof(x->file), "main%s", x->how->extension);
    else
        snprintf(x->file, sizeof(x->file), ".run-%s%s", x->id, x->how->extension);
    sbx_batch_add(&x->batch, x->file, SBX_NO_MODE, b->code, strlen(b->code));
    if (b->files && sbx_batch_add_json(&x->batch, b->files, true, err))
        return -1;
    if (sbx_buf_failed(&x->batch)) {
        sbx_err_set_field(err, "files", "code and files together are too large");
        err->code = SBX_E_TOO_LARGE;
        return -1;
    }
    x->counted = x->batch.cap;
    if (atomic_fetch_add(&x->r->bytes, x->counted) + x->counted > SBX_MAX_RUN_BYTES)
        return sbx_fail(err, SBX_E_CAPACITY, "too much code is waiting to be run; try again");
    return 0;
}

/* The command, out of the body. */
static void take_spec(run *x, run_body *b)
{
    bool limited = !x->streams || b->max_output_given;
    sbx_command_spec *s = &x->spec;
    size_t n = 0;

    while (x->how->argv[n])
        n++;
    *s = (sbx_command_spec){
        .env = b->env,
        .stdin_text = sbx_steal(b->stdin_text),
        .timeout_ms = b->timeout_ms,
        .max_output = limited ? b->max_output : 0,
        .window = x->streams ? SBX_STREAM_WINDOW_BYTES : SBX_EXEC_WINDOW_BYTES,
        .flags = SBX_EXEC_PACED | SBX_EXEC_RUN | (x->streams ? 0 : SBX_EXEC_PATIENT),
    };
    b->env = (sbx_pairs){0};
    s->stdin_len = s->stdin_text ? strlen(s->stdin_text) : 0;
    memcpy(s->exec_id, x->id, sizeof(s->exec_id));
    s->argv.items = sbx_alloc((n + 2) * sizeof(char *));
    for (size_t i = 0; i < n; i++)
        s->argv.items[s->argv.count++] = sbx_strdup(x->how->argv[i]);
    s->argv.items[s->argv.count++] = sbx_strdup(x->file);
    for (int i = 0; i < 2; i++)
        sbx_buf_init(&x->output[i], (size_t)b->max_output);
}

static void take_record(run *x)
{
    sbx_exec_record *r = &x->record;

    memcpy(r->id, x->id, sizeof(r->id));
    sbx_copy(r->kind, sizeof(r->kind), "run");
    sbx_copy(r->runtime, sizeof(r->runtime), x->how->runtime);
    r->command = sbx_exec_command_json(&x->spec.argv);
    r->packages = sbx_strdup("[]");
    r->started_ms = sbx_wall_ms();
    r->exit_code = -1;
}

/* The interpreter is there already, with the environment that it was started in. */
static int take_context(run *x, const run_body *b, sbx_err *err)
{
    if (!b->context)
        return 0;
    if (!sbx_id_valid(b->context))
        return sbx_fail_field(err, "contextId", "contextId: that is no id of a context");
    if (b->env.count)
        return sbx_fail_field(err, "env",
                              "env: a context has its own, given when it was made; set variables "
                              "by code, or without contextId");
    sbx_copy(x->context, sizeof(x->context), b->context);
    return 0;
}

static int prepare(run *x, run_body *b, const sbx_request *q, sbx_err *err)
{
    x->how = runner_find(b->runtime);
    if (take_context(x, b, err))
        return -1;
    if (sbx_env_check("env", &b->env, err) ||
        sbx_package_specs_check(x->how->template_name, &b->packages, err))
        return -1;
    x->packages = b->packages;
    b->packages = (sbx_strs){0};
    packages_add_files(x);
    if (take_files(x, b, err))
        return -1;
    x->streams = b->streaming || q->accept == SBX_ACCEPT_SSE;
    take_spec(x, b);
    if (*x->context)
        cell_spec(x);
    take_record(x);
    if (!x->one_shot)
        return 0;
    if (!sbx_sandboxes_template(x->r->c.sandboxes, x->how->template_name))
        return sbx_fail_field(err, "runtime", "runtime: this server has no template \"%s\"",
                              x->how->template_name);
    if (spec_of(b, x->how, &x->own, err))
        return -1;
    memcpy(x->own.run, x->id, sizeof(x->own.run));
    return x->packages.count ? 0 : claim(x, err);
}

/* What a create does by itself, for a sandbox that is there. A run that comes to nothing gives it
 * back by its record. */
static int reserve(run *x, sbx_err *err)
{
    sbx_runs_config *c = &x->r->c;

    int rc = sbx_store_run_reserve(c->store, x->owner, x->sandbox, x->id, x->how->runtime,
                                   c->worker, err);

    x->reserved = rc > 0;
    if (rc >= 0)
        return 0;
    if (err->quota.limit[0])
        sbx_metrics_add(c->metrics, SBX_M_QUOTA_REFUSALS, err->quota.limit, 1);
    return -1;
}

int sbx_run_start(sbx_runs *r, const char *owner, const char *sandbox, bool limited,
                  const sbx_request *q, sbx_err *err)
{
    const sbx_json_field *fields = sandbox ? sbx_sandbox_run_fields : sbx_run_fields;
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    run *x = run_new(r, owner, sandbox, q->reply);
    run_body body = {0};

    x->deadline_ms = q->received_ms + q->route->deadline_ms;
    int rc = sbx_json_parse(q->body, q->body_len, &root, err) ||
                     sbx_json_decode(root, fields, &body, err) || prepare(x, &body, q, err) ||
                     (limited && sandbox && reserve(x, err))
                 ? -1
                 : 0;

    sbx_json_struct_done(fields, &body);
    sbx_json_free(sbx_steal(root)); /* it may be large, and a create takes a while */
    if (rc) {
        run_free(x);
        return -1;
    }
    run_begin(x);
    return 0;
}
