/* The guide (guide.md), with what is known from tables filled in. By lines: a line may have one
 * {{mark}}; what stands between {{if NAME}} and {{end}}, with an {{else}} perhaps, is told only if
 * there is a route or a header of that name. */
#include "contract.h"

#include "guide.h"
#include "sbx/sandbox/state.h"

static void errors_table(sbx_buf *out)
{
    sbx_buf_adds(out, "| status | code | what |\n|---|---|---|\n");
    for (int c = SBX_OK + 1; c < SBX_E_COUNT; c++)
        if (c != SBX_E_CANCELLED)
            sbx_buf_addf(out, "| %d | `%s` | %s |\n", sbx_code_status((sbx_code)c),
                         sbx_code_wire((sbx_code)c), sbx_code_title((sbx_code)c));
}

static void states_table(sbx_buf *out)
{
    sbx_buf_adds(out, "| state | kind | may become |\n|---|---|---|\n");
    for (int from = 0; from < SBX_S_COUNT; from++) {
        const char *comma = "";

        sbx_buf_addf(out, "| `%s` | %s | ", sbx_state_wire((sbx_state)from),
                     sbx_state_transitional((sbx_state)from) ? "in between, with a deadline"
                                                             : "lasting");
        for (int to = 0; to < SBX_S_COUNT; to++)
            if (sbx_state_may((sbx_state)from, (sbx_state)to)) {
                sbx_buf_addf(out, "%s`%s`", comma, sbx_state_wire((sbx_state)to));
                comma = ", ";
            }
        sbx_buf_adds(out, " |\n");
    }
}

static void list_max(sbx_buf *out)
{
    sbx_buf_addf(out, "%d", SBX_MAX_LIST_ITEMS);
}

static const struct {
    const char *mark;
    void (*write)(sbx_buf *out);
} marks[] = {
    {"{{errors}}\n", errors_table}, {"{{states}}\n", states_table}, {"{{list-max}}", list_max}};

/* A route, or a header of requests. */
static bool there_is(const char *name, size_t len)
{
    for (size_t i = 0; i < sbx_api_route_count; i++)
        if (strlen(sbx_api_routes[i].name) == len && memcmp(sbx_api_routes[i].name, name, len) == 0)
            return true;
    for (const api_field *h = api_headers; h->name; h++)
        if (strlen(h->name) == len && memcmp(h->name, name, len) == 0)
            return true;
    return false;
}

static void add_line(sbx_buf *out, const char *line, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(marks); i++) {
        size_t n = strlen(marks[i].mark);
        const char *at = memmem(line, len, marks[i].mark, n);

        if (!at)
            continue;
        sbx_buf_add(out, line, (size_t)(at - line));
        marks[i].write(out);
        sbx_buf_add(out, at + n, len - n - (size_t)(at - line));
        return;
    }
    sbx_buf_add(out, line, len);
}

static bool is(const char *line, const char *mark)
{
    return strncmp(line, mark, strlen(mark)) == 0;
}

void api_guide(sbx_buf *out)
{
    const char *text = (const char *)api_guide_text;
    bool show = true;

    while (*text) {
        size_t len = strcspn(text, "\n") + 1;

        if (is(text, "{{if "))
            show = there_is(text + 5, strcspn(text + 5, "}"));
        else if (is(text, "{{else}}"))
            show = !show;
        else if (is(text, "{{end}}"))
            show = true;
        else if (show)
            add_line(out, text, len);
        text += len;
    }
}
