/* What a caller may name as packages: names with version pins, in the words of pip and npm.
 *
 * Nothing else gets through: no addresses, paths, options, comments, environment markers or shell
 * syntax. So what passed is safe as an argument of the installers, behind "--". Pure; any thread.
 */
#ifndef SBX_PACKAGES_SPECS_H
#define SBX_PACKAGES_SPECS_H

#include "sbx/core/json.h"

typedef enum sbx_package_kind {
    SBX_PACKAGES_NONE, /* the runtime has no installer */
    SBX_PACKAGES_PIP,  /* name, name[extra,extra]>=1,<2 */
    SBX_PACKAGES_NPM,  /* name, @scope/name, each with @range */
} sbx_package_kind;

/** Which installer a runtime has, by its name ("python", "node"). */
sbx_package_kind sbx_packages_kind(const char *runtime);

/** Check one. @param ret_pinned  does it name one exact version? May be NULL.
 * @param why  set on failure, to a phrase such as "is a path, not a name". */
bool sbx_package_spec_valid(sbx_package_kind kind, const char *spec, bool *ret_pinned,
                            const char **why) SBX_MUST_CHECK;

/** Check a list: at most SBX_MAX_PACKAGES, each at most SBX_MAX_PACKAGE_BYTES, none named twice.
 * @return 0, or -1 with INVALID that names the field, "packages[3]". */
int sbx_package_specs_check(const char *runtime, const sbx_strs *specs,
                            sbx_err *err) SBX_MUST_CHECK;

/** The name that a valid spec begins with: its length. */
size_t sbx_package_name_len(sbx_package_kind kind, const char *spec);

#endif
