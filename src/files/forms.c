/* The forms of an answer: a JSON document made of what the tool said, a file, an archive, a stream
 * of changes. */
#include "files_priv.h"

#include <stdio.h>

#define NAME_BYTES  255
#define COPY_BYTES  (64 * KIB)
#define DISPOSITION (3 * NAME_BYTES + NAME_BYTES + 64)

/* --- documents: everything is collected, and bounded --- */

static void fail_with(transfer *x, int (*set)(sbx_err *err))
{
    sbx_err err;

    (void)set(&err);
    transfer_fail(x, &err, NULL);
}

static int too_long(sbx_err *err)
{
    return sbx_fail(err, SBX_E_INVALID,
                    "the answer is longer than %u bytes; ask for less (limit, depth)",
                    SBX_MAX_LIST_BYTES);
}

static void collect(transfer *x, const char *data, size_t len)
{
    sbx_err err;

    sbx_buf_add(&x->out, data, len);
    if (sbx_buf_failed(&x->out))
        fail_with(x, too_long);
    else if (transfer_keep(x, len, &err))
        transfer_fail(x, &err, NULL);
    else
        transfer_grant(x, (int64_t)len);
}

static void no_ready(transfer *x)
{
    (void)x;
}

/* The next line of what was collected, without its end. @return false if there is none. */
static bool next_line(const sbx_buf *b, size_t *at, const char **line, size_t *len)
{
    const char *from = b->data + *at;
    const char *end = *at < b->len ? memchr(from, '\n', b->len - *at) : NULL;

    if (!end)
        return false;
    *line = from;
    *len = (size_t)(end - from);
    *at += *len + 1;
    return true;
}

static void entry_done(transfer *x)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(HEAD_BYTES);
    const char *line;
    size_t at = 0, len;
    char etag[96];
    sbx_err err;

    if (!next_line(&x->out, &at, &line, &len)) {
        fail_with(x, entry_nonsense);
        return;
    }
    SBX_CLEANUP(sbx_json_free) sbx_json *root = entry_read(line, len, &body, etag, &err);
    if (!root) {
        transfer_fail(x, &err, NULL);
        return;
    }
    bool created = sbx_json_bool(sbx_json_get(root, "created"), false);
    x->answered = true;
    sbx_reply_send(x->reply, created ? 201 : 200, "application/json", &(sbx_header){"etag", etag},
                   x->tagged && *etag ? 1 : 0, &body);
}

static void nothing_done(transfer *x)
{
    x->answered = true;
    sbx_reply_send(x->reply, 204, NULL, NULL, 0, NULL);
}

/* Lists are read by a worker: they may be long. */
typedef struct listing {
    sbx_reply *reply;
    sbx_buf lines;
    bool entries; /* of a batch: no last line */
} listing;

static int write_list(const listing *l, sbx_buf *body, sbx_err *err)
{
    bool truncated = false, last = l->entries, comma = false;
    const char *line;
    size_t at = 0, len;
    char etag[96];

    sbx_buf_adds(body, "{\"items\":[");
    while (next_line(&l->lines, &at, &line, &len)) {
        if (!l->entries && at == l->lines.len) {
            SBX_CLEANUP(sbx_json_free) sbx_json *end = NULL;

            last = !sbx_json_parse(line, len, &end, NULL) && sbx_json_get(end, "truncated");
            truncated = last && sbx_json_bool(sbx_json_get(end, "truncated"), false);
            break;
        }
        sbx_buf_adds(body, comma ? "," : "");
        comma = true;
        SBX_CLEANUP(sbx_json_free) sbx_json *root = entry_read(line, len, body, etag, err);
        if (!root)
            return -1;
    }
    sbx_buf_adds(body, l->entries  ? "]}"
                       : truncated ? "],\"truncated\":true}"
                                   : "],\"truncated\":false}");
    return last && !sbx_buf_failed(body) ? 0 : entry_nonsense(err);
}

static void run_listing(void *arg)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(2 * SBX_MAX_LIST_BYTES);
    listing *l = arg;
    sbx_err err;

    if (write_list(l, &body, &err))
        sbx_reply_problem(l->reply, &err);
    else
        sbx_reply_json(l->reply, 200, &body);
    sbx_reply_unref(l->reply);
    sbx_buf_done(&l->lines);
    free(l);
}

static void refuse_listing(void *arg, const sbx_err *why)
{
    listing *l = arg;

    sbx_reply_problem(l->reply, why);
    sbx_reply_unref(l->reply);
    sbx_buf_done(&l->lines);
    free(l);
}

static void hand_over(transfer *x, bool entries)
{
    listing *l = sbx_alloc(sizeof(*l));
    sbx_job job = {.run = run_listing, .refuse = refuse_listing, .arg = l};
    sbx_err err;

    *l = (listing){.reply = sbx_reply_ref(x->reply), .lines = x->out, .entries = entries};
    sbx_buf_init(&x->out, SBX_MAX_LIST_BYTES);
    x->answered = true;
    if (sbx_lanes_submit(x->f->c.lanes, SBX_LANE_FAST, &job, &err))
        refuse_listing(l, &err);
}

