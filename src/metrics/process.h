/* process_* of the running process, read from /proc/self when the page is made. */
#ifndef SBX_METRICS_PROCESS_H
#define SBX_METRICS_PROCESS_H

#include "sbx/core/buf.h"

void metrics_process_text(sbx_buf *out);

#endif
