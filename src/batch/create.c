/* Making many sandboxes.
 *
 * Each is a create of its own: the row first, then what waits without a thread. With a claim (a
 * request with an Idempotency-Key) the id of the n-th sandbox follows from the claim's, so that a
 * request that is run again after a crash finds what is there: what runs is taken, what is on its
 * way is waited for, and what failed or is gone is made under the next id. Whoever inserts a row
 * second is refused by the database, so two processes never make the same one twice.
 *
 * Those of a request that is all or none, and has no claim, are held: their rows name this worker
 * until all of them run, and if it dies before that they go.
 *
 * Without `wait` the rows alone come before the answer, and the rest behind it.
 *
 * Threads: each item belongs to its step; what several look at is guarded by `mu`, or atomic. */
#include "batch_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/crypt.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include "sbx/store/runs.h"
#include <stdio.h>

#define LOOK_MS    250    /* between two looks at one that is on its way */
#define WAIT_MS    300000 /* for it */
#define UNDO_MS    60000  /* for the deletion of one */
#define MAX_TRIES  8      /* ids of one place */
#define MAX_PREFIX 24

typedef struct creating creating;

typedef struct item {
    creating *c;
    const sbx_json *spec;
    char id[SBX_ID_LEN + 1]; /* once its row was written */
    char *json;              /* the sandbox, once it runs; owned */
    sbx_err err;             /* code SBX_OK: none */
    sbx_create *create;      /* guarded by mu: while it is on its way */
    int64_t since_ms;        /* it is waited for */
} item;

struct creating {
    sbx_batches *b;
    fan f;
    sbx_reply *reply;
    char owner[SBX_ID_LEN + 1], claim[SBX_ID_LEN + 1];
    void (*open)(sbx_reply *reply);
    bool resumed, atomic, same; /* same: all have the spec of the field `sandbox` */
    bool wait, held;
    sbx_json *root, *none; /* none: {}, where no sandbox is described */
    item *items;
    size_t count;
    atomic_bool stopped;  /* no more is begun, and what is on its way is undone */
    atomic_bool answered; /* who leaves now stops nothing */
    atomic_int refs;      /* the work, and the watch of the reply */
    pthread_mutex_t mu;
};

typedef struct body {
    int64_t count;
    const sbx_json *sandbox, *sandboxes;
    bool count_given, atomic, wait;
} body;

#define AT(member) offsetof(body, member)

const sbx_json_field sbx_creates_fields[] = {
    {"count", SBX_JF_I64, AT(count), AT(count_given), .min = 1, .max = SBX_MAX_BATCH, .dflt = 1,
     .doc = "how many like `sandbox`"},
    {"sandbox", SBX_JF_KEPT, AT(sandbox), .sub = sbx_spec_fields,
     .doc = "what each of them is to be, as for `POST /sandboxes`"},
    {"sandboxes", SBX_JF_KEPT_LIST, AT(sandboxes), .min = 1, .max = SBX_MAX_BATCH,
     .sub = sbx_spec_fields, .doc = "instead of both: what each one is to be"},
    {"atomic", SBX_JF_BOOL, AT(atomic),
     .doc =
         "all or none: if one fails, the others are deleted again and the answer is its problem"},
    {"wait", SBX_JF_BOOL, AT(wait), .dflt = 1,
     .doc = "false: answer 202 at once, before they can run commands; not with `atomic`"},
    {.name = NULL},
};

static void creating_unref(creating *c)
{
    if (atomic_fetch_sub(&c->refs, 1) != 1)
        return;
    for (size_t i = 0; i < c->count; i++)
        free(c->items[i].json);
    free(c->items);
    sbx_json_free(c->root);
    sbx_json_free(c->none);
    sbx_reply_unref(c->reply);
    pthread_mutex_destroy(&c->mu);
    free(c);
}

/* --- names --- */

/* Where the fields of an item stand in the request. */
static void prefix_of(const creating *c, size_t i, char out[MAX_PREFIX])
{
    if (c->same)
        snprintf(out, MAX_PREFIX, "sandbox.");
    else
        snprintf(out, MAX_PREFIX, "sandboxes[%zu].", i);
}

