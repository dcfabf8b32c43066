/* Random histories of one sandbox under two servers: moves, deletes, patches, time, crashes at any
 * step, failing and unheard calls, and the cleanup, interleaved at every call of the store and the
 * engine. After each history all faults end, the cleanup runs, and row, container and channel must
 * agree. The statements are the real ones, on a real database.
 *
 * A failure prints its seed and its trace; SBX_HISTORY_SEED=N runs that history alone. */
#include "histories_world.h"

#define ROUNDS 6 /* of the cleanup, until all must agree */
#define DEADLINES_OVER                                                                             \
    "UPDATE sandboxes SET deadline_at = now() - interval '1 second' WHERE deadline_at IS NOT NULL"
#define CREATE_SPEC "{\"network\":{\"mode\":\"none\"},\"onTimeout\":\"%s\",\"onIdle\":\"%s\"}"

static sbx_metrics *metrics;
static sbx_ledger *ledger;
static sbx_bus *bus;
static sbx_stream *stream;
static sbx_lanes *lanes;

/* --- the store, with steps --- */

/* What a statement did must fit what the database knew at that moment. */
static void note_row(const char *what, const sbx_sandbox_row *row)
{
    if (w.deleted)
        violated("%s changed a deleted sandbox to %s", what, row->state);
    if (strcmp(row->state, "deleted") == 0)
        w.deleted = true;
}

