/* The events of a command on their way to one client. What the client's box does not take waits
 * here, and nothing more is granted to the agent until it is gone: so at most one window of output
 * waits, whose events take at most EVENT_FACTOR times its bytes (each byte an event of its own). */
#include "exec_priv.h"

#define EVENT_FACTOR  128
#define PENDING_BYTES (EVENT_FACTOR * (SBX_STREAM_WINDOW_BYTES + SBX_CHUNK_BYTES))

void follow_init(follow *f, sbx_reply *reply, follow_form form, uint64_t since)
{
    *f = (follow){.reply = reply, .form = form, .since = since, .last = since};
    sbx_feed_queue_init(&f->queue, reply, PENDING_BYTES);
    sbx_buf_init(&f->page, SBX_MAX_RESPONSE_BYTES);
}

void follow_done(follow *f)
{
    sbx_feed_queue_done(&f->queue);
    sbx_buf_done(&f->page);
}

uint64_t follow_next_chunk(const follow *f)
{
    return f->last ? f->last : 1;
}

/* --- making events --- */

typedef struct making {
    follow *f;
    sbx_buf text;
    sbx_jw w;
} making;

static void open_event(making *m, follow *f, uint64_t number, const char *type)
{
    *m = (making){.f = f};
    sbx_buf_init(&m->text, 8 * SBX_PROTO_MAX_FROM_AGENT);
    if (f->form == FOLLOW_SSE)
        sbx_buf_addf(&m->text, "id: %llu\ndata: ", (unsigned long long)number);
    if (f->form == FOLLOW_MANY)
        sbx_buf_addf(&m->text, "id: %s:%llu\ndata: ", f->sandbox, (unsigned long long)number);
    m->w = (sbx_jw)SBX_JW(&m->text);
    sbx_jw_obj(&m->w, NULL);
    if (f->form == FOLLOW_MANY)
        sbx_jw_str(&m->w, "sandboxId", f->sandbox);
    if (f->form != FOLLOW_SSE)
        sbx_jw_int(&m->w, "seq", (int64_t)number);
    sbx_jw_str(&m->w, "type", type);
}

/* False: the client has it already, or does not want it. */
static bool begin(making *m, follow *f, uint64_t number, const char *type)
{
    if (number <= f->last)
        return false;
    f->last = number;
    open_event(m, f, number, type);
    return true;
}

static void end(making *m)
{
    follow *f = m->f;

    sbx_jw_obj_end(&m->w);
    if (f->form == FOLLOW_SSE || f->form == FOLLOW_MANY)
        sbx_buf_adds(&m->text, "\n\n");
    if (f->form == FOLLOW_PAGE) {
        sbx_buf_adds(&f->page, f->items++ ? "," : "");
        sbx_buf_add(&f->page, m->text.data, m->text.len);
    } else {
        sbx_feed_queue_add(&f->queue, m->text.data, m->text.len);
    }
    sbx_buf_done(&m->text);
}

void follow_start(follow *f, const char *exec_id, int64_t pid)
{
    making m;

    if (!begin(&m, f, 1, "start"))
        return;
    sbx_jw_str(&m.w, "execId", exec_id);
    sbx_jw_int(&m.w, "pid", pid);
    end(&m);
}

void follow_output(follow *f, uint64_t chunk, bool is_stderr, const char *data, size_t len)
{
    bool text = sbx_utf8_valid(data, len);
    making m;

    f->to_grant += (int64_t)len;
    if (!begin(&m, f, chunk + 1, is_stderr ? "stderr" : "stdout"))
        return;
    sbx_jw_bytes(&m.w, "data", data, len, !text);
    if (!text)
        sbx_jw_str(&m.w, "encoding", "base64");
    end(&m);
}

void follow_gap(follow *f, uint64_t from_chunk, uint64_t to_chunk)
{
    making m;

    if (from_chunk > to_chunk || !begin(&m, f, to_chunk + 1, "gap"))
        return;
    sbx_jw_int(&m.w, "from", (int64_t)from_chunk + 1);
    sbx_jw_int(&m.w, "to", (int64_t)to_chunk + 1);
    end(&m);
}

void follow_exit(follow *f, const sbx_command_exit *e)
{
    making m;

    f->ended = true;
    if (!begin(&m, f, e->chunks + 2, "exit"))
        return;
    exec_exit_fields(&m.w, e->exit_code, e->signal);
    exec_result_fields(&m.w, e, e->truncated);
    end(&m);
}

/* It is no event of the command: its number is that of the one before, so that who resumes behind
 * it misses nothing. */
void follow_error(follow *f, const sbx_err *err)
{
    making m;

    f->ended = true;
    open_event(&m, f, f->last, "error");
    sbx_jw_str(&m.w, "code", sbx_code_wire(err->code));
    sbx_jw_str(&m.w, "message", err->msg);
    end(&m);
}

/* --- handing them on --- */

int64_t follow_flush(follow *f)
{
    int64_t grant = f->to_grant;

    if (f->form != FOLLOW_PAGE && !sbx_feed_queue_push(&f->queue))
        return 0;
    if (f->ended && f->begun && f->form != FOLLOW_MANY)
        sbx_reply_end(f->reply);
    f->to_grant = 0;
    return grant;
}

void follow_page(follow *f, bool more)
{
    sbx_buf body = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    sbx_err err;

    if (sbx_buf_failed(&f->page) || sbx_feed_page(&body, &f->page, more, f->last, &err)) {
        sbx_fail(&err, SBX_E_TOO_LARGE, "the page does not fit into an answer: ask with a limit");
        sbx_reply_problem(f->reply, &err);
    } else {
        sbx_reply_json(f->reply, 200, &body);
    }
    sbx_buf_done(&body);
}
