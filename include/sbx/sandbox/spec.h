/* What a caller may ask for when it creates a sandbox: the request's fields and their checks. */
#ifndef SBX_SANDBOX_SPEC_H
#define SBX_SANDBOX_SPEC_H

#include "sbx/core/id.h"
#include "sbx/core/json.h"
#include "sbx/engine/engine.h"
#include "sbx/sandbox/check.h"

typedef struct sbx_spec {
    char *template_name, *image, *name;
    sbx_pairs metadata, env;
    const char *size;
    struct {
        int64_t cpu_milli, memory_mb, pids, disk_mb; /* disk_mb 0: none */
        bool cpu_given, memory_given;
    } limits;
    int64_t timeout_s, idle_timeout_s;
    const char *on_timeout, *on_idle;
    struct {
        const char *mode;
    } network;
    sbx_strs command; /* the main process; count 0: none */
    sbx_check readiness, health;
    bool has_readiness, has_health;
    bool held; /* of the server itself: not before sbx_create_run() does it run, whoever has it */
    bool wait;
    /* Of the server itself, no field of a request: for the first container, not for one that a
     * later start makes anew. */
    sbx_mount mount;
    char run[SBX_ID_LEN + 1]; /* the execution that the sandbox is for, or "" */
} sbx_spec;

extern const sbx_json_field sbx_spec_fields[]; /* also for the API document */

/** Decode and check a body; fills what the size gives. A body of length 0 is all defaults.
 * @param ret  zeroed; free with sbx_spec_done() also after a failure. */
int sbx_spec_parse(const char *body, size_t len, sbx_spec *ret, sbx_err *err) SBX_MUST_CHECK;
/** The same for an object that was parsed. */
int sbx_spec_read(const sbx_json *obj, sbx_spec *ret, sbx_err *err) SBX_MUST_CHECK;
void sbx_spec_done(sbx_spec *s);

/* What PATCH may change. 0 and NULL: not given. */
typedef struct sbx_patch {
    char *name;
    bool name_given;
    sbx_pairs metadata, env; /* a value of NULL removes */
    const char *size;
    struct {
        int64_t cpu_milli, memory_mb, pids;
    } limits; /* with what the size gives */
    int64_t timeout_s, idle_timeout_s;
    const char *on_timeout, *on_idle;
} sbx_patch;

extern const sbx_json_field sbx_patch_fields[]; /* also for the API document */

/** As sbx_spec_parse(). */
int sbx_patch_parse(const char *body, size_t len, sbx_patch *ret, sbx_err *err) SBX_MUST_CHECK;
void sbx_patch_done(sbx_patch *p);

/** The limits of a size. @return false if there is no such size. */
bool sbx_size_limits(const char *size, int64_t *cpu_milli, int64_t *memory_mb);
int sbx_name_check(const char *name, sbx_err *err) SBX_MUST_CHECK; /* NULL is fine */

/** Are these usable as environment variables? Also for commands. INVALID names the field. */
int sbx_env_check(const char *field, const sbx_pairs *env, sbx_err *err) SBX_MUST_CHECK;

#endif
