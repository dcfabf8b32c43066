/* Images on their way to the engine: one pull for each, however many wait for it.
 *
 * At most SBX_MAX_PULLS are with the engine at once, whoever asks. Further ones wait in line, those
 * that somebody waits for before those that are fetched ahead; all waits together are bounded by
 * SBX_MAX_PULL_WAITS. A pull that nobody waits for any more is ended.
 *
 * Threads: STREAM, unless said otherwise. */
#ifndef SBX_SANDBOX_IMAGES_H
#define SBX_SANDBOX_IMAGES_H

#include "sbx/engine/engine.h"
#include "sbx/metrics/metrics.h"
#include "sbx/run/stream.h"

typedef struct sbx_images sbx_images;
struct sbx_image_fetch;

/* One who waits; a member of the caller's object, which must live until `done` was called. */
typedef struct sbx_image_wait {
    const char *image;   /* borrowed */
    const char *sandbox; /* whose, "": none; borrowed */
    bool ahead;          /* nobody waits: it is fetched before it is asked for */
    /* The pull has begun, or got on; at most every SBX_PULL_TELL_MS. May be NULL. */
    void (*progress)(struct sbx_image_wait *w, const char *text);
    /* Exactly once, also within sbx_images_want(). `err` is NULL when the image was fetched; else
     * one of sbx_engine_pull_step(), CAPACITY (too many wait, or the server is stopping), TIMEOUT,
     * CANCELLED (left), CONFLICT (the sandbox was deleted). */
    void (*done)(struct sbx_image_wait *w, const sbx_err *err);
    struct sbx_image_fetch *fetch; /* the rest is private: NULL unless it waits */
    struct sbx_image_wait *next;
} sbx_image_wait;

typedef struct sbx_images_config {
    sbx_stream *stream;
    sbx_engine *engine;
    sbx_metrics *metrics; /* may be NULL */
    int64_t timeout_ms;   /* of a pull; the wait in line included, unless all is fetched ahead */
    /* The same as the progress of each, for all who wait together. May be NULL. `first`: a list of
     * waits, by `next`; borrowed. */
    void (*progress)(void *arg, const sbx_image_wait *first, const char *text);
    void *arg;
} sbx_images_config;

#define SBX_PULL_TELL_MS 2000

sbx_images *sbx_images_new(const sbx_images_config *c); /* any thread */
void sbx_images_free(sbx_images *i);                    /* after stop, and STREAM has ended */

/** Wait until the engine has fetched `w->image`, which it does not have. */
void sbx_images_want(sbx_images *i, sbx_image_wait *w);
/** End the wait, if it still lasts: done with CANCELLED. */
void sbx_images_leave(sbx_image_wait *w);
/** End the waits for this sandbox: done with CONFLICT. Any thread. */
void sbx_images_drop(sbx_images *i, const char *sandbox);

/** End all waits, those to come too: done with CAPACITY. Any thread. */
void sbx_images_stop(sbx_images *i);
bool sbx_images_stopped(const sbx_images *i); /* any thread */

#endif
