/* What a context reads of others: the first byte says as what the rest comes. */
#include "context.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_line(const char *text)
{
    uint32_t number = 0;
    bool ready = false;
    int status = 0;

    if (agent_context_line(text, &ready, &number, &status) && (status < 0 || status > 255))
        abort();
}

static void read_packet(const uint8_t *data, size_t size)
{
    size_t fds = size ? data[0] % (AGENT_CELL_FDS + 1) : 0;
    agent_ask ask = {0};

    if (size < 2 || size - 1 > sizeof ask)
        return;
    agent_heard heard = agent_context_packet(data + 1, size - 1, fds, &ask);
    if (heard != AGENT_HEARD_ASK && ask.kind)
        abort();
    if (ask.kind == AGENT_ASK_RUN &&
        (fds != AGENT_CELL_FDS || ask.timeout_ms < 1 || ask.timeout_ms > AGENT_CELL_MAX_MS))
        abort();
}

/* Arguments end with a NUL each. */
static void read_args(char *text, size_t size)
{
    char *args[8];
    int count = 0;
    agent_cell_args got;

    for (char *at = text; count < 8 && at <= text + size; at += strlen(at) + 1)
        args[count++] = at;
    if (agent_cell_read(count, args, &got) && got.ask.kind == AGENT_ASK_RUN &&
        (!got.file || got.ask.timeout_ms < 1 || got.ask.timeout_ms > AGENT_CELL_MAX_MS))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sockaddr_un address;

    if (size == 0)
        return 0;
    char *text = malloc(size);
    if (!text)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    switch (data[0] % 4) {
    case 0:
        read_line(text);
        break;
    case 1:
        read_packet(data + 1, size - 1);
        break;
    case 2:
        read_args(text, size - 1);
        break;
    default:
        (void)agent_context_address(text, &address);
    }
    free(text);
    return 0;
}
