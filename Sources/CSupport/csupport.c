#define _GNU_SOURCE
#include "csupport.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static _Thread_local char message[1024];

void chunkgrpo_support_set_error(const char *text, size_t length) {
    if (length >= sizeof message) {
        length = sizeof message - 1;
        /* Not in the middle of a UTF-8 character. */
        while (length > 0 && ((unsigned char)text[length] & 0xC0) == 0x80) length--;
    }
    memcpy(message, text, length);
    message[length] = '\0';
}

const char *chunkgrpo_support_last_error(void) { return message; }

void *chunkgrpo_support_scratch(long part) {
    /* Two blocks of 1,024 numbers of at most 8 bytes and twenty vectors of the noise's; three numbers a sum. */
    static _Thread_local _Alignas(64) unsigned char block[2 * 1024 * 8 + 20 * 64];
    static _Thread_local _Alignas(64) unsigned char sums[CHUNKGRPO_SUPPORT_MAX_SUMS * 3 * sizeof(double)];
    return part == CHUNKGRPO_SUPPORT_BLOCK ? block : sums;
}

int chunkgrpo_support_cpu_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4")) return 4;
    if (__builtin_cpu_supports("x86-64-v3")) return 3;
#endif
    return 0;
}

/* From the processor, for the C library adds up the caches of all its parts. */
long chunkgrpo_support_cache_size(void) {
    long size = 0;
#if defined(__x86_64__)
    for (unsigned leaf = 4; leaf <= 0x8000001d && size == 0; leaf += 0x8000001d - 4) { /* Intel's, AMD's */
        unsigned a, b, c, d;
        for (unsigned i = 0; i < 8 && __get_cpuid_count(leaf, i, &a, &b, &c, &d) && (a & 31) != 0; i++)
            if ((a >> 5 & 7) >= 2)
                size = (long)((b >> 22) + 1) * ((b >> 12 & 1023) + 1) * ((b & 4095) + 1) * ((long)c + 1);
    }
#endif
    return size > 0 ? size : 32L << 20;
}

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return 1000000000L * time.tv_sec + time.tv_nsec;
}

void chunkgrpo_support_spin(const int *value, int from, long nanoseconds) {
    const long end = now() + nanoseconds;
    do {
        for (int i = 0; i < 16; i++) {
            if (__atomic_load_n(value, __ATOMIC_ACQUIRE) != from) return;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            __asm__ volatile("yield");
#endif
        }
    } while (now() < end);
}

int chunkgrpo_support_has_room(size_t bytes) {
    void *volatile memory = malloc(bytes); /* volatile: the compiler may leave out what is not used */
    const int has = memory != NULL || bytes == 0;
    free(memory);
    return has;
}

long chunkgrpo_support_stack_size(void) {
    pthread_attr_t attributes;
    size_t size = 8 << 20;
    if (pthread_attr_init(&attributes) != 0) return (long)size;
    pthread_attr_getstacksize(&attributes, &size);
    pthread_attr_destroy(&attributes);
    return (long)size;
}

int chunkgrpo_support_cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}
