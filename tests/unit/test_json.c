/* Strict JSON: the grammar, the tables of fields, the emitter. */
#include "sbx/core/json.h"

#include "sbx/core/limits.h"
#include <criterion/criterion.h>
#include <stdio.h>

static bool parses(const char *text, size_t len, sbx_err *err)
{
    sbx_json *root = NULL;
    int rc = sbx_json_parse(text, len, &root, err);

    sbx_json_free(root);
    return rc == 0;
}

Test(json, takes_what_the_grammar_allows_and_nothing_else)
{
    static const struct {
        const char *text;
        bool ok;
    } cases[] = {
        {"{}", true},
        {" [1, -0.5e+3, true, null, \"\\u00e9\\ud83d\\ude00\"] ", true},
        {"\"x\"", true},
        {"", false},
        {"  ", false},
        {"{", false},
        {"{\"a\":1,}", false},
        {"[1,]", false},
        {"{'a':1}", false},
        {"{\"a\" 1}", false},
        {"01", false},
        {"+1", false},
        {".5", false},
        {"1.", false},
        {"1e", false},
        {"0x1", false},
        {"NaN", false},
        {"Infinity", false},
        {"nul", false},
        {"truex", false},
        {"{} {}", false},
        {"{}x", false},
        {"\"\t\"", false},
        {"\"\\x\"", false},
        {"\"\\u12\"", false},
        {"\"\\u0000\"", false},
        {"\"\\ud800\"", false},
        {"\"\\ud800\\u0041\"", false},
        {"\"\\udc00\"", false},
        {"\"\xff\"", false},
        {"\"\xc0\xaf\"", false},
        {"\"\xed\xa0\x80\"", false},
        {"\"unfinished", false},
        {"/* c */ {}", false},
        {"{\"a\":1,\"a\":2}", false},
        {"{\"x\":{\"a\":1,\"b\":2,\"a\":3}}", false},
        {"11111111111111111111111111111111111111111111", false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_err err = {0};

        cr_expect_eq(parses(cases[i].text, strlen(cases[i].text), &err), cases[i].ok, "%s: %s",
                     cases[i].text, err.msg);
        if (!cases[i].ok)
            cr_expect_eq(err.code, SBX_E_INVALID);
    }
}

Test(json, refuses_a_nul_byte_and_too_much_depth)
{
    char deep[2 * SBX_MAX_JSON_DEPTH + 4];
    sbx_err err;

    cr_expect(!parses("{}\0", 3, &err));
    memset(deep, '[', SBX_MAX_JSON_DEPTH);
    memset(deep + SBX_MAX_JSON_DEPTH, ']', SBX_MAX_JSON_DEPTH);
    cr_expect(parses(deep, 2 * SBX_MAX_JSON_DEPTH, &err));
    memset(deep, '[', SBX_MAX_JSON_DEPTH + 1);
    memset(deep + SBX_MAX_JSON_DEPTH + 1, ']', SBX_MAX_JSON_DEPTH + 1);
    cr_expect(!parses(deep, 2 * SBX_MAX_JSON_DEPTH + 2, &err));
}

Test(json, syntax_errors_give_the_offset)
{
    sbx_err err;

    cr_assert(!parses("{\"a\": tru}", 10, &err));
    cr_expect(strstr(err.msg, "at byte 6"), "%s", err.msg);
}

typedef struct sample {
    char *name;
    int64_t count, cpus;
    bool flag, count_given;
    const char *mode;
    sbx_pairs env;
    sbx_strs args, command;
    struct {
        int64_t depth;
    } inner;
} sample;

static const char *const modes[] = {"fast", "slow", NULL};
static const sbx_json_field inner_fields[] = {
    {"depth", SBX_JF_I64, 0, .min = 1, .max = 3, .dflt = 2}, {.name = NULL}};
static const sbx_json_field fields[] = {
    {"name", SBX_JF_STR, offsetof(sample, name), .required = true, .nullable = true, .min = 1,
     .max = 8},
    {"count", SBX_JF_I64, offsetof(sample, count), offsetof(sample, count_given), .min = 1,
     .max = 10, .dflt = 5},
    {"cpus", SBX_JF_MILLI, offsetof(sample, cpus), .min = 500, .max = 4000, .dflt = 1000},
    {"flag", SBX_JF_BOOL, offsetof(sample, flag), .dflt = 1},
    {"mode", SBX_JF_ENUM, offsetof(sample, mode), .values = modes},
    {"env", SBX_JF_PAIRS, offsetof(sample, env), .max = 2, .max_each = 4},
    {"args", SBX_JF_STRS, offsetof(sample, args), .max = 2, .max_each = 4},
    {"command", SBX_JF_CMD, offsetof(sample, command), .min = 1, .max = 3, .max_each = 20},
    {"inner", SBX_JF_OBJ, offsetof(sample, inner), .sub = inner_fields},
    {"later", SBX_JF_REFUSED, .doc = "not available"},
    {.name = NULL}};

static int decode(const char *text, sample *s, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;

    *s = (sample){0};
    cr_assert_eq(sbx_json_parse(text, strlen(text), &root, err), 0, "%s", err->msg);
    return sbx_json_decode(root, fields, s, err);
}

Test(json_decode, refusals_name_the_field_with_its_path)
{
    static const struct {
        const char *text, *field;
    } cases[] = {
        {"{}", "name"},
        {"{\"name\":5}", "name"},
        {"{\"name\":\"\"}", "name"},
        {"{\"name\":\"123456789\"}", "name"},
        {"{\"name\":\"a\",\"other\":1}", "other"},
        {"{\"name\":\"a\",\"count\":0}", "count"},
        {"{\"name\":\"a\",\"count\":11}", "count"},
        {"{\"name\":\"a\",\"count\":1.5}", "count"},
        {"{\"name\":\"a\",\"count\":\"1\"}", "count"},
        {"{\"name\":\"a\",\"count\":null}", "count"},
        {"{\"name\":\"a\",\"cpus\":0.4}", "cpus"},
        {"{\"name\":\"a\",\"cpus\":1.2345}", "cpus"},
        {"{\"name\":\"a\",\"cpus\":1e300}", "cpus"},
        {"{\"name\":\"a\",\"flag\":1}", "flag"},
        {"{\"name\":\"a\",\"mode\":\"medium\"}", "mode"},
        {"{\"name\":\"a\",\"env\":{\"A\":\"12345\"}}", "env"},
        {"{\"name\":\"a\",\"env\":{\"A\":1}}", "env"},
        {"{\"name\":\"a\",\"env\":{\"\":\"1\"}}", "env"},
        {"{\"name\":\"a\",\"env\":{\"A\":\"\",\"B\":\"\",\"C\":\"\"}}", "env"},
        {"{\"name\":\"a\",\"args\":[\"1\",\"2\",\"3\"]}", "args"},
        {"{\"name\":\"a\",\"args\":[1]}", "args"},
        {"{\"name\":\"a\",\"command\":[]}", "command"},
        {"{\"name\":\"a\",\"command\":\"\"}", "command"},
        {"{\"name\":\"a\",\"command\":[\"\"]}", "command"},
        {"{\"name\":\"a\",\"inner\":{\"depth\":4}}", "inner.depth"},
        {"{\"name\":\"a\",\"inner\":{\"deep\":1}}", "inner.deep"},
        {"{\"name\":\"a\",\"inner\":[]}", "inner"},
        {"{\"name\":\"a\",\"later\":1}", "later"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sample s;
        sbx_err err = {0};

        cr_expect_eq(decode(cases[i].text, &s, &err), -1, "%s", cases[i].text);
        cr_expect_str_eq(err.field, cases[i].field, "%s: %s", cases[i].text, err.msg);
        cr_expect_eq(err.code, SBX_E_INVALID);
        sbx_json_struct_done(fields, &s);
    }
}

Test(json_decode, exactly_one_of_some_names_must_be_given)
{
    static const sbx_json_field one[] = {{"port", SBX_JF_I64, 0, .min = 1, .max = 9},
                                         {"file", SBX_JF_I64, 8, .min = 1, .max = 9},
                                         {"tries", SBX_JF_I64, 16, .min = 1, .max = 9, .dflt = 1},
                                         {.name = NULL}};
    static const sbx_json_field outer[] = {
        {"check", SBX_JF_OBJ, 0, .nullable = true, .sub = one, .one_of = "port,file"},
        {.name = NULL}};
    static const struct {
        const char *text;
        bool ok;
    } cases[] = {
        {"{}", true},
        {"{\"check\":null}", true},
        {"{\"check\":{\"port\":1}}", true},
        {"{\"check\":{\"tries\":2,\"file\":1}}", true},
        {"{\"check\":{}}", false},
        {"{\"check\":{\"tries\":2}}", false},
        {"{\"check\":{\"port\":1,\"file\":1}}", false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
        int64_t out[3];
        sbx_err err = {0};

        cr_assert_eq(sbx_json_parse(cases[i].text, strlen(cases[i].text), &root, &err), 0);
        cr_expect_eq(sbx_json_decode(root, outer, out, &err), cases[i].ok ? 0 : -1, "%s",
                     cases[i].text);
        cr_expect_str_eq(err.field, cases[i].ok ? "" : "check", "%s", cases[i].text);
    }
}

Test(json_decode, fills_the_struct_and_its_defaults)
{
    sample s;
    sbx_err err;

    cr_assert_eq(decode("{\"name\":\"a\"}", &s, &err), 0);
    cr_expect_eq(s.count, 5);
    cr_expect(!s.count_given);
    cr_expect_eq(s.cpus, 1000);
    cr_expect(s.flag);
    cr_expect_eq(s.inner.depth, 2);
    sbx_json_struct_done(fields, &s);
    cr_assert_eq(decode("{\"name\":null,\"count\":7,\"cpus\":0.5,\"flag\":false,\"mode\":\"slow\","
                        "\"env\":{\"A\":\"b\"},\"args\":[\"x\"],\"command\":\"ls -l\","
                        "\"inner\":{\"depth\":3}}",
                        &s, &err),
                 0, "%s", err.msg);
    cr_expect_null(s.name);
    cr_expect_eq(s.count, 7);
    cr_expect(s.count_given);
    cr_expect_eq(s.cpus, 500);
    cr_expect_str_eq(s.mode, "slow");
    cr_expect_str_eq(s.env.names[0], "A");
    cr_expect_str_eq(s.env.values[0], "b");
    cr_expect_eq(s.args.count, 1);
    cr_expect(s.command.shell);
    cr_expect_str_eq(s.command.items[2], "ls -l");
    cr_expect_eq(s.inner.depth, 3);
    sbx_json_struct_done(fields, &s);
}

Test(json_write, escapes_and_places_commas)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(1000);
    sbx_jw w = SBX_JW(&b);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "a\"", "x\n\\\x01\x7f");
    sbx_jw_null(&w, "n");
    sbx_jw_arr(&w, "list");
    sbx_jw_int(&w, NULL, -5);
    sbx_jw_bool(&w, NULL, true);
    sbx_jw_arr_end(&w);
    sbx_jw_milli(&w, "m", 1500);
    sbx_jw_milli(&w, "k", 2000);
    sbx_jw_milli(&w, "s", -20);
    sbx_jw_time(&w, "t", 0);
    sbx_jw_signal(&w, "kill", 9);
    sbx_jw_signal(&w, "rt", 40);
    sbx_jw_signal(&w, "none", 0);
    sbx_jw_obj_end(&w);
    cr_expect_str_eq(b.data, "{\"a\\\"\":\"x\\n\\\\\\u0001\x7f\",\"n\":null,\"list\":[-5,true],"
                             "\"m\":1.5,\"k\":2,\"s\":-0.02,\"t\":null,\"kill\":\"KILL\","
                             "\"rt\":\"40\",\"none\":null}");
}

Test(json_write, base64_of_every_remainder)
{
    static const struct {
        const char *in, *out;
    } cases[] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foobar", "Zm9vYmFy"}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(100);

        sbx_base64_add(&b, cases[i].in, strlen(cases[i].in));
        cr_expect_str_eq(b.data ? b.data : "", cases[i].out);
    }
}

