/* The service object: templates, the programs for sandboxes, the state setter, the JSON view. */
#include "sandboxes_priv.h"

#include "sbx/core/crypt.h"
#include "sbx/core/log.h"
#include "sbx/store/pools.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_PROGRAM_BYTES (8 * MIB)

int sbx_templates_parse(const char *text, sbx_template *ret, size_t *ret_count, sbx_err *err)
{
    size_t count = 0;

    while (*text) {
        size_t len = strcspn(text, ",");
        const char *eq = memchr(text, '=', len);

        if (count == SBX_MAX_TEMPLATES || !eq || eq == text || eq - text > 64 ||
            len - (size_t)(eq - text) > SBX_MAX_IMAGE_BYTES || eq + 1 == text + len)
            return sbx_fail(err, SBX_E_INVALID,
                            "option --templates: \"%s\" must be a list name=image,name=image of at "
                            "most %d entries",
                            text, SBX_MAX_TEMPLATES);
        sbx_template *t = &ret[count++];
        snprintf(t->name, sizeof(t->name), "%.*s", (int)(eq - text), text);
        snprintf(t->image, sizeof(t->image), "%.*s", (int)(text + len - eq - 1), eq + 1);
        text += len + (text[len] == ',');
    }
    *ret_count = count;
    return 0;
}

static int read_program(const char *path, const char *option, sbx_volume_file *ret, sbx_err *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st)) {
        sbx_fail(err, SBX_E_INVALID,
                 "the program %s: %s; build it (it comes with sandboxd) or set option --%s", path,
                 strerror(errno), option);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    bool ok = S_ISREG(st.st_mode) && st.st_size > 0 && st.st_size <= (off_t)MAX_PROGRAM_BYTES;
    if (ok) {
        void *data = sbx_alloc((size_t)st.st_size);

        ret->data = data;
        ret->len = (size_t)st.st_size;
        ok = read(fd, data, ret->len) == st.st_size;
    }
    close(fd);
    return ok ? 0
              : sbx_fail(err, SBX_E_INVALID,
                         "the program %s cannot be read as a whole; see option --%s", path, option);
}

static int read_programs(sbx_sandboxes *s, sbx_err *err)
{
    unsigned char hashes[ARRAY_LEN(s->programs)][SBX_HASH_BYTES], all[SBX_HASH_BYTES];
    char hex[2 * 8 + 1];

    s->programs[0].name = "sbx-agent";
    s->programs[1].name = "sbx-files";
    if (read_program(s->c.agent_path, "agent-path", &s->programs[0], err) ||
        read_program(s->c.files_path, "files-path", &s->programs[1], err))
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(s->programs); i++)
        sbx_sha256(s->programs[i].data, s->programs[i].len, hashes[i]);
    sbx_sha256(hashes, sizeof(hashes), all);
    sbx_hex(all, 8, hex);
    /* the cluster in the name: another installation that is purged must not take it along */
    snprintf(s->volume, sizeof(s->volume), "sandboxd-agent-%s-%s", hex, s->c.cluster);
    return 0;
}

int sbx_sandboxes_new(const sbx_sandboxes_config *c, sbx_sandboxes **ret, sbx_err *err)
{
    sbx_sandboxes *s = sbx_alloc(sizeof(*s));

    s->c = *c;
    s->troubles = sandbox_troubles_new(c->pause_retry_s * 1000);
    s->unfinished = sandbox_unfinished_new();
    if (sbx_templates_parse(c->templates, s->templates, &s->template_count, err) ||
        read_programs(s, err)) {
        sbx_sandboxes_free(s);
        return -1;
    }
    sbx_images_config images = {.stream = c->stream,
                                .engine = c->engine,
                                .metrics = c->metrics,
                                .timeout_ms = c->pull_timeout_s * 1000,
                                .progress = sandbox_pull_progress,
                                .arg = s};
    s->images = sbx_images_new(&images);
    s->fetches = sandbox_fetches_new(s);
    if (sandbox_pools_new(s, c->pool, &s->pools, err)) {
        sbx_sandboxes_free(s);
        return -1;
    }
    *ret = s;
    return 0;
}

