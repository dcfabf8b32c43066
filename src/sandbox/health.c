/* Between the checks and the record: who is followed, and what is written of them. */
#include "sandboxes_priv.h"

#include "sbx/core/log.h"

#define MAX_REFRESH_BYTES (16 * MIB)

void sandbox_follow_health(sbx_sandboxes *s, const sbx_sandbox_row *row)
{
    if (!row->health && !row->readiness)
        return;
    if (row->health && strcmp(row->state, "running") == 0 && strcmp(row->worker, s->c.worker) == 0)
        sbx_checks_follow(s->c.checks, row->id, row->health, row->health_state);
    else
        sbx_checks_leave(s->c.checks, row->id);
}

/* A sandbox that does not run any more, or is another worker's, is left as it is. */
static int write_change(sbx_sandboxes *s, const sbx_health_news *n, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf state = SBX_BUF_INIT(4 * KIB);
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row row = {0};

    sbx_health_json(&n->health, &state);
    int rc = sbx_store_sandbox_health(s->c.store, n->sandbox, s->c.worker, state.data, &row, err);

    if (rc <= 0)
        return rc;
    sbx_log(SBX_INFO, "sandbox changed health", "sandbox", n->sandbox, "to",
            sbx_health_wire(n->health.status), "detail", n->health.message, NULL);
    sandbox_publish(s, &row);
    return 0;
}

static int refresh(sbx_sandboxes *s, const sbx_health_news *news, size_t count, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf all = SBX_BUF_INIT(MAX_REFRESH_BYTES);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf state = SBX_BUF_INIT(4 * KIB);
    sbx_jw w = SBX_JW(&all);
    size_t some = 0;

    sbx_jw_arr(&w, NULL);
    for (size_t i = 0; i < count; i++) {
        if (news[i].changed)
            continue;
        sbx_buf_reset(&state);
        sbx_health_json(&news[i].health, &state);
        sbx_jw_obj(&w, NULL);
        sbx_jw_str(&w, "id", news[i].sandbox);
        sbx_jw_raw(&w, "state", state.data);
        sbx_jw_obj_end(&w);
        some++;
    }
    sbx_jw_arr_end(&w);
    if (!some || sbx_buf_failed(&all)) /* too many at once: their turn comes again */
        return 0;
    return sbx_store_sandbox_health_refresh(s->c.store, s->c.worker, all.data, err);
}

int sbx_sandboxes_flush_health(sbx_sandboxes *s, sbx_err *err)
{
    sbx_health_news *news;
    size_t count = sbx_checks_take(s->c.checks, &news);
    int rc = 0;

    for (size_t i = 0; i < count; i++) {
        if (!news[i].changed)
            continue;
        if (!rc)
            rc = write_change(s, &news[i], err);
        if (rc)
            sbx_checks_return(s->c.checks, &news[i]);
    }
    if (!rc)
        rc = refresh(s, news, count, err); /* not given back: the next is as good */
    free(news);
    return rc;
}
