/* The table `sandbox_executions`, written in batches. Threads: WORKER. */
#ifndef SBX_STORE_RECORDS_H
#define SBX_STORE_RECORDS_H

#include "sbx/store/store.h"

#define SBX_MAX_RECORDED_COMMAND (4 * KIB)

typedef struct sbx_exec_record {
    char id[SBX_ID_LEN + 1], sandbox[SBX_ID_LEN + 1], owner[SBX_ID_LEN + 1];
    char kind[8];       /* exec, run, main */
    char *command;      /* JSON array text, at most SBX_MAX_RECORDED_COMMAND; owned */
    int64_t started_ms; /* wall clock */
    int64_t duration_ms;
    int exit_code, signal; /* -1 and 0 if it has none */
    bool timed_out, oom_killed, truncated;
    char error[64]; /* code of what prevented it, or "" */
} sbx_exec_record;
void sbx_exec_record_done(sbx_exec_record *r);

/** One statement for all. Records known by their id already, and those whose sandbox (of that
 * owner) is gone for good, are left out. May be repeated. */
int sbx_store_exec_insert(sbx_store *s, const sbx_exec_record *r, size_t count,
                          sbx_err *err) SBX_MUST_CHECK;

#endif
