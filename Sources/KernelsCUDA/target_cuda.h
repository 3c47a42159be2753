// For clang alone, without any file of CUDA's: clang++ -x cuda -nocudainc -nocudalib.
#pragma once
#pragma clang fp contract(off)

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(threads, blocks) __attribute__((launch_bounds(threads, blocks)))
#define CHUNKGRPO_SHARED(type, name, count) __shared__ __attribute__((aligned(16))) type name[count]

struct Dimensions {
    u32 x, y, z;
};
#define threadIdx (Dimensions{(u32)__nvvm_read_ptx_sreg_tid_x(), 0, 0})
#define blockIdx                                                                          \
    (Dimensions{(u32)__nvvm_read_ptx_sreg_ctaid_x(), (u32)__nvvm_read_ptx_sreg_ctaid_y(), \
                (u32)__nvvm_read_ptx_sreg_ctaid_z()})
#define gridDim                                                                             \
    (Dimensions{(u32)__nvvm_read_ptx_sreg_nctaid_x(), (u32)__nvvm_read_ptx_sreg_nctaid_y(), \
                (u32)__nvvm_read_ptx_sreg_nctaid_z()})

// add.rn and mul.rn: ptxas contracts neither.
__device__ __forceinline__ float add(float a, float b) { return __nvvm_add_rn_f(a, b); }
__device__ __forceinline__ float sub(float a, float b) { return __nvvm_add_rn_f(a, -b); }
__device__ __forceinline__ float mul(float a, float b) { return __nvvm_mul_rn_f(a, b); }
__device__ __forceinline__ double add(double a, double b) { return __nvvm_add_rn_d(a, b); }
__device__ __forceinline__ double sub(double a, double b) { return __nvvm_add_rn_d(a, -b); }
__device__ __forceinline__ double mul(double a, double b) { return __nvvm_mul_rn_d(a, b); }
__device__ __forceinline__ double quotient(double a, double b) { return __nvvm_div_rn_d(a, b); }
__device__ __forceinline__ float root(float v) { return __nvvm_sqrt_rn_f(v); }

__device__ __forceinline__ void barrier() { __nvvm_bar_sync(0); }
__device__ __forceinline__ u32 shuffle_xor(u32 v, int mask) {
    return (u32)__nvvm_shfl_sync_bfly_i32(-1, (int)v, mask, 31);
}
__device__ __forceinline__ u32 shuffle_from(u32 v, int lane) {
    return (u32)__nvvm_shfl_sync_idx_i32(-1, (int)v, lane, 31);
}

// A number in device memory, for a choice between it and one of the arguments: of two plain loads the compiler makes
// one, of an address that it chooses, and copies all arguments into memory for it.
__device__ __forceinline__ u64 device_number(const u64 *from) {
    u64 v;
    asm("ld.global.u64 %0, [%1];" : "=l"(v) : "l"(from));
    return v;
}

// Words that blocks of the grid hand to each other: each as a whole, in no order with others.
__device__ __forceinline__ void write_word(u64 *to, u64 v) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" : : "l"(to), "l"(v) : "memory");
}
__device__ __forceinline__ u64 read_word(const u64 *from) {
    u64 v;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(from));
    return v;
}

// One more, and zero again after the last one; what it was before. An addition ptxas would make one of a warp's.
__device__ __forceinline__ u32 count(u32 *counter, u32 all) {
    u32 before;
    asm volatile("atom.relaxed.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(all - 1));
    return before;
}

// Writes where there is a zero.
__device__ __forceinline__ void claim(u64 *word, u64 v) {
    u64 before;
    asm volatile("atom.cas.relaxed.gpu.b64 %0, [%1], %2, %3;"
                 : "=l"(before)
                 : "l"(word), "l"((u64)0), "l"(v)
                 : "memory");
}
