/* Reads of the history for viewers: one at a time per room, on the fast lane.
 *
 * There are two kinds. A tail read finds where the newest N lines of each source begin, for viewers
 * that have just come without a position; a since read gets what follows the lowest position that
 * no segment covers; they take turns if both are needed. Either gives the room a page, from which
 * every viewer it fits is served. A read also settles the epochs: a viewer that joined, or may have
 * missed a message, needs one read that began later.
 *
 * The reads of a room begin SBX_LOG_BATCH_MS apart at least, so a crowd that comes together shares
 * a few of them; a tail read takes no more lines than somebody asked for. */
#include "hub.h"
#include "sbx/core/clock.h"

typedef struct fetch {
    sbx_logs *hub;
    char id[SBX_ID_LEN + 1];
    uint64_t serial;
    uint32_t epoch;
    bool tail;
    bool patient;          /* the history may be filled again: no gap yet */
    size_t want;           /* tail: lines, at most */
    uint64_t since, known; /* known: in the history, if it has not been dropped since */
    /* the result */
    int rc;
    sbx_err err;
    segment page;
    bool complete;   /* there was nothing behind the page */
    bool is_short;   /* what was known is not there, and may come again */
    uint64_t last;   /* the highest number of the history, as far as it was seen */
    seg_item *index; /* tail: all items, without their text */
    size_t index_count;
} fetch;

static void fetch_free(fetch *f)
{
    seg_done(&f->page);
    free(f->index);
    free(f);
}

/* --- WORKER --- */

static void index_items(fetch *f, const sbx_bus_item *items, size_t count)
{
    size_t bytes = 0, from = count;

    f->index = sbx_alloc((count + 1) * sizeof *f->index);
    f->index_count = count;
    for (size_t i = 0; i < count; i++)
        f->index[i] = (seg_item){.seq = items[i].seq,
                                 .source = (uint8_t)log_item_source(items[i].data, items[i].len)};
    while (from > 0 && bytes + items[from - 1].len <= FETCH_BYTES)
        bytes += items[--from].len;
    seg_start(&f->page, from < count ? items[from].seq - 1 : f->known);
    for (size_t i = from; i < count; i++)
        if (log_item_ok(items[i].data, items[i].len))
            seg_add(&f->page, &items[i]);
    f->complete = true;
    f->last = count > 0 ? items[count - 1].seq : 0;
}

/* Nobody wants a line of what there is: where it ends is enough. */
static int read_end(fetch *f, const char *topic)
{
    sbx_bus *bus = f->hub->cfg.bus;

    if (bus->ops->last_seq(bus, topic, &f->last, &f->err) < 0)
        return -1;
    seg_start(&f->page, SBX_MAX(f->last, f->known));
    f->complete = true;
    return 0;
}

static int read_tail(fetch *f, const char *topic)
{
    sbx_bus *bus = f->hub->cfg.bus;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(INDEX_BYTES);
    sbx_bus_item *items = NULL;
    size_t count = 0;

    if (f->want == 0)
        return read_end(f, topic);
    if (bus->ops->history(bus, topic, 0, 0, f->want, true, &items, &count, &text, &f->err) < 0)
        return -1;
    index_items(f, items, count);
    free(items);
    return 0;
}

static int read_since(fetch *f, const char *topic)
{
    sbx_bus *bus = f->hub->cfg.bus;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(FETCH_BYTES);
    sbx_bus_item *items = NULL;
    size_t count = 0;

    if (bus->ops->history(bus, topic, f->since, 0, SBX_LOG_HISTORY_LINES, false, &items, &count,
                          &text, &f->err) < 0)
        return -1;
    f->complete = count < SBX_LOG_HISTORY_LINES && text.len + LOG_ITEM_BYTES <= text.max;
    f->last = count > 0 ? items[count - 1].seq : 0;
    seg_start(&f->page, f->since);
    for (size_t i = 0; i < count; i++)
        if (log_item_ok(items[i].data, items[i].len))
            seg_add(&f->page, &items[i]);
    if (count > 0)
        f->page.upto = f->last;
    free(items);
    return count > 0 ? 0 : bus->ops->last_seq(bus, topic, &f->last, &f->err);
}

static void fetch_done(void *arg);

static void fetch_run(void *arg)
{
    fetch *f = arg;
    char topic[TOPIC_BYTES];

    log_topic(topic, f->id);
    f->rc = f->tail ? read_tail(f, topic) : read_since(f, topic);
    f->is_short = f->rc == 0 && f->complete && f->last < f->known && f->patient;
    if (f->rc == 0 && f->complete && !f->is_short)
        f->page.upto = SBX_MAX(f->page.upto, f->known);
    sbx_stream_post(f->hub->cfg.stream, fetch_done, f);
}

/* --- STREAM --- */

/* The lines among which a viewer's begin. Those of one source may be anywhere. */
static size_t tail_of(const viewer *v)
{
    return v->source == SBX_LOGS_ALL ? (size_t)v->tail : SBX_LOG_HISTORY_LINES;
}

