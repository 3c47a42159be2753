// For clang without ROCm: clang++ -x hip -nogpuinc -nogpulib. Compiled as a check alone: there is no loader for it yet.
#pragma once
#pragma clang fp contract(off)

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(threads, blocks) __attribute__((amdgpu_flat_work_group_size(1, threads)))
#define CHUNKGRPO_SHARED(type, name, count) __shared__ __attribute__((aligned(16))) type name[count]

struct Dimensions {
    u32 x, y, z;
};
#define threadIdx (Dimensions{__builtin_amdgcn_workitem_id_x(), 0, 0})
#define blockIdx                                                                      \
    (Dimensions{__builtin_amdgcn_workgroup_id_x(), __builtin_amdgcn_workgroup_id_y(), \
                __builtin_amdgcn_workgroup_id_z()})
#define gridDim                                                                                                       \
    (Dimensions{__builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x(), __builtin_amdgcn_grid_size_y(), \
                __builtin_amdgcn_grid_size_z()})

__device__ __forceinline__ float add(float a, float b) { return a + b; }
__device__ __forceinline__ float sub(float a, float b) { return a - b; }
__device__ __forceinline__ float mul(float a, float b) { return a * b; }
__device__ __forceinline__ double add(double a, double b) { return a + b; }
__device__ __forceinline__ double sub(double a, double b) { return a - b; }
__device__ __forceinline__ double mul(double a, double b) { return a * b; }
__device__ __forceinline__ double quotient(double a, double b) { return a / b; }
__device__ __forceinline__ float root(float v) { return __builtin_sqrtf(v); }

__device__ __forceinline__ void barrier() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

// A warp of 32 is half of a wavefront of 64, or a whole one.
__device__ __forceinline__ u32 wavefront_lane() {
    return __builtin_amdgcn_mbcnt_hi(-1, __builtin_amdgcn_mbcnt_lo(-1, 0));
}
__device__ __forceinline__ u32 shuffle_xor(u32 v, int mask) {
    return (u32)__builtin_amdgcn_ds_bpermute((int)(wavefront_lane() ^ mask) << 2, (int)v);
}
__device__ __forceinline__ u32 shuffle_from(u32 v, int lane) {
    return (u32)__builtin_amdgcn_ds_bpermute((int)((wavefront_lane() & ~31u) | lane) << 2, (int)v);
}

__device__ __forceinline__ u64 device_number(const u64 *from) { return *from; }
__device__ __forceinline__ void write_word(u64 *to, u64 v) {
    __hip_atomic_store(to, v, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
__device__ __forceinline__ u64 read_word(const u64 *from) {
    return __hip_atomic_load(from, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
__device__ __forceinline__ u32 count(u32 *counter, u32 all) {
    return __builtin_amdgcn_atomic_inc32(counter, all - 1, __ATOMIC_RELAXED, "agent");
}
__device__ __forceinline__ void claim(u64 *word, u64 v) {
    u64 zero = 0;
    __hip_atomic_compare_exchange_strong(word, &zero, v, __ATOMIC_RELAXED, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
