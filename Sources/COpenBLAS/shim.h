#include <cblas.h>

/* OpenBLAS's own, which its header does not have, nor every build: a buffer of a product, and its return. */
extern void *blas_memory_alloc(int position) __attribute__((weak));
extern void blas_memory_free(void *buffer) __attribute__((weak));

/* Has OpenBLAS map buffers until there are `count`, at most 64: so many are held at once. Without the functions above
   it maps them when products first meet. */
static inline void chunkgrpo_blas_map(int count) {
    void *held[64];
    int i, j;
    if (!blas_memory_alloc || !blas_memory_free) return;
    for (i = 0; i < count && i < 64; i++)
        if (!(held[i] = blas_memory_alloc(0))) break;
    for (j = 0; j < i; j++) blas_memory_free(held[j]);
}