static void list_done(transfer *x)
{
    hand_over(x, false);
}

static void entries_done(transfer *x)
{
    hand_over(x, true);
}

static void counts_done(transfer *x)
{
    static const char *const names[] = {"files", "directories", "bytes", "skipped"};
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf body = SBX_BUF_INIT(KIB);
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    const char *line;
    size_t at = 0, len;
    sbx_jw w = SBX_JW(&body);

    if (!next_line(&x->out, &at, &line, &len) || sbx_json_parse(line, len, &root, NULL)) {
        fail_with(x, entry_nonsense);
        return;
    }
    sbx_jw_obj(&w, NULL);
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        sbx_jw_int(&w, names[i], SBX_MAX(sbx_json_int(sbx_json_get(root, names[i]), 0), 0));
    sbx_jw_obj_end(&w);
    x->answered = true;
    sbx_reply_json(x->reply, 200, &body);
}

const file_form form_entry = {collect, entry_done, no_ready, NULL};
const file_form form_nothing = {collect, nothing_done, no_ready, NULL};
const file_form form_list = {collect, list_done, no_ready, NULL};
const file_form form_entries = {collect, entries_done, no_ready, NULL};
const file_form form_counts = {collect, counts_done, no_ready, NULL};

/* --- bytes --- */

/* attachment; filename="safe"; filename*=UTF-8''exact -- a browser never shows it as a page. */
static void disposition(const char *name, const char *suffix, char out[DISPOSITION])
{
    static const char hex[] = "0123456789ABCDEF";
    char plain[NAME_BYTES + 1], exact[3 * NAME_BYTES + 1];
    size_t n = 0, m = 0;

    for (const char *p = name; *p && n < NAME_BYTES; p++) {
        unsigned char c = (unsigned char)*p;
        bool safe = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    c == '.' || c == '_' || c == '-';

        plain[n++] = safe ? *p : '_';
        if (safe) {
            exact[m++] = *p;
        } else {
            exact[m++] = '%';
            exact[m++] = hex[c >> 4];
            exact[m++] = hex[c & 15];
        }
    }
    plain[n] = exact[m] = '\0';
    snprintf(out, DISPOSITION, "attachment; filename=\"%s%s\"; filename*=UTF-8''%s%s",
             n ? plain : "file", suffix, m ? exact : "file", suffix);
}

/* A script in a file that somebody opens must find nothing of this origin. */
static const sbx_header locked[] = {{"content-security-policy", "sandbox; default-src 'none'"},
                                    {"cache-control", "private, no-cache"}};

static void not_modified(transfer *x, const char *etag)
{
    x->answered = true;
    sbx_reply_send(x->reply, 304, NULL, &(sbx_header){"etag", etag}, 1, NULL);
    transfer_settle(x);
}

/* Conditions of RFC 9110, section 13. @return whether the content is to be sent. */
static bool wanted(transfer *x, const char *etag)
{
    sbx_err err;

    if (x->if_match && strcmp(x->if_match, "*") != 0 && strcmp(x->if_match, etag) != 0) {
        sbx_fail(&err, SBX_E_PRECONDITION, "the file is not %s any more: its tag is %s",
                 x->if_match, etag);
        transfer_fail(x, &err, NULL);
        return false;
    }
    if (sbx_reply_has_tag(x->reply, etag)) {
        not_modified(x, etag);
        return false;
    }
    if (x->ranged && x->if_range && strcmp(x->if_range, etag) != 0) {
        free(x->args[1]);
        x->args[1] = sbx_strdup("-");
        x->ranged = false;
        transfer_settle(x);
        x->again = true;
        return false;
    }
    return true;
}

static void begin_file(transfer *x, const sbx_json *entry, const char *etag)
{
    const sbx_json *range = sbx_json_get(entry, "range");
    int64_t size = sbx_json_int(sbx_json_get(entry, "sizeBytes"), -1);
    int64_t from = sbx_json_int(sbx_json_get(range, "from"), -1);
    int64_t to = sbx_json_int(sbx_json_get(range, "to"), -1);
    bool named = !sbx_json_str(sbx_json_get(entry, "encoding"));
    const char *name = named ? sbx_json_str(sbx_json_get(entry, "name")) : "file";
    char attached[DISPOSITION], part[80];
    size_t count = 0;
    sbx_header headers[7];

    if (!*etag || from < 0 || to < from || to > size || (!x->ranged && (from || to != size))) {
        fail_with(x, entry_nonsense);
        return;
    }
    if (!wanted(x, etag))
        return;
    disposition(name, "", attached);
    snprintf(part, sizeof(part), "bytes %lld-%lld/%lld", (long long)from, (long long)to - 1,
             (long long)size);
    headers[count++] = (sbx_header){"etag", etag};
    headers[count++] = (sbx_header){"accept-ranges", "bytes"};
    headers[count++] = (sbx_header){"content-disposition", attached};
    for (size_t i = 0; i < ARRAY_LEN(locked); i++)
        headers[count++] = locked[i];
    if (x->ranged)
        headers[count++] = (sbx_header){"content-range", part};
    x->begun = true;
    sbx_reply_begin_with(x->reply, x->ranged ? 206 : 200, file_media_type(name), headers, count,
                         to - from);
}

