/* The event hub on a real database: resuming, sharing, filters, lost signals, slow clients. */
#include "../unit/hub_fixture.h"
#include "events/hub.h"
#include "fixture.h"

typedef struct hub {
    sbx_stream *stream;
    sbx_lanes *lanes;
    lossy bus;
    sbx_events *events;
    sbx_store *store;
} hub;

static hub h;
static const char box[] = "boxaaaaaaaaaaaaaaaaa", other[] = "otheraaaaaaaaaaaaaaa";

static void hub_start(sbx_store *on, int64_t poll_ms)
{
    sbx_lanes_config lanes = {.threads = {2, 1, 1}, .queue = 64};

    h = (hub){.store = on, .stream = sbx_stream_new(&err), .lanes = sbx_lanes_new(&lanes)};
    cr_assert_not_null(h.stream);
    h.bus.bus.ops = &lossy_ops;
    h.bus.inner = sbx_bus_memory_new();
    sbx_events_config c = {
        .stream = h.stream, .lanes = h.lanes, .store = on, .bus = &h.bus.bus, .poll_ms = poll_ms};
    h.events = sbx_events_new(&c);
}

static void hub_end(void)
{
    sbx_lanes_stop(h.lanes);
    sbx_events_stop(h.events);
    sbx_events_free(h.events);
    sbx_stream_free(h.stream);
    sbx_lanes_free(h.lanes);
    h.bus.inner->ops->free(h.bus.inner);
}

static void setup(void)
{
    migrated_database();
    hub_start(store, 60000); /* no poll helps by chance */
}

static void teardown(void)
{
    hub_end();
    drop_database();
}

TestSuite(events, .init = setup, .fini = teardown, .timeout = 120);

static sbx_events_stats stats(void)
{
    sbx_events_stats s;

    sbx_events_stats_get(h.events, &s);
    return s;
}

/* Write `count` events as one transaction, without a signal. */
static void put(int count, const char *sandbox, const char *type)
{
    sql("WITH n AS (INSERT INTO event_counters VALUES ('%s', %d) ON CONFLICT (owner) DO UPDATE"
        " SET last = event_counters.last + %d RETURNING last)"
        " INSERT INTO events (owner, seq, sandbox, type, data)"
        " SELECT '%s', last - %d + i, '%s', 'sandbox.%s', '{\"to\":\"%s\"}'"
        " FROM n, generate_series(1, %d) i",
        owner.s, count, count, owner.s, count, sandbox, type, type, count);
}

static uint64_t last_written(void)
{
    return (uint64_t)sql("SELECT last FROM event_counters WHERE owner = '%s'", owner.s);
}

static void put_and_tell(int count, const char *sandbox, const char *type)
{
    put(count, sandbox, type);
    sbx_events_written(h.events, owner.s, last_written());
}

static sbx_events_query live(int tail)
{
    return (sbx_events_query){.feed.tail = tail};
}

static sbx_events_query since(uint64_t seq)
{
    return (sbx_events_query){.feed = {.has_since = true, .since = seq, .tail = -1}};
}

static sbx_reply *view(sbx_events_query q, bool websocket)
{
    sbx_reply *r = fake_new();

    OK(sbx_events_view(h.events, owner.s, &q, r, websocket, &err));
    return r;
}

static void leave(sbx_reply **replies, size_t count)
{
    for (size_t i = 0; i < count; i++)
        fake_leave(replies[i]);
    cr_expect(WAIT_FOR(stats().viewers == 0 && stats().rooms == 0));
    for (size_t i = 0; i < count; i++)
        sbx_reply_unref(replies[i]);
}

/* The room has read so often, so that what comes is live. */
static void settled(uint64_t reads)
{
    cr_assert(WAIT_FOR(stats().reads >= reads));
    sbx_stream_sync(h.stream);
}

Test(events, viewers_start_live_with_a_tail_or_behind_a_number)
{
    sbx_reply *now, *tail, *behind;

    put(5, box, "running");
    now = view(live(-1), true);
    tail = view(live(2), false);
    behind = view(since(2), true);
    EXPECT_TRACE(tail, "4-5");
    EXPECT_TRACE(behind, "3-5");
    EXPECT_TRACE(now, "");
    put_and_tell(3, box, "paused");
    EXPECT_TRACE(now, "6-8");
    EXPECT_TRACE(tail, "4-8");
    EXPECT_TRACE(behind, "3-8");
    leave((sbx_reply *[]){now, tail, behind}, 3);
}

