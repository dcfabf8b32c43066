/* create, ls, get, rm, start, stop, pause, resume, restart. */
#include "cli/files.h"
#include "cli/records.h"

#include "sbx/core/clock.h"
#include "sbx/core/id.h"
#include <stdio.h>

const char *cli_text_of(const sbx_json *obj, const char *name)
{
    const char *text = sbx_json_str(sbx_json_get(obj, name));

    return text ? text : "";
}

sbx_json *cli_answer_json(const cli *c, const cli_call *k)
{
    sbx_json *root = NULL;
    sbx_err err;

    if (sbx_json_parse(k->answer.data ? k->answer.data : "", k->answer.len, &root, &err))
        cli_fail(c, "the server's answer is no JSON (%s); check SBX_URL", err.msg);
    return root;
}

int cli_print_answer(const cli_call *k)
{
    const char *text = k->answer.data ? k->answer.data : "";
    size_t len = k->answer.len;

    while (len && text[len - 1] == '\n')
        len--;
    return cli_write(1, text, len) && cli_write(1, "\n", 1) ? CLI_OK : CLI_FAILED;
}

void cli_age_text(const char *time, bool until, char out[16])
{
    int64_t ms;

    out[0] = '\0';
    if (cli_time_read(time, &ms))
        cli_span_text(until ? ms - sbx_wall_ms() : sbx_wall_ms() - ms, out);
}

int cli_print_line(const char *text)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(64 * KIB);

    cli_escape(&b, text, strnlen(text, 8 * KIB));
    sbx_buf_addc(&b, '\n');
    return cli_write(1, b.data, b.len) ? CLI_OK : CLI_FAILED;
}

/* --- create --- */

/* NAME=VALUE of an option that may be repeated, as members of an object. */
static int write_pairs(cli *c, sbx_jw *w, const char *option, const char *member, bool from_here)
{
    const char *pair;
    size_t at = 0;

    if (!cli_flag(c, option))
        return CLI_OK;
    sbx_jw_obj(w, member);
    while ((pair = cli_opt_each(c, option, &at))) {
        const char *eq = strchr(pair, '=');
        const char *value = eq ? eq + 1 : from_here ? getenv(pair) : NULL;
        SBX_CLEANUP(sbx_free_str)
        char *name = sbx_strndup(pair, eq ? (size_t)(eq - pair) : strlen(pair));

        if (!value)
            return cli_usage(c,
                             from_here ? "--%s %s: the variable is not set here"
                                       : "--%s %s: it is not KEY=VALUE",
                             option, pair);
        if (!sbx_utf8_valid(value, strlen(value)) || !sbx_utf8_valid(name, strlen(name)))
            return cli_usage(c, "--%s: \"%.60s\" is not UTF-8", option, name);
        sbx_jw_str(w, name, value);
    }
    sbx_jw_obj_end(w);
    return CLI_OK;
}

int cli_write_metadata(cli *c, sbx_jw *w)
{
    return write_pairs(c, w, "metadata", "metadata", false);
}

int cli_write_env(cli *c, sbx_jw *w)
{
    return write_pairs(c, w, "env", "env", true);
}

int cli_write_command(cli *c, sbx_jw *w, int from)
{
    for (int i = from; i < c->arg_count; i++)
        if (!sbx_utf8_valid(c->args[i], strlen(c->args[i])))
            return cli_usage(c, "argument %d of the command is not UTF-8", i - from + 1);
    if (c->arg_count - from == 1) {
        sbx_jw_str(w, "command", c->args[from]);
        return CLI_OK;
    }
    sbx_jw_arr(w, "command");
    for (int i = from; i < c->arg_count; i++)
        sbx_jw_str(w, NULL, c->args[i]);
    sbx_jw_arr_end(w);
    return CLI_OK;
}

static int write_limits(cli *c, sbx_jw *w)
{
    const char *cpus = cli_opt(c, "cpus"), *memory = cli_opt(c, "memory");
    const char *pids = cli_opt(c, "pids");
    int64_t n;

    if (!cpus && !memory && !pids)
        return CLI_OK;
    sbx_jw_obj(w, "limits");
    if (cpus) {
        if (!cli_parse_milli(cpus, &n))
            return cli_usage(c, "--cpus %s: not a number such as 0.5", cpus);
        sbx_jw_milli(w, "cpus", n);
    }
    if (memory) {
        if (!cli_parse_memory(memory, &n))
            return cli_usage(c, "--memory %s: not a size such as 512M or 2G", memory);
        sbx_jw_int(w, "memoryMb", n);
    }
    if (pids) {
        if (!sbx_parse_i64(pids, 0, INT32_MAX, &n))
            return cli_usage(c, "--pids %s: not a whole number", pids);
        sbx_jw_int(w, "pids", n);
    }
    sbx_jw_obj_end(w);
    return CLI_OK;
}

