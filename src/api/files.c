/* Files of a sandbox. */
#include "handlers.h"

static int begin(struct sbx_app *app, sbx_file_verb verb, const sbx_principal *who,
                 const sbx_request *r, sbx_err *err)
{
    return sbx_files_begin(app->files, verb, who->owner, sbx_request_path(r, "id"), r, err);
}

HANDLER(api_file_read)
{
    return begin(app, SBX_FILE_READ, who, r, err);
}

HANDLER(api_file_write)
{
    return begin(app, SBX_FILE_WRITE, who, r, err);
}

HANDLER(api_file_remove)
{
    return begin(app, SBX_FILE_REMOVE, who, r, err);
}

HANDLER(api_file_stat)
{
    return begin(app, SBX_FILE_STAT, who, r, err);
}

HANDLER(api_file_list)
{
    return begin(app, SBX_FILE_LIST, who, r, err);
}

HANDLER(api_file_mkdir)
{
    return begin(app, SBX_FILE_MKDIR, who, r, err);
}

HANDLER(api_file_move)
{
    return begin(app, SBX_FILE_MOVE, who, r, err);
}

HANDLER(api_file_copy)
{
    return begin(app, SBX_FILE_COPY, who, r, err);
}

HANDLER(api_file_batch)
{
    return begin(app, SBX_FILE_BATCH, who, r, err);
}

HANDLER(api_file_pack)
{
    return begin(app, SBX_FILE_PACK, who, r, err);
}

HANDLER(api_file_unpack)
{
    return begin(app, SBX_FILE_UNPACK, who, r, err);
}

HANDLER(api_file_watch)
{
    return begin(app, SBX_FILE_WATCH, who, r, err);
}
