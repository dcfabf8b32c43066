/* See lines.h. Only braces and strings are looked at; whether an object is well-formed is for the
 * JSON parser to say. What stands between objects (white space, commas, an array's brackets) is
 * dropped. */
#include "lines.h"

void docker_lines_init(docker_lines *l, size_t max_value_bytes)
{
    memset(l, 0, sizeof(*l));
    sbx_buf_init(&l->value, max_value_bytes);
}

void docker_lines_done(docker_lines *l)
{
    sbx_buf_done(&l->value);
}

/* Follow one byte within an object. @return true if the object ends with it. */
static bool step(docker_lines *l, char c)
{
    if (l->in_string) {
        if (l->escaped)
            l->escaped = false;
        else if (c == '\\')
            l->escaped = true;
        else if (c == '"')
            l->in_string = false;
        return false;
    }
    if (c == '"')
        l->in_string = true;
    else if (c == '{')
        l->depth++;
    else if (c == '}')
        return --l->depth == 0;
    return false;
}

static void keep(docker_lines *l, const char *data, size_t len)
{
    if (l->skipping)
        return;
    sbx_buf_add(&l->value, data, len);
    if (!sbx_buf_failed(&l->value))
        return;
    l->skipping = true;
    l->skipped++;
    sbx_buf_reset(&l->value);
}

bool docker_lines_take(docker_lines *l, const char *data, size_t len,
                       bool (*fn)(void *arg, char *json, size_t json_len), void *arg)
{
    size_t i = 0;

    while (i < len) {
        size_t from = i;
        bool ends = false;

        if (l->depth == 0) {
            if (data[i++] != '{')
                continue;
            l->depth = 1;
        }
        while (i < len && !ends)
            ends = step(l, data[i++]);
        keep(l, data + from, i - from);
        if (!ends)
            return true;
        bool go_on = l->skipping || fn(arg, l->value.data, l->value.len);

        l->skipping = false;
        sbx_buf_reset(&l->value);
        if (!go_on)
            return false;
    }
    return true;
}
