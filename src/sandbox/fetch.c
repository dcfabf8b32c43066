/* Images that are fetched before anybody asks: those of the templates. They stand behind what users
 * wait for; a create that wants one meanwhile shares its pull. And what those who wait for any
 * image are told of its progress: events.
 *
 * Threads: STREAM owns the list; sandbox_fetch_image() posts to it from any thread. */
#include "sandboxes_priv.h"

#include "sbx/core/log.h"
#include "sbx/core/thread.h"

typedef struct fetch_one {
    sbx_fetches *f;
    struct fetch_one *next;
    sbx_image_wait wait;
    char image[SBX_MAX_IMAGE_BYTES + 1];
} fetch_one;

struct sbx_fetches { /* STREAM, but for s */
    sbx_sandboxes *s;
    fetch_one *first; /* under way; at most one for each template, by their images */
};

sbx_fetches *sandbox_fetches_new(sbx_sandboxes *s)
{
    sbx_fetches *f = sbx_alloc(sizeof(*f));

    f->s = s;
    return f;
}

void sandbox_fetches_free(sbx_fetches *f)
{
    if (!f)
        return;
    for (fetch_one *next; f->first; f->first = next) {
        next = f->first->next;
        free(f->first);
    }
    free(f);
}

static void fetch_over(sbx_image_wait *w, const sbx_err *err)
{
    fetch_one *one = sbx_container_of(w, fetch_one, wait);
    sbx_fetches *f = one->f;
    fetch_one **at = &f->first;

    if (err)
        sandbox_pool_no_image(f->s->pools, one->image, err);
    while (*at != one)
        at = &(*at)->next;
    *at = one->next;
    free(one);
}

static void fetch_on_stream(void *arg)
{
    fetch_one *one = arg, **at = &one->f->first;
    sbx_fetches *f = one->f;

    for (; *at; at = &(*at)->next)
        if (strcmp((*at)->image, one->image) == 0) {
            free(one);
            return;
        }
    *at = one;
    one->wait =
        (sbx_image_wait){.image = one->image, .sandbox = "", .ahead = true, .done = fetch_over};
    sbx_images_want(f->s->images, &one->wait); /* it may be over, and gone, from here on */
}

void sandbox_fetch_image(sbx_sandboxes *s, const char *image)
{
    fetch_one *one = sbx_alloc(sizeof(*one));

    one->f = s->fetches;
    sbx_copy(one->image, sizeof(one->image), image);
    sbx_stream_post(s->c.stream, fetch_on_stream, one);
}

int sbx_sandboxes_prefetch(sbx_sandboxes *s, sbx_err *err)
{
    for (size_t i = 0; i < s->template_count; i++) {
        SBX_CLEANUP(sbx_free_str) char *user = NULL;
        int rc = sandbox_look_at_image(s, s->templates[i].image, &user, err);

        if (rc < 0)
            return -1;
        if (rc)
            sandbox_fetch_image(s, s->templates[i].image);
    }
    return 0;
}

/* --- what is told of pulls --- */

typedef struct news {
    sbx_sandboxes *s;
    size_t count;
    char text[SBX_MAX_IMAGE_BYTES + 128];
    char ids[][SBX_ID_LEN + 1];
} news;

static void write_news(void *arg)
{
    news *n = arg;
    const char **ids = sbx_alloc(n->count * sizeof(*ids));
    sbx_err err;

    for (size_t i = 0; i < n->count; i++)
        ids[i] = n->ids[i];
    if (sbx_store_sandbox_pulling(n->s->c.store, ids, n->count, n->text, &err))
        sbx_log_err(SBX_WARN, "the progress of a pull was not recorded", &err, NULL);
    free(ids);
    free(n);
}

void sandbox_pull_progress(void *arg, const sbx_image_wait *first, const char *text)
{
    sbx_sandboxes *s = arg;
    news *n = sbx_alloc(sizeof(*n) + SBX_MAX_PULL_WAITS * sizeof(n->ids[0]));
    sbx_job job = {.run = write_news, .arg = n};
    sbx_err err;

    n->s = s;
    sbx_copy(n->text, sizeof(n->text), text);
    for (const sbx_image_wait *w = first; w && n->count < SBX_MAX_PULL_WAITS; w = w->next)
        if (*w->sandbox)
            sbx_copy(n->ids[n->count++], sizeof(n->ids[0]), w->sandbox);
    if (!n->count || sbx_lanes_submit(s->c.lanes, SBX_LANE_REAP, &job, &err))
        free(n);
}
