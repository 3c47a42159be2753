// The kernels' source for one pair of types on the CPU: see cta.h.
#define CHUNKGRPO_EMULATED
#include "kernels.cu"

#define STRING(text) #text
#define NAME(text) STRING(text)
#define REGISTER(name, arguments)                                                            \
    static void run_##name(const void *k) { CHUNKGRPO_KERNEL(name)(*(const arguments *)k); } \
    static const cta::Register of_##name(NAME(CHUNKGRPO_KERNEL(name)), {run_##name, sizeof(arguments)});

REGISTER(step, StepArguments)
REGISTER(step_change, StepArguments)
REGISTER(step_any, StepArguments)
REGISTER(difference, DifferenceArguments)
REGISTER(difference_gradient, DifferenceArguments)
REGISTER(gradient, DifferenceArguments)
REGISTER(difference_any, DifferenceArguments)
REGISTER(mean_distance, DistanceArguments)
REGISTER(forward, ForwardArguments)
REGISTER(forward_extras, ForwardArguments)
#ifdef CHUNKGRPO_SAME
REGISTER(distance, DistanceArguments)
REGISTER(change, ChangeArguments)
REGISTER(normal, NormalArguments)
#endif
