/* What the files of this layer share. */
#ifndef AUTH_PRIV_H
#define AUTH_PRIV_H

#include "sbx/auth/auth.h"
#include "sbx/store/users.h"

/** Who a key of the database stands for. */
void auth_principal(const sbx_key_row *row, sbx_principal *ret);

#endif
