/* POST of a command: its body, and what is made of it. */
#include "exec_priv.h"

#include "sbx/sandbox/spec.h"

#define AT(member) offsetof(exec_body, member)

const sbx_json_field sbx_exec_fields[] = {
    {"command", SBX_JF_CMD, AT(command), .required = true, .min = 1, .max = SBX_MAX_ARGS,
     .max_each = SBX_MAX_ARG_BYTES, .doc = "a shell command, or a program and its arguments"},
    {"cwd", SBX_JF_STR, AT(cwd), .nullable = true, .min = 1, .max = 4096,
     .doc = "working directory; default: the user's home"},
    {"env", SBX_JF_PAIRS, AT(env), .max = SBX_MAX_ENV, .max_each = SBX_MAX_ENV_BYTES,
     .doc = "added to the sandbox's environment"},
    {"user", SBX_JF_STR, AT(user), .nullable = true, .min = 1, .max = 128,
     .doc = "name, uid, name:group or uid:gid; default: the image's user, never root"},
    {"stdin", SBX_JF_STR, AT(stdin_text), .nullable = true, .max = SBX_MAX_STDIN_BYTES,
     .doc = "text for standard input, which then ends, unless stdinOpen"},
    {"timeoutMs", SBX_JF_I64, AT(timeout_ms), AT(timeout_given), .min = 0, .max = SBX_MAX_EXEC_MS,
     .dflt = SBX_DEFAULT_EXEC_MS,
     .doc =
         "then the whole process tree is killed; 0: never (in the background that is the default)"},
    {"cpuTimeMs", SBX_JF_I64, AT(cpu_ms), .min = 0, .max = SBX_MAX_EXEC_MS,
     .doc = "CPU time of the whole process tree, which is then killed; 0: no limit"},
    {"maxOutputBytes", SBX_JF_I64, AT(max_output), AT(max_output_given), .min = 1,
     .max = SBX_MAX_OUTPUT_BYTES, .dflt = SBX_DEFAULT_OUTPUT_BYTES,
     .doc = "stdout and stderr together; more is dropped (streams and in the background: no limit "
            "by default)"},
    {"killOnDisconnect", SBX_JF_BOOL, AT(kill_on_disconnect),
     .doc = "kill the command when the client goes away"},
    {"background", SBX_JF_BOOL, AT(background),
     .doc = "answer 202 when it has started, and let it run"},
    {"stdinOpen", SBX_JF_BOOL, AT(stdin_open),
     .doc = "standard input stays open, for POST …/stdin"},
    {.name = NULL},
};

/* What the command is given, out of the body. */
static void take_spec(exec *x, exec_body *b)
{
    bool limited = x->kind == EXEC_WAIT || b->max_output_given;
    bool timed = x->kind != EXEC_BACKGROUND || b->timeout_given;

    x->spec = (sbx_command_spec){
        .argv = b->command,
        .env = b->env,
        .cwd = b->cwd,
        .user = b->user,
        .stdin_text = b->stdin_text,
        .stdin_len = b->stdin_text ? strlen(b->stdin_text) : 0,
        .timeout_ms = timed ? b->timeout_ms : 0,
        .max_output = limited ? b->max_output : 0,
        .cpu_ms = b->cpu_ms,
        .window = x->kind == EXEC_WAIT ? SBX_EXEC_WINDOW_BYTES : SBX_STREAM_WINDOW_BYTES,
        .flags = (x->kind == EXEC_BACKGROUND ? SBX_EXEC_DETACHED : SBX_EXEC_PACED) |
                 (x->kind == EXEC_WAIT ? SBX_EXEC_PATIENT : 0) |
                 (b->stdin_open ? SBX_EXEC_STDIN : 0),
    };
    memcpy(x->spec.exec_id, x->id, sizeof(x->spec.exec_id));
}

exec *exec_of_body(sbx_execs *e, const char *owner, const char *sandbox, const sbx_request *r,
                   exec_body *b)
{
    exec_kind kind = b->background                 ? EXEC_BACKGROUND
                     : r->accept == SBX_ACCEPT_SSE ? EXEC_STREAM
                                                   : EXEC_WAIT;
    exec *x = exec_new(e, kind, owner, sandbox, sbx_id_new().s, r->reply);

    x->kill_on_disconnect = b->kill_on_disconnect && !b->background;
    sbx_buf_init(&x->output[0], (size_t)b->max_output);
    sbx_buf_init(&x->output[1], (size_t)b->max_output);
    memcpy(x->record.id, x->id, sizeof(x->record.id));
    memcpy(x->record.sandbox, x->sandbox, sizeof(x->record.sandbox));
    sbx_copy(x->record.kind, sizeof(x->record.kind), "exec");
    x->record.command = sbx_exec_command_json(&b->command);
    x->record.background = b->background;
    take_spec(x, b);
    return x;
}

void exec_body_done(exec_body *b)
{
    sbx_json_struct_done(sbx_exec_fields, b);
}

int exec_body_read(const sbx_request *r, const sbx_json *root, exec_body *ret, sbx_err *err)
{
    exec_body body = {0};
    int rc =
        sbx_json_decode(root, sbx_exec_fields, &body, err) || sbx_env_check("env", &body.env, err)
            ? -1
            : 0;

    if (!rc && body.background && r->accept == SBX_ACCEPT_SSE)
        rc = sbx_fail_field(err, "background",
                            "background: ask for JSON, and follow the command's output");
    if (rc)
        exec_body_done(&body);
    else
        *ret = body;
    return rc;
}

int sbx_exec_start(sbx_execs *e, const char *owner, const char *sandbox, const sbx_request *r,
                   sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    exec_body body;

    if (sbx_json_parse(r->body, r->body_len, &root, err) || exec_body_read(r, root, &body, err))
        return -1;
    exec *x = exec_of_body(e, owner, sandbox, r, &body);
    sbx_reply_about(r->reply, x->sandbox, x->id);
    exec_use(x);
    return 0;
}
