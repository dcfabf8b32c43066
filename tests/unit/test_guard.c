/* The operator's lists, the text of the rules, and what the guard may answer. */
#include "guard/exchange.h"
#include "guard/rules.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>

Test(guard_allow, takes_addresses_networks_and_ports)
{
    guard_allow got[SBX_MAX_NETWORK_ALLOW];
    size_t count = 99;
    sbx_err err = {0};

    cr_assert(guard_allow_parse("10.1.2.3,10.1.0.0/16,192.168.7.9:443,172.16.0.0/12:53", got,
                                &count, &err) == 0,
              "%s", err.msg);
    cr_assert_eq(count, 4);
    cr_expect_str_eq(got[0].cidr, "10.1.2.3/32");
    cr_expect_eq(got[0].port, 0);
    cr_expect_str_eq(got[1].cidr, "10.1.0.0/16");
    cr_expect_str_eq(got[2].cidr, "192.168.7.9/32");
    cr_expect_eq(got[2].port, 443);
    cr_expect_str_eq(got[3].cidr, "172.16.0.0/12");
    cr_expect_eq(got[3].port, 53);
    cr_assert(guard_allow_parse("", got, &count, &err) == 0);
    cr_expect_eq(count, 0);
}

Test(guard_allow, refuses_everything_else_and_says_what)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"10.1.2.3/16", "10.1.0.0/16"},
        {"0.0.0.0/0", "wider than /8"},
        {"10.0.0.0/7", "wider than /8"},
        {"127.0.0.1", "routed"},
        {"0.1.2.3", "routed"},
        {"224.0.0.1", "routed"},
        {"255.255.255.255", "routed"},
        {"10.1.2.3:0", "ADDRESS:PORT"},
        {"10.1.2.3:65536", "ADDRESS:PORT"},
        {"10.1.2.3:http", "ADDRESS:PORT"},
        {"10.1.2.3:", "ADDRESS:PORT"},
        {"10.1.2.3/", "ADDRESS:PORT"},
        {"10.1.2.3/33", "ADDRESS:PORT"},
        {"10.1.2.3/-1", "ADDRESS:PORT"},
        {"10.1.2", "ADDRESS:PORT"},
        {"10.1.2.300", "ADDRESS:PORT"},
        {"010.1.2.3", "ADDRESS:PORT"},
        {" 10.1.2.3", "ADDRESS:PORT"},
        {"10.1.2.3 accept", "ADDRESS:PORT"},
        {"mirror.internal", "ADDRESS:PORT"},
        {"::1", "ADDRESS:PORT"},
        {"fd00::/8", "ADDRESS:PORT"},
        {"10.1.2.3,", "must be a list"},
        {",10.1.2.3", "must be a list"},
        {"10.1.2.3,,10.1.2.4", "must be a list"},
        {",", "must be a list"},
        {"1000000000000000000000000000000000000000", "must be a list"},
        {"10.1.2.3\n10.1.2.4", "ADDRESS:PORT"},
    };
    guard_allow got[SBX_MAX_NETWORK_ALLOW];

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sbx_err err = {0};
        size_t count = 99;

        cr_expect(guard_allow_parse(cases[i].text, got, &count, &err) == -1, "\"%s\" was taken",
                  cases[i].text);
        cr_expect_eq(err.code, SBX_E_INVALID);
        cr_expect(strstr(err.msg, cases[i].says) != NULL, "%s: %s", cases[i].text, err.msg);
        cr_expect(strncmp(err.msg, "option --network-allow: ", 24) == 0, "%s", err.msg);
        cr_expect_eq(count, 99);
    }
}

Test(guard_allow, is_bounded)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(8 * KIB);
    guard_allow got[SBX_MAX_NETWORK_ALLOW];
    sbx_err err = {0};
    size_t count = 0;

    for (int i = 0; i < SBX_MAX_NETWORK_ALLOW; i++)
        sbx_buf_addf(&text, "%s10.0.0.%d", i ? "," : "", i);
    cr_expect(guard_allow_parse(text.data, got, &count, &err) == 0, "%s", err.msg);
    cr_expect_eq(count, SBX_MAX_NETWORK_ALLOW);
    sbx_buf_adds(&text, ",10.0.1.1");
    cr_expect(guard_allow_parse(text.data, got, &count, &err) == -1);
    cr_expect(strstr(err.msg, "more than 64") != NULL, "%s", err.msg);
}

Test(guard_resolvers, takes_up_to_three_addresses_that_can_be_reached)
{
    static const char *const bad[] = {"127.0.0.53",
                                      "0.0.0.0",
                                      "1.1.1.1,",
                                      ",1.1.1.1",
                                      "1.1.1",
                                      "::1",
                                      "1.1.1.1 ",
                                      "224.0.0.1",
                                      "one",
                                      "1.1.1.1,,2",
                                      "1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4"};
    guard_resolvers got;
    sbx_err err = {0};

    cr_assert(guard_resolvers_parse("10.255.255.53,1.1.1.1,9.9.9.9", "x", &got, &err) == 0);
    cr_expect_eq(got.count, 3);
    cr_expect_str_eq(got.ip[2], "9.9.9.9");
    cr_assert(guard_resolvers_parse("", "x", &got, &err) == 0);
    cr_expect_eq(got.count, 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        cr_expect(guard_resolvers_parse(bad[i], "the source", &got, &err) == -1, "%s", bad[i]);
        cr_expect(strncmp(err.msg, "the source: ", 12) == 0, "%s", err.msg);
    }
}