/* --- reading in place --- */

static char *bytes_of(const char *text, const char *name, size_t *ret_len)
{
    sbx_buf out = SBX_BUF_INIT(KIB);
    sbx_json_span root, v;
    sbx_err err;

    cr_assert_eq(sbx_json_span_of(text, strlen(text), &root, &err), 0, "%s", err.msg);
    sbx_buf_adds(&out, "");
    if (!sbx_json_span_get(root, name, &v) || !sbx_json_span_bytes(v, &out)) {
        sbx_buf_done(&out);
        return NULL;
    }
    *ret_len = out.len;
    return sbx_buf_steal(&out);
}

Test(json_span, strings_come_out_byte_for_byte_also_with_nul)
{
    static const char text[] =
        " {\"a\": 1, \"data\" : \"x\\u0000y\\n\\\"\\\\\\/\\u00e9\\u20ac\\ud83d"
        "\\ude00\\b\\f\\r\\t\" , \"b\":[{\"data\":2}]} ";
    size_t len = 0;
    SBX_CLEANUP(sbx_free_str) char *got = bytes_of(text, "data", &len), *none = NULL;
    static const char want[] = "x\0y\n\"\\/\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\b\f\r\t";

    cr_assert_eq(len, sizeof(want) - 1);
    cr_expect_eq(memcmp(got, want, len), 0);
    none = bytes_of(text, "a", &len);
    cr_expect_null(none);
    none = bytes_of(text, "c", &len);
    cr_expect_null(none);
    none = bytes_of("{}", "c", &len);
    cr_expect_null(none);
    none = bytes_of("[]", "c", &len);
    cr_expect_null(none);
}

