/* Questions to the agents: they are asked on STREAM, each has a time-out, and their end is told
 * once. What the answers say is listing.c's and sample.c's. */
#include "channel_priv.h"

#include <utlist.h>

question *question_find(channel *ch, uint32_t req)
{
    question *q;

    LL_SEARCH_SCALAR(ch->questions, q, req, req);
    return q;
}

void question_end(question *q, const sbx_usage *u, const sbx_err *err)
{
    LL_DELETE(q->ch->questions, q);
    sbx_timer_free(q->late);
    if (q->sample)
        q->sample(q->arg, u, err);
    else if (q->list)
        q->list->over(q->arg, err);
    free(q);
}

void questions_fail(channel *ch, sbx_code why, const char *text)
{
    sbx_err err;

    sbx_fail(&err, why, "the sandbox's agent was not heard: %s", text);
    while (ch->questions)
        question_end(ch->questions, NULL, &err);
}

bool question_refused(channel *ch, uint32_t req)
{
    question *q = question_find(ch, req);
    sbx_err err;

    if (q) {
        sbx_fail(&err, SBX_E_CAPACITY, "too many questions at once for this sandbox; try again");
        question_end(q, NULL, &err);
    }
    return q != NULL;
}

static void on_late(void *arg)
{
    question *q = arg;
    sbx_err err;

    q->late = NULL;
    sbx_fail(&err, SBX_E_TIMEOUT, "the sandbox's agent did not answer in time");
    question_end(q, NULL, &err);
}

static void begin(channel *ch, const question *asked, const char *exec_id)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(KIB);
    question *q = sbx_alloc(sizeof(*q));

    *q = *asked;
    q->ch = ch;
    q->req = command_free_req(ch);
    if (q->sample || q->list)
        q->late = sbx_timer_new(ch->set->stream, q->sample ? SBX_SAMPLE_MS : SBX_AGENT_ANSWER_MS,
                                on_late, q);
    LL_PREPEND(ch->questions, q);
    ch->used = true;
    if (!q->sample)
        frame_add_num(&b, SBX_T_COUNT, 0);
    if (*exec_id)
        frame_add(&b, SBX_T_EXEC_ID, exec_id, strlen(exec_id));
    channel_send(ch, q->sample ? SBX_F_STATS : SBX_F_LIST, q->req, b.data, b.len);
    channel_flush(ch);
}

void question_news(channel *ch)
{
    begin(ch, &(question){0}, "");
}

typedef struct asking {
    sbx_channels *set;
    char sandbox[SBX_ID_LEN + 1], exec_id[SBX_ID_LEN + 1];
    question asked;
} asking;

static void ask_on_stream(void *arg)
{
    asking *a = arg;
    channel *ch = channel_find(a->set, a->sandbox);
    sbx_err err;

    if (ch && ch->ready && ch->version >= 2) {
        begin(ch, &a->asked, a->exec_id);
    } else {
        sbx_fail(&err, SBX_E_CONFLICT, "%s",
                 ch && ch->ready ? SBX_OLD_AGENT : "this worker has no channel to the sandbox");
        if (a->asked.sample)
            a->asked.sample(a->asked.arg, NULL, &err);
        else
            a->asked.list->over(a->asked.arg, &err);
    }
    free(a);
}

static void ask(sbx_channels *c, const char *sandbox, const char *exec_id, const question *asked)
{
    asking *a = sbx_alloc(sizeof(*a));

    a->set = c;
    a->asked = *asked;
    sbx_copy(a->sandbox, sizeof(a->sandbox), sandbox);
    sbx_copy(a->exec_id, sizeof(a->exec_id), exec_id ? exec_id : "");
    sbx_stream_post(c->stream, ask_on_stream, a);
}

void sbx_channels_list(sbx_channels *c, const char *sandbox, const char *exec_id,
                       const sbx_list_events *events, void *arg)
{
    ask(c, sandbox, exec_id, &(question){.list = events, .arg = arg});
}

void sbx_channels_sample(sbx_channels *c, const char *sandbox, sbx_sample_fn fn, void *arg)
{
    ask(c, sandbox, NULL, &(question){.sample = fn, .arg = arg});
}