void sbx_sandboxes_free(sbx_sandboxes *s)
{
    if (!s)
        return;
    sandbox_fetches_free(s->fetches);
    sandbox_pools_free(s->pools);
    sbx_images_free(s->images);
    sandbox_troubles_free(s->troubles);
    sandbox_unfinished_free(s->unfinished);
    for (size_t i = 0; i < ARRAY_LEN(s->programs); i++)
        free((void *)s->programs[i].data);
    free(s);
}

void sbx_sandboxes_interrupt(sbx_sandboxes *s)
{
    sbx_images_stop(s->images);
    sbx_checks_shutdown(s->c.checks);
}

sbx_images *sbx_sandboxes_images(const sbx_sandboxes *s)
{
    return s->images;
}

sbx_ledger *sbx_sandboxes_ledger(const sbx_sandboxes *s)
{
    return s->c.ledger;
}

int sbx_sandboxes_prepare(sbx_sandboxes *s, sbx_err *err)
{
    return s->c.engine->ops->volume_ensure(s->c.engine, s->volume, s->c.cluster, s->programs,
                                           ARRAY_LEN(s->programs), err);
}

void sbx_sandbox_container(const char *id, char out[SBX_ID_LEN + 8])
{
    snprintf(out, SBX_ID_LEN + 8, "sbx-%s", id);
}

int sandbox_remove_container(sbx_sandboxes *s, const char *id, sbx_err *err)
{
    char name[SBX_ID_LEN + 8];

    sbx_sandbox_container(id, name);
    return s->c.engine->ops->remove(s->c.engine, name, err);
}

int sandbox_remove_own(sbx_sandboxes *s, const sbx_sandbox_row *row, sbx_err *err)
{
    return *row->container_id ? s->c.engine->ops->remove(s->c.engine, row->container_id, err)
                              : sandbox_remove_container(s, row->id, err);
}

/* --- the state setter --- */

static void reason_json(const reason *r, sbx_buf *b)
{
    sbx_jw w = SBX_JW(b);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "code", r->code);
    sbx_jw_str(&w, "message", r->message ? r->message : "");
    if (r->exit_code >= 0)
        sbx_jw_int(&w, "exitCode", r->exit_code);
    if (r->exit_code > 128 && r->exit_code <= 192)
        sbx_jw_signal(&w, "signal", r->exit_code - 128);
    if (r->oom_killed)
        sbx_jw_bool(&w, "oomKilled", true);
    sbx_jw_obj_end(&w);
}

void sandbox_reason(const sbx_sandbox_row *row, reason *ret, sbx_json **json)
{
    sbx_err ignored;

    *ret = (reason){.exit_code = -1};
    *json = NULL;
    if (!row->reason || sbx_json_parse(row->reason, strlen(row->reason), json, &ignored))
        return;
    ret->code = sbx_json_str(sbx_json_get(*json, "code"));
    ret->message = sbx_json_str(sbx_json_get(*json, "message"));
}

/* That what is no user's was deleted is told all the same: its log may go. */
void sandbox_publish(sbx_sandboxes *s, const sbx_sandbox_row *row)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf json = SBX_BUF_INIT(MIB);
    bool nobodys = row->pool || strcmp(row->owner, SBX_POOL_OWNER) == 0;

    if (nobodys && strcmp(row->state, sbx_state_wire(SBX_S_DELETED)) != 0)
        return;
    sbx_sandbox_json(row, &json);
    if (!sbx_buf_failed(&json) && s->c.changed)
        s->c.changed(s->c.arg, row, json.data);
}

/* Does what ran in its container end with this move? */
static bool ends(sbx_state from, sbx_state to)
{
    return (to == SBX_S_STOPPED || to == SBX_S_STARTING || to == SBX_S_FAILED) &&
           from != SBX_S_CREATING && from != SBX_S_STOPPED && from != SBX_S_FAILED;
}

