/* Reaching a sandbox that another worker holds: through the engine, which runs the agent's program
 * inside, which carries the bytes to the agent. The lease stays where it is. */
#include "sandboxes_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"

/* The sandbox is kept awake until the program inside has answered, which the engine can only have
 * started then. Where it does not answer, the engine may still be about to start it: the calls are
 * given up so early, whatever --engine-timeout allows, that it has a while left for that. */
#define AWAKE_S      30
#define ATTACH_MS    10000 /* for both calls of the engine */
#define BRIDGE_EPOCH 1     /* of its own: nobody else greets on this connection */

_Static_assert(AWAKE_S * 1000 >= ATTACH_MS + SBX_GREETING_MS + 10000,
               "a sandbox must not be paused while the engine starts a program in it");

static int open_bridge(sbx_sandboxes *s, const sbx_sandbox_row *row, sbx_greeting **ret,
                       sbx_err *err)
{
    static const char *const argv[] = {SBX_AGENT_PROGRAM, "connect", NULL};
    sbx_channel_hello hello = {.epoch = BRIDGE_EPOCH,
                               .image_user = row->image_user ? row->image_user : "",
                               .env_version = row->env_version,
                               .adopted = true,
                               .bridge = true};
    char name[SBX_ID_LEN + 8];
    sbx_engine_conn *conn;
    sbx_pairs env = {0};

    sbx_sandbox_container(row->id, name);
    memcpy(hello.sandbox, row->id, sizeof(hello.sandbox));
    memcpy(hello.token, row->token, sizeof(hello.token));
    /* An engine that is told to pause a container while it starts something in it may never do
     * either. */
    if (sbx_store_sandbox_awake(s->c.store, row->id, AWAKE_S, err) ||
        sbx_store_sandbox_env(s->c.store, row->id, &env, err))
        return -1;
    sbx_job_scope(sbx_now_ms() + SBX_MIN(sbx_job_left_ms(ATTACH_MS), ATTACH_MS), NULL);
    int rc = s->c.engine->ops->exec_attach(s->c.engine, name, argv, &conn, err);

    sbx_job_scope(0, NULL);
    if (!rc)
        *ret = sbx_channels_open(s->c.channels, &hello, &env, conn);
    sbx_pairs_done(&env);
    return rc;
}

int sbx_sandbox_bridge(sbx_sandboxes *s, const char *owner, const char *id, sbx_err *err)
{
    sbx_sandbox_row row = {0};
    sbx_greeting *g = NULL;
    sbx_err later;

    if (sbx_store_sandbox_get(s->c.store, owner, id, &row, err))
        return -1;
    int rc =
        strcmp(row.state, "running") != 0 || !*row.worker || strcmp(row.worker, s->c.worker) == 0
            ? sbx_fail(err, SBX_E_CONFLICT, "there is no other worker to bridge")
            : open_bridge(s, &row, &g, err);
    sbx_sandbox_row_done(&row);
    if (rc || sbx_greeting_wait(g, SBX_GREETING_MS, err))
        return -1; /* the engine may be at it still */
    if (sbx_store_sandbox_awake(s->c.store, id, 0, &later))
        sbx_log_err(SBX_DEBUG, "a sandbox may be paused only later", &later, "sandbox", id, NULL);
    return 0;
}
