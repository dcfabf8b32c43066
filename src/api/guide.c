/* The guide (guide.md), with what is known from tables filled in. */
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

void api_guide(sbx_buf *out)
{
    const char *text = (const char *)api_guide_text;

    while (*text) {
        const char *open = strstr(text, "{{");
        bool known = false;

        sbx_buf_add(out, text, open ? (size_t)(open - text) : strlen(text));
        if (!open)
            return;
        for (size_t i = 0; i < ARRAY_LEN(marks) && !known; i++) {
            size_t n = strlen(marks[i].mark);

            if (strncmp(open, marks[i].mark, n) == 0) {
                marks[i].write(out);
                text = open + n;
                known = true;
            }
        }
        if (!known) {
            sbx_buf_add(out, open, 2);
            text = open + 2;
        }
    }
}