static void name_field(const creating *c, size_t i, sbx_err *err)
{
    char prefix[MAX_PREFIX], field[sizeof(err->field)], text[sizeof(err->msg)];

    if (!*err->field)
        return;
    prefix_of(c, i, prefix);
    sbx_copy(field, sizeof(field), err->field);
    sbx_copy(text, sizeof(text), err->msg);
    bool named = strncmp(text, field, strlen(field)) == 0;
    snprintf(err->field, sizeof(err->field), "%s%s", prefix, field);
    snprintf(err->msg, sizeof(err->msg), "%s%s", named ? prefix : "", text);
}

/* The id of an item of a claim, at its n-th try. */
static void id_of(const creating *c, size_t i, int attempt, char out[SBX_ID_LEN + 1])
{
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    unsigned char hash[SBX_HASH_BYTES];
    char seed[SBX_ID_LEN + 64];
    int n = snprintf(seed, sizeof(seed), "batch:%s:%zu:%d", c->claim, i, attempt);

    sbx_sha256(seed, (size_t)n, hash);
    for (int k = 0; k < SBX_ID_LEN; k++)
        out[k] = alphabet[hash[k] % (k ? 36 : 26)];
    out[SBX_ID_LEN] = '\0';
}

/* --- the end --- */

static void item_json(creating *c, size_t i, sbx_jw *w)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf problem = SBX_BUF_INIT(16 * KIB);
    item *it = &c->items[i];

    sbx_jw_obj(w, NULL);
    if (it->json) {
        sbx_jw_raw(w, "sandbox", it->json);
    } else {
        sbx_reply_problem_json(c->reply, &it->err, &problem);
        sbx_jw_raw(w, "problem", problem.data);
    }
    sbx_jw_obj_end(w);
}

static void answer(creating *c, bool all)
{
    sbx_buf text = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    sbx_jw w = SBX_JW(&text);

    sbx_jw_obj(&w, NULL);
    sbx_jw_arr(&w, "items");
    for (size_t i = 0; i < c->count; i++)
        item_json(c, i, &w);
    sbx_jw_arr_end(&w);
    sbx_jw_obj_end(&w);
    atomic_store(&c->answered, true);
    sbx_reply_json(c->reply, !all ? 200 : c->wait ? 201 : 202, &text);
    sbx_buf_done(&text);
}

/* What stopped the others, rather than one that was stopped. */
static item *culprit(creating *c)
{
    item *found = NULL;

    for (size_t i = 0; i < c->count; i++)
        if (c->items[i].err.code && (!found || found->err.code == SBX_E_CANCELLED))
            found = &c->items[i];
    return found;
}

static void undone(void *arg)
{
    creating *c = arg;
    item *it = culprit(c);
    size_t stay = 0;

    for (size_t i = 0; i < c->count; i++)
        stay += c->items[i].json != NULL;
    if (stay)
        sbx_err_wrap(&it->err, "%zu of the others could not be deleted again; list them", stay);
    sbx_reply_problem(c->reply, &it->err);
    creating_unref(c);
}

static void undo_one(void *arg, size_t i)
{
    creating *c = arg;
    item *it = &c->items[i];
    sbx_err err;

    sbx_job_scope(sbx_now_ms() + UNDO_MS, NULL);
    if (it->json && sbx_sandbox_delete(c->b->c.sandboxes, c->owner, it->id, &err) == 0) {
        free(it->json);
        it->json = NULL;
    }
    fan_done(&c->f);
}

static void undo_refused(void *arg, size_t i, const sbx_err *why)
{
    (void)arg, (void)i, (void)why;
}

static void undo_all(creating *c)
{
    c->f = (fan){.lanes = c->b->c.lanes,
                 .lane = SBX_LANE_SLOW,
                 .count = c->count,
                 .parallel = SBX_BATCH_PARALLEL,
                 .step = undo_one,
                 .refused = undo_refused,
                 .over = undone,
                 .arg = c};
    fan_begin(&c->f);
}

/* All run: from here on they stay, whatever becomes of this server. */
static int keep_all(creating *c, sbx_err *err)
{
    const char *ids[SBX_MAX_BATCH];

    for (size_t i = 0; i < c->count; i++)
        ids[i] = c->items[i].id;
    return sbx_store_batch_keep(c->b->c.store, ids, c->count, c->b->c.worker, err);
}

/* --- what goes on behind the answer --- */