static int write_seconds(cli *c, sbx_jw *w, const char *option, const char *member)
{
    const char *text = cli_opt(c, option);
    int64_t ms;

    if (!text)
        return CLI_OK;
    if (!cli_parse_duration(text, &ms) || ms % 1000)
        return cli_usage(c, "--%s %s: not a time in whole seconds, such as 90s or 30m", option,
                         text);
    sbx_jw_int(w, member, ms / 1000);
    return CLI_OK;
}

static int write_spec(cli *c, const char *name, sbx_jw *w)
{
    static const struct {
        const char *option, *member;
    } texts[] = {{"template", "template"}, {"image", "image"},    {"name", "name"},
                 {"size", "size"},         {"on-idle", "onIdle"}, {"on-timeout", "onTimeout"}};
    int status;

    sbx_jw_obj(w, name);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        if (cli_flag(c, texts[i].option))
            sbx_jw_str(w, texts[i].member, cli_opt(c, texts[i].option));
    if (cli_flag(c, "network")) {
        sbx_jw_obj(w, "network");
        sbx_jw_str(w, "mode", cli_opt(c, "network"));
        sbx_jw_obj_end(w);
    }
    if ((status = cli_write_env(c, w)) || (status = cli_write_metadata(c, w)) ||
        (status = write_limits(c, w)) ||
        (status = write_seconds(c, w, "timeout", "timeoutSeconds")) ||
        (status = write_seconds(c, w, "idle", "idleTimeoutSeconds")) ||
        (status = c->arg_count ? cli_write_command(c, w, 0) : CLI_OK))
        return status;
    if (cli_flag(c, "no-wait"))
        sbx_jw_bool(w, "wait", false);
    sbx_jw_obj_end(w);
    return CLI_OK;
}

int cli_tell_problem(const cli *c, const char *which, const sbx_json *problem)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(8 * KIB);
    const char *detail = cli_text_of(problem, "detail");

    cli_escape(&text, which, strlen(which));
    sbx_buf_adds(&text, ": ");
    cli_escape(&text, detail, strnlen(detail, KIB));
    return cli_fail(c, "%s", text.data ? text.data : which);
}

/* Those that were made, and why the others were not. */
static int print_batch(cli *c, const sbx_json *answer)
{
    int status = CLI_OK, n = 0;

    for (const sbx_json *i = sbx_json_first(sbx_json_get(answer, "items")); i;
         i = sbx_json_next(i)) {
        const sbx_json *made = sbx_json_get(i, "sandbox");
        char which[32];

        snprintf(which, sizeof(which), "sandbox %d", ++n);
        int one = made ? cli_print_line(cli_text_of(made, "id"))
                       : cli_tell_problem(c, which, sbx_json_get(i, "problem"));
        status = status ? status : one;
    }
    return status;
}

static int read_count(cli *c, int64_t *ret)
{
    const char *text = cli_opt(c, "count");

    *ret = 0;
    if (text && !sbx_parse_i64(text, 1, 100, ret))
        return cli_usage(c, "--count %s: not a whole number from 1 to 100", text);
    if (text && cli_flag(c, "no-wait"))
        return cli_usage(c, "--count and --no-wait exclude each other");
    return CLI_OK;
}

static int write_create(cli *c, cli_call *k, int64_t count)
{
    sbx_jw w = cli_body(k);

    if (!count)
        return write_spec(c, NULL, &w);
    sbx_jw_obj(&w, NULL);
    sbx_jw_int(&w, "count", count);
    int status = write_spec(c, "sandbox", &w);
    sbx_jw_obj_end(&w);
    return status;
}

