/* Idempotency-Key: a create that is repeated makes nothing again.
 *
 * The claim of the key is a row that is written before the handler runs, with the id that the
 * handler will use; the answer is held back until it stands in that row. A repeated request finds
 * the first answer there, or waits: it is kept without a thread and run again, ever less often,
 * until its deadline. After a crash the object with the claimed id tells what became of the first
 * request: what was made is answered for, what failed is run again with a new id, and what is
 * unfinished is waited for, because the reaper finishes it. A request that makes many things, or
 * whose handler asks for what is there already, is simply run again under its id (`rerun`): after a
 * crash, and when it did not come to its end.
 *
 * A stream of such a request is sent as it comes, and a copy of it is the answer.
 *
 * Remembered are successes and refusals that would be repeated; not what time or somebody else may
 * change (5xx, 401, 403, 429), and nothing of a client that left.
 *
 * Threads: a claim belongs to the request's reply, from the claim until the answer is on its way.
 */
#include "handlers.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include "sbx/store/idempotency.h"

#define FIRST_WAIT_MS 50
#define MAX_WAIT_MS   1000
#define RECORD_MS     10000
#define AGAIN_MS      1000
#define MAX_AGAIN     (64 * MIB) /* of answers whose recording is tried again */

static const sbx_header replayed = {"idempotency-replayed", "true"};

typedef struct claim {
    sbx_app *app;
    sbx_claim c;
    char owner[SBX_ID_LEN + 1], key[SBX_MAX_IDEMPOTENCY_KEY + 1], resource[SBX_ID_LEN + 1];
    bool again;   /* the answer is for what an earlier request made */
    bool resumed; /* an earlier request was run under this id */
    bool open;    /* not at its end: the next request goes on */
    sbx_reply *reply;
    sbx_answer *answer;
    int status; /* what is to be recorded; 0: nothing, the claim is given up */
    char *location;
    sbx_buf body;
} claim;

static void claim_free(claim *m)
{
    if (!m)
        return;
    free(m->location);
    sbx_buf_done(&m->body);
    free(m);
}
SBX_DEFINE_CLEANUP(claim, claim_free)

/* --- waiting --- */

typedef struct waiting {
    sbx_app *app;
    const sbx_request *r;
    int64_t ms;
} waiting;

static void wait_over(void *arg)
{
    waiting *w = arg;

    sbx_request_again(w->r);
    free(w);
}

static void wait_on_stream(void *arg)
{
    waiting *w = arg;

    (void)sbx_timer_new(w->app->stream, w->ms, wait_over, w);
}

static int wait_for_first(sbx_app *app, const sbx_request *r, sbx_err *err)
{
    int64_t waited = sbx_now_ms() - r->received_ms, left = sbx_job_left_ms(MAX_WAIT_MS);

    if (left <= 0)
        return sbx_fail(err, SBX_E_TIMEOUT,
                        "the first request with this Idempotency-Key still runs; repeat it later");
    waiting *w = sbx_alloc(sizeof(*w));
    *w = (waiting){.app = app, .r = r, .ms = SBX_MIN(SBX_MAX(waited / 8, FIRST_WAIT_MS), left)};
    w->ms = SBX_MIN(w->ms, MAX_WAIT_MS);
    sbx_stream_post(app->stream, wait_on_stream, w);
    return SBX_KEPT;
}

/* --- the answer --- */

static bool to_remember(const sbx_answer *a)
{
    return a->status < 400 || (a->status < 500 && a->status != 401 && a->status != 403 &&
                               a->status != 429 && a->problem.code != SBX_E_CANCELLED);
}

/* Which end the claim has. What is too large to be kept was answered once; a repetition is told so.
 */
static void decide(claim *m, const sbx_answer *a)
{
    bool whole = !sbx_buf_failed(&a->body);
    sbx_err gone;

    if (!to_remember(a) || !(whole || a->stream) || m->open)
        return;
    m->status = a->status;
    if (whole && a->body.len <= SBX_MAX_KEPT_ANSWER)
        return;
    sbx_fail(&gone, SBX_E_GONE,
             "the first request with this Idempotency-Key was answered, with more than is kept for "
             "a repetition (%u bytes)",
             SBX_MAX_KEPT_ANSWER);
    m->status = 410;
    sbx_buf_init(&m->body, 16 * KIB);
    sbx_reply_problem_json(m->reply, &gone, &m->body);
}

