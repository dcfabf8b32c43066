/* A batch of small files: from JSON to the records that sbx-files reads. */
#include "sbx/core/limits.h"
#include "sbx/sandbox/tool.h"

const char sbx_batch_schema[] =
    "{\"type\":\"object\",\"additionalProperties\":{\"oneOf\":[{\"type\":"
    "\"string\"},{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"content\"],"
    "\"properties\":{\"content\":{\"type\":\"string\"},\"encoding\":{\"type\":\"string\",\"enum\":["
    "\"base64\"]},\"mode\":{\"type\":\"string\",\"pattern\":\"^[0-7]{1,4}$\"}}}]}}";

typedef struct record {
    const char *path, *content;
    bool base64;
    uint32_t mode;
} record;

bool sbx_file_mode_valid(const char *mode)
{
    size_t n = strlen(mode);

    return n >= 1 && n <= 4 && strspn(mode, "01234567") == n;
}

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
    } else if (strcmp(name, "mode") == 0 && text && sbx_file_mode_valid(text)) {
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

/* Of text alone: links are followed with the rights of the sandbox's user, like any path. */
static bool leads_out(const char *path)
{
    int depth = 0;

    if (*path == '/')
        return false;
    while (*path) {
        size_t n = strcspn(path, "/");

        if (n == 2 && path[0] == '.' && path[1] == '.')
            depth--;
        else if (n > 0 && !(n == 1 && *path == '.'))
            depth++;
        if (depth < 0)
            return true;
        path += n;
        path += strspn(path, "/");
    }
    return false;
}

static int read_record(const sbx_json *v, bool inside, record *ret, sbx_err *err)
{
    *ret = (record){.path = sbx_json_name(v), .content = sbx_json_str(v), .mode = SBX_NO_MODE};
    if (!*ret->path || strlen(ret->path) > SBX_MAX_FILE_PATH_BYTES)
        return wrong(ret, "a path has 1 to 4096 bytes", err);
    if (inside && leads_out(ret->path))
        return wrong(ret, "the path leads out of the working directory", err);
    if (sbx_json_kind(v) == SBX_J_OBJ)
        for (const sbx_json *m = sbx_json_first(v); m; m = sbx_json_next(m))
            if (read_member(m, ret, err))
                return -1;
    return ret->content ? 0 : wrong(ret, "must be text, or an object with content", err);
}

static void put_le(char *to, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        to[i] = (char)(value >> 8 * i);
}

static void add_le(sbx_buf *b, uint64_t value, int bytes)
{
    char text[8];

    put_le(text, value, bytes);
    sbx_buf_add(b, text, (size_t)bytes);
}

/* The number of records stands before the first one. */
static void count_one_more(sbx_buf *b)
{
    uint32_t count = 0;

    if (b->len == 0)
        add_le(b, 0, 4);
    for (int i = 0; i < 4 && !sbx_buf_failed(b); i++)
        count |= (uint32_t)(unsigned char)b->data[i] << 8 * i;
    if (!sbx_buf_failed(b))
        put_le(b->data, count + 1, 4);
}

void sbx_batch_add(sbx_buf *b, const char *path, uint32_t mode, const void *data, size_t len)
{
    count_one_more(b);
    add_le(b, strlen(path), 4);
    add_le(b, mode, 4);
    add_le(b, len, 8);
    sbx_buf_adds(b, path);
    sbx_buf_add(b, data, len);
}

static int add_record(const record *f, sbx_buf *out, sbx_err *err)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf decoded = SBX_BUF_INIT(SBX_MAX_BODY_RUN);
    const char *data = f->content;
    size_t len = strlen(data);

    if (f->base64) {
        if (!sbx_base64_decode(&decoded, data, len))
            return wrong(f, "content is not base64", err);
        data = decoded.data ? decoded.data : "";
        len = decoded.len;
    }
    sbx_batch_add(out, f->path, f->mode, data, len);
    return 0;
}

int sbx_batch_add_json(sbx_buf *b, const sbx_json *files, bool inside, sbx_err *err)
{
    record f;

    for (const sbx_json *v = sbx_json_first(files); v; v = sbx_json_next(v))
        if (read_record(v, inside, &f, err) || add_record(&f, b, err))
            return -1;
    if (!sbx_buf_failed(b))
        return 0;
    sbx_err_set_field(err, "files", "files: together they are too large");
    err->code = SBX_E_TOO_LARGE;
    return -1;
}
