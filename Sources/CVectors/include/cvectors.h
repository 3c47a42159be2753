#ifndef CHUNKGRPO_VECTORS_H
#define CHUNKGRPO_VECTORS_H

/* Operations on whole vectors. Swift's operators on SIMD8 work lane by lane and leave it to the optimiser to find the
   vectors again, which it does by halves or not at all where shifts, shuffles and products meet. Each function is one
   operation, so that there is nothing to contract; each module of kernels compiles them for its own instruction set. */

#include <stdint.h>

#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpsabi" /* of vectors in calls: all of these are inlined */

/* 64-bit lanes that fill a register. */
#if defined(CHUNKGRPO_AVX512)
#define CHUNKGRPO_COUNTERS 8
#elif defined(CHUNKGRPO_AVX2)
#define CHUNKGRPO_COUNTERS 4
#else
#define CHUNKGRPO_COUNTERS 2
#endif

typedef float chunkgrpo_float8 __attribute__((ext_vector_type(8)));
typedef double chunkgrpo_double8 __attribute__((ext_vector_type(8)));
typedef uint16_t chunkgrpo_ushort8 __attribute__((ext_vector_type(8)));
typedef uint32_t chunkgrpo_uint8 __attribute__((ext_vector_type(8)));
typedef uint16_t chunkgrpo_ushort16 __attribute__((ext_vector_type(16)));
typedef float chunkgrpo_float16 __attribute__((ext_vector_type(16)));
typedef uint32_t chunkgrpo_uint16 __attribute__((ext_vector_type(16)));
typedef int32_t chunkgrpo_int16 __attribute__((ext_vector_type(16)));
typedef uint64_t chunkgrpo_counters __attribute__((ext_vector_type(CHUNKGRPO_COUNTERS)));
typedef uint32_t chunkgrpo_words __attribute__((ext_vector_type(2 * CHUNKGRPO_COUNTERS)));

#define CHUNKGRPO_VECTOR(type, name, expression) \
    static inline __attribute__((always_inline)) type chunkgrpo_##name(type u, type v) { return expression; }

CHUNKGRPO_VECTOR(chunkgrpo_float8, float8_add, u + v)
CHUNKGRPO_VECTOR(chunkgrpo_float8, float8_subtract, u - v)
CHUNKGRPO_VECTOR(chunkgrpo_float8, float8_multiply, u *v)
CHUNKGRPO_VECTOR(chunkgrpo_double8, double8_add, u + v)
CHUNKGRPO_VECTOR(chunkgrpo_double8, double8_subtract, u - v)
CHUNKGRPO_VECTOR(chunkgrpo_double8, double8_multiply, u *v)
CHUNKGRPO_VECTOR(chunkgrpo_uint8, uint8_add, u + v)
CHUNKGRPO_VECTOR(chunkgrpo_uint8, uint8_and, u &v)
CHUNKGRPO_VECTOR(chunkgrpo_uint8, uint8_or, u | v)
CHUNKGRPO_VECTOR(chunkgrpo_uint8, uint8_shift_left, u << v)
CHUNKGRPO_VECTOR(chunkgrpo_uint8, uint8_shift_right, u >> v)

CHUNKGRPO_VECTOR(chunkgrpo_float16, float16_add, u + v)
CHUNKGRPO_VECTOR(chunkgrpo_float16, float16_subtract, u - v)
CHUNKGRPO_VECTOR(chunkgrpo_float16, float16_multiply, u *v)
CHUNKGRPO_VECTOR(chunkgrpo_uint16, uint16_add, u + v)
CHUNKGRPO_VECTOR(chunkgrpo_uint16, uint16_and, u &v)
CHUNKGRPO_VECTOR(chunkgrpo_uint16, uint16_without, u & ~v)
CHUNKGRPO_VECTOR(chunkgrpo_uint16, uint16_or, u | v)
CHUNKGRPO_VECTOR(chunkgrpo_uint16, uint16_xor, u ^ v)
CHUNKGRPO_VECTOR(chunkgrpo_uint16, uint16_shift_left, u << v)
CHUNKGRPO_VECTOR(chunkgrpo_uint16, uint16_shift_right, u >> v)
CHUNKGRPO_VECTOR(chunkgrpo_uint16, uint16_shift_right_signed,
                 (chunkgrpo_uint16)((chunkgrpo_int16)u >> (chunkgrpo_int16)v))
CHUNKGRPO_VECTOR(chunkgrpo_counters, counters_add, u + v)
CHUNKGRPO_VECTOR(chunkgrpo_counters, counters_xor, u ^ v)
CHUNKGRPO_VECTOR(chunkgrpo_counters, counters_shift_right, u >> v)
/* Of the lower halves; a whole lane each. */
CHUNKGRPO_VECTOR(chunkgrpo_counters, counters_multiply, (u & 0xffffffff) * (v & 0xffffffff))
/* The lower halves: two of u, two of v, the next two of u, … */
#define CHUNKGRPO_HALVES(...) __builtin_shufflevector((chunkgrpo_words)u, (chunkgrpo_words)v, __VA_ARGS__)
static inline __attribute__((always_inline)) chunkgrpo_words chunkgrpo_counters_halves(chunkgrpo_counters u,
                                                                                       chunkgrpo_counters v) {
#if CHUNKGRPO_COUNTERS == 8
    return CHUNKGRPO_HALVES(0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30);
#elif CHUNKGRPO_COUNTERS == 4
    return CHUNKGRPO_HALVES(0, 2, 8, 10, 4, 6, 12, 14);
#else
    return CHUNKGRPO_HALVES(0, 2, 4, 6);
#endif
}

