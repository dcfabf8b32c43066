/* What goes to sbx-files and what it says: arguments, records of a batch, entries, failures. The
 * other side is hostile in both. */
#include "files/files_priv.h"

#include <criterion/criterion.h>
#include <stdio.h>

#define ENTRY                                                                                      \
    "{\"name\":\"x\",\"path\":\"/"                                                                 \
    "x\",\"type\":\"file\",\"sizeBytes\":1,\"mode\":\"0644\",\"owner\":"                           \
    "\"u\",\"group\":\"g\",\"modifiedAt\":\"2026-01-02T03:04:05.678Z\",\"target\":null"

static sbx_files files;

static transfer made(void)
{
    return (transfer){.f = &files, .in = SBX_BUF_INIT(SBX_MAX_TOOL_BYTES), .lead = "path"};
}

static void done(transfer *x)
{
    for (size_t i = 0; i < x->arg_count; i++)
        free(x->args[i]);
    sbx_buf_done(&x->in);
    free(x->if_match);
    free(x->if_range);
}

/* The arguments of a request with this query, joined by blanks, or the field that is wrong. */
static const char *arguments(sbx_file_verb verb, sbx_request *r, const char *path)
{
    static char told[512];
    transfer x = made();
    sbx_err err = {0};

    if (path)
        r->query[r->query_count++] = (sbx_param){"path", (char *)path};
    int rc = file_ops[verb].read(&x, r, &err);
    told[0] = '\0';
    for (size_t i = 0; !rc && i < x.arg_count; i++)
        snprintf(told + strlen(told), sizeof(told) - strlen(told), "%s%s", i ? " " : "", x.args[i]);
    if (rc)
        snprintf(told, sizeof(told), "!%s", *err.field ? err.field : sbx_code_wire(err.code));
    done(&x);
    return told;
}

