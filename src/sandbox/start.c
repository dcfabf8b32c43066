/* Starting what was stopped or failed: the same container again, or a new one. The row is in state
 * `starting` already. Two waits hold no thread: for an image that the engine does not have, and
 * until the sandbox is ready. */
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
    int rc = sandbox_bring_up(s, row, &env, NULL, err);
    sbx_pairs_done(&env);
    return rc;
}

/* The main process comes first where the sandbox is to be ready, which is mostly its work. */
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
    if (!row->readiness)
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
    sbx_sandbox_leave(s, row->id, &err);
}

/* --- the waits --- */

typedef struct waiter { /* STREAM's, then the job's */
    sbx_sandboxes *s;
    char sandbox[SBX_ID_LEN + 1], image[SBX_MAX_IMAGE_BYTES + 1];
    sbx_image_wait wait;
    bool up, fresh; /* up: it runs, and is to be ready; else the image is waited for */
    char *readiness, *image_user;
    char container_id[65];
    sbx_err err; /* code SBX_OK: what was waited for is there */
} waiter;

static void waiter_free(waiter *w)
{
    free(w->readiness);
    free(w->image_user);
    free(w);
}

static int start_now(sbx_sandboxes *s, sbx_sandbox_row *row, bool waited, sbx_err *err);

/* Ready, or not: the row does not know the new container yet. */
static void go_on_up(waiter *w, sbx_sandbox_row *row)
{
    sbx_err err = w->err;

    memcpy(row->container_id, w->container_id, sizeof(row->container_id));
    free(row->image_user);
    row->image_user = sbx_strdup(w->image_user);
    if (err.code == SBX_OK && sandbox_started(w->s, row, &err) == 0)
        return;
    start_failed(w->s, row, w->fresh, &err);
}

static void go_on(waiter *w, sbx_sandbox_row *row)
{
    sbx_err err = w->err;

    if (strcmp(row->state, "starting") != 0 || strcmp(row->worker, w->s->c.worker) != 0)
        return;
    if (w->up) {
        go_on_up(w, row);
        return;
    }
    if (err.code == SBX_OK) {
        if (start_now(w->s, row, true, &err))
            sbx_log_err(SBX_WARN, "a start failed", &err, "sandbox", row->id, NULL);
        return;
    }
    if (err.code == SBX_E_NOT_FOUND || err.code == SBX_E_INVALID)
        sbx_err_set_field(&err, "image", "image: %s", w->err.msg);
    start_failed(w->s, row, true, &err);
}

static void run_after_wait(void *arg)
{
    waiter *w = arg;
    sbx_sandbox_row row = {0};
    sbx_err err;

    if (sbx_store_sandbox_get(w->s->c.store, NULL, w->sandbox, &row, &err))
        sbx_log_err(SBX_WARN, "a start waits for its deadline", &err, "sandbox", w->sandbox, NULL);
    else
        go_on(w, &row);
    sbx_sandbox_row_done(&row);
    waiter_free(w);
}

/* On STREAM. When the lanes take no more, the server is ending: the next one settles the row. */
static void submit_after_wait(void *arg)
{
    waiter *w = arg;
    sbx_job job = {.run = run_after_wait, .arg = w};
    sbx_err err;

    if (sbx_lanes_submit(w->s->c.lanes, SBX_LANE_SLOW, &job, &err) == 0)
        return;
    if (sbx_images_stopped(w->s->images))
        waiter_free(w);
    else
        (void)sbx_timer_new(w->s->c.stream, RETRY_MS, submit_after_wait, w);
}

static void image_over(sbx_image_wait *wait, const sbx_err *err)
{
    waiter *w = sbx_container_of(wait, waiter, wait);

    if (err)
        w->err = *err;
    submit_after_wait(w);
}

static void ready_over(void *arg, const sbx_err *err)
{
    waiter *w = arg;

    if (err)
        w->err = *err;
    submit_after_wait(w);
}

static void want_on_stream(void *arg)
{
    waiter *w = arg;

    w->wait = (sbx_image_wait){.image = w->image, .sandbox = w->sandbox, .done = image_over};
    sbx_images_want(w->s->images, &w->wait);
}

static void ready_on_stream(void *arg)
{
    waiter *w = arg;

    sbx_checks_await(w->s->c.checks, w->sandbox, w->readiness, ready_over, w);
}

static waiter *waiter_new(sbx_sandboxes *s, const sbx_sandbox_row *row)
{
    waiter *w = sbx_alloc(sizeof(*w));

    w->s = s;
    memcpy(w->sandbox, row->id, sizeof(w->sandbox));
    return w;
}

static void wait_for_image(sbx_sandboxes *s, const sbx_sandbox_row *row)
{
    waiter *w = waiter_new(s, row);

    sbx_copy(w->image, sizeof(w->image), row->image);
    sbx_stream_post(s->c.stream, want_on_stream, w);
}

static void wait_until_ready(sbx_sandboxes *s, const sbx_sandbox_row *row, bool fresh)
{
    waiter *w = waiter_new(s, row);

    w->up = true;
    w->fresh = fresh;
    w->readiness = sbx_strdup(row->readiness);
    w->image_user = sbx_strdup(row->image_user ? row->image_user : "");
    memcpy(w->container_id, row->container_id, sizeof(w->container_id));
    sandbox_start_main(s, row);
    sbx_stream_post(s->c.stream, ready_on_stream, w);
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
    if (!rc && row->readiness) {
        wait_until_ready(s, row, fresh);
        return 1;
    }
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
