/* Looks at the row, on a worker, until the sandbox runs here; between two looks it is a timer. */
#include "sbx/sandbox/use.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"

#define RETRY_MS       50 /* at first; then an eighth of what was waited already */
#define MAX_RETRY_MS   1000
#define WAIT_CREATE_MS 120000 /* for a sandbox that is being created */
#define WAIT_ADOPT_MS  5000   /* for the channel of a running one, after a restart */
#define WAIT_AGAIN_MS  30000  /* the same, for what goes on inside */

static void run_attempt(void *arg);

/* The user may be gone when it is told. Until then it is counted, so that the sandbox is never seen
 * as idle before the user counts by itself. */
static void tell(sbx_use *u, const sbx_err *err)
{
    sbx_ledger *ledger = u->counted ? sbx_sandboxes_ledger(u->parts->sandboxes) : NULL;
    char sandbox[SBX_ID_LEN + 1];
    bool counted = u->counted;

    sbx_copy(sandbox, sizeof(sandbox), u->sandbox);
    if (err)
        u->failed(u->arg, err);
    else
        u->ready(u->arg);
    if (counted)
        sbx_ledger_end(ledger, sandbox);
}

static void submit(sbx_use *u, sbx_lane lane, void (*run)(void *arg))
{
    sbx_job job = {.run = run, .arg = u};
    sbx_err err;

    if (sbx_lanes_submit(u->parts->lanes, lane, &job, &err))
        tell(u, &err);
}

static void submit_attempt(void *arg)
{
    submit(arg, SBX_LANE_FAST, run_attempt);
}

static void wait_on_stream(void *arg)
{
    sbx_use *u = arg;
    int64_t waited_ms = sbx_now_ms() - u->from_ms;
    int64_t ms = SBX_MIN(SBX_MAX(waited_ms / 8, RETRY_MS), MAX_RETRY_MS);

    /* a timer's handle is not kept: the wait ends by itself */
    (void)sbx_timer_new(u->parts->stream, ms, submit_attempt, u);
}

/* Decides by the state: 1 it can be used now, 0 wait, -1 not at all. */
static int may_use(sbx_use *u, const sbx_sandbox_row *row, sbx_err *err)
{
    sbx_state state = sbx_state_parse(row->state);
    int64_t now = sbx_now_ms();

    if (state != SBX_S_RUNNING)
        u->running_ms = 0;
    switch (state) {
    case SBX_S_RUNNING:
        if (sbx_channels_has(u->parts->channels, row->id))
            return 1;
        u->running_ms = u->running_ms ? u->running_ms : now;
        break;
    case SBX_S_PAUSED:
        if (u->reading)
            return sbx_fail(err, SBX_E_CONFLICT, "the sandbox is paused");
        break;
    case SBX_S_CREATING:
    case SBX_S_STARTING:
    case SBX_S_PAUSING:
    case SBX_S_RESUMING:
        break;
    case SBX_S_DELETED:
        return sbx_fail(err, SBX_E_GONE, "the sandbox was deleted");
    default:
        return sbx_fail(err, SBX_E_CONFLICT, "the sandbox is %s", row->state);
    }
    if (now - u->from_ms > WAIT_CREATE_MS ||
        (u->running_ms && now - u->running_ms > (u->again ? WAIT_AGAIN_MS : WAIT_ADOPT_MS)))
        return sbx_fail(err, SBX_E_CAPACITY, "%s",
                        state == SBX_S_RUNNING ? "another worker holds the sandbox, or has just "
                                                 "let go of it; try again shortly"
                                               : "the sandbox is still not ready; try again");
    return 0;
}

/* The env was changed since the channel, or the last command through it, got it. */
static int renew_env(const sbx_use *u, const sbx_sandbox_row *row, sbx_err *err)
{
    const sbx_use_parts *c = u->parts;
    uint64_t version;
    sbx_pairs env = {0};

    if (!sbx_channels_env_version(c->channels, row->id, &version) || version >= row->env_version)
        return 0;
    if (sbx_store_sandbox_env(c->store, row->id, &env, err))
        return -1;
    sbx_channels_env(c->channels, row->id, row->env_version, &env);
    return 0;
}

/* Whoever was faster has done the same, or the next look tells what he did. */
static void run_resume(void *arg)
{
    sbx_use *u = arg;
    sbx_move resume = {.verb = SBX_V_RESUME};
    sbx_sandbox_row row = {0};
    sbx_err err;
    int rc = sbx_sandbox_move(u->parts->sandboxes, u->owner, u->sandbox, &resume, &row, &err);

    sbx_sandbox_row_done(&row);
    if (rc >= 0 || err.code == SBX_E_CONFLICT)
        submit_attempt(u);
    else
        tell(u, &err);
}

/* Once for a request: if it comes to nothing, the holder may be dying, and this worker will adopt
 * the sandbox. */
static void run_bridge(void *arg)
{
    sbx_use *u = arg;
    sbx_err err;

    if (sbx_sandbox_bridge(u->parts->sandboxes, u->owner, u->sandbox, &err))
        sbx_log_err(SBX_DEBUG, "no bridge to a sandbox", &err, "sandbox", u->sandbox, NULL);
    submit_attempt(u);
}

/* @return 1 ready, 0 it was passed on, -1. */
static int attempt(sbx_use *u, sbx_err *err)
{
    sbx_sandbox_row row = {0};

    if (u->cancelled && atomic_load(u->cancelled))
        return sbx_fail(err, SBX_E_CANCELLED, "the client went away");
    if (sbx_store_sandbox_get(u->parts->store, u->owner, u->sandbox, &row, err))
        return -1;
    int go = may_use(u, &row, err);

    /* If it is just being frozen, what was read of it is old already. */
    if (go >= 0 && !u->reading && !u->counted)
        u->counted = sbx_ledger_use(sbx_sandboxes_ledger(u->parts->sandboxes), row.id);
    if (go > 0 && !u->reading && !u->counted)
        go = 0;
    u->started_ms = row.started_ms;
    bool frozen = strcmp(row.state, "paused") == 0;
    bool bridge = !u->bridged && strcmp(row.state, "running") == 0 &&
                  !sbx_channels_has(u->parts->channels, row.id);
    if (go > 0 && renew_env(u, &row, err))
        go = -1;
    sbx_sandbox_row_done(&row);
    if (go == 0 && frozen)
        submit(u, SBX_LANE_SLOW, run_resume);
    else if (go == 0 && bridge) {
        u->bridged = true;
        submit(u, SBX_LANE_SLOW, run_bridge);
    } else if (go == 0)
        sbx_stream_post(u->parts->stream, wait_on_stream, u);
    return go;
}

static void run_attempt(void *arg)
{
    sbx_use *u = arg;
    sbx_err err;
    int go = attempt(u, &err);

    if (go != 0)
        tell(u, go < 0 ? &err : NULL);
}

void sbx_sandbox_use(sbx_use *u)
{
    u->from_ms = sbx_now_ms();
    u->running_ms = 0;
    u->bridged = u->counted = false;
    run_attempt(u);
}