Test(files, ranges_that_are_one_are_passed_on_and_others_are_not_looked_at)
{
    static const struct {
        const char *header, *args;
    } cases[] = {
        {NULL, "/x -"},
        {"bytes=0-9", "/x 0-9"},
        {"bytes=5-", "/x 5-"},
        {"bytes=-5", "/x -5"},
        {"BYTES=1-2", "/x 1-2"},
        {"bytes=1-2,4-5", "/x -"},
        {"bytes=", "/x -"},
        {"bytes=-", "/x -"},
        {"bytes=1", "/x -"},
        {"bytes=1-2 ", "/x -"},
        {"bytes=a-b", "/x -"},
        {"lines=1-2", "/x -"},
        {"bytes=9999999999999999999-", "/x -"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_request r = {.range = (char *)cases[i].header};

        cr_expect_str_eq(arguments(SBX_FILE_READ, &r, "/x"), cases[i].args, "%s", cases[i].header);
    }
}

Test(files, conditions_of_a_write_become_its_last_argument)
{
    static const struct {
        const char *match, *none, *args;
    } cases[] = {
        {NULL, NULL, "/x - 0 7"},
        {"\"12-ab\"", NULL, "/x - 0 7 12-ab"},
        {"*", NULL, "/x - 0 7 *"},
        {NULL, "*", "/x - 0 7 -"},
        {NULL, "\"12-ab\"", "!invalid_request"},
        {"*", "*", "!invalid_request"},
        {"\"-\"", NULL, "!precondition_failed"},
        {"\"*\"", NULL, "!precondition_failed"},
        {"W/\"12\"", NULL, "!precondition_failed"},
        {"12-ab", NULL, "!precondition_failed"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_request r = {
            .length = 7, .if_match = (char *)cases[i].match, .if_none_match = cases[i].none};

        cr_expect_str_eq(arguments(SBX_FILE_WRITE, &r, "/x"), cases[i].args, "%zu", i);
    }
    sbx_request r = {.length = -1};
    cr_expect_str_eq(arguments(SBX_FILE_WRITE, &r, "-x"), "-x - 0 -");
}

Test(files, a_path_is_needed_and_bounded)
{
    static char longest[SBX_MAX_FILE_PATH_BYTES + 2];

    memset(longest, 'a', sizeof(longest) - 1);
    for (int verb = SBX_FILE_READ; verb <= SBX_FILE_LIST; verb++) {
        sbx_request none = {0}, empty = {0}, over = {0};

        cr_expect_str_eq(arguments((sbx_file_verb)verb, &none, NULL), "!path");
        cr_expect_str_eq(arguments((sbx_file_verb)verb, &empty, ""), "!path");
        cr_expect_str_eq(arguments((sbx_file_verb)verb, &over, longest), "!path");
    }
}

static int batch(const char *body, transfer *x, sbx_err *err)
{
    sbx_request r = {.body = (char *)body, .body_len = strlen(body)};

    *x = made();
    return file_read_batch(x, &r, err);
}

Test(files, a_batch_becomes_records)
{
    static const char expected[] = "\2\0\0\0"
                                   "\2\0\0\0\377\377\377\377\2\0\0\0\0\0\0\0/ahi"
                                   "\2\0\0\0\355\1\0\0\3\0\0\0\0\0\0\0/b\0\377\376";
    transfer x;
    sbx_err err = {0};

    cr_assert_eq(
        batch("{\"files\":{\"/a\":\"hi\",\"/b\":{\"content\":\"AP/+\",\"encoding\":\"base64\","
              "\"mode\":\"755\"}}}",
              &x, &err),
        0, "%s", err.msg);
    cr_assert_eq(x.in.len, sizeof(expected) - 1);
    cr_expect_eq(memcmp(x.in.data, expected, x.in.len), 0);
    done(&x);
}

Test(files, a_batch_that_is_wrong_is_refused)
{
    static const char *const cases[] = {
        "{\"files\":{}}",
        "{\"files\":[]}",
        "{\"files\":{\"/x\":1}}",
        "{\"files\":{\"/x\":{}}}",
        "{\"files\":{\"\":\"x\"}}",
        "{\"files\":{\"/x\":{\"content\":\"YR==\",\"encoding\":\"base64\"}}}",
        "{\"files\":{\"/x\":{\"content\":\"\",\"mode\":\"8\"}}}",
        "{\"files\":{\"/x\":{\"content\":\"\",\"mode\":755}}}",
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        transfer x;
        sbx_err err = {0};

        cr_expect_eq(batch(cases[i], &x, &err), -1, "%s", cases[i]);
        cr_expect_str_eq(err.field, "files", "%s: %s", cases[i], err.msg);
        done(&x);
    }
}

Test(files, an_entry_is_written_anew_and_nonsense_is_no_entry)
{
    static const char *const wrong[] = {
        "",
        "{",
        "[]",
        "{}",
        ENTRY,
        "{\"name\":\"x\"}",
        "{\"name\":1,\"path\":\"/"
        "x\",\"type\":\"file\",\"sizeBytes\":1,\"mode\":\"1\",\"owner\":\"u\","
        "\"group\":\"g\",\"modifiedAt\":\"2026-01-02T03:04:05.678Z\"}",
        "{\"name\":\"x\",\"path\":\"/"
        "x\",\"type\":\"door\",\"sizeBytes\":1,\"mode\":\"1\",\"owner\":\"u\","
        "\"group\":\"g\",\"modifiedAt\":\"2026-01-02T03:04:05.678Z\"}",
        "{\"name\":\"x\",\"path\":\"/"
        "x\",\"type\":\"file\",\"sizeBytes\":-1,\"mode\":\"1\",\"owner\":\"u\","
        "\"group\":\"g\",\"modifiedAt\":\"2026-01-02T03:04:05.678Z\"}",
        "{\"name\":\"x\",\"path\":\"/"
        "x\",\"type\":\"file\",\"sizeBytes\":1,\"mode\":\"1\",\"owner\":\"u\","
        "\"group\":\"g\",\"modifiedAt\":\"yesterday\"}",
    };
    static const char good[] = ENTRY ",\"etag\":\"1-2-f\",\"more\":\"dropped\"}";
    sbx_buf out = SBX_BUF_INIT(KIB);
    char etag[96];
    sbx_err err;

    sbx_json *root = entry_read(good, strlen(good), &out, etag, &err);
    cr_assert(root);
    cr_expect_str_eq(etag, "\"1-2-f\"");
    cr_expect_str_eq(out.data, ENTRY "}");
    sbx_json_free(root);
    sbx_buf_done(&out);
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        cr_expect_null(entry_read(wrong[i], strlen(wrong[i]), NULL, etag, &err), "%s", wrong[i]);
        cr_expect_eq(err.code, SBX_E_ENGINE);
    }
    static const char header[] = ENTRY ",\"etag\":\"x\\r\\nevil: 1\"}";
    root = entry_read(header, strlen(header), NULL, etag, &err);
    cr_expect_str_eq(etag, "", "a tag that is none is not passed on");
    sbx_json_free(root);
}

Test(files, failures_have_the_codes_of_the_contract)
{
    static const struct {
        const char *line;
        sbx_code code;
        const char *field;
    } cases[] = {
        {"{\"code\":\"not_found\",\"message\":\"m\",\"path\":\"/a\"}", SBX_E_NOT_FOUND, "from"},
        {"{\"code\":\"exists\",\"message\":\"m\",\"path\":\"/home/b\"}", SBX_E_CONFLICT, "to"},
        {"{\"code\":\"range\",\"message\":\"m\",\"sizeBytes\":9}", SBX_E_RANGE, "from"},
        {"{\"code\":\"no_such\",\"message\":\"m\"}", SBX_E_ENGINE, ""},
        {"{\"code\":\"exists\"}", SBX_E_ENGINE, ""},
        {"Segmentation fault", SBX_E_ENGINE, ""},
        {"", SBX_E_ENGINE, ""},
    };
    transfer x = {.lead = "from", .args = {"/a", "b"}, .arg_count = 2};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_err err;
        int64_t range;

        entry_error(&x, cases[i].line, strlen(cases[i].line), &err, &range);
        cr_expect_eq(err.code, cases[i].code, "%s", cases[i].line);
        cr_expect_str_eq(err.field, cases[i].field, "%s", cases[i].line);
        cr_expect_eq(range, cases[i].code == SBX_E_RANGE ? 9 : -1);
    }
}

Test(files, changes_are_written_anew)
{
    static const struct {
        const char *line, *told; /* NULL: refused */
    } cases[] = {
        {"{\"type\":\"ready\"}", "{\"type\":\"ready\"}"},
        {"{\"type\":\"write\",\"path\":\"/x\",\"z\":1}", "{\"type\":\"write\",\"path\":\"/x\"}"},
        {"{\"type\":\"rename\",\"path\":\"/x\",\"to\":\"/y\"}",
         "{\"type\":\"rename\",\"path\":\"/x\",\"to\":\"/y\"}"},
        {"{\"type\":\"write\"}", NULL},
        {"{\"type\":\"end\",\"path\":\"/x\"}", NULL},
        {"{}", NULL},
        {"nonsense", NULL},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_buf out = SBX_BUF_INIT(KIB);

        cr_expect_eq(entry_change(cases[i].line, strlen(cases[i].line), &out),
                     cases[i].told != NULL, "%s", cases[i].line);
        if (cases[i].told)
            cr_expect_str_eq(out.data, cases[i].told);
        sbx_buf_done(&out);
    }
}