#define WRAPPED(name, parameters, arguments, undo, seen)                                           \
    int __real_##name parameters;                                                                  \
    int __wrap_##name parameters;                                                                  \
    int __wrap_##name parameters                                                                   \
    {                                                                                              \
        fault f = step(#name + sizeof "sbx_store_sandbox");                                        \
                                                                                                   \
        if (f == FAILS_BEFORE)                                                                     \
            return lost(SBX_E_STORE_UNAVAILABLE, er);                                              \
        if (__real_##name arguments)                                                               \
            return -1;                                                                             \
        seen;                                                                                      \
        if (f == GOES_WELL)                                                                        \
            return 0;                                                                              \
        undo;                                                                                      \
        return lost(SBX_E_STORE_UNAVAILABLE, er);                                                  \
    }

static void forget_row(sbx_sandbox_row *row)
{
    sbx_sandbox_row_done(row);
    *row = (sbx_sandbox_row){0};
}

static void note_state(const sbx_state_change *c, const sbx_sandbox_row *row)
{
    note_row("a state change", row);
    if (!sbx_state_may(sbx_state_parse(c->from), sbx_state_parse(c->to)))
        violated("from %s to %s", c->from, c->to);
    if (c->started || (c->expiry == SBX_EXPIRY_GO_ON && w.expired && row->expires_ms == 0))
        w.expired = false;
    trace("=%s", row->state);
}

static void note_reaped(const sbx_sandbox_list *l)
{
    for (size_t i = 0; i < l->count; i++) {
        note_row("a reap", &l->items[i]);
        if (l->items[i].reason && strstr(l->items[i].reason, "expired") && !w.expired)
            violated("a sandbox expired although it was renewed");
        trace("=%s", l->items[i].state);
    }
}

WRAPPED(sbx_store_sandbox_insert,
        (sbx_store * s, sbx_sandbox_row *r, const sbx_pairs *env, int deadline_s, sbx_err *er),
        (s, r, env, deadline_s, er), (void)0, (void)0)
WRAPPED(sbx_store_sandbox_get,
        (sbx_store * s, const char *owner_id, const char *id, sbx_sandbox_row *ret, sbx_err *er),
        (s, owner_id, id, ret, er), forget_row(ret), (void)0)
WRAPPED(sbx_store_sandbox_env, (sbx_store * s, const char *id, sbx_pairs *ret, sbx_err *er),
        (s, id, ret, er), (sbx_pairs_done(ret), *ret = (sbx_pairs){0}), (void)0)
WRAPPED(sbx_store_sandbox_set_state,
        (sbx_store * s, const sbx_state_change *c, sbx_sandbox_row *ret, sbx_err *er),
        (s, c, ret, er), forget_row(ret), note_state(c, ret))
WRAPPED(sbx_store_sandbox_take,
        (sbx_store * s, const char *id, const char *worker, uint64_t *ret, sbx_err *er),
        (s, id, worker, ret, er), (void)0, (void)0)
WRAPPED(sbx_store_sandbox_renew,
        (sbx_store * s, const char *owner_id, const char *id, sbx_sandbox_row *ret, sbx_err *er),
        (s, owner_id, id, ret, er), forget_row(ret),
        (note_row("a renewal", ret), w.expired = false))
WRAPPED(sbx_store_sandbox_reap,
        (sbx_store * s, const sbx_reap *which, sbx_sandbox_list *ret, sbx_err *er),
        (s, which, ret, er), sbx_sandbox_list_done(ret), note_reaped(ret))
WRAPPED(sbx_store_sandbox_overdue,
        (sbx_store * s, const char *worker, int max, sbx_sandbox_list *ret, sbx_err *er),
        (s, worker, max, ret, er), sbx_sandbox_list_done(ret), (void)0)
WRAPPED(sbx_store_sandbox_adoptable,
        (sbx_store * s, const char *worker, sbx_sandbox_list *ret, sbx_err *er),
        (s, worker, ret, er), sbx_sandbox_list_done(ret), (void)0)
WRAPPED(sbx_store_sandbox_all, (sbx_store * s, sbx_sandbox_list *ret, sbx_err *er), (s, ret, er),
        sbx_sandbox_list_done(ret), (void)0)

/* --- what actors do --- */

static void done(const actor *a, const char *what, int rc, const sbx_err *e)
{
    trace(" [%d %s %s]", a->index, what, rc == 0 ? "ok" : sbx_code_wire(e->code));
}

static void created(void *arg, const sbx_sandbox_row *row, const sbx_err *e)
{
    actor *a = arg;

    if (!e && !a->dead && strcmp(row->state, "running") != 0)
        violated("a create succeeded in state %s", row->state);
    trace(" [%d create %s]", a->index, e ? sbx_code_wire(e->code) : "ok");
}

static void do_create(actor *a)
{
    static const char *const ends[] = {"delete", "pause", "stop"};
    sbx_spec spec = {0};
    sbx_create_waiter waiter = {.over = created, .arg = a};
    sbx_create *c;
    sbx_err e;
    char text[200];

    snprintf(text, sizeof text, CREATE_SPEC, ends[a->arg % 3], ends[a->arg / 3 % 3]);
    if (sbx_spec_parse(text, strlen(text), &spec, &e))
        violated("spec: %s", e.msg);
    int rc = sbx_create_begin(a->at->service, owner.s, NULL, &spec, &c, &e);
    sbx_spec_done(&spec);
    done(a, "begin", rc, &e);
    if (rc)
        return;
    sbx_create_run(c, &waiter);
}

static bool reached(sbx_verb verb, const char *state)
{
    switch (verb) {
    case SBX_V_STOP:
        return strcmp(state, "stopped") == 0;
    case SBX_V_PAUSE:
        return strcmp(state, "paused") == 0;
    case SBX_V_KEEPALIVE:
        return strcmp(state, "running") == 0 || strcmp(state, "paused") == 0;
    default:
        return strcmp(state, "running") == 0;
    }
}

static void do_move(actor *a)
{
    sbx_move m = {.verb = (sbx_verb)(a->arg % 7), .fresh = a->arg & 8, .grace_s = 1};
    sbx_sandbox_row row = {0};
    sbx_err e;
    int rc = 1;

    if (m.verb != SBX_V_RESTART && m.verb != SBX_V_RESET)
        m.fresh = false;
    for (int i = 0; rc == 1 && i < 8; i++) {
        rc = sbx_sandbox_move(a->at->service, owner.s, w.id, &m, &row, &e);
        if (rc == 1)
            (void)step("wait");
    }
    if (rc == 0 && !a->dead && !reached(m.verb, row.state))
        violated("move %d ended in state %s", (int)m.verb, row.state);
    if (rc != 1)
        done(a, "move", rc, &e);
    sbx_sandbox_row_done(&row);
    sbx_pairs_done(&m.env);
}

static void do_delete(actor *a)
{
    sbx_err e;
    int rc = sbx_sandbox_delete(a->at->service, owner.s, w.id, &e);

    if (rc == 0 && !a->dead && !w.deleted)
        violated("a delete was answered and did not happen");
    done(a, "delete", rc, &e);
}

static void each_row(actor *a, sbx_sandbox_list *l,
                     int (*fn)(sbx_sandboxes *s, sbx_sandbox_row *row, sbx_err *e))
{
    sbx_err e;

    for (size_t i = 0; i < l->count; i++)
        done(a, l->items[i].state, fn(a->at->service, &l->items[i], &e), &e);
    sbx_sandbox_list_done(l);
}

/* Now and then it is used between the claim and the pause. */
static void do_reap(actor *a)
{
    sbx_sandbox_list l = {0};
    sbx_sandbox_refs frozen = {0};
    sbx_err e;

    if (sbx_sandboxes_reap(a->at->service, 8, &l, &e) != 0)
        return;
    if (a->arg % 3 == 0) {
        sbx_ledger_begin(ledger, w.id);
        sbx_ledger_end(ledger, w.id);
    }
    each_row(a, &l, sbx_sandbox_carry_on);
    (void)!sbx_ledger_flush(ledger, &frozen, &e);
    sbx_sandbox_refs_done(&frozen);
}

static void do_settle(actor *a)
{
    sbx_sandbox_list l = {0};
    sbx_err e;

    if (sbx_store_sandbox_overdue(store, a->at->worker, 8, &l, &e) == 0)
        each_row(a, &l, sbx_sandbox_settle);
}

static void do_adopt(actor *a)
{
    sbx_sandbox_list l = {0};
    sbx_err e;

    if (a->at->looks) {
        a->at->looks--;
        (void)!sbx_sandbox_check(a->at->service, w.id, &e);
    }
    if (sbx_store_sandbox_adoptable(store, a->at->worker, &l, &e) == 0)
        each_row(a, &l, sbx_sandbox_adopt);
}

static void do_sweep(actor *a)
{
    reaper_sweep(&a->at->reaper);
}

static void do_what_waits(actor *a)
{
    for (int i = 0; i < LATER_MAX && next_later(a->at); i++)
        (void)step("next");
}

/* --- the scheduler --- */

static int64_t ask(const char *text)
{
    PGresult *r = PQexec(outside, text);
    ExecStatusType status = PQresultStatus(r);
    int64_t n = 0;

    if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
        violated("%s: %s", text, PQerrorMessage(outside));
    if (PQntuples(r) > 0)
        n = strtoll(PQgetvalue(r, 0, 0), NULL, 10);
    PQclear(r);
    return n;
}

static void server_begins(server *s)
{
    sbx_id id = sbx_id_new();
    char text[160];

    sbx_copy(s->worker, sizeof s->worker, id.s);
    snprintf(text, sizeof text, "INSERT INTO workers (id, alone) VALUES ('%s', false)", id.s);
    ask(text);
    s->alive = s->listed = true;
    s->holding = s->answered = false;
    s->looks = 0;
}

static void server_unlisted(server *s)
{
    char text[160];

    snprintf(text, sizeof text, "DELETE FROM workers WHERE id = '%s'", s->worker);
    ask(text);
    s->listed = false;
}

static void server_crashes(server *s)
{
    trace("\n-- server %d crashes", (int)(s - servers));
    s->alive = s->holding = s->answered = false;
    for (int i = 0; i < s->later_count; i++)
        forget(s->later[i].arg);
    s->later_count = 0;
    for (int i = 0; i < ACTORS; i++)
        if (actors[i].at == s && actors[i].busy) {
            actors[i].dead = true;
            run_actor(&actors[i]);
        }
    if (dice(2))
        server_unlisted(s);
}

static void server_event(void)
{
    server *s = &servers[dice(SERVERS)];

    if (s->alive)
        server_crashes(s);
    else if (s->listed)
        server_unlisted(s);
    else
        server_begins(s);
}

static void time_passes(void)
{
    switch (dice(3)) {
    case 0:
        trace("\n-- lifetime over");
        w.expired = true;
        ask("UPDATE sandboxes SET expires_at = now() - interval '1 second'"
            " WHERE expires_at IS NOT NULL");
        break;
    case 1:
        trace("\n-- idle");
        ask("UPDATE sandboxes SET last_active_at = now() - interval '1 day'");
        break;
    default:
        trace("\n-- deadlines over");
        ask(DEADLINES_OVER);
    }
}

static void engine_event(void)
{
    trace("\n-- the container %s", dice(2) && w.box != BOX_NONE ? "ends" : "is removed");
    if (w.box == BOX_RUNNING || w.box == BOX_PAUSED)
        box_ends(dice(3) ? BOX_EXITED : BOX_NONE);
    else if (dice(4) == 0)
        box_ends(BOX_NONE);
}

static void begin_something(actor *a)
{
    static const struct {
        void (*op)(actor *a);
        const char *what;
        unsigned weight;
    } ops[] = {{do_move, "move", 12},    {do_delete, "delete", 1},         {do_reap, "reap", 2},
               {do_settle, "settle", 2}, {do_what_waits, "what waits", 1}, {do_adopt, "adopt", 2},
               {do_sweep, "sweep", 1}};
    unsigned n = dice(21);

    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        if (n < ops[i].weight) {
            assign(a, ops[i].op, dice(16 * 7), ops[i].what);
            return;
        }
        n -= ops[i].weight;
    }
}

/* One thing happens. @return whether it was something new. */
static bool happen(bool may_begin)
{
    unsigned n = dice(100);
    actor *a = &actors[dice(ACTORS)];

    if (n < 3 && w.faults)
        server_event();
    else if (n < 6)
        time_passes();
    else if (n < 8 && w.faults)
        engine_event();
    else if (a->busy)
        run_actor(a);
    else if (may_begin && a->at->alive && dice(4) == 0)
        begin_something(a);
    else
        return false;
    return !a->busy;
}

static bool anybody_busy(void)
{
    for (int i = 0; i < ACTORS; i++)
        if (actors[i].busy)
            return true;
    return false;
}

static bool row_id(void)
{
    PGresult *r = PQexec(outside, "SELECT id FROM sandboxes ORDER BY created_at LIMIT 1");
    bool there = PQntuples(r) == 1;

    if (there)
        sbx_copy(w.id, sizeof w.id, PQgetvalue(r, 0, 0));
    PQclear(r);
    if (there)
        sbx_sandbox_container(w.id, w.name);
    return there;
}

/* --- what must hold at the end --- */

/* The row as it is now, and what its container may be. */
typedef struct outcome {
    char state[12];
    bool endless, reason, settled, agrees;
} outcome;

static outcome look(void)
{
    static const struct {
        const char *state;
        unsigned boxes;
    } agree[] = {{"running", 1u << BOX_RUNNING},
                 {"paused", 1u << BOX_PAUSED},
                 {"stopped", 1u << BOX_EXITED | 1u << BOX_CREATED | 1u << BOX_NONE},
                 {"failed", 1u << BOX_NONE},
                 {"deleted", 1u << BOX_NONE}};
    PGresult *r =
        PQexec(outside, "SELECT state, expires_at IS NULL, reason IS NOT NULL FROM sandboxes");
    outcome o = {"no row", .agrees = w.box == BOX_NONE, .settled = true};
    int answered = 0;

    if (PQntuples(r) == 1) {
        sbx_copy(o.state, sizeof o.state, PQgetvalue(r, 0, 0));
        o.endless = *PQgetvalue(r, 0, 1) == 't';
        o.reason = *PQgetvalue(r, 0, 2) == 't';
        o.settled = o.agrees = false;
    }
    PQclear(r);
    for (int i = 0; i < SERVERS; i++)
        answered += servers[i].answered;
    for (size_t i = 0; i < ARRAY_LEN(agree); i++)
        if (strcmp(agree[i].state, o.state) == 0) {
            o.settled = true;
            o.agrees = agree[i].boxes & 1u << w.box;
        }
    if (strcmp(o.state, "running") == 0)
        o.agrees = o.agrees && answered == 1;
    return o;
}

static void end_all_ops(void)
{
    for (int i = 0; i < 400 && anybody_busy(); i++)
        for (int a = 0; a < ACTORS; a++)
            if (actors[a].busy)
                run_actor(&actors[a]);
    if (anybody_busy())
        violated("somebody never ends");
}

static int waiting(void)
{
    int n = 0;

    for (int i = 0; i < SERVERS; i++)
        n += servers[i].later_count;
    return n;
}

/* Faults end, time passes, and the cleanup runs as it does every few seconds. */
static outcome converge(void)
{
    static void (*const ticks[])(actor * a) = {do_what_waits, do_reap, do_settle, do_adopt,
                                               do_sweep};
    outcome o = {0};

    trace("\n-- converging");
    w.faults = false;
    end_all_ops();
    for (int i = 0; i < SERVERS; i++)
        if (!servers[i].alive) {
            if (servers[i].listed)
                server_unlisted(&servers[i]);
            server_begins(&servers[i]);
        }
    for (int round = 0; round < ROUNDS && !(round && o.settled && o.agrees && !waiting());
         round++) {
        trace("\n-- round %d", round);
        ask(DEADLINES_OVER);
        for (int i = 0; i < SERVERS; i++)
            for (size_t t = 0; t < ARRAY_LEN(ticks); t++) {
                ticking = &servers[i];
                ticks[t](&actors[i]);
            }
        o = look();
    }
    return o;
}

static void check(const outcome *o)
{
    trace("\n-- at the end: %s, container %d\n", o->state, (int)w.box);
    if (waiting())
        violated("something waits for ever");
    if (!o->settled)
        violated("stuck in %s", o->state);
    if (!o->agrees)
        violated("the row says %s, the container is %d, channels %d and %d", o->state, (int)w.box,
                 servers[0].answered, servers[1].answered);
    if (strcmp(o->state, "running") == 0 && o->endless)
        violated("running without an end");
    if (strcmp(o->state, "stopped") == 0 && !o->endless)
        violated("stopped, and yet it expires");
    if (strcmp(o->state, "failed") == 0 && !o->reason)
        violated("failed without a reason");
    if (w.deleted && strcmp(o->state, "deleted") != 0)
        violated("it was deleted, and is %s", o->state);
}

/* The events tell one unbroken story of legal moves. */
static void check_events(void)
{
    PGresult *r = PQexec(outside, "SELECT coalesce(data->>'from', ''), data->>'to' FROM events"
                                  " WHERE type <> 'sandbox.alert' ORDER BY seq");
    const char *now = "";

    for (int i = 0; i < PQntuples(r); i++) {
        const char *from = PQgetvalue(r, i, 0), *to = PQgetvalue(r, i, 1);

        if (strcmp(from, now) != 0)
            violated("an event from %s in state %s", from, now);
        if (*from && !sbx_state_may(sbx_state_parse(from), sbx_state_parse(to)))
            violated("an event from %s to %s", from, to);
        now = to;
    }
    PQclear(r);
}

/* --- one history --- */

static void reset(uint64_t seed)
{
    ask("DELETE FROM sandboxes; DELETE FROM events; DELETE FROM workers");
    memset(&w, 0, sizeof w);
    w.rng = (seed + 1) * 0x9E3779B97F4A7C15ull;
    for (int i = 0; i < 4; i++)
        (void)dice(2);
    for (int i = 0; i < SERVERS; i++)
        server_begins(&servers[i]);
}

static bool history(uint64_t seed)
{
    int begun;

    reset(seed);
    w.faults = dice(5) != 0;
    assign(&actors[0], do_create, dice(9), "create");
    for (int i = 0; i < 50 && actors[0].busy && !row_id(); i++)
        run_actor(&actors[0]);
    for (int i = begun = 0; i < 600 && (begun < 10 || anybody_busy()); i++)
        begun += happen(begun < 10);
    outcome o = converge();
    check(&o);
    check_events();
    return *w.wrong == '\0';
}

/* --- the test --- */

static const sbx_engine_ops engine_ops = {.create = e_create,
                                          .attach = e_attach,
                                          .start = e_start,
                                          .stop = e_stop,
                                          .pause = e_pause,
                                          .unpause = e_unpause,
                                          .remove = e_remove,
                                          .inspect = e_inspect,
                                          .list = e_list,
                                          .image_inspect = e_image,
                                          .volume_ensure = e_volume,
                                          .volume_forget = e_forget};

static void make_server(server *s)
{
    s->engine.ops = &engine_ops;
    sbx_sandboxes_config c = {.stream = stream,
                              .pause_retry_s = 5,
                              .lanes = lanes,
                              .store = store,
                              .engine = &s->engine,
                              .channels = (sbx_channels *)s,
                              .ledger = ledger,
                              .bus = bus,
                              .metrics = metrics,
                              .cluster = "c0000000000000000000",
                              .worker = s->worker,
                              .templates = "python=img",
                              .runtime = "",
                              .agent_path = secret_path,
                              .files_path = secret_path,
                              .pull_timeout_s = 60};

    OK(sbx_sandboxes_new(&c, &s->service, &err));
    s->reaper.c = (sbx_reaper_config){.store = store,
                                      .engine = &s->engine,
                                      .sandboxes = s->service,
                                      .channels = (sbx_channels *)s,
                                      .metrics = metrics,
                                      .cluster = c.cluster,
                                      .worker = s->worker,
                                      .orphan_grace_s = -1};
}

static void begin_world(void)
{
    sbx_lanes_config config = {.threads = {1, 1, 1}, .queue = 16};

    migrated_database();
    sbx_log_set_level(SBX_ERROR);
    outside = admin_connect(db_name);
    ask("SET synchronous_commit = off");
    sql("ALTER DATABASE %s SET synchronous_commit = off", db_name);
    metrics = sbx_metrics_new();
    ledger = sbx_ledger_new(store);
    bus = sbx_bus_memory_new();
    stream = sbx_stream_new(&err);
    lanes = sbx_lanes_new(&config);
    sem_init(&back, 0, 0);
    for (int i = 0; i < SERVERS; i++)
        make_server(&servers[i]);
    for (int i = 0; i < ACTORS; i++) {
        actors[i] = (actor){.index = i, .at = &servers[i % SERVERS]};
        sem_init(&actors[i].go, 0, 0);
        cr_assert_eq(pthread_create(&actors[i].thread, NULL, actor_life, &actors[i]), 0);
    }
}

static void end_world(void)
{
    ending = true;
    for (int i = 0; i < ACTORS; i++) {
        sem_post(&actors[i].go);
        pthread_join(actors[i].thread, NULL);
    }
    sbx_lanes_free(lanes);
    sbx_stream_free(stream);
    for (int i = 0; i < SERVERS; i++)
        sbx_sandboxes_free(servers[i].service);
    bus->ops->free(bus);
    sbx_ledger_free(ledger);
    sbx_metrics_free(metrics);
    PQfinish(outside);
    drop_database();
}

static int64_t how_many(void)
{
    const char *scope = getenv("SBX_TEST_SCOPE");

    if (getenv("SBX_HISTORY_COUNT"))
        return strtoll(getenv("SBX_HISTORY_COUNT"), NULL, 10);
    return scope && strcmp(scope, "full") == 0    ? 30000
           : scope && strcmp(scope, "quick") == 0 ? 250
                                                  : 1500;
}

static void run_histories(uint64_t first)
{
    const char *only = getenv("SBX_HISTORY_SEED");
    uint64_t from = only ? strtoull(only, NULL, 10) : first;
    uint64_t until = only ? from + 1 : first + (uint64_t)how_many();

    begin_world();
    for (uint64_t seed = from; seed < until; seed++)
        if (!history(seed) || only) {
            fprintf(stderr, "history %llu: %s\n%s\n", (unsigned long long)seed, w.wrong, w.trace);
            cr_assert_str_empty(w.wrong, "history %llu: %s", (unsigned long long)seed, w.wrong);
        }
    end_world();
}

/* In four parts, since tests run side by side. */
Test(histories, of_the_first_part_reach_no_illegal_state, .timeout = 3600)
{
    run_histories(0);
}

Test(histories, of_the_second_part_reach_no_illegal_state, .timeout = 3600)
{
    run_histories(1000000);
}

Test(histories, of_the_third_part_reach_no_illegal_state, .timeout = 3600)
{
    run_histories(2000000);
}

Test(histories, of_the_fourth_part_reach_no_illegal_state, .timeout = 3600)
{
    run_histories(3000000);
}