static int end_claim(const claim *m, const char *location, const sbx_buf *body, sbx_err *err)
{
    sbx_store *store = m->app->store;

    sbx_job_scope(sbx_now_ms() + RECORD_MS, NULL); /* also for a client that left */
    if (m->status)
        return sbx_store_idempotency_done(store, &m->c, m->status, location, body, err);
    return m->c.rerun ? sbx_store_idempotency_leave(store, &m->c, err)
                      : sbx_store_idempotency_release(store, &m->c, err);
}

static void end_later(claim *m);

static void end_again(void *arg)
{
    claim *m = arg;
    sbx_err err;

    atomic_fetch_sub(&m->app->claims_ending, sizeof(*m) + m->body.len);
    if (end_claim(m, m->location, &m->body, &err))
        end_later(m);
    else
        claim_free(m);
}

static void submit_end(void *arg)
{
    claim *m = arg;
    sbx_job job = {.run = end_again, .arg = m};
    sbx_err err;

    if (sbx_lanes_submit(m->app->lanes, SBX_LANE_REAP, &job, &err) == 0)
        return;
    atomic_fetch_sub(&m->app->claims_ending, sizeof(*m) + m->body.len);
    end_later(m);
}

static void end_on_stream(void *arg)
{
    claim *m = arg;

    (void)sbx_timer_new(m->app->stream, AGAIN_MS, submit_end, m);
}

/* The claim of a worker that lives is taken over by nobody, so its end is written as soon as the
 * database can be reached; but for what is beyond MAX_AGAIN. */
static void end_later(claim *m)
{
    size_t bytes = sizeof(*m) + m->body.len;

    if (atomic_fetch_add(&m->app->claims_ending, bytes) < MAX_AGAIN) {
        sbx_stream_post(m->app->stream, end_on_stream, m);
        return;
    }
    atomic_fetch_sub(&m->app->claims_ending, bytes);
    claim_free(m);
}

/* The answer goes to the client, and its copy waits for the database. */
static void keep(claim *m, const sbx_answer *a)
{
    if (m->status && m->body.len == 0) {
        m->location = sbx_strdup(a->location);
        sbx_buf_init(&m->body, SBX_MAX_KEPT_ANSWER + 1);
        sbx_buf_add(&m->body, a->body.data, a->body.len);
    }
    end_later(m);
}

/* What cannot be written down is answered all the same. */
static void record(void *arg)
{
    claim *m = arg;
    sbx_answer *a = m->answer;
    sbx_reply *reply = m->reply;
    const sbx_header *more = m->again ? &replayed : NULL;
    bool own = false;
    sbx_err err;

    decide(m, a);
    own = m->body.len > 0;
    if (end_claim(m, own ? NULL : a->location, own ? &m->body : &a->body, &err)) {
        sbx_log_err(SBX_WARN, "the answer to a request with a key will be recorded later", &err,
                    "req_id", sbx_reply_request_id(reply), NULL);
        keep(m, a);
    } else {
        claim_free(m);
    }
    sbx_answer_send(reply, a, more);
}

static void on_answer(void *arg, sbx_reply *reply, sbx_answer *a)
{
    claim *m = arg;
    sbx_job job = {.run = record, .arg = m};
    sbx_err err;

    m->reply = reply;
    m->answer = a;
    if (sbx_thread_role() == SBX_T_WORKER) {
        record(m);
    } else if (sbx_lanes_submit(m->app->lanes, SBX_LANE_FAST, &job, &err)) {
        decide(m, a);
        keep(m, a);
        sbx_answer_send(reply, a, NULL);
    }
}

/* What is kept is JSON, a problem among it, or the events of a stream, each of which has an id. */
static const char *type_of(const sbx_claim_found *found)
{
    if (found->answer.len && found->answer.data[0] == 'i')
        return "text/event-stream";
    return found->status < 400 ? "application/json" : "application/problem+json";
}

static int answer_as_first(const sbx_request *r, sbx_claim_found *found)
{
    sbx_header headers[2] = {replayed, {"location", found->location}};

    sbx_reply_send(r->reply, found->status, type_of(found), headers, found->location ? 2 : 1,
                   &found->answer);
    sbx_claim_found_done(found);
    return 0;
}

/* --- the request --- */

static int check_key(const char *key, sbx_err *err)
{
    size_t len = strnlen(key, SBX_MAX_IDEMPOTENCY_KEY + 1);
    bool ok = len > 0 && len <= SBX_MAX_IDEMPOTENCY_KEY;

    for (size_t i = 0; ok && i < len; i++)
        ok = key[i] > ' ' && key[i] < 0x7f;
    if (ok)
        return 0;
    return sbx_fail_field(err, "Idempotency-Key",
                          "Idempotency-Key: must have 1 to %d visible ASCII characters",
                          SBX_MAX_IDEMPOTENCY_KEY);
}

