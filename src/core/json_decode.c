/* Decoding an object into a struct by a table of fields. Every refusal names the field. */
#include "sbx/core/json.h"

#include <math.h>
#include <stdio.h>

#define MAX_PATH 64

typedef struct decode {
    char path[MAX_PATH];
    sbx_err *err;
} decode;

static int refuse(const decode *d, const char *text)
{
    return sbx_fail_field(d->err, d->path, "%s: %s", d->path, text);
}

static int refuse_range(const decode *d, const char *what, int64_t min, int64_t max, bool milli)
{
    double scale = milli ? 1000.0 : 1.0;

    return sbx_fail_field(d->err, d->path, "%s: %s from %.15g to %.15g", d->path, what,
                          (double)min / scale, (double)max / scale);
}

static void *slot(const sbx_json_field *f, void *out)
{
    return (char *)out + f->offset;
}

static int decode_number(const decode *d, const sbx_json_field *f, const sbx_json *v, void *out)
{
    bool milli = f->type == SBX_JF_MILLI;
    double n = sbx_json_num(v, NAN);

    if (sbx_json_kind(v) != SBX_J_NUM)
        return refuse(d, "must be a number");
    if (milli)
        n = round(n * 1000.0 * 1e6) / 1e6;
    if (n != floor(n))
        return refuse(d, milli ? "at most three decimals" : "must be a whole number");
    if (n < (double)f->min || n > (double)f->max)
        return refuse_range(d, "must be", f->min, f->max, milli);
    *(int64_t *)slot(f, out) = (int64_t)n;
    return 0;
}

static int decode_json(const decode *d, const sbx_json_field *f, const sbx_json *v, void *out)
{
    int64_t count = 0;

    if (sbx_json_kind(v) != SBX_J_OBJ)
        return refuse(d, "must be an object");
    for (const sbx_json *c = sbx_json_first(v); c && count <= f->max; c = sbx_json_next(c))
        count++;
    if (count < f->min || count > f->max)
        return refuse_range(d, "must have a number of entries", f->min, f->max, false);
    *(const sbx_json **)slot(f, out) = v;
    return 0;
}

static int decode_kept(const decode *d, const sbx_json_field *f, const sbx_json *v, void *out)
{
    bool list = f->type == SBX_JF_KEPT_LIST;
    int64_t count = 0;

    if (sbx_json_kind(v) != (list ? SBX_J_ARR : SBX_J_OBJ))
        return refuse(d, list ? "must be an array of objects" : "must be an object");
    for (const sbx_json *c = list ? sbx_json_first(v) : NULL; c; c = sbx_json_next(c)) {
        if (sbx_json_kind(c) != SBX_J_OBJ)
            return sbx_fail_field(d->err, d->path, "%s: entry %lld must be an object", d->path,
                                  (long long)count);
        count++;
    }
    if (list && (count < f->min || count > f->max))
        return refuse_range(d, "must have a number of entries", f->min, f->max, false);
    *(const sbx_json **)slot(f, out) = v;
    return 0;
}

static int decode_string(const decode *d, const sbx_json_field *f, const sbx_json *v, void *out)
{
    const char *s = sbx_json_str(v);

    if (!s)
        return refuse(d, "must be a string");
    if (strlen(s) < (size_t)f->min || strlen(s) > (size_t)f->max)
        return refuse_range(d, "must have a length in bytes", f->min, f->max, false);
    *(char **)slot(f, out) = sbx_strdup(s);
    return 0;
}

static int decode_enum(const decode *d, const sbx_json_field *f, const sbx_json *v, void *out)
{
    const char *s = sbx_json_str(v);
    char known[160] = "";

    for (size_t i = 0; f->values[i]; i++) {
        if (s && strcmp(s, f->values[i]) == 0) {
            *(const char **)slot(f, out) = f->values[i];
            return 0;
        }
        size_t n = strlen(known);
        snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "", f->values[i]);
    }
    return sbx_fail_field(d->err, d->path, "%s: must be one of %s", d->path, known);
}

