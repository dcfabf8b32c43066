/* The table of states, as functions. */
#include "sbx/sandbox/state.h"

static const struct {
    const char *wire;
    bool transitional;
    unsigned moves;
} states[SBX_S_COUNT] = {
#define X(name, wire, transitional, moves) [SBX_S_##name] = {wire, transitional, moves},
    SBX_SANDBOX_STATES(X)
#undef X
};

const char *sbx_state_wire(sbx_state s)
{
    return states[s].wire;
}

sbx_state sbx_state_parse(const char *wire)
{
    for (int i = 0; i < SBX_S_COUNT; i++)
        if (strcmp(states[i].wire, wire) == 0)
            return (sbx_state)i;
    return SBX_S_COUNT;
}

bool sbx_state_may(sbx_state from, sbx_state to)
{
    return states[from].moves & 1u << to;
}

bool sbx_state_transitional(sbx_state s)
{
    return states[s].transitional;
}
