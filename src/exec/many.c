/* One command in many sandboxes: a request whose parts are requests for one command each.
 *
 * The parts live as those that are alone do, but tell their results here instead of answering. All
 * of it is STREAM's once the parts are on their way; the client is watched once, for all of them.
 * Who does not come to an end in time is told as a time-out, and goes on to its end unheard. */
#include "exec_priv.h"

#include <stdio.h>

#define GRACE_MS      10000 /* beyond the command's time-out, for what comes before and behind it */
#define BACKGROUND_MS 60000 /* for all of them to start */

typedef struct place {
    char sandbox[SBX_ID_LEN + 1];
    exec *x;    /* while the client watches; NULL before it is STREAM's */
    char *json; /* its result, or its problem; owned */
    bool over;
} place;

typedef struct many { /* STREAM, but for what is immutable and the flag */
    sbx_execs *e;     /* immutable, as the next three */
    sbx_reply *reply;
    exec_kind kind;
    int64_t most_ms;
    atomic_bool cancelled;
    place *places;
    size_t count, left;
    int refs; /* the parts, and the watch of the reply */
    bool closed, told;
    follow own; /* events of parts that never began */
    sbx_timer *late;
} many;

static void many_unref(many *m)
{
    if (--m->refs)
        return;
    for (size_t i = 0; i < m->count; i++)
        free(m->places[i].json);
    free(m->places);
    follow_done(&m->own);
    sbx_reply_unref(m->reply);
    free(m);
}

/* --- the end --- */

static void answer(many *m)
{
    sbx_buf body = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    sbx_jw w = SBX_JW(&body);

    sbx_jw_obj(&w, NULL);
    sbx_jw_arr(&w, "results");
    for (size_t i = 0; i < m->count; i++)
        sbx_jw_raw(&w, NULL, m->places[i].json);
    sbx_jw_arr_end(&w);
    sbx_jw_obj_end(&w);
    sbx_reply_json(m->reply, m->kind == EXEC_BACKGROUND ? 202 : 200, &body);
    sbx_buf_done(&body);
}

/* Has the client taken all that the parts had to say? */
static bool all_pushed(const many *m)
{
    for (size_t i = 0; i < m->count; i++)
        if (m->places[i].x && m->places[i].x->f.queue.waiting.len)
            return false;
    return !m->own.queue.waiting.len;
}

static void finish(many *m)
{
    if (m->left || m->told || (m->kind == EXEC_STREAM && !all_pushed(m)))
        return;
    m->told = true;
    if (m->late)
        sbx_timer_free(sbx_steal(m->late));
    if (m->kind == EXEC_STREAM)
        sbx_reply_end(m->reply);
    else
        answer(m);
}

static void place_over(many *m, size_t i)
{
    if (!m->places[i].over) {
        m->places[i].over = true;
        m->left--;
    }
    finish(m);
}

/* --- what the parts tell --- */

/* It gets the name of its sandbox before all else. */
void many_result(exec *x, sbx_buf *body)
{
    place *p = &x->many->places[x->place];
    sbx_buf b = SBX_BUF_INIT(body->len + KIB);
    sbx_err err;

    if (p->json)
        return;
    if (sbx_buf_failed(body) || !body->len) {
        sbx_fail(&err, SBX_E_TOO_LARGE, "the output does not fit into an answer");
        many_problem(x, &err);
        return;
    }
    sbx_buf_addf(&b, "{\"sandboxId\":\"%s\",", p->sandbox);
    sbx_buf_add(&b, body->data + 1, body->len - 1);
    p->json = sbx_buf_steal(&b);
}

static void place_problem(many *m, size_t i, const sbx_err *err)
{
    place *p = &m->places[i];
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf problem = SBX_BUF_INIT(16 * KIB);
    sbx_buf b = SBX_BUF_INIT(32 * KIB);
    sbx_jw w = SBX_JW(&b);

    if (p->json)
        return;
    sbx_reply_problem_json(m->reply, err, &problem);
    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "sandboxId", p->sandbox);
    sbx_jw_raw(&w, "problem", problem.data);
    sbx_jw_obj_end(&w);
    p->json = sbx_buf_steal(&b);
}

