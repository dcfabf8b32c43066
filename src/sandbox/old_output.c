/* Output of agents of version 1: pieces end anywhere, so characters that are cut are put together
 * here, and the pieces get their numbers here. */
#include "channel_priv.h"

static void tell(sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    c->chunk++;
    c->events->output(c->arg, c, is_stderr, data, len);
}

void old_output_take(sbx_command *c, bool is_stderr, const char *data, size_t len)
{
    old_output *o = &c->old;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf joined = SBX_BUF_INIT(len + sizeof(o->carry[0]));

    if (o->carried[is_stderr]) {
        sbx_buf_add(&joined, o->carry[is_stderr], o->carried[is_stderr]);
        sbx_buf_add(&joined, data, len);
        data = joined.data;
        len = joined.len;
    }
    size_t tail = sbx_utf8_tail(data, len);

    memcpy(o->carry[is_stderr], data + len - tail, tail);
    o->carried[is_stderr] = tail;
    if (len > tail)
        tell(c, is_stderr, data, len - tail);
}

void old_output_end(sbx_command *c)
{
    for (int i = 0; i < 2; i++)
        if (c->old.carried[i] && c->events && !c->detached)
            tell(c, i, c->old.carry[i], c->old.carried[i]);
}
