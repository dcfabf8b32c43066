/* Events: their numbers under concurrency, their pages, their age, against a real server. */
#include "fixture.h"
#include "sbx/core/limits.h"
#include "sbx/store/events.h"

TestSuite(store_events, .init = migrated_database, .fini = drop_database, .timeout = 120);

/* --- many writers, and a reader beside them --- */

#define OWNERS  3
#define WRITERS 8
#define CHANGES 1000 /* of each writer */

typedef struct writer {
    char ids[OWNERS][SBX_ID_LEN + 1]; /* a sandbox of its own of each owner */
    atomic_int *done;
    bool failed;
} writer;

static int change(const char *id, const char *from, const char *to, uint64_t *seq)
{
    sbx_sandbox_row row = {0};
    sbx_state_change c = {.id = id, .from = from, .to = to};
    sbx_err e = {0};

    if (sbx_store_sandbox_set_state(store, &c, &row, &e) != 0)
        return -1;
    *seq = row.event_seq;
    sbx_sandbox_row_done(&row);
    return 0;
}

static void *write_thread(void *arg)
{
    writer *w = arg;
    const char *state[OWNERS] = {"creating", "creating", "creating"};
    uint64_t last[OWNERS] = {0}, seq = 0;

    for (int i = 0; i < CHANGES && !w->failed; i++) {
        int o = i % OWNERS;
        const char *to = strcmp(state[o], "running") == 0 ? "paused" : "running";

        w->failed = change(w->ids[o], state[o], to, &seq) != 0 || seq <= last[o];
        state[o] = to;
        last[o] = seq;
    }
    atomic_fetch_add(w->done, 1);
    return NULL;
}

typedef struct reader {
    const char *owner;
    atomic_int *done;
    uint64_t seen;
    int holes, failures, reads;
} reader;

/* Follows as a client does: always from the number that it saw last. */
static void *read_thread(void *arg)
{
    reader *r = arg;
    sbx_err e = {0};

    for (bool last = false, over = false; !last; last = over) {
        sbx_event_filter f = {.owner = r->owner, .since = r->seen, .limit = 7};
        sbx_event_page p = {0};

        over = atomic_load(r->done) == WRITERS;
        r->reads++;
        if (sbx_store_event_list(store, &f, &p, &e) != 0) {
            r->failures++;
            break;
        }
        for (size_t i = 0; i < p.count; i++) {
            r->holes += p.items[i].seq != r->seen + 1;
            r->seen = p.items[i].seq;
        }
        over = over && r->seen == p.last;
        sbx_event_page_done(&p);
    }
    return NULL;
}

static void sandbox_of(const sbx_id *who, char id[SBX_ID_LEN + 1])
{
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row r = new_row(who, NULL);

    OK(sbx_store_sandbox_insert(store, &r, NULL, 60, &err));
    sbx_copy(id, SBX_ID_LEN + 1, r.id);
}

Test(store_events, eight_writers_of_three_owners_leave_no_hole_and_a_reader_misses_nothing)
{
    static writer writers[WRITERS];
    reader readers[OWNERS];
    pthread_t wt[WRITERS], rt[OWNERS];
    atomic_int done = 0;
    sbx_id owners[OWNERS] = {owner};

    OK(sbx_store_user_ensure(store, "bob", "user", "enterprise", &owners[1], &err));
    OK(sbx_store_user_ensure(store, "eve", "user", "enterprise", &owners[2], &err));
    for (int w = 0; w < WRITERS; w++) {
        writers[w].done = &done;
        for (int o = 0; o < OWNERS; o++)
            sandbox_of(&owners[o], writers[w].ids[o]);
    }
    for (int o = 0; o < OWNERS; o++) {
        readers[o] = (reader){.owner = owners[o].s, .done = &done};
        pthread_create(&rt[o], NULL, read_thread, &readers[o]);
    }
    for (int w = 0; w < WRITERS; w++)
        pthread_create(&wt[w], NULL, write_thread, &writers[w]);
    for (int w = 0; w < WRITERS; w++) {
        pthread_join(wt[w], NULL);
        cr_expect(!writers[w].failed, "writer %d", w);
    }
    uint64_t sum = 0;
    for (int o = 0; o < OWNERS; o++) {
        pthread_join(rt[o], NULL);
        cr_expect_eq(readers[o].holes, 0);
        cr_expect_eq(readers[o].failures, 0);
        cr_expect_gt(readers[o].reads, 10);
        sum += readers[o].seen;
    }
    cr_expect_eq(sum, (uint64_t)WRITERS * (CHANGES + OWNERS));
    cr_expect_eq(sql("SELECT count(*) FROM events"), (int64_t)sum);
    cr_expect_eq(sql("SELECT sum(last) FROM event_counters"), (int64_t)sum);
    cr_expect_eq(sql("SELECT count(*) FROM (SELECT owner FROM events GROUP BY owner"
                     " HAVING min(seq) <> 1 OR max(seq) <> count(*)) x"),
                 0);
}

