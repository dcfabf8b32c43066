/* logs, events, watch, stats: pages and streams, a line for each entry. */
#include "cli/exec.h"
#include "cli/records.h"
#include "cli/sse.h"

#include <stdio.h>
#include <unistd.h>

/* An entry is read in place, since what sandboxes wrote may hold a NUL. */
typedef struct stream_view {
    cli *c;
    void (*print)(struct stream_view *v, sbx_json_span entry, sbx_buf *out);
    bool failed, new_line;
    int rows; /* printed since the head of a table */
} stream_view;

static const char *member(sbx_json_span obj, const char *name, sbx_buf *out)
{
    sbx_json_span v;

    sbx_buf_reset(out);
    sbx_buf_adds(out, "");
    if (sbx_json_span_get(obj, name, &v) && !sbx_json_span_bytes(v, out) && v.len && v.at[0] != 'n')
        sbx_buf_add(out, v.at, v.len);
    return out->data;
}

/* A member of others' making, escaped. */
static void add_member(sbx_buf *out, sbx_json_span obj, const char *name)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(MIB);

    member(obj, name, &text);
    cli_escape(out, text.data, text.len);
}

static bool show(stream_view *v, sbx_json_span entry)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(2 * CLI_MAX_EVENT);

    sbx_buf_adds(&out, "");
    if (v->c->json) {
        sbx_buf_add(&out, entry.at, entry.len);
        sbx_buf_addc(&out, '\n');
    } else {
        v->print(v, entry, &out);
    }
    if (!cli_write(1, out.data, out.len))
        v->failed = true;
    return !v->failed;
}

static bool on_event(void *arg, const cli_event *e)
{
    stream_view *v = arg;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(KIB);
    sbx_json_span entry;
    sbx_err err;

    if (strcmp(e->type, "state") == 0)
        return true;
    if (strcmp(e->type, "delayed") == 0) {
        cli_warn(v->c, "the servers cannot reach each other: what is new comes later");
        return true;
    }
    if (sbx_json_span_of(e->data, e->len, &entry, &err)) {
        cli_fail(v->c, "the server sent a malformed event: %s", err.msg);
        v->failed = true;
        return false;
    }
    if (strcmp(e->type, "gap") == 0 || strcmp(member(entry, "type", &text), "gap") == 0) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf to = SBX_BUF_INIT(KIB);

        cli_warn(v->c, "numbers %.20s to %.20s are gone for good", member(entry, "from", &text),
                 member(entry, "to", &to));
        return true;
    }
    return show(v, entry);
}

static int follow(stream_view *v, cli_call *k)
{
    cli_follow f = {.path = k->path, .on_event = on_event, .arg = v};
    int status = cli_follow_run(v->c, &f);

    return v->failed ? CLI_FAILED : status;
}

/* @param cursor  where the next page's begins; NULL: this is the only one. */
static int page(stream_view *v, cli_call *k, sbx_buf *cursor)
{
    sbx_json_span root, items, item = {0};
    sbx_err err;

    if (!cli_request(v->c, k))
        return CLI_FAILED;
    if (sbx_json_span_of(k->answer.data ? k->answer.data : "", k->answer.len, &root, &err))
        return cli_fail(v->c, "the server's answer is no JSON (%s); check SBX_URL", err.msg);
    if (v->c->json && !cursor)
        return cli_print_answer(k);
    if (!sbx_json_span_get(root, "items", &items))
        return cli_fail(v->c, "the server's answer is no list");
    while (sbx_json_span_next(items, &item))
        if (!show(v, item))
            return CLI_FAILED;
    if (cursor)
        member(root, "nextCursor", cursor);
    return CLI_OK;
}

/* All pages of a list from where the query begins. */
static int pages(stream_view *v, const sbx_buf *path)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf cursor = SBX_BUF_INIT(KIB);
    int status;

    do {
        SBX_CLEANUP_VAL(cli_call_done) cli_call k;

        cli_call_init(&k, "GET", "%s", "");
        sbx_buf_add(&k.path, path->data, path->len);
        cli_query_int(&k, "limit", 200);
        if (cursor.len)
            cli_query(&k, "cursor", cursor.data);
        status = page(v, &k, &cursor);
    } while (!status && cursor.len);
    return status;
}

static bool is_number(const cli *c, const char *option)
{
    const char *text = cli_opt(c, option);
    int64_t n;

    if (!text || (*text != '-' && sbx_parse_i64(text, 0, INT64_MAX, &n)))
        return true;
    cli_usage(c, "--%s %.40s: not a whole number", option, text);
    return false;
}

