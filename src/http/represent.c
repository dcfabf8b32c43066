/* The form of a complete answer: its entity tag, its coding, and whether the client has it already.
 *
 * All answers pass here, on the thread that finishes them. A read (200 to GET or HEAD) of JSON or
 * text carries a strong entity tag, made of the content; a client that names it gets 304. JSON and
 * text of some size are compressed for those who take gzip, and then have a tag of their own.
 *
 * Hashing and compressing are work for workers. What another thread finishes is sent as it is, but
 * for JSON, which is handed to a worker first. */
#include "internal.h"

#include "sbx/core/crypt.h"
#include "sbx/core/log.h"
#include "sbx/core/thread.h"
#include <stdio.h>
#include <strings.h>
#include <zlib.h>

#define GZIP_MIN_BYTES  KIB /* below, the headers weigh more than what is saved */
#define GZIP_STEP_BYTES (32 * KIB)
#define GZIP_WINDOW     (15 + 16) /* the largest, with gzip's header */
#define GZIP_MEMORY     8
#define GZIP_LEVEL      1 /* measured: 8.2 times smaller; 6 takes twice the time for 9.0 */

static bool is_text(const char *type)
{
    size_t n = strcspn(type, "; ");

    return (n > 5 && strncasecmp(type, "text/", 5) == 0 &&
            strncasecmp(type, "text/event-stream", 17) != 0) ||
           (n == 16 && strncasecmp(type, "application/json", n) == 0) ||
           (n > 5 && strncasecmp(type + n - 5, "+json", 5) == 0);
}

static const char *find_header(const answer *a, const char *name)
{
    for (size_t i = 0; i < a->header_count; i++)
        if (strcasecmp(a->headers[i].name, name) == 0)
            return a->headers[i].value;
    return NULL;
}

static void make_tag(const sbx_buf *body, bool gzip, char out[64])
{
    unsigned char hash[SBX_HASH_BYTES];
    char hex[33];

    sbx_sha256(body->data ? body->data : "", body->len, hash);
    sbx_hex(hash, 16, hex);
    snprintf(out, 64, "\"%s%s\"", hex, gzip ? "-gzip" : "");
}

/* @return false if memory is out, or the ceiling of responses is reached; `out` is empty then. */
static bool compress_body(const sbx_buf *in, sbx_buf *out)
{
    z_stream z = {.next_in = (Bytef *)in->data, .avail_in = (uInt)in->len};
    int rc = deflateInit2(&z, GZIP_LEVEL, Z_DEFLATED, GZIP_WINDOW, GZIP_MEMORY, Z_DEFAULT_STRATEGY);

    if (rc != Z_OK)
        return false;
    sbx_buf_init(out, SBX_MAX_RESPONSE_BYTES);
    while (rc == Z_OK) {
        char *to = sbx_buf_reserve(out, GZIP_STEP_BYTES);

        if (!to)
            break;
        z.next_out = (Bytef *)to;
        z.avail_out = GZIP_STEP_BYTES;
        rc = deflate(&z, Z_FINISH);
        sbx_buf_commit(out, GZIP_STEP_BYTES - z.avail_out);
    }
    deflateEnd(&z);
    if (rc != Z_STREAM_END)
        sbx_buf_done(out);
    return rc == Z_STREAM_END;
}

/* Replaces the body by its compressed form, if that can be done. */
static bool compressed(answer *a)
{
    sbx_buf small = {0};

    if (!compress_body(&a->body, &small))
        return false;
    sbx_buf_done(&a->body);
    a->body = small;
    return true;
}

static bool may_work(void)
{
    sbx_role role = sbx_thread_role();

    return role == SBX_T_WORKER || role == SBX_T_NONE;
}

static bool wants_gzip(const sbx_reply *r, const answer *a)
{
    return r->gzip && a->status >= 200 && a->status < 300 && a->body.len > GZIP_MIN_BYTES &&
           is_text(a->content_type) && !find_header(a, "content-encoding") &&
           !find_header(a, "etag");
}

static void add_line(sbx_buf *head, const char *name, const char *value)
{
    sbx_buf_adds(head, name);
    sbx_buf_adds(head, value);
    sbx_buf_add(head, "\r\n", 2);
}

/* A 204 or 304: what the full answer would say of itself, without content. */
static void render_bare(const answer *a, const char *tag, const heading *h, sbx_buf *head)
{
    respond_head(head, a->status, NULL, a->headers, a->header_count, h);
    if (tag)
        add_line(head, "etag: ", tag);
}

void represent(const sbx_reply *r, answer *a, sbx_buf *head)
{
    heading h = {
        .request_id = r->request_id, .origin = r->origin, .vary = r->vary, .rate = r->rate};
    bool text = a->content_type && is_text(a->content_type);
    bool gzip = text && may_work() && wants_gzip(r, a);
    const char *own = find_header(a, "etag"), *tag = own;
    char made[64], number[24];

    if (text)
        h.vary |= VARY_ENCODING;
    if (r->read && a->status == 200 && (own || text)) {
        h.cache = "private, no-cache";
        if (!own) {
            make_tag(&a->body, gzip, made);
            tag = made;
        }
        sbx_list list = {{r->if_none_match}, r->if_none_match != NULL};
        if (sbx_etag_listed(&list, tag))
            a->status = 304;
    }
    if (a->status == 204 || a->status == 304) {
        render_bare(a, own ? NULL : tag, &h, head);
        sbx_buf_done(&a->body);
        return;
    }
    if (gzip) {
        sbx_buf plain = a->body;

        gzip = compressed(a);
        if (!gzip && tag)
            make_tag(&plain, false, made);
    }
    respond_head(head, a->status, a->content_type, a->headers, a->header_count, &h);
    if (tag && !own)
        add_line(head, "etag: ", tag);
    if (gzip)
        add_line(head, "content-encoding: ", "gzip");
    add_line(head, "content-length: ", sbx_num_text(number, (int64_t)a->body.len));
}

/* --- JSON that another thread finishes --- */

typedef struct errand {
    sbx_reply *reply;
    int status;
    sbx_buf body;
} errand;

static void run_errand(void *arg)
{
    errand *e = arg;

    reply_answer(e->reply, e->status, "application/json", NULL, 0, &e->body);
    sbx_reply_unref(e->reply);
    free(e);
}

bool represent_elsewhere(sbx_reply *r, int status, sbx_buf *body)
{
    answer a = {.status = status, .content_type = "application/json", .body = *body};
    sbx_err err;

    if (may_work() || sbx_buf_failed(body) || !wants_gzip(r, &a))
        return false;
    errand *e = sbx_alloc(sizeof(*e));
    *e = (errand){.reply = sbx_reply_ref(r), .status = status, .body = *body};
    sbx_job job = {.run = run_errand, .arg = e};
    if (sbx_lanes_submit(r->http->config.lanes, SBX_LANE_FAST, &job, &err)) {
        sbx_reply_unref(e->reply);
        free(e);
        return false;
    }
    *body = (sbx_buf){.max = body->max};
    return true;
}
