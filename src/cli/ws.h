/* A WebSocket to the server: RFC 6455 over a connection of libcurl, which brings TLS and proxies.
 */
#ifndef SBX_CLI_WS_H
#define SBX_CLI_WS_H

#include "cli/client.h"
#include "sbx/core/ws.h"

/* A message that is longer is a fault of the server */
#define CLI_MAX_MESSAGE MIB

typedef struct cli_ws {
    CURL *easy; /* NULL: not open */
    int fd;
    sbx_buf in, out;
    sbx_buf message; /* what has come of it, when it comes in pieces */
    unsigned message_opcode;
    unsigned close_code; /* of the peer; 0: none came */
    int64_t heard_ms, pinged_ms;
} cli_ws;

typedef enum cli_ws_result { CLI_WS_OPEN, CLI_WS_REFUSED, CLI_WS_UNREACHED } cli_ws_result;

/* @return false: nothing more is wanted. */
typedef bool cli_ws_message(void *arg, bool binary, const char *data, size_t len);

/** Open it, or learn why not from `answer`, an initialised call whose path says where.
 * Blocks up to `timeout_ms`. */
cli_ws_result cli_ws_open(cli *c, cli_ws *w, cli_call *answer, int timeout_ms);
void cli_ws_free(cli_ws *w);
/** Queue a message. */
void cli_ws_send(cli_ws *w, unsigned opcode, const void *data, size_t len);
/** Send what is queued and take what has come, without waiting; keeps the connection alive.
 * @return false: it is closed, lost, or nothing more is wanted. */
bool cli_ws_step(cli_ws *w, cli_ws_message *on_message, void *arg);
/** Has it been silent so long that it must be lost? */
bool cli_ws_silent(const cli_ws *w);

#endif
