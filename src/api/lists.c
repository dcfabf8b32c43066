/* What lists have in common: how much of them, from where on, and the answer. */
#include "handlers.h"

#include <stdio.h>

int api_list_limit(const sbx_request *r, int *ret, sbx_err *err)
{
    const char *text = sbx_request_query(r, "limit");
    int64_t n = 50;

    if (text && !sbx_parse_i64(text, 1, SBX_MAX_LIST_ITEMS, &n))
        return sbx_fail_field(err, "limit", "limit: must be a whole number from 1 to %d",
                              SBX_MAX_LIST_ITEMS);
    *ret = (int)n;
    return 0;
}

/* A cursor is the last item's creation time in microseconds, a dash, and its id. */
int api_list_cursor(const sbx_request *r, int64_t *ret_us, const char **ret_id, char text[48],
                    sbx_err *err)
{
    const char *given = sbx_request_query(r, "cursor");

    if (!given)
        return 0;
    char *dash = sbx_copy(text, 48, given) ? strchr(text, '-') : NULL;
    if (dash)
        *dash++ = '\0';
    if (!dash || !sbx_id_valid(dash) || !sbx_parse_i64(text, 1, INT64_MAX, ret_us))
        return sbx_fail_field(err, "cursor", "cursor: use the nextCursor of the page before");
    *ret_id = dash;
    return 0;
}

void api_list_next_cursor(sbx_jw *w, bool more, int64_t us, const char *id)
{
    char cursor[48];

    snprintf(cursor, sizeof(cursor), "%lld-%s", (long long)us, id);
    sbx_jw_str(w, "nextCursor", more ? cursor : NULL);
}

const char *api_list_metadata(const sbx_request *r, sbx_buf *metadata)
{
    sbx_jw w = SBX_JW(metadata);
    bool some = false;

    sbx_jw_obj(&w, NULL);
    for (size_t i = 0; i < r->query_count; i++) {
        const char *name = r->query[i].name;

        if (strncmp(name, "metadata.", 9) == 0) {
            sbx_jw_str(&w, name + 9, r->query[i].value);
            some = true;
        }
    }
    sbx_jw_obj_end(&w);
    return some ? metadata->data : NULL;
}

int api_list_page(const sbx_request *r, sbx_page *ret, char text[48], sbx_err *err)
{
    if (api_list_limit(r, &ret->limit, err) ||
        api_list_cursor(r, &ret->before_us, &ret->before_id, text, err))
        return -1;
    ret->limit++;
    return 0;
}

void api_list_answer(const sbx_request *r, const sbx_page *page, const api_items *l)
{
    sbx_buf b = SBX_BUF_INIT(SBX_MAX_RESPONSE_BYTES);
    sbx_jw w = SBX_JW(&b);
    size_t n = SBX_MIN(l->count, (size_t)page->limit - 1);
    const char *last = n ? (const char *)l->items + (n - 1) * l->size : NULL;

    sbx_jw_obj(&w, NULL);
    sbx_jw_arr(&w, "items");
    for (size_t i = 0; i < n; i++)
        l->write(&w, (const char *)l->items + i * l->size);
    sbx_jw_arr_end(&w);
    api_list_next_cursor(&w, l->count > n, last ? *(const int64_t *)(last + l->created_at) : 0,
                         last ? last + l->id_at : "");
    sbx_jw_obj_end(&w);
    sbx_reply_json(r->reply, 200, &b);
    sbx_buf_done(&b);
}
