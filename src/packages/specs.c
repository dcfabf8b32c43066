/* The grammar of what may be named. Stricter than that of pip and npm where theirs has doors to
 * something else: both take what ends like an archive for a file, npm takes "owner/name" for an
 * address, and both have names with a colon for other sources. */
#include "sbx/packages/specs.h"

#include "sbx/core/limits.h"
#include <ctype.h>
#include <stdio.h>
#include <strings.h>

static const struct {
    const char *runtime;
    sbx_package_kind kind;
} runtimes[] = {{"python", SBX_PACKAGES_PIP}, {"node", SBX_PACKAGES_NPM}};

sbx_package_kind sbx_packages_kind(const char *runtime)
{
    for (size_t i = 0; i < ARRAY_LEN(runtimes); i++)
        if (sbx_streq(runtimes[i].runtime, runtime))
            return runtimes[i].kind;
    return SBX_PACKAGES_NONE;
}

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool is_one_of(char c, const char *set)
{
    return c && strchr(set, c);
}

static size_t span(const char *s, const char *more)
{
    size_t n = 0;

    while (is_alnum(s[n]) || is_one_of(s[n], more))
        n++;
    return n;
}

/* What installers take for a file on their disk. */
static bool is_archive(const char *spec)
{
    static const char *const ends[] = {".zip", ".whl", ".tar", ".gz",  ".tgz",  ".bz2", ".tbz",
                                       ".xz",  ".txz", ".lz",  ".tlz", ".lzma", ".egg", ".zst"};
    size_t len = strlen(spec);

    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        size_t n = strlen(ends[i]);

        if (len > n && strcasecmp(spec + len - n, ends[i]) == 0)
            return true;
    }
    return false;
}

/* --- pip --- */

/* A letter or digit at both ends. */
static size_t pip_name(const char *s)
{
    size_t n = span(s, "._-");

    return n && is_alnum(s[0]) && is_alnum(s[n - 1]) ? n : 0;
}

/* "[a,b]" or nothing. @return how long, or -1. */
static int pip_extras(const char *s)
{
    const char *at = s;

    if (*at != '[')
        return 0;
    do {
        size_t n = pip_name(++at);

        if (!n)
            return -1;
        at += n;
    } while (*at == ',');
    return *at == ']' ? (int)(at + 1 - s) : -1;
}

static bool pip_versions(const char *s, bool *pinned)
{
    static const char *const operators[] = {"==", "!=", "<=", ">=", "~=", "<", ">"};
    size_t clauses = 0;
    bool exact = false;

    while (*s) {
        size_t op = 0;

        while (op < ARRAY_LEN(operators) && strncmp(s, operators[op], strlen(operators[op])) != 0)
            op++;
        if (op == ARRAY_LEN(operators))
            return false;
        s += strlen(operators[op]);
        size_t n = span(s, ".+!*_-");

        if (!n || !isdigit((unsigned char)s[0]))
            return false;
        exact = op == 0 && !memchr(s, '*', n);
        clauses++;
        s += n;
        if (*s == ',' && s[1])
            s++;
        else if (*s)
            return false;
    }
    *pinned = exact && clauses == 1;
    return true;
}

static bool pip_valid(const char *spec, bool *pinned)
{
    size_t name = pip_name(spec);
    int extras = name ? pip_extras(spec + name) : -1;

    return extras >= 0 && pip_versions(spec + name + extras, pinned);
}

/* --- npm --- */

static size_t npm_part(const char *s)
{
    return is_alnum(s[0]) || s[0] == '~' ? span(s, "._~-") : 0;
}

static size_t npm_name(const char *s)
{
    size_t scope = 0;

    if (s[0] == '@') {
        scope = npm_part(s + 1);
        if (!scope || s[1 + scope] != '/')
            return 0;
        scope += 2;
    }
    size_t n = npm_part(s + scope);

    return n ? scope + n : 0;
}

static bool npm_exact(const char *s)
{
    int parts = 0;

    for (; isdigit((unsigned char)*s); parts++) {
        while (isdigit((unsigned char)*s))
            s++;
        if (parts == 2)
            return (!*s || *s == '-' || *s == '+') && !s[span(s, ".+-")];
        if (*s++ != '.')
            return false;
    }
    return false;
}