/* Up to the end of the first line. */
static void file_head(transfer *x, const char *data, size_t len)
{
    const char *end = memchr(data, '\n', len);
    size_t n = end ? (size_t)(end - data) : len;
    char etag[96];
    sbx_err err;

    sbx_buf_add(&x->out, data, n);
    transfer_grant(x, (int64_t)(n + (end != NULL)));
    if (!end && x->out.len <= HEAD_BYTES)
        return;
    SBX_CLEANUP(sbx_json_free)
    sbx_json *entry = end ? entry_read(x->out.data, x->out.len, NULL, etag, &err) : NULL;
    sbx_buf_done(&x->out);
    if (!entry)
        fail_with(x, entry_nonsense);
    else
        begin_file(x, entry, etag);
    if (x->begun && !x->answered && len > n + 1)
        transfer_push(x, data + n + 1, len - n - 1);
}

static void file_output(transfer *x, const char *data, size_t len)
{
    if (x->begun)
        transfer_push(x, data, len);
    else
        file_head(x, data, len);
}

static void bytes_done(transfer *x)
{
    if (!x->begun) {
        fail_with(x, entry_nonsense);
        return;
    }
    x->over = true;
    transfer_flush(x);
}

const file_form form_file = {file_output, bytes_done, transfer_flush, NULL};

static void archive_output(transfer *x, const char *data, size_t len)
{
    static const struct {
        const char *format, *type;
    } types[] = {
        {"tar.gz", "application/gzip"}, {"tar", "application/x-tar"}, {"zip", "application/zip"}};
    const char *path = x->args[0], *slash = strrchr(path, '/'), *type = "";
    char attached[DISPOSITION], suffix[16];

    if (!x->begun) {
        for (size_t i = 0; i < ARRAY_LEN(types); i++)
            if (strcmp(types[i].format, x->args[1]) == 0)
                type = types[i].type;
        snprintf(suffix, sizeof(suffix), ".%s", x->args[1]);
        disposition(slash && slash[1] ? slash + 1 : slash ? "files" : path, suffix, attached);
        sbx_header headers[] = {{"content-disposition", attached}, locked[0], locked[1]};
        x->begun = true;
        sbx_reply_begin_with(x->reply, 200, type, headers, ARRAY_LEN(headers), -1);
    }
    transfer_push(x, data, len);
}

const file_form form_archive = {archive_output, bytes_done, transfer_flush, NULL};

/* --- changes: a line is an event or a frame --- */

/* @return false if the client takes no more now. */
static bool send_event(transfer *x, const sbx_buf *json)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf event = SBX_BUF_INIT(2 * HEAD_BYTES);
    sbx_push told;

    if (x->websocket) {
        told = sbx_reply_write(x->reply, json->data, json->len);
    } else {
        sbx_buf_addf(&event, "id: %llu\ndata: ", (unsigned long long)x->next_event + 1);
        sbx_buf_add(&event, json->data, json->len);
        sbx_buf_adds(&event, "\n\n");
        told = sbx_reply_write(x->reply, event.data, event.len);
    }
    if (told == SBX_PUSH_GONE)
        transfer_settle(x);
    x->next_event += told == SBX_PUSH_OK;
    return told == SBX_PUSH_OK;
}

static void send_changes(transfer *x)
{
    const char *line;
    size_t at = 0, next = 0, len;

    while (!x->answered && next_line(&x->out, &next, &line, &len)) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf json = SBX_BUF_INIT(HEAD_BYTES);

        if (!entry_change(line, len, &json) || sbx_buf_failed(&json)) {
            fail_with(x, entry_nonsense);
            return;
        }
        if (!x->begun) {
            x->begun = true;
            sbx_reply_begin(x->reply, 200, "text/event-stream");
        }
        if (!send_event(x, &json))
            break;
        at = next;
    }
    if (x->answered)
        return;
    sbx_buf_consume(&x->out, at);
    transfer_grant(x, (int64_t)at);
}

static void watch_output(transfer *x, const char *data, size_t len)
{
    sbx_buf_add(&x->out, data, len);
    send_changes(x);
    if (!x->answered && x->out.len > HEAD_BYTES && !memchr(x->out.data, '\n', x->out.len))
        fail_with(x, entry_nonsense);
}

static void watch_fail(transfer *x, const sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf json = SBX_BUF_INIT(4 * KIB);
    sbx_jw w = SBX_JW(&json);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "type", "error");
    sbx_jw_str(&w, "code", sbx_code_wire(err->code));
    sbx_jw_str(&w, "message", err->msg);
    sbx_jw_obj_end(&w);
    (void)send_event(x, &json); /* a client that takes nothing is not told */
    sbx_reply_end(x->reply);
}

static int watch_ended(sbx_err *err)
{
    return sbx_fail(err, SBX_E_ENGINE, "the watch has ended in the sandbox");
}

static void watch_done(transfer *x)
{
    fail_with(x, watch_ended);
}

const file_form form_watch = {watch_output, watch_done, send_changes, watch_fail};