Test(json_span, arrays_are_walked_item_by_item)
{
    static const char text[] = "[ {\"a\":[1,2]} ,\"x,]\", 3 , [] ]";
    static const char *const want[] = {"{\"a\":[1,2]}", "\"x,]\"", "3", "[]"};
    sbx_json_span root, item = {0};
    size_t n = 0;
    sbx_err err;

    cr_assert_eq(sbx_json_span_of(text, sizeof(text) - 1, &root, &err), 0);
    for (; sbx_json_span_next(root, &item); n++) {
        cr_assert_lt(n, ARRAY_LEN(want));
        cr_expect_eq(item.len, strlen(want[n]));
        cr_expect_eq(memcmp(item.at, want[n], item.len), 0);
    }
    cr_expect_eq(n, ARRAY_LEN(want));
    cr_assert_eq(sbx_json_span_of(" [ ] ", 5, &root, &err), 0);
    item = (sbx_json_span){0};
    cr_expect_not(sbx_json_span_next(root, &item));
    cr_expect_eq(sbx_json_span_of("[1,]", 4, &root, &err), -1);
}

Test(json_write, base64_is_decoded_strictly)
{
    static const struct {
        const char *text, *bytes; /* NULL: refused */
    } cases[] = {
        {"", ""},       {"YQ==", "a"},  {"YWI=", "ab"},     {"YWJj", "abc"}, {"YWJjZA==", "abcd"},
        {"YQ", NULL},   {"YQ=", NULL},  {"YR==", NULL},     {"YWJ=", NULL},  {"Y Q=", NULL},
        {"Y===", NULL}, {"====", NULL}, {"YQ==YQ==", NULL}, {"YW-j", NULL}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf b = SBX_BUF_INIT(KIB);

        sbx_buf_adds(&b, "");
        cr_expect_eq(sbx_base64_decode(&b, cases[i].text, strlen(cases[i].text)),
                     cases[i].bytes != NULL, "%s", cases[i].text);
        if (cases[i].bytes)
            cr_expect_str_eq(b.data, cases[i].bytes);
    }
}
