#ifndef CHUNKGRPO_VECTORS_H
#define CHUNKGRPO_VECTORS_H

/* Operations on whole vectors. Swift's operators on SIMD8 work lane by lane and leave it to the optimiser to find the
   vectors again, which it does by halves or not at all where shifts, shuffles and products meet. Each function is one
   operation, so that there is nothing to contract; each module of kernels compiles them for its own instruction set. */

#include <stdint.h>

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

/* The lower halves. */
static inline __attribute__((always_inline)) chunkgrpo_ushort8 chunkgrpo_ushort8_from_uint8(chunkgrpo_uint8 v) {
    return __builtin_convertvector(v, chunkgrpo_ushort8);
}

/* u in the lanes where the highest bit of `sign` is set, else v. */
static inline __attribute__((always_inline)) chunkgrpo_float16
chunkgrpo_float16_choose(chunkgrpo_uint16 sign, chunkgrpo_float16 u, chunkgrpo_float16 v) {
    return (chunkgrpo_int16)sign < 0 ? u : v;
}

/* Past the caches, to a 32-byte boundary. */
static inline __attribute__((always_inline)) void chunkgrpo_uint8_stream(chunkgrpo_uint8 v, void *_Nonnull p) {
    __builtin_nontemporal_store(v, (chunkgrpo_uint8 *)p);
}

#endif
