/* Requests: see client.h. Connections are kept and used again by the multi handle. */
#include "cli/client.h"

#include "cli/text.h"
#include "sbx/core/clock.h"
#include "sbx/core/id.h"
#include "sbx/core/limits.h"
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>

#define TRIES        4 /* the first, and three more */
#define MAX_PAUSE_MS 30000
#define CONNECT_S    15L
#define STALL_S      60L

struct cli_client {
    cli_config config;
    CURLM *multi;
    char *authorization;
};

/* --- the client --- */

bool cli_connect(cli *c)
{
    cli_config config;
    sbx_err err;

    if (c->client)
        return true;
    if (cli_config_read(c, &config, &err)) {
        cli_fail(c, "%s", err.msg);
        return false;
    }
    cli_client *client = sbx_alloc(sizeof(*client));

    client->config = config;
    client->authorization = sbx_asprintf("Authorization: Bearer %s", config.key);
    if (curl_global_init(CURL_GLOBAL_DEFAULT) || !(client->multi = curl_multi_init()))
        abort();
    c->client = client;
    return true;
}

void cli_client_free(cli_client *client)
{
    if (!client)
        return;
    curl_multi_cleanup(client->multi);
    sbx_wipe(client->authorization, strlen(client->authorization));
    free(client->authorization);
    cli_config_done(&client->config);
    free(client);
    curl_global_cleanup();
}

const cli_config *cli_client_config(const cli_client *client)
{
    return &client->config;
}

/* --- making a call --- */

void cli_call_init(cli_call *k, const char *method, const char *path, ...)
{
    va_list ap;
    char text[512];

    *k = (cli_call){.method = method,
                    .path = SBX_BUF_INIT(64 * KIB),
                    .body = SBX_BUF_INIT(SBX_MAX_BODY_RUN),
                    .headers = SBX_BUF_INIT(4 * KIB),
                    .answer = SBX_BUF_INIT(CLI_MAX_ANSWER),
                    .send_size = -1};
    k->repeatable = strcmp(method, "POST") != 0;
    va_start(ap, path);
    vsnprintf(text, sizeof(text), path, ap);
    va_end(ap);
    sbx_buf_adds(&k->path, text);
}

void cli_call_done(cli_call *k)
{
    sbx_buf_done(&k->path);
    sbx_buf_done(&k->body);
    sbx_buf_done(&k->headers);
    sbx_buf_done(&k->answer);
    curl_slist_free_all(k->sent);
    curl_easy_cleanup(k->easy);
    k->sent = NULL;
    k->easy = NULL;
}

static void add_encoded(sbx_buf *out, const char *text)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/";

    for (; *text; text++)
        if (strchr(plain, *text))
            sbx_buf_addc(out, *text);
        else
            sbx_buf_addf(out, "%%%02X", (unsigned char)*text);
}

void cli_query(cli_call *k, const char *name, const char *value)
{
    if (!value)
        return;
    sbx_buf_addc(&k->path, strchr(k->path.data, '?') ? '&' : '?');
    add_encoded(&k->path, name);
    sbx_buf_addc(&k->path, '=');
    add_encoded(&k->path, value);
}

void cli_query_int(cli_call *k, const char *name, int64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%lld", (long long)value);
    cli_query(k, name, text);
}

sbx_jw cli_body(cli_call *k)
{
    k->type = "application/json";
    return (sbx_jw){.out = &k->body};
}

/* --- what curl asks for --- */

static size_t take_body(char *data, size_t size, size_t count, void *arg)
{
    cli_call *k = arg;
    size_t len = size * count;

    if (k->hold)
        return CURL_WRITEFUNC_PAUSE;
    curl_easy_getinfo(k->easy, CURLINFO_RESPONSE_CODE, &k->status);
    if (k->on_data && k->status >= 200 && k->status < 300)
        return k->on_data(k->arg, data, len) ? len : 0;
    sbx_buf_add(&k->answer, data, len);
    return sbx_buf_failed(&k->answer) ? 0 : len;
}

