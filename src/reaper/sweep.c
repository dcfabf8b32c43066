/* The sweep compares all containers of this installation with all rows.
 *
 * The rows are read first, so a container that is missing from the engine's later list was really
 * gone; a container without a row may be younger than the rows that were read, so it is removed
 * only when it is older than the grace, or was seen for so long, should the clocks disagree; and
 * after a second look at the database. One whose grace is not over yet is looked at when it is,
 * rather than in the next turn.
 *
 * A sweep that would remove more than 10 containers and over 20 % of the fleet removes none: more
 * likely the database is an old backup than so many sandboxes lost their rows. */
#include "reaper_priv.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"

#define MAX_ORPHANS  10
#define LEFT_OVER_MS 2000 /* whoever failed the row removes its container himself */
#define TRY_AGAIN_MS 2000

typedef struct sweep {
    sbx_reaper *r;
    sbx_sandbox_list rows;   /* that may have a container */
    sbx_sandbox_list failed; /* among the sandboxes of containers that have none of `rows` */
    sbx_container_info *containers;
    size_t count;
} sweep;

static int by_id(const void *a, const void *b)
{
    return strcmp(((const sbx_sandbox_row *)a)->id, ((const sbx_sandbox_row *)b)->id);
}

static int by_sandbox(const void *a, const void *b)
{
    return strcmp(((const sbx_container_info *)a)->sandbox_id,
                  ((const sbx_container_info *)b)->sandbox_id);
}

static const sbx_sandbox_row *row_of(const sbx_sandbox_list *l, const char *id)
{
    sbx_sandbox_row key;

    sbx_copy(key.id, sizeof(key.id), id);
    return l->count ? bsearch(&key, l->items, l->count, sizeof(sbx_sandbox_row), by_id) : NULL;
}

static const sbx_container_info *container_of(const sweep *s, const char *id)
{
    sbx_container_info key;

    sbx_copy(key.sandbox_id, sizeof(key.sandbox_id), id);
    return s->count ? bsearch(&key, s->containers, s->count, sizeof(key), by_sandbox) : NULL;
}

static int64_t seen_since(const sbx_reaper *r, const char *id, int64_t now_ms)
{
    for (size_t i = 0; i < r->orphan_count; i++)
        if (strcmp(r->orphans[i].id, id) == 0)
            return r->orphans[i].since_ms;
    return now_ms;
}

/* Remember which containers have no row, or a failed one. */
static void note_orphans(const sweep *s)
{
    sbx_reaper *r = s->r;
    orphan *now = sbx_alloc((s->count + 1) * sizeof(*now));
    int64_t now_ms = sbx_now_ms();
    size_t n = 0;

    for (size_t i = 0; i < s->count; i++) {
        if (row_of(&s->rows, s->containers[i].sandbox_id))
            continue;
        sbx_copy(now[n].id, sizeof(now[n].id), s->containers[i].id);
        now[n++].since_ms = seen_since(r, s->containers[i].id, now_ms);
    }
    free(r->orphans);
    r->orphans = now;
    r->orphan_count = n;
}

/* How long it has to stay still; by the wall clocks of two machines, or by what this process saw
 * itself. Not positive: no longer. */
static int64_t left_ms(const sweep *s, const sbx_container_info *c, int64_t since_wall_ms,
                       int64_t grace_ms)
{
    int64_t now_ms = sbx_now_ms();
    int64_t passed_ms =
        SBX_MAX(sbx_wall_ms() - since_wall_ms, now_ms - seen_since(s->r, c->id, now_ms));

    return grace_ms - passed_ms;
}

typedef enum kind { OF_A_ROW, LEFT_OVER, ORPHAN } kind;

/* LEFT_OVER: its row says `failed`, but removing it failed then: no doubt here, whatever their
 * number. @param ret_left_ms  of its grace */
static kind kind_of(const sweep *s, const sbx_container_info *c, int64_t *ret_left_ms)
{
    const sbx_sandbox_row *failed = row_of(&s->failed, c->sandbox_id);
    int64_t grace_ms = s->r->c.orphan_grace_s * 1000;

    *ret_left_ms = 0;
    if (row_of(&s->rows, c->sandbox_id))
        return OF_A_ROW;
    *ret_left_ms = failed ? left_ms(s, c, failed->state_changed_ms, SBX_MIN(LEFT_OVER_MS, grace_ms))
                          : left_ms(s, c, c->created_at_ms, grace_ms);
    return failed ? LEFT_OVER : ORPHAN;
}

/* A sweep before its turn, in so many milliseconds. */
static void look_again(sbx_reaper *r, int64_t in_ms)
{
    int64_t due = sbx_now_ms() + SBX_MAX(in_ms, 1), was = atomic_load(&r->sweep_due_ms);

    if (!was || due < was)
        atomic_store(&r->sweep_due_ms, due);
}

/* After a second look at the database. @return 1: it is gone, 0: it has a row, or -1. */
static int remove_orphan(sbx_reaper *r, const sbx_container_info *c, sbx_err *err)
{
    sbx_sandbox_row row = {0};
    int rc = sbx_store_sandbox_get(r->c.store, NULL, c->sandbox_id, &row, err);
    bool known = rc == 0 && strcmp(row.state, "deleted") != 0 && strcmp(row.state, "failed") != 0;

    sbx_sandbox_row_done(&row);
    if (known)
        return 0;
    if ((rc && err->code != SBX_E_NOT_FOUND) || r->c.engine->ops->remove(r->c.engine, c->id, err))
        return -1;
    sbx_log(SBX_INFO, "container without a row removed", "sandbox", c->sandbox_id, NULL);
    return 1;
}

