/* Names of packages: what is accepted is safe as an argument, and says what it seems to say. */
#include "sbx/packages/specs.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(sbx_package_kind kind, const char *spec)
{
    const char *why = NULL;
    bool pinned = false;

    if (!sbx_package_spec_valid(kind, spec, &pinned, &why)) {
        if (!why || !*why)
            abort();
        return;
    }
    size_t name = sbx_package_name_len(kind, spec);

    if (!name || name > strlen(spec) || spec[0] == '-' || spec[0] == '.' || spec[0] == '/')
        abort();
    if (strpbrk(spec, ":;$`'\"\\(){}&?#%\t\r\n") || strchr(spec + name, '/'))
        abort();
    if (strchr(spec, '/') && (kind != SBX_PACKAGES_NPM || spec[0] != '@'))
        abort();
    if (pinned && (strpbrk(spec + name, "*<>~^ |")))
        abort();
    for (const char *c = spec; *c; c++)
        if (*c < ' ' || *c > '~')
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *spec = sbx_strndup((const char *)data, size);

    check(SBX_PACKAGES_PIP, spec);
    check(SBX_PACKAGES_NPM, spec);
    free(spec);
    return 0;
}
