/* Two workers on one Redis: a sandbox's lines come in on one and are watched on the other. */
#include "../unit/logs_fixture.h"
#include "redis_fixture.h"

Test(logs_redis, a_viewer_elsewhere_sees_all_and_the_end)
{
    server s = server_new();
    hub *owner = hub_new_on(bus_new(s.url), 100), *other = hub_new_on(bus_new(s.url), 100);
    sbx_reply *here, *there;
    sbx_logs_query q = query(-1);
    uint64_t last = 1;
    sbx_err err;

    append(owner, 1, 100);
    here = view(owner, q, true);
    there = view(other, q, false);
    EXPECT_TRACE(here, "1-100");
    EXPECT_TRACE(there, "1-100");
    for (uint64_t seq = 101; seq <= 500; seq += 20)
        append(owner, seq, seq + 19);
    EXPECT_TRACE(here, "1-500");
    EXPECT_TRACE(there, "1-500");
    sbx_logs_state(owner->logs, ID, "{\"state\":\"stopped\"}");
    EXPECT_TRACE(there, "1-500 state");
    append(owner, 501, 520);
    sbx_logs_close(owner->logs, ID);
    EXPECT_TRACE(there, "1-500 state 501-520 end");
    EXPECT_TRACE(here, "1-500 state 501-520 end");
    cr_expect(WAIT_FOR(sbx_logs_last_seq(other->logs, ID, &last, &err) == 0 && last == 0));
    hub_free(owner);
    hub_free(other);
    sbx_reply_unref(here);
    sbx_reply_unref(there);
    server_stop(&s);
}

Test(logs_redis, a_killed_subscription_loses_nothing)
{
    server s = server_new();
    hub *owner = hub_new_on(bus_new(s.url), 0), *other = hub_new_on(bus_new(s.url), 0);
    sbx_reply *r = view(other, query(-1), true);
    uint64_t seq = 1;
    char want[32];

    for (int round = 0; round < 15; round++) {
        append(owner, seq, seq + 9);
        seq += 10;
        if (round % 3 == 1)
            freeReplyObject(DIRECT(&s, "CLIENT", "KILL", "TYPE", "pubsub"));
        pause_ms(20);
    }
    snprintf(want, sizeof want, "1-%llu", (unsigned long long)seq - 1);
    EXPECT_TRACE(r, want);
    cr_expect_eq(stats(other).gaps, 0);
    hub_free(owner);
    finish(other, &r, 1);
    server_stop(&s);
}

/* The agent has all lines from `first` on. */
static void produce(hub *h, uint64_t first, uint64_t from, uint64_t to)
{
    h->first = first;
    h->last = to;
    append(h, from, to);
}

Test(logs_redis, an_outage_costs_nothing_that_the_agent_still_has)
{
    server s = server_new();
    hub *owner = hub_new_on(bus_new(s.url), 0), *other = hub_new_on(bus_new(s.url), 0);
    sbx_reply *here = view(owner, query(-1), true), *r = view(other, query(-1), true), *late;
    sbx_logs_query q = query(-1);
    sbx_buf out = SBX_BUF_INIT(MIB);
    sbx_err err = {0};

    produce(owner, 1, 1, 50);
    EXPECT_TRACE(r, "1-50");
    EXPECT_TRACE(here, "1-50");
    server_stop(&s);
    produce(owner, 1, 51, 60);
    cr_expect(WAIT_FOR(owner->acked == 60), "the sandbox is not held up");
    EXPECT_TRACE(here, "1-60");
    EXPECT_TRACE(r, "1-50 delayed");
    cr_expect_eq(sbx_logs_page(owner->logs, ID, &q, &out, &err), -1);
    cr_expect_eq(err.code, SBX_E_STORE_UNAVAILABLE);
    server_start(&s);
    EXPECT_TRACE(r, "1-50 delayed 51-60");
    produce(owner, 1, 61, 70);
    EXPECT_TRACE(r, "1-50 delayed 51-70");
    EXPECT_TRACE(here, "1-70");
    late = view(owner, query_since(10), true);
    EXPECT_TRACE(late, "11-70");
    cr_expect_eq(stats(other).gaps + stats(owner).gaps, 0);
    sbx_buf_done(&out);
    finish(owner, (sbx_reply *[]){here, late}, 2);
    finish(other, &r, 1);
    server_stop(&s);
}

Test(logs_redis, a_lost_history_is_filled_again_before_anybody_is_told_a_gap)
{
    server s = server_new();
    hub *owner = hub_new_on(bus_new(s.url), 0), *other = hub_new_on(bus_new(s.url), 0);
    sbx_reply *r = view(other, query(-1), true), *back;

    produce(owner, 1, 1, 100);
    EXPECT_TRACE(r, "1-100");
    produce(owner, 1, 101, 500);
    EXPECT_TRACE(r, "1-500");
    freeReplyObject(DIRECT(&s, "FLUSHALL"));
    back = view(other, query_since(100), true);
    EXPECT_TRACE(back, "101-500");
    produce(owner, 1, 501, 510);
    EXPECT_TRACE(back, "101-510");
    EXPECT_TRACE(r, "1-510");
    cr_expect_eq(stats(other).gaps, 0);
    hub_free(owner);
    finish(other, (sbx_reply *[]){r, back}, 2);
    server_stop(&s);
}

Test(logs_redis, of_a_lost_history_only_what_the_agent_has_not_is_a_gap)
{
    server s = server_new();
    hub *owner = hub_new_on(bus_new(s.url), 0), *other = hub_new_on(bus_new(s.url), 0);
    sbx_reply *r = view(other, query(-1), true), *back;

    produce(owner, 1, 1, 100);
    EXPECT_TRACE(r, "1-100");
    produce(owner, 1, 101, 500);
    EXPECT_TRACE(r, "1-500");
    freeReplyObject(DIRECT(&s, "FLUSHALL"));
    owner->first = 301;
    produce(owner, 301, 501, 510);
    EXPECT_TRACE(r, "1-510");
    back = view(other, query_since(100), true);
    EXPECT_TRACE(back, "gap:101-300 301-510");
    hub_free(owner);
    finish(other, (sbx_reply *[]){r, back}, 2);
    server_stop(&s);
}

Test(logs_redis, a_worker_that_stood_still_adds_nothing_old)
{
    server s = server_new();
    hub *stale = hub_new_on(bus_new(s.url), 0), *owner = hub_new_on(bus_new(s.url), 0);
    sbx_reply *r = view(owner, query(-1), true), *back;

    append(stale, 1, 50);
    EXPECT_TRACE(r, "1-50");
    append(owner, 51, 80);
    EXPECT_TRACE(r, "1-80");
    append(stale, 51, 70);
    append(owner, 81, 90);
    EXPECT_TRACE(r, "1-90");
    back = view(stale, query_since(0), true);
    EXPECT_TRACE(back, "1-90");
    cr_expect_eq(stale->agains + owner->agains, 0);
    finish(stale, &back, 1);
    finish(owner, &r, 1);
    server_stop(&s);
}
