/* A tar archive (POSIX ustar) of one regular file, or of nothing. */
#ifndef SBX_ENGINE_TAR_H
#define SBX_ENGINE_TAR_H

#include "sbx/core/buf.h"

/** Add the file's entry: owner 0:0, mode 0755.
 * @param name  1 to 100 bytes, without a slash. @return false if the name is not valid. */
bool docker_tar_file(sbx_buf *b, const char *name, int64_t mtime_s, const void *data, size_t len);
/** Add the end mark. */
void docker_tar_end(sbx_buf *b);

#endif
