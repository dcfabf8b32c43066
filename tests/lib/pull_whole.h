/* Drives a pull of the engine's client to its end, as its owner does. */
#ifndef TESTS_LIB_PULL_WHOLE_H
#define TESTS_LIB_PULL_WHOLE_H

#include "sbx/engine/engine.h"
#include <poll.h>

#define PULL_SILENCE_MS 30000

/** @return 0 fetched, -1. */
static int pull_whole(sbx_engine *engine, const char *image, sbx_err *err)
{
    SBX_CLEANUP(sbx_engine_pull_close) sbx_engine_pull *p = NULL;
    int rc = engine->ops->pull(engine, image, &p, err);

    while (rc == 0) {
        struct pollfd fd = {.fd = sbx_engine_pull_fd(p), .events = POLLIN};

        if (poll(&fd, 1, PULL_SILENCE_MS) != 1)
            return sbx_fail(err, SBX_E_INTERNAL, "the pull is silent");
        rc = sbx_engine_pull_step(p, err);
    }
    return rc == 1 ? 0 : -1;
}

#endif
