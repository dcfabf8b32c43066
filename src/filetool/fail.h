/* What went wrong, as the one line on standard error. */
#ifndef FT_FAIL_H
#define FT_FAIL_H

#include "filetool.h"
#include "sbx/core/buf.h"

#define FT_MAX_ERROR_BYTES 1024 /* the line, with its newline */

#define FT_CODES(X)                                                                                \
    X(NOT_FOUND, "not_found")                                                                      \
    X(IS_DIRECTORY, "is_directory")                                                                \
    X(NOT_DIRECTORY, "not_directory")                                                              \
    X(EXISTS, "exists")                                                                            \
    X(NOT_EMPTY, "not_empty")                                                                      \
    X(PERMISSION, "permission_denied")                                                             \
    X(NO_SPACE, "no_space")                                                                        \
    X(TOO_LARGE, "too_large")                                                                      \
    X(INVALID, "invalid")                                                                          \
    X(UNSUPPORTED, "unsupported")                                                                  \
    X(BUSY, "busy")                                                                                \
    X(IO, "io_error")                                                                              \
    X(RANGE, "range")                                                                              \
    X(CHANGED, "changed")

typedef enum ft_code {
#define X(name, text) FT_E_##name,
    FT_CODES(X)
#undef X
} ft_code;

typedef struct ft_err {
    ft_code code;
    char msg[240];
    char path[FT_PATH_BYTES]; /* "": none is meant */
    int64_t size_bytes;       /* with RANGE */
} ft_err;

const char *ft_code_text(ft_code code);

/** The code that stands for an error of the kernel. */
ft_code ft_code_of(int errnum);

/** @param path  may be NULL; what does not fit is left out.
 * @return -1 always */
int ft_fail(ft_err *err, ft_code code, const char *path, const char *fmt, ...) SBX_PRINTF(4, 5);

/** From errno, which stays. @param doing  begins the message, as in "cannot open". @return -1
 * always */
int ft_fail_errno(ft_err *err, const char *path, const char *doing);

/** The line, with its newline. @param out  a buffer of at least FT_MAX_ERROR_BYTES. */
void ft_err_line(const ft_err *err, sbx_buf *out);

#endif
