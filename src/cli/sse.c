/* Server-sent events, as the HTML standard says, but for what no server of ours sends (retry). */
#include "cli/sse.h"

#include "sbx/core/clock.h"
#include <poll.h>

#define MAX_AWAY_MS  600000
#define MIN_PAUSE_MS 200
#define MAX_PAUSE_MS 5000

void cli_sse_init(cli_sse *s, cli_on_event *on_event, void *arg)
{
    *s = (cli_sse){.on_event = on_event,
                   .arg = arg,
                   .line = SBX_BUF_INIT(CLI_MAX_EVENT),
                   .data = SBX_BUF_INIT(CLI_MAX_EVENT)};
}

void cli_sse_done(cli_sse *s)
{
    sbx_buf_done(&s->line);
    sbx_buf_done(&s->data);
}

void cli_sse_restart(cli_sse *s)
{
    sbx_buf_reset(&s->line);
    sbx_buf_reset(&s->data);
    s->type[0] = '\0';
    s->has_data = s->after_cr = false;
}

/* A blank line ends a message. */
static bool dispatch(cli_sse *s)
{
    cli_event e = {.type = *s->type ? s->type : "message",
                   .id = s->id,
                   .data = s->data.data ? s->data.data : "",
                   .len = s->data.len};
    bool more = !s->has_data || s->on_event(s->arg, &e);

    sbx_buf_reset(&s->data);
    s->type[0] = '\0';
    s->has_data = false;
    return more;
}

static bool take_line(cli_sse *s)
{
    const char *line = s->line.data ? s->line.data : "";
    size_t name = 0;

    if (!s->line.len)
        return dispatch(s);
    while (name < s->line.len && line[name] != ':')
        name++;
    size_t at = name + (name < s->line.len);
    at += at < s->line.len && line[at] == ' ';
    if (name == 4 && memcmp(line, "data", 4) == 0) {
        if (s->has_data)
            sbx_buf_addc(&s->data, '\n');
        sbx_buf_add(&s->data, line + at, s->line.len - at);
        s->has_data = true;
    } else if (name == 2 && memcmp(line, "id", 2) == 0) {
        sbx_copy(s->id, sizeof(s->id), line + at);
    } else if (name == 5 && memcmp(line, "event", 5) == 0) {
        sbx_copy(s->type, sizeof(s->type), line + at);
    }
    return !sbx_buf_failed(&s->data);
}

bool cli_sse_feed(cli_sse *s, const char *data, size_t len)
{
    while (len) {
        size_t n = 0;

        if (s->after_cr && *data == '\n') {
            s->after_cr = false;
            data++;
            len--;
            continue;
        }
        s->after_cr = false;
        while (n < len && data[n] != '\n' && data[n] != '\r')
            n++;
        sbx_buf_add(&s->line, data, n);
        if (sbx_buf_failed(&s->line))
            return false;
        if (n < len) {
            s->after_cr = data[n++] == '\r';
            if (!take_line(s))
                return false;
            sbx_buf_reset(&s->line);
        }
        data += n;
        len -= n;
    }
    return true;
}

/* --- following --- */

typedef struct following {
    cli_sse sse;
    cli_follow *f;
    bool over;    /* it ended as it should */
    int64_t last; /* when something came, or the first attempt began */
} following;

static bool on_event(void *arg, const cli_event *e)
{
    following *g = arg;

    g->last = sbx_now_ms();
    if (strcmp(e->type, "end") == 0 || !g->f->on_event(g->f->arg, e))
        g->over = true;
    return !g->over;
}

static bool on_data(void *arg, const char *data, size_t len)
{
    following *g = arg;

    g->last = sbx_now_ms();
    return cli_sse_feed(&g->sse, data, len);
}

/* @return whether to connect again. */
static bool look_at(cli *c, following *g, const cli_call *k, bool *ever)
{
    if (g->over)
        return false;
    if (k->status >= 200 && k->status < 300) {
        *ever = true;
        return true; /* cut, or the server is about to end */
    }
    if (k->result == CURLE_OK && k->status != 503)
        return false;
    if (!*ever || sbx_now_ms() - g->last > MAX_AWAY_MS)
        return false;
    cli_note(c, "the connection is lost, connecting again");
    return true;
}

static int attempts(cli *c, following *g)
{
    int64_t pause_ms = MIN_PAUSE_MS;
    bool ever = false;

    for (;;) {
        SBX_CLEANUP_VAL(cli_call_done) cli_call k;

        cli_call_init(&k, "GET", "%s", "");
        sbx_buf_adds(&k.path, g->f->path.data);
        k.accept = "text/event-stream";
        k.impatient = true;
        k.once = ever;
        k.on_data = on_data;
        k.arg = g;
        if (*g->sse.id)
            sbx_buf_addf(&k.headers, "Last-Event-ID: %s", g->sse.id);
        int64_t before = g->last;
        (void)cli_try(c, &k);
        if (!look_at(c, g, &k, &ever))
            return g->over ? CLI_OK : cli_complain(c, &k);
        cli_sse_restart(&g->sse);
        pause_ms = g->last != before ? MIN_PAUSE_MS : SBX_MIN(pause_ms * 2, MAX_PAUSE_MS);
        poll(NULL, 0, (int)pause_ms);
    }
}

int cli_follow_run(cli *c, cli_follow *f)
{
    following g = {.f = f, .last = sbx_now_ms()};

    cli_sse_init(&g.sse, on_event, &g);
    int status = attempts(c, &g);
    cli_sse_done(&g.sse);
    return status;
}

/* --- what commands' events carry --- */

bool cli_event_text(sbx_json_span event, const char *name, sbx_buf *out)
{
    sbx_json_span v;

    sbx_buf_reset(out);
    return sbx_json_span_get(event, name, &v) && sbx_json_span_bytes(v, out);
}

bool cli_event_output(sbx_json_span event, sbx_buf *out)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf coded = SBX_BUF_INIT(CLI_MAX_EVENT);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf encoding = SBX_BUF_INIT(32);
    sbx_json_span data;

    if (!sbx_json_span_get(event, "data", &data))
        return true;
    if (cli_event_text(event, "encoding", &encoding))
        return sbx_json_span_bytes(data, &coded) && coded.len &&
               sbx_base64_decode(out, coded.data, coded.len);
    sbx_json_span_bytes(data, out);
    return true;
}
