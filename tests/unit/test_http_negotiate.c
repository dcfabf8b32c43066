/* Accept, Accept-Encoding, If-None-Match, Content-Type. */
#include "sbx/http/negotiate.h"
#include <criterion/criterion.h>

Test(negotiate, the_most_specific_range_decides)
{
    static const struct {
        const char *accept;
        int q, exactness;
    } cases[] = {
        {"application/json", 1000, 2},
        {"APPLICATION/Json ; Q=0.25", 250, 2},
        {"*/*", 1000, 0},
        {"*", 1000, 0},
        {"application/*;q=0.5, */*", 500, 1},
        {"*/*, application/json;q=0", 0, 2},
        {"application/json;q=0, application/*", 0, 2},
        {"application/*;q=0, application/json;q=0.001", 1, 2},
        {"text/html", 0, -1},
        {"", 0, -1},
        {" , ,", 0, -1},
        {"application/jsonp", 0, -1},
        {"application/jso", 0, -1},
        {"applicatio/*", 0, -1},
        {"application/json;q=1.5", 0, -1},
        {"application/json;q=", 0, -1},
        {"application/json;q=1e0", 0, -1},
        {"application/json;q=-1", 0, -1},
        {"application/json;q=0.5.5", 0, -1},
        {"application/json;q=.2", 200, 2},
        {"application/json;q=1.000", 1000, 2},
        {"application/json;q=0.9999", 999, 2},
        {"application/json;charset=utf-8;q=0.3", 300, 2},
        {"text/x;a=\"b,application/json\", */*;q=0.1", 100, 0},
        {"application/json;a=\"x;q=0\"", 1000, 2},
        {"application/json;a=\"\\\",*/*", 1000, 2},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_list list = {{cases[i].accept}, 1};
        sbx_weight w = sbx_accept_weight(&list, "application/json");

        cr_expect_eq(w.q, cases[i].q, "%s: %d", cases[i].accept, w.q);
        cr_expect_eq(w.exactness, cases[i].exactness, "%s", cases[i].accept);
    }
}

Test(negotiate, lines_are_one_list)
{
    sbx_list none = {0}, two = {{"text/html", "a/b, application/json;q=0.5"}, 2};
    sbx_weight w = sbx_accept_weight(&two, "application/json");

    cr_expect_eq(w.q, 500);
    cr_expect_eq(w.place, 2);
    cr_expect_eq(sbx_accept_weight(&none, "application/json").q, 1000);
}

Test(negotiate, gzip_must_be_asked_for)
{
    static const struct {
        const char *text;
        bool gzip;
    } cases[] = {
        {"gzip", true},
        {"GZIP", true},
        {"x-gzip", true},
        {"deflate, gzip, br", true},
        {"*", true},
        {"gzip;q=0.001", true},
        {"gzip;q=0.5, identity;q=0.5", true},
        {"", false},
        {"identity", false},
        {"br", false},
        {"gzip;q=0", false},
        {"gzip;q=0, *", false},
        {"*;q=0", false},
        {"*;q=0, gzip", true},
        {"gzip;q=0.5, identity", false},
        {"gzip;q=x", false},
        {"gzipped", false},
    };
    sbx_list none = {0};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_list list = {{cases[i].text}, 1};

        cr_expect_eq(sbx_accepts_gzip(&list), cases[i].gzip, "%s", cases[i].text);
    }
    cr_expect_not(sbx_accepts_gzip(&none));
}

Test(negotiate, entity_tags_are_compared_weakly)
{
    static const struct {
        const char *text;
        bool listed;
    } cases[] = {
        {"\"abc\"", true},
        {"W/\"abc\"", true},
        {"\"x\", \"abc\"", true},
        {"\"x\",W/\"abc\" ", true},
        {"\"x,y\" , \"abc\"", true},
        {"\"\\\", \"abc\"", true},
        {"*", true},
        {"", false},
        {"abc", false},
        {"\"ABC\"", false},
        {"w/\"abc\"", false},
        {"\"abc\"x", false},
        {"\"abc", false},
        {"\"abc-gzip\"", false},
        {"\"x, \"abc\"", false},
        {"W/", false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_list list = {{cases[i].text}, 1};

        cr_expect_eq(sbx_etag_listed(&list, "\"abc\""), cases[i].listed, "%s", cases[i].text);
    }
    cr_expect_not(sbx_etag_listed(&(sbx_list){0}, "\"abc\""));
}

Test(negotiate, a_content_type_is_judged_with_its_charset)
{
    static const struct {
        const char *text;
        sbx_type_verdict verdict;
    } cases[] = {
        {"application/json", SBX_TYPE_OK},
        {"Application/JSON ; Charset=UTF-8", SBX_TYPE_OK},
        {"application/json;charset=\"utf-8\"", SBX_TYPE_OK},
        {"application/json;", SBX_TYPE_OK},
        {"application/json; a=b; charset=utf-8", SBX_TYPE_OK},
        {"application/json; charset=utf-16", SBX_TYPE_CHARSET},
        {"application/json; charset=utf-8x", SBX_TYPE_CHARSET},
        {"application/json; charset", SBX_TYPE_OTHER},
        {"application/json; =x", SBX_TYPE_OTHER},
        {"application/json x", SBX_TYPE_OTHER},
        {"application/json, a/b", SBX_TYPE_OTHER},
        {"application/json+x", SBX_TYPE_OTHER},
        {"text/json", SBX_TYPE_OTHER},
        {"", SBX_TYPE_OTHER},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        cr_expect_eq(sbx_content_type_judge(cases[i].text, "application/json"), cases[i].verdict,
                     "%s", cases[i].text);
}
