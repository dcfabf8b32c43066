/* The two requests as tables of fields, their JSON, and what a result means. */
#include "sbx/sandbox/check.h"

#include "sbx/core/limits.h"
#include <stdio.h>

#define AT(member) offsetof(sbx_check, member)

#define KINDS                                                                                      \
    {"command",                                                                                    \
     SBX_JF_CMD,                                                                                   \
     AT(command),                                                                                  \
     .min = 1,                                                                                     \
     .max = SBX_MAX_ARGS,                                                                          \
     .max_each = SBX_MAX_CHECK_BYTES,                                                              \
     .doc = "succeeds with exit code 0; run as the default user"},                                 \
        {"port",       SBX_JF_I64,                                                                 \
         AT(port),     .min = 1,                                                                   \
         .max = 65535, .doc = "succeeds when something listens there on the sandbox's loopback"},  \
    {                                                                                              \
        "file", SBX_JF_STR, AT(file), .min = 1, .max = SBX_MAX_CHECK_PATH_BYTES,                   \
                                      .doc = "an absolute path; succeeds when it is there"         \
    }

const sbx_json_field sbx_readiness_fields[] = {
    KINDS,
    {"intervalMs", SBX_JF_I64, AT(interval_ms), .min = 100, .max = 60000, .dflt = 500,
     .doc = "from the start of one try to the next"},
    {"timeoutMs", SBX_JF_I64, AT(timeout_ms), .min = 100, .max = 60000, .dflt = 2000,
     .doc = "for one try; then its process tree is killed"},
    {"retries", SBX_JF_I64, AT(retries), .min = 1, .max = 1000, .dflt = 30,
     .doc = "tries; after the last the sandbox fails. All together at most ten minutes"},
    {.name = NULL},
};

const sbx_json_field sbx_health_fields[] = {
    KINDS,
    {"intervalSeconds", SBX_JF_I64, AT(interval_s), .min = 1, .max = 3600, .dflt = 10,
     .doc = "from the start of one check to the next"},
    {"timeoutMs", SBX_JF_I64, AT(timeout_ms), .min = 100, .max = 60000, .dflt = 2000,
     .doc = "for one check; then its process tree is killed"},
    {"retries", SBX_JF_I64, AT(retries), .min = 1, .max = 100, .dflt = 3,
     .doc = "failures in a row that make the sandbox unhealthy"},
    {"startPeriodSeconds", SBX_JF_I64, AT(start_period_s), .min = 0, .max = 3600,
     .doc = "failures do not count so long after the start"},
    {.name = NULL},
};

static const sbx_json_field *fields_of(bool health)
{
    return health ? sbx_health_fields : sbx_readiness_fields;
}

void sbx_check_done(sbx_check *c)
{
    sbx_json_struct_done(sbx_readiness_fields, c); /* what is owned is the same in both */
}

int64_t sbx_check_budget_ms(const sbx_check *c)
{
    return c->retries * SBX_MAX(c->interval_ms, c->timeout_ms);
}

int sbx_check_verify(const char *field, const sbx_check *c, sbx_err *err)
{
    size_t total = 0;

    if (c->file && *c->file != '/')
        return sbx_fail_field(err, field, "%s: file must be an absolute path", field);
    for (size_t i = 0; i < c->command.count; i++)
        total += strlen(c->command.items[i]) + 1;
    if (total > SBX_MAX_CHECK_BYTES)
        return sbx_fail_field(err, field, "%s: command has more than %d bytes in all", field,
                              SBX_MAX_CHECK_BYTES);
    if (c->interval_ms && sbx_check_budget_ms(c) > SBX_MAX_READINESS_MS)
        return sbx_fail_field(err, field,
                              "%s: retries times the longer of intervalMs and timeoutMs is over "
                              "%d seconds",
                              field, SBX_MAX_READINESS_MS / 1000);
    return 0;
}

/* --- JSON --- */

static void command_json(sbx_jw *w, const sbx_strs *command)
{
    if (command->shell) {
        sbx_jw_str(w, "command", command->items[command->count - 1]);
        return;
    }
    sbx_jw_arr(w, "command");
    for (size_t i = 0; i < command->count; i++)
        sbx_jw_str(w, NULL, command->items[i]);
    sbx_jw_arr_end(w);
}

