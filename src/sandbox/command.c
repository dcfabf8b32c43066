/* Commands on a channel: starting, flow control, and the frames that the agent sends about them. */
#include "channel_priv.h"

#include "sbx/core/thread.h"

typedef struct start {
    sbx_channels *set;
    char sandbox[SBX_ID_LEN + 1];
    sbx_command_spec spec; /* of attach: exec_id, window and flags */
    uint64_t from;         /* attach: the first chunk */
    bool attach;
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

void sbx_command_spec_copy(const sbx_command_spec *s, sbx_command_spec *ret)
{
    *ret = *s;
    ret->argv = (sbx_strs){.shell = s->argv.shell};
    ret->env = (sbx_pairs){0};
    for (size_t i = 0; i < s->argv.count; i++)
        sbx_strs_add(&ret->argv, s->argv.items[i]);
    for (size_t i = 0; i < s->env.count; i++)
        sbx_pairs_add(&ret->env, s->env.names[i], s->env.values[i]);
    ret->cwd = s->cwd ? sbx_strdup(s->cwd) : NULL;
    ret->user = s->user ? sbx_strdup(s->user) : NULL;
    ret->stdin_text = NULL;
    if (s->stdin_text) {
        ret->stdin_text = sbx_alloc(s->stdin_len + 1);
        memcpy(ret->stdin_text, s->stdin_text, s->stdin_len);
    }
}

void frame_add(sbx_buf *b, uint16_t tag, const void *data, size_t len)
{
    char *to = sbx_buf_reserve(b, len + 6);

    if (to)
        sbx_buf_commit(b, sbx_field_put((unsigned char *)to, len + 6, tag, data, (uint32_t)len));
}

void frame_add_num(sbx_buf *b, uint16_t tag, uint64_t value)
{
    char *to = sbx_buf_reserve(b, 14);

    if (to)
        sbx_buf_commit(b, sbx_field_put_num((unsigned char *)to, 14, tag, value));
}

static void add_env(sbx_buf *b, const sbx_pairs *env)
{
    for (size_t i = 0; i < env->count; i++) {
        char *pair = sbx_asprintf("%s=%s", env->names[i], env->values[i]);

        frame_add(b, SBX_T_ENV, pair, strlen(pair));
        sbx_wipe(pair, strlen(pair));
        free(pair);
    }
}

static void build_exec(const channel *ch, const sbx_command_spec *s, sbx_buf *b)
{
    frame_add(b, SBX_T_EXEC_ID, s->exec_id, strlen(s->exec_id));
    for (size_t i = 0; i < s->argv.count; i++)
        frame_add(b, SBX_T_ARG, s->argv.items[i], strlen(s->argv.items[i]));
    add_env(b, &ch->env);
    add_env(b, &s->env);
    if (s->cwd)
        frame_add(b, SBX_T_CWD, s->cwd, strlen(s->cwd));
    if (s->user)
        frame_add(b, SBX_T_USER, s->user, strlen(s->user));
    frame_add_num(b, SBX_T_TIMEOUT_MS, (uint64_t)s->timeout_ms);
    frame_add_num(b, SBX_T_MAX_OUTPUT, (uint64_t)s->max_output);
    frame_add_num(b, SBX_T_WINDOW, (uint64_t)s->window);
    frame_add_num(b, SBX_T_FLAGS, s->flags | (s->stdin_text ? SBX_EXEC_STDIN : 0));
    if (s->cpu_ms)
        frame_add_num(b, SBX_T_CPU_MS, (uint64_t)s->cpu_ms);
    if (s->flags & SBX_EXEC_PTY) {
        frame_add_num(b, SBX_T_COLS, s->cols);
        frame_add_num(b, SBX_T_ROWS, s->rows);
    }
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

/* --- input --- */

static void forget(sbx_command *c)
{
    if (c->busy)
        c->ch->set->events.busy(c->ch->set->events.arg, c->ch->id, -1);
    HASH_DEL(c->ch->commands, c);
    free(c->input);
    free(c);
}

size_t sbx_command_stdin_room(const sbx_command *c)
{
    return c->input || c->given >= SBX_STDIN_TAKEN_BYTES
               ? 0
               : (size_t)(SBX_STDIN_TAKEN_BYTES - c->given);
}

static void give(sbx_command *c, const char *data, size_t len)
{
    const size_t piece = 64 * KIB;

    for (size_t at = 0; at < len; at += piece)
        channel_send(c->ch, SBX_F_STDIN, c->req, data + at, SBX_MIN(piece, len - at));
    c->given += len;
}

/* Goes on with what the command begins with. An agent of version 1 takes all of it at once.
 * @return false if nobody wants to know more, and the command was forgotten. */
static bool give_input(sbx_command *c)
{
    if (!c->input)
        return true;
    uint64_t room = c->ch->version < 2                 ? UINT64_MAX
                    : c->given < SBX_STDIN_TAKEN_BYTES ? SBX_STDIN_TAKEN_BYTES - c->given
                                                       : 0;
    size_t n = (size_t)SBX_MIN(room, (uint64_t)(c->input_len - c->input_at));

    give(c, c->input + c->input_at, n);
    c->input_at += n;
    if (c->input_at < c->input_len)
        return true;
    free(sbx_steal(c->input));
    if (c->input_ends)
        channel_send(c->ch, SBX_F_STDIN, c->req, NULL, 0);
    if (c->events || c->ch->version < 2)
        return true;
    channel_send(c->ch, SBX_F_LEAVE, c->req, NULL, 0);
    forget(c);
    return false;
}

void sbx_command_stdin(sbx_command *c, const void *data, size_t len)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    give(c, data, len);
    channel_flush(c->ch);
}

void sbx_command_stdin_end(sbx_command *c)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    channel_send(c->ch, SBX_F_STDIN, c->req, NULL, 0);
    channel_flush(c->ch);
}

