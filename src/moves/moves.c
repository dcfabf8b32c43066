/* One object per parked request. It belongs to the worker that looks, or to STREAM's timer. That
 * the client leaves ends the looking, not the move. */
#include "sbx/moves/moves.h"

#include "sbx/core/clock.h"
#include "sbx/core/limits.h"

#define RETRY_MS     10 /* at first; then an eighth of what was waited already */
#define MAX_RETRY_MS 500
#define WAIT_MS      300000 /* beyond the grace: a restart may pull an image */

struct sbx_moves { /* immutable after new */
    sbx_moves_config c;
};

typedef struct body {
    int64_t grace_s;
    sbx_pairs env;
    char *template_name;
    const char *mode;
} body;

typedef struct parked {
    sbx_moves *m;
    sbx_reply *reply;
    char owner[SBX_ID_LEN + 1], sandbox[SBX_ID_LEN + 1];
    sbx_move move;
    int64_t from_ms, until_ms;
} parked;

#define AT(member) offsetof(body, member)
#define GRACE                                                                                      \
    {                                                                                              \
        "graceSeconds", SBX_JF_I64, AT(grace_s),                                                   \
            .min = 0, .max = SBX_MAX_GRACE_S, .dflt = SBX_DEFAULT_GRACE_S,                         \
            .doc = "from SIGTERM until the processes are killed"                                   \
    }
#define END_OF_FIELDS                                                                              \
    {                                                                                              \
        .name = NULL                                                                               \
    }

static const char *const modes[] = {"soft", "hard", NULL};

const sbx_json_field sbx_no_fields[] = {END_OF_FIELDS};
const sbx_json_field sbx_stop_fields[] = {GRACE, END_OF_FIELDS};
const sbx_json_field sbx_restart_fields[] = {
    GRACE,
    {"env", SBX_JF_PAIRS, AT(env), .nullable_each = true, .max = SBX_MAX_ENV,
     .max_each = SBX_MAX_ENV_BYTES, .doc = "changes of the environment; null removes a variable"},
    {"template", SBX_JF_STR, AT(template_name), .min = 1, .max = 64,
     .doc = "another template: a new container, so files are lost"},
    END_OF_FIELDS,
};
const sbx_json_field sbx_reset_fields[] = {
    {"mode", SBX_JF_ENUM, AT(mode), .values = modes,
     .doc = "default \"soft\": processes end, files stay; \"hard\": a new container"},
    END_OF_FIELDS,
};

static const sbx_json_field *fields_of(sbx_verb verb)
{
    switch (verb) {
    case SBX_V_STOP:
        return sbx_stop_fields;
    case SBX_V_RESTART:
        return sbx_restart_fields;
    case SBX_V_RESET:
        return sbx_reset_fields;
    default:
        return sbx_no_fields;
    }
}

sbx_moves *sbx_moves_new(const sbx_moves_config *c)
{
    sbx_moves *m = sbx_alloc(sizeof(*m));

    m->c = *c;
    return m;
}

void sbx_moves_free(sbx_moves *m)
{
    free(m);
}

static void parked_free(parked *p)
{
    sbx_reply_unref(p->reply);
    free((char *)p->move.template_name);
    sbx_pairs_done(&p->move.env);
    free(p);
}

static void answer(parked *p, sbx_sandbox_row *row)
{
    sbx_buf b = SBX_BUF_INIT(MIB);

    sbx_sandbox_json(row, &b);
    sbx_reply_json(p->reply, 200, &b);
    sbx_buf_done(&b);
    sbx_sandbox_row_done(row);
}

static void submit_look(void *arg);

static void wait_on_stream(void *arg)
{
    parked *p = arg;
    int64_t ms = SBX_MIN(SBX_MAX((sbx_now_ms() - p->from_ms) / 8, RETRY_MS), MAX_RETRY_MS);

    /* a timer's handle is not kept: the wait ends by itself */
    (void)sbx_timer_new(p->m->c.stream, ms, submit_look, p);
}

/* Owns `p` here; takes it over unless it fails. */
static int look(parked *p, sbx_err *err)
{
    sbx_sandbox_row row = {0};
    int rc = sbx_sandbox_move(p->m->c.sandboxes, p->owner, p->sandbox, &p->move, &row, err);

    if (rc < 0)
        return -1;
    if (rc == 0) {
        answer(p, &row);
        parked_free(p);
        return 0;
    }
    if (sbx_now_ms() > p->until_ms)
        return sbx_fail(err, SBX_E_TIMEOUT, "the sandbox is still on its way; read it later");
    sbx_stream_post(p->m->c.stream, wait_on_stream, p);
    return 0;
}

static void run_look(void *arg)
{
    parked *p = arg;
    sbx_err err;

    if (sbx_reply_gone(p->reply))
        parked_free(p);
    else if (look(p, &err)) {
        sbx_reply_problem(p->reply, &err);
        parked_free(p);
    }
}

static void submit_look(void *arg)
{
    parked *p = arg;
    sbx_job job = {.run = run_look, .arg = p};
    sbx_err err;

    if (sbx_lanes_submit(p->m->c.lanes, SBX_LANE_SLOW, &job, &err)) {
        sbx_reply_problem(p->reply, &err);
        parked_free(p);
    }
}

static int read_body(sbx_verb verb, const sbx_request *r, body *ret, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    const sbx_json_field *fields = fields_of(verb);

    if (sbx_json_parse(r->body_len ? r->body : "{}", r->body_len ? r->body_len : 2, &root, err) ||
        sbx_json_decode(root, fields, ret, err) || sbx_env_check("env", &ret->env, err)) {
        sbx_json_struct_done(fields, ret);
        return -1;
    }
    return 0;
}

int sbx_moves_start(sbx_moves *m, sbx_verb verb, const char *owner, const char *sandbox,
                    const sbx_request *r, sbx_err *err)
{
    body b = {0};

    if (read_body(verb, r, &b, err))
        return -1;
    parked *p = sbx_alloc(sizeof(*p));
    bool hard = b.mode && strcmp(b.mode, "hard") == 0;
    *p = (parked){.m = m,
                  .reply = sbx_reply_ref(r->reply),
                  .move = {.verb = verb,
                           .grace_s = (int)b.grace_s,
                           .fresh = hard || b.template_name,
                           .template_name = b.template_name,
                           .env = b.env},
                  .from_ms = sbx_now_ms()};
    p->until_ms = p->from_ms + b.grace_s * 1000 + WAIT_MS;
    sbx_copy(p->owner, sizeof(p->owner), owner);
    sbx_copy(p->sandbox, sizeof(p->sandbox), sandbox);
    if (look(p, err) == 0)
        return 0;
    parked_free(p);
    return -1;
}