static size_t give_body(char *to, size_t size, size_t count, void *arg)
{
    cli_call *k = arg;
    size_t n = k->on_send(k->arg, to, size * count);

    return n == SIZE_MAX ? CURL_READFUNC_ABORT : n;
}

static int rewind_body(void *arg, curl_off_t offset, int origin)
{
    cli_call *k = arg;

    if (offset != 0 || origin != SEEK_SET || !k->on_rewind || !k->on_rewind(k->arg))
        return CURL_SEEKFUNC_CANTSEEK;
    return CURL_SEEKFUNC_OK;
}

/* @return whether the line is of that header; its value is copied. */
static bool header_is(const char *line, size_t len, const char *name, char *out, size_t cap)
{
    size_t n = strlen(name);

    if (len <= n || line[n] != ':' || strncasecmp(line, name, n) != 0)
        return false;
    for (n++; n < len && (line[n] == ' ' || line[n] == '\t');)
        n++;
    while (len > n && (line[len - 1] == '\r' || line[len - 1] == '\n'))
        len--;
    snprintf(out, cap, "%.*s", (int)(len - n), line + n);
    return true;
}

static size_t take_header(char *line, size_t size, size_t count, void *arg)
{
    cli_call *k = arg;
    size_t len = size * count;
    char number[24];
    int64_t n;

    if (len > 5 && strncmp(line, "HTTP/", 5) == 0) { /* the last answer counts, not a 100 */
        k->retry_after_s = -1;
        k->length = -1;
    }
    if (header_is(line, len, "Retry-After", number, sizeof(number)) &&
        sbx_parse_i64(number, 0, 86400, &n))
        k->retry_after_s = (int)n;
    if (header_is(line, len, "Content-Length", number, sizeof(number)) &&
        sbx_parse_i64(number, 0, INT64_MAX, &n))
        k->length = n;
    if (!header_is(line, len, "X-Request-Id", k->request_id, sizeof(k->request_id)))
        (void)header_is(line, len, "ETag", k->etag, sizeof(k->etag));
    return len;
}

static void add_headers(const cli_client *client, cli_call *k)
{
    char text[200];

    k->sent = curl_slist_append(k->sent, client->authorization);
    snprintf(text, sizeof(text), "Accept: %s", k->accept ? k->accept : "application/json");
    k->sent = curl_slist_append(k->sent, text);
    if (k->type) {
        snprintf(text, sizeof(text), "Content-Type: %s", k->type);
        k->sent = curl_slist_append(k->sent, text);
    }
    for (char *line = k->headers.data; line && *line;) {
        size_t len = strcspn(line, "\n");
        SBX_CLEANUP(sbx_free_str) char *one = sbx_strndup(line, len);

        k->sent = curl_slist_append(k->sent, one);
        line += len + (line[len] == '\n');
    }
}

static void set_body(cli_call *k)
{
    CURL *e = k->easy;

    if (k->on_send) {
        curl_easy_setopt(e, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(e, CURLOPT_READFUNCTION, give_body);
        curl_easy_setopt(e, CURLOPT_READDATA, k);
        curl_easy_setopt(e, CURLOPT_SEEKFUNCTION, rewind_body);
        curl_easy_setopt(e, CURLOPT_SEEKDATA, k);
        curl_easy_setopt(e, CURLOPT_INFILESIZE_LARGE, (curl_off_t)k->send_size);
        curl_easy_setopt(e, CURLOPT_UPLOAD_BUFFERSIZE, 512L * 1024);
    } else if (k->type || strcmp(k->method, "POST") == 0) {
        curl_easy_setopt(e, CURLOPT_POST, 1L);
        curl_easy_setopt(e, CURLOPT_POSTFIELDS, k->body.data ? k->body.data : "");
        curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)k->body.len);
        k->sent = curl_slist_append(k->sent, "Expect:");
    }
    curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, k->method);
}

