/* Reaching a sandbox that another worker holds: through the engine, which runs the agent's program
 * inside, which carries the bytes to the agent. The lease stays where it is. */
#include "sandboxes_priv.h"

#define BRIDGE_EPOCH 1 /* of its own: nobody else greets on this connection */

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
    if (sbx_store_sandbox_env(s->c.store, row->id, &env, err))
        return -1;
    int rc = s->c.engine->ops->exec_attach(s->c.engine, name, argv, &conn, err);
    if (!rc)
        *ret = sbx_channels_open(s->c.channels, &hello, &env, conn);
    sbx_pairs_done(&env);
    return rc;
}

int sbx_sandbox_bridge(sbx_sandboxes *s, const char *owner, const char *id, sbx_err *err)
{
    sbx_sandbox_row row = {0};
    sbx_greeting *g = NULL;

    if (sbx_store_sandbox_get(s->c.store, owner, id, &row, err))
        return -1;
    int rc =
        strcmp(row.state, "running") != 0 || !*row.worker || strcmp(row.worker, s->c.worker) == 0
            ? sbx_fail(err, SBX_E_CONFLICT, "there is no other worker to bridge")
            : open_bridge(s, &row, &g, err);
    sbx_sandbox_row_done(&row);
    return rc ? -1 : sbx_greeting_wait(g, SBX_GREETING_MS, err);
}
