/* Reads of the table for viewers: one at a time per room, READS_MAX in all, on the fast lane; and
 * the poll, one statement for all rooms, which finds what no signal told.
 *
 * Viewers that lag are at many positions. Reads serve in turns those that are furthest ahead and
 * the one that is furthest back, so that no crowd that reads old events keeps the others from new
 * ones, and the last in line moves as well. */
#include "hub.h"
#include "sbx/core/clock.h"

static void reading_free(reading *f)
{
    sbx_event_page_done(&f->page);
    sbx_buf_done(&f->text);
    free(f->ends);
    free(f);
}

/* --- WORKER --- */

static void read_done(void *arg);

static void read_run(void *arg)
{
    reading *f = arg;
    sbx_event_filter filter = {.owner = f->owner, .since = f->since, .limit = READ_EVENTS};
    sbx_err err;

    f->rc = sbx_store_event_list(f->hub->cfg.store, &filter, &f->page, &err);
    sbx_buf_init(&f->text, MIB);
    if (f->rc == 0 && f->page.count > 0)
        f->ends = sbx_alloc(f->page.count * sizeof *f->ends);
    while (f->rc == 0 && f->count < f->page.count && f->text.len < READ_BYTES) {
        event_json(&f->text, &f->page.items[f->count]);
        f->ends[f->count++] = f->text.len;
    }
    if (sbx_buf_failed(&f->text))
        f->rc = -1;
    /* With no event at all behind `since`, those up to `last` are gone. */
    f->upto = f->count ? f->page.items[f->count - 1].seq : f->page.last;
    sbx_stream_post(f->hub->cfg.stream, read_done, f);
}

/* --- STREAM --- */

/* Numbers beyond the end: of a client that made them up, or of a database that was restored. */
static void correct(room *r, const reading *f)
{
    viewer *v;

    r->latest = f->page.last < f->known ? f->page.last : SBX_MAX(r->latest, f->page.last);
    DL_FOREACH (r->viewers, v) {
        if (v->joined <= f->joins && v->pos > f->page.last && v->pos > r->latest)
            v->pos = f->page.last;
    }
}

static void read_done(void *arg)
{
    reading *f = arg;
    sbx_events *e = f->hub;
    room *r = NULL;

    e->reading--;
    count_up(&e->n_reads, 1);
    HASH_FIND_STR(e->rooms, f->owner, r);
    if (r && r->serial == f->serial) {
        r->reading = false;
        if (f->rc) {
            r->look = true;
            r->retry_ms = sbx_now_ms() + RETRY_MS;
        } else {
            correct(r, f);
            event_viewers_serve(r, f);
            event_viewers_end(r);
        }
        event_room_schedule(r, 0);
    }
    reading_free(f);
    if (e->waiting) {
        r = e->waiting;
        event_read_wait_no_more(r);
        event_read_if_needed(r);
    }
}

/* Where to read from; false if nobody needs it. */
static bool choose(room *r, uint64_t *ret_since)
{
    const viewer *v;
    uint64_t first = UINT64_MAX, last = 0;
    bool any = false;

    DL_FOREACH (r->viewers, v) {
        if (!event_viewer_lacks(v))
            continue;
        any = true;
        first = SBX_MIN(first, v->pos);
        last = SBX_MAX(last, v->pos);
    }
    if (!any) {
        *ret_since = r->latest;
        return r->look;
    }
    *ret_since = r->behind ? first : last;
    r->behind = !r->behind;
    return true;
}

static void submit(room *r, uint64_t since, int64_t now)
{
    reading *f = sbx_alloc(sizeof *f);
    sbx_job job = {.run = read_run, .arg = f, .deadline_ms = now + READ_MS};
    sbx_err err;

    f->hub = r->hub;
    f->serial = r->serial;
    f->joins = r->joins;
    f->known = r->latest;
    f->since = since;
    (void)sbx_copy(f->owner, sizeof f->owner, r->owner);
    if (sbx_lanes_submit(r->hub->cfg.lanes, SBX_LANE_FAST, &job, &err)) {
        free(f);
        r->retry_ms = now + RETRY_MS;
        event_room_schedule(r, RETRY_MS);
        return;
    }
    r->look = false;
    r->reading = true;
    r->hub->reading++;
}

void event_read_wait_no_more(room *r)
{
    if (!r->waiting)
        return;
    DL_DELETE2(r->hub->waiting, r, wait_prev, wait_next);
    r->waiting = false;
}

void event_read_if_needed(room *r)
{
    int64_t now = sbx_now_ms();
    uint64_t since;

    if (r->reading || r->waiting || r->hub->stopping)
        return;
    if (now < r->retry_ms) {
        event_room_schedule(r, r->retry_ms - now);
        return;
    }
    if (r->hub->reading >= READS_MAX) {
        DL_APPEND2(r->hub->waiting, r, wait_prev, wait_next);
        r->waiting = true;
        return;
    }
    if (choose(r, &since))
        submit(r, since, now);
}

/* --- the poll --- */

typedef struct poll {
    sbx_events *hub;
    int rc;
    size_t count;
    sbx_event_counter counters[];
} poll;

static void poll_done(void *arg)
{
    poll *p = arg;
    sbx_events *e = p->hub;

    e->polling = false;
    for (size_t i = 0; i < p->count && p->rc == 0; i++) {
        room *r = NULL;

        HASH_FIND_STR(e->rooms, p->counters[i].owner, r);
        if (r && p->counters[i].last > r->latest)
            event_room_told(r, p->counters[i].last);
    }
    free(p);
    event_poll_start(e);
}

static void poll_run(void *arg)
{
    poll *p = arg;
    sbx_err err;

    p->rc = sbx_store_event_counters(p->hub->cfg.store, p->counters, p->count, &err);
    sbx_stream_post(p->hub->cfg.stream, poll_done, p);
}

static void poll_now(void *arg)
{
    sbx_events *e = arg;
    size_t count = HASH_COUNT(e->rooms);
    poll *p;
    room *r, *next;
    sbx_err err;

    e->poll_timer = NULL;
    if (count == 0 || e->stopping)
        return;
    p = sbx_alloc(sizeof *p + count * sizeof p->counters[0]);
    p->hub = e;
    HASH_ITER (hh, e->rooms, r, next) {
        (void)sbx_copy(p->counters[p->count++].owner, sizeof r->owner, r->owner);
    }
    sbx_job job = {.run = poll_run, .arg = p, .deadline_ms = sbx_now_ms() + READ_MS};
    if (sbx_lanes_submit(e->cfg.lanes, SBX_LANE_FAST, &job, &err)) {
        free(p);
        event_poll_start(e);
        return;
    }
    e->polling = true;
    count_up(&e->n_polls, 1);
}

void event_poll_start(sbx_events *e)
{
    if (!e->poll_timer && !e->polling && !e->stopping && e->rooms)
        e->poll_timer = sbx_timer_new(e->cfg.stream, e->cfg.poll_ms, poll_now, e);
}