void cli_start(cli *c, cli_call *k)
{
    cli_client *client = c->client;
    SBX_CLEANUP(sbx_free_str) char *url = sbx_asprintf("%s%s", client->config.url, k->path.data);

    curl_slist_free_all(sbx_steal(k->sent));
    curl_easy_cleanup(k->easy);
    CURL *e = k->easy = curl_easy_init();
    if (!e)
        abort();
    k->done = false;
    k->status = 0;
    k->retry_after_s = -1;
    k->length = -1;
    k->why[0] = k->request_id[0] = '\0';
    sbx_buf_reset(&k->answer);
    add_headers(client, k);
    set_body(k);
    curl_easy_setopt(e, CURLOPT_URL, url);
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, k->sent);
    curl_easy_setopt(e, CURLOPT_USERAGENT, "sbx/" SBX_VERSION);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, k);
    curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(e, CURLOPT_HEADERDATA, k);
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, k->why);
    curl_easy_setopt(e, CURLOPT_PRIVATE, k);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT, CONNECT_S);
    curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L); /* a create may be silent for minutes */
    curl_easy_setopt(e, CURLOPT_TCP_KEEPIDLE, 20L);
    curl_easy_setopt(e, CURLOPT_TCP_KEEPINTVL, 10L);
    curl_easy_setopt(e, CURLOPT_BUFFERSIZE, 256L * 1024);
    if (k->impatient) {
        curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, STALL_S);
    }
    if (curl_multi_add_handle(client->multi, e))
        abort();
}

void cli_go_on(cli_call *k)
{
    if (!k->hold)
        return;
    k->hold = false;
    if (!k->done)
        curl_easy_pause(k->easy, CURLPAUSE_CONT);
}

void cli_cancel(cli *c, cli_call *k)
{
    if (k->easy && !k->done)
        curl_multi_remove_handle(c->client->multi, k->easy);
    k->done = true;
}

void cli_drive(cli *c)
{
    CURLM *multi = c->client->multi;
    int running, left;
    CURLMsg *m;

    curl_multi_perform(multi, &running);
    while ((m = curl_multi_info_read(multi, &left))) {
        cli_call *k = NULL;

        if (m->msg != CURLMSG_DONE)
            continue;
        CURLcode result = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &k);
        curl_easy_getinfo(k->easy, CURLINFO_RESPONSE_CODE, &k->status);
        curl_multi_remove_handle(multi, k->easy);
        k->result = result;
        k->done = true;
    }
}

void cli_wait(cli *c, struct curl_waitfd *fds, unsigned count, int timeout_ms)
{
    curl_multi_poll(c->client->multi, fds, count, timeout_ms, NULL);
}

/* --- results --- */

bool cli_ok(const cli_call *k)
{
    return k->done && k->result == CURLE_OK && k->status >= 200 && k->status < 300;
}

static bool never_sent(CURLcode result)
{
    return result == CURLE_COULDNT_CONNECT || result == CURLE_COULDNT_RESOLVE_HOST;
}

static bool connection_lost(CURLcode result)
{
    return result == CURLE_SEND_ERROR || result == CURLE_RECV_ERROR ||
           result == CURLE_GOT_NOTHING || result == CURLE_PARTIAL_FILE ||
           result == CURLE_OPERATION_TIMEDOUT;
}

bool cli_worth_a_retry(const cli_call *k, int tries, int64_t *after_ms)
{
    static const int64_t pauses_ms[] = {200, 1000, 3000};

    if (tries >= TRIES || k->once)
        return false;
    *after_ms = pauses_ms[tries - 1];
    if (k->result != CURLE_OK)
        return never_sent(k->result) || (k->repeatable && connection_lost(k->result));
    if (k->status != 503 || k->retry_after_s < 0 || !k->repeatable)
        return false;
    *after_ms = SBX_MIN((int64_t)k->retry_after_s * 1000, MAX_PAUSE_MS);
    return true;
}

static bool can_begin_again(cli_call *k)
{
    return !k->on_send || (k->on_rewind && k->on_rewind(k->arg));
}