static void sweep_away(sbx_reaper *r, const sbx_container_info *c)
{
    sbx_err err;
    int rc = remove_orphan(r, c, &err);

    if (rc > 0)
        sbx_metrics_add(r->c.metrics, SBX_M_REAPED, "orphan", 1);
    if (rc >= 0)
        return;
    sbx_log_err(SBX_WARN, "a container without a row could not be removed", &err, "sandbox",
                c->sandbox_id, NULL);
    look_again(r, TRY_AGAIN_MS);
}

static void refuse(const sweep *s, size_t orphans)
{
    sbx_metrics_add(s->r->c.metrics, SBX_M_REAPED, "refused", 1);
    sbx_log(SBX_ERROR,
            "sweep refused: too many containers have no row, as if the database had been restored "
            "from an old backup; `sandboxd sweep` lists them, and removes them with --confirm",
            "orphans", SBX_NUM(orphans), "containers", SBX_NUM(s->count), NULL);
}

static void remove_orphans(const sweep *s)
{
    size_t orphans = 0;
    int64_t left;

    for (size_t i = 0; i < s->count; i++) {
        kind k = kind_of(s, &s->containers[i], &left);

        if (k != OF_A_ROW && left > 0)
            look_again(s->r, left);
        else if (k == LEFT_OVER)
            sweep_away(s->r, &s->containers[i]);
        else
            orphans += k == ORPHAN;
    }
    if (orphans > MAX_ORPHANS && orphans * 5 > s->count) {
        refuse(s, orphans);
        return;
    }
    for (size_t i = 0; i < s->count; i++)
        if (kind_of(s, &s->containers[i], &left) == ORPHAN && left <= 0)
            sweep_away(s->r, &s->containers[i]);
}

static bool disagrees(const sbx_sandbox_row *row, const sbx_container_info *c)
{
    bool paused = c && strcmp(c->state, "paused") == 0;
    bool running = c && strcmp(c->state, "running") == 0;

    switch (sbx_state_parse(row->state)) {
    case SBX_S_RUNNING:
        return !running;
    case SBX_S_PAUSED:
        return !paused;
    case SBX_S_STOPPED:
        return running || paused;
    case SBX_S_STOPPING:
        return !running && !paused;
    default:
        return false;
    }
}

static void check_rows(const sweep *s)
{
    for (size_t i = 0; i < s->rows.count; i++) {
        const sbx_sandbox_row *row = &s->rows.items[i];
        sbx_err err;

        if (!disagrees(row, container_of(s, row->id)) ||
            sbx_sandbox_disagrees(s->r->c.sandboxes, row->id, &err) == 0)
            continue;
        sbx_sandbox_leave(s->r->c.sandboxes, row->id, &err);
        look_again(s->r, TRY_AGAIN_MS);
        if (err.code != SBX_E_CONFLICT)
            sbx_log_err(SBX_WARN, "a row and its container could not be brought together", &err,
                        "sandbox", row->id, NULL);
    }
}

static void sort_rows(sbx_sandbox_list *l)
{
    if (l->count)
        qsort(l->items, l->count, sizeof(sbx_sandbox_row), by_id);
}

/* Failed rows are many, and hardly any has a container still: only those are asked for. */
static int read_failed(sweep *s, sbx_err *err)
{
    const char **ids = sbx_alloc((s->count + 1) * sizeof(char *));
    size_t n = 0;

    for (size_t i = 0; i < s->count; i++)
        if (!row_of(&s->rows, s->containers[i].sandbox_id))
            ids[n++] = s->containers[i].sandbox_id;
    int rc = n ? sbx_store_sandbox_failed(s->r->c.store, ids, n, &s->failed, err) : 0;
    free(ids);
    sort_rows(&s->failed);
    return rc;
}

static int look(sweep *s, sbx_err *err)
{
    sbx_engine *e = s->r->c.engine;

    if (sbx_store_sandbox_all(s->r->c.store, &s->rows, err) ||
        e->ops->list(e, s->r->c.cluster, &s->containers, &s->count, err))
        return -1;
    sort_rows(&s->rows);
    if (s->count)
        qsort(s->containers, s->count, sizeof(sbx_container_info), by_sandbox);
    return read_failed(s, err);
}

static void sweep_done(sweep *s)
{
    sbx_sandbox_list_done(&s->rows);
    sbx_sandbox_list_done(&s->failed);
    free(s->containers);
}

void reaper_sweep(void *arg)
{
    sweep s = {.r = arg};
    sbx_err err;

    if (look(&s, &err)) {
        sbx_log_err(SBX_WARN, "sweep could not look", &err, NULL);
        look_again(s.r, TRY_AGAIN_MS);
    } else {
        check_rows(&s);
        note_orphans(&s);
        remove_orphans(&s);
    }
    sweep_done(&s);
}

int sbx_reaper_orphans(const sbx_reaper_config *c, bool confirmed, sbx_reaper_told told, void *arg,
                       sbx_err *err)
{
    sbx_reaper r = {.c = *c};
    sweep s = {.r = &r};
    int rc = look(&s, err), removed = 1;
    int64_t left;

    for (size_t i = 0; !rc && i < s.count; i++) {
        if (kind_of(&s, &s.containers[i], &left) != ORPHAN || left > 0)
            continue;
        if (confirmed)
            removed = remove_orphan(&r, &s.containers[i], err);
        if (removed > 0)
            told(arg, &s.containers[i]);
        rc = removed < 0 ? -1 : 0;
    }
    sweep_done(&s);
    return rc;
}
