/* Log entries as JSON. The order of the members is fixed, and nothing that a sandbox can choose
 * stands before "source": so the filter needs no parser. */
#include "entry.h"
#include "sbx/core/json.h"

static const char *const streams[] = {
    [SBX_LOG_STDOUT] = "stdout", [SBX_LOG_STDERR] = "stderr", [SBX_LOG_SYSTEM] = "system"};
static const char *const sources[] = {[SBX_SRC_MAIN] = "main",
                                      [SBX_SRC_EXEC] = "exec",
                                      [SBX_SRC_RUN] = "run",
                                      [SBX_SRC_SYSTEM] = "system"};

const char *log_source_name(unsigned source)
{
    return source < ARRAY_LEN(sources) ? sources[source] : NULL;
}

#define TS_MAX_MS 253402300799999 /* the end of the year 9999 */

void log_entry_json(sbx_buf *out, const sbx_log_entry *e)
{
    sbx_jw w = SBX_JW(out);
    bool text = sbx_utf8_valid(e->data, e->len);
    bool named = e->exec_id_len > 0 && sbx_utf8_valid(e->exec_id, e->exec_id_len);
    const char *source = log_source_name(e->source);
    int64_t ts = e->ts_ms < 1 ? 1 : SBX_MIN(e->ts_ms, TS_MAX_MS); /* a sandbox can say anything */

    sbx_jw_obj(&w, NULL);
    sbx_jw_int(&w, "seq", (int64_t)e->seq);
    sbx_jw_time(&w, "ts", ts);
    sbx_jw_str(&w, "stream", e->stream < ARRAY_LEN(streams) ? streams[e->stream] : "system");
    sbx_jw_str(&w, "source", source ? source : "system");
    if (named)
        sbx_jw_strn(&w, "execId", e->exec_id, e->exec_id_len);
    else
        sbx_jw_null(&w, "execId");
    sbx_jw_bytes(&w, "data", e->len ? e->data : "", e->len, !text);
    if (!text)
        sbx_jw_str(&w, "encoding", "base64");
    sbx_jw_obj_end(&w);
}

bool log_item_ok(const char *data, size_t len)
{
    return len >= 2 && len <= LOG_ITEM_BYTES && data[0] == '{' && data[len - 1] == '}' &&
           !memchr(data, '\n', len) && !memchr(data, '\r', len);
}

sbx_logs_source log_item_source(const char *data, size_t len)
{
    static const char key[] = "\"source\":\"";
    const char *p = memmem(data, len, key, sizeof key - 1);
    size_t left;

    if (!p)
        return SBX_LOGS_ALL;
    p += sizeof key - 1;
    left = len - (size_t)(p - data);
    for (unsigned i = 0; i < ARRAY_LEN(sources); i++) {
        size_t n = strlen(sources[i]);

        if (left > n && memcmp(p, sources[i], n) == 0 && p[n] == '"')
            return (sbx_logs_source)i;
    }
    return SBX_LOGS_ALL;
}

bool log_number(const char *s, size_t len, uint64_t max, uint64_t *ret)
{
    uint64_t n = 0;

    if (len == 0)
        return false;
    for (size_t i = 0; i < len; i++) {
        unsigned digit = (unsigned)(unsigned char)s[i] - '0';

        if (digit > 9 || n > (max - digit) / 10)
            return false;
        n = n * 10 + digit;
    }
    *ret = n;
    return true;
}
