#ifndef CHUNKGRPO_SUPPORT_H
#define CHUNKGRPO_SUPPORT_H

#include <stddef.h>

/* Things that Swift cannot say. */

/* The error message of this thread. */
void chunkgrpo_support_set_error(const char *_Nonnull message, size_t length);
const char *_Nonnull chunkgrpo_support_last_error(void);

/* Memory of this thread's, 64-byte aligned, for the length of a pass: two blocks of numbers and what the noise keeps, or as
   many sums as a pass has at a time. */
enum {
    CHUNKGRPO_SUPPORT_BLOCK = 0,
    CHUNKGRPO_SUPPORT_SUMS = 1,
    CHUNKGRPO_SUPPORT_MAX_SUMS = 512,
};
void *_Nonnull chunkgrpo_support_scratch(long part);

/* Which x86-64 level this processor has: 4, 3, or 0 for less or another architecture. */
int chunkgrpo_support_cpu_level(void);

/* Bytes of the last cache before memory. */
long chunkgrpo_support_cache_size(void);

/* Stores past the caches are seen by other threads before what this one stores next. */
static inline void chunkgrpo_support_finish_streams(void) {
#ifdef __SSE__
    __builtin_ia32_sfence();
#endif
}

/* Adds to a number that several threads add to, and returns what it was. */
static inline long chunkgrpo_support_take(long *_Nonnull number, long count) {
    return __atomic_fetch_add(number, count, __ATOMIC_RELAXED);
}

/* Waits, awake, until another thread has given `value` another number than `from`, for this time at the most. */
void chunkgrpo_support_spin(const int *_Nonnull value, int from, long nanoseconds);

/* How many processors this process may run on. */
int chunkgrpo_support_cores(void);

#endif