/* --- claims of many owners at once --- */

static void *claim_thread(void *arg)
{
    sbx_id w = sbx_id_new();
    int *failed = arg;

    for (;;) {
        sbx_sandbox_list l = {0};
        sbx_err e = {0};
        size_t n;

        if (sbx_store_sandbox_reap(store, &(sbx_reap){.worker = w.s, .max = 8}, &l, &e) != 0) {
            (*failed)++;
            return NULL;
        }
        n = l.count;
        sbx_sandbox_list_done(&l);
        if (n == 0)
            return NULL;
    }
}

Test(store_events, claims_of_many_owners_at_once_do_not_deadlock)
{
    enum { N = 240, THREADS = 6 };
    pthread_t threads[THREADS];
    int failed[THREADS] = {0};
    sbx_id owners[5];

    for (int o = 0; o < 5; o++) {
        char name[] = {'u', (char)('0' + o), 0};
        OK(sbx_store_user_ensure(store, name, "user", "enterprise", &owners[o], &err));
    }
    for (int i = 0; i < N; i++) {
        char id[SBX_ID_LEN + 1];
        sandbox_of(&owners[i % 5], id);
    }
    sql("UPDATE sandboxes SET state = 'running', expires_at = now() - interval '1 s'");
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, claim_thread, &failed[i]);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        cr_expect_eq(failed[i], 0);
    }
    claim_thread(&failed[0]); /* what others were just claiming when the threads looked */
    cr_expect_eq(sql("SELECT count(*) FROM events WHERE type = 'sandbox.deleting'"), N);
    cr_expect_eq(sql("SELECT deadlocks FROM pg_stat_database WHERE datname = '%s'", db_name), 0);
    cr_expect_eq(sql("SELECT count(*) FROM events JOIN event_counters USING (owner)"
                     " WHERE seq > last"),
                 0);
    cr_expect_eq(sql("SELECT count(*) FROM events e JOIN sandboxes s ON s.id = e.sandbox"
                     " WHERE e.owner <> s.owner"),
                 0);
}

/* --- pages --- */

static sbx_event_page page(sbx_event_filter f)
{
    sbx_event_page p = {0};

    f.owner = f.owner ? f.owner : owner.s;
    f.limit = f.limit ? f.limit : 100;
    OK(sbx_store_event_list(store, &f, &p, &err));
    return p;
}

Test(store_events, pages_go_on_where_they_ended_and_tell_the_end)
{
    sbx_event_page p = page((sbx_event_filter){0});

    cr_expect_eq(p.count, 0u);
    cr_expect_eq(p.last, 0u);
    sbx_event_page_done(&p);
    sbx_id a = make_sandbox("running"), b = make_sandbox("running");

    p = page((sbx_event_filter){.limit = 3});
    cr_assert_eq(p.count, 3u);
    cr_expect_eq(p.last, 4u);
    cr_expect_eq(p.items[0].seq, 1u);
    cr_expect_str_eq(p.items[0].type, "sandbox.creating");
    cr_expect_str_eq(p.items[0].sandbox, a.s);
    cr_expect(strstr(p.items[0].data, "\"from\" : null"), "%s", p.items[0].data);
    cr_expect_lt(llabs(p.items[0].at_ms - sbx_wall_ms()), 60000);
    cr_expect_eq(p.items[2].seq, 3u);
    cr_expect_str_eq(p.items[2].sandbox, b.s);
    sbx_event_page_done(&p);

    p = page((sbx_event_filter){.since = 3});
    cr_expect_eq(p.count, 1u);
    cr_expect_eq(p.last, 4u);
    sbx_event_page_done(&p);
    p = page((sbx_event_filter){.since = 4});
    cr_expect_eq(p.count, 0u);
    cr_expect_eq(p.last, 4u);
    sbx_event_page_done(&p);
    p = page((sbx_event_filter){.since = UINT64_MAX});
    cr_expect_eq(p.count, 0u);
    sbx_event_page_done(&p);

    p = page((sbx_event_filter){.sandbox = b.s, .type = "sandbox.running"});
    cr_assert_eq(p.count, 1u);
    cr_expect_eq(p.items[0].seq, 4u);
    sbx_event_page_done(&p);
    p = page((sbx_event_filter){.newest = true, .limit = 3});
    cr_assert_eq(p.count, 3u);
    cr_expect_eq(p.items[0].seq, 2u);
    sbx_event_page_done(&p);
    p = page((sbx_event_filter){.newest = true, .limit = 1, .sandbox = a.s});
    cr_assert_eq(p.count, 1u);
    cr_expect_eq(p.items[0].seq, 2u);
    sbx_event_page_done(&p);
}