/* What logs and events have in common: --tail, --since, --follow. */
static int show_list(stream_view *v, cli_call *k)
{
    cli *c = v->c;

    if (!is_number(c, "tail") || !is_number(c, "since"))
        return CLI_USAGE;
    cli_query(k, "tail", cli_opt(c, "tail"));
    cli_query(k, "since", cli_opt(c, "since"));
    if (cli_flag(c, "follow"))
        return follow(v, k);
    return cli_flag(c, "tail") ? page(v, k, NULL) : pages(v, &k->path);
}

/* --- logs --- */

static void print_log(stream_view *v, sbx_json_span entry, sbx_buf *out)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(MIB);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf coded = SBX_BUF_INIT(2 * MIB);
    bool is_error = strcmp(member(entry, "stream", &text), "stderr") == 0;
    bool by_system = strcmp(text.data, "system") == 0;
    bool base64 = *member(entry, "encoding", &text) != '\0';
    const char *colour = cli_paint(v->c, is_error ? CLI_RED : CLI_YELLOW);

    if (cli_flag(v->c, "timestamps")) {
        sbx_buf_adds(out, cli_paint(v->c, CLI_DIM));
        add_member(out, entry, "ts");
        sbx_buf_addc(out, ' ');
        add_member(out, entry, "seq");
        sbx_buf_addc(out, ' ');
        add_member(out, entry, "source");
        sbx_buf_addf(out, "%s ", cli_paint(v->c, CLI_PLAIN));
    }
    if (is_error || by_system)
        sbx_buf_adds(out, colour);
    member(entry, "data", &coded);
    if (!base64 || !sbx_base64_decode(out, coded.data, coded.len))
        sbx_buf_add(out, coded.data, coded.len);
    if (is_error || by_system)
        sbx_buf_adds(out, cli_paint(v->c, CLI_PLAIN));
    sbx_buf_addc(out, '\n');
}

int cli_logs(cli *c)
{
    stream_view v = {.c = c, .print = print_log};
    char id[24];

    if (!cli_resolve(c, c->args[0], id))
        return CLI_FAILED;
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;

    cli_call_init(&k, "GET", "/sandboxes/%s/logs", id);
    cli_query(&k, "source", cli_opt(c, "source"));
    return show_list(&v, &k);
}

/* --- events --- */

static void print_event(stream_view *v, sbx_json_span event, sbx_buf *out)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(MIB);
    sbx_json_span data = {0}, reason = {0};

    sbx_buf_adds(out, cli_paint(v->c, CLI_DIM));
    add_member(out, event, "ts");
    sbx_buf_addf(out, "%s ", cli_paint(v->c, CLI_PLAIN));
    add_member(out, event, "sandboxId");
    if (sbx_json_span_get(event, "data", &data)) {
        const char *to = member(data, "to", &text);

        sbx_buf_addf(out, " %s", cli_paint(v->c, cli_state_colour(to)));
    } else {
        sbx_buf_addc(out, ' ');
    }
    add_member(out, event, "type");
    sbx_buf_adds(out, cli_paint(v->c, CLI_PLAIN));
    if (data.len && *member(data, "from", &text)) {
        sbx_buf_adds(out, " from ");
        cli_escape(out, text.data, text.len);
    }
    if (data.len && sbx_json_span_get(data, "reason", &reason) &&
        *member(reason, "message", &text)) {
        sbx_buf_adds(out, ": ");
        cli_escape(out, text.data, text.len);
    }
    sbx_buf_addc(out, '\n');
}

int cli_events(cli *c)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    stream_view v = {.c = c, .print = print_event};
    const char *sandbox = cli_opt(c, "sandbox");
    char id[24];

    cli_call_init(&k, "GET", "/events");
    if (sandbox) {
        if (!cli_resolve(c, sandbox, id))
            return CLI_FAILED;
        cli_query(&k, "sandboxId", id);
    }
    cli_query(&k, "type", cli_opt(c, "type"));
    return show_list(&v, &k);
}

/* --- watch --- */

static void print_change(stream_view *v, sbx_json_span change, sbx_buf *out)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf to = SBX_BUF_INIT(64 * KIB);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf type = SBX_BUF_INIT(KIB);

    member(change, "type", &type);
    if (strcmp(type.data, "ready") == 0)
        return;
    cli_escape(out, type.data, type.len);
    sbx_buf_addf(out, "%*s ", type.len < 6 ? (int)(6 - type.len) : 0, "");
    add_member(out, change, "path");
    if (*member(change, "to", &to)) {
        sbx_buf_adds(out, " -> ");
        cli_escape(out, to.data, to.len);
    }
    sbx_buf_addc(out, '\n');
    (void)v;
}

