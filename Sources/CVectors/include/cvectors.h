#ifndef CHUNKGRPO_VECTORS_H
#define CHUNKGRPO_VECTORS_H

/* Operations on whole vectors. Swift's operators on SIMD8 work lane by lane and leave it to the optimiser to find the
   vectors again, which it does by halves or not at all where shifts, shuffles and products meet. Each function is one
   operation, so that there is nothing to contract; each module of kernels compiles them for its own instruction set. */

#include <stdint.h>

/* Lanes of what fills the registers. */
#ifdef CHUNKGRPO_AVX512
#define CHUNKGRPO_LANES 16
#else
#define CHUNKGRPO_LANES 8
#endif

typedef float chunkgrpo_float8 __attribute__((ext_vector_type(8)));
typedef double chunkgrpo_double8 __attribute__((ext_vector_type(8)));
typedef uint32_t chunkgrpo_uint8 __attribute__((ext_vector_type(8)));
typedef float chunkgrpo_floats __attribute__((ext_vector_type(CHUNKGRPO_LANES)));
typedef uint32_t chunkgrpo_words __attribute__((ext_vector_type(CHUNKGRPO_LANES)));
typedef int32_t chunkgrpo_integers __attribute__((ext_vector_type(CHUNKGRPO_LANES)));
typedef uint64_t chunkgrpo_counters __attribute__((ext_vector_type(CHUNKGRPO_LANES / 2)));

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

CHUNKGRPO_VECTOR(chunkgrpo_floats, floats_add, u + v)
CHUNKGRPO_VECTOR(chunkgrpo_floats, floats_subtract, u - v)
CHUNKGRPO_VECTOR(chunkgrpo_floats, floats_multiply, u *v)
CHUNKGRPO_VECTOR(chunkgrpo_words, words_add, u + v)
CHUNKGRPO_VECTOR(chunkgrpo_words, words_subtract, u - v)
CHUNKGRPO_VECTOR(chunkgrpo_words, words_and, u &v)
CHUNKGRPO_VECTOR(chunkgrpo_words, words_or, u | v)
CHUNKGRPO_VECTOR(chunkgrpo_words, words_xor, u ^ v)
CHUNKGRPO_VECTOR(chunkgrpo_words, words_shift_left, u << v)
CHUNKGRPO_VECTOR(chunkgrpo_words, words_shift_right, u >> v)
CHUNKGRPO_VECTOR(chunkgrpo_words, words_shift_right_signed, (chunkgrpo_words)((chunkgrpo_integers)u >> (chunkgrpo_integers)v))
CHUNKGRPO_VECTOR(chunkgrpo_counters, counters_add, u + v)
CHUNKGRPO_VECTOR(chunkgrpo_counters, counters_xor, u ^ v)
CHUNKGRPO_VECTOR(chunkgrpo_counters, counters_shift_right, u >> v)
/* Of the lower halves; a whole lane each. */
CHUNKGRPO_VECTOR(chunkgrpo_counters, counters_multiply, (u & 0xffffffff) * (v & 0xffffffff))
/* The even words of u and of v, in turns. */
#if CHUNKGRPO_LANES == 16
CHUNKGRPO_VECTOR(chunkgrpo_words, words_evens,
                 __builtin_shufflevector(u, v, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30))
#else
CHUNKGRPO_VECTOR(chunkgrpo_words, words_evens, __builtin_shufflevector(u, v, 0, 8, 2, 10, 4, 12, 6, 14))
#endif

#undef CHUNKGRPO_VECTOR

/* Rounded correctly, as IEEE 754 has it. */
static inline __attribute__((always_inline)) chunkgrpo_floats chunkgrpo_floats_square_root(chunkgrpo_floats v) {
    return __builtin_elementwise_sqrt(v);
}

#endif