void sbx_check_json(const sbx_check *c, bool health, sbx_buf *out)
{
    sbx_jw w = SBX_JW(out);

    sbx_jw_obj(&w, NULL);
    if (c->command.count)
        command_json(&w, &c->command);
    if (c->port)
        sbx_jw_int(&w, "port", c->port);
    if (c->file)
        sbx_jw_str(&w, "file", c->file);
    for (const sbx_json_field *f = fields_of(health); f->name; f++)
        if (f->type == SBX_JF_I64 && f->offset != AT(port))
            sbx_jw_int(&w, f->name, *(const int64_t *)((const char *)c + f->offset));
    sbx_jw_obj_end(&w);
}

int sbx_check_load(const char *json, bool health, sbx_check *ret, sbx_err *err)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;

    *ret = (sbx_check){0};
    if (sbx_json_parse(json, strlen(json), &root, err) ||
        sbx_json_decode(root, fields_of(health), ret, err))
        return -1;
    if (health)
        ret->interval_ms = ret->interval_s * 1000;
    return 0;
}

/* --- results --- */

static const char *const statuses[] = {"starting", "healthy", "unhealthy"};

const char *sbx_health_wire(sbx_health_status s)
{
    return statuses[s];
}

bool sbx_health_step(sbx_health *h, const sbx_check *c, bool ok, const char *message,
                     int64_t now_ms, int64_t wall_ms)
{
    sbx_health_status before = h->status;
    bool early =
        before == SBX_H_STARTING && now_ms - h->began_ms < c->start_period_s * INT64_C(1000);

    h->checked_ms = wall_ms;
    sbx_copy(h->message, sizeof(h->message), ok ? "" : message);
    if (ok) {
        h->failures = 0;
        h->status = SBX_H_HEALTHY;
    } else if (!early && ++h->failures >= c->retries) {
        h->status = SBX_H_UNHEALTHY;
    }
    return h->status != before;
}

void sbx_health_json(const sbx_health *h, sbx_buf *out)
{
    sbx_jw w = SBX_JW(out);

    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "status", sbx_health_wire(h->status));
    sbx_jw_int(&w, "failures", h->failures);
    sbx_jw_time(&w, "checkedAt", h->checked_ms);
    sbx_jw_str(&w, "message", *h->message ? h->message : NULL);
    sbx_jw_obj_end(&w);
}

sbx_health_status sbx_health_read(const char *json)
{
    SBX_CLEANUP(sbx_json_free) sbx_json *root = NULL;
    sbx_err ignored;
    const char *status = NULL;

    if (json && sbx_json_parse(json, strlen(json), &root, &ignored) == 0)
        status = sbx_json_str(sbx_json_get(root, "status"));
    for (size_t i = 0; status && i < ARRAY_LEN(statuses); i++)
        if (strcmp(statuses[i], status) == 0)
            return (sbx_health_status)i;
    return SBX_H_STARTING;
}

static size_t char_len(unsigned char c)
{
    return c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC2 ? 2 : 1;
}

void sbx_check_clean(char out[SBX_CHECK_MESSAGE_BYTES + 1], const char *data, size_t len)
{
    size_t n = 0, at = 0;

    while (at < len) {
        unsigned char c = (unsigned char)data[at];
        size_t take = char_len(c);
        bool valid = at + take <= len && sbx_utf8_valid(data + at, take);

        if (!valid)
            take = 1;
        if (n + take > SBX_CHECK_MESSAGE_BYTES)
            break;
        /* C1 controls are two bytes in UTF-8 */
        bool control = c < 0x20 || c == 0x7F || (c == 0xC2 && (unsigned char)data[at + 1] < 0xA0);
        if (valid && !control)
            memcpy(out + n, data + at, take);
        else
            memset(out + n, valid ? ' ' : '?', take);
        n += take;
        at += take;
    }
    while (n && out[n - 1] == ' ')
        n--;
    out[n] = '\0';
}