Test(events, an_owner_without_any_gets_the_first)
{
    sbx_reply *r = view(live(-1), true), *zero = view(since(0), false);

    settled(1);
    put_and_tell(2, box, "creating");
    EXPECT_TRACE(r, "1-2");
    EXPECT_TRACE(zero, "1-2");
    leave((sbx_reply *[]){r, zero}, 2);
}

Test(events, frames_have_the_documented_form)
{
    sbx_reply *ws, *sse;
    char want[400], *at;

    put(2, box, "running");
    sql("UPDATE events SET at = '2023-11-14T22:13:20Z', data = E'{\"a\":\\r\\n1}'");
    ws = view(since(0), true);
    sse = view(since(0), false);
    EXPECT_TRACE(ws, "1-2");
    EXPECT_TRACE(sse, "1-2");
    at = want + snprintf(want, sizeof want, "{\"type\":\"events\",\"events\":[");
    for (int i = 1; i <= 2; i++)
        at += snprintf(at, sizeof want - (size_t)(at - want),
                       "%s{\"seq\":%d,\"ts\":\"2023-11-14T22:13:20.000Z\",\"type\":"
                       "\"sandbox.running\",\"sandboxId\":\"%s\",\"data\":{\"a\":  1}}",
                       i > 1 ? "," : "", i, box);
    snprintf(at, sizeof want - (size_t)(at - want), "]}\n");
    cr_expect_str_eq(ws->text.data, want);
    cr_expect_eq(strncmp(sse->text.data, "id: 1\ndata: {\"seq\":1,", 20), 0, "%s", sse->text.data);
    cr_expect(strstr(sse->text.data, "\n\nid: 2\ndata: {"), "%s", sse->text.data);
    leave((sbx_reply *[]){ws, sse}, 2);
}

Test(events, a_thousand_viewers_share_reads_and_frames)
{
    enum { N = 1000 };
    static sbx_reply *r[N];
    sbx_events_stats before, after;

    put(3, box, "running");
    for (int i = 0; i < N; i++)
        r[i] = view(since(3), i % 2);
    cr_assert(WAIT_FOR(stats().viewers == N));
    settled(1);
    before = stats();
    put_and_tell(20, box, "paused");
    for (int i = 0; i < N; i++)
        EXPECT_TRACE(r[i], "4-23");
    after = stats();
    cr_expect_leq(after.reads - before.reads, 3u); /* one, and what joining still asked for */
    cr_expect_eq(after.frames_built - before.frames_built, 2u);
    cr_expect_eq(after.sent - before.sent, (uint64_t)N);
    leave(r, N);
}

Test(events, a_storm_of_reconnects_is_read_in_pages)
{
    enum { N = 300 };
    static sbx_reply *r[N];
    uint64_t reads;
    char want[32];

    put(1600, box, "running");
    for (int i = 0; i < N; i++)
        r[i] = view(since((uint64_t)i * 5), true);
    for (int i = 0; i < N; i++) {
        snprintf(want, sizeof want, "%d-1600", i * 5 + 1);
        EXPECT_TRACE(r[i], want);
    }
    reads = stats().reads;
    cr_expect_leq(reads, 24u, "%llu reads", (unsigned long long)reads);
    leave(r, N);
}

Test(events, a_viewer_far_behind_does_not_hold_up_the_others)
{
    sbx_reply *late, *now = view(live(-1), true);

    settled(1);
    put(20000, box, "running");
    sbx_events_written(h.events, owner.s, 20000);
    EXPECT_TRACE(now, "1-20000");
    late = view(since(0), true);
    cr_assert(WAIT_FOR(!trace_is(late, "")));
    put_and_tell(1, box, "paused");
    EXPECT_TRACE(now, "1-20001");
    cr_expect_not(trace_is(late, "1-20001"));
    EXPECT_TRACE(late, "1-20001");
    leave((sbx_reply *[]){now, late}, 2);
}

