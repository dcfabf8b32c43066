/* A batch of small files: from JSON to the records that sbx-files reads. */
#include "files_priv.h"

#define NO_MODE UINT32_MAX

typedef struct batch_body {
    const sbx_json *files; /* of the parsed body */
} batch_body;

static const char files_schema[] =
    "{\"type\":\"object\",\"additionalProperties\":{\"oneOf\":[{\"type\":"
    "\"string\"},{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"content\"],"
    "\"properties\":{\"content\":{\"type\":\"string\"},\"encoding\":{\"type\":\"string\",\"enum\":["
    "\"base64\"]},\"mode\":{\"type\":\"string\",\"pattern\":\"^[0-7]{1,4}$\"}}}]}}";

const sbx_json_field sbx_batch_fields[] = {
    {"files", SBX_JF_JSON, offsetof(batch_body, files), .required = true, .min = 1,
     .max = SBX_MAX_BATCH_FILES, .schema = files_schema,
     .doc = "contents by path: text, or `content` with `encoding` (base64) and `mode` (octal)"},
    {.name = NULL},
};

typedef struct record {
    const char *path, *content;
    bool base64;
    uint32_t mode;
} record;

static int wrong(const record *f, const char *what, sbx_err *err)
{
    return sbx_fail_field(err, "files", "files: %.200s: %s", f->path, what);
}

/* One property of the object form. */
static int read_member(const sbx_json *v, record *ret, sbx_err *err)
{
    const char *name = sbx_json_name(v), *text = sbx_json_str(v);
    int64_t mode = 0;

    if (strcmp(name, "content") == 0 && text) {
        ret->content = text;
    } else if (strcmp(name, "encoding") == 0 && sbx_streq(text, "base64")) {
        ret->base64 = true;
    } else if (strcmp(name, "mode") == 0 && text && file_mode_valid(text)) {
        for (; *text; text++)
            mode = mode * 8 + (*text - '0');
        ret->mode = (uint32_t)mode;
    } else {
        return wrong(ret,
                     "must have content (text), and may have encoding (base64) and mode (octal "
                     "digits in text)",
                     err);
    }
    return 0;
}

static int read_record(const sbx_json *v, record *ret, sbx_err *err)
{
    *ret = (record){.path = sbx_json_name(v), .content = sbx_json_str(v), .mode = NO_MODE};
    if (!*ret->path || strlen(ret->path) > SBX_MAX_FILE_PATH_BYTES)
        return wrong(ret, "a path has 1 to 4096 bytes", err);
    if (sbx_json_kind(v) == SBX_J_OBJ)
        for (const sbx_json *m = sbx_json_first(v); m; m = sbx_json_next(m))
            if (read_member(m, ret, err))
                return -1;
    return ret->content ? 0 : wrong(ret, "must be text, or an object with content", err);
}

static void add_le(sbx_buf *b, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        sbx_buf_addc(b, (char)(value >> 8 * i));
}

static int add_record(const record *f, sbx_buf *out, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf decoded = SBX_BUF_INIT(SBX_MAX_BODY_BATCH);
    const char *data = f->content;
    size_t len = strlen(data), path_len = strlen(f->path);

    if (f->base64) {
        if (!sbx_base64_decode(&decoded, data, len))
            return wrong(f, "content is not base64", err);
        data = decoded.data ? decoded.data : "";
        len = decoded.len;
    }
    add_le(out, path_len, 4);
    add_le(out, f->mode, 4);
    add_le(out, len, 8);
    sbx_buf_add(out, f->path, path_len);
    sbx_buf_add(out, data, len);
    return 0;
}

static int add_records(const sbx_json *files, sbx_buf *out, sbx_err *err)
{
    uint32_t count = 0;
    record f;

    for (const sbx_json *v = sbx_json_first(files); v; v = sbx_json_next(v))
        count++;
    add_le(out, count, 4);
    for (const sbx_json *v = sbx_json_first(files); v; v = sbx_json_next(v))
        if (read_record(v, &f, err) || add_record(&f, out, err))
            return -1;
    return sbx_buf_failed(out) ? sbx_fail(err, SBX_E_TOO_LARGE, "the batch is too large") : 0;
}

int file_read_batch(transfer *x, const sbx_request *r, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    batch_body b = {0};

    x->lead = "files";
    if (sbx_json_parse(r->body, r->body_len, &root, err) ||
        sbx_json_decode(root, sbx_batch_fields, &b, err) || add_records(b.files, &x->in, err))
        return -1;
    return transfer_keep(x, x->in.cap, err);
}
