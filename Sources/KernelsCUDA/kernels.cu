// The kernels of one pair of types, CHUNKGRPO_LATENTS and CHUNKGRPO_VELOCITY (F32, F64, BF16 or F16), whose bits are
// the CPU's; see README.md. CHUNKGRPO_KERNEL(name) is a kernel's whole name; CHUNKGRPO_SAME says that both types are
// the same.
#include "include/arguments.h"
#include "difference.h"
#include "distance.h"
#include "forward.h"

typedef CHUNKGRPO_LATENTS T;
typedef CHUNKGRPO_VELOCITY V;

// How many blocks of threads a multiprocessor is to hold of the kernels that are called most.
#ifndef CHUNKGRPO_RESIDENT
#define CHUNKGRPO_RESIDENT (sizeof(T::Compute) == 8 ? 5 : 6)
#endif

// The step of f16 takes a register too many for six on compute capability 8.0.
#define CHUNKGRPO_RESIDENT_STEP (CHUNKGRPO_RESIDENT - (sizeof(T::Store) == 2 && !T::splits))
#ifndef CHUNKGRPO_RESIDENT_GRADIENT
#define CHUNKGRPO_RESIDENT_GRADIENT (sizeof(T::Compute) == 8 ? 5 : 8)
#endif

#define CHUNKGRPO_ENTRY(name, arguments, blocks) \
    extern "C" __global__ void __launch_bounds__(CHUNKGRPO_CUDA_THREADS, blocks) CHUNKGRPO_KERNEL(name)(arguments k)

#ifndef CHUNKGRPO_DIFFERENCES_ALONE // which scripts/build-ptx defines for trials
CHUNKGRPO_ENTRY(step, StepArguments, CHUNKGRPO_RESIDENT_STEP) { noisy_step<T, V, false>(k); }
CHUNKGRPO_ENTRY(step_change, StepArguments, CHUNKGRPO_RESIDENT - 1) { noisy_step<T, V, true>(k); }
CHUNKGRPO_ENTRY(step_any, StepArguments, 3) { any_step<T, V>(k); }
#endif
CHUNKGRPO_ENTRY(difference, DifferenceArguments, CHUNKGRPO_RESIDENT) { difference<T, V, false>(k); }
CHUNKGRPO_ENTRY(difference_gradient, DifferenceArguments, CHUNKGRPO_RESIDENT) { difference<T, V, true>(k); }
CHUNKGRPO_ENTRY(gradient, DifferenceArguments, CHUNKGRPO_RESIDENT_GRADIENT) { gradient<T, V>(k); }
#ifndef CHUNKGRPO_DIFFERENCES_ALONE
CHUNKGRPO_ENTRY(difference_any, DifferenceArguments, 3) { any_difference<T, V>(k); }
CHUNKGRPO_ENTRY(mean_distance, DistanceArguments, 3) { mean_distance<T, V>(k); }
CHUNKGRPO_ENTRY(forward, ForwardArguments, 3) { forward_distance<T, V>(k); }
CHUNKGRPO_ENTRY(forward_extras, ForwardArguments, 2) { forward_extras<T, V>(k); }
#ifdef CHUNKGRPO_SAME
CHUNKGRPO_ENTRY(distance, DistanceArguments, 3) { velocity_distance<T>(k); }
CHUNKGRPO_ENTRY(change, ChangeArguments, 3) { trajectory_change<T>(k); }
CHUNKGRPO_ENTRY(normal, NormalArguments, 3) { normal<T>(k); }
#endif
#endif
