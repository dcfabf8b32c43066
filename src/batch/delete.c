/* Deleting many. Each is deleted as alone: its state first, so that what fails here is finished by
 * the cleanup. */
#include "batch_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/thread.h"
#include "sbx/store/groups.h"

#define ONE_MS 60000 /* for one of them */

typedef struct deleting {
    sbx_batches *b;
    fan f;
    sbx_reply *reply;
    char owner[SBX_ID_LEN + 1], group[SBX_ID_LEN + 1];
    char (*ids)[SBX_ID_LEN + 1];
    sbx_err *errs; /* one each; code SBX_OK: deleted */
    size_t count;
    bool more;
} deleting;

sbx_batches *sbx_batches_new(const sbx_batches_config *c)
{
    sbx_batches *b = sbx_alloc(sizeof(*b));

    b->c = *c;
    return b;
}

void sbx_batches_free(sbx_batches *b)
{
    free(b);
}

static void deleting_free(deleting *d)
{
    sbx_reply_unref(d->reply);
    free(d->ids);
    free(d->errs);
    free(d);
}

static void delete_one(void *arg, size_t i)
{
    deleting *d = arg;
    sbx_err err;

    sbx_job_scope(sbx_now_ms() + ONE_MS, NULL);
    if (sbx_sandbox_delete(d->b->c.sandboxes, d->owner, d->ids[i], &err) &&
        err.code != SBX_E_NOT_FOUND) /* gone for over a day is gone */
        d->errs[i] = err;
    fan_done(&d->f);
}

static void refused(void *arg, size_t i, const sbx_err *why)
{
    ((deleting *)arg)->errs[i] = *why;
}

static void answer(deleting *d)
{
    sbx_buf body = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    sbx_jw w = SBX_JW(&body);

    sbx_jw_obj(&w, NULL);
    sbx_jw_arr(&w, "deleted");
    for (size_t i = 0; i < d->count; i++)
        if (!d->errs[i].code)
            sbx_jw_str(&w, NULL, d->ids[i]);
    sbx_jw_arr_end(&w);
    sbx_jw_arr(&w, "failed");
    for (size_t i = 0; i < d->count; i++) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf problem = SBX_BUF_INIT(16 * KIB);

        if (!d->errs[i].code)
            continue;
        sbx_reply_problem_json(d->reply, &d->errs[i], &problem);
        sbx_jw_obj(&w, NULL);
        sbx_jw_str(&w, "id", d->ids[i]);
        sbx_jw_raw(&w, "problem", problem.data);
        sbx_jw_obj_end(&w);
    }
    sbx_jw_arr_end(&w);
    sbx_jw_bool(&w, "more", d->more);
    sbx_jw_obj_end(&w);
    sbx_reply_json(d->reply, 200, &body);
    sbx_buf_done(&body);
}

/* On a WORKER. */
static int delete_group(deleting *d, sbx_err *err)
{
    for (size_t i = 0; i < d->count; i++)
        if (d->errs[i].code)
            return 0;
    if (sbx_store_group_delete(d->b->c.store, d->owner, d->group, err) &&
        err->code != SBX_E_NOT_FOUND)
        return -1;
    return 0;
}

static void all_over(void *arg)
{
    deleting *d = arg;
    sbx_err err;

    sbx_job_scope(0, NULL);
    if (*d->group && delete_group(d, &err))
        sbx_reply_problem(d->reply, &err);
    else
        answer(d);
    deleting_free(d);
}

void sbx_batch_delete(sbx_batches *b, const sbx_batch_victims *v, const sbx_request *r)
{
    deleting *d = sbx_alloc(sizeof(*d));

    *d = (deleting){.b = b,
                    .f = {.lanes = b->c.lanes,
                          .lane = SBX_LANE_SLOW,
                          .count = v->count,
                          .parallel = SBX_BATCH_PARALLEL,
                          .step = delete_one,
                          .refused = refused,
                          .over = all_over,
                          .arg = d},
                    .reply = sbx_reply_ref(r->reply),
                    .ids = v->ids,
                    .errs = sbx_alloc((v->count + 1) * sizeof(sbx_err)),
                    .count = v->count,
                    .more = v->more};
    sbx_copy(d->owner, sizeof(d->owner), v->owner);
    sbx_copy(d->group, sizeof(d->group), v->group ? v->group : "");
    fan_begin(&d->f);
}