Test(events, a_slow_viewer_lags_and_misses_nothing)
{
    sbx_reply *slow = view(live(-1), true), *quick = view(live(-1), false);

    settled(1);
    fake_stick(slow, true);
    put_and_tell(4, box, "running");
    EXPECT_TRACE(quick, "1-4");
    put_and_tell(4, box, "paused");
    EXPECT_TRACE(quick, "1-8");
    EXPECT_TRACE(slow, "");
    fake_stick(slow, false);
    EXPECT_TRACE(slow, "1-8");
    leave((sbx_reply *[]){slow, quick}, 2);
}

Test(events, frames_keep_the_pace)
{
    sbx_reply *r = view(live(-1), true);

    settled(1);
    for (int i = 1; i <= 40; i++)
        put_and_tell(1, box, "running");
    EXPECT_TRACE(r, "1-40");
    for (size_t i = 1; i < r->log_frames; i++)
        cr_expect_geq(r->log_at[i] - r->log_at[i - 1], SBX_LOG_BATCH_MS - 1);
    leave(&r, 1);
}

Test(events, what_is_gone_for_good_is_a_gap)
{
    sbx_reply *ws, *sse, *all;

    put(10, box, "running");
    sql("DELETE FROM events WHERE seq <= 6");
    ws = view(since(3), true);
    sse = view(since(0), false);
    EXPECT_TRACE(ws, "gap:4-6 7-10");
    EXPECT_TRACE(sse, "gap:1-6 7-10");
    cr_expect(strstr(sse->text.data, "id: 6\nevent: gap\ndata: {\"from\":1,\"to\":6}\n\n"));
    sql("DELETE FROM events");
    all = view(since(8), true);
    EXPECT_TRACE(all, "gap:9-10");
    put_and_tell(1, box, "paused");
    EXPECT_TRACE(all, "gap:9-10 11-11");
    EXPECT_TRACE(ws, "gap:4-6 7-11");
    leave((sbx_reply *[]){ws, sse, all}, 3);
}

Test(events, a_number_from_the_future_starts_at_the_end)
{
    sbx_reply *r;

    put(3, box, "running");
    r = view(since(INT64_MAX), true);
    settled(1);
    put_and_tell(1, box, "paused");
    EXPECT_TRACE(r, "4-4");
    leave(&r, 1);
}

Test(events, a_signal_with_a_number_that_never_was_does_no_harm)
{
    sbx_reply *r = view(live(-1), true);
    uint64_t reads;

    settled(1);
    sbx_events_written(h.events, owner.s, INT64_MAX);
    put_and_tell(2, box, "running");
    EXPECT_TRACE(r, "1-2");
    put_and_tell(1, box, "running");
    EXPECT_TRACE(r, "1-3");
    reads = stats().reads;
    for (int i = 0; i < 20; i++)
        sbx_events_written(h.events, owner.s, 3);
    sbx_stream_sync(h.stream);
    cr_expect_leq(stats().reads, reads + 1);
    leave(&r, 1);
}

Test(events, filters_leave_no_gaps_and_the_stream_of_a_sandbox_ends)
{
    sbx_events_query of_box = live(-1), deletions = live(-1), both = since(0);
    sbx_reply *a, *b, *c;

    put(2, other, "running");
    sql("INSERT INTO sandboxes (id, owner, image, state, size, cpu_milli, memory_mb, pids, network,"
        " timeout_s, idle_timeout_s, on_timeout, on_idle, token) VALUES ('%s', '%s', 'x', "
        "'running',"
        " 'small', 1000, 512, 100, 'none', 600, 600, 'delete', 'delete', decode(repeat('00', 16),"
        " 'hex'))",
        box, owner.s);
    of_box.sandbox = box;
    deletions.type = "sandbox.deleted";
    both.sandbox = other;
    both.type = "sandbox.paused";
    a = view(of_box, true);
    b = view(deletions, true);
    c = view(both, false);
    settled(1);
    put(1, box, "running");
    put(1, other, "deleted");
    put(1, box, "deleted");
    put_and_tell(1, other, "running");
    EXPECT_TRACE(a, "3-3 5-5 end");
    EXPECT_TRACE(b, "4-5");
    EXPECT_TRACE(c, "end"); /* deleted, though the filter leaves that out */
    cr_expect(a->ended && c->ended && !b->ended);

    sql("UPDATE sandboxes SET state = 'deleted'");
    of_box = since(3);
    of_box.sandbox = box;
    sbx_reply *again = view(of_box, false);
    EXPECT_TRACE(again, "5-5 end");
    of_box.feed.since = 5;
    sbx_reply *over = view(of_box, true);
    EXPECT_TRACE(over, "end");
    leave((sbx_reply *[]){a, b, c, again, over}, 5);
}

