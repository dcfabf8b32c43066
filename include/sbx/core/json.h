/* JSON: strict reading into structs by tables of fields, and writing straight into a buffer.
 *
 * Reading: one parse (cJSON, used nowhere else), depth and size limited, duplicate and unknown
 * names refused by name, UTF-8 checked. Writing: a small emitter that places the commas. */
#ifndef SBX_CORE_JSON_H
#define SBX_CORE_JSON_H

#include "sbx/core/buf.h"
#include "sbx/core/error.h"

typedef struct sbx_json sbx_json; /* a parsed value; children are borrowed from the root */

typedef enum sbx_json_type {
    SBX_J_NULL,
    SBX_J_BOOL,
    SBX_J_NUM,
    SBX_J_STR,
    SBX_J_ARR,
    SBX_J_OBJ
} sbx_json_type;

/** Parse a whole document.
 * @param text  need not be terminated. @param ret  owned; free the root with sbx_json_free().
 * @return 0, or -1 with INVALID (syntax with its offset, depth over 32, invalid UTF-8, NUL,
 *         duplicate names). */
int sbx_json_parse(const char *text, size_t len, sbx_json **ret, sbx_err *err) SBX_MUST_CHECK;
void sbx_json_free(sbx_json *root);
SBX_DEFINE_CLEANUP(sbx_json, sbx_json_free)

sbx_json_type sbx_json_kind(const sbx_json *v);
const sbx_json *sbx_json_get(const sbx_json *obj, const char *name); /* NULL if absent */
const sbx_json *sbx_json_first(const sbx_json *v);                   /* child of array or object */
const sbx_json *sbx_json_next(const sbx_json *v);
const char *sbx_json_name(const sbx_json *v);               /* within an object */
const char *sbx_json_str(const sbx_json *v);                /* NULL unless a string */
double sbx_json_num(const sbx_json *v, double otherwise);   /* unless a number */
int64_t sbx_json_int(const sbx_json *v, int64_t otherwise); /* cut towards 0 */
bool sbx_json_bool(const sbx_json *v, bool otherwise);

/* --- reading in place ---
 *
 * For documents that carry output: a string may hold \u0000, which is legal JSON and which
 * sbx_json_parse() refuses since it hands out C strings. Spans are borrowed from the text. */

typedef struct sbx_json_span {
    const char *at; /* the value's first byte, of which a string's is the quote */
    size_t len;
} sbx_json_span;

/** Check a document as sbx_json_parse() does, but for NUL and duplicate names.
 * @param ret  the whole value, without the blanks around it. */
int sbx_json_span_of(const char *text, size_t len, sbx_json_span *ret, sbx_err *err) SBX_MUST_CHECK;
/** A member of an object. @return false if it is absent, or `obj` is none. */
bool sbx_json_span_get(sbx_json_span obj, const char *name, sbx_json_span *ret);
/** Walk an array: begin with an item of {0}. @return false at the end, or if `arr` is none. */
bool sbx_json_span_next(sbx_json_span arr, sbx_json_span *item);
/** Add the bytes of a string, without its escapes. @return false if it is none. */
bool sbx_json_span_bytes(sbx_json_span str, sbx_buf *out);

/* What a field of a request may be. */
typedef enum sbx_json_field_type {
    SBX_JF_STR,   /* char *        owned by the struct; min, max: bytes */
    SBX_JF_BOOL,  /* bool */
    SBX_JF_I64,   /* int64_t       min, max: value */
    SBX_JF_MILLI, /* int64_t       a decimal number times 1000 (cpus); min, max in thousandths */
    SBX_JF_ENUM,  /* const char *  one of `values` (NULL-terminated list of literals) */
    SBX_JF_STRS,  /* sbx_strs      array of strings; max: count; each at most max_each bytes */
    SBX_JF_PAIRS, /* sbx_pairs     object of strings; max: count; values at most max_each bytes */
    SBX_JF_OBJ,   /* nested struct at the offset, decoded by `sub` */
    SBX_JF_CMD,   /* sbx_strs      a string (becomes sh -c) or an array; as STRS */
    SBX_JF_JSON,  /* const sbx_json *  an object, as it was parsed; min, max: count; `schema` */
    SBX_JF_KEPT,  /* const sbx_json *  an object, as it was parsed; read later, by `sub` */
    SBX_JF_KEPT_LIST, /* const sbx_json *  an array of such objects; min, max: count */
    SBX_JF_REFUSED,   /* known to the API, not available yet: INVALID with `doc` as the message */
} sbx_json_field_type;

