/* Starting what was stopped or failed: the same container again, or a new one. The row is in state
 * `starting` already. */
#include "sandboxes_priv.h"

#include "sbx/core/log.h"
#include "sbx/core/thread.h"

#define RETRY_MS 100 /* until the lane has room again */

static int run_again(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    sandbox_network net;
    sbx_greeting *g;

    if (sandbox_network_begin(s, row, &net, err) || sandbox_connect_again(s, row, false, &g, err))
        return -1;
    if (sandbox_engine(s, s->c.engine->ops->start, row->id, err)) {
        sbx_err ignored;

        sbx_channels_close(s->c.channels, row->id, SBX_E_ENGINE);
        (void)!sbx_greeting_wait(g, 1000, &ignored);
        return -1;
    }
    return sbx_greeting_wait(g, SBX_GREETING_MS, err) || sandbox_network_confirm(s, row, &net, err)
               ? -1
               : 0;
}

/* @return 0, 1 if the image is to be fetched first, -1. */
static int run_anew(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    sbx_pairs env = {0};
    int missing = sandbox_look_at_image(s, row->image, &row->image_user, err);

    if (missing)
        return missing;
    if (sandbox_remove_container(s, row->id, err) ||
        sbx_store_sandbox_take(s->c.store, row->id, s->c.worker, &row->epoch, err) ||
        sbx_store_sandbox_env(s->c.store, row->id, &env, err))
        return -1;
    int rc = sandbox_bring_up(s, row, &env, err);
    sbx_pairs_done(&env);
    return rc;
}

int sandbox_started(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    move m = {.to = SBX_S_RUNNING,
              .worker = s->c.worker,
              .container_id = row->container_id,
              .image_user = row->image_user,
              .goal = "",
              .started = true,
              .why.exit_code = -1};

    if (sandbox_set_state(s, row, &m, err))
        return -1;
    sandbox_start_main(s, row);
    return 0;
}

/* Back to where a start may be tried again: stopped if the files are there, failed if not. If
 * somebody else has moved the row on, what is running belongs to him, unless it was deleted. */
static void start_failed(sbx_sandboxes *s, sbx_sandbox_row *row, bool fresh, const sbx_err *why)
{
    move back = {
        .to = fresh ? SBX_S_FAILED : SBX_S_STOPPED,
        .worker = "",
        .expiry = SBX_EXPIRY_NONE,
        .why = {sandbox_failure_code(why), sandbox_public_reason(why, row->id), -1, false}};
    sbx_err err = {0};

    if (sandbox_set_state(s, row, &back, &err) == 0) {
        sbx_channels_close(s->c.channels, row->id, SBX_E_ENGINE);
        if (fresh ? sandbox_remove_container(s, row->id, &err)
                  : sandbox_engine_stop(s, row->id, 0, &err))
            sbx_log_err(SBX_WARN, "a container that did not start stays", &err, "sandbox", row->id,
                        NULL);
        return;
    }
    if (err.code == SBX_E_CONFLICT)
        sandbox_too_late(s, row);
}

/* --- an image that the engine does not have --- */

typedef struct image_waiter { /* STREAM's, then the job's */
    sbx_sandboxes *s;
    char sandbox[SBX_ID_LEN + 1], image[SBX_MAX_IMAGE_BYTES + 1];
    sbx_image_wait wait;
    sbx_err err; /* code SBX_OK: the image is there */
} image_waiter;

static int start_now(sbx_sandboxes *s, sbx_sandbox_row *row, bool waited, sbx_err *err);

static void go_on(image_waiter *w, sbx_sandbox_row *row)
{
    sbx_err err = w->err;

    if (strcmp(row->state, "starting") != 0 || strcmp(row->worker, w->s->c.worker) != 0)
        return;
    if (err.code == SBX_OK) {
        if (start_now(w->s, row, true, &err))
            sbx_log_err(SBX_WARN, "a start failed", &err, "sandbox", row->id, NULL);
        return;
    }
    if (err.code == SBX_E_NOT_FOUND || err.code == SBX_E_INVALID)
        sbx_err_set_field(&err, "image", "image: %s", w->err.msg);
    start_failed(w->s, row, true, &err);
}

static void run_after_image(void *arg)
{
    image_waiter *w = arg;
    sbx_sandbox_row row = {0};
    sbx_err err;

    if (sbx_store_sandbox_get(w->s->c.store, NULL, w->sandbox, &row, &err))
        sbx_log_err(SBX_WARN, "a start waits for its deadline", &err, "sandbox", w->sandbox, NULL);
    else
        go_on(w, &row);
    sbx_sandbox_row_done(&row);
    free(w);
}

/* On STREAM. When the lanes take no more, the server is ending: the next one settles the row. */
static void submit_after_image(void *arg)
{
    image_waiter *w = arg;
    sbx_job job = {.run = run_after_image, .arg = w};
    sbx_err err;

    if (sbx_lanes_submit(w->s->c.lanes, SBX_LANE_SLOW, &job, &err) == 0)
        return;
    if (sbx_images_stopped(w->s->images))
        free(w);
    else
        (void)sbx_timer_new(w->s->c.stream, RETRY_MS, submit_after_image, w);
}

static void image_over(sbx_image_wait *wait, const sbx_err *err)
{
    image_waiter *w = sbx_container_of(wait, image_waiter, wait);

    if (err)
        w->err = *err;
    submit_after_image(w);
}

static void want_on_stream(void *arg)
{
    image_waiter *w = arg;

    w->wait = (sbx_image_wait){.image = w->image, .sandbox = w->sandbox, .done = image_over};
    sbx_images_want(w->s->images, &w->wait);
}

static void wait_for_image(sbx_sandboxes *s, const sbx_sandbox_row *row)
{
    image_waiter *w = sbx_alloc(sizeof(*w));

    w->s = s;
    memcpy(w->sandbox, row->id, sizeof(w->sandbox));
    sbx_copy(w->image, sizeof(w->image), row->image);
    sbx_stream_post(s->c.stream, want_on_stream, w);
}

/* --- the whole --- */

static int start_now(sbx_sandboxes *s, sbx_sandbox_row *row, bool waited, sbx_err *err)
{
    sbx_container_info info;
    bool fresh = strcmp(row->goal, "fresh") == 0;
    fate how = FATE_GONE;
    int rc = fresh ? 0 : sandbox_look(s, row->id, &info, &how, err);

    fresh = fresh || how == FATE_GONE;
    if (!rc && !fresh)
        sbx_copy(row->container_id, sizeof(row->container_id), info.id);
    if (!rc)
        rc = fresh ? run_anew(s, row, err) : run_again(s, row, err);
    if (rc == 1 && !waited) {
        wait_for_image(s, row);
        return 1;
    }
    if (rc == 1)
        rc = sbx_fail(err, SBX_E_ENGINE, "image %s is not on the engine though it was just pulled",
                      row->image);
    if (!rc)
        rc = sandbox_started(s, row, err);
    if (rc)
        start_failed(s, row, fresh, err);
    return rc;
}

int sandbox_start(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *err)
{
    return start_now(s, row, false, err);
}