int cli_create(cli *c)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    SBX_CLEANUP(sbx_json_free) sbx_json *made = NULL;
    const char *key = cli_opt(c, "idempotency-key");
    char random_key[48];
    int64_t count;
    int status = read_count(c, &count);

    cli_call_init(&k, "POST", count ? "/sandboxes/batch" : "/sandboxes");
    if (status || (status = write_create(c, &k, count)))
        return status;
    for (const char *p = key; p && *p; p++)
        if (*p <= ' ' || *p >= 0x7f)
            return cli_usage(c, "--idempotency-key: only visible ASCII characters");
    snprintf(random_key, sizeof(random_key), "sbx-%s%s", sbx_id_new().s, sbx_id_new().s);
    sbx_buf_addf(&k.headers, "Idempotency-Key: %s", key ? key : random_key);
    k.repeatable = true; /* by its key */
    if (!cli_request(c, &k))
        return CLI_FAILED;
    if (c->json)
        return cli_print_answer(&k);
    if (!(made = cli_answer_json(c, &k)))
        return CLI_FAILED;
    return count ? print_batch(c, made) : cli_print_line(cli_text_of(made, "id"));
}

/* --- ls --- */

static const cli_column columns[] = {
    {"ID"},
    {"NAME", .cut = true, .give_up = 7},
    {"STATE"},
    {"TEMPLATE", .cut = true, .give_up = 6},
    {"CPUS", .right = true, .give_up = 2},
    {"MEMORY", .right = true, .give_up = 3},
    {"AGE", .right = true, .give_up = 5},
    {"ENDS IN", .right = true, .give_up = 4},
    {"REASON", .cut = true, .give_up = 1},
};

static void add_row(cli_table *t, const sbx_json *s)
{
    const sbx_json *limits = sbx_json_get(s, "limits");
    const char *state = cli_text_of(s, "state"), *template = cli_text_of(s, "template");
    char cpus[24], memory[16], age[16], left[16];
    bool running = strcmp(state, "running") == 0;

    snprintf(cpus, sizeof(cpus), "%g", sbx_json_num(sbx_json_get(limits, "cpus"), 0));
    cli_size_text(sbx_json_num(sbx_json_get(limits, "memoryMb"), 0) * MIB, memory);
    cli_age_text(cli_text_of(s, "createdAt"), false, age);
    cli_age_text(cli_text_of(s, "expiresAt"), true, left);
    cli_cell_add(t, cli_text_of(s, "id"), CLI_PLAIN);
    cli_cell_add(t, cli_text_of(s, "name"), CLI_PLAIN);
    cli_cell_add(t, state, cli_state_colour(state));
    cli_cell_add(t, *template ? template : cli_text_of(s, "image"), CLI_PLAIN);
    cli_cell_add(t, cpus, CLI_PLAIN);
    cli_cell_add(t, memory, CLI_PLAIN);
    cli_cell_add(t, age, CLI_PLAIN);
    cli_cell_add(t, left, CLI_PLAIN);
    cli_cell_add(t, running ? "" : cli_text_of(sbx_json_get(s, "stateReason"), "message"), CLI_DIM);
}

typedef struct listing {
    int64_t left; /* items that are still wanted */
    size_t count;
    sbx_buf json; /* items, joined */
    cli_table table;
} listing;

/* Adds a page. @return 1: there is another; 0: that was the last; -1: told what is wrong. */
static int take_page(cli *c, listing *l, const cli_call *k, sbx_buf *cursor)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = cli_answer_json(c, k);
    sbx_json_span all, items, span = {0};
    sbx_err err;

    if (!root || sbx_json_span_of(k->answer.data, k->answer.len, &all, &err) ||
        !sbx_json_span_get(all, "items", &items))
        return root ? (cli_fail(c, "the server's answer is no list"), -1) : -1;
    for (const sbx_json *s = sbx_json_first(sbx_json_get(root, "items"));
         s && l->left > 0 && sbx_json_span_next(items, &span); s = sbx_json_next(s)) {
        if (l->json.len)
            sbx_buf_addc(&l->json, ',');
        sbx_buf_add(&l->json, span.at, span.len);
        if (c->quiet && cli_print_line(cli_text_of(s, "id")))
            return -1;
        add_row(&l->table, s);
        l->left--;
        l->count++;
    }
    sbx_buf_reset(cursor);
    sbx_buf_adds(cursor, cli_text_of(root, "nextCursor"));
    if (sbx_buf_failed(&l->json))
        return cli_fail(c, "the list is too long: use --limit"), -1;
    return l->left > 0 && cursor->len;
}

int cli_query_metadata(cli *c, cli_call *k)
{
    const char *pair;
    size_t at = 0;

    while ((pair = cli_opt_each(c, "metadata", &at))) {
        const char *eq = strchr(pair, '=');
        SBX_CLEANUP(sbx_free_str) char *name = NULL;

        if (!eq)
            return cli_usage(c, "--metadata %s: it is not KEY=VALUE", pair);
        name = sbx_asprintf("metadata.%.*s", (int)(eq - pair), pair);
        cli_query(k, name, eq + 1);
    }
    return CLI_OK;
}

