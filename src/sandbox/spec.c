/* The create request as a table of fields, and the checks that a table cannot say. */
#include "sbx/sandbox/spec.h"

#include "sbx/core/limits.h"
#include <stdio.h>

#define AT(member)  offsetof(sbx_spec, member)
#define AT_LIMIT(m) (offsetof(sbx_spec, limits.m) - offsetof(sbx_spec, limits))
#define END_OF_FIELDS                                                                              \
    {                                                                                              \
        .name = NULL                                                                               \
    }

static const struct {
    const char *name;
    int64_t cpu_milli, memory_mb;
} sizes[] = {
    {"nano", 500, 256},    {"small", 1000, 512},   {"medium", 2000, 1024},
    {"large", 4000, 2048}, {"xlarge", 4000, 4096},
};

bool sbx_size_limits(const char *size, int64_t *cpu_milli, int64_t *memory_mb)
{
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        if (strcmp(sizes[i].name, size) != 0)
            continue;
        *cpu_milli = sizes[i].cpu_milli;
        *memory_mb = sizes[i].memory_mb;
        return true;
    }
    return false;
}

static const char *const size_names[] = {"nano", "small", "medium", "large", "xlarge", NULL};
static const char *const ends[] = {"delete", "pause", "stop", NULL};
static const char *const modes[] = {"open", "none", NULL};

static const sbx_json_field limit_fields[] = {
    {"cpus", SBX_JF_MILLI, AT_LIMIT(cpu_milli), AT_LIMIT(cpu_given), .min = SBX_MIN_CPU_MILLI,
     .max = SBX_MAX_CPU_MILLI, .doc = "CPU cores; default: the size's"},
    {"memoryMb", SBX_JF_I64, AT_LIMIT(memory_mb), AT_LIMIT(memory_given), .min = SBX_MIN_MEMORY_MB,
     .max = SBX_MAX_MEMORY_MB, .doc = "memory, without swap; default: the size's"},
    {"pids", SBX_JF_I64, AT_LIMIT(pids), .min = SBX_MIN_PIDS, .max = SBX_MAX_PIDS,
     .dflt = SBX_DEFAULT_PIDS, .doc = "processes and threads at once"},
    {"diskMb", SBX_JF_I64, AT_LIMIT(disk_mb), .nullable = true, .min = SBX_MIN_DISK_MB,
     .max = SBX_MAX_DISK_MB, .doc = "files written outside of volumes; null: no limit"},
    END_OF_FIELDS,
};

static const sbx_json_field network_fields[] = {
    {"mode", SBX_JF_ENUM, 0, .values = modes,
     .doc = "open: the internet, without private addresses; none: loopback alone; default: what "
            "the server is set to, open unless its operator chose none"},
    {"allow", SBX_JF_REFUSED, .doc = "allow-lists are not available"},
    END_OF_FIELDS,
};

const sbx_json_field sbx_spec_fields[] = {
    {"template", SBX_JF_STR, AT(template_name), .min = 1, .max = 64, .dflt_text = "python",
     .doc = "a template of this server"},
    {"image", SBX_JF_STR, AT(image), .min = 1, .max = SBX_MAX_IMAGE_BYTES,
     .doc = "an image instead of the template's"},
    {"name", SBX_JF_STR, AT(name), .nullable = true, .min = 1, .max = SBX_MAX_NAME_BYTES,
     .doc = "for people; need not be unique"},
    {"metadata", SBX_JF_PAIRS, AT(metadata), .max = SBX_MAX_METADATA,
     .max_each = SBX_MAX_METADATA_BYTES, .doc = "the caller's own labels"},
    {"env", SBX_JF_PAIRS, AT(env), .max = SBX_MAX_ENV, .max_each = SBX_MAX_ENV_BYTES,
     .doc = "environment of every command; values are stored encrypted and never come back"},
    {"size", SBX_JF_ENUM, AT(size), .values = size_names, .dflt_text = "small",
     .doc = "cpus/memoryMb by one name: nano 0.5/256, small 1/512, medium 2/1024, large 4/2048, "
            "xlarge 4/4096"},
    {"limits", SBX_JF_OBJ, AT(limits), .sub = limit_fields, .doc = "overrides the size"},
    {"timeoutSeconds", SBX_JF_I64, AT(timeout_s), .min = 1, .max = SBX_MAX_LIFETIME_S,
     .dflt = SBX_DEFAULT_LIFETIME_S, .doc = "lifetime from the start"},
    {"idleTimeoutSeconds", SBX_JF_I64, AT(idle_timeout_s), .min = 1, .max = SBX_MAX_LIFETIME_S,
     .dflt = SBX_DEFAULT_IDLE_S, .doc = "time without a command until onIdle"},
    {"onTimeout", SBX_JF_ENUM, AT(on_timeout), .values = ends, .dflt_text = "delete",
     .doc = "what the lifetime's end does"},
    {"onIdle", SBX_JF_ENUM, AT(on_idle), .values = ends,
     .doc = "what idleness does; default: the onTimeout that was given, else pause"},
    {"network", SBX_JF_OBJ, AT(network), .sub = network_fields, .doc = "what it may reach"},
    {"volumes", SBX_JF_REFUSED, .doc = "volumes are not available"},
    {"command", SBX_JF_CMD, AT(command), .min = 1, .max = SBX_MAX_ARGS,
     .max_each = SBX_MAX_ARG_BYTES, .doc = "main process; its output is logged"},
    {"readiness", SBX_JF_OBJ, AT(readiness), .nullable = true, .sub = sbx_readiness_fields,
     .one_of = "command,port,file",
     .doc = "what must succeed before the sandbox counts as running"},
    {"health", SBX_JF_OBJ, AT(health), .nullable = true, .sub = sbx_health_fields,
     .one_of = "command,port,file", .doc = "what is checked while it runs"},
    {"wait", SBX_JF_BOOL, AT(wait), .dflt = 1,
     .doc = "false: answer 202 at once, before the sandbox can run commands"},
    END_OF_FIELDS,
};

