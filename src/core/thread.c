/* Roles of threads and the scope of the job that a worker runs, in thread-local variables. */
#include "sbx/core/thread.h"

#include "sbx/core/clock.h"
#include "sbx/core/log.h"
#include <pthread.h>
#include <stdio.h>

static _Thread_local sbx_role my_role;
static _Thread_local int64_t my_deadline_ms;
static _Thread_local const atomic_bool *my_cancel;

static const char *const role_names[] = {"none", "LOOP", "WORKER", "STREAM", "BUS", "KEEPER"};

void sbx_thread_set_role(sbx_role role, const char *name)
{
    my_role = role;
    pthread_setname_np(pthread_self(), name);
}

sbx_role sbx_thread_role(void)
{
    return my_role;
}

const char *sbx_role_name(sbx_role role)
{
    return role_names[role];
}

void sbx_thread_wrong_role(const char *file, int line, sbx_role wanted)
{
    sbx_log(SBX_ERROR, "wrong thread", "file", file, "line", SBX_NUM(line), "wanted",
            sbx_role_name(wanted), "have", sbx_role_name(my_role), NULL);
    abort();
}

void sbx_job_scope(int64_t deadline_ms, const atomic_bool *cancelled)
{
    my_deadline_ms = deadline_ms;
    my_cancel = cancelled;
}

bool sbx_job_cancelled(void)
{
    return my_cancel && atomic_load_explicit(my_cancel, memory_order_relaxed);
}

int64_t sbx_job_left_ms(int64_t otherwise)
{
    if (!my_deadline_ms)
        return otherwise;
    int64_t left = my_deadline_ms - sbx_now_ms();
    return SBX_MAX(left, 0);
}
