/* See proxies.h. Addresses are held as 16 bytes, IPv4 in the range of IPv6 that stands for it. */
#include "sbx/http/proxies.h"

#include "sbx/core/base.h"
#include <arpa/inet.h>

#define MAPPED_BITS   96
#define MAX_ITEM_TEXT 64

typedef struct range {
    unsigned char bytes[16];
    unsigned bits;
} range;

struct sbx_proxies {
    range ranges[SBX_MAX_PROXIES];
    size_t count;
};

static bool read_address(const char *text, unsigned char out[16], bool *ret_v4)
{
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};

    if (inet_pton(AF_INET, text, out + 12) == 1) {
        memcpy(out, mapped, sizeof(mapped));
        *ret_v4 = true;
        return true;
    }
    *ret_v4 = false;
    return inet_pton(AF_INET6, text, out) == 1;
}

static bool same_bits(const unsigned char a[16], const unsigned char b[16], unsigned bits)
{
    unsigned bytes = bits / 8, rest = bits % 8;

    return memcmp(a, b, bytes) == 0 && (!rest || ((a[bytes] ^ b[bytes]) >> (8 - rest) & 0xff) == 0);
}

/* --- the option --- */

static int read_range(const char *item, size_t len, range *ret, sbx_err *err)
{
    unsigned char network[16] = {0};
    char text[MAX_ITEM_TEXT];
    int64_t bits;
    bool v4;

    if (len == 0 || len >= sizeof(text))
        return sbx_fail(err, SBX_E_INVALID, "trusted proxies: \"%.*s\" is not ADDRESS[/BITS]",
                        (int)SBX_MIN(len, (size_t)MAX_ITEM_TEXT), item);
    memcpy(text, item, len);
    text[len] = '\0';
    char *slash = strchr(text, '/');
    if (slash)
        *slash++ = '\0';
    if (!read_address(text, ret->bytes, &v4))
        return sbx_fail(err, SBX_E_INVALID, "trusted proxies: \"%s\" is not an address", text);
    bits = v4 ? 32 : 128;
    if (slash && !sbx_parse_i64(slash, 0, bits, &bits))
        return sbx_fail(err, SBX_E_INVALID, "trusted proxies: \"%s/%s\": bits must be 0 to %lld",
                        text, slash, (long long)bits);
    ret->bits = (unsigned)bits + (v4 ? MAPPED_BITS : 0);
    memcpy(network, ret->bytes, ret->bits / 8);
    if (ret->bits % 8)
        network[ret->bits / 8] =
            (unsigned char)(ret->bytes[ret->bits / 8] & (0xff << (8 - ret->bits % 8)));
    if (memcmp(network, ret->bytes, sizeof(network)) != 0)
        return sbx_fail(err, SBX_E_INVALID,
                        "trusted proxies: \"%s/%s\" has bits set behind the first %lld", text,
                        slash, (long long)bits);
    return 0;
}

int sbx_proxies_new(const char *list, sbx_proxies **ret, sbx_err *err)
{
    sbx_proxies *p = sbx_alloc(sizeof(*p));

    for (const char *item = list; item && *item;) {
        size_t len = strcspn(item, ",");

        if (p->count == SBX_MAX_PROXIES) {
            free(p);
            return sbx_fail(err, SBX_E_INVALID, "trusted proxies: more than %d are given",
                            SBX_MAX_PROXIES);
        }
        if (read_range(item, len, &p->ranges[p->count++], err)) {
            free(p);
            return -1;
        }
        item += len;
        if (*item && !*++item) {
            free(p);
            return sbx_fail(err, SBX_E_INVALID, "trusted proxies: the list ends with a comma");
        }
    }
    *ret = p;
    return 0;
}

void sbx_proxies_free(sbx_proxies *p)
{
    free(p);
}

/* --- a request --- */

static bool trusted(const sbx_proxies *p, const unsigned char address[16])
{
    for (size_t i = 0; i < p->count; i++)
        if (same_bits(p->ranges[i].bytes, address, p->ranges[i].bits))
            return true;
    return false;
}

static void write_address(const unsigned char address[16], char out[SBX_ADDRESS_BYTES])
{
    if (IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)(const void *)address))
        inet_ntop(AF_INET, address + 12, out, SBX_ADDRESS_BYTES);
    else
        inet_ntop(AF_INET6, address, out, SBX_ADDRESS_BYTES);
}

/* An element of the list: ADDRESS, and from some proxies ADDRESS:PORT or [ADDRESS]:PORT. */
static bool read_hop(const char *item, size_t len, unsigned char out[16])
{
    char text[MAX_ITEM_TEXT], *address = text, *port = NULL;
    int64_t number;
    bool v4;

    if (len >= sizeof(text))
        return false;
    memcpy(text, item, len);
    text[len] = '\0';
    if (strlen(text) != len)
        return false;
    if (text[0] == '[') {
        char *end = strchr(text, ']');

        if (!end || (end[1] && end[1] != ':'))
            return false;
        *end = '\0';
        address = text + 1;
        port = end[1] ? end + 2 : NULL;
        if (!strchr(address, ':'))
            return false;
    } else if (strchr(text, '.') && !strstr(text, "::") &&
               strchr(text, ':') == strrchr(text, ':')) {
        port = strchr(text, ':');
        if (port)
            *port++ = '\0';
    }
    return (!port || (strlen(port) <= 5 && sbx_parse_i64(port, 0, UINT16_MAX, &number))) &&
           read_address(address, out, &v4);
}

/* The last element before `end` of a line, without the blanks around it. @return false if there is
 * none; else *end is where it began. */
static bool last_element(const char *line, const char **end, const char **ret, size_t *ret_len)
{
    const char *e = *end, *start;

    while (e > line && (e[-1] == ' ' || e[-1] == '\t' || e[-1] == ','))
        e--;
    for (start = e; start > line && start[-1] != ',';)
        start--;
    *end = start;
    while (start < e && (*start == ' ' || *start == '\t'))
        start++;
    *ret = start;
    *ret_len = (size_t)(e - start);
    return e > start;
}

void sbx_proxies_client(const sbx_proxies *p, const char *peer, const sbx_list *forwarded,
                        char out[SBX_ADDRESS_BYTES])
{
    unsigned char hop[16], next[16];
    int hops = 0;
    bool v4;

    sbx_copy(out, SBX_ADDRESS_BYTES, peer);
    if (!p->count || !forwarded->count || !read_address(peer, hop, &v4))
        return;
    for (size_t i = forwarded->count; i > 0; i--) {
        const char *line = forwarded->lines[i - 1], *end = line + strlen(line), *item;
        size_t len;

        while (trusted(p, hop) && last_element(line, &end, &item, &len)) {
            if (hops++ == SBX_MAX_HOPS || !read_hop(item, len, next)) {
                write_address(hop, out);
                return;
            }
            memcpy(hop, next, sizeof(hop));
        }
    }
    write_address(hop, out);
}
