// What the kernels take from a compiler: a header for each, with the same names.
//
// Arithmetic is by functions, because a bare + or * may be contracted into a fused multiply-add, which has other bits.
#pragma once

#include <stdint.h>

typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;

#if defined(CHUNKGRPO_EMULATED)
#include "emulated.h"
#elif defined(__HIP__)
#include "target_hip.h"
#else
#include "target_cuda.h"
#endif

#define CHUNKGRPO_DEVICE __device__ __forceinline__
#define CHUNKGRPO_LAMBDA __attribute__((always_inline))

CHUNKGRPO_DEVICE u32 bits(float v) { return __builtin_bit_cast(u32, v); }
CHUNKGRPO_DEVICE u64 bits(double v) { return __builtin_bit_cast(u64, v); }
CHUNKGRPO_DEVICE float number(u32 v) { return __builtin_bit_cast(float, v); }
CHUNKGRPO_DEVICE double number(u64 v) { return __builtin_bit_cast(double, v); }

CHUNKGRPO_DEVICE float magnitude(float v) { return number(bits(v) & 0x7fffffffu); }
CHUNKGRPO_DEVICE double magnitude(double v) { return number(bits(v) & (u64)0x7fffffffffffffff); }

CHUNKGRPO_DEVICE bool is_finite(float v) { return (bits(v) & 0x7f800000u) != 0x7f800000u; }
CHUNKGRPO_DEVICE bool is_finite(double v) { return ((u32)(bits(v) >> 32) & 0x7ff00000u) != 0x7ff00000u; }

CHUNKGRPO_DEVICE u32 high_product(u32 a, u32 b) { return (u32)(((u64)a * b) >> 32); }

// A double from another lane.
CHUNKGRPO_DEVICE double shuffle_xor(double v, int mask) {
    const u32 low = shuffle_xor((u32)bits(v), mask), high = shuffle_xor((u32)(bits(v) >> 32), mask);
    return number((u64)high << 32 | low);
}

CHUNKGRPO_DEVICE double shuffle_from(double v, int lane) {
    const u32 low = shuffle_from((u32)bits(v), lane), high = shuffle_from((u32)(bits(v) >> 32), lane);
    return number((u64)high << 32 | low);
}

CHUNKGRPO_DEVICE float shuffle_xor(float v, int mask) { return number(shuffle_xor(bits(v), mask)); }