bool cli_try(cli *c, cli_call *k)
{
    int64_t after_ms;

    if (!cli_connect(c)) {
        k->status = -1; /* it was told why */
        return false;
    }
    for (int tries = 1;; tries++) {
        cli_start(c, k);
        for (cli_drive(c); !k->done; cli_drive(c))
            cli_wait(c, NULL, 0, 1000);
        if (cli_ok(k))
            return true;
        if (k->on_data && k->status >= 200 && k->status < 300)
            return false; /* a part of it was taken: its caller knows how to go on */
        if (!cli_worth_a_retry(k, tries, &after_ms) || !can_begin_again(k))
            return false;
        if (k->result == CURLE_OK)
            cli_note(c, "the server says 503; again in %.1f s", (double)after_ms / 1000);
        else
            cli_note(c, "%s; again in %.1f s", *k->why ? k->why : curl_easy_strerror(k->result),
                     (double)after_ms / 1000);
        poll(NULL, 0, (int)after_ms);
    }
}

bool cli_request(cli *c, cli_call *k)
{
    if (cli_try(c, k))
        return true;
    cli_complain(c, k);
    return false;
}

/* --- telling --- */

/* What a person can do about a code. */
static const struct {
    const char *code, *advice;
} advices[] = {
    {"unauthorized", "check SBX_KEY or SBX_KEY_FILE: the server does not know this key"},
    {"forbidden", "use a key with the scope that this needs"},
    {"not_found", "`sbx ls` lists your sandboxes"},
    {"engine_unavailable", "try again; the operator sees the reason in `sandboxd doctor`"},
    {"store_unavailable", "try again; the operator sees the reason in `sandboxd doctor`"},
    {"at_capacity", "try again later"},
    {"rate_limited", "try again later"},
    {"internal", "tell the operator the request id"},
};

static void add_text(sbx_buf *out, const char *before, const char *text)
{
    if (!text || !*text)
        return;
    sbx_buf_adds(out, before);
    cli_escape(out, text, SBX_MIN(strlen(text), (size_t)2 * KIB));
}

static void add_fields(sbx_buf *out, const sbx_json *problem, const char *detail)
{
    const sbx_json *e = sbx_json_first(sbx_json_get(problem, "errors"));

    for (int n = 0; e && n < 20; e = sbx_json_next(e), n++) {
        const char *message = sbx_json_str(sbx_json_get(e, "message"));
        const char *field = sbx_json_str(sbx_json_get(e, "field"));

        if (sbx_streq(message, detail))
            continue;
        add_text(out, "\n  ", field);
        add_text(out, field ? ": " : "\n  ", message);
    }
}

static void add_problem(sbx_buf *out, const cli_call *k, const sbx_json *problem)
{
    const char *detail = sbx_json_str(sbx_json_get(problem, "detail"));
    const char *code = sbx_json_str(sbx_json_get(problem, "code"));
    const char *id = sbx_json_str(sbx_json_get(problem, "requestId"));

    if (!detail)
        detail = sbx_json_str(sbx_json_get(problem, "title"));
    if (detail)
        add_text(out, "", detail);
    else
        sbx_buf_addf(out, "the server answered %ld and gives no reason", k->status);
    add_fields(out, problem, detail);
    add_text(out, "\n  the record that stays: sbx get ",
             sbx_json_str(sbx_json_get(problem, "sandboxId")));
    for (size_t i = 0; i < ARRAY_LEN(advices); i++)
        if (sbx_streq(code, advices[i].code))
            add_text(out, "\n  ", advices[i].advice);
    add_text(out, "\n  request id: ", id ? id : k->request_id);
}

static sbx_json *problem_of(const cli_call *k)
{
    sbx_json *root = NULL;
    sbx_err err;

    if (!k->answer.len || sbx_json_parse(k->answer.data, k->answer.len, &root, &err))
        return NULL;
    if (sbx_json_kind(root) != SBX_J_OBJ) {
        sbx_json_free(root);
        return NULL;
    }
    return root;
}

