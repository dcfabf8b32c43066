/* Commands on a channel: starting, flow control, and the frames that the agent sends about them. */
#include "channel_priv.h"

#include "sbx/core/thread.h"

typedef struct start {
    sbx_channels *set;
    char sandbox[SBX_ID_LEN + 1];
    sbx_command_spec spec;
    const sbx_command_events *events;
    void *arg;
} start;

void sbx_command_spec_done(sbx_command_spec *s)
{
    sbx_strs_done(&s->argv);
    sbx_pairs_done(&s->env);
    free(s->cwd);
    free(s->user);
    free(s->stdin_text);
    *s = (sbx_command_spec){0};
}

static void add_field(sbx_buf *b, uint16_t tag, const void *data, size_t len)
{
    char *to = sbx_buf_reserve(b, len + 6);

    if (to)
        sbx_buf_commit(b, sbx_field_put((unsigned char *)to, len + 6, tag, data, (uint32_t)len));
}

static void add_num(sbx_buf *b, uint16_t tag, uint64_t value)
{
    char *to = sbx_buf_reserve(b, 14);

    if (to)
        sbx_buf_commit(b, sbx_field_put_num((unsigned char *)to, 14, tag, value));
}

static void add_env(sbx_buf *b, const sbx_pairs *env)
{
    for (size_t i = 0; i < env->count; i++) {
        char *pair = sbx_asprintf("%s=%s", env->names[i], env->values[i]);

        add_field(b, SBX_T_ENV, pair, strlen(pair));
        sbx_wipe(pair, strlen(pair));
        free(pair);
    }
}

static void build_exec(const channel *ch, const sbx_command_spec *s, sbx_buf *b)
{
    add_field(b, SBX_T_EXEC_ID, s->exec_id, strlen(s->exec_id));
    for (size_t i = 0; i < s->argv.count; i++)
        add_field(b, SBX_T_ARG, s->argv.items[i], strlen(s->argv.items[i]));
    add_env(b, &ch->env);
    add_env(b, &s->env);
    if (s->cwd)
        add_field(b, SBX_T_CWD, s->cwd, strlen(s->cwd));
    if (s->user)
        add_field(b, SBX_T_USER, s->user, strlen(s->user));
    add_num(b, SBX_T_TIMEOUT_MS, (uint64_t)s->timeout_ms);
    add_num(b, SBX_T_MAX_OUTPUT, (uint64_t)s->max_output);
    add_num(b, SBX_T_WINDOW, (uint64_t)s->window);
    add_num(b, SBX_T_FLAGS, s->flags | (s->stdin_text ? SBX_EXEC_STDIN : 0));
}

static bool send_stdin(channel *ch, uint32_t req, const sbx_command_spec *s)
{
    const size_t chunk = 64 * KIB;

    for (size_t at = 0; at < s->stdin_len; at += chunk)
        if (!channel_send(ch, SBX_F_STDIN, req, s->stdin_text + at,
                          SBX_MIN(chunk, s->stdin_len - at)))
            return false;
    return channel_send(ch, SBX_F_STDIN, req, NULL, 0);
}

uint32_t command_free_req(channel *ch)
{
    sbx_command *taken;

    do {
        if (++ch->next_req == 0)
            ch->next_req = 1;
        HASH_FIND_INT(ch->commands, &ch->next_req, taken);
    } while (taken);
    return ch->next_req;
}

static int begin(channel *ch, start *s, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(SBX_PROTO_MAX_TO_AGENT);

    build_exec(ch, &s->spec, &b);
    if (sbx_buf_failed(&b))
        return sbx_fail_field(err, "command", "command and environment together exceed %d bytes",
                              SBX_PROTO_MAX_TO_AGENT);
    uint32_t req = command_free_req(ch);
    if (ch->out.len + b.len + s->spec.stdin_len + 64 * KIB > MAX_OUT_BYTES)
        return sbx_fail(err, SBX_E_CAPACITY, "too much input is waiting for this sandbox");
    channel_send(ch, SBX_F_EXEC, req, b.data, b.len);
    if (s->spec.stdin_text)
        send_stdin(ch, req, &s->spec);
    sbx_wipe(b.data, b.len);
    sbx_command *c = sbx_alloc(sizeof(*c));
    *c = (sbx_command){.ch = ch,
                       .req = req,
                       .events = s->events,
                       .arg = s->arg,
                       .granted = s->spec.window,
                       .detached = s->spec.flags & SBX_EXEC_DETACHED};
    HASH_ADD_INT(ch->commands, req, c);
    channel_flush(ch);
    return 0;
}