Test(store_events, what_another_owns_is_not_found)
{
    sbx_id id = make_sandbox("running"), other;
    sbx_event_page p;
    uint64_t end = 7;

    OK(sbx_store_user_ensure(store, "bob", "user", "enterprise", &other, &err));
    p = page((sbx_event_filter){.owner = other.s, .sandbox = id.s});
    cr_expect_eq(p.count, 0u);
    sbx_event_page_done(&p);
    FAILS(sbx_store_event_sandbox(store, other.s, id.s, &end, &err), NOT_FOUND);
    FAILS(sbx_store_event_sandbox(store, owner.s, other.s, &end, &err), NOT_FOUND);
    OK(sbx_store_event_sandbox(store, owner.s, id.s, &end, &err));
    cr_expect_eq(end, 0u);
}

Test(store_events, of_a_sandbox_outlive_its_record)
{
    sbx_id id = make_sandbox("running");
    uint64_t end = 0, seq = 0;
    sbx_event_page p;
    int n = 0;

    cr_assert_eq(change(id.s, "running", "deleted", &seq), 0);
    OK(sbx_store_event_sandbox(store, owner.s, id.s, &end, &err));
    cr_expect_eq(end, 3u);
    sql("UPDATE sandboxes SET state_changed_at = now() - interval '25 hours'");
    OK(sbx_store_sandbox_purge(store, &n, &err));
    cr_expect_eq(n, 1);
    OK(sbx_store_event_sandbox(store, owner.s, id.s, &end, &err));
    cr_expect_eq(end, 3u);
    p = page((sbx_event_filter){.sandbox = id.s});
    cr_expect_eq(p.count, 3u);
    sbx_event_page_done(&p);
}

Test(store_events, counters_come_in_the_order_asked)
{
    sbx_event_counter c[3] = {0};

    make_sandbox("running");
    sbx_copy(c[0].owner, sizeof c[0].owner, "nobody");
    sbx_copy(c[1].owner, sizeof c[1].owner, owner.s);
    sbx_copy(c[2].owner, sizeof c[2].owner, "x\",\\");
    c[0].last = c[2].last = 9;
    OK(sbx_store_event_counters(store, c, 3, &err));
    cr_expect_eq(c[0].last, 0u);
    cr_expect_eq(c[1].last, 2u);
    cr_expect_eq(c[2].last, 0u);
    OK(sbx_store_event_counters(store, NULL, 0, &err));
}

/* --- age --- */

Test(store_events, old_ones_go_from_the_beginning_only)
{
    int n = -1;

    for (int i = 0; i < 4; i++)
        make_sandbox("running");
    OK(sbx_store_event_purge(store, &n, &err));
    cr_expect_eq(n, 0);
    /* 4 is young by a clock that was set: what follows it stays, however old. */
    sql("UPDATE events SET at = now() - interval '%d days 1 hour' WHERE seq <> 4 AND seq < 7",
        SBX_EVENT_DAYS);
    OK(sbx_store_event_purge(store, &n, &err));
    cr_expect_eq(n, 3);
    cr_expect_eq(sql("SELECT min(seq) FROM events"), 4);
    cr_expect_eq(sql("SELECT count(*) FROM events"), 5);
    sql("UPDATE events SET at = now() - interval '%d days 1 hour'", SBX_EVENT_DAYS);
    OK(sbx_store_event_purge(store, &n, &err));
    cr_expect_eq(n, 5);

    /* Numbers go on. */
    make_sandbox("creating");
    cr_expect_eq(sql("SELECT seq FROM events"), 9);
}
