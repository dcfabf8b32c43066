/* Values on top of cJSON: parsing, duplicate names, access. See json_decode.c for the tables and
 * json_write.c for the emitter. */
#include "sbx/core/json.h"

#include "json_scan.h"
#include <cjson/cJSON.h>

/* An sbx_json is a cJSON item; the type is never completed. */
static const cJSON *item(const sbx_json *v)
{
    return (const cJSON *)(const void *)v;
}

static const sbx_json *wrap(const cJSON *c)
{
    return (const sbx_json *)(const void *)c;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const cJSON *const *)a)->string, (*(const cJSON *const *)b)->string);
}

/* Depth is bounded by the scan. */
static int refuse_duplicates(const cJSON *v, sbx_err *err)
{
    size_t n = 0;
    int rc = 0;

    for (const cJSON *c = v->child; c; c = c->next, n++)
        if (c->child && refuse_duplicates(c, err))
            return -1;
    if (!cJSON_IsObject(v) || n < 2)
        return 0;
    const cJSON **sorted = sbx_alloc(n * sizeof(const cJSON *));
    size_t i = 0;

    for (const cJSON *c = v->child; c; c = c->next)
        sorted[i++] = c;
    qsort(sorted, n, sizeof(const cJSON *), by_name);
    for (i = 1; i < n && !rc; i++)
        if (strcmp(sorted[i - 1]->string, sorted[i]->string) == 0)
            rc = sbx_fail_field(err, sorted[i]->string, "the name stands twice");
    free(sorted);
    return rc;
}

int sbx_json_parse(const char *text, size_t len, sbx_json **ret, sbx_err *err)
{
    if (sbx_json_scan(text, len, err))
        return -1;
    cJSON *root = cJSON_ParseWithLength(text, len);

    if (!root)
        return sbx_fail(err, SBX_E_INVALID, "malformed JSON");
    if (refuse_duplicates(root, err)) {
        cJSON_Delete(root);
        return -1;
    }
    *ret = (sbx_json *)(void *)root;
    return 0;
}

void sbx_json_free(sbx_json *root)
{
    cJSON_Delete((cJSON *)(void *)root);
}

sbx_json_type sbx_json_kind(const sbx_json *v)
{
    const cJSON *c = item(v);

    if (cJSON_IsObject(c))
        return SBX_J_OBJ;
    if (cJSON_IsArray(c))
        return SBX_J_ARR;
    if (cJSON_IsString(c))
        return SBX_J_STR;
    if (cJSON_IsNumber(c))
        return SBX_J_NUM;
    return cJSON_IsBool(c) ? SBX_J_BOOL : SBX_J_NULL;
}

const sbx_json *sbx_json_get(const sbx_json *obj, const char *name)
{
    return obj ? wrap(cJSON_GetObjectItemCaseSensitive(item(obj), name)) : NULL;
}

const sbx_json *sbx_json_first(const sbx_json *v)
{
    return v ? wrap(item(v)->child) : NULL;
}

const sbx_json *sbx_json_next(const sbx_json *v)
{
    return v ? wrap(item(v)->next) : NULL;
}

const char *sbx_json_name(const sbx_json *v)
{
    return item(v)->string;
}

const char *sbx_json_str(const sbx_json *v)
{
    return v && cJSON_IsString(item(v)) ? item(v)->valuestring : NULL;
}

double sbx_json_num(const sbx_json *v, double otherwise)
{
    return v && cJSON_IsNumber(item(v)) ? item(v)->valuedouble : otherwise;
}

int64_t sbx_json_int(const sbx_json *v, int64_t otherwise)
{
    if (!v || !cJSON_IsNumber(item(v)))
        return otherwise;
    double d = item(v)->valuedouble;

    return d >= -9.2e18 && d <= 9.2e18 ? (int64_t)d : otherwise;
}

bool sbx_json_bool(const sbx_json *v, bool otherwise)
{
    return v && cJSON_IsBool(item(v)) ? cJSON_IsTrue(item(v)) : otherwise;
}