/* --- beginning --- */

static sbx_command *command_new(channel *ch, const start *s)
{
    sbx_command *c = sbx_alloc(sizeof(*c));

    *c = (sbx_command){.ch = ch,
                       .req = command_free_req(ch),
                       .events = s->events,
                       .arg = s->arg,
                       .granted = s->spec.window,
                       .chunk = s->from > 1 ? s->from - 1 : 0,
                       .flags = s->spec.flags,
                       .detached = s->spec.flags & SBX_EXEC_DETACHED};
    HASH_ADD_INT(ch->commands, req, c);
    ch->used = true;
    return c;
}

static int begin(channel *ch, start *s, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(SBX_PROTO_MAX_TO_AGENT);

    build_exec(ch, &s->spec, &b);
    if (sbx_buf_failed(&b))
        return sbx_fail_field(err, "command", "command and environment together exceed %d bytes",
                              SBX_PROTO_MAX_TO_AGENT);
    if (ch->out.len + b.len + s->spec.stdin_len + 64 * KIB > MAX_OUT_BYTES)
        return sbx_fail(err, SBX_E_CAPACITY, "too much input is waiting for this sandbox");
    sbx_command *c = command_new(ch, s);
    channel_send(ch, SBX_F_EXEC, c->req, b.data, b.len);
    sbx_wipe(b.data, b.len);
    c->input = sbx_steal(s->spec.stdin_text);
    c->input_len = s->spec.stdin_len;
    c->input_ends = !(s->spec.flags & SBX_EXEC_STDIN);
    (void)give_input(c);
    channel_flush(ch);
    return 0;
}

static int attach(channel *ch, start *s, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(KIB);

    if (ch->version < 2)
        return sbx_fail(err, SBX_E_CONFLICT, "%s", SBX_OLD_AGENT);
    if (ch->out.len + 64 * KIB > MAX_OUT_BYTES)
        return sbx_fail(err, SBX_E_CAPACITY, "too much input is waiting for this sandbox");
    frame_add(&b, SBX_T_EXEC_ID, s->spec.exec_id, strlen(s->spec.exec_id));
    frame_add_num(&b, SBX_T_SEQ, s->from);
    frame_add_num(&b, SBX_T_WINDOW, (uint64_t)s->spec.window);
    frame_add_num(&b, SBX_T_FLAGS, s->spec.flags);
    sbx_command *c = command_new(ch, s);
    c->flags = 0; /* STARTED tells them */
    channel_send(ch, SBX_F_ATTACH, c->req, b.data, b.len);
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
        rc = s->attach ? attach(ch, s, &err) : begin(ch, s, &err);
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

void sbx_channels_attach(sbx_channels *c, const char *sandbox, const char *exec_id, uint64_t from,
                         int64_t window, bool detached, const sbx_command_events *events, void *arg)
{
    start *s = sbx_alloc(sizeof(*s));

    *s = (start){.set = c, .from = from, .attach = true, .events = events, .arg = arg};
    s->spec.window = window;
    s->spec.flags = detached ? SBX_EXEC_DETACHED : 0;
    sbx_copy(s->spec.exec_id, sizeof(s->spec.exec_id), exec_id);
    sbx_copy(s->sandbox, sizeof(s->sandbox), sandbox);
    sbx_stream_post(c->stream, start_on_stream, s);
}

sbx_command *command_adopt(channel *ch, const char *exec_id, size_t len)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(KIB);
    start none = {.spec.flags = SBX_EXEC_DETACHED};
    sbx_command *c = command_new(ch, &none);

    frame_add(&b, SBX_T_EXEC_ID, exec_id, len);
    frame_add_num(&b, SBX_T_WINDOW, 0);
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

void sbx_command_signal(sbx_command *c, int signal, bool tree)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(64);

    SBX_ASSERT_THREAD(SBX_T_STREAM);
    frame_add_num(&b, SBX_T_SIGNAL, (uint64_t)signal);
    frame_add_num(&b, SBX_T_FLAGS, tree ? SBX_SIG_TREE : 0);
    channel_send(c->ch, SBX_F_SIGNAL, c->req, b.data, b.len);
    channel_flush(c->ch);
}

