/* Lists of the commands of a sandbox, and news of them: both are ENTRY frames. What an agent
 * says is hostile; entries that cannot be are left out, so that a record never harms its batch. */
#include "channel_priv.h"

#include "sbx/core/thread.h"

static void add_arg(sbx_jw *w, const sbx_field *f)
{
    size_t len = f->len - sbx_utf8_tail(f->data, f->len); /* the last one may have been cut */

    if (sbx_utf8_valid(f->data, len) && !memchr(f->data, 0, len))
        sbx_jw_strn(w, NULL, f->data, len);
    else
        sbx_jw_str(w, NULL, "?");
}

/* Fields that are no numbers. @return whether a record of this end belongs to the entry. */
static bool read_texts(const sbx_frame *f, sbx_command_entry *e, sbx_buf *command, bool *ret_over)
{
    sbx_jw w = SBX_JW(command);
    sbx_fields fields;
    sbx_field field;
    int more;

    sbx_jw_arr(&w, NULL);
    sbx_fields_init(&fields, f->payload, f->len);
    while ((more = sbx_fields_next(&fields, &field)) == 1) {
        if (field.tag == SBX_T_ARG)
            add_arg(&w, &field);
        else if (field.tag == SBX_T_EXEC_ID && field.len == SBX_ID_LEN)
            memcpy(e->exec_id, field.data, field.len);
        else if (field.tag == SBX_T_COUNT)
            e->followers_known = true;
        *ret_over |= field.tag == SBX_T_EXIT_CODE;
    }
    sbx_jw_arr_end(&w);
    return more == 0;
}

/* False: malformed. An id of "" means that the entry says nothing. */
static bool read_entry(const channel *ch, const sbx_frame *f, sbx_command_entry *e,
                       sbx_buf *command)
{
    uint64_t n[EXIT_NUMS] = {0};

    if (!frame_nums(f, n, ARRAY_LEN(n)) || !read_texts(f, e, command, &e->over))
        return false;
    if (!sbx_id_valid(e->exec_id))
        *e->exec_id = '\0';
    e->command = sbx_buf_failed(command) ? "[]" : command->data;
    e->started_ms = (int64_t)SBX_MIN(n[SBX_T_STARTED_MS], (uint64_t)1 << 43);
    e->pid = (int64_t)(n[SBX_T_PID] & INT32_MAX);
    e->flags = (uint32_t)n[SBX_T_FLAGS];
    e->oldest_seq = n[SBX_T_OLDEST_SEQ];
    e->next_seq = SBX_MIN(SBX_MAX(n[SBX_T_NEXT_SEQ], (uint64_t)1), (uint64_t)1 << 62);
    e->followers = n[SBX_T_COUNT];
    if (!e->over)
        return true;
    n[SBX_T_SEQ] = e->next_seq;
    return command_exit_read(ch, n, n[SBX_T_EXIT_FLAGS], &e->exit);
}

static void tell_busy(channel *ch, int by)
{
    if (ch->set->events.busy)
        ch->set->events.busy(ch->set->events.arg, ch->id, by);
}

static void drop_alive(channel *ch, alive *a)
{
    HASH_DEL(ch->alive, a);
    free(a);
    tell_busy(ch, -1);
}

/* The main process is no activity: it may run for ever. Nor is a context that waits for code. */
static void count_alive(channel *ch, const sbx_command_entry *e)
{
    alive *a;

    HASH_FIND_STR(ch->alive, e->exec_id, a);
    if (a && e->over) {
        drop_alive(ch, a);
    } else if (!a && !e->over && !(e->flags & (SBX_EXEC_MAIN | SBX_EXEC_CONTEXT)) &&
               HASH_COUNT(ch->alive) < MAX_ALIVE) {
        a = sbx_alloc(sizeof(*a));
        memcpy(a->id, e->exec_id, sizeof(a->id));
        HASH_ADD_STR(ch->alive, id, a);
        tell_busy(ch, 1);
    }
}

static void tell_news(channel *ch, const sbx_command_entry *e)
{
    sbx_channel_events *events = &ch->set->events;

    if (e->flags & SBX_EXEC_CHECK)
        return;
    count_alive(ch, e);
    if (events->news)
        events->news(events->arg, ch->id, e);
}

static bool take_entry(channel *ch, const sbx_frame *f)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf command = SBX_BUF_INIT(SBX_MAX_COMMAND_TEXT);
    sbx_command_entry e = {0};
    question *q = question_find(ch, f->req);

    if (!read_entry(ch, f, &e, &command))
        return false;
    e.fresh = !f->req;
    if (!*e.exec_id || (f->req && !q))
        return true;
    if (q && q->list)
        q->list->entry(q->arg, &e);
    else if (!q || !q->sample)
        tell_news(ch, &e);
    return true;
}

bool listing_frame(channel *ch, const sbx_frame *f)
{
    if (f->type == SBX_F_ENTRY)
        return take_entry(ch, f);
    question *q = question_find(ch, f->req);

    if (q && !q->sample)
        question_end(q, NULL, NULL);
    return true;
}

void listing_no_activity(channel *ch)
{
    while (ch->alive)
        drop_alive(ch, ch->alive);
}
