/* From requests to the arguments of sbx-files. */
#include "files_priv.h"

#include <stdio.h>
#include <strings.h>

/* Of files that browsers and tools know by their names; all others are bytes. */
static const struct {
    const char *extension, *type;
} media_types[] = {
    {"css", "text/css; charset=utf-8"},
    {"csv", "text/csv; charset=utf-8"},
    {"gif", "image/gif"},
    {"htm", "text/html; charset=utf-8"},
    {"html", "text/html; charset=utf-8"},
    {"jpeg", "image/jpeg"},
    {"jpg", "image/jpeg"},
    {"js", "text/javascript; charset=utf-8"},
    {"json", "application/json"},
    {"md", "text/markdown; charset=utf-8"},
    {"pdf", "application/pdf"},
    {"png", "image/png"},
    {"svg", "image/svg+xml"},
    {"txt", "text/plain; charset=utf-8"},
    {"webp", "image/webp"},
    {"xml", "application/xml"},
    {"zip", "application/zip"},
};

const char *file_media_type(const char *name)
{
    const char *dot = strrchr(name, '.');

    for (size_t i = 0; dot && dot != name && i < ARRAY_LEN(media_types); i++)
        if (strcasecmp(dot + 1, media_types[i].extension) == 0)
            return media_types[i].type;
    return "application/octet-stream";
}

/* --- arguments --- */

static void add(transfer *x, const char *text)
{
    x->args[x->arg_count++] = sbx_strdup(text);
}

static void add_number(transfer *x, int64_t n)
{
    char text[24];

    snprintf(text, sizeof(text), "%lld", (long long)n);
    add(x, text);
}

static int add_path(transfer *x, const char *field, const char *path, sbx_err *err)
{
    if (!path || !*path)
        return sbx_fail_field(err, field, "%s is required: an absolute path, or one below the home",
                              field);
    if (strlen(path) > SBX_MAX_FILE_PATH_BYTES)
        return sbx_fail_field(err, field, "%s must have at most %d bytes", field,
                              SBX_MAX_FILE_PATH_BYTES);
    add(x, path);
    return 0;
}

static int query_path(transfer *x, const sbx_request *r, sbx_err *err)
{
    return add_path(x, "path", sbx_request_query(r, "path"), err);
}

static int query_flag(const sbx_request *r, const char *name, bool *ret, sbx_err *err)
{
    const char *text = sbx_request_query(r, name);

    *ret = sbx_streq(text, "true");
    if (!text || *ret || strcmp(text, "false") == 0)
        return 0;
    return sbx_fail_field(err, name, "%s must be true or false", name);
}

static int query_number(const sbx_request *r, const char *name, int64_t max, int64_t *ret,
                        sbx_err *err)
{
    const char *text = sbx_request_query(r, name);

    if (!text || sbx_parse_i64(text, 1, max, ret))
        return 0;
    return sbx_fail_field(err, name, "%s must be a whole number from 1 to %lld", name,
                          (long long)max);
}

static int add_mode(transfer *x, const char *mode, sbx_err *err)
{
    if (mode && !sbx_file_mode_valid(mode))
        return sbx_fail_field(err, "mode", "mode must have 1 to 4 octal digits, such as 0644");
    add(x, mode ? mode : "-");
    return 0;
}

/* --- reading --- */

/* One range in bytes, as the tool wants it. Of what is no such thing, and of several ranges, the
 * header is not looked at: the whole file is a right answer. */
static bool add_range(transfer *x, const char *range)
{
    const char *text = range && strncasecmp(range, "bytes=", 6) == 0 ? range + 6 : "";
    size_t first = strspn(text, "0123456789");
    const char *dash = text + first;
    size_t last = *dash == '-' ? strspn(dash + 1, "0123456789") : 0;
    bool one = *dash == '-' && !dash[1 + last] && (first || last) && first <= 18 && last <= 18;

    add(x, one ? text : "-");
    return one;
}