#define IN_PATCH(member)       offsetof(sbx_patch, member)
#define IN_PATCH_LIMIT(member) (offsetof(sbx_patch, limits.member) - offsetof(sbx_patch, limits))

static const sbx_json_field patch_limit_fields[] = {
    {"cpus", SBX_JF_MILLI, IN_PATCH_LIMIT(cpu_milli), .min = SBX_MIN_CPU_MILLI,
     .max = SBX_MAX_CPU_MILLI, .doc = "CPU cores"},
    {"memoryMb", SBX_JF_I64, IN_PATCH_LIMIT(memory_mb), .min = SBX_MIN_MEMORY_MB,
     .max = SBX_MAX_MEMORY_MB, .doc = "memory, without swap; not below what is in use"},
    {"pids", SBX_JF_I64, IN_PATCH_LIMIT(pids), .min = SBX_MIN_PIDS, .max = SBX_MAX_PIDS,
     .doc = "processes and threads at once"},
    {"diskMb", SBX_JF_REFUSED, .nullable = true, .doc = "it is set when a sandbox is created"},
    END_OF_FIELDS,
};

const sbx_json_field sbx_patch_fields[] = {
    {"name", SBX_JF_STR, IN_PATCH(name), IN_PATCH(name_given), .nullable = true, .min = 1,
     .max = SBX_MAX_NAME_BYTES, .doc = "null: none"},
    {"metadata", SBX_JF_PAIRS, IN_PATCH(metadata), .nullable_each = true,
     .max = 2 * SBX_MAX_METADATA, .max_each = SBX_MAX_METADATA_BYTES,
     .doc = "names that are not given stay; null removes one"},
    {"env", SBX_JF_PAIRS, IN_PATCH(env), .nullable_each = true, .max = 2 * SBX_MAX_ENV,
     .max_each = SBX_MAX_ENV_BYTES,
     .doc = "for commands from now on; names that are not given stay; null removes one"},
    {"size", SBX_JF_ENUM, IN_PATCH(size), .values = size_names, .doc = "sets its limits, too"},
    {"limits", SBX_JF_OBJ, IN_PATCH(limits), .sub = patch_limit_fields,
     .doc = "live; each alone is possible"},
    {"timeoutSeconds", SBX_JF_I64, IN_PATCH(timeout_s), .min = 1, .max = SBX_MAX_LIFETIME_S,
     .doc = "lifetime; of a running or paused sandbox it begins now"},
    {"idleTimeoutSeconds", SBX_JF_I64, IN_PATCH(idle_timeout_s), .min = 1,
     .max = SBX_MAX_LIFETIME_S, .doc = "time without a command until onIdle"},
    {"onTimeout", SBX_JF_ENUM, IN_PATCH(on_timeout), .values = ends,
     .doc = "what the lifetime's end does"},
    {"onIdle", SBX_JF_ENUM, IN_PATCH(on_idle), .values = ends, .doc = "what idleness does"},
    END_OF_FIELDS,
};

