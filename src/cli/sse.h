/* Server-sent events: the decoder of a stream, and following one through lost connections. */
#ifndef SBX_CLI_SSE_H
#define SBX_CLI_SSE_H

#include "cli/client.h"

/* A message that is longer is a fault of the server */
#define CLI_MAX_EVENT (16 * MIB)

typedef struct cli_event {
    const char *type; /* "message" unless told */
    const char *id;   /* of this event or the last one that had one; "" if none had */
    const char *data;
    size_t len;
} cli_event;

/* @return false: nothing more is wanted. */
typedef bool cli_on_event(void *arg, const cli_event *event);

typedef struct cli_sse {
    cli_on_event *on_event;
    void *arg;
    sbx_buf line, data;
    char type[32], id[32];
    bool after_cr, has_data;
} cli_sse;

void cli_sse_init(cli_sse *s, cli_on_event *on_event, void *arg);
void cli_sse_done(cli_sse *s);
/** A connection was lost: what it left behind is forgotten, but for the id. */
void cli_sse_restart(cli_sse *s);
/** @return false if the receiver wants no more, or a message is too long. */
bool cli_sse_feed(cli_sse *s, const char *data, size_t len);

/** A text of an event's JSON, as bytes. @return false: it has none. */
bool cli_event_text(sbx_json_span event, const char *name, sbx_buf *out);
/** Add the output that an event carries. @return false: it says base64, and is none. */
bool cli_event_output(sbx_json_span event, sbx_buf *out);

typedef struct cli_follow {
    sbx_buf path; /* with its query */
    cli_on_event *on_event;
    void *arg;
} cli_follow;

/** Follow a stream until its event `end`, or its receiver wants no more. A lost connection is made
 * again, behind the last event; only an answer that refuses ends it, or ten minutes without one.
 * @return the exit status. */
int cli_follow_run(cli *c, cli_follow *f);

#endif
