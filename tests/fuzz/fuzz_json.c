/* The JSON decoder with the tables of the real requests. What it accepts must be what a second
 * pass over its own output accepts. */
#include "sbx/exec/exec.h"
#include "sbx/sandbox/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef union any_request {
    sbx_spec spec;
    char room[1024];
} any_request;

static void try_fields(const sbx_json *root, const sbx_json_field *fields)
{
    any_request out = {0};
    sbx_err err;

    if (sbx_json_decode(root, fields, &out, &err) && (err.code != SBX_E_INVALID || !*err.msg))
        abort();
    sbx_json_struct_done(fields, &out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sbx_json *root = NULL;
    sbx_spec spec = {0};
    sbx_err err;

    if (size > 65536)
        return 0;
    if (sbx_json_parse((const char *)data, size, &root, &err) == 0) {
        try_fields(root, sbx_spec_fields);
        try_fields(root, sbx_exec_fields);
    }
    sbx_json_free(root);
    (void)!sbx_spec_parse((const char *)data, size, &spec, &err);
    sbx_spec_done(&spec);
    return 0;
}
