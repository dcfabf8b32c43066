/* The chunk decoder must decode alike however the bytes are cut, and never exceed its limit. */
#include "sbx/http/chunk.h"

#define LIMIT 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run(const char *text, size_t len, size_t step, size_t *used, bool *done, sbx_buf *out)
{
    sbx_chunk c;
    sbx_err err;
    int rc = 0;

    sbx_chunk_init(&c);
    *used = 0;
    *done = false;
    while (*used < len && !rc && !*done) {
        size_t n = SBX_MIN(step, len - *used), took = 0;

        rc = sbx_chunk_feed(&c, text + *used, n, &took, out, done, &err);
        if (!rc && took > n)
            abort();
        *used += took;
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sbx_buf a = SBX_BUF_INIT(LIMIT), b = SBX_BUF_INIT(LIMIT);
    size_t used_a, used_b, step = size ? data[0] % 7 + 1 : 1;
    bool done_a, done_b;

    if (size)
        data++, size--;
    int rc_a = run((const char *)data, size, size ? size : 1, &used_a, &done_a, &a);
    int rc_b = run((const char *)data, size, step, &used_b, &done_b, &b);
    if (rc_a != rc_b || sbx_buf_failed(&a) || sbx_buf_failed(&b))
        abort();
    if (!rc_a && (done_a != done_b || used_a != used_b || a.len != b.len ||
                  (a.len && memcmp(a.data, b.data, a.len) != 0)))
        abort();
    sbx_buf_done(&a);
    sbx_buf_done(&b);
    return 0;
}