static sbx_create *take_create(item *it)
{
    pthread_mutex_lock(&it->c->mu);
    sbx_create *create = sbx_steal(it->create);
    pthread_mutex_unlock(&it->c->mu);
    return create;
}

static void gone_on(void *arg, const sbx_sandbox_row *row, const sbx_err *err)
{
    item *it = arg;

    (void)row, (void)err; /* its record tells */
    fan_done(&it->c->f);
}

static void go_on(void *arg, size_t i)
{
    creating *c = arg;
    sbx_create *create = take_create(&c->items[i]);
    sbx_create_waiter waiter = {.cancelled = &c->stopped, .over = gone_on, .arg = &c->items[i]};

    if (create)
        sbx_create_run(create, &waiter);
    else
        fan_done(&c->f);
}

/* The row is there: it has to come to an end. When the server ends, the next one sees to that. */
static void go_on_refused(void *arg, size_t i, const sbx_err *why)
{
    creating *c = arg;
    sbx_create *create = take_create(&c->items[i]);

    (void)why;
    if (create && sbx_thread_role() == SBX_T_WORKER)
        sbx_create_run(create, NULL);
    else
        sbx_create_unref(create);
}

static void all_gone_on(void *arg)
{
    creating_unref(arg);
}

static void go_on_all(creating *c)
{
    c->f = (fan){.lanes = c->b->c.lanes,
                 .lane = SBX_LANE_SLOW,
                 .count = c->count,
                 .parallel = SBX_BATCH_PARALLEL,
                 .step = go_on,
                 .refused = go_on_refused,
                 .over = all_gone_on,
                 .arg = c};
    fan_begin(&c->f);
}

static void all_over(void *arg)
{
    creating *c = arg;
    bool all = true, again = false;

    sbx_job_scope(0, NULL);
    for (size_t i = 0; i < c->count; i++) {
        all &= c->items[i].json != NULL;
        again |= c->items[i].err.code && (sbx_code_status(c->items[i].err.code) >= 500 ||
                                          c->items[i].err.code == SBX_E_CANCELLED);
    }
    if (again && *c->claim)
        c->open(c->reply);
    if (all && c->held && keep_all(c, &c->items[0].err))
        all = false;
    if (c->atomic && !all) {
        undo_all(c);
        return;
    }
    answer(c, all);
    if (c->wait)
        creating_unref(c);
    else
        go_on_all(c);
}

/* --- stopping --- */

/* Any thread. */
static void stop(creating *c)
{
    atomic_store(&c->stopped, true);
    pthread_mutex_lock(&c->mu);
    for (size_t i = 0; i < c->count; i++)
        if (c->items[i].create)
            sbx_create_abandon(c->items[i].create);
    pthread_mutex_unlock(&c->mu);
}

static void client_closed(void *arg)
{
    creating *c = arg;

    if (!*c->claim && !atomic_load(&c->answered) && sbx_reply_gone(c->reply))
        stop(c);
    creating_unref(c);
}

/* --- one of them --- */

static void item_failed(item *it, const sbx_err *err)
{
    creating *c = it->c;

    it->err = *err;
    name_field(c, (size_t)(it - c->items), &it->err);
    if (c->atomic)
        stop(c);
    fan_done(&c->f);
}

static void item_made(item *it, const sbx_sandbox_row *row)
{
    sbx_buf b = SBX_BUF_INIT(MIB);

    sbx_sandbox_json(row, &b);
    sbx_copy(it->id, sizeof(it->id), row->id);
    it->json = sbx_buf_steal(&b);
    fan_done(&it->c->f);
}

static void create_over(void *arg, const sbx_sandbox_row *row, const sbx_err *err)
{
    item *it = arg;

    sbx_create_unref(take_create(it));
    if (err)
        item_failed(it, err);
    else
        item_made(it, row);
}

static void look_on_worker(void *arg);

static void look_again(void *arg)
{
    item *it = arg;
    sbx_job job = {.run = look_on_worker, .arg = it};
    sbx_err err;

    if (sbx_lanes_submit(it->c->b->c.lanes, SBX_LANE_SLOW, &job, &err))
        item_failed(it, &err);
}

