/* The table `sandbox_executions`, written in batches. Threads: WORKER. */
#ifndef SBX_STORE_RECORDS_H
#define SBX_STORE_RECORDS_H

#include "sbx/store/store.h"

#define SBX_EXEC_LOST "lost" /* error of a command whose end nobody heard: its sandbox ended */

/* A command that is over, or did not start, or was heard of when it started. */
typedef struct sbx_exec_record {
    char id[SBX_ID_LEN + 1], sandbox[SBX_ID_LEN + 1];
    char kind[8];       /* exec, run, main */
    char *command;      /* JSON array text, at most SBX_MAX_COMMAND_TEXT; owned */
    int64_t started_ms; /* wall clock */
    int64_t duration_ms;
    bool running; /* it had not ended: nothing below but `background` and `terminal` is known */
    int exit_code, signal; /* -1 and 0 if it has none */
    bool timed_out, oom_killed, truncated, cpu_limit;
    bool background, terminal;
    bool measured; /* what follows is known; else it is 0 */
    int64_t cpu_ms, peak_kb;
    int64_t chunks;   /* numbered pieces of output that it had */
    char error[64];   /* code of what prevented it, or "" */
    char runtime[65]; /* of a run; else "" */
    char *packages;   /* of a run, told by its request: JSON array text; else NULL; owned */
} sbx_exec_record;
void sbx_exec_record_done(sbx_exec_record *r);

/** One statement for all. Records of ends that are known already, and those whose sandbox is gone
 * for good, are left out; an end takes the place of `running`,
 * and one with packages adds what it knows of a run. May be repeated. */
int sbx_store_exec_insert(sbx_store *s, const sbx_exec_record *r, size_t count,
                          sbx_err *err) SBX_MUST_CHECK;

typedef struct sbx_exec_page {
    sbx_exec_record *items; /* owned, with their content */
    size_t count;
} sbx_exec_page;
void sbx_exec_page_done(sbx_exec_page *p);

/** The records of one sandbox of an owner, newest first.
 * @param before_ms, before_id  only those that come behind this place; 0: from the newest.
 * @param limit  1..SBX_MAX_LIST_ITEMS + 1. */
int sbx_store_exec_list(sbx_store *s, const char *owner, const char *sandbox, int64_t before_ms,
                        const char *before_id, int limit, sbx_exec_page *ret,
                        sbx_err *err) SBX_MUST_CHECK;

/** One record. @return 0, or -1 with NOT_FOUND. */
int sbx_store_exec_get(sbx_store *s, const char *owner, const char *sandbox, const char *id,
                       sbx_exec_record *ret, sbx_err *err) SBX_MUST_CHECK;

#endif
