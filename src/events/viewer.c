/* One client that watches: a position, a filter, and what it is sent. */
#include "hub.h"
#include "sbx/core/clock.h"

#define DELETED "sandbox.deleted"

/* --- leaving --- */

static void show_count(sbx_events *e)
{
    atomic_store(&e->n_viewers, e->viewer_count);
    sbx_metrics_set(e->cfg.metrics, SBX_M_EVENT_VIEWERS, NULL, (double)e->viewer_count);
}

void event_viewer_free(viewer *v)
{
    DL_DELETE(v->room->viewers, v);
    v->hub->viewer_count--;
    show_count(v->hub);
    sbx_reply_unref(v->feed.reply);
    free(v);
}

static void reply_closed(void *arg)
{
    viewer *v = arg;
    room *r = v->room;

    event_viewer_free(v);
    if (!r->viewers)
        event_room_free(r);
}

static void reply_ready(void *arg)
{
    viewer *v = arg;

    v->feed.blocked = false;
    event_room_schedule(v->room, 0);
}

static void on_closed(void *arg)
{
    sbx_stream_post(((viewer *)arg)->hub->cfg.stream, reply_closed, arg);
}

static void on_ready(void *arg)
{
    sbx_stream_post(((viewer *)arg)->hub->cfg.stream, reply_ready, arg);
}

/* --- sending --- */

bool event_viewer_lacks(const viewer *v)
{
    return !v->feed.gone && !v->feed.blocked && v->pos < v->room->latest;
}

/* What viewers of one kind at one place of a reading are sent; made once for all of them. */
typedef struct frame {
    bool made;
    size_t from; /* index of the first event */
    const char *sandbox, *type;
    uint64_t deleted; /* the number of the event that ends the stream of `sandbox`, or 0 */
    sbx_buf text;
} frame;

static void frame_make(frame *f, const viewer *v, const reading *r, size_t from)
{
    static const char opening[] = "{\"type\":\"events\",\"events\":[";

    f->made = true;
    f->from = from;
    f->sandbox = v->sandbox;
    f->type = v->type;
    f->deleted = 0;
    sbx_buf_reset(&f->text);
    for (size_t i = from; i < r->count; i++) {
        const sbx_event *e = &r->page.items[i];
        size_t at = i ? r->ends[i - 1] : 0;

        if (*v->sandbox && strcmp(e->sandbox, v->sandbox) != 0)
            continue;
        if (*v->sandbox && strcmp(e->type, DELETED) == 0)
            f->deleted = e->seq;
        if (!*v->type || strcmp(e->type, v->type) == 0)
            sbx_feed_add(&f->text, v->feed.websocket, opening, e->seq, r->text.data + at,
                         r->ends[i] - at);
    }
    sbx_feed_close(&f->text, v->feed.websocket);
    count_up(&v->hub->n_built, f->text.len > 0);
}

static const frame *frame_for(frame *f, const viewer *v, const reading *r, size_t from)
{
    if (!f->made || f->from != from || strcmp(f->sandbox, v->sandbox) != 0 ||
        strcmp(f->type, v->type) != 0)
        frame_make(f, v, r, from);
    return f;
}

static size_t first_above(const reading *r, uint64_t pos)
{
    size_t lo = 0, hi = r->count;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (r->page.items[mid].seq > pos)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

/* Over what the reading has, as far as the client takes it. */
static void serve(viewer *v, const reading *r, frame *shared)
{
    size_t i = first_above(r, v->pos);
    uint64_t next = i < r->count ? r->page.items[i].seq : r->upto + 1;
    const frame *f;

    if (next > v->pos + 1) {
        if (!sbx_feed_gap(&v->feed, v->pos + 1, next - 1))
            return;
        v->pos = next - 1;
    }
    if (i == r->count)
        return;
    f = frame_for(shared, v, r, i);
    if (f->text.len > 0) {
        if (!sbx_feed_push(&v->feed, f->text.data, f->text.len))
            return;
        v->room->sent_ms = sbx_now_ms();
        count_up(&v->hub->n_sent, 1);
    }
    v->pos = r->upto;
    if (f->deleted)
        v->end = f->deleted;
}

void event_viewers_serve(room *r, const reading *f)
{
    frame frames[2] = {0};
    viewer *v;

    for (int ws = 0; ws < 2; ws++)
        sbx_buf_init(&frames[ws].text, MIB);
    DL_FOREACH (r->viewers, v) {
        if (!v->feed.gone && !v->feed.blocked && f->since <= v->pos && v->pos < f->upto)
            serve(v, f, &frames[v->feed.websocket]);
    }
    for (int ws = 0; ws < 2; ws++)
        sbx_buf_done(&frames[ws].text);
}

void event_viewers_end(room *r)
{
    viewer *v;

    DL_FOREACH (r->viewers, v) {
        if (v->end && v->pos >= v->end && !v->feed.gone && !v->feed.blocked)
            (void)sbx_feed_end(&v->feed);
    }
}

/* --- joining --- */

typedef struct joining {
    viewer *viewer;
    char owner[SBX_ID_LEN + 1];
} joining;

static void join(void *arg)
{
    joining *j = arg;
    viewer *v = j->viewer;
    sbx_events *e = v->hub;
    room *r = event_room_make(e, j->owner);
    sbx_reply_events events = {.ready = on_ready, .closed = on_closed, .arg = v, .message = NULL};

    free(j);
    v->room = r;
    /* What was written between the look-up of the position and the subscription was not heard. */
    if (!r->viewers || v->pos > r->latest)
        r->look = true;
    v->joined = ++r->joins;
    DL_APPEND(r->viewers, v);
    e->viewer_count++;
    show_count(e);
    sbx_reply_watch(v->feed.reply, &events);
    event_room_schedule(r, 0);
}

/* Behind the event before the newest `tail` of the filter. */
static int find_start(sbx_events *e, const char *owner, const sbx_events_query *q, uint64_t *ret,
                      sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_event_page_done) sbx_event_page p = {0};
    sbx_event_filter f = {.owner = owner,
                          .sandbox = q->sandbox,
                          .type = q->type,
                          .limit = (size_t)SBX_MAX(q->feed.tail, 0),
                          .newest = true};

    if (sbx_store_event_list(e->cfg.store, &f, &p, err))
        return -1;
    *ret = p.count ? p.items[0].seq - 1 : p.last;
    return 0;
}

int sbx_events_view(sbx_events *e, const char *owner, const sbx_events_query *q, sbx_reply *reply,
                    bool websocket, sbx_err *err)
{
    uint64_t pos = q->feed.since, end = 0;
    joining *j;
    viewer *v;

    if ((q->sandbox && sbx_store_event_sandbox(e->cfg.store, owner, q->sandbox, &end, err)) ||
        (!q->feed.has_since && find_start(e, owner, q, &pos, err)))
        return -1;
    v = sbx_alloc(sizeof *v);
    v->hub = e;
    v->pos = pos;
    v->end = end;
    (void)sbx_copy(v->sandbox, sizeof v->sandbox, q->sandbox ? q->sandbox : "");
    (void)sbx_copy(v->type, sizeof v->type, q->type ? q->type : "");
    v->feed.websocket = websocket;
    v->feed.reply = sbx_reply_ref(reply);
    j = sbx_alloc(sizeof *j);
    j->viewer = v;
    (void)sbx_copy(j->owner, sizeof j->owner, owner);
    sbx_reply_begin(reply, 200, websocket ? NULL : "text/event-stream");
    sbx_stream_post(e->cfg.stream, join, j);
    return 0;
}
