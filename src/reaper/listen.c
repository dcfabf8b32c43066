/* A thread that listens to the engine's events and has ended sandboxes looked at. What happened
 * while it was not connected is found by a sweep. */
#include "reaper_priv.h"

#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <errno.h>
#include <time.h>

#define RECONNECT_MS 500

static bool on_event(void *arg, const sbx_engine_event *ev)
{
    sbx_reaper *r = arg;

    if (ev && ev->sandbox_id && *ev->sandbox_id &&
        (sbx_streq(ev->action, "die") || sbx_streq(ev->action, "destroy")))
        sbx_reaper_look_at(r, ev->sandbox_id);
    return !atomic_load(&r->stopping);
}

static void pause_ms(int64_t ms)
{
    struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (ms % 1000) * 1000000};

    nanosleep(&t, NULL);
}

static void *listen_loop(void *arg)
{
    sbx_reaper *r = arg;
    bool told = false;
    sbx_err err;

    sbx_thread_set_role(SBX_T_WORKER, "sbx-events");
    while (!atomic_load(&r->stopping)) {
        int rc = r->c.engine->ops->events(r->c.engine, r->c.cluster, 0, on_event, r, &err);

        if (rc && !told)
            sbx_log_err(SBX_WARN, "the engine's events are not heard; trying again", &err, NULL);
        told = rc != 0;
        if (atomic_load(&r->stopping))
            break;
        pause_ms(RECONNECT_MS);
        sbx_keeper_kick(r->keeper, "sweep");
    }
    return NULL;
}

int reaper_listen(sbx_reaper *r, sbx_err *err)
{
    int rc = pthread_create(&r->listener, NULL, listen_loop, r);

    if (rc)
        return sbx_fail(err, SBX_E_INTERNAL, "starting the event listener: %s", strerror(rc));
    r->listening = true;
    return 0;
}

void reaper_listen_stop(sbx_reaper *r)
{
    if (!r->listening)
        return;
    atomic_store(&r->stopping, true);
    pthread_join(r->listener, NULL);
    r->listening = false;
}
