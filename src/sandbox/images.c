/* See images.h. A fetch is an image and who waits for it, with the engine or in line. */
#include "sbx/sandbox/images.h"

#include "sbx/core/clock.h"
#include "sbx/core/id.h"
#include "sbx/core/limits.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <stdatomic.h>
#include <stdio.h>
#include <sys/epoll.h>

typedef struct sbx_image_fetch {
    sbx_images *i;
    struct sbx_image_fetch *next;
    sbx_image_wait *waits;
    sbx_engine_pull *pull; /* NULL: in line */
    sbx_watch *watch;
    sbx_timer *timer, *tell;
    sbx_pull_progress told;
    int64_t from_ms;
    char image[SBX_MAX_IMAGE_BYTES + 1];
} fetch;

struct sbx_images { /* STREAM */
    sbx_images_config c;
    fetch *first;
    size_t pulls, waits;
    atomic_bool stopped; /* any thread */
};

sbx_images *sbx_images_new(const sbx_images_config *c)
{
    sbx_images *i = sbx_alloc(sizeof(*i));

    i->c = *c;
    return i;
}

void sbx_images_free(sbx_images *i)
{
    free(i);
}

bool sbx_images_stopped(const sbx_images *i)
{
    return atomic_load(&i->stopped);
}

static void count_waits(sbx_images *i, int change)
{
    i->waits += (size_t)change;
    sbx_metrics_set(i->c.metrics, SBX_M_PULL_WAITING, NULL, (double)i->waits);
}

static void count_pull(const fetch *f, const sbx_err *err)
{
    if (!f->pull)
        return;
    sbx_metrics_add(f->i->c.metrics, SBX_M_PULLS, err ? sbx_code_wire(err->code) : "ok", 1);
    if (err)
        sbx_log_err(SBX_WARN, "image not pulled", err, "image", f->image, "after_ms",
                    SBX_NUM(sbx_now_ms() - f->from_ms), NULL);
    else
        sbx_log(SBX_INFO, "image pulled", "image", f->image, "after_ms",
                SBX_NUM(sbx_now_ms() - f->from_ms), NULL);
}

static void unlink_fetch(fetch *f)
{
    fetch **at = &f->i->first;

    while (*at != f)
        at = &(*at)->next;
    *at = f->next;
}

/* Everybody hears it. */
static void end_fetch(fetch *f, const sbx_err *err)
{
    sbx_images *i = f->i;

    count_pull(f, err);
    unlink_fetch(f);
    sbx_watch_free(f->watch);
    sbx_timer_free(f->timer);
    sbx_timer_free(f->tell);
    if (f->pull)
        i->pulls--;
    sbx_engine_pull_close(f->pull);
    while (f->waits) {
        sbx_image_wait *w = f->waits;

        f->waits = w->next;
        w->fetch = NULL;
        count_waits(i, -1);
        w->done(w, err);
    }
    free(f);
}

static void start_queued(sbx_images *i);

static void on_ready(void *arg, uint32_t events)
{
    fetch *f = arg;
    sbx_err err = {0};
    int rc = sbx_engine_pull_step(f->pull, &err);

    (void)events;
    if (!rc)
        return;
    sbx_images *i = f->i;

    end_fetch(f, rc < 0 ? &err : NULL);
    start_queued(i);
}

static void on_timeout(void *arg)
{
    fetch *f = arg;
    sbx_images *i = f->i;
    sbx_err err;

    f->timer = NULL; /* it fired */
    sbx_err_set(&err, SBX_E_TIMEOUT,
                "image %s was not pulled within %lld s (option --pull-timeout)%s", f->image,
                (long long)i->c.timeout_ms / 1000, f->pull ? "" : ": it was still in line");
    end_fetch(f, &err);
    start_queued(i);
}

static void on_tell(void *arg);

/* Those who wait hear how far it is, if that is news. */
static void tell_progress(fetch *f, bool begun)
{
    sbx_images *i = f->i;
    sbx_pull_progress now;
    char text[SBX_MAX_IMAGE_BYTES + 128];

    sbx_engine_pull_progress(f->pull, &now);
    f->tell = sbx_timer_new(i->c.stream, SBX_PULL_TELL_MS, on_tell, f);
    if (!begun && memcmp(&now, &f->told, sizeof(now)) == 0)
        return;
    f->told = now;
    if (begun)
        snprintf(text, sizeof(text), "pulling image %s", f->image);
    else
        snprintf(text, sizeof(text), "pulling image %s: %d of %d layers, %lld of %lld MB", f->image,
                 now.layers_done, now.layers, (long long)(now.bytes / 1000000),
                 (long long)((now.total_bytes + 999999) / 1000000));
    if (i->c.progress)
        i->c.progress(i->c.arg, f->waits, text);
    for (sbx_image_wait *w = f->waits; w; w = w->next)
        if (w->progress)
            w->progress(w, text);
}

static void on_tell(void *arg)
{
    fetch *f = arg;

    f->tell = NULL; /* it fired */
    tell_progress(f, false);
}

