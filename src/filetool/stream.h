/* Bytes between standard input, standard output and files.
 *
 * Operations that make something before they are done block TERM, INT and HUP; whatever here waits
 * or loops fails once one of them has come, so that the operation takes back what it made. */
#ifndef FT_STREAM_H
#define FT_STREAM_H

#include <sys/types.h>

#include "fail.h"

/** Block the signals that end an operation, and hear of them here. Once, before anything is made.
 */
int ft_guard_begin(ft_err *err) SBX_MUST_CHECK;

/** @return -1 (IO) when one of the signals has come */
int ft_guard_check(ft_err *err) SBX_MUST_CHECK;

/** Read from standard input; waits for the first byte.
 * @return bytes, 0 at the end of input, -1 */
ssize_t ft_in_read(void *data, size_t len, ft_err *err) SBX_MUST_CHECK;

/** Move standard input to `fd` at its offset, without a copy through this process where the kernel
 * can.
 * @param want  how many bytes, fewer is INVALID; -1: all until the end of input */
int ft_in_to(int fd, int64_t want, const char *path, ft_err *err) SBX_MUST_CHECK;

/** Write all of it to standard output. */
int ft_out_write(const void *data, size_t len, ft_err *err) SBX_MUST_CHECK;

/** Write and empty the buffer if it holds more than `above` bytes. */
int ft_out_flush(sbx_buf *b, size_t above, ft_err *err) SBX_MUST_CHECK;

/** Move bytes from..to of a file to standard output. IO if the file is shorter. */
int ft_out_from(int fd, int64_t from, int64_t to, const char *path, ft_err *err) SBX_MUST_CHECK;

/** Copy the content of a file to an empty one, holes as holes. Offsets are not used.
 * @param size  as fstat() told it; what is missing by now stays a hole */
int ft_file_copy(int in, int out, int64_t size, const char *path, ft_err *err) SBX_MUST_CHECK;

/** Write all of it at its place. */
int ft_file_write(int fd, const void *data, size_t len, int64_t at, const char *path,
                  ft_err *err) SBX_MUST_CHECK;

/** The memory that loops of this program copy through; FT_CHUNK_BYTES, one for the process. */
char *ft_chunk(void);

#endif