Test(events, of_a_sandbox_that_another_owns_are_not_found)
{
    sbx_events_query q = live(-1);
    sbx_reply *r = fake_new();
    sbx_buf out = SBX_BUF_INIT(MIB);
    sbx_id bob;

    put(2, box, "running");
    OK(sbx_store_user_ensure(store, "bob", "user", "enterprise", &bob, &err));
    q.sandbox = box;
    FAILS(sbx_events_view(h.events, bob.s, &q, r, true, &err), NOT_FOUND);
    FAILS(sbx_events_page(h.events, bob.s, &q, &out, &err), NOT_FOUND);
    cr_expect_not(r->begun);
    sbx_reply_unref(r);
    sbx_buf_done(&out);
}

/* --- faults --- */

Test(events, a_lost_signal_is_healed_by_the_poll)
{
    sbx_reply *r;

    hub_end();
    hub_start(store, 50);
    r = view(live(-1), true);
    cr_assert(WAIT_FOR(stats().polls >= 2));
    h.bus.lose = true;
    put_and_tell(3, box, "running");
    EXPECT_TRACE(r, "1-3");
    uint64_t polls = stats().polls;
    cr_expect(WAIT_FOR(stats().polls > polls)); /* and it goes on */
    leave(&r, 1);
    polls = stats().polls;
    pause_ms(200);
    cr_expect_leq(stats().polls, polls + 1); /* nobody watches: nothing is asked */
}

Test(events, an_outage_of_the_database_only_delays)
{
    sbx_store *through = NULL;
    char url[512];
    proxy p;
    sbx_reply *r;

    hub_end();
    proxy_start(&p, url, sizeof url);
    OK(sbx_store_new(url, NULL, secrets, &through, &err));
    hub_start(through, 60000);
    r = view(live(-1), true);
    settled(1);
    put_and_tell(2, box, "running");
    EXPECT_TRACE(r, "1-2");
    proxy_down(&p);
    uint64_t reads = stats().reads;
    put_and_tell(2, box, "paused");
    cr_assert(WAIT_FOR(stats().reads > reads));
    EXPECT_TRACE(r, "1-2");
    proxy_run(&p);
    EXPECT_TRACE(r, "1-4");
    leave(&r, 1);
    hub_end();
    sbx_store_free(through);
    proxy_end(&p);
    hub_start(store, 0);
}

Test(events, a_hub_that_goes_lets_its_viewers_go)
{
    sbx_reply *r = view(live(-1), true);

    settled(1);
    cr_expect_gt(r->refs, 1);
    hub_end();
    cr_expect_eq(r->refs, 1);
    sbx_reply_unref(r);
    hub_start(store, 0);
}

/* --- the hand-over from history to live --- */

typedef struct churn {
    atomic_bool over;
    atomic_int failures, views;
    char owner[SBX_ID_LEN + 1];
} churn;

static void *churn_thread(void *arg)
{
    churn *c = arg;
    sbx_err e = {0};

    while (!atomic_load(&c->over)) {
        sbx_events_query q = since((uint64_t)(random() % 50));
        sbx_reply *r = fake_new();
        uint64_t first, last;
        size_t len;

        if (sbx_events_view(h.events, c->owner, &q, r, random() % 2, &e) != 0)
            atomic_fetch_add(&c->failures, 1);
        for (int i = 0; i < 400; i++) { /* until some came, live or old */
            pthread_mutex_lock(&r->mu);
            last = r->last;
            pthread_mutex_unlock(&r->mu);
            if (last > 100)
                break;
            pause_ms(1);
        }
        pthread_mutex_lock(&r->mu);
        first = r->first;
        len = r->trace.len; /* anything there is a gap, a hole or a repetition */
        pthread_mutex_unlock(&r->mu);
        if (len > 0 || (first && first != q.feed.since + 1))
            atomic_fetch_add(&c->failures, 1);
        atomic_fetch_add(&c->views, 1);
        fake_leave(r);
        sbx_reply_unref(r);
    }
    return NULL;
}