static void start(fetch *f)
{
    sbx_images *i = f->i;
    sbx_err err = {0};

    if (i->c.engine->ops->pull(i->c.engine, f->image, &f->pull, &err)) {
        end_fetch(f, &err);
        return;
    }
    i->pulls++;
    if (!f->timer)
        f->timer = sbx_timer_new(i->c.stream, i->c.timeout_ms, on_timeout, f);
    f->watch = sbx_stream_watch(i->c.stream, sbx_engine_pull_fd(f->pull), EPOLLIN, on_ready, f);
    tell_progress(f, true);
}

static bool is_ahead(const fetch *f)
{
    for (const sbx_image_wait *w = f->waits; w; w = w->next)
        if (!w->ahead)
            return false;
    return true;
}

/* The one that waits longest, of those that somebody waits for if there are any. */
static fetch *next_in_line(const sbx_images *i)
{
    fetch *ahead = NULL;

    for (fetch *f = i->first; f; f = f->next) {
        if (f->pull)
            continue;
        if (!is_ahead(f))
            return f;
        if (!ahead)
            ahead = f;
    }
    return ahead;
}

static void start_queued(sbx_images *i)
{
    fetch *f;

    while (i->pulls < SBX_MAX_PULLS && (f = next_in_line(i)))
        start(f);
}

static fetch *fetch_of(sbx_images *i, const char *image)
{
    fetch **at = &i->first;

    for (; *at; at = &(*at)->next)
        if (strcmp((*at)->image, image) == 0)
            return *at;
    fetch *f = sbx_alloc(sizeof(*f));

    f->i = i;
    f->from_ms = sbx_now_ms();
    sbx_copy(f->image, sizeof(f->image), image);
    *at = f;
    return f;
}

static void refuse(sbx_image_wait *w, const char *why)
{
    sbx_err err;

    sbx_err_set(&err, SBX_E_CAPACITY, "%s", why);
    w->done(w, &err);
}

void sbx_images_want(sbx_images *i, sbx_image_wait *w)
{
    SBX_ASSERT_THREAD(SBX_T_STREAM);
    if (sbx_images_stopped(i)) {
        refuse(w, "the server is stopping; try again shortly");
        return;
    }
    if (i->waits >= SBX_MAX_PULL_WAITS) {
        refuse(w, "too many sandboxes wait for their images; try again shortly");
        return;
    }
    fetch *f = fetch_of(i, w->image);

    w->fetch = f;
    w->next = f->waits;
    f->waits = w;
    count_waits(i, 1);
    if (!w->ahead && !f->timer)
        f->timer = sbx_timer_new(i->c.stream, i->c.timeout_ms, on_timeout, f);
    start_queued(i);
}

static void end_wait(sbx_image_wait *w, const sbx_err *err)
{
    fetch *f = w->fetch;
    sbx_images *i = f->i;
    sbx_image_wait **at = &f->waits;

    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    w->fetch = NULL;
    count_waits(i, -1);
    if (!f->waits)
        end_fetch(f, err);
    w->done(w, err);
    start_queued(i);
}

void sbx_images_leave(sbx_image_wait *w)
{
    sbx_err err;

    SBX_ASSERT_THREAD(SBX_T_STREAM);
    if (!w->fetch)
        return;
    sbx_err_set(&err, SBX_E_CANCELLED, "the client left while image %s was pulled", w->image);
    end_wait(w, &err);
}

/* --- messages --- */

typedef struct drop {
    sbx_images *i;
    char sandbox[SBX_ID_LEN + 1];
} drop;

static sbx_image_wait *find_wait(const sbx_images *i, const char *sandbox)
{
    for (const fetch *f = i->first; f; f = f->next)
        for (sbx_image_wait *w = f->waits; w; w = w->next)
            if (sbx_streq(w->sandbox, sandbox))
                return w;
    return NULL;
}

static void drop_on_stream(void *arg)
{
    drop *d = arg;
    sbx_image_wait *w = find_wait(d->i, d->sandbox);
    sbx_err err;

    sbx_err_set(&err, SBX_E_CONFLICT, "the sandbox was deleted while it was created");
    if (w)
        end_wait(w, &err);
    free(d);
}

void sbx_images_drop(sbx_images *i, const char *sandbox)
{
    drop *d = sbx_alloc(sizeof(*d));

    d->i = i;
    sbx_copy(d->sandbox, sizeof(d->sandbox), sandbox);
    sbx_stream_post(i->c.stream, drop_on_stream, d);
}

static void stop_on_stream(void *arg)
{
    sbx_images *i = arg;
    sbx_err err;

    sbx_err_set(&err, SBX_E_CAPACITY, "the server stopped while the image was pulled; try again");
    while (i->first)
        end_fetch(i->first, &err);
}

void sbx_images_stop(sbx_images *i)
{
    atomic_store(&i->stopped, true);
    sbx_stream_post(i->c.stream, stop_on_stream, i);
}
