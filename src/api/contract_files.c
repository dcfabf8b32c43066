/* What is answered about files. */
#include "contract.h"

#define FILE_ENCODING                                                                              \
    {                                                                                              \
        "encoding", T_CONST, OPTIONAL, "base64",                                                   \
            "Present when names are not UTF-8: of all of them."                                    \
    }

const api_field api_file_view[] = {
    {"name", T_STR, 0, NULL, "The last part of its path."},
    {"path", T_STR, 0, NULL, "Absolute."},
    {"type", T_ENUM, 0, "file,directory,symlink,other", "`other`: device, FIFO, socket."},
    {"sizeBytes", T_INT, 0, NULL, "Of a file: its content.", 0, INT64_MAX},
    {"mode", T_STR, 0, NULL, "Octal.", .example = "\"0644\""},
    {"owner", T_STR, 0, NULL, "Its name, or number."},
    {"group", T_STR, 0, NULL, "Its name, or number."},
    {"modifiedAt", T_TIME, 0, NULL, "When its content was last written."},
    {"target", T_STR, NULLABLE, NULL, "Where a link leads, as it says."},
    FILE_ENCODING,
    {"error", T_STR, OPTIONAL, NULL, "In a list: why a directory was not listed further."},
    {0},
};

const api_field api_file_list_view[] = {
    {"items", T_LIST, 0, "File", "Sorted by name, each before what is in it."},
    {"truncated", T_BOOL, 0, NULL, "There are more than `limit`."},
    {0},
};

const api_field api_file_batch_view[] = {
    {"items", T_LIST, 0, "File", "In the order of the request."},
    {0},
};

const api_field api_unpacked_view[] = {
    {"files", T_INT, 0, NULL, "With links.", 0, INT64_MAX},
    {"directories", T_INT, 0, NULL, "That were made.", 0, INT64_MAX},
    {"bytes", T_INT, 0, NULL, "Of all files.", 0, INT64_MAX},
    {"skipped", T_INT, 0, NULL, "FIFOs and sockets.", 0, INT64_MAX},
    {0},
};

const api_field api_file_ready_view[] = {
    {"type", T_CONST, 0, "ready", "From now on changes are told."},
    {0},
};

const api_field api_file_change_view[] = {
    {"type", T_ENUM, 0, "create,write,remove,rename,chmod", "What happened."},
    {"path", T_STR, 0, NULL, "Where."},
    {"to", T_STR, OPTIONAL, NULL, "Of a `rename`: the new path."},
    FILE_ENCODING,
    {0},
};

const api_field api_file_overflow_view[] = {
    {"type", T_CONST, 0, "overflow", "Changes were missed: list again."},
    {0},
};

const api_field api_file_watch_error_view[] = {
    {"type", T_CONST, 0, "error", "The watch ends here."},
    {"code", T_CODE, 0, NULL, "As in a problem."},
    {"message", T_STR, 0, NULL, "For people."},
    {0},
};
