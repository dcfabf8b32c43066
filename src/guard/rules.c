/* The firewall as text.
 *
 * Packets of sandboxes enter by one interface, the installation's bridge. Where they are forwarded
 * (FORWARD) and where they are meant for the host itself (INPUT), our base chains look at them
 * before the engine's do, and refuse: with an answer, so that programs fail at once. What our
 * chains accept still has to pass the engine's.
 *
 * Among the ports of the bridge, frames are switched rather than routed. The inet chain sees those
 * only where the kernel's br_netfilter is on; the bridge chain drops them in any case. */
#include "rules.h"

#include <arpa/inet.h>
#include <stdio.h>

#define MIN_ALLOW_BITS 8 /* wider is a mistake: "allow everything" is not what this is for */

/* --- the operator's lists --- */

/* Where exceptions and resolvers cannot lie: no router forwards there. */
static bool is_routable(uint32_t ip)
{
    return ip >> 24 != 0 && ip >> 24 != 127 && ip >> 28 < 14;
}

static bool parse_ip(const char *text, uint32_t *ret)
{
    struct in_addr a;

    if (inet_pton(AF_INET, text, &a) != 1)
        return false;
    *ret = ntohl(a.s_addr);
    return true;
}

static uint32_t mask(int bits)
{
    return bits ? ~0u << (32 - bits) : 0;
}

static void ip_text(uint32_t ip, char out[16])
{
    snprintf(out, 16, "%u.%u.%u.%u", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255);
}

/* Cut `item` at the separator. @return what stands behind it, or NULL if there is none. */
static char *cut(char *item, char separator)
{
    char *at = strchr(item, separator);

    if (at)
        *at++ = '\0';
    return at;
}

/* Take the next of a list. @return 1, 0 at the end, -1 if it is empty or does not fit. */
static int next_item(const char **text, char *out, size_t cap)
{
    size_t len = strcspn(*text, ",");

    if (!**text)
        return 0;
    if (len == 0 || len >= cap || ((*text)[len] == ',' && !(*text)[len + 1]))
        return -1;
    memcpy(out, *text, len);
    out[len] = '\0';
    *text += len + ((*text)[len] == ',');
    return 1;
}

int guard_resolvers_parse(const char *text, const char *what, guard_resolvers *ret, sbx_err *err)
{
    guard_resolvers all = {0};
    char item[16];
    uint32_t ip;
    int rc;

    while ((rc = next_item(&text, item, sizeof(item))) == 1) {
        if (all.count == SBX_MAX_RESOLVERS)
            return sbx_fail(err, SBX_E_INVALID, "%s: more than %d resolvers", what,
                            SBX_MAX_RESOLVERS);
        if (!parse_ip(item, &ip) || !is_routable(ip))
            return sbx_fail(err, SBX_E_INVALID,
                            "%s: \"%s\" is not the IPv4 address of a resolver that sandboxes can "
                            "reach",
                            what, item);
        sbx_copy(all.ip[all.count++], sizeof(all.ip[0]), item);
    }
    if (rc)
        return sbx_fail(err, SBX_E_INVALID, "%s: must be IPv4 addresses joined by commas", what);
    *ret = all;
    return 0;
}

static int parse_allow(char *item, guard_allow *ret, sbx_err *err)
{
    static const char option[] = "option --network-allow";
    char shown[32], right[16];
    int64_t port = 0, bits = 32;
    uint32_t ip;

    sbx_copy(shown, sizeof(shown), item);
    char *port_text = cut(item, ':'), *bits_text = cut(item, '/');

    if (!parse_ip(item, &ip) || (port_text && !sbx_parse_i64(port_text, 1, 65535, &port)) ||
        (bits_text && !sbx_parse_i64(bits_text, 0, 32, &bits)))
        return sbx_fail(err, SBX_E_INVALID,
                        "%s: \"%s\" is not ADDRESS, ADDRESS/BITS, ADDRESS:PORT or "
                        "ADDRESS/BITS:PORT with an IPv4 address",
                        option, shown);
    if (bits < MIN_ALLOW_BITS)
        return sbx_fail(err, SBX_E_INVALID, "%s: \"%s\" is wider than /%d", option, shown,
                        MIN_ALLOW_BITS);
    if (ip & ~mask((int)bits)) {
        ip_text(ip & mask((int)bits), right);
        return sbx_fail(err, SBX_E_INVALID,
                        "%s: \"%s\" is an address within a network: the network is %s/%d", option,
                        shown, right, (int)bits);
    }
    if (!is_routable(ip))
        return sbx_fail(err, SBX_E_INVALID, "%s: \"%s\" is no place that is routed to", option,
                        shown);
    ip_text(ip, right);
    snprintf(ret->cidr, sizeof(ret->cidr), "%s/%d", right, (int)bits);
    ret->port = (int)port;
    return 0;
}

int guard_allow_parse(const char *text, guard_allow *ret, size_t *ret_count, sbx_err *err)
{
    char item[32];
    size_t count = 0;
    int rc;

    while ((rc = next_item(&text, item, sizeof(item))) == 1) {
        if (count == SBX_MAX_NETWORK_ALLOW)
            return sbx_fail(err, SBX_E_INVALID, "option --network-allow: more than %d entries",
                            SBX_MAX_NETWORK_ALLOW);
        if (parse_allow(item, &ret[count], err))
            return -1;
        count++;
    }
    if (rc)
        return sbx_fail(err, SBX_E_INVALID,
                        "option --network-allow: must be a list such as "
                        "10.1.2.3:443,192.168.7.0/24");
    *ret_count = count;
    return 0;
}

