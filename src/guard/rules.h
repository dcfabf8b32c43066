/* What the firewall says: the ranges, the operator's options, the text that nft reads.
 * Without I/O and threads. */
#ifndef SBX_GUARD_RULES_H
#define SBX_GUARD_RULES_H

#include "sbx/core/buf.h"
#include "sbx/core/error.h"
#include "sbx/core/limits.h"

/* What no sandbox reaches: everything that is not the public internet. Source: the special-purpose
 * address registry of RFC 6890 and its successors. */
#define GUARD_RANGES(X)                                                                            \
    X("0.0.0.0/8", "this host")                                                                    \
    X("10.0.0.0/8", "private")                                                                     \
    X("100.64.0.0/10", "shared by carriers")                                                       \
    X("127.0.0.0/8", "loopback")                                                                   \
    X("169.254.0.0/16", "link-local, with the clouds' metadata services")                          \
    X("172.16.0.0/12", "private, the engine's own among them")                                     \
    X("192.0.0.0/24", "protocol assignments")                                                      \
    X("192.0.2.0/24", "documentation")                                                             \
    X("192.88.99.0/24", "6to4 relays")                                                             \
    X("192.168.0.0/16", "private")                                                                 \
    X("198.18.0.0/15", "benchmarks")                                                               \
    X("198.51.100.0/24", "documentation")                                                          \
    X("203.0.113.0/24", "documentation")                                                           \
    X("224.0.0.0/4", "multicast")                                                                  \
    X("240.0.0.0/4", "reserved, and broadcast")

typedef struct guard_allow {
    char cidr[20]; /* "10.1.2.0/24" */
    int port;      /* TCP and UDP; 0: every port and protocol */
} guard_allow;

typedef struct guard_resolvers {
    char ip[SBX_MAX_RESOLVERS][16];
    size_t count;
} guard_resolvers;

typedef struct guard_rules {
    const char *table, *bridge, *subnet;
    const guard_resolvers *resolvers;
    const guard_allow *allow;
    size_t allow_count;
} guard_rules;

/** Parse IPv4 addresses joined by commas. @param what  who said so, for the message. */
int guard_resolvers_parse(const char *text, const char *what, guard_resolvers *ret,
                          sbx_err *err) SBX_MUST_CHECK;
/** Parse exceptions joined by commas: ADDRESS, ADDRESS/BITS, each also with :PORT.
 * @param ret  room for SBX_MAX_NETWORK_ALLOW. */
int guard_allow_parse(const char *text, guard_allow *ret, size_t *ret_count,
                      sbx_err *err) SBX_MUST_CHECK;
/** Is it an IPv4 network as the engine names them, "172.18.0.0/16"? */
bool guard_is_subnet(const char *text);

/** The whole ruleset as one transaction that replaces what is there. */
void guard_rules_text(const guard_rules *r, sbx_buf *out);

#endif