typedef struct sbx_strs {
    char **items; /* count entries, NULL-terminated when count > 0 */
    size_t count;
    bool shell; /* CMD: it was a string */
} sbx_strs;

typedef struct sbx_pairs {
    char **names, **values;
    size_t count;
} sbx_pairs;

typedef struct sbx_json_field {
    const char *name;
    sbx_json_field_type type;
    size_t offset;
    size_t given_offset; /* of a bool that tells if it was given; 0: none */
    bool required, nullable;
    bool nullable_each; /* PAIRS: a value may be null, which gives a value of NULL */
    int64_t min, max, dflt;
    int64_t max_each;
    const char *const *values;
    const char *dflt_text;            /* ENUM: set if absent; STR: for the API document only */
    const struct sbx_json_field *sub; /* OBJ, KEPT: ends with a row whose name is NULL */
    const char *one_of;               /* OBJ: names, "a,b,c", of which exactly one must be given */
    const char *schema;               /* JSON: of the values that are allowed; for the document */
    const char *example; /* JSON that works, where a made up value would not; for the document */
    const char *doc;     /* one sentence for the API document */
} sbx_json_field;

/** Decode an object by its table (ends with a row whose name is NULL). Defaults are set first.
 * @param out  a zeroed struct; on failure what was set stays and is freed by the caller with
 *             sbx_json_struct_done(). Errors name the field with its path ("limits.cpus"). */
int sbx_json_decode(const sbx_json *obj, const sbx_json_field *fields, void *out,
                    sbx_err *err) SBX_MUST_CHECK;
void sbx_json_struct_done(const sbx_json_field *fields, void *s);
void sbx_strs_done(sbx_strs *s);
void sbx_pairs_done(sbx_pairs *p);
/** Add one more; copied. */
void sbx_strs_add(sbx_strs *s, const char *item);
void sbx_pairs_add(sbx_pairs *p, const char *name, const char *value);

/* --- writing --- */

/* A name of NULL means: an array element or the top level. Values that are NULL pointers are
 * written as null. */
typedef struct sbx_jw {
    sbx_buf *out;
    bool comma;
} sbx_jw;

#define SBX_JW(buf)                                                                                \
    {                                                                                              \
        .out = (buf)                                                                               \
    }

void sbx_jw_obj(sbx_jw *w, const char *name);
void sbx_jw_obj_end(sbx_jw *w);
void sbx_jw_arr(sbx_jw *w, const char *name);
void sbx_jw_arr_end(sbx_jw *w);
void sbx_jw_str(sbx_jw *w, const char *name, const char *value);
void sbx_jw_strn(sbx_jw *w, const char *name, const char *value, size_t len);
void sbx_jw_int(sbx_jw *w, const char *name, int64_t value);
void sbx_jw_milli(sbx_jw *w, const char *name, int64_t thousandths); /* 1500 -> 1.5 */
void sbx_jw_bool(sbx_jw *w, const char *name, bool value);
void sbx_jw_null(sbx_jw *w, const char *name);
void sbx_jw_raw(sbx_jw *w, const char *name, const char *json); /* already JSON */
void sbx_jw_time(sbx_jw *w, const char *name, int64_t ms);      /* RFC 3339; 0 -> null */

/** A signal by its name without SIG ("KILL"), or by its number if it has none; 0 -> null. */
void sbx_jw_signal(sbx_jw *w, const char *name, int signal);

/** Bytes of unknown encoding: "NAME":"text", or base64 with "encoding":"base64" beside it. When
 * several such fields stand in one object, pass all_utf8 = false if any of them is not UTF-8. */
void sbx_jw_bytes(sbx_jw *w, const char *name, const char *data, size_t len, bool as_base64);

bool sbx_utf8_valid(const char *s, size_t len);
/** Bytes at the end that may be the beginning of a character: 0..3. */
size_t sbx_utf8_tail(const char *s, size_t len);
void sbx_base64_add(sbx_buf *b, const void *data, size_t len);
/** Decode base64 with its padding, without blanks. `b` may be added to in part on failure.
 * @return false if the text is none. */
bool sbx_base64_decode(sbx_buf *b, const char *text, size_t len) SBX_MUST_CHECK;

#endif
