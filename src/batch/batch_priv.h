/* What the files of this layer share. */
#ifndef SBX_BATCH_BATCH_PRIV_H
#define SBX_BATCH_BATCH_PRIV_H

#include "fan.h"
#include "sbx/batch/batch.h"

struct sbx_batches { /* immutable */
    sbx_batches_config c;
};

#endif
