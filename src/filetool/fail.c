/* The table from the kernel's errors to ours, and the line. */
#include "fail.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "sbx/core/json.h"

const char *ft_code_text(ft_code code)
{
    static const char *const texts[] = {
#define X(name, text) [FT_E_##name] = text,
        FT_CODES(X)
#undef X
    };

    return texts[code];
}

ft_code ft_code_of(int errnum)
{
    static const struct {
        int errnum;
        ft_code code;
    } table[] = {
        {ENOENT, FT_E_NOT_FOUND},       {EISDIR, FT_E_IS_DIRECTORY}, {ENOTDIR, FT_E_NOT_DIRECTORY},
        {EEXIST, FT_E_EXISTS},          {ENOTEMPTY, FT_E_NOT_EMPTY}, {EACCES, FT_E_PERMISSION},
        {EPERM, FT_E_PERMISSION},       {EROFS, FT_E_PERMISSION},    {ENOSPC, FT_E_NO_SPACE},
        {EDQUOT, FT_E_NO_SPACE},        {EFBIG, FT_E_TOO_LARGE},     {E2BIG, FT_E_TOO_LARGE},
        {EMLINK, FT_E_TOO_LARGE},       {ENOMEM, FT_E_TOO_LARGE},    {EMFILE, FT_E_TOO_LARGE},
        {EINVAL, FT_E_INVALID},         {ELOOP, FT_E_INVALID},       {ENAMETOOLONG, FT_E_INVALID},
        {EILSEQ, FT_E_INVALID},         {ENXIO, FT_E_UNSUPPORTED},   {ENODEV, FT_E_UNSUPPORTED},
        {EOPNOTSUPP, FT_E_UNSUPPORTED}, {ENOSYS, FT_E_UNSUPPORTED},  {EBUSY, FT_E_BUSY},
        {ETXTBSY, FT_E_BUSY},           {EAGAIN, FT_E_BUSY},
    };

    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].errnum == errnum)
            return table[i].code;
    return FT_E_IO;
}

static void set(ft_err *err, ft_code code, const char *path)
{
    err->code = code;
    err->size_bytes = 0;
    if (!path || !sbx_copy(err->path, sizeof(err->path), path))
        err->path[0] = '\0';
}

int ft_fail(ft_err *err, ft_code code, const char *path, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(err->msg, sizeof(err->msg), fmt, args);
    va_end(args);
    set(err, code, path);
    return -1;
}

int ft_fail_errno(ft_err *err, const char *path, const char *doing)
{
    int errnum = errno;

    (void)snprintf(err->msg, sizeof(err->msg), "%s: %s", doing, strerror(errnum));
    set(err, ft_code_of(errnum), path);
    errno = errnum;
    return -1;
}

static void write_line(const ft_err *err, const char *msg, bool with_path, sbx_buf *out)
{
    size_t len = strlen(err->path);
    bool text = sbx_utf8_valid(err->path, len);
    sbx_jw w = SBX_JW(out);

    sbx_buf_reset(out);
    sbx_jw_obj(&w, NULL);
    sbx_jw_str(&w, "code", ft_code_text(err->code));
    sbx_jw_str(&w, "message", msg);
    if (with_path) {
        sbx_jw_bytes(&w, "path", err->path, len, !text);
        if (!text)
            sbx_jw_str(&w, "encoding", "base64");
    }
    if (err->code == FT_E_RANGE)
        sbx_jw_int(&w, "sizeBytes", err->size_bytes);
    sbx_jw_obj_end(&w);
    sbx_buf_addc(out, '\n');
}

void ft_err_line(const ft_err *err, sbx_buf *out)
{
    char msg[sizeof(err->msg)];

    (void)sbx_copy(msg, sizeof(msg), err->msg);
    /* A library may have put a piece of a hostile name into it, or quotes without an end. */
    for (char *c = msg; *c; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f || *c == '\\')
            *c = '?';
    write_line(err, msg, err->path[0] != '\0', out);
    if (sbx_buf_failed(out) || out->len > FT_MAX_ERROR_BYTES)
        write_line(err, msg, false, out);
}