static void start_on_stream(void *arg)
{
    start *s = arg;
    channel *ch = channel_find(s->set, s->sandbox);
    sbx_err err;
    int rc;

    if (!ch || !ch->ready)
        rc = sbx_fail(&err, SBX_E_CONFLICT, "this worker has no channel to the sandbox");
    else
        rc = begin(ch, s, &err);
    if (rc)
        s->events->failed(s->arg, &err);
    sbx_command_spec_done(&s->spec);
    free(s);
}

void sbx_channels_exec(sbx_channels *c, const char *sandbox, sbx_command_spec *spec,
                       const sbx_command_events *events, void *arg)
{
    start *s = sbx_alloc(sizeof(*s));

    *s = (start){.set = c, .spec = *spec, .events = events, .arg = arg};
    sbx_copy(s->sandbox, sizeof(s->sandbox), sandbox);
    *spec = (sbx_command_spec){0};
    sbx_stream_post(c->stream, start_on_stream, s);
}

sbx_command *command_adopt(channel *ch, const char *exec_id, size_t len)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(KIB);
    sbx_command *c = sbx_alloc(sizeof(*c));

    *c = (sbx_command){.ch = ch, .req = command_free_req(ch), .detached = true};
    HASH_ADD_INT(ch->commands, req, c);
    add_field(&b, SBX_T_EXEC_ID, exec_id, len);
    add_num(&b, SBX_T_WINDOW, 0);
    channel_send(ch, SBX_F_ATTACH, c->req, b.data, b.len);
    channel_send(ch, SBX_F_DETACH, c->req, NULL, 0);
    channel_flush(ch);
    return c;
}

void command_is_busy(sbx_command *c)
{
    sbx_channel_events *e = &c->ch->set->events;

    c->busy = e->busy != NULL;
    if (c->busy)
        e->busy(e->arg, c->ch->id, 1);
}

void sbx_command_grant(sbx_command *c, int64_t bytes)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    c->granted += bytes;
    channel_send_num(c->ch, SBX_F_WINDOW, c->req, SBX_T_WINDOW, (uint64_t)bytes);
}

void sbx_command_kill(sbx_command *c)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    channel_send(c->ch, SBX_F_KILL, c->req, NULL, 0);
    channel_flush(c->ch);
}

void sbx_command_detach(sbx_command *c)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    if (c->detached)
        return;
    c->detached = true;
    channel_send(c->ch, SBX_F_DETACH, c->req, NULL, 0);
    channel_flush(c->ch);
}

/* --- frames of the agent --- */

static void forget(sbx_command *c)
{
    if (c->busy)
        c->ch->set->events.busy(c->ch->set->events.arg, c->ch->id, -1);
    HASH_DEL(c->ch->commands, c);
    free(c);
}

/* Integer fields of a record, by tag. */
static bool read_nums(const sbx_frame *f, uint64_t *nums, size_t count)
{
    sbx_fields fields;
    sbx_field field;
    int more;

    sbx_fields_init(&fields, f->payload, f->len);
    while ((more = sbx_fields_next(&fields, &field)) == 1)
        if (field.len == 8 && field.tag < count)
            nums[field.tag] = field.num;
    return more == 0;
}

static bool take_output(sbx_command *c, const sbx_frame *f)
{
    if (f->len < 9 || (f->payload[0] != 1 && f->payload[0] != 2))
        return false;
    size_t len = f->len - 9;

    if (c->detached)
        return true;
    if (c->granted <= 0)
        return false;
    c->granted -= (int64_t)len; /* what comes last may exceed it */
    c->events->output(c->arg, c, f->payload[0] == 2, (const char *)f->payload + 9, len);
    return true;
}