int cli_watch(cli *c)
{
    SBX_CLEANUP(sbx_free_str) char *word = NULL;
    stream_view v = {.c = c, .print = print_change};
    const char *path;
    char id[24];

    if (!cli_place(c->args[0], &word, &path) || !*path)
        return cli_usage(c, "\"%.80s\" is not ID:PATH", c->args[0]);
    if (!cli_resolve(c, word, id))
        return CLI_FAILED;
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;

    cli_call_init(&k, "GET", "/sandboxes/%s/files/watch", id);
    cli_query(&k, "path", path);
    if (cli_flag(c, "recursive"))
        cli_query(&k, "recursive", "true");
    return follow(&v, &k);
}

/* --- stats --- */

#define HEAD_EACH 30 /* rows of a terminal */

/* A number of bytes, and what it may be at most; "-" for what is not known. */
static void add_bytes(sbx_buf *out, const sbx_json *s, const char *name, const char *limit)
{
    const sbx_json *of = limit ? sbx_json_get(s, limit) : NULL;
    double bytes = sbx_json_num(sbx_json_get(s, name), -1), most = sbx_json_num(of, -1);
    char text[16] = "-", limit_text[16], both[40];

    if (bytes >= 0)
        cli_size_text(bytes, text);
    cli_size_text(most, limit_text);
    snprintf(both, sizeof(both), most >= 0 ? "%s / %s" : "%s", text, limit_text);
    sbx_buf_addf(out, "  %*s", limit ? 17 : 8, both);
}

static void add_count(sbx_buf *out, const sbx_json *s, const char *name, int digits, int width)
{
    const sbx_json *v = sbx_json_get(s, name);
    char text[32] = "-";

    if (v && sbx_json_kind(v) == SBX_J_NUM)
        snprintf(text, sizeof(text), "%.*f", digits, sbx_json_num(v, 0));
    sbx_buf_addf(out, "  %*s", width, text);
}

static void print_sample(stream_view *v, sbx_json_span sample, sbx_buf *out)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *s = NULL;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf time = SBX_BUF_INIT(KIB);
    char up[16] = "-";
    int64_t ms;
    sbx_err err;

    if (sbx_json_parse(sample.at, sample.len, &s, &err))
        return;
    if (v->rows++ % (v->c->columns ? HEAD_EACH : INT32_MAX) == 0)
        sbx_buf_addf(out, "%s%-8s  %6s  %17s  %8s  %6s  %17s  %8s  %8s  %4s  %6s%s\n",
                     cli_paint(v->c, CLI_BOLD), "TIME", "CPU %", "MEMORY", "PEAK", "PIDS", "DISK",
                     "NET IN", "NET OUT", "OOM", "UP", cli_paint(v->c, CLI_PLAIN));
    const char *ts = cli_text_of(s, "ts");
    cli_escape(&time, strlen(ts) > 19 ? ts + 11 : "-", strlen(ts) > 19 ? 8 : 1);
    ms = sbx_json_int(sbx_json_get(s, "uptimeMs"), -1);
    if (ms >= 0)
        cli_span_text(ms, up);
    sbx_buf_addf(out, "%-8s", time.data);
    add_count(out, s, "cpuPercent", 1, 6);
    add_bytes(out, s, "memoryBytes", "memoryLimitBytes");
    add_bytes(out, s, "memoryPeakBytes", NULL);
    add_count(out, s, "pids", 0, 6);
    add_bytes(out, s, "diskBytes", "diskLimitBytes");
    add_bytes(out, s, "networkRxBytes", NULL);
    add_bytes(out, s, "networkTxBytes", NULL);
    add_count(out, s, "oomKills", 0, 4);
    sbx_buf_addf(out, "  %6s\n", up);
}

int cli_stats(cli *c)
{
    stream_view v = {.c = c, .print = print_sample};
    const char *interval = cli_opt(c, "interval");
    char id[24];
    int64_t ms = 2000;
    sbx_json_span sample;
    sbx_err err;

    if (interval && (!cli_parse_duration(interval, &ms) || !ms))
        return cli_usage(c, "--interval %.40s: not a time such as 500ms or 2s", interval);
    if (!cli_resolve(c, c->args[0], id))
        return CLI_FAILED;
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;

    cli_call_init(&k, "GET", "/sandboxes/%s/stats", id);
    if (cli_flag(c, "follow")) {
        cli_query_int(&k, "intervalMs", ms);
        return follow(&v, &k);
    }
    if (!cli_request(c, &k))
        return CLI_FAILED;
    if (sbx_json_span_of(k.answer.data ? k.answer.data : "", k.answer.len, &sample, &err))
        return cli_fail(c, "the server's answer is no JSON (%s); check SBX_URL", err.msg);
    return show(&v, sample) ? CLI_OK : CLI_FAILED;
}
