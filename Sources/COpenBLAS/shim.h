#ifndef CHUNKGRPO_COPENBLAS_SHIM_H
#define CHUNKGRPO_COPENBLAS_SHIM_H

#include <cblas.h>

/* Exported by OpenBLAS builds that choose their kernels at run time (DYNAMIC_ARCH), absent from the others. */
extern void gotoblas_dynamic_init(void) __attribute__((weak));
extern void gotoblas_dynamic_quit(void) __attribute__((weak));

/* The OPENBLAS_CORETYPE that this processor deserves, or null where OpenBLAS is better left alone. */
static inline const char *chunkgrpo_blas_core_type(void) {
#if defined(__x86_64__)
    if (!gotoblas_dynamic_init || !gotoblas_dynamic_quit) return 0;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return "SkylakeX";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "Haswell";
#endif
    return 0;
}

/* Makes OpenBLAS choose again, by the environment. No other thread may be inside OpenBLAS. */
static inline void chunkgrpo_blas_choose_again(void) {
    if (!gotoblas_dynamic_init || !gotoblas_dynamic_quit) return;
    gotoblas_dynamic_quit();
    gotoblas_dynamic_init();
}

#endif