static void wait_on_stream(void *arg)
{
    item *it = arg;

    /* a timer's handle is not kept: the wait ends by itself */
    (void)sbx_timer_new(it->c->b->c.stream, LOOK_MS, look_again, it);
}

/* Is there a sandbox for this item already? @return 1: it was told; 0: no, make it->id; -1. */
static int find_made(item *it, sbx_err *err)
{
    creating *c = it->c;
    sbx_sandbox_row row = {0};

    for (int attempt = 0; attempt < MAX_TRIES; attempt++) {
        id_of(c, (size_t)(it - c->items), attempt, it->id);
        if (sbx_store_sandbox_get(c->b->c.store, c->owner, it->id, &row, err))
            return err->code == SBX_E_NOT_FOUND ? 0 : -1;
        sbx_state state = sbx_state_parse(row.state);
        bool gone = state == SBX_S_DELETING || state == SBX_S_DELETED ||
                    (state == SBX_S_FAILED && !row.started_ms);

        if (!gone && state == SBX_S_CREATING && c->wait)
            sbx_stream_post(c->b->c.stream, wait_on_stream, it);
        else if (!gone)
            item_made(it, &row);
        sbx_sandbox_row_done(&row);
        if (!gone)
            return 1;
    }
    return sbx_fail(err, SBX_E_CAPACITY, "it failed %d times; use a new Idempotency-Key",
                    MAX_TRIES);
}

/* Nothing is done about it before its row says whose it is. Takes the create over if it fails. */
static int hold(creating *c, sbx_create *made, sbx_err *err)
{
    const char *id = sbx_create_row(made)->id;
    sbx_err later;

    if (sbx_store_batch_hold(c->b->c.store, id, c->b->c.worker, err) == 0)
        return 0;
    if (sbx_sandbox_delete(c->b->c.sandboxes, c->owner, id, &later))
        sbx_log_err(SBX_WARN, "a create that was given up stays until its deadline", &later,
                    "sandbox", id, NULL);
    sbx_create_unref(made);
    return -1;
}

/* Owns the item's step. @return 0, 1 if another one had the id first, or -1. */
static int make(item *it, sbx_err *err)
{
    creating *c = it->c;
    sbx_spec spec = {0};
    sbx_create *made = NULL;
    int rc = sbx_spec_read(it->spec, &spec, err);

    spec.held = c->held;
    if (!rc)
        rc = sbx_create_begin(c->b->c.sandboxes, c->owner, *c->claim ? it->id : NULL, &spec, &made,
                              err);
    sbx_spec_done(&spec);
    if (rc)
        return *c->claim && err->code == SBX_E_CONFLICT ? 1 : -1;
    if (c->held && hold(c, made, err))
        return -1;
    if (!c->wait) {
        pthread_mutex_lock(&c->mu);
        it->create = made;
        pthread_mutex_unlock(&c->mu);
        item_made(it, sbx_create_row(made));
        return 0;
    }
    sbx_create_waiter waiter = {.cancelled = &c->stopped, .over = create_over, .arg = it};

    pthread_mutex_lock(&c->mu);
    it->create = sbx_create_ref(made);
    pthread_mutex_unlock(&c->mu);
    sbx_create_run(made, &waiter);
    return 0;
}

/* @return 0: the step goes on, or has ended; -1. */
static int try_item(item *it, bool look, sbx_err *err)
{
    int rc;

    if (it->since_ms && sbx_now_ms() - it->since_ms > WAIT_MS)
        return sbx_fail(err, SBX_E_CAPACITY, "it is still being created by an earlier request");
    for (int i = 0; i < MAX_TRIES; i++) {
        if (look && (rc = find_made(it, err)) != 0)
            return rc < 0 ? -1 : 0;
        if ((rc = make(it, err)) != 1)
            return rc;
        look = true;
    }
    return -1;
}

static void run_item(item *it, bool look)
{
    creating *c = it->c;
    sbx_err err;

    sbx_job_scope(0, NULL);
    if (atomic_load(&c->stopped)) {
        sbx_err_set(&err, SBX_E_CANCELLED, "it was not begun");
        item_failed(it, &err);
    } else if (try_item(it, look, &err)) {
        item_failed(it, &err);
    }
}

static void look_on_worker(void *arg)
{
    run_item(arg, true);
}

