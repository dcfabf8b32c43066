/* A batch of small files: from JSON to the records that sbx-files reads. */
#include "files_priv.h"

typedef struct batch_body {
    const sbx_json *files; /* of the parsed body */
} batch_body;

const sbx_json_field sbx_batch_fields[] = {
    {"files", SBX_JF_JSON, offsetof(batch_body, files), .required = true, .min = 1,
     .max = SBX_MAX_BATCH_FILES, .schema = sbx_batch_schema,
     .doc = "contents by path: text, or `content` with `encoding` (base64) and `mode` (octal)"},
    {.name = NULL},
};

int file_read_batch(transfer *x, const sbx_request *r, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    batch_body b = {0};

    x->lead = "files";
    if (sbx_json_parse(r->body, r->body_len, &root, err) ||
        sbx_json_decode(root, sbx_batch_fields, &b, err) ||
        sbx_batch_add_json(&x->in, b.files, false, err))
        return -1;
    return transfer_keep(x, x->in.cap, err);
}
