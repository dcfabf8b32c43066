/* How a sandbox gets its network. Mode `none` is the engine's own. Mode `open` is the
 * installation's network behind the guard, in three steps around every start of a container: the
 * guard's confirmation before it joins, the start, and one that was asked for after the first step
 * before anything but the agent runs. The second usually has come by then and costs no wait. */
#include "sandboxes_priv.h"

#include "sbx/core/clock.h"

static bool is_open(const sbx_sandbox_row *row)
{
    return strcmp(row->network, "open") == 0;
}

int sandbox_network_begin(sbx_sandboxes *s, const sbx_sandbox_row *row, sandbox_network *ret,
                          sbx_err *err)
{
    *ret = (sandbox_network){.since_ms = sbx_now_ms()};
    if (!is_open(row)) {
        sbx_copy(ret->access.network, sizeof(ret->access.network), row->network);
        return 0;
    }
    return s->c.open_network(s->c.arg, 0, &ret->access, err);
}

int sandbox_network_confirm(sbx_sandboxes *s, const sbx_sandbox_row *row,
                            const sandbox_network *begun, sbx_err *err)
{
    return is_open(row) ? s->c.open_network(s->c.arg, begun->since_ms, NULL, err) : 0;
}

void sandbox_network_keep(sbx_sandboxes *s, const sbx_sandbox_row *row)
{
    if (is_open(row))
        s->c.keep_network(s->c.arg);
}
