/* From which registries users may have images. */
#include "sandboxes_priv.h"

#include <stdio.h>

#define NO_REGISTRY "default" /* names without a host, which the engine looks up where it likes */

/* As the engine reads a reference: what stands before the first slash is a registry if it looks
 * like a host. */
static void registry_of(const char *image, char *out, size_t cap)
{
    size_t len = strcspn(image, "/");
    bool host =
        image[len] == '/' && (memchr(image, '.', len) || memchr(image, ':', len) ||
                              (len == strlen("localhost") && memcmp(image, "localhost", len) == 0));

    snprintf(out, cap, "%.*s", host ? (int)len : (int)strlen(NO_REGISTRY),
             host ? image : NO_REGISTRY);
}

int sandbox_registry_check(const char *allowed, const char *image, sbx_err *err)
{
    char registry[SBX_MAX_IMAGE_BYTES + 1];
    size_t len;

    if (!allowed || !*allowed)
        return 0;
    registry_of(image, registry, sizeof(registry));
    for (const char *at = allowed; *at; at += len + (at[len] == ',')) {
        len = strcspn(at, ",");
        if (strlen(registry) == len && memcmp(at, registry, len) == 0)
            return 0;
    }
    return sbx_fail_field(
        err, "image",
        "image: this server takes no images of the registry %.100s; it takes those of "
        "%.200s",
        registry, allowed);
}
