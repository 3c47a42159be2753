// What the kernels' source takes from a compiler, on the CPU: see cta.h. Compile with -ffp-contract=off.
#pragma once
#include "cta.h"
#include <cmath>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads, blocks)
#define threadIdx cta::thread_index
#define blockIdx cta::block_index
#define gridDim cta::grid
#define CHUNKGRPO_SHARED(type, name, count) \
    static const char name##_tag = 0;       \
    type *const name = cta::shared<type>(&name##_tag, count)

inline float add(float a, float b) { return a + b; }
inline float sub(float a, float b) { return a - b; }
inline float mul(float a, float b) { return a * b; }
inline double add(double a, double b) { return a + b; }
inline double sub(double a, double b) { return a - b; }
inline double mul(double a, double b) { return a * b; }
inline double quotient(double a, double b) { return a / b; }
inline float root(float v) { return std::sqrt(v); }

inline void barrier() { cta::yield(cta::block); }
inline u32 shuffle_xor(u32 v, int mask) { return (u32)cta::shuffle(v, (threadIdx.x & 31) ^ mask); }
inline u32 shuffle_from(u32 v, int lane) { return (u32)cta::shuffle(v, lane); }
inline u64 device_number(const u64 *from) { return *from; }
inline void write_word(u64 *to, u64 v) { cta::publish((uint64_t *)to, v); }
inline u64 read_word(const u64 *from) { return cta::published((const uint64_t *)from); }
inline u32 count(u32 *counter, u32 all) { return cta::count(counter, all - 1); }
inline void claim(u64 *word, u64 v) { cta::claim((uint64_t *)word, 0, v); }
