/* Feeds bytes to the codec of the agent protocol, in each of its readings, and to the agent's
 * reading of EXEC, and checks that what is accepted is within the input and can be written again.
 */
#include "launch.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
    if (!ok)
        abort();
}

static void read_fields(const unsigned char *data, size_t size)
{
    sbx_fields f;
    sbx_field at;
    unsigned char again[4096];

    sbx_fields_init(&f, data, size);
    while (sbx_fields_next(&f, &at) > 0) {
        must((const unsigned char *)at.data + at.len <= data + size);
        if (at.len <= 4000)
            must(sbx_field_put(again, sizeof again, at.tag, at.data, at.len) == at.len + 6u);
    }
}

static void read_entries(const unsigned char *data, size_t size)
{
    static unsigned char again[SBX_PROTO_MAX_FROM_AGENT];
    sbx_fields f;
    sbx_log_entry e;
    const unsigned char *before = data;

    sbx_fields_init(&f, data, size);
    while (sbx_log_entry_take(&f, &e) > 0) {
        size_t len = sbx_log_entry_put(again, sizeof again, &e);

        must(len == (size_t)(f.at - before) && memcmp(again, before, len) == 0);
        before = f.at;
    }
}

static void read_exec(const sbx_frame *f)
{
    agent_request r;
    const char *why = NULL;

    if (agent_request_parse(f, &r, &why) == 1)
        must(why == NULL && r.argc > 0 && r.argc <= AGENT_MAX_ARGS && r.envc <= AGENT_MAX_ENV &&
             r.exec_id.len <= SBX_LOG_ID_BYTES && r.cols >= 1 && r.rows <= AGENT_TERMINAL_MAX_SIDE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sbx_frame f;
    long took;
    size_t at = 0;

    while ((took = sbx_frame_take(data + at, size - at, SBX_PROTO_MAX_FROM_AGENT, &f)) > 0) {
        must((size_t)took <= size - at && f.payload + f.len == data + at + took);
        read_fields(f.payload, f.len);
        read_entries(f.payload, f.len);
        read_exec(&f);
        at += (size_t)took;
    }
    read_fields(data, size);
    read_entries(data, size);
    return 0;
}
