/* A renderer by lines: each line says by how it begins what it is. */
#include "markdown.h"

void api_html_text(sbx_buf *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        switch (text[i]) {
        case '<':
            sbx_buf_adds(out, "&lt;");
            break;
        case '>':
            sbx_buf_adds(out, "&gt;");
            break;
        case '&':
            sbx_buf_adds(out, "&amp;");
            break;
        case '"':
            sbx_buf_adds(out, "&quot;");
            break;
        default:
            sbx_buf_addc(out, text[i]);
        }
    }
}

void api_html_slug(sbx_buf *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        if (c >= 'A' && c <= 'Z')
            c = (char)(c | 0x20);
        sbx_buf_addc(out, (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ? c : '-');
    }
}

/* --- within a line --- */

static const char *find(const char *from, const char *end, const char *mark)
{
    return from < end ? memmem(from, (size_t)(end - from), mark, strlen(mark)) : NULL;
}

static const char *wrapped(sbx_buf *out, const char *at, const char *end, const char *mark,
                           const char *tag)
{
    size_t n = strlen(mark);
    const char *close = find(at + n, end, mark);

    if (!close)
        return NULL;
    sbx_buf_addf(out, "<%s>", tag);
    api_html_text(out, at + n, (size_t)(close - at) - n);
    sbx_buf_addf(out, "</%s>", tag);
    return close + n;
}

static const char *linked(sbx_buf *out, const char *at, const char *end)
{
    const char *middle = find(at, end, "](");
    const char *close = middle ? find(middle, end, ")") : NULL;

    if (!close || middle[2] != '#')
        return NULL;
    sbx_buf_adds(out, "<a href=\"");
    api_html_text(out, middle + 2, (size_t)(close - middle) - 2);
    sbx_buf_adds(out, "\">");
    api_html_text(out, at + 1, (size_t)(middle - at) - 1);
    sbx_buf_adds(out, "</a>");
    return close + 1;
}

void api_html_inline(sbx_buf *out, const char *text, size_t len)
{
    const char *end = text + len;

    while (text < end) {
        const char *next = NULL;

        if (*text == '`')
            next = wrapped(out, text, end, "`", "code");
        else if (*text == '*' && end - text > 1 && text[1] == '*')
            next = wrapped(out, text, end, "**", "strong");
        else if (*text == '[')
            next = linked(out, text, end);
        if (!next) {
            api_html_text(out, text, 1);
            next = text + 1;
        }
        text = next;
    }
}

/* --- lines --- */

typedef enum block { B_NONE, B_TEXT, B_LIST, B_TABLE, B_CODE } block;

static void change(sbx_buf *out, block *from, block to)
{
    static const char *const opens[] = {"", "<p>", "<ul>\n", "<table>\n", "<pre><code>"};
    static const char *const closes[] = {"", "</p>\n", "</ul>\n", "</table>\n", "</code></pre>\n"};

    if (*from == to)
        return;
    sbx_buf_adds(out, closes[*from]);
    sbx_buf_adds(out, opens[to]);
    *from = to;
}

static void heading(sbx_buf *out, const char *line, size_t len)
{
    size_t level = strspn(line, "#"), skip = level + 1;

    if (len < skip)
        return;
    sbx_buf_addf(out, "<h%zu id=\"", level);
    api_html_slug(out, line + skip, len - skip);
    sbx_buf_adds(out, "\">");
    api_html_inline(out, line + skip, len - skip);
    sbx_buf_addf(out, "</h%zu>\n", level);
}

/* "| a | b |"; the line of dashes below the head is left out. */
static void row(sbx_buf *out, const char *line, size_t len, bool head)
{
    const char *end = line + len, *at = line + 1;

    if (len > 1 && line[1] == '-')
        return;
    sbx_buf_adds(out, "<tr>");
    while (at < end) {
        const char *bar = memchr(at, '|', (size_t)(end - at));
        const char *stop = bar ? bar : end;

        while (at < stop && *at == ' ')
            at++;
        while (stop > at && stop[-1] == ' ')
            stop--;
        sbx_buf_adds(out, head ? "<th>" : "<td>");
        api_html_inline(out, at, (size_t)(stop - at));
        sbx_buf_adds(out, head ? "</th>" : "</td>");
        at = bar ? bar + 1 : end;
    }
    sbx_buf_adds(out, "</tr>\n");
}

static void one_line(sbx_buf *out, block *in, const char *line, size_t len)
{
    if (len >= 3 && memcmp(line, "```", 3) == 0) {
        change(out, in, *in == B_CODE ? B_NONE : B_CODE);
    } else if (*in == B_CODE) {
        api_html_text(out, line, len);
        sbx_buf_addc(out, '\n');
    } else if (!len) {
        change(out, in, B_NONE);
    } else if (*line == '#') {
        change(out, in, B_NONE);
        heading(out, line, len);
    } else if (*line == '|') {
        bool head = *in != B_TABLE;

        change(out, in, B_TABLE);
        row(out, line, len, head);
    } else if (len > 2 && line[0] == '-' && line[1] == ' ') {
        change(out, in, B_LIST);
        sbx_buf_adds(out, "<li>");
        api_html_inline(out, line + 2, len - 2);
        sbx_buf_adds(out, "</li>\n");
    } else {
        change(out, in, B_TEXT);
        api_html_inline(out, line, len);
        sbx_buf_addc(out, '\n');
    }
}

void api_html_markdown(sbx_buf *out, const char *text)
{
    block in = B_NONE;

    while (*text) {
        size_t len = strcspn(text, "\n");

        one_line(out, &in, text, len);
        text += len + (text[len] == '\n');
    }
    change(out, &in, B_NONE);
}
