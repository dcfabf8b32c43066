/* Strict syntax check of a JSON document; see json_scan.c. */
#ifndef SBX_CORE_JSON_SCAN_H
#define SBX_CORE_JSON_SCAN_H

#include "sbx/core/error.h"

/** RFC 8259 exactly: grammar of numbers, escapes, no control characters, no \u0000, paired
 * surrogates, UTF-8, depth at most SBX_MAX_JSON_DEPTH. Errors give the offset. */
int sbx_json_scan(const char *text, size_t len, sbx_err *err) SBX_MUST_CHECK;

#endif