static int read_read(transfer *x, const sbx_request *r, sbx_err *err)
{
    if (query_path(x, r, err))
        return -1;
    x->ranged = add_range(x, r->range);
    x->if_match = sbx_strdup(r->if_match);
    x->if_range = sbx_strdup(r->if_range);
    return 0;
}

static int read_stat(transfer *x, const sbx_request *r, sbx_err *err)
{
    return query_path(x, r, err);
}

static int read_list(transfer *x, const sbx_request *r, sbx_err *err)
{
    int64_t depth = 1, limit = SBX_DEFAULT_LIST_FILES;

    if (query_path(x, r, err) || query_number(r, "depth", SBX_MAX_LIST_DEPTH, &depth, err) ||
        query_number(r, "limit", SBX_MAX_LIST_FILES, &limit, err))
        return -1;
    add_number(x, depth);
    add_number(x, limit);
    return 0;
}

static int read_pack(transfer *x, const sbx_request *r, sbx_err *err)
{
    const char *format = sbx_request_query(r, "format");

    if (query_path(x, r, err))
        return -1;
    if (format && strcmp(format, "tar.gz") != 0 && strcmp(format, "tar") != 0 &&
        strcmp(format, "zip") != 0)
        return sbx_fail_field(err, "format", "format must be tar.gz, tar or zip");
    add(x, format ? format : "tar.gz");
    return 0;
}

static int read_watch(transfer *x, const sbx_request *r, sbx_err *err)
{
    bool recursive;

    if (query_path(x, r, err) || query_flag(r, "recursive", &recursive, err))
        return -1;
    add(x, recursive ? "1" : "0");
    return 0;
}

/* --- writing --- */

/* The tag between its quotes; others than the tool's own can match nothing. */
static int add_tag(transfer *x, const char *quoted, sbx_err *err)
{
    size_t n = strlen(quoted);
    char tag[96];

    if (strcmp(quoted, "*") == 0) {
        add(x, "*");
        return 0;
    }
    if (n < 4 || n > sizeof(tag) || quoted[0] != '"' || quoted[n - 1] != '"' ||
        strspn(quoted + 1, "0123456789abcdef-") != n - 2)
        return sbx_fail(err, SBX_E_PRECONDITION, "no file has the tag %.80s", quoted);
    snprintf(tag, sizeof(tag), "%.*s", (int)(n - 2), quoted + 1);
    add(x, tag);
    return 0;
}

static int add_condition(transfer *x, const sbx_request *r, sbx_err *err)
{
    if (r->if_match && r->if_none_match)
        return sbx_fail(err, SBX_E_INVALID, "If-Match and If-None-Match exclude each other here");
    if (r->if_match)
        return add_tag(x, r->if_match, err);
    if (r->if_none_match && strcmp(r->if_none_match, "*") != 0)
        return sbx_fail(err, SBX_E_INVALID, "If-None-Match of a write can only be *");
    if (r->if_none_match)
        add(x, "-");
    return 0;
}

static int read_write(transfer *x, const sbx_request *r, sbx_err *err)
{
    bool parents;

    x->tagged = true;
    if (query_path(x, r, err) || add_mode(x, sbx_request_query(r, "mode"), err) ||
        query_flag(r, "mkdirs", &parents, err))
        return -1;
    add(x, parents ? "1" : "0");
    if (r->length < 0)
        add(x, "-");
    else
        add_number(x, r->length);
    return add_condition(x, r, err);
}

static int read_unpack(transfer *x, const sbx_request *r, sbx_err *err)
{
    if (query_path(x, r, err))
        return -1;
    add_number(x, SBX_MAX_UNPACK_BYTES);
    add_number(x, SBX_MAX_UNPACK_ENTRIES);
    return 0;
}

static int read_remove(transfer *x, const sbx_request *r, sbx_err *err)
{
    bool recursive;

    if (query_path(x, r, err) || query_flag(r, "recursive", &recursive, err))
        return -1;
    add(x, recursive ? "1" : "0");
    return 0;
}

