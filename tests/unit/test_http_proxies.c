/* Whose word is taken for a client's address, and what of it. */
#include "sbx/http/proxies.h"

#include "sbx/core/buf.h"
#include <criterion/criterion.h>

static sbx_err err;

Test(http_proxies, the_option_is_parsed_strictly)
{
    static const struct {
        const char *list;
        bool ok;
    } cases[] = {
        {"", true},
        {"10.0.0.1", true},
        {"10.0.0.0/8,192.168.0.0/16", true},
        {"0.0.0.0/0", true},
        {"::/0", true},
        {"fd00::/8,::1", true},
        {"::ffff:10.0.0.0/104", true},
        {"10.0.0.1/8", false},
        {"10.0.0.0/33", false},
        {"10.0.0.0/-1", false},
        {"10.0.0.0/", false},
        {"10.0.0.0/8x", false},
        {"10.0.0", false},
        {"10.0.0.0.0", false},
        {"010.0.0.1", false},
        {"fd00::1/8", false},
        {"fd00::/129", false},
        {"fe80::1%eth0", false},
        {"proxy.example", false},
        {"10.0.0.1,", false},
        {",10.0.0.1", false},
        {"10.0.0.1,,10.0.0.2", false},
        {"10.0.0.1, 10.0.0.2", false},
        {"1111111111111111111111111111111111111111111111111111111111111111111111", false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_proxies *p = NULL;
        int rc = sbx_proxies_new(cases[i].list, &p, &err);

        cr_expect_eq(rc == 0, cases[i].ok, "%s", cases[i].list);
        cr_expect_eq(rc == 0, p != NULL);
        sbx_proxies_free(p);
    }
}

Test(http_proxies, the_client_is_the_rightmost_that_is_not_trusted)
{
    static const struct {
        const char *name, *peer, *first, *second, *want;
    } cases[] = {
        {"no header", "10.0.0.1", NULL, NULL, "10.0.0.1"},
        {"from a stranger it is not believed", "192.0.2.9", "198.51.100.1", NULL, "192.0.2.9"},
        {"one proxy", "10.0.0.1", "198.51.100.1", NULL, "198.51.100.1"},
        {"what the client wrote itself", "10.0.0.1", "1.1.1.1, 198.51.100.1", NULL, "198.51.100.1"},
        {"two proxies", "10.0.0.1", "1.1.1.1, 198.51.100.1, 10.2.3.4", NULL, "198.51.100.1"},
        {"two lines", "10.0.0.1", "1.1.1.1", "198.51.100.1,10.9.9.9", "198.51.100.1"},
        {"two lines, the second trusted", "10.0.0.1", "1.1.1.1, 2.2.2.2", "10.9.9.9", "2.2.2.2"},
        {"all trusted", "10.0.0.1", "10.0.0.3, 10.0.0.2", NULL, "10.0.0.3"},
        {"blanks and empty elements", "10.0.0.1", " , 198.51.100.1 ,\t, ", NULL, "198.51.100.1"},
        {"IPv6 client", "10.0.0.1", "2001:DB8::0:1", NULL, "2001:db8::1"},
        {"IPv6 proxy", "fd00::5", "198.51.100.1", NULL, "198.51.100.1"},
        {"IPv4 in IPv6 is IPv4", "10.0.0.1", "::ffff:198.51.100.1", NULL, "198.51.100.1"},
        {"trusted as IPv4 in IPv6", "10.0.0.1", "1.1.1.1, ::ffff:10.0.0.7", NULL, "1.1.1.1"},
        {"port", "10.0.0.1", "198.51.100.1:4711", NULL, "198.51.100.1"},
        {"port of IPv6", "10.0.0.1", "[2001:db8::1]:4711", NULL, "2001:db8::1"},
        {"brackets", "10.0.0.1", "[2001:db8::1]", NULL, "2001:db8::1"},
        {"IPv4 in brackets", "10.0.0.1", "[198.51.100.1]", NULL, "10.0.0.1"},
        {"no address", "10.0.0.1", "unknown", NULL, "10.0.0.1"},
        {"no address behind a proxy", "10.0.0.1", "1.1.1.1, x, 10.0.0.8", NULL, "10.0.0.8"},
        {"bad port", "10.0.0.1", "198.51.100.1:99999", NULL, "10.0.0.1"},
        {"port twice", "10.0.0.1", "198.51.100.1:1:2", NULL, "10.0.0.1"},
        {"zone", "10.0.0.1", "fe80::1%eth0", NULL, "10.0.0.1"},
        {"no peer", "", "198.51.100.1", NULL, ""},
        {"very long", "10.0.0.1",
         "1111111111111111111111111111111111111111111111111111111111111111111111111", NULL,
         "10.0.0.1"},
    };
    sbx_proxies *p = NULL;

    cr_assert_eq(sbx_proxies_new("10.0.0.0/8,fd00::/8", &p, &err), 0, "%s", err.msg);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_list list = {.lines = {cases[i].first, cases[i].second}};
        char out[SBX_ADDRESS_BYTES];

        list.count = cases[i].second ? 2 : cases[i].first ? 1 : 0;
        sbx_proxies_client(p, cases[i].peer, &list, out);
        cr_expect_str_eq(out, cases[i].want, "%s: %s", cases[i].name, out);
    }
    sbx_proxies_free(p);
}

Test(http_proxies, a_long_list_is_not_walked_for_ever)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(KIB);
    char out[SBX_ADDRESS_BYTES];
    sbx_proxies *p = NULL;

    sbx_buf_adds(&text, "1.1.1.1");
    for (int i = 0; i < 40; i++)
        sbx_buf_adds(&text, ",10.0.0.2");
    sbx_list list = {.lines = {text.data}, .count = 1};
    cr_assert_eq(sbx_proxies_new("10.0.0.0/8", &p, &err), 0, "%s", err.msg);
    sbx_proxies_client(p, "10.0.0.1", &list, out);
    cr_expect_str_eq(out, "10.0.0.2");
    sbx_proxies_free(p);
}
