/* The agent: all commands, and the owner's requests. */
#ifndef SBX_AGENTD_AGENT_H
#define SBX_AGENTD_AGENT_H

#include "bridges.h"
#include "peer.h"
#include "registry.h"
#include "users.h"

typedef struct agent {
    agent_shared shared;
    agent_source signals; /* a signalfd: SIGCHLD and SIGTERM */
    agent_registry commands;
    agent_peer owner;
    agent_bridges bridges;
    char *const *image_env;
    char image_user[AGENT_SPEC_BYTES];
    agent_user_memo user;
    uint64_t lifetime_s; /* of the dead-man's switch */
    uint64_t silent_s;   /* for so long nothing was heard of the owner */
    agent_timer dead_man, retry_spare, rest, last_call, look_oom;
    int64_t started_ms; /* wall clock */
    uint32_t drain_req; /* PONG with it is due when the log was sent; 0: none */
    bool log_first;     /* in this turn the log goes before the output */
    bool main_seen;     /* a main process was started */
    bool spare_failed;  /* there was no room for another process */
    bool leaving;       /* the owner wants all to end: no new commands */
    bool stop;          /* SIGTERM came, all is over, or nobody cared for too long */
    bool ending;        /* what still runs is being killed */
} agent;

/** Serve until told to stop; then nothing of any command is left.
 *
 * @param in_fd, out_fd  the channel; owned by the agent from now on.
 * @param image_env      terminated by NULL; borrowed for ever.
 * @return 0, or -1 if it could not begin, with errno set.
 */
int agent_run(int in_fd, int out_fd, const unsigned char token[SBX_PROTO_TOKEN_BYTES],
              char *const *image_env);

/** End all that runs, politely for `grace_ms`, then the agent itself. */
void agent_leave(agent *a, uint64_t grace_ms);

/** Carry out one frame of a peer. @return false if it was malformed: the channel is lost. */
bool agent_obey(agent *a, agent_peer *p, const sbx_frame *f);

/** Answer a HELLO. @return false if it was malformed. */
bool agent_greet(agent *a, agent_peer *p, const sbx_frame *f);

#endif
