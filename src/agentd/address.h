/* Where the agent's socket is: an abstract name, so no file system can be in its way. */
#ifndef SBX_AGENTD_ADDRESS_H
#define SBX_AGENTD_ADDRESS_H

#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "sbx/core/agent_proto.h"

/** @return the length of the address. */
static inline socklen_t agent_address(struct sockaddr_un *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->sun_family = AF_UNIX;
    memcpy(ret->sun_path + 1, SBX_PROTO_SOCKET, sizeof SBX_PROTO_SOCKET - 1);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + sizeof SBX_PROTO_SOCKET);
}

#endif