/* Keyed: a body may hold a password that could be guessed from a plain hash of it. */
static void fingerprint(const sbx_app *app, const sbx_request *r, unsigned char out[SBX_HASH_BYTES])
{
    SBX_CLEANUP_VAL(sbx_buf_done)
    sbx_buf b = SBX_BUF_INIT(r->body_len + SBX_MAX_URI_BYTES + KIB);

    sbx_buf_addf(&b, "%s\n%s\n", r->route->method, r->target);
    sbx_buf_add(&b, r->body ? r->body : "", r->body_len);
    sbx_crypt_fingerprint(app->crypt, b.data, b.len, out);
    sbx_wipe(b.data, b.len);
}

static claim *claim_new(sbx_app *app, const sbx_api_route *route, const sbx_principal *who,
                        const sbx_request *r)
{
    claim *m = sbx_alloc(sizeof(*m));

    m->app = app;
    sbx_copy(m->owner, sizeof(m->owner), who->user);
    sbx_copy(m->key, sizeof(m->key), r->idempotency_key);
    sbx_copy(m->resource, sizeof(m->resource), sbx_id_new().s);
    m->c = (sbx_claim){.owner = m->owner,
                       .key = m->key,
                       .worker = app->worker.s,
                       .resource = m->resource,
                       .rerun = route->rerun};
    fingerprint(app, r, m->c.fingerprint);
    return m;
}

/* The claim has its end when the request is answered. */
static int run_claimed(claim *m, const sbx_api_route *route, const sbx_principal *who,
                       const sbx_request *r, sbx_err *err)
{
    sbx_app *app = m->app;

    sbx_reply_intercept(r->reply, on_answer, m);
    return m->again ? route->made(app, who, r, m->resource, err) : route->handler(app, who, r, err);
}

int api_idempotent(sbx_app *app, const sbx_api_route *route, const sbx_principal *who,
                   const sbx_request *r, sbx_err *err)
{
    SBX_CLEANUP(claim_free) claim *m = NULL;
    sbx_claim_found found = {0};

    if (check_key(r->idempotency_key, err))
        return -1;
    if (r->accept != SBX_ACCEPT_JSON && !(route->rerun && route->sse))
        return sbx_fail_field(
            err, "Idempotency-Key",
            "Idempotency-Key: a stream is not kept for repetitions; ask for JSON, "
            "or send no key");
    m = claim_new(app, route, who, r);
    if (sbx_store_idempotency_claim(app->store, &m->c, &found, err)) {
        end_later(sbx_steal(m)); /* it may be ours all the same */
        return -1;
    }
    switch (found.state) {
    case SBX_CLAIM_MADE:
        sbx_copy(m->resource, sizeof(m->resource), found.resource);
        m->again = true;
        return run_claimed(sbx_steal(m), route, who, r, err);
    case SBX_CLAIM_MINE:
        m->resumed = strcmp(m->resource, found.resource) != 0;
        sbx_copy(m->resource, sizeof(m->resource), found.resource);
        return run_claimed(sbx_steal(m), route, who, r, err);
    case SBX_CLAIM_FIRST:
        return answer_as_first(r, &found);
    case SBX_CLAIM_OTHER:
        return sbx_fail(err, SBX_E_CONFLICT,
                        "this Idempotency-Key was used for another request within the last 24 "
                        "hours; use a new key for each thing to be made");
    case SBX_CLAIM_WAIT:
        break;
    }
    return wait_for_first(app, r, err);
}

const char *api_claimed_id(const sbx_request *r)
{
    claim *m = sbx_reply_interceptor(r->reply);

    return m ? m->resource : NULL;
}

const sbx_claim *api_claim(const sbx_request *r)
{
    claim *m = sbx_reply_interceptor(r->reply);

    return m ? &m->c : NULL;
}

void api_claim_named(const sbx_request *r, const char *id)
{
    claim *m = sbx_reply_interceptor(r->reply);

    if (m)
        sbx_copy(m->resource, sizeof(m->resource), id);
}

int api_claim_begun(const sbx_request *r, sbx_err *err)
{
    claim *m = sbx_reply_interceptor(r->reply);

    return m ? sbx_store_idempotency_begun(m->app->store, &m->c, err) : 0;
}

bool api_claim_resumed(const sbx_request *r)
{
    claim *m = sbx_reply_interceptor(r->reply);

    return m && m->resumed;
}

void api_claim_open(sbx_reply *reply)
{
    claim *m = sbx_reply_interceptor(reply);

    if (m)
        m->open = true;
}