/* Left free in the numbers of a log whose end nobody has seen: viewers are told a gap. */
#define LOG_SKIP 100000

/* The number that the log of a next start goes on behind: higher than any that a viewer has seen.
 */
static uint64_t end_of_log(sbx_sandboxes *s, const sbx_sandbox_row *row)
{
    char topic[8 + SBX_ID_LEN];
    uint64_t last = 0;
    sbx_err ignored;

    snprintf(topic, sizeof(topic), "logs:%s", row->id);
    if (s->c.bus->ops->last_seq(s->c.bus, topic, &last, &ignored) || !last)
        return row->log_seq + LOG_SKIP;
    return last;
}

/* Nothing will run any more: what is known of its commands is written first, as the statement that
 * changes the state takes those for lost that have not ended. */
static void write_commands(sbx_sandboxes *s)
{
    sbx_sandbox_refs frozen = {0};
    sbx_err err;

    if (sbx_ledger_flush(s->c.ledger, &frozen, &err)) /* it is tried again by the tick */
        sbx_log_err(SBX_WARN, "records of commands were not written", &err, NULL);
    sbx_sandbox_refs_done(&frozen); /* what is still active is found by the tick */
}

void sandbox_count_refusal(sbx_sandboxes *s, const sbx_err *err)
{
    if (err->quota.limit[0])
        sbx_metrics_add(s->c.metrics, SBX_M_QUOTA_REFUSALS, err->quota.limit, 1);
}

int sandbox_set_state(sbx_sandboxes *s, sbx_sandbox_row *row, const move *m, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf why = SBX_BUF_INIT(4 * KIB);
    sbx_state from = sbx_state_parse(row->state);

    if (from == SBX_S_COUNT || !sbx_state_may(from, m->to))
        return sbx_fail(err, SBX_E_CONFLICT, "the sandbox is %s", row->state);
    if (m->why.code)
        reason_json(&m->why, &why);
    sbx_state_change change = {.id = row->id,
                               .from = row->state,
                               .to = sbx_state_wire(m->to),
                               .reason = m->why.code ? why.data : NULL,
                               .worker = m->worker,
                               .container_id = m->container_id,
                               .image_user = m->image_user,
                               .deadline_s = m->deadline_s,
                               .started = m->started,
                               .goal = m->goal,
                               .template_name = m->template_name,
                               .image = m->image,
                               .expiry = m->expiry,
                               .change = row->change};
    sbx_sandbox_row fresh = {0};

    if (ends(from, m->to)) {
        write_commands(s);
        change.log_seq = end_of_log(s, row);
    }
    if (sbx_store_sandbox_set_state(s->c.store, &change, &fresh, err)) {
        sandbox_count_refusal(s, err);
        sbx_sandbox_leave(s, row->id, err); /* it may have been done, or not */
        return -1;
    }
    sbx_log(SBX_INFO, "sandbox changed state", "sandbox", row->id, "from", row->state, "to",
            fresh.state, "reason", m->why.code, "detail", m->why.message, NULL);
    sbx_sandbox_row_done(row);
    *row = fresh;
    sandbox_publish(s, row);
    sandbox_follow_health(s, row);
    return 0;
}

int sbx_sandbox_alert(sbx_sandboxes *s, const char *id, const char *code, const char *message,
                      sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf why = SBX_BUF_INIT(KIB);
    SBX_CLEANUP_VAL(sbx_sandbox_row_done) sbx_sandbox_row row = {0};
    reason r = {code, message, -1, false};

    reason_json(&r, &why);
    int rc = sbx_store_sandbox_alert(s->c.store, id, s->c.worker, why.data, &row, err);

    if (rc <= 0)
        return rc;
    sbx_log(SBX_INFO, "sandbox alert", "sandbox", id, "alert", code, NULL);
    sandbox_publish(s, &row);
    return 0;
}

/* --- the view --- */