static int ls_query(cli *c, cli_call *k)
{
    static const char *const plain[] = {"state", "template", "name"};

    for (size_t i = 0; i < ARRAY_LEN(plain); i++)
        cli_query(k, plain[i], cli_opt(c, plain[i]));
    return cli_query_metadata(c, k);
}

static int print_list(cli *c, listing *l)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(CLI_MAX_ANSWER);

    if (c->json)
        sbx_buf_addf(&out, "{\"items\":[%s],\"nextCursor\":null}\n",
                     l->json.len ? l->json.data : "");
    else if (!c->quiet && l->count)
        cli_table_print(c, &l->table, &out);
    else if (!c->quiet && c->columns)
        cli_warn(c, "there are none");
    return !out.len || cli_write(1, out.data, out.len) ? CLI_OK : CLI_FAILED;
}

static int list_pages(cli *c, listing *l)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf cursor = SBX_BUF_INIT(8 * KIB);
    int more = 1, status;

    while (more > 0) {
        SBX_CLEANUP_VAL(cli_call_done) cli_call k;

        cli_call_init(&k, "GET", "/sandboxes");
        cli_query_int(&k, "limit", SBX_MIN(l->left, 200));
        cli_query(&k, "cursor", cursor.len ? cursor.data : NULL);
        if ((status = ls_query(c, &k)))
            return status;
        if (!cli_request(c, &k))
            return CLI_FAILED;
        more = take_page(c, l, &k, &cursor);
    }
    return more < 0 ? CLI_FAILED : print_list(c, l);
}

int cli_ls(cli *c)
{
    const char *limit = cli_opt(c, "limit");
    listing l = {.left = INT64_MAX,
                 .json = SBX_BUF_INIT(CLI_MAX_ANSWER),
                 .table = {.columns = columns, .column_count = ARRAY_LEN(columns)}};

    if (limit && !sbx_parse_i64(limit, 1, INT32_MAX, &l.left))
        return cli_usage(c, "--limit %s: not a whole number from 1 on", limit);
    int status = list_pages(c, &l);
    sbx_buf_done(&l.json);
    cli_table_done(&l.table);
    return status;
}

/* --- get --- */

static void add_value(sbx_buf *out, const sbx_json *v)
{
    const char *text = sbx_json_str(v);
    double n = sbx_json_num(v, 0);

    switch (sbx_json_kind(v)) {
    case SBX_J_STR:
        cli_escape(out, text, strnlen(text, 64 * KIB));
        break;
    case SBX_J_NUM:
        sbx_buf_addf(out, "%.15g", n);
        break;
    case SBX_J_BOOL:
        sbx_buf_adds(out, sbx_json_bool(v, false) ? "yes" : "no");
        break;
    case SBX_J_NULL:
        sbx_buf_adds(out, "-");
        break;
    default:
        for (const sbx_json *e = sbx_json_first(v); e; e = sbx_json_next(e)) {
            if (sbx_json_name(e)) {
                cli_escape(out, sbx_json_name(e), strlen(sbx_json_name(e)));
                sbx_buf_addc(out, '=');
            }
            add_value(out, e);
            if (sbx_json_next(e))
                sbx_buf_adds(out, ", ");
        }
        if (!sbx_json_first(v))
            sbx_buf_adds(out, "-");
    }
}

void cli_describe(const cli *c, const sbx_json *obj, sbx_buf *out)
{
    for (const sbx_json *v = sbx_json_first(obj); v; v = sbx_json_next(v)) {
        const char *name = sbx_json_name(v), *text = sbx_json_str(v);
        bool is_state = strcmp(name, "state") == 0 && text;
        char age[16] = "";
        int64_t ms;

        sbx_buf_adds(out, cli_paint(c, CLI_DIM));
        cli_escape(out, name, strlen(name));
        sbx_buf_addf(out, "%s%*s", cli_paint(c, CLI_PLAIN),
                     (int)(20 - SBX_MIN(strlen(name), (size_t)19)), "");
        sbx_buf_adds(out, is_state ? cli_paint(c, cli_state_colour(text)) : "");
        add_value(out, v);
        sbx_buf_adds(out, is_state ? cli_paint(c, CLI_PLAIN) : "");
        if (text && cli_time_read(text, &ms)) {
            cli_age_text(text, ms > sbx_wall_ms(), age);
            sbx_buf_addf(out, ms > sbx_wall_ms() ? "  (in %s)" : "  (%s ago)", age);
        }
        sbx_buf_addc(out, '\n');
    }
}