static bool take_exit(sbx_command *c, const sbx_frame *f)
{
    uint64_t n[SBX_T_DROPPED + 1] = {0};

    if (!read_nums(f, n, ARRAY_LEN(n)) || n[SBX_T_EXIT_CODE] > 255 || n[SBX_T_SIGNAL] > 64)
        return false;
    sbx_command_exit e = {
        .exit_code = (int)n[SBX_T_EXIT_CODE],
        .signal = (int)n[SBX_T_SIGNAL],
        .timed_out = n[SBX_T_FLAGS] & SBX_EXIT_TIMED_OUT,
        .oom_killed = n[SBX_T_FLAGS] & SBX_EXIT_OOM,
        .truncated = n[SBX_T_FLAGS] & SBX_EXIT_TRUNCATED,
        .duration_ms = (int64_t)SBX_MIN(n[SBX_T_DURATION_MS], (uint64_t)INT32_MAX),
        .cpu_ms = (int64_t)SBX_MIN(n[SBX_T_CPU_MS], (uint64_t)INT32_MAX),
        .peak_kb = n[SBX_T_PEAK_KB],
    };
    const sbx_command_events *events = c->events;
    void *arg = c->arg;

    forget(c);
    if (events)
        events->exit(arg, &e);
    return true;
}

static void fail_text(const sbx_frame *f, char *out, size_t cap)
{
    sbx_fields fields;
    sbx_field field;

    sbx_copy(out, cap, "no reason given");
    sbx_fields_init(&fields, f->payload, f->len);
    while (sbx_fields_next(&fields, &field) == 1)
        if (field.tag == SBX_T_MESSAGE && sbx_utf8_valid(field.data, field.len)) {
            size_t n = SBX_MIN((size_t)field.len, cap - 1);

            memcpy(out, field.data, n);
            out[n] = '\0';
        }
}

static bool take_fail(sbx_command *c, const sbx_frame *f)
{
    uint64_t n[SBX_T_CODE + 1] = {0};
    char text[200];
    sbx_err err;

    if (!read_nums(f, n, ARRAY_LEN(n)))
        return false;
    fail_text(f, text, sizeof(text));
    switch (n[SBX_T_CODE]) {
    case SBX_AF_BAD_CWD:
        sbx_fail_field(&err, "cwd", "cwd: %s", text);
        break;
    case SBX_AF_BAD_USER:
        sbx_fail_field(&err, "user", "user: %s", text);
        break;
    case SBX_AF_BUSY:
    case SBX_AF_SPAWN:
        sbx_fail(&err, SBX_E_CAPACITY, "the sandbox cannot start another process: %s", text);
        break;
    default:
        sbx_fail(&err, SBX_E_ENGINE, "the sandbox's agent refused the command: %s", text);
    }
    const sbx_command_events *events = c->events;
    void *arg = c->arg;

    forget(c);
    if (events)
        events->failed(arg, &err);
    return true;
}

bool command_frame(channel *ch, const sbx_frame *f)
{
    sbx_command *c;
    uint64_t n[SBX_T_PID + 1] = {0};

    HASH_FIND_INT(ch->commands, &f->req, c);
    if (!c)
        return f->type >= SBX_F_STARTED; /* of a command that is over */
    switch (f->type) {
    case SBX_F_STARTED:
        if (c->started || !read_nums(f, n, ARRAY_LEN(n)))
            return false;
        c->started = true;
        if (c->events && !c->detached)
            c->events->started(c->arg, c, (int64_t)(n[SBX_T_PID] & INT32_MAX));
        return true;
    case SBX_F_OUTPUT:
        return take_output(c, f);
    case SBX_F_EXIT:
        return take_exit(c, f);
    case SBX_F_FAIL:
        return take_fail(c, f);
    case SBX_F_TAKEN:
    case SBX_F_GAP:
        return true;
    default:
        return false;
    }
}

void commands_fail(channel *ch, sbx_code why, const char *text)
{
    sbx_err err;

    sbx_fail(&err, why, "the command's outcome is unknown: %s", text);
    while (ch->commands) {
        sbx_command *c = ch->commands;
        const sbx_command_events *events = c->events;
        void *arg = c->arg;

        forget(c);
        if (events)
            events->failed(arg, &err);
    }
}
