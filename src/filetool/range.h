/* Ranges of bytes, as RFC 9110 has them, one at a time. */
#ifndef FT_RANGE_H
#define FT_RANGE_H

#include "fail.h"

/** @param text      "-", "N-M", "N-" or "-N"
 *  @param ret_from  the first byte
 *  @param ret_to    behind the last one
 *  @return 0, or -1 with INVALID, or RANGE if no byte of the file is meant */
int ft_range_parse(const char *text, int64_t size, int64_t *ret_from, int64_t *ret_to,
                   ft_err *err) SBX_MUST_CHECK;

#endif