static void begin_item(void *arg, size_t i)
{
    creating *c = arg;

    c->items[i].since_ms = sbx_now_ms();
    id_of(c, i, 0, c->items[i].id);
    run_item(&c->items[i], c->resumed);
}

static void item_refused(void *arg, size_t i, const sbx_err *why)
{
    creating *c = arg;

    c->items[i].err = *why;
    if (c->atomic)
        stop(c);
}

/* --- the request --- */

static int refuse_to_go(const creating *c, size_t i, sbx_err *err)
{
    char where[MAX_PREFIX];

    prefix_of(c, i, where);
    where[strlen(where) - 1] = '\0';
    return sbx_fail_field(err, where, "%s: `wait` stands beside it, for all of them", where);
}

static int check_item(const creating *c, size_t i, sbx_err *err)
{
    sbx_spec spec = {0};
    int rc = sbx_spec_read(c->items[i].spec, &spec, err);

    bool wait = spec.wait;

    if (!rc && spec.template_name && !sbx_sandboxes_template(c->b->c.sandboxes, spec.template_name))
        rc = sbx_fail_field(err, "template", "template: there is no template \"%s\"",
                            spec.template_name);
    sbx_spec_done(&spec);
    if (rc)
        name_field(c, i, err);
    return rc ? rc : wait ? 0 : refuse_to_go(c, i, err);
}

static int read_items(creating *c, const body *b, sbx_err *err)
{
    const sbx_json *spec = sbx_json_first(b->sandboxes);

    if (b->sandboxes && (b->sandbox || b->count_given))
        return sbx_fail_field(err, b->sandbox ? "sandbox" : "count",
                              "give `count` and `sandbox`, or `sandboxes`");
    c->same = !b->sandboxes;
    c->count = (size_t)b->count;
    if (b->sandboxes)
        for (c->count = 0; spec; spec = sbx_json_next(spec))
            c->count++;
    c->items = sbx_alloc(c->count * sizeof(item));
    spec = !c->same ? sbx_json_first(b->sandboxes) : b->sandbox ? b->sandbox : c->none;
    for (size_t i = 0; i < c->count; i++) {
        c->items[i] = (item){.c = c, .spec = spec};
        if ((i == 0 || !c->same) && check_item(c, i, err))
            return -1;
        spec = c->same ? spec : sbx_json_next(spec);
    }
    return 0;
}

static int read_body(creating *c, const sbx_request *r, sbx_err *err)
{
    body b = {0};

    if (sbx_json_parse(r->body_len ? r->body : "{}", r->body_len ? r->body_len : 2, &c->root,
                       err) ||
        sbx_json_decode(c->root, sbx_creates_fields, &b, err) ||
        sbx_json_parse("{}", 2, &c->none, err))
        return -1;
    if (b.atomic && !b.wait)
        return sbx_fail_field(err, "wait", "wait: with `atomic` the answer tells that all run");
    c->atomic = b.atomic;
    c->wait = b.wait;
    c->held = b.atomic && !*c->claim;
    return read_items(c, &b, err);
}

int sbx_batch_create(sbx_batches *b, const char *owner, const sbx_batch_claim *claim,
                     const sbx_request *r, sbx_err *err)
{
    creating *c = sbx_alloc(sizeof(*c));
    sbx_reply_events watch = {.closed = client_closed, .arg = c};

    *c = (creating){
        .b = b, .reply = sbx_reply_ref(r->reply), .open = claim->open, .resumed = claim->resumed};
    atomic_init(&c->refs, 1);
    pthread_mutex_init(&c->mu, NULL);
    sbx_copy(c->owner, sizeof(c->owner), owner);
    sbx_copy(c->claim, sizeof(c->claim), claim->id ? claim->id : "");
    if (read_body(c, r, err) || (claim->admit && claim->admit(claim->arg, c->count, err))) {
        creating_unref(c);
        return -1;
    }
    c->f = (fan){.lanes = b->c.lanes,
                 .lane = SBX_LANE_SLOW,
                 .count = c->count,
                 .parallel = SBX_BATCH_PARALLEL,
                 .step = begin_item,
                 .refused = item_refused,
                 .over = all_over,
                 .arg = c};
    atomic_fetch_add(&c->refs, 1);
    sbx_reply_watch(c->reply, &watch);
    fan_begin(&c->f);
    return 0;
}
