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

Test(logs_redis, an_outage_costs_only_what_redis_forgot)
{
    server s = server_new();
    hub *owner = hub_new_on(bus_new(s.url), 0), *other = hub_new_on(bus_new(s.url), 0);
    sbx_reply *r = view(other, query(-1), true);
    sbx_logs_query q = query(-1);
    sbx_buf out = SBX_BUF_INIT(MIB);
    sbx_err err = {0};

    append(owner, 1, 50);
    EXPECT_TRACE(r, "1-50");
    server_stop(&s);
    append(owner, 51, 60);
    cr_expect(WAIT_FOR(owner->acked == 60), "the sandbox is not held up");
    cr_expect_eq(sbx_logs_page(owner->logs, ID, &q, &out, &err), -1);
    cr_expect_eq(err.code, SBX_E_STORE_UNAVAILABLE);
    server_start(&s);
    EXPECT_TRACE(r, "1-60");
    append(owner, 61, 70);
    EXPECT_TRACE(r, "1-70");
    sbx_buf_done(&out);
    hub_free(owner);
    finish(other, &r, 1);
    server_stop(&s);
}