static bool env_name_ok(const char *s)
{
    if (!*s || (*s >= '0' && *s <= '9'))
        return false;
    for (; *s; s++)
        if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') ||
              *s == '_'))
            return false;
    return true;
}

int sbx_env_check(const char *field, const sbx_pairs *env, sbx_err *err)
{
    size_t total = 0;

    for (size_t i = 0; i < env->count; i++) {
        if (!env_name_ok(env->names[i]))
            return sbx_fail_field(err, field,
                                  "%s: \"%.40s\" is not a variable's name (letters, digits, _)",
                                  field, env->names[i]);
        if (strncmp(env->names[i], "SBX_AGENT_", 10) == 0)
            return sbx_fail_field(err, field, "%s: names that begin with SBX_AGENT_ are reserved",
                                  field);
        total += strlen(env->names[i]) + (env->values[i] ? strlen(env->values[i]) : 0) + 2;
    }
    if (total > SBX_MAX_ENV_TOTAL_BYTES)
        return sbx_fail_field(err, field, "%s: more than %u bytes in all", field,
                              SBX_MAX_ENV_TOTAL_BYTES);
    return 0;
}

static bool image_ok(const char *s)
{
    static const char more[] = "._-/:@";

    for (const char *p = s; *p; p++) {
        bool alnum =
            (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9');

        if (!alnum && (p == s || !strchr(more, *p)))
            return false;
    }
    return true;
}

static bool has_control(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return true;
    return false;
}

int sbx_name_check(const char *name, sbx_err *err)
{
    if (name && has_control(name))
        return sbx_fail_field(err, "name", "name: control characters are not allowed");
    return 0;
}

static void fill_from_size(sbx_spec *s)
{
    int64_t cpu_milli, memory_mb;

    if (!sbx_size_limits(s->size, &cpu_milli, &memory_mb))
        return;
    if (!s->limits.cpu_given)
        s->limits.cpu_milli = cpu_milli;
    if (!s->limits.memory_given)
        s->limits.memory_mb = memory_mb;
}

/* null, as absence, means none; {} does not. */
static int take_check(const sbx_json *root, const char *field, const sbx_check *c, bool *ret_has,
                      sbx_err *err)
{
    *ret_has = sbx_json_kind(sbx_json_get(root, field)) == SBX_J_OBJ;
    return *ret_has ? sbx_check_verify(field, c, err) : 0;
}

int sbx_spec_parse(const char *body, size_t len, sbx_spec *ret, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;

    if (sbx_json_parse(len ? body : "{}", len ? len : 2, &root, err))
        return -1;
    return sbx_spec_read(root, ret, err);
}

int sbx_spec_read(const sbx_json *root, sbx_spec *ret, sbx_err *err)
{
    if (sbx_json_decode(root, sbx_spec_fields, ret, err) || sbx_name_check(ret->name, err))
        return -1;
    if (ret->image && !image_ok(ret->image))
        return sbx_fail_field(err, "image", "image: not an image reference");
    if (sbx_env_check("env", &ret->env, err) ||
        take_check(root, "readiness", &ret->readiness, &ret->has_readiness, err) ||
        take_check(root, "health", &ret->health, &ret->has_health, err))
        return -1;
    if (!ret->on_idle)
        ret->on_idle = sbx_json_get(root, "onTimeout") ? ret->on_timeout : "pause";
    fill_from_size(ret);
    return 0;
}

void sbx_spec_done(sbx_spec *s)
{
    sbx_json_struct_done(sbx_spec_fields, s);
}

int sbx_patch_parse(const char *body, size_t len, sbx_patch *ret, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    int64_t cpu_milli, memory_mb;

    if (sbx_json_parse(len ? body : "{}", len ? len : 2, &root, err) ||
        sbx_json_decode(root, sbx_patch_fields, ret, err) || sbx_name_check(ret->name, err) ||
        sbx_env_check("env", &ret->env, err))
        return -1;
    if (ret->size && sbx_size_limits(ret->size, &cpu_milli, &memory_mb)) {
        ret->limits.cpu_milli = ret->limits.cpu_milli ? ret->limits.cpu_milli : cpu_milli;
        ret->limits.memory_mb = ret->limits.memory_mb ? ret->limits.memory_mb : memory_mb;
    }
    return 0;
}

void sbx_patch_done(sbx_patch *p)
{
    sbx_json_struct_done(sbx_patch_fields, p);
}