void many_problem(exec *x, const sbx_err *err)
{
    place_problem(x->many, x->place, err);
}

void many_over(exec *x)
{
    many *m = x->many;

    place_over(m, x->place);
    many_unref(m);
}

/* The part cannot say it any more, or not yet. */
static void say_error(many *m, size_t i, const sbx_err *err)
{
    if (m->kind != EXEC_STREAM) {
        place_problem(m, i, err);
        return;
    }
    m->own.sandbox = m->places[i].sandbox;
    m->own.last = 0;
    follow_error(&m->own, err);
    follow_flush(&m->own);
}

typedef struct refusal {
    many *m;
    size_t i;
    sbx_err err;
} refusal;

static void refused_on_stream(void *arg)
{
    refusal *r = arg;

    if (!r->m->places[r->i].over)
        say_error(r->m, r->i, &r->err);
    place_over(r->m, r->i);
    many_unref(r->m);
    free(r);
}

void many_refused(exec *x, const sbx_err *err)
{
    refusal *r = sbx_alloc(sizeof(*r));
    sbx_stream *stream = x->e->c.stream;

    *r = (refusal){.m = x->many, .i = x->place, .err = *err};
    exec_free(x);
    sbx_stream_post(stream, refused_on_stream, r);
}

const atomic_bool *many_cancel_flag(const exec *x)
{
    return &x->many->cancelled;
}

/* --- the client --- */

static void join_on_stream(void *arg)
{
    exec *x = arg;
    many *m = x->many;

    if (m->closed || m->places[x->place].over)
        exec_left(x);
    else
        m->places[x->place].x = x;
}

void many_joins(exec *x)
{
    sbx_stream_post(x->e->c.stream, join_on_stream, x);
}

static void ready_on_stream(void *arg)
{
    many *m = arg;

    if (m->closed)
        return;
    follow_flush(&m->own);
    for (size_t i = 0; i < m->count; i++)
        if (m->places[i].x)
            exec_flush(m->places[i].x);
    finish(m);
}

static void leave(many *m, size_t i)
{
    exec *x = sbx_steal(m->places[i].x);

    if (x)
        exec_left(x);
}

static void closed_on_stream(void *arg)
{
    many *m = arg;

    m->closed = true;
    atomic_store(&m->cancelled, true);
    for (size_t i = 0; i < m->count; i++)
        leave(m, i);
    many_unref(m);
}

static void client_ready(void *arg)
{
    sbx_stream_post(((many *)arg)->e->c.stream, ready_on_stream, arg);
}

static void client_closed(void *arg)
{
    sbx_stream_post(((many *)arg)->e->c.stream, closed_on_stream, arg);
}

/* --- time --- */

static void give_up(many *m, size_t i)
{
    exec *x = m->places[i].x;
    sbx_err err;

    sbx_fail(&err, SBX_E_TIMEOUT, "the sandbox did not answer within %lld s",
             (long long)m->most_ms / 1000);
    say_error(m, i, &err);
    if (x && x->command && m->kind != EXEC_BACKGROUND)
        sbx_command_kill(x->command);
    m->places[i].over = true;
    m->left--;
    if (x && !x->f.queue.waiting.len) /* else it leaves with the client */
        leave(m, i);
    else if (x)
        x->f.ended = true;
}

static void on_late(void *arg)
{
    many *m = arg;

    m->late = NULL;
    atomic_store(&m->cancelled, true);
    for (size_t i = 0; i < m->count; i++)
        if (!m->places[i].over)
            give_up(m, i);
    finish(m);
}

/* --- beginning --- */

