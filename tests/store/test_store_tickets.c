/* Tickets with a real database: used once or by a stream, bound, expiring, limited, purged. */
#include "fixture.h"
#include "sbx/auth/tickets.h"
#include "sbx/core/limits.h"
#include "sbx/store/tickets.h"

#define PATH "/sandboxes/abc/logs"

static proxy p;
static char proxy_url[512];
static sbx_auth *auth;
static sbx_tickets *tickets;
static sbx_principal ada;

static void setup(void)
{
    char key[SBX_KEY_LEN + 1];

    migrated_database();
    sbx_store_free(store);
    proxy_start(&p, proxy_url, sizeof proxy_url);
    OK(sbx_store_new(proxy_url, NULL, secrets, &store, &err));
    auth = sbx_auth_new(store, secrets);
    tickets = sbx_tickets_new(store, secrets);
    OK(sbx_auth_make_key(auth, "ada", "user", "enterprise", "one", "sandbox:read", key, NULL,
                         &err));
    OK(sbx_auth_check(auth, NULL, key, &ada, &err));
}

static void teardown(void)
{
    sbx_tickets_free(tickets);
    sbx_auth_free(auth);
    sbx_store_free(store);
    store = NULL;
    proxy_end(&p);
    drop_database();
}

TestSuite(store_tickets, .init = setup, .fini = teardown, .timeout = 60);

static void issue(char ticket[SBX_TICKET_LEN + 1])
{
    int64_t expires_ms;

    OK(sbx_tickets_issue(tickets, &ada, "GET", PATH, ticket, &expires_ms, &err));
    cr_expect_gt(expires_ms, sbx_wall_ms() + (SBX_TICKET_S - 5) * 1000);
    cr_expect_leq(expires_ms, sbx_wall_ms() + (SBX_TICKET_S + 5) * 1000);
}

Test(store_tickets, a_ticket_stands_for_its_key_and_is_good_once)
{
    char ticket[SBX_TICKET_LEN + 1];
    sbx_principal who;

    issue(ticket);
    OK(sbx_tickets_use(tickets, ticket, "GET", PATH, NULL, &who, &err));
    cr_expect_str_eq(who.user, ada.user);
    cr_expect_str_eq(who.key, ada.key);
    cr_expect_str_eq(who.scopes, "sandbox:read");
    cr_expect(!who.admin);
    FAILS(sbx_tickets_use(tickets, ticket, "GET", PATH, NULL, &who, &err), UNAUTHORIZED);
    sbx_ticket_lease *lease;
    FAILS(sbx_tickets_use(tickets, ticket, "GET", PATH, &lease, &who, &err), UNAUTHORIZED);
    cr_expect_eq(sql("SELECT count(*) FROM tickets WHERE tickets::text LIKE '%%%s%%'", ticket + 4),
                 0);
}

Test(store_tickets, what_does_not_fit_is_refused_with_one_text_and_uses_nothing_up)
{
    char ticket[SBX_TICKET_LEN + 1], other[SBX_TICKET_LEN + 1], text[400] = "";
    sbx_principal who;

    issue(ticket);
    memcpy(other, ticket, sizeof other);
    other[10] = other[10] == 'a' ? 'b' : 'a';
    const struct {
        const char *ticket, *method, *path;
    } cases[] = {
        {other, "GET", PATH},    {ticket, "POST", PATH},    {ticket, "HEAD", PATH},
        {ticket, "GET", "/"},    {ticket, "GET", PATH "/"}, {ticket, "GET", "/Sandboxes/abc/logs"},
        {"", "GET", PATH},       {"tkt_", "GET", PATH},     {ticket + 4, "GET", PATH},
        {"tkt_zz", "GET", PATH}, {"' OR 1=1", "GET", PATH},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        FAILS(sbx_tickets_use(tickets, cases[i].ticket, cases[i].method, cases[i].path, NULL, &who,
                              &err),
              UNAUTHORIZED);
        if (!i)
            sbx_copy(text, sizeof text, err.msg);
        cr_expect_str_eq(err.msg, text);
    }
    OK(sbx_tickets_use(tickets, ticket, "GET", PATH, NULL, &who, &err));
}

Test(store_tickets, an_expired_ticket_and_those_of_a_dead_key_are_refused_at_once)
{
    static const char *const spoil[][2] = {
        {"UPDATE tickets SET expires_at = now()", NULL},
        {"UPDATE api_keys SET revoked_at = now()", "UPDATE api_keys SET revoked_at = NULL"},
        {"UPDATE api_keys SET expires_at = now()", "UPDATE api_keys SET expires_at = NULL"},
        {"UPDATE users SET disabled_at = now()", "UPDATE users SET disabled_at = NULL"},
    };
    char ticket[SBX_TICKET_LEN + 1];
    sbx_principal who;

    for (size_t i = 0; i < ARRAY_LEN(spoil); i++) {
        issue(ticket);
        sql("%s", spoil[i][0]);
        FAILS(sbx_tickets_use(tickets, ticket, "GET", PATH, NULL, &who, &err), UNAUTHORIZED);
        if (!spoil[i][1])
            continue;
        sql("%s", spoil[i][1]);
        OK(sbx_tickets_use(tickets, ticket, "GET", PATH, NULL, &who, &err));
    }
}

