/* Trusted proxies: whose word is taken for the address of a client.
 *
 * X-Forwarded-For is a list to which each proxy appends the address that it was asked from. Only
 * what trusted proxies appended is believed: read from the right, the first address that is not one
 * of theirs is the client. Immutable after new; any thread, no allocation when asked. */
#ifndef SBX_HTTP_PROXIES_H
#define SBX_HTTP_PROXIES_H

#include "sbx/core/error.h"
#include "sbx/http/negotiate.h"

#define SBX_MAX_PROXIES   64 /* ranges */
#define SBX_MAX_HOPS      32 /* of one request that are looked at */
#define SBX_ADDRESS_BYTES 46 /* an address as text, with its NUL */

typedef struct sbx_proxies sbx_proxies;

/** @param list  ADDRESS[/BITS] joined by commas, IPv4 or IPv6; empty or NULL: nobody.
 * @return 0, or -1 with INVALID that names the item. */
int sbx_proxies_new(const char *list, sbx_proxies **ret, sbx_err *err) SBX_MUST_CHECK;
void sbx_proxies_free(sbx_proxies *p);

/** The client's address: the peer's, unless that is trusted and tells another. What is no address
 * ends the walk: then it is the last proxy that was believed.
 * @param peer       as text.
 * @param forwarded  the lines of X-Forwarded-For, in their order.
 * @param out        canonical text; IPv4 in IPv6 as IPv4. */
void sbx_proxies_client(const sbx_proxies *p, const char *peer, const sbx_list *forwarded,
                        char out[SBX_ADDRESS_BYTES]);

#endif
