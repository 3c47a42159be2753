#ifndef CHUNKGRPO_KERNELS_WIDE_H
#define CHUNKGRPO_KERNELS_WIDE_H

/* Writes Swift's `any KernelSet.Type` of KernelsAVX512 or KernelsAVX2 to `place`, and returns 1. Returns 0 where this
 * build does not have them: a toolchain that does not compile what a plugin makes leaves them out. */
int chunkgrpo_kernels_wide(int avx512, void *_Nonnull place);

#endif