void cli_problem_code(const cli_call *k, char out[64])
{
    SBX_CLEANUP(sbx_json_free) sbx_json *problem = problem_of(k);
    const char *code = sbx_json_str(sbx_json_get(problem, "code"));

    sbx_copy(out, 64, code ? code : "");
}

int cli_complain(const cli *c, const cli_call *k)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(64 * KIB);
    SBX_CLEANUP(sbx_json_free) sbx_json *problem = problem_of(k);

    if (k->status < 0)
        return CLI_FAILED;
    if (k->result != CURLE_OK && !(k->status >= 300 && problem)) {
        add_text(&text, "", *k->why ? k->why : curl_easy_strerror(k->result));
        add_text(&text,
                 never_sent(k->result) ? "\n  is the server running, and SBX_URL right? "
                                       : "\n  the server is ",
                 c->client->config.url);
    } else if (problem) {
        add_problem(&text, k, problem);
    } else {
        sbx_buf_addf(&text, "the server answered %ld, which is no answer of sandboxd", k->status);
        add_text(&text, "\n  check SBX_URL: ", c->client->config.url);
        add_text(&text, "\n  request id: ", k->request_id);
    }
    return cli_fail(c, "%s", text.data);
}

/* --- which sandbox --- */

bool cli_place(const char *word, char **ret_id, const char **ret_path)
{
    const char *colon = strchr(word, ':'), *slash = strchr(word, '/');

    /* a path of this machine may hold a colon behind a slash */
    if (!colon || colon == word || (slash && slash < colon))
        return false;
    *ret_id = sbx_strndup(word, (size_t)(colon - word));
    *ret_path = colon + 1;
    return true;
}

static bool is_id(const char *word)
{
    return strlen(word) == SBX_ID_LEN &&
           strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789") == SBX_ID_LEN;
}

static int tell_several(const cli *c, const char *things, const char *word, const sbx_json *item)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(4 * KIB);

    sbx_buf_addf(&text, "several %s are called \"", things);
    add_text(&text, "", word);
    sbx_buf_adds(&text, "\"; give the id of one:");
    for (; item; item = sbx_json_next(item))
        add_text(&text, " ", sbx_json_str(sbx_json_get(item, "id")));
    return cli_fail(c, "%s", text.data);
}

/* @param things  as the API calls them: "sandboxes"; @param list  the command that lists them. */
static bool resolve(cli *c, const char *things, const char *list, const char *word, char out[24])
{
    SBX_CLEANUP_VAL(cli_call_done) cli_call k;
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    sbx_err err;

    cli_call_init(&k, "GET", "/%s", things);
    if (is_id(word)) {
        sbx_copy(out, 24, word);
        return true;
    }
    cli_query(&k, "name", word);
    cli_query_int(&k, "limit", 5);
    if (!*word) {
        cli_usage(c, "an id or a name may not be empty");
        return false;
    }
    if (!cli_request(c, &k))
        return false;
    if (sbx_json_parse(k.answer.data ? k.answer.data : "", k.answer.len, &root, &err)) {
        cli_fail(c, "the server's answer is no JSON: %s", err.msg);
        return false;
    }
    const sbx_json *item = sbx_json_first(sbx_json_get(root, "items"));
    const char *id = sbx_json_str(sbx_json_get(item, "id"));

    if (!item)
        cli_fail(c, "none of your %s has the id or name \"%.128s\"; `sbx %s` lists them", things,
                 word, list);
    else if (sbx_json_next(item))
        tell_several(c, things, word, item);
    else if (!id || !is_id(id))
        cli_fail(c, "the server's answer has no id");
    else
        return sbx_copy(out, 24, id);
    return false;
}

bool cli_resolve(cli *c, const char *word, char out[24])
{
    return resolve(c, "sandboxes", "ls", word, out);
}

bool cli_resolve_group(cli *c, const char *word, char out[24])
{
    return resolve(c, "groups", "group ls", word, out);
}
