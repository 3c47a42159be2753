// The types of latents: how an element is stored, and the type that is computed in. Their bits are those of the CPU's
// Elements.swift.
#pragma once
#include "include/arguments.h"
#include "target.h"

CHUNKGRPO_DEVICE float to_float(double v) { return (float)v; }
CHUNKGRPO_DEVICE double to_double(float v) { return (double)v; }

struct F32 {
    typedef float Store;
    typedef float Compute;
    static constexpr bool splits = false;
    static CHUNKGRPO_DEVICE float load(float v) { return v; }
    static CHUNKGRPO_DEVICE float store(float v) { return v; }
};

struct F64 {
    typedef double Store;
    typedef double Compute;
    static constexpr bool splits = false;
    static CHUNKGRPO_DEVICE double load(double v) { return v; }
    static CHUNKGRPO_DEVICE double store(double v) { return v; }
};

// Rounded to nearest, ties to even, by integers: cvt.rn.bf16 needs compute capability 8.0.
struct BF16 {
    typedef u16 Store;
    typedef float Compute;
    static constexpr bool splits = true; // the CPU's vectors hold the even and the odd elements apart
    static CHUNKGRPO_DEVICE float load(u16 v) { return number((u32)v << 16); }
    static CHUNKGRPO_DEVICE u16 store(float v) { return (u16)((bits(v) + 0x7fffu + ((bits(v) >> 16) & 1)) >> 16); }
};

struct F16 {
    typedef _Float16 Store;
    typedef float Compute;
    static constexpr bool splits = false;
    static CHUNKGRPO_DEVICE float load(_Float16 v) { return (float)v; }
    static CHUNKGRPO_DEVICE _Float16 store(float v) { return (_Float16)v; }
};

// A double or a coefficient in the type C.
template <class C> CHUNKGRPO_DEVICE C rounded(double v);
template <> CHUNKGRPO_DEVICE float rounded<float>(double v) { return to_float(v); }
template <> CHUNKGRPO_DEVICE double rounded<double>(double v) { return v; }

template <class C> CHUNKGRPO_DEVICE C widened(float v);
template <> CHUNKGRPO_DEVICE float widened<float>(float v) { return v; }
template <> CHUNKGRPO_DEVICE double widened<double>(float v) { return to_double(v); }

template <class C> CHUNKGRPO_DEVICE C real(const chunkgrpo_cuda_real &v);
template <> CHUNKGRPO_DEVICE float real<float>(const chunkgrpo_cuda_real &v) { return v.f32; }
template <> CHUNKGRPO_DEVICE double real<double>(const chunkgrpo_cuda_real &v) { return v.f64; }

CHUNKGRPO_DEVICE double as_double(float v) { return to_double(v); }
CHUNKGRPO_DEVICE double as_double(double v) { return v; }
