/* Extracting an archive from any source of bytes. */
#ifndef FT_UNPACK_H
#define FT_UNPACK_H

#include "extract.h"
#include "records.h"

typedef struct ft_unpack {
    ft_source *source;
    void *source_ctx;
    int64_t max_bytes; /* of content */
    ft_extract x;      /* ready */
    ft_err *err;       /* borrowed */
    int64_t bytes;     /* of content, holes included */

    int64_t dense;    /* bytes of content that are no holes */
    int64_t in_bytes; /* of the archive */
    bool source_failed;
    char *buffer;
    size_t ahead; /* bytes in the buffer that were read to tell the format */
    ft_temp zip;  /* FT_TEMP_NONE at first */
} ft_unpack;

/** Extract all of it. @return 0, or -1 with u->err; what was extracted before stays */
int ft_unpack_run(ft_unpack *u) SBX_MUST_CHECK;

#endif
