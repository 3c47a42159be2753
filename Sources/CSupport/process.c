#define _GNU_SOURCE
#include "csupport.h"

#include <pthread.h>
#include <time.h>

/* A call into the library is a visit of another's process. While it lasts, the thread computes in the default
 * floating-point mode, and is not cancelled where it waits; and a fork waits for it, for a short time: a child has none
 * of its parent's other threads, and a lock of the Swift runtime or of OpenBLAS that one of them held would never be
 * free again. Around callbacks and at the rests of a long pass, a fork need not wait. */

enum { SHARDS = 16, RESETS = 4 };

/* Threads that are inside, counted in several places, so that threads do not wait for each other's. */
static struct { _Alignas(64) long inside; } shards[SHARDS];
/* Forks that are under way. */
static int forks;
static void (*resets[RESETS])(void);

/* How many calls this thread is in, and the mode that it came in. */
struct chunkgrpo_support_visit {
    int depth;
    unsigned long mode;
};
static _Thread_local chunkgrpo_support_visit here = {0, CHUNKGRPO_SUPPORT_DEFAULT_MODE};

static long *shard(const chunkgrpo_support_visit *visit) {
    return &shards[(unsigned long)visit >> 12 & (SHARDS - 1)].inside;
}

static void pause_shortly(void) {
    const struct timespec time = {0, 20000};
    const int cancel = chunkgrpo_support_hold_cancellation();
    nanosleep(&time, NULL);
    chunkgrpo_support_release_cancellation(cancel);
}

static void begin(const chunkgrpo_support_visit *visit) {
    /* Either this thread sees the fork, or the fork sees this thread. */
    while (__atomic_fetch_add(shard(visit), 1, __ATOMIC_SEQ_CST), __atomic_load_n(&forks, __ATOMIC_SEQ_CST) != 0) {
        __atomic_fetch_sub(shard(visit), 1, __ATOMIC_RELEASE);
        while (__atomic_load_n(&forks, __ATOMIC_ACQUIRE) != 0) pause_shortly();
    }
}

static void end(const chunkgrpo_support_visit *visit) { __atomic_fetch_sub(shard(visit), 1, __ATOMIC_RELEASE); }

int chunkgrpo_support_open(void) {
    const int before = here.depth;
    here.depth = 0;
    if (before > 0) end(&here);
    return before;
}

void chunkgrpo_support_close(int before) {
    if (before > 0) begin(&here);
    here.depth = before;
}

void chunkgrpo_support_rest(void) {
    if (__atomic_load_n(&forks, __ATOMIC_RELAXED) != 0) chunkgrpo_support_close(chunkgrpo_support_open());
}

void chunkgrpo_support_begin_part(void) {
    if (here.depth == 0) begin(&here);
    here.depth++;
}

void chunkgrpo_support_end_part(void) {
    if (--here.depth == 0) end(&here);
}

int chunkgrpo_support_hold_cancellation(void) {
    int before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    return before;
}

void chunkgrpo_support_release_cancellation(int before) { pthread_setcancelstate(before, &before); }

chunkgrpo_support_visit *chunkgrpo_support_enter(void) {
    chunkgrpo_support_visit *visit = &here;
    visit->mode = chunkgrpo_support_use_mode(CHUNKGRPO_SUPPORT_DEFAULT_MODE);
    if (visit->depth++ == 0) begin(visit);
    return visit;
}

void chunkgrpo_support_leave(chunkgrpo_support_visit *visit) {
    if (--visit->depth == 0) end(visit);
    chunkgrpo_support_use_mode(visit->mode);
}

int chunkgrpo_support_step_out(void) {
    const int before = chunkgrpo_support_open();
    chunkgrpo_support_use_mode(here.mode);
    return before;
}

void chunkgrpo_support_step_in(int before) {
    /* The callback may have chosen another mode, which is then the host's. */
    here.mode = chunkgrpo_support_use_mode(CHUNKGRPO_SUPPORT_DEFAULT_MODE);
    chunkgrpo_support_close(before);
}

/* MARK: fork */

static long others(void) {
    long count = here.depth > 0 ? -1 : 0;
    for (int i = 0; i < SHARDS; i++) count += __atomic_load_n(&shards[i].inside, __ATOMIC_SEQ_CST);
    return count;
}

static long milliseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return 1000L * time.tv_sec + time.tv_nsec / 1000000;
}

/* For two seconds at the most: a call that takes longer, such as one that waits for a disk, has long met its locks. */
static void before_fork(void) {
    const long last = milliseconds() + 2000;
    __atomic_fetch_add(&forks, 1, __ATOMIC_SEQ_CST);
    while (others() > 0 && milliseconds() < last) pause_shortly();
}

static void in_parent(void) { __atomic_fetch_sub(&forks, 1, __ATOMIC_RELEASE); }

static void in_child(void) {
    forks = 0;
    for (int i = 0; i < SHARDS; i++) shards[i].inside = 0;
    if (here.depth > 0) *shard(&here) = 1;
    for (int i = 0; i < RESETS && resets[i] != NULL; i++) resets[i]();
}

void chunkgrpo_support_reset_in_child(void (*reset)(void)) {
    for (int i = 0; i < RESETS; i++) {
        void (*none)(void) = NULL;
        if (__atomic_compare_exchange_n(&resets[i], &none, reset, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return;
    }
}

/* At load, and not in a first call: a fork in another thread would wait for that call, and it for the fork. */
__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(before_fork, in_parent, in_child); }

/* MARK: threads */

int chunkgrpo_support_start(void *(*body)(void *)) {
    pthread_attr_t attributes;
    pthread_t thread;
    if (pthread_attr_init(&attributes) != 0) return 0;
    /* Of its own size: the default is the host's `ulimit -s`, which may be too little or far too much. */
    int started = pthread_attr_setstacksize(&attributes, 1 << 20) == 0 &&
                  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0 &&
                  pthread_create(&thread, &attributes, body, NULL) == 0;
    pthread_attr_destroy(&attributes);
    return started;
}
