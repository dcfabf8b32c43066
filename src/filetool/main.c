/* sbx-files: the table of operations. See filetool.h. */
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fail.h"
#include "stream.h"

#ifndef SBX_VERSION
#error "SBX_VERSION must be defined by the build"
#endif

/* What a hostile archive may make its reader ask for. */
#define UNPACK_MEMORY (128ull * MIB)

static const struct {
    const char *name, *args;
    int min_args, max_args;
    bool guarded;    /* it takes back what it made when it is told to end */
    uint64_t memory; /* address space that it may use; 0: no limit */
    ft_op *run;
} ops[] = {
    {"stat", "PATH", 1, 1, false, 0, ft_stat},
    {"list", "PATH DEPTH LIMIT", 3, 3, false, 0, ft_list},
    {"read", "PATH RANGE", 2, 2, false, 0, ft_read},
    {"write", "PATH MODE|- PARENTS SIZE|- [IFMATCH]", 4, 5, true, 0, ft_write},
    {"remove", "PATH RECURSIVE", 2, 2, false, 0, ft_remove},
    {"mkdir", "PATH PARENTS MODE|-", 3, 3, false, 0, ft_mkdir},
    {"move", "FROM TO OVERWRITE", 3, 3, true, 0, ft_move},
    {"copy", "FROM TO OVERWRITE", 3, 3, true, 0, ft_copy},
    {"pack", "PATH tar|tar.gz|zip", 2, 2, false, 0, ft_pack},
    {"unpack", "PATH MAX_BYTES MAX_ENTRIES", 3, 3, true, UNPACK_MEMORY, ft_unpack_op},
    {"watch", "PATH RECURSIVE", 2, 2, false, 0, ft_watch},
    {"batch", "", 0, 0, true, 0, ft_batch},
};

static int usage(void)
{
    (void)fprintf(stderr, "usage: sbx-files --version\n");
    for (size_t i = 0; i < ARRAY_LEN(ops); i++)
        (void)fprintf(stderr, "       sbx-files %s %s\n", ops[i].name, ops[i].args);
    return 2;
}

static int run(size_t op, char **args)
{
    SBX_CLEANUP_VAL(sbx_buf_done) sbx_buf line = SBX_BUF_INIT(32 * KIB);
    ft_err err = {.code = FT_E_IO};
    struct rlimit memory = {ops[op].memory, ops[op].memory}, none = {0, 0};

    (void)signal(SIGPIPE, SIG_IGN);
    /* Names in archives are UTF-8; the C library has this locale built in. */
    (void)setlocale(LC_CTYPE, "C.UTF-8");
    (void)setrlimit(RLIMIT_CORE, &none); /* not into the user's directory */
    if (ops[op].memory)
        (void)setrlimit(RLIMIT_AS, &memory);
    if ((!ops[op].guarded || ft_guard_begin(&err) == 0) && ops[op].run(args, &err) == 0)
        return 0;
    ft_err_line(&err, &line);
    if (line.data && write(STDERR_FILENO, line.data, line.len) < 0)
        return 1; /* nobody is there to be told */
    return 1;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        (void)printf("sbx-files %s\n", SBX_VERSION);
        return 0;
    }
    for (size_t i = 0; argc > 1 && i < ARRAY_LEN(ops); i++)
        if (strcmp(argv[1], ops[i].name) == 0 && argc - 2 >= ops[i].min_args &&
            argc - 2 <= ops[i].max_args)
            return run(i, argv + 2);
    return usage();
}