void sbx_command_resize(sbx_command *c, unsigned cols, unsigned rows)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(64);

    SBX_ASSERT_THREAD(SBX_T_STREAM);
    frame_add_num(&b, SBX_T_COLS, cols);
    frame_add_num(&b, SBX_T_ROWS, rows);
    channel_send(c->ch, SBX_F_RESIZE, c->req, b.data, b.len);
    channel_flush(c->ch);
}

/* What the command begins with is still given to it. An agent of version 1 cannot be left: it is
 * not listened to. */
void sbx_command_leave(sbx_command *c)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    c->events = NULL;
    if (c->ch->version < 2 || c->input) {
        sbx_command_detach(c);
        return;
    }
    channel_send(c->ch, SBX_F_LEAVE, c->req, NULL, 0);
    channel_flush(c->ch);
    forget(c);
}

uint64_t sbx_command_chunk(const sbx_command *c)
{
    return c->chunk;
}

uint32_t sbx_command_flags(const sbx_command *c)
{
    return c->flags;
}

/* --- frames of the agent --- */

bool frame_nums(const sbx_frame *f, uint64_t *nums, size_t count)
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

static bool take_started(sbx_command *c, const sbx_frame *f)
{
    uint64_t n[SBX_T_PID + 1] = {0};

    if (c->started || !frame_nums(f, n, ARRAY_LEN(n)))
        return false;
    c->started = true;
    if (c->ch->version >= 2)
        c->flags |= (uint32_t)n[SBX_T_FLAGS];
    if (c->events)
        c->events->started(c->arg, c, (int64_t)(n[SBX_T_PID] & INT32_MAX));
    return true;
}

static uint64_t number_at(const unsigned char *p)
{
    uint64_t n = 0;

    for (int i = 0; i < 8; i++)
        n |= (uint64_t)p[i] << 8 * i;
    return n;
}

/* The last chunk may exceed the window of an agent that numbers them; each comes once, in order. */
static bool take_output(sbx_command *c, const sbx_frame *f)
{
    if (f->len < 9 || (f->payload[0] != 1 && f->payload[0] != 2))
        return false;
    const char *data = (const char *)f->payload + 9;
    bool is_stderr = f->payload[0] == 2, numbered = c->ch->version >= 2;
    size_t len = f->len - 9;

    if (c->detached || !c->events)
        return true;
    if (numbered && c->granted <= 0)
        return false;
    c->granted -= (int64_t)len;
    if (!numbered) {
        if (c->granted < 0)
            return false;
        old_output_take(c, is_stderr, data, len);
        return true;
    }
    uint64_t number = number_at(f->payload + 1);
    if (!(c->flags & SBX_EXEC_CHECK) && number != c->chunk + 1)
        return false;
    c->chunk = c->flags & SBX_EXEC_CHECK ? c->chunk + 1 : number;
    c->events->output(c->arg, c, is_stderr, data, len);
    return true;
}