static bool npm_valid(const char *spec, bool *pinned)
{
    size_t n = npm_name(spec);
    const char *range = spec + n + 1;

    *pinned = false;
    if (!n || !spec[n])
        return n != 0;
    if (spec[n] != '@' || !(is_alnum(*range) || is_one_of(*range, "^~<>=*")))
        return false;
    if (range[strspn(range, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                            "._^~<>=*+-| ")])
        return false;
    *pinned = npm_exact(range);
    return true;
}

/* --- both --- */

static const char *const wanted[] = {
    [SBX_PACKAGES_NONE] = "is for a runtime without an installer",
    [SBX_PACKAGES_PIP] = "must be a name, with versions if need be: requests, requests==2.31.0, "
                         "uvicorn[standard]>=0.20,<1",
    [SBX_PACKAGES_NPM] = "must be a name, with versions if need be: lodash, lodash@4.17.21, "
                         "@types/node@^20",
};

/* Why it is none; the most likely intention first. */
static const char *reason(sbx_package_kind kind, const char *spec)
{
    if (*spec == '-')
        return "is an option; only names of packages are taken";
    if (strstr(spec, "://") || strncmp(spec, "git+", 4) == 0)
        return "is an address; packages come from the server's index alone, by their names";
    if (*spec == '.' || *spec == '/' || *spec == '~' || is_archive(spec))
        return "is a path or a file; packages come from the server's index alone, by their names";
    return wanted[kind];
}

bool sbx_package_spec_valid(sbx_package_kind kind, const char *spec, bool *ret_pinned,
                            const char **why)
{
    bool pinned = false;
    bool ok = kind == SBX_PACKAGES_PIP   ? pip_valid(spec, &pinned)
              : kind == SBX_PACKAGES_NPM ? npm_valid(spec, &pinned)
                                         : false;

    if (!ok || is_archive(spec)) {
        *why = kind == SBX_PACKAGES_NONE ? wanted[kind] : reason(kind, spec);
        return false;
    }
    if (ret_pinned)
        *ret_pinned = pinned;
    return true;
}

size_t sbx_package_name_len(sbx_package_kind kind, const char *spec)
{
    return kind == SBX_PACKAGES_PIP ? pip_name(spec) : npm_name(spec);
}

/* pip takes "A_b" and "a-b" for the same. */
static char folded(sbx_package_kind kind, char c)
{
    if (kind != SBX_PACKAGES_PIP)
        return c;
    return c == '_' || c == '.' ? '-' : (char)tolower((unsigned char)c);
}

static bool same_name(sbx_package_kind kind, const char *a, const char *b)
{
    size_t n = sbx_package_name_len(kind, a);

    if (n != sbx_package_name_len(kind, b))
        return false;
    for (size_t i = 0; i < n; i++)
        if (folded(kind, a[i]) != folded(kind, b[i]))
            return false;
    return true;
}

int sbx_package_specs_check(const char *runtime, const sbx_strs *specs, sbx_err *err)
{
    sbx_package_kind kind = sbx_packages_kind(runtime);
    const char *why;
    char field[32];

    if (specs->count && kind == SBX_PACKAGES_NONE)
        return sbx_fail_field(err, "packages", "packages: runtime %.64s has no installer", runtime);
    if (specs->count > SBX_MAX_PACKAGES)
        return sbx_fail_field(err, "packages", "packages: at most %d of them", SBX_MAX_PACKAGES);
    for (size_t i = 0; i < specs->count; i++) {
        snprintf(field, sizeof(field), "packages[%zu]", i);
        if (strlen(specs->items[i]) > SBX_MAX_PACKAGE_BYTES)
            return sbx_fail_field(err, field, "%s must have at most %d bytes", field,
                                  SBX_MAX_PACKAGE_BYTES);
        if (!sbx_package_spec_valid(kind, specs->items[i], NULL, &why))
            return sbx_fail_field(err, field, "%s %s", field, why);
        for (size_t j = 0; j < i; j++)
            if (same_name(kind, specs->items[i], specs->items[j]))
                return sbx_fail_field(err, field, "%s names the same package as packages[%zu]",
                                      field, j);
    }
    return 0;
}
