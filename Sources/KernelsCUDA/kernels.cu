// The kernels of one pair of types, CHUNKGRPO_LATENTS and CHUNKGRPO_VELOCITY (F32, F64, BF16 or F16), whose bits are
// the CPU's; see README.md. CHUNKGRPO_KERNEL(name) is a kernel's whole name; CHUNKGRPO_SAME says that both types are
// the same.
#include "include/arguments.h"
#include "difference.h"
#include "distance.h"
#include "forward.h"

typedef CHUNKGRPO_LATENTS T;
typedef CHUNKGRPO_VELOCITY V;

// Arguments up to the first of their numbers: a launch copies no more of them.
template <class A> struct alignas(8) Head {
    char bytes[sizeof(A) - (CHUNKGRPO_CUDA_SAMPLES - 1) * sizeof(Numbers)];
    CHUNKGRPO_DEVICE operator const A &() const { return *(const A *)bytes; }
};

// How many blocks of threads a multiprocessor is to hold of the kernels that are called most.
#ifndef CHUNKGRPO_RESIDENT
#define CHUNKGRPO_RESIDENT 6
#endif

#define CHUNKGRPO_ENTRY(name, arguments, blocks) \
    extern "C" __global__ void __launch_bounds__(CHUNKGRPO_CUDA_THREADS, blocks) CHUNKGRPO_KERNEL(name)(arguments k)

CHUNKGRPO_ENTRY(step, Head<StepArguments>, CHUNKGRPO_RESIDENT) { noisy_step<T, V, false>(k); }
CHUNKGRPO_ENTRY(step_change, Head<StepArguments>, CHUNKGRPO_RESIDENT) { noisy_step<T, V, true>(k); }
CHUNKGRPO_ENTRY(step_any, StepArguments, 4) { any_step<T, V>(k); }
CHUNKGRPO_ENTRY(difference, Head<DifferenceArguments>, CHUNKGRPO_RESIDENT) { difference<T, V, false, false>(k); }
CHUNKGRPO_ENTRY(difference_gradient, Head<DifferenceArguments>, CHUNKGRPO_RESIDENT) {
    difference<T, V, true, false>(k);
}
CHUNKGRPO_ENTRY(trajectory, DifferenceArguments, CHUNKGRPO_RESIDENT) { difference<T, V, false, true>(k); }
CHUNKGRPO_ENTRY(trajectory_gradient, DifferenceArguments, CHUNKGRPO_RESIDENT) { difference<T, V, true, true>(k); }
CHUNKGRPO_ENTRY(difference_any, DifferenceArguments, 4) { any_difference<T, V>(k); }
CHUNKGRPO_ENTRY(mean_distance, DistanceArguments, 4) { mean_distance<T, V>(k); }
CHUNKGRPO_ENTRY(forward, ForwardArguments, 4) { forward_distance<T, V>(k); }
#ifdef CHUNKGRPO_SAME
CHUNKGRPO_ENTRY(distance, DistanceArguments, 4) { velocity_distance<T>(k); }
CHUNKGRPO_ENTRY(change, ChangeArguments, 4) { trajectory_change<T>(k); }
CHUNKGRPO_ENTRY(normal, NormalArguments, 4) { normal<T>(k); }
#endif
