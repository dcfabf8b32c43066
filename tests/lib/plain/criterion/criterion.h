/* As much of Criterion as the agent's unit tests use, for processors that Debian's package of it is
 * not installed for: the tests are linked with ../main.c and report as Criterion does. */
#ifndef PLAIN_CRITERION_H
#define PLAIN_CRITERION_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

typedef struct plain_suite {
    void (*init)(void), (*fini)(void);
} plain_suite;

typedef struct plain_test {
    const char *name; /* SUITE::TEST */
    void (*run)(void);
    const plain_suite *suite; /* NULL: it has none */
    double timeout;           /* the runner's applies instead */
    struct plain_test *next;
} plain_test;

void plain_add(plain_test *t);
void plain_check(bool ok, bool fatal, const char *what, const char *file, int line,
                 const char *format, ...) __attribute__((format(printf, 6, 7)));

#define TestSuite(suite, ...) const plain_suite plain_suite_##suite = {__VA_ARGS__}

#define Test(suite_, name_, ...)                                                                   \
    extern const plain_suite plain_suite_##suite_ __attribute__((weak));                           \
    static void plain_##suite_##_##name_(void);                                                    \
    __attribute__((constructor)) static void plain_add_##suite_##_##name_(void)                    \
    {                                                                                              \
        static plain_test t = {.name = #suite_ "::" #name_,                                        \
                               .run = plain_##suite_##_##name_,                                    \
                               .suite = &plain_suite_##suite_,                                     \
                               ##__VA_ARGS__};                                                     \
        plain_add(&t);                                                                             \
    }                                                                                              \
    static void plain_##suite_##_##name_(void)

#define PLAIN(ok, fatal, what, ...)                                                                \
    plain_check(ok, fatal, what, __FILE__, __LINE__, " " __VA_ARGS__)

#define cr_expect(c, ...)           PLAIN(c, false, #c, ##__VA_ARGS__)
#define cr_expect_not(c, ...)       PLAIN(!(c), false, #c, ##__VA_ARGS__)
#define cr_expect_eq(a, b, ...)     PLAIN((a) == (b), false, #a " == " #b, ##__VA_ARGS__)
#define cr_expect_lt(a, b, ...)     PLAIN((a) < (b), false, #a " < " #b, ##__VA_ARGS__)
#define cr_expect_gt(a, b, ...)     PLAIN((a) > (b), false, #a " > " #b, ##__VA_ARGS__)
#define cr_expect_leq(a, b, ...)    PLAIN((a) <= (b), false, #a " <= " #b, ##__VA_ARGS__)
#define cr_expect_geq(a, b, ...)    PLAIN((a) >= (b), false, #a " >= " #b, ##__VA_ARGS__)
#define cr_expect_not_null(p, ...)  PLAIN((p) != NULL, false, #p, ##__VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) PLAIN(strcmp(a, b) == 0, false, #a " equals " #b, ##__VA_ARGS__)
#define cr_assert(c, ...)           PLAIN(c, true, #c, ##__VA_ARGS__)
#define cr_assert_eq(a, b, ...)     PLAIN((a) == (b), true, #a " == " #b, ##__VA_ARGS__)
#define cr_assert_not_null(p, ...)  PLAIN((p) != NULL, true, #p, ##__VA_ARGS__)

#endif
