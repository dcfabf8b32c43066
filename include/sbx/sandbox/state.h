/* The states of a sandbox and the moves between them, in one table.
 *
 * Transitional states carry a deadline in the database; whoever finds one overdue finishes or
 * undoes it (reaper/). */
#ifndef SBX_SANDBOX_STATE_H
#define SBX_SANDBOX_STATE_H

#include "sbx/core/base.h"

#define SBX_TO(s) (1u << SBX_S_##s)

/*    name      wire        transitional  legal next states */
#define SBX_SANDBOX_STATES(X)                                                                      \
    X(CREATING, "creating", true, SBX_TO(RUNNING) | SBX_TO(FAILED) | SBX_TO(DELETING))             \
    X(RUNNING, "running", false,                                                                   \
      SBX_TO(PAUSING) | SBX_TO(STOPPING) | SBX_TO(DELETING) | SBX_TO(FAILED))                      \
    X(PAUSING, "pausing", true,                                                                    \
      SBX_TO(PAUSED) | SBX_TO(RUNNING) | SBX_TO(DELETING) | SBX_TO(FAILED))                        \
    X(PAUSED, "paused", false,                                                                     \
      SBX_TO(RESUMING) | SBX_TO(STOPPING) | SBX_TO(DELETING) | SBX_TO(FAILED))                     \
    X(RESUMING, "resuming", true,                                                                  \
      SBX_TO(RUNNING) | SBX_TO(PAUSED) | SBX_TO(DELETING) | SBX_TO(FAILED))                        \
    X(STOPPING, "stopping", true,                                                                  \
      SBX_TO(STOPPED) | SBX_TO(STARTING) | SBX_TO(DELETING) | SBX_TO(FAILED))                      \
    X(STOPPED, "stopped", false, SBX_TO(STARTING) | SBX_TO(STOPPING) | SBX_TO(DELETING))           \
    X(STARTING, "starting", true,                                                                  \
      SBX_TO(RUNNING) | SBX_TO(STOPPED) | SBX_TO(DELETING) | SBX_TO(FAILED))                       \
    X(DELETING, "deleting", true, SBX_TO(DELETED))                                                 \
    X(DELETED, "deleted", false, 0)                                                                \
    X(FAILED, "failed", false, SBX_TO(STARTING) | SBX_TO(DELETING))

typedef enum sbx_state {
#define X(name, wire, transitional, moves) SBX_S_##name,
    SBX_SANDBOX_STATES(X)
#undef X
        SBX_S_COUNT
} sbx_state;

const char *sbx_state_wire(sbx_state s);
/** @return SBX_S_COUNT if no state has that name. */
sbx_state sbx_state_parse(const char *wire);
bool sbx_state_may(sbx_state from, sbx_state to);
bool sbx_state_transitional(sbx_state s);

#endif