static int show(cli *c, const char *word, bool first)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf out = SBX_BUF_INIT(MIB);
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    char id[24];

    if (!cli_resolve(c, word, id))
        return CLI_FAILED;
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;

    cli_call_init(&k, "GET", "/sandboxes/%s", id);
    if (!cli_request(c, &k))
        return CLI_FAILED;
    if (c->json)
        return cli_print_answer(&k);
    if (c->quiet)
        return cli_print_line(id);
    if (!(root = cli_answer_json(c, &k)))
        return CLI_FAILED;
    if (!first)
        sbx_buf_addc(&out, '\n');
    cli_describe(c, root, &out);
    return cli_write(1, out.data, out.len) ? CLI_OK : CLI_FAILED;
}

int cli_get(cli *c)
{
    int status = CLI_OK;

    if (c->arg_count == 1 && strchr(c->args[0], ':'))
        return cli_file_out(c);
    for (int i = 0; i < c->arg_count; i++) {
        int one = show(c, c->args[i], i == 0);

        status = status ? status : one;
    }
    return status;
}

/* --- rm, and the moves --- */

/* One of several: what fails does not keep the others from being done. */
static int act(cli *c, const char *word, const char *method, const char *verb, const char *body)
{
    char id[24];

    if (!cli_resolve(c, word, id))
        return CLI_FAILED;
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;

    cli_call_init(&k, method, "/sandboxes/%s%s%s", id, *verb ? "/" : "", verb);
    k.repeatable = true; /* a goal that is reached already is a success */
    if (body) {
        sbx_buf_adds(&k.body, body);
        k.type = "application/json";
    }
    if (!cli_try(c, &k)) {
        if (k.status == 404 && !*verb && cli_flag(c, "force"))
            return CLI_OK;
        return cli_complain(c, &k);
    }
    if (c->json && k.answer.len)
        return cli_print_answer(&k);
    return c->json ? CLI_OK : cli_print_line(id);
}

static int act_on_all(cli *c, const char *method, const char *verb, const char *body)
{
    int status = CLI_OK;

    for (int i = 0; i < c->arg_count; i++) {
        int one = act(c, c->args[i], method, verb, body);

        status = status ? status : one;
    }
    return status;
}

/* @return whether there are more; *status is what to end with. */
static bool remove_some(cli *c, int *status)
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    const sbx_json *one;

    cli_call_init(&k, "DELETE", "/sandboxes");
    k.repeatable = true;
    if ((*status = cli_query_metadata(c, &k)))
        return false;
    *status = CLI_FAILED;
    if (!cli_request(c, &k) || !(root = cli_answer_json(c, &k)))
        return false;
    *status = c->json ? cli_print_answer(&k) : CLI_OK;
    for (one = sbx_json_first(sbx_json_get(root, "deleted")); one && !c->json && !*status;
         one = sbx_json_next(one))
        *status = cli_print_line(sbx_json_str(one) ? sbx_json_str(one) : "");
    for (one = sbx_json_first(sbx_json_get(root, "failed")); one; one = sbx_json_next(one))
        *status = cli_tell_problem(c, cli_text_of(one, "id"), sbx_json_get(one, "problem"));
    return !*status && sbx_json_bool(sbx_json_get(root, "more"), false);
}

int cli_rm(cli *c)
{
    bool by_label = cli_flag(c, "metadata");
    int status = CLI_OK;

    if (by_label == (c->arg_count > 0))
        return cli_usage(c, "give the ids of sandboxes, or --metadata");
    if (!by_label)
        return act_on_all(c, "DELETE", "", NULL);
    while (remove_some(c, &status))
        ;
    return status;
}

int cli_move(cli *c)
{
    const char *verb = c->command->name;
    const char *grace = strcmp(verb, "stop") == 0 ? cli_opt(c, "grace") : NULL;
    char body[64] = "{}";
    int64_t ms;

    if (grace) {
        if (!cli_parse_duration(grace, &ms) || ms % 1000)
            return cli_usage(c, "--grace %s: not a time in whole seconds", grace);
        snprintf(body, sizeof(body), "{\"graceSeconds\":%lld}", (long long)ms / 1000);
    }
    return act_on_all(c, "POST", verb, body);
}
