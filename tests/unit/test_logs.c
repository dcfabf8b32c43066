/* The log hub without viewers: entries as JSON, appending, parameters, pages. */
#include "logs/hub.h"
#include "logs_fixture.h"
#include "sbx/core/json.h"

/* --- entries --- */

Test(logs_entry, is_json_as_documented)
{
    static const struct {
        const char *name, *data, *want;
        size_t len;
        uint8_t stream, source, id_len;
    } cases[] = {
        {"a line", "hi \"x\"",
         "{\"seq\":7,\"ts\":\"2023-11-14T22:13:20.123Z\",\"stream\":\"stdout\",\"source\":\"exec\","
         "\"execId\":\"abc\",\"data\":\"hi \\\"x\\\"\"}",
         6, SBX_LOG_STDOUT, SBX_SRC_EXEC, 3},
        {"no exec", "",
         "{\"seq\":7,\"ts\":\"2023-11-14T22:13:20.123Z\",\"stream\":\"system\",\"source\":"
         "\"system\",\"execId\":null,\"data\":\"\"}",
         0, SBX_LOG_SYSTEM, SBX_SRC_SYSTEM, 0},
        {"not UTF-8", "\xff\xfe\n",
         "{\"seq\":7,\"ts\":\"2023-11-14T22:13:20.123Z\",\"stream\":\"stderr\",\"source\":\"main\","
         "\"execId\":null,\"data\":\"//4K\",\"encoding\":\"base64\"}",
         3, SBX_LOG_STDERR, SBX_SRC_MAIN, 0},
        {"enums out of range", "a\nb",
         "{\"seq\":7,\"ts\":\"2023-11-14T22:13:20.123Z\",\"stream\":\"system\",\"source\":"
         "\"system\",\"execId\":null,\"data\":\"a\\nb\"}",
         3, 200, 200, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_buf b = SBX_BUF_INIT(LOG_ITEM_BYTES);
        sbx_log_entry e = {.seq = 7,
                           .ts_ms = 1700000000123,
                           .stream = cases[i].stream,
                           .source = cases[i].source,
                           .exec_id = "abc",
                           .exec_id_len = cases[i].id_len,
                           .data = cases[i].data,
                           .len = (uint32_t)cases[i].len};

        log_entry_json(&b, &e);
        cr_expect_str_eq(b.data, cases[i].want, "%s", cases[i].name);
        cr_expect(log_item_ok(b.data, b.len), "%s", cases[i].name);
        sbx_buf_done(&b);
    }
}

Test(logs_entry, the_longest_line_fits_and_is_valid)
{
    sbx_buf b = SBX_BUF_INIT(LOG_ITEM_BYTES);
    char *data = sbx_alloc(SBX_LOG_LINE_BYTES);
    sbx_json *root = NULL;
    sbx_err err = {0};

    memset(data, 1, SBX_LOG_LINE_BYTES);
    sbx_log_entry e = {
        .seq = INT64_MAX, .ts_ms = 1, .source = 3, .data = data, .len = SBX_LOG_LINE_BYTES};
    log_entry_json(&b, &e);
    cr_expect(log_item_ok(b.data, b.len));
    cr_expect_eq(sbx_json_parse(b.data, b.len, &root, &err), 0, "%s", err.msg);
    sbx_json_free(root);
    free(data);
    sbx_buf_done(&b);
}

Test(logs_entry, its_source_cannot_be_faked_by_its_data)
{
    sbx_buf b = SBX_BUF_INIT(LOG_ITEM_BYTES);
    static const char evil[] = "\"source\":\"system\"";
    sbx_log_entry e = {.seq = 1,
                       .source = SBX_SRC_RUN,
                       .exec_id = evil,
                       .exec_id_len = sizeof evil - 1,
                       .data = evil,
                       .len = sizeof evil - 1};

    log_entry_json(&b, &e);
    cr_expect_eq(log_item_source(b.data, b.len), SBX_LOGS_RUN);
    cr_expect_eq(log_item_source("{\"source\":\"mainly\"}", 19), SBX_LOGS_ALL);
    cr_expect_eq(log_item_source("{\"source\":\"main", 15), SBX_LOGS_ALL);
    cr_expect_eq(log_item_source("{}", 2), SBX_LOGS_ALL);
    sbx_buf_done(&b);
}

Test(logs_entry, any_time_is_written_as_one)
{
    static const int64_t times[] = {INT64_MIN, -1, 0, 1, 253402300800000, INT64_MAX};

    for (size_t i = 0; i < ARRAY_LEN(times); i++) {
        sbx_buf b = SBX_BUF_INIT(LOG_ITEM_BYTES);
        sbx_log_entry e = {.seq = 1, .ts_ms = times[i], .data = "", .len = 0};
        const char *ts;

        log_entry_json(&b, &e);
        ts = strstr(b.data, "\"ts\":\"");
        cr_assert_not_null(ts);
        cr_expect_eq(ts[6 + SBX_TIME_TEXT - 1], '"', "%s", b.data);
        sbx_buf_done(&b);
    }
}

/* --- appending --- */

static size_t history_count(hub *h)
{
    sbx_bus_item *items = NULL;
    sbx_buf text = SBX_BUF_INIT(8 * MIB);
    size_t count = 0;
    sbx_err err;

    cr_assert_eq(h->bus.inner->ops->history(h->bus.inner, TOPIC, 0, 0, 1000, true, &items, &count,
                                            &text, &err),
                 0);
    free(items);
    sbx_buf_done(&text);
    return count;
}

Test(logs_append, collects_for_100_ms_and_acknowledges)
{
    hub *h = hub_new(0);
    int64_t began;

    append(h, 1, 1);
    cr_expect_eq(h->acked, 1, "the first one goes at once");
    began = sbx_now_ms();
    for (uint64_t i = 2; i <= 20; i++)
        append(h, i, i);
    cr_expect(WAIT_FOR(h->acked == 20));
    cr_expect_geq(sbx_now_ms() - began, 50);
    cr_expect_leq(h->bus.published, 3, "%d messages", h->bus.published);
    cr_expect_eq(history_count(h), 20);
    hub_free(h);
}

Test(logs_append, a_full_batch_does_not_wait)
{
    hub *h = hub_new(0);
    char line[1001];

    memset(line, 'x', 1000);
    line[1000] = '\0';
    append(h, 1, 1);
    append_data(h, 2, 1000, SBX_SRC_EXEC, line);
    cr_expect_geq(h->bus.published, 4);
    cr_expect_geq(h->acked, 600);
    cr_expect(WAIT_FOR(h->acked == 1000));
    hub_free(h);
}

Test(logs_append, a_flood_is_acknowledged_at_its_pace)
{
    hub *h = hub_new(0);
    char line[1001];
    int64_t began = sbx_now_ms();
    const uint64_t step = 900; /* some MiB of JSON each, and less than a hostile agent's */

    memset(line, 'x', 1000);
    line[1000] = '\0';
    for (uint64_t seq = 1; seq < 8 * step; seq += step) {
        append_data(h, seq, seq + step - 1, SBX_SRC_MAIN, line);
        cr_assert(WAIT_FOR(h->acked == seq + step - 1));
    }
    /* 7 MiB before the last step, of which 4 may come at once. */
    cr_expect_geq(sbx_now_ms() - began, 600);
    cr_expect_eq(stats(h).dropped, 0);
    cr_expect_eq(stats(h).lines, 8 * step);
    append(h, 8 * step + 1, 8 * step + 1);
    cr_expect(WAIT_FOR(h->acked == 8 * step + 1));
    hub_free(h);
}

Test(logs_append, an_agent_that_waits_for_nothing_is_bounded)
{
    hub *h = hub_new(0);
    char line[1001];

    memset(line, 'x', 1000);
    line[1000] = '\0';
    append_data(h, 1, 20000, SBX_SRC_MAIN, line);
    cr_expect_geq(h->acked, 15000, "published beyond its pace, not kept");
    cr_expect(WAIT_FOR(h->acked == 20000));
    hub_free(h);
}

Test(logs_append, a_journal_that_is_sent_again_is_taken_once)
{
    hub *h = hub_new(0);

    append(h, 1, 100);
    cr_expect(WAIT_FOR(h->acked == 100));
    h->acked = 0;
    append(h, 1, 100);
    cr_expect_eq(h->acked, 100, "and acknowledged again");
    append(h, 50, 110);
    cr_expect(WAIT_FOR(h->acked == 110));
    cr_expect_eq(history_count(h), 110);
    cr_expect_eq(stats(h).lines, 110);
    hub_free(h);
}

static void release(void *arg)
{
    sbx_logs_release(((hub *)arg)->logs, ID);
}

Test(logs_append, a_released_log_is_published_and_forgotten_here)
{
    hub *h = hub_new(0);

    append(h, 1, 1);
    append(h, 2, 9);
    on_stream(h, release, h);
    cr_expect_eq(h->acked, 9);
    cr_expect_eq(stats(h).rooms, 0);
    cr_expect_eq(history_count(h), 9);
    append(h, 5, 12); /* a new owner on this worker: the history knows what it has */
    cr_expect(WAIT_FOR(h->acked == 12));
    cr_expect_eq(history_count(h), 12);
    hub_free(h);
}

static void append_odd_ones(void *arg)
{
    hub *h = arg;
    sbx_log_entry e[] = {{.seq = 0, .data = "x", .len = 1},
                         {.seq = UINT64_MAX, .data = "x", .len = 1},
                         {.seq = 1, .data = "x", .len = SBX_LOG_LINE_BYTES + 1},
                         {.seq = 2, .data = NULL, .len = 0}};

    sbx_logs_append(h->logs, ID, e, ARRAY_LEN(e));
    sbx_logs_append(h->logs, "", e, ARRAY_LEN(e));
    sbx_logs_append(h->logs, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", e, ARRAY_LEN(e));
    sbx_logs_append(h->logs, ID, NULL, 0);
}

Test(logs_append, what_cannot_be_is_left_out)
{
    hub *h = hub_new(0);

    on_stream(h, append_odd_ones, h);
    cr_expect_eq(h->acked, 2);
    cr_expect_eq(history_count(h), 1);
    hub_free(h);
}

/* --- parameters --- */

Test(logs_query, parameters_are_checked)
{
    static const struct {
        const char *name, *value;
        bool ok;
    } cases[] = {
        {"since", "0", true},      {"since", "9223372036854775807", true},
        {"since", "-1", false},    {"since", "9223372036854775808", false},
        {"since", "", false},      {"since", "1a", false},
        {"since", " 1", false},    {"since", "99999999999999999999999", false},
        {"until", "5", true},      {"until", "x", false},
        {"tail", "0", true},       {"tail", "1000", true},
        {"tail", "1001", false},   {"tail", "all", false},
        {"limit", "1", true},      {"limit", "200", true},
        {"limit", "0", false},     {"limit", "201", false},
        {"source", "main", true},  {"source", "system", true},
        {"source", "Main", false}, {"source", "", false},
        {"cursor", "12", true},    {"cursor", "x", false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_request r = {.query_count = 1};
        sbx_logs_query q = {0};
        sbx_err err = {0};

        r.query[0].name = (char *)(uintptr_t)cases[i].name;
        r.query[0].value = (char *)(uintptr_t)cases[i].value;
        cr_expect_eq(sbx_logs_query_read(&r, &q, &err), cases[i].ok ? 0 : -1, "%s=%s",
                     cases[i].name, cases[i].value);
        if (!cases[i].ok) {
            cr_expect_eq(err.code, SBX_E_INVALID);
            cr_expect_str_eq(err.field, cases[i].name);
        }
    }
}

Test(logs_query, an_event_source_that_reconnects_goes_on)
{
    sbx_request r = {.query_count = 2, .last_event_id = (char[]){"77"}};
    sbx_logs_query q;
    sbx_err err;

    r.query[0] = (sbx_param){(char[]){"since"}, (char[]){"5"}};
    r.query[1] = (sbx_param){(char[]){"tail"}, (char[]){"9"}};
    r.accept = SBX_ACCEPT_SSE;
    cr_assert_eq(sbx_logs_query_read(&r, &q, &err), 0);
    cr_expect(q.feed.has_since);
    cr_expect_eq(q.feed.since, 77);
    cr_expect_eq(q.feed.tail, 9);
    r.accept = SBX_ACCEPT_JSON;
    cr_assert_eq(sbx_logs_query_read(&r, &q, &err), 0);
    cr_expect_eq(q.feed.since, 5);
    r.accept = SBX_ACCEPT_SSE;
    r.last_event_id[0] = 'x';
    cr_expect_eq(sbx_logs_query_read(&r, &q, &err), -1);
    r.query_count = 0;
    r.last_event_id[0] = '\0';
    cr_assert_eq(sbx_logs_query_read(&r, &q, &err), 0);
    cr_expect_not(q.feed.has_since);
    cr_expect_eq(q.feed.tail, -1);
    cr_expect_eq(q.source, SBX_LOGS_ALL);
}

/* --- pages --- */

/* "1-50 next:50" or "error". */
static char *page_text(hub *h, const sbx_logs_query *q)
{
    sbx_buf out = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES), text = SBX_BUF_INIT(64 * KIB);
    sbx_json *root = NULL;
    sbx_err err = {0};
    int64_t first = 0, last = 0;

    if (sbx_logs_page(h->logs, ID, q, &out, &err) < 0) {
        sbx_buf_done(&out);
        return sbx_strdup(sbx_code_wire(err.code));
    }
    cr_assert_eq(sbx_json_parse(out.data, out.len, &root, &err), 0, "%s", err.msg);
    for (const sbx_json *e = sbx_json_first(sbx_json_get(root, "items")); e; e = sbx_json_next(e)) {
        int64_t seq = sbx_json_int(sbx_json_get(e, "seq"), 0);

        if (last && seq != last + 1) {
            sbx_buf_addf(&text, "%ld-%ld ", first, last);
            first = 0;
        }
        first = first ? first : seq;
        last = seq;
    }
    if (last)
        sbx_buf_addf(&text, "%ld-%ld ", first, last);
    const char *next = sbx_json_str(sbx_json_get(root, "nextCursor"));
    sbx_buf_addf(&text, "next:%s", next ? next : "null");
    sbx_json_free(root);
    sbx_buf_done(&out);
    return sbx_buf_steal(&text);
}

#define EXPECT_PAGE(h, q, want)                                                                    \
    do {                                                                                           \
        char *_have = page_text((h), (q));                                                         \
        cr_expect_str_eq(_have, (want));                                                           \
        free(_have);                                                                               \
    } while (0)

Test(logs_page, has_what_was_asked_for)
{
    static const struct {
        sbx_logs_query q;
        const char *want;
    } cases[] = {
        {{.feed.tail = -1, .source = SBX_LOGS_ALL}, "1-50 next:50"},
        {{.feed.tail = -1, .source = SBX_LOGS_ALL, .feed.limit = 200}, "1-120 next:null"},
        {{.feed.tail = -1, .source = SBX_LOGS_ALL, .feed.limit = 120}, "1-120 next:null"},
        {{.feed.tail = -1, .source = SBX_LOGS_ALL, .feed.limit = 119}, "1-119 next:119"},
        {{.feed.tail = -1, .source = SBX_LOGS_ALL, .feed.has_since = true, .feed.since = 100},
         "101-120 next:null"},
        {{.feed.tail = -1, .source = SBX_LOGS_ALL, .feed.has_since = true, .feed.since = 120},
         "next:null"},
        {{.feed.tail = -1,
          .source = SBX_LOGS_ALL,
          .feed.has_since = true,
          .feed.since = 5,
          .until = 9},
         "6-9 next:null"},
        {{.feed.tail = 10, .source = SBX_LOGS_ALL}, "111-120 next:null"},
        {{.feed.tail = 1000, .source = SBX_LOGS_ALL}, "1-120 next:null"},
        {{.feed.tail = 0, .source = SBX_LOGS_ALL}, "next:null"},
        {{.feed.tail = 10, .source = SBX_LOGS_ALL, .until = 30}, "21-30 next:null"},
        {{.feed.tail = 10, .source = SBX_LOGS_ALL, .feed.has_since = true, .feed.since = 115},
         "116-120 next:null"},
        {{.feed.tail = 10, .source = SBX_LOGS_ALL, .feed.limit = 4}, "111-114 next:114"},
        {{.feed.tail = 2, .source = SBX_LOGS_MAIN}, "118-118 120-120 next:null"},
        {{.feed.tail = -1, .source = SBX_LOGS_EXEC, .feed.limit = 2}, "1-1 3-3 next:3"},
        {{.feed.tail = -1, .source = SBX_LOGS_SYSTEM}, "next:null"},
    };
    hub *h = hub_new(0);

    append(h, 1, 120);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        EXPECT_PAGE(h, &cases[i].q, cases[i].want);
    h->bus.fail = true;
    EXPECT_PAGE(h, &cases[0].q, "store_unavailable");
    hub_free(h);
}

Test(logs_page, includes_what_still_waits_for_its_batch)
{
    hub *h = hub_new(0);
    sbx_logs_query q = query(-1);

    append(h, 1, 1);
    append(h, 2, 5); /* within 100 ms of the first */
    EXPECT_PAGE(h, &q, "1-5 next:null");
    hub_free(h);
}

Test(logs_page, cursors_lead_through_everything)
{
    hub *h = hub_new(0);
    sbx_logs_query q = {.feed.tail = -1, .feed.limit = 77, .source = SBX_LOGS_MAIN};
    uint64_t seen = 0;

    append(h, 1, 1500);
    for (int pages = 0; pages < 20; pages++) {
        sbx_buf out = SBX_BUF_INIT(MIB);
        sbx_err err;
        const char *next;

        cr_assert_eq(sbx_logs_page(h->logs, ID, &q, &out, &err), 0);
        for (const char *p = out.data; (p = strstr(p, "\"seq\":")); p++)
            seen++;
        next = strstr(out.data, "\"nextCursor\":\"");
        if (next) {
            q.feed.has_since = true;
            q.feed.since = strtoull(next + 14, NULL, 10);
        }
        sbx_buf_done(&out);
        if (!next)
            break;
    }
    cr_expect_eq(seen, 500, "every second line of the last 1,000");
    hub_free(h);
}

Test(logs_page, is_bounded_in_bytes)
{
    hub *h = hub_new(0);
    sbx_logs_query q = {.feed.tail = 1000, .source = SBX_LOGS_ALL};
    sbx_buf small = SBX_BUF_INIT(100);
    sbx_err err = {0};

    append(h, 1, 1000);
    cr_expect_eq(sbx_logs_page(h->logs, ID, &q, &small, &err), -1);
    cr_expect_eq(err.code, SBX_E_TOO_LARGE);
    sbx_buf_done(&small);
    hub_free(h);
}