/* --- bodies of JSON --- */

typedef struct mkdir_body {
    char *path, *mode;
    bool parents;
} mkdir_body;

typedef struct move_body {
    char *from, *to;
    bool overwrite;
} move_body;

#define PATH(type, member, text)                                                                   \
    SBX_JF_STR, offsetof(type, member), .required = true, .min = 1,                                \
                                        .max = SBX_MAX_FILE_PATH_BYTES, .doc = text

const sbx_json_field sbx_mkdir_fields[] = {
    {"path", PATH(mkdir_body, path, "absolute, or relative to the user's home")},
    {"parents", SBX_JF_BOOL, offsetof(mkdir_body, parents), .dflt = 1,
     .doc = "make missing directories above it, and take one that is there already"},
    {"mode", SBX_JF_STR, offsetof(mkdir_body, mode), .nullable = true, .min = 1, .max = 4,
     .example = "\"0755\"", .doc = "octal; default: 0777 without the umask"},
    {.name = NULL},
};

const sbx_json_field sbx_move_fields[] = {
    {"from", PATH(move_body, from, "absolute, or relative to the user's home")},
    {"to", PATH(move_body, to, "the new path itself, not a directory to put it into")},
    {"overwrite", SBX_JF_BOOL, offsetof(move_body, overwrite),
     .doc = "replace what is there; else that is 409"},
    {.name = NULL},
};

static int decode(const sbx_request *r, const sbx_json_field *fields, void *out, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;

    return sbx_json_parse(r->body, r->body_len, &root, err) ||
                   sbx_json_decode(root, fields, out, err)
               ? -1
               : 0;
}

static int read_mkdir(transfer *x, const sbx_request *r, sbx_err *err)
{
    mkdir_body b = {0};
    int rc = decode(r, sbx_mkdir_fields, &b, err) || add_path(x, "path", b.path, err);

    if (!rc) {
        add(x, b.parents ? "1" : "0");
        rc = add_mode(x, b.mode, err);
    }
    sbx_json_struct_done(sbx_mkdir_fields, &b);
    return rc ? -1 : 0;
}

static int read_move(transfer *x, const sbx_request *r, sbx_err *err)
{
    move_body b = {0};
    int rc = decode(r, sbx_move_fields, &b, err) || add_path(x, "from", b.from, err) ||
             add_path(x, "to", b.to, err);

    x->lead = "from";
    if (!rc)
        add(x, b.overwrite ? "1" : "0");
    sbx_json_struct_done(sbx_move_fields, &b);
    return rc ? -1 : 0;
}

const file_op file_ops[] = {
    [SBX_FILE_READ] = {"read", &form_file, 1, .read = read_read},
    [SBX_FILE_WRITE] = {"write", &form_entry, 1, .input = true, .body = true, .read = read_write},
    [SBX_FILE_REMOVE] = {"remove", &form_nothing, SBX_TOOL_LONG, .read = read_remove},
    [SBX_FILE_STAT] = {"stat", &form_entry, 1, .read = read_stat},
    [SBX_FILE_LIST] = {"list", &form_list, 1, .read = read_list},
    [SBX_FILE_MKDIR] = {"mkdir", &form_entry, 1, .read = read_mkdir},
    [SBX_FILE_MOVE] = {"move", &form_entry, SBX_TOOL_LONG, .read = read_move},
    [SBX_FILE_COPY] = {"copy", &form_entry, SBX_TOOL_LONG, .read = read_move},
    [SBX_FILE_BATCH] = {"batch", &form_entries, 1, .input = true, .read = file_read_batch},
    [SBX_FILE_PACK] = {"pack", &form_archive, 1, .read = read_pack},
    [SBX_FILE_UNPACK] = {"unpack", &form_counts, SBX_TOOL_LONG, .input = true, .body = true,
                         .read = read_unpack},
    [SBX_FILE_WATCH] = {"watch", &form_watch, 0, .input = true, .passive = true,
                        .read = read_watch},
};