bool guard_is_subnet(const char *text)
{
    char item[24];
    int64_t bits;
    uint32_t ip;

    if (!sbx_copy(item, sizeof(item), text))
        return false;
    const char *bits_text = cut(item, '/');

    return bits_text && sbx_parse_i64(bits_text, 1, 31, &bits) && parse_ip(item, &ip) &&
           !(ip & ~mask((int)bits));
}

/* --- the text --- */

/* TCP is reset rather than told by ICMP, of which the kernel sends a sandbox about one a second. */
#define REFUSE "goto refuse"

static void add_refuse(sbx_buf *b)
{
    sbx_buf_adds(b, "\tchain refuse {\n"
                    "\t\tmeta l4proto tcp reject with tcp reset\n"
                    "\t\treject with icmpx admin-prohibited\n"
                    "\t}\n");
}

static void add_ranges(sbx_buf *b)
{
    static const char *const ranges[] = {
#define X(cidr, what) cidr,
        GUARD_RANGES(X)
#undef X
    };

    sbx_buf_adds(b, "\tset special {\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\telements = { ");
    for (size_t i = 0; i < ARRAY_LEN(ranges); i++)
        sbx_buf_addf(b, "%s%s", i ? ", " : "", ranges[i]);
    sbx_buf_adds(b, " }\n\t}\n");
}

/* Also to the host itself, which may be the resolver. */
static void add_resolvers(sbx_buf *b, const guard_resolvers *r)
{
    for (size_t i = 0; i < r->count; i++)
        sbx_buf_addf(b,
                     "\t\tip daddr %s udp dport 53 accept\n"
                     "\t\tip daddr %s tcp dport 53 accept\n",
                     r->ip[i], r->ip[i]);
}

static void add_allow(sbx_buf *b, const guard_allow *a)
{
    if (a->port)
        sbx_buf_addf(b,
                     "\t\tip daddr %s tcp dport %d accept\n"
                     "\t\tip daddr %s udp dport %d accept\n",
                     a->cidr, a->port, a->cidr, a->port);
    else
        sbx_buf_addf(b, "\t\tip daddr %s accept\n", a->cidr);
}

static void add_from_sandbox(sbx_buf *b, const guard_rules *r)
{
    sbx_buf_addf(b,
                 "\tchain from_sandbox {\n"
                 "\t\tmeta nfproto != ipv4 " REFUSE "\n"
                 "\t\tip saddr != %s drop\n"
                 "\t\toifname \"%s\" " REFUSE "\n"
                 "\t\tct state established,related accept\n",
                 r->subnet, r->bridge);
    add_resolvers(b, r->resolvers);
    for (size_t i = 0; i < r->allow_count; i++)
        add_allow(b, &r->allow[i]);
    sbx_buf_adds(b, "\t\tip daddr @special " REFUSE "\n\t}\n");
}

static void add_to_host(sbx_buf *b, const guard_rules *r)
{
    sbx_buf_addf(b,
                 "\tchain to_host {\n"
                 "\t\tmeta nfproto != ipv4 " REFUSE "\n"
                 "\t\tip saddr != %s drop\n"
                 "\t\tct state established,related accept\n",
                 r->subnet);
    add_resolvers(b, r->resolvers);
    sbx_buf_adds(b, "\t\t" REFUSE "\n\t}\n");
}

void guard_rules_text(const guard_rules *r, sbx_buf *out)
{
    static const char *const families[] = {"inet", "bridge"};

    /* made if missing, so that removing cannot fail; all in one transaction */
    for (size_t i = 0; i < ARRAY_LEN(families); i++)
        sbx_buf_addf(out, "table %s %s {}\ndelete table %s %s\n", families[i], r->table,
                     families[i], r->table);
    sbx_buf_addf(out, "table inet %s {\n", r->table);
    add_ranges(out);
    add_refuse(out);
    add_from_sandbox(out, r);
    add_to_host(out, r);
    sbx_buf_addf(out,
                 "\tchain forward {\n"
                 "\t\ttype filter hook forward priority -10; policy accept;\n"
                 "\t\tiifname \"%s\" jump from_sandbox\n"
                 "\t}\n"
                 "\tchain arrivals {\n" /* later: the sender's own installation answers first */
                 "\t\ttype filter hook forward priority -9; policy accept;\n"
                 "\t\toifname \"%s\" ct state != { established, related } drop\n"
                 "\t}\n"
                 "\tchain input {\n"
                 "\t\ttype filter hook input priority -10; policy accept;\n"
                 "\t\tiifname \"%s\" jump to_host\n"
                 "\t}\n"
                 "}\n"
                 "table bridge %s {\n"
                 "\tchain forward {\n"
                 "\t\ttype filter hook forward priority 100; policy accept;\n"
                 "\t\tip saddr %s drop\n"
                 "\t}\n"
                 "}\n",
                 r->bridge, r->bridge, r->bridge, r->table, r->subnet);
}