static int decode_strings(const decode *d, const sbx_json_field *f, const sbx_json *v, void *out)
{
    sbx_strs *to = slot(f, out);
    size_t count = 0;

    if (f->type == SBX_JF_CMD && sbx_json_kind(v) == SBX_J_STR) {
        const char *s = sbx_json_str(v);

        if (!*s || strlen(s) > (size_t)f->max_each)
            return refuse_range(d, "must have a length in bytes", 1, f->max_each, false);
        to->items = sbx_alloc(4 * sizeof(char *));
        to->items[0] = sbx_strdup("/bin/sh");
        to->items[1] = sbx_strdup("-c");
        to->items[2] = sbx_strdup(s);
        to->count = 3;
        to->shell = true;
        return 0;
    }
    if (sbx_json_kind(v) != SBX_J_ARR)
        return refuse(d, f->type == SBX_JF_CMD ? "must be a string or an array of strings"
                                               : "must be an array of strings");
    for (const sbx_json *c = sbx_json_first(v); c; c = sbx_json_next(c))
        count++;
    if (count < (size_t)f->min || count > (size_t)f->max)
        return refuse_range(d, "must have a number of entries", f->min, f->max, false);
    to->items = sbx_alloc((count + 1) * sizeof(char *));
    for (const sbx_json *c = sbx_json_first(v); c; c = sbx_json_next(c)) {
        const char *s = sbx_json_str(c);

        if (!s || strlen(s) > (size_t)f->max_each)
            return sbx_fail_field(d->err, d->path,
                                  "%s: entry %zu must be a string of at most %lld bytes", d->path,
                                  to->count, (long long)f->max_each);
        to->items[to->count++] = sbx_strdup(s);
    }
    if (f->type == SBX_JF_CMD && !to->items[0][0])
        return refuse(d, "the program's name is empty");
    return 0;
}

static int decode_pairs(const decode *d, const sbx_json_field *f, const sbx_json *v, void *out)
{
    sbx_pairs *to = slot(f, out);
    size_t count = 0;

    if (sbx_json_kind(v) != SBX_J_OBJ)
        return refuse(d, "must be an object of strings");
    for (const sbx_json *c = sbx_json_first(v); c; c = sbx_json_next(c))
        count++;
    if (count > (size_t)f->max)
        return refuse_range(d, "must have a number of entries", 0, f->max, false);
    to->names = sbx_alloc((count + 1) * sizeof(char *));
    to->values = sbx_alloc((count + 1) * sizeof(char *));
    for (const sbx_json *c = sbx_json_first(v); c; c = sbx_json_next(c)) {
        const char *s = sbx_json_str(c), *name = sbx_json_name(c);

        if (!*name || strlen(name) > 128)
            return refuse(d, "names must have 1 to 128 bytes");
        bool null = f->nullable_each && sbx_json_kind(c) == SBX_J_NULL;
        if (!null && (!s || strlen(s) > (size_t)f->max_each))
            return sbx_fail_field(d->err, d->path,
                                  "%s: \"%.40s\" must be a string of at most %lld bytes", d->path,
                                  name, (long long)f->max_each);
        to->names[to->count] = sbx_strdup(name);
        to->values[to->count++] = sbx_strdup(s);
    }
    return 0;
}

static int decode_object(decode *d, const sbx_json *obj, const sbx_json_field *fields, void *out);

static int check_one_of(const decode *d, const sbx_json *obj, const char *names)
{
    char words[160] = "";
    int given = 0;

    for (const char *p = names; *p;) {
        size_t len = strcspn(p, ","), at = strlen(words);

        for (const sbx_json *v = sbx_json_first(obj); v; v = sbx_json_next(v))
            given += strlen(sbx_json_name(v)) == len && memcmp(sbx_json_name(v), p, len) == 0;
        snprintf(words + at, sizeof(words) - at, "%s%.*s", at ? ", " : "", (int)len, p);
        p += len + (p[len] == ',');
    }
    if (given == 1)
        return 0;
    return sbx_fail_field(d->err, d->path, "%s: give exactly one of %s", d->path, words);
}

static int decode_field(decode *d, const sbx_json_field *f, const sbx_json *v, void *out)
{
    if (f->given_offset)
        *(bool *)((char *)out + f->given_offset) = true;
    if (f->nullable && sbx_json_kind(v) == SBX_J_NULL)
        return 0;
    switch (f->type) {
    case SBX_JF_STR:
        return decode_string(d, f, v, out);
    case SBX_JF_BOOL:
        if (sbx_json_kind(v) != SBX_J_BOOL)
            return refuse(d, "must be true or false");
        *(bool *)slot(f, out) = sbx_json_bool(v, false);
        return 0;
    case SBX_JF_I64:
    case SBX_JF_MILLI:
        return decode_number(d, f, v, out);
    case SBX_JF_ENUM:
        return decode_enum(d, f, v, out);
    case SBX_JF_STRS:
    case SBX_JF_CMD:
        return decode_strings(d, f, v, out);
    case SBX_JF_PAIRS:
        return decode_pairs(d, f, v, out);
    case SBX_JF_OBJ:
        if (sbx_json_kind(v) != SBX_J_OBJ)
            return refuse(d, "must be an object");
        if (decode_object(d, v, f->sub, slot(f, out)))
            return -1;
        return f->one_of ? check_one_of(d, v, f->one_of) : 0;
    case SBX_JF_JSON:
        return decode_json(d, f, v, out);
    case SBX_JF_KEPT:
    case SBX_JF_KEPT_LIST:
        return decode_kept(d, f, v, out);
    case SBX_JF_REFUSED:
        break;
    }
    return refuse(d, f->doc);
}

