/* Buffers with a page before and after that nobody may touch, and numbers that depend on the seed alone. */
#ifndef MEMORY_H
#define MEMORY_H

#define _GNU_SOURCE
#include "../c/arrays.h"

#include <sys/mman.h>
#include <unistd.h>

static uint64_t random_state;
/* Under libFuzzer its input decides first, as long as there is some. */
static const uint8_t *chosen;
static size_t chosen_left;

static inline uint64_t bits(void) {
    if (chosen_left > 0) return chosen_left--, (uint64_t)(*chosen++ + 1) * 0x9e3779b97f4a7c15u;
    random_state ^= random_state << 13, random_state ^= random_state >> 7;
    return (random_state ^= random_state << 17) * 0x2545f4914f6cdd1du;
}
static inline int64_t below(int64_t limit) { return (int64_t)((bits() >> 11) % (uint64_t)limit); }
static inline int one_in(int64_t n) { return below(n) == 0; }
static inline double unit(void) { return (double)(bits() >> 11) / 9007199254740992.0; }

/* Mostly numbers as callers have them, sometimes at an edge. `bad`: NaN and infinity too. */
static inline double number_drawn(int bad) {
    static const double edges[] = {0, -0.0, 1, -1, 1e-30, 1e30, 5e-324, 1e308, 65504, 0.5, -700, 700};
    if (bad && one_in(6)) return one_in(2) ? (double)NAN : one_in(2) ? (double)INFINITY : -(double)INFINITY;
    return one_in(40) ? edges[below(12)] : 2 * unit() - 1;
}
/* libFuzzer's input chooses calls and arguments, and not each number of an array. */
static inline double number(int bad) {
    const size_t left = chosen_left;
    chosen_left = 0;
    const double value = number_drawn(bad);
    chosen_left = left;
    return value;
}

/* Slots of memory, each between two guard pages. A call takes as many as it has arrays; the next begins again. */
enum { SLOTS = 32, PAGES = 8, PAGE = 4096, ROOM = PAGES * PAGE, MARGIN = 64, PAINT = 0xa5 };
static unsigned char *slots;
static struct slot {
    unsigned char *data;
    size_t size;
    uint64_t before; /* digest of an input, which may not change */
    int is_input;
} used[SLOTS];
static int used_count;

static inline uint64_t digest_of(const void *data, size_t size) {
    const unsigned char *byte = (const unsigned char *)data;
    uint64_t digest = 0x9e3779b97f4a7c15u, word;
    for (; size >= 8; size -= 8, byte += 8)
        memcpy(&word, byte, 8), digest = (digest ^ word) * 0xff51afd7ed558ccdu, digest ^= digest >> 29;
    for (; size > 0; size--) digest = (digest ^ *byte++) * 0x100000001b3u;
    return digest ^ digest >> 31;
}

static inline void memory_prepare(void) {
    size_t stride = (PAGES + 1) * PAGE;
    slots =
        (unsigned char *)mmap(NULL, SLOTS * stride + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (slots == MAP_FAILED) abort();
    for (int i = 0; i <= SLOTS; i++) mprotect(slots + (size_t)i * stride, PAGE, PROT_NONE);
}

/* `size` bytes against the guard page behind them, or that before them. The bytes beside them are painted. */
static inline void *take(size_t size) {
    if (used_count == SLOTS || size > ROOM - MARGIN) abort();
    unsigned char *start = slots + (size_t)used_count * (PAGES + 1) * PAGE + PAGE;
    struct slot *slot = &used[used_count++];
    int at_end = one_in(2);
    slot->data = at_end ? start + ROOM - size : start, slot->size = size, slot->is_input = 0;
    memset(at_end ? slot->data - MARGIN : slot->data + size, PAINT, MARGIN);
    return slot->data;
}

static inline const char *memory_harm(void) {
    for (int i = 0; i < used_count; i++) {
        unsigned char *start = slots + (size_t)i * (PAGES + 1) * PAGE + PAGE;
        unsigned char *margin = used[i].data == start ? used[i].data + used[i].size : used[i].data - MARGIN;
        for (int k = 0; k < MARGIN; k++)
            if (margin[k] != PAINT) return "a byte beside a buffer was written";
        if (used[i].is_input && digest_of(used[i].data, used[i].size) != used[i].before) return "an input was written";
    }
    return NULL;
}

/* The latest buffer is an input, and is complete. */
static inline void *input(void *data) {
    struct slot *slot = &used[used_count - 1];
    slot->is_input = 1, slot->before = digest_of(slot->data, slot->size);
    return data;
}

static inline double *output(int64_t count) { return (double *)take((size_t)count * 8); }

static int bad_numbers; /* in this call's arrays */
static inline double *numbers(int64_t count) {
    double *values = (double *)take((size_t)count * 8);
    for (int64_t i = 0; i < count; i++) values[i] = number(bad_numbers);
    return (double *)input(values);
}
static inline double *positive_numbers(int64_t count) {
    double *values = (double *)take((size_t)count * 8);
    for (int64_t i = 0; i < count; i++) values[i] = fabs(number(bad_numbers));
    return (double *)input(values);
}
static inline int64_t *integers(int64_t count, int64_t limit) {
    int64_t *values = (int64_t *)take((size_t)count * 8);
    for (int64_t i = 0; i < count; i++) values[i] = below(limit);
    return (int64_t *)input(values);
}
static inline uint8_t *flags(int64_t count) {
    uint8_t *values = (uint8_t *)take((size_t)count);
    for (int64_t i = 0; i < count; i++) values[i] = !one_in(4);
    return (uint8_t *)input(values);
}

#endif