Test(guard_subnet, is_a_network_of_the_engine)
{
    cr_expect(guard_is_subnet("172.18.0.0/16"));
    cr_expect(guard_is_subnet("192.168.240.0/20"));
    cr_expect_not(guard_is_subnet("172.18.0.1/16"));
    cr_expect_not(guard_is_subnet("172.18.0.0"));
    cr_expect_not(guard_is_subnet("0.0.0.0/0"));
    cr_expect_not(guard_is_subnet("fd00::/64"));
    cr_expect_not(guard_is_subnet("172.18.0.0/16 } table inet x {"));
}

/* The order decides: other sandboxes before exceptions, exceptions before the ranges. */
Test(guard_rules, put_other_sandboxes_first_and_exceptions_before_the_ranges)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf text = SBX_BUF_INIT(64 * KIB);
    guard_resolvers resolvers = {.ip = {"10.0.0.53"}, .count = 1};
    guard_allow allow[] = {{"10.1.0.0/16", 0}, {"10.2.3.4/32", 443}};
    guard_rules rules = {"sandboxd_x", "sbxx", "172.18.0.0/16", &resolvers, allow, 2};
    static const char *const order[] = {
        "table inet sandboxd_x {}",
        "delete table inet sandboxd_x",
        "delete table bridge sandboxd_x",
        "169.254.0.0/16",
        "chain from_sandbox",
        "nfproto != ipv4 goto refuse",
        "saddr != 172.18.0.0/16 drop",
        "oifname \"sbxx\" goto refuse",
        "established,related accept",
        "daddr 10.0.0.53 udp dport 53 accept",
        "daddr 10.1.0.0/16 accept",
        "daddr 10.2.3.4/32 tcp dport 443 accept",
        "@special goto refuse",
        "chain to_host",
        "daddr 10.0.0.53 tcp dport 53 accept",
        "goto refuse\n\t}",
        "iifname \"sbxx\" jump from_sandbox",
        "hook input",
        "iifname \"sbxx\" jump to_host",
        "table bridge sandboxd_x",
        "ip saddr 172.18.0.0/16 drop",
    };

    guard_rules_text(&rules, &text);
    cr_assert_not(sbx_buf_failed(&text));
    const char *at = text.data;

    for (size_t i = 0; i < ARRAY_LEN(order); i++) {
        at = strstr(at, order[i]);
        cr_assert(at != NULL, "%s is not where it must be", order[i]);
    }
    /* exceptions are for what is forwarded: they never open the host itself */
    const char *host = strstr(text.data, "chain to_host");
    cr_expect_null(strstr(host, "10.1.0.0/16"));
}

#define HASH "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

Test(guard_answer, is_taken_apart)
{
    guard_answer a;
    sbx_err err = {0};

    cr_assert_eq(
        guard_answer_parse("pong ab 1 " HASH " 10.0.0.53,1.1.1.1 restored", "ab", &a, &err), 1);
    cr_expect_str_eq(a.hash, HASH);
    cr_expect_eq(a.resolvers.count, 2);
    cr_expect(a.restored);
    cr_assert_eq(guard_answer_parse("pong ab 1 - - kept", "ab", &a, &err), 1);
    cr_expect_str_eq(a.hash, "-");
    cr_expect_eq(a.resolvers.count, 0);
    cr_expect_not(a.restored);
    cr_assert_eq(guard_answer_parse("fail ab nft: Operation not permitted", "ab", &a, &err), -1);
    cr_expect_eq(err.code, SBX_E_ENGINE);
    cr_expect(strstr(err.msg, "rules: nft: Operation not permitted") != NULL, "%s", err.msg);
}

Test(guard_answer, to_somebody_else_or_torn_is_not_ours)
{
    static const char *const lines[] = {
        "",     "pong",       "pong a 1 - - kept", "ab", "pong  ab 1 - - kept",
        "fail", "fail abc x", "noise ab- x"};
    guard_answer a;
    sbx_err err = {0};

    for (size_t i = 0; i < ARRAY_LEN(lines); i++)
        cr_expect_eq(guard_answer_parse(lines[i], "ab", &a, &err), 0, "%s", lines[i]);
}

Test(guard_answer, that_is_malformed_is_an_error)
{
    static const char *const lines[] = {
        "pong ab",
        "pong ab 2 - - kept",
        "pong ab 1 - - lost",
        "pong ab 1 - kept",
        "pong ab 1 - - kept more",
        "pong ab 1 abc - kept",
        "pong ab 1 " HASH "0 - kept",
        "pong ab 1 - 127.0.0.1 kept",
        "pong ab 1 - 1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4 kept",
        "pang ab 1 - - kept",
    };
    guard_answer a;

    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        sbx_err err = {0};

        cr_expect_eq(guard_answer_parse(lines[i], "ab", &a, &err), -1, "%s", lines[i]);
        cr_expect(err.msg[0] != 0);
    }
}
