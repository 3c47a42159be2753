#define _GNU_SOURCE
#include "csupport.h"

#include <sched.h>
#include <string.h>
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
    /* Two blocks of 1,024 numbers of at most 8 bytes; three numbers a unit. */
    static _Thread_local _Alignas(64) unsigned char block[2 * 1024 * 8];
    static _Thread_local _Alignas(64) unsigned char sums[CHUNKGRPO_SUPPORT_UNITS * 3 * sizeof(double)];
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

int chunkgrpo_support_cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}