Test(store_tickets, of_an_event_stream_it_is_good_again_until_after_the_last_disconnect)
{
    char ticket[SBX_TICKET_LEN + 1];
    sbx_ticket_lease *lease;
    sbx_principal who;

    issue(ticket);
    OK(sbx_tickets_use(tickets, ticket, "GET", PATH, &lease, &who, &err));
    FAILS(sbx_tickets_use(tickets, ticket, "GET", PATH, NULL, &who, &err), UNAUTHORIZED);
    /* Connected: renewed however long it lasts, also after an outage. */
    for (int i = 0; i < 2; i++) {
        sql("UPDATE tickets SET expires_at = now() - interval '1 second'");
        OK(sbx_tickets_renew(tickets, &err));
        cr_expect_eq(sql("SELECT count(*) FROM tickets WHERE expires_at > now() + interval '55 s'"),
                     1);
    }
    /* The end: once more, and never again. */
    sbx_ticket_lease_end(lease);
    sql("UPDATE tickets SET expires_at = now() + interval '1 second'");
    OK(sbx_tickets_renew(tickets, &err));
    cr_expect_eq(sql("SELECT count(*) FROM tickets WHERE expires_at > now() + interval '55 s'"), 1);
    sql("UPDATE tickets SET expires_at = now() - interval '1 second'");
    OK(sbx_tickets_renew(tickets, &err));
    cr_expect_eq(sql("SELECT count(*) FROM tickets WHERE expires_at > now()"), 0);
    FAILS(sbx_tickets_use(tickets, ticket, "GET", PATH, &lease, &who, &err), UNAUTHORIZED);
}

Test(store_tickets, a_renewal_that_failed_is_made_up_for)
{
    char ticket[SBX_TICKET_LEN + 1];
    sbx_ticket_lease *lease;
    sbx_principal who;

    issue(ticket);
    OK(sbx_tickets_use(tickets, ticket, "GET", PATH, &lease, &who, &err));
    sbx_ticket_lease_end(lease);
    proxy_down(&p);
    FAILS(sbx_tickets_renew(tickets, &err), STORE_UNAVAILABLE);
    sql("UPDATE tickets SET expires_at = now() - interval '1 second'");
    proxy_run(&p);
    EVENTUALLY(sbx_tickets_renew(tickets, &err) == 0);
    cr_expect_eq(sql("SELECT count(*) FROM tickets WHERE expires_at > now() + interval '55 s'"), 1);
}

Test(store_tickets, a_key_has_so_many_unused_ones_and_is_told_when_to_come_again)
{
    char ticket[SBX_TICKET_LEN + 1];
    sbx_principal who;
    int64_t expires_ms;

    issue(ticket);
    sql("INSERT INTO tickets (hash, key, method, path, expires_at) SELECT sha256(i::text::bytea),"
        " '%s', 'GET', '/', now() + interval '30 s' FROM generate_series(2, %d) i",
        ada.key, SBX_MAX_TICKETS);
    FAILS(sbx_tickets_issue(tickets, &ada, "GET", PATH, ticket + 0, &expires_ms, &err),
          RATE_LIMITED);
    cr_expect(err.retry_after_s >= 20 && err.retry_after_s <= 30, "%d", err.retry_after_s);
    sql("UPDATE tickets SET used = 'once' WHERE hash = sha256('2')");
    issue(ticket);
    OK(sbx_tickets_use(tickets, ticket, "GET", PATH, NULL, &who, &err));
}

Test(store_tickets, expired_ones_are_purged_and_those_of_streams_an_hour_later)
{
    sql("INSERT INTO tickets (hash, key, method, path, used, expires_at)"
        " SELECT sha256(i::text::bytea), '%s', 'GET', '/', CASE WHEN i > 2 THEN 'stream' ELSE ''"
        " END, now() - make_interval(mins => i * 25) FROM generate_series(-1, 4) i",
        ada.key);
    OK(sbx_store_ticket_purge(store, &err));
    cr_expect_eq(sql("SELECT count(*) FROM tickets"), 1);
    sql("UPDATE tickets SET used = 'stream', expires_at = now() - interval '59 minutes'");
    OK(sbx_store_ticket_purge(store, &err));
    cr_expect_eq(sql("SELECT count(*) FROM tickets"), 1);
}

typedef struct racer {
    const char *ticket;
    pthread_barrier_t *start;
    atomic_int *wins;
} racer;

static void *race(void *arg)
{
    racer *r = arg;
    sbx_principal who;
    sbx_err mine;

    pthread_barrier_wait(r->start);
    if (sbx_tickets_use(tickets, r->ticket, "GET", PATH, NULL, &who, &mine) == 0)
        atomic_fetch_add(r->wins, 1);
    return NULL;
}

Test(store_tickets, of_many_uses_at_once_one_succeeds)
{
    char ticket[SBX_TICKET_LEN + 1];
    pthread_barrier_t start;
    pthread_t threads[8];
    atomic_int wins = 0;
    racer r = {ticket, &start, &wins};

    for (int round = 0; round < 10; round++) {
        issue(ticket);
        atomic_store(&wins, 0);
        pthread_barrier_init(&start, NULL, ARRAY_LEN(threads));
        for (size_t i = 0; i < ARRAY_LEN(threads); i++)
            cr_assert_eq(pthread_create(&threads[i], NULL, race, &r), 0);
        for (size_t i = 0; i < ARRAY_LEN(threads); i++)
            pthread_join(threads[i], NULL);
        pthread_barrier_destroy(&start);
        cr_expect_eq(atomic_load(&wins), 1);
    }
}

Test(store_tickets, a_use_whose_answer_was_lost_is_recognised)
{
    char ticket[SBX_TICKET_LEN + 1];
    sbx_principal who;

    issue(ticket);
    atomic_store(&p.mode, PROXY_CUT_ANSWER);
    OK(sbx_tickets_use(tickets, ticket, "GET", PATH, NULL, &who, &err));
    cr_expect_eq(atomic_load(&p.cuts), 1);
    FAILS(sbx_tickets_use(tickets, ticket, "GET", PATH, NULL, &who, &err), UNAUTHORIZED);
}