Test(events, between_history_and_live_nothing_is_missed_or_doubled)
{
    pthread_t threads[4];
    churn c = {0};
    sbx_reply *all = view(since(0), true);
    char want[32];

    put(50, box, "running"); /* no start is from the future */
    sbx_copy(c.owner, sizeof c.owner, owner.s);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_create(&threads[i], NULL, churn_thread, &c);
    for (int i = 0; i < 150; i++)
        put_and_tell(1 + i % 3, box, "running");
    snprintf(want, sizeof want, "1-%llu", (unsigned long long)last_written());
    EXPECT_TRACE(all, want);
    atomic_store(&c.over, true);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    cr_expect_eq(c.failures, 0);
    cr_expect_gt(c.views, 10);
    leave(&all, 1);
}

/* --- queries --- */

static char *page_text(sbx_events_query q)
{
    sbx_buf out = SBX_BUF_INIT(MIB);

    OK(sbx_events_page(h.events, owner.s, &q, &out, &err));
    char *text = sbx_buf_steal(&out), *at = text, *to = text;

    /* "1 2 3 next:3" */
    while ((at = strstr(at, "\"seq\":"))) {
        at += 6;
        while (*at >= '0' && *at <= '9')
            *to++ = *at++;
        *to++ = ' ';
    }
    return text;
}

Test(events, pages_have_what_was_asked_for)
{
    static const struct {
        sbx_events_query q;
        const char *want;
    } cases[] = {
        {{.feed = {.tail = -1}}, "1 2 3 4 5 6 "},
        {{.feed = {.tail = -1, .limit = 2}}, "1 2 "},
        {{.feed = {.tail = -1, .has_since = true, .since = 4}}, "5 6 "},
        {{.feed = {.tail = 2}}, "5 6 "},
        {{.feed = {.tail = 0}}, ""},
        {{.feed = {.tail = 3, .limit = 1}}, "4 "},
        {{.feed = {.tail = -1}, .sandbox = box}, "4 5 6 "},
        {{.feed = {.tail = 1}, .sandbox = other}, "3 "},
        {{.feed = {.tail = -1}, .type = "sandbox.paused"}, "4 5 6 "},
        {{.feed = {.tail = -1}, .type = "sandbox.failed"}, ""},
    };

    put(3, other, "running");
    put(3, box, "paused");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *have = page_text(cases[i].q);

        cr_expect_eq(strncmp(have, cases[i].want, strlen(cases[i].want)), 0, "case %zu: %s", i,
                     have);
        cr_expect_neq(have[strlen(cases[i].want)], '9', "case %zu", i);
        free(have);
    }
}

Test(events, the_cursor_is_there_while_there_is_more)
{
    sbx_events_query q = {.feed = {.tail = -1, .limit = 2}};
    sbx_buf out = SBX_BUF_INIT(MIB);

    put(4, box, "running");
    OK(sbx_events_page(h.events, owner.s, &q, &out, &err));
    cr_expect(strstr(out.data, "\"nextCursor\":\"2\"}"), "%s", out.data);
    sbx_buf_reset(&out);
    q.feed.has_since = true;
    q.feed.since = 2;
    OK(sbx_events_page(h.events, owner.s, &q, &out, &err));
    cr_expect(strstr(out.data, "\"nextCursor\":null}"), "%s", out.data);
    sbx_buf_done(&out);
}

Test(events, queries_are_read_strictly)
{
    static const struct {
        const char *name, *value;
        bool ok;
    } cases[] = {
        {"since", "5", true},
        {"since", "-1", false},
        {"since", "x", false},
        {"cursor", "7", true},
        {"limit", "0", false},
        {"limit", "200", true},
        {"limit", "201", false},
        {"tail", "200", true},
        {"tail", "201", false},
        {"sandboxId", "x", false},
        {"sandboxId", box, true},
        {"type", "sandbox.running", true},
        {"type", "sandbox.", false},
        {"type", "", false},
        {"type", "running", false},
        {"type", "sandbox.x", false},
        {"type", "sandbox.unhealthy", true},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_request r = {.query_count = 1};
        sbx_events_query q;
        sbx_err e = {0};

        r.query[0] = (sbx_param){(char *)cases[i].name, (char *)cases[i].value};
        cr_expect_eq(sbx_events_query_read(&r, &q, &e) == 0, cases[i].ok, "%s=%s: %s",
                     cases[i].name, cases[i].value, e.msg);
        cr_expect(cases[i].ok || e.code == SBX_E_INVALID);
    }
}