/* Where the newest `tail` lines of the viewer's source begin. */
static void settle_start(viewer *v, const fetch *f)
{
    size_t left = (size_t)v->tail, i = f->index_count;
    uint64_t pos;

    while (i > 0 && left > 0) {
        i--;
        left -= v->source == SBX_LOGS_ALL || f->index[i].source == v->source;
    }
    pos = i < f->index_count ? f->index[i].seq - 1 : SBX_MAX(f->last, f->page.upto);
    v->pos = v->floored ? SBX_MIN(pos, v->pos) : pos;
    v->anchored = v->pos > 0 || f->index_count > 0;
    v->starting = false;
}

/* A read that began before the viewer came will do: it begins a little further back. False if it
 * took too few lines for this one. */
static bool settle_tail(viewer *v, const fetch *f)
{
    if (tail_of(v) <= f->want) {
        settle_start(v, f);
        return true;
    }
    if (!v->floored)
        v->pos = f->last;
    v->floored = v->pos > 0 || v->floored;
    return false;
}

/* What was known before the history could not be read is no measure any more. */
static void forget_floors(room *r)
{
    viewer *v;

    DL_FOREACH (r->viewers, v) {
        v->floored = false;
    }
}

static void settle(room *r, const fetch *f)
{
    viewer *v;

    DL_FOREACH (r->viewers, v) {
        if (v->starting != f->tail || (f->tail && !settle_tail(v, f)))
            continue;
        if (v->epoch == 0 || v->epoch > f->epoch || (!f->tail && v->pos < f->since))
            continue;
        v->epoch = 0;
        /* A number from the future starts at the end. With no history at all it may be right. */
        if (f->complete && r->latest > 0 && v->pos > r->latest)
            v->pos = r->latest;
    }
}

static fetch *fetch_new(room *r)
{
    fetch *f = sbx_alloc(sizeof *f);
    bool tail = false, since = false;
    const viewer *v;

    f->hub = r->hub;
    f->serial = r->serial;
    f->epoch = r->epoch;
    f->known = r->latest;
    f->patient = !r->ending && (!r->short_ms || sbx_now_ms() - r->short_ms < REFILL_MS);
    f->since = UINT64_MAX;
    (void)sbx_copy(f->id, sizeof f->id, r->id);
    DL_FOREACH (r->viewers, v) {
        if (!viewer_lacks(v))
            continue;
        tail = tail || v->starting;
        since = since || !v->starting;
        if (v->starting)
            f->want = SBX_MAX(f->want, tail_of(v));
        else
            f->since = SBX_MIN(f->since, v->pos);
    }
    f->tail = tail && !(since && r->tail_last);
    r->tail_last = f->tail;
    return f;
}

void fetch_wait_no_more(room *r)
{
    if (!r->waiting)
        return;
    DL_DELETE2(r->hub->waiting, r, wait_prev, wait_next);
    r->waiting = false;
}

static void submit(room *r, int64_t now)
{
    fetch *f = fetch_new(r);
    sbx_job job = {.run = fetch_run, .arg = f, .deadline_ms = now + 10000};
    sbx_err err;

    if (sbx_lanes_submit(r->hub->cfg.lanes, SBX_LANE_FAST, &job, &err) < 0) {
        fetch_free(f);
        r->read_ms = now + RETRY_MS;
        room_schedule(r, RETRY_MS);
        return;
    }
    r->read_ms = now + SBX_LOG_BATCH_MS;
    r->fetching = true;
    r->hub->fetching++;
}

void fetch_start_if_needed(room *r)
{
    const viewer *v;
    bool needed = false;
    int64_t now = sbx_now_ms();

    DL_FOREACH (r->viewers, v) {
        needed = needed || viewer_lacks(v);
    }
    if (!needed || r->fetching || r->waiting || r->hub->stopping)
        return;
    if (now < r->read_ms) {
        room_schedule(r, r->read_ms - now);
        return;
    }
    if (r->hub->fetching < FETCHES_MAX) {
        submit(r, now);
    } else {
        DL_APPEND2(r->hub->waiting, r, wait_prev, wait_next);
        r->waiting = true;
    }
}

static void fetch_done(void *arg)
{
    fetch *f = arg;
    sbx_logs *l = f->hub;
    room *r = room_find(l, f->id);

    l->fetching--;
    if (r && r->serial == f->serial) {
        r->fetching = false;
        if (f->rc < 0 || f->is_short) {
            r->read_ms = sbx_now_ms() + RETRY_MS;
            forget_floors(r);
        }
        if (f->is_short && !r->short_ms)
            r->short_ms = sbx_now_ms();
        else if (f->rc == 0 && f->last >= f->known)
            r->short_ms = 0;
        if (f->rc == 0 && r->viewers && !(f->is_short && f->tail)) {
            r->latest = SBX_MAX(r->latest, f->last);
            if (r->ending)
                r->end_seq = r->latest;
            seg_done(&r->page);
            r->page = f->page;
            f->page = (segment){0};
            if (!f->is_short)
                settle(r, f);
        }
        if (r->viewers)
            room_schedule(r, 0);
    }
    fetch_free(f);
    count_up(&l->n_fetches, 1);
    if (l->waiting) {
        r = l->waiting;
        fetch_wait_no_more(r);
        fetch_start_if_needed(r);
    }
}
