/* Roles of threads, asserted where ownership matters, and the deadline and cancellation of the
 * job that a worker runs: whatever blocks below asks for them here instead of taking parameters. */
#ifndef SBX_CORE_THREAD_H
#define SBX_CORE_THREAD_H

#include "sbx/core/base.h"
#include <stdatomic.h>

typedef enum sbx_role {
    SBX_T_NONE, /* main before the threads, tests, commands */
    SBX_T_LOOP,
    SBX_T_WORKER,
    SBX_T_STREAM,
    SBX_T_BUS,
    SBX_T_KEEPER,
} sbx_role;

void sbx_thread_set_role(sbx_role role, const char *name); /* name: at most 15 bytes */
sbx_role sbx_thread_role(void);
const char *sbx_role_name(sbx_role role);
void sbx_thread_wrong_role(const char *file, int line, sbx_role wanted) __attribute__((noreturn));

/* Aborts unless the calling thread has the role (or none, as tests and commands have). */
#define SBX_ASSERT_THREAD(r)                                                                       \
    do {                                                                                           \
        sbx_role _have = sbx_thread_role();                                                        \
        if (_have != (r) && _have != SBX_T_NONE)                                                   \
            sbx_thread_wrong_role(__FILE__, __LINE__, (r));                                        \
    } while (0)

/** Set the deadline (monotonic ms, 0: none) and the cancel flag (may be NULL, must outlive the
 * job) of the calling thread's job. */
void sbx_job_scope(int64_t deadline_ms, const atomic_bool *cancelled);
bool sbx_job_cancelled(void);
/** Milliseconds until the deadline, at least 0; `otherwise` if there is none. */
int64_t sbx_job_left_ms(int64_t otherwise);

#endif
