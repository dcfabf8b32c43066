/* The option --trusted-proxies and X-Forwarded-For, split at newlines: the first line is the
 * option, then the peer, then lines of the header. What comes out is always an address, or the
 * peer. */
#include "sbx/core/buf.h"
#include "sbx/core/rates.h"
#include "sbx/http/proxies.h"
#include <arpa/inet.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(const sbx_proxies *p, const char *peer, const sbx_list *list)
{
    char out[SBX_ADDRESS_BYTES];
    unsigned char bytes[16];

    sbx_proxies_client(p, peer, list, out);
    if (inet_pton(AF_INET, out, bytes) != 1 && inet_pton(AF_INET6, out, bytes) != 1 &&
        strncmp(out, peer, strlen(out)) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    SBX_CLEANUP(sbx_free_str) char *text = sbx_strndup((const char *)data, size);
    char *next = text, *option = strsep(&next, "\n"), *peer = next ? strsep(&next, "\n") : "::1";
    int64_t rates[SBX_RATE_COUNT];
    sbx_proxies *p = NULL;
    sbx_list list = {0};
    sbx_err err = {0};

    if (sbx_rates_parse(option, rates, &err) == 0)
        for (size_t i = 0; i < SBX_RATE_COUNT; i++)
            if (rates[i] < SBX_RATE_DEFAULT || rates[i] > SBX_MAX_RATE)
                abort();
    while (next && list.count < SBX_MAX_LIST_LINES)
        list.lines[list.count++] = strsep(&next, "\n");
    if (sbx_proxies_new(option, &p, &err))
        return err.code == SBX_OK ? abort(), 0 : 0;
    ask(p, peer, &list);
    sbx_proxies_free(p);
    return 0;
}
