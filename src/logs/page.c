/* Queries: parameters of a request, and one JSON page of the history. */
#include "hub.h"
#include "sbx/core/clock.h"
#include <errno.h>
#include <time.h>

#define FLUSH_WAIT_MS 2000 /* for STREAM, which never blocks: only an overloaded one is slower */
#define READS_MAX     32   /* of the history for one page */
#define TEXT_BYTES    (16 * MIB)

/* --- parameters --- */

static int read_source(const sbx_request *r, sbx_logs_query *q, sbx_err *err)
{
    const char *value = sbx_request_query(r, "source");

    q->source = SBX_LOGS_ALL;
    if (!value)
        return 0;
    for (unsigned i = 0; i < SBX_LOGS_ALL; i++) {
        if (sbx_streq(log_source_name(i), value)) {
            q->source = (sbx_logs_source)i;
            return 0;
        }
    }
    return sbx_fail_field(err, "source", "source must be main, exec, run or system");
}

int sbx_logs_query_read(const sbx_request *r, sbx_logs_query *ret, sbx_err *err)
{
    sbx_logs_query q = {0};
    int64_t until = 0;

    if (sbx_feed_query_read(r, SBX_LOG_HISTORY_LINES, &q.feed, err) || read_source(r, &q, err) ||
        sbx_feed_number(r, "until", INT64_MAX, &until, err))
        return -1;
    q.until = (uint64_t)until;
    *ret = q;
    return 0;
}

/* --- what is pending goes to the bus first --- */

/* Shared by the worker that waits and STREAM; whoever comes last frees it. */
typedef struct flush_wait {
    sbx_logs *hub;
    char id[SBX_ID_LEN + 1];
    pthread_mutex_t mu;
    pthread_cond_t cond;
    bool done; /* guarded by mu */
    int refs;  /* guarded by mu */
} flush_wait;

/* Unlocks. */
static void flush_wait_unref_locked(flush_wait *w)
{
    bool last = --w->refs == 0;

    pthread_mutex_unlock(&w->mu);
    if (!last)
        return;
    pthread_cond_destroy(&w->cond);
    pthread_mutex_destroy(&w->mu);
    free(w);
}

static void flush_on_stream(void *arg)
{
    flush_wait *w = arg;
    room *r = room_find(w->hub, w->id);

    if (r)
        producer_flush_in_pace(r);
    pthread_mutex_lock(&w->mu);
    w->done = true;
    pthread_cond_signal(&w->cond);
    flush_wait_unref_locked(w);
}

static int flush_pending(sbx_logs *l, const char *id, sbx_err *err)
{
    flush_wait *w = sbx_alloc(sizeof *w);
    struct timespec until;
    int64_t at_ms = sbx_now_ms() + sbx_job_left_ms(FLUSH_WAIT_MS);
    bool done;

    w->hub = l;
    w->refs = 2;
    (void)sbx_copy(w->id, sizeof w->id, id);
    pthread_mutex_init(&w->mu, NULL);
    pthread_cond_init(&w->cond, NULL);
    sbx_stream_post(l->cfg.stream, flush_on_stream, w);

    until = (struct timespec){.tv_sec = at_ms / 1000, .tv_nsec = at_ms % 1000 * 1000000};
    pthread_mutex_lock(&w->mu);
    while (!w->done &&
           pthread_cond_clockwait(&w->cond, &w->mu, CLOCK_MONOTONIC, &until) != ETIMEDOUT)
        ;
    done = w->done;
    flush_wait_unref_locked(w);
    return done ? 0 : sbx_fail(err, SBX_E_TIMEOUT, "the log is busy");
}

int sbx_logs_last_seq(sbx_logs *l, const char *sandbox_id, uint64_t *ret, sbx_err *err)
{
    char topic[TOPIC_BYTES];

    log_topic(topic, sandbox_id);
    if (l->cfg.bus->ops->last_seq(l->cfg.bus, topic, ret, err) < 0)
        return sbx_wrap(err, "reading the log's end");
    return 0;
}

/* --- the page --- */

typedef struct page {
    const sbx_logs_query *q;
    size_t limit;
    sbx_buf entries; /* joined by commas */
    size_t count;
    uint64_t last;
    bool more;
} page;

/* False when the page is full: there is at least this one more. */
static bool page_add(page *p, const sbx_bus_item *it)
{
    if (!log_item_ok(it->data, it->len))
        return true;
    if (p->q->source != SBX_LOGS_ALL && log_item_source(it->data, it->len) != p->q->source)
        return true;
    if (p->count == p->limit || p->entries.len + it->len + 1 > p->entries.max) {
        p->more = true;
        return false;
    }
    if (p->count > 0)
        sbx_buf_addc(&p->entries, ',');
    sbx_buf_add(&p->entries, it->data, it->len);
    p->last = it->seq;
    p->count++;
    return true;
}

/* The index where the newest `tail` items of the source begin. */
static size_t tail_start(const page *p, const sbx_bus_item *items, size_t count)
{
    size_t left = (size_t)p->q->feed.tail, i = count;

    while (i > 0 && left > 0) {
        i--;
        left -= log_item_ok(items[i].data, items[i].len) &&
                (p->q->source == SBX_LOGS_ALL ||
                 log_item_source(items[i].data, items[i].len) == p->q->source);
    }
    return i;
}

static int page_fill(sbx_logs *l, const char *topic, page *p, sbx_err *err)
{
    sbx_bus *bus = l->cfg.bus;
    bool tail = p->q->feed.tail >= 0;
    uint64_t since = p->q->feed.has_since ? p->q->feed.since : 0;

    for (int reads = 0; reads < READS_MAX; reads++) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(TEXT_BYTES);
        sbx_bus_item *items = NULL;
        size_t count = 0, i;
        bool end;

        if (bus->ops->history(bus, topic, since, p->q->until, SBX_LOG_HISTORY_LINES, tail, &items,
                              &count, &text, err) < 0)
            return sbx_wrap(err, "reading the log");
        i = tail ? tail_start(p, items, count) : 0;
        end = tail || count == 0;
        while (i < count && page_add(p, &items[i]))
            i++;
        if (i < count)
            end = true;
        if (!end)
            since = items[count - 1].seq;
        free(items);
        if (end)
            return 0;
    }
    return 0;
}

int sbx_logs_page(sbx_logs *l, const char *sandbox_id, const sbx_logs_query *q, sbx_buf *out,
                  sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf entries = SBX_BUF_INIT(SBX_LOGS_PAGE_BYTES);
    page p = {.q = q, .limit = (size_t)q->feed.limit};
    char topic[TOPIC_BYTES];
    int rc;

    if (q->feed.limit == 0)
        p.limit = q->feed.tail >= 0 ? (size_t)q->feed.tail : SBX_LOGS_DEFAULT_LIMIT;
    if (flush_pending(l, sandbox_id, err) < 0)
        return -1;
    log_topic(topic, sandbox_id);
    p.entries = entries;
    rc = page_fill(l, topic, &p, err);
    entries = p.entries;
    if (rc < 0)
        return -1;
    return sbx_feed_page(out, &entries, p.more, p.last, err);
}
