/* A tiny test frame: CHECK… inside functions that RUN calls, then `return finish("name")`. */
#ifndef CHECK_H
#define CHECK_H

#include <chunkgrpo.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline cgrpo_status shifted_schedule(int64_t steps, double shift, double *sigmas) {
    cgrpo_schedule_options options;
    cgrpo_schedule_options_init(&options, sizeof options);
    options.shift = shift;
    return cgrpo_schedule_make(steps, &options, sigmas);
}

static int check_passed, check_failed, check_wrong;

static inline int check_that(int holds, const char *what, const char *file, int line) {
    if (!holds) {
        check_wrong++;
        printf("%s:%d: not true: %s\n", file, line, what);
    }
    return holds;
}

/* Relative to the larger of 1 and the expected size. NaN is near nothing. */
static inline int check_near(double value, double expected, double tolerance, const char *what, const char *file,
                             int line) {
    double scale = fabs(expected) > 1 ? fabs(expected) : 1;
    if (fabs(value - expected) <= tolerance * scale) return 1;
    check_wrong++;
    printf("%s:%d: %s is %.17g, expected %.17g within %g\n", file, line, what, value, expected, tolerance);
    return 0;
}

static inline int check_ok(cgrpo_status status, const char *what, const char *file, int line) {
    if (status == CGRPO_OK) return 1;
    check_wrong++;
    printf("%s:%d: %s: %s: %s\n", file, line, what, cgrpo_status_name(status), cgrpo_last_error());
    return 0;
}

static inline int check_contains(const char *text, const char *word, size_t length) {
    for (; strlen(text) >= length; text++)
        if (strncmp(text, word, length) == 0) return 1;
    return 0;
}

/* A failing call: its status, and a sentence that holds one of `words`, which are parted by '|'. */
static inline int check_refused(cgrpo_status status, cgrpo_status expected, const char *words, const char *what,
                                const char *file, int line) {
    const char *message = cgrpo_last_error(), *word = words;
    int named = 0;
    while (*word != 0 && !named) {
        size_t length = strcspn(word, "|");
        named = check_contains(message, word, length);
        word += length + (word[length] == '|');
    }
    if (status == expected && named && strchr(message, ' ') != NULL) return 1;
    check_wrong++;
    printf("%s:%d: %s\n    returned %s \"%s\",\n    expected %s with the word \"%s\"\n", file, line, what,
           cgrpo_status_name(status), status == CGRPO_OK ? "" : message, cgrpo_status_name(expected), words);
    return 0;
}

#define CHECK(condition) check_that((condition) != 0, #condition, __FILE__, __LINE__)
#define CHECK_NEAR(value, expected, tolerance) check_near(value, expected, tolerance, #value, __FILE__, __LINE__)
#define CHECK_OK(call) check_ok(call, #call, __FILE__, __LINE__)
#define CHECK_REFUSED(call, status, words) check_refused(call, status, words, #call, __FILE__, __LINE__)
#define CHECK_SAME_BITS(left, right, bytes) CHECK(memcmp(left, right, bytes) == 0)

#define RUN(test)                                          \
    do {                                                   \
        check_wrong = 0;                                   \
        test();                                            \
        if (check_wrong == 0) check_passed++;              \
        else check_failed++, printf("FAILED %s\n", #test); \
        fflush(stdout);                                    \
    } while (0)

/* A test with a limit on memory or time, which a sanitizer exceeds. */
#ifdef SANITIZED
#define RUN_NATIVELY(test) ((void)test)
#else
#define RUN_NATIVELY(test) RUN(test)
#endif

static inline int finish(const char *name) {
    printf("%s: %d passed, %d failed\n", name, check_passed, check_failed);
    return check_failed != 0;
}

#endif
