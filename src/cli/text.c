/* Text for people: see text.h. Widths and characters are those of UTF-8, which main() sets. */
#include "cli/text.h"

#include "sbx/core/clock.h"
#include <stdio.h>
#include <time.h>
#include <wchar.h>

/* --- harmless text --- */

static bool turns_direction(wchar_t c)
{
    return (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0x200e ||
           c == 0x200f;
}

/* The character at `text`, and its bytes; 0 if it is not UTF-8. */
static size_t character(const char *text, size_t len, wchar_t *ret)
{
    for (size_t n = 1; n <= 4 && n <= len; n++)
        if (sbx_utf8_valid(text, n)) {
            unsigned c = (unsigned char)text[0];

            c &= n == 1 ? 0x7f : 0xffu >> (n + 1);
            for (size_t i = 1; i < n; i++)
                c = c << 6 | ((unsigned char)text[i] & 0x3f);
            *ret = (wchar_t)c;
            return n;
        }
    return 0;
}

void cli_escape(sbx_buf *out, const char *text, size_t len)
{
    static const char letters[] = "abtnvfr";

    while (len) {
        wchar_t c = 0;
        size_t n = character(text, len, &c);

        if (!n)
            sbx_buf_addf(out, "\\x%02x", (unsigned char)*text);
        else if (c >= 7 && c <= 13)
            sbx_buf_addf(out, "\\%c", letters[c - 7]);
        else if (c < 0x20 || c == 0x7f)
            sbx_buf_addf(out, "\\x%02x", (unsigned)c);
        else if ((c >= 0x80 && c < 0xa0) || c == 0x2028 || c == 0x2029 || turns_direction(c))
            sbx_buf_addf(out, "\\u%04x", (unsigned)c);
        else
            sbx_buf_add(out, text, n);
        n = n ? n : 1;
        text += n;
        len -= n;
    }
}

static size_t columns_of(wchar_t c)
{
    int w = wcwidth(c);

    return w < 0 ? 1 : (size_t)w;
}

size_t cli_width(const char *text)
{
    size_t len = strlen(text), width = 0;

    while (len) {
        wchar_t c = ' ';
        size_t n = character(text, len, &c);

        n = n ? n : 1;
        width += columns_of(c);
        text += n;
        len -= n;
    }
    return width;
}

void cli_cut(sbx_buf *out, const char *text, size_t columns)
{
    size_t len = strlen(text), width = 0;
    bool cut = cli_width(text) > columns;

    while (len) {
        wchar_t c = ' ';
        size_t n = character(text, len, &c);

        n = n ? n : 1;
        if (width + columns_of(c) + cut > columns)
            break;
        width += columns_of(c);
        sbx_buf_add(out, text, n);
        text += n;
        len -= n;
    }
    if (cut && columns)
        sbx_buf_adds(out, "…");
}

/* --- sizes and times --- */

void cli_size_text(double bytes, char out[16])
{
    static const char *const units[] = {"B", "KB", "MB", "GB", "TB", "PB"};
    size_t unit = 0;

    for (; bytes >= 1000 && unit + 1 < ARRAY_LEN(units); unit++)
        bytes /= 1024;
    snprintf(out, 16, unit && bytes < 9.95 ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
}

void cli_span_text(int64_t ms, char out[16])
{
    int64_t s = SBX_MAX(ms, 0) / 1000;

    if (s < 120)
        snprintf(out, 16, "%ds", (int)s);
    else if (s < 7200)
        snprintf(out, 16, "%dm", (int)(s / 60));
    else if (s < 172800)
        snprintf(out, 16, "%dh", (int)(s / 3600));
    else
        snprintf(out, 16, "%lldd", (long long)(s / 86400));
}

bool cli_time_read(const char *text, int64_t *ret_ms)
{
    return text && sbx_time_parse(text, ret_ms);
}

/* --- colours --- */

cli_colour cli_state_colour(const char *state)
{
    static const struct {
        const char *state;
        cli_colour colour;
    } of[] = {{"running", CLI_GREEN},
              {"failed", CLI_RED},
              {"stopped", CLI_DIM},
              {"deleted", CLI_DIM},
              {"finished", CLI_DIM}};

    for (size_t i = 0; i < ARRAY_LEN(of); i++)
        if (sbx_streq(of[i].state, state))
            return of[i].colour;
    return CLI_YELLOW;
}

const char *cli_paint(const cli *c, cli_colour colour)
{
    static const char *const codes[] = {"\033[0m",  "\033[1m",  "\033[2m",
                                        "\033[31m", "\033[32m", "\033[33m"};

    return c->colour ? codes[colour] : "";
}

/* --- tables --- */

#define GAP       2
#define MIN_WIDTH 6

void cli_cell_add(cli_table *t, const char *text, cli_colour colour)
{
    sbx_buf b = SBX_BUF_INIT(64 * KIB);

    if (!text || !*text)
        text = "-";
    cli_escape(&b, text, strnlen(text, 8 * KIB));
    if (!(t->count & (t->count - 1)))
        t->cells = sbx_realloc(t->cells, SBX_MAX(t->count * 2, 1u) * sizeof(*t->cells));
    t->cells[t->count++] = (cli_cell){sbx_buf_steal(&b), colour};
}

void cli_table_done(cli_table *t)
{
    for (size_t i = 0; i < t->count; i++)
        free(t->cells[i].text);
    free(t->cells);
    *t = (cli_table){0};
}

#define MAX_COLUMNS 16

typedef struct layout {
    size_t width[MAX_COLUMNS];
    bool shown[MAX_COLUMNS];
} layout;

static size_t total(const cli_table *t, const layout *l)
{
    size_t sum = 0, shown = 0;

    for (size_t i = 0; i < t->column_count; i++)
        if (l->shown[i]) {
            sum += l->width[i];
            shown++;
        }
    return sum + (shown ? (shown - 1) * GAP : 0);
}

/* The widest column that may be shortened loses one. @return false if there is none. */
static bool shorten(const cli_table *t, layout *l)
{
    size_t widest = MAX_COLUMNS;

    for (size_t i = 0; i < t->column_count; i++)
        if (l->shown[i] && t->columns[i].cut && l->width[i] > MIN_WIDTH &&
            (widest == MAX_COLUMNS || l->width[i] > l->width[widest]))
            widest = i;
    if (widest == MAX_COLUMNS)
        return false;
    l->width[widest]--;
    return true;
}

static bool drop(const cli_table *t, layout *l)
{
    size_t first = MAX_COLUMNS;

    for (size_t i = 0; i < t->column_count; i++)
        if (l->shown[i] && t->columns[i].give_up &&
            (first == MAX_COLUMNS || t->columns[i].give_up < t->columns[first].give_up))
            first = i;
    if (first == MAX_COLUMNS)
        return false;
    l->shown[first] = false;
    return true;
}

static void lay_out(const cli *c, const cli_table *t, layout *l)
{
    for (size_t i = 0; i < t->column_count; i++) {
        l->shown[i] = true;
        l->width[i] = cli_width(t->columns[i].title);
    }
    for (size_t i = 0; i < t->count; i++) {
        size_t column = i % t->column_count;

        l->width[column] = SBX_MAX(l->width[column], cli_width(t->cells[i].text));
    }
    if (!c->columns)
        return;
    layout wide = *l;
    for (;;) {
        *l = wide;
        while (total(t, l) > (size_t)c->columns && shorten(t, l))
            ;
        if (total(t, l) <= (size_t)c->columns || !drop(t, &wide))
            return;
    }
}

static void print_row(const cli *c, const cli_table *t, const layout *l, const cli_cell *cells,
                      sbx_buf *out)
{
    size_t last = t->column_count;

    while (last && !l->shown[last - 1])
        last--;
    for (size_t i = 0; i < last; i++) {
        const char *text = cells ? cells[i].text : t->columns[i].title;
        cli_colour colour = cells ? cells[i].colour : CLI_BOLD;
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf cut = SBX_BUF_INIT(64 * KIB);

        if (!l->shown[i])
            continue;
        sbx_buf_adds(&cut, "");
        cli_cut(&cut, text, l->width[i]);
        int fill = (int)(l->width[i] - SBX_MIN(l->width[i], cli_width(cut.data)));
        sbx_buf_addf(out, "%*s%s%s%s", t->columns[i].right ? fill : 0, "",
                     colour == CLI_PLAIN ? "" : cli_paint(c, colour), cut.data,
                     colour == CLI_PLAIN ? "" : cli_paint(c, CLI_PLAIN));
        if (i + 1 < last)
            sbx_buf_addf(out, "%*s", (t->columns[i].right ? 0 : fill) + GAP, "");
    }
    sbx_buf_addc(out, '\n');
}

void cli_table_print(const cli *c, const cli_table *t, sbx_buf *out)
{
    layout l = {0};

    if (t->column_count > MAX_COLUMNS)
        abort();
    lay_out(c, t, &l);
    print_row(c, t, &l, NULL, out);
    for (size_t i = 0; i + t->column_count <= t->count; i += t->column_count)
        print_row(c, t, &l, t->cells + i, out);
}