static void set_defaults(const sbx_json_field *fields, void *out)
{
    for (const sbx_json_field *f = fields; f->name; f++) {
        if (f->type == SBX_JF_I64 || f->type == SBX_JF_MILLI)
            *(int64_t *)slot(f, out) = f->dflt;
        else if (f->type == SBX_JF_BOOL)
            *(bool *)slot(f, out) = f->dflt != 0;
        else if (f->type == SBX_JF_ENUM)
            *(const char **)slot(f, out) = f->dflt_text;
        else if (f->type == SBX_JF_OBJ)
            set_defaults(f->sub, slot(f, out));
    }
}

static int decode_object(decode *d, const sbx_json *obj, const sbx_json_field *fields, void *out)
{
    size_t base = strlen(d->path);

    for (const sbx_json *v = sbx_json_first(obj); v; v = sbx_json_next(v)) {
        const sbx_json_field *f = fields;

        snprintf(d->path + base, MAX_PATH - base, "%s%s", base ? "." : "", sbx_json_name(v));
        while (f->name && strcmp(f->name, sbx_json_name(v)) != 0)
            f++;
        if (!f->name)
            return refuse(d, "unknown field");
        if (decode_field(d, f, v, out))
            return -1;
    }
    for (const sbx_json_field *f = fields; f->name; f++) {
        if (!f->required || sbx_json_get(obj, f->name))
            continue;
        snprintf(d->path + base, MAX_PATH - base, "%s%s", base ? "." : "", f->name);
        return refuse(d, "is required");
    }
    d->path[base] = '\0';
    return 0;
}

int sbx_json_decode(const sbx_json *obj, const sbx_json_field *fields, void *out, sbx_err *err)
{
    decode d = {.err = err};

    if (sbx_json_kind(obj) != SBX_J_OBJ)
        return sbx_fail(err, SBX_E_INVALID, "the body must be a JSON object");
    set_defaults(fields, out);
    return decode_object(&d, obj, fields, out);
}

void sbx_pairs_add(sbx_pairs *p, const char *name, const char *value)
{
    p->names = sbx_realloc(p->names, (p->count + 1) * sizeof(char *));
    p->values = sbx_realloc(p->values, (p->count + 1) * sizeof(char *));
    p->names[p->count] = sbx_strdup(name);
    p->values[p->count++] = sbx_strdup(value);
}

void sbx_strs_add(sbx_strs *s, const char *item)
{
    s->items = sbx_realloc(s->items, (s->count + 2) * sizeof(char *));
    s->items[s->count++] = sbx_strdup(item);
    s->items[s->count] = NULL;
}

void sbx_strs_done(sbx_strs *s)
{
    for (size_t i = 0; i < s->count; i++)
        free(s->items[i]);
    free(s->items);
    *s = (sbx_strs){0};
}

void sbx_pairs_done(sbx_pairs *p)
{
    for (size_t i = 0; i < p->count; i++) {
        free(p->names[i]);
        if (p->values[i])
            sbx_wipe(p->values[i], strlen(p->values[i]));
        free(p->values[i]);
    }
    free(p->names);
    free(p->values);
    *p = (sbx_pairs){0};
}

void sbx_json_struct_done(const sbx_json_field *fields, void *s)
{
    for (const sbx_json_field *f = fields; f->name; f++) {
        switch (f->type) {
        case SBX_JF_STR:
            free(*(char **)slot(f, s));
            *(char **)slot(f, s) = NULL;
            break;
        case SBX_JF_STRS:
        case SBX_JF_CMD:
            sbx_strs_done(slot(f, s));
            break;
        case SBX_JF_PAIRS:
            sbx_pairs_done(slot(f, s));
            break;
        case SBX_JF_OBJ:
            sbx_json_struct_done(f->sub, slot(f, s));
            break;
        default:
            break;
        }
    }
}