#undef CHUNKGRPO_HALVES
#undef CHUNKGRPO_VECTOR

/* Rounded correctly, as IEEE 754 has it. */
static inline __attribute__((always_inline)) chunkgrpo_float16 chunkgrpo_float16_square_root(chunkgrpo_float16 v) {
    return __builtin_elementwise_sqrt(v);
}

/* Of signed numbers, to nearest. */
static inline __attribute__((always_inline)) chunkgrpo_float16 chunkgrpo_float16_from_signed(chunkgrpo_uint16 v) {
    return __builtin_convertvector((chunkgrpo_int16)v, chunkgrpo_float16);
}

static inline __attribute__((always_inline)) chunkgrpo_uint8 chunkgrpo_uint8_from_ushort8(chunkgrpo_ushort8 v) {
    return __builtin_convertvector(v, chunkgrpo_uint8);
}

static inline __attribute__((always_inline)) chunkgrpo_float16 chunkgrpo_float16_from_halves(chunkgrpo_float8 first,
                                                                                             chunkgrpo_float8 last) {
    return __builtin_shufflevector(first, last, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

/* u in the lanes where the highest bit of `sign` is set, else v. */
static inline __attribute__((always_inline)) chunkgrpo_float16
chunkgrpo_float16_choose(chunkgrpo_uint16 sign, chunkgrpo_float16 u, chunkgrpo_float16 v) {
    return (chunkgrpo_int16)sign < 0 ? u : v;
}

/* ---- bfloat16: the upper halves of floats, of which the lower ones are below ---- */

#define CHUNKGRPO_BFLOAT16(type, name, ...) \
    static inline __attribute__((always_inline)) type chunkgrpo_bfloat16_##name(__VA_ARGS__)

#if defined(CHUNKGRPO_AVX512)

/* Instructions by their names: LLVM writes two or three for each, and a kernel takes a fifth longer. */

/* The odd ones of sixteen; zeros below. */
CHUNKGRPO_BFLOAT16(chunkgrpo_uint8, odd, const void *_Nonnull p) {
    chunkgrpo_uint8 odd;
    __asm__("vmovdqu16 %1, %0%{%2%}%{z%}" : "=v"(odd) : "m"(*(const char(*)[32])p), "Yk"((uint16_t)0xaaaa));
    return odd;
}

/* The words of u and v that `numbers` names: 0 … 15 are those of u. */
CHUNKGRPO_BFLOAT16(chunkgrpo_ushort16, words, chunkgrpo_uint8 u, chunkgrpo_uint8 v, chunkgrpo_ushort16 numbers) {
    __asm__("vpermt2w %2, %1, %0" : "+v"(u) : "v"(numbers), "v"(v));
    return (chunkgrpo_ushort16)u;
}

/* To nearest: up where below is 0x8001 or more, and at a tie, 0x8000, where that makes an even number. */
CHUNKGRPO_BFLOAT16(chunkgrpo_ushort16, round, chunkgrpo_ushort16 upper, chunkgrpo_ushort16 lower) {
    chunkgrpo_ushort16 least = (upper & 1) ^ 0x8001, minusOne = 0xffff;
    uint16_t up;
    __asm__("vpcmpnltuw %2, %1, %0" : "=Yk"(up) : "v"(lower), "v"(least));
    __asm__("vpsubw %2, %0, %0%{%1%}" : "+v"(upper) : "Yk"(up), "v"(minusOne));
    return upper;
}

/* Of eight even and eight odd elements. */
CHUNKGRPO_BFLOAT16(chunkgrpo_ushort16, from_split, chunkgrpo_uint8 even, chunkgrpo_uint8 odd) {
    chunkgrpo_uint8 upper = even >> 16 | (odd & 0xffff0000), lower = (even & 0xffff) | odd << 16;
    return chunkgrpo_bfloat16_round((chunkgrpo_ushort16)upper, (chunkgrpo_ushort16)lower);
}

/* Of the first and the last eight elements. */
CHUNKGRPO_BFLOAT16(chunkgrpo_ushort16, from_halves, chunkgrpo_uint8 first, chunkgrpo_uint8 last) {
    chunkgrpo_ushort16 below = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    return chunkgrpo_bfloat16_round(chunkgrpo_bfloat16_words(first, last, below + 1),
                                    chunkgrpo_bfloat16_words(first, last, below));
}

#else

CHUNKGRPO_BFLOAT16(chunkgrpo_uint8, odd, const void *_Nonnull p) {
    typedef chunkgrpo_uint8 anywhere __attribute__((aligned(1), may_alias));
    return *(const anywhere *)p & 0xffff0000;
}

/* To nearest, ties to even: half of the last place, less a bit where the number above is even, carries into it. */
CHUNKGRPO_BFLOAT16(chunkgrpo_uint8, round, chunkgrpo_uint8 v) { return v + 0x7fff + (v >> 16 & 1); }

CHUNKGRPO_BFLOAT16(chunkgrpo_ushort16, from_split, chunkgrpo_uint8 even, chunkgrpo_uint8 odd) {
    return (chunkgrpo_ushort16)(chunkgrpo_bfloat16_round(even) >> 16 | (chunkgrpo_bfloat16_round(odd) & 0xffff0000));
}

CHUNKGRPO_BFLOAT16(chunkgrpo_ushort16, from_halves, chunkgrpo_uint8 first, chunkgrpo_uint8 last) {
    chunkgrpo_ushort8 u = __builtin_convertvector(chunkgrpo_bfloat16_round(first) >> 16, chunkgrpo_ushort8);
    chunkgrpo_ushort8 v = __builtin_convertvector(chunkgrpo_bfloat16_round(last) >> 16, chunkgrpo_ushort8);
    return __builtin_shufflevector(u, v, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

#endif
#undef CHUNKGRPO_BFLOAT16

/* ---- IEEE halves ---- */

#if defined(CHUNKGRPO_AVX2)

typedef _Float16 chunkgrpo_half8 __attribute__((ext_vector_type(8)));

static inline __attribute__((always_inline)) chunkgrpo_float8 chunkgrpo_float8_from_half8(chunkgrpo_ushort8 v) {
    return __builtin_convertvector((chunkgrpo_half8)v, chunkgrpo_float8);
}

static inline __attribute__((always_inline)) chunkgrpo_ushort8 chunkgrpo_half8_from_float8(chunkgrpo_float8 v) {
    return (chunkgrpo_ushort8) __builtin_convertvector(v, chunkgrpo_half8);
}

#else

/* By integer arithmetic: without an instruction for it, a conversion is a library call per element. */

/* All ones in the lanes where the highest bit is set. */
static inline __attribute__((always_inline)) chunkgrpo_uint8 chunkgrpo_uint8_spread_sign(chunkgrpo_uint8 v) {
    typedef int32_t signed8 __attribute__((ext_vector_type(8)));
    return (chunkgrpo_uint8)((signed8)v >> 31);
}

static inline __attribute__((always_inline)) chunkgrpo_float8 chunkgrpo_float8_from_half8(chunkgrpo_ushort8 v) {
    chunkgrpo_uint8 bits = __builtin_convertvector(v, chunkgrpo_uint8);
    chunkgrpo_uint8 magnitude = (bits & 0x7fff) << 13, exponent = magnitude & 0x0f800000;
    chunkgrpo_uint8 special = chunkgrpo_uint8_spread_sign(0x0f7fffff - exponent); /* infinity and NaN */
    chunkgrpo_uint8 subnormal = chunkgrpo_uint8_spread_sign(exponent - 1);        /* zero too */
    chunkgrpo_uint8 normal = magnitude + (112u << 23) + (special & (112u << 23));
    chunkgrpo_uint8 tiny = (chunkgrpo_uint8)((chunkgrpo_float8)(magnitude + (113u << 23)) - 0x1p-14f);
    return (chunkgrpo_float8)((normal & ~subnormal) | (tiny & subnormal) | (bits & 0x8000) << 16);
}

/* To nearest, ties to even. */
static inline __attribute__((always_inline)) chunkgrpo_ushort8 chunkgrpo_half8_from_float8(chunkgrpo_float8 v) {
    chunkgrpo_uint8 bits = (chunkgrpo_uint8)v, magnitude = bits & 0x7fffffff;
    chunkgrpo_uint8 nan = chunkgrpo_uint8_spread_sign(0x7f800000 - magnitude);
    chunkgrpo_uint8 large = chunkgrpo_uint8_spread_sign(0x477fffff - magnitude); /* 65536 and more */
    chunkgrpo_uint8 small = chunkgrpo_uint8_spread_sign(magnitude - 0x38800000); /* below 2^-14 */
    chunkgrpo_uint8 normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    chunkgrpo_uint8 tiny = (chunkgrpo_uint8)((chunkgrpo_float8)(magnitude & small) + 0.5f) - 0x3f000000;
    chunkgrpo_uint8 finite = (normal & ~small) | (tiny & small);
    chunkgrpo_uint8 half = (finite & ~large) | (large & (0x7c00 | (nan & 0x0200))) | (bits >> 16 & 0x8000);
    return __builtin_convertvector(half & 0xffff, chunkgrpo_ushort8);
}

#endif

/* Past the caches, to a 32-byte boundary. */
static inline __attribute__((always_inline)) void chunkgrpo_uint8_stream(chunkgrpo_uint8 v, void *_Nonnull p) {
    __builtin_nontemporal_store(v, (chunkgrpo_uint8 *)p);
}

#pragma clang diagnostic pop

#endif
