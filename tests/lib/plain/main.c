/* Runs the tests of plain/criterion.h, each in a process of its own.
 *
 *     --list            prints them as Criterion does
 *     --tap=FILE        writes the results there
 *     --filter=@(A|B)   only SUITE/TEST that are named
 *
 * Everything else is ignored. */
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static plain_test *tests, **last = &tests;
static bool failed; /* in the process of a test */

void plain_add(plain_test *t)
{
    *last = t;
    last = &t->next;
}

void plain_check(bool ok, bool fatal, const char *what, const char *file, int line,
                 const char *format, ...)
{
    va_list args;

    if (ok)
        return;
    va_start(args, format);
    (void)fprintf(stderr, "%s:%d: %s:", file, line, what);
    (void)vfprintf(stderr, format, args);
    (void)fprintf(stderr, "\n");
    va_end(args);
    failed = true;
    if (fatal)
        exit(1);
}

static void list(void)
{
    for (const plain_test *t = tests; t; t = t->next) {
        int suite = (int)(strstr(t->name, "::") - t->name);

        (void)printf("%.*s:\n    %s\n", suite, t->name, t->name + suite + 2);
    }
}

/* Is the test one of "@(SUITE/TEST|..)"? */
static bool chosen(const plain_test *t, const char *filter)
{
    char name[256], *colons;
    const char *at;
    size_t len;

    if (!filter)
        return true;
    (void)snprintf(name, sizeof name, "%s", t->name);
    colons = strstr(name, "::");
    *colons = '/';
    memmove(colons + 1, colons + 2, strlen(colons + 2) + 1);
    len = strlen(name);
    for (at = filter; (at = strstr(at, name)); at += len)
        if ((at[len] == '|' || at[len] == ')') && at > filter && (at[-1] == '|' || at[-1] == '('))
            return true;
    return false;
}

static bool run(const plain_test *t)
{
    int status = -1;
    pid_t child = fork();

    if (child == 0) {
        if (t->suite && t->suite->init)
            t->suite->init();
        t->run();
        if (t->suite && t->suite->fini)
            t->suite->fini();
        exit(failed ? 1 : 0);
    }
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

int main(int argc, char **argv)
{
    const char *filter = NULL;
    FILE *tap = stdout;
    size_t ran = 0, bad = 0;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--list") == 0) {
            list();
            return 0;
        }
        if (strncmp(argv[i], "--tap=", 6) == 0)
            tap = fopen(argv[i] + 6, "w");
        if (strncmp(argv[i], "--filter=", 9) == 0)
            filter = argv[i] + 9;
    }
    if (!tap)
        return 2;
    (void)setvbuf(tap, NULL, _IOLBF, 0); /* a test's process must not write it again */
    for (const plain_test *t = tests; t; t = t->next) {
        bool ok;

        if (!chosen(t, filter))
            continue;
        ok = run(t);
        (void)fprintf(tap, "%s - %s\n", ok ? "ok" : "not ok", t->name);
        ran++;
        bad += !ok;
    }
    (void)fprintf(tap, "1..%zu\n", ran);
    return bad > 0;
}