static bool take_gap(sbx_command *c, const sbx_frame *f)
{
    uint64_t n[SBX_T_TO_SEQ + 1] = {0};

    if (!frame_nums(f, n, ARRAY_LEN(n)) || n[SBX_T_SEQ] != c->chunk + 1 ||
        n[SBX_T_TO_SEQ] < n[SBX_T_SEQ] || n[SBX_T_TO_SEQ] > (uint64_t)1 << 62)
        return c->detached || !c->events;
    c->chunk = n[SBX_T_TO_SEQ];
    if (c->events && c->events->gap && !c->detached)
        c->events->gap(c->arg, c, n[SBX_T_SEQ], n[SBX_T_TO_SEQ]);
    return true;
}

static bool take_taken(sbx_command *c, const sbx_frame *f)
{
    uint64_t n[SBX_T_DROPPED + 1] = {0};

    if (!frame_nums(f, n, ARRAY_LEN(n)))
        return false;
    if (c->ch->version < 2)
        return true;
    if (n[SBX_T_WINDOW] > c->given || n[SBX_T_DROPPED] > c->given - n[SBX_T_WINDOW])
        return false;
    c->given -= n[SBX_T_WINDOW] + n[SBX_T_DROPPED];
    channel *ch = c->ch;
    if (give_input(c) && c->events && c->events->taken && !c->input)
        c->events->taken(c->arg, c, n[SBX_T_WINDOW], n[SBX_T_DROPPED]);
    channel_flush(ch);
    return true;
}

bool command_exit_read(const channel *ch, const uint64_t *n, uint64_t flags, sbx_command_exit *ret)
{
    if (n[SBX_T_EXIT_CODE] > 255 || n[SBX_T_SIGNAL] > 64 || n[SBX_T_SEQ] > (uint64_t)1 << 62)
        return false;
    *ret = (sbx_command_exit){
        .exit_code = (int)n[SBX_T_EXIT_CODE],
        .signal = (int)n[SBX_T_SIGNAL],
        .timed_out = flags & SBX_EXIT_TIMED_OUT,
        .oom_killed = flags & SBX_EXIT_OOM,
        .truncated = flags & SBX_EXIT_TRUNCATED,
        .cpu_limit = flags & SBX_EXIT_CPU,
        .told = ch->version >= 2,
        .duration_ms = (int64_t)SBX_MIN(n[SBX_T_DURATION_MS], (uint64_t)INT32_MAX),
        .cpu_ms = (int64_t)SBX_MIN(n[SBX_T_CPU_MS], (uint64_t)INT32_MAX),
        .peak_kb = SBX_MIN(n[SBX_T_PEAK_KB], (uint64_t)1 << 50),
        .chunks = n[SBX_T_SEQ] ? n[SBX_T_SEQ] - 1 : 0,
    };
    return true;
}

static bool take_exit(sbx_command *c, const sbx_frame *f)
{
    uint64_t n[EXIT_NUMS] = {0};
    sbx_command_exit e;

    if (!frame_nums(f, n, ARRAY_LEN(n)) || !command_exit_read(c->ch, n, n[SBX_T_FLAGS], &e))
        return false;
    if (c->ch->version < 2) {
        old_output_end(c);
        e.chunks = c->chunk;
    }
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

    if (!frame_nums(f, n, ARRAY_LEN(n)))
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
    case SBX_AF_NOT_FOUND:
        sbx_fail(&err, SBX_E_NOT_FOUND, "the sandbox has no such command any more");
        break;
    case SBX_AF_CONTEXTS:
        sbx_fail(&err, SBX_E_CONFLICT, "the sandbox has %d contexts, which is the most; delete one",
                 SBX_MAX_CONTEXTS);
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

    HASH_FIND_INT(ch->commands, &f->req, c);
    if (!c)
        return f->type >= SBX_F_STARTED; /* of a command that is over, or was left */
    switch (f->type) {
    case SBX_F_STARTED:
        return take_started(c, f);
    case SBX_F_OUTPUT:
        return take_output(c, f);
    case SBX_F_EXIT:
        return take_exit(c, f);
    case SBX_F_FAIL:
        return take_fail(c, f);
    case SBX_F_TAKEN:
        return take_taken(c, f);
    case SBX_F_GAP:
        return ch->version >= 2 && take_gap(c, f);
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
        bool again = why == SBX_E_ENGINE && ch->version >= 2 && !(c->flags & SBX_EXEC_CHECK);
        void *arg = c->arg;

        forget(c);
        if (events && events->lost && again)
            events->lost(arg);
        else if (events)
            events->failed(arg, &err);
    }
}
