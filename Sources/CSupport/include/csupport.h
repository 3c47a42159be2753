#ifndef CHUNKGRPO_SUPPORT_H
#define CHUNKGRPO_SUPPORT_H

#include <stddef.h>

/* Things that Swift cannot say. */

/* The error message of this thread. */
void chunkgrpo_support_set_error(const char *_Nonnull message, size_t length);
const char *_Nonnull chunkgrpo_support_last_error(void);

/* Memory of this thread's, 64-byte aligned, for the length of a pass: two blocks of numbers and what the noise keeps,
   or as many sums as a pass has at a time. */
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

/* A number that threads read and write at the same time. */
static inline int chunkgrpo_support_read(const int *_Nonnull number) {
    return __atomic_load_n(number, __ATOMIC_ACQUIRE);
}
static inline void chunkgrpo_support_add(int *_Nonnull number, int count) {
    __atomic_fetch_add(number, count, __ATOMIC_RELEASE);
}
static inline void chunkgrpo_support_write(int *_Nonnull number, int value) {
    __atomic_store_n(number, value, __ATOMIC_RELEASE);
}

/* Waits, awake, until another thread has given `value` another number than `from`, for this time at the most. */
void chunkgrpo_support_spin(const int *_Nonnull value, int from, long nanoseconds);

/* The floating-point modes of a thread: rounding to nearest, subnormals kept, no exception trapped is the default. */
#if defined(__SSE__)
enum { CHUNKGRPO_SUPPORT_DEFAULT_MODE = 0x1F80 };
#else
enum { CHUNKGRPO_SUPPORT_DEFAULT_MODE = 0 };
#endif

/* Takes another mode, and returns the one before. */
static inline unsigned long chunkgrpo_support_use_mode(unsigned long mode) {
#if defined(__SSE__)
    const unsigned before = __builtin_ia32_stmxcsr();
    /* The lowest six bits say only what has happened. */
    if (((before ^ mode) & ~63ul) != 0) __builtin_ia32_ldmxcsr((unsigned)mode);
    return before;
#elif defined(__aarch64__)
    unsigned long before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    if (before != mode) __asm__ volatile("msr fpcr, %0" : : "r"(mode));
    return before;
#else
    return mode;
#endif
}

/* A call into the library begins: the thread takes the default mode, and a fork waits for it. Returns what `leave` is
   to be given. */
typedef struct chunkgrpo_support_visit chunkgrpo_support_visit;
chunkgrpo_support_visit *_Nonnull chunkgrpo_support_enter(void);
void chunkgrpo_support_leave(chunkgrpo_support_visit *_Nonnull visit);

/* Around what waits: for threads, a disk, a callback. A thread that is cancelled there would leave locks behind.
   Returns what it was. */
int chunkgrpo_support_hold_cancellation(void);
void chunkgrpo_support_release_cancellation(int before);

/* Around a callback: the thread is in its own mode, and a fork does not wait for it. */
int chunkgrpo_support_step_out(void);
void chunkgrpo_support_step_in(int before);

/* The same without the mode. */
int chunkgrpo_support_open(void);
void chunkgrpo_support_close(int before);

/* Lets a waiting fork pass, in a place where the thread holds no lock. */
void chunkgrpo_support_rest(void);

/* Around what a thread of the pool does. */
void chunkgrpo_support_begin_part(void);
void chunkgrpo_support_end_part(void);

/* Has `reset` called in every forked child, before anything of the library's. */
void chunkgrpo_support_reset_in_child(void (*_Nonnull reset)(void));

/* Starts a thread, detached. Returns 0 where there is none to be had. */
int chunkgrpo_support_start(void *_Nullable (*_Nonnull body)(void *_Nullable));

/* Whether malloc has so many bytes now. */
int chunkgrpo_support_has_room(size_t bytes);

/* Bytes of the stack of a thread that is started without saying. */
long chunkgrpo_support_stack_size(void);

/* How many processors this process may run on. */
int chunkgrpo_support_cores(void);

#endif