static void limits_json(sbx_jw *w, const sbx_sandbox_row *r)
{
    sbx_jw_obj(w, "limits");
    sbx_jw_milli(w, "cpus", r->cpu_milli);
    sbx_jw_int(w, "memoryMb", r->memory_mb);
    sbx_jw_int(w, "pids", r->pids);
    if (r->disk_mb)
        sbx_jw_int(w, "diskMb", r->disk_mb);
    else
        sbx_jw_null(w, "diskMb");
    sbx_jw_obj_end(w);
}

/* Both texts are objects; what stands in the second is added to the first. */
static void joined_json(sbx_jw *w, const char *name, const char *object, const char *more)
{
    if (!object) {
        sbx_jw_null(w, name);
        return;
    }
    sbx_jw_raw(w, name, "");
    sbx_buf_add(w->out, object, strlen(object) - 1);
    sbx_buf_addc(w->out, ',');
    sbx_buf_adds(w->out, more + 1);
}

static const char *readiness_status(const sbx_sandbox_row *r)
{
    switch (sbx_state_parse(r->state)) {
    case SBX_S_RUNNING:
    case SBX_S_PAUSING:
    case SBX_S_PAUSED:
    case SBX_S_RESUMING:
        return "{\"status\":\"ready\"}";
    case SBX_S_FAILED:
    case SBX_S_STOPPED:
        if (r->reason && strstr(r->reason, "{\"code\":\"not_ready\"") == r->reason)
            return "{\"status\":\"failed\"}";
        /* fall through */
    default:
        return "{\"status\":\"waiting\"}";
    }
}

static void checks_json(sbx_jw *w, const sbx_sandbox_row *r)
{
    static const char unknown[] =
        "{\"status\":\"starting\",\"failures\":0,\"checkedAt\":null,\"message\":null}";

    joined_json(w, "readiness", r->readiness, readiness_status(r));
    joined_json(w, "health", r->health, r->health_state ? r->health_state : unknown);
}

void sbx_sandbox_json(const sbx_sandbox_row *r, sbx_buf *out)
{
    sbx_jw w = SBX_JW(out);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "id", r->id);
    sbx_jw_str(&w, "name", r->name);
    sbx_jw_str(&w, "template", r->template_name);
    sbx_jw_str(&w, "image", r->image);
    sbx_jw_str(&w, "state", r->state);
    sbx_jw_raw(&w, "stateReason", r->reason);
    sbx_jw_time(&w, "stateChangedAt", r->state_changed_ms);
    limits_json(&w, r);
    sbx_jw_str(&w, "size", r->size);
    sbx_jw_obj(&w, "network");
    sbx_jw_str(&w, "mode", r->network);
    sbx_jw_arr(&w, "allow");
    sbx_jw_arr_end(&w);
    sbx_jw_obj_end(&w);
    sbx_jw_raw(&w, "metadata", r->metadata);
    sbx_jw_raw(&w, "envNames", r->env_names);
    sbx_jw_int(&w, "timeoutSeconds", r->timeout_s);
    sbx_jw_int(&w, "idleTimeoutSeconds", r->idle_timeout_s);
    sbx_jw_str(&w, "onTimeout", r->on_timeout);
    sbx_jw_str(&w, "onIdle", r->on_idle);
    sbx_jw_time(&w, "createdAt", r->created_ms);
    sbx_jw_time(&w, "startedAt", r->started_ms);
    sbx_jw_time(&w, "lastActiveAt", r->last_active_ms);
    sbx_jw_time(&w, "expiresAt", r->expires_ms);
    sbx_jw_bool(&w, "warm", r->warm);
    sbx_jw_str(&w, "runtime", *r->runtime ? r->runtime : NULL);
    sbx_jw_str(&w, "host", *r->host ? r->host : NULL);
    sbx_jw_str(&w, "diskLimit", *r->disk_limit ? r->disk_limit : "none");
    checks_json(&w, r);
    sbx_jw_obj_end(&w);
}
