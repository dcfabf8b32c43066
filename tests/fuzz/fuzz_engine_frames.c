/* The parsers that read what an engine sends: frames, the head of a hijacked answer, and the
 * splitting of JSON streams. Each is fed the input whole and in pieces (their size is the first
 * byte): both must see the same. */
#include "engine/docker.h"
#include "engine/head.h"
#include "engine/lines.h"
#include "sbx/engine/frames.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
    if (!ok)
        abort();
}

/* Payload goes to out with its stream before each piece of a frame's first byte. @return false if
 * refused. */
static bool frames(const uint8_t *in, size_t len, size_t step, sbx_buf *out)
{
    sbx_frames f = {0};
    size_t at = 0;

    while (at < len) {
        size_t n = SBX_MIN(step, len - at);

        if (f.left == 0) {
            ssize_t took = sbx_frames_header(&f, in + at, n, NULL);

            if (took < 0)
                return false;
            must(took > 0 && (size_t)took <= n);
            must(f.left <= SBX_MAX_ENGINE_FRAME_BYTES);
            at += (size_t)took;
            if (f.left > 0)
                sbx_buf_addc(out, (char)('0' + f.stream));
            continue;
        }
        must(sbx_frames_header(&f, in + at, n, NULL) == 0);
        n = SBX_MIN(n, f.left);
        sbx_buf_add(out, in + at, n);
        sbx_frames_payload(&f, n);
        at += n;
    }
    return true;
}

static bool on_value(void *arg, char *json, size_t len)
{
    sbx_json *v = NULL;

    sbx_buf_add(arg, json, len);
    sbx_buf_addc(arg, '\n');
    must(json[0] == '{' && json[len - 1] == '}');
    if (docker_parse(json, len, &v, NULL) == 0)
        sbx_json_free(v);
    return true;
}

static size_t lines(const uint8_t *in, size_t len, size_t step, sbx_buf *out)
{
    docker_lines l;

    docker_lines_init(&l, 200);
    for (size_t at = 0; at < len; at += step)
        must(docker_lines_take(&l, (const char *)in + at, SBX_MIN(step, len - at), on_value, out));
    docker_lines_done(&l);
    return l.skipped;
}

static void same(const sbx_buf *a, const sbx_buf *b)
{
    must(a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 65536)
        return 0;
    size_t step = data[0] % 32 + 1u;
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf a = SBX_BUF_INIT(MIB);
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(MIB);
    docker_head h, again;

    data++;
    size--;
    must(frames(data, size, size + 1, &a) == frames(data, size, step, &b));
    same(&a, &b);
    sbx_buf_reset(&a);
    sbx_buf_reset(&b);
    must(lines(data, size, size + 1, &a) == lines(data, size, step, &b));
    same(&a, &b);
    ssize_t whole = docker_head_read((const char *)data, size, &h);

    must(whole <= (ssize_t)size);
    if (whole > 0) /* what makes a head whole makes it whole without what follows */
        must(docker_head_read((const char *)data, (size_t)whole, &again) == whole &&
             again.status == h.status &&
             docker_head_read((const char *)data, (size_t)whole - 1, &again) == 0);
    return 0;
}
