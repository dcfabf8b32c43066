/* GET of a command's output: a page, or a stream that follows it. */
#include "exec_priv.h"

#include "sbx/sandbox/state.h"

int exec_look(sbx_execs *e, const char *owner, const char *sandbox, char state[16], sbx_err *err)
{
    sbx_sandbox_row row = {0};

    if (sbx_store_sandbox_get(e->c.store, owner, sandbox, &row, err))
        return -1;
    memcpy(state, row.state, 16);
    sbx_sandbox_row_done(&row);
    if (sbx_streq(state, "deleted"))
        return sbx_fail(err, SBX_E_GONE, "the sandbox was deleted");
    return sbx_streq(state, "running");
}

static int tell_record(exec *x, sbx_err *err)
{
    sbx_exec_record r = {0};

    if (sbx_store_exec_get(x->e->c.store, x->owner, x->sandbox, x->id, &r, err))
        return -1;
    exec_tell_record(x, &r);
    sbx_exec_record_done(&r);
    exec_free(x);
    return 0;
}

/* Owns `x`, unless it fails. */
static int begin(exec *x, sbx_err *err)
{
    char state[16];
    int runs = exec_look(x->e, x->owner, x->sandbox, state, err);

    if (runs < 0)
        return -1;
    if (!runs && (sbx_streq(state, "stopped") || sbx_streq(state, "failed")))
        return tell_record(x, err);
    if (!runs)
        return sbx_fail(err, SBX_E_CONFLICT,
                        "the sandbox is %s: its output can be read while it is running", state);
    if (sbx_channels_has(x->e->c.channels, x->sandbox))
        exec_follow(x);
    else
        exec_use(x); /* it is just being adopted */
    return 0;
}

void exec_output_again(void *arg)
{
    exec *x = arg;
    sbx_err err;

    if (begin(x, &err))
        exec_fail(x, &err);
}

int sbx_exec_output(sbx_execs *e, const sbx_exec_ref *ref, const sbx_request *r, sbx_err *err)
{
    sbx_feed_query q;

    if (sbx_feed_query_read(r, 0, &q, err))
        return -1;
    bool page = r->accept == SBX_ACCEPT_JSON;
    exec *x =
        exec_new(e, page ? EXEC_PAGE : EXEC_OUTPUT, ref->owner, ref->sandbox, ref->id, r->reply);

    follow_init(&x->f, x->reply,
                page                         ? FOLLOW_PAGE
                : r->accept == SBX_ACCEPT_WS ? FOLLOW_WS
                                             : FOLLOW_SSE,
                q.has_since ? SBX_MIN(q.since, (uint64_t)1 << 61) : 0);
    x->limit = q.limit ? (size_t)q.limit : 50;
    if (begin(x, err) == 0)
        return 0;
    exec_free(x);
    return -1;
}