static void begin_on_stream(void *arg)
{
    many *m = arg;

    if (m->kind == EXEC_STREAM) {
        sbx_reply_begin(m->reply, 200, "text/event-stream");
        m->own.begun = true;
    }
    if (m->count)
        m->late = sbx_timer_new(m->e->c.stream, m->most_ms, on_late, m);
    finish(m);
}

/* What one sandbox may write for an answer that holds the output of all. */
static int bound_output(exec_body *b, size_t count, sbx_err *err)
{
    int64_t most = SBX_MAX_GROUP_OUTPUT / (int64_t)SBX_MAX(count, (size_t)1);

    if (!b->max_output_given)
        b->max_output = SBX_MIN(b->max_output, most);
    if (b->max_output > most)
        return sbx_fail_field(
            err, "maxOutputBytes",
            "maxOutputBytes: with %zu sandboxes at most %lld for each; more can be "
            "streamed",
            count, (long long)most);
    return 0;
}

static exec_kind kind_of(const exec_body *b, const sbx_request *r)
{
    return b->background ? EXEC_BACKGROUND : r->accept == SBX_ACCEPT_SSE ? EXEC_STREAM : EXEC_WAIT;
}

static many *many_new(sbx_execs *e, const exec_body *b, char (*sandboxes)[SBX_ID_LEN + 1],
                      size_t count, const sbx_request *r)
{
    many *m = sbx_alloc(sizeof(*m));

    m->e = e;
    m->reply = sbx_reply_ref(r->reply);
    m->kind = kind_of(b, r);
    m->most_ms = m->kind == EXEC_BACKGROUND ? BACKGROUND_MS : b->timeout_ms + GRACE_MS;
    m->count = m->left = count;
    m->refs = (int)count + 2; /* the last one while it is begun */
    m->places = sbx_alloc((count + 1) * sizeof(place));
    for (size_t i = 0; i < count; i++)
        sbx_copy(m->places[i].sandbox, sizeof(m->places[i].sandbox), sandboxes[i]);
    follow_init(&m->own, m->reply, FOLLOW_MANY, 0);
    return m;
}

static void begin_place(many *m, size_t i, const char *owner, const sbx_request *r, exec_body *b)
{
    exec *x = exec_of_body(m->e, owner, m->places[i].sandbox, r, b);

    x->many = m;
    x->place = i;
    if (m->kind == EXEC_STREAM) {
        x->spec.window = SBX_MANY_WINDOW_BYTES;
        follow_done(&x->f);
        follow_init(&x->f, x->reply, FOLLOW_MANY, 0);
        x->f.sandbox = m->places[i].sandbox;
        x->f.begun = true;
    }
    exec_use(x);
}

static void begun_on_stream(void *arg)
{
    many_unref(arg);
}

static int read_body(const sbx_request *r, const sbx_json *root, size_t count, exec_body *ret,
                     sbx_err *err)
{
    if (exec_body_read(r, root, ret, err))
        return -1;
    if (kind_of(ret, r) != EXEC_WAIT || bound_output(ret, count, err) == 0)
        return 0;
    exec_body_done(ret);
    return -1;
}

int sbx_exec_many(sbx_execs *e, const char *owner, char (*sandboxes)[SBX_ID_LEN + 1], size_t count,
                  const sbx_request *r, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    exec_body body;

    if (sbx_json_parse(r->body, r->body_len, &root, err) || read_body(r, root, count, &body, err))
        return -1;
    many *m = many_new(e, &body, sandboxes, count, r);
    sbx_reply_events watch = {.ready = client_ready, .closed = client_closed, .arg = m};

    exec_body_done(&body);
    sbx_stream_post(e->c.stream, begin_on_stream, m);
    sbx_reply_watch(m->reply, &watch);
    for (size_t i = 0; i < count; i++)
        /* it was read before: the same is read again, for each command a content of its own */
        if (read_body(r, root, count, &body, err) == 0)
            begin_place(m, i, owner, r, &body);
    sbx_stream_post(e->c.stream, begun_on_stream, m);
    return 0;
}
